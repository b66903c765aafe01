//! Kubernetes through Indexed Jobs and crate `kube`. **Tested against a stand-in server only**, which carries out the
//! requests used here as the documentation describes them; no real cluster has been tried.
//!
//! Owns the Job's text and how its status and pods are read. A submission becomes one Job, found again by a label; which
//! task an index is stands in an annotation. Kubernetes tries nothing again (`backoffLimitPerIndex: 0`). The program has
//! to be in the image, with a POSIX shell beside it.
//!
//! A task whose pod exists is cancelled by deleting the pod. One without a pod can only be cancelled together with all
//! others of its Job that have not ended, by deleting that; this process remembers how the Job's tasks ended, a later one
//! finds them absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodStatus},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::{
    cluster::{Batch, Cluster, ClusterError, TaskState},
    command::{self, Which},
    ranges,
};

/// Label of Jobs and pods: the batch.
const BATCH: &str = "pipeline-batch";
/// Annotation of Jobs: their tasks, in the order of the indexes.
const TASKS: &str = "pipeline-tasks";
/// Annotation by which Kubernetes says which index a pod is.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Label by which Kubernetes says whose pod it is.
const JOB: &str = "batch.kubernetes.io/job-name";
/// Longest name that is taken unchanged, so that Kubernetes' own limit holds with numbers behind it.
const NAME_MAX: usize = 40;
/// Time for one request.
const DEADLINE: Duration = Duration::from_secs(60);

/// How Jobs are submitted to Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesSettings {
    /// Context of the kubeconfig; none is its current one.
    pub context: Option<String>,
    /// Path of the kubeconfig; none looks where `kubectl` does.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace; none is the context's.
    pub namespace: Option<String>,
    /// Image with this program and a POSIX shell in it.
    pub image: String,
    /// The program in the image.
    pub program: String,
    /// Resource that stands for a GPU; fractions are rounded up.
    pub gpu_resource: String,
    /// Most pods of a batch side by side.
    pub parallelism: u32,
    /// Hours after its end for which a Job is kept.
    pub keep_hours: u32,
    /// More of the pods' `spec`, such as `nodeSelector`, `tolerations` or `serviceAccountName`.
    pub pod: BTreeMap<String, Value>,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            context: None,
            kubeconfig: None,
            namespace: None,
            image: String::new(),
            program: "pipeline".into(),
            gpu_resource: "nvidia.com/gpu".into(),
            parallelism: 100,
            keep_hours: 24,
            pod: BTreeMap::new(),
        }
    }
}

/// A namespace of a Kubernetes cluster.
pub struct Kubernetes {
    settings: KubernetesSettings,
    system: String,
    runtime: Runtime,
    client: Client,
    /// How the tasks of Jobs that were deleted here ended.
    ended: Mutex<BTreeMap<String, BTreeMap<u32, TaskState>>>,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// A client; nothing is asked yet. Fails when the kubeconfig cannot be read or has no such context.
    pub fn new(settings: KubernetesSettings) -> Result<Self, ClusterError> {
        let place = settings.context.as_deref().unwrap_or("the current context");
        let system = format!("kubernetes, {place}");
        let refuse = |message: String, help: &str| ClusterError::Refused {
            system: system.clone(),
            message,
            help: help.to_owned(),
        };
        if settings.image.is_empty() {
            return Err(refuse("there is no image".into(), "set `image` to one that has this program in it"));
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| refuse(format!("starting a thread: {e}"), "allow this process more threads"))?;
        let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
        let client = runtime.block_on(async {
            let wrong = |e: &dyn fmt::Display| refuse(e.to_string(), "make `kubectl get jobs` work, then run again");
            let config = match &settings.kubeconfig {
                Some(path) => {
                    let file = Kubeconfig::read_from(path).map_err(|e| wrong(&e))?;
                    Config::from_custom_kubeconfig(file, &options).await
                }
                None => Config::from_kubeconfig(&options).await,
            };
            let mut config = config.map_err(|e| wrong(&e))?;
            config.connect_timeout = Some(Duration::from_secs(15));
            config.read_timeout = Some(DEADLINE);
            if let Some(namespace) = &settings.namespace {
                config.default_namespace.clone_from(namespace);
            }
            Client::try_from(config).map_err(|e| wrong(&e))
        })?;
        Ok(Self { settings, system, runtime, client, ended: Mutex::default() })
    }

    fn jobs(&self) -> Api<Job> {
        Api::default_namespaced(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    fn ask<T>(&self, what: &str, question: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ClusterError> {
        self.runtime.block_on(question).map_err(|error| {
            let system = self.system.clone();
            match &error {
                kube::Error::Api(status) if (400..500).contains(&status.code) && ![408, 429].contains(&status.code) => {
                    let help = "check the settings of this executor, and what `kubectl auth can-i create jobs` says";
                    ClusterError::Refused { system, message: format!("{what}: {}", status.message), help: help.into() }
                }
                kube::Error::Api(status) => {
                    let message = format!("{what}: status {}: {}", status.code, status.message);
                    ClusterError::Unreachable { system, message }
                }
                error => ClusterError::Unreachable { system, message: format!("{what}: {error}") },
            }
        })
    }

    /// The batch's Jobs, and the tasks of each in the order of the indexes.
    fn known(&self, batch: &str) -> Result<Vec<(Job, Vec<u32>)>, ClusterError> {
        let list = ListParams::default().labels(&format!("{BATCH}={}", label(batch)));
        let jobs = self.ask("listing jobs", self.jobs().list(&list))?;
        let tasks = |job: &Job| job.annotations().get(TASKS).map(|t| ranges::read(t).collect()).unwrap_or_default();
        // One that is being deleted ends nothing any more that was asked for.
        let alive = jobs.items.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none());
        Ok(alive
            .map(|job| {
                let tasks = tasks(&job);
                (job, tasks)
            })
            .collect())
    }

    /// The batch's pods, by Job and index; the newest of each.
    fn pods_of(&self, batch: &str) -> Result<BTreeMap<(String, u32), Pod>, ClusterError> {
        let list = ListParams::default().labels(&format!("{BATCH}={}", label(batch)));
        let mut pods = self.ask("listing pods", self.pods().list(&list))?.items;
        pods.sort_by_key(|p| p.metadata.creation_timestamp.clone());
        let of = |pod: Pod| {
            let index = pod.annotations().get(INDEX)?.parse().ok()?;
            Some(((pod.labels().get(JOB)?.clone(), index), pod))
        };
        Ok(pods.into_iter().filter_map(of).collect())
    }

    /// The Job for some tasks of a batch.
    fn job(&self, batch: &Batch, tasks: &[u32]) -> Value {
        let s = &self.settings;
        let runs = ranges::write(tasks.iter().copied());
        // The shell finds the task with this index: runs are passed over until it lies in one.
        let script = format!(
            "i=$JOB_COMPLETION_INDEX\nfor run in {}; do\n  first=${{run%-*}}\n  last=${{run#*-}}\n  n=$((last - first + 1))\n  \
             if [ \"$i\" -lt \"$n\" ]; then break; fi\n  i=$((i - n))\ndone\ntask=$((first + i))\n{}",
            runs.replace(',', " "),
            command::script(batch, Which::Variable, "", &s.program)
        );
        let needs = &batch.needs;
        let mut limits = Map::new();
        let mut requests = Map::new();
        if needs.gpus > 0.0 {
            limits.insert(s.gpu_resource.clone(), needs.gpus.ceil().to_string().into());
        }
        if needs.cores > 0 {
            requests.insert("cpu".into(), needs.cores.to_string().into());
        }
        if needs.memory_bytes > 0 {
            limits.insert("memory".into(), needs.memory_bytes.to_string().into());
            requests.insert("memory".into(), needs.memory_bytes.to_string().into());
        }
        let mut pod = json!({
            "restartPolicy": "Never",
            "containers": [{
                "name": "task",
                "image": s.image,
                // `$$` is one `$`; a single one would be expanded before the shell sees it.
                "command": ["/bin/sh", "-c", script.replace('$', "$$")],
                "resources": { "limits": limits, "requests": requests },
            }],
        });
        if let Some(limit) = needs.time_limit {
            pod["activeDeadlineSeconds"] = limit.as_secs().max(1).into();
        }
        for (key, value) in &s.pod {
            pod[key] = value.clone();
        }
        let labels = json!({ BATCH: label(&batch.name) });
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": format!("{}-{}", label(&batch.name), tasks[0]),
                "labels": labels,
                "annotations": { TASKS: runs },
            },
            "spec": {
                "completionMode": "Indexed",
                "completions": tasks.len(),
                "parallelism": tasks.len().min(s.parallelism.max(1) as usize),
                "backoffLimitPerIndex": 0,
                "ttlSecondsAfterFinished": u64::from(s.keep_hours) * 3600,
                "template": { "metadata": { "labels": labels }, "spec": pod },
            },
        })
    }

    fn remembered(&self, batch: &str) -> BTreeMap<u32, TaskState> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get(batch).cloned().unwrap_or_default()
    }
}

/// A batch's name as Kubernetes takes it: small letters, digits and `-`, none at the end.
fn label(batch: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if batch.len() <= NAME_MAX
        && batch.chars().all(fits)
        && !batch.ends_with('-')
        && batch.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return batch.to_owned();
    }
    let digest = blake3::hash(batch.as_bytes()).to_hex();
    let head: String = batch.to_ascii_lowercase().chars().filter(|&c| fits(c)).take(24).collect();
    format!("b-{head}-{}", &digest[..8])
}

/// What a Job and its pods say of each of its tasks.
fn states_of(job: &Job, tasks: &[u32], pods: &BTreeMap<(String, u32), Pod>) -> BTreeMap<u32, TaskState> {
    let status = job.status.clone().unwrap_or_default();
    let indexes = |text: Option<String>| ranges::read(&text.unwrap_or_default()).collect::<BTreeSet<u32>>();
    let completed = indexes(status.completed_indexes);
    let failed = indexes(status.failed_indexes);
    let over = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Failed" && c.status == "True");
    let name = job.name_any();
    let state = |index: u32| {
        let pod = pods.get(&(name.clone(), index));
        if completed.contains(&index) {
            return TaskState::Succeeded;
        }
        let by_pod = pod.map(|p| pod_state(p, &p.status.clone().unwrap_or_default()));
        match by_pod {
            Some(state @ TaskState::Failed { .. }) => state,
            _ if failed.contains(&index) => TaskState::Failed { exit: None, why: "FAILED".into() },
            _ if over.is_some() => {
                let why = over.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
                TaskState::Failed { exit: None, why }
            }
            Some(state) => state,
            None => TaskState::Pending { why: String::new() },
        }
    };
    tasks.iter().enumerate().map(|(index, &task)| (task, state(index as u32))).collect()
}

fn pod_state(pod: &Pod, status: &PodStatus) -> TaskState {
    let container = status.container_statuses.as_ref().and_then(|c| c.first()).and_then(|c| c.state.clone());
    let container = container.unwrap_or_default();
    match status.phase.as_deref() {
        Some("Succeeded") => TaskState::Succeeded,
        Some("Failed") => {
            let ended = container.terminated;
            let why = status.reason.clone().or_else(|| ended.as_ref().and_then(|e| e.reason.clone()));
            TaskState::Failed { exit: ended.map(|e| e.exit_code), why: why.unwrap_or_default() }
        }
        Some("Running") => {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
            TaskState::Running { node: node.unwrap_or_default() }
        }
        _ => {
            let waits = container.waiting.and_then(|w| w.reason);
            let unscheduled =
                status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
            let why = waits.or_else(|| unscheduled.and_then(|c| c.message.clone().or_else(|| c.reason.clone())));
            TaskState::Pending { why: why.unwrap_or_default() }
        }
    }
}

impl Cluster for Kubernetes {
    fn describe(&self) -> String {
        format!("{}, image {} (tested against a stand-in server only)", self.system, self.settings.image)
    }

    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        command::check(&self.system, batch)?;
        let mut known: BTreeSet<u32> = self.known(&batch.name)?.into_iter().flat_map(|(_, tasks)| tasks).collect();
        known.extend(self.remembered(&batch.name).into_keys());
        let new: Vec<u32> = batch.tasks.iter().copied().filter(|t| !known.contains(t)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let job: Job = serde_json::from_value(self.job(batch, &new)).map_err(|e| ClusterError::Refused {
            system: self.system.clone(),
            message: format!("the job cannot be written: {e}"),
            help: "check `pod` in this executor's settings".into(),
        })?;
        self.ask("creating a job", async {
            match self.jobs().create(&PostParams::default(), &job).await {
                // The name holds its first task, which no other Job of the batch has: it is this one.
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
                other => other.map(drop),
            }
        })
    }

    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        let mut states = self.remembered(batch);
        let jobs = self.known(batch)?;
        if jobs.is_empty() {
            return Ok(states);
        }
        let pods = self.pods_of(batch)?;
        for (job, tasks) in jobs {
            states.extend(states_of(&job, &tasks, &pods));
        }
        Ok(states)
    }

    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        let asked: BTreeSet<u32> = tasks.iter().copied().collect();
        let jobs = self.known(batch)?;
        if jobs.is_empty() {
            return Ok(());
        }
        let pods = self.pods_of(batch)?;
        for (job, tasks) in jobs {
            let states = states_of(&job, &tasks, &pods);
            let going: BTreeSet<u32> = states.iter().filter(|(_, s)| !s.is_final()).map(|(&t, _)| t).collect();
            if going.is_disjoint(&asked) {
                continue;
            }
            let name = job.name_any();
            if going.is_subset(&asked) {
                let gone = self.jobs();
                self.ask("deleting a job", async {
                    ignore_missing(gone.delete(&name, &DeleteParams::background()).await)
                })?;
                let cancelled = TaskState::Failed { exit: None, why: "CANCELLED".into() };
                let ended = states.into_iter().map(|(t, s)| (t, if s.is_final() { s } else { cancelled.clone() }));
                self.ended
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(batch.to_owned())
                    .or_default()
                    .extend(ended);
                continue;
            }
            for (index, task) in tasks.iter().enumerate() {
                let pod = pods.get(&(name.clone(), index as u32));
                if let Some(pod) = pod.filter(|_| asked.contains(task) && going.contains(task)) {
                    let (api, pod) = (self.pods(), pod.name_any());
                    self.ask("deleting a pod", async {
                        ignore_missing(api.delete(&pod, &DeleteParams::default()).await)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
        let jobs = self.known(batch)?;
        let place = jobs.iter().find_map(|(job, tasks)| {
            let index = tasks.iter().position(|&t| t == task)?;
            Some((job.name_any(), index as u32))
        });
        let Some(place) = place else { return Ok(Vec::new()) };
        let Some(pod) = self.pods_of(batch)?.remove(&place) else { return Ok(Vec::new()) };
        let api = self.pods();
        let text = self.ask("reading a log", async {
            match api.logs(&pod.name_any(), &LogParams::default()).await {
                // The container waits to start, or the pod is gone.
                Err(kube::Error::Api(status)) if [400, 404].contains(&status.code) => Ok(String::new()),
                other => other,
            }
        })?;
        // Kubernetes gives a log as a whole.
        Ok(text.as_bytes().get(from as usize..).unwrap_or_default().to_vec())
    }
}

fn ignore_missing<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_takes() {
        assert_eq!(label("label-3f"), "label-3f");
        for odd in ["Label", "3x", "x-", &"x".repeat(41)] {
            let label = label(odd);
            assert!(label.len() <= NAME_MAX, "{label}");
            assert!(label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{label}");
        }
        assert_ne!(label("Ab"), label("aB"));
    }

    #[test]
    fn jobs_and_pods_become_states() {
        let job: Job = serde_json::from_value(json!({
            "metadata": { "name": "b-0" },
            "status": { "completedIndexes": "0,2-3", "failedIndexes": "1,4" },
        }))
        .unwrap();
        let pod = |status: Value| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n1", "containers": [] }, "status": status }))
                .unwrap()
        };
        let ended = json!({ "phase": "Failed", "containerStatuses": [{
            "name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": 7, "reason": "Error" } },
        }] });
        let unscheduled = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/3 nodes" }] });
        let pods: BTreeMap<(String, u32), Pod> = [(1, ended), (5, json!({ "phase": "Running" })), (6, unscheduled)]
            .map(|(index, status)| (("b-0".to_owned(), index), pod(status)))
            .into();
        let tasks = [10, 11, 12, 13, 14, 15, 16, 17];
        let failed = |exit, why: &str| TaskState::Failed { exit, why: why.into() };
        let expected = [
            TaskState::Succeeded,
            failed(Some(7), "Error"),
            TaskState::Succeeded,
            TaskState::Succeeded,
            failed(None, "FAILED"),
            TaskState::Running { node: "n1".into() },
            TaskState::Pending { why: "0/3 nodes".into() },
            TaskState::Pending { why: String::new() },
        ];
        assert_eq!(states_of(&job, &tasks, &pods), tasks.into_iter().zip(expected).collect());
    }
}
