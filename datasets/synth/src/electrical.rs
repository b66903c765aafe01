//! Symbols of electrical schematics, drawn for this project in the manner of IEC 60617 and ANSI Y32.
//!
//! Owns the shapes, where wires meet them and how components are named. Refuses layout.

use std::sync::LazyLock;

use crate::canvas::Point;
use crate::symbol::{Role, Symbol};

/// Where a wire meets a symbol: a point in units from the middle of its drawing, and the way out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terminal {
    /// The point.
    pub at: Point,
    /// A unit vector along an axis.
    pub way: Point,
}

/// A row of the library: name, letters of its designator, terminals as `x,y` and one of `lrud`, drawing.
type Entry = (&'static str, &'static str, &'static str, &'static str);

/// Letters stay upright on schematics: symbols with letters are neither turned nor mirrored.
const LETTERED: [&str; 4] = ["motor", "generator", "voltmeter", "ammeter"];

const LIBRARY: [Entry; 40] = [
    ("resistor", "R", "-28,0l 28,0r", r#"<path d="M-28,-11 H28 V11 H-28 Z"/>"#),
    (
        "resistor zigzag",
        "R",
        "-38,0l 38,0r",
        r#"<path d="M-38,0 H-27 L-22,-12 L-13,12 L-4,-12 L5,12 L14,-12 L23,12 L27,0 H38"/>"#,
    ),
    (
        "variable resistor",
        "RV",
        "-28,0l 28,0r",
        r#"<path d="M-28,-11 H28 V11 H-28 Z M-24,26 L24,-26 M24,-26 L13,-22 M24,-26 L20,-15"/>"#,
    ),
    ("capacitor", "C", "-22,0l 22,0r", r#"<path d="M-22,0 H-6 M6,0 H22 M-6,-22 V22 M6,-22 V22"/>"#),
    (
        "polarised capacitor",
        "C",
        "-24,0l 24,0r",
        r#"<path d="M-24,0 H-10 M-10,-22 H-3 V22 H-10 Z M8,-22 V22 M8,0 H24 M-24,-17 H-14 M-19,-22 V-12"/>"#,
    ),
    (
        "variable capacitor",
        "CV",
        "-22,0l 22,0r",
        r#"<path d="M-22,0 H-6 M6,0 H22 M-6,-22 V22 M6,-22 V22 M-22,26 L22,-26 M22,-26 L11,-21 M22,-26 L19,-15"/>"#,
    ),
    (
        "inductor",
        "L",
        "-40,0l 40,0r",
        r#"<path d="M-40,0 A10,10 0 0 1 -20,0 A10,10 0 0 1 0,0 A10,10 0 0 1 20,0 A10,10 0 0 1 40,0"/>"#,
    ),
    (
        "choke",
        "L",
        "-40,0l 40,0r",
        r#"<path d="M-40,0 A10,10 0 0 1 -20,0 A10,10 0 0 1 0,0 A10,10 0 0 1 20,0 A10,10 0 0 1 40,0 M-36,-17 H36"/>"#,
    ),
    (
        "transformer",
        "T",
        "-26,-40u -26,40d 26,-40u 26,40d",
        r#"<path d="M-26,-40 A10,10 0 0 1 -26,-20 A10,10 0 0 1 -26,0 A10,10 0 0 1 -26,20 A10,10 0 0 1 -26,40 M26,-40 A10,10 0 0 0 26,-20 A10,10 0 0 0 26,0 A10,10 0 0 0 26,20 A10,10 0 0 0 26,40 M-4,-40 V40 M4,-40 V40"/>"#,
    ),
    ("diode", "D", "-30,0l 30,0r", r#"<path d="M-30,0 H30 M-16,-18 L16,0 L-16,18 Z M16,-18 V18"/>"#),
    (
        "zener diode",
        "D",
        "-30,0l 30,0r",
        r#"<path d="M-30,0 H30 M-16,-18 L16,0 L-16,18 Z M24,-24 L16,-18 V18 L8,24"/>"#,
    ),
    (
        "schottky diode",
        "D",
        "-30,0l 30,0r",
        r#"<path d="M-30,0 H30 M-16,-18 L16,0 L-16,18 Z M26,-11 V-18 H16 V18 H6 V11"/>"#,
    ),
    (
        "led",
        "D",
        "-30,0l 30,0r",
        r#"<path d="M-30,0 H30 M-16,-18 L16,0 L-16,18 Z M16,-18 V18 M-2,-18 L10,-36 M10,-36 L1,-31 M10,-36 L9,-26 M12,-18 L24,-36 M24,-36 L15,-31 M24,-36 L23,-26"/>"#,
    ),
    (
        "photodiode",
        "D",
        "-30,0l 30,0r",
        r#"<path d="M-30,0 H30 M-16,-18 L16,0 L-16,18 Z M16,-18 V18 M10,-36 L-2,-18 M-2,-18 L-1,-28 M-2,-18 L7,-23 M24,-36 L12,-18 M12,-18 L13,-28 M12,-18 L21,-23"/>"#,
    ),
    (
        "npn transistor",
        "Q",
        "-38,0l 12,-36u 12,36d",
        r##"<circle r="30"/><path d="M-38,0 H-10 M-10,-18 V18 M-10,-7 L12,-22 V-36 M-10,7 L12,22 V36"/><path d="M12,22 L0,20 L6,11 Z" fill="#000"/>"##,
    ),
    (
        "pnp transistor",
        "Q",
        "-38,0l 12,-36u 12,36d",
        r##"<circle r="30"/><path d="M-38,0 H-10 M-10,-18 V18 M-10,-7 L12,-22 V-36 M-10,7 L12,22 V36"/><path d="M-9,8 L-3,18 L4,9 Z" fill="#000"/>"##,
    ),
    (
        "n channel mosfet",
        "Q",
        "-38,12l 12,-36u 12,36d",
        r##"<circle r="30"/><path d="M-38,12 H-16 V-14 M-9,-19 V-9 M-9,-5 V5 M-9,9 V19 M-9,-14 H12 V-36 M-9,14 H12 V36 M-9,0 H12 V14"/><path d="M-8,0 L2,-5 V5 Z" fill="#000"/>"##,
    ),
    (
        "p channel mosfet",
        "Q",
        "-38,12l 12,-36u 12,36d",
        r##"<circle r="30"/><path d="M-38,12 H-16 V-14 M-9,-19 V-9 M-9,-5 V5 M-9,9 V19 M-9,-14 H12 V-36 M-9,14 H12 V36 M-9,0 H12 V14"/><path d="M11,0 L1,-5 V5 Z" fill="#000"/>"##,
    ),
    (
        "thyristor",
        "V",
        "-30,0l 30,0r 30,22r",
        r#"<path d="M-30,0 H30 M-16,-18 L16,0 L-16,18 Z M16,-18 V18 M16,4 L24,22 H30"/>"#,
    ),
    (
        "operational amplifier",
        "U",
        "-34,-19l -34,19l 38,0r",
        r#"<path d="M-34,-40 L38,0 L-34,40 Z M-27,-19 H-15 M-27,19 H-15 M-21,13 V25"/>"#,
    ),
    ("and gate", "U", "-30,-13l -30,13l 30,0r", r#"<path d="M-30,-26 H4 A26,26 0 0 1 4,26 H-30 Z"/>"#),
    (
        "nand gate",
        "U",
        "-30,-13l -30,13l 41,0r",
        r#"<path d="M-30,-26 H4 A26,26 0 0 1 4,26 H-30 Z"/><circle cx="35.5" r="5.5"/>"#,
    ),
    (
        "or gate",
        "U",
        "-27,-13l -27,13l 36,0r",
        r#"<path d="M-34,-26 H-14 Q16,-26 36,0 Q16,26 -14,26 H-34 Q-20,0 -34,-26 Z"/>"#,
    ),
    (
        "nor gate",
        "U",
        "-27,-13l -27,13l 47,0r",
        r#"<path d="M-34,-26 H-14 Q16,-26 36,0 Q16,26 -14,26 H-34 Q-20,0 -34,-26 Z"/><circle cx="41.5" r="5.5"/>"#,
    ),
    (
        "xor gate",
        "U",
        "-35,-13l -35,13l 36,0r",
        r#"<path d="M-34,-26 H-14 Q16,-26 36,0 Q16,26 -14,26 H-34 Q-20,0 -34,-26 Z M-43,-26 Q-29,0 -43,26"/>"#,
    ),
    ("inverter", "U", "-28,0l 35,0r", r#"<path d="M-28,-24 L24,0 L-28,24 Z"/><circle cx="29.5" r="5.5"/>"#),
    ("earth", "", "0,-22u", r#"<path d="M0,-22 V0 M-22,0 H22 M-14,9 H14 M-6,18 H6"/>"#),
    ("chassis", "", "0,-22u", r#"<path d="M0,-22 V0 M-22,0 H22 M-22,0 L-32,16 M0,0 L-10,16 M22,0 L12,16"/>"#),
    ("signal ground", "", "0,-22u", r#"<path d="M0,-22 V-2 M-18,-2 H18 L0,18 Z"/>"#),
    (
        "battery",
        "BT",
        "-28,0l 28,0r",
        r#"<path d="M-28,0 H-15 M15,0 H28 M-15,-22 V22 M-5,-11 V11 M5,-22 V22 M15,-11 V11"/>"#,
    ),
    (
        "switch",
        "S",
        "-34,0l 34,0r",
        r#"<path d="M-34,0 H-24 M24,0 H34 M-17,-3 L20,-20"/><circle cx="-20" r="4"/><circle cx="20" r="4"/>"#,
    ),
    (
        "push button",
        "S",
        "-34,0l 34,0r",
        r#"<path d="M-34,0 H-24 M24,0 H34 M-24,-12 H24 M0,-12 V-26 M-9,-26 H9"/><circle cx="-20" r="4"/><circle cx="20" r="4"/>"#,
    ),
    ("make contact", "K", "-30,0l 30,0r", r#"<path d="M-30,0 H-14 M14,0 H30 M-14,-20 V20 M14,-20 V20"/>"#),
    (
        "break contact",
        "K",
        "-30,0l 30,0r",
        r#"<path d="M-30,0 H-14 M14,0 H30 M-14,-20 V20 M14,-20 V20 M-20,20 L20,-20"/>"#,
    ),
    ("relay coil", "K", "0,-17u 0,17d", r#"<path d="M-26,-17 H26 V17 H-26 Z M-12,17 L12,-17"/>"#),
    ("lamp", "H", "-22,0l 22,0r", r#"<circle r="22"/><path d="M-15.5,-15.5 L15.5,15.5 M-15.5,15.5 L15.5,-15.5"/>"#),
    ("motor", "M", "-26,0l 26,0r 0,-26u 0,26d", r#"<circle r="26"/><path d="M-10,11 V-11 L0,4 L10,-11 V11"/>"#),
    (
        "generator",
        "G",
        "-26,0l 26,0r 0,-26u 0,26d",
        r#"<circle r="26"/><path d="M9,-7 Q4,-12 0,-12 Q-10,-12 -10,0 Q-10,12 0,12 Q9,12 9,2 H1"/>"#,
    ),
    ("voltmeter", "P", "-26,0l 26,0r 0,-26u 0,26d", r#"<circle r="26"/><path d="M-9,-11 L0,11 L9,-11"/>"#),
    ("fuse", "F", "-38,0l 38,0r", r#"<path d="M-38,0 H38 M-26,-9 H26 V9 H-26 Z"/>"#),
];

/// Symbols that no template shows; some are nearly one of the library.
const UNLISTED: [Entry; 10] = [
    ("ammeter", "P", "-26,0l 26,0r 0,-26u 0,26d", r#"<circle r="26"/><path d="M-9,11 L0,-11 L9,11 M-5,3 H5"/>"#),
    ("thermistor", "RT", "-28,0l 28,0r", r#"<path d="M-28,-11 H28 V11 H-28 Z M-30,24 H-20 L20,-24"/>"#),
    ("varistor", "RV", "-28,0l 28,0r", r#"<path d="M-28,-11 H28 V11 H-28 Z M-20,20 L20,-20 H28"/>"#),
    (
        "diac",
        "D",
        "-30,0l 30,0r",
        r#"<path d="M-30,0 H-16 M16,0 H30 M-16,-30 V30 M16,-30 V30 M-16,-28 L16,-14 L-16,0 Z M16,0 L-16,14 L16,28 Z"/>"#,
    ),
    (
        "crystal",
        "Y",
        "-26,0l 26,0r",
        r#"<path d="M-26,0 H-16 M16,0 H26 M-16,-18 V18 M16,-18 V18 M-8,-22 H8 V22 H-8 Z"/>"#,
    ),
    ("buffer", "U", "-28,0l 24,0r", r#"<path d="M-28,-24 L24,0 L-28,24 Z"/>"#),
    ("loudspeaker", "LS", "-18,-10l -18,10l", r#"<path d="M-18,-14 H-4 V14 H-18 Z M-4,-14 L16,-32 V32 L-4,14"/>"#),
    ("antenna", "E", "0,34d", r#"<path d="M0,34 V-30 M-22,-30 L0,-4 L22,-30"/>"#),
    ("connector", "X", "-16,0l 24,0r", r#"<path d="M-16,0 H4 M-6,-10 L4,0 L-6,10 M12,-12 A12,12 0 0 1 12,12"/>"#),
    ("delay", "U", "-30,0l 30,0r", r#"<path d="M-30,-18 H30 V18 H-30 Z M-10,-18 V18"/>"#),
];

/// The classes of the library, in the order of its table.
pub fn symbols() -> Vec<Symbol> {
    SYMBOLS.clone()
}

/// The symbols that the truth does not list.
pub fn unlisted() -> &'static [Symbol] {
    &OTHERS
}

static SYMBOLS: LazyLock<Vec<Symbol>> = LazyLock::new(|| LIBRARY.iter().map(drawn).collect());
static OTHERS: LazyLock<Vec<Symbol>> = LazyLock::new(|| UNLISTED.iter().map(drawn).collect());

fn drawn(&(name, letters, terminals, body): &Entry) -> Symbol {
    let role = if LETTERED.contains(&name) { Role::Balloon } else { Role::Free };
    let terminals = terminals.split(' ').map(terminal).collect();
    Symbol { terminals, letters, ..Symbol::drawn(&name.replace(' ', "_"), role, body) }
}

fn terminal(text: &str) -> Terminal {
    let (point, way) = text.split_at(text.len() - 1);
    let number = |t: Option<&str>| t.and_then(|t| t.parse().ok()).expect("the table's terminals are numbers");
    let mut parts = point.split(',');
    let at = [number(parts.next()), number(parts.next())];
    let way = match way {
        "l" => [-1.0, 0.0],
        "r" => [1.0, 0.0],
        "u" => [0.0, -1.0],
        _ => [0.0, 1.0],
    };
    Terminal { at, way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_lie_on_the_ink_with_nothing_before_them() {
        for s in SYMBOLS.iter().chain(OTHERS.iter()) {
            let ink = s.shape.ink().unwrap();
            for t in &s.terminals {
                let [x, y] = [t.at[0] as f32 + 60.0, t.at[1] as f32 + 60.0];
                let pad = 2.0;
                let inside =
                    x > ink.left() - pad && x < ink.right() + pad && y > ink.top() - pad && y < ink.bottom() + pad;
                assert!(inside, "{} {t:?} {ink:?}", s.name);
                let mask = s.shape.picture(1.0, 0).unwrap();
                let dark = |d: f32| {
                    let [px, py] = [x - ink.left() - t.way[0] as f32 * d, y - ink.top() - t.way[1] as f32 * d];
                    let near = |v: f32, side: u32| v.round().clamp(0.0, side as f32 - 1.0) as u32;
                    mask.get_pixel(near(px, mask.width()), near(py, mask.height())).0[0] < 128
                };
                assert!((-3..=3).any(|d| dark(d as f32)), "{} has no ink at {t:?}", s.name);
            }
        }
    }

    #[test]
    fn names_differ() {
        let mut names: Vec<&str> = SYMBOLS.iter().chain(OTHERS.iter()).map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n);
        assert!(SYMBOLS.len() >= 25);
    }
}
