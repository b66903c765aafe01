//! The content-addressed store: blobs by digest, written once, verified when read.
//!
//! Layout below the root: `cas/ab/abcdef…` (blobs and manifests), `keys/<key>.json` (results of stages),
//! `items/` (results of items), `scratch/<key>/` (checkpoints of unfinished stages), `tmp/` (files being written).

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use crate::{
    artifact::{Blob, Manifest},
    digest::Digest,
};

/// What can go wrong with stored bytes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum StoreError {
    #[error("{action} `{path}`")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the disk is full: {needed} bytes for `{path}` could not be written; free some space (`pipeline runs gc` shows what can go) and run again, finished work is kept"
    )]
    DiskFull { path: PathBuf, needed: u64, source: io::Error },
    #[error("the folder of `{path}` cannot be written to; check its permissions or choose another with --runs")]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("blob {digest} is not in the store and no input file has it; run again from the stage that makes it")]
    Missing { digest: Digest },
    #[error("file `{path}` is damaged: its bytes no longer have digest {expected}")]
    Damaged { path: PathBuf, expected: Digest },
    #[error("input file `{path}` changed while the run was reading it; run again")]
    SourceChanged { path: PathBuf },
    #[error("artifact {} has no blob `{name}`", artifact.short())]
    NoSuchBlob { artifact: Digest, name: String },
    #[error("{what} is not the JSON that is expected")]
    Json { what: String, source: serde_json::Error },
    #[error("artifact {} is of kind `{found}`, and `{expected}` is needed", artifact.short())]
    WrongKind { artifact: Digest, found: String, expected: String },
    #[error("{0}")]
    Invalid(String),
}

impl StoreError {
    /// Names the action and the path of an I/O error; full disks and read-only folders get their own words.
    pub fn io(action: &'static str, path: &Path, needed: u64) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, needed, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if action != "reading" => {
                Self::ReadOnly { path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

/// The store. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Input files that lie outside the store, by digest.
    sources: Arc<RwLock<BTreeMap<Digest, PathBuf>>>,
}

impl Store {
    /// Opens the store at `root`, making its folders.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        for dir in ["cas", "keys", "items", "scratch", "tmp"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(StoreError::io("creating folder", &dir, 0))?;
        }
        Ok(Self { root, sources: Arc::default() })
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob of a digest lies, or would lie.
    pub fn cas_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("cas").join(&hex[..2]).join(hex)
    }

    /// Tells the store that an input file has these bytes.
    pub fn add_source(&self, digest: Digest, path: PathBuf) {
        self.sources.write().expect("no holder of this lock panics").insert(digest, path);
    }

    fn source(&self, digest: Digest) -> Option<PathBuf> {
        self.sources.read().expect("no holder of this lock panics").get(&digest).cloned()
    }

    /// True when the bytes can be had (their content is not checked here).
    pub fn has(&self, digest: Digest) -> bool {
        self.cas_path(digest).is_file() || self.source(digest).is_some_and(|p| p.is_file())
    }

    /// Stores bytes, durably.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.cas_path(digest);
        if !path.exists() {
            self.write_file(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Writes a file beside, flushes it to disk and renames it into place: it is there whole or not at all.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let needed = bytes.len() as u64;
        let dir = path.parent().expect("files of the store lie in folders");
        fs::create_dir_all(dir).map_err(StoreError::io("creating folder", dir, 0))?;
        let tmp_dir = self.root.join("tmp");
        let mut file = tempfile::NamedTempFile::new_in(&tmp_dir).map_err(StoreError::io(
            "creating a file in",
            &tmp_dir,
            needed,
        ))?;
        file.write_all(bytes).map_err(StoreError::io("writing", path, needed))?;
        file.as_file().sync_all().map_err(StoreError::io("flushing", path, needed))?;
        file.persist(path).map_err(|e| StoreError::io("writing", path, needed)(e.error))?;
        Ok(())
    }

    /// The verified bytes of a digest, from the store or from the input file that has them.
    pub fn read(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.cas_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == digest => return Ok(bytes),
            Ok(_) => return Err(StoreError::Damaged { path, expected: digest }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("reading", &path, 0)(e)),
        }
        let path = self.source(digest).ok_or(StoreError::Missing { digest })?;
        let bytes = fs::read(&path).map_err(StoreError::io("reading", &path, 0))?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(StoreError::SourceChanged { path }) }
    }

    /// The verified bytes of a blob.
    pub fn read_blob(&self, blob: &Blob) -> Result<Vec<u8>, StoreError> {
        self.read(blob.digest)
    }

    /// The manifest of an artifact.
    pub fn manifest(&self, artifact: Digest) -> Result<Manifest, StoreError> {
        serde_json::from_slice(&self.read(artifact)?)
            .map_err(|source| StoreError::Json { what: format!("artifact {}", artifact.short()), source })
    }
}
