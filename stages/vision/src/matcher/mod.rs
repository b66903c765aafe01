//! Finds symbols of line drawings by template, on the CPU.
//!
//! The drawing is split into ink and paper, pooled to cells of growing size, and compared bit by bit with every
//! template in every coarse pose ([`scan`]); what fits is moved to its best pose on a distance map ([`pose`]), measured
//! ([`score`]) and weighed against what else fits the same place ([`suppress`]).
//!
//! Owns template hygiene, poses, scores and the choice between classes. Refuses to own files, workflow and what a
//! class means: templates and drawings come as pixels. Results do not depend on the number of threads.

mod bank;
mod config;
mod hull;
mod hygiene;
mod ink;
mod pose;
mod quality;
mod scale;
mod scan;
mod score;
mod shape;
mod simd;
mod suppress;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use datasets::{BBox, Pixels};
use image::{GrayImage, RgbImage, RgbaImage};
use rayon::prelude::*;

pub use config::{CANDIDATE_THRESHOLD, DEFAULT_THRESHOLD, MatcherConfig, Poses, Rotations, ScaleBase};
pub use hygiene::{Removed, RemovedKind};
pub use quality::{
    CleanedPicture, Confusion, ConfusionKind, Part, Plainness, Quality, Symmetry, TemplateQuality, Warning,
};
pub use score::{CONFIDENCE_FEATURES, ConfidenceFeature};
pub use simd::Simd;

use bank::Variant;
use ink::Ink;
use pose::{Limits, Pose, Sampling, Steps, refine};
use score::{Features, Sheet};
use shape::Shape;

/// Version of the matcher; raised when the same templates, settings and drawing may give other matches.
pub const VERSION: &str = "1";

/// Cover that a pose must reach after the quick and after the full refinement.
const MIN_COVER: [f32; 2] = [0.89, 0.93];
/// Two poses of a variant closer than this share of its size, and alike in scale, are one.
const SAME_PLACE: f32 = 0.12;
/// Ratio of scales up to which two poses are alike.
const SAME_SCALE: f32 = 1.1;
/// Ratio of the sizes at which templates are prepared.
const SIZE_RATIO: f32 = 1.2;
/// Stretch, as a logarithm, that a window of the bank tolerates either way.
const STRETCH_STEP: f32 = 0.13;

/// What a template's picture is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// What the user gave: a legend's symbol or a crop.
    #[default]
    Given,
    /// A match that a person confirmed, cut out upright with some surroundings. Those of a class are averaged.
    Confirmed,
    /// Something that looks like the class and is not it: its matches take their places and are not reported.
    Negative,
}

/// A picture of a symbol.
#[derive(Clone, Debug)]
pub struct Template {
    /// The class that its matches get.
    pub class: String,
    /// A name for messages and provenance, such as the file's.
    pub name: String,
    /// The symbol, dark on light or light on dark. Transparent pixels beside opaque paper are "don't care"; around
    /// bare ink they are paper.
    pub image: RgbaImage,
    /// What it is.
    pub role: Role,
}

/// Why there is no matcher.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum MatcherError {
    /// Nothing to look for.
    #[error("no templates: give at least one picture of a symbol")]
    NoTemplates,
    /// A template without ink.
    #[error("template `{name}` of class `{class}` is blank: draw the symbol in it or remove the file")]
    BlankTemplate { name: String, class: String },
    /// A setting outside its range.
    #[error("`{field}` is {value}; it must be {range}")]
    Config { field: String, value: f64, range: String },
}

/// A symbol found on a drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Class of the template.
    pub class: String,
    /// Name of the template.
    pub template: String,
    /// Box around the template's ink, inside the drawing.
    pub bbox: BBox<Pixels>,
    /// Confidence, 0..=1.
    pub score: f64,
    /// Threshold that the score passed, 0..=1.
    pub threshold: f64,
    /// Turn of the template, degrees clockwise, 0..360; a mirrored template is mirrored first.
    pub rotation_deg: f64,
    /// Whether the template was mirrored left to right.
    pub mirrored: bool,
    /// Size on the drawing relative to the template.
    pub scale: f64,
    /// Width over height relative to the template.
    pub stretch: f64,
    /// The class that fits the same place next best.
    pub runner_up: Option<String>,
    /// What the score rests on: `coverage`, `oriented`, `worst_sector`, `second_sector`, `tight`, `foreign`,
    /// `unexplained`, `correlation`, `ink`, `evidence`, and `margin` over the runner-up (0..=1).
    pub evidence: BTreeMap<String, f64>,
}

/// A template that was not used on a drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedTemplate {
    /// Its name.
    pub template: String,
    /// Why it was not used.
    pub reason: String,
}

/// What came of one drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The matches, from top to bottom and left to right.
    pub matches: Vec<Match>,
    /// What missed the threshold of its class and reached `candidates_from`, in the same order.
    pub candidates: Vec<Match>,
    /// Templates that do not fit the drawing.
    pub skipped: Vec<SkippedTemplate>,
}

/// A remark about a template's quality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateNote {
    /// The template's name.
    pub template: String,
    /// What was noticed or changed.
    pub text: String,
}

/// Templates ready to be found on any number of drawings.
#[derive(Debug)]
pub struct Matcher {
    templates: Vec<Template>,
    config: MatcherConfig,
    /// The templates at their own size.
    own: Arc<Prepared>,
    /// The templates at other sizes, by the power of [`SIZE_RATIO`]; made when a drawing first needs them.
    resized: Mutex<BTreeMap<i32, Arc<Prepared>>>,
}

/// Templates at one size.
#[derive(Debug)]
struct Prepared {
    shapes: Vec<Shape>,
    bank: Vec<Variant>,
}

impl Prepared {
    fn of(templates: &[Template], config: &MatcherConfig, size: f32) -> Result<Self, MatcherError> {
        let shapes = templates.iter().map(|t| Shape::of(t, size)).collect::<Result<Vec<_>, _>>()?;
        let bank = bank::variants(&shapes, |shape| {
            let poses = config.poses_of(&shape.class);
            let mirrors = if poses.mirror { vec![false, true] } else { vec![false] };
            (poses.rotations.angles_deg().0, mirrors, stretches(poses.stretch as f32))
        });
        Ok(Self { shapes, bank })
    }
}

static TRACE: Mutex<Vec<(usize,[f32;4],u8,f32)>> = Mutex::new(Vec::new());
/// A pose of a shape with what was measured there.
#[derive(Clone, Debug)]
struct Hypothesis {
    shape: usize,
    pose: Pose,
    /// Left, top, right, bottom.
    bounds: [f32; 4],
    features: Features,
    /// What decides between overlapping hypotheses.
    rank: f32,
}

impl Matcher {
    /// Prepares templates; several may share a class. A blank template is an error.
    pub fn new(templates: &[Template], config: &MatcherConfig) -> Result<Self, MatcherError> {
        config.check()?;
        if templates.is_empty() {
            return Err(MatcherError::NoTemplates);
        }
        let own = Arc::new(Prepared::of(templates, config, 1.0)?);
        let (templates, config) = (templates.to_vec(), config.clone());
        Ok(Self { templates, config, own, resized: Mutex::default() })
    }

    /// The templates at about `scale` times their size, so that strokes and blur are as on the drawing.
    fn at_scale(&self, scale: f32) -> Arc<Prepared> {
        let step = (scale.ln() / SIZE_RATIO.ln()).round() as i32;
        if step == 0 {
            return self.own.clone();
        }
        let mut resized = self.resized.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = resized.get(&step) {
            return p.clone();
        }
        // A template that loses its ink when it is made smaller leaves all at their own size.
        let made = Prepared::of(&self.templates, &self.config, SIZE_RATIO.powi(step));
        let made = made.map_or_else(|_| self.own.clone(), Arc::new);
        resized.insert(step, made.clone());
        made
    }

    /// What was noticed about the templates.
    pub fn notes(&self) -> Vec<TemplateNote> {
        let note = |s: &Shape, text: &String| TemplateNote { template: s.name.clone(), text: text.clone() };
        self.own.shapes.iter().flat_map(|s| s.notes.iter().map(move |t| note(s, t))).collect()
    }

    /// Finds the templates on a colour drawing.
    pub fn find(&self, drawing: &RgbImage) -> Found {
        self.find_grey(&ink::contrast_grey(drawing))
    }

    /// Finds the templates on a grey drawing.
    pub fn find_grey(&self, drawing: &GrayImage) -> Found {
        let ink = Ink::of_drawing(drawing);
        if ink.is_empty() {
            return Found::default();
        }
        let sheet = Sheet::of(ink);
        let base = match self.config.scale_base {
            ScaleBase::Template => 1.0,
            ScaleBase::Drawing => self.drawing_scale(&sheet).unwrap_or(1.0),
        };
        let prepared = self.at_scale(base);
        let shapes = &prepared.shapes;
        let (skipped, usable) = self.fitting(shapes, drawing.width() as f32, drawing.height() as f32, base);
        let bank: Vec<Variant> = prepared.bank.iter().filter(|v| usable.contains(&v.shape)).cloned().collect();
        let limits: Vec<Limits> = shapes
            .iter()
            .map(|shape| {
                let poses = self.config.poses_of(&shape.class);
                let scale = [poses.scale_min, poses.scale_max].map(|s| s as f32 * base * shape.reduction);
                let free_angle = poses.rotations.angles_deg().1;
                Limits { scale, free_angle, stretch: (poses.stretch as f32).ln() }
            })
            .collect();
        let hypotheses = Self::search(&sheet, shapes, &bank, &limits);
        let mut matches: Vec<Match> = suppress::winners(hypotheses, shapes, self.config.nms_iou as f32)
            .into_iter()
            .filter(|w| shapes[w.hypothesis.shape].role != Role::Negative)
            .filter_map(|w| self.report(&sheet, shapes, &w))
            .collect();
        matches.sort_by(|a, b| {
            let key = |m: &Match| [m.bbox.y0, m.bbox.x0, m.bbox.y1, m.bbox.x1];
            let order = key(a).into_iter().zip(key(b)).map(|(p, q)| p.total_cmp(&q));
            order.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then).then_with(|| a.class.cmp(&b.class))
        });
        let (matches, candidates) = matches.into_iter().partition(|m| m.score >= m.threshold);
        Found { matches, candidates, skipped }
    }

    /// Which shapes are small enough for a drawing, and why the others are not.
    fn fitting(&self, shapes: &[Shape], width: f32, height: f32, base: f32) -> (Vec<SkippedTemplate>, BTreeSet<u32>) {
        let (mut skipped, mut usable) = (Vec::new(), BTreeSet::new());
        for (i, shape) in shapes.iter().enumerate() {
            let poses = self.config.poses_of(&shape.class);
            let scale = poses.scale_min as f32 * base;
            let [x0, y0, x1, y1] = Pose::upright(scale * shape.reduction).bounds(shape);
            let (long, short) = ((x1 - x0).max(y1 - y0), (x1 - x0).min(y1 - y0));
            let room = width.hypot(height);
            let fits = if poses.rotations.angles_deg().1 {
                long <= room
            } else {
                long <= width.max(height) && short <= width.min(height)
            };
            if fits {
                usable.insert(i as u32);
            } else {
                let reason = format!(
                    "the symbol takes {long:.0} x {short:.0} pixels at the smallest scale ({scale:.2}), the drawing has {width} x {height}",
                );
                skipped.push(SkippedTemplate { template: shape.name.clone(), reason });
            }
        }
        (skipped, usable)
    }

    #[doc(hidden)]
    pub fn trace(&self, drawing: &GrayImage) -> Vec<(String, [f32; 4], u8, f32, Vec<(String, f64)>, Option<String>)> {
        let ink = Ink::of_drawing(drawing);
        let sheet = Sheet::of(ink);
        let base = match self.config.scale_base {
            ScaleBase::Template => 1.0,
            ScaleBase::Drawing => self.drawing_scale(&sheet).unwrap_or(1.0),
        };
        eprintln!("base {base}");
        let prepared = self.at_scale(base);
        let shapes = &prepared.shapes;
        let limits: Vec<Limits> = shapes
            .iter()
            .map(|shape| {
                let poses = self.config.poses_of(&shape.class);
                let scale = [poses.scale_min, poses.scale_max].map(|s| s as f32 * base * shape.reduction);
                let free_angle = poses.rotations.angles_deg().1;
                Limits { scale, free_angle, stretch: (poses.stretch as f32).ln() }
            })
            .collect();
        TRACE.lock().unwrap().clear();
        let t0 = std::time::Instant::now();
        let hypotheses = Self::search(&sheet, shapes, &prepared.bank, &limits);
        eprintln!("bank {} hyps {} search {:?}", prepared.bank.len(), hypotheses.len(), t0.elapsed());
        let mut out: Vec<_> = TRACE.lock().unwrap().iter().map(|(s, b, st, c)| (shapes[*s].class.clone(), *b, *st, *c, vec![], None)).collect();
        let edges = { let m=&sheet.ink.mask; let w=sheet.ink.width; (0..m.len()-w-1).filter(|&i| m[i]!=m[i+1]).count()+(0..m.len()-w-1).filter(|&i| m[i]!=m[i+w]).count() };
        let width = 2.0 * sheet.ink.mask.iter().filter(|&&v| v==1).count() as f32 / edges as f32;
        eprintln!("stroke {width:.2}");
        for h in &hypotheses {
            let mut f=h.features.clone(); f.scale_off=(h.pose.scale/shapes[h.shape].reduction/base).ln(); let mut f: Vec<(String,f64)>=f.by_name(0.0).into_iter().collect(); f.push(("sheet_stroke".into(),width as f64)); f.push(("diameter".into(),((h.bounds[2]-h.bounds[0]).hypot(h.bounds[3]-h.bounds[1])) as f64)); f.push(("has_text".into(), f64::from(u8::from(shapes[h.shape].dense.has_text()))));
            out.push((shapes[h.shape].class.clone(), h.bounds, 3, h.rank, f, None)); continue;
            #[allow(unreachable_code)]
            out.push((shapes[h.shape].class.clone(), h.bounds, 3, h.rank, h.features.by_name(0.0).into_iter().collect(), None));
        }
        for w in suppress::winners(hypotheses, shapes, self.config.nms_iou as f32) {
            let h = &w.hypothesis;
            out.push((shapes[h.shape].class.clone(), h.bounds, 4, h.rank, h.features.by_name(w.margin).into_iter().collect(), w.runner_up.map(|r| shapes[r].class.clone())));
        }
        out
    }

    /// Everything that fits within the limits of each shape.
    fn search(sheet: &Sheet, shapes: &[Shape], bank: &[Variant], limits: &[Limits]) -> Vec<Hypothesis> {
        let limits = |v: &Variant| limits[v.shape as usize];
        let candidates = scan::candidates(&sheet.ink, bank, |v| limits(v).scale);
        for c in &candidates { let v=&bank[c.variant as usize]; let p=Pose { at: c.at, scale: c.cell * bank::DIAMETER_CELLS / v.diameter, angle: v.angle, mirrored: v.mirrored, stretch: v.stretch }; TRACE.lock().unwrap().push((v.shape as usize, p.bounds(&shapes[v.shape as usize]), 0, 0.0)); }
        let mut quick: Vec<(f32, u32, Pose)> = candidates
            .par_iter()
            .filter_map(|c| {
                let v = &bank[c.variant as usize];
                let scale = c.cell * bank::DIAMETER_CELLS / v.diameter;
                let start = Pose { at: c.at, scale, angle: v.angle, mirrored: v.mirrored, stretch: v.stretch };
                let angle = if limits(v).free_angle { 0.06 } else { 0.015 };
                let steps = Steps { shift: c.cell * 0.8, scale: 0.05, angle, stretch: 0.06, rounds: 2 };
                let shape = &shapes[v.shape as usize];
                let (pose, cover) = refine(shape, &sheet.cost, start, v.angle, Sampling::Quick, steps, &limits(v));
                TRACE.lock().unwrap().push((v.shape as usize, pose.bounds(shape), 1, cover));
                (cover >= MIN_COVER[0]).then_some((cover, c.variant, pose))
            })
            .collect();
        // Stable, so that equal covers stay in scan order.
        quick.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self::distinct(bank, &quick)
            .into_par_iter()
            .filter_map(|(_, variant, start)| {
                let v = &bank[variant as usize];
                let shape = &shapes[v.shape as usize];
                let angle = if limits(v).free_angle { 0.02 } else { 0.005 };
                let steps = Steps { shift: 0.7, scale: 0.015, angle, stretch: 0.02, rounds: 3 };
                let (pose, cover) = refine(shape, &sheet.cost, start, v.angle, Sampling::All, steps, &limits(v));
                TRACE.lock().unwrap().push((v.shape as usize, pose.bounds(shape), 2, cover));
                if cover < MIN_COVER[1] {
                    return None;
                }
                let mut features = sheet.features(shape, &pose);
                let mut pose = pose;
                if features.likeness.correlation > 0.4 {
                    pose = shape.dense.polish(&pose, limits(v).free_angle, |at| sheet.darkness_at(at));
                    features = sheet.features(shape, &pose);
                }
                let evidence = features.evidence();
                let rank = evidence * score::confidence(&features.by_name(1.0)) as f32;
                let h = Hypothesis { shape: v.shape as usize, bounds: pose.bounds(shape), pose, features, rank };
                (h.features.likeness.correlation > 0.2).then_some(h)
            })
            .collect()
    }

    /// Drops poses that a better one of the same variant stands for. `poses` come best first.
    fn distinct(bank: &[Variant], poses: &[(f32, u32, Pose)]) -> Vec<(f32, u32, Pose)> {
        /// Side of the cells of the look-up grid, pixels.
        const GRID: f32 = 24.0;
        let cell = |v: f32| (v / GRID).floor() as i32;
        let mut grid: BTreeMap<(u32, i32, i32), Vec<Pose>> = BTreeMap::new();
        let mut kept = Vec::new();
        for &(cover, variant, p) in poses {
            let radius = (SAME_PLACE * bank[variant as usize].diameter * p.scale).min(GRID);
            let same = |q: &Pose| {
                (q.at[0] - p.at[0]).abs() < radius
                    && (q.at[1] - p.at[1]).abs() < radius
                    && (q.scale / p.scale).max(p.scale / q.scale) < SAME_SCALE
            };
            let (x, y) = (cell(p.at[0]), cell(p.at[1]));
            let near = (y - 1..=y + 1).flat_map(|v| (x - 1..=x + 1).map(move |u| (variant, u, v)));
            if !near.filter_map(|k| grid.get(&k)).flatten().any(same) {
                grid.entry((variant, x, y)).or_default().push(p);
                kept.push((cover, variant, p));
            }
        }
        kept
    }

    /// A winner as the caller sees it; `None` when its score is below the threshold of its class.
    fn report(&self, sheet: &Sheet, shapes: &[Shape], winner: &suppress::Winner) -> Option<Match> {
        let h = &winner.hypothesis;
        let shape = &shapes[h.shape];
        let threshold = self.config.threshold_of(&shape.class);
        let evidence = h.features.by_name(winner.margin);
        let score = score::confidence(&evidence);
        let [x0, y0, x1, y1] = h.bounds.map(f64::from);
        let bbox = BBox::new(x0, y0, x1, y1).clipped(sheet.ink.width as u32, sheet.ink.height as u32)?;
        if score < threshold.min(self.config.candidates_from) {
            return None;
        }
        Some(Match {
            class: shape.class.clone(),
            template: shape.name.clone(),
            bbox,
            score,
            threshold,
            rotation_deg: f64::from(h.pose.angle).to_degrees().rem_euclid(360.0),
            mirrored: h.pose.mirrored,
            scale: f64::from(h.pose.scale / shape.reduction),
            stretch: f64::from(h.pose.stretch.exp()),
            runner_up: winner.runner_up.map(|s| shapes[s].class.clone()),
            evidence,
        })
    }
}

/// Logarithms of the stretches that the bank holds, so that the refinement reaches every one up to `largest`.
fn stretches(largest: f32) -> Vec<f32> {
    let limit = largest.ln();
    let each_side = (limit / STRETCH_STEP - 1.0).ceil().max(0.0) as i32;
    (-each_side..=each_side).map(|i| (i as f32 * STRETCH_STEP).clamp(-limit, limit)).collect()
}
