//! What is known about the objects in an image, and who says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::geometry::{BBox, Pixels, Polygon};
use crate::split::Split;

/// A confidence, 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Score(f64);

/// A number that is no confidence.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a score: it must be a number from 0 to 1")]
pub struct NotAScore(pub f64);

impl Score {
    /// Accepts 0..=1, refuses everything else (NaN too).
    pub fn new(x: f64) -> Result<Self, NotAScore> {
        if (0.0..=1.0).contains(&x) { Ok(Self(x)) } else { Err(NotAScore(x)) }
    }

    /// The value, 0..=1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Score {
    type Error = NotAScore;
    fn try_from(x: f64) -> Result<Self, NotAScore> {
        Self::new(x)
    }
}

impl From<Score> for f64 {
    fn from(s: Score) -> f64 {
        s.0
    }
}

/// What a person decided about a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The box is right.
    Accepted,
    /// The box is wrong and is left out of training.
    Rejected,
    /// The box was moved or renamed by a person.
    Corrected,
    /// The box was drawn by a person.
    Added,
}

/// Where a box came from. Absent fields are unknown, not empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Who made the box: `template`, `grounded-sam-2`, `detector`, `imported`, `person`, `synth`.
    pub labeller: String,
    /// Version of the labeller's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The template (file name) or prompt (text) that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The threshold that the score had to pass, 0..=1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// BLAKE3 of the model's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The device and provider that ran, such as `cpu` or `cuda:0 (CUDA)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// A person's decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Numbers that explain the score (coverage, clutter, rotation in degrees, scale, ...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, f64>,
}

/// One object in one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotation {
    /// The ontology's class name.
    pub class: String,
    /// The box.
    pub bbox: BBox<Pixels>,
    /// The outline, when known: one polygon or more, in pixels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub polygons: Vec<Polygon>,
    /// The labeller's confidence; absent for truth drawn by a person or a generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Where the box came from.
    #[serde(default)]
    pub provenance: Provenance,
    /// Anything else that a format carries (difficult, occluded, track id, ...), kept for the way out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

impl Annotation {
    /// A box of a class, with nothing else known.
    pub fn new(class: impl Into<String>, bbox: BBox<Pixels>) -> Self {
        Self {
            class: class.into(),
            bbox,
            polygons: Vec::new(),
            score: None,
            provenance: Provenance::default(),
            attributes: BTreeMap::new(),
        }
    }
}

/// All objects of one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageAnnotations {
    /// The image's name: its path below the data set's folder, with `/` between parts.
    pub image: String,
    /// BLAKE3 of the image file, 64 hex digits; empty when the labels came without their image.
    #[serde(default)]
    pub digest: String,
    /// Width in pixels, upright.
    pub width: u32,
    /// Height in pixels, upright.
    pub height: u32,
    /// The part of the data set that it belongs to, where its files tell one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// The objects, in the labeller's order.
    pub annotations: Vec<Annotation>,
}

/// An image that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// The image's name.
    pub image: String,
    /// What is wrong with it and how to mend it.
    pub reason: String,
}

/// A class as annotations need it. The whole class (prompt, exemplars, ...) is the ontology's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassInfo {
    /// Class name, unique in the set.
    pub name: String,
    /// Category ("supercategory" in COCO).
    #[serde(default)]
    pub category: String,
    /// Display colour, RGB.
    #[serde(default)]
    pub color: [u8; 3],
}

/// Annotations of a set of images. Class order is the index order of every indexed format (YOLO, COCO).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnnotationSet {
    /// All classes, also those without boxes.
    pub classes: Vec<ClassInfo>,
    /// Every image that was looked at, also those without boxes, sorted by name.
    pub images: Vec<ImageAnnotations>,
    /// Images that were left out, with reasons, sorted by name.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

impl AnnotationSet {
    /// Position of a class in `classes`.
    pub fn class_index(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|c| c.name == name)
    }

    /// True when the files told parts of the data set (training, validation, test).
    pub fn is_divided(&self) -> bool {
        self.images.iter().any(|i| i.split.is_some())
    }

    /// Number of boxes in all images.
    pub fn box_count(&self) -> usize {
        self.images.iter().map(|i| i.annotations.len()).sum()
    }
}
