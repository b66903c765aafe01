//! What can be set about the review.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bands::BandSettings;
use crate::gate::Gate;

/// Share of images with boxes under which the set is warned about.
pub const MIN_COVERAGE: f64 = 0.5;
/// Mean confidence under which the set is warned about.
pub const MIN_CONFIDENCE: f64 = 0.30;
/// Boxes of the most common class for one of the least common above which the set is warned about.
pub const MAX_IMBALANCE: f64 = 10.0;
/// Shorter side in pixels under which a box is tiny: the finest stride of YOLOv8.
pub const TINY_PX: f64 = 8.0;
/// Share of the image's area above which a box is huge.
pub const HUGE_SHARE: f64 = 0.25;
/// Intersection over union from which two boxes overlap.
pub const OVERLAP_IOU: f64 = 0.3;
/// Intersection over union from which two boxes of a class are the same object found twice.
pub const DUPLICATE_IOU: f64 = 0.8;

/// Settings of the review stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// When training may start: `auto` (unless there is nothing to train on), `approve` (when a person said so), `none`
    /// (always).
    pub gate: Gate,
    /// Which boxes are accepted outright, and which are queued for a person.
    pub bands: BandSettings,
    /// Warn when fewer than this share of the images has a box, 0..=1.
    pub min_coverage: f64,
    /// Warn when the mean confidence is lower, 0..=1.
    pub min_confidence: f64,
    /// Warn when the most common class has more than this many boxes for one of the least common.
    pub max_imbalance: f64,
    /// A box with a shorter side under this many pixels is tiny.
    pub tiny_px: f64,
    /// A box over this share of its image is huge, 0..=1.
    pub huge_share: f64,
    /// Two boxes overlap from this intersection over union on, 0..=1.
    pub overlap_iou: f64,
    /// Two boxes of one class are the same object found twice from this intersection over union on, 0..=1.
    pub duplicate_iou: f64,
    /// At most this many annotated sheets in the report.
    pub sheets: usize,
    /// At most this many cut-out boxes of each class in the report, the most useful first.
    pub crops_per_class: usize,
    /// At most this many images are decoded for the report's pictures.
    pub picture_images: usize,
    /// At most this many million bytes of pictures in the report.
    pub picture_mb: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gate: Gate::Auto,
            bands: BandSettings::default(),
            min_coverage: MIN_COVERAGE,
            min_confidence: MIN_CONFIDENCE,
            max_imbalance: MAX_IMBALANCE,
            tiny_px: TINY_PX,
            huge_share: HUGE_SHARE,
            overlap_iou: OVERLAP_IOU,
            duplicate_iou: DUPLICATE_IOU,
            sheets: 8,
            crops_per_class: 8,
            picture_images: 40,
            picture_mb: 12.0,
        }
    }
}

impl Settings {
    /// The first setting out of its range: its name and what is wrong.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let shares = [
            ("min_coverage", self.min_coverage),
            ("min_confidence", self.min_confidence),
            ("huge_share", self.huge_share),
            ("overlap_iou", self.overlap_iou),
            ("duplicate_iou", self.duplicate_iou),
            ("bands.accept", self.bands.accept),
            ("bands.queue", self.bands.queue),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Some((name, format!("{value} is not from 0 to 1")));
            }
        }
        if self.bands.queue > self.bands.accept {
            let message =
                format!("{} is above bands.accept ({}), which leaves no queue", self.bands.queue, self.bands.accept);
            return Some(("bands.queue", message));
        }
        for (name, value) in
            [("max_imbalance", self.max_imbalance), ("tiny_px", self.tiny_px), ("picture_mb", self.picture_mb)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Some((name, format!("{value} is not a number from 0 on")));
            }
        }
        None
    }
}
