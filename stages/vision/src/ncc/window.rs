//! Sums of grey levels over every window of a tile.

use image::GrayImage;

use super::patch::Rect;

/// Integral images of a tile's grey levels and of their squares. All sums are whole numbers below 2^53 and so exact.
pub(super) struct Integral {
    stride: usize,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

/// Whether the variance of a window, times its pixels, is too small beside the sum of its squares to mean anything:
/// OpenCV's own bound, under which the correlation is 0.
pub(super) fn is_flat(variation: f64, squares: f64) -> bool {
    variation <= (10.0 * f64::from(f32::EPSILON) * squares).min(0.5)
}

impl Integral {
    /// Of `width` by `height` pixels from (`x`, `y`) on, all of which the drawing has.
    pub fn of(drawing: &GrayImage, [x, y]: [usize; 2], width: usize, height: usize) -> Self {
        let stride = width + 1;
        let mut sums = vec![0.0; stride * (height + 1)];
        let mut squares = sums.clone();
        for v in 0..height {
            let start = (y + v) * drawing.width() as usize + x;
            let (mut sum, mut square) = (0.0, 0.0);
            for (u, &grey) in drawing.as_raw()[start..start + width].iter().enumerate() {
                let grey = f64::from(grey);
                sum += grey;
                square += grey * grey;
                let i = (v + 1) * stride + u + 1;
                sums[i] = sums[i - stride] + sum;
                squares[i] = squares[i - stride] + square;
            }
        }
        Self { stride, sums, squares }
    }

    /// One over the norm of the grey levels less their mean, for each of `columns` by `rows` windows made of `rects`
    /// with `pixels` pixels together; 0 for flat windows.
    pub fn inverse_norms(&self, rects: &[Rect], pixels: usize, columns: usize, rows: usize) -> Vec<f32> {
        let mut norms = Vec::with_capacity(columns * rows);
        let (mut sums, mut squares) = (vec![0.0; columns], vec![0.0; columns]);
        for y in 0..rows {
            sums.fill(0.0);
            squares.fill(0.0);
            for r in rects {
                self.add(&self.sums, r, y, &mut sums);
                self.add(&self.squares, r, y, &mut squares);
            }
            norms.extend(sums.iter().zip(&squares).map(|(&sum, &square)| {
                let variation = square - sum * sum / pixels as f64;
                if is_flat(variation, square) { f32::INFINITY } else { variation as f32 }
            }));
        }
        // Apart from the sums, so that each loop keeps to one width of numbers and to vector instructions.
        for norm in &mut norms {
            *norm = 1.0 / norm.sqrt();
        }
        norms
    }

    fn add(&self, integral: &[f64], r: &Rect, y: usize, out: &mut [f64]) {
        let row = |y: usize, x: usize| &integral[y * self.stride + x..][..out.len()];
        let (a, b) = (row(y + r.y0, r.x0), row(y + r.y0, r.x1));
        let (c, d) = (row(y + r.y1, r.x0), row(y + r.y1, r.x1));
        for (i, out) in out.iter_mut().enumerate() {
            *out += d[i] - c[i] - (b[i] - a[i]);
        }
    }
}
