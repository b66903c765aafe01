//! How much of one symbol is found in another, in the poses that the settings allow.
//!
//! Centre lines of the one are laid on the ink of the other, so that strokes may differ by half their width and no more.

use rayon::prelude::*;

use super::plain::plainness;
use super::sketch::Sketch;
use super::{Confusion, ConfusionKind, LISTED, PART_OF, Symmetry};
use crate::matcher::shape::Shape;
use crate::matcher::{MatcherConfig, Role, Rotations};

/// Share of its ink that a turned symbol must keep to be the same.
const SAME: f32 = 0.93;
/// Step in which symmetry is looked for, degrees.
const TURN_DEG: usize = 15;
/// Sizes of a part relative to its size in its own template.
const PART_SIZES: [f32; 3] = [1.0, 0.9, 1.1];
/// Step between places of a part, pixels of a sketch.
const PLACE_STEP: usize = 2;
/// Length of a part relative to the whole, at least: among strokes that are wide for it, anything is found.
const MIN_PART: f32 = 0.4;
/// Points of a part that are looked at first, and the share of them that must be found.
const FEW: usize = 24;
const PROMISING: f32 = 0.7;
/// Share of a part found from which the neighbouring places are looked at too.
const WORTH_A_LOOK: f32 = 0.85;
/// Share of the larger symbol's ink in the place of the part that the part lacks, above which it is hidden rather than
/// contained.
const MAX_HIDDEN: f32 = 0.25;
/// Factor beyond the allowed stretch that is still compared, because templates are cut a little differently.
const STRETCH_SLACK: f32 = 1.04;

/// A turn by quarters after a mirroring.
#[derive(Clone, Copy)]
struct Turn {
    quarters: usize,
    mirrored: bool,
}

impl Turn {
    /// Those that a class is looked for in, without those that leave the symbol as it is after another.
    fn different(sketch: &Sketch, config: &MatcherConfig, class: &str) -> Vec<Self> {
        let poses = config.poses_of(class);
        let quarters = if poses.rotations == Rotations::None { 0..1 } else { 0..4 };
        let mirrors: &[bool] = if poses.mirror { &[false, true] } else { &[false] };
        let all =
            mirrors.iter().flat_map(|&mirrored| quarters.clone().map(move |quarters| Self { quarters, mirrored }));
        let mut kept: Vec<Self> = Vec::new();
        for turn in all {
            let same = |k: &Self| sketch.cover(&sketch.points, SAME, |p| k.back(turn.of(p))) >= SAME;
            if !kept.iter().any(same) {
                kept.push(turn);
            }
        }
        kept
    }

    fn of(self, [x, y]: [f32; 2]) -> [f32; 2] {
        let x = if self.mirrored { -x } else { x };
        match self.quarters {
            0 => [x, y],
            1 => [-y, x],
            2 => [-x, -y],
            _ => [y, -x],
        }
    }

    /// Takes back [`Turn::of`].
    fn back(self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [x, y] = Self { quarters: (4 - self.quarters) % 4, mirrored: false }.of([x, y]);
        [if self.mirrored { -x } else { x }, y]
    }
}

/// All pairs of given templates of different classes that are alike: near duplicates first, the most alike first.
/// Confirmed templates look like the given ones of their class and would only cost time.
pub(super) fn confusions(shapes: &[Shape], config: &MatcherConfig) -> Vec<Confusion> {
    let all: Vec<Prepared<'_>> = shapes.par_iter().map(|s| Prepared::of(s, config)).collect();
    let wanted: Vec<&Prepared<'_>> = all.iter().filter(|p| p.shape.role == Role::Given).collect();
    let pairs = |(i, a): (usize, &&Prepared<'_>)| {
        let others = wanted.iter().enumerate().filter(|(_, b)| a.shape.class != b.shape.class);
        // Of both orders of a pair only one is asked whether the two are the same.
        others.filter_map(|(j, b)| confusion(a, b, i < j, config)).collect::<Vec<_>>()
    };
    let mut all: Vec<Confusion> = wanted.par_iter().enumerate().flat_map_iter(pairs).collect();
    let kind = |c: &Confusion| u8::from(c.kind == ConfusionKind::Contains);
    // Stable: equal pairs stay in the order of the templates.
    all.sort_by(|x, y| kind(x).cmp(&kind(y)).then(y.likeness.total_cmp(&x.likeness)));
    all
}

/// A template made ready for comparison.
struct Prepared<'a> {
    shape: &'a Shape,
    sketch: Sketch,
    turns: Vec<Turn>,
    plain: bool,
}

impl<'a> Prepared<'a> {
    fn of(shape: &'a Shape, config: &MatcherConfig) -> Self {
        let sketch = Sketch::of(shape);
        let turns = Turn::different(&sketch, config, &shape.class);
        Self { shape, sketch, turns, plain: plainness(shape).is_some() }
    }
}

/// How `b` is like `a`, when it is.
fn confusion(a: &Prepared<'_>, b: &Prepared<'_>, whole: bool, config: &MatcherConfig) -> Option<Confusion> {
    let same = if whole { duplicate(a, b, config) } else { 0.0 };
    let (kind, likeness) = if f64::from(same) >= LISTED {
        (ConfusionKind::NearDuplicate, same)
    } else if b.plain {
        // A line or an outline is a part of almost everything.
        return None;
    } else {
        (ConfusionKind::Contains, part(a, b, config)?)
    };
    Some(Confusion {
        a: a.shape.class.clone(),
        template_a: a.shape.name.clone(),
        b: b.shape.class.clone(),
        template_b: b.shape.name.clone(),
        likeness: f64::from(likeness),
        kind,
    })
}

/// Sizes of `b` relative to `a`, pixels of the templates, at which both may be looked for on one drawing.
fn sizes(a: &Prepared<'_>, b: &Prepared<'_>, config: &MatcherConfig) -> std::ops::RangeInclusive<f32> {
    let (a, b) = (config.poses_of(&a.shape.class), config.poses_of(&b.shape.class));
    (b.scale_min / a.scale_max) as f32..=(b.scale_max / a.scale_min) as f32
}

/// The share of the ink that both have when their boxes are laid upon one another.
fn duplicate(whole: &Prepared<'_>, other: &Prepared<'_>, config: &MatcherConfig) -> f32 {
    let (a, b) = (&whole.sketch, &other.sketch);
    let stretch = |p: &Prepared<'_>| config.poses_of(&p.shape.class).stretch as f32;
    let stretch = stretch(whole).max(stretch(other));
    let sizes = sizes(whole, other, config);
    // What is less alike is not listed.
    let mut best = LISTED as f32;
    let mut found = 0.0f32;
    for &turn in &other.turns {
        let [bw, bh] = turn.of(b.half).map(f32::abs);
        let factor = [a.half[0] / bw, a.half[1] / bh];
        let ratio = (factor[0] / factor[1]).max(factor[1] / factor[0]);
        let size = (factor[0] * factor[1]).sqrt() * a.unit / b.unit;
        if ratio > stretch * STRETCH_SLACK || !sizes.contains(&size) {
            continue;
        }
        for k in 0..9 {
            let shift = [(k % 3) as f32 - 1.0, (k / 3) as f32 - 1.0];
            let there = |p: [f32; 2]| {
                let [x, y] = turn.of(p);
                [x * factor[0] + shift[0], y * factor[1] + shift[1]]
            };
            let forth = a.cover(&b.points, best, there);
            if forth >= best {
                let back = |[x, y]: [f32; 2]| turn.back([(x - shift[0]) / factor[0], (y - shift[1]) / factor[1]]);
                found = found.max(forth.min(b.cover(&a.points, best, back)));
                best = best.max(found);
            }
        }
    }
    found
}

/// The share of `other` that is found in a place in `whole`; `None` below [`PART_OF`] and where it is hidden in other ink.
fn part(whole: &Prepared<'_>, other: &Prepared<'_>, config: &MatcherConfig) -> Option<f32> {
    let (a, b) = (&whole.sketch, &other.sketch);
    let wanted = sizes(whole, other, config);
    let mut best = None;
    for size in PART_SIZES.into_iter().filter(|s| wanted.contains(s)) {
        let factor = size * b.unit / a.unit;
        for &turn in &other.turns {
            let half = turn.of(b.half).map(|v| v.abs() * factor);
            let room = [a.half[0] - half[0], a.half[1] - half[1]];
            let small = half[0].max(half[1]) < MIN_PART * a.half[0].max(a.half[1]);
            if small || room[0] < -1.0 || room[1] < -1.0 || a.length() < 0.9 * factor * b.length() {
                continue;
            }
            let places = |k: usize| {
                let r = room[k].max(0.0).ceil() as i32;
                (-r..=r).step_by(PLACE_STEP).map(|v| v as f32)
            };
            let cover = |points: &[[f32; 2]], [dx, dy]: [f32; 2], least: f32| {
                a.cover(points, least, |p| {
                    let [x, y] = turn.of(p);
                    [x * factor + dx, y * factor + dy]
                })
            };
            let near = |[dx, dy]: [f32; 2]| (0..9).map(move |k| [dx + (k % 3) as f32 - 1.0, dy + (k / 3) as f32 - 1.0]);
            let all = places(1).flat_map(|dy| places(0).map(move |dx| [dx, dy]));
            let few = &b.points[..b.points.len().min(FEW)];
            let promising =
                |&at: &[f32; 2]| cover(few, at, PROMISING) > 0.0 && cover(&b.points, at, WORTH_A_LOOK) > 0.0;
            for [dx, dy] in all.filter(promising).flat_map(near) {
                let least = best.unwrap_or(PART_OF as f32);
                let found = cover(&b.points, [dx, dy], least);
                let back = |[x, y]: [f32; 2]| turn.back([(x - dx) / factor, (y - dy) / factor]);
                if found >= least && best != Some(found) && b.foreign(&a.points, back) <= MAX_HIDDEN {
                    best = Some(found);
                }
            }
        }
    }
    best
}

/// Turns and mirrorings that leave a symbol as it is.
pub(super) fn symmetries(shape: &Shape) -> Vec<Symmetry> {
    let sketch = Sketch::of(shape);
    let mut found = Vec::new();
    for mirrored in [false, true] {
        for degrees in (0..360).step_by(TURN_DEG).filter(|&d| mirrored || d > 0) {
            let (s, c) = (degrees as f32).to_radians().sin_cos();
            let turned = |[x, y]: [f32; 2]| {
                let x = if mirrored { -x } else { x };
                [x * c - y * s, x * s + y * c]
            };
            if sketch.cover(&sketch.points, SAME, turned) >= SAME {
                found.push((degrees, mirrored));
            }
        }
    }
    // A turn that leaves a symbol as it is does so any number of times; others are only small changes.
    let repeats = |degrees: usize| {
        (1..360 / TURN_DEG).all(|k| {
            let all = degrees * k % 360;
            all == 0 || found.contains(&(all, false))
        })
    };
    let kept = found.iter().filter(|&&(degrees, mirrored)| mirrored || repeats(degrees));
    kept.map(|&(degrees, mirrored)| Symmetry { rotation_deg: degrees as f64, mirrored }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_back() {
        for quarters in 0..4 {
            for mirrored in [false, true] {
                let turn = Turn { quarters, mirrored };
                assert_eq!(turn.back(turn.of([3.0, 5.0])), [3.0, 5.0]);
            }
        }
    }
}
