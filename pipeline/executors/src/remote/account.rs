//! What a stage took on other machines, for records: shards, attempts, machines, time.
//!
//! Owns the sums over the shards whose results one run took in. Refuses to decide anything by them.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    StageError,
    context::{Elsewhere, Helper},
};

use super::{
    generation::Generation,
    protocol::{Done, Layout, shard_of},
};
use crate::objects::Objects;

/// Sums over the shards that were taken in.
#[derive(Debug, Default)]
pub struct Account {
    taken: BTreeSet<(u32, u32)>,
    helpers: BTreeMap<String, Helper>,
}

impl Account {
    /// Takes in what the attempt cost whose result counts.
    pub fn add(&mut self, shard: (u32, u32), done: &Done) {
        let cost = &done.cost;
        self.taken.insert(shard);
        let helper = self.helpers.entry(cost.host.clone()).or_default();
        helper.shards += 1;
        helper.items += cost.computed;
        helper.seconds += cost.seconds;
        helper.gpu_seconds += cost.seconds * cost.gpus;
        helper.devices.extend(done.notes.devices.iter().map(|d| d.used.clone()));
    }

    /// The whole account; attempts are counted in the store.
    pub fn close(
        &self,
        objects: &dyn Objects,
        layout: &Layout,
        generations: &[Generation],
        system: String,
    ) -> Result<Elsewhere, StageError> {
        let mut begun: BTreeSet<String> = BTreeSet::new();
        let mut failed = 0;
        for path in objects.list(&layout.attempts_all())? {
            let Some((attempt, name)) = path.rsplit_once('/') else { continue };
            let shard = attempt.rsplit('/').nth(1).and_then(shard_of);
            if shard.is_some_and(|id| self.taken.contains(&id)) {
                failed += u64::from(name == "failed");
                begun.insert(attempt.to_owned());
            }
        }
        let of_taken =
            |path: &String| path.rsplit('/').nth(1).and_then(shard_of).is_some_and(|id| self.taken.contains(&id));
        let again = generations.iter().flat_map(|g| {
            let tries = g.rounds.iter().flat_map(|r| &r.round.tasks).map(|&n| (g.number, n));
            let mut seen = BTreeSet::new();
            tries.filter(|id| self.taken.contains(id)).filter(|id| !seen.insert(*id)).collect::<Vec<_>>()
        });
        Ok(Elsewhere {
            system,
            shards: self.taken.len() as u64,
            resubmitted: again.count() as u64,
            attempts: begun.len() as u64,
            failed,
            differing: objects.list(&layout.differs_all())?.iter().filter(|p| of_taken(p)).count() as u64,
            helpers: self.helpers.clone(),
            price: None,
            sent_bytes: 0,
            fetched_bytes: 0,
        })
    }
}
