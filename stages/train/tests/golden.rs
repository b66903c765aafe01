//! The recipe against numbers of an independent program, `fixtures/recipe.py`, made with PyTorch from the papers and the
//! published facts.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use serde_json::Value;
use train::{
    assigner::{ImageHead, Truth, assign},
    ema::Ema,
    loss::{Gains, loss},
    optimizer::{Group, Optimizer, Parameter, Rule},
    schedule::{Rates, Schedule},
};
use vision::yolov8::Heads;

const FIXTURE: &str = include_str!("fixtures/recipe.json");
const BATCH: usize = 2;

fn fixture(key: &str) -> Value {
    serde_json::from_str::<Value>(FIXTURE).unwrap()[key].clone()
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1e-3)
}

/// Numbers from -2 to 2, as in the fixture's program.
fn noise(i: usize, seed: u64) -> f32 {
    let x = ((i as u64 + seed * 1_000_003) * 2_654_435_761) % (1 << 32);
    let x = (x ^ (x >> 15)).wrapping_mul(2_246_822_519) % (1 << 32);
    (x as f64 / f64::from(2.0_f32.powi(32)) * 4.0 - 2.0) as f32
}

fn scene(detection: &Value) -> (Heads, Vec<Vec<Truth>>) {
    let mut heads = Heads::zeros(BATCH, 64, 96, 3);
    for (level, seed) in heads.levels.iter_mut().zip(1..) {
        level.data.iter_mut().enumerate().for_each(|(i, v)| *v = noise(i, seed));
    }
    let mut truths = vec![Vec::new(); BATCH];
    for t in detection["truths"].as_array().unwrap() {
        let t = numbers(t);
        truths[t[0] as usize].push(Truth { class: t[1] as usize, bbox: [t[2], t[3], t[4], t[5]].map(|v| v as f32) });
    }
    (heads, truths)
}

#[test]
fn cells_learn_the_objects_that_the_reference_gives_them() {
    let detection = fixture("detection");
    let (heads, truths) = scene(&detection);
    let mut found = Vec::new();
    for (image, list) in truths.iter().enumerate() {
        let positives = assign(&ImageHead::new(&heads, image), list);
        found.extend(positives.iter().map(|p| (image, p.level, p.cell, p.truth, p.target)));
    }
    let wanted: Vec<Vec<f64>> = detection["assigned"].as_array().unwrap().iter().map(numbers).collect();
    assert_eq!(found.len(), wanted.len());
    for (f, w) in found.iter().zip(&wanted) {
        assert_eq!([f.0, f.1, f.2, f.3], [0, 1, 2, 3].map(|i| w[i] as usize));
        assert!(near(f.4, w[4], 1e-6), "{f:?} is not {w:?}");
    }
}

#[test]
fn loss_terms_and_gradients_are_those_of_autograd() {
    let detection = fixture("detection");
    let (heads, truths) = scene(&detection);
    let mut gradients = Heads::default();
    let terms = loss(&heads, &truths, &Gains::default(), &mut gradients);
    for (found, wanted) in [terms.bbox, terms.cls, terms.dfl].into_iter().zip(numbers(&detection["loss"])) {
        assert!(near(found, wanted, 1e-6), "{terms:?}: {found} is not {wanted}");
    }
    for (level, wanted) in gradients.levels.iter().zip(detection["gradients"].as_array().unwrap()) {
        let norm = level.data.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!(near(norm, wanted["norm"].as_f64().unwrap(), 1e-5), "{norm}");
        let sampled = numbers(&wanted["every_97th"]);
        assert_eq!(level.data.iter().step_by(97).count(), sampled.len());
        for (&found, wanted) in level.data.iter().step_by(97).zip(sampled) {
            assert!((f64::from(found) - wanted).abs() < 1e-5 * wanted.abs().max(0.1), "{found} is not {wanted}");
        }
    }
}

#[test]
fn optimizers_step_as_pytorchs_do() {
    let steps = [([0.5, -0.1, 2.0], 0.3), ([30.0, -40.0, 5.0], 12.0), ([-0.2, 0.4, 0.0], -1.0)];
    for (name, rule) in [("sgd", Rule::Sgd), ("adamw", Rule::AdamW { beta1: 0.9 })] {
        let mut optimizer = Optimizer::new(rule, 0.05, &[3, 1]);
        let (mut w, mut b) = ([1.0_f32, -2.0, 0.5], [0.25_f32]);
        let rates = Rates { lr: 0.1, bias_lr: 0.02, momentum: 0.9, accumulate: 1 };
        for ((gw, gb), wanted) in steps.iter().zip(fixture(name).as_array().unwrap()) {
            let mut parameters = [
                Parameter { group: Group::Weight, value: &mut w, grad: gw },
                Parameter { group: Group::Bias, value: &mut b, grad: &[*gb] },
            ];
            optimizer.step(&mut parameters, &rates);
            for (&found, wanted) in w.iter().chain(&b).zip(numbers(wanted)) {
                assert!(near(f64::from(found), wanted, 2e-5), "{name}: {found} is not {wanted}");
            }
        }
    }
}

#[test]
fn rates_are_those_of_the_timetable() {
    for row in fixture("schedule").as_array().unwrap() {
        let schedule = Schedule {
            epochs: 20,
            batches: 40,
            batch: 16,
            nominal_batch: 64,
            lr0: 0.01,
            lrf: 0.01,
            cosine: row["cosine"].as_bool().unwrap(),
            warmup: 120,
            warmup_bias_lr: 0.1,
            warmup_momentum: 0.8,
            momentum: 0.937,
        };
        let whole = |key: &str| row[key].as_u64().unwrap() as usize;
        let rates = schedule.rates(whole("epoch"), whole("step"));
        assert_eq!(rates.accumulate, whole("accumulate"), "{row}");
        for (key, found) in [("lr", rates.lr), ("bias_lr", rates.bias_lr), ("momentum", rates.momentum)] {
            assert!((found - row[key].as_f64().unwrap()).abs() < 1e-12, "{key}: {found} in {row}");
        }
    }
}

#[test]
fn averages_follow_the_formula() {
    let mut ema = Ema::new(vec![vec![1.0]], 0.9999, 2000.0);
    for (x, wanted) in [0.5_f32, -1.0, 2.0, 2.0, 0.0, 7.0].into_iter().zip(numbers(&fixture("ema"))) {
        ema.update(&[&[x]]);
        assert!((f64::from(ema.values[0][0]) - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{wanted}");
    }
}
