//! The review's section of the report: a verdict in plain words, then pictures, numbers and lists.

use datasets::AnnotationSet;
use report::html::{self, Cell, Column, Figure, Grid, Table, el};
use report::number::{self, count, counted, fixed};
use report::plot::{self, Axes, Bar};
use report::{Headline, Html, Legend, Section, Tone};

use crate::bands::Bands;
use crate::checks::{Checks, Warning};
use crate::decisions::Applied;
use crate::gate::Verdict;
use crate::look;
use crate::metrics::{Metrics, Summary};
use crate::pictures::{Pictures, legend};
use crate::queue::Queue;
use crate::settings::Settings;

const DECIDE: &str = include_str!("decide.js");
const STYLE: &str = include_str!("section.css");
/// At most this many entries of a list are shown; `review.json` has them all.
const SHOWN: usize = 100;
/// At most this many classes in the bar chart; the table has them all.
const BARS: usize = 12;

/// Everything that the section tells.
pub struct Told<'a> {
    pub set: &'a AnnotationSet,
    pub digest: &'a str,
    pub metrics: &'a Metrics,
    pub bands: &'a Bands,
    pub queue: &'a Queue,
    pub checks: &'a Checks,
    pub warnings: &'a [Warning],
    pub verdict: &'a Verdict,
    pub applied: &'a Applied,
    pub pictures: &'a Pictures,
    pub settings: &'a Settings,
}

/// Writes the section.
pub fn section(t: &Told<'_>) -> Section {
    let legend = legend(t.set);
    let mut s = Section::new("review", "Review");
    s.headline = headline(t);
    s.push(Html::trusted(format!("<style>\n{STYLE}</style>")));
    s.push(verdict(t));
    s.push(warnings(t.warnings));
    s.push(look::bands(t, &legend));
    s.push(look::to_look_at(t, &legend));
    s.push(sheets(t, &legend));
    s.push(numbers(t, &legend));
    s.push(problems(t));
    s.push(decide(t));
    s
}

/// The numbers that matter most.
pub fn headline(t: &Told<'_>) -> Vec<Headline> {
    let m = t.metrics;
    let warned = |rule: &str| t.warnings.iter().any(|w| w.rule == rule);
    let tone = |rule: &str| if warned(rule) { Tone::Warn } else { Tone::Plain };
    let gate = if t.verdict.passed() { ("open", Tone::Ok) } else { ("waiting", Tone::Warn) };
    vec![
        Headline::toned("Gate", gate.0, gate.1),
        Headline::toned("Boxes", count(m.boxes), if m.boxes == 0 { Tone::Bad } else { Tone::Plain }),
        Headline::new("To look at", count(t.bands.to_look_at)),
        Headline::toned(
            "Images with boxes",
            format!("{} of {}", count(m.images_with_boxes), count(m.images)),
            tone("coverage"),
        ),
        Headline::toned("Mean confidence", number::maybe(m.confidence.map(|c| c.mean), 2), tone("confidence")),
        Headline::toned(
            "Classes found",
            format!("{} of {}", m.classes_found, m.classes.len()),
            tone("classes_without_boxes"),
        ),
    ]
}

fn verdict(t: &Told<'_>) -> Html {
    let m = t.metrics;
    let mut text = Html::new();
    let summary = if m.boxes == 0 {
        format!("No box was found on {}.", counted(m.images, "image", "images"))
    } else {
        let per = m.boxes_per_image.map_or(0.0, |s| s.mean);
        format!(
            "{} of {} on {} of {}: {} an image on average.",
            counted(m.boxes, "box", "boxes"),
            counted(m.classes_found, "class", "classes"),
            count(m.images_with_boxes),
            counted(m.images, "image", "images"),
            fixed(per, 1)
        )
    };
    text.push(html::p(summary));
    let a = t.applied;
    if a.decided() > 0 {
        text.push(html::p(format!(
            "A person decided about single boxes: {} accepted, {} corrected, {} added, {} rejected. All numbers here are \
             those after these decisions.{}",
            a.accepted,
            a.corrected,
            a.added,
            a.all_rejected(),
            held(a)
        )));
    }
    text.push(html::p(format!("{}.", sentence(t.verdict.why()))));
    let (tone, title) = match (t.verdict.passed(), t.warnings.is_empty()) {
        (true, true) => (Tone::Ok, "Ready for training"),
        (true, false) => (Tone::Ok, "Ready for training, with things worth a look"),
        (false, _) if m.boxes == 0 => (Tone::Bad, "Not ready: nothing to train on"),
        (false, _) => (Tone::Warn, "Waiting for a person"),
    };
    html::notice(tone, title, text)
}

/// How decisions hold that did not simply fit, in words.
fn held(a: &Applied) -> String {
    let mut out = String::new();
    for (n, one, many) in [
        (
            a.by_place,
            "box moved since and was recognised by its place",
            "boxes moved since and were recognised by their places",
        ),
        (
            a.kept,
            "is no longer found by the labeller and stays all the same",
            "are no longer found by the labeller and stay all the same",
        ),
        (a.gave_way, "label gave way to a person's box", "labels gave way to boxes of a person"),
    ] {
        if n > 0 {
            out = format!("{out} {}.", counted(n, one, many));
        }
    }
    out
}

/// First letter large, no full stop at the end.
pub fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// One box for all warnings: several would shout.
fn warnings(list: &[Warning]) -> Html {
    let list: Vec<&Warning> = list.iter().filter(|w| !w.blocking).collect();
    if list.is_empty() {
        return Html::new();
    }
    let item = |w: &&Warning| -> Html {
        [Html::from(el("b").child(&w.title)), format!(". {}", w.text).into()].into_iter().collect()
    };
    let title = counted(list.len(), "thing worth a look", "things worth a look");
    html::notice(Tone::Warn, &title, html::list(list.iter().map(item)))
}

fn sheets(t: &Told<'_>, legend: &Legend) -> Html {
    let mut out = Html::new();
    if t.pictures.sheets.is_empty() {
        return out;
    }
    out.push(html::h3("Sheets"));
    let all = t.pictures.sheets.len() == t.metrics.images;
    out.push(html::note(if all {
        "Every image with its boxes. The number at a box is its class, named below the picture. A click enlarges."
            .to_owned()
    } else {
        format!(
            "{} of {} images: the most doubtful ones first, then some spread over the set. The number at a box is its \
             class, named below the picture. A click enlarges.",
            t.pictures.sheets.len(),
            count(t.metrics.images)
        )
    }));
    let figure = |(sheet, picture): &(crate::doubt::Sheet, report::Picture)| {
        let image = &t.set.images[sheet.image];
        let n = image.annotations.len();
        let mut caption = Html::new();
        caption.push(el("b").child(&image.image)).push(format!(" · {}", counted(n, "box", "boxes")));
        let mut scores = image.annotations.iter().filter_map(|a| a.score.map(datasets::Score::get)).collect();
        if let Some(c) = Summary::of(&mut scores) {
            caption.push(format!(" · confidence {} to {}", fixed(c.min, 2), fixed(c.max, 2)));
        }
        if !sheet.why.is_empty() && n > 0 {
            caption.push(format!(" · shown {}", sheet.why));
        }
        caption.push(legend.below(image.annotations.iter().map(|a| a.class.as_str())));
        Figure::new(picture.clone(), format!("Sheet {} with {}", image.image, counted(n, "box", "boxes")), caption)
    };
    let grid = if t.pictures.sheets.len() == 1 { Grid::Full } else { Grid::Wide };
    out.push(html::figures(grid, t.pictures.sheets.iter().map(figure)));
    out
}

fn numbers(t: &Told<'_>, legend: &Legend) -> Html {
    let m = t.metrics;
    let mut out = Html::new();
    out.push(html::h3("Numbers"));
    if m.boxes > 0 {
        let mut plots = Vec::new();
        if m.confidence.is_some() {
            let width = 1.0 / m.confidence_bins.len() as f64;
            let bins: Vec<_> = m
                .confidence_bins
                .iter()
                .enumerate()
                .map(|(i, &n)| (i as f64 * width, (i + 1) as f64 * width, n))
                .collect();
            let mut axes = Axes::new("Confidence of the boxes", "confidence", "boxes");
            axes.x_range = Some((0.0, 1.0));
            plots.push(plot::histogram(&axes, &bins, m.threshold.map(|t| (t, "threshold"))));
        }
        plots.push(plot::histogram(&Axes::new("Boxes of an image", "boxes", "images"), &m.per_image_bins, None));
        plots.push(plot::histogram(
            &Axes::new("Size of the boxes", "longer side, pixels", "boxes"),
            &m.side_bins,
            None,
        ));
        let mut classes: Vec<_> = m.classes.iter().filter(|c| c.boxes > 0).collect();
        classes.sort_by(|a, b| b.boxes.cmp(&a.boxes).then(a.name.cmp(&b.name)));
        let bars: Vec<Bar> = classes
            .iter()
            .take(BARS)
            .map(|c| Bar { label: c.name.clone(), value: c.boxes as f64, color: Some(legend.color(&c.name)) })
            .collect();
        let title = if classes.len() > BARS { "The most common classes" } else { "Boxes of each class" };
        plots.push(plot::bars(title, &bars));
        out.push(html::columns(plots));
    }
    let mut summary = Table::new(
        "The whole set",
        [
            Column::text("Of"),
            Column::number("Count"),
            Column::number("Mean"),
            Column::number("Std"),
            Column::number("Median"),
            Column::number("Min"),
            Column::number("Max"),
        ],
    );
    let percents = m.area_share.map(|s| Summary {
        count: s.count,
        mean: s.mean * 100.0,
        std: s.std * 100.0,
        median: s.median * 100.0,
        min: s.min * 100.0,
        max: s.max * 100.0,
    });
    for (name, s, decimals) in [
        ("Boxes of an image", m.boxes_per_image, 1),
        ("Confidence", m.confidence, 3),
        ("Box area, square pixels", m.area_px, 0),
        ("Box area, % of the image", percents, 4),
    ] {
        let Some(s) = s else { continue };
        let mut cells = vec![Cell::of(name), Cell::count(s.count)];
        cells.extend([s.mean, s.std, s.median, s.min, s.max].map(|v| Cell::fixed(v, decimals)));
        summary.row(cells);
    }
    if !summary.is_empty() {
        out.push(summary);
    }
    let mut facts: Vec<(&str, String)> = Vec::new();
    for (term, c) in [("Most common class", &m.most_common), ("Least common class with boxes", &m.least_common)] {
        if let Some(c) = c {
            facts.push((term, format!("{} ({})", c.name, counted(c.boxes, "box", "boxes"))));
        }
    }
    if let Some(r) = m.imbalance {
        facts.push(("Imbalance", format!("{} to 1", fixed(r, 1))));
    }
    let by: Vec<String> = m.labellers.iter().map(|(l, n)| format!("{l} ({})", counted(*n, "box", "boxes"))).collect();
    if !by.is_empty() {
        facts.push(("Labelled by", by.join(", ")));
    }
    out.push(html::facts(facts));
    out.push(class_table(t, legend));
    out
}

fn class_table(t: &Told<'_>, legend: &Legend) -> Html {
    let mut table = Table::new(
        "Classes",
        [
            Column::number("No."),
            Column::text("Class"),
            Column::text("Category"),
            Column::number("Boxes"),
            Column::number("Share"),
            Column::number("Images"),
            Column::number("Mean confidence"),
            Column::number("Lowest"),
            Column::number("Median area, px²"),
        ],
    );
    for c in &t.metrics.classes {
        let number = legend.number(&c.name);
        table.row([
            number.map_or_else(|| Cell::sorted("?", f64::MAX), Cell::count),
            Cell::of(html::class_name(&c.name, legend.color(&c.name))),
            Cell::of(&c.category),
            Cell::count(c.boxes),
            Cell::percent(c.share),
            Cell::count(c.images),
            Cell::maybe(c.confidence.map(|s| s.mean), 2),
            Cell::maybe(c.confidence.map(|s| s.min), 2),
            Cell::maybe(c.area_px.map(|s| s.median), 0),
        ]);
    }
    table.into()
}

fn problems(t: &Told<'_>) -> Html {
    let c = t.checks;
    let mut out = Html::new();
    out.push(html::h3("Problems"));
    let before = out.as_str().len();
    if !t.applied.problems.is_empty() {
        let n = t.applied.problems.len();
        let list = html::list(t.applied.problems.iter().take(SHOWN));
        let title = counted(n, "decision could not be used", "decisions could not be used");
        out.push(html::notice(Tone::Warn, &title, list));
    }
    if !c.skipped.is_empty() {
        let mut table = Table::new("Images left out", [Column::text("Image"), Column::text("Why")]);
        for s in c.skipped.iter().take(SHOWN) {
            table.row([Cell::of(&s.image), Cell::of(&s.reason)]);
        }
        out.push(folded("Images left out", c.skipped.len(), table.into()));
    }
    if !c.boxes.is_empty() {
        let mut table = Table::new(
            "Odd boxes",
            [Column::text("Image"), Column::text("Class"), Column::text("What"), Column::text("Box")],
        );
        for b in c.boxes.iter().take(SHOWN) {
            table.row([Cell::of(&b.image), Cell::of(&b.class), Cell::of(b.odd.text()), Cell::of(html::code(&b.id))]);
        }
        out.push(folded("Odd boxes", c.counts.values().sum(), table.into()));
    }
    if !c.classes_without_boxes.is_empty() {
        let n = c.classes_without_boxes.len();
        out.push(folded("Classes without boxes", n, html::list(c.classes_without_boxes.iter().take(SHOWN))));
    }
    if !c.empty_images.is_empty() {
        out.push(folded("Images without boxes", c.empty_images.len(), html::list(c.empty_images.iter().take(SHOWN))));
    }
    if !c.duplicate_images.is_empty() {
        let groups = c.duplicate_images.iter().take(SHOWN).map(|g| g.join(" = "));
        out.push(folded("Images that are there more than once", c.duplicate_images.len(), html::list(groups)));
    }
    if !t.pictures.failed.is_empty() {
        let lines = t.pictures.failed.iter().map(|(image, why)| format!("{image}: {why}"));
        out.push(folded("Images that could not be shown here", t.pictures.failed.len(), html::list(lines)));
    }
    if out.as_str().len() == before {
        out.push(html::note("None: no odd boxes, no empty, doubled or unusable images."));
    }
    if t.pictures.over_budget > 0 {
        out.push(html::note(format!(
            "{} left out of this page to keep it small (setting `picture_mb`: {}).",
            counted(t.pictures.over_budget, "picture was", "pictures were"),
            t.settings.picture_mb
        )));
    }
    out
}

fn folded(title: &str, n: usize, body: Html) -> Html {
    let mut inner = body;
    if n > SHOWN {
        inner.push(html::note(format!("The first {SHOWN} are shown; all {} are in review.json.", count(n))));
    }
    html::details(format!("{title} ({})", count(n)), inner)
}

/// The part that turns marks on this page into a decisions file. It needs no server: the browser saves the file.
fn decide(t: &Told<'_>) -> Html {
    let mut out = Html::new();
    out.push(html::h3("Decide"));
    out.push(html::p(
        "Mark boxes above as right or wrong and save. After the commands below the labeller has learned from the marks \
         and has searched all drawings again; confirming three to five boxes of a class usually helps most. When the \
         labels are good enough to train on, approve them.",
    ));
    let approve: Html = el("label")
        .child(el("input").attr("type", "checkbox").attr("id", "approve"))
        .child(
            " I have looked at these labels and approve them for training. (The labels are final then: marks saved \
             together with an approval correct them, and nothing is searched again.)",
        )
        .into();
    let name: Html =
        el("label").child("Your name ").child(el("input").attr("type", "text").attr("id", "reviewer")).into();
    let save = el("button").attr("type", "button").attr("id", "save").child("Save DECISIONS.json");
    let classes: Vec<&str> = t.set.classes.iter().map(|c| c.name.as_str()).collect();
    let status = el("output").attr("id", "marked").attr("aria-live", "polite").child("Nothing marked yet.");
    out.push(
        el("div")
            .class("decisions")
            .attr("id", "decisions")
            .attr("data-annotations", t.digest)
            .attr("data-classes", serde_json::to_string(&classes).unwrap_or_default())
            .child(el("p").child(approve))
            .child(el("p").child(name))
            .child(el("p").child(save).child(" ").child(status)),
    );
    out.push(html::p("Then, in the project's folder:"));
    out.push(el("pre").child("pipeline review apply DECISIONS.json\npipeline run"));
    out.push(html::facts([("Labels", html::code(t.digest))]));
    out.push(Html::trusted(format!("<script>\n{DECIDE}</script>")));
    out
}
