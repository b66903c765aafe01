//! Ultralytics YOLO: one text file an image, a line a label, measured in fractions of the image.
//!
//! `class cx cy w h` is a box, with a sixth number a box with its score; `class x1 y1 x2 y2 x3 y3 ...` is an outline.
//! All else lies in the sidecar `provenance.json`, where each label is found by the text of its line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::account::{Account, Direction, Effect};
use super::folder::{Folder, Sidecar, SidecarImage, SidecarLabel, mirror_paths, to_json};
use super::intake::{At, Intake, box_of, checked};
use super::sizes::upright_size;
use super::text::below;
use super::yolo_layout::{Item, Layout, looks_like_yolo};
use super::{Format, FormatError, Imported, LabelFormat, ReadOptions, Shape, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ClassInfo, ImageAnnotations, Provenance, Score};
use crate::geometry::{BBox, Pixels, Polygon, Unit};
use crate::picture::IMAGE_EXTENSIONS;
use crate::split::Split;

/// The format.
pub(super) struct Yolo;

impl LabelFormat for Yolo {
    fn format(&self) -> Format {
        Format::Yolo
    }

    fn recognises(&self, source: &Path) -> bool {
        looks_like_yolo(source)
    }

    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        let layout = Layout::open(source)?;
        let mut intake = Intake::new(Format::Yolo, Direction::Read, options);
        let sidecar = intake.sidecar_of(&layout.root, &layout.names);
        for missing in &layout.missing {
            let why = "a place that the data set names was left out";
            intake.account.note(Effect::Lost, "images", missing, why);
        }
        let mut by_label: BTreeMap<&str, &SidecarImage> = BTreeMap::new();
        let mut by_file: BTreeMap<&str, &SidecarImage> = BTreeMap::new();
        for i in sidecar.iter().flat_map(|s| &s.images) {
            by_label.insert(&i.label, i);
            by_file.insert(&i.file, i);
        }
        for item in &layout.items {
            let place = |p: &Option<std::path::PathBuf>| p.as_ref().map(|p| below(&layout.root, p));
            let known = place(&item.label).and_then(|l| by_label.get(l.as_str()).copied());
            let known = known.or_else(|| place(&item.image).and_then(|f| by_file.get(f.as_str()).copied()));
            read_image(item, known, &layout, &mut intake);
        }
        Ok(intake.finish())
    }

    fn write(&self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError> {
        let (set, mut account) = checked(set, Format::Yolo);
        let mut folder = Folder::create(target)?;
        let index: BTreeMap<&str, usize> = set.classes.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
        // Trainers swap the last `images` of a path for `labels`, so no folder of ours may have that name.
        let rename = |n: &str| {
            let mut parts: Vec<&str> = n.split('/').collect();
            let last = parts.len() - 1;
            parts[..last].iter_mut().filter(|p| **p == "images").for_each(|p| *p = "images_");
            parts.join("/")
        };
        let paths = mirror_paths(set.images.iter().map(|i| i.image.as_str()), "txt", rename);
        let mut sidecar = Sidecar::new(Format::Yolo, &set);
        let mut parts = vec![Split::Train];
        for i in &set.images {
            let part = i.split.unwrap_or(Split::Train);
            if !parts.contains(&part) {
                parts.push(part);
            }
            let path = &paths[&i.image];
            let base = i.image.rsplit('/').next().unwrap_or_default();
            let dot = base.rfind('.').filter(|d| *d > 0).map_or("", |d| &base[d..]);
            let label = format!("labels/{}/{path}.txt", part.name());
            let file = format!("images/{}/{path}{dot}", part.name());
            if format!("{path}{dot}") != i.image {
                let why = "two images would share a label file, or a folder would confuse trainers; the sidecar knows";
                account.note(Effect::Repaired, "image name", format!("`{}` is `{path}{dot}`", i.image), why);
            }
            let mut known = SidecarImage::of(i, &label, &file);
            let mut text = String::new();
            for a in &i.annotations {
                let line = line(a, index[a.class.as_str()], i, options.shape, &mut account);
                text.push_str(&line);
                text.push('\n');
                known.labels.push(SidecarLabel { text: line, annotation: a.clone() });
            }
            folder.put(&label, &text)?;
            folder.put_image(options, &i.image, &file, &mut account)?;
            sidecar.images.push(known);
        }
        parts.sort();
        for part in &parts {
            folder.folder(&format!("images/{}", part.name()))?;
            folder.folder(&format!("labels/{}", part.name()))?;
        }
        if !parts.contains(&Split::Val) {
            let why = "no image is for validation: `val` names the training images, as trainers want one";
            account.note(Effect::Noted, "split", "val: images/train", why);
        }
        let yaml = data_yaml(&set, &parts);
        folder.put("data.yaml", &yaml)?;
        folder.commit(sidecar)?;
        Ok(account)
    }
}

impl Intake<'_> {
    /// The sidecar's classes where they are the file's; else the file's.
    fn sidecar_of(&mut self, root: &Path, names: &BTreeMap<usize, String>) -> Option<Sidecar> {
        let sidecar = self.sidecar(root, Format::Yolo);
        let told: Vec<ClassInfo> = sidecar.as_ref().map(|s| s.classes.clone()).unwrap_or_default();
        for name in names.values() {
            let class = told.iter().find(|c| c.name == *name).cloned();
            self.declare(class.unwrap_or_else(|| ClassInfo {
                name: name.clone(),
                category: String::new(),
                color: [0; 3],
            }));
        }
        sidecar
    }
}

fn read_image(item: &Item, known: Option<&SidecarImage>, layout: &Layout, intake: &mut Intake) {
    let file = item.label.as_deref().or(item.image.as_deref()).unwrap_or(&layout.root);
    let at = At { file, line: 0 };
    let text = match item.label.as_deref().map(fs::read).transpose() {
        Ok(bytes) => bytes.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default(),
        Err(e) => {
            intake.skip_image(at, &item.name, &format!("its labels cannot be read: {e}"), "mend the file", 0);
            return;
        }
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let labels = text.lines().filter(|l| !l.trim().is_empty()).count();
    let sizes = &intake.options().sizes;
    let name = match (known, &item.image) {
        (Some(k), _) => k.name.clone(),
        (None, Some(_)) => item.name.clone(),
        (None, None) => {
            let candidates = IMAGE_EXTENSIONS.iter().flat_map(|e| [e.to_string(), e.to_uppercase()]);
            let mut candidates = candidates.map(|e| format!("{}.{e}", item.name));
            let Some(name) = candidates.find(|n| sizes.get(n).is_some()) else {
                let fix = "put the image into the `images` folder that mirrors `labels`, or name the folder of images";
                intake.skip_image(at, &item.name, "there is no image for these labels", fix, labels);
                return;
            };
            name
        }
    };
    let beside = item.image.as_deref().map(upright_size);
    let size = match (beside, known) {
        (Some(Ok(size)), _) => Some(size),
        (_, Some(k)) => Some((k.width, k.height)),
        (Some(Err(e)), None) if sizes.get(&name).is_none() => {
            let reason = format!("the image cannot be read: {e}");
            intake.skip_image(at, &name, &reason, "replace the image", labels);
            return;
        }
        _ => sizes.get(&name),
    };
    let size = size.map(|(w, h)| (f64::from(w), f64::from(h)));
    let Some(index) = intake.image(at, &name, size, labels) else { return };
    intake.describe(index, known.map(|k| k.digest.as_str()), item.image.as_deref());
    intake.assign(index, item.part);
    let mut told: BTreeMap<&str, Vec<&Annotation>> = BTreeMap::new();
    for l in known.iter().flat_map(|k| k.labels.iter().rev()) {
        told.entry(&l.text).or_default().push(&l.annotation);
    }
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let at = At { line: n + 1, ..at };
        match parse_line(line, &layout.names) {
            Ok((class, shape, score)) => {
                let exact = told.get_mut(line.trim()).and_then(Vec::pop).filter(|a| a.class == class);
                if exact.is_none() && known.is_some() {
                    let why = "lines changed since the export have no provenance";
                    intake.account.note(Effect::Lost, "provenance", format!("{}:{}", file.display(), n + 1), why);
                }
                let label = exact.cloned().unwrap_or_else(|| to_annotation(class, &shape, score, intake.size(index)));
                intake.label(at, index, label);
            }
            Err((reason, fix)) => intake.drop_label(at, reason, fix),
        }
    }
}

/// A label in fractions of the image.
#[derive(Debug, PartialEq)]
enum Fractions {
    Box(BBox<Unit>),
    Outline(Polygon),
}

type Parsed<'a> = (&'a str, Fractions, Option<Score>);

fn parse_line<'a>(line: &str, names: &'a BTreeMap<usize, String>) -> Result<Parsed<'a>, (String, &'static str)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let mut numbers = Vec::with_capacity(fields.len());
    for (i, f) in fields.iter().enumerate() {
        match f.parse::<f64>() {
            Ok(v) if v.is_finite() => numbers.push(v),
            _ => return Err((format!("field {} is `{f}`", i + 1), "every field must be a number")),
        }
    }
    let Some((&index, rest)) = numbers.split_first() else { return Err(("the line is empty".into(), "remove it")) };
    if index < 0.0 || index.fract() != 0.0 {
        return Err((format!("the class is `{}`", fields[0]), "it must be a whole number from 0"));
    }
    let Some(class) = names.get(&(index as usize)) else {
        let reason = format!("class {index} is out of range: {} classes are named", names.len());
        return Err((reason, "correct the number or add the class to `names`"));
    };
    match rest {
        &[cx, cy, w, h] | &[cx, cy, w, h, _] => {
            if w <= 0.0 || h <= 0.0 {
                return Err((format!("the box is {w} wide and {h} high"), "draw it again"));
            }
            // Coordinates in pixels are the usual mistake, and no clipping mends it.
            if [cx, cy, w, h].iter().any(|v| v.abs() > 2.0) {
                return Err((
                    "the box is not in fractions of the image".into(),
                    "divide by the image's width and height",
                ));
            }
            let score = match rest.get(4).map(|s| Score::new(*s)) {
                None => None,
                Some(Ok(s)) => Some(s),
                Some(Err(e)) => return Err((e.to_string(), "correct the sixth field")),
            };
            Ok((class, Fractions::Box(BBox::from_center(cx, cy, w, h)), score))
        }
        outline if outline.len() >= 6 && outline.len() % 2 == 0 => {
            if outline.iter().any(|v| v.abs() > 2.0) {
                let fix = "divide by the image's width and height";
                return Err(("the outline is not in fractions of the image".into(), fix));
            }
            Ok((class, Fractions::Outline(outline.chunks_exact(2).map(|p| [p[0], p[1]]).collect()), None))
        }
        other => {
            let reason = format!("the line has {} fields", other.len() + 1);
            Err((
                reason,
                "a box has 5 (6 with a score), an outline a class and 3 or more x y pairs: is the line cut off?",
            ))
        }
    }
}

fn to_annotation(class: &str, shape: &Fractions, score: Option<Score>, (w, h): (f64, f64)) -> Annotation {
    let (bbox, polygons): (BBox<Pixels>, _) = match shape {
        Fractions::Box(b) => (b.to_pixels(w as u32, h as u32), Vec::new()),
        Fractions::Outline(p) => {
            let polygons: Vec<Polygon> = vec![p.iter().map(|[x, y]| [x * w, y * h]).collect()];
            (box_of(&polygons), polygons)
        }
    };
    let provenance =
        Provenance { labeller: "imported".into(), source: Some(Format::Yolo.to_string()), ..Provenance::default() };
    Annotation { polygons, score, provenance, ..Annotation::new(class, bbox) }
}

/// One label's line, and what it cannot say.
fn line(a: &Annotation, class: usize, i: &ImageAnnotations, shape: Shape, account: &mut Account) -> String {
    let example = || format!("`{}` in `{}`", a.class, i.image);
    let (w, h) = (f64::from(i.width), f64::from(i.height));
    if shape == Shape::Boxes {
        if !a.polygons.is_empty() {
            let why = "label lines are boxes; outlines are in the sidecar only";
            account.note(Effect::Noted, "polygon", example(), why);
        }
        let b = a.bbox.to_unit(i.width, i.height);
        let (cx, cy) = b.center();
        return format!("{class} {cx} {cy} {} {}", b.width(), b.height());
    }
    if a.polygons.len() > 1 {
        let why = "a label line is one outline: the one with the largest bounds; the others are in the sidecar only";
        account.note(Effect::Noted, "polygon", example(), why);
    }
    let largest = a.polygons.iter().max_by(|p, q| {
        let area = |p: &Polygon| box_of(std::slice::from_ref(p)).area();
        area(p).total_cmp(&area(q))
    });
    let corners = largest.cloned().unwrap_or_else(|| {
        account.note(Effect::Noted, "polygon", example(), "a box without outline is written as its four corners");
        let b = a.bbox;
        vec![[b.x0, b.y0], [b.x1, b.y0], [b.x1, b.y1], [b.x0, b.y1]]
    });
    let mut text = class.to_string();
    for [x, y] in corners {
        let _ = write!(text, " {} {}", x / w, y / h);
    }
    text
}

/// Without `path`, places count from the file's own folder, which may be moved.
fn data_yaml(set: &AnnotationSet, parts: &[Split]) -> String {
    let mut out = String::from("# The places below are relative to this file.\n");
    let val = if parts.contains(&Split::Val) { "val" } else { "train" };
    let _ = write!(out, "train: images/train\nval: images/{val}\n");
    if parts.contains(&Split::Test) {
        out.push_str("test: images/test\n");
    }
    let _ = writeln!(out, "nc: {}", set.classes.len());
    if set.classes.is_empty() {
        out.push_str("names: {}\n");
    } else {
        out.push_str("names:\n");
        for (i, c) in set.classes.iter().enumerate() {
            let _ = writeln!(out, "  {i}: {}", to_json(&c.name));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeMap<usize, String> {
        [(0, "valve".to_owned()), (2, "pump".to_owned())].into()
    }

    #[test]
    fn a_line_is_a_box_a_scored_box_or_an_outline() {
        let names = names();
        let (class, shape, score) = parse_line("0 .5 .5 .2 .4", &names).unwrap();
        assert_eq!((class, score), ("valve", None));
        assert_eq!(shape, Fractions::Box(BBox::from_center(0.5, 0.5, 0.2, 0.4)));
        let (_, _, score) = parse_line("2.0\t.5 .5 .2 .4 0.25 ", &names).unwrap();
        assert_eq!(score, Some(Score::new(0.25).unwrap()));
        let (_, shape, _) = parse_line("2 0 0 1 0 1 1", &names).unwrap();
        assert_eq!(shape, Fractions::Outline(vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]));
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let names = names();
        for (line, expected) in [
            ("0 .5 x .2 .4", "field 3 is `x`"),
            ("0 .5 nan .2 .4", "field 3 is `nan`"),
            ("0 .5 .5 inf .4", "field 4 is `inf`"),
            ("1 .5 .5 .2 .4", "class 1 is out of range: 2 classes are named"),
            ("-1 .5 .5 .2 .4", "the class is `-1`"),
            ("0.5 .5 .5 .2 .4", "the class is `0.5`"),
            ("0 .5 .5 .2", "the line has 4 fields"),
            ("0 .1 .1 .2 .2 .3 .3 .4", "the line has 8 fields"),
            ("0 .5 .5 0 .4", "the box is 0 wide and 0.4 high"),
            ("0 320 200 50 50", "the box is not in fractions of the image"),
            ("0 .5 .5 .2 .4 1.5", "1.5 is not a score: it must be a number from 0 to 1"),
        ] {
            assert_eq!(parse_line(line, &names).unwrap_err().0, expected, "{line}");
        }
    }
}
