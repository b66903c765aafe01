//! Binary cross entropy of logits against 0, with its slope: the part of a detection loss that touches every number.

use super::{
    number::Number,
    simd::{Simd, kernel},
    storage::LANES,
};

/// `ln(1 + e)` for `e` in 0..=1, error below 2e-7: the series of the inverse hyperbolic tangent of `e / (2 + e)`.
#[inline(always)]
fn ln_1p<S: Simd>(simd: S, e: S::V) -> S::V {
    let s = simd.div(e, simd.add(e, simd.splat(2.0)));
    let square = simd.mul(s, s);
    let mut sum = simd.splat(2.0 / 13.0);
    for c in [2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        sum = simd.fused(sum, square, simd.splat(c));
    }
    simd.mul(sum, s)
}

kernel! {
    /// For the numbers from `offset` on of each cell of `pitch`: sums `-ln(1 - sigmoid(z))` and writes `slope *
    /// sigmoid(z)`; before `offset` it writes zeros.
    pub(crate) fn background<'a>(simd; logits: &'a [f32], pitch: usize, offset: usize, slope: f32, gradient: &'a mut [f32]) -> f64 {
        let (zero, one, slope) = (simd.splat(0.0), simd.splat(1.0), simd.splat(slope));
        let mut total = 0.0;
        for (cell, gradient) in logits.chunks_exact(pitch).zip(gradient.chunks_exact_mut(pitch)) {
            gradient[..offset].fill(0.0);
            let mut sums = zero;
            let mut last = 0.0;
            for j in (offset..pitch).step_by(LANES) {
                let len = LANES.min(pitch - j);
                let z = f32::get(simd, cell, j, len);
                // Stable for either sign: e^-|z| is at most 1.
                let positive = simd.max(z, zero);
                let e = simd.exp::<true>(simd.sub(simd.min(z, zero), positive));
                // Maxima hide what is not a number; this difference, otherwise 0, keeps it.
                let value = simd.add(simd.add(positive, simd.sub(z, z)), ln_1p(simd, e));
                let share = simd.div(one, simd.add(one, simd.exp::<true>(simd.sub(zero, z))));
                f32::put(simd, simd.mul(slope, share), gradient, j, len);
                if len == LANES {
                    sums = simd.add(sums, value);
                } else {
                    // What lies beyond the cell does not count.
                    let mut lanes = [0.0; LANES];
                    simd.store(value, &mut lanes);
                    last = lanes[..len].iter().sum::<f32>();
                }
            }
            let mut lanes = [0.0; LANES];
            simd.store(sums, &mut lanes);
            total += f64::from(lanes.iter().sum::<f32>() + last);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition() {
        for (pitch, offset) in [(37, 4), (32, 16), (9, 8), (80, 64)] {
            let logits: Vec<f32> = (0..pitch * 50).map(|i| ((i * 7919 % 1009) as f32 - 504.0) * 0.08).collect();
            let mut gradient = vec![f32::NAN; logits.len()];
            let found = background(&logits, pitch, offset, 0.25, &mut gradient);
            let mut expected = 0.0;
            for (i, (&z, &g)) in logits.iter().zip(&gradient).enumerate() {
                let z = f64::from(z);
                let share = 1.0 / (1.0 + (-z).exp());
                if i % pitch < offset {
                    assert_eq!(g, 0.0);
                } else {
                    expected += z.max(0.0) + (-z.abs()).exp().ln_1p();
                    assert!((f64::from(g) - 0.25 * share).abs() < 1e-6 * share.max(1e-6), "{z}: {g}");
                }
            }
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let mut gradient = [0.0; 2];
        let sum = background(&[700.0, -700.0], 2, 0, 1.0, &mut gradient);
        assert!((sum - 700.0).abs() < 1e-3 && gradient[0] == 1.0 && gradient[1] >= 0.0);
        for broken in [f32::NAN, f32::INFINITY] {
            assert!(!background(&[0.0, broken], 2, 0, 1.0, &mut gradient).is_finite());
        }
    }
}
