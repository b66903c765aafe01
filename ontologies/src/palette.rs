//! Display colours: as far apart as the eye can tell, the same on every machine, readable on white.
//!
//! Owns the choice. Colours are picked one after another from a fixed grid in `OKLab` (Björn Ottosson, 2020), each as
//! far as possible from white, black and all before it, so that the first n never depend on what follows.

/// `n` colours (RGB) that keep away from `taken`. Past the grid's size they repeat.
pub fn spread(n: usize, taken: &[[u8; 3]]) -> Vec<[u8; 3]> {
    let grid = grid();
    let fixed: Vec<[f64; 3]> = [[255; 3], [0; 3]].iter().chain(taken).map(|&c| oklab(c)).collect();
    let nearest = |lab: [f64; 3]| fixed.iter().map(|&f| distance(lab, f)).fold(f64::INFINITY, f64::min);
    let mut room: Vec<f64> = grid.iter().map(|&(_, lab)| nearest(lab)).collect();
    let mut chosen = Vec::with_capacity(n);
    for _ in 0..n.min(grid.len()) {
        let best = (0..grid.len()).fold(0, |best, i| if room[i] > room[best] + 1e-9 { i } else { best });
        chosen.push(grid[best].0);
        for (space, &(_, lab)) in room.iter_mut().zip(&grid) {
            *space = space.min(distance(lab, grid[best].1));
        }
    }
    (0..n).map(|i| chosen[i % chosen.len()]).collect()
}

/// Candidates: RGB values of six steps a channel that are neither pale nor grey.
fn grid() -> Vec<([u8; 3], [f64; 3])> {
    const STEPS: [u8; 6] = [0, 51, 102, 153, 204, 240];
    let mut out = Vec::new();
    for r in STEPS {
        for g in STEPS {
            for b in STEPS {
                let lab = oklab([r, g, b]);
                if (0.35..=0.78).contains(&lab[0]) && lab[1].hypot(lab[2]) > 0.09 {
                    out.push(([r, g, b], lab));
                }
            }
        }
    }
    out
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
}

fn oklab(rgb: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(|c| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    });
    let l = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b).cbrt();
    let m = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b).cbrt();
    let s = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b).cbrt();
    [
        0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_five_colours_are_apart() {
        let colours = spread(25, &[]);
        for (i, &a) in colours.iter().enumerate() {
            for &b in &colours[..i] {
                assert!(distance(oklab(a), oklab(b)) > 0.08, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn earlier_colours_stay_when_classes_are_added() {
        assert_eq!(spread(12, &[]), spread(40, &[])[..12]);
    }

    #[test]
    fn more_colours_than_the_grid_holds_repeat() {
        assert_eq!(spread(1000, &[]).len(), 1000);
    }
}
