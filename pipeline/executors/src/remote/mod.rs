//! Stages on other machines: the protocol between this program, a store of objects and workers that never call home.
//!
//! Reading order: [`protocol`] (what lies where), [`worker`] (one attempt at a shard), [`coordinator`] (this side).

use std::{sync::Arc, time::Duration};

use engine::{
    Card, Needs, Outcome, StageError,
    executor::{Executor, Job},
};

use crate::{
    cluster::{Cluster, Resources},
    local::Local,
    objects::Objects,
    settings,
};

pub mod account;
pub mod cas;
pub mod coordinator;
pub mod generation;
pub mod protocol;
mod words;
pub mod worker;

pub use coordinator::{Clock, Coordinator, Policy, WallClock};

/// A cluster and a store that both ends reach, and the store's address as workers are told it.
pub type Opened = (Box<dyn Cluster>, Arc<dyn Objects>, String);

/// A cluster with a store, as a place where stages run.
pub struct Remote {
    /// Name, as the project file gives it.
    pub name: String,
    /// How work is cut and tried.
    pub policy: Policy,
    /// What a task gets beside what its stage asks for.
    pub needs: Resources,
    /// Time between two parts that a worker leaves.
    pub part_every: Duration,
    /// Its GPUs, as far as the settings say.
    pub card: Card,
    /// What a GPU costs an hour, in any currency.
    pub price_per_gpu_hour: Option<f64>,
    /// Version of the program.
    pub program: String,
    /// Opens cluster and store; asked when a stage is to run.
    pub open: Box<dyn Fn() -> Result<Opened, StageError> + Send + Sync>,
}

impl Executor for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_local(&self) -> bool {
        false
    }

    fn lacks(&self, needs: &Needs) -> Option<String> {
        settings::lacks(&self.needs, &self.card, needs)
    }

    fn gives(&self) -> String {
        settings::gives(&self.needs, &self.card)
    }

    fn execute(&self, job: &Job) -> Result<Outcome, StageError> {
        let (cluster, objects, store) = (self.open)()?;
        let wanted = job.stage.needs(&job.config)?;
        let needs = Resources {
            gpus: if wanted.gpu { self.needs.gpus.max(1.0) } else { self.needs.gpus },
            cores: self.needs.cores.max(wanted.cores),
            memory_bytes: self.needs.memory_bytes.max(wanted.memory_bytes),
            time_limit: self.needs.time_limit,
        };
        let coordinator = Coordinator {
            cluster: cluster.as_ref(),
            objects: objects.as_ref(),
            clock: &WallClock::default(),
            policy: self.policy,
            needs,
            arguments: [
                "stage",
                "exec",
                "--spec",
                &store,
                "--part-seconds",
                &self.part_every.as_secs_f64().to_string(),
            ]
            .map(str::to_owned)
            .to_vec(),
            program: &self.program,
        };
        let outcome = coordinator::execute(&coordinator, job);
        if self.price_per_gpu_hour.is_some() && job.ctx.notes().elsewhere.is_some() {
            job.ctx.elsewhere(|e| e.price = self.price_per_gpu_hour);
        }
        let outcome = outcome?;
        match job.ctx.item_source() {
            // All items have results now; putting them together is light work, and done here.
            Some(_) => Local.execute(job),
            None => Ok(outcome),
        }
    }
}

/// Time between two parts that a worker leaves, when not said otherwise.
pub const PART_EVERY: Duration = Duration::from_secs(20);
