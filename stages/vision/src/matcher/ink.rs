//! From grey levels to ink: threshold, polarity, specks, distance to the nearest ink.

use std::ops::Range;

use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use super::simd::{self, Simd};

/// Rows that one task takes: few enough for the second-level cache, so many that the rows read twice do not count.
pub(super) const BAND: usize = 64;
/// Grey levels by which ink and paper must differ at least; below that a picture counts as empty paper.
const MIN_CONTRAST: f64 = 24.0;
/// How much darker than paper a thin line must be, as a share of the contrast between ink and paper: lines thinner than
/// a pixel are grey.
const FAINT: f64 = 0.22;
/// How much darker a thin line must be than what lies two pixels to both sides of it, the same way.
const RELIEF: f64 = 0.18;

/// A drawing as ink on paper, row by row.
#[derive(Clone, Debug)]
pub(super) struct Ink {
    pub width: usize,
    pub height: usize,
    /// 1 where there is ink, else 0.
    pub mask: Vec<u8>,
    /// Grey levels with dark ink on light paper, whatever the polarity of the picture was.
    pub grey: Vec<u8>,
    /// Place of the upper left pixel on the drawing that this is a part of. The cells of the scan are counted from that
    /// drawing's corner.
    pub origin: [usize; 2],
}

/// Which grey levels of a drawing are ink.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    threshold: u8,
    dark_ink: bool,
    /// Too little contrast for any ink.
    blank: bool,
    /// Level up to which a thin line is ink too, and by how much it must be darker than what lies on both sides; for
    /// dark ink, whatever the drawing's is.
    faint: u8,
    relief: u8,
}

impl Split {
    /// Of the two sides of Otsu's threshold the rarer is ink; a picture without contrast has none.
    pub fn of(levels: &[u8]) -> Self {
        let counts = histogram(levels);
        let (threshold, contrast) = separate(&counts);
        let dark: u64 = counts[..=usize::from(threshold)].iter().sum();
        let dark_ink = 2 * dark <= levels.len() as u64;
        let side: Histogram =
            std::array::from_fn(|v| if (v <= usize::from(threshold)) == dark_ink { 0 } else { counts[v] });
        let paper = quantile(&side, 0.5).unwrap_or(255) as f64;
        let paper = if dark_ink { paper } else { 255.0 - paper };
        Self {
            threshold,
            dark_ink,
            blank: contrast < MIN_CONTRAST,
            faint: (paper - (FAINT * contrast).max(MIN_CONTRAST)).max(0.0) as u8,
            relief: (RELIEF * contrast).max(MIN_CONTRAST / 2.0) as u8,
        }
    }

    /// Whether a level is ink's.
    pub fn is_ink(&self, level: u8) -> bool {
        !self.blank && (level <= self.threshold) == self.dark_ink
    }
}

/// Counts of a drawing or of some of its rows; those of all rows add up to the drawing's.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Pixels and ink pixels of each level.
    all: Histogram,
    ink: Histogram,
    /// Neighbours of which one is ink and one is not.
    edges: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { all: [0; 256], ink: [0; 256], edges: 0 }
    }
}

impl Tally {
    /// Of some rows, and of the edges between the first of them and the row above.
    pub fn of(ink: &Ink, rows: Range<usize>) -> Self {
        let row = |y: usize| &ink.mask[y * ink.width..(y + 1) * ink.width];
        let differ = |a: &[u8], b: &[u8]| u64::from(a.iter().zip(b).map(|(p, q)| u32::from(p ^ q)).sum::<u32>());
        let pixels = rows.start * ink.width..rows.end * ink.width;
        let edges = |y: usize| {
            let above = if y > 0 { differ(row(y - 1), row(y)) } else { 0 };
            above + differ(row(y), row(y).get(1..).unwrap_or(&[]))
        };
        Self {
            all: histogram(&ink.grey[pixels.clone()]),
            ink: ink_levels(&ink.mask[pixels.clone()], &ink.grey[pixels]),
            edges: rows.map(edges).sum(),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { all: add(self.all, other.all), ink: add(self.ink, other.ink), edges: self.edges + other.edges }
    }

    /// Ink pixels.
    pub fn area(&self) -> u64 {
        self.ink.iter().sum()
    }

    /// What is usual on the drawing.
    pub fn usual(&self) -> Usual {
        let paper: Histogram = std::array::from_fn(|v| self.all[v] - self.ink[v]);
        // The stroke's width is twice the ink by the length of its edges.
        let stroke = if self.edges > 0 { (2.0 * self.area() as f32 / self.edges as f32).max(1.0) } else { 1.0 };
        Usual {
            light: quantile(&paper, 0.5).unwrap_or(255) as f32,
            dark: quantile(&self.ink, 0.2).unwrap_or(0) as f32,
            stroke,
        }
    }
}

/// What is usual on a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usual {
    /// Grey levels of paper and of ink.
    light: f32,
    dark: f32,
    /// Width of a stroke, pixels.
    pub stroke: f32,
}

/// One grey level per pixel in which coloured lines keep their contrast: the darkest channel on light paper, the
/// lightest on dark paper.
pub(super) fn contrast_grey(picture: &RgbImage) -> GrayImage {
    let (width, height) = picture.dimensions();
    let row = 3 * (width as usize).max(1);
    let sum: u64 = picture.as_raw().par_chunks(row).map(|r| r.iter().map(|&v| u64::from(v)).sum::<u64>()).sum();
    let light_paper = sum >= 3 * 128 * u64::from(width) * u64::from(height);
    let mut grey = vec![0; width as usize * height as usize];
    let bands = grey.par_chunks_mut(BAND * row / 3).zip(picture.as_raw().par_chunks(BAND * row));
    bands.for_each(|(out, rgb)| simd::extreme_channel(Simd::chosen(), rgb, !light_paper, out));
    GrayImage::from_raw(width, height, grey).expect("one level per pixel")
}

/// Otsu's threshold (IEEE Trans. SMC 9, 1979): the level that separates two classes best, and the distance of the
/// classes' means. Levels up to the threshold are the dark class.
pub(super) fn otsu(grey: &[u8]) -> (u8, f64) {
    separate(&histogram(grey))
}

/// Otsu's threshold from the pixels of each level.
fn separate(histogram: &Histogram) -> (u8, f64) {
    let n = histogram.iter().sum::<u64>() as f64;
    let total: f64 = histogram.iter().enumerate().map(|(v, &c)| v as f64 * c as f64).sum();
    let (mut weight, mut sum, mut best, mut threshold, mut contrast) = (0.0, 0.0, -1.0, 0u8, 0.0);
    for (v, &count) in histogram.iter().enumerate() {
        weight += count as f64;
        sum += v as f64 * count as f64;
        if weight == 0.0 || weight == n {
            continue;
        }
        let distance = (total - sum) / (n - weight) - sum / weight;
        let between = weight * (n - weight) * distance * distance;
        if between > best {
            (best, threshold, contrast) = (between, v as u8, distance);
        }
    }
    (threshold, contrast)
}

/// Pixels of each level.
type Histogram = [u64; 256];

fn histogram(grey: &[u8]) -> Histogram {
    /// Pixels of a task: their counts fit 32 bits.
    const PART: usize = 1 << 20;
    let count = |part: &[u8]| {
        // Four tables, because equal levels in a row would wait for each other; paper is counted by eights.
        let mut tables = [[0u32; 256]; 4];
        let (words, rest) = part.as_chunks::<8>();
        for w in words {
            if let Some(v) = one_level(*w) {
                tables[0][usize::from(v)] += 8;
            } else {
                for (i, &v) in w.iter().enumerate() {
                    tables[i % 4][usize::from(v)] += 1;
                }
            }
        }
        for &v in rest {
            tables[0][usize::from(v)] += 1;
        }
        std::array::from_fn(|v| tables.iter().map(|t| u64::from(t[v])).sum())
    };
    grey.par_chunks(PART).map(count).reduce(|| [0; 256], add)
}

fn add(a: Histogram, b: Histogram) -> Histogram {
    std::array::from_fn(|v| a[v] + b[v])
}

/// A mask, a bit a pixel, row by row; a row starts a new word.
pub(super) struct Bits {
    pub width: usize,
    pub height: usize,
    /// Words a row.
    pub words: usize,
    pub rows: Vec<u64>,
    /// As in [`Ink`].
    pub origin: [usize; 2],
}

impl Ink {
    /// Separates ink from paper. Ink pixels with at most one neighbour of eight are specks and no ink.
    pub fn of_drawing(grey: &GrayImage) -> Self {
        let (width, height) = (grey.width() as usize, grey.height() as usize);
        Self::of_part(grey.as_raw().clone(), [width, height], [0; 2], &Split::of(grey.as_raw()))
    }

    /// The same for a part of a drawing: its levels, width and height, and place. Pixels at its rim are never specks.
    pub fn of_part(mut levels: Vec<u8>, [width, height]: [usize; 2], origin: [usize; 2], split: &Split) -> Self {
        let &Split { threshold, dark_ink, blank, faint, relief } = split;
        if !dark_ink {
            levels.iter_mut().for_each(|v| *v = 255 - *v);
        }
        // The level above the threshold is the lightest ink's, turned round.
        let darkest = if dark_ink { threshold } else { 254u8.saturating_sub(threshold) };
        let mut mask = vec![0; width * height];
        if !blank {
            let simd = Simd::chosen();
            let row_of = |y: usize| &levels[y.min(height - 1) * width..(y.min(height - 1) + 1) * width];
            mask.par_chunks_mut(BAND * width).enumerate().for_each(|(band, out)| {
                let first = band * BAND;
                // Three rows with their specks; the band needs one row above it and one below.
                let mut rows = [vec![0; width], vec![0; width], vec![0; width]];
                let fill = |y: usize, row: &mut [u8]| {
                    let around = std::array::from_fn(|k| row_of((y + k).saturating_sub(2)));
                    simd::ink_row(simd, around, darkest, faint, relief, row);
                };
                fill(first.saturating_sub(1), &mut rows[1]);
                fill(first, &mut rows[2]);
                for (y, out) in (first..).zip(out.chunks_exact_mut(width)) {
                    rows.rotate_left(1);
                    fill((y + 1).min(height - 1), &mut rows[2]);
                    if y == 0 || y + 1 == height {
                        out.copy_from_slice(&rows[1]);
                    } else {
                        simd::despeckle(simd, &rows[0], &rows[1], &rows[2], out);
                    }
                }
            });
        }
        Self { width, height, mask, grey: levels, origin }
    }

    /// The ink, a bit a pixel.
    pub fn bits(&self) -> Bits {
        let (simd, words) = (Simd::chosen(), self.width.div_ceil(64));
        let mut rows = vec![0; words * self.height];
        let bands = rows.par_chunks_mut((BAND * words).max(1)).zip(self.mask.par_chunks((BAND * self.width).max(1)));
        bands.for_each(|(out, mask)| {
            for (out, row) in out.chunks_exact_mut(words).zip(mask.chunks_exact(self.width)) {
                simd::pack(simd, row, out);
            }
        });
        Bits { width: self.width, height: self.height, words, rows, origin: self.origin }
    }

    /// The part of the drawing inside a rectangle, which may reach outside, as a drawing of its own.
    pub fn cut(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let (x0, y0) = (x.min(self.width), y.min(self.height));
        let (x1, y1) = ((x + width).min(self.width), (y + height).min(self.height));
        let part = |v: &[u8]| {
            let mut out = Vec::with_capacity((x1 - x0) * (y1 - y0));
            (y0..y1).for_each(|r| out.extend_from_slice(&v[r * self.width + x0..r * self.width + x1]));
            out
        };
        let (mask, grey) = (part(&self.mask), part(&self.grey));
        Self { width: x1 - x0, height: y1 - y0, mask, grey, origin: [0; 2] }
    }

    /// True when no pixel is ink.
    pub fn is_empty(&self) -> bool {
        !self.mask.contains(&1)
    }

    /// Darkness, 0 (paper) to 255 (ink), with the paper's and the ink's usual grey as the two ends, smoothed by a 5x5
    /// binomial kernel.
    pub fn darkness(&self, usual: &Usual) -> Vec<u8> {
        smooth(&self.grey, &darkness_table(usual), self.width, self.height)
    }

    /// The same, not smoothed.
    pub fn raw_darkness(&self, usual: &Usual) -> Vec<u8> {
        let table = darkness_table(usual);
        self.grey.iter().map(|&v| table[usize::from(v)]).collect()
    }
}

/// Darkness of each grey level.
fn darkness_table(&Usual { light, dark, .. }: &Usual) -> Vec<u8> {
    let span = (light - dark).max(1.0);
    (0..256).map(|v| (255.0 * ((light - v as f32) / span).clamp(0.0, 1.0)).round() as u8).collect()
}

/// Ink pixels of each level.
fn ink_levels(mask: &[u8], grey: &[u8]) -> Histogram {
    let mut levels = [0; 256];
    let (mask, mask_rest) = mask.as_chunks::<8>();
    let (grey, grey_rest) = grey.as_chunks::<8>();
    for (mask, grey) in mask.iter().zip(grey).filter(|(m, _)| **m != [0; 8]) {
        for (&m, &v) in mask.iter().zip(grey) {
            levels[usize::from(v)] += u64::from(m);
        }
    }
    for (&m, &v) in mask_rest.iter().zip(grey_rest) {
        levels[usize::from(v)] += u64::from(m);
    }
    levels
}

fn quantile(histogram: &[u64; 256], q: f64) -> Option<usize> {
    let n: u64 = histogram.iter().sum();
    let mut seen = 0;
    histogram.iter().position(|&c| {
        seen += c;
        n > 0 && seen as f64 >= q * n as f64 && seen > 0
    })
}

/// Separable 5x5 binomial smoothing of the levels' entries in a table; the border repeats.
pub(super) fn smooth(levels: &[u8], table: &[u8], width: usize, height: usize) -> Vec<u8> {
    let simd = Simd::chosen();
    let mut out = vec![0; levels.len()];
    out.par_chunks_mut((BAND * width).max(1)).enumerate().for_each(|(band, out)| {
        let mut row = vec![0; width];
        let mut fill = |y: usize, smoothed: &mut [u8]| {
            let y = y.saturating_sub(2).min(height - 1);
            look_up(table, &levels[y * width..(y + 1) * width], &mut row);
            simd::smooth_row(simd, &row, smoothed);
        };
        let first = band * BAND;
        let mut rows: [Vec<u8>; 5] = std::array::from_fn(|_| vec![0; width]);
        for (k, smoothed) in rows.iter_mut().enumerate().skip(1) {
            fill(first + k - 1, smoothed);
        }
        for (y, out) in (first..).zip(out.chunks_exact_mut(width)) {
            rows.rotate_left(1);
            fill(y + 4, &mut rows[4]);
            simd::smooth_columns(simd, std::array::from_fn(|k| &*rows[k]), out);
        }
    });
    out
}

/// The level that eight pixels have in common.
fn one_level(pixels: [u8; 8]) -> Option<u8> {
    let word = u64::from_ne_bytes(pixels);
    (word == word.rotate_left(8)).then_some(word as u8)
}

/// Entries of a table; of eight equal levels, as on paper, only one is looked up.
fn look_up(table: &[u8], levels: &[u8], out: &mut [u8]) {
    let (words, rest) = levels.as_chunks::<8>();
    let (outs, out_rest) = out.as_chunks_mut::<8>();
    for (o, w) in outs.iter_mut().zip(words) {
        if let Some(v) = one_level(*w) {
            *o = [table[usize::from(v)]; 8];
        } else {
            *o = w.map(|v| table[usize::from(v)]);
        }
    }
    for (o, &v) in out_rest.iter_mut().zip(rest) {
        *o = table[usize::from(v)];
    }
}

/// Chamfer 3-4 distance to the nearest ink in thirds of a pixel, cut off at `cap` (Borgefors, CVGIP 34, 1986).
pub(super) fn distance(mask: &[u8], width: usize, height: usize, cap: u8) -> Vec<u8> {
    let mut out = vec![0; mask.len()];
    out.par_chunks_mut((BAND * width).max(1)).enumerate().for_each(|(band, out)| {
        let first = band * BAND;
        let rows = first..first + out.len() / width;
        out.copy_from_slice(&band_distance(mask, width, height, cap, rows));
    });
    out
}

/// Distances of some rows. Ink that far above or below that it does not count is not looked at.
pub(super) fn band_distance(mask: &[u8], width: usize, height: usize, cap: u8, rows: Range<usize>) -> Vec<u8> {
    let simd = Simd::chosen();
    if width == 0 {
        return Vec::new();
    }
    let reach = usize::from(cap / 3);
    let (top, bottom) = (rows.start.saturating_sub(reach), (rows.end + reach).min(height));
    let mut d = vec![0; (bottom - top) * width];
    simd::to_distance(simd, &mask[top * width..bottom * width], cap, &mut d);
    let mut scratch = vec![0; width];
    for y in 0..bottom - top {
        let (above, rest) = d.split_at_mut(y * width);
        let neighbour = (y > 0).then(|| &above[(y - 1) * width..]);
        simd::chamfer(simd, &mut rest[..width], neighbour, cap, &mut scratch);
    }
    for y in (0..bottom - top - 1).rev() {
        let (rest, below) = d.split_at_mut((y + 1) * width);
        simd::chamfer(simd, &mut rest[y * width..], Some(&below[..width]), cap, &mut scratch);
    }
    d.truncate((rows.end - top) * width);
    d.drain(..(rows.start - top) * width);
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_pictures_have_no_ink() {
        for level in [0, 128, 255] {
            assert!(Ink::of_drawing(&GrayImage::from_pixel(9, 7, image::Luma([level]))).is_empty());
        }
        assert!(Ink::of_drawing(&GrayImage::from_pixel(1, 1, image::Luma([0]))).is_empty());
    }

    #[test]
    fn polarity_does_not_change_the_ink() {
        let mut g = GrayImage::from_pixel(20, 20, image::Luma([240]));
        for x in 3..15 {
            g.put_pixel(x, 5, image::Luma([10]));
            g.put_pixel(x, 6, image::Luma([10]));
        }
        let mut inverted = g.clone();
        image::imageops::invert(&mut inverted);
        let (a, b) = (Ink::of_drawing(&g), Ink::of_drawing(&inverted));
        assert_eq!(a.mask, b.mask);
        assert_eq!(a.grey, b.grey);
        assert_eq!(a.mask.iter().map(|&m| u32::from(m)).sum::<u32>(), 24);
    }

    #[test]
    fn a_thin_grey_line_is_ink_and_the_rim_of_a_wide_one_is_not() {
        let level = |x: u32| match x {
            6..12 => 10,
            5 | 12 | 20 | 21 => 170,
            _ => 240,
        };
        for turned in [false, true] {
            let mut g = GrayImage::from_fn(30, 30, |x, y| image::Luma([level(if turned { y } else { x })]));
            for _ in 0..2 {
                let ink = Ink::of_drawing(&g);
                let lines = |i: usize| matches!(if turned { i / 30 } else { i % 30 }, 6..12 | 20 | 21);
                assert!((0..900).all(|i| (ink.mask[i] == 1) == lines(i)), "turned {turned}");
                image::imageops::invert(&mut g);
            }
        }
    }

    #[test]
    fn distance_is_chamfer_and_capped() {
        let mut mask = vec![0; 49];
        mask[3 * 7 + 3] = 1;
        let d = distance(&mask, 7, 7, 8);
        assert_eq!(d[3 * 7 + 3], 0);
        assert_eq!(d[3 * 7 + 4], 3);
        assert_eq!(d[2 * 7 + 2], 4);
        assert_eq!(d[5], 8);
        assert_eq!(d[6 * 7 + 3], 8);
    }

    /// A drawing with noise, blank areas and solid ones, which crosses bands of rows.
    fn noisy(width: u32, height: u32, seed: u32) -> GrayImage {
        let hash = |x: u32, y: u32| {
            let h = (x.wrapping_mul(0x9e37_79b9) ^ y.wrapping_mul(0x85eb_ca6b) ^ seed).wrapping_mul(0xc2b2_ae35);
            (h ^ h >> 15).wrapping_mul(0x27d4_eb2f) >> 16
        };
        GrayImage::from_fn(width, height, |x, y| {
            let level = match (x / 23 + y / 17) % 4 {
                0 => 250,
                1 => hash(x, y) % 256,
                2 => 30 + 200 * u32::from(!hash(x, y).is_multiple_of(9)),
                _ => 240 - hash(x, y) % 5,
            };
            image::Luma([level as u8])
        })
    }

    const SIZES: [[u32; 2]; 8] = [[1, 1], [1, 200], [200, 1], [2, 3], [64, 64], [65, 129], [70, 128], [131, 150]];

    #[test]
    fn specks_are_pixels_with_fewer_than_two_neighbours() {
        for [w, h] in SIZES {
            let grey = noisy(w, h, 1);
            let ink = Ink::of_drawing(&grey);
            let (threshold, contrast) = otsu(grey.as_raw());
            let dark = grey.as_raw().iter().filter(|&&v| v <= threshold).count();
            let rarer = |v: u8| contrast >= MIN_CONTRAST && (v <= threshold) == (2 * dark <= grey.len());
            let (w, h) = (w as usize, h as usize);
            let Split { faint, relief, dark_ink, .. } = Split::of(grey.as_raw());
            let level = |x: usize, y: usize| {
                let v = grey.as_raw()[y.min(h - 1) * w + x.min(w - 1)];
                if dark_ink { v } else { 255 - v }
            };
            let thin = |i: usize| {
                let (x, y) = (i % w, i / w);
                let v = level(x, y);
                let (up, left) = (|by| level(x, y.saturating_sub(by)), |by: usize| level(x - by, y));
                let beside = |near: u8, far: u8| v <= near && v.saturating_add(relief) <= far;
                let lies = beside(up(1).min(level(x, y + 1)), up(2).min(level(x, y + 2)));
                let stands = (2..w.saturating_sub(2)).contains(&x)
                    && beside(left(1).min(level(x + 1, y)), left(2).min(level(x + 2, y)));
                contrast >= MIN_CONTRAST && v <= faint && (lies || stands)
            };
            let ink_at = |i: usize| rarer(grey.as_raw()[i]) || thin(i);
            let split: Vec<u8> = (0..w * h).map(|i| u8::from(ink_at(i))).collect();
            for i in 0..w * h {
                let (x, y) = (i % w, i / w);
                let inside = x > 0 && y > 0 && x + 1 < w && y + 1 < h;
                let around = || (y - 1..=y + 1).flat_map(|v| &split[v * w + x - 1..=v * w + x + 1]);
                let speck = inside && around().sum::<u8>() <= 2;
                assert_eq!(ink.mask[i], if speck { 0 } else { split[i] }, "{x} {y} of {w}x{h}");
            }
            let bits = ink.bits();
            let bit = |i: usize| (bits.rows[i / w * bits.words + i % w / 64] >> (i % w % 64) & 1) as u8;
            assert!((0..w * h).all(|i| bit(i) == ink.mask[i]));
        }
    }

    #[test]
    fn distances_are_those_of_the_nearest_ink() {
        for [w, h] in SIZES {
            let ink = Ink::of_drawing(&noisy(w, h, 2));
            let (w, h) = (w as usize, h as usize);
            for cap in [8, 15, 60] {
                let d = distance(&ink.mask, w, h, cap);
                for i in (0..w * h).step_by(if w * h > 9000 { 7 } else { 1 }) {
                    let reach = usize::from(cap / 3);
                    let (x, y) = (i % w, i / w);
                    let mut nearest = u32::from(cap);
                    for v in y.saturating_sub(reach)..(y + reach + 1).min(h) {
                        for u in x.saturating_sub(reach)..(x + reach + 1).min(w) {
                            let (long, short) = (u.abs_diff(x).max(v.abs_diff(y)), u.abs_diff(x).min(v.abs_diff(y)));
                            if ink.mask[v * w + u] == 1 {
                                nearest = nearest.min((3 * (long - short) + 4 * short) as u32);
                            }
                        }
                    }
                    assert_eq!(u32::from(d[i]), nearest, "{x} {y} of {w}x{h}, at most {cap}");
                }
            }
        }
    }

    #[test]
    fn smoothing_is_binomial_across_bands() {
        let identity: Vec<u8> = (0..=255).collect();
        for [w, h] in SIZES {
            let grey = noisy(w, h, 3);
            let (w, h) = (w as usize, h as usize);
            let mix = |t: [u32; 5]| (t[0] + t[4] + 4 * (t[1] + t[3]) + 6 * t[2] + 8) / 16;
            let at = |x: usize, y: usize| {
                let clamp = |i: usize, k: usize, n: usize| (i + k).saturating_sub(2).min(n - 1);
                mix(std::array::from_fn(|j| {
                    let row = clamp(y, j, h) * w;
                    mix(std::array::from_fn(|k| u32::from(grey.as_raw()[row + clamp(x, k, w)])))
                }))
            };
            let smooth = smooth(grey.as_raw(), &identity, w, h);
            assert!((0..w * h).all(|i| u32::from(smooth[i]) == at(i % w, i / w)), "{w}x{h}");
        }
    }

    #[test]
    fn colours_give_their_darkest_channel_on_light_paper() {
        for [w, h] in SIZES {
            let (r, g, b) = (noisy(w, h, 4), noisy(w, h, 5), noisy(w, h, 6));
            let mut colour =
                RgbImage::from_fn(w, h, |x, y| image::Rgb([&r, &g, &b].map(|c| c.get_pixel(x, y).0[0] / 2 + 128)));
            let darkest = |p: &image::Rgb<u8>| *p.0.iter().min().unwrap();
            let wanted: Vec<u8> = colour.pixels().map(darkest).collect();
            assert_eq!(contrast_grey(&colour).as_raw(), &wanted);
            image::imageops::invert(&mut colour);
            let wanted: Vec<u8> = wanted.iter().map(|v| 255 - v).collect();
            assert_eq!(contrast_grey(&colour).as_raw(), &wanted);
        }
    }
}
