//! The seam to where a stage runs. Implementations live in the `executors` crate, one file each.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    context::Context,
    result::UnhashedKey,
    stage::{AnyStage, Outcome, StageError},
};

/// One stage to be executed, with everything it needs.
pub struct Job {
    /// The stage.
    pub stage: Arc<dyn AnyStage>,
    /// Its full config.
    pub config: Value,
    /// What its key is made of.
    pub unhashed: UnhashedKey,
    /// Inputs, outputs, events, cancellation.
    pub ctx: Context,
}

/// A place where stages run. It carries a job out, or carries it elsewhere and brings the outputs back into the
/// job's store.
pub trait Executor: Send + Sync {
    /// Name, as `executor:` in the pipeline file gives it.
    fn name(&self) -> &str;

    /// True when the stage uses this machine's cores and memory, so that the scheduler has to count them.
    fn is_local(&self) -> bool;

    /// Executes the job and returns when it has ended, or soon after `job.ctx` was cancelled.
    fn execute(&self, job: &Job) -> Result<Outcome, StageError>;
}

/// The executors of a run, by name. One named `local` is always there.
pub type Executors = BTreeMap<String, Arc<dyn Executor>>;
