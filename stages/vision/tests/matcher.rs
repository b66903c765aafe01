//! The matcher on drawings with known truth: accuracy, poses, odd input, determinism, and the fit of its confidence.

mod drawing;

use std::sync::OnceLock;
use std::time::Instant;

use datasets::{BBox, Pixels};
use drawing::{Canvas, Pose, Recipe, hits, rgba, sheet, symbols, templates};
use image::{GrayImage, Luma, RgbaImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vision::matcher::{Match, Matcher, MatcherConfig, MatcherError, Rotations, Template};

fn matcher() -> &'static Matcher {
    static MATCHER: OnceLock<Matcher> = OnceLock::new();
    MATCHER.get_or_init(|| Matcher::new(&templates(), &MatcherConfig::default()).unwrap())
}

/// F1 at IoU 0.5 over sheets of a recipe.
fn f1(matcher: &Matcher, recipe: Recipe, seeds: std::ops::Range<u64>) -> f64 {
    let (mut right, mut found, mut wanted) = (0, 0, 0);
    let mut wrong: Vec<String> = Vec::new();
    for seed in seeds {
        let s = sheet(recipe, seed);
        let start = Instant::now();
        let m = matcher.find_grey(&s.picture).matches;
        println!("sheet {seed}: {} truths, {} matches, {:.2} s", s.truth.len(), m.len(), start.elapsed().as_secs_f64());
        let ok = hits(&m, &s.truth);
        for (m, _) in m.iter().zip(&ok).filter(|(_, ok)| !**ok) {
            let there = s.truth.iter().find(|t| t.1.iou(&m.bbox) > 0.2).map_or("nothing", |t| &t.0);
            wrong.push(format!("{} {:.2} at {there}", m.class, m.score));
        }
        for t in s.truth.iter().filter(|t| !m.iter().any(|m| m.class == t.0 && m.bbox.iou(&t.1) >= 0.5)) {
            wrong.push(format!("missed {}", t.0));
        }
        right += ok.iter().filter(|o| **o).count();
        found += m.len();
        wanted += s.truth.len();
    }
    let f1 = 2.0 * right as f64 / (found + wanted) as f64;
    println!("F1 {f1:.3}: {right} right, {found} found, {wanted} wanted; {wrong:#?}");
    f1
}

#[test]
fn clean_sheets() {
    assert!(f1(matcher(), Recipe::CLEAN, 100..102) >= 0.95);
}

#[test]
fn noisy_sheets() {
    assert!(f1(matcher(), Recipe { noise: 14.0, ..Recipe::CLEAN }, 200..201) >= 0.93);
}

#[test]
fn any_angle_and_mirror() {
    let config = MatcherConfig { rotations: Rotations::Any, mirror: true, ..MatcherConfig::default() };
    let matcher = Matcher::new(&templates(), &config).unwrap();
    assert!(f1(&matcher, Recipe { any_angle: true, mirror: true, ..Recipe::CLEAN }, 300..301) >= 0.9);
}
