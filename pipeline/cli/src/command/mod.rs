//! One file a command.

use miette::Result;

use crate::{
    args::{Args, Command},
    exit::Exit,
};

pub mod gc;
pub mod init;
pub mod report;
pub mod run;
pub mod runs;

/// Carries out what was asked for.
pub fn dispatch(args: Args) -> Result<Exit> {
    let global = &args.global;
    match args.command {
        Command::Init(a) => init::init(&a),
        Command::Run(a) => run::run(global, &a),
        Command::Plan(a) => run::plan(global, &a),
        Command::Status => runs::status(global),
        Command::Runs(a) => runs::runs(global, &a),
    }
}
