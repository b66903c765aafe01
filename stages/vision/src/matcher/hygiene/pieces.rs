//! Connected pieces of ink, and which of them belong to neighbours.

/// Largest fragment, as a share of all ink.
const MAX_FRAGMENT: f32 = 0.15;
/// Share of all ink that fragments may be together; when they are more, they are the symbol.
const MAX_FRAGMENTS: f32 = 0.4;
/// Share of a fragment's pixels that lie on the border, at least.
const MIN_TOUCHING: f32 = 0.06;
/// Share of all ink that a line along the border may be.
const MAX_LINE: f32 = 0.25;
/// Fewest pixels of a piece that is no speck.
const MIN_PIECE: usize = 4;

/// A connected piece of ink (eight neighbours).
#[derive(Clone, Debug)]
pub(in super::super) struct Piece {
    pub pixels: Vec<usize>,
    /// Left, top, right, bottom; the last two are one past the ink.
    pub bounds: [usize; 4],
}

impl Piece {
    pub fn size(&self) -> [usize; 2] {
        let [x0, y0, x1, y1] = self.bounds;
        [x1 - x0, y1 - y0]
    }
}

/// The pieces, in row order of their first pixel.
pub(in super::super) fn pieces(mask: &[u8], w: usize, h: usize) -> Vec<Piece> {
    let mut seen = vec![false; mask.len()];
    let mut all = Vec::new();
    for start in 0..mask.len() {
        if mask[start] == 0 || seen[start] {
            continue;
        }
        let (mut pixels, mut next) = (Vec::new(), vec![start]);
        let mut bounds = [usize::MAX, usize::MAX, 0, 0];
        seen[start] = true;
        while let Some(i) = next.pop() {
            pixels.push(i);
            let (x, y) = (i % w, i / w);
            bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x + 1), bounds[3].max(y + 1)];
            for v in y.saturating_sub(1)..=(y + 1).min(h - 1) {
                for u in x.saturating_sub(1)..=(x + 1).min(w - 1) {
                    let k = v * w + u;
                    if mask[k] == 1 && !seen[k] {
                        seen[k] = true;
                        next.push(k);
                    }
                }
            }
        }
        all.push(Piece { pixels, bounds });
    }
    all
}

/// The parts of the picture that a wall cuts off from the border (four neighbours), pixels in order.
pub(in super::super) fn enclosed(wall: &[u8], w: usize, h: usize) -> Vec<Piece> {
    let mut seen: Vec<bool> = wall.iter().map(|&v| v == 1).collect();
    let mut found = Vec::new();
    for start in 0..wall.len() {
        if seen[start] {
            continue;
        }
        let (mut pixels, mut next, mut open) = (Vec::new(), vec![start], false);
        let mut bounds = [usize::MAX, usize::MAX, 0, 0];
        seen[start] = true;
        while let Some(i) = next.pop() {
            let (x, y) = (i % w, i / w);
            open |= x == 0 || y == 0 || x + 1 == w || y + 1 == h;
            pixels.push(i);
            bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x + 1), bounds[3].max(y + 1)];
            let neighbours =
                [(x > 0, i.wrapping_sub(1)), (x + 1 < w, i + 1), (y > 0, i.wrapping_sub(w)), (y + 1 < h, i + w)];
            for (_, k) in neighbours.into_iter().filter(|n| n.0) {
                if !seen[k] {
                    seen[k] = true;
                    next.push(k);
                }
            }
        }
        if !open {
            pixels.sort_unstable();
            found.push(Piece { pixels, bounds });
        }
    }
    found
}

/// Pixels of parts of neighbours, and pixels of specks.
pub(super) fn foreign(ink: &[u8], w: usize, h: usize) -> (Vec<usize>, Vec<usize>) {
    let all = pieces(ink, w, h);
    let total: usize = all.iter().map(|p| p.pixels.len()).sum();
    let Some(main) = (0..all.len()).max_by_key(|&i| (all[i].pixels.len(), std::cmp::Reverse(i))) else {
        return Default::default();
    };
    let others = || all.iter().enumerate().filter(|&(i, p)| i != main && p.pixels.len() >= MIN_PIECE);
    let mut foreign: Vec<usize> = others()
        .filter(|(_, p)| {
            (chopped(p, total, w, h) || line_along(p, total, w, h)) && !twin(p, &all, w, h) && !end_bar(p, w, h)
        })
        .map(|(i, _)| i)
        .collect();
    // Letters and dashes of a chopped word that the border misses by a hair stand in line with those that it cuts.
    let cut = foreign.clone();
    let body = all[main].bounds;
    foreign.extend(others().map(|(i, _)| i).filter(|i| {
        let p = &all[*i];
        let small = p.pixels.len() as f32 <= MAX_FRAGMENT * total as f32;
        !cut.contains(i) && small && cut.iter().any(|&c| in_line(p, &all[c], body, w, h))
    }));
    let sum: usize = foreign.iter().map(|&i| all[i].pixels.len()).sum();
    if sum as f32 > MAX_FRAGMENTS * total as f32 {
        foreign.clear();
    }
    let specks = all.iter().enumerate().filter(|&(i, p)| i != main && p.pixels.len() < MIN_PIECE);
    let pixels = |i: usize| all[i].pixels.iter().copied();
    (foreign.into_iter().flat_map(pixels).collect(), specks.flat_map(|(i, _)| pixels(i)).collect())
}

/// A small piece that the border cuts off: it is narrower than half the picture both ways and lies along the border.
fn chopped(p: &Piece, total: usize, w: usize, h: usize) -> bool {
    let n = p.pixels.len() as f32;
    let touching = p.pixels.iter().filter(|&&i| i % w == 0 || i % w + 1 == w || i / w == 0 || i / w + 1 == h).count();
    let [pw, ph] = p.size();
    n <= MAX_FRAGMENT * total as f32 && touching as f32 > MIN_TOUCHING * n && 2 * pw < w && 2 * ph < h
}

/// A stroke that runs from border to border near the picture's edge, such as a pipe that passes by.
fn line_along(p: &Piece, total: usize, w: usize, h: usize) -> bool {
    let thin = |side: usize| (0.12 * side as f32).max(2.0);
    let [x0, y0, x1, y1] = p.bounds;
    let near = |lo: usize, hi: usize, side: usize| {
        let band = 0.2 * side as f32;
        (hi - lo) as f32 <= thin(side) && (hi as f32 <= band || (side - lo) as f32 <= band)
    };
    let passes = (x1 - x0 == w && near(y0, y1, h)) || (y1 - y0 == h && near(x0, x1, w));
    passes && p.pixels.len() as f32 <= MAX_LINE * total as f32
}

/// Whether a piece at a side of the picture has a counterpart at the opposite side: then both belong to the symbol.
fn twin(piece: &Piece, all: &[Piece], w: usize, h: usize) -> bool {
    let [x0, y0, x1, y1] = piece.bounds;
    let slack = 2 + w.min(h) / 20;
    let alike = |other: &Piece, wanted: [usize; 4]| (0..4).all(|k| other.bounds[k].abs_diff(wanted[k]) <= slack);
    let across = [(x0 == 0 || x1 == w, [w - x1, y0, w - x0, y1]), (y0 == 0 || y1 == h, [x0, h - y1, x1, h - y0])];
    let is_twin = |p: &Piece| across.iter().any(|&(touches, mirrored)| touches && alike(p, mirrored));
    all.iter().any(|p| p.bounds != piece.bounds && is_twin(p))
}

/// A bar along the middle of a side, such as the last one of an earth symbol.
fn end_bar(p: &Piece, w: usize, h: usize) -> bool {
    let [x0, y0, x1, y1] = p.bounds;
    let ([pw, ph], slack) = (p.size(), 1 + w.min(h) / 20);
    let filled = 10 * p.pixels.len() >= 9 * pw * ph;
    let below = pw > 2 * ph && (x0 + x1).abs_diff(w) <= slack && (y0 == 0 || y1 == h);
    let beside = ph > 2 * pw && (y0 + y1).abs_diff(h) <= slack && (x0 == 0 || x1 == w);
    filled && (below || beside)
}

/// Whether a piece continues the line of writing that a chopped piece belongs to, outside the body's box.
fn in_line(p: &Piece, chopped: &Piece, body: [usize; 4], w: usize, h: usize) -> bool {
    let overlap = |k: usize| {
        let (lo, hi) = (p.bounds[k].max(chopped.bounds[k]), p.bounds[k + 2].min(chopped.bounds[k + 2]));
        hi > lo
    };
    let outside = |k: usize| p.bounds[k + 2] <= body[k] + 1 || p.bounds[k] + 1 >= body[k + 2];
    let c = chopped.bounds;
    // A line of writing lies along the side that cuts it.
    (outside(1) && (c[1] == 0 || c[3] == h) && overlap(1)) || (outside(0) && (c[0] == 0 || c[2] == w) && overlap(0))
}
