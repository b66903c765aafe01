//! The coarse search: the drawing pooled to cells of growing size, every window of the bank at every position.

use rayon::prelude::*;

use super::bank::{CELLS, DIAMETER_CELLS, Variant, Window, missing, overlap};
use super::ink::Ink;

/// Ratio of cell sizes from one level to the next. A window tolerates one cell of 16 at its rim.
const LEVEL_RATIO: f32 = 1.12;
/// Cells between positions, in both directions.
const STRIDE: usize = 2;
/// Share of a template's ink cells that may lack ink under them.
const MAX_MISSING: f32 = 0.1;
/// Weight of foreign ink in the coarse score, and the share of the template's ink at which it stops growing.
const CLUTTER_WEIGHT: f32 = 0.25;
const CLUTTER_CAP: f32 = 1.5;
/// Coarse score that a candidate must reach.
const MIN_SCORE: f32 = 0.65;
/// Cells a side of the blocks in which only the best window of a shape survives.
const BLOCK: usize = 4;
/// Smallest cell, pixels: half a pixel, below which nothing is gained.
const MIN_CELL: f32 = 0.5;

/// A place where a window fits coarsely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Index of the variant.
    pub variant: u32,
    /// Centre, pixels of the drawing.
    pub at: [f32; 2],
    /// Pixels a cell.
    pub cell: f32,
}

/// Finds all candidates, in a fixed order. `scales(v)` is the range of scales wanted for a variant, in shape pixels.
pub(super) fn candidates(ink: &Ink, bank: &[Variant], scales: impl Fn(&Variant) -> [f32; 2]) -> Vec<Candidate> {
    let slack = LEVEL_RATIO.sqrt();
    let ranges: Vec<[f32; 2]> = bank
        .iter()
        .map(|v| scales(v).map(|s| s * v.diameter / DIAMETER_CELLS))
        .map(|[lo, hi]| [lo / slack, hi * slack])
        .collect();
    let smallest = ranges.iter().map(|r| r[0]).fold(f32::MAX, f32::min).max(MIN_CELL);
    let largest = ranges.iter().map(|r| r[1]).fold(0.0, f32::max);
    // Cell sizes are powers of the ratio whatever the templates are, so that adding one leaves the others' results.
    let (first, last) = (smallest.ln() / LEVEL_RATIO.ln(), largest.ln() / LEVEL_RATIO.ln());
    let mut found = Vec::new();
    for step in first.floor() as i32..=last.ceil() as i32 {
        let cell = LEVEL_RATIO.powi(step);
        let mut wanted: Vec<u32> = (0..bank.len() as u32)
            .filter(|&i| {
                let [lo, hi] = ranges[i as usize];
                (lo..=hi).contains(&cell)
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        wanted.sort_by_key(|&i| (bank[i as usize].count, i));
        found.extend(Level::of(ink, cell).scan(bank, &wanted));
    }
    found
}

/// The drawing pooled to cells: a cell is set when any of its pixels is ink.
struct Level {
    /// Pixels a cell.
    cell: f32,
    /// Columns and rows, with a margin of one window on every side.
    columns: usize,
    rows: usize,
    /// Words a row; one spare word at its end.
    words: usize,
    /// The cells.
    ink: Vec<u64>,
    /// The cells and their eight neighbours.
    near: Vec<u64>,
}

/// The best window of a shape in a block.
#[derive(Clone, Copy)]
struct Peak {
    row: u32,
    shape: u32,
    score: f32,
    variant: u32,
    at: [u32; 2],
}

impl Level {
    fn of(ink: &Ink, cell: f32) -> Self {
        let side = |pixels: usize| (pixels as f32 / cell).ceil() as usize + 2 * CELLS + 1;
        let (columns, rows) = (side(ink.width), side(ink.height));
        let words = columns / 64 + 2;
        let mut bits = vec![0u64; words * rows];
        // A pixel sets the cell of its centre or, where cells are smaller than pixels, every cell that it touches.
        let reach = if cell < 1.0 { 0.499 } else { 0.0 };
        let span = |p: usize| [-reach, reach].map(|r: f32| ((p as f32 + 0.5 + r) / cell) as usize + CELLS);
        let spans: Vec<[usize; 2]> = (0..ink.width).map(span).collect();
        for (y, row) in ink.mask.chunks_exact(ink.width.max(1)).enumerate() {
            let [v0, v1] = span(y);
            for (x, _) in row.iter().enumerate().filter(|&(_, &m)| m == 1) {
                let [u0, u1] = spans[x];
                for v in v0..=v1 {
                    for u in u0..=u1 {
                        bits[v * words + u / 64] |= 1 << (u % 64);
                    }
                }
            }
        }
        let near = dilate(&bits, words, rows);
        Self { cell, columns, rows, words, ink: bits, near }
    }

    /// Scans blocks of columns side by side, then keeps the local maxima of every shape.
    fn scan(&self, bank: &[Variant], wanted: &[u32]) -> Vec<Candidate> {
        let blocks = (self.columns - CELLS).div_ceil(BLOCK);
        let peaks: Vec<Vec<Peak>> = (0..blocks).into_par_iter().map(|b| self.scan_block(b, bank, wanted)).collect();
        let mut found = Vec::new();
        for (b, column) in peaks.iter().enumerate() {
            let neighbours = &peaks[b.saturating_sub(1)..(b + 2).min(peaks.len())];
            for p in column {
                let beaten = neighbours.iter().any(|n| {
                    (p.row.saturating_sub(1)..=p.row + 1).any(|row| {
                        n.binary_search_by_key(&(row, p.shape), |q| (q.row, q.shape))
                            .is_ok_and(|i| (n[i].score, p.at) > (p.score, n[i].at))
                    })
                });
                if !beaten {
                    let at = p.at.map(|v| (v as f32 - CELLS as f32 / 2.0) * self.cell);
                    found.push(Candidate { variant: p.variant, at, cell: self.cell });
                }
            }
        }
        found
    }

    fn scan_block(&self, block: usize, bank: &[Variant], wanted: &[u32]) -> Vec<Peak> {
        let lightest = bank[wanted[0] as usize].count as f32 * (1.0 - MAX_MISSING);
        let mut peaks: Vec<Peak> = Vec::new();
        let (mut ink, mut near, mut sums) = (vec![0u64; self.rows], vec![0u64; self.rows], vec![0u32; self.rows + 1]);
        for x in (block * BLOCK..((block + 1) * BLOCK).min(self.columns - CELLS)).step_by(STRIDE) {
            self.strip(&self.near, x, &mut near);
            for y in 0..self.rows {
                sums[y + 1] = sums[y] + (near[y] as u32).count_ones();
            }
            if sums[self.rows] == 0 {
                continue;
            }
            self.strip(&self.ink, x, &mut ink);
            for y in (0..self.rows - CELLS).step_by(STRIDE) {
                let available = sums[y + CELLS] - sums[y];
                if (available as f32) < lightest {
                    continue;
                }
                let window: Window = std::array::from_fn(|k| near[y + 2 * k]);
                for &i in wanted {
                    let v = &bank[i as usize];
                    let allowed = (v.count as f32 * MAX_MISSING) as u32;
                    if v.count - allowed > available {
                        break;
                    }
                    let Some(miss) = missing(&window, &v.ink, allowed) else { continue };
                    let n = v.count as f32;
                    let foreign = overlap(&std::array::from_fn(|k| ink[y + 2 * k]), &v.clutter);
                    let score = 1.0 - miss as f32 / n - CLUTTER_WEIGHT * (foreign as f32 / n).min(CLUTTER_CAP);
                    if score > MIN_SCORE {
                        let row = (y / BLOCK) as u32;
                        peaks.push(Peak { row, shape: v.shape, score, variant: i, at: [x as u32, y as u32] });
                    }
                }
            }
        }
        peaks.sort_by(|a, b| {
            (a.row, a.shape)
                .cmp(&(b.row, b.shape))
                .then(b.score.total_cmp(&a.score))
                .then(a.at.cmp(&b.at))
                .then(a.variant.cmp(&b.variant))
        });
        peaks.dedup_by_key(|p| (p.row, p.shape));
        peaks
    }

    /// The 32 columns from `x` on: entry `y` holds row `y` in its low and row `y + 1` in its high half.
    fn strip(&self, bits: &[u64], x: usize, out: &mut [u64]) {
        let (word, shift) = (x / 64, x % 64);
        let mut below = 0;
        for y in (0..self.rows).rev() {
            let i = y * self.words + word;
            let pair = u128::from(bits[i]) | u128::from(bits[i + 1]) << 64;
            let row = u64::from((pair >> shift) as u32);
            out[y] = row | below << CELLS;
            below = row;
        }
    }
}

/// Sets the eight neighbours of every set cell.
fn dilate(bits: &[u64], words: usize, rows: usize) -> Vec<u64> {
    let mut wide = vec![0; bits.len()];
    for (row, out) in bits.chunks_exact(words).zip(wide.chunks_exact_mut(words)) {
        for k in 0..words {
            let left = if k > 0 { row[k - 1] >> 63 } else { 0 };
            let right = row.get(k + 1).map_or(0, |w| w << 63);
            out[k] = row[k] | row[k] << 1 | left | row[k] >> 1 | right;
        }
    }
    let mut out = wide.clone();
    for i in words..rows * words {
        out[i] |= wide[i - words];
        out[i - words] |= wide[i];
    }
    out
}
