//! The review stage: how good the labels are, in numbers and pictures, and whether training may start.
//!
//! Owns the metrics of a set of annotations, the bands of confidence, the checks for odd boxes and images, the queue of
//! what a person should look at, what a person decided about it, the gate, and the section of the report that shows it
//! all. Refuses to change a label that nobody decided about.

pub mod bands;
pub mod checks;
pub mod decisions;
pub mod doubt;
pub mod explain;
pub mod gate;
mod look;
pub mod metrics;
mod pictures;
pub mod queue;
mod section;
mod settings;
mod stage;

pub use decisions::{Applied, Preview, preview};
pub use gate::{Gate, Verdict};
pub use metrics::Metrics;
pub use settings::Settings;
pub use stage::{Review, ReviewFile};
