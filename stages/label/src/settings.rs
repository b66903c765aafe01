//! What can be set about labelling.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    /// their classes. Default 0.5, the overlap from which two boxes count as the same object everywhere here.
    pub nms_iou: f64,
    /// Template matching: turns that are tried: `none`, a number of degrees between turns (1 to 180), or `any`.
    /// Default 90.
    pub rotations: Rotations,
    /// Template matching: whether mirror images are tried. Default true.
    pub mirror: bool,
    /// Template matching: sizes of symbols on the drawing relative to their templates.
    pub scale: Scale,
    /// Template matching: largest factor by which a symbol's width over height may differ from its template's, 1..=2 (1:
    /// none). Default 1.15: drawing programs fit symbols to grids.
    pub stretch: f64,
    /// Images with more pixels than this are left out, unread. Default 500,000,000, an A0 sheet at 560 dpi.
    pub max_pixels: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            labeller: Choice::Auto,
            thresholds: Thresholds::default(),
            nms_iou: 0.5,
            rotations: Rotations::Every(90.0),
            mirror: true,
            scale: Scale::default(),
            stretch: 1.15,
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

/// Scores that boxes must reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// For every class: `auto` or a number, 0..=1. Default `auto`: template matching 0.3 (from
    /// which matches on generated drawings are more often right than wrong), a detector 0.25, imported labels 0 (all).
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
    /// classes are found on each drawing, between a fifth and five times. Default `auto`.
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

/// A setting that is a number or one of a few words.
trait WordOrNumber: Sized {
    const WORDS: &'static [&'static str];
    /// Lowest and highest number.
    const RANGE: [f64; 2];
    fn number(v: f64) -> Self;
    fn word(word: &str) -> Option<Self>;
}

impl WordOrNumber for Threshold {
    const WORDS: &'static [&'static str] = &["auto"];
    const RANGE: [f64; 2] = [0.0, 1.0];
    fn number(v: f64) -> Self {
        Self::At(v)
    }
    fn word(word: &str) -> Option<Self> {
        (word == "auto").then_some(Self::Auto)
    }
}

impl WordOrNumber for Base {
    const WORDS: &'static [&'static str] = &["auto"];
    const RANGE: [f64; 2] = [0.05, 20.0];
    fn number(v: f64) -> Self {
        Self::At(v)
    }
    fn word(word: &str) -> Option<Self> {
        (word == "auto").then_some(Self::Auto)
    }
}

impl WordOrNumber for Rotations {
    const WORDS: &'static [&'static str] = &["none", "any"];
    const RANGE: [f64; 2] = [1.0, 180.0];
    fn number(v: f64) -> Self {
        Self::Every(v)
    }
    fn word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
}

/// Reads a [`WordOrNumber`].
struct Reader<T>(std::marker::PhantomData<T>);

impl<T: WordOrNumber> Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for w in T::WORDS {
            write!(f, "`{w}`, ")?;
        }
        write!(f, "or a number from {} to {}", T::RANGE[0], T::RANGE[1])
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
        T::word(v).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<T, E> {
        if (T::RANGE[0]..=T::RANGE[1]).contains(&v) {
            Ok(T::number(v))
        } else {
            Err(E::invalid_value(de::Unexpected::Float(v), &self))
        }
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
        self.visit_f64(v as f64)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
        self.visit_f64(v as f64)
    }
}

fn schema<T: WordOrNumber>() -> Schema {
    json_schema!({
        "anyOf": [{ "enum": T::WORDS }, { "type": "number", "minimum": T::RANGE[0], "maximum": T::RANGE[1] }]
    })
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Reader(std::marker::PhantomData))
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::At(v) => s.serialize_f64(*v),
        }
    }
}

impl JsonSchema for Threshold {
    fn schema_name() -> Cow<'static, str> {
        "Threshold".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema::<Self>()
    }
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Reader(std::marker::PhantomData))
    }
}

impl Serialize for Base {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::At(v) => s.serialize_f64(*v),
        }
    }
}

impl JsonSchema for Base {
    fn schema_name() -> Cow<'static, str> {
        "Base".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema::<Self>()
    }
}

impl<'de> Deserialize<'de> for Rotations {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Reader(std::marker::PhantomData))
    }
}

impl Serialize for Rotations {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => s.serialize_str("none"),
            Self::Any => s.serialize_str("any"),
            Self::Every(v) => s.serialize_f64(*v),
        }
    }
}

impl JsonSchema for Rotations {
    fn schema_name() -> Cow<'static, str> {
        "Rotations".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema::<Self>()
    }
}

impl Settings {
    /// The first setting out of its range: its name and what is wrong.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let range = |v: f64, lo: f64, hi: f64| {
            let wrong = !(lo..=hi).contains(&v);
            wrong.then(|| format!("{v} is not between {lo} and {hi}"))
        };
        let faults = [
            ("nms_iou", range(self.nms_iou, 0.0, 1.0)),
            ("scale.min", range(self.scale.min, 0.05, 20.0)),
            ("scale.max", range(self.scale.max, 0.05, 20.0)),
            ("stretch", range(self.stretch, 1.0, 2.0)),
        ];
        if let Some((key, Some(message))) = faults.into_iter().find(|f| f.1.is_some()) {
            return Some((key, message));
        }
        if self.scale.min > self.scale.max {
            return Some(("scale.min", format!("{} is more than scale.max, {}", self.scale.min, self.scale.max)));
        }
        (self.max_pixels == 0).then(|| ("max_pixels", "0 leaves every image out".to_owned()))
    }
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
}
