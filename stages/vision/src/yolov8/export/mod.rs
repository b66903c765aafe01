//! Networks as ONNX files: static or dynamic, raw or decoded or with suppression inside, in 32, 16 or 8 bits.
//!
//! Owns the graph, the metadata that people's tools read, and the check that every export gets: it is run here and
//! compared with the network itself. Refuses to read and write files. Nothing depends on the clock: the same weights
//! and options give the same bytes.

mod check;
pub mod evaluate;
mod graph;
mod head;
mod product;
mod quantise;
mod selection;

use super::{
    STRIDES, Spec, State, StateError,
    onnx::{Dim, DimValue, Entry, Graph, Model, OperatorSet, Shape, TensorType, Type, ValueInfo, kind},
    weights::literal,
};
use crate::detector::DetectSettings;
use evaluate::{Array, EvaluateError};
use prost::Message;

pub use check::Closeness;
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
    let closeness = check::check(&graph, spec, state, options, pictures)?;
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

/// Pictures `[batch, height, width, 3]` as the input of an exported graph.
pub fn to_planes(data: &[f32], batch: usize, height: usize, width: usize) -> Array {
    let plane = height * width;
    let at = |i: usize| data[(i / (3 * plane) * plane + i % plane) * 3 + i / plane % 3];
    Array::floats(vec![batch, 3, height, width], (0..batch * 3 * plane).map(at).collect())
}
