//! Settings: defaults < pipeline.yaml < profile < `PIPELINE_*` environment < `--set` < flags, each value with the
//! place it came from, so that a mistake is reported where it was made.

mod spec;
mod tree;
mod words;

use std::{collections::BTreeMap, path::Path};

use engine::{
    Registry, StageError,
    graph::{GraphError, PipelineSpec},
};
use executors::settings::ExecutorSettings;

use self::{
    spec::{check_keys, executors, spec},
    tree::{Origin, Source, Tree, apply, parse},
    words::{config_error, unknown_key_help},
};
pub use self::{tree::SettingsError, words::config_words};

/// The stages of the usual pipeline, in order.
pub const DEFAULT_STAGES: [&str; 6] = ["setup", "ontology", "label", "review", "train", "infer"];
/// The stage that the usual pipeline has as well when there are label files.
const IMPORT: &str = "import";
/// Settings that every stage has beside its own.
const NODE_KEYS: [&str; 6] = ["uses", "needs", "executor", "gpu", "retries", "timeout_s"];
const TOP_KEYS: [&str; 5] = ["version", "inputs", "stages", "executors", "profiles"];
const INPUT_KEYS: [&str; 3] = ["path", "kind", "recursive"];
/// Names under which an input is a set of pictures without saying so.
const PICTURE_INPUTS: [&str; 3] = ["images", "heldout", "new_images"];
/// Extensions of label files. Pictures that lie beside them are not labels.
pub const LABEL_EXTENSIONS: [&str; 5] = ["txt", "yaml", "yml", "json", "xml"];

/// Extensions of weights files.
pub const WEIGHTS_EXTENSIONS: [&str; 4] = ["safetensors", "pt", "pth", "onnx"];
/// Starting weights that are no file.
pub const OWN_WEIGHTS: [&str; 2] = [train::start::SYMBOLS_N, train::start::SCRATCH];
/// The setting and the input of a training's starting weights.
pub const WEIGHTS: &str = "weights";

/// The other layers over the project file.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Name of a profile in the file.
    pub profile: Option<String>,
    /// `PIPELINE_*` variables: name without the prefix, value.
    pub environment: Vec<(String, String)>,
    /// `--set key.path=value`.
    pub set: Vec<String>,
}

/// Where the settings were written, for mistakes that show only when the graph is made.
pub struct Places {
    source: Source,
    tree: Tree,
}

impl Places {
    /// The error with its place; `None` when it has none in the settings. Nodes made on the fly end in `suffix`.
    pub fn of(&self, e: &GraphError, suffix: &str) -> Option<SettingsError> {
        let stage = |node: &str| self.tree.get("stages").and_then(|s| s.get(node));
        let place = |path: &[&str]| match self.tree.origin_of(path) {
            file @ Origin::File { .. } => file,
            Origin::Words(_) => Origin::Words(self.source.path.display().to_string()),
        };
        match e {
            GraphError::Config { node, source: StageError::Config { key, message } } => {
                if let Some(settings) = stage(node) {
                    let mut error = config_error(&self.source, node, settings, key, message);
                    if settings.get(key.split('.').next().unwrap_or(key)).is_none() {
                        let (text, help) = config_words(key, message);
                        let at = place(&["stages", node]);
                        error = self.source.error(&at, format!("stage `{node}`: {text}"), help);
                    }
                    return Some(error);
                }
                let name = node.strip_suffix(suffix)?;
                let settings = stage(name)?;
                settings.get(key.split('.').next()?)?;
                Some(config_error(&self.source, name, settings, key, message))
            }
            GraphError::Unconnected { .. } => {
                let written: Vec<&str> =
                    self.tree.get("inputs").map(Tree::entries).unwrap_or_default().iter().map(|(k, ..)| &**k).collect();
                let help = if written.is_empty() {
                    "the file names no inputs; `pipeline init` writes one that does".into()
                } else {
                    format!("inputs that are written: {}", written.join(", "))
                };
                Some(self.source.error(&place(&["inputs"]), e.to_string(), Some(help)))
            }
            GraphError::UnknownPort { node, port, .. }
            | GraphError::UnknownSource { node, port, .. }
            | GraphError::KindMismatch { node, port, .. } => {
                Some(self.source.error(&place(&["stages", node, "needs", port]), e.to_string(), None))
            }
            _ => None,
        }
    }
}

/// Reads the project file's text and all layers over it.
///
/// `dir` is the project's folder; relative input paths start there.
pub fn load(
    path: &Path,
    text: &str,
    dir: &Path,
    layers: &Layers,
    registry: &Registry,
) -> Result<PipelineSpec, Box<SettingsError>> {
    load_with_places(path, text, dir, layers, registry).map(|(spec, ..)| spec)
}

/// Like [`load`], with the places of all settings.
pub fn load_with_places(
    path: &Path,
    text: &str,
    dir: &Path,
    layers: &Layers,
    registry: &Registry,
) -> Result<(PipelineSpec, BTreeMap<String, ExecutorSettings>, Places), Box<SettingsError>> {
    let source = Source { path: path.to_owned(), text: text.to_owned() };
    let mut tree = parse(&source)?;
    check_keys(&source, &tree)?;
    // Profiles that are not chosen are checked all the same: a mistake in them should not wait for its day.
    for (_, _, profile) in tree.get("profiles").map(Tree::entries).unwrap_or_default() {
        let mut with_profile = tree.clone();
        with_profile.merge(profile.clone());
        spec(&source, &with_profile, dir, registry)?;
    }
    if let Some(name) = &layers.profile {
        let profiles = tree.get("profiles").cloned().unwrap_or_else(Tree::empty);
        let Some(profile) = profiles.get(name) else {
            let known: Vec<&str> = profiles.entries().iter().map(|(k, ..)| k.as_str()).collect();
            let at = Origin::Words(format!("--profile {name}"));
            let help =
                if known.is_empty() { "the file has no `profiles:`".into() } else { unknown_key_help(name, &known) };
            return Err(source.error(&at, format!("there is no profile `{name}`"), Some(help)).into());
        };
        tree.merge(profile.clone());
    }
    for (name, value) in &layers.environment {
        let path = name.to_lowercase().replace("__", ".");
        apply(&source, &mut tree, &path, value, &format!("environment variable PIPELINE_{name}"))?;
    }
    for set in &layers.set {
        let words = format!("--set {set}");
        let Some((path, value)) = set.split_once('=') else {
            let help = Some("write it as --set stage.setting=value".into());
            return Err(source.error(&Origin::Words(words), "there is no `=` in it".into(), help).into());
        };
        apply(&source, &mut tree, path.trim(), value, &words)?;
    }
    check_keys(&source, &tree)?;
    let spec = spec(&source, &tree, dir, registry)?;
    let executors = executors(&source, &tree)?;
    Ok((spec, executors, Places { source, tree }))
}

#[cfg(test)]
mod tests;
