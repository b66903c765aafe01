//! One convolution with its normalisation or bias: parameters, their gradients, and the forms of the weights that the
//! kernels read. Weights are kept as `[kernel_h][kernel_w][in][out]`.

use crate::{
    kernels::{
        Extent,
        frame::Window,
        number::Number,
        product::{ZERO_ROW, pack, packed_len},
        storage::{Numbers, scratch},
        winograd,
    },
    yolov8::{
        ParameterKind, Tensor,
        spec::{Conv, Tail},
    },
};
use rand::RngExt;
use std::collections::BTreeMap;

/// Added to the variance (the recipe's value).
pub(super) const EPSILON: f64 = 1e-3;
/// Share of the new batch in the running statistics (the recipe's value).
pub(super) const MOMENTUM: f64 = 0.03;

/// A trainable array.
#[derive(Debug)]
pub(super) struct Trainable {
    pub name: String,
    pub kind: ParameterKind,
    pub data: Vec<f32>,
    pub gradient: Vec<f32>,
}

impl Trainable {
    fn new(name: String, kind: ParameterKind, data: Vec<f32>) -> Self {
        let gradient = vec![0.0; data.len()];
        Self { name, kind, data, gradient }
    }
}

/// A running statistic.
#[derive(Debug)]
pub(super) struct Statistic {
    pub name: String,
    pub data: Vec<f32>,
}

/// How the products of a convolution are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// As one product over windows, read in place or from frames.
    Windows,
    /// Minimal filtering: fewer products, of transformed numbers that 16 bits would be too coarse for.
    Winograd,
}

impl Method {
    pub fn of<E: Number>(conv: &Conv) -> Self {
        let suits = conv.kernel == 3 && conv.stride == 1 && winograd::suits(conv.input.channels, conv.output.channels);
        if E::PER_WORD == 1 && suits { Self::Winograd } else { Self::Windows }
    }
}

/// The convolution's windows over pictures of this extent.
pub(super) fn window(conv: &Conv, input: Extent) -> Window {
    Window { input, kernel: conv.kernel, stride: conv.stride, output: conv.output.channels }
}

/// Words that the weights take as the forward pass and as the gradient by the input read them.
pub(super) fn packed_lens<E: Number>(conv: &Conv) -> [usize; 2] {
    let (input, output) = (conv.input.channels, conv.output.channels);
    if Method::of::<E>(conv) == Method::Winograd {
        return [winograd::weights_len(input, output), winograd::weights_len(output, input)];
    }
    let window = abstract_window(conv);
    let taps = conv.kernel * conv.kernel;
    [
        packed_len(conv.kernel * window.span::<E>(), output),
        packed_len(taps * window.out_cell::<E>() / E::PER_WORD, input),
    ]
}

/// The windows without a picture: for what depends on channels only.
fn abstract_window(conv: &Conv) -> Window {
    let channels = conv.input.channels;
    window(conv, Extent { height: conv.stride, width: conv.stride, channels, pitch: channels })
}

/// A convolution and what follows it.
#[derive(Debug)]
pub(super) struct Layer {
    pub conv: Conv,
    pub weight: Trainable,
    /// Normalisation: scale and shift. Bias: the bias alone.
    pub affine: Vec<Trainable>,
    /// Normalisation: running mean and variance. Bias: none.
    pub running: Vec<Statistic>,
    /// The weights as the forward pass reads them, in words.
    pub forward: Numbers<f32>,
    /// The weights as the gradient by the input reads them, in words.
    pub backward: Numbers<f32>,
}

impl Layer {
    /// Initial values: weights uniform in +-1/sqrt(fan in), scale 1, shift 0, statistics 0 and 1, bias from the graph.
    pub fn new(conv: &Conv, rng: &mut impl RngExt) -> Self {
        let (input, output, kernel) = (conv.input.channels, conv.output.channels, conv.kernel);
        let bound = 1.0 / ((kernel * kernel * input) as f32).sqrt();
        let weight: Vec<f32> = (0..kernel * kernel * input * output).map(|_| rng.random_range(-bound..bound)).collect();
        let name = &conv.name;
        let (key, affine, running) = match conv.tail {
            Tail::NormSilu(_) => {
                let affine = [("weight", ParameterKind::NormWeight, 1.0), ("bias", ParameterKind::NormBias, 0.0)]
                    .map(|(part, kind, value)| Trainable::new(format!("{name}.bn.{part}"), kind, vec![value; output]));
                let running = [("mean", 0.0), ("var", 1.0)].map(|(part, value)| Statistic {
                    name: format!("{name}.bn.running_{part}"),
                    data: vec![value; output],
                });
                (format!("{name}.conv.weight"), affine.into(), running.into())
            }
            Tail::Bias(value) => {
                let bias = Trainable::new(format!("{name}.bias"), ParameterKind::Bias, vec![value; output]);
                (format!("{name}.weight"), vec![bias], Vec::new())
            }
        };
        let weight = Trainable::new(key, ParameterKind::Weight, weight);
        let (forward, backward) = Default::default();
        Self { conv: conv.clone(), weight, affine, running, forward, backward }
    }

    pub fn input(&self) -> usize {
        self.conv.input.channels
    }

    pub fn output(&self) -> usize {
        self.conv.output.channels
    }

    /// Renews [`Self::forward`] from the weights.
    pub fn prepare_forward<E: Number>(&mut self) {
        let (input, output) = (self.input(), self.output());
        reserve(&mut self.forward, packed_lens::<E>(&self.conv)[0]);
        if Method::of::<E>(&self.conv) == Method::Winograd {
            winograd::transform_weights(&self.weight.data, input, output, &mut self.forward);
            return;
        }
        let window = abstract_window(&self.conv);
        let starts: Vec<usize> = window.rows::<E>().map(|row| row.map_or(ZERO_ROW, |row| row * output)).collect();
        let packed = bytemuck::cast_slice_mut(&mut self.forward);
        pack::<f32, E>(&self.weight.data, &starts, output, packed, []);
    }

    /// Renews [`Self::backward`] from the weights.
    pub fn prepare_backward<E: Number>(&mut self) {
        let (input, output, kernel) = (self.input(), self.output(), self.conv.kernel);
        reserve(&mut self.backward, packed_lens::<E>(&self.conv)[1]);
        let (weight, backward) = (&self.weight.data, &mut self.backward);
        scratch(weight.len(), |turned: &mut [f32]| {
            for (from, to) in weight.chunks_exact(input * output).zip(turned.chunks_exact_mut(input * output)) {
                transpose(from, output, to, input);
            }
            if Method::of::<E>(&self.conv) == Method::Winograd {
                // The windows of gradients run the other way.
                scratch(turned.len(), |mirrored: &mut [f32]| {
                    let taps = turned.chunks_exact(input * output).rev();
                    mirrored.chunks_exact_mut(input * output).zip(taps).for_each(|(to, tap)| to.copy_from_slice(tap));
                    winograd::transform_weights(mirrored, output, input, backward);
                });
                return;
            }
            let window = abstract_window(&self.conv);
            let cell = window.out_cell::<E>();
            let mut packed: &mut [u32] = bytemuck::cast_slice_mut(backward);
            for (py, px) in window.phases() {
                let (down, across) = (window.taps(py), window.taps(px));
                let mut starts = Vec::new();
                for (ky, kx) in down.iter().flat_map(|y| across.iter().map(|x| (y.weight, x.weight))) {
                    let tap = (ky * kernel + kx) * output;
                    starts.extend((0..cell).map(|o| if o < output { (tap + o) * input } else { ZERO_ROW }));
                }
                let len = packed_len(starts.len() / E::PER_WORD, input);
                pack::<f32, E>(turned, &starts, input, &mut packed[..len], []);
                packed = &mut packed[len..];
            }
        });
    }

    /// Scale and shift that stand for the normalisation with the running statistics.
    pub fn running_affine(&self) -> (Vec<f32>, Vec<f32>) {
        let [scale, shift] = self.affine.as_slice() else { unreachable!("a normalisation has scale and shift") };
        let [mean, var] = self.running.as_slice() else { unreachable!("a normalisation has running statistics") };
        let factor = |i: usize| f64::from(scale.data[i]) / (f64::from(var.data[i]) + EPSILON).sqrt();
        let offset = |i: usize| f64::from(shift.data[i]) - f64::from(mean.data[i]) * factor(i);
        let channels = 0..self.output();
        (channels.clone().map(|i| factor(i) as f32).collect(), channels.map(|i| offset(i) as f32).collect())
    }

    /// Keys and shapes of the public state.
    pub fn shapes(&self, shapes: &mut BTreeMap<String, Vec<usize>>) {
        let kernel = self.conv.kernel;
        shapes.insert(self.weight.name.clone(), vec![self.output(), self.input(), kernel, kernel]);
        let names = self.affine.iter().map(|p| &p.name).chain(self.running.iter().map(|s| &s.name));
        shapes.extend(names.map(|name| (name.clone(), vec![self.output()])));
    }

    /// Position of public weight number `index` (of `[out, in, kernel_h, kernel_w]`) in [`Self::weight`].
    fn place(&self, index: usize) -> usize {
        let taps = self.conv.kernel * self.conv.kernel;
        let (o, i, tap) = (index / (taps * self.input()), index / taps % self.input(), index % taps);
        (tap * self.input() + i) * self.output() + o
    }

    /// Adds the public tensors.
    pub fn export(&self, tensors: &mut BTreeMap<String, Tensor>) {
        let mut shapes = BTreeMap::new();
        self.shapes(&mut shapes);
        let weight = (0..self.weight.data.len()).map(|i| self.weight.data[self.place(i)]).collect();
        let affine = self.affine.iter().map(|p| (&p.name, p.data.clone()));
        let running = self.running.iter().map(|s| (&s.name, s.data.clone()));
        for (name, data) in affine.chain(running).chain([(&self.weight.name, weight)]) {
            tensors.insert(name.clone(), Tensor { shape: shapes[name].clone(), data });
        }
    }

    /// Takes the public tensors, whose presence and shapes were checked.
    pub fn import(&mut self, tensors: &BTreeMap<String, Tensor>) {
        for (i, &number) in tensors[&self.weight.name].data.iter().enumerate() {
            let place = self.place(i);
            self.weight.data[place] = number;
        }
        self.affine.iter_mut().for_each(|p| p.data.clone_from(&tensors[&p.name].data));
        self.running.iter_mut().for_each(|s| s.data.clone_from(&tensors[&s.name].data));
    }
}

/// `to` (rows of `height` numbers) becomes the transpose of `from` (rows of `width` numbers).
fn transpose(from: &[f32], width: usize, to: &mut [f32], height: usize) {
    const BLOCK: usize = 16;
    for (block, rows) in to.chunks_mut(BLOCK * height).enumerate() {
        for (i, from) in from.chunks_exact(width).enumerate() {
            for (row, &number) in rows.chunks_exact_mut(height).zip(&from[block * BLOCK..]) {
                row[i] = number;
            }
        }
    }
}

/// Makes room for `len` numbers; a buffer never changes its size.
fn reserve(numbers: &mut Numbers<f32>, len: usize) {
    if numbers.is_empty() {
        *numbers = Numbers::zeros(len);
    }
}
