//! How good detections are, measured against truth.
//!
//! Owns the metrics and their definitions: COCO's average precision (equal to pycocotools), the interpolated definition
//! that YOLO users know, counts at one threshold, the confusion matrix, and the lists of single mistakes. Refuses to own
//! printing, drawing, and the choice of what is good enough.
//!
//! | file | what |
//! |---|---|
//! | `input` | what is compared, made from annotation sets |
//! | `coco_files` | the same from COCO files, in COCO's order, so that ties fall as in pycocotools |
//! | `coco` | AP, AR (pycocotools' definition) |
//! | `curves` | P, R, F1 and PR curves, AP by trapezoids, P and R at the F1 peak |
//! | `threshold` | true and false positives at one confidence, with the mistakes picture by picture |
//! | `confusion` | the confusion matrix |

use serde::{Deserialize, Serialize};

mod coco;
mod coco_files;
mod confusion;
mod curves;
mod input;
mod threshold;

pub use coco::{AREA_RANGES, ClassAp, CocoMetrics, coco};
pub use coco_files::{FileError, from_coco};
pub use confusion::{Confusion, confusion};
pub use curves::{ClassCurves, Curves, curves};
pub use input::{EvalInput, Found, Picture, Truth};
pub use threshold::{Counts, FalseNegative, FalsePositive, Mistakes, OperatingPoint, Why, operating_point};

/// IoU thresholds of COCO's AP: .50, .55, ... .95, to the last bit as numpy's `linspace` makes them.
pub fn iou_thresholds() -> [f64; 10] {
    let step = (0.95 - 0.5) / 9.0;
    std::array::from_fn(|i| if i == 9 { 0.95 } else { i as f64 * step + 0.5 })
}

/// Where counts, mistakes and the confusion matrix are taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSettings {
    /// Predictions below this confidence do not count at the operating point, 0..=1.
    pub conf: f64,
    /// Overlap (IoU) from which a prediction hits a truth box at the operating point, 0..=1.
    pub iou: f64,
    /// Confidence of the confusion matrix, 0..=1.
    pub matrix_conf: f64,
    /// Overlap of the confusion matrix, 0..=1: a pair has to lie above it.
    pub matrix_iou: f64,
}

impl Default for EvalSettings {
    /// Confidence .25 and IoU .5; the matrix at .25 and .45, as YOLO users know it.
    fn default() -> Self {
        Self { conf: 0.25, iou: 0.5, matrix_conf: 0.25, matrix_iou: 0.45 }
    }
}

/// Everything measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Classes, in the order of every list below.
    pub classes: Vec<String>,
    /// Pictures compared.
    pub images: usize,
    /// Truth boxes, crowds left out.
    pub truth: usize,
    /// Predictions.
    pub predictions: usize,
    /// COCO's AP and AR: equal to pycocotools.
    pub coco: CocoMetrics,
    /// The definition of YOLO's validation: AP by trapezoids, P and R at the peak of F1.
    pub curves: Curves,
    /// Counts at `settings.conf` and `settings.iou`.
    pub operating_point: OperatingPoint,
    /// Confusion matrix at `settings.matrix_conf` and `settings.matrix_iou`.
    pub confusion: Confusion,
    /// The mistakes at the operating point, picture by picture.
    pub mistakes: Vec<Mistakes>,
    /// Where the counts were taken.
    pub settings: EvalSettings,
    /// What was left out of the comparison, and why.
    pub notes: Vec<String>,
}

/// Measures everything.
pub fn evaluate(input: &EvalInput, settings: &EvalSettings) -> Evaluation {
    let (operating_point, mistakes) = operating_point(input, settings.conf, settings.iou);
    Evaluation {
        classes: input.classes.clone(),
        images: input.pictures.len(),
        truth: input.pictures.iter().flat_map(|p| &p.truth).filter(|t| !t.crowd).count(),
        predictions: input.pictures.iter().map(|p| p.found.len()).sum(),
        coco: coco(input),
        curves: curves(input),
        operating_point,
        confusion: confusion(input, settings.matrix_conf, settings.matrix_iou),
        mistakes,
        settings: *settings,
        notes: input.notes.clone(),
    }
}
