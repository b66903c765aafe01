//! Templates as people make them: cut out of a drawing.
//!
//! Owns which instance is cut, how generously, and how it is turned. What was around the symbol stays in the picture:
//! stubs of pipes, letters, neighbours, the paper's grey. Refuses to clean.

use std::collections::BTreeMap;

use datasets::{Annotation, BBox, Pixels};
use image::{RgbImage, imageops};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::settings::{SettingsError, SynthSettings};
use crate::sheet::Drawer;
use crate::symbol::{self, Symbol};

/// Index of the first sheet that templates are cut from: no data set draws that many.
pub const CROPS_FROM: u64 = 1 << 40;
/// Sheets that are looked through for a class at most.
const MOST_SHEETS: u64 = 12;
/// Stream of the randomness of cutting; sheets count theirs from 0, and the last is taken.
const STREAM: u64 = u64::MAX - 1;

/// How templates are cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CropSettings {
    /// Exemplars of each class, 1 or more.
    pub exemplars: usize,
    /// Pixels of surroundings, `[least, most]`, drawn for each side; negative cuts into the symbol.
    pub margin: [f64; 2],
    /// Which instance.
    pub choice: Choice,
    /// Turns a cut picture back by quarters until its symbol is upright.
    pub upright: bool,
}

/// Which instance is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The first in the sheet's list, whatever its turn.
    First,
    /// The first of those that lie most nearly as in the legend: without a pipe across them, unmirrored, then upright.
    Upright,
}

impl Default for CropSettings {
    fn default() -> Self {
        Self { exemplars: 1, margin: [-0.5, 4.0], choice: Choice::Upright, upright: true }
    }
}

/// A template that was cut out.
#[derive(Clone, Debug)]
pub struct Crop {
    /// Its class.
    pub class: String,
    /// File name: `ball_valve.png`, further exemplars `ball_valve__2.png`.
    pub name: String,
    /// The picture.
    pub image: RgbImage,
    /// Index of the sheet that it is from; sheets of data sets are below [`CROPS_FROM`].
    pub sheet: u64,
    /// What was cut out of that sheet, in whole pixels.
    pub bbox: BBox<Pixels>,
    /// Quarter turns clockwise that were undone.
    pub quarters: u32,
}

/// Cuts `exemplars` templates of each class from sheets that no data set of the seed has; fewer of a class that is
/// rare there. Sorted by name.
pub fn crops(settings: &SynthSettings, seed: u64, exemplars: usize) -> Result<Vec<Crop>, SettingsError> {
    cut(settings, seed, &CropSettings { exemplars, ..CropSettings::default() })
}

/// Cuts templates as `how` says.
pub fn cut(settings: &SynthSettings, seed: u64, how: &CropSettings) -> Result<Vec<Crop>, SettingsError> {
    settings.check()?;
    Ok(cut_all(settings, &symbol::symbols(settings, seed)?, seed, how))
}

pub(crate) fn cut_all(settings: &SynthSettings, symbols: &[Symbol], seed: u64, how: &CropSettings) -> Vec<Crop> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(STREAM);
    let mut out: BTreeMap<&str, Vec<Crop>> = symbols.iter().map(|s| (s.name.as_str(), Vec::new())).collect();
    let drawer = Drawer::new(settings, symbols);
    for index in CROPS_FROM..CROPS_FROM + MOST_SHEETS {
        if out.values().all(|crops| crops.len() >= how.exemplars) {
            break;
        }
        let sheet = drawer.sheet(seed, index);
        for s in symbols {
            let crops = out.get_mut(s.name.as_str()).expect("every class has its list");
            let mut instances: Vec<&Annotation> =
                sheet.annotations.annotations.iter().filter(|a| a.class == s.name).collect();
            if how.choice == Choice::Upright {
                // The sort is stable: the first of the best comes first.
                instances.sort_by(|a, b| pose(a).total_cmp(&pose(b)));
            }
            for a in instances.into_iter().take(how.exemplars.saturating_sub(crops.len())) {
                crops.push(cut_one(&sheet.image, a, s, index, crops.len(), how, &mut rng));
            }
        }
    }
    let mut out: Vec<Crop> = out.into_values().flatten().collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn evidence(a: &Annotation, key: &str) -> f64 {
    a.provenance.evidence.get(key).copied().unwrap_or_default()
}

/// How far an instance is from the legend: crossed by a pipe, then mirrored, then degrees.
fn pose(a: &Annotation) -> f64 {
    let turn = evidence(a, "rotation").rem_euclid(360.0);
    (2.0 * evidence(a, "crossed") + evidence(a, "mirrored")) * 360.0 + turn.min(360.0 - turn)
}

fn cut_one(
    sheet: &RgbImage,
    a: &Annotation,
    symbol: &Symbol,
    index: u64,
    nth: usize,
    how: &CropSettings,
    rng: &mut ChaCha8Rng,
) -> Crop {
    let mut margin = || {
        let [least, most] = how.margin;
        if most > least { rng.random_range(least..most) } else { least }
    };
    let b = a.bbox;
    let [x0, y0, x1, y1] = [b.x0 - margin(), b.y0 - margin(), b.x1 + margin(), b.y1 + margin()];
    let edge = |v: f64, side: u32| v.round().clamp(0.0, f64::from(side)) as u32;
    let (x0, y0) = (edge(x0, sheet.width()), edge(y0, sheet.height()));
    let (x1, y1) = (edge(x1, sheet.width()).max(x0 + 1), edge(y1, sheet.height()).max(y0 + 1));
    let part = imageops::crop_imm(sheet, x0, y0, x1 - x0, y1 - y0).to_image();
    let quarters = if how.upright { ((evidence(a, "rotation") / 90.0).round() as i64).rem_euclid(4) as u32 } else { 0 };
    let image = match quarters {
        0 => part,
        1 => imageops::rotate270(&part),
        2 => imageops::rotate180(&part),
        _ => imageops::rotate90(&part),
    };
    let stem = symbol.file.trim_end_matches(".png");
    let name = if nth == 0 { symbol.file.clone() } else { format!("{stem}__{}.png", nth + 1) };
    let bbox = BBox::new(x0.into(), y0.into(), x1.into(), y1.into());
    Crop { class: symbol.name.clone(), name, image, sheet: index, bbox, quarters }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Rotation;

    fn small() -> SynthSettings {
        SynthSettings {
            width: 1000,
            height: 800,
            symbols: [20, 24],
            classes: vec!["ball valve".into(), "field plc instrument".into()],
            symbol_px: 48.0,
            ..SynthSettings::clean()
        }
    }

    #[test]
    fn every_class_is_cut_as_often_as_asked() {
        let cut = crops(&small(), 3, 3).unwrap();
        let names: Vec<&str> = cut.iter().map(|c| c.name.as_str()).collect();
        let valves = ["ball_valve.png", "ball_valve__2.png", "ball_valve__3.png"];
        assert_eq!(names[..3], valves);
        assert_eq!(names.len(), 6);
        let again = crops(&small(), 3, 3).unwrap();
        assert!(cut.iter().zip(&again).all(|(a, b)| a.image == b.image && a.bbox == b.bbox));
        let other = crops(&small(), 4, 3).unwrap();
        assert!(cut.iter().zip(&other).any(|(a, b)| a.image != b.image));
    }

    #[test]
    fn a_turned_symbol_is_turned_back() {
        let how = CropSettings { margin: [0.0, 0.0], choice: Choice::First, exemplars: 8, ..CropSettings::default() };
        let cut = super::cut(&small(), 5, &how).unwrap();
        let valves: Vec<&Crop> = cut.iter().filter(|c| c.class == "ball valve").collect();
        assert!(valves.iter().any(|c| c.quarters % 2 == 1), "no turned one among them");
        for c in valves {
            assert!(c.image.width() > c.image.height(), "{:?} {}", c.image.dimensions(), c.quarters);
        }
    }

    #[test]
    fn the_upright_one_is_chosen() {
        let s = SynthSettings { rotation: Rotation::Quarter, mirror: 0.5, ..small() };
        for c in crops(&s, 1, 1).unwrap() {
            assert_eq!(c.quarters, 0, "{}", c.name);
        }
    }

    #[test]
    fn what_a_pipe_crosses_is_left_where_there_is_another() {
        let s = SynthSettings { crossing: 0.5, ..small() };
        let mut crossed = 0;
        for c in crops(&s, 1, 1).unwrap() {
            let sheet = crate::sheet(&s, 1, c.sheet).unwrap();
            let of_class = || sheet.annotations.annotations.iter().filter(|a| a.class == c.class);
            let cut = of_class().find(|a| a.bbox.iou(&c.bbox) > 0.5).unwrap();
            assert_eq!(evidence(cut, "crossed"), 0.0, "{}", c.name);
            crossed += of_class().filter(|a| evidence(a, "crossed") > 0.0).count();
        }
        assert!(crossed > 0, "no pipe crosses anything");
    }
}
