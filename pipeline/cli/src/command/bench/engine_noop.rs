//! `pipeline bench engine`: the price of finding that nothing changed, and of ten new files.
//!
//! Six toy stages in the shape of the usual pipeline, two of them item by item, over many tiny files. Each run is a
//! process of its own, so that its time and memory are its own too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use engine::{
    Context, Descriptor, InputSpec, Item, ItemError, ItemOutcome, ItemStage, Machine, Outcome, Port, ProjectLock,
    Registry, Stage, StageError, Store,
    artifact::ArtifactWriter,
    graph::{Graph, NodeSpec, PipelineSpec},
    item::Results,
    record::Status,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr, miette};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{meter, run_silently};
use crate::{
    args::Global,
    exit::Exit,
    terminal::{data, number, say},
};

/// Files a folder.
const PER_FOLDER: usize = 1000;
/// Files that are added at the end.
const NEW: usize = 10;
/// Runs over unchanged files that are measured; the system counts CPU time in hundredths of a second.
const REPEATS: u32 = 5;
/// Files changed more lately than this before they are read are read again in the next run, whatever it costs.
const SETTLE: Duration = Duration::from_millis(2100);

/// `pipeline bench engine`.
#[derive(Args, Debug)]
pub struct EngineBench {
    /// Number of files.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    files: u32,
    /// 10,000 files, then 100,000.
    #[arg(long, conflicts_with = "files")]
    large: bool,
    /// Where the files are made (and removed again); the system's temporary folder when not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Runs the toy pipeline in this folder once and tells what it cost.
    #[arg(long, hide = true, value_name = "DIR")]
    child: Option<PathBuf>,
}

/// Stages have no settings here.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Nothing {}

fn descriptor(name: &str, inputs: &[(&str, &str)], output: &str, items: Option<&str>) -> Descriptor {
    Descriptor {
        name: name.into(),
        version: 1,
        about: String::new(),
        inputs: inputs.iter().map(|(name, kind)| Port::new(name, kind)).collect(),
        outputs: vec![Port::new(output, output)],
        items: items.map(str::to_owned),
    }
}

fn write(ctx: &Context, kind: &str, bytes: &[u8]) -> Result<Outcome, StageError> {
    let mut writer = ArtifactWriter::new(ctx.store());
    writer.put("data", bytes)?;
    ctx.output(kind, writer.finish(kind, 1, Value::Null)?)?;
    Ok(Outcome::Done)
}

/// Writes the digests of what it reads.
struct Whole(Descriptor);

impl Stage for Whole {
    type Config = Nothing;
    fn descriptor(&self) -> Descriptor {
        self.0.clone()
    }
    fn run(&self, _: &Nothing, ctx: &Context) -> Result<Outcome, StageError> {
        let digests: Result<Vec<String>, StageError> =
            self.0.inputs.iter().map(|p| Ok(ctx.input(&p.name)?.to_string())).collect();
        write(ctx, &self.0.outputs[0].kind, digests?.join("\n").as_bytes())
    }
}

/// Reads every file and writes a line about it.
struct PerFile(Descriptor, Arc<AtomicUsize>);

impl ItemStage for PerFile {
    type Config = Nothing;
    type Worker = ();
    fn descriptor(&self) -> Descriptor {
        self.0.clone()
    }
    fn prepare(&self, _: &Nothing, _: &Context) -> Result<(), StageError> {
        Ok(())
    }
    fn item(&self, (): &(), _: &Nothing, item: &Item, ctx: &Context) -> Result<Vec<u8>, ItemError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let bytes = ctx.bytes(&item.blob)?;
        let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
        Ok(format!("{{\"bytes\":{},\"sum\":{sum}}}", bytes.len()).into_bytes())
    }
    fn finish(&self, _: &Nothing, results: &Results<'_>, ctx: &Context) -> Result<Outcome, StageError> {
        let mut lines = Vec::new();
        for result in results.iter() {
            let (item, outcome) = result?;
            lines.extend_from_slice(item.blob.name.as_bytes());
            if let ItemOutcome::Done(line) = outcome {
                lines.extend_from_slice(&line);
            }
            lines.push(b'\n');
        }
        write(ctx, &self.0.outputs[0].kind, &lines)
    }
}

/// The toy pipeline over `dir/in`, with the counters of items that `label` and `infer` computed.
fn pipeline(dir: &Path) -> (Registry, PipelineSpec, [Arc<AtomicUsize>; 2]) {
    let items: [Arc<AtomicUsize>; 2] = Default::default();
    let images = ("images", "files");
    let registry = Registry::new()
        .add(Whole(descriptor("setup", &[], "machine", None)))
        .add(Whole(descriptor("ontology", &[("machine", "machine")], "ontology", None)))
        .add_items(PerFile(
            descriptor("label", &[images, ("ontology", "ontology")], "labels", Some("images")),
            items[0].clone(),
        ))
        .add(Whole(descriptor("review", &[images, ("labels", "labels")], "reviewed", None)))
        .add(Whole(descriptor("train", &[images, ("reviewed", "reviewed")], "model", None)))
        .add_items(PerFile(
            descriptor("infer", &[images, ("model", "model")], "found", Some("images")),
            items[1].clone(),
        ));
    let node = |name: &str| NodeSpec { name: name.into(), uses: name.into(), config: json!({}), ..NodeSpec::default() };
    let spec = PipelineSpec {
        inputs: vec![InputSpec {
            name: "images".into(),
            kind: "files".into(),
            path: dir.join("in"),
            extensions: None,
            recursive: true,
        }],
        nodes: ["setup", "ontology", "label", "review", "train", "infer"].map(node).to_vec(),
    };
    (registry, spec, items)
}

/// One run of the toy pipeline, in this process.
fn child(dir: &Path) -> Result<Exit> {
    let (registry, spec, items) = pipeline(dir);
    let runs = dir.join("runs");
    let store = Store::open(runs.join(".store")).map_err(Report::from_err)?;
    let machine = Machine::probe();
    let graph = Graph::build(&spec, &registry, &machine).map_err(Report::from_err)?;
    let lock = ProjectLock::acquire(&store, "pipeline bench engine", |_| true).map_err(Report::from_err)?;
    let record = run_silently(&runs, &store, &graph, machine)?;
    drop(lock);
    if record.status != Status::Done {
        return Err(miette!("the toy pipeline is {}", record.status.word()));
    }
    let cached = record.stages.values().filter(|s| s.status == Status::Cached).count();
    let doc =
        json!({ "items": items.map(|i| i.load(Ordering::SeqCst)), "cached": cached, "peak_mb": meter::peak_mb() });
    data(doc);
    Ok(Exit::Done)
}

/// CPU seconds, user and system, of all children that ended; `None` where the system does not tell.
fn children_cpu_s() -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may hold blanks; user time of the children is the 16th field of all.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(13)? + ticks(14)?) / TICKS_PER_S)
}

/// What runs of child processes cost.
struct Cost {
    /// Items that `label` and `infer` computed.
    items: [u64; 2],
    cached: u64,
    wall_s: f64,
    cpu_s: Option<f64>,
    peak_mb: Option<f64>,
}

/// Runs the toy pipeline `times` times, each in a process of its own; means, and the highest peak.
fn measure(dir: &Path, times: u32) -> Result<Cost> {
    let program = std::env::current_exe().into_diagnostic().wrap_err("finding this program")?;
    let (cpu, started) = (children_cpu_s(), Instant::now());
    let mut cost = Cost { items: [0; 2], cached: 0, wall_s: 0.0, cpu_s: None, peak_mb: None };
    for _ in 0..times {
        let output = Command::new(&program).args(["bench", "engine", "--child"]).arg(dir).output().into_diagnostic()?;
        if !output.status.success() {
            return Err(miette!("the child process failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let doc: Value = serde_json::from_slice(&output.stdout).into_diagnostic()?;
        cost.items = [0, 1].map(|i| doc["items"][i].as_u64().unwrap_or_default());
        cost.cached = doc["cached"].as_u64().unwrap_or_default();
        cost.peak_mb = doc["peak_mb"].as_f64().map(|p| p.max(cost.peak_mb.unwrap_or(0.0))).or(cost.peak_mb);
    }
    cost.wall_s = started.elapsed().as_secs_f64() / f64::from(times);
    cost.cpu_s = children_cpu_s().zip(cpu).map(|(after, before)| (after - before) / f64::from(times));
    Ok(cost)
}

/// Makes the files numbered `range`: a few bytes each, all different, the same every time.
fn make_files(dir: &Path, range: std::ops::Range<usize>) -> Result<()> {
    for i in range {
        let folder = dir.join("in").join(format!("folder {:04}", i / PER_FOLDER));
        let path = folder.join(format!("drawing {i:07}.png"));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, format!("drawing {i} of a benchmark")))
            .into_diagnostic()
            .wrap_err_with(|| format!("writing `{}`", path.display()))?;
    }
    Ok(())
}

/// Measures, or is the process that is measured.
pub fn run(global: &Global, args: &EngineBench) -> Result<Exit> {
    if let Some(dir) = &args.child {
        return child(dir);
    }
    let sizes = if args.large { vec![10_000, 100_000] } else { vec![args.files as usize] };
    let head = ["files", "run", "labelled", "inferred", "stages cached", "CPU s", "wall s", "peak MB"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut docs = Vec::new();
    for files in sizes {
        let dir = match &args.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        }
        .into_diagnostic()
        .wrap_err("making a folder for the files")?;
        let dir = dir.path();
        if !global.json && !global.quiet {
            say(format_args!("making {files} files in {}", dir.display()));
        }
        make_files(dir, 0..files)?;
        std::thread::sleep(SETTLE);
        let mut costs = vec![("first", measure(dir, 1)?), ("nothing changed", measure(dir, REPEATS)?)];
        make_files(dir, files..files + NEW)?;
        costs.push(("10 new files", measure(dir, 1)?));
        for (name, c) in costs {
            let figure = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
            rows.push(vec![
                number(files as f64),
                name.to_owned(),
                c.items[0].to_string(),
                c.items[1].to_string(),
                format!("{} of 6", c.cached),
                figure(c.cpu_s, 3),
                format!("{:.3}", c.wall_s),
                figure(c.peak_mb, 1),
            ]);
            docs.push(json!({
                "files": files, "stages": 6, "run": name, "labelled": c.items[0], "inferred": c.items[1], "stages_cached": c.cached,
                "cpu_s": c.cpu_s, "wall_s": c.wall_s, "peak_mb": c.peak_mb,
            }));
        }
    }
    super::show(global, &Value::Array(docs), &rows)
}
