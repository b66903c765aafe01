//! Submitting shards, judging what the cluster says of them, and trying again.
//!
//! Owns tries and rounds. Refuses to take in results.

use std::collections::BTreeMap;

use engine::StageError;

use super::{
    super::{
        generation::Shard,
        protocol::{Content, Failed, Round},
        worker::record,
    },
    Errand, POLL, stage_error,
};
use crate::cluster::{Batch, TaskState};

/// Looks for which a task may be over, or unknown, without a result before it is submitted again: stores and clusters may
/// tell late.
const PATIENCE: u32 = 2;
/// Share of a generation's shards that must be done before slow ones are begun a second time.
const NEARLY: f64 = 0.8;
/// A shard is slow when it takes this many times the median.
const SLOW: f64 = 3.0;
/// Bytes of a task's output that are shown when it failed.
const TAIL: usize = 2000;
/// Why a shard is tried again, when its task ended badly.
const FAILED: &str = "it failed";

impl Errand<'_> {
    fn batch(&self, g: usize, round: u32, tasks: Vec<u32>) -> Batch {
        let generation = &self.generations[g];
        let name = self.layout.batch(generation.number, round);
        let mut arguments = self.c.arguments.clone();
        let mut add = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        add("--job", &self.layout.job);
        add("--generation", &generation.number.to_string());
        add("--batch", &name);
        add("--shard", "{task}");
        add("--gpus", &self.c.needs.gpus.to_string());
        if generation.rounds[round as usize].round.careful {
            arguments.push("--careful".into());
        }
        Batch { name, tasks, arguments, environment: BTreeMap::new(), needs: self.c.needs }
    }

    /// Writes down and submits a new round, unless another program does so at the same time.
    fn submit(&mut self, g: usize, tasks: Vec<u32>, careful: bool, why: &str) -> Result<(), StageError> {
        let round = Round { tasks: tasks.clone(), careful, why: why.to_owned() };
        let Some(number) = self.generations[g].add_round(self.c.objects, &self.layout, round)? else { return Ok(()) };
        self.c.cluster.submit(&self.batch(g, number, tasks)).map_err(stage_error)?;
        self.generations[g].rounds[number as usize].sure = true;
        Ok(())
    }

    /// Asks the cluster about a generation's open shards and submits what nobody works on.
    pub(super) fn look_at(&mut self, g: usize) -> Result<(), StageError> {
        let mut rounds: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut fresh = Vec::new();
        for (n, shard) in (0..).zip(&self.generations[g].shards).filter(|(_, s)| !s.merged) {
            match shard.round {
                Some(round) => rounds.entry(round).or_default().push(n),
                None => fresh.push(n),
            }
        }
        if !fresh.is_empty() {
            self.submit(g, fresh, false, "first try")?;
        }
        let mut again: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (round, tasks) in rounds {
            if self.generations[g].rounds[round as usize].cancelled {
                again.entry("it was stopped before").or_default().extend(tasks);
                continue;
            }
            let batch = self.batch(g, round, tasks);
            let mut states = self.c.cluster.states(&batch.name).map_err(stage_error)?;
            if !self.generations[g].rounds[round as usize].sure {
                let unknown: Vec<u32> = batch.tasks.iter().copied().filter(|t| !states.contains_key(t)).collect();
                if !unknown.is_empty() {
                    self.c.cluster.submit(&Batch { tasks: unknown, ..batch.clone() }).map_err(stage_error)?;
                    states = self.c.cluster.states(&batch.name).map_err(stage_error)?;
                }
                self.generations[g].rounds[round as usize].sure = true;
            }
            for task in batch.tasks {
                let why = self.judge(g, task, &batch.name, states.get(&task))?;
                if let Some(why) = why {
                    again.entry(why).or_default().push(task);
                }
            }
        }
        for (why, tasks) in again {
            let failed = why == FAILED;
            for &task in &tasks {
                let earlier = self.is_earlier(g, task);
                let shard = &mut self.generations[g].shards[task as usize];
                shard.tries += u32::from(!earlier);
                if shard.tries > self.c.policy.retries {
                    return Err(StageError::message(format!(
                        "shard {g}-{task} was tried {} times, the last time {why}; finished shards are kept, run again to go on",
                        shard.tries
                    )));
                }
            }
            // Content that lay damaged there was removed by whoever met it.
            let mut contents = self.shared()?;
            for &task in &tasks {
                let items = self.generations[g].items(self.c.objects, &self.layout, task)?;
                contents.extend(items.iter().map(|b| Content { digest: b.digest, size: b.size }));
            }
            self.send(contents)?;
            self.submit(g, tasks, failed, why)?;
        }
        self.double_slow(g)
    }

    /// True when an earlier run submitted a shard last.
    fn is_earlier(&self, g: usize, task: u32) -> bool {
        let generation = &self.generations[g];
        generation.shards[task as usize].round.is_some_and(|round| generation.rounds[round as usize].earlier)
    }

    /// Notes a task's state; the reason when it has to be submitted again.
    fn judge(
        &mut self,
        g: usize,
        task: u32,
        batch: &str,
        state: Option<&TaskState>,
    ) -> Result<Option<&'static str>, StageError> {
        let now = self.c.clock.now();
        let shard = &mut self.generations[g].shards[task as usize];
        match state {
            Some(TaskState::Pending { .. }) => shard.silent = 0,
            Some(TaskState::Running { .. }) => {
                shard.silent = 0;
                shard.running_since.get_or_insert(now);
            }
            // Its result may be on its way.
            _ if shard.silent < PATIENCE => shard.silent += 1,
            None => return Ok(Some("the cluster had forgotten it")),
            Some(TaskState::Succeeded) => return Ok(Some("it ended without a result")),
            Some(TaskState::Failed { exit, why }) => {
                if !self.is_earlier(g, task) {
                    self.explain(g, task, batch, *exit, why)?;
                }
                return Ok(Some(FAILED));
            }
        }
        Ok(None)
    }

    /// Says why a task failed; an error when another try would fail as well.
    fn explain(&self, g: usize, task: u32, batch: &str, exit: Option<i32>, why: &str) -> Result<(), StageError> {
        let left = self.c.objects.list(&self.layout.attempts(g as u32, task))?;
        let said: Vec<Failed> = left
            .iter()
            .filter(|p| p.ends_with("/failed") && p.contains(&format!("/{batch}-")))
            .map(|p| record(self.c.objects, p))
            .collect::<Result<_, _>>()?;
        let exit = exit.map_or(String::new(), |e| format!(", exit code {e}"));
        let words = match said.first() {
            Some(failed) => format!("{}: {}", failed.host, failed.message),
            None => {
                let log = self.c.cluster.log(batch, task, 0).unwrap_or_default();
                match String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL)..]).trim() {
                    "" => "it left no words".into(),
                    tail => format!("its last words: {tail}"),
                }
            }
        };
        let text = format!("shard {g}-{task} failed ({why}{exit}); {words}");
        if said.iter().any(|f| !f.passing) {
            return Err(StageError::message(text));
        }
        self.warn(text);
        Ok(())
    }

    /// Begins shards a second time that take much longer than the others, when the end is near: the first result counts.
    fn double_slow(&mut self, g: usize) -> Result<(), StageError> {
        let shards = &self.generations[g].shards;
        let done = shards.iter().filter(|s| s.merged).count();
        if (done as f64) < NEARLY * shards.len() as f64 || self.totals.shards.is_empty() {
            return Ok(());
        }
        let mut seconds = self.totals.shards.clone();
        seconds.sort_by(f64::total_cmp);
        let limit = (SLOW * seconds[seconds.len() / 2]).max(2.0 * POLL[1].as_secs_f64());
        let now = self.c.clock.now();
        let is_slow = |s: &Shard| {
            !s.merged
                && !s.doubled
                && s.running_since.is_some_and(|since| now.saturating_sub(since).as_secs_f64() > limit)
        };
        let slow: Vec<u32> = (0..).zip(shards).filter(|(_, s)| is_slow(s)).map(|(n, _)| n).collect();
        for &n in &slow {
            self.generations[g].shards[n as usize].doubled = true;
        }
        if slow.is_empty() { Ok(()) } else { self.submit(g, slow, false, "it was slow") }
    }

    /// Stops everything that is under way.
    pub(super) fn give_up(&self) {
        for generation in &self.generations {
            for (n, submission) in (0..).zip(&generation.rounds).filter(|(_, s)| !s.cancelled) {
                let is_open = |t: &&u32| generation.shards.get(**t as usize).is_some_and(|s| !s.merged);
                let open: Vec<u32> = submission.round.tasks.iter().filter(is_open).copied().collect();
                if open.is_empty() {
                    continue;
                }
                let name = self.layout.batch(generation.number, n);
                // The mark first: a task that the cluster starts all the same sees it and ends.
                let marked = self.c.objects.put(&self.layout.cancelled(&name), b"").map_err(|e| e.to_string());
                let cancelled = self.c.cluster.cancel(&name, &open).map_err(|e| e.to_string());
                if let Err(e) = marked.and(cancelled) {
                    self.warn(format!("batch `{name}` may go on: {e}"));
                }
            }
        }
    }
}
