//! Time of the exact correlation.
//!
//! `cargo run --release -p vision --example bench_ncc -- DRAWING FOLDER-OF-TEMPLATES [threads [threshold]]`
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::time::Instant;

use vision::matcher::{Role, Template};
use vision::ncc::{Ncc, NccConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [drawing, folder, rest @ ..] = arguments.as_slice() else {
        return Err("give a drawing and a folder of templates".into());
    };
    let drawing = image::open(drawing)?.into_rgb8();
    let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|f| f.map(|f| f.path())).collect::<Result<_, _>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "png"));
    files.sort();
    let template = |path: &std::path::PathBuf| -> Result<Template, image::ImageError> {
        let name = path.display().to_string();
        Ok(Template {
            class: name.clone(),
            name,
            image: image::open(path)?.into_rgba8(),
            role: Role::Given,
            frame: None,
        })
    };
    let templates = files.iter().map(template).collect::<Result<Vec<_>, _>>()?;
    let threads = rest.first().map_or(Ok(1), |t| t.parse())?;
    let threshold = rest.get(1).map_or(Ok(NccConfig::default().threshold), |t| t.parse())?;
    let ncc = Ncc::new(&templates, &NccConfig { threshold, ..NccConfig::default() })?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let start = Instant::now();
    let found = pool.install(|| ncc.find(&drawing));
    let (seconds, (width, height)) = (start.elapsed().as_secs_f64(), drawing.dimensions());
    println!(
        "{} templates x 4 rotations x 5 scales, {width} x {height} pixels, {} threads: {seconds:.2} s, {} matches",
        templates.len(),
        pool.current_num_threads(),
        found.matches.len()
    );
    Ok(())
}
