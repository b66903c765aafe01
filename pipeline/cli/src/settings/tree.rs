//! A tree of values that know where they were written.
//!
//! Owns reading YAML and laying `--set` and variables over it. Refuses to know what a key means.

use std::path::PathBuf;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::TOP_KEYS;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    /// In the project file: byte offset and length, line and column from 1.
    File { offset: usize, len: usize, line: u64, column: u64 },
    /// Elsewhere, in words: `--set label.nms_iou=2`, `PIPELINE_…`.
    Words(String),
}

/// A YAML value with origins.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Raw {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Origin, Tree)>),
}

/// What is wrong with the settings, shown with the line it is about.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) source_code: Option<NamedSource<String>>,
    pub(super) label: Option<LabeledSpan>,
}

impl Diagnostic for SettingsError {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn std::fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source_code.as_ref().map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label.clone().map(|l| Box::new(std::iter::once(l)) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
}

/// The project file's text, for error messages.
#[derive(Clone, Default)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    pub(super) fn error(&self, origin: &Origin, message: String, help: Option<String>) -> SettingsError {
        match origin {
            Origin::File { offset, len, line, column } => SettingsError {
                message: format!("{}:{line}:{column}: {message}", self.path.display()),
                help,
                source_code: Some(NamedSource::new(self.path.display().to_string(), self.text.clone())),
                label: Some(LabeledSpan::at(*offset..offset + (*len).max(1), "here")),
            },
            Origin::Words(words) => {
                SettingsError { message: format!("{words}: {message}"), help, source_code: None, label: None }
            }
        }
    }
}

struct RawVisitor;

impl<'de> de::Visitor<'de> for RawVisitor {
    type Value = Raw;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(v.into()))
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(Spanned { value, referenced, .. }) = seq.next_element::<Spanned<Raw>>()? {
            list.push(Tree { raw: value, origin: origin(&referenced) });
        }
        Ok(Raw::List(list))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries: Vec<(String, Origin, Tree)> = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let Spanned { value, referenced, .. } = map.next_value::<Spanned<Raw>>()?;
            entries.push((key.value, origin(&key.referenced), Tree { raw: value, origin: origin(&referenced) }));
        }
        Ok(Raw::Map(entries))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(RawVisitor)
    }
}

fn origin(at: &serde_saphyr::Location) -> Origin {
    let span = at.span();
    let offset = span.byte_offset().unwrap_or_else(|| span.offset()) as usize;
    let len = span.byte_len().unwrap_or_else(|| span.len()) as usize;
    Origin::File { offset, len, line: at.line(), column: at.column() }
}

impl Tree {
    pub(super) fn empty() -> Self {
        Self { raw: Raw::Map(Vec::new()), origin: Origin::Words("defaults".into()) }
    }

    pub(super) fn json(&self) -> Value {
        match &self.raw {
            Raw::Scalar(v) => v.clone(),
            Raw::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Raw::Map(entries) => Value::Object(entries.iter().map(|(k, _, t)| (k.clone(), t.json())).collect()),
        }
    }

    pub(super) fn entries(&self) -> &[(String, Origin, Tree)] {
        match &self.raw {
            Raw::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Tree> {
        self.entries().iter().find(|(k, ..)| k == key).map(|(_, _, t)| t)
    }

    /// Lays `over` on top: maps are merged, everything else is replaced.
    pub(super) fn merge(&mut self, over: Tree) {
        match (&mut self.raw, over.raw) {
            (Raw::Map(base), Raw::Map(over)) => {
                for (key, at, tree) in over {
                    match base.iter_mut().find(|(k, ..)| *k == key) {
                        Some((_, o, t)) => {
                            *o = at;
                            t.merge(tree);
                        }
                        None => base.push((key, at, tree)),
                    }
                }
            }
            // An empty value (`label:` with nothing after it) changes nothing below a map.
            (Raw::Map(_), Raw::Scalar(Value::Null)) => {}
            (raw, over_raw) => {
                *raw = over_raw;
                self.origin = over.origin;
            }
        }
    }

    /// The origin of the deepest part of `path` that exists, and of its key.
    pub(super) fn origin_of(&self, path: &[&str]) -> Origin {
        let mut tree = self;
        let mut at = self.origin.clone();
        for part in path {
            let next = match &tree.raw {
                Raw::Map(entries) => entries.iter().find(|(k, ..)| k == part).map(|(_, o, t)| (o.clone(), t)),
                Raw::List(items) => {
                    part.parse::<usize>().ok().and_then(|i| items.get(i)).map(|t| (t.origin.clone(), t))
                }
                Raw::Scalar(_) => None,
            };
            let Some((origin, next)) = next else { break };
            at = origin;
            tree = next;
        }
        at
    }
}

/// Reads YAML 1.2: `off`, `on`, `yes` and `no` are words, not truth values, so that `tile: off` needs no quotes.
pub(super) fn yaml<T: de::DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

pub(super) fn parse(source: &Source) -> Result<Tree, Box<SettingsError>> {
    if source.text.trim().is_empty() {
        return Ok(Tree::empty());
    }
    match yaml::<Spanned<Raw>>(&source.text) {
        Ok(Spanned { value, referenced, .. }) => {
            let tree = Tree { raw: value, origin: origin(&referenced) };
            match tree.raw {
                Raw::Map(_) => Ok(tree),
                Raw::Scalar(Value::Null) => Ok(Tree::empty()),
                _ => Err(source.error(&tree.origin, "settings must be `key: value` lines".into(), None).into()),
            }
        }
        Err(e) => {
            let at = e.location().map_or(Origin::Words(source.path.display().to_string()), |l| origin(&l));
            let message = e.without_snippet().to_string();
            let mut message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            if message.contains("duplicate")
                && let Origin::File { offset, .. } = at
                && let Some((key, _)) = source.text.get(offset..).and_then(|t| t.split_once(':'))
            {
                message = format!("key `{}` is written twice; keep one of them", key.trim());
            }
            Err(source.error(&at, message, None).into())
        }
    }
}

/// Sets `path` to the YAML in `value`. A path that does not begin with a top-level key begins with a stage.
pub(super) fn apply(
    source: &Source,
    tree: &mut Tree,
    path: &str,
    value: &str,
    words: &str,
) -> Result<(), Box<SettingsError>> {
    let origin = Origin::Words(words.to_owned());
    let raw = if value.trim().is_empty() {
        Raw::Scalar(Value::String(String::new()))
    } else {
        yaml::<Raw>(value)
            .map_err(|e| source.error(&origin, format!("`{value}` is no YAML value: {}", e.without_snippet()), None))?
    };
    let mut parts: Vec<&str> = path.split('.').collect();
    if !TOP_KEYS.contains(&parts[0]) {
        parts.insert(0, "stages");
    }
    fn stamp(raw: Raw, origin: &Origin) -> Tree {
        let raw = match raw {
            Raw::Map(entries) => {
                Raw::Map(entries.into_iter().map(|(k, _, t)| (k, origin.clone(), stamp(t.raw, origin))).collect())
            }
            Raw::List(items) => Raw::List(items.into_iter().map(|t| stamp(t.raw, origin)).collect()),
            scalar @ Raw::Scalar(_) => scalar,
        };
        Tree { raw, origin: origin.clone() }
    }
    let mut over = stamp(raw, &origin);
    for part in parts.iter().rev() {
        let raw = Raw::Map(vec![((*part).to_owned(), origin.clone(), over)]);
        over = Tree { raw, origin: origin.clone() };
    }
    tree.merge(over);
    Ok(())
}
