//! What a training needs to go on after any kind of end: one file, written whole or not at all after each epoch.
//!
//! Owns the layout of that file. Refuses to own where it lies and when it is written.

use std::{collections::BTreeMap, path::Path};

use engine::{Store, StoreError};
use serde::{Deserialize, Serialize};
use vision::yolov8::{State, StateError, Tensor};

use crate::{
    learner::{Learner, arrays, set_arrays},
    results::Row,
};

const META: &str = "training";
const VERSION: u32 = 2;

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum CheckpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the checkpoint's description is not what is expected")]
    Meta(#[source] serde_json::Error),
    #[error("the checkpoint has no array `{0}` of the expected length")]
    Array(String),
    #[error("the checkpoint has version {0}, this program reads version {VERSION}")]
    Version(u32),
}

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Number of the epoch, from 0.
    pub epoch: usize,
    /// Its fitness.
    pub fitness: f64,
}

/// Where a training stands, apart from its arrays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Epochs done.
    pub epochs: usize,
    /// One row an epoch.
    pub rows: Vec<Row>,
    /// The best epoch so far.
    pub best: Option<Best>,
    /// Seconds spent so far; used by `time_s` alone.
    pub seconds: f64,
    /// Epochs in all, as far as is known.
    pub planned: usize,
    /// Pictures a batch from here on.
    pub batch: usize,
    /// What the machine made of the settings, for the report.
    pub notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    version: u32,
    position: Position,
    step: usize,
    last_update: Option<usize>,
    optimizer_steps: u64,
    ema_updates: u64,
}

/// Bytes of a checkpoint.
pub fn to_bytes(learner: &mut Learner, position: &Position) -> Result<Vec<u8>, CheckpointError> {
    let meta = Meta {
        version: VERSION,
        position: position.clone(),
        step: learner.step,
        last_update: learner.last_update,
        optimizer_steps: learner.optimizer.steps,
        ema_updates: learner.ema.updates,
    };
    let text = serde_json::to_string(&meta).map_err(CheckpointError::Meta)?;
    let mut tensors = BTreeMap::new();
    let mut put = |group: &str, list: &[Vec<f32>]| {
        for (i, data) in list.iter().enumerate() {
            tensors.insert(format!("{group}.{i:04}"), Tensor { shape: vec![data.len()], data: data.clone() });
        }
    };
    put("net", &arrays(learner.net.as_mut()));
    put("ema", &learner.ema.values);
    put("first", &learner.optimizer.first);
    put("second", &learner.optimizer.second);
    put("carried", &learner.carried);
    Ok(State { tensors, metadata: BTreeMap::from([(META.to_owned(), text)]) }.to_bytes()?)
}

/// Puts a learner of the same settings where a checkpoint was made.
pub fn restore(learner: &mut Learner, bytes: &[u8]) -> Result<Position, CheckpointError> {
    let mut state = State::from_bytes(bytes)?;
    let text = state.metadata.get(META).map_or("", String::as_str);
    let meta: Meta = serde_json::from_str(text).map_err(CheckpointError::Meta)?;
    if meta.version != VERSION {
        return Err(CheckpointError::Version(meta.version));
    }
    let mut take = |group: &str, like: &[Vec<f32>]| -> Result<Vec<Vec<f32>>, CheckpointError> {
        like.iter()
            .enumerate()
            .map(|(i, old)| {
                let name = format!("{group}.{i:04}");
                let found = state.tensors.remove(&name).filter(|t| t.data.len() == old.len());
                found.map(|t| t.data).ok_or(CheckpointError::Array(name))
            })
            .collect()
    };
    let net = take("net", &arrays(learner.net.as_mut()))?;
    let ema = take("ema", &learner.ema.values)?;
    let first = take("first", &learner.optimizer.first)?;
    let second = take("second", &learner.optimizer.second)?;
    let pending = meta.step != meta.last_update.map_or(0, |u| u + 1);
    let carried = if pending { take("carried", &first)? } else { Vec::new() };
    set_arrays(learner.net.as_mut(), &net);
    learner.net.zero_gradients();
    learner.ema.values = ema;
    learner.ema.updates = meta.ema_updates;
    learner.optimizer.first = first;
    learner.optimizer.second = second;
    learner.optimizer.steps = meta.optimizer_steps;
    learner.carried = carried;
    learner.step = meta.step;
    learner.last_update = meta.last_update;
    Ok(meta.position)
}

/// Writes a file whole or not at all.
pub fn write(store: &Store, path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    Ok(store.write_file(path, bytes)?)
}
