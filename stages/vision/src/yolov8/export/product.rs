//! Convolutions of the plain evaluation. Owns the one call into a library for products of matrices.

use super::evaluate::Array;
use rayon::prelude::*;

/// Cells of the output that are computed together.
const TILE: usize = 1024;

/// `c [m][n] = a [m][k] * b [k][n]`.
#[expect(unsafe_code, reason = "the library takes pointers; their lengths are asserted")]
fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], c: &mut [f32]) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "the sizes are those of the matrices");
    // SAFETY: all three are row-major and exactly as long as the sizes say.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            k as isize,
            1,
            b.as_ptr(),
            n as isize,
            1,
            0.0,
            c.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

/// `x [batch, in, height, width]`, `w [out, in, kernel, kernel]`, padded by half a kernel.
pub(super) fn convolution(x: &Array, w: &Array, bias: &[f32], kernel: usize, stride: usize) -> Result<Array, String> {
    let (&[batch, channels, h, width], &[out, inner, kh, kw]) = (&x.shape[..], &w.shape[..]) else {
        return Err(format!("{:?} and {:?}", x.shape, w.shape));
    };
    if inner != channels || [kh, kw] != [kernel; 2] || bias.len() != out || stride == 0 || kernel == 0 {
        return Err(format!("map {:?}, weights {:?}, {} biases, kernel {kernel}", x.shape, w.shape, bias.len()));
    }
    let pad = kernel / 2;
    let (oh, ow) = ((h + 2 * pad - kernel) / stride + 1, (width + 2 * pad - kernel) / stride + 1);
    let (d, w) = (x.f()?, w.f()?);
    let patch = channels * kernel * kernel;
    let cells = oh * ow;
    let tiles = cells.div_ceil(TILE);
    let tile = |t: usize| {
        let (image, first) = (t / tiles, t % tiles * TILE);
        let n = TILE.min(cells - first);
        let mut columns = vec![0.0; patch * n];
        for (row, column) in columns.chunks_exact_mut(n).enumerate() {
            let (c, ky, kx) = (row / (kernel * kernel), row / kernel % kernel, row % kernel);
            let map = &d[(image * channels + c) * h * width..][..h * width];
            let mut i = 0;
            while i < n {
                // One row of the output at a time.
                let (oy, ox) = ((first + i) / ow, (first + i) % ow);
                let len = (ow - ox).min(n - i);
                let y = oy * stride + ky;
                if (pad..h + pad).contains(&y) {
                    let line = &map[(y - pad) * width..][..width];
                    for (k, to) in column[i..i + len].iter_mut().enumerate() {
                        // Left of the picture the subtraction wraps, which is beyond its width, too.
                        if let Some(&v) = line.get(((ox + k) * stride + kx).wrapping_sub(pad)) {
                            *to = v;
                        }
                    }
                }
                i += len;
            }
        }
        let mut part = vec![0.0; out * n];
        product(w, &columns, [out, patch, n], &mut part);
        (image, first, n, part)
    };
    let parts: Vec<_> = (0..batch * tiles).into_par_iter().map(tile).collect();
    let mut data = vec![0.0; batch * out * cells];
    for (image, first, n, part) in parts {
        for (c, row) in part.chunks_exact(n).enumerate() {
            let to = &mut data[(image * out + c) * cells + first..][..n];
            to.iter_mut().zip(row).for_each(|(to, &v)| *to = v + bias[c]);
        }
    }
    Ok(Array::floats(vec![batch, out, oh, ow], data))
}
