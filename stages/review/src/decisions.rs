//! What a person decided: the file `DECISIONS.json`, and what it does to a set of annotations.
//!
//! ```json
//! {
//!   "version": 1,
//!   "annotations": "<digest of the labels that were looked at>",
//!   "approve": true,
//!   "reviewer": "Ann",
//!   "boxes": [
//!     { "decision": "accept", "image": "a.png", "box": "3f2a9c01b7de" },
//!     { "decision": "reject", "image": "a.png", "box": "77aa00c1d2e3" },
//!     { "decision": "correct", "image": "a.png", "box": "0c1d2e3f4a5b", "class": "globe valve", "bbox": [10, 20, 42, 51] },
//!     { "decision": "add", "image": "b.png", "class": "ball valve", "bbox": [100, 20, 132, 51] }
//!   ]
//! }
//! ```
//! Accepted, corrected and added boxes carry the decision in their provenance; rejected boxes leave the set. Approving
//! the set opens the gate and says nothing about single boxes. A box decision holds as long as its image, class and
//! edges are the same, also when the rest of the labels changed; one that no longer fits is reported, never guessed.

use std::collections::BTreeMap;

use datasets::{Annotation, AnnotationSet, BBox, Decision, Pixels};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::box_ids;
use crate::gate::Approval;

/// Version of the file's layout.
pub const VERSION: u32 = 1;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// Layout: 1.
    pub version: u32,
    /// Digest of the labels that were looked at, 64 hex digits.
    pub annotations: String,
    /// True when the set as a whole is approved.
    #[serde(default)]
    pub approve: bool,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewer: Option<String>,
    /// Decisions about single boxes, in order; a later one about a box replaces an earlier one.
    #[serde(default)]
    pub boxes: Vec<BoxDecision>,
}

/// A decision about one box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "decision", deny_unknown_fields)]
pub enum BoxDecision {
    /// The box is right.
    Accept {
        /// Image name.
        image: String,
        /// Box id.
        #[serde(rename = "box")]
        id: String,
    },
    /// The box is wrong.
    Reject {
        /// Image name.
        image: String,
        /// Box id.
        #[serde(rename = "box")]
        id: String,
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
    },
    /// A box was missed.
    Add {
        /// Image name.
        image: String,
        /// Class name.
        class: String,
        /// Edges in pixels, `[left, top, right, bottom]`.
        bbox: [f64; 4],
    },
}

impl BoxDecision {
    fn image(&self) -> &str {
        match self {
            Self::Accept { image, .. }
            | Self::Reject { image, .. }
            | Self::Correct { image, .. }
            | Self::Add { image, .. } => image,
        }
    }

    fn edges(&self) -> Option<[f64; 4]> {
        match self {
            Self::Correct { bbox, .. } => *bbox,
            Self::Add { bbox, .. } => Some(*bbox),
            _ => None,
        }
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
        if let Some(bbox) = decision.edges()
            && !BBox::<Pixels>::from(bbox).is_valid()
        {
            return Err(DecisionsError::Box { file: file.to_owned(), entry: at + 1, bbox });
        }
    }
    Ok(decisions)
}

/// A rejected box, kept for the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejected {
    /// Image name.
    pub image: String,
    /// Box id.
    #[serde(rename = "box")]
    pub id: String,
    /// The box as it was, with the decision in its provenance.
    pub annotation: Annotation,
}

/// What decisions did to a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Applied {
    /// Boxes accepted one by one.
    pub accepted: usize,
    /// Boxes moved or renamed.
    pub corrected: usize,
    /// Boxes added.
    pub added: usize,
    /// Boxes taken out.
    pub rejected: Vec<Rejected>,
    /// Decisions that fit no box of this set, in words.
    pub problems: Vec<String>,
    /// What was said about the set as a whole.
    pub approval: Approval,
}

impl Applied {
    /// True when the set is not what it was.
    pub fn changed(&self) -> bool {
        self.accepted + self.corrected + self.added + self.rejected.len() > 0
    }
}

/// Applies decisions to `set`, whose digest is `digest`. Of several files the later ones win.
pub fn apply(set: &mut AnnotationSet, digest: &str, files: &[Decisions]) -> Applied {
    let mut applied = Applied::default();
    let mut by_image: BTreeMap<&str, Vec<&BoxDecision>> = BTreeMap::new();
    for file in files {
        for decision in &file.boxes {
            by_image.entry(decision.image()).or_default().push(decision);
        }
        if file.approve && file.annotations.eq_ignore_ascii_case(digest) {
            applied.approval = Approval::Given { by: file.reviewer.clone().unwrap_or_else(|| "a person".into()) };
        } else if file.approve && !matches!(applied.approval, Approval::Given { .. }) {
            applied.approval = Approval::Stale { approved: file.annotations.clone() };
        }
    }
    let AnnotationSet { classes, images, .. } = set;
    let known = |class: &str| classes.iter().any(|c| c.name == class);
    for (name, decisions) in by_image {
        let Some(image) = images.iter_mut().find(|i| i.image == name) else {
            applied.problems.push(format!(
                "image `{name}` is not in this set: {} not used",
                report::number::counted(decisions.len(), "decision", "decisions")
            ));
            continue;
        };
        let ids = box_ids(image);
        let mut last: Vec<Option<&BoxDecision>> = vec![None; ids.len()];
        let mut added = Vec::new();
        for decision in decisions {
            let (BoxDecision::Accept { id, .. } | BoxDecision::Reject { id, .. } | BoxDecision::Correct { id, .. }) =
                decision
            else {
                added.push(decision);
                continue;
            };
            match ids.iter().position(|have| have == id) {
                Some(at) => last[at] = Some(decision),
                None => applied
                    .problems
                    .push(format!("image `{name}` has no box `{id}`: it was relabelled since, or the id is mistyped")),
            }
        }
        let mut kept = Vec::with_capacity(image.annotations.len());
        for ((mut a, id), decision) in std::mem::take(&mut image.annotations).into_iter().zip(ids).zip(last) {
            match decision {
                Some(BoxDecision::Reject { .. }) => {
                    a.provenance.decision = Some(Decision::Rejected);
                    applied.rejected.push(Rejected { image: name.to_owned(), id, annotation: a });
                    continue;
                }
                Some(BoxDecision::Correct { class, bbox, .. }) => {
                    if let Some(unknown) = class.as_ref().filter(|c| !known(c)) {
                        applied.problems.push(unknown_class(name, unknown));
                    } else {
                        if let Some(class) = class {
                            a.class.clone_from(class);
                        }
                        if let Some(bbox) = bbox {
                            a.bbox = BBox::from(*bbox);
                            // The outline belongs to the old edges.
                            a.polygons.clear();
                        }
                        a.provenance.decision = Some(Decision::Corrected);
                        applied.corrected += 1;
                    }
                }
                Some(_) => {
                    a.provenance.decision = Some(Decision::Accepted);
                    applied.accepted += 1;
                }
                None => {}
            }
            kept.push(a);
        }
        for decision in added {
            let BoxDecision::Add { class, bbox, .. } = decision else { continue };
            if known(class) {
                let mut a = Annotation::new(class, BBox::from(*bbox));
                a.provenance.labeller = "person".into();
                a.provenance.decision = Some(Decision::Added);
                kept.push(a);
                applied.added += 1;
            } else {
                applied.problems.push(unknown_class(name, class));
            }
        }
        image.annotations = kept;
    }
    applied
}

fn unknown_class(image: &str, class: &str) -> String {
    format!("image `{image}`: class `{class}` is not in the ontology, so the decision is not used")
}

/// A file that approves a set and decides about no box: what a reviewer starts from.
pub fn approval(digest: &str) -> Decisions {
    Decisions { version: VERSION, annotations: digest.to_owned(), approve: true, reviewer: None, boxes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{class, image, scored, set};

    fn two() -> AnnotationSet {
        let boxes = vec![scored("a", [1.0, 2.0, 11.0, 12.0], 0.5), scored("b", [20.0, 2.0, 31.0, 12.0], 0.6)];
        set(vec![class("a"), class("b")], vec![image("i.png", 99, 99, boxes), image("j.png", 99, 99, vec![])])
    }

    fn file(boxes: &str) -> Decisions {
        let text = format!(r#"{{"version":1,"annotations":"{}","boxes":{boxes}}}"#, "a".repeat(64));
        parse("d.json", text.as_bytes()).unwrap()
    }

    #[test]
    fn every_decision_does_what_it_says() {
        let mut s = two();
        s.images[0].annotations[0].polygons = vec![vec![[1.0, 2.0], [11.0, 2.0], [11.0, 12.0]]];
        let ids = box_ids(&s.images[0]);
        let d = file(&format!(
            r#"[{{"decision":"accept","image":"i.png","box":"{0}"}},
                {{"decision":"correct","image":"i.png","box":"{0}","class":"b","bbox":[0,0,9,9]}},
                {{"decision":"reject","image":"i.png","box":"{1}"}},
                {{"decision":"add","image":"j.png","class":"a","bbox":[5,5,20,20]}}]"#,
            ids[0], ids[1]
        ));
        let applied = apply(&mut s, &"b".repeat(64), &[d]);
        // The later decision about a box replaces the earlier one.
        assert_eq!((applied.accepted, applied.corrected, applied.added, applied.rejected.len()), (0, 1, 1, 1));
        assert_eq!(applied.problems, [""; 0]);
        let a = &s.images[0].annotations;
        assert_eq!((a.len(), a[0].class.as_str(), a[0].bbox.x1), (1, "b", 9.0));
        assert_eq!(a[0].provenance.decision, Some(Decision::Corrected));
        assert_eq!(a[0].provenance.labeller, "template");
        assert!(a[0].polygons.is_empty() && a[0].score.is_some());
        let new = &s.images[1].annotations[0];
        assert_eq!((new.provenance.labeller.as_str(), new.provenance.decision), ("person", Some(Decision::Added)));
        assert_eq!(applied.rejected[0].annotation.provenance.decision, Some(Decision::Rejected));
    }

    #[test]
    fn what_fits_nothing_is_reported_and_changes_nothing() {
        let mut s = two();
        let id = box_ids(&s.images[0])[0].clone();
        let d = file(&format!(
            r#"[{{"decision":"reject","image":"i.png","box":"000000000000"}},
                {{"decision":"reject","image":"gone.png","box":"{id}"}},
                {{"decision":"correct","image":"i.png","box":"{id}","class":"zz"}},
                {{"decision":"add","image":"i.png","class":"zz","bbox":[0,0,5,5]}}]"#
        ));
        let applied = apply(&mut s, "x", &[d]);
        assert_eq!(applied.problems.len(), 4, "{:?}", applied.problems);
        assert!(!applied.changed());
        assert_eq!(s, two());
    }

    #[test]
    fn approval_is_for_one_digest() {
        let (digest, other) = ("c".repeat(64), "d".repeat(64));
        assert_eq!(apply(&mut two(), &digest, &[]).approval, Approval::Missing);
        assert_eq!(
            apply(&mut two(), &digest, &[approval(&other)]).approval,
            Approval::Stale { approved: other.clone() }
        );
        let both = [approval(&digest), approval(&other)];
        assert_eq!(apply(&mut two(), &digest, &both).approval, Approval::Given { by: "a person".into() });
    }

    #[test]
    fn relabelled_the_same_keeps_the_decision() {
        let mut s = two();
        let id = box_ids(&s.images[0])[1].clone();
        s.images[0].annotations.remove(0);
        s.images[0].annotations[0].score = None;
        let d = file(&format!(r#"[{{"decision":"accept","image":"i.png","box":"{id}"}}]"#));
        assert_eq!(apply(&mut s, "x", &[d]).accepted, 1);
    }

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
        let boxes = r#"[{"decision":"add","image":"i","class":"a","bbox":[5,5,5,9]}]"#;
        assert!(matches!(of(1, &"a".repeat(64), boxes), Err(DecisionsError::Box { entry: 1, .. })));
    }
}
