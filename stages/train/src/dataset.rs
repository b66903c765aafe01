//! From labelled pictures to what the network is shown: shrunk pictures, or tiles of big drawings.
//!
//! Owns the choice between the two, the cutting with its boxes, and the cache in memory. Every picture is decoded once.
//! Refuses to own random views and the checks of labels.

use datasets::{
    BBox, Pixels,
    picture::{Limits, decode},
};
use engine::{Blob, StageError};
use image::{ImageFormat, RgbImage, imageops};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vision::letterbox::{Letterbox, Upscale, resize};

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

/// How pictures become inputs of the network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Cut {
    /// Each picture is scaled to fit.
    Whole,
    /// Each picture is scaled by `scale` and cut into tiles as big as the input, which overlap.
    Tiles {
        /// Pixels of the input per pixel of the picture.
        scale: f64,
        /// Pixels of the input that neighbours share, at least.
        overlap: u32,
    },
}

impl Cut {
    /// Settles `tile: auto` from the labels, with the reason in words.
    pub fn settle(config: &Config, images: &[Labelled]) -> (Self, String) {
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
            Self::Tiles { scale, overlap }
        };
        match config.tile {
            Tile::Off => (Self::Whole, "tile: off".into()),
            Tile::Native => (tiles(1.0), "tile: native".into()),
            Tile::Auto if sides.is_empty() || shrunk >= LEAST_SHRUNK_SIDE => {
                (Self::Whole, format!("symbols keep {shrunk:.0} pixels when pictures are scaled to {input:.0}"))
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
}

/// The value below which a share of the list lies; 0 for an empty one.
fn quantile(list: &mut [f64], share: f64) -> f64 {
    list.sort_by(f64::total_cmp);
    let at = (list.len() as f64 * share) as usize;
    list.get(at.min(list.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// A part of a scaled picture: what one input of the network shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Index of the picture in the list given to [`Views::build`].
    pub image: usize,
    /// Pixels of the input per pixel of the picture, in x and y.
    pub scale: (f64, f64),
    /// Left and top in the scaled picture.
    pub origin: (u32, u32),
    /// Width and height in pixels of the input.
    pub size: (u32, u32),
}

enum Stored {
    Raw(RgbImage),
    Png(Vec<u8>),
}

/// All inputs made of a list of pictures.
pub struct Views {
    stored: Vec<(Stored, Vec<Truth>)>,
    /// Where each comes from.
    pub places: Vec<Place>,
}

/// Start positions of tiles of side `tile` over `length`, sharing at least `overlap`, evenly spread.
fn starts(length: u32, tile: u32, overlap: u32) -> Vec<u32> {
    if length <= tile {
        return vec![0];
    }
    let gaps = (length - tile).div_ceil(tile - overlap);
    (0..=gaps).map(|i| ((f64::from(length - tile) * f64::from(i) / f64::from(gaps)).round()) as u32).collect()
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
        let mut out = Self { stored: Vec::new(), places: Vec::new() };
        let mut ignored = Vec::new();
        let mut raw_bytes = 0;
        let at_once = rayon::current_num_threads();
        for (chunk_index, chunk) in images.chunks(at_once).enumerate() {
            let made: Vec<Result<Result<Vec<(Place, View)>, String>, StageError>> = chunk
                .par_iter()
                .enumerate()
                .map(|(i, image)| Ok(views_of(image, chunk_index * at_once + i, cut, input, &read(&image.blob)?)))
                .collect();
            for (made, image) in made.into_iter().zip(chunk) {
                match made? {
                    Err(reason) => {
                        ignored.push(Ignored { image: image.blob.name.clone(), label: None, reason });
                    }
                    Ok(views) => {
                        for (place, view) in views {
                            raw_bytes += view.rgb.as_raw().len();
                            let stored = if raw_bytes <= cache_bytes { Stored::Raw(view.rgb) } else { png(&view.rgb)? };
                            out.stored.push((stored, view.objects));
                            out.places.push(place);
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

/// The views of one picture, or why there are none.
fn views_of(image: &Labelled, index: usize, cut: Cut, input: u32, bytes: &[u8]) -> Result<Vec<(Place, View)>, String> {
    let picture = decode(bytes, &Limits::default()).map_err(|e| e.to_string())?.rgb;
    if picture.dimensions() != image.size {
        let ((w, h), (lw, lh)) = (picture.dimensions(), image.size);
        return Err(format!("has {w} x {h} pixels, and was labelled at {lw} x {lh}: label it again"));
    }
    let (w, h) = image.size;
    let (size, overlap) = match cut {
        Cut::Whole => (Letterbox::new((w, h), (input, input), Upscale::Yes).inner, 0),
        Cut::Tiles { scale, overlap } => {
            let side = |v: u32| ((f64::from(v) * scale).round() as u32).max(1);
            ((side(w), side(h)), overlap)
        }
    };
    let scaled = if size == (w, h) { picture } else { resize(&picture, size) };
    let scale = (f64::from(size.0) / f64::from(w), f64::from(size.1) / f64::from(h));
    let mut out = Vec::new();
    for top in starts(size.1, input, overlap) {
        for left in starts(size.0, input, overlap) {
            let (width, height) = (size.0.min(input), size.1.min(input));
            let place = Place { image: index, scale, origin: (left, top), size: (width, height) };
            let rgb = imageops::crop_imm(&scaled, left, top, width, height).to_image();
            let objects = image.objects.iter().filter_map(|o| place.visible(o)).collect();
            out.push((place, View { rgb, objects }));
        }
    }
    Ok(out)
}

impl Place {
    /// The part of an object that this place shows, in its pixels; `None` when that is too little.
    fn visible(&self, o: &Object) -> Option<Truth> {
        let (left, top) = (f64::from(self.origin.0), f64::from(self.origin.1));
        let b: BBox<Pixels> = BBox::new(
            o.bbox.x0 * self.scale.0 - left,
            o.bbox.y0 * self.scale.1 - top,
            o.bbox.x1 * self.scale.0 - left,
            o.bbox.y1 * self.scale.1 - top,
        );
        let seen = b.clipped(self.size.0, self.size.1)?;
        let enough = seen.area() >= MIN_VISIBLE * b.area();
        enough.then(|| Truth { class: o.class, bbox: [seen.x0, seen.y0, seen.x1, seen.y1].map(|v| v as f32) })
    }
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
    fn tiles_cover_everything_and_overlap() {
        for (length, tile, overlap) in [(960, 320, 64), (720, 320, 64), (321, 320, 64), (320, 320, 0), (7000, 640, 100)]
        {
            let s = starts(length, tile, overlap);
            assert_eq!((s[0], s[s.len() - 1] + tile), (0, length));
            assert!(s.windows(2).all(|w| w[1] > w[0] && w[0] + tile >= w[1] + overlap), "{s:?}");
        }
        assert_eq!(starts(100, 320, 64), [0]);
    }

    #[test]
    fn auto_keeps_symbols_at_a_size_that_can_be_seen() {
        let config = Config { imgsz: 320, ..Config::default() };
        let small = [labelled("a", (960, 720), &[[10.0, 10.0, 58.0, 58.0]])];
        assert_eq!(Cut::settle(&config, &small).0, Cut::Tiles { scale: 1.0, overlap: 72 });
        let large = [labelled("a", (960, 720), &[[10.0, 10.0, 110.0, 110.0]])];
        assert_eq!(Cut::settle(&config, &large).0, Cut::Whole);
        let tiny = [labelled("a", (3000, 2000), &[[10.0, 10.0, 22.0, 22.0]])];
        assert_eq!(Cut::settle(&config, &tiny).0, Cut::Tiles { scale: 4.0, overlap: 72 });
        let huge = [labelled("a", (30000, 20000), &[[0.0, 0.0, 480.0, 480.0]])];
        assert_eq!(Cut::settle(&config, &huge).0, Cut::Tiles { scale: 0.1, overlap: 72 });
        assert_eq!(Cut::settle(&Config { tile: Tile::Off, ..config }, &huge).0, Cut::Whole);
    }

    #[test]
    fn cut_boxes_are_kept_when_enough_is_visible() {
        let image = labelled(
            "a",
            (500, 300),
            &[[310.0, 10.0, 330.0, 30.0], [313.0, 40.0, 333.0, 60.0], [100.0, 100.0, 150.0, 150.0]],
        );
        let cut = Cut::Tiles { scale: 1.0, overlap: 32 };
        let views = views_of(&image, 5, cut, 320, &picture(500, 300)).unwrap();
        assert_eq!(views.len(), 2);
        let (place, view) = &views[0];
        assert_eq!((place.image, place.origin, view.rgb.dimensions()), (5, (0, 0), (320, 300)));
        // Half of the first is visible, a third of the second.
        assert_eq!(view.objects.iter().map(|o| o.bbox[0]).collect::<Vec<_>>(), [310.0, 100.0]);
        assert_eq!(view.objects[0].bbox, [310.0, 10.0, 320.0, 30.0]);
        let (place, view) = &views[1];
        assert_eq!((place.origin, view.objects.len()), ((180, 0), 2));
        assert_eq!(view.rgb.get_pixel(0, 9).0, [180, 9, 7]);
    }

    #[test]
    fn shrunk_pictures_keep_their_shape() {
        let image = labelled("a", (500, 300), &[[100.0, 100.0, 200.0, 200.0]]);
        let views = views_of(&image, 0, Cut::Whole, 320, &picture(500, 300)).unwrap();
        assert_eq!(views[0].1.rgb.dimensions(), (320, 192));
        assert_eq!(views[0].1.objects[0].bbox, [64.0, 64.0, 128.0, 128.0]);
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
