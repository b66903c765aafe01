//! Batches, made on threads of their own while the network works.
//!
//! Owns the order of samples in an epoch and the hand-over. The order, the samples and the batches are the same for
//! any number of threads; at most two batches a thread wait in memory. Refuses to own what a sample looks like.

use std::sync::mpsc::{Receiver, sync_channel};

use rand::seq::SliceRandom as _;

use crate::{
    assigner::Truth,
    augment::{Augment, InEpoch, Source, View, augmented, random},
};

/// Batches that a thread makes ahead.
const AHEAD: usize = 1;

/// What random numbers are for, so that one use does not shift another.
#[derive(Clone, Copy)]
enum Purpose {
    View = 0,
    Order = 1,
}

/// Input of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[count, side, side, 3]`, RGB, 0..=1.
    pub pixels: Vec<f32>,
    /// The objects of each picture.
    pub truths: Vec<Vec<Truth>>,
}

/// What an epoch is made of.
pub struct Epoch<'a> {
    /// The pictures.
    pub source: &'a dyn Source,
    /// Side of the network's input.
    pub size: u32,
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

    /// Samples as they look in this epoch.
    pub fn views(&self, samples: &[usize]) -> Vec<View> {
        let source = InEpoch { source: self.source, epoch: self.number };
        let view = |&i: &usize| {
            let mut rng = random(self.seed, self.number as u64, i as u64, Purpose::View as u64);
            augmented(&source, i, self.size, self.augment, self.mosaic, &mut rng)
        };
        samples.iter().map(view).collect()
    }

    /// Makes the batches on `workers` threads and gives them to `work` in order; stops at its first error.
    pub fn run<E>(&self, workers: usize, mut work: impl FnMut(usize, Batch) -> Result<(), E>) -> Result<(), E> {
        let order = self.order();
        let batches: Vec<&[usize]> = order.chunks(self.batch).collect();
        let workers = workers.clamp(1, batches.len().max(1));
        std::thread::scope(|scope| {
            let queues: Vec<Receiver<Batch>> = (0..workers)
                .map(|first| {
                    let (send, receive) = sync_channel(AHEAD);
                    let batches = &batches;
                    scope.spawn(move || {
                        for samples in batches.iter().skip(first).step_by(workers) {
                            // The other side goes away when the work was stopped.
                            if send.send(Batch::new(self.views(samples))).is_err() {
                                return;
                            }
                        }
                    });
                    receive
                })
                .collect();
            for i in 0..batches.len() {
                // A worker that is gone before its last batch has panicked; the scope passes that on.
                let Ok(batch) = queues[i % workers].recv() else { return Ok(()) };
                work(i, batch)?;
            }
            Ok(())
        })
    }
}

impl Batch {
    /// Pictures of one size, as numbers.
    pub fn new(views: Vec<View>) -> Self {
        let mut pixels = Vec::with_capacity(views.iter().map(|v| v.rgb.as_raw().len()).sum());
        let mut truths = Vec::with_capacity(views.len());
        for view in views {
            pixels.extend(view.rgb.as_raw().iter().map(|&v| f32::from(v) / 255.0));
            truths.push(view.objects);
        }
        Self { pixels, truths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::tests::Blocks;

    fn collect(workers: usize, number: usize) -> Vec<Batch> {
        let source = Blocks((0..7).map(|i| (64, 64, [i, 5, i + 20, 30])).collect());
        let augment = Augment::default();
        let epoch = Epoch { source: &source, size: 64, batch: 2, augment: &augment, mosaic: true, seed: 4, number };
        let mut out = Vec::new();
        epoch
            .run(workers, |i, batch| {
                assert_eq!(i, out.len());
                out.push(batch);
                Ok::<(), ()>(())
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
        let epoch = Epoch { source: &source, size: 32, batch: 2, augment: &augment, mosaic: true, seed: 0, number: 0 };
        let result = epoch.run(2, |i, _| if i == 3 { Err("enough") } else { Ok(()) });
        assert_eq!(result, Err("enough"));
    }
}
