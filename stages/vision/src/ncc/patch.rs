//! A template's pixels in one pose: grey levels, and which of them count.
//!
//! Owns the conversion to grey, mirroring, resizing and turning. Knows nothing of drawings.

use image::{RgbImage, RgbaImage};

/// Share of a pixel that must be covered by pixels that count for it to count itself.
const MIN_INSIDE: f32 = 0.5;

/// Grey levels of a template and its mask, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub width: usize,
    pub height: usize,
    pub grey: Vec<u8>,
    /// Which pixels count; never all false in a patch that is used.
    pub inside: Vec<bool>,
}

/// Pixels of a mask that form a rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub x0: usize,
    pub y0: usize,
    pub x1: usize,
    pub y1: usize,
}

/// Luma of ITU-R BT.601 in the fixed point of OpenCV's `cvtColor`.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    let sum = 9798 * u32::from(r) + 19235 * u32::from(g) + 3735 * u32::from(b);
    ((sum + (1 << 14)) >> 15) as u8
}

/// A drawing's grey levels as OpenCV converts them.
pub(super) fn grey(drawing: &RgbImage) -> image::GrayImage {
    let levels = drawing.pixels().map(|p| luma(p.0)).collect();
    image::GrayImage::from_raw(drawing.width(), drawing.height(), levels).expect("one level per pixel")
}

impl Patch {
    /// The picture as it is. As OpenCV does with 8-bit masks, every pixel that is not wholly transparent counts.
    pub fn of(picture: &RgbaImage) -> Self {
        let grey = picture.pixels().map(|p| luma([p[0], p[1], p[2]])).collect();
        let inside = picture.pixels().map(|p| p[3] > 0).collect();
        Self { width: picture.width() as usize, height: picture.height() as usize, grey, inside }
    }

    /// True when no two pixels that count differ: a correlation with it has no meaning.
    pub fn is_flat(&self) -> bool {
        let mut counted = self.grey.iter().zip(&self.inside).filter(|(_, inside)| **inside).map(|(g, _)| g);
        let first = counted.next();
        counted.all(|g| Some(g) == first)
    }

    /// Left and right exchanged.
    pub fn mirrored(&self) -> Self {
        self.gathered(self.width, self.height, |x, y| (self.width - 1 - x, y))
    }

    /// Turned clockwise by so many quarters, pixel for pixel.
    pub fn quarter_turned(&self, quarters: usize) -> Self {
        let (w, h) = (self.width, self.height);
        match quarters % 4 {
            0 => self.clone(),
            1 => self.gathered(h, w, |x, y| (y, h - 1 - x)),
            2 => self.gathered(w, h, |x, y| (w - 1 - x, h - 1 - y)),
            _ => self.gathered(h, w, |x, y| (w - 1 - y, x)),
        }
    }

    fn gathered(&self, width: usize, height: usize, source: impl Fn(usize, usize) -> (usize, usize)) -> Self {
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let indices = places.map(|(x, y)| source(x, y)).map(|(x, y)| y * self.width + x);
        let (grey, inside) = indices.map(|i| (self.grey[i], self.inside[i])).unzip();
        Self { width, height, grey, inside }
    }

    /// At another size: each axis by area where it shrinks and linearly where it grows, like OpenCV's `INTER_AREA` and
    /// `INTER_LINEAR`. Pixels that do not count lend no grey to those that do.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let (columns, rows) = (weights(self.width, width), weights(self.height, height));
        let mut narrow = vec![[0.0f32; 2]; width * self.height];
        for y in 0..self.height {
            for (x, taps) in columns.iter().enumerate() {
                for &(from, weight) in taps {
                    narrow[y * width + x] = added(narrow[y * width + x], self.weighed(from, y), weight);
                }
            }
        }
        let mut planes = vec![[0.0f32; 2]; width * height];
        for (y, taps) in rows.iter().enumerate() {
            for x in 0..width {
                for &(from, weight) in taps {
                    planes[y * width + x] = added(planes[y * width + x], narrow[from * width + x], weight);
                }
            }
        }
        Self::of_planes(width, height, &planes)
    }

    /// Turned clockwise about its centre, with bilinear sampling, in a picture that holds all of it; the corners that
    /// this adds do not count.
    pub fn turned(&self, angle_deg: f64) -> Self {
        let (width, height) = turned_size(self.width, self.height, angle_deg);
        let (sin, cos) = angle_deg.to_radians().sin_cos();
        let centre = |n: usize| (n as f64 - 1.0) / 2.0;
        let mut planes = vec![[0.0f32; 2]; width * height];
        for y in 0..height {
            for x in 0..width {
                let (u, v) = (x as f64 - centre(width), y as f64 - centre(height));
                let (u, v) = (u * cos + v * sin + centre(self.width), v * cos - u * sin + centre(self.height));
                let (u0, v0) = (u.floor(), v.floor());
                let (fu, fv) = ((u - u0) as f32, (v - v0) as f32);
                for (du, dv, weight) in [
                    (0.0, 0.0, (1.0 - fu) * (1.0 - fv)),
                    (1.0, 0.0, fu * (1.0 - fv)),
                    (0.0, 1.0, (1.0 - fu) * fv),
                    (1.0, 1.0, fu * fv),
                ] {
                    let (u, v) = (u0 + du, v0 + dv);
                    if u >= 0.0 && v >= 0.0 && u < self.width as f64 && v < self.height as f64 {
                        let value = self.weighed(u as usize, v as usize);
                        planes[y * width + x] = added(planes[y * width + x], value, weight);
                    }
                }
            }
        }
        Self::of_planes(width, height, &planes)
    }

    /// Grey times whether the pixel counts, and whether it counts.
    fn weighed(&self, x: usize, y: usize) -> [f32; 2] {
        let i = y * self.width + x;
        if self.inside[i] { [f32::from(self.grey[i]), 1.0] } else { [0.0; 2] }
    }

    fn of_planes(width: usize, height: usize, planes: &[[f32; 2]]) -> Self {
        // A hair below one half, so that rounding of the weights does not decide.
        let counts = |share: f32| share >= MIN_INSIDE - 1e-4;
        let grey = planes.iter().map(|&[v, share]| if counts(share) { (v / share).round() as u8 } else { 0 }).collect();
        Self { width, height, grey, inside: planes.iter().map(|p| counts(p[1])).collect() }
    }

    /// The mask as rectangles that do not overlap: runs of a row, joined over rows where they are the same.
    pub fn rects(&self) -> Vec<Rect> {
        let mut done: Vec<Rect> = Vec::new();
        let mut open: Vec<Rect> = Vec::new();
        for (y, row) in self.inside.chunks(self.width).enumerate() {
            let mut next = Vec::new();
            let mut x = 0;
            while x < row.len() {
                let run = row[x..].iter().take_while(|&&inside| inside == row[x]).count();
                if row[x] {
                    let same = open.iter().position(|r| (r.x0, r.x1) == (x, x + run));
                    let y0 = same.map_or(y, |i| open.remove(i).y0);
                    next.push(Rect { x0: x, y0, x1: x + run, y1: y + 1 });
                }
                x += run;
            }
            done.append(&mut open);
            open = next;
        }
        done.append(&mut open);
        done
    }
}

/// Size of the picture that holds a turned one.
pub(super) fn turned_size(width: usize, height: usize, angle_deg: f64) -> (usize, usize) {
    let (sin, cos) = angle_deg.to_radians().sin_cos();
    let (w, h) = (width as f64, height as f64);
    let side = |v: f64| (v.round() as usize).max(1);
    (side((w * cos).abs() + (h * sin).abs()), side((w * sin).abs() + (h * cos).abs()))
}

fn added(sum: [f32; 2], value: [f32; 2], weight: f32) -> [f32; 2] {
    [sum[0] + weight * value[0], sum[1] + weight * value[1]]
}

/// Which source pixels make each target pixel of an axis, with weights that sum to one.
fn weights(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let ratio = from as f64 / to as f64;
    let area = |i: usize| {
        let (start, end) = (i as f64 * ratio, ((i + 1) as f64 * ratio).min(from as f64));
        let covered = (start as usize)..(end.ceil() as usize).min(from);
        let share = |k: usize| ((k + 1) as f64).min(end) - (k as f64).max(start);
        covered.map(|k| (k, (share(k) / (end - start)) as f32)).filter(|t| t.1 > 0.0).collect()
    };
    let linear = |i: usize| {
        let at = ((i as f64 + 0.5) * ratio - 0.5).clamp(0.0, from as f64 - 1.0);
        let (low, part) = (at as usize, at.fract() as f32);
        vec![(low, 1.0 - part), ((low + 1).min(from - 1), part)]
    };
    (0..to).map(|i| if to < from { area(i) } else { linear(i) }).collect()
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    fn patch(width: usize, height: usize) -> Patch {
        let grey = (0..width * height).map(|i| (i * 37 % 251) as u8).collect();
        Patch { width, height, grey, inside: vec![true; width * height] }
    }

    #[test]
    fn quarter_turns_add_up_and_go_clockwise() {
        let p = patch(5, 3);
        let q = p.quarter_turned(1);
        assert_eq!((q.width, q.height), (3, 5));
        // The upper left corner goes to the upper right.
        assert_eq!(q.grey[2], p.grey[0]);
        assert_eq!(q.quarter_turned(3), p);
        assert_eq!(q.quarter_turned(1), p.quarter_turned(2));
        assert_eq!(p.mirrored().mirrored(), p);
        for quarters in 0..4 {
            assert_eq!(p.turned(90.0 * quarters as f64), p.quarter_turned(quarters), "{quarters}");
        }
    }

    #[test]
    fn areas_are_averaged_and_lines_interpolated() {
        let p = Patch { width: 4, height: 1, grey: vec![0, 100, 50, 150], inside: vec![true; 4] };
        assert_eq!(p.resized(2, 1).grey, [50, 100]);
        assert_eq!(p.resized(8, 1).grey, [0, 25, 75, 88, 63, 75, 125, 150]);
        let third = p.resized(3, 1);
        assert_eq!(third.grey, [25, 75, 125]);
        assert!(third.inside.iter().all(|i| *i));
    }

    #[test]
    fn pixels_outside_the_mask_lend_no_grey() {
        let p = Patch { width: 4, height: 1, grey: vec![255, 100, 100, 100], inside: vec![false, true, true, true] };
        let half = p.resized(2, 1);
        assert_eq!((half.grey, half.inside), (vec![100, 100], vec![true, true]));
        assert!(!p.turned(30.0).inside[0]);
    }

    #[test]
    fn masks_fall_into_rectangles() {
        let p = patch(6, 4);
        assert_eq!(p.rects(), [Rect { x0: 0, y0: 0, x1: 6, y1: 4 }]);
        let mut holed = patch(6, 4);
        holed.inside[8] = false;
        holed.inside[14] = false;
        let rects = holed.rects();
        let mut seen = [0; 24];
        for r in &rects {
            for y in r.y0..r.y1 {
                for x in r.x0..r.x1 {
                    seen[y * 6 + x] += 1;
                }
            }
        }
        assert!(seen.iter().zip(&holed.inside).all(|(&n, &inside)| n == i32::from(inside)), "{rects:?}");
        assert_eq!(rects.len(), 4);
    }

    #[test]
    fn flatness_looks_at_pixels_that_count() {
        let mut picture = RgbaImage::from_pixel(3, 3, Rgba([9, 9, 9, 255]));
        assert!(Patch::of(&picture).is_flat());
        picture.put_pixel(1, 1, Rgba([200, 9, 9, 0]));
        assert!(Patch::of(&picture).is_flat());
        picture.put_pixel(1, 1, Rgba([200, 9, 9, 1]));
        assert!(!Patch::of(&picture).is_flat());
        assert_eq!(luma([255; 3]), 255);
    }
}
