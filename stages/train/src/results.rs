//! The table of a training: one row an epoch, as CSV and as plots.
//!
//! Owns names and order of its columns. There is no column of time: the same training gives the same bytes.

use std::fmt::Write as _;

use report::{
    Html,
    plot::{Axes, Series, lines},
};
use serde::{Deserialize, Serialize};

use crate::loss::LossTerms;

/// What was measured on the drawings held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Precision at the confidence of the highest F1.
    pub precision: f64,
    /// Recall at the same confidence.
    pub recall: f64,
    /// Mean AP at IoU .5 (area under the envelope, the reference's definition).
    pub map50: f64,
    /// Mean AP over IoU .5:.05:.95 (the reference's definition).
    pub map50_95: f64,
    /// COCO's AP at IoU .5.
    pub coco_ap50: f64,
    /// COCO's AP over IoU .5:.05:.95.
    pub coco_ap: f64,
    /// The loss on the pictures held back.
    pub loss: LossTerms,
}

impl Measured {
    /// What the best epoch is chosen by. Source: recipe `yolov8@8.2.103`.
    pub fn fitness(&self) -> f64 {
        0.1 * self.map50 + 0.9 * self.map50_95
    }
}

/// One epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Number, from 1.
    pub epoch: usize,
    /// Pictures a batch.
    pub batch: usize,
    /// Learning rate of its last batch.
    pub lr: f64,
    /// Mean loss over its batches.
    pub loss: LossTerms,
    /// What was measured after it, if it was.
    pub measured: Option<Measured>,
}

/// The table as CSV. Fields that were not measured are empty.
pub fn csv(rows: &[Row]) -> String {
    let mut out = String::from(
        "epoch,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision,metrics/recall,metrics/mAP50,\
         metrics/mAP50-95,metrics/COCO_AP50,metrics/COCO_AP,val/box_loss,val/cls_loss,val/dfl_loss,lr,batch\n",
    );
    for r in rows {
        let _ = write!(out, "{},{:.5},{:.5},{:.5}", r.epoch, r.loss.bbox, r.loss.cls, r.loss.dfl);
        match &r.measured {
            Some(m) => {
                for x in [m.precision, m.recall, m.map50, m.map50_95, m.coco_ap50, m.coco_ap] {
                    let _ = write!(out, ",{x:.5}");
                }
                for x in [m.loss.bbox, m.loss.cls, m.loss.dfl] {
                    let _ = write!(out, ",{x:.5}");
                }
            }
            None => out.push_str(",,,,,,,,,"),
        }
        let _ = writeln!(out, ",{:.8},{}", r.lr, r.batch);
    }
    out
}

/// Loss over epochs, and metrics over epochs.
pub fn plots(rows: &[Row]) -> [Html; 2] {
    let x = |r: &Row| r.epoch as f64;
    let train = |name: &str, f: fn(&LossTerms) -> f64| {
        Series::new(format!("{name}, training"), rows.iter().map(|r| (x(r), f(&r.loss))).collect())
    };
    let measured = |name: &str, f: fn(&Measured) -> f64| {
        let points = rows.iter().filter_map(|r| r.measured.as_ref().map(|m| (x(r), f(m))));
        Series::new(name, points.collect())
    };
    let losses = [
        train("box", |l| l.bbox),
        train("class", |l| l.cls),
        train("dfl", |l| l.dfl),
        measured("box, held back", |m| m.loss.bbox),
        measured("class, held back", |m| m.loss.cls),
        measured("dfl, held back", |m| m.loss.dfl),
    ];
    let metrics = [
        measured("precision", |m| m.precision),
        measured("recall", |m| m.recall),
        measured("mAP50", |m| m.map50),
        measured("mAP50-95", |m| m.map50_95),
    ];
    let unit = Axes { y_range: Some((0.0, 1.0)), ..Axes::new("Metrics on the drawings held back", "epoch", "") };
    [lines(&Axes::new("Loss", "epoch", "weighted loss"), &losses), lines(&unit, &metrics)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_every_column() {
        let row = Row { epoch: 1, batch: 4, lr: 0.01, loss: LossTerms::default(), measured: None };
        let text = csv(&[row, Row { epoch: 2, measured: Some(Measured::default()), ..row }]);
        let columns: Vec<usize> = text.lines().map(|l| l.split(',').count()).collect();
        assert_eq!(columns, [15, 15, 15]);
    }
}
