//! What every [`Cluster`] has to do, against a running server. Tasks leave marks in a folder that the server's machine
//! shares with the test, which holds for servers on loopback.
#![allow(dead_code, reason = "each target uses what its system has")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it skips and stops where it fails")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use executors::cluster::{Batch, Cluster, ClusterError, Resources, TaskState};

/// Time without any change after which a test gives up.
const PATIENCE: Duration = Duration::from_secs(100);

/// A system under test.
pub trait Server {
    /// The variable that says where it runs.
    const VARIABLE: &'static str;
    /// Ended tasks are still known when the server is started again.
    const REMEMBERS: bool;
    /// The server's answer is needed for states; else the client has them itself.
    const STATES_FROM_SERVER: bool = true;
    /// Tasks of the large batch that are waited for; the others are cancelled.
    const WAITED_FOR: usize = 300;

    /// Where the server runs, if it does.
    fn place() -> Option<String> {
        std::env::var(Self::VARIABLE).ok()
    }
    /// A client of the server that runs in `place`, which runs the program `binary`.
    fn connect(place: &str, binary: &Path) -> Box<dyn Cluster>;
    /// What a task needs, such that no more than one or two run at a time.
    fn narrow() -> Resources;
    /// What a task needs, such that many run at a time.
    fn wide() -> Resources;
    /// Stops what answers the client. Tasks may go on.
    fn stop(place: &str);
    /// Starts it again.
    fn start(place: &str);
}

/// Calls one of the scripts of `tests/servers`.
pub fn server(script: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers").join(script);
    let out = Command::new(&path).args(arguments).output().unwrap();
    assert!(out.status.success(), "{} {arguments:?}: {}", path.display(), String::from_utf8_lossy(&out.stderr));
}

/// Batches of this process so far, each with a name of its own.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Tests share the server, and some stop it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One test's client, with a folder for marks.
pub struct Bench {
    pub cluster: Box<dyn Cluster>,
    pub place: String,
    pub folder: tempfile::TempDir,
    name: String,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// None, said aloud, where no server runs.
    pub fn new<S: Server>() -> Option<Self> {
        let Some(place) = S::place() else {
            eprintln!("SKIPPED: no server; `tests/servers/run` starts one and sets {}", S::VARIABLE);
            return None;
        };
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("program with space");
        // The program that is shipped: it takes a script's text first, as `sh -c` does.
        fs::write(&binary, "#!/bin/sh\nscript=$1\nshift\nexec sh -c \"$script\" program \"$@\"\n").unwrap();
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Some(Self { cluster: S::connect(&place, &binary), place, folder, name, _turn: turn })
    }

    pub fn binary(&self) -> PathBuf {
        self.folder.path().join("program with space")
    }

    pub fn mark(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Tasks that run a script; `{marks}` in it is the folder.
    pub fn batch(&self, tasks: impl IntoIterator<Item = u32>, script: &str, needs: Resources) -> Batch {
        let script = script.replace("{marks}", self.folder.path().to_str().unwrap());
        Batch {
            name: self.name.clone(),
            tasks: tasks.into_iter().collect(),
            arguments: vec![script],
            environment: BTreeMap::new(),
            needs,
        }
    }

    pub fn states(&self) -> BTreeMap<u32, TaskState> {
        patiently(|| self.cluster.states(&self.name))
    }

    /// Waits until the states are as asked.
    pub fn wait(&self, what: &str, ready: impl Fn(&BTreeMap<u32, TaskState>) -> bool) -> BTreeMap<u32, TaskState> {
        let mut changed = Instant::now();
        let mut before = BTreeMap::new();
        loop {
            let states = self.states();
            if ready(&states) {
                return states;
            }
            if states != before {
                (changed, before) = (Instant::now(), states);
            }
            assert!(changed.elapsed() < PATIENCE, "{what}: still {before:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn wait_for_end(&self, tasks: usize) -> BTreeMap<u32, TaskState> {
        self.wait("all ended", |s| s.len() == tasks && s.values().all(TaskState::is_final))
    }

    pub fn wait_for_file(&self, name: &str) {
        let start = Instant::now();
        while !self.mark(name).exists() {
            assert!(start.elapsed() < PATIENCE, "no file {name}: {:?}", self.states());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self, task: u32, from: u64) -> String {
        String::from_utf8(self.cluster.log(&self.name, task, from).unwrap()).unwrap()
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

pub fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Repeats a request that a slow server did not answer in time, as callers do.
fn patiently<T>(request: impl Fn() -> Result<T, ClusterError>) -> T {
    let start = Instant::now();
    loop {
        match request() {
            Err(ClusterError::Unreachable { .. }) if start.elapsed() < 2 * PATIENCE => {}
            other => return other.unwrap(),
        }
    }
}

fn succeeded(states: &BTreeMap<u32, TaskState>) -> bool {
    states.values().all(|s| *s == TaskState::Succeeded)
}

fn is_unreachable<T: std::fmt::Debug>(result: Result<T, ClusterError>) {
    assert!(matches!(result, Err(ClusterError::Unreachable { .. })), "{result:?}");
}

fn ended_or_absent(state: Option<&TaskState>) -> bool {
    state.is_none_or(|s| matches!(s, TaskState::Failed { .. }))
}

pub fn runs_and_tells<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let script = "echo out $1; echo err >&2; while ! [ -e '{marks}/go' ]; do sleep 0.1; done; echo done";
    let mut batch = bench.batch([0, 3], script, S::wide());
    batch.arguments.push("{task}".into());
    bench.cluster.submit(&batch).unwrap();
    bench.wait("both running", |s| s.len() == 2 && s.values().all(|s| matches!(s, TaskState::Running { .. })));
    fs::write(bench.mark("go"), "").unwrap();
    assert!(succeeded(&bench.wait_for_end(2)));
    for (task, line) in [(0, "out 0"), (3, "out 3")] {
        let log = bench.log(task, 0);
        for line in [line, "err", "done"] {
            assert!(log.lines().any(|l| l == line), "{log}");
        }
        let at = log.rfind("done").unwrap() as u64;
        assert_eq!(bench.log(task, at), log[at as usize..]);
        assert_eq!(bench.log(task, log.len() as u64), "");
        assert_eq!(bench.log(task, log.len() as u64 + 100), "");
    }
    assert!(!bench.cluster.describe().is_empty());
}

pub fn arguments_and_environment_arrive_unchanged<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let script =
        r#"for a in "$@" "$VALUE"; do printf '%s\0' "$a"; done >'{marks}/words' && mv '{marks}/words' '{marks}/w'"#;
    let words = [
        "a b",
        "",
        "it's",
        "\"$HOME\" `id` \\ ${HOME} !x",
        "*",
        "--x={task}",
        "line\nline\ttab",
        "ü 漢",
        "%a {task}{task}",
        "~",
    ];
    let value = "two  spaces, 'quotes', \"$HOME\", ${HOME}, %j\nand a line";
    let mut batch = bench.batch([12], script, S::wide());
    batch.arguments.extend(words.map(str::to_owned));
    batch.environment.insert("VALUE".into(), value.into());
    bench.cluster.submit(&batch).unwrap();
    assert!(succeeded(&bench.wait_for_end(1)), "{:?} {}", bench.states(), bench.log(12, 0));
    let written = fs::read_to_string(bench.mark("w")).unwrap();
    let read: Vec<&str> = written.strip_suffix('\0').unwrap().split('\0').collect();
    let mut expected = batch.arguments_of(12)[1..].to_vec();
    expected.push(value.into());
    assert_eq!(read, expected);
}

pub fn the_same_batch_twice_starts_nothing_twice<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let script = "echo $1 >>'{marks}/runs'";
    let mut batch = bench.batch([0, 1, 2], script, S::wide());
    batch.arguments.push("{task}".into());
    bench.cluster.submit(&batch).unwrap();
    bench.cluster.submit(&batch).unwrap();
    bench.wait_for_end(3);
    bench.cluster.submit(&batch).unwrap();
    // A task more under the same name: it alone is new.
    batch.tasks.push(3);
    bench.cluster.submit(&batch).unwrap();
    assert!(succeeded(&bench.wait_for_end(4)));
    let mut runs = lines(&bench.mark("runs"));
    runs.sort();
    assert_eq!(runs, ["0", "1", "2", "3"]);
}

/// As the one before, but the second request comes from a process that knows nothing.
pub fn a_new_client_finds_the_batch_again<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let batch = bench.batch([5, 6], "echo x >>'{marks}/runs'", S::wide());
    bench.cluster.submit(&batch).unwrap();
    let second = S::connect(&bench.place, &bench.binary());
    second.submit(&batch).unwrap();
    bench.wait_for_end(2);
    assert!(succeeded(&second.states(&batch.name).unwrap()));
    assert_eq!(lines(&bench.mark("runs")).len(), 2);
}

pub fn a_pending_task_is_cancelled<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    // Twenty times more than run at once, so that the last one waits.
    let batch = bench.batch(0..20, "echo $$ >>'{marks}/runs'; exec sleep 100", S::narrow());
    bench.cluster.submit(&batch).unwrap();
    bench.wait("one runs, the last waits", |s| {
        s.values().any(|s| matches!(s, TaskState::Running { .. }))
            && matches!(s.get(&19), Some(TaskState::Pending { .. }))
    });
    let running = |s: &BTreeMap<u32, TaskState>| s.values().filter(|s| matches!(s, TaskState::Running { .. })).count();
    let waiting: Vec<u32> =
        bench.states().iter().filter(|(_, s)| matches!(s, TaskState::Pending { .. })).map(|(&t, _)| t).collect();
    bench.cluster.cancel(bench.name(), &waiting).unwrap();
    assert!(running(&bench.states()) > 0, "a task was ended that was not meant");
    // The first ones end, which makes room for those that wait.
    bench.wait_for_file("runs");
    let all: Vec<u32> = (0..20).collect();
    bench.cluster.cancel(bench.name(), &all).unwrap();
    bench.wait("none left", |s| all.iter().all(|t| ended_or_absent(s.get(t))));
    thread::sleep(Duration::from_secs(1));
    let runs = lines(&bench.mark("runs")).len();
    assert!(
        runs <= all.len() - waiting.len(),
        "{runs} tasks did something, of {} that were not cancelled before",
        all.len() - waiting.len()
    );
    bench.cluster.cancel(bench.name(), &all).unwrap();
}

pub fn a_running_task_is_cancelled<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    // It says when it goes on; a child of it, too.
    let script = "(while :; do echo x >>'{marks}/child'; sleep 0.1; done) & while :; do echo x >>'{marks}/alive'; sleep 0.1; done";
    bench.cluster.submit(&bench.batch([0, 1], script, S::wide())).unwrap();
    bench.wait("running", |s| s.values().filter(|s| matches!(s, TaskState::Running { .. })).count() == 2);
    bench.wait_for_file("alive");
    bench.cluster.cancel(bench.name(), &[0, 1]).unwrap();
    let states = bench.wait_for_end(2);
    assert!(states.values().all(|s| matches!(s, TaskState::Failed { .. })), "{states:?}");
    thread::sleep(Duration::from_millis(500));
    let before = (lines(&bench.mark("alive")).len(), lines(&bench.mark("child")).len());
    thread::sleep(Duration::from_secs(1));
    assert_eq!((lines(&bench.mark("alive")).len(), lines(&bench.mark("child")).len()), before);
}

pub fn a_failing_task_keeps_its_exit_code<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let mut batch = bench.batch([1, 2, 40], "echo about to fail; exit $1", S::wide());
    batch.arguments.push("{task}".into());
    bench.cluster.submit(&batch).unwrap();
    for (task, state) in bench.wait_for_end(3) {
        assert!(
            matches!(state, TaskState::Failed { exit: Some(exit), .. } if exit == task as i32),
            "{task}: {state:?}"
        );
        assert!(bench.log(task, 0).contains("about to fail"));
    }
}

pub fn what_was_never_submitted_is_absent<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    assert_eq!(bench.states(), BTreeMap::new());
    bench.cluster.cancel(bench.name(), &[0, 1]).unwrap();
    assert_eq!(bench.log(0, 0), "");
    // A name that another's begins with is another name.
    let batch = bench.batch([1], "true", S::wide());
    bench.cluster.submit(&Batch { name: format!("{}-1", batch.name), ..batch.clone() }).unwrap();
    assert_eq!(bench.states(), BTreeMap::new());
    let refused = bench.cluster.submit(&Batch { name: "not a name".into(), ..batch });
    assert!(matches!(refused, Err(ClusterError::Refused { .. })), "{refused:?}");
}

pub fn a_server_that_is_away<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let batch = |tasks| bench.batch(tasks, "echo x >>'{marks}/runs'", S::wide());
    bench.cluster.submit(&batch(vec![0])).unwrap();
    bench.wait_for_end(1);
    S::stop(&bench.place);
    let away = batch(vec![0, 1]);
    is_unreachable(bench.cluster.submit(&away));
    // Nothing cached stands in for an answer.
    is_unreachable(S::connect(&bench.place, &bench.binary()).submit(&away));
    if S::STATES_FROM_SERVER {
        is_unreachable(bench.cluster.states(bench.name()));
        is_unreachable(bench.cluster.cancel(bench.name(), &[0]));
    }
    S::start(&bench.place);
    let states = bench.states();
    if S::REMEMBERS {
        assert_eq!(states, BTreeMap::from([(0, TaskState::Succeeded)]));
    } else {
        assert_eq!(states, BTreeMap::new());
    }
    bench.cluster.submit(&away).unwrap();
    assert!(succeeded(&bench.wait_for_end(2)));
    assert_eq!(lines(&bench.mark("runs")).len(), if S::REMEMBERS { 2 } else { 3 });
}

pub fn three_hundred_tasks<S: Server>() {
    let Some(bench) = Bench::new::<S>() else { return };
    let mut batch = bench.batch(0..300, "echo $1 >>'{marks}/runs'", S::wide());
    batch.arguments.push("{task}".into());
    let start = Instant::now();
    patiently(|| bench.cluster.submit(&batch));
    let submitted = start.elapsed();
    let start = Instant::now();
    let known = bench.states().len();
    let asked = start.elapsed();
    assert_eq!(known, 300);
    let start = Instant::now();
    let ended = |s: &BTreeMap<u32, TaskState>| s.values().filter(|s| s.is_final()).count();
    bench.wait("enough ended", |s| ended(s) >= S::WAITED_FOR);
    let ran = start.elapsed();
    eprintln!(
        "{}: 300 tasks: submit {:.2} s, states {:.3} s, {} ended after {:.1} s",
        bench.cluster.describe(),
        submitted.as_secs_f64(),
        asked.as_secs_f64(),
        S::WAITED_FOR,
        ran.as_secs_f64()
    );
    if S::WAITED_FOR < 300 {
        patiently(|| bench.cluster.cancel(bench.name(), &batch.tasks));
        let mut runs = lines(&bench.mark("runs"));
        runs.sort();
        runs.dedup();
        assert!(runs.len() >= S::WAITED_FOR);
        // Where stopped tasks begin all the same, hundreds of them would be in the other tests' way for minutes.
        S::stop(&bench.place);
        S::start(&bench.place);
        return;
    }
    assert!(succeeded(&bench.states()));
    let mut runs: Vec<u32> = lines(&bench.mark("runs")).iter().map(|l| l.parse().unwrap()).collect();
    runs.sort_unstable();
    assert_eq!(runs, batch.tasks);
}

/// The suite for one system.
#[macro_export]
macro_rules! conformance {
    ($server:ty, $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                suite::$case::<$server>();
            }
        )*
    };
    ($server:ty) => {
        conformance!($server,
            runs_and_tells
            arguments_and_environment_arrive_unchanged
            the_same_batch_twice_starts_nothing_twice
            a_pending_task_is_cancelled
            a_running_task_is_cancelled
            a_failing_task_keeps_its_exit_code
            what_was_never_submitted_is_absent
            a_server_that_is_away
            three_hundred_tasks
        );
    };
}
