//! Classes nobody thought of: bodies, insides, heads and ends with random measures.
//!
//! Owns their making and that they differ: no two are alike in any quarter turn or mirrored, and none is like one of
//! the libraries or an unlisted one. One may well be part of another, as symbols are. The same seed gives the same classes, and a smaller
//! number of them is a prefix of a larger one.

use std::fmt::Write;

use ontologies::hvac;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::clutter;
use crate::dress;
use crate::electrical;
use crate::font;
use crate::likeness::Likeness;
use crate::symbol::{Role, Symbol};

/// Stream of their randomness; sheets count theirs from 0.
const STREAM: u64 = u64::MAX - 2;
/// Draws for each class that is asked for, at most.
const TRIES: u32 = 40;

/// `n` wild classes; fewer when the draws run out of symbols that differ.
pub fn symbols(seed: u64, n: u32) -> Vec<Symbol> {
    let mut maker = Maker { rng: ChaCha8Rng::seed_from_u64(seed), body: String::new() };
    maker.rng.set_stream(STREAM);
    if n == 0 {
        return Vec::new();
    }
    let library = hvac::symbols().iter().map(|s| Symbol::new(s.file.to_owned(), s.shape(), None));
    let unlisted = dress::unlisted().chain(clutter::lookalikes()).chain(electrical::unlisted()).cloned();
    let all = library.chain(electrical::symbols()).chain(unlisted);
    let mut known: Vec<Likeness> = all.map(|s| Likeness::of(&s)).collect();
    let mut out = Vec::new();
    for _ in 0..n * TRIES {
        if out.len() >= n as usize {
            break;
        }
        let (role, body) = maker.symbol();
        let symbol = Symbol::drawn(&format!("wild_{:03}", out.len() + 1), role, &body);
        let likeness = Likeness::of(&symbol);
        if known.iter().all(|k| k.differs(&likeness)) {
            known.push(likeness);
            out.push(symbol);
        }
    }
    out
}

struct Maker {
    rng: ChaCha8Rng,
    body: String,
}

impl Maker {
    fn between(&mut self, low: f64, high: f64) -> f64 {
        // Whole units keep the drawing short.
        self.rng.random_range(low..high).round()
    }

    fn below(&mut self, n: u32) -> u32 {
        self.rng.random_range(0..n)
    }

    fn chance(&mut self, p: f64) -> bool {
        self.rng.random::<f64>() < p
    }

    fn path(&mut self, d: &str) {
        let _ = write!(self.body, r#"<path d="{d}"/>"#);
    }

    fn filled(&mut self, d: &str) {
        let _ = write!(self.body, r##"<path d="{d}" fill="#000"/>"##);
    }

    fn disc(&mut self, x: f64, y: f64, r: f64, filled: bool) {
        let fill = if filled { r##" fill="#000""## } else { "" };
        let _ = write!(self.body, r#"<circle cx="{x}" cy="{y}" r="{r}"{fill}/>"#);
    }

    fn letter(&mut self, x: f64, y: f64, height: f64) {
        let letter = char::from(b'A' + self.below(26) as u8);
        let k = height / font::HEIGHT;
        let mut d = String::new();
        for line in font::polylines(&letter.to_string()) {
            for (n, [px, py]) in line.into_iter().enumerate() {
                let pen = if n == 0 { 'M' } else { 'L' };
                let _ = write!(d, "{pen}{:.1},{:.1}", x + (px - 2.0) * k, y + (py - 3.0) * k);
            }
        }
        self.path(&d);
    }

    /// A new symbol: how it is used, and its drawing.
    fn symbol(&mut self) -> (Role, String) {
        self.body.clear();
        let [w, h, roomy] = self.outline();
        let balloon = roomy > 0.0 && w >= 34.0 && h >= 34.0 && self.chance(0.3);
        if !balloon && roomy > 0.0 && self.chance(0.75) {
            self.inside(w, h);
        }
        if self.chance(if balloon { 0.15 } else { 0.4 }) {
            self.head(-h);
        }
        if !balloon && self.chance(0.25) {
            self.ends(w, h);
        }
        let role = match (balloon, self.chance(0.65)) {
            (true, _) => Role::Balloon,
            (false, true) => Role::Inline,
            (false, false) => Role::Free,
        };
        (role, self.body.clone())
    }

    /// Half its width and height, and 1 when something fits inside.
    fn outline(&mut self) -> [f64; 3] {
        let (w, h) = (self.between(24.0, 43.0), self.between(14.0, 34.0));
        match self.below(13) {
            0 => {
                let r = self.between(18.0, 42.0);
                self.disc(0.0, 0.0, r, false);
                [r, r, 1.0]
            }
            1 => {
                let _ = write!(self.body, r#"<ellipse rx="{w}" ry="{h}"/>"#);
                [w, h, 1.0]
            }
            2 | 3 => {
                let h = if self.chance(0.4) { w } else { h };
                self.path(&format!("M-{w},-{h} H{w} V{h} H-{w} Z"));
                [w, h, 1.0]
            }
            4 => {
                let narrow = (h * self.rng.random_range(0.35..0.7)).round();
                self.path(&format!("M-{w},-{h} L{w},-{narrow} V{narrow} L-{w},{h} Z"));
                [w, h, 1.0]
            }
            5 => {
                let d = format!("M-{w},-{h} L{w},0 L-{w},{h} Z");
                if self.chance(0.3) {
                    self.filled(&d);
                } else {
                    self.path(&d);
                }
                [w, h, 0.0]
            }
            6 | 7 => {
                let (left, right) = (format!("M0,0 L-{w},-{h} V{h} Z"), format!("M0,0 L{w},-{h} V{h} Z"));
                match self.below(4) {
                    0 => self.filled(&format!("{left} {right}")),
                    1 => {
                        self.filled(&left);
                        self.path(&right);
                    }
                    _ => self.path(&format!("{left} {right}")),
                }
                [w, h, 1.0]
            }
            8 => {
                let gap = self.between(5.0, 12.0);
                let third = if self.chance(0.4) { format!("M0,-{h} V{h}") } else { String::new() };
                self.path(&format!("M-{gap},-{h} V{h} M{gap},-{h} V{h} {third}"));
                [gap, h, 0.0]
            }
            9 => {
                let cut = self.between(8.0, 20.0);
                self.path(&format!("M-{w},0 L-{},-{h} H{} L{w},0 L{},{h} H-{} Z", w - cut, w - cut, w - cut, w - cut));
                [w, h, 1.0]
            }
            10 => {
                let r = self.between(20.0, 38.0);
                self.path(&format!("M-{r},{0} A{r},{r} 0 0 1 {r},{0} Z", r / 2.0));
                [r, r / 2.0, 0.0]
            }
            11 => {
                let teeth = 2 + self.below(4);
                let step = 2.0 * w / f64::from(2 * teeth);
                let mut d = format!("M-{w},0");
                for n in 1..=2 * teeth {
                    let y = if n == 2 * teeth {
                        0.0
                    } else if n % 2 == 1 {
                        -h * 0.6
                    } else {
                        h * 0.6
                    };
                    let _ = write!(d, " L{:.1},{y:.1}", step * f64::from(n) - w);
                }
                self.path(&d);
                if self.chance(0.5) {
                    self.path(&format!("M-{w},-{h} H{w} V{h} H-{w} Z"));
                }
                [w, h, 0.0]
            }
            _ => {
                let slash =
                    if self.chance(0.5) { format!("M-{w},-{h} L{w},{h}") } else { format!("M-{w},{h} L{w},-{h}") };
                self.path(&format!("M-{w},-{h} V{h} M{w},-{h} V{h} {slash}"));
                [w, h, 1.0]
            }
        }
    }

    fn inside(&mut self, w: f64, h: f64) {
        let r = self.between(5.0, 12.0).min(h * 0.7);
        let (x, y) = ((w * 0.55).round(), (h * 0.55).round());
        match self.below(11) {
            0 => self.disc(0.0, 0.0, r, true),
            1 => self.disc(0.0, 0.0, r, false),
            2 => self.path(&format!("M-{x},-{y} L{x},{y} M-{x},{y} L{x},-{y}")),
            3 => self.path(&format!("M0,-{h} V{h}")),
            4 => self.path(&format!("M-{w},0 H{w}")),
            5 => self.path(&format!("M-{x},{y} L{x},-{y}")),
            6 => self.letter(0.0, 0.0, h.min(w) * 0.9),
            7 => self.filled(&format!("M-{r},-{r} L{r},0 L-{r},{r} Z")),
            8 => self.path(&format!("M-{x},0 L-{0},-{y} L{0},{y} L{x},0", (x / 2.0).round())),
            9 => self.path(&format!("M-{r},-{r} H{r} V{r} H-{r} Z")),
            _ => {
                let off = self.between(4.0, 9.0);
                self.path(&format!("M-{x},-{off} H{x} M-{x},{off} H{x}"));
            }
        }
    }

    /// What stands on the symbol, above `y`.
    fn head(&mut self, y: f64) {
        let from = if self.chance(0.5) { 0.0 } else { y };
        let long = self.between(5.0, 12.0).min(52.0 + y);
        let top = y - long;
        let r = self.between(6.0, 13.0).min(f64::midpoint(58.0, top)).max(3.0);
        self.path(&format!("M0,{from} V{top}"));
        match self.below(7) {
            0 => self.path(&format!("M-{0},{top} H{0}", r + 6.0)),
            1 => self.disc(0.0, top - r, r, false),
            2 => self.disc(0.0, top - r, r, true),
            3 => self.path(&format!("M-{r},{top} H{r} V{0} H-{r} Z", top - 1.6 * r)),
            4 => self.path(&format!("M-{0},{top} A{0},{0} 0 0 1 {0},{top} Z", r * 1.3)),
            5 => {
                self.disc(-r, top - r, r * 0.9, true);
                self.disc(r, top - r, r * 0.9, false);
            }
            _ => self.path(&format!("M-{r},{top} L0,{} L{r},{top} Z", top - 1.5 * r)),
        }
    }

    /// What is at the left and the right end.
    fn ends(&mut self, w: f64, h: f64) {
        let x = w + self.between(4.0, 9.0);
        match self.below(3) {
            0 => self.path(&format!("M-{x},-{h} V{h} M{x},-{h} V{h}")),
            1 => {
                self.disc(-x, 0.0, 4.0, true);
                self.disc(x, 0.0, 4.0, true);
            }
            _ => self.path(&format!("M-{x},-{h} V{h}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_asked_all_different_and_a_prefix() {
        let all = symbols(3, 60);
        assert_eq!(all.len(), 60);
        let few: Vec<_> = symbols(3, 7).iter().map(|s| s.shape.picture(1.0, 2)).collect();
        assert_eq!(few, all[..7].iter().map(|s| s.shape.picture(1.0, 2)).collect::<Vec<_>>());
        assert_ne!(few, symbols(4, 7).iter().map(|s| s.shape.picture(1.0, 2)).collect::<Vec<_>>());
        let likeness: Vec<Likeness> = all.iter().map(Likeness::of).collect();
        for (n, a) in likeness.iter().enumerate() {
            assert!(likeness[..n].iter().all(|b| a.differs(b)), "{n}");
            assert!(!a.differs(&likeness[n]), "{n} is like itself");
        }
    }

    #[test]
    fn every_one_keeps_inside_its_view_box() {
        for s in symbols(5, 80) {
            let ink = s.shape.ink().unwrap();
            let inside = ink.left() >= 0.0 && ink.top() >= -4.0 && ink.right() <= 120.0 && ink.bottom() <= 120.0;
            assert!(inside && ink.width() > 12.0 && ink.height() > 12.0, "{} {ink:?}", s.name);
        }
    }
}
