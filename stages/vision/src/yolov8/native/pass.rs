//! Forward and backward passes of single operations over a batch, cut into the plan's pieces and run in parallel.

use super::{
    layer::{EPSILON, Layer, MOMENTUM, Method, window},
    plan::{Piece, Pieces, split},
};
use crate::kernels::{
    Extent, Write,
    frame::copy_cells,
    norm::{Affine, Slice, copy_channels, moments, norm_backward, norm_silu, silu_backward},
    number::{Number, as_words},
    product::{Left, Pitch, Sizes, add_assign, product},
    storage::scratch,
    winograd::{self, Maps},
};
use rayon::prelude::*;
use std::ops::Range;

/// Words of frames that are worked on at a time (512 KB, inside a second-level cache).
const FRAME_BLOCK: usize = 128 * 1024;
/// Numbers of a piece of a sum over groups.
const SUM_BLOCK: usize = 16 * 1024;

/// A map of the whole batch, read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, E> {
    /// The whole buffer.
    pub data: &'a [E],
    /// First channel.
    pub offset: usize,
    pub extent: Extent,
}

impl<'a, E: Number> Source<'a, E> {
    pub fn image_len(&self) -> usize {
        self.extent.cells() * self.extent.pitch
    }

    /// From the first channel of row `y` of picture `image`, to the end of the row.
    pub fn row(&self, image: usize, y: usize) -> &'a [E] {
        let line = self.extent.width * self.extent.pitch;
        &self.data[image * self.image_len() + y * line..][self.offset..line]
    }

    pub fn maps(&self) -> Maps {
        Maps { extent: self.extent, image: self.image_len() }
    }

    /// Whether cells begin at whole words.
    fn in_words(&self) -> bool {
        let Extent { channels, pitch, .. } = self.extent;
        [channels, pitch, self.offset].iter().all(|n| n.is_multiple_of(E::PER_WORD))
    }

    /// The same as 32-bit numbers, which they are.
    pub fn numbers(&self) -> &'a [f32] {
        bytemuck::cast_slice(&self.data[self.offset..])
    }
}

/// Cells of a piece.
pub(super) fn cells(piece: &Piece, width: usize) -> usize {
    piece.images.len() * piece.rows.len() * width
}

/// Rows in parts of which each has at most so many, about equally long.
pub(super) fn blocks(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let step = rows.len().div_ceil(rows.len().div_ceil(most.max(1)).max(1)).max(1);
    let end = rows.end;
    rows.step_by(step).map(move |r| r..(r + step).min(end))
}

/// The products of one piece; `out` begins at the slice's first channel of the piece's first cell.
fn convolve<E: Number, C: Number>(layer: &Layer, x: Source<'_, E>, piece: &Piece, out: &mut [C], output: Extent) {
    if Method::of::<E>(&layer.conv) == Method::Winograd {
        let (x_maps, out) = (x.maps(), bytemuck::cast_slice_mut(out));
        return winograd::convolve(x.numbers(), x_maps, &layer.forward, out, output, &piece.span(), Write::Replace);
    }
    let weights = as_words(&layer.forward);
    let window = window(&layer.conv, x.extent);
    let line = output.width * output.pitch;
    let (n, pitch) = (layer.output(), Pitch { line, row: output.pitch });
    for (index, image) in piece.images.clone().enumerate() {
        let out = &mut out[index * output.height * line..];
        if window.kernel == 1 && window.stride == 1 && x.in_words() {
            let start = image * x.image_len() + piece.rows.start * x.extent.width * x.extent.pitch + x.offset;
            let words = &as_words(x.data)[start / E::PER_WORD..];
            let left = Left { words, lines: &[0], row: x.extent.pitch / E::PER_WORD, steps: &[0], column: 1 };
            let sizes = Sizes { m: piece.rows.len() * output.width, n, k: window.span::<E>() };
            product::<E, C>(sizes, left, weights, out, pitch, Write::Replace, []);
            continue;
        }
        let row_words = window.frame::<E>(&(0..1)).row_len / E::PER_WORD * window.stride;
        for rows in blocks(piece.rows.clone(), FRAME_BLOCK / row_words) {
            let frame = window.frame::<E>(&rows);
            scratch(frame.len(), |numbers: &mut [E]| {
                frame.fill(x.extent.height, x.extent.width, numbers, |y, to| {
                    copy_cells(x.row(image, y), x.extent.channels, x.extent.pitch, to, frame.cell);
                });
                let row_words = frame.row_len / E::PER_WORD;
                let lines: Vec<usize> = (0..rows.len()).map(|r| r * window.stride * row_words).collect();
                let steps: Vec<usize> = (0..window.kernel).map(|ky| ky * row_words).collect();
                let row = window.stride * frame.cell / E::PER_WORD;
                let left = Left { words: as_words(numbers), lines: &lines, row, steps: &steps, column: 1 };
                let sizes = Sizes { m: output.width, n, k: window.span::<E>() };
                let out = &mut out[(rows.start - piece.rows.start) * line..];
                product::<E, C>(sizes, left, weights, out, pitch, Write::Replace, []);
            });
        }
    }
}

/// Convolution and bias straight into a head level.
pub(super) fn bias_forward<E: Number>(
    layer: &Layer,
    pieces: &Pieces,
    x: Source<'_, E>,
    out: &mut [f32],
    offset: usize,
    output: Extent,
) {
    let parts = split(out, pieces.products.iter().map(|p| cells(p, output.width) * output.pitch));
    let bias = &layer.affine[0].data;
    pieces.products.par_iter().zip(parts).with_max_len(1).for_each(|(piece, out)| {
        let out = &mut out[offset..];
        convolve(layer, x, piece, out, output);
        for cell in out.chunks_mut(output.pitch) {
            cell.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
    });
}

/// Convolution, normalisation with the running statistics, activation, and the added view.
pub(super) fn eval_forward<E: Number>(
    layer: &Layer,
    pieces: &Pieces,
    x: Source<'_, E>,
    out: &mut [E],
    output: Extent,
    residual: Option<usize>,
) {
    let (scale, shift) = layer.running_affine();
    let slice = Slice { offset: layer.conv.output.offset, pitch: output.pitch };
    let raw = Extent { pitch: output.channels, ..output };
    let parts = split(out, pieces.products.iter().map(|p| cells(p, output.width) * output.pitch));
    pieces.products.par_iter().zip(parts).with_max_len(1).for_each(|(piece, out)| {
        scratch(cells(piece, output.width) * output.channels, |y: &mut [f32]| {
            convolve(layer, x, piece, y, raw);
            norm_silu(y, Affine { scale: &scale, shift: &shift }, out, slice, residual);
        });
    });
}

/// Convolution, normalisation with the batch's statistics (returned in `batch`: mean, 1 / deviation; the running ones
/// are updated), activation, and the added view.
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
pub(super) fn train_forward<E: Number>(
    layer: &mut Layer,
    pieces: &Pieces,
    x: Source<'_, E>,
    raw: &mut [E],
    batch: &mut [Vec<f32>; 2],
    out: &mut [E],
    output: Extent,
    residual: Option<usize>,
) {
    let channels = output.channels;
    let contiguous = Extent { pitch: channels, ..output };
    let parts = split(raw, pieces.products.iter().map(|p| cells(p, output.width) * channels));
    let pivot = &layer.running[0].data;
    let this = &*layer;
    let sums: Vec<Vec<f64>> = (pieces.products.par_iter().zip(parts).with_max_len(1))
        .map(|(piece, y)| {
            convolve(this, x, piece, y, contiguous);
            let mut sums = vec![0.0; 2 * channels];
            moments(y, pivot, &mut sums);
            sums
        })
        .collect();
    let total = |i: usize| sums.iter().map(|s| s[i]).sum::<f64>();
    let count = (raw.len() / channels) as f64;
    let [mean, inverse] = batch;
    let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
    for i in 0..channels {
        let (centre, square) = (total(i) / count, total(channels + i) / count);
        let (m, variance) = (f64::from(layer.running[0].data[i]) + centre, (square - centre * centre).max(0.0));
        let inv = 1.0 / (variance + EPSILON).sqrt();
        let factor = f64::from(layer.affine[0].data[i]) * inv;
        (mean[i], inverse[i]) = (m as f32, inv as f32);
        (scale[i], shift[i]) = (factor as f32, (f64::from(layer.affine[1].data[i]) - m * factor) as f32);
        // The running variance is of the sample, without bias.
        let unbiased = variance * count / (count - 1.0).max(1.0);
        for (statistic, new) in layer.running.iter_mut().zip([m, unbiased]) {
            let old = f64::from(statistic.data[i]);
            statistic.data[i] = (old + MOMENTUM * (new - old)) as f32;
        }
    }
    let slice = Slice { offset: layer.conv.output.offset, pitch: output.pitch };
    let lengths = pieces.passes.iter().map(|p| cells(p, output.width));
    let parts = split(out, lengths.clone().map(|l| l * output.pitch));
    let raws = split(raw, lengths.map(|l| l * channels));
    raws.into_par_iter().zip(parts).with_max_len(1).for_each(|(y, out)| {
        norm_silu(y, Affine { scale: &scale, shift: &shift }, out, slice, residual);
    });
}

/// Backward through the activation: writes the gradient by the normalised value to `raw_gradient`, adds the gradients of
/// scale and shift, passes the gradient of the added view on, and returns the factors for [`Gradient::Norm`].
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
pub(super) fn activation_backward<E: Number>(
    layer: &mut Layer,
    pieces: &Pieces,
    raw: &[E],
    [mean, inverse]: &[Vec<f32>; 2],
    raw_gradient: &mut [E],
    gradient: &mut [E],
    output: Extent,
    residual: Option<(usize, Write)>,
) -> [Vec<f32>; 3] {
    let (channels, offset) = (output.channels, layer.conv.output.offset);
    let slice = Slice { offset, pitch: output.pitch };
    let scale: Vec<f32> = layer.affine[0].data.iter().zip(inverse).map(|(s, i)| s * i).collect();
    let shift: Vec<f32> = (0..channels).map(|i| layer.affine[1].data[i] - mean[i] * scale[i]).collect();
    let affine = Affine { scale: &scale, shift: &shift };
    let lengths = pieces.passes.iter().map(|p| cells(p, output.width));
    let parts = split(gradient, lengths.clone().map(|l| l * output.pitch));
    let targets = split(raw_gradient, lengths.map(|l| l * channels));
    let mut starts = vec![0];
    starts.extend(targets.iter().scan(0, |sum, t| {
        Some({
            *sum += t.len();
            *sum
        })
    }));
    let sums: Vec<Vec<f64>> = (parts.into_par_iter().zip(targets).zip(starts).with_max_len(1))
        .map(|((gradient, d), start)| {
            let y = &raw[start..start + d.len()];
            let mut sums = vec![0.0; 2 * channels];
            silu_backward(y, affine, mean, gradient, slice, d, &mut sums);
            if let Some((to, write)) = residual {
                copy_channels(gradient, output.pitch, offset, to, channels, write);
            }
            sums
        })
        .collect();
    let total = |i: usize| sums.iter().map(|s| s[i]).sum::<f64>();
    let count = (raw.len() / channels) as f64;
    let mut factors = [const { Vec::new() }; 3];
    for i in 0..channels {
        let inverse = f64::from(inverse[i]);
        let (shift, scale) = (total(i), total(channels + i) * inverse);
        layer.affine[0].gradient[i] += scale as f32;
        layer.affine[1].gradient[i] += shift as f32;
        let factor = f64::from(layer.affine[0].data[i]) * inverse;
        factors[0].push(factor as f32);
        factors[1].push((-factor * inverse * scale / count) as f32);
        factors[2].push((-factor * shift / count) as f32);
    }
    factors
}

/// The gradient by a convolution's own output.
#[derive(Clone, Copy)]
pub(super) enum Gradient<'a, E> {
    /// What [`activation_backward`] left, still without the effect on the batch statistics; `[cells][channels]`.
    Norm { d: &'a [E], raw: &'a [E], mean: &'a [f32], factors: &'a [Vec<f32>; 3] },
    /// A head level's gradient.
    Head(Source<'a, f32>),
}

impl<E: Number> Gradient<'_, E> {
    /// Writes some cells of the whole batch (all of one row, unless the cells have no gaps) as cells of `cell` numbers.
    pub fn write(&self, cells: Range<usize>, channels: usize, to: &mut [E], cell: usize) {
        match self {
            Self::Norm { d, raw, mean, factors } => {
                let range = cells.start * channels..cells.end * channels;
                let factors = factors.each_ref().map(Vec::as_slice);
                norm_backward(&raw[range.clone()], mean, factors, &d[range], to, cell);
            }
            Self::Head(source) => {
                let pitch = source.extent.pitch;
                let from = &source.data[cells.start * pitch..cells.end * pitch][source.offset..];
                copy_cells(from, channels, pitch, to, cell);
            }
        }
    }
}

/// Adds the gradients of weights (and bias), and writes the gradient of the input, unless there is none to write.
pub(super) fn convolution_backward<E: Number>(
    layer: &mut Layer,
    pieces: &Pieces,
    x: Source<'_, E>,
    gradient: Gradient<'_, E>,
    output: Extent,
    dx: Option<(&mut [E], Write)>,
    partial: &mut [f32],
) {
    let groups = &pieces.groups;
    let length = layer.weight.data.len();
    let partial = &mut partial[..length * groups.len()];
    let (dx, write) = dx.map_or((None, Write::Replace), |(dx, write)| (Some(dx), write));
    let mut dxs: Vec<Option<&mut [E]>> = groups.iter().map(|_| None).collect();
    if let Some(dx) = dx {
        let line = layer.conv.stride * x.extent.width * x.extent.pitch;
        dxs = split(dx, groups.iter().map(|g| g.images.len() * g.rows.len() * line)).into_iter().map(Some).collect();
    }
    let this = &*layer;
    (groups.par_iter().zip(dxs).zip(partial.par_chunks_mut(length)).with_max_len(1)).for_each(|((group, dx), dw)| {
        let task = Task { layer: this, group, x, gradient, output, write };
        match Method::of::<E>(&this.conv) {
            Method::Winograd => task.by_winograd(dx, dw),
            Method::Windows => task.by_windows(dx, dw),
        }
    });
    if let Gradient::Head(source) = gradient {
        let image_len = source.image_len();
        let biases: Vec<Vec<f32>> = (source.data.par_chunks(image_len).with_max_len(1))
            .map(|image| {
                let mut bias = vec![0.0; output.channels];
                add_columns(&image[source.offset..], source.extent.pitch, &mut bias);
                bias
            })
            .collect();
        for bias in biases {
            layer.affine[0].gradient.iter_mut().zip(bias).for_each(|(g, b)| *g += b);
        }
    }
    let partial = &*partial;
    layer.weight.gradient.par_chunks_mut(SUM_BLOCK).enumerate().for_each(|(block, sum)| {
        let start = block * SUM_BLOCK;
        for group in partial.chunks_exact(length) {
            add_assign(&group[start..start + sum.len()], sum);
        }
    });
}

/// Adds the columns of rows `pitch` apart, in the order of the rows: `sums[j] += sum of b[i * pitch + j]`.
fn add_columns(b: &[f32], pitch: usize, sums: &mut [f32]) {
    for row in b.chunks(pitch) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}

/// The gradients of one group of pictures or rows.
pub(super) struct Task<'a, E> {
    pub layer: &'a Layer,
    pub group: &'a Piece,
    pub x: Source<'a, E>,
    pub gradient: Gradient<'a, E>,
    pub output: Extent,
    pub write: Write,
}
