//! A symbol at a common small size: its ink, and points along the middle of its strokes.

use crate::matcher::hull::Hull;
use crate::matcher::ink::distance;
use crate::matcher::shape::Shape;

/// Longer side of a sketched symbol, pixels.
const SIDE: f32 = 64.0;
/// Pixels a side of the grid: the symbol and some room.
const GRID: usize = 80;
/// Half the width that strokes have at least, because lines of thin pens need not meet exactly: this share of the
/// shorter side, pixels within the range.
const HALF_STROKE: f32 = 0.08;
const HALF_STROKE_PX: [f32; 2] = [1.0, 2.5];
/// Most points.
const MAX_POINTS: usize = 240;
/// Longest distance that is told apart, thirds of a pixel.
const FAR: u8 = 240;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    /// 1 where a point of another symbol counts as found.
    ink: Vec<u8>,
    /// Points in the middle of strokes and all over filled areas, as offsets from the centre; spread out, so that a
    /// few of the first say whether the rest is worth a look.
    pub points: Vec<[f32; 2]>,
    /// How many points there would be without [`MAX_POINTS`].
    all_points: usize,
    /// Half the width and the height of the ink's box, pixels.
    pub half: [f32; 2],
    /// Pixels of the template per pixel.
    pub unit: f32,
    hull: Hull,
}

impl Sketch {
    pub fn of(shape: &Shape) -> Self {
        let [x0, y0, x1, y1] = shape.extent;
        let k = SIDE / (x1 - x0).max(y1 - y0);
        let at = |v: f32| v * k + GRID as f32 / 2.0;
        // Pixels that are larger here than in the template take several.
        let steps = (k.ceil() as usize + 1).clamp(1, 8);
        let part = |i: usize| (i as f32 + 0.5) / steps as f32 - 0.5;
        let mut ink = vec![0u8; GRID * GRID];
        for &[x, y] in &shape.ink {
            for i in 0..steps * steps {
                let (u, v) = (at(x + part(i % steps)), at(y + part(i / steps)));
                let inside = 0.0..GRID as f32;
                if inside.contains(&u) && inside.contains(&v) {
                    ink[v as usize * GRID + u as usize] = 1;
                }
            }
        }
        let paper: Vec<u8> = ink.iter().map(|v| 1 - v).collect();
        let depth = distance(&paper, GRID, GRID, FAR);
        let middle = |i: usize| {
            let (x, y) = (i % GRID, i / GRID);
            if depth[i] == 0 || x == 0 || y == 0 || x + 1 == GRID || y + 1 == GRID {
                return false;
            }
            [i - 1, i + 1, i - GRID, i + GRID].into_iter().all(|n| depth[n] <= depth[i])
        };
        let ridge: Vec<usize> = (0..ink.len()).filter(|&i| middle(i)).collect();
        let mut depths: Vec<u8> = ridge.iter().map(|&i| depth[i]).collect();
        depths.sort_unstable();
        let half_stroke = f32::from(depths.get(depths.len() / 2).copied().unwrap_or(3)) / 3.0 - 0.5;
        // In filled areas everything that is deeper than a stroke counts, not only the middle.
        let deep = |i: usize| f32::from(depth[i]) / 3.0 > half_stroke + 1.5;
        let core: Vec<usize> = (0..ink.len()).filter(|&i| middle(i) || deep(i)).collect();
        let short = (x1 - x0).min(y1 - y0) * k;
        let least = (HALF_STROKE * short).clamp(HALF_STROKE_PX[0], HALF_STROKE_PX[1]);
        let grown = ((least - half_stroke).max(0.0) * 3.0).round() as u8;
        let near = distance(&ink, GRID, GRID, FAR);
        let offset = |i: usize| [(i % GRID) as f32, (i / GRID) as f32].map(|v| v + 0.5 - GRID as f32 / 2.0);
        Self {
            ink: near.iter().map(|&d| u8::from(d <= grown)).collect(),
            points: spread(core.iter().map(|&i| offset(i)).collect()),
            all_points: core.len(),
            half: [(x1 - x0) * k / 2.0, (y1 - y0) * k / 2.0].map(|v| v.max(1.0)),
            unit: shape.reduction / k,
            hull: Hull::of(shape.hull.0.iter().map(|p| p.map(|v| v * k))),
        }
    }

    /// The length of all strokes, pixels, with filled areas counted by their pixels.
    pub fn length(&self) -> f32 {
        self.all_points as f32
    }

    fn hit(&self, [x, y]: [f32; 2]) -> bool {
        let (u, v) = (x + GRID as f32 / 2.0, y + GRID as f32 / 2.0);
        let inside = 0.0..GRID as f32;
        inside.contains(&u) && inside.contains(&v) && self.ink[v as usize * GRID + u as usize] == 1
    }

    /// The share of points that meet ink where `place` puts them; 0 as soon as it is below `least`.
    pub fn cover(&self, points: &[[f32; 2]], least: f32, place: impl Fn([f32; 2]) -> [f32; 2]) -> f32 {
        let allowed = ((1.0 - least) * points.len() as f32) as usize;
        let mut missing = 0;
        for &p in points {
            if !self.hit(place(p)) {
                missing += 1;
                if missing > allowed {
                    return 0.0;
                }
            }
        }
        1.0 - missing as f32 / points.len().max(1) as f32
    }

    /// Of the points within the hull, the share that meets no ink.
    pub fn foreign(&self, points: &[[f32; 2]], place: impl Fn([f32; 2]) -> [f32; 2]) -> f32 {
        let (mut inside, mut foreign) = (0, 0);
        for p in points.iter().map(|&p| place(p)).filter(|&p| self.hull.contains(p, 0.0)) {
            inside += 1;
            foreign += usize::from(!self.hit(p));
        }
        foreign as f32 / inside.max(1) as f32
    }
}

/// At most [`MAX_POINTS`] of the points, the first of them far from one another: by a fixed shuffle, which is as good as
/// farthest-point sampling here and takes no time.
fn spread(points: Vec<[f32; 2]>) -> Vec<[f32; 2]> {
    let n = points.len();
    // A stride near the golden ratio of the length that shares no divisor with it visits everything once.
    let mut stride = ((n as f64 * 0.618) as usize).max(1);
    while n > 1 && gcd(stride, n) != 1 {
        stride += 1;
    }
    (0..n.min(MAX_POINTS)).map(|k| points[k * stride % n]).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
