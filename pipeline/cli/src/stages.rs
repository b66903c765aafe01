//! The list of all stages. A new stage is its crate and one line here.

use std::sync::Arc;

use engine::Registry;

/// Every stage that this program knows.
pub fn registry() -> Registry {
    Registry::new()
        .add(setup::Setup)
        .add(ontology::OntologyStage)
        .add(label::Import)
        .add(label::Exemplars)
        .add_items(label::Label)
        .add(review::Review)
        .add(train::Train)
        .add_items(infer::Infer)
        .add_any(Arc::new(command::CommandStage))
}
