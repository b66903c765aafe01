//! Trains the network of the second look.
//!
//! Owns the descent. Refuses to know what the inputs mean.

use std::array::from_fn;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vision::matcher::{SECOND_INPUTS, SecondLook, Unit};

use crate::solver::{Sample, moments};

/// Networks that are trained and speak with one voice: each has its own first weights and order of the samples.
const NETWORKS: u64 = 4;
/// Hidden units of each.
const UNITS: usize = 32;
/// Passes over the samples.
const EPOCHS: usize = 60;
/// Samples of a step.
const BATCH: usize = 256;
/// Size of the first step (Adam); it falls evenly to nothing.
const RATE: f64 = 0.003;
/// Adam's memories, and what keeps its divisor from 0.
const MEMORY: [f64; 2] = [0.9, 0.999];
const TINY: f64 = 1e-8;
/// Penalty on half the squares of the weights of one step, of inputs of spread 1.
const RIDGE: f64 = 0.03;

const ROW: usize = SECOND_INPUTS + 1;
const WEIGHTS: usize = ROW * UNITS + UNITS + 1;
type Row = [f64; SECOND_INPUTS];

/// Networks side by side, each with the least logistic loss that its descent finds; their log-odds are averaged.
pub fn train(samples: &[Sample<SECOND_INPUTS>]) -> SecondLook {
    let mut networks = vec![None; NETWORKS as usize];
    std::thread::scope(|threads| {
        for (seed, network) in (1..).zip(&mut networks) {
            threads.spawn(move || *network = Some(train_one(samples, seed)));
        }
    });
    let share = 1.0 / NETWORKS as f64;
    let mut all = SecondLook { units: Vec::new(), constant: 0.0 };
    for network in networks.into_iter().flatten() {
        all.units.extend(network.units.into_iter().map(|u| Unit { out: share * u.out, ..u }));
        all.constant += share * network.constant;
    }
    all
}

fn train_one(samples: &[Sample<SECOND_INPUTS>], seed: u64) -> SecondLook {
    let [mean, spread] = moments(samples);
    let mut samples: Vec<Sample<SECOND_INPUTS>> =
        samples.iter().map(|s| Sample { columns: from_fn(|i| (s.columns[i] - mean[i]) / spread[i]), ..*s }).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut w: [f64; WEIGHTS] = from_fn(|i| {
        let reach = (6.0 / (if i < ROW * UNITS { ROW } else { UNITS }) as f64).sqrt();
        rng.random_range(-0.5 * reach..0.5 * reach)
    });
    let (mut first, mut second) = ([0.0; WEIGHTS], [0.0; WEIGHTS]);
    let steps = EPOCHS * samples.len().div_ceil(BATCH);
    let mut step = 0;
    for _ in 0..EPOCHS {
        for i in (1..samples.len()).rev() {
            samples.swap(i, rng.random_range(0..=i));
        }
        for batch in samples.chunks(BATCH) {
            let gradient = gradient(&w, batch);
            let rate = RATE * (1.0 - step as f64 / steps as f64);
            step += 1;
            let unbiased = MEMORY.map(|m| 1.0 - m.powi(step as i32));
            for i in 0..WEIGHTS {
                first[i] = MEMORY[0] * first[i] + (1.0 - MEMORY[0]) * gradient[i];
                second[i] = MEMORY[1] * second[i] + (1.0 - MEMORY[1]) * gradient[i].powi(2);
                w[i] -= rate * (first[i] / unbiased[0]) / ((second[i] / unbiased[1]).sqrt() + TINY);
            }
        }
    }
    network(&w, &mean, &spread)
}

/// Gradient of the mean loss of a batch.
fn gradient(w: &[f64; WEIGHTS], batch: &[Sample<SECOND_INPUTS>]) -> [f64; WEIGHTS] {
    let net = network(w, &[0.0; SECOND_INPUTS], &[1.0; SECOND_INPUTS]);
    let n = batch.len() as f64;
    let mut sum: [f64; WEIGHTS] = from_fn(|i| if is_constant(i) { 0.0 } else { RIDGE / n * w[i] });
    for s in batch {
        let units: [f64; UNITS] = from_fn(|k| net.units[k].value(&s.columns));
        let z = units.iter().zip(&net.units).map(|(v, u)| u.out * v).sum::<f64>() + net.constant;
        let slope = s.weight / n * (1.0 / (1.0 + (-z).exp()) - f64::from(u8::from(s.right)));
        let out = ROW * UNITS;
        for (k, unit) in units.iter().enumerate() {
            let back = slope * net.units[k].out * (1.0 - unit * unit);
            for (g, v) in sum[k * ROW..].iter_mut().zip(&s.columns) {
                *g += back * v;
            }
            sum[k * ROW + SECOND_INPUTS] += back;
            sum[out + k] += slope * unit;
        }
        sum[out + UNITS] += slope;
    }
    sum
}

fn is_constant(weight: usize) -> bool {
    weight == WEIGHTS - 1 || (weight < ROW * UNITS && weight % ROW == SECOND_INPUTS)
}

/// The weights in their places, for inputs of this mean and spread.
fn network(w: &[f64; WEIGHTS], mean: &Row, spread: &Row) -> SecondLook {
    let unit = |k: usize| {
        let row = &w[k * ROW..(k + 1) * ROW];
        let shift: f64 = (0..SECOND_INPUTS).map(|i| row[i] * mean[i] / spread[i]).sum();
        let weights = from_fn(|i| row[i] / spread[i]);
        Unit { weights, constant: row[SECOND_INPUTS] - shift, out: w[ROW * UNITS + k] }
    };
    SecondLook { units: (0..UNITS).map(unit).collect(), constant: w[WEIGHTS - 1] }
}

#[test]
fn the_gradient_is_what_differences_say_and_the_network_learns_what_a_line_cannot() {
    let noise = |i: usize, k: usize| ((i * (k * 37 + 11) + k * 5) % 101) as f64 / 101.0 - 0.5;
    let samples: Vec<Sample<SECOND_INPUTS>> = (0..2000)
        .map(|i| {
            let columns: Row = from_fn(|k| 3.0 * noise(i, k + 1) + k as f64);
            Sample { columns, right: noise(i, 1) * noise(i, 2) > 0.0, weight: 1.0 }
        })
        .collect();
    let w: [f64; WEIGHTS] = from_fn(|i| noise(i, 3));
    let batch = &samples[..5];
    let loss = |w: &[f64; WEIGHTS]| -> f64 {
        let net = network(w, &[0.0; SECOND_INPUTS], &[1.0; SECOND_INPUTS]);
        let ridge: f64 = (0..WEIGHTS).filter(|&i| !is_constant(i)).map(|i| RIDGE / 5.0 * w[i] * w[i] / 2.0).sum();
        let of = |s: &Sample<SECOND_INPUTS>| {
            (1.0 + (if s.right { -1.0f64 } else { 1.0 } * net.log_odds(&s.columns)).exp()).ln()
        };
        ridge + batch.iter().map(of).sum::<f64>() / 5.0
    };
    let exact = gradient(&w, batch);
    for i in (0..WEIGHTS).step_by(7).chain([WEIGHTS - 1]) {
        let at = |by: f64| loss(&from_fn(|k| if k == i { w[k] + by } else { w[k] }));
        let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((exact[i] - difference).abs() < 1e-6, "weight {i}: {} and {difference}", exact[i]);
    }
    let net = train(&samples);
    let right = samples.iter().filter(|s| (net.log_odds(&s.columns) > 0.0) == s.right).count();
    assert!(right > 1900, "{right} of 2000");
}
