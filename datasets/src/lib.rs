//! Images, annotations and where they came from: the vocabulary that every stage speaks.
//!
//! Owns the annotation types, picture decoding, the label file formats, splits and the evaluation of detections
//! against truth. Refuses to own workflow (caching, stages) and any model: this crate depends on neither.

pub mod annotation;
pub mod eval;
pub mod formats;
pub mod geometry;
pub mod picture;
pub mod split;

pub use annotation::{Annotation, AnnotationSet, ClassInfo, Decision, ImageAnnotations, Provenance, Score, Skipped};
pub use geometry::{BBox, Pixels, Unit};
