//! The seam to a system that runs commands on other machines: Slurm, Ray, a machine behind ssh, Kubernetes.
//!
//! Owns what such a system is asked for and what it may answer. Refuses to own what the commands do, which of their
//! results count and when one is tried again: that is the protocol's, and it trusts no answer from here, since every
//! such system forgets jobs, runs some twice and reports others as failed that go on.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What one task needs of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// GPUs; a fraction shares one, where the system can.
    pub gpus: f64,
    /// Cores; 0 leaves it to the system.
    pub cores: usize,
    /// Main memory, bytes; 0 leaves it to the system.
    pub memory_bytes: u64,
    /// Time after which the system ends the task.
    pub time_limit: Option<Duration>,
}

/// Tasks that are submitted together and differ in a number only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Name, the same for the same work: letters, digits and `-`, at most 40 of them.
    pub name: String,
    /// The numbers of its tasks, ascending.
    pub tasks: Vec<u32>,
    /// What follows the program's name; `{task}` in one of them becomes the task's number.
    pub arguments: Vec<String>,
    /// Variables that every task gets. Never secrets: they can be read by others in most systems.
    pub environment: BTreeMap<String, String>,
    /// What each task needs.
    pub needs: Resources,
}

impl Batch {
    /// The arguments of one task.
    pub fn arguments_of(&self, task: u32) -> Vec<String> {
        self.arguments.iter().map(|a| a.replace("{task}", &task.to_string())).collect()
    }
}

/// How a task is said to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It has not begun; the system's reason, as it words it.
    Pending {
        /// Such as `Resources` or `Priority`; empty when none was given.
        why: String,
    },
    /// It runs.
    Running {
        /// Name of the machine; empty when unknown.
        node: String,
    },
    /// It ended with exit code 0.
    Succeeded,
    /// It ended in another way, or was cancelled.
    Failed {
        /// Exit code, where there was one.
        exit: Option<i32>,
        /// In the system's words: `OUT_OF_MEMORY`, `NODE_FAIL`, `TIMEOUT`, `CANCELLED`.
        why: String,
    },
}

impl TaskState {
    /// True when it will not change any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. })
    }
}

/// Why a system could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It did not answer; the same request may succeed later.
    #[error("{system} did not answer: {message}")]
    Unreachable {
        /// Which system, such as `slurm` or `ray at http://…`.
        system: String,
        /// What was tried and what came back.
        message: String,
    },
    /// It will not accept this however often it is asked.
    #[error("{system} refused: {message}\n{help}")]
    Refused {
        /// Which system.
        system: String,
        /// Its words.
        message: String,
        /// What to change.
        help: String,
    },
}

/// A system that runs commands on other machines.
///
/// Every call may be repeated: after a crash of this program the next one asks again by the same names. Calls wait for
/// the system, a minute and more when it is silent, and must not be made from asynchronous code.
pub trait Cluster: Send + Sync + fmt::Debug {
    /// Its kind and place in a few words, for messages and records: `slurm, partition gpu`.
    fn describe(&self) -> String;

    /// Submits the tasks that the system does not know under this batch's name yet, pending, running or ended. Asking
    /// twice does not start anything twice.
    fn submit(&self, batch: &Batch) -> Result<(), ClusterError>;

    /// States of a batch's tasks. A task that was never submitted, or that the system has forgotten, is absent.
    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError>;

    /// Ends tasks, pending or running. Success means that the system took the request; a task that ended already, or
    /// is unknown, is no error. A cancelled task ends as failed or becomes absent; a pending one may begin all the same,
    /// where the system was about to start it, and is ended then.
    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError>;

    /// What a task has written to its output and error streams, from a byte on; empty when there is nothing more yet. An
    /// answer may be a part only, 16 MiB at least: ask again from where it ended. Some systems add lines of their own.
    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError>;
}
