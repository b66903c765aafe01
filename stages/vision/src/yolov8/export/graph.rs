//! An ONNX graph in the making: nodes and constants with names, and the network's operations in that form.
//!
//! Owns names, the merging of normalisations into convolutions, and the backbone, neck and raw head. Refuses to know
//! what follows the raw head (`head`) and numbers of 8 bits (`quantise`).

use super::{ExportError, Options, Precision};
use crate::yolov8::{
    STRIDES, Spec, State, Tensor,
    onnx::{Attribute, Graph, Node, TensorProto, kind},
    spec::{self, Op, Tail, View},
    weights::EPSILON,
    wiring::{Atom, origin},
};

/// A graph in the making.
#[derive(Debug, Default)]
pub struct Builder {
    pub nodes: Vec<Node>,
    pub constants: Vec<TensorProto>,
}

impl Builder {
    /// Adds an operation with one result, which gets the name of the operation.
    pub fn node(&mut self, op: &str, name: &str, input: &[&str], attribute: Vec<Attribute>) -> String {
        self.node_of(op, name, input, &[name], attribute);
        name.to_owned()
    }

    /// Adds an operation with results of these names.
    pub fn node_of(&mut self, op: &str, name: &str, input: &[&str], output: &[&str], attribute: Vec<Attribute>) {
        let texts = |list: &[&str]| list.iter().map(|&t| t.to_owned()).collect();
        self.nodes.push(Node {
            input: texts(input),
            output: texts(output),
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
            domain: String::new(),
        });
    }

    fn has(&self, name: &str) -> bool {
        self.constants.iter().any(|t| t.name == name)
    }

    /// Adds a constant of whole numbers, once.
    pub fn ints(&mut self, name: &str, dims: &[usize], data: &[i64]) -> String {
        if !self.has(name) {
            self.constants.push(TensorProto::ints(name, dims, data));
        }
        name.to_owned()
    }

    /// Adds a constant of floats, once.
    pub fn floats(&mut self, name: &str, dims: &[usize], data: &[f32]) -> String {
        if !self.has(name) {
            self.constants.push(TensorProto::floats(name, dims, data));
        }
        name.to_owned()
    }

    /// The finished graph, without inputs and outputs.
    pub fn finish(self, name: &str) -> Graph {
        Graph { node: self.nodes, name: name.to_owned(), initializer: self.constants, ..Graph::default() }
    }
}

/// A convolution's weights `[out, in, kernel, kernel]` and biases.
struct Merged {
    weight: Tensor,
    bias: Vec<f32>,
}

/// A convolution with its normalisation merged into it.
fn merged(conv: &spec::Conv, state: &State) -> Result<Merged, ExportError> {
    let tensor = |key: &str| {
        let key = format!("{}.{key}", conv.name);
        state.tensors.get(&key).ok_or(ExportError::Missing(key))
    };
    if let Tail::Bias(_) = conv.tail {
        let weight = tensor("weight")?;
        return Ok(Merged { weight: weight.clone(), bias: tensor("bias")?.data.clone() });
    }
    let weight = tensor("conv.weight")?;
    let [scale, shift] = [&tensor("bn.weight")?.data, &tensor("bn.bias")?.data];
    let [mean, var] = [&tensor("bn.running_mean")?.data, &tensor("bn.running_var")?.data];
    let factor: Vec<f64> =
        scale.iter().zip(var).map(|(&s, &v)| f64::from(s) / (f64::from(v) + EPSILON).sqrt()).collect();
    let row = weight.data.len() / factor.len();
    let data = weight.data.chunks_exact(row).zip(&factor);
    let data = data.flat_map(|(row, f)| row.iter().map(move |&w| (f64::from(w) * f) as f32)).collect();
    let bias = (0..factor.len()).map(|i| (f64::from(shift[i]) - f64::from(mean[i]) * factor[i]) as f32).collect();
    Ok(Merged { weight: Tensor { shape: weight.shape.clone(), data }, bias })
}

/// Names of the values at the raw head, finest level first, `[batch, 64 + classes, height, width]`.
pub const LEVELS: [&str; 3] = ["level8", "level16", "level32"];
/// Name of the input, `[batch, 3, height, width]`, RGB, 0 to 1.
pub const INPUT: &str = "images";

struct Lowering<'a> {
    graph: &'a spec::Graph,
    b: Builder,
    /// The value that each operation makes.
    results: Vec<String>,
    input: String,
}

impl Lowering<'_> {
    /// The value of a view.
    fn view(&mut self, view: View) -> String {
        let mut parts = Vec::new();
        for s in origin(self.graph, view) {
            let Atom::Op(i) = s.atom else {
                parts.push(self.input.clone());
                continue;
            };
            let output = match &self.graph.ops[i] {
                Op::Conv(conv) => conv.output,
                Op::Upsample(_, to) | Op::MaxPool(_, to) => *to,
            };
            let whole = self.results[i].clone();
            if s.from == 0 && s.to == output.channels {
                parts.push(whole);
                continue;
            }
            let name = format!("{whole}/{}-{}", s.from, s.to);
            if !self.b.nodes.iter().any(|n| n.name == name) {
                let from = self.b.ints(&format!("at{}", s.from), &[1], &[s.from as i64]);
                let to = self.b.ints(&format!("at{}", s.to), &[1], &[s.to as i64]);
                let axis = self.b.ints("at1", &[1], &[1]);
                self.b.node("Slice", &name, &[&whole, &from, &to, &axis], vec![]);
            }
            parts.push(name);
        }
        if let [only] = &parts[..] {
            return only.clone();
        }
        let name = format!("joined/{}/{}-{}", view.buffer, view.offset, view.offset + view.channels);
        if !self.b.nodes.iter().any(|n| n.name == name) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            self.b.node("Concat", &name, &parts, vec![Attribute::int("axis", 1)]);
        }
        name
    }

    fn conv(&mut self, conv: &spec::Conv, state: &State, half: bool) -> Result<String, ExportError> {
        let Merged { weight, bias } = merged(conv, state)?;
        let input = self.view(conv.input);
        let name = &conv.name;
        let make = if half { TensorProto::halves } else { TensorProto::floats };
        let (w, b) = (format!("{name}.weight"), format!("{name}.bias"));
        self.b.constants.push(make(&w, &weight.shape, &weight.data));
        self.b.constants.push(make(&b, &[bias.len()], &bias));
        let (k, s, pad) = (conv.kernel as i64, conv.stride as i64, (conv.kernel / 2) as i64);
        let attributes = vec![
            Attribute::ints("dilations", &[1, 1]),
            Attribute::int("group", 1),
            Attribute::ints("kernel_shape", &[k, k]),
            Attribute::ints("pads", &[pad; 4]),
            Attribute::ints("strides", &[s, s]),
        ];
        let sum = self.b.node("Conv", &format!("{name}/Conv"), &[&input, &w, &b], attributes);
        let Tail::NormSilu(added) = conv.tail else { return Ok(sum) };
        let gate = self.b.node("Sigmoid", &format!("{name}/Sigmoid"), &[&sum], vec![]);
        let mut out = self.b.node("Mul", &format!("{name}/Mul"), &[&sum, &gate], vec![]);
        if let Some(view) = added {
            let other = self.view(view);
            out = self.b.node("Add", &format!("{name}/Add"), &[&other, &out], vec![]);
        }
        Ok(out)
    }
}

/// The network up to the raw head, whose levels are 32-bit floats under the names [`LEVELS`].
pub fn network(spec: Spec, state: &State, options: &Options) -> Result<Builder, ExportError> {
    let graph = spec.graph();
    let half = options.precision == Precision::Half;
    let mut l = Lowering { graph: &graph, b: Builder::default(), results: Vec::new(), input: INPUT.to_owned() };
    if half {
        // Callers give and get 32 bits in any case; positions of boxes beyond 1024 pixels need them.
        l.input = l.b.node("Cast", "images/16", &[INPUT], vec![Attribute::int("to", kind::FLOAT16.into())]);
    }
    for op in &graph.ops {
        let i = l.results.len();
        let result = match op {
            Op::Conv(conv) => l.conv(conv, state, half)?,
            Op::Upsample(from, _) => {
                let input = l.view(*from);
                let scales = l.b.floats("twice", &[4], &[1.0, 1.0, 2.0, 2.0]);
                let attributes = vec![
                    Attribute::text("coordinate_transformation_mode", "asymmetric"),
                    Attribute::text("mode", "nearest"),
                    Attribute::text("nearest_mode", "floor"),
                ];
                l.b.node("Resize", &format!("op{i}/Resize"), &[&input, "", &scales], attributes)
            }
            Op::MaxPool(from, _) => {
                let input = l.view(*from);
                let attributes = vec![
                    Attribute::ints("kernel_shape", &[5, 5]),
                    Attribute::ints("pads", &[2; 4]),
                    Attribute::ints("strides", &[1, 1]),
                ];
                l.b.node("MaxPool", &format!("op{i}/MaxPool"), &[&input], attributes)
            }
        };
        l.results.push(result);
    }
    for ((buffer, name), _) in graph.heads.into_iter().zip(LEVELS).zip(STRIDES) {
        let channels = graph.buffers[buffer].channels;
        let joined = l.view(View { buffer, offset: 0, channels });
        // Each level's join is the last use of its name, so the node can simply be given the public one.
        let node = l.b.nodes.iter_mut().find(|n| n.name == joined).expect("a level joins boxes and classes");
        let public = if half { format!("{name}/16") } else { name.to_owned() };
        node.output = vec![public.clone()];
        node.name.clone_from(&public);
        if half {
            l.b.node("Cast", name, &[&public], vec![Attribute::int("to", kind::FLOAT.into())]);
        }
    }
    Ok(l.b)
}
