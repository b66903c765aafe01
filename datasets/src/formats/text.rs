//! Text files of unknown origin: byte order marks, encodings, line numbers, JSON with places, names, folder walks.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::FormatError;

/// Folders are walked this deep; deeper nesting is a loop of links.
const MAX_DEPTH: usize = 64;

/// How many files of a folder are looked at to tell its format.
pub(super) const SNIFFED: usize = 16;

/// Reads a text file without its byte order mark.
pub(super) fn read_text(path: &Path) -> Result<String, FormatError> {
    let bytes = fs::read(path).map_err(|e| FormatError::io(path, e))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(FormatError::content(path, "the text is UTF-16", "save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        FormatError::Syntax {
            path: path.into(),
            line: good.split(|&b| b == b'\n').count(),
            column: good.iter().rev().take_while(|&&b| b != b'\n').count() + 1,
            reason: "the text is not UTF-8".into(),
            fix: "save it as UTF-8".into(),
        }
    })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(FormatError::content(path, "the file is empty", "export it again"));
    }
    Ok(text)
}

/// A JSON text, and the lines of its parts.
pub(super) struct Json {
    text: String,
    breaks: Vec<usize>,
}

impl Json {
    /// Reads a file; bare `NaN` and `Infinity`, which some tools write, become `null`.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Ok(Self::new(read_text(path)?))
    }

    fn new(mut text: String) -> Self {
        if ["NaN", "Infinity"].iter().any(|w| text.contains(w)) {
            text = null_for_nan(&text);
        }
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect();
        Self { text, breaks }
    }

    /// The whole text as `T`.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self, path: &Path) -> Result<T, FormatError> {
        serde_json::from_str(&self.text).map_err(|e| FormatError::Syntax {
            path: path.into(),
            line: e.line(),
            column: e.column(),
            reason: bare(&e),
            fix: if e.is_eof() { "the file is cut off: export it again".into() } else { "mend it there".into() },
        })
    }

    /// A part of this text as `T`; else what is wrong.
    pub fn part<'a, T: Deserialize<'a>>(&'a self, raw: &'a RawValue) -> Result<T, (usize, String)> {
        serde_json::from_str(raw.get()).map_err(|e| (self.line(raw) + e.line().saturating_sub(1), bare(&e)))
    }

    /// The line on which a part of this text begins, from 1.
    pub fn line(&self, raw: &RawValue) -> usize {
        let offset = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.breaks.partition_point(|&b| b < offset) + 1
    }
}

/// The message without serde_json's own place, which is relative to the part.
fn bare(e: &serde_json::Error) -> String {
    let s = e.to_string();
    s.rfind(" at line ").map_or_else(|| s.clone(), |i| s[..i].to_owned())
}

/// Replaces bare `NaN`, `Infinity` and `-Infinity` outside strings by `null`; lines stay where they are.
fn null_for_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|w| !in_string && rest.starts_with(w));
        let taken = match (word, c) {
            (Some(w), _) => {
                out.push_str("null");
                w.len()
            }
            (None, '\\') if in_string => {
                let escape: usize = rest.chars().take(2).map(char::len_utf8).sum();
                out.push_str(&rest[..escape]);
                escape
            }
            _ => {
                in_string ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// An image's name as data sets use it: `/` between parts, no root, no drive, no `.` and no `..`. `None` when nothing
/// is left.
pub(super) fn clean_name(raw: &str) -> Option<String> {
    let slashed = raw.replace('\\', "/");
    let mut parts: Vec<&str> = Vec::new();
    for (i, part) in slashed.split('/').enumerate() {
        let drive = i == 0 && part.len() == 2 && part.ends_with(':');
        match part {
            "" | "." => {}
            _ if drive => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// All files below a folder, sorted by path; hidden files and folders are left out.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let mut files = Vec::new();
    let mut todo = vec![(folder.to_path_buf(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| FormatError::io(&dir, e))? {
            let path = entry.map_err(|e| FormatError::io(&dir, e))?.path();
            if path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_DEPTH {
                    todo.push((path, depth + 1));
                }
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The files to read: `source` itself, or all files below it with that extension.
pub(super) fn sources(source: &Path, extension: &str) -> Result<Vec<PathBuf>, FormatError> {
    if source.is_dir() {
        let fits =
            |p: &PathBuf| has_extension(p, extension) && p.file_name().is_none_or(|n| n != super::folder::SIDECAR);
        return Ok(files_below(source)?.into_iter().filter(fits).collect());
    }
    Ok(vec![source.to_path_buf()])
}

/// True when a path ends in `.extension`, in any case.
pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The one file of `source` that `fits`; a folder may hold others.
pub(super) fn only_source(
    source: &Path,
    extension: &str,
    kind: &str,
    fits: impl Fn(&Path) -> bool,
) -> Result<PathBuf, FormatError> {
    if !source.is_dir() {
        return Ok(source.to_path_buf());
    }
    let mut found: Vec<_> = sources(source, extension)?.into_iter().filter(|p| fits(p)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(FormatError::content(source, format!("no {kind} file in this folder"), "name the label file")),
        n => {
            let names: Vec<_> = found.iter().map(|p| p.display().to_string()).collect();
            let reason = format!("{n} {kind} files in this folder");
            Err(FormatError::content(source, reason, format!("name one of them: {}", names.join(", "))))
        }
    }
}

/// The path below `root` with `/` between parts.
pub(super) fn below(root: &Path, path: &Path) -> String {
    let rel = path.strip_prefix(root).unwrap_or(path);
    rel.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// A name without its extension.
pub(super) fn stem(name: &str) -> &str {
    let cut = name.rfind('/').map_or(0, |i| i + 1);
    match name[cut..].rfind('.') {
        Some(dot) if dot > 0 => &name[..cut + dot],
        _ => name,
    }
}
