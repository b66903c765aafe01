//! Taking in the results of shards.
//!
//! Owns what is believed of a result. Refuses to ask the cluster anything: only `done/` counts.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use engine::{ItemOutcome, StageError, context::ItemSource};

use super::{
    super::{
        cas,
        protocol::{self, Done, Made, shard_of},
        worker::record,
    },
    Errand,
};

/// Results that are fetched at once and kept in memory.
const TAKE: usize = 16;

impl Errand<'_> {
    /// Takes in results that are new; true when there was one.
    pub(super) fn take_done(&mut self, source: Option<&ItemSource>) -> Result<bool, StageError> {
        let mut news = Vec::new();
        for path in self.c.objects.list(&self.layout.done_all())? {
            let Some((g, n)) = shard_of(path.rsplit('/').next().unwrap_or_default()) else { continue };
            let shard = self.generations.get(g as usize).and_then(|g| g.shards.get(n as usize));
            if shard.is_some_and(|s| !s.merged) {
                news.push((g, n));
            }
        }
        for some in news.chunks(TAKE) {
            let arrived = Mutex::new(BTreeMap::new());
            cas::each(some, self.cancel(), &|_| {}, |(g, n)| {
                let result = self.fetch(g, n);
                arrived.lock().unwrap_or_else(PoisonError::into_inner).insert((g, n), result);
                Ok(())
            })?;
            for ((g, n), result) in arrived.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let (done, pack) = match result {
                    Ok(whole) => whole,
                    Err(e @ StageError::Transient { .. }) => {
                        self.warn(format!("shard {g}-{n}: {e}"));
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                self.take(source, (g, n), &done, &pack)?;
                self.generations[g as usize].shards[n as usize].merged = true;
            }
        }
        if let Some(source) = source {
            source.log.sync()?;
        }
        Ok(!news.is_empty())
    }

    /// Fetches a result with all that belongs to it; the pack of its items.
    fn fetch(&self, generation: u32, shard: u32) -> Result<(Done, Vec<u8>), StageError> {
        let (objects, store) = (self.c.objects, self.ctx().store());
        let path = self.layout.done(generation, shard);
        let done: Done = record(objects, &path)?;
        let fetch = || match &done.made {
            Made::Items { pack, blobs } => {
                cas::pull(objects, store, blobs, &self.traffic, self.cancel())?;
                cas::fetch(objects, *pack, &self.traffic)
            }
            Made::Outputs { outputs, .. } => {
                for &artifact in outputs.values() {
                    cas::pull_artifact(objects, store, artifact, &self.traffic, self.cancel())?;
                }
                Ok(Vec::new())
            }
        };
        match fetch() {
            Ok(pack) => Ok((done, pack)),
            Err(e) => {
                if matches!(e, StageError::Transient { .. }) && !self.is_whole(&done)? {
                    // Without its content a result is worth nothing. What its attempt left in parts is still there.
                    objects.delete(&path)?;
                }
                Err(e)
            }
        }
    }

    /// True when all content of a result is in the store of remote jobs.
    fn is_whole(&self, done: &Done) -> Result<bool, StageError> {
        let mut digests = Vec::new();
        match &done.made {
            Made::Items { pack, blobs } => digests.extend(blobs.iter().chain([pack]).map(|c| c.digest)),
            Made::Outputs { outputs, .. } => {
                for &artifact in outputs.values() {
                    digests.push(artifact);
                    // Without the manifest here, it is what could not be had.
                    let contents = cas::contents_of(self.ctx().store(), artifact).unwrap_or_default();
                    digests.extend(contents.iter().map(|c| c.digest));
                }
            }
        }
        for digest in digests {
            if !self.c.objects.has(&protocol::cas(digest))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take(
        &mut self,
        source: Option<&ItemSource>,
        (g, n): (u32, u32),
        done: &Done,
        pack: &[u8],
    ) -> Result<(), StageError> {
        match (&done.made, source) {
            (Made::Items { .. }, Some(source)) => {
                let mut left_out = BTreeMap::new();
                for key in source.log.unpack(pack)? {
                    if let ItemOutcome::Quarantined(reason) = source.log.get(key)? {
                        left_out.insert(key, reason);
                    }
                }
                if !left_out.is_empty() {
                    for blob in self.generations[g as usize].items(self.c.objects, &self.layout, n)? {
                        if let Some(reason) = left_out.get(&ItemSource::key(source.base, source.identity, &blob)) {
                            self.ctx().quarantined(&blob.name, reason);
                        }
                    }
                }
            }
            (Made::Outputs { outputs, waiting }, None) => {
                for (port, &artifact) in outputs {
                    self.ctx().output(port, artifact)?;
                }
                self.outcome = Made::outcome(waiting.as_ref());
            }
            _ => return Err(StageError::message(format!("a result of job {} is of another kind", self.layout.job))),
        }
        self.ctx().absorb(&done.notes);
        self.totals.account.add((g, n), done);
        self.totals.shards.push(done.cost.seconds);
        Ok(())
    }
}
