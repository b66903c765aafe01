//! Results of stages by key, and the difference between two keys in words.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    context::Notes,
    digest::Digest,
    stage::Descriptor,
    store::{Store, StoreError},
};

/// Everything that a stage's result depends on, before it is hashed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnhashedKey {
    /// Name of the stage.
    pub stage: String,
    /// Version of the stage.
    pub version: u32,
    /// The full config.
    pub config: Value,
    /// Digest of the artifact at each connected input port.
    pub inputs: BTreeMap<String, Digest>,
    /// Anything else; see [`crate::Stage::fingerprint`].
    #[serde(default)]
    pub fingerprint: Value,
}

impl UnhashedKey {
    /// The key.
    pub fn key(&self) -> Digest {
        Digest::of_json(self)
    }

    /// The part of every item's key that is the same for all items; `None` for a stage that works as a whole.
    pub fn item_base(&self, descriptor: &Descriptor) -> Option<Digest> {
        let mut shared = self.clone();
        shared.inputs.remove(descriptor.items.as_ref()?);
        for port in descriptor.inputs.iter().filter(|p| p.at_finish) {
            if let Some(digest) = shared.inputs.get_mut(&port.name) {
                *digest = Digest::from_bytes([0; 32]);
            }
        }
        Some(shared.key())
    }
}

/// What a stage left, kept in `keys/<key>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    /// The key.
    pub key: Digest,
    /// What the key is made of.
    pub unhashed: UnhashedKey,
    /// Output artifacts by port.
    pub outputs: BTreeMap<String, Digest>,
    /// Metrics, messages, devices.
    pub notes: Notes,
    /// The run that made it.
    pub run: String,
    /// Seconds it took there.
    pub seconds: f64,
    /// The executor that ran it.
    pub executor: String,
    /// Why there, when something had to be decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub placement: String,
    /// Version of the program.
    pub program: String,
    /// True for a result that came from another machine.
    #[serde(default)]
    pub imported: bool,
}

impl StageResult {
    fn path(store: &Store, key: Digest) -> PathBuf {
        store.root().join("keys").join(format!("{key}.json"))
    }

    fn latest_path(store: &Store, node: &str) -> PathBuf {
        store.root().join("latest").join(format!("{node}.json"))
    }

    /// The result of a key, if it is there and readable.
    pub fn load(store: &Store, key: Digest) -> Option<Self> {
        let result: Self = serde_json::from_slice(&fs::read(Self::path(store, key)).ok()?).ok()?;
        (result.key == key && result.unhashed.key() == key).then_some(result)
    }

    /// The newest result of a node of this project, whatever its key.
    pub fn latest(store: &Store, node: &str) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::latest_path(store, node)).ok()?).ok()
    }

    /// Names of all nodes that have a newest result, sorted.
    pub fn latest_names(store: &Store) -> Vec<String> {
        let Ok(entries) = fs::read_dir(store.root().join("latest")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_suffix(".json")?.to_owned())).collect();
        names.sort();
        names
    }

    /// Keeps the result.
    pub fn save(&self, store: &Store) -> Result<(), StoreError> {
        store.write_file(&Self::path(store, self.key), &pretty(self))
    }

    /// Makes this the newest result of `node`; plans explain themselves by it.
    pub fn save_latest(&self, store: &Store, node: &str) -> Result<(), StoreError> {
        let path = Self::latest_path(store, node);
        let bytes = pretty(self);
        if fs::read(&path).is_ok_and(|old| old == bytes) { Ok(()) } else { store.write_file(&path, &bytes) }
    }

    /// The first output that is not whole any more, in words.
    pub fn problem(&self, store: &Store) -> Option<String> {
        self.outputs.iter().find_map(|(port, artifact)| {
            store.complete(*artifact).err().map(|e| format!("its output `{port}` is gone or damaged ({e})"))
        })
    }
}

/// JSON for people.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("records are plain data");
    bytes.push(b'\n');
    bytes
}

/// Why a stage will run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "because", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the texts of Display say what the fields are")]
pub enum Reason {
    NeverRan,
    Forced,
    Version { from: u32, to: u32 },
    Setting { field: String, from: Value, to: Value },
    Stage { from: String, to: String },
    InputAdded { port: String },
    InputRemoved { port: String },
    InputChanged { port: String, source: String, detail: String },
    Upstream { node: String },
    Fingerprint { from: Value, to: Value },
    Output { detail: String },
    Interrupted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRan => write!(f, "it has not run yet"),
            Self::Forced => write!(f, "--force"),
            Self::Version { from, to } => write!(f, "its code went from version {from} to {to}"),
            Self::Setting { field, from, to } => write!(f, "setting `{field}` went from {from} to {to}"),
            Self::Stage { from, to } => write!(f, "it uses stage `{to}` and used `{from}` before"),
            Self::InputAdded { port } => write!(f, "input `{port}` is new"),
            Self::InputRemoved { port } => write!(f, "input `{port}` is gone"),
            Self::InputChanged { port, source, detail } if detail.is_empty() => {
                write!(f, "input `{port}` ({source}) changed")
            }
            Self::InputChanged { port, source, detail } => write!(f, "input `{port}` ({source}) changed: {detail}"),
            Self::Upstream { node } => write!(f, "`{node}` will run before it"),
            Self::Fingerprint { from, to } => write!(f, "the machine changed: {}", brief_change(from, to)),
            Self::Output { detail } => write!(f, "{detail}"),
            Self::Interrupted => write!(f, "it was interrupted before it finished"),
        }
    }
}

fn brief_change(from: &Value, to: &Value) -> String {
    let mut changes = Vec::new();
    diff_values("", from, to, &mut |field, from, to| changes.push(format!("{field} from {from} to {to}")));
    changes.join(", ")
}

/// Calls `f` with the path of every leaf that differs.
fn diff_values(path: &str, from: &Value, to: &Value, f: &mut impl FnMut(String, &Value, &Value)) {
    if from == to {
        return;
    }
    match (from, to) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for k in keys {
                let path = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                diff_values(&path, a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null), f);
            }
        }
        _ => f(path.to_owned(), from, to),
    }
}

/// What differs between two keys of a node, but for the inputs' content.
pub(crate) fn differences(from: &UnhashedKey, to: &UnhashedKey) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if from.stage != to.stage {
        return vec![Reason::Stage { from: from.stage.clone(), to: to.stage.clone() }];
    }
    if from.version != to.version {
        reasons.push(Reason::Version { from: from.version, to: to.version });
    }
    diff_values("", &from.config, &to.config, &mut |field, from, to| {
        reasons.push(Reason::Setting { field, from: from.clone(), to: to.clone() });
    });
    for port in to.inputs.keys().filter(|p| !from.inputs.contains_key(*p)) {
        reasons.push(Reason::InputAdded { port: port.clone() });
    }
    for port in from.inputs.keys().filter(|p| !to.inputs.contains_key(*p)) {
        reasons.push(Reason::InputRemoved { port: port.clone() });
    }
    if from.fingerprint != to.fingerprint {
        reasons.push(Reason::Fingerprint { from: from.fingerprint.clone(), to: to.fingerprint.clone() });
    }
    reasons
}

/// Names of what differs between two artifacts of files: `10 added, 1 changed (a.png)`.
pub(crate) fn manifest_change(store: &Store, from: Digest, to: Digest) -> String {
    let (Ok(from), Ok(to)) = (store.manifest(from), store.manifest(to)) else { return String::new() };
    let (mut added, mut removed, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    // Both lists are sorted by name.
    while i < from.blobs.len() || j < to.blobs.len() {
        let order = match (from.blobs.get(i), to.blobs.get(j)) {
            (Some(a), Some(b)) => a.name.cmp(&b.name),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        match order {
            std::cmp::Ordering::Less => {
                removed.push(from.blobs[i].name.as_str());
                i += 1;
            }
            std::cmp::Ordering::Greater => {
                added.push(to.blobs[j].name.as_str());
                j += 1;
            }
            std::cmp::Ordering::Equal => {
                if from.blobs[i].digest != to.blobs[j].digest {
                    changed.push(to.blobs[j].name.as_str());
                }
                i += 1;
                j += 1;
            }
        }
    }
    let say = |names: &[&str], what: &str| match names {
        [] => None,
        [a] => Some(format!("1 {what} ({a})")),
        [a, .., z] => Some(format!("{} {what} ({a} … {z})", names.len())),
    };
    [say(&added, "added"), say(&changed, "changed"), say(&removed, "removed")]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stage::Port;

    fn key(config: Value) -> UnhashedKey {
        UnhashedKey { stage: "s".into(), version: 1, config, inputs: BTreeMap::new(), fingerprint: Value::Null }
    }

    #[test]
    fn a_changed_setting_is_named_with_both_values() {
        let reasons = differences(&key(json!({"a": {"b": 1, "c": 2}})), &key(json!({"a": {"b": 1, "c": 3}})));
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].to_string(), "setting `a.c` went from 2 to 3");
    }

    #[test]
    fn the_item_base_does_not_depend_on_the_items() {
        let mut a = key(Value::Null);
        a.inputs = [("images".to_owned(), Digest::of(b"1")), ("model".to_owned(), Digest::of(b"m"))].into();
        a.inputs.insert("truth".into(), Digest::of(b"t"));
        let descriptor = Descriptor {
            name: "s".into(),
            version: 1,
            about: String::new(),
            inputs: vec![
                Port::new("images", "images"),
                Port::new("model", "model"),
                Port::optional("truth", "files").only_at_finish(),
            ],
            outputs: vec![],
            items: Some("images".into()),
        };
        let base = |key: &UnhashedKey| key.item_base(&descriptor).unwrap();
        let mut b = a.clone();
        b.inputs.insert("images".into(), Digest::of(b"2"));
        b.inputs.insert("truth".into(), Digest::of(b"u"));
        assert_eq!(base(&a), base(&b));
        assert_ne!(a.key(), b.key());
        b.inputs.remove("truth");
        assert_ne!(base(&a), base(&b), "items know whether it is connected");
        b = a.clone();
        b.inputs.insert("model".into(), Digest::of(b"n"));
        assert_ne!(base(&a), base(&b));
    }
}
