//! Tasks as processes of this machine, which outlive the program that submitted them.
//!
//! For a machine with several GPUs, and to see a remote job work without a cluster. A batch is a folder, a task a folder
//! in it with its output, the id of its process and, when it is over, its exit code; what is pending is begun by whoever
//! asks for states.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::{Batch, Cluster, ClusterError, TaskState};

/// How processes are started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessSettings {
    /// Tasks at once.
    pub at_once: usize,
    /// GPUs to give out, by the numbers that CUDA knows them by; each task sees its own only.
    pub devices: Vec<u32>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self { at_once: 1, devices: Vec::new() }
    }
}

/// Processes of this machine.
#[derive(Debug)]
pub struct Processes {
    settings: ProcessSettings,
    program: PathBuf,
    folder: PathBuf,
    /// One at a time starts tasks.
    starting: Mutex<()>,
}

/// The files of a task.
const STARTED: &str = "started";
const PID: &str = "pid";
const EXIT: &str = "exit";
const OUTPUT: &str = "output";
const BATCH: &str = "batch.json";
const CANCELLED: &str = "cancelled";

impl Processes {
    /// Processes that run `program`, with their folders in `folder`.
    pub fn new(settings: ProcessSettings, program: &Path, folder: &Path) -> Self {
        Self { settings, program: program.to_owned(), folder: folder.to_owned(), starting: Mutex::new(()) }
    }

    fn failed(&self, what: &Path, e: &std::io::Error) -> ClusterError {
        ClusterError::Unreachable { system: self.describe(), message: format!("`{}`: {e}", what.display()) }
    }

    fn read(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
    }

    fn state(dir: &Path) -> TaskState {
        let exit = || Self::read(&dir.join(EXIT)).and_then(|t| t.parse::<i32>().ok());
        let over = |exit: i32| match exit {
            0 => TaskState::Succeeded,
            code => TaskState::Failed { exit: Some(code), why: "it ended with an error".into() },
        };
        if let Some(code) = exit() {
            return over(code);
        }
        match Self::read(&dir.join(PID)).and_then(|t| t.parse::<i32>().ok()).and_then(rustix::process::Pid::from_raw) {
            Some(pid) if rustix::process::test_kill_process(pid).is_ok() => {
                TaskState::Running { node: "this machine".into() }
            }
            // It may have ended since the first look.
            Some(_) => exit().map_or_else(|| TaskState::Failed { exit: None, why: "its process is gone".into() }, over),
            None if dir.join(STARTED).exists() => TaskState::Running { node: "this machine".into() },
            None if dir.join(CANCELLED).exists() => TaskState::Failed { exit: None, why: "CANCELLED".into() },
            None => TaskState::Pending { why: "other tasks run".into() },
        }
    }

    /// All tasks of all batches, oldest batch name first.
    fn tasks(&self) -> BTreeMap<(String, u32), TaskState> {
        let mut tasks = BTreeMap::new();
        for batch in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = batch.file_name().to_string_lossy().into_owned();
            for task in fs::read_dir(batch.path()).into_iter().flatten().flatten() {
                if let Ok(number) = task.file_name().to_string_lossy().parse::<u32>() {
                    tasks.insert((name.clone(), number), Self::state(&task.path()));
                }
            }
        }
        tasks
    }

    /// Begins as many pending tasks as there is room for.
    fn start_pending(&self) -> Result<(), ClusterError> {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = self.tasks();
        let running = || tasks.iter().filter(|(_, s)| matches!(s, TaskState::Running { .. }));
        let mut used: Vec<u32> = running()
            .filter_map(|((b, t), _)| Self::read(&self.folder.join(b).join(t.to_string()).join("device"))?.parse().ok())
            .collect();
        let mut room = self.settings.at_once.max(1).saturating_sub(running().count());
        for ((batch, task), _) in tasks.iter().filter(|(_, s)| matches!(s, TaskState::Pending { .. })) {
            if room == 0 {
                break;
            }
            let device = self.settings.devices.iter().copied().find(|d| !used.contains(d));
            if device.is_none() && !self.settings.devices.is_empty() {
                break;
            }
            self.start(batch, *task, device)?;
            used.extend(device);
            room -= 1;
        }
        Ok(())
    }

    fn start(&self, batch: &str, task: u32, device: Option<u32>) -> Result<(), ClusterError> {
        let dir = self.folder.join(batch).join(task.to_string());
        let path = self.folder.join(batch).join(BATCH);
        let io = |e: std::io::Error| self.failed(&dir, &e);
        let whole: Batch = fs::read(&path)
            .and_then(|b| serde_json::from_slice(&b).map_err(std::io::Error::other))
            .map_err(|e| self.failed(&path, &e))?;
        let output = fs::File::create(dir.join(OUTPUT)).map_err(io)?;
        // The shell outlives this program and writes down how the task ended; files appear whole. When this program dies
        // just after starting it, the next one starts another shell, and the second of the two finds the first one's mark.
        // What is cancelled before its number can be read is not begun.
        let script = "mkdir started 2>/dev/null || exit 0; echo $$ > pid.new; mv pid.new pid; \
                      if [ -e cancelled ]; then false; else \"$@\"; fi; echo $? > exit.new; mv exit.new exit";
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "task"])
            .arg(&self.program)
            .args(whole.arguments_of(task))
            .envs(&whole.environment)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io)?)
            .stderr(output)
            // A group of its own: Ctrl-C at the terminal is for the program that waits.
            .process_group(0);
        if let Some(device) = device {
            command.env("CUDA_VISIBLE_DEVICES", device.to_string());
            fs::write(dir.join("device"), device.to_string()).map_err(io)?;
        }
        let mut child = command.spawn().map_err(io)?;
        // Until then it would be taken for pending.
        for _ in 0..500 {
            if dir.join(STARTED).exists() || child.try_wait().map_err(io)?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // While this program lives it buries its children; afterwards the system does.
        std::thread::spawn(move || child.wait());
        Ok(())
    }
}

impl Cluster for Processes {
    fn describe(&self) -> String {
        format!("processes of this machine, {} at once", self.settings.at_once.max(1))
    }

    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        let dir = self.folder.join(&batch.name);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&dir)?;
            let new = dir.join("batch.new");
            fs::write(&new, serde_json::to_vec(batch).expect("batches are plain data"))?;
            fs::rename(new, dir.join(BATCH))?;
            for task in &batch.tasks {
                fs::create_dir_all(dir.join(task.to_string()))?;
            }
            Ok(())
        };
        write().map_err(|e| self.failed(&dir, &e))?;
        self.start_pending()
    }

    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        self.start_pending()?;
        Ok(self.tasks().into_iter().filter(|((b, _), _)| b == batch).map(|((_, t), s)| (t, s)).collect())
    }

    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        for task in tasks {
            let dir = self.folder.join(batch).join(task.to_string());
            if !dir.exists() || Self::state(&dir).is_final() {
                continue;
            }
            fs::write(dir.join(CANCELLED), "").map_err(|e| self.failed(&dir, &e))?;
            let pid = Self::read(&dir.join(PID)).and_then(|t| t.parse().ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                // The shell and the program; one that is over already is no error.
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::TERM);
            }
        }
        Ok(())
    }

    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
        let path = self.folder.join(batch).join(task.to_string()).join(OUTPUT);
        let bytes = fs::read(&path).unwrap_or_default();
        Ok(bytes.get(from as usize..).unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::Resources;

    fn batch(name: &str, tasks: Vec<u32>, script: &str) -> Batch {
        Batch {
            name: name.into(),
            tasks,
            arguments: ["-c", script, "{task}"].map(str::to_owned).to_vec(),
            environment: [("SAID".to_owned(), "a 'b'".to_owned())].into(),
            needs: Resources::default(),
        }
    }

    fn wait(cluster: &Processes, batch: &str, until: impl Fn(&BTreeMap<u32, TaskState>) -> bool) {
        for _ in 0..1000 {
            if until(&cluster.states(batch).unwrap()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?}", cluster.states(batch));
    }

    #[test]
    fn tasks_run_a_few_at_a_time_and_are_known_to_the_next_program() {
        let dir = tempfile::tempdir().unwrap();
        let settings = ProcessSettings { at_once: 2, devices: vec![3, 5] };
        let new = || Processes::new(settings.clone(), Path::new("/bin/sh"), dir.path());
        let cluster = new();
        let script = "echo run >> runs; echo $0 $SAID $CUDA_VISIBLE_DEVICES; sleep .1; exit $0";
        cluster.submit(&batch("b-0", vec![0, 1, 2], script)).unwrap();
        let states = cluster.states("b-0").unwrap();
        assert_eq!(states.values().filter(|s| matches!(s, TaskState::Running { .. })).count(), 2, "{states:?}");
        drop(cluster);
        let cluster = new();
        cluster.submit(&batch("b-0", vec![0, 1, 2], script)).unwrap();
        wait(&cluster, "b-0", |s| s.values().all(TaskState::is_final));
        let states = cluster.states("b-0").unwrap();
        assert_eq!(states[&0], TaskState::Succeeded);
        assert!(matches!(states[&2], TaskState::Failed { exit: Some(2), .. }));
        for task in 0..3 {
            let runs = fs::read_to_string(dir.path().join(format!("b-0/{task}/runs"))).unwrap();
            assert_eq!(runs, "run\n", "task {task} ran once");
            let said = String::from_utf8(cluster.log("b-0", task, 2).unwrap()).unwrap();
            assert!(said == "a 'b' 3\n" || said == "a 'b' 5\n", "{said}");
        }
        assert!(cluster.states("unknown").unwrap().is_empty());
    }

    #[test]
    fn pending_and_running_tasks_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Processes::new(ProcessSettings::default(), Path::new("/bin/sh"), dir.path());
        cluster.submit(&batch("b-0", vec![0, 1], "sleep 60 & wait")).unwrap();
        wait(&cluster, "b-0", |s| matches!(s[&0], TaskState::Running { .. }));
        cluster.cancel("b-0", &[0, 1, 7]).unwrap();
        wait(&cluster, "b-0", |s| s.values().all(TaskState::is_final));
        assert!(cluster.states("b-0").unwrap().values().all(|s| matches!(s, TaskState::Failed { .. })));
    }
}
