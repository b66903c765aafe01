//! Matrix product with a packed right side: `C = A B` or `C += A B`.
//!
//! A is read in place, one number at a time (any two strides, so transposed and overlapping rows cost nothing); B is
//! packed into panels of 32 columns; C is row-major with a pitch. Each number of C is one sum in the order of k, so the
//! result does not depend on how callers cut the rows.
#![expect(unsafe_code, reason = "the inner loop reads through pointers that are checked once, before the loops")]

use super::{
    Write,
    simd::{Simd, kernel, lanes, lanes_mut},
    storage::LANES,
};

/// Columns of a panel.
const PANEL: usize = 2 * LANES;
/// Numbers of A that are worked on before the next panel of B (128 KB, well inside a second-level cache).
const BLOCK: usize = 32 * 1024;

/// Numbers that B with `k` rows and `n` columns takes when packed.
pub(crate) fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(LANES)
}

/// Where the sixteen numbers from column `j` (a multiple of 16) of row `p` lie in a packed B.
#[inline(always)]
pub(crate) fn packed_index(k: usize, n: usize, p: usize, j: usize) -> usize {
    let panel = j / PANEL * PANEL;
    let width = PANEL.min(n.next_multiple_of(LANES) - panel);
    panel * k + p * width + (j - panel)
}

/// Packs row-major B (`k` rows of `n` numbers, `pitch` apart).
pub(crate) fn pack(b: &[f32], pitch: usize, k: usize, n: usize, packed: &mut [f32]) {
    for p in 0..k {
        let row = &b[p * pitch..p * pitch + n];
        for j in (0..n).step_by(LANES) {
            let to = &mut packed[packed_index(k, n, p, j)..][..LANES];
            if let Some(from) = row.get(j..j + LANES) {
                to.copy_from_slice(from);
            } else {
                to[..n - j].copy_from_slice(&row[j..]);
                to[n - j..].fill(0.0);
            }
        }
    }
}

/// Packs the transpose: B has `k` rows and `n` columns, and number (p, j) is `b[j * pitch + p]`.
pub(crate) fn pack_transposed(b: &[f32], pitch: usize, k: usize, n: usize, packed: &mut [f32]) {
    for j in (0..n).step_by(LANES) {
        let columns = LANES.min(n - j);
        for p in 0..k {
            let to = &mut packed[packed_index(k, n, p, j)..][..LANES];
            for (i, to) in to.iter_mut().enumerate() {
                *to = if i < columns { b[(j + i) * pitch + p] } else { 0.0 };
            }
        }
    }
}

/// The left side: number (i, p) is `data[i * row + p * column]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// Sizes of a product: A is m x k, B is k x n.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// `C (+)= A B`; C has rows of `n` numbers, `pitch` apart.
pub(crate) fn gemm(Sizes { m, n, k }: Sizes, a: Left<'_>, b: &[f32], c: &mut [f32], pitch: usize, write: Write) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0 && pitch >= n, "a product has an inner size and rows that do not overlap");
    assert!((m - 1) * a.row + (k - 1) * a.column < a.data.len(), "A is inside its array");
    assert!(packed_len(k, n) <= b.len(), "B is inside its array");
    assert!((m - 1) * pitch + n <= c.len(), "C is inside its array");
    let job = Job { m, n, k, pitch, add: write == Write::Add };
    if a.row == 1 {
        product_transposed(job, a.data, a.column, b, c);
    } else {
        product(job, a.data, a.row, a.column, b, c);
    }
}

#[derive(Clone, Copy)]
struct Job {
    m: usize,
    n: usize,
    k: usize,
    pitch: usize,
    add: bool,
}

kernel! {
    fn product<'a>(simd; job: Job, a: &'a [f32], row: usize, column: usize, b: &'a [f32], c: &'a mut [f32]) -> () {
        // Literal strides of 1 let the compiler fold the addresses.
        if column == 1 {
            panels(simd, job, a.as_ptr(), row, 1, b, c);
        } else {
            panels(simd, job, a.as_ptr(), row, column, b, c);
        }
    }
}

kernel! {
    fn product_transposed<'a>(simd; job: Job, a: &'a [f32], column: usize, b: &'a [f32], c: &'a mut [f32]) -> () {
        panels(simd, job, a.as_ptr(), 1, column, b, c);
    }
}

#[inline(always)]
fn panels<S: Simd>(simd: S, job: Job, a: *const f32, row: usize, column: usize, b: &[f32], c: &mut [f32]) {
    let Job { m, n, k, pitch, add } = job;
    let block = (BLOCK / k).next_multiple_of(12);
    let mut first = 0;
    while first < m {
        let last = (first + block).min(m);
        for j in (0..n).step_by(PANEL) {
            let panel = &b[packed_index(k, n, 0, j)..];
            let columns = PANEL.min(n - j);
            let mut i = first;
            while i < last {
                // SAFETY: rows up to m and columns up to k of A were checked by the caller.
                let a = unsafe { a.add(i * row) };
                let left = Pointer { a, row, column, k };
                let c = &mut c[i * pitch + j..];
                let out = Out { pitch, columns, add };
                i += if columns > LANES {
                    if S::MANY_REGISTERS {
                        match last - i {
                            12.. => tile::<S, 12, 2>(simd, left, panel, PANEL, c, out),
                            8.. => tile::<S, 8, 2>(simd, left, panel, PANEL, c, out),
                            4.. => tile::<S, 4, 2>(simd, left, panel, PANEL, c, out),
                            2.. => tile::<S, 2, 2>(simd, left, panel, PANEL, c, out),
                            _ => tile::<S, 1, 2>(simd, left, panel, PANEL, c, out),
                        }
                    } else {
                        let low = Out { columns: LANES, ..out };
                        let high = Out { columns: columns - LANES, ..out };
                        let (panel_high, rows) = (&panel[LANES..], last - i);
                        narrow(simd, rows, left, panel, PANEL, c, low);
                        narrow(simd, rows, left, panel_high, PANEL, &mut c[LANES..], high)
                    }
                } else {
                    narrow(simd, last - i, left, panel, LANES, c, out)
                };
            }
        }
        first = last;
    }
}

/// A tile of one vector's width; returns how many rows it covered.
#[inline(always)]
fn narrow<S: Simd>(simd: S, rows: usize, left: Pointer, panel: &[f32], width: usize, c: &mut [f32], out: Out) -> usize {
    if S::MANY_REGISTERS && rows >= 12 {
        return tile::<S, 12, 1>(simd, left, panel, width, c, out);
    }
    match rows {
        6.. => tile::<S, 6, 1>(simd, left, panel, width, c, out),
        4.. => tile::<S, 4, 1>(simd, left, panel, width, c, out),
        2.. => tile::<S, 2, 1>(simd, left, panel, width, c, out),
        _ => tile::<S, 1, 1>(simd, left, panel, width, c, out),
    }
}

#[derive(Clone, Copy)]
struct Pointer {
    a: *const f32,
    row: usize,
    column: usize,
    k: usize,
}

#[derive(Clone, Copy)]
struct Out {
    pitch: usize,
    columns: usize,
    add: bool,
}

/// ROWS x (COLUMNS vectors) of C, kept in registers over all of k.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize, const COLUMNS: usize>(
    simd: S,
    left: Pointer,
    panel: &[f32],
    width: usize,
    c: &mut [f32],
    out: Out,
) -> usize {
    let mut sums = [[simd.splat(0.0); COLUMNS]; ROWS];
    let mut b = panel.as_ptr();
    let mut a = left.a;
    assert!((left.k - 1) * width + COLUMNS * LANES <= panel.len());
    for _ in 0..left.k {
        // SAFETY: b stays inside the panel (asserted above), a inside A (asserted by `gemm`).
        unsafe {
            let mut right = [simd.splat(0.0); COLUMNS];
            for (j, right) in right.iter_mut().enumerate() {
                *right = simd.load(&*b.add(j * LANES).cast());
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // Wrapping: an overflow check in here would more than double the time of a development build.
                let x = simd.splat(*a.add(i.wrapping_mul(left.row)));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = simd.mul_add(x, right, *sum);
                }
            }
            b = b.wrapping_add(width);
            a = a.wrapping_add(left.column);
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let row = &mut c[i * out.pitch..i * out.pitch + out.columns];
        for (j, sum) in sums.into_iter().enumerate() {
            if (j + 1) * LANES <= out.columns {
                let to = lanes_mut(row, j * LANES);
                let sum = if out.add { simd.add(simd.load(to), sum) } else { sum };
                simd.store(sum, to);
            } else {
                let to = &mut row[j * LANES..];
                let sum = if out.add { simd.add(simd.load_part(to), sum) } else { sum };
                simd.store_part(sum, to);
            }
        }
    }
    ROWS
}

/// Adds the `n` columns of rows `pitch` apart, in the order of the rows: `sums[j] += sum of b[i * pitch + j]`.
pub(crate) fn add_columns(b: &[f32], pitch: usize, sums: &mut [f32]) {
    for row in b.chunks(pitch) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}

kernel! {
    /// `to += from`
    pub(crate) fn add_assign<'a>(simd; from: &'a [f32], to: &'a mut [f32]) -> () {
        assert_eq!(from.len(), to.len());
        let whole = to.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let to = lanes_mut(to, i);
            simd.store(simd.add(simd.load(to), simd.load(lanes(from, i))), to);
        }
        for (to, &from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to += from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::{Kernel, with_each};

    #[derive(Clone)]
    struct Each<'a> {
        job: Job,
        a: Left<'a>,
        b: &'a [f32],
        c: &'a [f32],
    }
    impl Kernel for Each<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut c = self.c.to_vec();
            panels(simd, self.job, self.a.data.as_ptr(), self.a.row, self.a.column, self.b, &mut c);
            c
        }
    }

    /// Whole numbers small enough that every sum is exact.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| (((i + seed) * 7919 % 31) as f32) - 15.0).collect()
    }

    #[test]
    fn equals_the_definition() {
        for (m, n, k) in
            [(1, 1, 1), (13, 16, 5), (12, 32, 7), (25, 33, 9), (37, 72, 3), (7, 8, 40), (100, 100, 11), (11, 48, 2)]
        {
            for transposed in [false, true] {
                let (row, column) = if transposed { (1, m + 3) } else { (k + 2, 1) };
                let data = numbers((m - 1) * row + (k - 1) * column + 1, 1);
                let a = Left { data: &data, row, column };
                let rows = numbers(k * n, 2);
                let mut b = vec![f32::NAN; packed_len(k, n)];
                pack(&rows, n, k, n, &mut b);
                let flipped: Vec<f32> = (0..n * k).map(|i| rows[i % k * n + i / k]).collect();
                let mut other = vec![f32::NAN; packed_len(k, n)];
                pack_transposed(&flipped, k, k, n, &mut other);
                assert_eq!(b, other);
                let pitch = n + 5;
                let start = numbers(m * pitch, 3);
                for add in [false, true] {
                    let job = Job { m, n, k, pitch, add };
                    let mut results = with_each(&Each { job, a, b: &b, c: &start });
                    let mut c = start.clone();
                    gemm(Sizes { m, n, k }, a, &b, &mut c, pitch, if add { Write::Add } else { Write::Replace });
                    results.push(c);
                    for c in results {
                        for (index, &got) in c.iter().enumerate() {
                            let (i, j) = (index / pitch, index % pitch);
                            let product: f32 =
                                (0..k).map(|p| data[i * row + p * column] * rows[p * n + j.min(n - 1)]).sum();
                            let before = start[index];
                            let expected = if j >= n { before } else { product + if add { before } else { 0.0 } };
                            assert_eq!(got, expected, "{m} {n} {k} at {i} {j}");
                        }
                    }
                }
            }
        }
    }
}
