//! Ink and paper of a template's picture: transparency, polarity, colour, grey and uneven paper.

use image::{Rgb, RgbImage, RgbaImage};

use super::pieces::{Piece, pieces};
use crate::matcher::ink::{contrast_grey, otsu};

/// Grey levels by which ink and paper must differ at least.
const MIN_CONTRAST: f64 = 24.0;
/// Contrast from which the opaque part of a picture shows both ink and paper.
const SHOWS_PAPER: f64 = 60.0;
/// Opacity from which a pixel counts, 0..=255.
const OPAQUE: u8 = 128;
/// Grey levels by which the paper must change across the picture to be evened out.
const MIN_SLOPE: f32 = 10.0;
/// Share of the contrast by which a pixel may differ from the paper and be paper.
const RIM: f32 = 0.15;
/// Grey level below which paper is called grey.
const GREY_PAPER: f32 = 225.0;
/// Darkness from which a thin line is a stroke, 0..=255, and its shortest length, pixels.
const FAINT: u8 = 60;
const MIN_FAINT: usize = 5;
/// Quantile of the ink's grey levels that counts as fully dark; the lighter ones are rims of strokes.
const INK_QUANTILE: f64 = 0.2;

/// A picture as ink on paper.
pub(super) struct Sheet {
    pub ink: Vec<u8>,
    pub darkness: Vec<u8>,
    pub care: Vec<u8>,
    pub notes: Vec<String>,
}

/// Reads a picture; `None` when it has no ink.
pub(super) fn read(image: &RgbaImage) -> Option<Sheet> {
    let (mut grey, care) = flatten(image);
    let width = image.width() as usize;
    let mut notes = Vec::new();
    let known =
        |grey: &[u8]| -> Vec<u8> { grey.iter().zip(&care).filter(|&(_, &c)| c == 1).map(|(&g, _)| g).collect() };
    let (threshold, contrast) = otsu(&known(&grey));
    if contrast < MIN_CONTRAST {
        return None;
    }
    if light_on_dark(&grey, &care, width, threshold) {
        for g in &mut grey {
            *g = 255 - *g;
        }
        notes.push("light on a dark ground, inverted".into());
    }
    let (level, slope) = even_out(&grey, &care, width);
    if slope >= MIN_SLOPE {
        notes.push(format!("uneven paper (by {slope:.0} of 255 levels), evened out"));
    }
    let (threshold, contrast) = otsu(&known(&level));
    if contrast < MIN_CONTRAST {
        return None;
    }
    let is_ink = |i: usize| care[i] == 1 && level[i] <= threshold;
    let mut ink: Vec<u8> = (0..level.len()).map(|i| u8::from(is_ink(i))).collect();
    let of = |want: u8| (0..level.len()).filter(|&i| care[i] == 1 && ink[i] == want).map(|i| level[i]).collect();
    let (light, dark) = (quantile(of(0), 0.5)?, quantile(of(1), INK_QUANTILE)?);
    if light < GREY_PAPER {
        notes.push("grey paper".into());
    }
    let span = (light - dark).max(1.0);
    let darkness = |i: usize| {
        let d = 255.0 * ((light - f32::from(level[i])) / span).clamp(0.0, 1.0);
        if care[i] == 1 { d.round() as u8 } else { 0 }
    };
    let darkness: Vec<u8> = (0..level.len()).map(darkness).collect();
    let faint = faint_strokes(&ink, &darkness, width);
    if !faint.is_empty() {
        notes.push(format!("faint strokes counted as ink ({} pixels)", faint.len()));
        for i in faint {
            ink[i] = 1;
        }
    }
    Some(Sheet { ink, darkness, care, notes })
}

/// One grey level per pixel, and which pixels count. Transparency around bare ink is paper; transparency beside opaque
/// paper was painted there to say "don't care".
fn flatten(image: &RgbaImage) -> (Vec<u8>, Vec<u8>) {
    let opaque = |v: u8| v >= OPAQUE;
    let lay = |ground: u32| {
        contrast_grey(&RgbImage::from_fn(image.width(), image.height(), |x, y| {
            let [r, g, b, a] = image.get_pixel(x, y).0.map(u32::from);
            Rgb([r, g, b].map(|v| ((v * a + ground * (255 - a) + 127) / 255) as u8))
        }))
        .into_raw()
    };
    let on_white = lay(255);
    let all = vec![1; on_white.len()];
    if image.pixels().all(|p| opaque(p.0[3])) {
        return (on_white, all);
    }
    let solid: Vec<u8> = image.pixels().zip(&on_white).filter(|(p, _)| p.0[3] > 250).map(|(_, &g)| g).collect();
    if otsu(&solid).1 >= SHOWS_PAPER {
        return (on_white, image.pixels().map(|p| u8::from(opaque(p.0[3]))).collect());
    }
    // Bare ink: light ink needs a dark ground.
    let sum: u64 = solid.iter().map(|&g| u64::from(g)).sum();
    let light = !solid.is_empty() && sum > 160 * solid.len() as u64;
    (if light { lay(0) } else { on_white }, all)
}

/// A template is light on dark when both its border and most of its area are dark.
fn light_on_dark(grey: &[u8], care: &[u8], width: usize, threshold: u8) -> bool {
    let height = grey.len() / width;
    let border = |i: usize| {
        let (x, y) = (i % width, i / width);
        x.min(y).min(width - 1 - x).min(height - 1 - y) == 0
    };
    let mostly_dark = |want: &dyn Fn(usize) -> bool| {
        let (mut n, mut dark) = (0, 0);
        for i in (0..grey.len()).filter(|&i| care[i] == 1 && want(i)) {
            n += 1;
            dark += usize::from(grey[i] <= threshold);
        }
        n > 0 && 2 * dark > n
    };
    mostly_dark(&|_| true) && mostly_dark(&border)
}

/// Takes out a slope of the paper's brightness: a plane fitted to the paper, twice, because the first split between ink
/// and paper suffers from the slope too. Also gives by how many levels the paper changes; below [`MIN_SLOPE`] the
/// picture is left as it is.
fn even_out(grey: &[u8], care: &[u8], width: usize) -> (Vec<u8>, f32) {
    let height = grey.len() / width;
    let (cx, cy) = (width as f32 / 2.0, height as f32 / 2.0);
    let place = |i: usize| [(i % width) as f32 + 0.5 - cx, (i / width) as f32 + 0.5 - cy];
    let as_it_is = || (grey.to_vec(), 0.0);
    let mut level = grey.to_vec();
    let mut slope = 0.0;
    for round in 0..2 {
        let known: Vec<u8> = (0..grey.len()).filter(|&i| care[i] == 1).map(|i| level[i]).collect();
        let (threshold, contrast) = otsu(&known);
        let mut paper: Vec<usize> = (0..grey.len()).filter(|&i| care[i] == 1 && level[i] > threshold).collect();
        if round > 0 {
            // The rims of strokes are neither.
            let Some(typical) = quantile(paper.iter().map(|&i| level[i]).collect(), 0.5) else { return as_it_is() };
            paper.retain(|&i| (f32::from(level[i]) - typical).abs() < RIM * contrast as f32);
        }
        // On too little paper a plane says nothing.
        if paper.len() < 32 || 5 * paper.len() < known.len() {
            return as_it_is();
        }
        let Some([a, b]) = plane(paper.iter().map(|&i| (place(i), f32::from(grey[i])))) else { return as_it_is() };
        slope = a.abs() * width as f32 + b.abs() * height as f32;
        for (i, l) in level.iter_mut().enumerate() {
            let [x, y] = place(i);
            *l = (f32::from(grey[i]) - a * x - b * y).round().clamp(0.0, 255.0) as u8;
        }
    }
    if slope < MIN_SLOPE { as_it_is() } else { (level, slope) }
}

/// Slopes in x and y of the least-squares plane through points; `None` when they lie on a line.
fn plane(points: impl Iterator<Item = ([f32; 2], f32)>) -> Option<[f32; 2]> {
    let mut s = [0.0f64; 9];
    for ([x, y], g) in points {
        let (x, y, g) = (f64::from(x), f64::from(y), f64::from(g));
        for (sum, v) in s.iter_mut().zip([1.0, x, y, g, x * x, x * y, y * y, x * g, y * g]) {
            *sum += v;
        }
    }
    let [n, x, y, g, xx, xy, yy, xg, yg] = s;
    let (xx, xy, yy) = (xx - x * x / n, xy - x * y / n, yy - y * y / n);
    let (xg, yg) = (xg - x * g / n, yg - y * g / n);
    let det = xx * yy - xy * xy;
    (n > 0.0 && det > 1e-6).then(|| [(xg * yy - yg * xy) / det, (yg * xx - xg * xy) / det].map(|v| v as f32))
}

/// Pixels of strokes too thin or too light for the threshold: ridges of darkness that go on from ink, without ink
/// beside them. The rims of strokes are no ridges.
fn faint_strokes(ink: &[u8], darkness: &[u8], w: usize) -> Vec<usize> {
    let h = ink.len() / w;
    let ridge = |i: usize| {
        let (x, y) = (i % w, i / w);
        let across = |step: usize, inside: bool| {
            inside && {
                let (a, b) = (darkness[i - step], darkness[i + step]);
                let clear = ink[i - step] == 0 && ink[i + step] == 0;
                clear && darkness[i] >= a && darkness[i] >= b && darkness[i] > a.min(b).saturating_add(FAINT / 2)
            }
        };
        ink[i] == 0 && darkness[i] >= FAINT && (across(1, x > 0 && x + 1 < w) || across(w, y > 0 && y + 1 < h))
    };
    let mask: Vec<u8> = (0..ink.len()).map(|i| u8::from(ridge(i))).collect();
    let goes_on = |i: usize| {
        let (x, y) = (i % w, i / w);
        let rows = y.saturating_sub(1)..=(y + 1).min(h - 1);
        rows.into_iter().any(|v| (x.saturating_sub(1)..=(x + 1).min(w - 1)).any(|u| ink[v * w + u] == 1))
    };
    let long = |p: &Piece| p.size().into_iter().max() >= Some(MIN_FAINT) && p.pixels.iter().any(|&i| goes_on(i));
    pieces(&mask, w, h).into_iter().filter(long).flat_map(|p| p.pixels).collect()
}

fn quantile(mut values: Vec<u8>, q: f64) -> Option<f32> {
    values.sort_unstable();
    values.get(((values.len() as f64 * q) as usize).min(values.len().saturating_sub(1))).map(|&v| f32::from(v))
}
