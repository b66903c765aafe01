//! Judgement of small sets of templates that are drawn here.

use super::{ConfusionKind, Part, Plainness, Quality, Warning, quality};
use crate::matcher::hygiene::tests::{Draw, square};
use crate::matcher::{Matcher, MatcherConfig, Poses, Role, Rotations, Template};

fn judged(templates: &[Template]) -> Quality {
    quality(templates, &MatcherConfig::default())
}

fn warnings(d: &Draw) -> Vec<Warning> {
    judged(&[d.template()]).templates[0].warnings.clone()
}

/// A valve: two triangles, tip to tip.
fn valve(x: f32, y: f32) -> Draw {
    valve_on(Draw::new(80, 80), x, y)
}

fn valve_on(d: Draw, x: f32, y: f32) -> Draw {
    d.line([x, y], [x, y + 24.0])
        .line([x + 48.0, y], [x + 48.0, y + 24.0])
        .line([x, y], [x + 48.0, y + 24.0])
        .line([x, y + 24.0], [x + 48.0, y])
}

#[test]
fn plain_symbols_are_named() {
    let plain = |d: &Draw| match warnings(d)[..] {
        [] => None,
        [Warning::TooPlain(what)] => Some(what),
        ref other => panic!("{other:?}"),
    };
    let paper = || Draw::new(60, 60);
    assert_eq!(plain(&paper().fill([5, 30, 55, 32])), Some(Plainness::Line));
    assert_eq!(plain(&paper().line([10.0, 10.0], [50.0, 40.0])), Some(Plainness::Line));
    assert_eq!(plain(&paper().fill([5, 20, 55, 22]).fill([5, 30, 55, 32])), Some(Plainness::TwoLines));
    assert_eq!(plain(&paper().fill([5, 29, 55, 31]).fill([29, 5, 31, 55])), Some(Plainness::TwoLines));
    assert_eq!(plain(&paper().rect([10.0, 10.0, 48.0, 40.0])), Some(Plainness::Outline));
    assert_eq!(plain(&paper().circle([29.0, 29.0], 20.0)), Some(Plainness::Outline));
    assert_eq!(plain(&paper().fill([10, 10, 50, 40])), Some(Plainness::Solid));
    assert_eq!(plain(&square()), None);
    assert_eq!(plain(&valve(10.0, 20.0)), None);
}

#[test]
fn small_symbols_are_named() {
    let w = warnings(&Draw::new(30, 30).rect([10.0, 10.0, 16.0, 16.0]).line([10.0, 10.0], [16.0, 16.0]));
    assert!(matches!(w[0], Warning::TooSmall { width: 8, height: 8, .. }), "{w:?}");
    assert!(w[0].to_string().contains("8 x 8 pixels"));
}

#[test]
fn symmetry_is_found() {
    let of = |d: &Draw| judged(&[d.template()]).templates[0].symmetric.clone();
    let turns = |d: &Draw, mirrored: bool| -> Vec<f64> {
        of(d).iter().filter(|s| s.mirrored == mirrored).map(|s| s.rotation_deg).collect()
    };
    let paper = Draw::new(60, 60);
    assert_eq!(turns(&valve(10.0, 20.0), false), [180.0]);
    assert_eq!(turns(&valve(10.0, 20.0), true), [0.0, 180.0]);
    assert_eq!(turns(&paper.clone().circle([29.0, 29.0], 20.0), false).len(), 23);
    assert_eq!(turns(&paper.clone().rect([10.0, 10.0, 48.0, 48.0]), false), [90.0, 180.0, 270.0]);
    let crooked = paper.rect([10.0, 10.0, 48.0, 40.0]).line([10.0, 10.0], [24.0, 40.0]).fill([35, 20, 45, 30]);
    assert!(of(&crooked).is_empty());
}

#[test]
fn classes_that_look_alike_are_paired() {
    let plain = valve(10.0, 20.0).of("plain");
    let turned = {
        let d = valve(10.0, 20.0);
        Draw(image::imageops::rotate90(&d.0)).of("turned")
    };
    // Larger, and with a stem and a head.
    let driven = valve(10.0, 50.0).line([34.0, 62.0], [34.0, 34.0]).circle([34.0, 24.0], 11.0).of("driven");
    let other = square().of("other");
    let q = judged(&[plain.clone(), turned.clone(), driven.clone(), other.clone()]);
    let pair = |a: &str, b: &str| {
        q.confusions.iter().find(|c| (c.a == a && c.b == b) || (c.a == b && c.b == a)).map(|c| (c.kind, c.a.as_str()))
    };
    assert_eq!(pair("plain", "turned").unwrap().0, ConfusionKind::NearDuplicate);
    assert_eq!(pair("plain", "driven"), Some((ConfusionKind::Contains, "driven")));
    assert_eq!(pair("other", "plain"), None);
    assert_eq!(q.confusions[0].kind, ConfusionKind::NearDuplicate);
    assert!(q.confusions[0].likeness > 0.95, "{:?}", q.confusions);
    assert!(
        matches!(&q.templates[0].warnings[..], [Warning::LooksLike { class: a, .. }, Warning::PartOf { class: b }] if a == "turned" && b == "driven")
    );
    assert!(q.templates[2].warnings.is_empty() && q.templates[3].warnings.is_empty());
    // Templates of one class are alike on purpose, and where turns are not allowed a turned symbol is another.
    let same = [plain.clone(), Template { class: "plain".into(), ..turned.clone() }];
    assert!(judged(&same).confusions.is_empty());
    let poses = Poses { rotations: Rotations::None, ..Poses::default() };
    let config = MatcherConfig { poses, ..MatcherConfig::default() };
    assert!(quality(&[plain.clone(), turned.clone()], &config).confusions.is_empty());
    // A counter-example looks like its class because it must.
    let negative = Template { role: Role::Negative, ..turned };
    let q = judged(&[plain, negative]);
    assert!(q.confusions.is_empty() && q.templates[1].warnings.is_empty());
}

#[test]
fn small_differences_are_no_duplicates() {
    let bare = valve(10.0, 20.0).of("bare");
    let ball = valve(10.0, 20.0).circle([34.0, 32.0], 9.0).of("ball");
    let q = judged(&[bare, ball]);
    assert!(q.confusions.iter().all(|c| c.kind == ConfusionKind::Contains || c.likeness < 0.9), "{:?}", q.confusions);
}

#[test]
fn pictures_tell_every_pixel() {
    let d = Draw::new(46, 46)
        .rect([5.0, 5.0, 39.0, 39.0])
        .letter(12.0, 18.0)
        .letter(26.0, 18.0)
        .fill([0, 22, 6, 24])
        .fill([39, 22, 46, 24]);
    let q = judged(&[d.template()]);
    let t = &q.templates[0];
    let n = |part: Part| t.cleaned.parts.iter().filter(|&&p| p == part).count();
    assert_eq!(t.cleaned.parts.len(), 46 * 46);
    assert_eq!(n(Part::Removed(super::RemovedKind::Stub)), 20);
    for part in [Part::Paper, Part::Ink, Part::TextInk, Part::TextPaper, Part::Unknown] {
        assert!(n(part) > 0, "{part:?}");
    }
    let matcher = Matcher::new(&[d.template()], &MatcherConfig::default()).unwrap();
    assert_eq!(matcher.quality(), q);
}

#[test]
fn odd_sets_are_judged() {
    assert_eq!(judged(&[]), Quality::default());
    let dot = Draw::new(20, 20).fill([9, 9, 10, 10]);
    let blank = Draw::new(20, 20);
    let q = judged(&[dot.of("a"), blank.of("b"), dot.of("c")]);
    assert_eq!(q.templates.len(), 2);
    assert!(q.templates.iter().all(|t| matches!(t.warnings[0], Warning::TooSmall { ink: 1, .. })));
}
