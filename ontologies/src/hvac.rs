//! The built-in symbol library: 25 symbols of heating, ventilation and air conditioning drawings, after ISA-5.1.
//!
//! Owns the list. The drawings are `hvac/svg/*.svg`, made for this project; `hvac/templates/*.png` are made from them by
//! `cargo run -p ontologies --example draw_symbols`.

use crate::build::Template;
use crate::ontology::Ontology;
use crate::rules::PromptStyle;
use crate::shape::Shape;

/// Pixels a unit of the SVG in the template pictures.
pub const TEMPLATE_SCALE: f32 = 1.2;
/// White around the symbol in the template pictures, in pixels.
pub const TEMPLATE_MARGIN: u32 = 4;

/// One symbol.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    /// File name of the template, such as `ball_valve.png`.
    pub file: &'static str,
    /// The template picture.
    pub png: &'static [u8],
    /// The drawing: the pipe or signal runs through the centre of its view box.
    pub svg: &'static str,
}

impl Symbol {
    /// The symbol as a template file.
    pub fn template(&self) -> Template {
        Template { path: self.file.to_owned(), bytes: self.png.to_vec() }
    }

    /// Class name.
    pub fn class(&self) -> String {
        crate::rules::read_path(self.file).class
    }

    /// The drawing as vectors.
    pub fn shape(&self) -> Shape {
        Shape::parse(self.svg).expect("the built-in drawings are read by a test")
    }
}

macro_rules! symbol {
    ($stem:literal) => {
        Symbol {
            file: concat!($stem, ".png"),
            png: include_bytes!(concat!("../hvac/templates/", $stem, ".png")),
            svg: include_str!(concat!("../hvac/svg/", $stem, ".svg")),
        }
    };
}

const SYMBOLS: [Symbol; 25] = [
    symbol!("auxiliary_computer_instrument"),
    symbol!("auxiliary_discrete_instrument"),
    symbol!("auxiliary_plc_instrument"),
    symbol!("auxiliary_shared_instrument"),
    symbol!("ball_valve"),
    symbol!("butterfly_valve"),
    symbol!("capillary_signal"),
    symbol!("data_link_signal"),
    symbol!("diaphragm_valve"),
    symbol!("electrical_signal"),
    symbol!("field_computer_instrument"),
    symbol!("field_discrete_instrument"),
    symbol!("field_plc_instrument"),
    symbol!("field_shared_instrument"),
    symbol!("globe_valve"),
    symbol!("hydraulic_signal"),
    symbol!("pinch_valve"),
    symbol!("plug_valve"),
    symbol!("pneumatic_signal"),
    symbol!("primary_computer_instrument"),
    symbol!("primary_discrete_instrument"),
    symbol!("primary_plc_instrument"),
    symbol!("primary_shared_instrument"),
    symbol!("rotary_disc_valve"),
    symbol!("wireless_signal"),
];

/// All symbols, by file name.
pub fn symbols() -> &'static [Symbol] {
    &SYMBOLS
}

/// The ontology of all symbols.
pub fn ontology(style: PromptStyle) -> Ontology {
    let templates: Vec<Template> = SYMBOLS.iter().map(Symbol::template).collect();
    crate::build(&templates, None, style).expect("the built-in templates are read by a test")
}
