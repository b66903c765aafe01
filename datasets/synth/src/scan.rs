//! From ink to a picture: paper, light, blur, grain, specks, black and white, colours, JPEG.
//!
//! Owns what a printer and a scanner do. Refuses geometry: nothing here moves ink by more than half a pixel.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, imageops};
use rand::{Rng, RngExt};

use crate::canvas::sin_cos;
use crate::settings::{Palette, SynthSettings};

/// Inks of coloured sheets: dark enough to be seen on white.
const INKS: [[u8; 3]; 8] = [
    [20, 20, 20],
    [0, 60, 190],
    [190, 20, 30],
    [0, 120, 60],
    [150, 0, 150],
    [120, 70, 20],
    [0, 130, 150],
    [210, 100, 0],
];

/// Turns coverage (0..=255 a pixel) and numbers of inks into the scanned sheet.
pub fn develop(coverage: Vec<u8>, inks: &[u8], s: &SynthSettings, rng: &mut impl Rng) -> DynamicImage {
    let grey = print(coverage, s, rng);
    match s.palette {
        Palette::Grey => grey.into(),
        Palette::Inverted => {
            GrayImage::from_fn(s.width, s.height, |x, y| Luma([255 - grey.get_pixel(x, y).0[0]])).into()
        }
        Palette::Blueprint => dyed(&grey, |_| ([225, 235, 255], [28, 62, 140])).into(),
        Palette::Coloured => {
            let first = rng.random_range(0..INKS.len() as u32) as usize;
            let ink = |n: usize| INKS[(usize::from(inks[n]) + first) % INKS.len()];
            dyed(&grey, |n| (ink(n), [255; 3])).into()
        }
    }
}

/// A sheet whose black and white are the two colours that `colours` gives for the index of a pixel.
fn dyed(grey: &GrayImage, colours: impl Fn(usize) -> ([u8; 3], [u8; 3])) -> RgbImage {
    let width = grey.width() as usize;
    RgbImage::from_fn(grey.width(), grey.height(), |x, y| {
        let n = y as usize * width + x as usize;
        let (light, (ink, paper)) = (u32::from(grey.as_raw()[n]), colours(n));
        let mix = |c: usize| ((u32::from(paper[c]) * light + u32::from(ink[c]) * (255 - light) + 127) / 255) as u8;
        Rgb([mix(0), mix(1), mix(2)])
    })
}

/// Takes light away along a random direction and towards one side.
fn shade(sheet: &mut GrayImage, most: f64, rng: &mut impl Rng) {
    let (sin, cos) = sin_cos(rng.random_range(0.0..360.0));
    let (cx, cy) = (rng.random_range(0.2..0.8), rng.random_range(0.2..0.8));
    let (w, h) = (f64::from(sheet.width()), f64::from(sheet.height()));
    for (x, y, p) in sheet.enumerate_pixels_mut() {
        let (x, y) = (f64::from(x) / w, f64::from(y) / h);
        let slope = 0.5 + ((x - 0.5) * cos + (y - 0.5) * sin) / (cos.abs() + sin.abs());
        let far = ((x - cx).powi(2) + (y - cy).powi(2)) / 1.28;
        let light = 1.0 - most * (0.6 * slope + 0.4 * far.min(1.0));
        p.0[0] = (f64::from(p.0[0]) * light).round() as u8;
    }
}

/// Coverage as it is after lines were drawn in whole pixels and the sheet was resized a little: at some places pixels
/// stay what they were, at others they are mixed with their neighbours.
fn resized(coverage: &[u8], s: &SynthSettings, rng: &mut impl Rng) -> Vec<u8> {
    /// Coverage of a pixel that is drawn: a line as wide as a pixel covers one of two by half at least.
    const THIN: u8 = 120;
    let (w, h) = (s.width as usize, s.height as usize);
    let mut shares = |n: usize| -> Vec<u32> {
        let (period, phase) = (rng.random_range(7.0..60.0), rng.random_range(0.0..1.0));
        // From 0 to a half and back.
        let share = |i: usize| (((i as f64 / period + phase).fract() - 0.5).abs() * 256.0).round() as u32;
        (0..n).map(share).collect()
    };
    let (across, down) = (shares(w), shares(h));
    let black = |x: usize, y: usize| if coverage[y.min(h - 1) * w + x.min(w - 1)] >= THIN { 255 } else { 0 };
    let mixed = |x: usize, y: usize| {
        let row = |y: usize| black(x, y) * (256 - across[x]) + black(x + 1, y) * across[x];
        ((row(y) * (256 - down[y]) + row(y + 1) * down[y]) >> 16) as u8
    };
    (0..h).flat_map(|y| (0..w).map(move |x| (x, y))).map(|(x, y)| mixed(x, y)).collect()
}

fn print(coverage: Vec<u8>, s: &SynthSettings, rng: &mut impl Rng) -> GrayImage {
    let coverage = if s.whole_pixels { resized(&coverage, s, rng) } else { coverage };
    let paper = u32::from(rng.random_range(s.paper[0]..=s.paper[1]));
    let ink = u32::from(rng.random_range(s.ink[0]..=s.ink[1]));
    let tone: Vec<u8> = (0..256u32).map(|c| ((paper * (255 - c) + ink * c + 127) / 255) as u8).collect();
    let pixels = coverage.into_iter().map(|c| tone[usize::from(c)]).collect();
    let mut sheet = GrayImage::from_raw(s.width, s.height, pixels).expect("one byte a pixel");
    if s.illumination > 0.0 {
        shade(&mut sheet, s.illumination, rng);
    }
    if s.blur > 0.0 {
        sheet = imageops::blur(&sheet, s.blur as f32);
    }
    if s.noise > 0.0 {
        // Four bytes summed are normal enough, and need no logarithm that could differ between machines.
        const SPREAD: f64 = 147.22;
        let gain = s.noise / SPREAD;
        let mut grain = vec![0u8; 4 * s.width as usize];
        for row in sheet.chunks_exact_mut(s.width as usize) {
            rng.fill_bytes(&mut grain);
            for (p, g) in row.iter_mut().zip(grain.chunks_exact(4)) {
                let sum: i32 = g.iter().map(|&b| i32::from(b)).sum();
                *p = (f64::from(*p) + gain * f64::from(sum - 510)).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
    let specks = (s.speckle * f64::from(s.width) * f64::from(s.height)).round() as u64;
    for _ in 0..specks {
        let (x, y) = (rng.random_range(0..s.width), rng.random_range(0..s.height));
        sheet.get_pixel_mut(x, y).0[0] = rng.random_range(20..120);
    }
    if s.bilevel {
        let threshold = (paper + ink).div_ceil(2);
        for p in sheet.iter_mut() {
            *p = if u32::from(*p) < threshold { 0 } else { 255 };
        }
    }
    sheet
}

/// The picture as a JPEG file of a quality, or as PNG.
///
/// # Panics
/// Never: writing to memory does not fail.
pub fn encode(picture: &DynamicImage, jpeg_quality: Option<u8>) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let written = match jpeg_quality {
        Some(quality) => picture.write_with_encoder(JpegEncoder::new_with_quality(&mut out, quality)),
        None => picture.write_with_encoder(PngEncoder::new_with_quality(
            &mut out,
            CompressionType::Best,
            FilterType::NoFilter,
        )),
    };
    written.expect("a picture is written to memory");
    out.into_inner()
}

/// A picture that [`encode`] wrote.
///
/// # Panics
/// On anything else.
pub fn decode(file: &[u8]) -> DynamicImage {
    image::load_from_memory(file).expect("a picture just written is read")
}
