//! Drawings with exact truth: sheets that look like piping and instrumentation diagrams, made from the
//! symbol library, or like electrical schematics.
//!
//! Owns the drawing of sheets, their truth and the embedded sample. Refuses to judge what is found on them.
//!
//! A sheet is a function of settings, seed and index alone: sheets may be drawn on any number of threads, in any order.

mod canvas;
mod clutter;
mod column;
pub mod crops;
pub mod dataset;
mod draft;
mod dress;
pub mod electrical;
mod font;
mod invented;
mod lettered;
mod likeness;
mod pipes;
mod place;
pub mod sample;
mod scan;
mod schematic;
pub mod sets;
pub mod settings;
mod sheet;
pub mod symbol;
pub mod tiled;
mod wild;

pub use crops::{Crop, CropSettings, crops};
pub use dataset::{DatasetError, DatasetSpec, Templates, write_dataset};
pub use sets::Set;
pub use settings::{Palette, Rotation, SettingsError, SynthSettings, Trade};
pub use sheet::{Drawer, Sheet, sheet};
pub use tiled::{TiledError, tiled};
