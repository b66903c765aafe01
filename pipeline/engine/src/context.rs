//! What a running stage may touch: its inputs, outputs, scratch folder, items, events and the request to stop.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactReader, ArtifactWriter, Blob, Kind, Manifest},
    cancel::CancelToken,
    digest::Digest,
    event::{Event, EventSink, Level},
    item::{Item, ItemIdentity},
    itemlog::ItemLog,
    result::UnhashedKey,
    stage::{Descriptor, StageError},
    store::{Store, StoreError},
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
    /// What it took, when it ran on other machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
}

/// What a stage took on other machines. Times are those of the attempts whose results count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The system, in a few words: `slurm, partition gpu`.
    pub system: String,
    /// Shards whose results this run took in.
    pub shards: u64,
    /// Submissions of these shards beyond the first.
    pub resubmitted: u64,
    /// Attempts at them that were begun.
    pub attempts: u64,
    /// Attempts that failed and said why.
    pub failed: u64,
    /// Attempts that came second with another result.
    pub differing: u64,
    /// The machines that did them, by name.
    pub helpers: BTreeMap<String, Helper>,
    /// Seconds of attempts whose result does not count: all of those that could say so, up to the last part of those that
    /// were killed.
    #[serde(default)]
    pub lost_seconds: f64,
    /// Seconds of them times GPUs that were reserved.
    #[serde(default)]
    pub lost_gpu_seconds: f64,
    /// What a GPU costs an hour, when the settings say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<f64>,
    /// Bytes sent to the store and fetched from it by this program.
    pub sent_bytes: u64,
    /// See `sent_bytes`.
    pub fetched_bytes: u64,
}

/// What one machine did for a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Helper {
    /// Shards.
    pub shards: u64,
    /// Items that it computed.
    pub items: u64,
    /// Seconds, transfers included.
    pub seconds: f64,
    /// Seconds times GPUs that were reserved.
    pub gpu_seconds: f64,
    /// Devices that ran there.
    #[serde(default)]
    pub devices: BTreeSet<String>,
}

impl Elsewhere {
    /// Seconds of all machines together, lost ones too.
    pub fn seconds(&self) -> f64 {
        self.lost_seconds + self.helpers.values().map(|h| h.seconds).sum::<f64>()
    }

    /// Seconds of all GPUs together, lost ones too.
    pub fn gpu_seconds(&self) -> f64 {
        self.lost_gpu_seconds + self.helpers.values().map(|h| h.gpu_seconds).sum::<f64>()
    }

    /// What the GPUs cost.
    pub fn cost(&self) -> Option<f64> {
        self.price.map(|price| self.gpu_seconds() / 3600.0 * price)
    }

    /// Attempts that gave no result and said nothing, or came second with the same result.
    pub fn in_vain(&self) -> u64 {
        self.attempts.saturating_sub(self.shards + self.failed + self.differing)
    }
}

/// Where and with what a stage is executed once.
pub struct Place {
    /// The stage's name in the graph.
    pub node: String,
    /// Where inputs are read and outputs written.
    pub store: Store,
    /// Input artifacts by port.
    pub inputs: BTreeMap<String, Digest>,
    /// Who hears of progress.
    pub sink: Arc<dyn EventSink>,
    /// Stops the work.
    pub cancel: CancelToken,
    /// Threads that may be kept busy.
    pub threads: usize,
    /// Folder for checkpoints; made when it is asked for.
    pub scratch: PathBuf,
    /// The items, for a stage that works item by item.
    pub items: Option<ItemSource>,
}

/// Everything that the engine hands to a stage for one execution.
pub struct Context {
    place: Place,
    outputs: Mutex<BTreeMap<String, Digest>>,
    notes: Mutex<Notes>,
}

/// Where a stage of items finds them.
pub struct ItemSource {
    /// The item port.
    pub port: String,
    /// The part of every item's key that is the same for all.
    pub base: Digest,
    /// What an item's result depends on.
    pub identity: ItemIdentity,
    /// The kept results.
    pub log: ItemLog,
}

impl ItemSource {
    /// Opens the items of a stage with this key; `None` for one that works as a whole.
    pub fn open(
        store: &Store,
        descriptor: &Descriptor,
        identity: Option<ItemIdentity>,
        unhashed: &UnhashedKey,
    ) -> Result<Option<Self>, StoreError> {
        let (Some(port), Some(identity)) = (&descriptor.items, identity) else { return Ok(None) };
        let base = unhashed.item_base(descriptor).expect("it has an item port");
        let log = ItemLog::open(&ItemLog::path(store, base))?;
        Ok(Some(Self { port: port.clone(), base, identity, log }))
    }

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
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// A context without outputs yet.
    pub fn new(place: Place) -> Self {
        Self { place, outputs: Mutex::default(), notes: Mutex::default() }
    }

    /// What the stage wrote: output artifacts by port, and its notes.
    pub fn into_results(self) -> (BTreeMap<String, Digest>, Notes) {
        (
            self.outputs.into_inner().unwrap_or_else(PoisonError::into_inner),
            self.notes.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The output artifacts by port so far.
    pub fn outputs(&self) -> BTreeMap<String, Digest> {
        lock(&self.outputs).clone()
    }

    /// The notes so far.
    pub fn notes(&self) -> Notes {
        lock(&self.notes).clone()
    }

    /// Takes over what the stage said where it was executed: messages and devices that are not known yet, and metrics.
    pub fn absorb(&self, notes: &Notes) {
        for (level, text) in &notes.messages {
            if !lock(&self.notes).messages.iter().any(|(_, t)| t == text) {
                self.message(*level, text.clone());
            }
        }
        for device in &notes.devices {
            if !lock(&self.notes).devices.contains(device) {
                self.device(device.clone());
            }
        }
        for (name, value) in &notes.metrics {
            self.metric(name, *value);
        }
    }

    /// The request to stop.
    pub fn cancel(&self) -> &CancelToken {
        &self.place.cancel
    }

    /// Input artifacts by port.
    pub fn inputs(&self) -> &BTreeMap<String, Digest> {
        &self.place.inputs
    }

    /// The stage's name in the graph.
    pub fn stage(&self) -> &str {
        &self.place.node
    }

    /// The store, for artifacts that are read or written blob by blob.
    pub fn store(&self) -> &Store {
        &self.place.store
    }

    /// True when an input is connected.
    pub fn has(&self, port: &str) -> bool {
        self.place.inputs.contains_key(port)
    }

    /// The digest of the artifact at an input.
    pub fn input(&self, port: &str) -> Result<Digest, StageError> {
        self.place
            .inputs
            .get(port)
            .copied()
            .ok_or_else(|| StageError::message(format!("input `{port}` is not connected")))
    }

    /// The artifact at an input, to be read blob by blob.
    pub fn open(&self, port: &str) -> Result<ArtifactReader<'_>, StageError> {
        Ok(ArtifactReader::open(&self.place.store, self.input(port)?)?)
    }

    /// The manifest at an input.
    pub fn manifest(&self, port: &str) -> Result<Manifest, StageError> {
        Ok(self.place.store.manifest(self.input(port)?)?)
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
        Ok(self.place.store.read_blob(blob)?)
    }

    /// Writes output `port` as an artifact of kind `K`.
    pub fn write<K: Kind>(&self, port: &str, value: &K::Value) -> Result<Digest, StageError> {
        let mut writer = ArtifactWriter::new(&self.place.store);
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
        self.place.threads
    }

    /// A folder for checkpoints that survives kills: a rerun with the same key finds it as it was left. It is removed
    /// when the stage is done, so nothing in it may be an output.
    pub fn scratch(&self) -> Result<&Path, StageError> {
        std::fs::create_dir_all(&self.place.scratch).map_err(crate::StoreError::io(
            "creating folder",
            &self.place.scratch,
            0,
        ))?;
        Ok(&self.place.scratch)
    }

    /// An error once the run was asked to stop. Long loops call it at every safe point.
    pub fn check(&self) -> Result<(), StageError> {
        if self.place.cancel.is_cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// Says how far the work is; `detail` is short text shown beside the bar.
    pub fn progress(&self, done: u64, total: u64, unit: &str, detail: impl Into<String>) {
        self.place.sink.emit(&Event::Progress {
            stage: self.place.node.clone(),
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
        self.place.sink.emit(&Event::Message { stage: Some(self.place.node.clone()), level, text });
    }

    /// Puts down what it takes on other machines.
    pub fn elsewhere(&self, change: impl FnOnce(&mut Elsewhere)) {
        change(lock(&self.notes).elsewhere.get_or_insert_default());
    }

    pub(crate) fn retried(&self, attempt: u32, error: String) {
        self.place.sink.emit(&Event::StageRetried { stage: self.place.node.clone(), attempt, error });
    }

    /// A number that sums the stage up, kept with its result and shown in the run's summary.
    pub fn metric(&self, name: &str, value: f64) {
        lock(&self.notes).metrics.insert(name.to_owned(), value);
    }

    /// A number of a series (a loss over epochs, say): an event only.
    pub fn series(&self, name: &str, value: f64, step: u64) {
        self.place.sink.emit(&Event::Metric { stage: self.place.node.clone(), name: name.into(), value, step });
    }

    /// Says which device runs, and why.
    pub fn device(&self, device: DeviceUse) {
        let DeviceUse { asked, used, why } = device.clone();
        lock(&self.notes).devices.push(device);
        self.place.sink.emit(&Event::Device { stage: self.place.node.clone(), asked, used, why });
    }

    /// Says that an item is left out.
    pub fn quarantined(&self, item: &str, reason: &str) {
        self.place.sink.emit(&Event::ItemQuarantined {
            stage: self.place.node.clone(),
            item: item.into(),
            reason: reason.into(),
        });
    }

    /// Counts the items that are left out, those of earlier runs too.
    pub(crate) fn count_quarantined(&self, all: &[Item]) {
        lock(&self.notes).quarantined = self.items().quarantined(all);
    }

    /// The items; only for a stage that works item by item.
    pub fn item_source(&self) -> Option<&ItemSource> {
        self.place.items.as_ref()
    }

    fn source(&self) -> &ItemSource {
        self.place.items.as_ref().expect("only stages of items ask for items")
    }

    pub(crate) fn items(&self) -> &ItemLog {
        &self.source().log
    }

    /// Every item of the item port, in order of names.
    pub fn all_items(&self) -> Result<Vec<Item>, StageError> {
        let source = self.source();
        let manifest = self.manifest(&source.port)?;
        Ok(manifest
            .blobs
            .into_iter()
            .map(|blob| Item { key: ItemSource::key(source.base, source.identity, &blob), blob })
            .collect())
    }

    pub(crate) fn announce_items(&self, all: usize, todo: usize) {
        if todo < all {
            let text = format!("{} of {all} items are done already or copies of others, {todo} to do", all - todo);
            self.place.sink.emit(&Event::Message { stage: Some(self.place.node.clone()), level: Level::Info, text });
        }
    }
}
