//! The runner: plans a graph of stages, runs what has to run, and keeps everything it made.
//!
//! Owns stages as typed functions of artifacts, cache keys, the content-addressed store, per-item results, run
//! records, events and cancellation. Knows nothing of images, labels or models, and never names a stage: stages are
//! handed in by the caller in a [`Registry`]. Nothing here prints or reads the environment.
//!
//! Reading order: [`stage`] (what a stage is), [`artifact`] (what flows), [`plan`] (what will run, and why), [`run`].

pub mod artifact;
pub mod bundle;
pub mod cancel;
pub mod context;
pub mod digest;
pub mod event;
pub mod executor;
pub mod gc;
pub mod graph;
pub mod harness;
pub mod item;
pub mod itemlog;
pub mod lock;
mod log;
pub mod machine;
pub mod plan;
pub mod record;
pub mod result;
pub mod run;
pub mod sources;
pub mod stage;
mod statcache;
pub mod store;
pub mod view;
mod walk;

pub use artifact::{Blob, Kind, Manifest};
pub use cancel::CancelToken;
pub use context::{Context, DeviceUse};
pub use digest::Digest;
pub use event::{Event, EventSink, Level};
pub use item::{Item, ItemError, ItemIdentity, ItemOutcome, ItemStage};
pub use lock::ProjectLock;
pub use machine::Machine;
pub use sources::{InputSpec, Scan, SourceError};
pub use stage::{AnyStage, Card, Descriptor, Facts, Needs, Outcome, Port, Registry, Settings, Stage, StageError};
pub use store::{Store, StoreError};
