//! Truth and predictions from COCO files.
//!
//! Owns the order (pictures and categories by their numbers, boxes as in the file), which decides among equal scores
//! and so has to be pycocotools'. The label format with its provenance is `formats`' business.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::input::{EvalInput, Found, LeftOut, Picture, Truth};
use crate::geometry::{BBox, Pixels};

/// Why two COCO files could not be compared. `file` is `truth` or `predictions`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum FileError {
    /// No JSON, or JSON of another shape.
    #[error("the {file} file is no COCO JSON: {source}")]
    Json { file: &'static str, source: serde_json::Error },
    /// Nothing to compare with.
    #[error(
        "the truth file lists no images: nothing can be measured; check that it is the truth and not the predictions"
    )]
    NoImages,
    /// Two pictures or categories of one number or name.
    #[error("the {file} file lists {what} {id} twice: give each its own")]
    Twice { file: &'static str, what: &'static str, id: String },
    /// A box that belongs nowhere.
    #[error("the {file} file, annotation {index} (counted from 0): {what} {id} is not in the list of the file")]
    Unknown { file: &'static str, index: usize, what: &'static str, id: i64 },
    /// Numbers that are no box.
    #[error(
        "the {file} file, annotation {index} (counted from 0): `bbox` {bbox:?} has to be x, y, width, height in \
             pixels, finite and not negative in size"
    )]
    Box { file: &'static str, index: usize, bbox: Vec<f64> },
    /// A prediction without confidence.
    #[error(
        "the predictions file, annotation {index} (counted from 0) has no `score`: give it one from 0 to 1; is this \
             the truth file?"
    )]
    NoScore { index: usize },
    /// Not one picture in common.
    #[error(
        "none of the {predicted} images of the predictions is among the {truth} of the truth (by `file_name`): {example}"
    )]
    NothingInCommon { predicted: usize, truth: usize, example: String },
}

#[derive(Deserialize)]
struct CocoFile {
    #[serde(default)]
    images: Vec<CocoImage>,
    #[serde(default)]
    categories: Vec<CocoCategory>,
    annotations: Vec<CocoBox>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: i64,
    file_name: Option<String>,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
struct CocoBox {
    image_id: i64,
    category_id: i64,
    bbox: Vec<f64>,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: serde_json::Value,
    score: Option<f64>,
}

/// The predictions: a whole COCO file, or the bare list that COCO calls results.
#[derive(Deserialize)]
#[serde(untagged)]
enum Predicted {
    Results(Vec<CocoBox>),
    File(CocoFile),
}

fn json<'a, T: Deserialize<'a>>(file: &'static str, bytes: &'a [u8]) -> Result<T, FileError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|source| FileError::Json { file, source })
}

fn bbox(file: &'static str, index: usize, b: &[f64]) -> Result<(BBox<Pixels>, f64), FileError> {
    match *b {
        [x, y, w, h] if b.iter().all(|v| v.is_finite()) && w >= 0.0 && h >= 0.0 => {
            Ok((BBox::new(x, y, x + w, y + h), w * h))
        }
        _ => Err(FileError::Box { file, index, bbox: b.to_vec() }),
    }
}

/// Reads a truth file and a predictions file (a whole COCO file with `score`s, whose images and categories are known by
/// name; or a bare results list, by the truth's numbers).
pub fn from_coco(truth: &[u8], predictions: &[u8]) -> Result<EvalInput, FileError> {
    let mut truth: CocoFile = json("truth", truth)?;
    // Two steps, because an error from an untagged type does not say where it is.
    let first = predictions.iter().find(|b| !b.is_ascii_whitespace() && !matches!(b, 0xEF | 0xBB | 0xBF));
    let predicted = if first == Some(&b'[') {
        Predicted::Results(json("predictions", predictions)?)
    } else {
        Predicted::File(json("predictions", predictions)?)
    };
    if truth.images.is_empty() {
        return Err(FileError::NoImages);
    }
    truth.images.sort_by_key(|i| i.id);
    truth.categories.sort_by_key(|c| c.id);
    let name = |i: &CocoImage| i.file_name.clone().unwrap_or_else(|| i.id.to_string());
    let mut pictures: Vec<Picture> =
        truth.images.iter().map(|i| Picture { image: name(i), ..Picture::default() }).collect();
    let picture_of = index("truth", "image id", truth.images.iter().map(|i| i.id))?;
    let class_of = index("truth", "category id", truth.categories.iter().map(|c| c.id))?;
    let class_named = index("truth", "category name", truth.categories.iter().map(|c| c.name.as_str()))?;
    for (i, b) in truth.annotations.iter().enumerate() {
        let unknown = |what, id| FileError::Unknown { file: "truth", index: i, what, id };
        let (bbox, area) = bbox("truth", i, &b.bbox)?;
        let picture = picture_of.get(&b.image_id).ok_or_else(|| unknown("image", b.image_id))?;
        let class = *class_of.get(&b.category_id).ok_or_else(|| unknown("category", b.category_id))?;
        let crowd = b.iscrowd.as_bool().unwrap_or_else(|| b.iscrowd.as_f64().is_some_and(|v| v != 0.0));
        pictures[*picture].truth.push(Truth { class, bbox, area: b.area.unwrap_or(area), crowd });
    }

    let mut left_out = LeftOut::default();
    let (boxes, places) = match &predicted {
        Predicted::Results(boxes) => (boxes, None),
        Predicted::File(f) if f.images.is_empty() => (&f.annotations, None),
        Predicted::File(f) => (&f.annotations, Some(places(&pictures, f)?)),
    };
    let categories: Option<BTreeMap<i64, &str>> = match &predicted {
        Predicted::File(f) if !f.categories.is_empty() => {
            index("predictions", "category id", f.categories.iter().map(|c| c.id))?;
            Some(f.categories.iter().map(|c| (c.id, c.name.as_str())).collect())
        }
        _ => None,
    };
    for (i, b) in boxes.iter().enumerate() {
        let unknown = |what, id| FileError::Unknown { file: "predictions", index: i, what, id };
        let (bbox, area) = bbox("predictions", i, &b.bbox)?;
        let score = b.score.filter(|s| s.is_finite()).ok_or(FileError::NoScore { index: i })?;
        let place = match &places {
            Some(p) => p.get(&b.image_id).ok_or_else(|| unknown("image", b.image_id))?.clone(),
            None => picture_of.get(&b.image_id).copied().ok_or_else(|| b.image_id.to_string()),
        };
        let class = match &categories {
            Some(c) => {
                let name = *c.get(&b.category_id).ok_or_else(|| unknown("category", b.category_id))?;
                class_named.get(name).copied().ok_or_else(|| name.to_owned())
            }
            None => class_of.get(&b.category_id).copied().ok_or_else(|| b.category_id.to_string()),
        };
        match (place, class) {
            (Ok(p), Ok(class)) => pictures[p].found.push(Found { class, bbox, area, score }),
            (Err(image), _) => left_out.image(&image, 1),
            (_, Err(class)) => left_out.class(&class),
        }
    }
    let mut notes = left_out.notes();
    if let Predicted::File(f) = &predicted
        && !f.images.is_empty()
        && f.images.len() < pictures.len()
    {
        notes.push(format!(
            "the predictions list {} images, the truth {}: what was not looked at counts as missed",
            f.images.len(),
            pictures.len()
        ));
    }
    Ok(EvalInput { classes: truth.categories.into_iter().map(|c| c.name).collect(), pictures, notes })
}

fn index<T: Ord + ToString>(
    file: &'static str,
    what: &'static str,
    ids: impl Iterator<Item = T>,
) -> Result<BTreeMap<T, usize>, FileError> {
    let mut map = BTreeMap::new();
    for (i, id) in ids.enumerate() {
        let text = id.to_string();
        if map.insert(id, i).is_some() {
            return Err(FileError::Twice { file, what, id: text });
        }
    }
    Ok(map)
}

/// Where the pictures of the predictions are in the truth (or the name of one that is not there): by file name, and
/// where no file name fits at all, by its last part as long as that is unique on both sides.
fn places(pictures: &[Picture], f: &CocoFile) -> Result<BTreeMap<i64, Result<usize, String>>, FileError> {
    index("predictions", "image id", f.images.iter().map(|i| i.id))?;
    let names: Vec<String> = f.images.iter().map(|i| i.file_name.clone().unwrap_or_else(|| i.id.to_string())).collect();
    let find = |key: fn(&str) -> &str| -> Option<BTreeMap<i64, Result<usize, String>>> {
        let of: BTreeMap<&str, usize> = pictures.iter().enumerate().map(|(i, p)| (key(&p.image), i)).collect();
        let unique: BTreeSet<&str> = names.iter().map(|n| key(n)).collect();
        if of.len() < pictures.len() || unique.len() < names.len() || unique.iter().all(|n| !of.contains_key(n)) {
            return None;
        }
        let place = |n: &String| of.get(key(n)).copied().ok_or_else(|| n.clone());
        Some(f.images.iter().zip(&names).map(|(i, n)| (i.id, place(n))).collect())
    };
    index("truth", "file_name", pictures.iter().map(|p| p.image.as_str()))?;
    index("predictions", "file_name", names.iter().map(String::as_str))?;
    find(|n| n).or_else(|| find(|n| n.rsplit(['/', '\\']).next().unwrap_or(n))).ok_or_else(|| {
        FileError::NothingInCommon {
            predicted: names.len(),
            truth: pictures.len(),
            example: format!("for instance `{}` and `{}`", names[0], pictures[0].image),
        }
    })
}
