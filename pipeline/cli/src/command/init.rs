//! `pipeline init`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use miette::{IntoDiagnostic, Result, WrapErr};
use serde_json::json;

use crate::{
    args::Global,
    exit::{Exit, Usage},
    project,
    terminal::data,
};

/// `pipeline init`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  pipeline init my-drawings\n  pipeline init demo --sample hvac")]
pub struct Init {
    /// The folder; this one when not given.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Fill it with a sample instead of leaving it empty.
    #[arg(long, value_enum)]
    sample: Option<Sample>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sample {
    /// Nine classes of HVAC symbols on synthetic drawings.
    Hvac,
}

const PROJECT_FILE: &str = include_str!("../../templates/pipeline.yaml");

/// Makes the folder; never overwrites a file.
pub fn init(global: &Global, args: &Init) -> Result<Exit> {
    if args.dir.exists() && !args.dir.is_dir() {
        return Err(Usage::new(format!("`{}` is no folder", args.dir.display()), "name a new or empty folder"));
    }
    let file = args.dir.join(project::FILE);
    if file.exists() {
        return Err(Usage::new(
            format!("there is a project in `{}` already: `{}`", args.dir.display(), file.display()),
            "edit that file, or name another folder",
        ));
    }
    if args.sample.is_some() {
        for (name, bytes) in synth::sample::files() {
            write(&args.dir.join(name), bytes)?;
        }
    } else {
        for folder in ["datasets/drawings", "ontologies/templates"] {
            let dir = args.dir.join(folder);
            fs::create_dir_all(&dir).into_diagnostic().wrap_err_with(|| format!("creating `{}`", dir.display()))?;
        }
        write(&file, PROJECT_FILE.as_bytes())?;
    }
    let ignore = args.dir.join(".gitignore");
    if !ignore.exists() {
        write(&ignore, b"/runs/\n")?;
    }
    let dir = args.dir.display();
    if global.json {
        data(json!({ "project": args.dir, "file": file, "sample": args.sample.map(|_| "hvac") }));
        return Ok(Exit::Done);
    }
    data(format_args!("made a project in {dir}"));
    if args.sample.is_none() {
        data(format_args!(
            "next:\n  1. put drawings (jpg, png, tiff, bmp, webp) into {dir}/datasets/drawings\n  2. put one picture of each symbol into {dir}/ontologies/templates; the file name is the class name (ball_valve.png)\n  3. cd {dir} && pipeline run --until label, look at runs/latest/report/index.html\n  4. pipeline run"
        ));
    } else {
        data(format_args!("next: cd {dir} && pipeline run"));
    }
    Ok(Exit::Done)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        return Err(Usage::new(
            format!("`{}` exists already, and init overwrites nothing", path.display()),
            "name an empty folder",
        ));
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, bytes))
        .into_diagnostic()
        .wrap_err_with(|| format!("writing `{}`", path.display()))
}
