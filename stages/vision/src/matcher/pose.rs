//! Fine poses: a template laid on the drawing, and the descent that moves it to where it fits best.

use std::f32::consts::FRAC_PI_2;

use rayon::prelude::*;

use super::bank::{Twin, stretch_factors};
use super::hull;
use super::ink::{BAND, Ink, band_distance};
use super::shape::Shape;
use super::simd::{self, Affine, Bordered, Cloud, Plane, Simd};

/// Distance to ink, thirds of a pixel, at which a template point counts as uncovered.
const FAR: u8 = 15;
/// Squared [`FAR`]: what a point without ink near it costs.
const FAR_COST: u8 = FAR * FAR;
/// Deviation from a coarse angle that is followed when angles are not free, radians: the skew of a scan.
const MAX_SKEW: f32 = 0.05;
/// Room beyond the wanted scales, for templates that were drawn a little larger or smaller than they say.
const SCALE_SLACK: f32 = 1.05;
/// Step sizes of a descent, each half as long as the one before, and most sweeps over all parameters at each.
const ROUNDS: usize = 2;
const MAX_SWEEPS: usize = 2;

/// Where and how a shape lies on the drawing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pose {
    /// Centre, pixels of the drawing.
    pub at: [f32; 2],
    /// Pixels of the drawing per pixel of the shape.
    pub scale: f32,
    /// Radians, clockwise on the drawing.
    pub angle: f32,
    /// Mirrored left to right before it is turned.
    pub mirrored: bool,
    /// Logarithm of the factor by which width over height is stretched.
    pub stretch: f32,
}

impl Pose {
    /// As drawn in the template, at a scale.
    pub fn upright(scale: f32) -> Self {
        Self { at: [0.0; 2], scale, angle: 0.0, mirrored: false, stretch: 0.0 }
    }

    /// The pose of a shape that is first turned onto what looks like itself.
    pub fn turned_by(&self, twin: &Twin) -> Self {
        let turn = f32::from(twin.quarters) * FRAC_PI_2;
        Self {
            angle: self.angle + if self.mirrored { -turn } else { turn },
            mirrored: self.mirrored ^ twin.mirrored,
            stretch: if twin.quarters % 2 == 1 { -self.stretch } else { self.stretch },
            ..*self
        }
    }

    /// The linear part: columns are where the shape's x and y axes go.
    pub fn matrix(&self) -> [[f32; 2]; 2] {
        self.turned(&Turn::of(self))
    }

    /// The linear part from sines and exponentials that are known.
    fn turned(&self, turn: &Turn) -> [[f32; 2]; 2] {
        let sign = if self.mirrored { -1.0 } else { 1.0 };
        let [ex, ey] = turn.stretch;
        let (s, c) = turn.sin_cos;
        let (x, y) = (sign * ex * self.scale, ey * self.scale);
        [[c * x, s * x], [-s * y, c * y]]
    }

    /// Where offsets from the shape's centre go.
    pub fn affine(&self) -> Affine {
        let [x, y] = self.matrix();
        Affine { at: self.at, x, y }
    }

    /// Places offsets from the shape's centre on the drawing.
    pub fn placer(&self) -> impl Fn([f32; 2]) -> [f32; 2] {
        let [a, b] = self.matrix();
        let at = self.at;
        move |p| [at[0] + p[0] * a[0] + p[1] * b[0], at[1] + p[0] * a[1] + p[1] * b[1]]
    }

    /// The shape's box on the drawing: left, top, right, bottom. It goes around the ink, with the margin that the
    /// shape's frame has; at slanting angles the margins of two sides are mixed.
    pub fn bounds(&self, shape: &Shape) -> [f32; 4] {
        let corners = || shape.hull.0.iter().copied();
        let mut b = hull::bounds(corners().map(self.placer()), 0.5 * self.scale.max(1.0));
        // A thin stroke of a template that was made smaller covers no whole pixel: the frame is wider than what is drawn.
        let drawn = hull::bounds(corners(), 0.5);
        for (k, axis) in self.matrix().into_iter().enumerate() {
            let margins = [drawn[k] - shape.frame[k], shape.frame[k + 2] - drawn[k + 2]];
            let length = axis[0].hypot(axis[1]).max(f32::MIN_POSITIVE);
            for (j, v) in axis.into_iter().enumerate() {
                let [low, high] = if v < 0.0 { [margins[1], margins[0]] } else { margins };
                b[j] -= low * v * v / length;
                b[j + 2] += high * v * v / length;
            }
        }
        b
    }
}

/// What of a pose is dear to compute and changes with few of its moves.
#[derive(Clone, Copy)]
struct Turn {
    sin_cos: (f32, f32),
    stretch: [f32; 2],
}

impl Turn {
    fn of(pose: &Pose) -> Self {
        Self { sin_cos: pose.angle.sin_cos(), stretch: stretch_factors(pose.stretch) }
    }
}

/// Cost of a template point at each pixel: the squared distance to ink in thirds of a pixel, at most [`FAR_COST`].
pub(super) struct CostMap {
    width: usize,
    height: usize,
    /// With a border of [`FAR_COST`], one pixel wide.
    cost: Vec<u8>,
    simd: Simd,
}

impl CostMap {
    pub fn of(ink: &Ink) -> Self {
        let (simd, width, height) = (Simd::chosen(), ink.width, ink.height);
        let pitch = width + 2;
        let mut cost = vec![FAR_COST; pitch * (height + 2)];
        let inner = &mut cost[pitch..pitch * (height + 1)];
        inner.par_chunks_mut(BAND * pitch).enumerate().for_each(|(band, out)| {
            let first = band * BAND;
            let distances = band_distance(&ink.mask, width, height, FAR, first..first + out.len() / pitch);
            for (out, row) in out.chunks_exact_mut(pitch).zip(distances.chunks_exact(width.max(1))) {
                simd::square(simd, row, &mut out[1..=width]);
            }
        });
        Self { width, height, cost, simd }
    }

    /// The costs under placed points; [`FAR_COST`] outside the drawing. The end is padding.
    pub fn under(&self, points: &Cloud, place: &Affine) -> Vec<f32> {
        let plane = Plane { bytes: &self.cost, width: self.width + 2, height: self.height + 2 };
        let place = Affine { at: place.at.map(|v| v + 1.0), ..*place };
        let mut costs = vec![0.0; points.padded()];
        simd::nearest(self.simd, &plane, FAR_COST, points, &place, &mut costs);
        costs
    }

    /// Sum of the points' costs at a pose; one that reaches the limit may be too small.
    fn cost(&self, points: &Cloud, pose: &Pose, turn: &Turn, limit: u32) -> u32 {
        let [x, y] = pose.turned(turn);
        let map = Bordered { bytes: &self.cost, width: self.width, height: self.height };
        simd::sum_under(self.simd, points, &map, &Affine { at: pose.at, x, y }, limit)
    }
}

/// First steps of a descent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    /// Pixels of the drawing.
    pub shift: f32,
    /// Share of the scale.
    pub scale: f32,
    /// Radians.
    pub angle: f32,
    /// Logarithm of the stretch.
    pub stretch: f32,
}

/// How far the sizes of a drawing's symbols usually are from each other, as a logarithm either way.
const USUAL_SPREAD: f32 = 0.223;

/// The usual size of a drawing's symbols.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsualScale {
    /// Pixels of the drawing per pixel of the shape.
    pub scale: f32,
    /// How far the wanted sizes go below and above it, as logarithms.
    pub reach: [f32; 2],
}

impl UsualScale {
    /// The same for a shape of which so many pixels are one of this.
    pub fn times(self, ratio: f32) -> Self {
        Self { scale: self.scale * ratio, ..self }
    }

    /// How far from usual a size is: as a logarithm, but shorter where sizes are wanted that differ more than usual.
    pub fn off(&self, scale: f32) -> f32 {
        let off = (scale / self.scale).ln();
        let reach = self.reach[usize::from(off > 0.0)];
        off.abs() * USUAL_SPREAD / reach.max(USUAL_SPREAD)
    }
}

/// Confidence of the first look, 0..=1, from which a pose is of use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Worth {
    /// What it must reach if all that is not measured yet is as good as can be; what falls short is given up.
    pub at_best: f64,
    /// What it must reach in the end.
    pub found: f64,
}

impl Worth {
    /// All that reaches a confidence.
    pub fn all_from(confidence: f64) -> Self {
        Self { at_best: confidence, found: confidence }
    }
}

/// Bounds of a descent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Wanted scales, pixels of the drawing per pixel of the shape.
    pub scale: [f32; 2],
    /// The usual scale of the drawing's symbols, where it is known.
    pub usual: Option<UsualScale>,
    /// Whether any angle will do.
    pub free_angle: bool,
    /// Largest logarithm of the stretch either way.
    pub stretch: f32,
    /// What makes a pose of use.
    pub worth: Worth,
}

/// Coordinate descent from a pose to the nearest best cover of some points of a shape; returns the pose and its cover,
/// 0..=1.
pub(super) fn refine(
    points: &Cloud,
    map: &CostMap,
    start: Pose,
    coarse_angle: f32,
    mut steps: Steps,
    limits: &Limits,
) -> (Pose, f32) {
    let allowed = |p: &Pose| {
        (limits.scale[0] / SCALE_SLACK..=limits.scale[1] * SCALE_SLACK).contains(&p.scale)
            && (limits.free_angle || (p.angle - coarse_angle).abs() <= MAX_SKEW)
            && p.stretch.abs() <= limits.stretch
    };
    let (mut best, mut turn) = (start, Turn::of(&start));
    let mut cost = map.cost(points, &best, &turn, u32::MAX);
    let mut direction = [1.0f32; 5];
    for _ in 0..ROUNDS {
        for _ in 0..MAX_SWEEPS {
            let mut moved = false;
            for (k, direction) in direction.iter_mut().enumerate() {
                for sign in [*direction, -*direction] {
                    let (mut p, mut t) = (best, turn);
                    match k {
                        0 => p.at[0] += sign * steps.shift,
                        1 => p.at[1] += sign * steps.shift,
                        2 => p.scale *= 1.0 + sign * steps.scale,
                        3 => p.angle += sign * steps.angle,
                        _ => p.stretch += sign * steps.stretch,
                    }
                    if !allowed(&p) {
                        continue;
                    }
                    match k {
                        3 => t.sin_cos = p.angle.sin_cos(),
                        4 => t.stretch = stretch_factors(p.stretch),
                        _ => {}
                    }
                    let c = map.cost(points, &p, &t, cost);
                    if c < cost {
                        (best, turn, cost, moved, *direction) = (p, t, c, true, sign);
                        break;
                    }
                }
            }
            if !moved {
                break;
            }
        }
        steps.shift *= 0.5;
        steps.scale *= 0.5;
        steps.angle *= 0.5;
        steps.stretch *= 0.5;
    }
    let worst = points.len().max(1) as f32 * f32::from(FAR_COST);
    (best, 1.0 - cost as f32 / worst)
}
