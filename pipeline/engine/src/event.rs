//! What happens in a run, as it happens. Events go to `events.jsonl` and to whoever shows progress.

use serde::{Deserialize, Serialize};

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For the log only.
    Debug,
    /// Worth knowing.
    Info,
    /// Something was skipped, repaired or fell back.
    Warn,
    /// Something failed.
    Error,
}

/// One thing that happened. `stage` is the node's name in the graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the field names are the documentation of the JSON lines")]
pub enum Event {
    /// A run began.
    RunStarted { run: String, stages: Vec<String> },
    /// A stage's result was taken from the cache.
    StageCached { stage: String, from_run: String },
    /// A stage will run, with the reasons in words.
    StageStarted { stage: String, reasons: Vec<String>, executor: String, threads: usize },
    /// Work done so far; `unit` such as `images` or `epochs`; `detail` is short text such as `loss 3.21`.
    Progress { stage: String, done: u64, total: u64, unit: String, detail: String },
    /// Words for people.
    Message { stage: Option<String>, level: Level, text: String },
    /// A number worth plotting; `step` is the epoch or item count.
    Metric { stage: String, name: String, value: f64, step: u64 },
    /// The device that a stage runs on, and why.
    Device { stage: String, asked: String, used: String, why: String },
    /// An item is left out for good because it is bad.
    ItemQuarantined { stage: String, item: String, reason: String },
    /// A stage failed and is tried again.
    StageRetried { stage: String, attempt: u32, error: String },
    /// A stage ended: `done`, `waiting`, `failed`, `cancelled` or `skipped`.
    StageFinished { stage: String, status: String, seconds: f64, detail: String },
    /// The run ended.
    RunFinished { run: String, status: String, seconds: f64 },
}

/// Receives events, from several threads.
pub trait EventSink: Send + Sync {
    /// Takes one event; must not block for long and must not fail.
    fn emit(&self, event: &Event);
}

/// Throws events away.
pub struct NoSink;

impl EventSink for NoSink {
    fn emit(&self, _event: &Event) {}
}
