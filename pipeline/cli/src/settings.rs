//! Settings: defaults < pipeline.yaml < profile < `PIPELINE_*` environment < `--set` < flags, each value with the
//! place it came from, so that a mistake is reported where it was made.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use engine::{
    InputSpec, Registry, StageError,
    executor::LOCAL,
    graph::{GraphError, NodeSpec, PipelineSpec},
};
use executors::settings::{ExecutorSettings, capability};
use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_saphyr::Spanned;

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

/// Where a value was written.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    /// In the project file: byte offset and length, line and column from 1.
    File { offset: usize, len: usize, line: u64, column: u64 },
    /// Elsewhere, in words: `--set label.nms_iou=2`, `PIPELINE_…`.
    Words(String),
}

/// A YAML value with origins.
#[derive(Clone, Debug)]
struct Tree {
    raw: Raw,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Raw {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Origin, Tree)>),
}

/// What is wrong with the settings, shown with the line it is about.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    message: String,
    help: Option<String>,
    source_code: Option<NamedSource<String>>,
    label: Option<LabeledSpan>,
}

impl Diagnostic for SettingsError {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn std::fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source_code.as_ref().map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label.clone().map(|l| Box::new(std::iter::once(l)) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
}

/// The project file's text, for error messages.
#[derive(Clone, Default)]
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn error(&self, origin: &Origin, message: String, help: Option<String>) -> SettingsError {
        match origin {
            Origin::File { offset, len, line, column } => SettingsError {
                message: format!("{}:{line}:{column}: {message}", self.path.display()),
                help,
                source_code: Some(NamedSource::new(self.path.display().to_string(), self.text.clone())),
                label: Some(LabeledSpan::at(*offset..offset + (*len).max(1), "here")),
            },
            Origin::Words(words) => {
                SettingsError { message: format!("{words}: {message}"), help, source_code: None, label: None }
            }
        }
    }
}

struct RawVisitor;

impl<'de> de::Visitor<'de> for RawVisitor {
    type Value = Raw;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(Spanned { value, referenced, .. }) = seq.next_element::<Spanned<Raw>>()? {
            list.push(Tree { raw: value, origin: origin(&referenced) });
        }
        Ok(Raw::List(list))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries: Vec<(String, Origin, Tree)> = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let Spanned { value, referenced, .. } = map.next_value::<Spanned<Raw>>()?;
            entries.push((key.value, origin(&key.referenced), Tree { raw: value, origin: origin(&referenced) }));
        }
        Ok(Raw::Map(entries))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(RawVisitor)
    }
}

fn origin(at: &serde_saphyr::Location) -> Origin {
    let span = at.span();
    let offset = span.byte_offset().unwrap_or_else(|| span.offset()) as usize;
    let len = span.byte_len().unwrap_or_else(|| span.len()) as usize;
    Origin::File { offset, len, line: at.line(), column: at.column() }
}

impl Tree {
    fn empty() -> Self {
        Self { raw: Raw::Map(Vec::new()), origin: Origin::Words("defaults".into()) }
    }

    fn json(&self) -> Value {
        match &self.raw {
            Raw::Scalar(v) => v.clone(),
            Raw::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Raw::Map(entries) => Value::Object(entries.iter().map(|(k, _, t)| (k.clone(), t.json())).collect()),
        }
    }

    fn entries(&self) -> &[(String, Origin, Tree)] {
        match &self.raw {
            Raw::Map(entries) => entries,
            _ => &[],
        }
    }

    fn get(&self, key: &str) -> Option<&Tree> {
        self.entries().iter().find(|(k, ..)| k == key).map(|(_, _, t)| t)
    }

    /// Lays `over` on top: maps are merged, everything else is replaced.
    fn merge(&mut self, over: Tree) {
        match (&mut self.raw, over.raw) {
            (Raw::Map(base), Raw::Map(over)) => {
                for (key, at, tree) in over {
                    match base.iter_mut().find(|(k, ..)| *k == key) {
                        Some((_, o, t)) => {
                            *o = at;
                            t.merge(tree);
                        }
                        None => base.push((key, at, tree)),
                    }
                }
            }
            // An empty value (`label:` with nothing after it) changes nothing below a map.
            (Raw::Map(_), Raw::Scalar(Value::Null)) => {}
            (raw, over_raw) => {
                *raw = over_raw;
                self.origin = over.origin;
            }
        }
    }

    /// The origin of the deepest part of `path` that exists, and of its key.
    fn origin_of(&self, path: &[&str]) -> Origin {
        let mut tree = self;
        let mut at = self.origin.clone();
        for part in path {
            let next = match &tree.raw {
                Raw::Map(entries) => entries.iter().find(|(k, ..)| k == part).map(|(_, o, t)| (o.clone(), t)),
                Raw::List(items) => {
                    part.parse::<usize>().ok().and_then(|i| items.get(i)).map(|t| (t.origin.clone(), t))
                }
                Raw::Scalar(_) => None,
            };
            let Some((origin, next)) = next else { break };
            at = origin;
            tree = next;
        }
        at
    }
}

fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.len().max(word.len()) / 3)
        .min()
        .map(|(_, k)| k.to_owned())
}

fn unknown_key_help(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(k) => format!("did you mean `{k}`? Known here: {}", known.join(", ")),
        None => format!("known here: {}", known.join(", ")),
    }
}

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

/// Reads YAML 1.2: `off`, `on`, `yes` and `no` are words, not truth values, so that `tile: off` needs no quotes.
fn yaml<T: de::DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

fn parse(source: &Source) -> Result<Tree, Box<SettingsError>> {
    if source.text.trim().is_empty() {
        return Ok(Tree::empty());
    }
    match yaml::<Spanned<Raw>>(&source.text) {
        Ok(Spanned { value, referenced, .. }) => {
            let tree = Tree { raw: value, origin: origin(&referenced) };
            match tree.raw {
                Raw::Map(_) => Ok(tree),
                Raw::Scalar(Value::Null) => Ok(Tree::empty()),
                _ => Err(source.error(&tree.origin, "settings must be `key: value` lines".into(), None).into()),
            }
        }
        Err(e) => {
            let at = e.location().map_or(Origin::Words(source.path.display().to_string()), |l| origin(&l));
            let message = e.without_snippet().to_string();
            let mut message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            if message.contains("duplicate")
                && let Origin::File { offset, .. } = at
                && let Some((key, _)) = source.text.get(offset..).and_then(|t| t.split_once(':'))
            {
                message = format!("key `{}` is written twice; keep one of them", key.trim());
            }
            Err(source.error(&at, message, None).into())
        }
    }
}

/// Sets `path` to the YAML in `value`. A path that does not begin with a top-level key begins with a stage.
fn apply(source: &Source, tree: &mut Tree, path: &str, value: &str, words: &str) -> Result<(), Box<SettingsError>> {
    let origin = Origin::Words(words.to_owned());
    let raw = if value.trim().is_empty() {
        Raw::Scalar(Value::String(String::new()))
    } else {
        yaml::<Raw>(value)
            .map_err(|e| source.error(&origin, format!("`{value}` is no YAML value: {}", e.without_snippet()), None))?
    };
    let mut parts: Vec<&str> = path.split('.').collect();
    if !TOP_KEYS.contains(&parts[0]) {
        parts.insert(0, "stages");
    }
    fn stamp(raw: Raw, origin: &Origin) -> Tree {
        let raw = match raw {
            Raw::Map(entries) => {
                Raw::Map(entries.into_iter().map(|(k, _, t)| (k, origin.clone(), stamp(t.raw, origin))).collect())
            }
            Raw::List(items) => Raw::List(items.into_iter().map(|t| stamp(t.raw, origin)).collect()),
            scalar @ Raw::Scalar(_) => scalar,
        };
        Tree { raw, origin: origin.clone() }
    }
    let mut over = stamp(raw, &origin);
    for part in parts.iter().rev() {
        let raw = Raw::Map(vec![((*part).to_owned(), origin.clone(), over)]);
        over = Tree { raw, origin: origin.clone() };
    }
    tree.merge(over);
    Ok(())
}

fn check_map(source: &Source, tree: &Tree, what: &str, known: &[&str]) -> Result<(), Box<SettingsError>> {
    if !matches!(tree.raw, Raw::Map(_) | Raw::Scalar(Value::Null)) {
        return Err(source.error(&tree.origin, format!("{what} must be `key: value` lines"), None).into());
    }
    for (key, at, _) in tree.entries() {
        if !known.contains(&key.as_str()) {
            let help = Some(unknown_key_help(key, known));
            return Err(source.error(at, format!("unknown key `{key}` in {what}"), help).into());
        }
    }
    Ok(())
}

fn check_keys(source: &Source, tree: &Tree) -> Result<(), Box<SettingsError>> {
    check_map(source, tree, "the settings", &TOP_KEYS)?;
    if let Some(version) = tree.get("version")
        && version.json() != Value::from(1)
    {
        let help = Some("this program reads `version: 1`".into());
        return Err(source.error(&version.origin, format!("version {} is not known", version.json()), help).into());
    }
    for (_, _, profile) in tree.get("profiles").map(Tree::entries).unwrap_or_default() {
        check_map(source, profile, "a profile", &["inputs", "stages", "executors"])?;
    }
    Ok(())
}

fn string(source: &Source, tree: &Tree, what: &str) -> Result<String, SettingsError> {
    match &tree.raw {
        Raw::Scalar(Value::String(s)) => Ok(s.clone()),
        _ => Err(source.error(&tree.origin, format!("{what} must be a text, and is {}", tree.json()), None)),
    }
}

fn number(source: &Source, tree: &Tree, what: &str) -> Result<u64, SettingsError> {
    tree.json().as_u64().ok_or_else(|| {
        source.error(&tree.origin, format!("{what} must be a whole number, and is {}", tree.json()), None)
    })
}

fn spec(source: &Source, tree: &Tree, dir: &Path, registry: &Registry) -> Result<PipelineSpec, SettingsError> {
    let mut inputs = Vec::new();
    for (name, at, value) in tree.get("inputs").map(Tree::entries).unwrap_or_default() {
        inputs.push(input(source, name, at, value, dir)?);
    }
    let stages = tree.get("stages").cloned().unwrap_or_else(Tree::empty);
    if !matches!(stages.raw, Raw::Map(_) | Raw::Scalar(Value::Null)) {
        return Err(source.error(&stages.origin, "`stages` must be `name: {settings}` lines".into(), None));
    }
    // A file that says `uses:` anywhere writes its own graph; all others change settings of the usual one.
    let own = stages.entries().iter().any(|(_, _, t)| t.get("uses").is_some());
    let names: Vec<(String, Origin)> = if own {
        stages.entries().iter().map(|(k, at, _)| (k.clone(), at.clone())).collect()
    } else {
        for (key, at, _) in stages.entries() {
            if !DEFAULT_STAGES.contains(&key.as_str()) && key != IMPORT {
                let help = format!("{}; a stage of your own says `uses:`", unknown_key_help(key, &DEFAULT_STAGES));
                return Err(source.error(at, format!("unknown stage `{key}`"), Some(help)));
            }
        }
        let mut names: Vec<_> = DEFAULT_STAGES.iter().map(|s| ((*s).to_owned(), stages.origin.clone())).collect();
        if inputs.iter().any(|i| i.name == "labels") {
            // Before the ontology, so that the classes of the templates stay the nearest ones.
            names.insert(1, (IMPORT.to_owned(), stages.origin.clone()));
        }
        names
    };
    let mut nodes = Vec::new();
    for (name, at) in names {
        let settings = stages.get(&name).cloned().unwrap_or_else(Tree::empty);
        let mut node = node(source, &name, &at, &settings, registry)?;
        if !own && name == "infer" && inputs.iter().any(|i| i.name == "heldout") {
            node.connect.entry("images".into()).or_insert_with(|| "inputs.heldout".into());
        }
        if node.uses == "train" {
            starting_weights(source, &settings, &mut node, &mut inputs, dir)?;
        }
        nodes.push(node);
    }
    let known = executors(source, tree)?;
    let mut places = nodes.iter().filter_map(|n| Some((&n.name, n.executor.as_ref()?)));
    if let Some((node, executor)) = places.find(|(_, e)| *e != LOCAL && !known.contains_key(*e)) {
        let stage = tree.get("stages").and_then(|s| s.get(node));
        let at = stage.and_then(|s| s.get("executor")).map_or(&tree.origin, |e| &e.origin);
        let names: Vec<&str> = known.keys().map(String::as_str).chain([LOCAL]).collect();
        let help = format!("{}; describe others under `executors:`", unknown_key_help(executor, &names));
        return Err(source.error(at, format!("{node}.executor: there is no executor `{executor}`"), Some(help)));
    }
    for (input, (name, at, _)) in inputs.iter().zip(tree.get("inputs").map(Tree::entries).unwrap_or_default()) {
        check_is_read(input, &nodes, own, registry)
            .map_err(|(message, help)| source.error(at, format!("inputs.{name}: {message}"), Some(help)))?;
    }
    Ok(PipelineSpec { inputs, nodes })
}

/// `train.weights: PATH` stands for an input: its content is hashed, and its path does not count for the result.
fn starting_weights(
    source: &Source,
    settings: &Tree,
    node: &mut NodeSpec,
    inputs: &mut Vec<InputSpec>,
    dir: &Path,
) -> Result<(), SettingsError> {
    let Some(value) = settings.get(WEIGHTS).filter(|v| v.json() != Value::Null) else { return Ok(()) };
    let what = format!("{}.{WEIGHTS}", node.name);
    let path = string(source, value, &what)?;
    if OWN_WEIGHTS.contains(&path.as_str()) {
        return Ok(());
    }
    if inputs.iter().any(|i| i.name == WEIGHTS) || node.connect.contains_key(WEIGHTS) {
        let help = Some("keep one of the two".into());
        return Err(source.error(&value.origin, format!("{what}: the input `{WEIGHTS}` is given as well"), help));
    }
    let name = if node.name == "train" { WEIGHTS.to_owned() } else { format!("{WEIGHTS}-{}", node.name) };
    node.config[WEIGHTS] = Value::Null;
    node.connect.insert(WEIGHTS.into(), format!("inputs.{name}"));
    let extensions = Some(WEIGHTS_EXTENSIONS.map(str::to_owned).to_vec());
    inputs.push(InputSpec {
        name,
        kind: artifacts::WEIGHTS.into(),
        path: dir.join(path),
        extensions,
        recursive: false,
    });
    Ok(())
}

/// An input that nothing reads is a slip of the pen.
fn check_is_read(
    input: &InputSpec,
    nodes: &[NodeSpec],
    own: bool,
    registry: &Registry,
) -> Result<(), (String, String)> {
    let by_name = format!("inputs.{}", input.name);
    if nodes.iter().any(|n| n.connect.values().any(|from| *from == by_name)) {
        return Ok(());
    }
    let mut known: Vec<String> = Vec::new();
    if !own {
        known.extend(["heldout", "labels"].map(str::to_owned));
    }
    let mut other_kind = None;
    for node in nodes {
        let descriptor = registry.get(&node.uses).and_then(|s| s.describe(&s.parse(&node.config).ok()?).ok());
        for port in descriptor.into_iter().flat_map(|d| d.inputs) {
            if port.name == input.name {
                if port.kind == input.kind {
                    return Ok(());
                }
                other_kind = Some((node.name.clone(), port.kind.clone()));
            }
            // What only stages write is not offered.
            if [artifacts::FILES, artifacts::IMAGES, artifacts::WEIGHTS].contains(&port.kind.as_str())
                && !known.contains(&port.name)
            {
                known.push(port.name);
            }
        }
    }
    if let Some((node, kind)) = other_kind {
        let message = format!("it is of kind {}, and stage `{node}` reads {kind} under this name", input.kind);
        return Err((message, format!("write `{}: {{ path: ..., kind: {kind} }}`, or rename it", input.name)));
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Err((format!("no stage reads an input `{}`", input.name), unknown_key_help(&input.name, &known)))
}

/// The executors that the file describes. `local` is always there, and has no settings.
fn executors(source: &Source, tree: &Tree) -> Result<BTreeMap<String, ExecutorSettings>, SettingsError> {
    let mut all = BTreeMap::new();
    for (name, at, value) in tree.get("executors").map(Tree::entries).unwrap_or_default() {
        if name == LOCAL {
            check_map(source, value, "executor `local`", &[])
                .map_err(|e| SettingsError { help: Some("it has no settings".into()), ..*e })?;
            continue;
        }
        let settings = ExecutorSettings::parse(&value.json()).map_err(|wrong| {
            let path: Vec<&str> = wrong.key.split('.').filter(|p| !p.is_empty() && *p != "?").collect();
            let at = if path.is_empty() { at.clone() } else { value.origin_of(&path) };
            let (text, help) = config_words(&wrong.key, &wrong.message);
            source.error(&at, format!("executor `{name}`: {text}"), help)
        })?;
        all.insert(name.clone(), settings);
    }
    Ok(all)
}

fn input(source: &Source, name: &str, at: &Origin, value: &Tree, dir: &Path) -> Result<InputSpec, SettingsError> {
    let what = format!("inputs.{name}");
    let (path, kind, recursive) = match &value.raw {
        Raw::Map(_) => {
            check_map(source, value, &what, &INPUT_KEYS).map_err(|e| *e)?;
            let path = value.get("path").ok_or_else(|| source.error(at, format!("{what} has no `path`"), None))?;
            let kind = value.get("kind").map(|k| string(source, k, &format!("{what}.kind"))).transpose()?;
            let recursive = match value.get("recursive").map(|r| (r, r.json())) {
                None => true,
                Some((_, Value::Bool(b))) => b,
                Some((r, v)) => {
                    return Err(source.error(
                        &r.origin,
                        format!("{what}.recursive must be true or false, and is {v}"),
                        None,
                    ));
                }
            };
            (string(source, path, &format!("{what}.path"))?, kind, recursive)
        }
        _ => (string(source, value, &what)?, None, true),
    };
    if path.contains("://") {
        let message = format!("{what}: `{path}`: only files and folders of this machine can be read");
        return Err(source.error(&value.origin, message, Some("copy them to a folder first".into())));
    }
    let kind = match kind {
        Some(k) => k,
        None if PICTURE_INPUTS.contains(&name) => artifacts::IMAGES.into(),
        None if name == WEIGHTS => artifacts::WEIGHTS.into(),
        None => artifacts::FILES.into(),
    };
    let list = |all: &[&str]| Some(all.iter().map(|e| (*e).to_owned()).collect());
    let extensions = match name {
        _ if kind == artifacts::IMAGES => list(&datasets::picture::IMAGE_EXTENSIONS),
        "labels" => list(&LABEL_EXTENSIONS),
        _ if kind == artifacts::WEIGHTS => list(&WEIGHTS_EXTENSIONS),
        _ => None,
    };
    Ok(InputSpec { name: name.to_owned(), kind, path: dir.join(path), extensions, recursive })
}

fn node(
    source: &Source,
    name: &str,
    at: &Origin,
    settings: &Tree,
    registry: &Registry,
) -> Result<NodeSpec, SettingsError> {
    if !matches!(settings.raw, Raw::Map(_) | Raw::Scalar(Value::Null)) {
        return Err(source.error(&settings.origin, format!("stage `{name}` must have `setting: value` lines"), None));
    }
    let mut node = NodeSpec { name: name.to_owned(), uses: name.to_owned(), ..NodeSpec::default() };
    let mut config = serde_json::Map::new();
    for (key, _, value) in settings.entries() {
        let what = format!("{name}.{key}");
        match key.as_str() {
            "uses" => node.uses = string(source, value, &what)?,
            "executor" => node.executor = Some(string(source, value, &what)?),
            "gpu" => match value.json() {
                Value::Bool(gpu) => node.gpu = gpu,
                Value::Object(_) => {
                    check_map(source, value, &what, &["memory_mib", "compute"]).map_err(|e| *e)?;
                    node.gpu = true;
                    if let Some(mib) = value.get("memory_mib") {
                        node.card.memory_bytes =
                            number(source, mib, &format!("{what}.memory_mib"))?.saturating_mul(1 << 20);
                    }
                    if let Some(compute) = value.get("compute") {
                        node.card.compute = capability(&compute.json()).ok_or_else(|| {
                            let message =
                                format!("{what}.compute must be a capability such as 8.0, and is {}", compute.json());
                            source.error(&compute.origin, message, None)
                        })?;
                    }
                }
                other => {
                    let message =
                        format!("{what} must be true or false, or `{{ memory_mib: …, compute: … }}`, and is {other}");
                    return Err(source.error(&value.origin, message, None));
                }
            },
            "retries" => node.retries = u32::try_from(number(source, value, &what)?).unwrap_or(u32::MAX),
            "timeout_s" => node.timeout_s = Some(number(source, value, &what)?),
            "needs" => match &value.raw {
                Raw::Map(ports) => {
                    for (port, _, from) in ports {
                        node.connect.insert(port.clone(), string(source, from, &format!("{what}.{port}"))?);
                    }
                }
                Raw::List(names) => {
                    node.needs = Some(names.iter().map(|n| string(source, n, &what)).collect::<Result<_, _>>()?);
                }
                Raw::Scalar(_) => {
                    let help = Some("write `needs: [label]`, or `needs: { annotations: label.annotations }`".into());
                    return Err(source.error(
                        &value.origin,
                        format!("{what} must name stages or connect inputs"),
                        help,
                    ));
                }
            },
            _ => {
                config.insert(key.clone(), value.json());
            }
        }
    }
    node.config = Value::Object(config);
    let Some(stage) = registry.get(&node.uses) else {
        let known: Vec<&str> = registry.names().collect();
        let at = settings.get("uses").map_or(at, |t| &t.origin);
        return Err(source.error(
            at,
            format!("there is no stage `{}`", node.uses),
            Some(unknown_key_help(&node.uses, &known)),
        ));
    };
    if let Err(engine::StageError::Config { key, message }) = stage.parse(&node.config) {
        return Err(config_error(source, name, settings, &key, &message));
    }
    Ok(node)
}

/// Turns serde's words about a config into an error at the line of the setting.
pub fn config_words(key: &str, message: &str) -> (String, Option<String>) {
    let quoted = |s: &str| -> Vec<String> { s.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let message = message.split(" at line ").next().unwrap_or(message);
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let words = quoted(rest);
        let (word, known) = words.split_first().map_or(("", &[][..]), |(w, k)| (w.as_str(), k));
        let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
        if !key.contains('.') {
            known.extend(NODE_KEYS);
        }
        return (format!("unknown key `{word}`"), Some(unknown_key_help(word, &known)));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let words = quoted(rest);
        if let Some((word, known)) = words.split_first() {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return (format!("`{key}` cannot be `{word}`"), Some(unknown_key_help(word, &known)));
        }
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = wrong.and_then(|m| m.split_once(", expected ")) {
        return (format!("`{key}` must be {}, and is {}", expected_words(expected), found_words(found)), None);
    }
    (format!("`{key}`: {message}"), None)
}

/// What serde expected, for people.
fn expected_words(expected: &str) -> &str {
    match expected {
        "f32" | "f64" => "a number",
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number from 0",
        "isize" | "i64" | "i32" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "str" => "a text",
        "a sequence" => "a list",
        "a map" => "`key: value` lines",
        e if e.starts_with("struct ") => "`key: value` lines",
        e => e,
    }
}

/// What serde found, for people: the value without its type.
fn found_words(found: &str) -> &str {
    match found {
        "map" => "`key: value` lines",
        "sequence" => "a list",
        "null" | "unit value" => "empty",
        f => f.find(['"', '`']).map_or(f, |at| &f[at..]),
    }
}

fn config_error(source: &Source, name: &str, settings: &Tree, key: &str, message: &str) -> SettingsError {
    let (text, help) = config_words(key, message);
    let mut path: Vec<&str> = key.split('.').filter(|p| !p.is_empty() && *p != "?").collect();
    let unknown = text.strip_prefix("unknown key `").and_then(|t| t.strip_suffix('`')).map(str::to_owned);
    if let Some(word) = &unknown
        && path.last() != Some(&word.as_str())
    {
        path.push(word);
    }
    source.error(&settings.origin_of(&path), format!("stage `{name}`: {text}"), help)
}

#[cfg(test)]
mod tests;
