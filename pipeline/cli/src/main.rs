//! The binary `pipeline`: arguments become settings once, commands call the crates below, and only this crate prints.
//!
//! Data goes to stdout, talk goes to stderr. Exit codes are in [`exit`].

mod args;
mod built_for;
mod command;
mod exit;
mod project;
mod settings;
mod stages;
mod terminal;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    miette::set_hook(Box::new(|_| {
        Box::new(miette::MietteHandlerOpts::new().width(terminal::width()).context_lines(2).build())
    }))
    .expect("nothing was reported yet");
    match guarded(|| command::dispatch(args)) {
        Ok(code) => code.into(),
        Err(e) => {
            let code = exit::code_of(&e);
            terminal::error(&e);
            code.into()
        }
    }
}

/// A panic is a bug, and has an exit code of its own. Its words were printed when it happened.
fn guarded(command: impl FnOnce() -> miette::Result<exit::Exit>) -> miette::Result<exit::Exit> {
    catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        terminal::say("this is a bug, please report it; finished work is kept");
        Ok(exit::Exit::Bug)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_from_a_failure() {
        assert_eq!(guarded(|| panic!("an invariant broke")).unwrap(), exit::Exit::Bug);
        assert_eq!(guarded(|| Ok(exit::Exit::Waiting)).unwrap(), exit::Exit::Waiting);
    }
}
