//! This side of a remote job: cuts the work, submits it, takes in results as they come, tries again what broke off.
//!
//! Everything that must survive this program lies in the store of remote jobs, so that a run that was killed between any
//! two steps is taken up by the next one: it reads what was planned and submitted, asks the cluster by the same names, and
//! trusts nothing but `done/`.

mod cutting;
mod results;
mod rounds;
mod telling;

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::atomic::Ordering,
    time::Duration,
};

use engine::{CancelToken, Context, Level, Outcome, StageError, context::ItemSource, executor::Job};

use self::telling::Heard;
use super::{
    account::Account,
    cas::Traffic,
    generation::Generation,
    protocol::{Content, Layout, NAME, Work},
};
use crate::{
    cluster::{Cluster, ClusterError, Resources},
    objects::Objects,
};

/// Items of a shard before a rate was measured, and shards of the small generation that measures it.
const PILOT: [usize; 2] = [8, 4];
/// Wait between two looks: at least, and at most.
const POLL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];
/// Shards that make the least wait a second longer, since a look lists them all.
const SHARDS_PER_SECOND: f64 = 2000.0;
/// Time for which the store or the cluster may be away.
const OUTAGE: Duration = Duration::from_secs(900);

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
        heard: Heard::default(),
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
    /// What workers said, as far as it was listened to.
    heard: Heard,
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
        let hosts: Vec<&str> = t.account.hosts().collect();
        ctx.message(
            Level::Info,
            format!(
                "{} shard{} on {} ({})",
                t.shards.len(),
                if t.shards.len() == 1 { "" } else { "s" },
                hosts.join(", "),
                self.c.cluster.describe()
            ),
        );
    }
}

fn stage_error(e: ClusterError) -> StageError {
    match e {
        ClusterError::Unreachable { .. } => StageError::Transient { message: e.to_string(), source: None },
        ClusterError::Refused { system, message, help } => {
            StageError::Input { message: format!("{system} refused: {message}"), help }
        }
    }
}
