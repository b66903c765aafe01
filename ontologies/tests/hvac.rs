//! The built-in symbol library.

use std::collections::BTreeSet;
use std::path::Path;

use image::GrayImage;
use ontologies::hvac::{self, TEMPLATE_MARGIN, TEMPLATE_SCALE};
use ontologies::{PromptStyle, picture};

#[test]
fn every_template_is_its_drawing() {
    for s in hvac::symbols() {
        let drawn = s.shape().picture(TEMPLATE_SCALE, TEMPLATE_MARGIN).unwrap();
        let committed = image::load_from_memory(s.png).unwrap().to_luma8();
        assert_eq!(drawn, committed, "{}: run `cargo run -p ontologies --example draw_symbols`", s.file);
        let (w, h) = committed.dimensions();
        assert!((90..=150).contains(&w), "{}: {w} x {h}", s.file);
    }
}

#[test]
fn the_list_is_the_folder() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("hvac/templates");
    let on_disk: BTreeSet<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(on_disk, hvac::symbols().iter().map(|s| s.file.to_owned()).collect());
}

#[test]
fn twenty_five_classes_in_three_categories() {
    let o = hvac::ontology(PromptStyle::Engineering);
    let count = |category: &str| o.classes.iter().filter(|c| c.category == category).count();
    assert_eq!((count("Valves"), count("Instruments"), count("Signals"), o.classes.len()), (7, 12, 6, 25));
    assert!(o.class("rotary disc valve").is_some_and(|c| c.prompt == "hvac rotary disc valve"));
    assert!(o.class("data link signal").is_some_and(|c| c.prompt == "data link signal line"));
    let colours: BTreeSet<_> = o.classes.iter().map(|c| c.color).collect();
    assert_eq!(colours.len(), 25);
}

/// Any two symbols, laid on each other, differ in more ink than a line's jitter.
#[test]
fn symbols_are_distinct() {
    let grey = |png: &[u8]| -> GrayImage {
        let p = picture::decode_template(png).unwrap();
        image::imageops::resize(&image::DynamicImage::from(p).to_luma8(), 64, 64, image::imageops::FilterType::Triangle)
    };
    let all: Vec<_> = hvac::symbols().iter().map(|s| (s.file, grey(s.png))).collect();
    for (i, (a, pa)) in all.iter().enumerate() {
        for (b, pb) in &all[..i] {
            let apart: u32 = pa.pixels().zip(pb.pixels()).map(|(x, y)| u32::from(x.0[0].abs_diff(y.0[0]) > 96)).sum();
            assert!(apart > 80, "{a} and {b} differ in {apart} of 4096 pixels");
        }
    }
}
