//! Whole runs of toy stages: what is cached, what runs and why, what happens when a stage waits, fails, is stopped,
//! takes too long or crashes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use engine::{
    CancelToken, Card, Context, Descriptor, Event, EventSink, InputSpec, Item, ItemError, ItemOutcome, ItemStage,
    Level, Machine, Needs, Outcome, Port, Registry, Stage, StageError, Store,
    artifact::{ArtifactReader, ArtifactWriter},
    event::NoSink,
    executor::{Executor, Executors, Job, Places, place},
    graph::{Edge, Graph, GraphError, NodeSpec, PipelineSpec},
    item::Results,
    machine::Gpu,
    plan::{Plan, PlanError, Selection, Verdict, plan},
    record::{RunRecord, Status},
    result::StageResult,
    run::{RunRequest, run},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Upper-cases every file of its input.
struct Shout(Arc<AtomicUsize>);

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ShoutConfig {
    mark: String,
}

fn text_artifact(ctx: &Context, port: &str, text: &str) -> Result<(), StageError> {
    let mut writer = ArtifactWriter::new(ctx.store());
    writer.put("text", text.as_bytes())?;
    let artifact = writer.finish("text", 1, Value::Null)?;
    ctx.output(port, artifact)?;
    Ok(())
}

impl ItemStage for Shout {
    type Config = ShoutConfig;
    type Worker = ();
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "shout".into(),
            version: 1,
            about: String::new(),
            inputs: vec![Port::new("images", "files")],
            outputs: vec![Port::new("text", "text")],
            items: Some("images".into()),
        }
    }
    fn needs(&self, _: &ShoutConfig) -> Needs {
        Needs { memory_bytes: 10, ..Needs::default() }
    }
    fn prepare(&self, _: &ShoutConfig, _: &Context) -> Result<(), StageError> {
        Ok(())
    }
    fn item(&self, (): &(), config: &ShoutConfig, item: &Item, ctx: &Context) -> Result<Vec<u8>, ItemError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let bytes = ctx.bytes(&item.blob)?;
        match bytes.as_slice() {
            b"bad" => Err(ItemError::Quarantine("it says `bad`; say something else".into())),
            b"crash" => panic!("this file crashes it"),
            slow if slow.starts_with(b"slow") => {
                std::thread::sleep(Duration::from_millis(100));
                Ok(bytes.clone())
            }
            text => Ok([text.to_ascii_uppercase().as_slice(), config.mark.as_bytes()].concat()),
        }
    }
    fn finish(&self, _: &ShoutConfig, results: &Results<'_>, ctx: &Context) -> Result<Outcome, StageError> {
        let mut text = String::new();
        for result in results.iter() {
            let (item, outcome) = result?;
            let words = match outcome {
                ItemOutcome::Done(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                ItemOutcome::Quarantined(reason) => format!("left out: {reason}"),
            };
            text.push_str(&format!("{}={words}\n", item.blob.name));
        }
        text_artifact(ctx, "text", &text)?;
        Ok(Outcome::Done)
    }
}

/// Counts the characters of a text; its config makes it misbehave.
struct Count(Arc<AtomicUsize>);

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CountConfig {
    add: usize,
    behave: String,
    memory_bytes: u64,
}

impl Stage for Count {
    type Config = CountConfig;
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "count".into(),
            version: 1,
            about: String::new(),
            inputs: vec![Port::new("text", "text")],
            outputs: vec![Port::new("number", "number"), Port::optional("extra", "text")],
            items: None,
        }
    }
    fn needs(&self, config: &CountConfig) -> Needs {
        Needs { memory_bytes: config.memory_bytes, gpu: config.behave == "gpu", ..Needs::default() }
    }
    fn run(&self, config: &CountConfig, ctx: &Context) -> Result<Outcome, StageError> {
        let tries = self.0.fetch_add(1, Ordering::SeqCst);
        match config.behave.as_str() {
            "fail" => return Err(StageError::input("the number is odd", "choose an even one")),
            "flaky" if tries < 2 => return Err(StageError::Transient { message: "no luck".into(), source: None }),
            "panic" => panic!("an invariant broke"),
            "wait" => return Ok(Outcome::Waiting { reason: "a person has to look".into() }),
            "forget" => return Ok(Outcome::Done),
            "hang" => loop {
                ctx.check()?;
                std::thread::sleep(Duration::from_millis(5));
            },
            "sleep" => std::thread::sleep(Duration::from_millis(150)),
            _ => {}
        }
        let text = ctx.open("text")?.get("text")?;
        let mut writer = ArtifactWriter::new(ctx.store());
        writer.put("number", (text.len() + config.add).to_string().as_bytes())?;
        let artifact = writer.finish("number", 1, Value::Null)?;
        ctx.output("number", artifact)?;
        ctx.metric("length", text.len() as f64);
        Ok(Outcome::Done)
    }
}

struct Here;

impl Executor for Here {
    fn name(&self) -> &'static str {
        "local"
    }
    fn is_local(&self) -> bool {
        true
    }
    fn execute(&self, job: &Job) -> Result<Outcome, StageError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(job.ctx.threads()).build().unwrap();
        pool.install(|| job.stage.run(&job.config, &job.ctx))
    }
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl EventSink for Recorder {
    fn emit(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
    items: Arc<AtomicUsize>,
    counts: Arc<AtomicUsize>,
    spec: PipelineSpec,
    events: Arc<Recorder>,
    cancel: CancelToken,
    one_off: bool,
    require: bool,
}

fn node(name: &str, uses: &str, config: Value) -> NodeSpec {
    NodeSpec { name: name.into(), uses: uses.into(), config, ..NodeSpec::default() }
}

/// The executors of every run here.
fn here() -> Executors {
    [("local".to_owned(), Arc::new(Here) as Arc<dyn Executor>)].into()
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("runs/.store")).unwrap();
        let spec = PipelineSpec {
            inputs: vec![InputSpec {
                name: "images".into(),
                kind: "files".into(),
                path: dir.path().join("in"),
                extensions: None,
                recursive: true,
            }],
            nodes: vec![node("shout", "shout", json!({})), node("count", "count", json!({}))],
        };
        let world = Self {
            dir,
            store,
            items: Arc::default(),
            counts: Arc::default(),
            spec,
            events: Arc::default(),
            cancel: CancelToken::new(),
            one_off: false,
            require: false,
        };
        files.iter().for_each(|(name, text)| world.write(name, text));
        world
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn runs(&self) -> PathBuf {
        self.dir.path().join("runs")
    }

    fn graph(&self) -> Result<Graph, GraphError> {
        let registry = Registry::new().add_items(Shout(self.items.clone())).add(Count(self.counts.clone()));
        Graph::build(&self.spec, &registry, &Machine::probe())
    }

    fn places<'a>(&self, executors: &'a Executors, machine: &'a Machine) -> Places<'a> {
        Places { executors, machine, require: self.require }
    }

    fn plan(&self, selection: &Selection) -> Result<Plan, PlanError> {
        plan(&self.store, &self.graph()?, selection, self.places(&here(), &Machine::probe()), &self.cancel, &NoSink)
    }

    fn run_with(&self, selection: Selection, cores: usize) -> Result<(RunRecord, PathBuf), PlanError> {
        let executors = here();
        run(&RunRequest {
            runs: &self.runs(),
            store: &self.store,
            graph: &self.graph()?,
            selection,
            executors: &executors,
            cores,
            machine: Machine { cores, memory_bytes: 1000, gpus: vec![] },
            program: "test".into(),
            sink: self.events.clone(),
            cancel: self.cancel.clone(),
            require: self.require,
            one_off: self.one_off,
        })
    }

    fn run(&self) -> RunRecord {
        self.run_with(Selection::default(), 2).unwrap().0
    }

    fn output(&self, record: &RunRecord, node: &str, port: &str, blob: &str) -> String {
        let reader = ArtifactReader::open(&self.store, record.stages[node].outputs[port]).unwrap();
        String::from_utf8(reader.get(blob).unwrap()).unwrap()
    }
}

fn why(plan: &Plan, name: &str) -> (Verdict, String) {
    let s = plan.stages.iter().find(|s| s.name == name).unwrap();
    (s.verdict, s.why.join("; "))
}

#[test]
fn a_second_run_finds_everything_done() {
    let w = World::new(&[("a.txt", "one"), ("sub/b.txt", "two")]);
    let first = w.run();
    assert_eq!(first.status, Status::Done);
    assert_eq!(w.output(&first, "shout", "text", "text"), "a.txt=ONE\nsub/b.txt=TWO\n");
    assert_eq!(w.output(&first, "count", "number", "number"), "24");
    let second = w.run();
    assert!(second.stages.values().all(|s| s.status == Status::Cached));
    assert_eq!(second.stages["count"].from_run.as_deref(), Some(first.id.as_str()));
    assert_eq!((w.items.load(Ordering::SeqCst), w.counts.load(Ordering::SeqCst)), (2, 1));
    assert_eq!(second.stages["count"].notes.metrics["length"], 24.0);
    // The record on disk is the one returned, the newest run has a link, and outputs are plain files below it.
    assert_eq!(RunRecord::load(&w.runs().join("latest")).unwrap().id, second.id);
    let file = w.runs().join("latest/shout/text/text");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "a.txt=ONE\nsub/b.txt=TWO\n");
}

#[test]
fn new_files_cost_new_items_only_and_the_plan_says_so() {
    let w = World::new(&[("a", "one"), ("b", "two")]);
    w.run();
    w.write("c", "three");
    w.write("d", "four");
    let p = w.plan(&Selection::default()).unwrap();
    let (verdict, reason) = why(&p, "shout");
    assert_eq!(verdict, Verdict::WillRun);
    assert_eq!(reason, "input `images` (inputs.images) changed: 2 added (c … d)");
    assert_eq!(p.stages[0].items.map(|i| (i.all, i.todo)), Some((4, 2)));
    assert_eq!(why(&p, "count"), (Verdict::MayRun, "`shout` will run before it".into()));
    w.items.store(0, Ordering::SeqCst);
    w.run();
    assert_eq!(w.items.load(Ordering::SeqCst), 2);
}

#[test]
fn a_plan_names_the_setting_that_changed_and_going_back_is_free() {
    let mut w = World::new(&[("a", "one")]);
    w.run();
    w.spec.nodes[1].config = json!({"add": 5});
    let p = w.plan(&Selection::default()).unwrap();
    assert_eq!(why(&p, "shout").0, Verdict::Cached);
    assert_eq!(why(&p, "count"), (Verdict::WillRun, "setting `add` went from 0 to 5".into()));
    assert_eq!(w.output(&w.run(), "count", "number", "number"), "11");
    w.spec.nodes[1].config = json!({});
    assert_eq!(why(&w.plan(&Selection::default()).unwrap(), "count").0, Verdict::Cached);
}

#[test]
fn bad_items_are_quarantined_and_the_rest_goes_on() {
    let w = World::new(&[("a", "one"), ("b", "bad"), ("c", "crash"), ("d", "two")]);
    let record = w.run();
    assert_eq!(record.status, Status::Done);
    let text = w.output(&record, "shout", "text", "text");
    assert!(text.contains("a=ONE") && text.contains("d=TWO") && text.contains("b=left out: it says `bad`"), "{text}");
    assert!(text.contains("c=left out: the program crashed on this file"), "{text}");
    let quarantined = w.events.0.lock().unwrap().iter().filter(|e| matches!(e, Event::ItemQuarantined { .. })).count();
    assert_eq!(quarantined, 2);
}

#[test]
fn failing_waiting_crashing_and_forgetful_stages() {
    for (behave, status, words) in [
        ("fail", Status::Failed, "the number is odd; choose an even one"),
        ("panic", Status::Failed, "an invariant broke"),
        ("forget", Status::Failed, "without writing its output `number`"),
        ("wait", Status::Waiting, "a person has to look"),
    ] {
        let mut w = World::new(&[("a", "one")]);
        w.spec.nodes[1].config = json!({ "behave": behave });
        // A stage after the one that stops is blocked; one beside it is done.
        let mut after = node("after", "count", json!({}));
        after.connect = BTreeMap::from([("text".into(), "count.extra".into())]);
        w.spec.nodes.push(after);
        let mut beside = node("beside", "count", json!({ "add": 1 }));
        beside.connect = BTreeMap::from([("text".into(), "shout.text".into())]);
        w.spec.nodes.push(beside);
        let record = w.run();
        assert_eq!(record.status, status, "{behave}");
        assert!(record.stages["count"].detail.contains(words), "{behave}: {}", record.stages["count"].detail);
        assert_eq!(record.stages["after"].status, Status::Blocked);
        assert_eq!(record.stages["beside"].status, Status::Done);
        assert_eq!(record.stages["shout"].status, Status::Done);
    }
}

#[test]
fn passing_faults_are_tried_again_as_often_as_allowed() {
    let mut w = World::new(&[("a", "one")]);
    w.spec.nodes[1].config = json!({ "behave": "flaky" });
    w.spec.nodes[1].retries = 1;
    assert_eq!(w.run().status, Status::Failed);
    w.counts.store(1, Ordering::SeqCst);
    assert_eq!(w.run().status, Status::Done);
}

#[test]
fn a_stage_past_its_time_is_stopped() {
    let mut w = World::new(&[("a", "one")]);
    w.spec.nodes[1].config = json!({ "behave": "hang" });
    w.spec.nodes[1].timeout_s = Some(1);
    let record = w.run();
    assert_eq!(record.status, Status::Failed);
    assert!(record.stages["count"].detail.contains("timeout"), "{}", record.stages["count"].detail);
}

#[test]
fn a_stopped_run_keeps_its_items() {
    let files: Vec<(String, String)> = (0..20).map(|i| (format!("f{i:02}"), format!("slow {i}"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let mut w = World::new(&files);
    let cancel = w.cancel.clone();
    let items = w.items.clone();
    let stopper = std::thread::spawn(move || {
        while items.load(Ordering::SeqCst) < 6 {
            std::thread::sleep(Duration::from_millis(2));
        }
        cancel.cancel();
    });
    let record = w.run();
    stopper.join().unwrap();
    assert_eq!(record.status, Status::Cancelled);
    assert_eq!(record.stages["count"].status, Status::Cancelled);
    assert!(w.items.load(Ordering::SeqCst) < 20);
    w.cancel = CancelToken::new();
    assert_eq!(w.run().status, Status::Done);
    assert_eq!(w.items.load(Ordering::SeqCst), 20, "no item is computed twice");
}

#[test]
fn a_run_stopped_while_its_inputs_are_read_is_cancelled_and_not_failed() {
    let mut w = World::new(&[("a", "one"), ("b/c", "two")]);
    w.cancel.cancel();
    assert!(matches!(w.plan(&Selection::default()), Err(PlanError::Cancelled)));
    assert_eq!(w.run().status, Status::Cancelled);
    w.cancel = CancelToken::new();
    assert_eq!(w.run().status, Status::Done);
}

#[test]
fn selections_take_earlier_results_as_they_are() {
    let mut w = World::new(&[("a", "one")]);
    let from = |n: &str| Selection { from: Some(n.into()), ..Selection::default() };
    assert!(matches!(w.plan(&from("count")), Err(PlanError::NothingGiven { .. })));
    let until = Selection { until: Some("shout".into()), ..Selection::default() };
    let record = w.run_with(until, 2).unwrap().0;
    assert_eq!(record.stages["count"].status, Status::Excluded);
    // The input changed, and `--from count` does not look at it.
    w.write("b", "two");
    w.spec.nodes[0].config = json!({ "mark": "!" });
    let record = w.run_with(from("count"), 2).unwrap().0;
    assert_eq!(record.stages["shout"].status, Status::Reused);
    assert_eq!(w.output(&record, "count", "number", "number"), "6");
    let force = Selection { force: vec!["count".into()], ..from("count") };
    let before = w.counts.load(Ordering::SeqCst);
    w.run_with(force, 2).unwrap();
    assert_eq!(w.counts.load(Ordering::SeqCst), before + 1);
    let unknown = Selection { until: Some("cuont".into()), ..Selection::default() };
    assert!(matches!(w.plan(&unknown), Err(PlanError::Graph(GraphError::UnknownNode { .. }))));
}

#[test]
fn forcing_a_stage_of_items_computes_all_of_them() {
    let w = World::new(&[("a", "one"), ("b", "two")]);
    w.run();
    w.run_with(Selection { force: vec!["shout".into()], ..Selection::default() }, 2).unwrap();
    assert_eq!(w.items.load(Ordering::SeqCst), 4);
    assert_eq!(w.counts.load(Ordering::SeqCst), 1, "the same text came out, so nothing after it ran");
}

#[test]
fn a_damaged_or_missing_result_is_made_again() {
    let w = World::new(&[("a", "one")]);
    let record = w.run();
    let artifact = record.stages["count"].outputs["number"];
    let blob = w.store.manifest(artifact).unwrap().blobs[0].digest;
    std::fs::remove_file(w.store.cas_path(blob)).unwrap();
    let (verdict, reason) = why(&w.plan(&Selection::default()).unwrap(), "count");
    assert_eq!(verdict, Verdict::WillRun);
    assert!(reason.contains("output `number` is gone or damaged"), "{reason}");
    let again = w.run();
    assert_eq!(again.stages["count"].outputs["number"], artifact);
    assert_eq!(w.output(&again, "count", "number", "number"), "6");
}

#[test]
fn stages_run_side_by_side_within_cores_and_memory() {
    let many = |memory: u64| {
        let mut w = World::new(&[("a", "one")]);
        w.spec.nodes.truncate(1);
        for i in 0..3 {
            let config = json!({ "behave": "sleep", "add": i, "memory_bytes": memory });
            let mut n = node(&format!("c{i}"), "count", config);
            n.connect = BTreeMap::from([("text".into(), "shout.text".into())]);
            w.spec.nodes.push(n);
        }
        w
    };
    let most_at_once = |w: &World, cores: usize| {
        w.run_with(Selection::default(), cores).unwrap();
        let (mut now, mut most) = (0i32, 0);
        for e in w.events.0.lock().unwrap().iter() {
            match e {
                Event::StageStarted { stage, .. } if stage != "shout" => now += 1,
                Event::StageFinished { stage, .. } if stage != "shout" => now -= 1,
                _ => {}
            }
            most = most.max(now);
        }
        most
    };
    assert_eq!(most_at_once(&many(10), 3), 3);
    assert_eq!(most_at_once(&many(10), 1), 1);
    // 600 of 1000 bytes each: one at a time.
    assert_eq!(most_at_once(&many(600), 3), 1);
}

#[test]
fn kinds_are_checked_on_every_edge() {
    let mut w = World::new(&[("a", "one")]);
    w.spec.nodes[1].connect = BTreeMap::from([("text".into(), "inputs.images".into())]);
    let e = w.graph().map(|_| ()).unwrap_err().to_string();
    assert_eq!(e, "stage `count`, input `text`: it reads text, and inputs.images is files");
    w.spec.nodes[1].connect = BTreeMap::from([("text".into(), "shout.txet".into())]);
    assert!(matches!(w.graph(), Err(GraphError::UnknownSource { .. })));
    w.spec.nodes[1].connect = BTreeMap::from([("txet".into(), "shout.text".into())]);
    assert!(matches!(w.graph(), Err(GraphError::UnknownPort { .. })));
    w.spec.nodes[1].connect.clear();
    let graph = w.graph().unwrap();
    assert_eq!(graph.nodes[1].edges["text"], Edge::Output { node: "shout".into(), port: "text".into() });
    w.spec.nodes.swap(0, 1);
    assert!(matches!(w.graph(), Err(GraphError::Unconnected { .. })));
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_the_fix() {
    let mut w = World::new(&[("a", "one")]);
    w.spec.nodes[1].config = json!({ "behave": "gpu" });
    let e = w.run_with(Selection::default(), 2).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("needs a GPU"), "{e}");
}

/// An executor that gives one kind of GPU and is never asked to execute anything.
struct Far(Option<Card>);

impl Executor for Far {
    fn name(&self) -> &'static str {
        "far"
    }
    fn is_local(&self) -> bool {
        false
    }
    fn lacks(&self, needs: &Needs) -> Option<String> {
        let fits = !needs.gpu || self.0.is_some_and(|card| card.covers(&needs.card));
        (!fits).then(|| "it gives no such GPU".to_owned())
    }
    fn gives(&self) -> String {
        self.0.map_or_else(|| "no GPU".into(), |card| format!("1 GPU{card}"))
    }
    fn execute(&self, _: &Job) -> Result<Outcome, StageError> {
        Err(StageError::message("it was executed"))
    }
}

#[test]
fn a_stage_goes_where_it_fits_and_falls_back_with_the_reason() {
    const GIB: u64 = 1 << 30;
    let mut w = World::new(&[("a", "one")]);
    let large = Card { memory_bytes: 40 * GIB, compute: (8, 0) };
    let executors = |card: Option<Card>| {
        let mut all = here();
        all.insert("far".into(), Arc::new(Far(card)));
        all
    };
    let gpu = |memory_bytes, compute| Gpu { name: "card".into(), memory_bytes, compute };
    let bare = Machine { cores: 2, memory_bytes: GIB, gpus: vec![] };
    let rich = Machine { gpus: vec![gpu(16 * GIB, (7, 5))], ..bare.clone() };
    // What is asked for, where, with or without `--require`.
    let at = |w: &World, executors: &Executors, machine: &Machine, require| {
        let graph = w.graph().unwrap();
        place(graph.node("count").unwrap(), Places { executors, machine, require })
            .map(|p| (p.executor, p.fell_back, p.why))
            .map_err(|e| engine::run::chain(&e))
    };
    let is_at = |placed: Result<(String, bool, String), String>, executor: &str, fell_back, words: &[&str]| {
        let (name, fell, why) = placed.unwrap();
        assert_eq!((name.as_str(), fell), (executor, fell_back), "{why}");
        words.iter().for_each(|w| assert!(why.contains(w), "{w}: {why}"));
    };
    is_at(at(&w, &here(), &bare, true), "local", false, &[]);
    w.spec.nodes[1].gpu = true;
    is_at(at(&w, &here(), &rich, true), "local", false, &[]);
    is_at(at(&w, &executors(Some(Card::default())), &bare, true), "far", false, &["needs a GPU", "none was proven"]);
    is_at(at(&w, &here(), &bare, false), "local", true, &["needs a GPU", "no other executor", "runs here without"]);
    is_at(at(&w, &executors(None), &bare, false), "local", true, &["`far` (no GPU)"]);
    let e = at(&w, &executors(None), &bare, true).unwrap_err();
    assert!(["needs a GPU", "`far` (no GPU)", "take `gpu:` off"].iter().all(|w| e.contains(w)), "{e}");
    w.spec.nodes[1].card = Card { memory_bytes: 24 * GIB, compute: (8, 0) };
    is_at(at(&w, &executors(Some(large)), &rich, false), "far", false, &["24.0 GiB", "8.0", "card with 16.0 GiB"]);
    is_at(at(&w, &executors(Some(Card::default())), &rich, false), "local", true, &["`far` (1 GPU)"]);
    w.spec.nodes[1].executor = Some("local".into());
    is_at(at(&w, &executors(Some(large)), &bare, false), "local", true, &["`executor: local`"]);
    w.spec.nodes[1].executor = Some("far".into());
    is_at(at(&w, &executors(Some(large)), &rich, true), "far", false, &["its settings say so"]);
    assert!(at(&w, &executors(None), &rich, false).unwrap_err().contains("`far` does not fit"));
    // Memory counts as well.
    w.spec.nodes[1] = NodeSpec { gpu: false, ..node("count", "count", json!({ "memory_bytes": 2 * GIB })) };
    is_at(at(&w, &executors(None), &bare, false), "far", false, &["2.0 GiB of memory", "1.0 GiB"]);
    is_at(at(&w, &here(), &bare, false), "local", true, &["2.0 GiB of memory"]);

    // It is told before anything runs, in the plan and by the run; and a run that may fall back says so.
    w.spec.nodes[1] = NodeSpec { gpu: true, ..node("count", "count", json!({})) };
    w.require = true;
    let e = w.run_with(Selection::default(), 2).map(|_| ()).unwrap_err();
    assert!(matches!(&e, PlanError::NoPlace { node, .. } if node == "count"), "{e}");
    assert!(!w.runs().join("latest").exists());
    let p = w.plan(&Selection::default()).unwrap();
    assert_eq!(p.stages[1].executor, "");
    w.require = false;
    let record = w.run();
    assert_eq!(record.status, Status::Done);
    let count = &record.stages["count"];
    assert!(count.placement.contains("none was proven"), "{}", count.placement);
    assert!(count.notes.messages.iter().any(|(level, text)| *level == Level::Warn && *text == count.placement));
    let kept = StageResult::load(&w.store, count.key.unwrap()).unwrap();
    assert_eq!(kept.placement, count.placement);
    // What is there already needs no place.
    w.require = true;
    let record = w.run();
    assert_eq!(record.stages["count"].status, Status::Cached);
    assert_eq!(record.stages["count"].placement, kept.placement);
}

#[test]
fn an_error_stops_what_runs_beside_it_and_the_record_is_whole() {
    let mut w = World::new(&[("a", "one")]);
    w.spec.nodes[1].config = json!({ "behave": "hang" });
    let connect = BTreeMap::from([("text".into(), "shout.text".into())]);
    w.spec.nodes.push(NodeSpec { connect, ..node("needy", "count", json!({ "behave": "gpu" })) });
    w.run_with(Selection::default(), 3).map(|_| ()).unwrap_err();
    let record = RunRecord::load(&w.runs().join("latest")).unwrap();
    let of = |name: &str| (record.stages[name].status, record.stages[name].detail.contains("needs a GPU"));
    assert_eq!((of("count"), of("needy")), ((Status::Cancelled, false), (Status::Failed, true)));
    assert_eq!(record.status, Status::Failed);
}

#[test]
fn a_result_that_cannot_be_kept_is_no_result() {
    let w = World::new(&[("a", "one")]);
    let keys = w.store.root().join("keys");
    std::fs::create_dir_all(w.store.root()).unwrap();
    std::fs::write(&keys, "in the way").unwrap();
    w.run_with(Selection::default(), 2).map(|_| ()).unwrap_err();
    let record = RunRecord::load(&w.runs().join("latest")).unwrap();
    assert_eq!((record.status, record.stages["shout"].status), (Status::Failed, Status::Failed));
    assert!(record.stages["shout"].detail.contains("keys"), "{}", record.stages["shout"].detail);
}

#[test]
fn stages_with_the_same_settings_share_their_log_of_items_in_turn() {
    let mut w = World::new(&[("a/1", "slow one"), ("a/2", "slow two"), ("b/3", "slow three"), ("b/4", "slow 4")]);
    w.spec.nodes.clear();
    w.spec.inputs = ["a", "b"]
        .map(|n| InputSpec { name: n.into(), path: w.dir.path().join("in").join(n), ..w.spec.inputs[0].clone() })
        .into();
    for n in ["a", "b"] {
        let connect = BTreeMap::from([("images".into(), format!("inputs.{n}"))]);
        w.spec.nodes.push(NodeSpec { connect, ..node(&format!("shout_{n}"), "shout", json!({})) });
    }
    let record = w.run();
    assert_eq!(w.output(&record, "shout_a", "text", "text"), "1=slow one\n2=slow two\n");
    assert_eq!(w.output(&record, "shout_b", "text", "text"), "3=slow three\n4=slow 4\n");
}

#[test]
fn a_timeout_without_end_is_none() {
    let mut w = World::new(&[("a", "one")]);
    w.spec.nodes[1].timeout_s = Some(u64::MAX);
    assert_eq!(w.run().status, Status::Done);
}

#[test]
fn names_that_lead_out_of_a_folder_are_refused() {
    let mut w = World::new(&[("a", "one")]);
    for name in ["../count", "", ".store", "a/b"] {
        w.spec.nodes[1].name = name.into();
        assert!(matches!(w.graph(), Err(GraphError::BadName(n)) if n == name));
    }
}

#[test]
fn an_empty_input_is_an_error_and_no_run_pretends() {
    let w = World::new(&[]);
    std::fs::create_dir_all(w.dir.path().join("in")).unwrap();
    assert!(matches!(w.plan(&Selection::default()), Err(PlanError::Source(_))));
    assert!(!Path::new(&w.runs().join("latest/shout")).exists());
}

#[test]
fn every_stage_leaves_a_log() {
    let mut w = World::new(&[("a.txt", "bad"), ("b.txt", "good")]);
    w.spec.nodes[1].config = json!({ "behave": "fail" });
    let (_, dir) = w.run_with(Selection::default(), 2).unwrap();
    let log = |name: &str| std::fs::read_to_string(dir.join("logs").join(name)).unwrap();
    let shout = log("shout.log");
    assert!(shout.contains("info  started, because it has not run yet"), "{shout}");
    assert!(shout.contains("warn  left out `a.txt`: it says `bad`"), "{shout}");
    assert!(shout.lines().all(|l| l.starts_with("20") && l.contains("Z ")), "{shout}");
    assert!(log("count.log").contains("error failed after"), "{}", log("count.log"));
    let (_, dir) = w.run_with(Selection::default(), 2).unwrap();
    let again = std::fs::read_to_string(dir.join("logs/shout.log")).unwrap();
    assert!(again.contains("nothing to do: the result of run"), "{again}");
}

#[test]
fn all_missing_inputs_are_named_and_the_record_says_it() {
    let mut w = World::new(&[]);
    let again = InputSpec { name: "more".into(), path: w.dir.path().join("nowhere"), ..w.spec.inputs[0].clone() };
    w.spec.inputs.push(again);
    w.spec.nodes.push(node("second", "shout", json!({})));
    w.spec.nodes[2].connect.insert("images".into(), "inputs.more".into());
    let e = w.run_with(Selection::default(), 2).unwrap_err().to_string();
    assert!(e.contains("`images`") && e.contains("`more`") && e.contains("nowhere"), "{e}");
    let record = RunRecord::load(&w.runs().join("latest")).unwrap();
    assert_eq!((record.status, &record.detail), (Status::Failed, &e));
}

#[test]
fn work_beside_the_pipeline_leaves_latest_alone() {
    let mut w = World::new(&[("a.txt", "one")]);
    let first = w.run();
    w.one_off = true;
    assert_ne!(w.run().id, first.id);
    assert_eq!(RunRecord::load(&w.runs().join("latest")).unwrap().id, first.id);
}

#[test]
fn before_the_first_run_every_stage_is_sure_to_run() {
    let w = World::new(&[("a.txt", "one")]);
    let p = w.plan(&Selection::default()).unwrap();
    assert_eq!(why(&p, "count"), (Verdict::WillRun, "it has not run yet".into()));
}
