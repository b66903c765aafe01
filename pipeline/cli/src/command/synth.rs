//! `pipeline synth`.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use indicatif::ProgressBar;
use miette::{IntoDiagnostic, Report, Result};
use serde_json::json;
use synth::{CropSettings, DatasetError, DatasetSpec, Set, SynthSettings, Templates, dataset};

use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::data,
};

/// `pipeline synth`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline synth --out sheets --sheets 50 --seed 1\n  pipeline synth --out scans --sheets 20 --seed 2 --look scanned --classes \"ball valve,globe valve\" --size 3000x2000\n  pipeline synth --out crops --sheets 16 --look E --cut 3\n\nBenchmark sets for --look: A clean; B any angle, mirrored; C scanned; D sizes and line widths; L 7000x5000; E templates cut from a drawing; electrical: schematics.\n\nThe folder gets drawings/, templates/, truth.json (COCO) and labels/yolo/ (a YOLO data set with its images). The same arguments give the same files."
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
    /// Join sheets to one large PNG: columns and rows of sheets in each picture.
    #[arg(long, value_name = "COLUMNSxROWS")]
    tiles: Option<String>,
    /// Colours: grey, inverted, blueprint or coloured.
    #[arg(long, value_name = "NAME")]
    palette: Option<String>,
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
    /// N classes of random strokes instead of those of the library.
    #[arg(long, value_name = "N", conflicts_with_all = ["classes", "invented"])]
    wild: Option<u32>,
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

fn pair(text: &str, what: &str, between: char) -> Result<[u32; 2]> {
    text.split_once(between).and_then(|(a, b)| Some([a.trim().parse().ok()?, b.trim().parse().ok()?])).ok_or_else(
        || {
            let help = format!("write two whole numbers, such as --{what} 60{between}90");
            Usage::new(format!("--{what} `{text}` is not understood"), help)
        },
    )
}

/// What to draw, how many, and the seed.
fn spec(args: &Synth) -> Result<DatasetSpec> {
    let look = args.look.settings();
    let templates = if let Look::Set(set) = args.look { set.templates(1) } else { Templates::Legend };
    let mut spec = DatasetSpec { templates, ..DatasetSpec::new(look, 0, 0) };
    if let Some(file) = &args.settings {
        let wrong = |e: &dyn std::fmt::Display| {
            Usage::new(format!("--settings `{}`: {e}", file.display()), "see `synth.json` of an earlier data set")
        };
        let bytes = std::fs::read(file).map_err(|e| wrong(&e))?;
        let doc: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        if doc.get("settings").is_some() {
            spec = serde_json::from_value(doc).map_err(|e| wrong(&e))?;
        } else {
            spec.settings = serde_json::from_value(doc).map_err(|e| wrong(&e))?;
        }
    }
    let s = &mut spec.settings;
    if let Some(size) = &args.size {
        [s.width, s.height] = pair(size, "size", 'x')?;
    }
    if let Some(symbols) = &args.symbols {
        s.symbols = pair(symbols, "symbols", '-')?;
    }
    if !args.classes.is_empty() {
        s.classes = args.classes.iter().map(|c| c.trim().to_owned()).collect();
    }
    if let Some(name) = &args.palette {
        s.palette = serde_json::from_value(json!(name)).map_err(|_| {
            Usage::new(format!("--palette `{name}` is not known"), "grey, inverted, blueprint or coloured")
        })?;
    }
    s.invented = args.invented.unwrap_or(s.invented);
    if let Some(n) = args.wild {
        *s = s.clone().wild(n);
    }
    if let Some(tiles) = &args.tiles {
        spec.tiles = pair(tiles, "tiles", 'x')?;
    }
    if let Some(n) = args.cut {
        spec.templates = Templates::Cut(CropSettings { exemplars: n.into(), ..CropSettings::default() });
    }
    spec.seed = args.seed.unwrap_or(spec.seed);
    spec.sheets = args.sheets.unwrap_or(spec.sheets);
    if spec.sheets == 0 && args.sheets.is_none() {
        return Err(Usage::new("the number of sheets is missing", "add --sheets N"));
    }
    Ok(spec)
}

/// Draws the sheets.
pub fn synth(global: &Global, args: &Synth) -> Result<Exit> {
    let spec = spec(args)?;
    let quiet = global.quiet || global.json;
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(spec.sheets) };
    let truth = dataset::write(&args.out, &spec, &|done| bar.set_position(done));
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
