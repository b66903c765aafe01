//! Where an export goes: a file or a folder, written beside and renamed into place, never over anything of the user's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::account::{Account, Effect, Problem};
use super::text::{below, files_below, stem};
use super::{Format, FormatError, WriteOptions};
use crate::annotation::{Annotation, AnnotationSet, ClassInfo, ImageAnnotations, Skipped};

/// Lies in every exported folder: marks it as an export, and carries what the format cannot.
pub(super) const SIDECAR: &str = "provenance.json";

/// Marks single exported files.
pub(super) const MARK: &str = "pipeline-export";

/// What an exported folder says beside the format's own files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// [`MARK`].
    pub generator: String,
    pub format: Format,
    pub classes: Vec<ClassInfo>,
    pub skipped: Vec<Skipped>,
    pub images: Vec<SidecarImage>,
    /// Every file of the export -> BLAKE3 of its bytes; empty for pictures.
    pub files: BTreeMap<String, String>,
}

/// One image of a [`Sidecar`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SidecarImage {
    pub name: String,
    /// The label file, below the folder.
    pub label: String,
    /// The picture, below the folder, copied or not.
    pub file: String,
    pub width: u32,
    pub height: u32,
    #[serde(default)]
    pub digest: String,
    /// Labels by their text in the label file; empty where the format carries them whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<SidecarLabel>,
}

/// One label of a [`SidecarImage`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SidecarLabel {
    pub text: String,
    pub annotation: Annotation,
}

impl Sidecar {
    pub fn new(format: Format, set: &AnnotationSet) -> Self {
        Self {
            generator: MARK.into(),
            format,
            classes: set.classes.clone(),
            skipped: set.skipped.clone(),
            images: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    /// The sidecar of an exported folder; `None` when there is none, or one of another program.
    pub fn open(folder: &Path) -> Option<Self> {
        let text = fs::read(folder.join(SIDECAR)).ok()?;
        serde_json::from_slice::<Self>(&text).ok().filter(|s| s.generator == MARK)
    }

    /// True when a file of that name is there, but is not readable as one.
    pub fn is_damaged(folder: &Path) -> bool {
        let is_ours = fs::read_to_string(folder.join(SIDECAR)).is_ok_and(|t| t.contains(MARK));
        is_ours && Self::open(folder).is_none()
    }
}

impl SidecarImage {
    /// An image whose label and picture lie there.
    pub fn of(image: &ImageAnnotations, label: &str, file: &str) -> Self {
        Self {
            name: image.image.clone(),
            label: label.into(),
            file: file.into(),
            width: image.width,
            height: image.height,
            digest: image.digest.clone(),
            labels: Vec::new(),
        }
    }
}

/// An export folder in the making.
pub(super) struct Folder {
    target: PathBuf,
    scratch: TempDir,
    files: BTreeMap<String, String>,
}

impl Folder {
    /// Starts an export, after a look at what is at `target` now.
    pub fn create(target: &Path) -> Result<Self, FormatError> {
        let target = std::path::absolute(target).map_err(|e| FormatError::io(target, e))?;
        refuse_foreign_folder(&target)?;
        let scratch = scratch_beside(&target)?;
        let root = scratch.path().join("new");
        fs::create_dir(&root).map_err(|e| FormatError::io(&target, e))?;
        Ok(Self { target, scratch, files: BTreeMap::new() })
    }

    /// Makes a folder, also when nothing will be put in it.
    pub fn folder(&self, rel: &str) -> Result<(), FormatError> {
        fs::create_dir_all(self.scratch.path().join("new").join(rel))
            .map_err(|e| FormatError::io(&self.target.join(rel), e))
    }

    /// Puts a text file.
    pub fn put(&mut self, rel: &str, text: &str) -> Result<(), FormatError> {
        self.bytes(rel, text.as_bytes())?;
        self.files.insert(rel.into(), blake3::hash(text.as_bytes()).to_hex().to_string());
        Ok(())
    }

    /// Copies an image's bytes, if the caller gives them. A picture that cannot be had is entered, and its labels stay.
    pub fn put_image(
        &mut self,
        options: &WriteOptions,
        image: &str,
        rel: &str,
        account: &mut Account,
    ) -> Result<(), FormatError> {
        let Some(source) = options.images else { return Ok(()) };
        match source(image) {
            Ok(bytes) => {
                self.bytes(rel, &bytes)?;
                self.files.insert(rel.into(), String::new());
            }
            Err(e) => account.problems.push(Problem {
                effect: Effect::Lost,
                file: image.into(),
                line: None,
                reason: format!("the picture cannot be read: {e}"),
                fix: format!("put it at `{rel}`; its labels were written"),
            }),
        }
        Ok(())
    }

    fn bytes(&self, rel: &str, bytes: &[u8]) -> Result<(), FormatError> {
        let path = self.scratch.path().join("new").join(rel);
        let fail = |e| FormatError::io(&self.target.join(rel), e);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(fail)?;
        }
        fs::write(&path, bytes).map_err(fail)
    }

    /// Puts the sidecar and moves the folder to its place; an earlier export there is replaced.
    pub fn commit(self, mut sidecar: Sidecar) -> Result<(), FormatError> {
        sidecar.files.clone_from(&self.files);
        let fail = |e| FormatError::io(&self.target, e);
        let new = self.scratch.path().join("new");
        write_synced(&new.join(SIDECAR), to_json(&sidecar).as_bytes()).map_err(fail)?;
        let old = self.scratch.path().join("old");
        let replaces = self.target.exists();
        if replaces {
            refuse_foreign_folder(&self.target)?;
            fs::rename(&self.target, &old).map_err(fail)?;
        }
        if let Err(e) = fs::rename(&new, &self.target) {
            if replaces {
                fs::rename(&old, &self.target).map_err(fail)?;
            }
            return Err(fail(e));
        }
        Ok(())
    }
}

/// Compact JSON of a value that always serialises.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps have string keys and no serialiser here fails")
}

/// Writes a single-file export.
pub(super) fn write_file(target: &Path, contents: &str) -> Result<(), FormatError> {
    let target = std::path::absolute(target).map_err(|e| FormatError::io(target, e))?;
    if target.is_dir() {
        return Err(FormatError::Occupied { path: target, reason: "a folder is there".into() });
    }
    if let Ok(old) = fs::read(&target) {
        let text = String::from_utf8_lossy(&old);
        if !text.contains(MARK) && !text.trim().is_empty() && text.trim() != "[]" {
            let reason = "a file that is not an earlier export is there".into();
            return Err(FormatError::Occupied { path: target, reason });
        }
    }
    let scratch = scratch_beside(&target)?;
    let new = scratch.path().join("new");
    write_synced(&new, contents.as_bytes())
        .and_then(|()| fs::rename(&new, &target))
        .map_err(|e| FormatError::io(&target, e))
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn scratch_beside(target: &Path) -> Result<TempDir, FormatError> {
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent)
        .and_then(|()| tempfile::Builder::new().prefix(".export-").tempdir_in(parent))
        .map_err(|e| FormatError::io(parent, e))
}

/// Only an empty folder, or an earlier export that nobody has touched since, may be replaced.
fn refuse_foreign_folder(target: &Path) -> Result<(), FormatError> {
    let occupied = |reason: String| Err(FormatError::Occupied { path: target.into(), reason });
    if !target.exists() {
        return Ok(());
    }
    if !target.is_dir() {
        return occupied("a file is there".into());
    }
    if fs::read_dir(target).map_err(|e| FormatError::io(target, e))?.next().is_none() {
        return Ok(());
    }
    let Some(sidecar) = Sidecar::open(target) else {
        return occupied("the folder is not empty and not an earlier export".into());
    };
    for path in files_below(target)? {
        let rel = below(target, &path);
        // Trainers leave caches of the labels behind.
        if rel == SIDECAR || path.extension().is_some_and(|e| e == "cache") {
            continue;
        }
        match sidecar.files.get(&rel) {
            None => return occupied(format!("`{rel}` was added to the earlier export there")),
            Some(digest) if digest.is_empty() => {}
            Some(digest) => {
                let bytes = fs::read(&path).map_err(|e| FormatError::io(&path, e))?;
                if blake3::hash(&bytes).to_hex().as_str() != digest {
                    return occupied(format!("`{rel}` was edited since the earlier export there"));
                }
            }
        }
    }
    Ok(())
}

/// A path without extension for each image, such that no two images, and no image and folder, share a file once
/// `extension` is put on, also where upper and lower case are one. Most keep their own stem.
pub(super) fn mirror_paths<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    extension: &str,
    rename: impl Fn(&str) -> String,
) -> BTreeMap<String, String> {
    let mut stems: BTreeMap<String, usize> = BTreeMap::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for name in names.clone() {
        let path = rename(name);
        *stems.entry(stem(&path).to_lowercase()).or_default() += 1;
        taken.extend(path.match_indices('/').map(|(i, _)| path[..i].to_lowercase()));
    }
    let mut mirrored = BTreeMap::new();
    for name in names {
        let path = rename(name);
        let mut at = if stems[&stem(&path).to_lowercase()] == 1 { stem(&path).to_owned() } else { path.clone() };
        let mut turn = 2;
        while !taken.insert(format!("{at}.{extension}").to_lowercase()) {
            at = format!("{path}~{turn}");
            turn += 1;
        }
        mirrored.insert(name.to_owned(), at);
    }
    mirrored
}
