//! The page of a run: a header, then one section per stage.
//!
//! Owns the document around the sections: style, script, table of contents, run header. A stage stores its `Section`
//! as JSON among its outputs; whoever finishes the run puts the sections together with `page`.

use serde::{Deserialize, Serialize};

use crate::html::{Cell, Column, Html, Table, cards, code, el, facts, notice};
use crate::number;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How a value or a message is to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// A fact, neither good nor bad.
    #[default]
    Plain,
    /// As it should be.
    Ok,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

impl Tone {
    /// The name in the style sheet.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// A number that sums something up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headline {
    /// What it is, such as `Boxes`.
    pub label: String,
    /// The value as shown, such as `1,204`.
    pub value: String,
    /// How it is to be taken.
    #[serde(default)]
    pub tone: Tone,
}

impl Headline {
    /// A fact.
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into(), tone: Tone::Plain }
    }

    /// A fact with a tone.
    pub fn toned(label: impl Into<String>, value: impl Into<String>, tone: Tone) -> Self {
        Self { label: label.into(), value: value.into(), tone }
    }
}

/// What a stage shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Identifier in the page, such as `review`: letters, digits and `-`.
    pub id: String,
    /// Heading, such as `Review`.
    pub title: String,
    /// The numbers that matter, most important first; also printed in the terminal's summary.
    pub headline: Vec<Headline>,
    /// Everything else.
    pub body: Html,
}

impl Section {
    /// An empty section.
    pub fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into(), headline: Vec::new(), body: Html::new() }
    }

    /// Appends to the body.
    pub fn push(&mut self, html: impl Into<Html>) -> &mut Self {
        self.body.push(html);
        self
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a section is strings only, which JSON can always hold")
    }

    /// Reads the stored form.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A stage in the run's header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRow {
    /// The stage's name; links to the section of the same id.
    pub name: String,
    /// `ran`, `cached`, `waiting`, `failed`, `cancelled`, `skipped`.
    pub state: String,
    /// How the state is to be taken.
    #[serde(default)]
    pub tone: Tone,
    /// Wall time in seconds; none when cached.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// The device that ran it.
    #[serde(default)]
    pub device: String,
    /// Why it ran, waits or failed.
    #[serde(default)]
    pub note: String,
}

/// What stands above the sections of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// Heading, such as the project's folder name.
    pub title: String,
    /// The run's id.
    pub run: String,
    /// `done`, `waiting`, `failed`, `cancelled`.
    pub status: String,
    /// How the status is to be taken.
    pub tone: Tone,
    /// One sentence: what came out, or what to do next.
    pub summary: String,
    /// The numbers of the whole run that matter most.
    #[serde(default)]
    pub headline: Vec<Headline>,
    /// The stages in running order.
    pub stages: Vec<StageRow>,
    /// Other facts: started, took, machine, versions, configuration file.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
}

/// A whole HTML document; it asks the network for nothing.
pub fn page(title: &str, header: Option<&RunHeader>, sections: &[Section]) -> String {
    let mut contents = el("ol");
    let mut main = el("main").attr("id", "main").attr("tabindex", "-1");
    if let Some(header) = header {
        contents = contents.child(toc_entry("run", "This run", Some(header.tone)));
        main = main.child(run_header(header, sections));
    } else {
        main = main.child(el("header").class("top").child(el("h1").child(title)));
    }
    for section in sections {
        let worst = section.headline.iter().map(|h| h.tone).max();
        contents = contents.child(toc_entry(&section.id, &section.title, worst));
        let mut body = el("section").attr("id", anchor(&section.id)).child(
            el("h2").child(el("a").attr("href", format_args!("#{}", anchor(&section.id))).child(&section.title)),
        );
        if !section.headline.is_empty() {
            body = body.child(cards(&section.headline));
        }
        main = main.child(body.child(section.body.clone()));
    }
    let theme = el("button").attr("type", "button").attr("id", "theme").flag("hidden").child("Light / dark");
    let nav = el("nav").attr("aria-label", "Contents").child(contents).child(theme);
    let skip = el("a").class("skip").attr("href", "#main").child("Skip to the content");
    let dialog = el("dialog")
        .attr("id", "lightbox")
        .attr("aria-label", "Enlarged picture")
        .child(el("form").attr("method", "dialog").child(el("button").flag("autofocus").child("Close")));
    let body: Html = [Html::from(skip), nav.into(), main.into(), dialog.into()].into_iter().collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        crate::html::escape(title),
        body.as_str(),
    )
}

/// An id that is safe in links: everything but letters, digits and `-` becomes `-`.
fn anchor(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn toc_entry(id: &str, title: &str, tone: Option<Tone>) -> Html {
    let tone = tone.unwrap_or_default();
    let mut link = el("a").attr("href", format_args!("#{}", anchor(id))).child(title);
    if tone >= Tone::Warn {
        let text = if tone == Tone::Bad { "has problems" } else { "has warnings" };
        link = link.child(el("i").class(format_args!("dot {}", tone.name())).attr("title", text));
    }
    el("li").child(link).into()
}

fn run_header(h: &RunHeader, sections: &[Section]) -> Html {
    let mut header = el("header")
        .class("top")
        .attr("id", "run")
        .child(
            el("p")
                .class("eyebrow")
                .child("Run ")
                .child(code(&h.run))
                .child(" ")
                .child(el("span").class(format_args!("badge {}", h.tone.name())).child(&h.status)),
        )
        .child(el("h1").child(&h.title));
    if !h.summary.is_empty() {
        header = match h.tone {
            Tone::Warn | Tone::Bad => header.child(notice(h.tone, &h.status, &h.summary)),
            _ => header.child(el("p").class("lead").child(&h.summary)),
        };
    }
    if !h.headline.is_empty() {
        header = header.child(cards(&h.headline));
    }
    if !h.stages.is_empty() {
        let mut table = Table::new(
            "Stages",
            [
                Column::text("Stage"),
                Column::text("State"),
                Column::number("Time"),
                Column::text("Device"),
                Column::text("Note"),
            ],
        );
        for s in &h.stages {
            let name: Html = if sections.iter().any(|x| x.id == s.name) {
                el("a").attr("href", format_args!("#{}", anchor(&s.name))).child(&s.name).into()
            } else {
                (&s.name).into()
            };
            let time = s.seconds.map_or_else(|| number::NONE.to_owned(), number::duration);
            table.row([
                Cell::of(name),
                Cell::of(el("span").class(format_args!("badge {}", s.tone.name())).child(&s.state)),
                Cell::sorted(time, s.seconds.unwrap_or(-1.0)),
                Cell::of(&s.device),
                Cell::of(&s.note),
            ]);
        }
        header = header.child(table);
    }
    if !h.facts.is_empty() {
        header = header.child(facts(h.facts.iter().map(|(k, v)| (k, v))));
    }
    header.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::{Figure, Grid, Picture, figures};

    fn sample() -> String {
        let mut section = Section::new("review", "Review <1>");
        section.headline.push(Headline::toned("Boxes & co", "1,204", Tone::Warn));
        let picture = Picture { mime: "image/png", bytes: vec![1, 2, 3], width: 1, height: 1 };
        section.push(figures(Grid::Small, [Figure::new(picture, "a \"b\"", "c")]));
        let header = RunHeader {
            title: "plant \"7\"".into(),
            run: "r1".into(),
            status: "done".into(),
            stages: vec![StageRow {
                name: "review".into(),
                state: "ran".into(),
                seconds: Some(1.5),
                ..StageRow::default()
            }],
            ..RunHeader::default()
        };
        page("Run r1", Some(&header), &[section])
    }

    #[test]
    fn page_is_self_contained() {
        let html = sample();
        assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("//cdn"));
        assert!(!html.contains("<link") && !html.contains("@import") && !html.contains("<script src"));
        for (at, _) in html.match_indices("src=\"") {
            assert!(html[at + 5..].starts_with("data:"), "{}", &html[at..at + 40]);
        }
        assert!(!html.replace("url(#", "").contains("url("));
    }

    #[test]
    fn text_is_escaped_everywhere() {
        let html = sample();
        assert!(
            html.contains("Review &lt;1&gt;")
                && html.contains("Boxes &amp; co")
                && html.contains("plant &quot;7&quot;")
        );
        assert!(html.contains("alt=\"a &quot;b&quot;\""));
    }

    #[test]
    fn stage_links_to_its_section() {
        let html = sample();
        assert!(html.contains("<a href=\"#review\">review</a>") && html.contains("<section id=\"review\">"));
    }

    #[test]
    fn section_survives_its_stored_form() {
        let mut section = Section::new("train", "Train");
        section.headline.push(Headline::toned("mAP50", "0.91", Tone::Ok));
        section.push(crate::html::p("a < b"));
        assert_eq!(Section::from_json(&section.to_json()).expect("reads back"), section);
        assert!(Section::from_json(b"{").is_err());
    }
}
