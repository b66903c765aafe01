//! `pipeline completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{exit::Exit, terminal::data};

/// `pipeline completions`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline completions bash > ~/.local/share/bash-completion/completions/pipeline\n  pipeline completions fish > ~/.config/fish/completions/pipeline.fish"
)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
pub fn completions(args: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Args::command(), "pipeline", &mut script);
    data(String::from_utf8_lossy(&script).trim_end());
    Exit::Done
}
