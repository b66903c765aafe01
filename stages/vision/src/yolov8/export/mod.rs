//! Networks as ONNX files: static or dynamic, raw or decoded or with suppression inside, in 32, 16 or 8 bits.
//!
//! Owns the graph, the metadata that people's tools read, and the check that every export gets: it is run here and
//! compared with the network itself. Refuses to read and write files. Nothing depends on the clock: the same weights
//! and options give the same bytes.

pub mod evaluate;
mod graph;
mod head;
mod product;
mod quantise;
mod selection;

use super::{
    Backend, Images, Mode, Native, STRIDES, Spec, State, StateError, decode,
    onnx::{Dim, DimValue, Entry, Graph, Model, OperatorSet, Shape, TensorType, Type, ValueInfo, kind},
    weights::literal,
};
use crate::detector::DetectSettings;
use evaluate::{Array, EvaluateError};
use prost::Message;
use std::collections::BTreeSet;

pub use graph::{INPUT, LEVELS};
pub use head::OUTPUT;

/// What the graph gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Three outputs, `level8`, `level16`, `level32`: `[batch, 64 + classes, height, width]`.
    Raw,
    /// `output0 [batch, 4 + classes, anchors]`: centre, size, scores.
    Decoded,
    /// `output0 [batch, boxes, 6]`: corners, score, class, best first.
    Nms,
}

/// Numbers inside the graph; what goes in and comes out are always floats of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Floats of 32 bits.
    Full,
    /// Floats of 16 bits up to the raw head.
    Half,
    /// Convolutions in 8 bits, ranges from calibration pictures.
    Int8,
}

/// How a network is exported.
#[derive(Clone, Debug)]
pub struct Options {
    /// Input height in pixels, a multiple of 32.
    pub height: usize,
    /// Input width in pixels, a multiple of 32.
    pub width: usize,
    /// Pictures a batch.
    pub batch: usize,
    /// Batch, height and width are free; those above are then only what the metadata say and the check uses.
    pub dynamic: bool,
    /// What the graph gives.
    pub head: Head,
    /// Numbers inside.
    pub precision: Precision,
    /// Version of the operators, 17 to 21.
    pub opset: i64,
    /// For [`Head::Nms`].
    pub found: DetectSettings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            height: 640,
            width: 640,
            batch: 1,
            dynamic: false,
            head: Head::Decoded,
            precision: Precision::Full,
            opset: 17,
            found: DetectSettings::default(),
        }
    }
}

/// What an export says about itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Class names by index.
    pub names: Vec<String>,
    /// Version of this program.
    pub version: String,
    /// Licence of the weights, if one binds.
    pub licence: Option<String>,
}

/// Why a network could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Options out of range.
    #[error("{0}")]
    Options(String),
    /// Weights without a tensor of the network.
    #[error("the weights have no `{0}`")]
    Missing(String),
    /// Weights that do not fit.
    #[error(transparent)]
    State(#[from] StateError),
    /// The network did not run.
    #[error(transparent)]
    Network(#[from] super::Error),
    /// The exported graph does not run: a mistake of this program.
    #[error("the exported graph does not run, which is a mistake of this program")]
    Evaluate(#[from] EvaluateError),
    /// The exported graph gives something else: a mistake of this program.
    #[error("the exported graph is not what it should be ({0}), which is a mistake of this program")]
    Check(String),
    /// No pictures to calibrate on.
    #[error(
        "8 bits need calibration pictures, and there are none: name a folder of drawings like those to be looked at"
    )]
    NoPictures,
}

/// How close the exported graph is to the network, on the picture of the check or the calibration pictures.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Closeness {
    /// Largest difference of a score, 0 to 1.
    pub score: f32,
    /// Largest difference of a box side in pixels, where the score is above .05; of all boxes when none is.
    pub box_px: f32,
    /// Root of the mean squared difference of the raw head, as a share of that of the head itself.
    pub raw: f32,
}

/// A finished export.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub bytes: Vec<u8>,
    /// How close it is to the network.
    pub closeness: Closeness,
    /// Operations in the graph.
    pub operations: usize,
}

/// Largest difference of the raw head (see [`Closeness::raw`]) in 32 bits; more is a mistake.
const FULL_TOLERANCE: f32 = 1e-4;
/// The same in 16 bits.
const HALF_TOLERANCE: f32 = 2e-2;
/// The same in 8 bits: beyond it nothing of the network is left.
const INT8_TOLERANCE: f32 = 0.5;
/// Side of the check's picture for graphs of any size, in pixels.
const CHECK_SIDE: usize = 128;

fn value(name: &str, dims: Vec<DimValue>) -> ValueInfo {
    let dim = dims.into_iter().map(|value| Dim { value: Some(value) }).collect();
    let tensor = TensorType { elem_type: kind::FLOAT, shape: Some(Shape { dim }) };
    ValueInfo { name: name.into(), r#type: Some(Type { tensor_type: Some(tensor) }) }
}

impl Options {
    fn check(&self) -> Result<(), ExportError> {
        let bad = |text: String| Err(ExportError::Options(text));
        let side = |n: usize| n > 0 && n.is_multiple_of(32);
        match () {
            () if !side(self.height) || !side(self.width) => {
                bad(format!("imgsz {}x{}: both sides must be multiples of 32", self.height, self.width))
            }
            () if self.batch == 0 => bad("batch: at least 1".into()),
            () if !(17..=21).contains(&self.opset) => bad(format!("opset {}: 17 to 21 can be written", self.opset)),
            () if self.found.max_det == 0 => bad("max_det: at least 1".into()),
            () => Ok(()),
        }
    }

    fn anchors(&self) -> usize {
        STRIDES.iter().map(|s| (self.height / s) * (self.width / s)).sum()
    }

    /// Inputs and outputs with their shapes.
    fn interface(&self, graph: &mut Graph, classes: usize) {
        let fixed = |n: usize| DimValue::Value(n as i64);
        let free = |n: usize, name: &str| if self.dynamic { DimValue::Param(name.into()) } else { fixed(n) };
        let batch = || free(self.batch, "batch");
        let input = vec![batch(), fixed(3), free(self.height, "height"), free(self.width, "width")];
        graph.input = vec![value(INPUT, input)];
        graph.output = match self.head {
            Head::Raw => {
                let level = |(name, stride): (&str, usize)| {
                    let (h, w) = (format!("height/{stride}"), format!("width/{stride}"));
                    let channels = fixed(super::BOX_CHANNELS + classes);
                    let dims = vec![batch(), channels, free(self.height / stride, &h), free(self.width / stride, &w)];
                    value(name, dims)
                };
                LEVELS.into_iter().zip(STRIDES).map(level).collect()
            }
            Head::Decoded => {
                vec![value(OUTPUT, vec![batch(), fixed(4 + classes), free(self.anchors(), "anchors")])]
            }
            Head::Nms => {
                let boxes = self.found.max_det.min(classes * self.anchors());
                vec![value(OUTPUT, vec![batch(), free(boxes, "boxes"), fixed(6)])]
            }
        };
    }

    fn metadata(&self, about: &About) -> Vec<Entry> {
        let head = match self.head {
            Head::Raw => "raw",
            Head::Decoded => "decoded",
            Head::Nms => "nms",
        };
        let precision = match self.precision {
            Precision::Full => "float32",
            Precision::Half => "float16",
            Precision::Int8 => "int8",
        };
        let python = |b: bool| if b { "True" } else { "False" };
        let nms = self.head == Head::Nms;
        let mut all = vec![
            ("description", "YOLOv8 detection".to_owned()),
            ("author", format!("pipeline {}", about.version)),
            ("version", about.version.clone()),
            ("task", "detect".into()),
            ("stride", "32".into()),
            ("batch", self.batch.to_string()),
            ("imgsz", format!("[{}, {}]", self.height, self.width)),
            ("names", literal::from_names(about.names.iter().map(String::as_str))),
            ("channels", "3".into()),
            (
                "args",
                format!("{{'batch': {}, 'dynamic': {}, 'nms': {}}}", self.batch, python(self.dynamic), python(nms)),
            ),
            ("head", head.into()),
            ("precision", precision.into()),
        ];
        if let Some(licence) = &about.licence {
            all.push(("license", licence.clone()));
        }
        all.into_iter().map(|(key, value)| Entry { key: key.into(), value }).collect()
    }
}

/// Exports a network. `pictures` are calibration pictures `[1, 3, height, width]` for [`Precision::Int8`], and then
/// also what the check looks at; other precisions are checked on a drawn one.
pub fn export(
    spec: Spec,
    state: &State,
    about: &About,
    options: &Options,
    pictures: &[Array],
) -> Result<Exported, ExportError> {
    options.check()?;
    if about.names.len() != spec.classes {
        let text = format!("{} names for {} classes", about.names.len(), spec.classes);
        return Err(ExportError::Options(text));
    }
    let mut builder = graph::network(spec, state, options)?;
    match options.head {
        Head::Raw => {}
        Head::Decoded => head::decoded(&mut builder, options, spec.classes),
        Head::Nms => head::suppressed(&mut builder, options, spec.classes),
    }
    let mut graph = builder.finish("yolov8");
    options.interface(&mut graph, spec.classes);
    if options.precision == Precision::Int8 {
        if pictures.is_empty() {
            return Err(ExportError::NoPictures);
        }
        quantise::quantise(&mut graph, pictures)?;
    }
    structure(&graph)?;
    let closeness = closeness(&graph, spec, state, options, pictures)?;
    let tolerance = match options.precision {
        Precision::Full => FULL_TOLERANCE,
        Precision::Half => HALF_TOLERANCE,
        Precision::Int8 => INT8_TOLERANCE,
    };
    if closeness.raw.is_nan() || closeness.raw > tolerance {
        return Err(ExportError::Check(format!("the raw head differs by {} of its size", closeness.raw)));
    }
    let operations = graph.node.len();
    let model = Model {
        // The version of the file format that came with the operators.
        ir_version: match options.opset {
            ..=18 => 8,
            19 | 20 => 9,
            _ => 10,
        },
        producer_name: "pipeline".into(),
        producer_version: about.version.clone(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: options.opset }],
        metadata_props: options.metadata(about),
    };
    Ok(Exported { bytes: model.encode_to_vec(), closeness, operations })
}

/// Runs the network in its plain form on pictures `[batch, 3, height, width]` and shows what every convolution makes
/// (behind normalisation and activation, before a shortcut), as `[batch, channels, height, width]` by key.
pub fn layers(
    spec: Spec,
    state: &State,
    pictures: &Array,
    show: &mut dyn FnMut(&str, &[f32]),
) -> Result<(), ExportError> {
    let mut graph = graph::network(spec, state, &Options::default())?.finish("yolov8");
    let options = Options { head: Head::Raw, dynamic: true, ..Options::default() };
    options.interface(&mut graph, spec.classes);
    evaluate::run(&graph, pictures, &mut |name, value| {
        let layer = name.strip_suffix("/Mul").or_else(|| name.strip_suffix(".2/Conv").map(|_| &name[..name.len() - 5]));
        if let (Some(layer), Ok(data)) = (layer, value.f()) {
            show(layer, data);
        }
    })?;
    Ok(())
}

/// Every value is made once, before it is read; every constant and every result is used.
fn structure(graph: &Graph) -> Result<(), ExportError> {
    let bad = |text: String| Err(ExportError::Check(text));
    let mut known: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    for constant in &graph.initializer {
        if !known.insert(&constant.name) {
            return bad(format!("two constants are named `{}`", constant.name));
        }
    }
    let mut read: BTreeSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let mut names = BTreeSet::new();
    for node in &graph.node {
        if !names.insert(&node.name) {
            return bad(format!("two operations are named `{}`", node.name));
        }
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if !known.contains(input.as_str()) {
                return bad(format!("`{}` reads `{input}` before it is made", node.name));
            }
            read.insert(input);
        }
        for output in &node.output {
            if !known.insert(output) {
                return bad(format!("`{output}` is made twice"));
            }
        }
    }
    match known.iter().find(|name| !read.contains(*name)) {
        Some(name) => bad(format!("nothing reads `{name}`")),
        None => Ok(()),
    }
}

/// A picture with edges and flat parts at all places, the same at every call.
fn drawn(batch: usize, height: usize, width: usize) -> Array {
    let value = |i: usize| {
        let (c, y, x) = (i / (height * width) % 3, i / width % height, i % width);
        let ring = ((x as f32 - 40.0).hypot(y as f32 - 40.0) / 7.0 + c as f32).sin().abs();
        let block = f32::from(u8::from((x / 16 + y / 24 + i / (3 * height * width)).is_multiple_of(3)));
        (0.6 * ring + 0.4 * block).clamp(0.0, 1.0)
    };
    Array::floats(vec![batch, 3, height, width], (0..batch * 3 * height * width).map(value).collect())
}

/// Runs graph and network on the same pictures.
fn closeness(
    graph: &Graph,
    spec: Spec,
    state: &State,
    options: &Options,
    pictures: &[Array],
) -> Result<Closeness, ExportError> {
    let own;
    let pictures = if options.precision == Precision::Int8 {
        &pictures[..pictures.len().min(4)]
    } else {
        let (h, w) = (options.height, options.width);
        let (h, w) = if options.dynamic { (h.min(CHECK_SIDE), w.min(CHECK_SIDE + 32)) } else { (h, w) };
        own = [drawn(if options.dynamic { 2 } else { options.batch }, h, w)];
        &own
    };
    let mut network = Native::from_state(spec, state)?;
    let mut found = Closeness { score: 0.0, box_px: 0.0, raw: 0.0 };
    let (mut square, mut whole, mut all_px, mut any) = (0.0_f64, 0.0_f64, 0.0_f32, false);
    for picture in pictures {
        let mut levels: [Option<Array>; 3] = [None, None, None];
        let outputs = evaluate::run(graph, picture, &mut |name, value| {
            if let Some(level) = LEVELS.iter().position(|l| *l == name) {
                levels[level] = Some(value.clone());
            }
        })?;
        let [batch, _, height, width] = picture.shape[..] else {
            return Err(ExportError::Check("a picture has four axes".into()));
        };
        let pixels = to_rows(picture)?;
        let ours = network.forward(Images { data: &pixels, batch, height, width }, Mode::Eval)?.clone();
        let mut theirs = ours.clone();
        for (level, found) in theirs.levels.iter_mut().zip(&levels) {
            let found = found.as_ref().ok_or_else(|| ExportError::Check("a level of the head is missing".into()))?;
            if found.shape != [batch, level.channels, level.height, level.width] {
                return Err(ExportError::Check(format!("a level of the head is {:?}", found.shape)));
            }
            level.data = to_rows(found)?;
        }
        let numbers =
            |h: &super::Heads| h.levels.iter().flat_map(|l| l.data.clone()).map(f64::from).collect::<Vec<_>>();
        for (a, b) in numbers(&ours).into_iter().zip(numbers(&theirs)) {
            square += (a - b).powi(2);
            whole += a.powi(2);
        }
        for image in 0..batch {
            let (a, b) = (decode(&ours, image), decode(&theirs, image));
            for (i, (p, q)) in a.boxes.iter().zip(&b.boxes).enumerate() {
                let scores = |d: &super::Decoded| d.scores[i * spec.classes..(i + 1) * spec.classes].to_vec();
                let (s, t) = (scores(&a), scores(&b));
                let off = s.iter().zip(&t).map(|(s, t)| (s - t).abs()).fold(0.0, f32::max);
                found.score = found.score.max(off);
                let px = p.iter().zip(q).map(|(p, q)| (p - q).abs()).fold(0.0, f32::max);
                all_px = all_px.max(px);
                if s.iter().chain(&t).any(|&s| s > 0.05) {
                    any = true;
                    found.box_px = found.box_px.max(px);
                }
            }
            answers(options, &b, image, &outputs)?;
        }
    }
    found.raw = (square / whole.max(f64::MIN_POSITIVE)).sqrt() as f32;
    if !any {
        found.box_px = all_px;
    }
    Ok(found)
}

/// Whether the outputs for one image are what the levels of the same graph stand for.
fn answers(options: &Options, levels: &super::Decoded, image: usize, outputs: &[Array]) -> Result<(), ExportError> {
    let bad = |text: String| Err(ExportError::Check(text));
    let out = &outputs[0];
    let data = out.f().map_err(ExportError::Check)?;
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-3 * (1.0 + b.abs());
    let (n, classes) = (levels.boxes.len(), levels.classes);
    match options.head {
        Head::Raw => Ok(()),
        Head::Decoded => {
            if out.shape[1..] != [4 + classes, n] {
                return bad(format!("the output is {:?}", out.shape));
            }
            let at = |row: usize, i: usize| data[(image * (4 + classes) + row) * n + i];
            let right = |i: usize| {
                let [x0, y0, x1, y1] = levels.boxes[i];
                let ours = [(x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0];
                (0..4).all(|k| close(at(k, i), ours[k]))
                    && (0..classes).all(|c| close(at(4 + c, i), levels.scores[i * classes + c]))
            };
            (0..n).find(|&i| !right(i)).map_or(Ok(()), |i| bad(format!("anchor {i} is decoded differently")))
        }
        Head::Nms => {
            let rows = &data[image * out.shape[1] * 6..(image + 1) * out.shape[1] * 6];
            for (i, row) in rows.as_chunks::<6>().0.iter().enumerate().filter(|(_, r)| r[4] > 0.0) {
                let class = row[5] as usize;
                let is = |k: usize| {
                    close(row[4], levels.scores[k * classes + class])
                        && (0..4).all(|s| close(row[s], levels.boxes[k][s]))
                };
                if class >= classes || f64::from(row[4]) < options.found.conf * 0.999 || !(0..n).any(is) {
                    return bad(format!("row {i} of the found objects is no cell of the head"));
                }
            }
            Ok(())
        }
    }
}

/// `[batch, channels, height, width]` as `[batch, height, width, channels]`.
fn to_rows(a: &Array) -> Result<Vec<f32>, ExportError> {
    let [b, c, h, w] = a.shape[..] else { return Err(ExportError::Check("a map has four axes".into())) };
    let data = a.f().map_err(ExportError::Check)?;
    let at = |i: usize| data[(i / (h * w * c) * c + i % c) * h * w + i / c % (h * w)];
    Ok((0..b * c * h * w).map(at).collect())
}

/// Pictures `[batch, height, width, 3]` as the input of an exported graph.
pub fn to_planes(data: &[f32], batch: usize, height: usize, width: usize) -> Array {
    let plane = height * width;
    let at = |i: usize| data[(i / (3 * plane) * plane + i % plane) * 3 + i / plane % 3];
    Array::floats(vec![batch, 3, height, width], (0..batch * 3 * plane).map(at).collect())
}
