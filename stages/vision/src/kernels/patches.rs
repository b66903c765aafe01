//! Convolution as a matrix product over patches: gathers the window of each output cell into a row, and scatters
//! gradients of rows back.

use super::{
    Extent,
    simd::{kernel, lanes, lanes_mut},
    storage::LANES,
};
use std::ops::Range;

/// A square window over one picture's map; padding is `kernel / 2`, sides are multiples of the stride.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub input: Extent,
    pub kernel: usize,
    pub stride: usize,
}

impl Window {
    /// Numbers of one patch: kernel rows x kernel columns x channels.
    pub fn patch(&self) -> usize {
        self.kernel * self.kernel * self.input.channels
    }

    /// Output cells in a row.
    pub fn out_width(&self) -> usize {
        self.input.width / self.stride
    }

    /// The input row that kernel row `ky` of output row `oy` reads, if it is not padding.
    fn row(&self, oy: usize, ky: usize) -> Option<usize> {
        (oy * self.stride + ky).checked_sub(self.kernel / 2).filter(|&y| y < self.input.height)
    }
}

/// The patches of output rows `rows`, `[output cell][kernel row][kernel column][channel]`.
pub(crate) fn gather(x: &[f32], window: Window, rows: Range<usize>, patches: &mut [f32]) {
    let Window { input, kernel, stride } = window;
    let (channels, pitch, width) = (input.channels, input.pitch, window.out_width());
    let (patch, pad, span) = (window.patch(), kernel / 2, kernel * channels);
    for (row, oy) in patches.chunks_exact_mut(width * patch).zip(rows) {
        for ky in 0..kernel {
            let source = window.row(oy, ky).map(|y| &x[y * input.width * pitch..]);
            for (ox, patch) in row.chunks_exact_mut(patch).enumerate() {
                let to = &mut patch[ky * span..(ky + 1) * span];
                let Some(source) = source else {
                    to.fill(0.0);
                    continue;
                };
                let left = ox * stride;
                if pitch == channels && left >= pad && left - pad + kernel <= input.width {
                    let from = &source[(left - pad) * pitch..][..span];
                    // A copy of known length is a few instructions; the first layer (3 x 3 of RGB) makes most calls.
                    match (<&mut [f32; 9]>::try_from(&mut *to), <&[f32; 9]>::try_from(from)) {
                        (Ok(to), Ok(from)) => *to = *from,
                        _ => to.copy_from_slice(from),
                    }
                    continue;
                }
                for (kx, to) in to.chunks_exact_mut(channels).enumerate() {
                    match (left + kx).checked_sub(pad).filter(|&x| x < input.width) {
                        Some(x) => to.copy_from_slice(&source[x * pitch..x * pitch + channels]),
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }
}

kernel! {
    /// The adjoint of [`gather`]: adds each number of the patches to the input cell that it came from.
    pub(crate) fn scatter<'a>(simd; patches: &'a [f32], window: Window, rows: Range<usize>, x: &'a mut [f32]) -> () {
        let Window { input, kernel, stride } = window;
        let (channels, pitch, width) = (input.channels, input.pitch, window.out_width());
        let (patch, pad) = (window.patch(), kernel / 2);
        let whole = channels / LANES * LANES;
        for (row, oy) in patches.chunks_exact(width * patch).zip(rows) {
            for ky in 0..kernel {
                let Some(y) = window.row(oy, ky) else { continue };
                let target = &mut x[y * input.width * pitch..];
                for (ox, patch) in row.chunks_exact(patch).enumerate() {
                    for kx in 0..kernel {
                        let column = ox * stride + kx;
                        if column < pad || column - pad >= input.width {
                            continue;
                        }
                        let from = &patch[(ky * kernel + kx) * channels..][..channels];
                        let to = &mut target[(column - pad) * pitch..][..channels];
                        for j in (0..whole).step_by(LANES) {
                            let sum = simd.add(simd.load(lanes_mut(to, j)), simd.load(lanes(from, j)));
                            simd.store(sum, lanes_mut(to, j));
                        }
                        for j in whole..channels {
                            to[j] += from[j];
                        }
                    }
                }
            }
        }
    }
}

/// Sets the channels of every cell to zero.
pub(crate) fn clear(x: &mut [f32], extent: Extent) {
    for cell in x.chunks_mut(extent.pitch) {
        cell[..extent.channels].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gather_reads_the_window_and_scatter_is_its_adjoint() {
        for (channels, pitch, kernel, stride) in
            [(3, 3, 3, 2), (16, 20, 3, 2), (19, 19, 3, 1), (32, 32, 5, 1), (5, 9, 1, 1)]
        {
            let input = Extent { height: 6, width: 8, channels, pitch };
            let window = Window { input, kernel, stride };
            let (height, width) = (6 / stride, 8 / stride);
            let x: Vec<f32> = (0..input.reach()).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            let mut patches = vec![f32::NAN; 2 * width * window.patch()];
            gather(&x, window, 1..3.min(height), &mut patches);
            let rows = 1..3.min(height);
            for oy in rows.clone() {
                for ox in 0..width {
                    for (ky, kx) in (0..kernel * kernel).map(|t| (t / kernel, t % kernel)) {
                        let (y, column) = ((oy * stride + ky) as isize, (ox * stride + kx) as isize);
                        let (y, column) = (y - (kernel / 2) as isize, column - (kernel / 2) as isize);
                        let inside = (0..6).contains(&y) && (0..8).contains(&column);
                        for c in 0..channels {
                            let expected = if inside { x[(y as usize * 8 + column as usize) * pitch + c] } else { 0.0 };
                            let cell = ((oy - 1) * width + ox) * kernel * kernel + ky * kernel + kx;
                            assert_eq!(patches[cell * channels + c], expected);
                        }
                    }
                }
            }
            // <gather x, p> = <x, scatter p>, exactly: all numbers are small and whole.
            let p: Vec<f32> = (0..patches.len()).map(|i| (i * 53 % 11) as f32 - 5.0).collect();
            let mut back = vec![0.0; x.len()];
            scatter(&p, window, rows, &mut back);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert_eq!(dot(&patches, &p), dot(&x, &back));
        }
    }
}
