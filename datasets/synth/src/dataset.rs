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

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use datasets::formats::{Format, FormatError, WriteOptions};
use datasets::{AnnotationSet, ImageAnnotations};
use image::{DynamicImage, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::crops::{self, CropSettings};
use crate::scan;
use crate::settings::{SettingsError, SynthSettings};
use crate::sheet::Drawer;
use crate::symbol;
use crate::tiled;

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Templates {
    /// Drawn cleanly, as in a legend.
    #[default]
    Legend,
    /// Cut from further sheets.
    Cut(CropSettings),
}

/// Everything that a data set is a function of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    /// What the sheets look like.
    pub settings: SynthSettings,
    /// How many pictures.
    #[serde(default)]
    pub sheets: u64,
    /// Other numbers give other sheets.
    #[serde(default)]
    pub seed: u64,
    /// Where the templates are from.
    #[serde(default)]
    pub templates: Templates,
    /// Sheets in a picture: columns and rows. More than one sheet makes a picture that is always PNG.
    #[serde(default = "one_tile")]
    pub tiles: [u32; 2],
}

fn one_tile() -> [u32; 2] {
    [1, 1]
}

impl DatasetSpec {
    /// Single sheets, and templates as in a legend.
    pub fn new(settings: SynthSettings, sheets: u64, seed: u64) -> Self {
        Self { settings, sheets, seed, templates: Templates::Legend, tiles: one_tile() }
    }
}

/// Draws single sheets with templates as in a legend: [`write`] for the usual case.
pub fn write_dataset(
    out: &Path,
    settings: &SynthSettings,
    sheets: u64,
    seed: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<AnnotationSet, DatasetError> {
    write(out, &DatasetSpec::new(settings.clone(), sheets, seed), progress)
}

/// Draws a data set into the new or empty folder `out`, on all threads of the calling rayon pool; `progress` is told
/// how many pictures are finished. Gives back the truth.
pub fn write(out: &Path, spec: &DatasetSpec, progress: &(dyn Fn(u64) + Sync)) -> Result<AnnotationSet, DatasetError> {
    let DatasetSpec { settings, sheets, seed, templates: from, tiles } = spec;
    let (sheets, seed) = (*sheets, *seed);
    settings.check()?;
    tiled::check(*tiles)?;
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
            let picture = |image: RgbImage| match DynamicImage::from(image) {
                image if settings.palette.is_grey() => image.into_luma8().into(),
                image => image,
            };
            cut.into_iter().map(|c| (c.name, scan::encode(&picture(c.image), None))).collect()
        }
    };
    for (file, bytes) in pictures {
        put(&templates.join(file), |file| file.write_all(&bytes))?;
    }
    let done = AtomicU64::new(0);
    let finish = || progress(done.fetch_add(1, Ordering::Relaxed) + 1);
    let drawer = Drawer::new(settings, &symbols);
    let images = if *tiles == one_tile() {
        let one = |index| {
            let sheet = drawer.sheet(seed, index);
            put(&drawings.join(&sheet.annotations.image), |file| file.write_all(&sheet.file))?;
            finish();
            Ok(sheet.annotations)
        };
        (0..sheets).into_par_iter().map(one).collect::<Result<Vec<_>, DatasetError>>()?
    } else {
        // One picture after the other: its sheets are what is drawn side by side.
        let one = |index: u64| {
            let name = format!("sheet_{index:04}.png");
            let first = index * u64::from(tiles[0]) * u64::from(tiles[1]);
            let join = |file: &mut File| {
                let out = BufWriter::new(file);
                tiled::join(&drawer, seed, first, *tiles, out).map_err(io::Error::other)
            };
            let annotations = put(&drawings.join(&name), join)?;
            finish();
            Ok(ImageAnnotations { image: name, ..annotations })
        };
        (0..sheets).map(one).collect::<Result<Vec<_>, DatasetError>>()?
    };
    let truth = AnnotationSet { classes: symbol::classes(&symbols, settings), images, skipped: Vec::new() };
    Format::Coco.write(&truth, &out.join("truth.json"), &WriteOptions::default())?;
    let labels = out.join("labels");
    fs::create_dir_all(&labels).map_err(fail(&labels))?;
    let bytes = |name: &str| fs::read(drawings.join(name));
    let with_images = WriteOptions { images: Some(&bytes), ..WriteOptions::default() };
    Format::Yolo.write(&truth, &labels.join("yolo"), &with_images)?;
    let record = serde_json::to_value(spec).expect("settings are JSON");
    put(&out.join("synth.json"), |file| file.write_all(format!("{record:#}\n").as_bytes()))?;
    Ok(truth)
}

/// Writes a new file, whole or not at all.
fn put<T>(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T, DatasetError> {
    let write = || {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let mut file = File::create(&beside)?;
        let filled = fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(filled)
    };
    write().map_err(|source| DatasetError::Io { path: path.to_owned(), source })
}
