//! Outlines that are blank in a template, and the writing that instances have in them: a legend shows an empty balloon, a
//! drawing fills it with a tag.

use super::hygiene::pieces::{Piece, enclosed, pieces};
use super::score::Sheet;
use super::shape::Picture;
use super::simd::{Affine, Cloud};

/// Depth of an outline that has room for writing, pixels, and the share of the picture that lies in it.
const MIN_DEPTH: f32 = 6.0;
const MIN_SHARE: f32 = 0.1;
/// Depth beyond which writing may come, and up to which ink that does touches the outline, thirds of a pixel.
const RIM: u8 = 9;
const TOUCHED: u8 = 12;
/// Fewest pixels of a letter, and the greatest length of its shorter side as a share of the symbol's shorter side; of its
/// longer side where it touches the outline.
const MIN_LETTER: usize = 4;
const MAX_LETTER: f32 = 0.33;
const MAX_TOUCHING: f32 = 0.4;
/// Share of the rim that letters touch at most.
const MAX_TOUCHED: f32 = 0.25;

/// How far each pixel of a picture inside a blank outline is from ink, thirds of a pixel; 0 elsewhere. `far` is how far
/// every pixel is.
pub(super) fn depths(far: &[u8], text: &[u8], width: usize, height: usize) -> Vec<u8> {
    let ink: Vec<u8> = far.iter().map(|&d| u8::from(d == 0)).collect();
    let mut depths = vec![0; far.len()];
    for piece in enclosed(&ink, width, height) {
        let depth = piece.pixels.iter().map(|&i| far[i]).max().unwrap_or(0);
        let large = piece.pixels.len() as f32 >= MIN_SHARE * far.len() as f32;
        if large && f32::from(depth) >= 3.0 * MIN_DEPTH && piece.pixels.iter().all(|&i| text[i] == 0) {
            piece.pixels.iter().for_each(|&i| depths[i] = far[i]);
        }
    }
    depths
}

/// Where a template has room for writing.
#[derive(Clone, Debug)]
pub(super) struct Blank {
    /// Pixels away from the outline: where they are from the centre, and in the picture.
    cloud: Cloud,
    pixels: Vec<usize>,
    /// Those of the pixels where ink touches the outline.
    rim: Vec<usize>,
    width: usize,
    height: usize,
    /// The symbol's shorter side, pixels.
    side: f32,
}

impl Blank {
    /// From a template's picture and its [`depths`]; `extent` is the box of its ink as offsets from the centre.
    pub fn of(picture: &Picture, depths: &[u8], extent: [f32; 4]) -> Option<Self> {
        let pixels: Vec<usize> = (0..depths.len()).filter(|&i| Self::holds(depths[i])).collect();
        (!pixels.is_empty()).then(|| Self {
            cloud: Cloud::of(pixels.iter().map(|&i| picture.offset(i))),
            rim: pixels.iter().copied().filter(|&i| depths[i] <= TOUCHED).collect(),
            pixels,
            width: picture.width,
            height: picture.height,
            side: (extent[2] - extent[0]).min(extent[3] - extent[1]),
        })
    }

    /// Whether writing may come to a pixel so deep.
    pub fn holds(depth: u8) -> bool {
        depth > RIM
    }

    /// Whether what the drawing has there is writing: pieces of ink as small as letters, of which those that touch the
    /// outline are short.
    pub fn is_written(&self, sheet: &Sheet, at: &Affine) -> bool {
        let mut ink = vec![0; self.width * self.height];
        for (&i, cost) in self.pixels.iter().zip(sheet.cost.under(&self.cloud, at)) {
            // No distance to ink is ink.
            ink[i] = u8::from(cost == 0.0);
        }
        let touched: Vec<usize> = self.rim.iter().copied().filter(|&i| ink[i] == 1).collect();
        if touched.len() as f32 > MAX_TOUCHED * self.rim.len() as f32 {
            return false;
        }
        let letters = pieces(&ink, self.width, self.height).into_iter().filter(|p| p.pixels.len() >= MIN_LETTER);
        let (touching, free): (Vec<Piece>, Vec<Piece>) =
            letters.partition(|p| touched.iter().any(|i| p.pixels.contains(i)));
        let narrow = |p: &Piece| p.size()[0].min(p.size()[1]) as f32 <= MAX_LETTER * self.side;
        let short = |p: &Piece| p.size()[0].max(p.size()[1]) as f32 <= MAX_TOUCHING * self.side;
        !free.is_empty() && free.iter().all(narrow) && touching.iter().all(|p| narrow(p) && short(p))
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbaImage, imageops};

    use super::super::ink::{Ink, distance};
    use super::super::pose::Pose;
    use super::super::shape::Shape;
    use super::super::{Role, Template};
    use super::*;

    const MIDDLE: i32 = 50;

    /// A box of 50 pixels' lines with something in it, by the distance from its centre.
    fn picture(inside: impl Fn(i32, i32) -> bool) -> GrayImage {
        GrayImage::from_fn(2 * MIDDLE as u32, 2 * MIDDLE as u32, |x, y| {
            let (u, v) = (x as i32 - MIDDLE, y as i32 - MIDDLE);
            let edge = (u.abs().max(v.abs()) - 24).abs() <= 1;
            Luma([if edge || u.abs().max(v.abs()) < 24 && inside(u, v) { 20 } else { 240 }])
        })
    }

    fn letters(u: i32, v: i32) -> bool {
        (-6..=2).contains(&v)
            && [-12, -2, 8].iter().any(|&at| (0..2).contains(&(u - at)) || (v == -2 && (0..6).contains(&(u - at))))
    }

    /// Letters that are so low that they touch the outline.
    fn low_letters(u: i32, v: i32) -> bool {
        letters(u, v) || (14..24).contains(&v) && [-8, 2].iter().any(|at| (0..2).contains(&(u - at)))
    }

    /// A bar from side to side, above letters.
    fn bar(u: i32, v: i32) -> bool {
        letters(u, v) || (10..12).contains(&v)
    }

    fn cross(u: i32, v: i32) -> bool {
        u.abs() <= 1 || v.abs() <= 1
    }

    fn large(u: i32, v: i32) -> bool {
        u.abs().max(v.abs()) <= 12 && (u.abs() >= 11 || (u - v).abs() <= 1)
    }

    fn shape(inside: impl Fn(i32, i32) -> bool) -> Shape {
        let picture = picture(inside);
        let image = RgbaImage::from_fn(picture.width(), picture.height(), |x, y| {
            let level = picture.get_pixel(x, y).0[0];
            image::Rgba([level, level, level, 255])
        });
        Shape::of(&Template { class: "box".into(), name: String::new(), image, role: Role::Given, frame: None }, 1.0)
            .expect("there is ink")
    }

    fn correlation(shape: &Shape, inside: impl Fn(i32, i32) -> bool) -> f32 {
        let sheet = Sheet::of(Ink::of_drawing(&picture(inside)));
        let pose = Pose { at: [MIDDLE as f32 + 0.5; 2], ..Pose::upright(1.0) };
        shape.dense.compare(&sheet, &pose).correlation
    }

    #[test]
    fn writing_in_a_blank_outline_is_no_difference() {
        let shape = shape(|_, _| false);
        assert!(correlation(&shape, |_, _| false) > 0.98, "blank as it is");
        for (what, written) in
            [("letters", correlation(&shape, letters)), ("low ones", correlation(&shape, low_letters))]
        {
            assert!(written > 0.98, "{what}: {written}");
        }
        let others: [(&str, fn(i32, i32) -> bool); 3] = [("a cross", cross), ("a large letter", large), ("a bar", bar)];
        for (what, other) in others {
            let other = correlation(&shape, other);
            assert!(other < 0.9, "{what}: {other}");
        }
    }

    #[test]
    fn only_closed_outlines_with_room_are_blank() {
        // The box with as much paper around it as a prepared template has.
        const SIDE: usize = 63;
        let deep = |picture: GrayImage| {
            let template = imageops::crop_imm(&picture, 19, 19, SIDE as u32, SIDE as u32).to_image();
            let ink: Vec<u8> = template.into_raw().into_iter().map(|level| u8::from(level < 128)).collect();
            let far = distance(&ink, SIDE, SIDE, 60);
            depths(&far, &[0; SIDE * SIDE], SIDE, SIDE).iter().filter(|d| **d > RIM).count()
        };
        assert!(deep(picture(|_, _| false)) > 1000);
        assert_eq!(deep(picture(|u, v| (u + v).rem_euclid(10) < 2)), 0, "no room between the hatches");
        assert!(deep(picture(|_, v| v == 0)) > 1000, "two halves");
        let mut open = picture(|_, _| false);
        open.put_pixel(MIDDLE as u32, 25, Luma([240]));
        open.put_pixel(MIDDLE as u32, 26, Luma([240]));
        open.put_pixel(MIDDLE as u32, 27, Luma([240]));
        assert_eq!(deep(open), 0, "open at the top");
    }
}
