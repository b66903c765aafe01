//! How far a run is that goes on in another process: read from its log of events.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use engine::{Event, record::RunRecord};
use jiff::Timestamp;
use serde::Deserialize;

use crate::terminal::duration;

#[derive(Deserialize)]
struct Line {
    at: Timestamp,
    #[serde(flatten)]
    event: Event,
}

/// A stage at work.
struct AtWork {
    since: Timestamp,
    /// When the count began and where it stood: a resumed stage does not begin at nothing.
    from: Option<(Timestamp, u64)>,
    /// The last word: when, done, total, unit, detail.
    last: Option<(Timestamp, u64, u64, String, String)>,
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

/// Time since the start, and for each stage at work the last that it said and about how long it still needs.
pub fn text(dir: &Path, record: &RunRecord) -> String {
    let log = fs::read_to_string(dir.join("events.jsonl")).unwrap_or_default();
    tell(&log, record.started_at.parse().ok(), Timestamp::now())
}

fn tell(log: &str, started: Option<Timestamp>, now: Timestamp) -> String {
    let mut stages: BTreeMap<String, AtWork> = BTreeMap::new();
    // The last line may be written just now.
    for Line { at, event } in log.lines().filter_map(|l| serde_json::from_str(l).ok()) {
        match event {
            Event::StageStarted { stage, .. } => {
                stages.insert(stage, AtWork { since: at, from: None, last: None });
            }
            Event::Progress { stage, done, total, unit, detail } => {
                if let Some(s) = stages.get_mut(&stage) {
                    s.from.get_or_insert(if done > 1 { (at, done) } else { (s.since, 0) });
                    s.last = Some((at, done, total, unit, detail));
                }
            }
            Event::StageFinished { stage, .. } => {
                stages.remove(&stage);
            }
            _ => {}
        }
    }
    let mut out = started.map_or_else(String::new, |s| format!("running for {}", duration(seconds(s, now))));
    for (name, s) in &stages {
        let _ = write!(out, "\n{name}: at work for {}", duration(seconds(s.since, now)));
        let (Some((from, base)), Some((at, done, total, unit, detail))) = (s.from, &s.last) else { continue };
        let _ = write!(out, ", {done} of {total} {unit}");
        let rate = done.saturating_sub(base) as f64 / seconds(from, *at).max(1e-3);
        if done < total && rate > 0.0 {
            let left = (total - done) as f64 / rate - seconds(*at, now);
            let _ = write!(out, ", about {} left", duration(left.max(0.0)));
        }
        if !detail.is_empty() {
            let _ = write!(out, "  {detail}");
        }
        let _ = write!(out, " (said {} ago)", duration(seconds(*at, now)));
    }
    if stages.is_empty() {
        out += "\nno stage is at work: inputs are read, or the run is about to end";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_progress_and_the_time_left_are_told() {
        let log = r#"{"at":"2026-01-01T00:00:00.000Z","event":"stage_started","stage":"setup","reasons":[],"executor":"local","threads":1}
{"at":"2026-01-01T00:00:01.000Z","event":"stage_finished","stage":"setup","status":"done","seconds":1.0,"detail":""}
{"at":"2026-01-01T00:00:10.000Z","event":"stage_started","stage":"train","reasons":[],"executor":"local","threads":1}
{"at":"2026-01-01T00:01:10.000Z","event":"progress","stage":"train","done":1,"total":10,"unit":"epochs","detail":"loss 3"}
{"at":"2026-01-01T00:02:10.000Z","event":"progress","stage":"train","done":2,"total":10,"unit":"epochs","detail":"loss 2"}
{"at":"2026-01-01T00:02"#;
        let at = |t: &str| t.parse::<Timestamp>().unwrap();
        let text = tell(log, Some(at("2026-01-01T00:00:00Z")), at("2026-01-01T00:02:20Z"));
        assert_eq!(
            text,
            "running for 2 min 20 s\ntrain: at work for 2 min 10 s, 2 of 10 epochs, about 7 min 50 s left  loss 2 (said 10 s ago)"
        );
    }
}
