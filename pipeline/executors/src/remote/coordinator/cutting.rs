//! Cutting work into shards, and sending what their workers read.
//!
//! Owns how large a shard is. Refuses to submit any.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use engine::{Digest, Item, StageError, context::ItemSource};

use super::{
    super::{
        cas,
        generation::Generation,
        protocol::{Content, Done, FORMAT, Spec, Work},
        worker::record,
    },
    Errand,
};

/// Results of earlier runs that tell the rate.
const EARLIER: usize = 8;
/// Items of a shard at most: what one list of names may hold.
const MOST_ITEMS: usize = 20_000;

impl Errand<'_> {
    /// Takes those items off the list that are in open shards of a generation from `first` on. Of old work only what is
    /// wanted now is waited for.
    pub(super) fn leave_out_under_way(
        &mut self,
        first: usize,
        source: &ItemSource,
        todo: &mut Vec<Item>,
    ) -> Result<(), StageError> {
        let wanted: BTreeSet<Digest> = todo.iter().map(|i| i.key).collect();
        let mut under_way: BTreeSet<Digest> = BTreeSet::new();
        let (objects, cancel) = (self.c.objects, self.job.ctx.cancel());
        for generation in &mut self.generations[first..] {
            for (n, keys) in generation.open_keys(objects, &self.layout, source, cancel)? {
                if keys.iter().any(|k| wanted.contains(k)) {
                    under_way.extend(keys);
                } else {
                    generation.shards[n as usize].merged = true;
                }
            }
        }
        todo.retain(|i| !under_way.contains(&i.key));
        Ok(())
    }

    pub(super) fn spec(&self, work: Work) -> Spec {
        Spec {
            format: FORMAT,
            program: self.c.program.to_owned(),
            node: self.ctx().stage().to_owned(),
            unhashed: self.job.unhashed.clone(),
            work,
        }
    }

    /// Plans shards of these items, but for those that another program plans at the same time.
    pub(super) fn cut(&mut self, source: &ItemSource, items: &mut Vec<Item>, size: usize) -> Result<(), StageError> {
        while !items.is_empty() {
            let number = self.generations.len();
            let spec = |work| self.spec(work);
            let (new, is_this) =
                Generation::cut(self.c.objects, &self.layout, number as u32, items, size, self.cancel(), spec)?;
            self.generations.push(new);
            if is_this {
                return Ok(());
            }
            self.leave_out_under_way(number, source, items)?;
        }
        Ok(())
    }

    /// Items of a shard, as given or from the rate that was measured.
    pub(super) fn shard_size(&self) -> Option<usize> {
        let (computed, seconds) = (self.totals.account.computed(), self.totals.shards.iter().sum::<f64>());
        let rate = if computed > 0 { Some(computed as f64 / seconds.max(1e-3)) } else { self.rate };
        let measured = rate.map(|rate| (rate * self.c.policy.shard_seconds) as usize);
        self.c.policy.shard_items.or(measured).map(|n| n.clamp(1, MOST_ITEMS))
    }

    /// Items a second of a few shards that were done for an earlier run.
    pub(super) fn rate_of_earlier_work(&self) -> Result<Option<f64>, StageError> {
        let done = self.c.objects.list(&self.layout.done_all())?;
        let (mut items, mut seconds) = (0, 0.0);
        for path in done.iter().rev().take(EARLIER) {
            let done: Done = record(self.c.objects, path)?;
            items += done.cost.computed;
            seconds += done.cost.seconds;
        }
        Ok((items > 0).then(|| items as f64 / seconds.max(1e-3)))
    }

    /// What all tasks read.
    pub(super) fn shared(&self) -> Result<BTreeSet<Content>, StageError> {
        let descriptor = self.job.stage.describe(&self.job.config)?;
        let at_finish = |port: &str| descriptor.inputs.iter().any(|p| p.name == port && p.at_finish);
        let mut contents = BTreeSet::new();
        for (port, &artifact) in self.ctx().inputs() {
            if descriptor.items.as_ref() != Some(port) && !(descriptor.items.is_some() && at_finish(port)) {
                contents.extend(cas::contents_of(self.ctx().store(), artifact)?);
            }
        }
        Ok(contents)
    }

    pub(super) fn send(&self, contents: BTreeSet<Content>) -> Result<(), StageError> {
        let all = contents.len();
        let said = Mutex::new(0);
        let done = |n: usize| {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if n == all || n >= *said + 100 {
                *said = n;
                self.ctx().progress(n as u64, all as u64, "files", "sending");
            }
        };
        let store = self.ctx().store();
        cas::push(self.c.objects, store, &contents, &self.traffic, self.cancel(), &done)
    }
}
