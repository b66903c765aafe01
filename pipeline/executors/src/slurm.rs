//! Slurm through its own commands, here or on a login node behind ssh.
//!
//! Owns the job script, the names by which a later run finds its jobs again, and how `squeue`'s words are read. A batch
//! becomes one job array for every [`BLOCK`] task numbers, named `batch` or `batch+FIRST`, so that a name alone says which
//! task an array's element is. Slurm is told never to requeue: who tries again has to know what is done already.
//!
//! Ended jobs stay with the controller for a few minutes (`MinJobAge`), then with `sacct` where accounting is on, and are
//! absent afterwards. Elements cancelled before they began are not listed one by one; this process remembers them, a
//! later one finds them absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{Batch, Cluster, ClusterError, Resources, TaskState},
    command::{self, Which},
    ranges,
    shell::{self, LOG_MAX, Shell},
    ship::Binary,
    slurm::listing::{Row, accounted, listed},
};

mod listing;

/// Task numbers of one array, where the cluster's `MaxArraySize` allows it; its default is 1001.
const BLOCK: u32 = 1000;
/// Time for one command. Slurm's own commands give up on a silent controller after seconds.
const DEADLINE: Duration = Duration::from_secs(90);

/// How jobs are submitted to Slurm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlurmSettings {
    /// Host name of a login node, as `ssh` takes it, where `sbatch` is; none when it is on this machine.
    pub login: Option<String>,
    /// More options for `ssh`, such as `-F FILE`.
    pub ssh_options: Vec<String>,
    /// The cluster's `slurm.conf`, where there are several; else Slurm's default.
    pub config: Option<String>,
    /// Partition; none is the cluster's default. So it is for the next four.
    pub partition: Option<String>,
    /// Account that is charged.
    pub account: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// Reservation.
    pub reservation: Option<String>,
    /// Features that a node has to have, such as `a100|h100`.
    pub constraint: Option<String>,
    /// Generic resource of a task that needs GPUs; `{gpus}` becomes their number, fractions rounded up, since Slurm
    /// shares none by itself. Such as `gpu:a100:{gpus}`; empty asks for nothing.
    pub gres: String,
    /// Main memory in MiB for tasks that do not say what they need. It is always asked for, because clusters differ in
    /// what they give otherwise, and some give a whole node's.
    pub memory_mib: u64,
    /// Longest time of a task that does not say so itself, as `sbatch --time` takes it, such as `4:00:00`; none is the
    /// partition's default.
    pub time_limit: Option<String>,
    /// Words that stand before the program, such as `apptainer exec --nv /shared/cuda.sif`; the job's shell reads them.
    pub container: Option<String>,
    /// Path of this program on the nodes; none sends it to `folder`.
    pub program: Option<String>,
    /// Folder for the program and the tasks' output. The nodes have to see it under the same path as the machine where
    /// `sbatch` is; where they do not, give `program`, and tasks' output can only be read on the nodes.
    pub folder: String,
    /// Variables of the submitting machine that jobs get, as `sbatch --export` takes it.
    pub export: String,
    /// More options for `sbatch`, such as `--exclude=n7`.
    pub options: Vec<String>,
}

impl Default for SlurmSettings {
    fn default() -> Self {
        Self {
            login: None,
            ssh_options: Vec::new(),
            config: None,
            partition: None,
            account: None,
            qos: None,
            reservation: None,
            constraint: None,
            gres: "gpu:{gpus}".into(),
            memory_mib: 4096,
            time_limit: None,
            container: None,
            program: None,
            folder: "~/.cache/pipeline".into(),
            export: "ALL".into(),
            options: Vec::new(),
        }
    }
}

/// A cluster under Slurm.
#[derive(Debug)]
pub struct Slurm {
    settings: SlurmSettings,
    shell: Shell,
    binary: Binary,
    block: OnceLock<u32>,
    accounting: Mutex<Accounting>,
    /// What this process has seen of each batch; it outlives the controller's memory of ended jobs.
    seen: Mutex<BTreeMap<String, BTreeMap<u32, TaskState>>>,
}

/// What is known of `sacct`.
#[derive(Debug, Default)]
struct Accounting {
    /// It said that there is none.
    off: bool,
    /// Batches that it was asked about by this process.
    asked: BTreeSet<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slurm {
    /// A client; nothing is asked yet. `binary` is this program, sent to `folder` unless the settings name another.
    pub fn new(settings: SlurmSettings, binary: &Path) -> Self {
        let ssh = settings.login.clone().map(|host| (host, settings.ssh_options.clone()));
        Self {
            shell: Shell { system: "slurm".into(), ssh },
            settings,
            binary: Binary::new(binary),
            block: OnceLock::new(),
            accounting: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Runs a script where Slurm's commands are.
    fn run(&self, script: &str, arguments: &[&str], input: &[u8]) -> Result<shell::Answer, ClusterError> {
        let config = self
            .settings
            .config
            .as_ref()
            .map_or(String::new(), |c| format!("export SLURM_CONF={}\n", command::path(c)));
        let input = shell::input(input).map_err(|e| self.shell.unreachable(format!("making a temporary file: {e}")))?;
        let answer = self.shell.run(&(config + script), arguments, Some(input), DEADLINE)?;
        if answer.code == Some(127) {
            let help = match &self.settings.login {
                None => "run where Slurm's commands are, or set `login` to a host that has them".to_owned(),
                Some(login) => format!("put Slurm's commands on the path of `ssh {login}`"),
            };
            return Err(self.shell.refused(answer.err, help));
        }
        Ok(answer)
    }

    /// Task numbers of one array.
    fn block(&self) -> Result<u32, ClusterError> {
        if let Some(&block) = self.block.get() {
            return Ok(block);
        }
        let answer = self.run("exec scontrol show config", &[], b"")?;
        if !answer.ok() {
            return Err(self.shell.unreachable(format!("scontrol show config: {}", answer.err)));
        }
        let text = answer.text();
        let size = text
            .lines()
            .find_map(|l| l.trim().strip_prefix("MaxArraySize")?.trim().strip_prefix('=')?.trim().parse().ok());
        // The highest number of an element is one less than the setting.
        match size {
            Some(0..=1) => {
                Err(self.shell.refused("job arrays are switched off", "ask for MaxArraySize above 1 in slurm.conf"))
            }
            size => Ok(*self.block.get_or_init(|| size.map_or(BLOCK, |s: u32| s.min(BLOCK)))),
        }
    }

    /// This user's jobs of a batch that the controller knows.
    fn rows(&self, batch: &str) -> Result<Vec<Row>, ClusterError> {
        // Every element on a line of its own; fields without a width are neither cut off nor padded.
        let script = r#"exec squeue -h -t all -r --me -O "$1""#;
        let answer = self.run(script, &[listing::FIELDS], b"")?;
        if !answer.ok() {
            return Err(self.shell.unreachable(format!("squeue: {}", answer.err)));
        }
        Ok(listed(&answer.text(), batch))
    }

    /// Ended tasks of a batch, as far as accounting knows. Never fails: accounting is off in many clusters.
    fn accounted(&self, batch: &str) -> BTreeMap<u32, TaskState> {
        if lock(&self.accounting).off {
            return BTreeMap::new();
        }
        let script = r#"exec sacct -X -n -P -u "$(id -un)" -S now-2days -o JobID,JobName,State,ExitCode"#;
        match self.run(script, &[], b"") {
            Ok(answer) if answer.ok() => {
                lock(&self.accounting).asked.insert(batch.to_owned());
                accounted(&answer.text(), batch)
            }
            Ok(answer) => {
                lock(&self.accounting).off = answer.err.contains("disabled");
                BTreeMap::new()
            }
            Err(ClusterError::Refused { .. }) => {
                lock(&self.accounting).off = true;
                BTreeMap::new()
            }
            Err(ClusterError::Unreachable { .. }) => BTreeMap::new(),
        }
    }

    /// Everything that is known of a batch, from the controller, from accounting and from before.
    fn known(&self, batch: &str, rows: &[Row]) -> BTreeMap<u32, TaskState> {
        let live: BTreeMap<u32, TaskState> = listing::states(rows);
        let mut seen = lock(&self.seen).get(batch).cloned().unwrap_or_default();
        let gone = seen.iter().any(|(task, state)| !state.is_final() && !live.contains_key(task));
        if gone || !lock(&self.accounting).asked.contains(batch) {
            seen.extend(self.accounted(batch));
        }
        seen.retain(|_, state| state.is_final());
        seen.extend(live);
        lock(&self.seen).insert(batch.to_owned(), seen.clone());
        seen
    }

    fn options(&self, needs: &Resources) -> Vec<String> {
        let s = &self.settings;
        let memory = if needs.memory_bytes == 0 { s.memory_mib } else { needs.memory_bytes.div_ceil(1 << 20) };
        let mut options: Vec<String> =
            ["--parsable", "--no-requeue", "--nodes=1", "--ntasks=1", "--chdir=/", "--open-mode=append"]
                .map(Into::into)
                .into();
        options.push(format!("--mem={memory}M"));
        options.push(format!("--export={}", s.export));
        let mut given = |name: &str, value: Option<&String>| options.extend(value.map(|v| format!("--{name}={v}")));
        given("partition", s.partition.as_ref());
        given("account", s.account.as_ref());
        given("qos", s.qos.as_ref());
        given("reservation", s.reservation.as_ref());
        given("constraint", s.constraint.as_ref());
        let time = needs.time_limit.map(|t| {
            let seconds = t.as_secs() + u64::from(t.subsec_nanos() > 0);
            format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        });
        given("time", time.as_ref().or(s.time_limit.as_ref()));
        if needs.gpus > 0.0 && !s.gres.is_empty() {
            options.push(format!("--gres={}", s.gres.replace("{gpus}", &needs.gpus.ceil().to_string())));
        }
        if needs.cores > 0 {
            options.push(format!("--cpus-per-task={}", needs.cores));
        }
        options.extend(s.options.iter().cloned());
        options
    }

    /// Submits the tasks of one array, all of them within a block.
    fn array(&self, batch: &Batch, first: u32, tasks: &[u32], program: &str) -> Result<(), ClusterError> {
        let prefix = self.settings.container.as_deref().unwrap_or_default();
        let script = format!(
            "#!/bin/sh\ntask=$(({first} + SLURM_ARRAY_TASK_ID))\n{}",
            command::script(batch, Which::Variable, prefix, program)
        );
        let name = listing::name(&batch.name, first);
        // Slurm makes no folders for output, and fails the job where one is missing.
        let submit = format!(
            "d={}/log/{name}\nmkdir -p \"$d\" && exec sbatch --output=\"$d/%a.log\" \"$@\"\n",
            command::path(&self.settings.folder)
        );
        let mut options = self.options(&batch.needs);
        options.push(format!("--job-name={name}"));
        options.push(format!("--array={}", ranges::write(tasks.iter().map(|t| t - first))));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let answer = self.run(&submit, &options, script.as_bytes())?;
        if answer.ok() {
            return Ok(());
        }
        if passing(&answer.err) {
            return Err(self.shell.unreachable(format!("sbatch: {}", answer.err)));
        }
        Err(self.shell.refused(
            format!("sbatch {}: {}", options.join(" "), answer.err),
            "change this executor's settings, or what the stage needs",
        ))
    }
}

/// True for errors of `sbatch` after which the same request may succeed: the controller is away or busy, or the user has
/// as many jobs as allowed for now.
fn passing(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let signs = [
        "unable to contact",
        "timed out",
        "timeout",
        "temporarily",
        "connection refused",
        "connect failure",
        "zero bytes were transmitted",
        "transport endpoint",
        "communication",
        "protocol authentication error",
        "try again",
        "submit limit",
        "submitjob",
        "maxjobcount",
        "slurm_job_submit_limit",
    ];
    signs.iter().any(|sign| message.contains(sign))
}

impl Cluster for Slurm {
    fn describe(&self) -> String {
        let s = &self.settings;
        let mut text = "slurm".to_owned();
        if let Some(login) = &s.login {
            text.extend([" on ", login]);
        }
        if let Some(partition) = &s.partition {
            text.extend([", partition ", partition]);
        }
        text
    }

    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        command::check(&self.shell.system, batch)?;
        let known = self.known(&batch.name, &self.rows(&batch.name)?);
        let new: Vec<u32> = batch.tasks.iter().copied().filter(|t| !known.contains_key(t)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let program = match &self.settings.program {
            Some(program) => program.clone(),
            None => self.binary.ship(&self.shell, &self.settings.folder)?,
        };
        let block = self.block()?;
        for tasks in new.chunk_by(|a, b| a / block == b / block) {
            self.array(batch, tasks[0] / block * block, tasks, &program)?;
            // Should it end and be forgotten before anybody asks, then accounting is asked about it.
            let pending = tasks.iter().map(|&t| (t, TaskState::Pending { why: String::new() }));
            lock(&self.seen).entry(batch.name.clone()).or_default().extend(pending);
        }
        Ok(())
    }

    fn states(&self, batch: &str) -> Result<BTreeMap<u32, TaskState>, ClusterError> {
        let rows = self.rows(batch)?;
        Ok(self.known(batch, &rows))
    }

    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        let tasks: BTreeSet<u32> = tasks.iter().copied().collect();
        let rows: Vec<Row> =
            self.rows(batch)?.into_iter().filter(|r| tasks.contains(&r.task) && !r.state.is_final()).collect();
        let mut jobs: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for row in &rows {
            jobs.entry(&row.job).or_default().push(row.element);
        }
        for elements in jobs.values_mut() {
            elements.sort_unstable();
        }
        let jobs: Vec<String> =
            jobs.iter().map(|(job, elements)| format!("{job}_[{}]", ranges::write(elements.iter().copied()))).collect();
        let words: Vec<&str> = jobs.iter().map(String::as_str).collect();
        for words in words.chunks(50) {
            let answer = self.run(r#"exec scancel "$@""#, words, b"")?;
            // One that ended in the meantime is what was asked for.
            let ended = ["already complet", "Invalid job id"].iter().any(|sign| answer.err.contains(sign));
            if !answer.ok() && !ended {
                return Err(self.shell.unreachable(format!("scancel: {}", answer.err)));
            }
        }
        let mut seen = lock(&self.seen);
        let seen = seen.entry(batch.to_owned()).or_default();
        for row in rows.iter().filter(|r| matches!(r.state, TaskState::Pending { .. })) {
            seen.insert(row.task, TaskState::Failed { exit: None, why: "CANCELLED".into() });
        }
        Ok(())
    }

    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
        let block = self.block()?;
        let first = task / block * block;
        let script = format!(
            "f={}/log/{}/{}.log\n[ -e \"$f\" ] || exit 0\ntail -c \"+$1\" \"$f\" | head -c {LOG_MAX}\n",
            command::path(&self.settings.folder),
            listing::name(batch, first),
            task - first
        );
        let answer = self.run(&script, &[&(from + 1).to_string()], b"")?;
        if answer.ok() { Ok(answer.out) } else { Err(self.shell.unreachable(format!("reading a log: {}", answer.err))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_what_a_task_needs() {
        let settings = SlurmSettings {
            partition: Some("gpu".into()),
            gres: "gpu:a100:{gpus}".into(),
            time_limit: Some("1-0".into()),
            options: vec!["--exclude=n7".into()],
            ..SlurmSettings::default()
        };
        let slurm = Slurm::new(settings, Path::new("/bin/true"));
        let has = |needs: &Resources, option: &str| slurm.options(needs).iter().any(|o| o == option);
        let nothing = Resources::default();
        for option in ["--mem=4096M", "--no-requeue", "--partition=gpu", "--time=1-0", "--exclude=n7", "--export=ALL"] {
            assert!(has(&nothing, option), "{option}");
        }
        assert!(!slurm.options(&nothing).iter().any(|o| o.starts_with("--gres") || o.starts_with("--cpus")));
        let needs = Resources {
            gpus: 0.5,
            cores: 3,
            memory_bytes: (1 << 20) + 1,
            time_limit: Some(Duration::from_secs(90_061)),
        };
        for option in ["--mem=2M", "--gres=gpu:a100:1", "--cpus-per-task=3", "--time=25:01:01"] {
            assert!(has(&needs, option), "{option}");
        }
    }

    #[test]
    fn errors_that_pass_and_errors_that_last() {
        for message in [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        ] {
            assert!(passing(message), "{message}");
        }
        for message in [
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "sbatch: unrecognized option '--nonsense'",
        ] {
            assert!(!passing(message), "{message}");
        }
    }

    #[test]
    fn settings_as_users_write_them() {
        let settings: SlurmSettings =
            serde_json::from_str(r#"{ "partition": "gpu", "container": "apptainer exec x.sif" }"#).unwrap();
        assert_eq!(settings.memory_mib, 4096);
        assert!(serde_json::from_str::<SlurmSettings>(r#"{ "partitions": "gpu" }"#).is_err());
    }
}
