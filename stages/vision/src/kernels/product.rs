//! Matrix product with a packed right side: `C = A B` or `C += A B`, on words that are one 32-bit number or two 16-bit
//! ones; sums are in 32 bits.
//!
//! A is read in place through a few strides, so that the windows of a convolution are rows of A without being copied; B
//! is packed into panels of 32 columns; C has two strides. Each number of C is one sum in a fixed order, so the result
//! does not depend on how callers cut the rows.
#![expect(unsafe_code, reason = "the inner loop reads through pointers that are checked once, before the loops")]

use super::{
    Write,
    number::Number,
    simd::{Simd, kernel},
    storage::LANES,
};

/// Columns of a panel.
const PANEL: usize = 2 * LANES;

/// Words that B with `k` rows of words and `n` columns takes when packed.
pub(crate) fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(LANES)
}

/// Where the sixteen words from column `j` (a multiple of 16) of row `p` lie in a packed B.
#[inline(always)]
pub(crate) fn packed_index(k: usize, n: usize, p: usize, j: usize) -> usize {
    let panel = j / PANEL * PANEL;
    let width = PANEL.min(n.next_multiple_of(LANES) - panel);
    panel * k + p * width + (j - panel)
}

/// A row of B that holds zeros.
pub(crate) const ZERO_ROW: usize = usize::MAX;

kernel! {
    /// Packs B whose row `p` is the `n` numbers from `starts[p]` ([`ZERO_ROW`]: zeros), rounded to the kind of the right
    /// side; two rows make a row of words if two numbers make a word. `marker` only names that kind.
    pub(crate) fn pack<'a; From, E>(simd; b: &'a [From], starts: &'a [usize], n: usize, packed: &'a mut [u32], marker: [E; 0]) -> () {
        let _ = marker;
        let k = starts.len().div_ceil(E::PER_WORD);
        for (p, rows) in starts.chunks(E::PER_WORD).enumerate() {
            for j in (0..n).step_by(LANES) {
                let mut values = [simd.splat(0.0); 2];
                for (value, &start) in values.iter_mut().zip(rows) {
                    if start != ZERO_ROW {
                        *value = From::get(simd, b, start + j, LANES.min(n - j));
                    }
                }
                let to = &mut packed[packed_index(k, n, p, j)..][..LANES];
                simd.store_words(E::words(simd, values[0], values[1]), to.try_into().expect("a slice of sixteen"));
            }
        }
    }
}

/// The left side in words: number (line l, i; step s, p) is `words[lines[l] + i * row + steps[s] + p * column]`. Rows of A
/// are all (l, i), columns all (s, p).
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub words: &'a [u32],
    /// Where the lines of rows start.
    pub lines: &'a [usize],
    /// From a row to the next of the same line.
    pub row: usize,
    /// Where the stretches of columns start.
    pub steps: &'a [usize],
    /// From a column to the next of the same stretch.
    pub column: usize,
}

/// Sizes of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Rows of a line.
    pub m: usize,
    pub n: usize,
    /// Columns of a stretch.
    pub k: usize,
}

/// Where C lies: numbers from one line to the next, and from one row to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pitch {
    pub line: usize,
    pub row: usize,
}

/// `C (+)= A B` with operands of kind E; C begins at its first number.
pub(crate) fn product<E: Number, C: Number>(
    sizes: Sizes,
    left: Left<'_>,
    b: &[u32],
    c: &mut [C],
    pitch: Pitch,
    write: Write,
    _: [E; 0],
) {
    let Sizes { m, n, k } = sizes;
    if m == 0 || n == 0 || left.lines.is_empty() {
        return;
    }
    let largest = |list: &[usize]| list.iter().copied().max().expect("a product has lines and columns");
    let last = largest(left.lines) + largest(left.steps) + (m - 1) * left.row + (k - 1) * left.column;
    assert!(k > 0 && last < left.words.len(), "A is inside its array");
    assert!(packed_len(k * left.steps.len(), n) <= b.len(), "B is inside its array");
    assert!((left.lines.len() - 1) * pitch.line + (m - 1) * pitch.row + n <= c.len(), "C is inside its array");
    let job = Job { sizes, left, pitch, add: write == Write::Add };
    if left.column == 1 {
        along_rows::<E, C>(job, b, c, []);
    } else {
        along_columns::<E, C>(job, b, c, []);
    }
}

#[derive(Clone, Copy)]
struct Job<'a> {
    sizes: Sizes,
    left: Left<'a>,
    pitch: Pitch,
    add: bool,
}

kernel! {
    fn along_rows<'a; E, C>(simd; job: Job<'a>, b: &'a [u32], c: &'a mut [C], marker: [E; 0]) -> () {
        let _ = marker;
        // A literal stride of 1 lets the compiler fold the addresses.
        panels::<S, E, C>(simd, Job { left: Left { column: 1, ..job.left }, ..job }, b, c);
    }
}

kernel! {
    fn along_columns<'a; E, C>(simd; job: Job<'a>, b: &'a [u32], c: &'a mut [C], marker: [E; 0]) -> () {
        let _ = marker;
        panels::<S, E, C>(simd, job, b, c);
    }
}

/// Rows of the next tile (1 or even) when so many are left: two tiles of about equal size rather than a small remainder.
#[inline(always)]
fn tile_rows(left: usize, most: usize) -> usize {
    if left >= 2 * most {
        most
    } else if left > most {
        left.div_ceil(2).next_multiple_of(2)
    } else if left > 1 {
        left - left % 2
    } else {
        1
    }
}

#[inline(always)]
fn panels<S: Simd, E: Number, C: Number>(simd: S, job: Job<'_>, b: &[u32], c: &mut [C]) {
    let Job { sizes: Sizes { m, n, k }, left, pitch, add } = job;
    let k_all = k * left.steps.len();
    for j in (0..n).step_by(PANEL) {
        let panel = &b[packed_index(k_all, n, 0, j)..];
        let columns = PANEL.min(n - j);
        let width = PANEL.min(n.next_multiple_of(LANES) - j);
        for (l, &line) in left.lines.iter().enumerate() {
            let mut i = 0;
            while i < m {
                let at = l * pitch.line + i * pitch.row + j;
                let side = Side { a: &left.words[line + i * left.row..], left, k };
                let out = Out { pitch: pitch.row, columns, add };
                i += if S::MANY_REGISTERS && columns > LANES {
                    wide::<S, E, C>(simd, m - i, side, panel, &mut c[at..], out)
                } else if columns > LANES {
                    let (low, high) = (Out { columns: LANES, ..out }, Out { columns: columns - LANES, ..out });
                    narrow::<S, E, C>(simd, m - i, side, panel, width, &mut c[at..], low);
                    narrow::<S, E, C>(simd, m - i, side, &panel[LANES..], width, &mut c[at + LANES..], high)
                } else {
                    narrow::<S, E, C>(simd, m - i, side, panel, width, &mut c[at..], out)
                };
            }
        }
    }
}

/// A tile of two vectors' width; returns how many rows it covered.
#[inline(always)]
fn wide<S: Simd, E: Number, C: Number>(
    simd: S,
    rows: usize,
    side: Side<'_>,
    panel: &[u32],
    c: &mut [C],
    out: Out,
) -> usize {
    match tile_rows(rows, 12) {
        12 => tile::<S, E, C, 12, 2>(simd, side, panel, PANEL, c, out),
        10 => tile::<S, E, C, 10, 2>(simd, side, panel, PANEL, c, out),
        8 => tile::<S, E, C, 8, 2>(simd, side, panel, PANEL, c, out),
        6 => tile::<S, E, C, 6, 2>(simd, side, panel, PANEL, c, out),
        4 => tile::<S, E, C, 4, 2>(simd, side, panel, PANEL, c, out),
        2 => tile::<S, E, C, 2, 2>(simd, side, panel, PANEL, c, out),
        _ => tile::<S, E, C, 1, 2>(simd, side, panel, PANEL, c, out),
    }
}

/// A tile of one vector's width; returns how many rows it covered.
#[inline(always)]
fn narrow<S: Simd, E: Number, C: Number>(
    simd: S,
    rows: usize,
    side: Side<'_>,
    panel: &[u32],
    width: usize,
    c: &mut [C],
    out: Out,
) -> usize {
    // Both halves of words of B take registers of their own where the products are done in 32 bits.
    let most = match (S::MANY_REGISTERS, E::PER_WORD) {
        (true, _) => 12,
        (false, 1) => 6,
        (false, _) => 4,
    };
    match tile_rows(rows, most) {
        12 => tile::<S, E, C, 12, 1>(simd, side, panel, width, c, out),
        10 => tile::<S, E, C, 10, 1>(simd, side, panel, width, c, out),
        8 => tile::<S, E, C, 8, 1>(simd, side, panel, width, c, out),
        6 => tile::<S, E, C, 6, 1>(simd, side, panel, width, c, out),
        4 => tile::<S, E, C, 4, 1>(simd, side, panel, width, c, out),
        2 => tile::<S, E, C, 2, 1>(simd, side, panel, width, c, out),
        _ => tile::<S, E, C, 1, 1>(simd, side, panel, width, c, out),
    }
}

/// The left side from the first row of a tile on.
#[derive(Clone, Copy)]
struct Side<'a> {
    a: &'a [u32],
    left: Left<'a>,
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
fn tile<S: Simd, E: Number, C: Number, const ROWS: usize, const COLUMNS: usize>(
    simd: S,
    side: Side<'_>,
    panel: &[u32],
    width: usize,
    c: &mut [C],
    out: Out,
) -> usize {
    let Side { a, left, k } = side;
    let mut sums = [[simd.splat(0.0); COLUMNS]; ROWS];
    let mut b = panel.as_ptr();
    assert!((k * left.steps.len() - 1) * width + COLUMNS * LANES <= panel.len());
    for &step in left.steps {
        let mut a = a.as_ptr().wrapping_add(step);
        for _ in 0..k {
            // SAFETY: b stays inside the panel (asserted above), a inside A (asserted by `product`).
            unsafe {
                let mut right = [simd.splat_word(0); COLUMNS];
                for (j, right) in right.iter_mut().enumerate() {
                    *right = simd.load_words(&*b.add(j * LANES).cast());
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    // Wrapping: an overflow check in here would more than double the time of a development build.
                    let word = *a.add(i.wrapping_mul(left.row));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = E::product(simd, word, right, *sum);
                    }
                }
                b = b.wrapping_add(width);
                a = a.wrapping_add(left.column);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let row = &mut c[i * out.pitch..i * out.pitch + out.columns];
        for (j, sum) in sums.into_iter().enumerate() {
            let (at, len) = (j * LANES, LANES.min(out.columns - j * LANES));
            let sum = if out.add { simd.add(C::get(simd, row, at, len), sum) } else { sum };
            C::put(simd, sum, row, at, len);
        }
    }
    ROWS
}

kernel! {
    /// `to += from`
    pub(crate) fn add_assign<'a>(simd; from: &'a [f32], to: &'a mut [f32]) -> () {
        let _ = simd;
        assert_eq!(from.len(), to.len());
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }
}

/// Does a product that fits the first-level cache `times` times, for measuring what the processor can do; returns the
/// floating-point operations.
pub(crate) fn exercise<E: Number>(times: usize) -> f64 {
    const SIZES: Sizes = Sizes { m: 12, n: PANEL, k: 128 };
    let Sizes { m, n, k } = SIZES;
    let (a, b) = (vec![E::from_f32(0.5); m * k * E::PER_WORD], vec![0_u32; packed_len(k, n)]);
    let mut c = vec![0.0_f32; m * n];
    let left = Left { words: super::number::as_words(&a), lines: &[0], row: k, steps: &[0], column: 1 };
    for _ in 0..times {
        let b = std::hint::black_box(&b);
        product::<E, f32>(SIZES, left, b, &mut c, Pitch { line: 0, row: n }, Write::Replace, []);
    }
    std::hint::black_box(c);
    (2 * m * n * k * E::PER_WORD * times) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{
        number::as_words,
        simd::{Kernel, with_each},
    };
    use half::bf16;

    #[derive(Clone)]
    struct Each<'a, C> {
        job: Job<'a>,
        b: &'a [u32],
        c: &'a [C],
    }
    impl Kernel for Each<'_, f32> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut c = self.c.to_vec();
            panels::<S, f32, f32>(simd, self.job, self.b, &mut c);
            c
        }
    }
    impl Kernel for Each<'_, bf16> {
        type Output = Vec<bf16>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<bf16> {
            let mut c = self.c.to_vec();
            panels::<S, bf16, bf16>(simd, self.job, self.b, &mut c);
            c
        }
    }

    /// Whole numbers small enough that every sum is exact, in 16 bits too.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| (((i + seed) * 7919 % 5) as f32) - 2.0).collect()
    }

    /// Windows of two lines and three stretches, as convolutions use them, in every kind and on every instruction set.
    fn check<E: Number>(m: usize, n: usize, k: usize)
    where
        for<'a> Each<'a, E>: Kernel<Output = Vec<E>>,
    {
        let k_numbers = k * E::PER_WORD;
        for (row, column) in [(k + 2, 1), (1, m + 3), (2 * k, 1)] {
            let (lines, steps) = ([0, 5], [0, 3, 11]);
            let data = numbers((m * row + k * column + 20) * E::PER_WORD, 1);
            let exact: Vec<E> = data.iter().map(|&x| E::from_f32(x)).collect();
            let left = Left { words: as_words(&exact), lines: &lines, row, steps: &steps, column };
            let rows = numbers(3 * k_numbers * n, 2);
            let starts: Vec<usize> = (0..3 * k_numbers).map(|p| p * n).collect();
            let mut b = vec![u32::MAX; packed_len(3 * k, n)];
            pack::<f32, E>(&rows, &starts, n, &mut b, []);
            let pitch = Pitch { line: m * (n + 5) + 3, row: n + 5 };
            let start: Vec<E> = numbers(2 * pitch.line, 3).into_iter().map(E::from_f32).collect();
            for write in [Write::Replace, Write::Add] {
                let job = Job { sizes: Sizes { m, n, k }, left, pitch, add: write == Write::Add };
                let mut results = with_each(&Each { job, b: &b, c: &start });
                let mut c = start.clone();
                product::<E, E>(Sizes { m, n, k }, left, &b, &mut c, pitch, write, []);
                results.push(c);
                for c in results {
                    let mut expected = start.clone();
                    for (l, i, j) in (0..2 * m * n).map(|x| (x / n / m, x / n % m, x % n)) {
                        let to = &mut expected[l * pitch.line + i * pitch.row + j];
                        let terms = (0..3 * k_numbers).map(|p| {
                            let (s, word, half) = (p / k_numbers, p % k_numbers / E::PER_WORD, p % E::PER_WORD);
                            let at = lines[l] + i * row + steps[s] + word * column;
                            data[at * E::PER_WORD + half] * rows[p * n + j]
                        });
                        let before = if write == Write::Add { to.to_f32() } else { 0.0 };
                        *to = E::from_f32(terms.sum::<f32>() + before);
                    }
                    assert!(c == expected, "{m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn equals_the_definition() {
        for (m, n, k) in [(1, 1, 1), (13, 16, 5), (12, 32, 7), (25, 33, 3), (37, 72, 2), (7, 8, 4), (20, 48, 2)] {
            check::<f32>(m, n, k);
            check::<bf16>(m, n, k);
        }
    }

    #[test]
    fn tiles_fit_what_is_left() {
        for most in [6, 12] {
            for left in 1..100 {
                let rows = tile_rows(left, most);
                assert!((1..=left.min(most)).contains(&rows), "{left} {most}: {rows}");
            }
        }
        assert_eq!([20, 40, 16, 13, 7, 1].map(|left| tile_rows(left, 12)), [10, 12, 8, 8, 6, 1]);
    }

    #[test]
    fn rows_without_numbers_are_zeros() {
        let mut packed = vec![7; packed_len(2, 3)];
        pack::<f32, bf16>(&[1.0, 2.0, 3.0], &[0, ZERO_ROW, ZERO_ROW, 0], 3, &mut packed, []);
        assert_eq!(packed[..4], [0x3F80, 0x4000, 0x4040, 0]);
        assert_eq!(packed[16..20], [0x3F80_0000, 0x4000_0000, 0x4040_0000, 0]);
    }
}
