//! A place where commands are typed: this machine, or one behind the system's `ssh`.
//!
//! Owns starting a command there, its deadline, and telling a broken connection from a failed command. The system's
//! `ssh` is used because people's host names, keys, agents and jump hosts then work. Refuses to own what a failed
//! command means.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{cluster::ClusterError, command::quote};

/// Exit code of `ssh` when the connection failed, not the command.
pub(crate) const SSH_FAILED: i32 = 255;

/// For every connection: no questions that nobody can answer, and a dead peer is noticed within a minute.
const SSH_OPTIONS: [&str; 9] = [
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=15",
    "-o",
    "ServerAliveInterval=15",
    "-o",
    "ServerAliveCountMax=3",
];

/// Most bytes of a log that one question brings.
pub(crate) const LOG_MAX: usize = 16 << 20;

/// Where commands run.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    /// The system on whose behalf, for messages.
    pub system: String,
    /// Host and options of the system's `ssh`; none is this machine.
    pub ssh: Option<(String, Vec<String>)>,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Answer {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Answer {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

impl Shell {
    pub fn unreachable(&self, message: impl Into<String>) -> ClusterError {
        ClusterError::Unreachable { system: self.system.clone(), message: message.into() }
    }

    pub fn refused(&self, message: impl Into<String>, help: impl Into<String>) -> ClusterError {
        ClusterError::Refused { system: self.system.clone(), message: message.into(), help: help.into() }
    }

    /// `sh -c script sh arguments…`, not started.
    pub fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let Some((host, options)) = &self.ssh else {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).args(arguments);
            return command;
        };
        // The words are put together by ssh and read again by the login shell there.
        let words = ["-c", script, "sh"].into_iter().chain(arguments.iter().copied()).map(quote);
        let line = format!("exec sh {}", words.collect::<Vec<_>>().join(" "));
        let mut command = Command::new("ssh");
        command.args(options).args(SSH_OPTIONS).arg("--").arg(host).arg(line);
        command
    }

    /// Runs a script to its end. Fails when the place cannot be reached or the deadline passes; a command that fails
    /// is an answer.
    pub fn run(
        &self,
        script: &str,
        arguments: &[&str],
        input: Option<File>,
        deadline: Duration,
    ) -> Result<Answer, ClusterError> {
        // Files instead of pipes: nobody has to read them while the command runs, and a process that the command leaves
        // behind cannot keep us waiting for their end.
        let files = tempfile::tempfile().and_then(|out| Ok((out, tempfile::tempfile()?)));
        let (out, err) = files.map_err(|e| self.unreachable(format!("making a temporary file here: {e}")))?;
        let copies = out.try_clone().and_then(|out| Ok((out, err.try_clone()?)));
        let (to_out, to_err) = copies.map_err(|e| self.unreachable(format!("opening a temporary file here: {e}")))?;
        let mut command = self.command(script, arguments);
        command.stdin(input.map_or_else(Stdio::null, Stdio::from)).stdout(to_out).stderr(to_err);
        let mut child = command.spawn().map_err(|e| self.cannot_start(&e))?;
        let code = match wait(&mut child, deadline) {
            Ok(Some(status)) => status.code(),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(self.unreachable(format!("no answer within {} s", deadline.as_secs())));
            }
            Err(e) => return Err(self.unreachable(format!("waiting for a command: {e}"))),
        };
        let read = |mut file: File| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let read = |file| read(file).map_err(|e| self.unreachable(format!("reading what a command wrote: {e}")));
        let answer = Answer { code, out: read(out)?, err: String::from_utf8_lossy(&read(err)?).trim().to_owned() };
        if self.ssh.is_some() && answer.code == Some(SSH_FAILED) {
            return Err(self.connection(&answer.err));
        }
        Ok(answer)
    }

    pub fn cannot_start(&self, error: &io::Error) -> ClusterError {
        let name = if self.ssh.is_some() { "ssh" } else { "sh" };
        if error.kind() == io::ErrorKind::NotFound {
            let help = if self.ssh.is_some() { "install OpenSSH's client" } else { "a POSIX shell is needed" };
            return self.refused(format!("there is no `{name}` on this machine"), help);
        }
        self.unreachable(format!("starting `{name}`: {error}"))
    }

    /// What `ssh` says when it could not log in. Keys and names do not mend themselves; everything else may.
    fn connection(&self, message: &str) -> ClusterError {
        let host = self.ssh.as_ref().map_or("", |(host, _)| host);
        let lasting = [
            "Permission denied",
            "Host key verification failed",
            "Bad configuration option",
            "Too many authentication failures",
            "no such identity",
        ];
        if lasting.iter().any(|l| message.contains(l)) {
            return self.refused(message, format!("make `ssh {host} true` work without a question, then run again"));
        }
        self.unreachable(message)
    }
}

/// The end of a process, or none when the deadline passes first.
fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A file without a name that holds these bytes, as a command's input.
pub(crate) fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Shell {
        Shell { system: "test".into(), ssh: None }
    }

    #[test]
    fn arguments_input_and_codes() {
        let script = r#"cat; printf '%s' "$1" >&2; exit "$2""#;
        let answer = here().run(script, &["a 'b'", "3"], Some(input(b"in").unwrap()), Duration::from_secs(20)).unwrap();
        assert_eq!((answer.code, answer.text().as_str(), answer.err.as_str()), (Some(3), "in", "a 'b'"));
    }

    #[test]
    fn a_deadline_ends_a_silent_command() {
        let start = Instant::now();
        let error = here().run("exec sleep 60", &[], None, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ClusterError::Unreachable { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_host_that_is_not_there() {
        let shell = Shell { ssh: Some(("127.0.0.1".into(), vec!["-p".into(), "1".into()])), ..here() };
        let error = shell.run("true", &[], None, Duration::from_secs(30)).unwrap_err();
        assert!(matches!(error, ClusterError::Unreachable { .. }), "{error}");
    }
}
