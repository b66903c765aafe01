//! Logistic regression with bounds on the weights.
//!
//! Owns the minimisation. Refuses to know what the columns mean.

use std::array::from_fn;

/// An observation of `K` columns.
#[derive(Clone, Copy, Debug)]
pub struct Sample<const K: usize> {
    pub columns: [f64; K],
    pub right: bool,
    /// What it counts, against 1.
    pub weight: f64,
}

/// What the weights may be.
#[derive(Clone, Copy, Debug)]
pub struct Terms<const K: usize> {
    /// Least and largest weight of each column; both 0 leaves it out.
    pub bounds: [[f64; 2]; K],
    /// Half the penalty on the square of each weight, of the column divided by its standard deviation.
    pub ridge: [f64; K],
}

/// Newton steps at most; a dozen are usual.
const STEPS: usize = 60;
/// Rounds over the weights in the search for a step at most.
const SWEEPS: usize = 20_000;
/// A step that moves no weight by more than this share of the largest weight ends the search.
const STILL: f64 = 1e-9;

/// The weights with the least penalised logistic loss: Newton steps, each the exact minimum within the bounds of the
/// loss's second-order expansion, found weight by weight.
pub fn fit<const K: usize>(samples: &[Sample<K>], terms: &Terms<K>) -> [f64; K] {
    let [_, spread] = moments(samples);
    let samples: Vec<Sample<K>> =
        samples.iter().map(|s| Sample { columns: from_fn(|i| s.columns[i] / spread[i]), ..*s }).collect();
    let mut w = [0.0; K];
    for _ in 0..STEPS {
        let (gradient, curvature) = expansion(&samples, &terms.ridge, &w);
        let to = minimum(&gradient, &curvature, &w, &terms.bounds);
        let step: [f64; K] = from_fn(|i| to[i] - w[i]);
        let largest = |v: &[f64; K]| v.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        if largest(&step) <= STILL * largest(&to) {
            break;
        }
        // Any share of the step stays within the bounds, which are convex.
        let (before, slope) = (loss(&samples, &terms.ridge, &w), dot(&gradient, &step));
        let shortened = (0..30).map(|n| 0.5f64.powi(n)).map(|t| (t, from_fn(|i| w[i] + t * step[i])));
        let mut better = shortened.filter(|(t, v)| loss(&samples, &terms.ridge, v) <= before + 1e-4 * t * slope);
        let Some((_, next)) = better.next() else { break };
        w = next;
    }
    from_fn(|i| w[i] / spread[i])
}

/// Means and standard deviations of the columns; a constant's deviation is 1.
pub fn moments<const K: usize>(samples: &[Sample<K>]) -> [[f64; K]; 2] {
    let n = samples.len().max(1) as f64;
    let mean: [f64; K] = from_fn(|i| samples.iter().map(|s| s.columns[i]).sum::<f64>() / n);
    let spread = from_fn(|i| {
        let variance = samples.iter().map(|s| (s.columns[i] - mean[i]).powi(2)).sum::<f64>() / n;
        if variance > 1e-18 { variance.sqrt() } else { 1.0 }
    });
    [mean, spread]
}

fn dot<const K: usize>(a: &[f64; K], b: &[f64; K]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The penalised loss.
fn loss<const K: usize>(samples: &[Sample<K>], ridge: &[f64; K], w: &[f64; K]) -> f64 {
    let of = |s: &Sample<K>| {
        let z = if s.right { dot(&s.columns, w) } else { -dot(&s.columns, w) };
        // The same as ln(1 + exp(-z)), for any size of z.
        s.weight * ((-z.abs()).exp().ln_1p() - z.min(0.0))
    };
    samples.iter().map(of).sum::<f64>() + (0..K).map(|i| ridge[i] * w[i] * w[i] / 2.0).sum::<f64>()
}

/// Gradient and matrix of second derivatives of the loss.
fn expansion<const K: usize>(samples: &[Sample<K>], ridge: &[f64; K], w: &[f64; K]) -> ([f64; K], [[f64; K]; K]) {
    let mut gradient: [f64; K] = from_fn(|i| ridge[i] * w[i]);
    let mut curvature: [[f64; K]; K] = from_fn(|i| from_fn(|j| if i == j { ridge[i] } else { 0.0 }));
    for s in samples {
        let p = 1.0 / (1.0 + (-dot(&s.columns, w)).exp());
        let slope = s.weight * (p - f64::from(u8::from(s.right)));
        let bend = s.weight * p * (1.0 - p);
        for (i, row) in curvature.iter_mut().enumerate() {
            gradient[i] += slope * s.columns[i];
            let bent = bend * s.columns[i];
            for (entry, column) in row.iter_mut().zip(&s.columns) {
                *entry += bent * column;
            }
        }
    }
    (gradient, curvature)
}

/// Where a quadratic is least within the bounds.
fn minimum<const K: usize>(
    gradient: &[f64; K],
    curvature: &[[f64; K]; K],
    from: &[f64; K],
    bounds: &[[f64; 2]; K],
) -> [f64; K] {
    let (mut at, mut slope) = (*from, *gradient);
    for _ in 0..SWEEPS {
        let (mut moved, mut largest) = (0.0f64, 0.0f64);
        for i in 0..K {
            // A column of zeros without a penalty says nothing about its weight.
            if curvature[i][i] <= 0.0 {
                continue;
            }
            let to = (at[i] - slope[i] / curvature[i][i]).clamp(bounds[i][0], bounds[i][1]);
            let step = to - at[i];
            at[i] = to;
            for j in 0..K {
                slope[j] += step * curvature[j][i];
            }
            (moved, largest) = (moved.max(step.abs()), largest.max(to.abs()));
        }
        if moved <= STILL * 1e-2 * largest {
            break;
        }
    }
    at
}

#[test]
fn no_allowed_change_lowers_the_loss() {
    // Columns that depend on each other, of different sizes, beside a constant.
    let noise = |i: usize, k: usize| ((i * (k * 37 + 11) + k * 5) % 101) as f64 / 101.0 - 0.5;
    let samples: Vec<Sample<5>> = (0..2000)
        .map(|i| {
            let [a, b, c] = [noise(i, 1), noise(i, 2), noise(i, 3)];
            let columns = [a, 50.0 * (a + 0.3 * b), c, b, 1.0];
            Sample { columns, right: 3.0 * a - 2.0 * c + 0.5 > 2.0 * noise(i, 4), weight: 0.5 + noise(i, 5).abs() }
        })
        .collect();
    let free = [f64::NEG_INFINITY, f64::INFINITY];
    let terms = Terms {
        bounds: [free, [f64::NEG_INFINITY, 0.0], [0.0, f64::INFINITY], [0.0, 0.0], free],
        ridge: [1.0, 1.0, 1.0, 1.0, 0.0],
    };
    let w = fit(&samples, &terms);
    assert_eq!((w[2], w[3]), (0.0, 0.0), "the sign is refused, and the column left out: {w:?}");
    assert!(w[0] > 1.0 && w[1] <= 0.0, "{w:?}");

    // The penalty is on weights of columns of spread 1.
    let [_, spread] = moments(&samples);
    let penalty: [f64; 5] = from_fn(|i| terms.ridge[i] * spread[i].powi(2));
    let least = loss(&samples, &penalty, &w);
    for (i, [low, high]) in terms.bounds.into_iter().enumerate() {
        for change in [-1e-3, 1e-3] {
            let mut other = w;
            other[i] = (w[i] + change).clamp(low, high);
            assert!(loss(&samples, &penalty, &other) >= least - 1e-12, "column {i}, {change}");
        }
    }
}
