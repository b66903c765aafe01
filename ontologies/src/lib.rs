//! Classes, categories, prompts and templates: how a folder of symbol pictures becomes an ontology.
//!
//! Owns the ontology's types, the naming rules, its YAML form and the built-in `hvac` symbol library. Refuses to own
//! workflow and matching: it says what the symbols are, not where they stand on a drawing.
//!
//! ```
//! let templates: Vec<_> = ontologies::hvac::symbols().iter().map(ontologies::hvac::Symbol::template).collect();
//! let ontology = ontologies::build(&templates, None, ontologies::PromptStyle::Engineering)?;
//! assert_eq!(ontology.class("ball valve").map(|c| c.prompt.as_str()), Some("hvac ball valve"));
//! # Ok::<(), ontologies::OntologyError>(())
//! ```

pub mod build;
pub mod folder;
pub mod hvac;
pub mod ontology;
pub mod palette;
pub mod picture;
pub mod rules;
pub mod shape;
pub mod yaml;

pub use build::{OntologyError, Problem, Template, build};
pub use ontology::{Class, Exemplar, Ontology};
pub use rules::PromptStyle;
pub use shape::Shape;
