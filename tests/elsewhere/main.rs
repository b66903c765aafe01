//! Stages on real servers (Slurm, Ray, sshd, S3) by the real program, undisturbed and with everything that goes wrong there:
//! what comes out is what a local run gives, to the byte, and what a dead worker left is not computed again.
//!
//! `tests/servers/run` starts the servers and runs this; without them every test says that it is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

mod far;
mod moto;
mod overhead;
mod proxy;
mod ray;
mod slurm;
mod ssh;
#[path = "../support/mod.rs"]
mod support;
