//! One file a command.

use miette::Result;

use crate::{
    args::{Args, Command},
    exit::Exit,
};

pub mod alone;
pub mod bench;
pub mod bundle;
pub mod completions;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod export_model;
pub mod gc;
pub mod import;
pub mod init;
pub mod licenses;
pub mod progress;
pub mod provenance;
pub mod report;
pub mod review;
pub mod run;
pub mod runs;
pub mod stage;
mod sweep;
pub mod synth;

/// Carries out what was asked for.
pub fn dispatch(args: Args) -> Result<Exit> {
    let global = &args.global;
    match args.command {
        Command::Init(a) => init::init(global, &a),
        Command::Run(a) => run::run(global, &a),
        Command::Plan(a) => run::plan(global, &a),
        Command::Status => runs::status(global),
        Command::Runs(a) => runs::runs(global, &a),
        Command::Export(a) => export::export(global, &a),
        Command::Import(a) => import::import(global, &a),
        Command::Eval(a) => eval::eval(global, &a),
        Command::Review(a) => review::review(global, &a),
        Command::Label(a) => alone::label(global, &a),
        Command::Train(a) => alone::train(global, &a),
        Command::Infer(a) => alone::infer(global, &a),
        Command::Synth(a) => synth::synth(global, &a),
        Command::Doctor(a) => doctor::doctor(global, &a),
        Command::Stage(a) => stage::stage(global, &a),
        Command::Licenses => licenses::licenses(global),
        Command::Completions(a) => Ok(completions::completions(&a)),
        Command::Bench(a) => bench::bench(global, &a),
    }
}
