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

/// Draws boxes, then their labels on top. Line width and letter size grow with the picture (1 up to 2400 pixels). A
/// label stands where it covers no other box and no other label; where there is no such place, it has no ground, so that
/// what is below stays visible.
pub fn marks(picture: &mut RgbImage, marks: &[Mark]) {
    let unit = (picture.width().max(picture.height()) / 2400 + 1).min(4);
    for mark in marks {
        rectangle(picture, mark, 2 * unit);
    }
    let mut labels: Vec<[f64; 4]> = Vec::new();
    for mark in marks.iter().filter(|m| !m.label.is_empty()) {
        let width = text_width(&mark.label, unit) + 4 * unit;
        let height = CELL_H * unit + 2 * unit;
        let (place, covered) = place(picture.dimensions(), (width, height), mark, marks, &labels);
        let [x, y] = [place[0] as u32, place[1] as u32];
        let ink = if covered > 0.0 {
            mark.color
        } else {
            fill(picture, [x, y, x + width, y + height], mark.color);
            ink_on(mark.color)
        };
        text(picture, x + 2 * unit, y + unit, &mark.label, ink, unit);
        labels.push(place);
    }
}

/// Where the label of a mark covers least of other boxes and labels, and how many square pixels of them it covers there.
/// Boxes around the mark do not count: a label inside them hides nothing.
fn place(
    (w, h): (u32, u32),
    (width, height): (u32, u32),
    mark: &Mark,
    marks: &[Mark],
    labels: &[[f64; 4]],
) -> ([f64; 4], f64) {
    let [x0, y0, x1, y1] = mark.bbox;
    let (wide, high) = (f64::from(width), f64::from(height));
    let corners =
        [[x0, y0 - high], [x0, y1], [x1 - wide, y0 - high], [x1 - wide, y1], [x1, y0], [x0 - wide, y0], [x0, y0]];
    let mut best: Option<([f64; 4], f64)> = None;
    for [x, y] in corners {
        let x = f64::from(clamp(x, w.saturating_sub(width)));
        let y = f64::from(clamp(y, h.saturating_sub(height)));
        let at = [x, y, x + wide, y + high];
        let around = |b: &[f64; 4]| b[0] <= x0 && b[1] <= y0 && b[2] >= x1 && b[3] >= y1;
        let boxes = marks.iter().map(|m| &m.bbox).filter(|b| !around(b));
        // Inside its own box it covers the object itself: the last resort before losing its ground.
        let own = shared(&at, &mark.bbox) / 1e3;
        let others: f64 = boxes.chain(labels).map(|b| shared(&at, b)).sum();
        if best.is_none_or(|b| others + own < b.1) {
            best = Some((at, others + own));
        }
        if others + own <= 0.0 {
            break;
        }
    }
    best.unwrap_or_default()
}

/// Square pixels that two boxes share.
fn shared(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    (a[2].min(b[2]) - a[0].max(b[0])).max(0.0) * (a[3].min(b[3]) - a[1].max(b[1])).max(0.0)
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
    fn labels_cover_no_neighbour() {
        let mut p = white(200, 120);
        let (red, blue) = ([200, 0, 0], [0, 0, 120]);
        // Above and below the left box stand others, to its right is room.
        let boxes = [[20.0, 50.0, 40.0, 70.0], [20.0, 28.0, 40.0, 48.0], [20.0, 72.0, 40.0, 92.0]];
        let all = [Mark::new(boxes[0], red, "12"), Mark::new(boxes[1], blue, ""), Mark::new(boxes[2], blue, "")];
        marks(&mut p, &all);
        let inside = |b: [f64; 4], c: [u8; 3]| {
            let hit = |x: u32, y: u32| {
                f64::from(x) >= b[0] && f64::from(x) < b[2] && f64::from(y) >= b[1] && f64::from(y) < b[3]
            };
            p.enumerate_pixels().filter(|(x, y, k)| hit(*x, *y) && k.0 == c).count()
        };
        assert_eq!((inside(boxes[1], red), inside(boxes[2], red), inside(boxes[0], red)), (0, 0, 0));
        assert!(p.enumerate_pixels().filter(|(x, _, k)| *x >= 42 && k.0 == red).count() > 60);
        // Without any room the label has no ground.
        let mut p = white(30, 30);
        marks(&mut p, &[Mark::new([2.0, 2.0, 28.0, 28.0], red, "1"), Mark::new([3.0, 3.0, 29.0, 29.0], blue, "2")]);
        assert!(p.pixels().filter(|k| k.0 == [255; 3]).count() > 300);
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
