//! The stage: measure, check, show, judge, pass on.

use std::collections::BTreeMap;

use artifacts::decisions::{approval, parse_all};
use artifacts::{
    Annotations, Candidates, ExemplarSet, Exemplars, Files, IMAGES, InputFiles, OntologyKind, OntologyValue, Report,
};
use engine::artifact::Kind;
use engine::event::Level;
use engine::{Context, Descriptor, Facts, Needs, Outcome, Port, Stage, StageError};
use report::number::counted;
use serde::Serialize;

use crate::bands::{Bands, bands};
use crate::checks::{self, Checks, Warning};
use crate::decisions::{self, Applied};
use crate::doubt;
use crate::gate::{Gate, Verdict, judge};
use crate::metrics::{Metrics, measure};
use crate::pictures::{self, Sources};
use crate::queue::{Labels, QUEUE_VERSION, Queue, QueueClass, QueueFile, queue};
use crate::section::{Told, section};
use crate::settings::Settings;

/// Layout of `review.json`.
pub const REVIEW_VERSION: u32 = 2;

/// What `review.json` holds.
#[derive(Debug, Serialize)]
pub struct ReviewFile<'a> {
    /// Layout: 2.
    pub version: u32,
    /// Digest of the labels before decisions.
    pub annotations: String,
    /// The gate's setting.
    pub gate: Gate,
    /// The gate's answer.
    pub verdict: &'a Verdict,
    /// Numbers, after decisions.
    pub metrics: &'a Metrics,
    /// Boxes by band of confidence, after decisions.
    pub bands: &'a Bands,
    /// Warnings.
    pub warnings: &'a [Warning],
    /// Odd images and boxes.
    pub checks: &'a Checks,
    /// What decisions did.
    pub decisions: &'a Applied,
}

/// The review stage. Inputs `images`, `annotations`, `ontology`, and optionally `candidates` (what missed its threshold),
/// `exemplars` (to show them) and `decisions` (files); outputs `annotations` (after decisions; absent while it waits) and
/// `report` with `section.json`, `review.json`, `queue.json` (all that a page needs to show what to look at) and
/// `DECISIONS.json`, an approval ready to be applied.
pub struct Review;

impl Stage for Review {
    type Config = Settings;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "review".into(),
            version: 3,
            about: "Measures the labels, shows them, and decides whether training may start.".into(),
            inputs: vec![
                Port::new("images", IMAGES),
                Port::new("annotations", Annotations::NAME),
                Port::new("ontology", OntologyKind::NAME),
                Port::optional("candidates", Candidates::NAME),
                Port::optional("exemplars", Exemplars::NAME),
                Port::optional("decisions", InputFiles::NAME),
            ],
            outputs: vec![Port::new("annotations", Annotations::NAME), Port::new("report", Report::NAME)],
            items: None,
        }
    }

    fn resolve(&self, config: Settings, _facts: &Facts) -> Result<(Settings, Vec<String>), StageError> {
        match config.fault() {
            Some((key, message)) => Err(StageError::Config { key: key.into(), message }),
            None => Ok((config, Vec::new())),
        }
    }

    fn needs(&self, _config: &Settings) -> Needs {
        // A decoded sheet takes some 100 MB, and two are open at a time.
        Needs { cores: 2, memory_bytes: 512 << 20, ..Needs::default() }
    }

    fn run(&self, config: &Settings, ctx: &Context) -> Result<Outcome, StageError> {
        let input = ctx.input("annotations")?;
        let digest = input.to_string();
        let mut set = ctx.read::<Annotations>("annotations")?;
        if set.images.is_empty() && set.skipped.is_empty() {
            return Err(StageError::input(
                "there are no images to review",
                "put drawings into the folder that `inputs.images` names",
            ));
        }
        let mut candidates = optional::<Candidates>(ctx, "candidates")?;
        let files = parse_all(&optional::<InputFiles>(ctx, "decisions")?)?;
        let applied = decisions::apply(&mut set, &mut candidates, &digest, &files);
        for problem in &applied.problems {
            ctx.message(Level::Warn, problem);
        }
        for said in said(&applied) {
            ctx.message(Level::Info, said);
        }

        let metrics = measure(&set);
        let mut bands = bands(&set, &candidates, &config.bands);
        let labels = Labels { set: &set, candidates: &candidates };
        let queue = queue(labels, &metrics, config, &mut bands);
        let checks = checks::check(&set, &metrics, config);
        let warnings = checks::warnings(&metrics, &checks, config);
        for w in &warnings {
            ctx.message(Level::Warn, format!("{}. {}", w.title, w.text));
        }
        let verdict = judge(config.gate, &warnings, &applied.approval, &digest);
        ctx.check()?;

        let images = ctx.manifest("images")?;
        let usable = |at: usize| images.blob(&set.images[at].image).is_some();
        let selection = doubt::select(&set, &queue, config, usable);
        let ontology = ctx.read::<OntologyKind>("ontology")?;
        let exemplars: ExemplarSet = optional::<Exemplars>(ctx, "exemplars")?;
        let sources = Sources {
            labels,
            queue: &queue,
            selection: &selection,
            images: &images,
            ontology: &ontology,
            exemplars: &exemplars,
        };
        let pictures = pictures::make(&sources, config, ctx)?;
        for (image, why) in &pictures.failed {
            ctx.message(Level::Warn, format!("`{image}` is not shown in the report: {why}"));
        }
        let told = Told {
            set: &set,
            digest: &digest,
            metrics: &metrics,
            bands: &bands,
            queue: &queue,
            checks: &checks,
            warnings: &warnings,
            verdict: &verdict,
            applied: &applied,
            pictures: &pictures,
            settings: config,
        };
        let review = ReviewFile {
            version: REVIEW_VERSION,
            annotations: digest.clone(),
            gate: config.gate,
            verdict: &verdict,
            metrics: &metrics,
            bands: &bands,
            warnings: &warnings,
            checks: &checks,
            decisions: &applied,
        };
        let output = Files::from([
            ("section.json".to_owned(), section(&told).to_json()),
            ("review.json".to_owned(), pretty(&review)),
            ("queue.json".to_owned(), queue_file(&queue, &bands, &ontology, &digest, ctx)?),
            ("DECISIONS.json".to_owned(), pretty(&approval(&digest))),
        ]);
        ctx.write::<Report>("report", &output)?;
        tell(ctx, &metrics, &bands, warnings.len());
        match verdict {
            Verdict::Waiting { why } => Ok(Outcome::Waiting { reason: why }),
            Verdict::Passed { why } => {
                ctx.message(Level::Info, format!("The gate is open: {why}"));
                if applied.changed() {
                    ctx.write::<Annotations>("annotations", &set)?;
                } else {
                    ctx.output("annotations", input)?;
                }
                Ok(Outcome::Done)
            }
        }
    }
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data serialises");
    bytes.push(b'\n');
    bytes
}

/// The value at an optional input, or an empty one.
fn optional<K: Kind<Value: Default>>(ctx: &Context, port: &str) -> Result<K::Value, StageError> {
    if ctx.has(port) { ctx.read::<K>(port) } else { Ok(K::Value::default()) }
}

/// How decisions were met that did not simply fit, in words.
fn said(a: &Applied) -> Vec<String> {
    let parts = [
        (
            a.by_place,
            "decision was matched by class and place: its box moved",
            "decisions were matched by class and place: their boxes moved",
        ),
        (a.kept, "decided box is no longer found and was kept", "decided boxes are no longer found and were kept"),
        (a.gave_way, "label gave way to a person's box", "labels gave way to boxes of a person"),
    ];
    parts.into_iter().filter(|p| p.0 > 0).map(|(n, one, many)| counted(n, one, many)).collect()
}

fn queue_file(
    queue: &Queue,
    bands: &Bands,
    ontology: &OntologyValue,
    digest: &str,
    ctx: &Context,
) -> Result<Vec<u8>, StageError> {
    let mut pictures = BTreeMap::new();
    for port in ["images", "ontology", "exemplars"] {
        if ctx.has(port) {
            pictures.insert(port, ctx.input(port)?.to_string());
        }
    }
    let class = |c: &ontologies::Class| QueueClass {
        name: c.name.clone(),
        color: c.color,
        templates: c.exemplars.iter().map(|e| e.file.clone()).collect(),
    };
    let file = QueueFile {
        version: QUEUE_VERSION,
        annotations: digest,
        pictures,
        classes: ontology.ontology.classes.iter().map(class).collect(),
        bands,
        items: &queue.items,
        left_out: queue.left_out,
    };
    Ok(pretty(&file))
}

fn tell(ctx: &Context, m: &Metrics, bands: &Bands, warnings: usize) {
    ctx.metric("images", m.images as f64);
    ctx.metric("boxes", m.boxes as f64);
    ctx.metric("classes_found", m.classes_found as f64);
    ctx.metric("accepted_outright", bands.all.accept as f64);
    ctx.metric("to_look_at", bands.to_look_at as f64);
    ctx.metric("warnings", warnings as f64);
    if let Some(coverage) = m.coverage {
        ctx.metric("coverage", coverage);
    }
    if let Some(c) = m.confidence {
        ctx.metric("mean_confidence", c.mean);
    }
    if let Some(ratio) = m.imbalance {
        ctx.metric("imbalance", ratio);
    }
}

#[cfg(test)]
mod tests {
    use artifacts::decisions::box_ids;
    use datasets::AnnotationSet;
    use engine::{Registry, harness::Harness};
    use report::Section;
    use serde_json::{Value, json};

    use super::*;
    use crate::checks::fixture::{class, image, scored, set};

    const NAMES: [&str; 2] = ["Ball <valve> & \"co\"", "Ventil größer"];

    fn sheet() -> Vec<u8> {
        let mut rgb = image::RgbImage::from_pixel(300, 200, image::Rgb([255; 3]));
        report::draw::fill(&mut rgb, [40, 40, 70, 70], [0, 0, 0]);
        report::draw::png(&rgb).unwrap().bytes
    }

    fn labels() -> AnnotationSet {
        let boxes =
            vec![scored(NAMES[0], [40.0, 40.0, 70.0, 70.0], 0.41), scored(NAMES[1], [150.0, 40.0, 180.0, 70.0], 0.9)];
        let mut images = vec![image("a b/1.png", 300, 200, boxes), image("broken.png", 300, 200, vec![])];
        images[0].digest = engine::Digest::of(&sheet()).to_string();
        set(vec![class(NAMES[0]), class(NAMES[1])], images)
    }

    fn harness(dir: &std::path::Path, set: &AnnotationSet) -> Harness {
        Harness::new(dir)
            .unwrap()
            .files("images", IMAGES, &[("a b/1.png", &sheet()), ("broken.png", b"no picture")])
            .unwrap()
            .input::<Annotations>("annotations", set)
            .unwrap()
            .input::<OntologyKind>("ontology", &OntologyValue::default())
            .unwrap()
    }

    fn digest_of(dir: &std::path::Path, set: &AnnotationSet) -> String {
        let ran = harness(dir, set).run(&Registry::new().add(Review), json!({"gate": "none"})).unwrap();
        ran.outputs["annotations"].to_string()
    }

    #[test]
    fn auto_passes_labels_through_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &labels());
        let ran = h.run(&Registry::new().add(Review), Value::Null).unwrap();
        assert_eq!(ran.outcome, Outcome::Done);
        assert_eq!(h.read::<Annotations>(&ran, "annotations").unwrap(), labels());
        assert_eq!(ran.notes.metrics["boxes"], 2.0);
        let files = h.read::<Report>(&ran, "report").unwrap();
        let review: Value = serde_json::from_slice(&files["review.json"]).unwrap();
        assert_eq!(review["metrics"]["coverage"], 0.5);
        assert_eq!(review["verdict"]["verdict"], "passed");
        // The picture that cannot be decoded is named and stops nothing.
        assert!(ran.notes.messages.iter().any(|m| m.1.contains("`broken.png` is not shown")));
        // The same input gives the same bytes.
        let again = tempfile::tempdir().unwrap();
        let h2 = harness(again.path(), &labels()).threads(1);
        let ran2 = h2.run(&Registry::new().add(Review), Value::Null).unwrap();
        assert_eq!(ran.outputs, ran2.outputs);
    }

    #[test]
    fn page_is_self_contained_and_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &labels());
        let ran = h.run(&Registry::new().add(Review), Value::Null).unwrap();
        let files = h.read::<Report>(&ran, "report").unwrap();
        let section = Section::from_json(&files["section.json"]).unwrap();
        let page = report::page("Review", None, &[section]);
        assert!(!page.contains("http:") && !page.contains("https:"));
        assert!(!page.contains(NAMES[0]) && page.contains("Ball &lt;valve&gt; &amp; &quot;co&quot;"));
        assert!(page.contains(NAMES[1]));
        assert!(page.contains("Just over the threshold of 40 %"));
        assert_eq!(page.matches("data:image/jpeg").count(), 3, "one sheet and two crops");
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn approve_waits_then_passes_with_the_saved_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"gate": "approve"});
        let h = harness(dir.path(), &labels());
        let ran = h.run(&Registry::new().add(Review), config.clone()).unwrap();
        let Outcome::Waiting { reason } = &ran.outcome else { panic!("{:?}", ran.outcome) };
        assert!(reason.contains("pipeline review apply DECISIONS.json"));
        assert!(!ran.outputs.contains_key("annotations"));
        let files = h.read::<Report>(&ran, "report").unwrap();
        let h = h.files("decisions", InputFiles::NAME, &[("DECISIONS.json", &files["DECISIONS.json"])]).unwrap();
        let ran = h.run(&Registry::new().add(Review), config).unwrap();
        assert_eq!(ran.outcome, Outcome::Done);
    }

    #[test]
    fn rejected_boxes_leave_the_set() {
        let dir = tempfile::tempdir().unwrap();
        let id = box_ids(&labels().images[0])[1].clone();
        let text = json!({
            "version": 1, "annotations": digest_of(dir.path(), &labels()),
            "boxes": [{"decision": "reject", "image": "a b/1.png", "box": id}],
        })
        .to_string();
        let h = harness(dir.path(), &labels());
        let h = h.files("decisions", InputFiles::NAME, &[("d.json", text.as_bytes())]).unwrap();
        let ran = h.run(&Registry::new().add(Review), Value::Null).unwrap();
        let out = h.read::<Annotations>(&ran, "annotations").unwrap();
        assert_eq!(out.box_count(), 1);
        assert_eq!(out.images[0].annotations[0].class, NAMES[0]);
    }

    #[test]
    fn candidates_are_queued_and_can_be_accepted() {
        let mut left = scored(NAMES[0], [220.0, 100.0, 250.0, 130.0], 0.3);
        left.provenance.source = Some("confirmed: a b/1.png #123456789abc".into());
        left.provenance.evidence = [("coverage".to_owned(), 0.91), ("rotation_deg".to_owned(), 90.0)].into();
        let digest = labels().images[0].digest.clone();
        let of_image = datasets::ImageAnnotations { digest, ..image("a b/1.png", 300, 200, vec![left]) };
        let candidates = set(labels().classes, vec![of_image]);
        let exemplar = artifacts::Exemplar {
            file: "confirmed/x.png".into(),
            class: NAMES[0].into(),
            name: "confirmed: a b/1.png #123456789abc".into(),
            lesson: artifacts::Lesson::Confirmed,
            frame: None,
        };
        let learned = ExemplarSet { pictures: [(exemplar.file.clone(), sheet())].into(), list: vec![exemplar] };
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &labels()).input::<Candidates>("candidates", &candidates).unwrap();
        let h = h.input::<Exemplars>("exemplars", &learned).unwrap();
        let ran = h.run(&Registry::new().add(Review), Value::Null).unwrap();
        // What was left out is no label; it is shown, explained, beside the picture that it was found with.
        assert_eq!(h.read::<Annotations>(&ran, "annotations").unwrap(), labels());
        assert_eq!((ran.notes.metrics["to_look_at"], ran.notes.metrics["accepted_outright"]), (3.0, 0.0));
        let files = h.read::<Report>(&ran, "report").unwrap();
        let queue: Value = serde_json::from_slice(&files["queue.json"]).unwrap();
        let item = queue["items"].as_array().unwrap().iter().find(|i| i["candidate"] == true).unwrap();
        assert_eq!(item["explanation"], json!(["91 % of the template's ink is there", "turned 90°"]));
        assert_eq!((&item["band"], &queue["bands"]["all"]["queue_candidates"]), (&json!("queue"), &json!(1)));
        let page = Section::from_json(&files["section.json"]).unwrap().body.as_str().to_owned();
        for part in ["left out", "91 % of the template", "Template confirmed: a b/1.png #123456789abc"] {
            assert!(page.contains(part), "{part}");
        }
        let accept = json!({
            "version": 1, "annotations": queue["annotations"],
            "boxes": [{"decision": "accept", "image": "a b/1.png", "box": item["box"]}],
        });
        let h = h.files("decisions", InputFiles::NAME, &[("d.json", accept.to_string().as_bytes())]).unwrap();
        let ran = h.run(&Registry::new().add(Review), Value::Null).unwrap();
        assert_eq!(h.read::<Annotations>(&ran, "annotations").unwrap().box_count(), 3);
        assert_eq!(ran.notes.metrics["to_look_at"], 2.0);
    }

    #[test]
    fn pictures_stop_at_the_budget_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &labels());
        let ran = h.run(&Registry::new().add(Review), json!({"picture_mb": 0})).unwrap();
        let section = &h.read::<Report>(&ran, "report").unwrap()["section.json"];
        let body = Section::from_json(section).unwrap().body;
        assert!(!body.as_str().contains("data:image") && body.as_str().contains("3 pictures were left out"));
    }

    #[test]
    fn a_picture_that_changed_since_labelling_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let mut set = labels();
        set.images[0].digest = "0".repeat(64);
        let ran = harness(dir.path(), &set).run(&Registry::new().add(Review), Value::Null).unwrap();
        assert!(ran.notes.messages.iter().any(|m| m.1.contains("changed since it was labelled")));
    }

    #[test]
    fn nothing_found_waits_and_still_reports() {
        let dir = tempfile::tempdir().unwrap();
        let empty = set(vec![class("a")], vec![image("a b/1.png", 300, 200, vec![])]);
        let ran = harness(dir.path(), &empty).run(&Registry::new().add(Review), Value::Null).unwrap();
        assert!(matches!(ran.outcome, Outcome::Waiting { .. }) && ran.outputs.contains_key("report"));
    }

    #[test]
    fn no_images_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &AnnotationSet::default());
        assert!(matches!(h.run(&Registry::new().add(Review), Value::Null), Err(StageError::Input { .. })));
    }

    #[test]
    fn broken_decisions_and_settings_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &labels()).files("decisions", InputFiles::NAME, &[("d.json", b"{")]).unwrap();
        let Err(StageError::Input { message, .. }) = h.run(&Registry::new().add(Review), Value::Null) else {
            panic!("a broken file passed")
        };
        assert!(message.contains("`d.json`, line 1"), "{message}");
        let wrong = harness(dir.path(), &labels()).run(&Registry::new().add(Review), json!({"min_coverage": 2}));
        assert!(matches!(wrong, Err(StageError::Config { key, .. }) if key == "min_coverage"));
    }
}
