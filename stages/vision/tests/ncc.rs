//! The exact correlation: the same numbers as OpenCV's, and boxes from them.
//!
//! `ncc/make_fixture.py` made the reference.

#![expect(clippy::unwrap_used, reason = "a failing step is a failing test")]

use datasets::BBox;
use image::{GrayImage, Luma, Rgba, RgbaImage, imageops};
use vision::matcher::{Match, Poses, Role, Rotations, Template};
use vision::ncc::{Correlations, Ncc, NccConfig, NccError, map};

const DRAWING: &[u8] = include_bytes!("ncc/drawing.png");
const PLAIN: &[u8] = include_bytes!("ncc/plain.png");
const MASKED: &[u8] = include_bytes!("ncc/masked.png");

fn template(class: &str, image: RgbaImage) -> Template {
    Template { class: class.into(), name: format!("{class}.png"), image, role: Role::Given, frame: None }
}

fn picture(png: &[u8]) -> RgbaImage {
    image::load_from_memory(png).unwrap().into_rgba8()
}

fn drawing() -> GrayImage {
    image::load_from_memory(DRAWING).unwrap().into_luma8()
}

/// Largest difference from a reference, and how many of its values are not finite (there ours are 0).
fn difference(ours: &Correlations, reference: &[u8]) -> (f32, usize) {
    let reference: Vec<f32> = reference.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!((ours.width * ours.height, ours.values.len()), (reference.len(), reference.len()));
    let (mut most, mut undefined) = (0f32, 0);
    for (&o, r) in ours.values.iter().zip(reference) {
        if r.is_finite() {
            most = most.max((o - r).abs());
        } else {
            undefined += 1;
            assert_eq!(o, 0.0);
        }
    }
    (most, undefined)
}

#[test]
fn opencv_plain() {
    let ours = map(&template("valve", picture(PLAIN)), &drawing()).unwrap();
    let (most, undefined) = difference(&ours, include_bytes!("ncc/plain.f32"));
    assert!(most <= 1e-3, "{most}");
    assert_eq!(undefined, 0);
    assert!(ours.values.iter().any(|v| *v > 0.95));
}

#[test]
fn opencv_masked() {
    let ours = map(&template("valve", picture(MASKED)), &drawing()).unwrap();
    let (most, undefined) = difference(&ours, include_bytes!("ncc/masked.f32"));
    assert!(most <= 1e-3, "{most}");
    // Where the paper has no contrast OpenCV divides zero by zero.
    assert!(undefined > 100);
}

#[test]
fn what_is_under_the_mask_does_not_matter() {
    let mut other = picture(MASKED);
    for p in other.pixels_mut().filter(|p| p[3] == 0) {
        *p = Rgba([3, 250, 120, 0]);
    }
    assert_eq!(map(&template("a", other), &drawing()), map(&template("a", picture(MASKED)), &drawing()));
}

/// An L with a dot on paper, `side` pixels wide.
fn symbol(side: u32) -> RgbaImage {
    RgbaImage::from_fn(side, side + 4, |x, y| {
        let ink = (3..5).contains(&x)
            || (y > side - 3 && y < side)
            || ((side - 9..side - 5).contains(&x) && (4..9).contains(&y));
        if ink { Rgba([20, 20, 20, 255]) } else { Rgba([245, 245, 245, 255]) }
    })
}

fn put(sheet: &mut GrayImage, symbol: &RgbaImage, x: i64, y: i64) -> BBox<datasets::Pixels> {
    let grey = GrayImage::from_fn(symbol.width(), symbol.height(), |u, v| Luma([symbol.get_pixel(u, v)[0]]));
    imageops::replace(sheet, &grey, x, y);
    let (x, y) = (x as f64, y as f64);
    BBox::new(x, y, x + f64::from(symbol.width()), y + f64::from(symbol.height()))
}

fn at<'a>(matches: &'a [Match], bbox: &BBox<datasets::Pixels>) -> &'a Match {
    matches.iter().find(|m| m.bbox == *bbox).unwrap_or_else(|| panic!("{bbox:?} is not among {matches:?}"))
}

#[test]
fn poses_are_found_in_their_places() {
    let mut sheet = GrayImage::from_pixel(700, 400, Luma([245]));
    let s = symbol(24);
    let upright = put(&mut sheet, &s, 40, 30);
    let turned = put(&mut sheet, &imageops::rotate90(&s), 300, 200);
    let mirrored = put(&mut sheet, &imageops::flip_horizontal(&s), 650, 350);
    let poses = Poses { mirror: true, ..Poses::default() };
    let ncc = Ncc::new(&[template("l", s)], &NccConfig { poses, ..NccConfig::default() }).unwrap();
    let found = ncc.find_grey(&sheet);
    assert_eq!(found.matches.len(), 3, "{:?}", found.matches);
    for (bbox, rotation, mirror) in [(upright, 0.0, false), (turned, 90.0, false), (mirrored, 0.0, true)] {
        let m = at(&found.matches, &bbox);
        assert!((m.score - 1.0).abs() < 1e-9 && (m.scale - 1.0).abs() < 1e-9, "{m:?}");
        assert_eq!((m.rotation_deg, m.mirrored, m.threshold), (rotation, mirror, 0.8));
        assert_eq!(m.evidence["correlation"], m.score);
    }
    assert!(found.candidates.is_empty() && found.skipped.is_empty());
}

#[test]
fn sizes_and_free_angles() {
    let mut sheet = GrayImage::from_pixel(300, 300, Luma([245]));
    let s = symbol(40);
    let large = imageops::resize(&s, 50, 55, imageops::FilterType::Triangle);
    let bbox = put(&mut sheet, &large, 120, 100);
    let ncc = Ncc::new(&[template("l", s.clone())], &NccConfig::default()).unwrap();
    let found = ncc.find_grey(&sheet).matches;
    let found: Vec<_> = found.iter().filter(|m| m.score > 0.95).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].bbox.iou(&bbox) > 0.95 && (found[0].scale - 1.25).abs() < 1e-9);
    // Turned by 30 degrees, the corners that turning adds do not count.
    let poses = Poses { rotations: Rotations::Every(30.0), ..Poses::default() };
    let ncc = Ncc::new(&[template("l", s)], &NccConfig { poses, scale_steps: 1, ..NccConfig::default() }).unwrap();
    assert_eq!(ncc.find_grey(&sheet).skipped, []);
    let turned = GrayImage::from_fn(300, 300, |x, y| {
        let (sin, cos) = 30f64.to_radians().sin_cos();
        let (u, v) = (f64::from(x) - 150.0, f64::from(y) - 150.0);
        let (u, v) = ((u * cos + v * sin + 20.0) as i64, (v * cos - u * sin + 22.0) as i64);
        let s = symbol(40);
        let inside = (0..40).contains(&u) && (0..44).contains(&v);
        Luma([if inside { s.get_pixel(u as u32, v as u32)[0] } else { 245 }])
    });
    let found = ncc.find_grey(&turned).matches;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!((found[0].rotation_deg - 30.0).abs() < 1e-9 && found[0].score > 0.85, "{found:?}");
}

#[test]
fn classes_compete_and_negatives_are_not_reported() {
    let mut sheet = GrayImage::from_pixel(400, 200, Luma([245]));
    let (s, mut other) = (symbol(24), symbol(24));
    for y in 10..14 {
        for x in 10..14 {
            other.put_pixel(x, y, Rgba([20, 20, 20, 255]));
        }
    }
    let (a, b) = (put(&mut sheet, &s, 40, 30), put(&mut sheet, &other, 200, 100));
    let both = [template("a", s.clone()), template("b", other.clone())];
    let found = Ncc::new(&both, &NccConfig::default()).unwrap().find_grey(&sheet).matches;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((at(&found, &a).class.as_str(), at(&found, &b).class.as_str()), ("a", "b"));
    assert_eq!(at(&found, &a).runner_up.as_deref(), Some("b"));
    assert!(at(&found, &a).evidence["margin"] > 0.01);
    let negative = Template { role: Role::Negative, ..template("a", other) };
    let found = Ncc::new(&[template("a", s), negative], &NccConfig::default()).unwrap().find_grey(&sheet).matches;
    assert_eq!(found.iter().map(|m| m.bbox).collect::<Vec<_>>(), [a]);
}

#[test]
fn thresholds_and_poses_of_single_classes() {
    let mut sheet = GrayImage::from_pixel(200, 200, Luma([245]));
    let s = symbol(24);
    put(&mut sheet, &imageops::rotate90(&s), 40, 30);
    let count =
        |config: NccConfig| Ncc::new(&[template("l", s.clone())], &config).unwrap().find_grey(&sheet).matches.len();
    assert_eq!(count(NccConfig::default()), 1);
    let upright = Poses { rotations: Rotations::None, ..Poses::default() };
    assert_eq!(count(NccConfig { class_poses: [("l".into(), upright)].into(), ..NccConfig::default() }), 0);
    sheet.put_pixel(50, 40, Luma([90]));
    let strict = NccConfig { class_thresholds: [("l".into(), 1.0)].into(), ..NccConfig::default() };
    assert_eq!(Ncc::new(&[template("l", s.clone())], &strict).unwrap().find_grey(&sheet).matches.len(), 0);
}

#[test]
fn flat_templates_are_refused() {
    let flat = RgbaImage::from_pixel(9, 9, Rgba([200, 200, 200, 255]));
    // Bare ink on transparency has one grey level too.
    let bare = RgbaImage::from_fn(9, 9, |x, _| Rgba([0, 0, 0, if x % 3 == 0 { 255 } else { 0 }]));
    let pixel = RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 255]));
    let invisible = RgbaImage::from_fn(9, 9, |x, y| Rgba([(x * y) as u8, 0, 0, 0]));
    for image in [flat, bare, pixel, invisible, RgbaImage::new(0, 0)] {
        let t = template("tank", image);
        let e = Ncc::new(&[template("l", symbol(24)), t.clone()], &NccConfig::default()).unwrap_err();
        assert!(matches!(e, NccError::Flat { .. }), "{e}");
        assert!(e.to_string().contains("tank.png") && e.to_string().contains("save it with its paper"), "{e}");
        assert_eq!(map(&t, &drawing()).unwrap_err(), e);
    }
    assert_eq!(Ncc::new(&[], &NccConfig::default()).unwrap_err(), NccError::NoTemplates);
}

#[test]
fn small_drawings_skip_with_a_reason() {
    let ncc = Ncc::new(&[template("l", symbol(24))], &NccConfig::default()).unwrap();
    for (w, h) in [(1, 1), (0, 0), (300, 10), (15, 15)] {
        let found = ncc.find_grey(&GrayImage::from_pixel(w, h, Luma([7])));
        assert!(found.matches.is_empty());
        let [skipped] = found.skipped.as_slice() else { panic!("{:?}", found.skipped) };
        assert!(skipped.template == "l.png" && skipped.reason.contains("19 x 22") && skipped.reason.contains("0.80"));
        assert!(skipped.reason.contains(&format!("{w} x {h}")), "{}", skipped.reason);
    }
    let e = map(&template("l", symbol(24)), &GrayImage::new(10, 100)).unwrap_err();
    assert!(e.to_string().contains("24 x 28") && e.to_string().contains("10 x 100"), "{e}");
    // As large as the drawing: one window.
    let mut sheet = GrayImage::new(24, 28);
    put(&mut sheet, &symbol(24), 0, 0);
    assert_eq!(map(&template("l", symbol(24)), &sheet).unwrap().values, [1.0]);
    assert_eq!(ncc.find_grey(&sheet).matches.len(), 1);
    // Two pixels, two windows.
    let two = RgbaImage::from_fn(2, 1, |x, _| Rgba([255 * x as u8, 0, 0, 255]));
    let row = GrayImage::from_raw(3, 1, vec![0, 90, 10]).unwrap();
    assert_eq!(map(&template("t", two), &row).unwrap().values, [1.0, -1.0]);
}

#[test]
fn blank_drawings_have_no_matches() {
    let poses = Poses { rotations: Rotations::Every(45.0), ..Poses::default() };
    let config = NccConfig { poses, threshold: 0.01, ..NccConfig::default() };
    let ncc = Ncc::new(&[template("l", symbol(24)), template("v", picture(MASKED))], &config).unwrap();
    for level in [0, 128, 255] {
        assert!(ncc.find_grey(&GrayImage::from_pixel(120, 90, Luma([level]))).matches.is_empty());
    }
}

#[test]
fn threads_do_not_change_the_matches() {
    let d = imageops::resize(&drawing(), 448, 320, imageops::FilterType::Nearest);
    let poses = Poses { rotations: Rotations::Every(45.0), mirror: true, ..Poses::default() };
    let config = NccConfig { poses, threshold: 0.4, ..NccConfig::default() };
    let ncc = Ncc::new(&[template("l", symbol(24)), template("v", picture(MASKED))], &config).unwrap();
    let on = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| ncc.find_grey(&d))
    };
    let one = on(1);
    assert!(one.matches.len() > 3, "{}", one.matches.len());
    assert_eq!(one, on(3));
}
