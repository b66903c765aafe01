//! The stage that reads label files made elsewhere.
//!
//! Owns the fit between names in label files and names of images. Refuses to own what a label file looks like (that is
//! `datasets`) and what becomes of the labels (the `imported` labeller puts them on the images).

use std::collections::BTreeMap;

use artifacts::{Annotations, FILES, Files, IMAGES, OntologyKind, OntologyValue, Report};
use datasets::AnnotationSet;
use datasets::formats::{Account, Format, ImageSizes, ReadOptions, upright_size};
use datasets::picture::probe;
use engine::artifact::Kind;
use engine::view::{InputFiles, materialise};
use engine::{Blob, Context, Descriptor, Level, Manifest, Outcome, Port, Stage, StageError};
use ontologies::{Class, Ontology, PromptStyle, palette, rules};
use report::{Headline, Section, html};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::imported::stem;

/// Settings of the import stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImportSettings {
    /// Format of the label files: `auto` (told by looking at them), `yolo`, `coco`, `voc`, `cvat`, `label-studio` or
    /// `labelme`. Default `auto`.
    pub format: String,
}

impl Default for ImportSettings {
    fn default() -> Self {
        Self { format: "auto".into() }
    }
}

/// The import stage. Inputs `labels` (label files) and `images` (optional: names and sizes); outputs `annotations`,
/// `ontology` (the classes that the files know) and `report`.
pub struct Import;

impl Stage for Import {
    type Config = ImportSettings;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "import".into(),
            version: 2,
            about: "Reads label files made elsewhere.".into(),
            inputs: vec![Port::new("labels", FILES), Port::optional("images", IMAGES)],
            outputs: vec![
                Port::new("annotations", Annotations::NAME),
                Port::new("ontology", OntologyKind::NAME),
                Port::new("report", Report::NAME),
            ],
            items: None,
        }
    }

    fn run(&self, config: &ImportSettings, ctx: &Context) -> Result<Outcome, StageError> {
        let folder = materialise(ctx.store(), ctx.input("labels")?, InputFiles::Copy)?;
        let folder = std::path::absolute(folder).map_err(|e| StageError::failed("finding the working folder", e))?;
        let bad = |e: datasets::formats::FormatError| {
            StageError::input(e.to_string().replace(&format!("{}/", folder.display()), ""), "look at `inputs.labels`")
        };
        let format = match config.format.as_str() {
            "auto" => Format::detect(&folder).map_err(bad)?,
            name => name.parse().map_err(|e: datasets::formats::FormatError| StageError::Config {
                key: "format".into(),
                message: e.to_string(),
            })?,
        };
        let images = if ctx.has("images") { Some(ctx.manifest("images")?) } else { None };
        let names = images.as_ref().map(Names::new).unwrap_or_default();
        let lookup = |name: &str| {
            let blob = names.find(name)?;
            match ctx.store().source(blob.digest) {
                Some(path) => upright_size(&path).ok(),
                None => ctx.bytes(blob).ok().and_then(|b| probe(&b).ok()).map(|i| (i.width, i.height)),
            }
        };
        let sizes = ImageSizes { lookup: Some(&lookup), ..ImageSizes::default() };
        let read = format.read(&folder, &ReadOptions { sizes, ..ReadOptions::default() }).map_err(bad)?;
        let mut set = read.set;
        for image in &mut set.images {
            if let Some(blob) = names.find(&image.image) {
                image.image.clone_from(&blob.name);
            }
        }
        set.images.sort_by(|a, b| a.image.cmp(&b.image));
        set.images.dedup_by(|b, a| {
            let same = a.image == b.image;
            if same {
                a.annotations.append(&mut b.annotations);
            }
            same
        });
        // The account names files of a view of the store; people know them by their names below the labels' folder.
        let told = read.account.to_string().replace(&format!("{}/", folder.display()), "");
        let level = if read.account.is_lossless() { Level::Info } else { Level::Warn };
        ctx.message(level, told.trim_end());
        ctx.metric("images", set.images.len() as f64);
        ctx.metric("boxes", set.box_count() as f64);
        ctx.write::<OntologyKind>("ontology", &OntologyValue { ontology: classes(&set), templates: Files::new() })?;
        let section = section(&read.account, &told).to_json();
        ctx.write::<Report>("report", &Files::from([("section.json".to_owned(), section)]))?;
        ctx.write::<Annotations>("annotations", &set)?;
        Ok(Outcome::Done)
    }
}

/// Images by their names and stems.
#[derive(Default)]
struct Names<'a> {
    images: Option<&'a Manifest>,
    stems: BTreeMap<&'a str, Vec<&'a Blob>>,
}

impl<'a> Names<'a> {
    fn new(images: &'a Manifest) -> Self {
        let mut stems: BTreeMap<&str, Vec<&Blob>> = BTreeMap::new();
        for blob in &images.blobs {
            stems.entry(stem(&blob.name)).or_default().push(blob);
        }
        Self { images: Some(images), stems }
    }

    /// The image that a label file means: of that name, else the only one that ends in it, else the only one of its
    /// stem.
    fn find(&self, name: &str) -> Option<&'a Blob> {
        if let Some(blob) = self.images?.blob(name) {
            return Some(blob);
        }
        let all = self.stems.get(stem(name))?;
        let tail = format!("/{name}");
        let mut ending = all.iter().filter(|b| b.name.ends_with(&tail));
        match (ending.next(), ending.next(), all.as_slice()) {
            (Some(blob), None, _) | (None, _, [blob]) => Some(blob),
            _ => None,
        }
    }
}

/// The classes as an ontology without templates.
fn classes(set: &AnnotationSet) -> Ontology {
    let colors = palette::spread(set.classes.len(), &[]);
    let class = |(c, color): (&datasets::ClassInfo, [u8; 3])| Class {
        name: c.name.clone(),
        category: if c.category.is_empty() { rules::category(&c.name).into() } else { c.category.clone() },
        prompt: rules::prompt(&c.name, PromptStyle::Engineering),
        synonyms: Vec::new(),
        aliases: Vec::new(),
        color: if c.color == [0; 3] { color } else { c.color },
        exemplars: Vec::new(),
        negatives: Vec::new(),
    };
    Ontology { classes: set.classes.iter().zip(colors).map(class).collect() }
}

fn section(account: &Account, told: &str) -> Section {
    let mut section = Section::new("import", "Imported labels");
    section.headline = vec![
        Headline::new("Format", account.format.name()),
        Headline::new("Labels", report::number::count(account.labels)),
        Headline::new("Left out", report::number::count(account.labels_dropped)),
    ];
    section.push(html::list(told.lines().map(str::to_owned)));
    section
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use datasets::split::Split;
    use engine::{
        Registry,
        harness::{Harness, Ran},
    };
    use serde_json::json;

    use super::*;

    fn png(w: u32, h: u32) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(w, h).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// Imports label files of images of 100 x 50 pixels, in a folder of its own.
    fn import(dir: &Path, labels: &[(&str, &[u8])], images: &[&str]) -> (Harness, Ran) {
        let png = png(100, 50);
        let images: Vec<(&str, &[u8])> = images.iter().map(|name| (*name, png.as_slice())).collect();
        let harness = Harness::new(dir).unwrap().files("labels", FILES, labels).unwrap();
        let harness = harness.files("images", IMAGES, &images).unwrap();
        let ran = harness.run(&Registry::new().add(Import), json!({})).unwrap();
        (harness, ran)
    }

    #[test]
    fn the_parts_of_a_data_set_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let labels: [(&str, &[u8]); 3] = [
            ("data.yaml", b"train: images/train\nval: images/val\nnames: [valve]\n"),
            ("labels/train/a.txt", b"0 0.5 0.5 0.2 0.4\n"),
            ("labels/val/b.txt", b""),
        ];
        let (harness, ran) = import(dir.path(), &labels, &["images/train/a.png", "images/val/b.png"]);
        let set = harness.read::<Annotations>(&ran, "annotations").unwrap();
        let parts: Vec<_> = set.images.iter().map(|i| (i.image.as_str(), i.split)).collect();
        assert_eq!(parts, [("images/train/a.png", Some(Split::Train)), ("images/val/b.png", Some(Split::Val))]);
    }

    #[test]
    fn yolo_labels_take_sizes_and_names_from_the_images() {
        let dir = tempfile::tempdir().unwrap();
        let labels: [(&str, &[u8]); 2] = [
            ("data.yaml", b"train: images/train\nval: images/train\nnames: [ball valve]\n"),
            ("labels/train/a.txt", b"0 0.5 0.5 0.2 0.4\n0 7 7 7 7\n"),
        ];
        let (harness, ran) = import(dir.path(), &labels, &["deep/a.png"]);
        let set = harness.read::<Annotations>(&ran, "annotations").unwrap();
        assert_eq!(set.images.len(), 1);
        assert_eq!((set.images[0].image.as_str(), set.images[0].width), ("deep/a.png", 100));
        assert_eq!(set.images[0].annotations[0].bbox, datasets::BBox::new(40.0, 15.0, 60.0, 35.0));
        let ontology = harness.read::<OntologyKind>(&ran, "ontology").unwrap().ontology;
        assert_eq!(ontology.classes[0].category, "Valves");
        assert!(ran.notes.messages.iter().any(|m| m.1.contains("labels left out")), "{:?}", ran.notes.messages);
    }
}
