//! `pipeline synth`.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use indicatif::ProgressBar;
use miette::{IntoDiagnostic, Report, Result};
use serde_json::json;
use synth::{CropSettings, DatasetError, Set, SynthSettings, Templates, write_dataset_with};

use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::data,
};

/// `pipeline synth`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline synth --out sheets --sheets 50 --seed 1\n  pipeline synth --out scans --sheets 20 --seed 2 --look scanned --classes \"ball valve,globe valve\" --size 3000x2000\n  pipeline synth --out crops --sheets 16 --look E --cut 3\n\nBenchmark sets for --look: A clean; B any angle, mirrored; C scanned; D sizes and line widths; L 7000x5000; E templates cut from a drawing.\n\nThe folder gets drawings/, templates/, truth.json (COCO) and labels/yolo/ (a YOLO data set with its images). The same arguments give the same files."
)]
pub struct Synth {
    /// A new or empty folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of sheets; those of the `--settings` when not given.
    #[arg(long, value_name = "N", required_unless_present = "settings")]
    sheets: Option<u64>,
    /// Seed: other numbers give other sheets; that of the `--settings`, else 0, when not given.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How the sheets look: clean, scanned, any-angle, or a benchmark set.
    #[arg(long, value_name = "LOOK", default_value = "clean")]
    look: Look,
    /// Cut N templates of each class from further sheets instead of drawing clean ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    cut: Option<u16>,
    /// Width and height in pixels.
    #[arg(long, value_name = "WxH")]
    size: Option<String>,
    /// Fewest and most symbols a sheet.
    #[arg(long, value_name = "MIN-MAX")]
    symbols: Option<String>,
    /// Classes of the symbol library, with commas between; all when not given.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    classes: Vec<String>,
    /// Invented classes beside those.
    #[arg(long, value_name = "N")]
    invented: Option<u32>,
    /// Settings as a JSON file (as in the `synth.json` of an earlier data set), under the options above.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
enum Look {
    /// As a drawing program prints them.
    Clean,
    /// Printed, used and scanned.
    Scanned,
    /// Clean, with symbols at any angle and mirrored.
    AnyAngle,
    /// A benchmark set.
    Set(Set),
}

impl FromStr for Look {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "clean" => Self::Clean,
            "scanned" => Self::Scanned,
            "any-angle" => Self::AnyAngle,
            other => Self::Set(other.parse().map_err(|e| format!("{e}; beside them clean, scanned, any-angle"))?),
        })
    }
}

impl Look {
    fn settings(self) -> SynthSettings {
        match self {
            Self::Clean => SynthSettings::clean(),
            Self::Scanned => SynthSettings::scanned(),
            Self::AnyAngle => SynthSettings::any_angle(),
            Self::Set(set) => set.settings(),
        }
    }
}

/// Clean templates, or cut ones when they are asked for or the set has them.
fn templates(args: &Synth) -> Templates {
    match (args.cut, args.look) {
        (Some(n), _) => Templates::Cut(CropSettings { exemplars: n.into(), ..CropSettings::default() }),
        (None, Look::Set(set)) => set.templates(1),
        (None, _) => Templates::Legend,
    }
}

fn pair(text: &str, what: &str, between: char) -> Result<[u32; 2]> {
    text.split_once(between).and_then(|(a, b)| Some([a.trim().parse().ok()?, b.trim().parse().ok()?])).ok_or_else(
        || {
            let help = format!("write two whole numbers, such as --{what} 60{between}90");
            Usage::new(format!("--{what} `{text}` is not understood"), help)
        },
    )
}

/// What to draw, how many, and the seed.
fn settings(args: &Synth) -> Result<(SynthSettings, u64, u64)> {
    let (mut sheets, mut seed) = (args.sheets, args.seed);
    let mut s = args.look.settings();
    if let Some(file) = &args.settings {
        let wrong = |e: &dyn std::fmt::Display| {
            Usage::new(format!("--settings `{}`: {e}", file.display()), "see `synth.json` of an earlier data set")
        };
        let bytes = std::fs::read(file).map_err(|e| wrong(&e))?;
        let mut doc: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        let number = |key: &str| doc.get(key).and_then(serde_json::Value::as_u64);
        (sheets, seed) = (sheets.or_else(|| number("sheets")), seed.or_else(|| number("seed")));
        let inner = doc.get_mut("settings").map(serde_json::Value::take);
        s = serde_json::from_value(inner.unwrap_or(doc)).map_err(|e| wrong(&e))?;
    }
    if let Some(size) = &args.size {
        [s.width, s.height] = pair(size, "size", 'x')?;
    }
    if let Some(symbols) = &args.symbols {
        s.symbols = pair(symbols, "symbols", '-')?;
    }
    if !args.classes.is_empty() {
        s.classes = args.classes.iter().map(|c| c.trim().to_owned()).collect();
    }
    s.invented = args.invented.unwrap_or(s.invented);
    let sheets = sheets.ok_or_else(|| Usage::new("the number of sheets is missing", "add --sheets N"))?;
    Ok((s, sheets, seed.unwrap_or(0)))
}

/// Draws the sheets.
pub fn synth(global: &Global, args: &Synth) -> Result<Exit> {
    let (settings, sheets, seed) = settings(args)?;
    let quiet = global.quiet || global.json;
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(sheets) };
    let truth = write_dataset_with(&args.out, &settings, &templates(args), sheets, seed, &|n| bar.set_position(n));
    bar.finish_and_clear();
    let truth = truth.map_err(|e| match e {
        DatasetError::Settings(_) | DatasetError::NoSheets | DatasetError::NotEmpty(_) => {
            Usage::new(e.to_string(), "`pipeline synth --help` lists the settings")
        }
        other => Report::from_err(other),
    })?;
    let (sheets, boxes) = (truth.images.len(), truth.box_count());
    if global.json {
        let doc = json!({ "out": args.out, "sheets": sheets, "symbols": boxes, "classes": truth.classes.len() });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
    } else {
        let out = args.out.display();
        data(format_args!("{sheets} sheets with {boxes} symbols of {} classes in {out}", truth.classes.len()));
    }
    Ok(Exit::Done)
}
