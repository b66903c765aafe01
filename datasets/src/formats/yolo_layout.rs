//! How YOLO data sets lie on disk: `data.yaml`, class names, and which label file belongs to which image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::FormatError;
use super::text::{below, files_below, has_extension, read_text, stem};
use crate::picture::is_image_name;
use crate::split::Split;

/// Text files that list classes, not labels.
const CLASS_LISTS: [&str; 4] = ["classes.txt", "obj.names", "_darknet.labels", "labels.txt"];

/// Names that `data.yaml` is known under; a folder's only YAML file counts too.
const YAML_NAMES: [&str; 4] = ["data.yaml", "data.yml", "dataset.yaml", "dataset.yml"];

#[derive(Deserialize)]
struct DataYaml<N> {
    path: Option<String>,
    train: Option<Places>,
    val: Option<Places>,
    test: Option<Places>,
    names: Option<N>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Places {
    One(String),
    Many(Vec<String>),
}

impl Places {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Class names by index.
type Names = BTreeMap<usize, String>;

/// A data set on disk.
pub(super) struct Layout {
    /// The folder that everything is in.
    pub root: PathBuf,
    /// Class names by index.
    pub names: Names,
    /// Images and label files, by place.
    pub items: Vec<Item>,
    /// Things in `data.yaml` that are not there.
    pub missing: Vec<String>,
}

/// An image, its label file, or both.
pub(super) struct Item {
    pub part: Option<Split>,
    /// Path below the images' (or labels') folder; without extension when there is no image.
    pub name: String,
    pub image: Option<PathBuf>,
    pub label: Option<PathBuf>,
}

/// A folder of images and the folder of their labels.
struct Pair {
    part: Option<Split>,
    images: PathBuf,
    labels: PathBuf,
}

impl Layout {
    /// Looks at a `data.yaml`, at a folder that holds one, or at a folder of images and labels with a list of classes.
    pub fn open(source: &Path) -> Result<Self, FormatError> {
        let root = if source.is_dir() { source } else { source.parent().unwrap_or(source) };
        // Without `..`, as everything below it is named.
        let root = std::path::absolute(root).map(|r| tidy(&r)).map_err(|e| FormatError::io(root, e))?;
        let Some(yaml) = yaml_of(source) else { return Self::without_yaml(source, root) };
        let (data, names) = parse_yaml(&yaml)?;
        let names = match names {
            Some(names) => names,
            None => list_of_classes(&root)?.ok_or_else(|| no_names(&yaml, "it has no `names`"))?,
        };
        // A data set that was copied or moved still says where it was: what lies beside the file comes first.
        let beside = [&data.train, &data.val, &data.test].into_iter().flatten().flat_map(Places::all).any(|place| {
            let images = tidy(&root.join(place));
            images.exists() || labels_of(&images).is_dir()
        });
        let told = data.path.as_ref().map(|p| root.join(p)).filter(|p| !beside && p.is_dir());
        let base = told.unwrap_or_else(|| root.clone());
        let mut layout = Self { root, names, items: Vec::new(), missing: Vec::new() };
        let mut pairs: Vec<Pair> = Vec::new();
        let mut lists = Vec::new();
        for (part, places) in [(Split::Train, data.train), (Split::Val, data.val), (Split::Test, data.test)] {
            for place in places.iter().flat_map(Places::all) {
                let mut images = tidy(&base.join(place));
                if !images.exists() && place.starts_with("../") {
                    // Roboflow writes `../train/images` for a folder beside the file.
                    images = tidy(&base.join(place.trim_start_matches("../")));
                }
                if images.is_file() {
                    lists.push((part, images));
                } else if images.is_dir() || labels_of(&images).is_dir() {
                    // The same folder for training and validation is read once.
                    if !pairs.iter().any(|p| p.images == images) {
                        pairs.push(Pair { part: Some(part), labels: labels_of(&images), images });
                    }
                } else {
                    layout.missing.push(format!("`{}: {place}` is not there", part.name()));
                }
            }
        }
        if pairs.is_empty() && lists.is_empty() {
            pairs = pairs_by_folder(&layout.root);
        }
        for p in &pairs {
            layout.folders(p)?;
        }
        for (part, list) in lists {
            layout.list(part, &list, &base)?;
        }
        layout.separate_names();
        Ok(layout)
    }

    fn without_yaml(source: &Path, root: PathBuf) -> Result<Self, FormatError> {
        let names = list_of_classes(&root)?;
        let names = match names {
            Some(names) => names,
            None => list_of_classes(&root.join("labels"))?
                .ok_or_else(|| no_names(source, "there is neither `data.yaml` nor `classes.txt`"))?,
        };
        let mut layout = Self { names, items: Vec::new(), missing: Vec::new(), root };
        for p in pairs_by_folder(&layout.root) {
            layout.folders(&p)?;
        }
        layout.separate_names();
        Ok(layout)
    }

    /// All images and label files of a pair of folders.
    fn folders(&mut self, pair: &Pair) -> Result<(), FormatError> {
        let list = |folder: &Path| if folder.is_dir() { files_below(folder) } else { Ok(Vec::new()) };
        let mut labels: BTreeMap<String, PathBuf> = BTreeMap::new();
        for path in list(&pair.labels)? {
            let is_list = path.file_name().is_some_and(|n| CLASS_LISTS.iter().any(|l| n == *l));
            if has_extension(&path, "txt") && !is_list {
                labels.insert(stem(&below(&pair.labels, &path)).to_owned(), path);
            }
        }
        let mut used = BTreeSet::new();
        for path in list(&pair.images)?.into_iter().filter(|p| is_image_name(&p.to_string_lossy())) {
            let name = below(&pair.images, &path);
            let label = labels.get(stem(&name)).cloned();
            used.insert(stem(&name).to_owned());
            self.items.push(Item { part: pair.part, name, image: Some(path), label });
        }
        for (name, label) in labels.into_iter().filter(|(name, _)| !used.contains(name)) {
            self.items.push(Item { part: pair.part, name, image: None, label: Some(label) });
        }
        Ok(())
    }

    /// All images that a text file lists.
    fn list(&mut self, part: Split, list: &Path, base: &Path) -> Result<(), FormatError> {
        for line in read_text(list)?.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let place = line.strip_prefix("./").unwrap_or(line);
            let from_list = list.parent().map(|p| tidy(&p.join(place))).filter(|p| p.exists());
            let image = from_list.unwrap_or_else(|| tidy(&base.join(place)));
            let label = labels_of(&image).with_extension("txt");
            let name = below(base, &image);
            let name = name.strip_prefix("images/").unwrap_or(&name).to_owned();
            let label = Some(label).filter(|l| l.is_file());
            let image = Some(image).filter(|i| i.is_file());
            if label.is_none() && image.is_none() {
                self.missing.push(format!("`{line}` of `{}` is not there", list.display()));
                continue;
            }
            self.items.push(Item { part: Some(part), name, image, label });
        }
        Ok(())
    }

    /// Puts the part before the names when two parts use the same one.
    fn separate_names(&mut self) {
        let mut seen = BTreeSet::new();
        if self.items.iter().all(|i| seen.insert(i.name.clone())) {
            return;
        }
        for i in &mut self.items {
            if let Some(part) = i.part {
                i.name = format!("{}/{}", part.name(), i.name);
            }
        }
    }
}

/// `images` and `labels` folders below `root`, by part where they have parts; else `root` for both.
fn pairs_by_folder(root: &Path) -> Vec<Pair> {
    let (images, labels) = (root.join("images"), root.join("labels"));
    let labels = if labels.is_dir() { labels } else { root.to_path_buf() };
    let images = if images.is_dir() { images } else { root.to_path_buf() };
    let parts: Vec<Pair> = [Split::Train, Split::Val, Split::Test]
        .into_iter()
        .map(|s| Pair { part: Some(s), images: images.join(s.name()), labels: labels.join(s.name()) })
        .filter(|p| p.labels.is_dir())
        .collect();
    if parts.is_empty() { vec![Pair { part: None, images, labels }] } else { parts }
}

/// True when a folder or file looks like a YOLO data set.
pub(super) fn looks_like_yolo(source: &Path) -> bool {
    if let Some(yaml) = yaml_of(source) {
        let text = read_text(&yaml).unwrap_or_default();
        return text.lines().any(|l| ["names:", "nc:", "train:"].iter().any(|k| l.starts_with(k)));
    }
    let list = |p: &Path| list_of_classes(p).is_ok_and(|l| l.is_some());
    source.is_dir() && (list(source) || list(&source.join("labels")))
}

fn yaml_of(source: &Path) -> Option<PathBuf> {
    let is_yaml = |p: &Path| has_extension(p, "yaml") || has_extension(p, "yml");
    if !source.is_dir() {
        return is_yaml(source).then(|| source.to_path_buf());
    }
    if let Some(known) = YAML_NAMES.iter().map(|n| source.join(n)).find(|p| p.is_file()) {
        return Some(known);
    }
    let entries = fs::read_dir(source).ok()?.filter_map(Result::ok).map(|e| e.path());
    let mut yamls: Vec<_> = entries.filter(|p| is_yaml(p)).collect();
    if yamls.len() == 1 { yamls.pop() } else { None }
}

/// The file, and its `names`: a list, or a map from index to name. Read by type, because a name may look like a number
/// or a truth value.
fn parse_yaml(path: &Path) -> Result<(DataYaml<IgnoredAny>, Option<Names>), FormatError> {
    let text = read_text(path)?;
    let data: DataYaml<IgnoredAny> = serde_saphyr::from_str(&text).map_err(|e| {
        let (line, column) = e.location().map_or((1, 1), |l| (l.line() as usize, l.column() as usize));
        let reason = e.to_string().lines().next().unwrap_or_default().to_owned();
        FormatError::Syntax { path: path.into(), line, column, reason, fix: "mend it there".into() }
    })?;
    let names = if data.names.is_none() {
        None
    } else if let Ok(list) = serde_saphyr::from_str::<DataYaml<Vec<String>>>(&text) {
        list.names.map(|all| all.into_iter().enumerate().collect())
    } else if let Ok(map) = serde_saphyr::from_str::<DataYaml<Names>>(&text) {
        map.names
    } else {
        return Err(no_names(path, "`names` is neither a list of names nor a map from numbers to names"));
    };
    Ok((data, names.map(|n| n.into_iter().map(|(i, name)| (i, name.trim().to_owned())).collect())))
}

/// The classes of a plain list, one a line.
fn list_of_classes(folder: &Path) -> Result<Option<Names>, FormatError> {
    let Some(path) = CLASS_LISTS.iter().map(|n| folder.join(n)).find(|p| p.is_file()) else { return Ok(None) };
    let text = read_text(&path)?;
    Ok(Some(text.trim_end().lines().map(|l| l.trim().to_owned()).enumerate().filter(|(_, n)| !n.is_empty()).collect()))
}

fn no_names(path: &Path, reason: &str) -> FormatError {
    FormatError::content(path, reason, "write the class names, in order: `names: [valve, pump]` in `data.yaml`")
}

/// The folder or file of labels for one of images: the last `images` in its path is `labels`.
fn labels_of(images: &Path) -> PathBuf {
    let parts: Vec<_> = images.components().collect();
    match parts.iter().rposition(|c| c.as_os_str() == "images") {
        Some(at) => {
            let name = |(i, c): (usize, &Component)| if i == at { "labels".into() } else { c.as_os_str().to_owned() };
            parts.iter().enumerate().map(name).collect()
        }
        None => images.to_path_buf(),
    }
}

/// The path without `.` and `..`.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for c in path.components() {
        match c {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => _ = out.pop(),
            c => out.push(c),
        }
    }
    out
}
