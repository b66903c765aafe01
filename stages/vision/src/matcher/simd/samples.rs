//! Levels of a plane at placed points, and sums over them, written so that the compiler turns them into vectors of
//! whatever width it may use. Sums are kept in a fixed number of lanes, so that their order does not depend on it.

use super::{Affine, Cloud, POINTS, Plane};

/// Points of a pass: what the next pass reads stays in the first-level cache, and is written when it is read.
const PASS: usize = 128;

/// Between four pixels, whose centres are at halves; 0 where one of them is outside.
#[inline(always)]
pub(super) fn between(plane: &Plane, cloud: &Cloud, pose: &Affine, out: &mut [f32]) {
    plane.check();
    out.fill(0.0);
    let (w, h) = (plane.width, plane.height);
    if w < 2 || h < 2 {
        return;
    }
    let end = [(w - 1) as f32, (h - 1) as f32];
    let (mut index, mut pairs) = ([0i32; PASS], [[0u16; PASS]; 2]);
    let mut shares = [[0.0f32; PASS]; 3];
    for ((x, y), out) in cloud.x.chunks(PASS).zip(cloud.y.chunks(PASS)).zip(out.chunks_mut(PASS)) {
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
        for k in 0..n {
            let level = |pair: u16| {
                let (left, next) = (f32::from(pair & 255), f32::from(pair >> 8));
                left + right[k] * (next - left)
            };
            let (top, bottom) = (level(top[k]), level(bottom[k]));
            out[k] = inside[k] * (top + down[k] * (bottom - top));
        }
    }
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
    for (out, mut lanes) in out.iter_mut().zip(lanes) {
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lanes[l] += lanes[l + half];
            }
        }
        *out = lanes[0];
    }
}
