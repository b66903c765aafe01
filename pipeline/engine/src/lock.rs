//! The project lock: two runs in one project wait for each other.
//!
//! Owns `<store>/lock`, an operating system lock that ends with its process (also at `kill -9`), and
//! `<store>/lock.holder`, words about who has it. Everything that writes results or removes files holds it; reading
//! needs no lock, because files of the store are whole or not there.

use std::{
    fs::{self, File, OpenOptions},
    path::PathBuf,
    thread,
    time::Duration,
};

use fs4::{FileExt, TryLockError};

use crate::store::{Store, StoreError};

/// How often a waiting run tries again.
const POLL: Duration = Duration::from_millis(200);

/// The lock, held until dropped.
#[derive(Debug)]
pub struct ProjectLock {
    file: File,
    holder_path: PathBuf,
}

impl ProjectLock {
    /// Waits for the lock. `what` says what it is for, such as a run's id; others that wait see it with this
    /// process's id. `on_wait` is called with the holder's words each time the lock is found taken (about five times
    /// a second); when it gives false the wait ends and the result is `None`.
    pub fn acquire(
        store: &Store,
        what: &str,
        mut on_wait: impl FnMut(&str) -> bool,
    ) -> Result<Option<Self>, StoreError> {
        let path = store.root().join("lock");
        let holder_path = store.root().join("lock.holder");
        fs::create_dir_all(store.root()).map_err(StoreError::io("creating folder", store.root(), 0))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("creating", &path, 0))?;
        loop {
            match FileExt::try_lock(&file) {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(StoreError::io("locking", &path, 0)(e)),
            }
            let holder = fs::read_to_string(&holder_path).unwrap_or_default();
            if !on_wait(if holder.is_empty() { "another process" } else { holder.trim_end() }) {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
        let lock = Self { file, holder_path };
        // Words only: who cannot read them still waits.
        let _ = fs::write(&lock.holder_path, format!("process {}, {what}\n", std::process::id()));
        Ok(Some(lock))
    }
}

impl Drop for ProjectLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.holder_path);
        let _ = FileExt::unlock(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use super::*;

    fn free(store: &Store) -> Option<ProjectLock> {
        ProjectLock::acquire(store, "test", |_| false).unwrap()
    }

    #[test]
    fn a_second_holder_waits_and_learns_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = ProjectLock::acquire(&store, "run 7", |_| panic!("nobody has it")).unwrap().unwrap();
        let waits = AtomicUsize::new(0);
        thread::scope(|s| {
            let second = s.spawn(|| {
                ProjectLock::acquire(&store, "run 8", |holder| {
                    assert_eq!(holder, format!("process {}, run 7", std::process::id()));
                    waits.fetch_add(1, Ordering::SeqCst);
                    true
                })
            });
            while waits.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            drop(first);
            assert!(second.join().unwrap().unwrap().is_some());
        });
        assert!(free(&store).is_some());
    }

    #[test]
    fn a_wait_can_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let _first = free(&store).unwrap();
        assert!(free(&store).is_none());
    }

    /// The child of the test below: takes the lock of the store it is told and waits to be killed.
    #[test]
    #[ignore = "started and killed by the next test"]
    fn child_that_holds_the_lock() {
        let root = std::env::var("ENGINE_LOCK_TEST_STORE").unwrap();
        let _lock = ProjectLock::acquire(&Store::open(root).unwrap(), "the child", |_| true).unwrap();
        thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_killed_holder_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "lock::tests::child_that_holds_the_lock"])
            .env("ENGINE_LOCK_TEST_STORE", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !dir.path().join("lock.holder").exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the child never took the lock");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(free(&store).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // The words it left behind stop nobody.
        assert!(dir.path().join("lock.holder").exists());
        assert!(free(&store).is_some());
    }
}
