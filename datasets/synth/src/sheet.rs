//! One sheet, from a seed and an index.
//!
//! Owns the order in which a sheet is drawn, which is part of what a seed means.

use datasets::{Annotation, BBox, ImageAnnotations};
use image::{DynamicImage, RgbImage};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::canvas::Canvas;
use crate::draft::Draft;
use crate::likeness::Likeness;
use crate::scan;
use crate::settings::{Palette, SettingsError, SynthSettings, Trade};
use crate::symbol::{Role, Symbol, symbols};
use crate::{clutter, dress};

/// A drawn sheet.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// The picture, as its file decodes.
    pub image: RgbImage,
    /// The picture's file: PNG, or JPEG when the settings say so.
    pub file: Vec<u8>,
    /// What is on it.
    pub annotations: ImageAnnotations,
}

/// Draws sheet `index` of `seed`. The same arguments give the same bytes, whatever else is drawn before or beside.
pub fn sheet(settings: &SynthSettings, seed: u64, index: u64) -> Result<Sheet, SettingsError> {
    settings.check()?;
    Ok(Drawer::new(settings, &symbols(settings, seed)?).sheet(seed, index))
}

/// Draws sheets of the same symbols.
pub struct Drawer<'a> {
    pub(crate) settings: &'a SynthSettings,
    symbols: &'a [Symbol],
    /// Names of the unlisted symbols that look like a listed one.
    alike: Vec<String>,
}

impl<'a> Drawer<'a> {
    /// For settings that were [checked](SynthSettings::check).
    pub fn new(settings: &'a SynthSettings, symbols: &'a [Symbol]) -> Self {
        Self { settings, symbols, alike: if settings.clutter > 0.0 { alike(symbols) } else { Vec::new() } }
    }

    /// Sheet `index` of `seed`.
    pub fn sheet(&self, seed: u64, index: u64) -> Sheet {
        let s = self.settings;
        let Drawn { picture, quality, truth } = self.drawn(seed, index);
        let file = scan::encode(&picture, quality);
        let image = if quality.is_some() { scan::decode(&file) } else { picture };
        let extension = if quality.is_some() { "jpg" } else { "png" };
        let annotations = ImageAnnotations {
            image: format!("sheet_{index:04}.{extension}"),
            digest: blake3::hash(&file).to_hex().to_string(),
            width: s.width,
            height: s.height,
            split: None,
            annotations: truth,
        };
        Sheet { image: image.into_rgb8(), file, annotations }
    }

    /// Its picture and what is on it, without a file.
    pub fn picture(&self, seed: u64, index: u64) -> (RgbImage, Vec<Annotation>) {
        let Drawn { picture, quality, truth } = self.drawn(seed, index);
        let picture = if quality.is_some() { scan::decode(&scan::encode(&picture, quality)) } else { picture };
        (picture.into_rgb8(), truth)
    }

    pub(crate) fn drawn(&self, seed: u64, index: u64) -> Drawn {
        let (s, symbols) = (&*self.settings.of_sheet(index), self.symbols);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let degrees = if s.skew > 0.0 { rng.random_range(-s.skew..=s.skew) } else { 0.0 };
        let pen = rng.random_range(s.stroke[0]..=s.stroke[1]);
        let [small, large] = s.sheet_scale;
        let size = if large > small { rng.random_range(small..large) } else { small };
        let u = s.symbol_px * size;
        let edge = 0.75 * u;
        let canvas = Canvas::new(s.width, s.height, degrees);
        let mut d = Draft {
            s,
            rng,
            canvas: if s.palette == Palette::Coloured { canvas.with_inks() } else { canvas },
            u,
            pen: pen * size,
            inner: BBox::new(edge, edge, f64::from(s.width) - edge, f64::from(s.height) - edge),
            solid: Vec::new(),
            runs: Vec::new(),
            placed: Vec::new(),
            truth: Vec::new(),
            alike: &self.alike,
            dashes_are_listed: symbols.iter().any(|s| s.name.contains("electrical")),
        };
        let wanted = wanted(&mut d, symbols);
        d.frame();
        let clutter = (wanted.len() as f64 * s.clutter).round() as usize;
        match s.trade {
            Trade::Piping => d.piping(symbols, &wanted, clutter),
            Trade::Electrical => d.schematic(symbols, &wanted),
        }
        d.canvas.ink(7);
        d.clutter(clutter);

        let Draft { canvas, truth, mut rng, .. } = d;
        let (coverage, inks) = canvas.into_coverage();
        Drawn { picture: scan::develop(coverage, &inks, s, &mut rng), quality: s.jpeg_quality, truth }
    }
}

/// A sheet before it is a file.
pub(crate) struct Drawn {
    /// Grey, or red, green and blue, as the palette is.
    pub picture: DynamicImage,
    /// The quality that it is to be written with.
    pub quality: Option<u8>,
    pub truth: Vec<Annotation>,
}

/// The unlisted symbols that an invented class happens to be. The library's and wild ones are made to differ.
fn alike(symbols: &[Symbol]) -> Vec<String> {
    let invented: Vec<Likeness> = symbols.iter().filter(|s| s.name.starts_with("invented")).map(Likeness::of).collect();
    if invented.is_empty() {
        return Vec::new();
    }
    let all = dress::unlisted().chain(clutter::lookalikes());
    let is_listed = |s: &&Symbol| {
        let unlisted = Likeness::of(s);
        !invented.iter().all(|i| i.differs(&unlisted))
    };
    all.filter(is_listed).map(|s| s.name.clone()).collect()
}

impl Draft<'_> {
    /// Draws pipes, what is in them and what belongs to them.
    fn piping(&mut self, symbols: &[Symbol], wanted: &[usize], clutter: usize) {
        let (s, u) = (self.s, self.u);
        let of = |role: Role| wanted.iter().filter(move |n| symbols[**n].role == role);
        let inline = of(Role::Inline).count();
        let cells = f64::from(s.width) * f64::from(s.height) / (u * u);
        let vessels = (cells / 130.0).round().clamp(1.0, 12.0) as usize;
        self.canvas.ink(1);
        let nozzles = self.vessels(vessels);
        self.lay_pipes(3 + inline / 3 + wanted.len() / 8, &nozzles);
        for role in [Role::Inline, Role::Balloon, Role::Line, Role::Free] {
            for &n in of(role) {
                self.place(&symbols[n], true);
            }
        }
        self.unlisted((wanted.len() as f64 * s.distractors).round() as usize);
        self.lookalikes(clutter / 6);
        self.draw_pipes();
        self.finish_ends();
        self.cross_symbols();
        self.canvas.ink(0);
        self.label_pipes();
        self.tags();
    }
}

/// Which symbols the sheet gets: every class as often as any other, give or take one, in random order.
fn wanted(d: &mut Draft<'_>, symbols: &[Symbol]) -> Vec<usize> {
    if symbols.is_empty() {
        return Vec::new();
    }
    let count = d.rng.random_range(d.s.symbols[0]..=d.s.symbols[1]) as usize;
    let first = d.below(symbols.len());
    let mut wanted: Vec<usize> = (0..count).map(|i| (first + i) % symbols.len()).collect();
    wanted.shuffle(&mut d.rng);
    wanted
}
