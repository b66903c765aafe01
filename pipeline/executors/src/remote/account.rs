//! What a stage took on other machines, for records: shards, attempts, machines, time.
//!
//! Owns the sums over the shards whose results one run took in. Refuses to decide anything by them.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    StageError,
    context::{Elsewhere, Helper},
};

use super::{
    coordinator::Coordinator,
    generation::Generation,
    protocol::{Cost, Done, Layout, PartName, left_at, shard_of},
    worker::record,
};

/// Sums over the shards that were taken in.
#[derive(Debug, Default)]
pub struct Account {
    /// The attempt whose result counts, by shard.
    taken: BTreeMap<(u32, u32), String>,
    helpers: BTreeMap<String, Helper>,
}

impl Account {
    /// Takes in what the attempt cost whose result counts.
    pub fn add(&mut self, shard: (u32, u32), done: &Done) {
        let cost = &done.cost;
        self.taken.insert(shard, done.attempt.clone());
        let helper = self.helpers.entry(cost.host.clone()).or_default();
        helper.shards += 1;
        helper.items += cost.computed;
        helper.seconds += cost.seconds;
        helper.gpu_seconds += cost.seconds * cost.gpus;
        helper.devices.extend(done.notes.devices.iter().map(|d| d.used.clone()));
    }

    /// The machines that did it.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.helpers.keys().map(String::as_str)
    }

    /// Items that were computed.
    pub fn computed(&self) -> u64 {
        self.helpers.values().map(|h| h.items).sum()
    }

    /// The whole account; attempts are counted in the store.
    pub fn close(
        &self,
        c: &Coordinator<'_>,
        layout: &Layout,
        generations: &[Generation],
    ) -> Result<Elsewhere, StageError> {
        let objects = c.objects;
        let mut begun = BTreeSet::new();
        // Seconds and GPU seconds of attempts whose result does not count.
        let mut lost: BTreeMap<_, (f64, f64)> = BTreeMap::new();
        let mut failed = 0;
        let left = objects.list(&layout.attempts_all())?;
        for path in &left {
            let Some((shard, attempt, name)) = left_at(path) else { continue };
            let Some(winner) = self.taken.get(&shard) else { continue };
            failed += u64::from(name == "failed");
            begun.insert((shard, attempt));
            if attempt == winner {
                continue;
            }
            let spent = lost.entry((shard, attempt)).or_default();
            if name == "spent" {
                let cost: Cost = record(objects, path)?;
                *spent = (cost.seconds, cost.seconds * cost.gpus);
            } else if let Some(part) = PartName::read(name) {
                // Of an attempt that was killed, its last part is all that is known.
                let seconds = part.millis as f64 / 1000.0;
                *spent = (spent.0.max(seconds), spent.1.max(seconds * c.needs.gpus));
            }
        }
        let of_taken =
            |path: &String| path.rsplit('/').nth(1).and_then(shard_of).is_some_and(|id| self.taken.contains_key(&id));
        let again = generations.iter().flat_map(|g| {
            let tries = g.rounds.iter().flat_map(|r| &r.round.tasks).map(|&n| (g.number, n));
            let mut seen = BTreeSet::new();
            tries.filter(|id| self.taken.contains_key(id)).filter(|id| !seen.insert(*id)).collect::<Vec<_>>()
        });
        Ok(Elsewhere {
            system: c.cluster.describe(),
            shards: self.taken.len() as u64,
            resubmitted: again.count() as u64,
            attempts: begun.len() as u64,
            failed,
            differing: objects.list(&layout.differs_all())?.iter().filter(|p| of_taken(p)).count() as u64,
            helpers: self.helpers.clone(),
            lost_seconds: lost.values().map(|l| l.0).sum(),
            lost_gpu_seconds: lost.values().map(|l| l.1).sum(),
            price: None,
            sent_bytes: 0,
            fetched_bytes: 0,
        })
    }
}
