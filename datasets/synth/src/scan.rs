//! From ink to a picture: paper, blur, grain, specks, black and white, JPEG.
//!
//! Owns what a printer and a scanner do. Refuses geometry: nothing here moves ink.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, GrayImage, ImageEncoder, imageops};
use rand::{Rng, RngExt};

use crate::settings::SynthSettings;

/// Turns coverage (0..=255 a pixel) into the scanned sheet.
pub fn develop(coverage: Vec<u8>, s: &SynthSettings, rng: &mut impl Rng) -> GrayImage {
    let paper = u32::from(rng.random_range(s.paper[0]..=s.paper[1]));
    let ink = u32::from(rng.random_range(s.ink[0]..=s.ink[1]));
    let tone: Vec<u8> = (0..256u32).map(|c| ((paper * (255 - c) + ink * c + 127) / 255) as u8).collect();
    let pixels = coverage.into_iter().map(|c| tone[usize::from(c)]).collect();
    let mut sheet = GrayImage::from_raw(s.width, s.height, pixels).expect("one byte a pixel");
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
pub fn encode(picture: &GrayImage, jpeg_quality: Option<u8>) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let (w, h) = picture.dimensions();
    let written = match jpeg_quality {
        Some(quality) => {
            JpegEncoder::new_with_quality(&mut out, quality).write_image(picture, w, h, ExtendedColorType::L8)
        }
        None => PngEncoder::new_with_quality(&mut out, CompressionType::Best, FilterType::NoFilter).write_image(
            picture,
            w,
            h,
            ExtendedColorType::L8,
        ),
    };
    written.expect("a grey picture is written to memory");
    out.into_inner()
}
