//! Classes that are told apart by what is written in them: instruments and terminals of other standards.
//!
//! Owns their outlines and patterns of text. The same seed gives the same classes.

use std::collections::BTreeSet;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::symbol::{Role, Symbol};

/// Outlines about the origin; several classes share one.
const OUTLINES: [&str; 8] = [
    r#"<circle r="34"/>"#,
    r#"<rect x="-32" y="-32" width="64" height="64"/>"#,
    r#"<circle r="34"/><path d="M-34,0 H34"/>"#,
    r#"<circle r="34"/><path d="M-34,-3 H34 M-34,3 H34"/>"#,
    r#"<circle r="32"/><rect x="-32" y="-32" width="64" height="64"/><path d="M-32,0 H32"/>"#,
    r#"<path d="M-38,0 L-19,-33 H19 L38,0 L19,33 H-19 Z"/>"#,
    r#"<rect x="-44" y="-20" width="88" height="40"/>"#,
    r#"<rect x="-34" y="-36" width="68" height="72"/>"#,
];

/// A line of text in a symbol.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// `#` is any digit, `?` any letter; the rest is written as it is.
    pub pattern: String,
    /// Middle below the origin, units.
    pub y: f64,
    /// Height of the letters, units.
    pub height: f64,
}

impl Line {
    /// One text of the pattern.
    pub fn text(&self, rng: &mut impl Rng) -> String {
        let letter = |c: char, rng: &mut _| match c {
            '#' => char::from(b'0' + RngExt::random_range(rng, 0..10u8)),
            '?' => char::from(b'A' + RngExt::random_range(rng, 0..26u8)),
            c => c,
        };
        self.pattern.chars().map(|c| letter(c, rng)).collect()
    }
}

/// `n` classes.
pub fn symbols(seed: u64, n: u32) -> Vec<Symbol> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Sheets count their streams from 0; the last two are taken.
    rng.set_stream(u64::MAX - 2);
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    while (out.len() as u32) < n {
        let outline = rng.random_range(0..OUTLINES.len());
        let kind = rng.random_range(0..5u8);
        // Two classes of one outline differ in a fixed part of their texts.
        if matches!(kind, 0 | 3) && !seen.insert((outline, kind)) {
            continue;
        }
        let name = format!("lettered_{:03}", out.len() + 1);
        let mut symbol = Symbol::drawn(&name, Role::Balloon, OUTLINES[outline]);
        symbol.writing = Some(writing(outline, kind, &mut rng));
        out.push(symbol);
    }
    out
}

/// An empty outline.
pub fn stranger(rng: &mut impl Rng) -> Symbol {
    let mut symbol = Symbol::drawn("stranger", Role::Balloon, OUTLINES[rng.random_range(0..OUTLINES.len())]);
    symbol.writing = Some(Vec::new());
    symbol
}

fn writing(outline: usize, kind: u8, rng: &mut impl Rng) -> Vec<Line> {
    let wide = [6, 6, 6, 6, 5, 6, 7, 6][outline] as usize;
    let letters = |n: usize, rng: &mut _| -> String {
        (0..n).map(|_| char::from(b'A' + RngExt::random_range(rng, 0..26u8))).collect()
    };
    let line = |pattern: String, y: f64, height: f64| Line { pattern, y, height };
    let height = rng.random_range(11.0..15.0);
    let low = outline == 6;
    let n = rng.random_range(2..=3usize);
    match kind {
        // Letters over a number, both different in every instance.
        0 => vec![line("??".to_owned(), -11.0, height), line("###".to_owned(), 11.0, height)],
        // Fixed letters over a number.
        1 => vec![
            line(letters(n, rng), if low { -9.0 } else { -13.0 }, height),
            line("###".to_owned(), if low { 9.0 } else { 13.0 }, height),
        ],
        // One fixed word.
        2 => vec![line(letters(n + 1, rng), if low { 0.0 } else { rng.random_range(-4.0..8.0) }, height * 1.1)],
        // A number alone.
        3 => vec![line("##".to_owned(), if low { 0.0 } else { 12.0 }, height)],
        // Three lines with a fixed one in the middle, or a long word over a number.
        _ if matches!(outline, 1 | 7) => vec![
            line("###".to_owned(), -20.0, height * 0.9),
            line(format!("{}-##", letters(2, rng)), 0.0, height * 0.8),
            line("###".to_owned(), 20.0, height * 0.9),
        ],
        _ => {
            let word: String = letters(wide - 1, rng);
            vec![
                line(word, if low { -9.0 } else { -10.0 }, 9.0),
                line("###".to_owned(), if low { 9.0 } else { 12.0 }, height),
            ]
        }
    }
}
