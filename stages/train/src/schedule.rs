//! Learning rate, momentum and accumulation at each step, and when a step of the optimizer is due.
//!
//! Owns the timetable of a training as a pure function of the step number. Refuses to own the update itself.

use serde::{Deserialize, Serialize};

/// Images that one step of the optimizer stands for, whatever the batch. Source: recipe `yolov8@8.2.103`.
pub const NOMINAL_BATCH: usize = 64;

/// Values for the next step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate of weights and of normalisation.
    pub lr: f64,
    /// Learning rate of biases.
    pub bias_lr: f64,
    /// Momentum (SGD only; AdamW keeps its beta1).
    pub momentum: f64,
    /// Batches whose gradients are added up before the optimizer steps; in the warm-up halves round to even.
    pub accumulate: usize,
}

/// The timetable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Epochs in all.
    pub epochs: usize,
    /// Batches an epoch.
    pub batches: usize,
    /// Images a batch.
    pub batch: usize,
    /// Images a step of the optimizer stands for.
    pub nominal_batch: usize,
    /// Highest learning rate.
    pub lr0: f64,
    /// Last learning rate as a fraction of `lr0`.
    pub lrf: f64,
    /// Cosine instead of straight line.
    pub cosine: bool,
    /// Batches of the warm-up.
    pub warmup: usize,
    /// Bias learning rate at the first batch.
    pub warmup_bias_lr: f64,
    /// Momentum at the first batch.
    pub warmup_momentum: f64,
    /// Momentum after the warm-up.
    pub momentum: f64,
}

impl Schedule {
    /// Fraction of `lr0` in an epoch (the first is 0).
    pub fn factor(&self, epoch: usize) -> f64 {
        let x = (epoch as f64 / self.epochs.max(1) as f64).min(1.0);
        if self.cosine {
            (1.0 - (x * std::f64::consts::PI).cos()) / 2.0 * (self.lrf - 1.0) + 1.0
        } else {
            (1.0 - x) * (1.0 - self.lrf) + self.lrf
        }
    }

    /// Batches to add up after the warm-up.
    pub fn full_accumulation(&self) -> usize {
        ((self.nominal_batch as f64 / self.batch as f64).round() as usize).max(1)
    }

    /// Values for batch `step` (counted from the start of training) of epoch `epoch`.
    pub fn rates(&self, epoch: usize, step: usize) -> Rates {
        let lr = self.lr0 * self.factor(epoch);
        if step > self.warmup || self.warmup == 0 {
            return Rates { lr, bias_lr: lr, momentum: self.momentum, accumulate: self.full_accumulation() };
        }
        let x = step as f64 / self.warmup as f64;
        let between = |a: f64, b: f64| a + (b - a) * x;
        let full = self.nominal_batch as f64 / self.batch as f64;
        Rates {
            lr: between(0.0, lr),
            bias_lr: between(self.warmup_bias_lr, lr),
            momentum: between(self.warmup_momentum, self.momentum),
            accumulate: (between(1.0, full).round_ties_even() as usize).max(1),
        }
    }

    /// Weight decay scaled to the images that a step really stands for.
    pub fn weight_decay(&self, nominal: f64) -> f64 {
        nominal * (self.batch * self.full_accumulation()) as f64 / self.nominal_batch as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule {
            epochs: 100,
            batches: 50,
            batch: 16,
            nominal_batch: NOMINAL_BATCH,
            lr0: 0.01,
            lrf: 0.01,
            cosine: false,
            warmup: 150,
            warmup_bias_lr: 0.1,
            warmup_momentum: 0.8,
            momentum: 0.937,
        }
    }

    #[test]
    fn warm_up_rises_and_the_bias_rate_falls() {
        let s = schedule();
        let first = s.rates(0, 0);
        assert_eq!(first, Rates { lr: 0.0, bias_lr: 0.1, momentum: 0.8, accumulate: 1 });
        let middle = s.rates(1, 75);
        assert!((middle.lr - 0.5 * 0.01 * s.factor(1)).abs() < 1e-12);
        assert!((middle.momentum - 0.8685).abs() < 1e-12);
        assert_eq!(middle.accumulate, 2, "2.5, rounded to even");
        let after = s.rates(3, 151);
        assert_eq!((after.lr, after.accumulate, after.momentum), (0.01 * s.factor(3), 4, 0.937));
    }

    #[test]
    fn both_curves_run_from_one_to_the_last_fraction() {
        for cosine in [false, true] {
            let s = Schedule { cosine, ..schedule() };
            assert!((s.factor(0) - 1.0).abs() < 1e-12);
            assert!((s.factor(100) - 0.01).abs() < 1e-12);
            assert!((s.factor(50) - 0.505).abs() < 1e-12);
        }
    }

    #[test]
    fn weight_decay_follows_the_images_of_a_step() {
        assert!((schedule().weight_decay(5e-4) - 5e-4).abs() < 1e-15);
        let odd = Schedule { batch: 24, ..schedule() };
        assert!((odd.weight_decay(5e-4) - 5e-4 * 72.0 / 64.0).abs() < 1e-15);
        let large = Schedule { batch: 128, ..schedule() };
        assert!((large.weight_decay(5e-4) - 1e-3).abs() < 1e-15);
    }
}
