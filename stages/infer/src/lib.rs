//! The `infer` stage: a trained detector over any pictures, small or big.
//!
//! Owns the way of a picture through the detector (decode, cut, detect, put together), the files that come of it, and
//! their comparison with truth. Refuses to own the network and the tiles (`vision`), the metrics (`datasets::eval`) and
//! drawing (`report`).

mod outputs;
mod section;
mod settings;
mod stage;
mod truth;

pub use settings::{Settings, Tile, Weights};
pub use stage::Infer;
