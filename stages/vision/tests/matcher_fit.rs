//! Fits the matcher's confidence on generated drawings. Run it after a change of features or poses and copy the line it
//! prints into `CONFIDENCE` of `src/matcher/score.rs`:
//!
//! ```text
//! cargo test -p vision --test matcher_fit -- --ignored --nocapture
//! ```
//!
//! The drawings vary scale, stroke, stretch, noise, poses and the templates' origin (clean, or cut from a drawing). Every
//! match that survives the choice between classes is an example, right when it overlaps a truth of its class by half.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the fit prints what it found")]

mod sheets;

use sheets::{clean_templates, cut_templates, draw, hits, settings};
use synth::{Rotation, SynthSettings};
use vision::matcher::{CONFIDENCE_FEATURES, Matcher, MatcherConfig, Poses, Rotations, Template};

/// Weight of the squared weights: keeps features that say the same from cancelling each other out.
const RIDGE: f64 = 1.0;

struct Example {
    x: Vec<f64>,
    score: f64,
    right: bool,
}

/// All sets of templates, settings and drawings.
fn examples(first: u64, sheets: u64) -> Vec<Example> {
    let quarter = MatcherConfig { threshold: 0.0, ..MatcherConfig::default() };
    let free = MatcherConfig {
        poses: Poses { rotations: Rotations::Any, mirror: true, ..Poses::default() },
        ..quarter.clone()
    };
    let loose = MatcherConfig { poses: Poses { mirror: true, stretch: 1.15, ..Poses::default() }, ..quarter.clone() };
    let some = |t: Vec<Template>, step: usize| t.into_iter().step_by(step).collect::<Vec<_>>();
    let mut sets: Vec<(Vec<Template>, &MatcherConfig, SynthSettings, u64)> = Vec::new();
    for (k, symbol_px) in [36.0, 48.0, 64.0, 88.0].into_iter().enumerate() {
        let seed = first + 10 * k as u64;
        let clean = SynthSettings { invented: 10, lookalikes: 0.4, ..settings(symbol_px) };
        let frame = |s: SynthSettings| SynthSettings { width: clean.width, height: clean.height, ..s };
        let usual = |s: SynthSettings| SynthSettings { symbols: clean.symbols, symbol_px, invented: 10, ..s };
        let scanned = usual(frame(SynthSettings { mirror: 0.5, ..SynthSettings::scanned() }));
        let any = SynthSettings { rotation: Rotation::Any, mirror: 0.5, ..clean.clone() };
        sets.extend([
            (clean_templates(&clean, seed), &quarter, clean.clone(), seed),
            (clean_templates(&clean, seed), &loose, scanned.clone(), seed),
            (clean_templates(&clean, seed), &free, any, seed),
            (cut_templates(&clean, seed), &loose, clean.clone(), seed),
            (cut_templates(&scanned, seed + 1), &loose, scanned.clone(), seed + 1),
            // Only some of the symbols are wanted; the others are look-alikes.
            (some(clean_templates(&clean, seed), 3), &loose, clean.clone(), seed),
            (some(cut_templates(&clean, seed + 2), 2), &loose, clean.clone(), seed + 2),
        ]);
    }
    let mut all = Vec::new();
    for (k, (templates, config, recipe, seed)) in sets.into_iter().enumerate() {
        let matcher = Matcher::new(&templates, config).unwrap();
        let wanted = |c: &str| templates.iter().any(|t| t.class == c);
        let (mut right, mut truths, mut found, mut best) = (0, 0, Vec::new(), 0.0f64);
        for i in 0..sheets {
            let (picture, truth) = draw(&recipe, seed, i);
            let truth: Vec<_> = truth.into_iter().filter(|t| wanted(&t.class)).collect();
            let matches = matcher.find(&picture).matches;
            truths += truth.len();
            for (m, right) in matches.iter().zip(hits(&matches, &truth)) {
                let x = CONFIDENCE_FEATURES.map(|f| f.of(&m.evidence)).to_vec();
                found.push((m.score, right));
                all.push(Example { x, score: m.score, right });
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let at = found.iter().filter(|f| f.0 >= 0.5).count();
        let ok = found.iter().filter(|f| f.0 >= 0.5 && f.1).count();
        for (n, f) in found.iter().enumerate() {
            right += usize::from(f.1);
            best = best.max(2.0 * right as f64 / (n + 1 + truths) as f64);
        }
        println!("set {k}: F1 {:.3} at 0.5, {best:.3} at the best threshold", 2.0 * ok as f64 / (at + truths) as f64);
    }
    all
}

/// Newton's method for ridge logistic regression; the constant is the last weight.
fn fit(examples: &[Example]) -> Vec<f64> {
    let n = examples[0].x.len() + 1;
    let mut w = vec![0.0; n];
    for _ in 0..40 {
        let mut gradient: Vec<f64> =
            w.iter().enumerate().map(|(i, w)| if i + 1 < n { RIDGE * w } else { 0.0 }).collect();
        let mut hessian = vec![vec![0.0; n]; n];
        for (i, row) in hessian.iter_mut().enumerate() {
            row[i] = RIDGE;
        }
        for e in examples {
            let x: Vec<f64> = e.x.iter().copied().chain([1.0]).collect();
            let p = 1.0 / (1.0 + (-x.iter().zip(&w).map(|(x, w)| x * w).sum::<f64>()).exp());
            for i in 0..n {
                gradient[i] += (p - f64::from(u8::from(e.right))) * x[i];
                for j in 0..n {
                    hessian[i][j] += p * (1.0 - p) * x[i] * x[j];
                }
            }
        }
        for (w, step) in w.iter_mut().zip(solve(hessian, gradient)) {
            *w -= step;
        }
    }
    w
}

/// Gaussian elimination with pivoting.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let p = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap();
        a.swap(k, p);
        b.swap(k, p);
        for i in k + 1..n {
            let f = a[i][k] / a[k][k];
            let pivot = a[k].clone();
            for (v, p) in a[i].iter_mut().zip(&pivot).skip(k) {
                *v -= f * p;
            }
            b[i] -= f * b[k];
        }
    }
    for k in (0..n).rev() {
        let s: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - s) / a[k][k];
    }
    b
}

fn reliability(examples: &[Example]) {
    for k in 0..10 {
        let (lo, hi) = (f64::from(k) / 10.0, f64::from(k + 1) / 10.0);
        let bin: Vec<&Example> = examples.iter().filter(|e| e.score >= lo && e.score < hi).collect();
        let n = bin.len().max(1) as f64;
        let said = bin.iter().map(|e| e.score).sum::<f64>() / n;
        let right = bin.iter().filter(|e| e.right).count() as f64 / n;
        println!("scores {lo:.1} to {hi:.1}: {} matches, said {said:.3}, right {right:.3}", bin.len());
    }
}

#[test]
#[ignore = "a fit, not a test: it prints the weights"]
fn fit_confidence() {
    let train = examples(1000, 2);
    let w = fit(&train);
    println!("{} examples, {} right", train.len(), train.iter().filter(|e| e.right).count());
    println!("const CONFIDENCE: [f64; FEATURES + 1] = {w:.2?};");
    println!("held-out drawings, with the weights in use:");
    reliability(&examples(5000, 1));
}
