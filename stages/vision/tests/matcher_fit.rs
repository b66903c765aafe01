//! Fits the weights of the matcher's ranks and confidences on generated drawings, and prints them:
//! `cargo test -p vision --release --test matcher_fit -- --ignored --nocapture`.
//!
//! The rank learns from pairs, a right hypothesis against a wrong one at its place; the confidence of the first look from
//! what wins by that rank; the network of the second look (`second.rs`) from what the matcher finds. Owns what is drawn and
//! fitted. Refuses to change the matcher.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a failing step is a failure, and the fit is printed"
)]

#[path = "matcher_fit/drawing.rs"]
mod drawing;
#[path = "matcher_fit/network.rs"]
mod network;
#[path = "matcher_fit/outcome.rs"]
mod outcome;
#[expect(dead_code, reason = "other tests use the rest")]
mod sheets;
#[path = "matcher_fit/solver.rs"]
mod solver;

use std::array::from_fn;
use std::time::Instant;

use drawing::{Drawing, TERMS, WITH_MARGIN};
use outcome::Outcome;
use sheets::{clean_templates, cut_templates_as, draw, hits};
use solver::{Sample, Terms, fit};
use synth::crops::Choice;
use synth::{CropSettings, Set, SynthSettings};
use vision::matcher::{
    CONFIDENCE_TERMS, FIRST_LOOK, Match, Matcher, MatcherConfig, Poses, Rotations, SECOND_INPUTS, SURE, ScaleBase,
    SecondLook, Template, USUAL, Unit, second_inputs,
};

/// Seeds of the drawings that are fitted to; every seed has its own classes, templates and drawings.
const FIT_SEEDS: [u64; 2] = [1, 2];
/// Seeds of the drawings that the outcome is judged on.
const HELD_OUT_SEEDS: [u64; 1] = [1001];
/// The same of the second look.
const SECOND_SEEDS: [u64; 10] = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20];
const SECOND_HELD_OUT_SEEDS: [u64; 2] = [1001, 1002];
/// Drawings of each recipe and seed.
const SHEETS: u64 = 3;
/// Their size in pixels.
const SIZE: [u32; 2] = [1500, 1100];

/// Terms without a weight in the rank. Those of the length and the text would tell apart what hypotheses are about
/// instead of how well they fit; the others say again what better ones say.
const NOT_IN_RANK: &[&str] = &["log_length", "has_text", "text_layout", "residue", "coverage"];
/// Terms without a weight in the confidence.
const NOT_IN_CONFIDENCE: &[&str] = &["coverage"];
/// What is around a symbol, which is left to the second look.
const AROUND: &[&str] = &["ink_near", "ink_far", "ink_at_corners", "leads", "ink_beside"];
/// Penalties on the squares of the weights.
const RANK_RIDGE: f64 = 3.0;
const CONFIDENCE_RIDGE: f64 = 1.0;
/// Rounds in which the pairs that the rank gets most wrong are added.
const ROUNDS: usize = 4;

/// Drawings of one kind and the templates for them.
#[derive(Clone, Copy)]
struct Recipe {
    name: &'static str,
    set: Set,
    invented: u32,
    lettered: u32,
    /// Wild classes in place of the library's.
    wild: u32,
    /// Whether the templates are cut from a drawing; drawn for the legend otherwise.
    cut: bool,
    /// By many hands, where they are.
    hands: Option<Hands>,
    /// What its drawings count in the fits, against 1.
    weight: f64,
}

/// Drawings by many hands: symbols differ in proportions and lines more than in the set, and cut-outs are generous.
#[derive(Clone, Copy)]
struct Hands {
    /// How far the parts of symbols differ: see [`SynthSettings::redrawn`].
    redrawn: f64,
    /// Unlisted things for each listed symbol; most drawings have a template for nearly all that is on them.
    unlisted: f64,
}

/// The library's classes, as drawn for the legend.
const PLAIN: Recipe =
    Recipe { name: "A", set: Set::A, invented: 0, lettered: 0, wild: 0, cut: false, hands: None, weight: 1.0 };

/// What is drawn. Classes that differ only in their letters count less: there are many look-alikes among them, and
/// drawings have few such classes.
const RECIPES: [Recipe; 13] = [
    Recipe { name: "A invented", invented: 14, ..PLAIN },
    Recipe { name: "A cut", cut: true, wild: 24, ..PLAIN },
    Recipe { name: "A lettered", lettered: 14, cut: true, weight: 0.3, ..PLAIN },
    Recipe { name: "B invented", set: Set::B, invented: 14, ..PLAIN },
    Recipe { name: "C", set: Set::C, ..PLAIN },
    Recipe { name: "C wild", set: Set::C, wild: 24, ..PLAIN },
    Recipe { name: "C cut", set: Set::C, cut: true, invented: 14, ..PLAIN },
    Recipe { name: "D invented", set: Set::D, invented: 14, ..PLAIN },
    Recipe { name: "E invented", set: Set::E, invented: 14, cut: true, ..PLAIN },
    Recipe { name: "E wild", set: Set::E, wild: 24, cut: true, ..PLAIN },
    Recipe { name: "E lettered", set: Set::E, lettered: 14, cut: true, weight: 0.3, ..PLAIN },
    Recipe { name: "electrical", set: Set::Electrical, ..PLAIN },
    Recipe { name: "electrical cut", set: Set::Electrical, cut: true, ..PLAIN },
];

/// What is drawn for the second look beside them.
const MORE_RECIPES: [Recipe; 4] = [
    PLAIN,
    Recipe { name: "A wild", wild: 24, ..PLAIN },
    Recipe { name: "D", set: Set::D, ..PLAIN },
    Recipe { name: "D wild", set: Set::D, wild: 24, ..PLAIN },
];

/// How far the parts of symbols differ where drawings are by many hands.
const REDRAWN: [f64; 2] = [0.06, 0.12];

/// What is drawn by many hands.
fn by_hand(redrawn: f64) -> [Recipe; 10] {
    let hands = |unlisted: f64| Some(Hands { redrawn, unlisted });
    // Most drawings have a few classes with letters in them. These drawings count half: what many hands drew teaches to
    // forgive more than most drawings ask for.
    let alone =
        Recipe { name: "E by hand", set: Set::E, cut: true, lettered: 3, hands: hands(0.0), weight: 0.5, ..PLAIN };
    let among_others = Recipe { hands: hands(0.1), ..alone };
    [
        alone,
        Recipe { name: "E wild by hand", wild: 24, ..alone },
        Recipe { name: "E invented by hand", invented: 14, ..alone },
        Recipe { name: "E lettered by hand", lettered: 8, weight: 0.15, ..alone },
        Recipe { name: "E wild by hand", wild: 24, ..among_others },
        Recipe { name: "E invented by hand", invented: 14, ..among_others },
        Recipe { name: "A wild by hand", set: Set::A, cut: false, wild: 24, ..among_others },
        Recipe { name: "C invented by hand", set: Set::C, invented: 14, ..among_others },
        Recipe { name: "electrical by hand", set: Set::Electrical, cut: false, lettered: 0, ..among_others },
        Recipe { name: "electrical cut by hand", set: Set::Electrical, lettered: 0, ..among_others },
    ]
}

impl Recipe {
    fn settings(&self) -> SynthSettings {
        let s = self.set.settings();
        let s = if self.wild > 0 { s.wild(self.wild) } else { s };
        // About as dense as the set's own drawings, which are larger.
        let symbols = s.symbols.map(|n| n * 2 / 3);
        let [width, height] = SIZE;
        let (invented, lettered) = (self.invented, self.lettered);
        let leads = self.invented > 0 || self.wild > 0;
        let s = SynthSettings { width, height, symbols, invented, lettered, leads, writing: 1.0, ..s };
        let Some(Hands { redrawn, unlisted }) = self.hands else { return s };
        let (lookalikes, distractors, clutter) = (unlisted, unlisted, unlisted);
        let s = SynthSettings {
            redrawn,
            lookalikes,
            distractors,
            clutter,
            crossing: 0.03,
            touching: 0.1,
            mirror: 0.5,
            ..s
        };
        if self.set == Set::Electrical {
            // Its sheets differ in size, not its symbols.
            return SynthSettings { aspect: [0.85, 1.2], stroke_spread: [0.6, 1.5], ..s };
        }
        SynthSettings { scale: [0.85, 1.18], aspect: [0.72, 1.4], stroke_spread: [0.5, 1.7], ..s }
    }

    fn templates(&self, settings: &SynthSettings, seed: u64) -> Vec<Template> {
        let generous = CropSettings { margin: [1.0, 7.0], choice: Choice::First, ..CropSettings::default() };
        let how = if self.hands.is_some() { generous } else { CropSettings::default() };
        if self.cut { cut_templates_as(settings, seed, &how) } else { clean_templates(settings, seed) }
    }

    /// The label stage's defaults where the set does not ask for more. Everything that wins its place is reported.
    fn config(&self) -> MatcherConfig {
        let poses = Poses { mirror: true, stretch: 1.3, ..Poses::default() };
        let (poses, scale_base) = match self.set {
            Set::B => (Poses { rotations: Rotations::Any, ..poses }, ScaleBase::Drawing),
            Set::D => (Poses { scale_min: 0.5, scale_max: 1.5, ..poses }, ScaleBase::Template),
            _ => (poses, ScaleBase::Drawing),
        };
        MatcherConfig { poses, scale_base, threshold: 0.0, candidates_from: 0.0, ..MatcherConfig::default() }
    }

    /// Its drawings of a seed, and what comes of them with the weights that the matcher has, when that is `asked`.
    fn drawings(&self, seed: u64, asked: bool) -> (Vec<Drawing>, Outcome) {
        let start = Instant::now();
        let settings = self.settings();
        let templates = self.templates(&settings, seed);
        let matcher = Matcher::new(&templates, &self.config()).unwrap();
        let known = |class: &str| templates.iter().any(|t: &Template| t.class == class);
        let mut now = Outcome::default();
        let mut drawing = |index| {
            let (picture, mut truth) = draw(&settings, seed, index);
            truth.retain(|t| known(&t.class));
            let drawing = Drawing::of(&matcher.considered(&picture), &truth, self.weight);
            if asked {
                let found = matcher.find(&picture).matches;
                let matches = found.iter().map(|m| m.score).zip(hits(&found, &truth)).collect();
                now.add(&Outcome { matches, truths: truth.len(), reached: drawing.reached() });
            }
            drawing
        };
        let drawings: Vec<Drawing> = (0..SHEETS).map(&mut drawing).collect();
        let considered: usize = drawings.iter().map(Drawing::considered).sum();
        let took = start.elapsed().as_secs_f64();
        println!("{:14} seed {seed:4}: {} templates, {considered} hypotheses, {took:.0} s", self.name, templates.len());
        (drawings, now)
    }
}

/// What claims places on a drawing.
struct Finds {
    /// For each place what won it, then its rivals; whether each is right.
    claims: Vec<Vec<(Match, bool)>>,
    truths: usize,
    weight: f64,
}

impl Finds {
    /// Those on a recipe's drawings of a seed that are looked at twice.
    fn of(recipe: &Recipe, seed: u64) -> Vec<Self> {
        let settings = recipe.settings();
        let templates = recipe.templates(&settings, seed);
        let matcher = Matcher::new(&templates, &recipe.config()).unwrap();
        let finds = |index| {
            let (picture, mut truth) = draw(&settings, seed, index);
            truth.retain(|t| templates.iter().any(|x| x.class == t.class));
            let claims = matcher.claimed(&picture);
            let right = hits(&claims.concat(), &truth);
            let mut right = right.into_iter();
            let claims = claims.into_iter().map(|c| c.into_iter().zip(right.by_ref()).collect()).collect();
            Self { claims, truths: truth.len(), weight: recipe.weight }
        };
        (0..SHEETS).map(finds).collect()
    }

    /// What won its place.
    fn winners(&self) -> impl Iterator<Item = &Match> {
        self.claims.iter().filter_map(|c| c.first()).map(|(m, _)| m)
    }

    fn samples(&self) -> impl Iterator<Item = Sample<SECOND_INPUTS>> {
        let sample = |(m, right): &(Match, bool)| Sample {
            columns: second_inputs(&m.evidence),
            right: *right,
            weight: self.weight,
        };
        self.claims.iter().flatten().map(sample)
    }

    /// When the best of those that claim a place is taken.
    fn outcome(&self, score: impl Fn(&Match) -> f64) -> Outcome {
        let scored = self.claims.iter().map(|c| c.iter().map(|(m, right)| (score(m), *right)));
        let best = scored.filter_map(|c| c.reduce(|a, b| if b.0 > a.0 { b } else { a }));
        let reached = self.claims.iter().flatten().filter(|(_, right)| *right).count();
        Outcome { matches: best.collect(), truths: self.truths, reached }
    }
}

/// Weights as they are printed.
struct Weights {
    rank: [f64; TERMS],
    confidence: [f64; WITH_MARGIN],
}

impl Weights {
    fn fit(drawings: &[&Drawing]) -> Self {
        let terms = Terms { bounds: bounds(NOT_IN_RANK), ridge: [RANK_RIDGE; TERMS] };
        let mut pairs: Vec<Sample<TERMS>> = drawings.iter().flat_map(|d| d.pairs(None)).collect();
        let mut rank = fit(&pairs, &terms);
        for _ in 0..ROUNDS {
            pairs.extend(drawings.iter().flat_map(|d| d.pairs(Some(&rank))));
            rank = fit(&pairs, &terms);
        }
        let rank = rank.map(rounded);
        let winners: Vec<_> = drawings.iter().flat_map(|d| d.winners(&rank)).collect();
        println!("{} pairs, {} winners", pairs.len(), winners.len());
        // The constant is free, so that the penalty does not shift all confidences.
        let ridge = from_fn(|i| if is(i, "constant") { 0.0 } else { CONFIDENCE_RIDGE });
        let confidence = fit(&winners, &Terms { bounds: bounds(NOT_IN_CONFIDENCE), ridge }).map(rounded);
        Self { rank, confidence }
    }

    fn confidence(&self, columns: &[f64; WITH_MARGIN]) -> f64 {
        let z: f64 = columns.iter().zip(&self.confidence).map(|(c, w)| c * w).sum();
        1.0 / (1.0 + (-z).exp())
    }

    fn outcome(&self, drawings: &[Drawing]) -> Outcome {
        let mut outcome = Outcome::default();
        for d in drawings {
            let matches = d.winners(&self.rank).iter().map(|s| (self.confidence(&s.columns), s.right)).collect();
            outcome.add(&Outcome { matches, truths: d.truths, reached: d.reached() });
        }
        outcome
    }
}

/// Whether a column is the term of that name; the margin follows the terms.
fn is(column: usize, name: &str) -> bool {
    CONFIDENCE_TERMS.get(column).is_some_and(|t| t.name == name)
}

/// What the terms' signs allow, and for the margin above 0.
fn bounds<const K: usize>(left_out: &[&str]) -> [[f64; 2]; K] {
    from_fn(|i| match CONFIDENCE_TERMS.get(i).map_or(1, |t| t.sign) {
        _ if left_out.iter().chain(AROUND).any(|name| is(i, name)) => [0.0, 0.0],
        1 => [0.0, f64::INFINITY],
        -1 => [f64::NEG_INFINITY, 0.0],
        _ => [f64::NEG_INFINITY, f64::INFINITY],
    })
}

/// To the three places that are printed; never the negative zero.
fn rounded(weight: f64) -> f64 {
    (weight * 1000.0).round() / 1000.0 + 0.0
}

fn listed(weights: &[f64]) -> String {
    weights.iter().map(|w| format!("{w:.3}")).collect::<Vec<_>>().join(", ")
}

/// To four significant digits.
fn four_digits(weight: f64) -> f64 {
    format!("{weight:.3e}").parse().unwrap()
}

/// Prints a line for each recipe and one for all.
fn table<'a>(title: &str, recipes: impl Iterator<Item = &'a Recipe>, outcomes: &[Outcome]) {
    println!("\n{title:22} {}", Outcome::header());
    let mut all = Outcome::default();
    for (recipe, outcome) in recipes.zip(outcomes) {
        println!("{:22} {outcome}", recipe.name);
        all.add(outcome);
    }
    println!("{:22} {all}", "all");
}

#[test]
#[ignore = "takes minutes and prints weights; nothing depends on it"]
fn weights() {
    let start = Instant::now();
    let drawn = |seeds: &[u64], asked| -> Vec<(Vec<Drawing>, Outcome)> {
        let of_recipe = |recipe: &Recipe| {
            let (mut drawings, mut now) = (Vec::new(), Outcome::default());
            for &seed in seeds {
                let (more, outcome) = recipe.drawings(seed, asked);
                drawings.extend(more);
                now.add(&outcome);
            }
            (drawings, now)
        };
        RECIPES.iter().map(of_recipe).collect()
    };
    let (fitted, held_out) = (drawn(&FIT_SEEDS, false), drawn(&HELD_OUT_SEEDS, true));
    let weights = Weights::fit(&fitted.iter().flat_map(|(d, _)| d).collect::<Vec<_>>());

    println!("\nconst RANK: [f32; TERMS] = [{}];", listed(&weights.rank));
    println!("const CONFIDENCE: [f64; TERMS + 1] = [{}];\n", listed(&weights.confidence));
    let columns = CONFIDENCE_TERMS.iter().map(|t| t.name).chain(["margin"]);
    for (i, name) in columns.enumerate() {
        let rank = weights.rank.get(i).map_or(String::new(), |w| format!("{w:.3}"));
        println!("{name:16} {rank:>8} {:8.3}", weights.confidence[i]);
    }
    let outcomes =
        |drawn: &[(Vec<Drawing>, Outcome)]| drawn.iter().map(|(d, _)| weights.outcome(d)).collect::<Vec<_>>();
    table("fitted", RECIPES.iter(), &outcomes(&fitted));
    table("held out", RECIPES.iter(), &outcomes(&held_out));
    table("held out, now", RECIPES.iter(), &held_out.iter().map(|(_, now)| now.clone()).collect::<Vec<_>>());
    println!("{:.0} s", start.elapsed().as_secs_f64());
}

#[test]
#[ignore = "takes minutes and writes a network; nothing depends on it"]
fn second_look() {
    let start = Instant::now();
    let all: Vec<Recipe> =
        RECIPES.into_iter().chain(MORE_RECIPES).chain(REDRAWN.into_iter().flat_map(by_hand)).collect();
    let recipes = || all.iter();
    let found = |seeds: &[u64]| -> Vec<Vec<Finds>> {
        let of = |recipe| seeds.iter().flat_map(|&seed| Finds::of(recipe, seed)).collect();
        recipes().map(of).collect()
    };
    let (fitted, held_out) = (found(&SECOND_SEEDS), found(&SECOND_HELD_OUT_SEEDS));
    println!("{:.0} s", start.elapsed().as_secs_f64());
    for u in &USUAL {
        let sure = |d: &Finds| -> Vec<f64> {
            let sure = d.winners().filter(|m| m.evidence[FIRST_LOOK] >= SURE);
            sure.map(|m| m.evidence[u.term]).collect()
        };
        let drawings: Vec<Vec<f64>> = fitted.iter().flatten().map(sure).filter(|d| d.len() > 5).collect();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let spread = |v: &Vec<f64>| (v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
        let spreads: Vec<f64> = drawings.iter().map(spread).collect();
        println!("{}: mean {:.3}, spread {:.3}", u.term, mean(&drawings.concat()), mean(&spreads));
    }
    let samples: Vec<_> = fitted.iter().flatten().flat_map(Finds::samples).collect();
    let network = network::train(&samples);
    let unit = |u: &Unit| Unit {
        weights: u.weights.map(four_digits),
        constant: four_digits(u.constant),
        out: four_digits(u.out),
    };
    let network =
        SecondLook { units: network.units.iter().map(unit).collect(), constant: four_digits(network.constant) };
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/second.txt");
    std::fs::write(file, network.to_string()).unwrap();
    println!("{} samples; the network is in {file}", samples.len());
    let outcomes = |drawn: &[Vec<Finds>], score: &dyn Fn(&Match) -> f64| {
        let of_recipe = |drawings: &Vec<Finds>| {
            let mut all = Outcome::default();
            drawings.iter().for_each(|d| all.add(&d.outcome(score)));
            all
        };
        drawn.iter().map(of_recipe).collect::<Vec<Outcome>>()
    };
    table("fitted", recipes(), &outcomes(&fitted, &|m| network.confidence(&m.evidence)));
    table("held out", recipes(), &outcomes(&held_out, &|m| network.confidence(&m.evidence)));
    table("first look", recipes(), &outcomes(&held_out, &|m| m.evidence[FIRST_LOOK]));
    println!("{:.0} s", start.elapsed().as_secs_f64());
}
