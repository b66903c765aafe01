//! Fitting a picture into a network's input: scaled without distortion, centred, the rest filled with grey.
//!
//! Owns the geometry (there and back), the resampling and the conversion to numbers. One path for training, validation
//! and inference. Refuses to own augmentation.

use datasets::{BBox, Pixels};
use image::RgbImage;

/// Frame: pixels of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canvas;

/// Grey level around the picture (the YOLO family's convention).
pub const FILL: u8 = 114;

/// Whether pictures smaller than the canvas are enlarged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upscale {
    /// Always fill the canvas.
    Yes,
    /// Leave small pictures at their size (validation).
    No,
}

/// Where a picture lies in the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letterbox {
    /// Width and height of the picture.
    pub source: (u32, u32),
    /// Width and height of the canvas.
    pub canvas: (u32, u32),
    /// Width and height of the picture in the canvas.
    pub inner: (u32, u32),
    /// Left and top of the picture in the canvas.
    pub offset: (u32, u32),
}

impl Letterbox {
    /// Plans the fit of a picture of `source` (width, height, not 0) into `canvas`.
    pub fn new(source: (u32, u32), canvas: (u32, u32), upscale: Upscale) -> Self {
        let (sw, sh) = (f64::from(source.0), f64::from(source.1));
        let mut scale = (f64::from(canvas.0) / sw).min(f64::from(canvas.1) / sh);
        if upscale == Upscale::No {
            scale = scale.min(1.0);
        }
        let inner =
            (((sw * scale).round() as u32).clamp(1, canvas.0), ((sh * scale).round() as u32).clamp(1, canvas.1));
        Self { source, canvas, inner, offset: ((canvas.0 - inner.0) / 2, (canvas.1 - inner.1) / 2) }
    }

    /// Canvas pixels per picture pixel, in x and y (they differ by the rounding of `inner` to whole pixels).
    pub fn scale(&self) -> (f64, f64) {
        (f64::from(self.inner.0) / f64::from(self.source.0), f64::from(self.inner.1) / f64::from(self.source.1))
    }

    /// A box of the picture, in the canvas.
    pub fn to_canvas(&self, b: &BBox<Pixels>) -> BBox<Canvas> {
        let (sx, sy) = self.scale();
        let (ox, oy) = (f64::from(self.offset.0), f64::from(self.offset.1));
        BBox::new(b.x0 * sx + ox, b.y0 * sy + oy, b.x1 * sx + ox, b.y1 * sy + oy)
    }

    /// A box of the canvas, in the picture. Not clipped.
    pub fn to_picture(&self, b: &BBox<Canvas>) -> BBox<Pixels> {
        let (sx, sy) = self.scale();
        let (ox, oy) = (f64::from(self.offset.0), f64::from(self.offset.1));
        BBox::new((b.x0 - ox) / sx, (b.y0 - oy) / sy, (b.x1 - ox) / sx, (b.y1 - oy) / sy)
    }

    /// The canvas with the picture in it.
    pub fn apply(&self, picture: &RgbImage) -> RgbImage {
        assert_eq!(picture.dimensions(), self.source, "the letterbox was planned for another picture");
        let row = self.canvas.0 as usize * 3;
        let mut out = vec![FILL; row * self.canvas.1 as usize];
        let start = self.offset.1 as usize * row + self.offset.0 as usize * 3;
        resize_into(picture, self.inner, [0, 0, self.inner.0, self.inner.1], &mut out[start..], row);
        RgbImage::from_raw(self.canvas.0, self.canvas.1, out).expect("the buffer was made for the canvas")
    }
}

/// A picture scaled to `size` (width, height): the mean of the covered area when it shrinks, bilinear when it grows.
/// Thin lines of a drawing get paler when it shrinks but never vanish between the samples.
pub fn resize(picture: &RgbImage, size: (u32, u32)) -> RgbImage {
    let mut out = vec![0; size.0 as usize * size.1 as usize * 3];
    resize_into(picture, size, [0, 0, size.0, size.1], &mut out, size.0 as usize * 3);
    RgbImage::from_raw(size.0, size.1, out).expect("the buffer was made for the size")
}

/// The part `[x, y, width, height]` of `resize(picture, size)`, pixel for pixel, without making the rest.
pub fn resize_window(picture: &RgbImage, size: (u32, u32), window: [u32; 4]) -> RgbImage {
    let [_, _, width, height] = window;
    let mut out = vec![0; width as usize * height as usize * 3];
    resize_into(picture, size, window, &mut out, width as usize * 3);
    RgbImage::from_raw(width, height, out).expect("the buffer was made for the window")
}

/// The picture's numbers 0..=1 in their order (`[height, width, 3]`), appended to `out`.
pub fn to_floats(picture: &RgbImage, out: &mut Vec<f32>) {
    out.extend(picture.as_raw().iter().map(|&v| f32::from(v) / 255.0));
}

/// For each output index: the first input index and the weights (which sum to 1) from there on.
struct Taps {
    first: Vec<usize>,
    weights: Vec<f32>,
    /// Weights per output.
    span: usize,
}

impl Taps {
    fn new(input: usize, output: usize) -> Self {
        let step = input as f64 / output as f64;
        let span = if step > 1.0 { step.ceil() as usize + 1 } else { 2 }.min(input);
        let mut first = Vec::with_capacity(output);
        let mut weights = vec![0.0; output * span];
        for (o, w) in weights.chunks_exact_mut(span).enumerate() {
            if step > 1.0 {
                let (from, to) = (o as f64 * step, (o as f64 + 1.0) * step);
                let start = (from as usize).min(input - span);
                first.push(start);
                for (i, w) in w.iter_mut().enumerate() {
                    let pixel = (start + i) as f64;
                    *w = ((to.min(pixel + 1.0) - from.max(pixel)).max(0.0) / step) as f32;
                }
            } else {
                let center = ((o as f64 + 0.5) * step - 0.5).clamp(0.0, (input - 1) as f64);
                let start = (center as usize).min(input - span);
                first.push(start);
                let right = (center - start as f64) as f32;
                w[0] = 1.0 - right;
                if span == 2 {
                    w[1] = right;
                }
            }
        }
        Self { first, weights, span }
    }

    fn of(&self, output: usize) -> (usize, &[f32]) {
        (self.first[output], &self.weights[output * self.span..(output + 1) * self.span])
    }
}

/// Scales to `size` and writes the part `[x, y, width, height]` of it into `out`, whose rows are `stride` bytes apart.
fn resize_into(picture: &RgbImage, size: (u32, u32), window: [u32; 4], out: &mut [u8], stride: usize) {
    let (sw, sh) = (picture.width() as usize, picture.height() as usize);
    let [left, top, w, h] = window.map(|v| v as usize);
    assert!(left + w <= size.0 as usize && top + h <= size.1 as usize, "the window lies inside the scaled picture");
    let source = picture.as_raw();
    if (sw, sh) == (size.0 as usize, size.1 as usize) {
        for (from, to) in source.chunks_exact(sw * 3).skip(top).zip(out.chunks_mut(stride)).take(h) {
            to[..w * 3].copy_from_slice(&from[left * 3..(left + w) * 3]);
        }
        return;
    }
    let (across, down) = (Taps::new(sw, size.0 as usize), Taps::new(sh, size.1 as usize));
    // The source columns that the window needs.
    let from = across.first[left] * 3;
    let to = (across.first[left + w - 1] + across.span) * 3;
    let mut sums = vec![0.0_f32; to - from];
    for (y, line) in out.chunks_mut(stride).take(h).enumerate() {
        // Rows first: long straight loops over whole rows, which the compiler turns into vector code.
        let (start, weights) = down.of(top + y);
        sums.fill(0.0);
        for (row, &weight) in source[start * sw * 3..].chunks_exact(sw * 3).zip(weights) {
            if weight != 0.0 {
                for (s, &v) in sums.iter_mut().zip(&row[from..to]) {
                    *s += weight * f32::from(v);
                }
            }
        }
        for (x, pixel) in line[..w * 3].chunks_exact_mut(3).enumerate() {
            let (start, weights) = across.of(left + x);
            let mut rgb = [0.5_f32; 3];
            for (p, &weight) in sums[start * 3 - from..].chunks_exact(3).zip(weights) {
                rgb[0] += weight * p[0];
                rgb[1] += weight * p[1];
                rgb[2] += weight * p[2];
            }
            pixel.copy_from_slice(&rgb.map(|v| v as u8));
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn wide_pictures_are_centred_with_grey_above_and_below() {
        let picture = RgbImage::from_pixel(1280, 640, Rgb([255, 0, 0]));
        let fit = Letterbox::new((1280, 640), (640, 640), Upscale::Yes);
        assert_eq!((fit.inner, fit.offset), ((640, 320), (0, 160)));
        let canvas = fit.apply(&picture);
        assert_eq!(canvas.dimensions(), (640, 640));
        for (y, want) in [(0, [FILL; 3]), (159, [FILL; 3]), (160, [255, 0, 0]), (479, [255, 0, 0]), (480, [FILL; 3])] {
            assert_eq!(canvas.get_pixel(320, y).0, want, "row {y}");
        }
    }

    #[test]
    fn small_pictures_keep_their_size_when_asked() {
        let fit = Letterbox::new((100, 50), (640, 640), Upscale::No);
        assert_eq!((fit.inner, fit.offset), ((100, 50), (270, 295)));
        let picture = RgbImage::from_fn(100, 50, |x, y| Rgb([x as u8, y as u8, 7]));
        let canvas = fit.apply(&picture);
        assert!(picture.enumerate_pixels().all(|(x, y, p)| canvas.get_pixel(x + 270, y + 295) == p));
    }

    #[test]
    fn boxes_come_back_exactly_for_every_size() {
        for source in [(1, 1), (3, 1000), (3300, 2099), (641, 640), (7000, 5000), (17, 19)] {
            for upscale in [Upscale::Yes, Upscale::No] {
                let fit = Letterbox::new(source, (640, 480), upscale);
                let (w, h) = (f64::from(source.0), f64::from(source.1));
                let whole = fit.to_canvas(&BBox::new(0.0, 0.0, w, h));
                assert_eq!((whole.width().round() as u32, whole.height().round() as u32), fit.inner);
                let b = BBox::new(0.1 * w, 0.2 * h, 0.7 * w, 0.9 * h);
                let back = fit.to_picture(&fit.to_canvas(&b));
                for (p, q) in <[f64; 4]>::from(b).iter().zip(<[f64; 4]>::from(back)) {
                    assert!((p - q).abs() < 1e-9, "{source:?}: {b:?} came back as {back:?}");
                }
            }
        }
    }

    #[test]
    fn pixels_land_where_boxes_say() {
        // A black block on white: its box mapped to the canvas is where the canvas is dark.
        let picture = RgbImage::from_fn(1000, 700, |x, y| {
            Rgb([if (300..500).contains(&x) && (200..350).contains(&y) { 0 } else { 255 }; 3])
        });
        let fit = Letterbox::new((1000, 700), (320, 320), Upscale::No);
        let canvas = fit.apply(&picture);
        let b = fit.to_canvas(&BBox::new(300.0, 200.0, 500.0, 350.0));
        for (x, y, p) in canvas.enumerate_pixels() {
            let (px, py) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
            let deep = px > b.x0 + 1.0 && px < b.x1 - 1.0 && py > b.y0 + 1.0 && py < b.y1 - 1.0;
            let outside = px < b.x0 - 1.0 || px > b.x1 + 1.0 || py < b.y0 - 1.0 || py > b.y1 + 1.0;
            assert!(!deep || p.0[0] == 0, "{x},{y}: {p:?}");
            assert!(!outside || p.0[0] >= FILL, "{x},{y}: {p:?}");
        }
    }

    #[test]
    fn shrinking_keeps_the_mean_and_growing_the_ends() {
        let picture = RgbImage::from_fn(97, 61, |x, y| Rgb([(x * 31 % 251) as u8, (y * 17 % 239) as u8, 9]));
        let mean = |p: &RgbImage, c: usize| {
            p.pixels().map(|p| f64::from(p.0[c])).sum::<f64>() / f64::from(p.width() * p.height())
        };
        for size in [(40, 23), (96, 60), (1, 1), (97, 7)] {
            let small = resize(&picture, size);
            for c in 0..3 {
                assert!((mean(&small, c) - mean(&picture, c)).abs() < 0.6, "{size:?}, channel {c}");
            }
        }
        let large = resize(&picture, (300, 200));
        assert_eq!(large.get_pixel(0, 0), picture.get_pixel(0, 0));
        assert_eq!(large.get_pixel(299, 199), picture.get_pixel(96, 60));
        assert_eq!(
            resize(&RgbImage::from_pixel(1, 1, Rgb([5, 6, 7])), (9, 4)),
            RgbImage::from_pixel(9, 4, Rgb([5, 6, 7]))
        );
    }

    #[test]
    fn a_thin_line_survives_shrinking() {
        let picture = RgbImage::from_fn(2000, 2000, |x, _| Rgb([if x == 777 { 0 } else { 255 }; 3]));
        let small = resize(&picture, (640, 640));
        assert!(small.pixels().any(|p| p.0[0] < 200));
    }

    #[test]
    fn a_window_equals_the_part_of_the_whole() {
        let picture =
            RgbImage::from_fn(97, 61, |x, y| Rgb([(x * 31 % 251) as u8, (y * 17 % 239) as u8, (x ^ y) as u8]));
        for size in [(40, 23), (97, 61), (300, 200), (97, 30)] {
            let whole = resize(&picture, size);
            for window in [[0, 0, size.0, size.1], [7, 3, 20, 11], [size.0 - 5, size.1 - 9, 5, 9], [3, 4, 1, 1]] {
                let [x, y, w, h] = window;
                let part = image::imageops::crop_imm(&whole, x, y, w, h).to_image();
                assert_eq!(resize_window(&picture, size, window), part, "{size:?} {window:?}");
            }
        }
    }

    #[test]
    fn numbers_are_in_order() {
        let picture = RgbImage::from_fn(2, 2, |x, y| Rgb([(x + 2 * y) as u8, 100, 255]));
        let mut numbers = Vec::new();
        to_floats(&picture, &mut numbers);
        assert_eq!(numbers[..6], [0.0, 100.0 / 255.0, 1.0, 1.0 / 255.0, 100.0 / 255.0, 1.0]);
        assert_eq!(numbers.len(), 12);
    }

    #[test]
    #[ignore = "a measurement: cargo test -p vision letterbox_speed -- --ignored --nocapture"]
    fn letterbox_speed() {
        for (w, h) in [(640, 480), (1280, 960), (3300, 2099), (7000, 5000)] {
            let picture = RgbImage::from_fn(w, h, |x, y| Rgb([(x ^ y) as u8, x as u8, y as u8]));
            let fit = Letterbox::new((w, h), (640, 640), Upscale::Yes);
            let start = std::time::Instant::now();
            let n = 10;
            for _ in 0..n {
                std::hint::black_box(fit.apply(std::hint::black_box(&picture)));
            }
            let each = start.elapsed() / n;
            let start = std::time::Instant::now();
            std::hint::black_box(image::imageops::resize(
                &picture,
                fit.inner.0,
                fit.inner.1,
                image::imageops::FilterType::Triangle,
            ));
            println!("{w} x {h}: {each:?}, image::imageops Triangle {:?}", start.elapsed());
        }
    }
}
