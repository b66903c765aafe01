//! The ontology's types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set of classes, in index order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ontology {
    /// The classes; their order is the class index everywhere.
    pub classes: Vec<Class>,
}

/// A kind of symbol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Unique name, such as `ball valve`.
    pub name: String,
    /// Group, such as `Valves`.
    pub category: String,
    /// Text given to a text-grounded detector, such as `hvac ball valve`.
    pub prompt: String,
    /// Other texts for the same thing, tried as further prompts.
    #[serde(default)]
    pub synonyms: Vec<String>,
    /// Other names under which labels of this class may be imported.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Display colour, RGB.
    pub color: [u8; 3],
    /// Pictures of the symbol.
    #[serde(default)]
    pub exemplars: Vec<Exemplar>,
    /// Pictures that look like the symbol and are not it.
    #[serde(default)]
    pub negatives: Vec<Exemplar>,
}

/// A template picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exemplar {
    /// Path below the templates folder, with `/` between parts.
    pub file: String,
    /// BLAKE3 of the file, 64 hex digits.
    pub digest: String,
}

impl Ontology {
    /// The class of a name.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.iter().find(|c| c.name == name)
    }
}
