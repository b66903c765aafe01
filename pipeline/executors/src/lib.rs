//! Where stages run: one file an executor. Each carries out a [`engine::executor::Job`] and knows no stage by name.

use std::sync::Arc;

use engine::executor::{Executor, Executors};

pub mod cluster;
mod command;
pub mod credentials;
mod http;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod local;
pub mod objects;
#[cfg(unix)]
pub mod process;
mod ranges;
pub mod ray;
pub mod remote;
pub mod settings;
mod shell;
mod ship;
pub mod slurm;
pub mod ssh;

/// The executors that need no settings.
pub fn builtin() -> Executors {
    let local: Arc<dyn Executor> = Arc::new(local::Local);
    [(local.name().to_owned(), local)].into()
}
