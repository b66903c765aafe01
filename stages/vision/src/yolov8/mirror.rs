//! Parameters and statistics in main memory, for back ends whose tensors live elsewhere.
//!
//! Owns names, order and layout, which are those of the native engine, so that whole trainings (optimizer and averages
//! too) move between back ends; and the way to the public layout and back. Refuses to compute.

use std::{collections::BTreeMap, ops::Range};

use super::{
    BINS, Buffer, Parameter, ParameterKind, State, StateError, Tensor,
    spec::{Conv, Graph, Spec, Tail},
};

/// The fixed weights of the expectation over bins (0, 1, ..., 15), part of public checkpoints.
const EXPECTATION_KEY: &str = "model.22.dfl.conv.weight";
/// A counter in public checkpoints that nothing here needs.
const COUNTER_SUFFIX: &str = ".num_batches_tracked";

/// A named array.
#[derive(Clone, Debug)]
pub struct Array {
    name: String,
    /// What it is, if it is trained.
    kind: Option<ParameterKind>,
    /// Which module of the network it belongs to.
    pub(super) module: usize,
    /// Sizes as it lies here: kernel_h, kernel_w, in, out. What has one number a channel has them as `in`.
    pub(super) sizes: [usize; 4],
    pub(super) data: Vec<f32>,
    gradient: Vec<f32>,
}

impl Array {
    fn new(conv: &Conv, part: &str, kind: Option<ParameterKind>, sizes: [usize; 4]) -> Self {
        let name = format!("{}.{part}", conv.name);
        let module = name.split('.').nth(1).and_then(|n| n.parse().ok()).expect("names begin with `model.NUMBER.`");
        let len = sizes.iter().product();
        let gradient = if kind.is_some() { vec![0.0; len] } else { Vec::new() };
        Self { name, kind, module, sizes, data: vec![0.0; len], gradient }
    }

    /// Public shape.
    fn shape(&self) -> Vec<usize> {
        let [h, w, input, output] = self.sizes;
        if self.kind == Some(ParameterKind::Weight) { vec![output, input, h, w] } else { vec![input] }
    }

    /// Position here of public number `index`.
    fn place(&self, index: usize) -> usize {
        let [h, w, input, output] = self.sizes;
        let (o, i, tap) = (index / (h * w * input), index / (h * w) % input, index % (h * w));
        (tap * input + i) * output + o
    }
}

/// All arrays of a network.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    /// In the order of the convolutions: weight, then scale and shift, or bias.
    pub parameters: Vec<Array>,
    /// In the order of the convolutions: running mean and variance.
    pub statistics: Vec<Array>,
    /// Per convolution, its part of [`Self::parameters`].
    pub parameters_of: Vec<Range<usize>>,
    /// Per convolution, its part of [`Self::statistics`].
    pub statistics_of: Vec<Range<usize>>,
}

impl Mirror {
    /// Zeros.
    pub fn new(graph: &Graph) -> Self {
        let (mut parameters, mut statistics) = (Vec::new(), Vec::new());
        let (mut parameters_of, mut statistics_of) = (Vec::new(), Vec::new());
        for conv in graph.convs() {
            let starts = (parameters.len(), statistics.len());
            let (input, output) = (conv.input.channels, conv.output.channels);
            let sizes = [conv.kernel, conv.kernel, input, output];
            let flat = [1, 1, output, 1];
            let mut add = |part: &str, kind, sizes| parameters.push(Array::new(conv, part, Some(kind), sizes));
            match conv.tail {
                Tail::NormSilu(_) => {
                    add("conv.weight", ParameterKind::Weight, sizes);
                    add("bn.weight", ParameterKind::NormWeight, flat);
                    add("bn.bias", ParameterKind::NormBias, flat);
                    let running = ["bn.running_mean", "bn.running_var"].map(|part| Array::new(conv, part, None, flat));
                    statistics.extend(running);
                }
                Tail::Bias(_) => {
                    add("weight", ParameterKind::Weight, sizes);
                    add("bias", ParameterKind::Bias, flat);
                }
            }
            parameters_of.push(starts.0..parameters.len());
            statistics_of.push(starts.1..statistics.len());
        }
        Self { parameters, statistics, parameters_of, statistics_of }
    }

    fn all(&self) -> impl Iterator<Item = &Array> {
        self.parameters.iter().chain(&self.statistics)
    }

    /// Everything under public names and in public layouts.
    pub fn export(&self, spec: Spec) -> State {
        let mut state = State::default();
        for array in self.all() {
            let data = (0..array.data.len()).map(|i| array.data[array.place(i)]).collect();
            state.tensors.insert(array.name.clone(), Tensor { shape: array.shape(), data });
        }
        let bins = (0..BINS).map(|bin| bin as f32).collect();
        state.tensors.insert(EXPECTATION_KEY.to_owned(), Tensor { shape: vec![1, BINS, 1, 1], data: bins });
        let spec = serde_json::to_string(&spec).expect("a spec is valid JSON");
        state.metadata.insert("spec".to_owned(), spec);
        state
    }

    /// Takes everything from a state; nothing changes when an error is returned.
    pub fn import(&mut self, state: &State) -> Result<(), StateError> {
        let shapes: BTreeMap<String, Vec<usize>> = self.all().map(|a| (a.name.clone(), a.shape())).collect();
        state.check(&shapes, |name| name == EXPECTATION_KEY || name.ends_with(COUNTER_SUFFIX))?;
        for array in self.parameters.iter_mut().chain(&mut self.statistics) {
            for (i, &number) in state.tensors[&array.name].data.iter().enumerate() {
                let place = array.place(i);
                array.data[place] = number;
            }
        }
        Ok(())
    }

    /// Adds gradients: those of the chosen parameters, one behind the other.
    pub fn add_gradients(&mut self, chosen: &[usize], gradients: &[f32]) {
        let mut rest = gradients;
        for &index in chosen {
            let sums = &mut self.parameters[index].gradient;
            let (new, behind) = rest.split_at(sums.len());
            sums.iter_mut().zip(new).for_each(|(sum, new)| *sum += new);
            rest = behind;
        }
        assert!(rest.is_empty(), "as many gradients as parameters");
    }

    /// Replaces the statistics, given one behind the other.
    pub fn set_statistics(&mut self, statistics: &[f32]) {
        let mut rest = statistics;
        for array in &mut self.statistics {
            let (new, behind) = rest.split_at(array.data.len());
            array.data.copy_from_slice(new);
            rest = behind;
        }
        assert!(rest.is_empty(), "as many numbers as statistics");
    }

    pub fn zero_gradients(&mut self) {
        self.parameters.iter_mut().for_each(|p| p.gradient.fill(0.0));
    }

    pub fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.parameters
            .iter_mut()
            .map(|Array { name, kind, data, gradient, .. }| Parameter {
                name,
                kind: kind.expect("parameters are trained"),
                data,
                gradient,
            })
            .collect()
    }

    pub fn buffers(&mut self) -> Vec<Buffer<'_>> {
        self.statistics.iter_mut().map(|Array { name, data, .. }| Buffer { name, data }).collect()
    }
}
