//! The loop over epochs: learn, measure, keep the best, write a checkpoint; or go on from one.
//!
//! Owns the order of these, early stopping, the time budget and the way back to smaller batches. A training that is
//! stopped at any instant and started again ends in the same bytes as one that ran through. Refuses to own data, metrics and the step itself.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use engine::{Level, StageError, Store};
use vision::yolov8::{Backend, State, StateError};

use crate::{
    augment::Source,
    checkpoint::{self, Best, CheckpointError, Position},
    config::Config,
    learner::{Learner, set_arrays},
    loader::Epoch,
    loss::LossTerms,
    memory::{self, BatchSize},
    results::{Measured, Row},
};

const CHECKPOINT: &str = "checkpoint.safetensors";

/// Why a training ended early.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum TrainError {
    #[error("the network could not run")]
    Network(#[from] vision::yolov8::Error),
    #[error("the weights could not be written or read")]
    State(#[from] StateError),
    #[error("the checkpoint could not be written or read")]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "the loss is no longer a number (epoch {epoch}, batch {batch}, box {}, class {}, dfl {}): the learning rate {lr:.6} is too \
         high for this data; set `optimizer: adamw` and a smaller `lr0`",
        terms.bbox, terms.cls, terms.dfl
    )]
    Diverged { epoch: usize, batch: usize, lr: f64, terms: LossTerms },
    #[error(transparent)]
    Stage(#[from] StageError),
}

impl From<TrainError> for StageError {
    fn from(e: TrainError) -> Self {
        match e {
            TrainError::Stage(e) => e,
            e @ TrainError::Diverged { .. } => Self::message(e.to_string()),
            TrainError::Checkpoint(CheckpointError::Store(e)) => Self::Store(e),
            e => Self::failed("training stopped", e),
        }
    }
}

/// What happened at a batch; for display only.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Epochs in all, as far as is known.
    pub epochs: usize,
    /// Batches done in this epoch.
    pub batch: usize,
    /// Batches an epoch.
    pub batches: usize,
    /// Mean loss of the epoch so far.
    pub loss: LossTerms,
    /// Pictures a second since this program took the training up.
    pub images_per_s: f64,
}

/// Sees the training happen; its errors stop it at a safe point.
pub trait Observer {
    /// After every batch.
    fn batch(&self, tick: &Tick) -> Result<(), StageError>;
    /// After every epoch, once its checkpoint is written.
    fn epoch(&self, row: &Row) -> Result<(), StageError>;
    /// Something to say.
    fn note(&self, level: Level, text: String);
}

/// Measures a network on the drawings held back.
pub trait Measure {
    /// The metrics of `net`; `None` when nothing is held back.
    fn measure(&self, net: &mut dyn Backend) -> Result<Option<Measured>, StageError>;
}

/// A training to be done.
pub struct Job<'a> {
    /// Settings.
    pub config: &'a Config,
    /// The training pictures.
    pub source: &'a dyn Source,
    /// The measure.
    pub measure: &'a dyn Measure,
    /// Makes the network in its initial state.
    pub network: &'a dyn Fn() -> Result<Box<dyn Backend>, StageError>,
    /// Writes files durably.
    pub store: &'a Store,
    /// Folder of the checkpoints, for this training alone.
    pub scratch: &'a Path,
    /// Threads that make batches.
    pub workers: usize,
    /// Weight of each class in the class loss; none for 1.
    pub class_weights: &'a [f32],
    /// Bytes of memory that are available now.
    pub available: &'a dyn Fn() -> u64,
}

/// A finished training.
pub struct Finished {
    /// One row an epoch.
    pub rows: Vec<Row>,
    /// Averaged weights of the best epoch.
    pub best: State,
    /// Averaged weights of the last epoch.
    pub last: State,
    /// Number of the best epoch, from 1.
    pub best_epoch: usize,
    /// What the machine made of the settings: batches and epochs that were not given.
    pub notes: Vec<String>,
}

/// What this process has done of a training; for display and decisions about memory.
struct Stint {
    start: Instant,
    /// Pictures learned from.
    seen: usize,
    /// Waited for pictures.
    waited: Duration,
    /// Bytes that the network is predicted to hold by now.
    held: u64,
}

impl Job<'_> {
    /// Trains to the end, from a checkpoint if there is one.
    pub fn run(&self, observer: &dyn Observer) -> Result<Finished, TrainError> {
        let mut stint = Stint { start: Instant::now(), seen: 0, waited: Duration::ZERO, held: 0 };
        let (mut learner, mut position) = self.begin(observer)?;
        let mut averaged = (self.network)()?;
        let before = position.seconds;
        while !self.over(&position, observer) {
            self.make_room(&mut learner, &mut position, &mut stint, observer)?;
            let loss = match self.epoch(&mut learner, &position, &mut stint, observer) {
                Err(TrainError::Network(e @ vision::yolov8::Error::Memory { .. })) if position.batch > 1 => {
                    // What the failed epoch changed goes; its beginning is on disk, or is the start of all.
                    drop(learner);
                    (learner, position) = self.begin(observer)?;
                    self.halve(&mut learner, &mut position, &e.to_string(), observer)?;
                    continue;
                }
                loss => loss?,
            };
            learner.end_epoch();
            let spent = || before + stint.start.elapsed().as_secs_f64();
            let last = position.epochs + 1 >= planned(self.config, position.epochs + 1, spent());
            let row = self.measured(&mut learner, averaged.as_mut(), &mut position, loss, last)?;
            position.seconds = spent();
            position.planned = planned(self.config, position.epochs, position.seconds);
            self.save(&mut learner, &position)?;
            self.forget_all_but(position.best);
            observer.epoch(&row)?;
        }
        let whole = stint.start.elapsed().as_secs_f64();
        if stint.seen > 0 {
            let share = 100.0 * stint.waited.as_secs_f64() / whole;
            observer.note(Level::Info, format!("training waited for pictures {share:.1} % of {whole:.0} s"));
        }
        set_arrays(averaged.as_mut(), &learner.ema.values);
        let last = averaged.state();
        let (best, best_epoch) = match position.best {
            Some(best) => (State::open(&self.best_path(best.epoch))?, best.epoch + 1),
            None => (last.clone(), position.epochs),
        };
        let mut notes = position.notes;
        if self.config.time_s.is_some() {
            notes.push(format!("the time budget allowed {} epochs on this machine", position.epochs));
        }
        Ok(Finished { rows: position.rows, best, last, best_epoch, notes })
    }

    /// The learner and its place: from the checkpoint, or at the start with the batch settled.
    fn begin(&self, observer: &dyn Observer) -> Result<(Learner, Position), TrainError> {
        let samples = self.source.count();
        let mut learner = Learner::new((self.network)()?, self.config, samples);
        let mut position = self.resume(&mut learner, observer)?;
        learner.weigh_classes(self.class_weights);
        if position.batch > 0 {
            learner.set_batch(self.config, samples, position.batch);
            return Ok((learner, position));
        }
        position.planned = self.config.epochs;
        position.batch = match self.config.batch {
            BatchSize::Of(n) => n,
            BatchSize::Auto => {
                let available = (self.available)();
                let share = (available as f64 * memory::AUTO_SHARE) as u64;
                let budget = share.min(available.saturating_sub(memory::LEAST_FREE));
                let batch = memory::fitting(self.config.nominal_batch, budget, |n| self.need(&learner, n));
                let text = format!(
                    "batch: auto settled to {batch} pictures: {} predicted, {} planned for ({:.0} % of what was available)",
                    memory::shown(self.need(&learner, batch)),
                    memory::shown(budget),
                    100.0 * memory::AUTO_SHARE
                );
                observer.note(Level::Info, text.clone());
                position.notes.push(text);
                batch
            }
        };
        learner.set_batch(self.config, samples, position.batch);
        if self.config.batch == BatchSize::Auto {
            // A second start may find other memory.
            self.save(&mut learner, &position)?;
        }
        Ok((learner, position))
    }

    /// Predicted bytes of a training with this batch.
    fn need(&self, learner: &Learner, batch: usize) -> u64 {
        memory::training_bytes(self.config, learner.net.spec(), batch, 2 * self.workers)
    }

    /// Halves the batch until the memory that it still has to get is there, with something left for others.
    fn make_room(
        &self,
        learner: &mut Learner,
        position: &mut Position,
        stint: &mut Stint,
        observer: &dyn Observer,
    ) -> Result<(), TrainError> {
        let room = (self.available)() + stint.held;
        while position.batch > 1 && self.need(learner, position.batch) + memory::LEAST_FREE > room {
            let need = memory::shown(self.need(learner, position.batch) + memory::LEAST_FREE);
            let why = format!("{need} needed, {} to be had", memory::shown(room));
            self.halve(learner, position, &why, observer)?;
        }
        stint.held = self.need(learner, position.batch);
        Ok(())
    }

    fn halve(
        &self,
        learner: &mut Learner,
        position: &mut Position,
        why: &str,
        observer: &dyn Observer,
    ) -> Result<(), TrainError> {
        let (old, new) = (position.batch, position.batch / 2);
        let text = format!(
            "batch halved from {old} to {new} pictures before epoch {}, steps still stand for {} pictures: {why}",
            position.epochs + 1,
            self.config.nominal_batch
        );
        observer.note(Level::Info, text.clone());
        position.notes.push(text);
        position.batch = new;
        learner.change_batch(self.config, self.source.count(), new);
        // Written at once: a training that is stopped in the coming epoch goes on with the same batch.
        self.save(learner, position)
    }

    fn save(&self, learner: &mut Learner, position: &Position) -> Result<(), TrainError> {
        let bytes = checkpoint::to_bytes(learner, position)?;
        Ok(checkpoint::write(self.store, &self.scratch.join(CHECKPOINT), &bytes)?)
    }

    fn best_path(&self, epoch: usize) -> std::path::PathBuf {
        self.scratch.join(format!("best-{epoch:05}.safetensors"))
    }

    fn resume(&self, learner: &mut Learner, observer: &dyn Observer) -> Result<Position, TrainError> {
        let path = self.scratch.join(CHECKPOINT);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Position::default()),
            Err(e) => return Err(StageError::failed(format!("reading checkpoint `{}`", path.display()), e).into()),
        };
        match checkpoint::restore(learner, &bytes) {
            Ok(position) if position.best.is_none_or(|b| self.best_path(b.epoch).is_file()) => {
                if position.epochs > 0 {
                    let text = format!("going on after epoch {} of {}", position.epochs, position.planned);
                    observer.note(Level::Info, text);
                }
                Ok(position)
            }
            Ok(_) => {
                observer.note(Level::Warn, "the weights of the best epoch are gone; training starts again".into());
                *learner = Learner::new((self.network)()?, self.config, self.source.count());
                Ok(Position::default())
            }
            Err(e) => {
                observer.note(Level::Warn, format!("the checkpoint is damaged ({e}); training starts again"));
                Ok(Position::default())
            }
        }
    }

    fn over(&self, position: &Position, observer: &dyn Observer) -> bool {
        if position.epochs >= position.planned {
            if self.config.time_s.is_some() {
                observer.note(Level::Info, format!("time is up after epoch {}", position.epochs));
            }
            return true;
        }
        let waited = position.best.map_or(0, |b| position.epochs - 1 - b.epoch);
        if self.config.patience > 0 && waited >= self.config.patience {
            let text = format!("no better for {waited} epochs: stopped after epoch {}", position.epochs);
            observer.note(Level::Info, text);
            return true;
        }
        false
    }

    /// One pass over the training pictures; the result is the mean loss.
    fn epoch(
        &self,
        learner: &mut Learner,
        position: &Position,
        stint: &mut Stint,
        observer: &dyn Observer,
    ) -> Result<LossTerms, TrainError> {
        let config = self.config;
        let number = position.epochs;
        learner.schedule.epochs = position.planned;
        let batches = learner.schedule.batches;
        let augment = config.augment.settled(config.model);
        let epoch = Epoch {
            source: self.source,
            size: config.imgsz,
            multi_scale: config.multi_scale,
            batch: position.batch,
            augment: &augment,
            mosaic: number + augment.close_mosaic < position.planned,
            seed: config.seed,
            number,
        };
        let mut sum = LossTerms::default();
        let waited = epoch.run(self.workers, |i, batch| {
            let terms = learner.learn(number, batch.images(), &batch.truths)?;
            if !terms.is_finite() {
                let lr = learner.schedule.rates(number, learner.step).lr;
                return Err(TrainError::Diverged { epoch: number + 1, batch: i + 1, lr, terms });
            }
            sum = LossTerms { bbox: sum.bbox + terms.bbox, cls: sum.cls + terms.cls, dfl: sum.dfl + terms.dfl };
            stint.seen += batch.truths.len();
            observer.batch(&Tick {
                epoch: number,
                epochs: position.planned,
                batch: i + 1,
                batches,
                loss: sum.scaled(1.0 / (i + 1) as f64),
                images_per_s: stint.seen as f64 / stint.start.elapsed().as_secs_f64(),
            })?;
            Ok(())
        })?;
        stint.waited += waited;
        Ok(sum.scaled(1.0 / batches as f64))
    }

    /// Ends an epoch: measures if it is due, keeps the weights if they are the best, adds the row.
    fn measured(
        &self,
        learner: &mut Learner,
        averaged: &mut dyn Backend,
        position: &mut Position,
        loss: LossTerms,
        last: bool,
    ) -> Result<Row, TrainError> {
        let epoch = position.epochs;
        let measured = if last || (epoch + 1).is_multiple_of(self.config.val_every) {
            set_arrays(averaged, &learner.ema.values);
            self.measure.measure(averaged)?
        } else {
            None
        };
        // While nothing is found yet, the latest is the best: patience begins with the first find.
        let better = |m: &Measured, b: Best| m.fitness() > b.fitness || b.fitness == 0.0;
        if let Some(m) = measured
            && position.best.is_none_or(|b| better(&m, b))
        {
            checkpoint::write(self.store, &self.best_path(epoch), &averaged.state().to_bytes()?)?;
            position.best = Some(Best { epoch, fitness: m.fitness() });
        }
        let lr = learner.schedule.rates(epoch, learner.step.saturating_sub(1)).lr;
        let row = Row { epoch: epoch + 1, batch: position.batch, lr, loss, measured };
        position.rows.push(row);
        position.epochs += 1;
        Ok(row)
    }

    /// Removes weights that the checkpoint no longer names.
    fn forget_all_but(&self, best: Option<Best>) {
        let keep = best.map(|b| self.best_path(b.epoch));
        let Ok(entries) = std::fs::read_dir(self.scratch) else { return };
        for path in entries.filter_map(|e| Some(e.ok()?.path())) {
            let old = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("best-"));
            if old && Some(&path) != keep.as_ref() {
                // A file that stays costs space only; the engine removes the folder when the stage is done.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

/// Epochs in all when `done` of them (1 or more) took `seconds`: as set, or what the rest of the budget allows at that
/// speed.
fn planned(config: &Config, done: usize, seconds: f64) -> usize {
    match config.time_s {
        None => config.epochs,
        Some(limit) => done + ((limit - seconds) * done as f64 / seconds.max(1e-9)).max(0.0) as usize,
    }
}

#[cfg(test)]
mod tests;
