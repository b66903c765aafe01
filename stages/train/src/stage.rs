//! The `train` stage itself: reads pictures, labels and classes, trains, writes model and report.
//!
//! Owns the join of the parts of this crate with the engine. Refuses to own any of the parts.

use artifacts::{Annotations, IMAGES, Model, OntologyKind, Report, WEIGHTS};
use datasets::{
    AnnotationSet, ClassInfo,
    eval::{EvalSettings, Evaluation, evaluate},
    split::{Partition, Split, split},
};
use engine::{
    Blob, Context, Descriptor, DeviceUse, Facts, Level, Needs, Outcome, Port, Stage, StageError, artifact::Kind,
};
use report::number::counted;
use vision::{
    tiles::Cut,
    yolov8::{
        Backend, Native, Spec, State,
        engine::Engine,
        native::{Instructions, Precision},
    },
};

use crate::{
    augment::{Source as _, centred},
    config::{Config, Placement},
    dataset::{Cache, Keep, Views, settle_cut},
    intake::{Ignored, Intake, Labelled},
    loader::Epoch,
    loss::Gains,
    memory::{self, BatchSize, MEASURE_BATCH},
    outputs::{self, describe},
    pictures::{Sample, grid, truth_boxes},
    results::Row,
    start::{self, Start},
    trainer::{Finished, Job, Observer, Tick},
    validate::{HeldBack, to_input},
};

/// Boxes below this confidence are not drawn on sample pictures.
const SHOWN_CONF: f32 = 0.25;
/// Said when no drawing is held back.
pub const UNMEASURED: &str = "no drawing is held back, so nothing is measured and the last epoch counts as the best";
/// Ignored entries that are said one by one; the rest is counted, and all are in `ignored.json`.
const SAID: usize = 10;

/// Classes that are assumed before the ontology is read; they hardly change the memory.
const USUAL_CLASSES: usize = 80;
/// Name of the only class with `single_cls`.
const SINGLE: &str = "object";

/// Trains a detector.
pub struct Train;

struct Display<'a>(&'a Context);

impl Observer for Display<'_> {
    fn batch(&self, t: &Tick) -> Result<(), StageError> {
        let detail = format!(
            "epoch {}/{} box {:.2} cls {:.2} dfl {:.2}, {:.1} images/s",
            t.epoch + 1,
            t.epochs,
            t.loss.bbox,
            t.loss.cls,
            t.loss.dfl,
            t.images_per_s
        );
        self.0.progress((t.epoch * t.batches + t.batch) as u64, (t.epochs * t.batches) as u64, "batches", detail);
        self.0.check()
    }

    fn epoch(&self, row: &Row) -> Result<(), StageError> {
        let step = row.epoch as u64;
        for (name, value) in
            [("loss/box", row.loss.bbox), ("loss/cls", row.loss.cls), ("loss/dfl", row.loss.dfl), ("lr", row.lr)]
        {
            self.0.series(name, value, step);
        }
        if let Some(m) = &row.measured {
            for (name, value) in [
                ("mAP50", m.map50),
                ("mAP50-95", m.map50_95),
                ("precision", m.precision),
                ("recall", m.recall),
                ("COCO_AP", m.coco_ap),
            ] {
                self.0.series(name, value, step);
            }
            let text = format!("epoch {}: mAP50 {:.3}, mAP50-95 {:.3}", row.epoch, m.map50, m.map50_95);
            self.0.message(Level::Debug, text);
        }
        self.0.check()
    }

    fn note(&self, level: Level, text: String) {
        // Where a resumed training went on must not reach the result, which equals that of one that ran through.
        self.0.message(if level == Level::Info { Level::Debug } else { level }, text);
    }
}

/// Training and held-back drawings with their views.
struct Data {
    train: Vec<Labelled>,
    val: Vec<Labelled>,
    train_views: Views,
    val_views: Views,
    cut: Cut,
    ignored: Vec<Ignored>,
    notes: Vec<String>,
    /// Weight of each class in the loss; none for 1.
    class_weights: Vec<f32>,
}

impl Stage for Train {
    type Config = Config;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "train".into(),
            version: 4,
            about: "Trains a YOLOv8 detector on the reviewed labels.".into(),
            inputs: vec![
                Port::new("images", IMAGES),
                Port::new("annotations", Annotations::NAME),
                Port::new("ontology", OntologyKind::NAME),
                Port::optional(start::PORT, WEIGHTS),
            ],
            outputs: vec![Port::new("model", Model::NAME), Port::new("report", Report::NAME)],
            items: None,
        }
    }

    fn resolve(&self, mut config: Config, facts: &Facts) -> Result<(Config, Vec<String>), StageError> {
        config.check()?;
        let mut notes = Vec::new();
        notes.extend(start::settle(&mut config, facts.connected.iter().any(|port| port == start::PORT))?);
        if config.time_s.is_some() {
            notes.push("time_s: the result will depend on the speed of this machine; epochs do not".into());
        }
        if config.batch == BatchSize::Auto {
            notes.push("batch: auto: the result will depend on the memory of this machine; a number does not".into());
        }
        config.augment = config.augment.settled(config.model);
        // What runs is part of what the result depends on.
        let place = placement(&config)?;
        if place.engine != Engine::Native {
            notes.push(format!("backend {}: {}", place.engine.name(), place.why));
            notes.push("the last digits of the result will depend on the device and its library".into());
            if config.batch == BatchSize::Auto {
                notes.push("batch: auto: memory is predicted for the native engine".into());
            }
        }
        place.settle_config(&mut config);
        Ok((config, notes))
    }

    fn fingerprint(&self, config: &Config) -> serde_json::Value {
        match config.weights.as_deref() {
            Some(start::SYMBOLS_N) => start::symbols_n_digest().into(),
            _ => serde_json::Value::Null,
        }
    }

    fn needs(&self, config: &Config) -> Needs {
        // With `auto` the batch follows what there is.
        let spec = Spec { size: config.model.size(), classes: USUAL_CLASSES };
        let training = memory::training_bytes(config, spec, config.batch.or(1), 2);
        Needs {
            cores: 0,
            memory_bytes: training + ((config.cache_mb as u64) << 20) / 4 + (256 << 20),
            ..Needs::default()
        }
    }

    fn run(&self, config: &Config, ctx: &Context) -> Result<Outcome, StageError> {
        config.check()?;
        let ontology = ctx.read::<OntologyKind>("ontology")?.ontology;
        let classes: Vec<ClassInfo> = ontology
            .classes
            .iter()
            .map(|c| ClassInfo { name: c.name.clone(), category: c.category.clone(), color: c.color })
            .collect();
        if classes.is_empty() {
            return Err(StageError::input("the ontology has no classes", "add a template or a class"));
        }
        let set = ctx.read::<Annotations>("annotations")?;
        let data = prepare(config, ctx, &set, &classes)?;
        let classes =
            if config.single_cls { vec![ClassInfo { name: SINGLE.into(), ..classes[0].clone() }] } else { classes };
        let spec = Spec { size: config.model.size(), classes: classes.len() };
        let precision = config.precision.settled();
        let place = placement(config)?;
        if place.engine == Engine::Native
            && precision == Precision::Bf16
            && Instructions::chosen() < Instructions::Avx512Bf16
        {
            let text = "this processor has no instructions for bf16: `precision: f32` is faster here";
            ctx.message(Level::Warn, text.to_owned());
        }
        let names: Vec<String> = classes.iter().map(|c| c.name.clone()).collect();
        let start = Start::read(config, ctx, &names, || Native::new(spec, config.seed).state())?;
        let open = || {
            let new;
            let state = match &start {
                Some(start) => &start.state,
                None => {
                    new = Native::new(spec, config.seed).state();
                    &new
                }
            };
            let opened = place.engine.open(spec, state, place.device, precision);
            opened.map_err(|e| StageError::failed("making the network", e))
        };
        let used = open()?.place;
        let asked = format!("{:?}, {:?}", config.backend, config.device).to_lowercase();
        ctx.device(DeviceUse { asked, used: format!("{used}, {} threads", ctx.threads()), why: place.why.clone() });
        let network = || Ok(open()?.network as Box<dyn Backend>);
        let check = || ctx.check();
        let gains = Gains { classes: data.class_weights.clone(), ..config.gains() };
        let held_back = HeldBack {
            images: &data.val,
            views: &data.val_views,
            classes: &names,
            config,
            gains: &gains,
            check: &check,
        };
        let job = Job {
            config,
            source: &data.train_views,
            measure: &held_back,
            network: &network,
            store: ctx.store(),
            scratch: ctx.scratch()?,
            workers: (ctx.threads() / 4).max(1),
            class_weights: &data.class_weights,
            available: &memory::available,
        };
        let finished = job.run(&Display(ctx))?;
        write(config, ctx, &classes, spec, &data, &held_back, finished, start.as_ref())?;
        Ok(Outcome::Done)
    }
}

/// What will run the network.
fn placement(config: &Config) -> Result<Placement, StageError> {
    Placement::settle(config.backend, config.device, |engine| engine.proven_gpu().map_err(|e| e.to_string()))
}

/// Checks labels, splits, decodes and cuts.
fn prepare(config: &Config, ctx: &Context, set: &AnnotationSet, classes: &[ClassInfo]) -> Result<Data, StageError> {
    let names: Vec<String> = classes.iter().map(|c| c.name.clone()).collect();
    let Intake { images, mut ignored, rejected } =
        Intake::new(&ctx.manifest("images")?, set, &names, config.single_cls);
    let names = if config.single_cls { vec![SINGLE.to_owned()] } else { names };
    let mut notes = Vec::new();
    if rejected > 0 {
        notes.push(format!("{rejected} boxes rejected in review are left out"));
    }
    let partition = split(set, &config.split_settings());
    notes.push(division(&partition, config));
    if partition.count(Split::Val) > 0 {
        for (missing, from) in [(&partition.not_in_train, "training"), (&partition.not_in_val, "measuring")] {
            if !missing.is_empty() {
                notes.push(format!("no drawing for {from} has: {}", missing.join(", ")));
            }
        }
    }
    if let Some(first) = partition.copies.first() {
        let copies = counted(partition.copies.len(), "drawing for measuring is", "drawings for measuring are");
        let fix = "the model is measured too well; take them out of one part, or `split: draw`";
        ctx.message(Level::Warn, format!("{copies} trained on too, such as `{first}`: {fix}"));
    }
    let (cut, why) = settle_cut(config, &images);
    notes.push(match cut {
        Cut::Whole => format!("whole drawings: {why}"),
        Cut::Tiles { scale, overlap } => format!("tiles at scale {scale:.2}, overlap {overlap} pixels: {why}"),
    });
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for image in images {
        match partition.of(&image.blob.name) {
            Split::Train => train.push(image),
            Split::Val => val.push(image),
            Split::Test => {}
        }
    }
    if val.is_empty() {
        let why = match train.len() {
            1 => "there is one labelled drawing only: add drawings",
            _ if config.val_fraction == 0.0 => "train.val_fraction is 0",
            _ => "all drawings show the same: add others",
        };
        ctx.message(Level::Warn, format!("{UNMEASURED}: {why}, or give `inputs.truth` to be measured there"));
    }
    if train.iter().all(|i| i.objects.is_empty()) {
        say(ctx, &ignored);
        return Err(StageError::input(
            format!("there is nothing to train on: {} drawings without a single usable label", train.len()),
            "look at the label stage's report, lower its thresholds or import labels",
        ));
    }
    let read = |blob: &Blob| ctx.bytes(blob);
    let total = (train.len() + val.len()) as u64;
    let scratch = ctx.scratch()?;
    let build = |images: &[Labelled], file: &str, before: usize| {
        let file = (config.cache == Cache::Disk).then(|| scratch.join(file));
        let keep = Keep { bytes: config.cache_mb << 20, file: file.as_deref() };
        Views::build(images, cut, config.imgsz, keep, &read, |done| {
            ctx.progress((before + done) as u64, total, "images", "reading drawings");
            ctx.check()
        })
    };
    let (train_views, bad) = build(&train, "train.rgb", 0)?;
    ignored.extend(bad);
    let (val_views, bad) = build(&val, "val.rgb", train.len())?;
    // Truth of a drawing that cannot be read must not count as missed.
    let val: Vec<Labelled> = val
        .into_iter()
        .map(|i| if bad.iter().any(|b| b.image == i.blob.name) { Labelled { objects: Vec::new(), ..i } } else { i })
        .collect();
    ignored.extend(bad);
    ignored.sort();
    say(ctx, &ignored);
    if train_views.count() == 0 {
        return Err(StageError::input(
            "no training drawing can be read",
            "the warnings above name each with its reason",
        ));
    }
    let settled = config.settled(train_views.count(), names.len());
    notes.push(format!("precision {}", config.precision.settled().name()));
    notes.push(format!("optimizer {:?}, lr {}, momentum {}", settled.choice, settled.lr0, settled.momentum));
    let class_weights = match &config.class_weights {
        None => Vec::new(),
        Some(weights) => {
            let mut objects = vec![0; names.len()];
            train.iter().flat_map(|i| &i.objects).for_each(|o| objects[o.class] += 1);
            let weights = weights.settled(&names, &objects)?;
            let list: Vec<String> = names.iter().zip(&weights).map(|(n, w)| format!("{n} {w:.3}")).collect();
            notes.push(format!("class weights: {}", list.join(", ")));
            weights
        }
    };
    for note in &notes {
        ctx.message(Level::Info, note.as_str());
    }
    Ok(Data { train, val, train_views, val_views, cut, ignored, notes, class_weights })
}

/// Which drawings train and which measure, in words.
fn division(partition: &Partition, config: &Config) -> String {
    let [train, val, test] = Split::ALL.map(|part| partition.count(part));
    let by = if partition.own {
        "as the data set's files divide them".to_owned()
    } else {
        format!("drawn with val_fraction {} and seed {}", config.val_fraction, config.seed)
    };
    let left_out = if test > 0 { format!(", {test} for testing left out") } else { String::new() };
    format!("{train} drawings for training and {val} for measuring, {by}{left_out}")
}

fn say(ctx: &Context, ignored: &[Ignored]) {
    for i in ignored.iter().take(SAID) {
        let label = i.label.map_or_else(String::new, |n| format!(", label {n}"));
        ctx.message(Level::Warn, format!("not trained on: {}{label}: {}", i.image, i.reason));
    }
    if ignored.len() > SAID {
        ctx.message(Level::Warn, format!("{} more are not trained on; all are in ignored.json", ignored.len() - SAID));
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that a training leaves comes together here")]
fn write(
    config: &Config,
    ctx: &Context,
    classes: &[ClassInfo],
    spec: Spec,
    data: &Data,
    held_back: &HeldBack,
    finished: Finished,
    start: Option<&Start>,
) -> Result<(), StageError> {
    let Finished { rows, mut best, mut last, best_epoch, notes } = finished;
    for note in &notes {
        ctx.message(Level::Info, note.as_str());
    }
    let notes: Vec<String> = data.notes.iter().cloned().chain(notes).collect();
    let mut samples = vec![("train_batch0.jpg", train_sample(config, data, classes)?)];
    let evaluation = if data.val.is_empty() {
        None
    } else {
        let (evaluation, truth, found) = evaluate_best(config, classes, spec, &best, held_back)?;
        samples.push(("val_batch0_labels.jpg", truth));
        samples.push(("val_batch0_pred.jpg", found));
        Some(evaluation)
    };
    // The usual size at which the network saw drawings: the median over the training pictures.
    let mut scales: Vec<f64> = data.train_views.plans.iter().map(|p| p.scale().0).collect();
    scales.sort_by(f64::total_cmp);
    let how = (data.cut, scales[scales.len() / 2]);
    describe(&mut best, config, spec, classes, how, best_epoch);
    describe(&mut last, config, spec, classes, how, rows.len());
    if let Some(start) = start {
        start.describe(&mut best);
        start.describe(&mut last);
    }
    if let Some(e) = &evaluation {
        let metrics =
            [("mAP50", e.curves.map50), ("mAP50-95", e.curves.map), ("COCO_AP", e.coco.ap), ("COCO_AP50", e.coco.ap50)];
        for (name, value) in metrics {
            ctx.metric(name, value.unwrap_or(0.0));
        }
        ctx.metric("precision", e.curves.precision.unwrap_or(0.0));
        ctx.metric("recall", e.curves.recall.unwrap_or(0.0));
    }
    ctx.metric("epochs", rows.len() as f64);
    let objects = data.train.iter().map(|i| i.objects.len()).sum();
    let outcome = outputs::Outcome {
        config,
        notes: &notes,
        spec,
        classes,
        cut: data.cut,
        rows: &rows,
        best_epoch,
        start,
        evaluation: evaluation.as_ref(),
        ignored: &data.ignored,
        counts: [data.train.len(), data.train_views.count(), objects, data.val.len()],
        samples,
    };
    ctx.write::<Model>("model", &outcome.files(&best, &last)?)?;
    ctx.write::<Report>("report", &[("section.json".to_owned(), outcome.section().to_json())].into())?;
    Ok(())
}

fn train_sample(config: &Config, data: &Data, classes: &[ClassInfo]) -> Result<Sample, StageError> {
    let augment = config.augment.settled(config.model);
    let batch = config.batch.or(MEASURE_BATCH);
    let epoch = Epoch {
        source: &data.train_views,
        size: config.imgsz,
        multi_scale: false,
        batch,
        augment: &augment,
        mosaic: config.augment.close_mosaic < config.epochs,
        seed: config.seed,
        number: 0,
    };
    let order = epoch.order();
    let views = epoch.views(&order[..batch.min(MEASURE_BATCH).min(order.len())])?;
    let marked: Vec<_> =
        views.into_iter().map(|v| (truth_boxes(&v.objects, classes), v)).map(|(m, v)| (v, m)).collect();
    grid("first training batch", &marked, config.imgsz, classes)
}

/// The best weights measured, with pictures of the first views: labels, and what is found.
fn evaluate_best(
    config: &Config,
    classes: &[ClassInfo],
    spec: Spec,
    best: &State,
    held_back: &HeldBack,
) -> Result<(Evaluation, Sample, Sample), StageError> {
    let mut net = Native::from_state(spec, best).map_err(|e| StageError::failed("loading the best weights", e))?;
    let predictions = held_back.predict(&mut net)?;
    let evaluation = evaluate(&held_back.compared(&predictions.found), &EvalSettings::default());
    let shown = 0..held_back.views.count().min(config.batch.or(MEASURE_BATCH)).min(MEASURE_BATCH);
    let mut truth = Vec::new();
    let mut found = Vec::new();
    for i in shown {
        let (image, tile) = held_back.views.places[i];
        let plan = &held_back.views.plans[image];
        let view = centred(held_back.views.view(i)?, config.imgsz);
        let boxes = predictions.found[image]
            .iter()
            .filter(|c| c.score >= SHOWN_CONF)
            .filter_map(|c| {
                let b = to_input(plan, &plan.tiles[tile], &c.bbox)?;
                let class = &classes[c.class];
                Some((class.name.as_str(), b))
            })
            .collect();
        truth.push((view.clone(), truth_boxes(&view.objects, classes)));
        found.push((view, boxes));
    }
    let truth = grid("held back: labels", &truth, config.imgsz, classes)?;
    let found = grid("held back: found", &found, config.imgsz, classes)?;
    Ok((evaluation, truth, found))
}
