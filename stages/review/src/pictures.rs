//! The pictures of the report: annotated sheets, cut-out boxes, templates. Decodes the selected images only, a few at a
//! time, and stops at the budget.

use std::collections::BTreeMap;

use artifacts::{Exemplar, ExemplarSet, Lesson, OntologyValue};
use datasets::picture::{Limits, decode};
use datasets::{Annotation, AnnotationSet, ImageAnnotations};
use engine::{Context, Manifest, StageError};
use image::{RgbImage, imageops};
use rayon::prelude::*;
use report::draw::{self, EncodeError, Mark};
use report::{Legend, Picture};

use crate::doubt::{Selection, Sheet};
use crate::queue::{Labels, Queue, QueueItem};
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
    /// Position of the box in the queue.
    pub item: usize,
    /// The cut-out.
    pub picture: Picture,
    /// The template that it was found with, or the first of its class, turned as the box says: name and picture.
    pub template: Option<(String, Picture)>,
}

/// All pictures of the report.
#[derive(Default)]
pub struct Pictures {
    /// Annotated sheets.
    pub sheets: Vec<(Sheet, Picture)>,
    /// Cut-out boxes by class, the most useful first.
    pub crops: BTreeMap<String, Vec<Crop>>,
    /// Number of pictures left out because the report would get too large.
    pub over_budget: usize,
    /// Images that could not be shown, with the reason.
    pub failed: Vec<(String, String)>,
}

/// The legend of a set's classes.
pub fn legend(set: &AnnotationSet) -> Legend {
    Legend::new(set.classes.iter().map(|c| (c.name.as_str(), c.color)))
}

/// What pictures are made of.
pub struct Sources<'a> {
    pub labels: Labels<'a>,
    pub queue: &'a Queue,
    pub selection: &'a Selection,
    pub images: &'a Manifest,
    pub ontology: &'a OntologyValue,
    pub exemplars: &'a ExemplarSet,
}

/// What one decoded image gives: its sheet, and cut-outs by position in the queue.
struct FromImage {
    sheet: Option<Picture>,
    crops: Vec<(usize, Picture)>,
}

/// Makes the pictures of a selection.
pub fn make(of: &Sources<'_>, settings: &Settings, ctx: &Context) -> Result<Pictures, StageError> {
    let (set, selection) = (of.labels.set, of.selection);
    let legend = legend(set);
    let mut out = Pictures::default();
    let mut left = (settings.picture_mb * 1e6) as usize;
    let needed = selection.images(of.queue);
    let mut sheets: BTreeMap<usize, Picture> = BTreeMap::new();
    let mut crops: BTreeMap<usize, Picture> = BTreeMap::new();
    let mut done = 0;
    for some in needed.chunks(ctx.threads().max(1)) {
        ctx.check()?;
        let results: Vec<(usize, Result<FromImage, Trouble>)> =
            some.par_iter().map(|&at| (at, from_image(of, at, &legend, ctx))).collect();
        for (at, result) in results {
            match result {
                Ok(found) => {
                    sheets.extend(found.sheet.map(|p| (at, p)));
                    crops.extend(found.crops);
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
    let mut templates = Templates::default();
    let ranks = selection.boxes.values().map(Vec::len).max().unwrap_or(0);
    for rank in 0..ranks {
        for (class, list) in &selection.boxes {
            let Some(&item) = list.get(rank) else { continue };
            let Some(picture) = crops.remove(&item) else { continue };
            if afford(&picture, &mut out.over_budget) {
                let template = templates.beside(&of.queue.items[item], of)?;
                let template = template.filter(|(_, p)| afford(p, &mut 0));
                out.crops.entry(class.clone()).or_default().push(Crop { item, picture, template });
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

fn from_image(of: &Sources<'_>, at: usize, legend: &Legend, ctx: &Context) -> Result<FromImage, Trouble> {
    let image = &of.labels.set.images[at];
    let Some(blob) = of.images.blob(&image.image) else {
        return Err(Trouble::Picture("it is not among the input images".into()));
    };
    if !image.digest.is_empty() && image.digest != blob.digest.to_string() {
        return Err(Trouble::Picture("the picture changed since it was labelled".into()));
    }
    let bytes = ctx.bytes(blob).map_err(Trouble::Stage)?;
    let rgb = decode(&bytes, &Limits::default()).map_err(|e| Trouble::Picture(e.to_string()))?.rgb;
    drop(bytes);
    let mut crops = Vec::new();
    for &item in of.selection.boxes.values().flatten() {
        let place = of.queue.items[item].at;
        if place.image != at {
            continue;
        }
        let own = place.candidates.is_none().then_some(place.annotation);
        if let Some(crop) = crop(&rgb, image, of.labels.at(place), own, legend) {
            crops.push((item, draw::jpeg(&crop)?));
        }
    }
    let wanted = of.selection.sheets.iter().any(|s| s.image == at);
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

/// A box with its surroundings; the labels around it are drawn with broken lines. `own` is its position among the
/// image's labels, where it is one.
fn crop(
    rgb: &RgbImage,
    image: &ImageAnnotations,
    a: &Annotation,
    own: Option<usize>,
    legend: &Legend,
) -> Option<RgbImage> {
    let cut = draw::crop(rgb, a.bbox, CROP_CONTEXT, CROP_PX)?;
    let mark = |b: &Annotation| Mark::new(cut.place(b.bbox), legend.color(&b.class), "");
    let others = image.annotations.iter().enumerate().filter(|(i, b)| Some(*i) != own && b.bbox.is_valid());
    let mut marks: Vec<Mark> = others.map(|(_, b)| mark(b).dashed()).collect();
    marks.push(mark(a));
    let mut picture = cut.picture.clone();
    draw::marks(&mut picture, &marks);
    Some(picture)
}

/// Small pictures of templates, decoded once each. One that cannot be decoded is left out: the ontology stage has judged
/// templates already.
#[derive(Default)]
struct Templates(BTreeMap<String, Option<RgbImage>>);

impl Templates {
    /// The template that a box was found with, or the first of its class, lying as the box does.
    fn beside(&mut self, item: &QueueItem, of: &Sources<'_>) -> Result<Option<(String, Picture)>, StageError> {
        let first = || of.ontology.ontology.class(&item.class)?.exemplars.first().map(|e| e.file.clone());
        // What was made of several confirmed boxes looks like each of them.
        let of_class = |e: &&Exemplar| e.class == item.class && e.lesson == Lesson::Confirmed;
        let given = item.template.as_ref().is_some_and(|t| of.ontology.templates.contains_key(t));
        let confirmed = of.exemplars.list.iter().find(of_class).filter(|_| !given && item.template.is_some());
        let names = item.template.iter().cloned().chain(confirmed.map(|e| e.name.clone())).chain(first());
        for name in names {
            let Some(upright) = self.0.entry(name.clone()).or_insert_with(|| small(&name, of)) else { continue };
            let picture = draw::png(&turned(upright, &item.evidence)).map_err(encoding)?;
            return Ok(Some((name, picture)));
        }
        Ok(None)
    }
}

/// A template of the ontology or of a person's decisions, by its name.
fn small(name: &str, of: &Sources<'_>) -> Option<RgbImage> {
    let learned = || of.exemplars.pictures.get(&of.exemplars.list.iter().find(|e| e.name == name)?.file);
    let bytes = of.ontology.templates.get(name).or_else(learned)?;
    Some(draw::thumbnail(&decode(bytes, &Limits::default()).ok()?.rgb, TEMPLATE_PX).0)
}

/// A picture mirrored and turned to the nearest quarter, as a match says.
fn turned(picture: &RgbImage, evidence: &BTreeMap<String, f64>) -> RgbImage {
    let number = |name: &str| evidence.get(name).copied().unwrap_or(0.0);
    let picture = if number("mirrored") > 0.5 { imageops::flip_horizontal(picture) } else { picture.clone() };
    match (number("rotation_deg") / 90.0).round().rem_euclid(4.0) as u8 {
        1 => imageops::rotate90(&picture),
        2 => imageops::rotate180(&picture),
        3 => imageops::rotate270(&picture),
        _ => picture,
    }
}
