//! COCO instances: one JSON file with images, annotations and categories.
//!
//! Extension fields: `score`, `provenance` and `attributes` in an annotation, `digest` and `split` (train, val or test) in
//! an image, `color` in a category, `skipped` in `info`. Every element stands on its own line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::account::{Account, Direction, Effect};
use super::folder::{Folder, MARK, Sidecar, SidecarImage, to_json, write_file};
use super::intake::{At, Intake, box_of, checked};
use super::text::{Json, SNIFFED, has_extension, only_source, sources};
use super::{Format, FormatError, Imported, LabelFormat, ReadOptions, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ClassInfo, Score, Skipped};
use crate::geometry::{BBox, Polygon};
use crate::split::Split;

/// The format.
pub(super) struct Coco;

/// An id in a file, a number or a string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(default)]
    info: Value,
    #[serde(borrow)]
    images: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Vec<&'a RawValue>,
    #[serde(borrow)]
    categories: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
    width: Option<f64>,
    height: Option<f64>,
    digest: Option<String>,
    split: Option<String>,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: String,
    #[serde(default)]
    supercategory: Option<String>,
    #[serde(default)]
    color: Option<Value>,
}

#[derive(Deserialize)]
struct Label {
    image_id: Id,
    category_id: Id,
    bbox: Option<Vec<Option<f64>>>,
    segmentation: Option<Value>,
    score: Option<Value>,
    provenance: Option<Value>,
    attributes: Option<BTreeMap<String, Value>>,
    iscrowd: Option<Value>,
    area: Option<f64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// What image and category ids mean.
struct Ids {
    images: BTreeMap<Id, Option<usize>>,
    categories: BTreeMap<Id, String>,
}

impl LabelFormat for Coco {
    fn format(&self) -> Format {
        Format::Coco
    }

    fn recognises(&self, source: &Path) -> bool {
        sources(source, "json").is_ok_and(|all| all.iter().take(SNIFFED).any(|p| is_coco(p)))
    }

    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        let path = only_source(source, "json", "COCO", is_coco)?;
        let json = Json::open(&path)?;
        let mut intake = Intake::new(Format::Coco, Direction::Read, options);
        let (document, ids) = open(&json, &path, &mut intake)?;
        for raw in &document.annotations {
            label(&json, &path, raw, &ids, &mut intake, Origin::Truth);
        }
        if let Some(skipped) = document.info.get("skipped") {
            match serde_json::from_value::<Vec<Skipped>>(skipped.clone()) {
                Ok(all) => all.into_iter().for_each(|s| intake.skipped(s)),
                Err(e) => intake.account.note(Effect::Lost, "skipped images", e, "the list is not readable"),
            }
        }
        Ok(intake.finish())
    }

    fn write(&self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError> {
        let (set, mut account) = checked(set, Format::Coco);
        let text = document(&set);
        if has_extension(target, "json") {
            write_file(target, &text)?;
            return Ok(account);
        }
        let mut folder = Folder::create(target)?;
        folder.put("annotations.json", &text)?;
        let mut sidecar = Sidecar::new(Format::Coco, &set);
        for i in &set.images {
            let file = format!("images/{}", i.image);
            folder.put_image(options, &i.image, &file, &mut account)?;
            sidecar.images.push(SidecarImage::of(i, "annotations.json", &file));
        }
        folder.commit(sidecar)?;
        Ok(account)
    }
}

/// Reads a plain list of results (`[{image_id, category_id, bbox, score}, ...]`), whose images and categories are those
/// of the COCO file `truth`. A whole COCO file of results is read too, by itself.
pub fn read_coco_results(results: &Path, truth: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
    let json = Json::open(results)?;
    let Ok(list) = json.parse::<Vec<&RawValue>>(results) else {
        json.parse::<&RawValue>(results)?;
        return Coco.read(results, options);
    };
    let truth_json = Json::open(truth)?;
    let mut intake = Intake::new(Format::Coco, Direction::Read, options);
    let (_, ids) = open(&truth_json, truth, &mut intake)?;
    for raw in list {
        label(&json, results, raw, &ids, &mut intake, Origin::Results);
    }
    Ok(intake.finish())
}

fn is_coco(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Keys {
        #[expect(dead_code, reason = "only its presence counts")]
        images: serde::de::IgnoredAny,
        #[expect(dead_code, reason = "only its presence counts")]
        categories: serde::de::IgnoredAny,
    }
    has_extension(path, "json")
        && path.file_name().is_none_or(|n| n != super::folder::SIDECAR)
        && Json::open(path).is_ok_and(|j| j.parse::<Keys>(path).is_ok())
}

/// Images and categories.
fn open<'a>(json: &'a Json, path: &Path, intake: &mut Intake) -> Result<(Document<'a>, Ids), FormatError> {
    let document: Document = json.parse(path)?;
    let mut ids = Ids { images: BTreeMap::new(), categories: BTreeMap::new() };
    for raw in &document.categories {
        let at = At { file: path, line: json.line(raw) };
        match json.part::<Category>(raw) {
            Ok(c) => {
                if let Some(first) = ids.categories.get(&c.id) {
                    let reason = format!("category id {} is used twice, by `{first}` and `{}`", c.id, c.name);
                    intake.problem(Effect::Lost, at, reason, "give each category its own id; the first was kept");
                    continue;
                }
                ids.categories.insert(c.id, c.name.clone());
                intake.declare(ClassInfo {
                    name: c.name,
                    category: c.supercategory.unwrap_or_default(),
                    color: c.color.and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default(),
                });
            }
            Err((line, e)) => {
                intake.problem(Effect::Lost, At { line, ..at }, format!("category: {e}"), "it needs `id` and `name`");
            }
        }
    }
    for raw in &document.images {
        let at = At { file: path, line: json.line(raw) };
        match json.part::<Image>(raw) {
            Ok(i) if ids.images.contains_key(&i.id) => {
                let reason = format!("image id {} is used twice", i.id);
                intake.skip_image(at, &i.file_name, &reason, "give each image its own id; the first was kept", 0);
            }
            Ok(i) => {
                let index = intake.image(at, &i.file_name, i.width.zip(i.height), 0);
                if let Some(index) = index {
                    intake.describe(index, i.digest.as_deref(), None);
                    intake.assign(index, i.split.as_deref().and_then(Split::from_name));
                }
                ids.images.insert(i.id, index);
            }
            Err((line, e)) => {
                intake.account.images_skipped += 1;
                intake.problem(Effect::Lost, At { line, ..at }, format!("image: {e}"), "it needs `id` and `file_name`");
            }
        }
    }
    Ok((document, ids))
}

#[derive(Clone, Copy, PartialEq)]
enum Origin {
    Truth,
    Results,
}

fn label(json: &Json, path: &Path, raw: &RawValue, ids: &Ids, intake: &mut Intake, origin: Origin) {
    let at = At { file: path, line: json.line(raw) };
    let label: Label = match json.part(raw) {
        Ok(l) => l,
        Err((line, e)) => return intake.drop_label(At { line, ..at }, e, "mend the annotation"),
    };
    let Some(image) = ids.images.get(&label.image_id) else {
        return intake.drop_label(at, format!("no image has the id {}", label.image_id), "add the image");
    };
    let Some(image) = *image else {
        return intake.drop_label(at, "its image was left out", "mend the image's entry");
    };
    let Some(class) = ids.categories.get(&label.category_id) else {
        let reason = format!("no category has the id {}", label.category_id);
        return intake.drop_label(at, reason, "add the category or correct `category_id`");
    };
    let polygons = outlines(label.segmentation.as_ref(), at, intake);
    let bbox = match label.bbox.as_deref() {
        Some(&[Some(x), Some(y), Some(w), Some(h)]) => BBox::new(x, y, x + w, y + h),
        Some(other) => {
            let shown: Vec<String> = other.iter().map(|v| v.map_or("no number".into(), |v| v.to_string())).collect();
            let reason = format!("the box is [{}]", shown.join(", "));
            return intake.drop_label(at, reason, "it must be four numbers [x, y, width, height]");
        }
        None if !polygons.is_empty() => box_of(&polygons),
        None => return intake.drop_label(at, "the annotation has no `bbox`", "add it"),
    };
    if bbox.width() < 0.0 || bbox.height() < 0.0 {
        return intake.drop_label(at, "the box has a negative width or height", "draw it again");
    }
    let score = match label.score {
        None | Some(Value::Null) if origin == Origin::Results => {
            return intake.drop_label(at, "the result has no `score`", "add it");
        }
        None | Some(Value::Null) => None,
        Some(v) => match v.as_f64().map(Score::new) {
            Some(Ok(s)) => Some(s),
            _ => return intake.drop_label(at, format!("the score is {v}"), "it must be a number from 0 to 1"),
        },
    };
    let mut out = Annotation { polygons, score, ..Annotation::new(class.clone(), bbox) };
    out.provenance = intake.provenance(at, label.provenance);
    out.attributes = label.attributes.unwrap_or_default();
    out.attributes.extend(label.rest.into_iter().filter(|(k, _)| k != "id"));
    if let Some(crowd) = label.iscrowd.filter(|v| v.as_f64() != Some(0.0) && *v != json!(false)) {
        out.attributes.insert("iscrowd".into(), crowd);
    }
    // A mask's own area is not its polygon's or box's; evaluation by size needs the file's.
    if let Some(area) = label.area.filter(|a| (a - area_of(&out)).abs() > 1e-6 * a.abs().max(1.0)) {
        out.attributes.insert("area".into(), json!(area));
    }
    intake.label(at, image, out);
}

fn outlines(segmentation: Option<&Value>, at: At, intake: &mut Intake) -> Vec<Polygon> {
    let list = match segmentation {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => {
            let why = "run-length masks are not kept; the box is";
            intake.account.note(Effect::Lost, "mask", format!("line {}", at.line), why);
            return Vec::new();
        }
    };
    let mut polygons = Vec::new();
    for flat in list {
        let numbers: Option<Vec<f64>> =
            flat.as_array().and_then(|a| a.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        match numbers {
            Some(n) if n.len() >= 6 && n.len() % 2 == 0 => {
                polygons.push(n.chunks_exact(2).map(|p| [p[0], p[1]]).collect());
            }
            _ => {
                let reason = "an outline is not a list of 3 or more x, y pairs";
                intake.problem(Effect::Lost, at, reason, "draw it again; the label was kept");
            }
        }
    }
    polygons
}

/// Square pixels: of the outlines (shoelace), else of the box.
fn area_of(a: &Annotation) -> f64 {
    if a.polygons.is_empty() {
        return a.bbox.area();
    }
    let twice = |p: &Polygon| -> f64 {
        let next = p.iter().cycle().skip(1);
        p.iter().zip(next).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum()
    };
    a.polygons.iter().map(|p| twice(p).abs() / 2.0).sum()
}

/// The text of a COCO file of `set`, as it is written; labels that the format cannot hold are left out.
pub fn coco_text(set: &AnnotationSet) -> String {
    document(&checked(set, Format::Coco).0)
}

/// The whole file.
fn document(set: &AnnotationSet) -> String {
    let index: BTreeMap<&str, usize> = set.classes.iter().enumerate().map(|(i, c)| (c.name.as_str(), i + 1)).collect();
    let info = json!({"description": "Labels", "version": "1.0", "generator": MARK, "skipped": set.skipped});
    let images = set.images.iter().enumerate().map(|(i, m)| {
        let mut v = json!({"id": i + 1, "file_name": m.image, "width": m.width, "height": m.height});
        if !m.digest.is_empty() {
            v["digest"] = json!(m.digest);
        }
        if let Some(part) = m.split {
            v["split"] = json!(part);
        }
        v
    });
    let labels = set.images.iter().enumerate().flat_map(|(i, m)| m.annotations.iter().map(move |a| (i + 1, a)));
    let labels = labels.enumerate().map(|(n, (image, a))| annotation(n + 1, image, index[a.class.as_str()], a));
    let classes = set
        .classes
        .iter()
        .enumerate()
        .map(|(i, c)| json!({"id": i + 1, "name": c.name, "supercategory": c.category, "color": c.color}));
    let mut out = format!("{{\n\"info\": {},\n\"licenses\": [],\n", to_json(&info));
    list(&mut out, "images", images);
    out.push_str(",\n");
    list(&mut out, "annotations", labels);
    out.push_str(",\n");
    list(&mut out, "categories", classes);
    out.push_str("\n}\n");
    out
}

fn list(out: &mut String, key: &str, items: impl Iterator<Item = Value>) {
    let _ = write!(out, "\"{key}\": [");
    for (i, item) in items.enumerate() {
        let _ = write!(out, "{}\n{item}", if i > 0 { "," } else { "" });
    }
    out.push_str("\n]");
}

fn annotation(id: usize, image: usize, category: usize, a: &Annotation) -> Value {
    let mut attributes = a.attributes.clone();
    let crowd = attributes.get("iscrowd").and_then(Value::as_u64).filter(|c| *c == 1);
    if crowd.is_some() {
        attributes.remove("iscrowd");
    }
    let area = attributes.get("area").and_then(Value::as_f64);
    let area = area.filter(|x| (x - area_of(a)).abs() > 1e-6 * x.abs().max(1.0));
    if area.is_some() {
        attributes.remove("area");
    }
    let flat: Vec<Vec<f64>> = a.polygons.iter().map(|p| p.iter().flatten().copied().collect()).collect();
    let mut v = Map::new();
    v.insert("id".into(), json!(id));
    v.insert("image_id".into(), json!(image));
    v.insert("category_id".into(), json!(category));
    v.insert("bbox".into(), json!([a.bbox.x0, a.bbox.y0, a.bbox.width(), a.bbox.height()]));
    v.insert("area".into(), json!(area.unwrap_or_else(|| area_of(a))));
    v.insert("iscrowd".into(), json!(crowd.unwrap_or(0)));
    v.insert("segmentation".into(), json!(flat));
    if let Some(s) = a.score {
        v.insert("score".into(), json!(s.get()));
    }
    v.insert("provenance".into(), serde_json::to_value(&a.provenance).expect("provenance holds finite numbers only"));
    if !attributes.is_empty() {
        v.insert("attributes".into(), json!(attributes));
    }
    Value::Object(v)
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Text(s) => write!(f, "`{s}`"),
        }
    }
}
