//! Convolutions in 8 bits: ranges from calibration pictures, and pairs of quantise and dequantise around convolutions.
//!
//! Weights are whole numbers of -127 to 127 with one scale an output channel, activations of 0 to 255 with one scale and
//! zero each (ONNX's "QDQ" form, which runtimes turn into convolutions of whole numbers). Owns the choice of ranges: of
//! many the one with the smallest squared error over the pictures, seen behind the activation where there is one. The
//! last convolutions give floats, since half a step there is pixels and scores.

use super::{ExportError, evaluate, evaluate::Array};
use crate::yolov8::{
    decode::sigmoid,
    onnx::{Attribute, Graph, Node, TensorProto},
};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// Bins of the histogram of a value.
const BINS: usize = 2048;
/// Ranges that are tried: the whole one, and so many shorter ones in equal steps at either end.
const STEPS: usize = 24;
/// Largest whole number of a weight.
const WEIGHT_MAX: f32 = 127.0;

/// What is known of a value over all pictures.
#[derive(Clone, Debug)]
struct Seen {
    lo: f32,
    hi: f32,
    counts: Vec<f64>,
    /// Whether an activation follows: errors count behind it.
    activated: bool,
}

/// Scale and zero point of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    scale: f32,
    zero: u8,
}

/// A range that has 0 exactly, since padding is 0.
fn range(lo: f32, hi: f32) -> Range {
    let (lo, hi) = (lo.min(0.0), hi.max(0.0));
    let scale = ((hi - lo) / 255.0).max(1e-9);
    Range { scale, zero: (-lo / scale).round().clamp(0.0, 255.0) as u8 }
}

impl Range {
    fn rounded(self, x: f32) -> f32 {
        let zero = f32::from(self.zero);
        (((x / self.scale).round_ties_even() + zero).clamp(0.0, 255.0) - zero) * self.scale
    }
}

impl Seen {
    fn centre(&self, bin: usize) -> f32 {
        self.lo + (self.hi - self.lo) * (bin as f32 + 0.5) / BINS as f32
    }

    fn add(&mut self, other: &Self) {
        (self.lo, self.hi) = (self.lo.min(other.lo), self.hi.max(other.hi));
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    fn count(&mut self, data: &[f32]) {
        let scale = BINS as f32 / (self.hi - self.lo).max(f32::MIN_POSITIVE);
        for &x in data {
            let bin = ((x - self.lo) * scale) as usize;
            self.counts[bin.min(BINS - 1)] += 1.0;
        }
    }

    /// The range with the smallest squared error.
    fn best(&self) -> Range {
        let out = |x: f32| f64::from(if self.activated { x * sigmoid(x) } else { x });
        let bins: Vec<(f32, f64, f64)> = (0..BINS)
            .filter(|&i| self.counts[i] > 0.0)
            .map(|i| (self.centre(i), out(self.centre(i)), self.counts[i]))
            .collect();
        let step = |end: f32, k: usize| end * (1.0 - k as f32 / (STEPS as f32 + 1.0));
        let mut best = (f64::INFINITY, range(self.lo, self.hi));
        for low in 0..=STEPS {
            for high in 0..=STEPS {
                if (low > 0 && self.lo >= 0.0) || (high > 0 && self.hi <= 0.0) {
                    continue;
                }
                let tried = range(step(self.lo, low), step(self.hi, high));
                let error = bins.iter().map(|&(x, y, n)| n * (out(tried.rounded(x)) - y).powi(2)).sum();
                if error < best.0 {
                    best = (error, tried);
                }
            }
        }
        best.1
    }
}

/// The convolutions' inputs, and their outputs where an activation follows.
fn watched(graph: &Graph) -> BTreeMap<String, bool> {
    let activated: BTreeSet<&str> =
        graph.node.iter().filter(|n| n.op_type == "Sigmoid").map(|n| n.input[0].as_str()).collect();
    let mut watched = BTreeMap::new();
    for node in graph.node.iter().filter(|n| n.op_type == "Conv") {
        watched.insert(node.input[0].clone(), false);
        if activated.contains(node.output[0].as_str()) {
            watched.insert(node.output[0].clone(), true);
        }
    }
    watched
}

/// Notes what is seen of a value.
type Look<'a> = dyn Fn(&str, &[f32], &mut BTreeMap<String, Seen>) + Sync + 'a;

/// The range of every watched value over the pictures: their ends first, then how often which number comes.
fn ranges(graph: &Graph, pictures: &[Array]) -> Result<BTreeMap<String, (Range, bool)>, ExportError> {
    let watched = watched(graph);
    let over_all = |look: &Look| {
        let one = |picture: &Array| -> Result<BTreeMap<String, Seen>, ExportError> {
            let mut seen = BTreeMap::new();
            let mut show = |name: &str, value: &Array| {
                if let (true, Ok(data)) = (watched.contains_key(name), value.f()) {
                    look(name, data, &mut seen);
                }
            };
            if let Some(input) = graph.input.first() {
                show(&input.name, picture);
            }
            evaluate::run(graph, picture, &mut show)?;
            Ok(seen)
        };
        // Ends and whole counts add up to the same in any order.
        pictures.par_iter().map(one).try_reduce(BTreeMap::new, |mut all, more| {
            for (name, seen) in more {
                match all.entry(name) {
                    Entry::Vacant(new) => drop(new.insert(seen)),
                    Entry::Occupied(mut known) => known.get_mut().add(&seen),
                }
            }
            Ok(all)
        })
    };
    let ends = over_all(&|name, data, seen| {
        let lo = data.iter().copied().fold(0.0, f32::min);
        let hi = data.iter().copied().fold(0.0, f32::max);
        seen.insert(name.to_owned(), Seen { lo, hi, counts: Vec::new(), activated: watched[name] });
    })?;
    let seen = over_all(&|name, data, seen| {
        let mut counted = Seen { counts: vec![0.0; BINS], ..ends[name].clone() };
        counted.count(data);
        seen.insert(name.to_owned(), counted);
    })?;
    let list: Vec<(String, Seen)> = seen.into_iter().collect();
    Ok(list.into_par_iter().map(|(name, seen)| (name, (seen.best(), seen.activated))).collect())
}

/// Turns a graph in floats into one whose convolutions are in 8 bits.
pub(super) fn quantise(graph: &mut Graph, pictures: &[Array]) -> Result<(), ExportError> {
    let ranges = ranges(graph, pictures)?;
    let constants: BTreeMap<String, TensorProto> =
        std::mem::take(&mut graph.initializer).into_iter().map(|t| (t.name.clone(), t)).collect();
    let mut kept = constants.clone();
    let mut new: Vec<TensorProto> = Vec::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut pairs = BTreeSet::new();
    // The name of a value that went through 8 bits.
    let mut pair = |name: &str, range: Range, nodes: &mut Vec<Node>, new: &mut Vec<TensorProto>| {
        let through = format!("{name}/8");
        if pairs.insert(name.to_owned()) {
            let (scale, zero, whole) = (format!("{name}/scale"), format!("{name}/zero"), format!("{name}/whole"));
            new.push(TensorProto::floats(&scale, &[], &[range.scale]));
            new.push(TensorProto::byte(&zero, range.zero));
            nodes.push(node("QuantizeLinear", &whole, &[name, &scale, &zero], vec![]));
            nodes.push(node("DequantizeLinear", &through, &[&whole, &scale, &zero], vec![]));
        }
        through
    };
    for mut op in std::mem::take(&mut graph.node) {
        if op.op_type != "Conv" {
            for input in &mut op.input {
                if let Some(name) = renamed.get(input.as_str()) {
                    input.clone_from(name);
                }
            }
            nodes.push(op);
            continue;
        }
        let missing = |name: &str| ExportError::Missing(name.to_owned());
        let (input, _) = *ranges.get(&op.input[0]).ok_or_else(|| missing(&op.input[0]))?;
        let output = op.output[0].clone();
        op.input[0] = pair(&op.input[0].clone(), input, &mut nodes, &mut new);
        let take = |name: &str| constants.get(name).and_then(TensorProto::to_floats).ok_or_else(|| missing(name));
        let (weight, bias) = (take(&op.input[1])?, take(&op.input[2])?);
        let shape = constants[&op.input[1]].shape().ok_or_else(|| missing(&op.input[1]))?;
        let row = weight.len() / bias.len();
        let scales: Vec<f32> = weight
            .chunks_exact(row)
            .map(|r| (r.iter().fold(0.0_f32, |m, w| m.max(w.abs())) / WEIGHT_MAX).max(1e-9))
            .collect();
        let whole = |(i, &w): (usize, &f32)| (w / scales[i / row]).round().clamp(-WEIGHT_MAX, WEIGHT_MAX) as i8;
        let wholes: Vec<i8> = weight.iter().enumerate().map(whole).collect();
        let products: Vec<f32> = scales.iter().map(|s| s * input.scale).collect();
        let biases: Vec<i32> = bias.iter().zip(&products).map(|(b, s)| (b / s).round() as i32).collect();
        for (k, scales) in [(1, &scales), (2, &products)] {
            let name = op.input[k].clone();
            kept.remove(&name);
            let (whole, scale, zero) = (format!("{name}/whole"), format!("{name}/scale"), format!("{name}/zero"));
            let zeros = vec![0; scales.len()];
            new.push(TensorProto::floats(&scale, &[scales.len()], scales));
            let mut read = vec![whole.clone(), scale];
            if k == 1 {
                new.push(TensorProto::bytes(&whole, &shape, &wholes));
                new.push(TensorProto::bytes(&zero, &[zeros.len()], &zeros));
                read.push(zero);
            } else {
                new.push(TensorProto::ints32(&whole, &[biases.len()], &biases));
            }
            let read: Vec<&str> = read.iter().map(String::as_str).collect();
            op.input[k] = format!("{name}/8");
            nodes.push(node("DequantizeLinear", &op.input[k], &read, vec![Attribute::int("axis", 0)]));
        }
        nodes.push(op);
        if let Some((range, true)) = ranges.get(&output) {
            let through = pair(&output, *range, &mut nodes, &mut new);
            renamed.insert(output, through);
        }
    }
    graph.node = nodes;
    graph.initializer = kept.into_values().chain(new).collect();
    Ok(())
}

fn node(op: &str, name: &str, input: &[&str], attribute: Vec<Attribute>) -> Node {
    Node {
        input: input.iter().map(|&i| i.to_owned()).collect(),
        output: vec![name.to_owned()],
        name: name.to_owned(),
        op_type: op.to_owned(),
        attribute,
        domain: String::new(),
    }
}
