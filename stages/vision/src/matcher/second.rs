//! The second look at what won its place: how well it fits by the measure of its drawing.
//!
//! Drawings differ in how well their symbols repeat the templates and in what else is on them. The surest finds of a
//! drawing say what is usual there, the number of doubtful ones beside them how much there is that looks like a symbol and
//! is none, and every find is weighed against that by a small network. The lines that lead to a find are counted against
//! those of the sure finds of its class. What claims one place is set against each other, and the surest has it. The
//! network also knows what measurements mean together: that grey levels differ is no objection where all strokes lie right
//! and letters stand between them. It learned from generated drawings (`tests/matcher_fit.rs` trains it and writes
//! `second.txt`).
//!
//! Owns what is usual on a drawing, and the network. Refuses to measure: it reads the evidence of matches.

use std::array::from_fn;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use super::Match;
use super::pose::Worth;
use super::score::{CONFIDENCE_TERMS, log_odds, probability, read};

/// Name of the first look's confidence in [`super::Match::evidence`].
pub const FIRST_LOOK: &str = "first_look";
/// What is looked at again. Of the right finds that are sure of little at the first look nearly all would be sure of more if
/// what is measured last were as good as can be; of the wrong ones few.
pub(super) const WORTH: Worth = Worth { at_best: 0.1, found: 0.003 };
/// Confidence of the first look from which a find says what is usual.
pub const SURE: f64 = 0.7;
/// What the drawings that the network learned from count beside the finds of a drawing, in finds.
const USUAL_COUNT: f64 = 4.0;
/// Spreads by which a find may be worse and better than usual; more are not told apart.
const SPREADS: [f64; 2] = [-8.0, 2.0];
/// Confidence of the first look below which a find is doubtful, and from which a doubtful one is close.
const DOUBTFUL: f64 = 0.4;
const CLOSE: f64 = 0.05;
/// Share of the ring near to a find that is ink, below which it is free.
const FREE: f64 = 0.12;

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
pub const USUAL: [Usual; 4] = [
    Usual::new("correlation", ["usual_correlation", "better_correlation"], 1.0, [0.954, 0.035]),
    Usual::new("oriented", ["usual_oriented", "better_oriented"], 1.0, [0.949, 0.035]),
    Usual::new("unexplained", ["usual_unexplained", "better_unexplained"], -1.0, [0.033, 0.036]),
    Usual::new("ink_near", ["usual_ink_near", "better_ink_near"], -1.0, [0.037, 0.027]),
];

/// Names in the evidence of how many doubtful finds the drawing has for every sure one, as logarithms: free ones, those of
/// them that are close, and those in the midst of other ink.
pub const DOUBTS: [&str; 3] = ["doubts_free", "doubts_close", "doubts_crowded"];

/// Name in the evidence of how many more lines lead to a find than to the sure ones of its class on the drawing, in
/// spreads; more than so many either way are not told apart.
pub const MORE_LEADS: &str = "more_leads";
const MOST_MORE_LEADS: f64 = 4.0;
/// Mean and spread of the leads of a class without sure finds, which count as one find.
const LEADS: [f64; 2] = [0.4, 0.25];

/// By how much a find is ahead of the best of its rivals: a name in the evidence, and the most that is told apart, which
/// one without rivals has.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// Name of the difference in the evidence.
    pub name: &'static str,
    most: f64,
    of: fn(&BTreeMap<String, f64>) -> f64,
}

/// In what rivals are compared: the logarithm of the odds at the first look, and the correlation.
pub const OVER_RIVALS: [Over; 2] = [
    Over { name: "over_rivals", most: 3.0, of: |e| log_odds(read(e, FIRST_LOOK)).clamp(-30.0, 30.0) },
    Over { name: "over_rivals_correlation", most: 0.1, of: |e| read(e, "correlation") },
];

/// Adds to the evidence of all that claim one place by how much each is ahead of the others.
pub(super) fn set_against(claims: &mut [Match]) {
    for over in OVER_RIVALS {
        let values: Vec<f64> = claims.iter().map(|m| (over.of)(&m.evidence)).collect();
        for (i, m) in claims.iter_mut().enumerate() {
            let others = values.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| *v);
            let ahead = others.reduce(f64::max).map_or(over.most, |best| values[i] - best);
            m.evidence.insert(over.name.to_owned(), ahead.clamp(-over.most, over.most));
        }
    }
}

impl Usual {
    const fn new(term: &'static str, names: [&'static str; 2], sign: f64, [mean, spread]: [f64; 2]) -> Self {
        Self { term, usual: names[0], better: names[1], sign, mean, spread }
    }
}

/// Terms that the network does not read: the first says nothing beside the others, the last is the same everywhere.
const NOT_READ: [&str; 2] = ["coverage", "constant"];
/// Numbers that the network reads.
pub const SECOND_INPUTS: usize =
    CONFIDENCE_TERMS.len() - NOT_READ.len() + 2 * USUAL.len() + DOUBTS.len() + OVER_RIVALS.len() + 1;

/// What a drawing is like.
pub(super) struct Standard {
    /// Mean and spread of each of [`USUAL`] over its sure finds.
    usual: [[f64; 2]; USUAL.len()],
    /// [`DOUBTS`].
    doubts: [f64; DOUBTS.len()],
    /// Mean and spread of the leads of the sure finds of each class that has some.
    leads: BTreeMap<String, [f64; 2]>,
}

impl Standard {
    /// From the class and the evidence of everything that won its place.
    pub fn of<'a>(winners: impl Iterator<Item = (&'a str, &'a BTreeMap<String, f64>)>) -> Self {
        let (mut sure, mut doubts) = (Vec::new(), [1.0f64; DOUBTS.len()]);
        let mut leads = BTreeMap::<String, Vec<f64>>::new();
        for (class, e) in winners {
            let first = read(e, FIRST_LOOK);
            if first >= SURE {
                sure.push(e);
                leads.entry(class.to_owned()).or_default().push(read(e, "leads"));
            } else if first < DOUBTFUL {
                let free = read(e, "ink_near") < FREE;
                for (n, counts) in doubts.iter_mut().zip([free, free && first > CLOSE, !free]) {
                    *n += f64::from(u8::from(counts));
                }
            }
        }
        let usual = USUAL.map(|u| {
            let found: Vec<f64> = sure.iter().map(|e| read(e, u.term)).collect();
            usual_of(&found, USUAL_COUNT, [u.mean, u.spread])
        });
        Self {
            usual,
            doubts: doubts.map(|n| (n / (sure.len() as f64 + 1.0)).ln()),
            leads: leads.into_iter().map(|(class, leads)| (class, usual_of(&leads, 1.0, LEADS))).collect(),
        }
    }

    /// A match at the second look.
    pub fn weigh(&self, mut m: Match) -> Match {
        self.compare(&m.class, &mut m.evidence);
        m.score = NETWORK.confidence(&m.evidence);
        m
    }

    /// Adds what is usual, and how a find compares with it, to the find's evidence.
    fn compare(&self, class: &str, evidence: &mut BTreeMap<String, f64>) {
        for (u, [mean, spread]) in USUAL.iter().zip(self.usual) {
            let better = u.sign * (read(evidence, u.term) - mean) / spread;
            evidence.insert(u.usual.to_owned(), mean);
            evidence.insert(u.better.to_owned(), better.clamp(SPREADS[0], SPREADS[1]));
        }
        evidence.extend(DOUBTS.iter().zip(self.doubts).map(|(name, v)| ((*name).to_owned(), v)));
        let [mean, spread] = self.leads.get(class).copied().unwrap_or(LEADS);
        let more = (read(evidence, "leads") - mean) / spread;
        evidence.insert(MORE_LEADS.to_owned(), more.clamp(-MOST_MORE_LEADS, MOST_MORE_LEADS));
    }
}

/// Mean and spread of values, beside a mean and a spread that count as so many of them.
fn usual_of(values: &[f64], count: f64, [mean, spread]: [f64; 2]) -> [f64; 2] {
    let n = values.len() as f64 + count;
    let mean = (values.iter().sum::<f64>() + count * mean) / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    [mean, ((squares + count * spread.powi(2)) / n).sqrt()]
}

/// What the network reads of a match's evidence.
pub fn second_inputs(evidence: &BTreeMap<String, f64>) -> [f64; SECOND_INPUTS] {
    let terms = CONFIDENCE_TERMS.iter().map(|t| t.name).filter(|name| !NOT_READ.contains(name));
    let usual = USUAL.iter().map(|u| u.better).chain(USUAL.iter().map(|u| u.usual));
    let mut names = terms.chain(usual).chain(DOUBTS).chain(OVER_RIVALS.map(|o| o.name)).chain([MORE_LEADS]);
    from_fn(|_| names.next().map_or(0.0, |name| read(evidence, name)))
}

/// A hidden unit of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Weights of the inputs, and its constant.
    pub weights: [f64; SECOND_INPUTS],
    /// See `weights`.
    pub constant: f64,
    /// Weight of the unit in the log-odds.
    pub out: f64,
}

impl Unit {
    /// What it says, -1..=1.
    pub fn value(&self, inputs: &[f64; SECOND_INPUTS]) -> f64 {
        (self.weights.iter().zip(inputs).map(|(w, v)| w * v).sum::<f64>() + self.constant).tanh()
    }
}

/// A network with one layer of hidden units.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondLook {
    /// The hidden units.
    pub units: Vec<Unit>,
    /// The log-odds when the units say nothing.
    pub constant: f64,
}

impl SecondLook {
    /// The confidence of a match by its evidence, 0..=1.
    pub fn confidence(&self, evidence: &BTreeMap<String, f64>) -> f64 {
        probability(self.log_odds(&second_inputs(evidence)))
    }

    /// The logarithm of the odds that a match is right.
    pub fn log_odds(&self, inputs: &[f64; SECOND_INPUTS]) -> f64 {
        self.units.iter().map(|u| u.out * u.value(inputs)).sum::<f64>() + self.constant
    }
}

impl fmt::Display for SecondLook {
    /// A line for each unit (its weights, its constant, its weight in the log-odds), then one with the constant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for u in &self.units {
            u.weights.iter().chain([&u.constant]).try_for_each(|w| write!(f, "{w} "))?;
            writeln!(f, "{}", u.out)?;
        }
        writeln!(f, "{}", self.constant)
    }
}

impl FromStr for SecondLook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let row = |(n, line): (usize, &str)| {
            let number = |word: &str| word.parse::<f64>().map_err(|e| format!("line {}: {word}: {e}", n + 1));
            line.split_whitespace().map(number).collect::<Result<Vec<f64>, String>>()
        };
        let rows = text.lines().enumerate().map(row).collect::<Result<Vec<_>, String>>()?;
        let Some(([constant], rows)) = rows.split_last().map(|(last, rows)| (last.as_slice(), rows)) else {
            return Err("the last line has to be the constant".to_owned());
        };
        let unit = |(n, row): (usize, &Vec<f64>)| match row.as_slice() {
            [weights @ .., constant, out] => <[f64; SECOND_INPUTS]>::try_from(weights)
                .map(|weights| Unit { weights, constant: *constant, out: *out })
                .map_err(|_| format!("line {}: {} weights instead of {SECOND_INPUTS}", n + 1, weights.len())),
            _ => Err(format!("line {}: not a unit", n + 1)),
        };
        let units = rows.iter().enumerate().map(unit).collect::<Result<_, String>>()?;
        Ok(Self { units, constant: *constant })
    }
}

/// The network.
static NETWORK: LazyLock<SecondLook> =
    LazyLock::new(|| include_str!("second.txt").parse().expect("a test reads the same file"));

#[cfg(test)]
mod tests {
    use datasets::BBox;

    use super::*;

    fn find(first: f64, correlation: f64) -> BTreeMap<String, f64> {
        let evidence = [(FIRST_LOOK, first), ("correlation", correlation), ("oriented", 0.95), ("unexplained", 0.05)];
        evidence.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    /// Of finds whose class does not matter.
    fn standard(finds: &[BTreeMap<String, f64>]) -> Standard {
        Standard::of(finds.iter().map(|e| ("", e)))
    }

    #[test]
    fn sure_finds_say_what_is_usual_and_few_of_them_hardly() {
        let usual = |finds: &[BTreeMap<String, f64>]| standard(finds).usual[0];
        let general = usual(&[]);
        assert_eq!(general, [0.954, 0.035]);
        assert_eq!(usual(&vec![find(0.5, 0.6); 50]), general, "nothing sure");
        let [one, many] = [1, 50].map(|n| usual(&vec![find(0.9, 0.85); n]));
        assert!((one[0] - 0.933).abs() < 0.001 && (many[0] - 0.858).abs() < 0.001, "{one:?}, {many:?}");
        assert!(many[1] < one[1], "all are alike");
    }

    #[test]
    fn finds_are_compared_with_what_is_usual() {
        let drawing = vec![find(0.9, 0.9); 60];
        let standard = standard(&drawing);
        let compared = |correlation: f64| {
            let mut e = find(0.5, correlation);
            standard.compare("", &mut e);
            assert!((e["usual_correlation"] - 0.9).abs() < 0.01);
            assert!(e["better_unexplained"] < 0.0, "more foreign ink than on drawings in general");
            e["better_correlation"]
        };
        assert!(compared(0.95) > compared(0.9) && compared(0.9) > compared(0.8));
        assert_eq!((compared(1.0), compared(-1.0)), (2.0, -8.0));
    }

    #[test]
    fn leads_are_compared_with_those_of_the_class() {
        let with = |leads: f64, first: f64| {
            let mut e = find(first, 0.9);
            e.insert("leads".to_owned(), leads);
            e
        };
        let valves = vec![with(0.5, 0.9); 4];
        let balloons = [with(0.0, 0.9), with(0.25, 0.9), with(0.75, 0.9), with(0.5, 0.9)];
        let winners = valves.iter().map(|e| ("valve", e)).chain(balloons.iter().map(|e| ("balloon", e)));
        let standard = Standard::of(winners);
        let more = |class: &str, leads: f64| {
            let mut e = with(leads, 0.5);
            standard.compare(class, &mut e);
            e[MORE_LEADS]
        };
        assert!(more("valve", 0.75) > 2.0 && more("valve", 0.0) == -4.0 && more("valve", 0.5).abs() < 0.2);
        assert!(more("balloon", 0.75).abs() < 1.5 && more("balloon", 0.0).abs() < 1.5, "they differ");
        assert!((more("motor", 0.5) - 0.4).abs() < 1e-9, "none is sure");
    }

    #[test]
    fn rivals_are_set_against_the_best_other_and_one_alone_is_far_ahead() {
        let claim = |first: f64, correlation: f64| Match {
            class: String::new(),
            template: String::new(),
            bbox: BBox::new(0.0, 0.0, 1.0, 1.0),
            score: first,
            threshold: 0.0,
            rotation_deg: 0.0,
            mirrored: false,
            scale: 1.0,
            stretch: 1.0,
            runner_up: None,
            evidence: find(first, correlation),
        };
        let mut claims = [claim(0.9, 0.9), claim(0.5, 0.95), claim(0.1, 0.6)];
        set_against(&mut claims);
        let ahead = |name: &str| claims.each_ref().map(|m| (m.evidence[name] * 1e3).round() / 1e3);
        assert_eq!(ahead("over_rivals"), [2.197, -2.197, -3.0], "the odds are 9, 1 and 1/9");
        assert_eq!(ahead("over_rivals_correlation"), [-0.05, 0.05, -0.1]);
        let mut alone = [claim(0.0, 0.6)];
        set_against(&mut alone);
        assert_eq!((alone[0].evidence["over_rivals"], alone[0].evidence["over_rivals_correlation"]), (3.0, 0.1));
    }

    #[test]
    fn doubtful_finds_are_counted_for_every_sure_one() {
        let doubtful = |first: f64, near: f64| {
            let mut e = find(first, 0.8);
            e.insert("ink_near".to_owned(), near);
            e
        };
        let drawing = [find(0.9, 0.9), doubtful(0.01, 0.02), doubtful(0.2, 0.02), doubtful(0.2, 0.4), find(0.5, 0.9)];
        assert_eq!(standard(&drawing).doubts, [1.5f64.ln(), 0.0, 0.0]);
        assert_eq!(standard(&[]).doubts, [0.0; 3]);
    }

    #[test]
    fn the_network_is_what_its_file_says() {
        assert!(NETWORK.units.len() > 1 && NETWORK.to_string() == include_str!("second.txt"));
        for (wrong, why) in [
            ("", "the last line has to be the constant"),
            ("1 2 3", "the last line has to be the constant"),
            ("1 2 3\n0.5", "line 1: 1 weights instead of"),
            ("x\n0.5", "line 1: x: invalid float literal"),
        ] {
            let error = wrong.parse::<SecondLook>().unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn confidence_is_a_probability_whatever_the_evidence() {
        for first in [0.0, 0.3, 1.0] {
            for value in [-1e3, 0.0, 1e3] {
                let mut e: BTreeMap<String, f64> =
                    CONFIDENCE_TERMS.iter().map(|t| (t.name.to_owned(), value)).collect();
                e.insert(FIRST_LOOK.to_owned(), first);
                standard(&[]).compare("", &mut e);
                assert!((0.0..=1.0).contains(&NETWORK.confidence(&e)), "{first}, {value}");
            }
        }
    }
}
