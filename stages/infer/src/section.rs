//! The stage's part of the report: what was found, a few drawings with boxes and, with truth, how right it is.

use std::collections::BTreeMap;

use datasets::eval::{Evaluation, Mistakes, Why};
use datasets::{Annotation, AnnotationSet, ImageAnnotations, Score};
use engine::{Context, StageError};
use report::draw::{self, Mark};
use report::html::{Cell, Column, Figure, Grid, Table, class_name, details, facts, figures, h3, list, note};
use report::plot::matrix;
use report::{Headline, Html, Legend, Section, Tone, el, number};
use vision::detector::DetectorInfo;

use crate::settings::Settings;
use crate::stage::pixels;

/// Drawings shown.
const SHEETS: usize = 6;
/// Drawings with mistakes shown.
const WRONG_SHEETS: usize = 4;
/// Longer side of a shown drawing, pixels.
const SHEET_PX: u32 = 1600;
/// Lines shown of a list.
const LINES: usize = 200;
/// Colours of marks on drawings with mistakes: hit by nothing, missed.
const WRONG: [u8; 3] = [214, 39, 40];
const MISSED: [u8; 3] = [31, 119, 180];

/// What the section tells.
pub struct Told<'a> {
    pub set: &'a AnnotationSet,
    pub settings: &'a Settings,
    pub info: &'a DetectorInfo,
    pub evaluation: Option<&'a Evaluation>,
    pub tiles: usize,
}

pub fn section(told: &Told<'_>, ctx: &Context) -> Result<Section, StageError> {
    let set = told.set;
    let legend = Legend::new(set.classes.iter().map(|c| (c.name.as_str(), c.color)));
    let mut s = Section::new("infer", "Predictions");
    if let Some(e) = told.evaluation {
        s.headline = vec![
            Headline::new("COCO AP50", number::maybe(e.coco.ap50, 3)),
            Headline::new("COCO AP", number::maybe(e.coco.ap, 3)),
            Headline::new("F1", number::maybe(e.operating_point.all.f1, 3)),
        ];
    }
    let boxes = set.box_count();
    let tone = if boxes == 0 { Tone::Warn } else { Tone::Plain };
    s.headline.push(Headline::toned("Objects found", number::count(boxes), tone));
    let with = set.images.iter().filter(|i| !i.annotations.is_empty()).count();
    s.headline.push(Headline::new("Images with objects", format!("{with} of {}", set.images.len())));
    if !set.skipped.is_empty() {
        s.headline.push(Headline::toned("Images left out", number::count(set.skipped.len()), Tone::Warn));
    }
    let i = told.info;
    s.push(facts([
        ("detector", format!("{0}, input {1} x {1}, on {2} ({3})", i.network, i.input, i.device, i.provider)),
        ("weights", i.model.chars().take(12).collect()),
        ("confidence from", number::fixed(told.settings.conf, 3)),
        ("inputs of the network", number::count(told.tiles)),
    ]));
    s.push(classes(told));
    if let Some(e) = told.evaluation {
        measured(&mut s, e, told, &legend, ctx)?;
    }
    if !set.skipped.is_empty() {
        s.push(h3("Images left out"));
        s.push(list(set.skipped.iter().take(LINES).map(|k| format!("{}: {}", k.image, k.reason))));
    }
    let shown = drawings(told, &legend, ctx)?;
    if !shown.is_empty() {
        s.push(h3("Drawings with the most objects"));
        s.push(figures(Grid::Wide, shown));
    }
    Ok(s)
}

fn classes(told: &Told<'_>) -> Html {
    let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for a in told.set.images.iter().flat_map(|i| &i.annotations) {
        scores.entry(&a.class).or_default().extend(a.score.map(Score::get));
    }
    let columns = [
        Column::text("Class"),
        Column::number("Objects"),
        Column::number("Mean confidence"),
        Column::number("Lowest confidence"),
    ];
    let mut table = Table::new("Objects of each class", columns);
    for class in &told.set.classes {
        let found = scores.get(class.name.as_str()).map_or(&[][..], Vec::as_slice);
        let mean = (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64);
        let lowest = found.iter().copied().min_by(f64::total_cmp);
        table.row([
            Cell::of(class_name(&class.name, class.color)),
            Cell::count(found.len()),
            Cell::maybe(mean, 2),
            Cell::maybe(lowest, 2),
        ]);
    }
    table.into()
}

fn measured(
    s: &mut Section,
    e: &Evaluation,
    told: &Told<'_>,
    legend: &Legend,
    ctx: &Context,
) -> Result<(), StageError> {
    s.push(h3("Against the truth"));
    s.push(note(format!(
        "{}, {}. AP as COCO defines it (equal to pycocotools). Precision, recall and F1 at confidence {} and IoU {}.",
        number::counted(e.images, "picture", "pictures"),
        number::counted(e.truth, "true object", "true objects"),
        number::fixed(e.operating_point.conf, 3),
        number::fixed(e.operating_point.iou, 2),
    )));
    s.push(list(e.notes.iter().cloned()));
    let columns = ["True", "AP50", "AP", "Precision", "Recall", "F1", "False positives", "Missed"].map(Column::number);
    let mut table = Table::new("Each class against the truth", std::iter::once(Column::text("Class")).chain(columns));
    let all = &e.operating_point.all;
    let total = ("all".to_owned(), e.truth, e.coco.ap50, e.coco.ap, all);
    let each = e.coco.per_class.iter().zip(&e.operating_point.per_class);
    let each = each.map(|(ap, counts)| (ap.class.clone(), ap.truth, ap.ap50, ap.ap, counts));
    for (class, truth, ap50, ap, counts) in std::iter::once(total).chain(each) {
        table.row([
            Cell::of(class),
            Cell::count(truth),
            Cell::maybe(ap50, 3),
            Cell::maybe(ap, 3),
            Cell::maybe(counts.precision, 3),
            Cell::maybe(counts.recall, 3),
            Cell::maybe(counts.f1, 3),
            Cell::count(counts.false_positives),
            Cell::count(counts.false_negatives),
        ]);
    }
    s.push(table);
    let names: Vec<String> = e.classes.iter().cloned().chain(["background".into()]).collect();
    let counts: Vec<Vec<f64>> = e.confusion.counts.iter().map(|row| row.iter().map(|&n| n as f64).collect()).collect();
    s.push(details("Confusion matrix", matrix("Confusion matrix", "predicted", "true", &names, &names, &counts)));
    if e.mistakes.is_empty() {
        return Ok(());
    }
    let mut worst: Vec<&Mistakes> = e.mistakes.iter().collect();
    worst.sort_by_key(|m| std::cmp::Reverse(m.false_positives.len() + m.false_negatives.len()));
    s.push(h3("Mistakes"));
    s.push(mistakes(&e.mistakes));
    s.push(note("Red: hits nothing. Blue, broken: missed. The number at a box is its class, named below the picture."));
    let images = ctx.manifest("images")?;
    let mut shown = Vec::new();
    for m in worst.into_iter().take(WRONG_SHEETS) {
        ctx.check()?;
        let Some(blob) = images.blob(&m.image) else { continue };
        let (mut small, scale) = draw::thumbnail(&pixels(blob, told.settings, ctx)?, SHEET_PX);
        let wrong = m.false_positives.iter().map(|f| Mark::new(f.bbox, WRONG, legend.tag(&f.class)));
        let missed = m.false_negatives.iter().map(|f| Mark::new(f.bbox, MISSED, legend.tag(&f.class)).dashed());
        draw::marks(&mut small, &wrong.chain(missed).map(|mark| mark.scaled(scale)).collect::<Vec<_>>());
        let mut caption = Html::new();
        caption.push(el("b").child(&m.image));
        caption.push(format!(" · {} hit nothing, {} missed", m.false_positives.len(), m.false_negatives.len()));
        let all = m.false_positives.iter().map(|f| &f.class).chain(m.false_negatives.iter().map(|f| &f.class));
        caption.push(legend.below(all.map(String::as_str)));
        shown.push(figure(&small, &m.image, caption)?);
    }
    s.push(figures(Grid::Wide, shown));
    Ok(())
}

/// Every mistake as a line.
fn mistakes(all: &[Mistakes]) -> Html {
    let columns = ["Image", "Mistake", "Class", "Why"].map(Column::text);
    let columns = columns.into_iter().chain([Column::number("Confidence")]);
    let mut table = Table::new("False positives and false negatives", columns);
    let count: usize = all.iter().map(|m| m.false_positives.len() + m.false_negatives.len()).sum();
    'rows: for m in all {
        let wrong = m.false_positives.iter().map(|f| ("hits nothing", &f.class, &f.why, Some(f.score)));
        let missed = m.false_negatives.iter().map(|f| ("missed", &f.class, &f.why, None));
        for (kind, class, why, score) in wrong.chain(missed) {
            if table.len() == LINES {
                break 'rows;
            }
            table.row([
                Cell::of(&m.image),
                Cell::of(kind),
                Cell::of(class),
                Cell::of(reason(why)),
                Cell::maybe(score, 2),
            ]);
        }
    }
    let mut out = details(number::counted(count, "mistake", "mistakes"), table);
    if count > LINES {
        out.push(note(format!("... and {} more, in evaluation.json", count - LINES)));
    }
    out
}

fn reason(why: &Why) -> String {
    match why {
        Why::Duplicate => "found twice".into(),
        Why::WrongClass { other } => format!("taken for, or instead of, {other}"),
        Why::PoorBox { iou } => format!("box lies badly (IoU {iou:.2})"),
        Why::LowScore { score } => format!("found, but only with confidence {score:.2}"),
        Why::Nothing => "nothing there".into(),
    }
}

fn drawings(told: &Told<'_>, legend: &Legend, ctx: &Context) -> Result<Vec<Figure>, StageError> {
    let images = ctx.manifest("images")?;
    let mut order: Vec<&ImageAnnotations> = told.set.images.iter().filter(|i| !i.annotations.is_empty()).collect();
    order.sort_by(|a, b| b.annotations.len().cmp(&a.annotations.len()).then_with(|| a.image.cmp(&b.image)));
    let mut shown = Vec::new();
    for image in order.into_iter().take(SHEETS) {
        ctx.check()?;
        let Some(blob) = images.blob(&image.image) else { continue };
        let (mut small, scale) = draw::thumbnail(&pixels(blob, told.settings, ctx)?, SHEET_PX);
        let mark = |a: &Annotation| Mark::new(a.bbox, legend.color(&a.class), legend.tag(&a.class)).scaled(scale);
        draw::marks(&mut small, &image.annotations.iter().map(mark).collect::<Vec<_>>());
        let classes = image.annotations.iter().map(|a| a.class.as_str());
        let caption = legend.caption(&image.image, ["object", "objects"], classes);
        shown.push(figure(&small, &image.image, caption)?);
    }
    Ok(shown)
}

fn figure(picture: &image::RgbImage, name: &str, caption: Html) -> Result<Figure, StageError> {
    let encoded = draw::jpeg(picture).map_err(|e| StageError::failed(format!("encoding `{name}`"), e))?;
    Ok(Figure::new(encoded, format!("{name} with boxes"), caption))
}
