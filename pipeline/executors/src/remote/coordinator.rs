//! This side of a remote job: cuts the work, submits it, takes in results as they come, tries again what broke off.
//!
//! Everything that must survive this program lies in the store of remote jobs, so that a run that was killed between any
//! two steps is taken up by the next one: it reads what was planned and submitted, asks the cluster by the same names, and
//! trusts nothing but `done/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use engine::{
    CancelToken, Context, Digest, Item, ItemOutcome, Level, Outcome, StageError, context::ItemSource, executor::Job,
};

use super::{
    account::Account,
    cas::{self, Traffic},
    generation::Generation,
    protocol::{Content, Done, FORMAT, Failed, Layout, Made, NAME, PartName, Round, Spec, Work, shard_of},
    worker::record,
};
use crate::{
    cluster::{Batch, Cluster, ClusterError, Resources, TaskState},
    objects::Objects,
};

/// Items of a shard before a rate was measured, and shards of the small generation that measures it.
const PILOT: [usize; 2] = [8, 4];
/// Results of earlier runs that tell the rate.
const EARLIER: usize = 8;
/// Items of a shard at most: what one list of names may hold.
const MOST_ITEMS: usize = 20_000;
/// Looks for which a task may be over, or unknown, without a result before it is submitted again: stores and clusters may
/// tell late.
const PATIENCE: u32 = 2;
/// Share of a generation's shards that must be done before slow ones are begun a second time.
const NEARLY: f64 = 0.8;
/// A shard is slow when it takes this many times the median.
const SLOW: f64 = 3.0;
/// Wait between two looks: at least, and at most.
const POLL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];
/// Shards that make the least wait a second longer, since a look lists them all.
const SHARDS_PER_SECOND: f64 = 2000.0;
/// Time for which the store or the cluster may be away.
const OUTAGE: Duration = Duration::from_secs(900);
/// Up to so many open shards their parts are counted for the progress bar.
const SHOW_PARTS: usize = 256;
/// Results that are fetched at once and kept in memory.
const TAKE: usize = 16;
/// Bytes of a task's output that are shown when it failed.
const TAIL: usize = 2000;

/// Tells the time, and waits.
pub trait Clock: Send + Sync {
    /// Time since any fixed instant.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The clock of this machine.
#[derive(Debug)]
pub struct WallClock(std::time::Instant);

impl Default for WallClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// How work is cut and tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Seconds of work that a shard should hold.
    pub shard_seconds: f64,
    /// Items of a shard; measured when not given.
    pub shard_items: Option<usize>,
    /// Further tries of a shard, within one run of this program.
    pub retries: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { shard_seconds: 300.0, shard_items: None, retries: 4 }
    }
}

/// What is needed to take a stage through a cluster.
pub struct Coordinator<'a> {
    /// Where the tasks run.
    pub cluster: &'a dyn Cluster,
    /// Where everything lies.
    pub objects: &'a dyn Objects,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// How work is cut and tried.
    pub policy: Policy,
    /// What a task needs.
    pub needs: Resources,
    /// What follows the program's name, before the names of job, generation, batch and shard.
    pub arguments: Vec<String>,
    /// Version of the program.
    pub program: &'a str,
}

/// Takes the stage's work elsewhere. For a stage of items it returns when their results are in the log; what puts them
/// together is left to the caller.
pub fn execute(c: &Coordinator<'_>, job: &Job) -> Result<Outcome, StageError> {
    let source = job.ctx.item_source();
    let layout = Layout::of(source.map_or_else(|| job.unhashed.key(), |s| s.base));
    let mut work = Errand {
        c,
        job,
        layout: layout.within(&name_of(c.objects)?),
        generations: Vec::new(),
        rate: None,
        traffic: Traffic::default(),
        totals: Totals::default(),
        outcome: Outcome::Done,
    };
    let result = match source {
        None => work.whole(),
        Some(source) => work.items(source),
    };
    if matches!(result, Err(StageError::Cancelled)) {
        work.give_up();
    }
    work.account();
    result.map(|()| work.outcome)
}

/// The store's own name, made up by whoever uses it first. Clusters remember jobs by names, and the same work in another
/// store, or in a folder that was emptied, is another job.
fn name_of(objects: &dyn Objects) -> Result<Vec<u8>, StageError> {
    if let Some(name) = objects.get(NAME)? {
        return Ok(name);
    }
    let random = RandomState::new().build_hasher().finish();
    objects.create(NAME, format!("{random:016x}").as_bytes())?;
    objects.get(NAME)?.ok_or_else(|| StageError::message(format!("`{NAME}` vanished from the store {objects:?}")))
}

/// Sums over all shards that were taken in, for records.
#[derive(Debug, Default)]
struct Totals {
    computed: u64,
    hosts: BTreeSet<String>,
    /// Seconds of each shard.
    shards: Vec<f64>,
    account: Account,
}

struct Errand<'a> {
    c: &'a Coordinator<'a>,
    job: &'a Job,
    layout: Layout,
    generations: Vec<Generation>,
    /// Items a second, as measured by earlier runs.
    rate: Option<f64>,
    traffic: Traffic,
    totals: Totals,
    outcome: Outcome,
}

impl Errand<'_> {
    fn ctx(&self) -> &Context {
        &self.job.ctx
    }

    fn cancel(&self) -> &CancelToken {
        self.job.ctx.cancel()
    }

    fn warn(&self, text: impl Into<String>) {
        self.ctx().message(Level::Warn, text);
    }

    fn whole(&mut self) -> Result<(), StageError> {
        self.generations = Generation::read_all(self.c.objects, &self.layout)?;
        if self.generations.is_empty() {
            self.generations.push(Generation::create(self.c.objects, &self.layout, 0, self.spec(Work::Whole))?);
        }
        self.send(self.shared()?)?;
        self.until_done(None)
    }

    fn items(&mut self, source: &ItemSource) -> Result<(), StageError> {
        let all = self.ctx().all_items()?;
        let mut todo = source.log.missing(&all)?;
        if todo.is_empty() {
            return Ok(());
        }
        if todo.len() < all.len() {
            let text =
                format!("{} of {} items are kept from before, {} to do", all.len() - todo.len(), all.len(), todo.len());
            self.ctx().message(Level::Info, text);
        }
        // Work that is under way already, submitted for these items or for those of an earlier set of images.
        self.generations = Generation::read_all(self.c.objects, &self.layout)?;
        let mut contents = self.shared()?;
        contents.extend(todo.iter().map(|i| Content { digest: i.blob.digest, size: i.blob.size }));
        self.send(contents)?;
        self.leave_out_under_way(0, source, &mut todo)?;

        self.rate = self.rate_of_earlier_work()?;
        let [size, shards] = PILOT;
        if self.shard_size().is_none() && todo.len() > 2 * size * shards {
            let mut pilot: Vec<_> = todo.drain(..size * shards).collect();
            self.cut(source, &mut pilot, size)?;
            self.until_done(Some(source))?;
        }
        self.cut(source, &mut todo, self.shard_size().unwrap_or(size))?;
        drop(todo);
        self.until_done(Some(source))
    }

    /// Takes those items off the list that are in open shards of a generation from `first` on. Of old work only what is
    /// wanted now is waited for.
    fn leave_out_under_way(
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

    fn spec(&self, work: Work) -> Spec {
        Spec {
            format: FORMAT,
            program: self.c.program.to_owned(),
            node: self.ctx().stage().to_owned(),
            unhashed: self.job.unhashed.clone(),
            work,
        }
    }

    /// Plans shards of these items, but for those that another program plans at the same time.
    fn cut(&mut self, source: &ItemSource, items: &mut Vec<Item>, size: usize) -> Result<(), StageError> {
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
    fn shard_size(&self) -> Option<usize> {
        let (computed, seconds) = (self.totals.computed, self.totals.shards.iter().sum::<f64>());
        let rate = if computed > 0 { Some(computed as f64 / seconds.max(1e-3)) } else { self.rate };
        let measured = rate.map(|rate| (rate * self.c.policy.shard_seconds) as usize);
        self.c.policy.shard_items.or(measured).map(|n| n.clamp(1, MOST_ITEMS))
    }

    /// Items a second of a few shards that were done for an earlier run.
    fn rate_of_earlier_work(&self) -> Result<Option<f64>, StageError> {
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
    fn shared(&self) -> Result<BTreeSet<Content>, StageError> {
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

    fn send(&self, contents: BTreeSet<Content>) -> Result<(), StageError> {
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

    /// Submits and waits until every shard's result was taken in. The store or the cluster may be away for a while.
    fn until_done(&mut self, source: Option<&ItemSource>) -> Result<(), StageError> {
        let shards: usize = self.generations.iter().map(|g| g.shards.len()).sum();
        let least = POLL[0] + Duration::from_secs_f64(shards as f64 / SHARDS_PER_SECOND);
        let mut poll = least;
        let mut away: Option<Duration> = None;
        loop {
            self.ctx().check()?;
            match self.look(source) {
                Ok((_, true)) => return self.tell_differences(),
                // Often while things happen, seldom while nothing does.
                Ok((news, false)) => {
                    away = None;
                    poll = if news { least } else { (poll * 5 / 4).min(least.max(POLL[1])) };
                }
                Err(StageError::Transient { message, source }) => {
                    let since = *away.get_or_insert_with(|| {
                        self.warn(format!("{message}; trying again"));
                        self.c.clock.now()
                    });
                    if self.c.clock.now().saturating_sub(since) > OUTAGE {
                        return Err(StageError::Transient { message, source });
                    }
                    poll = (poll * 2).min(least.max(POLL[1]));
                }
                Err(e) => return Err(e),
            }
            let end = self.c.clock.now() + poll;
            while !self.cancel().is_cancelled() {
                match end.saturating_sub(self.c.clock.now()) {
                    Duration::ZERO => break,
                    left => self.c.clock.sleep(left.min(POLL[0])),
                }
            }
        }
    }

    /// One look at everything: whether something happened, and whether all is done.
    fn look(&mut self, source: Option<&ItemSource>) -> Result<(bool, bool), StageError> {
        let news = self.take_done(source)?;
        self.show(source.is_some())?;
        if self.generations.iter().all(Generation::is_merged) {
            return Ok((news, true));
        }
        for n in 0..self.generations.len() {
            if !self.generations[n].is_merged() {
                self.look_at(n)?;
            }
        }
        Ok((news, false))
    }

    /// Takes in results that are new; true when there was one.
    fn take_done(&mut self, source: Option<&ItemSource>) -> Result<bool, StageError> {
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
            if !self.c.objects.has(&super::protocol::cas(digest))? {
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
        let (cost, t) = (&done.cost, &mut self.totals);
        t.account.add((g, n), done);
        t.shards.push(cost.seconds);
        t.computed += cost.computed;
        t.hosts.insert(cost.host.clone());
        Ok(())
    }

    fn show(&self, is_items: bool) -> Result<(), StageError> {
        let shards = || self.generations.iter().flat_map(|g| g.shards.iter());
        let (all, done) = (shards().count(), shards().filter(|s| s.merged).count());
        let running = shards().filter(|s| !s.merged && s.running_since.is_some()).count();
        let detail = format!("{done} of {all} shards, {running} running");
        if !is_items {
            self.ctx().progress(done as u64, all as u64, "shards", detail);
            return Ok(());
        }
        let items: u64 = shards().map(|s| s.items).sum();
        let mut ready: u64 = shards().filter(|s| s.merged).map(|s| s.items).sum();
        if all - done <= SHOW_PARTS && running > 0 {
            // What the parts of unfinished shards say they hold, by shard and attempt.
            let mut held: BTreeMap<(u32, u32), u64> = BTreeMap::new();
            for path in self.c.objects.list(&self.layout.attempts_all())? {
                let mut names = path.rsplit('/');
                let (part, shard) = (names.next().unwrap_or_default(), names.nth(1).and_then(shard_of));
                if let (Some(id), Some(part)) = (shard, PartName::read(part)) {
                    *held.entry(id).or_default() += part.items;
                }
            }
            for ((g, n), count) in held {
                let shard = self.generations.get(g as usize).and_then(|g| g.shards.get(n as usize));
                if let Some(shard) = shard.filter(|s| !s.merged) {
                    ready += count.min(shard.items);
                }
            }
        }
        self.ctx().progress(ready, items, "images", detail);
        Ok(())
    }

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
    fn look_at(&mut self, g: usize) -> Result<(), StageError> {
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
        let is_slow = |s: &super::generation::Shard| {
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

    /// Says which attempts gave another result than the one that counts.
    fn tell_differences(&self) -> Result<(), StageError> {
        let differs = self.c.objects.list(&self.layout.differs_all())?;
        if let Some(path) = differs.first() {
            self.warn(format!(
                "{} attempts gave another result than the one that counts (such as `{path}`): this stage does not give the \
                 same on all machines",
                differs.len()
            ));
        }
        Ok(())
    }

    /// Stops everything that is under way.
    fn give_up(&self) {
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

    /// Puts down what it cost.
    fn account(&self) {
        let t = &self.totals;
        if t.shards.is_empty() {
            return;
        }
        let ctx = self.ctx();
        ctx.metric("remote_seconds", t.shards.iter().sum());
        ctx.metric("sent_bytes", self.traffic.sent.load(Ordering::Relaxed) as f64);
        ctx.metric("fetched_bytes", self.traffic.fetched.load(Ordering::Relaxed) as f64);
        // What was done is done, also when its account cannot be made.
        match t.account.close(self.c, &self.layout, &self.generations) {
            Ok(mut account) => {
                account.sent_bytes = self.traffic.sent.load(Ordering::Relaxed);
                account.fetched_bytes = self.traffic.fetched.load(Ordering::Relaxed);
                if account.gpu_seconds() > 0.0 {
                    ctx.metric("gpu_seconds", account.gpu_seconds());
                }
                ctx.elsewhere(|e| *e = account);
            }
            Err(e) => self.warn(format!("counting the attempts: {e}")),
        }
        let hosts: Vec<&str> = t.hosts.iter().map(String::as_str).collect();
        ctx.message(
            Level::Info,
            format!("{} shards on {} ({})", t.shards.len(), hosts.join(", "), self.c.cluster.describe()),
        );
    }
}

/// Why a shard is tried again, when its task ended badly.
const FAILED: &str = "it failed";

fn stage_error(e: ClusterError) -> StageError {
    match e {
        ClusterError::Unreachable { .. } => StageError::Transient { message: e.to_string(), source: None },
        ClusterError::Refused { system, message, help } => {
            StageError::Input { message: format!("{system} refused: {message}"), help }
        }
    }
}
