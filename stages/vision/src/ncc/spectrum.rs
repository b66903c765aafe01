//! Two-dimensional Fourier transforms of one size.
//!
//! Spatial data lie row by row; spectra lie column by column, which saves a transposition each way.

use std::sync::Arc;

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

/// Side of the blocks of a transposition, values: a block of two sides fits the first-level cache.
const BLOCK: usize = 16;

/// Transforms of `width` by `height` values.
pub(super) struct Transform {
    pub width: usize,
    pub height: usize,
    rows: [Arc<dyn Fft<f32>>; 2],
    columns: [Arc<dyn Fft<f32>>; 2],
}

/// Room for the work of a [`Transform`], to be used again.
#[derive(Default)]
pub(super) struct Work {
    scratch: Vec<Complex32>,
    rows: Vec<Complex32>,
}

impl Transform {
    pub fn new(width: usize, height: usize) -> Self {
        let mut planner = FftPlanner::new();
        let mut both = |n: usize| [planner.plan_fft_forward(n), planner.plan_fft_inverse(n)];
        Self { width, height, rows: both(width), columns: both(height) }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.width * self.height
    }

    fn room<'a>(&self, work: &'a mut Work) -> (&'a mut [Complex32], &'a mut [Complex32]) {
        let plans = self.rows.iter().chain(&self.columns);
        let scratch = plans.map(|p| p.get_inplace_scratch_len()).max().unwrap_or(0);
        work.scratch.resize(scratch.max(work.scratch.len()), Complex32::default());
        work.rows.resize(self.len(), Complex32::default());
        (&mut work.scratch, &mut work.rows)
    }

    /// The spectrum of values of which only the first `filled` rows are not zero. The values are lost.
    pub fn forward(&self, values: &mut [Complex32], filled: usize, work: &mut Work) -> Vec<Complex32> {
        let (scratch, _) = self.room(work);
        self.rows[0].process_with_scratch(&mut values[..filled * self.width], scratch);
        let mut spectrum = vec![Complex32::default(); self.len()];
        transpose(values, self.width, &mut spectrum, self.height, [filled, self.width]);
        self.columns[0].process_with_scratch(&mut spectrum, scratch);
        spectrum
    }

    /// The first `rows` rows of the values of a spectrum, times the number of values. The spectrum is lost.
    pub fn inverse<'a>(&self, spectrum: &mut [Complex32], rows: usize, work: &'a mut Work) -> &'a [Complex32] {
        let (scratch, values) = self.room(work);
        self.columns[1].process_with_scratch(spectrum, scratch);
        transpose(spectrum, self.height, values, self.width, [self.width, rows]);
        self.rows[1].process_with_scratch(&mut values[..rows * self.width], scratch);
        &values[..rows * self.width]
    }
}

/// Writes `rows` by `columns` values of lines that are `from_stride` apart as columns of lines that are `to_stride` apart.
fn transpose(
    from: &[Complex32],
    from_stride: usize,
    to: &mut [Complex32],
    to_stride: usize,
    [rows, columns]: [usize; 2],
) {
    // By way of a block in the cache: strides are often powers of two, of which few lines fit the cache at once.
    let mut block = [[Complex32::default(); BLOCK]; BLOCK];
    for y0 in (0..rows).step_by(BLOCK) {
        let height = BLOCK.min(rows - y0);
        for x0 in (0..columns).step_by(BLOCK) {
            let width = BLOCK.min(columns - x0);
            for y in 0..height {
                let line = &from[(y0 + y) * from_stride + x0..][..width];
                for (column, value) in block.iter_mut().zip(line) {
                    column[y] = *value;
                }
            }
            for (x, column) in block.iter().take(width).enumerate() {
                to[(x0 + x) * to_stride + y0..][..height].copy_from_slice(&column[..height]);
            }
        }
    }
}
