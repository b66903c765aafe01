//! What is wrong with a setting, for people.
//!
//! Owns the words and the nearest known key. Refuses to decide what is wrong.

use super::{
    NODE_KEYS,
    tree::{SettingsError, Source, Tree},
};

fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.len().max(word.len()) / 3)
        .min()
        .map(|(_, k)| k.to_owned())
}

pub(super) fn unknown_key_help(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(k) => format!("did you mean `{k}`? Known here: {}", known.join(", ")),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Turns serde's words about a config into an error at the line of the setting.
pub fn config_words(key: &str, message: &str) -> (String, Option<String>) {
    let quoted = |s: &str| -> Vec<String> { s.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let message = message.split(" at line ").next().unwrap_or(message);
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let words = quoted(rest);
        let (word, known) = words.split_first().map_or(("", &[][..]), |(w, k)| (w.as_str(), k));
        let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
        if !key.contains('.') {
            known.extend(NODE_KEYS);
        }
        return (format!("unknown key `{word}`"), Some(unknown_key_help(word, &known)));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let words = quoted(rest);
        if let Some((word, known)) = words.split_first() {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return (format!("`{key}` cannot be `{word}`"), Some(unknown_key_help(word, &known)));
        }
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = wrong.and_then(|m| m.split_once(", expected ")) {
        return (format!("`{key}` must be {}, and is {}", expected_words(expected), found_words(found)), None);
    }
    (format!("`{key}`: {message}"), None)
}

/// What serde expected, for people.
fn expected_words(expected: &str) -> &str {
    match expected {
        "f32" | "f64" => "a number",
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number from 0",
        "isize" | "i64" | "i32" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "str" => "a text",
        "a sequence" => "a list",
        "a map" => "`key: value` lines",
        e if e.starts_with("struct ") => "`key: value` lines",
        e => e,
    }
}

/// What serde found, for people: the value without its type.
fn found_words(found: &str) -> &str {
    match found {
        "map" => "`key: value` lines",
        "sequence" => "a list",
        "null" | "unit value" => "empty",
        f => f.find(['"', '`']).map_or(f, |at| &f[at..]),
    }
}

pub(super) fn config_error(source: &Source, name: &str, settings: &Tree, key: &str, message: &str) -> SettingsError {
    let (text, help) = config_words(key, message);
    let mut path: Vec<&str> = key.split('.').filter(|p| !p.is_empty() && *p != "?").collect();
    let unknown = text.strip_prefix("unknown key `").and_then(|t| t.strip_suffix('`')).map(str::to_owned);
    if let Some(word) = &unknown
        && path.last() != Some(&word.as_str())
    {
        path.push(word);
    }
    source.error(&settings.origin_of(&path), format!("stage `{name}`: {text}"), help)
}
