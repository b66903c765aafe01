//! The plan: for each stage, cached or will run, and because of what.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    cancel::CancelToken,
    context::ItemSource,
    digest::Digest,
    event::EventSink,
    executor::{Placement, Places, place},
    graph::{Edge, Graph, GraphError, Node},
    result::{Reason, StageResult, UnhashedKey, differences, manifest_change},
    run::{chain, with_causes},
    sources::{Scan, SourceError, all_there, scan},
    stage::StageError,
    store::{Store, StoreError},
};

/// Which stages a command is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// This stage and what it reads from.
    pub until: Option<String>,
    /// This stage and what reads from it; earlier results are taken as they are.
    pub from: Option<String>,
    /// This stage alone; earlier results are taken as they are.
    pub only: Option<String>,
    /// Stages to run even when cached.
    pub force: Vec<String>,
}

/// What a selection makes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is brought up to date.
    Selected,
    /// Its newest result is taken as it is.
    Given,
    /// Nothing selected needs it.
    Excluded,
}

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum PlanError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("stage `{node}`: {source}")]
    Stage { node: String, source: StageError },
    #[error(
        "stage `{node}` has no result to start from; run `pipeline run --until {node}` first, or import its result"
    )]
    NothingGiven { node: String },
    #[error("--until {until} and --from {from} leave no stage to run: `{until}` does not come after `{from}`")]
    EmptySelection { until: String, from: String },
    #[error("stage `{node}` has no place to run: {why}")]
    NoPlace { node: String, why: String },
    #[error("stopped on request")]
    Cancelled,
}

impl PlanError {
    /// The error with its causes and, where there is one, the fix.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Stage { node, source } => format!("stage `{node}`: {}", chain(source)),
            e => with_causes(e),
        }
    }
}

/// What will happen to a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its result is there.
    Cached,
    /// It will run.
    WillRun,
    /// A stage before it will run; it runs too unless that gives the same result as before.
    MayRun,
    /// Its newest result is taken as it is.
    Given,
    /// It is not part of this run.
    Excluded,
}

/// Items of a stage: how many there are and how many must be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ItemCount {
    /// All items.
    pub all: usize,
    /// Those without a result.
    pub todo: usize,
}

/// The plan for one stage.
#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    /// Name in the graph.
    pub name: String,
    /// Name of the stage.
    pub uses: String,
    /// What will happen.
    pub verdict: Verdict,
    /// Because of what.
    pub reasons: Vec<Reason>,
    /// The reasons in words.
    pub why: Vec<String>,
    /// What `auto` was settled to.
    pub notes: Vec<String>,
    /// Key, when all inputs are known.
    pub key: Option<Digest>,
    /// Items, for a stage of items whose inputs are known.
    pub items: Option<ItemCount>,
    /// Where it runs.
    pub executor: String,
    /// Why there, when something had to be decided; or why it cannot run.
    pub placement: String,
    /// What has to be where it runs, when that is another machine.
    pub travels: Option<Travels>,
}

/// Inputs of a stage that has to run elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Travels {
    /// Bytes of the inputs that are known; what is there already is not sent again.
    pub bytes: u64,
    /// Stages whose results come on top and are not known yet.
    pub and_results_of: Vec<String>,
}

/// One input, as found.
#[derive(Clone, Debug, Serialize)]
pub struct InputPlan {
    /// Name.
    pub name: String,
    /// Path as configured.
    pub path: std::path::PathBuf,
    /// Files found.
    pub files: u64,
    /// Files left out, with reasons.
    pub left_out: Vec<(String, String)>,
}

/// The plan of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Inputs by name.
    pub inputs: Vec<InputPlan>,
    /// Stages in the order of the graph.
    pub stages: Vec<StagePlan>,
}

/// What is decided about a node whose inputs are known.
pub(crate) enum Judgement {
    Cached(Box<StageResult>),
    Run { unhashed: UnhashedKey, reasons: Vec<Reason> },
}

/// The inputs of a graph, scanned.
pub(crate) type Scans = BTreeMap<String, Scan>;

pub(crate) fn roles(graph: &Graph, selection: &Selection) -> Result<BTreeMap<String, Role>, PlanError> {
    for name in &selection.force {
        graph.node(name)?;
    }
    let all: BTreeSet<String> = graph.nodes.iter().map(|n| n.spec.name.clone()).collect();
    let mut selected = match &selection.until {
        Some(until) => graph.before(until)?.into_iter().collect(),
        None => all.clone(),
    };
    if let Some(from) = &selection.from {
        let after: BTreeSet<String> = graph.descendants(from)?.into_iter().collect();
        selected = selected.intersection(&after).cloned().collect();
        if selected.is_empty() {
            let until = selection.until.clone().unwrap_or_default();
            return Err(PlanError::EmptySelection { until, from: from.clone() });
        }
    }
    if let Some(only) = &selection.only {
        selected = [graph.node(only)?.spec.name.clone()].into();
    }
    let mut given: BTreeSet<String> = BTreeSet::new();
    for name in &selected {
        given.extend(graph.node(name)?.upstream().into_iter().map(str::to_owned));
    }
    Ok(all
        .into_iter()
        .map(|name| {
            let role = if selected.contains(&name) {
                Role::Selected
            } else if given.contains(&name) {
                Role::Given
            } else {
                Role::Excluded
            };
            (name, role)
        })
        .collect())
}

/// Scans the inputs that selected nodes read.
pub(crate) fn scan_inputs(
    store: &Store,
    graph: &Graph,
    roles: &BTreeMap<String, Role>,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<Scans, PlanError> {
    let selected = graph.nodes.iter().filter(|n| roles[&n.spec.name] == Role::Selected);
    let edges: BTreeSet<&Edge> = selected.flat_map(|n| n.edges.values()).collect();
    all_there(graph.inputs.values().filter(|i| edges.contains(&Edge::Input(i.name.clone()))))?;
    let mut scans = Scans::new();
    for node in graph.nodes.iter().filter(|n| roles[&n.spec.name] == Role::Selected) {
        for edge in node.edges.values() {
            if let Edge::Input(name) = edge
                && !scans.contains_key(name)
            {
                let found = scan(store, &graph.inputs[name], cancel, sink).map_err(|e| match e {
                    SourceError::Cancelled => PlanError::Cancelled,
                    e => e.into(),
                })?;
                scans.insert(name.clone(), found);
            }
        }
    }
    Ok(scans)
}

/// The input artifacts of a node, once all are known.
pub(crate) fn node_inputs(
    node: &Node,
    scans: &Scans,
    outputs: &BTreeMap<String, BTreeMap<String, Digest>>,
) -> Option<BTreeMap<String, Digest>> {
    let mut inputs = BTreeMap::new();
    for (port, edge) in &node.edges {
        match edge {
            Edge::Input(name) => {
                inputs.insert(port.clone(), scans.get(name)?.artifact);
            }
            Edge::Output { node: from, port: output } => {
                // An optional output that was not written leaves the input unconnected.
                if let Some(artifact) = outputs.get(from)?.get(output) {
                    inputs.insert(port.clone(), *artifact);
                }
            }
        }
    }
    Some(inputs)
}

/// What would have to be sent to run a node elsewhere.
fn travels(
    store: &Store,
    node: &Node,
    scans: &Scans,
    outputs: &BTreeMap<String, BTreeMap<String, Digest>>,
) -> Result<Travels, PlanError> {
    let (mut known, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for edge in node.edges.values() {
        match edge {
            Edge::Input(name) => known.extend(scans.get(name).map(|scan| scan.artifact)),
            Edge::Output { node: from, port } => match outputs.get(from) {
                Some(results) => known.extend(results.get(port)),
                None => _ = unknown.insert(from.clone()),
            },
        }
    }
    let sizes = known.into_iter().map(|artifact| store.manifest(artifact).map(|m| m.size()));
    Ok(Travels { bytes: sizes.sum::<Result<u64, _>>()?, and_results_of: unknown.into_iter().collect() })
}

/// Decides about a node whose inputs are known.
pub(crate) fn judge(
    store: &Store,
    node: &Node,
    inputs: BTreeMap<String, Digest>,
    force: bool,
) -> Result<Judgement, PlanError> {
    let name = &node.spec.name;
    let wrong = |source| PlanError::Stage { node: name.clone(), source };
    let unhashed = UnhashedKey {
        stage: node.spec.uses.clone(),
        version: node.descriptor.version,
        config: node.config.clone(),
        inputs,
        fingerprint: node.stage.fingerprint(&node.config).map_err(wrong)?,
    };
    if force {
        return Ok(Judgement::Run { unhashed, reasons: vec![Reason::Forced] });
    }
    let key = unhashed.key();
    if let Some(result) = StageResult::load(store, key) {
        return Ok(match result.problem(store) {
            None => Judgement::Cached(Box::new(result)),
            Some(detail) => Judgement::Run { unhashed, reasons: vec![Reason::Output { detail }] },
        });
    }
    let mut reasons = Vec::new();
    match StageResult::latest(store, name) {
        None => reasons.push(Reason::NeverRan),
        Some(latest) => {
            reasons.extend(differences(&latest.unhashed, &unhashed));
            for (port, to) in &unhashed.inputs {
                if let Some(from) = latest.unhashed.inputs.get(port)
                    && from != to
                {
                    let source = node.edges.get(port).map(ToString::to_string).unwrap_or_default();
                    let detail = manifest_change(store, *from, *to);
                    reasons.push(Reason::InputChanged { port: port.clone(), source, detail });
                }
            }
            if reasons.is_empty() {
                let detail = "its result is no longer in the store".into();
                reasons.push(Reason::Output { detail });
            }
        }
    }
    if store.root().join("scratch").join(key.to_string()).exists() {
        reasons.push(Reason::Interrupted);
    }
    Ok(Judgement::Run { unhashed, reasons })
}

/// Opens the items of a node; `None` for a stage that works as a whole.
pub(crate) fn item_source(store: &Store, node: &Node, unhashed: &UnhashedKey) -> Result<Option<ItemSource>, PlanError> {
    let wrong = |source| PlanError::Stage { node: node.spec.name.clone(), source };
    let identity = node.stage.item_identity(&node.config).map_err(wrong)?;
    Ok(ItemSource::open(store, &node.descriptor, identity, unhashed)?)
}

fn count_items(
    store: &Store,
    node: &Node,
    unhashed: &UnhashedKey,
    force: bool,
) -> Result<Option<ItemCount>, PlanError> {
    let Some(source) = item_source(store, node, unhashed)? else { return Ok(None) };
    let Some(artifact) = unhashed.inputs.get(&source.port) else { return Ok(None) };
    let blobs = store.manifest(*artifact)?.blobs;
    let mut seen = BTreeSet::new();
    let todo = blobs
        .iter()
        .filter(|b| {
            let key = ItemSource::key(source.base, source.identity, b);
            (force || !source.log.has(key)) && seen.insert(key)
        })
        .count();
    Ok(Some(ItemCount { all: blobs.len(), todo }))
}

/// The newest usable result of a node outside the selection.
pub(crate) fn given(store: &Store, name: &str) -> Result<StageResult, PlanError> {
    StageResult::latest(store, name)
        .filter(|r| r.problem(store).is_none())
        .ok_or_else(|| PlanError::NothingGiven { node: name.to_owned() })
}

/// An error when a stage that will run, or may, has no place to run.
pub(crate) fn all_have_places(plan: &Plan) -> Result<(), PlanError> {
    let runs = |s: &&StagePlan| matches!(s.verdict, Verdict::WillRun | Verdict::MayRun);
    match plan.stages.iter().filter(runs).find(|s| s.executor.is_empty()) {
        Some(s) => Err(PlanError::NoPlace { node: s.name.clone(), why: s.placement.clone() }),
        None => Ok(()),
    }
}

/// Makes the plan; nothing runs, and nothing is written but the scan's caches.
pub fn plan(
    store: &Store,
    graph: &Graph,
    selection: &Selection,
    places: Places<'_>,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<Plan, PlanError> {
    let roles = roles(graph, selection)?;
    let scans = scan_inputs(store, graph, &roles, cancel, sink)?;
    let mut outputs: BTreeMap<String, BTreeMap<String, Digest>> = BTreeMap::new();
    let mut stages = Vec::new();
    for node in &graph.nodes {
        let name = &node.spec.name;
        let force = selection.force.contains(name);
        let mut stage = StagePlan {
            name: name.clone(),
            uses: node.spec.uses.clone(),
            verdict: Verdict::Excluded,
            reasons: Vec::new(),
            why: Vec::new(),
            notes: node.notes.clone(),
            key: None,
            items: None,
            executor: String::new(),
            placement: String::new(),
            travels: None,
        };
        match place(node, places) {
            Ok(Placement { executor, why, .. }) => (stage.executor, stage.placement) = (executor, why),
            Err(e) => stage.placement = chain(&e),
        }
        match roles[name] {
            Role::Excluded => {}
            Role::Given => {
                let result = given(store, name)?;
                stage.verdict = Verdict::Given;
                stage.key = Some(result.key);
                outputs.insert(name.clone(), result.outputs);
            }
            Role::Selected => match node_inputs(node, &scans, &outputs) {
                None => {
                    let upstream = node.upstream().into_iter().filter(|u| !outputs.contains_key(*u));
                    stage.reasons = upstream.map(|u| Reason::Upstream { node: u.to_owned() }).collect();
                    // Without any result there is none that could still fit.
                    if StageResult::latest(store, name).is_none() {
                        stage.reasons = vec![Reason::NeverRan];
                    }
                    let sure = force || stage.reasons == [Reason::NeverRan];
                    stage.verdict = if sure { Verdict::WillRun } else { Verdict::MayRun };
                }
                Some(inputs) => match judge(store, node, inputs, force)? {
                    Judgement::Cached(result) => {
                        stage.verdict = Verdict::Cached;
                        stage.key = Some(result.key);
                        outputs.insert(name.clone(), result.outputs);
                    }
                    Judgement::Run { unhashed, reasons } => {
                        stage.verdict = Verdict::WillRun;
                        stage.items = count_items(store, node, &unhashed, force)?;
                        stage.key = Some(unhashed.key());
                        stage.reasons = reasons;
                    }
                },
            },
        }
        let runs = matches!(stage.verdict, Verdict::WillRun | Verdict::MayRun);
        if runs && places.executors.get(&stage.executor).is_some_and(|e| !e.is_local()) {
            stage.travels = Some(travels(store, node, &scans, &outputs)?);
        }
        stage.why = stage.reasons.iter().map(ToString::to_string).collect();
        stages.push(stage);
    }
    let inputs = scans
        .iter()
        .map(|(name, scan)| InputPlan {
            name: name.clone(),
            path: graph.inputs[name].path.clone(),
            files: scan.files,
            left_out: scan.left_out.clone(),
        })
        .collect();
    Ok(Plan { inputs, stages })
}
