//! What a training leaves: weights, tables, plots, pictures, and its part of the report.
//!
//! Owns names and content of the files of the `model` artifact. Nothing in them depends on the clock.

use std::fmt::Write as _;

use artifacts::Files;
use datasets::{ClassInfo, eval::Evaluation};
use engine::StageError;
use report::{
    Cell, Column, Headline, Html, Section, Table, Tone, csv,
    html::{Grid, details, facts, figures, h3, note, notice, p},
    number,
    plot::{Axes, Series, lines, matrix, standalone},
};
use serde::Serialize;
use vision::{
    tiles::Cut,
    yolov8::{Spec, State},
};

use crate::{
    config::Config,
    intake::Ignored,
    pictures::Sample,
    results::{self, Row},
    stage::UNMEASURED,
    start::Start,
};

/// Everything that the outputs are made of.
pub struct Outcome<'a> {
    /// Settings, `auto` settled.
    pub config: &'a Config,
    /// What `auto` settled to, in words.
    pub notes: &'a [String],
    /// The network.
    pub spec: Spec,
    /// Classes in index order.
    pub classes: &'a [ClassInfo],
    /// How pictures were cut.
    pub cut: Cut,
    /// One row an epoch.
    pub rows: &'a [Row],
    /// Number of the best epoch, from 1.
    pub best_epoch: usize,
    /// Where the weights came from; absent for random ones.
    pub start: Option<&'a Start>,
    /// The best weights measured on the drawings held back; absent when none are.
    pub evaluation: Option<&'a Evaluation>,
    /// Left out.
    pub ignored: &'a [Ignored],
    /// Counts: training drawings, their views, their objects; drawings held back.
    pub counts: [usize; 4],
    /// Sample batches by file name.
    pub samples: Vec<(&'static str, Sample)>,
}

#[derive(Serialize)]
struct Args<'a> {
    config: &'a Config,
    settled: &'a [String],
    spec: Spec,
    cut: Cut,
    classes: Vec<&'a str>,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain data serialises")
}

/// Writes what a reader of the weights has to know beside them.
pub fn describe(
    state: &mut State,
    config: &Config,
    spec: Spec,
    classes: &[ClassInfo],
    (cut, scale): (Cut, f64),
    epoch: usize,
) {
    let text = |value: serde_json::Value| value.to_string();
    let names: Vec<&str> = classes.iter().map(|c| c.name.as_str()).collect();
    state.metadata.extend([
        ("spec".to_owned(), text(serde_json::json!(spec))),
        ("classes".to_owned(), text(serde_json::json!(names))),
        ("class_info".to_owned(), text(serde_json::json!(classes))),
        ("imgsz".to_owned(), text(serde_json::json!(config.imgsz))),
        ("cut".to_owned(), text(serde_json::json!(cut))),
        ("scale".to_owned(), text(serde_json::json!(scale))),
        ("recipe".to_owned(), text(serde_json::json!(config.recipe))),
        ("epoch".to_owned(), text(serde_json::json!(epoch))),
    ]);
}

impl Outcome<'_> {
    /// The files of the `model` artifact.
    pub fn files(&self, best: &State, last: &State) -> Result<Files, StageError> {
        let bytes = |s: &State| s.to_bytes().map_err(|e| StageError::failed("writing the weights", e));
        let mut files = Files::new();
        let mut put = |name: &str, bytes: Vec<u8>| {
            files.insert(name.to_owned(), bytes);
        };
        put("best.safetensors", bytes(best)?);
        put("last.safetensors", bytes(last)?);
        put("results.csv", results::csv(self.rows).into_bytes());
        let classes = self.classes.iter().map(|c| c.name.as_str()).collect();
        let args = Args { config: self.config, settled: self.notes, spec: self.spec, cut: self.cut, classes };
        put("args.json", json(&args));
        put("ignored.json", json(&self.ignored));
        let [loss, metrics] = results::plots(self.rows);
        put("results_loss.svg", standalone(&loss).into_bytes());
        put("results_metrics.svg", standalone(&metrics).into_bytes());
        if let Some(e) = self.evaluation {
            put("metrics.json", json(e));
            put("per_class.csv", per_class_csv(e).into_bytes());
            put("confusion_matrix.csv", confusion_csv(e).into_bytes());
            for (name, plot) in curves(e, self.classes).into_iter().chain(matrices(e)) {
                put(name, standalone(&plot).into_bytes());
            }
        }
        for (name, sample) in &self.samples {
            put(name, sample.picture.bytes.clone());
        }
        if let Some(start) = self.start {
            start.file(&mut files);
        }
        Ok(files)
    }

    /// The stage's part of the report.
    pub fn section(&self) -> Section {
        let mut section = Section::new("train", "Training");
        let [drawings, views, objects, held_back] = self.counts;
        if let Some(e) = self.evaluation {
            section.headline = vec![
                Headline::new("mAP50", number::maybe(e.curves.map50, 3)),
                Headline::new("mAP50-95", number::maybe(e.curves.map, 3)),
                Headline::new("precision", number::maybe(e.curves.precision, 3)),
                Headline::new("recall", number::maybe(e.curves.recall, 3)),
            ];
        }
        section.headline.push(Headline::new("best epoch", format!("{} of {}", self.best_epoch, self.rows.len())));
        section.push(facts([
            ("network", format!("{}, {} classes", self.config.model.name(), self.classes.len())),
            (
                "training",
                format!("{drawings} drawings, {views} inputs of {0} x {0}, {objects} objects", self.config.imgsz),
            ),
            ("held back", format!("{held_back} drawings")),
        ]));
        section.push(report::html::list(self.notes.iter().map(Html::from)));
        if let Some(start) = self.start {
            section.push(h3("Start"));
            for part in start.section() {
                section.push(part);
            }
        }
        let [loss, metrics] = results::plots(self.rows);
        section.push(h3("Course")).push(metrics).push(loss);
        if let Some(e) = self.evaluation {
            section.push(h3("Classes")).push(note(e.curves.definition)).push(per_class_table(e));
            section.push(h3("Curves"));
            for (_, plot) in curves(e, self.classes) {
                section.push(plot);
            }
            section.push(h3("Confusion"));
            let [counts, normalised] = matrices(e);
            section.push(counts.1).push(details("Normalised by true class", normalised.1));
        } else {
            section.push(notice(
                Tone::Warn,
                "Not measured",
                p(format!("In this training {UNMEASURED}: how well the network finds symbols is not known.")),
            ));
        }
        section.push(h3("Samples")).push(note("The number at a box is its class, named below the picture."));
        section.push(figures(Grid::Full, self.samples.iter().map(|(_, sample)| sample.figure.clone())));
        if !self.ignored.is_empty() {
            let mut table = Table::new(
                format!("{} not trained on", number::counted(self.ignored.len(), "entry", "entries")),
                [Column::text("picture"), Column::text("label"), Column::text("reason")],
            );
            for i in self.ignored {
                let label = i.label.map_or_else(String::new, |n| n.to_string());
                table.row([Cell::of(&i.image), Cell::of(label), Cell::of(&i.reason)]);
            }
            section.push(h3("Left out")).push(table);
        }
        section
    }
}

fn per_class_table(e: &Evaluation) -> Table {
    let columns = ["objects", "P", "R", "F1", "AP50", "AP50-95", "COCO AP50", "COCO AP"].map(Column::number);
    let mut table = Table::new("On the drawings held back", std::iter::once(Column::text("class")).chain(columns));
    for c in &e.curves.per_class {
        let coco = e.coco.per_class.iter().find(|k| k.class == c.class);
        table.row([
            Cell::of(&c.class),
            Cell::count(c.truth),
            Cell::fixed(c.precision, 3),
            Cell::fixed(c.recall, 3),
            Cell::fixed(c.f1, 3),
            Cell::fixed(c.ap50, 3),
            Cell::fixed(c.ap, 3),
            Cell::maybe(coco.and_then(|k| k.ap50), 3),
            Cell::maybe(coco.and_then(|k| k.ap), 3),
        ]);
    }
    table
}

fn per_class_csv(e: &Evaluation) -> String {
    let mut out = String::from("class,objects,precision,recall,f1,AP50,AP50-95,COCO_AP50,COCO_AP\n");
    for c in &e.curves.per_class {
        let coco = e.coco.per_class.iter().find(|k| k.class == c.class);
        let maybe = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{x:.5}"));
        let _ = writeln!(
            out,
            "{},{},{:.5},{:.5},{:.5},{:.5},{:.5},{},{}",
            csv::field(&c.class),
            c.truth,
            c.precision,
            c.recall,
            c.f1,
            c.ap50,
            c.ap,
            maybe(coco.and_then(|k| k.ap50)),
            maybe(coco.and_then(|k| k.ap)),
        );
    }
    out
}

fn confusion_csv(e: &Evaluation) -> String {
    let names: Vec<String> = e.classes.iter().map(|c| csv::field(c)).chain(["background".into()]).collect();
    let mut out = format!("predicted \\ true,{}\n", names.join(","));
    for (name, row) in names.iter().zip(&e.confusion.counts) {
        let cells: Vec<String> = row.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "{name},{}", cells.join(","));
    }
    out
}

fn matrices(e: &Evaluation) -> [(&'static str, Html); 2] {
    let names: Vec<String> = e.classes.iter().cloned().chain(["background".into()]).collect();
    let counts: Vec<Vec<f64>> = e.confusion.counts.iter().map(|row| row.iter().map(|&n| n as f64).collect()).collect();
    let plot = |title: &str, values: &[Vec<f64>]| matrix(title, "predicted", "true", &names, &names, values);
    [
        ("confusion_matrix.svg", plot("Confusion matrix", &counts)),
        ("confusion_matrix_normalized.svg", plot("Confusion matrix, normalised", &e.confusion.normalised())),
    ]
}

fn curves(e: &Evaluation, classes: &[ClassInfo]) -> [(&'static str, Html); 4] {
    let plot = |title: &str, x: &str, y: &str, of: fn(&datasets::eval::ClassCurves) -> &Vec<f64>| {
        let points = |values: &[f64]| {
            let last = (values.len().max(2) - 1) as f64;
            values.iter().enumerate().map(|(i, &v)| (i as f64 / last, v)).collect::<Vec<_>>()
        };
        let mut series: Vec<Series> = e
            .curves
            .per_class
            .iter()
            .map(|c| Series {
                color: classes.iter().find(|k| k.name == c.class).map(|k| k.color),
                ..Series::new(c.class.as_str(), points(of(c)))
            })
            .collect();
        let n = e.curves.per_class.len();
        if let Some(first) = e.curves.per_class.first() {
            let mean: Vec<f64> = (0..of(first).len())
                .map(|i| e.curves.per_class.iter().map(|c| of(c)[i]).sum::<f64>() / n as f64)
                .collect();
            series.push(Series::new("all classes", points(&mean)));
        }
        lines(&Axes::new(title, x, y).unit(), &series)
    };
    [
        ("PR_curve.svg", plot("Precision over recall, IoU .50", "recall", "precision", |c| &c.precision_by_recall)),
        ("F1_curve.svg", plot("F1 over confidence", "confidence", "F1", |c| &c.f1_by_confidence)),
        ("P_curve.svg", plot("Precision over confidence", "confidence", "precision", |c| &c.precision_by_confidence)),
        ("R_curve.svg", plot("Recall over confidence", "confidence", "recall", |c| &c.recall_by_confidence)),
    ]
}
