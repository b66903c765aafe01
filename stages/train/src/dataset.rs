//! From labelled pictures to what the network is shown: shrunk pictures, or tiles of big drawings.
//!
//! Owns the choice between the two, the boxes in each part, and the cache in memory. Where the parts lie and how they are
//! scaled is `vision::tiles`, the same as in inference. Every picture is decoded once.
//! Refuses to own random views and the checks of labels.

use datasets::{
    BBox, Pixels,
    picture::{Limits, decode},
};
use engine::{Blob, StageError};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use vision::{
    letterbox::resize_window,
    tiles::{Cut, Tile as Place, TilePlan},
};

use crate::{
    assigner::Truth,
    augment::{Source, View},
    config::{Config, Tile},
    intake::{Ignored, Labelled, Object},
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

enum Stored {
    Raw(RgbImage),
    Png(Vec<u8>),
}

/// All inputs made of a list of pictures.
pub struct Views {
    stored: Vec<(Stored, Vec<Truth>)>,
    /// The picture (index in the list given to [`Views::build`]) and the tile of its plan that each shows.
    pub places: Vec<(usize, usize)>,
    /// The plan of every picture; those of pictures that could not be used have no views.
    pub plans: Vec<TilePlan>,
}

impl Views {
    /// Decodes, scales and cuts pictures, in parallel, a few at a time. Pictures that cannot be used are returned with
    /// reasons. Up to `cache_bytes` are kept as they are, the rest compressed without loss.
    pub fn build(
        images: &[Labelled],
        cut: Cut,
        input: u32,
        cache_bytes: usize,
        read: &(dyn Fn(&Blob) -> Result<Vec<u8>, StageError> + Sync),
        mut progress: impl FnMut(usize) -> Result<(), StageError>,
    ) -> Result<(Self, Vec<Ignored>), StageError> {
        let plans = images.iter().map(|i| TilePlan::new(i.size, cut, input)).collect();
        let mut out = Self { stored: Vec::new(), places: Vec::new(), plans };
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
                        for (tile, view) in views.into_iter().enumerate() {
                            raw_bytes += view.rgb.as_raw().len();
                            let stored = if raw_bytes <= cache_bytes { Stored::Raw(view.rgb) } else { png(&view.rgb)? };
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

    fn view(&self, index: usize) -> View {
        let (stored, objects) = &self.stored[index];
        let rgb = match stored {
            Stored::Raw(rgb) => rgb.clone(),
            Stored::Png(bytes) => image::load_from_memory_with_format(bytes, ImageFormat::Png)
                .expect("bytes that this program compressed itself are whole")
                .into_rgb8(),
        };
        View { rgb, objects: objects.clone() }
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
            objects: boxes.iter().map(|&b| Object { class: 0, bbox: b.into() }).collect(),
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
        let build = |bytes| Views::build(&images, cut, 320, bytes, &read, |_| Ok(())).unwrap();
        let ((raw, ignored), (packed, _)) = (build(1 << 30), build(400_000));
        assert_eq!(ignored.len(), 2);
        assert!(ignored[0].image == "broken" && ignored[1].reason.contains("labelled at 200 x 400"));
        assert_eq!(raw.count(), 8);
        assert!(matches!(packed.stored[7].0, Stored::Png(_)));
        for i in 0..raw.count() {
            assert_eq!(raw.view(i), packed.view(i));
        }
    }
}
