//! Weights of other programs: safetensors, PyTorch's `.pt` and ONNX files, all read into the public keys of the network.
//!
//! Owns what a file says about its network: size, classes, picture size, licence. Refuses to fit weights to another
//! network (training does that) and to read files: it gets bytes. Nothing in a file is ever run.

pub mod literal;
pub mod onnx_in;
pub mod pickle;
pub mod pt;

use super::{Native, Size, Spec, State, StateError, Tensor};
use std::collections::BTreeMap;

/// Added to the variance in normalisations (the recipe's value).
pub const EPSILON: f64 = 1e-3;

/// What is said of weights that Ultralytics made, or that were trained from them.
pub const ULTRALYTICS_LICENCE: &str = "AGPL-3.0 (weights of Ultralytics, or trained from them)";

/// Why weights could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Of no known kind.
    #[error("the file is neither safetensors, nor a PyTorch `.pt` file, nor ONNX: give one of these")]
    Unknown,
    /// PyTorch's format before version 1.6.
    #[error("the file is in PyTorch's format from before version 1.6: load and save it once with a newer PyTorch")]
    OldPt,
    /// A safetensors file.
    #[error(transparent)]
    State(#[from] StateError),
    /// A `.pt` file.
    #[error("reading the PyTorch file")]
    Pt(#[from] pt::PtError),
    /// An ONNX file.
    #[error("reading the ONNX file")]
    Onnx(#[from] onnx_in::OnnxError),
    /// Tensors of another network.
    #[error("the tensors are not those of YOLOv8 detection ({cause}); found are {found}")]
    Network {
        /// What does not fit.
        cause: String,
        /// Some of the keys.
        found: String,
    },
    /// What the file says about itself contradicts its tensors.
    #[error("the file's entry `{key}` cannot be used ({cause}): make it again with its metadata")]
    Metadata {
        /// Entry.
        key: &'static str,
        /// What is wrong.
        cause: String,
    },
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Named tensors.
    Safetensors,
    /// PyTorch.
    Pt,
    /// ONNX.
    Onnx,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Pt => "PyTorch",
            Self::Onnx => "ONNX",
        }
    }

    /// By the first bytes.
    fn of(bytes: &[u8]) -> Result<Self, WeightsError> {
        match bytes {
            [b'P', b'K', ..] => Ok(Self::Pt),
            [_, _, _, _, _, _, _, _, b'{', ..] => Ok(Self::Safetensors),
            [0x80, 2..=5, 0x8a, ..] => Err(WeightsError::OldPt),
            // The field `ir_version`, or another of the first fields of the format.
            [0x08 | 0x12 | 0x3a, ..] => Ok(Self::Onnx),
            _ => Err(WeightsError::Unknown),
        }
    }
}

/// Weights of a network, whatever file they came from.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Tensors under public keys; the metadata are those that this program writes (`spec`, `classes`, `imgsz`, ...).
    pub state: State,
    /// Which network.
    pub spec: Spec,
    /// The file's kind.
    pub kind: Kind,
    /// Class names by index, if the file names them.
    pub names: Option<Vec<String>>,
    /// Licence that binds whoever uses the weights, as far as the file tells.
    pub licence: Option<String>,
    /// Whether the file keeps them in 8 bits, so that they are those of the network it was made from up to half a step.
    pub dequantised: bool,
}

/// Size by the width of the first convolution.
fn size_of_width(channels: usize) -> Option<Size> {
    match channels {
        16 => Some(Size::N),
        32 => Some(Size::S),
        48 => Some(Size::M),
        64 => Some(Size::L),
        80 => Some(Size::X),
        _ => None,
    }
}

/// Reads weights from a file's bytes.
pub fn read(bytes: &[u8]) -> Result<Weights, WeightsError> {
    let kind = Kind::of(bytes)?;
    let mut dequantised = false;
    let (mut state, told) = match kind {
        Kind::Safetensors => {
            let state = State::from_bytes(bytes)?;
            let told = Told::of_ours(&state)?;
            (state, told)
        }
        Kind::Pt => {
            let checkpoint = pt::read(bytes)?;
            let told = Told {
                names: checkpoint.names,
                imgsz: checkpoint.imgsz,
                licence: licence(checkpoint.licence, checkpoint.ultralytics),
                source: checkpoint.version.filter(|_| checkpoint.ultralytics).map(|v| format!("Ultralytics {v}")),
            };
            (State { tensors: checkpoint.tensors, metadata: BTreeMap::new() }, told)
        }
        Kind::Onnx => {
            let imported = onnx_in::read(bytes)?;
            dequantised = imported.dequantised;
            (imported.state, Told::of_onnx(&imported.metadata))
        }
    };
    let spec = recognised(&mut state)?;
    if let Some(names) = &told.names
        && names.len() != spec.classes
    {
        let cause = format!("{} names for {} classes", names.len(), spec.classes);
        return Err(WeightsError::Metadata { key: "classes", cause });
    }
    let mut put = |key: &str, value: serde_json::Value| {
        state.metadata.entry(key.to_owned()).or_insert_with(|| value.to_string());
    };
    put("spec", serde_json::json!(spec));
    if let Some(names) = &told.names {
        put("classes", serde_json::json!(names));
    }
    if let Some(side) = told.imgsz {
        put("imgsz", serde_json::json!(side));
    }
    if let Some(licence) = &told.licence {
        put("licence", serde_json::json!(licence));
    }
    if let Some(source) = &told.source {
        put("source", serde_json::json!(source));
    }
    Ok(Weights { state, spec, kind, names: told.names, licence: told.licence, dequantised })
}

/// What a file says about itself.
#[derive(Default)]
struct Told {
    names: Option<Vec<String>>,
    imgsz: Option<u32>,
    licence: Option<String>,
    source: Option<String>,
}

impl Told {
    fn of_ours(state: &State) -> Result<Self, WeightsError> {
        let names = match state.metadata.get("classes") {
            Some(text) => Some(
                serde_json::from_str(text)
                    .map_err(|e| WeightsError::Metadata { key: "classes", cause: e.to_string() })?,
            ),
            None => None,
        };
        let text = |key| state.metadata.get(key).and_then(|t| serde_json::from_str(t).ok());
        Ok(Self { names, licence: text("licence"), ..Self::default() })
    }

    /// The keys that exports of this kind have in common.
    fn of_onnx(metadata: &BTreeMap<String, String>) -> Self {
        let names = metadata.get("names").and_then(|t| literal::names(t));
        let imgsz = metadata.get("imgsz").and_then(|t| literal::numbers(t)).and_then(|n| n.into_iter().max());
        let is_theirs = metadata.get("author").is_some_and(|a| a == "Ultralytics");
        let version = metadata.get("version").filter(|_| is_theirs);
        Self {
            names,
            imgsz: imgsz.and_then(|n| u32::try_from(n).ok()),
            licence: licence(metadata.get("license").cloned(), is_theirs),
            source: version.map(|v| format!("Ultralytics {v}")),
        }
    }
}

/// Files of Ultralytics name the AGPL, or nothing and are under it all the same.
fn licence(said: Option<String>, is_theirs: bool) -> Option<String> {
    match said {
        Some(text) if text.contains("AGPL") => Some(ULTRALYTICS_LICENCE.into()),
        None if is_theirs => Some(ULTRALYTICS_LICENCE.into()),
        said => said.filter(|text| !text.trim().is_empty()),
    }
}

/// The network that the tensors are of; merged normalisations come back as ones that change nothing.
fn recognised(state: &mut State) -> Result<Spec, WeightsError> {
    let spec = guessed(state).ok_or_else(|| foreign(state, "no known first or last convolution"))?;
    let shapes = spec.shapes();
    let fused: Vec<String> = shapes
        .keys()
        .filter_map(|key| key.strip_suffix(".conv.weight"))
        .filter(|name| !state.tensors.contains_key(&format!("{name}.bn.weight")))
        .map(str::to_owned)
        .collect();
    for name in fused {
        let channels = shapes[&format!("{name}.bn.weight")].clone();
        let zeros = || Tensor { shape: channels.clone(), data: vec![0.0; channels[0]] };
        let bias = state.tensors.remove(&format!("{name}.conv.bias")).unwrap_or_else(zeros);
        // sqrt(variance + epsilon) cancels.
        let filled = |x: f32| Tensor { shape: channels.clone(), data: vec![x; channels[0]] };
        let parts = [
            ("weight", filled((1.0 + EPSILON).sqrt() as f32)),
            ("bias", bias),
            ("running_mean", filled(0.0)),
            ("running_var", filled(1.0)),
        ];
        state.tensors.extend(parts.map(|(part, tensor)| (format!("{name}.bn.{part}"), tensor)));
    }
    state.check(&shapes, is_optional).map_err(|e| foreign(state, &e.to_string()))?;
    Ok(spec)
}

/// Keys of public checkpoints that the network does not need.
fn is_optional(key: &str) -> bool {
    key.ends_with("dfl.conv.weight") || key.ends_with(".num_batches_tracked") || key.contains(".anchors")
}

fn foreign(state: &State, cause: &str) -> WeightsError {
    let mut found: Vec<&str> = state.tensors.keys().map(String::as_str).take(4).collect();
    if state.tensors.len() > found.len() {
        found.push("...");
    }
    let short: String = cause.chars().take(300).collect();
    let cause = if short.len() < cause.len() { format!("{short}...") } else { short };
    WeightsError::Network { cause, found: if found.is_empty() { "none".into() } else { found.join(", ") } }
}

/// The network by the shapes of its first and last convolutions.
fn guessed(state: &State) -> Option<Spec> {
    let first = |key: &str| state.tensors.get(key).and_then(|t| t.shape.first().copied());
    let size = size_of_width(first("model.0.conv.weight")?)?;
    let classes = first("model.22.cv3.0.2.bias").filter(|&n| n > 0)?;
    Some(Spec { size, classes })
}

impl Spec {
    /// Keys and shapes of all weights and statistics.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        use super::spec::Tail;
        let mut shapes = BTreeMap::new();
        for conv in self.graph().convs() {
            let (name, channels) = (&conv.name, conv.output.channels);
            let kernel = vec![channels, conv.input.channels, conv.kernel, conv.kernel];
            match conv.tail {
                Tail::NormSilu(_) => {
                    shapes.insert(format!("{name}.conv.weight"), kernel);
                    for part in ["weight", "bias", "running_mean", "running_var"] {
                        shapes.insert(format!("{name}.bn.{part}"), vec![channels]);
                    }
                }
                Tail::Bias(_) => {
                    shapes.insert(format!("{name}.weight"), kernel);
                    shapes.insert(format!("{name}.bias"), vec![channels]);
                }
            }
        }
        shapes
    }
}

impl Weights {
    /// The network with these weights.
    pub fn network(&self) -> Result<Native, StateError> {
        Native::from_state(self.spec, &self.state)
    }
}
