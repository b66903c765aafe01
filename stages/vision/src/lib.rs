//! What several stages look through: the detector network and its kernels, matching, picture geometry, merging of boxes.
//!
//! Owns models and numerics. Refuses to know stages, artifacts, runs or the command line.

#[cfg(test)]
extern crate self as vision;

pub mod detector;
mod kernels;
pub mod letterbox;
pub mod matcher;
pub mod ncc;
pub mod nms;
pub mod tiles;
pub mod yolov8;
