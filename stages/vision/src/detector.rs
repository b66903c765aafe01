//! Whatever finds objects in pictures, behind one interface, and the first of its kind: YOLOv8 on the native engine.
//!
//! Owns the way from pictures to boxes: `preprocess`, `forward`, `decode`. Refuses to cut big drawings (`tiles`) and to
//! read files: weights come as bytes.

use std::sync::{Mutex, PoisonError};

use datasets::{BBox, ClassInfo, Pixels};
use image::RgbImage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::letterbox::{Letterbox, Upscale, to_floats};
use crate::nms::{Candidate, nms};
use crate::tiles::Cut;
use crate::yolov8::weights::{self, Weights, WeightsError};
use crate::yolov8::{self, Backend, Heads, Images, Mode, Native, STRIDES, Spec, State, StateError};

/// A box that was found, in pixels of the picture it was looked for in.
pub type Detection = Candidate<Pixels>;

/// What counts as found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectSettings {
    /// Lowest confidence, 0..=1.
    pub conf: f64,
    /// Overlap (IoU) above which two boxes of a class are one object, 0..=1.
    pub iou: f64,
    /// Most boxes of one picture.
    pub max_det: usize,
}

impl Default for DetectSettings {
    /// The YOLO family's defaults for prediction: .25, .7, 300.
    fn default() -> Self {
        Self { conf: 0.25, iou: 0.7, max_det: 300 }
    }
}

/// What runs, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectorInfo {
    /// The network, such as `yolov8n`.
    pub network: String,
    /// BLAKE3 of the weights file.
    pub model: String,
    /// Where it runs, such as `cpu`.
    pub device: String,
    /// What runs it, such as `native`.
    pub provider: String,
    /// Side of the square input in pixels.
    pub input: u32,
    /// How training showed it pictures; inference does likewise.
    pub cut: Cut,
    /// Pixels of the input per pixel of the pictures that it was trained on, when the model file tells.
    pub scale: Option<f64>,
    /// Licence that binds whoever uses the weights, as far as the model file tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// Below this share of the scale that a network was trained at, pictures are cut into tiles although training did not.
const SHRUNK: f64 = 0.5;

impl DetectorInfo {
    /// How a picture (width, height) is shown to the network: as in training, but never shrunk far below the size that
    /// it was trained at. `overlap` is the share of a tile that neighbours have in common where training had no tiles.
    pub fn cut_for(&self, (w, h): (u32, u32), overlap: f64) -> Cut {
        let input = f64::from(self.input);
        match (self.cut, self.scale) {
            (Cut::Whole, Some(scale)) if input / f64::from(w.max(h)) < scale * SHRUNK => {
                Cut::Tiles { scale, overlap: (input * overlap).round() as u32 }
            }
            (cut, _) => cut,
        }
    }
}

/// Why nothing could be detected.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights do not fit the network.
    #[error(transparent)]
    State(#[from] StateError),
    /// What the model file says about itself cannot be used.
    #[error("the model file's entry `{key}` cannot be used ({cause}): train it again, or convert it with its metadata")]
    Metadata {
        /// Entry.
        key: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The network did not run.
    #[error("running the network")]
    Network(#[from] yolov8::Error),
}

/// Finds objects in pictures.
pub trait Detector: Send + Sync {
    /// The classes, in the order of `Detection::class`.
    fn classes(&self) -> &[ClassInfo];

    /// What runs, and on what.
    fn describe(&self) -> &DetectorInfo;

    /// The objects in each picture, best first, inside the picture. The result for a picture does not depend on the
    /// others.
    fn detect_batch(&self, images: &[RgbImage], settings: &DetectSettings) -> Result<Vec<Vec<Detection>>, DetectError>;
}

/// Pictures that one pass of the network takes. Fixed, so that its buffers are made once. The native engine is parallel
/// inside a picture; more would only cost memory.
const BATCH: usize = 1;

/// YOLOv8 on the native engine.
pub struct YoloV8 {
    network: Mutex<Native>,
    classes: Vec<ClassInfo>,
    info: DetectorInfo,
}

/// Pictures made ready for the network, and where each lies in its input.
pub struct Prepared {
    /// `[picture][y][x][channel]`, 0..=1.
    pub data: Vec<f32>,
    /// One for each picture.
    pub fits: Vec<Letterbox>,
}

/// Fits pictures into an input of this size (width, height).
pub fn prepare(images: &[RgbImage], size: (u32, u32)) -> Prepared {
    let mut data = Vec::with_capacity(images.len() * size.0 as usize * size.1 as usize * 3);
    let fit = |image: &RgbImage| {
        let fit = Letterbox::new(image.dimensions(), size, Upscale::Yes);
        if image.dimensions() == size {
            to_floats(image, &mut data);
        } else {
            to_floats(&fit.apply(image), &mut data);
        }
        fit
    };
    let fits = images.iter().map(fit).collect();
    Prepared { data, fits }
}

impl YoloV8 {
    /// The detector of a weights file (safetensors, PyTorch's `.pt` or ONNX) whose BLAKE3 is `digest`. The size and the
    /// number of classes are read off the tensors.
    pub fn from_bytes(bytes: &[u8], digest: impl Into<String>) -> Result<Self, DetectError> {
        let Weights { state, spec, licence, .. } = weights::read(bytes)?;
        if let Some(said) = entry::<Spec>(&state, "spec")?
            && said != spec
        {
            let cause = format!("it says {said:?}, and the tensors are those of {spec:?}");
            return Err(DetectError::Metadata { key: "spec", cause });
        }
        let classes = match (entry::<Vec<ClassInfo>>(&state, "class_info")?, entry::<Vec<String>>(&state, "classes")?) {
            (Some(infos), _) => infos,
            (None, Some(names)) => names.into_iter().map(class).collect(),
            (None, None) => (0..spec.classes).map(|i| class(format!("class {i}"))).collect(),
        };
        if classes.len() != spec.classes {
            let cause = format!("{} names for {} classes", classes.len(), spec.classes);
            return Err(DetectError::Metadata { key: "classes", cause });
        }
        let input = entry::<u32>(&state, "imgsz")?.unwrap_or(DEFAULT_INPUT);
        let step = STRIDES[2] as u32;
        if input == 0 || !input.is_multiple_of(step) {
            let cause = format!("{input} is no positive multiple of {step}");
            return Err(DetectError::Metadata { key: "imgsz", cause });
        }
        let info = DetectorInfo {
            network: format!("yolov8{}", format!("{:?}", spec.size).to_lowercase()),
            model: digest.into(),
            device: "cpu".into(),
            provider: "native".into(),
            input,
            cut: entry(&state, "cut")?.unwrap_or(Cut::Whole),
            scale: entry(&state, "scale")?,
            licence,
        };
        Ok(Self { network: Mutex::new(Native::from_state(spec, &state)?), classes, info })
    }

    /// Fits pictures into the network's input.
    pub fn preprocess(&self, images: &[RgbImage]) -> Prepared {
        prepare(images, (self.info.input, self.info.input))
    }

    /// Runs the network.
    pub fn forward(&self, prepared: &Prepared) -> Result<Heads, DetectError> {
        let side = self.info.input as usize;
        let images = Images { data: &prepared.data, batch: prepared.fits.len(), height: side, width: side };
        // A pass that panicked leaves nothing half done that the next one would read.
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(network.forward(images, Mode::Eval)?.clone())
    }

    /// Boxes from the raw head: every class above the confidence is a candidate, then suppression within each class.
    pub fn decode(heads: &Heads, fits: &[Letterbox], settings: &DetectSettings) -> Vec<Vec<Detection>> {
        let of = |(i, fit): (usize, &Letterbox)| {
            let decoded = yolov8::decode(heads, i);
            let scores = decoded.scores.chunks_exact(decoded.classes);
            let mut candidates: Vec<Detection> = Vec::new();
            for (b, scores) in decoded.boxes.iter().zip(scores) {
                for (class, &score) in scores.iter().enumerate().filter(|(_, s)| f64::from(**s) >= settings.conf) {
                    let [x0, y0, x1, y1] = b.map(f64::from);
                    let bbox = fit.to_picture(&BBox::new(x0, y0, x1, y1));
                    if let Some(bbox) = bbox.clipped(fit.source.0, fit.source.1) {
                        candidates.push(Candidate { bbox, class, score });
                    }
                }
            }
            nms(candidates, settings.iou, settings.max_det)
        };
        fits.iter().enumerate().map(of).collect()
    }
}

impl Detector for YoloV8 {
    fn classes(&self) -> &[ClassInfo] {
        &self.classes
    }

    fn describe(&self) -> &DetectorInfo {
        &self.info
    }

    fn detect_batch(&self, images: &[RgbImage], settings: &DetectSettings) -> Result<Vec<Vec<Detection>>, DetectError> {
        let mut found = Vec::with_capacity(images.len());
        for images in images.chunks(BATCH) {
            let prepared = self.preprocess(images);
            let heads = self.forward(&prepared)?;
            found.extend(Self::decode(&heads, &prepared.fits, settings));
        }
        Ok(found)
    }
}

/// The YOLO family's input size, for files that do not tell theirs.
const DEFAULT_INPUT: u32 = 640;

fn class(name: String) -> ClassInfo {
    ClassInfo { name, category: String::new(), color: [0; 3] }
}

fn entry<T: DeserializeOwned>(state: &State, key: &'static str) -> Result<Option<T>, DetectError> {
    let bad = |e: serde_json::Error| DetectError::Metadata { key, cause: e.to_string() };
    state.metadata.get(key).map(|text| serde_json::from_str(text).map_err(bad)).transpose()
}

#[cfg(test)]
mod tests {
    use crate::yolov8::Size;
    use image::Rgb;

    use super::*;

    fn weights(metadata: &[(&str, &str)], input: u32) -> Vec<u8> {
        let mut state = Native::new(Spec { size: Size::N, classes: 3 }, 7).state();
        state.metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        state.metadata.insert("imgsz".into(), input.to_string());
        state.to_bytes().unwrap()
    }

    fn picture(w: u32, h: u32) -> RgbImage {
        RgbImage::from_fn(w, h, |x, y| Rgb([(x * 3 % 256) as u8, (y * 5 % 256) as u8, ((x * y) % 256) as u8]))
    }

    #[test]
    fn a_public_checkpoint_is_recognised_by_its_tensors() {
        let d = YoloV8::from_bytes(&weights(&[], 64), "abc").unwrap();
        assert_eq!((d.describe().network.as_str(), d.describe().input, d.classes().len()), ("yolov8n", 64, 3));
        assert_eq!(d.classes()[2].name, "class 2");
    }

    #[test]
    fn what_training_wrote_is_read() {
        let bytes = weights(
            &[
                ("spec", "{\"size\":\"n\",\"classes\":3}"),
                ("classes", "[\"a\",\"b\",\"c\"]"),
                ("cut", "{\"kind\":\"tiles\",\"scale\":0.5,\"overlap\":64}"),
            ],
            96,
        );
        let d = YoloV8::from_bytes(&bytes, "abc").unwrap();
        assert_eq!(d.describe().cut, Cut::Tiles { scale: 0.5, overlap: 64 });
    }

    #[test]
    fn contradictions_are_named() {
        for (metadata, word) in [
            (&[("classes", "[\"a\"]")][..], "classes"),
            (&[("spec", "17")], "spec"),
            (&[("cut", "\"sideways\"")], "cut"),
        ] {
            let e = YoloV8::from_bytes(&weights(metadata, 64), "").err().unwrap().to_string();
            assert!(e.contains(word), "{e}");
        }
        let e = YoloV8::from_bytes(&weights(&[], 50), "").err().unwrap().to_string();
        assert!(e.contains("imgsz") && e.contains("32"), "{e}");
        assert!(YoloV8::from_bytes(b"no weights", "").is_err());
    }

    #[test]
    fn boxes_lie_in_the_picture_and_do_not_depend_on_the_batch() {
        let d = YoloV8::from_bytes(&weights(&[], 64), "").unwrap();
        let settings = DetectSettings { conf: 0.0, iou: 0.7, max_det: 50 };
        let (a, b) = (picture(200, 90), picture(64, 64));
        let both = d.detect_batch(&[a.clone(), b.clone()], &settings).unwrap();
        assert_eq!(both[0], d.detect_batch(&[a], &settings).unwrap()[0]);
        assert_eq!(both[1], d.detect_batch(&[b], &settings).unwrap()[0]);
        assert!(!both[0].is_empty() && both[0].len() <= 50);
        assert!(both[0].iter().all(|c| c.bbox.x0 >= 0.0 && c.bbox.x1 <= 200.0 && c.bbox.y1 <= 90.0 && c.class < 3));
        assert!(both[0].windows(2).all(|p| p[0].score >= p[1].score));
        assert!(d.detect_batch(&[], &settings).unwrap().is_empty());
    }

    #[test]
    fn a_sharp_head_gives_its_box_in_picture_pixels() {
        let mut heads = Heads::zeros(1, 64, 64, 2);
        for level in &mut heads.levels {
            for cell in level.data.chunks_exact_mut(level.channels) {
                cell[yolov8::BOX_CHANNELS..].fill(-20.0);
            }
        }
        // Cell (2, 3) of the finest level: one cell to each side, class 1.
        let level = &mut heads.levels[0];
        let start = (3 * level.width + 2) * level.channels;
        for side in 0..4 {
            level.data[start + side * yolov8::BINS + 1] = 200.0;
        }
        level.data[start + yolov8::BOX_CHANNELS + 1] = 2.0;
        // The picture is twice as large as the input.
        let fit = Letterbox::new((128, 128), (64, 64), Upscale::Yes);
        let found = YoloV8::decode(&heads, &[fit], &DetectSettings::default());
        assert_eq!(found[0].len(), 1);
        assert_eq!((found[0][0].class, found[0][0].bbox), (1, BBox::new(24.0, 40.0, 56.0, 72.0)));
    }
}
