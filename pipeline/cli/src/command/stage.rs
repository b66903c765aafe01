//! `pipeline stage exec`: carries out the work in a bundle, or a shard of a remote job, without a project.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use clap::{Args as ClapArgs, Subcommand};
use engine::{CancelToken, Event, EventSink, Level, StageError, plan::Selection, run::chain};
use executors::{
    objects::Remote,
    remote::{
        PART_EVERY,
        protocol::Layout,
        worker::{Ended, Task, Worker},
    },
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use tempfile::TempDir;

use crate::{
    args::Global,
    command::{
        bundle,
        run::{perform, stop_on_signals},
    },
    exit::{Exit, Usage},
    project::Project,
    terminal::{data, say},
};

/// `pipeline stage`.
#[derive(Subcommand, Debug)]
pub enum Stage {
    /// Run the stages that a bundle asks for, and write a bundle with the results; or a shard of a remote job, as executors
    /// start it.
    #[command(
        after_help = "Examples:\n  pipeline export --until train --out work.bundle            here\n  pipeline stage exec --bundle work.bundle --out done.bundle  on the fast machine\n  pipeline import done.bundle && pipeline run                 here again"
    )]
    Exec {
        /// The bundle.
        #[arg(long, value_name = "FILE", required_unless_present = "spec")]
        bundle: Option<PathBuf>,
        /// The bundle with results; `FILE.done` when not given.
        #[arg(long, value_name = "FILE", conflicts_with = "spec")]
        out: Option<PathBuf>,
        /// A shard instead of a bundle.
        #[command(flatten)]
        shard: Option<Shard>,
    },
}

/// A shard of a remote job.
#[derive(ClapArgs, Debug)]
#[group(conflicts_with = "bundle")]
pub struct Shard {
    /// Address of the store of remote jobs.
    #[arg(long, value_name = "URL", required = false)]
    spec: String,
    /// The job there.
    #[arg(long, required = false, requires = "spec", hide = true)]
    job: String,
    /// Its generation.
    #[arg(long, required = false, hide = true)]
    generation: u32,
    /// The shard.
    #[arg(long, required = false, hide = true)]
    shard: u32,
    /// The batch that it was submitted with.
    #[arg(long, required = false, hide = true)]
    batch: String,
    /// GPUs that are reserved for it.
    #[arg(long, default_value_t = 0.0, hide = true)]
    gpus: f64,
    /// Seconds between two parts that are left.
    #[arg(long, default_value_t = PART_EVERY.as_secs_f64(), hide = true)]
    part_seconds: f64,
    /// Begin items one by one, because earlier attempts broke off.
    #[arg(long, hide = true)]
    careful: bool,
}

/// Does what was asked for.
pub fn stage(global: &Global, args: &Stage) -> Result<Exit> {
    match args {
        Stage::Exec { shard: Some(shard), .. } => work(shard),
        Stage::Exec { bundle: Some(bundle), out, .. } => exec_bundle(global, bundle, out.as_deref()),
        Stage::Exec { .. } => Err(Usage::new("nothing to do was named", "name a bundle with --bundle FILE")),
    }
}

/// Name of this machine, for records.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

/// A folder of this attempt's own, while its lock is held. Those that killed attempts left on this machine are removed.
fn scratch() -> std::io::Result<(TempDir, File)> {
    const PREFIX: &str = "pipeline-shard-";
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let is_free = || File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_free() {
            // What cannot be removed is in nobody's way but for its size.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    // Under its name only when it is held: until then it would be taken for one that was left.
    let lock = File::create(dir.path().join("new"))?;
    lock.lock()?;
    fs::rename(dir.path().join("new"), dir.path().join("lock"))?;
    Ok((dir, lock))
}

/// Works on a shard; what it has to say goes to the terminal, which is a log there.
fn work(args: &Shard) -> Result<Exit> {
    let environment: Vec<(String, String)> = std::env::vars().collect();
    let objects = Remote::open(&args.spec, &environment).map_err(Report::from_err)?;
    let cancel = CancelToken::new();
    let signal = stop_on_signals(&cancel)?;
    let (dir, _lock) = scratch().into_diagnostic().wrap_err("making a temporary folder")?;
    let host = host();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let registry = crate::stages::registry();
    let worker = Worker {
        objects: Arc::new(objects),
        registry: &registry,
        dir: dir.path(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        sink: Arc::new(Lines),
        cancel,
        attempt: format!("{}-{host}-{}-{now:x}", args.batch, std::process::id()),
        host,
        gpus: args.gpus,
        program: env!("CARGO_PKG_VERSION"),
        part_every: Duration::try_from_secs_f64(args.part_seconds).unwrap_or(PART_EVERY),
    };
    let task = Task {
        layout: Layout { job: args.job.clone(), store: String::new() },
        generation: args.generation,
        shard: args.shard,
        batch: args.batch.clone(),
        careful: args.careful,
    };
    match worker.run(&task) {
        Ok(ended) => {
            say(format_args!(
                "{}",
                match ended {
                    Ended::Won => "the result is in the store",
                    Ended::Second => "another attempt was first, with the same result",
                    Ended::Differs => "another attempt was first, and its result differs; both are in the store",
                    Ended::AlreadyDone => "there was a result already",
                    Ended::NotWanted => "nobody wants this any more",
                }
            ));
            Ok(Exit::Done)
        }
        Err(StageError::Cancelled) => Ok(Exit::Signal(signal.load(Ordering::SeqCst))),
        Err(e) => {
            say(format_args!("error: {}", chain(&e)));
            Ok(if matches!(e, StageError::Transient { .. }) { Exit::Later } else { Exit::Failed })
        }
    }
}

/// Events as lines of a log: messages at once, progress not at all, since the store shows it.
struct Lines;

impl EventSink for Lines {
    fn emit(&self, event: &Event) {
        match event {
            Event::Message { level, text, .. } if *level > Level::Debug => say(format_args!("{text}")),
            Event::Device { used, why, .. } => say(format_args!("runs on {used}: {why}")),
            Event::ItemQuarantined { item, reason, .. } => say(format_args!("{item} is left out: {reason}")),
            _ => {}
        }
    }
}

/// Unpacks into a scratch project, runs, packs.
fn exec_bundle(global: &Global, bundle: &Path, out: Option<&Path>) -> Result<Exit> {
    if !bundle.is_file() {
        let help = "make one with `pipeline export --until STAGE --out FILE`";
        return Err(Usage::new(format!("there is no file `{}`", bundle.display()), help));
    }
    let out = out.map_or_else(
        || {
            let mut name = bundle.to_owned().into_os_string();
            name.push(".done");
            name.into()
        },
        Path::to_owned,
    );
    let scratch = tempfile::tempdir().into_diagnostic().wrap_err("creating a scratch folder")?;
    let dir = scratch.path().join("project");
    let (project, unpacked) = bundle::unpack(global, &dir, &dir.join("runs"), bundle)?;
    // The settings that the bundle was made with, under those of this command.
    let global = &Global {
        set: unpacked.set.iter().chain(&global.set).cloned().collect(),
        profile: global.profile.clone().or_else(|| unpacked.profile.clone()),
        ..global.clone()
    };
    let project = Project::at(global, project.file, project.runs, false)?;
    for w in &unpacked.warnings {
        say(format_args!("warning: {w}"));
    }
    let until = unpacked.until.ok_or_else(|| {
        Usage::new(
            "the bundle does not say which stage is wanted",
            "make it with `pipeline export --until STAGE --out FILE`",
        )
    })?;
    let selection = Selection { until: Some(until.clone()), ..Selection::default() };
    let ran = perform(global, &project, selection, None)?;
    // Finished stages go back also when a later one failed or waits.
    let written = bundle::pack(global, &project, &until, &out)?;
    if global.json {
        data(
            serde_json::to_string_pretty(&serde_json::json!({ "out": out, "bundle": written, "run": ran.record }))
                .into_diagnostic()?,
        );
    } else {
        data(format_args!("results of {} in {}", written.results.join(", "), out.display()));
    }
    Ok(ran.exit)
}
