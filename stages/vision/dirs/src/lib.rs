//! The three folders that the libraries of the back end `burn` ask the crate `dirs` for.
//!
//! Owns nothing else: it stands in for that crate because one of its dependencies is copyleft, which nothing here is.
//! Refuses to create folders.

use std::path::PathBuf;

/// The person's home folder.
pub fn home_dir() -> Option<PathBuf> {
    std::env::home_dir()
}

/// Where programs keep what they can make again.
pub fn cache_dir() -> Option<PathBuf> {
    let home = home_dir()?;
    Some(if cfg!(windows) {
        home.join("AppData/Local")
    } else if cfg!(target_os = "macos") {
        home.join("Library/Caches")
    } else {
        home.join(".cache")
    })
}

/// Where programs keep settings for this machine.
pub fn config_local_dir() -> Option<PathBuf> {
    let home = home_dir()?;
    Some(if cfg!(windows) {
        home.join("AppData/Local")
    } else if cfg!(target_os = "macos") {
        home.join("Library/Application Support")
    } else {
        home.join(".config")
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn folders_lie_at_home() {
        let home = super::home_dir().unwrap();
        assert!([super::cache_dir(), super::config_local_dir()].into_iter().all(|d| d.unwrap().starts_with(&home)));
    }
}
