//! Content on its way between this machine's store and the store of remote jobs: only what is missing travels, several
//! at once, compressed where that pays, and checked when it arrives.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use engine::{CancelToken, Digest, StageError, Store};

use super::protocol::{Content, cas};
use crate::objects::{Objects, ObjectsError};

/// Transfers at once, where nothing is known of their size.
const AT_ONCE: usize = 12;
/// Transfers at once: at least, and at most, as their bytes allow.
const LANES: [usize; 2] = [4, 32];
/// Bytes of all transfers at once, as far as [`LANES`] allows it.
const IN_MEMORY: u64 = 256 << 20;
/// From so many on it is cheaper to list what is there than to ask for each.
const LIST_FROM: usize = 300;
/// Bytes of a blob that are compressed to find out whether that pays.
const SAMPLE: usize = 64 << 10;
/// Compressed must be shorter than this share to be worth unpacking.
const PAYS: f64 = 0.9;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_LEVEL: i32 = 3;
/// Times that content which arrives damaged is fetched again.
const TRIES: u32 = 3;

/// What is worth telling of transfers.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes that came, as they travelled.
    pub fetched: AtomicU64,
    /// Bytes that went, as they travelled.
    pub sent: AtomicU64,
    /// Pieces of content that were there already.
    pub spared: AtomicU64,
    /// Pieces of content that lay damaged in the store of remote jobs, and were removed there.
    pub damaged: AtomicU64,
}

impl From<ObjectsError> for StageError {
    fn from(e: ObjectsError) -> Self {
        match e {
            ObjectsError::Unreachable { .. } => Self::Transient { message: e.to_string(), source: None },
            e => Self::message(e.to_string()),
        }
    }
}

/// The form in which bytes travel.
fn packed(bytes: &[u8]) -> Option<Vec<u8>> {
    let squeeze = |bytes: &[u8]| zstd::bulk::compress(bytes, ZSTD_LEVEL).ok();
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    let short = |from: &[u8], to: &[u8]| (to.len() as f64) < PAYS * from.len() as f64;
    let first = squeeze(sample).filter(|p| short(sample, p))?;
    if sample.len() == bytes.len() { Some(first) } else { squeeze(bytes).filter(|p| short(bytes, p)) }
}

/// The bytes that a piece of content stands for; `None` when they do not have its digest.
fn unpacked(stored: Vec<u8>, content: Content) -> Option<Vec<u8>> {
    if stored.len() as u64 == content.size && Digest::of(&stored) == content.digest {
        return Some(stored);
    }
    if !stored.starts_with(&ZSTD_MAGIC) {
        return None;
    }
    let bytes = zstd::bulk::decompress(&stored, usize::try_from(content.size).ok()?).ok()?;
    (Digest::of(&bytes) == content.digest).then_some(bytes)
}

/// Sends bytes.
pub fn send(objects: &dyn Objects, bytes: &[u8], traffic: &Traffic) -> Result<Content, StageError> {
    let content = Content { digest: Digest::of(bytes), size: bytes.len() as u64 };
    let packed = packed(bytes);
    let stored = packed.as_deref().unwrap_or(bytes);
    objects.put(&cas(content.digest), stored)?;
    traffic.sent.fetch_add(stored.len() as u64, Ordering::Relaxed);
    Ok(content)
}

/// Fetches content. What arrives damaged is fetched again; what lies damaged there is removed, so that whoever has the
/// true bytes sends them anew.
pub fn fetch(objects: &dyn Objects, content: Content, traffic: &Traffic) -> Result<Vec<u8>, StageError> {
    let path = cas(content.digest);
    for _ in 0..TRIES {
        let Some(stored) = objects.get(&path)? else { return Err(missing(content)) };
        traffic.fetched.fetch_add(stored.len() as u64, Ordering::Relaxed);
        if let Some(bytes) = unpacked(stored, content) {
            return Ok(bytes);
        }
    }
    objects.delete(&path)?;
    traffic.damaged.fetch_add(1, Ordering::Relaxed);
    Err(StageError::Transient {
        message: format!(
            "`{path}` of {objects:?} was damaged, and was removed there; it is sent again on the next try"
        ),
        source: None,
    })
}

fn missing(content: Content) -> StageError {
    StageError::Transient {
        message: format!(
            "`{}` is not in the store of remote jobs; it is sent again on the next try",
            cas(content.digest)
        ),
        source: None,
    }
}

/// Makes sure that all this content is there; `done` hears how many pieces are.
pub fn push(
    objects: &dyn Objects,
    store: &Store,
    wanted: &BTreeSet<Content>,
    traffic: &Traffic,
    cancel: &CancelToken,
    done: &(dyn Fn(usize) + Sync),
) -> Result<(), StageError> {
    let there: Option<BTreeSet<String>> = match wanted.len() {
        0..LIST_FROM => None,
        _ => Some(objects.list("cas")?.into_iter().collect()),
    };
    let wanted: Vec<Content> = wanted.iter().copied().collect();
    each_in(lanes(&wanted), &wanted, cancel, done, |content| {
        let path = cas(content.digest);
        let has = match &there {
            Some(there) => there.contains(&path),
            None => objects.has(&path)?,
        };
        if has {
            traffic.spared.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        send(objects, &store.read(content.digest)?, traffic).map(drop)
    })
}

/// Makes sure that all this content is here.
pub fn pull(
    objects: &dyn Objects,
    store: &Store,
    wanted: &[Content],
    traffic: &Traffic,
    cancel: &CancelToken,
) -> Result<(), StageError> {
    each_in(lanes(wanted), wanted, cancel, &|_| {}, |content| {
        if !store.has(content.digest) {
            store.put(&fetch(objects, content, traffic)?)?;
        }
        Ok(())
    })
}

/// Everything that an artifact is made of.
pub fn contents_of(store: &Store, artifact: Digest) -> Result<Vec<Content>, StageError> {
    let manifest = store.manifest(artifact)?;
    let size = manifest.to_bytes().len() as u64;
    let blobs = manifest.blobs.iter().map(|b| Content { digest: b.digest, size: b.size });
    Ok(std::iter::once(Content { digest: artifact, size }).chain(blobs).collect())
}

/// Fetches an artifact: its manifest, whose length is not known beforehand, and what that names.
pub fn pull_artifact(
    objects: &dyn Objects,
    store: &Store,
    artifact: Digest,
    traffic: &Traffic,
    cancel: &CancelToken,
) -> Result<(), StageError> {
    pull_manifest(objects, store, artifact, traffic)?;
    pull(objects, store, &contents_of(store, artifact)?, traffic, cancel)
}

/// Fetches the manifest of an artifact.
pub fn pull_manifest(
    objects: &dyn Objects,
    store: &Store,
    artifact: Digest,
    traffic: &Traffic,
) -> Result<(), StageError> {
    if store.has(artifact) {
        return Ok(());
    }
    let path = cas(artifact);
    let content = |size| Content { digest: artifact, size };
    let stored = objects.get(&path)?.ok_or_else(|| missing(content(0)))?;
    // The frame of what is compressed says how long it was.
    let size = zstd::zstd_safe::get_frame_content_size(&stored).ok().flatten().unwrap_or(stored.len() as u64);
    let bytes = match unpacked(stored, content(size)) {
        Some(bytes) => bytes,
        None => fetch(objects, content(size), traffic)?,
    };
    traffic.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    store.put(&bytes)?;
    Ok(())
}

/// How many of these travel at once: requests take time, and bytes take memory.
fn lanes(contents: &[Content]) -> usize {
    let largest = contents.iter().map(|c| c.size).max().unwrap_or(0).max(1);
    ((IN_MEMORY / largest) as usize).clamp(LANES[0], LANES[1])
}

/// Does something with every piece, several at once, until all are done or one fails.
pub fn each<T: Copy + Sync>(
    all: &[T],
    cancel: &CancelToken,
    done: &(dyn Fn(usize) + Sync),
    f: impl Fn(T) -> Result<(), StageError> + Sync,
) -> Result<(), StageError> {
    each_in(AT_ONCE, all, cancel, done, f)
}

fn each_in<T: Copy + Sync>(
    lanes: usize,
    all: &[T],
    cancel: &CancelToken,
    done: &(dyn Fn(usize) + Sync),
    f: impl Fn(T) -> Result<(), StageError> + Sync,
) -> Result<(), StageError> {
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure: Mutex<Option<StageError>> = Mutex::new(None);
    let lock = || failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let work = || {
        while let Some(&one) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
            let result = if cancel.is_cancelled() { Err(StageError::Cancelled) } else { f(one) };
            if let Err(e) = result {
                next.store(all.len(), Ordering::SeqCst);
                lock().get_or_insert(e);
                return;
            }
            done(finished.fetch_add(1, Ordering::SeqCst) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..lanes.min(all.len()) {
            scope.spawn(work);
        }
        work();
    });
    lock().take().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_compressed_arrives_whole_and_damage_is_seen() {
        let text = "annotation ".repeat(20_000).into_bytes();
        let content = Content { digest: Digest::of(&text), size: text.len() as u64 };
        let stored = packed(&text).expect("text is worth it");
        assert!(stored.len() * 20 < text.len());
        assert_eq!(unpacked(stored.clone(), content).as_deref(), Some(text.as_slice()));
        for at in (0..stored.len()).step_by(7) {
            let mut bad = stored.clone();
            bad[at] ^= 4;
            assert!(unpacked(bad, content).is_none_or(|b| b == text), "byte {at}");
        }
        assert_eq!(unpacked(stored[..stored.len() - 1].to_vec(), content), None);
        // A file that is compressed itself travels as it is, and is not taken for the other form.
        let own = Content { digest: Digest::of(&stored), size: stored.len() as u64 };
        assert_eq!(unpacked(stored.clone(), own).as_deref(), Some(stored.as_slice()));
        let noise: Vec<u8> = (0..100_000u32).map(|i| Digest::of(&i.to_le_bytes()).as_bytes()[0]).collect();
        assert_eq!(packed(&noise), None);
        assert_eq!(packed(b""), None);
    }
}
