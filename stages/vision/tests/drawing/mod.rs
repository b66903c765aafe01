//! A small generator of line drawings with known truth, for the matcher's tests: symbols of straight strokes and arcs
//! in any pose, pipes, letters and unlisted shapes between them.

use std::f64::consts::TAU;

use datasets::{BBox, Pixels};
use image::{GrayImage, Luma, RgbaImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vision::matcher::{Match, Template};

/// A stroke in units of the symbol: corners, joined by straight lines.
pub type Stroke = Vec<[f64; 2]>;

/// Pixels a unit at scale 1.
const UNIT: f64 = 60.0;

/// The symbols: several valves of which one is part of others, instruments that differ by a line, filled and bare.
pub fn symbols() -> Vec<(&'static str, Vec<Stroke>)> {
    let bow = || vec![[-0.5, -0.27], [-0.5, 0.27], [0.5, -0.27], [0.5, 0.27], [-0.5, -0.27]];
    let stem = |y: f64| vec![[0.0, 0.0], [0.0, y]];
    let rect = |x0: f64, y0: f64, x1: f64, y1: f64| vec![[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]];
    let diamond = |r: f64| vec![[-r, 0.0], [0.0, -r], [r, 0.0], [0.0, r], [-r, 0.0]];
    let line = |a: [f64; 2], b: [f64; 2]| vec![a, b];
    let disc = |r: f64| (1..=4).map(|k| circle(0.0, 0.0, r * f64::from(k) / 4.0)).collect::<Vec<_>>();
    let hexagon: Stroke =
        (0..=6).map(|k| [0.5 * (k as f64 * TAU / 6.0).cos(), 0.5 * (k as f64 * TAU / 6.0).sin()]).collect();
    vec![
        ("gate valve", vec![bow()]),
        ("globe valve", [vec![bow()], disc(0.13)].concat()),
        ("ball valve", vec![bow(), circle(0.0, 0.0, 0.18)]),
        ("motor valve", vec![bow(), stem(-0.4), circle(0.0, -0.66, 0.26)]),
        ("hand valve", vec![bow(), stem(-0.48), line([-0.24, -0.48], [0.24, -0.48])]),
        ("solenoid valve", vec![bow(), stem(-0.4), rect(-0.24, -0.88, 0.24, -0.4)]),
        (
            "butterfly valve",
            vec![
                line([-0.35, -0.3], [-0.35, 0.3]),
                line([0.35, -0.3], [0.35, 0.3]),
                line([-0.35, -0.3], [0.35, 0.3]),
                circle(0.0, 0.0, 0.09),
            ],
        ),
        ("field instrument", vec![circle(0.0, 0.0, 0.45)]),
        ("panel instrument", vec![circle(0.0, 0.0, 0.45), line([-0.45, 0.0], [0.45, 0.0])]),
        (
            "shared display",
            vec![circle(0.0, 0.0, 0.45), rect(-0.45, -0.45, 0.45, 0.45), line([-0.45, 0.0], [0.45, 0.0])],
        ),
        ("plc", vec![rect(-0.45, -0.45, 0.45, 0.45), diamond(0.45)]),
        ("computer", vec![hexagon]),
        ("reducer", vec![vec![[-0.35, -0.32], [-0.35, 0.32], [0.35, 0.15], [0.35, -0.15], [-0.35, -0.32]]]),
        ("pump", vec![circle(0.0, 0.0, 0.42), vec![[-0.25, -0.34], [0.42, 0.0], [-0.25, 0.34]]]),
    ]
}

fn distractors() -> Vec<Vec<Stroke>> {
    let rect = |w: f64, h: f64| vec![[-w, -h], [w, -h], [w, h], [-w, h], [-w, -h]];
    vec![
        vec![circle(0.0, 0.0, 0.28)],
        vec![rect(0.3, 0.3)],
        vec![rect(0.6, 0.25)],
        vec![vec![[-0.4, -0.3], [0.4, 0.0], [-0.4, 0.3], [-0.4, -0.3]]],
        vec![rect(0.7, 0.35), vec![[-0.7, -0.35], [0.7, 0.35]], vec![[-0.7, 0.35], [0.7, -0.35]]],
        vec![vec![[-0.4, 0.0], [-0.3, -0.2], [-0.1, 0.2], [0.1, -0.2], [0.3, 0.2], [0.4, 0.0]]],
    ]
}

fn circle(x: f64, y: f64, r: f64) -> Stroke {
    (0..=48).map(|k| k as f64 * TAU / 48.0).map(|t| [x + r * t.cos(), y + r * t.sin()]).collect()
}

/// How a symbol is laid on the drawing.
#[derive(Clone, Copy, Debug)]
pub struct Pose {
    pub at: [f64; 2],
    pub scale: f64,
    pub angle_deg: f64,
    pub mirrored: bool,
}

impl Pose {
    pub fn at(x: f64, y: f64) -> Self {
        Self { at: [x, y], scale: 1.0, angle_deg: 0.0, mirrored: false }
    }
}

/// A drawing in the making: darkness 0..=1.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    ink: Vec<f32>,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, ink: vec![0.0; width * height] }
    }

    /// Draws one straight line with antialiased edges.
    pub fn line(&mut self, a: [f64; 2], b: [f64; 2], stroke: f64) {
        let r = stroke / 2.0 + 1.0;
        let range = |lo: f64, hi: f64, n: usize| (lo - r).max(0.0) as usize..((hi + r).max(0.0).ceil() as usize).min(n);
        let d = [b[0] - a[0], b[1] - a[1]];
        let length2 = (d[0] * d[0] + d[1] * d[1]).max(1e-9);
        for y in range(a[1].min(b[1]), a[1].max(b[1]), self.height) {
            for x in range(a[0].min(b[0]), a[0].max(b[0]), self.width) {
                let p = [x as f64 + 0.5 - a[0], y as f64 + 0.5 - a[1]];
                let t = ((p[0] * d[0] + p[1] * d[1]) / length2).clamp(0.0, 1.0);
                let distance = (p[0] - t * d[0]).hypot(p[1] - t * d[1]);
                let v = (stroke / 2.0 + 0.5 - distance).clamp(0.0, 1.0) as f32;
                let ink = &mut self.ink[y * self.width + x];
                *ink = ink.max(v);
            }
        }
    }

    /// Draws a symbol and returns the box around it.
    pub fn symbol(&mut self, strokes: &[Stroke], pose: Pose, stroke: f64) -> BBox<Pixels> {
        let (s, c) = pose.angle_deg.to_radians().sin_cos();
        let k = UNIT * pose.scale;
        let place = |[x, y]: [f64; 2]| {
            let x = if pose.mirrored { -x } else { x };
            [pose.at[0] + (x * c - y * s) * k, pose.at[1] + (x * s + y * c) * k]
        };
        let mut b = [f64::MAX, f64::MAX, f64::MIN, f64::MIN];
        for path in strokes {
            let corners: Vec<[f64; 2]> = path.iter().map(|&p| place(p)).collect();
            for w in corners.windows(2) {
                self.line(w[0], w[1], stroke);
            }
            for [x, y] in corners {
                b = [b[0].min(x), b[1].min(y), b[2].max(x), b[3].max(y)];
            }
        }
        let h = stroke / 2.0;
        BBox::new(b[0] - h, b[1] - h, b[2] + h, b[3] + h)
    }

    /// Grey paper with dark lines, with noise of a standard deviation in grey levels.
    pub fn picture(&self, noise: f64, rng: &mut ChaCha8Rng) -> GrayImage {
        GrayImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let v = f64::from(self.ink[y as usize * self.width + x as usize]);
            let n: f64 =
                if noise > 0.0 { (0..6).map(|_| rng.random_range(-1.0..1.0)).sum::<f64>() / 1.41 * noise } else { 0.0 };
            Luma([(250.0 - 235.0 * v + n).clamp(0.0, 255.0) as u8])
        })
    }
}

/// One template per symbol, cut close to its ink.
pub fn templates() -> Vec<Template> {
    let draw = |(name, strokes): (&str, Vec<Stroke>)| {
        let mut canvas = Canvas::new(140, 140);
        let b = canvas.symbol(&strokes, Pose::at(70.0, 80.0), 2.0);
        let grey = canvas.picture(0.0, &mut ChaCha8Rng::seed_from_u64(0));
        let (x, y) = (b.x0 as u32 - 2, b.y0 as u32 - 2);
        let cut = image::imageops::crop_imm(&grey, x, y, b.width() as u32 + 5, b.height() as u32 + 5).to_image();
        Template { class: name.to_owned(), name: format!("{name}.png"), image: rgba(&cut) }
    };
    symbols().into_iter().map(draw).collect()
}

pub fn rgba(grey: &GrayImage) -> RgbaImage {
    image::DynamicImage::ImageLuma8(grey.clone()).to_rgba8()
}

/// What a sheet may hold.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub width: usize,
    pub height: usize,
    pub symbols: usize,
    pub any_angle: bool,
    pub mirror: bool,
    pub scale: [f64; 2],
    pub stroke: [f64; 2],
    /// Standard deviation of grey noise, levels.
    pub noise: f64,
}

impl Recipe {
    pub const CLEAN: Self = Self {
        width: 1400,
        height: 1000,
        symbols: 42,
        any_angle: false,
        mirror: false,
        scale: [0.8, 1.25],
        stroke: [1.6, 2.6],
        noise: 2.5,
    };
}

/// A drawing and what is on it.
pub struct Sheet {
    pub picture: GrayImage,
    pub truth: Vec<(String, BBox<Pixels>)>,
}

/// Draws a sheet: symbols at free places, pipes from them that may cross others, letters beside and inside them,
/// unlisted shapes, a frame.
pub fn sheet(recipe: Recipe, seed: u64) -> Sheet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut canvas = Canvas::new(recipe.width, recipe.height);
    let (symbols, others) = (symbols(), distractors());
    let (w, h) = (recipe.width as f64, recipe.height as f64);
    let mut truth: Vec<(String, BBox<Pixels>)> = Vec::new();
    let mut taken: Vec<BBox<Pixels>> = Vec::new();
    for k in 0..recipe.symbols * 5 / 4 {
        let listed = k < recipe.symbols;
        let strokes = if listed { &symbols[k % symbols.len()].1 } else { &others[k % others.len()] };
        for _ in 0..200 {
            let pose = Pose {
                at: [rng.random_range(60.0..w - 60.0), rng.random_range(60.0..h - 60.0)],
                scale: recipe.scale[0] * (recipe.scale[1] / recipe.scale[0]).powf(rng.random()),
                angle_deg: if recipe.any_angle {
                    rng.random_range(0.0..360.0)
                } else {
                    90.0 * f64::from(rng.random_range(0..4))
                },
                mirrored: recipe.mirror && rng.random(),
            };
            let b = Canvas::new(0, 0).symbol(strokes, pose, 2.0);
            let room = BBox::new(b.x0 - 12.0, b.y0 - 12.0, b.x1 + 12.0, b.y1 + 12.0);
            if taken.iter().any(|t| t.intersection(&room).is_some()) {
                continue;
            }
            let stroke = rng.random_range(recipe.stroke[0]..recipe.stroke[1]);
            let b = canvas.symbol(strokes, pose, stroke);
            taken.push(b);
            if listed {
                let name = symbols[k % symbols.len()].0;
                if name.contains("instrument") || name == "computer" {
                    text(&mut canvas, pose.at[0] - 10.0 * pose.scale, pose.at[1] - 11.0 * pose.scale, 2, &mut rng);
                }
                truth.push((name.to_owned(), b));
            }
            // A pipe that leaves to one side, bends once and stops anywhere, across other symbols too at times.
            let (cx, cy) = b.center();
            let (from, to) = ([b.x1, cy], [(b.x1 + rng.random_range(20.0..260.0)).min(w - 30.0), cy]);
            let crosses =
                taken.iter().any(|t| t.intersection(&BBox::new(from[0] + 2.0, cy - 4.0, to[0], cy + 4.0)).is_some());
            if !crosses || rng.random_bool(0.2) {
                canvas.line(from, to, rng.random_range(1.0..2.5));
                canvas.line(to, [to[0], (cy + rng.random_range(-120.0..120.0)).clamp(30.0, h - 30.0)], 1.5);
            }
            if rng.random_bool(0.6) {
                text(&mut canvas, cx - 25.0, b.y1 + 4.0, 5, &mut rng);
            }
            break;
        }
    }
    for (a, b) in [
        ([10.0, 10.0], [w - 10.0, 10.0]),
        ([10.0, h - 10.0], [w - 10.0, h - 10.0]),
        ([10.0, 10.0], [10.0, h - 10.0]),
        ([w - 10.0, 10.0], [w - 10.0, h - 10.0]),
    ] {
        canvas.line(a, b, 3.0);
    }
    Sheet { picture: canvas.picture(recipe.noise, &mut rng), truth }
}

/// Letters as random segments of a seven-segment cell.
fn text(canvas: &mut Canvas, x: f64, y: f64, letters: usize, rng: &mut ChaCha8Rng) {
    let corner = |k: usize| [(k % 2) as f64 * 6.0, (k / 2) as f64 * 5.0];
    for i in 0..letters {
        for (a, b) in [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5)] {
            if rng.random_bool(0.65) {
                let at = |k: usize| [x + i as f64 * 10.0 + corner(k)[0], y + corner(k)[1]];
                canvas.line(at(a), at(b), 1.3);
            }
        }
    }
}

/// Right matches of a drawing: same class, overlap of at least half, best score first, each truth once.
pub fn hits(matches: &[Match], truth: &[(String, BBox<Pixels>)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..matches.len()).collect();
    order.sort_by(|&a, &b| matches[b].score.total_cmp(&matches[a].score));
    let (mut used, mut right) = (vec![false; truth.len()], vec![false; matches.len()]);
    for i in order {
        let m = &matches[i];
        let free = (0..truth.len()).filter(|&t| !used[t] && truth[t].0 == m.class);
        let best = free.max_by(|&a, &b| truth[a].1.iou(&m.bbox).total_cmp(&truth[b].1.iou(&m.bbox)));
        if let Some(t) = best.filter(|&t| truth[t].1.iou(&m.bbox) >= 0.5) {
            (used[t], right[i]) = (true, true);
        }
    }
    right
}
