//! The naming rules: from a template's path to its class, category and prompt.
//!
//! Owns what a name means. Refuses to look at pictures.
//!
//! - Class: the file stem without a leading `template_`, underscores to blanks. Folders only group.
//! - `ball_valve__2.png` (two underscores and a number) is a further exemplar of `ball valve`.
//! - `not_ball_valve.png` (also `not_ball_valve__2.png`) is a negative of `ball valve`: it looks alike and is not one.
//! - A picture in a folder named `negatives`, at any depth, is a negative of the class of its name; when no class has
//!   that name, it is a negative of every class.
//! - Category and prompt: the first of `valve`, `instrument`, `signal` that the class name contains decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How prompts are worded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// With the words of the trade: `hvac ball valve`, `hvac control field discrete instrument`, `pneumatic signal line`.
    #[default]
    Engineering,
    /// The class name as it is.
    Plain,
}

/// What a template is to its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A picture of the class.
    Exemplar,
    /// `not_…`: a look-alike of a class that must exist.
    NegativeOf,
    /// In a folder `negatives`: a look-alike of the class of that name, or of all.
    Negative,
}

/// A path read by the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Class name.
    pub class: String,
    /// What the picture is to the class.
    pub role: Role,
    /// Number of the exemplar: 1 without a `__N` suffix.
    pub number: u32,
}

/// The folder name that marks negatives.
pub const NEGATIVES_FOLDER: &str = "negatives";
const TEMPLATE_PREFIX: &str = "template_";
const NEGATIVE_PREFIX: &str = "not_";

/// Reads a template's path (`/` between parts). The class is empty when the stem holds nothing but separators.
pub fn read_path(path: &str) -> Reading {
    let (folders, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = match file.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file,
    };
    let in_negatives = folders.split('/').any(|f| f.eq_ignore_ascii_case(NEGATIVES_FOLDER));
    let (stem, number) = match stem.rsplit_once("__") {
        Some((base, digits)) if !base.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_or((stem, 1), |number| (base, number))
        }
        _ => (stem, 1),
    };
    let stem = strip_prefix(stem, TEMPLATE_PREFIX);
    let (stem, role) = match strip_prefix(stem, NEGATIVE_PREFIX) {
        rest if rest.len() < stem.len() && !in_negatives => (rest, Role::NegativeOf),
        _ if in_negatives => (stem, Role::Negative),
        _ => (stem, Role::Exemplar),
    };
    Reading { class: class_name(stem), role, number }
}

/// `stem` without `prefix`, whatever its case; as it is when nothing would be left.
fn strip_prefix<'a>(stem: &'a str, prefix: &str) -> &'a str {
    match stem.get(..prefix.len()) {
        Some(head) if head.eq_ignore_ascii_case(prefix) && stem.len() > prefix.len() => &stem[prefix.len()..],
        _ => stem,
    }
}

/// Underscores to blanks, runs of blanks to one.
fn class_name(stem: &str) -> String {
    stem.split(|c: char| c == '_' || c.is_whitespace()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Category of a class name.
pub fn category(class: &str) -> &'static str {
    let class = class.to_lowercase();
    if class.contains("valve") {
        "Valves"
    } else if class.contains("instrument") {
        "Instruments"
    } else if class.contains("signal") {
        "Signals"
    } else {
        "Other"
    }
}

/// Prompt for a class name, worded by the category that its name gives.
pub fn prompt(class: &str, style: PromptStyle) -> String {
    match (style, category(class)) {
        (PromptStyle::Engineering, "Valves") => format!("hvac {class}"),
        (PromptStyle::Engineering, "Instruments") => format!("hvac control {class}"),
        (PromptStyle::Engineering, "Signals") => format!("{class} line"),
        _ => class.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> (String, Role, u32) {
        let r = read_path(path);
        (r.class, r.role, r.number)
    }

    #[test]
    fn class_is_the_stem_without_prefix_and_underscores() {
        assert_eq!(read("template_ball_valve.png"), ("ball valve".into(), Role::Exemplar, 1));
        assert_eq!(read("a/b/ball_valve.PNG"), ("ball valve".into(), Role::Exemplar, 1));
        assert_eq!(read("Ventil größe 3.tif"), ("Ventil größe 3".into(), Role::Exemplar, 1));
        assert_eq!(read("17.png"), ("17".into(), Role::Exemplar, 1));
        assert_eq!(read("v1.2_valve.png"), ("v1.2 valve".into(), Role::Exemplar, 1));
        assert_eq!(read("template_.png"), ("template".into(), Role::Exemplar, 1));
        assert_eq!(read("___.png").0, "");
    }

    #[test]
    fn suffix_folder_and_prefix_are_read() {
        assert_eq!(read("template_ball_valve__2.png"), ("ball valve".into(), Role::Exemplar, 2));
        assert_eq!(read("ball__valve.png"), ("ball valve".into(), Role::Exemplar, 1));
        assert_eq!(read("valve_2.png"), ("valve 2".into(), Role::Exemplar, 1));
        assert_eq!(read("not_ball_valve__3.png"), ("ball valve".into(), Role::NegativeOf, 3));
        assert_eq!(read("Negatives/gate_valve.png"), ("gate valve".into(), Role::Negative, 1));
        assert_eq!(read("x/negatives/y/not_a_valve.png"), ("not a valve".into(), Role::Negative, 1));
        assert_eq!(read("notch.png"), ("notch".into(), Role::Exemplar, 1));
    }

    #[test]
    fn category_and_prompt_take_the_first_match() {
        let told = |class| (category(class), prompt(class, PromptStyle::Engineering));
        assert_eq!(told("ball valve"), ("Valves", "hvac ball valve".into()));
        assert_eq!(told("Valve instrument"), ("Valves", "hvac Valve instrument".into()));
        assert_eq!(told("plc instrument signal"), ("Instruments", "hvac control plc instrument signal".into()));
        assert_eq!(told("pneumatic signal"), ("Signals", "pneumatic signal line".into()));
        assert_eq!(told("pump"), ("Other", "pump".into()));
        assert_eq!(prompt("ball valve", PromptStyle::Plain), "ball valve");
    }
}
