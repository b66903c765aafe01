//! The ontology as a YAML file that people edit.
//!
//! Owns the file's form, its errors (file, line, column, nearest known name) and its writer. Refuses to read templates.
//!
//! ```yaml
//! classes:
//!   - name: ball valve            # the only required key; what is left out comes from the rules
//!     category: Valves
//!     prompt: hvac ball valve
//!     synonyms: [spherical valve]
//!     aliases: [BV]
//!     color: "#c02020"
//!     exemplars: [ball_valve.png, old/kugelhahn.png]
//!     negatives: [look-alikes/plug.png]
//! ignore: [drafts/, unclear.png]
//! ```
//!
//! Files are named relative to the templates folder. A file named here belongs to the class that names it; the rules
//! place all others. `exemplars: []` makes a class that is found by its prompt alone.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_saphyr::{Error as YamlError, Location, Spanned};

use crate::ontology::Ontology;

/// What is wrong in an ontology file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct FileError {
    /// File name as given.
    pub file: String,
    /// Line, from 1; 0 when unknown.
    pub line: u64,
    /// Column, from 1; 0 when unknown.
    pub column: u64,
    /// What is wrong, and how to mend it.
    pub message: String,
}

/// The file's contents.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(default)]
    pub classes: Vec<Entry>,
    #[serde(default)]
    pub ignore: Vec<Spanned<String>>,
}

/// One class of the file. Absent keys leave what the rules say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub name: Spanned<String>,
    pub category: Option<String>,
    pub prompt: Option<String>,
    #[serde(default)]
    pub synonyms: Vec<String>,
    #[serde(default)]
    pub aliases: Vec<Spanned<String>>,
    pub color: Option<Spanned<String>>,
    pub exemplars: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub negatives: Vec<Spanned<String>>,
}

/// Reads the text of an ontology file; `file` is its name in errors. An empty file says nothing.
pub(crate) fn parse(file: &str, text: &str) -> Result<Document, FileError> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Document::default());
    }
    serde_saphyr::from_str(text).map_err(|e| {
        let e = e.without_snippet();
        at(file, e.location().unwrap_or(Location::UNKNOWN), explain(e))
    })
}

/// An error at a place of the file.
pub(crate) fn at(file: &str, place: Location, message: String) -> FileError {
    FileError { file: file.to_owned(), line: place.line(), column: place.column(), message }
}

fn explain(e: &YamlError) -> String {
    match e {
        YamlError::SerdeUnknownField { field, expected, .. } => {
            let known = expected.join(", ");
            match nearest(field, expected.iter().copied()) {
                Some(near) => format!("unknown key `{field}`; did you mean `{near}`? Known keys: {known}"),
                None => format!("unknown key `{field}`; known keys: {known}"),
            }
        }
        other => {
            let text = other.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        }
    }
}

/// The known name most like `name`, when one is alike enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&name, &k.to_lowercase()), k))
        .filter(|(alike, _)| *alike > 0.78)
        .fold(None::<(f64, &str)>, |best, next| if best.is_some_and(|b| b.0 >= next.0) { best } else { Some(next) })
        .map(|(_, k)| k)
}

/// Reads `#rrggbb`.
pub(crate) fn color(text: &str) -> Option<[u8; 3]> {
    let hex = text.strip_prefix('#').filter(|h| h.len() == 6 && h.is_ascii())?;
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).ok();
    Some([byte(0)?, byte(2)?, byte(4)?])
}

/// The whole ontology as YAML, every key written: read together with the same templates it gives the same ontology.
pub fn write(ontology: &Ontology) -> String {
    let mut out = String::from(
        "# Classes in index order. Edit freely: what is left out comes from the file names of the templates.\nclasses:\n",
    );
    for c in &ontology.classes {
        let [r, g, b] = c.color;
        let files = |e: &[crate::Exemplar]| e.iter().map(|e| e.file.clone()).collect::<Vec<_>>();
        let _ = write!(
            out,
            "  - name: {}\n    category: {}\n    prompt: {}\n    synonyms: {}\n    aliases: {}\n    \
             color: \"#{r:02x}{g:02x}{b:02x}\"\n    exemplars: {}\n    negatives: {}\n",
            scalar(&c.name),
            scalar(&c.category),
            scalar(&c.prompt),
            list(&c.synonyms),
            list(&c.aliases),
            list(&files(&c.exemplars)),
            list(&files(&c.negatives)),
        );
    }
    out
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|i| scalar(i)).collect::<Vec<_>>().join(", "))
}

/// Plain where no YAML reader could take it for anything else, quoted as in JSON otherwise.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " _-./".contains(c))
        && !WORDS.contains(&text.to_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> FileError {
        parse("o.yaml", text).unwrap_err()
    }

    #[test]
    fn unknown_key_names_the_nearest() {
        let e = fails("classes:\n  - name: a\n    promt: b\n");
        assert_eq!((e.line, e.column), (3, 5));
        assert!(e.message.contains("unknown key `promt`; did you mean `prompt`?"), "{e}");
        let e = fails("klasses: []\n");
        assert!(e.message.contains("did you mean `classes`"), "{e}");
        assert!(e.to_string().starts_with("o.yaml:1:1: "), "{e}");
    }

    #[test]
    fn duplicate_key_wrong_type_and_bad_syntax_have_a_place() {
        assert_eq!(fails("classes:\n  - name: a\n    name: b\n").line, 3);
        assert_eq!(fails("classes:\n  - name: [a]\n").line, 2);
        assert_eq!(fails("classes:\n  - category: x\n").line, 2);
        assert!(fails("classes: [\n").line >= 1);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert!(parse("o.yaml", "# nothing\n\n").unwrap().classes.is_empty());
    }

    #[test]
    fn scalars_survive() {
        for text in ["a", "yes", "1", "a: b", "# x", "Größe \"5\"", "", " a", "- a", "a,b", "null", "[x]"] {
            let doc = parse("o", &format!("classes:\n  - name: {}\n", scalar(text))).unwrap();
            assert_eq!(doc.classes[0].name.value, text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives(text in proptest::prelude::any::<String>()) {
            let doc = parse("o", &format!("classes:\n  - name: a\n    synonyms: {}\n", list(&[text.clone()]))).unwrap();
            proptest::prop_assert_eq!(&doc.classes[0].synonyms[0], &text);
        }
    }
}
