//! Labelling through the whole engine: the ontology and label stages as `pipeline run` runs them, on the built-in
//! sample's sort of drawings.
//!
//! Owns proof that the stages give what the matcher gives. Refuses to be the measure of its speed: the times hold
//! reading, caching and writing too.

use std::{path::Path, time::Instant};

use artifacts::Annotations;
use datasets::AnnotationSet;
use engine::{
    InputSpec, Machine, Store,
    artifact::{ArtifactReader, Kind},
    graph::{Graph, NodeSpec, PipelineSpec},
    record::{RunRecord, Status},
};
use miette::{IntoDiagnostic, Report, Result, miette};
use serde_json::{Value, json};

use super::metrics::Quality;
use crate::{command::bench::run_silently, stages};

/// What came of it.
pub struct Staged {
    /// How right the labels are.
    pub quality: Quality,
    /// Boxes of the truth.
    pub boxes: usize,
    /// Seconds of the label stage.
    pub label_s: f64,
    /// Seconds of everything.
    pub all_s: f64,
}

/// Draws `sheets` sheets, runs the two stages on all cores, compares.
pub fn run(sheets: u64, seed: u64) -> Result<Staged> {
    let dir = tempfile::tempdir().into_diagnostic()?;
    let data = dir.path().join("data");
    let truth = synth::write_dataset(&data, &synth::sample::settings(), sheets, seed, &|_| {});
    let truth = truth.map_err(Report::from_err)?;
    let started = Instant::now();
    let spec = PipelineSpec {
        inputs: vec![
            input("images", artifacts::IMAGES, &data.join("drawings")),
            input("templates", artifacts::FILES, &data.join("templates")),
        ],
        nodes: vec![node("ontology", json!({})), node("label", json!({ "labeller": "template" }))],
    };
    let (store, record) = perform(dir.path(), &spec)?;
    let all_s = started.elapsed().as_secs_f64();
    let found = annotations(&store, &record, "label", "annotations")?;
    let label_s = record.stages["label"].seconds;
    Ok(Staged { quality: Quality::of(&truth, &found), boxes: truth.box_count(), label_s, all_s })
}

/// An input folder or file.
pub fn input(name: &str, kind: &str, path: &Path) -> InputSpec {
    InputSpec { name: name.into(), kind: kind.into(), path: path.to_owned(), extensions: None, recursive: true }
}

/// A stage under its own name.
pub fn node(name: &str, config: Value) -> NodeSpec {
    NodeSpec { name: name.into(), uses: name.into(), config, ..NodeSpec::default() }
}

/// Runs a graph with its store below `dir/runs`; a stage that is not done is an error.
pub fn perform(dir: &Path, spec: &PipelineSpec) -> Result<(Store, RunRecord)> {
    let machine = Machine::probe();
    let graph = Graph::build(spec, &stages::registry(), &machine).map_err(Report::from_err)?;
    let store = Store::open(dir.join("runs/.store")).map_err(Report::from_err)?;
    let record = run_silently(&dir.join("runs"), &store, &graph, machine)?;
    if record.status != Status::Done {
        let why = record.stages.iter().find(|(_, s)| matches!(s.status, Status::Failed));
        let why = why.map_or_else(String::new, |(name, s)| format!(": {name}: {}", s.detail));
        return Err(miette!("the run is {}{why}", record.status.word()));
    }
    Ok((store, record))
}

/// The annotations that a stage wrote.
pub fn annotations(store: &Store, record: &RunRecord, stage: &str, port: &str) -> Result<AnnotationSet> {
    let artifact = record.stages[stage].outputs[port];
    let reader = ArtifactReader::open(store, artifact).map_err(Report::from_err)?;
    Annotations::read(&reader).map_err(Report::from_err)
}
