//! What a labeller is, and the list of all of them.

use std::collections::BTreeMap;

use artifacts::OntologyValue;
use datasets::Annotation;
use datasets::picture::{Limits, PictureError, PictureInfo, decode, decode_grey};
use engine::{Context, DeviceUse, StageError};
use image::{GrayImage, RgbImage};
use ontologies::{Class, Ontology};
use serde::{Deserialize, Serialize};

use crate::settings::{Choice, Settings};
use crate::{detector, imported, template};

/// Likeness (Jaro-Winkler) from which a name may be meant for another.
const ALIKE: f64 = 0.75;

/// An image's file, read and not decoded: labellers differ in the pixels that they look at.
pub struct Undecoded<'a> {
    /// The file.
    pub bytes: Vec<u8>,
    /// How large a picture may be.
    pub limits: &'a Limits,
}

impl Undecoded<'_> {
    /// The picture in colour; the file's bytes are let go.
    pub fn rgb(self) -> Result<RgbImage, PictureError> {
        Ok(decode(&self.bytes, self.limits)?.rgb)
    }

    /// The picture in grey levels in which coloured lines keep their contrast; the file's bytes are let go.
    pub fn grey(self) -> Result<GrayImage, PictureError> {
        Ok(decode_grey(&self.bytes, self.limits)?.grey)
    }
}

/// One image to label.
pub struct Job<'a> {
    /// Its name: the path below the images' folder.
    pub name: &'a str,
    /// BLAKE3 of its file, 64 hex digits.
    pub digest: &'a str,
    /// What its header says.
    pub info: PictureInfo,
    /// Its pixels.
    pub picture: Undecoded<'a>,
}

/// What a labeller says about one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// The boxes, in pixels of the upright image, with full provenance.
    pub annotations: Vec<Annotation>,
    /// What missed the threshold and is worth a person's look, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Annotation>,
    /// What went otherwise than expected, and how often.
    pub remarks: BTreeMap<String, u64>,
    /// Why nothing is known about the image, which is then left out; absent where no box means that nothing is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl Labelled {
    /// Counts a remark.
    pub fn remark(&mut self, text: impl Into<String>) {
        *self.remarks.entry(text.into()).or_default() += 1;
    }
}

/// Why an image has no labels.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The image or its labels are bad for good; the text names what and the fix.
    #[error("{0}")]
    Image(String),
    /// The picture cannot be decoded.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The labeller cannot go on.
    #[error(transparent)]
    Labeller(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Something that finds the ontology's classes on images. The answer for an image depends on nothing but the image and
/// what the labeller was built from.
pub trait Labeller: Send + Sync {
    /// Name, as in the settings and in every box's provenance.
    fn name(&self) -> &'static str;
    /// Version of its code and, where it has one, of its model.
    fn version(&self) -> &str;
    /// Where it runs, and why there.
    fn device(&self) -> DeviceUse;
    /// Remarks on what it was built from (poor templates, say), in words.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// Labels one image.
    fn label(&self, job: Job<'_>) -> Result<Labelled, LabelError>;
}

/// What labellers are built from.
pub struct Parts<'a> {
    /// The stage's settings, resolved and checked.
    pub settings: &'a Settings,
    /// Classes and templates.
    pub ontology: &'a OntologyValue,
    /// For a labeller's own inputs.
    pub ctx: &'a Context,
}

/// Makes a labeller.
pub type Build = fn(&Parts<'_>) -> Result<Box<dyn Labeller>, StageError>;

/// How a labeller is made.
pub struct Builder {
    /// Its name in the settings.
    pub choice: Choice,
    /// The input that has to be connected.
    pub input: Option<&'static str>,
    /// Makes it; `None` when this build does not have it, with the reason in `why_not`.
    pub build: Option<Build>,
    /// Why this build does not have it, and what to use instead.
    pub why_not: &'static str,
    /// What to look at when it gave not one box.
    pub no_boxes: &'static str,
}

/// All labellers.
pub const LABELLERS: [Builder; 4] = [
    Builder {
        choice: Choice::Template,
        input: None,
        build: Some(template::build),
        why_not: "",
        no_boxes: "check that the templates are the drawings' symbols at about their size, or set `label.scale` and a \
                   lower `label.thresholds.default`",
    },
    Builder {
        choice: Choice::Detector,
        input: Some("model"),
        build: Some(detector::build),
        why_not: "",
        no_boxes: "check the metrics of the model's training, or set a lower `label.thresholds.default`",
    },
    Builder {
        choice: Choice::Imported,
        input: Some("labels"),
        build: Some(imported::build),
        why_not: "",
        no_boxes: "check that the label files hold boxes of the ontology's classes (names or aliases), and \
                   `label.thresholds.default`",
    },
    Builder {
        choice: Choice::GroundedSam2,
        input: None,
        build: None,
        why_not: "grounded-sam-2 is not in this build; use `template`, or import labels that it made elsewhere",
        no_boxes: "",
    },
];

/// Settles `auto` and refuses a choice that cannot work; the reason comes as words.
pub fn choose(choice: Choice, connected: &[String]) -> Result<(Choice, Option<String>), StageError> {
    let has = |port: &str| connected.iter().any(|c| c == port);
    if choice == Choice::Auto {
        return Ok(if has("labels") {
            (Choice::Imported, Some("labeller auto: imported, because labels are given as input".to_owned()))
        } else {
            let why = "labeller auto: template, because no labels are given and grounded-sam-2 is not in this build";
            (Choice::Template, Some(why.to_owned()))
        });
    }
    let wrong = |message: String| StageError::Config { key: "labeller".to_owned(), message };
    let builder = builder(choice);
    if builder.build.is_none() {
        return Err(wrong(builder.why_not.to_owned()));
    }
    match builder.input.filter(|port| !has(port)) {
        Some(port) => Err(wrong(format!("`{}` needs the input `{port}`, which is not connected", choice.name()))),
        None => Ok((choice, None)),
    }
}

/// The builder of a choice that is not `auto`.
pub fn builder(choice: Choice) -> &'static Builder {
    LABELLERS.iter().find(|b| b.choice == choice).expect("`auto` is settled and every other choice is listed")
}

/// The class most like `name`, when one is alike enough to be meant.
pub fn nearest<'a>(ontology: &'a Ontology, name: &str) -> Option<&'a str> {
    let name = name.to_lowercase();
    let alike = |c: &'a Class| {
        let names = c.aliases.iter().chain([&c.name]);
        let best = names.map(|n| strsim::jaro_winkler(&n.to_lowercase(), &name)).fold(0.0, f64::max);
        (best, c.name.as_str())
    };
    let best = ontology.classes.iter().map(alike).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > ALIKE).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_says_why() {
        let (choice, why) = choose(Choice::Auto, &[]).unwrap();
        assert_eq!(choice, Choice::Template);
        assert!(why.unwrap().contains("grounded-sam-2 is not in this build"));
        let (choice, why) = choose(Choice::Auto, &["labels".to_owned()]).unwrap();
        assert_eq!(choice, Choice::Imported);
        assert!(why.unwrap().contains("labels are given"));
    }

    #[test]
    fn impossible_choices_are_refused() {
        for (choice, part) in
            [(Choice::GroundedSam2, "not in this build"), (Choice::Detector, "`model`"), (Choice::Imported, "`labels`")]
        {
            let e = choose(choice, &[]).unwrap_err().to_string();
            assert!(e.contains(part) && e.contains("labeller"), "{e}");
        }
        assert_eq!(choose(Choice::Detector, &["model".to_owned()]).unwrap().0, Choice::Detector);
    }

    #[test]
    fn every_choice_but_auto_has_a_builder() {
        for c in [Choice::Template, Choice::Detector, Choice::Imported, Choice::GroundedSam2] {
            assert_eq!(builder(c).choice, c);
        }
    }
}
