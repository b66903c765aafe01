//! Finds symbols of line drawings by template, on the CPU.
//!
//! The drawing is split into ink and paper, pooled to cells of growing size, and compared bit by bit with every
//! template in every coarse pose ([`scan`]); what fits is moved to its best pose on a distance map ([`pose`]), compared
//! with the template's grey levels ([`verify`]; without those in a [`blank`] outline that holds writing), measured
//! ([`score`]) and weighed against what else fits the same place ([`suppress`]) and against what a person said it is not
//! ([`negatives`]). [`search`] holds these steps together. What won its place is weighed once more, by the measure of its
//! drawing ([`second`]).
//!
//! Owns template hygiene, poses, scores and the choice between classes. Refuses to own files, workflow and what a
//! class means: templates and drawings come as pixels. Results do not depend on the number of threads.
//!
//! Memory beside the drawing's own pixels: about 8 bytes a pixel of a drawing up to 48 megapixels, and about
//! 150 MB for a larger one, which is searched tile by tile ([`tiles`]). A colour drawing needs a byte a pixel more.

mod align;
mod bank;
mod blank;
mod config;
mod consensus;
mod hull;
mod hygiene;
mod ink;
mod negatives;
mod patch;
mod pose;
mod quality;
mod scale;
mod scan;
mod score;
mod search;
mod second;
mod shape;
mod simd;
mod suppress;
mod surround;
mod tiles;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use datasets::{BBox, Pixels};
use image::{GrayImage, RgbImage, RgbaImage};
use rayon::prelude::*;

pub use config::{CANDIDATE_THRESHOLD, DEFAULT_THRESHOLD, MatcherConfig, Poses, Rotations, ScaleBase};
pub use hygiene::{Removed, RemovedKind};
pub use quality::{
    CleanedPicture, Confusion, ConfusionKind, Part, Plainness, Quality, Symmetry, TemplateQuality, Warning, quality,
};
pub use score::{CONFIDENCE_TERMS, RANK_CORRELATION, Term};
pub use second::{
    DOUBTS, FIRST_LOOK, MORE_LEADS, OVER_RIVALS, SECOND_INPUTS, SURE, SecondLook, USUAL, Unit, Usual, second_inputs,
};
pub use simd::Simd;

use bank::Variant;
use hygiene::Clean;
use pose::{Limits, Pose, UsualScale, Worth};
use search::{Hypothesis, Query};
use second::Standard;
use shape::Shape;
use suppress::Winner;
use tiles::View;

/// Version of the matcher; raised when the same templates, settings and drawing may give other matches.
pub const VERSION: &str = "10";

/// Ratio of the sizes at which templates are prepared.
const SIZE_RATIO: f32 = 1.2;
/// Widest range of sizes that is searched with templates of one size.
const WIDEST_PART: f32 = 1.6;
/// Stretch, as a logarithm, that a window of the bank tolerates either way.
const STRETCH_TOLERANCE: f32 = 0.06;

/// What a template's picture is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// What the user gave: a legend's symbol or a crop.
    #[default]
    Given,
    /// A match that a person confirmed, cut out upright with some surroundings. Those of a class are averaged.
    Confirmed,
    /// Something that looks like the class and is not it: where it fits clearly better than the class, the class is
    /// not reported. Other classes are not concerned.
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
    /// The box that its matches get, where the picture shows more than the symbol: left, top, right, bottom, pixels of
    /// the picture. What lies clear of it is not the symbol.
    pub frame: Option<[f32; 4]>,
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
    /// What the score rests on: the names of [`CONFIDENCE_TERMS`], `length` and `rank`, the `margin` over the runner-up
    /// (0..=1), [`FIRST_LOOK`] and those of [`USUAL`], [`DOUBTS`] and [`OVER_RIVALS`], and [`MORE_LEADS`].
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
    /// The symbols in the templates.
    symbols: Vec<Clean>,
    /// The templates at their own size.
    own: Prepared,
    /// Templates at other sizes, by the power of [`SIZE_RATIO`] and their index; made when a drawing first needs them.
    resized: Mutex<BTreeMap<(i32, usize), Arc<Shape>>>,
}

/// Templates at their own size.
#[derive(Debug)]
struct Prepared {
    shapes: Vec<Shape>,
    /// Every coarse pose that the settings allow; made when it is first needed.
    bank: OnceLock<Vec<Variant>>,
    /// Upright, unmirrored and unstretched in quarter turns.
    plain: OnceLock<Vec<Variant>>,
}

impl Prepared {
    fn bank(&self, poses: CoarsePoses, config: &MatcherConfig) -> &[Variant] {
        match poses {
            CoarsePoses::All => self.bank.get_or_init(|| {
                bank::variants(&self.shapes, |shape| {
                    if shape.role == Role::Negative {
                        return Default::default();
                    }
                    let poses = config.poses_of(&shape.class);
                    let mirrors = if poses.mirror { vec![false, true] } else { vec![false] };
                    (poses.rotations.angles_deg().0, mirrors, stretches(poses.stretch as f32))
                })
            }),
            CoarsePoses::Plain => self.plain.get_or_init(|| {
                bank::variants(&self.shapes, |_| (Rotations::Quarter.angles_deg().0, vec![false], vec![0.0]))
            }),
        }
    }
}

/// Which coarse poses are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CoarsePoses {
    /// What the settings allow.
    All,
    /// Upright, unmirrored and unstretched symbols in quarter turns: enough to find the scale.
    Plain,
}

/// Where a shape is looked for. Sizes are relative to the template.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    scale: [f32; 2],
    /// The usual size on the drawing, where it is known.
    usual: Option<UsualScale>,
    free_angle: bool,
    /// Largest logarithm of the stretch either way.
    stretch: f32,
    worth: Worth,
}

impl Wanted {
    /// The bounds within a part of the sizes, for a shape of which a pixel stands for `reduction` of the template's.
    fn within(&self, part: [f32; 2], reduction: f32) -> Option<Limits> {
        let scale = [self.scale[0].max(part[0]), self.scale[1].min(part[1])].map(|s| s * reduction);
        let usual = self.usual.map(|u| u.times(reduction));
        let limits = Limits { scale, usual, free_angle: self.free_angle, stretch: self.stretch, worth: self.worth };
        (scale[0] <= scale[1]).then_some(limits)
    }
}

/// What a search left.
struct Search {
    /// Width and height of the drawing.
    size: [u32; 2],
    skipped: Vec<SkippedTemplate>,
    hypotheses: Vec<Hypothesis>,
}

impl Matcher {
    /// Prepares templates; several may share a class. A blank template is an error.
    pub fn new(templates: &[Template], config: &MatcherConfig) -> Result<Self, MatcherError> {
        config.check()?;
        if templates.is_empty() {
            return Err(MatcherError::NoTemplates);
        }
        let templates = consensus::merge(templates);
        let symbols = templates.par_iter().map(hygiene::clean).collect::<Result<Vec<_>, _>>()?;
        let own = templates.par_iter().zip(&symbols).map(|(t, symbol)| Shape::of_symbol(t, symbol, 1.0));
        let own = Prepared { shapes: own.collect::<Result<_, _>>()?, bank: OnceLock::new(), plain: OnceLock::new() };
        let config = config.clone();
        Ok(Self { templates, symbols, config, own, resized: Mutex::default() })
    }

    /// A template, by its index, at a power of [`SIZE_RATIO`] times its size.
    fn sized(&self, template: usize, step: i32) -> Arc<Shape> {
        let resized = || self.resized.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = resized().get(&(step, template)) {
            return shape.clone();
        }
        let at = |size: f32| Shape::of_symbol(&self.templates[template], &self.symbols[template], size).ok();
        let made = if step == 0 { None } else { at(SIZE_RATIO.powi(step)) };
        // A template that loses its ink when it is made smaller stays at its own size.
        let made = Arc::new(made.unwrap_or_else(|| self.own.shapes[template].clone()));
        resized().insert((step, template), made.clone());
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
        self.search(drawing, second::WORTH).map_or_else(Found::default, |search| self.choose(search))
    }

    /// The choice between what was weighed.
    fn choose(&self, search: Search) -> Found {
        let Search { size, skipped, hypotheses } = search;
        let surest = |claims: Vec<Match>| {
            let mut claims = claims.into_iter();
            let won = claims.next()?;
            let rival = claims.reduce(|a, b| if b.score > a.score { b } else { a }).filter(|r| r.score > won.score);
            Some(match rival {
                Some(rival) => Match { runner_up: Some(won.class), ..rival },
                None => won,
            })
        };
        let mut matches: Vec<Match> = self.claims(size, hypotheses).into_iter().filter_map(surest).collect();
        matches.retain(|m| m.score >= m.threshold.min(self.config.candidates_from));
        matches.sort_by(|a, b| {
            let key = |m: &Match| [m.bbox.y0, m.bbox.x0, m.bbox.y1, m.bbox.x1];
            let order = key(a).into_iter().zip(key(b)).map(|(p, q)| p.total_cmp(&q));
            order.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then).then_with(|| a.class.cmp(&b.class))
        });
        let (matches, candidates) = matches.into_iter().partition(|m| m.score >= m.threshold);
        Found { matches, candidates, skipped }
    }

    /// What claims each place at the second look: first what won it, then its rivals.
    fn claims(&self, size: [u32; 2], hypotheses: Vec<Hypothesis>) -> Vec<Vec<Match>> {
        let claims =
            suppress::winners(hypotheses, &self.own.shapes, self.config.nms_iou as f32).into_iter().filter_map(|w| {
                let rivals = w.rivals.iter().filter_map(|r| self.report(size, &Winner::alone(r.clone(), 0.0)));
                let mut claims: Vec<Match> = std::iter::once(self.report(size, &w)?).chain(rivals).collect();
                second::set_against(&mut claims);
                Some(claims)
            });
        let claims: Vec<Vec<Match>> = claims.collect();
        let standard = Standard::of(claims.iter().filter_map(|c| c.first()).map(|m| (&*m.class, &m.evidence)));
        claims.into_iter().map(|c| c.into_iter().map(|m| standard.weigh(m)).collect()).collect()
    }

    /// What claims each place on a drawing at the second look, first what won it and then its rivals: for study, and for
    /// training that look.
    pub fn claimed(&self, drawing: &RgbImage) -> Vec<Vec<Match>> {
        let search = self.search(&ink::contrast_grey(drawing), second::WORTH);
        search.map_or_else(Vec::new, |s| self.claims(s.size, s.hypotheses))
    }

    /// Everything that was weighed on a drawing, before any of it is chosen, each at the first look as if it stood alone:
    /// for study, and for fitting the weights of ranks and confidences.
    pub fn considered(&self, drawing: &RgbImage) -> Vec<Match> {
        let Some(search) = self.search(&ink::contrast_grey(drawing), Worth::all_from(0.0)) else { return Vec::new() };
        let report = |h| self.report(search.size, &Winner::alone(h, 0.0));
        search.hypotheses.into_iter().filter_map(report).collect()
    }

    /// `None` when the drawing has no ink.
    fn search(&self, drawing: &GrayImage, worth: Worth) -> Option<Search> {
        Some(self.search_in(drawing, &View::of(drawing)?, worth))
    }

    /// Everything that may be of use.
    fn search_in(&self, drawing: &GrayImage, view: &View<'_>, worth: Worth) -> Search {
        let base = match self.config.scale_base {
            ScaleBase::Template => 1.0,
            ScaleBase::Drawing => self.drawing_scale(view).unwrap_or(1.0),
        };
        let (width, height) = drawing.dimensions();
        let (skipped, usable) = self.fitting(width as f32, height as f32, base);
        let wanted = |shape: usize| {
            let class = &self.own.shapes[shape].class;
            let poses = self.config.poses_of(class);
            usable.contains(&shape).then(|| Wanted {
                scale: [poses.scale_min, poses.scale_max].map(|s| s as f32 * base),
                // Only a vote says what is usual; a size that the user gave is a range.
                usual: (self.config.scale_base == ScaleBase::Drawing)
                    .then(|| UsualScale { scale: base, reach: reach(poses).map(f32::abs) }),
                free_angle: poses.rotations.angles_deg().1,
                stretch: (poses.stretch as f32).ln(),
                worth,
            })
        };
        let hypotheses = self.hypotheses(wanted, CoarsePoses::All, |query| view.hypotheses(query));
        Search { size: [width, height], skipped, hypotheses }
    }

    /// Everything that `search` gives where each shape is `wanted`. A wide range of sizes is searched part by part, with
    /// the templates at about the size of each part.
    fn hypotheses(
        &self,
        wanted: impl Fn(usize) -> Option<Wanted>,
        poses: CoarsePoses,
        search: impl Fn(&Query<'_>) -> Vec<Hypothesis>,
    ) -> Vec<Hypothesis> {
        let shapes = &self.own.shapes;
        let wanted: Vec<Option<Wanted>> = (0..shapes.len()).map(wanted).collect();
        let ranges = wanted.iter().flatten().map(|w| w.scale);
        let Some([low, high]) = ranges.reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])]) else { return Vec::new() };
        let parts = ((high / low).ln() / WIDEST_PART.ln()).ceil().max(1.0);
        let edge = |k: f32| low * (high / low).powf(k / parts);
        let search_part = |k: usize| {
            let part = [edge(k as f32), edge(k as f32 + 1.0)];
            let within = |(wanted, shape): (&Option<Wanted>, &Shape)| wanted.as_ref()?.within(part, shape.reduction);
            let limits: Vec<Option<Limits>> = wanted.iter().zip(shapes).map(within).collect();
            let allowed = |v: &&Variant| limits[v.shape as usize].is_some();
            let bank: Vec<Variant> = self.own.bank(poses, &self.config).iter().filter(allowed).cloned().collect();
            // No variant asks for the limits of a shape that has none.
            let limits: Vec<Limits> = limits.into_iter().map(Option::unwrap_or_default).collect();
            let step = (0.5 * (part[0] * part[1]).ln() / SIZE_RATIO.ln()).round() as i32;
            search(&Query { shapes, bank: &bank, limits: &limits, sized: &|i| self.sized(i, step) })
        };
        (0..parts as usize).flat_map(search_part).collect()
    }

    /// Which shapes are small enough for a drawing, and why the others are not.
    fn fitting(&self, width: f32, height: f32, base: f32) -> (Vec<SkippedTemplate>, BTreeSet<usize>) {
        let (mut skipped, mut usable) = (Vec::new(), BTreeSet::new());
        for (i, shape) in self.own.shapes.iter().enumerate().filter(|(_, s)| s.role != Role::Negative) {
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
                usable.insert(i);
            } else {
                let reason = format!(
                    "the symbol takes {long:.0} x {short:.0} pixels at the smallest scale ({scale:.2}), the drawing has {width} x {height}",
                );
                skipped.push(SkippedTemplate { template: shape.name.clone(), reason });
            }
        }
        (skipped, usable)
    }

    /// A hypothesis at the first look, as the caller sees it; `None` when it lies outside of the drawing.
    fn report(&self, [width, height]: [u32; 2], winner: &Winner) -> Option<Match> {
        let Winner { hypothesis: h, runner_up, margin, .. } = winner;
        let shapes = &self.own.shapes;
        let shape = &shapes[h.shape];
        let threshold = self.config.threshold_of(&shape.class);
        let score = h.features.confidence(*margin);
        let mut evidence = h.features.by_name(*margin);
        evidence.insert(FIRST_LOOK.to_owned(), score);
        let [x0, y0, x1, y1] = winner.bounds.map(f64::from);
        let bbox = BBox::new(x0, y0, x1, y1).clipped(width, height)?;
        Some(Match {
            class: shape.class.clone(),
            template: shape.name.clone(),
            bbox,
            score,
            threshold,
            rotation_deg: f64::from(h.pose.angle).to_degrees().rem_euclid(360.0),
            mirrored: h.pose.mirrored,
            scale: f64::from(h.scale),
            stretch: f64::from(h.pose.stretch.exp()),
            runner_up: runner_up.map(|s| shapes[s].class.clone()),
            evidence,
        })
    }
}

/// Logarithms of the smallest and the largest size that are wanted, relative to the base.
fn reach(poses: &Poses) -> [f32; 2] {
    [poses.scale_min, poses.scale_max].map(|s| s.ln() as f32)
}

/// Logarithms of the stretches that the bank holds: an odd number of them, so that every one up to `largest` is near one.
fn stretches(largest: f32) -> Vec<f32> {
    let limit = largest.ln();
    let each_side = (0.5 * (limit / STRETCH_TOLERANCE - 1.0)).ceil().max(0.0) as i32;
    let step = 2.0 * limit / (2 * each_side + 1) as f32;
    (-each_side..=each_side).map(|i| i as f32 * step).collect()
}
