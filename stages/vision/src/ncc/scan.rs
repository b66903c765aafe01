//! Correlation of many patches with a drawing, tile by tile.
//!
//! The spectrum of a tile serves all patches, and two patches share one inverse transform, as its real and its
//! imaginary part (overlap-save: of each tile only the windows that lie inside are used). Owns the numerics; what is
//! done with the values is up to the caller.

use image::GrayImage;
use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use super::patch::{Patch, Rect};
use super::spectrum::{Transform, Work};
use super::window::{Integral, is_flat};

/// Largest tile, values: measured, larger ones leave the second-level cache. Large templates have larger tiles.
const TILE_VALUES: usize = 1 << 17;
/// Work on a value of a tile that does not grow with the tile's size, in units of a transform's work a doubling.
const FIXED_WORK: f64 = 8.0;
/// Drawings of fewer tiles than this are shared out by patches too.
const FEW_TILES: usize = 32;
/// Pairs of patches that one task takes on a drawing of few tiles: the tile's own transform is then an eighth.
const FEW_PAIRS: usize = 8;

/// A patch with what the correlation needs of it.
#[derive(Debug)]
pub(super) struct Kernel {
    pub patch: Patch,
    rects: Vec<Rect>,
    /// Pixels that count.
    pixels: usize,
    /// Sum of their grey levels.
    sum: i64,
    /// Norm of their grey levels less the mean.
    norm: f64,
}

/// The correlations of one kernel with the windows that start in one tile.
pub(super) struct Block<'a> {
    /// Index of the kernel.
    pub kernel: usize,
    /// Window at the first value: left, top.
    pub at: [usize; 2],
    /// Values a row.
    pub columns: usize,
    /// Row by row; those beside `core` are there as neighbours.
    pub values: &'a [f32],
    /// The windows that are this tile's own: left, top, right, bottom.
    pub core: [usize; 4],
}

impl Kernel {
    /// `None` for a flat patch.
    pub fn of(patch: Patch) -> Option<Self> {
        if patch.is_flat() {
            return None;
        }
        let (mut pixels, mut sum, mut squares) = (0, 0i64, 0i64);
        for (&g, _) in patch.grey.iter().zip(&patch.inside).filter(|(_, inside)| **inside) {
            pixels += 1;
            sum += i64::from(g);
            squares += i64::from(g) * i64::from(g);
        }
        let norm = (squares as f64 - sum as f64 * sum as f64 / pixels as f64).sqrt();
        Some(Self { rects: patch.rects(), patch, pixels, sum, norm })
    }

    /// Grey level of a pixel less the mean, over the norm; 0 where the mask is.
    fn value(&self, i: usize) -> f32 {
        let level = f64::from(self.patch.grey[i]) - self.sum as f64 / self.pixels as f64;
        if self.patch.inside[i] { (level / self.norm) as f32 } else { 0.0 }
    }

    /// The correlation with the window at (`x`, `y`), from whole numbers, -1..=1.
    pub fn exact(&self, drawing: &GrayImage, [x, y]: [usize; 2]) -> f64 {
        let (mut product, mut sum, mut squares) = (0i64, 0i64, 0i64);
        for r in &self.rects {
            for v in r.y0..r.y1 {
                let window = &drawing.as_raw()[(y + v) * drawing.width() as usize + x..];
                let template = &self.patch.grey[v * self.patch.width..];
                for (&g, &t) in window[r.x0..r.x1].iter().zip(&template[r.x0..r.x1]) {
                    let (g, t) = (i64::from(g), i64::from(t));
                    product += g * t;
                    sum += g;
                    squares += g * g;
                }
            }
        }
        let n = self.pixels as f64;
        let variation = squares as f64 - sum as f64 * sum as f64 / n;
        if is_flat(variation, squares as f64) {
            return 0.0;
        }
        let covariance = product as f64 - self.sum as f64 * sum as f64 / n;
        (covariance / (variation.sqrt() * self.norm)).clamp(-1.0, 1.0)
    }
}

/// How a drawing is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Grid {
    /// Size of a transform.
    size: [usize; 2],
    /// Windows of a tile's own, along each axis.
    step: [usize; 2],
    /// Tiles along each axis.
    tiles: [usize; 2],
}

/// Sizes whose transforms are fast.
fn sizes() -> impl Iterator<Item = usize> + Clone {
    (4..).flat_map(|k| [1 << k, 5 << (k - 2), 3 << (k - 1)])
}

impl Grid {
    /// The grid of least work for patches of at most `most` on a drawing, with tiles of at most `limit` values where
    /// that is possible.
    fn of(drawing: [usize; 2], most: [usize; 2], limit: usize) -> Self {
        // A tile needs a patch, a window and a neighbour on either side, or else it holds the whole drawing.
        let axis = |i: usize| {
            let (drawing, most) = (drawing[i], most[i]);
            let usable = sizes().skip_while(move |&n| n < drawing.min(most + 2));
            let last = usable.clone().find(|&n| n >= drawing).unwrap_or(drawing);
            usable.take_while(move |&n| n <= last).map(move |n| {
                let step = if n >= drawing { drawing } else { n - most - 1 };
                (n, step, drawing.div_ceil(step))
            })
        };
        let smallest: usize = [0, 1].map(|i| axis(i).next().map_or(1, |a| a.0)).iter().product();
        let mut best: Option<(f64, Self)> = None;
        for (width, step_x, across) in axis(0) {
            for (height, step_y, down) in axis(1) {
                let values = width * height;
                if values > limit.max(smallest) {
                    break;
                }
                let work = (across * down * values) as f64 * ((values as f64).log2() + FIXED_WORK);
                if best.is_none_or(|b| work < b.0) {
                    best = Some((work, Self { size: [width, height], step: [step_x, step_y], tiles: [across, down] }));
                }
            }
        }
        best.expect("the smallest tile is within the limit").1
    }
}

/// Bytes that the spectrum of a pair of patches takes, of at most `most` pixels, on a drawing.
pub(super) fn pair_bytes(drawing: &GrayImage, most: [usize; 2]) -> usize {
    Grid::of(extent(drawing), most, TILE_VALUES).size.iter().product::<usize>() * size_of::<Complex32>()
}

fn extent(drawing: &GrayImage) -> [usize; 2] {
    [drawing.width() as usize, drawing.height() as usize]
}

/// Correlates kernels, none of which is larger than the drawing, and gathers what `take` makes of their blocks: by
/// tiles from top to bottom and left to right, and within a tile in the order of the kernels. Values are within 1e-3
/// of the exact ones.
pub(super) fn scan<R: Send>(
    drawing: &GrayImage,
    kernels: &[Kernel],
    take: impl Fn(&Block<'_>) -> Vec<R> + Sync,
) -> Vec<R> {
    scan_in(drawing, kernels, take, TILE_VALUES)
}

fn scan_in<R: Send>(
    drawing: &GrayImage,
    kernels: &[Kernel],
    take: impl Fn(&Block<'_>) -> Vec<R> + Sync,
    limit: usize,
) -> Vec<R> {
    let most = |side: fn(&Patch) -> usize| kernels.iter().map(|k| side(&k.patch)).max().unwrap_or(1);
    let grid = Grid::of(extent(drawing), [most(|p| p.width), most(|p| p.height)], limit);
    let transform = Transform::new(grid.size[0], grid.size[1]);
    let pairs: Vec<&[Kernel]> = kernels.chunks(2).collect();
    let spectra: Vec<Vec<Complex32>> = pairs.par_iter().map(|pair| pair_spectrum(&transform, pair)).collect();
    let tiles = grid.tiles[0] * grid.tiles[1];
    let share = if tiles < FEW_TILES { FEW_PAIRS } else { pairs.len().max(1) };
    let shares = pairs.len().div_ceil(share);
    let found: Vec<Vec<R>> = (0..tiles * shares)
        .into_par_iter()
        .map(|task| {
            let (tile, first) = (task / shares, task % shares * share);
            let mut tile = Tile::of(drawing, &grid, [tile % grid.tiles[0], tile / grid.tiles[0]], &transform);
            let pairs = pairs.iter().zip(&spectra).enumerate().skip(first).take(share);
            pairs.flat_map(|(i, (pair, spectrum))| tile.correlate(&transform, 2 * i, pair, spectrum, &take)).collect()
        })
        .collect();
    found.into_iter().flatten().collect()
}

/// Spectrum of one patch less i times the other: its conjugate is what the tile's spectrum has to be multiplied with
/// to get the correlation with the first as real and with the second as imaginary part.
fn pair_spectrum(transform: &Transform, pair: &[Kernel]) -> Vec<Complex32> {
    // The inverse transform multiplies by the number of values.
    let factor = 1.0 / transform.len() as f32;
    let mut values = vec![Complex32::default(); transform.len()];
    for (second, kernel) in pair.iter().enumerate() {
        for y in 0..kernel.patch.height {
            for x in 0..kernel.patch.width {
                let value = factor * kernel.value(y * kernel.patch.width + x);
                let at = &mut values[y * transform.width + x];
                if second == 1 { at.im = -value } else { at.re = value }
            }
        }
    }
    let filled = pair.iter().map(|k| k.patch.height).max().unwrap_or(0);
    transform.forward(&mut values, filled, &mut Work::default())
}

/// A part of the drawing and room to work on it.
struct Tile {
    /// Its upper left pixel.
    at: [usize; 2],
    core: [usize; 4],
    extent: [usize; 2],
    spectrum: Vec<Complex32>,
    integral: Integral,
    product: Vec<Complex32>,
    work: Work,
    values: Vec<f32>,
    /// The latest inverse norms, with what they belong to: patches in a row are often alike in size and mask.
    norms: Option<(Vec<Rect>, [usize; 2], Vec<f32>)>,
}

impl Tile {
    fn of(drawing: &GrayImage, grid: &Grid, place: [usize; 2], transform: &Transform) -> Self {
        let extent = extent(drawing);
        let start: [usize; 2] = std::array::from_fn(|i| place[i] * grid.step[i]);
        let end: [usize; 2] = std::array::from_fn(|i| (start[i] + grid.step[i]).min(extent[i]));
        let at = start.map(|v| v.saturating_sub(1));
        let [width, height] = std::array::from_fn(|i| grid.size[i].min(extent[i] - at[i]));
        let mut values = vec![Complex32::default(); transform.len()];
        let row = |y: usize| &drawing.as_raw()[(at[1] + y) * extent[0] + at[0]..][..width];
        // Patches have mean 0, so any level may be taken off the drawing; without its mean rounding errors are least.
        let sum: u64 = (0..height).flat_map(row).map(|&g| u64::from(g)).sum();
        let mean = (sum as f64 / (width * height) as f64) as f32;
        for y in 0..height {
            for (value, &g) in values[y * transform.width..].iter_mut().zip(row(y)) {
                value.re = f32::from(g) - mean;
            }
        }
        let mut work = Work::default();
        let spectrum = transform.forward(&mut values, height, &mut work);
        Self {
            at,
            core: [start[0], start[1], end[0], end[1]],
            extent,
            spectrum,
            integral: Integral::of(drawing, at, width, height),
            product: values,
            work,
            values: Vec::new(),
            norms: None,
        }
    }

    /// Passes the blocks of a pair of kernels, the first of which has index `first`, to `take`.
    fn correlate<R>(
        &mut self,
        transform: &Transform,
        first: usize,
        pair: &[Kernel],
        spectrum: &[Complex32],
        take: &impl Fn(&Block<'_>) -> Vec<R>,
    ) -> Vec<R> {
        // Windows of the core and one more on either side, as far as the drawing goes.
        let span = |k: &Kernel, i: usize| {
            let last = self.extent[i] - [k.patch.width, k.patch.height][i];
            (self.core[i + 2] + 1).min(last + 1).saturating_sub(self.at[i])
        };
        let spans: Vec<[usize; 2]> = pair.iter().map(|k| [span(k, 0), span(k, 1)]).collect();
        let rows = spans.iter().map(|s| s[1]).max().unwrap_or(0);
        if rows == 0 {
            return Vec::new();
        }
        for (product, (a, b)) in self.product.iter_mut().zip(self.spectrum.iter().zip(spectrum)) {
            *product = Complex32::new(a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im);
        }
        let sums = transform.inverse(&mut self.product, rows, &mut self.work);
        let mut out = Vec::new();
        for (second, (kernel, &[columns, rows])) in pair.iter().zip(&spans).enumerate() {
            if columns == 0 || rows == 0 {
                continue;
            }
            let known = self.norms.take().filter(|(rects, span, _)| rects == &kernel.rects && *span == [columns, rows]);
            let norms = known.unwrap_or_else(|| {
                let norms = self.integral.inverse_norms(&kernel.rects, kernel.pixels, columns, rows);
                (kernel.rects.clone(), [columns, rows], norms)
            });
            self.values.clear();
            for (sums, norms) in sums.chunks(transform.width).zip(norms.2.chunks(columns)) {
                if second == 0 {
                    self.values.extend(sums.iter().zip(norms).map(|(s, n)| (s.re * n).clamp(-1.0, 1.0)));
                } else {
                    self.values.extend(sums.iter().zip(norms).map(|(s, n)| (s.im * n).clamp(-1.0, 1.0)));
                }
            }
            self.norms = Some(norms);
            out.extend(take(&Block {
                kernel: first + second,
                at: self.at,
                columns,
                values: &self.values,
                core: self.core,
            }));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and noise.
    fn drawing(width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| {
            let noise = (x * 7919 + y * 104_729 + x * y * 31) % 23;
            let line = (x / 3 + y / 2) % 11 == 0 || x % 37 < 2;
            image::Luma([if line { 20 + noise as u8 } else { 225 + noise as u8 }])
        })
    }

    fn kernel(drawing: &GrayImage, [x, y, w, h]: [usize; 4], hole: bool) -> Kernel {
        let places = (0..h).flat_map(|v| (0..w).map(move |u| (u, v)));
        let grey = places.clone().map(|(u, v)| drawing.get_pixel((x + u) as u32, (y + v) as u32)[0]).collect();
        let inside = places.map(|(u, v)| !hole || u + v > w / 2).collect();
        Kernel::of(Patch { width: w, height: h, grey, inside }).unwrap()
    }

    /// All values by kernel and window, each of which must come once.
    fn all(drawing: &GrayImage, kernels: &[Kernel], limit: usize) -> Vec<Vec<f32>> {
        let take = |b: &Block<'_>| {
            let mut own = Vec::new();
            for (i, &value) in b.values.iter().enumerate() {
                let (x, y) = (b.at[0] + i % b.columns, b.at[1] + i / b.columns);
                let [x0, y0, x1, y1] = b.core;
                if (x0..x1).contains(&x) && (y0..y1).contains(&y) {
                    own.push((b.kernel, x, y, value));
                }
            }
            own
        };
        let spans = kernels.iter().map(|k| extent(drawing)[0] + 1 - k.patch.width).collect::<Vec<_>>();
        let rows = kernels.iter().map(|k| extent(drawing)[1] + 1 - k.patch.height);
        let mut maps: Vec<Vec<f32>> = spans.iter().zip(rows).map(|(w, h)| vec![f32::NAN; w * h]).collect();
        for (kernel, x, y, value) in scan_in(drawing, kernels, take, limit) {
            let at = &mut maps[kernel][y * spans[kernel] + x];
            assert!(at.is_nan(), "window {x}, {y} of kernel {kernel} comes twice");
            *at = value;
        }
        maps
    }

    #[test]
    fn every_window_of_every_tile_is_right() {
        let d = drawing(150, 111);
        let kernels =
            [kernel(&d, [5, 7, 21, 13], false), kernel(&d, [60, 30, 9, 17], true), kernel(&d, [100, 80, 30, 30], true)];
        for limit in [0, 64 * 64, TILE_VALUES] {
            for (kernel, map) in kernels.iter().zip(all(&d, &kernels, limit)) {
                let columns = 151 - kernel.patch.width;
                for (i, value) in map.iter().enumerate() {
                    let exact = kernel.exact(&d, [i % columns, i / columns]);
                    assert!((f64::from(*value) - exact).abs() < 1e-4, "{limit} {i}: {value} {exact}");
                }
            }
        }
        assert_eq!(kernels[0].exact(&d, [5, 7]), 1.0);
        assert!((kernels[1].exact(&d, [60, 30]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn tiles_cover_drawings() {
        for (drawing, most) in
            [([1, 1], [1, 1]), ([20_000, 14_000], [80, 60]), ([300, 200], [300, 5]), ([65, 2000], [3, 900])]
        {
            let g = Grid::of(drawing, most, TILE_VALUES);
            for i in 0..2 {
                assert!(g.step[i] * g.tiles[i] >= drawing[i] && g.step[i] * (g.tiles[i] - 1) < drawing[i], "{g:?}");
                assert!(g.size[i] >= drawing[i] || g.step[i] + most[i] < g.size[i], "{g:?}");
            }
        }
        assert!(Grid::of([20_000, 14_000], [80, 60], TILE_VALUES).size.iter().product::<usize>() <= TILE_VALUES);
    }

    #[test]
    fn flat_windows_are_zero() {
        let mut d = GrayImage::from_pixel(60, 60, image::Luma([240]));
        for i in 0..8 {
            d.put_pixel(30 + i, 30, image::Luma([0]));
        }
        let k = [kernel(&d, [26, 26, 12, 12], false), kernel(&d, [26, 26, 12, 12], true)];
        for map in all(&d, &k, 0) {
            assert!(map.iter().all(|v| v.is_finite()) && map[0] == 0.0);
            assert!(map.iter().any(|v| *v > 0.999));
        }
    }
}
