//! Sizes of images, for formats that measure in fractions of them. Reads headers only, never pixels.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::picture::{PictureError, probe_reader};

/// Why an image's size is not known.
#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    /// The file cannot be opened.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is no picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
}

/// Gives the upright (width, height) of the image of that name.
pub type SizeLookup<'a> = &'a dyn Fn(&str) -> Option<(u32, u32)>;

/// Where to learn an image's size, by its name. The first source that knows it wins.
#[derive(Default)]
pub struct ImageSizes<'a> {
    /// Asked first: image name -> (width, height), upright.
    pub lookup: Option<SizeLookup<'a>>,
    /// Asked second.
    pub known: BTreeMap<String, (u32, u32)>,
    /// Asked last: folders below which images lie under their names.
    pub folders: Vec<PathBuf>,
}

impl ImageSizes<'_> {
    /// The size of an image, from callers' knowledge only (no file is opened).
    pub(super) fn told(&self, name: &str) -> Option<(u32, u32)> {
        self.lookup.and_then(|f| f(name)).or_else(|| self.known.get(name).copied())
    }

    /// The size of an image.
    pub fn get(&self, name: &str) -> Option<(u32, u32)> {
        self.told(name).or_else(|| self.file(name).and_then(|p| upright_size(&p).ok()))
    }

    /// The image's file in one of the folders.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.folders.iter().map(|f| f.join(name)).find(|p| p.is_file())
    }
}

/// Width and height of an image file, upright (EXIF orientation applied), from its header.
pub fn upright_size(path: &Path) -> Result<(u32, u32), SizeError> {
    let mut file = BufReader::new(File::open(path)?);
    let info = probe_reader(&mut file)?;
    Ok((info.width, info.height))
}
