use std::{cell::Cell, rc::Rc};

use vision::yolov8::{Buffer, Error, Heads, Images, Mode, Native, Parameter, Size, Spec};

use super::*;
use crate::{
    augment::{Augment, tests::Blocks},
    optimizer::Choice,
    results::csv,
};

const CLASSES: usize = 6;

/// Stops after a number of batches.
struct StopAfter(Cell<usize>);

impl Observer for StopAfter {
    fn batch(&self, _: &Tick) -> Result<(), StageError> {
        self.0.set(self.0.get() - 1);
        if self.0.get() == 0 { Err(StageError::Cancelled) } else { Ok(()) }
    }
    fn epoch(&self, _: &Row) -> Result<(), StageError> {
        Ok(())
    }
    fn note(&self, _: Level, _: String) {}
}

/// A stand-in measure that depends on the weights alone.
struct WeightSum;

impl Measure for WeightSum {
    fn measure(&self, net: &mut dyn Backend) -> Result<Option<Measured>, StageError> {
        let sum: f64 = net.parameters().iter().flat_map(|p| p.data.iter()).map(|&v| f64::from(v)).sum();
        Ok(Some(Measured { map50_95: (sum * 1000.0).fract().abs(), ..Measured::default() }))
    }
}

fn source() -> Blocks {
    Blocks((0..6).map(|i| (64, 64, [2 + 3 * i, 5 + 4 * i, 30 + 4 * i, 34 + 4 * i])).collect())
}

fn run(dir: &Path, config: &Config, stop: usize) -> Result<Finished, TrainError> {
    let store = Store::open(dir.join("store")).unwrap();
    let scratch = dir.join("scratch");
    let spec = Spec { size: Size::N, classes: CLASSES };
    Job {
        config,
        source: &source(),
        measure: &WeightSum,
        network: &|| Ok(Box::new(Native::new(spec, config.seed)) as Box<dyn Backend>),
        store: &store,
        scratch: &scratch,
        workers: 2,
        class_weights: &[],
        available: &|| u64::MAX / 4,
    }
    .run(&StopAfter(Cell::new(stop)))
}

fn bytes(f: &Finished) -> (Vec<u8>, Vec<u8>, String, usize) {
    (f.best.to_bytes().unwrap(), f.last.to_bytes().unwrap(), csv(&f.rows), f.best_epoch)
}

fn config(optimizer: Choice) -> Config {
    // Accumulation leaves gradients over at the end of an epoch: 3 batches an epoch, steps of 1 to 2.
    Config {
        epochs: 4,
        imgsz: 64,
        batch: BatchSize::Of(2),
        nominal_batch: 4,
        optimizer,
        lr0: 0.002,
        warmup_min_batches: 4,
        warmup_epochs: 1.0,
        augment: Augment { close_mosaic: 1, ..Augment::default() },
        ..Config::default()
    }
}

#[test]
fn a_training_stopped_anywhere_ends_in_the_same_bytes() {
    // Within the first epoch, at an epoch's last batch, within the third; the last run goes through.
    for (optimizer, freeze, stops) in
        [(Choice::AdamW, 0, vec![2, 3, 6, 5]), (Choice::Sgd, 0, vec![5]), (Choice::AdamW, 10, vec![2, 4])]
    {
        let config = Config { freeze, ..config(optimizer) };
        let dir = tempfile::tempdir().unwrap();
        let whole = bytes(&run(dir.path(), &config, usize::MAX).unwrap());
        let dir = tempfile::tempdir().unwrap();
        for stop in stops {
            assert!(matches!(run(dir.path(), &config, stop), Err(TrainError::Stage(StageError::Cancelled))));
        }
        assert!(bytes(&run(dir.path(), &config, usize::MAX).unwrap()) == whole, "{optimizer:?}, {freeze} frozen");
    }
}

#[test]
fn a_damaged_checkpoint_costs_time_and_nothing_else() {
    let config = config(Choice::AdamW);
    let dir = tempfile::tempdir().unwrap();
    let whole = bytes(&run(dir.path(), &config, usize::MAX).unwrap());
    let path = dir.path().join("scratch").join(CHECKPOINT);
    let mut damaged = std::fs::read(&path).unwrap();
    damaged.truncate(1000);
    std::fs::write(&path, damaged).unwrap();
    assert!(bytes(&run(dir.path(), &config, usize::MAX).unwrap()) == whole);
    for entry in std::fs::read_dir(dir.path().join("scratch")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != CHECKPOINT {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert!(bytes(&run(dir.path(), &config, usize::MAX).unwrap()) == whole, "best weights made again");
}

#[test]
fn the_loss_falls_on_pictures_seen_again_and_again() {
    let config = Config {
        epochs: 12,
        warmup_epochs: 0.0,
        nominal_batch: 2,
        augment: Augment { mosaic: 0.0, scale: Some(0.0), translate: 0.0, ..Augment::default() },
        ..config(Choice::AdamW)
    };
    let dir = tempfile::tempdir().unwrap();
    let rows = run(dir.path(), &config, usize::MAX).unwrap().rows;
    let (first, last) = (rows[0].loss.total(), rows[11].loss.total());
    assert!(last < 0.6 * first, "{first} to {last}");
}

#[test]
fn a_loss_that_explodes_is_explained() {
    let config = Config { lr0: 1e9, warmup_epochs: 0.0, nominal_batch: 2, ..config(Choice::Sgd) };
    let dir = tempfile::tempdir().unwrap();
    let error = run(dir.path(), &config, usize::MAX).err().expect("no network survives that").to_string();
    assert!(error.contains("learning rate"), "{error}");
}

#[test]
fn patience_ends_a_training() {
    /// Finds nothing in three epochs, then always the same.
    struct Flat(Cell<usize>);
    impl Measure for Flat {
        fn measure(&self, _: &mut dyn Backend) -> Result<Option<Measured>, StageError> {
            self.0.set(self.0.get() + 1);
            let map50_95 = if self.0.get() <= 3 { 0.0 } else { 0.5 };
            Ok(Some(Measured { map50_95, ..Measured::default() }))
        }
    }
    let config = Config { epochs: 10, patience: 2, ..config(Choice::AdamW) };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let spec = Spec { size: Size::N, classes: CLASSES };
    let finished = Job {
        config: &config,
        source: &source(),
        measure: &Flat(Cell::new(0)),
        network: &|| Ok(Box::new(Native::new(spec, 0)) as Box<dyn Backend>),
        store: &store,
        scratch: &dir.path().join("scratch"),
        workers: 1,
        class_weights: &[],
        available: &|| u64::MAX / 4,
    }
    .run(&StopAfter(Cell::new(usize::MAX)))
    .unwrap();
    assert_eq!((finished.rows.len(), finished.best_epoch), (6, 4));
}

/// A back end that finds no memory for a large batch from some call on.
struct Tight {
    net: Native,
    calls: Rc<Cell<usize>>,
    from: usize,
}

impl Backend for Tight {
    fn spec(&self) -> Spec {
        self.net.spec()
    }
    fn forward(&mut self, images: Images<'_>, mode: Mode) -> Result<&Heads, Error> {
        if mode == Mode::Train {
            self.calls.set(self.calls.get() + 1);
            if self.calls.get() >= self.from && images.batch > 1 {
                return Err(Error::Memory { batch: images.batch, bytes: 1 << 40 });
            }
        }
        self.net.forward(images, mode)
    }
    fn heads(&self) -> &Heads {
        self.net.heads()
    }
    fn backward(&mut self, gradient: &Heads) -> Result<(), Error> {
        self.net.backward(gradient)
    }
    fn freeze(&mut self, modules: usize) {
        self.net.freeze(modules);
    }
    fn zero_gradients(&mut self) {
        self.net.zero_gradients();
    }
    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.net.parameters()
    }
    fn buffers(&mut self) -> Vec<Buffer<'_>> {
        self.net.buffers()
    }
    fn state(&self) -> State {
        self.net.state()
    }
    fn load(&mut self, state: &State) -> Result<(), StateError> {
        self.net.load(state)
    }
}

/// A run that is told of this much memory at each question, on a back end that fails as [`Tight`] does.
fn run_tight(
    dir: &Path,
    config: &Config,
    stop: usize,
    available: &dyn Fn() -> u64,
    from: usize,
) -> Result<Finished, TrainError> {
    let spec = Spec { size: Size::N, classes: CLASSES };
    let calls = Rc::new(Cell::new(0));
    let network = || {
        let net = Native::new(spec, config.seed);
        Ok(Box::new(Tight { net, calls: calls.clone(), from }) as Box<dyn Backend>)
    };
    Job {
        config,
        source: &source(),
        measure: &WeightSum,
        network: &network,
        store: &Store::open(dir.join("store")).unwrap(),
        scratch: &dir.join("scratch"),
        workers: 2,
        class_weights: &[],
        available,
    }
    .run(&StopAfter(Cell::new(stop)))
}

const PLENTY: u64 = u64::MAX / 4;

fn need(config: &Config, batch: usize) -> u64 {
    memory::training_bytes(config, Spec { size: Size::N, classes: CLASSES }, batch, 4)
}

fn batches(f: &Finished) -> Vec<usize> {
    f.rows.iter().map(|r| r.batch).collect()
}

#[test]
fn an_automatic_batch_fits_and_stays_over_a_restart() {
    let config = Config { batch: BatchSize::Auto, nominal_batch: 4, ..config(Choice::AdamW) };
    let (rich, poor) = (|| PLENTY, || need(&config, 1) + 2 * memory::LEAST_FREE);
    let dir = tempfile::tempdir().unwrap();
    let whole = run_tight(dir.path(), &config, usize::MAX, &rich, usize::MAX).unwrap();
    assert_eq!(batches(&whole), [4; 4]);
    assert!(whole.notes[0].contains("auto settled to 4 pictures"), "{:?}", whole.notes);
    let dir = tempfile::tempdir().unwrap();
    let stopped = run_tight(dir.path(), &config, 1, &rich, usize::MAX);
    assert!(matches!(stopped, Err(TrainError::Stage(StageError::Cancelled))));
    let resumed = run_tight(dir.path(), &config, usize::MAX, &poor, usize::MAX).unwrap();
    assert!(bytes(&resumed) == bytes(&whole) && resumed.notes == whole.notes);
    let dir = tempfile::tempdir().unwrap();
    // Just enough for 2 pictures at the first question, by share and by what has to stay.
    let asked = Cell::new(0);
    let least = ((need(&config, 2) as f64 / memory::AUTO_SHARE) as u64).max(need(&config, 2) + memory::LEAST_FREE);
    let small = || {
        asked.set(asked.get() + 1);
        if asked.get() == 1 { least + (1 << 10) } else { PLENTY }
    };
    let first = run_tight(dir.path(), &config, usize::MAX, &small, usize::MAX).unwrap();
    assert_eq!(batches(&first), [2; 4]);
}

#[test]
fn a_batch_is_halved_when_memory_gets_short_and_a_restart_changes_nothing() {
    let config = Config { batch: BatchSize::Of(4), nominal_batch: 4, ..config(Choice::AdamW) };
    // For 2 pictures, beside what is held for 4.
    let little = memory::LEAST_FREE + need(&config, 2) - need(&config, 4);
    let short_from = |question: usize| {
        let asked = Cell::new(0);
        move || {
            asked.set(asked.get() + 1);
            if asked.get() == question { little } else { PLENTY }
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let whole = run_tight(dir.path(), &config, usize::MAX, &short_from(3), usize::MAX).unwrap();
    // What the first epochs hold is enough for a batch of 2 with what has to stay available, not for 4.
    assert_eq!(batches(&whole), [4, 4, 2, 2]);
    assert!(whole.notes[0].contains("halved from 4 to 2 pictures before epoch 3"), "{:?}", whole.notes);
    let dir = tempfile::tempdir().unwrap();
    assert!(run_tight(dir.path(), &config, 6, &short_from(3), usize::MAX).is_err());
    let resumed = run_tight(dir.path(), &config, usize::MAX, &|| PLENTY, usize::MAX).unwrap();
    assert!(bytes(&resumed) == bytes(&whole) && resumed.notes == whole.notes);
}

#[test]
fn an_epoch_for_which_memory_fails_starts_again_with_half_the_batch() {
    let config = Config { batch: BatchSize::Of(2), nominal_batch: 4, ..config(Choice::Sgd) };
    // At the very start, and in the second batch of the second epoch: what its first batch taught is undone.
    for (call, epoch, expected) in [(1, 1, [1, 1, 1, 1]), (5, 2, [2, 1, 1, 1])] {
        let dir = tempfile::tempdir().unwrap();
        let failed = run_tight(dir.path(), &config, usize::MAX, &|| PLENTY, call).unwrap();
        assert_eq!(batches(&failed), expected);
        assert!(failed.notes[0].contains("no memory for a batch of 2"), "{:?}", failed.notes);
        // The same as when it had been known before the epoch.
        let dir = tempfile::tempdir().unwrap();
        let asked = Cell::new(0);
        let held = if epoch == 2 { need(&config, 2) } else { 0 };
        let known = || {
            asked.set(asked.get() + 1);
            if asked.get() == epoch { need(&config, 1) + memory::LEAST_FREE - held } else { PLENTY }
        };
        let known = run_tight(dir.path(), &config, usize::MAX, &known, usize::MAX).unwrap();
        assert_eq!(batches(&known), expected);
        assert!(bytes(&failed) == bytes(&known));
    }
}

#[test]
fn a_batch_is_halved_as_often_as_needed_but_never_to_nothing() {
    let config = Config { batch: BatchSize::Of(3), nominal_batch: 4, ..config(Choice::Sgd) };
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(batches(&run_tight(dir.path(), &config, usize::MAX, &|| 0, usize::MAX).unwrap()), [1; 4]);
}

#[test]
fn a_budget_sets_the_number_of_epochs() {
    let config = Config { time_s: Some(100.0), epochs: 7, ..config(Choice::AdamW) };
    assert_eq!(planned(&config, 2, 20.0), 10);
    assert_eq!(planned(&config, 1, 60.0), 1);
    assert_eq!(planned(&config, 1, 150.0), 1);
    assert_eq!(planned(&config, 9, 99.9), 9);
    assert_eq!(planned(&Config { time_s: None, ..config.clone() }, 2, 20.0), 7);
    let dir = tempfile::tempdir().unwrap();
    let finished = run(dir.path(), &Config { time_s: Some(1e-3), ..config }, usize::MAX).unwrap();
    assert_eq!(finished.rows.len(), 1);
    assert!(finished.rows[0].measured.is_some() && finished.notes[0].contains("1 epochs"), "{:?}", finished.notes);
}

#[test]
fn sides_that_change_train_and_stay_the_same_over_a_restart() {
    let config = Config { multi_scale: true, epochs: 3, ..config(Choice::AdamW) };
    let dir = tempfile::tempdir().unwrap();
    let whole = bytes(&run(dir.path(), &config, usize::MAX).unwrap());
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), &config, 5).is_err());
    assert!(bytes(&run(dir.path(), &config, usize::MAX).unwrap()) == whole);
    let dir = tempfile::tempdir().unwrap();
    let plain = Config { multi_scale: false, ..config };
    assert!(bytes(&run(dir.path(), &plain, usize::MAX).unwrap()) != whole);
}

#[test]
fn a_smaller_batch_keeps_the_place_in_the_timetable() {
    let config = Config { batch: 8.into(), epochs: 10, warmup_min_batches: 1, ..Config::default() };
    let net = Native::new(Spec { size: Size::N, classes: 2 }, 0);
    // 13 batches of 8 an epoch; after two epochs, the last step having taken the 24th batch, two wait.
    let mut learner = Learner::new(Box::new(net), &config, 100);
    (learner.step, learner.last_update) = (26, Some(23));
    let before = learner.schedule.rates(2, learner.step);
    learner.change_batch(&config, 100, 4);
    assert_eq!((learner.schedule.batches, learner.step, learner.last_update), (25, 50, Some(45)));
    let after = learner.schedule.rates(2, learner.step);
    assert!((before.lr - after.lr).abs() < 1e-12 && (before.momentum - after.momentum).abs() < 1e-12);
    assert_eq!(learner.schedule.full_accumulation(), 16);
    learner.schedule.epochs = 4;
    learner.set_batch(&config, 100, 2);
    assert_eq!((learner.schedule.epochs, learner.step), (4, 50), "the budget's epochs and the counters stay");
}
