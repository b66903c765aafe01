//! Ray through the REST interface of its jobs.
//!
//! Owns the package with the program, one Ray job a task, named `BATCH-TASK`, and how Ray's words are read. Ray tries
//! nothing again by itself here, and forgets every job when its head is started anew.
//!
//! Three traits of Ray shape this file. It expands `$` in the variables of a runtime environment, so they are set by the
//! entry point instead. Stopping a job that has not begun leaves it waiting; it begins later and is ended at once, so
//! each task first waits half a second for that. And packages are dropped when no job uses them, so it is looked for
//! before every submission, which also keeps it for ten minutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Cursor, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use reqwest::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    cluster::{Batch, Cluster, ClusterError, TaskState},
    command::{self, Which},
    http::{Http, Reply},
};

/// Name of the program in its package.
const PROGRAM: &str = "pipeline";
/// Time for a question.
const QUESTION: Duration = Duration::from_secs(60);
/// Time for sending the program.
const SEND: Duration = Duration::from_secs(1800);
/// Requests side by side.
const AT_ONCE: usize = 8;
/// Ray keeps a package that was looked for at least ten minutes.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Before the task's own command: room for the end of a job that was stopped before it began.
const GUARD: &str = "trap 'exit 143' TERM\nsleep 0.5\ntrap - TERM\n";
/// Exit code of `timeout` when the time was over.
const TIMED_OUT: i64 = 124;

/// How jobs are submitted to Ray.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RaySettings {
    /// Address of the dashboard, with a path where a proxy serves several clusters: `http://head:8265`.
    pub address: String,
    /// Name of the environment variable that holds the cluster's token; none sends no token.
    pub token_variable: Option<String>,
    /// Custom resources that a node has to have, such as `accelerator_type:A100: 0.01`.
    pub resources: BTreeMap<String, f64>,
    /// More of the tasks' runtime environment, such as `image_uri`.
    pub runtime_env: BTreeMap<String, Value>,
    /// Path of this program on the nodes; none sends it along.
    pub program: Option<String>,
}

/// A Ray cluster.
#[derive(Debug)]
pub struct Ray {
    settings: RaySettings,
    system: String,
    http: Http,
    binary: PathBuf,
    package: OnceLock<Package>,
}

/// The program as Ray takes it.
#[derive(Debug)]
struct Package {
    name: String,
    bytes: Vec<u8>,
}

/// A job in Ray's list, as far as it matters.
#[derive(Debug, Deserialize)]
struct Job {
    submission_id: Option<String>,
    status: String,
    message: Option<String>,
    error_type: Option<String>,
    driver_exit_code: Option<i64>,
    driver_agent_http_address: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
}

impl Ray {
    /// A client; nothing is asked yet. `binary` is this program, sent along unless the settings name another; `resolve`
    /// gives the value of an environment variable.
    pub fn new(
        settings: RaySettings,
        binary: &Path,
        resolve: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ClusterError> {
        let system = format!("ray at {}", settings.address);
        let refuse =
            |message: String, help: String| Err(ClusterError::Refused { system: system.clone(), message, help });
        let scheme = ["http://", "https://"].iter().any(|s| settings.address.starts_with(s));
        if !scheme {
            return refuse(
                format!("`{}` is no address", settings.address),
                "set `address` to the dashboard's, such as `http://head:8265`".into(),
            );
        }
        let token = match &settings.token_variable {
            None => None,
            Some(name) => match resolve(name) {
                Some(token) => Some(token),
                None => {
                    return refuse(
                        format!("the variable {name} is not set"),
                        format!("set {name} to the cluster's token"),
                    );
                }
            },
        };
        let http = Http::new(&system, &settings.address, token.as_deref())?;
        Ok(Self { settings, system, http, binary: binary.to_owned(), package: OnceLock::new() })
    }

    fn refused(&self, message: impl Into<String>, help: &str) -> ClusterError {
        ClusterError::Refused { system: self.system.clone(), message: message.into(), help: help.to_owned() }
    }

    /// What a failed request means.
    fn failed(&self, what: &str, reply: &Reply) -> ClusterError {
        let message = format!("{what}: status {}: {}", reply.status, last_words(&reply.text()));
        match reply.status {
            401 | 403 => self.refused(message, "set `token_variable` to the variable that holds the cluster's token"),
            413 => self.refused(message, "set `program` to a path of this program that all nodes have"),
            400..=499 if reply.status != 408 && reply.status != 429 => {
                self.refused(message, "check `address`, and that the cluster's Ray is at least 2.8")
            }
            // The head passes on what the agent of a node refused.
            500 if reply.text().contains("status code 400") => self.refused(message, "change this executor's settings"),
            _ => ClusterError::Unreachable { system: self.system.clone(), message },
        }
    }

    fn jobs(&self, batch: &str) -> Result<BTreeMap<u32, Job>, ClusterError> {
        let reply = self.http.send(Method::GET, "/api/jobs/", None, QUESTION)?;
        if !reply.ok() {
            return Err(self.failed("listing jobs", &reply));
        }
        let jobs: Vec<Job> = serde_json::from_slice(&reply.body).map_err(|e| {
            self.refused(format!("its list of jobs cannot be read: {e}"), "check that `address` is a Ray dashboard's")
        })?;
        Ok(jobs.into_iter().filter_map(|job| Some((task_of(batch, job.submission_id.as_deref()?)?, job))).collect())
    }

    /// The program as a package; the same bytes make the same name.
    fn package(&self) -> Result<&Package, ClusterError> {
        if let Some(package) = self.package.get() {
            return Ok(package);
        }
        let bytes = std::fs::read(&self.binary).and_then(|program| Ok(zip(&program)?)).map_err(|e| {
            self.refused(
                format!("packing this program, `{}`: {e}", self.binary.display()),
                "set `program` to a path that all nodes have",
            )
        })?;
        let name = format!("_ray_pkg_{}.zip", &blake3::hash(&bytes).to_hex()[..32]);
        Ok(self.package.get_or_init(|| Package { name, bytes }))
    }

    /// Sees to it that the cluster has the program, and keeps it for the next minutes.
    fn offer(&self) -> Result<(), ClusterError> {
        if self.settings.program.is_some() {
            return Ok(());
        }
        let package = self.package()?;
        let path = format!("/api/packages/gcs/{}", package.name);
        let reply = self.http.send(Method::GET, &path, None, QUESTION)?;
        if reply.ok() {
            return Ok(());
        }
        if reply.status != 404 {
            return Err(self.failed("looking for the program", &reply));
        }
        let reply = self.http.send(Method::PUT, &path, Some(package.bytes.clone()), SEND)?;
        if reply.ok() { Ok(()) } else { Err(self.failed("sending the program", &reply)) }
    }

    /// The request that starts one task.
    fn request(&self, batch: &Batch, task: u32) -> Result<Value, ClusterError> {
        let limit = batch.needs.time_limit;
        let prefix = limit.map_or(String::new(), |t| format!("timeout -k 10 {}", t.as_secs_f64()));
        let own = format!("./{PROGRAM}");
        let program = self.settings.program.as_ref().unwrap_or(&own);
        let mut environment: Map<String, Value> = self.settings.runtime_env.clone().into_iter().collect();
        if self.settings.program.is_none() {
            environment.insert("working_dir".into(), format!("gcs://{}", self.package()?.name).into());
        }
        let mut request = json!({
            "submission_id": id(&batch.name, task),
            "entrypoint": format!("{GUARD}{}", command::script(batch, Which::Task(task), &prefix, program)),
            "runtime_env": environment,
            // A job that asks for nothing is started on the head whatever runs there.
            "entrypoint_num_cpus": batch.needs.cores.max(1),
            "metadata": { "batch": batch.name },
        });
        if batch.needs.gpus > 0.0 {
            // Shares are taken of one GPU only.
            let gpus = if batch.needs.gpus > 1.0 { batch.needs.gpus.ceil() } else { batch.needs.gpus };
            request["entrypoint_num_gpus"] = gpus.into();
        }
        if batch.needs.memory_bytes > 0 {
            request["entrypoint_memory"] = batch.needs.memory_bytes.into();
        }
        if !self.settings.resources.is_empty() {
            request["entrypoint_resources"] = json!(self.settings.resources);
        }
        if let Some(limit) = limit {
            request["metadata"]["time_limit_s"] = limit.as_secs_f64().to_string().into();
        }
        Ok(request)
    }

    fn start(&self, batch: &Batch, task: u32) -> Result<(), ClusterError> {
        let body = self.request(batch, task)?.to_string().into_bytes();
        let reply = self.http.send(Method::POST, "/api/jobs/", Some(body), QUESTION)?;
        // A request whose answer was lost, or another process, was here before.
        if reply.ok() || reply.text().contains("already exists") {
            return Ok(());
        }
        Err(self.failed("submitting a job", &reply))
    }

    fn stop(&self, batch: &str, task: u32) -> Result<(), ClusterError> {
        let path = format!("/api/jobs/{}/stop", id(batch, task));
        let reply = self.http.send(Method::POST, &path, None, QUESTION)?;
        if reply.ok() || reply.status == 404 { Ok(()) } else { Err(self.failed("stopping a job", &reply)) }
    }
}

/// Does something for each task, several at once, until one fails.
fn each(tasks: &[u32], work: impl Fn(u32) -> Result<(), ClusterError> + Sync) -> Result<(), ClusterError> {
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let lane = || {
        while let Some(&task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(task) {
                next.store(tasks.len(), Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(tasks.len()) {
            scope.spawn(lane);
        }
        lane();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn zip(program: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o755)
        .large_file(program.len() > 1 << 31);
    writer.start_file(PROGRAM, options)?;
    writer.write_all(program)?;
    Ok(writer.finish()?.into_inner())
}

fn id(batch: &str, task: u32) -> String {
    format!("{batch}-{task}")
}

fn task_of(batch: &str, id: &str) -> Option<u32> {
    let (name, task) = id.rsplit_once('-')?;
    (name == batch).then(|| task.parse().ok())?
}

/// The end of a traceback is what it says.
fn last_words(text: &str) -> &str {
    text.lines().map(str::trim).rfind(|l| l.chars().any(char::is_alphanumeric)).unwrap_or_default()
}

fn state(job: Job) -> TaskState {
    let message = job.message.unwrap_or_default();
    match job.status.as_str() {
        "SUCCEEDED" => TaskState::Succeeded,
        "STOPPED" => TaskState::Failed { exit: None, why: "STOPPED".into() },
        "FAILED" => {
            let late =
                job.driver_exit_code == Some(TIMED_OUT) && job.metadata.is_some_and(|m| m.contains_key("time_limit_s"));
            let kind = job.error_type.unwrap_or_default();
            let why = if late {
                "TIMEOUT".to_owned()
            } else if job.driver_exit_code.is_some() {
                kind
            } else {
                format!("{kind} {}", message.lines().next().unwrap_or_default()).trim().to_owned()
            };
            TaskState::Failed { exit: job.driver_exit_code.map(|code| code as i32), why }
        }
        "PENDING" => TaskState::Pending { why: message },
        _ => {
            // `http://10.0.0.7:52365`
            let address = job.driver_agent_http_address.unwrap_or_default();
            let node = address.split("://").last().and_then(|a| a.rsplit_once(':')).map_or("", |(host, _)| host);
            TaskState::Running { node: node.to_owned() }
        }
    }
}

impl Cluster for Ray {
    fn describe(&self) -> String {
        self.system.clone()
    }

    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        command::check(&self.system, batch)?;
        let known = self.jobs(&batch.name)?;
        let new: Vec<u32> = batch.tasks.iter().copied().filter(|t| !known.contains_key(t)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.offer()?;
        let looked = Mutex::new(Instant::now());
        each(&new, |task| {
            {
                let mut looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
                if looked.elapsed() > LOOK_AGAIN {
                    self.offer()?;
                    *looked = Instant::now();
                }
            }
            self.start(batch, task)
        })
    }

    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        Ok(self.jobs(batch)?.into_iter().map(|(task, job)| (task, state(job))).collect())
    }

    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        let asked: BTreeSet<u32> = tasks.iter().copied().collect();
        let states = self.states(batch)?;
        let going: Vec<u32> =
            states.into_iter().filter(|(t, s)| asked.contains(t) && !s.is_final()).map(|(t, _)| t).collect();
        each(&going, |task| self.stop(batch, task))
    }

    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
        // Ray gives a log as a whole.
        let reply = self.http.send(Method::GET, &format!("/api/jobs/{}/logs", id(batch, task)), None, QUESTION)?;
        if reply.status == 404 {
            return Ok(Vec::new());
        }
        let value: Option<Value> = serde_json::from_slice(&reply.body).ok();
        match value.as_ref().map(|v| &v["logs"]) {
            Some(Value::String(text)) if reply.ok() => {
                Ok(text.as_bytes().get(from as usize..).unwrap_or_default().to_vec())
            }
            Some(Value::Null) if reply.ok() => Ok(Vec::new()),
            _ => Err(self.failed("reading a log", &reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, time::Duration};

    use super::*;
    use crate::cluster::Resources;

    fn ray(settings: RaySettings) -> Ray {
        Ray::new(settings, Path::new("/bin/true"), |_| None).unwrap()
    }

    fn settings() -> RaySettings {
        RaySettings { address: "http://127.0.0.1:1/".into(), ..RaySettings::default() }
    }

    #[test]
    fn a_request_says_what_a_task_needs() {
        let needs = Resources { gpus: 0.5, cores: 0, memory_bytes: 7, time_limit: Some(Duration::from_secs(60)) };
        let batch = Batch {
            name: "b".into(),
            tasks: vec![3],
            arguments: vec!["{task}".into()],
            environment: BTreeMap::from([("A".into(), "${HOME}".into())]),
            needs,
        };
        let settings =
            RaySettings { program: Some("~/p".into()), resources: BTreeMap::from([("tpu".into(), 1.0)]), ..settings() };
        let request = ray(settings).request(&batch, 3).unwrap();
        let expected = json!({
            "submission_id": "b-3",
            "entrypoint": format!("{GUARD}export A='${{HOME}}'\nexec timeout -k 10 60 \"$HOME\"/p 3\n"),
            "runtime_env": {},
            "entrypoint_num_cpus": 1,
            "entrypoint_num_gpus": 0.5,
            "entrypoint_memory": 7,
            "entrypoint_resources": { "tpu": 1.0 },
            "metadata": { "batch": "b", "time_limit_s": "60" },
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn the_package_holds_the_program_and_its_name_its_content() {
        let zipped = zip(b"#!/bin/sh").unwrap();
        assert_eq!(zipped, zip(b"#!/bin/sh").unwrap());
        let mut archive = zip::ZipArchive::new(Cursor::new(zipped)).unwrap();
        let mut file = archive.by_name(PROGRAM).unwrap();
        assert_eq!(file.unix_mode().unwrap() & 0o777, 0o755);
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"#!/bin/sh");
    }

    #[test]
    fn tokens_come_by_name_and_are_not_shown() {
        let settings = RaySettings { token_variable: Some("T".into()), ..settings() };
        let without = Ray::new(settings.clone(), Path::new("/x"), |_| None);
        assert!(matches!(without, Err(ClusterError::Refused { .. })));
        let with = Ray::new(settings, Path::new("/x"), |name| (name == "T").then(|| "secret".into())).unwrap();
        assert!(!format!("{with:?}").contains("secret"));
    }

    #[test]
    fn names_of_other_batches_are_others() {
        assert_eq!(task_of("a", "a-15"), Some(15));
        assert_eq!(task_of("a", "a-1-5"), None);
        assert_eq!(task_of("a-1", "a-1-5"), Some(5));
        assert_eq!(task_of("a", "raysubmit_x"), None);
    }

    #[test]
    fn words_of_a_traceback() {
        let text = "Traceback (most recent call last):\n  File \"x\"\nValueError: no such thing\n.\n";
        assert_eq!(last_words(text), "ValueError: no such thing");
    }

    #[test]
    fn nobody_there_is_unreachable() {
        assert!(matches!(ray(settings()).states("b"), Err(ClusterError::Unreachable { .. })));
    }
}
