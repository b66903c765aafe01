//! The back end `tch`: the network on LibTorch, on the processor or an NVIDIA card, channels last.
//!
//! In 16 bits (bf16), pictures and weights are cast before each convolution and maps stay in 16 bits; parameters,
//! statistics and gradients stay in 32. LibTorch spreads its sums over threads in its own way: results repeat on one machine
//! with one number of threads, and differ in the last digits elsewhere. Owns the calls of LibTorch; refuses to know the
//! network.

use std::ops::Range;

use ::tch::{Cuda, Device, Kind, TchError, Tensor};

use super::{
    Error, Spec, State, StateError,
    hosted::{EPSILON, Hosted, Library, MOMENTUM, Norm},
    native::Precision,
};

/// The network on LibTorch.
pub type Tch = Hosted<LibTorch>;

/// Where LibTorch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The processor, on as many threads as the rayon pool that the network is made in.
    Processor,
    /// The CUDA card of this number.
    Cuda(usize),
}

/// LibTorch on a device, with numbers of a kind.
#[derive(Clone, Copy, Debug)]
pub struct LibTorch {
    device: Device,
    kind: Kind,
}

/// CUDA cards that this LibTorch can use.
pub fn cards() -> usize {
    if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or_default() } else { 0 }
}

impl Tch {
    /// A network with these weights.
    pub fn new(spec: Spec, state: &State, place: Place, precision: Precision) -> Result<Self, StateError> {
        Self::from_graph(spec, spec.graph(), LibTorch::new(place, precision), state)
    }
}

impl LibTorch {
    pub(super) fn new(place: Place, precision: Precision) -> Self {
        let device = match place {
            Place::Processor => {
                ::tch::set_num_threads(i32::try_from(rayon::current_num_threads()).unwrap_or(i32::MAX));
                Device::Cpu
            }
            Place::Cuda(index) => Device::Cuda(index),
        };
        let kind = if precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
        Self { device, kind }
    }
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        // The rest is a trace of C++ calls.
        let text = error.to_string();
        let message = text.lines().next().unwrap_or("it said nothing").to_owned();
        Self::Library { library: "LibTorch", message }
    }
}

/// Copies of a handle are the same numbers.
#[derive(Debug)]
pub struct Handle(Tensor);

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

fn sizes<const N: usize>(sizes: [usize; N]) -> [i64; N] {
    sizes.map(|size| size as i64)
}

/// The numbers of a contiguous tensor in main memory.
fn numbers(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    let len = tensor.numel();
    let mut numbers = vec![0.0; len];
    tensor.f_copy_data(&mut numbers, len)?;
    Ok(numbers)
}

impl Library for LibTorch {
    type Tensor = Handle;

    fn upload(&self, numbers: &[f32], arrays: &[[usize; 4]]) -> Result<Vec<Handle>, Error> {
        let all = Tensor::f_from_slice(numbers)?.f_to(self.device)?;
        let mut start = 0;
        let cut = |array: &[usize; 4]| {
            let len = array.iter().product::<usize>() as i64;
            let part = all.f_narrow(0, start, len)?.f_view(sizes(*array))?;
            start += len;
            // A copy of its own, so that statistics that move in place leave their neighbours alone.
            let part = part.f_permute([3, 2, 0, 1])?.f_contiguous()?;
            Ok(Handle(if array[0] > 1 { channels_last(&part)? } else { part }))
        };
        arrays.iter().map(cut).collect()
    }

    fn download(&self, tensors: &[Handle]) -> Result<Vec<f32>, Error> {
        let flat = |t: &Handle| t.0.f_permute([2, 3, 1, 0])?.f_reshape([-1]);
        let parts: Vec<Tensor> = tensors.iter().map(flat).collect::<Result<_, TchError>>()?;
        numbers(&Tensor::f_cat(&parts, 0)?)
    }

    fn upload_map(&self, numbers: &[f32], map: [usize; 4]) -> Result<Handle, Error> {
        let map = Tensor::f_from_slice(numbers)?.f_to(self.device)?.f_view(sizes(map))?;
        Ok(Handle(map.f_permute([0, 3, 1, 2])?))
    }

    fn download_map(&self, map: &Handle) -> Result<Vec<f32>, Error> {
        numbers(&map.0.f_detach()?.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_to_kind(Kind::Float)?)
    }

    fn tracked(&self, tensor: &Handle) -> Result<Handle, Error> {
        Ok(Handle(tensor.0.f_detach()?.f_set_requires_grad(true)?))
    }

    fn conv(&self, x: &Handle, weight: &Handle, kernel: usize, stride: usize) -> Result<Handle, Error> {
        let (x, weight) = (x.0.f_to_kind(self.kind)?, weight.0.f_to_kind(self.kind)?);
        let (stride, padding) = (sizes([stride; 2]), sizes([kernel / 2; 2]));
        Ok(Handle(x.f_conv2d::<Tensor>(&weight, None, stride, padding, [1, 1], 1)?))
    }

    fn norm_silu(
        &self,
        x: &Handle,
        norm: Norm<'_, Handle>,
        batch: bool,
    ) -> Result<(Handle, Option<[Handle; 2]>), Error> {
        let flat = |t: &Handle| t.0.f_view([-1]);
        let [mean, variance] = norm.running;
        // Views of the running statistics: these move in place.
        let (scale, shift, m, v) = (flat(norm.scale)?, flat(norm.shift)?, flat(mean)?, flat(variance)?);
        let y = x.0.f_batch_norm(Some(scale), Some(shift), Some(m), Some(v), batch, MOMENTUM, EPSILON, true)?;
        Ok((Handle(y.f_silu()?), batch.then(|| [mean.clone(), variance.clone()])))
    }

    fn add(&self, a: &Handle, b: &Handle) -> Result<Handle, Error> {
        Ok(Handle(a.0.f_add(&b.0)?))
    }

    fn concat(&self, parts: &[Handle]) -> Result<Handle, Error> {
        let parts: Vec<&Tensor> = parts.iter().map(|p| &p.0).collect();
        Ok(Handle(Tensor::f_cat(&parts, 1)?))
    }

    fn channels(&self, x: &Handle, range: Range<usize>) -> Result<Handle, Error> {
        Ok(Handle(x.0.f_narrow(1, range.start as i64, range.len() as i64)?))
    }

    fn upsample(&self, x: &Handle) -> Result<Handle, Error> {
        let (_, _, height, width) = x.0.size4()?;
        Ok(Handle(x.0.f_upsample_nearest2d([2 * height, 2 * width], None, None)?))
    }

    fn max_pool(&self, x: &Handle) -> Result<Handle, Error> {
        Ok(Handle(x.0.f_max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false)?))
    }

    fn gradients(&self, outputs: &[Handle], slopes: &[Handle], leaves: &[Handle]) -> Result<Vec<Handle>, Error> {
        let mut sums = Vec::with_capacity(outputs.len());
        for (output, slope) in outputs.iter().zip(slopes) {
            sums.push(output.0.f_to_kind(Kind::Float)?.f_mul(&slope.0)?.f_sum(Kind::Float)?);
        }
        let sum = Tensor::f_stack(&sums, 0)?.f_sum(Kind::Float)?;
        let leaves: Vec<&Tensor> = leaves.iter().map(|l| &l.0).collect();
        Ok(Tensor::f_run_backward(&[sum], &leaves, false, false)?.into_iter().map(Handle).collect())
    }
}

/// The same numbers with the channels of a cell side by side in memory.
fn channels_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}
