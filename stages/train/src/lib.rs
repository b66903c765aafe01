//! The `train` stage: from labelled drawings to a trained detector.
//!
//! Owns the recipe: assignment, loss, augmentation, schedule, optimizer, averaging, validation, checkpoints. Refuses to
//! own the network (`vision::yolov8`), the metrics (`datasets::eval`) and the workflow (`engine`).

pub mod assigner;
pub mod augment;
pub mod balance;
pub mod checkpoint;
pub mod ciou;
pub mod config;
pub mod dataset;
pub mod ema;
pub mod intake;
pub mod learner;
pub mod loader;
pub mod loss;
pub mod memory;
pub mod optimizer;
pub mod outputs;
pub mod paste;
pub mod pictures;
pub mod results;
pub mod schedule;
pub mod stage;
pub mod start;
pub mod trainer;
pub mod validate;

pub use config::Config;
pub use stage::Train;
