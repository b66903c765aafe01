//! Symbols that say too little: a line or two, a bare outline, a solid blob.

use std::fmt;

use crate::matcher::shape::Shape;

/// Share of the ink that the plain thing explains.
const EXPLAINED: f32 = 0.94;
/// Share of the hull that ink fills, from which a symbol is solid.
const SOLID: f32 = 0.85;

/// What a plain symbol is nothing but.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plainness {
    /// One straight line.
    Line,
    /// Two straight lines.
    TwoLines,
    /// An outline without anything in it.
    Outline,
    /// A filled area.
    Solid,
}

impl fmt::Display for Plainness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "nothing but a straight line",
            Self::TwoLines => "nothing but two straight lines",
            Self::Outline => "nothing but an outline",
            Self::Solid => "nothing but a filled area",
        })
    }
}

/// How a symbol is plain; `None` when it is not. Writing in it does not count.
pub(super) fn plainness(shape: &Shape) -> Option<Plainness> {
    let points: Vec<[f32; 2]> = shape.points.iter().map(|p| p.at).collect();
    let hull = &shape.hull.0;
    let n = points.len();
    if n < 3 || hull.len() < 3 {
        return Some(Plainness::Line);
    }
    let edges = || (0..hull.len()).map(|i| (hull[i], hull[(i + 1) % hull.len()]));
    let area: f32 = 0.5 * edges().map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum::<f32>().abs();
    let perimeter: f32 = edges().map(|(a, b)| (b[0] - a[0]).hypot(b[1] - a[1])).sum();
    // A stroke is as wide as the ink is for its length; of outlines the hull's perimeter is about that length.
    let stroke = (shape.ink.len() as f32 / perimeter).clamp(1.5, 6.0) + 1.0;
    let straight = lines(&points, stroke);
    if straight == 1 {
        return Some(Plainness::Line);
    }
    // The hull goes through the centres of the outermost pixels.
    if shape.ink.len() as f32 >= SOLID * (area + 0.5 * perimeter) {
        return Some(Plainness::Solid);
    }
    if straight == 2 {
        return Some(Plainness::TwoLines);
    }
    let near = points.iter().filter(|&&p| edges().any(|(a, b)| to_segment(p, a, b) <= stroke)).count();
    (near as f32 >= EXPLAINED * n as f32).then_some(Plainness::Outline)
}

/// How many straight lines explain the points: 1, 2, or 3 for more. The best line through two of the points is taken
/// first, then the best for the rest.
fn lines(points: &[[f32; 2]], stroke: f32) -> usize {
    let mut rest = points.to_vec();
    for used in 1..=2 {
        let some: Vec<[f32; 2]> = rest.iter().copied().step_by(rest.len().div_ceil(48).max(1)).collect();
        let on = |p: [f32; 2], a: [f32; 2], b: [f32; 2]| {
            let length = (b[0] - a[0]).hypot(b[1] - a[1]);
            let cross = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]);
            length > 2.0 * stroke && cross.abs() <= 0.75 * stroke * length
        };
        let mut best = (0, [[0.0; 2]; 2]);
        for (i, &a) in some.iter().enumerate() {
            for &b in &some[i + 1..] {
                let count = rest.iter().filter(|&&p| on(p, a, b)).count();
                if count > best.0 {
                    best = (count, [a, b]);
                }
            }
        }
        if best.0 == 0 {
            break;
        }
        rest.retain(|&p| !on(p, best.1[0], best.1[1]));
        if rest.len() as f32 <= (1.0 - EXPLAINED) * points.len() as f32 {
            return used;
        }
    }
    3
}

fn to_segment(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let t = ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / (dx * dx + dy * dy).max(1e-9);
    let t = t.clamp(0.0, 1.0);
    (p[0] - a[0] - t * dx).hypot(p[1] - a[1] - t * dy)
}
