//! On this machine, in this process, in a thread pool of the size that the scheduler granted.

use engine::{
    Outcome, StageError,
    executor::{Executor, Job, LOCAL},
};

/// Runs a stage here.
pub struct Local;

impl Executor for Local {
    fn name(&self) -> &'static str {
        LOCAL
    }

    fn is_local(&self) -> bool {
        true
    }

    fn execute(&self, job: &Job) -> Result<Outcome, StageError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(job.ctx.threads())
            .thread_name(|i| format!("stage-{i}"))
            .build()
            .map_err(|e| StageError::failed("starting threads", e))?;
        pool.install(|| job.stage.run(&job.config, &job.ctx))
    }
}
