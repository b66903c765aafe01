//! CVAT for images 1.1: one XML file with boxes, polygons and their attributes.
//!
//! Extension fields: the label attributes `score` and `provenance` (JSON text); `category` in a label's definition;
//! `digest` of an image; `skipped` in `meta`. An object with a box and outlines is a group.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::account::{Account, Direction, Effect};
use super::folder::{Folder, MARK, Sidecar, SidecarImage, to_json, write_file};
use super::intake::{At, Intake, box_of, checked};
use super::objects::{GROUP, Part, Shapes, free_groups, join, turned};
use super::text::{SNIFFED, has_extension, only_source, sources};
use super::xml::{Node, Writer, decode_name, decode_value, encode_name, encode_value, number as number_in, open};
use super::{Format, FormatError, Imported, LabelFormat, ReadOptions, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ClassInfo, ImageAnnotations, Skipped};
use crate::geometry::{BBox, Polygon};
use crate::split::Split;

/// The format.
pub(super) struct Cvat;

impl LabelFormat for Cvat {
    fn format(&self) -> Format {
        Format::Cvat
    }

    fn recognises(&self, source: &Path) -> bool {
        sources(source, "xml").is_ok_and(|all| all.iter().take(SNIFFED).any(|p| is_cvat(p)))
    }

    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        let path = only_source(source, "xml", "CVAT", is_cvat)?;
        let root = open(&path)?;
        if root.name != "annotations" {
            let reason = format!("the root element is `<{}>`, not `<annotations>`", root.name);
            return Err(FormatError::content(&path, reason, "export it as `CVAT for images 1.1`"));
        }
        let mut intake = Intake::new(Format::Cvat, Direction::Read, options);
        if let Some(meta) = root.child("meta") {
            read_meta(meta, &path, &mut intake);
        }
        for node in root.all("image") {
            image(node, &path, &mut intake);
        }
        for track in root.all("track") {
            let at = At { file: &path, line: track.line };
            let count = track.children.len();
            intake.account.labels_dropped += count;
            let reason = format!("a video track of {count} shapes was left out");
            intake.problem(Effect::Lost, at, reason, "export as `CVAT for images`, which has shapes per frame");
        }
        Ok(intake.finish())
    }

    fn write(&self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError> {
        let (set, mut account) = checked(set, Format::Cvat);
        let text = document(&set, &mut account);
        if has_extension(target, "xml") {
            write_file(target, &text)?;
            return Ok(account);
        }
        let mut folder = Folder::create(target)?;
        folder.put("annotations.xml", &text)?;
        let mut sidecar = Sidecar::new(Format::Cvat, &set);
        for i in &set.images {
            let file = format!("images/{}", i.image);
            folder.put_image(options, &i.image, &file, &mut account)?;
            sidecar.images.push(SidecarImage::of(i, "annotations.xml", &file));
        }
        folder.commit(sidecar)?;
        Ok(account)
    }
}

fn is_cvat(path: &Path) -> bool {
    has_extension(path, "xml") && open(path).is_ok_and(|n| n.name == "annotations")
}

fn read_meta(meta: &Node, path: &Path, intake: &mut Intake) {
    let mut labels = Vec::new();
    meta.descendants("label", &mut labels);
    for l in labels {
        let Some(name) = l.text_of("name") else { continue };
        intake.declare(ClassInfo {
            name: name.to_owned(),
            category: l.text_of("category").unwrap_or_default().to_owned(),
            color: l.text_of("color").and_then(parse_color).unwrap_or_default(),
        });
    }
    if let Some(text) = meta.text_of("skipped") {
        match serde_json::from_str::<Vec<Skipped>>(text) {
            Ok(all) => all.into_iter().for_each(|s| intake.skipped(s)),
            Err(e) => intake.problem(
                Effect::Lost,
                At { file: path, line: meta.line },
                format!("the list of skipped images is not readable: {e}"),
                "all labels were read",
            ),
        }
    }
}

fn parse_color(text: &str) -> Option<[u8; 3]> {
    let hex = text.strip_prefix('#').filter(|h| h.len() == 6 && h.is_ascii())?;
    let part = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).ok();
    Some([part(0)?, part(2)?, part(4)?])
}

fn image(node: &Node, path: &Path, intake: &mut Intake) {
    let at = At { file: path, line: node.line };
    let side = |name: &str| node.attribute(name).and_then(|v| v.trim().parse::<f64>().ok());
    let Some(name) = node.attribute("name") else {
        intake.skip_image(at, "(no name)", "the image has no `name`", "add it", node.children.len());
        return;
    };
    let size = side("width").zip(side("height"));
    let Some(index) = intake.image(at, name, size, node.children.len()) else { return };
    if let Some(digest) = node.attribute("digest") {
        intake.describe(index, Some(digest), None);
    }
    intake.assign(index, node.attribute("subset").and_then(Split::from_name));
    let mut parts = Vec::new();
    for n in &node.children {
        let at = At { file: path, line: n.line };
        match shape(n, at, intake) {
            Ok(part) => parts.push(part),
            Err((reason, fix)) => intake.drop_label(at, reason, fix),
        }
    }
    for (line, object) in join(parts) {
        intake.label(At { file: path, line }, index, object);
    }
}

fn shape(n: &Node, at: At, intake: &mut Intake) -> Result<Part, (String, &'static str)> {
    let number = |name: &str| -> Result<f64, (String, &'static str)> {
        let text = n.attribute(name).ok_or((format!("`<{}>` has no `{name}`", n.name), "add it"))?;
        let value = text.trim().parse::<f64>().ok().filter(|v| v.is_finite());
        value.ok_or((format!("`{name}` is `{text}`"), "it must be a number"))
    };
    let mut polygons = Vec::new();
    let mut bbox = match n.name.as_str() {
        "box" => BBox::new(number("xtl")?, number("ytl")?, number("xbr")?, number("ybr")?),
        "polygon" => {
            polygons.push(points(n.attribute("points").unwrap_or_default())?);
            box_of(&polygons)
        }
        "ellipse" => {
            let (cx, cy, rx, ry) = (number("cx")?, number("cy")?, number("rx")?, number("ry")?);
            intake.account.note(Effect::Lost, "ellipse", format!("line {}", at.line), "it became the box around it");
            BBox::from_center(cx, cy, 2.0 * rx, 2.0 * ry)
        }
        "mask" => {
            let (x, y, w, h) = (number("left")?, number("top")?, number("width")?, number("height")?);
            let why = "run-length masks are not kept; the box is";
            intake.account.note(Effect::Lost, "mask", format!("line {}", at.line), why);
            BBox::new(x, y, x + w, y + h)
        }
        other => return Err((format!("`<{other}>` is neither box nor outline"), "draw a box or a polygon")),
    };
    let is_box = n.name != "polygon";
    if let Some(degrees) = n.attribute("rotation").and_then(|v| v.parse::<f64>().ok()).filter(|d| *d % 360.0 != 0.0) {
        let (around, corners) = turned(bbox, degrees, bbox.center());
        let why = "the box became the upright box around the turned one, whose corners are kept as outline";
        intake.account.note(Effect::Lost, "rotation", format!("line {}: {degrees} degrees", at.line), why);
        bbox = around;
        polygons = vec![corners];
    }
    let mut annotation = Annotation { polygons, ..Annotation::new(n.attribute("label").unwrap_or_default(), bbox) };
    let mut provenance = None;
    for a in n.all("attribute") {
        match a.attribute("name").unwrap_or_default() {
            "score" => annotation.score = intake.score(at, Some(number_in(a.text.trim()))),
            "provenance" => {
                provenance = Some(serde_json::from_str(&a.text).unwrap_or_else(|_| Value::String(a.text.clone())));
            }
            name => {
                annotation.attributes.insert(decode_name(name), decode_value(&a.text));
            }
        }
    }
    annotation.provenance = intake.provenance(at, provenance);
    if n.attribute("occluded") == Some("1") {
        annotation.attributes.insert("occluded".into(), json!(true));
    }
    if let Some(z) = n.attribute("z_order").and_then(|v| v.parse::<i64>().ok()).filter(|z| *z != 0) {
        annotation.attributes.insert("z_order".into(), json!(z));
    }
    let group = n.attribute(GROUP).map(decode_value).filter(|v| *v != json!(0));
    Ok(Part { line: n.line, group, is_box, annotation })
}

fn points(text: &str) -> Result<Polygon, (String, &'static str)> {
    let fix = "`points` must be three or more `x,y` pairs with `;` between";
    let mut polygon = Polygon::new();
    for pair in text.split(';').filter(|p| !p.trim().is_empty()) {
        let xy = pair.split_once(',').and_then(|(x, y)| Some([x.trim().parse().ok()?, y.trim().parse().ok()?]));
        match xy {
            Some([x, y]) if f64::is_finite(x) && f64::is_finite(y) => polygon.push([x, y]),
            _ => return Err((format!("a corner is `{pair}`"), fix)),
        }
    }
    if polygon.len() < 3 { Err((format!("the polygon has {} corners", polygon.len()), fix)) } else { Ok(polygon) }
}

/// The whole file.
fn document(set: &AnnotationSet, account: &mut Account) -> String {
    let mut w = Writer::new(MARK);
    w.open("annotations", &[]);
    w.text("version", &[], "1.1");
    w.open("meta", &[]);
    if !set.skipped.is_empty() {
        w.text("skipped", &[], &to_json(&set.skipped));
    }
    w.open("task", &[]);
    w.text("size", &[], &set.images.len().to_string());
    w.text("mode", &[], "annotation");
    w.open("labels", &[]);
    let used = attribute_names(set);
    for c in &set.classes {
        w.open("label", &[]);
        w.text("name", &[], &c.name);
        w.text("color", &[], &format!("#{:02x}{:02x}{:02x}", c.color[0], c.color[1], c.color[2]));
        w.text("type", &[], "any");
        w.text("category", &[], &c.category);
        w.open("attributes", &[]);
        for name in used.get(c.name.as_str()).into_iter().flatten() {
            w.open("attribute", &[]);
            w.text("name", &[], name);
            w.text("mutable", &[], "False");
            w.text("input_type", &[], "text");
            w.text("default_value", &[], "");
            w.text("values", &[], "");
            w.close();
        }
        w.close();
        w.close();
    }
    w.close();
    w.close();
    w.close();
    for (id, i) in set.images.iter().enumerate() {
        write_image(&mut w, id, i);
    }
    w.close();
    if w.replaced > 0 {
        let why = "XML cannot hold control characters: they were replaced";
        account.note(Effect::Lost, "control characters", format!("{} of them", w.replaced), why);
    }
    w.out
}

/// The attributes that the labels of each class use; CVAT wants them declared.
fn attribute_names(set: &AnnotationSet) -> BTreeMap<&str, BTreeSet<String>> {
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for a in set.images.iter().flat_map(|i| &i.annotations) {
        let names = used.entry(&a.class).or_default();
        names.insert("provenance".into());
        if a.score.is_some() {
            names.insert("score".into());
        }
        names.extend(a.attributes.keys().map(|k| encode_name(k)));
    }
    used
}

fn write_image(w: &mut Writer, id: usize, i: &ImageAnnotations) {
    let (id, width, height) = (id.to_string(), i.width.to_string(), i.height.to_string());
    let mut attributes = vec![("id", id.as_str()), ("name", &i.image), ("width", &width), ("height", &height)];
    if !i.digest.is_empty() {
        attributes.push(("digest", &i.digest));
    }
    if let Some(part) = i.split {
        attributes.push(("subset", part.name()));
    }
    if i.annotations.is_empty() {
        return w.empty("image", &attributes);
    }
    w.open("image", &attributes);
    let mut groups = free_groups(&i.annotations);
    for a in &i.annotations {
        let own_group = a.attributes.get(GROUP).and_then(Value::as_u64).filter(|g| *g > 0).map(|g| g.to_string());
        match Shapes::of(a) {
            Shapes::Box => write_shape(w, a, None, own_group.as_deref(), true),
            Shapes::Outline(p) => write_shape(w, a, Some(p), own_group.as_deref(), true),
            Shapes::Group => {
                let group = groups.next().map(|g| g.to_string());
                write_shape(w, a, None, group.as_deref(), true);
                for p in &a.polygons {
                    write_shape(w, a, Some(p), group.as_deref(), false);
                }
            }
        }
    }
    w.close();
}

fn write_shape(w: &mut Writer, a: &Annotation, outline: Option<&Polygon>, group: Option<&str>, with_details: bool) {
    let occluded = a.attributes.get("occluded") == Some(&json!(true));
    let z_order = a.attributes.get("z_order").and_then(Value::as_i64).filter(|z| *z != 0);
    let z = z_order.unwrap_or(0).to_string();
    let [x0, y0, x1, y1] = <[f64; 4]>::from(a.bbox).map(|v| v.to_string());
    let source = if a.provenance.labeller == "person" { "manual" } else { "auto" };
    let mut attributes =
        vec![("label", a.class.as_str()), ("source", source), ("occluded", if occluded { "1" } else { "0" })];
    let points = outline.map(|p| p.iter().map(|[x, y]| format!("{x},{y}")).collect::<Vec<_>>().join(";"));
    let name = if let Some(p) = &points {
        attributes.push(("points", p));
        "polygon"
    } else {
        attributes.extend([("xtl", x0.as_str()), ("ytl", &y0), ("xbr", &x1), ("ybr", &y1)]);
        "box"
    };
    attributes.push(("z_order", &z));
    if let Some(g) = group {
        attributes.push((GROUP, g));
    }
    if !with_details {
        return w.empty(name, &attributes);
    }
    w.open(name, &attributes);
    if let Some(s) = a.score {
        w.text("attribute", &[("name", "score")], &s.get().to_string());
    }
    w.text("attribute", &[("name", "provenance")], &to_json(&a.provenance));
    let grouped = group.is_some() && matches!(Shapes::of(a), Shapes::Box | Shapes::Outline(_));
    for (key, value) in &a.attributes {
        let carried = match key.as_str() {
            "occluded" => occluded,
            "z_order" => z_order.is_some(),
            GROUP => grouped,
            _ => false,
        };
        if !carried {
            w.text("attribute", &[("name", &encode_name(key))], &encode_value(value));
        }
    }
    w.close();
}
