//! Drawings too large to be held in all the forms that the search reads: they are searched tile by tile.
//!
//! Owns what is decided once for a whole drawing (what is ink, the usual levels and stroke), the tiles and what counts
//! in which of them, so that matches do not depend on where tiles end. Refuses to own the search of a tile and the
//! choice between hypotheses, which sees those of all tiles together.
//!
//! Tiles follow each other and each is searched on all cores: memory is that of one tile, about 8 bytes a pixel of
//! [`CORE`] and its margins, whatever the drawing's size and the number of cores.

use std::ops::Range;

use image::GrayImage;
use rayon::prelude::*;

use super::bank::{CELLS, DIAMETER_CELLS, Variant};
use super::ink::{Ink, Split, Tally, Usual};
use super::scan;
use super::score::Sheet;
use super::search::{self, Hypothesis, Query};
use super::surround;

/// Pixels from which a drawing is searched by tiles; below that, the margins of tiles cost more than their memory is
/// worth. A sheet of 7000 x 5000 pixels is searched whole.
const LARGE: usize = 48_000_000;
/// Side of a tile without its margins, pixels.
const CORE: usize = 3072;
/// How far outside of a tile's core candidates are followed, pixels: they move, and they stand for one another.
const FOLLOWED: f32 = 64.0;
/// How far outside of its core a tile's hypotheses count, pixels: one at the border may be a hair's breadth outside of
/// it by either tile's numbers. What two tiles give twice, the choice between hypotheses leaves once.
const SHARED: f32 = 0.5;
/// Room around a symbol that smoothing, distances and gradients read, pixels.
const SMOOTHED: f32 = 16.0;
/// Rows that are counted together.
const ROWS: usize = 256;
/// Pixels up to which a drawing is not divided for the vote on its scale.
const UNDIVIDED: usize = 2_500_000;
/// About the side of the parts that vote, pixels.
const WINDOW: usize = 720;
/// Of the windows, sorted by their ink, one in this many is busy: sheets are mostly empty.
const BUSY: usize = 4;

/// Columns and rows.
type Area = [Range<usize>; 2];

/// A drawing as the search reads it.
pub(super) enum View<'a> {
    Whole(Box<Sheet>),
    Tiled(Tiled<'a>),
}

impl<'a> View<'a> {
    /// `None` when there is no ink.
    pub fn of(drawing: &'a GrayImage) -> Option<Self> {
        if drawing.as_raw().len() > LARGE {
            return Tiled::of(drawing, CORE).map(Self::Tiled);
        }
        let ink = Ink::of_drawing(drawing);
        (!ink.is_empty()).then(|| Self::Whole(Box::new(Sheet::of(ink))))
    }

    /// Everything that fits within the limits of each shape, in a fixed order.
    pub fn hypotheses(&self, query: &Query<'_>) -> Vec<Hypothesis> {
        match self {
            Self::Whole(sheet) => search::hypotheses(sheet, query),
            Self::Tiled(tiled) => tiled.hypotheses(query),
        }
    }

    /// Whether parts of the drawing vote on its scale instead of all of it.
    pub fn is_divided(&self) -> bool {
        !matches!(self, Self::Whole(sheet) if sheet.ink.mask.len() <= UNDIVIDED)
    }

    /// Parts of the drawing, at most so many, spread over those with much ink.
    pub fn busy_parts(&self, most: usize) -> Vec<Sheet> {
        match self {
            Self::Whole(sheet) => {
                let ink = &sheet.ink;
                let count = |[columns, rows]: &Area| {
                    let row = |y: usize| &ink.mask[y * ink.width..][columns.clone()];
                    rows.clone().map(|y| row(y).iter().map(|&v| u32::from(v)).sum::<u32>() as usize).sum()
                };
                let cut = |[c, r]: Area| Sheet::of(ink.cut(c.start, r.start, c.len(), r.len()));
                busy([ink.width, ink.height], most, count).into_iter().map(cut).collect()
            }
            Self::Tiled(tiled) => tiled.busy_parts(most),
        }
    }
}

/// A drawing of which a tile at a time is looked at.
pub(super) struct Tiled<'a> {
    drawing: &'a GrayImage,
    split: Split,
    usual: Usual,
    /// Side of a tile without its margins, pixels.
    core: usize,
}

impl<'a> Tiled<'a> {
    /// Looks at the whole drawing once; `None` when there is no ink.
    pub fn of(drawing: &'a GrayImage, core: usize) -> Option<Self> {
        let split = Split::of(drawing.as_raw());
        let (width, height) = (drawing.width() as usize, drawing.height() as usize);
        let count = |i: usize| {
            let rows = i * ROWS..((i + 1) * ROWS).min(height);
            // Specks of the row above the first one take another row.
            let (top, bottom) = (rows.start.saturating_sub(2), (rows.end + 1).min(height));
            let ink = part(drawing, &split, [0..width, top..bottom]);
            Tally::of(&ink, rows.start - top..rows.end - top)
        };
        let tally = (0..height.div_ceil(ROWS)).into_par_iter().map(count).reduce(Tally::default, Tally::plus);
        (tally.area() > 0).then(|| Self { drawing, split, usual: tally.usual(), core })
    }

    fn sides(&self) -> [usize; 2] {
        [self.drawing.width() as usize, self.drawing.height() as usize]
    }

    fn busy_parts(&self, most: usize) -> Vec<Sheet> {
        let count = |area: &Area| {
            rows_of(self.drawing, area).map(|row| row.iter().filter(|&&v| self.split.is_ink(v)).count()).sum()
        };
        let cut = |area: Area| Sheet::with(part(self.drawing, &self.split, area), &self.usual);
        busy(self.sides(), most, count).into_iter().map(cut).collect()
    }

    fn hypotheses(&self, query: &Query<'_>) -> Vec<Hypothesis> {
        let margin = margin(query);
        let [columns, rows] = self.sides().map(|side| side.div_ceil(self.core));
        let mut found = Vec::new();
        for i in 0..columns * rows {
            let tile = [i % columns, i / columns].map(|k| k * self.core..(k + 1) * self.core);
            let area: Area = std::array::from_fn(|k| {
                tile[k].start.saturating_sub(margin)..(tile[k].end + margin).min(self.sides()[k])
            });
            let origin = [area[0].start, area[1].start];
            let ink = part(self.drawing, &self.split, area);
            if ink.is_empty() {
                continue;
            }
            let mut sheet = Sheet::with(ink, &self.usual);
            // What lies beyond the drawing's border belongs to the tile at the border.
            let grown = |by: f32| -> [[f32; 2]; 2] {
                std::array::from_fn(|k| {
                    let [low, high] = [tile[k].start, tile[k].end].map(|v| v as f32 - origin[k] as f32);
                    let low = if tile[k].start == 0 { f32::NEG_INFINITY } else { low - by };
                    let high = if tile[k].end >= self.sides()[k] { f32::INFINITY } else { high + by };
                    [low, high]
                })
            };
            sheet.wanted = grown(FOLLOWED);
            let hypotheses = search::hypotheses(&sheet, query);
            sheet.wanted = grown(SHARED);
            found.extend(hypotheses.into_iter().filter(|h| sheet.wants(h.pose.at)).map(|h| moved(h, origin)));
        }
        found
    }
}

/// The windows of a drawing of some width and height with much ink by `count`; at most so many, spread over those.
fn busy(sides: [usize; 2], most: usize, count: impl Fn(&Area) -> usize + Sync) -> Vec<Area> {
    let windows = sides.map(|side| ((side + WINDOW / 2) / WINDOW).max(1));
    let area = |i: usize| -> Area {
        let place = [i % windows[0], i / windows[0]];
        let edge = |k: usize, place: usize| sides[k] * place / windows[k];
        std::array::from_fn(|k| edge(k, place[k])..edge(k, place[k] + 1))
    };
    let all = windows[0] * windows[1];
    let mut areas: Vec<(usize, Area)> = (0..all).into_par_iter().map(area).map(|a| (count(&a), a)).collect();
    // Stable, so that equal windows stay in the order of the drawing.
    areas.sort_by_key(|(ink, _)| std::cmp::Reverse(*ink));
    let busy = all.div_ceil(BUSY).max(most.min(all));
    areas.into_iter().take(busy).step_by(busy.div_ceil(most)).map(|(_, area)| area).collect()
}

/// From a tile to its drawing.
fn moved(mut h: Hypothesis, origin: [usize; 2]) -> Hypothesis {
    for (k, v) in h.pose.at.iter_mut().chain(&mut h.bounds).enumerate() {
        *v += origin[k % 2] as f32;
    }
    h
}

/// How far a tile reaches beyond its core, pixels, so that all that is read about a place in the core is there.
fn margin(query: &Query<'_>) -> usize {
    /// A level's cells may be larger than the wanted scale asks for, and a pose may grow.
    const SLACK: f32 = 1.12;
    let reach = |v: &Variant| {
        let (shape, limits) = (&query.shapes[v.shape as usize], &query.limits[v.shape as usize]);
        let picture = &shape.picture;
        let [x, y] = picture.centre;
        let corner = x.max(picture.width as f32 - x).hypot(y.max(picture.height as f32 - y));
        // A window competes with those of the neighbouring blocks.
        let window = (CELLS / 2 + 2 * scan::BLOCK + 1) as f32 * v.diameter / DIAMETER_CELLS;
        let symbol = limits.scale[1] * shape.diameter * (0.5 * limits.stretch).exp();
        SLACK * limits.scale[1] * (corner * (0.5 * limits.stretch).exp()).max(window) + surround::reach(symbol)
    };
    (query.bank.iter().map(reach).fold(0.0, f32::max) + FOLLOWED + SMOOTHED).ceil() as usize
}

/// The ink of some columns and rows.
fn part(drawing: &GrayImage, split: &Split, area: Area) -> Ink {
    let [columns, rows] = &area;
    let mut levels = Vec::with_capacity(columns.len() * rows.len());
    rows_of(drawing, &area).for_each(|row| levels.extend_from_slice(row));
    Ink::of_part(levels, [columns.len(), rows.len()], [columns.start, rows.start], split)
}

fn rows_of<'d>(drawing: &'d GrayImage, [columns, rows]: &Area) -> impl Iterator<Item = &'d [u8]> {
    let (width, columns) = (drawing.width() as usize, columns.clone());
    rows.clone().map(move |y| &drawing.as_raw()[y * width + columns.start..y * width + columns.end])
}

#[cfg(test)]
mod tests {
    use image::{Luma, RgbaImage};

    use super::*;
    use crate::matcher::second;
    use crate::matcher::{Found, Match, Matcher, MatcherConfig, Role, ScaleBase, Template};

    /// Darkness of three symbols, 44 pixels a side.
    fn symbol(kind: u32, x: i32, y: i32) -> bool {
        let (u, v) = (x - 22, y - 22);
        let radius = f64::from(u * u + v * v).sqrt();
        let square = u.abs().max(v.abs());
        match kind {
            0 => (square - 18).abs() <= 1 || (square < 18 && (u - v).abs() <= 2),
            1 => {
                (radius - 19.0).abs() < 1.5
                    || (radius < 19.0 && v.abs() <= 1)
                    || (u.abs() <= 1 && (-19..0).contains(&v))
            }
            _ => (square <= 19 && (u.abs() - v.abs()).abs() <= 1) || (square <= 20 && square >= 19 && v.abs() < 20),
        }
    }

    fn template(kind: u32) -> Template {
        let image = RgbaImage::from_fn(44, 44, |x, y| {
            let level = if symbol(kind, x as i32, y as i32) { 20 } else { 245 };
            image::Rgba([level, level, level, 255])
        });
        Template { class: format!("kind {kind}"), name: format!("{kind}.png"), image, role: Role::Given, frame: None }
    }

    /// Symbols in rows that drift, so that they lie in all ways on tiles' borders, pipes, and noise.
    fn drawing(width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| {
            let noise = (x.wrapping_mul(0x9e37_79b9) ^ y.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35) >> 28;
            let (row, column) = (y / 79, (x + 13 * (y / 79)) / 91);
            let (u, v) = ((x + 13 * row) % 91, y % 79);
            let inside = u < 44 && v < 44 && symbol((row * 5 + column) % 3, u as i32, v as i32);
            let pipe = v == 60 || v == 61 || (u == 70 && row % 2 == 0);
            Luma([if inside || pipe { 30 + noise as u8 } else { 230 + noise as u8 }])
        })
    }

    fn found(matcher: &Matcher, drawing: &GrayImage, view: &View<'_>) -> Found {
        matcher.choose(matcher.search_in(drawing, view, second::WORTH))
    }

    fn alike(a: &Match, b: &Match) -> bool {
        // Places are rounded differently.
        let near = |p: f64, q: f64| (p - q).abs() < 0.05;
        let places = [(a.bbox.x0, b.bbox.x0), (a.bbox.y0, b.bbox.y0), (a.bbox.x1, b.bbox.x1), (a.bbox.y1, b.bbox.y1)];
        a.class == b.class
            && a.runner_up == b.runner_up
            && (a.score - b.score).abs() < 0.01
            && places.into_iter().all(|(p, q)| near(p, q))
    }

    #[test]
    fn tiles_find_what_the_whole_drawing_gives() {
        let drawing = drawing(900, 640);
        let templates: Vec<Template> = (0..3).map(template).collect();
        let matcher = Matcher::new(&templates, &MatcherConfig::default()).unwrap();
        let whole = found(&matcher, &drawing, &View::of(&drawing).unwrap());
        assert!(whole.matches.len() > 50, "{}", whole.matches.len());
        for core in [160, 257, 640] {
            let tiled = found(&matcher, &drawing, &View::Tiled(Tiled::of(&drawing, core).unwrap()));
            let (a, b) = (&whole.matches, &tiled.matches);
            assert_eq!(a.len(), b.len(), "{core}");
            for m in a {
                assert!(
                    b.iter().any(|n| alike(m, n)),
                    "{core}: {m:?}\nis not among {:?}",
                    b.iter().filter(|n| n.bbox.iou(&m.bbox) > 0.3).collect::<Vec<_>>()
                );
            }
            assert_eq!(whole.candidates.len(), tiled.candidates.len(), "{core}");
        }
    }

    #[test]
    fn what_is_usual_does_not_depend_on_the_bands_that_count_it() {
        let drawing = drawing(300, 700);
        let ink = Ink::of_drawing(&drawing);
        let whole = Tally::of(&ink, 0..ink.height).usual();
        assert_eq!(Tiled::of(&drawing, CORE).unwrap().usual, whole);
        let mut inverted = drawing;
        image::imageops::invert(&mut inverted);
        assert_eq!(Tiled::of(&inverted, CORE).unwrap().usual, whole);
    }

    #[test]
    fn a_tiled_drawing_has_a_scale() {
        let drawing = image::imageops::resize(&drawing(900, 640), 1350, 960, image::imageops::FilterType::Triangle);
        let templates: Vec<Template> = (0..3).map(template).collect();
        let config = MatcherConfig { scale_base: ScaleBase::Drawing, ..MatcherConfig::default() };
        let matcher = Matcher::new(&templates, &config).unwrap();
        let tiled = found(&matcher, &drawing, &View::Tiled(Tiled::of(&drawing, 500).unwrap()));
        assert!(tiled.matches.len() > 50, "{}", tiled.matches.len());
        assert!(tiled.matches.iter().all(|m| (m.scale / 1.5 - 1.0).abs() < 0.1));
    }

    #[test]
    fn blank_drawings_have_no_tiles() {
        assert!(Tiled::of(&GrayImage::from_pixel(400, 300, Luma([250])), 100).is_none());
    }
}
