//! The stage's part of the report: what was found per class, with which templates, and a few drawings with boxes.

use std::collections::BTreeMap;

use artifacts::OntologyValue;
use datasets::picture::{Limits, decode};
use datasets::{AnnotationSet, ImageAnnotations};
use engine::{Context, StageError};
use report::draw::{self, Mark};
use report::html::{Cell, Column, Figure, Grid, Table, class_name, details, figures, h3, list, note};
use report::{Headline, Html, Legend, Section, Tone, el, number};

use crate::pictures;
use crate::settings::Settings;

/// Drawings shown.
const SHEETS: usize = 4;
/// Longer side of a shown drawing, pixels.
const SHEET_PX: u32 = 1600;
/// Longer side of a shown template, pixels.
const TEMPLATE_PX: u32 = 64;
/// Lines shown of a list.
const LINES: usize = 50;

/// What the section tells.
pub struct Told<'a> {
    pub set: &'a AnnotationSet,
    pub settings: &'a Settings,
    pub ontology: &'a OntologyValue,
    /// Remarks, in words.
    pub words: &'a [String],
}

pub fn section(told: &Told<'_>, ctx: &Context) -> Result<Section, StageError> {
    let set = told.set;
    let boxes = set.box_count();
    let mut s = Section::new("label", "Labels");
    let tone = if boxes == 0 { Tone::Bad } else { Tone::Plain };
    s.headline.push(Headline::toned("Boxes found", number::count(boxes), tone));
    let with = set.images.iter().filter(|i| !i.annotations.is_empty()).count();
    s.headline.push(Headline::new("Images with boxes", format!("{with} of {}", set.images.len())));
    if !set.skipped.is_empty() {
        s.headline.push(Headline::toned("Images left out", number::count(set.skipped.len()), Tone::Warn));
    }
    s.push(note(format!("Labeller: {}.", told.settings.labeller.name())));
    s.push(classes(told));
    let templates = pictures::Templates::of(told, ctx)?;
    s.headline.extend(templates.headline());
    if !told.words.is_empty() {
        s.push(h3("Remarks"));
        s.push(lines(told.words.iter().cloned()));
    }
    if !set.skipped.is_empty() {
        s.push(h3("Images left out"));
        s.push(lines(set.skipped.iter().map(|k| format!("{}: {}", k.image, k.reason))));
    }
    let shown = drawings(told, ctx)?;
    if !shown.is_empty() {
        s.push(h3("Drawings with the most boxes"));
        s.push(figures(Grid::Wide, shown));
    }
    s.push(templates.html()?);
    Ok(s)
}

fn lines(words: impl ExactSizeIterator<Item = String>) -> Html {
    let n = words.len();
    let all = list(words.take(LINES));
    let mut out = if n > 8 { details(number::counted(n, "line", "lines"), all) } else { all };
    if n > LINES {
        out.push(note(format!("... and {} more", n - LINES)));
    }
    out
}

/// A row a class: name, template, boxes, scores.
fn classes(told: &Told<'_>) -> Html {
    let mut scores: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
    for a in told.set.images.iter().flat_map(|i| &i.annotations) {
        scores.entry(&a.class).or_default().push(a.score.map(datasets::Score::get));
    }
    let columns = [
        Column::text("Class"),
        Column::text("Template"),
        Column::number("Boxes"),
        Column::number("Mean score"),
        Column::number("Lowest score"),
    ];
    let mut table = Table::new("Boxes of each class", columns);
    for class in &told.ontology.ontology.classes {
        let found = scores.get(class.name.as_str()).map_or(&[][..], Vec::as_slice);
        let known: Vec<f64> = found.iter().filter_map(|s| *s).collect();
        let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        let lowest = known.iter().copied().min_by(f64::total_cmp);
        let templates = class.exemplars.iter().filter_map(|e| template(told.ontology, &e.file));
        table.row([
            Cell::of(class_name(&class.name, class.color)),
            Cell::of(Html::from(el("span").children(templates))),
            Cell::count(found.len()),
            Cell::maybe(mean, 2),
            Cell::maybe(lowest, 2),
        ]);
    }
    table.into()
}

/// A template's picture; `None` when it cannot be shown, which the labeller has reported.
fn template(ontology: &OntologyValue, file: &str) -> Option<Html> {
    let picture = decode(ontology.templates.get(file)?, &Limits::default()).ok()?;
    let (small, _) = draw::thumbnail(&picture.rgb, TEMPLATE_PX);
    Some(draw::png(&small).ok()?.img(file))
}

fn drawings(told: &Told<'_>, ctx: &Context) -> Result<Vec<Figure>, StageError> {
    let images = ctx.manifest("images")?;
    let legend = Legend::new(told.set.classes.iter().map(|c| (c.name.as_str(), c.color)));
    let mut order: Vec<&ImageAnnotations> = told.set.images.iter().filter(|i| !i.annotations.is_empty()).collect();
    order.sort_by(|a, b| b.annotations.len().cmp(&a.annotations.len()).then_with(|| a.image.cmp(&b.image)));
    let mut shown = Vec::new();
    for image in order.into_iter().take(SHEETS) {
        ctx.check()?;
        let Some(blob) = images.blob(&image.image) else { continue };
        let limits = Limits { max_pixels: told.settings.max_pixels, ..Limits::default() };
        let picture = decode(&ctx.bytes(blob)?, &limits)
            .map_err(|e| StageError::failed(format!("decoding `{}` for the report", image.image), e))?;
        let (mut small, scale) = draw::thumbnail(&picture.rgb, SHEET_PX);
        let marks: Vec<Mark> = image
            .annotations
            .iter()
            .map(|a| Mark::new(a.bbox, legend.color(&a.class), legend.tag(&a.class)).scaled(scale))
            .collect();
        draw::marks(&mut small, &marks);
        let encoded = draw::jpeg(&small).map_err(|e| StageError::failed(format!("encoding `{}`", image.image), e))?;
        let classes = image.annotations.iter().map(|a| a.class.as_str());
        let caption = legend.caption(&image.image, ["box", "boxes"], classes);
        shown.push(Figure::new(encoded, format!("{} with boxes", image.image), caption));
    }
    Ok(shown)
}
