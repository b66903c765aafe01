//! Settings of the `infer` stage.

use std::borrow::Cow;
use std::fmt;

use datasets::eval::EvalSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vision::detector::{DetectSettings, DetectorInfo};
use vision::tiles::Cut;

/// Whether big drawings are cut into tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tile {
    /// As the model was trained.
    #[default]
    Auto,
    /// Never: every picture is scaled to the network's input.
    Off,
    /// Tiles of this side, in pixels of the picture.
    Side(u32),
}

impl Serialize for Tile {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::Off => s.serialize_str("off"),
            Self::Side(n) => s.serialize_u32(*n),
        }
    }
}

impl<'de> Deserialize<'de> for Tile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Tile;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`auto`, `off` or the side of a tile in pixels, at least 64")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Tile, E> {
                match v {
                    "auto" => Ok(Tile::Auto),
                    "off" => Ok(Tile::Off),
                    _ => v
                        .parse()
                        .map_err(|_| E::invalid_value(de::Unexpected::Str(v), &self))
                        .and_then(|n| self.visit_u64(n)),
                }
            }
            // YAML 1.1 readers take `off` for a boolean.
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Tile, E> {
                if v { Ok(Tile::Auto) } else { Ok(Tile::Off) }
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Tile, E> {
                u64::try_from(v)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(v), &self))
                    .and_then(|n| self.visit_u64(n))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Tile, E> {
                match u32::try_from(v) {
                    Ok(n @ 64..=65_536) => Ok(Tile::Side(n)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(v), &self)),
                }
            }
        }
        d.deserialize_any(Words)
    }
}

impl JsonSchema for Tile {
    fn schema_name() -> Cow<'static, str> {
        "Tile".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["auto", "off"] }, { "type": "integer", "minimum": 64, "maximum": 65536 }] })
    }
}

/// Which weights of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Of the best epoch.
    #[default]
    Best,
    /// Of the last epoch.
    Last,
}

/// Settings of the `infer` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Lowest confidence of a box, 0..=1. Default 0.25, the YOLO family's.
    pub conf: f64,
    /// Of two boxes of a class that overlap by more than this (intersection over union, 0..=1) the weaker is dropped.
    /// Default 0.7, the YOLO family's.
    pub iou: f64,
    /// Most boxes of a picture, of a tile for tiled drawings; at least 1. Default 300, the YOLO family's.
    pub max_det: usize,
    /// Whether big drawings are cut into tiles: `auto` (as the model was trained), `off`, or the side of a tile in pixels
    /// of the drawing (64 to 65536). Default auto.
    pub tile: Tile,
    /// Share of a tile that neighbours have in common, 0 to 0.8, where the model does not tell its own. Objects up to
    /// that size are whole in one tile. Default 0.2.
    pub tile_overlap: f64,
    /// Which weights: `best` or `last`. Default best.
    pub weights: Weights,
    /// Whether annotated pictures are written. Default true.
    pub pictures: bool,
    /// Longer side of annotated pictures in pixels, at most; 0 for no limit. Default 4000: labels stay readable on big
    /// drawings.
    pub picture_side: u32,
    /// Lowest confidence that counts in AP when truth is given, 0..=1. Default 0.001, as is usual.
    pub eval_conf: f64,
    /// Overlap (IoU) from which a box hits the truth in the counts and the lists of mistakes. Default 0.5.
    pub eval_iou: f64,
    /// Images with more pixels than this are left out, unread. Default 500,000,000, an A0 sheet at 560 dpi.
    pub max_pixels: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let detect = DetectSettings::default();
        Self {
            conf: detect.conf,
            iou: detect.iou,
            max_det: detect.max_det,
            tile: Tile::Auto,
            tile_overlap: 0.2,
            weights: Weights::Best,
            pictures: true,
            picture_side: 4000,
            eval_conf: 0.001,
            eval_iou: EvalSettings::default().iou,
            max_pixels: 500_000_000,
        }
    }
}

impl Settings {
    /// The first setting that is out of range, with the range.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let unit = |v: f64| (0.0..=1.0).contains(&v);
        let says = |v: &dyn fmt::Display, range: &str| Some(format!("{v} is out of range: {range}"));
        let fault = match () {
            () if !unit(self.conf) => ("conf", says(&self.conf, "0 to 1")),
            () if !unit(self.iou) => ("iou", says(&self.iou, "0 to 1")),
            () if self.max_det == 0 => ("max_det", says(&0, "at least 1")),
            () if !(0.0..=0.8).contains(&self.tile_overlap) => ("tile_overlap", says(&self.tile_overlap, "0 to 0.8")),
            () if !unit(self.eval_conf) => ("eval_conf", says(&self.eval_conf, "0 to 1")),
            () if !unit(self.eval_iou) => ("eval_iou", says(&self.eval_iou, "0 to 1")),
            () => return None,
        };
        fault.1.map(|message| (fault.0, message))
    }

    /// How a picture of this size is shown to the model.
    pub fn cut(&self, model: &DetectorInfo, picture: (u32, u32)) -> Cut {
        let input = f64::from(model.input);
        match self.tile {
            Tile::Off => Cut::Whole,
            Tile::Side(side) => {
                Cut::Tiles { scale: input / f64::from(side), overlap: (input * self.tile_overlap).round() as u32 }
            }
            Tile::Auto => model.cut_for(picture, self.tile_overlap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tile_is_a_word_or_a_number() {
        for (text, want) in [
            ("\"auto\"", Tile::Auto),
            ("\"off\"", Tile::Off),
            ("false", Tile::Off),
            ("640", Tile::Side(640)),
            ("\"960\"", Tile::Side(960)),
        ] {
            assert_eq!(serde_json::from_str::<Tile>(text).unwrap(), want);
        }
        for text in ["\"sometimes\"", "3", "-640", "70000", "[]"] {
            let e = serde_json::from_str::<Tile>(text).unwrap_err().to_string();
            assert!(e.contains("`off`"), "{text}: {e}");
        }
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(Settings::default().fault(), None);
        assert_eq!(Settings { conf: 2.0, ..Settings::default() }.fault().unwrap().0, "conf");
        assert_eq!(Settings { iou: f64::NAN, ..Settings::default() }.fault().unwrap().0, "iou");
        assert_eq!(Settings { max_det: 0, ..Settings::default() }.fault().unwrap().0, "max_det");
    }

    #[test]
    fn auto_follows_the_training() {
        let model = |cut, scale| DetectorInfo {
            network: "yolov8n".into(),
            model: String::new(),
            device: "cpu".into(),
            provider: "native".into(),
            input: 640,
            cut,
            scale,
            licence: None,
        };
        let s = Settings::default();
        let tiles = Cut::Tiles { scale: 1.0, overlap: 96 };
        assert_eq!(s.cut(&model(tiles, None), (300, 200)), tiles);
        assert_eq!(s.cut(&model(Cut::Whole, None), (7000, 5000)), Cut::Whole);
        assert_eq!(s.cut(&model(Cut::Whole, Some(0.5)), (1300, 900)), Cut::Whole);
        assert_eq!(s.cut(&model(Cut::Whole, Some(0.5)), (7000, 5000)), Cut::Tiles { scale: 0.5, overlap: 128 });
        let side = Settings { tile: Tile::Side(1280), ..Settings::default() };
        assert_eq!(side.cut(&model(tiles, None), (300, 200)), Cut::Tiles { scale: 0.5, overlap: 128 });
        assert_eq!(Settings { tile: Tile::Off, ..s }.cut(&model(tiles, None), (7000, 5000)), Cut::Whole);
    }
}
