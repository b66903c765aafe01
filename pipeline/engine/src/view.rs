//! Views: artifacts as plain folders, for people and for programs that know nothing of the store.
//!
//! Owns `<store>/views/<digest>/`, which can be deleted at any time. Files of a view are read-only copies (reflinks
//! where the file system has them). Blobs that are input files are not copied unless asked for: `files.txt` lists
//! where they lie.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::{
    artifact::Blob,
    digest::Digest,
    store::{Store, StoreError},
};

/// The list of the input files of a view, one path a line.
pub const LIST: &str = "files.txt";

/// What becomes of blobs that are input files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFiles {
    /// Their paths are listed in [`LIST`].
    List,
    /// They are copied like all others.
    Copy,
}

/// The folder with an artifact's blobs as plain files; made when it is not there.
pub fn materialise(store: &Store, artifact: Digest, input_files: InputFiles) -> Result<PathBuf, StoreError> {
    let suffix = if input_files == InputFiles::Copy { "-all" } else { "" };
    let views = store.root().join("views");
    let view = views.join(format!("{artifact}{suffix}"));
    if view.is_dir() {
        return Ok(view);
    }
    let manifest = store.manifest(artifact)?;
    let tmp = tempfile::tempdir_in(store.tmp_dir()?).map_err(StoreError::io("creating folder in", &views, 0))?;
    let made = tmp.path().join("view");
    fs::create_dir(&made).map_err(StoreError::io("creating folder", &made, 0))?;
    let mut list = String::new();
    for blob in &manifest.blobs {
        let in_store = store.cas_path(blob.digest);
        match store.source(blob.digest) {
            Some(path) if input_files == InputFiles::List && !in_store.is_file() => {
                let _ = writeln!(list, "{}", path.display());
            }
            _ => copy_blob(store, blob, &in_store, &made)?,
        }
    }
    if !list.is_empty() && !made.join(LIST).exists() {
        let path = made.join(LIST);
        fs::write(&path, &list).map_err(StoreError::io("writing", &path, list.len() as u64))?;
    }
    fs::create_dir_all(&views).map_err(StoreError::io("creating folder", &views, 0))?;
    match fs::rename(&made, &view) {
        // Another process may have made it meanwhile; it is the same.
        Err(_) if view.is_dir() => {}
        other => other.map_err(StoreError::io("creating", &view, 0))?,
    }
    Ok(view)
}

fn copy_blob(store: &Store, blob: &Blob, in_store: &Path, folder: &Path) -> Result<(), StoreError> {
    let name = safe_path(&blob.name)
        .ok_or_else(|| StoreError::Invalid(format!("blob name `{}` is no path below a folder", blob.name)))?;
    let path = folder.join(name);
    let dir = path.parent().expect("it lies in `folder`");
    fs::create_dir_all(dir).map_err(StoreError::io("creating folder", dir, 0))?;
    if reflink_copy::reflink(in_store, &path).is_err() {
        fs::write(&path, store.read_blob(blob)?).map_err(StoreError::io("writing", &path, blob.size))?;
    }
    let set = || {
        let mut permissions = fs::metadata(&path)?.permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions)
    };
    set().map_err(StoreError::io("writing", &path, 0))
}

/// A blob's name as a path below a folder; `None` for one that would lie elsewhere.
pub fn safe_path(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let normal = path.components().all(|c| matches!(c, Component::Normal(_)));
    (normal && !name.is_empty() && !name.ends_with('/')).then(|| path.to_owned())
}

/// Makes `<folder>/<name>` show another folder, in place of what it showed: a relative link, so that the project can be moved, or a copy where the system
/// has no links for everyone.
pub fn link_into(folder: &Path, name: &str, view: &Path) -> Result<(), StoreError> {
    let link = folder.join(name);
    let make = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        place(&relative(&fs::canonicalize(folder)?, &fs::canonicalize(view)?), view, &link)
    };
    make().map_err(StoreError::io("linking", &link, 0))
}

#[cfg(unix)]
fn place(target: &Path, _view: &Path, link: &Path) -> io::Result<()> {
    // Links are replaced by renaming, so that there is one at every moment.
    let tmp = link.with_file_name(format!(
        ".{}-{}",
        link.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let _ = fs::remove_file(&tmp);
    std::os::unix::fs::symlink(target, &tmp)?;
    fs::rename(&tmp, link)
}

#[cfg(not(unix))]
fn place(_target: &Path, view: &Path, link: &Path) -> io::Result<()> {
    fn copy(from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy(&entry.path(), &to)?;
            } else {
                reflink_copy::reflink_or_copy(entry.path(), &to)?;
            }
        }
        Ok(())
    }
    if link.is_dir() {
        fs::remove_dir_all(link)?;
    }
    copy(view, link)
}

/// The way from a folder to a path; both are absolute and free of links.
fn relative(folder: &Path, to: &Path) -> PathBuf {
    let shared = folder.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CancelToken, InputSpec, Manifest, artifact::ArtifactWriter, event::NoSink, sources::scan, store::remove_file,
    };

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_view_has_the_files_is_read_only_and_comes_back() {
        let (_dir, store) = store();
        let mut writer = ArtifactWriter::new(&store);
        writer.put("labels/ä b.txt", b"1").unwrap();
        writer.put("best.bin", b"22").unwrap();
        let a = writer.finish("files", 1, serde_json::Value::Null).unwrap();
        for _ in 0..2 {
            let view = materialise(&store, a, InputFiles::List).unwrap();
            assert_eq!(fs::read(view.join("labels/ä b.txt")).unwrap(), b"1");
            assert!(fs::metadata(view.join("best.bin")).unwrap().permissions().readonly());
            assert!(!view.join(LIST).exists());
            assert_eq!(materialise(&store, a, InputFiles::List).unwrap(), view);
            fs::remove_dir_all(view).unwrap();
        }
        assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_view_of_damaged_or_lost_blobs_is_not_made() {
        let (_dir, store) = store();
        let mut writer = ArtifactWriter::new(&store);
        writer.put("a", b"1").unwrap();
        let a = writer.finish("files", 1, serde_json::Value::Null).unwrap();
        remove_file(&store.cas_path(Digest::of(b"1"))).unwrap();
        assert!(matches!(materialise(&store, a, InputFiles::List), Err(StoreError::Missing { .. })));
        assert!(!store.root().join("views").join(a.to_string()).exists());
    }

    #[test]
    fn names_that_lead_outside_are_refused() {
        let (_dir, store) = store();
        for name in ["../x", "/x", "a/../../x", "", "a/"] {
            let blob = Blob { name: name.into(), digest: store.put(b"1").unwrap(), size: 1 };
            let manifest = Manifest::new("files", 1, serde_json::Value::Null, vec![blob]);
            let a = store.put(&manifest.to_bytes()).unwrap();
            assert!(matches!(materialise(&store, a, InputFiles::List), Err(StoreError::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn input_files_are_listed_or_copied() {
        let (dir, store) = store();
        let input = dir.path().join("in");
        fs::create_dir_all(input.join("b")).unwrap();
        fs::write(input.join("b/x y.png"), "1").unwrap();
        let spec = InputSpec {
            name: "i".into(),
            kind: "images".into(),
            path: input.clone(),
            extensions: None,
            recursive: true,
        };
        let a = scan(&store, &spec, &CancelToken::new(), &NoSink).unwrap().artifact;
        let view = materialise(&store, a, InputFiles::List).unwrap();
        let list = fs::read_to_string(view.join(LIST)).unwrap();
        assert_eq!(Path::new(list.trim_end()), input.join("b/x y.png"));
        // The list is an input as it stands.
        let again = scan(&store, &InputSpec { path: view.join(LIST), ..spec }, &CancelToken::new(), &NoSink).unwrap();
        assert_eq!(again.files, 1);
        let copy = materialise(&store, a, InputFiles::Copy).unwrap();
        assert_eq!(fs::read(copy.join("b/x y.png")).unwrap(), b"1");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_replaced() {
        let (dir, store) = store();
        let run = dir.path().join("runs/7");
        for bytes in [b"1", b"2"] {
            let mut writer = ArtifactWriter::new(&store);
            writer.put("a", bytes).unwrap();
            let a = writer.finish("files", 1, serde_json::Value::Null).unwrap();
            let view = materialise(&store, a, InputFiles::List).unwrap();
            link_into(&run, "model", &view).unwrap();
            assert_eq!(fs::read(run.join("model/a")).unwrap(), bytes);
        }
        assert!(fs::read_link(run.join("model")).unwrap().starts_with("../../store/views"));
        let moved = tempfile::tempdir().unwrap();
        fs::rename(dir.path(), moved.path().join("p")).unwrap();
        assert_eq!(fs::read(moved.path().join("p/runs/7/model/a")).unwrap(), b"2");
    }
}
