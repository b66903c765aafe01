//! `pipeline export model`: trained weights as safetensors, or the network as an ONNX file for other runtimes.
//!
//! Owns the options, where the weights come from, and calibration pictures. Refuses to know the format
//! (`vision::yolov8::export`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use artifacts::IMAGES;
use clap::{Args, ValueEnum};
use datasets::picture::{Limits, decode};
use engine::{CancelToken, Digest, InputSpec, Manifest, Store, artifact::ArtifactReader, event::NoSink, sources::scan};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use serde_json::json;
use vision::{
    detector::{DetectSettings, Detector, YoloV8},
    tiles::TilePlan,
    yolov8::{
        export::{self, About, Head, Options, Precision, to_planes},
        weights::{self, Weights},
    },
};

use crate::{
    args::Global,
    command::{
        export::{needed, put, target, tell},
        runs,
    },
    exit::{Exit, Usage},
    project::Project,
    terminal::{bytes, say},
};

/// Options for models alone.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Models")]
pub struct Network {
    /// Weights (.safetensors, .pt, .onnx) instead of the project's newest model.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Input size in pixels: SIDE, or HEIGHTxWIDTH; that of the training when not given.
    #[arg(long, value_name = "PIXELS", value_parser = sides)]
    imgsz: Option<[usize; 2]>,
    /// Pictures a batch.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Any batch, height and width (multiples of 32).
    #[arg(long, conflicts_with = "batch")]
    dynamic: bool,
    /// What the graph gives; decoded when not given.
    #[arg(long, value_enum)]
    head: Option<HeadArg>,
    /// Numbers of 16 bits inside.
    #[arg(long, conflicts_with = "int8")]
    half: bool,
    /// Convolutions in 8 bits; needs --calibrate.
    #[arg(long, requires = "calibrate")]
    int8: bool,
    /// Drawings that show what values are usual: a folder, or a run, whose images are taken.
    #[arg(long, value_name = "FOLDER|RUN", requires = "int8")]
    calibrate: Option<String>,
    /// Calibration pictures at most (tiles, for a model of tiles).
    #[arg(long, value_name = "N", requires = "int8")]
    pictures: Option<usize>,
    /// Lowest confidence of a found object, for --head nms.
    #[arg(long, value_name = "C")]
    conf: Option<f64>,
    /// Overlap above which two boxes are one object, for --head nms.
    #[arg(long, value_name = "IOU")]
    iou: Option<f64>,
    /// Most objects of a picture, for --head nms.
    #[arg(long, value_name = "N")]
    max_det: Option<usize>,
    /// Version of the ONNX operators, 17 to 21.
    #[arg(long, value_name = "N")]
    opset: Option<i64>,
}

/// What an ONNX graph gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HeadArg {
    /// The head's three levels as they are.
    Raw,
    /// Boxes and scores, as YOLOv8 exports usually give them.
    Decoded,
    /// Found objects: suppression is part of the graph.
    Nms,
}

/// Calibration pictures when not said; some dozens are usual.
const PICTURES: usize = 32;
/// Share of a tile that neighbours have in common, where the model does not tell its own.
const OVERLAP: f64 = 0.2;

fn sides(text: &str) -> Result<[usize; 2], String> {
    let numbers: Option<Vec<usize>> = text.split(['x', ',']).map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[side]) => Ok([side, side]),
        Some(&[height, width]) => Ok([height, width]),
        _ => Err("a number, or two as in 640x1280".into()),
    }
}

impl Network {
    /// The file that `--model` names.
    pub fn file(&self) -> Option<&Path> {
        self.model.as_deref().filter(|m| *m != Path::new("latest"))
    }

    /// Refuses the options where something else than a model is exported.
    pub fn refuse(&self) -> Result<()> {
        self.refuse_where(&format!("{:?}", Self::default()), "are for `pipeline export model`")
    }

    fn refuse_where(&self, plain: &str, what: &str) -> Result<()> {
        if format!("{self:?}") == plain {
            return Ok(());
        }
        Err(Usage::new(format!("--imgsz, --head and the other options for models {what}"), "leave them out"))
    }

    fn options(&self, trained: u32) -> Options {
        let [height, width] = self.imgsz.unwrap_or([trained as usize; 2]);
        let found = DetectSettings::default();
        let plain = Options::default();
        Options {
            height,
            width,
            batch: self.batch.unwrap_or(plain.batch),
            dynamic: self.dynamic,
            head: match self.head {
                Some(HeadArg::Raw) => Head::Raw,
                None | Some(HeadArg::Decoded) => Head::Decoded,
                Some(HeadArg::Nms) => Head::Nms,
            },
            precision: match (self.half, self.int8) {
                (true, _) => Precision::Half,
                (_, true) => Precision::Int8,
                _ => Precision::Full,
            },
            opset: self.opset.unwrap_or(plain.opset),
            found: DetectSettings {
                conf: self.conf.unwrap_or(found.conf),
                iou: self.iou.unwrap_or(found.iou),
                max_det: self.max_det.unwrap_or(found.max_det),
            },
        }
    }
}

/// The weights' bytes, and whose they are in words.
fn source(project: &Project, network: &Network) -> Result<(Vec<u8>, String, serde_json::Value)> {
    if let Some(file) = network.file() {
        let read = fs::read(file).into_diagnostic().wrap_err_with(|| format!("reading `{}`", file.display()))?;
        return Ok((read, file.display().to_string(), json!({})));
    }
    let (result, artifact) = needed(project, "train", "model")?;
    let reader = ArtifactReader::open(&project.store, artifact).map_err(Report::from_err)?;
    let read = reader.get("best.safetensors").map_err(Report::from_err)?;
    let doc = json!({ "run": result.run, "metrics": result.notes.metrics });
    Ok((read, format!("best weights of run {}", result.run), doc))
}

fn merged(mut doc: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    if let (Some(doc), serde_json::Value::Object(more)) = (doc.as_object_mut(), more) {
        doc.extend(more);
    }
    doc
}

/// `--format safetensors`.
pub fn safetensors(global: &Global, project: &Project, network: &Network, out: &Path) -> Result<Exit> {
    let plain = Network { model: network.model.clone(), ..Network::default() };
    network.refuse_where(&format!("{plain:?}"), "are for `--format onnx`")?;
    let (mut read, whose, doc) = source(project, network)?;
    if network.file().is_some() {
        // Whatever the file is, it becomes safetensors under the public keys.
        let weights = weights::read(&read).map_err(Report::from_err).wrap_err_with(|| format!("reading {whose}"))?;
        warn(&weights);
        read = weights.state.to_bytes().map_err(Report::from_err)?;
    }
    let to = target(out, "best.safetensors");
    put(project, &to, &read)?;
    let digest = Digest::of(&read);
    let doc = merged(json!({ "out": to, "blake3": digest.to_string() }), doc);
    tell(global, &doc, &format!("{whose} ({}) written to {}", digest.short(), to.display()))
}

fn warn(weights: &Weights) {
    if let Some(licence) = &weights.licence {
        say(format!("warning: the weights are under {licence}: what is made of them is bound by that licence, too"));
    }
}

/// `--format onnx`.
pub fn onnx(global: &Global, project: &Project, network: &Network, out: &Path) -> Result<Exit> {
    let (read, whose, doc) = source(project, network)?;
    let weights = weights::read(&read).map_err(Report::from_err).wrap_err_with(|| format!("reading {whose}"))?;
    warn(&weights);
    let detector = YoloV8::from_bytes(&read, Digest::of(&read).to_string()).map_err(Report::from_err)?;
    let options = network.options(detector.describe().input);
    let mut pictures = Vec::new();
    if let Some(from) = &network.calibrate {
        pictures = calibration(project, from, &detector, &options, network.pictures.unwrap_or(PICTURES))?;
        say(format!("calibrating on {} pictures", pictures.len()));
    }
    let about = About {
        names: detector.classes().iter().map(|c| c.name.clone()).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        licence: weights.licence.clone(),
    };
    let exported = export::export(weights.spec, &weights.state, &about, &options, &pictures).map_err(|e| match e {
        export::ExportError::Options(text) => Usage::new(text, "see `pipeline export --help`"),
        e => Report::from_err(e),
    })?;
    let to = target(out, "best.onnx");
    put(project, &to, &exported.bytes)?;
    let digest = Digest::of(&exported.bytes);
    let c = exported.closeness;
    let doc = merged(
        json!({
            "out": to, "blake3": digest.to_string(), "bytes": exported.bytes.len(), "operations": exported.operations,
            "input": if options.dynamic { json!("any") } else { json!([options.batch, 3, options.height, options.width]) },
            "opset": options.opset, "closeness": c, "calibration_pictures": pictures.len(),
        }),
        doc,
    );
    let size = if options.dynamic {
        "any size".to_owned()
    } else {
        format!("{} x 3 x {} x {}", options.batch, options.height, options.width)
    };
    let text = format!(
        "{whose} as ONNX ({size}, {} operations, {}) written to {}\nagainst the network itself: scores within {:.1e}, \
         boxes within {:.1e} pixels",
        exported.operations,
        bytes(exported.bytes.len() as u64),
        to.display(),
        c.score,
        c.box_px
    );
    tell(global, &doc, &text)
}

/// The pictures of a folder or run as the network sees them, evenly over all of them.
fn calibration(
    project: &Project,
    from: &str,
    detector: &YoloV8,
    options: &Options,
    most: usize,
) -> Result<Vec<export::evaluate::Array>> {
    let path = Path::new(from);
    let (store, manifest): (&Store, Manifest) = if path.exists() {
        let spec = InputSpec {
            name: "calibrate".into(),
            kind: IMAGES.into(),
            path: path.to_owned(),
            extensions: Some(datasets::picture::IMAGE_EXTENSIONS.iter().map(|e| (*e).to_owned()).collect()),
            recursive: true,
        };
        let found = scan(&project.store, &spec, &CancelToken::new(), &NoSink).map_err(Report::from_err)?;
        (&project.store, found.manifest(&project.store).map_err(Report::from_err)?)
    } else {
        let record = runs::load(project, from)
            .wrap_err_with(|| format!("--calibrate: there is no folder `{from}`, so it should be a run"))?;
        for input in project.spec.inputs.iter().filter(|i| i.kind == IMAGES) {
            // Tells the store where the files lie; one that is gone is reported when its picture is needed.
            let _ = scan(&project.store, input, &CancelToken::new(), &NoSink);
        }
        let of = |stage: &str| record.stages.get(stage).and_then(|s| s.inputs.get("images").copied());
        let images = ["train", "train-only", "label", "infer"].into_iter().find_map(of);
        let images = images.ok_or_else(|| Usage::new(format!("run {} read no images", record.id), "name a folder"))?;
        (&project.store, project.store.manifest(images).map_err(Report::from_err)?)
    };
    let count = manifest.blobs.len().min(most.max(1));
    let share = most.max(1).div_ceil(count.max(1));
    let mut pictures = Vec::new();
    for i in 0..count {
        let blob = &manifest.blobs[i * manifest.blobs.len() / count];
        let read = store.read_blob(blob).map_err(Report::from_err)?;
        let picture = match decode(&read, &Limits::default()) {
            Ok(picture) => picture.rgb,
            Err(e) => {
                say(format!("not calibrated on: {}: {e}", blob.name));
                continue;
            }
        };
        let info = detector.describe();
        let plan = TilePlan::new(picture.dimensions(), info.cut_for(picture.dimensions(), OVERLAP), info.input);
        let tiles = plan.tiles.len().min(share);
        for k in 0..tiles {
            let tile = plan.render(&picture, &plan.tiles[k * plan.tiles.len() / tiles]);
            let prepared = vision::detector::prepare(&[tile], (options.width as u32, options.height as u32));
            pictures.push(to_planes(&prepared.data, 1, options.height, options.width));
        }
    }
    pictures.truncate(most.max(1));
    Ok(pictures)
}
