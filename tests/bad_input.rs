//! What is wrong with input is said with its name, its place and the fix; what can go on goes on.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::{fs, io::Cursor, path::Path};

use image::{DynamicImage, ImageFormat, Rgba, RgbaImage, imageops};
use serde_json::Value;
use support::{Project, SEED, is_root, mount, sheet, sheet_settings, statuses, templates};

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn picture(index: u64) -> DynamicImage {
    image::load_from_memory(&sheet(index)).unwrap()
}

/// A chunk of a PNG file.
fn chunk(name: [u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [&name, body].concat();
    let mut crc = u32::MAX;
    for &byte in &named {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), named.as_slice(), &(!crc).to_be_bytes()].concat()
}

/// A PNG file of a few bytes whose header claims 3.6 thousand million pixels.
fn bomb() -> Vec<u8> {
    let side = 60_000u32.to_be_bytes();
    let header = [&side[..], &side, &[8, 2, 0, 0, 0]].concat();
    let data = [0x78, 0x9c, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14, 0x00];
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(*b"IHDR", &header), chunk(*b"IDAT", &data), chunk(*b"IEND", &[])].concat()
}

/// A BMP file with one bit a pixel.
fn one_bit_bmp(image: &DynamicImage) -> Vec<u8> {
    let grey = image.to_luma8();
    let (w, h) = grey.dimensions();
    let row = w.div_ceil(32) * 4;
    let mut out = b"BM".to_vec();
    for v in [62 + row * h, 0, 62, 40, w, h] {
        out.extend(v.to_le_bytes());
    }
    out.extend([1, 0, 1, 0]);
    for v in [0, row * h, 2835, 2835, 2, 0, 0, 0x00FF_FFFF] {
        out.extend(v.to_le_bytes());
    }
    for y in (0..h).rev() {
        let mut line = vec![0u8; row as usize];
        for x in (0..w).filter(|&x| grey.get_pixel(x, y).0[0] > 127) {
            line[x as usize / 8] |= 0x80 >> (x % 8);
        }
        out.extend(line);
    }
    out
}

/// A JPEG file that is stored lying on its side, with the EXIF entry that says so.
fn turned_jpeg(image: &DynamicImage) -> Vec<u8> {
    let jpeg = encode(&DynamicImage::ImageRgb8(imageops::rotate270(&image.to_rgb8())), ImageFormat::Jpeg);
    let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, exif, &jpeg[2..]].concat()
}

#[test]
fn bad_drawings_are_left_out_by_name_and_the_rest_goes_on() {
    let p = Project::new(2);
    p.write("drawings/copy of sheet 0.png", &sheet(0));
    p.write("drawings/empty.png", b"");
    p.write("drawings/cut.png", &sheet(1)[..900]);
    p.write("drawings/bomb.png", &bomb());
    p.write("drawings/words.png", b"these are words and no picture");
    p.write("drawings/program.jpg", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    p.write("drawings/notes.txt", b"notes");
    p.write("drawings/secret.png", &sheet(1));
    let unreadable = !is_root();
    if unreadable {
        #[cfg(unix)]
        fs::set_permissions(p.path("drawings/secret.png"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
            .unwrap();
    } else {
        eprintln!("SKIPPED: a file that may not be read (root may read every file)");
        fs::remove_file(p.path("drawings/secret.png")).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere.png", p.path("drawings/link.png")).unwrap();
    let done = p.ok(&["run", "--until", "review"]);
    let left_out = p.quarantined("label");
    for (file, reason) in [
        ("empty.png", "0 bytes"),
        ("cut.png", "truncated"),
        ("bomb.png", "over the limit"),
        ("words.png", "not a picture"),
        ("program.jpg", "not a picture"),
    ] {
        assert!(left_out.get(file).is_some_and(|r| r.contains(reason)), "{file}: {left_out:?}");
    }
    assert_eq!(left_out.len(), 5);
    let done = done.says(&["5 images were left out", "inputs.images", "left out"]);
    let input = &p.record()["inputs"]["images"]["left_out"];
    let reasons = input.to_string();
    assert!(reasons.contains("notes.txt") && reasons.contains("files ending in .txt"), "{reasons}");
    assert!(cfg!(not(unix)) || reasons.contains("link.png"), "{reasons}");
    assert!(!unreadable || reasons.contains("secret.png"), "{reasons}");
    drop(done);
    // A copy has the labels of what it is a copy of.
    let labels = p.labels();
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["copy of sheet 0.png", "sheet_0000.png", "sheet_0001.png"]);
    assert_eq!(labels["copy of sheet 0.png"], labels["sheet_0000.png"]);
    // They are not read again, and still told.
    p.ok(&["run", "--until", "review"]).says(&["5 images were left out"]);
    // A good file in the place of a bad one is one label more.
    p.write("drawings/empty.png", &sheet(2));
    let plan = p.ok(&["plan", "--until", "label", "--json"]).json();
    assert_eq!(support::planned(&plan, "label")["items"]["todo"], 1);
}

#[test]
fn every_kind_of_picture_and_name_gets_the_same_labels() {
    let p = Project::without_sheets();
    let original = picture(0);
    p.write("drawings/plain.png", &sheet(0));
    let sixteen = DynamicImage::ImageLuma16(original.to_luma16());
    p.write("drawings/sixteen bits.tiff", &encode(&sixteen, ImageFormat::Tiff));
    p.write("drawings/sixteen.png", &encode(&DynamicImage::ImageRgb16(original.to_rgb16()), ImageFormat::Png));
    p.write("drawings/Fließbild äöü 図面.BMP", &one_bit_bmp(&original));
    p.write("drawings/a/same name.webp", &encode(&original, ImageFormat::WebP));
    p.write("drawings/b/same name.webp", &encode(&original, ImageFormat::WebP));
    p.write("drawings/b/c/same name.jpg", &turned_jpeg(&original));
    let mut clear = original.to_rgba8();
    for pixel in clear.pixels_mut() {
        // Ink on nothing: what was dark stays, what was light is transparent.
        *pixel = Rgba([0, 0, 0, 255 - pixel.0[0]]);
    }
    p.write("drawings/alpha.png", &encode(&DynamicImage::ImageRgba8(clear), ImageFormat::Png));
    p.ok(&["run"]);
    assert_eq!(p.quarantined("label").len(), 0);
    let labels = p.labels();
    assert_eq!(labels.len(), 8, "{labels:?}");
    let wanted = labels["plain.png"];
    assert!(wanted >= 3);
    for (name, boxes) in &labels {
        assert!(boxes.abs_diff(wanted) <= 1, "{name}: {boxes} boxes, and the plain file has {wanted}");
    }
    // What the detector says about them does not mix up files of one name.
    let found: Value =
        serde_json::from_slice(&fs::read(p.path("runs/latest/infer/predictions/predictions.json")).unwrap()).unwrap();
    let names: std::collections::BTreeSet<&str> =
        found["images"].as_array().unwrap().iter().map(|i| i["file_name"].as_str().unwrap()).collect();
    assert_eq!(names, labels.keys().map(String::as_str).collect());
    for folder in ["labels", "pictures"] {
        let folder = p.path("runs/latest/infer/predictions").join(folder);
        let mut count = 0;
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                if entry.path().is_dir() { folders.push(entry.path()) } else { count += 1 }
            }
        }
        assert_eq!(count, 8);
    }
    // Boxes are in pixels of the upright picture.
    let text = fs::read_to_string(p.path("runs/latest/label/annotations/annotations.jsonl")).unwrap();
    for line in text.lines() {
        let image: Value = serde_json::from_str(line).unwrap();
        assert_eq!((image["width"].as_u64(), image["height"].as_u64()), (Some(400), Some(320)), "{}", image["image"]);
    }
}

#[test]
fn templates_in_colour_or_with_transparency_work_and_one_too_large_is_told() {
    let p = Project::new(1);
    p.ok(&["run", "--until", "label"]);
    let wanted = p.labels()["sheet_0000.png"];
    for (i, (file, bytes)) in templates().into_iter().enumerate() {
        let mut template = image::load_from_memory(&bytes).unwrap().to_rgba8();
        for pixel in template.pixels_mut() {
            let light = pixel.0[0];
            *pixel = if i == 0 { Rgba([0, 0, 0, 255 - light]) } else { Rgba([light / 2 + 127, light, 255, 255]) };
            if i != 0 && light < 128 {
                *pixel = Rgba([20, 30, 160, 255]);
            }
        }
        p.write(&format!("templates/{file}"), &encode(&DynamicImage::ImageRgba8(template), ImageFormat::Png));
    }
    // A symbol three times as large as the whole sheet.
    let huge = image::load_from_memory(&templates()[0].1).unwrap().resize(1200, 1200, imageops::FilterType::Nearest);
    p.write(
        "templates/too_large.png",
        &encode(&DynamicImage::ImageRgb8(imageops::flip_vertical(&huge.to_rgb8())), ImageFormat::Png),
    );
    p.ok(&["run", "--until", "label"]).says(&["too_large.png"]);
    let found = p.labels()["sheet_0000.png"];
    assert!(found.abs_diff(wanted) <= 1, "{found} boxes, and {wanted} with black templates");
}

#[test]
fn templates_that_cannot_be_right_are_all_named_at_once() {
    let p = Project::new(1);
    let blank = DynamicImage::ImageRgba8(RgbaImage::from_pixel(40, 40, Rgba([255, 255, 255, 255])));
    p.write("templates/blank.png", &encode(&blank, ImageFormat::Png));
    let clear = DynamicImage::ImageRgba8(RgbaImage::from_pixel(40, 40, Rgba([0, 0, 0, 0])));
    p.write("templates/clear.png", &encode(&clear, ImageFormat::Png));
    p.write("templates/empty.png", b"");
    p.write("templates/broken.png", &templates()[0].1[..60]);
    p.write("templates/twin_of_ball_valve.png", &templates()[0].1);
    p.call(&["run"]).exits(1).says(&[
        "blank.png",
        "clear.png",
        "empty.png",
        "broken.png",
        "twin_of_ball_valve.png",
        "same picture",
    ]);
    assert_eq!(statuses(&p.record())["ontology"], "failed");
    assert_eq!(statuses(&p.record())["label"], "blocked");
    // Without templates there is nothing to look for.
    fs::remove_dir_all(p.path("templates")).unwrap();
    fs::create_dir(p.path("templates")).unwrap();
    p.call(&["run"]).exits(2).says(&["input `templates`", "no file in"]);
}

#[test]
fn no_drawings_is_an_error_and_never_an_empty_data_set() {
    let p = Project::without_sheets();
    p.call(&["run"]).exits(2).says(&["input `images`", "no file ending in"]);
    p.write("drawings/notes.txt", b"x");
    p.call(&["run"]).exits(2).says(&["notes.txt", "left out"]);
    // Nor is one whose drawings are all bad.
    p.write("drawings/a.png", b"");
    p.write("drawings/b.png", b"words");
    p.call(&["run"]).exits(1).says(&["none of the 2 images can be used", "a.png"]);
    fs::remove_dir_all(p.path("drawings")).unwrap();
    p.call(&["run"]).exits(2).says(&["there is no", "drawings"]);
    assert!(!p.path("runs/latest/review").exists());
}

#[test]
fn mistakes_in_the_project_file_name_their_place_and_the_nearest_key() {
    let p = Project::new(1);
    let cases: [(&str, &[&str]); 12] = [
        ("stages:\n  label:\n    nms_iuo: 0.5\n", &["pipeline.yaml:3:5", "nms_iuo", "did you mean `nms_iou`"]),
        ("stages:\n  lable: {}\n", &["pipeline.yaml:2:3", "did you mean `label`"]),
        ("inptus:\n  images: a\n", &["pipeline.yaml:1:1", "did you mean `inputs`"]),
        ("stages:\n  train:\n    augment:\n      mosiac: 1\n", &["pipeline.yaml:4:7", "mosaic"]),
        ("stages:\n  train:\n    epochs: many\n", &["pipeline.yaml:3:", "epochs"]),
        ("stages:\n  train: { epochs: -1 }\n", &["pipeline.yaml:2:", "epochs"]),
        ("stages:\n  review: { gate: mabye }\n", &["pipeline.yaml:2:", "mabye", "auto"]),
        ("stages:\n  label: {}\n  train: {}\n  label: {}\n", &["pipeline.yaml:4:3", "key `label` is written twice"]),
        ("stages: [label\n", &["pipeline.yaml:"]),
        ("version: 2\n", &["pipeline.yaml:1:", "version"]),
        ("stages:\n  label: 5\n", &["pipeline.yaml:2:", "label"]),
        ("inputs:\n  images: { path: drawings, recursive: perhaps }\n", &["pipeline.yaml:2:", "true or false"]),
    ];
    for (yaml, words) in cases {
        p.write("pipeline.yaml", yaml.as_bytes());
        p.call(&["run"]).exits(2).says(words);
        p.call(&["plan", "--json"]).exits(2).says(words);
    }
    p.write("pipeline.yaml", support::YAML.as_bytes());
    p.call(&["run", "--set", "label.nms_iuo=0.5"]).exits(2).says(&["--set label.nms_iuo=0.5", "nms_iou"]);
    p.call(&["run", "--set", "label.nms_iou"]).exits(2).says(&["there is no `=`"]);
    p.call(&["run", "--set", "label.nms_iou=7"]).exits(2).says(&["nms_iou"]);
    p.call(&["run", "--set", "train.imgsz=100"]).exits(2).says(&["multiple of 32"]);
    p.call(&["run", "--config", "none.yaml"]).exits(2).says(&["there is no project file `none.yaml`"]);
    p.call(&["rnu"]).exits(2);
    assert!(!p.path("runs/latest").exists(), "nothing ran");
}

/// Changes a byte of a file, keeping its length.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_artifact_is_found_by_its_hash_and_made_anew() {
    let p = Project::new(2);
    p.ok(&["run", "--until", "review"]);
    let record = p.record();
    let cas = |digest: &str| p.path("runs/.store/cas").join(&digest[..2]).join(digest);
    let artifact = record["stages"]["label"]["outputs"]["annotations"].as_str().unwrap();
    let manifest: Value = serde_json::from_slice(&fs::read(cas(artifact)).unwrap()).unwrap();
    let blob = manifest["blobs"][0]["d"].as_str().unwrap();
    let whole = fs::read(cas(blob)).unwrap();
    // The manifest: seen before anything runs.
    flip(&cas(artifact));
    p.ok(&["run", "--until", "review"]).says(&["gone or damaged"]);
    assert_eq!(p.record()["stages"]["label"]["outputs"]["annotations"], artifact);
    // A blob: seen when it is read, moved aside, and made again by the next run from the kept labels.
    flip(&cas(blob));
    p.call(&["run", "--until", "review", "--set", "review.tiny_px=9"]).exits(1).says(&["was damaged", "run again"]);
    p.ok(&["run", "--until", "review", "--set", "review.tiny_px=9"]);
    assert_eq!(fs::read(cas(blob)).unwrap(), whole);
    assert!(p.path("runs/.store/damaged").join(blob).is_file());
    // A blob that is gone, and one that was cut.
    fs::remove_file(cas(blob)).unwrap();
    p.ok(&["run", "--until", "review"]);
    fs::remove_file(cas(blob)).unwrap();
    fs::write(cas(blob), &whole[..whole.len() / 2]).unwrap();
    p.ok(&["run", "--until", "review"]);
    assert_eq!(fs::read(cas(blob)).unwrap(), whole);
}

#[test]
fn a_read_only_folder_of_runs_is_named_with_the_fix() {
    let p = Project::new(1);
    let runs = p.path("runs");
    fs::create_dir(&runs).unwrap();
    let _mounted = if is_root() {
        let Some(mounted) = mount(&runs, "size=1m,ro") else { return };
        Some(mounted)
    } else {
        #[cfg(unix)]
        fs::set_permissions(&runs, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
        None
    };
    p.call(&["run"]).exits(1).says(&["cannot be written to", "runs", "--runs"]);
    // As it says.
    p.ok(&["run", "--until", "ontology", "--runs", "elsewhere"]);
    assert!(p.path("elsewhere/latest/run.json").is_file());
    #[cfg(unix)]
    let _ = fs::set_permissions(&runs, std::os::unix::fs::PermissionsExt::from_mode(0o755));
}

#[test]
fn a_full_disk_is_named_and_what_was_finished_stays() {
    let p = Project::new(2);
    let runs = p.path("runs");
    fs::create_dir(&runs).unwrap();
    // Room for the labels and their report, not for a model.
    let Some(mounted) = mount(&runs, "size=6m") else { return };
    p.call(&["run", "--until", "train"]).exits(1).says(&["the disk is full", "free some space"]);
    assert_eq!(statuses(&p.record())["label"], "done");
    let more = std::process::Command::new("mount").args(["-o", "remount,size=500m"]).arg(&runs).status();
    if !more.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: going on after the disk was full (it cannot be made larger here)");
        return;
    }
    p.ok(&["run", "--until", "train"]);
    let now = statuses(&p.record());
    assert_eq!((now["label"].as_str(), now["train"].as_str()), ("cached", "done"));
    drop(mounted);
}

#[test]
fn names_and_settings_are_the_same_in_every_test() {
    // The other tests count on sheets that differ and hold every class.
    assert_ne!(sheet(0), sheet(1));
    let classes: std::collections::BTreeSet<String> = (0..3)
        .flat_map(|i| synth::sheet(&sheet_settings(), SEED, i).unwrap().annotations.annotations)
        .map(|a| a.class)
        .collect();
    assert_eq!(classes.len(), support::CLASSES.len(), "{classes:?}");
}
