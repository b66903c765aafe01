//! Bundles: inputs and results of a project in one file, to go on with on another machine.
//!
//! Owns the file format: a tar with `bundle.json` (what is in it, with the digest of every file), `bundle.b3` (digest
//! of `bundle.json`), `README.txt`, `notebook.ipynb` and `bin/pipeline` for people who unpack it with `tar`,
//! `keys/<key>.json` and `cas/<digest>`. Equal content gives equal bytes. Reading checks every byte before the first one
//! enters the store; a bundle is never trusted. Refuses to own the words and the notebook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    artifact::Manifest,
    cancel::CancelToken,
    digest::Digest,
    event::{Event, EventSink},
    graph::is_name,
    lock::ProjectLock,
    result::pretty,
    store::{Store, StoreError},
    view::safe_path,
};

const VERSION: u32 = 2;
/// Versions that can be read; the first had neither notebook nor program.
const READABLE: std::ops::RangeInclusive<u32> = 1..=VERSION;
const INDEX: &str = "bundle.json";
const INDEX_CHECK: &str = "bundle.b3";
/// Name of the words for people.
pub const README: &str = "README.txt";
/// Name of the notebook.
pub const NOTEBOOK: &str = "notebook.ipynb";
/// Name of the program.
pub const PROGRAM: &str = "bin/pipeline";
/// No list of files is longer; a larger one is an attack on the memory.
const INDEX_MAX: u64 = 1 << 30;

/// What a bundle is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleSpec {
    /// Version of the program that wrote it.
    pub program: String,
    /// Text of the project file.
    pub config: String,
    /// Changes of single settings that were laid over the project file, in order.
    #[serde(default)]
    pub set: Vec<String>,
    /// The profile of the project file that was used.
    #[serde(default)]
    pub profile: Option<String>,
    /// The last stage whose result is wanted or given.
    pub until: Option<String>,
    /// Commands to type on the other machine, for the README.
    pub commands: Vec<String>,
    /// Artifacts of the project's inputs, by name.
    pub inputs: BTreeMap<String, Digest>,
    /// Finished stages, by name.
    pub stages: BTreeMap<String, BundleStage>,
    /// Models that the work starts from, by name.
    #[serde(default)]
    pub models: BTreeMap<String, Pin>,
}

/// A model, pinned by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// BLAKE3 of its file.
    pub digest: Digest,
    /// True when it is part of the program, false when it is one of the inputs.
    pub built_in: bool,
}

/// What a bundle carries for people. None of it is read back.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Words.
    pub readme: String,
    /// A notebook that does the work.
    pub notebook: Option<Vec<u8>>,
    /// The program.
    pub program: Option<PathBuf>,
}

impl Extras {
    fn files(self) -> Result<Vec<(String, Vec<u8>)>, BundleError> {
        let mut files = vec![(README.to_owned(), self.readme.into_bytes())];
        files.extend(self.notebook.map(|bytes| (NOTEBOOK.to_owned(), bytes)));
        if let Some(path) = self.program {
            let bytes = fs::read(&path);
            let wrong = |source| BundleError::Io { action: "reading the program", path, source };
            files.push((PROGRAM.to_owned(), bytes.map_err(wrong)?));
        }
        Ok(files)
    }
}

/// True for a file that is only there for people.
fn is_extra(name: &str) -> bool {
    [README, NOTEBOOK, PROGRAM].contains(&name)
}

/// A finished stage in a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStage {
    /// Its key; `keys/<key>.json` is in the bundle.
    pub key: Digest,
    /// Its output artifacts, by port.
    pub outputs: BTreeMap<String, Digest>,
}

#[derive(Serialize, Deserialize)]
struct Index {
    version: u32,
    #[serde(flatten)]
    spec: BundleSpec,
    /// Every other file, in the order in which they lie in the tar.
    files: Vec<Listed>,
}

/// The part of [`Index`] that is the same in all versions.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Clone, Serialize, Deserialize)]
struct Listed {
    path: String,
    digest: Digest,
    size: u64,
}

/// What went wrong with a bundle.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum BundleError {
    #[error("stopped on request")]
    Cancelled,
    #[error("{action} `{path}`")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{path}` is no bundle: {message}")]
    NotABundle { path: PathBuf, message: String },
    #[error(
        "bundle `{path}` has version {found} and this program reads versions up to {VERSION}; use the program that wrote it, or a newer one here"
    )]
    Version { path: PathBuf, found: u32 },
    #[error("bundle `{path}` is damaged at `{entry}`: {message}; copy or export it again. Nothing was imported")]
    Damaged { path: PathBuf, entry: String, message: String },
    #[error("stage `{stage}` has no kept result {}; run it first", key.short())]
    NoResult { stage: String, key: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn cas_name(digest: Digest) -> String {
    format!("cas/{digest}")
}

fn key_name(key: Digest) -> String {
    format!("keys/{key}.json")
}

/// Passes bytes on and hashes them.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

struct Progress<'a> {
    cancel: &'a CancelToken,
    sink: &'a dyn EventSink,
    detail: &'static str,
    done: u64,
    total: u64,
    said: u64,
}

impl Progress<'_> {
    /// Counts bytes; an error once the user wants a stop.
    fn add(&mut self, bytes: u64) -> Result<(), BundleError> {
        if self.cancel.is_cancelled() {
            return Err(BundleError::Cancelled);
        }
        self.done += bytes;
        if self.done - self.said >= self.total / 200 || self.done == self.total {
            self.said = self.done;
            self.sink.emit(&Event::Progress {
                stage: "bundle".into(),
                done: self.done,
                total: self.total,
                unit: "bytes".into(),
                detail: self.detail.into(),
            });
        }
        Ok(())
    }
}

/// Writes a bundle to `out`: it is there whole or not at all.
pub fn write_bundle(
    out: &Path,
    spec: &BundleSpec,
    extras: Extras,
    store: &Store,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<(), BundleError> {
    let mut small = extras.files()?;
    let extras = small.len();
    let mut blobs = BTreeMap::new();
    for (name, stage) in &spec.stages {
        let path = store.root().join(key_name(stage.key));
        let bytes = fs::read(&path).map_err(|_| BundleError::NoResult { stage: name.clone(), key: stage.key })?;
        small.push((key_name(stage.key), bytes));
    }
    small[extras..].sort();
    small.dedup();
    for artifact in artifacts(spec) {
        let bytes = store.read(artifact)?;
        blobs.insert(artifact, bytes.len() as u64);
        blobs.extend(store.manifest(artifact)?.blobs.iter().map(|b| (b.digest, b.size)));
    }
    let small_files = small.iter().map(|(path, bytes)| Listed {
        path: path.clone(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
    });
    let blob_files = blobs.iter().map(|(&digest, &size)| Listed { path: cas_name(digest), digest, size });
    let index = pretty(&Index { version: VERSION, spec: spec.clone(), files: small_files.chain(blob_files).collect() });

    let writing = |source| BundleError::Store(StoreError::io("writing", out, 0)(source));
    let folder = match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(writing)?;
    let tmp = tempfile::Builder::new().prefix(".bundle-").tempfile_in(folder).map_err(writing)?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, tmp.as_file()));
    let mut add = |path: &str, size: u64, bytes: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(if path == PROGRAM { 0o755 } else { 0o644 });
        tar.append_data(&mut header, path, bytes)
    };
    add(INDEX, index.len() as u64, &mut index.as_slice()).map_err(writing)?;
    let check = format!("{}\n", Digest::of(&index));
    add(INDEX_CHECK, check.len() as u64, &mut check.as_bytes()).map_err(writing)?;
    for (path, bytes) in &small {
        add(path, bytes.len() as u64, &mut bytes.as_slice()).map_err(writing)?;
    }
    let mut progress = Progress { cancel, sink, detail: "writing", done: 0, total: blobs.values().sum(), said: 0 };
    for (digest, size) in blobs {
        progress.add(0)?;
        let path = store.locate(digest)?;
        let file = File::open(&path).map_err(StoreError::io("reading", &path, 0))?;
        let mut reader = Hashing::new(file.take(size));
        add(&cas_name(digest), size, &mut reader).map_err(writing)?;
        if reader.digest() != digest {
            // Reading it by itself gives the error its right name, and moves a damaged blob aside.
            store.read(digest)?;
            return Err(StoreError::SourceChanged { path }.into());
        }
        progress.add(size)?;
    }
    tar.into_inner().and_then(|mut w| w.flush()).map_err(writing)?;
    tmp.as_file().sync_all().map_err(writing)?;
    tmp.persist(out).map_err(|e| writing(e.error))?;
    Ok(())
}

/// Every artifact that a bundle is about.
fn artifacts(spec: &BundleSpec) -> BTreeSet<Digest> {
    spec.inputs.values().chain(spec.stages.values().flat_map(|s| s.outputs.values())).copied().collect()
}

/// The digest of everything that a bundle holds, from its head.
pub fn bundle_digest(path: &Path) -> Result<Digest, BundleError> {
    let io_error = |source| BundleError::Io { action: "reading bundle", path: path.to_owned(), source };
    let mut tar = tar::Archive::new(BufReader::new(File::open(path).map_err(io_error)?));
    read_index(path, &mut tar.entries().map_err(io_error)?).map(|(_, digest)| digest)
}

/// Reads a bundle into the store: its artifacts, and the results of its stages unless the store has them. Every hash
/// is checked before the store changes. The lock keeps a sweep from taking the artifacts before a record names them.
pub fn read_bundle(
    path: &Path,
    store: &Store,
    _lock: &ProjectLock,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<BundleSpec, BundleError> {
    let io_error = |source| BundleError::Io { action: "reading bundle", path: path.to_owned(), source };
    let damaged =
        |entry: &str, message: String| BundleError::Damaged { path: path.to_owned(), entry: entry.to_owned(), message };
    let file = File::open(path).map_err(io_error)?;
    let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
    let mut entries = tar.entries().map_err(io_error)?;
    let (index, _) = read_index(path, &mut entries)?;
    let mut left = check_index(&index).map_err(|(entry, message)| damaged(&entry, message))?;

    let tmp_dir = store.tmp_dir()?;
    let stage = tempfile::Builder::new().prefix("import-").tempdir_in(&tmp_dir).map_err(StoreError::io(
        "creating folder in",
        &tmp_dir,
        0,
    ))?;
    for folder in ["cas", "keys"] {
        let folder = stage.path().join(folder);
        fs::create_dir(&folder).map_err(StoreError::io("creating folder", &folder, 0))?;
    }
    let total = left.values().map(|l| l.size).sum();
    let mut progress = Progress { cancel, sink, detail: "checking", done: 0, total, said: 0 };
    for entry in entries {
        let next = || left.keys().next().map_or("the end", String::as_str).to_owned();
        let mut entry = entry.map_err(|e| damaged(&next(), e.to_string()))?;
        let name = entry_name(&entry);
        // Names are looked up, never followed: what is not in the list, or comes twice, is refused.
        let listed = left
            .remove(&name)
            .filter(|_| entry.header().entry_type().is_file())
            .ok_or_else(|| damaged(&name, "it is not in the bundle's list of files".into()))?;
        if entry.size() != listed.size {
            return Err(damaged(&name, format!("it has {} bytes, {} are expected", entry.size(), listed.size)));
        }
        let to = if is_extra(&name) { None } else { Some(stage.path().join(&name)) };
        let mut reader = Hashing::new(&mut entry);
        let n = match &to {
            Some(to) => {
                let writing = |e| StoreError::io("writing", to, listed.size)(e);
                let mut file = File::create(to).map_err(writing)?;
                let n = copy(&mut reader, &mut file).map_err(|e| match e {
                    Copy::Read(e) => damaged(&name, e.to_string()),
                    Copy::Write(e) => writing(e).into(),
                })?;
                file.sync_all().map_err(writing)?;
                n
            }
            None => io::copy(&mut reader, &mut io::sink()).map_err(|e| damaged(&name, e.to_string()))?,
        };
        if n != listed.size {
            return Err(damaged(&name, format!("it ends after {n} of {} bytes", listed.size)));
        }
        if reader.digest() != listed.digest {
            return Err(damaged(&name, "its bytes do not have the hash that the list gives".into()));
        }
        progress.add(n)?;
    }
    if let Some(name) = left.keys().next() {
        return Err(damaged(name, "the file ends before it".into()));
    }
    check_artifacts(&index, stage.path()).map_err(|(entry, message)| damaged(&entry, message))?;
    take_in(&index, stage.path(), store)?;
    Ok(index.spec)
}

enum Copy {
    Read(io::Error),
    Write(io::Error),
}

/// Copies, and tells whose fault an error is.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, Copy> {
    let mut buffer = vec![0; 1 << 17];
    let mut total = 0;
    loop {
        let n = from.read(&mut buffer).map_err(Copy::Read)?;
        if n == 0 {
            return Ok(total);
        }
        to.write_all(&buffer[..n]).map_err(Copy::Write)?;
        total += n as u64;
    }
}

fn entry_name<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    String::from_utf8_lossy(&entry.path_bytes()).into_owned()
}

/// The first two entries: the list of the bundle's files, checked, and its digest.
fn read_index<R: Read>(path: &Path, entries: &mut tar::Entries<'_, R>) -> Result<(Index, Digest), BundleError> {
    let not = |message: String| BundleError::NotABundle { path: path.to_owned(), message };
    let mut take = |name: &str| -> Result<Vec<u8>, BundleError> {
        let entry = entries.next().ok_or_else(|| not(format!("it ends before `{name}`")))?;
        let entry = entry.map_err(|e| not(e.to_string()))?;
        let found = entry_name(&entry);
        if found != name || entry.size() > INDEX_MAX {
            return Err(not(format!("`{name}` is expected where it has `{found}`")));
        }
        let size = entry.size();
        let mut bytes = Vec::new();
        entry.take(INDEX_MAX).read_to_end(&mut bytes).map_err(|e| not(e.to_string()))?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(not(format!("it ends in the middle of `{name}`"))) }
    };
    let bytes = take(INDEX)?;
    let check = take(INDEX_CHECK)?;
    let digest = Digest::of(&bytes);
    if check != format!("{digest}\n").as_bytes() {
        return Err(BundleError::Damaged {
            path: path.to_owned(),
            entry: INDEX.into(),
            message: format!("its bytes do not have the hash in `{INDEX_CHECK}`"),
        });
    }
    let wrong = |e: serde_json::Error| not(format!("`{INDEX}`: {e}"));
    match serde_json::from_slice::<Version>(&bytes).map_err(wrong)?.version {
        found if READABLE.contains(&found) => Ok((serde_json::from_slice(&bytes).map_err(wrong)?, digest)),
        found => Err(BundleError::Version { path: path.to_owned(), found }),
    }
}

/// The listed files by path. The error is an entry and what is wrong with it.
fn check_index(index: &Index) -> Result<BTreeMap<String, Listed>, (String, String)> {
    let mut files = BTreeMap::new();
    // Names of stages become names of files.
    if let Some(name) = index.spec.stages.keys().find(|n| !is_name(n)) {
        return Err((name.clone(), "no stage can have this name".into()));
    }
    let results: BTreeSet<String> = index.spec.stages.values().map(|s| key_name(s.key)).collect();
    for file in &index.files {
        // Only these names exist, so no name can lead out of the store.
        let known = is_extra(&file.path) || file.path == cas_name(file.digest) || results.contains(&file.path);
        if !known || files.insert(file.path.clone(), file.clone()).is_some() {
            return Err((file.path.clone(), "no bundle has a file of this name there".into()));
        }
    }
    let wanted = artifacts(&index.spec).into_iter().map(cas_name).chain(results);
    match wanted.into_iter().find(|name| !files.contains_key(name)) {
        Some(name) => Err((name, "it is needed and not in the list of files".into())),
        None => Ok(files),
    }
}

/// Checks that every artifact is whole.
fn check_artifacts(index: &Index, stage: &Path) -> Result<(), (String, String)> {
    let sizes: BTreeMap<Digest, u64> = index.files.iter().map(|f| (f.digest, f.size)).collect();
    for artifact in artifacts(&index.spec) {
        let name = cas_name(artifact);
        let bytes = fs::read(stage.join(&name)).map_err(|e| (name.clone(), e.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| (name.clone(), e.to_string()))?;
        if let Some(blob) = manifest.blobs.iter().find(|b| safe_path(&b.name).is_none()) {
            return Err((name, format!("its file name `{}` leads out of its folder", blob.name)));
        }
        let lost = manifest.blobs.iter().find(|b| sizes.get(&b.digest) != Some(&b.size));
        if let Some(blob) = lost {
            return Err((name, format!("blob `{}` of this artifact is not in the bundle", blob.name)));
        }
    }
    Ok(())
}

/// Moves what was checked into the store: blobs first, so that no result is there without them.
fn take_in(index: &Index, stage: &Path, store: &Store) -> Result<(), BundleError> {
    let (blobs, results): (Vec<_>, Vec<_>) =
        index.files.iter().filter(|f| !is_extra(&f.path)).partition(|f| f.path.starts_with("cas/"));
    for file in blobs {
        store.adopt(&stage.join(&file.path), file.digest, file.size)?;
    }
    let keys = store.root().join("keys");
    fs::create_dir_all(&keys).map_err(StoreError::io("creating folder", &keys, 0))?;
    for file in results {
        let to = store.root().join(&file.path);
        if !to.exists() {
            fs::rename(stage.join(&file.path), &to).map_err(StoreError::io("writing", &to, file.size))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
