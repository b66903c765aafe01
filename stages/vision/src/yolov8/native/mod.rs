//! The native back end: trains and runs the network on the processor, channels last, in 32-bit floats or with maps and
//! products in 16-bit ones (bf16).
//!
//! In 16 bits, parameters, their gradients, statistics, head levels and all sums stay in 32. Processors without
//! instructions for 16-bit products compute the same sums in 32 bits, at about half the speed of 32-bit numbers.
//!
//! Results are byte-identical for any number of threads: work is cut into pieces by shape alone and all sums over pieces
//! run in a fixed order. In 16 bits they are also byte-identical with all vector instructions and without any. Uses the
//! rayon pool that the caller is in. Memory for a batch size is kept until another size comes. Owns parameters, statistics
//! and activations; refuses to own losses and optimizers.

mod gradients;
mod layer;
mod pass;
mod plan;
mod slots;
#[cfg(test)]
mod tests;

use super::{
    Backend, Buffer, Error, Heads, Images, Mode, Parameter, Spec, State, StateError, Tensor,
    spec::{Conv, Graph, Op, Tail, View},
};
pub use crate::kernels::simd::Instructions;
use crate::kernels::{
    Write,
    frame::copy_cells,
    number::Number,
    pool::{max_pool, max_pool_backward, upsample, upsample_backward},
    product::exercise,
    storage::Numbers,
};
use half::bf16;
use layer::Layer;
use pass::{Gradient, Source};
use plan::Plan;
use rand::SeedableRng;
use rayon::prelude::*;
use std::{collections::BTreeMap, ops::Range};

/// The fixed weights of the expectation over bins (0, 1, ..., 15), part of public checkpoints.
const EXPECTATION_KEY: &str = "model.22.dfl.conv.weight";
/// A counter in public checkpoints that nothing here needs.
const COUNTER_SUFFIX: &str = ".num_batches_tracked";

/// The numbers that maps hold and products are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the range of 32-bit ones (bf16).
    Bf16,
}

impl Precision {
    /// As in settings and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Does small matrix products, as fast as the processor can, `times` times; returns their floating-point operations. For
/// measuring the peak that a network's speed is compared with.
pub fn products(precision: Precision, times: usize) -> f64 {
    match precision {
        Precision::F32 => exercise::<f32>(times),
        Precision::Bf16 => exercise::<bf16>(times),
    }
}

/// The network with its parameters, on the processor.
#[derive(Debug)]
pub struct Native {
    net: Net,
    memory: Memory,
}

/// The kept plans, by the kind of their numbers.
#[derive(Debug)]
enum Memory {
    F32(Plans<f32>),
    Bf16(Plans<bf16>),
}

impl Memory {
    fn new(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(Plans::default()),
            Precision::Bf16 => Self::Bf16(Plans::default()),
        }
    }
}

/// The plans of the latest sizes.
#[derive(Debug)]
struct Plans<E> {
    train: Option<Plan<E>>,
    eval: Option<Plan<E>>,
}

impl<E> Default for Plans<E> {
    fn default() -> Self {
        Self { train: None, eval: None }
    }
}

/// Everything but the memory that depends on the size of a batch.
#[derive(Debug)]
struct Net {
    spec: Spec,
    graph: Graph,
    layers: Vec<Layer>,
    /// Per operation: the index of its layer, if it is a convolution.
    layer_of: Vec<Option<usize>>,
    heads: Heads,
    /// The first so many operations do not learn.
    frozen: usize,
    /// Whether the layers' forward form of the weights is older than the weights.
    stale: bool,
    /// Whether the activations of a training pass wait for a backward pass.
    pending: bool,
}

impl Native {
    /// A network with random weights, in 32-bit floats; the same seed gives the same numbers everywhere.
    pub fn new(spec: Spec, seed: u64) -> Self {
        Self::from_graph(spec, spec.graph(), seed)
    }

    /// A network with these weights.
    pub fn from_state(spec: Spec, state: &State) -> Result<Self, StateError> {
        let mut network = Self::new(spec, 0);
        network.load(state)?;
        Ok(network)
    }

    /// The same network computing with these numbers.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.release();
        self.memory = Memory::new(precision);
        self.net.layers.iter_mut().for_each(|layer| layer.forward = Numbers::default());
        self.net.stale = true;
        self
    }

    /// The numbers that it computes with.
    pub fn precision(&self) -> Precision {
        match self.memory {
            Memory::F32(_) => Precision::F32,
            Memory::Bf16(_) => Precision::Bf16,
        }
    }

    pub(super) fn from_graph(spec: Spec, graph: Graph, seed: u64) -> Self {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let layers: Vec<_> = graph.convs().map(|conv| Layer::new(conv, &mut rng)).collect();
        let mut next = 0..layers.len();
        let layer_of = graph.ops.iter().map(|op| if matches!(op, Op::Conv(_)) { next.next() } else { None }).collect();
        let heads = Heads::zeros(0, 0, 0, spec.classes);
        let net = Net { spec, graph, layers, layer_of, heads, frozen: 0, stale: true, pending: false };
        Self { net, memory: Memory::new(Precision::F32) }
    }

    /// What the network computes, operation by operation.
    pub fn graph(&self) -> &Graph {
        &self.net.graph
    }

    /// Bytes that a network of this kind takes once it has run (in training mode: forward and backward, the first
    /// `frozen` modules not learning) on batches of this size (pictures, height, width): parameters and their gradients,
    /// weights as the products read them, activations and head levels. Each thread takes a few megabytes more for its
    /// work; optimizer and average are the caller's.
    pub fn memory(spec: Spec, size: [usize; 3], mode: Mode, precision: Precision, frozen: usize) -> usize {
        let graph = spec.graph();
        let frozen = graph.frozen(frozen);
        match precision {
            Precision::F32 => bytes::<f32>(&graph, spec.classes, size, mode, frozen),
            Precision::Bf16 => bytes::<bf16>(&graph, spec.classes, size, mode, frozen),
        }
    }

    /// Frees the memory for training (activations and gradients), for example before running on large pictures.
    pub fn release(&mut self) {
        self.memory = Memory::new(self.precision());
        self.net.pending = false;
        self.net.layers.iter_mut().for_each(|layer| layer.backward = Numbers::default());
    }
}

fn bytes<E: Number>(graph: &Graph, classes: usize, size: [usize; 3], mode: Mode, frozen: usize) -> usize {
    let [batch, height, width] = size;
    let frozen_convs = graph.convs_before(frozen);
    let packed = graph.convs().enumerate().map(|(index, conv)| {
        let [forward, backward] = layer::packed_lens::<E>(conv).map(Numbers::<f32>::bytes);
        forward + if mode == Mode::Train && index >= frozen_convs { backward } else { 0 }
    });
    let channels = super::BOX_CHANNELS + classes;
    let cells: usize = super::STRIDES.iter().map(|s| batch * (height / s) * (width / s)).sum();
    let numbers = 2 * graph.parameter_count() + cells * channels;
    plan::bytes::<E>(graph, size, mode, frozen) + packed.sum::<usize>() + numbers * size_of::<f32>()
}

impl Net {
    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let mut shapes = BTreeMap::new();
        self.layers.iter().for_each(|layer| layer.shapes(&mut shapes));
        shapes
    }

    /// Which head level a buffer is.
    fn head(&self, buffer: usize) -> Option<usize> {
        self.graph.heads.iter().position(|&head| head == buffer)
    }

    /// Runs these operations, in order.
    fn run_forward<E: Number>(&mut self, plan: &mut Plan<E>, mode: Mode, ops: Range<usize>) {
        for (position, op) in ops.clone().zip(&self.graph.ops[ops]) {
            match op {
                Op::Conv(conv) => {
                    let index = self.layer_of[position].expect("every convolution has a layer");
                    let (layer, pieces) = (&mut self.layers[index], &plan.pieces[index]);
                    let output = plan.extent(&self.graph, conv.output);
                    let extent = plan.extent(&self.graph, conv.input);
                    let head = self.graph.heads.iter().position(|&head| head == conv.output.buffer);
                    let mut taken = plan.maps.take(conv.output.buffer);
                    let out = taken.numbers();
                    let x = Source { data: plan.maps.get(conv.input.buffer), offset: conv.input.offset, extent };
                    match (conv.tail, head) {
                        (Tail::Bias(_), Some(level)) => {
                            let out = &mut self.heads.levels[level].data;
                            pass::bias_forward(layer, pieces, x, out, conv.output.offset, output);
                        }
                        (Tail::NormSilu(added), None) => {
                            let residual = residual(conv, added).map(|view| view.offset);
                            match (mode, &mut plan.training) {
                                (Mode::Train, Some(t)) if position >= self.frozen => {
                                    let (raw, batch) = (&mut t.raw[index], &mut t.moments[index]);
                                    pass::train_forward(layer, pieces, x, raw, batch, out, output, residual);
                                }
                                _ => pass::eval_forward(layer, pieces, x, out, output, residual),
                            }
                        }
                        _ => unreachable!("biases end in the head levels, normalisations elsewhere"),
                    }
                    plan.maps.give(conv.output.buffer, taken);
                }
                Op::Upsample(from, to) => {
                    let (extent, output) = (plan.extent(&self.graph, *from), plan.extent(&self.graph, *to));
                    let mut taken = plan.maps.take(to.buffer);
                    let (x, out) = (plan.maps.get(from.buffer), taken.numbers());
                    let (x_len, out_len) = (extent.cells() * extent.pitch, output.cells() * output.pitch);
                    x.par_chunks(x_len).zip(out.par_chunks_mut(out_len)).with_max_len(1).for_each(|(x, out)| {
                        upsample(&x[from.offset..], extent, &mut out[to.offset..], output.pitch);
                    });
                    plan.maps.give(to.buffer, taken);
                }
                Op::MaxPool(from, to) => {
                    let extent = plan.extent(&self.graph, *from);
                    let image = extent.cells() * extent.pitch;
                    plan.maps.get_mut(from.buffer).par_chunks_mut(image).with_max_len(1).for_each(|map| {
                        max_pool(map, extent, from.offset, to.offset);
                    });
                }
            }
        }
    }

    fn run_backward<E: Number>(&mut self, plan: &mut Plan<E>, gradient: &Heads) {
        let mut training = plan.training.take().expect("a training plan");
        let t = &mut training;
        for (position, op) in self.graph.ops.iter().enumerate().skip(self.frozen).rev() {
            let [write, added_write] = t.writes[position];
            match op {
                Op::Conv(conv) => {
                    let index = self.layer_of[position].expect("every convolution has a layer");
                    let head = self.head(conv.output.buffer);
                    let (layer, pieces) = (&mut self.layers[index], &plan.pieces[index]);
                    let output = plan.extent(&self.graph, conv.output);
                    let extent = plan.extent(&self.graph, conv.input);
                    let x = Source { data: plan.maps.get(conv.input.buffer), offset: conv.input.offset, extent };
                    let (raw, batch) = (&t.raw[index], &t.moments[index]);
                    let factors;
                    let dy = match (conv.tail, head) {
                        (Tail::Bias(_), Some(level)) => {
                            let data = &gradient.levels[level].data;
                            Gradient::Head(Source { data, offset: conv.output.offset, extent: output })
                        }
                        (Tail::NormSilu(added), None) => {
                            let residual =
                                residual(conv, added).zip(added_write).map(|(view, write)| (view.offset, write));
                            let d = &mut t.raw_gradient[..raw.len()];
                            let g = t.gradients.get_mut(conv.output.buffer);
                            factors = pass::activation_backward(layer, pieces, raw, batch, d, g, output, residual);
                            Gradient::Norm { d, raw, mean: &batch[0], factors: &factors }
                        }
                        _ => unreachable!("biases end in the head levels, normalisations elsewhere"),
                    };
                    let dx = write.map(|write| (t.gradients.get_mut(conv.input.buffer), write));
                    pass::convolution_backward(layer, pieces, x, dy, output, dx, &mut t.partial);
                }
                Op::Upsample(from, to) => {
                    let Some(write) = write else { continue };
                    let (extent, output) = (plan.extent(&self.graph, *from), plan.extent(&self.graph, *to));
                    let mut taken = t.gradients.take(from.buffer);
                    let (g, dx) = (t.gradients.get(to.buffer), taken.numbers());
                    let (x_len, out_len) = (extent.cells() * extent.pitch, output.cells() * output.pitch);
                    g.par_chunks(out_len).zip(dx.par_chunks_mut(x_len)).with_max_len(1).for_each(|(g, dx)| {
                        upsample_backward(&g[to.offset..], output.pitch, &mut dx[from.offset..], extent, write);
                    });
                    t.gradients.give(from.buffer, taken);
                }
                Op::MaxPool(from, to) => {
                    // The concatenation behind wrote this gradient first, so adding is right.
                    debug_assert_eq!(write, Some(Write::Add));
                    let extent = plan.extent(&self.graph, *from);
                    let image = extent.cells() * extent.pitch;
                    let (map, g) = (plan.maps.get(from.buffer), t.gradients.get_mut(from.buffer));
                    map.par_chunks(image).zip(g.par_chunks_mut(image)).with_max_len(1).for_each(|(map, g)| {
                        max_pool_backward(map, g, extent, from.offset, to.offset);
                    });
                }
            }
        }
        plan.training = Some(training);
    }
}

/// The added view, which lies in the buffer of the output.
fn residual(conv: &Conv, added: Option<View>) -> Option<View> {
    if let Some(view) = added {
        assert_eq!(view.buffer, conv.output.buffer, "shortcuts stay inside their block's buffer");
    }
    added
}

impl<E: Number> Plans<E> {
    fn forward(&mut self, net: &mut Net, images: Images<'_>, mode: Mode) -> Result<(), Error> {
        let plan = self.begin(net, images, mode)?;
        if plan.batch > 0 {
            net.run_forward(plan, mode, 0..net.graph.ops.len());
        }
        Ok(())
    }

    /// The plan for these pictures, with them in it.
    fn begin(&mut self, net: &mut Net, images: Images<'_>, mode: Mode) -> Result<&mut Plan<E>, Error> {
        let Images { data, batch, height, width } = images;
        if net.stale {
            net.layers.par_iter_mut().with_max_len(1).for_each(Layer::prepare_forward::<E>);
            net.stale = false;
        }
        let slot = if mode == Mode::Train { &mut self.train } else { &mut self.eval };
        if slot.as_ref().is_none_or(|plan| [plan.batch, plan.height, plan.width] != [batch, height, width]) {
            // The old memory is given back before the new is taken.
            *slot = None;
        }
        let plan = match slot {
            Some(plan) => plan,
            None => slot.insert(Plan::new(&net.graph, [batch, height, width], mode, net.frozen)?),
        };
        if [net.heads.batch, net.heads.levels[0].height, net.heads.levels[0].width] != [batch, height / 8, width / 8] {
            net.heads = Heads::zeros(batch, height, width, net.spec.classes);
        }
        if batch > 0 {
            let line = width * 3;
            let rows = plan.maps.get_mut(0).par_chunks_mut(line).zip(data.par_chunks(line));
            rows.with_min_len(64).for_each(|(to, from)| copy_cells(from, line, line, to, line));
        }
        Ok(plan)
    }

    fn backward(&mut self, net: &mut Net, gradient: &Heads) {
        let plan = self.train.as_mut().expect("a forward pass in training mode made the plan");
        let frozen = net.graph.convs_before(net.frozen);
        net.layers[frozen..].par_iter_mut().with_max_len(1).for_each(Layer::prepare_backward::<E>);
        if plan.batch > 0 {
            net.run_backward(plan, gradient);
        }
    }
}

impl Backend for Native {
    fn spec(&self) -> Spec {
        self.net.spec
    }

    fn forward(&mut self, images: Images<'_>, mode: Mode) -> Result<&Heads, Error> {
        images.check()?;
        let Self { net, memory } = self;
        net.pending = false;
        match memory {
            Memory::F32(plans) => plans.forward(net, images, mode),
            Memory::Bf16(plans) => plans.forward(net, images, mode),
        }?;
        net.pending = mode == Mode::Train;
        Ok(&net.heads)
    }

    fn heads(&self) -> &Heads {
        &self.net.heads
    }

    fn backward(&mut self, gradient: &Heads) -> Result<(), Error> {
        let Self { net, memory } = self;
        if !net.pending {
            return Err(Error::NoForward);
        }
        net.heads.check_gradient(gradient)?;
        match memory {
            Memory::F32(plans) => plans.backward(net, gradient),
            Memory::Bf16(plans) => plans.backward(net, gradient),
        }
        net.pending = false;
        Ok(())
    }

    fn freeze(&mut self, modules: usize) {
        self.net.frozen = self.net.graph.frozen(modules);
        self.release();
    }

    fn zero_gradients(&mut self) {
        for layer in &mut self.net.layers {
            layer.weight.gradient.fill(0.0);
            layer.affine.iter_mut().for_each(|p| p.gradient.fill(0.0));
        }
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.net.stale = true;
        let trainables =
            self.net.layers.iter_mut().flat_map(|layer| std::iter::once(&mut layer.weight).chain(&mut layer.affine));
        let parameters =
            trainables.map(|t| Parameter { name: &t.name, kind: t.kind, data: &mut t.data, gradient: &t.gradient });
        parameters.collect()
    }

    fn buffers(&mut self) -> Vec<Buffer<'_>> {
        let statistics = self.net.layers.iter_mut().flat_map(|layer| &mut layer.running);
        statistics.map(|s| Buffer { name: &s.name, data: &mut s.data }).collect()
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.net.layers.iter().for_each(|layer| layer.export(&mut state.tensors));
        let bins = (0..super::BINS).map(|bin| bin as f32).collect();
        state.tensors.insert(EXPECTATION_KEY.to_owned(), Tensor { shape: vec![1, super::BINS, 1, 1], data: bins });
        let spec = serde_json::to_string(&self.net.spec).expect("a spec is valid JSON");
        state.metadata.insert("spec".to_owned(), spec);
        state
    }

    fn load(&mut self, state: &State) -> Result<(), StateError> {
        state.check(&self.net.shapes(), |name| name == EXPECTATION_KEY || name.ends_with(COUNTER_SUFFIX))?;
        self.net.layers.iter_mut().for_each(|layer| layer.import(&state.tensors));
        (self.net.stale, self.net.pending) = (true, false);
        Ok(())
    }
}
