//! The stage: one labeller over all images, an image at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use artifacts::{Annotations, Candidates, Exemplars, Files, IMAGES, Model, OntologyKind, Report};
use datasets::picture::{Limits, probe};
use datasets::{Annotation, AnnotationSet, ClassInfo, ImageAnnotations, Skipped};
use engine::artifact::Kind;
use engine::event::Level;
use engine::item::Results;
use engine::{
    Context, Descriptor, Facts, Item, ItemError, ItemIdentity, ItemOutcome, ItemStage, Needs, Outcome, Port, StageError,
};
use ontologies::Ontology;
use report::number::counted;
use serde::{Deserialize, Serialize};

use crate::imported;
use crate::labeller::{Job, LabelError, Labelled, Labeller, Parts, Undecoded, builder, choose, nearest};
use crate::section::{Told, section};
use crate::settings::{Choice, Settings};

/// Largest file that is read, bytes.
const MAX_BYTES: u64 = 2 << 30;

/// The label stage. Inputs `images` (the items), `ontology`, and, for the labellers that need them, `labels`
/// (annotations), `model` and `exemplars`; outputs `annotations`, `candidates` (what missed its threshold) and `report`.
pub struct Label;

/// What is made once for all images.
pub struct Worker {
    labeller: Box<dyn Labeller>,
    limits: Limits,
    done: AtomicU64,
}

/// What is kept for an image.
#[derive(Serialize, Deserialize)]
struct Kept {
    width: u32,
    height: u32,
    #[serde(flatten)]
    labelled: Labelled,
}

impl ItemStage for Label {
    type Config = Settings;
    type Worker = Worker;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "label".into(),
            version: 5,
            about: "Finds the ontology's symbols on every image.".into(),
            inputs: vec![
                Port::new("images", IMAGES),
                Port::new("ontology", OntologyKind::NAME),
                Port::optional("labels", Annotations::NAME),
                Port::optional("model", Model::NAME),
                Port::optional("exemplars", Exemplars::NAME),
            ],
            outputs: vec![
                Port::new("annotations", Annotations::NAME),
                Port::new("candidates", Candidates::NAME),
                Port::new("report", Report::NAME),
            ],
            items: Some("images".into()),
        }
    }

    fn resolve(&self, mut config: Settings, facts: &Facts) -> Result<(Settings, Vec<String>), StageError> {
        if let Some((key, message)) = config.fault() {
            return Err(StageError::Config { key, message });
        }
        let (choice, why) = choose(config.labeller, &facts.connected)?;
        config.labeller = choice;
        Ok((config, why.into_iter().collect()))
    }

    fn needs(&self, config: &Settings) -> Needs {
        // Two sheets at once. The matcher takes nine bytes a pixel up to 48 megapixels, and a byte a pixel and about 150
        // MB beyond: 430 MB at 20,000 x 14,000.
        let memory = if config.labeller == Choice::Imported { 256 << 20 } else { 1 << 30 };
        Needs { cores: 0, memory_bytes: memory, ..Needs::default() }
    }

    fn identity(&self, config: &Settings) -> ItemIdentity {
        match config.labeller {
            Choice::Imported => ItemIdentity::NameAndContent,
            _ => ItemIdentity::Content,
        }
    }

    fn items_at_once(&self, _config: &Settings) -> usize {
        // Labellers are parallel inside an image too; more at once would only cost memory.
        2
    }

    fn prepare(&self, config: &Settings, ctx: &Context) -> Result<Worker, StageError> {
        let ontology = ctx.read::<OntologyKind>("ontology")?;
        check_names(config, &ontology.ontology)?;
        let missing =
            || StageError::Config { key: "labeller".into(), message: builder(config.labeller).why_not.into() };
        let build = builder(config.labeller).build.ok_or_else(missing)?;
        let labeller = build(&Parts { settings: config, ontology: &ontology, ctx })?;
        ctx.device(labeller.device());
        for note in labeller.notes() {
            ctx.message(Level::Warn, note);
        }
        let limits = Limits { max_pixels: config.max_pixels, max_bytes: MAX_BYTES };
        Ok(Worker { labeller, limits, done: AtomicU64::new(0) })
    }

    fn item(&self, worker: &Worker, _config: &Settings, item: &Item, ctx: &Context) -> Result<Vec<u8>, ItemError> {
        let start = Instant::now();
        let bytes = ctx.bytes(&item.blob)?;
        let info = probe(&bytes).map_err(|e| ItemError::Quarantine(e.to_string()))?;
        ctx.check()?;
        let digest = item.blob.digest.to_string();
        let job =
            Job { name: &item.blob.name, digest: &digest, info, picture: Undecoded { bytes, limits: &worker.limits } };
        let labelled = worker.labeller.label(job).map_err(|e| match e {
            LabelError::Picture(e) => ItemError::Quarantine(e.to_string()),
            LabelError::Image(reason) => ItemError::Quarantine(reason),
            LabelError::Labeller(source) => {
                let message = format!("labelling `{}` with {}", item.blob.name, worker.labeller.name());
                ItemError::Stage(StageError::Failed { message, source: Some(source) })
            }
        })?;
        let kept = Kept { width: info.width, height: info.height, labelled };
        let step = worker.done.fetch_add(1, Ordering::Relaxed);
        ctx.series("seconds_per_image", start.elapsed().as_secs_f64(), step);
        Ok(serde_json::to_vec(&kept).expect("plain data serialises"))
    }

    fn finish(&self, config: &Settings, results: &Results<'_>, ctx: &Context) -> Result<Outcome, StageError> {
        let ontology = ctx.read::<OntologyKind>("ontology")?;
        let class =
            |c: &ontologies::Class| ClassInfo { name: c.name.clone(), category: c.category.clone(), color: c.color };
        let classes = ontology.ontology.classes.iter().map(class).collect();
        let mut set = AnnotationSet { classes, ..AnnotationSet::default() };
        let mut candidates = set.clone();
        let mut remarks: BTreeMap<String, u64> = BTreeMap::new();
        let mut unknown = Vec::new();
        for result in results.iter() {
            let (item, outcome) = result?;
            let image = item.blob.name.clone();
            match outcome {
                ItemOutcome::Quarantined(reason) => set.skipped.push(Skipped { image, reason }),
                ItemOutcome::Done(bytes) => {
                    let kept: Kept = serde_json::from_slice(&bytes)
                        .map_err(|e| StageError::failed(format!("reading the kept labels of `{image}`"), e))?;
                    for (text, n) in kept.labelled.remarks {
                        *remarks.entry(text).or_default() += n;
                    }
                    if let Some(reason) = kept.labelled.unknown {
                        unknown.push(image.clone());
                        set.skipped.push(Skipped { image, reason });
                        continue;
                    }
                    let (width, height, digest) = (kept.width, kept.height, item.blob.digest.to_string());
                    let of_image = |annotations| ImageAnnotations {
                        image: image.clone(),
                        digest: digest.clone(),
                        width,
                        height,
                        split: None,
                        annotations,
                    };
                    if !kept.labelled.candidates.is_empty() {
                        candidates.images.push(of_image(kept.labelled.candidates));
                    }
                    set.images.push(of_image(kept.labelled.annotations));
                }
            }
        }
        for images in [&mut set.images, &mut candidates.images] {
            images.sort_by(|a, b| a.image.cmp(&b.image));
        }
        let mut words: Vec<String> = remarks.into_iter().map(|(text, n)| format!("{text} ({n})")).collect();
        if config.labeller == Choice::Imported {
            words.extend(imported::settle(&mut set, &ctx.read::<Annotations>("labels")?));
        }
        unknown.sort();
        words.extend(left_out(&unknown));
        set.skipped.sort();
        if set.images.is_empty() {
            return Err(nothing_left(&set.skipped));
        }
        for w in &words {
            ctx.message(Level::Warn, w);
        }
        tell(&set, config.labeller, ctx);
        let told = Told { set: &set, settings: config, ontology: &ontology, words: &words };
        let report = Files::from([("section.json".to_owned(), section(&told, ctx)?.to_json())]);
        ctx.write::<Report>("report", &report)?;
        ctx.metric("candidates", candidates.box_count() as f64);
        ctx.write::<Candidates>("candidates", &candidates)?;
        ctx.write::<Annotations>("annotations", &set)?;
        Ok(Outcome::Done)
    }
}

/// Refuses settings of classes that the ontology does not have.
fn check_names(config: &Settings, ontology: &Ontology) -> Result<(), StageError> {
    let thresholds = config.thresholds.classes.keys().map(|name| ("thresholds.classes", name));
    let mut named = thresholds.chain(config.classes.keys().map(|name| ("classes", name)));
    let Some((key, name)) = named.find(|(_, n)| ontology.class(n).is_none()) else { return Ok(()) };
    let near = nearest(ontology, name).map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
    let message = format!("the ontology has no class `{name}`{near}");
    Err(StageError::Config { key: key.into(), message })
}

/// Images that no label is known for, in words.
fn left_out(unknown: &[String]) -> Option<String> {
    let first = unknown.first()?;
    let n = counted(unknown.len(), "image that no label file names is", "images that no label file names are");
    Some(format!("{n} left out, such as `{first}`: label them, or give an empty label file where nothing is"))
}

fn nothing_left(skipped: &[Skipped]) -> StageError {
    match skipped.first() {
        None => StageError::input(
            "there are no images to label",
            "put drawings (jpg, png, tiff, bmp, webp) into the folder that `inputs.images` names",
        ),
        Some(s) => StageError::input(
            format!("none of the {} images can be used; the first is `{}`: {}", skipped.len(), s.image, s.reason),
            "replace the files that are named, or give labels with these file names",
        ),
    }
}

fn tell(set: &AnnotationSet, labeller: Choice, ctx: &Context) {
    let with_boxes = set.images.iter().filter(|i| !i.annotations.is_empty()).count();
    ctx.metric("images", set.images.len() as f64);
    ctx.metric("images_with_boxes", with_boxes as f64);
    ctx.metric("images_left_out", set.skipped.len() as f64);
    ctx.metric("boxes", set.box_count() as f64);
    let scores: Vec<f64> = all(set).filter_map(|a| a.score).map(datasets::Score::get).collect();
    if !scores.is_empty() {
        ctx.metric("mean_confidence", scores.iter().sum::<f64>() / scores.len() as f64);
    }
    if set.box_count() == 0 {
        ctx.message(Level::Warn, format!("not one box was found: {}", builder(labeller).no_boxes));
    }
}

fn all(set: &AnnotationSet) -> impl Iterator<Item = &Annotation> {
    set.images.iter().flat_map(|i| &i.annotations)
}
