//! Sample batches as pictures with boxes: what the network is shown, what is true, what it finds.
//!
//! Owns their layout. The same training gives the same bytes.

use datasets::ClassInfo;
use engine::StageError;
use image::{Rgb, RgbImage, imageops};
use report::{
    Picture,
    draw::{Mark, jpeg, marks, thumbnail},
};

use crate::{assigner::Truth, augment::View};

/// Views of a batch that are shown.
const SHOWN: usize = 16;
/// Longest side of the picture of a batch, in pixels.
const MAX_SIDE: u32 = 1280;

/// Marks of true objects.
pub fn truth_marks(truths: &[Truth], classes: &[ClassInfo]) -> Vec<Mark> {
    let mark = |t: &Truth| Mark::new(t.bbox.map(f64::from), classes[t.class].color, classes[t.class].name.as_str());
    truths.iter().map(mark).collect()
}

/// Up to sixteen views of side `side` in a square grid, each with its marks.
pub fn grid(views: &[(View, Vec<Mark>)], side: u32) -> Result<Picture, StageError> {
    let shown = &views[..views.len().min(SHOWN)];
    let columns = (shown.len().max(1) as f64).sqrt().ceil() as u32;
    let rows = (shown.len() as u32).div_ceil(columns);
    let mut sheet = RgbImage::from_pixel(columns * side, rows.max(1) * side, Rgb([255; 3]));
    for (i, (view, list)) in shown.iter().enumerate() {
        let mut rgb = view.rgb.clone();
        marks(&mut rgb, list);
        let (x, y) = (i as u32 % columns * side, i as u32 / columns * side);
        imageops::replace(&mut sheet, &rgb, i64::from(x), i64::from(y));
    }
    let (small, _) = thumbnail(&sheet, MAX_SIDE);
    jpeg(&small).map_err(|e| StageError::failed("drawing a sample batch", e))
}
