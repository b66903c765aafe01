//! What a running stage may touch: its inputs, outputs, scratch folder, items, events and the request to stop.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactReader, ArtifactWriter, Blob, Kind, Manifest},
    cancel::CancelToken,
    digest::Digest,
    event::{Event, EventSink, Level},
    item::{Item, ItemIdentity},
    itemlog::ItemLog,
    stage::StageError,
    store::Store,
};

/// The device that a stage or model ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    /// What was asked for, such as `auto`.
    pub asked: String,
    /// What ran, such as `cpu (native, AVX-512)`.
    pub used: String,
    /// Why.
    pub why: String,
}

/// What a stage leaves beside its outputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notes {
    /// Numbers that matter, by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Warnings and remarks, in the order they came.
    #[serde(default)]
    pub messages: Vec<(Level, String)>,
    /// Devices used.
    #[serde(default)]
    pub devices: Vec<DeviceUse>,
    /// Items left out because they are bad.
    #[serde(default)]
    pub quarantined: u64,
}

/// Everything that the engine hands to a stage for one execution.
pub struct Context {
    pub(crate) node: String,
    pub(crate) store: Store,
    pub(crate) inputs: BTreeMap<String, Digest>,
    pub(crate) outputs: Mutex<BTreeMap<String, Digest>>,
    pub(crate) notes: Mutex<Notes>,
    pub(crate) sink: Arc<dyn EventSink>,
    pub(crate) cancel: CancelToken,
    pub(crate) threads: usize,
    pub(crate) scratch: PathBuf,
    pub(crate) items: Option<ItemSource>,
}

/// Where a stage of items finds them.
pub(crate) struct ItemSource {
    /// The item port.
    pub port: String,
    /// The part of every item's key that is the same for all.
    pub base: Digest,
    pub identity: ItemIdentity,
    pub log: ItemLog,
}

impl ItemSource {
    /// The key of the item that `blob` is.
    pub fn key(base: Digest, identity: ItemIdentity, blob: &Blob) -> Digest {
        let mut bytes = base.as_bytes().to_vec();
        bytes.extend_from_slice(blob.digest.as_bytes());
        if identity == ItemIdentity::NameAndContent {
            bytes.extend_from_slice(blob.name.as_bytes());
        }
        Digest::of(&bytes)
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Context {
    /// The stage's name in the graph.
    pub fn stage(&self) -> &str {
        &self.node
    }

    /// The store, for artifacts that are read or written blob by blob.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// True when an input is connected.
    pub fn has(&self, port: &str) -> bool {
        self.inputs.contains_key(port)
    }

    /// The digest of the artifact at an input.
    pub fn input(&self, port: &str) -> Result<Digest, StageError> {
        self.inputs.get(port).copied().ok_or_else(|| StageError::message(format!("input `{port}` is not connected")))
    }

    /// The artifact at an input, to be read blob by blob.
    pub fn open(&self, port: &str) -> Result<ArtifactReader<'_>, StageError> {
        Ok(ArtifactReader::open(&self.store, self.input(port)?)?)
    }

    /// The manifest at an input.
    pub fn manifest(&self, port: &str) -> Result<Manifest, StageError> {
        Ok(self.store.manifest(self.input(port)?)?)
    }

    /// The value at an input of kind `K`.
    pub fn read<K: Kind>(&self, port: &str) -> Result<K::Value, StageError> {
        let reader = self.open(port)?;
        if reader.manifest.kind != K::NAME {
            return Err(crate::StoreError::WrongKind {
                artifact: reader.digest,
                found: reader.manifest.kind,
                expected: K::NAME.into(),
            }
            .into());
        }
        Ok(K::read(&reader)?)
    }

    /// The verified bytes of a blob.
    pub fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, StageError> {
        Ok(self.store.read_blob(blob)?)
    }

    /// Writes output `port` as an artifact of kind `K`.
    pub fn write<K: Kind>(&self, port: &str, value: &K::Value) -> Result<Digest, StageError> {
        let mut writer = ArtifactWriter::new(&self.store);
        let meta = K::write(value, &mut writer)?;
        self.output(port, writer.finish(K::NAME, K::FORMAT, meta)?)
    }

    /// Makes an artifact that is in the store already the output `port`.
    pub fn output(&self, port: &str, artifact: Digest) -> Result<Digest, StageError> {
        lock(&self.outputs).insert(port.to_owned(), artifact);
        Ok(artifact)
    }

    /// Threads that the stage may keep busy. The calling thread belongs to a rayon pool of this size.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// A folder for checkpoints that survives kills: a rerun with the same key finds it as it was left. It is removed
    /// when the stage is done, so nothing in it may be an output.
    pub fn scratch(&self) -> Result<&Path, StageError> {
        std::fs::create_dir_all(&self.scratch).map_err(crate::StoreError::io("creating folder", &self.scratch, 0))?;
        Ok(&self.scratch)
    }

    /// An error once the run was asked to stop. Long loops call it at every safe point.
    pub fn check(&self) -> Result<(), StageError> {
        if self.cancel.is_cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// Says how far the work is; `detail` is short text shown beside the bar.
    pub fn progress(&self, done: u64, total: u64, unit: &str, detail: impl Into<String>) {
        self.sink.emit(&Event::Progress {
            stage: self.node.clone(),
            done,
            total,
            unit: unit.into(),
            detail: detail.into(),
        });
    }

    /// Says something to people; kept with the stage's result.
    pub fn message(&self, level: Level, text: impl Into<String>) {
        let text = text.into();
        if level > Level::Debug {
            lock(&self.notes).messages.push((level, text.clone()));
        }
        self.sink.emit(&Event::Message { stage: Some(self.node.clone()), level, text });
    }

    /// A number that sums the stage up, kept with its result and shown in the run's summary.
    pub fn metric(&self, name: &str, value: f64) {
        lock(&self.notes).metrics.insert(name.to_owned(), value);
    }

    /// A number of a series (a loss over epochs, say): an event only.
    pub fn series(&self, name: &str, value: f64, step: u64) {
        self.sink.emit(&Event::Metric { stage: self.node.clone(), name: name.into(), value, step });
    }

    /// Says which device runs, and why.
    pub fn device(&self, device: DeviceUse) {
        let DeviceUse { asked, used, why } = device.clone();
        lock(&self.notes).devices.push(device);
        self.sink.emit(&Event::Device { stage: self.node.clone(), asked, used, why });
    }

    pub(crate) fn quarantined(&self, item: &str, reason: &str) {
        self.sink.emit(&Event::ItemQuarantined { stage: self.node.clone(), item: item.into(), reason: reason.into() });
    }

    /// Counts the items that are left out, those of earlier runs too.
    pub(crate) fn count_quarantined(&self, all: &[Item]) {
        lock(&self.notes).quarantined = self.items().quarantined(all);
    }

    fn item_source(&self) -> &ItemSource {
        self.items.as_ref().expect("only stages of items ask for items")
    }

    pub(crate) fn items(&self) -> &ItemLog {
        &self.item_source().log
    }

    /// Every item of the item port, in order of names.
    pub(crate) fn all_items(&self) -> Result<Vec<Item>, StageError> {
        let source = self.item_source();
        let manifest = self.manifest(&source.port)?;
        Ok(manifest
            .blobs
            .into_iter()
            .map(|blob| Item { key: ItemSource::key(source.base, source.identity, &blob), blob })
            .collect())
    }

    pub(crate) fn announce_items(&self, all: usize, todo: usize) {
        if todo < all {
            let text = format!("{} of {all} items are kept from before or copies of others, {todo} to do", all - todo);
            self.sink.emit(&Event::Message { stage: Some(self.node.clone()), level: Level::Info, text });
        }
    }
}
