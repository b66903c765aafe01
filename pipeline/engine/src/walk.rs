//! The walk over an input folder: which files are there, in order of their names.
//!
//! Owns what counts as a file of an input: hidden files and folders do not, links are followed, other extensions are
//! left out with a reason. Reads no file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    cancel::CancelToken,
    digest::Digest,
    sources::{InputSpec, SourceError, wanted_extension},
    statcache::Stat,
};

/// A file of an input.
pub(crate) struct Found {
    /// Path below the input's folder, with `/` between parts.
    pub name: String,
    /// Where it lies, when that is not the input's folder and the name.
    pub path: Option<PathBuf>,
    pub stat: Stat,
    /// Digest of its bytes once known, and whether it is racy.
    pub digest: Option<(Digest, bool)>,
}

/// A walk and what it found so far.
pub(crate) struct Walk<'a> {
    pub spec: &'a InputSpec,
    cancel: &'a CancelToken,
    /// Only files whose name matches one of these belong to the input.
    pub patterns: Option<Vec<glob::Pattern>>,
    pub found: Vec<Found>,
    pub left_out: Vec<(String, String)>,
}

const MATCH: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

impl<'a> Walk<'a> {
    pub fn new(spec: &'a InputSpec, cancel: &'a CancelToken) -> Self {
        Self { spec, cancel, patterns: None, found: Vec::new(), left_out: Vec::new() }
    }

    /// Finds the files of a folder.
    pub fn folder(&mut self, root: &Path) -> Result<(), SourceError> {
        let error = |source| SourceError::Io { input: self.spec.name.clone(), path: root.to_owned(), source };
        let real = fs::canonicalize(root).map_err(error)?;
        let entries = fs::read_dir(root).map_err(error)?;
        self.entries(root, entries, "", &mut vec![real])
    }

    /// Takes one named file.
    pub fn file(&mut self, name: String, path: &Path, kept: Option<PathBuf>) -> Result<(), SourceError> {
        if let Some(reason) = self.unwanted(&name) {
            self.left_out.push((name, reason));
            return Ok(());
        }
        let error = |source| SourceError::Io { input: self.spec.name.clone(), path: path.to_owned(), source };
        let stat = Stat::of(&fs::metadata(path).map_err(error)?);
        self.found.push(Found { name, path: kept, stat, digest: None });
        Ok(())
    }

    /// `above` are the real paths of this folder and those it was reached through.
    fn entries(
        &mut self,
        dir: &Path,
        entries: fs::ReadDir,
        prefix: &str,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), SourceError> {
        if self.cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        let mut inside = Vec::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    self.leave_out(prefix, "", format!("the folder cannot be read to its end: {e}"));
                    break;
                }
            };
            let os_name = entry.file_name();
            let Some(name) = os_name.to_str() else {
                self.leave_out(prefix, &os_name.to_string_lossy(), "its name is not UTF-8; rename it");
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let Ok(mut kind) = entry.file_type() else {
                self.leave_out(prefix, name, "it vanished");
                continue;
            };
            let is_link = kind.is_symlink();
            // A link's own data are of no use; an entry's data come without another look-up of the whole path.
            let linked = match is_link.then(|| fs::metadata(entry.path())) {
                Some(Ok(meta)) => Some(meta),
                Some(Err(_)) => {
                    self.leave_out(prefix, name, "a link to something that is not there");
                    continue;
                }
                None => None,
            };
            if let Some(meta) = &linked {
                kind = meta.file_type();
            }
            if kind.is_dir() {
                if self.recurses() {
                    // As part of a path the name is followed by `/`, so that is how it sorts.
                    inside.push((format!("{name}/"), None, is_link));
                }
            } else if !kind.is_file() {
                self.leave_out(prefix, name, "it is neither a file nor a folder");
            } else if !self.matches(prefix, name) {
                // Nobody asked for it.
            } else if let Some(reason) = self.unwanted(name) {
                self.leave_out(prefix, name, reason);
            } else {
                match linked.map_or_else(|| entry.metadata(), Ok) {
                    Ok(meta) => inside.push((name.to_owned(), Some(Stat::of(&meta)), false)),
                    Err(e) => self.leave_out(prefix, name, format!("it cannot be read: {e}")),
                }
            }
        }
        inside.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, stat, is_link) in inside {
            let full = format!("{prefix}{name}");
            match stat {
                Some(stat) => self.found.push(Found { name: full, path: None, stat, digest: None }),
                None => self.below(dir, &name, &full, is_link, above)?,
            }
        }
        Ok(())
    }

    /// Walks the folder `name/` in `dir`.
    fn below(
        &mut self,
        dir: &Path,
        name: &str,
        full: &str,
        is_link: bool,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), SourceError> {
        let path = dir.join(name.trim_end_matches('/'));
        let real = if is_link {
            fs::canonicalize(&path)
        } else {
            Ok(above.last().expect("the walk begins with a folder").join(name.trim_end_matches('/')))
        };
        let entries = real.and_then(|real| Ok((fs::read_dir(&path)?, real)));
        match entries {
            Ok((_, real)) if above.contains(&real) => {
                self.left_out.push((full.to_owned(), "a link back to a folder that it lies in".into()));
            }
            Ok((entries, real)) => {
                above.push(real);
                self.entries(&path, entries, full, above)?;
                above.pop();
            }
            Err(e) => self.left_out.push((full.to_owned(), format!("the folder cannot be read: {e}"))),
        }
        Ok(())
    }

    fn recurses(&self) -> bool {
        self.patterns.is_some() || self.spec.recursive
    }

    fn matches(&self, prefix: &str, name: &str) -> bool {
        let matches = |list: &Vec<glob::Pattern>| {
            let full = format!("{prefix}{name}");
            list.iter().any(|p| p.matches_with(&full, MATCH))
        };
        self.patterns.as_ref().is_none_or(matches)
    }

    /// Why a file of this name does not belong to the input.
    fn unwanted(&self, name: &str) -> Option<String> {
        let wanted = self.spec.extensions.as_ref()?;
        match Path::new(name).extension().and_then(|e| e.to_str()) {
            Some(e) if wanted.iter().any(|w| wanted_extension(w).eq_ignore_ascii_case(e)) => None,
            Some(e) => Some(format!("files ending in .{e} are not read here")),
            None => Some("it has no extension".into()),
        }
    }

    fn leave_out(&mut self, prefix: &str, name: &str, reason: impl Into<String>) {
        self.left_out.push((format!("{prefix}{name}"), reason.into()));
    }
}
