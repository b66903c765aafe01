//! Exit codes: the contract with scripts and schedulers.

use std::process::ExitCode;

use engine::{SourceError, StageError, plan::PlanError};
use miette::{Diagnostic, Report};

use crate::settings::SettingsError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: a stage or command failed.
    Failed,
    /// 2: usage or configuration.
    Usage,
    /// 3: waiting for a person.
    Waiting,
    /// 70: a bug of this program.
    Bug,
    /// 75: try again later.
    Later,
    /// 130 or 143: interrupted, with the work so far kept.
    Signal(i32),
}

impl From<Exit> for ExitCode {
    fn from(e: Exit) -> Self {
        let code = match e {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Waiting => 3,
            Exit::Bug => 70,
            Exit::Later => 75,
            Exit::Signal(n) => u8::try_from(128 + n).unwrap_or(130),
        };
        ExitCode::from(code)
    }
}

/// A mistake in what was asked for, as opposed to work that failed: exit code 2.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct Usage {
    /// What is wrong.
    pub message: String,
    /// The fix.
    #[help]
    pub help: Option<String>,
}

impl Usage {
    /// A mistake and its fix.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Report {
        Self { message: message.into(), help: Some(help.into()) }.into()
    }
}

/// Why no plan could be made; kept as it is, so that its exit code can be told from it.
#[derive(Debug)]
pub struct Planning(PlanError);

impl std::fmt::Display for Planning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Planning {
    /// A cause whose words are in the message already is not said twice.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.0.source()?;
        if self.to_string().contains(&cause.to_string()) { cause.source() } else { Some(cause) }
    }
}

impl Diagnostic for Planning {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        match &self.0 {
            PlanError::Stage { source: StageError::Input { help, .. }, .. } if !help.is_empty() => Some(Box::new(help)),
            PlanError::Source(SourceError::NotFound { input, .. } | SourceError::Empty { input, .. }) => {
                wanted(input).map(|w| Box::new(format!("{w} there")) as Box<dyn std::fmt::Display>)
            }
            PlanError::Source(SourceError::SeveralNotFound { inputs }) => {
                let all: Vec<String> =
                    inputs.iter().filter_map(|(i, p)| Some(format!("{} into `{}`", wanted(i)?, p.display()))).collect();
                (!all.is_empty()).then(|| Box::new(all.join("; ")) as Box<dyn std::fmt::Display>)
            }
            _ => None,
        }
    }
}

/// What belongs into an input.
fn wanted(input: &str) -> Option<&'static str> {
    match input {
        "images" | "heldout" => Some("put drawings (.png, .jpg, .tif)"),
        "templates" => Some("put one picture a symbol, named after its class, such as ball_valve.png,"),
        "labels" => Some("put label files (YOLO, COCO, VOC, CVAT, Label Studio or LabelMe)"),
        _ => None,
    }
}

impl Planning {
    /// For `map_err`.
    pub fn report(e: impl Into<PlanError>) -> Report {
        Self(e.into()).into()
    }
}

/// The exit code that belongs to an error.
pub fn code_of(e: &Report) -> Exit {
    if e.downcast_ref::<Usage>().is_some() || e.downcast_ref::<SettingsError>().is_some() {
        return Exit::Usage;
    }
    match e.downcast_ref::<Planning>().map(|p| &p.0) {
        Some(
            PlanError::Graph(_)
            | PlanError::Source(
                SourceError::NotFound { .. }
                | SourceError::SeveralNotFound { .. }
                | SourceError::Empty { .. }
                | SourceError::Pattern { .. }
                | SourceError::List { .. },
            )
            | PlanError::NothingGiven { .. }
            | PlanError::NoPlace { .. }
            | PlanError::EmptySelection { .. }
            | PlanError::Stage { source: StageError::Config { .. }, .. },
        ) => Exit::Usage,
        _ => Exit::Failed,
    }
}
