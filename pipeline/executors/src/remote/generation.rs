//! The plan of a remote job as it lies in the store: generations of shards and the rounds in which they were submitted.
//!
//! Plans are only ever added to. What a killed program planned and submitted is read back here by the next one.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use engine::{CancelToken, Digest, Item, StageError, context::ItemSource};

use super::{
    cas,
    protocol::{Layout, Round, ShardItems, Spec, Work, to_bytes},
    worker::record,
};
use crate::objects::Objects;

/// Work that was cut at one time.
#[derive(Debug)]
pub struct Generation {
    /// Number, from 0.
    pub number: u32,
    /// What is to be done.
    pub spec: Spec,
    /// Submissions so far.
    pub rounds: Vec<Submission>,
    /// The shards.
    pub shards: Vec<Shard>,
}

/// A round, and whether the cluster is known to have it.
#[derive(Debug)]
pub struct Submission {
    /// The record.
    pub round: Round,
    /// False when the program may have been killed, or the cluster away, between writing it down and submitting it.
    pub sure: bool,
    /// It was stopped by a person.
    pub cancelled: bool,
    /// It was submitted by an earlier run. What failed then may have been mended since.
    pub earlier: bool,
}

/// A shard, as far as this program knows.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    /// Its result is here, or is not needed.
    pub merged: bool,
    /// Items in it.
    pub items: u64,
    /// Failed tries of this run of the program.
    pub tries: u32,
    /// Newest round that has it.
    pub round: Option<u32>,
    /// Looks in a row at which it was over or unknown without a result.
    pub silent: u32,
    /// When it was first seen running.
    pub running_since: Option<Duration>,
    /// It was begun a second time because it is slow.
    pub doubled: bool,
}

impl Generation {
    /// A plan, written down. When another program was first, that one's counts.
    pub fn create(objects: &dyn Objects, layout: &Layout, number: u32, spec: Spec) -> Result<Self, StageError> {
        let path = layout.spec(number);
        let spec = if objects.create(&path, &to_bytes(&spec))? { spec } else { record::<Spec>(objects, &path)? };
        let shards = vec![Shard { items: 1, ..Shard::default() }; spec.shards() as usize];
        Ok(Self { number, spec, rounds: Vec::new(), shards })
    }

    /// Cuts items into shards of at most `size` and writes the plan down; the lists first, so that a plan that is there
    /// is whole. False when another program was first with a plan of other items, which this is then.
    pub fn cut(
        objects: &dyn Objects,
        layout: &Layout,
        number: u32,
        items: &[Item],
        size: usize,
        cancel: &CancelToken,
        spec: impl FnOnce(Work) -> Spec,
    ) -> Result<(Self, bool), StageError> {
        let list = |shard: &[Item]| to_bytes(&shard.iter().map(|i| i.blob.clone()).collect::<ShardItems>());
        let digests: Vec<Digest> = items.chunks(size).map(|shard| Digest::of(&list(shard))).collect();
        let division = Digest::of_json(&digests);
        let numbers: Vec<usize> = (0..digests.len()).collect();
        cas::each(&numbers, cancel, &|_| {}, |n| {
            let shard = &items[n * size..((n + 1) * size).min(items.len())];
            Ok(objects.put(&layout.shard(number, division, n as u32), &list(shard))?)
        })?;
        let work = Work::Items { division, shards: digests.len() as u32, items: items.len() as u64 };
        let mut new = Self::create(objects, layout, number, spec(work.clone()))?;
        let is_this = new.spec.work == work;
        if is_this {
            for (shard, items) in new.shards.iter_mut().zip(items.chunks(size)) {
                shard.items = items.len() as u64;
            }
        }
        Ok((new, is_this))
    }

    /// All generations of a job, with their rounds.
    pub fn read_all(objects: &dyn Objects, layout: &Layout) -> Result<Vec<Self>, StageError> {
        let mut all: Vec<Self> = Vec::new();
        let paths = objects.list(&layout.jobs())?;
        let is_there = |path: &String| paths.binary_search(path).is_ok();
        for number in (0..).take_while(|&n| is_there(&layout.spec(n))) {
            let spec: Spec = record(objects, &layout.spec(number))?;
            let shards = vec![Shard { items: 1, ..Shard::default() }; spec.shards() as usize];
            let mut generation = Self { number, spec, rounds: Vec::new(), shards };
            for n in (0..).take_while(|&n| is_there(&layout.round(number, n))) {
                let round: Round = record(objects, &layout.round(number, n))?;
                for &task in &round.tasks {
                    if let Some(shard) = generation.shards.get_mut(task as usize) {
                        shard.round = Some(n);
                    }
                }
                let cancelled = objects.has(&layout.cancelled(&layout.batch(number, n)))?;
                generation.rounds.push(Submission { round, sure: false, cancelled, earlier: true });
            }
            all.push(generation);
        }
        Ok(all)
    }

    /// Keys of the items of every shard that has no result here, by shard. Shards whose results are all here are merged.
    pub fn open_keys(
        &mut self,
        objects: &dyn Objects,
        layout: &Layout,
        source: &ItemSource,
        cancel: &CancelToken,
    ) -> Result<BTreeMap<u32, Vec<Digest>>, StageError> {
        let found = Mutex::new(BTreeMap::new());
        let numbers: Vec<u32> = (0..self.shards.len() as u32).collect();
        cas::each(&numbers, cancel, &|_| {}, |n| {
            let items = self.items(objects, layout, n)?;
            let keys: Vec<Digest> = items.iter().map(|b| ItemSource::key(source.base, source.identity, b)).collect();
            found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(n, keys);
            Ok(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (&n, keys) in &found {
            let shard = &mut self.shards[n as usize];
            shard.items = keys.len() as u64;
            shard.merged = keys.iter().all(|k| source.log.has(*k));
        }
        found.retain(|&n, _| !self.shards[n as usize].merged);
        Ok(found)
    }

    /// The items of a shard.
    pub fn items(&self, objects: &dyn Objects, layout: &Layout, shard: u32) -> Result<ShardItems, StageError> {
        match self.spec.work {
            Work::Whole => Ok(Vec::new()),
            Work::Items { division, .. } => record(objects, &layout.shard(self.number, division, shard)),
        }
    }

    /// Writes a new round down; its number. The record comes before the submission, so that whatever runs is known, and
    /// submitting it again after a crash in between starts nothing twice. `None` when another program has just written a
    /// round of its own: that one is known here now, and that program is left to submit it.
    pub fn add_round(
        &mut self,
        objects: &dyn Objects,
        layout: &Layout,
        round: Round,
    ) -> Result<Option<u32>, StageError> {
        let number = self.rounds.len() as u32;
        let path = layout.round(self.number, number);
        let is_mine = objects.create(&path, &to_bytes(&round))?;
        let round = if is_mine { round } else { record::<Round>(objects, &path)? };
        for &task in &round.tasks {
            if let Some(shard) = self.shards.get_mut(task as usize) {
                (shard.round, shard.silent, shard.running_since) = (Some(number), 0, None);
            }
        }
        self.rounds.push(Submission { round, sure: !is_mine, cancelled: false, earlier: false });
        Ok(is_mine.then_some(number))
    }

    /// True when nothing is waited for.
    pub fn is_merged(&self) -> bool {
        self.shards.iter().all(|s| s.merged)
    }
}
