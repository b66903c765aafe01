//! A stand-in for a Kubernetes API server with one node: 8 cores, two GPUs. It knows Indexed Jobs, their pods and logs,
//! as far as the client asks for them, and carries out the commands as processes of this machine.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it skips and stops where it fails")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

const CORES: u64 = 8;
const GPUS: u64 = 2;

pub struct StandIn {
    port: u16,
    folder: tempfile::TempDir,
    listener: Arc<Mutex<Option<TcpListener>>>,
}

#[derive(Default)]
struct World {
    jobs: BTreeMap<String, Value>,
    pods: BTreeMap<String, Running>,
}

struct Running {
    value: Value,
    child: Option<Child>,
    log: PathBuf,
    cores: u64,
    gpus: u64,
}

impl StandIn {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = Arc::new(Mutex::new(Some(listener)));
        let folder = tempfile::tempdir().unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let (accepting, served) = (listener.clone(), world.clone());
        thread::spawn(move || {
            loop {
                let accepted = accepting.lock().unwrap().as_ref().and_then(|l| l.accept().ok());
                if let Some((stream, _)) = accepted {
                    let world = served.clone();
                    thread::spawn(move || serve(stream, &world));
                } else {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let logs = folder.path().to_owned();
        thread::spawn(move || {
            loop {
                world.lock().unwrap().turn(&logs);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { port, folder, listener }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn silence(&self) {
        *self.listener.lock().unwrap() = None;
    }

    pub fn listen(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        *self.listener.lock().unwrap() = Some(listener);
    }
}

impl World {
    /// What controller, scheduler and node do in a moment.
    fn turn(&mut self, logs: &Path) {
        for pod in self.pods.values_mut() {
            let Some(status) = pod.child.as_mut().and_then(|c| c.try_wait().unwrap()) else { continue };
            pod.child = None;
            // A signal is 128 and its number, as container runtimes say it.
            let code = status.code().unwrap_or(137);
            let reason = if code == 0 { "Completed" } else { "Error" };
            pod.value["status"] = json!({
                "phase": if code == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{ "name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": { "exitCode": code, "reason": reason } } }],
            });
            let (job, index) = owner(&pod.value);
            end(self.jobs.get_mut(&job).unwrap(), index, code == 0);
        }
        for (name, job) in &self.jobs {
            let spec = &job["spec"];
            for index in 0..spec["completions"].as_u64().unwrap() {
                let mine =
                    self.pods.values().filter(|p| p.child.is_some() && owner(&p.value).0 == *name).count() as u64;
                let key = format!("{name}-{index}-x");
                if mine >= spec["parallelism"].as_u64().unwrap()
                    || self.pods.contains_key(&key)
                    || has_ended(job, index)
                {
                    continue;
                }
                let container = &spec["template"]["spec"]["containers"][0];
                let amount =
                    |of: &str, what: &str| container["resources"][of][what].as_str().map_or(0, |n| n.parse().unwrap());
                let (cores, gpus) = (amount("requests", "cpu"), amount("limits", "nvidia.com/gpu"));
                let used =
                    |f: fn(&Running) -> u64| self.pods.values().filter(|p| p.child.is_some()).map(f).sum::<u64>();
                if used(|p| p.cores) + cores > CORES || used(|p| p.gpus) + gpus > GPUS {
                    continue;
                }
                let log = logs.join(&key);
                let child = start(container, index, &log);
                let mut labels = spec["template"]["metadata"]["labels"].clone();
                labels["batch.kubernetes.io/job-name"] = name.as_str().into();
                let value = json!({
                    "metadata": { "name": key, "labels": labels,
                        "annotations": { "batch.kubernetes.io/job-completion-index": index.to_string() } },
                    "spec": { "nodeName": "node", "containers": [] },
                    "status": { "phase": "Running" },
                });
                self.pods.insert(key, Running { value, child: Some(child), log, cores, gpus });
            }
        }
    }

    fn answer(&mut self, method: &str, path: &str, query: &str, body: &[u8]) -> (u16, String) {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let at = parts.iter().position(|&p| p == "namespaces").unwrap_or(0);
        let (namespace, kind, rest) = (parts[at + 1], parts[at + 2], &parts[at + 3..]);
        let status = |code: u16, reason: &str| {
            let text = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "reason": reason,
                "status": if code < 300 { "Success" } else { "Failure" }, "message": format!("{kind} {rest:?}: {reason}") });
            (code, text.to_string())
        };
        if namespace != "ns" {
            return status(403, "Forbidden");
        }
        let selected = |value: &Value| {
            let selector = query.split('&').find_map(|q| q.strip_prefix("labelSelector="));
            let (key, wanted) = selector.unwrap().split_once("%3D").unwrap();
            value["metadata"]["labels"][key] == wanted
        };
        let list = |kind: &str, items: Vec<&Value>| {
            (200, json!({ "kind": kind, "apiVersion": "v1", "metadata": {}, "items": items }).to_string())
        };
        match (method, kind, rest) {
            ("POST", "jobs", []) => {
                let mut job: Value = serde_json::from_slice(body).unwrap();
                let spec = &job["spec"];
                let pod = &spec["template"]["spec"];
                let valid = spec["completionMode"] == "Indexed"
                    && spec["completions"].as_u64().is_some_and(|c| (1..=100_000).contains(&c))
                    && spec["backoffLimitPerIndex"] == 0
                    && pod["restartPolicy"] == "Never"
                    && pod["containers"][0]["image"].as_str().is_some_and(|i| !i.is_empty());
                let name = job["metadata"]["name"].as_str().unwrap().to_owned();
                if !valid || name.len() > 57 {
                    return status(422, "Invalid");
                }
                if self.jobs.contains_key(&name) {
                    return status(409, "AlreadyExists");
                }
                job["status"] = json!({ "completedIndexes": "", "failedIndexes": "" });
                let text = job.to_string();
                self.jobs.insert(name, job);
                (201, text)
            }
            ("GET", "jobs", []) => list("JobList", self.jobs.values().filter(|j| selected(j)).collect()),
            ("DELETE", "jobs", [name]) => {
                if self.jobs.remove(*name).is_none() {
                    return status(404, "NotFound");
                }
                self.pods.retain(|_, pod| {
                    let keep = owner(&pod.value).0 != *name;
                    if !keep {
                        kill(pod);
                    }
                    keep
                });
                status(200, "")
            }
            ("GET", "pods", []) => {
                list("PodList", self.pods.values().map(|p| &p.value).filter(|p| selected(p)).collect())
            }
            ("DELETE", "pods", [name]) => {
                let Some(mut pod) = self.pods.remove(*name) else { return status(404, "NotFound") };
                if pod.child.is_some() {
                    kill(&mut pod);
                    let (job, index) = owner(&pod.value);
                    end(self.jobs.get_mut(&job).unwrap(), index, false);
                }
                status(200, "")
            }
            ("GET", "pods", [name, "log"]) => match self.pods.get(*name) {
                Some(pod) => (200, fs::read_to_string(&pod.log).unwrap()),
                None => status(404, "NotFound"),
            },
            _ => panic!("{method} {path} is not known here"),
        }
    }
}

fn owner(pod: &Value) -> (String, u64) {
    let meta = &pod["metadata"];
    let job = meta["labels"]["batch.kubernetes.io/job-name"].as_str().unwrap().to_owned();
    (job, meta["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap().parse().unwrap())
}

fn has_ended(job: &Value, index: u64) -> bool {
    ["completedIndexes", "failedIndexes"]
        .iter()
        .any(|key| job["status"][key].as_str().unwrap().split(',').any(|i| i == index.to_string()))
}

fn end(job: &mut Value, index: u64, good: bool) {
    let list = &mut job["status"][if good { "completedIndexes" } else { "failedIndexes" }];
    let before = list.as_str().unwrap();
    let comma = if before.is_empty() { "" } else { "," };
    *list = format!("{before}{comma}{index}").into();
}

fn kill(pod: &mut Running) {
    if let Some(mut child) = pod.child.take() {
        Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status().unwrap();
        child.wait().unwrap();
    }
}

/// `$$` is `$`, and `$(NAME)` the value of a variable that is set for the container; everything else stays.
fn expand(text: &str, index: u64) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("$(JOB_COMPLETION_INDEX)") {
            out += &index.to_string();
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

fn start(container: &Value, index: u64, log: &Path) -> Child {
    let words: Vec<String> =
        container["command"].as_array().unwrap().iter().map(|w| expand(w.as_str().unwrap(), index)).collect();
    let log = File::create(log).unwrap();
    Command::new(&words[0])
        .args(&words[1..])
        .env("JOB_COMPLETION_INDEX", index.to_string())
        .current_dir("/")
        .process_group(0)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// One request a connection.
fn serve(stream: TcpStream, world: &Mutex<World>) {
    stream.set_nonblocking(false).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some((_, value)) = header.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (path, query) = words[1].split_once('?').unwrap_or((&words[1], ""));
    let (code, text) = world.lock().unwrap().answer(&words[0], path, query, &body);
    let kind = if text.starts_with('{') { "application/json" } else { "text/plain" };
    let head = format!(
        "HTTP/1.1 {code} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    let _ = (&stream).write_all((head + &text).as_bytes());
}
