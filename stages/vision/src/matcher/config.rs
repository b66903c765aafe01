//! What the matcher looks for and how hard: its settings and their bounds.

use std::collections::BTreeMap;

use super::MatcherError;

/// Which turns of a template are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rotations {
    /// As drawn only.
    None,
    /// Quarter turns: 0, 90, 180 and 270 degrees.
    Quarter,
    /// Every this many degrees, 1..=180; small deviations from a step are followed by the refinement.
    Every(f64),
    /// Any angle.
    Any,
}

/// Step between coarse angles under [`Rotations::Any`], degrees. A window of 32 cells whose ink may be off by one cell
/// tolerates about 4 degrees either way; the refinement covers the rest.
const ANY_STEP_DEG: f64 = 10.0;

impl Rotations {
    /// The coarse angles, degrees, and whether the refinement may leave them freely.
    pub(super) fn angles_deg(self) -> (Vec<f64>, bool) {
        match self {
            Self::None => (vec![0.0], false),
            Self::Quarter => (vec![0.0, 90.0, 180.0, 270.0], false),
            Self::Every(step) => (steps(step), false),
            Self::Any => (steps(ANY_STEP_DEG), true),
        }
    }
}

fn steps(step_deg: f64) -> Vec<f64> {
    let n = (360.0 / step_deg).round().max(1.0) as usize;
    (0..n).map(|i| i as f64 * 360.0 / n as f64).collect()
}

/// Score from which matches on generated drawings are more often right than wrong (`tests/matcher_fit.rs`).
pub const DEFAULT_THRESHOLD: f64 = 0.3;
/// Score from which a match is worth a person's look.
pub const CANDIDATE_THRESHOLD: f64 = 0.1;

/// What sizes are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleBase {
    /// The template as it is, pixel for pixel.
    Template,
    /// The scale at which most classes are found on the drawing, looked for between a fifth and five times.
    Drawing,
}

/// In which poses a template is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Poses {
    /// Turns that are tried. Default quarter turns.
    pub rotations: Rotations,
    /// Whether mirror images are tried. Default false.
    pub mirror: bool,
    /// Smallest size on the drawing relative to the base, 0.05..=20. Default 0.8.
    pub scale_min: f64,
    /// Largest size on the drawing relative to the base, 0.05..=20. Default 1.25.
    pub scale_max: f64,
    /// Largest factor by which width over height may differ from the template's, 1..=2 (1: none). Default 1.1.
    pub stretch: f64,
}

impl Default for Poses {
    fn default() -> Self {
        Self { rotations: Rotations::Quarter, mirror: false, scale_min: 0.8, scale_max: 1.25, stretch: 1.1 }
    }
}

/// Settings of a [`super::Matcher`].
#[derive(Clone, Debug, PartialEq)]
pub struct MatcherConfig {
    /// Poses of all classes.
    pub poses: Poses,
    /// Poses of single classes, which replace `poses`.
    pub class_poses: BTreeMap<String, Poses>,
    /// What a size of 1 means. Default [`ScaleBase::Template`].
    pub scale_base: ScaleBase,
    /// Score that a match must reach, 0..=1. Default [`DEFAULT_THRESHOLD`].
    pub threshold: f64,
    /// Thresholds of single classes, which override `threshold`.
    pub class_thresholds: BTreeMap<String, f64>,
    /// Score from which what misses its threshold is still reported as a candidate, 0..=1. Default
    /// [`CANDIDATE_THRESHOLD`].
    pub candidates_from: f64,
    /// Of two matches that overlap by more than this (intersection over union, 0..=1), the weaker is dropped,
    /// whatever their classes. Default 0.3: symbols on drawings hardly overlap.
    pub nms_iou: f64,
}

impl Default for MatcherConfig {
    fn default() -> Self {
        Self {
            poses: Poses::default(),
            class_poses: BTreeMap::new(),
            scale_base: ScaleBase::Template,
            threshold: DEFAULT_THRESHOLD,
            class_thresholds: BTreeMap::new(),
            candidates_from: CANDIDATE_THRESHOLD,
            nms_iou: 0.3,
        }
    }
}

impl MatcherConfig {
    /// Refuses settings outside their ranges, naming the setting.
    pub fn check(&self) -> Result<(), MatcherError> {
        let bad = |field: &str, value: f64, range: &str| {
            Err(MatcherError::Config { field: field.to_owned(), value, range: range.to_owned() })
        };
        for poses in std::iter::once(&self.poses).chain(self.class_poses.values()) {
            for (field, v) in [("scale_min", poses.scale_min), ("scale_max", poses.scale_max)] {
                if !(0.05..=20.0).contains(&v) {
                    return bad(field, v, "0.05 to 20");
                }
            }
            if poses.scale_min > poses.scale_max {
                return bad("scale_min", poses.scale_min, "at most scale_max");
            }
            if !(1.0..=2.0).contains(&poses.stretch) {
                return bad("stretch", poses.stretch, "1 to 2");
            }
            if let Rotations::Every(step) = poses.rotations
                && !(1.0..=180.0).contains(&step)
            {
                return bad("rotations", step, "1 to 180 degrees");
            }
        }
        let unit =
            [("threshold", self.threshold), ("candidates_from", self.candidates_from), ("nms_iou", self.nms_iou)];
        let classes = self.class_thresholds.iter().map(|(c, &v)| (c.as_str(), v));
        for (field, v) in unit.into_iter().chain(classes) {
            if !(0.0..=1.0).contains(&v) {
                return bad(field, v, "0 to 1");
            }
        }
        Ok(())
    }

    /// The poses of a class.
    pub fn poses_of(&self, class: &str) -> &Poses {
        self.class_poses.get(class).unwrap_or(&self.poses)
    }

    /// The threshold of a class.
    pub fn threshold_of(&self, class: &str) -> f64 {
        self.class_thresholds.get(class).copied().unwrap_or(self.threshold)
    }
}
