//! Named sets of drawings that the matcher is measured on.
//!
//! Owns their settings. Refuses to draw and to judge.

use std::fmt;
use std::str::FromStr;

use crate::crops::CropSettings;
use crate::dataset::Templates;
use crate::settings::{Rotation, SynthSettings, Trade};

/// A benchmark set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Clean drawings: quarter turns, scale .8 to 1.25, lines .8 to 1.3 times as wide as in the templates.
    A,
    /// Any angle, half of the symbols mirrored.
    B,
    /// Scanned: grey paper, skew, blur, grain, specks, JPEG 60.
    C,
    /// Scale .5 to 1.5, lines .5 to 2 times as wide; every second drawing scanned.
    D,
    /// 7000 x 5000 pixels with 200 symbols.
    L,
    /// Templates cut from a drawing: grey paper, stretched symbols, uneven lines, letters that touch, JPEG.
    E,
    /// Electrical schematics of symbols of 15 to 60 pixels, every second one a coarse scan.
    Electrical,
}

/// No set has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no set `{name}`; there are {}", Set::names())]
pub struct UnknownSet {
    /// What was asked for.
    pub name: String,
}

impl Set {
    /// All sets, in the order of reports.
    pub const ALL: [Self; 7] = [Self::A, Self::B, Self::C, Self::D, Self::L, Self::E, Self::Electrical];
    /// Drawings of a set in reports.
    pub const SHEETS: u64 = 16;

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
            Self::L => "L",
            Self::E => "E",
            Self::Electrical => "electrical",
        }
    }

    /// What is hard about it, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::A => "clean",
            Self::B => "any angle, mirrored",
            Self::C => "scanned, JPEG 60",
            Self::D => "scale .5-1.5, stroke .5-2",
            Self::L => "7000x5000",
            Self::E => "templates cut from a drawing",
            Self::Electrical => "electrical schematics",
        }
    }

    /// True when the templates are cut from a drawing of the set instead of drawn cleanly.
    pub fn has_crops(self) -> bool {
        self == Self::E
    }

    /// Where its templates are from: `exemplars` of each class where they are cut out.
    pub fn templates(self, exemplars: usize) -> Templates {
        if self.has_crops() {
            Templates::Cut(CropSettings { exemplars, ..CropSettings::default() })
        } else {
            Templates::Legend
        }
    }

    /// What its drawings look like.
    pub fn settings(self) -> SynthSettings {
        // As in the library's drawings: 3 units of 96 wide, 2 pixels at 64 pixels a symbol.
        let clean = SynthSettings {
            stroke: [2.0, 2.0],
            stroke_spread: [0.8, 1.3],
            crossing: 0.12,
            lookalikes: 0.35,
            touching: 0.12,
            clutter: 0.6,
            ..SynthSettings::clean()
        };
        let scan = SynthSettings { stroke: clean.stroke, ..SynthSettings::scanned() };
        let scanned = SynthSettings {
            paper: scan.paper,
            ink: scan.ink,
            skew: scan.skew,
            blur: scan.blur,
            noise: scan.noise,
            speckle: scan.speckle,
            jpeg_quality: scan.jpeg_quality,
            ..clean.clone()
        };
        match self {
            Self::A => clean,
            Self::B => SynthSettings { rotation: Rotation::Any, mirror: 0.5, ..clean },
            Self::C => scanned,
            Self::D => SynthSettings { scale: [0.5, 1.5], stroke_spread: [0.5, 2.0], scan_share: 0.5, ..scanned },
            Self::L => SynthSettings { width: 7000, height: 5000, symbols: [200, 200], ..clean },
            Self::E => SynthSettings {
                symbol_px: 58.0,
                scale: [0.9, 1.12],
                aspect: [0.82, 1.22],
                mirror: 0.3,
                stroke: [1.5, 2.4],
                stroke_spread: [0.7, 1.4],
                letters: [0.9, 1.45],
                tags: 0.85,
                touching: 0.4,
                paper: [195, 235],
                ink: [0, 60],
                blur: 0.5,
                noise: 3.0,
                jpeg_quality: Some(80),
                ..clean
            },
            Self::Electrical => SynthSettings {
                trade: Trade::Electrical,
                width: 1800,
                height: 1300,
                symbols: [100, 150],
                symbol_px: 60.0,
                sheet_scale: [0.65, 1.3],
                scale: [0.94, 1.06],
                aspect: [0.94, 1.08],
                mirror: 0.3,
                stroke: [1.4, 2.0],
                stroke_spread: [0.9, 1.15],
                letters: [0.85, 1.2],
                tags: 0.9,
                clutter: 0.15,
                blur: 0.7,
                scan_share: 0.5,
                ..scanned
            },
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Set {
    type Err = UnknownSet;

    /// Upper and lower case are the same.
    fn from_str(name: &str) -> Result<Self, UnknownSet> {
        let found = Self::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownSet { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_allowed_and_found_by_its_name() {
        for set in Set::ALL {
            assert_eq!(set.settings().check(), Ok(()), "{set}");
            assert_eq!(set.name().to_lowercase().parse(), Ok(set));
        }
        let e = "Z".parse::<Set>().unwrap_err();
        assert_eq!(e.to_string(), "no set `Z`; there are A, B, C, D, L, E, electrical");
    }
}
