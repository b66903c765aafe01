//! The second look at what won its place: how well it fits by the measure of its drawing.
//!
//! Drawings differ in how well their symbols repeat the templates. The surest finds of a drawing say what is usual
//! there, and every find is weighed against that by a small network, which also knows what measurements mean together:
//! that grey levels differ is no objection where all strokes lie right and letters stand between them. The network
//! learned from generated drawings (`tests/matcher_fit.rs` trains it and prints it). The first look is linear and goes on
//! where those drawings end, so both have a share in the log-odds.
//!
//! Owns what is usual on a drawing, and the network. Refuses to measure: it reads the evidence of matches.

use std::array::from_fn;
use std::collections::BTreeMap;

use super::score::{CONFIDENCE_TERMS, read};

/// Name of the first look's confidence in [`super::Match::evidence`].
pub const FIRST_LOOK: &str = "first_look";
/// Share of the network in the log-odds, 0..=1; the rest is the first look's.
const SHARE: f64 = 0.25;
/// Confidence of the first look from which a find says what is usual.
pub const SURE: f64 = 0.7;
/// What the drawings that the network learned from count beside the finds of a drawing, in finds.
const USUAL_COUNT: f64 = 4.0;
/// Spreads by which a find may be worse and better than usual; more are not told apart.
const SPREADS: [f64; 2] = [-8.0, 2.0];
/// The first look's confidence is kept this far from 0 and 1.
const CERTAIN: f64 = 1e-9;

/// A term in which drawings differ.
#[derive(Clone, Copy, Debug)]
pub struct Usual {
    /// Name of the term.
    pub term: &'static str,
    /// Names in the evidence of its mean over the sure finds of the drawing, and of the spreads by which a find is better.
    pub usual: &'static str,
    /// See `usual`.
    pub better: &'static str,
    /// 1 when more of it is better, -1 when less is.
    sign: f64,
    /// Mean over the sure finds of the drawings that the network learned from, and the spread within a drawing.
    mean: f64,
    spread: f64,
}

/// The terms in which drawings differ.
pub const USUAL: [Usual; 3] = [
    Usual::new("correlation", ["usual_correlation", "better_correlation"], 1.0, [0.961, 0.034]),
    Usual::new("oriented", ["usual_oriented", "better_oriented"], 1.0, [0.961, 0.029]),
    Usual::new("unexplained", ["usual_unexplained", "better_unexplained"], -1.0, [0.039, 0.044]),
];

impl Usual {
    const fn new(term: &'static str, names: [&'static str; 2], sign: f64, [mean, spread]: [f64; 2]) -> Self {
        Self { term, usual: names[0], better: names[1], sign, mean, spread }
    }
}

/// Terms that the network does not read: the first says nothing beside the others, the last is the same everywhere.
const NOT_READ: [&str; 2] = ["coverage", "constant"];
/// Numbers that the network reads.
pub const SECOND_INPUTS: usize = CONFIDENCE_TERMS.len() - NOT_READ.len() + 2 * USUAL.len();
/// Hidden units of the network.
pub const SECOND_UNITS: usize = 8;

/// What is usual on a drawing: mean and spread of each of [`USUAL`] over its sure finds.
pub(super) struct Standard([[f64; 2]; USUAL.len()]);

impl Standard {
    /// From the evidence of everything that won its place.
    pub fn of<'a>(winners: impl Iterator<Item = &'a BTreeMap<String, f64>>) -> Self {
        let sure: Vec<&BTreeMap<String, f64>> = winners.filter(|e| read(e, FIRST_LOOK) >= SURE).collect();
        let n = sure.len() as f64 + USUAL_COUNT;
        Self(USUAL.map(|u| {
            let found = || sure.iter().map(|e| read(e, u.term));
            let mean = (found().sum::<f64>() + USUAL_COUNT * u.mean) / n;
            let squares: f64 = found().map(|v| (v - mean).powi(2)).sum();
            [mean, ((squares + USUAL_COUNT * u.spread.powi(2)) / n).sqrt()]
        }))
    }

    /// Adds what is usual, and how a find compares with it, to the find's evidence.
    pub fn compare(&self, evidence: &mut BTreeMap<String, f64>) {
        for (u, [mean, spread]) in USUAL.iter().zip(self.0) {
            let better = u.sign * (read(evidence, u.term) - mean) / spread;
            evidence.insert(u.usual.to_owned(), mean);
            evidence.insert(u.better.to_owned(), better.clamp(SPREADS[0], SPREADS[1]));
        }
    }
}

/// What the network reads of a match's evidence.
pub fn second_inputs(evidence: &BTreeMap<String, f64>) -> [f64; SECOND_INPUTS] {
    let terms = CONFIDENCE_TERMS.iter().map(|t| t.name).filter(|name| !NOT_READ.contains(name));
    let mut names = terms.chain(USUAL.iter().map(|u| u.better)).chain(USUAL.iter().map(|u| u.usual));
    from_fn(|_| names.next().map_or(0.0, |name| read(evidence, name)))
}

/// The sum of the values by their weights; a constant that follows the weights is left out.
fn weighed(weights: &[f64], values: &[f64]) -> f64 {
    weights.iter().zip(values).map(|(w, v)| w * v).sum()
}

/// A network with one layer of hidden units.
#[derive(Clone, Debug)]
pub struct SecondLook {
    /// Weights of the inputs in each hidden unit, and its constant.
    pub hidden: [[f64; SECOND_INPUTS + 1]; SECOND_UNITS],
    /// Weights of the hidden units, and the constant.
    pub out: [f64; SECOND_UNITS + 1],
}

impl SecondLook {
    /// What the hidden units say, -1..=1.
    pub fn units(&self, inputs: &[f64; SECOND_INPUTS]) -> [f64; SECOND_UNITS] {
        self.hidden.each_ref().map(|w| (weighed(w, inputs) + w[SECOND_INPUTS]).tanh())
    }

    /// The confidence of a match by its evidence: this network and the first look together, 0..=1.
    pub fn confidence(&self, evidence: &BTreeMap<String, f64>) -> f64 {
        let first = read(evidence, FIRST_LOOK).clamp(CERTAIN, 1.0 - CERTAIN);
        let second = self.log_odds(&second_inputs(evidence));
        let z = (1.0 - SHARE) * (first / (1.0 - first)).ln() + SHARE * second;
        1.0 / (1.0 + (-z).exp())
    }

    /// The logarithm of the odds that a match is right.
    pub fn log_odds(&self, inputs: &[f64; SECOND_INPUTS]) -> f64 {
        weighed(&self.out, &self.units(inputs)) + self.out[SECOND_UNITS]
    }
}

/// The network.
pub(super) static NETWORK: SecondLook = SecondLook { hidden: HIDDEN, out: OUT };

/// Weights of the network's hidden units.
const HIDDEN: [[f64; SECOND_INPUTS + 1]; SECOND_UNITS] = [
    [
        6.27, -0.4016, -0.6178, 6.892, -2.348, 8.1, -3.816, -9.598, 0.09059, -2.961, 1.421, 0.5294, -3.26, -3.473,
        -3.908, -3.723, -2.815, 23.56, 0.009752, -0.06461, 0.198, 40.44, -1.418, 0.5642, -53.98,
    ],
    [
        -1.124, -0.1013, 1.194, -5.597, -11.82, 7.87, -0.3148, 9.469, 0.9943, -0.5113, 4.38, -0.7853, 0.8099, 0.6028,
        0.8494, 0.4217, -0.2004, 3.776, 0.1672, 0.2796, 0.4556, -2.396, 14.2, -0.4152, -9.363,
    ],
    [
        7.089, 0.5531, -1.002, 2.397, 3.487, 3.485, -0.6767, -3.045, 0.3767, 2.348, 1.706, -1.189, 0.2892, -0.5134,
        0.7569, -2.398, -1.665, 8.282, 0.06986, -0.1414, 0.07571, 3.986, 37.55, 44.22, -47.25,
    ],
    [
        3.781, -0.4672, -1.943, 13.3, -8.078, -12.1, 1.258, 3.316, 0.429, 0.6509, -2.37, -0.02822, 0.04259, -0.2358,
        0.9202, 0.4877, -0.5519, -2.315, -0.3901, -0.218, 0.1799, -15.23, -4.71, 0.7397, 14.55,
    ],
    [
        -8.483, -0.6519, -7.986, 12.21, 6.364, -1.891, 8.147, 13.72, 0.3838, -0.5375, -0.7614, 0.8325, -0.7459, 2.305,
        -0.809, 0.3739, -0.4529, 7.03, -0.008935, -0.3983, -0.03025, 25.73, -2.028, 23.22, -29.5,
    ],
    [
        -4.878, -0.6059, 2.455, -8.125, 3.983, 14.8, -6.814, -30.23, 0.5328, 5.777, -1.502, 0.5237, -0.3586, 0.4123,
        0.1229, -0.4792, -0.5743, 1.505, 0.3934, 0.0007574, -0.1526, -27.01, -12.24, 17.26, 37.42,
    ],
    [
        -5.25, 1.725, 1.061, -32.54, -1.676, -6.802, 3.448, 26.28, -0.2996, 10.41, 2.278, 0.9616, -3.378, -0.8318,
        -4.724, -1.619, -1.101, 15.88, -0.147, 0.1055, 0.04748, 2.548, -52.37, -15.19, 81.66,
    ],
    [
        7.695, 1.986, 0.6723, 68.4, -0.2354, 4.811, 3.11, -4.163, -0.6095, -2.481, -4.74, 0.7405, -1.024, -1.601,
        -1.498, -0.6745, -1.306, -0.8185, 0.1188, -0.2172, -0.06797, 33.94, 20.29, 15.44, -139.7,
    ],
];
/// Weights of its output.
const OUT: [f64; SECOND_UNITS + 1] = [1.683, 1.055, -1.685, -1.066, 1.754, 1.18, -1.626, 1.269, 0.7479];

#[cfg(test)]
mod tests {
    use super::*;

    fn find(first: f64, correlation: f64) -> BTreeMap<String, f64> {
        let evidence = [(FIRST_LOOK, first), ("correlation", correlation), ("oriented", 0.95), ("unexplained", 0.05)];
        evidence.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    #[test]
    fn sure_finds_say_what_is_usual_and_few_of_them_hardly() {
        let usual = |finds: &[BTreeMap<String, f64>]| Standard::of(finds.iter()).0[0];
        let general = usual(&[]);
        assert_eq!(general, [0.961, 0.034]);
        assert_eq!(usual(&vec![find(0.5, 0.6); 50]), general, "nothing sure");
        let [one, many] = [1, 50].map(|n| usual(&vec![find(0.9, 0.85); n]));
        assert!((one[0] - 0.939).abs() < 0.001 && (many[0] - 0.858).abs() < 0.001, "{one:?}, {many:?}");
        assert!(many[1] < one[1], "all are alike");
    }

    #[test]
    fn finds_are_compared_with_what_is_usual() {
        let drawing = vec![find(0.9, 0.9); 60];
        let standard = Standard::of(drawing.iter());
        let compared = |correlation: f64| {
            let mut e = find(0.5, correlation);
            standard.compare(&mut e);
            assert!((e["usual_correlation"] - 0.9).abs() < 0.01);
            assert!(e["better_unexplained"] < 0.0, "more foreign ink than on drawings in general");
            e["better_correlation"]
        };
        assert!(compared(0.95) > compared(0.9) && compared(0.9) > compared(0.8));
        assert_eq!((compared(1.0), compared(-1.0)), (2.0, -8.0));
    }

    #[test]
    fn confidence_is_a_probability_whatever_the_evidence() {
        for first in [0.0, 0.3, 1.0] {
            for value in [-1e3, 0.0, 1e3] {
                let mut e: BTreeMap<String, f64> =
                    CONFIDENCE_TERMS.iter().map(|t| (t.name.to_owned(), value)).collect();
                e.insert(FIRST_LOOK.to_owned(), first);
                Standard::of(std::iter::empty()).compare(&mut e);
                assert!((0.0..=1.0).contains(&NETWORK.confidence(&e)), "{first}, {value}");
            }
        }
    }
}
