//! One attempt at a shard, on the machine that does the work: reads what is to be done from the store of remote jobs,
//! goes on from what earlier attempts left there, leaves its own results there as it goes, and never calls home.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use engine::{
    AnyStage, Blob, CancelToken, Digest, Event, EventSink, Item, ItemOutcome, Level, Outcome, Registry, StageError,
    Store, StoreError,
    context::{Context, ItemSource, Notes, Place},
    itemlog::ItemLog,
    run::chain,
};

use super::{
    cas::{self, Traffic},
    protocol::{
        Checkpoint, Content, Cost, Done, FORMAT, Failed, Layout, Made, PartHead, PartName, ShardItems, Spec, Work,
        cas as cas_path, to_bytes,
    },
    words::Words,
};
use crate::objects::Objects;

/// Deaths at one item after which it is left out.
const BLAME: usize = 2;
/// Items that a careful attempt begins one by one.
const CAREFUL: usize = 32;
/// Bytes of items that are fetched ahead of the work.
const AHEAD: u64 = 256 << 20;

/// Which shard, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The job.
    pub layout: Layout,
    /// Its generation.
    pub generation: u32,
    /// Number of the shard.
    pub shard: u32,
    /// The batch that the cluster knows this attempt by.
    pub batch: String,
    /// See [`super::protocol::Round::careful`].
    pub careful: bool,
}

/// The machine that works.
pub struct Worker<'a> {
    /// The store of remote jobs.
    pub objects: Arc<dyn Objects>,
    /// The stages.
    pub registry: &'a Registry,
    /// A folder of this attempt's own.
    pub dir: &'a Path,
    /// Threads to keep busy.
    pub threads: usize,
    /// Hears events.
    pub sink: Arc<dyn EventSink>,
    /// Stops the work.
    pub cancel: CancelToken,
    /// Name of this attempt, unlike any other.
    pub attempt: String,
    /// Name of the machine, for records.
    pub host: String,
    /// GPUs reserved, for records.
    pub gpus: f64,
    /// Version of the program.
    pub program: &'a str,
    /// Time between two parts.
    pub part_every: Duration,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its result counts.
    Won,
    /// Another attempt's result counts, and is the same.
    Second,
    /// Another attempt's result counts, and differs; this one is kept beside it.
    Differs,
    /// There was a result before it began.
    AlreadyDone,
    /// Nobody wants it any more.
    NotWanted,
}

fn wrong(what: &str, e: impl std::fmt::Display) -> StageError {
    StageError::message(format!("{what} of a remote job cannot be read: {e}"))
}

/// The part at a path, if there is one.
fn part_name(path: &str) -> Option<PartName> {
    PartName::read(path.rsplit('/').next()?)
}

/// Reads a record that must be there.
pub(super) fn record<T: serde::de::DeserializeOwned>(objects: &dyn Objects, path: &str) -> Result<T, StageError> {
    let bytes = objects.get(path)?.ok_or_else(|| wrong(path, "it is not there"))?;
    serde_json::from_slice(&bytes).map_err(|e| wrong(path, e))
}

impl Worker<'_> {
    /// Does the shard. An error is left there for whoever waits, too.
    pub fn run(&self, task: &Task) -> Result<Ended, StageError> {
        self.attempt(task).inspect_err(|e| {
            let failed = Failed {
                message: chain(e),
                passing: matches!(e, StageError::Transient { .. } | StageError::Store(_) | StageError::Cancelled),
                host: self.host.clone(),
            };
            let folder = task.layout.attempts(task.generation, task.shard);
            // Who cannot leave the reason has said it on the error stream, and fails all the same.
            let _ = self.objects.put(&format!("{folder}/{}/failed", self.attempt), &to_bytes(&failed));
        })
    }

    fn attempt(&self, task: &Task) -> Result<Ended, StageError> {
        let started = Instant::now();
        let spec: Spec = record(self.objects.as_ref(), &task.layout.spec(task.generation))?;
        if spec.format != FORMAT || spec.program != self.program {
            return Err(StageError::input(
                format!("the job was made by version {} of the program, and this is {}", spec.program, self.program),
                "use the same program at both ends",
            ));
        }
        if self.objects.has(&task.layout.done(task.generation, task.shard))? {
            return Ok(Ended::AlreadyDone);
        }
        if self.objects.has(&task.layout.cancelled(&task.batch))? {
            return Ok(Ended::NotWanted);
        }
        let stage = self
            .registry
            .get(&spec.unhashed.stage)
            .cloned()
            .ok_or_else(|| StageError::message(format!("this program has no stage `{}`", spec.unhashed.stage)))?;
        let folder = task.layout.attempts(task.generation, task.shard);
        let earlier = self.objects.list(&folder)?;
        let attempt = Attempt {
            worker: self,
            task,
            spec: &spec,
            stage,
            folder: format!("{folder}/{}", self.attempt),
            earlier,
            traffic: Arc::default(),
            given: Mutex::default(),
            own: Mutex::default(),
            words: Arc::new(Words::new(self.sink.clone(), matches!(spec.work, Work::Whole))),
            started,
        };
        if !self.objects.create(&format!("{}/begun", attempt.folder), self.host.as_bytes())? {
            return Err(StageError::message(format!("there is an attempt `{}` already", self.attempt)));
        }
        let ended = attempt.race();
        if !matches!(ended, Ok(Ended::Won)) {
            // Only the account lacks it.
            let _ = self.objects.put(&format!("{}/spent", attempt.folder), &to_bytes(&attempt.cost(started, 0)));
        }
        ended
    }
}

impl Made {
    /// True when both are the same result. Further content may be listed in one and not in the other.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Items { pack: a, .. }, Self::Items { pack: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }
}

struct Attempt<'a> {
    worker: &'a Worker<'a>,
    task: &'a Task,
    spec: &'a Spec,
    stage: Arc<dyn AnyStage>,
    /// Where this attempt leaves things.
    folder: String,
    /// What earlier attempts left.
    earlier: Vec<String>,
    traffic: Arc<Traffic>,
    /// Content that it was given.
    given: Mutex<Vec<Content>>,
    own: Mutex<Own>,
    words: Arc<Words>,
    started: Instant,
}

/// Content that an attempt made.
#[derive(Default)]
struct Own {
    waiting: BTreeMap<Digest, u64>,
    sent: Vec<Content>,
}

type Results = (Made, Notes, Cost);

impl Attempt<'_> {
    /// Does the work and hands it in.
    fn race(&self) -> Result<Ended, StageError> {
        let (worker, task) = (self.worker, self.task);
        let cancel = worker.cancel.child();
        let worked = match &self.spec.work {
            Work::Whole => self.whole(&cancel),
            Work::Items { division, .. } => {
                let path = task.layout.shard(task.generation, *division, task.shard);
                record(worker.objects.as_ref(), &path).and_then(|shard: ShardItems| self.items(&shard, &cancel))
            }
        };
        let (made, notes, cost) = match worked {
            // Not from here: the result is not wanted any more.
            Err(StageError::Cancelled) if !worker.cancel.is_cancelled() => return Ok(Ended::NotWanted),
            Err(e) => {
                self.find_all_damage();
                return Err(e);
            }
            Ok(results) => results,
        };
        let done = Done { format: FORMAT, made, attempt: worker.attempt.clone(), notes, cost };
        let path = task.layout.done(task.generation, task.shard);
        if worker.objects.create(&path, &to_bytes(&done))? {
            return Ok(Ended::Won);
        }
        let first: Done = record(worker.objects.as_ref(), &path)?;
        if first.made.same(&done.made) {
            return Ok(Ended::Second);
        }
        worker.objects.put(&task.layout.differs(task.generation, task.shard, &worker.attempt), &to_bytes(&done))?;
        Ok(Ended::Differs)
    }

    /// What it cost until now; the work itself began at `busy`.
    fn cost(&self, busy: Instant, computed: u64) -> Cost {
        Cost {
            host: self.worker.host.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            busy: busy.elapsed().as_secs_f64(),
            gpus: self.worker.gpus,
            computed,
            fetched: self.traffic.fetched.load(Ordering::Relaxed),
            sent: self.traffic.sent.load(Ordering::Relaxed),
        }
    }

    /// Parts of earlier attempts, oldest first.
    fn parts(&self) -> impl Iterator<Item = &String> {
        self.earlier.iter().filter(|p| part_name(p).is_some())
    }

    /// Where the next part is left.
    fn part_path(&self, number: u32, items: u64) -> String {
        let millis = self.started.elapsed().as_millis() as u64;
        format!("{}/{}", self.folder, PartName { number, items, millis }.write())
    }

    /// This attempt's store: content that it lacks is fetched when it is read.
    fn store(&self, known: BTreeMap<Digest, u64>) -> Result<Store, StageError> {
        let (objects, traffic) = (self.worker.objects.clone(), self.traffic.clone());
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) =
            known.iter().map(|(&digest, &size)| Content { digest, size }).collect();
        let fetch = move |digest| {
            let Some(&size) = known.get(&digest) else { return Ok(None) };
            let content = Content { digest, size };
            cas::fetch(objects.as_ref(), content, &traffic).map(Some).map_err(|e| StoreError::Invalid(e.to_string()))
        };
        Ok(Store::open(self.worker.dir.join("store"))?.with_fetch(Arc::new(fetch)))
    }

    fn context(&self, store: &Store, cancel: &CancelToken, items: Option<ItemSource>) -> Context {
        Context::new(Place {
            node: self.spec.node.clone(),
            store: store.clone(),
            inputs: self.spec.unhashed.inputs.clone(),
            sink: self.words.clone(),
            cancel: cancel.clone(),
            threads: self.worker.threads,
            scratch: self.scratch(),
            items,
        })
    }

    fn scratch(&self) -> PathBuf {
        self.worker.dir.join("scratch")
    }

    /// What the inputs are made of, but for the named ports. Their manifests are fetched, the rest is not.
    fn inputs(&self, but: &BTreeSet<&str>) -> Result<BTreeMap<Digest, u64>, StageError> {
        let plain = Store::open(self.worker.dir.join("store"))?;
        let mut known = BTreeMap::new();
        let mut failure = None;
        for (_, &artifact) in self.spec.unhashed.inputs.iter().filter(|(port, _)| !but.contains(port.as_str())) {
            match cas::pull_manifest(self.worker.objects.as_ref(), &plain, artifact, &self.traffic) {
                Ok(()) => known.extend(cas::contents_of(&plain, artifact)?.into_iter().map(|c| (c.digest, c.size))),
                // The others may be damaged as well, and are to be sent again with it.
                Err(e) => failure = Some(e),
            }
        }
        failure.map_or(Ok(known), Err)
    }

    /// After damage: reads all that was given, so that whatever is damaged is removed now and sent again at once, and not
    /// piece by piece with one attempt each.
    fn find_all_damage(&self) {
        if self.traffic.damaged.load(Ordering::Relaxed) == 0 {
            return;
        }
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let objects = self.worker.objects.as_ref();
        // Every error here is one that the next attempt meets and tells.
        let _ = cas::each(&given, &self.worker.cancel, &|_| {}, |content| {
            let _ = cas::fetch(objects, content, &self.traffic);
            Ok(())
        });
    }

    /// Runs `work` on a pool of its own; meanwhile `part` is called again and again, and the work is stopped when its
    /// result is not wanted any more.
    fn beside<T: Send>(
        &self,
        cancel: &CancelToken,
        part: impl Fn() -> Result<(), StageError> + Sync,
        work: impl FnOnce() -> Result<T, StageError> + Send,
    ) -> Result<T, StageError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.worker.threads)
            .build()
            .map_err(|e| StageError::failed("starting threads", e))?;
        std::thread::scope(|scope| {
            let (over, wait) = mpsc::channel::<()>();
            let part = &part;
            scope.spawn(move || {
                while wait.recv_timeout(self.worker.part_every) == Err(mpsc::RecvTimeoutError::Timeout) {
                    // What cannot be left there now is left there later; without any part a later attempt starts anew.
                    let result = part().and_then(|()| self.say()).and_then(|()| self.is_wanted());
                    match result {
                        Ok(true) => {}
                        Ok(false) => cancel.cancel(),
                        Err(e) => self.warn(format!("leaving results so far: {e}")),
                    }
                }
            });
            let result = pool.install(work);
            drop(over);
            result
        })
    }

    fn is_wanted(&self) -> Result<bool, StageError> {
        let (layout, task) = (&self.task.layout, self.task);
        let objects = &self.worker.objects;
        Ok(!objects.has(&layout.cancelled(&task.batch))? && !objects.has(&layout.done(task.generation, task.shard))?)
    }

    /// Leaves what was said.
    fn say(&self) -> Result<(), StageError> {
        self.words.leave(self.worker.objects.as_ref(), &self.folder)
    }

    fn warn(&self, text: String) {
        let stage = Some(self.spec.node.clone());
        self.worker.sink.emit(&Event::Message { stage, level: Level::Warn, text });
    }

    /// Sends all that was stored and is not sent yet; the result is everything that was sent so far. What could not be
    /// sent is sent the next time.
    fn send_noted(&self, store: &Store) -> Result<Vec<Content>, StageError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.waiting.extend(store.take_noted());
        while let Some((&digest, &size)) = own.waiting.first_key_value() {
            if !self.worker.objects.has(&cas_path(digest))? {
                cas::send(self.worker.objects.as_ref(), &store.read(digest)?, &self.traffic)?;
            }
            own.waiting.remove(&digest);
            own.sent.push(Content { digest, size });
        }
        Ok(own.sent.clone())
    }

    /// Computes what earlier attempts have not.
    fn items(&self, shard: &[Blob], cancel: &CancelToken) -> Result<Results, StageError> {
        let config = &self.spec.unhashed.config;
        let descriptor = self.stage.describe(config)?;
        let (Some(compute), Some(port)) = (self.stage.items(), &descriptor.items) else {
            return Err(wrong("the job", format!("stage `{}` has no items", descriptor.name)));
        };
        let at_finish = descriptor.inputs.iter().filter(|p| p.at_finish).map(|p| p.name.as_str());
        let shared = self.inputs(&at_finish.chain([port.as_str()]).collect())?;
        let mut known = shared.clone();
        known.extend(shard.iter().map(|b| (b.digest, b.size)));
        let store = self.store(known)?;
        let source = ItemSource::open(&store, &descriptor, self.stage.item_identity(config)?, &self.spec.unhashed)?
            .ok_or_else(|| wrong("the job", "its stage has no items"))?;
        let (base, identity) = (source.base, source.identity);
        let items: Vec<Item> =
            shard.iter().map(|b| Item { key: ItemSource::key(base, identity, b), blob: b.clone() }).collect();
        let ctx = self.context(&store, cancel, Some(source));
        let log = &ctx.item_source().expect("given above").log;

        let mut blobs: BTreeSet<Content> = BTreeSet::new();
        for path in self.parts() {
            match self.take_part(path, log) {
                Ok(more) => blobs.extend(more),
                Err(e) => self.warn(format!("an earlier attempt's `{path}` is passed over: {e}")),
            }
        }
        for (index, deaths) in self.deaths() {
            if let Some(item) = items.get(index).filter(|i| deaths >= BLAME && !log.has(i.key)) {
                let why = format!("{deaths} attempts ended without a word while they worked on this file");
                log.put(item.key, &ItemOutcome::Quarantined(why))?;
            }
        }
        let todo = log.missing(&items)?;
        let busy = Instant::now();
        let left = Mutex::new(Left { items: vec![false; todo.len()], parts: 0 });
        let part = || {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh: Vec<usize> = (0..todo.len()).filter(|&i| !left.items[i] && log.has(todo[i].key)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            let keys: Vec<Digest> = fresh.iter().map(|&i| todo[i].key).collect();
            let pack = log.pack(&keys)?;
            // All of it in every part: content of an item may have been sent with an earlier part, which may get damaged.
            let head = PartHead { check: Digest::of(&pack), blobs: self.send_noted(&store)? };
            let mut bytes = to_bytes(&head);
            bytes.push(b'\n');
            bytes.extend(pack);
            self.worker.objects.put(&self.part_path(left.parts, keys.len() as u64), &bytes)?;
            left.parts += 1;
            for i in fresh {
                left.items[i] = true;
                if !shared.contains_key(&todo[i].blob.digest) {
                    store.forget(todo[i].blob.digest)?;
                }
            }
            Ok(())
        };
        let one_by_one = if self.task.careful { todo.len().min(CAREFUL) } else { 0 };
        self.beside(cancel, part, || {
            for item in &todo[..one_by_one] {
                ctx.check()?;
                let index = items.iter().position(|i| i.key == item.key).expect("it is one of them");
                self.worker.objects.put(&format!("{}/at-{index}", self.folder), b"")?;
                compute.compute(config, std::slice::from_ref(item), &ctx)?;
            }
            let rest = &todo[one_by_one..];
            let over = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                scope.spawn(|| Self::fetch_ahead(rest, &store, log, &over));
                let result = compute.compute(config, rest, &ctx);
                over.store(1, Ordering::SeqCst);
                result
            })
        })?;
        blobs.extend(self.send_noted(&store)?);
        let keys: Vec<Digest> = items.iter().map(|i| i.key).collect();
        let pack = cas::send(self.worker.objects.as_ref(), &log.pack(&keys)?, &self.traffic)?;
        let cost = self.cost(busy, todo.len() as u64);
        let made = Made::Items { pack, blobs: blobs.into_iter().collect() };
        Ok((made, ctx.into_results().1, cost))
    }

    /// Takes over results of an earlier attempt; the result is the content that they name.
    fn take_part(&self, path: &str, log: &ItemLog) -> Result<Vec<Content>, StageError> {
        let bytes = self.worker.objects.get(path)?.ok_or_else(|| wrong(path, "it is not there"))?;
        let end = bytes.iter().position(|&b| b == b'\n').ok_or_else(|| wrong(path, "it is cut"))?;
        let head: PartHead = serde_json::from_slice(&bytes[..end]).map_err(|e| wrong(path, e))?;
        let pack = &bytes[end + 1..];
        if Digest::of(pack) != head.check {
            return Err(wrong(path, "it is damaged"));
        }
        for content in &head.blobs {
            // What was found damaged was removed, and has to be made again.
            if !self.worker.objects.has(&cas_path(content.digest))? {
                return Err(wrong(path, format!("{} is gone, which it names", cas_path(content.digest))));
            }
        }
        log.unpack(pack)?;
        Ok(head.blobs)
    }

    /// How many earlier attempts broke off at which item without saying why: the last item that each was about to begin.
    fn deaths(&self) -> BTreeMap<usize, usize> {
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        let mut explained: BTreeSet<&str> = BTreeSet::new();
        for path in &self.earlier {
            let Some((attempt, name)) = path.rsplit_once('/') else { continue };
            if let Some(index) = name.strip_prefix("at-").and_then(|n| n.parse::<usize>().ok()) {
                let at: &mut usize = last.entry(attempt).or_default();
                *at = index.max(*at);
            } else if name == "failed" {
                explained.insert(attempt);
            }
        }
        let mut deaths = BTreeMap::new();
        for (_, index) in last.iter().filter(|(attempt, _)| !explained.contains(*attempt)) {
            *deaths.entry(*index).or_default() += 1;
        }
        deaths
    }

    /// Fetches items before they are begun, as far ahead as memory on disk allows.
    fn fetch_ahead(todo: &[Item], store: &Store, log: &ItemLog, over: &AtomicUsize) {
        let is_over = || over.load(Ordering::SeqCst) == 1;
        let (mut begun, mut ahead) = (0, 0);
        for item in todo {
            while ahead > AHEAD && !is_over() {
                while begun < todo.len() && log.has(todo[begun].key) {
                    ahead = ahead.saturating_sub(todo[begun].blob.size);
                    begun += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            if is_over() {
                return;
            }
            // Who needs it meets the same error, and says it.
            if !log.has(item.key) && !store.has(item.blob.digest) && store.read(item.blob.digest).is_err() {
                return;
            }
            ahead += item.blob.size;
        }
    }

    /// Runs the stage as a whole, from the newest checkpoint that an earlier attempt left.
    fn whole(&self, cancel: &CancelToken) -> Result<Results, StageError> {
        let store = self.store(self.inputs(&BTreeSet::new())?)?;
        let scratch = self.scratch();
        let number = |path: &str| part_name(path).map_or(0, |p| p.number);
        let newest = self.parts().max_by_key(|p| (number(p), p.as_str()));
        if let Some(path) = newest {
            let checkpoint: Checkpoint = record(self.worker.objects.as_ref(), path)?;
            for (name, content) in &checkpoint.files {
                let bytes = cas::fetch(self.worker.objects.as_ref(), *content, &self.traffic)?;
                store.write_file(&scratch.join(safe(name)?), &bytes)?;
            }
        }
        let first = newest.map_or(0, |p| number(p) + 1);
        let state = Mutex::new((first, None));
        let part = || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((checkpoint, fresh)) = snapshot(&scratch) else { return Ok(()) };
            if state.1.as_ref() == Some(&checkpoint) {
                return Ok(());
            }
            for (content, bytes) in fresh {
                if !self.worker.objects.has(&cas_path(content.digest))? {
                    cas::send(self.worker.objects.as_ref(), &bytes, &self.traffic)?;
                }
            }
            self.worker.objects.put(&self.part_path(state.0, 0), &to_bytes(&checkpoint))?;
            *state = (state.0 + 1, Some(checkpoint));
            Ok(())
        };
        let ctx = self.context(&store, cancel, None);
        let busy = Instant::now();
        let outcome = self.beside(cancel, part, || self.stage.run(&self.spec.unhashed.config, &ctx));
        // What was said last; it may be why it failed.
        if let Err(e) = self.say() {
            self.warn(format!("leaving what was said: {e}"));
        }
        let outcome = outcome?;
        self.send_noted(&store)?;
        let (outputs, notes) = ctx.into_results();
        let waiting = match outcome {
            Outcome::Done => None,
            Outcome::Waiting { reason } => Some(reason),
        };
        Ok((Made::Outputs { outputs, waiting }, notes, self.cost(busy, 1)))
    }
}

/// What an attempt has left in parts.
struct Left {
    /// By place in the list of what it had to do.
    items: Vec<bool>,
    parts: u32,
}

/// A name of a file below a folder, from a record that anybody who may write to the store could have written.
fn safe(name: &str) -> Result<&Path, StageError> {
    let path = Path::new(name);
    let inside = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if inside { Ok(path) } else { Err(wrong("a checkpoint", format!("its file `{name}` leads out of its folder"))) }
}

/// All files below a folder as they are now; `None` while one of them is being written.
fn snapshot(folder: &Path) -> Option<(Checkpoint, Vec<(Content, Vec<u8>)>)> {
    let (mut checkpoint, mut contents) = (Checkpoint::default(), Vec::new());
    let mut folders = vec![folder.to_owned()];
    let stamp = |path: &Path| fs::metadata(path).ok().and_then(|m| Some((m.len(), m.modified().ok()?)));
    while let Some(dir) = folders.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let before = stamp(&path);
            let Ok(bytes) = fs::read(&path) else { return None };
            if before.is_none() || stamp(&path) != before {
                return None;
            }
            let name = path.strip_prefix(folder).expect("it lies below").to_string_lossy().replace('\\', "/");
            let content = Content { digest: Digest::of(&bytes), size: bytes.len() as u64 };
            checkpoint.files.insert(name, content);
            contents.push((content, bytes));
        }
    }
    (!checkpoint.files.is_empty()).then_some((checkpoint, contents))
}
