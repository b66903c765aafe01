//! The graph of stages: which output feeds which input, with kinds checked on every edge before anything runs.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    sources::InputSpec,
    stage::{AnyStage, Card, Descriptor, Registry, StageError},
};

/// A pipeline as the settings describe it, all layers merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PipelineSpec {
    /// Input folders and files.
    pub inputs: Vec<InputSpec>,
    /// The stages, in the order they were written.
    pub nodes: Vec<NodeSpec>,
}

/// One use of a stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Name in this pipeline, unique.
    pub name: String,
    /// Name of the stage.
    pub uses: String,
    /// Its settings; missing ones take their defaults.
    pub config: Value,
    /// Input port -> `node.output` or `inputs.name`. Ports that are not named here are connected by kind.
    #[serde(default)]
    pub connect: BTreeMap<String, String>,
    /// When given, only these nodes are looked at when ports are connected by kind.
    #[serde(default)]
    pub needs: Option<Vec<String>>,
    /// Executor by name; the local one when not said.
    #[serde(default)]
    pub executor: Option<String>,
    /// True when it is to run where there is a GPU, whatever the stage itself says.
    #[serde(default)]
    pub gpu: bool,
    /// Which GPU.
    #[serde(default)]
    pub card: Card,
    /// Further tries after a passing fault.
    #[serde(default)]
    pub retries: u32,
    /// Stop the stage after so many seconds.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}

/// Where an input port gets its artifact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Edge {
    /// An input of the pipeline.
    Input(String),
    /// An output of another node.
    Output {
        /// The node.
        node: String,
        /// Its output port.
        port: String,
    },
}

impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(name) => write!(f, "inputs.{name}"),
            Self::Output { node, port } => write!(f, "{node}.{port}"),
        }
    }
}

/// What is wrong with a pipeline's shape.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum GraphError {
    #[error("stage `{node}` uses `{uses}`, which does not exist; there are: {known}")]
    UnknownStage { node: String, uses: String, known: String },
    #[error("there is no stage `{name}` in this pipeline; there are: {known}")]
    UnknownNode { name: String, known: String },
    #[error(
        "`{0}` cannot be the name of a stage or port: it becomes the name of a folder; use letters, digits, `-` and `_`"
    )]
    BadName(String),
    #[error("two stages are named `{0}`")]
    DuplicateNode(String),
    #[error("stage `{node}` has no input `{port}`; it reads: {known}")]
    UnknownPort { node: String, port: String, known: String },
    #[error(
        "stage `{node}`, input `{port}`: `{from}` is neither `inputs.NAME` nor `STAGE.OUTPUT` of an earlier stage; there are: {known}"
    )]
    UnknownSource { node: String, port: String, from: String, known: String },
    #[error("stage `{node}`, input `{port}`: it reads {expected}, and {from} is {found}")]
    KindMismatch { node: String, port: String, expected: String, from: String, found: String },
    #[error(
        "stage `{node}` needs {kind} at its input `{port}`, and no input and no stage before it gives that; add `inputs.{port}` or a stage that writes {kind}"
    )]
    Unconnected { node: String, port: String, kind: String },
    #[error("stage `{node}`: {source}")]
    Config { node: String, source: StageError },
}

/// A node with its stage and edges.
#[derive(Clone)]
pub struct Node {
    /// As written.
    pub spec: NodeSpec,
    /// The stage.
    pub stage: Arc<dyn AnyStage>,
    /// Its ports under this config.
    pub descriptor: Descriptor,
    /// The full config, with defaults and with `auto` settled.
    pub config: Value,
    /// What `auto` was settled to, in words.
    pub notes: Vec<String>,
    /// Input port -> where it comes from.
    pub edges: BTreeMap<String, Edge>,
}

impl Node {
    /// Names of the nodes that this one reads from, sorted, each once.
    pub fn upstream(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .edges
            .values()
            .filter_map(|e| match e {
                Edge::Output { node, .. } => Some(node.as_str()),
                Edge::Input(_) => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The checked graph; nodes stand in an order in which they can run.
#[derive(Clone)]
pub struct Graph {
    /// Inputs by name.
    pub inputs: BTreeMap<String, InputSpec>,
    /// Nodes; each reads only from earlier ones.
    pub nodes: Vec<Node>,
}

/// True for what can be the name of a file or folder anywhere.
pub(crate) fn is_name(name: &str) -> bool {
    let bad = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains(bad)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

impl Graph {
    /// Connects and checks everything, and settles `auto` settings for `machine`.
    pub fn build(spec: &PipelineSpec, registry: &Registry, machine: &crate::Machine) -> Result<Self, GraphError> {
        let inputs: BTreeMap<_, _> = spec.inputs.iter().map(|i| (i.name.clone(), i.clone())).collect();
        let mut nodes: Vec<Node> = Vec::new();
        for n in &spec.nodes {
            if nodes.iter().any(|o| o.spec.name == n.name) {
                return Err(GraphError::DuplicateNode(n.name.clone()));
            }
            let stage = registry.get(&n.uses).ok_or_else(|| GraphError::UnknownStage {
                node: n.name.clone(),
                uses: n.uses.clone(),
                known: list(registry.names()),
            })?;
            let wrong = |source| GraphError::Config { node: n.name.clone(), source };
            let config = stage.parse(&n.config).map_err(wrong)?;
            let descriptor = stage.describe(&config).map_err(wrong)?;
            let ports = descriptor.inputs.iter().chain(&descriptor.outputs).map(|p| &p.name);
            if let Some(name) = ports.chain([&n.name]).find(|name| !is_name(name)) {
                return Err(GraphError::BadName(name.clone()));
            }
            let edges = connect(n, &descriptor, &inputs, &nodes)?;
            let facts = crate::Facts { machine: machine.clone(), connected: edges.keys().cloned().collect() };
            let (config, notes) = stage.resolve(&config, &facts).map_err(wrong)?;
            nodes.push(Node { spec: n.clone(), stage: stage.clone(), descriptor, config, notes, edges });
        }
        Ok(Self { inputs, nodes })
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> Result<&Node, GraphError> {
        self.nodes.iter().find(|n| n.spec.name == name).ok_or_else(|| GraphError::UnknownNode {
            name: name.into(),
            known: list(self.nodes.iter().map(|n| n.spec.name.as_str())),
        })
    }

    /// `name` and everything it reads from, directly or not.
    pub fn ancestors(&self, name: &str) -> Result<Vec<String>, GraphError> {
        let mut found = vec![self.node(name)?.spec.name.clone()];
        for n in self.nodes.iter().rev() {
            if found.contains(&n.spec.name) {
                found.extend(n.upstream().into_iter().map(str::to_owned));
            }
        }
        Ok(found)
    }

    /// `name`, everything it reads from, and the stages before it that read nothing (setup, say).
    pub fn before(&self, name: &str) -> Result<Vec<String>, GraphError> {
        let mut found = self.ancestors(name)?;
        let earlier = self.nodes.iter().take_while(|n| n.spec.name != name).filter(|n| n.edges.is_empty());
        found.extend(earlier.map(|n| n.spec.name.clone()));
        Ok(found)
    }

    /// `name` and everything that reads from it, directly or not.
    pub fn descendants(&self, name: &str) -> Result<Vec<String>, GraphError> {
        let mut found = vec![self.node(name)?.spec.name.clone()];
        for n in &self.nodes {
            if n.upstream().iter().any(|u| found.iter().any(|f| f == u)) {
                found.push(n.spec.name.clone());
            }
        }
        Ok(found)
    }
}

/// Connects the input ports of one node: as written, else to the pipeline input of the port's name, else to the
/// nearest earlier node that writes the port's kind.
fn connect(
    spec: &NodeSpec,
    descriptor: &Descriptor,
    inputs: &BTreeMap<String, InputSpec>,
    earlier: &[Node],
) -> Result<BTreeMap<String, Edge>, GraphError> {
    let node = || spec.name.clone();
    for port in spec.connect.keys() {
        if !descriptor.inputs.iter().any(|p| p.name == *port) {
            let known = list(descriptor.inputs.iter().map(|p| p.name.as_str()));
            return Err(GraphError::UnknownPort { node: node(), port: port.clone(), known });
        }
    }
    for name in spec.needs.iter().flatten() {
        if !earlier.iter().any(|n| n.spec.name == *name) {
            let known = list(earlier.iter().map(|n| n.spec.name.as_str()));
            return Err(GraphError::UnknownNode { name: name.clone(), known });
        }
    }
    let mut edges = BTreeMap::new();
    for port in &descriptor.inputs {
        let edge = if let Some(from) = spec.connect.get(&port.name) {
            let (edge, found) = source(from, inputs, earlier).ok_or_else(|| GraphError::UnknownSource {
                node: node(),
                port: port.name.clone(),
                from: from.clone(),
                known: all_sources(inputs, earlier),
            })?;
            if found != port.kind {
                return Err(GraphError::KindMismatch {
                    node: node(),
                    port: port.name.clone(),
                    expected: port.kind.clone(),
                    from: from.clone(),
                    found,
                });
            }
            Some(edge)
        } else if inputs.get(&port.name).is_some_and(|i| i.kind == port.kind) {
            Some(Edge::Input(port.name.clone()))
        } else {
            earlier
                .iter()
                .rev()
                .filter(|n| spec.needs.as_ref().is_none_or(|names| names.contains(&n.spec.name)))
                .find_map(|n| {
                    let output = n.descriptor.outputs.iter().find(|o| o.kind == port.kind)?;
                    Some(Edge::Output { node: n.spec.name.clone(), port: output.name.clone() })
                })
        };
        match edge {
            Some(edge) => {
                edges.insert(port.name.clone(), edge);
            }
            None if port.optional => {}
            None => {
                return Err(GraphError::Unconnected { node: node(), port: port.name.clone(), kind: port.kind.clone() });
            }
        }
    }
    Ok(edges)
}

fn source(from: &str, inputs: &BTreeMap<String, InputSpec>, earlier: &[Node]) -> Option<(Edge, String)> {
    let (node, port) = from.split_once('.')?;
    if node == "inputs" {
        return inputs.get(port).map(|i| (Edge::Input(port.into()), i.kind.clone()));
    }
    let n = earlier.iter().find(|n| n.spec.name == node)?;
    let output = n.descriptor.outputs.iter().find(|o| o.name == port)?;
    Some((Edge::Output { node: node.into(), port: port.into() }, output.kind.clone()))
}

fn all_sources(inputs: &BTreeMap<String, InputSpec>, earlier: &[Node]) -> String {
    let mut all: Vec<String> = inputs.keys().map(|i| format!("inputs.{i}")).collect();
    for n in earlier {
        all.extend(n.descriptor.outputs.iter().map(|o| format!("{}.{}", n.spec.name, o.name)));
    }
    list(all.iter().map(String::as_str))
}
