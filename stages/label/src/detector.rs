//! The labeller that runs a trained detector.

use std::collections::BTreeSet;

use artifacts::Model;
use datasets::{Annotation, Provenance, Score};
use engine::artifact::Kind;
use engine::{DeviceUse, StageError};
use image::RgbImage;
use vision::detector::{DetectSettings, Detection, Detector, YoloV8};
use vision::tiles::{TilePlan, merge};

use crate::labeller::{Job, LabelError, Labelled, Labeller, Parts};
use crate::settings::Thresholds;

/// Version of the way from pictures to boxes.
const VERSION: &str = "1";
/// Threshold that `auto` stands for: the YOLO family's default for prediction.
const AUTO_THRESHOLD: f64 = 0.25;
/// File of the model that is used.
const WEIGHTS: &str = "best.safetensors";
/// Share of a tile that neighbours have in common, where the model does not tell its own.
const OVERLAP: f64 = 0.2;

struct DetectorLabeller {
    detector: YoloV8,
    thresholds: Thresholds,
    nms_iou: f64,
    /// Classes of the ontology.
    wanted: BTreeSet<String>,
}

/// Loads the model at the input `model`.
pub fn build(parts: &Parts<'_>) -> Result<Box<dyn Labeller>, StageError> {
    let model = parts.ctx.open("model")?;
    // A model that training did not write has one file of weights, under a name of its own.
    let only = if let [only] = &model.manifest.blobs[..] { Some(only) } else { None };
    let blob = model.manifest.blob(WEIGHTS).or(only).ok_or_else(|| {
        StageError::input(
            format!("the {} at the input `model` has no `{WEIGHTS}`", Model::NAME),
            "train it again, or name one file of weights (.safetensors, .pt or .onnx)",
        )
    })?;
    let detector = YoloV8::from_bytes(&parts.ctx.bytes(blob)?, blob.digest.to_string())
        .map_err(|e| StageError::failed(format!("loading `{WEIGHTS}`"), e))?;
    let wanted: BTreeSet<String> = parts.ontology.ontology.classes.iter().map(|c| c.name.clone()).collect();
    if !detector.classes().iter().any(|c| wanted.contains(&c.name)) {
        return Err(StageError::input(
            "the model knows none of the ontology's classes",
            "use a model that was trained on these classes, or rename the classes",
        ));
    }
    let (thresholds, nms_iou) = (parts.settings.thresholds.clone(), parts.settings.nms_iou);
    Ok(Box::new(DetectorLabeller { detector, thresholds, nms_iou, wanted }))
}

impl DetectorLabeller {
    fn threshold(&self, detection: &Detection) -> f64 {
        self.thresholds.of(&self.detector.classes()[detection.class].name, AUTO_THRESHOLD)
    }

    fn detect(&self, picture: &RgbImage) -> Result<Vec<Detection>, LabelError> {
        let classes = self.detector.classes();
        let lowest = classes.iter().map(|c| self.thresholds.of(&c.name, AUTO_THRESHOLD)).fold(1.0, f64::min);
        let settings = DetectSettings { conf: lowest, ..DetectSettings::default() };
        let model = self.detector.describe();
        let plan = TilePlan::new(picture.dimensions(), model.cut_for(picture.dimensions(), OVERLAP), model.input);
        let mut found = Vec::with_capacity(plan.tiles.len());
        for tile in &plan.tiles {
            let part = plan.render(picture, tile);
            let boxes =
                self.detector.detect_batch(&[part], &settings).map_err(|e| LabelError::Labeller(Box::new(e)))?;
            let whole = |d: Detection| Detection {
                bbox: plan.to_picture(tile, &[d.bbox.x0, d.bbox.y0, d.bbox.x1, d.bbox.y1].into()),
                class: d.class,
                score: d.score,
            };
            found.push(boxes.into_iter().flatten().map(whole).collect());
        }
        Ok(merge(&plan, found))
    }
}

impl Labeller for DetectorLabeller {
    fn name(&self) -> &'static str {
        "detector"
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn device(&self) -> DeviceUse {
        let i = self.detector.describe();
        DeviceUse {
            asked: "auto".into(),
            used: format!("{} ({})", i.device, i.provider),
            why: format!("{} runs on the native engine", i.network),
        }
    }

    fn notes(&self) -> Vec<String> {
        let strange = self.detector.classes().iter().filter(|c| !self.wanted.contains(&c.name));
        let licence = self.detector.describe().licence.iter();
        strange
            .map(|c| format!("the model's class `{}` is not in the ontology; its boxes are left out", c.name))
            .chain(licence.map(|l| format!("the model is under {l}: what you do with it is bound by that licence")))
            .collect()
    }

    fn label(&self, job: Job<'_>) -> Result<Labelled, LabelError> {
        let info = self.detector.describe();
        let mut labelled = Labelled::default();
        // Best first, so that of overlapping boxes the better stays.
        for d in self.detect(&job.picture.rgb()?)? {
            let class = &self.detector.classes()[d.class].name;
            let threshold = self.threshold(&d);
            let taken = labelled.annotations.iter().any(|a: &Annotation| a.bbox.iou(&d.bbox) > self.nms_iou);
            if !self.wanted.contains(class) || f64::from(d.score) < threshold || taken {
                continue;
            }
            let mut a = Annotation::new(class.clone(), d.bbox);
            a.score = Score::new(f64::from(d.score)).ok();
            a.provenance = Provenance {
                labeller: "detector".into(),
                version: Some(VERSION.into()),
                source: Some(info.network.clone()),
                threshold: Some(threshold),
                model: Some(info.model.clone()),
                device: Some(format!("{} ({})", info.device, info.provider)),
                ..Provenance::default()
            };
            labelled.annotations.push(a);
        }
        Ok(labelled)
    }
}
