//! The bank of windows: every template in every coarse pose, drawn into 32x32 cells.
//!
//! A window is the template scaled so that its circumscribed circle is 31 cells wide. Because every template fills the
//! same window, one bank serves all scales: the drawing is pooled to coarser and coarser cells instead.

use std::cmp::Reverse;

use rayon::prelude::*;

use super::hull::Hull;
use super::shape::Shape;

/// Cells a side of a window.
pub(super) const CELLS: usize = 32;
/// Cells of the circumscribed circle's diameter.
pub(super) const DIAMETER_CELLS: f32 = CELLS as f32 - 1.0;
/// A window as bits: word `k` holds row `2k` in its low and row `2k + 1` in its high half; bit `x` is column `x`.
pub(super) type Window = [u64; CELLS / 2];
/// Two windows of a template that differ in less than this share of their ink count as one.
const SAME_WINDOW: f32 = 0.12;
/// Share of the ink that may lie beside that of a turned or mirrored copy for the two to look alike.
const LOOKS_ALIKE: f32 = 0.15;
/// Share of the heaviest variant's ink that all of a group have.
const MIN_COMMON: f32 = 0.6;
/// Variants that are put into groups together.
const GROUPED: usize = 2048;
/// Sub-samples a side of a template pixel when it is drawn into cells.
const SUBSAMPLES: usize = 3;

/// A template in one coarse pose.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// Index of the shape.
    pub shape: u32,
    /// Angle, radians, clockwise on the drawing.
    pub angle: f32,
    pub mirrored: bool,
    /// Logarithm of the factor by which width over height is stretched.
    pub stretch: f32,
    /// Diameter of the stretched shape, shape pixels.
    pub diameter: f32,
    pub ink: Window,
    /// Cells inside the hull and away from ink, where ink of the drawing is foreign.
    pub clutter: Window,
    /// Number of ink cells.
    pub count: u32,
    /// Turned copies that look alike in cells: the scan cannot tell which of them it found.
    pub twins: Vec<Twin>,
    /// Number of its group: variants that have much of their ink in the same cells.
    pub group: u32,
}

/// A quarter turn, and a mirroring before it, of a template onto what looks like itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Twin {
    /// Number of quarter turns, clockwise.
    pub quarters: u8,
    pub mirrored: bool,
}

/// All variants of all shapes, without near duplicates. `poses` gives a shape's angles in degrees, mirrorings and
/// logarithms of stretches.
pub(super) fn variants(
    shapes: &[Shape],
    poses: impl Fn(&Shape) -> (Vec<f64>, Vec<bool>, Vec<f32>) + Sync,
) -> Vec<Variant> {
    let per_shape: Vec<Vec<Variant>> = shapes
        .par_iter()
        .enumerate()
        .map(|(i, shape)| {
            let (angles_deg, mirrors, stretches) = poses(shape);
            let twins = twins(i as u32, shape, &angles_deg, &mirrors);
            let mut kept: Vec<Variant> = Vec::new();
            for stretch in stretches {
                let first = kept.len();
                let mut drawn: Vec<Variant> = Vec::new();
                for &mirrored in &mirrors {
                    for angle in &angles_deg {
                        // A window is as good a quarter turn further, so that only the first quarter is drawn.
                        let quarters = (angle / 90.0) as usize;
                        let rest = (angle - 90.0 * quarters as f64).to_radians() as f32;
                        let known = drawn.iter().position(|v| v.angle == rest && v.mirrored == mirrored);
                        let upright = known.unwrap_or_else(|| {
                            let twins = twins.clone();
                            drawn.push(Variant { twins, ..draw(i as u32, shape, rest, mirrored, stretch) });
                            drawn.len() - 1
                        });
                        let v = drawn[upright].turned(quarters, angle.to_radians() as f32);
                        let same = |k: &Variant| different_cells(k, &v) < SAME_WINDOW * v.count as f32;
                        if v.count > 0 && !kept[first..].iter().any(same) {
                            kept.push(v);
                        }
                    }
                }
            }
            kept
        })
        .collect();
    let mut bank: Vec<Variant> = per_shape.into_iter().flatten().collect();
    group(&mut bank);
    bank
}

/// Puts variants that have much of their ink in the same cells into groups, so that the scan can rule out a group by
/// what all of it has.
fn group(bank: &mut [Variant]) {
    let mut order: Vec<usize> = (0..bank.len()).collect();
    order.sort_by_key(|&i| Reverse(bank[i].count));
    // Only variants with about as much ink as each other have most of it in common.
    let parts: Vec<Vec<u32>> = order.par_chunks(GROUPED).map(|part| groups(part.iter().map(|&i| &bank[i]))).collect();
    for (k, (part, groups)) in order.chunks(GROUPED).zip(parts).enumerate() {
        for (&i, group) in part.iter().zip(groups) {
            bank[i].group = (k * GROUPED) as u32 + group;
        }
    }
}

/// The groups of some variants, of which the heaviest come first: each joins the group of which the largest part stays
/// common.
fn groups<'a>(variants: impl Iterator<Item = &'a Variant>) -> Vec<u32> {
    /// What a group has in common, and the ink cells of its heaviest.
    struct Group {
        common: Window,
        most: u32,
    }
    let mut groups: Vec<Group> = Vec::new();
    let join = |v: &'a Variant| {
        let both = |g: &Group| g.common.iter().zip(&v.ink).map(|(p, q)| (p & q).count_ones()).sum::<u32>();
        let shares = groups.iter().map(|g| both(g) as f32 / g.most as f32);
        let largest = shares.enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some((k, _)) = largest.filter(|(_, share)| *share >= MIN_COMMON) else {
            groups.push(Group { common: v.ink, most: v.count });
            return groups.len() as u32 - 1;
        };
        groups[k].common.iter_mut().zip(&v.ink).for_each(|(p, q)| *p &= q);
        k as u32
    };
    variants.map(join).collect()
}

/// The turns among the allowed ones that leave a shape looking as it is.
fn twins(index: u32, shape: &Shape, angles_deg: &[f64], mirrors: &[bool]) -> Vec<Twin> {
    let upright = draw(index, shape, 0.0, false, 0.0);
    let near = dilate(&upright.ink);
    let beside = |a: &Window, near: &Window| a.iter().zip(near).map(|(p, q)| (p & !q).count_ones()).sum::<u32>() as f32;
    let copies = mirrors.iter().map(|&mirrored| (mirrored, draw(index, shape, 0.0, mirrored, 0.0)));
    let all =
        copies.flat_map(|(mirrored, copy)| (0..4).map(move |quarters| (Twin { quarters, mirrored }, copy.clone())));
    all.filter(|(t, _)| *t != Twin { quarters: 0, mirrored: false })
        .filter(|(t, _)| angles_deg.contains(&(90.0 * f64::from(t.quarters))))
        .filter(|(t, copy)| {
            let turned = copy.turned(usize::from(t.quarters), 0.0);
            let most = LOOKS_ALIKE * upright.count as f32;
            beside(&turned.ink, &near) <= most && beside(&upright.ink, &dilate(&turned.ink)) <= most
        })
        .map(|(t, _)| t)
        .collect()
}

impl Variant {
    /// Some quarter turns further, to an angle in radians.
    fn turned(&self, quarters: usize, angle: f32) -> Self {
        let turned = |window: &Window| (0..quarters).fold(*window, |w, _| quarter_turn(&w));
        Self { angle, ink: turned(&self.ink), clutter: turned(&self.clutter), ..self.clone() }
    }
}

/// A window turned clockwise.
fn quarter_turn(window: &Window) -> Window {
    let mut out = [0; CELLS / 2];
    for y in 0..CELLS {
        for x in (0..CELLS).filter(|&x| get(window, x, y)) {
            set(&mut out, CELLS - 1 - y, x);
        }
    }
    out
}

fn different_cells(a: &Variant, b: &Variant) -> f32 {
    a.ink.iter().zip(&b.ink).map(|(p, q)| (p ^ q).count_ones()).sum::<u32>() as f32
}

/// Half the stretch goes to the width, its inverse to the height, so that the area stays.
pub(super) fn stretch_factors(stretch: f32) -> [f32; 2] {
    [(stretch * 0.5).exp(), (-stretch * 0.5).exp()]
}

fn draw(index: u32, shape: &Shape, angle: f32, mirrored: bool, stretch: f32) -> Variant {
    let [ex, ey] = stretch_factors(stretch);
    let sign = if mirrored { -1.0 } else { 1.0 };
    let squares = shape.ink.iter().map(|p| (p[0] * ex).powi(2) + (p[1] * ey).powi(2));
    let radius = squares.fold(0.25, f32::max).sqrt();
    let diameter = 2.0 * radius;
    let k = DIAMETER_CELLS / diameter;
    let (s, c) = angle.sin_cos();
    let half = CELLS as f32 / 2.0;
    let place = |[x, y]: [f32; 2]| {
        let (x, y) = (x * ex * sign, y * ey);
        [(x * c - y * s) * k + half, (x * s + y * c) * k + half]
    };
    let plot = |pixels: &[[f32; 2]]| {
        let mut window = [0; CELLS / 2];
        for &[x, y] in pixels {
            for sub in 0..SUBSAMPLES * SUBSAMPLES {
                let at = |i: usize| (i as f32 + 0.5) / SUBSAMPLES as f32 - 0.5;
                let [u, v] = place([x + at(sub % SUBSAMPLES), y + at(sub / SUBSAMPLES)]);
                let inside = 0.0..CELLS as f32;
                if inside.contains(&u) && inside.contains(&v) {
                    set(&mut window, u as usize, v as usize);
                }
            }
        }
        window
    };
    let ink = plot(&shape.ink);
    let (near, ignored) = (dilate(&ink), plot(&shape.ignored));
    let hull = Hull::of(shape.hull.0.iter().map(|&p| place(p)));
    let mut clutter = [0; CELLS / 2];
    for y in 0..CELLS {
        for x in 0..CELLS {
            let free = !get(&near, x, y) && !get(&ignored, x, y);
            if free && hull.contains([x as f32 + 0.5, y as f32 + 0.5], 0.0) {
                set(&mut clutter, x, y);
            }
        }
    }
    let count = ink.iter().map(|w| w.count_ones()).sum();
    Variant { shape: index, angle, mirrored, stretch, diameter, ink, clutter, count, twins: Vec::new(), group: 0 }
}

fn set(window: &mut Window, x: usize, y: usize) {
    window[y / 2] |= 1 << (x + CELLS * (y % 2));
}

fn get(window: &Window, x: usize, y: usize) -> bool {
    window[y / 2] >> (x + CELLS * (y % 2)) & 1 == 1
}

/// Every cell that has ink among itself and its eight neighbours.
fn dilate(window: &Window) -> Window {
    let mut out = [0; CELLS / 2];
    for y in 0..CELLS {
        for x in (0..CELLS).filter(|&x| get(window, x, y)) {
            for v in y.saturating_sub(1)..=(y + 1).min(CELLS - 1) {
                for u in x.saturating_sub(1)..=(x + 1).min(CELLS - 1) {
                    set(&mut out, u, v);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant with ink in some rows.
    fn variant(rows: impl IntoIterator<Item = usize>) -> Variant {
        let mut ink = [0; CELLS / 2];
        rows.into_iter().for_each(|y| (0..CELLS).for_each(|x| set(&mut ink, x, y)));
        let count = ink.iter().map(|w| w.count_ones()).sum();
        let (angle, stretch, diameter, clutter) = (0.0, 0.0, 31.0, [0; CELLS / 2]);
        Variant {
            shape: 0,
            angle,
            mirrored: false,
            stretch,
            diameter,
            ink,
            clutter,
            count,
            twins: Vec::new(),
            group: 0,
        }
    }

    #[test]
    fn groups_have_most_of_their_ink_in_common() {
        let mut bank = [variant(0..10), variant(20..30), variant(0..9), variant(2..10), variant(5..16)];
        group(&mut bank);
        let of = |i: usize| bank[i].group;
        assert!(of(2) == of(0) && of(3) == of(0), "most of the heaviest one's rows");
        assert!(of(1) != of(0) && of(4) != of(0) && of(4) != of(1), "others");
    }
}
