//! What the report shows of an ontology: a legend of all classes with their pictures.

use artifacts::OntologyValue;
use engine::StageError;
use ontologies::{Exemplar, picture};
use report::html::{self, Grid};
use report::{Cell, Column, Figure, Headline, Section, Table, Tone, draw, el, number};

/// Longest side of a template in the legend, in pixels.
const LEGEND_SIDE: u32 = 128;

/// The section: pictures by class, then a table of the words.
pub fn section(value: &OntologyValue) -> Result<Section, StageError> {
    let classes = &value.ontology.classes;
    let count = |pick: fn(&ontologies::Class) -> usize| classes.iter().map(pick).sum::<usize>();
    let mut section = Section::new("ontology", "Ontology");
    section.headline.push(Headline::new("Classes", number::count(classes.len())));
    section.headline.push(Headline::new("Templates", number::count(count(|c| c.exemplars.len()))));
    let negatives = count(|c| c.negatives.len());
    if negatives > 0 {
        section.headline.push(Headline::new("Negatives", number::count(negatives)));
    }
    let bare = classes.iter().filter(|c| c.exemplars.is_empty()).count();
    if bare > 0 {
        section.headline.push(Headline::toned("Without template", number::count(bare), Tone::Warn));
    }
    let mut legend = Vec::new();
    for class in classes {
        let caption = || {
            let words = el("span").class("muted").child(format!("{} · {}", class.category, class.prompt));
            el("span").child(html::class_name(&class.name, class.color)).child(el("br")).child(words)
        };
        let mut pictures = class.exemplars.iter().map(|e| thumbnail(value, e));
        let Some(first) = pictures.next() else { continue };
        let mut figure = Figure::new(first?, &class.name, caption());
        for (n, picture) in pictures.enumerate() {
            figure = figure.beside(picture?, format!("{}, exemplar {}", class.name, n + 2));
        }
        legend.push(figure);
    }
    section.push(html::figures(Grid::Small, legend));

    let columns = ["Class", "Category", "Prompt", "Synonyms", "Aliases", "Templates", "Negatives"].map(Column::text);
    let mut table = Table::new("Classes in index order", columns);
    let files = |list: &[Exemplar]| list.iter().map(|e| e.file.as_str()).collect::<Vec<_>>().join(", ");
    for class in classes {
        table.row([
            Cell::of(html::class_name(&class.name, class.color)),
            Cell::of(&class.category),
            Cell::of(&class.prompt),
            Cell::of(class.synonyms.join(", ")),
            Cell::of(class.aliases.join(", ")),
            Cell::of(files(&class.exemplars)),
            Cell::of(files(&class.negatives)),
        ]);
    }
    section.push(html::details("All classes as a table", table));
    section.push(html::note(
        "Names, prompts, synonyms and colours can be changed in a file ontology.yaml in the templates folder.",
    ));
    Ok(section)
}

fn thumbnail(value: &OntologyValue, exemplar: &Exemplar) -> Result<report::Picture, StageError> {
    let bytes = &value.templates[&exemplar.file];
    let wrong = |e| StageError::failed(format!("drawing the template `{}`", exemplar.file), e);
    let picture = picture::decode(bytes).map_err(wrong)?;
    let (small, _) = draw::thumbnail(&picture, LEGEND_SIDE);
    draw::png(&small).map_err(|e| StageError::failed(format!("drawing the template `{}`", exemplar.file), e))
}
