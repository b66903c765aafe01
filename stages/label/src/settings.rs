//! What can be set about labelling.
//!
//! Owns the settings, their defaults and ranges. What reads a number or a word is next door.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the label stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who labels: `auto`, `template` (symbol pictures matched on the drawing), `detector` (a trained model at the input
    /// `model`), `imported` (label files at the input `labels`) or `grounded-sam-2`. Default `auto`: `imported` when
    /// labels are given, else `template`.
    pub labeller: Choice,
    /// Scores that boxes must reach.
    pub thresholds: Thresholds,
    /// Of two boxes that overlap by more than this (intersection over union, 0..=1) the weaker is dropped, whatever
    /// their classes. Default 0.3: symbols of a drawing hardly overlap.
    pub nms_iou: f64,
    /// Template matching: how symbols are found: `symbol` (the symbol matcher: ink, best poses, choice between classes),
    /// `ncc` (normalised cross-correlation with OpenCV's numbers: `matchTemplate` with `TM_CCOEFF_NORMED` at every turn and
    /// size, transparent pixels as mask) or `auto`, which is `symbol`. Default `auto`.
    pub method: Method,
    /// Template matching: turns that are tried: `none`, a number of degrees between turns (1 to 180), or `any`
    /// (with `method: ncc` every 5 degrees). Default 90.
    pub rotations: Rotations,
    /// Template matching: whether mirror images are tried. Default true.
    pub mirror: bool,
    /// Template matching: sizes of symbols on the drawing relative to their templates.
    pub scale: Scale,
    /// Template matching: largest factor by which a symbol's width over height may differ from its template's, 1..=2 (1:
    /// none). Default 1.3: drawing programs fit symbols to grids. Not for `method: ncc`.
    pub stretch: f64,
    /// Template matching with `method: ncc`: number of sizes that are tried from `scale.min` to `scale.max`, each larger
    /// by the same factor, 1..=100. Default 5.
    pub scale_steps: u32,
    /// Template matching: turns, mirror images, sizes and stretch of single classes, by name.
    pub classes: BTreeMap<String, ClassPoses>,
    /// Images with more pixels than this are left out, unread. Default 500,000,000, an A0 sheet at 560 dpi.
    pub max_pixels: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            labeller: Choice::Auto,
            thresholds: Thresholds::default(),
            nms_iou: 0.3,
            method: Method::Auto,
            rotations: Rotations::Every(90.0),
            mirror: true,
            scale: Scale::default(),
            stretch: 1.3,
            scale_steps: 5,
            classes: BTreeMap::new(),
            max_pixels: 500_000_000,
        }
    }
}

/// Who labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The best that the inputs and the machine allow.
    #[default]
    Auto,
    /// Template matching.
    Template,
    /// A trained detector.
    Detector,
    /// Labels that were made elsewhere.
    Imported,
    /// Text-prompted segmentation.
    #[serde(rename = "grounded-sam-2")]
    GroundedSam2,
}

impl Choice {
    /// The name, as in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Template => "template",
            Self::Detector => "detector",
            Self::Imported => "imported",
            Self::GroundedSam2 => "grounded-sam-2",
        }
    }
}

/// How templates are matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The symbol matcher.
    #[default]
    Auto,
    /// The symbol matcher.
    Symbol,
    /// Normalised cross-correlation as OpenCV computes it.
    Ncc,
}

/// Poses of a class. What is not given is as for all classes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassPoses {
    /// Turns that are tried: `none`, a number of degrees between turns (1 to 180), or `any`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotations: Option<Rotations>,
    /// Whether mirror images are tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<bool>,
    /// Sizes relative to the base of all classes.
    #[serde(skip_serializing_if = "ClassScale::is_empty")]
    pub scale: ClassScale,
    /// Largest factor by which width over height may differ from the template's, 1..=2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stretch: Option<f64>,
}

/// Sizes of a class on the drawing. What is not given is as for all classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassScale {
    /// Smallest size relative to the base of all classes, 0.05..=20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest size relative to the base of all classes, 0.05..=20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl ClassScale {
    /// True when nothing is given.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Scores that boxes must reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// For every class: `auto` or a number, 0..=1. Default `auto`: template matching 0.3 (from which matches on generated
    /// drawings are more often right than wrong), with `method: ncc` 0.8 (the threshold of OpenCV's tutorial), a
    /// detector 0.25, imported labels 0 (all).
    pub default: Threshold,
    /// For single classes, by name; overrides `default`.
    pub classes: BTreeMap<String, Threshold>,
}

impl Thresholds {
    /// The threshold of a class, 0..=1, where `auto` stands for a labeller's own.
    pub fn of(&self, class: &str, auto: f64) -> f64 {
        match self.classes.get(class).copied().unwrap_or(self.default) {
            Threshold::Auto => auto,
            Threshold::At(t) => t,
        }
    }
}

/// Sizes on the drawing: from `base` times `min` to `base` times `max`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scale {
    /// Usual size on the drawing relative to the template: a number, 0.05..=20, or `auto`, the size at which most
    /// classes are found on each drawing, between a fifth and five times (with `method: ncc` the template as it is).
    /// Default `auto`.
    pub base: Base,
    /// Smallest size relative to the base, 0.05..=20. Default 0.8.
    pub min: f64,
    /// Largest size relative to the base, 0.05..=20. Default 1.25.
    pub max: f64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { base: Base::Auto, min: 0.8, max: 1.25 }
    }
}

/// A threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Threshold {
    /// The labeller's own.
    #[default]
    Auto,
    /// A score, 0..=1.
    At(f64),
}

/// The usual size on a drawing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Base {
    /// Found on each drawing.
    #[default]
    Auto,
    /// Relative to the template.
    At(f64),
}

/// Turns that are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rotations {
    /// As drawn only.
    None,
    /// Every this many degrees, 1..=180.
    Every(f64),
    /// Any angle.
    Any,
}

impl Settings {
    /// The poses of classes that have none of their own.
    pub fn poses_of_all(&self) -> ResolvedPoses {
        self.resolved(&ClassPoses::default())
    }

    /// The poses of a class.
    pub fn poses_of(&self, class: &str) -> ResolvedPoses {
        self.classes.get(class).map_or_else(|| self.poses_of_all(), |own| self.resolved(own))
    }

    fn resolved(&self, own: &ClassPoses) -> ResolvedPoses {
        ResolvedPoses {
            rotations: own.rotations.unwrap_or(self.rotations),
            mirror: own.mirror.unwrap_or(self.mirror),
            scale_min: own.scale.min.unwrap_or(self.scale.min),
            scale_max: own.scale.max.unwrap_or(self.scale.max),
            stretch: own.stretch.unwrap_or(self.stretch),
        }
    }

    /// The first setting out of its range: its name and what is wrong.
    pub fn fault(&self) -> Option<(String, String)> {
        let range = |key: String, v: f64, lo: f64, hi: f64| {
            let wrong = !(lo..=hi).contains(&v);
            wrong.then(|| (key, format!("{v} is not between {lo} and {hi}")))
        };
        let poses = |prefix: &str, p: &ResolvedPoses| {
            let key = |name: &str| format!("{prefix}{name}");
            range(key("scale.min"), p.scale_min, 0.05, 20.0)
                .or_else(|| range(key("scale.max"), p.scale_max, 0.05, 20.0))
                .or_else(|| range(key("stretch"), p.stretch, 1.0, 2.0))
                .or_else(|| {
                    let text = format!("{} is more than scale.max, {}", p.scale_min, p.scale_max);
                    (p.scale_min > p.scale_max).then(|| (key("scale.min"), text))
                })
        };
        range("nms_iou".into(), self.nms_iou, 0.0, 1.0)
            .or_else(|| poses("", &self.poses_of_all()))
            .or_else(|| self.classes.keys().find_map(|c| poses(&format!("classes.{c}."), &self.poses_of(c))))
            .or_else(|| range("scale_steps".into(), f64::from(self.scale_steps), 1.0, 100.0))
            .or_else(|| (self.max_pixels == 0).then(|| ("max_pixels".into(), "0 leaves every image out".into())))
    }
}

/// Turns, mirror images, sizes and stretch that hold for a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResolvedPoses {
    /// Turns that are tried.
    pub rotations: Rotations,
    /// Whether mirror images are tried.
    pub mirror: bool,
    /// Smallest size relative to the base.
    pub scale_min: f64,
    /// Largest size relative to the base.
    pub scale_max: f64,
    /// Largest factor by which width over height may differ from the template's.
    pub stretch: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Settings, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn words_and_numbers() {
        let s = parse(r#"{"thresholds":{"default":"auto","classes":{"valve":0.7}},"rotations":"any"}"#).unwrap();
        assert_eq!(s.thresholds.of("valve", 0.5), 0.7);
        assert_eq!(s.thresholds.of("pump", 0.5), 0.5);
        assert_eq!(s.rotations, Rotations::Any);
        assert_eq!(parse(r#"{"rotations":45}"#).unwrap().rotations, Rotations::Every(45.0));
        let again: Settings = serde_json::from_value(serde_json::to_value(&s).unwrap()).unwrap();
        assert_eq!(again, s);
    }

    #[test]
    fn bad_values_are_named() {
        for (json, part) in [
            (r#"{"thresholds":{"default":"high"}}"#, "`auto`, or a number from 0 to 1"),
            (r#"{"thresholds":{"default":1.5}}"#, "1.5"),
            (r#"{"rotations":0}"#, "`none`, `any`, or a number from 1 to 180"),
            (r#"{"treshold":0.5}"#, "treshold"),
            (r#"{"labeller":"magic"}"#, "magic"),
        ] {
            let e = parse(json).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
        assert_eq!(Settings { nms_iou: 2.0, ..Settings::default() }.fault().unwrap().0, "nms_iou");
        let scale = Scale { min: 2.0, max: 1.0, ..Scale::default() };
        assert_eq!(Settings { scale, ..Settings::default() }.fault().unwrap().0, "scale.min");
        assert!(Settings::default().fault().is_none());
    }

    #[test]
    fn classes_take_over_what_they_do_not_set() {
        let s = parse(
            r#"{"mirror":false,"scale":{"max":2},"classes":{"pump":{"rotations":"any","scale":{"min":1},"stretch":1}}}"#,
        )
        .unwrap();
        let all = ResolvedPoses {
            rotations: Rotations::Every(90.0),
            mirror: false,
            scale_min: 0.8,
            scale_max: 2.0,
            stretch: 1.3,
        };
        assert_eq!(s.poses_of("fan"), all);
        let pump = ResolvedPoses { rotations: Rotations::Any, scale_min: 1.0, stretch: 1.0, ..all };
        assert_eq!(s.poses_of("pump"), pump);
        assert!(s.fault().is_none());
        let again: Settings = serde_json::from_value(serde_json::to_value(&s).unwrap()).unwrap();
        assert_eq!(again, s);
    }

    #[test]
    fn bad_values_of_classes_are_named() {
        for (json, key) in [
            (r#"{"classes":{"pump":{"stretch":3}}}"#, "classes.pump.stretch"),
            (r#"{"classes":{"pump":{"scale":{"min":1.5}}}}"#, "classes.pump.scale.min"),
            (r#"{"classes":{"pump":{"scale":{"max":99}}}}"#, "classes.pump.scale.max"),
            (r#"{"scale_steps":0}"#, "scale_steps"),
        ] {
            assert_eq!(parse(json).unwrap().fault().unwrap().0, key);
        }
        // The base is that of the whole drawing.
        for json in
            [r#"{"classes":{"pump":{"scale":{"base":2}}}}"#, r#"{"classes":{"pump":{"turn":2}}}"#, r#"{"method":"cv"}"#]
        {
            assert!(parse(json).is_err(), "{json}");
        }
        assert_eq!(parse(r#"{"method":"ncc"}"#).unwrap().method, Method::Ncc);
    }
}
