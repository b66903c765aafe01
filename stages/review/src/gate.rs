//! Whether training may start.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::Warning;

/// Who opens the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Opens by itself, also with warnings, which are told; stays shut when there is nothing to train on.
    #[default]
    Auto,
    /// Opens when a decisions file approves exactly these labels.
    Approve,
    /// Always open.
    None,
}

/// What a person said about the set as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Nothing.
    #[default]
    Missing,
    /// Another set was approved (the labels changed since).
    Stale {
        /// Digest of the set that was approved.
        approved: String,
    },
    /// These labels are approved.
    Given {
        /// By whom, as far as it is known.
        by: String,
    },
}

/// The gate's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Training may start.
    Passed {
        /// Why.
        why: String,
    },
    /// A person has to act first.
    Waiting {
        /// What is waited for and what ends the wait.
        why: String,
    },
}

impl Verdict {
    /// True when training may start.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Passed { .. })
    }

    /// The reason.
    pub fn why(&self) -> &str {
        match self {
            Self::Passed { why } | Self::Waiting { why } => why,
        }
    }
}

/// Judges a set. `digest` is the labels' digest.
pub fn judge(gate: Gate, warnings: &[Warning], approval: &Approval, digest: &str) -> Verdict {
    let count = report::number::counted(warnings.len(), "warning", "warnings");
    if let (Gate::Approve | Gate::Auto, Approval::Given { by }) = (gate, approval) {
        return Verdict::Passed { why: format!("approved by {by}, with {count}") };
    }
    match gate {
        Gate::None => Verdict::Passed { why: format!("the gate is set to `none`; {count}") },
        Gate::Auto => match warnings.iter().find(|w| w.blocking) {
            Some(w) => {
                let why = format!(
                    "{}. {} When that is mended, run again; `--set review.gate=none` goes on regardless.",
                    w.title, w.text
                );
                Verdict::Waiting { why }
            }
            None if warnings.is_empty() => Verdict::Passed { why: "no warnings".into() },
            None => Verdict::Passed { why: format!("nothing stands in the way; {count} worth a look") },
        },
        Gate::Approve => {
            let short = digest.get(..12).unwrap_or(digest);
            let before = match approval {
                Approval::Stale { approved } => format!(
                    "The labels changed since they were approved (approved: {}, now: {short}). ",
                    approved.get(..12).unwrap_or(approved)
                ),
                _ => String::new(),
            };
            let why = format!(
                "{before}The labels {short} wait for approval, with {count}. Open the report, save the decisions from \
                 its review section, then: pipeline review apply DECISIONS.json && pipeline run"
            );
            Verdict::Waiting { why }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(blocking: bool) -> Warning {
        Warning { rule: "x", title: "T".into(), text: "X.".into(), blocking }
    }

    #[test]
    fn auto_passes_unless_blocked() {
        let none = Approval::Missing;
        assert_eq!(judge(Gate::Auto, &[], &none, "d").why(), "no warnings");
        let with = judge(Gate::Auto, &[warning(false)], &none, "d");
        assert!(with.passed() && with.why().contains("1 warning"));
        assert!(!judge(Gate::Auto, &[warning(false), warning(true)], &none, "d").passed());
    }

    #[test]
    fn approve_waits_for_exactly_these_labels() {
        assert!(!judge(Gate::Approve, &[], &Approval::Missing, "d").passed());
        let stale = judge(Gate::Approve, &[], &Approval::Stale { approved: "old".into() }, "new");
        assert!(!stale.passed() && stale.why().contains("approved: old, now: new"));
        assert!(judge(Gate::Approve, &[warning(true)], &Approval::Given { by: "Ann".into() }, "d").passed());
    }

    #[test]
    fn none_is_always_open() {
        assert!(judge(Gate::None, &[warning(true)], &Approval::Missing, "d").passed());
    }
}
