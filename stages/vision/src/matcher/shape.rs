//! A template made ready for matching: its ink, its sample points, its hull.
//!
//! Owns what a template is at one size. What in its picture is the symbol is decided in `hygiene`; poses and windows
//! are made from a shape elsewhere.

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma};

use super::blank;
use super::hull::Hull;
use super::hygiene::{Clean, MUCH_REMOVED, clean};
use super::ink::{Ink, distance, otsu};
use super::simd::Cloud;
use super::verify::Dense;
use super::{MatcherError, Role, Template};

/// Paper put around the symbol, pixels: room for gradients and for the margin of the hull.
const PAD: usize = 6;
/// How far beyond the template's picture the paper is taken to go on, pixels of the picture.
const KNOWN_BEYOND: i64 = 2;
/// Longest side of a prepared template, pixels; larger templates are reduced to it.
const MAX_SIDE: f32 = 200.0;
/// Most ink points that are kept.
const MAX_POINTS: usize = 220;
/// Points of the quick first refinement.
const QUICK_POINTS: usize = 64;
/// Most pixels within the hull where foreign ink is looked for.
const MAX_SAMPLES: usize = 1600;
/// Margin around the hull in which foreign ink counts, pixels.
const HULL_MARGIN: f32 = 3.0;
/// Sectors a side of the grid in which coverage is also measured locally.
const SECTORS: usize = 4;
/// Fewest points that make a sector worth judging.
const MIN_SECTOR_POINTS: usize = 6;
/// Ink pixels below which a template says too little.
const POOR_INK: usize = 40;
/// A sector number that stands for none.
pub(super) const NO_SECTOR: u8 = u8::MAX;

/// An ink pixel of a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Offset from the centre, pixels.
    pub at: [f32; 2],
    /// Direction of the stroke as a double-angle unit vector; zero where there is none.
    pub orientation: [f32; 2],
    /// Sector number, or [`NO_SECTOR`].
    pub sector: u8,
}

/// The symbol's picture with [`PAD`] pixels around it, row by row.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub width: usize,
    pub height: usize,
    /// 0 (paper) to 255 (ink), not smoothed.
    pub darkness: Vec<u8>,
    /// How much is known about a pixel, 0..=255.
    pub weight: Vec<u8>,
    /// 1 inside an outline that holds text.
    pub text: Vec<u8>,
    /// Where the shape's centre lies, pixels from the picture's corner.
    pub centre: [f32; 2],
}

impl Picture {
    /// Where the middle of a pixel is from the shape's centre.
    pub fn offset(&self, pixel: usize) -> [f32; 2] {
        let at = [pixel % self.width, pixel / self.width];
        std::array::from_fn(|k| at[k] as f32 + 0.5 - self.centre[k])
    }
}

/// A prepared template.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub class: String,
    pub name: String,
    pub role: Role,
    /// Original pixels per pixel of this shape (1 unless the template was resized).
    pub reduction: f32,
    /// All ink pixels of the symbol, without writing in it, as offsets from the centre.
    pub ink: Vec<[f32; 2]>,
    /// Length of the symbol's strokes, pixels.
    pub length: f32,
    /// Pixels that say nothing about the symbol (don't care, or writing), as offsets from the centre.
    pub ignored: Vec<[f32; 2]>,
    pub points: Vec<Point>,
    /// Where the points are.
    pub cloud: Cloud,
    /// Some of the points, spread over the shape, for the first refinement.
    pub quick: Cloud,
    pub sectors: usize,
    /// Around all ink.
    pub hull: Hull,
    /// Some of the pixels within the hull where foreign ink counts: all but text and what is not known.
    pub care: Cloud,
    /// Distance of each to the nearest ink, text included, pixels.
    pub care_distances: Vec<f32>,
    /// Pixels of the shape that one of them stands for.
    pub care_area: f32,
    /// For the dense comparison.
    pub dense: Dense,
    pub picture: Picture,
    /// The ink's box, as offsets from the centre: left, top, right, bottom.
    pub extent: [f32; 4],
    /// Of the circle about the centre that holds all ink, pixels.
    pub diameter: f32,
    /// The box that a match stands for, the same way: the ink's box, or the cut-out that a person made.
    pub frame: [f32; 4],
    /// What the user should know about the template.
    pub notes: Vec<String>,
}

impl Shape {
    /// Prepares a template at `size` times its own size, or smaller where that is large; a template without ink is an
    /// error.
    pub fn of(template: &Template, size: f32) -> Result<Self, MatcherError> {
        Self::of_symbol(template, &clean(template)?, size)
    }

    /// The same of the symbol that was found in a template.
    pub fn of_symbol(template: &Template, clean: &Clean, size: f32) -> Result<Self, MatcherError> {
        let [x0, y0, x1, y1] = clean.bounds;
        let factor = size.min(MAX_SIDE / (x1 - x0).max(y1 - y0) as f32);
        let (picture, ink) = render(clean, factor).ok_or_else(|| MatcherError::BlankTemplate {
            name: template.name.clone(),
            class: template.class.clone(),
        })?;
        let (w, h) = (ink.width, ink.height);
        let offset = |i: usize| picture.offset(i);
        let where_mask = |want: &dyn Fn(usize) -> bool| (0..w * h).filter(|&i| want(i)).collect::<Vec<_>>();
        let text = |i: usize| picture.text[i] == 1;
        let known = |i: usize| picture.weight[i] >= 128;

        let ink_at = where_mask(&|i| ink.mask[i] == 1 && !text(i));
        // Only what needs a person; `quality` tells the rest.
        let mut notes = Vec::new();
        let share = clean.removed_share();
        if share >= MUCH_REMOVED {
            notes.push(format!("{:.0} % of its ink was taken for parts of other things and left out", 100.0 * share));
        }
        if ink_at.len() < POOR_INK {
            notes.push(format!("only {} ink pixels: too small to be told from other ink", ink_at.len()));
        }
        let step = (ink_at.len() as f32 / MAX_POINTS as f32).max(1.0);
        let count = (ink_at.len() as f32 / step) as usize;
        let mut points: Vec<Point> = (0..count)
            .map(|k| {
                let i = ink_at[((k as f32 * step) as usize).min(ink_at.len() - 1)];
                let orientation = orientation(&ink.grey, w, h, (i % w) as i32, (i / w) as i32);
                Point { at: offset(i), orientation, sector: NO_SECTOR }
            })
            .collect();
        let inner = [x1 - x0, y1 - y0].map(|v| v as f32 * factor);
        let sectors = assign_sectors(&mut points, inner);
        let hull = Hull::of(where_mask(&|i| ink.mask[i] == 1).into_iter().map(offset));

        let far = distance(&ink.mask, w, h, 60);
        let inside = where_mask(&|i| known(i) && hull.contains(offset(i), HULL_MARGIN));
        let stride = inside.len().div_ceil(MAX_SAMPLES).max(1);
        let care: Vec<usize> = inside.into_iter().step_by(stride).filter(|&i| !text(i)).collect();
        let extent = [-0.5 * inner[0], -0.5 * inner[1], 0.5 * inner[0], 0.5 * inner[1]];
        let squares = ink_at.iter().map(|&i| offset(i)).map(|[x, y]| x * x + y * y);
        let radius = squares.fold(0.25, f32::max).sqrt();
        let middle = [x0 + x1, y0 + y1].map(|v| v as f32 / 2.0);
        let depths = blank::depths(&far, &picture.text, w, h);
        Ok(Self {
            class: template.class.clone(),
            name: template.name.clone(),
            role: template.role,
            reduction: 1.0 / factor,
            ignored: where_mask(&|i| !known(i) || text(i)).into_iter().map(offset).collect(),
            cloud: Cloud::of(points.iter().map(|p| p.at)),
            quick: Cloud::of(spread(&points, QUICK_POINTS).into_iter().map(|i| points[i].at)),
            ink: ink_at.iter().map(|&i| offset(i)).collect(),
            // A stroke has an edge on either side.
            length: edges(&ink.mask, w) as f32 / 2.0,
            care: Cloud::of(care.iter().map(|&i| offset(i))),
            care_distances: care.iter().map(|&i| f32::from(far[i]) / 3.0).collect(),
            care_area: stride as f32,
            dense: Dense::of(&picture, &depths, extent),
            points,
            sectors,
            hull,
            extent,
            diameter: 2.0 * radius,
            frame: std::array::from_fn(|k| (clean.frame[k] - middle[k % 2]) * factor),
            picture,
            notes,
        })
    }
}

/// The symbol at `factor` times its size with [`PAD`] pixels around it; `None` when its ink is lost at this size.
fn render(clean: &Clean, factor: f32) -> Option<(Picture, Ink)> {
    let pad = (PAD as f32 / factor).ceil() as i64;
    let [x0, y0, x1, y1] = clean.bounds.map(|v| v as i64);
    let (w, h) = ((x1 - x0 + 2 * pad) as u32, (y1 - y0 + 2 * pad) as u32);
    let side = |v: u32| ((v as f32 * factor).round() as u32).max(1);
    let plane = |value: &dyn Fn(usize, i64) -> u8| {
        let full = GrayImage::from_fn(w, h, |x, y| {
            let (x, y) = (i64::from(x) + x0 - pad, i64::from(y) + y0 - pad);
            let (u, v) = (x.clamp(0, clean.width as i64 - 1), y.clamp(0, clean.height as i64 - 1));
            Luma([value(v as usize * clean.width + u as usize, (x - u).abs().max((y - v).abs()))])
        });
        if factor == 1.0 {
            return full.into_raw();
        }
        imageops::resize(&full, side(w), side(h), FilterType::Triangle).into_raw()
    };
    let on = |condition: bool| 255 * u8::from(condition);
    let weight = plane(&|i, beyond| on(clean.care[i] == 1 && beyond <= KNOWN_BEYOND));
    let text =
        plane(&|i, beyond| on(clean.text[i] == 1 && beyond == 0)).into_iter().map(|v| u8::from(v >= 128)).collect();
    let darkness = plane(&|i, beyond| if beyond == 0 { clean.darkness[i] } else { 0 });
    let grey: Vec<u8> = darkness.iter().map(|&d| 255 - d).collect();
    let mask: Vec<u8> = if factor == 1.0 {
        plane(&|i, beyond| u8::from(clean.ink[i] == 1 && beyond == 0))
    } else {
        let (threshold, _) = otsu(&grey);
        grey.iter().zip(&weight).map(|(&g, &known)| u8::from(g <= threshold && known >= 128)).collect()
    };
    let (width, height) = (side(w) as usize, side(h) as usize);
    if !mask.contains(&1) {
        return None;
    }
    let centre = [width as f32 / 2.0, height as f32 / 2.0];
    Some((Picture { width, height, darkness, weight, text, centre }, Ink { width, height, mask, grey, origin: [0; 2] }))
}

/// Direction of the stroke at a pixel: the double-angle vector of the structure tensor of a 5x5 window, of length 1,
/// or zero where there is no clear gradient or the window leaves the picture.
pub(super) fn orientation(grey: &[u8], w: usize, h: usize, x: i32, y: i32) -> [f32; 2] {
    /// Below this the gradients of the window are noise.
    const MIN_ENERGY: f32 = 2000.0;
    if x < 3 || y < 3 || x + 3 >= w as i32 || y + 3 >= h as i32 {
        return [0.0; 2];
    }
    // Rows of a fixed length keep the checks of bounds out of the loops.
    let corner = (y - 3) as usize * w + (x - 3) as usize;
    let rows: [&[u8; 7]; 7] =
        std::array::from_fn(|v| grey[corner + v * w..].first_chunk().expect("the window lies inside the picture"));
    let (mut a, mut b) = (0i32, 0i32);
    for v in 1..6 {
        for u in 1..6 {
            let gx = i32::from(rows[v][u + 1]) - i32::from(rows[v][u - 1]);
            let gy = i32::from(rows[v + 1][u]) - i32::from(rows[v - 1][u]);
            a += gx * gx - gy * gy;
            b += 2 * gx * gy;
        }
    }
    let (a, b) = (a as f32, b as f32);
    let n = (a * a + b * b).sqrt();
    if n < MIN_ENERGY { [0.0; 2] } else { [a / n, b / n] }
}

/// Neighbours in rows and columns of which one is ink and one is not.
fn edges(mask: &[u8], width: usize) -> usize {
    let across = mask.chunks(width).map(|row| row.windows(2).filter(|p| p[0] != p[1]).count()).sum::<usize>();
    across + mask.iter().zip(&mask[width..]).filter(|(a, b)| a != b).count()
}

/// Gives every point the number of its cell in a grid over the ink's box; thinly filled cells get none. Returns how
/// many numbers were given.
fn assign_sectors(points: &mut [Point], [w, h]: [f32; 2]) -> usize {
    let cell = |p: &Point| {
        let at = |v: f32, side: f32| (((v / side + 0.5) * SECTORS as f32) as usize).min(SECTORS - 1);
        at(p.at[1], h) * SECTORS + at(p.at[0], w)
    };
    let mut counts = [0; SECTORS * SECTORS];
    for p in points.iter() {
        counts[cell(p)] += 1;
    }
    let mut numbers = [NO_SECTOR; SECTORS * SECTORS];
    let mut used = 0;
    for (number, &count) in numbers.iter_mut().zip(&counts) {
        if count >= MIN_SECTOR_POINTS {
            *number = used;
            used += 1;
        }
    }
    for p in points {
        p.sector = numbers[cell(p)];
    }
    usize::from(used)
}

/// Farthest-point sampling: at most `n` points that leave no part of the shape out.
fn spread(points: &[Point], n: usize) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(n);
    let mut gap = vec![f32::MAX; points.len()];
    let mut next = 0;
    while chosen.len() < n.min(points.len()) {
        chosen.push(next);
        let last = points[next].at;
        let mut widest = -1.0;
        for (i, p) in points.iter().enumerate() {
            gap[i] = gap[i].min((p.at[0] - last[0]).powi(2) + (p.at[1] - last[1]).powi(2));
            if gap[i] > widest {
                (widest, next) = (gap[i], i);
            }
        }
    }
    chosen
}
