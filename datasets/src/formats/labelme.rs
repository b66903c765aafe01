//! LabelMe: one JSON file an image, beside it, with rectangles and polygons.
//!
//! Extension keys in a shape: `score`, `provenance`, `attributes` (truth values are LabelMe's own `flags`); `digest` in
//! the file. An object with a box and outlines is a group.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::account::{Account, Direction, Effect};
use super::folder::{Folder, SIDECAR, Sidecar, SidecarImage, mirror_paths, to_json};
use super::intake::{At, Intake, box_of, checked};
use super::objects::{GROUP, Part, Shapes, free_groups, join};
use super::text::{Json, SNIFFED, below, has_extension, sources};
use super::{Format, FormatError, Imported, LabelFormat, ReadOptions, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ImageAnnotations};
use crate::geometry::{BBox, Polygon};

/// The format.
pub(super) struct LabelMe;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(borrow)]
    shapes: Vec<&'a RawValue>,
    image_path: Option<String>,
    image_width: Option<f64>,
    image_height: Option<f64>,
    digest: Option<String>,
}

#[derive(Deserialize)]
struct Shape {
    label: Option<String>,
    points: Vec<[Option<f64>; 2]>,
    #[serde(rename = "shape_type")]
    kind: Option<String>,
    group_id: Option<Value>,
    description: Option<String>,
    flags: Option<BTreeMap<String, Value>>,
    score: Option<Value>,
    provenance: Option<Value>,
    attributes: Option<BTreeMap<String, Value>>,
    mask: Option<serde::de::IgnoredAny>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl LabelFormat for LabelMe {
    fn format(&self) -> Format {
        Format::LabelMe
    }

    fn recognises(&self, source: &Path) -> bool {
        sources(source, "json").is_ok_and(|all| all.iter().take(SNIFFED).any(|p| is_labelme(p)))
    }

    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        let mut intake = Intake::new(Format::LabelMe, Direction::Read, options);
        let is_export = intake.classes_beside(source, Format::LabelMe);
        let files = sources(source, "json")?;
        if files.is_empty() && !is_export {
            return Err(FormatError::content(source, "no JSON file in this folder", "name the folder with the labels"));
        }
        let mut first_error = None;
        let mut good = 0;
        for path in &files {
            match file(path, source, &mut intake) {
                Ok(()) => good += 1,
                Err(e) => {
                    let line = if let FormatError::Syntax { line, .. } = e { line } else { 0 };
                    let name = below(source, &path.with_extension(""));
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
        let (set, mut account) = checked(set, Format::LabelMe);
        if set.is_divided() {
            account.note(Effect::Lost, "split", "train, val, test", "LabelMe has no lists of images");
        }
        let mut folder = Folder::create(target)?;
        let mut sidecar = Sidecar::new(Format::LabelMe, &set);
        let sidecar_stem = SIDECAR.trim_end_matches(".json");
        // An image that would put its labels over the sidecar gets a name beside it.
        let keep_sidecar =
            |n: &str| if super::text::stem(n) == sidecar_stem { format!("{n}.labels") } else { n.into() };
        let paths = mirror_paths(set.images.iter().map(|i| i.image.as_str()), "json", keep_sidecar);
        for i in &set.images {
            let label = format!("{}.json", paths[&i.image]);
            folder.put(&label, &document(i))?;
            folder.put_image(options, &i.image, &i.image, &mut account)?;
            sidecar.images.push(SidecarImage::of(i, &label, &i.image));
        }
        folder.commit(sidecar)?;
        Ok(account)
    }
}

fn is_labelme(path: &Path) -> bool {
    has_extension(path, "json")
        && Json::open(path).is_ok_and(|j| j.parse::<Document>(path).is_ok_and(|d| d.image_path.is_some()))
}

fn file(path: &Path, source: &Path, intake: &mut Intake) -> Result<(), FormatError> {
    let json = Json::open(path)?;
    let document: Document = json.parse(path)?;
    let at = At { file: path, line: 1 };
    let given = document.image_path.unwrap_or_default().replace('\\', "/");
    let base = given.rsplit('/').next().unwrap_or_default();
    let folder = below(source, path.parent().unwrap_or(source));
    let on_disk = given.starts_with('/') || given.get(1..2) == Some(":");
    let name = match () {
        () if given.is_empty() => String::new(),
        () if on_disk || source.is_file() => base.to_owned(),
        () if folder.is_empty() => given.clone(),
        () => format!("{folder}/{given}"),
    };
    let name = super::text::clean_name(&name).unwrap_or_default();
    let size = document.image_width.zip(document.image_height);
    let beside = path.with_file_name(base);
    let size = match size {
        Some((w, h)) if w >= 1.0 && h >= 1.0 => size,
        _ => super::upright_size(&beside).ok().map(|(w, h)| (f64::from(w), f64::from(h))).or(size),
    };
    let Some(index) = intake.image(at, &name, size, document.shapes.len()) else { return Ok(()) };
    intake.describe(index, document.digest.as_deref(), beside.is_file().then_some(beside.as_path()));
    let mut parts = Vec::new();
    for raw in document.shapes {
        let at = At { file: path, line: json.line(raw) };
        let part = match json.part::<Shape>(raw) {
            Ok(s) => shape(s, at, intake),
            Err((line, e)) => {
                intake.drop_label(At { line, ..at }, e, "mend the shape");
                continue;
            }
        };
        match part {
            Ok(part) => parts.push(part),
            Err((reason, fix)) => intake.drop_label(at, reason, fix),
        }
    }
    for (line, object) in join(parts) {
        intake.label(At { file: path, line }, index, object);
    }
    Ok(())
}

fn shape(s: Shape, at: At, intake: &mut Intake) -> Result<Part, (String, &'static str)> {
    let corners: Option<Polygon> = s.points.iter().map(|[x, y]| Some([(*x)?, (*y)?])).collect();
    let Some(corners) = corners else { return Err(("a corner is not made of numbers".into(), "draw it again")) };
    let kind = s.kind.as_deref().unwrap_or("polygon");
    let is_box = kind != "polygon";
    let need = |n: usize| match corners.len() {
        few if few < n => Err((format!("the {kind} has {few} points"), "draw it again")),
        _ => Ok(()),
    };
    let line = || format!("line {}", at.line);
    let bbox = match kind {
        "rectangle" | "mask" => {
            need(2)?;
            box_of(std::slice::from_ref(&corners))
        }
        "polygon" => {
            need(3)?;
            box_of(std::slice::from_ref(&corners))
        }
        "circle" => {
            need(2)?;
            let r = (corners[1][0] - corners[0][0]).hypot(corners[1][1] - corners[0][1]);
            intake.account.note(Effect::Lost, "circle", line(), "it became the box around it");
            BBox::from_center(corners[0][0], corners[0][1], 2.0 * r, 2.0 * r)
        }
        other => return Err((format!("a {other} is neither box nor outline"), "draw a rectangle or a polygon")),
    };
    if s.mask.is_some() || kind == "mask" {
        intake.account.note(Effect::Lost, "mask", line(), "pixel masks are not kept; the box is");
    }
    let polygons = if is_box { Vec::new() } else { vec![corners] };
    let mut a = Annotation { polygons, ..Annotation::new(s.label.unwrap_or_default(), bbox) };
    a.attributes = s.attributes.unwrap_or_default();
    a.attributes.extend(s.rest);
    a.attributes.extend(s.flags.unwrap_or_default());
    if let Some(text) = s.description.filter(|d| !d.is_empty()) {
        a.attributes.insert("description".into(), json!(text));
    }
    a.score = intake.score(at, s.score);
    a.provenance = intake.provenance(at, s.provenance);
    Ok(Part { line: at.line, group: s.group_id.filter(|g| !g.is_null()), is_box, annotation: a })
}

/// One image's file.
fn document(i: &ImageAnnotations) -> String {
    let base = i.image.rsplit('/').next().unwrap_or_default();
    let mut groups = free_groups(&i.annotations);
    let mut shapes = Vec::new();
    for a in &i.annotations {
        let own_group = a.attributes.get(GROUP).and_then(Value::as_u64);
        match Shapes::of(a) {
            Shapes::Box => shapes.push(to_shape(a, None, own_group, true)),
            Shapes::Outline(p) => shapes.push(to_shape(a, Some(p), own_group, true)),
            Shapes::Group => {
                let group = groups.next();
                shapes.push(to_shape(a, None, group, true));
                shapes.extend(a.polygons.iter().map(|p| to_shape(a, Some(p), group, false)));
            }
        }
    }
    let shapes: Vec<String> = shapes.iter().map(Value::to_string).collect();
    let digest = if i.digest.is_empty() { String::new() } else { format!("\"digest\": {},\n", to_json(&i.digest)) };
    format!(
        "{{\n\"version\": \"5.5.0\",\n\"flags\": {{}},\n\"shapes\": [\n{}\n],\n{digest}\
         \"imagePath\": {},\n\"imageData\": null,\n\"imageHeight\": {},\n\"imageWidth\": {}\n}}\n",
        shapes.join(",\n"),
        to_json(&base),
        i.height,
        i.width
    )
}

fn to_shape(a: &Annotation, outline: Option<&Polygon>, group: Option<u64>, with_details: bool) -> Value {
    let b = a.bbox;
    let points = outline.cloned().unwrap_or_else(|| vec![[b.x0, b.y0], [b.x1, b.y1]]);
    let kind = if outline.is_some() { "polygon" } else { "rectangle" };
    let mut v = Map::new();
    v.insert("label".into(), json!(a.class));
    v.insert("points".into(), json!(points));
    v.insert("group_id".into(), json!(group));
    v.insert("shape_type".into(), json!(kind));
    let (mut flags, mut description, mut attributes) = (Map::new(), String::new(), BTreeMap::new());
    if with_details {
        let grouped = group.is_some() && !matches!(Shapes::of(a), Shapes::Group);
        for (key, value) in &a.attributes {
            match value {
                Value::Bool(_) => _ = flags.insert(key.clone(), value.clone()),
                Value::String(s) if key == "description" && !s.is_empty() => description.clone_from(s),
                _ if key == GROUP && grouped => {}
                _ => _ = attributes.insert(key, value),
            }
        }
        if let Some(s) = a.score {
            v.insert("score".into(), json!(s.get()));
        }
        v.insert(
            "provenance".into(),
            serde_json::to_value(&a.provenance).expect("provenance holds finite numbers only"),
        );
    }
    v.insert("description".into(), json!(description));
    v.insert("flags".into(), Value::Object(flags));
    if !attributes.is_empty() {
        v.insert("attributes".into(), json!(attributes));
    }
    Value::Object(v)
}
