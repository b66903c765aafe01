//! Drawings with known truth and templates for them, for the matcher's tests.

use datasets::{Annotation, BBox, Pixels};
use image::RgbImage;
use synth::crops::cut;
use synth::symbol::{Symbol, symbols, templates};
use synth::{Crop, CropSettings, Sheet, SynthSettings, sheet};
use vision::matcher::{Match, Role, Template};

/// A drawing of about 22 by 16 symbol sizes.
pub fn settings(symbol_px: f64) -> SynthSettings {
    let side = |n: f64| (n * symbol_px) as u32;
    SynthSettings { width: side(22.0), height: side(16.0), symbols: [30, 45], symbol_px, ..SynthSettings::clean() }
}

/// The classes of the settings.
pub fn classes(s: &SynthSettings, seed: u64) -> Vec<Symbol> {
    symbols(s, seed).unwrap()
}

/// Clean templates at the drawings' nominal size.
pub fn clean_templates(s: &SynthSettings, seed: u64) -> Vec<Template> {
    let symbols = classes(s, seed);
    let pictures = templates(&symbols, s).into_iter();
    let template = |(symbol, (file, png)): (&Symbol, (String, Vec<u8>))| Template {
        class: symbol.name.clone(),
        name: file,
        image: image::load_from_memory(&png).unwrap().into_rgba8(),
        role: Role::Given,
        frame: None,
    };
    symbols.iter().zip(pictures).map(template).collect()
}

/// Templates as people make them: a symbol of each class, cut out of a drawing with what is around it.
pub fn cut_templates(s: &SynthSettings, seed: u64) -> Vec<Template> {
    cut_templates_as(s, seed, &CropSettings::default())
}

/// The same, cut as `how` says.
pub fn cut_templates_as(s: &SynthSettings, seed: u64, how: &CropSettings) -> Vec<Template> {
    let template = |c: Crop| Template {
        class: c.class,
        name: c.name,
        image: image::DynamicImage::ImageRgb8(c.image).into_rgba8(),
        role: Role::Given,
        frame: None,
    };
    cut(s, seed, how).unwrap().into_iter().map(template).collect()
}

/// A drawing and its truth.
pub fn draw(s: &SynthSettings, seed: u64, index: u64) -> (RgbImage, Vec<Annotation>) {
    let Sheet { image, annotations, .. } = sheet(s, seed, index).unwrap();
    (image, annotations.annotations)
}

/// Which matches are right: same class, overlap of at least half, best score first, each truth once.
pub fn hits(matches: &[Match], truth: &[Annotation]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..matches.len()).collect();
    order.sort_by(|&a, &b| matches[b].score.total_cmp(&matches[a].score));
    let (mut used, mut right) = (vec![false; truth.len()], vec![false; matches.len()]);
    let overlap = |t: usize, b: &BBox<Pixels>| truth[t].bbox.iou(b);
    for i in order {
        let m = &matches[i];
        let free = (0..truth.len()).filter(|&t| !used[t] && truth[t].class == m.class);
        let best = free.max_by(|&a, &b| overlap(a, &m.bbox).total_cmp(&overlap(b, &m.bbox)));
        if let Some(t) = best.filter(|&t| overlap(t, &m.bbox) >= 0.5) {
            (used[t], right[i]) = (true, true);
        }
    }
    right
}
