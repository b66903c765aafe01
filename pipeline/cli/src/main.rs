//! The binary `pipeline`: arguments become settings once, commands call the crates below, and only this crate prints.
//!
//! Data goes to stdout, talk goes to stderr. Exit codes are in [`exit`].

mod args;
mod command;
mod exit;
mod project;
mod settings;
mod stages;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    miette::set_hook(Box::new(|_| {
        Box::new(miette::MietteHandlerOpts::new().width(terminal::width()).context_lines(2).build())
    }))
    .expect("nothing was reported yet");
    match command::dispatch(args) {
        Ok(code) => code.into(),
        Err(e) => {
            let code = exit::code_of(&e);
            terminal::error(&e);
            code.into()
        }
    }
}
