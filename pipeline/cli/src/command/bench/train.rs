//! `pipeline bench train`: whole training steps (forward, loss, backward, clip, update, moving average) of the native
//! engine, beside the back end `tch` where it is compiled in and PyTorch doing the same.
//!
//! Owns what is measured and the table. Refuses to pass or fail anything.

mod runner;
mod scaling;
mod step;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use miette::{IntoDiagnostic, Result, WrapErr};
use serde_json::{Value, json};
use train::config::Model;
use vision::yolov8::{
    Mode, Spec,
    engine::Engine,
    native::{Instructions, Native, Precision},
};

use self::runner::{Absent, Request, Runner};
use super::show;
use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::say,
};

/// What to compare with.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// PyTorch with the network and loss of the package `ultralytics`.
    Torch,
}

/// `pipeline bench train`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline bench train                                          this machine, 1 thread and all\n  pipeline bench train --imgsz 320,640 --peer torch --python P  beside PyTorch, step by step in turns\n  pipeline bench train --scaling                                what every size of network and picture costs at least\n\nA step is forward, loss, backward, clip, AdamW update and moving average. The peer needs Python 3 with torch and ultralytics (--python names another Python)."
)]
pub struct TrainBench {
    /// The network: yolov8n, yolov8s, yolov8m, yolov8l or yolov8x.
    #[arg(long, default_value = "yolov8n")]
    model: String,
    /// Pictures a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Sides of the network's input in pixels, multiples of 32.
    #[arg(long, default_value = "320", value_delimiter = ',')]
    imgsz: Vec<u32>,
    /// Numbers of threads; 1 and all cores by default.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Classes.
    #[arg(long, default_value_t = 80)]
    classes: usize,
    /// Steps that are timed, after one that is not.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// The first so many modules do not learn.
    #[arg(long, default_value_t = 0, conflicts_with = "peer")]
    freeze: usize,
    /// Trains nothing: says what steps of all networks cost at least on this machine, from their descriptions.
    #[arg(long, conflicts_with_all = ["peer", "freeze", "model", "imgsz", "steps"])]
    scaling: bool,
    /// Measures this beside it.
    #[arg(long, value_enum)]
    peer: Option<PeerName>,
    /// Python of the peer.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    python: PathBuf,
    /// Does steps on command, for the lines of the table.
    #[arg(long, hide = true, value_name = "JSON")]
    runner: Option<String>,
}

/// Objects of a picture.
const OBJECTS: usize = 12;

/// A line of the table.
struct Line {
    name: &'static str,
    precision: Precision,
    /// The memory is ours, and its plan is known.
    planned: bool,
    runner: Runner,
}

/// Runs `pipeline bench train`.
pub fn run(global: &Global, args: &TrainBench) -> Result<Exit> {
    if let Some(request) = &args.runner {
        let request = serde_json::from_str(request).into_diagnostic().wrap_err("reading the request")?;
        step::serve(&request)?;
        return Ok(Exit::Done);
    }
    let wrong_side = args.imgsz.iter().any(|side| *side == 0 || !side.is_multiple_of(32));
    if wrong_side || [args.batch, args.steps, args.classes].contains(&0) || args.threads.contains(&0) {
        return Err(Usage::new(
            "--imgsz must be multiples of 32, and --batch, --steps, --classes and --threads at least 1",
            "`pipeline bench train` without options measures 8 pictures of 320 pixels",
        ));
    }
    let cores = engine::Machine::probe().cores;
    let threads =
        if args.threads.is_empty() { if cores == 1 { vec![1] } else { vec![1, cores] } } else { args.threads.clone() };
    if args.scaling {
        let (doc, rows) = scaling::table(args, &threads)?;
        show(global, &doc, &rows)?;
        return Ok(Exit::Done);
    }
    let spec = Spec { size: model(&args.model)?.size(), classes: args.classes };
    let mut bench = Bench { global, args, spec, rows: vec![head()], docs: Vec::new(), missing: None };
    for &imgsz in &args.imgsz {
        for &threads in &threads {
            bench.case(imgsz, threads)?;
        }
    }
    let Bench { rows, docs, missing, .. } = bench;
    let doc = json!({
        "model": args.model, "batch": args.batch, "classes": args.classes, "objects": OBJECTS, "steps": args.steps,
        "freeze": args.freeze, "cores": cores, "instructions": Instructions::chosen().name(), "lines": docs, "not_measured": missing,
        "definitions": {
            "gflop_per_step": "three times the multiply-adds of the convolutions of a forward pass (once those of frozen modules), two operations each",
            "peak": "a product whose operands fit the first-level cache, on as many threads, best of several, same run",
            "ratios": "medians by those of PyTorch's fp32 (NCHW), steps in turns; CPU time is that of all threads",
        },
    });
    show(global, &doc, &rows)?;
    if let Some(why) = missing {
        say(format_args!("not measured: the peer: {why}"));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

fn model(name: &str) -> Result<Model> {
    serde_json::from_value(Value::from(name)).map_err(|_| {
        Usage::new(format!("there is no network `{name}`"), "one of yolov8n, yolov8s, yolov8m, yolov8l, yolov8x")
    })
}

fn head() -> Vec<String> {
    [
        "engine",
        "imgsz",
        "threads",
        "ms a step",
        "best",
        "CPU ms a step",
        "images/s",
        "GFLOP/s",
        "of peak",
        "of peak by CPU time",
        "peak MB",
        "planned MB",
        "time / PyTorch",
        "CPU / PyTorch",
        "memory / PyTorch",
    ]
    .map(str::to_owned)
    .into()
}

struct Bench<'a> {
    global: &'a Global,
    args: &'a TrainBench,
    spec: Spec,
    rows: Vec<Vec<String>>,
    docs: Vec<Value>,
    missing: Option<String>,
}

impl Bench<'_> {
    /// All lines of one size and number of threads, step by step in turns.
    fn case(&mut self, imgsz: u32, threads: usize) -> Result<()> {
        let args = self.args;
        if !self.global.json {
            say(format_args!("{imgsz} pixels, {threads} threads: {} steps each", args.steps));
        }
        let request = |how: &str, avx2: bool| Request {
            model: args.model.clone(),
            imgsz,
            batch: args.batch,
            threads,
            classes: args.classes,
            objects: OBJECTS,
            how: how.to_owned(),
            engine: None,
            avx2,
            freeze: args.freeze,
        };
        let mut lines = Vec::new();
        let mut ours = vec![("native f32", Precision::F32, false), ("native bf16", Precision::Bf16, false)];
        if Instructions::chosen() > Instructions::Avx2 {
            ours.push(("native f32, AVX2", Precision::F32, true));
        }
        for (name, precision, avx2) in ours {
            let runner = Runner::ours(&request(precision.name(), avx2))?;
            lines.push(Line { name, precision, planned: true, runner });
        }
        if Engine::Tch.compiled() {
            for (name, precision) in [("tch f32", Precision::F32), ("tch bf16", Precision::Bf16)] {
                let request = Request { engine: Some(Engine::Tch), ..request(precision.name(), false) };
                lines.push(Line { name, precision, planned: false, runner: Runner::ours(&request)? });
            }
        }
        if args.peer.is_some() && self.missing.is_none() {
            for (name, how, precision) in [
                ("PyTorch fp32", "fp32", Precision::F32),
                ("PyTorch fp32, channels last", "channels_last", Precision::F32),
                ("PyTorch bf16, channels last", "bf16", Precision::Bf16),
            ] {
                match Runner::peer(&args.python, &request(how, false)) {
                    Ok(runner) => lines.push(Line { name, precision, planned: false, runner }),
                    Err(Absent::Missing(why)) => {
                        self.missing = Some(why);
                        break;
                    }
                    Err(Absent::Failed(e)) => return Err(e),
                }
            }
        }
        let mut peaks = [[0.0_f64; 2]; 2];
        for _ in 0..args.steps {
            lines.iter_mut().try_for_each(|line| line.runner.step())?;
            for (peak, precision) in peaks.iter_mut().zip([Precision::F32, Precision::Bf16]) {
                for (peak, sample) in peak.iter_mut().zip(step::peak(threads, precision)?) {
                    *peak = peak.max(sample);
                }
            }
        }
        let yardstick = lines
            .iter()
            .find(|l| l.name == "PyTorch fp32")
            .map(|l| [Some(l.median(|s| s.ms)), Some(l.median(|s| s.cpu_ms)), l.memory()]);
        for line in &lines {
            self.add(line, imgsz, threads, peaks[usize::from(line.precision == Precision::Bf16)], yardstick);
        }
        Ok(())
    }

    fn add(
        &mut self,
        line: &Line,
        imgsz: u32,
        threads: usize,
        [peak, cpu_peak]: [f64; 2],
        yardstick: Option<[Option<f64>; 3]>,
    ) {
        let (side, batch) = (imgsz as usize, self.args.batch);
        let (middle, cpu) = (line.median(|s| s.ms), line.median(|s| s.cpu_ms));
        let best = line.runner.steps.iter().map(|s| s.ms).fold(f64::INFINITY, f64::min);
        let gflop = self.spec.graph().training_flops(self.args.freeze, side, side) * batch as f64 / 1e9;
        let rate = gflop / middle * 1e3;
        // Where others use the machine too, the clock says little.
        let by_cpu = gflop / cpu * 1e3 * threads as f64 / cpu_peak;
        let memory = line.memory();
        let planned = |p| Native::memory(self.spec, [batch, side, side], Mode::Train, p, self.args.freeze) as f64 / 1e6;
        let planned = line.planned.then(|| planned(line.precision));
        let yardstick = yardstick.unwrap_or_default();
        let ratio = |ours: Option<f64>, which: usize| Some(ours? / yardstick[which]?);
        let (time_ratio, cpu_ratio, memory_ratio) = (ratio(Some(middle), 0), ratio(Some(cpu), 1), ratio(memory, 2));
        let number = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
        self.rows.push(vec![
            line.name.to_owned(),
            imgsz.to_string(),
            threads.to_string(),
            format!("{middle:.0}"),
            format!("{best:.0}"),
            format!("{cpu:.0}"),
            format!("{:.1}", batch as f64 / middle * 1e3),
            format!("{rate:.0}"),
            format!("{:.0} %", 100.0 * rate / peak),
            format!("{:.0} %", 100.0 * by_cpu),
            number(memory, 0),
            number(planned, 0),
            number(time_ratio, 2),
            number(cpu_ratio, 2),
            number(memory_ratio, 2),
        ]);
        self.docs.push(json!({
            "engine": line.name, "imgsz": imgsz, "threads": threads, "ms_per_step_median": middle,
            "ms_per_step_best": best, "cpu_ms_per_step_median": cpu, "images_per_s": batch as f64 / middle * 1e3, "gflop_per_step": gflop,
            "gflop_per_s": rate, "peak_gflop_per_s": peak, "peak_gflop_per_cpu_s": cpu_peak, "share_of_peak": rate / peak, "share_of_peak_by_cpu_time": by_cpu, "peak_mb": memory,
            "planned_mb": planned, "time_ratio": time_ratio, "cpu_ratio": cpu_ratio, "memory_ratio": memory_ratio, "about": line.runner.about,
            "steps": line.runner.steps,
        }));
    }
}

impl Line {
    /// Most memory, in MB.
    fn memory(&self) -> Option<f64> {
        self.runner.steps.last()?.peak_mb
    }

    /// Median over the steps.
    fn median(&self, figure: fn(&runner::Step) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.runner.steps.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }
}
