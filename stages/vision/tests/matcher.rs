//! The matcher on drawings with known truth: accuracy, poses, odd input, determinism.

mod sheets;

use std::time::Instant;

use ontologies::hvac;
use sheets::{clean_templates, cut_templates, draw, hits, settings};
use synth::{Rotation, SynthSettings};
use vision::matcher::{Matcher, MatcherConfig, Rotations, ScaleBase, Template};

/// F1 at IoU 0.5 over drawings of a recipe; prints what went wrong.
fn f1(matcher: &Matcher, recipe: &SynthSettings, seed: u64, sheets: u64) -> f64 {
    let (mut right, mut found, mut wanted) = (0, 0, 0);
    for index in 0..sheets {
        let (picture, truth) = draw(recipe, seed, index);
        let start = Instant::now();
        let m = matcher.find(&picture).matches;
        println!("sheet {index}: {} truths, {} matches, {:.2} s", truth.len(), m.len(), start.elapsed().as_secs_f64());
        let ok = hits(&m, &truth);
        for (m, _) in m.iter().zip(&ok).filter(|(_, ok)| !**ok) {
            let there = truth.iter().find(|t| t.bbox.iou(&m.bbox) > 0.2);
            println!("wrong: {} {:.2} where there is {:?}", m.class, m.score, there.map(|t| (&t.class, t.bbox.iou(&m.bbox))));
        }
        for t in truth.iter().filter(|t| !m.iter().any(|m| m.class == t.class && m.bbox.iou(&t.bbox) >= 0.5)) {
            println!("missed: {} {:?}", t.class, t.bbox);
        }
        right += ok.iter().filter(|o| **o).count();
        found += m.len();
        wanted += truth.len();
    }
    let f1 = 2.0 * right as f64 / (found + wanted) as f64;
    println!("F1 {f1:.3}: {right} right, {found} found, {wanted} wanted");
    f1
}

#[test]
fn clean_drawings() {
    let s = settings(64.0);
    let matcher = Matcher::new(&clean_templates(&s, 7), &MatcherConfig::default()).unwrap();
    assert!(f1(&matcher, &s, 7, 2) >= 0.93);
}

#[test]
fn scanned_drawings() {
    let s = SynthSettings { width: 1400, height: 1000, symbols: [30, 45], ..SynthSettings::scanned() };
    let config = MatcherConfig { mirror: true, ..MatcherConfig::default() };
    let matcher = Matcher::new(&clean_templates(&s, 8), &config).unwrap();
    assert!(f1(&matcher, &s, 8, 1) >= 0.85);
}

#[test]
fn any_angle_and_mirror() {
    let s = SynthSettings { rotation: Rotation::Any, mirror: 0.5, ..settings(64.0) };
    let config = MatcherConfig { rotations: Rotations::Any, mirror: true, ..MatcherConfig::default() };
    let matcher = Matcher::new(&clean_templates(&s, 9), &config).unwrap();
    assert!(f1(&matcher, &s, 9, 1) >= 0.85);
}

#[test]
fn cut_out_templates() {
    let s = settings(64.0);
    let config = MatcherConfig { mirror: true, stretch: 1.15, ..MatcherConfig::default() };
    let matcher = Matcher::new(&cut_templates(&s, 10), &config).unwrap();
    assert!(f1(&matcher, &s, 10, 1) >= 0.75);
}

/// The symbol library's own templates are larger than the symbols on the drawings: the scale has to be found.
#[test]
fn drawing_scale_is_found() {
    let templates: Vec<Template> = hvac::symbols()
        .iter()
        .map(|s| Template {
            class: s.class(),
            name: s.file.to_owned(),
            image: image::load_from_memory(s.png).unwrap().into_rgba8(),
        })
        .collect();
    let config = MatcherConfig { scale_base: ScaleBase::Drawing, ..MatcherConfig::default() };
    let matcher = Matcher::new(&templates, &config).unwrap();
    assert!(f1(&matcher, &settings(64.0), 11, 1) >= 0.9);
    assert!(f1(&matcher, &settings(40.0), 12, 1) >= 0.85);
}
