//! The label stage: boxes for every image, each with where it came from.
//!
//! Owns the interface of a labeller, the list of all labellers, the choice between them, the stage that runs one over
//! the images, and the stages before it: label files made elsewhere, and templates out of a person's decisions. Refuses to own how symbols are found (that is `vision`) and what a label file looks like (that is
//! `datasets`). A new labeller is one file and one line in [`labeller::LABELLERS`].

pub mod detector;
pub mod exemplars;
pub mod files;
pub mod imported;
pub mod labeller;
pub mod ncc;
mod pictures;
mod section;
pub mod settings;
mod stage;
pub mod template;
pub mod upright;
mod word_or_number;

pub use exemplars::Exemplars;
pub use files::{Import, ImportSettings};
pub use labeller::{Job, LabelError, Labelled, Labeller};
pub use settings::Settings;
pub use stage::Label;
