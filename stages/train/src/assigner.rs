//! Task-aligned assignment of anchors to objects (Feng et al., "TOOD: Task-aligned One-stage Object Detection", 2021).
//!
//! Owns which cells of the head learn which object, and how strongly. Refuses to own the loss itself.

use vision::yolov8::{BINS, BOX_CHANNELS, Heads};

use crate::ciou::{Corners, ciou};

/// Cells that an object may claim.
const TOP_K: usize = 10;
/// Power of the class score in the alignment metric.
const ALPHA: f64 = 0.5;
/// Power of the overlap in the alignment metric.
const BETA: i32 = 6;

/// One object to find.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Class index.
    pub class: usize,
    /// Left, top, right, bottom in pixels of the network's input.
    pub bbox: [f32; 4],
}

/// The raw values of one level of the head for one image.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Input pixels a cell.
    pub stride: usize,
    /// `[h, w, channels]`.
    pub raw: &'a [f32],
}

/// Raw head output of one image.
#[derive(Clone, Copy, Debug)]
pub struct ImageHead<'a> {
    /// The levels, finest first.
    pub grids: [Grid<'a>; 3],
    /// Channels of a cell: [`BOX_CHANNELS`], then one a class.
    pub channels: usize,
}

/// A cell that learns an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Positive {
    /// Level.
    pub level: usize,
    /// Cell in the level, row by row.
    pub cell: usize,
    /// Index of the object.
    pub truth: usize,
    /// The class score to learn, 0..=1; also the weight of the cell's box losses.
    pub target: f64,
}

impl<'a> ImageHead<'a> {
    /// The part of a batch that belongs to image `index`.
    pub fn new(heads: &'a Heads, index: usize) -> Self {
        let grids = std::array::from_fn(|i| {
            let level = &heads.levels[i];
            let n = level.height * level.width * level.channels;
            Grid { h: level.height, w: level.width, stride: level.stride, raw: &level.data[index * n..][..n] }
        });
        Self { grids, channels: heads.levels[0].channels }
    }

    /// All channels of a cell.
    pub fn cell(&self, level: usize, cell: usize) -> &'a [f32] {
        &self.grids[level].raw[cell * self.channels..][..self.channels]
    }

    /// Centre of a cell in cells of its level.
    pub fn anchor(&self, level: usize, cell: usize) -> [f64; 2] {
        let w = self.grids[level].w;
        [(cell % w) as f64 + 0.5, (cell / w) as f64 + 0.5]
    }

    /// The box that a cell predicts, in cells of its level.
    pub fn decode(&self, level: usize, cell: usize) -> Corners {
        let channels = self.cell(level, cell);
        let [x, y] = self.anchor(level, cell);
        let side = |i: usize| distribution(&channels[i * BINS..][..BINS]).1;
        [x - side(0), y - side(1), x + side(2), y + side(3)]
    }
}

/// Softmax of the bins of one side, and its expectation in cells.
pub fn distribution(logits: &[f32]) -> ([f64; BINS], f64) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut p = [0.0; BINS];
    let mut sum = 0.0;
    for (p, &z) in p.iter_mut().zip(logits) {
        *p = f64::from(z - top).exp();
        sum += *p;
    }
    let mut mean = 0.0;
    for (i, p) in p.iter_mut().enumerate() {
        *p /= sum;
        mean += i as f64 * *p;
    }
    (p, mean)
}

/// Logistic function.
pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// A cell inside an object, and how well it fits.
#[derive(Clone, Copy)]
struct Candidate {
    level: usize,
    cell: usize,
    truth: usize,
    metric: f64,
    overlap: f64,
}

/// The cells that learn the objects of one image, by level and cell.
///
/// Each object takes the ten cells with centres inside it that score highest in `score^.5 * CIoU^6`; a cell wanted by
/// several goes to the one it overlaps most. Targets are the metric, scaled so that an object's best cell gets the
/// object's best overlap.
pub fn assign(head: &ImageHead, truths: &[Truth]) -> Vec<Positive> {
    let mut claims: Vec<Candidate> = Vec::new();
    for (index, truth) in truths.iter().enumerate() {
        let mut candidates = inside(head, index, truth);
        candidates.sort_by(|a, b| b.metric.total_cmp(&a.metric).then(a.level.cmp(&b.level)).then(a.cell.cmp(&b.cell)));
        claims.extend(candidates.into_iter().take(TOP_K));
    }
    claims.sort_by(|a, b| {
        (a.level, a.cell).cmp(&(b.level, b.cell)).then(b.overlap.total_cmp(&a.overlap)).then(a.truth.cmp(&b.truth))
    });
    claims.dedup_by_key(|c| (c.level, c.cell));
    let mut best = vec![(0.0_f64, 0.0_f64); truths.len()];
    for c in &claims {
        let (metric, overlap) = &mut best[c.truth];
        *metric = metric.max(c.metric);
        *overlap = overlap.max(c.overlap);
    }
    claims
        .into_iter()
        .map(|c| {
            let (metric, overlap) = best[c.truth];
            Positive { level: c.level, cell: c.cell, truth: c.truth, target: c.metric * overlap / metric }
        })
        .collect()
}

/// Cells whose centre lies inside an object and that overlap it at all.
fn inside(head: &ImageHead, index: usize, truth: &Truth) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (level, grid) in head.grids.iter().enumerate() {
        let t = truth.bbox.map(|v| f64::from(v) / grid.stride as f64);
        // First cell whose centre is beyond the low edge; one past the last whose centre is before the high edge.
        let range = |low: f64, high: f64, n: usize| {
            let first = ((low - 0.5).floor() + 1.0).max(0.0) as usize;
            first..((high - 0.5).ceil().max(0.0) as usize).min(n)
        };
        for y in range(t[1], t[3], grid.h) {
            for x in range(t[0], t[2], grid.w) {
                let cell = y * grid.w + x;
                let overlap = ciou(&head.decode(level, cell), &t).max(0.0);
                let score = sigmoid(f64::from(head.cell(level, cell)[BOX_CHANNELS + truth.class]));
                let metric = score.powf(ALPHA) * overlap.powi(BETA);
                if metric > 0.0 {
                    found.push(Candidate { level, cell, truth: index, metric, overlap });
                }
            }
        }
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::RngExt as _;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// A random head output for 96x64 inputs, and random objects (one of which no cell centre lies in).
    pub(crate) fn scene(seed: u64, classes: usize, batch: usize) -> (Heads, Vec<Vec<Truth>>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut heads = Heads::zeros(batch, 64, 96, classes);
        heads.levels.iter_mut().flat_map(|l| &mut l.data).for_each(|v| *v = rng.random_range(-2.0..2.0));
        let truths = (0..batch)
            .map(|_| {
                let mut list: Vec<Truth> = (0..6)
                    .map(|_| {
                        let (x, y): (f32, f32) = (rng.random_range(0.0..70.0), rng.random_range(0.0..40.0));
                        let (w, h): (f32, f32) = (rng.random_range(6.0..60.0), rng.random_range(6.0..50.0));
                        Truth {
                            class: rng.random_range(0..classes),
                            bbox: [x, y, (x + w).min(96.0), (y + h).min(64.0)],
                        }
                    })
                    .collect();
                list.push(Truth { class: 0, bbox: [1.0, 1.0, 3.0, 3.0] });
                list
            })
            .collect();
        (heads, truths)
    }

    /// The definition, written down over the full matrix of objects and cells.
    fn naive(head: &ImageHead, truths: &[Truth]) -> Vec<Positive> {
        let cells: Vec<(usize, usize)> =
            head.grids.iter().enumerate().flat_map(|(l, g)| (0..g.h * g.w).map(move |c| (l, c))).collect();
        let mut metric = vec![vec![0.0; cells.len()]; truths.len()];
        let mut overlap = metric.clone();
        let mut chosen = vec![vec![false; cells.len()]; truths.len()];
        for (i, t) in truths.iter().enumerate() {
            for (j, &(l, c)) in cells.iter().enumerate() {
                let s = head.grids[l].stride as f64;
                let b = t.bbox.map(|v| f64::from(v) / s);
                let [x, y] = head.anchor(l, c);
                if x > b[0] && x < b[2] && y > b[1] && y < b[3] {
                    let score = 1.0 / (1.0 + (-f64::from(head.cell(l, c)[BOX_CHANNELS + t.class])).exp());
                    overlap[i][j] = ciou(&head.decode(l, c), &b).max(0.0);
                    metric[i][j] = score.sqrt() * overlap[i][j].powi(6);
                }
            }
            let mut order: Vec<usize> = (0..cells.len()).collect();
            order.sort_by(|&a, &b| metric[i][b].partial_cmp(&metric[i][a]).unwrap());
            for &j in order.iter().take(10).filter(|&&j| metric[i][j] > 0.0) {
                chosen[i][j] = true;
            }
        }
        let mut out = Vec::new();
        for j in 0..cells.len() {
            let owners: Vec<usize> = (0..truths.len()).filter(|&i| chosen[i][j]).collect();
            for &i in &owners {
                chosen[i][j] = owners.iter().all(|&o| o == i || overlap[o][j] < overlap[i][j]);
            }
        }
        for j in 0..cells.len() {
            for i in 0..truths.len() {
                if chosen[i][j] {
                    let of = |m: &[f64]| (0..cells.len()).filter(|&k| chosen[i][k]).map(|k| m[k]).fold(0.0, f64::max);
                    let target = metric[i][j] * of(&overlap[i]) / of(&metric[i]);
                    out.push(Positive { level: cells[j].0, cell: cells[j].1, truth: i, target });
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition() {
        for seed in 0..20 {
            let (heads, truths) = scene(seed, 3, 1);
            let head = ImageHead::new(&heads, 0);
            let (fast, slow) = (assign(&head, &truths[0]), naive(&head, &truths[0]));
            assert!(fast.len() > 10, "the scene must assign something");
            assert_eq!(fast.len(), slow.len());
            for (a, b) in fast.iter().zip(&slow) {
                assert_eq!((a.level, a.cell, a.truth), (b.level, b.cell, b.truth));
                assert!((a.target - b.target).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn no_objects_no_positives() {
        let (heads, _) = scene(1, 3, 1);
        assert_eq!(assign(&ImageHead::new(&heads, 0), &[]), []);
    }
}
