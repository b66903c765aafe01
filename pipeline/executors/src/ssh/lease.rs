//! A command on another machine that ends when we do.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::shell::{SSH_FAILED, Shell};

/// Runs `$1` in a session of its own. A second process reads the standard input, line by line; when it ends, or brings
/// nothing for `$2` seconds, everything of that session is ended: asked first, killed ten seconds later. What a command
/// leaves in the background when it ends is ended with it. The process alone is meant where its session is not there yet.
const SCRIPT: &str = r#"exec 3<&0 </dev/null
setsid sh -c "$1" 3<&- &
child=$!
(
  while timeout "$2" sh -c 'read -r beat' <&3; do :; done
  kill -s TERM -- "-$child" || kill -s TERM "$child"
  n=0
  while [ "$n" -lt 10 ] && { kill -s 0 -- "-$child" || kill -s 0 "$child"; }; do
    sleep 1
    n=$((n + 1))
  done
  kill -s KILL -- "-$child" || kill -s KILL "$child"
) >/dev/null 2>&1 &
watch=$!
wait "$child"
code=$?
kill -s KILL -- "-$child" 2>/dev/null
kill -s KILL "$watch" 2>/dev/null
exit "$code"
"#;

/// Between two looks at a running command.
const POLL: Duration = Duration::from_millis(20);
/// Time that a command gets to end after its lease was closed, before the connection is cut too; longer than the ten
/// seconds that the other side grants it.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself; 128 and more for a signal.
    Code(i32),
    /// The connection broke. Whether it ran, and how far, is unknown; it runs no more when the lease is over.
    Lost,
    /// Its time was over.
    Late,
    /// It was asked to end.
    Cancelled,
    /// It could not be started here.
    NotStarted(String),
}

/// For how long a command may run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// Seconds of silence after which the other side ends the command.
    pub seconds: u64,
    /// Time after which it is ended from here.
    pub limit: Option<Duration>,
}

impl Lease {
    /// Runs a script there, its output in a file here, until it ends or `stop` says so.
    pub fn run(&self, shell: &Shell, script: &str, log: &Path, stop: impl Fn() -> bool) -> End {
        let started = File::options().create(true).append(true).open(log).and_then(|log| {
            let mut command = shell.command(SCRIPT, &[script, &self.seconds.to_string()]);
            command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()
        });
        let mut child = match started {
            Ok(child) => child,
            Err(error) => return End::NotStarted(format!("starting `ssh` here: {error}")),
        };
        let end = self.watch(&mut child, stop);
        // A broken wait must leave no client behind.
        let _ = child.kill();
        let _ = child.wait();
        end
    }

    fn watch(&self, child: &mut Child, stop: impl Fn() -> bool) -> End {
        let start = Instant::now();
        // Four signs of life fit into the lease, so that one that is late is no harm.
        let beat = Duration::from_secs(self.seconds) / 4;
        let mut lease = child.stdin.take();
        let mut next_beat = start + beat;
        let mut ending: Option<(End, Instant)> = None;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    return match (ending, status.code()) {
                        (Some((end, _)), _) => end,
                        (None, Some(SSH_FAILED) | None) => End::Lost,
                        (None, Some(code)) => End::Code(code),
                    };
                }
                Ok(None) => {}
                Err(_) => return End::Lost,
            }
            let now = Instant::now();
            match &ending {
                Some((end, since)) if now - *since > LAST_WORDS => return end.clone(),
                Some(_) => {}
                None => {
                    let end = if stop() {
                        Some(End::Cancelled)
                    } else {
                        self.limit.filter(|&limit| now - start >= limit).map(|_| End::Late)
                    };
                    if let Some(end) = end {
                        ending = Some((end, now));
                        lease = None;
                    }
                }
            }
            if now >= next_beat {
                next_beat = now + beat;
                if let Some(pipe) = &mut lease
                    && matches!(pipe.write_all(b"\n"), Err(e) if e.kind() != ErrorKind::Interrupted)
                {
                    // Nobody reads it: the client is about to end, which the next look sees.
                    lease = None;
                }
            }
            thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn size(file: &Path) -> u64 {
        fs::metadata(file).map_or(0, |m| m.len())
    }

    /// The same wrapper, without a connection between.
    fn run(seconds: u64, limit: Option<Duration>, script: &str, stop: impl Fn() -> bool) -> (End, String) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let shell = Shell { system: "test".into(), ssh: None };
        let end = Lease { seconds, limit }.run(&shell, script, &log, stop);
        (end, fs::read_to_string(log).unwrap())
    }

    #[test]
    fn codes_and_output() {
        let (end, log) = run(60, None, "echo out; echo err >&2; exit 7", || false);
        assert_eq!((end, log.as_str()), (End::Code(7), "out\nerr\n"));
    }

    #[test]
    fn beats_keep_it_alive_and_a_limit_ends_it() {
        assert_eq!(run(1, None, "sleep 3", || false).0, End::Code(0));
        let start = Instant::now();
        assert_eq!(run(60, Some(Duration::from_millis(300)), "sleep 60", || false).0, End::Late);
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn cancelling_ends_children_too() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("(while :; do echo x >> {0}; sleep 0.1; done) & wait", mark.display());
        assert_eq!(run(60, None, &script, || size(&mark) > 0).0, End::Cancelled);
        let after = size(&mark);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(size(&mark), after);
    }

    #[test]
    fn silence_ends_it() {
        let mut child = Shell { system: "test".into(), ssh: None }
            .command(SCRIPT, &["exec sleep 60", "1"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // Waiting would close it.
        let open = child.stdin.take();
        let start = Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert!(start.elapsed() < Duration::from_secs(30));
        drop(open);
    }

    /// The lease may be over before the command has its session, or even a process.
    #[test]
    fn an_end_at_once_is_an_end_too() {
        let shell = Shell { system: "test".into(), ssh: None };
        let start = Instant::now();
        for _ in 0..30 {
            let mut child = shell.command(SCRIPT, &["exec sleep 60", "60"]).stdin(Stdio::null()).spawn().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(143));
        }
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
