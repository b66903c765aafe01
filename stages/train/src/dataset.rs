//! From labelled pictures to what the network is shown: shrunk pictures, or tiles of big drawings.
//!
//! Owns the choice between the two, the boxes in each part, and the cache in memory and on disk. Where the parts lie and how they are
//! scaled is `vision::tiles`, the same as in inference. Every picture is decoded once.
//! Refuses to own random views and the checks of labels.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use datasets::{
    BBox, Pixels,
    picture::{Limits, decode},
};
use engine::{Blob, StageError};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vision::{
    letterbox::resize_window,
    tiles::{Cut, Tile as Place, TilePlan},
};

use crate::{
    assigner::Truth,
    augment::{Source, View},
    config::{Config, Tile},
    intake::{Ignored, Labelled, Object, shown},
};

/// `auto` cuts tiles when a typical symbol of a shrunk picture would be smaller than this, in pixels of the network's
/// input: three cells of the finest level.
const LEAST_SHRUNK_SIDE: f64 = 24.0;
/// Tiles are cut from the drawing as it is when its typical symbol side is in this range, in pixels; otherwise the
/// drawing is scaled first.
const NATIVE_SIDES: std::ops::RangeInclusive<f64> = 16.0..=96.0;
/// Symbol side that scaling aims at, in pixels of the network's input.
const AIM_SIDE: f64 = 48.0;
/// A box cut by the edge of a tile is kept when at least this share of its area is visible.
const MIN_VISIBLE: f64 = 0.4;
/// Share of the boxes whose longer side an overlap of tiles has to hold.
const USUAL: f64 = 0.95;
/// Overlap of tiles in lengths of such a box: each symbol is whole in one tile, with some room around it.
const OVERLAP_SYMBOLS: f64 = 1.5;

/// Settles `tile: auto` from the labels, with the reason in words.
pub fn settle_cut(config: &Config, images: &[Labelled]) -> (Cut, String) {
    let input = f64::from(config.imgsz);
    let mut sides: Vec<f64> = Vec::new();
    let mut shrunk: Vec<f64> = Vec::new();
    let mut longest: Vec<f64> = Vec::new();
    for image in images {
        let scale = input / f64::from(image.size.0.max(image.size.1));
        for o in &image.objects {
            sides.push(o.bbox.area().sqrt());
            shrunk.push(o.bbox.area().sqrt() * scale);
            longest.push(o.bbox.width().max(o.bbox.height()));
        }
    }
    let (side, shrunk) = (quantile(&mut sides, 0.5), quantile(&mut shrunk, 0.5));
    let longest = quantile(&mut longest, USUAL);
    let tiles = |scale: f64| {
        let usual = (longest * scale * OVERLAP_SYMBOLS / 8.0).ceil() * 8.0;
        let overlap = config.tile_overlap.unwrap_or((usual.max(32.0) as u32).min(config.imgsz / 3));
        Cut::Tiles { scale, overlap }
    };
    match config.tile {
        Tile::Off => (Cut::Whole, "tile: off".into()),
        Tile::Native => (tiles(1.0), "tile: native".into()),
        Tile::Auto if sides.is_empty() || shrunk >= LEAST_SHRUNK_SIDE => {
            (Cut::Whole, format!("symbols keep {shrunk:.0} pixels when pictures are scaled to {input:.0}"))
        }
        Tile::Auto => {
            let scale = if NATIVE_SIDES.contains(&side) { 1.0 } else { AIM_SIDE / side };
            let why = format!(
                "symbols of {side:.0} pixels would shrink to {shrunk:.0} in pictures scaled to {input:.0}; tiles show them \
                     at {:.0}",
                side * scale
            );
            (tiles(scale), why)
        }
    }
}

/// The value below which a share of the list lies; 0 for an empty one.
fn quantile(list: &mut [f64], share: f64) -> f64 {
    list.sort_by(f64::total_cmp);
    let at = (list.len() as f64 * share) as usize;
    list.get(at.min(list.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Where sized pictures are kept that do not fit into `cache_mb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In memory, compressed without loss.
    #[default]
    Ram,
    /// As they are, in a file of the run's folder that goes away with the training: less memory and no decompression, for
    /// sets of many thousands of pictures.
    Disk,
}

enum Stored {
    Raw(RgbImage),
    Png(Vec<u8>),
    Disk { offset: u64, size: (u32, u32) },
}

/// How sized pictures are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// Bytes of pictures that stay in memory as they are.
    pub bytes: usize,
    /// File for the others, made when it is needed; they are kept in memory, compressed without loss, when there is none.
    pub file: Option<&'a Path>,
}

/// Pictures in a file, one behind the other, as they are.
struct Shelf {
    path: PathBuf,
    file: Mutex<File>,
    end: u64,
}

impl Shelf {
    fn new(path: &Path) -> Result<Self, StageError> {
        let open = || {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            File::options().read(true).write(true).create(true).truncate(true).open(path)
        };
        let file =
            open().map_err(|e| StageError::failed(format!("making the picture cache `{}`", path.display()), e))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), end: 0 })
    }

    fn put(&mut self, rgb: &RgbImage) -> Result<Stored, StageError> {
        let file = self.file.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = "writing pictures to the cache; free space there, or set `train.cache: ram`";
        file.write_all(rgb.as_raw())
            .map_err(|e| StageError::failed(format!("`{}`: {text}", self.path.display()), e))?;
        let offset = self.end;
        self.end += rgb.as_raw().len() as u64;
        Ok(Stored::Disk { offset, size: rgb.dimensions() })
    }

    fn get(&self, offset: u64, (w, h): (u32, u32)) -> Result<RgbImage, StageError> {
        let mut bytes = vec![0; w as usize * h as usize * 3];
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| StageError::failed(format!("reading the picture cache `{}`", self.path.display()), e))?;
        Ok(RgbImage::from_raw(w, h, bytes).expect("the buffer has the size of the picture"))
    }
}

/// All inputs made of a list of pictures.
pub struct Views {
    stored: Vec<(Stored, Vec<Truth>)>,
    shelf: Option<Shelf>,
    /// The picture (index in the list given to [`Views::build`]) and the tile of its plan that each shows.
    pub places: Vec<(usize, usize)>,
    /// The plan of every picture; those of pictures that could not be used have no views.
    pub plans: Vec<TilePlan>,
}

impl Views {
    /// Decodes, scales and cuts pictures, in parallel, a few at a time. Pictures that cannot be used are returned with
    /// reasons, and so are objects that no tile shows enough of.
    pub fn build(
        images: &[Labelled],
        cut: Cut,
        input: u32,
        keep: Keep,
        read: &(dyn Fn(&Blob) -> Result<Vec<u8>, StageError> + Sync),
        mut progress: impl FnMut(usize) -> Result<(), StageError>,
    ) -> Result<(Self, Vec<Ignored>), StageError> {
        let plans = images.iter().map(|i| TilePlan::new(i.size, cut, input)).collect();
        let mut out = Self { stored: Vec::new(), shelf: None, places: Vec::new(), plans };
        let mut ignored = Vec::new();
        let mut raw_bytes = 0;
        let at_once = rayon::current_num_threads();
        for (chunk_index, chunk) in images.chunks(at_once).enumerate() {
            let plans = &out.plans[chunk_index * at_once..];
            let made: Vec<Result<Result<Vec<View>, String>, StageError>> = chunk
                .par_iter()
                .zip(plans)
                .map(|(image, plan)| Ok(views_of(image, plan, &read(&image.blob)?)))
                .collect();
            for (i, (made, image)) in made.into_iter().zip(chunk).enumerate() {
                match made? {
                    Err(reason) => {
                        ignored.push(Ignored { image: image.blob.name.clone(), label: None, reason });
                    }
                    Ok(views) => {
                        ignored.extend(unseen(image, &out.plans[chunk_index * at_once + i]));
                        for (tile, view) in views.into_iter().enumerate() {
                            raw_bytes += view.rgb.as_raw().len();
                            let stored = match (raw_bytes <= keep.bytes, keep.file) {
                                (true, _) => Stored::Raw(view.rgb),
                                (false, None) => png(&view.rgb)?,
                                (false, Some(path)) => {
                                    if out.shelf.is_none() {
                                        out.shelf = Some(Shelf::new(path)?);
                                    }
                                    out.shelf.as_mut().expect("made above").put(&view.rgb)?
                                }
                            };
                            out.stored.push((stored, view.objects));
                            out.places.push((chunk_index * at_once + i, tile));
                        }
                    }
                }
            }
            progress(((chunk_index + 1) * at_once).min(images.len()))?;
        }
        Ok((out, ignored))
    }

    /// The objects of a view, in its pixels.
    pub fn objects(&self, index: usize) -> &[Truth] {
        &self.stored[index].1
    }
}

impl Source for Views {
    fn count(&self) -> usize {
        self.stored.len()
    }

    fn view(&self, index: usize) -> Result<View, StageError> {
        let (stored, objects) = &self.stored[index];
        let rgb = match stored {
            Stored::Raw(rgb) => rgb.clone(),
            Stored::Disk { offset, size } => {
                self.shelf.as_ref().expect("pictures on disk have a file").get(*offset, *size)?
            }
            Stored::Png(bytes) => image::load_from_memory_with_format(bytes, ImageFormat::Png)
                .expect("bytes that this program compressed itself are whole")
                .into_rgb8(),
        };
        Ok(View { rgb, objects: objects.clone() })
    }
}

fn png(rgb: &RgbImage) -> Result<Stored, StageError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    rgb.write_to(&mut bytes, ImageFormat::Png).map_err(|e| StageError::failed("compressing a tile", e))?;
    Ok(Stored::Png(bytes.into_inner()))
}

/// The views of one picture, without padding, or why there are none.
fn views_of(image: &Labelled, plan: &TilePlan, bytes: &[u8]) -> Result<Vec<View>, String> {
    let picture = decode(bytes, &Limits::default()).map_err(|e| e.to_string())?.rgb;
    if picture.dimensions() != image.size {
        let ((w, h), (lw, lh)) = (picture.dimensions(), image.size);
        return Err(format!("has {w} x {h} pixels, and was labelled at {lw} x {lh}: label it again"));
    }
    let view = |place: &Place| {
        let window = [place.origin.0, place.origin.1, place.size.0, place.size.1];
        let objects = image.objects.iter().filter_map(|o| visible(o, plan, place)).collect();
        View { rgb: resize_window(&picture, plan.scaled, window), objects }
    };
    Ok(plan.tiles.iter().map(view).collect())
}

/// Objects that no part shows enough of to learn from.
fn unseen<'a>(image: &'a Labelled, plan: &'a TilePlan) -> impl Iterator<Item = Ignored> + 'a {
    let nowhere = |o: &&Object| plan.tiles.iter().all(|tile| visible(o, plan, tile).is_none());
    image.objects.iter().filter(nowhere).map(|o| Ignored {
        image: image.blob.name.clone(),
        label: Some(o.label),
        reason: format!("{} is too large for the tiles: raise `train.imgsz`, or set `train.tile: off`", shown(&o.bbox)),
    })
}

/// The part of an object that a tile shows, in the tile's pixels; `None` when that is too little.
fn visible(o: &Object, plan: &TilePlan, place: &Place) -> Option<Truth> {
    let (sx, sy) = plan.scale();
    let (left, top) = (f64::from(place.origin.0), f64::from(place.origin.1));
    let b: BBox<Pixels> =
        BBox::new(o.bbox.x0 * sx - left, o.bbox.y0 * sy - top, o.bbox.x1 * sx - left, o.bbox.y1 * sy - top);
    let seen = b.clipped(place.size.0, place.size.1)?;
    let enough = seen.area() >= MIN_VISIBLE * b.area();
    enough.then(|| Truth { class: o.class, bbox: [seen.x0, seen.y0, seen.x1, seen.y1].map(|v| v as f32) })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use engine::Digest;
    use image::Rgb;

    use super::*;

    fn labelled(name: &str, size: (u32, u32), boxes: &[[f64; 4]]) -> Labelled {
        Labelled {
            blob: Blob { name: name.into(), digest: Digest::of(name.as_bytes()), size: 1 },
            size,
            objects: boxes.iter().map(|&b| Object { class: 0, bbox: b.into(), label: 1 }).collect(),
        }
    }

    fn picture(w: u32, h: u32) -> Vec<u8> {
        let rgb = RgbImage::from_fn(w, h, |x, y| Rgb([(x % 251) as u8, (y % 241) as u8, 7]));
        let mut bytes = Cursor::new(Vec::new());
        rgb.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn auto_keeps_symbols_at_a_size_that_can_be_seen() {
        let config = Config { imgsz: 320, ..Config::default() };
        let small = [labelled("a", (960, 720), &[[10.0, 10.0, 58.0, 58.0]])];
        assert_eq!(settle_cut(&config, &small).0, Cut::Tiles { scale: 1.0, overlap: 72 });
        let large = [labelled("a", (960, 720), &[[10.0, 10.0, 110.0, 110.0]])];
        assert_eq!(settle_cut(&config, &large).0, Cut::Whole);
        let tiny = [labelled("a", (3000, 2000), &[[10.0, 10.0, 22.0, 22.0]])];
        assert_eq!(settle_cut(&config, &tiny).0, Cut::Tiles { scale: 4.0, overlap: 72 });
        let huge = [labelled("a", (30000, 20000), &[[0.0, 0.0, 480.0, 480.0]])];
        assert_eq!(settle_cut(&config, &huge).0, Cut::Tiles { scale: 0.1, overlap: 72 });
        assert_eq!(settle_cut(&Config { tile: Tile::Off, ..config }, &huge).0, Cut::Whole);
    }

    #[test]
    fn cut_boxes_are_kept_when_enough_is_visible() {
        let image = labelled(
            "a",
            (500, 300),
            &[[310.0, 10.0, 330.0, 30.0], [313.0, 40.0, 333.0, 60.0], [100.0, 100.0, 150.0, 150.0]],
        );
        let cut = Cut::Tiles { scale: 1.0, overlap: 32 };
        let plan = TilePlan::new(image.size, cut, 320);
        let views = views_of(&image, &plan, &picture(500, 300)).unwrap();
        assert_eq!(views.len(), 2);
        let view = &views[0];
        assert_eq!((plan.tiles[0].origin, view.rgb.dimensions()), ((0, 0), (320, 300)));
        // Half of the first is visible, a third of the second.
        assert_eq!(view.objects.iter().map(|o| o.bbox[0]).collect::<Vec<_>>(), [310.0, 100.0]);
        assert_eq!(view.objects[0].bbox, [310.0, 10.0, 320.0, 30.0]);
        let view = &views[1];
        assert_eq!((plan.tiles[1].origin, view.objects.len()), ((180, 0), 2));
        assert_eq!(view.rgb.get_pixel(0, 9).0, [180, 9, 7]);
    }

    #[test]
    fn shrunk_pictures_keep_their_shape() {
        let image = labelled("a", (500, 300), &[[100.0, 100.0, 200.0, 200.0]]);
        let plan = TilePlan::new(image.size, Cut::Whole, 320);
        let views = views_of(&image, &plan, &picture(500, 300)).unwrap();
        assert_eq!(views[0].rgb.dimensions(), (320, 192));
        assert_eq!(views[0].objects[0].bbox, [64.0, 64.0, 128.0, 128.0]);
    }

    #[test]
    fn the_cache_limit_changes_nothing_and_bad_pictures_are_named() {
        let images = [
            labelled("a", (400, 400), &[[5.0, 5.0, 50.0, 50.0]]),
            labelled("broken", (400, 400), &[]),
            labelled("other", (200, 400), &[]),
            labelled("b", (400, 400), &[]),
        ];
        let read = |blob: &Blob| Ok(if blob.name == "broken" { vec![1, 2, 3] } else { picture(400, 400) });
        let cut = Cut::Tiles { scale: 1.0, overlap: 32 };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new folder/views.rgb");
        let build = |bytes, file| Views::build(&images, cut, 320, Keep { bytes, file }, &read, |_| Ok(())).unwrap();
        let ((raw, ignored), (packed, _)) = (build(1 << 30, Some(path.as_path())), build(400_000, None));
        assert!(!path.exists(), "no file without need");
        let (shelved, _) = build(400_000, Some(path.as_path()));
        assert_eq!(ignored.len(), 2);
        assert!(ignored[0].image == "broken" && ignored[1].reason.contains("labelled at 200 x 400"));
        assert_eq!(raw.count(), 8);
        assert!(matches!(packed.stored[7].0, Stored::Png(_)));
        for i in 0..raw.count() {
            assert_eq!(raw.view(i).unwrap(), packed.view(i).unwrap());
            assert_eq!(raw.view(i).unwrap(), shelved.view(i).unwrap());
        }
        // What fits stays in memory; the file holds the rest, and its loss is an error that names it.
        let on_disk = raw.count() as u64 - 1;
        assert_eq!(std::fs::metadata(&path).unwrap().len(), on_disk * 320 * 320 * 3);
        File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        assert_eq!(raw.view(0).unwrap(), shelved.view(0).unwrap());
        let text = shelved.view(raw.count() - 1).err().unwrap().to_string();
        assert!(text.contains("views.rgb"), "{text}");
    }

    #[test]
    fn objects_that_no_tile_shows_are_named() {
        let large = labelled("a", (900, 900), &[[10.0, 10.0, 890.0, 890.0], [10.0, 10.0, 50.0, 50.0]]);
        let read = |_: &Blob| Ok(picture(900, 900));
        let keep = Keep { bytes: 1 << 30, file: None };
        let cut = Cut::Tiles { scale: 1.0, overlap: 64 };
        let (_, ignored) = Views::build(std::slice::from_ref(&large), cut, 320, keep, &read, |_| Ok(())).unwrap();
        assert_eq!(ignored.len(), 1);
        assert!(ignored[0].reason.contains("[10.0, 10.0, 890.0, 890.0] is too large"), "{}", ignored[0].reason);
        assert_eq!(Views::build(&[large], Cut::Whole, 320, keep, &read, |_| Ok(())).unwrap().1, []);
    }
}
