//! The protocol with many shards, in virtual time: workers that die, a cluster with few places, everything else as it is.
//!
//! `cargo test -p executors --release --test simulation -- --ignored --nocapture` runs a million items.

mod support;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use engine::{
    Blob, CancelToken, Context, Descriptor, Digest, Item, ItemError, ItemIdentity, ItemOutcome, ItemStage, Manifest,
    Outcome, Port, Registry, StageError, Store,
    context::{ItemSource, Place},
    executor::Job,
    item::Results,
    itemlog,
    result::UnhashedKey,
};
use executors::{
    cluster::{Batch, Cluster, ClusterError, Resources, TaskState},
    objects::Objects,
    remote::{
        Clock, Coordinator, Policy,
        cas::{Traffic, send},
        coordinator::execute,
        protocol::{Cost, Done, FORMAT, Layout, Made, ShardItems, Spec, Work, to_bytes},
    },
};
use serde_json::{Value, json};
use support::Memory;

/// Seconds an item takes.
const ITEM_SECONDS: f64 = 3.0;
/// Tasks at once.
const PLACES: usize = 200;
/// Deaths of a worker in an hour.
const DEATHS: f64 = 0.05;
/// Seconds between the parts that workers leave.
const PART_SECONDS: f64 = 20.0;

/// A stage whose items nobody computes here.
struct Far;

impl ItemStage for Far {
    type Config = BTreeMap<String, String>;
    type Worker = ();

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "far".into(),
            version: 1,
            about: "Is computed elsewhere.".into(),
            inputs: vec![Port::new("files", "files")],
            outputs: vec![Port::new("out", "files")],
            items: Some("files".into()),
        }
    }
    fn identity(&self, _: &Self::Config) -> ItemIdentity {
        ItemIdentity::NameAndContent
    }
    fn prepare(&self, _: &Self::Config, _: &Context) -> Result<(), StageError> {
        unreachable!("nothing is computed here")
    }
    fn item(&self, (): &(), _: &Self::Config, _: &Item, _: &Context) -> Result<Vec<u8>, ItemError> {
        unreachable!("nothing is computed here")
    }
    fn finish(&self, _: &Self::Config, _: &Results<'_>, _: &Context) -> Result<Outcome, StageError> {
        Ok(Outcome::Done)
    }
}

struct Running {
    batch: String,
    task: u32,
    begun: f64,
    /// When its work is done, or it dies.
    end: f64,
    dies: bool,
    kept: usize,
}

/// A cluster in virtual time.
#[derive(Default)]
struct World {
    now: f64,
    states: BTreeMap<(String, u32), TaskState>,
    waiting: VecDeque<(String, u32)>,
    running: Vec<Running>,
    /// Items of each shard that its parts hold.
    held: BTreeMap<(u32, u32), usize>,
    deaths: u64,
    computed: u64,
    lost: u64,
    calls: u64,
}

struct Sim {
    world: Mutex<World>,
    objects: Arc<Memory>,
    layout: Layout,
    base: Digest,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sim")
    }
}

fn generation(batch: &str) -> u32 {
    batch.split('-').nth(2).unwrap().parse().unwrap()
}

impl Sim {
    fn items(&self, generation: u32, shard: u32) -> ShardItems {
        let read = |path: &str| self.objects.objects.lock().unwrap()[path].clone();
        let spec: Spec = serde_json::from_slice(&read(&self.layout.spec(generation))).unwrap();
        let Work::Items { division, .. } = spec.work else { panic!("a job of items") };
        serde_json::from_slice(&read(&self.layout.shard(generation, division, shard))).unwrap()
    }

    /// Begins what there is room for.
    fn fill(&self, w: &mut World) {
        while w.running.len() < PLACES {
            let Some((batch, task)) = w.waiting.pop_front() else { return };
            let shard = (generation(&batch), task);
            let kept = w.held.get(&shard).copied().unwrap_or(0);
            let work = (self.items(shard.0, shard.1).len() - kept) as f64 * ITEM_SECONDS;
            // Chance without a seed of its own: the same names die at the same time in every run.
            let draw = Digest::of(format!("{batch} {task}").as_bytes());
            let draw = f64::from(u32::from_le_bytes(draw.as_bytes()[..4].try_into().unwrap())) / f64::from(u32::MAX);
            let life = -draw.max(1e-9).ln() / DEATHS * 3600.0;
            let (end, dies) = (w.now + work.min(life), life < work);
            w.states.insert((batch.clone(), task), TaskState::Running { node: "sim".into() });
            w.running.push(Running { begun: w.now, batch, task, end, dies, kept });
        }
    }

    fn advance(&self, to: f64) {
        let mut world = self.world.lock().unwrap();
        let w = &mut *world;
        loop {
            self.fill(w);
            let next = (0..w.running.len()).min_by(|&a, &b| w.running[a].end.total_cmp(&w.running[b].end));
            let Some(next) = next.filter(|&n| w.running[n].end <= to) else { break };
            let r = w.running.swap_remove(next);
            w.now = r.end;
            let shard = (generation(&r.batch), r.task);
            let items = self.items(shard.0, shard.1);
            if r.dies {
                let spent = r.end - r.begun;
                let left = ((spent / PART_SECONDS).floor() * PART_SECONDS / ITEM_SECONDS) as usize;
                let done = (spent / ITEM_SECONDS) as usize;
                let held = w.held.entry(shard).or_default();
                *held = (*held).max(r.kept + left);
                w.computed += done as u64;
                w.lost += (done - left) as u64;
                w.deaths += 1;
                let why = "NODE_FAIL".into();
                w.states.insert((r.batch, r.task), TaskState::Failed { exit: None, why });
                continue;
            }
            w.computed += (items.len() - r.kept) as u64;
            let result = |b: &Blob| {
                Ok((
                    ItemSource::key(self.base, ItemIdentity::NameAndContent, b),
                    ItemOutcome::Done(b.name.clone().into_bytes()),
                ))
            };
            let pack = itemlog::pack(items.iter().map(result)).unwrap();
            let done = Done {
                format: FORMAT,
                made: Made::Items {
                    pack: send(self.objects.as_ref(), &pack, &Traffic::default()).unwrap(),
                    blobs: vec![],
                },
                attempt: format!("{}-{}", r.batch, r.task),
                notes: engine::context::Notes::default(),
                cost: Cost {
                    host: "sim".into(),
                    seconds: r.end - r.begun,
                    computed: (items.len() - r.kept) as u64,
                    ..Cost::default()
                },
            };
            assert!(self.objects.create(&self.layout.done(shard.0, shard.1), &to_bytes(&done)).unwrap());
            w.states.insert((r.batch, r.task), TaskState::Succeeded);
        }
        w.now = to;
    }
}

impl Cluster for Sim {
    fn describe(&self) -> String {
        "simulated".into()
    }
    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        let mut w = self.world.lock().unwrap();
        w.calls += 1;
        for &task in &batch.tasks {
            let key = (batch.name.clone(), task);
            if !w.states.contains_key(&key) {
                w.states.insert(key.clone(), TaskState::Pending { why: "Resources".into() });
                w.waiting.push_back(key);
            }
        }
        Ok(())
    }
    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        let mut w = self.world.lock().unwrap();
        w.calls += 1;
        let all = w.states.range((batch.to_owned(), 0)..=(batch.to_owned(), u32::MAX));
        Ok(all.map(|((_, t), s)| (*t, s.clone())).collect())
    }
    fn cancel(&self, _: &str, _: &[u32]) -> Result<(), ClusterError> {
        Ok(())
    }
    fn log(&self, _: &str, _: u32, _: u64) -> Result<Vec<u8>, ClusterError> {
        Ok(Vec::new())
    }
}

impl Clock for Sim {
    fn now(&self) -> Duration {
        Duration::from_secs_f64(self.world.lock().unwrap().now)
    }
    fn sleep(&self, time: Duration) {
        let to = self.world.lock().unwrap().now + time.as_secs_f64();
        self.advance(to);
    }
}

/// Most memory that this process ever had, MB.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn simulate(items: usize, shard_items: usize) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let content = store.put(b"the same in every file").unwrap();
    let blob = |i: usize| Blob { name: format!("{i:07}.png"), digest: content, size: 22 };
    let manifest = Manifest::new("files", 1, Value::Null, (0..items).map(blob).collect());
    let files = store.put(&manifest.to_bytes()).unwrap();
    drop(manifest);
    let registry = Registry::new().add_items(Far);
    let stage = registry.get("far").unwrap().clone();
    let unhashed = UnhashedKey {
        stage: "far".into(),
        version: 1,
        config: json!({}),
        inputs: [("files".to_owned(), files)].into(),
        fingerprint: Value::Null,
    };
    let identity = Some(ItemIdentity::NameAndContent);
    let source = ItemSource::open(&store, &stage.descriptor(), identity, &unhashed).unwrap().unwrap();
    let base = source.base;
    let ctx = Context::new(Place {
        node: "far".into(),
        store: store.clone(),
        inputs: unhashed.inputs.clone(),
        sink: Arc::new(engine::event::NoSink),
        cancel: CancelToken::new(),
        threads: 1,
        scratch: dir.path().join("scratch"),
        items: Some(source),
    });
    let job = Job { stage, config: json!({}), unhashed, ctx };
    let objects = Arc::<Memory>::default();
    let sim = Sim { world: Mutex::default(), objects: objects.clone(), layout: Layout::of(base), base };
    let coordinator = Coordinator {
        cluster: &sim,
        objects: objects.as_ref(),
        clock: &sim,
        policy: Policy { shard_seconds: 300.0, shard_items: Some(shard_items), retries: 4 },
        needs: Resources::default(),
        arguments: vec![],
        program: "test",
    };
    let begun = Instant::now();
    execute(&coordinator, &job).unwrap();
    let seconds = begun.elapsed().as_secs_f64();

    let shards = items.div_ceil(shard_items);
    let all = job.ctx.all_items().unwrap();
    let source = job.ctx.item_source().unwrap();
    assert!(source.log.missing(&all).unwrap().is_empty(), "nothing is lost");
    for item in all.iter().step_by(997) {
        assert_eq!(source.log.get(item.key).unwrap(), ItemOutcome::Done(item.blob.name.clone().into_bytes()));
    }
    let w = sim.world.lock().unwrap();
    let done = objects.objects.lock().unwrap().keys().filter(|k| k.starts_with("done/")).count();
    assert_eq!(done, shards, "one result a shard");
    // A shard that was begun twice because it was slow is computed twice; nothing else is but what no part held.
    let again = w.computed as i64 - items as i64 - w.lost as i64;
    assert!(again >= 0, "{again}");
    assert!(again as f64 <= 0.02 * items as f64, "{again} items were computed again");
    let hours = w.now / 3600.0;
    let ideal = items as f64 * ITEM_SECONDS / PLACES as f64 / 3600.0;
    println!(
        "{items} items in {shards} shards on {PLACES} places: {hours:.2} h of virtual time ({ideal:.2} h without any loss), {} deaths, \
         {} items computed twice (in no part yet: {}, second attempts: {again}); this side: {seconds:.1} s, {} requests to the \
         store ({:.1} MB), {} to the cluster, peak {:.0} MB with the simulated store in it",
        w.deaths,
        w.lost as i64 + again,
        w.lost,
        objects.requests.load(Ordering::Relaxed),
        objects.bytes.load(Ordering::Relaxed) as f64 / 1e6,
        w.calls,
        peak_mb()
    );
    assert!(hours < 1.5 * ideal + 0.5, "{hours} h");
}

#[test]
fn ten_thousand_items_in_a_hundred_shards() {
    simulate(10_000, 100);
}

#[test]
#[ignore = "takes minutes and a gigabyte: a measurement for the docs"]
fn a_million_items_in_ten_thousand_shards() {
    simulate(1_000_000, 100);
}
