//! The labeller that takes labels made elsewhere, image by image.

use std::collections::{BTreeMap, BTreeSet};

use artifacts::Annotations;
use datasets::{Annotation, AnnotationSet, BBox, ImageAnnotations, Skipped};
use engine::{DeviceUse, StageError};
use ontologies::Ontology;

use crate::labeller::{Job, LabelError, Labelled, Labeller, Parts, nearest};
use crate::settings::Thresholds;

/// Version of the matching of labels to images.
const VERSION: &str = "2";
/// Why an image that the label files do not name is left out.
const UNNAMED: &str = "no label file names it, so what is on it is not known; an empty label file says that nothing is";
/// Relative difference of width over height from which labels belong to another picture.
const SAME_ASPECT: f64 = 0.01;

struct Imported {
    labels: BTreeMap<String, ImageAnnotations>,
    /// Names of labelled images by stem, where only one has it.
    stems: BTreeMap<String, String>,
    /// The ontology's class of every name that labels may use.
    classes: BTreeMap<String, String>,
    /// What is said of every class that the ontology lacks.
    strange: BTreeMap<String, String>,
    thresholds: Thresholds,
}

/// Reads the labels at the input `labels`.
pub fn build(parts: &Parts<'_>) -> Result<Box<dyn Labeller>, StageError> {
    let set = parts.ctx.read::<Annotations>("labels")?;
    let classes = class_names(&parts.ontology.ontology);
    let mut strange = BTreeMap::new();
    for a in set.images.iter().flat_map(|i| &i.annotations) {
        if class_of(&classes, &a.class).is_none() && !strange.contains_key(&a.class) {
            strange.insert(a.class.clone(), said_of(&a.class, &parts.ontology.ontology));
        }
    }
    Ok(Box::new(Imported {
        stems: unique_stems(set.images.iter().map(|i| i.image.as_str())),
        classes,
        strange,
        labels: set.images.into_iter().map(|i| (i.image.clone(), i)).collect(),
        thresholds: parts.settings.thresholds.clone(),
    }))
}

/// Every class by its name and aliases; upper and lower case count as the same where that is unambiguous.
fn class_names(ontology: &Ontology) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for class in &ontology.classes {
        for name in class.aliases.iter().chain([&class.name]) {
            names.entry(name.to_lowercase()).or_insert_with(|| class.name.clone());
        }
    }
    for class in &ontology.classes {
        names.insert(class.name.clone(), class.name.clone());
    }
    names
}

fn class_of<'a>(classes: &'a BTreeMap<String, String>, name: &str) -> Option<&'a String> {
    classes.get(name).or_else(|| classes.get(&name.to_lowercase()))
}

/// A class that the ontology lacks, in words.
fn said_of(name: &str, ontology: &Ontology) -> String {
    let fix = nearest(ontology, name).map_or_else(
        || "add a class, or an alias of one".to_owned(),
        |class| format!("if `{class}` is meant, make it an alias of that"),
    );
    format!("boxes of class `{name}`, which the ontology does not have, were left out; {fix}")
}

/// The file name without folders and extension.
pub fn stem(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map_or(file, |(s, _)| if s.is_empty() { file } else { s })
}

/// Stems that only one of the names has.
fn unique_stems<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        all.entry(stem(name).to_owned()).or_default().push(name);
    }
    all.into_iter().filter(|(_, v)| v.len() == 1).map(|(s, v)| (s, v[0].to_owned())).collect()
}

/// The labelled image that an image's labels come from: the same name, else the only one of the same stem.
fn source<'a>(labelled: impl Fn(&str) -> bool, stems: &'a BTreeMap<String, String>, image: &'a str) -> Option<&'a str> {
    if labelled(image) { Some(image) } else { stems.get(stem(image)).map(String::as_str) }
}

impl Labeller for Imported {
    fn name(&self) -> &'static str {
        "imported"
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn device(&self) -> DeviceUse {
        DeviceUse { asked: "cpu".into(), used: "cpu".into(), why: "labels are read, not computed".into() }
    }

    fn label(&self, job: Job<'_>) -> Result<Labelled, LabelError> {
        // A picture that cannot be decoded is no use to whoever reads the labels.
        job.picture.grey()?;
        let mut out = Labelled::default();
        let Some(from) = source(|n| self.labels.contains_key(n), &self.stems, job.name) else {
            out.unknown = Some(UNNAMED.to_owned());
            return Ok(out);
        };
        let labels = &self.labels[from];
        if !labels.digest.is_empty() && labels.digest != job.digest {
            out.remark("images that changed since they were labelled");
        }
        let (w, h) = (job.info.width, job.info.height);
        let scale = fit(labels, w, h).map_err(LabelError::Image)?;
        if scale != [1.0; 2] {
            out.remark("images that were resized since they were labelled; their boxes were resized too");
        }
        for a in &labels.annotations {
            let Some(class) = class_of(&self.classes, &a.class) else {
                out.remark(&self.strange[&a.class]);
                continue;
            };
            let threshold = self.thresholds.of(class, 0.0);
            if a.score.is_some_and(|s| s.get() < threshold) {
                out.remark("imported boxes under the threshold were left out");
                continue;
            }
            match adopt(a, class, from, scale, [w, h]) {
                Some((a, clipped)) => {
                    if clipped {
                        out.remark("imported boxes were cut at the image's edge");
                    }
                    out.annotations.push(a);
                }
                None => out.remark("imported boxes without extent or outside the image were left out"),
            }
        }
        Ok(out)
    }
}

/// Factors from the labels' picture to the image, or what is wrong.
fn fit(labels: &ImageAnnotations, w: u32, h: u32) -> Result<[f64; 2], String> {
    if labels.width == 0 || labels.height == 0 || (labels.width, labels.height) == (w, h) {
        return Ok([1.0; 2]);
    }
    let [x, y] = [f64::from(w) / f64::from(labels.width), f64::from(h) / f64::from(labels.height)];
    if (x / y - 1.0).abs() > SAME_ASPECT {
        return Err(format!(
            "its labels (`{}`) were made on a picture of {} x {} pixels, the image has {w} x {h}: give the labels of this \
             image, or the image that was labelled",
            labels.image, labels.width, labels.height
        ));
    }
    Ok([x, y])
}

/// An annotation in the image's pixels under the ontology's class name, and whether it had to be cut; `None` when
/// nothing of it lies in the image.
fn adopt(a: &Annotation, class: &str, from: &str, [x, y]: [f64; 2], [w, h]: [u32; 2]) -> Option<(Annotation, bool)> {
    let scaled = BBox::new(a.bbox.x0 * x, a.bbox.y0 * y, a.bbox.x1 * x, a.bbox.y1 * y);
    if !scaled.is_valid() {
        return None;
    }
    let bbox = scaled.clipped(w, h)?;
    let mut out = Annotation { class: class.to_owned(), bbox, ..a.clone() };
    for p in out.polygons.iter_mut().flatten() {
        *p = [p[0] * x, p[1] * y];
    }
    // Who made the box first stays on record; a box that nobody signed was imported.
    if out.provenance.labeller.is_empty() {
        out.provenance.labeller = "imported".into();
        out.provenance.version = Some(VERSION.into());
    }
    out.provenance.source.get_or_insert_with(|| from.to_owned());
    Some((out, bbox != scaled))
}

/// Looks at all images together: each gets the part of the data set that its labels tell; labels that several images
/// would take by their stem are taken from all of them but one of the very name, which are left out; and what was not
/// used or not sure is put in words.
pub fn settle(set: &mut AnnotationSet, labels: &AnnotationSet) -> Vec<String> {
    let names: BTreeSet<&str> = labels.images.iter().map(|i| i.image.as_str()).collect();
    let stems = unique_stems(names.iter().copied());
    let mut takers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, image) in set.images.iter().enumerate() {
        if let Some(from) = source(|n| names.contains(n), &stems, &image.image) {
            takers.entry(from.to_owned()).or_default().push(i);
        }
    }
    for labelled in &labels.images {
        for &i in takers.get(&labelled.image).into_iter().flatten() {
            set.images[i].split = labelled.split;
        }
    }
    let mut words = Vec::new();
    let mut rivals = BTreeSet::new();
    for (from, images) in takers.iter().filter(|(_, images)| images.len() > 1) {
        for &i in images {
            let image = &set.images[i].image;
            if image == from {
                continue;
            }
            rivals.insert(image.clone());
            let reason =
                format!("the labels of `{from}` fit several images by their file name; use the folders of the images");
            words.push(format!("`{image}` is left out: {reason}"));
            set.skipped.push(Skipped { image: image.clone(), reason });
        }
    }
    set.images.retain(|i| !rivals.contains(&i.image));
    let skipped: BTreeSet<&str> = set.skipped.iter().map(|s| s.image.as_str()).collect();
    let unused: Vec<&str> =
        names.iter().copied().filter(|n| !takers.contains_key(*n) && !skipped.contains(n)).collect();
    if !unused.is_empty() {
        let shown: Vec<String> = unused.iter().take(5).map(|n| format!("`{n}`")).collect();
        let more = if unused.len() > shown.len() { ", ..." } else { "" };
        words.push(format!("labels of {} images fit no image: {}{more}", unused.len(), shown.join(", ")));
    }
    words
}

#[cfg(test)]
mod tests {
    use datasets::split::Split;

    use super::*;

    fn image(name: &str, boxes: usize) -> ImageAnnotations {
        let annotations = (0..boxes).map(|_| Annotation::new("valve", BBox::new(1.0, 1.0, 5.0, 5.0))).collect();
        ImageAnnotations { image: name.into(), digest: String::new(), width: 10, height: 10, split: None, annotations }
    }

    #[test]
    fn stems() {
        assert_eq!(stem("a b/c.d.png"), "c.d");
        assert_eq!(stem(".hidden"), ".hidden");
        assert_eq!(stem("x"), "x");
    }

    #[test]
    fn a_stem_that_two_images_share_is_settled() {
        let held_back = ImageAnnotations { split: Some(Split::Val), ..image("s.png", 1) };
        let labels = AnnotationSet { images: vec![held_back, image("other.png", 1)], ..Default::default() };
        let images = vec![image("a/s.png", 1), image("b/s.png", 1)];
        let mut set = AnnotationSet { images, ..Default::default() };
        let words = settle(&mut set, &labels);
        assert_eq!((set.images.len(), set.skipped.len()), (0, 2));
        assert_eq!(words.len(), 3);
        assert!(words[2].contains("other.png"));
        let mut set = AnnotationSet { images: vec![image("a/s.png", 1), image("s.png", 1)], ..Default::default() };
        settle(&mut set, &labels);
        assert_eq!(set.box_count(), 1);
        assert_eq!(set.images[0].split, Some(Split::Val));
        assert_eq!((set.images[0].image.as_str(), set.skipped[0].image.as_str()), ("s.png", "a/s.png"));
    }

    #[test]
    fn boxes_are_resized_cut_or_dropped() {
        let a = Annotation::new("v", BBox::new(-5.0, 2.0, 5.0, 8.0));
        let (b, cut) = adopt(&a, "valve", "s.png", [2.0, 2.0], [40, 40]).unwrap();
        assert!(cut);
        assert_eq!(b.bbox, BBox::new(0.0, 4.0, 10.0, 16.0));
        assert_eq!((b.class.as_str(), b.provenance.labeller.as_str()), ("valve", "imported"));
        assert!(adopt(&Annotation::new("v", BBox::new(5.0, 5.0, 5.0, 9.0)), "v", "s", [1.0; 2], [9, 9]).is_none());
        assert!(adopt(&Annotation::new("v", BBox::new(f64::NAN, 5.0, 6.0, 9.0)), "v", "s", [1.0; 2], [9, 9]).is_none());
        assert!(fit(&image("s.png", 0), 20, 40).is_err());
        assert_eq!(fit(&image("s.png", 0), 20, 20).unwrap(), [2.0; 2]);
    }
}
