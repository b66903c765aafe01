//! The account of a conversion: what came through, what was dropped, what was lost or repaired, and where.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::Format;

/// Problems that [`Account`]'s text shows in full; the rest is counted.
const PROBLEMS_SHOWN: usize = 20;

/// Which way a conversion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From files.
    Read,
    /// To files.
    Written,
}

/// What became of something that did not pass as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is gone.
    Lost,
    /// It was changed to something that fits.
    Repaired,
    /// It was kept, and deserves a look.
    Noted,
}

impl Effect {
    const fn word(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Repaired => "repaired",
            Self::Noted => "note",
        }
    }
}

/// A kind of information that was lost or repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Lost, repaired or noted.
    pub effect: Effect,
    /// What: `polygon`, `rotation`, `class`, ...
    pub field: String,
    /// How many times.
    pub count: usize,
    /// The first case.
    pub example: String,
    /// Why.
    pub why: String,
}

/// One label or image that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What became of it.
    pub effect: Effect,
    /// The file, or the image's name when writing.
    pub file: PathBuf,
    /// Line, from 1; absent when unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
    /// How to mend it.
    pub fix: String,
}

/// What a conversion did. Its `Display` is the text to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The format.
    pub format: Format,
    /// Read or written.
    pub direction: Direction,
    /// Images carried over.
    pub images: usize,
    /// Images left out.
    pub images_skipped: usize,
    /// Labels carried over.
    pub labels: usize,
    /// Labels left out.
    pub labels_dropped: usize,
    /// What was lost or repaired, by kind.
    pub changes: Vec<Change>,
    /// What is wrong with single labels and images.
    pub problems: Vec<Problem>,
}

impl Account {
    pub(super) fn new(format: Format, direction: Direction) -> Self {
        Self {
            format,
            direction,
            images: 0,
            images_skipped: 0,
            labels: 0,
            labels_dropped: 0,
            changes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// True when everything came through unchanged.
    pub fn is_lossless(&self) -> bool {
        self.images_skipped == 0
            && self.labels_dropped == 0
            && self.changes.iter().all(|c| c.effect == Effect::Noted)
            && self.problems.iter().all(|p| p.effect == Effect::Noted)
    }

    /// The entry for a field, if something happened to it.
    pub fn change(&self, field: &str) -> Option<&Change> {
        self.changes.iter().find(|c| c.field == field)
    }

    pub(super) fn note(&mut self, effect: Effect, field: &str, example: impl fmt::Display, why: &str) {
        match self.changes.iter_mut().find(|c| c.effect == effect && c.field == field && c.why == why) {
            Some(c) => c.count += 1,
            None => self.changes.push(Change {
                effect,
                field: field.into(),
                count: 1,
                example: example.to_string(),
                why: why.into(),
            }),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let verb = if self.direction == Direction::Read { "read" } else { "written" };
        write!(f, "{}: {} images and {} labels {verb}", self.format, self.images, self.labels)?;
        writeln!(f, ", {} images and {} labels left out", self.images_skipped, self.labels_dropped)?;
        for c in &self.changes {
            writeln!(f, "  {} {} x {}: {} (first: {})", c.effect.word(), c.count, c.field, c.why, c.example)?;
        }
        for p in self.problems.iter().take(PROBLEMS_SHOWN) {
            write!(f, "  {} {}", p.effect.word(), p.file.display())?;
            if let Some(line) = p.line {
                write!(f, ":{line}")?;
            }
            writeln!(f, ": {}; {}", p.reason, p.fix)?;
        }
        if self.problems.len() > PROBLEMS_SHOWN {
            writeln!(f, "  and {} more", self.problems.len() - PROBLEMS_SHOWN)?;
        }
        Ok(())
    }
}
