//! Frames: rows of one picture's map, dense and with zeros around, so that every window of a convolution (and of its
//! gradients) is a row of a matrix that the product reads in place.
//!
//! Owns the geometry of frames and how the three products of a convolution see them. Refuses to own pictures' maps.

use super::{Extent, number::Number, simd::kernel, storage::LANES};
use std::ops::Range;

/// A square window over one picture's map; padding is `kernel / 2`, sides are multiples of the stride.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub input: Extent,
    pub kernel: usize,
    pub stride: usize,
    /// Channels of the output.
    pub output: usize,
}

/// Dense rows of cells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Map row of the first frame row; may be outside of the map.
    first: isize,
    rows: usize,
    /// Cells before the map's first.
    left: usize,
    /// Numbers of a cell.
    pub cell: usize,
    /// Numbers of a row: whole words.
    pub row_len: usize,
}

impl Frame {
    /// Numbers; a window may reach one number past the last cell.
    pub fn len(&self) -> usize {
        self.rows * self.row_len + 2
    }

    /// Fills the frame: `row` writes the cells of one map row of `width` cells, all of their numbers.
    pub fn fill<E: Number>(&self, height: usize, width: usize, frame: &mut [E], mut row: impl FnMut(usize, &mut [E])) {
        let inside = self.left * self.cell..(self.left + width) * self.cell;
        let (rows, rest) = frame.split_at_mut(self.rows * self.row_len);
        rest.fill(E::zeroed());
        for (y, cells) in (self.first..).zip(rows.chunks_exact_mut(self.row_len)) {
            if (0..height.cast_signed()).contains(&y) {
                cells[..inside.start].fill(E::zeroed());
                cells[inside.end..].fill(E::zeroed());
                row(y.cast_unsigned(), &mut cells[inside.clone()]);
            } else {
                cells.fill(E::zeroed());
            }
        }
    }

    /// Where the map's rows begin in the frame, from the map's row `y` on (which the frame covers).
    pub fn inner(&self, y: usize) -> usize {
        (y.cast_signed() - self.first).cast_unsigned() * self.row_len + self.left * self.cell
    }
}

/// A weight's row or column in the window and the output cell, relative to the input cell divided by the stride, that it
/// passes a gradient from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tap {
    pub weight: usize,
    pub offset: isize,
}

impl Window {
    /// Output cells in a row.
    pub fn out_width(&self) -> usize {
        self.input.width / self.stride
    }

    /// Numbers of an input cell in a frame: each window must begin at a whole word.
    pub fn cell<E: Number>(&self) -> usize {
        let channels = self.input.channels;
        if (self.stride * channels).is_multiple_of(E::PER_WORD) { channels } else { channels + 1 }
    }

    /// Numbers of an output cell in a frame.
    pub fn out_cell<E: Number>(&self) -> usize {
        self.output.next_multiple_of(E::PER_WORD)
    }

    /// The input that the windows of output rows `rows` see.
    pub fn frame<E: Number>(&self, rows: &Range<usize>) -> Frame {
        let (pad, cell) = (self.kernel / 2, self.cell::<E>());
        // The last window of an odd width has a partner beyond it, where the gradients are zero.
        let cells = (self.out_width().next_multiple_of(E::PER_WORD) - 1) * self.stride + self.kernel;
        Frame {
            first: (rows.start * self.stride).cast_signed() - pad.cast_signed(),
            rows: (rows.len() - 1) * self.stride + self.kernel,
            left: pad,
            cell,
            row_len: (cells * cell).next_multiple_of(E::PER_WORD),
        }
    }

    /// Words of one kernel row of a window.
    pub fn span<E: Number>(&self) -> usize {
        (self.kernel * self.cell::<E>()).div_ceil(E::PER_WORD)
    }

    /// For the forward product: which row of `[kernel_h][kernel_w][in]` each number of a window meets; `None` for
    /// numbers that only fill up.
    pub fn rows<E: Number>(&self) -> impl Iterator<Item = Option<usize>> {
        let (cell, channels, kernel) = (self.cell::<E>(), self.input.channels, self.kernel);
        let span = self.span::<E>() * E::PER_WORD;
        (0..kernel * span).map(move |p| {
            let (ky, kx, c) = (p / span, p % span / cell, p % span % cell);
            (kx < kernel && c < channels).then_some((ky * kernel + kx) * channels + c)
        })
    }

    /// The weights that input rows (or columns) with remainder `phase` by the stride get gradients through.
    pub fn taps(&self, phase: usize) -> Vec<Tap> {
        let stride = self.stride.cast_signed();
        let reach = (phase + self.kernel / 2).cast_signed();
        let taps = (0..self.kernel).rev().map(|k| (k, reach - k.cast_signed()));
        let taps = taps.filter(|(_, distance)| distance.rem_euclid(stride) == 0);
        taps.map(|(weight, distance)| Tap { weight, offset: distance.div_euclid(stride) }).collect()
    }

    /// The remainders of input rows and columns by the stride.
    pub fn phases(&self) -> impl Iterator<Item = (usize, usize)> {
        let stride = self.stride;
        (0..stride * stride).map(move |phase| (phase / stride, phase % stride))
    }

    /// Least and greatest offset of all taps.
    pub fn tap_range(&self) -> (isize, isize) {
        let offsets = || (0..self.stride).flat_map(|phase| self.taps(phase)).map(|tap| tap.offset);
        (offsets().min().unwrap_or(0), offsets().max().unwrap_or(0))
    }

    /// The output gradients that input rows `stride * rows` depend on.
    pub fn gradient_frame<E: Number>(&self, rows: &Range<usize>) -> Frame {
        let (low, high) = self.tap_range();
        let cell = self.out_cell::<E>();
        let beyond = (high - low).cast_unsigned();
        Frame {
            first: rows.start.cast_signed() + low,
            rows: rows.len() + beyond,
            left: (-low).cast_unsigned(),
            cell,
            row_len: (self.out_width() + beyond) * cell,
        }
    }
}

kernel! {
    /// Cells of a map (`channels` of every `pitch` numbers) as cells of a frame, rounded to its kind.
    pub(crate) fn copy_cells<'a; From, E>(simd; from: &'a [From], channels: usize, pitch: usize, to: &'a mut [E], cell: usize) -> () {
        // Without gaps, all cells are one.
        let dense = channels == pitch && channels == cell;
        let (channels, pitch, cell) = if dense { (to.len(), to.len(), to.len()) } else { (channels, pitch, cell) };
        for (from, to) in from.chunks(pitch).zip(to.chunks_exact_mut(cell)) {
            for j in (0..channels).step_by(LANES) {
                let len = LANES.min(channels - j);
                E::put(simd, From::get(simd, from, j, len), to, j, len);
            }
            to[channels..].fill(E::zeroed());
        }
    }
}

kernel! {
    /// `to[i]` is the pair of numbers `i` and `i + shift`; `from` has `shift` numbers more.
    pub(crate) fn pair_up<'a>(simd; from: &'a [half::bf16], shift: usize, to: &'a mut [u32]) -> () {
        let _ = simd;
        let to_len = to.len();
        let (low, high) = (&from[..to_len], &from[shift..shift + to_len]);
        for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
            *to = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn window(kernel: usize, stride: usize, channels: usize) -> Window {
        let input = Extent { height: 6, width: 10, channels, pitch: channels + 3 };
        Window { input, kernel, stride, output: 5 }
    }

    /// A frame holds the window of every output cell at the place that the product reads, with zeros around.
    #[test]
    fn windows_are_rows() {
        fn check<E: Number>(window: Window) {
            let Window { input, kernel, stride, .. } = window;
            let x: Vec<f32> = (0..input.cells() * input.pitch).map(|i| (i % 100) as f32 + 1.0).collect();
            let rows = 1..3;
            let frame = window.frame::<E>(&rows);
            let mut numbers = vec![E::from_f32(f32::NAN); frame.len()];
            let line = input.width * input.pitch;
            frame.fill(input.height, input.width, &mut numbers, |y, to| {
                copy_cells(&x[y * line..(y + 1) * line], input.channels, input.pitch, to, frame.cell);
            });
            assert!((stride * frame.cell).is_multiple_of(E::PER_WORD) && frame.row_len.is_multiple_of(E::PER_WORD));
            for (oy, ox) in rows.clone().flat_map(|y| (0..window.out_width()).map(move |x| (y, x))) {
                for (p, row) in window.rows::<E>().enumerate() {
                    let span = window.span::<E>() * E::PER_WORD;
                    let at =
                        ((oy - rows.start) * stride + p / span) * frame.row_len + ox * stride * frame.cell + p % span;
                    let Some(row) = row else {
                        assert!(numbers[at].to_f32().is_finite());
                        continue;
                    };
                    let (ky, kx, c) =
                        (row / input.channels / kernel, row / input.channels % kernel, row % input.channels);
                    let y = (oy * stride + ky).wrapping_sub(kernel / 2);
                    let column = (ox * stride + kx).wrapping_sub(kernel / 2);
                    let inside = y < input.height && column < input.width;
                    let expected = if inside { x[y * line + column * input.pitch + c] } else { 0.0 };
                    assert_eq!(numbers[at].to_f32(), expected);
                }
            }
        }
        for (kernel, stride, channels) in [(3, 1, 4), (3, 2, 3), (3, 1, 5), (1, 1, 7), (3, 2, 16), (5, 1, 2)] {
            check::<f32>(window(kernel, stride, channels));
            check::<bf16>(window(kernel, stride, channels));
        }
    }

    /// Each weight's gradient path is the forward one backwards: output cell `o` reads input `o * stride + k - pad`.
    #[test]
    fn taps_reverse_the_windows() {
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2), (5, 2)] {
            let window = window(kernel, stride, 4);
            let mut found = Vec::new();
            for input in 0..10 {
                for tap in window.taps(input % stride) {
                    let output = (input / stride).cast_signed() + tap.offset;
                    assert_eq!(
                        output * stride.cast_signed() + tap.weight.cast_signed() - (kernel / 2).cast_signed(),
                        input.cast_signed()
                    );
                    found.push((input, tap.weight));
                }
            }
            assert_eq!(found.len(), (0..stride).map(|p| window.taps(p).len()).sum::<usize>() * 10 / stride);
            assert_eq!((0..stride).map(|p| window.taps(p).len()).sum::<usize>(), kernel);
        }
        assert_eq!(window(3, 2, 4).tap_range(), (0, 1));
    }

    #[test]
    fn pairs_have_their_distance() {
        let from: Vec<bf16> = (0..40).map(|i| bf16::from_f32(i as f32)).collect();
        let mut to = [0; 33];
        pair_up(&from, 7, &mut to);
        let bits = |i: usize| u32::from(from[i].to_bits());
        assert!((0..33).all(|i| to[i] == bits(i) | bits(i + 7) << 16));
    }
}
