//! The content-addressed store: blobs by digest, written once, verified when read.
//!
//! Layout below the root: `cas/ab/abcdef…` (blobs and manifests), `keys/<key>.json` (results of stages),
//! `items/` (results of items), `scratch/<key>/` (checkpoints of unfinished stages), `tmp/` (files being written),
//! `stat/` (digests of unchanged input files), `views/` (see [`crate::view`]), `damaged/` (blobs whose bytes went bad). The
//! files of an input are not copied: the store knows where they lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, RwLock},
    time::{Duration, SystemTime},
};

use rayon::prelude::*;
use serde::Deserialize;

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
    #[error(
        "file `{path}` was damaged: its bytes no longer had digest {expected}. It was moved to the folder `damaged` of the store; run again to make it anew"
    )]
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

/// Asks another place for bytes that are not here; `None` when it has none of this digest.
pub type Fetch = dyn Fn(Digest) -> Result<Option<Vec<u8>>, StoreError> + Send + Sync;

/// The store. Cloning shares it.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    sources: Arc<RwLock<Sources>>,
    /// Bytes that a command which only reads could not write.
    unwritten: Arc<RwLock<BTreeMap<Digest, Vec<u8>>>>,
    /// Asked for what is missing.
    fetch: Option<Arc<Fetch>>,
    /// What is being fetched now, so that several who need it wait for one.
    fetching: Arc<(Mutex<BTreeSet<Digest>>, Condvar)>,
    /// What was stored, with its size, where somebody wants to know.
    noted: Option<Arc<RwLock<BTreeMap<Digest, u64>>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.root.display())
    }
}

/// Input files that lie outside the store.
#[derive(Debug, Default)]
struct Sources {
    files: BTreeMap<Digest, PathBuf>,
    /// Folders, with the artifacts whose blobs are their files. They become entries of `files` when a blob is looked
    /// for: a run that has nothing to do never looks.
    folders: Vec<(PathBuf, Digest)>,
}

/// A blob that cannot be used.
#[derive(Debug)]
pub struct Problem {
    /// Name of the blob; empty for the manifest itself.
    pub blob: String,
    /// Its digest.
    pub digest: Digest,
    /// What is wrong.
    pub error: StoreError,
}

/// Whether a file of the store may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Blobs: their name says what is in them.
    ReadOnly,
    Writable,
}

/// Age from which an entry of `tmp/` cannot belong to a process that is still writing it; importing a large bundle may
/// take hours.
const STALE: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Opens the store at `root`, removing what killed processes left in `tmp/`. Folders are made when something is
    /// written, so that who only reads leaves nothing behind and needs no permission to write.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        match fs::metadata(&root) {
            Ok(meta) if !meta.is_dir() => {
                return Err(StoreError::Invalid(format!("`{}` is no folder", root.display())));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io("opening", &root, 0)(e)),
            _ => {}
        }
        let store = Self {
            root,
            sources: Arc::default(),
            unwritten: Arc::default(),
            fetch: None,
            fetching: Arc::default(),
            noted: None,
        };
        store.clean_tmp(STALE);
        Ok(store)
    }

    /// The same store as a window to another place: what is missing is asked for there when it is read, and what is
    /// stored through this window is noted (see [`Store::take_noted`]). Its own files are soon thrown away, and are not
    /// flushed to disk.
    #[must_use]
    pub fn with_fetch(mut self, fetch: Arc<Fetch>) -> Self {
        self.fetch = Some(fetch);
        self.noted = Some(Arc::default());
        self
    }

    /// Digests and sizes of all that was stored since the last call.
    pub fn take_noted(&self) -> BTreeMap<Digest, u64> {
        let noted = self.noted.as_ref();
        noted.map_or_else(BTreeMap::new, |n| std::mem::take(&mut *n.write().expect("no holder of this lock panics")))
    }

    /// Fetches missing bytes; false when they cannot be had.
    fn fetch(&self, digest: Digest) -> Result<bool, StoreError> {
        let Some(fetch) = &self.fetch else { return Ok(false) };
        let (going, over) = &*self.fetching;
        let mut others = going.lock().expect("no holder of this lock panics");
        let waited = others.contains(&digest);
        while others.contains(&digest) {
            others = over.wait(others).expect("no holder of this lock panics");
        }
        if waited && self.has(digest) {
            return Ok(true);
        }
        others.insert(digest);
        drop(others);
        let fetched = fetch(digest).and_then(|bytes| match bytes {
            None => Ok(false),
            Some(bytes) if Digest::of(&bytes) == digest => {
                self.write(&self.cas_path(digest), &bytes, Access::ReadOnly).map(|()| true)
            }
            Some(_) => Err(StoreError::Invalid(format!("what was fetched as {} has another digest", digest.short()))),
        });
        going.lock().expect("no holder of this lock panics").remove(&digest);
        over.notify_all();
        fetched
    }

    /// Forgets bytes that can be fetched again.
    pub fn forget(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.cas_path(digest);
        match remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("removing", &path, 0)(e)),
            _ => Ok(()),
        }
    }

    /// Removes files of at least this age from `tmp/`. What cannot be removed stays: it harms nobody.
    fn clean_tmp(&self, age: Duration) {
        let Ok(entries) = fs::read_dir(self.root.join("tmp")) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if is_older(&path, age) {
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { remove_file(&path) };
            }
        }
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
        self.sources.write().expect("no holder of this lock panics").files.insert(digest, path);
    }

    /// Tells the store that the blobs of an artifact are the files below a folder, by their names.
    pub fn add_source_folder(&self, folder: PathBuf, artifact: Digest) {
        let mut sources = self.sources.write().expect("no holder of this lock panics");
        if !sources.folders.contains(&(folder.clone(), artifact)) {
            sources.folders.push((folder, artifact));
        }
    }

    /// The input file that has these bytes.
    pub fn source(&self, digest: Digest) -> Option<PathBuf> {
        {
            let sources = self.sources.read().expect("no holder of this lock panics");
            if let Some(path) = sources.files.get(&digest) {
                return Some(path.clone());
            }
            if sources.folders.is_empty() {
                return None;
            }
        }
        let mut sources = self.sources.write().expect("no holder of this lock panics");
        for (folder, artifact) in std::mem::take(&mut sources.folders) {
            let Some(manifest) = self.read_cas(artifact).ok().flatten() else { continue };
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { continue };
            for blob in manifest.blobs {
                sources.files.entry(blob.digest).or_insert_with(|| folder.join(blob.name));
            }
        }
        sources.files.get(&digest).cloned()
    }

    /// True when the bytes can be had (their content is not checked here).
    pub fn has(&self, digest: Digest) -> bool {
        self.cas_path(digest).is_file() || self.source(digest).is_some_and(|p| p.is_file())
    }

    /// The file that has the bytes of a digest; they are not checked here.
    pub fn locate(&self, digest: Digest) -> Result<PathBuf, StoreError> {
        let path = self.cas_path(digest);
        if path.is_file() {
            return Ok(path);
        }
        match self.source(digest) {
            Some(source) => Ok(source),
            None if self.fetch(digest)? => Ok(path),
            None => Err(StoreError::Missing { digest }),
        }
    }

    /// Takes over a file on the same disk whose bytes are known to have this digest.
    pub(crate) fn adopt(&self, file: &Path, digest: Digest, size: u64) -> Result<(), StoreError> {
        let path = self.cas_path(digest);
        if fs::metadata(&path).is_ok_and(|m| m.len() == size) {
            return Ok(());
        }
        let dir = path.parent().expect("blobs lie in folders");
        let take = || {
            fs::create_dir_all(dir)?;
            let mut permissions = fs::metadata(file)?.permissions();
            permissions.set_readonly(true);
            fs::set_permissions(file, permissions)?;
            fs::rename(file, &path)
        };
        take().map_err(StoreError::io("writing", &path, size))
    }

    fn has_sized(&self, digest: Digest, size: u64) -> bool {
        let fits = |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size);
        fits(&self.cas_path(digest)) || self.source(digest).is_some_and(|p| fits(&p))
    }

    /// Checks that the manifest reads well and every blob is there with its size: cheap, and enough to trust a kept
    /// result, because whoever reads a blob checks its bytes.
    pub fn complete(&self, artifact: Digest) -> Result<(), StoreError> {
        #[derive(Deserialize)]
        struct Blobs {
            blobs: Vec<Sized>,
        }
        #[derive(Deserialize)]
        struct Sized {
            d: Digest,
            s: u64,
        }
        let manifest: Blobs = serde_json::from_slice(&self.read(artifact)?)
            .map_err(|source| StoreError::Json { what: format!("artifact {}", artifact.short()), source })?;
        match manifest.blobs.iter().find(|b| !self.has_sized(b.d, b.s)) {
            Some(b) => Err(StoreError::Missing { digest: b.d }),
            None => Ok(()),
        }
    }

    /// Reads every byte of an artifact; the result is what is wrong with it. Damaged blobs are moved aside, so that
    /// the next plan finds them missing and makes them anew.
    pub fn verify(&self, artifact: Digest) -> Vec<Problem> {
        let manifest = match self.manifest(artifact) {
            Ok(manifest) => manifest,
            Err(error) => return vec![Problem { blob: String::new(), digest: artifact, error }],
        };
        let check = |blob: &Blob| match self.read(blob.digest) {
            Ok(bytes) if bytes.len() as u64 == blob.size => None,
            Ok(bytes) => {
                Some(StoreError::Invalid(format!("{} bytes, and the manifest says {}", bytes.len(), blob.size)))
            }
            Err(e) => Some(e),
        };
        manifest
            .blobs
            .par_iter()
            .filter_map(|b| Some(Problem { blob: b.name.clone(), digest: b.digest, error: check(b)? }))
            .collect()
    }

    /// Stores bytes, durably.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.cas_path(digest);
        if !fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
            self.write(&path, bytes, Access::ReadOnly)?;
        }
        if let Some(noted) = &self.noted {
            noted.write().expect("no holder of this lock panics").insert(digest, bytes.len() as u64);
        }
        Ok(digest)
    }

    /// Stores bytes; where nothing can be written they are known until the program ends.
    pub(crate) fn put_or_remember(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        match self.put(bytes) {
            Err(StoreError::ReadOnly { .. }) => {
                let digest = Digest::of(bytes);
                self.unwritten.write().expect("no holder of this lock panics").insert(digest, bytes.to_vec());
                Ok(digest)
            }
            other => other,
        }
    }

    /// The folder `tmp/`, made when it is not there.
    pub(crate) fn tmp_dir(&self) -> Result<PathBuf, StoreError> {
        let dir = self.root.join("tmp");
        fs::create_dir_all(&dir).map_err(StoreError::io("creating folder", &dir, 0))?;
        Ok(dir)
    }

    /// Writes a file beside, flushes it to disk and renames it into place: it is there whole or not at all.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(path, bytes, Access::Writable)
    }

    fn write(&self, path: &Path, bytes: &[u8], access: Access) -> Result<(), StoreError> {
        let needed = bytes.len() as u64;
        let by_way_of = |dir: &Path| {
            let mut file = Self::tmp_file(dir, needed)?;
            file.write_all(bytes).map_err(StoreError::io("writing", path, needed))?;
            self.persist(file, path, needed, access)
        };
        match by_way_of(&self.tmp_dir()?) {
            // A place on another disk: no file can be renamed to there.
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                by_way_of(path.parent().unwrap_or(Path::new(".")))
            }
            other => other,
        }
    }

    /// A hidden file in `dir`, to be given its place by [`Store::persist`].
    fn tmp_file(dir: &Path, needed: u64) -> Result<tempfile::NamedTempFile, StoreError> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(open_to_all);
        builder.tempfile_in(dir).map_err(StoreError::io("creating a file in", dir, needed))
    }

    /// Flushes a file of `tmp/` and gives it its place.
    fn persist(
        &self,
        file: tempfile::NamedTempFile,
        path: &Path,
        needed: u64,
        access: Access,
    ) -> Result<(), StoreError> {
        let dir = path.parent().expect("files of the store lie in folders");
        fs::create_dir_all(dir).map_err(StoreError::io("creating folder", dir, 0))?;
        let flush = || {
            if access == Access::ReadOnly {
                let mut permissions = file.as_file().metadata()?.permissions();
                permissions.set_readonly(true);
                file.as_file().set_permissions(permissions)?;
            }
            if self.fetch.is_none() { file.as_file().sync_all() } else { Ok(()) }
        };
        flush().map_err(StoreError::io("flushing", path, needed))?;
        file.persist(path).map_err(|e| StoreError::io("writing", path, needed)(e.error))?;
        Ok(())
    }

    /// The verified bytes of a digest, from the store or from the input file that has them. A damaged blob is moved
    /// aside.
    pub fn read(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        if let Some(bytes) = self.read_cas(digest)? {
            return Ok(bytes);
        }
        if let Some(bytes) = self.unwritten.read().expect("no holder of this lock panics").get(&digest) {
            return Ok(bytes.clone());
        }
        let Some(path) = self.source(digest) else {
            let fetched = if self.fetch(digest)? { self.read_cas(digest)? } else { None };
            return fetched.ok_or(StoreError::Missing { digest });
        };
        let bytes = fs::read(&path).map_err(StoreError::io("reading", &path, 0))?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(StoreError::SourceChanged { path }) }
    }

    fn read_cas(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.cas_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == digest => Ok(Some(bytes)),
            Ok(_) => {
                let aside = self.root.join("damaged");
                // Another thread may have moved it already; either way it is out of the way.
                let _ = fs::create_dir_all(&aside);
                let _ = fs::rename(&path, aside.join(digest.to_string()));
                Err(StoreError::Damaged { path, expected: digest })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("reading", &path, 0)(e)),
        }
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

/// True for a file that was last changed at least `age` ago.
pub(crate) fn is_older(path: &Path, age: Duration) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|m| m.modified());
    changed.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|d| d >= age))
}

/// Removes a file that may be read-only.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        let mut permissions = fs::metadata(path)?.permissions();
        #[expect(clippy::permissions_set_readonly_false, reason = "only done on Windows, where it opens to no others")]
        permissions.set_readonly(false);
        fs::set_permissions(path, permissions)?;
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::itemlog::ItemLog;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn artifact(store: &Store, blobs: &[(&str, &[u8])]) -> Digest {
        let mut writer = crate::artifact::ArtifactWriter::new(store);
        for (name, bytes) in blobs {
            writer.put(*name, bytes).unwrap();
        }
        writer.finish("files", 1, serde_json::Value::Null).unwrap()
    }

    fn overwrite(path: &Path, bytes: &[u8]) {
        remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn files_are_written_to_other_disks_too() {
        let (_dir, store) = store();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = other.path().join("new/model");
        store.write_file(&path, b"weights").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"weights");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_damaged_blob_is_moved_aside_and_made_anew() {
        let (_dir, store) = store();
        let a = artifact(&store, &[("x", b"first"), ("y", b"second")]);
        assert!(store.complete(a).is_ok() && store.verify(a).is_empty());
        let blob = store.put(b"first").unwrap();
        overwrite(&store.cas_path(blob), b"FIRST");
        assert!(store.complete(a).is_ok(), "the size is right, so only reading shows it");
        let problems = store.verify(a);
        assert!(matches!(&problems[..], [Problem { blob: name, digest, error: StoreError::Damaged { .. } }]
            if name == "x" && *digest == blob));
        assert_eq!(fs::read(store.root().join("damaged").join(blob.to_string())).unwrap(), b"FIRST");
        assert!(store.complete(a).is_err());
        assert_eq!(artifact(&store, &[("x", b"first"), ("y", b"second")]), a);
        assert!(store.complete(a).is_ok() && store.verify(a).is_empty());
    }

    #[test]
    fn a_cut_blob_is_incomplete_and_is_written_again() {
        let (_dir, store) = store();
        let a = artifact(&store, &[("x", b"first")]);
        let blob = store.put(b"first").unwrap();
        overwrite(&store.cas_path(blob), b"fi");
        assert!(store.complete(a).is_err());
        store.put(b"first").unwrap();
        assert!(store.complete(a).is_ok());
    }

    #[test]
    fn a_damaged_manifest_is_incomplete() {
        let (_dir, store) = store();
        let a = artifact(&store, &[("x", b"first")]);
        overwrite(&store.cas_path(a), b"{}");
        assert!(store.complete(a).is_err());
        assert!(matches!(&store.verify(a)[..], [Problem { error: StoreError::Missing { .. }, .. }]));
    }

    #[test]
    fn several_who_need_the_same_wait_for_one_to_fetch_it() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        let fetch = move |digest| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            Ok((digest == Digest::of(b"far")).then(|| b"far".to_vec()))
        };
        let store = Store::open(dir.path()).unwrap().with_fetch(Arc::new(fetch));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(store.read(Digest::of(b"far")).unwrap(), b"far"));
            }
        });
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert!(store.read(Digest::of(b"nowhere")).is_err());
        assert!(store.read(Digest::of(b"nowhere")).is_err(), "asked again, and not waited for");
    }

    #[test]
    fn opening_and_reading_write_nothing() {
        let (_dir, store) = store();
        assert!(matches!(store.read(Digest::of(b"x")).unwrap_err(), StoreError::Missing { .. }));
        assert!(!store.root().exists());
        fs::write(store.root(), "a file").unwrap();
        assert!(Store::open(store.root()).unwrap_err().to_string().contains("no folder"));
    }

    #[test]
    fn blobs_are_read_only() {
        let (_dir, store) = store();
        let blob = store.put(b"x").unwrap();
        assert!(fs::metadata(store.cas_path(blob)).unwrap().permissions().readonly());
    }

    #[test]
    fn opening_removes_old_leftovers_only() {
        let (_dir, store) = store();
        let tmp = store.tmp_dir().unwrap();
        fs::write(tmp.join("new"), "x").unwrap();
        fs::write(tmp.join("old"), "x").unwrap();
        let two_days_ago = SystemTime::now() - 2 * STALE;
        fs::File::options().write(true).open(tmp.join("old")).unwrap().set_modified(two_days_ago).unwrap();
        Store::open(store.root()).unwrap();
        assert!(tmp.join("new").exists() && !tmp.join("old").exists());
    }

    /// Mounts a small file system at `dir`; says so when that is not allowed here.
    #[cfg(target_os = "linux")]
    fn mount(dir: &Path, options: &str) -> Option<impl Drop + use<>> {
        struct Mounted(PathBuf);
        impl Drop for Mounted {
            fn drop(&mut self) {
                let _ = std::process::Command::new("umount").arg(&self.0).status();
            }
        }
        let mut command = std::process::Command::new("mount");
        let ok =
            command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).output().is_ok_and(|o| o.status.success());
        if !ok {
            eprintln!("SKIPPED: mounting a file system ({options}) needs root");
        }
        ok.then(|| Mounted(dir.to_owned()))
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let Some(_mounted) = mount(dir.path(), "size=1m") else { return };
        let store = Store::open(dir.path()).unwrap();
        let a = artifact(&store, &[("x", b"first")]);
        let log_path = dir.path().join("items/a.log");
        let log = ItemLog::open(&log_path).unwrap();
        log.put(Digest::of(b"1"), &crate::ItemOutcome::Done(b"one".to_vec())).unwrap();
        let much = vec![7; 2 << 20];
        assert!(matches!(store.put(&much).unwrap_err(), StoreError::DiskFull { needed: 2_097_152, .. }));
        let e = log.put(Digest::of(b"2"), &crate::ItemOutcome::Done(much)).unwrap_err();
        assert!(matches!(&e, StoreError::DiskFull { .. }) && e.to_string().contains("runs gc"), "{e}");
        // Nothing half-written is left, and what was kept is kept.
        assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
        assert!(store.complete(a).is_ok());
        log.put(Digest::of(b"3"), &crate::ItemOutcome::Done(b"three".to_vec())).unwrap();
        drop(log);
        let log = ItemLog::open(&log_path).unwrap();
        assert!(log.has(Digest::of(b"1")) && !log.has(Digest::of(b"2")) && log.has(Digest::of(b"3")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_read_only_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let Some(_mounted) = mount(dir.path(), "size=1m,ro") else { return };
        let store = Store::open(dir.path().join("store")).unwrap();
        let e = store.put(b"x").unwrap_err();
        assert!(matches!(&e, StoreError::ReadOnly { .. }) && e.to_string().contains("permissions"), "{e}");
    }
}
