//! The network on a library of tensor functions: what the back ends `tch` and `burn` share.
//!
//! Parameters and statistics live in main memory, where optimizers and averages reach them ([`Mirror`]), and are copied to
//! the library's device as one array when they changed; gradients and statistics come back as one array each. Owns the
//! walk over the description and these copies; refuses to compute a number itself.

use std::ops::Range;

use super::{
    Backend, Buffer, Error, Heads, Images, Level, Mode, Native, Parameter, Spec, State, StateError,
    mirror::{Array, Mirror},
    native::Precision,
    spec::{Graph, Op, Tail, View},
    wiring::{Atom, Segment, origin},
};

/// Added to the variance (the recipe's value).
pub(super) const EPSILON: f64 = 1e-3;
/// Share of the new batch in the running statistics (the recipe's value).
pub(super) const MOMENTUM: f64 = 0.03;

/// What follows a convolution, as `[1, channels, 1, 1]`.
#[derive(Debug)]
pub struct Norm<'a, T> {
    /// Factor.
    pub scale: &'a T,
    /// Addend.
    pub shift: &'a T,
    /// Running mean and variance.
    pub running: [&'a T; 2],
}

/// A library of tensor functions with differentiation. Maps are `[batch, channels, height, width]`, kernels
/// `[out, in, height, width]`.
pub trait Library {
    /// A handle; copies of it are the same numbers.
    type Tensor: Clone;

    /// Arrays of these sizes (kernel_h, kernel_w, in, out), given one behind the other, as `[out, in, h, w]`.
    fn upload(&self, numbers: &[f32], sizes: &[[usize; 4]]) -> Result<Vec<Self::Tensor>, Error>;

    /// The opposite of [`Library::upload`].
    fn download(&self, tensors: &[Self::Tensor]) -> Result<Vec<f32>, Error>;

    /// A map from `[batch, height, width, channels]`.
    fn upload_map(&self, numbers: &[f32], sizes: [usize; 4]) -> Result<Self::Tensor, Error>;

    /// The opposite of [`Library::upload_map`].
    fn download_map(&self, map: &Self::Tensor) -> Result<Vec<f32>, Error>;

    /// The same numbers as a leaf that gradients are taken by.
    fn tracked(&self, tensor: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// Convolution with padding `kernel / 2`.
    fn conv(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        kernel: usize,
        stride: usize,
    ) -> Result<Self::Tensor, Error>;

    /// Normalisation and SiLU. With `batch`, by the batch's statistics, and returns the new running ones.
    fn norm_silu(
        &self,
        x: &Self::Tensor,
        norm: Norm<'_, Self::Tensor>,
        batch: bool,
    ) -> Result<(Self::Tensor, Option<[Self::Tensor; 2]>), Error>;

    /// Sum; sides of length 1 are repeated.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// Channels behind each other.
    fn concat(&self, parts: &[Self::Tensor]) -> Result<Self::Tensor, Error>;

    /// Some of the channels.
    fn channels(&self, x: &Self::Tensor, range: Range<usize>) -> Result<Self::Tensor, Error>;

    /// Each cell doubled in both directions.
    fn upsample(&self, x: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// Largest value in a window of 5 x 5, step 1.
    fn max_pool(&self, x: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// Gradients by the leaves of the sum of `outputs` times `slopes`.
    fn gradients(
        &self,
        outputs: &[Self::Tensor],
        slopes: &[Self::Tensor],
        leaves: &[Self::Tensor],
    ) -> Result<Vec<Self::Tensor>, Error>;
}

/// Where the maps that an operation reads come from.
#[derive(Debug)]
struct Reads {
    input: Vec<Segment>,
    /// The added map of a shortcut.
    added: Option<Vec<Segment>>,
}

/// What a training pass leaves for the backward pass.
struct Tape<T> {
    outputs: Vec<T>,
    /// The parameters that learn, by number, and what gradients are taken by.
    leaves: Vec<(usize, T)>,
}

/// A back end on a library.
pub struct Hosted<L: Library> {
    spec: Spec,
    graph: Graph,
    reads: Vec<Reads>,
    head_reads: [Vec<Segment>; 3],
    /// Per operation, the last one that reads its result; none for those that heads are made of.
    last_reader: Vec<Option<usize>>,
    mirror: Mirror,
    library: L,
    parameters: Vec<L::Tensor>,
    statistics: Vec<L::Tensor>,
    /// Whether main memory is ahead of the device.
    stale_parameters: bool,
    stale_statistics: bool,
    frozen: usize,
    heads: Heads,
    tape: Option<Tape<L::Tensor>>,
}

impl<L: Library> Hosted<L> {
    /// A network with these weights.
    pub(super) fn from_graph(spec: Spec, graph: Graph, library: L, state: &State) -> Result<Self, StateError> {
        let mut mirror = Mirror::new(&graph);
        mirror.import(state)?;
        let reads: Vec<Reads> = graph
            .ops
            .iter()
            .map(|op| match op {
                Op::Conv(conv) => {
                    let added = if let Tail::NormSilu(added) = conv.tail { added } else { None };
                    Reads { input: origin(&graph, conv.input), added: added.map(|view| origin(&graph, view)) }
                }
                Op::Upsample(from, _) | Op::MaxPool(from, _) => Reads { input: origin(&graph, *from), added: None },
            })
            .collect();
        let head_reads = graph.heads.map(|buffer| {
            let channels = graph.buffers[buffer].channels;
            origin(&graph, View { buffer, offset: 0, channels })
        });
        let mut last_reader = vec![None; graph.ops.len()];
        for (reader, reads) in reads.iter().enumerate() {
            for segment in reads.input.iter().chain(reads.added.iter().flatten()) {
                if let Atom::Op(made) = segment.atom {
                    last_reader[made] = Some(reader);
                }
            }
        }
        let heads = Heads::zeros(0, 0, 0, spec.classes);
        Ok(Self {
            spec,
            graph,
            reads,
            head_reads,
            last_reader,
            mirror,
            library,
            parameters: Vec::new(),
            statistics: Vec::new(),
            stale_parameters: true,
            stale_statistics: true,
            frozen: 0,
            heads,
            tape: None,
        })
    }

    /// Brings the device up to date.
    fn refresh(&mut self) -> Result<(), Error> {
        let Self { library, mirror, .. } = self;
        let upload = |arrays: &[Array]| {
            let numbers: Vec<f32> = arrays.iter().flat_map(|a| &a.data).copied().collect();
            let sizes: Vec<[usize; 4]> = arrays.iter().map(|a| a.sizes).collect();
            library.upload(&numbers, &sizes)
        };
        if self.stale_parameters {
            self.parameters = upload(&mirror.parameters)?;
            self.stale_parameters = false;
        }
        if self.stale_statistics {
            self.statistics = upload(&mirror.statistics)?;
            self.stale_statistics = false;
        }
        Ok(())
    }

    /// The map that these channels of earlier results make.
    fn gather(
        &self,
        segments: &[Segment],
        image: &L::Tensor,
        results: &[Option<(L::Tensor, usize)>],
    ) -> Result<L::Tensor, Error> {
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments {
            let (map, channels) = match segment.atom {
                Atom::Input => (image, 3),
                Atom::Op(made) => {
                    let (map, channels) = results[made].as_ref().expect("a result is kept until its last reader");
                    (map, *channels)
                }
            };
            let whole = segment.from == 0 && segment.to == channels;
            parts.push(if whole { map.clone() } else { self.library.channels(map, segment.from..segment.to)? });
        }
        if parts.len() == 1 { Ok(parts.remove(0)) } else { self.library.concat(&parts) }
    }

    /// The head levels of a batch; in training mode with what gradients can be taken by.
    fn pass(&mut self, images: Images<'_>, mode: Mode) -> Result<Tape<L::Tensor>, Error> {
        self.refresh()?;
        let image = self.library.upload_map(images.data, [images.batch, images.height, images.width, 3])?;
        let mut parameters = self.parameters.clone();
        let mut leaves = Vec::new();
        for (index, array) in self.mirror.parameters.iter().enumerate() {
            if mode == Mode::Train && array.module >= self.frozen {
                parameters[index] = self.library.tracked(&parameters[index])?;
                leaves.push((index, parameters[index].clone()));
            }
        }
        let mut results: Vec<Option<(L::Tensor, usize)>> = self.graph.ops.iter().map(|_| None).collect();
        let mut layer = 0;
        for (i, op) in self.graph.ops.iter().enumerate() {
            let x = self.gather(&self.reads[i].input, &image, &results)?;
            let result = match op {
                Op::Conv(conv) => {
                    let arrays = self.mirror.parameters_of[layer].clone();
                    let statistics = self.mirror.statistics_of[layer].clone();
                    layer += 1;
                    let learns = mode == Mode::Train && self.mirror.parameters[arrays.start].module >= self.frozen;
                    let arrays = &parameters[arrays];
                    let y = self.library.conv(&x, &arrays[0], conv.kernel, conv.stride)?;
                    let y = match conv.tail {
                        Tail::Bias(_) => self.library.add(&y, &arrays[1])?,
                        Tail::NormSilu(_) => {
                            let [mean, variance] = &mut self.statistics[statistics] else {
                                unreachable!("a normalisation has two statistics");
                            };
                            let norm = Norm { scale: &arrays[1], shift: &arrays[2], running: [mean, variance] };
                            let (y, new) = self.library.norm_silu(&y, norm, learns)?;
                            if let Some(new) = new {
                                [*mean, *variance] = new;
                            }
                            y
                        }
                    };
                    let y = match &self.reads[i].added {
                        Some(added) => self.library.add(&y, &self.gather(added, &image, &results)?)?,
                        None => y,
                    };
                    (y, conv.output.channels)
                }
                Op::Upsample(_, to) => (self.library.upsample(&x)?, to.channels),
                Op::MaxPool(_, to) => (self.library.max_pool(&x)?, to.channels),
            };
            results[i] = Some(result);
            for segment in self.reads[i].input.iter().chain(self.reads[i].added.iter().flatten()) {
                if let Atom::Op(made) = segment.atom
                    && self.last_reader[made] == Some(i)
                {
                    results[made] = None;
                }
            }
        }
        let mut outputs = Vec::new();
        for reads in &self.head_reads {
            outputs.push(self.gather(reads, &image, &results)?);
        }
        Ok(Tape { outputs, leaves })
    }

    fn run(&mut self, images: Images<'_>, mode: Mode) -> Result<Tape<L::Tensor>, Error> {
        if images.batch == 0 {
            return Ok(Tape { outputs: Vec::new(), leaves: Vec::new() });
        }
        let tape = self.pass(images, mode)?;
        let mut levels = Vec::with_capacity(tape.outputs.len());
        for output in &tape.outputs {
            levels.push(self.library.download_map(output)?);
        }
        let statistics = (mode == Mode::Train).then(|| self.library.download(&self.statistics)).transpose()?;
        // Nothing can fail from here on.
        for (level, data) in self.heads.levels.iter_mut().zip(levels) {
            level.data = data;
        }
        if let Some(statistics) = statistics {
            self.mirror.set_statistics(&statistics);
        }
        Ok(tape)
    }

    /// Tells a lack of memory from other failures.
    fn explain(&self, error: Error, images: Images<'_>) -> Error {
        let Error::Library { message, .. } = &error else { return error };
        if !message.to_lowercase().contains("out of memory") {
            return error;
        }
        // Libraries do not say how much they wanted; the native engine's need is of the same size.
        let size = [images.batch, images.height, images.width];
        let bytes = Native::memory(self.spec, size, Mode::Train, Precision::F32, self.frozen);
        Error::Memory { batch: images.batch, bytes }
    }
}

impl<L: Library> Backend for Hosted<L> {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn forward(&mut self, images: Images<'_>, mode: Mode) -> Result<&Heads, Error> {
        images.check()?;
        let Images { batch, height, width, .. } = images;
        self.tape = None;
        let shape = (self.heads.batch, self.heads.levels[0].height, self.heads.levels[0].width);
        if shape != (batch, height / 8, width / 8) {
            self.heads = Heads::zeros(batch, height, width, self.spec.classes);
        }
        match self.run(images, mode) {
            Ok(tape) => {
                self.tape = (mode == Mode::Train).then_some(tape);
                Ok(&self.heads)
            }
            Err(error) => {
                // Those on the device may have moved.
                self.stale_statistics = true;
                Err(self.explain(error, images))
            }
        }
    }

    fn heads(&self) -> &Heads {
        &self.heads
    }

    fn backward(&mut self, gradient: &Heads) -> Result<(), Error> {
        let Some(Tape { outputs, leaves }) = &self.tape else { return Err(Error::NoForward) };
        self.heads.check_gradient(gradient)?;
        let mut slopes = Vec::with_capacity(outputs.len());
        for (Level { height, width, channels, .. }, theirs) in self.heads.levels.iter().zip(&gradient.levels) {
            if self.heads.batch > 0 {
                slopes.push(self.library.upload_map(&theirs.data, [self.heads.batch, *height, *width, *channels])?);
            }
        }
        if !leaves.is_empty() {
            let (chosen, leaves): (Vec<usize>, Vec<L::Tensor>) = leaves.iter().cloned().unzip();
            let gradients = self.library.gradients(outputs, &slopes, &leaves)?;
            self.mirror.add_gradients(&chosen, &self.library.download(&gradients)?);
        }
        self.tape = None;
        Ok(())
    }

    fn freeze(&mut self, modules: usize) {
        self.frozen = modules;
        self.tape = None;
    }

    fn zero_gradients(&mut self) {
        self.mirror.zero_gradients();
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.stale_parameters = true;
        self.mirror.parameters()
    }

    fn buffers(&mut self) -> Vec<Buffer<'_>> {
        self.stale_statistics = true;
        self.mirror.buffers()
    }

    fn state(&self) -> State {
        self.mirror.export(self.spec)
    }

    fn load(&mut self, state: &State) -> Result<(), StateError> {
        self.mirror.import(state)?;
        (self.stale_parameters, self.stale_statistics, self.tape) = (true, true, None);
        Ok(())
    }
}
