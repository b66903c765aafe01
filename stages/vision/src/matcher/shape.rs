//! A template made ready for matching: its ink, its sample points, its hull.
//!
//! Owns template hygiene (polarity, transparency, fragments of neighbours, trimming). Poses and windows are made from
//! a shape elsewhere.

use image::{GrayImage, Luma, RgbaImage};

use super::hull::Hull;
use super::ink::{Ink, Polarity, contrast_grey, distance, otsu};
use super::{MatcherError, Role, Template};

/// Paper put around the trimmed template, pixels: room for gradients and for the margin of the hull.
const PAD: usize = 6;
/// Longest side of a prepared template, pixels; larger templates are reduced to it.
const MAX_SIDE: u32 = 200;
/// Most ink points that are kept.
const MAX_POINTS: usize = 220;
/// Points of the quick first refinement.
const QUICK_POINTS: usize = 64;
/// Most samples of the hull and of the grey comparison.
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

/// A pixel of the template's frame where foreign ink counts or grey levels are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Offset from the centre, pixels.
    pub at: [f32; 2],
    /// Distance to the template's nearest ink, pixels.
    pub distance: f32,
    /// Smoothed darkness of the template, 0..=255.
    pub darkness: f32,
}

/// A trimmed template as a picture.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub width: usize,
    pub height: usize,
    /// 0 (paper) to 255 (ink), not smoothed.
    pub darkness: Vec<u8>,
    /// 0 where nothing counts.
    pub weight: Vec<u8>,
    /// 1 where instances carry their own text.
    pub text: Vec<u8>,
    /// Where offsets count from, pixels.
    pub centre: [f32; 2],
}

/// A prepared template.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub class: String,
    pub name: String,
    pub role: Role,
    /// Original pixels per pixel of this shape (1 unless the template was resized).
    pub reduction: f32,
    /// All ink pixels as offsets from the centre.
    pub ink: Vec<[f32; 2]>,
    /// Don't-care pixels as offsets from the centre.
    pub ignored: Vec<[f32; 2]>,
    pub points: Vec<Point>,
    /// Indices into `points` spread over the shape, for the first refinement.
    pub quick: Vec<u32>,
    pub sectors: usize,
    pub hull: Hull,
    pub samples: Vec<Sample>,
    pub dense: super::verify::Dense,
    /// What the user should know about the template.
    pub notes: Vec<String>,
}

impl Shape {
    /// Prepares a template at `size` times its own size, or smaller where that is large; a template without ink is an
    /// error.
    pub fn of(template: &Template, size: f32) -> Result<Self, MatcherError> {
        let blank = || MatcherError::BlankTemplate { name: template.name.clone(), class: template.class.clone() };
        if template.image.width() == 0 || template.image.height() == 0 {
            return Err(blank());
        }
        let mut notes = Vec::new();
        let (grey, care) = flatten(&template.image);
        let (grey, care, reduction) = resize(grey, care, size);
        let (threshold, contrast) = otsu(grey.as_raw());
        let mut ink = Ink::split(&grey, threshold, contrast, polarity(&grey, threshold));
        for (m, &c) in ink.mask.iter_mut().zip(&care) {
            *m &= c;
        }
        let junk = remove_fragments(&mut ink);
        if junk > 0 {
            notes.push(format!("{junk} small pieces at the border were taken for parts of neighbours and left out"));
        }
        let (ink, care) = trim(&ink, &care).ok_or_else(blank)?;
        let (w, h) = (ink.width, ink.height);
        let (cx, cy) = (w as f32 / 2.0, h as f32 / 2.0);
        let offset = |i: usize| [(i % w) as f32 + 0.5 - cx, (i / w) as f32 + 0.5 - cy];
        let where_mask = |want: &dyn Fn(usize) -> bool| (0..w * h).filter(|&i| want(i)).collect::<Vec<_>>();

        let text = text_region(&ink.mask, w, h);
        let ink_at = where_mask(&|i| ink.mask[i] == 1 && text[i] == 0);
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
        let inner = [w - 2 * PAD, h - 2 * PAD];
        let sectors = assign_sectors(&mut points, inner);
        let ink_points: Vec<[f32; 2]> = ink_at.iter().map(|&i| offset(i)).collect();
        let hull = Hull::of(ink_points.iter().copied());

        let far = distance(&ink.mask, w, h, 60);
        let dark = ink.darkness();
        let inside = where_mask(&|i| care[i] == 1 && text[i] == 0 && hull.contains(offset(i), HULL_MARGIN));
        let stride = inside.len().div_ceil(MAX_SAMPLES).max(1);
        let samples = inside
            .iter()
            .step_by(stride)
            .map(|&i| Sample { at: offset(i), distance: f32::from(far[i]) / 3.0, darkness: f32::from(dark[i]) })
            .collect();
        let picture = Picture { width: w, height: h, darkness: ink.raw_darkness(), weight: care.clone(), text: text.clone(), centre: [cx, cy] };
        let dense = super::verify::Dense::of(&picture, &hull);
        let ignored = where_mask(&|i| care[i] == 0 || text[i] == 1).into_iter().map(offset).collect();
        Ok(Self {
            dense,
            class: template.class.clone(),
            name: template.name.clone(),
            role: template.role,
            reduction,
            ignored,
            quick: spread(&points, QUICK_POINTS),
            ink: ink_points,
            points,
            sectors,
            hull,
            samples,
            notes,
        })
    }
}

/// TEMPORARY: the interior of an outline that holds small components.
fn text_region(mask: &[u8], w: usize, h: usize) -> Vec<u8> {
    let mut out = vec![0u8; w * h];
    let pieces = components(mask, w, h);
    let total: usize = pieces.iter().map(Vec::len).sum();
    let mut label = vec![usize::MAX; w * h];
    for (k, p) in pieces.iter().enumerate() { for &i in p { label[i] = k; } }
    for (k, piece) in pieces.iter().enumerate() {
        if (piece.len() as f32) < 0.1 * total as f32 { continue; }
        let solid: Vec<u8> = { let mut s = vec![0; w * h]; for &i in piece { s[i] = 1; } s };
        // flood from outside, 4-neighbours
        let mut outside = vec![false; w * h];
        let mut next: Vec<usize> = (0..w * h).filter(|i| { let (x, y) = (i % w, i / w); (x == 0 || y == 0 || x + 1 == w || y + 1 == h) && solid[*i] == 0 }).collect();
        for &i in &next { outside[i] = true; }
        while let Some(i) = next.pop() { let (x, y) = (i % w, i / w); let mut go = |j: usize| if !outside[j] && solid[j] == 0 { outside[j] = true; next.push(j); }; if x > 0 { go(i - 1) } if x + 1 < w { go(i + 1) } if y > 0 { go(i - w) } if y + 1 < h { go(i + w) } }
        let hole: Vec<u8> = (0..w * h).map(|i| u8::from(!outside[i] && solid[i] == 0)).collect();
        for h_piece in components4(&hole, w, h) {
            if h_piece.len() < 150 { continue; }
            let inside: std::collections::BTreeSet<usize> = h_piece.iter().filter_map(|&i| (label[i] != usize::MAX && label[i] != k).then_some(label[i])).filter(|&q| (pieces[q].len() as f32) < 0.35 * total as f32).collect();
            if inside.is_empty() { continue; }
            let set: Vec<u8> = { let mut s = vec![0; w * h]; for &i in &h_piece { s[i] = 1; } s };
            for &i in &h_piece { let (x, y) = (i % w, i / w); let ok = (-2i32..=2).all(|dy| (-2i32..=2).all(|dx| { let (u, v) = (x as i32 + dx, y as i32 + dy); u >= 0 && v >= 0 && (u as usize) < w && (v as usize) < h && set[v as usize * w + u as usize] == 1 })); if ok { out[i] = 1; } }
        }
    }
    out
}
fn components4(mask: &[u8], w: usize, h: usize) -> Vec<Vec<usize>> {
    let mut seen = vec![false; mask.len()];
    let mut out = vec![];
    for s in 0..mask.len() { if mask[s] == 0 || seen[s] { continue; } seen[s] = true; let (mut p, mut n) = (vec![], vec![s]);
        while let Some(i) = n.pop() { p.push(i); let (x, y) = (i % w, i / w); let mut go = |j: usize| if mask[j] == 1 && !seen[j] { seen[j] = true; n.push(j); }; if x > 0 { go(i - 1) } if x + 1 < w { go(i + 1) } if y > 0 { go(i - w) } if y + 1 < h { go(i + w) } }
        out.push(p); }
    out
}

/// Lays the template on white and says which pixels count. Transparency around bare ink is paper; transparency beside
/// opaque paper was painted there to say "don't care".
fn flatten(image: &RgbaImage) -> (GrayImage, Vec<u8>) {
    let rgb = image::RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
    });
    let grey = contrast_grey(&rgb);
    let opaque_paper = image.pixels().zip(grey.as_raw()).any(|(p, &g)| p.0[3] > 250 && g > 200);
    let transparent = image.pixels().any(|p| p.0[3] < 128);
    let care = image.pixels().map(|p| u8::from(!(opaque_paper && transparent && p.0[3] < 128))).collect();
    (grey, care)
}

/// Resizes a template, to a longer side of [`MAX_SIDE`] at most; also gives the original pixels per pixel.
fn resize(grey: GrayImage, care: Vec<u8>, size: f32) -> (GrayImage, Vec<u8>, f32) {
    let (w, h) = grey.dimensions();
    let factor = size.min(MAX_SIDE as f32 / w.max(h) as f32);
    if factor == 1.0 {
        return (grey, care, 1.0);
    }
    let side = |v: u32| ((v as f32 * factor).round() as u32).max(1);
    let care = GrayImage::from_fn(w, h, |x, y| Luma([255 * care[(y * w + x) as usize]]));
    let resized = |g: &GrayImage| image::imageops::resize(g, side(w), side(h), image::imageops::FilterType::Triangle);
    let care = resized(&care).into_raw().into_iter().map(|v| u8::from(v >= 128)).collect();
    (resized(&grey), care, 1.0 / factor)
}

/// A template is light on dark when both its border and most of its area are dark.
fn polarity(grey: &GrayImage, threshold: u8) -> Polarity {
    let (w, h) = grey.dimensions();
    let dark = |v: u8| v <= threshold;
    let area = grey.as_raw().iter().filter(|&&v| dark(v)).count();
    let border: Vec<bool> = grey
        .enumerate_pixels()
        .filter(|&(x, y, _)| x == 0 || y == 0 || x + 1 == w || y + 1 == h)
        .map(|(_, _, p)| dark(p.0[0]))
        .collect();
    let dark_border = border.iter().filter(|&&d| d).count();
    if 2 * area > grey.as_raw().len() && 2 * dark_border > border.len() {
        Polarity::LightOnDark
    } else {
        Polarity::DarkOnLight
    }
}

/// Removes what is left of neighbours in a crop: small pieces that lie along the border, and single specks. Returns
/// how many there were.
fn remove_fragments(ink: &mut Ink) -> usize {
    let (w, h) = (ink.width, ink.height);
    let pieces = components(&ink.mask, w, h);
    let total: usize = pieces.iter().map(Vec::len).sum();
    let largest = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let mut removed = 0;
    for piece in pieces {
        let border = |&&i: &&usize| i % w == 0 || i % w + 1 == w || i / w == 0 || i / w + 1 == h;
        let touching = piece.iter().filter(border).count();
        let extent = |v: &dyn Fn(usize) -> usize| {
            let (lo, hi) = piece.iter().fold((usize::MAX, 0), |(lo, hi), &i| (lo.min(v(i)), hi.max(v(i))));
            hi + 1 - lo
        };
        let small = 2 * extent(&|i| i % w) < w && 2 * extent(&|i| i / w) < h;
        let n = piece.len();
        let fragment = n as f32 <= 0.15 * total as f32 && touching as f32 > 0.12 * n as f32 && small;
        if n < largest && (fragment || n < 4) {
            removed += 1;
            for i in piece {
                ink.mask[i] = 0;
            }
        }
    }
    removed
}

/// Connected pieces of ink (eight neighbours), in row order of their first pixel.
fn components(mask: &[u8], w: usize, h: usize) -> Vec<Vec<usize>> {
    let mut seen = vec![false; mask.len()];
    let mut pieces = Vec::new();
    for start in 0..mask.len() {
        if mask[start] == 0 || seen[start] {
            continue;
        }
        let (mut piece, mut next) = (Vec::new(), vec![start]);
        seen[start] = true;
        while let Some(i) = next.pop() {
            piece.push(i);
            let (x, y) = (i % w, i / w);
            for v in y.saturating_sub(1)..=(y + 1).min(h - 1) {
                for u in x.saturating_sub(1)..=(x + 1).min(w - 1) {
                    let k = v * w + u;
                    if mask[k] == 1 && !seen[k] {
                        seen[k] = true;
                        next.push(k);
                    }
                }
            }
        }
        pieces.push(piece);
    }
    pieces
}

/// Cuts to the ink's bounding box and puts [`PAD`] pixels of paper around it.
fn trim(ink: &Ink, care: &[u8]) -> Option<(Ink, Vec<u8>)> {
    let w = ink.width;
    let at: Vec<usize> = (0..ink.mask.len()).filter(|&i| ink.mask[i] == 1).collect();
    let (x0, x1) = (at.iter().map(|i| i % w).min()?, at.iter().map(|i| i % w).max()?);
    let (y0, y1) = (at.first()? / w, at.last()? / w);
    let (nw, nh) = (x1 + 1 - x0 + 2 * PAD, y1 + 1 - y0 + 2 * PAD);
    let mut out = Ink { width: nw, height: nh, mask: vec![0; nw * nh], grey: vec![255; nw * nh] };
    let mut kept = vec![1; nw * nh];
    for y in 0..nh {
        for x in 0..nw {
            let (sx, sy) = ((x + x0).wrapping_sub(PAD), (y + y0).wrapping_sub(PAD));
            if sx < w && sy < ink.height {
                let (to, from) = (y * nw + x, sy * w + sx);
                out.mask[to] = ink.mask[from];
                out.grey[to] = ink.grey[from];
                kept[to] = care[from];
            }
        }
    }
    Some((out, kept))
}

/// Direction of the stroke at a pixel: the double-angle vector of the structure tensor of a 5x5 window, of length 1,
/// or zero where there is no clear gradient or the window leaves the picture.
pub(super) fn orientation(grey: &[u8], w: usize, h: usize, x: i32, y: i32) -> [f32; 2] {
    /// Below this the gradients of the window are noise.
    const MIN_ENERGY: f32 = 2000.0;
    if x < 3 || y < 3 || x + 3 >= w as i32 || y + 3 >= h as i32 {
        return [0.0; 2];
    }
    let (mut a, mut b) = (0i32, 0i32);
    for v in y - 2..=y + 2 {
        let row = v as usize * w;
        for u in x - 2..=x + 2 {
            let i = row + u as usize;
            let gx = i32::from(grey[i + 1]) - i32::from(grey[i - 1]);
            let gy = i32::from(grey[i + w]) - i32::from(grey[i - w]);
            a += gx * gx - gy * gy;
            b += 2 * gx * gy;
        }
    }
    let (a, b) = (a as f32, b as f32);
    let n = a.hypot(b);
    if n < MIN_ENERGY { [0.0; 2] } else { [a / n, b / n] }
}

/// Gives every point the number of its cell in a grid over the ink's box; thinly filled cells get none. Returns how
/// many numbers were given.
fn assign_sectors(points: &mut [Point], [w, h]: [usize; 2]) -> usize {
    let cell = |p: &Point| {
        let at = |v: f32, side: usize| (((v / side as f32 + 0.5) * SECTORS as f32) as usize).min(SECTORS - 1);
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
fn spread(points: &[Point], n: usize) -> Vec<u32> {
    let mut chosen = Vec::with_capacity(n);
    let mut gap = vec![f32::MAX; points.len()];
    let mut next = 0;
    while chosen.len() < n.min(points.len()) {
        chosen.push(next as u32);
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
