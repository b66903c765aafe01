//! Every back end that is compiled in, on the processor, against an independent implementation in another framework (see
//! `yolov8/reference.py`).

mod formula;

use std::path::Path;
use vision::yolov8::{
    Heads, Images, Level, Mode, Size, Spec, State,
    engine::{Device, Engine},
    native::Precision,
};

const SPEC: Spec = Spec { size: Size::N, classes: 2 };
const BATCH: usize = 2;
const HEIGHT: usize = 64;
const WIDTH: usize = 96;
/// Against 64 bits, relative to the largest number of a level; normalising 12 numbers of the coarsest level costs digits.
const HEAD_TOLERANCE: f64 = 1e-4;
/// Relative to an array's norm.
const GRADIENT_TOLERANCE: f64 = 1e-3;

fn floats(name: &str, len: usize) -> Vec<f32> {
    formula::numbers(name, len).into_iter().map(|x| x as f32).collect()
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

fn compare(reference: &[f32], name: &str, data: &[f32]) {
    let found = formula::summary(name, data.iter().copied());
    for (found, &expected) in found.into_iter().zip(reference) {
        let error = (found - f64::from(expected)).abs() / f64::from(reference[0]).max(1e-3);
        assert!(error < GRADIENT_TOLERANCE, "{name}: {found} against {expected} (norm {})", reference[0]);
    }
}

#[test]
fn conformance_heads_gradients_and_statistics_equal_the_reference() {
    Engine::ALL.into_iter().filter(|engine| engine.compiled()).for_each(equal_the_reference);
}

fn equal_the_reference(engine: Engine) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/yolov8/reference.safetensors");
    let reference = State::open(&path).expect("the fixture");
    let pixels = floats("pictures", BATCH * HEIGHT * WIDTH * 3);
    let images = Images { data: &pixels, batch: BATCH, height: HEIGHT, width: WIDTH };
    let opened = engine.open(SPEC, &formula::state(SPEC), Device::Cpu, Precision::F32).expect("the same keys");
    let mut network = opened.network;
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
