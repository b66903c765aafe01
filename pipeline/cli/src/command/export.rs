//! `pipeline export`: what a project made, as files of other tools, or as a bundle for another machine.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use artifacts::{Annotations, IMAGES};
use clap::{Args, ValueEnum};
use datasets::{
    AnnotationSet,
    formats::{Account, Format, ReadOptions, WriteOptions},
    split::{SplitSettings, split},
};
use engine::{
    CancelToken, Digest, Manifest,
    artifact::{ArtifactReader, Kind},
    event::NoSink,
    result::StageResult,
    sources::scan,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use report::number::counted;
use serde_json::json;

use crate::{
    args::Global,
    command::{
        bundle::{self, Carry},
        export_model,
    },
    exit::{Exit, Usage},
    project::Project,
    terminal::data,
};

/// `pipeline export`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline export labels --format coco --out labels.json\n  pipeline export dataset --format yolo --out dataset\n  pipeline export model --out best.safetensors\n  pipeline export model --format onnx --out best.onnx\n  pipeline export model --format onnx --imgsz 1280 --head nms --conf 0.4 --out found.onnx\n  pipeline export model --format onnx --int8 --calibrate drawings/ --out small.onnx\n  pipeline export predictions --format csv --out found.csv\n  pipeline export --until label --out work.bundle     label here, then on the other machine:\n                                                      pipeline import work.bundle && pipeline run"
)]
pub struct Export {
    /// What to export.
    #[arg(value_enum, required_unless_present = "until", conflicts_with = "until")]
    what: Option<What>,
    /// Everything up to this stage as a bundle: inputs, settings and finished results.
    #[arg(long, value_name = "STAGE")]
    until: Option<String>,
    /// File format; coco for labels and predictions, yolo for a data set, safetensors for a model when not given.
    #[arg(long, value_enum, conflicts_with = "until")]
    format: Option<As>,
    /// File or folder to write.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// The program that the bundle carries, built for the machine that is to run it; this program when not given.
    #[arg(long, value_name = "FILE", requires = "until")]
    program: Option<PathBuf>,
    /// Leave the program out of the bundle; the other machine has it.
    #[arg(long, requires = "until", conflicts_with = "program")]
    without_program: bool,
    #[command(flatten)]
    network: export_model::Network,
}

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The reviewed labels (the found ones when nothing was reviewed yet).
    Labels,
    /// Labels with the images, split as for training.
    Dataset,
    /// The trained detector.
    Model,
    /// What the detector found.
    Predictions,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum As {
    /// COCO JSON.
    Coco,
    /// YOLO text files.
    Yolo,
    /// Pascal VOC XML.
    Voc,
    /// CVAT for images XML.
    Cvat,
    /// Label Studio JSON.
    LabelStudio,
    /// LabelMe JSON.
    Labelme,
    /// One line a box (predictions).
    Csv,
    /// Weights as trained (models).
    Safetensors,
    /// ONNX, for other runtimes (models).
    Onnx,
}

impl As {
    /// The label format of that name.
    pub fn labels(self) -> Option<Format> {
        Some(match self {
            Self::Coco => Format::Coco,
            Self::Yolo => Format::Yolo,
            Self::Voc => Format::Voc,
            Self::Cvat => Format::Cvat,
            Self::LabelStudio => Format::LabelStudio,
            Self::Labelme => Format::LabelMe,
            Self::Csv | Self::Safetensors | Self::Onnx => return None,
        })
    }
}

fn no_such(what: &str, known: &str) -> Report {
    Usage::new(format!("{what} cannot be written in that format"), format!("use one of: {known}"))
}

const LABEL_FORMATS: &str = "coco, yolo, voc, cvat, label-studio, labelme";

/// Exports.
pub fn export(global: &Global, args: &Export) -> Result<Exit> {
    if args.what != Some(What::Model) {
        args.network.refuse()?;
    }
    // A file of weights needs no project.
    let project = match args.network.file() {
        Some(_) => Project::found_or_empty(global)?,
        None => Project::open(global)?,
    };
    let out = &args.out;
    let Some(what) = args.what else {
        let until = args.until.as_deref().expect("clap asks for one of both");
        let carry = match (&args.program, args.without_program) {
            (Some(file), _) => Carry::File(file.clone()),
            (None, true) => Carry::NoProgram,
            (None, false) => Carry::This,
        };
        let written = bundle::pack(global, &project, until, out, &carry)?;
        let text = bundle_text(&written, out);
        return tell(global, &written, &text);
    };
    match what {
        What::Labels | What::Dataset => {
            let default = if what == What::Labels { As::Coco } else { As::Yolo };
            let format = args.format.unwrap_or(default).labels().ok_or_else(|| no_such("labels", LABEL_FORMATS))?;
            let (account, from) = labels(&project, format, out, what == What::Dataset)?;
            let doc = json!({ "out": out, "from": from, "account": account });
            tell(global, &doc, &format!("{account}from {from}\nwritten to {}", out.display()))
        }
        What::Model => match args.format.unwrap_or(As::Safetensors) {
            As::Safetensors => export_model::safetensors(global, &project, &args.network, out),
            As::Onnx => export_model::onnx(global, &project, &args.network, out),
            _ => Err(no_such("a model", "safetensors, onnx")),
        },
        What::Predictions => predictions(global, &project, args.format.unwrap_or(As::Coco), out),
    }
}

fn bundle_text(written: &bundle::Written, out: &Path) -> String {
    let or_none = |list: &[String]| if list.is_empty() { "none".into() } else { list.join(", ") };
    let inputs: Vec<String> =
        written.inputs.iter().map(|(n, c)| format!("{n} ({})", counted(*c as usize, "file", "files"))).collect();
    let mut text = format!(
        "bundle {}\ninputs: {}\nresults: {}\nto be run on the other machine: {}\n",
        out.display(),
        or_none(&inputs),
        or_none(&written.results),
        or_none(&written.to_run)
    );
    if !written.exec.is_empty() {
        let _ = writeln!(
            text,
            "run it there: {}\nor in a hosted notebook: tar -xf {} notebook.ipynb\nthen here: {}",
            written.exec.join(" && "),
            out.display(),
            written.back.join(" && ")
        );
        let _ = match &written.program_for {
            Some(machine) => writeln!(text, "the program in it is for {machine}"),
            None => writeln!(text, "no program is in it; `pipeline` must be there"),
        };
    }
    let _ = write!(text, "or go on with the whole project there: {}", written.commands.join(" && "));
    text
}

pub fn tell(global: &Global, doc: &impl serde::Serialize, text: &str) -> Result<Exit> {
    if global.json {
        data(serde_json::to_string_pretty(doc).into_diagnostic()?);
    } else {
        data(text);
    }
    Ok(Exit::Done)
}

/// The newest result of a stage, with the artifact at `port`.
fn newest(project: &Project, stage: &str, port: &str) -> Option<(StageResult, Digest)> {
    let result = StageResult::latest(&project.store, stage)?;
    let artifact = *result.outputs.get(port)?;
    Some((result, artifact))
}

pub fn needed(project: &Project, stage: &str, port: &str) -> Result<(StageResult, Digest)> {
    newest(project, stage, port).ok_or_else(|| {
        Usage::new(format!("`{stage}` has no result yet"), format!("`pipeline run --until {stage}` makes it"))
    })
}

/// The newest labels: those of the review, unless other labels were found since.
pub fn newest_labels(project: &Project) -> Result<(String, StageResult, AnnotationSet)> {
    let label = newest(project, "label", "annotations");
    let review = newest(project, "review", "annotations").filter(|(r, _)| {
        let read = r.unhashed.inputs.get("annotations");
        label.as_ref().is_none_or(|(_, found)| read == Some(found))
    });
    let (stage, (result, artifact)) = match (review, label) {
        (Some(found), _) => ("review", found),
        (None, Some(found)) => ("label", found),
        (None, None) => ("label", needed(project, "label", "annotations")?),
    };
    let reader = ArtifactReader::open(&project.store, artifact).map_err(Report::from_err)?;
    let set = Annotations::read(&reader).map_err(Report::from_err)?;
    Ok((format!("stage {stage} of run {}", result.run), result, set))
}

/// The images that a stage saw, and where they are now.
pub fn images(project: &Project, result: &StageResult) -> Result<Manifest> {
    for input in project.spec.inputs.iter().filter(|i| i.kind == IMAGES) {
        // Tells the store where the files lie; one that is gone is reported when its image is needed.
        let _ = scan(&project.store, input, &CancelToken::new(), &NoSink);
    }
    let digest = result.unhashed.inputs.get("images").copied();
    let digest = digest.ok_or_else(|| Report::msg("the stage that made the labels read no images"))?;
    project.store.manifest(digest).map_err(Report::from_err)
}

fn labels(project: &Project, format: Format, out: &Path, with_images: bool) -> Result<(Account, String)> {
    let (from, result, mut set) = newest_labels(project)?;
    if !with_images {
        return Ok((format.write(&set, out, &WriteOptions::default()).map_err(Report::from_err)?, from));
    }
    let manifest = images(project, &result)?;
    let bytes = |name: &str| {
        let blob = manifest.blob(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        project.store.read_blob(blob).map_err(io::Error::other)
    };
    let parts = split(&set, &split_settings(project));
    for image in &mut set.images {
        image.split = Some(parts.of(&image.image));
    }
    let options = WriteOptions { images: Some(&bytes), ..WriteOptions::default() };
    Ok((format.write(&set, out, &options).map_err(Report::from_err)?, from))
}

/// The split that training makes.
fn split_settings(project: &Project) -> SplitSettings {
    let node = project.spec.nodes.iter().find(|n| n.uses == "train");
    let config = node.and_then(|n| serde_json::from_value::<train::Config>(n.config.clone()).ok()).unwrap_or_default();
    config.split_settings()
}

/// Where a single file goes: into `out` when that is a folder or ends in `/`.
pub fn target(out: &Path, name: &str) -> PathBuf {
    if out.is_dir() || out.to_string_lossy().ends_with('/') { out.join(name) } else { out.to_owned() }
}

pub fn put(project: &Project, to: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))
        .into_diagnostic()
        .wrap_err_with(|| format!("creating the folder of `{}`", to.display()))?;
    project.store.write_file(to, bytes).map_err(Report::from_err)
}

fn predictions(global: &Global, project: &Project, format: As, out: &Path) -> Result<Exit> {
    let (result, artifact) = needed(project, "infer", "predictions")?;
    let reader = ArtifactReader::open(&project.store, artifact).map_err(Report::from_err)?;
    let mut account = None;
    let mut written = vec![out.to_owned()];
    match format {
        As::Coco | As::Csv => {
            let name = if format == As::Coco { "predictions.json" } else { "predictions.csv" };
            let to = target(out, name);
            put(project, &to, &reader.get(name).map_err(Report::from_err)?)?;
            written = vec![to];
        }
        As::Yolo => {
            // As detectors write them: class, box, confidence.
            for blob in
                reader.manifest.blobs.iter().filter(|b| b.name.starts_with("labels/") || b.name == "classes.txt")
            {
                put(project, &out.join(&blob.name), &reader.get(&blob.name).map_err(Report::from_err)?)?;
            }
        }
        As::Safetensors | As::Onnx => {
            return Err(no_such("predictions", "coco, csv, yolo, voc, cvat, label-studio, labelme"));
        }
        other => {
            let format = other.labels().expect("all others are label formats");
            let scratch = tempfile::tempdir().into_diagnostic()?;
            let file = scratch.path().join("predictions.json");
            fs::write(&file, reader.get("predictions.json").map_err(Report::from_err)?).into_diagnostic()?;
            let set = Format::Coco.read(&file, &ReadOptions::default()).map_err(Report::from_err)?.set;
            account = Some(format.write(&set, out, &WriteOptions::default()).map_err(Report::from_err)?);
        }
    }
    let counts: BTreeMap<_, _> =
        result.notes.metrics.iter().filter(|(k, _)| ["images", "boxes"].contains(&k.as_str())).collect();
    let doc = json!({ "out": written, "run": result.run, "counts": counts, "account": account });
    let told = account.map(|a| a.to_string()).unwrap_or_default();
    tell(global, &doc, &format!("{told}predictions of run {} written to {}", result.run, written[0].display()))
}
