//! Sample batches as pictures with boxes: what the network is shown, what is true, what it finds.
//!
//! Owns their layout. The same training gives the same bytes.

use datasets::ClassInfo;
use engine::StageError;
use image::{Rgb, RgbImage, imageops};
use report::{
    Figure, Legend, Picture,
    draw::{Mark, jpeg, marks, thumbnail},
};

use crate::{assigner::Truth, augment::View};

/// Views of a batch that are shown.
const SHOWN: usize = 16;
/// Longest side of the picture of a batch, in pixels.
const MAX_SIDE: u32 = 1600;

/// Boxes on a view: class, and edges in its pixels.
pub type Boxes<'a> = Vec<(&'a str, [f64; 4])>;

/// A batch as a picture with its caption.
pub struct Sample {
    /// The views side by side.
    pub picture: Picture,
    /// With caption and legend.
    pub figure: Figure,
}

/// The true objects.
pub fn truth_boxes<'a>(truths: &[Truth], classes: &'a [ClassInfo]) -> Boxes<'a> {
    truths.iter().map(|t| (classes[t.class].name.as_str(), t.bbox.map(f64::from))).collect()
}

/// Up to sixteen views of side `side` in a square grid, each with its boxes and the numbers of their classes.
pub fn grid(title: &str, views: &[(View, Boxes<'_>)], side: u32, classes: &[ClassInfo]) -> Result<Sample, StageError> {
    let legend = Legend::new(classes.iter().map(|c| (c.name.as_str(), c.color)));
    let shown = &views[..views.len().min(SHOWN)];
    let columns = (shown.len().max(1) as f64).sqrt().ceil() as u32;
    let rows = (shown.len() as u32).div_ceil(columns);
    let cell = side.min(MAX_SIDE / columns);
    let mut sheet = RgbImage::from_pixel(columns * cell, rows.max(1) * cell, Rgb([255; 3]));
    for (i, (view, boxes)) in shown.iter().enumerate() {
        // Shrunk first: the numbers stay readable.
        let (mut small, scale) = thumbnail(&view.rgb, cell);
        let mark = |(class, b): &(&str, [f64; 4])| Mark::new(*b, legend.color(class), legend.tag(class)).scaled(scale);
        marks(&mut small, &boxes.iter().map(mark).collect::<Vec<_>>());
        let (x, y) = (i as u32 % columns * cell, i as u32 / columns * cell);
        imageops::replace(&mut sheet, &small, i64::from(x), i64::from(y));
    }
    let picture = jpeg(&sheet).map_err(|e| StageError::failed("drawing a sample batch", e))?;
    let names = shown.iter().flat_map(|(_, boxes)| boxes.iter().map(|b| b.0));
    let figure = Figure::new(picture.clone(), title, legend.caption(title, ["object", "objects"], names));
    Ok(Sample { picture, figure })
}
