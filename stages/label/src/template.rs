//! The labeller that matches the ontology's template pictures on the drawing.

use datasets::{Annotation, Provenance, Score};
use engine::{DeviceUse, StageError};
use vision::matcher::{self, Match, Matcher, MatcherConfig, MatcherError, Poses, Role, ScaleBase, Template};

use crate::labeller::{Job, LabelError, Labelled, Labeller, Parts};
use crate::settings::{Base, Rotations, Settings};

/// Threshold that `auto` stands for.
pub const AUTO_THRESHOLD: f64 = matcher::DEFAULT_THRESHOLD;

struct TemplateLabeller {
    matcher: Matcher,
}

/// Prepares all templates of the ontology.
pub fn build(parts: &Parts<'_>) -> Result<Box<dyn Labeller>, StageError> {
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
            templates.push(Template { class, name, image: image.into_rgba8(), role });
        }
    }
    templates.extend(crate::exemplars::templates(parts)?);
    let matcher = Matcher::new(&templates, &matcher_config(parts.settings, &templates)).map_err(|e| match e {
        MatcherError::NoTemplates => StageError::input(
            "no class of the ontology has a template",
            "put one picture a symbol into the folder that `inputs.templates` names",
        ),
        MatcherError::BlankTemplate { .. } => StageError::input(e.to_string(), "see the named file"),
        MatcherError::Config { ref field, .. } => StageError::Config { key: field.clone(), message: e.to_string() },
    })?;
    Ok(Box::new(TemplateLabeller { matcher }))
}

/// The matcher's settings that the stage's stand for.
pub fn matcher_config(settings: &Settings, templates: &[Template]) -> MatcherConfig {
    let (scale_base, factor) = match settings.scale.base {
        Base::Auto => (ScaleBase::Drawing, 1.0),
        Base::At(factor) => (ScaleBase::Template, factor),
    };
    let threshold = |class: &str| (class.to_owned(), settings.thresholds.of(class, AUTO_THRESHOLD));
    MatcherConfig {
        poses: Poses {
            rotations: match settings.rotations {
                Rotations::None => matcher::Rotations::None,
                Rotations::Every(90.0) => matcher::Rotations::Quarter,
                Rotations::Every(step) => matcher::Rotations::Every(step),
                Rotations::Any => matcher::Rotations::Any,
            },
            mirror: settings.mirror,
            scale_min: (settings.scale.min * factor).clamp(0.05, 20.0),
            scale_max: (settings.scale.max * factor).clamp(0.05, 20.0),
            stretch: settings.stretch,
        },
        scale_base,
        class_thresholds: templates.iter().map(|t| threshold(&t.class)).collect(),
        nms_iou: settings.nms_iou,
        ..MatcherConfig::default()
    }
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

    fn label(&self, job: &Job<'_>) -> Result<Labelled, LabelError> {
        let found = self.matcher.find(&job.picture.rgb);
        let mut labelled = Labelled::default();
        for s in found.skipped {
            labelled.remark(format!("template `{}` was not used: {}", s.template, s.reason));
        }
        labelled.annotations = found.matches.into_iter().map(annotation).collect();
        labelled.candidates = found.candidates.into_iter().map(annotation).collect();
        Ok(labelled)
    }
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
