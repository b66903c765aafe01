//! Inputs of a run: folders, single files, globs and lists become artifacts whose blobs stay where they are.
//!
//! Owns which files belong to an input, their names, and what is left out and why. The pictures are not copied into
//! the store: it holds the manifest, and finds the bytes in the input's own files. Files that did not change since
//! the last scan are not read: the stat cache has their digests.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use rayon::prelude::*;

use crate::{
    artifact::{Blob, Manifest},
    cancel::CancelToken,
    digest::Digest,
    event::{Event, EventSink},
    statcache::{Record, Stat, StatCache, since_1970},
    store::{Store, StoreError},
    walk::{Found, Walk},
};

/// Version of the layout of scanned artifacts.
const FORMAT: u32 = 1;

/// An input as the project file names it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    #[error("these inputs are not there: {}; check the paths in the project file", list(inputs))]
    SeveralNotFound { inputs: Vec<(String, PathBuf)> },
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

fn list(inputs: &[(String, PathBuf)]) -> String {
    inputs.iter().map(|(name, path)| format!("`{name}` (`{}`)", path.display())).collect::<Vec<_>>().join(", ")
}

/// An error that names every input that is not there, so that they can be mended together.
pub(crate) fn all_there<'a>(specs: impl Iterator<Item = &'a InputSpec>) -> Result<(), SourceError> {
    let is_there = |s: &&InputSpec| s.path.exists() || split_glob(&s.path).is_some();
    let mut missing: Vec<_> = specs.filter(|s| !is_there(s)).map(|s| (s.name.clone(), s.path.clone())).collect();
    match missing.len() {
        0 => Ok(()),
        1 => {
            let (input, path) = missing.remove(0);
            Err(SourceError::NotFound { input, path })
        }
        _ => Err(SourceError::SeveralNotFound { inputs: missing }),
    }
}

/// Scans an input: finds its files, reads those that changed, stores the manifest, and tells the store where the
/// bytes are. Progress events bear the input's name as `stage`.
pub fn scan(store: &Store, spec: &InputSpec, cancel: &CancelToken, sink: &dyn EventSink) -> Result<Scan, SourceError> {
    let path = std::path::absolute(&spec.path).map_err(|e| io_error(spec, &spec.path)(e))?;
    let mut walk = Walk::new(spec, cancel);
    let root = find(&path, &mut walk)?;
    let Walk { mut found, mut left_out, .. } = walk;
    left_out.sort();
    if found.is_empty() {
        return Err(empty(spec, &path, &left_out));
    }

    let cache_path = cache_path(store, spec, &path);
    let cache = StatCache::load(&cache_path);
    let known = cache.as_ref().filter(|cache| merge(&mut found, cache)).map(StatCache::artifact);
    drop(cache);
    let (artifact, hashed) = if let Some(artifact) = known.filter(|a| store.cas_path(*a).is_file()) {
        (artifact, 0)
    } else {
        let hashed = hash(spec, &root, &mut found, &mut left_out, cancel, sink);
        let save = |artifact| {
            let records = found.iter().filter_map(|f| {
                let (digest, racy) = f.digest?;
                Some(Record { name: &f.name, stat: f.stat, digest, racy })
            });
            StatCache::save(store, &cache_path, artifact, records)
        };
        if cancel.is_cancelled() {
            // What was read so far need not be read again; a digest of nothing fits no artifact.
            save(Digest::from_bytes([0; 32]))?;
            return Err(SourceError::Cancelled);
        }
        if found.is_empty() {
            return Err(empty(spec, &path, &left_out));
        }
        let blob = |f: &Found| {
            let (digest, _) = f.digest.expect("every file that is left was read");
            Blob { name: f.name.clone(), digest, size: f.stat.size }
        };
        let blobs = found.iter().map(blob).collect();
        let manifest = Manifest::new(&spec.kind, FORMAT, serde_json::Value::Null, blobs);
        let artifact = store.put_or_remember(&manifest.to_bytes())?;
        match save(artifact) {
            Ok(()) | Err(StoreError::ReadOnly { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        (artifact, hashed)
    };
    for f in &found {
        if let (Some(path), Some((digest, _))) = (&f.path, f.digest) {
            store.add_source(digest, path.clone());
        }
    }
    store.add_source_folder(root, artifact);
    left_out.sort();
    let bytes = found.iter().map(|f| f.stat.size).sum();
    Ok(Scan { artifact, files: found.len() as u64, bytes, hashed, left_out })
}

/// Finds the files of the input at the absolute `path`, sorted by name; the result is the folder that the names start
/// at.
fn find(path: &Path, walk: &mut Walk<'_>) -> Result<PathBuf, SourceError> {
    let spec = walk.spec;
    let not_found = || SourceError::NotFound { input: spec.name.clone(), path: spec.path.clone() };
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            walk.folder(path)?;
            Ok(path.to_owned())
        }
        Ok(_) => {
            let is_list = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"))
                && !spec.extensions.as_ref().is_some_and(|e| e.iter().any(|e| wanted_extension(e) == "txt"));
            let folder = path.parent().unwrap_or(path);
            if is_list {
                read_list(path, folder, walk)?;
            } else {
                let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(not_found)?;
                walk.file(name.to_owned(), path, None)?;
            }
            Ok(folder.to_owned())
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            // `**` and the like in a folder's name are wildcards only when no such folder is there.
            let (base, pattern) = split_glob(path).ok_or_else(not_found)?;
            if !base.is_dir() {
                return Err(SourceError::NotFound { input: spec.name.clone(), path: base });
            }
            let patterns = braces(&pattern).iter().map(|p| glob::Pattern::new(p)).collect::<Result<Vec<_>, _>>();
            walk.patterns = Some(patterns.map_err(|e| SourceError::Pattern {
                input: spec.name.clone(),
                path: spec.path.clone(),
                message: e.to_string(),
            })?);
            walk.folder(&base)?;
            Ok(base)
        }
        Err(e) => Err(io_error(spec, path)(e)),
    }
}

fn io_error(spec: &InputSpec, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    move |source| SourceError::Io { input: spec.name.clone(), path: path.to_owned(), source }
}

/// An extension of the settings as it is compared.
pub(crate) fn wanted_extension(e: &str) -> &str {
    e.trim_start_matches('.')
}

fn empty(spec: &InputSpec, path: &Path, left_out: &[(String, String)]) -> SourceError {
    let wanted = match &spec.extensions {
        Some(list) => {
            let list: Vec<_> = list.iter().map(|e| format!(".{}", wanted_extension(e))).collect();
            format!("file ending in {}", list.join(", "))
        }
        None => "file".to_owned(),
    };
    let hint = match left_out {
        [] => String::new(),
        [(name, reason)] => format!("; `{name}` was left out: {reason}"),
        [(name, reason), ..] => format!("; {} files were left out, such as `{name}`: {reason}", left_out.len()),
    };
    SourceError::Empty { input: spec.name.clone(), path: path.to_owned(), wanted, hint }
}

/// The first part of a path without wildcards, and the pattern below it.
fn split_glob(path: &Path) -> Option<(PathBuf, String)> {
    let parts: Vec<_> = path.components().collect();
    let is_wild = |c: &Component<'_>| c.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']);
    let first = parts.iter().position(is_wild)?;
    let text = |c: &Component<'_>| c.as_os_str().to_str().map(str::to_owned);
    let pattern = parts[first..].iter().map(text).collect::<Option<Vec<_>>>()?.join("/");
    Some((parts[..first].iter().collect(), pattern))
}

/// Writes `a{b,c}d` out as `abd` and `acd`.
fn braces(pattern: &str) -> Vec<String> {
    let parts = pattern.find('{').and_then(|open| {
        let close = open + pattern[open..].find('}')?;
        Some((&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]))
    });
    match parts {
        Some((before, choices, after)) => {
            choices.split(',').flat_map(|c| braces(&format!("{before}{c}{after}"))).collect()
        }
        None => vec![pattern.to_owned()],
    }
}

/// Reads a list: one path a line, from the list's folder on; empty lines and lines that begin with `#` do not count.
fn read_list(list: &Path, folder: &Path, walk: &mut Walk<'_>) -> Result<(), SourceError> {
    let spec = walk.spec;
    let bytes = fs::read(list).map_err(io_error(spec, list))?;
    let mut lines = std::collections::BTreeMap::new();
    for (i, line) in bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).split(|&b| b == b'\n').enumerate() {
        let wrong = |message: String| SourceError::List {
            input: spec.name.clone(),
            list: list.to_owned(),
            line: i + 1,
            message,
        };
        let line = std::str::from_utf8(line).map_err(|_| wrong("the line is not UTF-8 text".into()))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let path = normal(&folder.join(line));
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(wrong(format!("`{line}` is not a file; name the files themselves"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(wrong(format!("there is no file `{line}`"))),
            Err(e) => return Err(wrong(format!("`{line}` cannot be read: {e}"))),
        }
        let name = list_name(&path, folder);
        if let Some((first, other)) = lines.insert(name.clone(), (i + 1, path.clone())) {
            if other != path {
                return Err(wrong(format!("`{line}` and line {first} would both be called `{name}`")));
            }
            walk.left_out.push((name, format!("line {} names it again", i + 1)));
        }
    }
    lines.into_iter().try_for_each(|(name, (_, path))| walk.file(name, &path, Some(path.clone())))
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

/// The name of a listed file: its path below the list's folder, or the whole path when it is elsewhere. It depends on
/// no other line, so a longer list gives the files that were there the same names.
fn list_name(path: &Path, folder: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components().filter_map(|c| match c {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        Component::Prefix(p) => Some(p.as_os_str().to_string_lossy().replace(['\\', '/', ':', '?'], "")),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Where the stat cache of an input lies.
fn cache_path(store: &Store, spec: &InputSpec, path: &Path) -> PathBuf {
    let key = Digest::of_json(&(path.to_string_lossy(), &spec.kind, &spec.extensions, spec.recursive));
    let name: String = spec.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(40).collect();
    store.root().join("stat").join(format!("{name}-{}.stat", key.short()))
}

/// Takes the digests of unchanged files from the cache; true when nothing at all changed.
fn merge(found: &mut [Found], cache: &StatCache) -> bool {
    let mut same = true;
    let mut records = cache.records().peekable();
    for f in found {
        while records.next_if(|r| r.name < f.name.as_str()).is_some() {
            same = false;
        }
        match records.next_if(|r| r.name == f.name) {
            Some(r) if r.stat == f.stat && !r.racy => f.digest = Some((r.digest, false)),
            _ => same = false,
        }
    }
    same && records.next().is_none()
}

/// Reads the files without a digest, on all threads; those that cannot be read are left out. The result is how many
/// were read.
fn hash(
    spec: &InputSpec,
    root: &Path,
    found: &mut Vec<Found>,
    left_out: &mut Vec<(String, String)>,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> u64 {
    let mut todo: Vec<&mut Found> = found.iter_mut().filter(|f| f.digest.is_none()).collect();
    let (total, done) = (todo.len() as u64, AtomicU64::new(0));
    let every = (total / 100).max(1);
    let failed: Vec<(String, String)> = todo
        .par_iter_mut()
        .filter_map(|f| {
            if cancel.is_cancelled() {
                return None;
            }
            let path = f.path.clone().unwrap_or_else(|| root.join(&f.name));
            let failed = match read_file(&path) {
                Ok((stat, digest, racy)) => {
                    (f.stat, f.digest) = (stat, Some((digest, racy)));
                    None
                }
                Err(e) => Some((f.name.clone(), format!("it cannot be read: {e}"))),
            };
            let n = done.fetch_add(1, Ordering::Relaxed) + 1;
            if n.is_multiple_of(every) || n == total {
                sink.emit(&Event::Progress {
                    stage: spec.name.clone(),
                    done: n,
                    total,
                    unit: "files".into(),
                    detail: "hashing".into(),
                });
            }
            failed
        })
        .collect();
    if !failed.is_empty() {
        found.retain(|f| f.digest.is_some());
        left_out.extend(failed);
    }
    total
}

/// The digest of a file, and whether it is racy.
fn read_file(path: &Path) -> io::Result<(Stat, Digest, bool)> {
    let read_at = since_1970(SystemTime::now());
    let file = File::open(path)?;
    let before = Stat::of(&file.metadata()?);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file)?;
    let changed = Stat::of(&file.metadata()?) != before;
    // A file that grew while it was read: the record is racy, and who reads the blob checks its digest.
    let stat = Stat { size: hasher.count(), ..before };
    Ok((stat, Digest::from_bytes(*hasher.finalize().as_bytes()), changed || before.is_racy(read_at)))
}

#[cfg(test)]
mod tests;
