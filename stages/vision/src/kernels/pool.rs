//! Doubling of cells and maxima over windows, with their adjoints.

use super::{Extent, Write, number::Number, simd::kernel, storage::LANES};

/// Side of the maximum's window.
pub(crate) const WINDOW: usize = 5;

/// Writes each input cell to a square of 2 x 2 output cells.
pub(crate) fn upsample<E: Number>(x: &[E], from: Extent, out: &mut [E], pitch: usize) {
    let (channels, width) = (from.channels, 2 * from.width);
    for (oy, row) in out.chunks_mut(width * pitch).enumerate() {
        let source = &x[oy / 2 * from.width * from.pitch..];
        for (ox, cell) in row.chunks_mut(pitch).enumerate() {
            let start = ox / 2 * from.pitch;
            cell[..channels].copy_from_slice(&source[start..start + channels]);
        }
    }
}

kernel! {
    /// The adjoint of [`upsample`]: each input cell gets the sum of its four output cells' gradients.
    pub(crate) fn upsample_backward<'a; E>(simd; gradient: &'a [E], pitch: usize, dx: &'a mut [E], from: Extent, write: Write) -> () {
        let (channels, width) = (from.channels, 2 * from.width);
        for (y, row) in dx.chunks_mut(from.width * from.pitch).enumerate() {
            for (x, cell) in row.chunks_mut(from.pitch).enumerate() {
                let corner = (2 * y * width + 2 * x) * pitch;
                for j in (0..channels).step_by(LANES) {
                    let len = LANES.min(channels - j);
                    let mut sum = simd.splat(0.0);
                    for at in [corner, corner + pitch, corner + width * pitch, corner + (width + 1) * pitch] {
                        sum = simd.add(sum, E::get(simd, gradient, at + j, len));
                    }
                    let sum = if write == Write::Add { simd.add(E::get(simd, cell, j, len), sum) } else { sum };
                    E::put(simd, sum, cell, j, len);
                }
            }
        }
    }
}

/// The rows or columns that the window around `centre` covers.
fn reach(centre: usize, size: usize) -> std::ops::Range<usize> {
    centre.saturating_sub(WINDOW / 2)..(centre + WINDOW / 2 + 1).min(size)
}

kernel! {
    /// The largest number of the window around each cell, from channel offset `from` to offset `to` of the same map.
    pub(crate) fn max_pool<'a; E>(simd; map: &'a mut [E], extent: Extent, from: usize, to: usize) -> () {
        let Extent { height, width, channels, pitch } = extent;
        for y in 0..height {
            for x in 0..width {
                for j in (0..channels).step_by(LANES) {
                    let len = LANES.min(channels - j);
                    let mut best = simd.splat(f32::NEG_INFINITY);
                    for wy in reach(y, height) {
                        for wx in reach(x, width) {
                            best = simd.max(E::get(simd, map, (wy * width + wx) * pitch + from + j, len), best);
                        }
                    }
                    E::put(simd, best, map, (y * width + x) * pitch + to + j, len);
                }
            }
        }
    }
}

kernel! {
    /// The adjoint of [`max_pool`]: adds each gradient at offset `to` to the first cell (in reading order) that holds the
    /// maximum, at offset `from`.
    pub(crate) fn max_pool_backward<'a; E>(simd; map: &'a [E], gradient: &'a mut [E], extent: Extent, from: usize, to: usize) -> () {
        let _ = simd;
        let Extent { height, width, channels, pitch } = extent;
        for y in 0..height {
            for x in 0..width {
                for j in (0..channels).step_by(LANES) {
                    let len = LANES.min(channels - j);
                    let cell = (y * width + x) * pitch + to + j;
                    let (mut best, mut left) = ([E::zeroed(); LANES], [E::zeroed(); LANES]);
                    best[..len].copy_from_slice(&map[cell..cell + len]);
                    left[..len].copy_from_slice(&gradient[cell..cell + len]);
                    for wy in reach(y, height) {
                        for wx in reach(x, width) {
                            let at = (wy * width + wx) * pitch + from + j;
                            let (values, sums) = (&map[at..at + len], &mut gradient[at..at + len]);
                            for i in 0..len {
                                let give = if values[i] == best[i] { left[i] } else { E::zeroed() };
                                sums[i] = E::from_f32(sums[i].to_f32() + give.to_f32());
                                left[i] = E::from_f32(left[i].to_f32() - give.to_f32());
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upsample_doubles_and_backward_is_its_adjoint() {
        let from = Extent { height: 2, width: 3, channels: 5, pitch: 7 };
        let x: Vec<f32> = (0..from.cells() * 7).map(|i| (i * 31 % 17) as f32).collect();
        let mut out = vec![-1.0; 4 * from.cells() * 6];
        upsample(&x, from, &mut out, 6);
        assert_eq!(out[((3 * 6) + 5) * 6 + 4], x[(3 + 2) * 7 + 4]);
        assert_eq!(out[5], -1.0);
        let g: Vec<f32> = (0..out.len()).map(|i| (i * 13 % 7) as f32).collect();
        let mut dx = vec![100.0; x.len()];
        upsample_backward(&g, 6, &mut dx, from, Write::Replace);
        let dot = |a: &[f32], b: &[f32], pitch: usize| -> f32 {
            a.iter().zip(b).enumerate().filter(|(i, _)| i % pitch < 5).map(|(_, (a, b))| a * b).sum()
        };
        assert_eq!(dot(&out, &g, 6), dot(&x, &dx, 7));
        assert_eq!(dx[6], 100.0);
    }

    #[test]
    fn maximum_and_its_gradient() {
        let extent = Extent { height: 7, width: 6, channels: 18, pitch: 40 };
        // Distinct values in a scrambled order, so that each window has one maximum.
        let mut map: Vec<f32> = (0..extent.cells() * 40).map(|i| (i * 7919 % 10007) as f32).collect();
        max_pool(&mut map, extent, 1, 20);
        let mut gradient = vec![0.0; map.len()];
        let mut expected = gradient.clone();
        for (y, x, c) in (0..7 * 6 * 18).map(|i| (i / 108, i / 18 % 6, i % 18)) {
            let window = reach(y, 7).flat_map(|wy| reach(x, 6).map(move |wx| (wy * 6 + wx) * 40 + 1 + c));
            let best = window.max_by(|&a, &b| map[a].total_cmp(&map[b])).unwrap();
            let cell = (y * 6 + x) * 40 + 20 + c;
            assert_eq!(map[cell], map[best]);
            gradient[cell] = (cell % 13) as f32;
            expected[cell] = gradient[cell];
            expected[best] += gradient[cell];
        }
        max_pool_backward(&map, &mut gradient, extent, 1, 20);
        assert_eq!(gradient, expected);
    }
}
