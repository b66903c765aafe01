//! The native back end: trains and runs the network on the processor, 32-bit floats, channels last.
//!
//! Results are byte-identical for any number of threads: work is cut into pieces by shape alone and all sums over pieces
//! run in a fixed order. Uses the rayon pool that the caller is in. Memory for a batch size is kept until another size
//! comes. Owns parameters, statistics and activations; refuses to own losses and optimizers.

mod layer;
mod pass;
mod plan;
#[cfg(test)]
mod tests;

use super::{
    Backend, Buffer, Error, Heads, Images, Mode, Parameter, Spec, State, StateError, Tensor,
    spec::{Conv, Graph, Op, Tail, View},
};
use crate::kernels::{
    Write,
    pool::{max_pool, max_pool_backward, upsample, upsample_backward},
    storage::Numbers,
};
use layer::Layer;
use pass::{Gradient, Source};
use plan::Plan;
use rand::SeedableRng;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The fixed weights of the expectation over bins (0, 1, ..., 15), part of public checkpoints.
const EXPECTATION_KEY: &str = "model.22.dfl.conv.weight";
/// A counter in public checkpoints that nothing here needs.
const COUNTER_SUFFIX: &str = ".num_batches_tracked";

/// The network with its parameters, on the processor.
#[derive(Debug)]
pub struct Native {
    spec: Spec,
    graph: Graph,
    layers: Vec<Layer>,
    /// Per operation: the index of its layer, if it is a convolution.
    layer_of: Vec<Option<usize>>,
    train: Option<Plan>,
    eval: Option<Plan>,
    heads: Heads,
    /// Whether the layers' forward form of the weights is older than the weights.
    stale: bool,
    /// Whether the activations of a training pass wait for a backward pass.
    pending: bool,
}

impl Native {
    /// A network with random weights; the same seed gives the same numbers everywhere.
    pub fn new(spec: Spec, seed: u64) -> Self {
        Self::from_graph(spec, spec.graph(), seed)
    }

    /// A network with these weights.
    pub fn from_state(spec: Spec, state: &State) -> Result<Self, StateError> {
        let mut network = Self::new(spec, 0);
        network.load(state)?;
        Ok(network)
    }

    fn from_graph(spec: Spec, graph: Graph, seed: u64) -> Self {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let layers: Vec<_> = graph.convs().map(|conv| Layer::new(conv, &mut rng)).collect();
        let mut next = 0..layers.len();
        let layer_of = graph.ops.iter().map(|op| if matches!(op, Op::Conv(_)) { next.next() } else { None }).collect();
        let heads = Heads::zeros(0, 0, 0, spec.classes);
        Self { spec, graph, layers, layer_of, train: None, eval: None, heads, stale: true, pending: false }
    }

    /// What the network computes, operation by operation.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Frees the memory for training (activations and gradients), for example before running on large pictures.
    pub fn release(&mut self) {
        (self.train, self.eval, self.pending) = (None, None, false);
        self.layers.iter_mut().for_each(|layer| layer.backward = Numbers::default());
    }

    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let mut shapes = BTreeMap::new();
        self.layers.iter().for_each(|layer| layer.shapes(&mut shapes));
        shapes
    }

    /// Which head level a buffer is.
    fn head(&self, buffer: usize) -> Option<usize> {
        self.graph.heads.iter().position(|&head| head == buffer)
    }

    fn run_forward(&mut self, plan: &mut Plan, mode: Mode) {
        for (op, layer) in self.graph.ops.iter().zip(&self.layer_of) {
            match op {
                Op::Conv(conv) => {
                    let index = layer.expect("every convolution has a layer");
                    let (layer, pieces) = (&mut self.layers[index], &plan.pieces[index]);
                    let output = plan.extent(&self.graph, conv.output);
                    let extent = plan.extent(&self.graph, conv.input);
                    let head = self.graph.heads.iter().position(|&head| head == conv.output.buffer);
                    let mut out = std::mem::take(&mut plan.maps[conv.output.buffer]);
                    let x = Source { data: &plan.maps[conv.input.buffer], offset: conv.input.offset, extent };
                    match (conv.tail, head) {
                        (Tail::Bias(_), Some(level)) => {
                            let out = &mut self.heads.levels[level].data;
                            pass::bias_forward(layer, pieces, x, out, conv.output.offset, output);
                        }
                        (Tail::NormSilu(added), None) => {
                            let residual = residual(conv, added).map(|view| view.offset);
                            match (mode, &mut plan.training) {
                                (Mode::Train, Some(t)) => {
                                    let (raw, batch) = (&mut t.raw[index], &mut t.moments[index]);
                                    pass::train_forward(layer, pieces, x, raw, batch, &mut out, output, residual);
                                }
                                _ => pass::eval_forward(layer, pieces, x, &mut out, output, residual),
                            }
                        }
                        _ => unreachable!("biases end in the head levels, normalisations elsewhere"),
                    }
                    plan.maps[conv.output.buffer] = out;
                }
                Op::Upsample(from, to) => {
                    let (extent, output) = (plan.extent(&self.graph, *from), plan.extent(&self.graph, *to));
                    let mut out = std::mem::take(&mut plan.maps[to.buffer]);
                    let x = &plan.maps[from.buffer];
                    let (x_len, out_len) = (extent.cells() * extent.pitch, output.cells() * output.pitch);
                    x.par_chunks(x_len).zip(out.par_chunks_mut(out_len)).with_max_len(1).for_each(|(x, out)| {
                        upsample(&x[from.offset..], extent, &mut out[to.offset..], output.pitch);
                    });
                    plan.maps[to.buffer] = out;
                }
                Op::MaxPool(from, to) => {
                    let extent = plan.extent(&self.graph, *from);
                    let image = extent.cells() * extent.pitch;
                    plan.maps[from.buffer].par_chunks_mut(image).with_max_len(1).for_each(|map| {
                        max_pool(map, extent, from.offset, to.offset);
                    });
                }
            }
        }
    }

    fn run_backward(&mut self, plan: &mut Plan, gradient: &Heads) {
        let mut training = plan.training.take().expect("a training plan");
        let t = &mut training;
        for (position, op) in self.graph.ops.iter().enumerate().rev() {
            let [write, added_write] = t.writes[position];
            match op {
                Op::Conv(conv) => {
                    let index = self.layer_of[position].expect("every convolution has a layer");
                    let head = self.head(conv.output.buffer);
                    let (layer, pieces) = (&mut self.layers[index], &plan.pieces[index]);
                    let output = plan.extent(&self.graph, conv.output);
                    let extent = plan.extent(&self.graph, conv.input);
                    let x = Source { data: &plan.maps[conv.input.buffer], offset: conv.input.offset, extent };
                    let (raw, batch) = (&t.raw[index], &t.moments[index]);
                    let factors;
                    let dy = match (conv.tail, head) {
                        (Tail::Bias(_), Some(level)) => {
                            let data = &gradient.levels[level].data;
                            Gradient::Head(Source { data, offset: conv.output.offset, extent: output })
                        }
                        (Tail::NormSilu(added), None) => {
                            let residual = residual(conv, added).map(|view| (view.offset, added_write));
                            let d = &mut t.raw_gradient[..raw.len()];
                            let g = &mut t.gradients[conv.output.buffer];
                            factors = pass::activation_backward(layer, pieces, raw, batch, d, g, output, residual);
                            Gradient::Norm { d, raw, mean: &batch[0], factors: &factors }
                        }
                        _ => unreachable!("biases end in the head levels, normalisations elsewhere"),
                    };
                    let dx = &mut t.gradients[conv.input.buffer];
                    let dx = (!dx.is_empty()).then_some((&mut **dx, write));
                    pass::convolution_backward(layer, pieces, x, dy, output, dx, &mut t.partial);
                }
                Op::Upsample(from, to) => {
                    let (extent, output) = (plan.extent(&self.graph, *from), plan.extent(&self.graph, *to));
                    let mut dx = std::mem::take(&mut t.gradients[from.buffer]);
                    let g = &t.gradients[to.buffer];
                    let (x_len, out_len) = (extent.cells() * extent.pitch, output.cells() * output.pitch);
                    g.par_chunks(out_len).zip(dx.par_chunks_mut(x_len)).with_max_len(1).for_each(|(g, dx)| {
                        upsample_backward(&g[to.offset..], output.pitch, &mut dx[from.offset..], extent, write);
                    });
                    t.gradients[from.buffer] = dx;
                }
                Op::MaxPool(from, to) => {
                    // The concatenation behind wrote this gradient first, so adding is right.
                    debug_assert_eq!(write, Write::Add);
                    let extent = plan.extent(&self.graph, *from);
                    let image = extent.cells() * extent.pitch;
                    let (map, g) = (&plan.maps[from.buffer], &mut t.gradients[from.buffer]);
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

impl Backend for Native {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn forward(&mut self, images: Images<'_>, mode: Mode) -> Result<&Heads, Error> {
        let Images { data, batch, height, width } = images;
        if height == 0 || width == 0 || !height.is_multiple_of(32) || !width.is_multiple_of(32) {
            return Err(Error::InputSize { width, height });
        }
        let expected = batch * height * width * 3;
        if data.len() != expected {
            return Err(Error::Length { what: "input pictures", got: data.len(), expected });
        }
        if self.stale {
            self.layers.par_iter_mut().with_max_len(1).for_each(Layer::prepare_forward);
            self.stale = false;
        }
        let slot = if mode == Mode::Train { &mut self.train } else { &mut self.eval };
        let fits = |plan: &Plan| [plan.batch, plan.height, plan.width] == [batch, height, width];
        let mut plan = match slot.take() {
            Some(plan) if fits(&plan) => plan,
            // The old memory is given back before the new is taken.
            old => {
                drop(old);
                Plan::new(&self.graph, &self.layers, [batch, height, width], mode)
            }
        };
        let shape = (self.heads.batch, self.heads.levels[0].height, self.heads.levels[0].width);
        if shape != (batch, height / 8, width / 8) {
            self.heads = Heads::zeros(batch, height, width, self.spec.classes);
        }
        if batch > 0 {
            let image = height * width * 3;
            plan.maps[0]
                .par_chunks_mut(image)
                .zip(data.par_chunks(image))
                .for_each(|(to, from)| to.copy_from_slice(from));
            self.run_forward(&mut plan, mode);
        }
        self.pending = mode == Mode::Train;
        *(if mode == Mode::Train { &mut self.train } else { &mut self.eval }) = Some(plan);
        Ok(&self.heads)
    }

    fn heads(&self) -> &Heads {
        &self.heads
    }

    fn backward(&mut self, gradient: &Heads) -> Result<(), Error> {
        let Some(mut plan) = self.train.take_if(|_| self.pending) else { return Err(Error::NoForward) };
        for (ours, theirs) in self.heads.levels.iter().zip(&gradient.levels) {
            let (expected, got) = (ours.data.len(), theirs.data.len());
            if expected != got {
                self.train = Some(plan);
                return Err(Error::Length { what: "gradient of a head level", got, expected });
            }
        }
        self.layers.par_iter_mut().with_max_len(1).for_each(Layer::prepare_backward);
        if plan.batch > 0 {
            self.run_backward(&mut plan, gradient);
        }
        self.train = Some(plan);
        self.pending = false;
        Ok(())
    }

    fn zero_gradients(&mut self) {
        for layer in &mut self.layers {
            layer.weight.gradient.fill(0.0);
            layer.affine.iter_mut().for_each(|p| p.gradient.fill(0.0));
        }
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.stale = true;
        let trainables =
            self.layers.iter_mut().flat_map(|layer| std::iter::once(&mut layer.weight).chain(&mut layer.affine));
        let parameters =
            trainables.map(|t| Parameter { name: &t.name, kind: t.kind, data: &mut t.data, gradient: &t.gradient });
        parameters.collect()
    }

    fn buffers(&mut self) -> Vec<Buffer<'_>> {
        let statistics = self.layers.iter_mut().flat_map(|layer| &mut layer.running);
        statistics.map(|s| Buffer { name: &s.name, data: &mut s.data }).collect()
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.layers.iter().for_each(|layer| layer.export(&mut state.tensors));
        let bins = (0..super::BINS).map(|bin| bin as f32).collect();
        state.tensors.insert(EXPECTATION_KEY.to_owned(), Tensor { shape: vec![1, super::BINS, 1, 1], data: bins });
        let spec = serde_json::to_string(&self.spec).expect("a spec is valid JSON");
        state.metadata.insert("spec".to_owned(), spec);
        state
    }

    fn load(&mut self, state: &State) -> Result<(), StateError> {
        state.check(&self.shapes(), |name| name == EXPECTATION_KEY || name.ends_with(COUNTER_SUFFIX))?;
        self.layers.iter_mut().for_each(|layer| layer.import(&state.tensors));
        (self.stale, self.pending) = (true, false);
        Ok(())
    }
}
