//! Trains `symbols-n`, the starting weights for drawings: YOLOv8n on drawings of random symbols that nobody labelled.
//!
//! Owns the recipe of these weights: which drawings, how many, which settings. The same commit and seed give the same
//! bytes on any number of threads. A training that is stopped goes on where it was when it is started again.
//!
//! ```text
//! cargo run --release -p train --example symbols_n -- FOLDER [SAMPLES_AN_EPOCH EPOCHS]
//! ```
//!
//! The folder gets `symbols-n.safetensors` (16-bit), the table of the training, and its checkpoints; the file is kept in
//! `stages/train/weights/`.
//!
//! Hundreds of different symbols share 64 classes, so that no class is one shape: what the layers learn is to tell
//! strokes, outlines, fillings and text apart, and not one library. Pages differ in line width, scale, noise, paper and
//! colours. Each sample is drawn when it is needed and never stored.
#![expect(clippy::print_stderr, reason = "a program of its own, whose progress goes to the terminal")]

use std::{
    collections::BTreeMap,
    error::Error,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Instant,
};

use engine::{Level, StageError, Store};
use image::imageops;
use rand::RngExt as _;
use synth::{Drawer, Palette, Rotation, Set, SynthSettings, symbol::Symbol};
use train::{
    Config,
    assigner::Truth,
    augment::{Augment, Source, View, random},
    optimizer::Choice,
    results::{self, Measured, Row},
    trainer::{Job, Measure, Observer, Tick},
};
use vision::yolov8::{Backend, Native, Size, Spec, native::Precision};

/// Classes that the symbols are dealt to. As many as the class branch of the smallest network is wide.
const CLASSES: usize = 64;
/// Side of a sample, pixels.
const SIDE: u32 = 320;
/// Side of the sheet that it is cut from, pixels: symbols are cut by the rim as in tiles of a large drawing.
const SHEET: u32 = 512;
/// Share of a symbol that must be inside of a sample.
const LEAST_INSIDE: f64 = 0.4;
/// Sets of symbols.
const WORLDS: u64 = 24;
/// Symbols of random strokes that a set has to itself.
const WILD: u32 = 40;
/// Symbols of all sets beside the library's: combined of parts, and told apart by their letters.
const INVENTED: u32 = 120;
const LETTERED: u32 = 12;
/// Start of all randomness.
const SEED: u64 = 20_260_101;
/// Samples an epoch and epochs when not given.
const DEFAULT: [usize; 2] = [10_000, 12];

/// A set of symbols and the look of the sheets that show them.
struct World {
    settings: SynthSettings,
    symbols: Vec<Symbol>,
    /// Class of each symbol, by name.
    classes: BTreeMap<String, usize>,
}

impl World {
    fn new(number: u64) -> Result<Self, Box<dyn Error>> {
        let sets = [Set::A, Set::C, Set::D, Set::E, Set::B, Set::Electrical];
        let base = sets[(number % sets.len() as u64) as usize].settings();
        let size = base.symbol_px;
        let settings = SynthSettings {
            width: SHEET,
            height: SHEET,
            symbols: [8, 22],
            invented: INVENTED,
            lettered: LETTERED,
            // From symbols that can just be read to large ones.
            sheet_scale: [22.0 / size, 64.0 / size],
            rotation: if number % 5 == 4 { Rotation::Any } else { base.rotation },
            mirror: 0.3,
            palette: match number % 8 {
                5 => Palette::Inverted,
                6 => Palette::Coloured,
                7 => Palette::Blueprint,
                _ => Palette::Grey,
            },
            whole_pixels: number % 3 == 2,
            ..base
        };
        settings.check()?;
        // What several worlds show is the same class in each.
        let common = synth::symbol::symbols(&settings, SEED)?;
        let wild = SynthSettings { library: false, wild: WILD, invented: 0, lettered: 0, ..settings.clone() };
        let wild = synth::symbol::symbols(&wild, SEED + number)?;
        let dealt = |name: &str| {
            name.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(b))) % CLASSES
        };
        let own = |s: &Symbol| (s.name.clone(), dealt(&format!("{} of {number}", s.name)));
        let classes = common.iter().map(|s| (s.name.clone(), dealt(&s.name))).chain(wild.iter().map(own)).collect();
        Ok(Self { settings, symbols: common.into_iter().chain(wild).collect(), classes })
    }

    fn class_of(&self, name: &str) -> usize {
        *self.classes.get(name).expect("a sheet shows the world's symbols")
    }
}

/// Samples without end: as many as are asked for.
struct Drawings<'a> {
    worlds: Vec<(&'a World, Drawer<'a>)>,
    count: usize,
}

impl<'a> Drawings<'a> {
    fn new(worlds: &'a [World], count: usize) -> Self {
        Self { worlds: worlds.iter().map(|w| (w, Drawer::new(&w.settings, &w.symbols))).collect(), count }
    }
}

impl Source for Drawings<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn view(&self, index: usize) -> Result<View, StageError> {
        self.view_in(0, index)
    }

    fn view_in(&self, epoch: usize, index: usize) -> Result<View, StageError> {
        let index = (epoch * self.count + index) as u64;
        let number = index % WORLDS;
        let (world, drawer) = &self.worlds[number as usize];
        let (sheet, symbols) = drawer.picture(SEED + number, index);
        let mut rng = random(SEED, index, 0, 0);
        let [left, top] = [0, 1].map(|_| rng.random_range(0..=SHEET - SIDE));
        let rgb = imageops::crop_imm(&sheet, left, top, SIDE, SIDE).to_image();
        let inside =
            |low: f64, high: f64, from: u32| [low, high].map(|v| (v - f64::from(from)).clamp(0.0, f64::from(SIDE)));
        let objects = symbols.iter().filter_map(|a| {
            let b = &a.bbox;
            let ([x0, x1], [y0, y1]) = (inside(b.x0, b.x1, left), inside(b.y0, b.y1, top));
            let share = (x1 - x0) * (y1 - y0) / b.area();
            let bbox = [x0, y0, x1, y1].map(|v| v as f32);
            (share >= LEAST_INSIDE).then(|| Truth { class: world.class_of(&a.class), bbox })
        });
        Ok(View { rgb, objects: objects.collect() })
    }
}

/// Nothing is held back: no sample comes twice.
struct Unmeasured;

impl Measure for Unmeasured {
    fn measure(&self, _: &mut dyn Backend) -> Result<Option<Measured>, StageError> {
        Ok(None)
    }
}

struct Terminal {
    last: Mutex<Instant>,
}

impl Observer for Terminal {
    fn batch(&self, t: &Tick) -> Result<(), StageError> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed().as_secs() >= 30 {
            *last = Instant::now();
            eprintln!(
                "epoch {} batch {}/{} box {:.3} class {:.3} dfl {:.3}, {:.1} images/s",
                t.epoch + 1,
                t.batch,
                t.batches,
                t.loss.bbox,
                t.loss.cls,
                t.loss.dfl,
                t.images_per_s
            );
        }
        Ok(())
    }

    fn epoch(&self, row: &Row) -> Result<(), StageError> {
        let l = row.loss;
        eprintln!("epoch {} is over: box {:.4} class {:.4} dfl {:.4}", row.epoch, l.bbox, l.cls, l.dfl);
        Ok(())
    }

    fn note(&self, _: Level, text: String) {
        eprintln!("{text}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder: PathBuf = arguments.next().ok_or("which folder?")?.into();
    let numbers: Vec<usize> = arguments.map(|a| a.parse()).collect::<Result<_, _>>()?;
    let number = |k: usize| numbers.get(k).copied().unwrap_or(DEFAULT[k]);
    let config = Config {
        epochs: number(1),
        imgsz: SIDE,
        batch: 16.into(),
        nominal_batch: 16,
        optimizer: Choice::AdamW,
        lr0: 0.001,
        momentum: 0.9,
        warmup_epochs: 0.3,
        warmup_bias_lr: 0.0,
        patience: 0,
        // Every sample is new: it need not be made of four.
        augment: Augment { mosaic: 0.0, scale: Some(0.25), ..Augment::default() },
        seed: SEED,
        ..Config::default()
    };
    let worlds = (0..WORLDS).map(World::new).collect::<Result<Vec<_>, _>>()?;
    let drawings = Drawings::new(&worlds, number(0));
    let spec = Spec { size: Size::N, classes: CLASSES };
    let job = Job {
        config: &config,
        source: &drawings,
        measure: &Unmeasured,
        network: &|| Ok(Box::new(Native::new(spec, SEED).with_precision(Precision::Bf16)) as Box<dyn Backend>),
        store: &Store::open(folder.join("store"))?,
        scratch: &folder.join("checkpoints"),
        workers: 1,
        class_weights: &[],
        available: &train::memory::available,
    };
    let finished = job.run(&Terminal { last: Mutex::new(Instant::now()) })?;
    let mut state = finished.last;
    // Names that no class of anybody's has: only the layers below the classes are of use.
    let names: Vec<String> = (0..CLASSES).map(|n| format!("symbols-n {n}")).collect();
    state.metadata.insert("classes".into(), serde_json::to_string(&names)?);
    state.metadata.insert("imgsz".into(), SIDE.to_string());
    let half = state.to_half_bytes()?;
    eprintln!("BLAKE3 {}", engine::Digest::of(&half));
    write(&folder.join("symbols-n.safetensors"), &half)?;
    write(&folder.join("results.csv"), results::csv(&finished.rows).as_bytes())?;
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_drawn_again_alike_and_boxes_hold_ink() {
        let worlds: Vec<World> = (0..WORLDS).map(|n| World::new(n).unwrap()).collect();
        let drawings = Drawings::new(&worlds, 48);
        let mut objects = 0;
        for index in 0..48 {
            let view = drawings.view_in(2, index).unwrap();
            assert_eq!(view, drawings.view_in(2, index).unwrap());
            assert_ne!(view.rgb, drawings.view_in(3, index).unwrap().rgb, "every epoch has its own");
            assert_eq!(view.rgb.dimensions(), (SIDE, SIDE));
            objects += view.objects.len();
        }
        assert!(objects > 150, "{objects} objects on 48 samples");
    }
}
