//! The matcher on drawings with known truth: accuracy, poses, odd input, determinism.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a failing step is a failure, and misses are listed"
)]

mod sheets;

use std::time::Instant;

use image::{GrayImage, Luma, Rgba, RgbaImage, imageops};
use ontologies::hvac;
use sheets::{clean_templates, cut_templates, draw, hits, settings};
use synth::{Rotation, SynthSettings};
use vision::matcher::{Match, Matcher, MatcherConfig, MatcherError, Poses, Role, Rotations, ScaleBase, Template};

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
            println!(
                "wrong: {} {:.2} where there is {:?}",
                m.class,
                m.score,
                there.map(|t| (&t.class, t.bbox.iou(&m.bbox)))
            );
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
    assert!(f1(&matcher, &s, 7, 2) >= 0.94);
}

#[test]
fn scanned_drawings() {
    let s = SynthSettings { width: 1400, height: 1000, symbols: [30, 45], ..SynthSettings::scanned() };
    let config = MatcherConfig { poses: Poses { mirror: true, ..Poses::default() }, ..MatcherConfig::default() };
    let matcher = Matcher::new(&clean_templates(&s, 8), &config).unwrap();
    assert!(f1(&matcher, &s, 8, 1) >= 0.85);
}

#[test]
fn any_angle_and_mirror() {
    let s = SynthSettings { rotation: Rotation::Any, mirror: 0.5, ..settings(64.0) };
    let config = MatcherConfig {
        poses: Poses { rotations: Rotations::Any, mirror: true, ..Poses::default() },
        ..MatcherConfig::default()
    };
    let matcher = Matcher::new(&clean_templates(&s, 9), &config).unwrap();
    assert!(f1(&matcher, &s, 9, 1) >= 0.85);
}

#[test]
fn cut_out_templates() {
    let s = settings(64.0);
    let config =
        MatcherConfig { poses: Poses { mirror: true, stretch: 1.15, ..Poses::default() }, ..MatcherConfig::default() };
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
            role: Role::Given,
            frame: None,
        })
        .collect();
    let config = MatcherConfig { scale_base: ScaleBase::Drawing, ..MatcherConfig::default() };
    let matcher = Matcher::new(&templates, &config).unwrap();
    assert!(f1(&matcher, &settings(64.0), 11, 1) >= 0.9);
    assert!(f1(&matcher, &settings(40.0), 12, 1) >= 0.8);
}

/// A drawing of one square with a diagonal, drawn without antialiasing.
fn small_drawing() -> GrayImage {
    let mut g = GrayImage::from_pixel(160, 120, Luma([255]));
    for i in 0..40u32 {
        for d in 0..2 {
            for (x, y) in [(i, d), (i, 39 - d), (d, i), (39 - d, i), (i, (i + d).min(39))] {
                g.put_pixel(50 + x, 30 + y, Luma([0]));
            }
        }
    }
    g
}

fn template_of(picture: &GrayImage, [x, y, w, h]: [u32; 4]) -> Template {
    let part = imageops::crop_imm(picture, x, y, w, h).to_image();
    let image = image::DynamicImage::ImageLuma8(part).into_rgba8();
    Template { class: "square".into(), name: "square.png".into(), image, role: Role::Given, frame: None }
}

fn small_matcher() -> Matcher {
    let config = MatcherConfig { poses: Poses { mirror: true, ..Poses::default() }, ..MatcherConfig::default() };
    Matcher::new(&[template_of(&small_drawing(), [48, 28, 44, 44])], &config).unwrap()
}

#[test]
fn turning_mirroring_inverting_and_scaling_move_the_box() {
    let (g, m) = (small_drawing(), small_matcher());
    let only = |g: &GrayImage| {
        let found = m.find_grey(g).matches;
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    };
    let near = |a: &Match, b: [f64; 4]| assert!(a.bbox.iou(&b.into()) > 0.9, "{:?} is not {b:?}", a.bbox);
    near(&only(&g), [50.0, 30.0, 90.0, 70.0]);
    near(&only(&imageops::rotate90(&g)), [50.0, 50.0, 90.0, 90.0]);
    near(&only(&imageops::rotate180(&g)), [70.0, 50.0, 110.0, 90.0]);
    near(&only(&imageops::flip_horizontal(&g)), [70.0, 30.0, 110.0, 70.0]);
    let mut inverted = g.clone();
    imageops::invert(&mut inverted);
    assert_eq!(only(&inverted), only(&g));
    let larger = imageops::resize(&g, 192, 144, imageops::FilterType::Triangle);
    let found = only(&larger);
    near(&found, [60.0, 36.0, 108.0, 84.0]);
    assert!((found.scale - 1.2).abs() < 0.06, "{}", found.scale);
}

#[test]
fn text_tells_which_way_up_a_symmetric_outline_lies() {
    let letter = |u: i32, v: i32| u % 9 < 2 || v > 9;
    let balloon = GrayImage::from_fn(160, 120, |x, y| {
        let (u, v) = (x as i32 - 50, y as i32 - 30);
        let edge = (0..40).contains(&u) && (0..40).contains(&v) && (u < 2 || v < 2 || u > 37 || v > 37);
        let text = (7..31).contains(&u) && (6..18).contains(&v) && (u - 7) % 9 < 6 && letter(u - 7, v - 6);
        Luma([if edge || text { 20 } else { 240 }])
    });
    let template = template_of(&balloon, [48, 28, 44, 44]);
    let m = Matcher::new(&[template], &MatcherConfig::default()).unwrap();
    for (quarters, drawing) in
        [balloon.clone(), imageops::rotate90(&balloon), imageops::rotate180(&balloon)].iter().enumerate()
    {
        let found = m.find_grey(drawing).matches;
        assert_eq!(found.len(), 1, "{found:#?}");
        let off = (found[0].rotation_deg - 90.0 * quarters as f64 + 180.0).rem_euclid(360.0) - 180.0;
        assert!(off.abs() < 5.0, "{quarters} quarters: {}", found[0].rotation_deg);
    }
}

#[test]
fn colours_keep_their_contrast() {
    let g = small_drawing();
    let yellow = image::RgbImage::from_fn(160, 120, |x, y| {
        let ink = g.get_pixel(x, y).0[0] == 0;
        image::Rgb(if ink { [255, 235, 60] } else { [255; 3] })
    });
    assert_eq!(small_matcher().find(&yellow).matches.len(), 1);
}

#[test]
fn odd_drawings_give_nothing_and_no_panic() {
    let m = small_matcher();
    for (w, h) in [(1, 1), (1, 50), (50, 1), (3, 3), (160, 120)] {
        for level in [0, 255] {
            assert!(m.find_grey(&GrayImage::from_pixel(w, h, Luma([level]))).matches.is_empty());
        }
        let checks = GrayImage::from_fn(w, h, |x, y| Luma([if (x + y) % 2 == 0 { 0 } else { 255 }]));
        let stripes = GrayImage::from_fn(w, h, |x, _| Luma([if x % 4 == 0 { 0 } else { 255 }]));
        for odd in [checks, stripes] {
            m.find_grey(&odd);
        }
    }
}

#[test]
fn odd_templates() {
    let blank = Template {
        class: "blank".into(),
        name: "blank.png".into(),
        image: RgbaImage::from_pixel(20, 20, Rgba([255; 4])),
        role: Role::Given,
        frame: None,
    };
    let config = MatcherConfig::default();
    let e = Matcher::new(std::slice::from_ref(&blank), &config).unwrap_err();
    assert!(matches!(e, MatcherError::BlankTemplate { .. }) && e.to_string().contains("blank.png"));
    let clear = Template { image: RgbaImage::new(20, 20), ..blank.clone() };
    assert!(matches!(Matcher::new(&[clear], &config), Err(MatcherError::BlankTemplate { .. })));
    let none = Template { image: RgbaImage::new(0, 0), ..blank.clone() };
    assert!(matches!(Matcher::new(&[none], &config), Err(MatcherError::BlankTemplate { .. })));
    assert_eq!(Matcher::new(&[], &config).unwrap_err(), MatcherError::NoTemplates);
    let mut dot = blank;
    dot.image.put_pixel(7, 7, Rgba([0, 0, 0, 255]));
    let m = Matcher::new(&[dot], &config).unwrap();
    assert!(!m.notes().is_empty());
    m.find_grey(&small_drawing());
}

#[test]
fn a_template_larger_than_the_drawing_is_skipped_with_the_reason() {
    let small = imageops::crop_imm(&small_drawing(), 45, 25, 30, 20).to_image();
    let found = small_matcher().find_grey(&small);
    assert!(found.matches.is_empty());
    assert_eq!(found.skipped.len(), 1);
    assert!(found.skipped[0].reason.contains("the drawing has 30 x 20"), "{:?}", found.skipped);
}

#[test]
fn transparent_paper_is_paper() {
    let mut t = template_of(&small_drawing(), [48, 28, 44, 44]);
    for p in t.image.pixels_mut() {
        if p.0[0] == 255 {
            *p = Rgba([0; 4]);
        }
    }
    let m = Matcher::new(&[t], &MatcherConfig::default()).unwrap();
    assert_eq!(
        m.find_grey(&small_drawing()).matches,
        small_matcher_without_mirror().find_grey(&small_drawing()).matches
    );
}

fn small_matcher_without_mirror() -> Matcher {
    Matcher::new(&[template_of(&small_drawing(), [48, 28, 44, 44])], &MatcherConfig::default()).unwrap()
}

#[test]
fn settings_out_of_range_are_named() {
    for (config, field) in [
        (
            MatcherConfig { poses: Poses { scale_min: 2.0, ..Poses::default() }, ..MatcherConfig::default() },
            "scale_min",
        ),
        (MatcherConfig { nms_iou: f64::NAN, ..MatcherConfig::default() }, "nms_iou"),
        (
            MatcherConfig {
                poses: Poses { rotations: Rotations::Every(0.0), ..Poses::default() },
                ..MatcherConfig::default()
            },
            "rotations",
        ),
    ] {
        assert!(config.check().unwrap_err().to_string().contains(field));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let s = settings(48.0);
    let config = MatcherConfig {
        scale_base: ScaleBase::Drawing,
        poses: Poses { mirror: true, ..Poses::default() },
        ..MatcherConfig::default()
    };
    let (picture, _) = draw(&s, 13, 0);
    let find = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Matcher::new(&clean_templates(&s, 13), &config).unwrap().find(&picture))
    };
    let one = find(1);
    assert!(!one.matches.is_empty());
    assert_eq!(one, find(3));
}
