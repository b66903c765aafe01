//! Runs an exported graph, plainly: to see that it computes what the network computes, and to watch its values.
//!
//! Owns the operators that exports here are made of, by the published ONNX definitions. Refuses all others: an export
//! with one is a mistake. Speed matters only for convolutions, whose products a library computes.

use crate::yolov8::{
    export::product::convolution,
    onnx::{Graph, Node, TensorProto, kind},
};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Why a graph could not be run.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// An operation reads what nobody makes.
    #[error("operation `{node}` reads `{name}`, which nothing before it makes")]
    Unknown {
        /// Operation.
        node: String,
        /// Value.
        name: String,
    },
    /// Shapes or types that do not fit the operator.
    #[error("operation `{node}` ({op}): {what}")]
    Operation {
        /// Operation.
        node: String,
        /// Operator.
        op: String,
        /// What is wrong.
        what: String,
    },
}

/// Numbers; those of 8, 16 and 32 bits are kept as floats of 32.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floats.
    F(Vec<f32>),
    /// Whole numbers of 64 bits.
    I(Vec<i64>),
}

/// Numbers with a shape, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many numbers as the product of the sizes.
    pub data: Data,
}

impl Array {
    /// Floats.
    pub fn floats(shape: Vec<usize>, data: Vec<f32>) -> Self {
        Self { shape, data: Data::F(data) }
    }

    fn ints(shape: Vec<usize>, data: Vec<i64>) -> Self {
        Self { shape, data: Data::I(data) }
    }

    /// Its floats.
    pub fn f(&self) -> Result<&[f32], String> {
        match &self.data {
            Data::F(data) => Ok(data),
            Data::I(_) => Err("whole numbers where floats are needed".into()),
        }
    }

    fn i(&self) -> Result<&[i64], String> {
        match &self.data {
            Data::I(data) => Ok(data),
            Data::F(_) => Err("floats where whole numbers are needed".into()),
        }
    }

    fn of(t: &TensorProto) -> Result<Self, String> {
        let wrong = || format!("constant `{}` cannot be read", t.name);
        let shape = t.shape().ok_or_else(wrong)?;
        let data = match t.data_type {
            kind::INT64 => Data::I(t.to_ints().ok_or_else(wrong)?),
            kind::INT8 | kind::UINT8 | kind::INT32 => {
                Data::F(t.to_ints().ok_or_else(wrong)?.into_iter().map(|x| x as f32).collect())
            }
            _ => Data::F(t.to_floats().ok_or_else(wrong)?),
        };
        Ok(Self { shape, data })
    }
}

/// Runs `graph` on `input`, and shows every value to `watch` as it is made. Returns the outputs in order.
pub fn run(graph: &Graph, input: &Array, watch: &mut dyn FnMut(&str, &Array)) -> Result<Vec<Array>, EvaluateError> {
    let fails = |node: &Node, what: String| EvaluateError::Operation {
        node: node.name.clone(),
        op: node.op_type.clone(),
        what,
    };
    // How often each value is still read: the others give their memory back.
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    let names = graph.node.iter().flat_map(|n| &n.input).chain(graph.output.iter().map(|o| &o.name));
    names.for_each(|name| *uses.entry(name).or_default() += 1);
    let constants: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut values: BTreeMap<&str, Array> = BTreeMap::new();
    if let Some(first) = graph.input.first() {
        values.insert(&first.name, input.clone());
    }
    for node in &graph.node {
        for name in node.input.iter().map(String::as_str).filter(|n| !n.is_empty()) {
            if values.contains_key(name) {
                continue;
            }
            // Constants are made when they are read, and again when they are read again.
            let Some(constant) = constants.get(name) else {
                return Err(EvaluateError::Unknown { node: node.name.clone(), name: name.to_owned() });
            };
            values.insert(name, Array::of(constant).map_err(|what| fails(node, what))?);
        }
        let inputs: Vec<Option<&Array>> = node.input.iter().map(|n| values.get(n.as_str())).collect();
        let outputs = operation(node, &inputs).map_err(|what| fails(node, what))?;
        if outputs.len() != node.output.len() {
            return Err(fails(node, format!("{} results for {} names", outputs.len(), node.output.len())));
        }
        for (name, value) in node.output.iter().zip(outputs) {
            let len: usize = value.shape.iter().product();
            let found = match &value.data {
                Data::F(d) => d.len(),
                Data::I(d) => d.len(),
            };
            if len != found {
                return Err(fails(node, format!("{found} numbers for the shape {:?}", value.shape)));
            }
            watch(name, &value);
            values.insert(name, value);
        }
        for name in &node.input {
            if let Some(left) = uses.get_mut(name.as_str()) {
                *left -= 1;
                if *left == 0 || constants.contains_key(name.as_str()) {
                    values.remove(name.as_str());
                }
            }
        }
    }
    let taken = graph.output.iter().map(|o| {
        let missing = || EvaluateError::Unknown { node: "the end".into(), name: o.name.clone() };
        values.get(o.name.as_str()).cloned().ok_or_else(missing)
    });
    taken.collect()
}

type Inputs<'a> = [Option<&'a Array>];

fn get<'a>(inputs: &Inputs<'a>, i: usize) -> Result<&'a Array, String> {
    inputs.get(i).copied().flatten().ok_or_else(|| format!("input {i} is missing"))
}

fn operation(node: &Node, inputs: &Inputs) -> Result<Vec<Array>, String> {
    let one = |a: Array| Ok(vec![a]);
    let x = || get(inputs, 0);
    let axis = |default: i64, rank: usize| -> Result<usize, String> {
        let a = node.int("axis", default);
        usize::try_from(if a < 0 { a + rank as i64 } else { a })
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| format!("axis {a} of {rank}"))
    };
    match node.op_type.as_str() {
        "Conv" => {
            let (x, w) = (x()?, get(inputs, 1)?);
            let bias = get(inputs, 2)?.f()?;
            let (kernel, stride) = (node.ints("kernel_shape"), node.ints("strides"));
            let ([k, _], [s, _]) = (kernel, stride) else { return Err("kernel and stride are not given".into()) };
            convolution(x, w, bias, *k as usize, *s as usize).and_then(one)
        }
        "Sigmoid" => {
            let x = x()?;
            one(Array::floats(x.shape.clone(), x.f()?.par_iter().map(|&v| crate::yolov8::decode::sigmoid(v)).collect()))
        }
        "Add" => one(binary(inputs, |a, b| a + b, |a, b| a + b)?),
        "Sub" => one(binary(inputs, |a, b| a - b, |a, b| a - b)?),
        "Mul" => one(binary(inputs, |a, b| a * b, |a, b| a * b)?),
        "Div" => one(binary(inputs, |a, b| a / b, |a, b| a.checked_div(b).unwrap_or(0))?),
        "Min" => one(binary(inputs, f32::min, i64::min)?),
        "Greater" => one(binary(inputs, |a, b| f32::from(u8::from(a > b)), |a, b| i64::from(a > b))?),
        "Cast" => {
            let x = x()?;
            let data = match (node.int("to", 0) as i32, &x.data) {
                (kind::FLOAT, Data::I(d)) => Data::F(d.iter().map(|&v| v as f32).collect()),
                (kind::FLOAT16, Data::F(d)) => Data::F(d.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect()),
                (kind::FLOAT, Data::F(d)) => Data::F(d.clone()),
                (to, _) => return Err(format!("to type {to}")),
            };
            one(Array { shape: x.shape.clone(), data })
        }
        "Concat" => {
            let parts: Vec<&Array> = inputs.iter().flatten().copied().collect();
            let first = *parts.first().ok_or("nothing to join")?;
            concat(&parts, axis(0, first.shape.len())?).and_then(one)
        }
        "Split" => {
            let (x, sizes) = (x()?, get(inputs, 1)?.i()?);
            let axis = axis(0, x.shape.len())?;
            if sizes.iter().sum::<i64>() != x.shape[axis] as i64 {
                return Err(format!("{sizes:?} of {:?}", x.shape));
            }
            let mut from = 0;
            let part = |&n: &i64| {
                from += n as usize;
                slice(x, axis, from - n as usize, from)
            };
            sizes.iter().map(part).collect()
        }
        "Slice" => match (get(inputs, 1)?.i()?, get(inputs, 2)?.i()?, get(inputs, 3)?.i()?) {
            (&[from], &[to], &[axis]) => one(slice(x()?, axis as usize, from as usize, to as usize)?),
            _ => Err("one axis is known".into()),
        },
        "MaxPool" => one(max_pool(x()?)?),
        "Resize" => one(twice(x()?, get(inputs, 2)?)?),
        "Reshape" => {
            let x = x()?;
            let mut shape = Vec::new();
            let len: usize = x.shape.iter().product();
            for (i, &n) in get(inputs, 1)?.i()?.iter().enumerate() {
                shape.push(match n {
                    0 => *x.shape.get(i).ok_or("a size to keep is not there")?,
                    -1 => usize::MAX,
                    n => usize::try_from(n).map_err(|_| "a negative size")?,
                });
            }
            let known: usize = shape.iter().filter(|&&n| n != usize::MAX).product();
            shape.iter_mut().filter(|n| **n == usize::MAX).for_each(|n| *n = len / known.max(1));
            one(Array { shape, data: x.data.clone() })
        }
        "Transpose" => match node.ints("perm") {
            [0, 2, 1] if x()?.shape.len() == 3 => {
                let x = x()?;
                let (b, r, c) = (x.shape[0], x.shape[1], x.shape[2]);
                let d = x.f()?;
                let at = |i: usize| d[i / (r * c) * r * c + i % r * c + i % (r * c) / r];
                one(Array::floats(vec![b, c, r], (0..d.len()).map(at).collect()))
            }
            perm => Err(format!("axes {perm:?}")),
        },
        "Softmax" => {
            let x = x()?;
            one(softmax(x, axis(-1, x.shape.len())?)?)
        }
        "ReduceSum" => match get(inputs, 1)?.i()? {
            &[axis] if node.int("keepdims", 1) == 0 => one(reduce(x()?, axis as usize)?),
            axes => Err(format!("axes {axes:?}")),
        },
        "Shape" => {
            let shape: Vec<i64> = x()?.shape.iter().map(|&n| n as i64).collect();
            one(Array::ints(vec![shape.len()], shape))
        }
        "Gather" => {
            let (x, index) = (x()?, get(inputs, 1)?);
            let d = x.i()?;
            let at = |&i: &i64| d.get(i as usize).copied().ok_or_else(|| format!("index {i} of {}", d.len()));
            one(Array::ints(index.shape.clone(), index.i()?.iter().map(at).collect::<Result<_, _>>()?))
        }
        "Range" => match (x()?.i()?, get(inputs, 1)?.i()?, get(inputs, 2)?.i()?) {
            (&[from], &[to], &[1]) => one(Array::ints(vec![(to - from).max(0) as usize], (from..to).collect())),
            _ => Err("steps of one are known".into()),
        },
        "Unsqueeze" => {
            let x = x()?;
            let mut shape = x.shape.clone();
            match get(inputs, 1)?.i()? {
                &[axis] if axis as usize <= shape.len() => shape.insert(axis as usize, 1),
                axes => return Err(format!("axes {axes:?}")),
            }
            one(Array { shape, data: x.data.clone() })
        }
        "QuantizeLinear" => {
            let (x, scale, zero) = (x()?, get(inputs, 1)?.f()?, get(inputs, 2)?.f()?);
            let (&[scale], &[zero]) = (scale, zero) else { return Err("one scale is known".into()) };
            let q = |&v: &f32| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0);
            one(Array::floats(x.shape.clone(), x.f()?.iter().map(q).collect()))
        }
        "DequantizeLinear" => {
            let (x, scale) = (x()?, get(inputs, 1)?.f()?);
            // Whole numbers of 32 bits have no zero point.
            let zero = get(inputs, 2).ok().map(Array::f).transpose()?;
            let d = x.f()?;
            let row = d.len() / scale.len().max(1);
            let back = |(i, &v): (usize, &f32)| (v - zero.map_or(0.0, |z| z[i / row])) * scale[i / row];
            if zero.is_some_and(|z| z.len() != scale.len()) || (scale.len() > 1 && x.shape[0] != scale.len()) {
                return Err("one scale a row, or one at all, is known".into());
            }
            one(Array::floats(x.shape.clone(), d.iter().enumerate().map(back).collect()))
        }
        "NonMaxSuppression" | "GatherND" | "ScatterND" | "TopK" | "GatherElements" => {
            super::selection::operation(node, inputs)
        }
        _ => Err("the operator is not one that exports are made of".into()),
    }
}

/// Sizes and the position of each result in both operands.
fn broadcast(a: &[usize], b: &[usize]) -> Result<(Vec<usize>, [Vec<usize>; 2]), String> {
    let rank = a.len().max(b.len());
    let padded = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    let (a, b) = (padded(a), padded(b));
    let mut shape = Vec::with_capacity(rank);
    for (&m, &n) in a.iter().zip(&b) {
        if m != n && m != 1 && n != 1 {
            return Err(format!("{a:?} and {b:?}"));
        }
        shape.push(if m == 1 { n } else { m });
    }
    let steps = |s: &[usize]| {
        let mut step = 1;
        let mut steps = vec![0; rank];
        for i in (0..rank).rev() {
            steps[i] = if s[i] == 1 { 0 } else { step };
            step *= s[i];
        }
        steps
    };
    Ok((shape, [steps(&a), steps(&b)]))
}

fn binary(inputs: &Inputs, f: impl Fn(f32, f32) -> f32, g: impl Fn(i64, i64) -> i64) -> Result<Array, String> {
    let (a, b) = (get(inputs, 0)?, get(inputs, 1)?);
    if a.shape == b.shape
        && let (Data::F(p), Data::F(q)) = (&a.data, &b.data)
    {
        return Ok(Array::floats(a.shape.clone(), p.iter().zip(q).map(|(&p, &q)| f(p, q)).collect()));
    }
    let (shape, [sa, sb]) = broadcast(&a.shape, &b.shape)?;
    let len: usize = shape.iter().product();
    let mut index = vec![0_usize; shape.len()];
    let mut places = Vec::with_capacity(len);
    for _ in 0..len {
        let at = |steps: &[usize]| index.iter().zip(steps).map(|(i, s)| i * s).sum::<usize>();
        places.push((at(&sa), at(&sb)));
        for (i, &n) in index.iter_mut().zip(&shape).rev() {
            *i += 1;
            if *i < n {
                break;
            }
            *i = 0;
        }
    }
    let data = match (&a.data, &b.data) {
        (Data::F(p), Data::F(q)) => Data::F(places.into_iter().map(|(i, k)| f(p[i], q[k])).collect()),
        (Data::I(p), Data::I(q)) => Data::I(places.into_iter().map(|(i, k)| g(p[i], q[k])).collect()),
        _ => return Err("floats with whole numbers".into()),
    };
    Ok(Array { shape, data })
}

/// Sizes before, at and behind an axis.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

fn concat(parts: &[&Array], axis: usize) -> Result<Array, String> {
    let mut shape = parts[0].shape.clone();
    let fits =
        |p: &Array| p.shape.len() == shape.len() && (0..shape.len()).all(|i| i == axis || p.shape[i] == shape[i]);
    if !parts.iter().all(|p| fits(p)) {
        return Err(format!("{:?} do not fit together", parts.iter().map(|p| &p.shape).collect::<Vec<_>>()));
    }
    shape[axis] = parts.iter().map(|p| p.shape[axis]).sum();
    let [outer, _, _] = around(&shape, axis);
    let mut data = Vec::with_capacity(shape.iter().product());
    for i in 0..outer {
        for p in parts {
            let [_, n, inner] = around(&p.shape, axis);
            data.extend_from_slice(&p.f()?[i * n * inner..(i + 1) * n * inner]);
        }
    }
    Ok(Array::floats(shape, data))
}

fn slice(x: &Array, axis: usize, from: usize, to: usize) -> Result<Array, String> {
    if axis >= x.shape.len() || from > to || to > x.shape[axis] {
        return Err(format!("{from} to {to} on axis {axis} of {:?}", x.shape));
    }
    let [outer, n, inner] = around(&x.shape, axis);
    let d = x.f()?;
    let data = (0..outer).flat_map(|i| &d[(i * n + from) * inner..(i * n + to) * inner]).copied().collect();
    let mut shape = x.shape.clone();
    shape[axis] = to - from;
    Ok(Array::floats(shape, data))
}

fn plane(x: &Array) -> Result<(usize, usize, usize), String> {
    match x.shape[..] {
        [b, c, h, w] => Ok((b * c, h, w)),
        _ => Err(format!("a map is needed, not {:?}", x.shape)),
    }
}

/// Largest number in windows of 5 x 5: along rows, then along columns.
fn max_pool(x: &Array) -> Result<Array, String> {
    let (planes, h, w) = plane(x)?;
    let d = x.f()?;
    let mut rows = vec![f32::NEG_INFINITY; d.len()];
    for i in 0..planes * h {
        for k in 0..w {
            let window = &d[i * w + k.saturating_sub(2)..i * w + (k + 3).min(w)];
            rows[i * w + k] = window.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        }
    }
    let mut out = vec![f32::NEG_INFINITY; d.len()];
    for p in 0..planes {
        for y in 0..h {
            for from in y.saturating_sub(2)..(y + 3).min(h) {
                for k in 0..w {
                    let (to, v) = (&mut out[(p * h + y) * w + k], rows[(p * h + from) * w + k]);
                    *to = to.max(v);
                }
            }
        }
    }
    Ok(Array::floats(x.shape.clone(), out))
}

/// Every cell twice in both directions.
fn twice(x: &Array, scales: &Array) -> Result<Array, String> {
    let (planes, h, w) = plane(x)?;
    if scales.f()? != [1.0, 1.0, 2.0, 2.0] {
        return Err("doubling is known".into());
    }
    let d = x.f()?;
    let at = |i: usize| {
        let (p, y, k) = (i / (4 * h * w), i / (2 * w) % (2 * h), i % (2 * w));
        d[(p * h + y / 2) * w + k / 2]
    };
    let shape = vec![x.shape[0], x.shape[1], 2 * h, 2 * w];
    Ok(Array::floats(shape, (0..4 * planes * h * w).map(at).collect()))
}

fn softmax(x: &Array, axis: usize) -> Result<Array, String> {
    let [outer, n, inner] = around(&x.shape, axis);
    let mut d = x.f()?.to_vec();
    for o in 0..outer {
        for i in 0..inner {
            let at = |k: usize| (o * n + k) * inner + i;
            let top = (0..n).map(|k| d[at(k)]).fold(f32::NEG_INFINITY, f32::max);
            (0..n).for_each(|k| d[at(k)] = (d[at(k)] - top).exp());
            let sum: f32 = (0..n).map(|k| d[at(k)]).sum();
            (0..n).for_each(|k| d[at(k)] /= sum);
        }
    }
    Ok(Array::floats(x.shape.clone(), d))
}

fn reduce(x: &Array, axis: usize) -> Result<Array, String> {
    if axis >= x.shape.len() {
        return Err(format!("axis {axis} of {:?}", x.shape));
    }
    let [outer, n, inner] = around(&x.shape, axis);
    let d = x.f()?;
    let sum = |i: usize| (0..n).map(|k| d[(i / inner * n + k) * inner + i % inner]).sum();
    let mut shape = x.shape.clone();
    shape.remove(axis);
    Ok(Array::floats(shape, (0..outer * inner).map(sum).collect()))
}
