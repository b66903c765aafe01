//! Label Studio: one JSON list of tasks with rectangles and polygons in percent of the image.
//!
//! Extension fields: `meta` of a task (size and digest), `meta` of a region (provenance, attributes, the number of the
//! object it is part of), `score` of a region. Boxes with scores that no person has decided on go to `predictions`,
//! all else to `annotations`. A folder gets `tasks.json` and the labelling configuration `config.xml`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::account::{Account, Direction, Effect};
use super::folder::{Folder, MARK, Sidecar, SidecarImage, write_file};
use super::intake::{At, Intake, box_of, checked};
use super::objects::{Part, Shapes, join, turned};
use super::text::{Json, SNIFFED, has_extension, only_source, sources};
use super::xml::Writer;
use super::{Format, FormatError, Imported, LabelFormat, ReadOptions, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ImageAnnotations, Score};
use crate::geometry::{BBox, Polygon};
use crate::picture::is_image_name;

/// The format.
pub(super) struct LabelStudio;

/// Where Label Studio serves files of its document root; the name follows, percent-encoded.
const LOCAL_FILES: &str = "/data/local-files/?d=";

#[derive(Deserialize)]
struct Task<'a> {
    data: BTreeMap<String, Value>,
    #[serde(borrow, default)]
    annotations: Option<Vec<Answer<'a>>>,
    #[serde(borrow, default)]
    predictions: Option<Vec<Answer<'a>>>,
    meta: Option<Value>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    result: Vec<&'a RawValue>,
    #[serde(default)]
    was_cancelled: bool,
}

#[derive(Deserialize)]
struct Region {
    #[serde(rename = "type")]
    kind: String,
    value: Option<BTreeMap<String, Value>>,
    original_width: Option<f64>,
    original_height: Option<f64>,
    image_rotation: Option<f64>,
    score: Option<Value>,
    meta: Option<BTreeMap<String, Value>>,
}

impl LabelFormat for LabelStudio {
    fn format(&self) -> Format {
        Format::LabelStudio
    }

    fn recognises(&self, source: &Path) -> bool {
        sources(source, "json").is_ok_and(|all| all.iter().take(SNIFFED).any(|p| is_label_studio(p)))
    }

    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        let path = only_source(source, "json", "Label Studio", is_label_studio)?;
        let json = Json::open(&path)?;
        let tasks: Vec<&RawValue> = json.parse(&path)?;
        let mut intake = Intake::new(Format::LabelStudio, Direction::Read, options);
        if let Some(folder) = path.parent() {
            intake.classes_beside(folder, Format::LabelStudio);
        }
        for raw in tasks {
            let at = At { file: &path, line: json.line(raw) };
            match json.part::<Task>(raw) {
                Ok(t) => task(t, &json, at, &mut intake),
                Err((line, e)) => {
                    intake.account.images_skipped += 1;
                    let fix = "a task needs `data` and lists of `annotations` or `predictions`";
                    intake.problem(Effect::Lost, At { line, ..at }, format!("task: {e}"), fix);
                }
            }
        }
        Ok(intake.finish())
    }

    fn write(&self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError> {
        let (set, mut account) = checked(set, Format::LabelStudio);
        if set.is_divided() {
            account.note(Effect::Lost, "split", "train, val, test", "a list of tasks has no parts");
        }
        let tasks: Vec<String> = set.images.iter().enumerate().map(|(n, i)| to_task(n + 1, i).to_string()).collect();
        let text = if tasks.is_empty() { "[]\n".into() } else { format!("[\n{}\n]\n", tasks.join(",\n")) };
        if has_extension(target, "json") {
            let why = "a list of tasks names only the classes it uses; export to a folder to keep the rest";
            for c in &set.classes {
                account.note(Effect::Lost, "class list", &c.name, why);
            }
            for s in &set.skipped {
                account.note(Effect::Lost, "skipped images", &s.image, why);
            }
            write_file(target, &text)?;
            return Ok(account);
        }
        let mut folder = Folder::create(target)?;
        folder.put("tasks.json", &text)?;
        folder.put("config.xml", &config(&set))?;
        let mut sidecar = Sidecar::new(Format::LabelStudio, &set);
        for i in &set.images {
            let file = format!("images/{}", i.image);
            folder.put_image(options, &i.image, &file, &mut account)?;
            sidecar.images.push(SidecarImage::of(i, "tasks.json", &file));
        }
        folder.commit(sidecar)?;
        Ok(account)
    }
}

fn is_label_studio(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Data {
        #[expect(dead_code, reason = "only its presence counts")]
        data: serde::de::IgnoredAny,
    }
    let is_list = |j: &Json| {
        j.parse::<Vec<&RawValue>>(path).is_ok_and(|all| all.first().is_none_or(|t| j.part::<Data>(t).is_ok()))
    };
    has_extension(path, "json") && Json::open(path).is_ok_and(|j| is_list(&j))
}

/// The image's name in a task's `data`.
fn image_name(data: &BTreeMap<String, Value>) -> Option<String> {
    let preferred = ["image", "img", "url"].iter().find_map(|k| data.get(*k)?.as_str());
    let any = || data.values().filter_map(Value::as_str).find(|s| is_image_name(s));
    let url = preferred.or_else(any)?;
    if let Some((_, name)) = url.split_once("?d=") {
        return Some(decode_percent(name));
    }
    if let Some((_, rest)) = url.split_once("/data/upload/") {
        // Uploads are kept as `<project>/<8 hex digits>-<name>`.
        let base = decode_percent(rest.rsplit('/').next().unwrap_or(rest));
        let hash = base.split_once('-').filter(|(h, _)| h.len() == 8 && h.chars().all(|c| c.is_ascii_hexdigit()));
        return Some(hash.map_or(base.clone(), |(_, name)| name.to_owned()));
    }
    match url.split_once("://") {
        Some((_, rest)) => {
            let path = rest.split_once('/').map_or(rest, |(_, path)| path);
            Some(decode_percent(path.split(['?', '#']).next().unwrap_or(path)))
        }
        None => Some(url.to_owned()),
    }
}

fn decode_percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(bytes[i]));
        i += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn encode_percent(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

fn task(task: Task, json: &Json, at: At, intake: &mut Intake) {
    let answers = task.annotations.unwrap_or_default();
    let others = answers.len().saturating_sub(1);
    // The latest answer of a person counts; a model's only where no person has answered.
    let answer = match answers.into_iter().rfind(|a| !a.was_cancelled) {
        Some(a) => {
            for _ in 0..others {
                let why = "of several people's answers to a task the last counts";
                intake.account.note(Effect::Lost, "other answers", format!("line {}", at.line), why);
            }
            Some(a)
        }
        None => task.predictions.unwrap_or_default().into_iter().next_back(),
    };
    let raws = answer.map(|a| a.result).unwrap_or_default();
    let mut regions = Vec::new();
    for raw in raws {
        let at = At { line: json.line(raw), ..at };
        match json.part::<Region>(raw) {
            Ok(r) => regions.push((at, r)),
            Err((line, e)) => intake.drop_label(At { line, ..at }, e, "mend the region"),
        }
    }
    let meta = |key: &str| task.meta.as_ref().and_then(|m| m.get(key));
    let told = meta("width").and_then(Value::as_f64).zip(meta("height").and_then(Value::as_f64));
    let size = regions.iter().find_map(|(_, r)| r.original_width.zip(r.original_height)).or(told);
    let Some(name) = image_name(&task.data) else {
        intake.skip_image(at, "(no name)", "the task names no image", "give it `data.image`", regions.len());
        return;
    };
    let Some(index) = intake.image(at, &name, size, regions.len()) else { return };
    if let Some(digest) = meta("digest").and_then(Value::as_str) {
        intake.describe(index, Some(digest), None);
    }
    let size = intake.size(index);
    let mut parts = Vec::new();
    for (at, r) in regions {
        match region(r, size, at, intake) {
            Ok(part) => parts.push(part),
            Err((reason, fix)) => intake.drop_label(at, reason, fix),
        }
    }
    for (line, object) in join(parts) {
        intake.label(At { line, ..at }, index, object);
    }
}

fn region(r: Region, (w, h): (f64, f64), at: At, intake: &mut Intake) -> Result<Part, (String, &'static str)> {
    let value = r.value.unwrap_or_default();
    let number = |key: &str| -> Result<f64, (String, &'static str)> {
        let v = value.get(key).ok_or((format!("the region has no `{key}`"), "add it"))?;
        v.as_f64().ok_or((format!("`{key}` is {v}"), "it must be a number, percent of the image"))
    };
    let line = || format!("line {}", at.line);
    let mut polygons = Vec::new();
    let is_box = r.kind == "rectanglelabels";
    let mut bbox = match r.kind.as_str() {
        "rectanglelabels" => {
            let (x, y) = (number("x")? / 100.0 * w, number("y")? / 100.0 * h);
            BBox::new(x, y, x + number("width")? / 100.0 * w, y + number("height")? / 100.0 * h)
        }
        "polygonlabels" => {
            let points = value.get("points").and_then(Value::as_array).map(|all| {
                let corner = |p: &Value| Some([p.get(0)?.as_f64()? / 100.0 * w, p.get(1)?.as_f64()? / 100.0 * h]);
                all.iter().map(corner).collect::<Option<Polygon>>()
            });
            match points.flatten() {
                Some(p) if p.len() >= 3 => polygons.push(p),
                _ => return Err(("`points` are not three or more pairs of numbers".into(), "draw it again")),
            }
            box_of(&polygons)
        }
        other => {
            return Err((
                format!("a region of type `{other}` is neither box nor outline"),
                "draw a rectangle or a polygon",
            ));
        }
    };
    let degrees = value.get("rotation").and_then(Value::as_f64).unwrap_or(0.0);
    if is_box && degrees % 360.0 != 0.0 {
        let (around, corners) = turned(bbox, degrees, (bbox.x0, bbox.y0));
        let why = "the box became the upright box around the turned one, whose corners are kept as outline";
        intake.account.note(Effect::Lost, "rotation", format!("{}: {degrees} degrees", line()), why);
        bbox = around;
        polygons = vec![corners];
    }
    if let Some(turn) = r.image_rotation.filter(|t| *t != 0.0) {
        let why = "the image was shown turned; its labels are taken as they are in the upright image";
        intake.account.note(Effect::Lost, "image rotation", format!("{}: {turn} degrees", line()), why);
    }
    let labels = value.get(&r.kind).or_else(|| value.get("labels")).and_then(Value::as_array);
    let mut labels = labels.into_iter().flatten().filter_map(Value::as_str);
    let class = labels.next().unwrap_or_default();
    for other in labels {
        intake.account.note(Effect::Lost, "second class", format!("{}: `{other}`", line()), "an object has one class");
    }
    let mut a = Annotation { polygons, ..Annotation::new(class, bbox) };
    a.score = intake.score(at, r.score);
    let mut meta = r.meta.unwrap_or_default();
    if let Some(Value::Object(all)) = meta.remove("attributes") {
        a.attributes = all.into_iter().collect();
    }
    let group = meta.remove("object");
    a.provenance = intake.provenance(at, meta.remove("provenance"));
    a.attributes.extend(meta);
    Ok(Part { line: at.line, group, is_box, annotation: a })
}

fn to_task(id: usize, i: &ImageAnnotations) -> Value {
    let mut regions = Vec::new();
    for (n, a) in i.annotations.iter().enumerate() {
        let mut add = |outline: Option<&Polygon>, object: Option<usize>, with_details: bool| {
            let id = format!("r{}", regions.len() + 1);
            regions.push(to_region(&id, i, a, outline, object, with_details));
        };
        match Shapes::of(a) {
            Shapes::Box => add(None, None, true),
            Shapes::Outline(p) => add(Some(p), None, true),
            Shapes::Group => {
                add(None, Some(n + 1), true);
                a.polygons.iter().for_each(|p| add(Some(p), Some(n + 1), false));
            }
        }
    }
    let is_guess = |a: &Annotation| a.score.is_some() && a.provenance.decision.is_none();
    let mut meta = json!({"generator": MARK, "width": i.width, "height": i.height});
    if !i.digest.is_empty() {
        meta["digest"] = json!(i.digest);
    }
    let mut task = json!({
        "id": id,
        "data": {"image": format!("{LOCAL_FILES}{}", encode_percent(&i.image))},
        "meta": meta,
        "annotations": [],
        "predictions": [],
    });
    if !i.annotations.is_empty() && i.annotations.iter().all(is_guess) {
        let scores: f64 = i.annotations.iter().filter_map(|a| a.score).map(Score::get).sum();
        let mean = scores / i.annotations.len() as f64;
        let model = &i.annotations[0].provenance.labeller;
        task["predictions"] = json!([{"model_version": model, "score": mean, "result": regions}]);
    } else {
        task["annotations"] = json!([{"was_cancelled": false, "result": regions}]);
    }
    task
}

fn to_region(
    id: &str,
    i: &ImageAnnotations,
    a: &Annotation,
    outline: Option<&Polygon>,
    object: Option<usize>,
    with_details: bool,
) -> Value {
    let percent = |x: f64, side: u32| x / f64::from(side) * 100.0;
    let (kind, from, mut value) = if let Some(p) = outline {
        let points: Vec<_> = p.iter().map(|[x, y]| [percent(*x, i.width), percent(*y, i.height)]).collect();
        ("polygonlabels", "outline", json!({"points": points, "closed": true}))
    } else {
        let value = json!({
            "x": percent(a.bbox.x0, i.width), "y": percent(a.bbox.y0, i.height),
            "width": percent(a.bbox.width(), i.width), "height": percent(a.bbox.height(), i.height),
            "rotation": 0,
        });
        ("rectanglelabels", "label", value)
    };
    value[kind] = json!([a.class]);
    let mut meta = json!({});
    if let Some(n) = object {
        meta["object"] = json!(n);
    }
    if with_details {
        meta["provenance"] = serde_json::to_value(&a.provenance).expect("provenance holds finite numbers only");
        if !a.attributes.is_empty() {
            meta["attributes"] = json!(a.attributes);
        }
    }
    let mut region = json!({
        "id": id, "type": kind, "from_name": from, "to_name": "image", "value": value, "meta": meta,
        "original_width": i.width, "original_height": i.height, "image_rotation": 0,
    });
    if let Some(s) = a.score {
        region["score"] = json!(s.get());
    }
    region
}

/// The labelling configuration for these classes.
fn config(set: &AnnotationSet) -> String {
    let mut w = Writer::new(MARK);
    w.open("View", &[]);
    w.empty("Image", &[("name", "image"), ("value", "$image"), ("zoom", "true")]);
    for (element, name) in [("RectangleLabels", "label"), ("PolygonLabels", "outline")] {
        w.open(element, &[("name", name), ("toName", "image")]);
        for c in &set.classes {
            let color = format!("#{:02x}{:02x}{:02x}", c.color[0], c.color[1], c.color[2]);
            w.empty("Label", &[("value", &c.name), ("background", &color)]);
        }
        w.close();
    }
    w.close();
    w.out
}
