//! What every back end of the network must do, run for each that is compiled in.
//!
//! Small networks, one for each operation, are compared with their definition in 64 bits and, for gradients, with its
//! differences; the whole network with the native engine, which a fixture of an independent implementation pins (see
//! `tests/yolov8.rs`). Owns that suite; refuses to test what only one back end has.

mod cases;
pub(super) mod definition;

use super::{
    Backend, Error, Heads, Images, Mode, Native, ParameterKind, Size, Spec, State, StateError, Tensor,
    native::Precision, spec::Graph,
};
use cases::{CLASSES, Case};
use definition::{Outcome, evaluate, module};

/// Distance in 16 bits relative to that of the native engine in 16 bits, which rounds at fewer places.
const ROUGHER: f64 = 3.0;

/// A back end, and how far its numbers may be from others'.
struct Subject {
    name: &'static str,
    make: fn(Spec, Graph, &State) -> Result<Box<dyn Backend>, StateError>,
    /// Head levels: distance relative to the norm of the level. Statistics and gradients: of the array.
    head: f64,
    gradient: f64,
}

/// 32-bit numbers: what normalisations of a dozen numbers leave of their digits.
const F32: [f64; 2] = [1e-4, 1e-3];
/// 16-bit numbers, 8 bits of them a mantissa.
#[cfg(feature = "tch")]
const BF16: [f64; 2] = [0.06, 0.25];

/// Past the capture of test output: a skip must be seen.
#[cfg(any(feature = "tch", feature = "burn"))]
fn tell(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn native(precision: Precision, spec: Spec, graph: Graph, state: &State) -> Result<Native, StateError> {
    let mut native = Native::from_graph(spec, graph, 0).with_precision(precision);
    native.load(state)?;
    Ok(native)
}

fn native_f32() -> Option<Subject> {
    let make: fn(Spec, Graph, &State) -> _ =
        |spec, graph, state| Ok(Box::new(native(Precision::F32, spec, graph, state)?) as _);
    Some(Subject { name: "native", make, head: F32[0], gradient: F32[1] })
}

#[cfg(feature = "tch")]
fn tch_processor() -> Option<Subject> {
    use super::tch::{LibTorch, Place, Tch};
    let make: fn(Spec, Graph, &State) -> _ = |spec, graph, state| {
        let library = LibTorch::new(Place::Processor, Precision::F32);
        Ok(Box::new(Tch::from_graph(spec, graph, library, state)?) as _)
    };
    Some(Subject { name: "tch on the processor", make, head: F32[0], gradient: F32[1] })
}

#[cfg(feature = "tch")]
fn tch_bf16() -> Option<Subject> {
    use super::tch::{LibTorch, Place, Tch};
    let make: fn(Spec, Graph, &State) -> _ = |spec, graph, state| {
        let library = LibTorch::new(Place::Processor, Precision::Bf16);
        Ok(Box::new(Tch::from_graph(spec, graph, library, state)?) as _)
    };
    Some(Subject { name: "tch on the processor in bf16", make, head: BF16[0], gradient: BF16[1] })
}

#[cfg(feature = "tch")]
fn tch_cuda() -> Option<Subject> {
    use super::tch::{LibTorch, Place, Tch, cards};
    if cards() == 0 {
        tell("SKIPPED: conformance of tch on CUDA: LibTorch finds no card");
        return None;
    }
    let make: fn(Spec, Graph, &State) -> _ = |spec, graph, state| {
        let library = LibTorch::new(Place::Cuda(0), Precision::F32);
        Ok(Box::new(Tch::from_graph(spec, graph, library, state)?) as _)
    };
    // Its convolutions are in TF32.
    Some(Subject { name: "tch on CUDA", make, head: 5e-3, gradient: 5e-2 })
}

#[cfg(feature = "burn")]
fn burn<B: burn_tensor::backend::AutodiffBackend>(name: &'static str, [head, gradient]: [f64; 2]) -> Option<Subject> {
    use super::burn::{Burn, Tensors, device_name};
    if let Err(why) = device_name::<B>() {
        tell(&format!("SKIPPED: conformance of {name}: {why}"));
        return None;
    }
    let make: fn(Spec, Graph, &State) -> _ =
        |spec, graph, state| Ok(Box::new(Burn::<B>::from_graph(spec, graph, Tensors::new(), state)?) as _);
    Some(Subject { name, make, head, gradient })
}

#[cfg(feature = "burn")]
fn burn_processor() -> Option<Subject> {
    burn::<super::burn::Processor>("burn on the processor", F32)
}

#[cfg(feature = "burn")]
fn burn_graphics() -> Option<Subject> {
    match super::burn::graphics_adapter() {
        Ok(adapter) => tell(&format!("conformance of burn runs on {}", adapter.name)),
        Err(why) => {
            tell(&format!("SKIPPED: conformance of burn on Vulkan, Metal or WebGPU: {why}"));
            return None;
        }
    }
    burn::<super::burn::Graphics>("burn on Vulkan, Metal or WebGPU", F32)
}

#[cfg(feature = "burn-cuda")]
fn burn_cuda() -> Option<Subject> {
    burn::<super::burn::Cuda>("burn on CUDA", [5e-3, 5e-2])
}

/// The suite for a back end.
macro_rules! suite {
    ($subject:ident: $($test:ident)*) => {
        mod $subject {
            $(
                #[test]
                fn $test() {
                    if let Some(subject) = super::$subject() {
                        super::$test(&subject);
                    }
                }
            )*
        }
    };
    ($($subject:ident)*) => {
        $(suite! { $subject: operations_equal_their_definition gradients_equal_differences frozen_modules_stay
            the_network_equals_the_native_one gradients_add_up state_round_trip pictures_do_not_mix
            wrong_inputs_are_errors checkpoints_move })*
    };
}

suite! { native_f32 }
#[cfg(feature = "tch")]
suite! { tch_processor tch_bf16 tch_cuda }
#[cfg(feature = "burn")]
suite! { burn_processor burn_graphics }
#[cfg(feature = "burn-cuda")]
suite! { burn_cuda }

const N2: Spec = Spec { size: Size::N, classes: CLASSES };

pub(super) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Random scales, shifts and statistics, so that nothing hides behind ones and zeros.
pub(super) fn enliven(network: &mut Native) {
    for (i, p) in network.parameters().into_iter().enumerate() {
        let noise = numbers(p.data.len(), 1000 + i as u64);
        match p.kind {
            ParameterKind::Weight => p.data.iter_mut().for_each(|w| *w *= 1.7),
            ParameterKind::NormWeight => p.data.iter_mut().zip(noise).for_each(|(w, n)| *w = 1.0 + 0.3 * n),
            _ => p.data.iter_mut().zip(noise).for_each(|(w, n)| *w = 0.3 * n),
        }
    }
    for (i, b) in network.buffers().into_iter().enumerate() {
        let noise = numbers(b.data.len(), 5000 + i as u64);
        let var = b.name.ends_with("var");
        b.data.iter_mut().zip(noise).for_each(|(v, n)| *v = if var { 0.4 + 0.3 * n } else { 0.2 * n });
    }
}

/// Such weights.
fn lively(graph: &Graph) -> State {
    let mut network = Native::from_graph(N2, graph.clone(), 7);
    enliven(&mut network);
    network.state()
}

/// Pictures with their numbers.
struct Pictures {
    data: Vec<f32>,
    size: [usize; 3],
}

impl Pictures {
    fn new(size: [usize; 3], seed: u64) -> Self {
        Self { data: numbers(size.iter().product::<usize>() * 3, seed), size }
    }

    fn images(&self) -> Images<'_> {
        let [batch, height, width] = self.size;
        Images { data: &self.data, batch, height, width }
    }
}

/// Norm of the difference relative to the norm of what is expected.
fn distance(found: impl IntoIterator<Item = f32>, expected: impl IntoIterator<Item = f64>) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, b) in found.into_iter().zip(expected) {
        difference += (f64::from(a) - b).powi(2);
        norm += b * b;
    }
    difference.sqrt() / f64::sqrt(norm).max(1e-9)
}

fn wide(numbers: &[f32]) -> impl Iterator<Item = f64> {
    numbers.iter().map(|&x| f64::from(x))
}

fn compare_heads(subject: &Subject, what: &str, heads: &Heads, expected: &[Vec<f64>]) {
    for (level, expected) in heads.levels.iter().zip(expected) {
        assert_eq!(level.data.len(), expected.len());
        let far = distance(level.data.iter().copied(), expected.iter().copied());
        assert!(far < subject.head, "{}, {what}, stride {}: {far}", subject.name, level.stride);
    }
}

pub(super) fn gradient_like(heads: &Heads) -> Heads {
    let mut gradient = heads.clone();
    for (i, level) in gradient.levels.iter_mut().enumerate() {
        level.data = numbers(level.data.len(), 90 + i as u64);
    }
    gradient
}

fn gradients(network: &mut (impl Backend + ?Sized)) -> Vec<(String, Vec<f32>)> {
    network.parameters().iter().map(|p| (p.name.to_owned(), p.gradient.to_vec())).collect()
}

/// Gradients by public name, in public layout: as the weights of a state.
fn public_gradients(network: &mut (impl Backend + ?Sized)) -> State {
    let before = network.state();
    let all = gradients(network);
    network.parameters().into_iter().zip(&all).for_each(|(p, (_, g))| p.data.copy_from_slice(g));
    let state = network.state();
    network.load(&before).unwrap();
    state
}

fn heads_as_numbers(heads: &Heads) -> Vec<Vec<f64>> {
    heads.levels.iter().map(|level| wide(&level.data).collect()).collect()
}

fn operations_equal_their_definition(subject: &Subject) {
    for case in Case::ALL {
        let graph = case.graph();
        let state = lively(&graph);
        let pictures = Pictures::new([2, 64, 96], 3);
        let mut network = (subject.make)(N2, graph.clone(), &state).unwrap();
        for mode in [Mode::Eval, Mode::Train] {
            let Outcome { heads, statistics } = evaluate(&graph, &state, pictures.images(), mode, 0);
            let found = network.forward(pictures.images(), mode).unwrap();
            compare_heads(subject, &format!("{case:?}, {mode:?}"), found, &heads);
            let after = network.state();
            for (name, expected) in statistics {
                let far = distance(after.tensors[&name].data.iter().copied(), expected);
                assert!(far < subject.head, "{}, {case:?}, {mode:?}, {name}: {far}", subject.name);
            }
        }
    }
}

/// Sum over the heads of output times a fixed gradient.
pub(super) fn loss(heads: &[Vec<f64>], gradient: &Heads) -> f64 {
    let levels = heads.iter().zip(&gradient.levels);
    levels.map(|(h, g)| h.iter().zip(wide(&g.data)).map(|(h, g)| h * g).sum::<f64>()).sum()
}

/// Each array's gradient along a random direction equals the central difference of the definition.
fn check_differences(subject: &Subject, case: Case, frozen: usize) {
    let graph = case.graph();
    let state = lively(&graph);
    let pictures = Pictures::new([2, 64, 64], 4);
    let mut network = (subject.make)(N2, graph.clone(), &state).unwrap();
    network.freeze(frozen);
    let gradient = gradient_like(network.forward(pictures.images(), Mode::Train).unwrap());
    let heads = evaluate(&graph, &state, pictures.images(), Mode::Train, frozen).heads;
    compare_heads(subject, &format!("{case:?}, {frozen} frozen"), network.heads(), &heads);
    let after = network.state();
    network.backward(&gradient).unwrap();
    let analytic = public_gradients(network.as_mut());
    for (i, (name, tensor)) in state.tensors.iter().enumerate().filter(|(_, (name, _))| !name.contains("dfl")) {
        let stays = module(name) < frozen;
        if name.contains("running") {
            assert_eq!(after.tensors[name] == *tensor, stays, "{}, {case:?}: {name}", subject.name);
            continue;
        }
        let gradient_of = &analytic.tensors[name].data;
        if stays {
            assert!(gradient_of.iter().all(|&g| g == 0.0), "{}, {case:?}: {name} learns", subject.name);
            continue;
        }
        // Short: maxima have kinks.
        let step = 4e-5;
        let direction = numbers(tensor.data.len(), 400 + i as u64);
        let [minus, plus] = [-step, step].map(|step| {
            let mut moved = state.clone();
            let moved_tensor = moved.tensors.get_mut(name).unwrap();
            moved_tensor.data.iter_mut().zip(&direction).for_each(|(w, d)| *w += step * d);
            loss(&evaluate(&graph, &moved, pictures.images(), Mode::Train, frozen).heads, &gradient)
        });
        let measured = (plus - minus) / (2.0 * f64::from(step));
        let products = || wide(gradient_of).zip(wide(&direction)).map(|(g, d)| g * d);
        let (expected, scale) = (products().sum::<f64>(), products().map(|p| p * p).sum::<f64>().sqrt());
        let error = (measured - expected).abs() / scale;
        let allowed = 10.0 * subject.gradient;
        assert!(error < allowed, "{}, {case:?}, {name}: {measured} against {expected} ({error})", subject.name);
    }
}

fn gradients_equal_differences(subject: &Subject) {
    Case::ALL.into_iter().for_each(|case| check_differences(subject, case, 0));
}

fn frozen_modules_stay(subject: &Subject) {
    // Two modules of the trunk; all but the head.
    check_differences(subject, Case::Shortcut, 2);
    check_differences(subject, Case::Shortcut, 6);
}

/// YOLOv8n here and on the native engine: parameters, heads, statistics and gradients of a step.
fn the_network_equals_the_native_one(subject: &Subject) {
    let state = lively(&N2.graph());
    let pictures = Pictures::new([2, 64, 96], 5);
    let mut theirs = native(Precision::F32, N2, N2.graph(), &state).unwrap();
    let mut ours = (subject.make)(N2, N2.graph(), &state).unwrap();
    let key = |network: &mut dyn Backend| -> Vec<(String, ParameterKind, Vec<f32>)> {
        network.parameters().iter().map(|p| (p.name.to_owned(), p.kind, p.data.to_vec())).collect()
    };
    assert!(key(&mut theirs) == key(ours.as_mut()), "{}: other parameters, order or layout", subject.name);
    let key = |network: &mut dyn Backend| -> Vec<(String, Vec<f32>)> {
        network.buffers().iter().map(|b| (b.name.to_owned(), b.data.to_vec())).collect()
    };
    assert!(key(&mut theirs) == key(ours.as_mut()), "{}: other statistics or order", subject.name);
    // Sixty layers of 16-bit numbers: some times as far as the native engine's own are.
    let rough = subject.head > 0.01;
    let mut own = native(Precision::Bf16, N2, N2.graph(), &state).unwrap();
    let mut allowed = |mode: Mode, expected: &[Vec<f64>]| -> Vec<f64> {
        let own = own.forward(pictures.images(), mode).unwrap();
        let far = own.levels.iter().zip(expected).map(|(l, e)| distance(l.data.iter().copied(), e.iter().copied()));
        far.map(|far| if rough { ROUGHER * far } else { subject.head }).collect()
    };
    for mode in [Mode::Eval, Mode::Train] {
        let expected = heads_as_numbers(theirs.forward(pictures.images(), mode).unwrap());
        let found = ours.forward(pictures.images(), mode).unwrap();
        for ((level, expected), allowed) in found.levels.iter().zip(&expected).zip(allowed(mode, &expected)) {
            let far = distance(level.data.iter().copied(), expected.iter().copied());
            assert!(far < allowed, "{}, {mode:?}, stride {}: {far}, allowed {allowed}", subject.name, level.stride);
        }
    }
    for (a, b) in ours.buffers().iter().zip(theirs.buffers()) {
        let far = distance(a.data.iter().copied(), wide(b.data));
        assert!(far < if rough { 0.25 } else { subject.head }, "{}, {}: {far}", subject.name, a.name);
    }
    let gradient = gradient_like(theirs.heads());
    theirs.backward(&gradient).unwrap();
    ours.backward(&gradient).unwrap();
    own.backward(&gradient).unwrap();
    let [ours, theirs, own] = [gradients(ours.as_mut()), gradients(&mut theirs), gradients(&mut own)];
    for (((name, a), (_, b)), (_, own)) in ours.into_iter().zip(theirs).zip(own) {
        let (far, own) = (distance(a, wide(&b)), distance(own, wide(&b)));
        let allowed = if rough { (ROUGHER * own).max(F32[1]) } else { subject.gradient };
        assert!(far < allowed, "{}, gradient by {name}: {far}, allowed {allowed}", subject.name);
    }
}

fn gradients_add_up(subject: &Subject) {
    let graph = Case::Shortcut.graph();
    let state = lively(&graph);
    let mut network = (subject.make)(N2, graph, &state).unwrap();
    let [one, two] = [6, 7].map(|seed| Pictures::new([1, 64, 64], seed));
    let mut alone = Vec::new();
    let mut gradient = Heads::default();
    for pictures in [&one, &two] {
        gradient = gradient_like(network.forward(pictures.images(), Mode::Train).unwrap());
        network.backward(&gradient).unwrap();
        alone.push(gradients(network.as_mut()));
        assert!(matches!(network.backward(&gradient), Err(Error::NoForward)), "{}", subject.name);
        network.zero_gradients();
        assert!(gradients(network.as_mut()).iter().all(|(_, g)| g.iter().all(|&g| g == 0.0)), "{}", subject.name);
        // The statistics again, which a training pass moves.
        network.load(&state).unwrap();
    }
    for pictures in [&one, &two] {
        network.forward(pictures.images(), Mode::Train).unwrap();
        network.backward(&gradient).unwrap();
        network.load(&state).unwrap();
    }
    for (((name, sum), (_, a)), (_, b)) in gradients(network.as_mut()).into_iter().zip(&alone[0]).zip(&alone[1]) {
        let far = distance(sum, wide(a).zip(wide(b)).map(|(a, b)| a + b));
        assert!(far < 1e-5, "{}, {name}: {far}", subject.name);
    }
    network.forward(one.images(), Mode::Train).unwrap();
    network.forward(one.images(), Mode::Eval).unwrap();
    assert!(matches!(network.backward(&gradient), Err(Error::NoForward)), "{}", subject.name);
}

fn state_round_trip(subject: &Subject) {
    let state = lively(&N2.graph());
    let network = (subject.make)(N2, N2.graph(), &state).unwrap();
    assert!(network.state() == state, "{}", subject.name);
    // An evaluation changes nothing; neither does a file that does not fit.
    let mut network = network;
    network.forward(Pictures::new([1, 32, 32], 1).images(), Mode::Eval).unwrap();
    let mut broken = state.clone();
    broken.tensors.remove("model.9.cv1.bn.running_var");
    broken.tensors.insert("model.23.weight".into(), Tensor::default());
    broken.tensors.insert("model.0.bn.num_batches_tracked".into(), Tensor::default());
    let text = network.load(&broken).unwrap_err().to_string();
    for part in ["1 missing: model.9.cv1.bn.running_var", "1 not used: model.23.weight"] {
        assert!(text.contains(part), "{}: {text}", subject.name);
    }
    assert!(network.state() == state, "{}", subject.name);
}

fn pictures_do_not_mix(subject: &Subject) {
    let state = lively(&N2.graph());
    let mut network = (subject.make)(N2, N2.graph(), &state).unwrap();
    let all = Pictures::new([3, 64, 32], 8);
    let together = network.forward(all.images(), Mode::Eval).unwrap().clone();
    for i in 0..3 {
        let len = all.data.len() / 3;
        let one = Pictures { data: all.data[i * len..][..len].to_vec(), size: [1, 64, 32] };
        let expected: Vec<Vec<f64>> = together
            .levels
            .iter()
            .map(|level| wide(&level.data[i * level.data.len() / 3..][..level.data.len() / 3]).collect())
            .collect();
        // Sums may be cut elsewhere, so 16-bit numbers may be rounded elsewhere.
        compare_heads(subject, "alone", network.forward(one.images(), Mode::Eval).unwrap(), &expected);
    }
    assert!(network.forward(Images { data: &[], batch: 0, height: 32, width: 32 }, Mode::Train).is_ok());
    let gradient = network.heads().clone();
    network.backward(&gradient).unwrap();
}

fn wrong_inputs_are_errors(subject: &Subject) {
    let graph = Case::Trunk.graph();
    let state = lively(&graph);
    let mut network = (subject.make)(N2, graph, &state).unwrap();
    let data = vec![0.0; 32 * 48 * 3];
    let mut try_it =
        |batch, height, width| network.forward(Images { data: &data, batch, height, width }, Mode::Train).map(|_| ());
    assert!(matches!(try_it(1, 32, 48), Err(Error::InputSize { width: 48, height: 32 })), "{}", subject.name);
    assert!(matches!(try_it(1, 32, 0), Err(Error::InputSize { .. })), "{}", subject.name);
    let length = try_it(2, 32, 32);
    assert!(matches!(length, Err(Error::Length { got: 4608, expected: 6144, .. })), "{}", subject.name);
    let images = Pictures::new([1, 32, 32], 1);
    let mut gradient = network.forward(images.images(), Mode::Train).unwrap().clone();
    gradient.levels[1].data.pop();
    assert!(matches!(network.backward(&gradient), Err(Error::Length { .. })), "{}", subject.name);
}

/// Two steps of descent here, and the weights give the same heads on the native engine; and the other way round.
fn checkpoints_move(subject: &Subject) {
    let state = lively(&N2.graph());
    let pictures = Pictures::new([2, 64, 64], 9);
    let here = (subject.make)(N2, N2.graph(), &state).unwrap();
    let there: Box<dyn Backend> = Box::new(native(Precision::F32, N2, N2.graph(), &state).unwrap());
    let native_subject = native_f32().unwrap();
    for (mut network, other) in [(here, &native_subject), (there, subject)] {
        for _ in 0..2 {
            let gradient = gradient_like(network.forward(pictures.images(), Mode::Train).unwrap());
            network.zero_gradients();
            network.backward(&gradient).unwrap();
            for p in network.parameters() {
                p.data.iter_mut().zip(p.gradient).for_each(|(w, g)| *w -= 1e-4 * g);
            }
        }
        let trained = network.state();
        assert!(trained != state);
        let bytes = trained.to_bytes().unwrap();
        let mut again = (other.make)(N2, N2.graph(), &State::from_bytes(&bytes).unwrap()).unwrap();
        let expected = heads_as_numbers(network.forward(pictures.images(), Mode::Eval).unwrap());
        let found = again.forward(pictures.images(), Mode::Eval).unwrap();
        compare_heads(subject, &format!("moved to {}", other.name), found, &expected);
    }
}
