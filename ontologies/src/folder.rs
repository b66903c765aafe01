//! Reading a folder of templates from disk.
//!
//! Owns which files count. Refuses to judge them: that is [`crate::build()`]'s.

use std::fs;
use std::path::{Path, PathBuf};

use crate::build::Template;

/// Extensions of pictures, in lower case.
pub const PICTURE_EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp"];
/// Names of the file that edits the ontology, the first found wins.
pub const YAML_NAMES: [&str; 2] = ["ontology.yaml", "ontology.yml"];

/// What a templates folder holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folder {
    /// Pictures, sorted by path.
    pub templates: Vec<Template>,
    /// The ontology file's path and text, when there is one in the folder or beside it.
    pub yaml: Option<(PathBuf, String)>,
}

/// A folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading `{path}`")]
pub struct FolderError {
    /// File or folder.
    pub path: PathBuf,
    /// Cause.
    pub source: std::io::Error,
}

/// True for a path that ends like a picture and is not hidden.
pub fn is_picture(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    !file.starts_with('.')
        && file.rsplit_once('.').is_some_and(|(_, e)| PICTURE_EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()))
}

/// Reads all pictures below `dir` and the ontology file in it, or else in its parent. Hidden files are left out.
pub fn read(dir: &Path) -> Result<Folder, FolderError> {
    let mut folder = Folder::default();
    walk(dir, "", &mut folder.templates)?;
    folder.templates.sort_by(|a, b| a.path.cmp(&b.path));
    let places = [Some(dir), dir.parent()];
    for path in places.into_iter().flatten().flat_map(|d| YAML_NAMES.map(|n| d.join(n))) {
        if path.is_file() {
            let text = fs::read_to_string(&path).map_err(|source| FolderError { path: path.clone(), source })?;
            folder.yaml = Some((path, text));
            break;
        }
    }
    Ok(folder)
}

fn walk(dir: &Path, prefix: &str, out: &mut Vec<Template>) -> Result<(), FolderError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError { path, source }
    };
    for entry in fs::read_dir(dir).map_err(fail(dir))? {
        let path = entry.map_err(fail(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), out)?;
        } else if is_picture(&name) {
            out.push(Template { path: format!("{prefix}{name}"), bytes: fs::read(&path).map_err(fail(&path))? });
        }
    }
    Ok(())
}
