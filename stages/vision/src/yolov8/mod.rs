//! YOLOv8 detection: one description of the network, the interface of the back ends that run it, and the native one.
//!
//! Architecture: the published YOLOv8 description (five sizes, anchor-free, distribution focal regression from
//! "Generalized Focal Loss", Li et al. 2020). Parameter names and layouts mirror public checkpoints, so that weights can
//! be exchanged; this is an independent implementation.
//!
//! Owns the forward and backward passes, raw head outputs, their decoding and the named state. Refuses to own losses,
//! optimizers, data loading, non-maximum suppression and drawing.

#[cfg(feature = "burn")]
pub mod burn;
#[cfg(test)]
mod conformance;
pub mod decode;
pub mod engine;
pub mod export;
#[cfg(any(feature = "tch", feature = "burn"))]
mod hosted;
#[cfg(any(feature = "tch", feature = "burn"))]
mod mirror;
pub mod native;
pub mod onnx;
pub mod spec;
pub mod state;
#[cfg(feature = "tch")]
pub mod tch;
pub mod weights;
mod wiring;

pub use decode::{Anchor, Decoded, anchors, decode};
pub use native::Native;
pub use spec::{Size, Spec};
pub use state::{State, StateError, Tensor};

/// Bins of the distribution over each box side (`reg_max` of the recipe).
pub const BINS: usize = 16;
/// Box channels of the raw head: four sides (left, top, right, bottom) times [`BINS`].
pub const BOX_CHANNELS: usize = 4 * BINS;
/// Input pixels per cell of the three head levels.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// Why a network could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The picture size does not fit the strides.
    #[error("input of {width}x{height} pixels: both sides must be positive multiples of 32")]
    InputSize {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
    },
    /// The data do not have the announced shape.
    #[error("{what}: {got} numbers, where the shape needs {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Numbers found.
        got: usize,
        /// Numbers needed.
        expected: usize,
    },
    /// The system has no memory for a batch of this size. Weights, statistics, gradients and heads are as before the
    /// call.
    #[error("no memory for a batch of {batch} pictures ({bytes} bytes)")]
    Memory {
        /// Pictures.
        batch: usize,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A library that a back end computes with failed.
    #[error("{library}: {message}")]
    Library {
        /// Which.
        library: &'static str,
        /// What it said.
        message: String,
    },
    /// Backward without a forward pass in training mode before it.
    #[error("backward needs a forward pass in training mode just before it")]
    NoForward,
}

/// How a forward pass treats normalisation, and whether it keeps what backward needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; running statistics are updated (momentum .03); activations are kept for [`Backend::backward`].
    /// Frozen modules ([`Backend::freeze`]) run as in [`Mode::Eval`].
    Train,
    /// Running statistics, nothing updated. The result of an image does not depend on the rest of its batch.
    Eval,
}

/// A batch of RGB pictures, `[batch, height, width, 3]`, values 0..=1; sides are multiples of 32.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// `batch * height * width * 3` numbers.
    pub data: &'a [f32],
    /// Pictures.
    pub batch: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

impl Images<'_> {
    /// Sides that a network can take, and as many numbers as they say.
    fn check(self) -> Result<(), Error> {
        let Self { data, batch, height, width } = self;
        if height == 0 || width == 0 || !height.is_multiple_of(32) || !width.is_multiple_of(32) {
            return Err(Error::InputSize { width, height });
        }
        let expected = batch * height * width * 3;
        if data.len() != expected {
            return Err(Error::Length { what: "input pictures", got: data.len(), expected });
        }
        Ok(())
    }
}

/// One level of the raw head, `[batch, height, width, channels]`; also the shape of its gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    /// Input pixels per cell.
    pub stride: usize,
    /// Cells.
    pub height: usize,
    /// Cells.
    pub width: usize,
    /// [`BOX_CHANNELS`] logits (side-major: 16 of left, top, right, bottom), then one logit a class.
    pub channels: usize,
    /// `batch * height * width * channels` numbers.
    pub data: Vec<f32>,
}

/// Raw head output (or the gradient of it), strides 8, 16, 32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads {
    /// Pictures.
    pub batch: usize,
    /// Finest level first.
    pub levels: [Level; 3],
}

impl Heads {
    /// Zeros of the shape that pictures of this size give.
    pub fn zeros(batch: usize, height: usize, width: usize, classes: usize) -> Self {
        let channels = BOX_CHANNELS + classes;
        let levels = STRIDES.map(|stride| {
            let (height, width) = (height / stride, width / stride);
            Level { stride, height, width, channels, data: vec![0.0; batch * height * width * channels] }
        });
        Self { batch, levels }
    }

    /// A gradient by these heads has as many numbers in each level.
    fn check_gradient(&self, gradient: &Self) -> Result<(), Error> {
        for (ours, theirs) in self.levels.iter().zip(&gradient.levels) {
            let (expected, got) = (ours.data.len(), theirs.data.len());
            if expected != got {
                return Err(Error::Length { what: "gradient of a head level", got, expected });
            }
        }
        Ok(())
    }

    /// Zeros of the same shape.
    pub fn zeros_like(&self) -> Self {
        let mut zeros = self.clone();
        zeros.levels.iter_mut().for_each(|level| level.data.fill(0.0));
        zeros
    }
}

/// Binary cross entropy of one picture's class logits on one level when there is nothing to find, summed; writes its
/// gradient times `slope`, and zeros to the box channels. `raw` and `gradient` are `[height, width, channels]`.
pub fn background_loss(raw: &[f32], channels: usize, slope: f32, gradient: &mut [f32]) -> f64 {
    assert_eq!(raw.len(), gradient.len(), "a gradient has the shape of what it is by");
    crate::kernels::logits::background(raw, channels, BOX_CHANNELS, slope, gradient)
}

/// What a parameter is, for the optimizer's groups: only [`ParameterKind::Weight`] decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// Convolution kernel.
    Weight,
    /// Convolution bias.
    Bias,
    /// Scale of a normalisation.
    NormWeight,
    /// Shift of a normalisation.
    NormBias,
}

/// A trainable array in the back end's own layout (the same at every call and on every machine).
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The public checkpoint's key, for example `model.0.conv.weight`.
    pub name: &'a str,
    /// For the optimizer's groups.
    pub kind: ParameterKind,
    /// Values, to be changed in place.
    pub data: &'a mut [f32],
    /// Gradient, summed over the backward passes since [`Backend::zero_gradients`].
    pub gradient: &'a [f32],
}

/// A running statistic of a normalisation (not trained; belongs into an average of weights).
#[derive(Debug)]
pub struct Buffer<'a> {
    /// The public checkpoint's key, for example `model.0.bn.running_mean`.
    pub name: &'a str,
    /// Values, to be changed in place.
    pub data: &'a mut [f32],
}

/// A back end that trains and runs the network of a [`Spec`].
pub trait Backend {
    /// What network this is.
    fn spec(&self) -> Spec;

    /// Raw head of a batch. The result stays valid until the next call.
    fn forward(&mut self, images: Images<'_>, mode: Mode) -> Result<&Heads, Error>;

    /// The head output of the latest forward pass.
    fn heads(&self) -> &Heads;

    /// Adds the parameters' gradients for the latest training forward pass, given the loss's gradient by the raw head.
    fn backward(&mut self, gradient: &Heads) -> Result<(), Error>;

    /// From now on the first `modules` modules (`model.0` and on) do not learn: in training mode too they normalise with
    /// the running statistics, which stay as they are, and they get no gradients. Ends the wait of a training forward
    /// pass for its backward.
    fn freeze(&mut self, modules: usize);

    /// Sets all gradients to zero.
    fn zero_gradients(&mut self);

    /// Every trainable parameter, in one fixed order.
    fn parameters(&mut self) -> Vec<Parameter<'_>>;

    /// Every running statistic, in one fixed order.
    fn buffers(&mut self) -> Vec<Buffer<'_>>;

    /// All weights and statistics under public names and layouts (`[out, in, kernel_h, kernel_w]`).
    fn state(&self) -> State;

    /// Replaces all weights and statistics; nothing changes when an error is returned.
    fn load(&mut self, state: &State) -> Result<(), StateError>;
}
