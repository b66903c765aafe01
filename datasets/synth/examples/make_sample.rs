//! Writes the embedded sample, `datasets/samples/hvac/`, from its settings. Run after the drawing of sheets was changed;
//! a test compares the two.

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/hvac");
    for (path, bytes) in synth::sample::make()? {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().ok_or("every file lies in a folder")?)?;
        fs::write(path, bytes)?;
    }
    Ok(())
}
