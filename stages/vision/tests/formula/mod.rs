//! Numbers that a formula gives in Rust and Python alike, and a network made of them.
#![allow(dead_code, reason = "each test program uses a part of this")]

use vision::yolov8::{Backend, Native, Spec, State};

/// Numbers in -1..1 from a hash of the name and the index.
pub fn numbers(name: &str, len: usize) -> Vec<f64> {
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

/// The weights or statistics of a key.
pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape.iter().skip(1).product();
    let value = |u: f64| match name {
        n if n.ends_with("running_var") => 0.4 + 0.3 * u,
        n if n.ends_with("running_mean") => 0.2 * u,
        n if n.ends_with("bn.weight") => 1.0 + 0.3 * u,
        n if n.ends_with("bias") => 0.3 * u,
        _ => u * 1.7 / (fan_in as f64).sqrt(),
    };
    numbers(name, shape.iter().product()).into_iter().map(|u| value(u) as f32).collect()
}

/// A lively network.
pub fn state(spec: Spec) -> State {
    let mut state = Native::new(spec, 0).state();
    for (name, tensor) in state.tensors.iter_mut().filter(|(name, _)| !name.contains("dfl")) {
        tensor.data = values(name, &tensor.shape);
    }
    state
}

/// A picture of 0..1, `[height][width][3]`.
pub fn picture(name: &str, height: usize, width: usize) -> Vec<f32> {
    numbers(name, height * width * 3).into_iter().map(|u| (u * 0.5 + 0.5) as f32).collect()
}

/// Norm and projection on a formula direction.
pub fn summary(name: &str, data: impl IntoIterator<Item = f32>) -> [f64; 2] {
    let data: Vec<f64> = data.into_iter().map(f64::from).collect();
    let direction = numbers(&format!("direction.{name}"), data.len());
    let square: f64 = data.iter().map(|x| x * x).sum();
    [square.sqrt(), data.iter().zip(direction).map(|(x, d)| x * d).sum()]
}
