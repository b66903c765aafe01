//! Runs one stage outside a run: what a stage's own tests need.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::{
    artifact::{ArtifactReader, ArtifactWriter, Blob, Kind, Manifest},
    cancel::CancelToken,
    context::{Context, ItemSource, Notes, Place},
    digest::Digest,
    event::{Event, EventSink},
    machine::Machine,
    result::UnhashedKey,
    stage::{AnyStage, Facts, Outcome, Registry, StageError},
    store::{Store, StoreError},
};

/// A store in a folder, and the inputs laid out for one stage.
pub struct Harness {
    /// The store.
    pub store: Store,
    /// Set it to stop the stage.
    pub cancel: CancelToken,
    inputs: BTreeMap<String, Digest>,
    threads: usize,
    sink: Arc<Recorder>,
}

/// What the stage did.
pub struct Ran {
    /// How it ended.
    pub outcome: Outcome,
    /// Its output artifacts by port.
    pub outputs: BTreeMap<String, Digest>,
    /// Metrics, messages, devices.
    pub notes: Notes,
    /// All events, in order.
    pub events: Vec<Event>,
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl EventSink for Recorder {
    fn emit(&self, event: &Event) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event.clone());
    }
}

impl Harness {
    /// A harness with its store in `dir`.
    pub fn new(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            store: Store::open(dir.join("store"))?,
            cancel: CancelToken::new(),
            inputs: BTreeMap::new(),
            threads: 2,
            sink: Arc::default(),
        })
    }

    /// Sets the number of threads; 2 if not said.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Connects an input to a value.
    pub fn input<K: Kind>(mut self, port: &str, value: &K::Value) -> Result<Self, StoreError> {
        let mut writer = ArtifactWriter::new(&self.store);
        let meta = K::write(value, &mut writer)?;
        let digest = writer.finish(K::NAME, K::FORMAT, meta)?;
        self.inputs.insert(port.into(), digest);
        Ok(self)
    }

    /// Connects an input to an artifact of `kind` made of named bytes, as a scanned folder is.
    pub fn files(mut self, port: &str, kind: &str, files: &[(&str, &[u8])]) -> Result<Self, StoreError> {
        let blobs = files
            .iter()
            .map(|(name, bytes)| {
                Ok(Blob { name: (*name).into(), digest: self.store.put(bytes)?, size: bytes.len() as u64 })
            })
            .collect::<Result<_, StoreError>>()?;
        let digest = self.store.put(&Manifest::new(kind, 1, Value::Null, blobs).to_bytes())?;
        self.inputs.insert(port.into(), digest);
        Ok(self)
    }

    /// Connects an input to an artifact that the store has, such as an earlier stage's output.
    #[must_use]
    pub fn artifact(mut self, port: &str, artifact: Digest) -> Self {
        self.inputs.insert(port.into(), artifact);
        self
    }

    /// Runs the only stage of `registry` with `config`.
    pub fn run(&self, registry: &Registry, config: Value) -> Result<Ran, StageError> {
        let name = registry.names().next().expect("a stage is registered").to_owned();
        let stage: Arc<dyn AnyStage> = registry.get(&name).expect("the name was listed").clone();
        let facts = Facts { machine: Machine::probe(), connected: self.inputs.keys().cloned().collect() };
        let (config, _) = stage.resolve(&stage.parse(&config)?, &facts)?;
        let descriptor = stage.describe(&config)?;
        for port in &descriptor.inputs {
            assert!(port.optional || self.inputs.contains_key(&port.name), "input `{}` is not connected", port.name);
        }
        let unhashed = UnhashedKey {
            stage: name.clone(),
            version: descriptor.version,
            config: config.clone(),
            inputs: self.inputs.clone(),
            fingerprint: stage.fingerprint(&config)?,
        };
        let ctx = Context::new(Place {
            node: name,
            store: self.store.clone(),
            inputs: self.inputs.clone(),
            sink: self.sink.clone(),
            cancel: self.cancel.clone(),
            threads: self.threads,
            scratch: self.store.root().join("scratch").join(unhashed.key().to_string()),
            items: ItemSource::open(&self.store, &descriptor, stage.item_identity(&config)?, &unhashed)?,
        });
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .build()
            .map_err(|e| StageError::failed("starting threads", e))?;
        let outcome = pool.install(|| stage.run(&config, &ctx))?;
        let (outputs, notes) = ctx.into_results();
        for port in &descriptor.outputs {
            let written = outputs.get(&port.name);
            assert!(
                port.optional || outcome != Outcome::Done || written.is_some(),
                "output `{}` was not written",
                port.name
            );
            if let Some(artifact) = written {
                assert_eq!(self.store.manifest(*artifact)?.kind, port.kind, "kind of output `{}`", port.name);
            }
        }
        let events = self.sink.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Ok(Ran { outcome, outputs, notes, events })
    }

    /// The value of an output.
    pub fn read<K: Kind>(&self, ran: &Ran, port: &str) -> Result<K::Value, StoreError> {
        K::read(&ArtifactReader::open(&self.store, ran.outputs[port])?)
    }
}
