//! The drawn sets as cases: their sheets, templates and the settings that a user of such drawings would have.
//!
//! Owns which settings of the label stage are changed for which set. Refuses to tune: what is not said here is the
//! stage's default, and only what the drawings' owner knows about them (that symbols stand at any angle, that their
//! sizes differ much) is said.

use image::DynamicImage;
use miette::{IntoDiagnostic, Report, Result};
use serde_json::{Value, json};
use synth::{Set, SynthSettings, symbol};
use vision::matcher::{MatcherConfig, Role, Template};

use super::case::{Case, Sheet, Sheets, config};

/// Settings of the label stage that differ from its defaults.
pub fn changes(set: Set) -> Value {
    match set {
        Set::B => json!({ "rotations": "any" }),
        Set::D => json!({ "scale": { "min": 0.5, "max": 1.5 } }),
        _ => json!({}),
    }
}

/// Sheets of a set. The templates are cut from a drawing where the set says so, or where `crops` does.
pub fn case(set: Set, seed: u64, sheets: u64, crops: bool) -> Result<Case<'static>> {
    let settings = set.settings();
    let templates = if crops || set.has_crops() { cut(&settings, seed)? } else { clean(&settings, seed)? };
    let config = config(changes(set), &templates)?;
    Ok(Case { name: set.name().to_owned(), ..drawn(settings, seed, sheets, templates, config)? })
}

/// Sheets of any settings, named after their size.
pub fn drawn(
    settings: SynthSettings,
    seed: u64,
    sheets: u64,
    templates: Vec<Template>,
    config: MatcherConfig,
) -> Result<Case<'static>> {
    let symbols = symbol::symbols(&settings, seed).map_err(Report::from_err)?;
    let classes = symbol::classes(&symbols, &settings);
    let name = format!("{}x{}", settings.width, settings.height);
    let sheet: Sheets<'static> = Box::new(move |i| {
        let sheet = synth::sheet(&settings, seed, i).map_err(Report::from_err)?;
        Ok(Sheet { image: sheet.image, truth: sheet.annotations })
    });
    Ok(Case { name, classes, templates, config, sheets: sheet, range: 0..sheets })
}

/// One clean template a class, at the drawings' nominal size.
pub fn clean(settings: &SynthSettings, seed: u64) -> Result<Vec<Template>> {
    let symbols = symbol::symbols(settings, seed).map_err(Report::from_err)?;
    let pictures = symbol::templates(&symbols, settings);
    let template = |(s, (name, png)): (&symbol::Symbol, (String, Vec<u8>))| {
        let image = image::load_from_memory(&png).into_diagnostic()?.into_rgba8();
        Ok(Template { class: s.name.clone(), name, image, role: Role::Given, frame: None })
    };
    symbols.iter().zip(pictures).map(template).collect()
}

/// One template a class, cut from a drawing that is not among the sheets.
pub fn cut(settings: &SynthSettings, seed: u64) -> Result<Vec<Template>> {
    let crops = synth::crops(settings, seed, 1).map_err(Report::from_err)?;
    let template = |c: synth::Crop| Template {
        class: c.class,
        name: c.name,
        image: DynamicImage::from(c.image).into_rgba8(),
        role: Role::Given,
        frame: None,
    };
    Ok(crops.into_iter().map(template).collect())
}
