//! `pipeline label|train|infer PATHS`: one stage by itself, on the same engine with the same cache.
//!
//! The graph is made on the fly; settings come from the project file where there is one, from `--set` and from flags.
//! Its nodes are called `label-only` and so on, so that they never stand in for the project's own stages.

use std::path::{Path, PathBuf};

use artifacts::{Annotations, FILES, IMAGES, Model};
use clap::Args;
use datasets::{
    formats::{Format, WriteOptions},
    picture::IMAGE_EXTENSIONS,
};
use engine::{
    Digest, InputSpec,
    artifact::{ArtifactReader, Kind},
    graph::{NodeSpec, PipelineSpec},
    plan::Selection,
    record::RunRecord,
    result::StageResult,
    view::{InputFiles, materialise},
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use serde_json::Value;

use crate::{
    args::Global,
    command::{
        run::{Ran, perform},
        sweep::{Sweep, sweep},
    },
    exit::{Exit, Usage},
    project::{Project, leave_gpus_alone},
    settings::{LABEL_EXTENSIONS, OWN_WEIGHTS, WEIGHTS, WEIGHTS_EXTENSIONS},
    terminal::data,
};

/// `pipeline label`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline label drawings/ --templates symbols/ --out labels\n  pipeline label sheet.png --set label.rotations=any\n\n--out gets annotations.json (COCO)."
)]
pub struct Label {
    /// Drawings, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Folder with one picture a symbol; the project's when not given.
    #[arg(long, value_name = "DIR")]
    templates: Option<PathBuf>,
    /// Folder for the result.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// `pipeline train`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline train dataset/ --epochs 100 --out model\n  pipeline train dataset/ --weights best.pt --set train.freeze=10\n  pipeline train dataset/ --set train.imgsz=320 --set train.batch=8\n  pipeline train dataset/ --epochs 90 --sweep lr0=0.0005..0.02 --sweep optimizer=sgd,adamw --trials 27 --out sweep\n\nThe folder holds images and labels (YOLO, COCO, VOC, CVAT, Label Studio or LabelMe). --out gets best.safetensors with tables and plots; of a sweep the best model and the table of all trials."
)]
pub struct Train {
    /// A labelled data set.
    dataset: PathBuf,
    /// Label files, when they do not lie in the data set's folder.
    #[arg(long, value_name = "PATH")]
    labels: Option<PathBuf>,
    /// Number of epochs.
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Network: yolov8n, yolov8s, ...
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Weights to start from: symbols-n, scratch, or a file (.safetensors, .pt, .onnx).
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Folder for the model.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sweep: Sweep,
}

/// `pipeline infer`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline infer drawing.png --out found\n  pipeline infer drawings/ --model best.safetensors --conf 0.4 --out found\n  pipeline infer drawings/ --model yolov8n.pt --out found\n\n--out gets predictions.json (COCO), predictions.csv, labels/ (YOLO) and annotated pictures."
)]
pub struct Infer {
    /// Drawings, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Weights (.safetensors, .pt, .onnx), or `latest` for the project's newest model.
    #[arg(long, value_name = "FILE", default_value = "latest")]
    model: String,
    /// Lowest confidence of a box, 0 to 1.
    #[arg(long, value_name = "C")]
    conf: Option<f64>,
    /// Truth (COCO) to measure the result against.
    #[arg(long, value_name = "COCO.json")]
    truth: Option<PathBuf>,
    /// Folder for the result.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// How the names of these nodes end.
pub const ALONE: &str = "-only";

/// True for a run of one of these commands, which is no run of the project.
pub fn is_alone(record: &RunRecord) -> bool {
    !record.order.is_empty() && record.order.iter().all(|name| name.ends_with(ALONE))
}

/// A graph in the making.
pub(super) struct Alone {
    pub(super) project: Project,
    spec: PipelineSpec,
}

impl Alone {
    fn new(global: &Global) -> Result<Self> {
        Ok(Self { project: Project::found_or_empty(global)?, spec: PipelineSpec::default() })
    }

    fn input(&mut self, name: &str, kind: &str, path: &Path, extensions: Option<&[&str]>) -> Result<()> {
        if !path.exists() && !path.to_string_lossy().contains(['*', '{']) {
            return Err(Usage::new(format!("there is no `{}`", path.display()), "check the path"));
        }
        self.spec.inputs.push(InputSpec {
            name: name.into(),
            kind: kind.into(),
            path: path.to_owned(),
            extensions: extensions.map(|e| e.iter().map(|e| (*e).to_owned()).collect()),
            recursive: true,
        });
        Ok(())
    }

    /// The project's settings for a stage, and some laid over them.
    fn config(&self, uses: &str, over: &[(&str, Option<Value>)]) -> Value {
        let own = self.project.spec.nodes.iter().find(|n| n.uses == uses);
        let mut config = own.map_or_else(|| Value::Object(serde_json::Map::new()), |n| n.config.clone());
        for (key, value) in over {
            if let Some(value) = value {
                config[*key] = value.clone();
            }
        }
        config
    }

    /// A stage with the project's settings for it, and some laid over them.
    fn stage(&mut self, uses: &str, over: &[(&str, Option<Value>)]) {
        let config = self.config(uses, over);
        self.node(uses, format!("{uses}{ALONE}"), config);
    }

    fn node(&mut self, uses: &str, name: String, config: Value) {
        self.spec.nodes.push(NodeSpec { name, uses: uses.into(), config, ..NodeSpec::default() });
    }

    /// All settings of a stage where these are given; the wrong one is named.
    pub(super) fn all_settings(&self, uses: &str, config: &Value) -> Result<Value> {
        let stage = self.project.registry.get(uses).expect("the stages of the commands are registered");
        stage.parse(config).map_err(|e| Usage::new(format!("{uses}: {e}"), "`pipeline plan --json` lists all settings"))
    }

    /// Runs trainings with these names and settings, where the project's run, and nothing else that is not there yet.
    pub(super) fn trainings(&mut self, global: &Global, trainings: Vec<(String, Value)>) -> Result<Ran> {
        let own = self.project.spec.nodes.iter().find(|n| n.uses == "train").cloned().unwrap_or_default();
        let before = self.spec.nodes.len();
        for (name, config) in trainings {
            self.node("train", name, config);
        }
        for node in &mut self.spec.nodes[before..] {
            node.executor.clone_from(&own.executor);
            (node.gpu, node.card, node.retries) = (own.gpu, own.card.clone(), own.retries);
        }
        let ran = self.perform(global);
        self.spec.nodes.truncate(before);
        ran
    }

    fn perform(&mut self, global: &Global) -> Result<Ran> {
        leave_gpus_alone(&mut self.spec.nodes)?;
        let own = std::mem::replace(&mut self.project.spec, self.spec.clone());
        self.project.one_off = true;
        let ran = perform(global, &self.project, Selection::default(), false, None);
        self.project.spec = own;
        ran
    }

    /// Writes a file of the user's, whole or not at all.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        std::fs::create_dir_all(path.parent().unwrap_or(path))
            .into_diagnostic()
            .wrap_err_with(|| format!("creating the folder of `{}`", path.display()))?;
        self.project.store.write_file(path, bytes).map_err(Report::from_err)
    }

    /// Runs it; `write` puts the wanted output (stage and port) to its place.
    fn run(
        mut self,
        global: &Global,
        (stage, port): (&str, &str),
        write: impl FnOnce(&Project, Digest) -> Result<Option<PathBuf>>,
    ) -> Result<Exit> {
        let ran = self.perform(global)?;
        let record = ran.record.as_ref();
        let artifact = record.and_then(|r| r.stages[&format!("{stage}{ALONE}")].outputs.get(port).copied());
        let written = match artifact.filter(|_| ran.exit == Exit::Done) {
            Some(artifact) => write(&self.project, artifact)?,
            None => None,
        };
        match record {
            Some(record) if global.json => data(serde_json::to_string_pretty(record).into_diagnostic()?),
            _ if global.json => {}
            _ => data(&ran.summary),
        }
        if let Some(out) = written.filter(|_| !global.json) {
            data(format_args!("written to {}", out.display()));
        }
        Ok(ran.exit)
    }
}

/// One path for all the given ones: itself, or a pattern below the folder that they share. Names of pictures then
/// start at that folder.
fn together(paths: &[PathBuf], project: &Project) -> Result<PathBuf> {
    if let [only] = paths {
        return Ok(only.clone());
    }
    let mut files = Vec::new();
    for path in paths {
        list(&std::path::absolute(path).into_diagnostic()?, true, &mut files)?;
    }
    files.sort();
    files.dedup();
    let mut base = files.first().and_then(|f| f.parent()).unwrap_or(Path::new("/")).to_owned();
    while !files.iter().all(|f| f.starts_with(&base)) {
        base.pop();
    }
    let names: Vec<String> =
        files.iter().filter_map(|f| Some(f.strip_prefix(&base).ok()?.to_str()?.to_owned())).collect();
    let special = |t: &str| t.contains(['*', '?', '[', ']', '{', '}', ',', '!']);
    if names.len() == files.len() && !special(&base.to_string_lossy()) && !names.iter().any(|n| special(n)) {
        return Ok(base.join(format!("{{{}}}", names.join(","))));
    }
    let text = files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join("\n");
    let file = project.store.root().join("tmp").join(format!("paths-{}.txt", Digest::of(text.as_bytes()).short()));
    project.store.write_file(&file, text.as_bytes()).map_err(Report::from_err)?;
    Ok(file)
}

fn list(path: &Path, named: bool, out: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in
            std::fs::read_dir(path).into_diagnostic().wrap_err_with(|| format!("reading `{}`", path.display()))?
        {
            list(&entry.into_diagnostic()?.path(), false, out)?;
        }
    } else if named || path.to_str().is_some_and(datasets::picture::is_image_name) {
        if !path.exists() {
            return Err(Usage::new(format!("there is no `{}`", path.display()), "check the path"));
        }
        out.push(path.to_owned());
    }
    Ok(())
}

/// Copies an artifact's files into a folder.
pub(super) fn copy_out(project: &Project, artifact: Digest, out: Option<&PathBuf>) -> Result<Option<PathBuf>> {
    let Some(out) = out else { return Ok(None) };
    let manifest = project.store.manifest(artifact).map_err(Report::from_err)?;
    for blob in &manifest.blobs {
        let to = out.join(&blob.name);
        std::fs::create_dir_all(to.parent().unwrap_or(out))
            .into_diagnostic()
            .wrap_err_with(|| format!("creating the folder of `{}`", to.display()))?;
        let bytes = project.store.read_blob(blob).map_err(Report::from_err)?;
        project.store.write_file(&to, &bytes).map_err(Report::from_err)?;
    }
    Ok(Some(out.clone()))
}

/// `pipeline label`.
pub fn label(global: &Global, args: &Label) -> Result<Exit> {
    let mut alone = Alone::new(global)?;
    let templates = args.templates.clone().or_else(|| alone.project.input("templates").map(Path::to_owned));
    let Some(templates) = templates else {
        return Err(Usage::new(
            "no symbols are given",
            "add --templates DIR: one picture a symbol, named after its class",
        ));
    };
    let paths = together(&args.paths, &alone.project)?;
    alone.input("images", IMAGES, &paths, Some(&IMAGE_EXTENSIONS))?;
    alone.input("templates", FILES, &templates, None)?;
    alone.stage("ontology", &[]);
    alone.stage("label", &[]);
    alone.run(global, ("label", "annotations"), |project, artifact| {
        let Some(out) = &args.out else { return Ok(None) };
        let reader = ArtifactReader::open(&project.store, artifact).map_err(Report::from_err)?;
        let set = Annotations::read(&reader).map_err(Report::from_err)?;
        let file = out.join("annotations.json");
        Format::Coco.write(&set, &file, &WriteOptions::default()).map_err(Report::from_err)?;
        Ok(Some(file))
    })
}

/// `pipeline train`.
pub fn train(global: &Global, args: &Train) -> Result<Exit> {
    let mut alone = Alone::new(global)?;
    if !args.dataset.is_dir() {
        let message = format!("`{}` is no folder", args.dataset.display());
        return Err(Usage::new(message, "name the folder that holds the images; --labels names label files elsewhere"));
    }
    alone.input("images", IMAGES, &args.dataset, Some(&IMAGE_EXTENSIONS))?;
    let starting = alone.project.input(WEIGHTS).map(Path::to_owned);
    alone.input("labels", FILES, args.labels.as_ref().unwrap_or(&args.dataset), Some(&LABEL_EXTENSIONS))?;
    let own = args.weights.as_ref().and_then(|w| OWN_WEIGHTS.into_iter().find(|own| w == Path::new(own)));
    if let Some(weights) = args.weights.as_deref().or(starting.as_deref()).filter(|_| own.is_none()) {
        alone.input(WEIGHTS, artifacts::WEIGHTS, weights, Some(&WEIGHTS_EXTENSIONS))?;
    }
    alone.stage("import", &[]);
    let over = [
        ("epochs", args.epochs.map(Value::from)),
        ("model", args.model.clone().map(Value::from)),
        (WEIGHTS, own.map(Value::from)),
    ];
    if !args.sweep.sweep.is_empty() {
        let config = alone.config("train", &over);
        return sweep(global, alone, &args.sweep, &config, args.out.as_deref());
    }
    alone.stage("train", &over);
    alone.run(global, ("train", "model"), |project, artifact| copy_out(project, artifact, args.out.as_ref()))
}

/// `pipeline infer`.
pub fn infer(global: &Global, args: &Infer) -> Result<Exit> {
    let mut alone = Alone::new(global)?;
    let model = if args.model == "latest" { latest_model(&alone.project)? } else { PathBuf::from(&args.model) };
    let paths = together(&args.paths, &alone.project)?;
    alone.input("images", IMAGES, &paths, Some(&IMAGE_EXTENSIONS))?;
    alone.input("model", Model::NAME, &model, Some(&WEIGHTS_EXTENSIONS))?;
    if let Some(truth) = &args.truth {
        alone.input("truth", FILES, truth, None)?;
    }
    alone.stage("infer", &[("conf", args.conf.map(Value::from))]);
    alone.run(global, ("infer", "predictions"), |project, artifact| copy_out(project, artifact, args.out.as_ref()))
}

/// The files of the project's newest model; of the newest that `pipeline train` made when the project trained none.
fn latest_model(project: &Project) -> Result<PathBuf> {
    let newest = |stage: &str| StageResult::latest(&project.store, stage)?.outputs.get("model").copied();
    let Some(artifact) = newest("train").or_else(|| newest("train-only")) else {
        return Err(Usage::new(
            "there is no trained model yet",
            "name one: --model best.safetensors, or `pipeline run` first",
        ));
    };
    materialise(&project.store, artifact, InputFiles::Copy).map_err(Report::from_err)
}
