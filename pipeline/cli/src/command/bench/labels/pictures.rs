//! Pictures of what went wrong, many on a page, because people see at once why.
//!
//! Owns the layout of the pages. Refuses to decide what is a mistake.

use datasets::eval::{Mistakes, Why};
use datasets::{Annotation, BBox, Pixels};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use report::draw::{Mark, crop, marks, text};
use vision::matcher::Template;

/// Pixels of one mistake on the page, and how many there are beside and above each other.
const TILE: (u32, u32) = (320, 250);
const COLUMNS: usize = 5;
const ROWS: usize = 8;
/// Side of the part of the sheet that is shown, and of a template.
const SIDE: u32 = 210;
const TEMPLATE_SIDE: u32 = 84;
/// Surroundings of a mistake, in its own longer sides.
const CONTEXT: f64 = 0.7;

const TRUTH: [u8; 3] = [0, 140, 60];
const FOUND: [u8; 3] = [210, 30, 30];
const CANDIDATE: [u8; 3] = [40, 90, 220];

/// One mistake: what to say, where it is, which classes' templates help to understand it.
struct Tile<'a> {
    words: String,
    bbox: BBox<Pixels>,
    classes: Vec<&'a str>,
}

/// Pages of mistakes on a sheet. Truth is green and broken, boxes are red, what lies below the threshold blue; beside
/// each are the templates of the classes it is about.
pub fn pages(
    sheet: &RgbImage,
    mistakes: &Mistakes,
    truth: &[Annotation],
    found: &[Annotation],
    templates: &[Template],
) -> Vec<RgbImage> {
    let missed = mistakes.false_negatives.iter().map(|m| {
        let (words, other) = match &m.why {
            Why::WrongClass { other } => (format!("{} taken for {other}", m.class), Some(other.as_str())),
            Why::PoorBox { iou } => (format!("{} badly located, IoU {iou:.2}", m.class), None),
            Why::LowScore { .. } => (format!("{} below the threshold", m.class), None),
            _ => (format!("{} missed", m.class), None),
        };
        Tile { words, bbox: m.bbox, classes: std::iter::once(m.class.as_str()).chain(other).collect() }
    });
    // A box that took the place of a truth is shown with that truth.
    let lonely = mistakes.false_positives.iter().filter(|f| matches!(f.why, Why::Nothing | Why::Duplicate));
    let wrong = lonely.map(|f| {
        let words = if f.why == Why::Nothing { "nothing there" } else { "one too many" };
        Tile { words: format!("{}: {words}", f.class), bbox: f.bbox, classes: vec![&f.class] }
    });
    let tiles: Vec<Tile> = missed.chain(wrong).collect();
    let drawn: Vec<RgbImage> = tiles.iter().map(|t| tile(sheet, t, truth, found, templates)).collect();
    drawn.chunks(COLUMNS * ROWS).map(page).collect()
}

fn page(tiles: &[RgbImage]) -> RgbImage {
    let columns = tiles.len().min(COLUMNS) as u32;
    let rows = tiles.len().div_ceil(COLUMNS) as u32;
    let mut out = RgbImage::from_pixel(columns * TILE.0, rows * TILE.1, Rgb([255; 3]));
    for (i, t) in tiles.iter().enumerate() {
        let (x, y) = ((i % COLUMNS) as i64, (i / COLUMNS) as i64);
        imageops::replace(&mut out, t, x * i64::from(TILE.0), y * i64::from(TILE.1));
    }
    out
}

fn tile(sheet: &RgbImage, t: &Tile, truth: &[Annotation], found: &[Annotation], templates: &[Template]) -> RgbImage {
    let mut out = RgbImage::from_pixel(TILE.0 - 6, TILE.1 - 6, Rgb([238, 238, 232]));
    text(&mut out, 4, 3, &t.words, [0; 3], 1);
    if let Some(mut part) = crop(sheet, t.bbox, CONTEXT, SIDE) {
        let near = |a: &&Annotation| a.bbox.intersection_area(&t.bbox) > 0.0;
        let real = truth.iter().filter(near).map(|a| Mark::new(part.place(a.bbox), TRUTH, &*a.class).dashed());
        let boxes = found.iter().filter(near).map(|a| {
            let score = a.score.map_or(1.0, f64::from);
            let color = if score >= a.provenance.threshold.unwrap_or(0.0) { FOUND } else { CANDIDATE };
            Mark::new(part.place(a.bbox), color, format!("{} {score:.2}", a.class))
        });
        let all: Vec<Mark> = real.chain(boxes).collect();
        marks(&mut part.picture, &all);
        imageops::replace(&mut out, &part.picture, 4, 24);
    }
    let x = i64::from(SIDE) + 12;
    for (class, row) in t.classes.iter().zip(0..) {
        let y = 24 + row * (i64::from(TEMPLATE_SIDE) + 20);
        text(&mut out, x as u32, y as u32, class, [0; 3], 1);
        if let Some(template) = templates.iter().find(|t| t.class == *class) {
            let (w, h) = template.image.dimensions();
            let scale = (f64::from(TEMPLATE_SIDE) / f64::from(w.max(h).max(1))).min(4.0);
            let side = |v: u32| ((f64::from(v) * scale).round() as u32).max(1);
            let shown = imageops::resize(&template.image, side(w), side(h), FilterType::Triangle);
            let mut paper = RgbImage::from_pixel(side(w), side(h), Rgb([255; 3]));
            for (p, q) in paper.pixels_mut().zip(shown.pixels()) {
                let a = u32::from(q[3]);
                *p = Rgb([0, 1, 2].map(|c| ((u32::from(q[c]) * a + 255 * (255 - a)) / 255) as u8));
            }
            imageops::replace(&mut out, &paper, x, y + 16);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use datasets::eval::{FalseNegative, FalsePositive};

    use super::*;

    #[test]
    fn every_mistake_has_its_place() {
        let sheet = RgbImage::from_pixel(400, 300, Rgb([255; 3]));
        let bbox = BBox::new(50.0, 50.0, 90.0, 80.0);
        let miss = FalseNegative { class: "a".into(), bbox, why: Why::WrongClass { other: "b".into() } };
        let spare = FalsePositive { class: "b".into(), bbox, score: 0.5, why: Why::WrongClass { other: "a".into() } };
        let m = Mistakes {
            image: "s".into(),
            true_positives: 0,
            false_positives: vec![spare],
            false_negatives: vec![miss; COLUMNS * ROWS + 1],
        };
        let pages = pages(&sheet, &m, &[Annotation::new("a", bbox)], &[], &[]);
        let sizes: Vec<(u32, u32)> = pages.iter().map(RgbImage::dimensions).collect();
        assert_eq!(sizes, [(TILE.0 * COLUMNS as u32, TILE.1 * ROWS as u32), TILE]);
        assert!(pages[0].pixels().any(|p| p.0 == TRUTH));
    }
}
