//! Modules that do not learn.

use super::*;

/// Frozen modules make in training what they make else, to the bit, whatever the batch; their statistics stay; the others
/// follow the batch.
#[test]
fn frozen_modules_run_as_when_nothing_is_learned() {
    let (batch, height, width) = (3, 96, 64);
    let pixels = numbers(batch * height * width * 3, 4);
    let images = Images { data: &pixels, batch, height, width };
    for (precision, modules) in [(Precision::F32, 5), (Precision::F32, 10), (Precision::Bf16, 10)] {
        let mut network = network(N2, N2.graph(), 2).with_precision(precision);
        network.freeze(modules);
        let before = network.state();
        let mut outputs = |mode| {
            let mut outputs = Vec::new();
            watch(&mut network, images, mode, &mut |op, read| outputs.push(read(op.views()[1])));
            outputs
        };
        let [eval, train] = [Mode::Eval, Mode::Train].map(&mut outputs);
        let frozen = network.net.frozen;
        assert!(frozen > 10 && eval.len() == train.len());
        for (position, (eval, train)) in eval.iter().zip(&train).enumerate() {
            assert_eq!(eval == train, position < frozen, "operation {position} of {frozen}, {precision:?}");
        }
        let after = network.state();
        for (name, tensor) in after.tensors.iter().filter(|(name, _)| name.contains("running_")) {
            let module: usize = name.split('.').nth(1).unwrap().parse().unwrap();
            assert_eq!(*tensor == before.tensors[name], module < modules, "{name}");
        }
    }
}

/// Nothing is kept for what does not learn.
#[test]
fn freezing_saves_memory_and_ends_the_wait_for_backward() {
    let need = |modules| Native::memory(N2, [8, 320, 320], Mode::Train, Precision::F32, modules);
    assert!(need(23) < need(10) && need(10) < need(5) && need(5) < need(0));
    assert!(5 * need(10) < 3 * need(0), "{} of {}", need(10), need(0));
    let mut network = Native::new(N2, 0);
    let pixels = numbers(64 * 64 * 3, 4);
    let gradient =
        network.forward(Images { data: &pixels, batch: 1, height: 64, width: 64 }, Mode::Train).unwrap().clone();
    network.freeze(10);
    assert!(matches!(network.backward(&gradient), Err(Error::NoForward)));
}
