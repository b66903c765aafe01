//! The review stage: how good the labels are, in numbers and pictures, and whether training may start.
//!
//! Owns the metrics of a set of annotations, the checks for odd boxes and images, what a person decided about them, the
//! gate, and the section of the report that shows it all. Refuses to change a label that nobody decided about.

pub mod checks;
pub mod decisions;
pub mod doubt;
pub mod gate;
pub mod metrics;
mod pictures;
mod section;
mod settings;
mod stage;

pub use decisions::{Decisions, DecisionsError};
pub use gate::{Gate, Verdict};
pub use metrics::Metrics;
pub use settings::Settings;
pub use stage::{Review, ReviewFile, preview};
