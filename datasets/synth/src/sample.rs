//! The embedded sample: a small data set that the first command runs on.
//!
//! Owns its settings and its files, `datasets/samples/hvac/`, which `cargo run -p synth --example make_sample` writes.
//!
//! | path | what |
//! |---|---|
//! | `drawings/` | the sheets to label and train on |
//! | `templates/` | one template a class |
//! | `pipeline.yaml` | settings that suit its size; written by hand |
//! | `truth/annotations.json` | the truth of `drawings`, for evaluation only |
//! | `heldout/drawings/` | sheets that no stage sees before evaluation |
//! | `heldout/labels/annotations.json` | their truth |

use datasets::formats::{Format, FormatError, WriteOptions};
use datasets::{AnnotationSet, ImageAnnotations};

use crate::settings::SynthSettings;
use crate::sheet::Drawer;
use crate::symbol::{self, Symbol};

/// Seed of all sheets of the sample.
pub const SEED: u64 = 20;
/// Sheets to label and train on: the first indices.
pub const SHEETS: u64 = 24;
/// Sheets held out, from index [`HELD_OUT_FROM`].
pub const HELD_OUT: u64 = 8;
/// First index of the held-out sheets.
pub const HELD_OUT_FROM: u64 = 100;
/// Classes of the sample: valves and instruments, some of which are part of others.
pub const CLASSES: [&str; 9] = [
    "ball valve",
    "butterfly valve",
    "diaphragm valve",
    "field computer instrument",
    "field discrete instrument",
    "field plc instrument",
    "globe valve",
    "primary discrete instrument",
    "primary shared instrument",
];

/// Settings of the sample's sheets: clean, with symbols of 36 to 66 pixels.
pub fn settings() -> SynthSettings {
    SynthSettings {
        width: 960,
        height: 720,
        symbols: [18, 24],
        classes: CLASSES.map(str::to_owned).to_vec(),
        symbol_px: 54.0,
        scale: [0.8, 1.25],
        stroke: [1.8, 2.3],
        crossing: 0.06,
        distractors: 0.2,
        lookalikes: 0.0,
        ..SynthSettings::clean()
    }
}

/// Draws the sample anew: every file with its path below `datasets/samples/hvac/`, sorted.
pub fn make() -> Result<Vec<(String, Vec<u8>)>, FormatError> {
    let settings = settings();
    let symbols = symbol::symbols(&settings, SEED).expect("the sample's classes are in the library");
    let mut out: Vec<(String, Vec<u8>)> = symbol::templates(&symbols, &settings)
        .into_iter()
        .map(|(file, bytes)| (format!("templates/{file}"), bytes))
        .collect();
    for (drawings, labels, first, count) in
        [("drawings", "truth", 0, SHEETS), ("heldout/drawings", "heldout/labels", HELD_OUT_FROM, HELD_OUT)]
    {
        let mut images = Vec::new();
        for index in first..first + count {
            let (annotations, file) = make_sheet(&symbols, index);
            out.push((format!("{drawings}/{}", annotations.image), file));
            images.push(annotations);
        }
        out.push((format!("{labels}/annotations.json"), coco(&symbols, images)?));
    }
    out.push(("pipeline.yaml".into(), include_bytes!("../../samples/hvac/pipeline.yaml").to_vec()));
    out.sort();
    Ok(out)
}

/// Draws one sheet of the sample.
pub fn make_sheet(symbols: &[Symbol], index: u64) -> (ImageAnnotations, Vec<u8>) {
    let sheet = Drawer::new(&settings(), symbols).sheet(SEED, index);
    (sheet.annotations, sheet.file)
}

fn coco(symbols: &[Symbol], images: Vec<ImageAnnotations>) -> Result<Vec<u8>, FormatError> {
    let set = AnnotationSet { classes: symbol::classes(symbols, &settings()), images, skipped: Vec::new() };
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| FormatError::Io { path, source }
    };
    let scratch = std::env::temp_dir();
    let dir = tempfile::tempdir_in(&scratch).map_err(io(&scratch))?;
    let file = dir.path().join("annotations.json");
    Format::Coco.write(&set, &file, &WriteOptions::default())?;
    std::fs::read(&file).map_err(io(&file))
}

macro_rules! sample {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../samples/hvac/", $path)))),*]
    };
}

/// Every file of the sample: path and bytes, sorted by path.
pub fn files() -> &'static [(&'static str, &'static [u8])] {
    FILES
}

static FILES: &[(&str, &[u8])] = sample![
    "drawings/sheet_0000.png",
    "drawings/sheet_0001.png",
    "drawings/sheet_0002.png",
    "drawings/sheet_0003.png",
    "drawings/sheet_0004.png",
    "drawings/sheet_0005.png",
    "drawings/sheet_0006.png",
    "drawings/sheet_0007.png",
    "drawings/sheet_0008.png",
    "drawings/sheet_0009.png",
    "drawings/sheet_0010.png",
    "drawings/sheet_0011.png",
    "drawings/sheet_0012.png",
    "drawings/sheet_0013.png",
    "drawings/sheet_0014.png",
    "drawings/sheet_0015.png",
    "drawings/sheet_0016.png",
    "drawings/sheet_0017.png",
    "drawings/sheet_0018.png",
    "drawings/sheet_0019.png",
    "drawings/sheet_0020.png",
    "drawings/sheet_0021.png",
    "drawings/sheet_0022.png",
    "drawings/sheet_0023.png",
    "heldout/drawings/sheet_0100.png",
    "heldout/drawings/sheet_0101.png",
    "heldout/drawings/sheet_0102.png",
    "heldout/drawings/sheet_0103.png",
    "heldout/drawings/sheet_0104.png",
    "heldout/drawings/sheet_0105.png",
    "heldout/drawings/sheet_0106.png",
    "heldout/drawings/sheet_0107.png",
    "heldout/labels/annotations.json",
    "pipeline.yaml",
    "templates/ball_valve.png",
    "templates/butterfly_valve.png",
    "templates/diaphragm_valve.png",
    "templates/field_computer_instrument.png",
    "templates/field_discrete_instrument.png",
    "templates/field_plc_instrument.png",
    "templates/globe_valve.png",
    "templates/primary_discrete_instrument.png",
    "templates/primary_shared_instrument.png",
    "truth/annotations.json",
];
