//! Where instance text stands: the inside of an outline that holds letters.
//!
//! Only the place is found, not what is written. Letters that are a symbol's meaning, such as the M of a motor, are
//! large and alone; they are left as they are.

use super::pieces::{Piece, pieces};

/// Share of all ink from which a piece may be an outline.
const MIN_OUTLINE: f32 = 0.1;
/// Smallest inside of an outline, pixels, and its shorter side.
const MIN_INSIDE: usize = 80;
const MIN_SIDE: usize = 8;
/// Shortest letter, pixels.
const MIN_LETTER: usize = 4;
/// Largest letter as a share of the inside's side, when it is one of several, and when it is alone.
const MAX_LETTER: [f32; 2] = [0.7, 0.4];
/// Share of its box that a letter fills at most; discs and dashes fill more.
const MAX_FILLED: f32 = 0.8;
/// Pixels along the outline that are left to the symbol.
const GUARD: usize = 2;

/// 1 inside outlines that hold text.
pub(super) fn regions(ink: &[u8], w: usize, h: usize) -> Vec<u8> {
    let mut text = vec![0; ink.len()];
    let all = pieces(ink, w, h);
    let total: usize = all.iter().map(|p| p.pixels.len()).sum();
    for (i, outline) in all.iter().enumerate() {
        if (outline.pixels.len() as f32) < MIN_OUTLINE * total as f32 {
            continue;
        }
        // Thickened, so that a gap of two pixels does not open the outline.
        let wall = thickened(&outline.pixels, 1, w, h);
        let guard = thickened(&outline.pixels, GUARD, w, h);
        for inside in enclosed(&wall, w, h) {
            let [iw, ih] = inside.size();
            if inside.pixels.len() < MIN_INSIDE || iw.min(ih) < MIN_SIDE {
                continue;
            }
            let held: Vec<&Piece> = (0..all.len())
                .filter(|&k| k != i && inside.pixels.binary_search(&all[k].pixels[0]).is_ok())
                .map(|k| &all[k])
                .collect();
            if is_writing(&held, [iw, ih]) {
                for &p in inside.pixels.iter().filter(|&&p| guard[p] == 0) {
                    text[p] = 1;
                }
            }
        }
    }
    text
}

/// Whether pieces inside an outline of a size look like letters.
fn is_writing(held: &[&Piece], [iw, ih]: [usize; 2]) -> bool {
    let fits = |p: &Piece, share: f32| {
        let [pw, ph] = p.size();
        pw as f32 <= share * iw as f32 && ph as f32 <= share * ih as f32
    };
    let letter = |p: &&&Piece| {
        let [pw, ph] = p.size();
        pw.max(ph) > MIN_LETTER && pw.min(ph) >= MIN_LETTER && p.pixels.len() as f32 <= MAX_FILLED * (pw * ph) as f32
    };
    let letters: Vec<&Piece> = held.iter().filter(letter).copied().collect();
    let share = MAX_LETTER[usize::from(letters.len() == 1)];
    !letters.is_empty() && held.iter().all(|p| fits(p, share))
}

fn thickened(pixels: &[usize], by: usize, w: usize, h: usize) -> Vec<u8> {
    let mut out = vec![0; w * h];
    for &i in pixels {
        let (x, y) = (i % w, i / w);
        for v in y.saturating_sub(by)..=(y + by).min(h - 1) {
            out[v * w + x.saturating_sub(by)..=v * w + (x + by).min(w - 1)].fill(1);
        }
    }
    out
}

/// The parts of the picture that a wall cuts off from the border (four neighbours), pixels in order.
fn enclosed(wall: &[u8], w: usize, h: usize) -> Vec<Piece> {
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
