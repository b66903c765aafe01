//! Whether two symbols can be told apart when size, stretch, quarter turns and mirroring do
//! not count.
//!
//! Owns the comparison of drawings, for the truth's sake: what is drawn unlisted must not be what is listed. Refuses to
//! find symbols on sheets.

use crate::symbol::Symbol;

/// Cells a side.
const CELLS: usize = 40;
/// Least share of one symbol's ink that is not in the other, for both to be told apart.
const LEAST_DIFFERENCE: f64 = 0.12;

/// The ink of a symbol on a coarse grid: in all eight poses, and with a rim.
pub(crate) struct Likeness {
    poses: Vec<Vec<bool>>,
    rims: Vec<Vec<bool>>,
}

impl Likeness {
    /// The likeness of a symbol with ink.
    pub fn of(symbol: &Symbol) -> Self {
        let ink = symbol.shape.ink().expect("every symbol has ink");
        let scale = CELLS as f32 / ink.width().max(ink.height());
        let picture = symbol.shape.picture(scale, 0).expect("every symbol has ink");
        // Both sides fill the grid, so that symbols which differ by a stretch are alike.
        let (w, h) = (picture.width() as usize, picture.height() as usize);
        let inked =
            |i: usize| picture.get_pixel((i % CELLS * w / CELLS) as u32, (i / CELLS * h / CELLS) as u32).0[0] < 160;
        let grid: Vec<bool> = (0..CELLS * CELLS).map(inked).collect();
        let pose = |n: usize| -> Vec<bool> {
            let at = |x: usize, y: usize| {
                let (x, y) = if n & 1 == 0 { (x, y) } else { (CELLS - 1 - x, y) };
                let (x, y) = if n & 2 == 0 { (x, y) } else { (x, CELLS - 1 - y) };
                let (x, y) = if n & 4 == 0 { (x, y) } else { (y, x) };
                grid[y * CELLS + x]
            };
            (0..CELLS * CELLS).map(|i| at(i % CELLS, i / CELLS)).collect()
        };
        let poses: Vec<Vec<bool>> = (0..8).map(pose).collect();
        let rims = poses.iter().map(|p| rim(p)).collect();
        Self { poses, rims }
    }

    /// True when each pose of the other leaves ink of one of the two unexplained.
    pub fn differs(&self, other: &Self) -> bool {
        let (own, own_rim) = (&self.poses[0], &self.rims[0]);
        other
            .poses
            .iter()
            .zip(&other.rims)
            .all(|(pose, rim)| missing(own, rim).max(missing(pose, own_rim)) >= LEAST_DIFFERENCE)
    }
}

/// Share of the ink that `others` does not cover.
fn missing(ink: &[bool], others: &[bool]) -> f64 {
    let all = ink.iter().filter(|&&i| i).count().max(1);
    let bare = ink.iter().zip(others).filter(|&(&i, &o)| i && !o).count();
    bare as f64 / all as f64
}

/// The cells at most 2 from an inked one.
fn rim(grid: &[bool]) -> Vec<bool> {
    let mut out = vec![false; grid.len()];
    for (i, _) in grid.iter().enumerate().filter(|(_, inked)| **inked) {
        let (x, y) = (i % CELLS, i / CELLS);
        for ny in y.saturating_sub(2)..=(y + 2).min(CELLS - 1) {
            for nx in x.saturating_sub(2)..=(x + 2).min(CELLS - 1) {
                out[ny * CELLS + nx] = true;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbol::Role;

    #[test]
    fn pose_and_size_do_not_count_and_parts_do() {
        let likeness = |body: &str| Likeness::of(&Symbol::drawn("s", Role::Free, body));
        let flag = likeness(r#"<path d="M-20,30 V-30 L20,-10 Z"/>"#);
        let turned = likeness(r#"<path d="M-18,-10 H18 L6,10 Z"/>"#);
        assert!(!flag.differs(&turned));
        let barred = likeness(r#"<path d="M-20,30 V-30 L20,-10 Z M-20,0 H20 M20,-30 V30"/>"#);
        assert!(flag.differs(&barred) && barred.differs(&flag));
    }
}
