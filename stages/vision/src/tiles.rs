//! Big drawings in parts: where the parts lie, and how what was found in them is put together.
//!
//! Owns the plan (which part of the scaled picture each input of the network shows) and the merging at the seams.
//! Refuses to run a detector.
//!
//! An object near a seam is seen by several tiles: whole by one, cut off by another. Two boxes are taken for the same
//! object when they agree *in the part of the picture that both tiles see*. So a fragment never survives beside the
//! whole, and an object too long for any tile is put together from its fragments.

use datasets::{BBox, Pixels};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::letterbox::{Canvas, FILL, Letterbox, Upscale, resize_window};
use crate::nms::{Candidate, sort};

/// How pictures become inputs of the network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Cut {
    /// Each picture is scaled to fit, small ones up too: so does the recipe's validation, which brings the longer side to
    /// the input's before its letterbox (that alone scales nothing up).
    Whole,
    /// Each picture is scaled by `scale` and cut into tiles as big as the input, which overlap.
    Tiles {
        /// Pixels of the input per pixel of the picture.
        scale: f64,
        /// Pixels of the input that neighbours share, at least.
        overlap: u32,
    },
}

/// What one input of the network shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Left and top in the scaled picture.
    pub origin: (u32, u32),
    /// Width and height in pixels of the input; smaller than the input only where the scaled picture is.
    pub size: (u32, u32),
}

/// All inputs made of one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TilePlan {
    /// Width and height of the picture.
    pub picture: (u32, u32),
    /// Width and height of the scaled picture.
    pub scaled: (u32, u32),
    /// Side of the network's input.
    pub input: u32,
    /// Row by row.
    pub tiles: Vec<Tile>,
}

/// Start positions of tiles of side `tile` over `length`, sharing at least `overlap`, evenly spread.
fn starts(length: u32, tile: u32, overlap: u32) -> Vec<u32> {
    if length <= tile {
        return vec![0];
    }
    let gaps = (length - tile).div_ceil(tile - overlap.min(tile - 1));
    (0..=gaps).map(|i| (u64::from(length - tile) * u64::from(i) / u64::from(gaps)) as u32).collect()
}

impl TilePlan {
    /// Plans the inputs of side `input` for a picture of `picture` (width, height, not 0).
    pub fn new(picture: (u32, u32), cut: Cut, input: u32) -> Self {
        let (scaled, overlap) = match cut {
            Cut::Whole => (Letterbox::new(picture, (input, input), Upscale::Yes).inner, 0),
            Cut::Tiles { scale, overlap } => {
                let side = |v: u32| ((f64::from(v) * scale).round() as u32).max(1);
                ((side(picture.0), side(picture.1)), overlap)
            }
        };
        let size = (scaled.0.min(input), scaled.1.min(input));
        let columns = starts(scaled.0, input, overlap);
        let tiles = starts(scaled.1, input, overlap)
            .into_iter()
            .flat_map(|y| columns.iter().map(move |&x| Tile { origin: (x, y), size }))
            .collect();
        Self { picture, scaled, input, tiles }
    }

    /// Pixels of the input per pixel of the picture, in x and y.
    pub fn scale(&self) -> (f64, f64) {
        (f64::from(self.scaled.0) / f64::from(self.picture.0), f64::from(self.scaled.1) / f64::from(self.picture.1))
    }

    /// The input that shows a tile: its pixels in the middle, grey around. Only the tile is made, never the whole scaled
    /// picture.
    pub fn render(&self, picture: &RgbImage, tile: &Tile) -> RgbImage {
        assert_eq!(picture.dimensions(), self.picture, "the tiles were planned for another picture");
        let window = [tile.origin.0, tile.origin.1, tile.size.0, tile.size.1];
        let part = resize_window(picture, self.scaled, window);
        if tile.size == (self.input, self.input) {
            return part;
        }
        let mut canvas = RgbImage::from_pixel(self.input, self.input, image::Rgb([FILL; 3]));
        let (x, y) = self.padding(tile);
        image::imageops::replace(&mut canvas, &part, i64::from(x), i64::from(y));
        canvas
    }

    fn padding(&self, tile: &Tile) -> (u32, u32) {
        ((self.input - tile.size.0) / 2, (self.input - tile.size.1) / 2)
    }

    /// A box of a tile's input, in the picture. Not clipped.
    pub fn to_picture(&self, tile: &Tile, b: &BBox<Canvas>) -> BBox<Pixels> {
        let (sx, sy) = self.scale();
        let (px, py) = self.padding(tile);
        let x = |v: f64| (v - f64::from(px) + f64::from(tile.origin.0)) / sx;
        let y = |v: f64| (v - f64::from(py) + f64::from(tile.origin.1)) / sy;
        BBox::new(x(b.x0), y(b.y0), x(b.x1), y(b.y1))
    }

    /// The part of the picture that a tile shows.
    pub fn region(&self, tile: &Tile) -> BBox<Pixels> {
        let (sx, sy) = self.scale();
        let (x, y) = (f64::from(tile.origin.0), f64::from(tile.origin.1));
        BBox::new(x / sx, y / sy, (x + f64::from(tile.size.0)) / sx, (y + f64::from(tile.size.1)) / sy)
    }
}

/// Overlap, in the part that both tiles see, from which two boxes are one object.
pub const SAME_OBJECT_IOU: f64 = 0.5;
/// A box that ends nearer than this to a seam is cut off by it, in pixels of the input: networks place edges to within
/// a pixel or two.
const CUT_PX: f64 = 3.0;
/// A box that ends nearer than this share of the input to a seam is whole only if no tile sees more of it.
const NEAR: f64 = 0.04;
/// A fragment gives way to a whole of another class only if that has at least this share of its score: a whole that is
/// hardly believed in says nothing about a fragment that is.
const CREDIBLE: f64 = 0.3;

/// How much of an object a tile seems to see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum View {
    Clear,
    Near,
    Cut,
}

struct Piece {
    box_: Candidate<Pixels>,
    tile: usize,
    view: View,
}

/// Puts together what was found in the tiles: `found[i]` are the boxes of `plan.tiles[i]` in pixels of the picture.
/// Every object is left once, best score first, clipped to the picture.
pub fn merge(plan: &TilePlan, found: Vec<Vec<Candidate<Pixels>>>) -> Vec<Candidate<Pixels>> {
    assert_eq!(found.len(), plan.tiles.len(), "one list for each tile");
    let regions: Vec<BBox<Pixels>> = plan.tiles.iter().map(|t| plan.region(t)).collect();
    let mut pieces: Vec<Piece> = Vec::new();
    for (tile, mut list) in found.into_iter().enumerate() {
        sort(&mut list);
        for mut c in list {
            // The network may reach beyond what it was shown.
            if let Some(bbox) = c.bbox.intersection(&regions[tile]) {
                c.bbox = bbox;
                pieces.push(Piece { box_: c, tile, view: view(plan, &regions[tile], &bbox) });
            }
        }
    }
    // Clear ones first, then by score; stable, so that equal ones keep the order of the tiles.
    pieces.sort_by(|a, b| a.view.cmp(&b.view).then(b.box_.score.total_cmp(&a.box_.score)));

    let mut whole: Vec<Piece> = Vec::new();
    let mut fragments: Vec<Vec<Piece>> = Vec::new();
    for p in pieces {
        let twin = |w: &Piece| match p.view {
            View::Clear => w.tile != p.tile && w.box_.bbox.iou(&p.box_.bbox) >= SAME_OBJECT_IOU,
            View::Near | View::Cut => same(&regions, w, &p),
        };
        let class = p.box_.class;
        // The whole is where the better view puts it, and as sure as the surest view of it.
        if let Some(w) = whole.iter_mut().find(|w| w.box_.class == class && twin(w)) {
            w.box_.score = w.box_.score.max(p.box_.score);
        } else if p.view != View::Cut {
            whole.push(p);
        } else if !whole.iter().any(|w| f64::from(w.box_.score) >= CREDIBLE * f64::from(p.box_.score) && twin(w)) {
            // What a cut-off part looks like says little about its class; but nothing explains this one.
            let (mine, others): (Vec<_>, Vec<_>) =
                fragments.into_iter().partition(|f| f.iter().any(|q| q.box_.class == class && same(&regions, q, &p)));
            fragments = others;
            fragments.push(mine.into_iter().flatten().chain([p]).collect());
        }
    }
    let joined = fragments.iter().map(|pieces| {
        pieces[1..].iter().fold(pieces[0].box_, |b, p| {
            let (u, v) = (b.bbox, p.box_.bbox);
            let bbox = BBox::new(u.x0.min(v.x0), u.y0.min(v.y0), u.x1.max(v.x1), u.y1.max(v.y1));
            Candidate { bbox, score: b.score.max(p.box_.score), ..b }
        })
    });
    let mut out: Vec<Candidate<Pixels>> = whole.iter().map(|p| p.box_).chain(joined).collect();
    sort(&mut out);
    out
}

fn view(plan: &TilePlan, region: &BBox<Pixels>, b: &BBox<Pixels>) -> View {
    let (sx, sy) = plan.scale();
    let (w, h) = (f64::from(plan.picture.0), f64::from(plan.picture.1));
    // Distances to the seams in pixels of the input; the picture's own edge is no seam.
    let distance = [
        if region.x0 > 0.0 { (b.x0 - region.x0) * sx } else { f64::INFINITY },
        if region.y0 > 0.0 { (b.y0 - region.y0) * sy } else { f64::INFINITY },
        if region.x1 < w - 1e-6 { (region.x1 - b.x1) * sx } else { f64::INFINITY },
        if region.y1 < h - 1e-6 { (region.y1 - b.y1) * sy } else { f64::INFINITY },
    ]
    .into_iter()
    .fold(f64::INFINITY, f64::min);
    if distance < CUT_PX {
        View::Cut
    } else if distance < NEAR * f64::from(plan.input) {
        View::Near
    } else {
        View::Clear
    }
}

/// Whether two boxes of different tiles agree in what both tiles see.
fn same(regions: &[BBox<Pixels>], a: &Piece, b: &Piece) -> bool {
    if a.tile == b.tile {
        return false;
    }
    let Some(common) = regions[a.tile].intersection(&regions[b.tile]) else { return false };
    match (a.box_.bbox.intersection(&common), b.box_.bbox.intersection(&common)) {
        (Some(a), Some(b)) => a.iou(&b) >= SAME_OBJECT_IOU,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    type Found = Candidate<Pixels>;

    /// A detector that finds exactly what is there, cut off at the edge of what it is shown.
    fn look(plan: &TilePlan, objects: &[Found]) -> Vec<Vec<Found>> {
        let see = |t: &Tile| {
            let region = plan.region(t);
            objects.iter().filter_map(|o| Some(Found { bbox: o.bbox.intersection(&region)?, ..*o })).collect()
        };
        plan.tiles.iter().map(see).collect()
    }

    fn agree(mut objects: Vec<Found>, mut merged: Vec<Found>) -> Result<(), TestCaseError> {
        sort(&mut objects);
        sort(&mut merged);
        prop_assert_eq!(objects.len(), merged.len(), "\n{:?}\n{:?}", objects, merged);
        for (o, m) in objects.iter().zip(&merged) {
            prop_assert_eq!(o.class, m.class);
            for (p, q) in <[f64; 4]>::from(o.bbox).into_iter().zip(<[f64; 4]>::from(m.bbox)) {
                prop_assert!((p - q).abs() < 1e-6, "{:?} came back as {:?}", o, m);
            }
        }
        Ok(())
    }

    fn objects(
        side: std::ops::Range<f64>,
        place: f64,
        classes: usize,
        count: usize,
    ) -> impl Strategy<Value = Vec<Found>> {
        let one = (0.0..place, 0.0..place, side.clone(), side, 0..classes, 0.3..1.0_f32).prop_map(
            move |(x, y, w, h, class, score)| Found {
                bbox: BBox::new(x, y, (x + w).min(place), (y + h).min(place)),
                class,
                score,
            },
        );
        // Scores tell the objects apart; boxes thinner than a seam's tolerance are no objects.
        proptest::collection::vec(one, 1..count).prop_map(|list| {
            let usable = |o: &Found| o.bbox.width() > 8.0 && o.bbox.height() > 8.0;
            list.into_iter()
                .filter(usable)
                .enumerate()
                .map(|(i, o)| Found { score: o.score - i as f32 * 1e-4, ..o })
                .collect()
        })
    }

    fn apart(list: Vec<Found>, gap: f64, also_other_classes: bool) -> Vec<Found> {
        let mut kept: Vec<Found> = Vec::new();
        for o in list {
            let near = |k: &Found| {
                let wide = BBox::new(k.bbox.x0 - gap, k.bbox.y0 - gap, k.bbox.x1 + gap, k.bbox.y1 + gap);
                (also_other_classes || k.class == o.class) && wide.intersection(&o.bbox).is_some()
            };
            if !kept.iter().any(near) {
                kept.push(o);
            }
        }
        kept
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Objects that fit into the overlap, of other classes also on top of each other.
        #[test]
        fn small_objects_come_back_exactly(list in objects(9.0..90.0, 1500.0, 3, 60), scale in 0.7..1.4_f64) {
            let list = apart(list, 0.0, false);
            let plan = TilePlan::new((1500, 1500), Cut::Tiles { scale, overlap: 160 }, 640);
            prop_assert!(plan.tiles.len() > 1);
            agree(list.clone(), merge(&plan, look(&plan, &list)))?;
        }

        /// Objects of any size, also such that no tile sees whole, next to each other.
        #[test]
        fn long_objects_are_put_together(list in objects(9.0..900.0, 1500.0, 3, 25), scale in 0.7..1.4_f64) {
            let list = apart(list, 1.0, true);
            let plan = TilePlan::new((1500, 1500), Cut::Tiles { scale, overlap: 160 }, 640);
            agree(list.clone(), merge(&plan, look(&plan, &list)))?;
        }

        #[test]
        fn tiles_cover_the_picture_and_overlap(w in 1..4000_u32, h in 1..4000_u32, scale in 0.3..2.0_f64, overlap in 0..200_u32) {
            let plan = TilePlan::new((w, h), Cut::Tiles { scale, overlap }, 320);
            let (columns, rows): (Vec<u32>, Vec<u32>) = plan.tiles.iter().map(|t| t.origin).unzip();
            for (starts, length) in [(columns, plan.scaled.0), (rows, plan.scaled.1)] {
                let mut starts = starts;
                starts.sort_unstable();
                starts.dedup();
                prop_assert_eq!(starts[0], 0);
                prop_assert!(starts[starts.len() - 1] + 320 >= length);
                prop_assert!(starts.windows(2).all(|s| s[0] + 320 >= s[1] + overlap));
                prop_assert!(length > 320 || starts.len() == 1);
            }
        }
    }

    fn plan() -> TilePlan {
        TilePlan::new((1000, 600), Cut::Tiles { scale: 1.0, overlap: 128 }, 640)
    }

    fn at(x0: f64, x1: f64, class: usize, score: f32) -> Found {
        Found { bbox: BBox::new(x0, 100.0, x1, 150.0), class, score }
    }

    /// Seen in the reference's validation: 100 x 60 pixels become 320 x 192 in the middle of 320 x 320.
    #[test]
    fn small_pictures_are_enlarged_to_fit() {
        for (picture, scaled) in [((100, 60), (320, 192)), ((60, 100), (192, 320)), ((700, 400), (320, 183))] {
            let plan = TilePlan::new(picture, Cut::Whole, 320);
            assert_eq!((plan.scaled, plan.tiles.len()), (scaled, 1));
            let padding = ((320 - scaled.0) / 2, (320 - scaled.1) / 2);
            assert_eq!(plan.padding(&plan.tiles[0]), padding);
        }
    }

    #[test]
    fn two_tiles_share_their_seam() {
        let plan = plan();
        assert_eq!(plan.tiles.iter().map(|t| t.origin.0).collect::<Vec<_>>(), [0, 360]);
    }

    #[test]
    fn a_fragment_goes_even_with_the_higher_score_and_another_class() {
        // The left tile ends at 640 and sees a part of a valve that the right one sees whole.
        let merged = merge(&plan(), vec![vec![at(600.0, 639.0, 1, 0.95)], vec![at(600.0, 680.0, 0, 0.6)]]);
        assert_eq!(merged, [at(600.0, 680.0, 0, 0.6)]);
    }

    #[test]
    fn a_whole_that_is_hardly_believed_in_does_not_silence_a_fragment() {
        let merged = merge(&plan(), vec![vec![at(600.0, 639.0, 1, 0.95)], vec![at(600.0, 680.0, 0, 0.01)]]);
        assert_eq!(merged, [at(600.0, 639.0, 1, 0.95), at(600.0, 680.0, 0, 0.01)]);
    }

    #[test]
    fn a_fragment_that_stops_short_of_the_seam_goes_too() {
        let merged = merge(&plan(), vec![vec![at(600.0, 630.0, 0, 0.95)], vec![at(600.0, 680.0, 0, 0.6)]]);
        assert_eq!(merged, [at(600.0, 680.0, 0, 0.95)]);
    }

    #[test]
    fn sloppy_fragments_of_a_long_line_are_joined() {
        let merged = merge(&plan(), vec![vec![at(100.0, 638.5, 0, 0.7)], vec![at(361.0, 900.0, 0, 0.9)]]);
        assert_eq!(merged, [at(100.0, 900.0, 0, 0.9)]);
    }

    #[test]
    fn neighbours_on_both_sides_of_a_seam_stay_two() {
        let merged = merge(&plan(), vec![vec![at(560.0, 620.0, 0, 0.9)], vec![at(625.0, 690.0, 0, 0.8)]]);
        assert_eq!(merged.len(), 2);
    }

    #[test]
    fn two_views_of_one_object_leave_the_surer() {
        let merged = merge(&plan(), vec![vec![at(450.0, 500.0, 0, 0.8)], vec![at(451.0, 501.0, 0, 0.9)]]);
        assert_eq!(merged, [at(451.0, 501.0, 0, 0.9)]);
    }

    #[test]
    fn small_pictures_are_shown_whole_in_the_middle() {
        let plan = TilePlan::new((100, 50), Cut::Tiles { scale: 1.0, overlap: 32 }, 640);
        assert_eq!(plan.tiles, [Tile { origin: (0, 0), size: (100, 50) }]);
        let picture = RgbImage::from_pixel(100, 50, Rgb([1, 2, 3]));
        let canvas = plan.render(&picture, &plan.tiles[0]);
        assert_eq!(canvas.dimensions(), (640, 640));
        assert_eq!((canvas.get_pixel(269, 300).0, canvas.get_pixel(270, 300).0), ([FILL; 3], [1, 2, 3]));
        assert_eq!(
            plan.to_picture(&plan.tiles[0], &BBox::new(270.0, 295.0, 370.0, 345.0)),
            BBox::new(0.0, 0.0, 100.0, 50.0)
        );
    }

    #[test]
    fn the_whole_picture_is_the_letterbox() {
        let picture = RgbImage::from_fn(900, 700, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]));
        let plan = TilePlan::new((900, 700), Cut::Whole, 320);
        assert_eq!(plan.tiles.len(), 1);
        let fit = Letterbox::new((900, 700), (320, 320), Upscale::Yes);
        assert_eq!(plan.render(&picture, &plan.tiles[0]), fit.apply(&picture));
        let b = BBox::new(10.0, 40.0, 300.0, 200.0);
        let (p, q) = (plan.to_picture(&plan.tiles[0], &b), fit.to_picture(&b));
        assert!(<[f64; 4]>::from(p).iter().zip(<[f64; 4]>::from(q)).all(|(p, q)| (p - q).abs() < 1e-9));
    }

    #[test]
    fn one_tile_keeps_all() {
        let plan = TilePlan::new((600, 600), Cut::Whole, 640);
        let list = vec![at(0.0, 50.0, 0, 0.9), at(10.0, 60.0, 0, 0.8)];
        assert_eq!(merge(&plan, vec![list.clone()]), list);
    }
}
