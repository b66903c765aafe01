//! Bundles: what goes into one from a project, and where its content goes in another.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use engine::{
    CancelToken, Digest, InputSpec, Kind as _, Store,
    bundle::{BundleSpec, BundleStage, Extras, Pin, read_bundle, write_bundle},
    executor::Places,
    graph::{Edge, Graph, Node, PipelineSpec},
    plan::{Plan, Selection, Verdict},
    result::StageResult,
    sources::scan,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use serde::Serialize;

use self::readme::{Words, quoted};
use crate::{
    args::Global,
    built_for::BuiltFor,
    exit::{Planning, Usage},
    project::{DECISIONS, FILE, Project},
    settings::{self, Layers},
    terminal::{Progress, say},
};

mod notebook;
mod readme;

/// Characters that make a path a pattern.
const WILD: [char; 4] = ['*', '?', '[', '{'];

/// What was put into a bundle.
#[derive(Debug, Default, Serialize)]
pub struct Written {
    /// Stages whose results are in it.
    pub results: Vec<String>,
    /// Stages up to the wanted one that have no result here yet, and will run on the other machine.
    pub to_run: Vec<String>,
    /// Inputs in it: name and number of files.
    pub inputs: BTreeMap<String, u64>,
    /// What to type on the other machine to go on with the whole project there.
    pub commands: Vec<String>,
    /// What to type on the other machine to run what is to be run.
    pub exec: Vec<String>,
    /// What to type here when its results are back.
    pub back: Vec<String>,
    /// For which machines the program in it is; none when it carries no program.
    pub program_for: Option<String>,
}

/// The program that a bundle carries for those who are to do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carry {
    /// None: the bundle only brings results.
    Nothing,
    /// None, but all that helps people to do the work with a program that is there.
    NoProgram,
    /// This program.
    This,
    /// Another build, for another kind of machine.
    File(PathBuf),
}

/// Names of the inputs that any stage reads.
fn used_inputs(graph: &Graph) -> Vec<&InputSpec> {
    let read = |name: &str| {
        graph.nodes.iter().flat_map(|n| n.edges.values()).any(|e| matches!(e, Edge::Input(i) if i == name))
    };
    graph.inputs.values().filter(|i| read(&i.name)).collect()
}

/// The program to be carried, and for which machines it is.
fn program(carry: &Carry) -> Result<Option<(PathBuf, String)>> {
    let path = match carry {
        Carry::Nothing | Carry::NoProgram => return Ok(None),
        Carry::This => std::env::current_exe().into_diagnostic().wrap_err("looking for this program's file")?,
        Carry::File(path) => path.clone(),
    };
    let bytes =
        fs::read(&path).into_diagnostic().wrap_err_with(|| format!("reading the program `{}`", path.display()))?;
    let words = match (BuiltFor::read(&bytes), carry) {
        (Some(built), _) => built.to_string(),
        (None, Carry::This) => format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        (None, _) => {
            let help = "name a build of `pipeline` for Linux, or leave --program out";
            return Err(Usage::new(format!("`{}` is no program for Linux", path.display()), help));
        }
    };
    Ok(Some((path, words)))
}

/// The models that the stages up to the wanted one start from, by name.
fn models(
    project: &Project,
    graph: &Graph,
    plan: &Plan,
    inputs: &BTreeMap<String, Digest>,
) -> Result<BTreeMap<String, Pin>> {
    let mut models = BTreeMap::new();
    for (input, &artifact) in inputs {
        let manifest = project.store.manifest(artifact).map_err(Report::from_err)?;
        if [artifacts::WEIGHTS, artifacts::Model::NAME].contains(&manifest.kind.as_str()) {
            let pin = |b: &engine::Blob| (format!("{input}/{}", b.name), Pin { digest: b.digest, built_in: false });
            models.extend(manifest.blobs.iter().map(pin));
        }
    }
    let own = train::start::SYMBOLS_N;
    let is_wanted = |n: &Node| plan.stages.iter().any(|s| s.name == n.spec.name && s.verdict != Verdict::Excluded);
    if graph.nodes.iter().any(|n| n.spec.uses == "train" && n.config["weights"] == own && is_wanted(n)) {
        models.insert(own.to_owned(), own_model());
    }
    Ok(models)
}

/// The weights that are part of this program.
fn own_model() -> Pin {
    Pin { digest: train::start::symbols_n_digest().parse().expect("it is a digest"), built_in: true }
}

/// Writes the project's inputs and its up-to-date results as far as `until` into a bundle.
pub fn pack(global: &Global, project: &Project, until: &str, out: &Path, carry: &Carry) -> Result<Written> {
    let _lock = project.lock("pipeline export")?;
    let graph = project.graph()?;
    let sink = Progress::new(global.quiet || global.json);
    let cancel = CancelToken::new();
    let selection = Selection { until: Some(until.into()), ..Selection::default() };
    let plan = engine::plan::plan(
        &project.store,
        &graph,
        &selection,
        Places { executors: &project.executors(), machine: &project.machine, require: false },
        &cancel,
        &sink,
    )
    .map_err(Planning::report)?;
    let mut inputs = BTreeMap::new();
    let mut written = Written::default();
    for input in used_inputs(&graph) {
        let found = scan(&project.store, input, &cancel, &sink).map_err(Planning::report)?;
        inputs.insert(input.name.clone(), found.artifact);
        written.inputs.insert(input.name.clone(), found.files);
    }
    let mut stages = BTreeMap::new();
    for stage in plan.stages.iter().filter(|s| s.verdict != Verdict::Excluded) {
        let result = stage.key.filter(|_| stage.verdict == Verdict::Cached);
        match result.and_then(|key| StageResult::load(&project.store, key)) {
            Some(r) => {
                written.results.push(stage.name.clone());
                stages.insert(stage.name.clone(), BundleStage { key: r.key, outputs: r.outputs });
            }
            None => written.to_run.push(stage.name.clone()),
        }
    }
    let file = out.file_name().unwrap_or_default().to_string_lossy();
    let mut run = "pipeline run".to_owned();
    if let Some(profile) = &global.profile {
        run = format!("{run} --profile {}", quoted(profile));
    }
    for set in &global.set {
        run = format!("{run} --set {}", quoted(set));
    }
    let carries = *carry != Carry::Nothing && !written.to_run.is_empty();
    let program = if carries { program(carry)? } else { None };
    let models = models(project, &graph, &plan, &inputs)?;
    let words = Words {
        file: &file,
        version: env!("CARGO_PKG_VERSION"),
        inputs: written.inputs.clone(),
        results: &written.results,
        to_run: if carries { &written.to_run } else { &[] },
        models: models.clone(),
        built_for: program.as_ref().map(|(_, built_for)| built_for.clone()),
        next: &run,
    };
    let commands = vec![format!("pipeline import {}", quoted(&file)), run.clone()];
    let extras = Extras {
        readme: words.readme(),
        notebook: carries.then(|| notebook::notebook(&words)),
        program: program.as_ref().map(|(path, _)| path.clone()),
    };
    let (exec, back) = if carries { (words.commands(), words.back()) } else { Default::default() };
    let spec = BundleSpec {
        program: env!("CARGO_PKG_VERSION").into(),
        config: fs::read_to_string(&project.file).into_diagnostic().wrap_err("reading the project file")?,
        set: global.set.clone(),
        profile: global.profile.clone(),
        until: Some(until.into()),
        commands: commands.clone(),
        inputs,
        stages,
        models,
    };
    write_bundle(out, &spec, extras, &project.store, &cancel, &sink).map_err(Report::from_err)?;
    let program_for = program.map(|(_, built_for)| built_for);
    Ok(Written { commands, exec, back, program_for, ..written })
}

/// What came out of a bundle.
#[derive(Debug, Default, Serialize)]
pub struct Unpacked {
    /// The project file.
    pub project: PathBuf,
    /// The last stage that the bundle is about.
    pub until: Option<String>,
    /// What to type next.
    pub next: String,
    /// Settings that were laid over the project file there.
    pub set: Vec<String>,
    /// The profile that was used there.
    pub profile: Option<String>,
    /// Stages whose results came with it.
    pub results: Vec<String>,
    /// What became of each input, in words.
    pub inputs: BTreeMap<String, String>,
    /// What deserves a look.
    pub warnings: Vec<String>,
    /// Version of the program that wrote it.
    pub program: String,
    /// Models that are part of the program there, and others here.
    pub other_models: Vec<String>,
}

/// True when the file begins as a bundle does.
pub fn is_bundle(path: &Path) -> bool {
    let mut head = [0; 512];
    let read = fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head));
    read.is_ok() && head.starts_with(b"bundle.json\0") && &head[257..262] == b"ustar"
}

/// Reads a bundle into the project of `dir`, which becomes one when it is none yet.
pub fn unpack(global: &Global, dir: &Path, runs: &Path, path: &Path) -> Result<(Project, Unpacked)> {
    let store = Store::open(runs.join(".store")).map_err(Report::from_err)?;
    let sink = Progress::new(global.quiet || global.json);
    let cancel = CancelToken::new();
    let lock = crate::project::lock(&store, "pipeline import")?;
    let spec = read_bundle(path, &store, &lock, &cancel, &sink).map_err(Report::from_err)?;

    let file = dir.join(FILE);
    let text = inside(&spec, &file)?;
    let mut warnings = Vec::new();
    match fs::read_to_string(&file) {
        Ok(old) if old == text => {}
        Ok(_) => warnings.push(format!(
            "`{}` differs from the bundle's project file and was kept; results are used where the settings agree",
            file.display()
        )),
        Err(_) => {
            fs::create_dir_all(dir).into_diagnostic()?;
            store.write_file(&file, text.as_bytes()).map_err(Report::from_err)?;
        }
    }
    let global = Global { config: Some(file.clone()), ..global.clone() };
    let project = Project::at(&global, file.clone(), runs.to_owned(), false)?;
    let mut inputs = BTreeMap::new();
    for (name, &artifact) in &spec.inputs {
        let input = project.spec.inputs.iter().find(|i| i.name == *name).cloned();
        let decisions = || InputSpec {
            name: name.clone(),
            kind: artifacts::FILES.into(),
            path: dir.join(DECISIONS.1),
            extensions: None,
            recursive: false,
        };
        let Some(input) = input.or_else(|| (name == DECISIONS.0).then(decisions)) else {
            warnings.push(format!("the project file has no `inputs.{name}`, so these files were left in the store"));
            continue;
        };
        let place = input.path.display();
        let words = match scan(&project.store, &input, &cancel, &sink) {
            Ok(found) if found.artifact == artifact => format!("the same files were in {place} already"),
            Ok(found) if is_part(&project.store, found.artifact, artifact)? => {
                format!("{place} was made whole: {} files", put_files(&project, &input, artifact)?)
            }
            Ok(_) => {
                warnings.push(format!("{place} holds other files than the bundle's `inputs.{name}`, and was kept"));
                format!("{place} was kept")
            }
            Err(_) => format!("{} files in {place}", put_files(&project, &input, artifact)?),
        };
        inputs.insert(name.clone(), words);
    }
    for (name, stage) in &spec.stages {
        if let Some(result) = StageResult::load(&project.store, stage.key) {
            StageResult { imported: true, ..result }.save_latest(&project.store, name).map_err(Report::from_err)?;
        }
    }
    drop(lock);
    let results = spec.stages.keys().cloned().collect();
    // Opened anew: decisions may be there only now.
    let project = Project::at(&global, file.clone(), runs.to_owned(), false)?;
    let next = spec.commands.last().cloned().unwrap_or_else(|| "pipeline run".into());
    let BundleSpec { until, set, profile, program, models, .. } = spec;
    let differs = |(_, pin): &(String, Pin)| pin.built_in && *pin != own_model();
    let other_models = models.into_iter().filter(differs).map(|(name, _)| name).collect();
    let unpacked =
        Unpacked { project: file, until, next, set, profile, results, inputs, warnings, program, other_models };
    Ok((project, unpacked))
}

/// True when some of the wanted files are there and nothing else: what an import leaves that was cut off.
fn is_part(store: &Store, found: Digest, wanted: Digest) -> Result<bool> {
    let found = store.manifest(found).map_err(Report::from_err)?;
    let wanted = store.manifest(wanted).map_err(Report::from_err)?;
    Ok(found.blobs.iter().all(|b| wanted.blob(&b.name) == Some(b)))
}

/// The files of an input, at the place that the project file gives it. Nothing is overwritten.
fn put_files(project: &Project, input: &InputSpec, artifact: Digest) -> Result<usize> {
    let manifest = project.store.manifest(artifact).map_err(Report::from_err)?;
    let (path, parent) = (&input.path, input.path.parent().unwrap_or(Path::new(".")));
    let wild = path.iter().position(|part| part.to_string_lossy().contains(WILD));
    let is_list = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
    let is_file = |b: &engine::Blob| path.file_name().is_some_and(|n| n == b.name.as_str());
    let base = match (wild, manifest.blobs.as_slice()) {
        (Some(n), _) => path.iter().take(n).collect(),
        (None, [only]) if is_file(only) => parent.to_owned(),
        (None, _) if is_list => {
            let list: String = manifest.blobs.iter().map(|b| b.name.clone() + "\n").collect();
            fs::create_dir_all(parent).into_diagnostic()?;
            project.store.write_file(path, list.as_bytes()).map_err(Report::from_err)?;
            parent.to_owned()
        }
        (None, _) => path.clone(),
    };
    for blob in &manifest.blobs {
        let name = Path::new(&blob.name);
        if blob.name.is_empty() || !name.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(Report::msg(format!("file name `{}` in the bundle leads out of its folder", blob.name)));
        }
        let to = base.join(name);
        if to.exists() {
            continue;
        }
        let bytes = project.store.read_blob(blob).map_err(Report::from_err)?;
        fs::create_dir_all(to.parent().unwrap_or(&base)).into_diagnostic()?;
        project.store.write_file(&to, &bytes).map_err(Report::from_err)?;
    }
    Ok(manifest.blobs.len())
}

/// The bundle's project file with inputs that lay outside of the project moved into it.
fn inside(spec: &BundleSpec, file: &Path) -> Result<String> {
    let root = Path::new("/project");
    let load = |text: &str| -> Result<PipelineSpec> {
        settings::load(file, text, root, &Layers::default(), &crate::stages::registry()).map_err(|e| Report::new(*e))
    };
    let lies_inside = |path: &Path| {
        let below = path.strip_prefix(root).ok();
        below.is_some_and(|p| p.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)))
    };
    let mut text = spec.config.clone();
    for input in load(&text)?.inputs {
        if lies_inside(&input.path) {
            continue;
        }
        let written = input.path.strip_prefix(root).unwrap_or(&input.path).to_string_lossy().into_owned();
        let moved = format!("inputs/{}", input.name);
        let edited = text.replace(&written, &moved);
        let fits =
            load(&edited).is_ok_and(|s| s.inputs.iter().any(|i| i.name == input.name && i.path == root.join(&moved)));
        if fits {
            say(format_args!("`inputs.{}` was `{written}` there and is `{moved}` here", input.name));
            text = edited;
        }
    }
    // Files of a bundle are written to where its inputs are said to lie.
    match load(&text)?.inputs.iter().find(|i| !lies_inside(&i.path)) {
        Some(input) => Err(Report::msg(format!(
            "`inputs.{}` of the bundle lies outside of its project, at `{}`; nothing but results was imported",
            input.name,
            input.path.display()
        ))),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(config: &str) -> Result<String> {
        inside(&BundleSpec { config: config.into(), ..BundleSpec::default() }, Path::new(FILE))
    }

    #[test]
    fn no_input_of_a_bundle_lies_outside_of_its_project() {
        assert_eq!(moved("inputs:\n  images: a/b\n").unwrap(), "inputs:\n  images: a/b\n");
        assert_eq!(moved("inputs:\n  images: ../b\n").unwrap(), "inputs:\n  images: inputs/images\n");
        assert_eq!(moved("inputs:\n  images: /b/c\n").unwrap(), "inputs:\n  images: inputs/images\n");
        // Paths that are written in another way than they read, and names that lead out.
        assert!(moved("inputs:\n  images: \"\\x2e\\x2e/b\"\n").is_err());
        assert!(moved("inputs:\n  ../../images: /b/c\n").is_err());
    }

    #[test]
    fn an_import_that_was_cut_off_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let files = |files: &[(&str, &str)]| {
            let mut writer = engine::artifact::ArtifactWriter::new(&store);
            files.iter().for_each(|(name, text)| writer.put(*name, text.as_bytes()).unwrap());
            writer.finish("files", 1, serde_json::Value::Null).unwrap()
        };
        let all = files(&[("a", "1"), ("b", "2")]);
        assert!(is_part(&store, files(&[("a", "1")]), all).unwrap());
        assert!(!is_part(&store, files(&[("a", "2")]), all).unwrap());
        assert!(!is_part(&store, files(&[("a", "1"), ("c", "3")]), all).unwrap());
    }
}
