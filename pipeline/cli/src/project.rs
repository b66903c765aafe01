//! The project that a command works on: its file, its folder of runs, its store and its graph.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use engine::{
    InputSpec, Machine, ProjectLock, Registry, Store,
    executor::Executors,
    graph::{Graph, NodeSpec, PipelineSpec},
    machine::Gpu,
};
use executors::settings::{ExecutorSettings, Place};
use miette::{IntoDiagnostic, Report, Result, WrapErr};

use crate::{
    args::Global,
    command::alone::ALONE,
    exit::{Planning, Usage},
    settings::{self, Layers, Places},
    stages,
    terminal::say,
};

/// Name of the project file.
pub const FILE: &str = "pipeline.yaml";

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
    /// Where they were written.
    places: Places,
    /// Executors of the project file, by name.
    executors: BTreeMap<String, ExecutorSettings>,
    /// True for work beside the project's pipeline: `latest` is not for it.
    pub one_off: bool,
    /// What the report says first when it is about a part of the images only.
    pub so_far: Option<String>,
    /// The stages.
    pub registry: Registry,
    /// This machine.
    pub machine: Machine,
}

impl Project {
    /// Opens the project of this folder, or the built-in sample when there is none in reach.
    pub fn open(global: &Global) -> Result<Self> {
        if let Some(project) = Self::found(global)? {
            return Ok(project);
        }
        let runs = global.runs.clone().unwrap_or_else(|| PathBuf::from("runs"));
        let file = unpack_sample(&runs.join("sample"))?;
        Self::at(global, file, runs, true)
    }

    /// The project of this folder or one above it.
    pub fn found(global: &Global) -> Result<Option<Self>> {
        let file = match &global.config {
            Some(file) if file.is_file() => Some(file.clone()),
            Some(file) => {
                return Err(Usage::new(
                    format!("there is no project file `{}`", file.display()),
                    "check the path, or make a project with `pipeline init`",
                ));
            }
            None => find(&env::current_dir().into_diagnostic()?),
        };
        let Some(file) = file else { return Ok(None) };
        let runs = global.runs.clone().unwrap_or_else(|| folder(&file).join("runs"));
        Self::at(global, file, runs, false).map(Some)
    }

    /// The project of this folder; without one, an empty one whose file is not there, for work on files that the
    /// command line names.
    pub fn found_or_empty(global: &Global) -> Result<Self> {
        if let Some(project) = Self::found(global)? {
            return Ok(project);
        }
        let runs = global.runs.clone().unwrap_or_else(|| PathBuf::from("runs"));
        Self::with_text(global, PathBuf::from(FILE), "", runs, false)
    }

    /// Opens the project of a file.
    pub fn at(global: &Global, file: PathBuf, runs: PathBuf, sample: bool) -> Result<Self> {
        let text = fs::read_to_string(&file)
            .into_diagnostic()
            .wrap_err_with(|| format!("reading the project file `{}`", file.display()))?;
        Self::with_text(global, file, &text, runs, sample)
    }

    fn with_text(global: &Global, file: PathBuf, text: &str, runs: PathBuf, sample: bool) -> Result<Self> {
        let registry = stages::registry();
        let layers = Layers {
            profile: global.profile.clone(),
            environment: environment(env::vars_os())?,
            set: global.set.clone(),
        };
        let (mut spec, executors, places) =
            settings::load_with_places(&file, text, folder(&file), &layers, &registry).map_err(|e| Report::new(*e))?;
        if runs.exists() && !runs.is_dir() {
            return Err(Usage::new(format!("`{}` is no folder", runs.display()), "name a folder for runs with --runs"));
        }
        leave_gpus_alone(&mut spec.nodes)?;
        connect_decisions(&mut spec, folder(&file));
        connect_exemplars(&mut spec);
        let store = Store::open(runs.join(".store")).map_err(Report::from_err)?;
        let machine = machine(&spec)?;
        Ok(Self { file, sample, runs, store, spec, executors, places, one_off: false, so_far: None, registry, machine })
    }

    /// The folder that the project file lies in.
    pub fn dir(&self) -> &Path {
        folder(&self.file)
    }

    /// The path of an input.
    pub fn input(&self, name: &str) -> Option<&Path> {
        self.spec.inputs.iter().find(|i| i.name == name).map(|i| i.path.as_path())
    }

    /// Takes the project's lock, waiting for whoever has it.
    pub fn lock(&self, what: &str) -> Result<ProjectLock> {
        lock(&self.store, what)
    }

    /// The places where stages can run. Nothing is opened before a stage runs there.
    pub fn executors(&self) -> Executors {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let place = Place {
            version: env!("CARGO_PKG_VERSION").into(),
            binary: env::current_exe().unwrap_or_else(|_| "pipeline".into()),
            project: absolute(self.dir()),
            runs: absolute(&self.runs),
            environment: text_variables(),
        };
        let mut all = executors::builtin();
        for (name, settings) in &self.executors {
            all.insert(name.clone(), Arc::new(settings.executor(name, &place)));
        }
        all
    }

    /// Makes every stage run on this machine, whatever the settings say: the work was carried here by hand.
    pub fn stay_here(&mut self) {
        self.executors.clear();
        for node in &mut self.spec.nodes {
            node.executor = None;
        }
    }

    /// The checked graph.
    pub fn graph(&self) -> Result<Graph> {
        Graph::build(&self.spec, &self.registry, &self.machine).map_err(|e| match self.places.of(&e, ALONE) {
            Some(placed) => Report::new(placed),
            None => Planning::report(e),
        })
    }
}

/// This machine. Proving GPUs takes a moment, so it is done only when a stage asks for one.
fn machine(spec: &PipelineSpec) -> Result<Machine> {
    let mut machine = Machine::probe();
    if spec.nodes.iter().any(|n| n.gpu) && !force_cpu()? {
        let usable = setup::gpu::probe().unwrap_or_default().into_iter().filter(|g| g.problem.is_none());
        machine.gpus = usable
            .map(|g| Gpu {
                name: g.name,
                memory_bytes: g.memory_bytes,
                compute: (g.compute_capability.0.unsigned_abs(), g.compute_capability.1.unsigned_abs()),
            })
            .collect();
    }
    Ok(machine)
}

/// The environment, less what is no text.
pub fn text_variables() -> Vec<(String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// Takes the lock of a store, waiting for whoever has it.
pub fn lock(store: &Store, what: &str) -> Result<ProjectLock> {
    let mut said = false;
    let lock = ProjectLock::acquire(store, what, |holder| {
        if !said {
            say(format_args!("waiting for {holder}, which is at work in this project"));
            said = true;
        }
        true
    });
    Ok(lock.map_err(Report::from_err)?.expect("waiting goes on until the lock is there"))
}

/// True when the environment asks to leave the GPUs alone.
pub fn force_cpu() -> Result<bool> {
    match env::var("PIPELINE_FORCE_CPU").unwrap_or_default().as_str() {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        other => Err(Usage::new(format!("PIPELINE_FORCE_CPU is `{other}`"), "set it to 1 or 0, or unset it")),
    }
}

/// Keeps stages off the GPUs where the environment asks for it.
pub fn leave_gpus_alone(nodes: &mut [NodeSpec]) -> Result<()> {
    if force_cpu()? {
        for node in nodes {
            match node.uses.as_str() {
                "setup" => node.config["force_cpu"] = true.into(),
                "train" => node.config["device"] = "cpu".into(),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Name of the input with people's decisions, and the folder that it is when the project file does not say.
pub const DECISIONS: (&str, &str) = ("decisions", "reviews");

/// Connects the decisions that are there. A folder without any is no input.
fn connect_decisions(spec: &mut PipelineSpec, dir: &Path) {
    let (name, default) = DECISIONS;
    let extensions = Some(vec!["json".to_owned()]);
    if !spec.inputs.iter().any(|i| i.name == name) {
        let (kind, path) = (artifacts::FILES.into(), dir.join(default));
        spec.inputs.push(InputSpec { name: name.into(), kind, path, extensions: None, recursive: false });
    }
    for input in spec.inputs.iter_mut().filter(|i| i.name == name) {
        input.extensions.clone_from(&extensions);
    }
    let has_json = |dir: &Path| {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        files.map(|f| f.path()).any(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")))
    };
    spec.inputs.retain(|i| i.name != name || (if i.path.is_dir() { has_json(&i.path) } else { i.path.exists() }));
}

/// Name of the stage that makes templates of decisions.
const EXEMPLARS: &str = "exemplars";

/// Lets a labeller that looks for templates learn from the decisions that are there: a stage before it cuts templates
/// out of the drawings that it labels. A project that has such a stage already is left as it is.
fn connect_exemplars(spec: &mut PipelineSpec) {
    let has = |name: &str| spec.inputs.iter().any(|i| i.name == name);
    let taken = spec.nodes.iter().any(|n| n.name == EXEMPLARS || n.uses == EXEMPLARS);
    if taken || !has(DECISIONS.0) {
        return;
    }
    let learns = |n: &NodeSpec| match n.config["labeller"].as_str() {
        None | Some("auto") => !has("labels") && !n.connect.contains_key("labels"),
        Some(labeller) => !["imported", "detector", "grounded-sam-2"].contains(&labeller),
    };
    if let Some(at) = spec.nodes.iter().position(|n| n.uses == "label" && learns(n)) {
        let label = &spec.nodes[at];
        let images = label.connect.iter().filter(|(port, _)| *port == "images");
        let connect = images.map(|(port, from)| (port.clone(), from.clone())).collect();
        let (name, needs) = (EXEMPLARS.to_owned(), label.needs.clone());
        let node = NodeSpec { uses: name.clone(), name, connect, needs, ..NodeSpec::default() };
        // Ports of a stage that names what it needs are connected to that alone.
        if let Some(needs) = &mut spec.nodes[at].needs {
            needs.push(EXEMPLARS.to_owned());
        }
        spec.nodes.insert(at, node);
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
fn environment(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (name, value) in vars {
        // Variables of other programs may be no text at all.
        let Some(setting) = name.to_str().and_then(|n| n.strip_prefix("PIPELINE_")) else { continue };
        // A setting lies below a stage or a section, so its name has `__`; what has not is another program's
        // (PIPELINE_WORKSPACE of a build server, say) or is read elsewhere (PIPELINE_FORCE_CPU).
        if !setting.contains("__") {
            continue;
        }
        let Some(value) = value.to_str() else {
            let message = format!("environment variable PIPELINE_{setting}: its value is not UTF-8 text");
            return Err(Usage::new(message, "set it again, or unset it"));
        };
        found.push((setting.to_owned(), value.to_owned()));
    }
    found.sort();
    Ok(found)
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn variables_of_others_may_be_any_bytes() {
        let bytes = || OsString::from_vec(vec![0xff]);
        let vars = [
            ("HOME".into(), bytes()),
            (bytes(), bytes()),
            ("PIPELINE_A__B".into(), "1".into()),
            ("PIPELINE_WORKSPACE".into(), "/w".into()),
        ];
        assert_eq!(environment(vars.into_iter()).unwrap(), [("A__B".to_owned(), "1".to_owned())]);
        assert!(environment([("PIPELINE_A__B".into(), bytes())].into_iter()).is_err());
    }
}
