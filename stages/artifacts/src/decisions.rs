//! What a person decided: the file `DECISIONS.json`.
//!
//! ```json
//! {
//!   "version": 1,
//!   "annotations": "<digest of the labels that were looked at>",
//!   "approve": false,
//!   "reviewer": "Ann",
//!   "boxes": [
//!     { "decision": "accept", "image": "a.png", "box": "3f2a9c01b7de" },
//!     { "decision": "reject", "image": "a.png", "box": "77aa00c1d2e3" },
//!     { "decision": "correct", "image": "a.png", "box": "0c1d2e3f4a5b", "class": "globe valve", "bbox": [10, 20, 42, 51] },
//!     { "decision": "add", "image": "b.png", "class": "ball valve", "bbox": [100, 20, 132, 51] }
//!   ]
//! }
//! ```
//! This is what a person or a page writes. `pipeline review apply` fills in what the box looked like (`seen`, `digest`,
//! `scale`), so that the file is understood without the labels it was made for, and holds when they change a little.
//!
//! Owns the layout and its checks. Refuses to own what decisions do to labels (that is `review`) and what a labeller
//! learns from them (that is `label`).

use datasets::{Annotation, BBox, ImageAnnotations, Pixels};
use engine::{Digest, StageError};
use serde::{Deserialize, Serialize};

use crate::Files;

/// Version of the file's layout.
pub const VERSION: u32 = 1;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// Layout: 1.
    pub version: u32,
    /// Digest of the labels that were looked at, 64 hex digits.
    pub annotations: String,
    /// True when the set as a whole is approved. Its labels are then final: what such a file says about single boxes
    /// corrects the set and teaches the labeller nothing, because labels that change again would not be the approved
    /// ones.
    #[serde(default)]
    pub approve: bool,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewer: Option<String>,
    /// Decisions about single boxes, in order; a later one about a box replaces an earlier one.
    #[serde(default)]
    pub boxes: Vec<BoxDecision>,
}

/// A box as it was when it was decided about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// BLAKE3 of the image file, 64 hex digits; empty when it is not known.
    #[serde(default)]
    pub digest: String,
    /// The box. Class and edges at least; with its provenance a labeller can learn from it.
    pub annotation: Annotation,
}

/// A decision about one box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision", deny_unknown_fields)]
pub enum BoxDecision {
    /// The box is right.
    Accept {
        /// Image name.
        image: String,
        /// Box id.
        #[serde(rename = "box")]
        id: String,
        /// The box.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seen>,
    },
    /// The box is wrong.
    Reject {
        /// Image name.
        image: String,
        /// Box id.
        #[serde(rename = "box")]
        id: String,
        /// The box.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seen>,
    },
    /// The box has another class or other edges.
    Correct {
        /// Image name.
        image: String,
        /// Box id.
        #[serde(rename = "box")]
        id: String,
        /// The right class; absent when it is right already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<String>,
        /// The right edges in pixels, `[left, top, right, bottom]`; absent when they are right already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bbox: Option<[f64; 4]>,
        /// The box as it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seen>,
    },
    /// A box was missed.
    Add {
        /// Image name.
        image: String,
        /// Class name.
        class: String,
        /// Edges in pixels, `[left, top, right, bottom]`.
        bbox: [f64; 4],
        /// BLAKE3 of the image file, 64 hex digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// Size of the image's symbols relative to their templates: the median of what the labeller found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale: Option<f64>,
    },
}

impl BoxDecision {
    /// Name of the image.
    pub fn image(&self) -> &str {
        match self {
            Self::Accept { image, .. }
            | Self::Reject { image, .. }
            | Self::Correct { image, .. }
            | Self::Add { image, .. } => image,
        }
    }

    /// Id of the box that is decided about; none for one that is added.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Accept { id, .. } | Self::Reject { id, .. } | Self::Correct { id, .. } => Some(id),
            Self::Add { .. } => None,
        }
    }

    /// The box as it was; none for one that is added.
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Accept { seen, .. } | Self::Reject { seen, .. } | Self::Correct { seen, .. } => seen.as_ref(),
            Self::Add { .. } => None,
        }
    }

    /// Sets the box as it was; nothing for one that is added.
    pub fn set_seen(&mut self, to: Seen) {
        if let Self::Accept { seen, .. } | Self::Reject { seen, .. } | Self::Correct { seen, .. } = self {
            *seen = Some(to);
        }
    }

    fn edges(&self) -> Vec<[f64; 4]> {
        let given = match self {
            Self::Correct { bbox, .. } => *bbox,
            Self::Add { bbox, .. } => Some(*bbox),
            _ => None,
        };
        given.into_iter().chain(self.seen().map(|s| s.annotation.bbox.into())).collect()
    }
}

/// A decisions file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what its fields are")]
pub enum DecisionsError {
    #[error("decisions file `{file}`, line {line}, column {column}")]
    Json { file: String, line: usize, column: usize, source: serde_json::Error },
    #[error("decisions file `{file}` has version {found}; this program reads version {VERSION}")]
    Version { file: String, found: u32 },
    #[error(
        "decisions file `{file}`: `annotations` is `{found}`, not a digest of 64 hex digits; copy it from the report"
    )]
    Digest { file: String, found: String },
    #[error(
        "decisions file `{file}`, entry {entry} of `boxes`: {bbox:?} encloses nothing; give [left, top, right, bottom] in pixels"
    )]
    Box { file: String, entry: usize, bbox: [f64; 4] },
}

/// Reads a decisions file; `file` is its name in errors.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Decisions, DecisionsError> {
    let decisions: Decisions = serde_json::from_slice(bytes).map_err(|source| DecisionsError::Json {
        file: file.to_owned(),
        line: source.line(),
        column: source.column(),
        source,
    })?;
    if decisions.version != VERSION {
        return Err(DecisionsError::Version { file: file.to_owned(), found: decisions.version });
    }
    if decisions.annotations.len() != 64 || !decisions.annotations.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(DecisionsError::Digest { file: file.to_owned(), found: decisions.annotations });
    }
    for (at, decision) in decisions.boxes.iter().enumerate() {
        if let Some(bbox) = decision.edges().into_iter().find(|b| !BBox::<Pixels>::from(*b).is_valid()) {
            return Err(DecisionsError::Box { file: file.to_owned(), entry: at + 1, bbox });
        }
    }
    Ok(decisions)
}

/// Every `.json` file of a folder of decisions, in order of names.
pub fn parse_all(files: &Files) -> Result<Vec<Decisions>, StageError> {
    let help = "save the file from the report again, or correct the line by hand";
    files
        .iter()
        .filter(|(name, _)| name.to_ascii_lowercase().ends_with(".json"))
        .map(|(name, bytes)| {
            parse(name, bytes).map_err(|e| {
                let cause = std::error::Error::source(&e).map_or_else(String::new, |c| format!(": {c}"));
                StageError::input(format!("{e}{cause}"), help)
            })
        })
        .collect()
}

/// A file that approves a set and decides about no box: what a reviewer starts from.
pub fn approval(digest: &str) -> Decisions {
    Decisions { version: VERSION, annotations: digest.to_owned(), approve: true, reviewer: None, boxes: Vec::new() }
}

/// Id of a box: 12 hex digits made of the image's digest (or its name when that is not known), class and edges.
pub fn box_id(image: &str, class: &str, b: &BBox<Pixels>) -> String {
    Digest::of(format!("{image}\n{class}\n{} {} {} {}", b.x0, b.y0, b.x1, b.y1).as_bytes()).short()
}

/// Ids of an image's boxes, in order; a repeated box gets `-2`, `-3`, ... A box that is relabelled the same keeps its id.
pub fn box_ids(image: &ImageAnnotations) -> Vec<String> {
    let mut seen: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    let whose = if image.digest.is_empty() { &image.image } else { &image.digest };
    let id = |a: &Annotation| {
        let id = box_id(whose, &a.class, &a.bbox);
        let n = seen.entry(id.clone()).or_default();
        *n += 1;
        if *n == 1 { id } else { format!("{id}-{n}") }
    };
    image.annotations.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_error_names_line() {
        let e = parse("d.json", b"{\n \"version\": }").unwrap_err().to_string();
        assert_eq!(e, "decisions file `d.json`, line 2, column 13");
    }

    #[test]
    fn unknown_key_is_an_error() {
        let text = format!(r#"{{"version":1,"annotations":"{}","aprove":true}}"#, "a".repeat(64));
        assert!(matches!(parse("d", text.as_bytes()), Err(DecisionsError::Json { .. })));
        let text = format!(
            r#"{{"version":1,"annotations":"{}","boxes":[{{"decision":"accept","image":"i","box":"b","x":1}}]}}"#,
            "a".repeat(64)
        );
        assert!(matches!(parse("d", text.as_bytes()), Err(DecisionsError::Json { .. })));
    }

    #[test]
    fn wrong_version_digest_and_box_are_errors() {
        let of = |version: u32, digest: &str, boxes: &str| {
            parse("d", format!(r#"{{"version":{version},"annotations":"{digest}","boxes":{boxes}}}"#).as_bytes())
        };
        assert!(matches!(of(2, &"a".repeat(64), "[]"), Err(DecisionsError::Version { found: 2, .. })));
        assert!(matches!(of(1, "abc", "[]"), Err(DecisionsError::Digest { .. })));
        for boxes in [
            r#"[{"decision":"add","image":"i","class":"a","bbox":[5,5,5,9]}]"#,
            r#"[{"decision":"accept","image":"i","box":"b","seen":{"annotation":{"class":"a","bbox":[5,5,5,9]}}}]"#,
        ] {
            assert!(matches!(of(1, &"a".repeat(64), boxes), Err(DecisionsError::Box { entry: 1, .. })));
        }
    }

    #[test]
    fn what_is_filled_in_survives_the_way_through_a_file() {
        let mut annotation = Annotation::new("a", BBox::new(1.0, 2.0, 3.5, 4.0));
        annotation.provenance.evidence.insert("rotation_deg".into(), 90.0);
        let seen = Some(Seen { digest: "d".into(), annotation });
        let file = Decisions {
            approve: false,
            boxes: vec![
                BoxDecision::Accept { image: "i".into(), id: "b".into(), seen },
                BoxDecision::Add {
                    image: "i".into(),
                    class: "a".into(),
                    bbox: [0.0, 0.0, 1.0, 1.0],
                    digest: None,
                    scale: Some(0.5),
                },
            ],
            ..approval(&"a".repeat(64))
        };
        assert_eq!(parse("d", &serde_json::to_vec(&file).unwrap()).unwrap(), file);
    }
}
