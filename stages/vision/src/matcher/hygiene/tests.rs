//! Hygiene on pictures that are drawn here, one fault at a time.

use image::{DynamicImage, GrayImage, Luma, Rgba, RgbaImage};
use ontologies::hvac;

use super::{Clean, RemovedKind, area, clean};
use crate::matcher::pose::Pose;
use crate::matcher::shape::Shape;
use crate::matcher::{MatcherError, Role, Template};

/// A picture with strokes two pixels wide; coordinates are their upper left pixels.
#[derive(Clone)]
pub struct Draw(pub GrayImage);

impl Draw {
    pub fn new(width: u32, height: u32) -> Self {
        Self(GrayImage::from_pixel(width, height, Luma([255])))
    }

    /// Fills a rectangle: left, top, right, bottom; the last two are one past it.
    pub fn fill(mut self, [x0, y0, x1, y1]: [u32; 4]) -> Self {
        for y in y0..y1.min(self.0.height()) {
            for x in x0..x1.min(self.0.width()) {
                self.0.put_pixel(x, y, Luma([0]));
            }
        }
        self
    }

    pub fn line(mut self, a: [f32; 2], b: [f32; 2]) -> Self {
        let n = (4.0 * (b[0] - a[0]).hypot(b[1] - a[1])).ceil().max(1.0);
        for k in 0..=n as u32 {
            let t = k as f32 / n;
            let [x, y] = [0, 1].map(|i| (a[i] + t * (b[i] - a[i])).round() as u32);
            self = self.fill([x, y, x + 2, y + 2]);
        }
        self
    }

    pub fn rect(self, [x0, y0, x1, y1]: [f32; 4]) -> Self {
        let [a, b, c, d] = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
        self.line(a, b).line(b, c).line(c, d).line(d, a)
    }

    pub fn circle(mut self, [cx, cy]: [f32; 2], radius: f32) -> Self {
        let at = |k: f32| [cx + radius * (k / 100.0).cos(), cy + radius * (k / 100.0).sin()];
        for k in 0..628 {
            self = self.line(at(k as f32), at(k as f32 + 1.0));
        }
        self
    }

    /// Something like a letter: 6 x 9 pixels.
    pub fn letter(self, x: f32, y: f32) -> Self {
        self.line([x, y + 7.0], [x, y]).line([x, y], [x + 4.0, y]).line([x, y + 4.0], [x + 4.0, y + 7.0])
    }

    pub fn template(&self) -> Template {
        self.of("valve")
    }

    pub fn of(&self, class: &str) -> Template {
        let image = DynamicImage::ImageLuma8(self.0.clone()).into_rgba8();
        Template { class: class.to_owned(), name: format!("{class}.png"), image, role: Role::Given, frame: None }
    }

    fn clean(&self) -> Clean {
        clean(&self.template()).unwrap()
    }

    fn ink(&self) -> Vec<u8> {
        self.0.as_raw().iter().map(|&g| u8::from(g < 128)).collect()
    }
}

/// A square with a diagonal, clear of the border.
pub fn square() -> Draw {
    Draw::new(60, 60).rect([12.0, 12.0, 46.0, 46.0]).line([12.0, 12.0], [46.0, 46.0])
}

fn different(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

fn removed(clean: &Clean, kind: RemovedKind) -> usize {
    clean.removed.iter().filter(|r| r.kind == kind).map(|r| r.pixels).sum()
}

#[test]
fn legend_symbols_keep_all_their_ink() {
    let symbols = hvac::symbols();
    assert_eq!(symbols.len(), 25);
    for s in symbols {
        let image = image::load_from_memory(s.png).unwrap().into_rgba8();
        let t = Template { class: s.class(), name: s.file.to_owned(), image, role: Role::Given, frame: None };
        let c = clean(&t).unwrap();
        assert!(c.removed.is_empty() && c.notes.is_empty(), "{}: {:?} {:?}", s.file, c.removed, c.notes);
        assert!(!c.text.contains(&1) && !c.care.contains(&0), "{}", s.file);
        assert_eq!(c.frame, c.bounds.map(|v| v as f32), "{}", s.file);
    }
}

#[test]
fn uneven_grey_paper_is_taken_off() {
    let plain = square();
    let mut shaded = plain.clone();
    for (x, y, p) in shaded.0.enumerate_pixels_mut() {
        let paper = 150.0 + 1.2 * x as f32 + 0.4 * y as f32;
        p.0[0] = (paper * if p.0[0] == 0 { 0.15 } else { 1.0 }) as u8;
    }
    let (a, b) = (plain.clean(), shaded.clean());
    assert!(a.ink == b.ink && a.ink == plain.ink());
    assert!(b.darkness.iter().zip(&b.ink).all(|(&d, &i)| if i == 1 { d > 200 } else { d < 40 }));
    assert!(b.notes.iter().any(|n| n.starts_with("uneven paper")), "{:?}", b.notes);
}

#[test]
fn light_on_dark_is_inverted() {
    let plain = square();
    let mut dark = plain.clone();
    image::imageops::invert(&mut dark.0);
    let (a, b) = (plain.clean(), dark.clean());
    assert!((a.ink, a.darkness, a.bounds) == (b.ink, b.darkness, b.bounds));
    assert_eq!(b.notes, ["light on a dark ground, inverted"]);
}

#[test]
fn compressed_pictures_keep_their_ink() {
    let plain = square();
    let mut bytes = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 40);
    plain.0.write_with_encoder(encoder).unwrap();
    let noisy = Draw(image::load_from_memory(bytes.get_ref()).unwrap().into_luma8());
    assert_ne!(noisy.0, plain.0);
    let c = noisy.clean();
    assert!(c.removed.is_empty(), "{:?}", c.removed);
    let wrong = different(&c.ink, &plain.ink());
    assert!(wrong * 20 < area(&plain.ink()), "{wrong}");
}

#[test]
fn faint_strokes_are_kept() {
    let mut d = square();
    for x in 14..46 {
        for y in 12..14 {
            d.0.put_pixel(x, y, Luma([175]));
        }
    }
    assert!(different(&d.clean().ink, &square().ink()) <= 2);
}

#[test]
fn specks_go() {
    let c = square().fill([3, 3, 4, 5]).clean();
    assert!(c.ink == square().ink());
    assert_eq!(removed(&c, RemovedKind::Speck), 2);
    assert!(!c.care.contains(&0));
}

/// The square cut out with a margin of five pixels and pipes to the border.
fn with_pipes() -> Draw {
    Draw::new(46, 46)
        .rect([5.0, 5.0, 39.0, 39.0])
        .line([5.0, 5.0], [39.0, 39.0])
        .fill([0, 22, 6, 24])
        .fill([39, 22, 46, 24])
}

#[test]
fn stubs_of_pipes_are_cut_off() {
    let c = with_pipes().clean();
    assert_eq!(removed(&c, RemovedKind::Stub), 20);
    assert_eq!(c.bounds, [5, 5, 41, 41]);
    // Behind the stub nothing is known, and the cut-out is the box that a person drew.
    assert_eq!((c.care[22 * 46 + 2], c.care[2 * 46 + 22]), (0, 1));
    assert_eq!(c.frame, [0.0, 0.0, 46.0, 46.0]);
}

#[test]
fn the_box_of_a_thin_line_is_right_for_the_ink_and_for_the_cut_out() {
    // Dashes across a cut-out of 8 pixels, in line with a neighbour's.
    let mut dashes = Draw::new(80, 8).fill([0, 3, 4, 5]);
    for x in [10, 28, 46] {
        dashes = dashes.fill([x, 3, x + 12, 5]);
    }
    let c = dashes.clean();
    let height = |frame: [f32; 4]| frame[3] - frame[1];
    assert_eq!(height(c.frame), 4.0, "{:?}", c.frame);
    assert!((height(c.frame) / height([0.0, 0.0, 80.0, 8.0]) - 2.0 / height(c.frame)).abs() < 1e-3);
}

#[test]
fn what_belongs_to_a_symbol_is_no_stub() {
    let kept = |what: &str, d: &Draw| {
        let c = d.clean();
        assert!(c.removed.is_empty(), "{what}: {:?}", c.removed);
        assert!(c.ink == d.ink(), "{what}");
    };
    kept("leads that end before the border", &Draw::new(60, 40).rect([15.0, 10.0, 43.0, 28.0]).fill([3, 19, 57, 21]));
    kept(
        "long leads of a tight picture",
        &Draw::new(60, 20).rect([15.0, 0.0, 43.0, 18.0]).fill([0, 9, 15, 11]).fill([45, 9, 60, 11]),
    );
    kept("handle", &Draw::new(40, 40).rect([0.0, 20.0, 38.0, 38.0]).fill([10, 0, 30, 2]).fill([19, 0, 21, 20]));
    kept(
        "ground",
        &Draw::new(40, 30).fill([19, 0, 21, 14]).fill([0, 14, 40, 16]).fill([8, 21, 32, 23]).fill([16, 28, 24, 30]),
    );
    kept("tight circle", &Draw::new(42, 42).circle([20.0, 20.0], 20.0));
    kept(
        "point of a triangle",
        &Draw::new(42, 37)
            .line([20.0, 0.0], [40.0, 35.0])
            .line([20.0, 0.0], [0.0, 35.0])
            .line([0.0, 35.0], [40.0, 35.0]),
    );
    kept("cross", &Draw::new(40, 40).fill([19, 0, 21, 40]).fill([0, 19, 40, 21]));
    kept(
        "dashes",
        &Draw::new(60, 4)
            .fill([0, 1, 8, 3])
            .fill([13, 1, 21, 3])
            .fill([26, 1, 34, 3])
            .fill([39, 1, 47, 3])
            .fill([52, 1, 60, 3]),
    );
    kept(
        "grid of dots",
        &Draw::new(28, 28)
            .fill([0, 0, 4, 4])
            .fill([12, 0, 16, 4])
            .fill([24, 0, 28, 4])
            .fill([0, 12, 4, 16])
            .fill([12, 12, 17, 17])
            .fill([24, 12, 28, 16])
            .fill([0, 24, 4, 28])
            .fill([12, 24, 16, 28])
            .fill([24, 24, 28, 28]),
    );
    kept(
        "bars beside a circle",
        &Draw::new(40, 40).circle([19.0, 19.0], 14.0).fill([0, 5, 2, 35]).fill([38, 5, 40, 35]),
    );
}

#[test]
fn parts_of_neighbours_go() {
    // The lower halves of two letters and a hyphen between them that does not quite touch the border.
    let d = square().fill([20, 0, 22, 5]).fill([20, 3, 26, 5]).fill([34, 0, 36, 5]).fill([29, 1, 32, 3]);
    let c = d.clean();
    assert!(c.ink == square().ink());
    assert_eq!(removed(&c, RemovedKind::Fragment), 10 + 8 + 10 + 6);
    // A pipe that passes by.
    let c = square().fill([0, 55, 60, 57]).clean();
    assert!(c.ink == square().ink() && c.removed.len() == 1);
}

#[test]
fn writing_in_an_outline_is_text() {
    let balloon = || Draw::new(64, 64).circle([31.0, 31.0], 26.0);
    let c = balloon().letter(20.0, 26.0).letter(29.0, 26.0).letter(38.0, 26.0).clean();
    assert_eq!((c.text[30 * 64 + 21], c.text[24 * 64 + 31], c.text[31 * 64 + 5], c.text[64 + 2]), (1, 1, 0, 0));
    assert_eq!((c.text[18 * 64 + 31], c.text[46 * 64 + 31]), (0, 0), "paper above and below");
    assert!(c.removed.is_empty() && c.notes == ["writing inside may differ"], "{:?}", c.notes);
    assert!(!balloon().clean().text.contains(&1), "an empty balloon");
    let disc = balloon().fill([25, 25, 39, 39]).clean();
    assert!(!disc.text.contains(&1), "a filled part");
    let dashes = balloon().fill([12, 31, 20, 33]).fill([26, 31, 34, 33]).fill([40, 31, 48, 33]).clean();
    assert!(!dashes.text.contains(&1), "dashes");
    // A large letter alone is the symbol's meaning, such as the M of a motor.
    let motor = balloon()
        .line([21.0, 44.0], [21.0, 18.0])
        .line([21.0, 18.0], [31.0, 32.0])
        .line([31.0, 32.0], [41.0, 18.0])
        .line([41.0, 18.0], [41.0, 44.0]);
    assert!(!motor.clean().text.contains(&1), "a large letter");
    // A letter that has grown together with the outline goes with the others.
    let c = balloon().letter(24.0, 26.0).letter(33.0, 26.0).letter(46.0, 26.0).line([50.0, 30.0], [57.0, 30.0]).clean();
    assert_eq!(c.text[30 * 64 + 46], 1, "a letter that hangs on the outline");
}

#[test]
fn transparency_is_paper_around_bare_ink_and_unknown_beside_paper() {
    let opaque = square().template();
    let bare = |ink: u8| {
        let mut t = opaque.clone();
        for p in t.image.pixels_mut() {
            *p = if p.0[0] == 255 { Rgba([0; 4]) } else { Rgba([ink, ink, ink, 255]) };
        }
        clean(&t).unwrap()
    };
    for ink in [0, 255] {
        assert!(bare(ink).ink == square().ink(), "ink of level {ink}");
        assert!(!bare(ink).care.contains(&0));
    }
    let mut holed = opaque.clone();
    for y in 25..35 {
        for x in 5..20 {
            holed.image.put_pixel(x, y, Rgba([90, 0, 0, 0]));
        }
    }
    let c = clean(&holed).unwrap();
    assert_eq!((c.care[30 * 60 + 10], c.care[30 * 60 + 22]), (0, 1));
    assert!(c.ink[30 * 60 + 12] == 0 && c.ink[20 * 60 + 12] == 1);
}

#[test]
fn pictures_without_a_symbol() {
    let of = |image: RgbaImage| clean(&Template { image, ..square().template() });
    for level in [0, 120, 255] {
        let e = of(RgbaImage::from_pixel(20, 12, Rgba([level, level, level, 255]))).unwrap_err();
        assert!(matches!(e, MatcherError::BlankTemplate { .. }), "{level}");
    }
    assert!(of(RgbaImage::new(0, 0)).is_err() && of(RgbaImage::new(9, 9)).is_err());
    assert!(of(RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 255]))).is_err());
    let c = Draw::new(20, 12).fill([7, 5, 8, 6]).clean();
    assert_eq!((c.bounds, c.removed.len()), ([7, 5, 8, 6], 0));
    let c = Draw::new(20, 12).fill([1, 1, 19, 11]).clean();
    assert_eq!(c.bounds, [1, 1, 19, 11]);
}

#[test]
fn a_shape_keeps_its_geometry_at_other_sizes() {
    let t = with_pipes().template();
    for size in [0.5, 1.0, 1.44, 3.0] {
        let s = Shape::of(&t, size).unwrap();
        let near = |a: f32, b: f32| assert!((a - b).abs() <= 1.0, "at {size}: {a} is not {b}");
        for (k, edge) in s.extent.into_iter().enumerate() {
            near(edge, [-18.0, -18.0, 18.0, 18.0][k] * size);
            near(s.frame[k], [-23.0, -23.0, 23.0, 23.0][k] * size);
        }
        assert!((s.reduction * size - 1.0).abs() < 1e-4);
        let ink = s.ink.iter().fold([f32::MAX, f32::MIN], |b, p| [b[0].min(p[0] - 0.5), b[1].max(p[0] + 0.5)]);
        near(ink[0], s.extent[0]);
        near(ink[1], s.extent[2]);
        assert_eq!(s.picture.darkness.len(), s.picture.width * s.picture.height);
        assert_eq!(
            (s.picture.weight.len(), s.picture.text.len()),
            (s.picture.darkness.len(), s.picture.darkness.len())
        );
        assert!(!s.dense.has_text() && s.care.len() == s.care_distances.len());
    }
}

#[test]
fn text_is_compared_by_itself_and_no_part_of_the_shape() {
    let balloon = Draw::new(64, 64).circle([31.0, 31.0], 26.0);
    let written = balloon.clone().letter(22.0, 26.0).letter(34.0, 26.0);
    let (a, b) = (Shape::of(&balloon.template(), 1.0).unwrap(), Shape::of(&written.template(), 1.0).unwrap());
    assert_eq!(a.ink, b.ink);
    assert!(b.dense.has_text() && !a.dense.has_text());
    assert!(a.ignored.is_empty() && !b.ignored.is_empty());
}

#[test]
fn the_box_of_a_match_is_the_cut_out_in_every_pose() {
    // Eight pixels of margin on the left, none elsewhere.
    let d = Draw::new(48, 30).rect([8.0, 0.0, 46.0, 28.0]).line([8.0, 0.0], [46.0, 28.0]).fill([0, 14, 8, 16]);
    let s = Shape::of(&d.template(), 1.0).unwrap();
    let margin = s.extent[0] - s.frame[0];
    assert!((margin - 8.0).abs() < 1e-3, "{margin}");
    let margins = |pose: Pose| {
        let b = pose.bounds(&s);
        [-b[0], -b[1], b[2], b[3]].map(f32::round)
    };
    let upright = Pose::upright(1.0);
    assert_eq!(margins(upright), [28.0, 15.0, 20.0, 15.0]);
    assert_eq!(margins(Pose { mirrored: true, ..upright }), [20.0, 15.0, 28.0, 15.0]);
    let quarter = std::f32::consts::FRAC_PI_2;
    assert_eq!(margins(Pose { angle: quarter, ..upright }), [15.0, 28.0, 15.0, 20.0]);
    assert_eq!(margins(Pose { angle: 2.0 * quarter, ..upright }), [20.0, 15.0, 28.0, 15.0]);
    assert_eq!(margins(Pose { scale: 2.0, ..upright }), [56.0, 30.0, 40.0, 30.0]);
}
