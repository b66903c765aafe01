//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::command;

/// From drawings and symbol templates to a trained detector, resumable anywhere.
#[derive(Parser, Debug)]
#[command(
    version,
    about,
    after_help = "Examples:\n  pipeline run                       everything, on the built-in sample if there is no pipeline.yaml\n  pipeline init my-drawings          a new project folder\n  pipeline run --until label         stop after labelling, then look at the report\n  pipeline plan                      what would run, and why"
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Where and how; the same for all commands.
    #[command(flatten)]
    pub global: Global,
}

/// Options that every command understands.
#[derive(ClapArgs, Debug, Clone, Default)]
pub struct Global {
    /// Project file; looked for in this folder and those above it when not given.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of runs; `runs` beside the project file when not given.
    #[arg(long, global = true, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Change one setting, such as `--set label.nms_iou=0.4`; may be repeated.
    #[arg(long, global = true, value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
    /// Settings of this name under `profiles:` in the project file.
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// One JSON document (or JSON lines) on stdout, and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// Only errors and the final result.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a project folder with a commented pipeline.yaml.
    Init(command::init::Init),
    /// Bring the pipeline up to date.
    Run(command::run::Run),
    /// Say what would run, and why.
    Plan(command::run::Select),
    /// How the newest run stands.
    Status,
    /// Earlier runs: list, show, compare, clean up.
    #[command(subcommand)]
    Runs(command::runs::Runs),
    /// Labels, data set, model or predictions as files of other tools; or a bundle for another machine.
    Export(command::export::Export),
    /// Labels made elsewhere, or a bundle from another machine.
    Import(command::import::Import),
    /// Predictions against truth: AP, precision, recall, mistakes.
    Eval(command::eval::Eval),
    /// The report, and decisions about labels.
    #[command(subcommand)]
    Review(command::review::Review),
    /// Find symbols on the given drawings, without a project.
    Label(command::alone::Label),
    /// Train a detector on a labelled data set, without a project.
    Train(command::alone::Train),
    /// Run a trained detector on the given drawings, without a project.
    Infer(command::alone::Infer),
    /// Draw synthetic sheets with exact truth.
    Synth(command::synth::Synth),
    /// What this machine can do, proven by running it.
    Doctor(command::doctor::Doctor),
    /// Carry out the work in a bundle.
    #[command(subcommand)]
    Stage(command::stage::Stage),
    /// Licences of everything in this program.
    Licenses,
    /// Completions for a shell.
    Completions(command::completions::Completions),
    /// Measure this machine: runner, training, template matching.
    #[command(subcommand)]
    Bench(command::bench::Bench),
}
