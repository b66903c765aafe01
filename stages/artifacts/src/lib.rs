//! What flows between the stages: every kind of artifact, and how it lies in the store.
//!
//! Owns the kinds that more than one stage knows, and the file of a person's decisions, which labelling and review both
//! read. Refuses to own the values themselves (they belong to `datasets` and `ontologies`) and the work (it belongs to
//! the stages).
//!
//! | kind | made by | blobs |
//! |---|---|---|
//! | `images` | the scan of an input folder | every picture, by its path below the folder |
//! | `files` | the scan of an input folder | every file (templates, label files), by its path |
//! | `weights` | the scan of a file | starting weights of a training, as another program or training wrote them |
//! | `machine` | setup | `machine.json` |
//! | `ontology` | ontology | `ontology.json`, `templates/<file>` |
//! | `annotations` | label, review | `annotations.jsonl`: one image a line |
//! | `candidates` | label | `candidates.jsonl`: what missed its threshold, in the same form |
//! | `exemplars` | exemplars | pictures of boxes that a person decided about, as templates |
//! | `model` | train | `best.safetensors`, `last.safetensors`, tables and plots |
//! | `predictions` | infer | `predictions.json` (COCO), `predictions.csv`, `labels/`, `pictures/` |
//! | `report` | any stage | `section.json`: the stage's part of the run's report |

pub mod decisions;
mod exemplars;
mod standing;

use std::collections::BTreeMap;

use datasets::{AnnotationSet, ClassInfo, ImageAnnotations, Skipped};
use engine::{
    StoreError,
    artifact::{ArtifactReader, ArtifactWriter, Kind},
};
use ontologies::Ontology;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use decisions::{BoxDecision, Decisions, DecisionsError, Seen};
pub use exemplars::{Exemplar, ExemplarSet, Exemplars, Lesson};
pub use standing::{SAME_IOU, Standing, standing};

/// Kind of the pictures of an input folder. Stages read it blob by blob (`Context::manifest`, or as items).
pub const IMAGES: &str = "images";
/// Kind of the files of any other input folder.
pub const FILES: &str = "files";

/// Kind of a file of starting weights (`.safetensors`, `.pt`, `.onnx`), or of a folder with one.
pub const WEIGHTS: &str = "weights";

/// Named bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

fn write_files(files: &Files, writer: &mut ArtifactWriter<'_>) -> Result<(), StoreError> {
    files.iter().try_for_each(|(name, bytes)| writer.put(name, bytes))
}

fn read_files(reader: &ArtifactReader<'_>) -> Result<Files, StoreError> {
    reader.manifest.blobs.iter().map(|b| Ok((b.name.clone(), reader.get(&b.name)?))).collect()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    engine::digest::canonical_json(value)
}

macro_rules! tree_kind {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        pub struct $name;
        impl Kind for $name {
            const NAME: &'static str = $kind;
            const FORMAT: u32 = 1;
            type Value = Files;
            fn write(value: &Files, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError> {
                write_files(value, writer)?;
                Ok(Value::Null)
            }
            fn read(reader: &ArtifactReader<'_>) -> Result<Files, StoreError> {
                read_files(reader)
            }
        }
    };
}

tree_kind!(
    /// A trained model with its tables and plots.
    Model, "model"
);
tree_kind!(
    /// What a detector found.
    Predictions, "predictions"
);
tree_kind!(
    /// Files of an input folder: templates, label files.
    InputFiles, "files"
);
tree_kind!(
    /// A stage's part of the run's report: blob `section.json`, as the `report` crate writes it.
    Report, "report"
);

/// What setup found out about the machine.
pub struct MachineReport;

impl Kind for MachineReport {
    const NAME: &'static str = "machine";
    const FORMAT: u32 = 1;
    type Value = Value;
    fn write(value: &Value, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError> {
        writer.put("machine.json", &json(value))?;
        Ok(Value::Null)
    }
    fn read(reader: &ArtifactReader<'_>) -> Result<Value, StoreError> {
        reader.json("machine.json")
    }
}

/// An ontology with the bytes of its templates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OntologyValue {
    /// Classes, prompts, exemplars.
    pub ontology: Ontology,
    /// Bytes of every exemplar and negative, by `Exemplar::file`.
    pub templates: Files,
}

/// Classes, prompts and templates.
pub struct OntologyKind;

impl Kind for OntologyKind {
    const NAME: &'static str = "ontology";
    const FORMAT: u32 = 1;
    type Value = OntologyValue;
    fn write(value: &OntologyValue, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError> {
        writer.put("ontology.json", &json(&value.ontology))?;
        for (file, bytes) in &value.templates {
            writer.put(format!("templates/{file}"), bytes)?;
        }
        Ok(serde_json::json!({ "classes": value.ontology.classes.len() }))
    }
    fn read(reader: &ArtifactReader<'_>) -> Result<OntologyValue, StoreError> {
        let mut files = read_files(reader)?;
        files.remove("ontology.json");
        Ok(OntologyValue {
            ontology: reader.json("ontology.json")?,
            templates: files
                .into_iter()
                .filter_map(|(name, bytes)| Some((name.strip_prefix("templates/")?.to_owned(), bytes)))
                .collect(),
        })
    }
}

/// Labels of a set of images.
pub struct Annotations;

/// What a labeller found and left out because it missed the threshold of its class: an [`AnnotationSet`] beside the
/// labels, of its own kind so that it is never taken for labels.
pub struct Candidates;

#[derive(Serialize, Deserialize)]
struct AnnotationsMeta {
    classes: Vec<ClassInfo>,
    skipped: Vec<Skipped>,
    images: usize,
    boxes: usize,
}

fn write_set(value: &AnnotationSet, file: &str, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError> {
    let mut lines = Vec::new();
    for image in &value.images {
        lines.extend_from_slice(&json(image));
        lines.push(b'\n');
    }
    writer.put(file, &lines)?;
    let meta = AnnotationsMeta {
        classes: value.classes.clone(),
        skipped: value.skipped.clone(),
        images: value.images.len(),
        boxes: value.box_count(),
    };
    Ok(serde_json::to_value(meta).expect("plain data serialises"))
}

fn read_set(reader: &ArtifactReader<'_>, file: &str) -> Result<AnnotationSet, StoreError> {
    let wrong =
        |source| StoreError::Json { what: format!("{} {}", reader.manifest.kind, reader.digest.short()), source };
    let meta: AnnotationsMeta = serde_json::from_value(reader.manifest.meta.clone()).map_err(wrong)?;
    let bytes = reader.get(file)?;
    let images = bytes
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice::<ImageAnnotations>)
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    Ok(AnnotationSet { classes: meta.classes, images, skipped: meta.skipped })
}

macro_rules! set_kind {
    ($name:ident, $kind:literal, $file:literal) => {
        impl Kind for $name {
            const NAME: &'static str = $kind;
            const FORMAT: u32 = 1;
            type Value = AnnotationSet;
            fn write(value: &AnnotationSet, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError> {
                write_set(value, $file, writer)
            }
            fn read(reader: &ArtifactReader<'_>) -> Result<AnnotationSet, StoreError> {
                read_set(reader, $file)
            }
        }
    };
}

set_kind!(Annotations, "annotations", "annotations.jsonl");
set_kind!(Candidates, "candidates", "candidates.jsonl");
