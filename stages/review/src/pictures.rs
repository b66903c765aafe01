//! The pictures of the report: annotated sheets, cut-out boxes, templates. Decodes the selected images only, a few at a
//! time, and stops at the budget.

use std::collections::{BTreeMap, BTreeSet};

use artifacts::OntologyValue;
use datasets::picture::{Limits, decode};
use datasets::{AnnotationSet, ImageAnnotations};
use engine::{Context, Manifest, StageError};
use image::RgbImage;
use rayon::prelude::*;
use report::draw::{self, EncodeError, Mark};
use report::{Legend, Picture};

use crate::doubt::{Doubtful, Selection, Sheet};
use crate::settings::Settings;

/// Longer side of an annotated sheet in pixels: small symbols stay readable when the picture is enlarged.
const SHEET_PX: u32 = 1800;
/// Longer side of a cut-out in pixels.
const CROP_PX: u32 = 220;
/// Surroundings of a cut-out box, as a share of its longer side.
const CROP_CONTEXT: f64 = 0.6;
/// Longer side of a template in pixels.
const TEMPLATE_PX: u32 = 120;

/// A box cut out of its sheet.
pub struct Crop {
    /// The box and why it is doubtful.
    pub doubtful: Doubtful,
    /// The cut-out.
    pub picture: Picture,
    /// The template that it was found with (file and picture), where the class has several.
    pub template: Option<(String, Picture)>,
}

/// All pictures of the report.
#[derive(Default)]
pub struct Pictures {
    /// Annotated sheets.
    pub sheets: Vec<(Sheet, Picture)>,
    /// Cut-out boxes by class, most doubtful first.
    pub crops: BTreeMap<String, Vec<Crop>>,
    /// Templates by class: the first, and those that the cut-out boxes were found with.
    pub templates: BTreeMap<String, Vec<(String, Picture)>>,
    /// Number of pictures left out because the report would get too large.
    pub over_budget: usize,
    /// Images that could not be shown, with the reason.
    pub failed: Vec<(String, String)>,
}

/// The legend of a set's classes.
pub fn legend(set: &AnnotationSet) -> Legend {
    Legend::new(set.classes.iter().map(|c| (c.name.as_str(), c.color)))
}

/// What one decoded image gives.
struct FromImage {
    sheet: Option<Picture>,
    crops: Vec<(String, usize, Picture)>,
}

/// Makes the pictures of a selection.
pub fn make(
    set: &AnnotationSet,
    selection: &Selection,
    images: &Manifest,
    ontology: &OntologyValue,
    settings: &Settings,
    ctx: &Context,
) -> Result<Pictures, StageError> {
    let legend = legend(set);
    let mut out = Pictures { templates: templates(set, selection, ontology)?, ..Pictures::default() };
    let mut left = (settings.picture_mb * 1e6) as usize;
    for (_, picture) in out.templates.values().flatten() {
        left = left.saturating_sub(picture.page_bytes());
    }
    let needed = selection.images();
    let mut sheets: BTreeMap<usize, Picture> = BTreeMap::new();
    let mut crops: BTreeMap<(String, usize), Picture> = BTreeMap::new();
    let mut done = 0;
    for some in needed.chunks(ctx.threads().max(1)) {
        ctx.check()?;
        let results: Vec<(usize, Result<FromImage, Trouble>)> =
            some.par_iter().map(|&at| (at, from_image(&set.images[at], at, selection, images, &legend, ctx))).collect();
        for (at, result) in results {
            match result {
                Ok(found) => {
                    sheets.extend(found.sheet.map(|p| (at, p)));
                    crops.extend(found.crops.into_iter().map(|(class, rank, p)| ((class, rank), p)));
                }
                Err(Trouble::Picture(why)) => out.failed.push((set.images[at].image.clone(), why)),
                Err(Trouble::Stage(e)) => return Err(e),
            }
            done += 1;
            ctx.progress(done, needed.len() as u64, "pictures", "");
        }
    }
    // Crops are small and say most: they come first, the sheets take what is left.
    let mut afford = |picture: &Picture, over: &mut usize| {
        let fits = picture.page_bytes() <= left;
        if fits {
            left -= picture.page_bytes();
        } else {
            *over += 1;
        }
        fits
    };
    let ranks = selection.boxes.values().map(Vec::len).max().unwrap_or(0);
    for rank in 0..ranks {
        for (class, list) in &selection.boxes {
            let Some(picture) = crops.remove(&(class.clone(), rank)) else { continue };
            if afford(&picture, &mut out.over_budget) {
                let doubtful = list[rank].clone();
                let all = out.templates.get(class).map_or(&[][..], Vec::as_slice);
                let source = &set.images[doubtful.image].annotations[doubtful.annotation].provenance.source;
                let template = all.iter().find(|(file, _)| all.len() > 1 && Some(file) == source.as_ref());
                // It stands beside every box that it found.
                let template = template.filter(|(_, p)| afford(p, &mut 0)).cloned();
                out.crops.entry(class.clone()).or_default().push(Crop { doubtful, picture, template });
            }
        }
    }
    for sheet in &selection.sheets {
        let Some(picture) = sheets.remove(&sheet.image) else { continue };
        if afford(&picture, &mut out.over_budget) {
            out.sheets.push((sheet.clone(), picture));
        }
    }
    Ok(out)
}

/// Why an image gives no pictures: its own fault, or the stage's.
enum Trouble {
    Picture(String),
    Stage(StageError),
}

impl From<EncodeError> for Trouble {
    fn from(e: EncodeError) -> Self {
        Self::Stage(encoding(e))
    }
}

fn encoding(e: EncodeError) -> StageError {
    StageError::failed("making a picture for the report", e)
}

fn from_image(
    image: &ImageAnnotations,
    at: usize,
    selection: &Selection,
    images: &Manifest,
    legend: &Legend,
    ctx: &Context,
) -> Result<FromImage, Trouble> {
    let Some(blob) = images.blob(&image.image) else {
        return Err(Trouble::Picture("it is not among the input images".into()));
    };
    if !image.digest.is_empty() && image.digest != blob.digest.to_string() {
        return Err(Trouble::Picture("the picture changed since it was labelled".into()));
    }
    let bytes = ctx.bytes(blob).map_err(Trouble::Stage)?;
    let rgb = decode(&bytes, &Limits::default()).map_err(|e| Trouble::Picture(e.to_string()))?.rgb;
    drop(bytes);
    let mut crops = Vec::new();
    for (class, list) in &selection.boxes {
        for (rank, d) in list.iter().enumerate().filter(|(_, d)| d.image == at) {
            if let Some(crop) = crop(&rgb, image, d.annotation, legend) {
                crops.push((class.clone(), rank, draw::jpeg(&crop)?));
            }
        }
    }
    let wanted = selection.sheets.iter().any(|s| s.image == at);
    let sheet = if wanted { Some(draw::jpeg(&sheet(&rgb, image, legend))?) } else { None };
    Ok(FromImage { sheet, crops })
}

/// The whole sheet, shrunk, with every box and the number of its class.
fn sheet(rgb: &RgbImage, image: &ImageAnnotations, legend: &Legend) -> RgbImage {
    let (mut small, scale) = draw::thumbnail(rgb, SHEET_PX);
    let marks: Vec<Mark> = image
        .annotations
        .iter()
        .filter(|a| a.bbox.is_valid())
        .map(|a| Mark::new(a.bbox, legend.color(&a.class), legend.tag(&a.class)).scaled(scale))
        .collect();
    draw::marks(&mut small, &marks);
    small
}

/// A box with its surroundings; its neighbours are drawn with broken lines.
fn crop(rgb: &RgbImage, image: &ImageAnnotations, at: usize, legend: &Legend) -> Option<RgbImage> {
    let a = &image.annotations[at];
    let cut = draw::crop(rgb, a.bbox, CROP_CONTEXT, CROP_PX)?;
    let mark = |b: &datasets::Annotation| Mark::new(cut.place(b.bbox), legend.color(&b.class), "");
    let mut marks: Vec<Mark> = image
        .annotations
        .iter()
        .enumerate()
        .filter(|(i, b)| *i != at && b.bbox.is_valid())
        .map(|(_, b)| mark(b).dashed())
        .collect();
    marks.push(mark(a));
    let mut picture = cut.picture.clone();
    draw::marks(&mut picture, &marks);
    Some(picture)
}

/// Small pictures of the templates of every class: of the first, and of those that selected boxes were found with. One
/// that cannot be decoded is left out: the ontology stage has judged templates already.
fn templates(
    set: &AnnotationSet,
    selection: &Selection,
    ontology: &OntologyValue,
) -> Result<BTreeMap<String, Vec<(String, Picture)>>, StageError> {
    let found_with = |d: &Doubtful| set.images[d.image].annotations[d.annotation].provenance.source.as_deref();
    let mut all: BTreeMap<String, Vec<(String, Picture)>> = BTreeMap::new();
    for class in &ontology.ontology.classes {
        let used: BTreeSet<&str> =
            selection.boxes.get(&class.name).into_iter().flatten().filter_map(found_with).collect();
        for (i, exemplar) in class.exemplars.iter().enumerate() {
            if i > 0 && !used.contains(exemplar.file.as_str()) {
                continue;
            }
            let Some(bytes) = ontology.templates.get(&exemplar.file) else { continue };
            let Ok(picture) = decode(bytes, &Limits::default()) else { continue };
            let (small, _) = draw::thumbnail(&picture.rgb, TEMPLATE_PX);
            let picture = draw::png(&small).map_err(encoding)?;
            all.entry(class.name.clone()).or_default().push((exemplar.file.clone(), picture));
        }
    }
    Ok(all)
}
