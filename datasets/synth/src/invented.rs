//! Classes that no library has: outline, filling and attachment combined at random.
//!
//! Owns the parts. The same seed gives the same classes, and a smaller number of them is a prefix of a larger one.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::symbol::{Role, Symbol};

/// Outlines about the origin, at most 42 units to each side.
const OUTLINES: [&str; 8] = [
    r#"<circle r="30"/>"#,
    r#"<rect x="-28" y="-28" width="56" height="56"/>"#,
    r#"<path d="M-42,0 L-20,-30 H20 L42,0 L20,30 H-20 Z"/>"#,
    r#"<path d="M-36,0 L0,-32 L36,0 L0,32 Z"/>"#,
    r#"<path d="M-42,-22 L42,22 V-22 L-42,22 Z"/>"#,
    r#"<rect x="-42" y="-20" width="84" height="40"/>"#,
    r#"<path d="M-36,-30 L36,0 L-36,30 Z"/>"#,
    r#"<path d="M-42,20 A42,42 0 0 1 42,20 Z"/>"#,
];
/// Fillings, small enough for every outline.
const FILLINGS: [&str; 10] = [
    "",
    r#"<path d="M-20,0 H20"/>"#,
    r#"<path d="M0,-14 V14"/>"#,
    r#"<path d="M-12,-12 L12,12 M-12,12 L12,-12"/>"#,
    r##"<circle r="9" fill="#000"/>"##,
    r#"<circle r="11"/>"#,
    r#"<path d="M-16,12 L16,-12"/>"#,
    r#"<path d="M-18,-5 H18 M-18,5 H18"/>"#,
    r##"<path d="M-10,-11 L12,0 L-10,11 Z" fill="#000"/>"##,
    r#"<path d="M-16,0 Q-8,-16 0,0 T16,0"/>"#,
];
/// Attachments above the origin's outline, and ticks at its sides.
const ATTACHMENTS: [&str; 6] = [
    "",
    r#"<path d="M0,-30 V-46 M-16,-46 H16"/>"#,
    r#"<path d="M0,-30 V-38"/><circle cy="-48" r="10"/>"#,
    r#"<path d="M0,-30 V-38"/><rect x="-12" y="-58" width="24" height="20"/>"#,
    r#"<path d="M0,-30 V-40 M-18,-40 A18,16 0 0 1 18,-40 Z"/>"#,
    r#"<path d="M-48,-14 V14 M48,-14 V14"/>"#,
];

/// Combinations that the symbol library has, or nearly.
fn is_known(outline: usize, filling: usize, attachment: usize) -> bool {
    let plain = attachment == 0 || attachment == 5;
    plain
        && (matches!(outline, 0..=3) && matches!(filling, 0 | 1 | 7)
            || outline == 4 && matches!(filling, 0 | 2 | 4 | 5))
}

/// `n` invented classes.
pub fn symbols(seed: u64, n: u32) -> Vec<Symbol> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // The last stream: sheets count theirs from 0.
    rng.set_stream(u64::MAX);
    let mut seen = BTreeSet::new();
    let most = OUTLINES.len() * FILLINGS.len() * ATTACHMENTS.len() * 3 / 4;
    let mut out = Vec::new();
    while out.len() < (n as usize).min(most) {
        let parts =
            [OUTLINES.len(), FILLINGS.len(), ATTACHMENTS.len()].map(|count| rng.random_range(0..count as u32) as usize);
        if is_known(parts[0], parts[1], parts[2]) || !seen.insert(parts) {
            continue;
        }
        let body = [OUTLINES[parts[0]], FILLINGS[parts[1]], ATTACHMENTS[parts[2]]].concat();
        let role = if parts[0] % 2 == 0 { Role::Inline } else { Role::Free };
        out.push(Symbol::drawn(&format!("invented_{:03}", out.len() + 1), role, &body));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_distinct_and_a_prefix() {
        let all = symbols(7, 60);
        let templates: Vec<_> = all
            .iter()
            .map(|s| {
                let png = crate::scan::encode(&s.shape.picture(1.0, 2).unwrap().into(), None);
                ontologies::Template { path: s.file.clone(), bytes: png }
            })
            .collect();
        let o = ontologies::build(&templates, None, ontologies::PromptStyle::Plain).unwrap();
        assert_eq!(o.classes.len(), 60);
        let few: Vec<_> = symbols(7, 10).iter().map(|s| s.shape.picture(1.0, 2)).collect();
        assert_eq!(few, all[..10].iter().map(|s| s.shape.picture(1.0, 2)).collect::<Vec<_>>());
        assert_ne!(few, symbols(8, 10).iter().map(|s| s.shape.picture(1.0, 2)).collect::<Vec<_>>());
    }
}
