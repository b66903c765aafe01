//! How good a set of templates is, before any drawing is looked at: what hygiene made of each, which are poor, and
//! which classes will be confused.
//!
//! Owns the judgement of templates alone and against one another. Refuses to change anything: it only tells.

mod likeness;
mod plain;
mod sketch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::hygiene::{self, Removed, RemovedKind};
use super::shape::Shape;
use super::{Matcher, MatcherConfig, Role, Template};
pub use plain::Plainness;
use rayon::prelude::*;

/// Ink pixels of the symbol below which it says too little.
const FEW_PIXELS: usize = 60;
/// Longer side of a symbol below which it says too little, pixels.
const SHORT_SIDE: usize = 12;
/// Likeness from which two classes are near duplicates.
const NEAR_DUPLICATE: f64 = 0.9;
/// Likeness from which a pair of classes is listed.
const LISTED: f64 = 0.8;
/// Share of a symbol's ink that is found in another from which it is a part of that.
const PART_OF: f64 = 0.96;

/// What a pixel of a template's picture was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Paper.
    Paper,
    /// Ink of the symbol.
    Ink,
    /// Paper between writing that differs from symbol to symbol.
    TextPaper,
    /// Writing that differs from symbol to symbol.
    TextInk,
    /// Nothing is known here: transparent, or something else stood here.
    Unknown,
    /// Ink that was removed.
    Removed(RemovedKind),
}

/// A template's picture as the matcher sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanedPicture {
    /// Width, pixels of the template's picture.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// What each pixel is, row by row.
    pub parts: Vec<Part>,
    /// The box that a match stands for, pixels of the picture: left, top, right, bottom.
    pub frame: [f32; 4],
}

/// A turn or mirroring that leaves a symbol as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Symmetry {
    /// Degrees clockwise, 0..360.
    pub rotation_deg: f64,
    /// Mirrored left to right before it is turned.
    pub mirrored: bool,
}

/// Why a template may not find its symbol, or find too much.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant says what its fields are")]
pub enum Warning {
    TooSmall { ink: usize, width: usize, height: usize },
    TooPlain(Plainness),
    MuchRemoved { share: f64 },
    LooksLike { class: String, likeness: f64 },
    PartOf { class: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { ink, width, height } => write!(
                f,
                "too small: {width} x {height} pixels with {ink} pixels of ink look like many other things; cut it from a \
                 sharper or larger picture"
            ),
            Self::TooPlain(what) => {
                write!(f, "too plain: {what}, which many other things on a drawing look like; check its boxes first")
            }
            Self::MuchRemoved { share } => write!(
                f,
                "{:.0} % of the ink was left out; look at the red parts and cut the template closer if they belong to it",
                100.0 * share
            ),
            Self::LooksLike { class, likeness } => {
                write!(f, "looks like class `{class}` ({:.0} % alike): the two will be confused", 100.0 * likeness)
            }
            Self::PartOf { class } => write!(f, "is a part of class `{class}` and may be found inside it"),
        }
    }
}

/// The judgement of one template.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateQuality {
    /// Its class.
    pub class: String,
    /// Its name, such as the file's.
    pub template: String,
    /// What it is.
    pub role: Role,
    /// Its picture, pixel by pixel.
    pub cleaned: CleanedPicture,
    /// What was removed from it.
    pub removed: Vec<Removed>,
    /// What was noticed or changed, in words.
    pub notes: Vec<String>,
    /// Why it may do badly, worst first.
    pub warnings: Vec<Warning>,
    /// Turns and mirrorings by which it does not change, besides leaving it alone; the pose of its matches is known
    /// only up to these.
    pub symmetric: Vec<Symmetry>,
}

/// How two classes are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfusionKind {
    /// Most ink of either is found in the other.
    NearDuplicate,
    /// Everything of class `b` is found in class `a`, which has more.
    Contains,
}

/// Two classes whose templates look alike in a pose that the settings allow.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    /// The one class; with [`ConfusionKind::Contains`] the larger.
    pub a: String,
    /// Its template.
    pub template_a: String,
    /// The other class.
    pub b: String,
    /// Its template.
    pub template_b: String,
    /// 0..=1: with `NearDuplicate` the share of the ink that both have, with `Contains` the share of `b` found in `a`.
    pub likeness: f64,
    /// How they are alike.
    pub kind: ConfusionKind,
}

/// The judgement of a set of templates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quality {
    /// Every template, in the order given.
    pub templates: Vec<TemplateQuality>,
    /// Pairs of classes that look alike: near duplicates first, the most alike first.
    pub confusions: Vec<Confusion>,
}

impl Matcher {
    /// Judges the templates; see [`quality`].
    pub fn quality(&self) -> Quality {
        quality(&self.templates, &self.config)
    }
}

/// Judges templates that are to be found with some settings. Blank ones are left out. Takes some seconds for 300.
pub fn quality(templates: &[Template], config: &MatcherConfig) -> Quality {
    let prepare = |t: &Template| Some((judge(t)?, Shape::of(t, 1.0).ok()?));
    let (mut judged, shapes): (Vec<TemplateQuality>, Vec<Shape>) = templates.par_iter().filter_map(prepare).unzip();
    let confusions = likeness::confusions(&shapes, config);
    judged.par_iter_mut().zip(&shapes).for_each(|(judged, shape)| {
        judged.symmetric = likeness::symmetries(shape);
        if shape.role != Role::Negative {
            judged.warnings.extend(plain::plainness(shape).map(Warning::TooPlain));
            judged.warnings.extend(alike(shape, &confusions));
        }
    });
    Quality { templates: judged, confusions: by_class(confusions) }
}

/// Hygiene's part of the judgement; `None` for a blank template, which no matcher holds.
fn judge(template: &Template) -> Option<TemplateQuality> {
    let clean = hygiene::clean(template).ok()?;
    let part = |i: usize| match (clean.cut[i], clean.ink[i], clean.text[i], clean.care[i]) {
        (Some(kind), ..) => Part::Removed(kind),
        (None, 1, 1, _) => Part::TextInk,
        (None, 1, ..) => Part::Ink,
        (None, _, _, 0) => Part::Unknown,
        (None, _, 1, _) => Part::TextPaper,
        _ => Part::Paper,
    };
    let parts: Vec<Part> = (0..clean.ink.len()).map(part).collect();
    let ink = parts.iter().filter(|&&p| p == Part::Ink).count();
    let [x0, y0, x1, y1] = clean.bounds;
    let (width, height) = (x1 - x0, y1 - y0);
    let mut warnings = Vec::new();
    if ink < FEW_PIXELS || width.max(height) < SHORT_SIDE {
        warnings.push(Warning::TooSmall { ink, width, height });
    }
    let share = clean.removed_share();
    if share >= hygiene::MUCH_REMOVED {
        warnings.push(Warning::MuchRemoved { share: f64::from(share) });
    }
    Some(TemplateQuality {
        class: template.class.clone(),
        template: template.name.clone(),
        role: template.role,
        cleaned: CleanedPicture { width: clean.width, height: clean.height, parts, frame: clean.frame },
        removed: clean.removed,
        notes: clean.notes,
        warnings,
        symmetric: Vec::new(),
    })
}

/// Warnings of a template about other classes: near duplicates, and the symbols that it is a part of.
fn alike(shape: &Shape, confusions: &[Confusion]) -> Vec<Warning> {
    let mut worst: BTreeMap<&str, Warning> = BTreeMap::new();
    for c in confusions {
        let other = if c.a == shape.class && c.template_a == shape.name {
            &c.b
        } else if c.b == shape.class && c.template_b == shape.name {
            &c.a
        } else {
            continue;
        };
        let warning = match c.kind {
            ConfusionKind::NearDuplicate if c.likeness >= NEAR_DUPLICATE => {
                Warning::LooksLike { class: other.clone(), likeness: c.likeness }
            }
            ConfusionKind::Contains if *other == c.a => Warning::PartOf { class: other.clone() },
            _ => continue,
        };
        // The list has the most alike pair of two classes first.
        worst.entry(other).or_insert(warning);
    }
    let mut all: Vec<Warning> = worst.into_values().collect();
    let rank = |w: &Warning| if let Warning::LooksLike { likeness, .. } = w { -likeness } else { 0.0 };
    all.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    all
}

/// The most alike templates of every pair of classes.
fn by_class(confusions: Vec<Confusion>) -> Vec<Confusion> {
    let mut seen = BTreeSet::new();
    confusions
        .into_iter()
        .filter(|c| {
            let (a, b) = if c.a <= c.b { (&c.a, &c.b) } else { (&c.b, &c.a) };
            seen.insert((a.clone(), b.clone()))
        })
        .collect()
}
