//! What labels are worth: a detector trained on the matcher's labels against one trained on the truth.
//!
//! Owns the two runs and their comparison. Refuses to be the measure of training: the drawings are small and few, so
//! that both trainings take minutes; only the ratio of the two figures is meant.

use std::path::Path;

use datasets::eval::Counts;
use engine::artifact::ArtifactReader;
use engine::graph::{NodeSpec, PipelineSpec};
use miette::{IntoDiagnostic, Report, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use synth::SynthSettings;

use super::metrics::Quality;
use super::staged::{annotations, input, node, perform};
use super::{LabelsBench, Told, share};

/// Drawings to train on, and to measure on.
const SHEETS: u64 = 24;
const HELD_OUT: u64 = 8;
/// What the seed of the held-out drawings differs by.
const OTHER_SEED: u64 = 1 << 32;

/// The sample's classes and sizes, scanned.
fn settings() -> SynthSettings {
    let (sample, scan) = (synth::sample::settings(), SynthSettings::scanned());
    SynthSettings {
        paper: scan.paper,
        ink: scan.ink,
        skew: scan.skew,
        blur: scan.blur,
        noise: scan.noise,
        speckle: scan.speckle,
        jpeg_quality: scan.jpeg_quality,
        ..sample
    }
}

/// Settings of training that suit small sheets and a short time; as those of the built-in sample.
fn training(epochs: u64) -> Value {
    json!({
        "model": "yolov8n", "imgsz": 480, "tile": "off", "batch": 4, "nominal_batch": 4, "epochs": epochs,
        "val_fraction": 0.15, "val_every": 10, "optimizer": "adamw", "lr0": 0.002, "momentum": 0.9, "cos_lr": true,
        "warmup_epochs": 1, "warmup_min_batches": 20, "ema_tau": 60,
        "augment": { "close_mosaic": 8, "scale": 0.25, "rot90": false, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0.2 },
    })
}

/// The graph, with labels from the matcher or from the truth.
fn graph(dir: &Path, from_truth: bool, epochs: u64) -> PipelineSpec {
    let path = |name: &str| dir.join("train").join(name);
    let mut inputs = vec![
        input("images", artifacts::IMAGES, &path("drawings")),
        input("templates", artifacts::FILES, &path("templates")),
        input("heldout", artifacts::IMAGES, &dir.join("heldout/drawings")),
        input("truth", artifacts::FILES, &dir.join("heldout/truth.json")),
    ];
    let mut nodes = Vec::new();
    let labeller = if from_truth {
        inputs.push(input("labels", artifacts::FILES, &path("truth.json")));
        // Before the ontology, so that the classes of the templates stay the nearest ones.
        nodes.push(node("import", json!({})));
        "imported"
    } else {
        "template"
    };
    let heldout = [("images".to_owned(), "inputs.heldout".to_owned())];
    nodes.extend([
        node("ontology", json!({})),
        node("label", json!({ "labeller": labeller })),
        node("review", json!({ "gate": "none" })),
        node("train", training(epochs)),
        NodeSpec { connect: heldout.into(), ..node("infer", json!({ "pictures": false })) },
    ]);
    PipelineSpec { inputs, nodes }
}

/// The figures that are compared.
#[derive(Deserialize)]
struct Measured {
    curves: Curves,
    operating_point: Point,
}

#[derive(Deserialize)]
struct Curves {
    map50: Option<f64>,
    map: Option<f64>,
}

#[derive(Deserialize)]
struct Point {
    all: All,
}

#[derive(Deserialize)]
struct All {
    f1: Option<f64>,
}

/// Draws, trains twice with the same seeds, compares on the same held-out drawings.
pub fn run(told: &mut Told<'_>, args: &LabelsBench) -> Result<()> {
    let dir = tempfile::tempdir().into_diagnostic()?;
    let draw = |name: &str, sheets: u64, seed: u64| {
        synth::write_dataset(&dir.path().join(name), &settings(), sheets, seed, &|_| {}).map_err(Report::from_err)
    };
    let truth = draw("train", SHEETS, args.seed)?;
    draw("heldout", HELD_OUT, args.seed ^ OTHER_SEED)?;
    let (mut rows, mut docs, mut figures) = (Vec::new(), Vec::new(), Vec::new());
    for (name, from_truth) in [("truth", true), ("matcher", false)] {
        told.doing(format_args!("training on the labels of the {name}: {SHEETS} sheets, {} epochs", args.epochs));
        let (store, record) = perform(dir.path(), &graph(dir.path(), from_truth, args.epochs))?;
        let labels = annotations(&store, &record, "label", "annotations")?;
        let label: Counts = Quality::of(&truth, &labels).counts;
        let artifact = record.stages["infer"].outputs["predictions"];
        let reader = ArtifactReader::open(&store, artifact).map_err(Report::from_err)?;
        let measured: Measured = reader.json("evaluation.json").map_err(Report::from_err)?;
        let train_s = record.stages["train"].seconds;
        rows.push(vec![
            name.to_owned(),
            share(label.f1),
            share(measured.curves.map50),
            share(measured.curves.map),
            share(measured.operating_point.all.f1),
            format!("{train_s:.0}"),
        ]);
        docs.push(json!({
            "labels": name, "label_f1": label.f1, "map50": measured.curves.map50, "map": measured.curves.map,
            "f1": measured.operating_point.all.f1, "train_s": train_s,
        }));
        figures.push(measured.curves.map50.unwrap_or_default());
    }
    let ratio = (figures[0] > 0.0).then(|| figures[1] / figures[0]);
    let doc = json!({
        "sheets": SHEETS, "held_out": HELD_OUT, "epochs": args.epochs, "trainings": docs, "ratio_of_map50": ratio,
    });
    let head = ["labels", "F1 of the labels", "mAP50", "mAP50-95", "F1", "s to train"];
    let heading = format!(
        "Detectors on {HELD_OUT} held-out sheets, trained on {SHEETS} scanned ones for {} epochs:",
        args.epochs
    );
    told.table("downstream", &heading, &head, rows, doc);
    told.note(format_args!("mAP50 on the matcher's labels / on the truth: {}", share(ratio)));
    Ok(())
}
