//! The seam to where a stage runs. Implementations live in the `executors` crate, one file each.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    context::Context,
    graph::Node,
    machine::Machine,
    result::UnhashedKey,
    stage::{AnyStage, Needs, Outcome, StageError},
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

    /// True when it has what a stage needs, as far as its settings say.
    fn fits(&self, needs: &Needs) -> bool {
        let _ = needs;
        true
    }

    /// Executes the job and returns when it has ended, or soon after `job.ctx` was cancelled.
    fn execute(&self, job: &Job) -> Result<Outcome, StageError>;
}

/// The executors of a run, by name. One named `local` is always there.
pub type Executors = BTreeMap<String, Arc<dyn Executor>>;

/// Name of the executor that is always there.
pub const LOCAL: &str = "local";

/// Where a stage runs, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Name of the executor.
    pub executor: String,
    /// In words; empty when nothing had to be decided.
    pub why: String,
    /// What the stage needs.
    pub needs: Needs,
}

/// Finds the place for a stage: the one that its settings name, else this machine if it fits, else the first executor by
/// name that does.
pub fn place(node: &Node, executors: &Executors, machine: &Machine) -> Result<Placement, StageError> {
    let mut needs = node.stage.needs(&node.config)?;
    needs.gpu |= node.spec.gpu;
    let at = |executor: &str, why: String| Ok(Placement { executor: executor.to_owned(), why, needs });
    let fits_here = !needs.gpu || !machine.gpus.is_empty();
    let known = || executors.keys().cloned().collect::<Vec<_>>().join(", ");
    match node.spec.executor.as_deref() {
        Some(LOCAL) | None if fits_here => at(LOCAL, String::new()),
        Some(LOCAL) => Err(StageError::input(
            "it needs a GPU, and none was proven on this machine",
            "set `executor:` of this stage to one that has a GPU, or choose settings that run on the CPU",
        )),
        Some(name) => match executors.get(name) {
            Some(executor) if executor.fits(&needs) => at(name, "its settings say so".into()),
            Some(_) => Err(StageError::Config {
                key: "executor".into(),
                message: format!("it needs a GPU, and executor `{name}` gives none; set `gpus` there"),
            }),
            None => Err(StageError::Config {
                key: "executor".into(),
                message: format!("there is no executor `{name}`; there are: {}", known()),
            }),
        },
        None => match executors.iter().find(|(_, e)| !e.is_local() && e.fits(&needs)) {
            Some((name, _)) => at(name, "it needs a GPU, and none was proven on this machine".into()),
            None => Err(StageError::input(
                "it needs a GPU, none was proven on this machine, and no executor gives one",
                "describe one under `executors:` (slurm, ray, ssh), or choose settings that run on the CPU",
            )),
        },
    }
}
