//! The detection loss and its gradient with respect to the raw head.
//!
//! Owns binary cross entropy on classes, CIoU and distribution focal loss on boxes (Li et al., "Generalized Focal
//! Loss", 2020), their weights and normalisation. Refuses to own the network: it sees plain arrays.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vision::yolov8::{BINS, BOX_CHANNELS, Heads, background_loss};

use crate::assigner::{ImageHead, Positive, Truth, assign, distribution};
use crate::ciou::ciou_with_gradient;

/// Distances are clamped to this many cells, so that the upper neighbour bin exists.
const LONGEST: f64 = BINS as f64 - 1.0 - 0.01;

/// Weights of the three terms. Source of the defaults: recipe `yolov8@8.2.103`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gains {
    /// Weight of the box overlap, 7.5.
    pub bbox: f64,
    /// Weight of the classes, 0.5.
    pub cls: f64,
    /// Weight of the box side distributions, 1.5.
    pub dfl: f64,
    /// Further weight of each class in the class loss, of its wanted and unwanted scores alike; empty for 1.
    pub classes: Vec<f32>,
}

impl Default for Gains {
    fn default() -> Self {
        Self { bbox: 7.5, cls: 0.5, dfl: 1.5, classes: Vec::new() }
    }
}

/// The terms of the loss, each with its gain, normalised by the sum of target scores (not multiplied by the batch).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossTerms {
    /// Box overlap: 1 - CIoU.
    pub bbox: f64,
    /// Classes: binary cross entropy.
    pub cls: f64,
    /// Distribution focal loss of the box sides.
    pub dfl: f64,
}

impl LossTerms {
    /// The sum of the terms.
    pub fn total(&self) -> f64 {
        self.bbox + self.cls + self.dfl
    }

    /// All terms multiplied.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self { bbox: self.bbox * factor, cls: self.cls * factor, dfl: self.dfl * factor }
    }

    /// True when every term is a finite number.
    pub fn is_finite(&self) -> bool {
        self.total().is_finite()
    }
}

/// The loss of a batch; writes the derivative of `batch * (bbox + cls + dfl)` by every raw value to `grads`. Images run
/// in parallel; sums are taken in image order, so threads do not change a bit.
pub fn loss(heads: &Heads, truths: &[Vec<Truth>], gains: &Gains, grads: &mut Heads) -> LossTerms {
    let positives: Vec<Vec<Positive>> =
        truths.par_iter().enumerate().map(|(i, list)| assign(&ImageHead::new(heads, i), list)).collect();
    loss_of(heads, truths, &positives, gains, grads)
}

/// The loss for a given assignment.
fn loss_of(
    heads: &Heads,
    truths: &[Vec<Truth>],
    positives: &[Vec<Positive>],
    gains: &Gains,
    grads: &mut Heads,
) -> LossTerms {
    assert_eq!(truths.len(), heads.batch, "one list of objects an image");
    let classes = heads.levels[0].channels.saturating_sub(BOX_CHANNELS);
    assert!(gains.classes.is_empty() || gains.classes.len() == classes, "one weight a class");
    if grads.batch != heads.batch || grads.levels[0].data.len() != heads.levels[0].data.len() {
        *grads = heads.zeros_like();
    }
    let targets: f64 = positives.iter().flatten().map(|p| p.target).sum();
    let norm = 1.0 / targets.max(1.0);
    let scale = norm * heads.batch as f64;
    let mut by_image: Vec<Vec<&mut [f32]>> = (0..heads.batch).map(|_| Vec::new()).collect();
    for level in &mut grads.levels {
        let n = level.height * level.width * level.channels;
        for (image, part) in by_image.iter_mut().zip(level.data.chunks_exact_mut(n)) {
            image.push(part);
        }
    }
    let terms: Vec<LossTerms> = by_image
        .into_par_iter()
        .enumerate()
        .map(|(i, mut grad)| image_loss(&ImageHead::new(heads, i), &truths[i], &positives[i], gains, scale, &mut grad))
        .collect();
    let sum = |f: fn(&LossTerms) -> f64| terms.iter().map(f).sum::<f64>() * norm;
    LossTerms { bbox: sum(|t| t.bbox) * gains.bbox, cls: sum(|t| t.cls) * gains.cls, dfl: sum(|t| t.dfl) * gains.dfl }
}

/// Logarithm of a probability that may have underflowed to 0.
fn ln(p: f64) -> f64 {
    p.max(f64::MIN_POSITIVE).ln()
}

/// Sums of the terms over one image, without gains and normalisation; writes the finished gradient.
fn image_loss(
    head: &ImageHead,
    truths: &[Truth],
    positives: &[Positive],
    gains: &Gains,
    scale: f64,
    grad: &mut [&mut [f32]],
) -> LossTerms {
    let n = head.channels;
    let mut terms = LossTerms::default();
    let slope = (gains.cls * scale) as f32;
    for (grid, grad) in head.grids.iter().zip(grad.iter_mut()) {
        terms.cls += background_loss(grid.raw, n, slope, grad);
    }
    if !gains.classes.is_empty() {
        terms.cls = 0.0;
        for (grid, grad) in head.grids.iter().zip(grad.iter_mut()) {
            terms.cls += weighted_background(grid.raw, n, &gains.classes, grad);
        }
    }
    for p in positives {
        let truth = &truths[p.truth];
        let channels = head.cell(p.level, p.cell);
        let grad = &mut grad[p.level][p.cell * n..][..n];
        let class = BOX_CHANNELS + truth.class;
        let weight = gains.classes.get(truth.class).map_or(1.0, |&w| f64::from(w));
        terms.cls -= weight * p.target * f64::from(channels[class]);
        grad[class] -= (gains.cls * scale * weight * p.target) as f32;

        let stride = head.grids[p.level].stride as f64;
        let [x, y] = head.anchor(p.level, p.cell);
        let t = truth.bbox.map(|v| f64::from(v) / stride);
        let sides: [_; 4] = std::array::from_fn(|s| distribution(&channels[s * BINS..][..BINS]));
        let predicted = [x - sides[0].1, y - sides[1].1, x + sides[2].1, y + sides[3].1];
        let (overlap, by_edge) = ciou_with_gradient(&predicted, &t);
        terms.bbox += p.target * (1.0 - overlap);
        let wanted = [x - t[0], y - t[1], t[2] - x, t[3] - y];
        for (s, (bins, mean)) in sides.iter().enumerate() {
            let wanted = wanted[s].clamp(0.0, LONGEST);
            let low = wanted.floor() as usize;
            let share = wanted - low as f64;
            let outward = if s < 2 { -1.0 } else { 1.0 };
            let by_mean = -gains.bbox * scale * p.target * by_edge[s] * outward;
            let by_bin = gains.dfl * scale * p.target / 4.0;
            terms.dfl -= p.target / 4.0 * ((1.0 - share) * ln(bins[low]) + share * ln(bins[low + 1]));
            for (k, &prob) in bins.iter().enumerate() {
                let aim = if k == low {
                    1.0 - share
                } else if k == low + 1 {
                    share
                } else {
                    0.0
                };
                grad[s * BINS + k] = (by_mean * prob * (k as f64 - mean) + by_bin * (prob - aim)) as f32;
            }
        }
    }
    terms
}

/// The class loss of cells that learn no object, each class with its weight; multiplies the gradient that was written
/// for weights of 1. `raw` and `grad`: `[cells, channels]`.
fn weighted_background(raw: &[f32], channels: usize, weights: &[f32], grad: &mut [f32]) -> f64 {
    let mut sum = 0.0;
    for (cell, grad) in raw.chunks_exact(channels).zip(grad.chunks_exact_mut(channels)) {
        for ((&z, g), &w) in cell[BOX_CHANNELS..].iter().zip(&mut grad[BOX_CHANNELS..]).zip(weights) {
            sum += f64::from(w * (z.max(0.0) + (-z.abs()).exp().ln_1p()));
            *g *= w;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assigner::sigmoid;
    use crate::assigner::tests::scene;
    use crate::ciou::ciou;

    const CLASSES: usize = 3;

    fn assignments(heads: &Heads, truths: &[Vec<Truth>]) -> Vec<Vec<Positive>> {
        (0..heads.batch).map(|i| assign(&ImageHead::new(heads, i), &truths[i])).collect()
    }

    /// The definition with dense targets, in the order of the formulas.
    fn naive(heads: &Heads, truths: &[Vec<Truth>], weights: [f64; CLASSES]) -> LossTerms {
        let positives = assignments(heads, truths);
        let norm = positives.iter().flatten().map(|p| p.target).sum::<f64>().max(1.0);
        let mut out = LossTerms::default();
        for i in 0..heads.batch {
            let image = ImageHead::new(heads, i);
            for (level, g) in image.grids.iter().enumerate() {
                for cell in 0..g.h * g.w {
                    let p = positives[i].iter().find(|p| p.level == level && p.cell == cell);
                    let c = image.cell(level, cell);
                    for k in 0..CLASSES {
                        let y = p.filter(|p| truths[i][p.truth].class == k).map_or(0.0, |p| p.target);
                        let s = sigmoid(f64::from(c[BOX_CHANNELS + k]));
                        out.cls -= 0.5 * weights[k] * (y * s.ln() + (1.0 - y) * (1.0 - s).ln()) / norm;
                    }
                    let Some(p) = p else { continue };
                    let t = truths[i][p.truth].bbox.map(|v| f64::from(v) / g.stride as f64);
                    out.bbox += 7.5 * p.target * (1.0 - ciou(&image.decode(level, cell), &t)) / norm;
                    let [x, y] = image.anchor(level, cell);
                    for (s, d) in [x - t[0], y - t[1], t[2] - x, t[3] - y].into_iter().enumerate() {
                        let d = d.clamp(0.0, 14.99);
                        let bins = distribution(&c[s * BINS..][..BINS]).0;
                        let low = d as usize;
                        let ce = -bins[low].ln() * (low as f64 + 1.0 - d) - bins[low + 1].ln() * (d - low as f64);
                        out.dfl += 1.5 * p.target * ce / 4.0 / norm;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition() {
        for seed in 0..5 {
            let (heads, truths) = scene(seed, CLASSES, 2);
            let a = loss(&heads, &truths, &Gains::default(), &mut Heads::default());
            let b = naive(&heads, &truths, [1.0; CLASSES]);
            let gains = Gains { classes: vec![1.0, 0.25, 3.0], ..Gains::default() };
            let weighted = loss(&heads, &truths, &gains, &mut Heads::default()).cls;
            let wanted = naive(&heads, &truths, [1.0, 0.25, 3.0]).cls;
            assert!(
                (weighted - wanted).abs() < 1e-5 * wanted && (weighted - a.cls).abs() > 1e-2,
                "{weighted} {wanted}"
            );
            for (a, b) in [(a.bbox, b.bbox), (a.cls, b.cls), (a.dfl, b.dfl)] {
                assert!((a - b).abs() < 1e-5 * b.abs(), "{a} is not {b}");
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (heads, truths) = scene(7, CLASSES, 2);
        let gains = Gains { classes: vec![1.0, 0.25, 3.0], ..Gains::default() };
        let positives = assignments(&heads, &truths);
        let mut grads = Heads::default();
        loss_of(&heads, &truths, &positives, &gains, &mut grads);
        let n = BOX_CHANNELS + CLASSES;
        let mut checked = 0;
        for (i, list) in positives.iter().enumerate() {
            for p in list.iter().step_by(7) {
                let level = &heads.levels[p.level];
                let at = (i * level.height * level.width + p.cell) * n;
                for k in (0..BOX_CHANNELS).step_by(5).chain(BOX_CHANNELS..n) {
                    let step = 1e-2;
                    let value = |delta: f32| {
                        let mut moved = heads.clone();
                        moved.levels[p.level].data[at + k] += delta;
                        2.0 * loss_of(&moved, &truths, &positives, &gains, &mut Heads::default()).total()
                    };
                    let fd = (value(step) - value(-step)) / f64::from(2.0 * step);
                    let g = f64::from(grads.levels[p.level].data[at + k]);
                    // The aspect weight alpha is held constant in the gradient, not in the value: hence the slack.
                    assert!((fd - g).abs() < 3e-2 * g.abs().max(0.05), "channel {k}: {g} is not {fd}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 100, "{checked}");
    }

    #[test]
    fn an_empty_batch_teaches_background_only() {
        let (heads, truths) = scene(3, CLASSES, 1);
        let mut grads = Heads::default();
        loss(&heads, &truths, &Gains::default(), &mut grads);
        let terms = loss(&heads, &[vec![]], &Gains::default(), &mut grads);
        assert!(terms.cls > 0.0 && terms.bbox == 0.0 && terms.dfl == 0.0);
        for cell in grads.levels[0].data.chunks(BOX_CHANNELS + CLASSES) {
            assert!(cell[..BOX_CHANNELS].iter().all(|&g| g == 0.0), "nothing is left of the batch before");
            assert!(cell[BOX_CHANNELS..].iter().all(|&g| g > 0.0));
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let (mut heads, truths) = scene(4, CLASSES, 1);
        for (i, v) in heads.levels.iter_mut().flat_map(|l| &mut l.data).enumerate() {
            *v = if i % 3 == 0 { 600.0 } else { -600.0 };
        }
        let mut grads = Heads::default();
        let terms = loss(&heads, &truths, &Gains::default(), &mut grads);
        assert!(terms.is_finite() && grads.levels.iter().flat_map(|l| &l.data).all(|g| g.is_finite()));
    }
}
