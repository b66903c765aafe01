//! From a sheet and a bank to hypotheses: poses that are worth weighing against each other.
//!
//! Owns the order of the steps and what each lets through. Every step is dearer than the one before and sees fewer
//! poses: windows, quick refinement, full refinement, a look at some grey levels, and only then the full comparison.

use std::collections::BTreeMap;
use std::f32::consts::FRAC_PI_2;

use rayon::prelude::*;

use super::bank::{self, Variant};
use super::negatives::Negatives;
use super::pose::{Limits, Pose, Sampling, Steps, refine};
use super::scan;
use super::score::{Features, Sheet};
use super::shape::Shape;

/// Cover that a pose must reach after the quick and after the full refinement.
const MIN_COVER: [f32; 2] = [0.89, 0.93];
/// Two poses of a shape, turned alike, closer than this share of its size and alike in scale, are one.
const SAME_PLACE: f32 = 0.12;
/// Ratio of scales up to which two poses are alike.
const SAME_SCALE: f32 = 1.1;
/// Correlation of some grey levels that a pose must reach.
const MIN_GLANCE: f32 = 0.45;
/// A pose whose correlation is this much below that of another pose at its place is not looked at closely.
const MAX_BEHIND: f32 = 0.18;
/// The same for copies of a pose turned onto what looks like itself, by the correlation with the text.
const MAX_TWIN_BEHIND: f32 = 0.04;
/// Side of the cells of the look-up grid, pixels.
const GRID: f32 = 24.0;

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
    /// Cover, then correlation.
    value: f32,
}

/// Everything that fits within the limits of each shape, in a fixed order.
pub(super) fn hypotheses(sheet: &Sheet, shapes: &[Shape], bank: &[Variant], limits: &[Limits]) -> Vec<Hypothesis> {
    let limits = |v: &Variant| limits[v.shape as usize];
    let candidates = scan::candidates(&sheet.ink, bank, |v| limits(v).scale);
    let quick = candidates.par_iter().filter(|c| sheet.wants(c.at)).filter_map(|c| {
        let v = &bank[c.variant as usize];
        let scale = c.cell * bank::DIAMETER_CELLS / v.diameter;
        let start = Pose { at: c.at, scale, angle: v.angle, mirrored: v.mirrored, stretch: v.stretch };
        let angle = if limits(v).free_angle { 0.06 } else { 0.015 };
        let steps = Steps { shift: c.cell * 0.8, scale: 0.05, angle, stretch: 0.06, rounds: 2 };
        let shape = &shapes[v.shape as usize];
        let (pose, value) = refine(shape, &sheet.cost, start, v.angle, Sampling::Quick, steps, &limits(v));
        (value >= MIN_COVER[0]).then_some(Lead { variant: c.variant, pose, value })
    });
    let quick = distinct(bank, shapes, quick.collect());
    let full = quick.into_par_iter().filter_map(|lead| {
        let v = &bank[lead.variant as usize];
        let angle = if limits(v).free_angle { 0.02 } else { 0.005 };
        let steps = Steps { shift: 0.7, scale: 0.015, angle, stretch: 0.02, rounds: 3 };
        let shape = &shapes[v.shape as usize];
        let (pose, value) = refine(shape, &sheet.cost, lead.pose, v.angle, Sampling::All, steps, &limits(v));
        (value >= MIN_COVER[1]).then_some(Lead { pose, value, ..lead })
    });
    let full = distinct(bank, shapes, full.collect());
    let glanced = full.into_par_iter().filter_map(|lead| {
        let value = shapes[bank[lead.variant as usize].shape as usize].dense.glance(sheet, &lead.pose);
        (value >= MIN_GLANCE).then_some(Lead { value, ..lead })
    });
    let turned = glanced.flat_map_iter(|lead| {
        let v = &bank[lead.variant as usize];
        best_turned(sheet, &shapes[v.shape as usize], v, &lead)
    });
    let negatives = Negatives::among(shapes);
    promising(&distinct(bank, shapes, turned.collect()))
        .into_par_iter()
        .map(|lead| {
            let v = &bank[lead.variant as usize];
            let shape = &shapes[v.shape as usize];
            let pose = shape.dense.polish(sheet, &lead.pose, &limits(v));
            let features = sheet.features(shape, &pose, limits(v).usual);
            let rank = features.rank();
            let (bounds, scale) = (pose.bounds(shape), pose.scale / shape.reduction);
            let mut h = Hypothesis { shape: v.shape as usize, pose, scale, bounds, features, rank, refuted: false };
            h.refuted = negatives.refute(sheet, &h, &limits(v));
            h
        })
        .collect()
}

/// The copies of a pose that look alike in cells, as far as grey levels and text do not tell them apart.
fn best_turned(sheet: &Sheet, shape: &Shape, variant: &Variant, lead: &Lead) -> Vec<Lead> {
    if variant.twins.is_empty() {
        return vec![*lead];
    }
    let all = std::iter::once(lead.pose).chain(variant.twins.iter().map(|t| lead.pose.turned_by(t)));
    let mut found: Vec<(f32, Pose)> = all.map(|p| (shape.dense.glance_with_text(sheet, &p), p)).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = found[0].0;
    let close = found.into_iter().take(2).filter(|(value, _)| *value > best - MAX_TWIN_BEHIND);
    close.map(|(_, pose)| Lead { pose, value: shape.dense.glance(sheet, &pose), ..*lead }).collect()
}

fn cell(at: [f32; 2]) -> [i32; 2] {
    at.map(|v| (v / GRID).floor() as i32)
}

fn around([x, y]: [i32; 2]) -> impl Iterator<Item = [i32; 2]> {
    (y - 1..=y + 1).flat_map(move |v| (x - 1..=x + 1).map(move |u| [u, v]))
}

/// Drops poses that a better one of the same shape, turned alike, stands for. The best come first.
fn distinct(bank: &[Variant], shapes: &[Shape], mut leads: Vec<Lead>) -> Vec<Lead> {
    // Stable, so that equal covers stay in scan order.
    leads.sort_by(|a, b| b.value.total_cmp(&a.value));
    let turn = |v: &Variant, p: &Pose| {
        // Copies that look alike are whole quarters away from their variant.
        let quarters = ((p.angle - v.angle) / FRAC_PI_2).round() * 90.0;
        (v.shape, p.mirrored, (v.angle.to_degrees() + quarters).round().rem_euclid(360.0) as u16)
    };
    let mut grid: BTreeMap<_, Vec<Pose>> = BTreeMap::new();
    leads.retain(|lead| {
        let (v, p) = (&bank[lead.variant as usize], &lead.pose);
        let radius = (SAME_PLACE * shapes[v.shape as usize].diameter * p.scale).min(GRID);
        let same = |q: &Pose| {
            (q.at[0] - p.at[0]).abs() < radius
                && (q.at[1] - p.at[1]).abs() < radius
                && (q.scale / p.scale).max(p.scale / q.scale) < SAME_SCALE
        };
        let here = cell(p.at);
        if around(here).filter_map(|c| grid.get(&(turn(v, p), c))).flatten().any(same) {
            return false;
        }
        grid.entry((turn(v, p), here)).or_default().push(*p);
        true
    });
    leads
}

/// Drops poses far behind another one about the same centre.
fn promising(leads: &[Lead]) -> Vec<Lead> {
    /// Centres within this many pixels are the same place, whatever the shapes.
    const NEAR: f32 = 6.0;
    let mut grid: BTreeMap<[i32; 2], Vec<&Lead>> = BTreeMap::new();
    for lead in leads {
        grid.entry(cell(lead.pose.at)).or_default().push(lead);
    }
    let behind = |lead: &Lead| {
        let at = lead.pose.at;
        around(cell(at)).filter_map(|c| grid.get(&c)).flatten().any(|other| {
            other.value > lead.value + MAX_BEHIND
                && (other.pose.at[0] - at[0]).abs() < NEAR
                && (other.pose.at[1] - at[1]).abs() < NEAR
        })
    };
    leads.iter().filter(|lead| !behind(lead)).copied().collect()
}
