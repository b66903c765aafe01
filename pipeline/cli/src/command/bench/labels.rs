//! `pipeline bench labels`: the ontology and label stages, as they are, on drawings with exact truth.

use std::{path::Path, time::Instant};

use artifacts::Annotations;
use clap::{Args, ValueEnum};
use datasets::eval::{EvalInput, operating_point};
use engine::{
    InputSpec, Machine, Store,
    artifact::{ArtifactReader, Kind},
    graph::{Graph, NodeSpec, PipelineSpec},
    record::Status,
};
use miette::{IntoDiagnostic, Report, Result, miette};
use serde_json::{Value, json};
use synth::SynthSettings;

use super::run_silently;
use crate::{args::Global, exit::Exit, stages};

/// Overlap from which a box is right.
const IOU: f64 = 0.5;

/// `pipeline bench labels`.
#[derive(Args, Debug)]
pub struct LabelsBench {
    /// Drawings of each sort.
    #[arg(long, default_value_t = 2)]
    sheets: u64,
    /// Seed of the drawings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this sort of drawing; may be repeated.
    #[arg(long, value_enum)]
    sort: Vec<Sort>,
}

/// Sorts of drawings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The nine classes and the size of the built-in sample.
    Sample,
    /// All classes, as a drawing program prints them.
    Clean,
    /// All classes, printed, used and scanned.
    Scanned,
    /// All classes at any angle, half of them mirrored; the labeller is told so.
    AnyAngle,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Sample, Self::Clean, Self::Scanned, Self::AnyAngle];

    fn settings(self) -> SynthSettings {
        match self {
            Self::Sample => synth::sample::settings(),
            Self::Clean => SynthSettings::clean(),
            Self::Scanned => SynthSettings::scanned(),
            Self::AnyAngle => SynthSettings::any_angle(),
        }
    }

    fn label_config(self) -> Value {
        if self == Self::AnyAngle {
            json!({ "labeller": "template", "rotations": "any" })
        } else {
            json!({ "labeller": "template" })
        }
    }
}

/// Draws, labels, compares.
pub fn run(global: &Global, args: &LabelsBench) -> Result<Exit> {
    let sorts = if args.sort.is_empty() { Sort::ALL.to_vec() } else { args.sort.clone() };
    let head = ["drawings", "sheets", "boxes", "precision", "recall", "F1", "s a sheet", "s in all"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut docs = Vec::new();
    for sort in sorts {
        let dir = tempfile::tempdir().into_diagnostic()?;
        let truth = synth::write_dataset(&dir.path().join("data"), &sort.settings(), args.sheets, args.seed, &|_| {})
            .map_err(Report::from_err)?;
        let started = Instant::now();
        let (found, label_s) = label(dir.path(), sort.label_config())?;
        let all_s = started.elapsed().as_secs_f64();
        let counts = operating_point(&EvalInput::from_sets(&truth, &found), 0.0, IOU).0.all;
        let name = sort.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        let per_sheet = label_s / args.sheets as f64;
        let share = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
        rows.push(vec![
            name.clone(),
            args.sheets.to_string(),
            truth.box_count().to_string(),
            share(counts.precision),
            share(counts.recall),
            share(counts.f1),
            format!("{per_sheet:.2}"),
            format!("{all_s:.2}"),
        ]);
        docs.push(json!({
            "drawings": name, "sheets": args.sheets, "seed": args.seed, "iou": IOU, "boxes": truth.box_count(),
            "precision": counts.precision, "recall": counts.recall, "f1": counts.f1,
            "seconds_per_sheet": per_sheet, "seconds": all_s,
        }));
    }
    super::show(global, &Value::Array(docs), &rows)
}

/// Runs the two stages over `dir/data`; the labels, and the seconds that the label stage took.
fn label(dir: &Path, config: Value) -> Result<(datasets::AnnotationSet, f64)> {
    let input = |name: &str, kind: &str, folder: &str| InputSpec {
        name: name.into(),
        kind: kind.into(),
        path: dir.join("data").join(folder),
        extensions: None,
        recursive: true,
    };
    let node =
        |name: &str, config: Value| NodeSpec { name: name.into(), uses: name.into(), config, ..NodeSpec::default() };
    let spec = PipelineSpec {
        inputs: vec![input("images", artifacts::IMAGES, "drawings"), input("templates", artifacts::FILES, "templates")],
        nodes: vec![node("ontology", json!({})), node("label", config)],
    };
    let machine = Machine::probe();
    let graph = Graph::build(&spec, &stages::registry(), &machine).map_err(Report::from_err)?;
    let store = Store::open(dir.join("runs/.store")).map_err(Report::from_err)?;
    let record = run_silently(&dir.join("runs"), &store, &graph, machine)?;
    let stage = &record.stages["label"];
    if record.status != Status::Done {
        return Err(miette!("labelling is {}: {}", record.status.word(), stage.detail));
    }
    let artifact = stage.outputs["annotations"];
    let reader = ArtifactReader::open(&store, artifact).map_err(Report::from_err)?;
    Ok((Annotations::read(&reader).map_err(Report::from_err)?, stage.seconds))
}
