//! Forward and backward passes of single operations over a batch, cut into the plan's pieces and run in parallel.

use super::{
    layer::{EPSILON, Layer, MOMENTUM, Method},
    plan::{Piece, Pieces, split},
};
use crate::kernels::{
    Extent, Write,
    gemm::{Left, Sizes, add_assign, add_columns, gemm, pack, packed_len},
    norm::{Norm, Slice, copy_channels, moments, norm_backward, norm_silu, silu_backward},
    patches::{Window, clear, gather, scatter},
    storage::scratch,
    winograd::{self, Maps},
};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of gathered patches that are worked on at a time (256 KB).
const PATCH_BLOCK: usize = 64 * 1024;
/// Numbers of a piece of a sum over groups.
const SUM_BLOCK: usize = 16 * 1024;

/// A map of the whole batch, read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// The whole buffer.
    pub data: &'a [f32],
    /// First channel.
    pub offset: usize,
    pub extent: Extent,
}

impl<'a> Source<'a> {
    fn image_len(&self) -> usize {
        self.extent.cells() * self.extent.pitch
    }

    /// From the first channel of picture `image`.
    fn image(&self, image: usize) -> &'a [f32] {
        &self.data[image * self.image_len() + self.offset..]
    }

    fn maps(&self) -> Maps {
        Maps { extent: self.extent, image: self.image_len() }
    }
}

/// Cells of a piece.
fn cells(piece: &Piece, width: usize) -> usize {
    piece.images.len() * piece.rows.len() * width
}

/// Rows of patches that are gathered at a time.
fn patch_rows(window: &Window) -> usize {
    (PATCH_BLOCK / (window.patch() * window.out_width())).max(1)
}

fn blocks(rows: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(step).map(move |r| r..(r + step).min(end))
}

fn window(layer: &Layer, x: &Source<'_>) -> Window {
    Window { input: x.extent, kernel: layer.conv.kernel, stride: layer.conv.stride }
}

/// The products of one piece; `out` begins at the slice's first channel of the piece's first cell.
fn convolve(layer: &Layer, x: Source<'_>, piece: &Piece, out: &mut [f32], output: Extent) {
    let (n, k) = (layer.output(), layer.patch());
    if layer.method == Method::Winograd {
        let span = piece.span();
        winograd::convolve(&x.data[x.offset..], x.maps(), &layer.forward, out, output, &span, Write::Replace);
        return;
    }
    let row_len = output.width * output.pitch;
    for (index, image) in piece.images.clone().enumerate() {
        let out = &mut out[index * output.height * row_len..];
        let x_image = x.image(image);
        if layer.method == Method::Direct {
            let sizes = Sizes { m: piece.rows.len() * output.width, n, k };
            let start = piece.rows.start * output.width * x.extent.pitch;
            let left = Left { data: &x_image[start..], row: x.extent.pitch, column: 1 };
            gemm(sizes, left, &layer.forward, out, output.pitch, Write::Replace);
            continue;
        }
        let window = window(layer, &x);
        for rows in blocks(piece.rows.clone(), patch_rows(&window)) {
            let m = rows.len() * output.width;
            scratch(m * k, |patches| {
                gather(x_image, window, rows.clone(), patches);
                let left = Left { data: patches, row: k, column: 1 };
                let out = &mut out[(rows.start - piece.rows.start) * row_len..];
                gemm(Sizes { m, n, k }, left, &layer.forward, out, output.pitch, Write::Replace);
            });
        }
    }
}

/// Convolution and bias straight into a head level.
pub(super) fn bias_forward(
    layer: &Layer,
    pieces: &Pieces,
    x: Source<'_>,
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
pub(super) fn eval_forward(
    layer: &Layer,
    pieces: &Pieces,
    x: Source<'_>,
    out: &mut [f32],
    output: Extent,
    residual: Option<usize>,
) {
    let (scale, shift) = layer.running_affine();
    let slice = Slice { offset: layer.conv.output.offset, pitch: output.pitch };
    let raw = Extent { pitch: output.channels, ..output };
    let parts = split(out, pieces.products.iter().map(|p| cells(p, output.width) * output.pitch));
    pieces.products.par_iter().zip(parts).with_max_len(1).for_each(|(piece, out)| {
        scratch(cells(piece, output.width) * output.channels, |y| {
            convolve(layer, x, piece, y, raw);
            norm_silu(y, &scale, &shift, out, slice, residual);
        });
    });
}

/// Convolution, normalisation with the batch's statistics (returned in `batch`: mean, 1 / deviation; the running ones
/// are updated), activation, and the added view.
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
pub(super) fn train_forward(
    layer: &mut Layer,
    pieces: &Pieces,
    x: Source<'_>,
    raw: &mut [f32],
    batch: &mut [Vec<f32>; 2],
    out: &mut [f32],
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
        norm_silu(y, &scale, &shift, out, slice, residual);
    });
}

/// Backward through the activation: writes the gradient by the normalised value to `raw_gradient`, adds the gradients of
/// scale and shift, passes the gradient of the added view on, and returns the factors for [`Gradient::Norm`].
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
pub(super) fn activation_backward(
    layer: &mut Layer,
    pieces: &Pieces,
    raw: &[f32],
    [mean, inverse]: &[Vec<f32>; 2],
    raw_gradient: &mut [f32],
    gradient: &mut [f32],
    output: Extent,
    residual: Option<(usize, Write)>,
) -> [Vec<f32>; 3] {
    let (channels, offset) = (output.channels, layer.conv.output.offset);
    let slice = Slice { offset, pitch: output.pitch };
    let scale: Vec<f32> = layer.affine[0].data.iter().zip(inverse).map(|(s, i)| s * i).collect();
    let shift: Vec<f32> = (0..channels).map(|i| layer.affine[1].data[i] - mean[i] * scale[i]).collect();
    let norm = Norm { scale: &scale, shift: &shift, mean };
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
            silu_backward(y, norm, gradient, slice, d, &mut sums);
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
pub(super) enum Gradient<'a> {
    /// What [`activation_backward`] left, still without the effect on the batch statistics; `[cells][channels]`.
    Norm { d: &'a mut [f32], raw: &'a [f32], mean: &'a [f32], factors: &'a [Vec<f32>; 3] },
    /// A head level's gradient.
    Head(Source<'a>),
}

/// Adds the gradients of weights (and bias), and writes the gradient of the input, unless there is none to write.
pub(super) fn convolution_backward(
    layer: &mut Layer,
    pieces: &Pieces,
    x: Source<'_>,
    gradient: Gradient<'_>,
    output: Extent,
    dx: Option<(&mut [f32], Write)>,
    partial: &mut [f32],
) {
    let groups = &pieces.groups;
    let length = layer.weight.data.len();
    let partial = &mut partial[..length * groups.len()];
    let (dx, write) = dx.map_or((None, Write::Replace), |(dx, write)| (Some(dx), write));
    let mut dxs: Vec<Option<&mut [f32]>> = groups.iter().map(|_| None).collect();
    if let Some(dx) = dx {
        let lengths = groups.iter().map(|g| g.images.len() * x.image_len());
        dxs = split(dx, lengths).into_iter().map(Some).collect();
    }
    let this = &*layer;
    let tasks = groups.par_iter().zip(dxs).zip(partial.par_chunks_mut(length));
    let lengths = groups.iter().map(|g| cells(g, output.width) * output.channels);
    let biases: Vec<Vec<f32>> = match gradient {
        Gradient::Norm { d, raw, mean, factors } => {
            let factors = [0, 1, 2].map(|i| factors[i].as_slice());
            let contiguous = Extent { pitch: output.channels, ..output };
            let image_len = output.cells() * output.channels;
            tasks.zip(split(d, lengths)).with_max_len(1).for_each(|(((group, dx), dw), dy)| {
                let start = group.images.start * image_len;
                norm_backward(&raw[start..start + dy.len()], mean, factors, dy);
                group_backward(this, group, x, dy, contiguous, dx, write, dw);
            });
            Vec::new()
        }
        Gradient::Head(source) => (tasks.with_max_len(1))
            .map(|((group, dx), dw)| {
                let dy = source.image(group.images.start);
                let dy = &dy[..dy.len().min(group.images.len() * source.image_len())];
                group_backward(this, group, x, dy, output, dx, write, dw);
                let mut bias = vec![0.0; output.channels];
                add_columns(dy, output.pitch, &mut bias);
                bias
            })
            .collect(),
    };
    for bias in biases {
        layer.affine[0].gradient.iter_mut().zip(bias).for_each(|(g, b)| *g += b);
    }
    let partial = &*partial;
    layer.weight.gradient.par_chunks_mut(SUM_BLOCK).enumerate().for_each(|(block, sum)| {
        let start = block * SUM_BLOCK;
        for group in partial.chunks_exact(length) {
            add_assign(&group[start..start + sum.len()], sum);
        }
    });
}

/// Gradients of one group of pictures; `dy` begins at the slice's first channel, `dx` at the group's first number.
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
fn group_backward(
    layer: &Layer,
    group: &Piece,
    x: Source<'_>,
    dy: &[f32],
    output: Extent,
    mut dx: Option<&mut [f32]>,
    write: Write,
    dw: &mut [f32],
) {
    let (n, k) = (layer.output(), layer.patch());
    if layer.method == Method::Winograd {
        let span = group.span();
        winograd::weight_gradient(&x.data[x.offset..], x.maps(), dy, output, &span, dw);
        if let Some(dx) = dx {
            // The gradient as the input of a convolution with mirrored weights; its pictures are counted from the group.
            let span = winograd::Span { images: 0..group.images.len(), ..span };
            let maps = Maps { extent: output, image: output.cells() * output.pitch };
            winograd::convolve(dy, maps, &layer.backward, &mut dx[x.offset..], x.extent, &span, write);
        }
        return;
    }
    let window = window(layer, &x);
    let mut first = Write::Replace;
    for (index, image) in group.images.clone().enumerate() {
        let x_image = x.image(image);
        let dy = &dy[index * output.cells() * output.pitch..];
        let mut dx = dx.as_deref_mut().map(|dx| &mut dx[index * x.image_len() + x.offset..]);
        if let Some(dx) = dx.as_deref_mut()
            && layer.method == Method::Patches
            && write == Write::Replace
        {
            let length = dx.len().min(x.extent.reach());
            clear(&mut dx[..length], x.extent);
        }
        for rows in blocks(0..output.height, patch_rows(&window)) {
            let m = rows.len() * output.width;
            let dy = &dy[rows.start * output.width * output.pitch..];
            scratch(packed_len(m, n), |right| {
                pack(dy, output.pitch, m, n, right);
                let sizes = Sizes { m: k, n, k: m };
                if layer.method == Method::Direct {
                    let start = rows.start * output.width * x.extent.pitch;
                    let left = Left { data: &x_image[start..], row: 1, column: x.extent.pitch };
                    gemm(sizes, left, right, dw, n, first);
                } else {
                    scratch(m * k, |patches| {
                        gather(x_image, window, rows.clone(), patches);
                        gemm(sizes, Left { data: patches, row: 1, column: k }, right, dw, n, first);
                    });
                }
            });
            first = Write::Add;
            if let Some(dx) = dx.as_deref_mut() {
                let sizes = Sizes { m, n: k, k: n };
                let left = Left { data: dy, row: output.pitch, column: 1 };
                if layer.method == Method::Direct {
                    let dx = &mut dx[rows.start * x.extent.width * x.extent.pitch..];
                    gemm(sizes, left, &layer.backward, dx, x.extent.pitch, write);
                } else {
                    scratch(m * k, |patches| {
                        gemm(sizes, left, &layer.backward, patches, k, Write::Replace);
                        scatter(patches, window, rows.clone(), dx);
                    });
                }
            }
        }
    }
}
