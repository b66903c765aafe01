//! The border: every image, class and label of every format passes here on its way in, and again on its way out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::account::{Account, Direction, Effect, Problem};
use super::folder::{SIDECAR, Sidecar};
use super::text::clean_name;
use super::{Bounds, Format, Imported, ReadOptions};
use crate::annotation::{Annotation, AnnotationSet, ClassInfo, ImageAnnotations, Provenance, Score, Skipped};
use crate::geometry::{BBox, Pixels, Polygon, polygon_bounds};
use crate::split::Split;

/// How far past the image's edge, as a part of its side, a box may lie through rounding alone: files with six decimals
/// put an edge up to one and a half units of the last place outside.
const ROUNDING: f64 = 2e-6;

/// A place in a file; line 0 is unknown.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub file: &'a Path,
    pub line: usize,
}

/// What helps when an image has no size.
const FIX_IMAGE: &str = "mend the label file, or give the image's size by its picture beside the labels";

/// Collects a checked [`AnnotationSet`] and the account of it.
pub(super) struct Intake<'a> {
    options: &'a ReadOptions<'a>,
    pub account: Account,
    set: AnnotationSet,
    index: BTreeMap<String, usize>,
    declared: BTreeSet<String>,
    found: BTreeSet<String>,
    doubled: BTreeSet<usize>,
    files: BTreeMap<String, PathBuf>,
}

impl<'a> Intake<'a> {
    pub fn new(format: Format, direction: Direction, options: &'a ReadOptions<'a>) -> Self {
        Self {
            options,
            account: Account::new(format, direction),
            set: AnnotationSet::default(),
            index: BTreeMap::new(),
            declared: BTreeSet::new(),
            found: BTreeSet::new(),
            doubled: BTreeSet::new(),
            files: BTreeMap::new(),
        }
    }

    /// What the caller knows about images.
    pub fn options(&self) -> &'a ReadOptions<'a> {
        self.options
    }

    /// A class that the file lists; its place is its index.
    pub fn declare(&mut self, mut class: ClassInfo) {
        class.name = self.class_name(&class.name);
        if class.name.is_empty() {
            self.account.note(Effect::Lost, "class", "(no name)", "a class without a name was left out");
        } else if self.declared.insert(class.name.clone()) {
            self.set.classes.push(class);
        } else {
            self.account.note(Effect::Repaired, "class", &class.name, "a class listed twice was made one");
        }
    }

    /// The sidecar of an exported folder; takes the skipped images from it.
    pub fn sidecar(&mut self, folder: &Path, format: Format) -> Option<Sidecar> {
        if Sidecar::is_damaged(folder) {
            let at = At { file: &folder.join(SIDECAR), line: 0 };
            self.problem(
                Effect::Lost,
                at,
                "the sidecar is not readable",
                "export again; the labels were read without it",
            );
        }
        let mut sidecar = Sidecar::open(folder).filter(|s| s.format == format)?;
        for s in std::mem::take(&mut sidecar.skipped) {
            self.skipped(s);
        }
        Some(sidecar)
    }

    /// Takes classes and skipped images from an exported folder's sidecar.
    pub fn classes_beside(&mut self, folder: &Path, format: Format) -> bool {
        let sidecar = self.sidecar(folder, format);
        let found = sidecar.is_some();
        sidecar.into_iter().flat_map(|s| s.classes).for_each(|c| self.declare(c));
        found
    }

    /// The canonical name of a class.
    fn class_name(&self, raw: &str) -> String {
        let name = raw.trim();
        self.options.aliases.get(name).map_or(name, String::as_str).to_owned()
    }

    /// An image, by the name in the file. `None`: it was left out, and its `labels` labels with it.
    pub fn image(&mut self, at: At, raw: &str, size: Option<(f64, f64)>, labels: usize) -> Option<usize> {
        let Some(name) = clean_name(raw) else {
            self.skip_image(at, raw, "the image has no name", "name it in the label file", labels);
            return None;
        };
        if name != raw && name != raw.replace('\\', "/").trim_start_matches("./") {
            self.account.note(
                Effect::Repaired,
                "image name",
                format!("`{raw}` is `{name}`"),
                "image names are paths below the data set's folder",
            );
        }
        let whole = |x: f64| (x >= 1.0 && x <= f64::from(u32::MAX)).then_some(x as u32);
        let in_file = size.and_then(|(w, h)| Some((whole(w)?, whole(h)?)));
        let told = self.options.sizes.told(&name);
        let Some((width, height)) = in_file.or(told).or_else(|| self.options.sizes.get(&name)) else {
            let reason = match size {
                Some((w, h)) => format!("the image's size is {w} x {h}"),
                None => "the image's size is not known".into(),
            };
            self.skip_image(at, &name, &reason, FIX_IMAGE, labels);
            return None;
        };
        if let (None, Some((w, h))) = (in_file, size) {
            self.account.note(
                Effect::Repaired,
                "image size",
                format!("`{name}`: {w} x {h} is {width} x {height}"),
                "the size was taken from the image",
            );
        }
        if let Some((w, h)) = told.filter(|t| *t != (width, height)) {
            let reason = format!("`{name}` is {width} x {height} here, but the image is {w} x {h}");
            self.problem(Effect::Noted, at, reason, "check that labels and image belong together (EXIF rotation?)");
        }
        if let Some(&known) = self.index.get(&name) {
            let old = &self.set.images[known];
            if (old.width, old.height) != (width, height) {
                let reason = format!("`{name}` is listed twice, as {}x{} and {width}x{height}", old.width, old.height);
                self.account.labels_dropped += labels;
                self.problem(Effect::Lost, at, reason, "give each image its own name; the first was kept");
                return None;
            }
            let reason = format!("`{name}` is listed twice");
            self.problem(Effect::Repaired, at, reason, "its labels were put together, equal ones once");
            self.doubled.insert(known);
            return Some(known);
        }
        self.index.insert(name.clone(), self.set.images.len());
        self.set.images.push(ImageAnnotations {
            image: name,
            digest: String::new(),
            width,
            height,
            split: None,
            annotations: Vec::new(),
        });
        Some(self.set.images.len() - 1)
    }

    /// Notes what else is known of an image.
    pub fn describe(&mut self, image: usize, digest: Option<&str>, file: Option<&Path>) {
        let target = &mut self.set.images[image];
        if let Some(d) = digest {
            target.digest = d.into();
        }
        if let Some(path) = file {
            self.files.insert(target.image.clone(), path.into());
        }
    }

    /// Notes the part of the data set that an image is in, where one is told.
    pub fn assign(&mut self, image: usize, part: Option<Split>) {
        let known = &mut self.set.images[image].split;
        *known = part.or(*known);
    }

    /// Width and height of an image, pixels.
    pub fn size(&self, image: usize) -> (f64, f64) {
        let i = &self.set.images[image];
        (f64::from(i.width), f64::from(i.height))
    }

    /// Leaves an image out, and the labels on it.
    pub fn skip_image(&mut self, at: At, name: &str, reason: &str, fix: &str, labels: usize) {
        self.account.labels_dropped += labels;
        let what = if labels > 0 {
            format!("`{name}`: {reason} ({labels} {} lost with it)", if labels == 1 { "label" } else { "labels" })
        } else {
            format!("`{name}`: {reason}")
        };
        self.problem(Effect::Lost, at, what, fix);
        self.skipped(Skipped { image: name.into(), reason: format!("{reason}; {fix}") });
        self.account.images_skipped += 1;
    }

    /// An image that the file itself says was left out.
    pub fn skipped(&mut self, skipped: Skipped) {
        self.set.skipped.push(skipped);
    }

    /// Leaves a label out.
    pub fn drop_label(&mut self, at: At, reason: impl Into<String>, fix: &str) {
        self.account.labels_dropped += 1;
        self.problem(Effect::Lost, at, reason, fix);
    }

    /// Enters a problem.
    pub fn problem(&mut self, effect: Effect, at: At, reason: impl Into<String>, fix: &str) {
        self.account.problems.push(Problem {
            effect,
            file: at.file.into(),
            line: (at.line > 0).then_some(at.line),
            reason: reason.into(),
            fix: fix.into(),
        });
    }

    /// A label: checked, clipped, renamed, or left out.
    pub fn label(&mut self, at: At, image: usize, mut label: Annotation) {
        label.class = self.class_name(&label.class);
        if label.class.is_empty() {
            return self.drop_label(at, "the label has no class", "name its class");
        }
        let [a, b, c, d] = label.bbox.into();
        if ![a, b, c, d].iter().all(|v| v.is_finite()) {
            return self.drop_label(at, format!("the box {a} {b} {c} {d} is not made of numbers"), "draw it again");
        }
        if a > c || b > d {
            label.bbox = BBox::new(a.min(c), b.min(d), a.max(c), b.max(d));
            self.problem(Effect::Repaired, at, "the box's edges are swapped", "they were put in order");
        }
        if self.options.bounds == Bounds::Clip {
            let Some(clipped) = self.clip(at, image, label.bbox) else { return };
            label.bbox = clipped;
            label.polygons = self.clip_polygons(at, image, std::mem::take(&mut label.polygons));
        }
        let before = label.provenance.evidence.len();
        label.provenance.evidence.retain(|_, v| v.is_finite());
        if label.provenance.evidence.len() < before {
            self.account.note(Effect::Lost, "evidence", &label.class, "numbers that are not finite were left out");
        }
        if label.provenance.threshold.is_some_and(|t| !t.is_finite()) {
            label.provenance.threshold = None;
            self.account.note(Effect::Lost, "threshold", &label.class, "a threshold that is no number was left out");
        }
        self.found.insert(label.class.clone());
        self.set.images[image].annotations.push(label);
    }

    fn clip(&mut self, at: At, image: usize, b: BBox<Pixels>) -> Option<BBox<Pixels>> {
        let (w, h) = self.size(image);
        if !b.is_valid() {
            self.drop_label(at, format!("the box is {} x {} pixels", b.width(), b.height()), "draw it again");
            return None;
        }
        let Some(inside) = b.clipped(w as u32, h as u32) else {
            let reason = format!("the box {:?} is outside the image ({w} x {h})", <[f64; 4]>::from(b));
            self.drop_label(at, reason, "check that labels and image belong together");
            return None;
        };
        let over = (-b.x0).max(b.x1 - w) / w;
        let over = over.max((-b.y0).max(b.y1 - h) / h);
        if over > ROUNDING {
            let reason = format!("the box {:?} reaches out of the image ({w} x {h})", <[f64; 4]>::from(b));
            self.problem(Effect::Repaired, at, reason, "it was cut at the edge");
        }
        Some(inside)
    }

    fn clip_polygons(&mut self, at: At, image: usize, polygons: Vec<Polygon>) -> Vec<Polygon> {
        let (w, h) = self.size(image);
        let mut kept = Vec::with_capacity(polygons.len());
        for polygon in polygons {
            if polygon.len() < 3 || polygon.iter().flatten().any(|v| !v.is_finite()) {
                self.problem(
                    Effect::Lost,
                    at,
                    "the outline is no polygon (3 corners or more, all numbers)",
                    "draw it again; the box was kept",
                );
                continue;
            }
            let over = polygon.iter().map(|p| (-p[0]).max(p[0] - w).max((-p[1]).max(p[1] - h))).fold(0.0, f64::max);
            if over <= 0.0 {
                kept.push(polygon);
            } else if over <= ROUNDING * w.max(h) {
                kept.push(polygon.into_iter().map(|[x, y]| [x.clamp(0.0, w), y.clamp(0.0, h)]).collect());
            } else {
                self.problem(Effect::Repaired, at, "the outline reaches out of the image", "it was cut at the edge");
                let cut = clip_polygon(polygon, w, h);
                if cut.len() >= 3 {
                    kept.push(cut);
                }
            }
        }
        kept
    }

    /// The provenance in the file's own words, or "imported from this format".
    pub fn provenance(&mut self, at: At, value: Option<Value>) -> Provenance {
        match value.map(serde_json::from_value::<Provenance>) {
            Some(Ok(p)) => return p,
            Some(Err(e)) => {
                let reason = format!("the provenance is not readable: {e}");
                self.problem(Effect::Lost, at, reason, "the label was kept");
            }
            None => {}
        }
        let source = Some(self.account.format.to_string());
        Provenance { labeller: "imported".into(), source, ..Provenance::default() }
    }

    /// The score that a file tells; one that is none is entered, and the label stays.
    pub fn score(&mut self, at: At, told: Option<Value>) -> Option<Score> {
        let told = told.filter(|v| !v.is_null())?;
        let score = told.as_f64().and_then(|v| Score::new(v).ok());
        if score.is_none() {
            let reason = format!("the score is {told}");
            self.problem(Effect::Lost, at, reason, "it must be a number from 0 to 1; the label was kept");
        }
        score
    }

    /// Ends the intake: images sorted by name, undeclared classes sorted behind the declared ones.
    pub fn finish(mut self) -> Imported {
        let undeclared: Vec<_> = self.found.difference(&self.declared).cloned().collect();
        if !self.declared.is_empty() {
            for name in &undeclared {
                self.account.note(Effect::Repaired, "class", name, "used but not listed: added to the classes");
            }
        }
        self.set.classes.extend(undeclared.into_iter().map(|name| ClassInfo {
            name,
            category: String::new(),
            color: [0; 3],
        }));
        for &i in &self.doubled {
            let all = std::mem::take(&mut self.set.images[i].annotations);
            let count = all.len();
            let mut once: Vec<Annotation> = Vec::with_capacity(count);
            for a in all {
                if !once.contains(&a) {
                    once.push(a);
                }
            }
            self.account.labels_dropped += count - once.len();
            self.set.images[i].annotations = once;
        }
        // Everything for training is no division.
        if self.set.images.iter().all(|i| i.split.is_none_or(|part| part == Split::Train)) {
            self.set.images.iter_mut().for_each(|i| i.split = None);
        }
        self.set.images.sort_by(|a, b| a.image.cmp(&b.image));
        self.set.skipped.sort();
        self.set.skipped.dedup();
        self.account.images = self.set.images.len();
        self.account.labels = self.set.box_count();
        Imported { set: self.set, account: self.account, files: self.files }
    }
}

/// Passes a set through the border on its way out: what a writer gets is sorted, named and inside its images.
pub(super) fn checked(set: &AnnotationSet, format: Format) -> (AnnotationSet, Account) {
    let options = ReadOptions::default();
    let mut intake = Intake::new(format, Direction::Written, &options);
    for class in &set.classes {
        intake.declare(class.clone());
    }
    for image in &set.images {
        let at = At { file: Path::new(&image.image), line: 0 };
        let size = (f64::from(image.width), f64::from(image.height));
        let Some(i) = intake.image(at, &image.image, Some(size), image.annotations.len()) else { continue };
        intake.describe(i, Some(&image.digest), None);
        intake.assign(i, image.split);
        for annotation in &image.annotations {
            intake.label(at, i, annotation.clone());
        }
    }
    for s in &set.skipped {
        intake.skipped(s.clone());
    }
    let Imported { set, account, .. } = intake.finish();
    (set, account)
}

/// Sutherland-Hodgman: the part of a polygon inside `0..=w` x `0..=h`.
fn clip_polygon(mut polygon: Polygon, w: f64, h: f64) -> Polygon {
    // (axis, edge, sign): inside when sign * (p[axis] - edge) >= 0.
    for (axis, edge, sign) in [(0, 0.0, 1.0), (0, w, -1.0), (1, 0.0, 1.0), (1, h, -1.0)] {
        let inside = |p: &[f64; 2]| sign * (p[axis] - edge) >= 0.0;
        let mut out = Polygon::with_capacity(polygon.len() + 2);
        for (i, &to) in polygon.iter().enumerate() {
            let from = polygon[(i + polygon.len() - 1) % polygon.len()];
            if inside(&from) != inside(&to) {
                let t = (edge - from[axis]) / (to[axis] - from[axis]);
                let mut cross = [from[0] + t * (to[0] - from[0]), from[1] + t * (to[1] - from[1])];
                cross[axis] = edge;
                out.push(cross);
            }
            if inside(&to) {
                out.push(to);
            }
        }
        polygon = out;
    }
    polygon
}

/// The box of an annotation that a file tells by its outline only.
pub(super) fn box_of(polygons: &[Polygon]) -> BBox<Pixels> {
    polygon_bounds(polygons).unwrap_or(BBox::new(0.0, 0.0, 0.0, 0.0))
}
