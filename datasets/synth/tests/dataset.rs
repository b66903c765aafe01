//! The data set on disk, and the embedded sample.
#![expect(
    clippy::unwrap_used,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test may panic, and knows the names it made"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use datasets::formats::{Format, ReadOptions};
use synth::{DatasetError, DatasetSpec, Set, SynthSettings, Trade, sample, write_dataset};

fn small() -> SynthSettings {
    SynthSettings { width: 640, height: 480, symbols: [5, 8], symbol_px: 40.0, invented: 2, ..SynthSettings::clean() }
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().replace('\\', "/");
                out.insert(name, fs::read(path).unwrap());
            }
        }
    }
    out
}

#[test]
fn any_number_of_threads_writes_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let told = AtomicU64::new(0);
        let out = dir.path().join(name);
        pool.install(|| write_dataset(&out, &small(), 5, 3, &|n| _ = told.fetch_max(n, Ordering::Relaxed))).unwrap();
        assert_eq!(told.into_inner(), 5);
        contents(&out)
    };
    let one = write("one", 1);
    let three = write("three", 3);
    assert_eq!(one.keys().collect::<Vec<_>>(), three.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == three[name], "{name} differs");
    }
    assert_eq!(one.keys().filter(|k| k.starts_with("drawings/")).count(), 5);
    assert_eq!(one.keys().filter(|k| k.starts_with("templates/")).count(), 27);
    assert!(one.keys().all(|k| !k.ends_with(".part")));
}

#[test]
fn the_truth_is_read_back_from_coco_and_yolo() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let truth = write_dataset(&out, &small(), 2, 3, &|_| ()).unwrap();
    assert_eq!((truth.images.len(), truth.classes.len()), (2, 27));
    assert!(truth.box_count() >= 8);
    let coco = Format::Coco.read(&out.join("truth.json"), &ReadOptions::default()).unwrap().set;
    assert_eq!(coco.box_count(), truth.box_count());
    assert_eq!(coco.images[1].annotations[0].class, truth.images[1].annotations[0].class);
    let yolo = Format::Yolo.read(&out.join("labels/yolo"), &ReadOptions::default()).unwrap().set;
    assert_eq!(yolo.box_count(), truth.box_count());
    assert!(out.join("labels/yolo/images/train/sheet_0001.png").is_file());
    let digest = blake3::hash(&fs::read(out.join("drawings/sheet_0001.png")).unwrap()).to_hex().to_string();
    assert_eq!(truth.images[1].digest, digest);
}

#[test]
fn templates_are_cut_from_other_sheets_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let settings = SynthSettings { classes: vec!["ball valve".into(), "plug valve".into()], ..small() };
    let spec = DatasetSpec { templates: Set::E.templates(2), ..DatasetSpec::new(settings.clone(), 1, 3) };
    synth::dataset::write(&out, &spec, &|_| ()).unwrap();
    let files = contents(&out);
    let crops = synth::crops(&settings, 3, 2).unwrap();
    assert_eq!(crops.len(), 8, "two of the library and two invented classes, twice");
    for crop in crops {
        let written = image::load_from_memory(&files[&format!("templates/{}", crop.name)]).unwrap().into_rgb8();
        assert!(written == crop.image, "{}", crop.name);
    }
    let read: DatasetSpec = serde_json::from_slice(&files["synth.json"]).unwrap();
    assert_eq!(read, spec);
}

#[test]
fn the_second_trade_is_an_ontology_too() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SynthSettings { trade: Trade::Electrical, ..small() };
    let truth = write_dataset(&dir.path().join("set"), &settings, 1, 3, &|_| ()).unwrap();
    assert_eq!(truth.classes.len(), 42);
}

#[test]
fn sheets_are_joined_to_one_picture_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let spec = DatasetSpec { tiles: [2, 2], ..DatasetSpec::new(small(), 2, 3) };
    let truth = synth::dataset::write(&out, &spec, &|_| ()).unwrap();
    assert_eq!((truth.images[1].width, truth.images[1].height), (1280, 960));
    let written = image::open(out.join("drawings").join(&truth.images[1].image)).unwrap().into_rgb8();
    let first = synth::sheet(&small(), 3, 4).unwrap().image;
    assert!(image::imageops::crop_imm(&written, 0, 0, 640, 480).to_image() == first);
    let read = Format::Coco.read(&out.join("truth.json"), &ReadOptions::default()).unwrap().set;
    assert_eq!(read.box_count(), truth.box_count());
}

#[test]
fn a_folder_with_files_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.txt"), "x").unwrap();
    let e = write_dataset(dir.path(), &small(), 1, 0, &|_| ()).unwrap_err();
    assert!(matches!(e, DatasetError::NotEmpty(_)), "{e}");
    let e = write_dataset(&dir.path().join("new"), &small(), 0, 0, &|_| ()).unwrap_err();
    assert!(matches!(e, DatasetError::NoSheets), "{e}");
}

#[test]
fn the_sample_is_what_its_settings_draw() {
    let made = sample::make().unwrap();
    let embedded: Vec<(String, Vec<u8>)> = sample::files().iter().map(|(p, b)| ((*p).to_owned(), b.to_vec())).collect();
    assert_eq!(
        made.iter().map(|f| &f.0).collect::<Vec<_>>(),
        embedded.iter().map(|f| &f.0).collect::<Vec<_>>(),
        "the list in sample.rs"
    );
    for (new, old) in made.iter().zip(&embedded) {
        assert!(new.1 == old.1, "{}: run `cargo run -p synth --example make_sample`", new.0);
    }
}

#[test]
fn the_sample_is_small_and_every_class_is_plentiful() {
    let bytes: usize = sample::files().iter().map(|f| f.1.len()).sum();
    assert!(bytes < 3_000_000, "{bytes} bytes");
    let on_disk: BTreeSet<String> =
        contents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/hvac")).into_keys().collect();
    assert_eq!(on_disk, sample::files().iter().map(|f| f.0.to_owned()).collect());
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/hvac");
    for (file, sheets, least) in [("truth", 24, 40), ("heldout/labels", 8, 12)] {
        let file = dir.join(file).join("annotations.json");
        let set = Format::Coco.read(&file, &ReadOptions::default()).unwrap().set;
        assert_eq!(set.images.len(), sheets);
        let mut of: BTreeMap<&str, usize> = BTreeMap::new();
        for a in set.images.iter().flat_map(|i| &i.annotations) {
            *of.entry(&a.class).or_default() += 1;
        }
        assert_eq!(of.keys().copied().collect::<Vec<_>>(), sample::CLASSES);
        assert!(of.values().all(|&n| n >= least), "{of:?}");
    }
}
