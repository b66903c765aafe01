//! The gradients of a convolution by its weights and by its input, for one group of pictures or rows.
//!
//! Both ways write `dw` (`[kernel_h][kernel_w][in][out]`, replaced) and `dx` (from the group's first number on).

use super::{
    layer::{Method, packed_lens, window},
    pass::{Task, blocks, cells},
};
use crate::kernels::{
    Extent, Write,
    frame::{Frame, Window, copy_cells, pair_up},
    number::{Number, as_words},
    product::{Left, Pitch, Sizes, ZERO_ROW, pack, packed_len, product},
    storage::scratch,
    winograd::{self, Maps, TILE},
};
use std::ops::Range;

/// Words of frames that are worked on at a time (512 KB, inside a second-level cache).
const FRAME_BLOCK: usize = 128 * 1024;

impl<E: Number> Task<'_, E> {
    /// By minimal filtering; the numbers are of 32 bits.
    pub fn by_winograd(self, dx: Option<&mut [E]>, dw: &mut [f32]) {
        let Self { layer, group, x, gradient, output, write } = self;
        let (channels, width) = (output.channels, output.width);
        // The rows of a part of a picture, with those around it: one row of tiles above, of which the last row is read, so
        // that tiles stay where they are; and one row below.
        let Range { start, end } = group.rows;
        let (above, below) = (if start > 0 { TILE } else { 0 }, usize::from(end < output.height));
        let height = above + end - start + below;
        scratch(group.images.len() * height * width * channels, |dy: &mut [E]| {
            let first = group.images.start * output.cells() + start * width;
            let known = if above > 0 { (TILE - 1) * width } else { 0 };
            let before = above * width - known;
            let cells = cells(group, width) + before + below * width;
            let to = &mut dy[known * channels..][..cells * channels];
            gradient.write(first - before..first - before + cells, channels, to, channels);
            let (dy, output) = (bytemuck::cast_slice(dy), Extent { pitch: channels, ..output });
            winograd::weight_gradient(
                x.numbers(),
                x.maps(),
                &dy[above * width * channels..],
                output,
                &group.span(),
                dw,
            );
            if let Some(dx) = dx {
                // The gradient as the input of a convolution with mirrored weights; pictures and rows are counted from the
                // group.
                let rows = height - below;
                let span =
                    winograd::Span { images: 0..group.images.len(), tile_rows: above / TILE..rows.div_ceil(TILE) };
                let maps = Maps { extent: Extent { height, ..output }, image: height * width * channels };
                let dx: &mut [f32] = bytemuck::cast_slice_mut(dx);
                let to = Extent { height: rows, ..x.extent };
                winograd::convolve(dy, maps, &layer.backward, &mut dx[x.offset..], to, &span, write);
            }
        });
    }

    /// As products over windows.
    pub fn by_windows(self, mut dx: Option<&mut [E]>, dw: &mut [f32]) {
        debug_assert_eq!(Method::of::<E>(&self.layer.conv), Method::Windows);
        let window = window(&self.layer.conv, self.x.extent);
        let per_row = window.stride * window.frame::<E>(&(0..1)).row_len + window.gradient_frame::<E>(&(0..1)).row_len;
        let line = window.stride * self.x.extent.width * self.x.extent.pitch;
        let mut write = Write::Replace;
        for (index, image) in self.group.images.clone().enumerate() {
            for rows in blocks(self.group.rows.clone(), FRAME_BLOCK / per_row) {
                let frame = window.gradient_frame::<E>(&rows);
                scratch(frame.len(), |dy: &mut [E]| {
                    let (height, width) = (self.output.height, self.output.width);
                    frame.fill(height, width, dy, |y, to| {
                        let start = (image * height + y) * width;
                        self.gradient.write(start..start + width, self.output.channels, to, frame.cell);
                    });
                    self.weight_gradient(&window, image, &rows, (frame, dy), dw, write);
                    if let Some(dx) = dx.as_deref_mut() {
                        let row = index * self.group.rows.len() + rows.start - self.group.rows.start;
                        self.input_gradient(&window, rows.len(), (frame, dy), &mut dx[row * line + self.x.offset..]);
                    }
                });
                write = Write::Add;
            }
        }
    }

    /// `dw` from some output rows: sums over cells, or pairs of them, of an input channel times an output gradient.
    fn weight_gradient(
        &self,
        window: &Window,
        image: usize,
        rows: &Range<usize>,
        (dy_frame, dy): (Frame, &[E]),
        dw: &mut [f32],
        write: Write,
    ) {
        let x = &self.x;
        let (width, n) = (self.output.width, self.output.channels);
        let k = width.div_ceil(E::PER_WORD);
        let starts = rows.clone().flat_map(|y| {
            let row = dy_frame.inner(y);
            (0..k * E::PER_WORD).map(move |i| if i < width { row + i * dy_frame.cell } else { ZERO_ROW })
        });
        let starts: Vec<usize> = starts.collect();
        let frame = window.frame::<E>(rows);
        let between = window.stride * frame.cell;
        let steps: Vec<usize> = (0..rows.len()).map(|r| r * window.stride * frame.row_len).collect();
        // Kernel columns and channels are one line of rows if nothing fills the cells up.
        let whole = frame.cell == x.extent.channels;
        let lines: Vec<usize> = (0..window.kernel * window.kernel)
            .filter(|tap| !whole || tap % window.kernel == 0)
            .map(|tap| tap / window.kernel * frame.row_len + tap % window.kernel * frame.cell)
            .collect();
        let m = if whole { window.kernel * frame.cell } else { x.extent.channels };
        scratch(packed_len(rows.len() * k, n), |right: &mut [u32]| {
            pack::<E, E>(dy, &starts, n, right, []);
            scratch(frame.len(), |numbers: &mut [E]| {
                frame.fill(x.extent.height, x.extent.width, numbers, |y, to| {
                    copy_cells(x.row(image, y), x.extent.channels, x.extent.pitch, to, frame.cell);
                });
                let mut run = |words: &[u32]| {
                    let left = Left { words, lines: &lines, row: 1, steps: &steps, column: between * E::PER_WORD };
                    let pitch = Pitch { line: m * n, row: n };
                    product::<E, f32>(Sizes { m, n, k }, left, right, dw, pitch, write, []);
                };
                if E::PER_WORD == 1 {
                    run(as_words(numbers));
                } else {
                    let numbers = bytemuck::cast_slice(numbers);
                    scratch(numbers.len() - between, |pairs: &mut [u32]| {
                        pair_up(numbers, between, pairs);
                        run(pairs);
                    });
                }
            });
        });
    }

    /// `dx` of the input rows that belong to some output rows; `dx` begins at their first channel.
    fn input_gradient(&self, window: &Window, rows: usize, (frame, dy): (Frame, &[E]), dx: &mut [E]) {
        let Extent { width, channels, pitch, .. } = self.x.extent;
        let (low, _) = window.tap_range();
        let (cell, row_words) = (frame.cell / E::PER_WORD, frame.row_len / E::PER_WORD);
        let lines: Vec<usize> = (0..rows).map(|r| r * row_words).collect();
        let mut weights = &as_words(&self.layer.backward)[..packed_lens::<E>(&self.layer.conv)[1]];
        for (py, px) in window.phases() {
            let across = window.taps(px);
            let at = |offset: isize| (offset - low).cast_unsigned();
            let steps = window
                .taps(py)
                .into_iter()
                .flat_map(|y| across.iter().map(move |x| at(y.offset) * row_words + at(x.offset) * cell));
            let steps: Vec<usize> = steps.collect();
            let left = Left { words: as_words(dy), lines: &lines, row: cell, steps: &steps, column: 1 };
            let to = Pitch { line: window.stride * width * pitch, row: window.stride * pitch };
            let sizes = Sizes { m: window.out_width(), n: channels, k: cell };
            let (packed, rest) = weights.split_at(packed_len(steps.len() * cell, channels));
            product::<E, E>(sizes, left, packed, &mut dx[(py * width + px) * pitch..], to, self.write, []);
            weights = rest;
        }
    }
}
