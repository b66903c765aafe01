//! Executors as people describe them under `executors:` in the project file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use engine::{Card, Needs, StageError};
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
    /// Memory of each of these GPUs in MiB, for stages that ask for so much.
    pub gpu_memory_mib: u64,
    /// Compute capability of these GPUs, such as `8.0`, for stages that ask for one.
    pub gpu_compute: Option<Value>,
    /// What one of these GPUs costs an hour, in any currency; the report multiplies.
    pub price_per_gpu_hour: Option<f64>,
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
    /// File of another build of this version, such as a static one, that workers run instead of this program; a relative
    /// path begins at the project. None is this program.
    pub send: Option<PathBuf>,
}

impl Default for Shared {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            kind: String::new(),
            store: String::new(),
            gpus: 0.0,
            gpu_memory_mib: 0,
            gpu_compute: None,
            price_per_gpu_hour: None,
            cores: 0,
            memory_mib: 0,
            time_limit_s: None,
            shard_seconds: policy.shard_seconds,
            shard_items: policy.shard_items,
            part_seconds: PART_EVERY.as_secs_f64(),
            retries: policy.retries,
            send: None,
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
        if shared.send.is_some() && (own.contains_key("program") || shared.kind == "kubernetes") {
            let message = "nothing is sent where `program` or an image has it already: take one of the two out";
            return Err(wrong("send", message.into()));
        }
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
        if let Some(price) = shared.price_per_gpu_hour.filter(|p| !p.is_finite() || *p < 0.0) {
            return Err(wrong("price_per_gpu_hour", format!("{price} is no price")));
        }
        if let Some(value) = shared.gpu_compute.as_ref().filter(|v| capability(v).is_none()) {
            return Err(wrong("gpu_compute", format!("{value} is no compute capability such as 8.0")));
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
            card: Card {
                memory_bytes: self.shared.gpu_memory_mib.saturating_mul(1 << 20),
                compute: self.shared.gpu_compute.as_ref().and_then(capability).unwrap_or_default(),
            },
            price_per_gpu_hour: self.shared.price_per_gpu_hour,
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
        let binary = match self.shared.send.as_ref().map(|file| at.project.join(file)) {
            Some(file) if !file.is_file() => {
                return Err(wrong("send", format!("there is no file `{}`", file.display())));
            }
            Some(file) => file,
            None => at.binary.clone(),
        };
        let cluster: Box<dyn Cluster> = match &self.system {
            System::Slurm(own) => Box::new(Slurm::new(own.clone(), &binary)),
            System::Ray(own) => Box::new(Ray::new(own.clone(), &binary, variable).map_err(refused)?),
            System::Ssh(own) => Box::new(Ssh::new(own.clone(), &binary).map_err(refused)?),
            #[cfg(feature = "kubernetes")]
            System::Kubernetes(own) => Box::new(crate::kubernetes::Kubernetes::new(own.clone()).map_err(refused)?),
            #[cfg(unix)]
            System::Process(own) => {
                Box::new(crate::process::Processes::new(own.clone(), &binary, &at.runs.join(".store/processes")))
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

/// A compute capability as people write it, 8.0 or "8.0": major and minor number.
pub fn capability(value: &Value) -> Option<(u32, u32)> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (major, minor) = text.split_once('.').unwrap_or((&text, "0"));
    let digits = |s: &str| (s.len() <= 3 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
    Some((digits(major)?, digits(minor)?))
}

/// What a stage needs and these GPUs are not, in words. Memory and cores are asked for as the stage needs them.
pub(crate) fn lacks(has: &Resources, card: &Card, needs: &Needs) -> Option<String> {
    if !needs.gpu || (has.gpus > 0.0 && card.covers(&needs.card)) {
        None
    } else if has.gpus > 0.0 {
        Some(format!(
            "the stage needs a GPU{}, and it gives {}; set `gpu_memory_mib` and `gpu_compute` there when its GPUs are better",
            needs.card,
            gives(has, card)
        ))
    } else {
        Some("the stage needs a GPU, and it gives none; set `gpus` there".into())
    }
}

/// What a task gets, in words.
pub(crate) fn gives(has: &Resources, card: &Card) -> String {
    if has.gpus <= 0.0 {
        return "no GPU".into();
    }
    let unsaid = if *card == Card::default() { " of an unknown kind" } else { "" };
    format!("{} GPU{}{unsaid}{card}", has.gpus, if has.gpus > 1.0 { "s" } else { "" })
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
        let gpu = Needs { gpu: true, ..Needs::default() };
        assert_eq!(lacks(&executor.needs, &executor.card, &gpu), None);
        let large = Needs { card: Card { memory_bytes: 20 << 30, compute: (8, 0) }, ..gpu };
        let words = lacks(&executor.needs, &executor.card, &large).unwrap();
        assert!(words.contains("20.0 GiB") && words.contains("of an unknown kind"), "{words}");
        let known = |mib: u64, compute: Value| {
            let settings =
                json!({ "kind": "process", "store": "/s", "gpus": 1, "gpu_memory_mib": mib, "gpu_compute": compute });
            parse(settings).unwrap().executor("gpu", &Place::new("1", Path::new("p")))
        };
        let a100 = known(40_000, json!(8.0));
        assert_eq!(lacks(&a100.needs, &a100.card, &large), None);
        let t4 = known(16_000, json!("7.5"));
        assert!(lacks(&t4.needs, &t4.card, &large).unwrap().contains("15.6 GiB, compute capability 7.5"));
        assert_eq!(capability(&json!(10)), Some((10, 0)));
        assert_eq!([json!("new"), json!(-8), json!(true), json!("8.0.1")].map(|v| capability(&v)), [None; 4]);
        let key = |v: Value| parse(v).unwrap_err().key;
        assert_eq!(key(json!({ "kind": "slrum", "store": "/s" })), "kind");
        assert_eq!(key(json!({ "kind": "process" })), "store");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "gpus": -1 })), "gpus");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "gpus": "two" })), "gpus");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "shard_items": 0 })), "shard_items");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "part_seconds": 0 })), "part_seconds");
        assert_eq!(key(json!({ "kind": "process", "store": "/s", "gpu_compute": "fast" })), "gpu_compute");
        let slurm =
            json!({ "kind": "slurm", "store": "s3://b/p", "partition": "gpu", "gres": "gpu:a100:{gpus}", "gpus": 2 });
        assert!(parse(slurm).is_ok());
        assert!(parse(json!({ "kind": "ssh", "store": "s3://b/p", "host": "gpubox" })).is_ok());
        assert!(parse(json!({ "kind": "ray", "store": "s3://b/p", "address": "http://head:8265" })).is_ok());
        assert_eq!(key(json!({ "kind": "ssh", "store": "/s", "host": "h", "send": "p", "program": "/p" })), "send");
        let e = parse(json!({ "kind": "process", "store": "/s", "partition": "x" })).unwrap_err();
        assert!(e.message.contains("partition"), "{e:?}");
        assert_eq!(key(json!(7)), "");
    }
}
