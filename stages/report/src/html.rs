//! HTML that is escaped by construction, and the few components that every section is made of.
//!
//! Owns elements, tables, figures, notices. Refuses to own the page around them (`page`) and plots (`plot`).

use std::fmt::{Display, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::number;
use crate::page::{Headline, Tone};

/// A piece of HTML. Text becomes HTML only through escaping: `Html::from("a < b")` is `a &lt; b`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Html(String);

impl Html {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Markup written by this program, taken as it is. Never give it text from outside.
    pub fn trusted(markup: impl Into<String>) -> Self {
        Self(markup.into())
    }

    /// Appends another piece.
    pub fn push(&mut self, other: impl Into<Html>) -> &mut Self {
        self.0.push_str(&other.into().0);
        self
    }

    /// The markup.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True without any markup.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        Self(escape(text))
    }
}

impl From<String> for Html {
    fn from(text: String) -> Self {
        Self(escape(&text))
    }
}

impl From<&String> for Html {
    fn from(text: &String) -> Self {
        Self(escape(text))
    }
}

impl From<Element> for Html {
    fn from(e: Element) -> Self {
        if VOID.contains(&e.name) {
            return Self(format!("<{}{}>", e.name, e.attributes));
        }
        Self(format!("<{0}{1}>{2}</{0}>", e.name, e.attributes, e.inner.0))
    }
}

impl<T: Into<Html>> FromIterator<T> for Html {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut all = Self::new();
        for item in items {
            all.push(item);
        }
        all
    }
}

/// Elements that have no end tag.
const VOID: [&str; 6] = ["br", "hr", "img", "input", "meta", "link"];

/// Escapes text for element content and quoted attributes. Control characters that HTML forbids become `U+FFFD`.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An element under construction; becomes `Html` with `into()`.
#[derive(Clone, Debug)]
pub struct Element {
    name: &'static str,
    attributes: String,
    inner: Html,
}

/// Starts an element: `el("p").class("note").child("text")`.
pub fn el(name: &'static str) -> Element {
    Element { name, attributes: String::new(), inner: Html::new() }
}

impl Element {
    /// Adds an attribute; the value is escaped.
    pub fn attr(mut self, name: &'static str, value: impl Display) -> Self {
        let _ = write!(self.attributes, " {name}=\"{}\"", escape(&value.to_string()));
        self
    }

    /// Adds an attribute without a value (`open`, `hidden`).
    pub fn flag(mut self, name: &'static str) -> Self {
        let _ = write!(self.attributes, " {name}");
        self
    }

    /// Sets the class.
    pub fn class(self, class: impl Display) -> Self {
        self.attr("class", class)
    }

    /// Appends text (escaped) or HTML.
    pub fn child(mut self, child: impl Into<Html>) -> Self {
        self.inner.push(child);
        self
    }

    /// Appends several children.
    pub fn children<T: Into<Html>>(mut self, children: impl IntoIterator<Item = T>) -> Self {
        for child in children {
            self.inner.push(child);
        }
        self
    }
}

/// A paragraph of text or HTML.
pub fn p(content: impl Into<Html>) -> Html {
    el("p").child(content).into()
}

/// A heading inside a section.
pub fn h3(content: impl Into<Html>) -> Html {
    el("h3").child(content).into()
}

/// A smaller heading.
pub fn h4(content: impl Into<Html>) -> Html {
    el("h4").child(content).into()
}

/// A muted line of explanation.
pub fn note(content: impl Into<Html>) -> Html {
    el("p").class("note").child(content).into()
}

/// Text in the fixed-width face (paths, commands, digests).
pub fn code(text: impl Into<Html>) -> Html {
    el("code").child(text).into()
}

/// A box that asks for attention: a title and an explanation.
pub fn notice(tone: Tone, title: &str, body: impl Into<Html>) -> Html {
    el("div")
        .class(format_args!("notice {}", tone.name()))
        .attr("role", "note")
        .child(el("strong").child(title))
        .child(el("div").child(body))
        .into()
}

/// Something folded away behind its summary.
pub fn details(summary: impl Into<Html>, body: impl Into<Html>) -> Html {
    el("details").child(el("summary").child(summary)).child(body).into()
}

/// A row of big numbers with their labels.
pub fn cards(items: &[Headline]) -> Html {
    let card = |h: &Headline| {
        el("div")
            .class(format_args!("card {}", h.tone.name()))
            .child(el("dt").child(&h.label))
            .child(el("dd").child(&h.value))
    };
    el("dl").class("cards").children(items.iter().map(card)).into()
}

/// A small square of a class colour, followed by the class name.
pub fn class_name(name: &str, color: [u8; 3]) -> Html {
    let [r, g, b] = color;
    let swatch = el("i").class("swatch").attr("style", format_args!("background:#{r:02x}{g:02x}{b:02x}"));
    el("span").class("class").child(swatch).child(name).into()
}

/// A list of facts: term and description.
pub fn facts<T: Into<Html>, D: Into<Html>>(pairs: impl IntoIterator<Item = (T, D)>) -> Html {
    let mut list = el("dl").class("facts");
    for (term, description) in pairs {
        list = list.child(el("dt").child(term)).child(el("dd").child(description));
    }
    list.into()
}

/// A bulleted list.
pub fn list<T: Into<Html>>(items: impl IntoIterator<Item = T>) -> Html {
    el("ul").children(items.into_iter().map(|item| el("li").child(item))).into()
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: String,
    numeric: bool,
}

impl Column {
    /// A column of words, aligned left.
    pub fn text(title: impl Into<String>) -> Self {
        Self { title: title.into(), numeric: false }
    }

    /// A column of numbers, aligned right.
    pub fn number(title: impl Into<String>) -> Self {
        Self { title: title.into(), numeric: true }
    }
}

/// A cell: what is shown, and the value it sorts by.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    content: Html,
    sort: Option<f64>,
}

impl Cell {
    /// Text or HTML, sorted by what is read.
    pub fn of(content: impl Into<Html>) -> Self {
        Self { content: content.into(), sort: None }
    }

    /// Anything, sorted by `value`.
    pub fn sorted(content: impl Into<Html>, value: f64) -> Self {
        Self { content: content.into(), sort: Some(value) }
    }

    /// A count.
    pub fn count(n: usize) -> Self {
        Self::sorted(number::count(n), n as f64)
    }

    /// A number with fixed decimals.
    pub fn fixed(x: f64, decimals: usize) -> Self {
        Self::sorted(number::fixed(x, decimals), x)
    }

    /// A number with fixed decimals, or a dash.
    pub fn maybe(x: Option<f64>, decimals: usize) -> Self {
        Self::sorted(number::maybe(x, decimals), x.unwrap_or(f64::NEG_INFINITY))
    }

    /// A fraction as percent.
    pub fn percent(x: f64) -> Self {
        Self::sorted(number::percent(x), x)
    }
}

/// A table that a click (or Enter) on a heading sorts.
#[derive(Clone, Debug)]
pub struct Table {
    caption: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table; the caption is read out by screen readers and shown above.
    pub fn new(caption: impl Into<String>, columns: impl IntoIterator<Item = Column>) -> Self {
        Self { caption: caption.into(), columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row with one cell per column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) -> &mut Self {
        let cells: Vec<Cell> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "a table row has one cell per column");
        self.rows.push(cells);
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl From<Table> for Html {
    fn from(t: Table) -> Html {
        let class = |numeric: bool| if numeric { "num" } else { "txt" };
        let head = t.columns.iter().map(|c| {
            el("th")
                .attr("scope", "col")
                .class(class(c.numeric))
                .child(el("button").attr("type", "button").child(&c.title))
        });
        let mut body = el("tbody");
        for cells in t.rows {
            let mut tr = el("tr");
            for (cell, column) in cells.into_iter().zip(&t.columns) {
                let mut td = el("td").class(class(column.numeric));
                if let Some(v) = cell.sort {
                    td = td.attr("data-v", if v.is_finite() { v } else { f64::MIN });
                }
                tr = tr.child(td.child(cell.content));
            }
            body = body.child(tr);
        }
        let mut table = el("table").class("sortable");
        if !t.caption.is_empty() {
            table = table.child(el("caption").child(&t.caption));
        }
        let table = table.child(el("thead").child(el("tr").children(head))).child(body);
        el("div")
            .class("scroll")
            .attr("tabindex", "0")
            .attr("role", "region")
            .attr("aria-label", t.caption)
            .child(table)
            .into()
    }
}

/// An encoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `image/jpeg`, `image/png`, ...
    pub mime: &'static str,
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Picture {
    /// The picture as an element, its bytes inside the page.
    pub fn img(&self, alt: &str) -> Html {
        el("img")
            .attr("src", format_args!("data:{};base64,{}", self.mime, STANDARD.encode(&self.bytes)))
            .attr("alt", alt)
            .attr("width", self.width)
            .attr("height", self.height)
            .attr("decoding", "async")
            .into()
    }

    /// Bytes that the picture takes in a page.
    pub fn page_bytes(&self) -> usize {
        self.bytes.len().div_ceil(3) * 4
    }
}

/// One or two pictures with a caption; a click enlarges a picture.
#[derive(Clone, Debug)]
pub struct Figure {
    pictures: Vec<(Picture, String)>,
    caption: Html,
}

impl Figure {
    /// A picture, the text read when it cannot be seen, and a caption.
    pub fn new(picture: Picture, alt: impl Into<String>, caption: impl Into<Html>) -> Self {
        Self { pictures: vec![(picture, alt.into())], caption: caption.into() }
    }

    /// Puts another picture beside the first (a template, a truth).
    pub fn beside(mut self, picture: Picture, alt: impl Into<String>) -> Self {
        self.pictures.push((picture, alt.into()));
        self
    }
}

impl From<Figure> for Html {
    fn from(f: Figure) -> Html {
        let zoom = |(picture, alt): &(Picture, String)| {
            el("button")
                .attr("type", "button")
                .class("zoom")
                .attr("aria-label", format_args!("Enlarge: {alt}"))
                .child(picture.img(alt))
        };
        el("figure")
            .child(el("div").class("pics").children(f.pictures.iter().map(zoom)))
            .child(el("figcaption").child(f.caption))
            .into()
    }
}

/// How wide the figures of a grid are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Crops and thumbnails: many in a row.
    Small,
    /// Sheets: two in a row where there is room.
    Wide,
    /// One in a row.
    Full,
}

/// Figures in rows.
pub fn figures(grid: Grid, figures: impl IntoIterator<Item = Figure>) -> Html {
    let class = match grid {
        Grid::Small => "grid small",
        Grid::Wide => "grid wide",
        Grid::Full => "grid full",
    };
    el("div").class(class).children(figures).into()
}

/// Plots or other blocks side by side where there is room.
pub fn columns<T: Into<Html>>(blocks: impl IntoIterator<Item = T>) -> Html {
    el("div").class("columns").children(blocks.into_iter().map(|b| el("div").child(b))).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_attributes_are_escaped() {
        let html: Html = el("p").attr("title", "\"><script>'").child("<b>&</b>").into();
        assert_eq!(html.as_str(), "<p title=\"&quot;&gt;&lt;script&gt;&#39;\">&lt;b&gt;&amp;&lt;/b&gt;</p>");
    }

    #[test]
    fn a_class_name_with_markup_stays_text() {
        let html = class_name("Ventil <Ø 3\" & größer>", [1, 2, 255]);
        assert!(html.as_str().contains("Ventil &lt;Ø 3&quot; &amp; größer&gt;"));
        assert!(html.as_str().contains("#0102ff"));
    }

    #[test]
    fn table_sorts_by_value_and_has_no_nan() {
        let mut t = Table::new("Classes", [Column::text("Class"), Column::number("Mean")]);
        t.row([Cell::of("a"), Cell::fixed(f64::NAN, 2)]);
        let html = Html::from(t);
        assert!(!html.as_str().contains("NaN"));
        assert!(html.as_str().contains("–"));
    }

    #[test]
    #[should_panic(expected = "one cell per column")]
    fn table_refuses_a_short_row() {
        Table::new("", [Column::text("a"), Column::text("b")]).row([Cell::of("1")]);
    }

    proptest! {
        #[test]
        fn escaped_text_holds_no_markup(s in "\\PC*") {
            let e = escape(&s);
            prop_assert!(!e.contains(['<', '>', '"', '\'']));
        }
    }
}
