//! Makes `hvac/templates/*.png` from `hvac/svg/*.svg`. Run after a drawing was changed; a test compares the two.

use std::error::Error;
use std::fs;
use std::path::Path;

use ontologies::Shape;
use ontologies::hvac::{TEMPLATE_MARGIN, TEMPLATE_SCALE};

fn main() -> Result<(), Box<dyn Error>> {
    let hvac = Path::new(env!("CARGO_MANIFEST_DIR")).join("hvac");
    for entry in fs::read_dir(hvac.join("svg"))? {
        let svg = entry?.path();
        let name = svg.file_stem().ok_or("an SVG file has a name")?.to_owned();
        let shape = Shape::parse(&fs::read_to_string(&svg)?)?;
        let picture = shape.picture(TEMPLATE_SCALE, TEMPLATE_MARGIN).ok_or("the drawing is empty")?;
        picture.save(hvac.join("templates").join(name).with_extension("png"))?;
    }
    Ok(())
}
