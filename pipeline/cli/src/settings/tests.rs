use serde_json::Value;

use super::*;

fn try_load(text: &str, set: &[&str]) -> Result<PipelineSpec, String> {
    let layers = Layers { set: set.iter().map(|s| (*s).to_owned()).collect(), ..Layers::default() };
    load(Path::new("pipeline.yaml"), text, Path::new("/p"), &layers, &crate::stages::registry()).map_err(|e| {
        let help = e.help.clone().unwrap_or_default();
        format!("{e} | {help}")
    })
}

#[test]
fn an_empty_file_is_the_usual_pipeline() {
    let spec = try_load("", &[]).unwrap();
    assert_eq!(spec.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), DEFAULT_STAGES);
}

#[test]
fn unknown_keys_name_line_column_and_the_nearest_key() {
    let e = try_load("version: 1\nstages:\n  label:\n    nms_iuo: 0.5\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:4:5") && e.contains("did you mean `nms_iou`"), "{e}");
    let e = try_load("version: 1\ninput:\n  images: a\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:2:1") && e.contains("did you mean `inputs`"), "{e}");
    let e = try_load("stages:\n  lable: {}\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:2:3") && e.contains("did you mean `label`"), "{e}");
}

#[test]
fn wrong_types_and_duplicates_name_their_line() {
    let e = try_load("stages:\n  label:\n    nms_iou: high\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:3:5: stage `label`: `nms_iou` must be a number, and is \"high\""), "{e}");
    let e = try_load("stages: { train: { epochs: -3 } }", &[]).unwrap_err();
    assert!(e.contains("`epochs` must be a whole number from 0, and is `-3`"), "{e}");
    let e = try_load("stages:\n  label: {}\n  label: {}\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:3:3: key `label` is written twice"), "{e}");
    let e = try_load("stages: [a\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:"), "{e}");
}

#[test]
fn later_layers_win_and_are_named_in_errors() {
    let spec = try_load("stages: { label: { nms_iou: 0.3 } }", &["label.nms_iou=0.6"]).unwrap();
    assert_eq!(spec.nodes[2].config["nms_iou"], Value::from(0.6));
    let e = try_load("", &["label.nms_iuo=0.6"]).unwrap_err();
    assert!(e.starts_with("--set label.nms_iuo=0.6") && e.contains("nms_iou"), "{e}");
}

#[test]
fn inputs_may_be_short_or_long() {
    let spec = try_load("inputs:\n  images: a b\n  templates: { path: t, recursive: false }\n", &[]).unwrap();
    assert_eq!(spec.inputs[0].path, Path::new("/p/a b"));
    assert_eq!(spec.inputs[0].kind, "images");
    assert_eq!((spec.inputs[1].kind.as_str(), spec.inputs[1].recursive), ("files", false));
}

#[test]
fn off_is_a_word_and_no_truth_value() {
    let spec = try_load("stages: { train: { tile: off } }", &["infer.tile=off"]).unwrap();
    let tile = |name: &str| &spec.nodes.iter().find(|n| n.name == name).unwrap().config["tile"];
    assert_eq!((tile("train"), tile("infer")), (&Value::from("off"), &Value::from("off")));
}

#[test]
fn an_input_that_nothing_reads_is_an_error() {
    let e = try_load("inputs:\n  images: a\n  heldot: b\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:3:3: inputs.heldot: no stage reads") && e.contains("`heldout`"), "{e}");
    let e = try_load("inputs:\n  images: { path: a, kind: files }\n", &[]).unwrap_err();
    assert!(e.contains("of kind files") && e.contains("reads images"), "{e}");
    let all = "inputs: { images: a, heldout: a, templates: a, labels: a, decisions: a, truth: a }";
    assert!(try_load(all, &[]).is_ok());
    let own = "inputs: { more: { path: a, kind: images }, templates: t }\nstages:\n  ontology: { uses: ontology }\n  label: { uses: label, needs: { images: inputs.more } }";
    assert!(try_load(own, &[]).is_ok());
}

#[test]
fn executors_that_are_not_there_are_named() {
    let e = try_load("executors:\n  far: { kind: slrum, store: /s }\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:2:10") && e.contains("slrum") && e.contains("process"), "{e}");
    let e = try_load("executors:\n  far: { kind: process, store: /s, at_onec: 2 }\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:2:") && e.contains("at_onec") && e.contains("at_once"), "{e}");
    let e = try_load("stages:\n  train:\n    executor: slurm\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:3:15") && e.contains("no executor `slurm`"), "{e}");
    assert!(try_load("executors: { local: {} }\nstages: { train: { executor: local } }", &[]).is_ok());
    let far = "executors: { far: { kind: process, store: /s } }\nstages: { train: { executor: far, gpu: true } }";
    assert!(try_load(far, &[]).is_ok());
    assert!(try_load("stages: { train: { gpu: 2 } }", &[]).unwrap_err().contains("true or false"));
    assert!(try_load("executors: { local: { cores: 2 } }", &[]).unwrap_err().contains("no settings"));
}

#[test]
fn profiles_that_are_not_chosen_are_checked() {
    let e = try_load("profiles:\n  fast:\n    stages: { label: { nms_iuo: 1 } }\n", &[]).unwrap_err();
    assert!(e.contains("pipeline.yaml:3:") && e.contains("nms_iou"), "{e}");
}

#[test]
fn mistakes_that_only_the_graph_shows_have_their_place() {
    let place = |text: &str| {
        let registry = crate::stages::registry();
        let (spec, _, places) =
            load_with_places(Path::new("pipeline.yaml"), text, Path::new("/p"), &Layers::default(), &registry).unwrap();
        let e = engine::graph::Graph::build(&spec, &registry, &engine::Machine::probe()).err().unwrap();
        places.of(&e, "-only").unwrap().to_string()
    };
    let inputs = "inputs: { images: a, templates: b }\n";
    let e = place(&format!("{inputs}stages:\n  train:\n    epochs: 0\n"));
    assert!(e.starts_with("pipeline.yaml:4:") && e.contains("epochs"), "{e}");
    let e = place(&format!("{inputs}stages: {{ label: {{ nms_iou: 5 }} }}\n"));
    assert!(e.starts_with("pipeline.yaml:2:") && e.contains("nms_iou"), "{e}");
    assert!(place("inputs: { images: a }").starts_with("pipeline.yaml:1:1: stage `ontology` needs files"));
    assert!(place("").starts_with("pipeline.yaml: stage `ontology` needs files"));
}
