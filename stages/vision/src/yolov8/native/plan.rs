//! Memory and the cutting of work for one size of batch: activation maps, gradients, and the fixed pieces that run in
//! parallel. Pieces depend on shapes only, never on the number of threads.

use super::layer::{Layer, Method};
use crate::{
    kernels::{
        Extent, Write,
        storage::Numbers,
        winograd::{Span, TILE},
    },
    yolov8::{
        Mode,
        spec::{Conv, Graph, Op, Tail, View},
    },
};
use std::ops::Range;

/// Floating-point operations that a piece of a convolution should have at least (tens of microseconds).
const PIECE_FLOPS: usize = 4_000_000;
/// Output cells that a piece should have at least, so that the weights are read for enough of them.
const PIECE_CELLS: usize = 96;
/// The same in tiles of minimal filtering.
const PIECE_TILES: usize = 24;
/// Tiles that a gradient task should have at least.
const GROUP_TILES: usize = 16;
/// Cells of a piece of an elementwise pass.
const PASS_CELLS: usize = 800;

/// Some rows of one picture, or some whole pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

impl Piece {
    /// The same as rows of tiles.
    pub fn span(&self) -> Span {
        Span { images: self.images.clone(), tile_rows: self.rows.start / TILE..self.rows.end.div_ceil(TILE) }
    }
}

/// Cuts a batch of maps into consecutive pieces of at least `units` units; `unit` is some rows with `per_unit` units.
fn cut(batch: usize, height: usize, unit_rows: usize, per_unit: usize, units: usize) -> Vec<Piece> {
    let whole = height.div_ceil(unit_rows) * per_unit;
    let mut pieces = Vec::new();
    if whole <= units {
        let images = units.div_ceil(whole).min(batch.max(1));
        pieces
            .extend((0..batch).step_by(images).map(|i| Piece { images: i..(i + images).min(batch), rows: 0..height }));
    } else {
        let rows = units.div_ceil(per_unit) * unit_rows;
        for i in 0..batch {
            let starts = (0..height).step_by(rows);
            pieces.extend(starts.map(|y| Piece { images: i..i + 1, rows: y..(y + rows).min(height) }));
        }
    }
    pieces
}

/// The cutting of one convolution.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Of the products.
    pub products: Vec<Piece>,
    /// Of elementwise passes over the output.
    pub passes: Vec<Piece>,
    /// Whole pictures, for the gradients.
    pub groups: Vec<Piece>,
}

impl Pieces {
    fn new(layer: &Layer, batch: usize, height: usize, width: usize) -> Self {
        let (input, output) = (layer.input(), layer.output());
        let passes = cut(batch, height, 1, width, PASS_CELLS);
        let (products, groups) = if layer.method == Method::Winograd {
            let tiles = width.div_ceil(TILE);
            let least = (PIECE_FLOPS / (72 * input * output)).max(PIECE_TILES);
            (cut(batch, height, TILE, tiles, least), tiles * height.div_ceil(TILE))
        } else {
            let least = (PIECE_FLOPS / (2 * layer.patch() * output)).max(PIECE_CELLS);
            (cut(batch, height, 1, width, least), height * width / (TILE * TILE))
        };
        let images = GROUP_TILES.div_ceil(groups.max(1)).min(batch.max(1));
        let groups = (0..batch).step_by(images);
        let groups = groups.map(|i| Piece { images: i..(i + images).min(batch), rows: 0..height }).collect();
        Self { products, passes, groups }
    }
}

/// What the backward pass needs beside the activations.
#[derive(Debug)]
pub(super) struct Training {
    /// Per convolution: output before the normalisation, `[batch, height, width, out]`.
    pub raw: Vec<Numbers>,
    /// Per convolution: batch mean and 1 / standard deviation.
    pub moments: Vec<[Vec<f32>; 2]>,
    /// Per buffer: gradient, the shape of the buffer.
    pub gradients: Vec<Numbers>,
    /// Gradient by the raw output of the convolution at hand.
    pub raw_gradient: Numbers,
    /// Weight gradients of the groups of the convolution at hand.
    pub partial: Numbers,
    /// Per operation: whether the gradients of its input and of the added view replace or add.
    pub writes: Vec<[Write; 2]>,
}

/// Memory for one size of batch and mode.
#[derive(Debug)]
pub(super) struct Plan {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    /// Per buffer; the head levels are empty here, they are written where the caller sees them.
    pub maps: Vec<Numbers>,
    /// Per convolution.
    pub pieces: Vec<Pieces>,
    pub training: Option<Training>,
}

impl Plan {
    pub fn new(graph: &Graph, layers: &[Layer], [batch, height, width]: [usize; 3], mode: Mode) -> Self {
        let size = |buffer: usize| {
            let map = graph.buffers[buffer];
            batch * (height / map.stride) * (width / map.stride) * map.channels
        };
        let maps = (0..graph.buffers.len()).map(|b| Numbers::zeros(if graph.heads.contains(&b) { 0 } else { size(b) }));
        let maps = maps.collect();
        let stride = |conv: &Conv| graph.buffers[conv.output.buffer].stride;
        let pieces = layers.iter().map(|l| Pieces::new(l, batch, height / stride(&l.conv), width / stride(&l.conv)));
        let pieces: Vec<_> = pieces.collect();
        let training = (mode == Mode::Train).then(|| {
            let raw = layers.iter().map(|layer| {
                let cells = batch * (height / stride(&layer.conv)) * (width / stride(&layer.conv));
                if matches!(layer.conv.tail, Tail::Bias(_)) { 0 } else { cells * layer.output() }
            });
            let raw: Vec<_> = raw.map(Numbers::zeros).collect();
            let most = raw.iter().map(|r| r.len()).max().unwrap_or(0);
            let partial = layers.iter().zip(&pieces).map(|(l, p)| l.weight.data.len() * p.groups.len()).max();
            let gradients = (0..graph.buffers.len()).map(|b| {
                let outside = b == 0 || graph.heads.contains(&b);
                Numbers::zeros(if outside { 0 } else { size(b) })
            });
            Training {
                moments: layers.iter().map(|l| [vec![0.0; l.output()], vec![0.0; l.output()]]).collect(),
                gradients: gradients.collect(),
                raw_gradient: Numbers::zeros(most),
                partial: Numbers::zeros(partial.unwrap_or(0)),
                writes: writes(graph),
                raw,
            }
        });
        Self { batch, height, width, maps, pieces, training }
    }

    /// One picture's extent of a view.
    pub fn extent(&self, graph: &Graph, view: View) -> Extent {
        let map = graph.buffers[view.buffer];
        let (height, width) = (self.height / map.stride, self.width / map.stride);
        Extent { height, width, channels: view.channels, pitch: map.channels }
    }
}

/// For each operation: is it, seen from the end, the first to write the gradient of what it reads?
fn writes(graph: &Graph) -> Vec<[Write; 2]> {
    let mut written: Vec<Vec<bool>> = graph.buffers.iter().map(|map| vec![false; map.channels]).collect();
    let mut mark = |view: View| {
        let channels = &mut written[view.buffer][view.offset..view.offset + view.channels];
        let before = channels.iter().filter(|&&w| w).count();
        assert!(before == 0 || before == channels.len(), "gradients are written in whole views");
        channels.fill(true);
        if before == 0 { Write::Replace } else { Write::Add }
    };
    let mut writes: Vec<[Write; 2]> = graph
        .ops
        .iter()
        .rev()
        .map(|op| match op {
            // The added view's gradient is written first, then the input's.
            Op::Conv(Conv { input, tail: Tail::NormSilu(Some(added)), .. }) => {
                let added = mark(*added);
                [mark(*input), added]
            }
            Op::Conv(Conv { input, .. }) | Op::Upsample(input, _) | Op::MaxPool(input, _) => [mark(*input), Write::Add],
        })
        .collect();
    writes.reverse();
    writes
}

/// Splits a buffer into consecutive parts of these lengths.
pub(super) fn split<T>(mut buffer: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let mut parts = Vec::new();
    for length in lengths {
        let (part, rest) = buffer.split_at_mut(length);
        parts.push(part);
        buffer = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_row_once_and_in_order() {
        for (batch, height, unit_rows, per_unit, units) in
            [(3, 40, 4, 10, 24), (5, 10, 4, 3, 16), (1, 1, 1, 1, 96), (2, 7, 4, 2, 3)]
        {
            let mut next = (0, 0);
            for piece in cut(batch, height, unit_rows, per_unit, units) {
                assert_eq!((piece.images.start, piece.rows.start), next);
                assert!(piece.images.len() == 1 || piece.rows == (0..height));
                assert!(piece.rows.start.is_multiple_of(unit_rows));
                next =
                    if piece.rows.end == height { (piece.images.end, 0) } else { (piece.images.start, piece.rows.end) };
            }
            assert_eq!(next, (batch, 0));
        }
    }
}
