//! Measuring a network on the drawings held back: whole drawings, put together from their tiles.
//!
//! Owns the pass over the views and the way back into the pictures. Refuses to own the metrics (`datasets::eval`),
//! suppression and merging (`vision`).

use datasets::{
    BBox, Pixels,
    eval::{EvalInput, Found, Picture, Truth as TruthBox, coco, curves},
};
use engine::StageError;
use rayon::prelude::*;
use vision::{
    letterbox::Canvas,
    nms::{Candidate, nms},
    tiles::{Tile, TilePlan, merge},
    yolov8::{Backend, Heads, Images, Mode, decode},
};

use crate::{
    augment::{Source as _, centred},
    config::Config,
    dataset::Views,
    intake::Labelled,
    loader::Batch,
    loss::{LossTerms, loss},
    results::Measured,
    trainer::Measure,
};

/// The drawings held back.
pub struct HeldBack<'a> {
    /// The drawings, with their labels.
    pub images: &'a [Labelled],
    /// Their views.
    pub views: &'a Views,
    /// Class names.
    pub classes: &'a [String],
    /// Settings.
    pub config: &'a Config,
    /// Stops the measuring with an error.
    pub check: &'a (dyn Fn() -> Result<(), StageError> + Sync),
}

/// What a network finds in the drawings, best first in each, and its loss.
pub struct Predictions {
    /// For each drawing.
    pub found: Vec<Vec<Candidate<Pixels>>>,
    /// Mean over the batches.
    pub loss: LossTerms,
}

impl HeldBack<'_> {
    /// Runs the network over all views.
    pub fn predict(&self, net: &mut dyn Backend) -> Result<Predictions, StageError> {
        let side = self.config.imgsz as usize;
        let mut found: Vec<Vec<Vec<Candidate<Pixels>>>> =
            self.views.plans.iter().map(|plan| vec![Vec::new(); plan.tiles.len()]).collect();
        let mut sum = LossTerms::default();
        let mut gradient = Heads::default();
        let indices: Vec<usize> = (0..self.views.count()).collect();
        let batches = indices.chunks(self.config.batch);
        let count = batches.len();
        for chunk in batches {
            (self.check)()?;
            let batch = Batch::new(chunk.par_iter().map(|&i| centred(self.views.view(i), self.config.imgsz)).collect());
            let images = Images { data: &batch.pixels, batch: chunk.len(), height: side, width: side };
            let heads = net.forward(images, Mode::Eval).map_err(|e| StageError::failed("measuring the network", e))?;
            let terms = loss(heads, &batch.truths, &self.config.gains(), &mut gradient);
            sum = LossTerms { bbox: sum.bbox + terms.bbox, cls: sum.cls + terms.cls, dfl: sum.dfl + terms.dfl };
            let of_views: Vec<Vec<Candidate<Pixels>>> =
                (0..chunk.len()).into_par_iter().map(|i| self.of_view(heads, i, chunk[i])).collect();
            for (&view, list) in chunk.iter().zip(of_views) {
                let (image, tile) = self.views.places[view];
                found[image][tile] = list;
            }
        }
        let found = self.views.plans.par_iter().zip(found).map(|(plan, list)| merge(plan, list)).collect();
        Ok(Predictions { found, loss: sum.scaled(1.0 / count.max(1) as f64) })
    }

    /// Candidates of one view (the picture at `index` of the batch), in the drawing's pixels.
    fn of_view(&self, heads: &Heads, index: usize, view: usize) -> Vec<Candidate<Pixels>> {
        let (image, tile) = self.views.places[view];
        let plan = &self.views.plans[image];
        let decoded = decode(heads, index);
        let lowest = self.config.val_conf as f32;
        let mut candidates: Vec<Candidate<Canvas>> = Vec::new();
        for (b, scores) in decoded.boxes.iter().zip(decoded.scores.chunks_exact(decoded.classes)) {
            let [x0, y0, x1, y1] = b.map(f64::from);
            let pass = scores.iter().enumerate().filter(|&(_, &s)| s >= lowest);
            candidates.extend(pass.map(|(class, &score)| Candidate { bbox: BBox::new(x0, y0, x1, y1), class, score }));
        }
        let kept = nms(candidates, self.config.val_iou, self.config.val_max_det);
        let place = |c: Candidate<Canvas>| Candidate {
            bbox: plan.to_picture(&plan.tiles[tile], &c.bbox),
            class: c.class,
            score: c.score,
        };
        kept.into_iter().map(place).collect()
    }

    /// Truth and predictions, ready to be compared.
    pub fn compared(&self, found: &[Vec<Candidate<Pixels>>]) -> EvalInput {
        let pictures = self.images.iter().zip(found).map(|(image, found)| Picture {
            image: image.blob.name.clone(),
            truth: image
                .objects
                .iter()
                .map(|o| TruthBox { class: o.class, bbox: o.bbox, area: o.bbox.area(), crowd: false })
                .collect(),
            found: found
                .iter()
                .filter_map(|c| {
                    let bbox = c.bbox.clipped(image.size.0, image.size.1)?;
                    Some(Found { class: c.class, bbox, area: bbox.area(), score: f64::from(c.score) })
                })
                .collect(),
        });
        EvalInput { classes: self.classes.to_vec(), pictures: pictures.collect(), notes: Vec::new() }
    }
}

impl Measure for HeldBack<'_> {
    fn measure(&self, net: &mut dyn Backend) -> Result<Option<Measured>, StageError> {
        if self.images.is_empty() {
            return Ok(None);
        }
        let predictions = self.predict(net)?;
        let input = self.compared(&predictions.found);
        let (coco, curves) = (coco(&input), curves(&input));
        Ok(Some(Measured {
            precision: curves.precision.unwrap_or(0.0),
            recall: curves.recall.unwrap_or(0.0),
            map50: curves.map50.unwrap_or(0.0),
            map50_95: curves.map.unwrap_or(0.0),
            coco_ap50: coco.ap50.unwrap_or(0.0),
            coco_ap: coco.ap.unwrap_or(0.0),
            loss: predictions.loss,
        }))
    }
}

/// A box of the drawing in pixels of the input that shows a tile; `None` when the tile shows nothing of it.
pub fn to_input(plan: &TilePlan, tile: &Tile, b: &BBox<Pixels>) -> Option<[f64; 4]> {
    let b = b.intersection(&plan.region(tile))?;
    let zero = plan.to_picture(tile, &BBox::new(0.0, 0.0, 0.0, 0.0));
    let (sx, sy) = plan.scale();
    Some([(b.x0 - zero.x0) * sx, (b.y0 - zero.y0) * sy, (b.x1 - zero.x0) * sx, (b.y1 - zero.y0) * sy])
}
