//! Labelled drawings of the user's own: templates are cut from one of them and looked for on the others.
//!
//! Owns reading such a folder, the cutting, and the pictures of mistakes on disk. Refuses to touch the folder: pictures
//! go where `--out` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use datasets::eval::{FalsePositive, Mistakes};
use datasets::formats::{Format, FormatError, ImageSizes, Imported, ReadOptions};
use datasets::picture::{Limits, decode};
use datasets::{Annotation, AnnotationSet, ImageAnnotations};
use image::{DynamicImage, RgbImage, imageops};
use miette::{IntoDiagnostic, Report, Result, WrapErr, miette};
use serde_json::{Value, json};
use vision::matcher::{Role, Template};

use super::case::{self, Case, Outcome, Sheet, config};
use super::metrics::Quality;
use super::{
    COST_HEAD, ERROR_HEAD, LabelsBench, QUALITY_HEAD, Told, cost_row, error_row, pictures, quality_row, share,
};
use crate::exit::Usage;

/// A folder of labelled drawings.
struct Drawings {
    set: AnnotationSet,
    files: BTreeMap<String, PathBuf>,
}

/// Labels the drawings with templates from one of them, or from each in turn.
pub fn run(told: &mut Told<'_>, args: &LabelsBench, dir: &Path) -> Result<()> {
    let drawings = read(dir)?;
    let names: Vec<&str> = drawings.set.images.iter().map(|i| i.image.as_str()).collect();
    if names.len() < 2 {
        let message = format!("`{}` has {} labelled drawings", dir.display(), names.len());
        return Err(Usage::new(message, "one is for the templates, so at least two are needed"));
    }
    let sources = match &args.templates_from {
        None => names.clone(),
        Some(wanted) => {
            let wanted = Path::new(wanted).file_name().map_or(wanted.as_str(), |n| n.to_str().unwrap_or(wanted));
            let found: Vec<&str> = names.iter().copied().filter(|n| n.rsplit('/').next() == Some(wanted)).collect();
            if found.is_empty() {
                let help = format!("labelled drawings there: {}", names.join(", "));
                return Err(Usage::new(format!("no labelled drawing is named `{wanted}`"), help));
            }
            found
        }
    };
    let (mut right, mut wrong, mut cost, mut docs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut all = [AnnotationSet::default(), AnnotationSet::default()];
    for source in &sources {
        told.doing(format_args!("templates from {source}, instance {}", args.draw));
        let (case, left_out) = case_of(&drawings, source, args.draw)?;
        let outcome = case::run(&case, args.threads)?;
        let q = Quality::of(&outcome.truth, &outcome.found);
        if left_out.box_count() > 0 {
            told.note(said(source, &left_out, &q));
        }
        let about = format!("{} templates", case.templates.len());
        right.push(quality_row(&case.name, &about, case.range.end, outcome.truth.box_count(), &q));
        wrong.push(error_row(&case.name, &q));
        cost.push(cost_row(&case.name, case.templates.len(), &outcome.cost));
        docs.push(json!({ "templates_from": source, "draw": args.draw, "quality": q, "cost": outcome.cost }));
        if let Some(out) = &args.out {
            draw(told, out, &case, &outcome, &q)?;
        }
        for (pool, set) in all.iter_mut().zip([&outcome.truth, &outcome.found]) {
            pool.classes.clone_from(&drawings.set.classes);
            pool.images.extend(set.images.iter().map(|i| {
                let image = format!("{} with templates from {source}", i.image);
                ImageAnnotations { image, ..i.clone() }
            }));
        }
    }
    let [truth, found] = &all;
    let q = Quality::of(truth, found);
    if sources.len() > 1 {
        right.push(quality_row("all", "", truth.images.len() as u64, truth.box_count(), &q));
        wrong.push(error_row("all", &q));
        docs.push(json!({ "templates_from": "all", "quality": q }));
    }
    told.table(
        "data",
        "How right, at the default threshold, by where the templates are from:",
        &QUALITY_HEAD,
        right,
        docs,
    );
    told.table("data_errors", "What went wrong:", &ERROR_HEAD, wrong, Value::Null);
    told.table("data_cost", "What it cost:", &COST_HEAD, cost, Value::Null);
    let classes = q.per_class.iter().filter(|c| c.false_positives + c.false_negatives > 0).map(|c| {
        let [right, wrong, missed] = [c.true_positives, c.false_positives, c.false_negatives].map(|n| n.to_string());
        vec![c.class.clone(), right, wrong, missed, share(c.f1)]
    });
    let head = ["class", "right", "wrong", "missed", "F1"];
    told.table("data_classes", "Classes with mistakes:", &head, classes.collect(), Value::Null);
    let confused = q.confused.iter().map(|c| vec![c.truth.clone(), c.found.clone(), c.times.to_string()]);
    told.table(
        "data_confused",
        "Taken for another class:",
        &["truth", "found", "times"],
        confused.collect(),
        Value::Null,
    );
    for key in ["data_errors", "data_cost", "data_classes", "data_confused"] {
        told.doc.remove(key);
    }
    Ok(())
}

/// Reads labels of any format; YOLO text files without a list of classes get the classes `0`, `1`, ...
fn read(dir: &Path) -> Result<Drawings> {
    if !dir.is_dir() {
        return Err(Usage::new(format!("there is no folder `{}`", dir.display()), "check --data"));
    }
    let folders = vec![dir.to_owned(), dir.join("images")];
    let options = ReadOptions { sizes: ImageSizes { folders, ..ImageSizes::default() }, ..ReadOptions::default() };
    let read = match Format::detect(dir) {
        Ok(format) => format.read(dir, &options),
        Err(FormatError::Unrecognised { .. }) => {
            let names = numbered(dir)?;
            let view = tempfile::tempdir().into_diagnostic()?;
            let target = dir.canonicalize().into_diagnostic()?;
            for folder in ["images", "labels"] {
                symlink(&target, view.path().join(folder)).into_diagnostic()?;
            }
            fs::write(view.path().join("classes.txt"), names).into_diagnostic()?;
            let mut read = Format::Yolo.read(view.path(), &options);
            if let Ok(Imported { files, .. }) = &mut read {
                for file in files.values_mut() {
                    let name = file.strip_prefix(view.path().join("images")).map(|n| target.join(n));
                    *file = name.unwrap_or_else(|_| file.clone());
                }
            }
            read
        }
        Err(e) => Err(e),
    };
    let Imported { mut set, files, .. } =
        read.map_err(|e| Usage::new(e.to_string(), "see `pipeline import --help`"))?;
    // A drawing without its picture cannot be labelled.
    set.images.retain(|i| files.contains_key(&i.image));
    Ok(Drawings { set, files })
}

/// A list of classes for all numbers in the folder's label files.
fn numbered(dir: &Path) -> Result<String> {
    let mut most = None;
    for entry in fs::read_dir(dir).into_diagnostic().wrap_err_with(|| format!("reading `{}`", dir.display()))? {
        let path = entry.into_diagnostic()?.path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        let text =
            fs::read_to_string(&path).into_diagnostic().wrap_err_with(|| format!("reading `{}`", path.display()))?;
        most = text.lines().filter_map(|l| l.split_whitespace().next()?.parse::<u32>().ok()).max().max(most);
    }
    let most = most.ok_or_else(|| {
        Usage::new(
            format!("`{}` has no labels", dir.display()),
            "put label files (YOLO, COCO, ...) beside the drawings",
        )
    })?;
    Ok((0..=most).map(|n| n.to_string() + "\n").collect())
}

fn open(drawings: &Drawings, name: &str) -> Result<RgbImage> {
    let path = drawings.files.get(name).ok_or_else(|| miette!("the picture of `{name}` is not there"))?;
    let bytes = fs::read(path).into_diagnostic().wrap_err_with(|| format!("reading `{}`", path.display()))?;
    let picture = decode(&bytes, &Limits::default()).map_err(Report::from_err);
    Ok(picture.wrap_err_with(|| format!("decoding `{}`", path.display()))?.rgb)
}

/// Which classes do not count, and how many of the false boxes lie on them.
fn said(source: &str, left_out: &AnnotationSet, quality: &Quality) -> String {
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    for a in left_out.images.iter().flat_map(|i| &i.annotations) {
        *lost.entry(&a.class).or_default() += 1;
    }
    let list: Vec<String> = lost.iter().map(|(c, n)| format!("{c} ({n})")).collect();
    let on_them = |m: &Mistakes| {
        let there = left_out.images.iter().filter(|i| i.image == m.image).flat_map(|i| &i.annotations);
        let there: Vec<_> = there.collect();
        let hits = |f: &&FalsePositive| there.iter().any(|a| a.bbox.intersection_area(&f.bbox) > 0.5 * f.bbox.area());
        m.false_positives.iter().filter(hits).count()
    };
    let on_them: usize = quality.mistakes.iter().map(on_them).sum();
    format!(
        "{source} has no instance of {} classes; their boxes do not count: {}. {on_them} of the false boxes lie on them.",
        lost.len(),
        list.join(", ")
    )
}

/// Templates from the drawing `source` for the other ones, and the truth of classes that it does not have.
fn case_of<'a>(drawings: &'a Drawings, source: &str, draw: usize) -> Result<(Case<'a>, AnnotationSet)> {
    let sheet = open(drawings, source)?;
    let labels = drawings.set.images.iter().find(|i| i.image == source).expect("it is one of the drawings");
    let mut by_class: BTreeMap<&str, Vec<&Annotation>> = BTreeMap::new();
    for a in &labels.annotations {
        by_class.entry(&a.class).or_default().push(a);
    }
    let templates: Vec<Template> = by_class
        .iter()
        .map(|(class, all)| {
            let image = DynamicImage::from(cut(&sheet, all[draw % all.len()])).into_rgba8();
            Template { class: (*class).to_owned(), name: format!("{class}.png"), image, role: Role::Given, frame: None }
        })
        .collect();
    let mut rest: Vec<ImageAnnotations> = drawings.set.images.iter().filter(|i| i.image != source).cloned().collect();
    let mut left_out = AnnotationSet { images: rest.clone(), ..AnnotationSet::default() };
    rest.iter_mut().for_each(|i| i.annotations.retain(|a| by_class.contains_key(a.class.as_str())));
    left_out.images.iter_mut().for_each(|i| i.annotations.retain(|a| !by_class.contains_key(a.class.as_str())));
    let known: BTreeSet<&str> = by_class.keys().copied().collect();
    let case = Case {
        name: source.to_owned(),
        classes: drawings.set.classes.iter().filter(|c| known.contains(c.name.as_str())).cloned().collect(),
        config: config(json!({}), &templates)?,
        templates,
        range: 0..rest.len() as u64,
        sheets: Box::new(move |i| {
            let truth = rest[i as usize].clone();
            Ok(Sheet { image: open(drawings, &truth.image)?, truth })
        }),
    };
    Ok((case, left_out))
}

/// The box in whole pixels, as a person would cut it.
fn cut(sheet: &RgbImage, a: &Annotation) -> RgbImage {
    let edge = |v: f64, side: u32| v.round().clamp(0.0, f64::from(side)) as u32;
    let (w, h) = sheet.dimensions();
    let (x0, y0) = (edge(a.bbox.x0, w - 1), edge(a.bbox.y0, h - 1));
    let (x1, y1) = (edge(a.bbox.x1, w).max(x0 + 1), edge(a.bbox.y1, h).max(y0 + 1));
    imageops::crop_imm(sheet, x0, y0, x1 - x0, y1 - y0).to_image()
}

/// Writes the pictures of mistakes into `out`.
fn draw(told: &Told<'_>, out: &Path, case: &Case<'_>, outcome: &Outcome, quality: &Quality) -> Result<()> {
    fs::create_dir_all(out).into_diagnostic().wrap_err_with(|| format!("making `{}`", out.display()))?;
    let plain = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
    for m in &quality.mistakes {
        let place = |set: &AnnotationSet| set.images.iter().position(|i| i.image == m.image);
        let (Some(i), Some(k)) = (place(&outcome.truth), place(&outcome.found)) else { continue };
        let sheet = (case.sheets)(i as u64)?;
        let found = &outcome.found.images[k].annotations;
        let pages = pictures::pages(&sheet.image, m, &sheet.truth.annotations, found, &case.templates);
        for (page, n) in pages.iter().zip(1..) {
            let path = out.join(format!("{}_templates_{}_{n}.png", plain(&m.image), plain(&case.name)));
            page.save(&path).into_diagnostic().wrap_err_with(|| format!("writing `{}`", path.display()))?;
            told.doing(format_args!("mistakes: {}", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn numbered_labels_without_a_list_are_read_and_templates_cut() {
        let dir = tempfile::tempdir().unwrap();
        for (name, labels) in
            [("a", "0 0.5 0.5 0.2 0.2\n2 0.2 0.2 0.1 0.1\n"), ("b", "0 0.5 0.5 0.2 0.2\n1 0.8 0.8 0.1 0.1\n")]
        {
            let picture = RgbImage::from_pixel(100, 100, Rgb([255; 3]));
            picture.save(dir.path().join(format!("{name}.png"))).unwrap();
            fs::write(dir.path().join(format!("{name}.txt")), labels).unwrap();
        }
        let drawings = read(dir.path()).unwrap();
        assert_eq!(drawings.set.images.len(), 2);
        let (case, left_out) = case_of(&drawings, "a.png", 0).unwrap();
        let templates: Vec<_> = case.templates.iter().map(|t| (t.class.as_str(), t.image.dimensions())).collect();
        assert_eq!(templates, [("0", (20, 20)), ("2", (10, 10))]);
        let quality = Quality::of(&AnnotationSet::default(), &AnnotationSet::default());
        let said = said("a.png", &left_out, &quality);
        assert!(said.contains("1 classes; their boxes do not count: 1 (1). 0 of"), "{said}");
        let sheet = (case.sheets)(0).unwrap();
        assert_eq!((sheet.truth.annotations.len(), sheet.image.dimensions()), (1, (100, 100)));
    }

    #[test]
    fn folders_without_labels_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err());
        assert!(read(&dir.path().join("none")).is_err());
    }
}
