//! The project that a command works on: its file, its folder of runs, its store and its graph.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use engine::{Machine, Registry, Store, graph::Graph, graph::PipelineSpec};
use miette::{IntoDiagnostic, Report, Result, WrapErr};

use crate::{
    args::Global,
    exit::Usage,
    settings::{self, Layers},
    stages,
};

/// Name of the project file.
pub const FILE: &str = "pipeline.yaml";
/// Variables that mean something else than a setting.
const NOT_SETTINGS: [&str; 1] = ["FORCE_CPU"];

/// A project, opened.
pub struct Project {
    /// The project file.
    pub file: PathBuf,
    /// True for the built-in sample.
    pub sample: bool,
    /// Folder of runs.
    pub runs: PathBuf,
    /// The store.
    pub store: Store,
    /// All settings, merged.
    pub spec: PipelineSpec,
    /// The stages.
    pub registry: Registry,
    /// This machine.
    pub machine: Machine,
}

impl Project {
    /// Opens the project of this folder, or the built-in sample when there is none in reach.
    pub fn open(global: &Global) -> Result<Self> {
        Self::open_with(global, &[])
    }

    /// Opens the project with further settings, laid over all others.
    pub fn open_with(global: &Global, set: &[String]) -> Result<Self> {
        let found = match &global.config {
            Some(file) if file.is_file() => Some(file.clone()),
            Some(file) => {
                return Err(Usage::new(
                    format!("there is no project file `{}`", file.display()),
                    "check the path, or make a project with `pipeline init`",
                ));
            }
            None => find(&env::current_dir().into_diagnostic()?),
        };
        let (file, sample, runs) = match found {
            Some(file) => {
                let runs = global.runs.clone().unwrap_or_else(|| folder(&file).join("runs"));
                (file, false, runs)
            }
            None => {
                let runs = global.runs.clone().unwrap_or_else(|| PathBuf::from("runs"));
                (unpack_sample(&runs.join("sample"))?, true, runs)
            }
        };
        let text = fs::read_to_string(&file)
            .into_diagnostic()
            .wrap_err_with(|| format!("reading the project file `{}`", file.display()))?;
        let registry = stages::registry();
        let layers = Layers {
            profile: global.profile.clone(),
            environment: environment(),
            set: global.set.iter().chain(set).cloned().collect(),
        };
        let spec = settings::load(&file, &text, folder(&file), &layers, &registry).map_err(|e| Report::new(*e))?;
        let store = Store::open(runs.join(".store")).map_err(Report::from_err)?;
        Ok(Self { file, sample, runs, store, spec, registry, machine: Machine::probe() })
    }

    /// The checked graph.
    pub fn graph(&self) -> Result<Graph> {
        Graph::build(&self.spec, &self.registry, &self.machine)
            .map_err(|e| Report::from_err(engine::plan::PlanError::from(e)))
    }
}

/// The folder that the project file lies in.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn find(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|dir| dir.join(FILE)).find(|file| file.is_file())
}

/// `PIPELINE_LABEL__NMS_IOU=0.4` sets `label.nms_iou`. Sorted, so that the order of the environment does not matter.
fn environment() -> Vec<(String, String)> {
    let mut vars: Vec<(String, String)> = env::vars()
        .filter_map(|(name, value)| Some((name.strip_prefix("PIPELINE_")?.to_owned(), value)))
        .filter(|(name, _)| !NOT_SETTINGS.contains(&name.as_str()))
        .collect();
    vars.sort();
    vars
}

/// Writes the built-in sample's files below `dir`, those that are not there yet or differ.
fn unpack_sample(dir: &Path) -> Result<PathBuf> {
    for (name, bytes) in synth::sample::files() {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|old| old == *bytes) {
            continue;
        }
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .into_diagnostic()
            .wrap_err_with(|| format!("unpacking the sample to `{}`", path.display()))?;
    }
    Ok(dir.join(FILE))
}
