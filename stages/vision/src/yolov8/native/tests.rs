//! The back end against a plain 64-bit evaluation of the same graph, its gradients against differences, and its bytes
//! over thread counts.

mod freeze;
mod golden;

use super::*;
use crate::yolov8::{
    BOX_CHANNELS, Size, StateError,
    conformance::{definition::evaluate, enliven, gradient_like, loss, numbers},
};

/// A network with random scales, shifts and statistics too.
fn network(spec: Spec, graph: Graph, seed: u64) -> Native {
    let mut network = Native::from_graph(spec, graph, seed);
    enliven(&mut network);
    network
}

/// The head levels by their definition.
fn reference(network: &Native, images: Images<'_>, mode: Mode, frozen: usize) -> Vec<Vec<f64>> {
    evaluate(&network.net.graph, &network.state(), images, mode, frozen).heads
}

/// Largest difference relative to the largest number.
fn difference(heads: &Heads, expected: &[Vec<f64>]) -> f64 {
    let mut worst: f64 = 0.0;
    for (level, expected) in heads.levels.iter().zip(expected) {
        assert_eq!(level.data.len(), expected.len());
        let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        for (&a, b) in level.data.iter().zip(expected) {
            worst = worst.max((f64::from(a) - b).abs() / largest);
        }
    }
    worst
}

/// Runs a batch operation by operation; after each, `look` may read any view as 32-bit numbers, `[cells][channels]`.
fn watch(network: &mut Native, images: Images<'_>, mode: Mode, look: &mut dyn FnMut(&Op, &dyn Fn(View) -> Vec<f32>)) {
    fn run<E: Number>(
        plans: &mut Plans<E>,
        net: &mut Net,
        (images, mode): (Images<'_>, Mode),
        look: &mut dyn FnMut(&Op, &dyn Fn(View) -> Vec<f32>),
    ) {
        let plan = plans.begin(net, images, mode).unwrap();
        for position in 0..net.graph.ops.len() {
            net.run_forward(plan, mode, position..position + 1);
            let read = |view: View| {
                let numbers: Vec<f32> = match net.head(view.buffer) {
                    Some(level) => net.heads.levels[level].data.clone(),
                    None => plan.maps.get(view.buffer).iter().map(|x| x.to_f32()).collect(),
                };
                let cells = numbers.chunks(net.graph.buffers[view.buffer].channels);
                cells.flat_map(|cell| cell[view.offset..view.offset + view.channels].to_vec()).collect()
            };
            look(&net.graph.ops[position], &read);
        }
    }
    let Native { net, memory } = network;
    match memory {
        Memory::F32(plans) => run(plans, net, (images, mode), look),
        Memory::Bf16(plans) => run(plans, net, (images, mode), look),
    }
}

const N2: Spec = Spec { size: Size::N, classes: 2 };

#[test]
fn forward_equals_the_definition() {
    // The real nano widths; and narrow, odd widths that take the ways for partial vectors.
    for (classes, widths) in [(2, [16, 32, 64, 128, 256]), (5, [8, 12, 20, 24, 40])] {
        let spec = Spec { classes, ..N2 };
        let (batch, height, width) = (2, 64, 96);
        let pixels = numbers(batch * height * width * 3, 3);
        let images = Images { data: &pixels, batch, height, width };
        for mode in [Mode::Eval, Mode::Train] {
            let mut network = network(spec, spec.build(widths), 7);
            let expected = reference(&network, images, mode, 0);
            let error = difference(network.forward(images, mode).unwrap(), &expected);
            assert!(error < 1e-4, "{classes} classes, {mode:?}: {error}");
        }
    }
}

/// Every parameter array: its gradient along a random direction equals the central difference of the 64-bit reference.
#[test]
fn gradients_equal_differences() {
    let (batch, side) = (2, 64);
    // Frozen: nothing; part of a concatenation; the backbone.
    let cases = [(3, [16, 16, 32, 32, 32], 0), (2, [8, 8, 12, 12, 20], 0), (2, [8; 5], 5), (2, [8, 8, 12, 12, 20], 10)];
    for (classes, widths, frozen) in cases {
        let spec = Spec { classes, ..N2 };
        let mut network = network(spec, spec.build(widths), 11);
        network.freeze(frozen);
        let pixels = numbers(batch * side * side * 3, 4);
        let images = Images { data: &pixels, batch, height: side, width: side };
        let gradient = gradient_like(network.forward(images, Mode::Train).unwrap());
        network.backward(&gradient).unwrap();
        let analytic: Vec<Vec<f32>> = network.parameters().iter().map(|p| p.gradient.to_vec()).collect();
        // Arrays are taken in a few bundles, so that the slow reference runs a few times only.
        let bundles = if frozen == 0 { 12 } else { 6 };
        let learns = |name: &str| name.split('.').nth(1).unwrap().parse::<usize>().unwrap() >= frozen;
        for p in network.parameters() {
            assert_eq!(p.gradient.iter().any(|&g| g != 0.0), learns(p.name), "{}", p.name);
        }
        for bundle in 0..bundles {
            let taken = |i: usize, p: &Parameter<'_>| i % bundles == bundle && learns(p.name);
            let step = 4e-5;
            let mut expected = 0.0;
            let mut scale = 0.0;
            let mut values = [0.0; 2];
            for (sign, value) in [-1.0, 1.0].into_iter().zip(&mut values) {
                for (i, p) in network.parameters().into_iter().enumerate().filter(|(i, p)| taken(*i, p)) {
                    let direction = numbers(p.data.len(), 400 + i as u64);
                    p.data.iter_mut().zip(direction).for_each(|(w, d)| *w += sign * step * d);
                }
                *value = loss(&reference(&network, images, Mode::Train, frozen), &gradient);
                for (i, p) in network.parameters().into_iter().enumerate().filter(|(i, p)| taken(*i, p)) {
                    let direction = numbers(p.data.len(), 400 + i as u64);
                    p.data.iter_mut().zip(direction).for_each(|(w, d)| *w -= sign * step * d);
                }
            }
            // Frozen arrays add nothing: their gradients are zeros.
            for (i, g) in analytic.iter().enumerate().filter(|(i, _)| i % bundles == bundle) {
                for (g, d) in g.iter().zip(numbers(g.len(), 400 + i as u64)) {
                    expected += f64::from(g * d);
                    scale += f64::from(g * d).powi(2);
                }
            }
            let measured = (values[1] - values[0]) / (2.0 * f64::from(step));
            let error = (measured - expected).abs() / scale.sqrt();
            assert!(
                error < 5e-3,
                "{frozen} frozen, bundle {bundle}: {measured} against {expected} (scale {})",
                scale.sqrt()
            );
        }
    }
}

/// One large picture, whose gradients are computed in parts, against the same picture many times in a batch, which needs
/// no parts.
#[test]
fn parts_of_a_picture_give_the_gradients_of_the_whole() {
    let spec = N2;
    let mut results = [1, 4].map(|batch| {
        let mut network = network(spec, spec.build([16, 16, 32, 32, 32]), 5);
        let (height, width) = (224, 160);
        let pixels = numbers(height * width * 3, 4).repeat(batch);
        let heads = network.forward(Images { data: &pixels, batch, height, width }, Mode::Train).unwrap();
        let mut gradient = heads.clone();
        for (i, level) in gradient.levels.iter_mut().enumerate() {
            level.data = numbers(level.data.len() / batch, 90 + i as u64).repeat(batch);
        }
        let data = heads.levels.iter().flat_map(|level| level.data[..level.data.len() / batch].to_vec()).collect();
        network.backward(&gradient).unwrap();
        let Memory::F32(plans) = &network.memory else { panic!("32 bits") };
        let parted = plans.train.iter().flat_map(|p| &p.pieces).flat_map(|p| &p.groups);
        let parted = parted.filter(|g| g.images.len() == 1 && g.rows.start > 0 && g.rows.start % 4 == 0).count();
        let gradients: Vec<Vec<f32>> = network.parameters().iter().map(|p| p.gradient.to_vec()).collect();
        (parted, (vec![data], gradients))
    });
    // Large maps are parted in any case where windows are products: as often in each picture.
    assert!(results[0].0 > results[1].0 / 4, "{} {}", results[0].0, results[1].0);
    results[1].1.1.iter_mut().flatten().for_each(|g| *g /= 4.0);
    let apart = distances(&results[1].1, &results[0].1);
    assert!(apart[0] < 1e-4 && apart[1] < 1e-4, "{apart:?}");
}

#[test]
fn gradients_add_up_and_need_a_forward_pass() {
    let mut network = network(N2, N2.build([16, 16, 16, 32, 32]), 5);
    let pixels = numbers(32 * 32 * 3, 4);
    let images = Images { data: &pixels, batch: 1, height: 32, width: 32 };
    let state = network.state();
    let gradient = gradient_like(network.forward(images, Mode::Train).unwrap());
    network.backward(&gradient).unwrap();
    assert!(matches!(network.backward(&gradient), Err(Error::NoForward)));
    let once: Vec<Vec<f32>> = network.parameters().iter().map(|p| p.gradient.to_vec()).collect();
    // The same running statistics again: they are the pivot of the batch's sums.
    network.load(&state).unwrap();
    network.forward(images, Mode::Train).unwrap();
    network.backward(&gradient).unwrap();
    for (p, once) in network.parameters().iter().zip(&once) {
        assert!(p.gradient.iter().zip(once).all(|(a, b)| *a == b + b), "{}", p.name);
    }
    network.forward(images, Mode::Eval).unwrap();
    assert!(matches!(network.backward(&gradient), Err(Error::NoForward)));
    network.zero_gradients();
    assert!(network.parameters().iter().all(|p| p.gradient.iter().all(|&g| g == 0.0)));
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Three steps of plain descent in pools of 1, 2, 5 and 8 threads: the same bytes everywhere.
#[test]
fn bytes_do_not_depend_on_threads() {
    let run = |threads: usize, precision: Precision, frozen: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut network = Native::new(N2, 1).with_precision(precision);
            network.freeze(frozen);
            let pixels = numbers(3 * 96 * 160 * 3, 4);
            let images = Images { data: &pixels, batch: 3, height: 96, width: 160 };
            for _ in 0..3 {
                let gradient = gradient_like(network.forward(images, Mode::Train).unwrap());
                network.zero_gradients();
                network.backward(&gradient).unwrap();
                for p in network.parameters() {
                    p.data.iter_mut().zip(p.gradient).for_each(|(w, g)| *w -= 1e-4 * g);
                }
            }
            let heads = network.forward(images, Mode::Eval).unwrap().clone();
            (network.state().to_bytes().unwrap(), heads)
        })
    };
    let cases = [(Precision::F32, 0), (Precision::Bf16, 0), (Precision::F32, 10), (Precision::Bf16, 10)];
    let one = cases.map(|(precision, frozen)| run(1, precision, frozen));
    for ((precision, frozen), one) in cases.into_iter().zip(&one) {
        let same = |threads| *one == run(threads, precision, frozen);
        assert!([2, 5, 8].into_iter().all(same), "{precision:?}, {frozen} frozen");
    }
    assert!((1..4).all(|i| one[0] != one[i]));
}

type Results = (Vec<Vec<f32>>, Vec<Vec<f32>>);

/// Head levels and gradients of one step, with the widest instructions that are allowed.
fn step(most: Instructions, precision: Precision, widths: [usize; 5], classes: usize) -> Results {
    let start = move |_| most.limit_this_thread();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(start).build().unwrap();
    pool.install(|| {
        let spec = Spec { classes, ..N2 };
        let mut network = Native::from_graph(spec, spec.build(widths), 1).with_precision(precision);
        let pixels = numbers(2 * 96 * 64 * 3, 4);
        let images = Images { data: &pixels, batch: 2, height: 96, width: 64 };
        let gradient = gradient_like(network.forward(images, Mode::Train).unwrap());
        let heads = network.heads().clone();
        network.backward(&gradient).unwrap();
        let gradients = network.parameters().iter().map(|p| p.gradient.to_vec()).collect();
        (heads.levels.map(|level| level.data).into_iter().collect(), gradients)
    })
}

/// Distances of the head levels (the farthest) and of all gradients together from those of `a`, relative to their norms.
fn distances(a: &Results, b: &Results) -> [f32; 2] {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    let distance = |a: &[f32], b: &[f32]| norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied());
    let heads = a.0.iter().zip(&b.0).map(|(a, b)| distance(a, b)).fold(0.0, f32::max);
    [heads, distance(&a.1.concat(), &b.1.concat())]
}

/// Widths with whole vectors, with parts of vectors, and with odd numbers of channels.
const SHAPES: [([usize; 5], usize); 3] =
    [([16, 32, 48, 64, 32], 2), ([8, 12, 20, 24, 40], 2), ([8, 16, 8, 16, 16], 83)];

/// Greatest distances of heads and gradients in 16 bits from those in 32. Eight bits of mantissa through sixty layers with
/// statistics of a dozen cells leave that much; PyTorch's bf16 is as far from its fp32 (heads .02, gradients .35 to .43).
const SIXTEEN_BITS: [f32; 2] = [0.1, 0.6];

/// The instruction sets compute the same up to rounding; in 16 bits to the bit.
#[test]
fn every_instruction_set_agrees() {
    for (widths, classes) in SHAPES {
        for precision in PRECISIONS {
            let widest = Instructions::chosen();
            let wide = step(widest, precision, widths, classes);
            for most in Instructions::ALL.into_iter().filter(|i| *i < widest && i.available()) {
                let narrow = step(most, precision, widths, classes);
                let most_apart = match precision {
                    Precision::F32 => [1e-3; 2],
                    Precision::Bf16 => [0.0; 2],
                };
                let found = distances(&wide, &narrow);
                assert!(
                    found[0] <= most_apart[0] && found[1] <= most_apart[1],
                    "{most:?} {precision:?} {widths:?}: {found:?}"
                );
            }
        }
    }
}

/// Two steps of plain descent give these bytes on every machine, whatever its architecture: in 16 bits always, in 32 with
/// all instructions that round a product and a sum once. New figures are right only where the arithmetic was to change.
#[test]
fn bytes_do_not_depend_on_the_machine() {
    let digest = |most: Instructions, precision| {
        let start = move |_| most.limit_this_thread();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(start).build().unwrap();
        let bytes = pool.install(|| {
            let spec = Spec { classes: 2, ..N2 };
            let mut network = Native::from_graph(spec, spec.build([8, 16, 24, 32, 48]), 1).with_precision(precision);
            let pixels = numbers(2 * 64 * 96 * 3, 4);
            let images = Images { data: &pixels, batch: 2, height: 64, width: 96 };
            for _ in 0..2 {
                let gradient = gradient_like(network.forward(images, Mode::Train).unwrap());
                network.zero_gradients();
                network.backward(&gradient).unwrap();
                for p in network.parameters() {
                    p.data.iter_mut().zip(p.gradient).for_each(|(w, g)| *w -= 1e-4 * g);
                }
            }
            network.state().to_bytes().unwrap()
        });
        // FNV-1a.
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    for most in Instructions::ALL.into_iter().filter(|i| i.available()) {
        assert_eq!(digest(most, Precision::Bf16), 0x915d_1276_c999_574f, "{most:?}, 16 bits");
        if most > Instructions::Portable {
            assert_eq!(digest(most, Precision::F32), 0x7b49_b174_b56f_110c, "{most:?}, 32 bits");
        }
    }
}

#[test]
fn sixteen_bits_stay_near_32() {
    for (widths, classes) in SHAPES {
        let [exact, rough] = PRECISIONS.map(|p| step(Instructions::chosen(), p, widths, classes));
        let [heads, gradients] = distances(&exact, &rough);
        assert!(heads > 1e-4 && heads < SIXTEEN_BITS[0], "{widths:?}: heads {heads}");
        assert!(gradients < SIXTEEN_BITS[1], "{widths:?}: gradients {gradients}");
    }
}

/// The prediction is what is allocated.
#[test]
fn memory_is_predicted() {
    for precision in PRECISIONS {
        for (mode, frozen) in [(Mode::Eval, 0), (Mode::Train, 0), (Mode::Train, 10), (Mode::Train, 23)] {
            let (batch, height, width) = (3, 96, 160);
            let mut network = Native::new(N2, 1).with_precision(precision);
            network.freeze(frozen);
            let pixels = numbers(batch * height * width * 3, 4);
            let gradient = network.forward(Images { data: &pixels, batch, height, width }, mode).unwrap().clone();
            if mode == Mode::Train {
                network.backward(&gradient).unwrap();
            }
            fn plans<E: Number>(plans: &Plans<E>) -> usize {
                plans.train.iter().chain(&plans.eval).map(Plan::bytes).sum()
            }
            let kept = match &network.memory {
                Memory::F32(p) => plans(p),
                Memory::Bf16(p) => plans(p),
            };
            let packed = network.net.layers.iter().map(|layer| layer.forward.size() + layer.backward.size());
            let packed: usize = packed.sum();
            let heads: usize = gradient.levels.iter().map(|level| 4 * level.data.len()).sum();
            let parameters: usize = network.parameters().iter().map(|p| 4 * (p.data.len() + p.gradient.len())).sum();
            let found = kept + packed + heads + parameters;
            let predicted = Native::memory(N2, [batch, height, width], mode, precision, frozen);
            assert_eq!(found, predicted, "{precision:?} {mode:?}, {frozen} frozen");
        }
    }
}

/// A batch that no machine has memory for is refused before anything changes, in the middle of a training too.
#[test]
fn no_memory_is_an_error_and_changes_nothing() {
    let mut network = Native::new(N2, 1);
    let pixels = numbers(2 * 64 * 64 * 3, 4);
    let images = Images { data: &pixels, batch: 2, height: 64, width: 64 };
    let start = network.state();
    let gradient = gradient_like(network.forward(images, Mode::Train).unwrap());
    network.backward(&gradient).unwrap();
    let heads = network.heads().clone();
    let before = (network.state(), heads.clone());
    let (batch, side) = (1 << 20, 8192);
    for mode in [Mode::Eval, Mode::Train] {
        // The pictures, which nobody could have either, are not looked at before there is memory for them.
        let absurd = Images { data: &[], batch, height: side, width: side };
        let Memory::F32(plans) = &mut network.memory else { panic!("32 bits") };
        let error = plans.begin(&mut network.net, absurd, mode).map(|_| ()).unwrap_err();
        let Error::Memory { batch: found, bytes } = error else { panic!("{error}") };
        assert!(found == batch && bytes > batch * side * side * 3 * 4, "{found} {bytes}");
        assert!((network.state(), network.heads().clone()) == before);
    }
    // It goes on with less, and as if nothing had been.
    let once: Vec<Vec<f32>> = network.parameters().iter().map(|p| p.gradient.to_vec()).collect();
    network.load(&start).unwrap();
    network.zero_gradients();
    assert!(*network.forward(images, Mode::Train).unwrap() == heads);
    network.backward(&gradient).unwrap();
    for (p, once) in network.parameters().iter().zip(&once) {
        assert!(p.gradient == once, "{}", p.name);
    }
}

#[test]
fn a_picture_alone_equals_the_picture_in_its_batch() {
    let mut network = network(N2, N2.graph(), 2);
    let (height, width) = (64, 160);
    let pixels = numbers(5 * height * width * 3, 8);
    let all = network.forward(Images { data: &pixels, batch: 5, height, width }, Mode::Eval).unwrap().clone();
    let one = &pixels[3 * height * width * 3..][..height * width * 3];
    let one = network.forward(Images { data: one, batch: 1, height, width }, Mode::Eval).unwrap();
    for (all, one) in all.levels.iter().zip(&one.levels) {
        assert_eq!(all.data[3 * one.data.len()..4 * one.data.len()], one.data);
    }
}

#[test]
fn running_statistics_follow_the_batch() {
    let mut network = Native::new(N2, 3);
    let pixels = numbers(2 * 64 * 64 * 3, 8);
    let images = Images { data: &pixels, batch: 2, height: 64, width: 64 };
    let before = network.state();
    for _ in 0..3 {
        network.forward(images, Mode::Train).unwrap();
    }
    // The same batch three times: this share of the statistics is the batch's.
    let share = 1.0 - 0.97f64.powi(3);
    let Memory::F32(Plans { train: Some(Plan { training: Some(training), .. }), .. }) = &network.memory else {
        panic!("a training plan in 32 bits");
    };
    for ((layer, [mean, inverse]), raw) in network.net.layers.iter().zip(&training.moments).zip(&training.raw) {
        let count = (raw.len() / layer.output()) as f64;
        for i in 0..if layer.running.is_empty() { 0 } else { layer.output() } {
            let variance = f64::from(inverse[i]).powi(-2) - 1e-3;
            let expected = [share * f64::from(mean[i]), 1.0 - share + share * variance * count / (count - 1.0)];
            for (statistic, expected) in layer.running.iter().zip(expected) {
                assert!((f64::from(statistic.data[i]) - expected).abs() < 1e-5, "{}", statistic.name);
            }
        }
    }
    let after = network.state();
    let changed = after.tensors.iter().filter(|(name, tensor)| before.tensors[*name] != **tensor);
    assert!(changed.clone().count() > 100 && changed.clone().all(|(name, _)| name.contains("running_")));
}

#[test]
fn state_round_trip_and_errors() {
    let mut network = network(N2, N2.graph(), 2);
    let bytes = network.state().to_bytes().unwrap();
    let state = State::from_bytes(&bytes).unwrap();
    let again = Native::from_state(N2, &state).unwrap();
    assert_eq!(again.state().to_bytes().unwrap(), bytes);
    assert_eq!(state.tensors["model.0.conv.weight"].shape, [16, 3, 3, 3]);
    assert_eq!(state.tensors["model.2.m.0.cv1.conv.weight"].shape, [16, 16, 3, 3]);
    assert_eq!(state.tensors["model.22.cv3.2.2.weight"].shape, [2, 64, 1, 1]);
    let count: usize =
        state.tensors.iter().filter(|(name, _)| !name.contains("running")).map(|(_, t)| t.data.len()).sum();
    assert_eq!(count, N2.graph().parameter_count() + 16);
    let error = Native::from_state(Spec { classes: 3, ..N2 }, &state).unwrap_err();
    let StateError::Keys { missing, unused, shapes } = error else { panic!("{error}") };
    // Two arrays (weight and bias) at three levels.
    assert_eq!((missing.len(), unused.len(), shapes.len()), (0, 0, 6));
    let mut broken = state.clone();
    broken.tensors.remove("model.9.cv1.bn.running_var");
    broken.tensors.insert("model.23.weight".into(), Tensor::default());
    broken.tensors.insert("model.0.bn.num_batches_tracked".into(), Tensor::default());
    let text = network.load(&broken).unwrap_err().to_string();
    assert!(
        text.contains("1 missing: model.9.cv1.bn.running_var") && text.contains("1 not used: model.23.weight"),
        "{text}"
    );
}

#[test]
fn first_values_follow_the_recipe() {
    let spec = Spec { size: Size::N, classes: 80 };
    let state = Native::new(spec, 0).state();
    let weights = &state.tensors["model.1.conv.weight"].data;
    let bound = 1.0 / (16.0f32 * 9.0).sqrt();
    assert!(weights.iter().all(|w| w.abs() <= bound) && weights.iter().any(|w| w.abs() > 0.95 * bound));
    assert!(state.tensors["model.22.cv2.1.2.bias"].data.iter().all(|&b| b == 1.0));
    let expected = (5.0f64 / 80.0 / (640.0f64 / 16.0).powi(2)).ln() as f32;
    assert!(state.tensors["model.22.cv3.1.2.bias"].data.iter().all(|&b| b == expected));
    assert_eq!(Native::new(spec, 0).state(), state);
    assert_ne!(Native::new(spec, 1).state(), state);
}

#[test]
fn wrong_inputs_are_errors() {
    let mut network = Native::new(N2, 0);
    let data = vec![0.0; 32 * 48 * 3];
    let mut try_it =
        |batch, height, width| network.forward(Images { data: &data, batch, height, width }, Mode::Eval).map(|_| ());
    assert!(matches!(try_it(1, 32, 48), Err(Error::InputSize { width: 48, height: 32 })));
    assert!(matches!(try_it(1, 32, 0), Err(Error::InputSize { .. })));
    assert!(matches!(try_it(2, 32, 32), Err(Error::Length { got: 4608, expected: 6144, .. })));
    assert_eq!(Heads::zeros(1, 32, 32, 2).levels[2].channels, BOX_CHANNELS + 2);
}
