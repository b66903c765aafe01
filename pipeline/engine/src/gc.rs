//! Garbage collection of the store: mark what kept runs need, sweep the rest.
//!
//! Owns which files of the store can go. Refuses to know runs: the caller says what is alive. A plan lists every file
//! before anything is removed, and both plan and sweep need the project lock, so no run can write meanwhile.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use crate::{
    artifact::Manifest,
    digest::Digest,
    lock::ProjectLock,
    store::{Store, StoreError, is_older, remove_file},
};

/// Younger files in `tmp/` may belong to a plan, which scans inputs without the lock.
const LEFT_OVER: Duration = Duration::from_secs(60);

/// What has to stay. Read it from the run records after the lock was taken.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Artifacts: inputs and outputs of the stages of kept runs. Everything they name stays too.
    pub artifacts: HashSet<Digest>,
    /// Keys of stages: their results and checkpoints.
    pub keys: HashSet<Digest>,
    /// Bases of item keys: the logs of items.
    pub item_logs: HashSet<Digest>,
}

/// What a file of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Bytes of artifacts.
    Blob,
    /// Results of stages.
    Result,
    /// Results of items.
    ItemLog,
    /// Checkpoints of unfinished stages.
    Checkpoint,
    /// Plain copies of artifacts; they can be made again.
    View,
    /// Blobs whose bytes went bad.
    Damaged,
    /// What killed processes left.
    Leftover,
}

/// Files of one category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Number of files and folders.
    pub entries: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

/// Something that can go: a file or a whole folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// What it is.
    pub category: Category,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes, with everything below it.
    pub bytes: u64,
}

/// What a sweep would remove. It borrows the lock: what is garbage now may be needed once others can write.
#[derive(Debug)]
pub struct GcPlan<'a> {
    _lock: &'a ProjectLock,
    /// What can go, by category and path.
    pub garbage: Vec<Garbage>,
    /// Blobs that stay.
    pub kept: Amount,
    /// Live artifacts that are not in the store any more.
    pub missing: Vec<Digest>,
}

impl<'a> GcPlan<'a> {
    /// Finds out what can go.
    pub fn new(store: &Store, live: &Live, lock: &'a ProjectLock) -> Result<Self, StoreError> {
        let (reachable, missing) = mark(store, live)?;
        let mut garbage = Vec::new();
        let mut kept = Amount::default();
        let mut add = |category, path: PathBuf| -> Result<(), StoreError> {
            let bytes = size_below(&path).map_err(StoreError::io("reading", &path, 0))?;
            garbage.push(Garbage { category, path, bytes });
            Ok(())
        };
        let root = store.root();
        for folder in list(&root.join("cas"))? {
            if !folder.is_dir() {
                continue;
            }
            for blob in list(&folder)? {
                match digest_of_name(&blob, "") {
                    Some(digest) if reachable.contains(&digest) => {
                        kept.entries += 1;
                        kept.bytes += fs::metadata(&blob).map_or(0, |m| m.len());
                    }
                    Some(_) => add(Category::Blob, blob)?,
                    // Somebody's own file.
                    None => {}
                }
            }
        }
        let tables = [
            ("keys", ".json", Category::Result, &live.keys),
            ("items", ".log", Category::ItemLog, &live.item_logs),
            ("scratch", "", Category::Checkpoint, &live.keys),
            ("views", "", Category::View, &live.artifacts),
            ("views", "-all", Category::View, &live.artifacts),
        ];
        for (folder, suffix, category, live) in tables {
            for path in list(&root.join(folder))? {
                if digest_of_name(&path, suffix).is_some_and(|d| !live.contains(&d)) {
                    add(category, path)?;
                }
            }
        }
        list(&root.join("damaged"))?.into_iter().try_for_each(|path| add(Category::Damaged, path))?;
        let left_over = list(&root.join("tmp"))?.into_iter().filter(|path| is_older(path, LEFT_OVER));
        left_over.into_iter().try_for_each(|path| add(Category::Leftover, path))?;
        garbage.sort_by(|a, b| (a.category, &a.path).cmp(&(b.category, &b.path)));
        Ok(Self { _lock: lock, garbage, kept, missing })
    }

    /// How much can go, by category.
    pub fn amounts(&self) -> BTreeMap<Category, Amount> {
        sum(&self.garbage)
    }

    /// Removes what can go.
    pub fn apply(self) -> GcReport {
        let mut report = GcReport::default();
        let mut removed = Vec::new();
        // Results before the blobs they name: a sweep that is killed leaves no result without its blobs.
        let order = |g: &Garbage| g.category == Category::Blob;
        let (blobs, others): (Vec<_>, Vec<_>) = self.garbage.into_iter().partition(order);
        for g in others.into_iter().chain(blobs) {
            let result = if g.path.is_dir() { fs::remove_dir_all(&g.path) } else { remove_file(&g.path) };
            match result {
                Ok(()) => removed.push(g),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => report.failed.push((g.path, e.to_string())),
            }
        }
        report.removed = sum(&removed);
        report.freed = removed.iter().map(|g| g.bytes).sum();
        report
    }
}

/// What a sweep removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Bytes freed.
    pub freed: u64,
    /// What was removed, by category.
    pub removed: BTreeMap<Category, Amount>,
    /// What could not be removed, and why.
    pub failed: Vec<(PathBuf, String)>,
}

fn sum(garbage: &[Garbage]) -> BTreeMap<Category, Amount> {
    let mut sums = BTreeMap::<_, Amount>::new();
    for g in garbage {
        let amount = sums.entry(g.category).or_default();
        amount.entries += 1;
        amount.bytes += g.bytes;
    }
    sums
}

/// Every digest that is needed, and the live artifacts that are not there. A manifest that is there and cannot be read
/// stops the collection: what it names is unknown.
fn mark(store: &Store, live: &Live) -> Result<(HashSet<Digest>, Vec<Digest>), StoreError> {
    let mut reachable = HashSet::new();
    let mut missing = Vec::new();
    for &artifact in &live.artifacts {
        reachable.insert(artifact);
        match store.read(artifact) {
            Ok(bytes) => {
                let manifest: Manifest = serde_json::from_slice(&bytes)
                    .map_err(|source| StoreError::Json { what: format!("artifact {}", artifact.short()), source })?;
                reachable.extend(manifest.blobs.iter().map(|b| b.digest));
            }
            // A damaged manifest was moved aside just now; its artifact has to be made again in any case.
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => missing.push(artifact),
            Err(e) => return Err(e),
        }
    }
    missing.sort();
    Ok((reachable, missing))
}

/// The entries of a folder that may not be there.
fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(StoreError::io("reading", folder, 0)),
    }
}

/// The digest that a file is named by.
fn digest_of_name(path: &Path, suffix: &str) -> Option<Digest> {
    path.file_name()?.to_str()?.strip_suffix(suffix)?.parse().ok()
}

fn size_below(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| size_below(&entry?.path())).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        artifact::ArtifactWriter,
        view::{InputFiles, materialise},
    };

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn lock(store: &Store) -> ProjectLock {
        ProjectLock::acquire(store, "gc", |_| true).unwrap().unwrap()
    }

    fn artifact(store: &Store, blobs: &[u8]) -> Digest {
        let mut writer = ArtifactWriter::new(store);
        for b in blobs {
            writer.put(b.to_string(), &vec![*b; usize::from(*b)]).unwrap();
        }
        writer.finish("files", 1, serde_json::Value::Null).unwrap()
    }

    #[test]
    fn every_category_is_listed_counted_and_removed() {
        let (_dir, store) = store();
        let (old, new) = (artifact(&store, &[5, 7]), artifact(&store, &[7, 9]));
        let root = store.root().to_owned();
        let (k_old, k_new) = (Digest::of(b"old"), Digest::of(b"new"));
        for k in [k_old, k_new] {
            store.write_file(&root.join(format!("keys/{k}.json")), b"{}").unwrap();
            store.write_file(&root.join(format!("items/{k}.log")), b"12345").unwrap();
            store.write_file(&root.join(format!("scratch/{k}/last.ckpt")), b"123").unwrap();
        }
        for a in [old, new] {
            materialise(&store, a, InputFiles::List).unwrap();
            materialise(&store, a, InputFiles::Copy).unwrap();
        }
        fs::create_dir(root.join("damaged")).unwrap();
        fs::write(root.join("damaged/x"), "1234").unwrap();
        fs::write(root.join("tmp/young"), "").unwrap();
        fs::write(root.join("tmp/y"), "12").unwrap();
        let old_time = std::time::SystemTime::now() - 2 * LEFT_OVER;
        fs::File::options().write(true).open(root.join("tmp/y")).unwrap().set_modified(old_time).unwrap();
        fs::write(root.join("cas/notes of the user.txt"), "").unwrap();

        let live = Live { artifacts: [new].into(), keys: [k_new].into(), item_logs: [k_new].into() };
        let lock = lock(&store);
        let plan = GcPlan::new(&store, &live, &lock).unwrap();
        let manifest = fs::metadata(store.cas_path(old)).unwrap().len();
        let amount = |entries, bytes| Amount { entries, bytes };
        let expected: BTreeMap<_, _> = [
            (Category::Blob, amount(2, 5 + manifest)),
            (Category::Result, amount(1, 2)),
            (Category::ItemLog, amount(1, 5)),
            (Category::Checkpoint, amount(1, 3)),
            (Category::View, amount(2, 24)),
            (Category::Damaged, amount(1, 4)),
            (Category::Leftover, amount(1, 2)),
        ]
        .into();
        assert_eq!(plan.amounts(), expected);
        assert_eq!((plan.kept.entries, plan.missing.len()), (3, 0));
        assert!(store.complete(old).is_ok(), "a plan removes nothing");
        let report = plan.apply();
        assert_eq!((report.removed, report.failed), (expected, vec![]));
        assert_eq!(report.freed, 45 + manifest);

        assert!(store.complete(old).is_err() && store.verify(new).is_empty());
        assert!(root.join(format!("keys/{k_new}.json")).exists() && !root.join(format!("keys/{k_old}.json")).exists());
        assert!(root.join(format!("scratch/{k_new}/last.ckpt")).exists());
        assert!(root.join(format!("views/{new}-all/9")).exists());
        assert!(root.join("cas/notes of the user.txt").exists());
        assert!(GcPlan::new(&store, &live, &lock).unwrap().garbage.is_empty());
    }

    #[test]
    fn a_lost_root_is_reported_and_a_strange_one_stops_the_sweep() {
        let (_dir, store) = store();
        let gone = Digest::of(b"gone");
        let lock = lock(&store);
        let live = |d| Live { artifacts: [d].into(), ..Live::default() };
        assert_eq!(GcPlan::new(&store, &live(gone), &lock).unwrap().missing, [gone]);
        let blob = store.put(b"no manifest").unwrap();
        assert!(matches!(GcPlan::new(&store, &live(blob), &lock), Err(StoreError::Json { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_reachable_survives_and_nothing_else(
            sets in prop::collection::vec((prop::collection::btree_set(1u8..30, 0..6), any::<bool>()), 1..10),
        ) {
            let (_dir, store) = store();
            let mut live = Live::default();
            let mut wanted = HashSet::new();
            for (blobs, keep) in &sets {
                let blobs: Vec<u8> = blobs.iter().copied().collect();
                let a = artifact(&store, &blobs);
                if *keep {
                    live.artifacts.insert(a);
                    wanted.insert(a);
                    wanted.extend(blobs.iter().map(|b| Digest::of(&vec![*b; usize::from(*b)])));
                }
            }
            let lock = lock(&store);
            let report = GcPlan::new(&store, &live, &lock).unwrap().apply();
            prop_assert!(report.failed.is_empty());
            for a in &live.artifacts {
                prop_assert!(store.verify(*a).is_empty());
            }
            let mut left = HashSet::new();
            for folder in list(&store.root().join("cas")).unwrap() {
                left.extend(list(&folder).unwrap().iter().map(|p| digest_of_name(p, "").unwrap()));
            }
            prop_assert_eq!(left, wanted);
        }
    }

    #[test]
    fn a_sweep_beside_a_writing_run_removes_nothing_of_it() {
        let (_dir, store) = store();
        // What a run does: it takes the lock, writes blobs and then a record that makes them live.
        let records = Mutex::new(HashSet::new());
        let stop = AtomicBool::new(false);
        let swept = std::thread::scope(|s| {
            for writer in 0..3u8 {
                let (store, records) = (&store, &records);
                s.spawn(move || {
                    for round in 0..4u8 {
                        let _lock = lock(store);
                        artifact(store, &[200 + writer * 10 + round]);
                        let a = artifact(store, &[writer * 10 + round + 1, round + 100]);
                        std::thread::yield_now();
                        records.lock().unwrap().insert(a);
                    }
                });
            }
            let sweeper = s.spawn(|| {
                let mut freed = 0;
                while !stop.load(Ordering::SeqCst) {
                    let lock = lock(&store);
                    let live = Live { artifacts: records.lock().unwrap().clone(), ..Live::default() };
                    freed += GcPlan::new(&store, &live, &lock).unwrap().apply().freed;
                    drop(lock);
                    std::thread::yield_now();
                }
                freed
            });
            while records.lock().unwrap().len() < 12 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            stop.store(true, Ordering::SeqCst);
            sweeper.join().unwrap()
        });
        assert!(swept > 0, "the sweeps never found anything");
        for a in records.into_inner().unwrap() {
            assert!(store.verify(a).is_empty());
        }
    }
}
