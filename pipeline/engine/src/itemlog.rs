//! The results of a stage's items, in one append-only file: each finished item is kept the moment it is finished, and
//! a file cut anywhere loses at most the record that was being written.
//!
//! File: the line `pipeline-items 1`, then records `len:u32le key:[32] tag:u8 payload:[len] check:[8]`, where `check`
//! is the head of the BLAKE3 of key, tag and payload. A record that does not check ends the file.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{BufReader, Read, Seek, SeekFrom, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    context::Context,
    digest::Digest,
    item::{Item, ItemError, ItemOutcome},
    stage::StageError,
    store::{Store, StoreError},
};

const HEADER: &[u8] = b"pipeline-items 1\n";
/// Records are flushed to the disk at least this often, so that a power cut costs no more than this much work.
const SYNC_EVERY: Duration = Duration::from_millis(250);
const TAG_DONE: u8 = 0;
const TAG_QUARANTINED: u8 = 1;

/// The log of one stage with one config and one set of shared inputs.
pub struct ItemLog {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: Option<File>,
    /// Key -> offset and length of the payload, and tag. Only looked up, never listed.
    index: HashMap<Digest, (u64, u32, u8)>,
    end: u64,
    synced: Instant,
}

impl ItemLog {
    /// Opens a log that may not exist yet. A damaged or cut end is dropped when the next record is written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut state = State { file: None, index: HashMap::new(), end: 0, synced: Instant::now() };
        match File::open(path) {
            Ok(file) => {
                let total = file.metadata().map_err(StoreError::io("reading", path, 0))?.len();
                scan(file, total, &mut state, |_| {}).map_err(StoreError::io("reading", path, 0))?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("reading", path, 0)(e)),
        }
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Where a store keeps the log of items with this base.
    pub fn path(store: &Store, base: Digest) -> PathBuf {
        store.root().join("items").join(format!("{base}.log"))
    }

    /// Forgets every result of a log.
    pub fn remove(path: &Path) -> Result<(), StoreError> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("removing", path, 0)(e)),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// True when the item has a result.
    pub fn has(&self, key: Digest) -> bool {
        self.lock().index.contains_key(&key)
    }

    /// The items of `all` without a result; of several with one key only the first.
    pub fn missing(&self, all: &[Item]) -> Result<Vec<Item>, StageError> {
        let state = self.lock();
        let mut seen = std::collections::HashSet::new();
        Ok(all.iter().filter(|i| !state.index.contains_key(&i.key) && seen.insert(i.key)).cloned().collect())
    }

    /// How many of these items have no result but a reason.
    pub(crate) fn quarantined(&self, all: &[Item]) -> u64 {
        let state = self.lock();
        all.iter().filter(|i| state.index.get(&i.key).is_some_and(|&(_, _, tag)| tag == TAG_QUARANTINED)).count() as u64
    }

    /// The kept result of a key.
    pub fn get(&self, key: Digest) -> Result<ItemOutcome, StageError> {
        let mut state = self.lock();
        let &(offset, len, tag) =
            state.index.get(&key).ok_or_else(|| StageError::message(format!("item {} has no result", key.short())))?;
        let read = |state: &mut State| -> std::io::Result<Vec<u8>> {
            if state.file.is_none() {
                state.file = Some(OpenOptions::new().read(true).write(true).open(&self.path)?);
            }
            let file = state.file.as_mut().expect("opened above");
            let mut payload = vec![0; len as usize];
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(&mut payload)?;
            Ok(payload)
        };
        let payload = read(&mut state).map_err(StoreError::io("reading", &self.path, 0))?;
        Ok(outcome(tag, payload))
    }

    /// Keeps a result.
    pub fn put(&self, key: Digest, outcome: &ItemOutcome) -> Result<(), StoreError> {
        let record = record(key, outcome)?;
        let mut state = self.lock();
        self.append(&mut state, &record).map_err(StoreError::io("writing", &self.path, record.len() as u64))?;
        let at = state.end;
        state.index.insert(key, (at + 37, record.len() as u32 - 45, record[36]));
        state.end += record.len() as u64;
        Ok(())
    }

    fn append(&self, state: &mut State, record: &[u8]) -> std::io::Result<()> {
        if state.file.is_none() || state.end == 0 {
            if let Some(dir) = self.path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?;
            if state.end == 0 {
                file.set_len(0)?;
                file.write_all(HEADER)?;
                state.end = HEADER.len() as u64;
            }
            file.set_len(state.end)?;
            state.file = Some(file);
        }
        let end = state.end;
        let file = state.file.as_mut().expect("opened above");
        file.seek(SeekFrom::Start(end))?;
        if let Err(e) = file.write_all(record) {
            // A full disk may leave half a record; the next one starts where this one should have.
            let _ = file.set_len(end);
            return Err(e);
        }
        if state.synced.elapsed() >= SYNC_EVERY {
            file.sync_data()?;
            state.synced = Instant::now();
        }
        Ok(())
    }

    /// The results of these keys in the form of a log of their own, in the order given: what travels between machines.
    /// Equal results give equal bytes.
    pub fn pack(&self, keys: &[Digest]) -> Result<Vec<u8>, StageError> {
        pack(keys.iter().map(|&key| Ok((key, self.get(key)?))))
    }

    /// Keeps every result of a pack that is not here yet; the keys of the pack in their order. A pack that is cut or
    /// damaged anywhere is refused as a whole.
    pub fn unpack(&self, pack: &[u8]) -> Result<Vec<Digest>, StoreError> {
        let mut found = State { file: None, index: HashMap::new(), end: 0, synced: Instant::now() };
        let mut keys = Vec::new();
        scan(pack, pack.len() as u64, &mut found, |key| keys.push(key))
            .map_err(|e| StoreError::Invalid(format!("a pack of results could not be read: {e}")))?;
        if found.end != pack.len() as u64 {
            return Err(StoreError::Invalid(format!(
                "a pack of results is damaged at byte {} of {}",
                found.end,
                pack.len()
            )));
        }
        for key in &keys {
            if !self.has(*key) {
                let (offset, len, tag) = found.index[key];
                let payload = pack[offset as usize..offset as usize + len as usize].to_vec();
                self.put(*key, &outcome(tag, payload))?;
            }
        }
        Ok(keys)
    }

    /// Flushes everything to the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        let state = self.lock();
        state.file.as_ref().map_or(Ok(()), File::sync_data).map_err(StoreError::io("flushing", &self.path, 0))
    }

    /// Computes `todo` with `f`, `at_once` items at a time (0: one a thread), keeping each result at once. Progress
    /// counts every item. An item that panics is quarantined: one bad file must not take the batch along.
    pub(crate) fn compute(
        &self,
        todo: &[Item],
        at_once: usize,
        ctx: &Context,
        f: impl Fn(&Item) -> Result<Vec<u8>, ItemError> + Sync,
    ) -> Result<(), StageError> {
        let workers = if at_once == 0 { ctx.threads() } else { at_once }.clamp(1, todo.len().max(1));
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failure: Mutex<Option<StageError>> = Mutex::new(None);
        let fail = |e: StageError| {
            next.store(todo.len(), Ordering::SeqCst);
            failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
        };
        let work = || {
            loop {
                let Some(item) = todo.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
                if let Err(e) = ctx.check() {
                    return fail(e);
                }
                let outcome = match catch_unwind(AssertUnwindSafe(|| f(item))) {
                    Ok(Ok(bytes)) => ItemOutcome::Done(bytes),
                    Ok(Err(ItemError::Quarantine(reason))) => ItemOutcome::Quarantined(reason),
                    Ok(Err(ItemError::Stage(e))) => return fail(e),
                    Err(panic) => ItemOutcome::Quarantined(format!(
                        "the program crashed on this file (a bug, please report it): {}",
                        panic_text(panic.as_ref())
                    )),
                };
                if let ItemOutcome::Quarantined(reason) = &outcome {
                    ctx.quarantined(&item.blob.name, reason);
                }
                if let Err(e) = self.put(item.key, &outcome) {
                    return fail(e.into());
                }
                let n = done.fetch_add(1, Ordering::SeqCst) + 1;
                ctx.progress(n as u64, todo.len() as u64, "images", item.blob.name.clone());
            }
        };
        // The caller is a thread of the stage's pool, so what is parallel inside an item shares the same threads.
        rayon::in_place_scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|_| work());
            }
            work();
        });
        self.sync()?;
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }
}

/// Results in the form of a log of their own; see [`ItemLog::pack`].
pub fn pack(results: impl Iterator<Item = Result<(Digest, ItemOutcome), StageError>>) -> Result<Vec<u8>, StageError> {
    let mut bytes = HEADER.to_vec();
    for result in results {
        let (key, outcome) = result?;
        bytes.extend(record(key, &outcome)?);
    }
    Ok(bytes)
}

/// A result as it lies in the file.
fn record(key: Digest, outcome: &ItemOutcome) -> Result<Vec<u8>, StoreError> {
    let (tag, payload) = match outcome {
        ItemOutcome::Done(bytes) => (TAG_DONE, bytes.as_slice()),
        ItemOutcome::Quarantined(reason) => (TAG_QUARANTINED, reason.as_bytes()),
    };
    let len = u32::try_from(payload.len())
        .map_err(|_| StoreError::Invalid(format!("an item result of {} bytes is too large", payload.len())))?;
    let mut record = Vec::with_capacity(payload.len() + 45);
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(key.as_bytes());
    record.push(tag);
    record.extend_from_slice(payload);
    let check = Digest::of(&record[4..]);
    record.extend_from_slice(&check.as_bytes()[..8]);
    Ok(record)
}

fn outcome(tag: u8, payload: Vec<u8>) -> ItemOutcome {
    match tag {
        TAG_DONE => ItemOutcome::Done(payload),
        _ => ItemOutcome::Quarantined(String::from_utf8_lossy(&payload).into_owned()),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Reads all whole records; stops without error at the first that does not check.
fn scan(bytes: impl Read, total: u64, state: &mut State, mut each: impl FnMut(Digest)) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, bytes);
    let mut header = vec![0; HEADER.len()];
    if reader.read_exact(&mut header).is_err() || header != HEADER {
        return Ok(());
    }
    let mut at = HEADER.len() as u64;
    state.end = at;
    let mut head = [0; 37];
    while reader.read_exact(&mut head).is_ok() {
        let len = u32::from_le_bytes(head[..4].try_into().expect("4 bytes"));
        if at + 45 + u64::from(len) > total {
            break;
        }
        let mut record = head[4..].to_vec();
        record.resize(33 + len as usize, 0);
        let mut check = [0; 8];
        if reader.read_exact(&mut record[33..]).is_err()
            || reader.read_exact(&mut check).is_err()
            || Digest::of(&record).as_bytes()[..8] != check
        {
            break;
        }
        let key: [u8; 32] = record[..32].try_into().expect("32 bytes");
        each(Digest::from_bytes(key));
        state.index.insert(Digest::from_bytes(key), (at + 37, len, record[32]));
        at += 45 + u64::from(len);
        state.end = at;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u8) -> Digest {
        Digest::of(&[i])
    }

    #[test]
    fn a_log_cut_anywhere_keeps_every_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let log = ItemLog::open(&path).unwrap();
        for i in 0..4u8 {
            log.put(key(i), &ItemOutcome::Done(vec![i; 10 * usize::from(i)])).unwrap();
        }
        log.put(key(9), &ItemOutcome::Quarantined("bad".into())).unwrap();
        let whole = std::fs::read(&path).unwrap();
        drop(log);
        let mut ends = vec![];
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let log = ItemLog::open(&path).unwrap();
            let n = (0..4).filter(|&i| log.has(key(i))).count() + usize::from(log.has(key(9)));
            ends.push(n);
            // It can be written to again, and reads back what it had.
            log.put(key(77), &ItemOutcome::Done(b"new".to_vec())).unwrap();
            drop(log);
            let log = ItemLog::open(&path).unwrap();
            assert_eq!(log.get(key(77)).unwrap(), ItemOutcome::Done(b"new".to_vec()));
            if n > 2 {
                assert_eq!(log.get(key(2)).unwrap(), ItemOutcome::Done(vec![2; 20]));
            }
        }
        assert!(ends.is_sorted());
        assert_eq!(*ends.last().unwrap(), 5);
    }

    #[test]
    fn packs_carry_results_and_refuse_damage() {
        let dir = tempfile::tempdir().unwrap();
        let here = ItemLog::open(&dir.path().join("a.log")).unwrap();
        for i in 0..4u8 {
            here.put(key(i), &ItemOutcome::Done(vec![i; 10 * usize::from(i)])).unwrap();
        }
        here.put(key(9), &ItemOutcome::Quarantined("bad".into())).unwrap();
        let pack = here.pack(&[key(9), key(2), key(3)]).unwrap();
        assert_eq!(here.pack(&[key(9), key(2), key(3)]).unwrap(), pack);
        let there = ItemLog::open(&dir.path().join("b.log")).unwrap();
        there.put(key(3), &ItemOutcome::Done(vec![7])).unwrap();
        for cut in 0..pack.len() {
            let whole = there.unpack(&pack[..cut]).map(|keys| keys.len());
            assert!(whole.is_err() || cut == HEADER.len() || whole.unwrap() < 3, "cut at {cut}");
        }
        let mut bad = pack.clone();
        bad[60] ^= 1;
        assert!(ItemLog::open(&dir.path().join("c.log")).unwrap().unpack(&bad).is_err());
        assert_eq!(there.unpack(&pack).unwrap(), [key(9), key(2), key(3)]);
        assert_eq!(there.get(key(2)).unwrap(), ItemOutcome::Done(vec![2; 20]));
        assert_eq!(there.get(key(9)).unwrap(), ItemOutcome::Quarantined("bad".into()));
        assert_eq!(there.get(key(3)).unwrap(), ItemOutcome::Done(vec![7]), "what is here stays");
    }

    #[test]
    fn a_flipped_bit_ends_the_log_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let log = ItemLog::open(&path).unwrap();
        log.put(key(0), &ItemOutcome::Done(vec![5; 100])).unwrap();
        log.put(key(1), &ItemOutcome::Done(vec![6; 100])).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let n = bytes.len();
        bytes[n - 50] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let log = ItemLog::open(&path).unwrap();
        assert!(log.has(key(0)) && !log.has(key(1)));
    }
}
