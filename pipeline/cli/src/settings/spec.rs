//! From the tree of settings to the graph of stages, its inputs and executors.
//!
//! Owns which keys there are and what they mean. Refuses to know layers: the tree is finished.

use std::{collections::BTreeMap, path::Path};

use engine::{
    InputSpec, Registry,
    executor::LOCAL,
    graph::{NodeSpec, PipelineSpec},
};
use executors::settings::{ExecutorSettings, capability};
use serde_json::Value;

use super::{
    DEFAULT_STAGES, IMPORT, INPUT_KEYS, LABEL_EXTENSIONS, OWN_WEIGHTS, PICTURE_INPUTS, TOP_KEYS, WEIGHTS,
    WEIGHTS_EXTENSIONS,
    tree::{Origin, Raw, SettingsError, Source, Tree},
    words::{config_error, config_words, unknown_key_help},
};

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

pub(super) fn check_keys(source: &Source, tree: &Tree) -> Result<(), Box<SettingsError>> {
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

pub(super) fn spec(
    source: &Source,
    tree: &Tree,
    dir: &Path,
    registry: &Registry,
) -> Result<PipelineSpec, SettingsError> {
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
pub(super) fn executors(source: &Source, tree: &Tree) -> Result<BTreeMap<String, ExecutorSettings>, SettingsError> {
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
