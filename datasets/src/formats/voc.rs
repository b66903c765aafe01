//! Pascal VOC: one XML file an image, below `Annotations/`, the folders of the images mirrored.
//!
//! Coordinates are read and written as they are (edges in pixels, not VOC 2007's one-based pixel numbers). Extension
//! elements in an object: `score`, `provenance` (JSON text), `attributes`. Outlines are lost.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::account::{Account, Direction, Effect};
use super::folder::{Folder, MARK, Sidecar, SidecarImage, mirror_paths, to_json};
use super::intake::{At, Intake, checked};
use super::text::{SNIFFED, below, has_extension, read_text, sources};
use super::xml::{Node, Writer, decode_name, decode_value, encode_name, encode_value, number, open};
use super::{Format, FormatError, Imported, LabelFormat, ReadOptions, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ImageAnnotations};
use crate::geometry::BBox;
use crate::split::Split;

/// The format.
pub(super) struct Voc;

/// Flags that VOC itself has, 0 or 1.
const FLAGS: [&str; 3] = ["truncated", "difficult", "occluded"];

impl LabelFormat for Voc {
    fn format(&self) -> Format {
        Format::Voc
    }

    fn recognises(&self, source: &Path) -> bool {
        let is_voc = |p: &Path| has_extension(p, "xml") && open(p).is_ok_and(|n| n.name == "annotation");
        sources(source, "xml").is_ok_and(|all| all.iter().take(SNIFFED).any(|p| is_voc(p)))
    }

    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        let annotations = source.join("Annotations");
        let root = if annotations.is_dir() { annotations.as_path() } else { source };
        let mut intake = Intake::new(Format::Voc, Direction::Read, options);
        let is_export = intake.classes_beside(source, Format::Voc);
        let files = sources(root, "xml")?;
        if files.is_empty() && !is_export {
            return Err(FormatError::content(source, "no XML file in this folder", "name the folder with the labels"));
        }
        let parts = image_sets(source)?;
        let mut first_error = None;
        let mut good = 0;
        for path in &files {
            match open(path) {
                Ok(node) if node.name == "annotation" => {
                    let part = parts.get(below(root, &path.with_extension("")).as_str()).copied();
                    image(&node, path, root, source, part, &mut intake);
                    good += 1;
                }
                Ok(node) => {
                    let reason = format!("the root element is `<{}>`, not `<annotation>`", node.name);
                    let at = At { file: path, line: node.line };
                    intake.problem(Effect::Lost, at, &reason, "export it as Pascal VOC, or move it away");
                    first_error.get_or_insert(FormatError::content(path, reason, "export it as Pascal VOC"));
                }
                Err(e) => {
                    let line = if let FormatError::Syntax { line, .. } = e { line } else { 0 };
                    let name = below(root, &path.with_extension(""));
                    intake.skip_image(At { file: path, line }, &name, &e.to_string(), "mend or remove the file", 0);
                    first_error.get_or_insert(e);
                }
            }
        }
        match first_error {
            Some(e) if good == 0 => Err(e),
            _ => Ok(intake.finish()),
        }
    }

    fn write(&self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError> {
        let (set, mut account) = checked(set, Format::Voc);
        let mut folder = Folder::create(target)?;
        folder.folder("Annotations")?;
        let mut sidecar = Sidecar::new(Format::Voc, &set);
        let paths = mirror_paths(set.images.iter().map(|i| i.image.as_str()), "xml", str::to_owned);
        let mut lists = [String::new(), String::new(), String::new()];
        for i in &set.images {
            let label = format!("Annotations/{}.xml", paths[&i.image]);
            let file = format!("JPEGImages/{}", i.image);
            folder.put(&label, &document(i, &mut account))?;
            folder.put_image(options, &i.image, &file, &mut account)?;
            sidecar.images.push(SidecarImage::of(i, &label, &file));
            let list = &mut lists[i.split.unwrap_or(Split::Train) as usize];
            list.push_str(&paths[&i.image]);
            list.push('\n');
        }
        for (part, list) in Split::ALL.into_iter().zip(&lists) {
            if set.is_divided() || part == Split::Train {
                folder.put(&format!("ImageSets/Main/{}.txt", part.name()), list)?;
            }
        }
        folder.commit(sidecar)?;
        Ok(account)
    }
}

/// The parts of a data set by the label files' names, from `ImageSets/Main`.
fn image_sets(source: &Path) -> Result<BTreeMap<String, Split>, FormatError> {
    let mut parts = BTreeMap::new();
    for part in Split::ALL {
        let list = source.join(format!("ImageSets/Main/{}.txt", part.name()));
        if list.metadata().is_ok_and(|m| m.len() > 0) {
            parts.extend(read_text(&list)?.lines().map(|name| (name.trim().to_owned(), part)));
        }
    }
    Ok(parts)
}

fn image(node: &Node, path: &Path, root: &Path, source: &Path, part: Option<Split>, intake: &mut Intake) {
    let at = At { file: path, line: node.line };
    let labels = node.all("object").count();
    let folder = below(root, path.parent().unwrap_or(root));
    let given = node.child("filename").map(|n| n.text.trim_matches(['\n', '\r', '\t'])).unwrap_or_default();
    let base = given.rsplit(['/', '\\']).next().unwrap_or_default();
    // A name with folders is a name of a data set, unless it is a path on somebody's disk.
    let on_disk = given.starts_with(['/', '\\']) || given.get(1..2) == Some(":");
    let name = match given {
        "" => {
            intake.skip_image(at, &below(root, path), "the file has no `<filename>`", "add it", labels);
            return;
        }
        _ if source.is_file() && on_disk => base.to_owned(),
        _ if given.contains(['/', '\\']) && !on_disk => given.to_owned(),
        _ if folder.is_empty() || source.is_file() => base.to_owned(),
        _ => format!("{folder}/{base}"),
    };
    let size = node.child("size");
    let side = |k: &str| size.and_then(|s| s.text_of(k)).and_then(|v| v.parse::<f64>().ok());
    let Some(index) = intake.image(at, &name, side("width").zip(side("height")), labels) else { return };
    if let Some(digest) = node.text_of("digest") {
        intake.describe(index, Some(digest), None);
    }
    intake.assign(index, part);
    let beside = [source.join("JPEGImages").join(&name), path.with_file_name(base)];
    if let Some(file) = beside.iter().find(|p| p.is_file()) {
        intake.describe(index, None, Some(file));
    }
    for n in node.all("object") {
        let at = At { file: path, line: n.line };
        match object(n, at, intake) {
            Ok(label) => intake.label(at, index, label),
            Err((reason, fix)) => intake.drop_label(at, reason, fix),
        }
    }
}

fn object(n: &Node, at: At, intake: &mut Intake) -> Result<Annotation, (String, &'static str)> {
    let b = n.child("bndbox").ok_or(("the object has no `<bndbox>`".to_owned(), "add it"))?;
    let edge = |name: &str| -> Result<f64, (String, &'static str)> {
        let text = b.text_of(name).ok_or((format!("`<bndbox>` has no `<{name}>`"), "add it"))?;
        let value = text.parse::<f64>().ok().filter(|v| v.is_finite());
        value.ok_or((format!("`<{name}>` is `{text}`"), "it must be a number"))
    };
    let bbox = BBox::new(edge("xmin")?, edge("ymin")?, edge("xmax")?, edge("ymax")?);
    let mut a = Annotation::new(n.text_of("name").unwrap_or_default(), bbox);
    let mut provenance = None;
    for c in &n.children {
        let text = c.text.trim();
        match c.name.as_str() {
            "name" | "bndbox" => {}
            "score" => a.score = intake.score(at, Some(number(text))),
            "provenance" => provenance = Some(serde_json::from_str(text).unwrap_or_else(|_| json!(text))),
            "attributes" => {
                for pair in c.all("attribute") {
                    let name = pair.text_of("name").unwrap_or_default();
                    let value = pair.child("value").map(|v| v.text.as_str()).unwrap_or_default();
                    a.attributes.insert(decode_name(name), decode_value(value));
                }
            }
            "pose" if text == "Unspecified" => {}
            "pose" => {
                a.attributes.insert("pose".into(), json!(text));
            }
            flag if FLAGS.contains(&flag) => {
                if matches!(text, "1" | "true" | "True") {
                    a.attributes.insert(flag.into(), json!(true));
                }
            }
            "polygon" | "segmentation" | "mask" | "part" | "point" => {
                let why = "only the box is read from Pascal VOC";
                intake.account.note(Effect::Lost, &c.name, format!("line {}", c.line), why);
            }
            other if c.children.is_empty() => {
                a.attributes.insert(other.into(), decode_value(text));
            }
            other => {
                let why = "this element is not known in Pascal VOC";
                intake.account.note(Effect::Lost, other, format!("line {}", c.line), why);
            }
        }
    }
    a.provenance = intake.provenance(at, provenance);
    Ok(a)
}

/// One image's file.
fn document(i: &ImageAnnotations, account: &mut Account) -> String {
    let mut w = Writer::new(MARK);
    w.open("annotation", &[]);
    w.text("folder", &[], "JPEGImages");
    w.text("filename", &[], &i.image);
    if !i.digest.is_empty() {
        w.text("digest", &[], &i.digest);
    }
    w.open("size", &[]);
    w.text("width", &[], &i.width.to_string());
    w.text("height", &[], &i.height.to_string());
    w.text("depth", &[], "3");
    w.close();
    w.text("segmented", &[], "0");
    for a in &i.annotations {
        if !a.polygons.is_empty() {
            account.note(
                Effect::Lost,
                "polygon",
                format!("`{}` in `{}`", a.class, i.image),
                "Pascal VOC holds boxes only",
            );
        }
        w.open("object", &[]);
        w.text("name", &[], &a.class);
        let pose = a.attributes.get("pose").and_then(Value::as_str).filter(|p| is_plain_pose(p));
        w.text("pose", &[], pose.unwrap_or("Unspecified"));
        let flag = |name: &str| a.attributes.get(name) == Some(&json!(true));
        for name in FLAGS {
            w.text(name, &[], if flag(name) { "1" } else { "0" });
        }
        w.open("bndbox", &[]);
        for (name, edge) in ["xmin", "ymin", "xmax", "ymax"].into_iter().zip(<[f64; 4]>::from(a.bbox)) {
            w.text(name, &[], &edge.to_string());
        }
        w.close();
        if let Some(s) = a.score {
            w.text("score", &[], &s.get().to_string());
        }
        w.text("provenance", &[], &to_json(&a.provenance));
        w.open("attributes", &[]);
        for (key, value) in &a.attributes {
            let carried = FLAGS.contains(&key.as_str()) && flag(key) || key == "pose" && pose.is_some();
            if !carried {
                w.open("attribute", &[]);
                w.text("name", &[], &encode_name(key));
                w.text("value", &[], &encode_value(value));
                w.close();
            }
        }
        w.close();
        w.close();
    }
    w.close();
    if w.replaced > 0 {
        let why = "XML cannot hold control characters: they were replaced";
        account.note(Effect::Lost, "control characters", &i.image, why);
    }
    w.out
}

/// True when a pose reads back as it is.
fn is_plain_pose(pose: &str) -> bool {
    pose.trim() == pose && !pose.is_empty() && pose != "Unspecified"
}
