//! What a run leaves to read about its events: `events.jsonl`, and `logs/<stage>.log` with the words of each stage.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    event::{Event, EventSink, Level},
    record::now,
    store::StoreError,
};

/// Writes events, with their time, and hands them on to whoever shows progress.
pub(crate) struct Log {
    dir: PathBuf,
    files: Mutex<Files>,
    next: Arc<dyn EventSink>,
}

struct Files {
    events: File,
    /// The logs of stages that said something; `None` for one that cannot be written.
    stages: BTreeMap<String, Option<File>>,
}

#[derive(Serialize)]
struct Line<'a> {
    at: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

impl Log {
    /// Opens the logs in a run's folder.
    pub fn create(run_dir: &Path, next: Arc<dyn EventSink>) -> Result<Self, StoreError> {
        let path = run_dir.join("events.jsonl");
        let events = File::create(&path).map_err(StoreError::io("creating", &path, 0))?;
        let dir = run_dir.join("logs");
        fs::create_dir(&dir).map_err(StoreError::io("creating folder", &dir, 0))?;
        Ok(Self { dir, files: Mutex::new(Files { events, stages: BTreeMap::new() }), next })
    }
}

impl EventSink for Log {
    fn emit(&self, event: &Event) {
        let at = now();
        let mut line = serde_json::to_vec(&Line { at: &at, event }).expect("events are plain data");
        line.push(b'\n');
        {
            // A log that cannot be written (a full disk) must not stop the work; the work's own writes will say so.
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = files.events.write_all(&line);
            if let Some((stage, level, text)) = words(event) {
                let open = || File::create(self.dir.join(format!("{stage}.log"))).ok();
                if let Some(file) = files.stages.entry(stage.to_owned()).or_insert_with(open) {
                    let _ = file.write_all(format!("{at} {level:<5} {text}\n").as_bytes());
                }
            }
        }
        self.next.emit(event);
    }
}

/// The line of a stage's log for an event; `None` for numbers and for what concerns no stage.
fn words(event: &Event) -> Option<(&str, &'static str, String)> {
    let word = |level: Level| match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let (stage, level, text) = match event {
        Event::StageCached { stage, from_run } => {
            (stage, Level::Info, format!("nothing to do: the result of run {from_run} is used"))
        }
        Event::StageStarted { stage, reasons, executor, threads } => {
            let why = reasons.join("; ");
            (stage, Level::Info, format!("started, because {why}; executor {executor}, {threads} threads"))
        }
        Event::Message { stage, level, text } => (stage.as_ref()?, *level, text.clone()),
        Event::Device { stage, asked, used, why } => {
            (stage, Level::Info, format!("device {asked}: {used}, because {why}"))
        }
        Event::ItemQuarantined { stage, item, reason } => (stage, Level::Warn, format!("left out `{item}`: {reason}")),
        Event::StageRetried { stage, attempt, error } => (stage, Level::Warn, format!("try {attempt} failed: {error}")),
        Event::StageFinished { stage, status, seconds, detail } => {
            let level = if status == "failed" { Level::Error } else { Level::Info };
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            (stage, level, format!("{status} after {seconds:.1} s{detail}"))
        }
        Event::RunStarted { .. } | Event::RunFinished { .. } | Event::Progress { .. } | Event::Metric { .. } => {
            return None;
        }
    };
    Some((stage, word(level), text))
}
