//! The labeller that matches the ontology's template pictures on the drawing.

use std::collections::BTreeMap;

use datasets::{Annotation, Provenance, Score};
use engine::{DeviceUse, StageError};
use vision::matcher::{self, Found, Match, Matcher, MatcherConfig, MatcherError, Poses, Role, ScaleBase, Template};

use crate::labeller::{Job, LabelError, Labelled, Labeller, Parts};
use crate::ncc;
use crate::settings::{Base, Method, ResolvedPoses, Rotations, Settings};

/// Threshold that `auto` stands for.
pub const AUTO_THRESHOLD: f64 = matcher::DEFAULT_THRESHOLD;

struct TemplateLabeller {
    matcher: Matcher,
}

/// Prepares all templates of the ontology for the method of the settings.
pub fn build(parts: &Parts<'_>) -> Result<Box<dyn Labeller>, StageError> {
    let mut templates = given(parts)?;
    let learned = crate::exemplars::templates(parts)?;
    if parts.settings.method == Method::Ncc {
        return ncc::build(parts.settings, &templates, learned.len());
    }
    templates.extend(learned);
    let matcher = Matcher::new(&templates, &matcher_config(parts.settings, &templates)).map_err(|e| match e {
        MatcherError::NoTemplates => no_templates(),
        MatcherError::BlankTemplate { .. } => StageError::input(e.to_string(), "see the named file"),
        MatcherError::Config { ref field, .. } => StageError::Config { key: field.clone(), message: e.to_string() },
    })?;
    Ok(Box::new(TemplateLabeller { matcher }))
}

/// The ontology's pictures.
pub(crate) fn given(parts: &Parts<'_>) -> Result<Vec<Template>, StageError> {
    let ontology = &parts.ontology.ontology;
    let mut templates = Vec::new();
    for class in &ontology.classes {
        let exemplars = class.exemplars.iter().map(|e| (e, Role::Given));
        for (exemplar, role) in exemplars.chain(class.negatives.iter().map(|e| (e, Role::Negative))) {
            let bytes = parts.ontology.templates.get(&exemplar.file).ok_or_else(|| {
                StageError::message(format!("the ontology names template `{}` and does not hold it", exemplar.file))
            })?;
            let image = image::load_from_memory(bytes).map_err(|e| {
                StageError::input(
                    format!("template `{}` cannot be read: {e}", exemplar.file),
                    "save it again as PNG, or remove it",
                )
            })?;
            let (class, name) = (class.name.clone(), exemplar.file.clone());
            templates.push(Template { class, name, image: image.into_rgba8(), role, frame: None });
        }
    }
    Ok(templates)
}

pub(crate) fn no_templates() -> StageError {
    StageError::input(
        "no class of the ontology has a template",
        "put one picture a symbol into the folder that `inputs.templates` names",
    )
}

/// The matcher's settings that the stage's stand for.
pub fn matcher_config(settings: &Settings, templates: &[Template]) -> MatcherConfig {
    let scale_base = match settings.scale.base {
        Base::Auto => ScaleBase::Drawing,
        Base::At(_) => ScaleBase::Template,
    };
    MatcherConfig {
        scale_base,
        poses: poses(settings, settings.poses_of_all()),
        class_poses: class_poses(settings),
        class_thresholds: class_thresholds(settings, templates, AUTO_THRESHOLD),
        nms_iou: settings.nms_iou,
        ..MatcherConfig::default()
    }
}

/// The poses of a class, in pixels of the template times the base.
pub(crate) fn poses(settings: &Settings, p: ResolvedPoses) -> Poses {
    let factor = match settings.scale.base {
        Base::Auto => 1.0,
        Base::At(factor) => factor,
    };
    Poses {
        rotations: match p.rotations {
            Rotations::None => matcher::Rotations::None,
            Rotations::Every(90.0) => matcher::Rotations::Quarter,
            Rotations::Every(step) => matcher::Rotations::Every(step),
            Rotations::Any => matcher::Rotations::Any,
        },
        mirror: p.mirror,
        scale_min: (p.scale_min * factor).clamp(0.05, 20.0),
        scale_max: (p.scale_max * factor).clamp(0.05, 20.0),
        stretch: p.stretch,
    }
}

/// The poses of the classes that have their own.
pub(crate) fn class_poses(settings: &Settings) -> BTreeMap<String, Poses> {
    settings.classes.keys().map(|c| (c.clone(), poses(settings, settings.poses_of(c)))).collect()
}

/// The threshold of every class that has a template.
pub(crate) fn class_thresholds(settings: &Settings, templates: &[Template], auto: f64) -> BTreeMap<String, f64> {
    templates.iter().map(|t| (t.class.clone(), settings.thresholds.of(&t.class, auto))).collect()
}

impl Labeller for TemplateLabeller {
    fn name(&self) -> &'static str {
        "template"
    }

    fn version(&self) -> &str {
        matcher::VERSION
    }

    fn device(&self) -> DeviceUse {
        DeviceUse { asked: "cpu".into(), used: "cpu".into(), why: "template matching runs on the CPU".into() }
    }

    fn notes(&self) -> Vec<String> {
        self.matcher.notes().into_iter().map(|n| format!("template `{}`: {}", n.template, n.text)).collect()
    }

    fn label(&self, job: Job<'_>) -> Result<Labelled, LabelError> {
        Ok(labelled(self.matcher.find_grey(&job.picture.grey()?), annotation))
    }
}

/// What was found on a drawing as the stage keeps it.
pub(crate) fn labelled(found: Found, annotation: impl Fn(Match) -> Annotation) -> Labelled {
    let mut labelled = Labelled::default();
    for s in found.skipped {
        labelled.remark(format!("template `{}` was not used: {}", s.template, s.reason));
    }
    labelled.annotations = found.matches.into_iter().map(&annotation).collect();
    labelled.candidates = found.candidates.into_iter().map(&annotation).collect();
    labelled
}

/// A match as an annotation, with all that the matcher knows about it.
pub fn annotation(m: Match) -> Annotation {
    let mut evidence = m.evidence;
    evidence.insert("rotation_deg".into(), m.rotation_deg);
    evidence.insert("mirrored".into(), f64::from(u8::from(m.mirrored)));
    evidence.insert("scale".into(), m.scale);
    evidence.insert("stretch".into(), m.stretch);
    let mut a = Annotation::new(m.class, m.bbox);
    a.score = Score::new(m.score).ok();
    a.provenance = Provenance {
        labeller: "template".into(),
        version: Some(matcher::VERSION.into()),
        source: Some(m.template),
        threshold: Some(m.threshold),
        device: Some("cpu".into()),
        evidence,
        ..Provenance::default()
    };
    if let Some(class) = m.runner_up {
        a.attributes.insert("runner_up".into(), class.into());
    }
    a
}
