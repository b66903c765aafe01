//! ONNX files as weights: the convolutions of an exported network are found by what they read and what reads them.
//!
//! Both graphs, the file's and that of the description, are walked from the six last convolutions back to the picture
//! in step; names in the file, which optimisers change, play no part. Normalisations that an export has merged into
//! the convolutions come back as ones that change nothing; weights in 8 bits come back as the numbers that they stand
//! for. Owns that walk. Refuses to run anything.

use crate::yolov8::{
    BINS, BOX_CHANNELS, STRIDES, Spec, State, Tensor,
    onnx::{Graph, Model, Node, TensorProto},
    spec::{self, Op, Tail, View},
    wiring::{Atom, Segment, joined, origin, part, width},
};
use prost::Message;
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

/// Why an ONNX file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// Not the format.
    #[error("it is no ONNX file, or a damaged one")]
    Format(#[from] prost::DecodeError),
    /// Something else than YOLOv8 detection.
    #[error("the graph is not that of YOLOv8 detection: {0}")]
    Graph(String),
    /// Numbers that are not there or of another kind.
    #[error("{0}")]
    Numbers(String),
}

fn other<T>(text: impl Into<String>) -> Result<T, OnnxError> {
    Err(OnnxError::Graph(text.into()))
}

/// What an ONNX file holds.
#[derive(Debug)]
pub struct Imported {
    /// Weights under public keys, normalisations included.
    pub state: State,
    /// Which network.
    pub spec: Spec,
    /// What the file says about itself.
    pub metadata: BTreeMap<String, String>,
    /// Whether weights came from 8 bits.
    pub dequantised: bool,
}

/// Operations through which channels pass as they are.
const TRANSPARENT: [&str; 6] =
    ["Identity", "Cast", "BatchNormalization", "QuantizeLinear", "DequantizeLinear", "Dropout"];
/// Operations between a convolution and the next, at most; twice what the network has.
const DEPTH: usize = 100;
/// Values looked at in all; the largest network takes some thousands.
const STEPS: usize = 1_000_000;

struct File<'a> {
    nodes: &'a [Node],
    /// Node and number of its output, by name.
    producer: BTreeMap<&'a str, (usize, usize)>,
    consumers: BTreeMap<&'a str, Vec<usize>>,
    constants: BTreeMap<&'a str, &'a TensorProto>,
    inputs: BTreeSet<&'a str>,
    /// Values traced so far: graphs made to be slow are refused.
    steps: Cell<usize>,
    /// Whether weights were read that are kept as whole numbers.
    dequantised: Cell<bool>,
}

impl<'a> File<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut producer = BTreeMap::new();
        let mut consumers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut constants: BTreeMap<&str, &TensorProto> =
            graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        for (i, node) in graph.node.iter().enumerate() {
            for (k, name) in node.output.iter().enumerate() {
                producer.insert(name.as_str(), (i, k));
            }
            for name in &node.input {
                consumers.entry(name).or_default().push(i);
            }
            if let ("Constant", Some(t), Some(name)) =
                (node.op_type.as_str(), node.attribute("value").and_then(|a| a.t.as_ref()), node.output.first())
            {
                constants.insert(name, t);
            }
        }
        let inputs = graph.input.iter().map(|i| i.name.as_str()).filter(|n| !constants.contains_key(n)).collect();
        Self {
            nodes: &graph.node,
            producer,
            consumers,
            constants,
            inputs,
            steps: Cell::new(0),
            dequantised: Cell::new(false),
        }
    }

    /// The constant of a name; exports share equal ones.
    fn constant(&self, mut name: &'a str) -> Option<&'a TensorProto> {
        for _ in 0..DEPTH {
            if let Some(&t) = self.constants.get(name) {
                return Some(t);
            }
            let node = &self.nodes[self.producer.get(name)?.0];
            name = node.input.first().filter(|_| ["Identity", "Cast"].contains(&node.op_type.as_str()))?;
        }
        None
    }

    fn weights(&self, node: &'a Node, input: usize, what: &str) -> Result<(Vec<usize>, Vec<f32>), OnnxError> {
        let name = node.input.get(input).map_or("", String::as_str);
        let numbers = |text: String| OnnxError::Numbers(text);
        let Some(t) = self.constant(name) else {
            self.dequantised.set(true);
            return self.whole(name).ok_or_else(|| {
                numbers(format!(
                    "the {what} of `{}` are neither constants nor whole numbers with scales, use a file in 32 or 16 bits",
                    node.name
                ))
            });
        };
        let data = t.to_floats().zip(t.shape());
        let (data, shape) = data.ok_or_else(|| {
            numbers(format!("the {what} of `{}` are no floats in this file (tensor `{}`)", node.name, t.name))
        })?;
        Ok((shape, data))
    }

    /// What constant whole numbers with their scales stand for (`DequantizeLinear`): of all, or along one axis.
    fn whole(&self, name: &'a str) -> Option<(Vec<usize>, Vec<f32>)> {
        let node = &self.nodes[self.producer.get(name)?.0];
        if node.op_type != "DequantizeLinear" {
            return None;
        }
        let tensor = |k: usize| node.input.get(k).filter(|n| !n.is_empty()).map(|n| self.constant(n));
        let (x, scale) = (tensor(0)??, tensor(1)??);
        let (shape, whole, scales) = (x.shape()?, x.to_ints()?, scale.to_floats()?);
        let zeros = match tensor(2) {
            Some(zero) => zero?.to_ints()?,
            None => vec![0; scales.len()],
        };
        let axis = match scales.len() {
            1 => None,
            _ => Some(usize::try_from(node.int("axis", 1)).ok()?),
        };
        let count = axis.map_or(Some(1), |axis| shape.get(axis).copied())?;
        if scales.len() != count || zeros.len() != count || whole.is_empty() {
            return None;
        }
        let inner: usize = axis.map_or(whole.len(), |axis| shape[axis + 1..].iter().product());
        let value = |(i, x): (usize, i64)| {
            let channel = i / inner % count;
            x.saturating_sub(zeros[channel]) as f32 * scales[channel]
        };
        Some((shape, whole.into_iter().enumerate().map(value).collect()))
    }

    fn input_of(node: &'a Node) -> Result<&'a str, OnnxError> {
        match node.input.first() {
            Some(name) => Ok(name),
            None => other(format!("`{}` ({}) reads nothing", node.name, node.op_type)),
        }
    }

    /// Where the channels of a value come from.
    fn trace(&self, name: &'a str, depth: usize) -> Result<Vec<Segment>, OnnxError> {
        self.steps.set(self.steps.get() + 1);
        if depth > DEPTH || self.steps.get() > STEPS {
            return other("more operations lie between two convolutions than the network has");
        }
        let Some(&(i, output)) = self.producer.get(name) else {
            return if self.inputs.contains(name) {
                Ok(vec![Segment { atom: Atom::Input, from: 0, to: 3 }])
            } else {
                other(format!("nothing makes `{name}`"))
            };
        };
        let node = &self.nodes[i];
        let first = Self::input_of(node)?;
        let whole = |to| vec![Segment { atom: Atom::Op(i), from: 0, to }];
        let found = match node.op_type.as_str() {
            "Conv" => whole(self.weights(node, 1, "weights")?.0.first().copied().unwrap_or(0)),
            "MaxPool" | "Resize" | "Upsample" | "Add" => whole(width(&self.trace(first, depth + 1)?)),
            "Swish" => self.trace(first, depth + 1)?,
            "Mul" => match self.silu(node) {
                Some(x) => self.trace(x, depth + 1)?,
                None => return other(format!("`{}` multiplies where no activation is", node.name)),
            },
            op if TRANSPARENT.contains(&op) => self.trace(first, depth + 1)?,
            "Concat" if [1, -3].contains(&node.int("axis", 0)) => {
                let mut all = Vec::new();
                for name in &node.input {
                    all.extend(self.trace(name, depth + 1)?);
                }
                all
            }
            "Split" if [1, -3].contains(&node.int("axis", 0)) => {
                let segments = self.trace(first, depth + 1)?;
                let given = node.input.get(1).and_then(|n| self.constant(n)).and_then(TensorProto::to_ints);
                let equal = vec![(width(&segments) / node.output.len().max(1)) as i64; node.output.len()];
                let attribute = node.ints("split");
                let sizes = given.unwrap_or_else(|| if attribute.is_empty() { equal } else { attribute.to_vec() });
                let start: i64 = sizes.iter().take(output).sum();
                let end = start + sizes.get(output).copied().unwrap_or(0);
                part(&segments, start.max(0) as usize, end.max(0) as usize)
            }
            "Slice" => {
                let segments = self.trace(first, depth + 1)?;
                let list = |k: usize| node.input.get(k).and_then(|n| self.constant(n)).and_then(TensorProto::to_ints);
                match (list(1).as_deref(), list(2).as_deref(), list(3).as_deref()) {
                    (Some(&[from]), Some(&[to]), Some(&[1 | -3])) => {
                        let all = width(&segments) as i64;
                        let place = |n: i64| if n < 0 { n + all } else { n }.clamp(0, all) as usize;
                        part(&segments, place(from), place(to))
                    }
                    _ => return other(format!("`{}` cuts other things than channels", node.name)),
                }
            }
            op => return other(format!("it has `{op}` (`{}`) between convolutions", node.name)),
        };
        Ok(joined(found))
    }

    /// What a product of a value and its logistic function is the activation of.
    fn silu(&self, node: &'a Node) -> Option<&'a str> {
        let [a, b] = &node.input[..] else { return None };
        let mut orders = [(a, b), (b, a)].into_iter();
        let (x, _) = orders.find(|(x, s)| {
            let mut name = s.as_str();
            for _ in 0..DEPTH {
                let Some(&(i, _)) = self.producer.get(name) else { return false };
                let node = &self.nodes[i];
                match (node.op_type.as_str(), node.input.first()) {
                    ("Sigmoid", Some(from)) => return from == *x,
                    (op, Some(from)) if TRANSPARENT.contains(&op) => name = from,
                    _ => return false,
                }
            }
            false
        })?;
        Some(x)
    }

    /// Whether what a convolution makes goes through an activation.
    fn is_activated(&self, node: &'a Node) -> bool {
        let mut names: Vec<&str> = node.output.iter().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = names.pop() {
            for &i in self.consumers.get(name).into_iter().flatten().filter(|i| seen.insert(**i)) {
                let node = &self.nodes[i];
                match node.op_type.as_str() {
                    "Swish" => return true,
                    "Mul" if self.silu(node).is_some() => return true,
                    op if TRANSPARENT.contains(&op) => names.extend(node.output.iter().map(String::as_str)),
                    _ => {}
                }
            }
        }
        false
    }

    /// Input pixels per cell of what an operation makes.
    fn stride(&self, atom: Atom, known: &mut BTreeMap<Atom, usize>, depth: usize) -> Result<usize, OnnxError> {
        let Atom::Op(i) = atom else { return Ok(1) };
        if let Some(&stride) = known.get(&atom) {
            return Ok(stride);
        }
        if depth > 4 * DEPTH {
            return other("it is deeper than the network, or runs in a circle");
        }
        let node = &self.nodes[i];
        let from = self.trace(Self::input_of(node)?, 0)?;
        let Some(from) = from.first() else { return other(format!("`{}` reads no channels", node.name)) };
        let before = self.stride(from.atom, known, depth + 1)?;
        let step = node.ints("strides").first().copied().unwrap_or(1).max(1) as usize;
        let stride = match node.op_type.as_str() {
            "Conv" | "MaxPool" => before * step,
            "Resize" | "Upsample" => (before / 2).max(1),
            _ => before,
        };
        known.insert(atom, stride);
        Ok(stride)
    }

    /// The last convolutions: of the boxes and of the classes at each of the three levels.
    fn last(&self) -> Result<[[usize; 2]; 3], OnnxError> {
        let mut levels: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        let mut known = BTreeMap::new();
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.op_type == "Conv") {
            let (shape, _) = self.weights(node, 1, "weights")?;
            // The expectation over the bins is written as a convolution, too.
            if shape[..] == [1, BINS, 1, 1] || self.is_activated(node) {
                continue;
            }
            let stride = self.stride(Atom::Op(i), &mut known, 0)?;
            levels.entry(stride).or_default().push((i, shape.first().copied().unwrap_or(0)));
        }
        let mut found = [[0; 2]; 3];
        for (level, stride) in STRIDES.into_iter().enumerate() {
            let Some(&[(first, channels), (second, _)]) = levels.get(&stride).map(Vec::as_slice) else {
                let has: Vec<String> = levels.iter().map(|(s, l)| format!("{} at stride {s}", l.len())).collect();
                let text = "convolutions without activation, where YOLOv8 has 2 at each of the strides 8, 16, 32";
                return other(format!("it has {} {text}", if has.is_empty() { "no".into() } else { has.join(", ") }));
            };
            // The branch of the boxes comes first in every export; it has 64 channels.
            found[level] = if channels == BOX_CHANNELS { [first, second] } else { [second, first] };
        }
        Ok(found)
    }

    /// The operand of a sum that is a whole 3x3 convolution, then the other.
    fn sum(&self, node: &'a Node) -> Result<(usize, &'a str), OnnxError> {
        let [a, b] = &node.input[..] else { return other(format!("`{}` adds other than two", node.name)) };
        for (x, rest) in [(a, b), (b, a)] {
            let traced = self.trace(x, 0)?;
            if let [Segment { atom: Atom::Op(i), from: 0, to }] = traced[..]
                && self.nodes[i].op_type == "Conv"
            {
                let (shape, _) = self.weights(&self.nodes[i], 1, "weights")?;
                if shape.first() == Some(&to) && shape.get(2) == Some(&3) {
                    return Ok((i, rest));
                }
            }
        }
        other(format!("`{}` adds other things than a shortcut", node.name))
    }
}

/// The node of every convolution of the description.
fn pairs(file: &File<'_>, graph: &spec::Graph, last: [[usize; 2]; 3]) -> Result<BTreeMap<usize, usize>, OnnxError> {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (buffer, nodes) in graph.heads.into_iter().zip(last) {
        let channels = graph.buffers[buffer].channels;
        let segments = origin(graph, View { buffer, offset: 0, channels });
        for (segment, node) in segments.iter().zip(nodes) {
            let Atom::Op(op) = segment.atom else { continue };
            open.push((op, node));
        }
    }
    while let Some((op, mut at)) = open.pop() {
        if !seen.insert((op, at)) {
            continue;
        }
        let mut inputs: Vec<(View, &str)> = Vec::new();
        match &graph.ops[op] {
            Op::Conv(conv) => {
                if let Tail::NormSilu(Some(added)) = conv.tail {
                    if file.nodes[at].op_type != "Add" {
                        return other(format!(
                            "`{}` is {}, where a shortcut is added",
                            file.nodes[at].name, file.nodes[at].op_type
                        ));
                    }
                    let (node, rest) = file.sum(&file.nodes[at])?;
                    inputs.push((added, rest));
                    at = node;
                }
                if found.insert(op, at).is_some_and(|before| before != at) {
                    return other(format!("two convolutions stand where `{}` is one", conv.name));
                }
                inputs.push((conv.input, File::input_of(&file.nodes[at])?));
            }
            Op::Upsample(from, _) | Op::MaxPool(from, _) => inputs.push((*from, File::input_of(&file.nodes[at])?)),
        }
        let node = &file.nodes[at];
        let fits = match &graph.ops[op] {
            Op::Conv(conv) => {
                let strides = node.ints("strides").first().is_none_or(|&s| s == conv.stride as i64);
                node.op_type == "Conv" && strides && node.int("group", 1) == 1
            }
            Op::Upsample(..) => ["Resize", "Upsample"].contains(&node.op_type.as_str()),
            Op::MaxPool(..) => node.op_type == "MaxPool" && node.ints("kernel_shape") == [5, 5],
        };
        if !fits {
            return other(format!("`{}` ({}) stands where YOLOv8 has another operation", node.name, node.op_type));
        }
        for (view, name) in inputs {
            let (ours, theirs) = (origin(graph, view), file.trace(name, 0)?);
            let same = |(a, b): (&Segment, &Segment)| (a.from, a.to) == (b.from, b.to);
            if ours.len() != theirs.len() || !ours.iter().zip(&theirs).all(same) {
                return other(format!("`{}` ({}) reads other channels than in YOLOv8", node.name, node.op_type));
            }
            for (ours, theirs) in ours.iter().zip(&theirs) {
                match (ours.atom, theirs.atom) {
                    (Atom::Op(a), Atom::Op(b)) => open.push((a, b)),
                    (Atom::Input, Atom::Input) => {}
                    _ => return other(format!("`{}` reads the picture, or does not, unlike in YOLOv8", node.name)),
                }
            }
        }
    }
    Ok(found)
}

/// Reads a file.
pub fn read(bytes: &[u8]) -> Result<Imported, OnnxError> {
    let model = Model::decode(bytes)?;
    let Some(graph) = &model.graph else { return other("the file holds no graph") };
    let file = File::new(graph);
    let last = file.last()?;
    let first_width = graph
        .node
        .iter()
        .filter(|n| n.op_type == "Conv")
        .find(|n| {
            n.input
                .first()
                .is_some_and(|x| file.trace(x, 0).is_ok_and(|t| matches!(t[..], [Segment { atom: Atom::Input, .. }])))
        })
        .map(|n| file.weights(n, 1, "weights"))
        .transpose()?
        .and_then(|(shape, _)| shape.first().copied());
    let classes = file.weights(&file.nodes[last[0][1]], 1, "weights")?.0.first().copied().unwrap_or(0);
    let size = first_width.and_then(super::size_of_width);
    let Some(size) = size.filter(|_| classes > 0) else {
        return other(format!("its first convolution has {first_width:?} channels, YOLOv8's 16, 32, 48, 64 or 80"));
    };
    let spec = Spec { size, classes };
    let ours = spec.graph();
    let nodes = pairs(&file, &ours, last)?;
    let mut state = State::default();
    for (i, op) in ours.ops.iter().enumerate() {
        let Op::Conv(conv) = op else { continue };
        let Some(&node) = nodes.get(&i) else { return other(format!("it has no `{}`", conv.name)) };
        take(&file, &file.nodes[node], conv, &mut state)?;
    }
    let metadata = model.metadata_props.into_iter().map(|e| (e.key, e.value)).collect();
    Ok(Imported { state, spec, metadata, dequantised: file.dequantised.get() })
}

/// The weights of one convolution with its normalisation.
fn take(file: &File<'_>, node: &Node, conv: &spec::Conv, state: &mut State) -> Result<(), OnnxError> {
    let (shape, data) = file.weights(node, 1, "weights")?;
    let channels = conv.output.channels;
    if shape != [channels, conv.input.channels, conv.kernel, conv.kernel] {
        let expected = [channels, conv.input.channels, conv.kernel, conv.kernel];
        return other(format!("`{}` has weights of {shape:?}, YOLOv8's `{}` of {expected:?}", node.name, conv.name));
    }
    let bias = match node.input.get(2).filter(|n| !n.is_empty()) {
        Some(_) => file.weights(node, 2, "bias")?.1,
        None => vec![0.0; channels],
    };
    if bias.len() != channels {
        return other(format!("`{}` has {} biases for {channels} channels", node.name, bias.len()));
    }
    let mut put = |key: &str, shape: Vec<usize>, data: Vec<f32>| {
        state.tensors.insert(format!("{}.{key}", conv.name), Tensor { shape, data });
    };
    if let Tail::Bias(_) = conv.tail {
        put("weight", shape, data);
        put("bias", vec![channels], bias);
        return Ok(());
    }
    put("conv.weight", shape, data);
    let norm = node.output.first().and_then(|name| file.consumers.get(name.as_str())).into_iter().flatten();
    match norm.map(|&i| &file.nodes[i]).find(|n| n.op_type == "BatchNormalization") {
        None => put("conv.bias", vec![channels], bias),
        Some(norm) => {
            let [weight, shift, mean, var] = [1, 2, 3, 4].map(|k| file.weights(norm, k, "numbers"));
            let epsilon = norm.attribute("epsilon").map_or(1e-5, |a| a.f);
            let mean: Vec<f32> = mean?.1.iter().zip(&bias).map(|(m, b)| m - b).collect();
            let var: Vec<f32> = var?.1.iter().map(|v| v + epsilon - super::EPSILON as f32).collect();
            for (key, data) in [("weight", weight?.1), ("bias", shift?.1), ("running_mean", mean), ("running_var", var)]
            {
                put(&format!("bn.{key}"), vec![data.len()], data);
            }
        }
    }
    Ok(())
}
