//! `pipeline import`: labels made elsewhere, or a bundle from another machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use datasets::{
    AnnotationSet,
    formats::{Account, Change, Effect, Format, FormatError, ImageSizes, Imported, ReadOptions, WriteOptions},
    picture::is_image_name,
};
use engine::plan::Selection;
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use report::number::counted;
use serde_json::json;

use crate::{
    args::Global,
    command::{bundle, run::perform},
    exit::{Exit, Usage},
    project::{FILE, Project},
    settings::{self, Layers},
    terminal::{data, say},
};

/// Where imported labels lie when the project file does not say.
const LABELS: &str = "datasets/labels";
/// The file that is written there.
const LABELS_FILE: &str = "imported.json";

/// `pipeline import`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline import labels.json                 the format is told by looking at it\n  pipeline import dataset --format yolo\n  pipeline import work.bundle && pipeline run  go on with the work of another machine\n\nLabels go to datasets/labels, pipeline.yaml gets the line `labels: datasets/labels`, and the label stage takes them from there. Label files are checked box by box, bundles byte by byte."
)]
pub struct Import {
    /// A label file, a folder of label files, or a bundle.
    path: PathBuf,
    /// Format of the labels.
    #[arg(long, value_enum)]
    format: Option<Labels>,
    /// Take it as this; told by looking at it when not given.
    #[arg(long = "as", value_enum, value_name = "WHAT")]
    what: Option<What>,
}

/// Formats that labels are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Labels {
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
}

impl Labels {
    fn format(self) -> Format {
        match self {
            Self::Coco => Format::Coco,
            Self::Yolo => Format::Yolo,
            Self::Voc => Format::Voc,
            Self::Cvat => Format::Cvat,
            Self::LabelStudio => Format::LabelStudio,
            Self::Labelme => Format::LabelMe,
        }
    }
}

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Labels of images.
    Labels,
    /// A bundle that `pipeline export --until` wrote.
    Bundle,
}

/// Imports.
pub fn import(global: &Global, args: &Import) -> Result<Exit> {
    if !args.path.exists() {
        return Err(Usage::new(format!("there is no `{}`", args.path.display()), "check the path"));
    }
    let is_bundle = args.path.is_file() && args.format.is_none() && bundle::is_bundle(&args.path);
    if args.what.unwrap_or(if is_bundle { What::Bundle } else { What::Labels }) == What::Bundle {
        return import_bundle(global, &args.path);
    }
    let Some(project) = Project::found(global)? else {
        return Err(Usage::new("labels belong to a project, and there is none here", "make one: `pipeline init`"));
    };
    import_labels(global, &project, args)
}

fn import_bundle(global: &Global, path: &Path) -> Result<Exit> {
    let found = Project::found(global)?;
    let dir = found.as_ref().map_or_else(|| PathBuf::from("."), |p| p.dir().to_owned());
    let runs = found.map(|p| p.runs).or_else(|| global.runs.clone()).unwrap_or_else(|| dir.join("runs"));
    let (_, unpacked) = bundle::unpack(global, &dir, &runs, path)?;
    for w in &unpacked.warnings {
        say(format_args!("warning: {w}"));
    }
    if global.json {
        data(serde_json::to_string_pretty(&unpacked).into_diagnostic()?);
        return Ok(Exit::Done);
    }
    data("every file of the bundle has the right hash");
    for (name, words) in &unpacked.inputs {
        data(format_args!("inputs.{name}: {words}"));
    }
    let results = if unpacked.results.is_empty() { "none".into() } else { unpacked.results.join(", ") };
    data(format_args!("results: {results}\nnext: {}", unpacked.next));
    Ok(Exit::Done)
}

fn import_labels(global: &Global, project: &Project, args: &Import) -> Result<Exit> {
    let target = target(project)?;
    let wrong = |e: FormatError| match e {
        FormatError::Io { .. } => Report::from_err(e),
        e => Usage::new(e.to_string(), "nothing was imported"),
    };
    let format = match args.format {
        None => Format::detect(&args.path).map_err(wrong)?,
        Some(f) => f.format(),
    };
    let pictures = project.input("images").map_or_else(|| project.dir().join("datasets/drawings"), Path::to_owned);
    let folders = if pictures.is_dir() { vec![pictures.clone()] } else { Vec::new() };
    let options = ReadOptions { sizes: ImageSizes { folders, ..ImageSizes::default() }, ..ReadOptions::default() };
    let Imported { mut set, mut account, files, .. } = format.read(&args.path, &options).map_err(wrong)?;
    if set.images.is_empty() || (account.labels == 0 && account.labels_dropped > 0) {
        return Err(Usage::new(
            format!("{account}no labels could be taken from `{}`", args.path.display()),
            "nothing was imported: mend what the list above names; label formats without image sizes need the images in the project first",
        ));
    }
    for a in set.images.iter_mut().flat_map(|i| &mut i.annotations) {
        if a.provenance.labeller.is_empty() {
            a.provenance.labeller = "imported".into();
        }
    }
    account.changes.extend(unknown_classes(project, &set));
    let replaced = replaced(&target);
    Format::Coco.write(&set, &target, &WriteOptions::default()).map_err(Report::from_err)?;
    let copied = copy_pictures(&files, &pictures)?;
    let line = connect(project)?;
    let mut done = Done { account, target, replaced, copied, pictures, line };
    done.tell(global);

    // The label stage runs on them at once, so that the next run can start at the review.
    let project = Project::at(global, project.file.clone(), project.runs.clone(), false)?;
    let ready = done.line.is_none() && has_pictures(&done.pictures);
    if !ready {
        if global.json {
            data(serde_json::to_string_pretty(&done.json(None)).into_diagnostic()?);
        } else if done.line.is_none() {
            data(format_args!("next: put the images into {}, then pipeline run", done.pictures.display()));
        }
        return Ok(Exit::Done);
    }
    let selection = Selection { until: Some("label".into()), ..Selection::default() };
    let ran = perform(global, &project, selection, false, None)?;
    if global.json {
        data(serde_json::to_string_pretty(&done.json(ran.record.as_ref())).into_diagnostic()?);
    } else {
        data(&ran.summary);
        if ran.exit == Exit::Done {
            data("next: pipeline run --from review");
        }
    }
    done.line = None;
    Ok(ran.exit)
}

struct Done {
    account: Account,
    target: PathBuf,
    /// Labels and images of the file that was there before.
    replaced: Option<(usize, usize)>,
    copied: usize,
    pictures: PathBuf,
    /// What the user has to add to the project file.
    line: Option<String>,
}

impl Done {
    fn tell(&self, global: &Global) {
        if let Some(line) = &self.line {
            say(format_args!("warning: the project file could not be changed safely; add to it:\n{line}"));
        }
        if global.json {
            return;
        }
        let replaced = self.replaced.map_or_else(String::new, |(labels, images)| {
            let (labels, images) = (counted(labels, "label", "labels"), counted(images, "image", "images"));
            format!("; this replaces {labels} of {images} that were imported earlier")
        });
        data(format_args!("{}labels are in {}{replaced}", self.account, self.target.display()));
        if self.copied > 0 {
            let copied = counted(self.copied, "image was", "images were");
            data(format_args!("{copied} copied to {}", self.pictures.display()));
        }
    }

    fn json(&self, record: Option<&engine::record::RunRecord>) -> serde_json::Value {
        json!({
            "labels": self.target,
            "account": self.account,
            "replaced": self.replaced.map(|(labels, images)| json!({ "labels": labels, "images": images })),
            "images_copied": self.copied,
            "connected": self.line.is_none(),
            "run": record,
        })
    }
}

/// The file to write: in the folder of labels that the project has, if that holds nothing else.
fn target(project: &Project) -> Result<PathBuf> {
    let Some(path) = project.input("labels") else { return Ok(project.dir().join(LABELS).join(LABELS_FILE)) };
    let other = || {
        Usage::new(
            format!("the project has labels already: `inputs.labels` is `{}`", path.display()),
            "remove that line from the project file (the files stay), then import again",
        )
    };
    if path.extension().is_some() || path.is_file() {
        return Err(other());
    }
    let mut entries = fs::read_dir(path).into_iter().flatten().flatten();
    if entries.any(|e| e.file_name() != LABELS_FILE && !e.file_name().to_string_lossy().starts_with('.')) {
        return Err(other());
    }
    Ok(path.join(LABELS_FILE))
}

/// Labels and images that the file to be written holds now.
fn replaced(target: &Path) -> Option<(usize, usize)> {
    let old = Format::Coco.read(target, &ReadOptions::default()).ok()?.set;
    (old.box_count() > 0).then(|| (old.box_count(), old.images.len()))
}

/// Labels of classes that the project's symbols do not have: the label stage leaves them out.
fn unknown_classes(project: &Project, set: &AnnotationSet) -> Vec<Change> {
    // What is wrong with the templates is said by the run that follows.
    let folder = project.input("templates").and_then(|dir| ontologies::folder::read(dir).ok());
    let built = folder.and_then(|f| {
        let yaml = f.yaml.as_ref().map(|(path, text)| (path.display().to_string(), text));
        let yaml = yaml.as_ref().map(|(path, text)| (path.as_str(), text.as_str()));
        ontologies::build(&f.templates, yaml, ontologies::PromptStyle::default()).ok()
    });
    let Some(ontology) = built else { return Vec::new() };
    let known: Vec<&String> = ontology.classes.iter().flat_map(|c| c.aliases.iter().chain([&c.name])).collect();
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    for a in set.images.iter().flat_map(|i| &i.annotations) {
        if !known.iter().any(|k| k.to_lowercase() == a.class.to_lowercase()) {
            *lost.entry(&a.class).or_default() += 1;
        }
    }
    let change = |(class, count): (&str, usize)| {
        let close = |k: &&&String| strsim::jaro_winkler(&k.to_lowercase(), &class.to_lowercase());
        let nearest = known.iter().max_by(|a, b| close(a).total_cmp(&close(b)));
        let nearest = nearest.map_or_else(String::new, |n| format!("; the nearest is `{n}`"));
        let why = format!("no template has this class, so its labels are not used{nearest}: add one, or an alias");
        Change { effect: Effect::Lost, field: "class".into(), count, example: class.into(), why }
    };
    lost.into_iter().map(change).collect()
}

fn has_pictures(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return folder.is_file() };
    entries.flatten().any(|e| {
        let path = e.path();
        if path.is_dir() { has_pictures(&path) } else { path.to_str().is_some_and(is_image_name) }
    })
}

/// Copies the images that lay beside the labels into a project that has none.
fn copy_pictures(files: &BTreeMap<String, PathBuf>, to: &Path) -> Result<usize> {
    if files.is_empty() || has_pictures(to) {
        return Ok(0);
    }
    for (name, from) in files {
        let to = to.join(name);
        fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))
            .and_then(|()| fs::copy(from, &to).map(drop))
            .into_diagnostic()
            .wrap_err_with(|| format!("copying `{}` to `{}`", from.display(), to.display()))?;
    }
    Ok(files.len())
}

/// Names the labels in the project file; gives the lines to add by hand when that cannot be done without a doubt.
fn connect(project: &Project) -> Result<Option<String>> {
    if project.input("labels").is_some() {
        return Ok(None);
    }
    let text = fs::read_to_string(&project.file)
        .into_diagnostic()
        .wrap_err_with(|| format!("reading `{}`", project.file.display()))?;
    match with_labels(&text) {
        Some(edited) => {
            project.store.write_file(&project.file, edited.as_bytes()).map_err(Report::from_err)?;
            Ok(None)
        }
        None => Ok(Some(format!("inputs:\n  labels: {LABELS}"))),
    }
}

/// The project file with one more line, if that changes nothing but what it should.
fn with_labels(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_head =
        |l: &&str| l.strip_prefix("inputs:").is_some_and(|r| r.trim().is_empty() || r.trim().starts_with('#'));
    let edited = if let Some(at) = lines.iter().position(is_head) {
        let indent = |l: &str| l.len() - l.trim_start().len();
        let is_entry = |l: &&&str| !l.trim().is_empty() && !l.trim_start().starts_with('#');
        let spaces = lines[at + 1..].iter().find(is_entry).map_or(0, |l| indent(l));
        let spaces = if spaces == 0 { 2 } else { spaces };
        let before = lines[..=at].concat();
        let before = if before.ends_with('\n') { before } else { before + "\n" };
        format!("{before}{}labels: {LABELS}\n{}", " ".repeat(spaces), lines[at + 1..].concat())
    } else {
        let before = if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        format!("{before}inputs:\n  labels: {LABELS}\n")
    };
    let root = Path::new("/project");
    let load =
        |text: &str| settings::load(Path::new(FILE), text, root, &Layers::default(), &crate::stages::registry()).ok();
    let (old, mut new) = (load(text)?, load(&edited)?);
    let at = new.inputs.iter().position(|i| i.name == "labels")?;
    let added = new.inputs.remove(at);
    new.nodes.retain(|n| n.uses != "import" || old.nodes.iter().any(|o| o.name == n.name));
    let same = serde_json::to_value(&old).ok()? == serde_json::to_value(&new).ok()?;
    (same && added.path == root.join(LABELS)).then_some(edited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_added_where_it_is_safe() {
        let init = include_str!("../../templates/pipeline.yaml");
        let edited = with_labels(init).unwrap();
        assert_eq!(edited.lines().count(), init.lines().count() + 1);
        assert!(edited.contains("inputs:\n  labels: datasets/labels\n  images:"), "{edited}");
        assert!(with_labels("").unwrap().contains("labels"));
        assert!(with_labels("stages: {}").is_some());
        assert!(with_labels("inputs:\n    images: a\n").unwrap().contains("\n    labels: datasets/labels\n    images"));
        // Flow style is for people to edit.
        assert_eq!(with_labels("inputs: { images: a }\n"), None);
        assert_eq!(with_labels("not: [valid"), None);
    }
}
