//! What a stage is: a named, versioned function from typed artifacts to typed artifacts.
//!
//! A stage implements [`Stage`] (or [`crate::ItemStage`] when it works item by item) with its own config type. The
//! types are erased once, when the stage is added to a [`Registry`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    context::Context,
    item::{ErasedItems, ItemIdentity, ItemStage, PerItem},
    machine::Machine,
    store::StoreError,
};

/// An input or output of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Name, unique among the stage's inputs or outputs.
    pub name: String,
    /// Kind of artifact, such as `images`.
    pub kind: String,
    /// True for an input that may be left unconnected.
    pub optional: bool,
    /// True for an input of a stage of items that only `finish` reads: items know whether it is connected, and are
    /// not computed again when its content changes.
    pub at_finish: bool,
}

impl Port {
    /// A port that must be connected.
    pub fn new(name: &str, kind: &str) -> Self {
        Self { name: name.into(), kind: kind.into(), optional: false, at_finish: false }
    }

    /// An input that may be left unconnected.
    pub fn optional(name: &str, kind: &str) -> Self {
        Self { optional: true, ..Self::new(name, kind) }
    }

    /// The same port, read only by `finish`; see [`Port::at_finish`].
    #[must_use]
    pub fn only_at_finish(self) -> Self {
        Self { at_finish: true, ..self }
    }
}

/// What a stage says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct Descriptor {
    /// Name, as `uses:` in the pipeline file gives it.
    pub name: String,
    /// Raised when the same inputs and config may give other outputs.
    pub version: u32,
    /// One sentence for people.
    pub about: String,
    /// What it reads.
    pub inputs: Vec<Port>,
    /// What it writes.
    pub outputs: Vec<Port>,
    /// The input port whose blobs are the items; absent for a stage that works as a whole.
    pub items: Option<String>,
}

/// What a stage needs of the machine, as a function of its config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// Cores it can use with profit; 0 means all there are.
    pub cores: usize,
    /// Main memory in bytes, about.
    pub memory_bytes: u64,
    /// True when it cannot run without a GPU.
    pub gpu: bool,
    /// Which GPU, when it needs one.
    pub card: Card,
}

/// A kind of GPU; zeros say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Compute capability: major and minor number.
    pub compute: (u32, u32),
}

impl Card {
    /// True when it is at least as good as `wanted`.
    pub fn covers(&self, wanted: &Self) -> bool {
        self.memory_bytes >= wanted.memory_bytes && self.compute >= wanted.compute
    }
}

impl fmt::Display for Card {
    /// Such as ` with 16 GiB, compute capability 8.0`, to follow the word GPU; empty when nothing is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.compute;
        match (self.memory_bytes, self.compute) {
            (0, (0, 0)) => Ok(()),
            (bytes, (0, 0)) => write!(f, " with {}", gib(bytes)),
            (0, _) => write!(f, " with compute capability {major}.{minor}"),
            (bytes, _) => write!(f, " with {}, compute capability {major}.{minor}", gib(bytes)),
        }
    }
}

/// Bytes in GiB, for people.
pub(crate) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / 2f64.powi(30))
}

impl Default for Needs {
    fn default() -> Self {
        Self { cores: 1, memory_bytes: 256 << 20, gpu: false, card: Card::default() }
    }
}

/// What `resolve` may look at when it settles `auto` settings.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The machine the plan is made on.
    pub machine: Machine,
    /// Names of the stage's input ports that are connected.
    pub connected: Vec<String>,
}

/// How a stage ended, when it did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All outputs are written.
    Done,
    /// A person has to act first; the reason says what to do. Outputs written so far (a report, say) are kept.
    Waiting {
        /// What is waited for, and the command that ends the wait.
        reason: String,
    },
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum StageError {
    /// The run was asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// A setting is wrong; `key` is its path below the stage, such as `thresholds.default`.
    #[error("setting `{key}`: {message}")]
    Config { key: String, message: String },
    /// Bad input, with the fix in words.
    #[error("{message}")]
    Input { message: String, help: String },
    /// A passing fault: worth another try.
    #[error("{message}")]
    Transient {
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Anything else that is final.
    #[error("{message}")]
    Failed {
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Stored bytes could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StageError {
    /// Bad input: what is wrong, and how to mend it.
    pub fn input(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Input { message: message.into(), help: help.into() }
    }

    /// A failure with its cause.
    pub fn failed(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed { message: message.into(), source: Some(Box::new(source)) }
    }

    /// A failure without a deeper cause.
    pub fn message(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), source: None }
    }
}

/// A stage's settings: plain data with documented defaults. Implemented for every type that fits.
pub trait Settings: Serialize + DeserializeOwned + Default + JsonSchema + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Default + JsonSchema + Send + Sync + 'static> Settings for T {}

/// A stage that works as a whole (training, say). For one that works item by item see [`ItemStage`].
pub trait Stage: Send + Sync + 'static {
    /// Its settings.
    type Config: Settings;

    /// Name, version, ports.
    fn descriptor(&self) -> Descriptor;

    /// Settles `auto` settings before the key is made, with the reasons in words; also the place to refuse settings
    /// that contradict each other.
    fn resolve(&self, config: Self::Config, facts: &Facts) -> Result<(Self::Config, Vec<String>), StageError> {
        let _ = facts;
        Ok((config, Vec::new()))
    }

    /// What it needs of the machine.
    fn needs(&self, config: &Self::Config) -> Needs {
        let _ = config;
        Needs::default()
    }

    /// Anything beside config and inputs that the result depends on (the setup stage: this machine).
    fn fingerprint(&self, config: &Self::Config) -> Value {
        let _ = config;
        Value::Null
    }

    /// Does the work: reads inputs and writes outputs through `ctx`, and touches nothing else.
    fn run(&self, config: &Self::Config, ctx: &Context) -> Result<Outcome, StageError>;
}

/// A stage with its types erased; made by [`Registry::add`] and [`Registry::add_items`].
pub trait AnyStage: Send + Sync {
    /// See [`Stage::descriptor`].
    fn descriptor(&self) -> Descriptor;
    /// The descriptor for a config: a stage whose ports are settings (a command, say) has other ports for each.
    fn describe(&self, config: &Value) -> Result<Descriptor, StageError> {
        let _ = config;
        Ok(self.descriptor())
    }
    /// JSON schema of the settings.
    fn schema(&self) -> Value;
    /// Fills in defaults and checks types; the result is the full, canonical config.
    fn parse(&self, config: &Value) -> Result<Value, StageError>;
    /// See [`Stage::resolve`]; takes and gives a full config.
    fn resolve(&self, config: &Value, facts: &Facts) -> Result<(Value, Vec<String>), StageError>;
    /// See [`Stage::needs`].
    fn needs(&self, config: &Value) -> Result<Needs, StageError>;
    /// See [`Stage::fingerprint`].
    fn fingerprint(&self, config: &Value) -> Result<Value, StageError>;
    /// See [`Stage::run`]. A stage of items computes the missing ones and finishes.
    fn run(&self, config: &Value, ctx: &Context) -> Result<Outcome, StageError>;
    /// The item-wise face of the stage; `None` for one that works as a whole.
    fn items(&self) -> Option<&dyn ErasedItems>;
    /// What an item's key is made of; `None` for a stage that works as a whole.
    fn item_identity(&self, config: &Value) -> Result<Option<ItemIdentity>, StageError>;
}

/// Reads a config from JSON: unknown fields and wrong types are errors that name the field.
pub(crate) fn parse_config<C: Settings>(config: &Value) -> Result<C, StageError> {
    let config = if config.is_null() { &Value::Object(serde_json::Map::new()) } else { config };
    serde_path_to_error::deserialize(config)
        .map_err(|e| StageError::Config { key: e.path().to_string(), message: e.inner().to_string() })
}

/// Checks a config against its type and fills in defaults; for stages that implement [`AnyStage`] themselves.
pub fn parse_settings<C: Settings>(config: &Value) -> Result<Value, StageError> {
    Ok(config_value(&parse_config::<C>(config)?))
}

pub(crate) fn config_value<C: Settings>(config: &C) -> Value {
    serde_json::to_value(config).expect("settings are plain data")
}

struct Whole<S>(S);

impl<S: Stage> AnyStage for Whole<S> {
    fn descriptor(&self) -> Descriptor {
        self.0.descriptor()
    }
    fn schema(&self) -> Value {
        schemars::schema_for!(S::Config).to_value()
    }
    fn parse(&self, config: &Value) -> Result<Value, StageError> {
        parse_settings::<S::Config>(config)
    }
    fn resolve(&self, config: &Value, facts: &Facts) -> Result<(Value, Vec<String>), StageError> {
        let (config, notes) = self.0.resolve(parse_config(config)?, facts)?;
        Ok((config_value(&config), notes))
    }
    fn needs(&self, config: &Value) -> Result<Needs, StageError> {
        Ok(self.0.needs(&parse_config(config)?))
    }
    fn fingerprint(&self, config: &Value) -> Result<Value, StageError> {
        Ok(self.0.fingerprint(&parse_config(config)?))
    }
    fn run(&self, config: &Value, ctx: &Context) -> Result<Outcome, StageError> {
        self.0.run(&parse_config(config)?, ctx)
    }
    fn items(&self) -> Option<&dyn ErasedItems> {
        None
    }
    fn item_identity(&self, _config: &Value) -> Result<Option<ItemIdentity>, StageError> {
        Ok(None)
    }
}

/// All stages that a program knows, by name.
#[derive(Clone, Default)]
pub struct Registry {
    stages: BTreeMap<String, Arc<dyn AnyStage>>,
}

impl Registry {
    /// Without stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stage that works as a whole.
    #[must_use]
    pub fn add(self, stage: impl Stage) -> Self {
        self.add_any(Arc::new(Whole(stage)))
    }

    /// Adds a stage that works item by item.
    #[must_use]
    pub fn add_items(self, stage: impl ItemStage) -> Self {
        self.add_any(Arc::new(PerItem(stage)))
    }

    /// Adds a stage whose types are erased already.
    #[must_use]
    pub fn add_any(mut self, stage: Arc<dyn AnyStage>) -> Self {
        let name = stage.descriptor().name;
        assert!(self.stages.insert(name.clone(), stage).is_none(), "stage `{name}` is registered twice");
        self
    }

    /// The stage of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn AnyStage>> {
        self.stages.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.keys().map(String::as_str)
    }
}
