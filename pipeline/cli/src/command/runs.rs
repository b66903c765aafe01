//! `pipeline status` and `pipeline runs …`: what earlier runs did.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
};

use clap::{Args, Subcommand};
use engine::{
    context::Elsewhere,
    record::{RunRecord, Status, run_ids},
    store::Store,
};
use miette::{IntoDiagnostic, Report, Result};
use report::number::counted;
use serde_json::{Value, json};

use crate::{
    args::Global,
    command::{alone::is_alone, progress, run::NOISE},
    exit::{Exit, Usage},
    project::Project,
    terminal::{data, duration, number, table},
};

/// What `runs list` shows of a run, by stage.
const MAIN_METRICS: [(&str, &str); 8] = [
    ("train", "mAP50"),
    ("train", "mAP50-95"),
    ("infer", "mAP50"),
    ("infer", "COCO_AP"),
    ("infer", "boxes"),
    ("review", "mean_confidence"),
    ("label", "boxes"),
    ("label", "images"),
];

/// `pipeline runs`.
#[derive(Subcommand, Debug)]
pub enum Runs {
    /// All runs, oldest first.
    List,
    /// One run: stages, settings, metrics, devices.
    Show {
        /// The run; `latest` for the newest.
        #[arg(default_value = "latest")]
        id: String,
    },
    /// Settings, data and metrics of two runs side by side; only what differs, and all metrics.
    Compare {
        /// One run.
        a: String,
        /// The other.
        b: String,
    },
    /// Where the boxes of an image come from: template, score, settings, versions, the image's hash.
    #[command(
        after_help = "Examples:\n  pipeline runs provenance latest sheet_0001.png\n  pipeline runs provenance latest sheet_0001.png 3\n  pipeline runs provenance latest sheet_0001.png --stage infer   what the detector found"
    )]
    Provenance {
        /// The run; `latest` for the newest.
        run: String,
        /// The image, as the report names it.
        image: String,
        /// The stage whose boxes are meant, such as `infer`; the last that wrote labels of the image when not given.
        #[arg(long, value_name = "STAGE")]
        stage: Option<String>,
        /// One box: its number from 1, or its id from the report.
        #[arg(value_name = "BOX")]
        which: Option<String>,
    },
    /// Remove what no run needs any more.
    Gc(Gc),
}

/// `pipeline runs gc`.
#[derive(Args, Debug)]
pub struct Gc {
    /// Keep this many of the newest runs; older ones are removed with what only they need.
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Remove it now; without this it is only said what would go.
    #[arg(long)]
    pub yes: bool,
}

/// Runs `pipeline runs …`.
pub fn runs(global: &Global, args: &Runs) -> Result<Exit> {
    let project = Project::open(global)?;
    match args {
        Runs::List => list(global, &project),
        Runs::Show { id } => show(global, &load(&project, id)?),
        Runs::Compare { a, b } => compare(global, &load(&project, a)?, &load(&project, b)?),
        Runs::Provenance { run, image, stage, which } => {
            let asked = super::provenance::Asked { image, stage: stage.as_deref(), which: which.as_deref() };
            super::provenance::provenance(global, &project, &load(&project, run)?, &asked)
        }
        Runs::Gc(args) => super::gc::gc(global, &project, args),
    }
}

/// The record of a run by id; `latest` is the newest of the project, or the newest at all when there is none.
pub fn load(project: &Project, id: &str) -> Result<RunRecord> {
    let ids = run_ids(&project.runs);
    let of_project = |id: &&String| RunRecord::load(&project.runs.join(id)).map_or(true, |r| !is_alone(&r));
    let latest = || ids.iter().rev().find(of_project).or(ids.last()).cloned();
    let wanted = if id == "latest" { latest() } else { Some(id.to_owned()) };
    let found = wanted.filter(|w| ids.contains(w)).ok_or_else(|| {
        let help = match ids.last() {
            Some(last) => format!("`pipeline runs list` shows them; the newest is {last}"),
            None => "nothing has run yet; `pipeline run` starts".into(),
        };
        Usage::new(format!("there is no run `{id}` in `{}`", project.runs.display()), help)
    })?;
    RunRecord::load(&project.runs.join(found)).map_err(Report::from_err)
}

/// The status of a run as it is now: one that says it is running while its process is gone was killed.
fn status_now(store: &Store, record: &RunRecord) -> String {
    if record.status != Status::Running {
        return record.status.word().to_owned();
    }
    let holder = std::fs::read_to_string(store.root().join("lock.holder")).unwrap_or_default();
    if holder.starts_with(&format!("process {},", record.pid))
        && PathBuf::from(format!("/proc/{}", record.pid)).exists()
    {
        "running".into()
    } else {
        "killed (run again to go on; finished work is kept)".into()
    }
}

/// `pipeline status`.
pub fn status(global: &Global) -> Result<Exit> {
    let project = Project::open(global)?;
    let record = load(&project, "latest")?;
    if !global.json {
        let status = status_now(&project.store, &record);
        let running = status == Status::Running.word();
        data(format_args!("newest run: {}, {status}", record.id));
        if running {
            data(progress::text(&project.runs.join(&record.id), &record));
        }
    }
    show(global, &record)
}

fn list(global: &Global, project: &Project) -> Result<Exit> {
    let mut rows = vec![vec!["run".into(), "status".into(), "stages done".into(), "metrics".into()]];
    let mut json = Vec::new();
    for id in run_ids(&project.runs) {
        // A record that cannot be read must not hide the others.
        let Ok(record) = RunRecord::load(&project.runs.join(&id)) else {
            rows.push(vec![id, "unreadable run.json".into()]);
            continue;
        };
        let done = record.order.iter().filter(|n| record.stages[*n].status.has_outputs());
        let done = done.cloned().collect::<Vec<_>>().join(" ");
        let status = status_now(&project.store, &record);
        let stages: BTreeMap<_, _> = record.stages.iter().map(|(n, s)| (n, s.status)).collect();
        let metrics: BTreeMap<_, _> = metrics(&record).into_iter().collect();
        json.push(json!({
            "id": id, "status": record.status, "status_now": status, "started_at": record.started_at,
            "finished_at": record.finished_at, "of_project": !is_alone(&record), "stages": stages, "metrics": metrics,
        }));
        rows.push(vec![id, status, done, main_metrics(&record)]);
    }
    if global.json {
        data(serde_json::to_string_pretty(&json).into_diagnostic()?);
    } else if rows.len() == 1 {
        data("nothing has run yet; `pipeline run` starts");
    } else {
        data(table(&rows));
    }
    Ok(Exit::Done)
}

fn show(global: &Global, record: &RunRecord) -> Result<Exit> {
    if global.json {
        data(serde_json::to_string_pretty(record).into_diagnostic()?);
        return Ok(Exit::Done);
    }
    let mut rows =
        vec![vec!["stage".into(), "status".into(), "time".into(), "from run".into(), "why, or what came out".into()]];
    for name in &record.order {
        let s = &record.stages[name];
        let words = if s.detail.is_empty() { s.reasons.join("; ") } else { s.detail.clone() };
        let from = s.from_run.clone().filter(|r| *r != record.id).unwrap_or_default();
        rows.push(vec![name.clone(), s.status.word().into(), duration(s.seconds), from, words]);
    }
    data(table(&rows));
    if !record.detail.is_empty() {
        data(format_args!("it ended because: {}", record.detail));
    }
    for (name, input) in &record.inputs {
        data(format_args!(
            "inputs.{name}: {} in {} ({})",
            counted(input.files as usize, "file", "files"),
            input.path.display(),
            input.artifact.short()
        ));
    }
    for name in &record.order {
        let s = &record.stages[name];
        if !s.placement.is_empty() {
            data(format_args!("{name}: on `{}`: {}", s.executor, s.placement));
        }
        if let Some(e) = &s.notes.elsewhere {
            data(format_args!("{name}: {}", elsewhere_line(e)));
        }
        for d in &s.notes.devices {
            data(format_args!("{name}: device {} (asked for {}): {}", d.used, d.asked, d.why));
        }
        for (metric, value) in &s.notes.metrics {
            data(format_args!("{name}: {metric} {}", number(*value)));
        }
        for (level, text) in &s.notes.messages {
            if *level >= engine::Level::Warn {
                data(format_args!("{name}: {text}"));
            }
        }
    }
    Ok(Exit::Done)
}

/// What a stage took on other machines, on one line.
fn elsewhere_line(e: &Elsewhere) -> String {
    let mut text = format!(
        "{} on {} of {}, {} begun",
        counted(e.shards as usize, "shard", "shards"),
        counted(e.helpers.len(), "machine", "machines"),
        e.system,
        counted(e.attempts as usize, "attempt", "attempts"),
    );
    for (n, what) in [(e.failed, "failed"), (e.in_vain(), "in vain"), (e.differing, "with another result")] {
        if n > 0 {
            let _ = write!(text, ", {n} {what}");
        }
    }
    let _ = write!(text, "; {} of machines, {} of GPUs", duration(e.seconds()), duration(e.gpu_seconds()));
    if let Some(cost) = e.cost() {
        let _ = write!(text, ", cost {}", number(cost));
    }
    text
}

/// The metrics that tell runs apart at a glance.
fn main_metrics(record: &RunRecord) -> String {
    let value = |(stage, metric): &(&str, &str)| {
        let found = record.order.iter().find(|n| record.stages[*n].uses == *stage)?;
        let value = record.stages[found].notes.metrics.get(*metric)?;
        Some(format!("{stage}.{metric} {}", number(*value)))
    };
    MAIN_METRICS.iter().filter_map(value).collect::<Vec<_>>().join("  ")
}

fn metrics(record: &RunRecord) -> Vec<(String, f64)> {
    let of = |n: &String| {
        let n = n.clone();
        let metrics = record.stages[&n].notes.metrics.iter().filter(|(k, _)| !NOISE.contains(&k.as_str()));
        metrics.map(move |(k, v)| (format!("{n}.{k}"), *v)).collect::<Vec<_>>()
    };
    record.order.iter().rev().flat_map(of).collect()
}

/// Every leaf of a JSON value with its path.
fn leaves(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| leaves(&format!("{path}.{k}"), v, out)),
        Value::Null => {}
        other => out.push((path.to_owned(), other.to_string())),
    }
}

fn compare(global: &Global, a: &RunRecord, b: &RunRecord) -> Result<Exit> {
    let facts = |r: &RunRecord| {
        let mut out = Vec::new();
        for (name, input) in &r.inputs {
            out.push((format!("inputs.{name}.files"), input.files.to_string()));
            out.push((format!("inputs.{name}.digest"), input.artifact.short()));
        }
        for name in &r.order {
            let s = &r.stages[name];
            // Done here or taken from an earlier run is no difference; a stage without a result is one.
            if !s.status.has_outputs() {
                out.push((format!("{name}.status"), s.status.word().to_owned()));
            }
            out.push((format!("{name}.version"), s.version.to_string()));
            leaves(name, &s.config, &mut out);
            for (port, artifact) in &s.outputs {
                out.push((format!("{name}.{port}.digest"), artifact.short()));
            }
        }
        out.push(("program".into(), r.program.clone()));
        out
    };
    let (fa, fb) = (facts(a), facts(b));
    let get =
        |f: &[(String, String)], k: &str| f.iter().find(|(n, _)| n == k).map(|(_, v)| v.clone()).unwrap_or_default();
    let keys: BTreeSet<&String> = fa.iter().chain(&fb).map(|(k, _)| k).collect();
    let differing: Vec<[String; 3]> =
        keys.into_iter().map(|k| [k.clone(), get(&fa, k), get(&fb, k)]).filter(|[_, x, y]| x != y).collect();
    let (ma, mb) = (metrics(a), metrics(b));
    let names: BTreeSet<&String> = ma.iter().chain(&mb).map(|(k, _)| k).collect();
    let metric = |m: &[(String, f64)], k: &str| m.iter().find(|(n, _)| n == k).map(|(_, v)| *v);
    if global.json {
        let metrics: Vec<Value> =
            names.iter().map(|k| json!({ "name": k, "a": metric(&ma, k), "b": metric(&mb, k) })).collect();
        let differing: Vec<Value> = differing.iter().map(|[k, x, y]| json!({ "name": k, "a": x, "b": y })).collect();
        let doc = json!({ "a": a.id, "b": b.id, "differing": differing, "metrics": metrics });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
        return Ok(Exit::Done);
    }
    let mut rows = vec![vec!["settings and data that differ".into(), a.id.clone(), b.id.clone()]];
    rows.extend(differing.into_iter().map(Vec::from));
    if rows.len() == 1 {
        rows.push(vec!["nothing".into()]);
    }
    rows.push(Vec::new());
    rows.push(vec!["metric".into(), a.id.clone(), b.id.clone(), "change".into()]);
    for k in names {
        let (x, y) = (metric(&ma, k), metric(&mb, k));
        let change = x.zip(y).map(|(x, y)| format!("{}{}", if y >= x { "+" } else { "" }, number(y - x)));
        let show = |v: Option<f64>| v.map(number).unwrap_or_default();
        rows.push(vec![k.clone(), show(x), show(y), change.unwrap_or_default()]);
    }
    data(table(&rows));
    Ok(Exit::Done)
}
