//! Random views of training pictures: mosaic, affine, colour, flips (Bochkovskiy et al., "YOLOv4", 2020).
//!
//! Owns what a sample looks like in a given epoch, as a pure function of seed, epoch and sample: threads, order and
//! restarts change nothing. Refuses to own decoding, batching and the choice of samples.

use engine::StageError;
use image::{Rgb, RgbImage, imageops};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{assigner::Truth, config::Model, paste};

/// Grey of everything that is not picture. Source: recipe `yolov8@8.2.103`.
pub const FILL: u8 = 114;
/// Objects smaller than this many pixels on a side after the affine step are dropped. Source: same recipe.
const MIN_SIDE: f32 = 2.0;
/// Objects of which less than this share of the area is left are dropped. Source: same recipe.
const MIN_AREA_SHARE: f32 = 0.1;
/// Objects longer than this many times their width are dropped. Source: same recipe.
const MAX_ASPECT: f32 = 100.0;
/// `scale` for the small models. Source: same recipe.
const SMALL_SCALE: f64 = 0.5;
/// `mixup` for the small models. Source: same recipe.
const SMALL_MIXUP: f64 = 0.0;
/// The mixing weight of mixup is Beta(32, 32) distributed. Source: same recipe.
const MIXUP_BETA: usize = 32;

/// Settings of the random views. Defaults are those of the recipe `yolov8@8.2.103` but for `flipud` and `rot90`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Share of samples made of four pictures, 0..=1. Default 1 (recipe).
    pub mosaic: f64,
    /// Last epochs without mosaic. Default 10 (recipe).
    pub close_mosaic: usize,
    /// Size changes by a factor from 1 - scale to 1 + scale, 0..1; null for the recipe's value for the model: 0.5 for n
    /// and s, 0.9 for m, l and x. Default null.
    pub scale: Option<f64>,
    /// The picture moves by up to this share of its side, 0..=0.5. Default 0.1 (recipe).
    pub translate: f64,
    /// Turns by up to this many degrees, 0..=180. Default 0 (recipe).
    pub degrees: f64,
    /// Hue changes by up to this share of the circle, 0..=0.5. Default 0.015 (recipe).
    pub hsv_h: f64,
    /// Saturation changes by up to this share, 0..=1. Default 0.7 (recipe).
    pub hsv_s: f64,
    /// Brightness changes by up to this share, 0..=1. Default 0.4 (recipe).
    pub hsv_v: f64,
    /// Chance of a left-right mirror, 0..=1. Default 0.5 (recipe).
    pub fliplr: f64,
    /// Chance of an upside-down mirror, 0..=1. Default 0.5, because symbols on drawings are mirrored as the pipe runs;
    /// the recipe, made for photographs, has 0.
    pub flipud: f64,
    /// Turns by a random multiple of 90 degrees. Default true, because symbols on drawings follow pipes in all four
    /// directions; the recipe has none.
    pub rot90: bool,
    /// Share of samples blended with a second one, 0..=1; null for the recipe's value for the model: 0 for n and s, 0.1
    /// for m, 0.15 for l and x. Default null. Ends with mosaic.
    pub mixup: Option<f64>,
    /// Chance of each object to be pasted a second time, with what its box shows around it, at a random place of the
    /// picture where it covers at most 0.3 of any other object, 0..=1. Default 0 (recipe). Ends with mosaic.
    pub copy_paste: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            mosaic: 1.0,
            close_mosaic: 10,
            scale: None,
            translate: 0.1,
            degrees: 0.0,
            hsv_h: 0.015,
            hsv_s: 0.7,
            hsv_v: 0.4,
            fliplr: 0.5,
            flipud: 0.5,
            rot90: true,
            mixup: None,
            copy_paste: 0.0,
        }
    }
}

impl Augment {
    /// The same with what was left to the recipe set for a model; values given stay.
    #[must_use]
    pub fn settled(&self, model: Model) -> Self {
        let (scale, mixup) = match model {
            Model::Yolov8n | Model::Yolov8s => (SMALL_SCALE, SMALL_MIXUP),
            Model::Yolov8m => (0.9, 0.1),
            Model::Yolov8l | Model::Yolov8x => (0.9, 0.15),
        };
        Self { scale: self.scale.or(Some(scale)), mixup: self.mixup.or(Some(mixup)), ..self.clone() }
    }

    /// The field that is out of its range, and the range.
    pub fn wrong_field(&self) -> Option<(&'static str, &'static str)> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        [
            ("mosaic", share(self.mosaic), "0 to 1"),
            ("scale", self.scale.is_none_or(|s| (0.0..1.0).contains(&s)), "0 to below 1, or null"),
            ("translate", (0.0..=0.5).contains(&self.translate), "0 to 0.5"),
            ("degrees", (0.0..=180.0).contains(&self.degrees), "0 to 180"),
            ("hsv_h", (0.0..=0.5).contains(&self.hsv_h), "0 to 0.5"),
            ("hsv_s", share(self.hsv_s), "0 to 1"),
            ("hsv_v", share(self.hsv_v), "0 to 1"),
            ("fliplr", share(self.fliplr), "0 to 1"),
            ("flipud", share(self.flipud), "0 to 1"),
            ("mixup", self.mixup.is_none_or(share), "0 to 1, or null"),
            ("copy_paste", share(self.copy_paste), "0 to 1"),
        ]
        .into_iter()
        .find(|(_, right, _)| !right)
        .map(|(name, _, range)| (name, range))
    }
}

/// A picture with its objects, in the picture's pixels. No side is longer than the network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The picture.
    pub rgb: RgbImage,
    /// The objects.
    pub objects: Vec<Truth>,
}

/// Random numbers for a purpose: the same for the same arguments on every machine.
pub fn random(seed: u64, epoch: u64, sample: u64, purpose: u64) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    for (part, x) in bytes.chunks_exact_mut(8).zip([seed, epoch, sample, purpose]) {
        part.copy_from_slice(&x.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}

/// Where [`augmented`] gets its pictures: `count` of them, each by index.
pub trait Source: Sync {
    /// Number of pictures.
    fn count(&self) -> usize;
    /// One picture; the same at every call. Errors when it cannot be had from where it is kept.
    fn view(&self, index: usize) -> Result<View, StageError>;
    /// A picture as it is in an epoch, for sources that have new ones in each; the same at every call.
    fn view_in(&self, _epoch: usize, index: usize) -> Result<View, StageError> {
        self.view(index)
    }
}

/// A source in an epoch.
pub struct InEpoch<'a> {
    /// The source.
    pub source: &'a dyn Source,
    /// Number of the epoch, from 0.
    pub epoch: usize,
}

impl Source for InEpoch<'_> {
    fn count(&self) -> usize {
        self.source.count()
    }

    fn view(&self, index: usize) -> Result<View, StageError> {
        self.source.view_in(self.epoch, index)
    }
}

/// Sample `index` as it looks in an epoch: a square picture of side `size`. `mosaic` says whether mosaics are still
/// made in this epoch.
pub fn augmented(
    source: &dyn Source,
    index: usize,
    size: u32,
    settings: &Augment,
    mosaic: bool,
    rng: &mut ChaCha8Rng,
) -> Result<View, StageError> {
    let mut view = composed(source, index, size, settings, mosaic, rng)?;
    if chance(rng, settings.mixup.unwrap_or(SMALL_MIXUP)) && mosaic {
        let other = rng.random_range(0..source.count());
        let second = composed(source, other, size, settings, mosaic, rng)?;
        view = mixed(view, second, beta(rng));
    }
    colour(&mut view.rgb, settings, rng);
    Ok(flips(view, settings, rng))
}

fn chance(rng: &mut ChaCha8Rng, p: f64) -> bool {
    // The number is drawn in any case, so that one setting does not shift the randomness of the others.
    rng.random::<f64>() < p
}

/// Numbers of their own for a step that draws a varying number of them, so that it shifts no other step's.
fn aside(rng: &ChaCha8Rng) -> ChaCha8Rng {
    let mut own = rng.clone();
    own.set_stream(1);
    own
}

/// Between -1 and 1.
fn swing(rng: &mut ChaCha8Rng) -> f64 {
    rng.random::<f64>() * 2.0 - 1.0
}

fn composed(
    source: &dyn Source,
    index: usize,
    size: u32,
    settings: &Augment,
    mosaic: bool,
    rng: &mut ChaCha8Rng,
) -> Result<View, StageError> {
    let mut canvas = if chance(rng, settings.mosaic) && mosaic {
        let mut parts = vec![source.view(index)?];
        for _ in 0..3 {
            parts.push(source.view(rng.random_range(0..source.count()))?);
        }
        let centre = [(); 2].map(|()| (f64::from(size) * rng.random_range(0.5..1.5)) as i64);
        four(&parts, size, centre)
    } else {
        centred(source.view(index)?, size)
    };
    if settings.copy_paste > 0.0 && mosaic {
        paste::copies(&mut canvas, settings.copy_paste, &mut aside(rng));
    }
    Ok(affine(&canvas, size, settings, rng))
}

/// A picture in the middle of a square of side `size`, the rest filled.
pub(crate) fn centred(view: View, size: u32) -> View {
    placed(view, (size, size))
}

/// A picture in the middle of a canvas (width, height), the rest filled.
pub(crate) fn placed(view: View, canvas: (u32, u32)) -> View {
    let (w, h) = view.rgb.dimensions();
    if (w, h) == canvas {
        return view;
    }
    let (left, top) = ((canvas.0 - w) / 2, (canvas.1 - h) / 2);
    let mut rgb = RgbImage::from_pixel(canvas.0, canvas.1, Rgb([FILL; 3]));
    imageops::replace(&mut rgb, &view.rgb, i64::from(left), i64::from(top));
    let mut objects = view.objects;
    for o in &mut objects {
        o.bbox = moved(o.bbox, left as f32, top as f32);
    }
    View { rgb, objects }
}

fn moved([x0, y0, x1, y1]: [f32; 4], dx: f32, dy: f32) -> [f32; 4] {
    [x0 + dx, y0 + dy, x1 + dx, y1 + dy]
}

fn clipped([x0, y0, x1, y1]: [f32; 4], side: f32) -> [f32; 4] {
    [x0.clamp(0.0, side), y0.clamp(0.0, side), x1.clamp(0.0, side), y1.clamp(0.0, side)]
}

/// Four pictures around a point on a canvas of twice the side, cut at its edges.
fn four(parts: &[View], size: u32, [cx, cy]: [i64; 2]) -> View {
    let side = 2 * size;
    let mut rgb = RgbImage::from_pixel(side, side, Rgb([FILL; 3]));
    let mut objects = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let (w, h) = (i64::from(part.rgb.width()), i64::from(part.rgb.height()));
        let left = if i % 2 == 0 { cx - w } else { cx };
        let top = if i < 2 { cy - h } else { cy };
        imageops::replace(&mut rgb, &part.rgb, left, top);
        for o in &part.objects {
            let bbox = clipped(moved(o.bbox, left as f32, top as f32), side as f32);
            if bbox[2] > bbox[0] && bbox[3] > bbox[1] {
                objects.push(Truth { bbox, ..*o });
            }
        }
    }
    View { rgb, objects }
}

/// Turns, scales and moves about the canvas' centre into a square of side `size`; drops objects of which too little
/// is left.
fn affine(canvas: &View, size: u32, settings: &Augment, rng: &mut ChaCha8Rng) -> View {
    let angle = (swing(rng) * settings.degrees).to_radians();
    let factor = 1.0 + swing(rng) * settings.scale.unwrap_or(SMALL_SCALE);
    let shift = [(); 2].map(|()| (0.5 + swing(rng) * settings.translate) * f64::from(size));
    let middle = f64::from(canvas.rgb.width()) / 2.0;
    let (cos, sin) = (angle.cos() * factor, angle.sin() * factor);
    let forward = |x: f64, y: f64| {
        let (x, y) = (x - middle, y - middle);
        (cos * x - sin * y + shift[0], sin * x + cos * y + shift[1])
    };
    let rgb = warped(&canvas.rgb, size, |x, y| {
        let (x, y) = (x - shift[0], y - shift[1]);
        let f2 = factor * factor;
        ((cos * x + sin * y) / f2 + middle, (cos * y - sin * x) / f2 + middle)
    });
    let mut objects = Vec::new();
    for o in &canvas.objects {
        let [x0, y0, x1, y1] = o.bbox.map(f64::from);
        let corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)].map(|(x, y)| forward(x, y));
        let low = corners.iter().fold((f64::MAX, f64::MAX), |a, c| (a.0.min(c.0), a.1.min(c.1)));
        let high = corners.iter().fold((f64::MIN, f64::MIN), |a, c| (a.0.max(c.0), a.1.max(c.1)));
        let bbox = clipped([low.0 as f32, low.1 as f32, high.0 as f32, high.1 as f32], size as f32);
        let (w, h) = (bbox[2] - bbox[0], bbox[3] - bbox[1]);
        let before = ((x1 - x0) * (y1 - y0) * factor * factor) as f32;
        let kept = w > MIN_SIDE && h > MIN_SIDE && w * h > MIN_AREA_SHARE * before && (w / h).max(h / w) < MAX_ASPECT;
        if kept {
            objects.push(Truth { bbox, ..*o });
        }
    }
    View { rgb, objects }
}

/// A square of side `size`; pixel centres are looked up through `back` (an affine map) and interpolated between four
/// pixels, [`FILL`] outside.
fn warped(from: &RgbImage, size: u32, back: impl Fn(f64, f64) -> (f64, f64)) -> RgbImage {
    let (w, h) = (from.width() as i32, from.height() as i32);
    let pixels = from.as_raw();
    let (dx, dy) = {
        let (a, b) = (back(0.0, 0.0), back(1.0, 0.0));
        ((b.0 - a.0) as f32, (b.1 - a.1) as f32)
    };
    let mut out = vec![FILL; (size * size * 3) as usize];
    for (row, line) in out.chunks_exact_mut(size as usize * 3).enumerate() {
        let (x0, y0) = back(0.5, row as f64 + 0.5);
        let (x0, y0) = (x0 as f32 - 0.5, y0 as f32 - 0.5);
        for (col, pixel) in line.chunks_exact_mut(3).enumerate() {
            let (x, y) = (x0 + dx * col as f32, y0 + dy * col as f32);
            let (fx, fy) = (x.floor(), y.floor());
            let (ix, iy) = (fx as i32, fy as i32);
            if ix < -1 || iy < -1 || ix >= w || iy >= h {
                continue;
            }
            let (ax, ay) = (x - fx, y - fy);
            if ix >= 0 && iy >= 0 && ix + 1 < w && iy + 1 < h {
                let at = ((iy * w + ix) * 3) as usize;
                let top = &pixels[at..at + 6];
                let bottom = &pixels[at + w as usize * 3..][..6];
                for c in 0..3 {
                    let a = f32::from(top[c]) + ax * (f32::from(top[c + 3]) - f32::from(top[c]));
                    let b = f32::from(bottom[c]) + ax * (f32::from(bottom[c + 3]) - f32::from(bottom[c]));
                    pixel[c] = (a + ay * (b - a) + 0.5) as u8;
                }
            } else {
                let at = |x: i32, y: i32, c: usize| {
                    let inside = x >= 0 && y >= 0 && x < w && y < h;
                    f32::from(if inside { pixels[((y * w + x) * 3) as usize + c] } else { FILL })
                };
                for (c, value) in pixel.iter_mut().enumerate() {
                    let a = at(ix, iy, c) * (1.0 - ax) + at(ix + 1, iy, c) * ax;
                    let b = at(ix, iy + 1, c) * (1.0 - ax) + at(ix + 1, iy + 1, c) * ax;
                    *value = (a + ay * (b - a) + 0.5) as u8;
                }
            }
        }
    }
    RgbImage::from_raw(size, size, out).expect("the buffer has the size of the picture")
}

/// A number from Beta(32, 32): the median of 63 uniform ones has that distribution.
fn beta(rng: &mut ChaCha8Rng) -> f32 {
    let mut draws: Vec<f32> = (0..2 * MIXUP_BETA - 1).map(|_| rng.random()).collect();
    draws.sort_by(f32::total_cmp);
    draws[MIXUP_BETA - 1]
}

/// Two pictures blended, with the objects of both.
fn mixed(mut a: View, b: View, share: f32) -> View {
    for (x, &y) in a.rgb.iter_mut().zip(b.rgb.iter()) {
        *x = (f32::from(*x) * share + f32::from(y) * (1.0 - share) + 0.5) as u8;
    }
    a.objects.extend(b.objects);
    a
}

/// Changes hue, saturation and brightness.
fn colour(rgb: &mut RgbImage, settings: &Augment, rng: &mut ChaCha8Rng) {
    let [h, s, v] = [settings.hsv_h, settings.hsv_s, settings.hsv_v].map(|gain| (1.0 + swing(rng) * gain) as f32);
    // Grey pixels, nearly all of a drawing, have no hue and no saturation.
    let brighter: [u8; 256] = std::array::from_fn(|x| (x as f32 * v + 0.5).min(255.0) as u8);
    for p in rgb.pixels_mut() {
        let [r, g, b] = p.0;
        p.0 = if r == g && g == b { [brighter[r as usize]; 3] } else { recoloured([r, g, b], h, s, v) };
    }
}

/// One pixel with hue (as an angle), saturation and value multiplied.
fn recoloured(rgb: [u8; 3], h: f32, s: f32, v: f32) -> [u8; 3] {
    let [r, g, b] = rgb.map(|x| f32::from(x) / 255.0);
    let max = r.max(g).max(b);
    let chroma = max - r.min(g).min(b);
    let sector = if max == r {
        ((g - b) / chroma).rem_euclid(6.0)
    } else if max == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let hue = (sector * h).rem_euclid(6.0);
    let saturation = (chroma / max * s).min(1.0);
    let value = (max * v).min(1.0);
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = (n + hue).rem_euclid(6.0);
        let x = value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0);
        (x * 255.0 + 0.5) as u8
    })
}

/// Mirrors and right-angle turns of the square picture.
fn flips(mut view: View, settings: &Augment, rng: &mut ChaCha8Rng) -> View {
    let side = view.rgb.width() as f32;
    let turns = rng.random_range(0..4);
    if chance(rng, settings.flipud) {
        imageops::flip_vertical_in_place(&mut view.rgb);
        for o in &mut view.objects {
            let [x0, y0, x1, y1] = o.bbox;
            o.bbox = [x0, side - y1, x1, side - y0];
        }
    }
    if chance(rng, settings.fliplr) {
        imageops::flip_horizontal_in_place(&mut view.rgb);
        for o in &mut view.objects {
            let [x0, y0, x1, y1] = o.bbox;
            o.bbox = [side - x1, y0, side - x0, y1];
        }
    }
    for _ in 0..if settings.rot90 { turns } else { 0 } {
        view.rgb = imageops::rotate90(&view.rgb);
        for o in &mut view.objects {
            let [x0, y0, x1, y1] = o.bbox;
            o.bbox = [side - y1, x0, side - y0, x1];
        }
    }
    view
}

#[cfg(test)]
pub(crate) mod tests;
