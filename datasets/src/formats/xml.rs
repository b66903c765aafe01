//! XML as small trees with line numbers. Owns no format; expands no entity but the five that XML itself has.

use std::fmt::Write;
use std::path::Path;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use serde_json::Value;

use super::FormatError;
use super::text::read_text;

/// Elements nested deeper are no label file.
const MAX_DEPTH: usize = 64;

/// An element.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub name: String,
    pub line: usize,
    pub attributes: Vec<(String, String)>,
    /// All text directly inside.
    pub text: String,
    pub children: Vec<Node>,
}

impl Node {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    /// All children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// The trimmed text of a child.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.trim())
    }

    /// All descendants of that name, in document order.
    pub fn descendants<'a>(&'a self, name: &str, found: &mut Vec<&'a Self>) {
        for c in &self.children {
            if c.name == name {
                found.push(c);
            }
            c.descendants(name, found);
        }
    }
}

/// Reads a file and gives its root element.
pub(super) fn open(path: &Path) -> Result<Node, FormatError> {
    parse(&read_text(path)?, path)
}

fn parse(text: &str, path: &Path) -> Result<Node, FormatError> {
    let mut reader = Reader::from_str(text);
    let breaks: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect();
    let place = |offset: u64| {
        let line = breaks.partition_point(|&b| b < offset as usize);
        (line + 1, offset as usize - if line == 0 { 0 } else { breaks[line - 1] + 1 } + 1)
    };
    let bad = |offset: u64, reason: String| {
        let (line, column) = place(offset);
        let cut = offset as usize + 1 >= text.trim_end().len();
        let fix = if cut { "the file is cut off: export it again" } else { "mend it there" };
        FormatError::Syntax { path: path.into(), line, column, reason, fix: fix.into() }
    };
    let mut stack: Vec<Node> = Vec::new();
    let mut root = None;
    loop {
        let start = reader.buffer_position();
        let event = reader.read_event().map_err(|e| bad(reader.error_position(), e.to_string()))?;
        match event {
            Event::Start(e) => {
                if stack.len() >= MAX_DEPTH {
                    return Err(bad(start, format!("elements are nested more than {MAX_DEPTH} deep")));
                }
                stack.push(element(&e, place(start).0).map_err(|r| bad(start, r))?);
            }
            Event::Empty(e) => {
                let node = element(&e, place(start).0).map_err(|r| bad(start, r))?;
                attach(node, &mut stack, &mut root).map_err(|r| bad(start, r))?;
            }
            Event::End(_) => {
                let node = stack.pop().ok_or_else(|| bad(start, "an element is closed that was not opened".into()))?;
                attach(node, &mut stack, &mut root).map_err(|r| bad(start, r))?;
            }
            Event::Text(t) => match stack.last_mut() {
                Some(top) => top.text.push_str(&t.xml10_content()),
                None if t.trim().is_empty() => {}
                None => return Err(bad(start, "text outside of the root element".into())),
            },
            Event::CData(t) => {
                if let Some(top) = stack.last_mut() {
                    top.text.push_str(&t.xml10_content());
                }
            }
            Event::GeneralRef(r) => {
                let name = r.xml10_content();
                let value = match r.resolve_char_ref() {
                    Ok(Some(c)) => c.to_string(),
                    Ok(None) => resolve_xml_entity(&name)
                        .ok_or_else(|| bad(start, format!("the entity `&{name};` is not expanded here")))?
                        .to_owned(),
                    Err(e) => return Err(bad(start, e.to_string())),
                };
                if let Some(top) = stack.last_mut() {
                    top.text.push_str(&value);
                }
            }
            Event::DocType(d) if d.contains("<!ENTITY") => {
                return Err(bad(start, "the file declares entities, which are not expanded here".into()));
            }
            Event::DocType(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if let Some(open) = stack.last() {
        return Err(bad(text.len() as u64, format!("`<{}>` of line {} is not closed", open.name, open.line)));
    }
    root.ok_or_else(|| bad(text.len() as u64, "there is no element".into()))
}

fn element(e: &BytesStart, line: usize) -> Result<Node, String> {
    let mut node = Node { name: e.name().0.to_owned(), line, ..Node::default() };
    for a in e.attributes() {
        let a = a.map_err(|e| e.to_string())?;
        let value = a.normalized_value(XmlVersion::Explicit1_0).map_err(|e| e.to_string())?;
        node.attributes.push((a.key.0.to_owned(), value.into_owned()));
    }
    Ok(node)
}

fn attach(node: Node, stack: &mut [Node], root: &mut Option<Node>) -> Result<(), String> {
    match stack.last_mut() {
        Some(parent) => parent.children.push(node),
        None if root.is_some() => return Err("there is a second root element".into()),
        None => *root = Some(node),
    }
    Ok(())
}

/// Writes indented XML.
#[derive(Default)]
pub(super) struct Writer {
    pub out: String,
    open: Vec<String>,
    /// Characters that XML cannot hold and that were replaced.
    pub replaced: usize,
}

impl Writer {
    /// A document that begins with a comment.
    pub fn new(comment: &str) -> Self {
        Self { out: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- {comment} -->\n"), ..Self::default() }
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)]) {
        for _ in 0..self.open.len() {
            self.out.push_str("  ");
        }
        self.out.push('<');
        self.out.push_str(name);
        for (key, value) in attributes {
            let _ = write!(self.out, " {key}=\"");
            self.escape(value);
            self.out.push('"');
        }
    }

    /// Opens an element that will have children.
    pub fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes);
        self.out.push_str(">\n");
        self.open.push(name.into());
    }

    /// Closes the element opened last.
    pub fn close(&mut self) {
        if let Some(name) = self.open.pop() {
            for _ in 0..self.open.len() {
                self.out.push_str("  ");
            }
            let _ = writeln!(self.out, "</{name}>");
        }
    }

    /// An element without content.
    pub fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes);
        self.out.push_str("/>\n");
    }

    /// An element with text.
    pub fn text(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.tag(name, attributes);
        self.out.push('>');
        self.escape(text);
        let _ = writeln!(self.out, "</{name}>");
    }

    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\t' | '\n' | '\r' => {
                    let _ = write!(self.out, "&#{};", c as u32);
                }
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                    self.replaced += 1;
                    self.out.push('\u{fffd}');
                }
                c => self.out.push(c),
            }
        }
    }
}

/// Reserved names of [`encode_name`].
const RESERVED: [&str; 2] = ["score", "provenance"];

/// An attribute's name in a file, out of the way of the names that carry score and provenance.
pub(super) fn encode_name(name: &str) -> String {
    if RESERVED.contains(&name) || name.starts_with("x-") { format!("x-{name}") } else { name.to_owned() }
}

/// The inverse of [`encode_name`].
pub(super) fn decode_name(name: &str) -> String {
    match name.strip_prefix("x-") {
        Some(rest) if RESERVED.contains(&rest) || rest.starts_with("x-") => rest.to_owned(),
        _ => name.to_owned(),
    }
}

/// A value as text: strings plain where that is unambiguous, all else as JSON.
pub(super) fn encode_value(value: &Value) -> String {
    match value {
        Value::String(s) if decode_value(s.trim()) == *value => s.clone(),
        v => v.to_string(),
    }
}

/// The inverse of [`encode_value`]; text of other tools becomes a number or truth value only when it reads as one.
pub(super) fn decode_value(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(v) if serde_json::to_string(&v).is_ok_and(|s| s == text) => v,
        _ => Value::String(text.to_owned()),
    }
}

/// A number in any spelling; text that is none stays text.
pub(super) fn number(text: &str) -> Value {
    text.parse::<f64>().ok().filter(|v| v.is_finite()).map_or_else(|| Value::from(text), Value::from)
}
