//! What several confirmed instances of a class have in common.
//!
//! Owns how cut-outs that a person confirmed become one template: laid over each other, averaged, and blind where they
//! disagree. Only confirmed pictures come in, so a wrong match never teaches itself.

use std::collections::BTreeMap;

use image::{GrayImage, Luma, Rgba, RgbaImage, imageops};

use super::ink::{Ink, Tally, contrast_grey};
use super::{Role, Template};

/// Fewest pictures that make a consensus; fewer are used as they are.
const MIN_PICTURES: usize = 3;
/// How far a picture may be shifted against the others, pixels.
const MAX_SHIFT: i32 = 3;
/// Rounds of shifting and averaging.
const ROUNDS: usize = 2;
/// Standard deviation of the darkness, 0..=255, from which a pixel says nothing.
const DISAGREEMENT: f32 = 70.0;
/// Mean darkness from which strokes enclose what is inside of them.
const STROKE: f32 = 100.0;
/// Correlation with the consensus below which an instance is a shape of its own.
const ODD: f32 = 0.75;
/// Most instances of a class that are kept beside the consensus.
const MAX_ODD: usize = 3;

/// Pictures of one size laid over each other.
struct Stack {
    width: usize,
    height: usize,
    /// Darkness, 0..=255, row by row.
    planes: Vec<Vec<f32>>,
    /// The confirmed box in each of them: left, top, right, bottom.
    frames: Vec<[f32; 4]>,
}

/// The templates, with the confirmed ones of each class replaced by their consensus and by the few that differ from it.
pub(super) fn merge(templates: &[Template]) -> Vec<Template> {
    let mut merged: Vec<Template> = templates.iter().filter(|t| t.role != Role::Confirmed).cloned().collect();
    let mut confirmed: BTreeMap<&str, Vec<&Template>> = BTreeMap::new();
    for t in templates.iter().filter(|t| t.role == Role::Confirmed) {
        confirmed.entry(&t.class).or_default().push(t);
    }
    for (class, pictures) in confirmed {
        let Some(stack) = Stack::of(&pictures) else {
            merged.extend(pictures.into_iter().cloned());
            continue;
        };
        let mean = stack.mean();
        let name = format!("consensus of {} confirmed {class}", pictures.len());
        let (image, frame) = (stack.picture(&mean), Some(stack.frame()));
        merged.push(Template { class: class.to_owned(), name, image, role: Role::Confirmed, frame });
        let odd = stack.planes.iter().zip(&pictures).filter(|(plane, _)| correlation(plane, &mean) < ODD);
        merged.extend(odd.take(MAX_ODD).map(|(_, t)| (*t).clone()));
    }
    merged
}

impl Stack {
    /// Lays pictures over each other, middle on middle, in a picture of their middle size; `None` when too few have ink.
    fn of(pictures: &[&Template]) -> Option<Self> {
        let dark: Vec<GrayImage> = pictures.iter().filter_map(|t| darkness(&t.image)).collect();
        if dark.len() < MIN_PICTURES || dark.len() < pictures.len() {
            return None;
        }
        let middle = |mut sides: Vec<u32>| {
            sides.sort_unstable();
            sides[sides.len() / 2]
        };
        let width = middle(dark.iter().map(GrayImage::width).collect());
        let height = middle(dark.iter().map(GrayImage::height).collect());
        // All are at the template's size: boxes that go around more or less change no size.
        let centred = |(p, t): (&GrayImage, &&Template)| -> (Vec<f32>, [f32; 4]) {
            let frame = t.frame.unwrap_or([0.0, 0.0, p.width() as f32, p.height() as f32]);
            let start: [f32; 2] = std::array::from_fn(|k| {
                (0.5 * [width, height][k] as f32 - f32::midpoint(frame[k], frame[k + 2])).round()
            });
            let mut plane = GrayImage::new(width, height);
            imageops::replace(&mut plane, p, start[0] as i64, start[1] as i64);
            let frame = std::array::from_fn(|k| frame[k] + start[k % 2]);
            (plane.into_raw().into_iter().map(f32::from).collect(), frame)
        };
        let (planes, frames) = dark.iter().zip(pictures).map(centred).unzip();
        let mut stack = Self { width: width as usize, height: height as usize, planes, frames };
        for round in 0..ROUNDS {
            // A mean of pictures that do not lie on each other yet draws none of them to its place.
            let target = if round == 0 { stack.planes[0].clone() } else { stack.mean() };
            let shifts: Vec<[i32; 2]> = stack.planes.iter().map(|p| stack.best_shift(p, &target)).collect();
            stack.planes = stack.planes.iter().zip(&shifts).map(|(p, &by)| stack.shifted(p, by)).collect();
            for (frame, by) in stack.frames.iter_mut().zip(&shifts) {
                *frame = std::array::from_fn(|k| frame[k] - by[k % 2] as f32);
            }
        }
        Some(stack)
    }

    fn mean(&self) -> Vec<f32> {
        let n = self.planes.len() as f32;
        (0..self.width * self.height).map(|i| self.planes.iter().map(|p| p[i]).sum::<f32>() / n).collect()
    }

    /// The middle of the confirmed boxes, side by side.
    fn frame(&self) -> [f32; 4] {
        std::array::from_fn(|k| {
            let mut sides: Vec<f32> = self.frames.iter().map(|f| f[k]).collect();
            sides.sort_by(f32::total_cmp);
            sides[sides.len() / 2]
        })
    }

    /// The shift after which a plane agrees best with the mean; the smallest of equally good ones.
    fn best_shift(&self, plane: &[f32], mean: &[f32]) -> [i32; 2] {
        let mut shifts: Vec<[i32; 2]> =
            (-MAX_SHIFT..=MAX_SHIFT).flat_map(|y| (-MAX_SHIFT..=MAX_SHIFT).map(move |x| [x, y])).collect();
        shifts.sort_by_key(|[x, y]| x * x + y * y);
        let mut best = (f32::MIN, [0, 0]);
        for by in shifts {
            let agreement = correlation(&self.shifted(plane, by), mean);
            if agreement > best.0 + 1e-4 {
                best = (agreement, by);
            }
        }
        best.1
    }

    fn shifted(&self, plane: &[f32], [dx, dy]: [i32; 2]) -> Vec<f32> {
        let (w, h) = (self.width as i32, self.height as i32);
        let at = |x: i32, y: i32| {
            let inside = (0..w).contains(&x) && (0..h).contains(&y);
            if inside { plane[(y * w + x) as usize] } else { 0.0 }
        };
        (0..h).flat_map(|y| (0..w).map(move |x| at(x + dx, y + dy)).collect::<Vec<_>>()).collect()
    }

    /// The mean as a template's picture, transparent where the planes disagree. What strokes enclose stays: an outline
    /// whose text differs must hold some text.
    fn picture(&self, mean: &[f32]) -> RgbaImage {
        let n = self.planes.len() as f32;
        let enclosed = self.enclosed(mean);
        RgbaImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let i = y as usize * self.width + x as usize;
            let variance = self.planes.iter().map(|p| (p[i] - mean[i]).powi(2)).sum::<f32>() / n;
            let known = variance.sqrt() < DISAGREEMENT || enclosed[i];
            let grey = 255 - mean[i].round() as u8;
            Rgba([grey, grey, grey, if known { 255 } else { 0 }])
        })
    }

    /// The pixels that the border does not reach without crossing a stroke.
    fn enclosed(&self, mean: &[f32]) -> Vec<bool> {
        let (w, h) = (self.width, self.height);
        let mut enclosed = vec![true; w * h];
        let border = |i: &usize| i % w == 0 || i % w + 1 == w || i / w == 0 || i / w + 1 == h;
        let mut next: Vec<usize> = (0..w * h).filter(border).filter(|&i| mean[i] < STROKE).collect();
        for &i in &next {
            enclosed[i] = false;
        }
        while let Some(i) = next.pop() {
            let (x, y) = (i % w, i / w);
            let near = [
                (x > 0).then(|| i - 1),
                (x + 1 < w).then(|| i + 1),
                (y > 0).then(|| i - w),
                (y + 1 < h).then(|| i + w),
            ];
            for j in near.into_iter().flatten().filter(|&j| mean[j] < STROKE) {
                if std::mem::replace(&mut enclosed[j], false) {
                    next.push(j);
                }
            }
        }
        enclosed
    }
}

/// Darkness of a picture laid on white; `None` without ink.
fn darkness(image: &RgbaImage) -> Option<GrayImage> {
    let rgb = image::RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0;
        image::Rgb(if a < 128 { [255; 3] } else { [r, g, b] })
    });
    let ink = Ink::of_drawing(&contrast_grey(&rgb));
    if ink.is_empty() {
        return None;
    }
    let dark = ink.raw_darkness(&Tally::of(&ink, 0..ink.height).usual());
    Some(GrayImage::from_fn(image.width(), image.height(), |x, y| Luma([dark[(y * image.width() + x) as usize]])))
}

fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().max(1) as f32;
    let (ma, mb) = (a.iter().sum::<f32>() / n, b.iter().sum::<f32>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (p, q) in a.iter().zip(b) {
        ab += (p - ma) * (q - mb);
        aa += (p - ma).powi(2);
        bb += (q - mb).powi(2);
    }
    if aa * bb <= 1.0 { 0.0 } else { ab / (aa * bb).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A square outline of 30 pixels with a mark inside and one outside.
    fn square(shift: u32, mark: u32, outside: u32) -> Template {
        let image = RgbaImage::from_fn(44, 44, |x, y| {
            let (u, v) = (x.wrapping_sub(7 + shift), y.wrapping_sub(7));
            let edge = u < 30 && v < 30 && (u < 2 || v < 2 || u >= 28 || v >= 28);
            let inner = (8..14).contains(&v) && (mark..mark + 4).contains(&u);
            let stub = (u32::wrapping_sub(x, outside) < 3) && y < 7;
            let v = if edge || inner || stub { 20 } else { 235 };
            Rgba([v, v, v, 255])
        });
        let frame = Some([7.0 + shift as f32, 7.0, 37.0 + shift as f32, 37.0]);
        Template { class: "square".into(), name: String::new(), image, role: Role::Confirmed, frame }
    }

    #[test]
    fn instances_are_laid_over_each_other_and_disagreement_outside_is_not_known() {
        let merged = merge(&[square(0, 5, 5), square(1, 12, 20), square(0, 20, 35), square(2, 9, 12)]);
        assert_eq!(merged.len(), 1, "four alike make one template");
        assert_eq!(merged[0].frame, Some([7.0, 7.0, 37.0, 37.0]), "the box moves with its picture");
        let picture = &merged[0].image;
        // The outline is sharp although the cut-outs were shifted.
        let dark = picture.pixels().filter(|p| p.0[3] == 255 && p.0[0] < 60).count();
        assert!((200..260).contains(&dark), "{dark} dark pixels; the outline has 224");
        let unknown: Vec<(u32, u32)> =
            picture.enumerate_pixels().filter(|(_, _, p)| p.0[3] == 0).map(|(x, y, _)| (x, y)).collect();
        assert!(!unknown.is_empty() && unknown.iter().all(|&(_, y)| y < 9), "only the stubs disagree outside");
    }

    /// The outline with a diagonal.
    fn crossed(shift: u32, role: Role, frame: Option<[f32; 4]>) -> Template {
        let mut t = Template { role, frame, ..square(shift, 5, 100) };
        for (x, y, p) in t.image.enumerate_pixels_mut() {
            let (u, v) = (x.wrapping_sub(7 + shift), y.wrapping_sub(7));
            let inside = (2..28).contains(&u) && (2..28).contains(&v);
            if inside {
                *p = Rgba(if u.abs_diff(v) <= 1 { [20, 20, 20, 255] } else { [235, 235, 235, 255] });
            }
        }
        t
    }

    #[test]
    fn matches_get_the_box_that_was_confirmed() {
        let given = crossed(0, Role::Given, None);
        let lesson = |k: u32| crossed(k, Role::Confirmed, Some([4.0 + k as f32, 4.0, 40.0 + k as f32, 40.0]));
        let taught = [given.clone(), lesson(0), lesson(1), lesson(2)];
        let mut drawing = image::RgbImage::from_pixel(200, 120, image::Rgb([235; 3]));
        let shown = image::DynamicImage::from(given.image.clone()).into_rgb8();
        imageops::replace(&mut drawing, &shown, 60, 30);
        let found = |templates: &[Template]| {
            let matcher = crate::matcher::Matcher::new(templates, &crate::matcher::MatcherConfig::default()).unwrap();
            let m = matcher.find(&drawing).matches;
            assert_eq!(m.len(), 1);
            [m[0].bbox.x0, m[0].bbox.y0, m[0].bbox.x1, m[0].bbox.y1]
        };
        let near = |a: [f64; 4], b: [f64; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1.0);
        let [before, after] = [found(&taught[..1]), found(&taught)];
        assert!(near(before, [67.0, 37.0, 97.0, 67.0]), "{before:?}");
        assert!(near(after, [64.0, 34.0, 100.0, 70.0]), "{after:?}");
    }

    #[test]
    fn few_pictures_stay_as_they_are_and_others_are_left_alone() {
        let mut given = square(0, 5, 5);
        given.role = Role::Given;
        let merged = merge(&[given, square(1, 5, 5), square(0, 5, 9)]);
        assert_eq!(merged.iter().map(|t| t.role).collect::<Vec<_>>(), [Role::Given, Role::Confirmed, Role::Confirmed]);
    }
}
