//! Levels of a plane at placed points, and sums over them, written so that the compiler turns them into vectors of
//! whatever width it may use. Sums are kept in a fixed number of lanes, so that their order does not depend on it.

use super::{Affine, Cloud, MOTIONS, NORMAL, POINTS, Plane};

/// Points of a pass: what the next pass reads stays in the first-level cache, and is written when it is read.
const PASS: usize = 128;

/// Between four pixels, whose centres are at halves; 0 where one of them is outside. With the slopes to the right and
/// downwards, where there is room for them.
#[inline(always)]
fn sample(plane: &Plane, cloud: &Cloud, pose: &Affine, out: &mut [f32], mut slopes: Option<[&mut [f32]; 2]>) {
    plane.check();
    out.fill(0.0);
    slopes.iter_mut().flatten().for_each(|slopes| slopes.fill(0.0));
    let (w, h) = (plane.width, plane.height);
    if w < 2 || h < 2 {
        return;
    }
    let end = [(w - 1) as f32, (h - 1) as f32];
    let (mut index, mut pairs) = ([0i32; PASS], [[0u16; PASS]; 2]);
    let mut shares = [[0.0f32; PASS]; 3];
    for (pass, ((x, y), out)) in cloud.x.chunks(PASS).zip(cloud.y.chunks(PASS)).zip(out.chunks_mut(PASS)).enumerate() {
        // Slices of one length keep the checks of bounds out of the loops.
        let n = x.len();
        let (x, y, out, index) = (&x[..n], &y[..n], &mut out[..n], &mut index[..n]);
        let [right, down, inside] = shares.each_mut().map(|s| &mut s[..n]);
        let [top, bottom] = pairs.each_mut().map(|p| &mut p[..n]);
        for k in 0..n {
            let place = |i: usize| pose.at[i] + x[k] * pose.x[i] + y[k] * pose.y[i] - 0.5;
            let (u, v) = (place(0), place(1));
            let within = (u >= 0.0) & (v >= 0.0) & (u < end[0]) & (v < end[1]);
            let bounded = |v: f32| if within { v } else { 0.0 };
            let (u, v) = (bounded(u), bounded(v));
            // SAFETY: places inside of a plane are small and not negative.
            let (column, row) = unsafe { (u.to_int_unchecked::<i32>(), v.to_int_unchecked::<i32>()) };
            index[k] = row * w as i32 + column;
            right[k] = u - column as f32;
            down[k] = v - row as f32;
            inside[k] = if within { 1.0 } else { 0.0 };
        }
        for k in 0..n {
            let i = index[k] as usize;
            // SAFETY: column and row are at most the last but one of a plane whose length was checked.
            let pair = |i: usize| u16::from_le(unsafe { plane.bytes.as_ptr().add(i).cast::<u16>().read_unaligned() });
            (top[k], bottom[k]) = (pair(i), pair(i + w));
        }
        let levels = |pair: u16| (f32::from(pair & 255), f32::from(pair >> 8));
        for k in 0..n {
            let level = |pair: u16| {
                let (left, next) = levels(pair);
                left + right[k] * (next - left)
            };
            let (top, bottom) = (level(top[k]), level(bottom[k]));
            out[k] = inside[k] * (top + down[k] * (bottom - top));
        }
        if let Some(slopes) = &mut slopes {
            let [to_right, to_bottom] = slopes.each_mut().map(|s| &mut s[pass * PASS..][..n]);
            for k in 0..n {
                let ((a, b), (c, d)) = (levels(top[k]), levels(bottom[k]));
                let (above, below) = (b - a, d - c);
                to_right[k] = inside[k] * (above + down[k] * (below - above));
                to_bottom[k] = inside[k] * (c - a + right[k] * (below - above));
            }
        }
    }
}

/// Levels alone.
#[inline(always)]
pub(super) fn between(plane: &Plane, cloud: &Cloud, pose: &Affine, out: &mut [f32]) {
    sample(plane, cloud, pose, out, None);
}

/// Levels and slopes.
#[inline(always)]
pub(super) fn between_with_slopes(plane: &Plane, cloud: &Cloud, pose: &Affine, [out, right, down]: &mut [Vec<f32>; 3]) {
    sample(plane, cloud, pose, out, Some([right, down]));
}

/// In the pixel where a point lies.
#[inline(always)]
pub(super) fn nearest(plane: &Plane, outside: u8, cloud: &Cloud, pose: &Affine, out: &mut [f32]) {
    plane.check();
    out.fill(f32::from(outside));
    let end = [plane.width as f32, plane.height as f32];
    if plane.bytes.is_empty() {
        return;
    }
    let (mut index, mut inside, mut found) = ([0i32; PASS], [0u8; PASS], [0u8; PASS]);
    for ((x, y), out) in cloud.x.chunks(PASS).zip(cloud.y.chunks(PASS)).zip(out.chunks_mut(PASS)) {
        let n = x.len();
        let (x, y, out, index) = (&x[..n], &y[..n], &mut out[..n], &mut index[..n]);
        let (inside, found) = (&mut inside[..n], &mut found[..n]);
        for k in 0..n {
            let place = |i: usize| pose.at[i] + x[k] * pose.x[i] + y[k] * pose.y[i];
            let (u, v) = (place(0), place(1));
            let within = (u >= 0.0) & (v >= 0.0) & (u < end[0]) & (v < end[1]);
            let bounded = |v: f32| if within { v } else { 0.0 };
            let (u, v) = (bounded(u), bounded(v));
            // SAFETY: places inside of a plane are small and not negative.
            let (column, row) = unsafe { (u.to_int_unchecked::<i32>(), v.to_int_unchecked::<i32>()) };
            index[k] = row * plane.width as i32 + column;
            inside[k] = u8::from(within);
        }
        for k in 0..n {
            // SAFETY: column and row are inside of a plane whose length was checked.
            found[k] = unsafe { *plane.bytes.get_unchecked(index[k] as usize) };
        }
        for k in 0..n {
            out[k] = f32::from(if inside[k] == 1 { found[k] } else { outside });
        }
    }
}

/// Sums of weight times level, of weight times squared level, and of weighted template times level.
#[inline(always)]
pub(super) fn moments(weights: &[f32], weighted: &[f32], levels: &[f32], out: &mut [f32; 3]) {
    let mut lanes = [[0.0f32; POINTS]; 3];
    let points = |v| <[f32]>::as_chunks::<POINTS>(v).0;
    for ((w, a), b) in points(weights).iter().zip(points(weighted)).zip(points(levels)) {
        for l in 0..POINTS {
            let wb = w[l] * b[l];
            lanes[0][l] += wb;
            lanes[1][l] += wb * b[l];
            lanes[2][l] += a[l] * b[l];
        }
    }
    for (out, lanes) in out.iter_mut().zip(&lanes) {
        *out = sum(lanes);
    }
}

/// The sum of lanes, always in the same order.
#[inline(always)]
fn sum(lanes: &[f32; POINTS]) -> f32 {
    let (mut eight, mut four) = ([0.0f32; 8], [0.0f32; 4]);
    for l in 0..8 {
        eight[l] = lanes[l] + lanes[l + 8];
    }
    for l in 0..4 {
        four[l] = eight[l] + eight[l + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// What the levels at the points change by when the pose moves, multiplied with each other and with all else.
#[inline(always)]
pub(super) fn normal(
    cloud: &Cloud,
    pose: &Affine,
    weights: &[f32],
    weighted: &[f32],
    sampled: &[Vec<f32>; 3],
    out: &mut [f32; NORMAL],
) {
    let mut lanes = [[0.0f32; POINTS]; NORMAL];
    let points = |v| <[f32]>::as_chunks::<POINTS>(v).0;
    let [levels, right, down] = sampled.each_ref().map(|v| points(v));
    let (x, y, weights, weighted) = (points(&cloud.x), points(&cloud.y), points(weights), points(weighted));
    let n = x.len();
    let (y, weights, weighted, levels) = (&y[..n], &weights[..n], &weighted[..n], &levels[..n]);
    let (right, down) = (&right[..n], &down[..n]);
    for i in 0..n {
        let (levels, weighted) = (levels[i], weighted[i]);
        let mut columns = [[0.0f32; POINTS]; MOTIONS];
        let mut weighed = [[0.0f32; POINTS]; MOTIONS];
        for l in 0..POINTS {
            // Where the point went along the template's axes. No arrays' functions here: they stay calls.
            let (ax, ay) = (x[i][l] * pose.x[0], y[i][l] * pose.y[0]);
            let (bx, by) = (x[i][l] * pose.x[1], y[i][l] * pose.y[1]);
            let (u, v) = (ax + ay, bx + by);
            let (gx, gy) = (right[i][l], down[i][l]);
            let stretched = gx * (ax - ay) + gy * (bx - by);
            let motions = [gx, gy, gx * u + gy * v, 0.5 * stretched, gy * u - gx * v];
            for k in 0..MOTIONS {
                columns[k][l] = motions[k];
                weighed[k][l] = weights[i][l] * motions[k];
            }
        }
        for k in 0..MOTIONS {
            // Bounds that do not depend on `k` let the compiler lay out all of it.
            let first = k * (k + 1) / 2 + 3 * k;
            for (j, column) in columns.iter().enumerate() {
                if j <= k {
                    add_products(&mut lanes[first + j], &weighed[k], column);
                }
            }
            let next = first + k + 1;
            add_products(&mut lanes[next], &weighed[k], &[1.0; POINTS]);
            add_products(&mut lanes[next + 1], &weighed[k], &levels);
            add_products(&mut lanes[next + 2], &columns[k], &weighted);
        }
    }
    for (out, lanes) in out.iter_mut().zip(&lanes) {
        *out = sum(lanes);
    }
}

#[inline(always)]
fn add_products(sums: &mut [f32; POINTS], a: &[f32; POINTS], b: &[f32; POINTS]) {
    for l in 0..POINTS {
        sums[l] += a[l] * b[l];
    }
}
