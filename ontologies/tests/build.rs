//! The ontology from templates and files, as callers see it.
#![expect(clippy::unwrap_used, reason = "a test may panic, and knows the names it made")]

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use ontologies::{Ontology, OntologyError, PromptStyle, Template, build, yaml};

/// A picture that differs by `seed`.
fn picture(seed: u8) -> Vec<u8> {
    let gray = GrayImage::from_fn(24, 24, |x, y| Luma([if (x * 3 + y * 5) % 24 > u32::from(seed) { 255 } else { 0 }]));
    let mut out = Cursor::new(Vec::new());
    DynamicImage::from(gray).write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn templates(paths: &[&str]) -> Vec<Template> {
    let each = paths.iter().enumerate();
    each.map(|(i, p)| Template { path: (*p).to_owned(), bytes: picture(i as u8 + 1) }).collect()
}

fn plain(paths: &[&str]) -> Result<Ontology, OntologyError> {
    build(&templates(paths), None, PromptStyle::Engineering)
}

fn with_file(paths: &[&str], text: &str) -> Result<Ontology, OntologyError> {
    build(&templates(paths), Some(("ontology.yaml", text)), PromptStyle::Engineering)
}

fn files(list: &[ontologies::Exemplar]) -> Vec<&str> {
    list.iter().map(|e| e.file.as_str()).collect()
}

fn says(result: Result<Ontology, OntologyError>, parts: &[&str]) {
    let text = result.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` not in: {text}");
    }
}

#[test]
fn templates_in_folders_become_classes_by_name() {
    let paths =
        ["z/template_plc_instrument.png", "ball_valve.png", "z/ball_valve__2.jpg", "pneumatic_signal.bmp", "fan.png"];
    let o = plain(&paths).unwrap();
    let told: Vec<_> = o.classes.iter().map(|c| (c.name.as_str(), c.category.as_str(), c.prompt.as_str())).collect();
    assert_eq!(
        told,
        [
            ("ball valve", "Valves", "hvac ball valve"),
            ("fan", "Other", "fan"),
            ("plc instrument", "Instruments", "hvac control plc instrument"),
            ("pneumatic signal", "Signals", "pneumatic signal line"),
        ]
    );
    assert_eq!(files(&o.classes[0].exemplars), ["ball_valve.png", "z/ball_valve__2.jpg"]);
    assert_eq!(o.classes[0].exemplars[0].digest, blake3_of(&paths, 1));
    let mut reversed = templates(&paths);
    reversed.reverse();
    assert_eq!(build(&reversed, None, PromptStyle::Engineering).unwrap(), o);
}

fn blake3_of(paths: &[&str], i: usize) -> String {
    blake3::hash(&templates(paths)[i].bytes).to_hex().to_string()
}

#[test]
fn negatives_go_to_their_class_or_to_all() {
    let o = plain(&["a.png", "b.png", "not_a.png", "negatives/b.png", "negatives/clutter.png"]).unwrap();
    assert_eq!(files(&o.classes[0].negatives), ["negatives/clutter.png", "not_a.png"]);
    assert_eq!(files(&o.classes[1].negatives), ["negatives/b.png", "negatives/clutter.png"]);
    says(plain(&["ball_valve.png", "not_bal_valve.png"]), &["not_bal_valve.png", "did you mean `ball valve`"]);
}

#[test]
fn no_templates_is_an_error() {
    says(plain(&[]), &["no templates"]);
    says(with_file(&["a.png"], "ignore: [a.png]\n"), &["no templates"]);
}

#[test]
fn collisions_name_both_files() {
    says(plain(&["x/ball_valve.png", "y/ball_valve.png"]), &["x/ball_valve.png", "y/ball_valve.png", "__2"]);
    says(plain(&["template_ball_valve.png", "ball valve.png"]), &["`ball valve.png`", "`template_ball_valve.png`"]);
    says(plain(&["Ball_valve.png", "ball_valve__2.png"]), &["Ball_valve.png", "ball_valve__2.png", "case"]);
    says(plain(&["a__2.png", "x/a__2.png"]), &["`a__2.png`", "`x/a__2.png`"]);
    says(plain(&["___.png"]), &["___.png"]);
}

#[test]
fn bad_pictures_are_told_all_at_once() {
    let mut t = templates(&["a.png", "b.png", "c.png", "d.png"]);
    t[0].bytes.clear();
    t[1].bytes.truncate(40);
    t[3].bytes = t[2].bytes.clone();
    let e = build(&t, None, PromptStyle::Plain);
    says(e, &["`a.png`: the file is empty", "`b.png`: not a readable picture", "`c.png` (class `c`) and `d.png`"]);
}

#[test]
fn one_picture_in_another_format_is_a_duplicate_too() {
    let mut t = templates(&["a.png", "b.bmp"]);
    let mut out = Cursor::new(Vec::new());
    image::load_from_memory(&t[0].bytes).unwrap().write_to(&mut out, ImageFormat::Bmp).unwrap();
    t[1].bytes = out.into_inner();
    says(build(&t, None, PromptStyle::Plain), &["the same picture"]);
}

#[test]
fn the_file_names_classes_orders_and_overrides() {
    let o = with_file(
        &["ball_valve.png", "kugel.png", "fan.png", "drafts/x.png", "pump.png"],
        "classes:\n  - name: pump\n    prompt: water pump\n    color: \"#102030\"\n  - name: ball valve\n    \
         synonyms: [spherical valve]\n    aliases: [BV]\n    exemplars: [kugel.png]\n    negatives: [pump.png]\n\
         \x20 - name: heat meter\n    exemplars: []\nignore: [drafts/]\n",
    );
    // A file that is a negative here is no longer placed by its name: the pump needs its own exemplar.
    says(o, &["class `pump` has no template"]);
    let o = with_file(
        &["ball_valve.png", "kugel.png", "fan.png", "drafts/x.png", "pump.png"],
        "classes:\n  - name: pump\n    prompt: water pump\n    color: \"#102030\"\n  - name: ball valve\n    \
         synonyms: [spherical valve]\n    aliases: [BV]\n    exemplars: [kugel.png]\n\
         \x20 - name: heat meter\n    exemplars: []\nignore: [drafts/]\n",
    )
    .unwrap();
    let names: Vec<_> = o.classes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["pump", "ball valve", "heat meter", "fan"]);
    assert_eq!((o.classes[0].prompt.as_str(), o.classes[0].color), ("water pump", [16, 32, 48]));
    assert_eq!(files(&o.classes[1].exemplars), ["kugel.png", "ball_valve.png"]);
    assert_eq!((o.classes[1].category.as_str(), o.classes[1].aliases[0].as_str()), ("Valves", "BV"));
    assert!(o.classes[2].exemplars.is_empty());
}

#[test]
fn errors_in_the_file_have_a_place() {
    says(with_file(&["a.png"], "classes:\n  - name: x\n    exemplars: [b.png]\n"), &["ontology.yaml:3:17", "b.png"]);
    says(with_file(&["a.png"], "classes:\n  - name: a\n  - name: A\n"), &["ontology.yaml:3:", "there already"]);
    says(with_file(&["a.png"], "classes:\n  - name: a\n    color: red\n"), &["ontology.yaml:3:12", "#rrggbb"]);
    says(
        with_file(&["a.png", "b.png"], "classes:\n  - name: a\n  - name: b\n    aliases: [A]\n"),
        &["ontology.yaml:4:15", "already means the class `a`"],
    );
    let twice = "classes:\n  - name: a\n    exemplars: [a.png]\n  - name: b\n    exemplars: [a.png]\n";
    says(with_file(&["a.png"], twice), &["ontology.yaml:5:", "exemplar of `a` already"]);
    says(with_file(&["a.png"], "ignore: [old]\n"), &["ontology.yaml:1:", "old"]);
}

#[test]
fn written_and_read_back_it_is_the_same() {
    let mut all =
        templates(&["a.png", "negatives/odd, name.png", "not_a__2.png", "17.png", "a__3.png", "Größe #1.png"]);
    all.extend(ontologies::hvac::symbols().iter().map(ontologies::hvac::Symbol::template));
    let mut o = build(&all, None, PromptStyle::Engineering).unwrap();
    o.classes[3].synonyms = vec!["yes".into(), "a: b".into()];
    o.classes.swap(0, 5);
    let text = yaml::write(&o);
    let back = build(&all, Some(("ontology.yaml", &text)), PromptStyle::Plain).unwrap();
    assert_eq!(back, o);
    assert_eq!(yaml::write(&back), text);
}

#[test]
fn a_folder_on_disk_is_read_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let t = dir.path().join("templates");
    std::fs::create_dir_all(t.join("a b/ü")).unwrap();
    std::fs::write(t.join("a b/ü/fan.PNG"), picture(3)).unwrap();
    std::fs::write(t.join("README.md"), "x").unwrap();
    std::fs::write(t.join(".hidden.png"), "x").unwrap();
    std::fs::write(dir.path().join("ontology.yaml"), "classes:\n  - name: fan\n    prompt: blower\n").unwrap();
    let folder = ontologies::folder::read(&t).unwrap();
    assert_eq!(folder.templates.iter().map(|t| t.path.as_str()).collect::<Vec<_>>(), ["a b/ü/fan.PNG"]);
    let (path, text) = folder.yaml.unwrap();
    let o = build(&folder.templates, Some((&path.to_string_lossy(), &text)), PromptStyle::Engineering).unwrap();
    assert_eq!(o.classes[0].prompt, "blower");
    let missing = ontologies::folder::read(&dir.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("none"));
}
