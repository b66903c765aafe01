//! Every kind of picture comes out as the same upright RGB scene; every kind of broken file has its own error.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use datasets::picture::{self, Format, Limits, PictureError, decode, probe, probe_reader};
use image::{GrayImage, Luma, Rgb, RgbImage};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn all() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| picture::is_image_name(n))
        .collect();
    names.sort();
    assert!(names.len() > 30, "{names:?}");
    names
}

fn near(p: Rgb<u8>, q: [u8; 3], tolerance: i16) -> bool {
    p.0.iter().zip(q).all(|(a, b)| (i16::from(*a) - i16::from(b)).abs() <= tolerance)
}

#[test]
fn every_kind_gives_the_same_upright_scene() {
    for name in all() {
        let bytes = fixture(&name);
        let picture = decode(&bytes, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(picture.rgb.dimensions(), (40, 24), "{name}");
        let red = match name.as_str() {
            n if n.starts_with("grey") => [80, 80, 80],
            n if n.starts_with("bilevel") => [0, 0, 0],
            _ => [220, 20, 20],
        };
        for (x, y, want) in [(10, 6, red), (30, 18, [0; 3]), (20, 12, [255; 3]), (2, 21, [255; 3]), (37, 2, [255; 3])] {
            let got = picture.rgb.get_pixel(x, y);
            assert!(near(*got, want, 8), "{name} at {x},{y}: {got:?}, expected {want:?}");
        }
        assert_eq!(probe(&bytes).unwrap(), picture.info, "{name}");
        assert_eq!(probe_reader(&mut std::io::Cursor::new(&bytes)).unwrap(), picture.info, "{name}");
        assert_eq!(picture.had_alpha, name.contains("alpha"), "{name}");
        assert_eq!(picture.info.more_pages, name == "pages.tif", "{name}");
    }
}

#[test]
fn content_beats_the_extension() {
    assert_eq!(probe(&fixture("rgb.png")).unwrap().format, Format::Png);
    assert_eq!(probe(&fixture("turned_6.jpg")).unwrap().format, Format::Jpeg);
}

#[test]
fn sixteen_bits_are_scaled() {
    let p = decode(&fixture("grey16.png"), &Limits::default()).unwrap();
    assert!(near(*p.rgb.get_pixel(10, 6), [80; 3], 1), "{:?}", p.rgb.get_pixel(10, 6));
}

#[test]
fn every_truncation_is_an_error_and_no_panic() {
    for name in all() {
        let bytes = fixture(&name);
        for keep in 1..bytes.len() {
            let result = decode(&bytes[..keep], &Limits::default());
            // Formats whose last bytes are no pixels (PNG's IEND, EXIF, a padding byte) may still be whole.
            if keep < bytes.len() * 2 / 3 && !name.ends_with("tif") && !name.ends_with("webp") {
                assert!(result.is_err(), "{name} cut to {keep} of {} bytes was accepted", bytes.len());
            }
        }
        let half = decode(&bytes[..bytes.len() / 2], &Limits::default());
        if matches!(name.as_str(), "rgb.jpg" | "progressive.jpg" | "rgb.bmp" | "rgb.png" | "cmyk.tif") {
            assert!(matches!(half, Err(PictureError::Truncated { .. })), "{name}: {half:?}");
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    for name in all() {
        let mut bytes = fixture(&name);
        for at in 0..bytes.len() {
            let old = bytes[at];
            bytes[at] ^= 0xA5;
            let _ = decode(&bytes, &Limits { max_pixels: 1_000_000, ..Limits::default() });
            bytes[at] = old;
        }
    }
}

#[test]
fn empty_file() {
    assert!(matches!(decode(&[], &Limits::default()), Err(PictureError::Empty)));
    assert!(matches!(probe(&[]), Err(PictureError::Empty)));
}

#[test]
fn foreign_files_are_named() {
    for (bytes, word) in [
        (&b"%PDF-1.7\n"[..], "PDF"),
        (b"hello, this is text", "text"),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS"),
        (&[0; 64], "zeros"),
        (b"PK\x03\x04\x00", "ZIP"),
        (&[7, 200, 13, 99], "no known"),
    ] {
        let e = decode(bytes, &Limits::default()).unwrap_err();
        assert!(matches!(e, PictureError::NotAnImage { .. }) && e.to_string().contains(word), "{e}");
    }
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    // A PNG header of 60000 x 60000 pixels, with a right checksum and nothing behind it.
    let mut png = fixture("rgb.png");
    png[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let e = decode(&png, &Limits::default()).unwrap_err();
    assert!(matches!(e, PictureError::TooManyPixels { width: 60_000, height: 60_000, .. }), "{e}");
    let text = e.to_string();
    assert!(text.contains("3600 Mpx") && text.contains("500 Mpx") && text.contains("`max_pixels`"), "{text}");
    let e = decode(&fixture("rgb.png"), &Limits { max_bytes: 10, ..Limits::default() }).unwrap_err();
    assert!(e.to_string().contains("`max_bytes`"), "{e}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

#[test]
fn written_pictures_read_back() {
    let rgb = RgbImage::from_fn(33, 17, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, 200]));
    let png = picture::encode_png(&rgb).unwrap();
    assert_eq!(decode(&png, &Limits::default()).unwrap().rgb, rgb);
    assert_eq!(png, picture::encode_png(&rgb).unwrap());
    let jpeg = picture::encode_jpeg(&rgb, 95).unwrap();
    let back = decode(&jpeg, &Limits::default()).unwrap().rgb;
    assert!(back.pixels().zip(rgb.pixels()).all(|(a, b)| near(*a, b.0, 40)));
}

#[test]
fn bilevel_tiff_of_odd_width() {
    let grey = GrayImage::from_fn(13, 5, |x, y| Luma([if (x + y) % 3 == 0 { 0 } else { 255 }]));
    let mut out = std::io::Cursor::new(Vec::new());
    image::DynamicImage::ImageLuma8(grey.clone()).write_to(&mut out, image::ImageFormat::Tiff).unwrap();
    let back = decode(out.get_ref(), &Limits::default()).unwrap().rgb;
    assert!(back.enumerate_pixels().all(|(x, y, p)| p.0 == [grey.get_pixel(x, y).0[0]; 3]));
}

#[test]
fn image_names() {
    for yes in ["a.jpg", "b/c.TIFF", "d e.Png", "ä.webp", "x.y.bmp", "p.JPEG"] {
        assert!(picture::is_image_name(yes), "{yes}");
    }
    for no in ["a", "jpg", ".jpg", "b/.png", "a.txt", "a.jpg.part", ""] {
        assert!(!picture::is_image_name(no), "{no}");
    }
}

/// The darkest channel on light paper, the lightest on dark paper.
fn contrast(rgb: &RgbImage) -> GrayImage {
    let sum: u64 = rgb.as_raw().iter().map(|&v| u64::from(v)).sum();
    let light = sum >= 128 * rgb.as_raw().len() as u64;
    let level = |p: &Rgb<u8>| if light { *p.0.iter().min().unwrap() } else { *p.0.iter().max().unwrap() };
    GrayImage::from_fn(rgb.width(), rgb.height(), |x, y| Luma([level(rgb.get_pixel(x, y))]))
}

#[test]
fn grey_levels_are_those_of_the_colours() {
    for name in all() {
        let bytes = fixture(&name);
        let picture = decode(&bytes, &Limits::default()).unwrap();
        let grey = picture::decode_grey(&bytes, &Limits::default()).unwrap();
        assert_eq!(grey.grey, contrast(&picture.rgb), "{name}");
        assert_eq!(grey.info, picture.info, "{name}");
        for keep in [bytes.len() / 3, bytes.len() / 2] {
            let [a, b] = [
                decode(&bytes[..keep], &Limits::default()).map(|_| ()),
                picture::decode_grey(&bytes[..keep], &Limits::default()).map(|_| ()),
            ];
            assert_eq!(format!("{a:?}"), format!("{b:?}"), "{name} cut to {keep}");
        }
    }
}

#[test]
fn coloured_lines_on_dark_paper_keep_their_lightest_channel() {
    let rgb = RgbImage::from_fn(50, 31, |x, y| Rgb(if (x + y) % 7 == 0 { [250, 40, 90] } else { [10, 20, 30] }));
    let bytes = picture::encode_png(&rgb).unwrap();
    let grey = picture::decode_grey(&bytes, &Limits::default()).unwrap().grey;
    assert_eq!(grey, contrast(&rgb));
    assert_eq!((grey.get_pixel(0, 0).0, grey.get_pixel(1, 0).0), ([250], [30]));
}
