//! Objects pasted a second time into their picture (after Ghiasi et al., "Simple Copy-Paste", 2021, for boxes instead of
//! masks).
//!
//! Owns which objects are pasted and where. Refuses to own the rest of the random views.

use image::imageops;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::{assigner::Truth, augment::View};

/// Largest share of any other object that a pasted one may cover.
const MOST_COVERED: f32 = 0.3;

/// Gives each object of a picture, with this chance, a copy at a random place: the pixels of its box, trimmed to whole
/// ones, moved by whole ones. Copies that would cover more than 0.3 of an object, also of an earlier copy, are left out.
pub fn copies(view: &mut View, chance: f64, rng: &mut ChaCha8Rng) {
    let (width, height) = view.rgb.dimensions();
    let before = view.rgb.clone();
    for i in 0..view.objects.len() {
        let object = view.objects[i];
        let [x0, y0] = [object.bbox[0], object.bbox[1]].map(|v| v.max(0.0).floor() as u32);
        let (x1, y1) = ((object.bbox[2].ceil() as u32).min(width), (object.bbox[3].ceil() as u32).min(height));
        let wanted = rng.random::<f64>() < chance;
        if !wanted || x1 <= x0 || y1 <= y0 {
            continue;
        }
        let (w, h) = (x1 - x0, y1 - y0);
        let to = (rng.random_range(0..=width - w), rng.random_range(0..=height - h));
        let place = [to.0, to.1, to.0 + w, to.1 + h].map(|v| v as f32);
        if view.objects.iter().any(|o| covered(&o.bbox, &place) > MOST_COVERED) {
            continue;
        }
        let cutout = imageops::crop_imm(&before, x0, y0, w, h).to_image();
        imageops::replace(&mut view.rgb, &cutout, i64::from(to.0), i64::from(to.1));
        let (dx, dy) = (to.0 as f32 - x0 as f32, to.1 as f32 - y0 as f32);
        let [a, b, c, d] = object.bbox;
        view.objects.push(Truth { bbox: [a + dx, b + dy, c + dx, d + dy], ..object });
    }
}

/// Share of a box that lies in another.
fn covered(b: &[f32; 4], by: &[f32; 4]) -> f32 {
    let side = |i: usize| (b[i + 2].min(by[i + 2]) - b[i].max(by[i])).max(0.0);
    side(0) * side(1) / ((b[2] - b[0]) * (b[3] - b[1])).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::augment::random;

    fn scene() -> View {
        let rgb = RgbImage::from_fn(120, 90, |x, y| Rgb([x as u8, y as u8, (x * 7 + y * 3) as u8]));
        let boxes = [[10.0, 12.0, 30.0, 28.0], [50.5, 40.0, 80.0, 60.25], [100.0, 70.0, 118.0, 88.0]];
        View { rgb, objects: boxes.iter().enumerate().map(|(class, &bbox)| Truth { class, bbox }).collect() }
    }

    #[test]
    fn copies_show_what_the_box_showed_and_cover_little() {
        let mut made = 0;
        for seed in 0..40 {
            let old = scene();
            let mut new = scene();
            copies(&mut new, 1.0, &mut random(seed, 0, 0, 0));
            assert_eq!(new.objects[..3], old.objects[..]);
            for (i, o) in new.objects.iter().enumerate().skip(3) {
                let from = old.objects.iter().find(|c| c.class == o.class).unwrap().bbox;
                assert!((0..4).all(|e| (o.bbox[e] - from[e]).fract() == 0.0), "moved by whole pixels");
                assert!(o.bbox.iter().all(|&v| v >= 0.0) && o.bbox[2] <= 120.0 && o.bbox[3] <= 90.0);
                for other in &new.objects[..i] {
                    assert!(covered(&other.bbox, &o.bbox) <= MOST_COVERED + 0.1, "seed {seed}");
                }
                // The last copy is covered by none.
                if i + 1 == new.objects.len() {
                    let at = |v: &View, b: [f32; 4]| v.rgb.get_pixel(b[0] as u32 + 2, b[1] as u32 + 2).0;
                    assert_eq!(at(&new, o.bbox), at(&old, from));
                }
                made += 1;
            }
        }
        assert!(made > 60, "{made}");
    }

    #[test]
    fn nothing_is_pasted_without_chance_or_room() {
        let mut view = scene();
        copies(&mut view, 0.0, &mut random(1, 0, 0, 0));
        assert_eq!(view, scene());
        let full = View { objects: vec![Truth { class: 0, bbox: [0.0, 0.0, 120.0, 90.0] }], ..scene() };
        let mut pasted = full.clone();
        copies(&mut pasted, 1.0, &mut random(1, 0, 0, 0));
        assert_eq!(pasted, full);
    }
}
