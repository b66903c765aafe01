//! The stage: one detector over all pictures, a picture at a time.

use artifacts::{FILES, Files, IMAGES, Model, Predictions, Report};
use datasets::picture::{Limits, Picture, decode};
use datasets::{Annotation, AnnotationSet, BBox, ClassInfo, ImageAnnotations, Provenance, Score, Skipped};
use engine::artifact::Kind;
use engine::{
    Blob, Context, Descriptor, DeviceUse, Digest, Facts, Item, ItemError, ItemIdentity, ItemOutcome, ItemStage, Level,
    Needs, Outcome, Port, StageError,
};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use vision::detector::{DetectSettings, Detection, Detector, DetectorInfo, YoloV8};
use vision::tiles::{TilePlan, merge};

use crate::outputs::{self, Written};
use crate::section::{Told, section};
use crate::settings::{Settings, Weights};
use crate::truth;

/// Version of the stage's outputs.
const VERSION: u32 = 2;
/// Version of the way from pictures to boxes, in every box's provenance.
const BOXES_VERSION: u32 = 1;

/// The infer stage. Inputs `images` (the items), `model` and, to be measured, `truth` (a COCO file); outputs
/// `predictions` and `report`.
pub struct Infer;

/// The detector, made once for all pictures.
pub struct Worker {
    detector: Box<dyn Detector>,
    limits: Limits,
    /// Confidence down to which boxes are kept for AP; the common one without truth.
    lowest: f64,
}

/// A box as it is kept: class, confidence, left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Kept(usize, f64, f64, f64, f64, f64);

/// What is kept for a picture.
#[derive(Serialize, Deserialize)]
struct Looked {
    width: u32,
    height: u32,
    /// Inputs of the network that it took.
    tiles: usize,
    more_pages: bool,
    /// Boxes from the confidence on.
    found: Vec<Kept>,
    /// Boxes down to the confidence of AP, when truth is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    low: Option<Vec<Kept>>,
    /// The annotated picture in the store, and its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotated: Option<(Digest, u64)>,
}

/// Endings of weights files.
const WEIGHTS: [&str; 4] = [".safetensors", ".pt", ".pth", ".onnx"];

/// What loading the model gives: classes and what ran. Also made when every picture is there already.
fn load(config: &Settings, ctx: &Context) -> Result<YoloV8, StageError> {
    let model = ctx.open("model")?;
    let wanted = match config.weights {
        Weights::Best => "best.safetensors",
        Weights::Last => "last.safetensors",
    };
    // A model that training did not write has one file of weights, under a name of its own.
    let mut weights = model.manifest.blobs.iter().filter(|b| WEIGHTS.iter().any(|e| b.name.ends_with(e)));
    let only = match (weights.next(), weights.next()) {
        (Some(b), None) if !["best.safetensors", "last.safetensors"].contains(&b.name.as_str()) => Some(b),
        _ => None,
    };
    let blob = model.manifest.blob(wanted).or(only);
    let Some(blob) = blob else {
        let names: Vec<&str> = model.manifest.blobs.iter().map(|b| b.name.as_str()).collect();
        return Err(StageError::input(
            format!("the model has no `{wanted}`; it has {}", names.join(", ")),
            "train the model again, or name one file of weights (.safetensors, .pt or .onnx)",
        ));
    };
    YoloV8::from_bytes(&ctx.bytes(blob)?, blob.digest.to_string())
        .map_err(|e| StageError::failed(format!("loading `{}` of the model", blob.name), e))
}

impl ItemStage for Infer {
    type Config = Settings;
    type Worker = Worker;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "infer".into(),
            version: VERSION,
            about: "Finds the trained classes on every image, and measures the result where there is truth.".into(),
            inputs: vec![
                Port::new("images", IMAGES),
                Port::new("model", Model::NAME),
                Port::optional("truth", FILES).only_at_finish(),
            ],
            outputs: vec![Port::new("predictions", Predictions::NAME), Port::new("report", Report::NAME)],
            items: Some("images".into()),
        }
    }

    fn resolve(&self, config: Settings, _facts: &Facts) -> Result<(Settings, Vec<String>), StageError> {
        match config.fault() {
            Some((key, message)) => Err(StageError::Config { key: key.into(), message }),
            None => Ok((config, Vec::new())),
        }
    }

    fn needs(&self, _config: &Settings) -> Needs {
        // The network takes about 200 MB at 640 pixels, a 7000 x 5000 drawing 105 MB.
        Needs { cores: 0, memory_bytes: 768 << 20, ..Needs::default() }
    }

    fn identity(&self, _config: &Settings) -> ItemIdentity {
        ItemIdentity::Content
    }

    fn items_at_once(&self, _config: &Settings) -> usize {
        // The network is parallel inside a picture, and there is one of it.
        1
    }

    fn prepare(&self, config: &Settings, ctx: &Context) -> Result<Worker, StageError> {
        let detector = load(config, ctx)?;
        ctx.device(device(detector.describe()));
        if let Some(licence) = &detector.describe().licence {
            ctx.message(
                Level::Warn,
                format!("the model is under {licence}: what you do with it is bound by that licence"),
            );
        }
        let limits = Limits { max_pixels: config.max_pixels, ..Limits::default() };
        let lowest = if ctx.has("truth") { config.eval_conf.min(config.conf) } else { config.conf };
        Ok(Worker { detector: Box::new(detector), limits, lowest })
    }

    fn item(&self, worker: &Worker, config: &Settings, item: &Item, ctx: &Context) -> Result<Vec<u8>, ItemError> {
        let bytes = ctx.bytes(&item.blob)?;
        let picture = decode(&bytes, &worker.limits).map_err(|e| ItemError::Quarantine(e.to_string()))?;
        drop(bytes);
        let mut looked = look(worker, config, &picture, ctx)?;
        if config.pictures {
            let classes = worker.detector.classes();
            let jpeg = outputs::annotated(picture.rgb, &boxes(&looked.found), classes, config.picture_side)
                .map_err(|e| StageError::failed(format!("drawing the boxes of `{}`", item.blob.name), e))?;
            looked.annotated = Some((ctx.store().put(&jpeg)?, jpeg.len() as u64));
        }
        Ok(serde_json::to_vec(&looked).expect("plain data serialises"))
    }

    fn finish(
        &self,
        config: &Settings,
        results: &engine::item::Results<'_>,
        ctx: &Context,
    ) -> Result<Outcome, StageError> {
        let model = load(config, ctx)?;
        let (classes, info) = (model.classes(), model.describe());
        let mut set = AnnotationSet { classes: classes.to_vec(), ..AnnotationSet::default() };
        let mut low = ctx.has("truth").then(|| set.clone());
        let (mut written, mut tiles, mut pages) = (Written::new(results.len()), 0, Vec::new());
        for result in results.iter() {
            ctx.check()?;
            let (item, outcome) = result?;
            let image = item.blob.name.clone();
            let bytes = match outcome {
                ItemOutcome::Quarantined(reason) => {
                    set.skipped.push(Skipped { image, reason });
                    continue;
                }
                ItemOutcome::Done(bytes) => bytes,
            };
            let looked: Looked = serde_json::from_slice(&bytes)
                .map_err(|e| StageError::failed(format!("reading the kept boxes of `{image}`"), e))?;
            tiles += looked.tiles;
            if looked.more_pages {
                pages.push(image.clone());
            }
            if let Some((digest, size)) = looked.annotated {
                // A sweep of the store may have taken it: it belonged to no artifact yet.
                let (digest, size) = if ctx.store().has(digest) {
                    (digest, size)
                } else {
                    redrawn(config, item, &looked, classes, ctx)?
                };
                written.pictures.push((image.clone(), Blob { name: String::new(), digest, size }));
            }
            let of = |kept: &[Kept], conf| ImageAnnotations {
                image: image.clone(),
                digest: item.blob.digest.to_string(),
                width: looked.width,
                height: looked.height,
                split: None,
                annotations: kept.iter().map(|k| annotation(k, classes, info, conf)).collect(),
            };
            if let (Some(low), Some(kept)) = (&mut low, &looked.low) {
                low.images.push(of(kept, config.eval_conf));
            }
            set.images.push(of(&looked.found, config.conf));
        }
        set.skipped.sort();
        if set.images.is_empty() {
            return Err(nothing_left(&set.skipped));
        }
        for image in pages {
            ctx.message(Level::Warn, format!("`{image}` has several pages, only the first was looked at: split it"));
        }
        let evaluation = low.map(|low| truth::measured(&low, config, ctx)).transpose()?;
        tell(&set, evaluation.as_ref(), tiles, ctx);
        let told = Told { set: &set, settings: config, info, evaluation: evaluation.as_ref(), tiles };
        let report = Files::from([("section.json".to_owned(), section(&told, ctx)?.to_json())]);
        ctx.write::<Report>("report", &report)?;
        written.write(&set, evaluation.as_ref(), ctx)?;
        Ok(Outcome::Done)
    }
}

fn device(info: &DetectorInfo) -> DeviceUse {
    DeviceUse {
        asked: "auto".into(),
        used: format!("{} ({})", info.device, info.provider),
        why: format!("{} runs on the native engine", info.network),
    }
}

/// Cuts, detects and puts together.
fn look(worker: &Worker, config: &Settings, picture: &Picture, ctx: &Context) -> Result<Looked, StageError> {
    let info = worker.detector.describe();
    let size = picture.rgb.dimensions();
    let plan = TilePlan::new(size, config.cut(info, size), info.input);
    let detect = DetectSettings { conf: worker.lowest, iou: config.iou, max_det: config.max_det };
    let mut found: Vec<Vec<Detection>> = Vec::with_capacity(plan.tiles.len());
    for tile in &plan.tiles {
        ctx.check()?;
        // One tile at a time: the drawing and one input of the network are all that is held.
        let input = [plan.render(&picture.rgb, tile)];
        let boxes = worker
            .detector
            .detect_batch(&input, &detect)
            .map_err(|e| StageError::failed("running the detector", e))?
            .swap_remove(0);
        let back = |d: Detection| {
            let BBox { x0, y0, x1, y1, .. } = d.bbox;
            Detection { bbox: plan.to_picture(tile, &BBox::new(x0, y0, x1, y1)), ..d }
        };
        found.push(boxes.into_iter().map(back).collect());
    }
    let sure =
        found.iter().map(|t| t.iter().filter(|d| f64::from(d.score) >= config.conf).copied().collect()).collect();
    Ok(Looked {
        width: size.0,
        height: size.1,
        tiles: plan.tiles.len(),
        more_pages: picture.info.more_pages,
        found: merge(&plan, sure).iter().map(kept).collect(),
        low: ctx.has("truth").then(|| merge(&plan, found).iter().map(kept).collect()),
        annotated: None,
    })
}

/// Coordinates to a hundredth of a pixel and scores to a millionth: more is noise, and files stay readable.
fn kept(d: &Detection) -> Kept {
    let pixel = |v: f64| (v * 100.0).round() / 100.0;
    let score = (f64::from(d.score) * 1e6).round() / 1e6;
    Kept(d.class, score, pixel(d.bbox.x0), pixel(d.bbox.y0), pixel(d.bbox.x1), pixel(d.bbox.y1))
}

/// Class, confidence and box.
fn boxes(kept: &[Kept]) -> Vec<(usize, f64, [f64; 4])> {
    kept.iter().map(|&Kept(class, score, x0, y0, x1, y1)| (class, score, [x0, y0, x1, y1])).collect()
}

fn annotation(kept: &Kept, classes: &[ClassInfo], info: &DetectorInfo, conf: f64) -> Annotation {
    let &Kept(class, score, x0, y0, x1, y1) = kept;
    Annotation {
        score: Score::new(score).ok(),
        provenance: Provenance {
            labeller: "detector".into(),
            version: Some(BOXES_VERSION.to_string()),
            source: Some(info.network.clone()),
            threshold: Some(conf),
            model: Some(info.model.clone()),
            device: Some(format!("{} ({})", info.device, info.provider)),
            ..Provenance::default()
        },
        ..Annotation::new(classes[class].name.clone(), BBox::new(x0, y0, x1, y1))
    }
}

fn redrawn(
    config: &Settings,
    item: &Item,
    looked: &Looked,
    classes: &[ClassInfo],
    ctx: &Context,
) -> Result<(Digest, u64), StageError> {
    let rgb = pixels(&item.blob, config, ctx)?;
    let jpeg = outputs::annotated(rgb, &boxes(&looked.found), classes, config.picture_side)
        .map_err(|e| StageError::failed(format!("drawing the boxes of `{}`", item.blob.name), e))?;
    Ok((ctx.store().put(&jpeg)?, jpeg.len() as u64))
}

/// The pixels of an input picture.
pub(crate) fn pixels(blob: &Blob, config: &Settings, ctx: &Context) -> Result<RgbImage, StageError> {
    let limits = Limits { max_pixels: config.max_pixels, ..Limits::default() };
    let picture = decode(&ctx.bytes(blob)?, &limits);
    Ok(picture.map_err(|e| StageError::failed(format!("decoding `{}` again", blob.name), e))?.rgb)
}

fn nothing_left(skipped: &[Skipped]) -> StageError {
    match skipped.first() {
        None => StageError::input(
            "there are no images to look at",
            "put drawings (jpg, png, tiff, bmp, webp) into the folder that `inputs.images` names",
        ),
        Some(s) => StageError::input(
            format!("none of the {} images can be read; the first is `{}`: {}", skipped.len(), s.image, s.reason),
            "replace the files that are named",
        ),
    }
}

fn tell(set: &AnnotationSet, evaluation: Option<&datasets::eval::Evaluation>, tiles: usize, ctx: &Context) {
    let with_boxes = set.images.iter().filter(|i| !i.annotations.is_empty()).count();
    ctx.metric("images", set.images.len() as f64);
    ctx.metric("images_with_boxes", with_boxes as f64);
    ctx.metric("images_left_out", set.skipped.len() as f64);
    ctx.metric("boxes", set.box_count() as f64);
    ctx.metric("tiles", tiles as f64);
    let scores: Vec<f64> =
        set.images.iter().flat_map(|i| &i.annotations).filter_map(|a| a.score).map(Score::get).collect();
    if scores.is_empty() {
        let text = "not one object was found: look at the training's metrics, or try a lower `infer.conf`";
        ctx.message(Level::Warn, text);
    } else {
        ctx.metric("mean_confidence", scores.iter().sum::<f64>() / scores.len() as f64);
    }
    let Some(e) = evaluation else { return };
    for note in &e.notes {
        ctx.message(Level::Warn, note.as_str());
    }
    let point = &e.operating_point.all;
    for (name, value) in [
        ("COCO_AP", e.coco.ap),
        ("COCO_AP50", e.coco.ap50),
        ("mAP50", e.curves.map50),
        ("mAP50-95", e.curves.map),
        ("precision", point.precision),
        ("recall", point.recall),
        ("f1", point.f1),
    ] {
        if let Some(value) = value {
            ctx.metric(name, value);
        }
    }
}
