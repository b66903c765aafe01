//! From a sheet and a bank to hypotheses: poses that are worth weighing against each other.
//!
//! Owns the order of the steps and what each lets through. Every step is dearer than the one before and sees fewer
//! poses: windows, quick refinement, a look at some grey levels, full refinement, another look, alignment, and only then
//! the full comparison. A pose is given up once its grey levels cannot agree so well any more that it would be of use.

use std::collections::HashMap;
use std::f32::consts::FRAC_PI_2;
use std::sync::Arc;

use rayon::prelude::*;

use super::bank::{self, Variant};
use super::negatives::Negatives;
use super::pose::{Limits, Pose, Steps, refine};
use super::scan;
use super::score::{Features, Sheet};
use super::shape::Shape;
use super::surround::Surround;

/// Cover that a pose must reach after the quick and after the full refinement.
const MIN_COVER: [f32; 2] = [0.86, 0.90];
/// Two poses of a shape, turned alike, closer than this share of its size and alike in scale, are one.
const SAME_PLACE: f32 = 0.12;
/// Ratio of scales up to which two poses are alike.
const SAME_SCALE: f32 = 1.1;
/// Correlation of some grey levels that a pose must reach after the quick and after the full refinement.
const MIN_GLANCE: [f32; 2] = [0.46, 0.54];
/// How much better the grey levels of a pose that turns out right may agree in the end than after the quick and after
/// the full refinement.
const LATER_GAIN: [f32; 2] = [0.25, 0.17];
/// How much better, text included, a copy of a pose turned onto what looks like itself must agree to be looked at, and
/// to be looked at alone: a symbol that is symmetric in all it shows lies as the scan says.
const MIN_TWIN_GAIN: f32 = 0.005;
const MAX_TWIN_GAIN: f32 = 0.04;
/// Side of the cells of the look-up grid, pixels.
const GRID: f32 = 24.0;

/// What is looked for, and how.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    /// All shapes at the templates' own size.
    pub shapes: &'a [Shape],
    /// Windows of those that are looked for: a window is the same at every size.
    pub bank: &'a [Variant],
    /// Where each shape is looked for.
    pub limits: &'a [Limits],
    /// A shape, by its index, at about the size that it has on the drawing, so that strokes and blur are as there.
    pub sized: &'a (dyn Fn(usize) -> Arc<Shape> + Sync),
}

impl Query<'_> {
    fn shape(&self, lead: &Lead) -> usize {
        self.bank[lead.variant as usize].shape as usize
    }
}

/// A pose of a shape with what was measured there.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    /// Index of the shape.
    pub shape: usize,
    pub pose: Pose,
    /// Size relative to the template.
    pub scale: f32,
    /// Left, top, right, bottom.
    pub bounds: [f32; 4],
    pub features: Features,
    /// What decides between overlapping hypotheses.
    pub rank: f32,
    /// Whether a counter-example of the class fits the place better.
    pub refuted: bool,
}

/// A pose on its way to a hypothesis.
#[derive(Clone, Copy, Debug)]
struct Lead {
    variant: u32,
    pose: Pose,
    cover: f32,
    /// The shape's diameter there, pixels.
    diameter: f32,
}

/// Everything that fits within the limits of each shape and may be worth its confidence, in a fixed order.
pub(super) fn hypotheses(sheet: &Sheet, query: &Query<'_>) -> Vec<Hypothesis> {
    let Query { shapes, bank, limits, sized } = *query;
    let candidates = scan::candidates(&sheet.ink, bank, |v| limits[v.shape as usize].scale);
    let quick = candidates.par_iter().filter(|c| sheet.wants(c.at)).filter_map(|c| {
        let v = &bank[c.variant as usize];
        let (shape, limits) = (&shapes[v.shape as usize], &limits[v.shape as usize]);
        let scale = c.cell * bank::DIAMETER_CELLS / v.diameter;
        let start = Pose { at: c.at, scale, angle: v.angle, mirrored: v.mirrored, stretch: v.stretch };
        let angle = if limits.free_angle { 0.06 } else { 0.015 };
        let steps = Steps { shift: c.cell * 0.8, scale: 0.05, angle, stretch: 0.06 };
        let (pose, cover) = refine(&shape.quick, &sheet.cost, start, v.angle, steps, limits);
        let diameter = shape.diameter * pose.scale;
        (cover >= MIN_COVER[0]).then_some(Lead { variant: c.variant, pose, cover, diameter })
    });
    let quick = distinct(bank, quick.collect());
    // What follows reads grey levels.
    let mut is_found = vec![false; shapes.len()];
    quick.iter().for_each(|lead| is_found[query.shape(lead)] = true);
    let found: Vec<Option<Found>> =
        is_found.into_par_iter().enumerate().map(|(i, is)| is.then(|| Found::of(query, i, sized(i)))).collect();
    let found = |lead: &Lead| found[query.shape(lead)].as_ref().expect("the lead was found");
    let promising = |step: usize| move |lead: &Lead| found(lead).is_promising(sheet, &lead.pose, step);
    let quick = quick.into_par_iter().map(|lead| {
        let pose = Pose { scale: lead.pose.scale * found(&lead).ratio, ..lead.pose };
        Lead { pose, ..lead }
    });
    let full = quick.filter(promising(0)).filter_map(|lead| {
        let Found { shape, limits, .. } = found(&lead);
        let angle = if limits.free_angle { 0.02 } else { 0.005 };
        let steps = Steps { shift: 0.7, scale: 0.015, angle, stretch: 0.02 };
        let coarse = bank[lead.variant as usize].angle;
        let (pose, cover) = refine(&shape.cloud, &sheet.cost, lead.pose, coarse, steps, limits);
        let diameter = shape.diameter * pose.scale;
        (cover >= MIN_COVER[1]).then_some(Lead { pose, cover, diameter, ..lead })
    });
    let full = distinct(bank, full.collect());
    let turned = full
        .into_par_iter()
        .filter(promising(1))
        .flat_map_iter(|lead| best_turned(sheet, &found(&lead).shape, &bank[lead.variant as usize], &lead));
    let negatives = Negatives::among(query);
    distinct(bank, turned.collect())
        .into_par_iter()
        .filter_map(|lead| found(&lead).hypothesis(sheet, query.shape(&lead), &lead.pose, &negatives))
        .collect()
}

/// A pose and the copy of it that looks alike in cells, as far as grey levels and text do not tell them apart.
fn best_turned(sheet: &Sheet, shape: &Shape, variant: &Variant, lead: &Lead) -> Vec<Lead> {
    let agreement = |pose: &Pose| shape.dense.glance_with_text(sheet, pose);
    let copies = variant.twins.iter().map(|t| lead.pose.turned_by(t)).map(|p| (agreement(&p), p));
    // The first of equally good ones.
    let Some((value, pose)) = copies.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { return vec![*lead] };
    let gain = value - agreement(&lead.pose);
    let copy = (gain > MIN_TWIN_GAIN).then_some(Lead { pose, ..*lead });
    copy.into_iter().chain((gain < MAX_TWIN_GAIN).then_some(*lead)).collect()
}

/// A shape of which there are leads, at about the size that it has on the drawing.
struct Found {
    shape: Arc<Shape>,
    limits: Limits,
    /// Pixels of this shape by those at the template's own size.
    ratio: f32,
}

impl Found {
    fn of(query: &Query<'_>, index: usize, shape: Arc<Shape>) -> Self {
        let ratio = shape.reduction / query.shapes[index].reduction;
        let limits = query.limits[index];
        let limits =
            Limits { scale: limits.scale.map(|s| s * ratio), usual: limits.usual.map(|u| u.times(ratio)), ..limits };
        Self { shape, limits, ratio }
    }

    fn needed_correlation(&self, pose: &Pose) -> f32 {
        Features::needed_correlation(self.limits.worth.at_best, &self.shape, pose, self.limits.usual)
    }

    /// Whether some of the grey levels agree well enough for a step.
    fn is_promising(&self, sheet: &Sheet, pose: &Pose, step: usize) -> bool {
        let agreement = self.shape.dense.glance(sheet, pose);
        agreement >= MIN_GLANCE[step] && agreement + LATER_GAIN[step] >= self.needed_correlation(pose)
    }

    /// The pose nearby at which the grey levels agree best, where it is of use.
    fn hypothesis(&self, sheet: &Sheet, index: usize, pose: &Pose, negatives: &Negatives) -> Option<Hypothesis> {
        let Self { shape, limits, .. } = self;
        let pose = shape.dense.align(sheet, pose, limits, self.needed_correlation(pose))?;
        let likeness = shape.dense.compare(sheet, &pose);
        if Features::at_best(likeness, shape, &pose, limits.usual).confidence(1.0) < limits.worth.at_best {
            return None;
        }
        let features = sheet.features(shape, &pose, limits.usual, likeness);
        (features.confidence(1.0) >= limits.worth.found).then(|| Hypothesis {
            shape: index,
            scale: pose.scale / shape.reduction,
            bounds: pose.bounds(shape),
            rank: features.rank(),
            refuted: negatives.refute(sheet, shape, &pose, &features, limits),
            features: Features { surround: Surround::of(sheet, shape, &pose), ..features },
            pose,
        })
    }
}

/// The cells of the look-up grid within reach of a place.
fn cells(at: [f32; 2], reach: f32) -> impl Iterator<Item = [i32; 2]> {
    let [[left, right], [top, bottom]] = at.map(|v| [v - reach, v + reach].map(|v| (v / GRID).floor() as i32));
    (top..=bottom).flat_map(move |y| (left..=right).map(move |x| [x, y]))
}

/// Drops poses that a better one of the same shape, turned alike, stands for. The best come first.
fn distinct(bank: &[Variant], mut leads: Vec<Lead>) -> Vec<Lead> {
    // Stable, so that equal covers stay in scan order.
    leads.sort_by(|a, b| b.cover.total_cmp(&a.cover));
    let turn = |v: &Variant, p: &Pose| {
        // Copies that look alike are whole quarters away from their variant.
        let quarters = ((p.angle - v.angle) / FRAC_PI_2).round() * 90.0;
        (v.shape, p.mirrored, (v.angle.to_degrees() + quarters).round().rem_euclid(360.0) as u16)
    };
    // It is only looked up in: its order says nothing.
    let mut grid: HashMap<_, Vec<Pose>> = HashMap::new();
    leads.retain(|lead| {
        let p = &lead.pose;
        let turn = turn(&bank[lead.variant as usize], p);
        let reach = (SAME_PLACE * lead.diameter).min(GRID);
        let same = |q: &Pose| {
            (q.at[0] - p.at[0]).abs() < reach
                && (q.at[1] - p.at[1]).abs() < reach
                && (q.scale / p.scale).max(p.scale / q.scale) < SAME_SCALE
        };
        if cells(p.at, reach).filter_map(|cell| grid.get(&(cell, turn))).flatten().any(same) {
            return false;
        }
        grid.entry((p.at.map(|v| (v / GRID).floor() as i32), turn)).or_default().push(*p);
        true
    });
    leads
}
