//! `pipeline bench`: what this machine does, measured here, as tables and JSON.
//!
//! Owns what is measured and how the figures are shown. Refuses to judge: the figures are printed as they are.

use std::{path::Path, sync::Arc, time::Instant};

use clap::{Args, Subcommand};
use engine::{
    CancelToken, Machine, Store, event::NoSink, graph::Graph, plan::Selection, record::RunRecord, run::RunRequest,
};
use miette::{IntoDiagnostic, Report, Result, miette};
use serde_json::{Value, json};
use train::{Config, assigner::Truth, learner::Learner};
use vision::yolov8::{Images, Native, Size, Spec};

use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::{data, table},
};

mod engine_noop;
mod labels;
mod meter;

/// `pipeline bench`.
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// How long the runner takes to find that nothing changed, and what ten new files cost.
    Engine(engine_noop::EngineBench),
    /// Time of a training step: forward, loss, backward and update.
    Train(TrainBench),
    /// Template matching on drawings with known truth: how right and how fast.
    Labels(labels::LabelsBench),
}

/// `pipeline bench train`.
#[derive(Args, Debug)]
pub struct TrainBench {
    /// Pictures a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Side of the network's input in pixels, a multiple of 32.
    #[arg(long, default_value_t = 320)]
    imgsz: u32,
    /// Classes.
    #[arg(long, default_value_t = 8)]
    classes: usize,
    /// Steps that are timed, after one that is not.
    #[arg(long, default_value_t = 10)]
    steps: usize,
}

/// Runs `pipeline bench …`.
pub fn bench(global: &Global, bench: &Bench) -> Result<Exit> {
    match bench {
        Bench::Engine(args) => engine_noop::run(global, args),
        Bench::Train(args) => train(global, args),
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

fn train(global: &Global, args: &TrainBench) -> Result<Exit> {
    if args.imgsz == 0 || !args.imgsz.is_multiple_of(32) || args.batch == 0 || args.steps == 0 || args.classes == 0 {
        return Err(Usage::new(
            "--imgsz must be a multiple of 32, and --batch, --steps and --classes at least 1",
            "`pipeline bench train` without options measures 8 pictures of 320 pixels",
        ));
    }
    let (batch, side) = (args.batch, args.imgsz as usize);
    let spec = Spec { size: Size::N, classes: args.classes };
    let config = Config { batch, imgsz: args.imgsz, nominal_batch: batch, ..Config::default() };
    let pixels: Vec<f32> = (0..batch * side * side * 3).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
    let images = Images { data: &pixels, batch, height: side, width: side };
    // Twelve objects a picture, of the sizes that symbols have.
    let truths: Vec<Vec<Truth>> = (0..batch)
        .map(|b| {
            let object = |i: usize| {
                let size = 24.0 + 3.0 * i as f32;
                let at = |k: usize| ((b * 31 + i * 53 + k * 97) % (side - side / 4)) as f32;
                Truth { class: i % args.classes, bbox: [at(0), at(1), at(0) + size, at(1) + size] }
            };
            (0..12).map(object).collect()
        })
        .collect();
    let mut learner = Learner::new(Box::new(Native::new(spec, 0)), &config, batch * args.steps);
    let mut times = Vec::new();
    for step in 0..=args.steps {
        let start = Instant::now();
        let terms = learner.learn(0, images, &truths).map_err(Report::from_err)?;
        if !terms.is_finite() {
            return Err(miette!("the loss of step {step} is not finite"));
        }
        // The first step allocates.
        if step > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let (best, middle) = (times[0], times[times.len() / 2]);
    let gflop = 3.0 * spec.graph().flops(side, side) * batch as f64 / 1e9;
    let threads = rayon::current_num_threads();
    let doc = json!({
        "model": "yolov8n", "engine": "native", "batch": batch, "imgsz": side, "classes": args.classes,
        "steps": args.steps, "threads": threads, "ms_per_step_best": best * 1e3, "ms_per_step_median": middle * 1e3,
        "images_per_s": batch as f64 / middle, "gflop_per_step": gflop, "gflop_per_s": gflop / middle,
    });
    let rows = [
        ["model", "batch", "imgsz", "threads", "ms a step (median)", "ms (best)", "images/s", "GFLOP/s"]
            .map(str::to_owned),
        [
            "yolov8n, native".to_owned(),
            batch.to_string(),
            side.to_string(),
            threads.to_string(),
            format!("{:.0}", middle * 1e3),
            format!("{:.0}", best * 1e3),
            format!("{:.1}", batch as f64 / middle),
            format!("{:.0}", gflop / middle),
        ],
    ]
    .map(Vec::from);
    show(global, &doc, &rows)
}
