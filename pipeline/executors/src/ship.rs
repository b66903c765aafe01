//! The program on another machine.
//!
//! Owns that a folder there holds this very program: named by its content, checked after the way, in place at once or
//! not at all. Refuses to own running it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use crate::{cluster::ClusterError, command, shell::Shell};

/// Time for looking whether it is there.
const LOOK: Duration = Duration::from_secs(60);
/// Time for sending it.
const SEND: Duration = Duration::from_secs(1800);

/// Prints the program's path there, and `present` when it is whole. `$1` digest, `$2` bytes. Its time is that of its last
/// use.
const LOOK_SCRIPT: &str = r#"mkdir -p "$d/bin" && cd "$d/bin" || exit 1
printf '%s\n' "$PWD/$1"
[ -x "$1" ] && [ "$(wc -c <"$1")" -eq "$2" ] && touch "$1" && echo present
exit 0
"#;

/// Takes the program from the input. `$1` digest, `$2` what `cksum` has to say; 3 when it says something else. Programs that
/// nobody used for a month are removed.
const SEND_SCRIPT: &str = r#"cd "$d/bin" || exit 1
part="$1.part.$$"
trap 'rm -f "$part"' EXIT
cat >"$part" || exit 1
[ "$(cksum <"$part")" = "$2" ] || exit 3
chmod 755 "$part" && mv -f "$part" "$1" || exit 1
find . -type f -mtime +30 -exec rm -f {} + || :
"#;

/// A program of this machine, to be used on others.
#[derive(Debug)]
pub(crate) struct Binary {
    path: PathBuf,
    facts: OnceLock<Facts>,
}

#[derive(Clone, Debug)]
struct Facts {
    digest: String,
    bytes: u64,
    cksum: u32,
}

impl Binary {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), facts: OnceLock::new() }
    }

    /// Sees to it that `folder/bin/<blake3>` is this program there; the result is its absolute path.
    pub fn ship(&self, shell: &Shell, folder: &str) -> Result<String, ClusterError> {
        let facts = self.facts().map_err(|e| self.cannot_read(shell, &e))?;
        let folder = format!("d={}\n", command::path(folder));
        let answer =
            shell.run(&(folder.clone() + LOOK_SCRIPT), &[&facts.digest, &facts.bytes.to_string()], None, LOOK)?;
        let text = answer.text();
        let mut lines = text.lines();
        let path = match lines.next() {
            Some(path) if answer.ok() => path.to_owned(),
            _ => return Err(Self::no_room(shell, &answer.err)),
        };
        if lines.next() == Some("present") {
            return Ok(path);
        }
        let file = File::open(&self.path).map_err(|e| self.cannot_read(shell, &e))?;
        let expected = format!("{} {}", facts.cksum, facts.bytes);
        let answer = shell.run(&(folder + SEND_SCRIPT), &[&facts.digest, &expected], Some(file), SEND)?;
        match answer.code {
            Some(0) => Ok(path),
            Some(3) => Err(shell.unreachable("the program arrived damaged or cut off")),
            _ => Err(Self::no_room(shell, &answer.err)),
        }
    }

    fn facts(&self) -> std::io::Result<&Facts> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let bytes = fs::read(&self.path)?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let facts = Facts { digest, bytes: bytes.len() as u64, cksum: cksum(&bytes) };
        Ok(self.facts.get_or_init(|| facts))
    }

    fn cannot_read(&self, shell: &Shell, error: &std::io::Error) -> ClusterError {
        shell.refused(
            format!("reading this program, `{}`, to send it: {error}", self.path.display()),
            "set `program` to a path that the other machine has",
        )
    }

    fn no_room(shell: &Shell, message: &str) -> ClusterError {
        shell.refused(
            format!("storing the program there: {message}"),
            "set `folder` to one that can be written and has room, or `program` to a path that is there already",
        )
    }
}

/// What the POSIX command `cksum` prints first, which every machine has. It guards against a transfer that was cut off
/// or a full disk, not against malice: who can write there can do anything there.
fn cksum(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|i| (0..8).fold(i << 24, |c, _| if c >> 31 == 1 { (c << 1) ^ 0x04c1_1db7 } else { c << 1 }))
        .collect();
    let step = |crc: u32, byte: u8| (crc << 8) ^ table[((crc >> 24) as u8 ^ byte) as usize];
    let mut crc = bytes.iter().fold(0, |crc, &b| step(crc, b));
    let mut length = bytes.len();
    while length > 0 {
        crc = step(crc, length as u8);
        length >>= 8;
    }
    !crc
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{MetadataExt, PermissionsExt},
        process::Command,
    };

    use super::*;

    fn here() -> Shell {
        Shell { system: "test".into(), ssh: None }
    }

    #[test]
    fn the_same_sum_as_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for content in [Vec::new(), vec![b'a'], vec![7; 70_000]] {
            fs::write(&file, &content).unwrap();
            let out = Command::new("cksum").arg(&file).output().unwrap().stdout;
            let expected = String::from_utf8(out).unwrap();
            assert_eq!(cksum(&content).to_string(), expected.split(' ').next().unwrap());
        }
    }

    #[test]
    fn it_is_sent_once_and_again_when_it_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\necho hello\n").unwrap();
        let folder = dir.path().join("with space");
        let folder = folder.to_str().unwrap();
        let binary = Binary::new(&program);
        let path = binary.ship(&here(), folder).unwrap();
        assert_eq!(Command::new(&path).output().unwrap().stdout, b"hello\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        let made = fs::metadata(&path).unwrap().ino();
        assert_eq!(binary.ship(&here(), folder).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().ino(), made);
        fs::write(&path, "#!/bin/sh").unwrap();
        binary.ship(&here(), folder).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(&program).unwrap());
        assert_eq!(fs::read_dir(Path::new(folder).join("bin")).unwrap().count(), 1);
    }

    #[test]
    fn programs_that_nobody_uses_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ship = |name: &str| {
            let program = dir.path().join(name);
            fs::write(&program, name).unwrap();
            Binary::new(&program).ship(&here(), dir.path().to_str().unwrap()).unwrap()
        };
        let (unused, used) = (ship("a"), ship("b"));
        let age = |paths: &[&str]| {
            assert!(Command::new("touch").args(["-d", "2020-01-01"]).args(paths).status().unwrap().success());
        };
        age(&[&unused, &used]);
        ship("b");
        ship("c");
        assert!(!Path::new(&unused).exists());
        assert!(Path::new(&used).exists());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "x").unwrap();
        let error = Binary::new(&program).ship(&here(), program.to_str().unwrap()).unwrap_err();
        assert!(matches!(error, ClusterError::Refused { .. }), "{error}");
    }
}
