//! The `command` stage: any program as a part of the pipeline, with declared inputs and outputs.
//!
//! Owns how artifacts become folders for a program and how the folders it fills become artifacts again. Refuses to own
//! what the program does: the same inputs, settings and program file are taken to give the same outputs.
//!
//! ```yaml
//! stages:
//!   clean:
//!     uses: command
//!     run: ["python3", "clean.py", "{in.images}", "{out.images}"]
//!     inputs: { images: images }
//!     outputs: { images: images }
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use engine::{
    AnyStage, Context, Descriptor, Digest, Facts, Level, Needs, Outcome, Port, Settings, Stage, StageError, StoreError,
    artifact::ArtifactWriter,
    item::{ErasedItems, ItemIdentity},
    view::{InputFiles, materialise},
};
use rustix::process::{Pid, Signal, kill_process_group};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Kinds whose content is any tree of files, so that a program can write them.
const TREE_KINDS: [&str; 4] = [artifacts::FILES, artifacts::IMAGES, "model", "predictions"];
/// Lines of the program's own words that a failure repeats.
const TAIL_LINES: usize = 15;
/// Lines that wait to be logged before the program has to wait too.
const LINES_WAITING: usize = 1000;
/// How often it is looked whether the program ended or has to.
const POLL: Duration = Duration::from_millis(20);
/// How long the lines of a program that ended are read on; streams that something else holds open never end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Settings of a command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The program and its arguments. `{in.PORT}` and `{out.PORT}` become folders, `{scratch}` a folder that survives
    /// an interruption. There is no shell in between. No default.
    pub run: Vec<String>,
    /// What it reads: port name -> kind of artifact. Default none.
    pub inputs: BTreeMap<String, String>,
    /// What it writes: port name -> kind, one of files, images, model, predictions. Default none.
    pub outputs: BTreeMap<String, String>,
    /// Any text; change it when the program changed in a way that its file does not show. Default empty.
    pub version: String,
    /// Cores that it can use. Default 1.
    pub cores: Option<usize>,
    /// Memory that it needs, in megabytes. Default 256.
    pub memory_mb: Option<u64>,
}

/// The stage. Its ports are settings, so it is registered with `Registry::add_any`.
pub struct CommandStage;

impl CommandStage {
    fn describe_config(config: &Config) -> Result<Descriptor, StageError> {
        if config.run.is_empty() {
            return Err(wrong("run", "it needs a program and its arguments, such as [\"python3\", \"clean.py\"]"));
        }
        if config.outputs.is_empty() {
            return Err(wrong("outputs", "a stage without outputs changes nothing; name at least one"));
        }
        for (port, kind) in &config.outputs {
            if !TREE_KINDS.contains(&kind.as_str()) {
                let message = format!("a command can write {}, and not {kind}", TREE_KINDS.join(", "));
                return Err(wrong(&format!("outputs.{port}"), &message));
            }
        }
        let ports = |map: &BTreeMap<String, String>| map.iter().map(|(n, k)| Port::new(n, k)).collect();
        Ok(Descriptor {
            inputs: ports(&config.inputs),
            outputs: ports(&config.outputs),
            ..Stage::descriptor(&CommandStage)
        })
    }
}

fn wrong(key: &str, message: &str) -> StageError {
    StageError::Config { key: key.into(), message: message.into() }
}

impl Stage for CommandStage {
    type Config = Config;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "command".into(),
            version: 1,
            about: "runs a program of your own on folders made of its inputs".into(),
            inputs: vec![],
            outputs: vec![],
            items: None,
        }
    }

    fn needs(&self, config: &Config) -> Needs {
        let memory = config.memory_mb.map_or(Needs::default().memory_bytes, |mb| mb << 20);
        Needs { cores: config.cores.unwrap_or(1).max(1), memory_bytes: memory, ..Needs::default() }
    }

    /// Files that the command line names (the script, say) belong to the key by their content.
    fn fingerprint(&self, config: &Config) -> Value {
        let files: BTreeMap<&String, Digest> =
            config.run.iter().filter_map(|arg| Some((arg, Digest::of(&fs::read(arg).ok()?)))).collect();
        json!({ "files": files })
    }

    fn run(&self, config: &Config, ctx: &Context) -> Result<Outcome, StageError> {
        let scratch = ctx.scratch()?.to_owned();
        let out = scratch.join("out");
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |e| StageError::from(StoreError::io(action, &path, 0)(e))
        };
        // A program that was cut off may have left half a file; its outputs start empty, its scratch folder stays.
        if out.exists() {
            fs::remove_dir_all(&out).map_err(io("removing", &out))?;
        }
        let own = scratch.join("own");
        let mut folders: BTreeMap<String, PathBuf> = [("scratch".to_owned(), own)].into();
        for port in config.inputs.keys() {
            let view = materialise(ctx.store(), ctx.input(port)?, InputFiles::Copy)?;
            folders.insert(format!("in.{port}"), view);
        }
        for port in config.outputs.keys() {
            folders.insert(format!("out.{port}"), out.join(port));
        }
        for (name, folder) in &folders {
            if !name.starts_with("in.") {
                fs::create_dir_all(folder).map_err(io("creating folder", folder))?;
            }
        }
        let args: Vec<String> = config.run.iter().map(|a| fill(a, &folders)).collect::<Result<_, _>>()?;
        execute(&args, ctx)?;
        for (port, kind) in &config.outputs {
            let mut writer = ArtifactWriter::new(ctx.store());
            let folder = out.join(port);
            let files = put_tree(&folder, &folder, &mut writer)?;
            if files == 0 {
                return Err(StageError::input(
                    format!("`{}` wrote no file for its output `{port}`", config.run[0]),
                    format!("it has to put them into the folder that {{out.{port}}} stands for"),
                ));
            }
            let artifact = writer.finish(kind, 1, Value::Null)?;
            ctx.output(port, artifact)?;
            ctx.metric(&format!("{port}_files"), files as f64);
        }
        Ok(Outcome::Done)
    }
}

/// Replaces `{…}` by folders.
fn fill(arg: &str, folders: &BTreeMap<String, PathBuf>) -> Result<String, StageError> {
    let mut text = arg.to_owned();
    for (name, folder) in folders {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        text = text.replace(&format!("{{{name}}}"), &folder.to_string_lossy());
    }
    let unknown = text.split('{').skip(1).find_map(|t| t.split_once('}').map(|(name, _)| name));
    match unknown.filter(|n| n.starts_with("in.") || n.starts_with("out.")) {
        Some(name) => {
            let known: Vec<&str> = folders.keys().map(String::as_str).collect();
            Err(wrong("run", &format!("there is no `{{{name}}}`; there are {}", known.join(", "))))
        }
        None => Ok(text),
    }
}

/// A program with everything it started: one process group. Nothing of it outlives the stage.
struct Group(Child);

impl Group {
    fn kill(&self) {
        if let Some(id) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // A group without processes cannot be signalled, and need not be.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// Sends on every line of a stream, until it ends or nobody listens. The thread may stay behind: a process that left
/// the group can hold the stream open for as long as it likes.
fn listen(stream: Option<impl Read + Send + 'static>, lines: SyncSender<String>) {
    std::thread::spawn(move || {
        for line in stream.map(BufReader::new).into_iter().flat_map(|s| s.split(b'\n')).map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()).is_err() {
                return;
            }
        }
    });
}

fn execute(args: &[String], ctx: &Context) -> Result<(), StageError> {
    let mut group = Command::new(&args[0])
        .args(&args[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map(Group)
        .map_err(|e| StageError::failed(format!("starting `{}`", args[0]), e))?;
    let (send, lines) = sync_channel(LINES_WAITING);
    listen(group.0.stdout.take(), send.clone());
    listen(group.0.stderr.take(), send);
    let mut tail = VecDeque::new();
    let mut ended: Option<(ExitStatus, Instant)> = None;
    let status = loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                ctx.message(Level::Debug, line.clone());
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => match ended {
                Some((status, _)) => break status,
                None => std::thread::sleep(POLL),
            },
        }
        match ended {
            Some((status, at)) if at.elapsed() >= LAST_WORDS => break status,
            Some(_) => {}
            None => {
                let status = group.0.try_wait();
                if let Some(status) = status.map_err(|e| StageError::failed(format!("waiting for `{}`", args[0]), e))? {
                    // What it left running in the background would go on writing while its outputs are read.
                    group.kill();
                    ended = Some((status, Instant::now()));
                }
            }
        }
        ctx.check()?;
    };
    if status.success() {
        return Ok(());
    }
    let tail = Vec::from(tail).join("\n");
    Err(StageError::message(format!("`{}` ended with {status}; its last words:\n{tail}", args[0])))
}

/// Stores every file below `folder`; the result is their number.
fn put_tree(root: &Path, folder: &Path, writer: &mut ArtifactWriter<'_>) -> Result<usize, StageError> {
    let read = StoreError::io("reading", folder, 0);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect()).map_err(read)?;
    paths.sort();
    let mut files = 0;
    for path in paths {
        if path.is_dir() {
            files += put_tree(root, &path, writer)?;
            continue;
        }
        let name = path.strip_prefix(root).expect("it lies below the root").to_string_lossy().replace('\\', "/");
        writer.put(name, &fs::read(&path).map_err(StoreError::io("reading", &path, 0))?)?;
        files += 1;
    }
    Ok(files)
}

fn parse(config: &Value) -> Result<Config, StageError> {
    serde_json::from_value(config.clone()).map_err(|e| wrong("run", &e.to_string()))
}

impl AnyStage for CommandStage {
    fn descriptor(&self) -> Descriptor {
        Stage::descriptor(self)
    }
    fn describe(&self, config: &Value) -> Result<Descriptor, StageError> {
        Self::describe_config(&parse(config)?)
    }
    fn schema(&self) -> Value {
        schemars::schema_for!(Config).to_value()
    }
    fn parse(&self, config: &Value) -> Result<Value, StageError> {
        engine::stage::parse_settings::<Config>(config)
    }
    fn resolve(&self, config: &Value, _facts: &Facts) -> Result<(Value, Vec<String>), StageError> {
        Ok((config.clone(), Vec::new()))
    }
    fn needs(&self, config: &Value) -> Result<Needs, StageError> {
        Ok(Stage::needs(self, &parse(config)?))
    }
    fn fingerprint(&self, config: &Value) -> Result<Value, StageError> {
        Ok(Stage::fingerprint(self, &parse(config)?))
    }
    fn run(&self, config: &Value, ctx: &Context) -> Result<Outcome, StageError> {
        Stage::run(self, &parse(config)?, ctx)
    }
    fn items(&self) -> Option<&dyn ErasedItems> {
        None
    }
    fn item_identity(&self, _config: &Value) -> Result<Option<ItemIdentity>, StageError> {
        Ok(None)
    }
}

// The settings of every stage have to be plain data; this one's are.
const _: fn() = || {
    fn settings<T: Settings>() {}
    settings::<Config>();
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::{Registry, artifact::Kind, harness::Harness};

    use super::*;

    fn try_run(config: Value) -> Result<(Harness, engine::harness::Ran), StageError> {
        let dir = tempfile::tempdir().unwrap();
        let harness = Harness::new(&dir.keep()).unwrap();
        let harness = harness.files("in", "files", &[("a.txt", b"one"), ("sub/b c.txt", b"two")]).unwrap();
        let ran = harness.run(&Registry::new().add_any(Arc::new(CommandStage)), config)?;
        Ok((harness, ran))
    }

    #[test]
    fn a_program_reads_and_writes_folders() {
        let script = "cd {in.in} && cat a.txt 'sub/b c.txt' > {out.all}/joined.txt && mkdir {out.all}/x && echo y > {out.all}/x/y";
        let config = json!({
            "run": ["sh", "-c", script], "inputs": { "in": "files" }, "outputs": { "all": "files" },
        });
        let (harness, ran) = try_run(config).unwrap();
        let files = harness.read::<artifacts::InputFiles>(&ran, "all").unwrap();
        assert_eq!(files["joined.txt"], b"onetwo");
        assert_eq!(files["x/y"], b"y\n");
        assert_eq!(artifacts::InputFiles::NAME, "files");
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let config = json!({ "run": ["sh", "-c", "echo no luck >&2; exit 3"], "outputs": { "all": "files" } });
        let e = try_run(config).err().unwrap().to_string();
        assert!(e.contains("exit status: 3") && e.contains("no luck"), "{e}");
    }

    #[test]
    fn mistakes_in_the_settings_are_named() {
        let e = |config: Value| try_run(config).err().unwrap().to_string();
        assert!(e(json!({})).contains("`run`"));
        assert!(e(json!({ "run": ["true"] })).contains("`outputs`"));
        assert!(e(json!({ "run": ["true"], "outputs": { "x": "annotations" } })).contains("not annotations"));
        assert!(e(json!({ "run": ["true", "{in.y}"], "outputs": { "x": "files" } })).contains("no `{in.y}`"));
        assert!(e(json!({ "run": ["true"], "outputs": { "x": "files" } })).contains("wrote no file"));
        assert!(e(json!({ "run": ["no-such-program"], "outputs": { "x": "files" } })).contains("starting"));
    }

    #[test]
    fn a_stopped_program_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        // The grandchild inherits both streams and outlives the program that is waited for.
        let script = format!("sleep 60 & echo $! > {}; wait", pid_file.display());
        let config = json!({ "run": ["sh", "-c", script], "outputs": { "all": "files" } });
        let harness = Harness::new(dir.path()).unwrap();
        let cancel = harness.cancel.clone();
        let seen = pid_file.clone();
        let canceller = std::thread::spawn(move || {
            while !fs::read_to_string(&seen).is_ok_and(|t| t.ends_with('\n')) {
                std::thread::sleep(POLL);
            }
            cancel.cancel();
        });
        let started = Instant::now();
        let e = harness.run(&Registry::new().add_any(Arc::new(CommandStage)), config).err().unwrap();
        assert!(matches!(e, StageError::Cancelled), "{e}");
        canceller.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(20), "it waited for the grandchild");
        assert!(ends(&pid_file), "the grandchild goes on");
    }

    #[test]
    fn what_a_program_leaves_in_the_background_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; echo x > {{out.all}}/x; echo bye", pid_file.display());
        let started = Instant::now();
        try_run(json!({ "run": ["sh", "-c", script], "outputs": { "all": "files" } })).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20), "it waited for the background");
        assert!(ends(&pid_file), "the background goes on");
    }

    /// True when the process whose id is in the file is gone, or soon is.
    fn ends(pid_file: &Path) -> bool {
        let stat = PathBuf::from(format!("/proc/{}/stat", fs::read_to_string(pid_file).unwrap().trim()));
        (0..250).any(|_| {
            // A process that nobody waits for stays in the table as a zombie.
            let gone = fs::read_to_string(&stat).map_or(true, |t| t.contains(") Z"));
            if !gone {
                std::thread::sleep(POLL);
            }
            gone
        })
    }
}
