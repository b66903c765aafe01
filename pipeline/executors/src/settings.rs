//! Executors as people describe them under `executors:` in the project file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use engine::{Needs, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    cluster::{Cluster, ClusterError, Resources},
    objects,
    ray::{Ray, RaySettings},
    remote::{Opened, PART_EVERY, Policy, Remote},
    slurm::{Slurm, SlurmSettings},
    ssh::{Ssh, SshSettings},
};

/// Settings that all kinds share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shared {
    /// `slurm`, `ray`, `ssh`, `kubernetes`, or `process` for processes of this machine.
    pub kind: String,
    /// Folder or URL (`s3://BUCKET/PREFIX`, `gs://…`, `az://…`) that this machine and the workers reach.
    pub store: String,
    /// GPUs of a task; a fraction shares one where the system can.
    pub gpus: f64,
    /// Cores of a task, beside what its stage asks for.
    pub cores: usize,
    /// Main memory of a task in MiB, beside what its stage asks for.
    pub memory_mib: u64,
    /// Seconds after which the system ends a task; none when not given.
    pub time_limit_s: Option<u64>,
    /// Seconds of work that a task should get.
    pub shard_seconds: f64,
    /// Items of a task; measured when not given.
    pub shard_items: Option<usize>,
    /// Seconds after which a task leaves what it has, again and again; a later try goes on from there.
    pub part_seconds: f64,
    /// Further tries of a task that failed.
    pub retries: u32,
}

impl Default for Shared {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            kind: String::new(),
            store: String::new(),
            gpus: 0.0,
            cores: 0,
            memory_mib: 0,
            time_limit_s: None,
            shard_seconds: policy.shard_seconds,
            shard_items: policy.shard_items,
            part_seconds: PART_EVERY.as_secs_f64(),
            retries: policy.retries,
        }
    }
}

/// What the kinds have to themselves.
#[derive(Clone, Debug, PartialEq)]
enum System {
    Slurm(SlurmSettings),
    Ray(RaySettings),
    Ssh(SshSettings),
    #[cfg(feature = "kubernetes")]
    Kubernetes(crate::kubernetes::KubernetesSettings),
    #[cfg(unix)]
    Process(crate::process::ProcessSettings),
}

/// Names of the kinds.
pub const KINDS: [&str; 5] = ["slurm", "ray", "ssh", "kubernetes", "process"];

/// One executor, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorSettings {
    shared: Shared,
    system: System,
}

/// A setting that is wrong: its path below the executor, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Such as `store`; empty for the executor as a whole.
    pub key: String,
    /// In words.
    pub message: String,
}

fn part<T: DeserializeOwned>(map: Map<String, Value>) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(Value::Object(map))
        .map_err(|e| Wrong { key: e.path().to_string(), message: e.inner().to_string() })
}

impl ExecutorSettings {
    /// Reads and checks the settings of one executor.
    pub fn parse(value: &Value) -> Result<Self, Wrong> {
        let wrong = |key: &str, message: String| Wrong { key: key.into(), message };
        let Some(map) = value.as_object() else { return Err(wrong("", "it must have `kind:` and `store:`".into())) };
        let shared_keys = serde_json::to_value(Shared::default()).expect("plain data");
        let (shared, own): (Map<_, _>, Map<_, _>) =
            map.clone().into_iter().partition(|(key, _)| shared_keys.get(key).is_some());
        let shared: Shared = part(shared)?;
        let system = match shared.kind.as_str() {
            "slurm" => System::Slurm(part(own)?),
            "ray" => System::Ray(part(own)?),
            "ssh" => System::Ssh(part(own)?),
            #[cfg(feature = "kubernetes")]
            "kubernetes" => System::Kubernetes(part(own)?),
            #[cfg(not(feature = "kubernetes"))]
            "kubernetes" => {
                let message = "this build cannot speak to Kubernetes; build it with `--features kubernetes`";
                return Err(wrong("kind", message.into()));
            }
            #[cfg(unix)]
            "process" => System::Process(part(own)?),
            other => {
                return Err(wrong("kind", format!("there is no kind `{other}`; there are: {}", KINDS.join(", "))));
            }
        };
        if shared.store.is_empty() {
            return Err(wrong("store", "a folder or URL is needed that both ends reach".into()));
        }
        if !shared.gpus.is_finite() || shared.gpus < 0.0 {
            return Err(wrong("gpus", format!("{} is no number of GPUs", shared.gpus)));
        }
        if !(1.0..=86_400.0).contains(&shared.shard_seconds) {
            return Err(wrong("shard_seconds", format!("{} is not between 1 and 86400", shared.shard_seconds)));
        }
        if !(0.1..=86_400.0).contains(&shared.part_seconds) {
            return Err(wrong("part_seconds", format!("{} is not between 0.1 and 86400", shared.part_seconds)));
        }
        if shared.shard_items == Some(0) {
            return Err(wrong("shard_items", "a task needs at least one item".into()));
        }
        Ok(Self { shared, system })
    }

    /// The executor of these settings. Nothing is opened before it is used.
    pub fn executor(&self, name: &str, place: &Place) -> Remote {
        let (settings, at) = (self.clone(), place.clone());
        Remote {
            name: name.to_owned(),
            policy: Policy {
                shard_seconds: self.shared.shard_seconds,
                shard_items: self.shared.shard_items,
                retries: self.shared.retries,
            },
            needs: Resources {
                gpus: self.shared.gpus,
                cores: self.shared.cores,
                memory_bytes: self.shared.memory_mib << 20,
                time_limit: self.shared.time_limit_s.map(Duration::from_secs),
            },
            part_every: Duration::from_secs_f64(self.shared.part_seconds),
            program: place.version.clone(),
            open: Box::new(move || settings.open(&at)),
        }
    }

    fn open(&self, at: &Place) -> Result<Opened, StageError> {
        let wrong = |key: &str, e: String| StageError::Config { key: format!("executors.{key}"), message: e };
        // A relative folder is one of the project; workers have other working folders.
        let store = if self.shared.store.contains("://") {
            self.shared.store.clone()
        } else {
            at.project.join(&self.shared.store).display().to_string()
        };
        let objects = objects::Remote::open(&store, &at.environment).map_err(|e| wrong("store", e.to_string()))?;
        let refused = |e: ClusterError| StageError::message(e.to_string());
        let variable = |name: &str| at.environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let cluster: Box<dyn Cluster> = match &self.system {
            System::Slurm(own) => Box::new(Slurm::new(own.clone(), &at.binary)),
            System::Ray(own) => Box::new(Ray::new(own.clone(), &at.binary, variable).map_err(refused)?),
            System::Ssh(own) => Box::new(Ssh::new(own.clone(), &at.binary).map_err(refused)?),
            #[cfg(feature = "kubernetes")]
            System::Kubernetes(own) => Box::new(crate::kubernetes::Kubernetes::new(own.clone()).map_err(refused)?),
            #[cfg(unix)]
            System::Process(own) => {
                Box::new(crate::process::Processes::new(own.clone(), &at.binary, &at.runs.join(".store/processes")))
            }
        };
        Ok((cluster, Arc::new(objects), store))
    }
}

/// What executors have to know of this program and its project.
#[derive(Clone, Debug)]
pub struct Place {
    /// Version of the program.
    pub version: String,
    /// The program itself, which is what workers run.
    pub binary: PathBuf,
    /// The project's folder, absolute.
    pub project: PathBuf,
    /// The folder of runs, absolute.
    pub runs: PathBuf,
    /// The variables of the environment; only those that stores know are looked at.
    pub environment: Vec<(String, String)>,
}

impl Place {
    /// A place without a project.
    pub fn new(version: &str, binary: &Path) -> Self {
        let here = PathBuf::from(".");
        Self { version: version.into(), binary: binary.into(), project: here.clone(), runs: here, environment: vec![] }
    }
}

/// True when these resources hold what a stage needs.
pub(crate) fn fits(has: &Resources, needs: &Needs) -> bool {
    !needs.gpu || has.gpus > 0.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mistakes_are_named() {
        let parse = |v: Value| ExecutorSettings::parse(&v);
        let good = json!({ "kind": "process", "store": "/shared", "gpus": 0.5, "at_once": 2 });
        let executor = parse(good).unwrap().executor("gpu", &Place::new("1", Path::new("p")));
        assert!(fits(&executor.needs, &Needs { gpu: true, ..Needs::default() }));
        let key = |v: Value| parse(v).unwrap_err().key;
        assert_eq!(key(json!({ "kind": "slrum", "store": "/s" })), "kind");
        assert_eq!(key(json!({ "kind": "process" })), "store");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "gpus": -1 })), "gpus");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "gpus": "two" })), "gpus");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "shard_items": 0 })), "shard_items");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "part_seconds": 0 })), "part_seconds");
        let slurm =
            json!({ "kind": "slurm", "store": "s3://b/p", "partition": "gpu", "gres": "gpu:a100:{gpus}", "gpus": 2 });
        assert!(parse(slurm).is_ok());
        assert!(parse(json!({ "kind": "ssh", "store": "s3://b/p", "host": "gpubox" })).is_ok());
        assert!(parse(json!({ "kind": "ray", "store": "s3://b/p", "address": "http://head:8265" })).is_ok());
        let e = parse(json!({ "kind": "process", "store": "/s", "partition": "x" })).unwrap_err();
        assert!(e.message.contains("partition"), "{e:?}");
        assert_eq!(key(json!(7)), "");
    }
}
