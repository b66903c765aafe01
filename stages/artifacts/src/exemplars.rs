//! Templates that come from a person's decisions.

use engine::{
    StoreError,
    artifact::{ArtifactReader, ArtifactWriter, Kind},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Files, read_files, write_files};

/// What a labeller learns from a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lesson {
    /// The class looks like this: cut out upright and at the size of its template.
    Confirmed,
    /// The class looks like this, turned as it lies on the drawing: nobody knows its pose.
    Added,
    /// This is not the class that it was taken for.
    Rejected,
}

/// A picture that a person's decision stands behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exemplar {
    /// Name of its picture among the artifact's blobs.
    pub file: String,
    /// Class that it shows or was taken for.
    pub class: String,
    /// Name for messages and provenance, such as `confirmed: a.png #3f2a9c01b7de`.
    pub name: String,
    /// What is learned from it.
    pub lesson: Lesson,
    /// The box that was decided about: left, top, right, bottom, pixels of the picture. Absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<[f32; 4]>,
}

/// Exemplars with their pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExemplarSet {
    /// What each picture is.
    pub list: Vec<Exemplar>,
    /// PNG files by `Exemplar::file`.
    pub pictures: Files,
}

/// Exemplars of classes. The list lies in the manifest, so that the blobs are the pictures alone and a plan that
/// compares two artifacts counts exemplars.
pub struct Exemplars;

impl Kind for Exemplars {
    const NAME: &'static str = "exemplars";
    const FORMAT: u32 = 1;
    type Value = ExemplarSet;
    fn write(value: &ExemplarSet, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError> {
        write_files(&value.pictures, writer)?;
        Ok(serde_json::to_value(&value.list).expect("plain data serialises"))
    }
    fn read(reader: &ArtifactReader<'_>) -> Result<ExemplarSet, StoreError> {
        let list = serde_json::from_value(reader.manifest.meta.clone())
            .map_err(|source| StoreError::Json { what: format!("exemplars {}", reader.digest.short()), source })?;
        Ok(ExemplarSet { list, pictures: read_files(reader)? })
    }
}
