//! Batches, made on threads of their own while the network works.
//!
//! Owns the order of samples in an epoch and the hand-over. The order, the samples and the batches are the same for
//! any number of threads; at most two batches a thread wait in memory. Refuses to own what a sample looks like.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use engine::StageError;
use rand::{RngExt as _, seq::SliceRandom as _};
use vision::{letterbox::resize, yolov8::Images};

use crate::{
    assigner::Truth,
    augment::{Augment, InEpoch, Source, View, augmented, random},
    config::sides,
};

/// Batches that a thread makes ahead.
const AHEAD: usize = 1;
/// Steps of the side with `multi_scale`: the coarsest stride of the network.
const SIDE_STEP: u32 = 32;

/// What random numbers are for, so that one use does not shift another.
#[derive(Clone, Copy)]
enum Purpose {
    View = 0,
    Order = 1,
    Side = 2,
}

/// Input of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[count, height, width, 3]`, RGB, 0..=1.
    pub pixels: Vec<f32>,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// The objects of each picture.
    pub truths: Vec<Vec<Truth>>,
}

/// What an epoch is made of.
pub struct Epoch<'a> {
    /// The pictures.
    pub source: &'a dyn Source,
    /// Side of the network's input.
    pub size: u32,
    /// Whether that side changes from batch to batch.
    pub multi_scale: bool,
    /// Pictures a batch; the last may have fewer.
    pub batch: usize,
    /// Random views.
    pub augment: &'a Augment,
    /// Whether mosaics are made.
    pub mosaic: bool,
    /// Start of all randomness.
    pub seed: u64,
    /// Number of the epoch, from 0.
    pub number: usize,
}

impl Epoch<'_> {
    /// The samples in the order of this epoch.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.source.count()).collect();
        order.shuffle(&mut random(self.seed, self.number as u64, 0, Purpose::Order as u64));
        order
    }

    /// Side of the network's input for a batch of this epoch.
    pub fn side(&self, batch: usize) -> u32 {
        if !self.multi_scale {
            return self.size;
        }
        let (least, most) = sides(self.size);
        let mut rng = random(self.seed, self.number as u64, batch as u64, Purpose::Side as u64);
        rng.random_range(least / SIDE_STEP..=most / SIDE_STEP) * SIDE_STEP
    }

    /// Samples as they look in this epoch, squares of `size`.
    pub fn views(&self, samples: &[usize]) -> Result<Vec<View>, StageError> {
        let source = InEpoch { source: self.source, epoch: self.number };
        let view = |&i: &usize| {
            let mut rng = random(self.seed, self.number as u64, i as u64, Purpose::View as u64);
            augmented(&source, i, self.size, self.augment, self.mosaic, &mut rng)
        };
        samples.iter().map(view).collect()
    }

    /// A batch of this epoch, by its number and samples.
    pub fn batch(&self, number: usize, samples: &[usize]) -> Result<Batch, StageError> {
        let side = self.side(number);
        let views = self.views(samples)?;
        Ok(Batch::new(views.into_iter().map(|v| resized(v, side)).collect()))
    }

    /// Makes the batches on `workers` threads and gives them to `work` in order; stops at the first error. Returns how
    /// long the work had to wait for batches.
    pub fn run<E: From<StageError>>(
        &self,
        workers: usize,
        mut work: impl FnMut(usize, Batch) -> Result<(), E>,
    ) -> Result<Duration, E> {
        let order = self.order();
        let batches: Vec<&[usize]> = order.chunks(self.batch).collect();
        let workers = workers.clamp(1, batches.len().max(1));
        std::thread::scope(|scope| {
            let queues: Vec<Receiver<Result<Batch, StageError>>> = (0..workers)
                .map(|first| {
                    let (send, receive) = sync_channel(AHEAD);
                    let batches = &batches;
                    scope.spawn(move || {
                        for (number, samples) in batches.iter().enumerate().skip(first).step_by(workers) {
                            // The other side goes away when the work was stopped.
                            if send.send(self.batch(number, samples)).is_err() {
                                return;
                            }
                        }
                    });
                    receive
                })
                .collect();
            let mut waited = Duration::ZERO;
            for i in 0..batches.len() {
                let start = Instant::now();
                // A worker that is gone before its last batch has panicked; the scope passes that on.
                let Ok(batch) = queues[i % workers].recv() else { return Ok(waited) };
                waited += start.elapsed();
                work(i, batch?)?;
            }
            Ok(waited)
        })
    }
}

impl Batch {
    /// Pictures of one size, as numbers.
    pub fn new(views: Vec<View>) -> Self {
        let mut pixels = Vec::with_capacity(views.iter().map(|v| v.rgb.as_raw().len()).sum());
        let mut truths = Vec::with_capacity(views.len());
        let (width, height) = views.first().map_or((0, 0), |v| v.rgb.dimensions());
        for view in views {
            pixels.extend(view.rgb.as_raw().iter().map(|&v| f32::from(v) / 255.0));
            truths.push(view.objects);
        }
        Self { pixels, height: height as usize, width: width as usize, truths }
    }

    /// As the network takes it.
    pub fn images(&self) -> Images<'_> {
        Images { data: &self.pixels, batch: self.truths.len(), height: self.height, width: self.width }
    }
}

/// A square view at another side.
fn resized(mut view: View, side: u32) -> View {
    let old = view.rgb.width();
    if old != side {
        view.rgb = resize(&view.rgb, (side, side));
        let scale = side as f32 / old as f32;
        view.objects.iter_mut().for_each(|o| o.bbox = o.bbox.map(|v| v * scale));
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::tests::Blocks;

    fn collect(workers: usize, number: usize) -> Vec<Batch> {
        collect_with(workers, number, false)
    }

    fn collect_with(workers: usize, number: usize, multi_scale: bool) -> Vec<Batch> {
        let source = Blocks((0..7).map(|i| (64, 64, [i, 5, i + 20, 30])).collect());
        let augment = Augment::default();
        let epoch = Epoch {
            source: &source,
            size: 64,
            multi_scale,
            batch: 2,
            augment: &augment,
            mosaic: true,
            seed: 4,
            number,
        };
        let mut out = Vec::new();
        epoch
            .run(workers, |i, batch| {
                assert_eq!(i, out.len());
                out.push(batch);
                Ok::<(), StageError>(())
            })
            .unwrap();
        out
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let one = collect(1, 0);
        assert_eq!(one.len(), 4);
        assert_eq!(one[3].truths.len(), 1);
        assert_eq!(one, collect(3, 0));
        assert_ne!(one, collect(1, 1));
    }

    #[test]
    fn an_error_ends_the_epoch() {
        let source = Blocks((0..40).map(|_| (32, 32, [3, 3, 20, 20])).collect());
        let augment = Augment::default();
        let epoch = Epoch {
            source: &source,
            size: 32,
            multi_scale: false,
            batch: 2,
            augment: &augment,
            mosaic: true,
            seed: 0,
            number: 0,
        };
        let result = epoch.run(2, |i, _| if i == 3 { Err(StageError::Cancelled) } else { Ok(()) });
        assert!(matches!(result, Err(StageError::Cancelled)));
    }

    #[test]
    fn a_picture_that_cannot_be_had_ends_the_epoch() {
        struct Lost;
        impl Source for Lost {
            fn count(&self) -> usize {
                5
            }
            fn view(&self, _: usize) -> Result<View, StageError> {
                Err(StageError::message("gone"))
            }
        }
        let augment = Augment::default();
        let epoch = Epoch {
            source: &Lost,
            size: 32,
            multi_scale: false,
            batch: 2,
            augment: &augment,
            mosaic: true,
            seed: 0,
            number: 0,
        };
        let result: Result<_, StageError> = epoch.run(2, |_, _| Ok(()));
        assert_eq!(result.unwrap_err().to_string(), "gone");
    }

    #[test]
    fn sides_vary_in_their_range_and_boxes_follow() {
        let batches: Vec<Batch> = (0..12).flat_map(|number| collect_with(1, number, true)).collect();
        let seen: std::collections::BTreeSet<usize> = batches.iter().map(|b| b.width).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [32, 64, 96]);
        for b in &batches {
            assert_eq!((b.height, b.pixels.len()), (b.width, b.truths.len() * b.width * b.width * 3));
        }
        assert_eq!(collect_with(1, 2, true), collect_with(3, 2, true));
        // The same views as without, scaled.
        for (plain, scaled) in collect(1, 5).iter().zip(collect_with(1, 5, true)) {
            let factor = scaled.width as f32 / 64.0;
            let boxes = |b: &Batch| b.truths.iter().flatten().map(|t| t.bbox).collect::<Vec<_>>();
            for (a, b) in boxes(plain).iter().zip(boxes(&scaled)) {
                assert_eq!(a.map(|v| v * factor), b);
            }
        }
    }
}
