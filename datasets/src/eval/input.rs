//! What is compared: truth and predictions, picture by picture.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::annotation::{Annotation, AnnotationSet};
use crate::geometry::{BBox, Pixels};

/// A truth box.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Class index.
    pub class: usize,
    /// The box.
    pub bbox: BBox<Pixels>,
    /// Area in square pixels by which the object is small, medium or large (of the outline where there is one).
    pub area: f64,
    /// A group of objects under one box: neither a hit nor a miss.
    pub crowd: bool,
}

/// A prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Class index.
    pub class: usize,
    /// The box.
    pub bbox: BBox<Pixels>,
    /// Area of the box in square pixels.
    pub area: f64,
    /// Confidence, 0..=1.
    pub score: f64,
}

/// One picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// The picture's name.
    pub image: String,
    /// Truth boxes. Of equal overlaps the later box is taken.
    pub truth: Vec<Truth>,
    /// Predictions. Of equal scores the earlier one comes first.
    pub found: Vec<Found>,
}

/// Truth and predictions of the same pictures. The order of the pictures decides among equal scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvalInput {
    /// Class names.
    pub classes: Vec<String>,
    /// The pictures of the truth.
    pub pictures: Vec<Picture>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

impl EvalInput {
    /// Compares two annotation sets. The truth says which pictures and classes count; predictions without a score count
    /// as certain.
    pub fn from_sets(truth: &AnnotationSet, predictions: &AnnotationSet) -> Self {
        let mut classes: Vec<String> = truth.classes.iter().map(|c| c.name.clone()).collect();
        let known: BTreeSet<String> = classes.iter().cloned().collect();
        let used: BTreeSet<&String> = truth.images.iter().flat_map(|i| &i.annotations).map(|a| &a.class).collect();
        classes.extend(used.into_iter().filter(|c| !known.contains(*c)).cloned());
        let index: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i)).collect();
        let found: BTreeMap<&str, &[Annotation]> =
            predictions.images.iter().map(|i| (i.image.as_str(), i.annotations.as_slice())).collect();
        let mut left_out = LeftOut::default();
        let mut pictures: Vec<Picture> = truth
            .images
            .iter()
            .map(|image| Picture {
                image: image.image.clone(),
                truth: image
                    .annotations
                    .iter()
                    .map(|a| Truth {
                        class: index[a.class.as_str()],
                        bbox: a.bbox,
                        area: a.attributes.get("area").and_then(Value::as_f64).unwrap_or_else(|| a.bbox.area()),
                        crowd: a
                            .attributes
                            .get("iscrowd")
                            .is_some_and(|v| v == &Value::Bool(true) || v.as_f64() == Some(1.0)),
                    })
                    .collect(),
                found: found
                    .get(image.image.as_str())
                    .copied()
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|a| {
                        let Some(&class) = index.get(a.class.as_str()) else {
                            left_out.class(&a.class);
                            return None;
                        };
                        Some(Found { class, bbox: a.bbox, area: a.bbox.area(), score: a.score.map_or(1.0, f64::from) })
                    })
                    .collect(),
            })
            .collect();
        pictures.sort_by(|a, b| a.image.cmp(&b.image));
        let judged: BTreeSet<&str> = truth.images.iter().map(|i| i.image.as_str()).collect();
        for image in predictions.images.iter().filter(|i| !judged.contains(i.image.as_str())) {
            left_out.image(&image.image, image.annotations.len());
        }
        Self { classes, pictures, notes: left_out.notes() }
    }
}

/// Counts what cannot be compared.
#[derive(Default)]
pub(super) struct LeftOut {
    classes: BTreeMap<String, usize>,
    images: BTreeMap<String, usize>,
}

impl LeftOut {
    pub fn class(&mut self, name: &str) {
        *self.classes.entry(name.to_owned()).or_default() += 1;
    }

    pub fn image(&mut self, name: &str, boxes: usize) {
        *self.images.entry(name.to_owned()).or_default() += boxes;
    }

    pub fn notes(&self) -> Vec<String> {
        let list = |of: &BTreeMap<String, usize>| {
            let mut names: Vec<String> = of.keys().take(5).map(|n| format!("`{n}`")).collect();
            if of.len() > 5 {
                names.push(format!("and {} more", of.len() - 5));
            }
            names.join(", ")
        };
        let mut notes = Vec::new();
        if !self.classes.is_empty() {
            notes.push(format!(
                "{} predictions of {} classes that the truth does not list were left out: {}",
                self.classes.values().sum::<usize>(),
                self.classes.len(),
                list(&self.classes)
            ));
        }
        if !self.images.is_empty() {
            notes.push(format!(
                "{} predictions on {} images that the truth does not list were left out: {}",
                self.images.values().sum::<usize>(),
                self.images.len(),
                list(&self.images)
            ));
        }
        notes
    }
}

/// IoU as COCO takes it: over a crowd, the share of the prediction inside it.
pub(super) fn overlap(found: &Found, truth: &Truth) -> f64 {
    let i = found.bbox.intersection_area(&truth.bbox);
    if i == 0.0 {
        return 0.0;
    }
    i / if truth.crowd { found.bbox.area() } else { found.bbox.area() + truth.bbox.area() - i }
}

/// Indices of the predictions that `keep` names, highest score first, equal scores in their order.
pub(super) fn by_score(found: &[Found], keep: impl Fn(&Found) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.len()).filter(|&i| keep(&found[i])).collect();
    order.sort_by(|&a, &b| found[b].score.total_cmp(&found[a].score));
    order
}
