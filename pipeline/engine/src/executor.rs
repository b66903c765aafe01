//! The seam to where a stage runs. Implementations live in the `executors` crate, one file each.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    context::Context,
    graph::Node,
    machine::{Gpu, Machine},
    result::UnhashedKey,
    stage::{AnyStage, Card, Needs, Outcome, StageError, gib},
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

    /// What a stage needs and this does not give, as far as its settings say; none when it has everything.
    fn lacks(&self, needs: &Needs) -> Option<String> {
        let _ = needs;
        None
    }

    /// What it gives, in words: `2 GPUs with 40.0 GiB`.
    fn gives(&self) -> String {
        String::new()
    }

    /// Executes the job and returns when it has ended, or soon after `job.ctx` was cancelled.
    fn execute(&self, job: &Job) -> Result<Outcome, StageError>;
}

/// The executors of a run, by name. One named `local` is always there.
pub type Executors = BTreeMap<String, Arc<dyn Executor>>;

/// Name of the executor that is always there.
pub const LOCAL: &str = "local";

/// Where stages may run.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The executors; `local` must be among them.
    pub executors: &'a Executors,
    /// This machine.
    pub machine: &'a Machine,
    /// True when a stage must have what it needs; otherwise it runs here without, where it can.
    pub require: bool,
}

/// Where a stage runs, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Name of the executor.
    pub executor: String,
    /// In words; empty when nothing had to be decided.
    pub why: String,
    /// True when it does not get what it needs there.
    pub fell_back: bool,
    /// What the stage needs.
    pub needs: Needs,
}

/// Finds the place for a stage: the one that its settings name, else this machine if it fits, else the first executor by
/// name that does, else this machine all the same. Only a stage that cannot run without a GPU at all is refused then.
pub fn place(node: &Node, places: Places<'_>) -> Result<Placement, StageError> {
    let mut needs = node.stage.needs(&node.config)?;
    let cannot_without = needs.gpu;
    needs.gpu |= node.spec.gpu;
    if node.spec.gpu {
        needs.card = node.spec.card;
    }
    let at =
        |executor: &str, why: String, fell_back| Ok(Placement { executor: executor.to_owned(), why, fell_back, needs });
    let missing = missing_here(&needs, places.machine);
    let fall_back = |missing: String, others: String| {
        let must = places.require || (cannot_without && places.machine.gpus.is_empty());
        if !must {
            return at(LOCAL, format!("{missing}{others}; it runs here without"), true);
        }
        Err(StageError::input(
            format!("{missing}{others}"),
            if cannot_without {
                "describe an executor that has it under `executors:` (slurm, ray, ssh), or choose settings that run on the CPU"
            } else {
                "describe an executor that has it under `executors:` (slurm, ray, ssh), take `gpu:` off the stage, or leave \
                 `--require` out to run it here without"
            },
        ))
    };
    match (node.spec.executor.as_deref(), missing) {
        (Some(LOCAL) | None, None) => at(LOCAL, String::new(), false),
        (Some(LOCAL), Some(missing)) => fall_back(missing, "; `executor: local` puts it here".into()),
        (Some(name), _) => {
            let wrong = |message| StageError::Config { key: "executor".into(), message };
            let known = || places.executors.keys().cloned().collect::<Vec<_>>().join(", ");
            let executor = places
                .executors
                .get(name)
                .ok_or_else(|| wrong(format!("there is no executor `{name}`; there are: {}", known())))?;
            match executor.lacks(&needs) {
                None => at(name, "its settings say so".into(), false),
                Some(lacks) => Err(wrong(format!("executor `{name}` does not fit: {lacks}"))),
            }
        }
        (None, Some(missing)) => {
            let others: Vec<_> = places.executors.iter().filter(|(_, e)| !e.is_local()).collect();
            match others.iter().find(|(_, e)| e.lacks(&needs).is_none()) {
                Some((name, _)) => at(name, missing, false),
                None if others.is_empty() => fall_back(missing, "; no other executor is described".into()),
                None => {
                    let lacks: Vec<String> =
                        others.iter().map(|(name, e)| format!("`{name}` ({})", e.gives())).collect();
                    fall_back(missing, format!("; no executor has it: {}", lacks.join(", ")))
                }
            }
        }
    }
}

/// What a stage needs and this machine has not, in words.
fn missing_here(needs: &Needs, machine: &Machine) -> Option<String> {
    let covers = |gpu: &Gpu| Card { memory_bytes: gpu.memory_bytes, compute: gpu.compute }.covers(&needs.card);
    if needs.gpu && machine.gpus.is_empty() {
        return Some(format!("it needs a GPU{}, and none was proven on this machine", needs.card));
    }
    if needs.gpu && !machine.gpus.iter().any(covers) {
        let here: Vec<String> = machine
            .gpus
            .iter()
            .map(|g| format!("{}{}", g.name, Card { memory_bytes: g.memory_bytes, compute: g.compute }))
            .collect();
        return Some(format!("it needs a GPU{}, and this machine has {}", needs.card, here.join(", ")));
    }
    (needs.memory_bytes > machine.memory_bytes).then(|| {
        format!(
            "it needs about {} of memory, and this machine has {}",
            gib(needs.memory_bytes),
            gib(machine.memory_bytes)
        )
    })
}
