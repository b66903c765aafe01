//! `pipeline bench labels`: template matching on drawings with known truth: how right, how sure and how fast.
//!
//! Owns the command line of this benchmark and its tables. The parts:
//!
//! | file | what |
//! |---|---|
//! | `sets` | drawn sets with the settings that their owner would choose |
//! | `case` | templates, settings and sheets; labelling them and what that costs |
//! | `metrics` | how right the labels are |
//! | `peer` | OpenCV on the same sheets in the same run |
//! | `speed` | CPU time against the peer, instructions, cores, size of the library |
//! | `exemplars` | what confirming some matches gains |
//! | `data` | labelled drawings of the user's own |
//! | `pictures` | pictures of what went wrong |
//! | `downstream` | what a detector trained on the labels is worth |
//! | `staged` | the same through the stages and the runner |

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use miette::Result;
use serde_json::{Map, Value, json};
use synth::Set;

use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::{data as print, say, table},
};

mod case;
mod data;
mod downstream;

mod exemplars;
mod metrics;
mod peer;
mod pictures;
mod sets;
mod speed;
mod staged;

use case::{Case, Cost, Outcome};
use metrics::Quality;
use peer::{Absent, Peer};

/// Confusions that are listed for each set.
const CONFUSIONS: usize = 12;

/// `pipeline bench labels`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline bench labels                                  all drawn sets, 16 sheets each\n  pipeline bench labels A C --peer opencv                with OpenCV on the same sheets\n  pipeline bench labels --speed --peer opencv            CPU time: sizes, instructions, cores, templates\n  pipeline bench labels --downstream                     detectors trained on the labels and on the truth\n  pipeline bench labels --data DIR --out errors          labelled drawings of your own, templates cut from one of them\n\nThe peer needs Python 3 with opencv-python-headless (--python names another Python). Times are CPU seconds of one thread unless --threads says otherwise."
)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct LabelsBench {
    /// Drawn sets: A, B, C, D, L, E, electrical; all when nothing else is asked for.
    #[arg(value_name = "SET")]
    sets: Vec<Set>,
    /// Drawings of each set.
    #[arg(long, default_value_t = Set::SHEETS, value_parser = clap::value_parser!(u64).range(1..))]
    sheets: u64,
    /// Seed of the drawings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cut the templates of every set from a drawing, not of set E alone.
    #[arg(long)]
    cut: bool,
    /// Drawings that are labelled side by side.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Another program on the same sheets.
    #[arg(long, value_enum, value_name = "PEER")]
    peer: Option<PeerName>,
    /// Drawings of each set that the peer labels.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    peer_sheets: u64,
    /// The Python that runs the peer.
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// Measure CPU time: against the peer, by instructions, cores and number of templates.
    #[arg(long)]
    speed: bool,
    /// Train a detector on the labels and one on the truth, and compare them.
    #[arg(long)]
    downstream: bool,
    /// Epochs of these trainings.
    #[arg(long, value_name = "N", default_value_t = 50)]
    epochs: u64,
    /// A folder of drawings with labels (YOLO, COCO or another format that `import` reads).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The drawing that the templates are cut from; each in turn when not given.
    #[arg(long, value_name = "IMAGE", requires = "data")]
    templates_from: Option<String>,
    /// Which instance of each class is cut, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "data")]
    draw: usize,
    /// A folder for pictures of what went wrong.
    #[arg(long, value_name = "DIR", requires = "data")]
    out: Option<PathBuf>,
    /// List which classes were taken for which.
    #[arg(long)]
    verbose: bool,
}

/// Programs to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerName {
    /// matchTemplate with normalised correlation, by Python.
    Opencv,
}

/// Everything that is told: tables as they come, or one document at the end.
pub struct Told<'a> {
    global: &'a Global,
    doc: Map<String, Value>,
    /// What was asked for and could not be measured.
    missing: Vec<String>,
}

impl<'a> Told<'a> {
    fn new(global: &'a Global, args: &LabelsBench) -> Self {
        let mut doc = Map::new();
        let machine = engine::Machine::probe();
        doc.insert(
            "machine".into(),
            json!({ "cpu": setup::cpu::model(), "cores": machine.cores, "memory_bytes": machine.memory_bytes,
                    "instructions": speed::instructions() }),
        );
        doc.insert(
            "versions".into(),
            json!({ "pipeline": env!("CARGO_PKG_VERSION"), "matcher": vision::matcher::VERSION }),
        );
        doc.insert("seed".into(), args.seed.into());
        doc.insert("iou".into(), metrics::IOU.into());
        doc.insert("calibration_error".into(), metrics::CALIBRATION.into());
        Self { global, doc, missing: Vec::new() }
    }

    /// A line about what is being done.
    fn doing(&self, text: impl std::fmt::Display) {
        if !self.global.quiet && !self.global.json {
            say(text);
        }
    }

    /// A line that people have to see, below a table.
    fn note(&self, text: impl std::fmt::Display) {
        if !self.global.json {
            print(text);
        }
    }

    /// A table with its heading, and the same as values.
    fn table(&mut self, key: &str, heading: &str, head: &[&str], rows: Vec<Vec<String>>, doc: impl Into<Value>) {
        self.doc.insert(key.to_owned(), doc.into());
        if !self.global.json {
            let mut all = vec![head.iter().map(|h| (*h).to_owned()).collect()];
            all.extend(rows);
            print(format_args!("\n{heading}\n{}", table(&all)));
        }
    }

    fn end(self) -> Exit {
        let mut doc = self.doc;
        doc.insert("not_measured".into(), self.missing.clone().into());
        if self.global.json {
            print(format_args!("{:#}", Value::Object(doc)));
        }
        for m in &self.missing {
            say(format_args!("not measured: {m}"));
        }
        if self.missing.is_empty() { Exit::Done } else { Exit::Failed }
    }
}

/// A share with three digits, or a dash.
pub fn share(v: Option<f64>) -> String {
    v.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"))
}

/// Runs what was asked for; all drawn sets when nothing is named.
pub fn run(global: &Global, args: &LabelsBench) -> Result<Exit> {
    if args.threads == 0 {
        return Err(Usage::new("--threads must be at least 1", "leave it out for 1"));
    }
    let mut told = Told::new(global, args);
    if let Some(dir) = &args.data {
        data::run(&mut told, args, dir)?;
    }
    if args.speed {
        speed::run(&mut told, args)?;
    }
    if args.downstream {
        downstream::run(&mut told, args)?;
    }
    if !args.sets.is_empty() || !(args.data.is_some() || args.speed || args.downstream) {
        drawn_sets(&mut told, args)?;
    }
    Ok(told.end())
}

/// The peer on the first sheets of a case, when it is wanted. A peer that is missing is noted once.
fn peer(told: &mut Told<'_>, args: &LabelsBench, case: &Case<'_>) -> Result<Option<Peer>> {
    if args.peer.is_none() || !told.missing.is_empty() {
        return Ok(None);
    }
    told.doing(format_args!("{}: OpenCV, {} sheets", case.name, args.peer_sheets.min(case.range.end)));
    match peer::run(&args.python, case, args.peer_sheets) {
        Ok(peer) => Ok(Some(peer)),
        Err(Absent::Missing(why)) => {
            told.missing.push(format!("the peer: {why}"));
            Ok(None)
        }
        Err(Absent::Failed(e)) => Err(e),
    }
}

fn drawn_sets(told: &mut Told<'_>, args: &LabelsBench) -> Result<()> {
    let sets = if args.sets.is_empty() { Set::ALL.to_vec() } else { args.sets.clone() };
    let (mut right, mut wrong, mut cost, mut peers, mut docs) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut confused = Vec::new();
    for set in sets {
        let case = sets::case(set, args.seed, args.sheets, args.cut)?;
        told.doing(format_args!("{set}: {} sheets, {}", args.sheets, set.about()));
        let outcome = case::run(&case, args.threads)?;
        let q = Quality::of(&outcome.truth, &outcome.found);
        let boxes = outcome.truth.box_count();
        right.push(quality_row(set.name(), set.about(), args.sheets, boxes, &q));
        wrong.push(error_row(set.name(), &q));
        cost.push(cost_row(set.name(), case.templates.len(), &outcome.cost));
        confused.extend(
            q.confused
                .iter()
                .take(CONFUSIONS)
                .map(|c| vec![set.name().to_owned(), c.truth.clone(), c.found.clone(), c.times.to_string()]),
        );
        let mut doc = json!({
            "set": set.name(), "about": set.about(), "sheets": args.sheets, "templates": case.templates.len(), "cut": args.cut || set.has_crops(),
            "settings": sets::changes(set), "boxes": boxes, "quality": q, "cost": outcome.cost,
        });
        if args.cut || set.has_crops() {
            doc["exemplars"] = exemplars::run(told, args, set, &case, &outcome)?;
        }
        if let Some(peer) = peer(told, args, &case)? {
            let (row, value) = peer_row(set.name(), &outcome, &peer);
            peers.push(row);
            doc["peer"] = value;
        }
        docs.push(doc);
    }
    told.table("sets", "How right, at the default threshold:", &QUALITY_HEAD, right, docs);
    told.note(format_args!("ECE: expected calibration error, {}", metrics::CALIBRATION));
    told.table("errors", "What went wrong:", &ERROR_HEAD, wrong, Value::Null);
    told.table("cost", "What it cost:", &COST_HEAD, cost, Value::Null);
    if args.verbose && !confused.is_empty() {
        told.table("confused", "Taken for another class:", &["set", "truth", "found", "times"], confused, Value::Null);
    }
    if !peers.is_empty() {
        told.table("peers", "OpenCV on the same sheets:", &PEER_HEAD, peers, Value::Null);
    }
    for key in ["errors", "cost", "confused", "peers"] {
        // The documents of the sets hold these already.
        told.doc.remove(key);
    }
    told.doing("sample: through the stages and the runner");
    let e = staged::run(args.sheets.min(4), args.seed)?;
    let row =
        vec![e.boxes.to_string(), share(e.quality.counts.f1), format!("{:.2}", e.label_s), format!("{:.2}", e.all_s)];
    let doc = json!({ "boxes": e.boxes, "quality": e.quality, "label_s": e.label_s, "all_s": e.all_s });
    let heading = "The sample's sort of drawings through `ontology` and `label`:";
    told.table("engine", heading, &["boxes", "F1", "s of label", "s in all"], vec![row], doc);
    Ok(())
}

const QUALITY_HEAD: [&str; 11] =
    ["set", "what", "sheets", "boxes", "F1", "precision", "recall", "best F1", "at", "recall at P .99", "ECE"];

fn quality_row(name: &str, about: &str, sheets: u64, boxes: usize, q: &Quality) -> Vec<String> {
    vec![
        name.to_owned(),
        about.to_owned(),
        sheets.to_string(),
        boxes.to_string(),
        share(q.counts.f1),
        share(q.counts.precision),
        share(q.counts.recall),
        share(Some(q.best_f1)),
        share(Some(q.best_threshold)),
        share(Some(q.recall_at_precision_99)),
        share(q.calibration_error),
    ]
}

const ERROR_HEAD: [&str; 7] =
    ["set", "missed", "of these below the threshold", "wrong class", "badly located", "false", "doubled"];

fn error_row(name: &str, q: &Quality) -> Vec<String> {
    let e = &q.errors;
    let counts = [e.missed, e.below_threshold, e.wrong_class, e.badly_located, e.false_boxes, e.doubled];
    std::iter::once(name.to_owned()).chain(counts.iter().map(ToString::to_string)).collect()
}

const COST_HEAD: [&str; 7] =
    ["set", "templates", "threads", "CPU s a sheet", "MPx a CPU s", "CPU s to prepare", "peak MB"];

fn cost_row(name: &str, templates: usize, c: &Cost) -> Vec<String> {
    vec![
        name.to_owned(),
        templates.to_string(),
        c.threads.to_string(),
        format!("{:.3}", c.per_sheet()),
        format!("{:.1}", c.speed()),
        format!("{:.3}", c.prepare_cpu_s),
        c.peak_mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.0}")),
    ]
}

const PEER_HEAD: [&str; 8] = [
    "set",
    "sheets",
    "F1 (its best threshold)",
    "calls a sheet",
    "CPU s a sheet",
    "of these in calls",
    "ours, same sheets",
    "calls / ours",
];

fn peer_row(name: &str, ours: &Outcome, peer: &Peer) -> (Vec<String>, Value) {
    let q = Quality::of(&peer.truth, &peer.found);
    let n = peer.cpu_s.len();
    let same = ours.cost.cpu_s.iter().take(n).sum::<f64>() / n.max(1) as f64;
    let ratio = peer.match_per_sheet() / same;
    let row = vec![
        name.to_owned(),
        n.to_string(),
        share(Some(q.best_f1)),
        peer.calls.to_string(),
        format!("{:.1}", peer.per_sheet()),
        format!("{:.1}", peer.match_per_sheet()),
        format!("{same:.3}"),
        format!("{ratio:.0}"),
    ];
    let doc = json!({ "cost": peer, "best_f1": q.best_f1, "best_threshold": q.best_threshold, "our_cpu_s": same, "ratio": ratio });
    (row, doc)
}
