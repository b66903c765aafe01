//! Boxes and labels on pictures, crops, small versions of big pictures.
//!
//! Owns pixels that are shown to people; the same input gives the same bytes everywhere. Refuses to decode files and to
//! decide what is drawn.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

use crate::font::{CELL_H, CELL_W, glyph};
use crate::html::Picture;

/// JPEG quality of pictures in a page, 1..=100: lines stay crisp, a sheet of 1200 pixels takes about 150 kB.
pub const JPEG_QUALITY: u8 = 80;

/// A picture that could not be encoded.
#[derive(Debug, thiserror::Error)]
#[error("encoding a picture of {width} x {height} pixels for the report")]
pub struct EncodeError {
    width: u32,
    height: u32,
    source: image::ImageError,
}

/// A box to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Left, top, right, bottom in pixels of the picture drawn on; may reach outside. `BBox` converts with `into()`.
    pub bbox: [f64; 4],
    /// Line colour, RGB.
    pub color: [u8; 3],
    /// Text above the box; empty for none.
    pub label: String,
    /// Line form.
    pub line: Line,
}

/// Form of a box's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// Unbroken.
    #[default]
    Solid,
    /// Broken: for truth that was missed, rejected boxes, neighbours.
    Dashed,
}

impl Mark {
    /// A box with an unbroken line.
    pub fn new(bbox: impl Into<[f64; 4]>, color: [u8; 3], label: impl Into<String>) -> Self {
        Self { bbox: bbox.into(), color, label: label.into(), line: Line::Solid }
    }

    /// The same box with a broken line.
    pub fn dashed(mut self) -> Self {
        self.line = Line::Dashed;
        self
    }

    /// The same box on a picture scaled by `scale`.
    pub fn scaled(mut self, scale: f64) -> Self {
        self.bbox = self.bbox.map(|v| v * scale);
        self
    }
}

/// Draws boxes, then their labels on top. Line width and letter size grow with the picture (1 up to 2400 pixels).
pub fn marks(picture: &mut RgbImage, marks: &[Mark]) {
    let unit = (picture.width().max(picture.height()) / 2400 + 1).min(4);
    for mark in marks {
        rectangle(picture, mark, 2 * unit);
    }
    for mark in marks.iter().filter(|m| !m.label.is_empty()) {
        let width = text_width(&mark.label, unit) + 4 * unit;
        let height = CELL_H * unit + 2 * unit;
        let x = clamp(mark.bbox[0], picture.width().saturating_sub(width));
        let above = mark.bbox[1] - f64::from(height);
        let y = if above >= 0.0 { above } else { mark.bbox[3] };
        let y = clamp(y, picture.height().saturating_sub(height));
        fill(picture, [x, y, x + width, y + height], mark.color);
        text(picture, x + 2 * unit, y + unit, &mark.label, ink_on(mark.color), unit);
    }
}

/// Draws one box line of `width` pixels, outside-aligned: the pixels of the box itself stay visible.
fn rectangle(picture: &mut RgbImage, mark: &Mark, width: u32) {
    let [x0, y0, x1, y1] = mark.bbox;
    if !mark.bbox.iter().all(|v| v.is_finite()) || x1 < x0 || y1 < y0 {
        return;
    }
    let grow = i64::from(width);
    let limit = |v: f64| v.clamp(-1e6, 1e6) as i64;
    let (left, top) = (limit(x0.floor()) - grow, limit(y0.floor()) - grow);
    let (right, bottom) = (limit(x1.ceil()) + grow, limit(y1.ceil()) + grow);
    let dash = i64::from(width) * 4;
    let color = Rgb(mark.color);
    let (w, h) = (i64::from(picture.width()), i64::from(picture.height()));
    let mut dot = |x: i64, y: i64, along: i64| {
        let gap = mark.line == Line::Dashed && (along / dash) % 2 == 1;
        if !gap && (0..w).contains(&x) && (0..h).contains(&y) {
            picture.put_pixel(x as u32, y as u32, color);
        }
    };
    for k in 0..grow {
        for x in left.max(0)..right.min(w) {
            dot(x, top + k, x - left);
            dot(x, bottom - 1 - k, x - left);
        }
        for y in top.max(0)..bottom.min(h) {
            dot(left + k, y, y - top);
            dot(right - 1 - k, y, y - top);
        }
    }
}

/// Fills `[x0, y0, x1, y1)`, clipped to the picture.
pub fn fill(picture: &mut RgbImage, [x0, y0, x1, y1]: [u32; 4], color: [u8; 3]) {
    for y in y0..y1.min(picture.height()) {
        for x in x0..x1.min(picture.width()) {
            picture.put_pixel(x, y, Rgb(color));
        }
    }
}

/// Writes text with its top left corner at `(x, y)`; every dot is `size` x `size` pixels; clipped to the picture.
pub fn text(picture: &mut RgbImage, x: u32, y: u32, text: &str, color: [u8; 3], size: u32) {
    for (i, c) in text.chars().enumerate() {
        let left = x + i as u32 * CELL_W * size;
        for (row, bits) in glyph(c).iter().enumerate() {
            for column in (0..5).filter(|c| bits >> (4 - c) & 1 == 1) {
                let (dx, dy) = (left + column * size, y + (row as u32 + 1) * size);
                fill(picture, [dx, dy, dx + size, dy + size], color);
            }
        }
    }
}

/// Width of a text in pixels.
pub fn text_width(text: &str, size: u32) -> u32 {
    text.chars().count() as u32 * CELL_W * size
}

/// Black or white, whichever reads better on `color` (luma after ITU-R BT.601).
pub fn ink_on([r, g, b]: [u8; 3]) -> [u8; 3] {
    let luma = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
    if luma > 140_000 { [0, 0, 0] } else { [255, 255, 255] }
}

fn clamp(v: f64, max: u32) -> u32 {
    v.clamp(0.0, f64::from(max)) as u32
}

/// A smaller copy whose longer side is at most `max_side` pixels, and the factor (at most 1).
pub fn thumbnail(picture: &RgbImage, max_side: u32) -> (RgbImage, f64) {
    let longer = picture.width().max(picture.height()).max(1);
    if longer <= max_side {
        return (picture.clone(), 1.0);
    }
    let scale = f64::from(max_side) / f64::from(longer);
    let side = |v: u32| ((f64::from(v) * scale).round() as u32).max(1);
    (imageops::thumbnail(picture, side(picture.width()), side(picture.height())), scale)
}

/// A part of a picture.
#[derive(Clone, Debug)]
pub struct Crop {
    /// The part.
    pub picture: RgbImage,
    /// Left and top of the part in the picture it was taken from, in its pixels.
    pub origin: (f64, f64),
    /// Pixels of the part per pixel of the picture.
    pub scale: f64,
}

impl Crop {
    /// A box of the whole picture in the part's pixels.
    pub fn place(&self, bbox: impl Into<[f64; 4]>) -> [f64; 4] {
        let [x0, y0, x1, y1] = bbox.into();
        let (x, y) = self.origin;
        [(x0 - x) * self.scale, (y0 - y) * self.scale, (x1 - x) * self.scale, (y1 - y) * self.scale]
    }
}

/// The surroundings of a box: `context` times its longer side on every side (at least 8 pixels), shrunk to `max_side`,
/// or enlarged by a whole factor up to it. `None` when the box lies outside or is no box.
pub fn crop(picture: &RgbImage, bbox: impl Into<[f64; 4]>, context: f64, max_side: u32) -> Option<Crop> {
    let [x0, y0, x1, y1] = bbox.into();
    if ![x0, y0, x1, y1].iter().all(|v| v.is_finite()) || x1 <= x0 || y1 <= y0 {
        return None;
    }
    let (w, h) = (f64::from(picture.width()), f64::from(picture.height()));
    let margin = ((x1 - x0).max(y1 - y0) * context).max(8.0);
    let left = (x0 - margin).floor().clamp(0.0, w);
    let top = (y0 - margin).floor().clamp(0.0, h);
    let right = (x1 + margin).ceil().clamp(0.0, w);
    let bottom = (y1 + margin).ceil().clamp(0.0, h);
    if right <= left || bottom <= top {
        return None;
    }
    let part =
        imageops::crop_imm(picture, left as u32, top as u32, (right - left) as u32, (bottom - top) as u32).to_image();
    let longer = part.width().max(part.height());
    let (part, scale) = if longer > max_side {
        thumbnail(&part, max_side)
    } else {
        let factor = (max_side / longer).clamp(1, 4);
        let enlarged = match factor {
            1 => part,
            _ => imageops::resize(&part, part.width() * factor, part.height() * factor, FilterType::Triangle),
        };
        (enlarged, f64::from(factor))
    };
    Some(Crop { picture: part, origin: (left, top), scale })
}

/// Encodes as JPEG with `JPEG_QUALITY`, for pictures in a page.
pub fn jpeg(picture: &RgbImage) -> Result<Picture, EncodeError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|source| EncodeError { width: picture.width(), height: picture.height(), source })?;
    Ok(Picture { mime: "image/jpeg", bytes, width: picture.width(), height: picture.height() })
}

/// Encodes as PNG, for small pictures with few colours.
pub fn png(picture: &RgbImage) -> Result<Picture, EncodeError> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|source| EncodeError { width: picture.width(), height: picture.height(), source })?;
    Ok(Picture { mime: "image/png", bytes, width: picture.width(), height: picture.height() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn white(w: u32, h: u32) -> RgbImage {
        RgbImage::from_pixel(w, h, Rgb([255, 255, 255]))
    }

    #[test]
    fn line_lies_outside_the_box() {
        let mut p = white(40, 40);
        marks(&mut p, &[Mark::new([10.0, 10.0, 20.0, 20.0], [255, 0, 0], "")]);
        assert_eq!(p.get_pixel(10, 10).0, [255, 255, 255]);
        assert_eq!(p.get_pixel(9, 15).0, [255, 0, 0]);
        assert_eq!(p.get_pixel(8, 15).0, [255, 0, 0]);
        assert_eq!(p.get_pixel(7, 15).0, [255, 255, 255]);
        assert_eq!(p.get_pixel(20, 15).0, [255, 0, 0]);
    }

    #[test]
    fn label_is_readable_on_its_colour() {
        assert_eq!(ink_on([255, 255, 0]), [0, 0, 0]);
        assert_eq!(ink_on([120, 0, 40]), [255, 255, 255]);
        let mut p = white(60, 60);
        marks(&mut p, &[Mark::new([5.0, 30.0, 20.0, 50.0], [0, 0, 120], "I")]);
        // The letter I stands in white on blue above the box.
        let dots = p.enumerate_pixels().filter(|(_, y, c)| (18..30).contains(y) && c.0 == [0, 0, 120]).count();
        assert!(dots > 60, "{dots}");
    }

    #[test]
    fn crop_places_the_box() {
        let mut p = white(100, 100);
        fill(&mut p, [40, 40, 50, 50], [0, 0, 0]);
        let c = crop(&p, [40.0, 40.0, 50.0, 50.0], 1.0, 30).expect("inside");
        assert_eq!((c.picture.width(), c.picture.height(), c.scale), (30, 30, 1.0));
        assert_eq!(c.place([40.0, 40.0, 50.0, 50.0]), [10.0, 10.0, 20.0, 20.0]);
        assert_eq!(c.picture.get_pixel(10, 10).0, [0, 0, 0]);
        assert!(crop(&p, [200.0, 200.0, 220.0, 220.0], 0.1, 30).is_none());
        assert!(crop(&p, [f64::NAN, 0.0, 1.0, 1.0], 1.0, 30).is_none());
    }

    #[test]
    fn thumbnail_keeps_shape() {
        let (t, scale) = thumbnail(&white(400, 100), 200);
        assert_eq!((t.width(), t.height(), scale), (200, 50, 0.5));
        assert_eq!(thumbnail(&white(10, 10), 200).1, 1.0);
    }

    #[test]
    fn encoded_pictures_are_what_they_say() {
        let j = jpeg(&white(9, 7)).expect("encodes");
        assert_eq!((j.mime, j.width, j.height, &j.bytes[..2]), ("image/jpeg", 9, 7, &[0xff, 0xd8][..]));
        assert_eq!(&png(&white(9, 7)).expect("encodes").bytes[1..4], b"PNG");
    }

    proptest! {
        #[test]
        fn any_box_can_be_drawn(b in prop::array::uniform4(prop::num::f64::ANY), s in "\\PC{0,12}") {
            let mut p = white(24, 17);
            marks(&mut p, &[Mark::new(b, [1, 2, 3], s.clone()), Mark::new(b, [1, 2, 3], s).dashed()]);
            let _ = crop(&p, b, 0.5, 40);
        }
    }
}
