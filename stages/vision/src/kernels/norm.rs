//! Batch normalisation with SiLU, forward and backward, one pass over the numbers each.
//!
//! Pieces are `[cells][channels]`; an activation slice inside a wider map has its own pitch. Sums are taken over short
//! runs of cells in 32 bits and collected in 64 bits.

use super::{
    Write,
    number::Number,
    simd::{Simd, kernel},
    storage::LANES,
};

/// Cells summed in 32 bits before the sum goes to 64 bits.
const RUN: usize = 128;

/// Adds four partial sums a channel to the totals.
#[inline(always)]
fn collect<S: Simd>(simd: S, parts: [S::V; 4], totals: &mut [f64]) {
    let sum = simd.add(simd.add(parts[0], parts[1]), simd.add(parts[2], parts[3]));
    let mut numbers = [0.0; LANES];
    simd.store(sum, &mut numbers);
    for (total, number) in totals.iter_mut().zip(numbers) {
        *total += f64::from(number);
    }
}

/// Which channels of a cell a loop works on: up to sixteen from `j`.
#[derive(Clone, Copy)]
struct Part {
    j: usize,
    len: usize,
}

/// The parts of a cell of so many channels.
fn parts(channels: usize) -> impl Iterator<Item = Part> {
    (0..channels).step_by(LANES).map(move |j| Part { j, len: LANES.min(channels - j) })
}

/// Declares a kernel over cells: for each part of the channels and each run of cells, the body sees a part whose length is
/// a literal sixteen where that is the length, so that the compiler makes a loop without remainders of it.
macro_rules! by_parts {
    ($part:ident in $channels:expr => $body:expr) => {
        for part in parts($channels) {
            if part.len == LANES {
                let $part = Part { len: LANES, ..part };
                $body;
            } else {
                let $part = part;
                $body;
            }
        }
    };
}

kernel! {
    /// Adds the sums of `y - pivot` and of its square to `sums` (`2 * channels`: first all sums, then all squares).
    pub(crate) fn moments<'a; E>(simd; y: &'a [E], pivot: &'a [f32], sums: &'a mut [f64]) -> () {
        let channels = pivot.len();
        for run in y.chunks(RUN * channels) {
            by_parts!(part in channels => moments_part(simd, part, run, pivot, sums));
        }
    }
}

#[inline(always)]
fn moments_part<S: Simd, E: Number>(simd: S, Part { j, len }: Part, y: &[E], pivot: &[f32], sums: &mut [f64]) {
    let channels = pivot.len();
    let (sums, squares) = sums.split_at_mut(channels);
    let centre = f32::get(simd, pivot, j, len);
    let mut s = [simd.splat(0.0); 4];
    let mut q = [simd.splat(0.0); 4];
    for (i, cell) in y.chunks_exact(channels).enumerate() {
        let v = simd.sub(E::get(simd, cell, j, len), centre);
        s[i % 4] = simd.add(s[i % 4], v);
        q[i % 4] = E::mul_add(simd, v, v, q[i % 4]);
    }
    collect(simd, s, &mut sums[j..j + len]);
    collect(simd, q, &mut squares[j..j + len]);
}

/// A slice of channels inside cells of `pitch` numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub offset: usize,
    pub pitch: usize,
}

/// The factor and the addend of each channel.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
}

kernel! {
    /// `out = silu(y * scale + shift)`, plus what lies at channel offset `residual` of the same cell of `out`.
    pub(crate) fn norm_silu<'a; From, E>(simd; y: &'a [From], affine: Affine<'a>, out: &'a mut [E], slice: Slice, residual: Option<usize>) -> () {
        let channels = affine.scale.len();
        for (y, out) in y.chunks(RUN * channels).zip(out.chunks_mut(RUN * slice.pitch)) {
            by_parts!(part in channels => match residual {
                None => norm_silu_part::<S, From, E, false>(simd, part, y, affine, out, slice, 0),
                Some(from) => norm_silu_part::<S, From, E, true>(simd, part, y, affine, out, slice, from),
            });
        }
    }
}

#[inline(always)]
fn norm_silu_part<S: Simd, From: Number, E: Number, const ADD: bool>(
    simd: S,
    Part { j, len }: Part,
    y: &[From],
    affine: Affine<'_>,
    out: &mut [E],
    slice: Slice,
    residual: usize,
) {
    let (scale, shift) = (f32::get(simd, affine.scale, j, len), f32::get(simd, affine.shift, j, len));
    for (y, out) in y.chunks_exact(affine.scale.len()).zip(out.chunks_mut(slice.pitch)) {
        let z = E::mul_add(simd, From::get(simd, y, j, len), scale, shift);
        let mut o = simd.mul(z, E::sigmoid(simd, z));
        if ADD {
            o = simd.add(o, E::get(simd, out, residual + j, len));
        }
        E::put(simd, o, out, slice.offset + j, len);
    }
}

kernel! {
    /// `d = gradient * silu'(y * scale + shift)`; adds the sums of `d` and of `d * (y - mean)` to `sums`.
    pub(crate) fn silu_backward<'a; E>(simd; y: &'a [E], affine: Affine<'a>, mean: &'a [f32], gradient: &'a [E], slice: Slice, d: &'a mut [E], sums: &'a mut [f64]) -> () {
        let channels = mean.len();
        let runs = y.chunks(RUN * channels).zip(d.chunks_mut(RUN * channels)).zip(gradient.chunks(RUN * slice.pitch));
        for ((y, d), gradient) in runs {
            by_parts!(part in channels => silu_backward_part(simd, part, y, affine, mean, gradient, slice, d, sums));
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
fn silu_backward_part<S: Simd, E: Number>(
    simd: S,
    Part { j, len }: Part,
    y: &[E],
    affine: Affine<'_>,
    mean: &[f32],
    gradient: &[E],
    slice: Slice,
    d: &mut [E],
    sums: &mut [f64],
) {
    let channels = mean.len();
    let (sums, products) = sums.split_at_mut(channels);
    let (scale, shift) = (f32::get(simd, affine.scale, j, len), f32::get(simd, affine.shift, j, len));
    let (mean, one) = (f32::get(simd, mean, j, len), simd.splat(1.0));
    let mut s = [simd.splat(0.0); 4];
    let mut p = [simd.splat(0.0); 4];
    let cells = y.chunks_exact(channels).zip(d.chunks_exact_mut(channels)).zip(gradient.chunks(slice.pitch));
    for (i, ((y, d), gradient)) in cells.enumerate() {
        let y = E::get(simd, y, j, len);
        let z = E::mul_add(simd, y, scale, shift);
        let sigmoid = E::sigmoid(simd, z);
        // silu' = s (1 + z (1 - s)) = s + z s (1 - s)
        let slope = simd.mul(sigmoid, E::mul_add(simd, z, simd.sub(one, sigmoid), one));
        let v = simd.mul(E::get(simd, gradient, slice.offset + j, len), slope);
        E::put(simd, v, d, j, len);
        s[i % 4] = simd.add(s[i % 4], v);
        p[i % 4] = E::mul_add(simd, v, simd.sub(y, mean), p[i % 4]);
    }
    collect(simd, s, &mut sums[j..j + len]);
    collect(simd, p, &mut products[j..j + len]);
}

kernel! {
    /// `a * d + b * (y - mean) + c` with `[a, b, c]` the factors: the gradient through the batch statistics, in cells of
    /// `cell` numbers.
    pub(crate) fn norm_backward<'a; E>(simd; y: &'a [E], mean: &'a [f32], factors: [&'a [f32]; 3], d: &'a [E], out: &'a mut [E], cell: usize) -> () {
        let channels = mean.len();
        if cell > channels {
            out.fill(E::zeroed());
        }
        let runs = y.chunks(RUN * channels).zip(d.chunks(RUN * channels)).zip(out.chunks_mut(RUN * cell));
        for ((y, d), out) in runs {
            by_parts!(part in channels => norm_backward_part(simd, part, y, mean, factors, d, out, cell));
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
fn norm_backward_part<S: Simd, E: Number>(
    simd: S,
    Part { j, len }: Part,
    y: &[E],
    mean: &[f32],
    [a, b, c]: [&[f32]; 3],
    d: &[E],
    out: &mut [E],
    cell: usize,
) {
    let channels = mean.len();
    let (a, b) = (f32::get(simd, a, j, len), f32::get(simd, b, j, len));
    let (c, mean) = (f32::get(simd, c, j, len), f32::get(simd, mean, j, len));
    for ((y, d), out) in y.chunks_exact(channels).zip(d.chunks_exact(channels)).zip(out.chunks_exact_mut(cell)) {
        let v = E::mul_add(simd, simd.sub(E::get(simd, y, j, len), mean), b, c);
        E::put(simd, E::mul_add(simd, E::get(simd, d, j, len), a, v), out, j, len);
    }
}

/// In each cell of `pitch` numbers: the channels at `to` become (or get added) those at `from`.
pub(crate) fn copy_channels<E: Number>(
    cells: &mut [E],
    pitch: usize,
    from: usize,
    to: usize,
    channels: usize,
    write: Write,
) {
    assert!(from + channels <= to || to + channels <= from, "the slices do not overlap");
    for cell in cells.chunks_mut(pitch) {
        let (source, target) = if from < to {
            let (low, high) = cell.split_at_mut(to);
            (&low[from..from + channels], &mut high[..channels])
        } else {
            let (low, high) = cell.split_at_mut(from);
            (&high[..channels], &mut low[to..to + channels])
        };
        match write {
            Write::Replace => target.copy_from_slice(source),
            Write::Add => target.iter_mut().zip(source).for_each(|(t, s)| *t = E::from_f32(t.to_f32() + s.to_f32())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + 1) * (seed + 7919) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    /// Statistics, output and gradients of 37 channels in a wider map, against 64 bits and differences.
    #[test]
    fn equals_the_definition() {
        let (cells, channels, pitch, offset) = (300, 37, 80, 40);
        let y: Vec<f32> = numbers(cells * channels, 1).iter().map(|v| 100.0 + 3.0 * v).collect();
        let column = |c: usize| y.iter().skip(c).step_by(channels).map(|&v| f64::from(v)).collect::<Vec<_>>();
        // The pivot need not be good for the variance to be.
        let pivot = vec![97.0; channels];
        let mut sums = vec![0.0; 2 * channels];
        moments(&y, &pivot, &mut sums);
        let n = cells as f64;
        let (mut mean, mut inverse) = (Vec::new(), Vec::new());
        for c in 0..channels {
            let exact = column(c).iter().sum::<f64>() / n;
            let variance = column(c).iter().map(|v| (v - exact).powi(2)).sum::<f64>() / n;
            let centre = sums[c] / n;
            assert!((97.0 + centre - exact).abs() < 1e-5);
            assert!(((sums[channels + c] / n - centre * centre) / variance - 1.0).abs() < 1e-5);
            mean.push(exact as f32);
            inverse.push((1.0 / (variance + 1e-3).sqrt()) as f32);
        }
        let (gamma, beta) = (numbers(channels, 4), numbers(channels, 5));
        let scale: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, i)| g * i).collect();
        let shift: Vec<f32> = (0..channels).map(|c| beta[c] - mean[c] * scale[c]).collect();
        let before = numbers(cells * pitch, 6);
        let mut out = before.clone();
        let slice = Slice { offset, pitch };
        let affine = Affine { scale: &scale, shift: &shift };
        norm_silu(&y, affine, &mut out, slice, Some(1));
        let z = |y: &[f64], v: f64, c: usize| {
            let m = y.iter().sum::<f64>() / n;
            let variance = y.iter().map(|v| (v - m).powi(2)).sum::<f64>() / n;
            (v - m) / (variance + 1e-3).sqrt() * f64::from(gamma[c]) + f64::from(beta[c])
        };
        let silu = |z: f64| z / (1.0 + (-z).exp());
        for (i, (&found, &old)) in out.iter().zip(&before).enumerate() {
            let (cell, c) = (i / pitch, (i % pitch).wrapping_sub(offset));
            let expected = if c < channels {
                silu(z(&column(c), f64::from(y[cell * channels + c]), c)) + f64::from(before[cell * pitch + 1 + c])
            } else {
                f64::from(old)
            };
            assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
        }

        let gradient = numbers(cells * pitch, 8);
        let mut d = vec![0.0; y.len()];
        let mut sums = vec![0.0; 2 * channels];
        silu_backward(&y, affine, &mean, &gradient, slice, &mut d, &mut sums);
        let factor = |c: usize| f64::from(gamma[c]) * f64::from(inverse[c]);
        let b: Vec<f32> = (0..channels)
            .map(|c| (-factor(c) * f64::from(inverse[c]).powi(2) * sums[channels + c] / n) as f32)
            .collect();
        let c: Vec<f32> = (0..channels).map(|c| (-factor(c) * sums[c] / n) as f32).collect();
        let sums = d.clone();
        norm_backward(&y, &mean, [&scale, &b, &c], &sums, &mut d, channels);
        for (c, cell) in [(0, 0), (15, 100), (16, 299), (31, 7), (32, 128), (36, 255)] {
            let loss = |step: f64| -> f64 {
                let mut values = column(c);
                values[cell] += step;
                let terms = values.iter().enumerate();
                terms.map(|(i, &v)| silu(z(&values, v, c)) * f64::from(gradient[i * pitch + offset + c])).sum()
            };
            let expected = (loss(1e-3) - loss(-1e-3)) / 2e-3;
            let found = f64::from(d[cell * channels + c]);
            assert!((found - expected).abs() < 1e-4, "channel {c}, cell {cell}: {found} {expected}");
        }
    }

    #[test]
    fn channels_are_copied_both_ways() {
        let mut cells: Vec<f32> = (0..20).map(|i| i as f32).collect();
        copy_channels(&mut cells, 10, 1, 6, 3, Write::Replace);
        assert_eq!(cells[6..10], [1.0, 2.0, 3.0, 9.0]);
        copy_channels(&mut cells, 10, 6, 0, 2, Write::Add);
        assert_eq!(cells[10..12], [10.0 + 11.0, 11.0 + 12.0]);
    }
}
