//! Which back end runs the network, and on what.
//!
//! Owns the list of back ends, which of them are compiled in, and the proof that a graphics processor computes the network
//! rightly. Refuses to choose: callers say what they want.

use super::{Backend, Spec, State, StateError, native::Native, native::Precision};
#[cfg(any(feature = "tch", feature = "burn"))]
use super::{Images, Mode, Size, hosted::Hosted, hosted::Library};

/// The back ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This project's own, on the processor.
    Native,
    /// LibTorch.
    Tch,
    /// Burn.
    Burn,
}

/// What a back end computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    Cpu,
    /// The first graphics processor.
    Gpu,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The program was built without it.
    #[error(
        "this program was built without the back end `{name}`: build it with `cargo build --release --features {name}`, or take `native`"
    )]
    NotCompiled {
        /// Of the back end, and of the cargo feature.
        name: &'static str,
    },
    /// There is none, or it computes wrongly.
    #[error("the back end `{name}` has no graphics processor to run on: {why}")]
    NoGpu {
        /// Of the back end.
        name: &'static str,
        /// In words.
        why: String,
    },
    /// The back end has no such numbers.
    #[error("the back end `{name}` computes in 32 bits only: take `precision: f32`")]
    Precision {
        /// Of the back end.
        name: &'static str,
    },
    /// The weights do not fit.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A network that is ready, and where it runs, for example `cuda:0 (tch, bf16)`.
pub struct Opened {
    /// The network.
    pub network: Box<dyn Backend>,
    /// In words.
    pub place: String,
}

impl Engine {
    /// All of them, the one that is always there first.
    pub const ALL: [Self; 3] = [Self::Native, Self::Tch, Self::Burn];

    /// As in settings; also the name of the cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tch => "tch",
            Self::Burn => "burn",
        }
    }

    /// Whether this program has it.
    pub fn compiled(self) -> bool {
        match self {
            Self::Native => true,
            Self::Tch => cfg!(feature = "tch"),
            Self::Burn => cfg!(feature = "burn"),
        }
    }

    /// The graphics processor on which this back end gave the same head levels as the native engine; or why there is none.
    pub fn proven_gpu(self) -> Result<String, OpenError> {
        let name = self.name();
        match self {
            _ if !self.compiled() => Err(OpenError::NotCompiled { name }),
            Self::Native => Err(OpenError::NoGpu { name, why: "it runs on the processor".into() }),
            #[cfg(feature = "tch")]
            Self::Tch => tch_gpu().map(|(_, place)| place).map_err(|why| OpenError::NoGpu { name, why }),
            #[cfg(feature = "burn")]
            Self::Burn => burn_gpu().map(|(_, place)| place).map_err(|why| OpenError::NoGpu { name, why }),
            #[allow(unreachable_patterns, reason = "reachable without one of the features")]
            _ => unreachable!("a back end that is not compiled in was refused above"),
        }
    }

    /// A network with these weights.
    pub fn open(self, spec: Spec, state: &State, device: Device, precision: Precision) -> Result<Opened, OpenError> {
        let name = self.name();
        match self {
            _ if !self.compiled() => Err(OpenError::NotCompiled { name }),
            Self::Native if device == Device::Gpu => {
                Err(OpenError::NoGpu { name, why: "it runs on the processor".into() })
            }
            Self::Native => {
                let network = Native::from_state(spec, state)?.with_precision(precision);
                let place =
                    format!("cpu (native, {}, {})", precision.name(), super::native::Instructions::chosen().name());
                Ok(Opened { network: Box::new(network), place })
            }
            #[cfg(feature = "tch")]
            Self::Tch => {
                use super::tch::{Place, Tch};
                let (at, place) = match device {
                    Device::Cpu => (Place::Processor, "cpu".to_owned()),
                    Device::Gpu => tch_gpu().map_err(|why| OpenError::NoGpu { name, why })?,
                };
                let network = Tch::new(spec, state, at, precision)?;
                Ok(Opened { network: Box::new(network), place: format!("{place} (tch, {})", precision.name()) })
            }
            #[cfg(feature = "burn")]
            Self::Burn if precision != Precision::F32 => Err(OpenError::Precision { name }),
            #[cfg(feature = "burn")]
            Self::Burn => {
                let (open, place) = match device {
                    Device::Cpu => (open_burn::<super::burn::Processor> as OpenBurn, "cpu".to_owned()),
                    Device::Gpu => burn_gpu().map_err(|why| OpenError::NoGpu { name, why })?,
                };
                Ok(Opened { network: open(spec, state)?, place: format!("{place} (burn, f32)") })
            }
            #[allow(unreachable_patterns, reason = "reachable without one of the features")]
            _ => unreachable!("a back end that is not compiled in was refused above"),
        }
    }
}

/// Head levels may be this far from the native engine's, relative to their norm: cards multiply in TF32.
#[cfg(any(feature = "tch", feature = "burn"))]
const PROOF: f32 = 0.02;

/// Runs a small picture through a network on the card and on the native engine.
#[cfg(any(feature = "tch", feature = "burn"))]
fn prove<L: Library>(open: impl FnOnce(Spec, &State) -> Result<Hosted<L>, StateError>) -> Result<(), String> {
    let spec = Spec { size: Size::N, classes: 1 };
    let mut native = Native::new(spec, 1);
    let mut network = open(spec, &native.state()).map_err(|e| e.to_string())?;
    let data: Vec<f32> = (0..64 * 64 * 3).map(|i| (i % 97) as f32 / 97.0).collect();
    let images = Images { data: &data, batch: 1, height: 64, width: 64 };
    let expected = native.forward(images, Mode::Eval).map_err(|e| e.to_string())?;
    let found = network.forward(images, Mode::Eval).map_err(|e| e.to_string())?;
    for (a, b) in found.levels.iter().zip(&expected.levels) {
        let far: f32 = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).powi(2)).sum();
        let norm: f32 = b.data.iter().map(|b| b * b).sum();
        // Written so that a number that is none is an error too.
        if far.sqrt() <= PROOF * norm.sqrt() {
            continue;
        }
        return Err(format!("it computes something else than the processor (stride {})", a.stride));
    }
    Ok(())
}

#[cfg(feature = "tch")]
fn tch_gpu() -> Result<(super::tch::Place, String), String> {
    use super::tch::{Place, Tch, cards};
    if cards() == 0 {
        return Err(
            "LibTorch finds no CUDA card (is it a LibTorch with CUDA, and the driver's own `nvidia-smi` content?)"
                .into(),
        );
    }
    let place = Place::Cuda(0);
    prove(|spec, state| Tch::new(spec, state, place, Precision::F32))?;
    Ok((place, "cuda:0".into()))
}

#[cfg(feature = "burn")]
type OpenBurn = fn(Spec, &State) -> Result<Box<dyn Backend>, StateError>;

#[cfg(feature = "burn")]
fn open_burn<B: burn_tensor::backend::AutodiffBackend>(
    spec: Spec,
    state: &State,
) -> Result<Box<dyn Backend>, StateError> {
    Ok(Box::new(super::burn::Burn::<B>::new(spec, state)?))
}

#[cfg(feature = "burn")]
fn proven_burn<B: burn_tensor::backend::AutodiffBackend>() -> Result<(OpenBurn, String), String> {
    let name = super::burn::device_name::<B>().map_err(|e| e.to_string())?;
    prove(super::burn::Burn::<B>::new)?;
    Ok((open_burn::<B> as OpenBurn, name))
}

/// CUDA where it is compiled in and works, else what the graphics driver offers.
#[cfg(feature = "burn")]
fn burn_gpu() -> Result<(OpenBurn, String), String> {
    #[cfg(feature = "burn-cuda")]
    let no_cuda = match proven_burn::<super::burn::Cuda>() {
        Ok(found) => return Ok(found),
        Err(why) => format!("CUDA: {why}; "),
    };
    #[cfg(not(feature = "burn-cuda"))]
    let no_cuda = String::new();
    let adapter = super::burn::graphics_adapter().map_err(|e| format!("{no_cuda}{e}"))?;
    if adapter.software {
        return Err(format!("{no_cuda}the graphics driver `{}` computes on the processor", adapter.name));
    }
    let (open, _) = proven_burn::<super::burn::Graphics>().map_err(|why| format!("{no_cuda}{why}"))?;
    Ok((open, adapter.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_engine_is_always_there_and_has_no_gpu() {
        let spec = Spec { size: super::super::Size::N, classes: 1 };
        let state = Native::new(spec, 0).state();
        let opened = Engine::Native.open(spec, &state, Device::Cpu, Precision::Bf16).unwrap();
        assert!(opened.place.starts_with("cpu (native, bf16, ") && opened.network.state() == state, "{}", opened.place);
        assert!(matches!(Engine::Native.proven_gpu(), Err(OpenError::NoGpu { name: "native", .. })));
    }

    #[test]
    fn back_ends_that_are_not_compiled_in_name_their_feature() {
        let spec = Spec { size: super::super::Size::N, classes: 1 };
        let state = Native::new(spec, 0).state();
        for engine in Engine::ALL {
            match engine.open(spec, &state, Device::Cpu, Precision::F32) {
                Ok(_) => assert!(engine.compiled()),
                Err(e) => {
                    assert!(!engine.compiled() && e.to_string().contains(&format!("--features {}", engine.name())))
                }
            }
        }
    }
}
