//! How good scored matches are.
//!
//! Owns the figures and their line in a table. Refuses to say what is right.

use std::fmt;

/// Thresholds that F1 is given at.
const THRESHOLDS: [f64; 4] = [0.2, 0.3, 0.4, 0.5];
/// Precision that recall is given at.
const PRECISION: f64 = 0.99;
/// Scores below this are never shown, and their calibration does not matter.
const SHOWN_FROM: f64 = 0.1;
/// Bins of the expected calibration error over 0..=1.
const BINS: usize = 10;

/// Scored matches of some drawings.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Score and whether the match is right.
    pub matches: Vec<(f64, bool)>,
    /// Symbols on the drawings.
    pub truths: usize,
    /// Symbols that some hypothesis is right about, before any choice.
    pub reached: usize,
}

impl Outcome {
    /// Adds another's drawings.
    pub fn add(&mut self, other: &Self) {
        self.matches.extend(&other.matches);
        self.truths += other.truths;
        self.reached += other.reached;
    }

    fn f1(&self, right: usize, found: usize) -> f64 {
        2.0 * right as f64 / (found + self.truths).max(1) as f64
    }

    fn f1_at(&self, threshold: f64) -> f64 {
        let found: Vec<_> = self.matches.iter().filter(|(score, _)| *score >= threshold).collect();
        self.f1(found.iter().filter(|(_, right)| *right).count(), found.len())
    }

    /// Best F1 with its threshold, and recall at the precision.
    fn best(&self) -> ([f64; 2], f64) {
        let mut order = self.matches.clone();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut right, mut best, mut recall) = (0, [0.0, 1.0], 0.0f64);
        for (i, &(score, is_right)) in order.iter().enumerate() {
            right += usize::from(is_right);
            let f1 = self.f1(right, i + 1);
            if f1 > best[0] {
                best = [f1, score];
            }
            if right as f64 >= PRECISION * (i + 1) as f64 {
                recall = right as f64 / self.truths.max(1) as f64;
            }
        }
        (best, recall)
    }

    /// Mean distance between score and precision, over bins by how many matches each holds.
    fn calibration_error(&self) -> f64 {
        let mut bins = [(0.0, 0.0); BINS];
        let mut shown = 0;
        for &(score, right) in self.matches.iter().filter(|(score, _)| *score >= SHOWN_FROM) {
            let bin = &mut bins[((score * BINS as f64) as usize).min(BINS - 1)];
            *bin = (bin.0 + score, bin.1 + f64::from(u8::from(right)));
            shown += 1;
        }
        bins.iter().map(|(scores, right)| (scores - right).abs()).sum::<f64>() / f64::from(shown.max(1))
    }

    /// Names of the columns of its line.
    pub fn header() -> String {
        let f1 = THRESHOLDS.map(|t| format!(" F1@{t:.1}")).concat();
        format!("truths{f1}  best    at R@P99   ECE recall reached")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6}", self.truths)?;
        for t in THRESHOLDS {
            write!(f, " {:6.3}", self.f1_at(t))?;
        }
        let ([f1, at], recall) = self.best();
        let share = |n: usize| n as f64 / self.truths.max(1) as f64;
        let found = share(self.matches.iter().filter(|(_, right)| *right).count());
        let error = self.calibration_error();
        write!(f, " {f1:5.3} {at:5.2} {recall:5.3} {error:5.3}  {found:5.3}   {:5.3}", share(self.reached))
    }
}

#[test]
fn figures_of_a_few_matches() {
    let matches = vec![(0.9, true), (0.8, true), (0.35, false), (0.25, true), (0.05, false)];
    let o = Outcome { matches, truths: 4, reached: 4 };
    assert_eq!([o.f1_at(0.3), o.f1_at(0.2)], [4.0 / 7.0, 6.0 / 8.0]);
    assert_eq!(o.best(), ([6.0 / 8.0, 0.25], 0.5));
    let error = (0.1 + 0.2 + 0.35 + 0.75) / 4.0;
    assert!((o.calibration_error() - error).abs() < 1e-12);
}
