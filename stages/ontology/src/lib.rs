//! The `ontology` stage: from a folder of templates to classes, prompts and colours.
//!
//! Owns the stage's settings, its place among the stages and its section of the report. The rules are the
//! `ontologies` crate's.

mod section;

use artifacts::{FILES, Files, InputFiles, OntologyKind, OntologyValue, Report};
use engine::{Context, Descriptor, Outcome, Port, Stage, StageError, event::Level};
use ontologies::{Ontology, OntologyError, PromptStyle, Template, build, folder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OntologyConfig {
    /// How prompts are worded: `engineering` (`hvac ball valve`) or `plain` (`ball valve`).
    pub prompt_style: PromptStyle,
    /// The file that edits the ontology, relative to the templates folder; `ontology.yaml` or `ontology.yml` there when
    /// empty.
    pub file: String,
}

/// Reads `templates` (kind `files`) and, when connected, `file` (kind `files`: one ontology file that lies outside the
/// templates folder); writes `ontology` and `report` (`section.json`, and `ontology.yaml` to start editing from).
#[derive(Clone, Copy, Debug, Default)]
pub struct OntologyStage;

impl Stage for OntologyStage {
    type Config = OntologyConfig;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "ontology".to_owned(),
            version: 1,
            about: "Turns symbol templates into classes with categories, prompts and colours.".to_owned(),
            inputs: vec![Port::new("templates", FILES), Port::optional("file", FILES)],
            outputs: vec![
                Port::new("ontology", <OntologyKind as engine::artifact::Kind>::NAME),
                Port::new("report", <Report as engine::artifact::Kind>::NAME),
            ],
            items: None,
        }
    }

    fn run(&self, config: &OntologyConfig, ctx: &Context) -> Result<Outcome, StageError> {
        let mut files = ctx.read::<InputFiles>("templates")?;
        let yaml = match find_yaml(&config.file, &files)? {
            Some(found) => Some(found),
            None if ctx.has("file") => ctx.read::<InputFiles>("file")?.into_iter().next(),
            None => None,
        };
        let yaml = yaml.map(|(name, bytes)| text(name, bytes)).transpose()?;
        if let Some((name, _)) = &yaml {
            files.remove(name);
            ctx.message(Level::Info, format!("`{name}` edits the ontology"));
        }
        let (pictures, others): (Files, Files) = files.into_iter().partition(|(name, _)| folder::is_picture(name));
        if !others.is_empty() {
            let names: Vec<&str> = others.keys().map(String::as_str).take(5).collect();
            let more = if others.len() > 5 { ", …" } else { "" };
            let text =
                format!("{} in the templates folder that are no pictures: {}{more}", others.len(), names.join(", "));
            ctx.message(Level::Info, text);
        }
        let templates: Vec<Template> = pictures.into_iter().map(|(path, bytes)| Template { path, bytes }).collect();
        let yaml = yaml.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        let ontology = build(&templates, yaml, config.prompt_style).map_err(explain)?;
        tell_unused(&ontology, &templates, ctx);
        ctx.metric("classes", ontology.classes.len() as f64);
        ctx.metric("templates", ontology.classes.iter().map(|c| c.exemplars.len()).sum::<usize>() as f64);

        let value = OntologyValue { templates: used(&ontology, templates), ontology };
        let section = section::section(&value)?;
        let yaml = ontologies::yaml::write(&value.ontology).into_bytes();
        ctx.write::<Report>(
            "report",
            &[("section.json".to_owned(), section.to_json()), ("ontology.yaml".to_owned(), yaml)].into(),
        )?;
        ctx.write::<OntologyKind>("ontology", &value)?;
        Ok(Outcome::Done)
    }
}

fn find_yaml(wanted: &str, files: &Files) -> Result<Option<(String, Vec<u8>)>, StageError> {
    let get = |name: &str| files.get(name).map(|bytes| (name.to_owned(), bytes.clone()));
    if wanted.is_empty() {
        return Ok(folder::YAML_NAMES.iter().find_map(|name| get(name)));
    }
    get(wanted).map(Some).ok_or_else(|| StageError::Config {
        key: "file".to_owned(),
        message: format!("there is no `{wanted}` in the templates folder"),
    })
}

fn text(name: String, bytes: Vec<u8>) -> Result<(String, String), StageError> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(_) => Err(StageError::input(format!("`{name}` is not UTF-8 text"), "save it as UTF-8")),
    }
}

fn explain(e: OntologyError) -> StageError {
    let help = match &e {
        OntologyError::NoTemplates => "`inputs.templates` in the pipeline file names the folder that is read",
        OntologyError::File(_) => "mend the ontology file and run again",
        OntologyError::Templates { .. } => {
            "mend, rename or delete these files, or list them under `ignore:` in `ontology.yaml` beside the templates"
        }
    };
    StageError::input(e.to_string(), help)
}

/// Files that the ontology file ignores are not dropped in silence.
fn tell_unused(ontology: &Ontology, templates: &[Template], ctx: &Context) {
    let unused = templates.iter().filter(|t| !uses(ontology).any(|file| file == t.path));
    let names: Vec<&str> = unused.map(|t| t.path.as_str()).collect();
    if !names.is_empty() {
        ctx.message(Level::Info, format!("ignored, as the ontology file says: {}", names.join(", ")));
    }
}

fn uses(ontology: &Ontology) -> impl Iterator<Item = &str> {
    ontology.classes.iter().flat_map(|c| c.exemplars.iter().chain(&c.negatives)).map(|e| e.file.as_str())
}

fn used(ontology: &Ontology, templates: Vec<Template>) -> Files {
    let wanted: std::collections::BTreeSet<&str> = uses(ontology).collect();
    templates.into_iter().filter(|t| wanted.contains(t.path.as_str())).map(|t| (t.path, t.bytes)).collect()
}

#[cfg(test)]
mod tests {
    use engine::{Registry, harness::Harness};
    use ontologies::hvac;
    use serde_json::json;

    use super::*;

    fn run(
        files: &[(&str, &[u8])],
        config: serde_json::Value,
    ) -> Result<(OntologyValue, Files, Vec<String>), StageError> {
        let dir = tempfile::tempdir().unwrap();
        let harness = Harness::new(dir.path()).unwrap().files("templates", FILES, files).unwrap();
        let ran = harness.run(&Registry::new().add(OntologyStage), config)?;
        let messages = ran.notes.messages.iter().map(|m| m.1.clone()).collect();
        Ok((harness.read::<OntologyKind>(&ran, "ontology")?, harness.read::<Report>(&ran, "report")?, messages))
    }

    fn library() -> Vec<(&'static str, &'static [u8])> {
        hvac::symbols().iter().map(|s| (s.file, s.png)).collect()
    }

    #[test]
    fn the_library_becomes_an_ontology_with_a_legend() {
        let mut files = library();
        files.push(("notes.txt", b"hello"));
        let (value, report, messages) = run(&files, json!({})).unwrap();
        assert_eq!(value.ontology, hvac::ontology(PromptStyle::Engineering));
        assert_eq!(value.templates.len(), 25);
        assert_eq!(value.templates["ball_valve.png"], hvac::symbols()[4].png);
        assert!(messages.iter().any(|m| m.contains("notes.txt")), "{messages:?}");
        let section = report::Section::from_json(&report["section.json"]).unwrap();
        assert_eq!((section.headline[0].label.as_str(), section.headline[0].value.as_str()), ("Classes", "25"));
        assert!(section.body.as_str().contains("hvac rotary disc valve"));
        let yaml = String::from_utf8(report["ontology.yaml"].clone()).unwrap();
        assert!(yaml.contains("- name: ball valve"));
    }

    #[test]
    fn the_yaml_beside_the_templates_is_used() {
        let mut files = library();
        files.push((
            "ontology.yaml",
            b"classes:\n  - name: ball valve\n    prompt: kugelhahn\nignore: [plug_valve.png]\n",
        ));
        let (value, _, messages) = run(&files, json!({ "prompt_style": "plain" })).unwrap();
        assert_eq!(value.ontology.classes[0].prompt, "kugelhahn");
        assert_eq!(value.ontology.classes[1].prompt, value.ontology.classes[1].name);
        assert_eq!((value.ontology.classes.len(), value.templates.len()), (24, 24));
        assert!(messages.iter().any(|m| m.contains("plug_valve.png")), "{messages:?}");
    }

    #[test]
    fn bad_templates_and_settings_are_told() {
        let fails = |files: &[(&str, &[u8])], config, part: &str| {
            let e = run(files, config).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        };
        fails(&[], json!({}), "no templates");
        fails(&[("a.png", b"")], json!({}), "`a.png`: the file is empty");
        fails(&library(), json!({ "file": "x.yaml" }), "x.yaml");
        fails(&library(), json!({ "prompt": 1 }), "unknown field");
        let mut files = library();
        files.push(("ontology.yml", b"classes:\n  - nam: x\n"));
        fails(&files, json!({}), "ontology.yml:2:5: unknown key `nam`; did you mean `name`?");
    }
}
