//! Where instance text stands: the inside of an outline that holds letters.
//!
//! Only the place is found, not what is written. Letters that are a symbol's meaning, such as the M of a motor, are
//! large and alone; they are left as they are.

use super::pieces::{Piece, enclosed, pieces};
use super::stubs::stroke;
use crate::matcher::ink::distance;

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
/// Largest letter that has grown together with the outline, as a share of the outline's side.
const MAX_ATTACHED: f32 = 0.4;
/// Longest distance that is told apart, thirds of a pixel.
const FAR: u8 = 250;
/// Pixels along the outline that are left to the symbol.
const GUARD: usize = 2;

/// 1 inside outlines that hold text.
pub(super) fn regions(ink: &[u8], w: usize, h: usize) -> Vec<u8> {
    let mut text = vec![0; ink.len()];
    let all = pieces(ink, w, h);
    let total: usize = all.iter().map(|p| p.pixels.len()).sum();
    let width = stroke(ink, w, h);
    for (i, outline) in all.iter().enumerate() {
        if (outline.pixels.len() as f32) < MIN_OUTLINE * total as f32 {
            continue;
        }
        let detached = |inside: &Piece, k: usize| k != i && inside.pixels.binary_search(&all[k].pixels[0]).is_ok();
        let frame = without_attached(outline, width, w, h);
        let attached: Vec<usize> = outline.pixels.iter().filter(|p| frame.binary_search(p).is_err()).copied().collect();
        // Thickened, so that a gap of two pixels does not open the outline.
        let wall = thickened(&frame, 1, w, h);
        let guard = thickened(&frame, GUARD, w, h);
        for inside in enclosed(&wall, w, h) {
            let [iw, ih] = inside.size();
            if inside.pixels.len() < MIN_INSIDE || iw.min(ih) < MIN_SIDE {
                continue;
            }
            let held: Vec<&Piece> = (0..all.len()).filter(|&k| detached(&inside, k)).map(|k| &all[k]).collect();
            if is_writing(&held, [iw, ih]) {
                // Above and below the lines there is paper, which tells the outline from others.
                let lines = rows_around(&held, &attached, &inside, w, h);
                for &p in inside.pixels.iter().filter(|&&p| guard[p] == 0 && lines[p / w]) {
                    text[p] = 1;
                }
            }
        }
    }
    text
}

/// Pixels of an outline without letters that have grown together with it: small bits that hang on the inside of its
/// outermost stroke. Bars from side to side stay.
fn without_attached(outline: &Piece, stroke: f32, w: usize, h: usize) -> Vec<usize> {
    let mut outside = thickened(&outline.pixels, 1, w, h);
    for i in enclosed(&outside, w, h).into_iter().flat_map(|p| p.pixels) {
        outside[i] = 1;
    }
    for v in &mut outside {
        *v = 1 - *v;
    }
    let from_outside = distance(&outside, w, h, FAR);
    // Beyond the picture is outside too.
    let to_border = |i: usize| (i % w).min(w - 1 - i % w).min(i / w).min(h - 1 - i / w);
    let depth = |i: usize| usize::from(from_outside[i]).min(3 * (to_border(i) + 1));
    let reach = (3.0 * (stroke + 2.5)).min(f32::from(FAR) - 1.0) as usize;
    let mut deep = vec![0; w * h];
    for &i in outline.pixels.iter().filter(|&&i| depth(i) > reach) {
        deep[i] = 1;
    }
    let [ow, oh] = outline.size().map(|v| MAX_ATTACHED * v as f32);
    let small = |p: &Piece| p.size()[0] as f32 <= ow && p.size()[1] as f32 <= oh;
    let rim: Vec<usize> = outline.pixels.iter().copied().filter(|&i| deep[i] == 0).collect();
    let beside_rim = thickened(&rim, 1, w, h);
    // What meets the rim in several places, such as an arc from side to side, is no letter.
    let hangs = |p: &Piece| {
        let mut contact = vec![0; w * h];
        for &i in p.pixels.iter().filter(|&&i| beside_rim[i] == 1) {
            contact[i] = 1;
        }
        pieces(&contact, w, h).len() <= 1
    };
    for i in pieces(&deep, w, h).into_iter().filter(|p| small(p) && hangs(p)).flat_map(|p| p.pixels) {
        deep[i] = 2;
    }
    outline.pixels.iter().copied().filter(|&i| deep[i] != 2).collect()
}

/// The rows of writing inside of an outline, with room for letters that stand a little higher or lower.
fn rows_around(held: &[&Piece], attached: &[usize], inside: &Piece, w: usize, h: usize) -> Vec<bool> {
    let mut rows = vec![false; h];
    let mut tallest = 0;
    for piece in held {
        piece.pixels.iter().for_each(|p| rows[p / w] = true);
        tallest = tallest.max(piece.size()[1]);
    }
    for p in attached.iter().filter(|p| inside.pixels.binary_search(p).is_ok()) {
        rows[p / w] = true;
    }
    let room = (tallest / 3).max(2);
    (0..h).map(|y| rows[y.saturating_sub(room)..(y + room + 1).min(h)].contains(&true)).collect()
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
