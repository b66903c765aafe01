//! `pipeline bench recipe`: whole trainings on a labelled data set, by this program and by Ultralytics, with the same
//! settings: how good the detectors are, and how long it takes.
//!
//! Owns the settings that make both alike and the table. Refuses to pass or fail anything.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use clap::{Args, ValueEnum};
use datasets::{
    formats::{Format, ReadOptions},
    split::Split,
};
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde_json::{Value, json};

use super::show;
use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::say,
};

/// The peer's program.
const PROGRAM: &str = include_str!("../../../../../benches/train/ultralytics_train.py");
/// Exit code with which it says that a library is missing.
const NO_LIBRARY: i32 = 3;

/// One of our lines of the table.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ours {
    /// 32 bits, from random weights.
    F32,
    /// 16 bits, from random weights.
    Bf16,
    /// 16 bits, from the program's own starting weights.
    SymbolsN,
}

/// `pipeline bench recipe`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline export dataset --format yolo --out data                         a project's labels, as such a folder\n  pipeline bench recipe data --epochs 30 --seeds 0,1,2 --peer --python P   beside Ultralytics\n  pipeline bench recipe data --epochs 80 --ours symbols-n,bf16             what starting weights give\n\nBoth take whole pictures, train with the same settings (augmentation as Ultralytics has it), keep decoded pictures in memory and measure after every epoch. The peer needs Python 3 with torch and ultralytics (--python names another Python)."
)]
pub struct RecipeBench {
    /// A folder with a data.yaml that names pictures to train on and pictures to measure on.
    data: PathBuf,
    /// Rounds over the pictures.
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Starts of the randomness; one training each.
    #[arg(long, default_value = "0", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Side of the network's input in pixels.
    #[arg(long, default_value_t = 320)]
    imgsz: u32,
    /// Pictures a step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Pictures an update of the weights.
    #[arg(long, default_value_t = 64)]
    nominal_batch: usize,
    /// The network.
    #[arg(long, default_value = "yolov8n")]
    model: String,
    /// Our trainings.
    #[arg(long, value_enum, default_value = "f32,bf16", value_delimiter = ',')]
    ours: Vec<Ours>,
    /// Trains with Ultralytics, too, from random weights.
    #[arg(long)]
    peer: bool,
    /// Python of the peer.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    python: PathBuf,
}

/// One training.
struct Trained {
    map50: f64,
    map50_95: f64,
    seconds: f64,
    about: Value,
}

/// Runs `pipeline bench recipe`.
pub fn run(global: &Global, args: &RecipeBench) -> Result<Exit> {
    let yaml = args.data.join("data.yaml");
    let Ok(yaml) = yaml.canonicalize() else {
        return Err(Usage::new(
            format!("{} is not there", yaml.display()),
            "`pipeline export dataset --format yolo --out data` writes such a folder",
        ));
    };
    if args.epochs == 0 || args.seeds.is_empty() || args.ours.is_empty() && !args.peer {
        return Err(Usage::new("nothing to train", "--epochs 3 --seeds 0 --ours f32"));
    }
    let pictures = pictures(&args.data)?;
    let folder = tempfile::tempdir().into_diagnostic().wrap_err("making a folder for the trainings")?;
    let mut lines: Vec<(&str, Vec<Trained>)> = args.ours.iter().map(|ours| (ours.name(), Vec::new())).collect();
    if args.peer {
        lines.push((PEER, Vec::new()));
    }
    let mut missing = None;
    // Seeds outside, so that a busy hour of the machine hits all lines alike.
    for &seed in &args.seeds {
        for (number, (name, trained)) in lines.iter_mut().enumerate() {
            if !global.json {
                say(format_args!("{name}, seed {seed}: {} epochs", args.epochs));
            }
            let out = folder.path().join(format!("{number}-{seed}"));
            trained.push(match args.ours.get(number) {
                Some(&ours) => train(args, ours, seed, &out)?,
                None => match peer(args, &yaml, seed, &out)? {
                    Ok(trained) => trained,
                    Err(why) => {
                        missing = Some(why);
                        break;
                    }
                },
            });
        }
    }
    let (doc, rows) = tables(args, &lines, pictures);
    show(global, &doc, &rows)?;
    if let Some(why) = missing {
        say(format_args!("not measured: the peer: {why}"));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

const PEER: &str = "Ultralytics fp32";

impl Ours {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "native f32",
            Self::Bf16 => "native bf16",
            Self::SymbolsN => "native bf16, from symbols-n",
        }
    }

    /// Numbers and starting weights, as settings.
    fn settings(self) -> [&'static str; 2] {
        match self {
            Self::F32 => ["precision=f32", "weights=scratch"],
            Self::Bf16 => ["precision=bf16", "weights=scratch"],
            Self::SymbolsN => ["precision=bf16", "weights=symbols-n"],
        }
    }
}

/// Trains with this program, in a process of its own.
fn train(args: &RecipeBench, ours: Ours, seed: u64, out: &Path) -> Result<Trained> {
    let program = std::env::current_exe().into_diagnostic().wrap_err("finding this program")?;
    let mut command = Command::new(program);
    command.args(["train", "--json", "--quiet"]).arg(&args.data).arg("--runs").arg(out.join("runs"));
    command.arg("--out").arg(out.join("model"));
    let mut set = |setting: String| {
        command.arg("--set").arg(format!("train.{setting}"));
    };
    for setting in [
        format!("model={}", args.model),
        format!("epochs={}", args.epochs),
        format!("imgsz={}", args.imgsz),
        format!("batch={}", args.batch),
        format!("nominal_batch={}", args.nominal_batch),
        format!("seed={seed}"),
    ] {
        set(setting);
    }
    let alike = ["backend=native", "patience=0", "tile=off", "augment.flipud=0", "augment.rot90=false"];
    ours.settings().into_iter().chain(alike).for_each(|setting| set(setting.to_owned()));
    let output = command.output().into_diagnostic().wrap_err("starting this program")?;
    let record = said(&output).map_err(|why| miette!("the training failed: {why}"))?;
    let stage = &record["stages"]["train-only"];
    let (seconds, metrics) = (&stage["seconds"], &stage["notes"]["metrics"]);
    trained(seconds, &metrics["mAP50"], &metrics["mAP50-95"], stage["notes"]["devices"].clone())
}

/// Trains with the peer; says what is missing where it cannot run.
fn peer(args: &RecipeBench, yaml: &Path, seed: u64, out: &Path) -> Result<Result<Trained, String>> {
    let request = json!({
        "data": yaml, "out": out, "model": args.model, "imgsz": args.imgsz, "batch": args.batch, "epochs": args.epochs,
        "nominal_batch": args.nominal_batch, "seed": seed, "threads": engine::Machine::probe().cores,
    });
    let python = args.python.display();
    let output = match Command::new(&args.python).args(["-W", "ignore", "-c", PROGRAM, &request.to_string()]).output() {
        Ok(output) => output,
        Err(e) => return Ok(Err(format!("`{python}` cannot be started ({e}): name another Python with --python"))),
    };
    match said(&output) {
        Ok(answer) => {
            trained(&answer["seconds"], &answer["map50"], &answer["map50_95"], answer.clone()).map(Result::Ok)
        }
        Err(why) if output.status.code() == Some(NO_LIBRARY) => Ok(Err(format!(
            "{why}: `{python} -m pip install torch ultralytics==8.2.103`, or name another Python with --python"
        ))),
        Err(why) => Err(miette!("the peer failed: {why}")),
    }
}

/// The document that a process printed, or the last that it said of its failure.
fn said(output: &Output) -> Result<Value, String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(errors.trim().lines().last().unwrap_or("it said nothing").to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("what it printed cannot be read ({e})"))
}

fn trained(seconds: &Value, map50: &Value, map50_95: &Value, about: Value) -> Result<Trained> {
    let number = |value: &Value| value.as_f64().ok_or_else(|| miette!("a training did not say how it went"));
    Ok(Trained { seconds: number(seconds)?, map50: number(map50)?, map50_95: number(map50_95)?, about })
}

/// Pictures of the data set that are trained on. Some have to be held back, or each side would choose its own.
fn pictures(data: &Path) -> Result<usize> {
    let read = || Format::Yolo.read(data, &ReadOptions::default());
    let set = read().into_diagnostic().wrap_err("counting the pictures")?.set;
    let [train, val, _] = Split::ALL.map(|part| set.images.iter().filter(|i| i.split == Some(part)).count());
    if train == 0 || val == 0 {
        let message = format!("{} does not divide its pictures into training and validation", data.display());
        return Err(Usage::new(message, "let `train:` and `val:` in its data.yaml name different folders"));
    }
    Ok(train)
}

fn tables(args: &RecipeBench, lines: &[(&str, Vec<Trained>)], pictures: usize) -> (Value, Vec<Vec<String>>) {
    let mean = |trained: &[Trained], figure: fn(&Trained) -> f64| {
        trained.iter().map(figure).sum::<f64>() / trained.len() as f64
    };
    let rate = |seconds: f64| (pictures * args.epochs) as f64 / seconds;
    let lines = lines.iter().filter(|(_, trained)| !trained.is_empty());
    let yardstick = lines.clone().find(|(name, _)| *name == PEER).map(|(_, trained)| mean(trained, |t| t.seconds));
    let head = ["training", "mAP50-95", "of each seed", "mAP50", "seconds", "images/s", "rate / Ultralytics"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut docs = Vec::new();
    for (name, trained) in lines {
        let seconds = mean(trained, |t| t.seconds);
        let ratio = yardstick.map(|yardstick| yardstick / seconds);
        let each: Vec<String> = trained.iter().map(|t| format!("{:.3}", t.map50_95)).collect();
        rows.push(vec![
            (*name).to_owned(),
            format!("{:.3}", mean(trained, |t| t.map50_95)),
            each.join(" "),
            format!("{:.3}", mean(trained, |t| t.map50)),
            format!("{seconds:.1}"),
            format!("{:.1}", rate(seconds)),
            ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")),
        ]);
        let seeds = trained.iter().zip(&args.seeds).map(|(t, seed)| {
            json!({ "seed": seed, "map50": t.map50, "map50_95": t.map50_95, "seconds": t.seconds, "about": t.about })
        });
        docs.push(json!({
            "training": name, "map50_95": mean(trained, |t| t.map50_95), "map50": mean(trained, |t| t.map50),
            "seconds": seconds, "images_per_s": rate(seconds), "rate_ratio": ratio, "seeds": seeds.collect::<Vec<_>>(),
        }));
    }
    let doc = json!({
        "data": args.data, "pictures": pictures, "model": args.model, "imgsz": args.imgsz, "batch": args.batch,
        "nominal_batch": args.nominal_batch, "epochs": args.epochs, "cores": engine::Machine::probe().cores, "lines": docs,
        "definitions": {
            "seconds": "reading the data, training with a measurement after each epoch, measuring the best weights; mean over the seeds",
            "images_per_s": "pictures trained on, times epochs, by those seconds",
            "map50_95": "each program's own figure of its best weights, on the pictures held back; both interpolate alike",
        },
    });
    (doc, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_compared_with_the_peer() {
        let args = |seeds: Vec<u64>| RecipeBench {
            data: "data".into(),
            epochs: 3,
            seeds,
            imgsz: 320,
            batch: 16,
            nominal_batch: 64,
            model: "yolov8n".into(),
            ours: vec![Ours::F32],
            peer: true,
            python: "python3".into(),
        };
        let one = |map50_95, seconds| Trained { map50: 0.9, map50_95, seconds, about: Value::Null };
        let lines =
            [("native f32", vec![one(0.5, 10.0), one(0.7, 20.0)]), (PEER, vec![one(0.6, 30.0), one(0.6, 30.0)])];
        let (doc, rows) = tables(&args(vec![0, 1]), &lines, 100);
        assert_eq!(rows[1], ["native f32", "0.600", "0.500 0.700", "0.900", "15.0", "20.0", "2.00"]);
        assert_eq!(rows[2][6], "1.00");
        assert_eq!(doc["lines"][0]["seeds"][1]["seed"], 1);
        let (_, rows) = tables(&args(vec![0]), &[("native f32", vec![one(0.5, 10.0)]), (PEER, vec![])], 100);
        assert_eq!((rows.len(), rows[1][6].as_str()), (2, "-"));
    }
}
