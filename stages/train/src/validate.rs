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
    yolov8::{Backend, Heads, Mode, decode},
};

use crate::{
    augment::{Source as _, placed},
    config::Config,
    dataset::Views,
    intake::Labelled,
    loader::Batch,
    loss::{Gains, LossTerms, loss},
    memory::MEASURE_BATCH,
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
    /// Weights of the loss, as in training.
    pub gains: &'a Gains,
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

/// Multiple that both sides of the network's input have to be.
const GRAIN: u32 = 32;

/// Views that are measured together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Indices of the views.
    pub views: Vec<usize>,
    /// Width and height of the network's input.
    pub canvas: (u32, u32),
}

/// Batches of at most `batch` views with these widths and heights, all at most `input`. On squares in the order of the
/// views; on rectangles from wide to tall (equal shapes in the order of the views), each batch on the smallest canvas.
pub fn groups(sizes: &[(u32, u32)], batch: usize, input: u32, rect: bool) -> Vec<Group> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    if rect {
        // Height over width, compared without rounding.
        let cross = |a: usize, b: usize| u64::from(sizes[a].1) * u64::from(sizes[b].0);
        order.sort_by(|&a, &b| cross(a, b).cmp(&cross(b, a)).then(a.cmp(&b)));
    }
    let canvas = |views: &[usize]| {
        let most = |side: fn(&(u32, u32)) -> u32| views.iter().map(|&v| side(&sizes[v])).max().unwrap_or(input);
        if rect {
            (most(|s| s.0).next_multiple_of(GRAIN), most(|s| s.1).next_multiple_of(GRAIN))
        } else {
            (input, input)
        }
    };
    order.chunks(batch).map(|views| Group { views: views.to_vec(), canvas: canvas(views) }).collect()
}

/// From the canvas that a view of `size` lies in the middle of to the square of side `input` that it does, in whole
/// pixels.
fn shift(size: (u32, u32), canvas: (u32, u32), input: u32) -> (f64, f64) {
    let gap = |of: u32, view: u32| f64::from((of - view) / 2);
    (gap(input, size.0) - gap(canvas.0, size.0), gap(input, size.1) - gap(canvas.1, size.1))
}

impl HeldBack<'_> {
    fn size(&self, view: usize) -> (u32, u32) {
        let (image, tile) = self.views.places[view];
        self.views.plans[image].tiles[tile].size
    }

    /// Runs the network over all views.
    pub fn predict(&self, net: &mut dyn Backend) -> Result<Predictions, StageError> {
        let mut found: Vec<Vec<Vec<Candidate<Pixels>>>> =
            self.views.plans.iter().map(|plan| vec![Vec::new(); plan.tiles.len()]).collect();
        let mut sum = LossTerms::default();
        let mut gradient = Heads::default();
        let sizes: Vec<(u32, u32)> = (0..self.views.count()).map(|v| self.size(v)).collect();
        let batch = self.config.batch.or(MEASURE_BATCH).min(MEASURE_BATCH);
        let groups = groups(&sizes, batch, self.config.imgsz, self.config.rect);
        for Group { views, canvas } in &groups {
            (self.check)()?;
            let shown = views.par_iter().map(|&i| Ok(placed(self.views.view(i)?, *canvas)));
            let batch = Batch::new(shown.collect::<Result<_, StageError>>()?);
            let heads =
                net.forward(batch.images(), Mode::Eval).map_err(|e| StageError::failed("measuring the network", e))?;
            let terms = loss(heads, &batch.truths, self.gains, &mut gradient);
            sum = LossTerms { bbox: sum.bbox + terms.bbox, cls: sum.cls + terms.cls, dfl: sum.dfl + terms.dfl };
            let of_views: Vec<Vec<Candidate<Pixels>>> =
                (0..views.len()).into_par_iter().map(|i| self.of_view(heads, i, views[i], *canvas)).collect();
            for (&view, list) in views.iter().zip(of_views) {
                let (image, tile) = self.views.places[view];
                found[image][tile] = list;
            }
        }
        let found = self.views.plans.par_iter().zip(found).map(|(plan, list)| merge(plan, list)).collect();
        Ok(Predictions { found, loss: sum.scaled(1.0 / groups.len().max(1) as f64) })
    }

    /// Candidates of one view (the picture at `index` of the batch), in the drawing's pixels.
    fn of_view(&self, heads: &Heads, index: usize, view: usize, canvas: (u32, u32)) -> Vec<Candidate<Pixels>> {
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
        let (dx, dy) = shift(self.size(view), canvas, self.config.imgsz);
        let place = |c: Candidate<Canvas>| {
            let on_square = BBox::new(c.bbox.x0 + dx, c.bbox.y0 + dy, c.bbox.x1 + dx, c.bbox.y1 + dy);
            Candidate { bbox: plan.to_picture(&plan.tiles[tile], &on_square), class: c.class, score: c.score }
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

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use vision::tiles::Cut;

    use super::*;
    use crate::{
        assigner::Truth,
        augment::{View, centred},
    };

    /// Pictures of many shapes as they are sized for inputs of 320.
    fn plans() -> Vec<TilePlan> {
        let shapes =
            [(500, 500), (1000, 300), (300, 1000), (317, 411), (1000, 301), (640, 480), (33, 1000), (500, 500)];
        shapes.iter().map(|&s| TilePlan::new(s, Cut::Whole, 320)).collect()
    }

    #[test]
    fn rectangles_are_the_least_that_hold_their_views_and_every_view_is_there_once() {
        let sizes: Vec<(u32, u32)> = plans().iter().map(|p| p.tiles[0].size).collect();
        let made = groups(&sizes, 3, 320, true);
        let mut all: Vec<usize> = made.iter().flat_map(|g| g.views.clone()).collect();
        let aspects: Vec<f64> = all.iter().map(|&v| f64::from(sizes[v].1) / f64::from(sizes[v].0)).collect();
        assert!(aspects.is_sorted(), "{aspects:?}");
        assert!(all.iter().position(|&v| v == 0) < all.iter().position(|&v| v == 7), "equal shapes keep their order");
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<_>>());
        for g in &made {
            let (w, h) = (g.views.iter().map(|&v| sizes[v].0).max(), g.views.iter().map(|&v| sizes[v].1).max());
            let (cw, ch) = g.canvas;
            assert!(cw.is_multiple_of(32) && ch.is_multiple_of(32) && cw <= 320 && ch <= 320);
            assert!(cw - w.unwrap() < 32 && ch - h.unwrap() < 32, "{g:?}");
        }
        assert!(made.iter().any(|g| g.canvas.0 != g.canvas.1));
        let squares = groups(&sizes, 3, 320, false);
        assert!(squares.iter().all(|g| g.canvas == (320, 320)) && squares[0].views == [0, 1, 2]);
    }

    #[test]
    fn boxes_come_back_to_the_same_place_from_any_canvas() {
        for (i, plan) in plans().iter().enumerate() {
            let tile = &plan.tiles[0];
            let view = View {
                rgb: RgbImage::from_pixel(tile.size.0, tile.size.1, Rgb([9; 3])),
                objects: vec![Truth { class: 0, bbox: [3.0, 4.0, 20.0, 22.0] }],
            };
            let square = centred(view.clone(), 320).objects[0].bbox.map(f64::from);
            for extra in [(0, 0), (32, 0), (32, 64)] {
                let up = |side: u32, more: u32| (side.next_multiple_of(32) + more).min(320);
                let canvas = (up(tile.size.0, extra.0), up(tile.size.1, extra.1));
                let shown = placed(view.clone(), canvas);
                assert_eq!(shown.rgb.dimensions(), canvas);
                let [x0, y0, x1, y1] = shown.objects[0].bbox.map(f64::from);
                let (dx, dy) = shift(tile.size, canvas, 320);
                assert_eq!([x0 + dx, y0 + dy, x1 + dx, y1 + dy], square, "picture {i}, canvas {canvas:?}");
            }
        }
    }
}
