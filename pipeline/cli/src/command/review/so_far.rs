//! The report on what is there while a stage is not finished: the images whose results have arrived.
//!
//! Owns a run beside the project's, in `runs/so-far`, on these images alone. Computes nothing that the unfinished run will
//! compute, takes no lock of it and changes nothing in its store.

use std::{fs, path::Path, sync::Arc};

use engine::{
    CancelToken, Digest, StoreError,
    context::ItemSource,
    event::NoSink,
    executor::Places,
    graph::Edge,
    itemlog::ItemLog,
    plan::Selection,
    record::{RunRecord, StageRecord},
    sources::scan,
    view::safe_path,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};

use crate::{
    args::Global,
    command::run::perform,
    exit::{Exit, Planning, Usage},
    project::Project,
};

/// Folder of the runs beside the project's, below its folder of runs.
const FOLDER: &str = "so-far";

/// What there is.
pub struct SoFar {
    /// The page.
    pub page: std::path::PathBuf,
    /// The stage that is not finished.
    pub stage: String,
    /// Images that have results.
    pub ready: usize,
    /// All images.
    pub all: usize,
}

/// Makes the report on what an unfinished run has so far.
pub fn so_far(global: &Global, project: &Project, record: &RunRecord) -> Result<SoFar> {
    let open = |s: &StageRecord| s.item_log.is_some() && !s.status.has_outputs();
    let Some(stage) = record.order.iter().find(|n| open(&record.stages[*n])) else {
        return Err(Usage::new(
            format!("no stage of run {} that works image by image is unfinished", record.id),
            "`pipeline review report` has the whole report",
        ));
    };
    let graph = project.graph()?;
    let node = graph.node(stage).map_err(Planning::report)?;
    let of_images = |n: &&engine::graph::Node| n.spec.uses == "review" && n.upstream().contains(&stage.as_str());
    let until = graph.nodes.iter().find(of_images).map_or(stage, |n| &n.spec.name).clone();
    let identity = node.stage.item_identity(&node.config).map_err(|e| Report::msg(e.to_string()))?;
    let port = node.descriptor.items.as_deref();
    let (Some(base), Some(identity), Some(port)) = (record.stages[stage].item_log, identity, port) else {
        return Err(Usage::new(format!("stage `{stage}` does not work image by image"), "wait until it is done"));
    };
    let Some(Edge::Input(input)) = node.edges.get(port) else {
        let help = "wait until the stage is done";
        return Err(Usage::new(format!("the images of stage `{stage}` are made by another stage"), help));
    };
    let manifest = match record.stages[stage].inputs.get(port) {
        Some(artifact) => project.store.manifest(*artifact).map_err(Report::from_err)?,
        None => return Err(Report::msg(format!("run {} does not say what stage `{stage}` reads", record.id))),
    };

    let mut side = Project::at(global, project.file.clone(), project.runs.join(FOLDER), project.sample)?;
    side.stay_here();
    side.spec.nodes.iter_mut().for_each(|n| n.gpu = false);
    let whole = project.store.clone();
    let fetch = move |digest: Digest| if whole.has(digest) { whole.read(digest).map(Some) } else { Ok(None) };
    let log = ItemLog::path(&side.store, base);
    {
        let _lock = side.lock("pipeline review report")?;
        copy_log(&ItemLog::path(&project.store, base), &log)?;
    }
    let log = ItemLog::open(&log).map_err(Report::from_err)?;
    let ready: Vec<&engine::Blob> =
        manifest.blobs.iter().filter(|b| log.has(ItemSource::key(base, identity, b))).collect();
    let (ready_count, all) = (ready.len(), manifest.blobs.len());
    if ready.is_empty() {
        let help = "wait for the first ones; `pipeline status` shows how far it is";
        return Err(Usage::new(format!("stage `{stage}` has no results yet, of {all} images"), help));
    }
    // The scan tells the store where the pictures lie.
    scan(&project.store, &graph.inputs[input], &CancelToken::new(), &NoSink).map_err(Planning::report)?;
    let images = side.runs.join("images");
    if images.exists() {
        fs::remove_dir_all(&images).into_diagnostic().wrap_err("removing the pictures of the last time")?;
    }
    for blob in ready {
        let name =
            safe_path(&blob.name).ok_or_else(|| Report::msg(format!("`{}` leads out of its folder", blob.name)))?;
        lay(&project.store.locate(blob.digest).map_err(Report::from_err)?, &images.join(name))?;
    }
    for spec in side.spec.inputs.iter_mut().filter(|i| i.name == *input) {
        spec.path.clone_from(&images);
        spec.recursive = true;
    }
    side.store = side.store.clone().with_fetch(Arc::new(fetch));
    side.so_far = Some(format!(
        "Stage `{stage}` of run {} is not finished: this page is about the {ready_count} of {all} images that have results so far.",
        record.id
    ));
    compose(global, &side, stage, until)?;
    let page = side.runs.join("latest/report/index.html");
    Ok(SoFar { page, stage: stage.clone(), ready: ready_count, all })
}

/// Runs what comes before the stage, sees to it that no image would be computed here, and runs the rest.
fn compose(global: &Global, side: &Project, stage: &str, until: String) -> Result<()> {
    let global = &Global { quiet: true, ..global.clone() };
    let graph = side.graph()?;
    let run = |until: String| -> Result<()> {
        let selection = Selection { until: Some(until), ..Selection::default() };
        match perform(global, side, selection, false, None)? {
            ran if matches!(ran.exit, Exit::Done | Exit::Waiting) => Ok(()),
            ran => Err(Report::msg(format!("making the report failed:{}", ran.summary))),
        }
    };
    for upstream in graph.node(stage).map_err(Planning::report)?.upstream() {
        run(upstream.to_owned())?;
    }
    let selection = Selection { until: Some(stage.to_owned()), ..Selection::default() };
    let executors = side.executors();
    let places = Places { executors: &executors, machine: &side.machine, require: false };
    let plan = engine::plan::plan(&side.store, &graph, &selection, places, &CancelToken::new(), &NoSink)
        .map_err(Planning::report)?;
    let todo = plan.stages.iter().find(|s| s.name == stage).and_then(|s| s.items).map_or(0, |items| items.todo);
    if todo > 0 {
        return Err(Usage::new(
            format!("the settings of stage `{stage}` or what it reads changed since that run began"),
            "undo the change, or wait until the run is done",
        ));
    }
    run(until)
}

/// What is whole in a log that somebody may be writing to; its end is looked at when it is opened.
fn copy_log(from: &Path, to: &Path) -> Result<()> {
    let bytes = match fs::read(from) {
        // It is made with the first result.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.into_diagnostic().wrap_err("reading the results so far")?,
    };
    let copy = || {
        fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
        fs::write(to, bytes)
    };
    copy().map_err(StoreError::io("writing", to, 0)).map_err(Report::from_err)
}

/// Makes a file visible at another place: as a link, else as a copy.
fn lay(file: &Path, at: &Path) -> Result<()> {
    let file = std::path::absolute(file).into_diagnostic()?;
    let place = || {
        fs::create_dir_all(at.parent().unwrap_or(Path::new(".")))?;
        #[cfg(unix)]
        return std::os::unix::fs::symlink(&file, at);
        #[cfg(not(unix))]
        fs::copy(&file, at).map(drop)
    };
    place().map_err(StoreError::io("writing", at, 0)).map_err(Report::from_err)
}
