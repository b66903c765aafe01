//! What the matcher weighed on a drawing, beside the truth.
//!
//! Owns which hypotheses are right, which contradict each other and which win their places. Refuses to fit.

use std::array::from_fn;

use datasets::{Annotation, BBox, Pixels};
use vision::matcher::{CONFIDENCE_TERMS, Match, MatcherConfig, RANK_CORRELATION};

use crate::solver::Sample;

/// Measured numbers.
pub const TERMS: usize = CONFIDENCE_TERMS.len();
/// The same and the margin over the runner-up.
pub const WITH_MARGIN: usize = TERMS + 1;

/// Overlap with a truth of its class from which a hypothesis is right.
const RIGHT: f64 = 0.5;
/// Share of the smaller box inside the larger one from which two hypotheses contradict each other, as in the matcher.
const MAX_CONTAINED: f64 = 0.7;
/// Right hypotheses of a symbol that are paired, and wrong ones beside each, when there is no rank yet.
const FIRST_PAIRS: [usize; 2] = [3, 24];
/// The same with a rank: the best right one against the best wrong ones.
const HARD_PAIRS: [usize; 2] = [1, 4];

/// A drawing's hypotheses.
pub struct Drawing {
    hypotheses: Vec<Hypothesis>,
    /// Symbols on the drawing.
    pub truths: usize,
    /// What the drawing counts in the fits, against 1.
    weight: f64,
}

struct Hypothesis {
    class: String,
    bbox: BBox<Pixels>,
    terms: [f64; TERMS],
    /// What its weighted terms count in the rank: the root of the length of strokes explained, times what the
    /// correlation counts.
    stake: f64,
    /// The symbol that it is right about, and the overlap with it.
    about: Option<(usize, f64)>,
}

impl Hypothesis {
    fn of(m: &Match, truth: &[Annotation]) -> Self {
        let same = truth.iter().enumerate().filter(|(_, t)| t.class == m.class);
        let overlaps = same.map(|(i, t)| (i, t.bbox.iou(&m.bbox)));
        let about = overlaps.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, iou)| *iou >= RIGHT);
        let terms = from_fn(|i| CONFIDENCE_TERMS[i].read(&m.evidence));
        let correlation = f64::from(RANK_CORRELATION) * m.evidence["correlation"];
        let stake = m.evidence["length"].max(1.0).sqrt() * correlation.exp();
        Self { class: m.class.clone(), bbox: m.bbox, terms, stake, about }
    }

    /// What the rank weighs.
    fn columns(&self) -> [f64; TERMS] {
        self.terms.map(|t| t * self.stake)
    }

    fn rank(&self, weights: &[f64; TERMS]) -> f64 {
        self.stake * self.terms.iter().zip(weights).map(|(t, w)| t * w).sum::<f64>()
    }

    fn contradicts(&self, other: &Self, max_iou: f64) -> bool {
        let common = self.bbox.intersection_area(&other.bbox);
        common > 0.0
            && (self.bbox.iou(&other.bbox) > max_iou
                || common / self.bbox.area().min(other.bbox.area()) > MAX_CONTAINED)
    }
}

impl Drawing {
    /// `truth` holds the symbols whose classes have templates.
    pub fn of(considered: &[Match], truth: &[Annotation], weight: f64) -> Self {
        let hypotheses = considered.iter().map(|m| Hypothesis::of(m, truth)).collect();
        Self { hypotheses, truths: truth.len(), weight }
    }

    /// Number of hypotheses.
    pub fn considered(&self) -> usize {
        self.hypotheses.len()
    }

    /// Symbols that some hypothesis is right about.
    pub fn reached(&self) -> usize {
        (0..self.truths).filter(|&t| self.hypotheses.iter().any(|h| h.about.is_some_and(|(i, _)| i == t))).count()
    }

    /// Differences between right hypotheses and wrong ones that contradict them; without a rank those that overlap most
    /// with the truth against a sample. The pairs of a symbol weigh as much as a drawing's `weight` together.
    pub fn pairs(&self, rank: Option<&[f64; TERMS]>) -> Vec<Sample<TERMS>> {
        let max_iou = MatcherConfig::default().nms_iou;
        let [most_right, most_wrong] = if rank.is_some() { HARD_PAIRS } else { FIRST_PAIRS };
        let mut pairs = Vec::new();
        for t in 0..self.truths {
            let right = self.hypotheses.iter().filter(|h| h.about.is_some_and(|(i, _)| i == t));
            let value = |h: &Hypothesis| rank.map_or(h.about.map_or(0.0, |a| a.1), |w| h.rank(w));
            let right = best(right, value, most_right);
            let Some(first) = right.first() else { continue };
            let wrong = self.hypotheses.iter().filter(|h| h.about.is_none() && first.contradicts(h, max_iou));
            let wrong: Vec<&Hypothesis> = if let Some(w) = rank {
                best(wrong, |h| h.rank(w), most_wrong)
            } else {
                let all: Vec<&Hypothesis> = wrong.collect();
                let n = all.len().min(most_wrong);
                (0..n).map(|i| all[i * all.len() / n]).collect()
            };
            let weight = self.weight / (wrong.len() * right.len()).max(1) as f64;
            for r in &right {
                for w in &wrong {
                    let (r, w) = (r.columns(), w.columns());
                    pairs.push(Sample { columns: from_fn(|i| r[i] - w[i]), right: true, weight });
                }
            }
        }
        pairs
    }

    /// The hypotheses that no better one contradicts, best first, with their margins over the best contradicted one of
    /// another class: the matcher's choice.
    pub fn winners(&self, rank: &[f64; TERMS]) -> Vec<Sample<WITH_MARGIN>> {
        let max_iou = MatcherConfig::default().nms_iou;
        let worth = self.hypotheses.iter().filter(|h| h.rank(rank) > 0.0);
        let mut won: Vec<(&Hypothesis, Option<f64>)> = Vec::new();
        for h in best(worth, |h| h.rank(rank), usize::MAX) {
            match won.iter_mut().find(|(w, _)| w.contradicts(h, max_iou)) {
                None => won.push((h, None)),
                Some((w, margin)) if margin.is_none() && w.class != h.class => {
                    *margin = Some((1.0 - h.rank(rank) / w.rank(rank)).clamp(0.0, 1.0));
                }
                Some(_) => {}
            }
        }
        let mut found = vec![false; self.truths];
        let mut sample = |(h, margin): (&Hypothesis, Option<f64>)| {
            let right = h.about.is_some_and(|(t, _)| !std::mem::replace(&mut found[t], true));
            let columns = from_fn(|i| if i < TERMS { h.terms[i] } else { margin.unwrap_or(1.0) });
            Sample { columns, right, weight: self.weight }
        };
        won.into_iter().map(&mut sample).collect()
    }
}

/// The hypotheses of the largest values, largest first; equal ones stay in their order.
fn best<'a>(
    all: impl Iterator<Item = &'a Hypothesis>,
    value: impl Fn(&Hypothesis) -> f64,
    most: usize,
) -> Vec<&'a Hypothesis> {
    let mut valued: Vec<(f64, &Hypothesis)> = all.map(|h| (value(h), h)).collect();
    valued.sort_by(|a, b| b.0.total_cmp(&a.0));
    valued.into_iter().take(most).map(|(_, h)| h).collect()
}
