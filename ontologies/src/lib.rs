//! Classes, categories, prompts and templates: how a folder of symbol pictures becomes an ontology.
//!
//! Owns the ontology's types, the naming rules, its YAML form and the built-in `hvac` symbol library. Refuses to own
//! workflow and matching: it says what the symbols are, not where they stand on a drawing.

pub mod ontology;

pub use ontology::{Class, Exemplar, Ontology};
