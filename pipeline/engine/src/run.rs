//! Runs a graph: brings the selected stages up to date, side by side where the graph and the machine allow, and keeps
//! a record that is true at every instant.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::{
    cancel::CancelToken,
    context::{Context, Notes, Place},
    digest::Digest,
    event::{Event, EventSink, Level},
    executor::{Executors, Job, LOCAL, Placement, Places, place},
    graph::{Graph, Node},
    itemlog::{ItemLog, panic_text},
    log::Log,
    machine::Machine,
    plan::{
        Judgement, PlanError, Role, Selection, all_have_places, given, item_source, judge, node_inputs, plan, roles,
        scan_inputs,
    },
    record::{InputRecord, RunRecord, StageRecord, Status, new_run_dir, now},
    result::{Reason, StageResult, UnhashedKey},
    stage::{Outcome, StageError},
    store::{Store, StoreError},
    view,
};

/// Wait before the first retry; doubled for each further one.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Files left out of an input that a record lists; more are only counted.
const LEFT_OUT_LISTED: usize = 100;

/// What to run, and where.
pub struct RunRequest<'a> {
    /// The folder of runs.
    pub runs: &'a Path,
    /// The store.
    pub store: &'a Store,
    /// The checked graph.
    pub graph: &'a Graph,
    /// Which stages.
    pub selection: Selection,
    /// Places to run; `local` must be among them.
    pub executors: &'a Executors,
    /// Cores that stages on this machine may use together.
    pub cores: usize,
    /// The machine, for memory and for the record.
    pub machine: Machine,
    /// Version of the program, for records.
    pub program: String,
    /// Who shows progress.
    pub sink: Arc<dyn EventSink>,
    /// Stops the run.
    pub cancel: CancelToken,
    /// See [`Places::require`]; nothing is begun when one stage has no place.
    pub require: bool,
    /// True for work beside the project's pipeline: it is recorded, and `latest` stays where it is, if it is there.
    pub one_off: bool,
}

impl RunRequest<'_> {
    fn places(&self) -> Places<'_> {
        Places { executors: self.executors, machine: &self.machine, require: self.require }
    }
}

/// A finished execution on its way back to the scheduler.
struct Finished {
    name: String,
    result: Result<Outcome, StageError>,
    outputs: BTreeMap<String, Digest>,
    notes: Notes,
    seconds: f64,
}

struct Running {
    cores: usize,
    memory: u64,
}

struct Scheduler<'a> {
    req: &'a RunRequest<'a>,
    sink: Arc<dyn EventSink>,
    record: RunRecord,
    dir: PathBuf,
    roles: BTreeMap<String, Role>,
    outputs: BTreeMap<String, BTreeMap<String, Digest>>,
    running: BTreeMap<String, Running>,
    unhashed: BTreeMap<String, UnhashedKey>,
    /// Set when the run was asked to stop, or cannot go on.
    stop: CancelToken,
}

/// Runs the graph. The record says how it went; an error means that nothing could be started.
pub fn run(req: &RunRequest<'_>) -> Result<(RunRecord, PathBuf), PlanError> {
    let started = Instant::now();
    if req.require {
        let plan = plan(req.store, req.graph, &req.selection, req.places(), &req.cancel, req.sink.as_ref())?;
        all_have_places(&plan)?;
    }
    let roles = roles(req.graph, &req.selection)?;
    let (id, dir) = new_run_dir(req.runs)?;
    let sink: Arc<dyn EventSink> = Arc::new(Log::create(&dir, req.sink.clone())?);
    let order: Vec<String> = req.graph.nodes.iter().map(|n| n.spec.name.clone()).collect();
    let stages = req.graph.nodes.iter().map(|n| (n.spec.name.clone(), pending(n, roles[&n.spec.name]))).collect();
    let record = RunRecord {
        format: 1,
        id: id.clone(),
        status: Status::Running,
        detail: String::new(),
        program: req.program.clone(),
        pid: std::process::id(),
        started_at: now(),
        finished_at: None,
        selection: serde_json::to_value(&req.selection).expect("plain data serialises"),
        machine: req.machine.clone(),
        inputs: BTreeMap::new(),
        order: order.clone(),
        stages,
    };
    let mut scheduler = Scheduler {
        req,
        sink: sink.clone(),
        record,
        dir,
        roles,
        outputs: BTreeMap::new(),
        running: BTreeMap::new(),
        unhashed: BTreeMap::new(),
        stop: req.cancel.child(),
    };
    scheduler.record.save(req.store, &scheduler.dir)?;
    if !req.one_off || !req.runs.join("latest").exists() {
        view::link_into(req.runs, "latest", &scheduler.dir)?;
    }
    sink.emit(&Event::RunStarted { run: id.clone(), stages: order });
    let ended = scheduler.all();
    let Scheduler { mut record, dir, .. } = scheduler;
    record.finished_at = Some(now());
    record.status = match &ended {
        Err(PlanError::Cancelled) => Status::Cancelled,
        Err(_) => Status::Failed,
        Ok(()) => overall(&record),
    };
    if let Err(e) = &ended
        && !matches!(e, PlanError::Cancelled)
    {
        record.detail = e.words();
    }
    record.save(req.store, &dir)?;
    let seconds = started.elapsed().as_secs_f64();
    sink.emit(&Event::RunFinished { run: id, status: record.status.word().into(), seconds });
    match ended {
        Ok(()) | Err(PlanError::Cancelled) => Ok((record, dir)),
        Err(e) => Err(e),
    }
}

fn pending(node: &Node, role: Role) -> StageRecord {
    StageRecord {
        status: if role == Role::Excluded { Status::Excluded } else { Status::Pending },
        uses: node.spec.uses.clone(),
        version: node.descriptor.version,
        config: node.config.clone(),
        key: None,
        item_log: None,
        reasons: Vec::new(),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        notes: Notes::default(),
        from_run: None,
        executor: node.spec.executor.clone().unwrap_or_else(|| LOCAL.into()),
        placement: String::new(),
        seconds: 0.0,
        detail: String::new(),
    }
}

/// The worst of the stages decides.
fn overall(record: &RunRecord) -> Status {
    let any = |s: Status| record.stages.values().any(|r| r.status == s);
    [Status::Cancelled, Status::Failed, Status::Waiting].into_iter().find(|s| any(*s)).unwrap_or(Status::Done)
}

impl Scheduler<'_> {
    fn all(&mut self) -> Result<(), PlanError> {
        let req = self.req;
        let scans = scan_inputs(req.store, req.graph, &self.roles, &req.cancel, self.sink.as_ref())?;
        for (name, scan) in &scans {
            let input = InputRecord {
                path: req.graph.inputs[name].path.clone(),
                artifact: scan.artifact,
                files: scan.files,
                left_out: scan.left_out.iter().take(LEFT_OUT_LISTED).cloned().collect(),
            };
            self.record.inputs.insert(name.clone(), input);
            if let Some((file, reason)) = scan.left_out.first() {
                let text =
                    format!("inputs.{name}: {} file(s) left out, such as `{file}`: {reason}", scan.left_out.len());
                self.sink.emit(&Event::Message { stage: None, level: Level::Warn, text });
            }
        }
        for (name, role) in self.roles.clone() {
            if role == Role::Given {
                let result = given(req.store, &name)?;
                self.settle(&name, Status::Reused, &result)?;
            }
        }
        let (send, receive) = mpsc::channel::<Finished>();
        std::thread::scope(|scope| {
            let ended = self.stages(&scans, scope, &send, &receive);
            if let Err(e) = &ended {
                // What still runs is stopped and waited for, so that the record says how each stage ended.
                self.stop.cancel();
                while !self.running.is_empty() {
                    let finished = receive.recv().expect("every started stage reports back");
                    // The first error is the one that is told.
                    let _ = self.finish(finished);
                }
                self.fail(e);
            }
            ended
        })?;
        if self.req.cancel.is_cancelled() { Err(PlanError::Cancelled) } else { Ok(()) }
    }

    /// Starts what can start and takes in what ends, until nothing is left to do.
    fn stages<'s, 'e>(
        &mut self,
        scans: &crate::plan::Scans,
        scope: &'s std::thread::Scope<'s, 'e>,
        send: &mpsc::Sender<Finished>,
        receive: &mpsc::Receiver<Finished>,
    ) -> Result<(), PlanError> {
        loop {
            let mut progress = false;
            for node in &self.req.graph.nodes {
                progress |= self.consider(node, scans, scope, send)?;
            }
            if !self.running.is_empty() {
                let finished = receive.recv().expect("every started stage reports back");
                self.finish(finished)?;
            } else if !progress {
                return Ok(());
            }
        }
    }

    /// Notes an error that ends the run at the stages that it is about.
    fn fail(&mut self, e: &PlanError) {
        for (name, record) in &mut self.record.stages {
            let detail = match e {
                PlanError::Stage { node, source } if node == name => chain(source),
                // It ended, and what it made could not be kept.
                _ if record.status == Status::Running => with_causes(e),
                _ => continue,
            };
            record.status = Status::Failed;
            record.detail = detail;
        }
    }

    fn status(&self, name: &str) -> Status {
        self.record.stages[name].status
    }

    fn stage(&mut self, name: &str) -> &mut StageRecord {
        self.record.stages.get_mut(name).expect("every node has a record")
    }

    fn save(&self) -> Result<(), StoreError> {
        self.record.save(self.req.store, &self.dir)
    }

    /// Takes over a result that exists.
    fn settle(&mut self, name: &str, status: Status, result: &StageResult) -> Result<(), PlanError> {
        let record = self.stage(name);
        record.status = status;
        record.key = Some(result.key);
        record.inputs.clone_from(&result.unhashed.inputs);
        record.outputs.clone_from(&result.outputs);
        record.notes = result.notes.clone();
        record.from_run = Some(result.run.clone());
        record.seconds = result.seconds;
        record.executor.clone_from(&result.executor);
        record.placement.clone_from(&result.placement);
        self.outputs.insert(name.to_owned(), result.outputs.clone());
        self.link(name, &result.outputs)?;
        if status == Status::Cached {
            result.save_latest(self.req.store, name)?;
        }
        self.sink.emit(&Event::StageCached { stage: name.to_owned(), from_run: result.run.clone() });
        Ok(())
    }

    /// Makes a stage's outputs visible as plain files below the run's folder.
    fn link(&self, name: &str, outputs: &BTreeMap<String, Digest>) -> Result<(), PlanError> {
        for (port, artifact) in outputs {
            let files = view::materialise(self.req.store, *artifact, view::InputFiles::List)?;
            view::link_into(&self.dir.join(name), port, &files)?;
        }
        Ok(())
    }

    /// Moves a pending node on if it can be; true when its status changed.
    fn consider<'s, 'e>(
        &mut self,
        node: &Node,
        scans: &crate::plan::Scans,
        scope: &'s std::thread::Scope<'s, 'e>,
        send: &mpsc::Sender<Finished>,
    ) -> Result<bool, PlanError> {
        let name = &node.spec.name;
        if self.status(name) != Status::Pending {
            return Ok(false);
        }
        if self.req.cancel.is_cancelled() {
            self.stage(name).status = Status::Cancelled;
            return Ok(true);
        }
        for upstream in node.upstream() {
            match self.status(upstream) {
                Status::Pending | Status::Running => return Ok(false),
                s if s.has_outputs() => {}
                s => {
                    let detail = format!("`{upstream}` is {}", s.word());
                    let record = self.stage(name);
                    record.status = if s == Status::Cancelled { s } else { Status::Blocked };
                    record.detail.clone_from(&detail);
                    let status = record.status.word().to_owned();
                    self.sink.emit(&Event::StageFinished { stage: name.clone(), status, seconds: 0.0, detail });
                    return Ok(true);
                }
            }
        }
        let force = self.req.selection.force.contains(name);
        let inputs = node_inputs(node, scans, &self.outputs).expect("all upstream stages have outputs");
        match judge(self.req.store, node, inputs, force)? {
            Judgement::Cached(result) => {
                self.settle(name, Status::Cached, &result)?;
                Ok(true)
            }
            Judgement::Run { unhashed, reasons } => self.start(node, unhashed, &reasons, scope, send),
        }
    }

    /// Starts a node if the machine has room for it.
    fn start<'s, 'e>(
        &mut self,
        node: &Node,
        unhashed: UnhashedKey,
        reasons: &[Reason],
        scope: &'s std::thread::Scope<'s, 'e>,
        send: &mpsc::Sender<Finished>,
    ) -> Result<bool, PlanError> {
        let req = self.req;
        let name = &node.spec.name;
        let (key, items) = (unhashed.key(), unhashed.item_base(&node.descriptor));
        let shares = |other: &StageRecord| other.key == Some(key) || (items.is_some() && other.item_log == items);
        if self.running.keys().any(|other| shares(&self.record.stages[other])) {
            // One at a time writes a log of items or a folder of checkpoints.
            return Ok(false);
        }
        let wrong = |source| PlanError::Stage { node: name.clone(), source };
        let Placement { executor: executor_name, why, fell_back, needs } = place(node, req.places()).map_err(wrong)?;
        let executor = req.executors[&executor_name].clone();
        let mut take = Running { cores: 0, memory: 0 };
        if executor.is_local() {
            let used: usize = self.running.values().map(|r| r.cores).sum();
            let memory: u64 = self.running.values().map(|r| r.memory).sum();
            let free = req.cores.saturating_sub(used);
            let fits = memory + needs.memory_bytes <= req.machine.memory_bytes;
            if !self.running.is_empty() && (free == 0 || !fits) {
                return Ok(false);
            }
            let wanted = if needs.cores == 0 { req.cores } else { needs.cores };
            take = Running { cores: wanted.min(free.max(1)), memory: needs.memory_bytes };
        }
        let scratch = req.store.root().join("scratch").join(key.to_string());
        if req.selection.force.contains(name) {
            // Forced means from the start: neither items nor a checkpoint of an interrupted run are gone on from.
            if let Some(base) = items {
                ItemLog::remove(&ItemLog::path(req.store, base))?;
            }
            if scratch.exists() {
                fs::remove_dir_all(&scratch).map_err(StoreError::io("removing", &scratch, 0))?;
            }
        }
        let ctx = Context::new(Place {
            node: name.clone(),
            store: req.store.clone(),
            inputs: unhashed.inputs.clone(),
            sink: self.sink.clone(),
            cancel: self.stop.child(),
            threads: take.cores.max(1),
            scratch,
            items: item_source(req.store, node, &unhashed)?,
        });
        for note in &node.notes {
            ctx.message(Level::Info, note.clone());
        }
        if !executor.is_local() {
            ctx.message(Level::Info, format!("it runs on `{executor_name}`: {why}"));
        } else if fell_back {
            ctx.message(Level::Warn, why.clone());
        }
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        self.sink.emit(&Event::StageStarted {
            stage: name.clone(),
            reasons: reasons.clone(),
            executor: executor_name.clone(),
            threads: ctx.threads(),
        });
        let job = Job { stage: node.stage.clone(), config: node.config.clone(), unhashed: unhashed.clone(), ctx };
        let record = self.stage(name);
        record.status = Status::Running;
        record.executor = executor_name;
        record.placement = why;
        record.key = Some(key);
        record.item_log = job.ctx.item_source().map(|i| i.base);
        record.inputs.clone_from(&unhashed.inputs);
        record.reasons = reasons;
        self.save()?;
        self.running.insert(name.clone(), take);
        self.unhashed.insert(name.clone(), unhashed);
        let (retries, timeout_s, send) = (node.spec.retries, node.spec.timeout_s, send.clone());
        scope.spawn(move || {
            let started = Instant::now();
            let result = execute(executor.as_ref(), &job, retries, timeout_s);
            let name = job.ctx.stage().to_owned();
            let (outputs, notes) = job.ctx.into_results();
            let finished = Finished { name, result, outputs, notes, seconds: started.elapsed().as_secs_f64() };
            // The scheduler waits for every stage it started, so it is there to receive.
            let _ = send.send(finished);
        });
        Ok(true)
    }

    fn finish(&mut self, f: Finished) -> Result<(), PlanError> {
        self.running.remove(&f.name);
        let unhashed = self.unhashed.remove(&f.name).expect("a started stage has a key");
        let node = self.req.graph.node(&f.name)?;
        let missing = node.descriptor.outputs.iter().find(|p| !p.optional && !f.outputs.contains_key(&p.name));
        let result = match (f.result, missing) {
            (Ok(Outcome::Done), Some(port)) => {
                Err(StageError::message(format!("it ended without writing its output `{}` (a bug)", port.name)))
            }
            (result, _) => result,
        };
        let run = self.record.id.clone();
        let record = self.stage(&f.name);
        record.seconds = f.seconds;
        record.outputs.clone_from(&f.outputs);
        record.notes = f.notes.clone();
        record.from_run = Some(run.clone());
        match result {
            Ok(Outcome::Done) => {
                let result = StageResult {
                    key: unhashed.key(),
                    unhashed,
                    outputs: f.outputs.clone(),
                    notes: f.notes,
                    run,
                    seconds: f.seconds,
                    executor: record.executor.clone(),
                    placement: record.placement.clone(),
                    program: self.req.program.clone(),
                    imported: false,
                };
                result.save(self.req.store)?;
                result.save_latest(self.req.store, &f.name)?;
                let scratch = self.req.store.root().join("scratch").join(result.key.to_string());
                if scratch.exists() {
                    fs::remove_dir_all(&scratch).map_err(StoreError::io("removing", &scratch, 0))?;
                }
                self.outputs.insert(f.name.clone(), f.outputs.clone());
                self.link(&f.name, &f.outputs)?;
                // Only now: a result that could not be kept is none.
                self.stage(&f.name).status = Status::Done;
            }
            Ok(Outcome::Waiting { reason }) => {
                record.status = Status::Waiting;
                record.detail = reason;
                self.link(&f.name, &f.outputs)?;
            }
            Err(StageError::Cancelled) => record.status = Status::Cancelled,
            Err(e) => {
                record.status = Status::Failed;
                record.detail = chain(&e);
            }
        }
        let record = &self.record.stages[&f.name];
        self.sink.emit(&Event::StageFinished {
            stage: f.name.clone(),
            status: record.status.word().into(),
            seconds: f.seconds,
            detail: record.detail.clone(),
        });
        self.save()?;
        Ok(())
    }
}

/// An error with its causes and, where there is one, the fix.
pub fn chain(e: &StageError) -> String {
    let mut text = with_causes(e);
    if let StageError::Input { help, .. } = e
        && !help.is_empty()
    {
        text.push_str("; ");
        text.push_str(help);
    }
    text
}

/// An error and its causes, none of them twice.
pub fn with_causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Executes a job: again after passing faults, stopped when its time is up.
fn execute(
    executor: &dyn crate::executor::Executor,
    job: &Job,
    retries: u32,
    timeout_s: Option<u64>,
) -> Result<Outcome, StageError> {
    let timed_out = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicBool::new(false));
    // A time that no clock can count to is no limit.
    if let Some(end) = timeout_s.and_then(|s| Instant::now().checked_add(Duration::from_secs(s))) {
        let (cancel, timed_out, done) = (job.ctx.cancel().clone(), timed_out.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                if Instant::now() >= end {
                    timed_out.store(true, Ordering::SeqCst);
                    return cancel.cancel();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }
    let mut attempt = 0;
    let result = loop {
        let result = catch_unwind(AssertUnwindSafe(|| executor.execute(job))).unwrap_or_else(|panic| {
            Err(StageError::message(format!("the program crashed (a bug, please report it): {}", panic_text(&*panic))))
        });
        match result {
            Err(e @ StageError::Transient { .. }) if attempt < retries => {
                attempt += 1;
                job.ctx.retried(attempt, chain(&e));
                let end = Instant::now() + RETRY_WAIT * 2u32.saturating_pow(attempt - 1);
                while Instant::now() < end && !job.ctx.cancel().is_cancelled() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            other => break other,
        }
    };
    done.store(true, Ordering::SeqCst);
    match result {
        Err(StageError::Cancelled) if timed_out.load(Ordering::SeqCst) => Err(StageError::message(format!(
            "it took longer than its timeout of {} s; raise `timeout_s` of this stage and run again, finished items and checkpoints are kept",
            timeout_s.unwrap_or_default()
        ))),
        other => other,
    }
}
