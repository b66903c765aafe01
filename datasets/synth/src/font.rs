//! Letters as strokes, drawn for this project: upper case, digits and the signs of drawings.
//!
//! Owns the glyphs on their grid of 5 x 7 points (x 0..=4, y 0..=6 downwards). Refuses layout.

/// Height of a capital on the grid.
pub const HEIGHT: f64 = 6.0;
/// Step from one letter to the next on the grid.
pub const ADVANCE: f64 = 5.8;

/// Strokes of a character: polylines separated by `|`, points as two digits `xy`. Unknown characters are empty.
fn strokes(c: char) -> &'static str {
    match c.to_ascii_uppercase() {
        'A' => "06 02 20 42 46|04 44",
        'B' => "06 00 30 41 42 33 03|33 44 45 36 06",
        'C' => "41 30 10 01 05 16 36 45",
        'D' => "06 00 30 41 45 36 06",
        'E' => "40 00 06 46|03 33",
        'F' => "40 00 06|03 33",
        'G' => "41 30 10 01 05 16 36 45 43 23",
        'H' => "00 06|40 46|03 43",
        'I' => "10 30|20 26|16 36",
        'J' => "40 45 36 16 05",
        'K' => "00 06|40 03 46",
        'L' => "00 06 46",
        'M' => "06 00 23 40 46",
        'N' => "06 00 46 40",
        'O' | '0' => "10 30 41 45 36 16 05 01 10",
        'P' => "06 00 30 41 42 33 03",
        'Q' => "10 30 41 45 36 16 05 01 10|24 46",
        'R' => "06 00 30 41 42 33 03|23 46",
        'S' => "41 30 10 01 02 13 33 44 45 36 16 05",
        'T' => "00 40|20 26",
        'U' => "00 05 16 36 45 40",
        'V' => "00 26 40",
        'W' => "00 16 23 36 40",
        'X' => "00 46|40 06",
        'Y' => "00 23 40|23 26",
        'Z' => "00 40 06 46",
        '1' => "11 20 26|16 36",
        '2' => "01 10 30 41 42 06 46",
        '3' => "01 10 30 41 42 33 23|33 44 45 36 16 05",
        '4' => "36 30 04 44",
        '5' => "40 00 02 32 43 45 36 06",
        '6' => "41 30 10 01 05 16 36 45 44 33 03",
        '7' => "00 40 16",
        '8' => "10 30 41 42 33 13 02 01 10|13 04 05 16 36 45 44 33",
        '9' => "43 13 02 01 10 30 41 45 36 16 05",
        '-' => "13 33",
        '+' => "21 25|03 43",
        '=' => "02 42|04 44",
        '/' => "06 40",
        '.' => "25 26",
        ',' => "25 16",
        ':' => "21 22|25 26",
        '"' => "10 12|30 32",
        '\'' => "20 22",
        '#' => "10 16|30 36|02 42|04 44",
        '&' => "46 12 11 20 31 32 04 05 16 26 44",
        '(' => "30 12 14 36",
        ')' => "10 32 34 16",
        _ => "",
    }
}

/// Polylines of a text, in grid units from the top left corner of its first letter.
pub fn polylines(text: &str) -> Vec<Vec<[f64; 2]>> {
    let mut out = Vec::new();
    for (i, c) in text.chars().enumerate() {
        let x0 = i as f64 * ADVANCE;
        for stroke in strokes(c).split('|').filter(|s| !s.is_empty()) {
            let point = |p: &str| {
                let digit = |i: usize| f64::from(p.as_bytes()[i] - b'0');
                [x0 + digit(0), digit(1)]
            };
            out.push(stroke.split(' ').map(point).collect());
        }
    }
    out
}

/// Width of a text on the grid.
pub fn width(text: &str) -> f64 {
    (text.chars().count() as f64 * ADVANCE - (ADVANCE - 4.0)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_is_drawn_inside_its_grid() {
        for c in ('A'..='Z').chain('0'..='9').chain("-+=/.,:\"'#&()".chars()) {
            let lines = polylines(&c.to_string());
            assert!(!lines.is_empty(), "{c}");
            for &[x, y] in lines.iter().flatten() {
                assert!((0.0..=4.0).contains(&x) && (0.0..=HEIGHT).contains(&y), "{c}");
            }
            assert!(lines.iter().all(|l| l.len() > 1), "{c}");
        }
    }

    #[test]
    fn letters_differ() {
        let mut all: Vec<&str> = ('A'..='Z').filter(|&c| c != 'O').chain('0'..='9').map(strokes).collect();
        all.sort_unstable();
        let n = all.len();
        all.dedup();
        assert_eq!(all.len(), n);
    }
}
