//! Sheets as a data set on disk.
//!
//! Owns the folder's layout. Refuses to touch a folder that holds anything already.
//!
//! | path | what |
//! |---|---|
//! | `drawings/sheet_0000.png` | the sheets |
//! | `templates/ball_valve.png` | one template a class, at the sheets' nominal scale; or those cut from other sheets |
//! | `truth.json` | the truth as COCO |
//! | `labels/yolo/` | the truth as a YOLO data set: label files and a copy of the sheets |
//! | `synth.json` | settings and seed: the same again gives the same files |

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use datasets::AnnotationSet;
use datasets::formats::{Format, FormatError, WriteOptions};
use image::imageops;
use rayon::prelude::*;

use crate::crops::{self, CropSettings};
use crate::scan;
use crate::settings::{SettingsError, SynthSettings};
use crate::sheet::draw;
use crate::symbol;

/// Why there is no data set.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Nothing asked for.
    #[error("0 sheets were asked for; a data set needs 1")]
    NoSheets,
    /// Somebody's files.
    #[error("`{0}` is not empty; give a new or empty folder")]
    NotEmpty(PathBuf),
    /// The system refused.
    #[error("writing `{path}`")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The labels.
    #[error(transparent)]
    Labels(#[from] FormatError),
}

/// Where a data set's templates are from.
#[derive(Clone, Debug, PartialEq)]
pub enum Templates {
    /// Drawn cleanly, as in a legend.
    Legend,
    /// Cut from further sheets.
    Cut(CropSettings),
}

/// As [`write_dataset_with`], with templates as in a legend.
pub fn write_dataset(
    out: &Path,
    settings: &SynthSettings,
    sheets: u64,
    seed: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<AnnotationSet, DatasetError> {
    write_dataset_with(out, settings, &Templates::Legend, sheets, seed, progress)
}

/// Draws `sheets` sheets into the new or empty folder `out`, on all threads of the calling rayon pool; `progress` is
/// told how many are finished. Gives back the truth.
pub fn write_dataset_with(
    out: &Path,
    settings: &SynthSettings,
    from: &Templates,
    sheets: u64,
    seed: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<AnnotationSet, DatasetError> {
    settings.check()?;
    if sheets == 0 {
        return Err(DatasetError::NoSheets);
    }
    let symbols = symbol::symbols(settings, seed)?;
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| DatasetError::Io { path, source }
    };
    let (drawings, templates) = (out.join("drawings"), out.join("templates"));
    fs::create_dir_all(out).map_err(fail(out))?;
    if fs::read_dir(out).map_err(fail(out))?.next().is_some() {
        return Err(DatasetError::NotEmpty(out.to_owned()));
    }
    for dir in [&drawings, &templates] {
        fs::create_dir_all(dir).map_err(fail(dir))?;
    }
    let pictures = match from {
        Templates::Legend => symbol::templates(&symbols, settings),
        Templates::Cut(how) => {
            let cut = crops::cut_all(settings, &symbols, seed, how);
            cut.into_iter().map(|c| (c.name, scan::encode(&imageops::grayscale(&c.image), None))).collect()
        }
    };
    for (file, bytes) in pictures {
        put(&templates.join(file), &bytes)?;
    }
    let done = AtomicU64::new(0);
    let images = (0..sheets)
        .into_par_iter()
        .map(|index| {
            let sheet = draw(settings, &symbols, seed, index);
            put(&drawings.join(&sheet.annotations.image), &sheet.file)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(sheet.annotations)
        })
        .collect::<Result<Vec<_>, DatasetError>>()?;
    let truth = AnnotationSet { classes: symbol::classes(&symbols, settings), images, skipped: Vec::new() };
    Format::Coco.write(&truth, &out.join("truth.json"), &WriteOptions::default())?;
    let labels = out.join("labels");
    fs::create_dir_all(&labels).map_err(fail(&labels))?;
    let bytes = |name: &str| fs::read(drawings.join(name));
    let with_images = WriteOptions { images: Some(&bytes), ..WriteOptions::default() };
    Format::Yolo.write(&truth, &labels.join("yolo"), &with_images)?;
    let record = serde_json::json!({ "seed": seed, "sheets": sheets, "settings": settings });
    put(&out.join("synth.json"), format!("{record:#}\n").as_bytes())?;
    Ok(truth)
}

/// Writes a new file, whole or not at all.
fn put(path: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let write = || -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| DatasetError::Io { path: path.to_owned(), source })
}
