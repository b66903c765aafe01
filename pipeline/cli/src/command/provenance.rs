//! `pipeline runs provenance`: from a box back to the image, the template, the settings and the versions.

use std::{collections::BTreeMap, path::Path};

use artifacts::decisions::box_ids;
use artifacts::{Annotations, OntologyKind, Predictions};
use datasets::{
    Annotation, AnnotationSet, ImageAnnotations,
    formats::{Format, ReadOptions},
};
use engine::{
    Digest,
    artifact::{ArtifactReader, Kind},
    record::{RunRecord, StageRecord},
};
use miette::{IntoDiagnostic, Report, Result};
use ontologies::Ontology;
use serde_json::{Value, json};

use crate::{
    args::Global,
    exit::{Exit, Usage},
    project::Project,
    terminal::{data, number, table},
};

/// Whose boxes are asked for.
pub struct Asked<'a> {
    /// The image.
    pub image: &'a str,
    /// The stage; the last that wrote labels of the image, else what the detector found, when not given.
    pub stage: Option<&'a str>,
    /// A box's id or its number from 1; all when not given.
    pub which: Option<&'a str>,
}

/// The boxes of an artifact, when it holds any.
fn boxes_of(project: &Project, artifact: Digest, kind: &str) -> Result<Option<AnnotationSet>> {
    if project.store.manifest(artifact).map_err(Report::from_err)?.kind != kind {
        return Ok(None);
    }
    let reader = ArtifactReader::open(&project.store, artifact).map_err(Report::from_err)?;
    if kind == Annotations::NAME {
        return Annotations::read(&reader).map(Some).map_err(Report::from_err);
    }
    let scratch = tempfile::tempdir().into_diagnostic()?;
    let file = scratch.path().join("predictions.json");
    std::fs::write(&file, reader.get("predictions.json").map_err(Report::from_err)?).into_diagnostic()?;
    Format::Coco.read(&file, &ReadOptions::default()).map(|i| Some(i.set)).map_err(Report::from_err)
}

/// Digest of each template, by file: the ontology that the run used.
fn templates(project: &Project, record: &RunRecord) -> BTreeMap<String, String> {
    let outputs = record.stages.values().flat_map(|s| s.outputs.values());
    let ontology = outputs.filter_map(|a| {
        let reader = ArtifactReader::open(&project.store, *a).ok()?;
        (reader.manifest.kind == OntologyKind::NAME).then(|| reader.json::<Ontology>("ontology.json").ok())?
    });
    let exemplars = ontology.flat_map(|o| o.classes).flat_map(|c| c.exemplars);
    exemplars.map(|e| (e.file, e.digest)).collect()
}

/// The boxes of an image in a run, and the stage that wrote them.
fn find<'a>(project: &Project, record: &'a RunRecord, asked: &Asked<'_>) -> Result<(&'a str, ImageAnnotations)> {
    let image = asked.image;
    if let Some(stage) = asked.stage.filter(|s| !record.stages.contains_key(*s)) {
        let help = format!("its stages are {}", record.order.join(", "));
        return Err(Usage::new(format!("run {} has no stage `{stage}`", record.id), help));
    }
    let mut seen = 0;
    let kinds = [Annotations::NAME, Predictions::NAME];
    for (kind, name) in kinds.iter().flat_map(|k| record.order.iter().rev().map(move |n| (k, n))) {
        if asked.stage.is_some_and(|s| s != name) {
            continue;
        }
        for artifact in record.stages[name].outputs.values() {
            let Some(set) = boxes_of(project, *artifact, kind)? else { continue };
            seen = seen.max(set.images.len());
            let fits =
                |i: &ImageAnnotations| i.image == image || Path::new(&i.image).file_name().is_some_and(|n| n == image);
            if let Some(found) = set.images.into_iter().find(fits) {
                return Ok((name, found));
            }
        }
    }
    let help = format!("there are labels of {seen} images, named by their path below `inputs.images`");
    Err(Usage::new(format!("run {} has no labels of an image `{image}`", record.id), help))
}

/// The stages that a box went through, in order: those that the labels were made by.
fn stages<'a>(record: &'a RunRecord, last: &str) -> Vec<(&'a String, &'a StageRecord)> {
    let end = record.order.iter().position(|n| n == last).unwrap_or(0);
    let named = record.order[..=end].iter().map(|n| (n, &record.stages[n]));
    named.filter(|(_, s)| s.key.is_some() && s.uses != "setup").collect()
}

/// Prints where the boxes of an image come from.
pub fn provenance(global: &Global, project: &Project, record: &RunRecord, asked: &Asked<'_>) -> Result<Exit> {
    let which = asked.which;
    let (stage, image) = find(project, record, asked)?;
    let templates = templates(project, record);
    let template = |a: &Annotation| a.provenance.source.as_ref().and_then(|s| templates.get(s));
    let ids = box_ids(&image);
    let boxes: Vec<(usize, &String, &Annotation)> =
        ids.iter().zip(&image.annotations).enumerate().map(|(i, (id, a))| (i + 1, id, a)).collect();
    let chosen: Vec<_> = match which {
        None => boxes,
        Some(which) => {
            let one: Vec<_> = boxes.into_iter().filter(|(n, id, _)| *id == which || n.to_string() == which).collect();
            if one.is_empty() {
                let help = format!("it has {} boxes; give a number from 1 or an id from the report", ids.len());
                return Err(Usage::new(format!("`{}` has no box `{which}`", image.image), help));
            }
            one
        }
    };
    let made_by = stages(record, stage);
    if global.json {
        let of = |(n, id, a): &(usize, &String, &Annotation)| json!({ "number": n, "id": id, "box": a, "template_blake3": template(a) });
        let boxes: Vec<Value> = chosen.iter().map(of).collect();
        let stages: Vec<Value> = made_by
            .iter()
            .map(|(name, s)| {
                json!({
                    "name": name, "stage": s.uses, "version": s.version, "key": s.key, "run": s.from_run.as_ref().unwrap_or(&record.id),
                    "config": s.config, "inputs": s.inputs, "outputs": s.outputs, "devices": s.notes.devices,
                })
            })
            .collect();
        let doc = json!({
            "run": record.id, "program": record.program, "image": image.image, "image_blake3": image.digest,
            "width": image.width, "height": image.height, "labels_of": stage, "boxes": boxes, "stages": stages,
        });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
        return Ok(Exit::Done);
    }
    data(format_args!("image    {} ({} x {})\nblake3   {}", image.image, image.width, image.height, image.digest));
    for (n, id, a) in &chosen {
        let (b, p) = (&a.bbox, &a.provenance);
        let score = a.score.map(|s| format!(", score {:.3}", s.get())).unwrap_or_default();
        data(format_args!(
            "\nbox {n} ({id})  {}{score}, from {:.1} {:.1} to {:.1} {:.1}",
            a.class, b.x0, b.y0, b.x1, b.y1
        ));
        let mut rows =
            vec![vec!["  found by".to_owned(), format!("{} {}", p.labeller, p.version.as_deref().unwrap_or_default())]];
        let mut add = |what: &str, value: Option<String>| rows.extend(value.map(|v| vec![format!("  {what}"), v]));
        add("source", p.source.clone());
        add("template", template(a).map(|d| format!("blake3 {d}")));
        add("threshold", p.threshold.map(number));
        add("model", p.model.clone());
        add("device", p.device.clone());
        add("decision", p.decision.map(|d| format!("{d:?}").to_lowercase()));
        let evidence: Vec<String> = p.evidence.iter().map(|(k, v)| format!("{k} {}", number(*v))).collect();
        add("evidence", (!evidence.is_empty()).then(|| evidence.join(", ")));
        data(table(&rows));
    }
    let mut rows = vec![["stage", "version", "run", "key", "settings"].map(str::to_owned).to_vec()];
    for (name, s) in made_by {
        let run = s.from_run.clone().unwrap_or_else(|| record.id.clone());
        let key = s.key.map(|k| k.short()).unwrap_or_default();
        rows.push(vec![name.clone(), format!("{} {}", s.uses, s.version), run, key, s.config.to_string()]);
    }
    data(format_args!("\n{}\nprogram  pipeline {}", table(&rows), record.program));
    Ok(Exit::Done)
}
