//! The last step to a pose: the place, size, stretch and angle at which grey levels agree best.
//!
//! Gauss-Newton ascent of the correlation ("Parametric Image Alignment Using Enhanced Correlation Coefficient
//! Maximization", Evangelidis and Psarakis 2008): a look at the levels and their slopes says how they change with each
//! motion, and so where the correlation is highest if they went on like that.

use super::patch::Patch;
use super::pose::{Limits, Pose};
use super::score::Sheet;
use super::simd::{self, MOTIONS, NORMAL, Simd};

/// How much more the grey levels may agree in the end than before each step.
const LATER_GAIN: [f32; 4] = [0.3, 0.1, 0.05, 0.03];
/// How much better all samples may agree than those that are aligned.
const SAMPLED: f32 = 0.03;
/// Gain of a step below which the pose is as good as it gets.
const SETTLED: f32 = 1e-3;
/// The farthest that a step goes by each motion: pixels, logarithms and radians; the last for angles that are not free.
const FARTHEST: [f64; MOTIONS] = [1.0, 1.0, 0.04, 0.06, 0.06];
const FARTHEST_SKEW: f64 = 0.02;
/// What the farthest step by a motion should change the levels by, as a share of their variance, for the motion to be
/// followed at all: the turn of a circle says nothing.
const LEAST_CHANGE: f64 = 0.003;

/// Moves a pose to where the levels of a patch agree best with the drawing, at the stroke width that agrees best at the
/// start; `None` once it is clear that they will not agree as well as `needed`.
pub(super) fn align(patch: &Patch, sheet: &Sheet, start: &Pose, limits: &Limits, needed: f32) -> Option<Pose> {
    let (simd, plane) = (Simd::chosen(), sheet.darkness());
    let mut sampled = [const { Vec::new() }; 3].map(|_: Vec<f32>| vec![0.0; patch.cloud.padded()]);
    let mut pose = *start;
    simd::between_with_slopes(simd, &plane, &patch.cloud, &pose.affine(), &mut sampled);
    let (stroke, mut best) = patch.best_stroke(simd, &sampled[0]);
    let mut farthest = FARTHEST;
    if !limits.free_angle {
        farthest[MOTIONS - 1] = FARTHEST_SKEW;
    }
    for gain in LATER_GAIN {
        if best + gain < needed {
            return None;
        }
        let Some(step) = step(simd, patch, stroke, &pose, &sampled, farthest) else { break };
        let next = moved(&pose, step);
        simd::between_with_slopes(simd, &plane, &patch.cloud, &next.affine(), &mut sampled);
        let value = patch.correlation(simd, stroke, &sampled[0]).value();
        let gained = value - best;
        if gained <= 0.0 {
            break;
        }
        (pose, best) = (next, value);
        if gained < SETTLED {
            break;
        }
    }
    (best + SAMPLED >= needed).then_some(pose)
}

/// The step from a pose, where levels and slopes were sampled, to where the correlation would be highest if the levels
/// went on changing like here.
fn step(
    simd: Simd,
    patch: &Patch,
    stroke: usize,
    pose: &Pose,
    sampled: &[Vec<f32>; 3],
    farthest: [f64; MOTIONS],
) -> Option<[f64; MOTIONS]> {
    let sums = patch.correlation(simd, stroke, &sampled[0]);
    let (mut normal, weighted) = ([0.0; NORMAL], &patch.layers[stroke].weighted);
    simd::normal(simd, &patch.cloud, &pose.affine(), &patch.weights, weighted, sampled, &mut normal);
    let n = sums.n.max(1.0);
    let mut next = normal.iter().map(|&v| f64::from(v));
    let mut next = || next.next().expect("there is a number for every sum");
    let (mut matrix, mut means) = ([[0.0; MOTIONS]; MOTIONS], [0.0; MOTIONS]);
    let (mut with_drawing, mut with_template) = ([0.0; MOTIONS], [0.0; MOTIONS]);
    for k in 0..MOTIONS {
        for j in 0..=k {
            matrix[k][j] = next();
        }
        means[k] = next() / n;
        with_drawing[k] = next() - means[k] * sums.b;
        with_template[k] = next() - means[k] * sums.a;
    }
    let variance = sums.bb - sums.b * sums.b / n;
    let common = sums.ab - sums.a * sums.b / n;
    for k in 0..MOTIONS {
        for j in 0..=k {
            matrix[k][j] -= means[k] * means[j] * n;
        }
        matrix[k][k] += LEAST_CHANGE * variance / (farthest[k] * farthest[k]);
    }
    let factor = cholesky(matrix)?;
    let drawing = solve(&factor, with_drawing);
    let dot = |a: &[f64; MOTIONS], b: &[f64; MOTIONS]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // How much brighter the template has to be for the levels that no motion explains.
    let (rest, explained) = (variance - dot(&with_drawing, &drawing), common - dot(&with_template, &drawing));
    if rest <= 0.0 || explained <= 0.0 {
        return None;
    }
    let template = solve(&factor, with_template);
    let step: [f64; MOTIONS] = std::array::from_fn(|k| rest / explained * template[k] - drawing[k]);
    // Too long a step is shortened, not bent.
    let longest = step.iter().zip(farthest).map(|(s, f)| s.abs() / f).fold(1.0, f64::max);
    Some(step.map(|s| s / longest))
}

fn moved(pose: &Pose, [x, y, scale, stretch, angle]: [f64; MOTIONS]) -> Pose {
    Pose {
        at: [pose.at[0] + x as f32, pose.at[1] + y as f32],
        scale: pose.scale * (scale as f32).exp(),
        stretch: pose.stretch + stretch as f32,
        angle: pose.angle + angle as f32,
        mirrored: pose.mirrored,
    }
}

/// The lower factor of a symmetric matrix of which the lower half is given; `None` when it is not positive.
fn cholesky(mut m: [[f64; MOTIONS]; MOTIONS]) -> Option<[[f64; MOTIONS]; MOTIONS]> {
    for i in 0..MOTIONS {
        for j in 0..=i {
            let sum: f64 = m[i][j] - (0..j).map(|k| m[i][k] * m[j][k]).sum::<f64>();
            if i == j && sum <= 0.0 {
                return None;
            }
            m[i][j] = if i == j { sum.sqrt() } else { sum / m[j][j] };
        }
    }
    Some(m)
}

/// Solves for a right side, given the lower factor.
fn solve(factor: &[[f64; MOTIONS]; MOTIONS], mut v: [f64; MOTIONS]) -> [f64; MOTIONS] {
    for i in 0..MOTIONS {
        v[i] = (v[i] - (0..i).map(|k| factor[i][k] * v[k]).sum::<f64>()) / factor[i][i];
    }
    for i in (0..MOTIONS).rev() {
        v[i] = (v[i] - (i + 1..MOTIONS).map(|k| factor[k][i] * v[k]).sum::<f64>()) / factor[i][i];
    }
    v
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::super::ink::Ink;
    use super::super::patch::{LAYERS, Place};
    use super::*;

    /// A lopsided blot: dark in the middle, paper all around, at a pose.
    fn blot([x, y]: [f32; 2]) -> f32 {
        let near = |u: f32, v: f32, r: f32| (-((x - u).powi(2) + (y - v).powi(2)) / (r * r)).exp();
        200.0 * near(-6.0, -2.0, 6.0).max(0.8 * near(7.0, 4.0, 4.5)).max(0.9 * near(2.0, -9.0, 3.5))
    }

    /// The blot as it is seen upright.
    fn patch() -> Patch {
        let sheet = sheet(&Pose { at: [60.5, 55.5], ..Pose::upright(1.0) });
        let grid = (-20i32..=20).flat_map(|y| (-20i32..=20).map(move |x| [x, y]));
        let level = |[x, y]: [i32; 2]| f32::from(sheet.darkness[((55 + y) * 120 + 60 + x) as usize]);
        let place = |at: [i32; 2]| Place { at: at.map(|v| v as f32), weight: 1.0, levels: [level(at); LAYERS] };
        let places: Vec<Place<LAYERS>> = grid.map(place).collect();
        Patch::of(places.iter())
    }

    /// The blot on a drawing, where `pose` lays it.
    fn sheet(pose: &Pose) -> Sheet {
        let [a, b] = pose.matrix();
        let area = a[0] * b[1] - a[1] * b[0];
        let picture = GrayImage::from_fn(120, 110, |x, y| {
            let (u, v) = (x as f32 + 0.5 - pose.at[0], y as f32 + 0.5 - pose.at[1]);
            let place = [(b[1] * u - b[0] * v) / area, (a[0] * v - a[1] * u) / area];
            Luma([235 - blot(place).round() as u8])
        });
        Sheet::of(Ink::of_drawing(&picture))
    }

    #[test]
    fn a_pose_nearby_becomes_the_right_one() {
        let limits = Limits { free_angle: true, ..Limits::default() };
        let right = Pose { at: [57.3, 52.8], scale: 1.13, angle: 0.4, mirrored: true, stretch: 0.1 };
        let sheet = sheet(&right);
        for off in [-1.0f32, 1.0] {
            let start = Pose {
                at: [right.at[0] + 1.2 * off, right.at[1] - 0.9 * off],
                scale: right.scale * (1.0 + 0.03 * off),
                angle: right.angle + 0.05 * off,
                stretch: right.stretch - 0.04 * off,
                ..right
            };
            let found = align(&patch(), &sheet, &start, &limits, 0.5).expect("the levels agree");
            let errors = [
                (found.at[0] - right.at[0]).abs(),
                (found.at[1] - right.at[1]).abs(),
                20.0 * (found.scale / right.scale).ln().abs(),
                20.0 * (found.angle - right.angle).abs(),
                20.0 * (found.stretch - right.stretch).abs(),
            ];
            assert!(errors.iter().all(|e| *e < 0.15), "{errors:?} pixels off, at the blot's rim");
        }
    }

    #[test]
    fn what_cannot_agree_well_enough_is_given_up() {
        let right = Pose { at: [57.0, 52.0], ..Pose::upright(1.0) };
        let sheet = sheet(&Pose { angle: 2.0, ..right });
        let limits = Limits::default();
        assert!(align(&patch(), &sheet, &right, &limits, 0.95).is_none());
    }

    #[test]
    fn nothing_to_see_moves_nothing() {
        let sheet = Sheet::of(Ink::of_drawing(&GrayImage::from_pixel(90, 90, Luma([235]))));
        let start = Pose { at: [40.0, 40.0], ..Pose::upright(1.0) };
        let found = align(&patch(), &sheet, &start, &Limits::default(), f32::NEG_INFINITY).expect("nothing is needed");
        assert_eq!((found.at, found.scale, found.angle), (start.at, start.scale, start.angle));
    }
}
