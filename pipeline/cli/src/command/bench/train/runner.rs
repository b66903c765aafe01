//! Processes that do one training step for each line that they read: our own, and the peer's program.
//!
//! Owns the conversation with them. Each line of the table has its own process, so that its peak memory is its own; they
//! take turns, so that noise of the machine hits all alike. Refuses to judge figures.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use miette::{IntoDiagnostic, Report, Result, WrapErr, miette};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vision::yolov8::engine::Engine;

/// The peer's program.
const PROGRAM: &str = include_str!("../../../../../../benches/train/torch_step.py");
/// Exit code with which it says that a library is missing.
const NO_LIBRARY: i32 = 3;

/// What a process is to do; the peer reads the same names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Network, as in the settings of `train`.
    pub model: String,
    /// Side of the pictures in pixels.
    pub imgsz: u32,
    /// Pictures a step.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Classes.
    pub classes: usize,
    /// Objects in each picture.
    pub objects: usize,
    /// Ours: `f32` or `bf16`; the peer's: `fp32`, `channels_last` or `bf16`.
    pub how: String,
    /// Ours: the back end, on the processor; native if none is named.
    #[serde(default)]
    pub engine: Option<Engine>,
    /// Ours: whether to stay without AVX-512.
    pub avx2: bool,
    /// Ours: the first so many modules do not learn.
    pub freeze: usize,
}

/// What a step cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds on the clock.
    pub ms: f64,
    /// Milliseconds that all threads of the process worked (or waited in a busy loop).
    pub cpu_ms: f64,
    /// The loss, so that work without meaning shows.
    pub loss: f64,
    /// Most memory of the process so far, in MB (a million bytes), where the system tells.
    pub peak_mb: Option<f64>,
}

/// A process that waits for its next step.
pub struct Runner {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What it said of itself.
    pub about: Value,
    /// Steps done.
    pub steps: Vec<Step>,
}

/// Why a runner is not there.
#[derive(Debug)]
pub enum Absent {
    /// Python or a library is missing: what is, and what to do.
    Missing(String),
    /// It ran and failed.
    Failed(Report),
}

impl From<Report> for Absent {
    fn from(e: Report) -> Self {
        Self::Failed(e)
    }
}

impl Runner {
    /// This program.
    pub fn ours(request: &Request) -> Result<Self> {
        let program = std::env::current_exe().into_diagnostic().wrap_err("finding this program")?;
        let mut command = Command::new(program);
        command.args(["bench", "train", "--runner"]).arg(json(request)?);
        Self::start(command).map_err(|e| match e {
            Absent::Missing(why) => miette!("{why}"),
            Absent::Failed(e) => e,
        })
    }

    /// The peer, with this Python.
    pub fn peer(python: &Path, request: &Request) -> Result<Self, Absent> {
        let mut command = Command::new(python);
        command.args(["-W", "ignore", "-c", PROGRAM]).arg(json(request)?);
        Self::start(command).map_err(|e| match e {
            Absent::Missing(why) => Absent::Missing(format!(
                "{why}: `{} -m pip install torch ultralytics`, or name another Python with --python",
                python.display()
            )),
            failed @ Absent::Failed(_) => failed,
        })
    }

    fn start(mut command: Command) -> Result<Self, Absent> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|e| Absent::Missing(format!("`{name}` cannot be started ({e})")))?;
        let ask = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("the output is piped"));
        let mut runner = Self { child, ask, answers, about: Value::Null, steps: Vec::new() };
        let line = runner.line()?;
        if line.is_empty() {
            return Err(runner.failure(&name));
        }
        runner.about = serde_json::from_str(&line).into_diagnostic().wrap_err("reading what the process says")?;
        Ok(runner)
    }

    /// The next line; empty at the end.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).into_diagnostic().wrap_err("reading what the process says")?;
        Ok(line)
    }

    /// Why the process ended.
    fn failure(&mut self, name: &str) -> Absent {
        self.ask = None;
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            // What it said is for people; without it the exit code remains.
            let _ = std::io::Read::read_to_string(&mut errors, &mut said);
        }
        let said = said.trim().lines().last().unwrap_or("it said nothing").to_owned();
        match self.child.wait() {
            Ok(status) if status.code() == Some(NO_LIBRARY) => {
                Absent::Missing(format!("`{name}` lacks a library ({said})"))
            }
            Ok(status) => Absent::Failed(miette!("`{name}` ended with {status}: {said}")),
            Err(e) => Absent::Failed(miette!("`{name}` ended: {e}")),
        }
    }

    /// Does one step.
    pub fn step(&mut self) -> Result<()> {
        let asked = self.ask.as_mut().map_or(Ok(()), |ask| ask.write_all(b"step\n").and_then(|()| ask.flush()));
        let line = if asked.is_ok() { self.line()? } else { String::new() };
        if line.is_empty() {
            return Err(match self.failure("a process that trains") {
                Absent::Missing(why) => miette!("{why}"),
                Absent::Failed(e) => e,
            });
        }
        let step: Step = serde_json::from_str(&line).into_diagnostic().wrap_err("reading what a step cost")?;
        if !step.loss.is_finite() {
            return Err(miette!("the loss of a step is not finite"));
        }
        self.steps.push(step);
        Ok(())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // The end of its input ends the process.
        self.ask = None;
        let _ = self.child.wait();
    }
}

fn json(request: &Request) -> Result<String> {
    serde_json::to_string(request).into_diagnostic()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let (model, how) = ("yolov8n".into(), "fp32".into());
        Request {
            model,
            imgsz: 64,
            batch: 1,
            threads: 1,
            classes: 2,
            objects: 1,
            how,
            engine: None,
            avx2: false,
            freeze: 0,
        }
    }

    #[test]
    fn a_python_that_is_not_there_is_named() {
        let Err(Absent::Missing(text)) = Runner::peer(Path::new("/no/such/python"), &request()) else {
            panic!("it is missing");
        };
        assert!(text.contains("/no/such/python") && text.contains("--python"), "{text}");
    }

    #[test]
    fn a_process_that_fails_is_reported() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo '{}'; read line; echo '{\"ms\": 2.0, \"cpu_ms\": 3.0, \"loss\": 1.0}'; echo broken >&2; exit 1",
        ]);
        let mut runner = Runner::start(command).map_err(|_| "it starts").unwrap();
        runner.step().unwrap();
        assert_eq!(runner.steps, [Step { ms: 2.0, cpu_ms: 3.0, loss: 1.0, peak_mb: None }]);
        assert!(runner.step().unwrap_err().to_string().contains("broken"));
    }

    #[test]
    fn a_missing_library_is_told_from_a_failure() {
        for (code, missing) in [(3, true), (4, false)] {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exit {code}")]);
            assert_eq!(matches!(Runner::start(command), Err(Absent::Missing(_))), missing);
        }
    }
}
