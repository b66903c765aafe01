//! The stat cache: digests of files that did not change since they were last read.
//!
//! Owns one flat file per input, `<store>/stat/<input>-<hash>.stat`, sorted by name so that it merges with a sorted
//! walk. It is only a cache: it may be deleted at any time, and one that does not check is ignored.
//!
//! File: `pipeline-stat 1\n`, artifact digest, then records `size mtime_ns ctime_ns inode` (8 bytes each, little
//! endian), digest, a byte that is 1 for a racy record, length of the name (4 bytes), name; last the BLAKE3 of all
//! that. A record is racy when the file was changed so shortly before it was read that a later change could leave the
//! same times; racy files are read again.

use std::{
    fs::Metadata,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    digest::Digest,
    store::{Store, StoreError},
};

const HEADER: &[u8; 16] = b"pipeline-stat 1\n";
const CHECK_LEN: usize = 32;
/// Coarsest time stamps in use (FAT has 2 s).
const RACY_NS: i64 = 2_000_000_000;

/// What tells a changed file from an unchanged one without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Size in bytes.
    pub size: u64,
    /// Nanoseconds since 1970; `ctime` is the time of the last change of data or attributes (where there is none,
    /// the time the file was made).
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
}

impl Stat {
    #[cfg(unix)]
    pub fn of(meta: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            size: meta.size(),
            mtime: ns(meta.mtime(), meta.mtime_nsec()),
            ctime: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    #[cfg(not(unix))]
    pub fn of(meta: &Metadata) -> Self {
        let ns = |t: std::io::Result<SystemTime>| t.map_or(0, since_1970);
        Self { size: meta.len(), mtime: ns(meta.modified()), ctime: ns(meta.created()), inode: 0 }
    }

    /// True when the file could change after `read_at` (nanoseconds) without a change of its times.
    pub fn is_racy(&self, read_at: i64) -> bool {
        read_at.saturating_sub(self.mtime.max(self.ctime)) < RACY_NS
    }
}

pub(crate) fn since_1970(t: SystemTime) -> i64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// One file as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub name: &'a str,
    pub stat: Stat,
    pub digest: Digest,
    pub racy: bool,
}

/// A cache file that checked.
pub(crate) struct StatCache {
    bytes: Vec<u8>,
}

impl StatCache {
    /// The cache at `path`; `None` when there is none that can be used.
    pub fn load(path: &Path) -> Option<Self> {
        let mut bytes = std::fs::read(path).ok()?;
        let body = bytes.len().checked_sub(CHECK_LEN)?;
        let ok = bytes.starts_with(HEADER) && Digest::of(&bytes[..body]).as_bytes() == &bytes[body..];
        bytes.truncate(body);
        (ok && body >= HEADER.len() + 32).then_some(Self { bytes })
    }

    /// The artifact that the files made when all of them were read.
    pub fn artifact(&self) -> Digest {
        Digest::from_bytes(self.bytes[HEADER.len()..HEADER.len() + 32].try_into().expect("the length was checked"))
    }

    /// All records, in order of names.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &self.bytes[HEADER.len() + 32..];
        std::iter::from_fn(move || {
            let (head, after) = rest.split_at_checked(69)?;
            let word = |i: usize| head[8 * i..8 * i + 8].try_into().expect("8 bytes");
            let len = u32::from_le_bytes(head[65..69].try_into().expect("4 bytes"));
            let (name, after) = after.split_at_checked(len as usize)?;
            rest = after;
            Some(Record {
                name: std::str::from_utf8(name).ok()?,
                stat: Stat {
                    size: u64::from_le_bytes(word(0)),
                    mtime: i64::from_le_bytes(word(1)),
                    ctime: i64::from_le_bytes(word(2)),
                    inode: u64::from_le_bytes(word(3)),
                },
                digest: Digest::from_bytes(head[32..64].try_into().expect("32 bytes")),
                racy: head[64] != 0,
            })
        })
    }

    /// Writes a cache of `records`, which are in order of names.
    pub fn save<'a>(
        store: &Store,
        path: &Path,
        artifact: Digest,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<(), StoreError> {
        let mut out = HEADER.to_vec();
        out.extend_from_slice(artifact.as_bytes());
        for r in records {
            out.extend_from_slice(&r.stat.size.to_le_bytes());
            out.extend_from_slice(&r.stat.mtime.to_le_bytes());
            out.extend_from_slice(&r.stat.ctime.to_le_bytes());
            out.extend_from_slice(&r.stat.inode.to_le_bytes());
            out.extend_from_slice(r.digest.as_bytes());
            out.push(u8::from(r.racy));
            out.extend_from_slice(&u32::try_from(r.name.len()).expect("paths are short").to_le_bytes());
            out.extend_from_slice(r.name.as_bytes());
        }
        let check = Digest::of(&out);
        out.extend_from_slice(check.as_bytes());
        store.write_file(path, &out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_saved_is_loaded_and_any_damage_is_noticed(
            entries in prop::collection::btree_map("[a-zä/ ]{0,12}", any::<(u64, i64, i64, u64, bool)>(), 0..8),
            at in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let path = dir.path().join("stat/a.stat");
            let records: Vec<_> = entries.iter().map(|(name, &(size, mtime, ctime, inode, racy))| Record {
                name, stat: Stat { size, mtime, ctime, inode }, digest: Digest::of(name.as_bytes()), racy,
            }).collect();
            StatCache::save(&store, &path, Digest::of(b"x"), records.iter().copied()).unwrap();
            let cache = StatCache::load(&path).unwrap();
            prop_assert_eq!(cache.artifact(), Digest::of(b"x"));
            prop_assert_eq!(cache.records().collect::<Vec<_>>(), records);

            let good = std::fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            prop_assert!(StatCache::load(&path).is_none());
            std::fs::write(&path, &good[..cut.index(good.len())]).unwrap();
            prop_assert!(StatCache::load(&path).is_none());
        }
    }
}
