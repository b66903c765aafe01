//! What the tests of remote work share: a store in memory that can fail, a cluster of threads, two small stages.
#![allow(dead_code, reason = "every test target uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use engine::{
    AnyStage, Blob, CancelToken, Context, Descriptor, Digest, Event, EventSink, Item, ItemError, ItemOutcome,
    ItemStage, Level, Manifest, Outcome, Port, Registry, Stage, StageError, Store,
    artifact::ArtifactWriter,
    context::{ItemSource, Place},
    executor::Job,
    item::Results,
    result::UnhashedKey,
};
use executors::{
    cluster::{Batch, Cluster, ClusterError, Resources, TaskState},
    objects::{Objects, ObjectsError},
    remote::{
        Clock, Coordinator, Policy,
        coordinator::execute,
        protocol::Layout,
        worker::{Ended, Task, Worker},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A store in memory.
#[derive(Debug, Default)]
pub struct Memory {
    pub objects: Mutex<BTreeMap<String, Vec<u8>>>,
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
}

impl Memory {
    fn count(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn paths(&self, prefix: &str) -> Vec<String> {
        self.objects.lock().unwrap().keys().filter(|k| k.starts_with(prefix)).cloned().collect()
    }
}

impl Objects for Memory {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), ObjectsError> {
        self.count(bytes.len());
        self.objects.lock().unwrap().insert(path.into(), bytes.into());
        Ok(())
    }
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, ObjectsError> {
        self.count(bytes.len());
        let mut objects = self.objects.lock().unwrap();
        Ok(!objects.contains_key(path) && objects.insert(path.into(), bytes.into()).is_none())
    }
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectsError> {
        let bytes = self.objects.lock().unwrap().get(path).cloned();
        self.count(bytes.as_ref().map_or(0, Vec::len));
        Ok(bytes)
    }
    fn has(&self, path: &str) -> Result<bool, ObjectsError> {
        self.count(0);
        Ok(self.objects.lock().unwrap().contains_key(path))
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, ObjectsError> {
        let (objects, folder) = (self.objects.lock().unwrap(), format!("{folder}/"));
        let found: Vec<String> =
            objects.range(folder.clone()..).map(|(k, _)| k).take_while(|k| k.starts_with(&folder)).cloned().collect();
        // A page holds a thousand names.
        self.requests.fetch_add(1 + found.len() as u64 / 1000, Ordering::Relaxed);
        Ok(found)
    }
    fn delete(&self, path: &str) -> Result<(), ObjectsError> {
        self.count(0);
        self.objects.lock().unwrap().remove(path);
        Ok(())
    }
}

/// What goes wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Whoever asks is dead: this request and all later ones fail.
    Death,
    /// One request fails as if the server had a bad moment.
    Answer500,
    /// What is written arrives changed; what is read is changed on the way.
    Damage,
}

/// A way to a store on which the n-th request meets a fault.
#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn Objects>,
    pub fault: Fault,
    /// Requests until then.
    pub left: Arc<AtomicI64>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Objects>, fault: Fault, after: i64) -> Self {
        Self { inner, fault, left: Arc::new(AtomicI64::new(after)) }
    }

    fn step(&self, path: &str) -> Result<bool, ObjectsError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let error = |message: &str| ObjectsError::Unreachable {
            store: "test".into(),
            action: "asking for",
            path: path.into(),
            message: message.into(),
        };
        match self.fault {
            Fault::Death if left <= 0 => Err(ObjectsError::Refused {
                store: "test".into(),
                action: "asking for",
                path: path.into(),
                message: "dead".into(),
            }),
            Fault::Answer500 if left == 0 => Err(error("500 Internal Server Error")),
            Fault::Damage => Ok(left == 0),
            _ => Ok(false),
        }
    }
}

fn damaged(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(b) = bytes.last_mut() {
        *b ^= 0x55;
    }
    bytes
}

impl Objects for Faulty {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), ObjectsError> {
        // Records are small and written whole; damage is what happens to content and parts.
        let hit = self.step(path)? && (path.starts_with("cas/") || path.contains("/part-"));
        self.inner.put(path, &if hit { damaged(bytes) } else { bytes.to_vec() })
    }
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, ObjectsError> {
        self.step(path)?;
        self.inner.create(path, bytes)
    }
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectsError> {
        let hit = self.step(path)? && (path.starts_with("cas/") || path.contains("/part-"));
        Ok(self.inner.get(path)?.map(|b| if hit { damaged(&b) } else { b }))
    }
    fn has(&self, path: &str) -> Result<bool, ObjectsError> {
        self.step(path)?;
        self.inner.has(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, ObjectsError> {
        self.step(folder)?;
        self.inner.list(folder)
    }
    fn delete(&self, path: &str) -> Result<(), ObjectsError> {
        self.step(path)?;
        self.inner.delete(path)
    }
}

/// A clock that runs a hundred times as fast, so that waits cost nothing.
#[derive(Debug)]
pub struct Fast(std::time::Instant);

impl Default for Fast {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for Fast {
    fn now(&self) -> Duration {
        self.0.elapsed() * 100
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time / 100);
    }
}

/// Settings of the stages below.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Behave {
    /// Added to every result.
    pub suffix: String,
    /// Milliseconds an item takes.
    pub millis: u64,
}

/// How often each item was computed in this test, and which ones kill their worker.
#[derive(Debug, Default)]
pub struct Watch {
    pub computed: Mutex<BTreeMap<String, u32>>,
    pub deadly: Mutex<BTreeSet<String>>,
    /// Attempts that are allowed to go on after a death: none, since a dead worker is dead.
    pub dead: AtomicBool,
}

/// Turns every file to upper case, and stores a picture of it.
pub struct Shout(pub Arc<Watch>);

impl ItemStage for Shout {
    type Config = Behave;
    type Worker = String;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "shout".into(),
            version: 1,
            about: "Turns text to upper case.".into(),
            inputs: vec![
                Port::new("texts", "files"),
                Port::new("voice", "files"),
                Port::optional("truth", "files").only_at_finish(),
            ],
            outputs: vec![Port::new("shouts", "files")],
            items: Some("texts".into()),
        }
    }

    fn prepare(&self, config: &Behave, ctx: &Context) -> Result<String, StageError> {
        let voice = ctx.open("voice")?.get("voice")?;
        Ok(String::from_utf8_lossy(&voice).into_owned() + &config.suffix)
    }

    fn item(&self, worker: &String, config: &Behave, item: &Item, ctx: &Context) -> Result<Vec<u8>, ItemError> {
        let name = &item.blob.name;
        std::thread::sleep(Duration::from_millis(config.millis));
        let text = String::from_utf8_lossy(&ctx.bytes(&item.blob)?).into_owned();
        *self.0.computed.lock().unwrap().entry(name.clone()).or_default() += 1;
        if self.0.deadly.lock().unwrap().contains(name) {
            // Nothing that a program does helps a process that is killed; the cluster of threads sees to the rest.
            return Err(ItemError::Stage(StageError::message("killed")));
        }
        if text.contains("bad") {
            return Err(ItemError::Quarantine("it is bad".into()));
        }
        let loud = text.to_uppercase() + worker;
        let picture = ctx.store().put(format!("picture of {loud}").as_bytes())?;
        Ok(format!("{loud} {picture}").into_bytes())
    }

    fn finish(&self, _: &Behave, results: &Results<'_>, ctx: &Context) -> Result<Outcome, StageError> {
        let mut writer = ArtifactWriter::new(ctx.store());
        for result in results.iter() {
            let (item, outcome) = result?;
            match outcome {
                ItemOutcome::Done(bytes) => {
                    let picture = String::from_utf8_lossy(&bytes[bytes.len() - 64..]).parse::<Digest>().unwrap();
                    let bytes = [bytes, ctx.store().read(picture)?].concat();
                    writer.put(&item.blob.name, &bytes)?;
                }
                ItemOutcome::Quarantined(reason) => writer.put(&item.blob.name, reason.as_bytes())?,
            }
        }
        ctx.output("shouts", writer.finish("files", 1, serde_json::Value::Null)?)?;
        Ok(Outcome::Done)
    }
}

/// Adds up the files' lengths step by step, with a checkpoint a step.
pub struct Sum(pub Arc<Watch>);

impl Stage for Sum {
    type Config = Behave;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "sum".into(),
            version: 1,
            about: "Adds up lengths.".into(),
            inputs: vec![Port::new("texts", "files")],
            outputs: vec![Port::new("sum", "files")],
            items: None,
        }
    }

    fn run(&self, config: &Behave, ctx: &Context) -> Result<Outcome, StageError> {
        let path = ctx.scratch()?.join("state");
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let (mut at, mut sum) = kept.split_once(' ').map_or((0, 0), |(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        let blobs = ctx.manifest("texts")?.blobs;
        while at < blobs.len() {
            ctx.check()?;
            std::thread::sleep(Duration::from_millis(config.millis));
            sum += ctx.bytes(&blobs[at])?.len() as u64;
            *self.0.computed.lock().unwrap().entry(blobs[at].name.clone()).or_default() += 1;
            if self.0.deadly.lock().unwrap().remove(&blobs[at].name) {
                return Err(StageError::message("killed"));
            }
            at += 1;
            ctx.store().write_file(&path, format!("{at} {sum}").as_bytes())?;
            ctx.progress(at as u64, blobs.len() as u64, "texts", format!("sum {sum}"));
            ctx.series("so far", sum as f64, at as u64);
            if at == 3 {
                ctx.message(Level::Info, "three were added up");
            }
        }
        ctx.metric("sum", sum as f64);
        let mut writer = ArtifactWriter::new(ctx.store());
        writer.put("sum", sum.to_string().as_bytes())?;
        ctx.output("sum", writer.finish("files", 1, serde_json::Value::Null)?)?;
        Ok(Outcome::Done)
    }
}

pub fn registry(watch: &Arc<Watch>) -> Registry {
    Registry::new().add_items(Shout(watch.clone())).add(Sum(watch.clone()))
}

#[derive(Debug, Default)]
pub struct Heard(pub Mutex<Vec<Event>>);

impl EventSink for Heard {
    fn emit(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().iter().map(|e| serde_json::to_string(e).unwrap() + "\n").collect()
    }
}

/// How a worker that the cluster of threads starts meets the world.
pub type Way = dyn Fn(Arc<dyn Objects>, &Batch, u32) -> Arc<dyn Objects> + Send + Sync;

/// A cluster whose machines are threads.
pub struct Threads {
    pub objects: Arc<dyn Objects>,
    pub registry: Registry,
    pub part_every: Duration,
    /// The way that a task's worker has to the store.
    pub way: Box<Way>,
    pub state: Arc<Mutex<ThreadsState>>,
    pub dir: std::path::PathBuf,
    /// Forgets every task as soon as it is over.
    pub forgetful: bool,
    /// Tasks stay pending until this is set.
    pub holding: AtomicBool,
    /// Keeps stopped tasks and starts them later, as some systems do.
    pub stubborn: bool,
}

#[derive(Default)]
pub struct ThreadsState {
    pub tasks: BTreeMap<(String, u32), TaskState>,
    pub started: u32,
    pub ended: Vec<Result<Ended, String>>,
    pub waiting: Vec<(Batch, u32)>,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Threads")
    }
}

impl Threads {
    pub fn new(objects: Arc<dyn Objects>, watch: &Arc<Watch>, dir: &Path) -> Self {
        Self {
            objects,
            registry: registry(watch),
            part_every: Duration::from_millis(2),
            way: Box::new(|objects, _, _| objects),
            state: Arc::default(),
            dir: dir.to_owned(),
            forgetful: false,
            holding: AtomicBool::new(false),
            stubborn: false,
        }
    }

    pub fn started(&self) -> u32 {
        self.state.lock().unwrap().started
    }

    /// Waits until no task runs.
    pub fn settle(&self) {
        while self.state.lock().unwrap().tasks.values().any(|s| matches!(s, TaskState::Running { .. })) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn release(&self) {
        self.holding.store(false, Ordering::SeqCst);
        let waiting = std::mem::take(&mut self.state.lock().unwrap().waiting);
        for (batch, task) in waiting {
            self.start(&batch, task);
        }
    }

    fn start(&self, batch: &Batch, task: u32) {
        let arguments = batch.arguments_of(task);
        let value = |name: &str| arguments[arguments.iter().position(|a| a == name).unwrap() + 1].clone();
        let what = Task {
            layout: Layout { job: value("--job"), store: String::new() },
            generation: value("--generation").parse().unwrap(),
            shard: value("--shard").parse().unwrap(),
            batch: value("--batch"),
            careful: arguments.iter().any(|a| a == "--careful"),
        };
        let number = {
            let mut state = self.state.lock().unwrap();
            state.started += 1;
            state.tasks.insert((batch.name.clone(), task), TaskState::Running { node: "thread".into() });
            state.started
        };
        let (objects, state, registry) =
            ((self.way)(self.objects.clone(), batch, task), self.state.clone(), self.registry.clone());
        let (dir, part_every, forgetful) = (self.dir.join(format!("w{number}")), self.part_every, self.forgetful);
        let key = (batch.name.clone(), task);
        std::thread::spawn(move || {
            let worker = Worker {
                objects,
                registry: &registry,
                dir: &dir,
                threads: 2,
                sink: Arc::new(engine::event::NoSink),
                cancel: CancelToken::new(),
                attempt: format!("{}-{number:04}", what.batch),
                host: "thread".into(),
                gpus: 1.0,
                program: "test",
                part_every,
            };
            let result = worker.run(&what).map_err(|e| e.to_string());
            let mut state = state.lock().unwrap();
            let over = match &result {
                Ok(_) => TaskState::Succeeded,
                Err(e) => TaskState::Failed { exit: Some(1), why: e.clone() },
            };
            if forgetful {
                state.tasks.remove(&key);
            } else {
                state.tasks.insert(key, over);
            }
            state.ended.push(result);
        });
    }
}

impl Cluster for Threads {
    fn describe(&self) -> String {
        "threads".into()
    }

    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        for &task in &batch.tasks {
            let known = self.state.lock().unwrap().tasks.contains_key(&(batch.name.clone(), task));
            if known {
                continue;
            }
            if self.holding.load(Ordering::SeqCst) {
                let mut state = self.state.lock().unwrap();
                state.tasks.insert((batch.name.clone(), task), TaskState::Pending { why: "Resources".into() });
                state.waiting.push((batch.clone(), task));
            } else {
                self.start(batch, task);
            }
        }
        Ok(())
    }

    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        let state = self.state.lock().unwrap();
        Ok(state.tasks.iter().filter(|((b, _), _)| b == batch).map(|((_, t), s)| (*t, s.clone())).collect())
    }

    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        let mut state = self.state.lock().unwrap();
        if !self.stubborn {
            state.waiting.retain(|(b, t)| b.name != batch || !tasks.contains(t));
            for ((b, t), s) in &mut state.tasks {
                if b == batch && tasks.contains(t) && matches!(s, TaskState::Pending { .. }) {
                    *s = TaskState::Failed { exit: None, why: "CANCELLED".into() };
                }
            }
        }
        Ok(())
    }

    fn log(&self, _: &str, _: u32, _: u64) -> Result<Vec<u8>, ClusterError> {
        Ok(b"some words".to_vec())
    }
}

/// A project folder with texts.
pub struct Here {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub watch: Arc<Watch>,
    pub registry: Registry,
    pub heard: Arc<Heard>,
    pub cancel: CancelToken,
    /// Of the last job that ended well.
    pub notes: std::sync::Mutex<engine::context::Notes>,
}

impl Here {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let watch = Arc::<Watch>::default();
        Self {
            store: Store::open(dir.path().join("store")).unwrap(),
            registry: registry(&watch),
            watch,
            dir,
            heard: Arc::default(),
            cancel: CancelToken::new(),
            notes: Default::default(),
        }
    }

    pub fn files(&self, files: &[(String, String)]) -> Digest {
        let blob = |(name, text): &(String, String)| Blob {
            name: name.clone(),
            digest: self.store.put(text.as_bytes()).unwrap(),
            size: text.len() as u64,
        };
        let manifest = Manifest::new("files", 1, serde_json::Value::Null, files.iter().map(blob).collect());
        self.store.put(&manifest.to_bytes()).unwrap()
    }

    pub fn texts(&self, count: usize) -> Digest {
        let text = |i: usize| if i % 17 == 5 { format!("bad {i}") } else { format!("text number {i}") };
        self.files(&(0..count).map(|i| (format!("{i:05}.txt"), text(i))).collect::<Vec<_>>())
    }

    /// A job on this machine's side, as the engine makes it.
    pub fn job(&self, stage: &str, texts: Digest, behave: &Behave) -> Job {
        let stage: Arc<dyn AnyStage> = self.registry.get(stage).unwrap().clone();
        let config = stage.parse(&json!(behave)).unwrap();
        let descriptor = stage.descriptor();
        let mut inputs: BTreeMap<String, Digest> = [("texts".to_owned(), texts)].into();
        if descriptor.items.is_some() {
            inputs.insert("voice".into(), self.files(&[("voice".into(), "!".into())]));
            inputs.insert("truth".into(), self.files(&[("truth".into(), "never sent".into())]));
        }
        let unhashed = UnhashedKey {
            stage: descriptor.name.clone(),
            version: 1,
            config: config.clone(),
            inputs: inputs.clone(),
            fingerprint: serde_json::Value::Null,
        };
        let items =
            ItemSource::open(&self.store, &descriptor, stage.item_identity(&config).unwrap(), &unhashed).unwrap();
        let ctx = Context::new(Place {
            node: descriptor.name,
            store: self.store.clone(),
            inputs,
            sink: self.heard.clone(),
            cancel: self.cancel.clone(),
            threads: 2,
            scratch: self.dir.path().join("scratch"),
            items,
        });
        Job { stage, config, unhashed, ctx }
    }

    /// Output of the job when it is executed here.
    pub fn local(&self, stage: &str, texts: Digest, behave: &Behave) -> BTreeMap<String, Digest> {
        let elsewhere = Here::new();
        for digest in std::iter::once(texts).chain(self.store.manifest(texts).unwrap().blobs.iter().map(|b| b.digest)) {
            elsewhere.store.put(&self.store.read(digest).unwrap()).unwrap();
        }
        let job = elsewhere.job(stage, texts, behave);
        job.stage.run(&job.config, &job.ctx).unwrap();
        job.ctx.into_results().0
    }

    /// Executes a job by way of a cluster and puts its items together; its outputs.
    pub fn remote(
        &self,
        job: Job,
        cluster: &dyn Cluster,
        objects: &dyn Objects,
        policy: Policy,
    ) -> Result<BTreeMap<String, Digest>, StageError> {
        let needs = Resources { gpus: 1.0, ..Resources::default() };
        let coordinator = Coordinator {
            cluster,
            objects,
            clock: &Fast::default(),
            policy,
            needs,
            arguments: vec![],
            program: "test",
        };
        execute(&coordinator, &job)?;
        if let Some(source) = job.ctx.item_source() {
            let left = source.log.missing(&job.ctx.all_items()?)?;
            assert!(left.is_empty(), "nothing is left to compute here");
            job.stage.run(&job.config, &job.ctx)?;
        }
        let (outputs, notes) = job.ctx.into_results();
        *self.notes.lock().unwrap() = notes;
        Ok(outputs)
    }
}

pub const SMALL: Policy = Policy { shard_seconds: 300.0, shard_items: Some(5), retries: 4 };
