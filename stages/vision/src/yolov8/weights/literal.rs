//! Python literals, as tools write names and sizes into ONNX metadata: `{0: 'pump', 1: 'gate valve'}`, `[640, 640]`.
//!
//! Owns reading and writing of dictionaries of texts and lists of whole numbers. Refuses everything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The texts of `{0: 'a', 1: 'b'}`, whose keys must run from 0, or of `['a', 'b']`.
pub fn names(text: &str) -> Option<Vec<String>> {
    let mut rest = text.trim();
    let mut found = BTreeMap::new();
    let (close, keyed) = match rest.chars().next()? {
        '{' => ('}', true),
        '[' | '(' => (if rest.starts_with('[') { ']' } else { ')' }, false),
        _ => return None,
    };
    rest = rest[1..].trim_start();
    while !rest.starts_with(close) {
        let index = if keyed {
            let (key, after) = rest.split_once(':')?;
            rest = after.trim_start();
            key.trim().trim_matches(['\'', '"']).parse().ok()?
        } else {
            found.len()
        };
        let (name, after) = quoted(rest)?;
        found.insert(index, name);
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    let runs = found.keys().enumerate().all(|(i, &k)| i == k);
    (runs && rest[1..].trim().is_empty()).then(|| found.into_values().collect())
}

/// A text in quotation marks, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            c if c == quote => return Some((out, &text[i + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                kind @ ('x' | 'u' | 'U') => {
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    out.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)?);
                }
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

/// The numbers of `[640, 480]`, or of a single number.
pub fn numbers(text: &str) -> Option<Vec<u64>> {
    let inner = text.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
    inner.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect()
}

/// `{0: 'a', 1: 'b'}`.
pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::from("{");
    for (i, name) in names.into_iter().enumerate() {
        let _ = write!(out, "{}{i}: '", if i > 0 { ", " } else { "" });
        for c in name.chars() {
            match c {
                '\\' | '\'' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c => out.push(c),
            }
        }
        out.push('\'');
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all = ["pump", "it's", "a \"b\"", "back\\slash", "new\nline", "Prüfung, {1: 'x'}"];
        assert_eq!(names(&from_names(all)).unwrap(), all);
        assert_eq!(names("{}").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn python_s_own_writing_is_read() {
        assert_eq!(names(r#"{0: "it's", 1: 'caf\xe9', 2: '\u2300'}"#).unwrap(), ["it's", "café", "⌀"]);
        assert_eq!(names("['a', 'b',]").unwrap(), ["a", "b"]);
        assert_eq!(numbers("[640, 480]").unwrap(), [640, 480]);
        assert_eq!(numbers("(640,)").unwrap(), [640]);
        for bad in ["", "{1: 'a'}", "{0: 'a'", "{0: a}", "{0: 'a'} x", "__import__('os')", "{0 'a'}"] {
            assert_eq!(names(bad), None, "{bad}");
        }
        assert_eq!(numbers("[a]"), None);
    }
}
