//! The coarse search: the drawing pooled to cells of growing size, every window of the bank at every position.

use rayon::prelude::*;

use super::bank::{CELLS, DIAMETER_CELLS, Variant};
use super::ink::{Bits, Ink};
use super::simd::{self, Hit, Probe, Probes, Simd, Strip};

/// Ratio of cell sizes from one level to the next. A window tolerates one cell of 16 at its rim.
const LEVEL_RATIO: f32 = 1.12;
/// Cells between positions, in both directions.
const STRIDE: usize = 2;
/// Share of a template's ink cells that may lack ink under them.
const MAX_MISSING: f32 = 0.1;
/// Weight of foreign ink in the coarse score, and the share of the template's ink at which it stops growing.
const CLUTTER_WEIGHT: f32 = 0.25;
const CLUTTER_CAP: f32 = 1.5;
/// Weight of template ink that has the drawing's beside it: it tells the best of places that fit equally well.
const BESIDE_WEIGHT: f32 = 0.15;
/// Coarse score that a candidate must reach.
const MIN_SCORE: f32 = 0.65;
/// Cells a side of the blocks in which only the best window of a shape survives.
pub(super) const BLOCK: usize = 4;
/// Smallest cell, pixels: half a pixel, below which nothing is gained.
const MIN_CELL: f32 = 0.5;
/// Columns of a word of a level.
const WORD: usize = 32;

/// A place where a window fits coarsely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Index of the variant.
    pub variant: u32,
    /// Centre, pixels from the corner of the ink.
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
    let (simd, bits) = (Simd::chosen(), ink.bits());
    let levels: Vec<Vec<Candidate>> = (first.floor() as i32..last.ceil() as i32 + 1)
        .into_par_iter()
        .map(|step| {
            let cell = LEVEL_RATIO.powi(step);
            let wanted: Vec<u32> = (0..bank.len() as u32)
                .filter(|&i| {
                    let [lo, hi] = ranges[i as usize];
                    (lo..=hi).contains(&cell)
                })
                .collect();
            if wanted.is_empty() {
                return Vec::new();
            }
            Level::of(&bits, cell, simd).scan(&Wanted::of(bank, wanted))
        })
        .collect();
    levels.concat()
}

/// The variants that are looked for on a level, by groups.
struct Wanted<'a> {
    bank: &'a [Variant],
    variants: Vec<u32>,
    probes: Probes,
    /// Number of shapes in the bank.
    shapes: usize,
}

impl<'a> Wanted<'a> {
    fn of(bank: &'a [Variant], mut variants: Vec<u32>) -> Self {
        let of = |&i: &u32| &bank[i as usize];
        variants.sort_by_key(|i| (of(i).group, of(i).count, *i));
        let mut groups: Vec<&[u32]> = variants.chunk_by(|a, b| of(a).group == of(b).group).collect();
        groups.sort_by_key(|group| of(&group[0]).count);
        let mut probes = Probes::default();
        for group in &groups {
            let allowed = |v: &Variant| (v.count as f32 * MAX_MISSING) as u16;
            let probe = |v: &'a Variant| Probe { ink: &v.ink, clutter: &v.clutter, allowed: allowed(v) };
            probes.push(group.iter().map(of).map(probe));
        }
        let variants = groups.concat();
        let shapes = bank.iter().map(|v| v.shape as usize + 1).max().unwrap_or(0);
        Self { bank, variants, probes, shapes }
    }

    /// A window that fits, when little foreign ink lies in it.
    fn peak(&self, hit: &Hit, x: u32) -> Option<Peak> {
        let variant = self.variants[hit.probe as usize];
        let v = &self.bank[variant as usize];
        let n = v.count as f32;
        let foreign = (f32::from(hit.foreign) / n).min(CLUTTER_CAP);
        let score = 1.0 - f32::from(hit.missing) / n - CLUTTER_WEIGHT * foreign;
        let y = hit.window * STRIDE as u32;
        let fits = score > MIN_SCORE;
        let score = score - BESIDE_WEIGHT * f32::from(hit.beside) / n;
        fits.then_some(Peak { row: y / BLOCK as u32, shape: v.shape, score, variant, at: [x, y] })
    }
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

impl Peak {
    /// Of equal scores the first place and variant counts.
    fn beats(&self, other: &Self) -> bool {
        let place = |p: &Self| (p.at, p.variant);
        self.score > other.score || (self.score == other.score && place(self) < place(other))
    }
}

/// The best windows of a column of blocks, by row of blocks and shape.
struct Column {
    peaks: Vec<Peak>,
    /// Where those of each row start, and the end.
    starts: Vec<u32>,
}

impl Column {
    /// Of so many rows.
    fn of(peaks: Vec<Peak>, rows: usize) -> Self {
        let mut starts = vec![0; rows + 1];
        peaks.iter().for_each(|p| starts[p.row as usize + 1] += 1);
        for row in 0..rows {
            starts[row + 1] += starts[row];
        }
        Self { peaks, starts }
    }

    fn get(&self, row: u32, shape: u32) -> Option<&Peak> {
        let start = *self.starts.get(row as usize)? as usize;
        let peaks = &self.peaks[start..*self.starts.get(row as usize + 1)? as usize];
        peaks.binary_search_by_key(&shape, |p| p.shape).ok().map(|i| &peaks[i])
    }
}

/// The drawing pooled to cells: a cell is set when any of its pixels is ink.
struct Level {
    simd: Simd,
    /// Pixels a cell.
    cell: f32,
    /// Columns and rows, with a margin of one window on every side.
    columns: usize,
    rows: usize,
    /// Cells of the drawing left of and above these, and the place of the part of the drawing that they hold.
    skipped: [usize; 2],
    origin: [usize; 2],
    /// The cells, in words of 32 columns. The words of a column of words follow each other from top to bottom, so that
    /// windows below one another lie side by side.
    ink: Vec<u32>,
    /// The cells and their eight neighbours.
    near: Vec<u32>,
}

/// What the scan of a block of columns needs room for.
#[derive(Default)]
struct Scratch {
    strip: Strip,
    hits: Vec<Hit>,
    /// The best of each row of blocks and each shape, for some rows.
    best: Vec<Option<Peak>>,
    /// Which of these are there.
    there: Vec<u32>,
}

impl Level {
    fn of(bits: &Bits, cell: f32, simd: Simd) -> Self {
        /// Rows that are turned into columns together: a cache line of words.
        const TOGETHER: usize = 16;
        // Cells and blocks are those of the whole drawing, so that its parts give the same windows.
        let origin = bits.origin;
        let skipped = origin.map(|o| (o as f32 / cell) as usize / BLOCK * BLOCK);
        let side =
            |pixels: usize, k: usize| ((origin[k] + pixels) as f32 / cell).ceil() as usize - skipped[k] + 2 * CELLS + 1;
        let (columns, rows) = (side(bits.width, 0), side(bits.height, 1));
        // Two spare words, so that a strip always has a word to its right.
        let words = columns / WORD + 2;
        // A pixel sets the cell of its centre or, where cells are smaller than pixels, every cell that it touches.
        let reach = if cell < 1.0 { 0.499 } else { 0.0 };
        let spans = |n: usize, k: usize| -> Vec<[usize; 2]> {
            let cell_of = |p: usize, r: f32| ((p as f32 + 0.5 + r) / cell) as usize - skipped[k] + CELLS;
            (origin[k]..origin[k] + n).map(|p| [-reach, reach].map(|r| cell_of(p, r))).collect()
        };
        let (across, down) = (spans(bits.width, 0), spans(bits.height, 1));
        let mut ink = vec![0u32; words * rows];
        let mut pooled = vec![0u64; bits.words];
        let mut cells = vec![0u32; TOGETHER * words];
        // Pixel rows `from..to` touch the row of cells.
        let (mut from, mut to) = (0, 0);
        for top in (0..rows).step_by(TOGETHER) {
            let height = TOGETHER.min(rows - top);
            let mut any = false;
            for (v, cells) in (top..top + height).zip(cells.chunks_exact_mut(words)) {
                while from < bits.height && down[from][1] < v {
                    from += 1;
                }
                to = from.max(to);
                while to < bits.height && down[to][0] <= v {
                    to += 1;
                }
                if from == to {
                    continue;
                }
                pooled.fill(0);
                for row in bits.rows[from * bits.words..to * bits.words].chunks_exact(bits.words) {
                    simd::unite(simd, row, &mut pooled);
                }
                any |= pool(&pooled, &across, cells);
            }
            if any {
                for (w, column) in ink.chunks_exact_mut(rows).enumerate() {
                    for (k, cell) in column[top..top + height].iter_mut().enumerate() {
                        *cell = cells[k * words + w];
                    }
                }
                cells.fill(0);
            }
        }
        let mut near = vec![0; words * rows];
        let empty = vec![0; rows];
        let column = |w: usize| if w < words { &ink[w * rows..(w + 1) * rows] } else { &empty[..] };
        for (w, out) in near.chunks_exact_mut(rows).enumerate() {
            simd::grow(simd, column(w.wrapping_sub(1)), column(w), column(w + 1), out);
        }
        Self { simd, cell, columns, rows, skipped, origin, ink, near }
    }

    /// Scans blocks of columns side by side, then keeps the local maxima of every shape.
    fn scan(&self, wanted: &Wanted) -> Vec<Candidate> {
        let blocks = (self.columns - CELLS).div_ceil(BLOCK);
        let columns: Vec<Column> = (0..blocks)
            .into_par_iter()
            .with_min_len(8)
            .map_init(Scratch::default, |scratch, b| {
                Column::of(self.scan_block(b, wanted, scratch), self.rows.div_ceil(BLOCK))
            })
            .collect();
        let mut found = Vec::new();
        for (b, column) in columns.iter().enumerate() {
            let neighbours = &columns[b.saturating_sub(1)..(b + 2).min(columns.len())];
            for p in &column.peaks {
                let beats = |q: &Peak| (q.score, p.at) > (p.score, q.at);
                let near =
                    |n: &Column| (p.row.saturating_sub(1)..=p.row + 1).any(|y| n.get(y, p.shape).is_some_and(beats));
                let beaten = neighbours.iter().any(near);
                if !beaten {
                    let at = std::array::from_fn(|k| {
                        let cells = (p.at[k] as usize + self.skipped[k]) as f32 - CELLS as f32 / 2.0;
                        cells * self.cell - self.origin[k] as f32
                    });
                    found.push(Candidate { variant: p.variant, at, cell: self.cell });
                }
            }
        }
        found
    }

    /// The best windows of a block of columns, by row of blocks and shape.
    fn scan_block(&self, block: usize, wanted: &Wanted, scratch: &mut Scratch) -> Vec<Peak> {
        const { assert!(BLOCK == 2 * STRIDE, "a block is two columns of windows wide") };
        let Scratch { strip, hits, best, there } = scratch;
        let x = block * BLOCK;
        strip.resize((self.rows - CELLS).div_ceil(STRIDE));
        for (k, near) in strip.near.iter_mut().enumerate() {
            self.strip(&self.near, x + k * STRIDE, near);
        }
        if !strip.prepare(self.simd, &wanted.probes) {
            return Vec::new();
        }
        for (k, ink) in strip.ink.iter_mut().enumerate() {
            self.strip(&self.ink, x + k * STRIDE, ink);
        }
        hits.clear();
        simd::windows(self.simd, strip, &wanted.probes, hits);
        let mut peaks: Vec<Peak> = Vec::new();
        best.resize(simd::BLOCK * STRIDE / BLOCK * wanted.shapes, None);
        // Hits come from block to block of the strip, from top to bottom.
        for hits in hits.chunk_by(|a, b| a.window as usize / simd::BLOCK == b.window as usize / simd::BLOCK) {
            let top = hits[0].window as usize / simd::BLOCK * simd::BLOCK * STRIDE / BLOCK;
            for hit in hits {
                let x = (x + usize::from(hit.column) * STRIDE) as u32;
                let Some(peak) = wanted.peak(hit, x) else { continue };
                let i = (peak.row as usize - top) * wanted.shapes + peak.shape as usize;
                match &mut best[i] {
                    Some(b) if !peak.beats(b) => {}
                    Some(b) => *b = peak,
                    none => {
                        *none = Some(peak);
                        there.push(i as u32);
                    }
                }
            }
            there.sort_unstable();
            peaks.extend(there.drain(..).filter_map(|i| best[i as usize].take()));
        }
        peaks
    }

    /// The 32 columns from `x` on: entry `k` holds row `2k` in its low and row `2k + 1` in its high half.
    fn strip(&self, words: &[u32], x: usize, out: &mut [u64]) {
        let column = |w: usize| &words[w * self.rows..(w + 1) * self.rows];
        let rows = &mut bytemuck::cast_slice_mut::<u64, u32>(out)[..self.rows];
        simd::shift(self.simd, column(x / WORD), column(x / WORD + 1), (x % WORD) as u32, rows);
        if cfg!(target_endian = "big") {
            for pair in out {
                *pair = pair.rotate_left(32);
            }
        }
    }
}

/// Sets the cells under the ink of a row of pixels; `spans` are a pixel's first and last cell. Says whether there was
/// any ink.
fn pool(row: &[u64], spans: &[[usize; 2]], cells: &mut [u32]) -> bool {
    let mut any = false;
    for (k, &word) in row.iter().enumerate().filter(|(_, w)| **w != 0) {
        any = true;
        let mut rest = word;
        while rest != 0 {
            // Neighbouring pixels have the same cell or neighbouring ones: a run of pixels is a run of cells.
            let start = rest.trailing_zeros();
            let length = (rest >> start).trailing_ones();
            rest &= u64::MAX.checked_shl(start + length).unwrap_or(0);
            let first = k * 64 + start as usize;
            fill(cells, spans[first][0], spans[first + length as usize - 1][1]);
        }
    }
    any
}

/// Sets the bits `first..=last`.
fn fill(words: &mut [u32], first: usize, last: usize) {
    let (from, to) = (first / WORD, last / WORD);
    let (head, tail) = (u32::MAX << (first % WORD), u32::MAX >> (WORD - 1 - last % WORD));
    if from == to {
        words[from] |= head & tail;
    } else {
        words[from] |= head;
        words[from + 1..to].fill(u32::MAX);
        words[to] |= tail;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ink(width: usize, height: usize, pixels: &[(usize, usize, usize)]) -> Ink {
        let mut mask = vec![0; width * height];
        for &(x, y, length) in pixels {
            let x = x % width;
            let row = y % height * width;
            mask[row + x..row + (x + length).min(width)].fill(1);
        }
        Ink { width, height, grey: vec![0; mask.len()], mask, origin: [0; 2] }
    }

    /// The cells of a level, cell by cell.
    fn cells(level: &Level, words: &[u32]) -> Vec<bool> {
        let at = |x: usize, y: usize| words[x / WORD * level.rows + y] >> (x % WORD) & 1 == 1;
        (0..level.rows).flat_map(|y| (0..level.columns).map(move |x| at(x, y))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn levels_hold_the_cells_of_ink_pixels_and_their_neighbours(
            width in 1..200usize,
            height in 1..90usize,
            step in -6..20i32,
            pixels in prop::collection::vec((0..200usize, 0..90usize, 1..140usize), 0..20),
        ) {
            let cell = LEVEL_RATIO.powi(step).max(MIN_CELL);
            let ink = ink(width, height, &pixels);
            let level = Level::of(&ink.bits(), cell, Simd::chosen());
            let (columns, rows) = (level.columns, level.rows);
            let mut wanted = vec![false; columns * rows];
            let reach = if cell < 1.0 { 0.499 } else { 0.0 };
            let span = |p: usize| {
                let [a, b] = [-reach, reach].map(|r: f32| ((p as f32 + 0.5 + r) / cell) as usize + CELLS);
                a..=b
            };
            for i in (0..width * height).filter(|&i| ink.mask[i] == 1) {
                for (x, y) in span(i % width).flat_map(|x| span(i / width).map(move |y| (x, y))) {
                    wanted[y * columns + x] = true;
                }
            }
            prop_assert_eq!(&cells(&level, &level.ink), &wanted);
            let mut near = vec![false; columns * rows];
            for i in (0..columns * rows).filter(|&i| wanted[i]) {
                for dy in [0, 1, 2] {
                    let row = (i / columns + dy - 1) * columns + i % columns;
                    near[row - 1..=row + 1].fill(true);
                }
            }
            prop_assert_eq!(&cells(&level, &level.near), &near);
        }
    }

    #[test]
    fn runs_of_cells_cross_words() {
        for (first, last) in [(0, 0), (31, 31), (31, 32), (5, 100), (32, 63), (95, 95)] {
            let mut words = [0u32; 4];
            fill(&mut words, first, last);
            let set: Vec<usize> = (0..128).filter(|i| words[i / WORD] >> (i % WORD) & 1 == 1).collect();
            assert_eq!(set, (first..=last).collect::<Vec<_>>());
        }
    }
}
