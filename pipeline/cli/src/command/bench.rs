//! `pipeline bench`: what this machine does, measured here, as tables and JSON.
//!
//! Owns what is measured and how the figures are shown. Refuses to judge: the figures are printed as they are.

use std::{path::Path, sync::Arc};

use clap::Subcommand;
use engine::{
    CancelToken, Machine, Store, event::NoSink, graph::Graph, plan::Selection, record::RunRecord, run::RunRequest,
};
use miette::{IntoDiagnostic, Report, Result};
use serde_json::Value;

use crate::{
    args::Global,
    exit::Exit,
    terminal::{data, table},
};

mod engine_noop;
mod labels;
mod meter;
mod recipe;
mod train;

/// `pipeline bench`.
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// How long the runner takes to find that nothing changed, and what ten new files cost.
    Engine(engine_noop::EngineBench),
    /// Time and memory of whole training steps, in 32 and in 16 bits, beside PyTorch if asked.
    Train(train::TrainBench),
    /// Whole trainings on a labelled data set, beside Ultralytics if asked: how good the detectors are, and how fast.
    Recipe(recipe::RecipeBench),
    /// Template matching on drawings with known truth: how right and how fast.
    Labels(labels::LabelsBench),
}

/// Runs `pipeline bench …`.
pub fn bench(global: &Global, bench: &Bench) -> Result<Exit> {
    match bench {
        Bench::Engine(args) => engine_noop::run(global, args),
        Bench::Train(args) => train::run(global, args),
        Bench::Recipe(args) => recipe::run(global, args),
        Bench::Labels(args) => labels::run(global, args),
    }
}

/// Runs a whole graph here, on all cores, and shows nothing.
fn run_silently(runs: &Path, store: &Store, graph: &Graph, machine: Machine) -> Result<RunRecord> {
    let request = RunRequest {
        runs,
        store,
        graph,
        selection: Selection::default(),
        executors: &executors::builtin(),
        cores: machine.cores,
        machine,
        program: env!("CARGO_PKG_VERSION").into(),
        require: false,
        one_off: false,
        sink: Arc::new(NoSink),
        cancel: CancelToken::new(),
    };
    engine::run::run(&request).map(|(record, _)| record).map_err(Report::from_err)
}

/// Prints a document as JSON, or its table.
fn show(global: &Global, doc: &Value, rows: &[Vec<String>]) -> Result<Exit> {
    if global.json {
        data(serde_json::to_string_pretty(doc).into_diagnostic()?);
    } else {
        data(table(rows));
    }
    Ok(Exit::Done)
}
