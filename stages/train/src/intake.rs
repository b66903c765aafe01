//! Which pictures and labels are trained on, and which are not and why.
//!
//! Owns the checks between a folder of pictures and a set of labels. Every picture and label that is left out is named
//! with its reason. Refuses to decode pictures.

use std::collections::{BTreeMap, BTreeSet};

use datasets::{AnnotationSet, BBox, Decision, ImageAnnotations, Pixels};
use engine::{Blob, Manifest};
use serde::{Deserialize, Serialize};

/// Boxes with a side below this many pixels teach nothing and are left out.
const MIN_SIDE: f64 = 2.0;

/// An object in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Class index.
    pub class: usize,
    /// Inside the picture.
    pub bbox: BBox<Pixels>,
    /// Number of its label in the picture, from 1.
    pub label: usize,
}

/// A picture with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// The picture file.
    pub blob: Blob,
    /// Width and height in pixels, upright.
    pub size: (u32, u32),
    /// The objects.
    pub objects: Vec<Object>,
}

/// Something that is not trained on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ignored {
    /// The picture's name.
    pub image: String,
    /// Number of the label in its picture, from 1; absent for a whole picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<usize>,
    /// What is wrong, and how to mend it where that is not plain.
    pub reason: String,
}

/// What is trained on and what is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intake {
    /// The pictures, by name.
    pub images: Vec<Labelled>,
    /// What is left out because it is wrong, by name.
    pub ignored: Vec<Ignored>,
    /// Boxes that a person rejected.
    pub rejected: usize,
}

impl Intake {
    /// Joins pictures and labels by name. With `single`, all classes count as class 0.
    pub fn new(pictures: &Manifest, set: &AnnotationSet, classes: &[String], single: bool) -> Self {
        let index: BTreeMap<&str, usize> =
            classes.iter().enumerate().map(|(i, c)| (c.as_str(), if single { 0 } else { i })).collect();
        let mut out = Self::default();
        let mut seen = BTreeSet::new();
        for labels in &set.images {
            let again = !seen.insert(labels.image.as_str());
            let mut refuse = |reason: &str| {
                out.ignored.push(Ignored { image: labels.image.clone(), label: None, reason: reason.into() });
            };
            let Some(blob) = pictures.blob(&labels.image) else {
                refuse("has labels but is not among the pictures: add the file or remove its labels");
                continue;
            };
            if !labels.digest.is_empty() && labels.digest != blob.digest.to_string() {
                refuse("was changed after it was labelled: label it again");
                continue;
            }
            if labels.width == 0 || labels.height == 0 {
                refuse("has labels without a picture size");
                continue;
            }
            if again {
                refuse("is in the labels twice; the first entry is used");
                continue;
            }
            let objects = out.objects(labels, &index);
            out.images.push(Labelled { blob: blob.clone(), size: (labels.width, labels.height), objects });
        }
        for skipped in &set.skipped {
            let reason = format!("was left out of the labels: {}", skipped.reason);
            out.ignored.push(Ignored { image: skipped.image.clone(), label: None, reason });
            seen.insert(&skipped.image);
        }
        for blob in &pictures.blobs {
            if !seen.contains(blob.name.as_str()) {
                out.ignored.push(Ignored { image: blob.name.clone(), label: None, reason: "has no labels".into() });
            }
        }
        out.images.sort_by(|a, b| a.blob.name.cmp(&b.blob.name));
        out.ignored.sort();
        out
    }

    fn objects(&mut self, labels: &ImageAnnotations, index: &BTreeMap<&str, usize>) -> Vec<Object> {
        let mut objects: Vec<Object> = Vec::new();
        for (i, a) in labels.annotations.iter().enumerate() {
            if a.provenance.decision == Some(Decision::Rejected) {
                self.rejected += 1;
                continue;
            }
            let mut refuse = |reason: String| {
                self.ignored.push(Ignored { image: labels.image.clone(), label: Some(i + 1), reason });
            };
            let Some(&class) = index.get(a.class.as_str()) else {
                refuse(format!("class `{}` is not in the ontology: add it there, or as an alias", a.class));
                continue;
            };
            if !a.bbox.is_valid() {
                refuse(format!("{} is no box: edges must be numbers, left to right and top to bottom", shown(&a.bbox)));
                continue;
            }
            let Some(bbox) = a.bbox.clipped(labels.width, labels.height) else {
                let (w, h) = (labels.width, labels.height);
                refuse(format!("{} lies outside the picture of {w} x {h} pixels", shown(&a.bbox)));
                continue;
            };
            if bbox.width() < MIN_SIDE || bbox.height() < MIN_SIDE {
                refuse(format!("{} has a side below {MIN_SIDE} pixels", shown(&bbox)));
                continue;
            }
            if objects.iter().any(|o| o.class == class && o.bbox == bbox) {
                refuse(format!("{} is labelled `{}` twice", shown(&bbox), a.class));
                continue;
            }
            objects.push(Object { class, bbox, label: i + 1 });
        }
        objects
    }
}

pub(crate) fn shown(b: &BBox<Pixels>) -> String {
    format!("box [{:.1}, {:.1}, {:.1}, {:.1}]", b.x0, b.y0, b.x1, b.y1)
}

#[cfg(test)]
mod tests {
    use datasets::{Annotation, ClassInfo, Skipped};
    use engine::Digest;

    use super::*;

    fn labels(image: &str, digest: &str, annotations: Vec<Annotation>) -> ImageAnnotations {
        ImageAnnotations {
            image: image.into(),
            digest: digest.into(),
            width: 100,
            height: 80,
            split: None,
            annotations,
        }
    }

    fn boxed(class: &str, b: [f64; 4]) -> Annotation {
        Annotation::new(class, b.into())
    }

    #[test]
    fn everything_left_out_is_named_with_its_reason() {
        let blob = |n: &str| Blob { name: n.into(), digest: Digest::of(n.as_bytes()), size: 1 };
        let names = ["a.png", "changed.png", "extra.png", "skipped.png"];
        let pictures = Manifest::new("images", 1, serde_json::Value::Null, names.map(blob).to_vec());
        let mut rejected = boxed("valve", [1.0, 1.0, 9.0, 9.0]);
        rejected.provenance.decision = Some(Decision::Rejected);
        let set = AnnotationSet {
            classes: vec![ClassInfo { name: "valve".into(), category: String::new(), color: [0; 3] }],
            images: vec![
                labels(
                    "a.png",
                    "",
                    vec![
                        boxed("valve", [10.0, 10.0, 30.0, 30.0]),
                        boxed("pump", [10.0, 10.0, 30.0, 30.0]),
                        boxed("valve", [30.0, 10.0, 10.0, 30.0]),
                        boxed("valve", [f64::NAN, 10.0, 10.0, 30.0]),
                        boxed("valve", [200.0, 10.0, 230.0, 30.0]),
                        boxed("valve", [99.0, 10.0, 130.0, 30.0]),
                        boxed("valve", [20.0, 10.0, 20.0, 30.0]),
                        boxed("valve", [10.0, 10.0, 30.0, 30.0]),
                        boxed("valve", [80.0, 60.0, 130.0, 90.0]),
                        rejected,
                    ],
                ),
                labels("a.png", "", vec![]),
                labels("changed.png", &Digest::of(b"old").to_string(), vec![]),
                labels("gone.png", "", vec![]),
            ],
            skipped: vec![Skipped { image: "skipped.png".into(), reason: "truncated".into() }],
        };
        let intake = Intake::new(&pictures, &set, &["valve".into()], false);
        assert_eq!(intake.images.len(), 1);
        assert_eq!(intake.images[0].objects.len(), 2);
        assert_eq!(intake.images[0].objects[1].label, 9);
        assert_eq!(intake.images[0].objects[1].bbox, BBox::new(80.0, 60.0, 100.0, 80.0));
        assert_eq!(intake.rejected, 1);
        let text: Vec<String> =
            intake.ignored.iter().map(|i| format!("{} {:?}: {}", i.image, i.label, i.reason)).collect();
        let expected = [
            "a.png None: is in the labels twice",
            "a.png Some(2): class `pump` is not in the ontology",
            "a.png Some(3): box [30.0, 10.0, 10.0, 30.0] is no box",
            "a.png Some(4): box [NaN, 10.0, 10.0, 30.0] is no box",
            "a.png Some(5): box [200.0, 10.0, 230.0, 30.0] lies outside",
            "a.png Some(6): box [99.0, 10.0, 100.0, 30.0] has a side below",
            "a.png Some(7): box [20.0, 10.0, 20.0, 30.0]",
            "a.png Some(8): box [10.0, 10.0, 30.0, 30.0] is labelled `valve` twice",
            "changed.png None: was changed",
            "extra.png None: has no labels",
            "gone.png None: has labels but is not among the pictures",
            "skipped.png None: was left out of the labels: truncated",
        ];
        assert_eq!(text.len(), expected.len(), "{text:#?}");
        for (t, e) in text.iter().zip(expected) {
            assert!(t.starts_with(e), "{t} does not begin with {e}");
        }
    }

    #[test]
    fn a_single_class_takes_all_and_leaves_twins_out() {
        let blob = Blob { name: "a.png".into(), digest: Digest::of(b"a"), size: 1 };
        let pictures = Manifest::new("images", 1, serde_json::Value::Null, vec![blob]);
        let same = [10.0, 10.0, 30.0, 30.0];
        let boxes = vec![boxed("pump", same), boxed("valve", same), boxed("valve", [40.0, 10.0, 60.0, 30.0])];
        let set = AnnotationSet { images: vec![labels("a.png", "", boxes)], ..AnnotationSet::default() };
        let names = ["pump".into(), "valve".into()];
        let classes = |single| {
            let intake = Intake::new(&pictures, &set, &names, single);
            (intake.images[0].objects.iter().map(|o| o.class).collect::<Vec<_>>(), intake.ignored.len())
        };
        assert_eq!(classes(false), (vec![0, 1, 1], 0));
        assert_eq!(classes(true), (vec![0, 0], 1));
    }
}
