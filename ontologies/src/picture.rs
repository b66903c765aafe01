//! Template pictures as the rest of the program sees them: upright, on white, RGB.
//!
//! Owns decoding and the check that a picture shows something. Refuses to own drawings, which may be larger than memory.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, Rgb, RgbImage};

/// Longest side of a template, in pixels: a guard against decompression bombs.
pub const MAX_SIDE: u32 = 8192;
/// Shortest side of a template, in pixels: below it no two symbols can be told apart.
pub const MIN_SIDE: u32 = 6;
/// Difference of the darkest and the lightest pixel, in grey levels, below which a picture is blank.
const BLANK_RANGE: u8 = 24;

/// Why a picture is no template.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// No bytes.
    #[error("the file is empty (0 bytes)")]
    Empty,
    /// Not a picture, damaged, or over the limits.
    #[error("not a readable picture ({0})")]
    Unreadable(#[from] image::ImageError),
    /// One grey everywhere.
    #[error("the picture is blank: every pixel has nearly the same brightness")]
    Blank,
    /// Too few pixels.
    #[error("the picture is {width} x {height} pixels, and a template needs {MIN_SIDE} x {MIN_SIDE}")]
    TooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

/// Decodes a picture of any kind: EXIF orientation applied, 16 bits reduced to 8, transparency laid on white.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(image::ImageError::IoError)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(on_white(&picture))
}

/// Decodes a template and checks that it is big enough and not blank.
pub fn decode_template(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    let picture = decode(bytes)?;
    let (width, height) = picture.dimensions();
    if width.min(height) < MIN_SIDE {
        return Err(PictureError::TooSmall { width, height });
    }
    let (low, high) = picture.pixels().copied().map(luma).fold((255, 0), |(l, h), v| (v.min(l), v.max(h)));
    if high - low < BLANK_RANGE {
        return Err(PictureError::Blank);
    }
    Ok(picture)
}

/// Brightness after ITU-R BT.601, 0..=255.
fn luma(p: Rgb<u8>) -> u8 {
    let [r, g, b] = p.0.map(u32::from);
    ((299 * r + 587 * g + 114 * b) / 1000) as u8
}

fn on_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|c| ((c * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, ImageBuffer, ImageFormat, Luma, Rgba, RgbaImage};

    use super::*;

    fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        picture.into().write_to(&mut out, ImageFormat::Png).unwrap();
        out.into_inner()
    }

    #[test]
    fn transparency_lies_on_white() {
        let mut p = RgbaImage::from_pixel(9, 9, Rgba([0, 0, 0, 0]));
        p.put_pixel(4, 4, Rgba([0, 0, 0, 255]));
        p.put_pixel(5, 4, Rgba([0, 0, 0, 128]));
        let d = decode_template(&png(p)).unwrap();
        assert_eq!(d.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(d.get_pixel(4, 4).0, [0; 3]);
        assert_eq!(d.get_pixel(5, 4).0, [127; 3]);
    }

    #[test]
    fn sixteen_bits_become_eight() {
        let p: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_fn(8, 8, |x, _| Luma([x as u16 * 8000]));
        let d = decode_template(&png(p)).unwrap();
        assert_eq!(d.get_pixel(7, 0).0, [218; 3]);
    }

    #[test]
    fn each_bad_picture_is_named() {
        let is = |bytes: &[u8], text: &str| {
            let e = decode_template(bytes).unwrap_err().to_string();
            assert!(e.contains(text), "{e}");
        };
        is(&[], "0 bytes");
        is(b"hello", "not a readable picture");
        is(&png(GrayImage::from_pixel(30, 30, Luma([200]))), "blank");
        is(&png(RgbaImage::from_pixel(30, 30, Rgba([0, 0, 0, 0]))), "blank");
        is(&png(GrayImage::from_fn(30, 4, |x, _| Luma([x as u8 * 8]))), "30 x 4");
        let whole = png(GrayImage::from_fn(64, 64, |x, y| Luma([(x * y) as u8])));
        is(&whole[..whole.len() / 2], "not a readable picture");
    }
}
