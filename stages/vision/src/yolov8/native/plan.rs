//! Memory and the cutting of work for one size of batch: activation maps, gradients, and the fixed pieces that run in
//! parallel. Pieces depend on shapes only, never on the number of threads.

use super::{
    layer::Method,
    slots::{Buffers, Lives, Slots},
};
use crate::{
    kernels::{
        Extent, Write,
        number::Number,
        storage::Numbers,
        winograd::{Span, TILE},
    },
    yolov8::{
        Error, Mode,
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
/// Tiles that a gradient task should have at least: each has its own sum of weight gradients.
const GROUP_TILES: usize = 16;
/// Gradient tasks that there should be, where pictures are so few that they have to be parted: then with as many tiles.
const FEW_GROUPS: usize = 8;
const PART_TILES: usize = 24;
/// The same in cells; and the cells that large maps are cut by.
const GROUP_CELLS: usize = 200;
const LARGE_GROUP_CELLS: usize = 1600;
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
    /// Of the gradients.
    pub groups: Vec<Piece>,
}

impl Pieces {
    fn new<E: Number>(conv: &Conv, batch: usize, height: usize, width: usize) -> Self {
        let (input, output) = (conv.input.channels, conv.output.channels);
        let passes = cut(batch, height, 1, width, PASS_CELLS);
        let (products, groups) = if Method::of::<E>(conv) == Method::Winograd {
            let tiles = width.div_ceil(TILE);
            let least = (PIECE_FLOPS / (72 * input * output)).max(PIECE_TILES);
            let picture = tiles * height.div_ceil(TILE);
            // Whole pictures, if there are enough: the cells around a part are worked on twice.
            let part = if batch < FEW_GROUPS / 2 { (batch * picture / FEW_GROUPS).max(PART_TILES) } else { picture };
            let group = GROUP_TILES.max(part.min(picture));
            (cut(batch, height, TILE, tiles, least), cut(batch, height, TILE, tiles, group))
        } else {
            let patch = conv.kernel * conv.kernel * input;
            let least = (PIECE_FLOPS / (2 * patch * output)).max(PIECE_CELLS);
            let cells = height * width;
            let group = if cells < 2 * LARGE_GROUP_CELLS { cells.max(GROUP_CELLS) } else { LARGE_GROUP_CELLS };
            (cut(batch, height, 1, width, least), cut(batch, height, 1, width, group))
        };
        Self { products, passes, groups }
    }
}

/// How the work of each convolution is cut.
fn pieces<E: Number>(graph: &Graph, [batch, height, width]: [usize; 3]) -> Vec<Pieces> {
    let cut = |conv: &Conv| {
        let stride = graph.buffers[conv.output.buffer].stride;
        Pieces::new::<E>(conv, batch, height / stride, width / stride)
    };
    graph.convs().map(cut).collect()
}

/// Weight gradients of all groups of a convolution, of the one with the most; the first `frozen` operations have none.
fn partial(graph: &Graph, pieces: &[Pieces], frozen: usize) -> usize {
    let weights = |conv: &Conv| conv.kernel * conv.kernel * conv.input.channels * conv.output.channels;
    let learn = graph.convs().zip(pieces).skip(graph.convs_before(frozen));
    learn.map(|(conv, pieces)| weights(conv) * pieces.groups.len()).max().unwrap_or(0)
}

/// How many numbers each array of a plan has that grows with the batch.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of the buffers.
    maps: Slots,
    /// In training only, as are the gradients: per convolution, output before the normalisation.
    raw: Vec<usize>,
    /// Gradients of the buffers.
    gradients: Slots,
}

impl Layout {
    /// The first `frozen` operations do not learn.
    fn new(graph: &Graph, [batch, height, width]: [usize; 3], mode: Mode, frozen: usize) -> Self {
        let sizes: Vec<usize> = (graph.buffers.iter())
            .map(|map| batch * (height / map.stride) * (width / map.stride) * map.channels)
            .collect();
        if mode == Mode::Eval {
            let maps = Slots::new(&Lives::forward(graph), &sizes);
            return Self { maps, raw: Vec::new(), gradients: Slots::default() };
        }
        let frozen_convs = graph.convs_before(frozen);
        let raw = graph.convs().enumerate().map(|(index, conv)| match conv.tail {
            Tail::NormSilu(_) if index >= frozen_convs => {
                sizes[conv.output.buffer] / graph.buffers[conv.output.buffer].channels * conv.output.channels
            }
            _ => 0,
        });
        Self {
            maps: Slots::new(&Lives::training(graph, frozen), &sizes),
            raw: raw.collect(),
            gradients: Slots::new(&Lives::backward(graph, frozen), &sizes),
        }
    }

    /// Numbers of the largest output before the normalisation.
    fn most(&self) -> usize {
        self.raw.iter().copied().max().unwrap_or(0)
    }

    /// Bytes of all arrays.
    fn bytes<E: Number>(&self) -> usize {
        let all = self.maps.sizes.iter().chain(&self.raw).chain(&self.gradients.sizes);
        all.chain([&self.most()]).map(|&len| Numbers::<E>::bytes(len)).sum()
    }
}

/// Bytes of a plan.
pub(super) fn bytes<E: Number>(graph: &Graph, size: [usize; 3], mode: Mode, frozen: usize) -> usize {
    let layout = Layout::new(graph, size, mode, frozen).bytes::<E>();
    let partial = if mode == Mode::Train { partial(graph, &pieces::<E>(graph, size), frozen) } else { 0 };
    layout + Numbers::<f32>::bytes(partial)
}

/// What the backward pass needs beside the activations.
#[derive(Debug)]
pub(super) struct Training<E> {
    /// Per convolution: output before the normalisation, `[batch, height, width, out]`.
    pub raw: Vec<Numbers<E>>,
    /// Per convolution: batch mean and 1 / standard deviation.
    pub moments: Vec<[Vec<f32>; 2]>,
    /// Gradients of the buffers.
    pub gradients: Buffers<E>,
    /// Gradient by the raw output of the convolution at hand.
    pub raw_gradient: Numbers<E>,
    /// Weight gradients of the groups of the convolution at hand.
    pub partial: Numbers<f32>,
    /// Per operation: whether the gradients of its input and of the added view replace or add; `None` where nothing
    /// learns from the gradient.
    pub writes: Vec<[Option<Write>; 2]>,
}

/// Memory for one size of batch and mode.
#[derive(Debug)]
pub(super) struct Plan<E> {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    /// Activations; the head levels are empty, they are written where the caller sees them.
    pub maps: Buffers<E>,
    /// Per convolution.
    pub pieces: Vec<Pieces>,
    pub training: Option<Training<E>>,
}

impl<E: Number> Plan<E> {
    /// The first `frozen` operations do not learn. Fails when the system has no memory for it.
    pub fn new(graph: &Graph, size: [usize; 3], mode: Mode, frozen: usize) -> Result<Self, Error> {
        let [batch, ..] = size;
        let layout = Layout::new(graph, size, mode, frozen);
        let bytes = layout.bytes::<E>();
        Self::allocated(graph, size, layout, mode, frozen).ok_or(Error::Memory { batch, bytes })
    }

    fn allocated(graph: &Graph, size: [usize; 3], layout: Layout, mode: Mode, frozen: usize) -> Option<Self> {
        // Systems that promise more memory than they have refuse only what is too much at once: all is asked for once.
        drop(Numbers::<E>::try_zeros(layout.bytes::<E>() / size_of::<E>())?);
        let most = layout.most();
        let Layout { maps, raw, gradients } = layout;
        let maps = Buffers::new(maps)?;
        let raw = raw.into_iter().map(Numbers::try_zeros).collect::<Option<Vec<_>>>()?;
        let (gradients, raw_gradient) = (Buffers::new(gradients)?, Numbers::try_zeros(most)?);
        // There are as many pieces as the maps are large: not before there is memory for these.
        let pieces = pieces::<E>(graph, size);
        let mut training = None;
        if mode == Mode::Train {
            let zeros = |conv: &Conv| [vec![0.0; conv.output.channels], vec![0.0; conv.output.channels]];
            let moments = graph.convs().map(zeros).collect();
            let partial = Numbers::try_zeros(partial(graph, &pieces, frozen))?;
            let writes = writes(graph, frozen);
            training = Some(Training { raw, moments, gradients, raw_gradient, partial, writes });
        }
        let [batch, height, width] = size;
        Some(Self { batch, height, width, maps, pieces, training })
    }

    /// Bytes of all arrays of numbers.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let training = self.training.as_ref().map_or(0, |t| {
            let arrays = t.raw.iter().chain([&t.raw_gradient]);
            arrays.map(Numbers::size).sum::<usize>() + t.gradients.size() + t.partial.size()
        });
        self.maps.size() + training
    }

    /// One picture's extent of a view.
    pub fn extent(&self, graph: &Graph, view: View) -> Extent {
        let map = graph.buffers[view.buffer];
        let (height, width) = (self.height / map.stride, self.width / map.stride);
        Extent { height, width, channels: view.channels, pitch: map.channels }
    }
}

/// For each operation: is it, seen from the end, the first to write the gradient of what it reads? The first `frozen`
/// operations do not learn.
fn writes(graph: &Graph, frozen: usize) -> Vec<[Option<Write>; 2]> {
    let mut written: Vec<Vec<bool>> = graph.buffers.iter().map(|map| vec![false; map.channels]).collect();
    let learns = |view: View| graph.ops[frozen..].iter().any(|op| op.views()[1].overlaps(view));
    let mut mark = |view: View| {
        if !learns(view) {
            return None;
        }
        let channels = &mut written[view.buffer][view.offset..view.offset + view.channels];
        let before = channels.iter().filter(|&&w| w).count();
        assert!(before == 0 || before == channels.len(), "gradients are written in whole views");
        channels.fill(true);
        Some(if before == 0 { Write::Replace } else { Write::Add })
    };
    let mut writes: Vec<[Option<Write>; 2]> = graph.ops[frozen..]
        .iter()
        .rev()
        .map(|op| match op {
            // The added view's gradient is written first, then the input's.
            Op::Conv(Conv { input, tail: Tail::NormSilu(Some(added)), .. }) => {
                let added = mark(*added);
                [mark(*input), added]
            }
            Op::Conv(Conv { input, .. }) | Op::Upsample(input, _) | Op::MaxPool(input, _) => [mark(*input), None],
        })
        .collect();
    writes.resize(graph.ops.len(), [None; 2]);
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
