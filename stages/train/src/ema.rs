//! Exponential moving average of weights and buffers; the averaged network is the one that is validated and kept.
//!
//! Owns the average and its decay. Refuses to own the network: it sees flat arrays in a fixed order.

use rayon::prelude::*;

/// The moving average.
#[derive(Clone, Debug)]
pub struct Ema {
    /// Averages, in the order of the arrays given to [`Ema::new`].
    pub values: Vec<Vec<f32>>,
    /// Updates done.
    pub updates: u64,
    decay: f64,
    tau: f64,
}

impl Ema {
    /// Starts at `values`. Decay rises to `decay` with time constant `tau` updates.
    pub fn new(values: Vec<Vec<f32>>, decay: f64, tau: f64) -> Self {
        Self { values, updates: 0, decay, tau }
    }

    /// Decay of update number `n`: `decay * (1 - e^(-n / tau))`.
    pub fn decay_at(&self, n: u64) -> f64 {
        self.decay * (1.0 - (-(n as f64) / self.tau).exp())
    }

    /// Takes in the arrays after a step of the optimizer.
    pub fn update(&mut self, values: &[&[f32]]) {
        assert_eq!(values.len(), self.values.len(), "the arrays of the network do not change");
        self.updates += 1;
        let keep = self.decay_at(self.updates) as f32;
        self.values.par_iter_mut().zip(values).for_each(|(average, now)| {
            for (a, &x) in average.iter_mut().zip(*now) {
                *a += (1.0 - keep) * (x - *a);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_closely_at_first_and_slowly_later() {
        let mut ema = Ema::new(vec![vec![0.0]], 0.9999, 2000.0);
        ema.update(&[&[1.0]]);
        let first = 1.0 - 0.9999 * (1.0 - (-1.0_f64 / 2000.0).exp());
        assert!((f64::from(ema.values[0][0]) - first).abs() < 1e-6);
        assert!(ema.decay_at(20_000) > 0.9998);
    }
}
