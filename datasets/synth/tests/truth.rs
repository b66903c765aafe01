//! What a sheet promises: exact boxes, the same bytes for the same seed, settings that are obeyed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use synth::symbol::Role;
use synth::{Palette, Rotation, Set, Sheet, SynthSettings, sheet};

fn small() -> SynthSettings {
    SynthSettings { width: 800, height: 640, symbols: [8, 14], symbol_px: 48.0, ..SynthSettings::clean() }
}

/// Nothing but one kind of symbol: what is left out cannot hide a wrong box.
fn bare(s: SynthSettings) -> SynthSettings {
    SynthSettings { crossing: 0.0, distractors: 0.0, tags: 0.0, ..s }
}

/// Ink that touches each of the box's four sides from within, and the ink of the row and column just inside.
fn sides_have_ink(sheet: &Sheet) -> Result<(), TestCaseError> {
    let dark = |x: i64, y: i64| {
        let (w, h) = (i64::from(sheet.image.width()), i64::from(sheet.image.height()));
        (0..w).contains(&x) && (0..h).contains(&y) && sheet.image.get_pixel(x as u32, y as u32).0[0] < 200
    };
    for a in &sheet.annotations.annotations {
        let b = a.bbox;
        let (x0, y0) = (b.x0.floor() as i64, b.y0.floor() as i64);
        let (x1, y1) = (b.x1.ceil() as i64 - 1, b.y1.ceil() as i64 - 1);
        // The outermost pixel may be covered by a hair only: the next one must be dark then.
        let row = |y: i64| (x0..=x1).any(|x| dark(x, y));
        let column = |x: i64| (y0..=y1).any(|y| dark(x, y));
        prop_assert!(row(y0) || row(y0 + 1), "{} has no ink at its top: {b:?}", a.class);
        prop_assert!(row(y1) || row(y1 - 1), "{} has no ink at its bottom: {b:?}", a.class);
        prop_assert!(column(x0) || column(x0 + 1), "{} has no ink at its left: {b:?}", a.class);
        prop_assert!(column(x1) || column(x1 - 1), "{} has no ink at its right: {b:?}", a.class);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn boxes_are_inside_and_tight(
        seed in any::<u64>(),
        index in any::<u64>(),
        rotation in prop_oneof![Just(Rotation::None), Just(Rotation::Quarter), Just(Rotation::Any)],
        mirror in 0.0..1.0f64,
        skew in prop_oneof![Just(0.0), 0.1..2.0f64],
        low in 0.6..1.0f64,
        stroke in 1.5..3.0f64,
        invented in 0u32..4,
        repeats in 1u32..3,
        hard in any::<bool>(),
    ) {
        let s = SynthSettings {
            rotation, mirror, skew, invented,
            scale: [low, low * 1.5],
            stroke: [stroke, stroke * 1.2],
            signal_repeats: [1, repeats],
            aspect: if hard { [0.8, 1.25] } else { [1.0, 1.0] },
            stroke_spread: if hard { [0.7, 1.4] } else { [0.95, 1.05] },
            letters: if hard { [0.8, 1.5] } else { [1.0, 1.0] },
            clutter: if hard { 1.5 } else { 0.0 },
            touching: if hard { 0.5 } else { 0.0 },
            writing: if hard { 1.0 } else { 0.0 },
            redrawn: if hard { 0.12 } else { 0.0 },
            ..small()
        };
        let sheet = sheet(&s, seed, index).unwrap();
        let (w, h) = (f64::from(s.width), f64::from(s.height));
        prop_assert_eq!((sheet.image.width(), sheet.image.height()), (s.width, s.height));
        prop_assert!(sheet.annotations.annotations.len() <= s.symbols[1] as usize);
        for a in &sheet.annotations.annotations {
            let b = a.bbox;
            prop_assert!(b.is_valid() && b.x0 >= 0.0 && b.y0 >= 0.0 && b.x1 <= w && b.y1 <= h, "{:?}", a);
            let longest = s.symbol_px * s.scale[1] * s.aspect[1] * 1.5 * f64::from(repeats);
            prop_assert!(b.width() < longest && b.height() < longest, "{:?}", a);
        }
        sides_have_ink(&sheet)?;
    }

    #[test]
    fn symbols_do_not_lie_on_each_other(seed in any::<u64>()) {
        let s = bare(small());
        let all = sheet(&s, seed, 0).unwrap().annotations.annotations;
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                prop_assert!(a.bbox.iou(&b.bbox) == 0.0, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn same_seed_same_bytes(seed in any::<u64>(), index in any::<u64>()) {
        let s = SynthSettings { noise: 4.0, blur: 0.6, speckle: 0.001, jpeg_quality: Some(70), ..small() };
        let (a, b) = (sheet(&s, seed, index).unwrap(), sheet(&s, seed, index).unwrap());
        prop_assert_eq!(&a.file, &b.file);
        prop_assert_eq!(a.annotations, b.annotations);
        prop_assert_ne!(a.file, sheet(&s, seed, index ^ 1).unwrap().file);
    }
}

/// A symbol's ink alone, taken from a sheet with nothing else on it, ends where the box ends.
#[test]
fn ink_of_a_lone_symbol_fills_its_box() {
    for class in ["ball valve", "field computer instrument", "auxiliary plc instrument", "wireless signal"] {
        for rotation in [Rotation::Quarter, Rotation::Any] {
            let s = synth::symbol::symbols(&SynthSettings { classes: vec![class.into()], ..small() }, 0).unwrap();
            let degrees = if rotation == Rotation::Any { 33.0 } else { 90.0 };
            let at = synth::symbol::Placement {
                center: [60.3, 70.7],
                scale: 0.7,
                stretch: 1.2,
                degrees,
                mirrored: true,
                pen: 2.2,
            };
            let outlines = s[0].outlines(&at, 1);
            let mut mask = tiny_skia::Mask::new(128, 128).unwrap();
            for path in &outlines {
                mask.fill_path(path, tiny_skia::FillRule::Winding, true, tiny_skia::Transform::identity());
            }
            let b = ontologies::shape::bounds(&outlines).unwrap();
            let inked = |x: usize, y: usize| mask.data()[y * 128 + x] > 0;
            for y in 0..128 {
                for x in 0..128 {
                    let (fx, fy) = (x as f32, y as f32);
                    let outside = fx + 1.0 < b.left() - 0.5
                        || fx > b.right() + 0.5
                        || fy + 1.0 < b.top() - 0.5
                        || fy > b.bottom() + 0.5;
                    assert!(!(outside && inked(x, y)), "{class}: ink at {x}, {y} outside {b:?}");
                }
            }
            let column = |x: usize| (0..128).any(|y| inked(x, y));
            assert!(column(b.left() as usize) || column(b.left() as usize + 1), "{class}");
            assert!(column(b.right() as usize) || column(b.right() as usize - 1), "{class}");
        }
    }
}

#[test]
fn default_sheets_hold_what_is_asked_and_all_classes() {
    let mut of: BTreeMap<String, usize> = BTreeMap::new();
    let s = SynthSettings::clean();
    for index in 0..4 {
        let sheet = sheet(&s, 9, index).unwrap();
        assert!(sheet.annotations.annotations.len() >= 54, "{} symbols", sheet.annotations.annotations.len());
        for a in sheet.annotations.annotations {
            *of.entry(a.class).or_default() += 1;
        }
    }
    assert_eq!(of.len(), 25, "{of:?}");
    assert!(of.values().all(|&n| n >= 5), "{of:?}");
}

#[test]
fn unknown_class_is_an_error_that_lists_the_known() {
    let e = sheet(&SynthSettings { classes: vec!["gate valve".into()], ..small() }, 0, 0).unwrap_err();
    assert!(e.to_string().contains("no class `gate valve`") && e.to_string().contains("ball valve"), "{e}");
}

#[test]
fn a_sheet_without_symbols_is_a_drawing_all_the_same() {
    let s = SynthSettings { symbols: [0, 0], ..small() };
    let sheet = sheet(&s, 0, 0).unwrap();
    assert!(sheet.annotations.annotations.is_empty());
    assert!(sheet.image.pixels().any(|p| p.0[0] < 100));
}

#[test]
fn bilevel_is_black_and_white() {
    let s = SynthSettings { bilevel: true, noise: 10.0, ..small() };
    assert!(sheet(&s, 0, 0).unwrap().image.pixels().all(|p| p.0 == [0; 3] || p.0 == [255; 3]));
}

#[test]
fn lines_in_whole_pixels_differ_in_width_and_grey_and_stay_where_they_are() {
    let plain = sheet(&small(), 2, 0).unwrap();
    let s = SynthSettings { whole_pixels: true, ink: [0, 0], ..small() };
    let uneven = sheet(&s, 2, 0).unwrap();
    assert_eq!(uneven.annotations.annotations, plain.annotations.annotations);
    let dark = |s: &Sheet, most: u8| s.image.pixels().filter(|p| p.0[0] < most).count() as f64;
    assert!((dark(&uneven, 128) / dark(&plain, 128) - 1.0).abs() < 0.2, "about as much ink");
    assert!(dark(&uneven, 250) > 1.3 * dark(&uneven, 60), "greys");
}

#[test]
fn colours_are_those_of_the_palette_and_the_truth_stays() {
    let plain = sheet(&small(), 2, 0).unwrap();
    let mean = |s: &Sheet, c: usize| {
        s.image.pixels().map(|p| f64::from(p.0[c])).sum::<f64>() / f64::from(s.image.width() * s.image.height())
    };
    for palette in [Palette::Inverted, Palette::Blueprint, Palette::Coloured] {
        let other = sheet(&SynthSettings { palette, ..small() }, 2, 0).unwrap();
        assert_eq!(other.annotations.annotations, plain.annotations.annotations);
        let [red, blue] = [mean(&other, 0), mean(&other, 2)];
        match palette {
            Palette::Inverted => {
                let opposite = other.image.pixels().zip(plain.image.pixels()).all(|(a, b)| a.0[0] == 255 - b.0[0]);
                assert!(opposite, "every pixel is the opposite");
            }
            Palette::Blueprint => assert!(red < 80.0 && blue > 130.0, "{red} {blue}"),
            _ => {
                let coloured = other.image.pixels().filter(|p| p.0[0].abs_diff(p.0[2]) > 60).count();
                assert!(red > 200.0 && coloured > 1000, "{red} {coloured}");
                // The ink lies where it lies without colours.
                let moved = other.image.pixels().zip(plain.image.pixels()).filter(|(a, b)| {
                    let darkest = a.0.into_iter().min().unwrap();
                    (darkest > 230) != (b.0[0] > 230)
                });
                assert!(moved.count() < 200);
            }
        }
    }
}

#[test]
fn a_column_of_writing_is_beside_the_drawing() {
    let drawn = |writing: f64| sheet(&SynthSettings { writing, ..small() }, 3, 0).unwrap();
    let (plain, written) = (drawn(0.0), drawn(1.0));
    let right = |s: &Sheet| s.annotations.annotations.iter().map(|a| a.bbox.x1).fold(0.0, f64::max);
    // A sixth of the width at least.
    assert!(right(&written) < 0.85 * 800.0 && right(&written) < right(&plain));
    let dark = |s: &Sheet| s.image.enumerate_pixels().filter(|(x, _, p)| *x > 680 && p.0[0] < 100).count();
    assert!(2 * dark(&written) > 3 * dark(&plain), "{} and {}", dark(&written), dark(&plain));
}

#[test]
fn redrawn_symbols_differ_among_themselves() {
    let s = bare(SynthSettings { classes: vec!["butterfly valve".into()], scale: [1.0, 1.0], ..small() });
    let proportions = |redrawn: f64| {
        let all = sheet(&SynthSettings { redrawn, rotation: Rotation::None, ..s.clone() }, 4, 0).unwrap();
        let of = |a: &datasets::Annotation| a.bbox.width() / a.bbox.height();
        let all: Vec<f64> = all.annotations.annotations.iter().map(of).collect();
        assert!(all.len() > 5);
        all.iter().fold(0.0f64, |m, v| m.max(*v)) / all.iter().fold(f64::MAX, |m, v| m.min(*v))
    };
    assert!(proportions(0.0) < 1.05 && proportions(0.12) > 1.05, "{} {}", proportions(0.0), proportions(0.12));
}

#[test]
fn as_many_lines_lead_to_all_of_a_class() {
    let s = SynthSettings { library: false, invented: 6, symbols: [14, 14], rotation: Rotation::None, ..small() };
    let free: Vec<_> = synth::symbol::symbols(&s, 4).unwrap().into_iter().filter(|s| s.role == Role::Free).collect();
    assert!(free.len() > 1);
    // How many lines lead to the left and right sides of the symbols of each class.
    let counted = |leads: bool| {
        let mut of_class = BTreeMap::<String, BTreeSet<usize>>::new();
        for sheet in (0..3).map(|i| sheet(&bare(SynthSettings { leads, ..s.clone() }), 4, i).unwrap()) {
            for a in sheet.annotations.annotations.iter().filter(|a| free.iter().any(|s| s.name == a.class)) {
                let is_ink = |x: f64, y: u32| sheet.image.get_pixel(x as u32, y).0[0] < 128;
                let lines = |x: f64| {
                    (a.bbox.y0 as u32..a.bbox.y1 as u32).filter(|y| is_ink(x, *y) && !is_ink(x, y + 1)).count()
                };
                let count = lines(a.bbox.x0 - 6.0) + lines(a.bbox.x1 + 6.0);
                of_class.entry(a.class.clone()).or_default().insert(count);
            }
        }
        of_class
    };
    let (without, with) = (counted(false), counted(true));
    assert!(without.values().flatten().all(|n| *n == 0), "{without:?}");
    assert!(with.values().all(|n| n.len() == 1) && with.values().flatten().any(|n| *n > 0), "{with:?}");
}

#[test]
fn uneven_light_darkens_one_side() {
    let s = SynthSettings { illumination: 0.5, symbols: [0, 0], ..small() };
    let image = sheet(&s, 1, 0).unwrap().image;
    let corner = |x: u32, y: u32| (0..24).map(|d| image.get_pixel(x + d, y + d / 2).0[0]).max().unwrap();
    let corners = [corner(1, 1), corner(770, 1), corner(1, 620), corner(770, 620)];
    let (low, high) = (corners.iter().min().unwrap(), corners.iter().max().unwrap());
    assert!(high - low > 40, "{corners:?}");
}

#[test]
fn every_set_draws_what_it_asks_for() {
    let sets = Set::ALL.into_iter().filter(|&s| s != Set::L);
    let usual = sets.clone().map(|set| (set, SynthSettings { invented: 2, ..set.settings() }));
    let wild = [Set::E, Set::Electrical].map(|set| (set, set.settings().wild(20)));
    for (set, s) in usual.chain(wild) {
        let (mut found, mut classes) = (0, std::collections::BTreeSet::new());
        for index in 0..2 {
            let sheet = sheet(&s, 5, index).unwrap();
            found += sheet.annotations.annotations.len();
            classes.extend(sheet.annotations.annotations.into_iter().map(|a| a.class));
        }
        let asked = synth::symbol::symbols(&s, 5).unwrap().len();
        assert!(found as u32 >= s.symbols[0] * 9 / 5, "{set}: {found} symbols");
        assert_eq!(classes.len(), asked, "{set}");
    }
}
