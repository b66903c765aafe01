//! `pipeline run` and `pipeline plan`.

use std::{
    fmt::Write as _,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Instant,
};

use ::report::number::counted;
use clap::Args;
use engine::{
    CancelToken, ProjectLock,
    event::NoSink,
    executor::Places,
    plan::{Plan, Selection, Travels, Verdict},
    record::{RunRecord, Status},
    run::RunRequest,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    args::Global,
    command::report,
    exit::{Exit, Planning},
    project::Project,
    terminal::{self, Progress, data, duration, say, table},
};

/// Which stages.
#[derive(Args, Debug, Clone, Default)]
pub struct Select {
    /// This stage and everything it needs.
    #[arg(long, value_name = "STAGE")]
    pub until: Option<String>,
    /// This stage and everything after it; earlier results are used as they are.
    #[arg(long, value_name = "STAGE")]
    pub from: Option<String>,
    /// This stage alone; earlier results are used as they are.
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["until", "from"])]
    pub only: Option<String>,
    /// Run this stage even if it is up to date; may be repeated.
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
    /// An error when a stage cannot have the GPU or memory that it needs; without this it runs here all the same.
    #[arg(long)]
    pub require: bool,
}

impl Select {
    fn selection(&self) -> Selection {
        Selection {
            until: self.until.clone(),
            from: self.from.clone(),
            only: self.only.clone(),
            force: self.force.clone(),
        }
    }
}

/// `pipeline run`.
#[derive(Args, Debug, Clone, Default)]
#[command(
    after_help = "Examples:\n  pipeline run\n  pipeline run --until label\n  pipeline run --from review\n  pipeline run --set train.epochs=100 --dry-run\n\nStop it at any time with Ctrl-C and run it again: finished images and epochs are kept."
)]
pub struct Run {
    #[command(flatten)]
    select: Select,
    /// Only say what would run.
    #[arg(long)]
    dry_run: bool,
    /// Cores to use, from 1; all when not given.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

/// Turns SIGINT and SIGTERM into a request to stop; a second signal ends the program at once, which loses nothing
/// that was finished.
pub fn stop_on_signals(cancel: &CancelToken) -> Result<Arc<AtomicI32>> {
    let received = Arc::new(AtomicI32::new(0));
    let mut signals = Signals::new([SIGINT, SIGTERM]).into_diagnostic().wrap_err("watching for signals")?;
    let (cancel, seen) = (cancel.clone(), received.clone());
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if seen.swap(signal, Ordering::SeqCst) != 0 {
                std::process::exit(128 + signal);
            }
            cancel.cancel();
            say("stopping; finished work is kept, and the same command goes on from here (once more to stop at once)");
        }
    });
    Ok(received)
}

/// `pipeline plan`, and `pipeline run --dry-run`.
pub fn plan(global: &Global, select: &Select) -> Result<Exit> {
    let project = Project::open(global)?;
    let graph = project.graph()?;
    let cancel = CancelToken::new();
    let signal = stop_on_signals(&cancel)?;
    let sink: Arc<dyn engine::EventSink> =
        if global.json { Arc::new(NoSink) } else { Arc::new(Progress::new(global.quiet)) };
    let executors = project.executors();
    let places = Places { executors: &executors, machine: &project.machine, require: select.require };
    match engine::plan::plan(&project.store, &graph, &select.selection(), places, &cancel, sink.as_ref()) {
        Ok(plan) if global.json => data(serde_json::to_string_pretty(&plan).into_diagnostic()?),
        Ok(plan) => data(plan_text(&plan)),
        Err(engine::plan::PlanError::Cancelled) => return Ok(Exit::Signal(signal.load(Ordering::SeqCst))),
        Err(e) => return Err(Planning::report(e)),
    }
    Ok(Exit::Done)
}

fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    for i in &plan.inputs {
        let left_out = match i.left_out.len() {
            0 => String::new(),
            n => format!(", {n} left out (such as `{}`: {})", i.left_out[0].0, i.left_out[0].1),
        };
        let _ = writeln!(text, "inputs.{}: {} files in {}{left_out}", i.name, i.files, i.path.display());
    }
    let mut rows = Vec::new();
    for s in &plan.stages {
        let verdict = match s.verdict {
            Verdict::Cached => "cached",
            Verdict::WillRun => "will run",
            Verdict::MayRun => "will run unless what comes before gives the same result",
            Verdict::Given => "taken as it is",
            Verdict::Excluded => "not part of this run",
        };
        let items = s.items.map(|i| format!(", {} of {} images to do", i.todo, i.all)).unwrap_or_default();
        let why = if s.why.is_empty() { String::new() } else { format!(", because {}", s.why.join("; ")) };
        rows.push(vec![s.name.clone(), format!("{verdict}{items}{why}")]);
        if matches!(s.verdict, Verdict::WillRun | Verdict::MayRun) && !s.placement.is_empty() {
            let place = if s.executor.is_empty() { "cannot run: ".into() } else { format!("on `{}`: ", s.executor) };
            rows.push(vec![String::new(), format!("  {place}{}", s.placement)]);
            if let Some(Travels { bytes, and_results_of }) = &s.travels {
                let results: String =
                    and_results_of.iter().map(|stage| format!(" and the results of {stage}")).collect();
                let bytes = terminal::bytes(*bytes);
                rows.push(vec![String::new(), format!("  to be sent, but for what is there: {bytes}{results}")]);
            }
        }
        rows.extend(s.notes.iter().map(|n| vec![String::new(), format!("  {n}")]));
    }
    text + &table(&rows)
}

/// `pipeline run`.
pub fn run(global: &Global, args: &Run) -> Result<Exit> {
    if args.dry_run {
        return plan(global, &args.select);
    }
    let project = Project::open(global)?;
    execute(global, &project, args.select.selection(), args.select.require, args.jobs.map(NonZeroUsize::get))
}

/// What a run came to.
pub struct Ran {
    /// How the program is to end.
    pub exit: Exit,
    /// The record; none when the wait for another run was broken off.
    pub record: Option<RunRecord>,
    /// The summary for people.
    pub summary: String,
}

/// Runs a project's graph, composes the report and prints the summary.
pub fn execute(
    global: &Global,
    project: &Project,
    selection: Selection,
    require: bool,
    jobs: Option<usize>,
) -> Result<Exit> {
    let ran = perform(global, project, selection, require, jobs)?;
    match &ran.record {
        Some(record) if global.json => data(serde_json::to_string_pretty(record).into_diagnostic()?),
        _ if global.json => {}
        _ => data(&ran.summary),
    }
    Ok(ran.exit)
}

/// Runs a project's graph and composes the report.
pub fn perform(
    global: &Global,
    project: &Project,
    selection: Selection,
    require: bool,
    jobs: Option<usize>,
) -> Result<Ran> {
    let started = Instant::now();
    let graph = project.graph()?;
    let cancel = CancelToken::new();
    let signal = stop_on_signals(&cancel)?;
    let progress = Arc::new(Progress::new(global.quiet || global.json));
    if project.sample && !global.quiet && !global.json {
        say(format_args!(
            "No pipeline.yaml here or above: running the built-in sample in {} (`pipeline init` makes a project of your own).",
            project.runs.display()
        ));
    }
    let mut waited = false;
    let lock = ProjectLock::acquire(&project.store, "pipeline run", |holder| {
        if !waited {
            progress.line(&format!("waiting for {holder}, which is at work in this project"));
            waited = true;
        }
        !cancel.is_cancelled()
    })
    .map_err(Report::from_err)?;
    let Some(_lock) = lock else {
        let exit = Exit::Signal(signal.load(Ordering::SeqCst));
        return Ok(Ran { exit, record: None, summary: String::new() });
    };
    let executors = project.executors();
    let request = RunRequest {
        runs: &project.runs,
        store: &project.store,
        graph: &graph,
        selection,
        executors: &executors,
        cores: jobs.unwrap_or(project.machine.cores).max(1),
        machine: project.machine.clone(),
        program: env!("CARGO_PKG_VERSION").into(),
        sink: progress.clone(),
        cancel: cancel.clone(),
        require,
        one_off: project.one_off,
    };
    let (record, dir) = engine::run::run(&request).map_err(Planning::report)?;
    let page = report::write(project, &record, &dir)?;
    decisions_beside(project, &record, &dir)?;
    let summary = summary(&record, &dir.display().to_string(), page.as_deref(), started.elapsed().as_secs_f64());
    let exit = match record.status {
        Status::Done => Exit::Done,
        Status::Waiting => Exit::Waiting,
        Status::Cancelled => Exit::Signal(signal.load(Ordering::SeqCst).max(SIGINT)),
        _ => Exit::Failed,
    };
    Ok(Ran { exit, record: Some(record), summary })
}

/// Puts the file that approves the labels beside the report.
fn decisions_beside(project: &Project, record: &RunRecord, dir: &std::path::Path) -> Result<()> {
    const FILE: &str = "DECISIONS.json";
    for artifact in record.stages.values().filter(|s| s.uses == "review").flat_map(|s| s.outputs.values()) {
        if let Some(blob) = project.store.manifest(*artifact).map_err(Report::from_err)?.blob(FILE) {
            let bytes = project.store.read_blob(blob).map_err(Report::from_err)?;
            project.store.write_file(&dir.join("report").join(FILE), &bytes).map_err(Report::from_err)?;
        }
    }
    Ok(())
}

fn summary(record: &RunRecord, dir: &str, page: Option<&std::path::Path>, seconds: f64) -> String {
    let shown = record.order.iter().map(|name| (name, &record.stages[name]));
    let shown: Vec<_> = shown.filter(|(_, s)| s.status != Status::Excluded).collect();
    let row = |(name, s): &(&String, &engine::record::StageRecord)| {
        let time = if s.status == Status::Done { duration(s.seconds) } else { String::new() };
        vec![(*name).clone(), s.status.word().into(), time, metrics_line(s)]
    };
    let quarantined: u64 = shown.iter().map(|(_, s)| s.notes.quarantined).max().unwrap_or(0);
    let mut text = format!("\nrun {} {} in {}", record.id, record.status.word(), duration(seconds));
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    // Words that are too long for a column stand below their row.
    for (line, (_, s)) in table(&rows).lines().zip(&shown) {
        let _ = write!(text, "\n{line}");
        if !s.detail.is_empty() {
            let _ = write!(text, "\n  {}", s.detail);
        }
    }
    if quarantined > 0 {
        let left_out = counted(quarantined as usize, "image was", "images were");
        let _ = write!(text, "\n{left_out} left out; the report lists them with the reasons");
    }
    if let Some(page) = page {
        let _ = write!(text, "\nlook at  {}", page.display());
    }
    let _ = write!(text, "\nfiles in {dir}");
    if record.status == Status::Waiting {
        text.push_str("\nthe run waits for a person; the same command goes on afterwards");
    }
    text
}

/// Metrics that differ from run to run and say nothing about the work.
pub const NOISE: [&str; 1] = ["gflops"];

/// The metrics of a stage on one line.
fn metrics_line(s: &engine::record::StageRecord) -> String {
    s.notes
        .metrics
        .iter()
        .filter(|(name, _)| !NOISE.contains(&name.as_str()))
        .map(|(name, value)| format!("{name} {}", terminal::number(*value)))
        .collect::<Vec<_>>()
        .join("  ")
}
