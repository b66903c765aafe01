//! One machine behind the system's `ssh`.
//!
//! Owns which task runs next there and on which GPU, and that nothing runs on without us: every task hangs on a lease,
//! its standard input. It is ended when that closes or falls silent, so neither a killed client, a sleeping laptop nor a
//! cut cable leaves a process behind. There is no daemon and no memory on the other side: the states are those of this
//! process's own connections, and a process that died has no batches any more. Main memory and cores are not limited
//! there, since without a daemon nothing could.
//!
//! The machine needs a POSIX shell, coreutils (`timeout`, `cksum`) and util-linux (`setsid`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{
    cluster::{Batch, Cluster, ClusterError, TaskState},
    command,
    shell::{LOG_MAX, Shell},
    ship::Binary,
    ssh::{
        devices::{Devices, Free},
        lease::{End, Lease},
    },
};

mod devices;
mod lease;

/// Pause before a silent host, or one without a free GPU, is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Time for a short question.
const QUESTION: Duration = Duration::from_secs(60);

/// A machine behind ssh, and how much of it may be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SshSettings {
    /// Host as `ssh` takes it: a name from its config, or `user@machine`.
    pub host: String,
    /// More options for `ssh`, such as `-F FILE` or `-p 2222`.
    pub options: Vec<String>,
    /// Numbers of the GPUs that may be used, as `nvidia-smi` counts them; none is all.
    pub devices: Option<Vec<u32>>,
    /// Free memory in MiB that a GPU has to have before a task is started on it; one that others fill is left to them.
    pub free_memory_mib: u64,
    /// Most tasks side by side; none is as many as the GPUs take, and one where tasks need no GPU.
    pub tasks: Option<usize>,
    /// Path of this program there; none sends it to `folder`.
    pub program: Option<String>,
    /// Folder there for the program.
    pub folder: String,
    /// Seconds without a sign of life from here after which a task there is ended, at least 30.
    pub lease_s: u64,
}

impl Default for SshSettings {
    fn default() -> Self {
        Self {
            host: String::new(),
            options: Vec::new(),
            devices: None,
            free_memory_mib: 2048,
            tasks: None,
            program: None,
            folder: "~/.cache/pipeline".into(),
            lease_s: 90,
        }
    }
}

/// A machine behind ssh. Dropping it ends the tasks that run there.
#[derive(Debug)]
pub struct Ssh {
    binary: Binary,
    shared: Arc<Shared>,
}

/// What the threads that run tasks have in common.
#[derive(Debug)]
struct Shared {
    settings: SshSettings,
    shell: Shell,
    state: Mutex<State>,
    /// Rung when something ends, is cancelled or is dropped.
    bell: Condvar,
    /// One thread at a time asks for free GPUs and takes some.
    choice: Mutex<()>,
    logs: TempDir,
}

#[derive(Debug, Default)]
struct State {
    batches: BTreeMap<String, Entry>,
    /// Tasks that wait, first come first.
    queue: VecDeque<(String, u32)>,
    /// Threads that run tasks.
    lanes: usize,
    devices: Devices,
    /// Why the host cannot be reached, while it cannot.
    silent: Option<String>,
    closing: bool,
}

#[derive(Debug)]
struct Entry {
    batch: Arc<Batch>,
    program: Arc<str>,
    states: BTreeMap<u32, TaskState>,
    cancelled: BTreeSet<u32>,
}

impl Entry {
    fn new(batch: &Batch, program: &Arc<str>) -> Self {
        Self {
            batch: Arc::new(batch.clone()),
            program: program.clone(),
            states: BTreeMap::new(),
            cancelled: BTreeSet::new(),
        }
    }
}

impl Ssh {
    /// A client; nothing is asked yet. `binary` is this program, sent to `folder` unless the settings name another.
    /// Fails where no temporary folder can be made for the tasks' output.
    pub fn new(settings: SshSettings, binary: &Path) -> Result<Self, ClusterError> {
        let shell = Shell {
            system: format!("ssh {}", settings.host),
            ssh: Some((settings.host.clone(), settings.options.clone())),
        };
        if settings.host.is_empty() || settings.host.starts_with('-') {
            return Err(shell.refused("there is no host", "set `host` to what `ssh` takes, such as `gpubox`"));
        }
        let logs = TempDir::with_prefix("pipeline-ssh-").map_err(|e| {
            shell.refused(format!("making a temporary folder: {e}"), "make room in the folder for temporary files")
        })?;
        let shared =
            Shared { settings, shell, state: Mutex::default(), bell: Condvar::new(), choice: Mutex::default(), logs };
        Ok(Self { binary: Binary::new(binary), shared: Arc::new(shared) })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No statement leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, batch: &str, task: u32) -> PathBuf {
        self.logs.path().join(format!("{batch}-{task}.log"))
    }

    /// How many tasks of a batch may run side by side.
    fn side_by_side(&self, gpus: f64) -> Result<usize, ClusterError> {
        match self.settings.tasks {
            Some(tasks) => Ok(tasks.max(1)),
            None if gpus <= 0.0 => Ok(1),
            None => {
                let devices = match &self.settings.devices {
                    Some(gpus) => gpus.len(),
                    None => self.free_gpus()?.len(),
                };
                if (devices as f64) < gpus {
                    return Err(self.shell.refused(
                        format!("a task needs {gpus} GPUs and {devices} may be used there"),
                        "list more under `devices`, or let the stage ask for fewer",
                    ));
                }
                Ok((devices as f64 / gpus).floor() as usize)
            }
        }
    }

    /// The GPUs that may be used and their free memory now.
    fn free_gpus(&self) -> Result<Vec<Free>, ClusterError> {
        let answer = self.shell.run(devices::QUESTION, &[], None, QUESTION)?;
        let help = "install the driver's `nvidia-smi` there, or choose another machine for GPU stages";
        if !answer.ok() {
            return Err(self.shell.refused(format!("nvidia-smi: {}", answer.err), help));
        }
        let all = devices::parse(&answer.text()).ok_or_else(|| {
            self.shell.refused(format!("nvidia-smi printed something else than GPUs: {}", answer.text().trim()), help)
        })?;
        let listed = self.settings.devices.as_ref();
        Ok(all.into_iter().filter(|f| listed.is_none_or(|l| l.contains(&f.device))).collect())
    }

    /// Runs tasks until none wait.
    fn lane(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                match state.queue.pop_front() {
                    Some(next) if !state.closing => next,
                    _ => {
                        state.lanes -= 1;
                        return;
                    }
                }
            };
            self.task(&next.0, next.1);
            self.bell.notify_all();
        }
    }

    /// Runs one task to its end, or puts it back when there is no room for it.
    fn task(&self, name: &str, task: u32) {
        let found = self.state().batches.get(name).map(|e| (e.batch.clone(), e.program.clone()));
        let Some((batch, program)) = found else { return };
        let gpus = match self.take(&batch, task) {
            Ok(gpus) => gpus,
            Err(why) => return self.put_back(name, task, why),
        };
        if !self.begin(name, task) {
            self.state().devices.give(&gpus, batch.needs.gpus);
            return;
        }
        let end = self.run(&batch, &program, task, &gpus);
        let lost = matches!(end, End::Lost);
        let final_state = match end {
            End::Code(0) => TaskState::Succeeded,
            End::Code(code) => TaskState::Failed { exit: Some(code), why: String::new() },
            End::Lost => TaskState::Failed { exit: None, why: "CONNECTION".into() },
            End::Late => TaskState::Failed { exit: None, why: "TIMEOUT".into() },
            End::Cancelled => TaskState::Failed { exit: None, why: "CANCELLED".into() },
            End::NotStarted(why) => TaskState::Failed { exit: None, why },
        };
        {
            let mut state = self.state();
            state.devices.give(&gpus, batch.needs.gpus);
            if let Some(entry) = state.batches.get_mut(name) {
                entry.states.insert(task, final_state);
            }
        }
        if lost {
            // One task a lane may be lost with the host; the others wait until it answers again.
            self.wait_for_host();
        }
    }

    /// Takes the GPUs with the most free memory for a task; the error is why it has to wait.
    fn take(&self, batch: &Batch, task: u32) -> Result<Vec<u32>, String> {
        if batch.needs.gpus <= 0.0 {
            return Ok(Vec::new());
        }
        let _only_one = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.free_gpus().map_err(|e| e.to_string())?;
        let mut state = self.state();
        state
            .devices
            .take(&free, batch.needs.gpus, self.settings.free_memory_mib)
            .ok_or_else(|| format!("no GPU with {} MiB free for task {task}", self.settings.free_memory_mib))
    }

    fn put_back(&self, name: &str, task: u32, why: String) {
        let mut state = self.state();
        if let Some(entry) = state.batches.get_mut(name)
            && !entry.cancelled.contains(&task)
        {
            entry.states.insert(task, TaskState::Pending { why });
            state.queue.push_front((name.to_owned(), task));
        }
        self.pause(state);
    }

    /// Waits for [`RETRY`], or until something changes.
    fn pause(&self, state: MutexGuard<'_, State>) {
        if !state.closing {
            drop(self.bell.wait_timeout(state, RETRY));
        }
    }

    /// Marks a task as running, unless it was cancelled in the meantime.
    fn begin(&self, name: &str, task: u32) -> bool {
        let mut state = self.state();
        let closing = state.closing;
        let Some(entry) = state.batches.get_mut(name) else { return false };
        if closing || entry.cancelled.contains(&task) {
            return false;
        }
        entry.states.insert(task, TaskState::Running { node: self.settings.host.clone() });
        true
    }

    fn run(&self, batch: &Batch, program: &str, task: u32, gpus: &[u32]) -> End {
        let mut script = command::script(batch, command::Which::Task(task), "", program);
        if !gpus.is_empty() {
            let list = gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            // By the bus, as nvidia-smi counts; else CUDA counts the fastest first.
            script = format!("export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={list}\n{script}");
        }
        let lease = Lease { seconds: self.settings.lease_s.max(30), limit: batch.needs.time_limit };
        lease.run(&self.shell, &script, &self.log(&batch.name, task), || {
            let state = self.state();
            state.closing || state.batches.get(&batch.name).is_none_or(|e| e.cancelled.contains(&task))
        })
    }

    fn wait_for_host(&self) {
        loop {
            let answer = self.shell.run("exit 0", &[], None, QUESTION);
            let mut state = self.state();
            match answer {
                Ok(_) => {
                    state.silent = None;
                    return;
                }
                Err(error) => state.silent = Some(error.to_string()),
            }
            if state.closing {
                return;
            }
            self.pause(state);
        }
    }
}

impl Cluster for Ssh {
    fn describe(&self) -> String {
        format!("ssh, host {}", self.shared.settings.host)
    }

    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        let shared = &self.shared;
        command::check(&shared.shell.system, batch)?;
        let program = match &shared.settings.program {
            Some(program) => {
                shared.shell.run("exit 0", &[], None, QUESTION)?;
                program.clone()
            }
            None => self.binary.ship(&shared.shell, &shared.settings.folder)?,
        };
        let missing = shared.shell.run(
            "for c in setsid timeout; do command -v $c >/dev/null || echo $c; done",
            &[],
            None,
            QUESTION,
        )?;
        if !missing.out.is_empty() {
            let missing = missing.text().split_whitespace().collect::<Vec<_>>().join(", ");
            return Err(shared
                .shell
                .refused(format!("the machine lacks {missing}"), "install coreutils and util-linux there"));
        }
        let side_by_side = shared.side_by_side(batch.needs.gpus)?;
        let program: Arc<str> = program.into();
        let mut state = shared.state();
        state.silent = None;
        let entry = state.batches.entry(batch.name.clone()).or_insert_with(|| Entry::new(batch, &program));
        let new: Vec<u32> = batch.tasks.iter().copied().filter(|t| !entry.states.contains_key(t)).collect();
        entry.states.extend(new.iter().map(|&t| (t, TaskState::Pending { why: "QUEUED".into() })));
        state.queue.extend(new.into_iter().map(|t| (batch.name.clone(), t)));
        while state.lanes < side_by_side.min(state.queue.len()) {
            let lane = shared.clone();
            state.lanes += 1;
            let started = thread::Builder::new().name("ssh-task".into()).spawn(move || lane.lane());
            if let Err(error) = started {
                state.lanes -= 1;
                if state.lanes == 0 {
                    return Err(shared.shell.unreachable(format!("starting a thread here: {error}")));
                }
                break;
            }
        }
        Ok(())
    }

    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        let state = self.shared.state();
        if let Some(silent) = &state.silent {
            return Err(self.shared.shell.unreachable(silent));
        }
        Ok(state.batches.get(batch).map(|e| e.states.clone()).unwrap_or_default())
    }

    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        let mut state = self.shared.state();
        let State { batches, queue, .. } = &mut *state;
        if let Some(entry) = batches.get_mut(batch) {
            for task in tasks {
                match entry.states.get(task) {
                    Some(TaskState::Pending { .. }) => {
                        entry.states.insert(*task, TaskState::Failed { exit: None, why: "CANCELLED".into() });
                        entry.cancelled.insert(*task);
                    }
                    Some(TaskState::Running { .. }) => {
                        entry.cancelled.insert(*task);
                    }
                    _ => {}
                }
            }
            queue.retain(|(name, task)| name != batch || !entry.cancelled.contains(task));
        }
        drop(state);
        self.shared.bell.notify_all();
        Ok(())
    }

    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
        if !self.shared.state().batches.contains_key(batch) {
            return Ok(Vec::new());
        }
        let path = self.shared.log(batch, task);
        let read = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            match File::open(&path) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(from))?;
                    file.take(LOG_MAX as u64).read_to_end(&mut bytes)?;
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            Ok(bytes)
        };
        read().map_err(|e| self.shared.shell.unreachable(format!("reading `{}`: {e}", path.display())))
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.bell.notify_all();
    }
}
