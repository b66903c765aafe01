//! Inputs of a run: folders, single files, globs and lists become artifacts whose blobs stay where they are.
//!
//! Owns which files belong to an input, their names, and what is left out and why. The pictures are not copied into
//! the store: it holds the manifest, and finds the bytes in the input's own files. Files that did not change since
//! the last scan are not read (see [`crate::statcache`]).

use std::{io, path::PathBuf};

use crate::{
    artifact::Manifest,
    digest::Digest,
    store::{Store, StoreError},
};

/// An input as the project file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Name of the input, such as `images`.
    pub name: String,
    /// Kind of the artifact it becomes.
    pub kind: String,
    /// A folder, a file, a glob (`*`, `?`, `[a-z]`, `**`, `{a,b}`) or a list (`.txt`, one path a line).
    pub path: PathBuf,
    /// Extensions, without the dot, of the files that belong to it, in small letters; `None` takes every file.
    pub extensions: Option<Vec<String>>,
    /// Whether folders below the folder belong to it.
    pub recursive: bool,
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The artifact's digest; its manifest is in the store.
    pub artifact: Digest,
    /// Number of files.
    pub files: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
    /// Files that had to be read because they are new or changed.
    pub hashed: u64,
    /// Files that do not belong to the input, with the reason.
    pub left_out: Vec<(String, String)>,
}

impl Scan {
    /// The manifest, read from the store: a run in which nothing changed never needs it.
    pub fn manifest(&self, store: &Store) -> Result<Manifest, StoreError> {
        store.manifest(self.artifact)
    }
}

/// Why an input cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum SourceError {
    #[error("stopped on request")]
    Cancelled,
    #[error("input `{input}`: there is no `{path}`; check the path in the project file")]
    NotFound { input: String, path: PathBuf },
    #[error("input `{input}`: no {wanted} in `{path}`{hint}")]
    Empty { input: String, path: PathBuf, wanted: String, hint: String },
    #[error("input `{input}`: `{path}` is no pattern: {message}")]
    Pattern { input: String, path: PathBuf, message: String },
    #[error("input `{input}`: list `{list}`, line {line}: {message}")]
    List { input: String, list: PathBuf, line: usize, message: String },
    #[error("input `{input}`: reading `{path}`")]
    Io { input: String, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}
