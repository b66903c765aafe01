//! 3x3 convolutions of stride 1 by minimal filtering: four by four outputs from six by six inputs in 36 products instead
//! of 144 ("Fast Algorithms for Convolutional Neural Networks", Lavin and Gray 2015, F(4x4, 3x3)).
//!
//! With U = G W G^T, V = B^T X B for each input tile: Y = A^T (U . V) A, summed over input channels inside, so the work is
//! 36 matrix products. The gradient by the weights is the adjoint: dW = G^T (sum over tiles of V . (A dY A^T)) G. The
//! gradient by the input is a convolution with mirrored weights. Channel counts are multiples of 16.
#![expect(clippy::needless_range_loop, reason = "half-done tiles are written by columns and read by rows")]

use super::{
    Extent, Write,
    number::as_words,
    product::{Left, Pitch, Sizes, packed_index, packed_len, product},
    simd::{Simd, kernel, lanes, lanes_mut},
    storage::{LANES, scratch},
};
use std::ops::Range;

/// Side of an output tile.
pub(crate) const TILE: usize = 4;
/// Side of an input tile.
const SIDE: usize = 6;
/// Products of a tile.
pub(crate) const POINTS: usize = SIDE * SIDE;
/// Numbers of transformed input and output that are worked on at a time (768 KB, inside a second-level cache).
const BLOCK: usize = 192 * 1024;
/// Tiles worked on at a time, at least: each number of U that is loaded serves as many products.
const MIN_TILES: usize = 24;
/// Numbers between the planes of the points beyond their size, so that they do not fall on the same cache sets.
const GAP: usize = LANES;

/// Arrays of vectors written out, because calls of closures would hide the instruction set from the compiler.
macro_rules! three {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
            {
                let $i = 2;
                $value
            },
        ]
    };
}
macro_rules! four {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
            {
                let $i = 2;
                $value
            },
            {
                let $i = 3;
                $value
            },
        ]
    };
}
macro_rules! six {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
            {
                let $i = 2;
                $value
            },
            {
                let $i = 3;
                $value
            },
            {
                let $i = 4;
                $value
            },
            {
                let $i = 5;
                $value
            },
        ]
    };
}

/// Whether this way is there for a 3x3 convolution of stride 1.
pub(crate) fn suits(input: usize, output: usize) -> bool {
    input.is_multiple_of(LANES) && output.is_multiple_of(LANES)
}

/// Consecutive pictures, and rows of tiles of each.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub images: Range<usize>,
    pub tile_rows: Range<usize>,
}

/// The upper left output cell of a tile.
#[derive(Clone, Copy, Debug)]
struct Tile {
    image: usize,
    y: usize,
    x: usize,
}

impl Span {
    /// Tiles in reading order.
    fn tiles(&self, width: usize) -> Vec<Tile> {
        let mut tiles = Vec::new();
        for image in self.images.clone() {
            for row in self.tile_rows.clone() {
                tiles.extend((0..width.div_ceil(TILE)).map(|column| Tile { image, y: row * TILE, x: column * TILE }));
            }
        }
        tiles
    }
}

/// G: six numbers from three weights.
#[inline(always)]
fn spread<S: Simd>(simd: S, [a, b, c]: [S::V; 3]) -> [S::V; SIDE] {
    let sixth = simd.splat(1.0 / 6.0);
    let outer = simd.mul(simd.add(a, c), simd.splat(-1.0 / 6.0));
    let wide = simd.mul_add(a, simd.splat(1.0 / 24.0), simd.mul(c, sixth));
    let twelfth = simd.splat(1.0 / 12.0);
    [
        simd.mul(a, simd.splat(0.25)),
        simd.neg_mul_add(b, sixth, outer),
        simd.mul_add(b, sixth, outer),
        simd.mul_add(b, twelfth, wide),
        simd.neg_mul_add(b, twelfth, wide),
        c,
    ]
}

/// G^T: three weights' gradients from six.
#[inline(always)]
fn spread_adjoint<S: Simd>(simd: S, m: [S::V; SIDE]) -> [S::V; 3] {
    let sixth = simd.splat(1.0 / 6.0);
    let (near, far) = (simd.mul(simd.add(m[1], m[2]), sixth), simd.add(m[3], m[4]));
    let a = simd.sub(simd.mul(m[0], simd.splat(0.25)), near);
    let b = simd.mul(simd.sub(m[2], m[1]), sixth);
    [
        simd.mul_add(far, simd.splat(1.0 / 24.0), a),
        simd.mul_add(simd.sub(m[3], m[4]), simd.splat(1.0 / 12.0), b),
        simd.mul_add(far, sixth, simd.sub(m[5], near)),
    ]
}

/// B^T: six numbers from six inputs.
#[inline(always)]
fn mix<S: Simd>(simd: S, d: [S::V; SIDE]) -> [S::V; SIDE] {
    let (four, five, two) = (simd.splat(4.0), simd.splat(5.0), simd.splat(2.0));
    let a = simd.neg_mul_add(four, d[2], d[4]);
    let b = simd.neg_mul_add(four, d[1], d[3]);
    let c = simd.sub(d[4], d[2]);
    let e = simd.mul(two, simd.sub(d[3], d[1]));
    [
        simd.mul_add(four, d[0], simd.neg_mul_add(five, d[2], d[4])),
        simd.add(a, b),
        simd.sub(a, b),
        simd.add(c, e),
        simd.sub(c, e),
        simd.mul_add(four, d[1], simd.neg_mul_add(five, d[3], d[5])),
    ]
}

/// A^T: four outputs from six numbers.
#[inline(always)]
fn unmix<S: Simd>(simd: S, m: [S::V; SIDE]) -> [S::V; TILE] {
    let (s1, s2) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (s3, s4) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    [
        simd.add(simd.add(m[0], s1), s3),
        simd.mul_add(simd.splat(2.0), s4, s2),
        simd.mul_add(simd.splat(4.0), s3, s1),
        simd.add(simd.mul_add(simd.splat(8.0), s4, s2), m[5]),
    ]
}

/// A: six numbers from four outputs' gradients.
#[inline(always)]
fn unmix_adjoint<S: Simd>(simd: S, y: [S::V; TILE]) -> [S::V; SIDE] {
    let (even, odd) = (simd.add(y[0], y[2]), simd.add(y[1], y[3]));
    let wide_even = simd.mul_add(simd.splat(4.0), y[2], y[0]);
    let wide_odd = simd.mul_add(simd.splat(8.0), y[3], simd.mul(simd.splat(2.0), y[1]));
    [y[0], simd.add(even, odd), simd.sub(even, odd), simd.add(wide_even, wide_odd), simd.sub(wide_even, wide_odd), y[3]]
}

/// Numbers of the transformed weights: 36 packed right sides.
pub(crate) fn weights_len(input: usize, output: usize) -> usize {
    POINTS * packed_len(input, output)
}

kernel! {
    /// U of weights `[3][3][input][output]`.
    pub(crate) fn transform_weights<'a>(simd; w: &'a [f32], input: usize, output: usize, u: &'a mut [f32]) -> () {
        let (tap, plane) = (input * output, packed_len(input, output));
        for i in 0..input {
            for j in (0..output).step_by(LANES) {
                let at = i * output + j;
                let half = three!(x => spread(simd, three!(y => simd.load(lanes(w, (y * 3 + x) * tap + at)))));
                let to = packed_index(input, output, i, j);
                for y in 0..SIDE {
                    for (x, v) in spread(simd, three!(x => half[x][y])).into_iter().enumerate() {
                        simd.store(v, lanes_mut(u, (y * SIDE + x) * plane + to));
                    }
                }
            }
        }
    }
}

/// Numbers of a plane of `tiles` tiles.
fn plane_len(tiles: usize, channels: usize) -> usize {
    tiles * channels + GAP
}

kernel! {
    /// V of some tiles: 36 planes `[tile][channel]`. `x` begins at the slice's first channel of picture 0.
    fn transform_input<'a>(simd; x: &'a [f32], extent: Extent, image: usize, tiles: &'a [Tile], v: &'a mut [f32]) -> () {
        let Extent { height, width, channels, pitch } = extent;
        let plane = plane_len(tiles.len(), channels);
        let zero = simd.splat(0.0);
        for (t, tile) in tiles.iter().enumerate() {
            let inside = tile.y > 0 && tile.x > 0 && tile.y + TILE < height && tile.x + TILE < width;
            for j in (0..channels).step_by(LANES) {
                let half = if inside {
                    let start = tile.image * image + ((tile.y - 1) * width + tile.x - 1) * pitch + j;
                    let corner = &x[start..start + (5 * width + 5) * pitch + LANES];
                    six!(c => mix(simd, six!(r => simd.load(lanes(corner, (r * width + c) * pitch)))))
                } else {
                    six!(c => {
                        mix(simd, six!(r => {
                            let (y, x_) = ((tile.y + r).wrapping_sub(1), (tile.x + c).wrapping_sub(1));
                            if y < height && x_ < width {
                                simd.load(lanes(x, tile.image * image + (y * width + x_) * pitch + j))
                            } else {
                                zero
                            }
                        }))
                    })
                };
                for r in 0..SIDE {
                    for (c, value) in mix(simd, six!(c => half[c][r])).into_iter().enumerate() {
                        simd.store(value, lanes_mut(v, (r * SIDE + c) * plane + t * channels + j));
                    }
                }
            }
        }
    }
}

kernel! {
    /// Y from 36 planes of products. `first` is the cell (counted over all pictures) that `out` begins at.
    fn transform_output<'a>(simd; m: &'a [f32], extent: Extent, first: usize, tiles: &'a [Tile], out: &'a mut [f32], add: bool) -> () {
        let Extent { height, width, channels, pitch } = extent;
        let plane = plane_len(tiles.len(), channels);
        for (t, tile) in tiles.iter().enumerate() {
            let start = tile.image * height * width + tile.y * width + tile.x - first;
            for j in (0..channels).step_by(LANES) {
                let at = t * channels + j;
                let half = six!(c => unmix(simd, six!(r => simd.load(lanes(m, (r * SIDE + c) * plane + at)))));
                for r in 0..TILE.min(height - tile.y) {
                    for (c, value) in unmix(simd, six!(c => half[c][r])).into_iter().enumerate() {
                        if tile.x + c < width {
                            let to = lanes_mut(out, (start + r * width + c) * pitch + j);
                            let value = if add { simd.add(simd.load(to), value) } else { value };
                            simd.store(value, to);
                        }
                    }
                }
            }
        }
    }
}

kernel! {
    /// A dY A^T of some tiles as 36 packed right sides with one row a tile. `dy` begins at cell `first`.
    fn transform_gradient<'a>(simd; dy: &'a [f32], extent: Extent, first: usize, tiles: &'a [Tile], d: &'a mut [f32]) -> () {
        let Extent { height, width, channels, pitch } = extent;
        let plane = packed_len(tiles.len(), channels) + GAP;
        let zero = simd.splat(0.0);
        for (t, tile) in tiles.iter().enumerate() {
            let start = tile.image * height * width + tile.y * width + tile.x - first;
            for j in (0..channels).step_by(LANES) {
                let half = four!(c => {
                    unmix_adjoint(simd, four!(r => {
                        if tile.y + r < height && tile.x + c < width {
                            simd.load(lanes(dy, (start + r * width + c) * pitch + j))
                        } else {
                            zero
                        }
                    }))
                });
                let to = packed_index(tiles.len(), channels, t, j);
                for r in 0..SIDE {
                    for (c, value) in unmix_adjoint(simd, four!(c => half[c][r])).into_iter().enumerate() {
                        simd.store(value, lanes_mut(d, (r * SIDE + c) * plane + to));
                    }
                }
            }
        }
    }
}

kernel! {
    /// `dw = G^T du G`, from 36 planes `[input][output]` to `[3][3][input][output]`.
    fn transform_weights_adjoint<'a>(simd; du: &'a [f32], tap: usize, dw: &'a mut [f32]) -> () {
        for at in (0..tap).step_by(LANES) {
            let half = six!(c => spread_adjoint(simd, six!(r => simd.load(lanes(du, (r * SIDE + c) * (tap + GAP) + at)))));
            for y in 0..3 {
                for (x, value) in spread_adjoint(simd, six!(c => half[c][y])).into_iter().enumerate() {
                    simd.store(value, lanes_mut(dw, (y * 3 + x) * tap + at));
                }
            }
        }
    }
}

/// Tiles worked on at a time.
fn block_tiles(input: usize, output: usize) -> usize {
    (BLOCK / (POINTS * (input + output))).max(MIN_TILES).next_multiple_of(12)
}

/// A map of several pictures: each picture's extent, numbers from one picture to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps {
    pub extent: Extent,
    pub image: usize,
}

/// Convolves the tiles of a span. `x` begins at the slice's first channel of picture 0; `out` at the first channel of the
/// span's first output cell.
pub(crate) fn convolve(x: &[f32], input: Maps, u: &[f32], out: &mut [f32], output: Extent, span: &Span, write: Write) {
    let (ci, co) = (input.extent.channels, output.channels);
    let first = span.images.start * output.cells() + span.tile_rows.start * TILE * output.width;
    let all = span.tiles(output.width);
    for tiles in all.chunks(block_tiles(ci, co)) {
        let (vp, mp) = (plane_len(tiles.len(), ci), plane_len(tiles.len(), co));
        scratch(POINTS * (vp + mp), |buffer: &mut [f32]| {
            let (v, m) = buffer.split_at_mut(POINTS * vp);
            transform_input(x, input.extent, input.image, tiles, v);
            let sizes = Sizes { m: tiles.len(), n: co, k: ci };
            for p in 0..POINTS {
                let left =
                    Left { words: as_words(&v[p * vp..(p + 1) * vp]), lines: &[0], row: ci, steps: &[0], column: 1 };
                let u = as_words(&u[p * packed_len(ci, co)..]);
                let pitch = Pitch { line: 0, row: co };
                product::<f32, f32>(sizes, left, u, &mut m[p * mp..(p + 1) * mp], pitch, Write::Replace, []);
            }
            transform_output(m, output, first, tiles, out, write == Write::Add);
        });
    }
}

/// The gradient by the weights (`[3][3][input][output]`, replaced) from the tiles of a span. `x` as in [`convolve`]; `dy`
/// begins at the first channel of the span's first cell.
pub(crate) fn weight_gradient(x: &[f32], input: Maps, dy: &[f32], output: Extent, span: &Span, dw: &mut [f32]) {
    let (ci, co) = (input.extent.channels, output.channels);
    let first = span.images.start * output.cells() + span.tile_rows.start * TILE * output.width;
    let all = span.tiles(output.width);
    let up = ci * co + GAP;
    scratch(POINTS * up, |du| {
        for (block, tiles) in all.chunks(block_tiles(ci, co)).enumerate() {
            let (vp, dp) = (plane_len(tiles.len(), ci), packed_len(tiles.len(), co) + GAP);
            scratch(POINTS * (vp + dp), |buffer: &mut [f32]| {
                let (v, d) = buffer.split_at_mut(POINTS * vp);
                transform_input(x, input.extent, input.image, tiles, v);
                transform_gradient(dy, output, first, tiles, d);
                let sizes = Sizes { m: ci, n: co, k: tiles.len() };
                let write = if block == 0 { Write::Replace } else { Write::Add };
                for p in 0..POINTS {
                    let left = Left {
                        words: as_words(&v[p * vp..(p + 1) * vp]),
                        lines: &[0],
                        row: 1,
                        steps: &[0],
                        column: ci,
                    };
                    let pitch = Pitch { line: 0, row: co };
                    let right = as_words(&d[p * dp..]);
                    product::<f32, f32>(sizes, left, right, &mut du[p * up..(p + 1) * up], pitch, write, []);
                }
            });
        }
        transform_weights_adjoint(du, ci * co, dw);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + 1) * (seed + 7919) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    /// Forward against the definition, and both gradients as adjoints, on maps that tiles do not fit, in slices.
    #[test]
    fn equals_the_definition() {
        for (height, width, ci, co) in [(5, 9, 16, 32), (1, 1, 32, 16), (8, 4, 48, 16), (13, 6, 16, 16)] {
            let images = 2;
            let input = Extent { height, width, channels: ci, pitch: ci + 16 };
            let output = Extent { height, width, channels: co, pitch: co + 32 };
            let (x_image, y_image) = (input.cells() * input.pitch, output.cells() * output.pitch);
            let maps = Maps { extent: input, image: x_image };
            let (x, w) = (numbers(images * x_image, 1), numbers(9 * ci * co, 2));
            let mut u = vec![0.0; weights_len(ci, co)];
            transform_weights(&w, ci, co, &mut u);
            let mut y = vec![0.5; images * y_image];
            let rows = height.div_ceil(TILE);
            convolve(&x, maps, &u, &mut y, output, &Span { images: 0..images, tile_rows: 0..rows }, Write::Add);
            for n in 0..images {
                for (oy, ox, o) in (0..height * width * co).map(|i| (i / co / width, i / co % width, i % co)) {
                    let mut sum = 0.5;
                    for (ky, kx) in (0..9).map(|t| (t / 3, t % 3)) {
                        let (iy, ix) = ((oy + ky).wrapping_sub(1), (ox + kx).wrapping_sub(1));
                        if iy < height && ix < width {
                            let cell = &x[n * x_image + (iy * width + ix) * input.pitch..][..ci];
                            let weights = w[(ky * 3 + kx) * ci * co..][..ci * co].chunks_exact(co);
                            sum += cell.iter().zip(weights).map(|(x, w)| f64::from(x * w[o])).sum::<f64>();
                        }
                    }
                    let found = f64::from(y[n * y_image + (oy * width + ox) * output.pitch + o]);
                    assert!((found - sum).abs() < 1e-4, "{height} {width} {ci} {co}: {found} {sum}");
                }
            }
            // What lies between the slices is untouched.
            assert!(y.chunks(output.pitch).all(|cell| cell[co..].iter().all(|&v| v == 0.5)));

            // One row of tiles of the last picture alone gives the same bytes.
            let start = ((images - 1) * output.cells() + (rows - 1) * TILE * width) * output.pitch;
            let mut part = vec![0.5; y.len() - start];
            let span = Span { images: images - 1..images, tile_rows: rows - 1..rows };
            convolve(&x, maps, &u, &mut part, output, &span, Write::Add);
            assert_eq!(part, y[start..]);

            // <conv(x), d> = <w, dw> = <x, dx>, each per picture.
            let d = numbers(images * y_image, 3);
            let mut back = vec![0.0; weights_len(co, ci)];
            let mut mirrored = vec![0.0; w.len()];
            for (i, to) in mirrored.iter_mut().enumerate() {
                let (tap, o, i) = (i / ci / co, i / ci % co, i % ci);
                *to = w[((8 - tap) * ci + i) * co + o];
            }
            transform_weights(&mirrored, co, ci, &mut back);
            let mut dx = vec![0.0; x.len()];
            let all = Span { images: 0..images, tile_rows: 0..rows };
            convolve(&d, Maps { extent: output, image: y_image }, &back, &mut dx, input, &all, Write::Replace);
            let mut dw = vec![0.0; w.len()];
            weight_gradient(&x, maps, &d, output, &all, &mut dw);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let inner = |a: &[f32], b: &[f32], e: Extent| -> f64 {
                a.chunks(e.pitch).zip(b.chunks(e.pitch)).map(|(a, b)| dot(&a[..e.channels], &b[..e.channels])).sum()
            };
            let half = vec![0.5; y.len()];
            let expected = inner(&y, &d, output) - inner(&half, &d, output);
            let scale = (inner(&y, &y, output) * inner(&d, &d, output)).sqrt();
            for found in [dot(&w, &dw), inner(&x, &dx, input)] {
                assert!((found - expected).abs() < 1e-5 * scale, "{found} {expected} {scale}");
            }
        }
    }
}
