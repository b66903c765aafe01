//! Widths of strokes, and ends of pipes and wires that a cut-out has kept: strokes that run out to the border and stick out of the body.

use super::area;
use super::pieces::enclosed;

/// Longest stub as a share of the side, where nothing is known about the margin.
const MAX_LENGTH: f32 = 0.15;
/// The same, pixels, for small pictures.
const MIN_LENGTH: usize = 3;
/// Longest stub whatever the margin is.
const LONGEST: f32 = 0.3;
/// Margin as a share of the side up to which the picture is a cut-out whose stubs bridge its margin.
const MAX_MARGIN: f32 = 0.2;
/// Most stubs a side; more are the teeth of something.
const MAX_STUBS: usize = 2;
/// Rows at the border of which one must hold ink: the outermost may have faded.
const REACH: usize = 2;

/// Rows within which the body must have begun. Strokes that part at a right angle are no wider by then than twice this.
const AHEAD: usize = 3;

/// A side of the picture: rows are counted from it inwards.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Top,
    Right,
    Bottom,
}

struct Picture<'a> {
    ink: &'a [u8],
    w: usize,
    h: usize,
}

/// What lies between a side and the body.
struct Gap {
    /// Rows between the border and the body.
    depth: usize,
    /// Pixels of the stubs in these rows.
    stubs: Vec<usize>,
}

/// Pixels of all stubs.
pub(super) fn find(ink: &[u8], w: usize, h: usize) -> Vec<usize> {
    let picture = Picture { ink, w, h };
    let stroke = stroke(ink, w, h);
    let gaps = [Side::Left, Side::Top, Side::Right, Side::Bottom].map(|s| picture.gap(s, stroke));
    let mut found: Vec<usize> = Vec::new();
    for (k, gap) in gaps.iter().enumerate() {
        let sides = [w, h];
        let (side, across) = (sides[k % 2], sides[(k + 1) % 2]);
        // The margin that the cut-out has on the two other sides.
        let margin = gaps[(k + 1) % 4].depth.min(gaps[(k + 3) % 4].depth) as f32;
        let bridged = if margin <= MAX_MARGIN * across as f32 { 1.5 * margin + 2.0 } else { 0.0 };
        let longest = (MAX_LENGTH * side as f32).ceil().max(MIN_LENGTH as f32).max(bridged);
        // What closes an outline is no stub.
        if gap.depth as f32 <= longest && !opens(ink, &gap.stubs, w, h) {
            found.extend(&gap.stubs);
        }
    }
    found.sort_unstable();
    found.dedup();
    // A symbol that is nothing but strokes to the border is not made of stubs.
    if 2 * found.len() > area(ink) { Vec::new() } else { found }
}

/// Whether taking out pixels lets the border's paper into an outline.
fn opens(ink: &[u8], pixels: &[usize], w: usize, h: usize) -> bool {
    let inside = |ink: &[u8]| enclosed(ink, w, h).iter().map(|p| p.pixels.len()).sum::<usize>();
    let mut without = ink.to_vec();
    for &i in pixels {
        without[i] = 0;
    }
    inside(&without) < inside(ink)
}

/// The usual width of a stroke, pixels: the median over the ink of the shorter of the two runs through a pixel.
pub(super) fn stroke(ink: &[u8], w: usize, h: usize) -> f32 {
    let picture = Picture { ink, w, h };
    let mut widths = vec![usize::MAX; ink.len()];
    for side in [Side::Left, Side::Top] {
        for row in 0..picture.size(side).0 {
            for [a, b] in picture.runs(side, row) {
                for at in a..b {
                    let i = picture.index(side, row, at);
                    widths[i] = widths[i].min(b - a);
                }
            }
        }
    }
    let mut widths: Vec<usize> = widths.into_iter().filter(|&v| v != usize::MAX).collect();
    widths.sort_unstable();
    widths.get(widths.len() / 2).map_or(1.0, |&v| v as f32)
}

impl Picture<'_> {
    /// Number of rows seen from a side, and their length.
    fn size(&self, side: Side) -> (usize, usize) {
        match side {
            Side::Left | Side::Right => (self.w, self.h),
            Side::Top | Side::Bottom => (self.h, self.w),
        }
    }

    fn index(&self, side: Side, row: usize, at: usize) -> usize {
        let (x, y) = match side {
            Side::Left => (row, at),
            Side::Top => (at, row),
            Side::Right => (self.w - 1 - row, at),
            Side::Bottom => (at, self.h - 1 - row),
        };
        y * self.w + x
    }

    /// Runs of ink in a row: start, and one past the end.
    fn runs(&self, side: Side, row: usize) -> Vec<[usize; 2]> {
        let (_, length) = self.size(side);
        let mut runs: Vec<[usize; 2]> = Vec::new();
        for at in (0..length).filter(|&at| self.ink[self.index(side, row, at)] == 1) {
            match runs.last_mut() {
                Some(run) if run[1] == at => run[1] = at + 1,
                _ => runs.push([at, at + 1]),
            }
        }
        runs
    }

    /// The rows between a side and the body. Stubs keep their width and place until the body begins at once: a point of
    /// a triangle that touches the border grows slowly and is no stub.
    fn gap(&self, side: Side, stroke: f32) -> Gap {
        let (rows, length) = self.size(side);
        let limit = ((LONGEST * rows as f32) as usize).max(MIN_LENGTH);
        let empty = (0..rows).take_while(|&r| self.runs(side, r).is_empty()).count();
        let start = if empty < REACH.min(rows) { self.runs(side, empty) } else { Vec::new() };
        let widest = (2.0 * stroke + 1.0).max(4.0).min(0.3 * length as f32);
        let narrow = |r: &[usize; 2]| (r[1] - r[0]) as f32 <= widest;
        let none = Gap { depth: empty, stubs: Vec::new() };
        if start.is_empty() || start.len() > MAX_STUBS || !start.iter().all(narrow) {
            return none;
        }
        let goes_on = |r: &[usize; 2], first: &[usize; 2]| r[0].abs_diff(first[0]).max(r[1].abs_diff(first[1])) <= 1;
        // The outermost rows of an arc look like a stub that is wider than long.
        let shortest = start.iter().map(|r| (r[1] - r[0]).div_ceil(2)).fold(2, usize::max);
        let mut stubs = Vec::new();
        for row in empty..rows {
            let runs = self.runs(side, row);
            if runs.len() == start.len() && runs.iter().zip(&start).all(|(r, first)| goes_on(r, first)) {
                if row >= limit {
                    return none;
                }
                stubs.extend(runs.iter().flat_map(|&[a, b]| (a..b).map(move |at| self.index(side, row, at))));
                continue;
            }
            let begins = |first: &[usize; 2]| {
                let ahead = row..(row + AHEAD).min(rows);
                let width = first[1] - first[0];
                let least = (2 * width + 1).max(width + 2 * AHEAD + 1);
                let wide = |r: &[usize; 2]| r[0] < first[1] && first[0] < r[1] && r[1] - r[0] >= least;
                ahead.into_iter().any(|r| self.runs(side, r).iter().any(wide))
            };
            return if row - empty >= shortest && start.iter().all(begins) { Gap { depth: row, stubs } } else { none };
        }
        none
    }
}
