//! Exact normalised cross-correlation: OpenCV's `matchTemplate` with `TM_CCOEFF_NORMED`, for many templates in many
//! poses at once.
//!
//! The same numbers as OpenCV's to 1e-3 ([`map`]), and what its users write around it: scales in steps, turns, mirror
//! images, a threshold, local maxima, suppression of overlaps. Three things are different on purpose. A template
//! without contrast is an error (OpenCV scores it 1 everywhere). Transparent pixels are a mask, and where OpenCV's masked
//! score is infinite or not a number it is 0 here, as it is for unmasked windows without contrast. Drawings are
//! transformed once for all templates.
//!
//! Owns the correlation and the poses. Refuses to judge templates or to weigh classes by anything but the score: that
//! is [`crate::matcher`]. Results do not depend on the number of threads; memory does not grow with the drawing beyond
//! the drawing itself and what is found on it.

mod patch;
mod peaks;
mod scan;
mod spectrum;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use datasets::BBox;
use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use crate::matcher::{Found, Match, MatcherConfig, MatcherError, Poses, Role, Rotations, SkippedTemplate, Template};
use patch::{Patch, turned_size};
use peaks::{candidates, peaks, winners};
use scan::{Block, Kernel, pair_bytes, scan};

/// Version of the correlation; raised when the same templates, settings and drawing may give other matches.
pub const VERSION: &str = "ncc 1";

/// The threshold of OpenCV's tutorial on template matching.
pub const DEFAULT_THRESHOLD: f64 = 0.8;
/// Sizes between the smallest and the largest that people usually try.
pub const DEFAULT_SCALE_STEPS: u32 = 5;
/// Most steps of scale.
const MAX_SCALE_STEPS: u32 = 100;
/// Step of [`Rotations::Any`], degrees: half of it moves the rim of a symbol of 50 pixels by one pixel, which is about
/// what a stroke of two pixels bears.
const ANY_STEP_DEG: f64 = 5.0;
/// Memory for spectra of templates, bytes; those of one pair of templates may take more.
const SPECTRA_BYTES: usize = 64 << 20;

/// Settings of an [`Ncc`].
#[derive(Clone, Debug, PartialEq)]
pub struct NccConfig {
    /// Poses of all classes. Sizes are relative to the template, pixel for pixel; `stretch` is not used.
    /// [`Rotations::Any`] is every 5 degrees.
    pub poses: Poses,
    /// Poses of single classes, which replace `poses`.
    pub class_poses: BTreeMap<String, Poses>,
    /// Sizes that are tried from the smallest to the largest, each larger by the same factor, 1..=100 (1: the
    /// geometric mean). Default [`DEFAULT_SCALE_STEPS`].
    pub scale_steps: u32,
    /// Correlation that a match must reach, 0..=1. Default [`DEFAULT_THRESHOLD`].
    pub threshold: f64,
    /// Thresholds of single classes, which override `threshold`.
    pub class_thresholds: BTreeMap<String, f64>,
    /// Of two matches that overlap by more than this (intersection over union, 0..=1), the weaker is dropped,
    /// whatever their classes. Default 0.5.
    pub nms_iou: f64,
}

impl Default for NccConfig {
    fn default() -> Self {
        Self {
            poses: Poses::default(),
            class_poses: BTreeMap::new(),
            scale_steps: DEFAULT_SCALE_STEPS,
            threshold: DEFAULT_THRESHOLD,
            class_thresholds: BTreeMap::new(),
            nms_iou: 0.5,
        }
    }
}

impl NccConfig {
    /// Refuses settings outside their ranges, naming the setting.
    pub fn check(&self) -> Result<(), NccError> {
        // The ranges are the matcher's.
        let shared = MatcherConfig {
            poses: self.poses.clone(),
            class_poses: self.class_poses.clone(),
            threshold: self.threshold,
            class_thresholds: self.class_thresholds.clone(),
            nms_iou: self.nms_iou,
            ..MatcherConfig::default()
        };
        if let Err(MatcherError::Config { field, value, range }) = shared.check() {
            return Err(NccError::Config { field, value, range });
        }
        if !(1..=MAX_SCALE_STEPS).contains(&self.scale_steps) {
            let (field, range) = ("scale_steps".to_owned(), format!("1 to {MAX_SCALE_STEPS}"));
            return Err(NccError::Config { field, value: f64::from(self.scale_steps), range });
        }
        Ok(())
    }

    fn poses_of(&self, class: &str) -> &Poses {
        self.class_poses.get(class).unwrap_or(&self.poses)
    }

    fn threshold_of(&self, class: &str) -> f64 {
        self.class_thresholds.get(class).copied().unwrap_or(self.threshold)
    }
}

/// Why there is no correlation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum NccError {
    /// Nothing to look for.
    #[error("no templates: give at least one picture of a symbol")]
    NoTemplates,
    /// A template without contrast.
    #[error(
        "template `{name}` of class `{class}` has one grey level wherever it is not transparent, so a correlation with it \
         has no meaning: save it with its paper instead of transparency, draw the symbol in it, or remove the file"
    )]
    Flat { name: String, class: String },
    /// A template that does not fit.
    #[error("template `{name}` has {template} pixels and the drawing {drawing}: cut the template smaller")]
    TooLarge { name: String, template: String, drawing: String },
    /// A setting outside its range.
    #[error("`{field}` is {value}; it must be {range}")]
    Config { field: String, value: f64, range: String },
}

/// Correlations of one template with every window of a drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Correlations {
    /// Windows a row: the drawing's width less the template's, plus 1.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row by row, -1..=1; 0 where a window has no contrast.
    pub values: Vec<f32>,
}

/// What `cv2.matchTemplate(drawing, template, TM_CCOEFF_NORMED)` gives, to 1e-3: with the template's alpha as mask where
/// it has transparent pixels.
pub fn map(template: &Template, drawing: &GrayImage) -> Result<Correlations, NccError> {
    let patch = Patch::of(&template.image);
    let (width, height) = (drawing.width() as usize, drawing.height() as usize);
    if patch.width > width || patch.height > height {
        return Err(NccError::TooLarge {
            name: template.name.clone(),
            template: format!("{} x {}", patch.width, patch.height),
            drawing: format!("{width} x {height}"),
        });
    }
    let (width, height) = (width + 1 - patch.width, height + 1 - patch.height);
    let kernel = Kernel::of(patch).ok_or_else(|| flat(template))?;
    let own = |block: &Block<'_>| {
        let [x0, y0, x1, y1] = block.core;
        let (x1, y1) = (x1.min(width), y1.min(height));
        let row = |y: usize| {
            let start = (y - block.at[1]) * block.columns - block.at[0];
            (y * width + x0, block.values[start + x0..start + x1].to_vec())
        };
        if x0 < x1 { (y0..y1).map(row).collect() } else { Vec::new() }
    };
    let mut values = vec![0.0; width * height];
    for (at, row) in scan(drawing, &[kernel], own) {
        values[at..at + row.len()].copy_from_slice(&row);
    }
    Ok(Correlations { width, height, values })
}

fn flat(template: &Template) -> NccError {
    NccError::Flat { name: template.name.clone(), class: template.class.clone() }
}

/// A template as it is tried.
#[derive(Clone, Debug, PartialEq)]
struct Pose {
    template: usize,
    mirrored: bool,
    scale: f64,
    angle_deg: f64,
    /// Before it is turned.
    upright: [usize; 2],
    /// As it is tried.
    size: [usize; 2],
}

/// Templates ready to be correlated with any number of drawings.
#[derive(Clone, Debug)]
pub struct Ncc {
    templates: Vec<Template>,
    patches: Vec<Patch>,
    /// By size, so that neighbours share sums over windows.
    poses: Vec<Pose>,
    config: NccConfig,
}

impl Ncc {
    /// Prepares templates; several may share a class. A template without contrast is an error. Confirmed matches are
    /// not used: they are cut out with their surroundings, which only the symbol matcher can tell apart.
    pub fn new(templates: &[Template], config: &NccConfig) -> Result<Self, NccError> {
        config.check()?;
        let templates: Vec<Template> = templates.iter().filter(|t| t.role != Role::Confirmed).cloned().collect();
        if templates.is_empty() {
            return Err(NccError::NoTemplates);
        }
        let patches: Vec<Patch> = templates.iter().map(|t| Patch::of(&t.image)).collect();
        if let Some(i) = patches.iter().position(Patch::is_flat) {
            return Err(flat(&templates[i]));
        }
        let all = templates.iter().zip(&patches).enumerate();
        let mut poses: Vec<Pose> =
            all.flat_map(|(i, (t, p))| poses(i, p, config.poses_of(&t.class), config.scale_steps)).collect();
        // Stable: poses of one size stay in the order of the templates.
        poses.sort_by_key(|p| [p.size[1], p.size[0]]);
        Ok(Self { templates, patches, poses, config: config.clone() })
    }

    /// Finds the templates on a colour drawing, made grey as OpenCV does.
    pub fn find(&self, drawing: &RgbImage) -> Found {
        self.find_grey(&patch::grey(drawing))
    }

    /// Finds the templates on a grey drawing. Below the threshold there are no candidates.
    pub fn find_grey(&self, drawing: &GrayImage) -> Found {
        let extent = [drawing.width() as usize, drawing.height() as usize];
        let fits = |p: &&Pose| p.size[0] <= extent[0] && p.size[1] <= extent[1];
        let fitting: Vec<&Pose> = self.poses.iter().filter(fits).collect();
        let most = [0, 1].map(|i| fitting.iter().map(|p| p.size[i]).max().unwrap_or(1));
        let mut used = BTreeSet::new();
        let mut tops = Vec::new();
        let mut shown: Vec<&Pose> = Vec::new();
        let at_once = if fitting.is_empty() { 1 } else { (SPECTRA_BYTES / pair_bytes(drawing, most)).max(1) * 2 };
        for group in fitting.chunks(at_once) {
            let made = group.par_iter().map(|p| Kernel::of(self.patch(p)).map(|k| (k, *p)));
            let (kernels, poses): (Vec<Kernel>, Vec<&Pose>) = made.collect::<Vec<_>>().into_iter().flatten().unzip();
            used.extend(poses.iter().map(|p| p.template));
            let floor = |k: usize| self.config.threshold_of(&self.templates[poses[k].template].class);
            let found = scan(drawing, &kernels, |b| candidates(drawing, &kernels[b.kernel], b, floor(b.kernel)));
            for mut peak in peaks(found) {
                peak.of += shown.len();
                tops.push(peak);
            }
            shown.extend(poses);
        }
        let boxes: Vec<BBox<datasets::Pixels>> = tops
            .iter()
            .map(|p| {
                let [x0, y0] = p.at.map(|v| v as f64);
                let [width, height] = shown[p.of].size.map(|v| v as f64);
                BBox::new(x0, y0, x0 + width, y0 + height)
            })
            .collect();
        let names: BTreeSet<&str> = self.templates.iter().map(|t| t.class.as_str()).collect();
        let names: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
        let template = |peak: usize| &self.templates[shown[tops[peak].of].template];
        let class = |peak: usize| names[template(peak).class.as_str()];
        let mut matches: Vec<Match> = winners(&tops, &boxes, class, self.config.nms_iou)
            .into_iter()
            .filter(|w| template(w.peak).role != Role::Negative)
            .map(|w| {
                let (t, pose, score) = (template(w.peak), shown[tops[w.peak].of], tops[w.peak].score);
                let margin = w.runner_up.map_or(1.0, |r| score - tops[r].score);
                Match {
                    class: t.class.clone(),
                    template: t.name.clone(),
                    bbox: boxes[w.peak],
                    score,
                    threshold: self.config.threshold_of(&t.class),
                    rotation_deg: pose.angle_deg,
                    mirrored: pose.mirrored,
                    scale: pose.scale,
                    stretch: 1.0,
                    runner_up: w.runner_up.map(|r| template(r).class.clone()),
                    evidence: BTreeMap::from([("correlation".to_owned(), score), ("margin".to_owned(), margin)]),
                }
            })
            .collect();
        // Stable: matches at one place stay best first.
        matches.sort_by(|a, b| a.bbox.y0.total_cmp(&b.bbox.y0).then(a.bbox.x0.total_cmp(&b.bbox.x0)));
        Found { matches, candidates: Vec::new(), skipped: self.skipped(extent, &used) }
    }

    /// The templates of which no pose is used, and why.
    fn skipped(&self, [width, height]: [usize; 2], used: &BTreeSet<usize>) -> Vec<SkippedTemplate> {
        let unused = self.templates.iter().enumerate().filter(|(i, _)| !used.contains(i));
        let area = |p: &Pose| p.size[0] * p.size[1];
        unused
            .map(|(i, t)| {
                let mut poses = self.poses.iter().filter(|p| p.template == i);
                let smallest = poses.clone().min_by(|a, b| area(a).cmp(&area(b)).then(a.angle_deg.total_cmp(&b.angle_deg))).expect("a template has a pose");
                let reason = if poses.any(|p| p.size[0] <= width && p.size[1] <= height) {
                    "it has one grey level at every size that is tried".to_owned()
                } else {
                    let [w, h] = smallest.size;
                    let scale = smallest.scale;
                    format!("it takes {w} x {h} pixels at the smallest scale ({scale:.2}), the drawing has {width} x {height}")
                };
                SkippedTemplate { template: t.name.clone(), reason }
            })
            .collect()
    }

    fn patch(&self, pose: &Pose) -> Patch {
        let patch = &self.patches[pose.template];
        let [width, height] = pose.upright;
        let patch = if pose.mirrored { patch.mirrored() } else { patch.clone() }.resized(width, height);
        let quarters = pose.angle_deg / 90.0;
        if quarters.fract() == 0.0 { patch.quarter_turned(quarters as usize) } else { patch.turned(pose.angle_deg) }
    }
}

/// Every pose of a template once.
fn poses(template: usize, patch: &Patch, poses: &Poses, steps: u32) -> Vec<Pose> {
    let mut all: Vec<Pose> = Vec::new();
    for mirrored in [false, true].into_iter().take(1 + usize::from(poses.mirror)) {
        for angle_deg in angles(poses.rotations) {
            let first = all.len();
            for scale in scales(poses.scale_min, poses.scale_max, steps) {
                let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
                let upright = [side(patch.width), side(patch.height)];
                let (width, height) = turned_size(upright[0], upright[1], angle_deg);
                // Small templates have the same size at several scales.
                if all[first..].iter().all(|p| p.upright != upright) {
                    all.push(Pose { template, mirrored, scale, angle_deg, upright, size: [width, height] });
                }
            }
        }
    }
    all
}

/// The angles that are tried, degrees clockwise.
fn angles(rotations: Rotations) -> Vec<f64> {
    let every = |step: f64| {
        let n = (360.0 / step).round().max(1.0);
        (0..n as u32).map(|i| f64::from(i) * 360.0 / n).collect()
    };
    match rotations {
        Rotations::None => vec![0.0],
        Rotations::Quarter => every(90.0),
        Rotations::Every(step) => every(step),
        Rotations::Any => every(ANY_STEP_DEG),
    }
}

/// `steps` scales from `min` to `max` that grow by one factor.
fn scales(min: f64, max: f64, steps: u32) -> Vec<f64> {
    let at = |part: f64| min * (max / min).powf(part);
    if steps == 1 || min == max {
        return vec![at(0.5)];
    }
    (0..steps).map(|i| at(f64::from(i) / f64::from(steps - 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_grow_by_one_factor() {
        let s = scales(0.8, 1.25, 5);
        let want = [0.8, 0.894427, 1.0, 1.118034, 1.25];
        assert!(s.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{s:?}");
        assert!((scales(0.8, 1.25, 1)[0] - 1.0).abs() < 1e-12);
        assert_eq!(scales(1.0, 1.0, 5), [1.0]);
        assert_eq!(angles(Rotations::Quarter), [0.0, 90.0, 180.0, 270.0]);
        assert_eq!(angles(Rotations::Any).len(), 72);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let config = NccConfig { scale_steps: 0, ..NccConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("scale_steps"));
        let config = NccConfig { threshold: 1.5, ..NccConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("threshold"));
        assert!(NccConfig::default().check().is_ok());
    }
}
