//! `pipeline train --sweep`: many trainings with other settings, of which the better ones are trained longer.
//!
//! Owns the space of settings, the rounds (successive halving: Jamieson and Talwalkar, "Non-stochastic Best Arm
//! Identification and Hyperparameter Optimization", 2016) and their table. Refuses to own a training: each is a stage on
//! the engine, so a sweep that is cut goes on where it was, and what another sweep has trained is not trained again.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use clap::Args;
use engine::{Digest, record::Status};
use miette::Result;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use report::csv;
use serde_json::{Value, json};

use super::alone::{ALONE, Alone, copy_out};
use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::{data, duration, number, say, table},
};

/// Fewest epochs that a round trains for: fewer say nothing about a setting.
const LEAST_EPOCHS: u64 = 3;
/// Trainings that a grid may have when `--trials` does not say how many.
const MOST_TRIALS: usize = 200;

/// The flags of a sweep.
#[derive(Args, Debug)]
pub struct Sweep {
    /// A setting of `train` and its values, with commas between, or a range LOW..HIGH; may be repeated.
    #[arg(long, value_name = "KEY=VALUES")]
    pub sweep: Vec<String>,
    /// Number of trials, chosen at random by the seed; needed for ranges, else every combination is tried.
    #[arg(long, value_name = "N", requires = "sweep")]
    trials: Option<usize>,
    /// After each round one trial in N goes on, trained N times as long; 1 trains all of them to the end.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "sweep", value_parser = clap::value_parser!(u64).range(1..=10))]
    one_in: u64,
}

/// What a setting may be.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    List(Vec<Value>),
    /// Evenly by the logarithm where both ends are above 0 and at least ten times apart.
    Range {
        low: f64,
        high: f64,
        whole: bool,
    },
}

/// One dimension of the space.
#[derive(Clone, Debug, PartialEq)]
struct Dimension {
    /// Path of the setting, such as `augment.mosaic`.
    key: String,
    values: Values,
}

impl Dimension {
    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let help = "write for example --sweep lr0=0.001,0.003,0.01 or --sweep lr0=0.0005..0.02";
            Usage::new(format!("--sweep `{text}`: {why}"), help)
        };
        let (key, values) = text.split_once('=').ok_or_else(|| wrong("there is no `=`"))?;
        let key = key.trim().strip_prefix("train.").unwrap_or(key.trim()).to_owned();
        if key.is_empty() {
            return Err(wrong("the setting has no name"));
        }
        if key == "epochs" {
            return Err(wrong("rounds set the epochs; --epochs says how long the best trials are trained"));
        }
        if let Some((low, high)) = values.split_once("..") {
            let end = |v: &str| v.trim().parse::<f64>().ok().filter(|v| v.is_finite());
            let (Some(from), Some(to)) = (end(low), end(high)) else {
                return Err(wrong("a range goes between numbers"));
            };
            if from >= to {
                return Err(wrong("a range goes from a lower to a higher number"));
            }
            let whole = [low, high].iter().all(|v| v.trim().parse::<i64>().is_ok());
            return Ok(Self { key, values: Values::Range { low: from, high: to, whole } });
        }
        let mut list: Vec<Value> = Vec::new();
        for value in values.split(',').map(str::trim) {
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            if value == json!("") {
                return Err(wrong("a value is empty"));
            }
            if !list.contains(&value) {
                list.push(value);
            }
        }
        Ok(Self { key, values: Values::List(list) })
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Value {
        match &self.values {
            Values::List(list) => list[rng.random_range(0..list.len() as u64) as usize].clone(),
            Values::Range { low, high, whole } => {
                let share: f64 = rng.random();
                let logarithmic = *low > 0.0 && high / low >= 10.0;
                let v = if logarithmic { low * (high / low).powf(share) } else { low + share * (high - low) };
                // Three digits are enough, and easy to read and to repeat.
                if *whole { json!(v.round() as i64) } else { json!(format!("{v:.2e}").parse::<f64>().unwrap_or(v)) }
            }
        }
    }
}

/// One choice of settings: a value for each dimension.
type Trial = Vec<Value>;

/// The trials of a space, without any twice.
fn trials(space: &[Dimension], wanted: Option<usize>, seed: u64) -> Result<Vec<Trial>> {
    let lists = || space.iter().map(|d| if let Values::List(list) = &d.values { Some(list) } else { None });
    let grid = lists().try_fold(1usize, |n, list| n.checked_mul(list?.len()));
    match (grid, wanted) {
        (None, None) => Err(Usage::new("a range has no end of values", "say how many to try: --trials N")),
        (Some(n), None) if n > MOST_TRIALS => Err(Usage::new(
            format!("{n} combinations are more than the {MOST_TRIALS} that are tried without asking"),
            "say how many to try: --trials N",
        )),
        (Some(n), wanted) if wanted.is_none_or(|w| w >= n) => {
            let mut all: Vec<Trial> = vec![Vec::new()];
            for list in lists().flatten() {
                all = all
                    .into_iter()
                    .flat_map(|t| list.iter().map(move |v| [t.clone(), vec![v.clone()]].concat()))
                    .collect();
            }
            Ok(all)
        }
        (_, wanted) => {
            let wanted = wanted.unwrap_or(1).max(1);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
            // Small spaces give the same trial again and again.
            for _ in 0..100 * wanted {
                let trial: Trial = space.iter().map(|d| d.draw(&mut rng)).collect();
                if all.len() < wanted && seen.insert(json!(trial).to_string()) {
                    all.push(trial);
                }
            }
            Ok(all)
        }
    }
}

/// Epochs of each round, the last with all.
fn rounds(trials: usize, epochs: u64, one_in: u64) -> Vec<u64> {
    let (mut left, mut last) = (trials as u64, vec![epochs]);
    while one_in > 1 && left > 1 && last[0] / one_in >= LEAST_EPOCHS {
        last.insert(0, last[0] / one_in);
        left = left.div_ceil(one_in);
    }
    last
}

/// Lays a value at a path such as `augment.mosaic`.
fn set(config: &mut Value, path: &str, value: &Value) {
    let place = path.split('.').fold(config, |at, part| {
        if !at.is_object() {
            *at = json!({});
        }
        &mut at[part]
    });
    *place = value.clone();
}

/// How a trial stands.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Epochs of the last round that it was in.
    epochs: u64,
    map50: f64,
    map50_95: f64,
    seconds: f64,
    failed: Option<String>,
    model: Option<Digest>,
}

impl Standing {
    /// What a training's best epoch is chosen by, too.
    fn fitness(&self) -> f64 {
        0.1 * self.map50 + 0.9 * self.map50_95
    }
}

/// Runs a sweep over a training that is ready but for its settings.
pub fn sweep(global: &Global, mut alone: Alone, args: &Sweep, train: &Value, out: Option<&Path>) -> Result<Exit> {
    let space = args.sweep.iter().map(|t| Dimension::parse(t)).collect::<Result<Vec<_>>>()?;
    if let Some(twice) = space.iter().enumerate().find(|(i, d)| space[..*i].iter().any(|e| e.key == d.key)) {
        return Err(Usage::new(format!("--sweep names `{}` twice", twice.1.key), "put all its values into one"));
    }
    let all = alone.all_settings("train", train)?;
    let (epochs, seed) = (all["epochs"].as_u64().unwrap_or(1), all["seed"].as_u64().unwrap_or(0));
    let trials = trials(&space, args.trials, seed)?;
    let config_of = |trial: &Trial, epochs: u64| {
        let mut config = train.clone();
        set(&mut config, "epochs", &json!(epochs));
        space.iter().zip(trial).for_each(|(d, v)| set(&mut config, &d.key, v));
        config
    };
    for trial in &trials {
        alone.all_settings("train", &config_of(trial, epochs))?;
    }
    let rounds = rounds(trials.len(), epochs, args.one_in);
    let mut standings = vec![Standing::default(); trials.len()];
    let mut going: Vec<usize> = (0..trials.len()).collect();
    for (round, &epochs) in rounds.iter().enumerate() {
        if !global.quiet && !global.json {
            say(format_args!("round {} of {}: {} trials of {epochs} epochs", round + 1, rounds.len(), going.len()));
        }
        let name = |trial: usize| format!("trial-{}{ALONE}", trial + 1);
        let nodes = going.iter().map(|&trial| (name(trial), config_of(&trials[trial], epochs)));
        let ran = alone.trainings(global, nodes.collect())?;
        let Some(record) = ran.record.filter(|_| !matches!(ran.exit, Exit::Signal(_))) else { return Ok(ran.exit) };
        for &trial in &going {
            let stage = &record.stages[&name(trial)];
            let metric = |m: &str| stage.notes.metrics.get(m).copied();
            let s = &mut standings[trial];
            s.seconds += stage.seconds;
            match (stage.status.has_outputs(), metric("mAP50").zip(metric("mAP50-95"))) {
                (true, Some((map50, map50_95))) => {
                    *s = Standing { epochs, map50, map50_95, model: stage.outputs.get("model").copied(), ..s.clone() };
                }
                (true, None) => {
                    let help = "give more labelled drawings, or set train.val_fraction";
                    return Err(Usage::new("no drawing is held back, so trials cannot be compared", help));
                }
                (false, _) if stage.status == Status::Failed => s.failed = Some(stage.detail.clone()),
                // Something before the trainings failed: the summary says what.
                (false, _) => {
                    data(&ran.summary);
                    return Ok(ran.exit);
                }
            }
        }
        going.retain(|&t| standings[t].failed.is_none());
        // Stable: of equals the first goes on.
        going.sort_by(|&a, &b| standings[b].fitness().total_cmp(&standings[a].fitness()));
        if round + 1 < rounds.len() {
            going.truncate(going.len().div_ceil(args.one_in as usize));
            going.sort_unstable();
        }
    }
    finish(global, &alone, &space, &trials, &standings, going.first().copied(), out)
}

/// Shows the table and writes what was asked for.
fn finish(
    global: &Global,
    alone: &Alone,
    space: &[Dimension],
    trials: &[Trial],
    standings: &[Standing],
    best: Option<usize>,
    out: Option<&Path>,
) -> Result<Exit> {
    // The best first: those that were trained longest, by what they reached.
    let mut order: Vec<usize> = (0..trials.len()).collect();
    let place = |t: usize| (standings[t].failed.is_none(), standings[t].epochs);
    order.sort_by(|&a, &b| place(b).cmp(&place(a)).then(standings[b].fitness().total_cmp(&standings[a].fitness())));
    let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut head = vec!["trial".to_owned()];
    head.extend(space.iter().map(|d| d.key.clone()));
    head.extend(["epochs", "mAP50", "mAP50-95", "time"].map(str::to_owned));
    let mut text = format!("{},failed\n", head.join(",").replace(",time", ",seconds"));
    let (mut rows, mut docs) = (vec![head], Vec::new());
    for &t in &order {
        let s = &standings[t];
        let values = trials[t].iter().map(plain);
        let figures = match &s.failed {
            None => [s.epochs.to_string(), number(s.map50), number(s.map50_95), duration(s.seconds)],
            Some(why) => [s.epochs.to_string(), format!("failed: {why}"), String::new(), duration(s.seconds)],
        };
        rows.push(std::iter::once((t + 1).to_string()).chain(values.clone()).chain(figures).collect());
        let values: Vec<String> = values.map(|v| csv::field(&v)).collect();
        let why = csv::field(s.failed.as_deref().unwrap_or_default());
        let _ = writeln!(
            text,
            "{},{},{},{:.5},{:.5},{:.1},{why}",
            t + 1,
            values.join(","),
            s.epochs,
            s.map50,
            s.map50_95,
            s.seconds
        );
        let settings: serde_json::Map<String, Value> =
            space.iter().zip(&trials[t]).map(|(d, v)| (d.key.clone(), v.clone())).collect();
        docs.push(json!({
            "trial": t + 1, "settings": settings, "epochs": s.epochs, "mAP50": s.map50, "mAP50-95": s.map50_95,
            "seconds": s.seconds, "failed": s.failed, "model": s.model.map(|m| m.to_string()),
        }));
    }
    let doc = json!({ "best": best.map(|b| b + 1), "trials": docs });
    if let Some(out) = out {
        alone.write_file(&out.join("sweep.csv"), text.as_bytes())?;
        alone.write_file(&out.join("sweep.json"), format!("{doc:#}\n").as_bytes())?;
        if let Some(model) = best.and_then(|b| standings[b].model) {
            copy_out(&alone.project, model, Some(&out.join("best")))?;
        }
    }
    if global.json {
        data(format!("{doc:#}"));
    } else {
        data(table(&rows));
        match best {
            Some(b) => {
                let flags = space.iter().zip(&trials[b]).map(|(d, v)| format!("--set train.{}={}", d.key, plain(v)));
                data(format_args!("best: trial {}: {}", b + 1, flags.collect::<Vec<_>>().join(" ")));
            }
            None => data("every trial failed"),
        }
        if best.is_some_and(|b| standings[b].fitness() == 0.0) {
            data("no trial has found anything yet, so none is better than another: give more epochs or more drawings");
        }
        if let Some(out) = out {
            data(format_args!("written to {}: sweep.csv, sweep.json and best/ (the best model)", out.display()));
        }
    }
    Ok(if best.is_some() { Exit::Done } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(texts: &[&str]) -> Vec<Dimension> {
        texts.iter().map(|t| Dimension::parse(t).unwrap()).collect()
    }

    #[test]
    fn lists_make_every_combination_once() {
        let all = trials(&space(&["lr0=0.01,0.001,0.01", "train.optimizer=sgd,adamw"]), None, 0).unwrap();
        let texts: Vec<String> = all.iter().map(|t| json!(t).to_string()).collect();
        assert_eq!(texts, [r#"[0.01,"sgd"]"#, r#"[0.01,"adamw"]"#, r#"[0.001,"sgd"]"#, r#"[0.001,"adamw"]"#]);
    }

    #[test]
    fn ranges_are_drawn_by_the_seed_within_their_ends() {
        let space = space(&["lr0=0.0005..0.05", "batch=4..16", "augment.scale=0.1..0.5"]);
        assert!(trials(&space, None, 0).is_err(), "a range needs a number of trials");
        let all = trials(&space, Some(40), 7).unwrap();
        assert_eq!(all, trials(&space, Some(40), 7).unwrap());
        assert_ne!(all, trials(&space, Some(40), 8).unwrap());
        assert_eq!(all.len(), 40);
        let below: usize = all.iter().filter(|t| t[0].as_f64().unwrap() < 0.005).count();
        assert!((10..30).contains(&below), "{below} of 40 are in the lower half of the logarithms");
        for t in &all {
            assert!((4..=16).contains(&t[1].as_i64().unwrap()), "{t:?}");
            assert!((0.1..=0.5).contains(&t[2].as_f64().unwrap()), "{t:?}");
        }
    }

    #[test]
    fn a_small_space_has_no_trial_twice() {
        assert_eq!(trials(&space(&["batch=1..3"]), Some(20), 0).unwrap().len(), 3);
        assert_eq!(trials(&space(&["batch=1,2,3"]), Some(2), 0).unwrap().len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("lr0", "no `=`"),
            ("=3", "no name"),
            ("lr0=0.1..a", "between numbers"),
            ("lr0=0.1..0.01", "from a lower"),
            ("batch=2,,3", "empty"),
            ("epochs=3,4", "rounds set the epochs"),
        ] {
            let message = Dimension::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn rounds_grow_by_the_factor_and_end_with_all_epochs() {
        assert_eq!(rounds(27, 90, 3), [3, 10, 30, 90]);
        assert_eq!(rounds(4, 90, 3), [10, 30, 90]);
        assert_eq!(rounds(27, 90, 1), [90]);
        assert_eq!(rounds(27, 2, 3), [2]);
        assert_eq!(rounds(1, 90, 3), [90]);
    }

    #[test]
    fn settings_within_settings_are_reached() {
        let mut config = json!({"lr0": 1, "augment": {"scale": 0.5}});
        set(&mut config, "augment.mosaic", &json!(0));
        set(&mut config, "lr0", &json!(2));
        assert_eq!(config, json!({"lr0": 2, "augment": {"scale": 0.5, "mosaic": 0}}));
    }
}
