//! Label files of other tools, read into and written from an [`AnnotationSet`].
//!
//! Owns six formats, the checks that every label passes at the border, and the account of what a conversion lost or
//! repaired. Refuses to own pictures (only their sizes and bytes pass through) and evaluation.
//!
//! To add a format: one file with a [`LabelFormat`], one variant of [`Format`], one line in [`FORMATS`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::annotation::AnnotationSet;

mod account;
mod coco;
mod cvat;
mod folder;
mod intake;
mod label_studio;
mod labelme;
mod objects;
mod sizes;
mod text;
mod voc;
mod xml;
mod yolo;
mod yolo_layout;

#[cfg(test)]
mod breakage;
#[cfg(test)]
mod round_trip;

pub use account::{Account, Change, Direction, Effect, Problem};
pub use coco::{coco_text, read_coco_results};
pub use sizes::{ImageSizes, SizeError, SizeLookup, upright_size};

/// Every format, in the order in which [`Format::detect`] asks them.
static FORMATS: [&dyn LabelFormat; 6] =
    [&yolo::Yolo, &coco::Coco, &label_studio::LabelStudio, &labelme::LabelMe, &cvat::Cvat, &voc::Voc];

/// A label file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Ultralytics YOLO: `data.yaml`, one text file an image, boxes or outlines as fractions.
    Yolo,
    /// COCO instances: one JSON file.
    Coco,
    /// Pascal VOC: one XML file an image.
    Voc,
    /// CVAT for images 1.1: one XML file.
    Cvat,
    /// Label Studio: one JSON list of tasks.
    LabelStudio,
    /// LabelMe: one JSON file an image.
    #[serde(rename = "labelme")]
    LabelMe,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 6] = [Self::Yolo, Self::Coco, Self::Voc, Self::Cvat, Self::LabelStudio, Self::LabelMe];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yolo => "yolo",
            Self::Coco => "coco",
            Self::Voc => "voc",
            Self::Cvat => "cvat",
            Self::LabelStudio => "label-studio",
            Self::LabelMe => "labelme",
        }
    }

    /// The reader and writer.
    pub fn codec(self) -> &'static dyn LabelFormat {
        FORMATS.iter().copied().find(|f| f.format() == self).expect("every variant is in FORMATS")
    }

    /// Tells the format of a file or folder by looking at it.
    pub fn detect(source: &Path) -> Result<Self, FormatError> {
        if !source.exists() {
            return Err(FormatError::io(source, io::Error::from(io::ErrorKind::NotFound)));
        }
        if let Some(export) = folder::Sidecar::open(source) {
            return Ok(export.format);
        }
        FORMATS
            .iter()
            .find(|f| f.recognises(source))
            .map(|f| f.format())
            .ok_or_else(|| FormatError::Unrecognised { path: source.into() })
    }

    /// Reads labels in this format.
    pub fn read(self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError> {
        self.codec().read(source, options)
    }

    /// Writes labels in this format.
    pub fn write(self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError> {
        self.codec().write(set, target, options)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(s: &str) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|f| f.name() == s).ok_or_else(|| FormatError::UnknownName { name: s.into() })
    }
}

/// Reader and writer of one format.
pub trait LabelFormat: Sync {
    /// Which format this is.
    fn format(&self) -> Format;

    /// True when `source` (a file or a folder) looks like this format.
    fn recognises(&self, source: &Path) -> bool;

    /// Reads a file or folder. A bad label or image becomes an entry in the account; only an unreadable whole is an
    /// error.
    fn read(&self, source: &Path, options: &ReadOptions) -> Result<Imported, FormatError>;

    /// Writes to a file or folder, whole or not at all. One-file formats write a single file when `target` has their
    /// extension, else a folder. An earlier export is replaced; anything else at `target` is refused.
    fn write(&self, set: &AnnotationSet, target: &Path, options: &WriteOptions) -> Result<Account, FormatError>;
}

/// What a reader does with a box that is not wholly inside its image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bounds {
    /// Cut it at the image's edge; drop it when nothing is left. For labels that will be used.
    #[default]
    Clip,
    /// Keep it as it is, also without extent. For evaluation, which must see what the other tool saw.
    Keep,
}

/// How to read.
#[derive(Default)]
pub struct ReadOptions<'a> {
    /// Where to learn the sizes of images that the labels do not tell.
    pub sizes: ImageSizes<'a>,
    /// Class name in the file -> class name wanted.
    pub aliases: BTreeMap<String, String>,
    /// What to do at the image's edge.
    pub bounds: Bounds,
}

/// What an object is written as, in a format that has one kind of label a file (YOLO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Boxes (detection).
    #[default]
    Boxes,
    /// Outlines (segmentation); a box without outline is written as its four corners.
    Polygons,
}

/// Gives the bytes of the image of that name.
pub type ImageBytes<'a> = &'a dyn Fn(&str) -> io::Result<Vec<u8>>;

/// How to write.
#[derive(Default)]
pub struct WriteOptions<'a> {
    /// Copies the images too, when given.
    pub images: Option<ImageBytes<'a>>,
    /// Boxes or outlines.
    pub shape: Shape,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The labels.
    pub set: AnnotationSet,
    /// What was read, skipped, lost and repaired.
    pub account: Account,
    /// Image files that lay beside the labels, by image name.
    pub files: BTreeMap<String, PathBuf>,
}

/// Why nothing could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The system refused.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("`{}`, line {line}, column {column}: {reason}; {fix}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        reason: String,
        /// How to mend it.
        fix: String,
    },
    /// The file or folder is not what it should be.
    #[error("`{}`: {reason}; {fix}", path.display())]
    Content {
        /// File or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// How to mend it.
        fix: String,
    },
    /// Something that is not an earlier export is in the way.
    #[error("will not write to `{}`: {reason}; choose another place or move it away", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// No format has this name.
    #[error("unknown label format `{name}`; known: yolo, coco, voc, cvat, label-studio, labelme")]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// No format fits.
    #[error("`{}` is in no label format known here (yolo, coco, voc, cvat, label-studio, labelme); name the format, or the label file itself", path.display())]
    Unrecognised {
        /// File or folder.
        path: PathBuf,
    },
}

impl FormatError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    fn content(path: &Path, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Content { path: path.into(), reason: reason.into(), fix: fix.into() }
    }
}
