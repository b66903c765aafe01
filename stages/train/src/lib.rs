//! The `train` stage: from labelled drawings to a trained detector.
//!
//! Owns the recipe: assignment, loss, augmentation, schedule, optimizer, averaging, validation, checkpoints. Refuses to
//! own the network (`vision::yolov8`), the metrics (`datasets::eval`) and the workflow (`engine`).

pub mod assigner;
pub mod augment;
pub mod ciou;
pub mod ema;
pub mod loss;
pub mod optimizer;
pub mod schedule;
