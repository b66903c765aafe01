//! `pipeline stage exec`: carries out the work in a bundle, without a project.

use std::path::PathBuf;

use clap::Subcommand;
use engine::plan::Selection;
use miette::{IntoDiagnostic, Result, WrapErr};

use crate::{
    args::Global,
    command::{bundle, run::perform},
    exit::{Exit, Usage},
    project::Project,
    terminal::{data, say},
};

/// `pipeline stage`.
#[derive(Subcommand, Debug)]
pub enum Stage {
    /// Run the stages that a bundle asks for, and write a bundle with the results.
    #[command(
        after_help = "Examples:\n  pipeline export --until train --out work.bundle            here\n  pipeline stage exec --bundle work.bundle --out done.bundle  on the fast machine\n  pipeline import done.bundle && pipeline run                 here again"
    )]
    Exec {
        /// The bundle.
        #[arg(long, value_name = "FILE")]
        bundle: PathBuf,
        /// The bundle with results; `FILE.done` when not given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Unpacks into a scratch project, runs, packs.
pub fn stage(global: &Global, args: &Stage) -> Result<Exit> {
    let Stage::Exec { bundle, out } = args;
    if !bundle.is_file() {
        let help = "make one with `pipeline export --until STAGE --out FILE`";
        return Err(Usage::new(format!("there is no file `{}`", bundle.display()), help));
    }
    let out = out.clone().unwrap_or_else(|| {
        let mut name = bundle.clone().into_os_string();
        name.push(".done");
        name.into()
    });
    let scratch = tempfile::tempdir().into_diagnostic().wrap_err("creating a scratch folder")?;
    let dir = scratch.path().join("project");
    let (project, unpacked) = bundle::unpack(global, &dir, &dir.join("runs"), bundle)?;
    // The settings that the bundle was made with, under those of this command.
    let global = &Global {
        set: unpacked.set.iter().chain(&global.set).cloned().collect(),
        profile: global.profile.clone().or_else(|| unpacked.profile.clone()),
        ..global.clone()
    };
    let project = Project::at(global, project.file, project.runs, false)?;
    for w in &unpacked.warnings {
        say(format_args!("warning: {w}"));
    }
    let until = unpacked.until.ok_or_else(|| {
        Usage::new(
            "the bundle does not say which stage is wanted",
            "make it with `pipeline export --until STAGE --out FILE`",
        )
    })?;
    let selection = Selection { until: Some(until.clone()), ..Selection::default() };
    let ran = perform(global, &project, selection, None)?;
    // Finished stages go back also when a later one failed or waits.
    let written = bundle::pack(global, &project, &until, &out)?;
    if global.json {
        data(
            serde_json::to_string_pretty(&serde_json::json!({ "out": out, "bundle": written, "run": ran.record }))
                .into_diagnostic()?,
        );
    } else {
        data(format_args!("results of {} in {}", written.results.join(", "), out.display()));
    }
    Ok(ran.exit)
}
