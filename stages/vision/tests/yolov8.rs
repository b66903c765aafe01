//! The native back end against an independent implementation in another framework (see `yolov8/reference.py`).

use std::path::Path;
use vision::yolov8::{Backend, Heads, Images, Level, Mode, Native, Size, Spec, State};

const SPEC: Spec = Spec { size: Size::N, classes: 2 };
const BATCH: usize = 2;
const HEIGHT: usize = 64;
const WIDTH: usize = 96;
/// Against 64 bits, relative to the largest number of a level; normalising 12 numbers of the coarsest level costs digits.
const HEAD_TOLERANCE: f64 = 1e-4;
/// Relative to an array's norm.
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// The script's `numbers`.
fn numbers(name: &str, len: usize) -> Vec<f64> {
    let seed = name.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    let number = |i: usize| {
        let mut x = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
        x ^= x >> 16;
        x = x.wrapping_mul(0x045D_9F3B);
        x ^= x >> 16;
        f64::from((f64::from(x) / 2f64.powi(31) - 1.0) as f32)
    };
    (0..len).map(number).collect()
}

fn floats(name: &str, len: usize) -> Vec<f32> {
    numbers(name, len).into_iter().map(|x| x as f32).collect()
}

fn network() -> Native {
    let mut state: State = Native::new(SPEC, 0).state();
    for (name, tensor) in state.tensors.iter_mut().filter(|(name, _)| !name.contains("dfl")) {
        let fan_in: usize = tensor.shape[1..].iter().product();
        let value = |u: f64| match name.as_str() {
            n if n.ends_with("running_var") => 0.4 + 0.3 * u,
            n if n.ends_with("running_mean") => 0.2 * u,
            n if n.ends_with("bn.weight") => 1.0 + 0.3 * u,
            n if n.ends_with("bias") => 0.3 * u,
            _ => u * 1.7 / (fan_in as f64).sqrt(),
        };
        tensor.data = numbers(name, tensor.data.len()).into_iter().map(|u| value(u) as f32).collect();
    }
    Native::from_state(SPEC, &state).expect("the same keys")
}

fn check(heads: &Heads, reference: &State, mode: &str) {
    for (i, level) in heads.levels.iter().enumerate() {
        let expected = &reference.tensors[&format!("{mode}.{i}")];
        assert_eq!(expected.shape, [BATCH, level.height, level.width, level.channels]);
        let largest = expected.data.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        for (a, b) in level.data.iter().zip(&expected.data) {
            let error = f64::from((a - b).abs() / largest);
            assert!(error < HEAD_TOLERANCE, "{mode} level {i}: {a} against {b}");
        }
    }
}

/// Norm and projection, as the script's `summary`.
fn summary(name: &str, data: &[f32]) -> [f64; 2] {
    let direction = numbers(&format!("direction.{name}"), data.len());
    let square: f64 = data.iter().map(|&x| f64::from(x).powi(2)).sum();
    [square.sqrt(), data.iter().zip(direction).map(|(&x, d)| f64::from(x) * d).sum()]
}

fn compare(reference: &[f32], name: &str, data: &[f32]) {
    let found = summary(name, data);
    for (found, &expected) in found.into_iter().zip(reference) {
        let error = (found - f64::from(expected)).abs() / f64::from(reference[0]).max(1e-3);
        assert!(error < GRADIENT_TOLERANCE, "{name}: {found} against {expected} (norm {})", reference[0]);
    }
}

#[test]
fn heads_gradients_and_statistics_equal_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/yolov8/reference.safetensors");
    let reference = State::open(&path).expect("the fixture");
    let pixels = floats("pictures", BATCH * HEIGHT * WIDTH * 3);
    let images = Images { data: &pixels, batch: BATCH, height: HEIGHT, width: WIDTH };
    let mut network = network();
    check(network.forward(images, Mode::Eval).expect("valid input"), &reference, "eval");
    let heads = network.forward(images, Mode::Train).expect("valid input");
    check(heads, &reference, "train");
    let mut gradient = heads.zeros_like();
    for (i, Level { data, .. }) in gradient.levels.iter_mut().enumerate() {
        *data = floats(&format!("gradient.{i}"), data.len());
    }
    network.backward(&gradient).expect("after a training pass");

    // Gradients go through the public layout: as weights of the state.
    let running = network.state();
    let gradients: Vec<Vec<f32>> = network.parameters().iter().map(|p| p.gradient.to_vec()).collect();
    network.parameters().into_iter().zip(&gradients).for_each(|(p, g)| p.data.copy_from_slice(g));
    let gradients = network.state();
    let names = running.tensors.keys().filter(|name| !name.contains("dfl"));
    let (statistics, trainable): (Vec<_>, Vec<_>) = names.partition(|name| name.contains("running"));
    for (names, state, key) in [(trainable, &gradients, "gradients"), (statistics, &running, "running")] {
        let rows = &reference.tensors[key];
        assert_eq!(rows.shape, [names.len(), 2]);
        for (row, name) in rows.data.chunks_exact(2).zip(names) {
            compare(row, name, &state.tensors[name].data);
        }
    }
}
