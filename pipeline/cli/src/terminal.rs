//! What people see while stages run: one bar a stage with its rate and the time left, and messages above the bars.
//! Without a terminal the same comes as plain lines, not too many of them.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use engine::{Event, EventSink, Level};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

/// Without a terminal, progress of a stage is said at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Columns for error messages.
pub fn width() -> usize {
    100
}

/// Prints a line of talk.
#[expect(clippy::print_stderr, reason = "this is where talk is printed")]
pub fn say(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// Prints a line of data.
#[expect(clippy::print_stdout, reason = "this is where data is printed")]
pub fn data(text: impl std::fmt::Display) {
    use std::io::Write;
    // A reader that went away (`| head`) is no error.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints an error with its causes, place and fix.
pub fn error(e: &miette::Report) {
    say(format_args!("{e:?}"));
}

/// Shows events of a run.
pub struct Progress {
    quiet: bool,
    bars: Option<MultiProgress>,
    state: Mutex<BTreeMap<String, Shown>>,
}

struct Shown {
    bar: Option<ProgressBar>,
    /// What is counted.
    unit: String,
    /// When the count began, and from where: a resumed stage does not begin at nothing.
    started: Instant,
    base: Option<u64>,
    said: Instant,
}

impl Shown {
    fn new(unit: &str) -> Self {
        Self { bar: None, unit: unit.into(), started: Instant::now(), base: None, said: Instant::now() }
    }
}

impl Progress {
    /// Bars on a terminal, lines elsewhere, only errors when quiet.
    pub fn new(quiet: bool) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { quiet, bars, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Shown>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a line without disturbing the bars.
    pub fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => say(text),
        }
    }

    fn note(&self, level: Level, stage: &str, text: &str) {
        let head = match level {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        if level >= Level::Error || (!self.quiet && level >= Level::Info) {
            self.line(&format!("{stage:>9}  {head}{text}"));
        }
    }

    fn progress(&self, stage: &str, done: u64, total: u64, unit: &str, detail: &str) {
        let mut state = self.lock();
        // Of a stage elsewhere files that are sent are counted first, then shards, then what its worker says.
        if state.get(stage).is_some_and(|shown| shown.unit != unit) {
            Self::clear(state.remove(stage));
        }
        let shown = state.entry(stage.to_owned()).or_insert_with(|| Shown::new(unit));
        let base = *shown.base.get_or_insert_with(|| {
            if done > 1 {
                shown.started = Instant::now();
                done
            } else {
                0
            }
        });
        if let Some(bars) = &self.bars {
            let bar = shown.bar.get_or_insert_with(|| {
                let bar = bars.add(ProgressBar::new(total));
                bar.set_style(bar_style(unit));
                bar.set_prefix(stage.to_owned());
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            });
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(detail.to_owned());
        } else if !self.quiet && shown.said.elapsed() >= PLAIN_EVERY {
            shown.said = Instant::now();
            let rate = done.saturating_sub(base) as f64 / shown.started.elapsed().as_secs_f64().max(1e-3);
            let left = match total.saturating_sub(done) {
                left @ 1.. if rate > 0.0 => format!(", {} left", duration(left as f64 / rate)),
                _ => String::new(),
            };
            say(format_args!("{stage:>9}  {done}/{total} {unit}, {}{left}  {detail}", rate_words(rate, unit)));
        }
    }

    fn ended(&self, stage: &str) {
        Self::clear(self.lock().remove(stage));
    }

    fn clear(shown: Option<Shown>) {
        if let Some(Shown { bar: Some(bar), .. }) = shown {
            bar.finish_and_clear();
        }
    }
}

fn bar_style(unit: &str) -> ProgressStyle {
    let unit = unit.to_owned();
    ProgressStyle::with_template("{prefix:>9}  [{bar:28}] {pos}/{len} {unit}  {rate}  {eta} left  {wide_msg}")
        .expect("the template is valid")
        .progress_chars("=> ")
        .with_key("unit", {
            let unit = unit.clone();
            move |_: &ProgressState, w: &mut dyn std::fmt::Write| {
                let _ = w.write_str(&unit);
            }
        })
        .with_key("rate", move |s: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&rate_words(s.per_sec(), &unit));
        })
}

/// `3.2 images/s`, or `12 s per epoch` for slow work.
fn rate_words(rate: f64, unit: &str) -> String {
    if unit == "bytes" {
        return format!("{}/s", bytes(rate as u64));
    }
    let one = unit.strip_suffix("es").filter(|u| u.ends_with("ch")).or(unit.strip_suffix('s')).unwrap_or(unit);
    if rate >= 0.5 || rate <= 0.0 {
        format!("{rate:.1} {unit}/s")
    } else {
        format!("{} per {one}", duration(1.0 / rate))
    }
}

/// Seconds in words: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

impl EventSink for Progress {
    fn emit(&self, event: &Event) {
        match event {
            Event::Progress { stage, done, total, unit, detail } => self.progress(stage, *done, *total, unit, detail),
            Event::StageStarted { stage, reasons, executor, .. } => {
                self.lock().insert(stage.clone(), Shown::new(""));
                let place = if executor == "local" { String::new() } else { format!(" on {executor}") };
                let why = if reasons.is_empty() { String::new() } else { format!(" because {}", reasons.join("; ")) };
                self.note(Level::Info, stage, &format!("runs{place}{why}"));
            }
            Event::StageCached { stage, from_run } => {
                self.note(Level::Info, stage, &format!("is up to date (run {from_run})"));
            }
            Event::Message { stage, level, text } => self.note(*level, stage.as_deref().unwrap_or("pipeline"), text),
            Event::Device { stage, used, why, .. } => self.note(Level::Info, stage, &format!("device {used}: {why}")),
            Event::ItemQuarantined { stage, item, reason } => {
                self.note(Level::Warn, stage, &format!("left out `{item}`: {reason}"));
            }
            Event::StageRetried { stage, attempt, error } => {
                self.note(Level::Warn, stage, &format!("try {attempt} failed ({error}); trying again"));
            }
            Event::StageFinished { stage, status, seconds, detail } => {
                self.ended(stage);
                let level = if status == "failed" { Level::Error } else { Level::Info };
                let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
                self.note(level, stage, &format!("{status} after {}{detail}", duration(*seconds)));
            }
            Event::Metric { .. } | Event::RunStarted { .. } | Event::RunFinished { .. } => {}
        }
    }
}

/// Lines of a table with aligned columns; the first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(s, w)| format!("{s}{}", " ".repeat(w - s.chars().count()))).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A number for people: whole numbers plain, others with three digits after the point.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
