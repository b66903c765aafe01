//! The matcher finds the same with every instruction set.
//!
//! A test program of its own, because the limit holds for the whole program.

#![expect(clippy::unwrap_used, reason = "tests: a failing step is a failure")]

#[expect(dead_code, reason = "other tests use the rest")]
mod sheets;

use sheets::{clean_templates, draw, settings};
use synth::SynthSettings;
use vision::matcher::{Found, Matcher, MatcherConfig, Poses, ScaleBase, Simd};

#[test]
fn every_instruction_set_finds_the_same() {
    let recipe = SynthSettings { symbols: [20, 25], width: 900, height: 640, ..settings(48.0) };
    let templates = clean_templates(&recipe, 21);
    let (picture, _) = draw(&recipe, 21, 0);
    let poses = Poses { mirror: true, stretch: 1.2, ..Poses::default() };
    let loose = MatcherConfig { poses, scale_base: ScaleBase::Drawing, ..MatcherConfig::default() };
    let run = |simd: Simd| -> Vec<Found> {
        Simd::limit(simd);
        assert_eq!(Simd::chosen(), simd);
        let find = |config: &MatcherConfig| Matcher::new(&templates, config).unwrap().find(&picture);
        [MatcherConfig::default(), loose.clone()].iter().map(find).collect()
    };
    let wanted = run(Simd::Portable);
    assert!(wanted.iter().all(|f| f.matches.len() > 10));
    for simd in Simd::ALL.into_iter().filter(|s| s.is_available()) {
        assert_eq!(run(simd), wanted, "{simd:?}");
    }
}
