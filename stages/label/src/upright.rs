//! Cuts a box out of a drawing the way its template shows it: upright, unmirrored, at the template's size.
//!
//! Owns the geometry. Refuses to know what the box is.

use std::f64::consts::FRAC_PI_2;

use datasets::{BBox, Pixels, Provenance};
use image::{Rgb, RgbImage, Rgba, RgbaImage};

/// Surroundings of a box, as a share of its longer side and at least in pixels: they show where the symbol ends.
const MARGIN: f64 = 0.15;
const MIN_MARGIN_PX: f64 = 2.0;
/// Deviation from a quarter turn that counts as none, degrees: no turn means no blur.
const NO_TURN_DEG: f64 = 1.0;
/// Deviation from a quarter turn up to which a box tells the sides of what is in it, degrees.
const SKEW_DEG: f64 = 4.0;
/// Relative difference in size that is not worth resampling.
const SAME_SIZE: f64 = 0.03;
/// Longest side of a picture, pixels.
const MAX_SIDE: f64 = 1024.0;

/// How a template lies on a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lie {
    /// Turn, degrees clockwise.
    pub rotation_deg: f64,
    /// Whether it was mirrored left to right before it was turned.
    pub mirrored: bool,
    /// Pixels of the drawing per pixel of the template.
    pub scale: f64,
    /// Width over height relative to the template.
    pub stretch: f64,
}

impl Lie {
    /// As drawn, at a size.
    pub fn upright(scale: f64) -> Self {
        Self { rotation_deg: 0.0, mirrored: false, scale, stretch: 1.0 }
    }

    /// What the provenance of a box tells; `None` when it does not.
    pub fn of(provenance: &Provenance) -> Option<Self> {
        let number = |name: &str| provenance.evidence.get(name).copied().filter(|v| v.is_finite());
        let positive = |name: &str| number(name).filter(|v| (0.02..=50.0).contains(v));
        Some(Self {
            rotation_deg: number("rotation_deg")?,
            mirrored: number("mirrored").unwrap_or(0.0) > 0.5,
            scale: positive("scale").unwrap_or(1.0),
            stretch: positive("stretch").unwrap_or(1.0),
        })
    }
}

/// A box that was cut out.
#[derive(Clone, Debug, PartialEq)]
pub struct Cutout {
    /// The box with some surroundings; transparent where the drawing ends.
    pub picture: RgbaImage,
    /// Where the box is: left, top, right, bottom, pixels of the picture. `None` for a slanted symbol, whose own sides
    /// the box does not tell.
    pub frame: Option<[f32; 4]>,
}

/// Cuts a box out; `None` when it lies outside of the drawing.
pub fn cut(drawing: &RgbImage, bbox: &BBox<Pixels>, lie: Lie) -> Option<Cutout> {
    bbox.clipped(drawing.width(), drawing.height())?;
    let quarters = (lie.rotation_deg / 90.0).round();
    let off = (lie.rotation_deg - 90.0 * quarters).abs();
    let odd = quarters.rem_euclid(2.0) > 0.5;
    let turn = if off <= NO_TURN_DEG { quarters * FRAC_PI_2 } else { lie.rotation_deg.to_radians() };
    // The sides of what is in the box: of a slanted symbol only their upper bound is known, which is room enough.
    let slanted = off > SKEW_DEG;
    let ([w, h], share) = match (slanted, odd) {
        (false, false) => ([bbox.width(), bbox.height()], MARGIN),
        (false, true) => ([bbox.height(), bbox.width()], MARGIN),
        (true, _) => ([bbox.width().hypot(bbox.height()); 2], 0.0),
    };
    // Pixels of the drawing per pixel of the picture.
    let plain = |v: f64| if (v - 1.0).abs() <= SAME_SIZE { 1.0 } else { v };
    let step = [lie.scale * lie.stretch.sqrt(), lie.scale / lie.stretch.sqrt()];
    let longest = (w / step[0]).max(h / step[1]);
    let around = |longest: f64| (share * longest).max(MIN_MARGIN_PX);
    let shrink = ((longest + 2.0 * around(longest)) / MAX_SIDE).max(1.0);
    let step = step.map(|s| plain(s * shrink));
    let margin = around((w / step[0]).max(h / step[1]));
    let side = |v: f64, step: f64| ((v / step + 2.0 * margin).round() as u32).max(1);
    let (width, height) = (side(w, step[0]), side(h, step[1]));
    let half = [f64::from(width) / 2.0, f64::from(height) / 2.0];
    let (sin, cos) = turn.sin_cos();
    let sign = if lie.mirrored { -1.0 } else { 1.0 };
    // Centres of pixels fall on centres of pixels where nothing is resampled.
    let snap = |v: f64, half: f64| (v - half).round() + half;
    let middle = bbox.center();
    let halves = if odd { [half[1], half[0]] } else { half };
    let (cx, cy) = (snap(middle.0, halves[0]), snap(middle.1, halves[1]));
    let (dx, dy) = (middle.0 - cx, middle.1 - cy);
    let at = [half[0] + (dx * cos + dy * sin) * sign / step[0], half[1] + (dy * cos - dx * sin) / step[1]];
    let reach = [0.5 * w / step[0], 0.5 * h / step[1]];
    let frame = [at[0] - reach[0], at[1] - reach[1], at[0] + reach[0], at[1] + reach[1]].map(|v| v as f32);
    let picture = RgbaImage::from_fn(width, height, |u, v| {
        let x = (f64::from(u) + 0.5 - half[0]) * step[0] * sign;
        let y = (f64::from(v) + 0.5 - half[1]) * step[1];
        between(drawing, cx + x * cos - y * sin, cy + x * sin + y * cos, step)
    });
    Some(Cutout { picture, frame: (!slanted).then_some(frame) })
}

/// The colour at a place between pixels, averaged over `step` pixels where the picture is made smaller.
fn between(drawing: &RgbImage, x: f64, y: f64, step: [f64; 2]) -> Rgba<u8> {
    if !(0.0..f64::from(drawing.width())).contains(&x) || !(0.0..f64::from(drawing.height())).contains(&y) {
        return Rgba([255, 255, 255, 0]);
    }
    let taps = |s: f64| (s.max(1.0).ceil() as i32).clamp(1, 4);
    let [nx, ny] = [taps(step[0]), taps(step[1])];
    let mut sum = [0.0; 3];
    for j in 0..ny {
        for i in 0..nx {
            let within = |k: i32, n: i32, s: f64| ((f64::from(k) + 0.5) / f64::from(n) - 0.5) * s.max(1.0);
            let at = |n: i32, k: i32, s: f64| if n == 1 { 0.0 } else { within(k, n, s) };
            let c = bilinear(drawing, x + at(nx, i, step[0]), y + at(ny, j, step[1]));
            for (sum, c) in sum.iter_mut().zip(c) {
                *sum += c;
            }
        }
    }
    let [r, g, b] = sum.map(|v| (v / f64::from(nx * ny)).round() as u8);
    Rgba([r, g, b, 255])
}

fn bilinear(drawing: &RgbImage, x: f64, y: f64) -> [f64; 3] {
    let (left, top) = ((x - 0.5).floor(), (y - 0.5).floor());
    let (a, b) = (x - 0.5 - left, y - 0.5 - top);
    let at = |u: f64, v: f64| -> Rgb<u8> {
        let u = u.clamp(0.0, f64::from(drawing.width() - 1));
        let v = v.clamp(0.0, f64::from(drawing.height() - 1));
        *drawing.get_pixel(u as u32, v as u32)
    };
    let corners = [at(left, top), at(left + 1.0, top), at(left, top + 1.0), at(left + 1.0, top + 1.0)];
    let weights = [(1.0 - a) * (1.0 - b), a * (1.0 - b), (1.0 - a) * b, a * b];
    [0, 1, 2].map(|c| corners.iter().zip(weights).map(|(p, w)| f64::from(p.0[c]) * w).sum())
}

#[cfg(test)]
mod tests {
    use image::imageops;

    use super::*;

    /// A flag without any symmetry, 30 x 20, its ink at 5..25 x 4..16.
    fn flag() -> RgbImage {
        RgbImage::from_fn(30, 20, |x, y| {
            let ink = (5..25).contains(&x) && (4..16).contains(&y) && (x < 8 || y < 6 || (x > 18 && y < 12));
            Rgb(if ink { [0, 40, 0] } else { [255; 3] })
        })
    }

    fn on_paper(symbol: &RgbImage, x: i64, y: i64) -> RgbImage {
        let mut paper = RgbImage::from_pixel(120, 100, Rgb([255; 3]));
        imageops::replace(&mut paper, symbol, x, y);
        paper
    }

    /// Share of pixels of the cut's middle that differ much from the flag's ink box.
    fn difference(cut: &RgbaImage) -> f64 {
        let flag = flag();
        let (dx, dy) = ((i64::from(cut.width()) - 20) / 2, (i64::from(cut.height()) - 12) / 2);
        let wrong = (0..12).flat_map(|y| (0..20).map(move |x| (x, y))).filter(|&(x, y)| {
            let p = cut.get_pixel((dx + x) as u32, (dy + y) as u32);
            p[0].abs_diff(flag.get_pixel((5 + x) as u32, (4 + y) as u32)[0]) > 128
        });
        wrong.count() as f64 / 240.0
    }

    #[test]
    fn turned_and_mirrored_symbols_come_out_upright_without_a_changed_pixel() {
        for mirrored in [false, true] {
            for quarter in 0..4 {
                let mut symbol = flag();
                if mirrored {
                    symbol = imageops::flip_horizontal(&symbol);
                }
                for _ in 0..quarter {
                    symbol = imageops::rotate90(&symbol);
                }
                let paper = on_paper(&symbol, 40, 30);
                let ink = |p: &Rgb<u8>| p[0] < 128;
                let xs: Vec<u32> = paper.enumerate_pixels().filter(|p| ink(p.2)).map(|p| p.0).collect();
                let ys: Vec<u32> = paper.enumerate_pixels().filter(|p| ink(p.2)).map(|p| p.1).collect();
                let edge = |v: &[u32]| (f64::from(*v.iter().min().unwrap()), f64::from(v.iter().max().unwrap() + 1));
                let ((x0, x1), (y0, y1)) = (edge(&xs), edge(&ys));
                let lie = Lie { rotation_deg: 90.0 * f64::from(quarter), mirrored, ..Lie::upright(1.0) };
                let Cutout { picture: cut, frame } = cut(&paper, &BBox::new(x0, y0, x1, y1), lie).unwrap();
                assert_eq!(cut.dimensions(), (26, 18), "3 pixels on every side");
                assert!(frame.unwrap().iter().zip([3.0, 3.0, 23.0, 15.0]).all(|(a, b)| (a - b).abs() < 1e-4));
                assert_eq!(difference(&cut), 0.0, "{quarter} quarters, mirrored: {mirrored}");
            }
        }
    }

    #[test]
    fn other_sizes_come_out_at_the_size_of_the_template() {
        for scale in [0.5, 2.0] {
            let side = |v: u32| (f64::from(v) * scale) as u32;
            let symbol = imageops::resize(&flag(), side(30), side(20), imageops::FilterType::Triangle);
            let paper = on_paper(&symbol, 20, 20);
            let at = |v: f64| 20.0 + v * scale;
            let cut = cut(&paper, &BBox::new(at(5.0), at(4.0), at(25.0), at(16.0)), Lie::upright(scale));
            let cut = cut.unwrap().picture;
            assert!(cut.width().abs_diff(26) <= 4 && cut.height().abs_diff(18) <= 4, "{:?}", cut.dimensions());
            assert!(difference(&cut) < 0.15, "{scale}: {}", difference(&cut));
        }
    }

    #[test]
    fn a_slanted_symbol_comes_out_upright_with_more_room() {
        let flag = flag();
        let (sin, cos) = 30f64.to_radians().sin_cos();
        let paper = RgbImage::from_fn(120, 100, |x, y| {
            let (dx, dy) = (f64::from(x) + 0.5 - 60.0, f64::from(y) + 0.5 - 50.0);
            let (u, v) = (dx * cos + dy * sin + 15.0, dy * cos - dx * sin + 10.0);
            if (0.0..30.0).contains(&u) && (0.0..20.0).contains(&v) {
                *flag.get_pixel(u as u32, v as u32)
            } else {
                Rgb([255; 3])
            }
        });
        let (w, h) = (20.0 * cos + 12.0 * sin, 20.0 * sin + 12.0 * cos);
        let lie = Lie { rotation_deg: 30.0, ..Lie::upright(1.0) };
        let Cutout { picture: cut, frame } = cut(&paper, &BBox::from_center(60.0, 50.0, w, h), lie).unwrap();
        assert_eq!(frame, None);
        assert!(difference(&cut) < 0.1, "{}", difference(&cut));
    }

    #[test]
    fn beyond_the_drawing_nothing_is_known() {
        let paper = on_paper(&flag(), -5, -4);
        let cut = cut(&paper, &BBox::new(0.0, 0.0, 20.0, 12.0), Lie::upright(1.0)).unwrap().picture;
        assert_eq!((cut.get_pixel(0, 0)[3], cut.get_pixel(12, 8)[3]), (0, 255));
        assert!(super::cut(&paper, &BBox::new(-30.0, 0.0, -10.0, 12.0), Lie::upright(1.0)).is_none());
    }

    #[test]
    fn provenance_without_a_pose_has_no_lie() {
        assert_eq!(Lie::of(&Provenance::default()), None);
        let mut p = Provenance::default();
        p.evidence.insert("rotation_deg".into(), 90.0);
        assert_eq!(Lie::of(&p), Some(Lie { rotation_deg: 90.0, ..Lie::upright(1.0) }));
    }
}
