//! The symbols that sheets are drawn with, and how drafters use each kind.
//!
//! Owns the choice of classes and the way a shape is put on the sheet. Refuses to decide where.

use ontologies::{PromptStyle, Shape, hvac, rules};
use tiny_skia::{Path, Transform};

use crate::canvas::{Point, sin_cos};
use crate::electrical::{self, Terminal};
use crate::invented;
use crate::lettered::{self, Line};
use crate::settings::{SettingsError, SynthSettings, Trade};
use crate::wild;

/// Units of a drawing that `symbol_px` pixels stand for.
pub const NOMINAL_UNITS: f64 = 96.0;
/// Width of the pen in the drawings, in units.
const DRAWN_PEN: f64 = 3.0;

/// How a symbol is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// In a pipe, which ends at its left and right.
    Inline,
    /// Beside a pipe, with letters in it and a lead to what it measures.
    Balloon,
    /// A stretch of a line.
    Line,
    /// By itself, with leads.
    Free,
}

/// A class that is drawn.
#[derive(Clone, Debug)]
pub struct Symbol {
    /// Class name.
    pub name: String,
    /// Category.
    pub category: String,
    /// File name of its template.
    pub file: String,
    /// The drawing.
    pub shape: Shape,
    /// How it is used.
    pub role: Role,
    /// What is written in every instance; `None` leaves it to the drafter.
    pub writing: Option<Vec<Line>>,
    /// Where wires meet it, on schematics.
    pub terminals: Vec<Terminal>,
    /// Letters before the number of a component, on schematics.
    pub letters: &'static str,
}

/// How one instance lies on the sheet.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Where the middle of the view box lies, in pixels.
    pub center: Point,
    /// Pixels a unit.
    pub scale: f64,
    /// Factor along the drawing's x axis beside the scale.
    pub stretch: f64,
    /// Clockwise turn.
    pub degrees: f64,
    /// Left and right swapped before the turn.
    pub mirrored: bool,
    /// Width of its lines in pixels.
    pub pen: f64,
}

impl Placement {
    /// Pixels a unit along the drawing's x axis.
    fn along(&self) -> f64 {
        self.scale * self.stretch
    }

    /// Where a point of the drawing, measured from the middle of its view box, lies on the sheet.
    pub fn point(&self, [x, y]: Point) -> Point {
        let (sin, cos) = sin_cos(self.degrees);
        let (x, y) = (if self.mirrored { -x } else { x } * self.along(), y * self.scale);
        [self.center[0] + x * cos - y * sin, self.center[1] + x * sin + y * cos]
    }
}

impl Symbol {
    pub(crate) fn new(file: String, shape: Shape, role: Option<Role>) -> Self {
        let name = rules::read_path(&file).class;
        let category = rules::category(&name).to_owned();
        let role = role.unwrap_or(match category.as_str() {
            "Valves" => Role::Inline,
            "Instruments" => Role::Balloon,
            "Signals" => Role::Line,
            _ => Role::Free,
        });
        Self { name, category, file, shape, role, writing: None, terminals: Vec::new(), letters: "" }
    }

    /// A symbol from SVG elements about the origin, at most 60 units to each side, drawn with the library's pen.
    pub(crate) fn drawn(name: &str, role: Role, body: &str) -> Self {
        let svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="120" height="120"><g fill="none" stroke="#000" stroke-width="3" transform="translate(60 60)">{body}</g></svg>"##
        );
        let shape = Shape::parse(&svg).expect("symbols drawn by this crate are SVG");
        Self::new(format!("{name}.png"), shape, Some(role))
    }

    /// The outlines of the ink of one instance. A line is repeated `repeats` times end to end.
    pub fn outlines(&self, at: &Placement, repeats: u32) -> Vec<Path> {
        let (sin, cos) = sin_cos(at.degrees);
        let flip = if at.mirrored { -1.0 } else { 1.0 };
        let period = self.reach()[0] * 2.0;
        let mut out = Vec::new();
        for n in 0..repeats {
            let shift = (f64::from(n) - f64::from(repeats - 1) / 2.0) * period;
            let [tx, ty] = at.point([shift - f64::from(self.shape.width) / 2.0, -f64::from(self.shape.height) / 2.0]);
            let row = [at.along() * flip * cos, at.along() * flip * sin, -at.scale * sin, at.scale * cos, tx, ty]
                .map(|v| v as f32);
            let place = Transform::from_row(row[0], row[1], row[2], row[3], row[4], row[5]);
            out.extend(self.shape.outlines(place, (at.pen / DRAWN_PEN) as f32));
        }
        out
    }

    /// How far the ink of one instance reaches along and across its axis, in pixels.
    pub fn reach_at(&self, at: &Placement) -> [f64; 2] {
        let [x, y] = self.reach();
        [x * at.along(), y * at.scale]
    }

    /// How far the ink reaches from the middle of the view box, in units: to the right (or left, the larger) and down
    /// (or up).
    pub fn reach(&self) -> [f64; 2] {
        let (w, h) = (f64::from(self.shape.width) / 2.0, f64::from(self.shape.height) / 2.0);
        self.shape.ink().map_or([w, h], |i| {
            let [l, t, r, b] = [i.left(), i.top(), i.right(), i.bottom()].map(f64::from);
            [(w - l).max(r - w), (h - t).max(b - h)]
        })
    }
}

/// The classes that `settings` ask for, in the order of their names; invented and wild ones last.
pub fn symbols(settings: &SynthSettings, seed: u64) -> Result<Vec<Symbol>, SettingsError> {
    let library: Vec<Symbol> = match settings.trade {
        Trade::Piping => hvac::symbols().iter().map(|s| Symbol::new(s.file.to_owned(), s.shape(), None)).collect(),
        Trade::Electrical => electrical::symbols(),
    };
    for class in &settings.classes {
        if !library.iter().any(|s| s.name == *class) {
            let known = library.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("no class `{class}` in the symbol library; it has {known}");
            return Err(SettingsError { key: "classes", message });
        }
    }
    let wanted = |s: &Symbol| settings.library && (settings.classes.is_empty() || settings.classes.contains(&s.name));
    let mut out: Vec<Symbol> = library.into_iter().filter(wanted).collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out.extend(invented::symbols(seed, settings.invented));
    out.extend(lettered::symbols(seed, settings.lettered));
    out.extend(wild::symbols(seed, settings.wild));
    Ok(out)
}

/// The ontology of `symbols`, with templates drawn at the sheets' nominal size: `(ontology, [(file, PNG)])`.
pub fn templates(symbols: &[Symbol], settings: &SynthSettings) -> Vec<(String, Vec<u8>)> {
    const MARGIN: u32 = 4;
    let scale = (settings.symbol_px / NOMINAL_UNITS) as f32;
    let picture = |s: &Symbol| s.shape.picture(scale, MARGIN).expect("every symbol has ink");
    symbols.iter().map(|s| (s.file.clone(), crate::scan::encode(&picture(s).into(), None))).collect()
}

/// Colours and categories as the ontology of the templates has them.
pub fn classes(symbols: &[Symbol], settings: &SynthSettings) -> Vec<datasets::ClassInfo> {
    let templates: Vec<ontologies::Template> =
        templates(symbols, settings).into_iter().map(|(path, bytes)| ontologies::Template { path, bytes }).collect();
    let ontology = ontologies::build(&templates, None, PromptStyle::Engineering).expect("drawn templates differ");
    ontology
        .classes
        .into_iter()
        .map(|c| datasets::ClassInfo { name: c.name, category: c.category, color: c.color })
        .collect()
}
