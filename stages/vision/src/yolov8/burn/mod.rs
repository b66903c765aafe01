//! The back end `burn`: the network on graphics processors without LibTorch, through Vulkan, Metal or WebGPU, and with the
//! feature `burn-cuda` through CUDA; for tests also on the processor.
//!
//! In 32 bits. Kernels are chosen by shape alone, never by timing, so that results repeat on one device; they differ in the
//! last digits between devices. Owns the calls of Burn; refuses to know the network.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use burn_autodiff::Autodiff;
use burn_ndarray::NdArray;
use burn_tensor::{
    Tensor, TensorData, activation,
    backend::AutodiffBackend,
    module,
    ops::{ConvOptions, InterpolateMode, InterpolateOptions},
};
use burn_wgpu::{RuntimeOptions, Wgpu, WgpuDevice, graphics::AutoGraphicsApi, init_setup};

use super::{
    Error, Spec, State, StateError,
    hosted::{EPSILON, Hosted, Library, MOMENTUM, Norm},
};

/// The network on Burn, on one of its devices.
pub type Burn<B> = Hosted<Tensors<B>>;
/// On the processor, for tests: slow.
pub type Processor = Autodiff<NdArray<f32>>;
/// On Vulkan, Metal or WebGPU.
pub type Graphics = Autodiff<Wgpu<f32, i32>>;
/// On CUDA.
#[cfg(feature = "burn-cuda")]
pub type Cuda = Autodiff<burn_cuda::Cuda<f32, i32>>;

/// Burn on a device.
#[derive(Debug)]
pub struct Tensors<B: AutodiffBackend> {
    device: B::Device,
}

impl<B: AutodiffBackend> Burn<B> {
    /// A network with these weights on the best device of this kind.
    pub fn new(spec: Spec, state: &State) -> Result<Self, StateError> {
        Self::from_graph(spec, spec.graph(), Tensors::new(), state)
    }
}

impl<B: AutodiffBackend> Tensors<B> {
    pub(super) fn new() -> Self {
        Self { device: B::Device::default() }
    }
}

/// What the device of this kind calls itself, after it computed something; or why it cannot.
pub fn device_name<B: AutodiffBackend>() -> Result<String, Error> {
    guarded(|| {
        let device = B::Device::default();
        let sum = Tensor::<B, 1>::from_data([1.0, 2.0, 4.0], &device).sum();
        let sum = numbers(sum)?;
        if sum != [7.0] {
            return Err(failed(format!("1 + 2 + 4 is {sum:?} on this device")));
        }
        Ok(B::name(&device))
    })
}

/// What [`Graphics`] runs on.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Of the device and its interface, for example `NVIDIA H100 (Vulkan)`.
    pub name: String,
    /// It is the processor in disguise, as with a software driver.
    pub software: bool,
}

/// What [`Graphics`] runs on; or why there is nothing.
pub fn graphics_adapter() -> Result<Adapter, Error> {
    // A device is set up once in the life of a process.
    static ADAPTER: OnceLock<Result<Adapter, String>> = OnceLock::new();
    let set_up = || {
        let found = guarded(|| {
            let setup = init_setup::<AutoGraphicsApi>(&WgpuDevice::default(), RuntimeOptions::default());
            let info = setup.adapter.get_info();
            let software = format!("{:?}", info.device_type) == "Cpu";
            Ok(Adapter { name: format!("{} ({:?})", info.name, info.backend), software })
        });
        found.map_err(|e| e.to_string())
    };
    ADAPTER.get_or_init(set_up).clone().map_err(failed)
}

fn failed(message: String) -> Error {
    Error::Library { library: "Burn", message }
}

/// Burn panics where other libraries return errors: without a device, without memory.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(failed(text.unwrap_or("it panicked").to_owned()))
    })
}

fn numbers<B: AutodiffBackend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>, Error> {
    let data = tensor.inner().try_into_data().map_err(|e| failed(e.to_string()))?;
    data.into_vec::<f32>().map_err(|e| failed(format!("{e:?}")))
}

impl<B: AutodiffBackend> Library for Tensors<B> {
    type Tensor = Tensor<B, 4>;

    fn upload(&self, numbers: &[f32], arrays: &[[usize; 4]]) -> Result<Vec<Tensor<B, 4>>, Error> {
        guarded(|| {
            let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
            let all = Tensor::<B, 1>::from_data(data, &self.device);
            let mut start = 0;
            let cut = |array: &[usize; 4]| {
                let len = array.iter().product();
                let part = all.clone().narrow(0, start, len).reshape(*array);
                start += len;
                part.permute([3, 2, 0, 1])
            };
            Ok(arrays.iter().map(cut).collect())
        })
    }

    fn download(&self, tensors: &[Tensor<B, 4>]) -> Result<Vec<f32>, Error> {
        guarded(|| {
            let flat = |t: &Tensor<B, 4>| {
                let len = t.shape().num_elements();
                t.clone().permute([2, 3, 1, 0]).reshape([len])
            };
            self::numbers(Tensor::cat(tensors.iter().map(flat).collect(), 0))
        })
    }

    fn upload_map(&self, numbers: &[f32], sizes: [usize; 4]) -> Result<Tensor<B, 4>, Error> {
        guarded(|| {
            let data = TensorData::new(numbers.to_vec(), sizes);
            Ok(Tensor::from_data(data, &self.device).permute([0, 3, 1, 2]))
        })
    }

    fn download_map(&self, map: &Tensor<B, 4>) -> Result<Vec<f32>, Error> {
        guarded(|| self::numbers(map.clone().permute([0, 2, 3, 1])))
    }

    fn tracked(&self, tensor: &Tensor<B, 4>) -> Result<Tensor<B, 4>, Error> {
        guarded(|| Ok(Tensor::from_inner(tensor.clone().inner()).require_grad()))
    }

    fn conv(
        &self,
        x: &Tensor<B, 4>,
        weight: &Tensor<B, 4>,
        kernel: usize,
        stride: usize,
    ) -> Result<Tensor<B, 4>, Error> {
        guarded(|| {
            let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
            Ok(module::conv2d(x.clone(), weight.clone(), None, options))
        })
    }

    fn norm_silu(
        &self,
        x: &Tensor<B, 4>,
        norm: Norm<'_, Tensor<B, 4>>,
        batch: bool,
    ) -> Result<(Tensor<B, 4>, Option<[Tensor<B, 4>; 2]>), Error> {
        guarded(|| {
            let [running_mean, running_variance] = norm.running;
            let mean_of = |t: Tensor<B, 4>| t.mean_dim(3).mean_dim(2).mean_dim(0);
            let (centred, variance, new) = if batch {
                let mean = mean_of(x.clone());
                let centred = x.clone() - mean.clone();
                let variance = mean_of(centred.clone().square());
                let [n, _, h, w] = x.dims();
                let count = (n * h * w) as f64;
                // The running variance is of the sample, without bias.
                let unbiased = variance.clone().detach() * (count / (count - 1.0).max(1.0));
                let moved = |old: &Tensor<B, 4>, new: Tensor<B, 4>| old.clone() + (new - old.clone()) * MOMENTUM;
                let new = [moved(running_mean, mean.detach()), moved(running_variance, unbiased)];
                (centred, variance, Some(new))
            } else {
                (x.clone() - running_mean.clone(), running_variance.clone(), None)
            };
            let factor = norm.scale.clone() / (variance + EPSILON).sqrt();
            Ok((activation::silu(centred * factor + norm.shift.clone()), new))
        })
    }

    fn add(&self, a: &Tensor<B, 4>, b: &Tensor<B, 4>) -> Result<Tensor<B, 4>, Error> {
        guarded(|| Ok(a.clone() + b.clone()))
    }

    fn concat(&self, parts: &[Tensor<B, 4>]) -> Result<Tensor<B, 4>, Error> {
        guarded(|| Ok(Tensor::cat(parts.to_vec(), 1)))
    }

    fn channels(&self, x: &Tensor<B, 4>, range: Range<usize>) -> Result<Tensor<B, 4>, Error> {
        guarded(|| Ok(x.clone().narrow(1, range.start, range.len())))
    }

    fn upsample(&self, x: &Tensor<B, 4>) -> Result<Tensor<B, 4>, Error> {
        guarded(|| {
            let [_, _, height, width] = x.dims();
            let options = InterpolateOptions::new(InterpolateMode::Nearest);
            Ok(module::interpolate(x.clone(), [2 * height, 2 * width], options))
        })
    }

    fn max_pool(&self, x: &Tensor<B, 4>) -> Result<Tensor<B, 4>, Error> {
        guarded(|| Ok(module::max_pool2d(x.clone(), [5, 5], [1, 1], [2, 2], [1, 1], false)))
    }

    fn gradients(
        &self,
        outputs: &[Tensor<B, 4>],
        slopes: &[Tensor<B, 4>],
        leaves: &[Tensor<B, 4>],
    ) -> Result<Vec<Tensor<B, 4>>, Error> {
        guarded(|| {
            let sums = outputs.iter().zip(slopes).map(|(o, s)| (o.clone() * s.clone()).sum());
            let sum = sums.reduce(|a, b| a + b).ok_or_else(|| failed("a network without head".into()))?;
            let gradients = sum.backward();
            let by = |leaf: &Tensor<B, 4>| {
                let gradient = leaf.grad(&gradients);
                gradient.map(Tensor::from_inner).ok_or_else(|| failed("a parameter has no gradient".into()))
            };
            leaves.iter().map(by).collect()
        })
    }
}
