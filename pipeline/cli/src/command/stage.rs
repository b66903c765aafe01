//! `pipeline stage exec`: carries out the work in a bundle, or a shard of a remote job, without a project.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use clap::{Args as ClapArgs, Subcommand};
use engine::{CancelToken, Event, EventSink, Level, StageError, bundle::bundle_digest, plan::Selection, run::chain};
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
        bundle::{self, Carry, Unpacked},
        run::{perform, stop_on_signals},
    },
    exit::{Exit, Usage},
    project::{Project, text_variables},
    terminal::{data, say},
};

/// `pipeline stage`.
#[derive(Subcommand, Debug)]
pub enum Stage {
    /// Run the stages that a bundle asks for, and write a bundle with the results; or a shard of a remote job, as executors
    /// start it.
    #[command(
        after_help = "Examples:\n  pipeline export --until label --out work.tar      here\n  pipeline stage exec --bundle work.tar             on the fast machine; again if it is cut off\n  pipeline import work.tar.done && pipeline run     here again\n\nFinished images and epochs are kept in FILE.work: the same command goes on from there."
    )]
    Exec {
        /// The bundle.
        #[arg(long, value_name = "FILE", required_unless_present = "spec")]
        bundle: Option<PathBuf>,
        /// The bundle with results; `FILE.done` when not given.
        #[arg(long, value_name = "FILE", conflicts_with = "spec")]
        out: Option<PathBuf>,
        /// Folder for the work, kept so that the same command goes on after a cut; `FILE.work` when not given.
        #[arg(long, value_name = "DIR", conflicts_with = "spec")]
        work: Option<PathBuf>,
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
        Stage::Exec { bundle: Some(bundle), out, work, .. } => {
            exec_bundle(global, bundle, out.as_deref(), work.as_deref())
        }
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
    let objects = Remote::open(&args.spec, &text_variables()).map_err(Report::from_err)?;
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

/// A path with letters after it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Unpacks into a project of its own, runs, packs. Everything is kept in the folder for the work: a call that was cut off is
/// gone on from by the next one, and a later bundle of the same project finds the items that are done.
fn exec_bundle(global: &Global, bundle: &Path, out: Option<&Path>, work: Option<&Path>) -> Result<Exit> {
    if !bundle.is_file() {
        let help = "make one with `pipeline export --until STAGE --out FILE`";
        return Err(Usage::new(format!("there is no file `{}`", bundle.display()), help));
    }
    let out = out.map_or_else(|| beside(bundle, ".done"), Path::to_owned);
    let work = work.map_or_else(|| beside(bundle, ".work"), Path::to_owned);
    std::fs::create_dir_all(&work).into_diagnostic().wrap_err_with(|| {
        format!("creating the folder for the work, `{}`; name one that can be written with --work DIR", work.display())
    })?;
    // Absolute, because a relative path in the bundle's settings starts at the project and not here.
    let work = std::path::absolute(&work).into_diagnostic()?;
    let digest = bundle_digest(bundle).map_err(Report::from_err)?;
    let dir = work.join(digest.short());
    let (project, unpacked) = bundle::unpack(global, &dir, &work.join("runs"), bundle)?;
    refuse_other_program(&unpacked)?;
    // The settings that the bundle was made with, under those of this command.
    let global = &Global {
        set: unpacked.set.iter().chain(&global.set).cloned().collect(),
        profile: global.profile.clone().or_else(|| unpacked.profile.clone()),
        ..global.clone()
    };
    let mut project = Project::at(global, project.file, project.runs, false)?;
    project.stay_here();
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
    let ran = perform(global, &project, selection, false, None)?;
    // Finished stages go back also when a later one failed or waits.
    let written = bundle::pack(global, &project, &until, &out, &Carry::Nothing)?;
    if global.json {
        let doc = serde_json::json!({ "out": out, "work": work, "bundle": written, "run": ran.record });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
    } else {
        data(format_args!("results of {} in {}", written.results.join(", "), out.display()));
        if ran.exit == Exit::Done {
            data(format_args!("when they have arrived, {} can be removed", work.display()));
        }
    }
    Ok(ran.exit)
}

/// Results of another program would be of no use where the bundle came from.
fn refuse_other_program(unpacked: &Unpacked) -> Result<()> {
    let help = "use the program in the bundle: `tar -xf BUNDLE bin/pipeline`, or build the same version here";
    let own = env!("CARGO_PKG_VERSION");
    if unpacked.program != own {
        let text = format!("the bundle was made by version {} of the program, and this is {own}", unpacked.program);
        return Err(Usage::new(text, help));
    }
    match unpacked.other_models.first() {
        Some(model) => {
            Err(Usage::new(format!("this program has another model `{model}` than the bundle was made for"), help))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_is_told_where_the_right_one_is() {
        let own = || Unpacked { program: env!("CARGO_PKG_VERSION").into(), ..Unpacked::default() };
        refuse_other_program(&own()).unwrap();
        let said = |unpacked| refuse_other_program(&unpacked).unwrap_err().to_string();
        assert!(said(Unpacked { program: "99.0.0".into(), ..own() }).contains("version 99.0.0"));
        assert!(said(Unpacked { other_models: vec!["symbols-n".into()], ..own() }).contains("`symbols-n`"));
    }
}
