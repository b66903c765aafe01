//! Loops over bytes and words, written so that the compiler turns them into vectors of whatever width it may use.

use super::{BLOCK, WORDS};

#[inline(always)]
pub(super) fn ink_row(rows: [&[u8]; 5], darkest: u8, faint: u8, relief: u8, out: &mut [u8]) {
    let w = out.len();
    let [far_above, above, row, below, far_below] = rows.map(|r| &r[..w]);
    // Two pixels beside a thin line there is paper again, and beside the rim of a wide one there is not.
    let thin = |v: u8, near: u8, far: u8| (v <= near) & (v.saturating_add(relief) <= far);
    for x in 0..w {
        let v = row[x];
        let lies = thin(v, above[x].min(below[x]), far_above[x].min(far_below[x]));
        out[x] = u8::from((v <= darkest) | ((v <= faint) & lies));
    }
    if w > 4 {
        let (row, out) = (&row[..w], &mut out[2..w - 2]);
        for x in 0..w - 4 {
            let v = row[x + 2];
            let stands = thin(v, row[x + 1].min(row[x + 3]), row[x].min(row[x + 4]));
            out[x] |= u8::from((v <= faint) & stands);
        }
    }
}

#[inline(always)]
pub(super) fn extreme_channel(rgb: &[u8], light: bool, out: &mut [u8]) {
    let pixels = rgb.as_chunks::<3>().0;
    if light {
        for (o, &[r, g, b]) in out.iter_mut().zip(pixels) {
            *o = r.max(g).max(b);
        }
    } else {
        for (o, &[r, g, b]) in out.iter_mut().zip(pixels) {
            *o = r.min(g).min(b);
        }
    }
}

#[inline(always)]
pub(super) fn despeckle(above: &[u8], row: &[u8], below: &[u8], out: &mut [u8]) {
    let w = row.len();
    out.copy_from_slice(row);
    if w < 3 {
        return;
    }
    let three = |r: &[u8], x: usize| r[x] + r[x + 1] + r[x + 2];
    let (above, row, below, out) = (&above[..w], &row[..w], &below[..w], &mut out[1..w - 1]);
    for x in 0..w - 2 {
        let sum = three(above, x) + three(row, x) + three(below, x);
        out[x] = row[x + 1] & u8::from(sum > 2);
    }
}

#[inline(always)]
pub(super) fn pack(row: &[u8], out: &mut [u64]) {
    /// Moves the lowest bits of eight bytes into the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let eight = |b: [u8; 8]| u64::from_le_bytes(b).wrapping_mul(GATHER) >> 56;
    let (whole, rest) = row.as_chunks::<64>();
    for (o, chunk) in out.iter_mut().zip(whole) {
        let mut word = 0;
        for k in 0..8 {
            word |= eight(std::array::from_fn(|i| chunk[8 * k + i])) << (8 * k);
        }
        *o = word;
    }
    if let Some(o) = out.get_mut(whole.len()) {
        *o = rest.iter().enumerate().fold(0, |word, (i, &b)| word | u64::from(b) << i);
    }
    for o in out.iter_mut().skip(whole.len() + 1) {
        *o = 0;
    }
}

#[inline(always)]
fn mix([a, b, c, d, e]: [u8; 5]) -> u8 {
    let [a, b, c, d, e] = [a, b, c, d, e].map(u16::from);
    ((a + e + 4 * (b + d) + 6 * c + 8) / 16) as u8
}

#[inline(always)]
pub(super) fn smooth_row(row: &[u8], out: &mut [u8]) {
    let w = row.len();
    let at = |i: usize, k: usize| row[(i + k).saturating_sub(2).min(w - 1)];
    for x in (0..w.min(2)).chain(w.saturating_sub(2).max(2)..w) {
        out[x] = mix(std::array::from_fn(|k| at(x, k)));
    }
    if w > 4 {
        let (row, out) = (&row[..w], &mut out[2..w - 2]);
        for x in 0..w - 4 {
            out[x] = mix([row[x], row[x + 1], row[x + 2], row[x + 3], row[x + 4]]);
        }
    }
}

#[inline(always)]
pub(super) fn smooth_columns(rows: [&[u8]; 5], out: &mut [u8]) {
    let n = out.len();
    let [a, b, c, d, e] = rows.map(|r| &r[..n]);
    for x in 0..n {
        out[x] = mix([a[x], b[x], c[x], d[x], e[x]]);
    }
}

#[inline(always)]
pub(super) fn to_distance(mask: &[u8], cap: u8, out: &mut [u8]) {
    for (o, &m) in out.iter_mut().zip(mask) {
        *o = if m == 0 { cap } else { 0 };
    }
}

/// `scratch` is as long as the row. Along the row, steps of growing length do what walking from pixel to pixel does,
/// because distances stop growing at the cap; both directions in one go give the nearer side.
#[inline(always)]
pub(super) fn chamfer(row: &mut [u8], neighbour: Option<&[u8]>, cap: u8, scratch: &mut [u8]) {
    let w = row.len();
    if let Some(n) = neighbour {
        let n = &n[..w];
        if w > 2 {
            let inner = &mut row[1..w - 1];
            for x in 0..w - 2 {
                inner[x] = inner[x].min(n[x + 1].saturating_add(3)).min(n[x].min(n[x + 2]).saturating_add(4));
            }
        }
        for x in [0, w - 1] {
            let left = if x > 0 { n[x - 1] } else { cap };
            let right = if x + 1 < w { n[x + 1] } else { cap };
            row[x] = row[x].min(n[x].saturating_add(3)).min(left.min(right).saturating_add(4));
        }
    }
    let scratch = &mut scratch[..w];
    let mut step = 1;
    while step < w && 3 * step < usize::from(cap) {
        let cost = 3 * step as u8;
        scratch.copy_from_slice(row);
        let n = w - step;
        for (r, s) in row[..n].iter_mut().zip(&scratch[step..]) {
            *r = (*r).min(s.saturating_add(cost));
        }
        for (r, s) in row[step..].iter_mut().zip(&scratch[..n]) {
            *r = (*r).min(s.saturating_add(cost));
        }
        step *= 2;
    }
}

#[inline(always)]
pub(super) fn square(row: &[u8], out: &mut [u8]) {
    for (o, &v) in out.iter_mut().zip(row) {
        *o = v.wrapping_mul(v);
    }
}

#[inline(always)]
pub(super) fn unite(row: &[u64], into: &mut [u64]) {
    for (o, &v) in into.iter_mut().zip(row) {
        *o |= v;
    }
}

#[expect(clippy::needless_range_loop, reason = "four slices run along, some of them shifted")]
#[inline(always)]
pub(super) fn grow(left: &[u32], words: &[u32], right: &[u32], out: &mut [u32]) {
    let n = out.len();
    let (left, words, right) = (&left[..n], &words[..n], &right[..n]);
    let wide = |y: usize| words[y] | words[y] << 1 | left[y] >> 31 | words[y] >> 1 | right[y] << 31;
    for y in 1..n.saturating_sub(1) {
        out[y] = wide(y - 1) | wide(y) | wide(y + 1);
    }
    for y in [0, n - 1] {
        out[y] = wide(y.saturating_sub(1)) | wide(y) | wide((y + 1).min(n - 1));
    }
}

#[inline(always)]
pub(super) fn shift(words: &[u32], right: &[u32], shift: u32, out: &mut [u32]) {
    let n = out.len();
    let (words, right) = (&words[..n], &right[..n]);
    for y in 0..n {
        out[y] = words[y] >> shift | (right[y] << 1) << (31 - shift);
    }
}

/// `out` is as long as `words`, so that sums can be built in place; its last 15 entries are not complete.
#[inline(always)]
pub(super) fn available(words: &[u64], out: &mut [u16]) {
    for (o, w) in out.iter_mut().zip(words) {
        *o = w.count_ones() as u16;
    }
    let n = out.len();
    // Sums of 2, 4, 8 and 16: what lies ahead is not yet changed when it is added.
    const { assert!(WORDS == 16) };
    for i in 0..n.saturating_sub(1) {
        out[i] += out[i + 1];
    }
    for i in 0..n.saturating_sub(2) {
        out[i] += out[i + 2];
    }
    for i in 0..n.saturating_sub(4) {
        out[i] += out[i + 4];
    }
    for i in 0..n.saturating_sub(8) {
        out[i] += out[i + 8];
    }
}

#[inline(always)]
pub(super) fn most_of_blocks(sums: &[u16], out: &mut [u16]) {
    for (o, block) in out.iter_mut().zip(sums.chunks(BLOCK)) {
        *o = block.iter().fold(*o, |m, &v| m.max(v));
    }
}

#[inline(always)]
pub(super) fn unite_windows(left: &[u64], right: &[u64], even: &mut [u64], odd: &mut [u64]) {
    let (left, right) = (left.as_chunks::<2>().0, right.as_chunks::<2>().0);
    let n = left.len() - 1;
    let (left, right, even, odd) = (&left[..=n], &right[..=n], &mut even[..n], &mut odd[..n]);
    for i in 0..n {
        let (low, high) = (left[i][0] | right[i][0], left[i][1] | right[i][1]);
        even[i] = low | high;
        odd[i] = high | left[i + 1][0] | right[i + 1][0];
    }
}
