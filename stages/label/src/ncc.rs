//! Template matching by normalised cross-correlation, for people who want OpenCV's numbers: `method: ncc`.

use datasets::Annotation;
use engine::{DeviceUse, StageError};
use vision::matcher::{Match, Template};
use vision::ncc::{self, Ncc, NccConfig, NccError};

use crate::labeller::{Job, LabelError, Labelled, Labeller};
use crate::settings::Settings;
use crate::template::{annotation, class_poses, class_thresholds, labelled, no_templates, poses};

/// Threshold that `auto` stands for: that of OpenCV's tutorial on template matching, which most who follow it keep. A
/// correlation is no probability: no number is right for every template.
pub const AUTO_THRESHOLD: f64 = ncc::DEFAULT_THRESHOLD;

struct NccLabeller {
    ncc: Ncc,
    notes: Vec<String>,
}

/// Prepares the ontology's templates; `learned` is the number of pictures from decisions, which are of no use here.
pub fn build(settings: &Settings, templates: &[Template], learned: usize) -> Result<Box<dyn Labeller>, StageError> {
    let ncc = Ncc::new(templates, &ncc_config(settings, templates)).map_err(|e| match e {
        NccError::NoTemplates => no_templates(),
        NccError::Config { ref field, .. } => StageError::Config { key: field.clone(), message: e.to_string() },
        NccError::Flat { .. } | NccError::TooLarge { .. } => {
            StageError::input(e.to_string(), "see the named file, or set `label.method: symbol`")
        }
    })?;
    let unused =
        "pictures from decisions are not used by `label.method: ncc`: they show symbols with their surroundings";
    let notes = if learned > 0 { vec![format!("{learned} {unused}")] } else { Vec::new() };
    Ok(Box::new(NccLabeller { ncc, notes }))
}

/// The correlation's settings that the stage's stand for.
pub fn ncc_config(settings: &Settings, templates: &[Template]) -> NccConfig {
    NccConfig {
        poses: poses(settings, settings.poses_of_all()),
        class_poses: class_poses(settings),
        scale_steps: settings.scale_steps,
        class_thresholds: class_thresholds(settings, templates, AUTO_THRESHOLD),
        nms_iou: settings.nms_iou,
        ..NccConfig::default()
    }
}

impl Labeller for NccLabeller {
    fn name(&self) -> &'static str {
        "template"
    }

    fn version(&self) -> &str {
        ncc::VERSION
    }

    fn device(&self) -> DeviceUse {
        DeviceUse { asked: "cpu".into(), used: "cpu".into(), why: "template matching runs on the CPU".into() }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn label(&self, job: Job<'_>) -> Result<Labelled, LabelError> {
        Ok(labelled(self.ncc.find(&job.picture.rgb()?), correlated))
    }
}

/// A match as an annotation that tells how it was found.
fn correlated(m: Match) -> Annotation {
    let mut a = annotation(m);
    a.provenance.version = Some(ncc::VERSION.into());
    a.attributes.insert("method".into(), "ncc".into());
    a
}
