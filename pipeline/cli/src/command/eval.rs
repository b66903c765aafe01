//! `pipeline eval`: predictions against truth.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use datasets::eval::{CocoMetrics, EvalInput, EvalSettings, Evaluation, Mistakes, Why, evaluate, from_coco};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use report::{
    Cell, Column, Headline, Html, Section, Table,
    html::{details, h3, list, note},
    number::{count, counted, fixed, maybe},
    plot::matrix,
};

use crate::{
    args::Global,
    exit::{Exit, Usage},
    terminal::{data, table},
};

/// Pictures with mistakes that the terminal shows.
const SHOWN: usize = 10;

/// Predictions whose lowest score is above this were cut off at a confidence.
const LOW_SCORE: f64 = 0.05;

/// `pipeline eval`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline eval --pred predictions.json --truth truth.json\n  pipeline eval --pred predictions.json --truth truth.json --conf 0.5 --out evaluation\n\nAP and AR are COCO's and equal pycocotools'. Images and classes are matched by name, and those of a bare results list by the truth's numbers."
)]
pub struct Eval {
    /// Predictions: a COCO file with scores, or a COCO results list.
    #[arg(long, value_name = "COCO.json")]
    pred: PathBuf,
    /// Truth: a COCO file.
    #[arg(long, value_name = "COCO.json")]
    truth: PathBuf,
    /// Confidence from which predictions count in precision, recall and the lists of mistakes, 0 to 1.
    #[arg(long, default_value_t = EvalSettings::default().conf)]
    conf: f64,
    /// Overlap (IoU) from which a prediction hits there, 0 to 1.
    #[arg(long, default_value_t = EvalSettings::default().iou)]
    iou: f64,
    /// Folder for eval.json, index.html and tables.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Measures and tells.
pub fn eval(global: &Global, args: &Eval) -> Result<Exit> {
    for (name, value) in [("conf", args.conf), ("iou", args.iou)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Usage::new(format!("--{name} {value} is not from 0 to 1"), "give a share, such as 0.5"));
        }
    }
    let read =
        |path: &Path| fs::read(path).map_err(|e| Usage::new(format!("`{}`: {e}", path.display()), "check the path"));
    let input = from_coco(&read(&args.truth)?, &read(&args.pred)?).map_err(|e| {
        let files = format!("--pred `{}`, --truth `{}`", args.pred.display(), args.truth.display());
        Usage::new(
            format!("{files}: {e}"),
            "--pred and --truth take COCO files; `pipeline export` and `import` convert",
        )
    })?;
    let settings = EvalSettings { conf: args.conf, iou: args.iou, ..EvalSettings::default() };
    let mut e = evaluate(&input, &settings);
    e.notes.extend(cut_off(&input));
    if let Some(dir) = &args.out {
        write(dir, &e)
            .map_err(|e| Report::msg(format!("`{}`: {e}", dir.display())))
            .wrap_err("writing the evaluation")?;
    }
    if global.json {
        data(serde_json::to_string_pretty(&e).into_diagnostic()?);
    } else {
        data(text(&e));
        if let Some(dir) = &args.out {
            data(format_args!("\nlook at  {}", dir.join("index.html").display()));
        }
    }
    Ok(Exit::Done)
}

/// What to know about predictions that were cut off at a confidence.
fn cut_off(input: &EvalInput) -> Option<String> {
    let scores = input.pictures.iter().flat_map(|p| &p.found).map(|f| f.score);
    let lowest = scores.min_by(f64::total_cmp).filter(|s| *s > LOW_SCORE)?;
    Some(format!(
        "the lowest score is {lowest:.2}: AP is cut off there, and lower than with all predictions (a run measures with those of lower confidence too)"
    ))
}

fn text(e: &Evaluation) -> String {
    let mut out = format!("{} pictures, {} true objects, {} predictions\n\n", e.images, e.truth, e.predictions);
    let c = &e.coco;
    let m = |v: Option<f64>| maybe(v, 4);
    let row = |cells: &[(&str, Option<f64>)]| -> Vec<Vec<String>> {
        vec![cells.iter().map(|(k, _)| (*k).to_owned()).collect(), cells.iter().map(|(_, v)| m(*v)).collect()]
    };
    out += "COCO (equal to pycocotools; best 100 predictions a picture)\n";
    out += &table(&row(&coco_figures(c)));
    let v = &e.curves;
    let _ = writeln!(out, "\n\n{}", v.definition);
    out += &table(&row(&[
        ("mAP50", v.map50),
        ("mAP50-95", v.map),
        ("P", v.precision),
        ("R", v.recall),
        ("at confidence", Some(v.confidence)),
    ]));
    let o = &e.operating_point;
    let _ = writeln!(out, "\n\nat confidence {} and IoU {}", o.conf, o.iou);
    out += &table(&class_rows(e));
    let _ = writeln!(
        out,
        "\n\nconfusion matrix at confidence {} and IoU {} (rows: predicted, columns: true)",
        e.confusion.conf, e.confusion.iou
    );
    out += &table(&confusion_rows(e));
    if !e.mistakes.is_empty() {
        let mut worst: Vec<&Mistakes> = e.mistakes.iter().collect();
        worst.sort_by_key(|m| std::cmp::Reverse(m.false_positives.len() + m.false_negatives.len()));
        let head = ["pictures with mistakes", "false positives", "missed"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        rows.extend(
            worst
                .iter()
                .take(SHOWN)
                .map(|m| vec![m.image.clone(), count(m.false_positives.len()), count(m.false_negatives.len())]),
        );
        if worst.len() > SHOWN {
            rows.push(vec![format!("and {} more; --out lists all", worst.len() - SHOWN)]);
        }
        let _ = write!(out, "\n\n{}", table(&rows));
    }
    for n in &e.notes {
        let _ = write!(out, "\nnote: {n}");
    }
    out
}

/// A head, all classes together, and each class.
fn class_rows(e: &Evaluation) -> Vec<Vec<String>> {
    let head = ["class", "true", "AP", "AP50", "AP75", "P", "R", "F1", "TP", "FP", "FN"];
    let m = |v| maybe(v, 4);
    let o = &e.operating_point;
    let all = (&o.all, "all", e.truth, [e.coco.ap, e.coco.ap50, e.coco.ap75]);
    let each =
        e.coco.per_class.iter().zip(&o.per_class).map(|(a, c)| (c, a.class.as_str(), a.truth, [a.ap, a.ap50, a.ap75]));
    let rows = std::iter::once(all).chain(each).map(|(c, name, truth, ap)| {
        let mut row = vec![name.to_owned(), truth.to_string()];
        row.extend(ap.into_iter().chain([c.precision, c.recall, c.f1]).map(m));
        row.extend([c.true_positives, c.false_positives, c.false_negatives].map(|n| n.to_string()));
        row
    });
    std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect()
}

fn confusion_rows(e: &Evaluation) -> Vec<Vec<String>> {
    let names: Vec<String> = e.classes.iter().cloned().chain(["background".into()]).collect();
    let head = std::iter::once(String::new()).chain(names.iter().cloned()).collect();
    let rows = names
        .iter()
        .zip(&e.confusion.counts)
        .map(|(name, row)| std::iter::once(name.clone()).chain(row.iter().map(ToString::to_string)).collect());
    std::iter::once(head).chain(rows).collect()
}

/// Every mistake: image, kind, class, score, edges, why.
fn mistake_rows(e: &Evaluation) -> Vec<Vec<String>> {
    let mut rows =
        vec![["image", "mistake", "class", "score", "x0", "y0", "x1", "y1", "why"].map(str::to_owned).to_vec()];
    for m in &e.mistakes {
        let wrong = m.false_positives.iter().map(|f| ("false positive", &f.class, Some(f.score), f.bbox, &f.why));
        let missed = m.false_negatives.iter().map(|f| ("false negative", &f.class, None, f.bbox, &f.why));
        for (kind, class, score, b, why) in wrong.chain(missed) {
            let mut row =
                vec![m.image.clone(), kind.into(), class.clone(), score.map(|s| fixed(s, 4)).unwrap_or_default()];
            row.extend([b.x0, b.y0, b.x1, b.y1].map(|v| fixed(v, 2)));
            row.push(match why {
                Why::Duplicate => "found twice".into(),
                Why::WrongClass { other } => format!("taken for, or instead of, {other}"),
                Why::PoorBox { iou } => format!("box lies badly (IoU {iou:.2})"),
                Why::LowScore { score } => format!("found, but only with confidence {score:.2}"),
                Why::Nothing => "nothing there".into(),
            });
            rows.push(row);
        }
    }
    rows
}

fn csv(rows: &[Vec<String>]) -> String {
    rows.iter()
        .map(|row| row.iter().map(|text| report::csv::field(text)).collect::<Vec<_>>().join(",") + "\n")
        .collect()
}

fn write(dir: &Path, e: &Evaluation) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let page = report::page("Evaluation", None, &[section(e)]);
    fs::write(dir.join("index.html"), page)?;
    fs::write(dir.join("eval.json"), serde_json::to_vec_pretty(e)?)?;
    fs::write(dir.join("per_class.csv"), csv(&class_rows(e)))?;
    fs::write(dir.join("confusion_matrix.csv"), csv(&confusion_rows(e)))?;
    fs::write(dir.join("mistakes.csv"), csv(&mistake_rows(e)))
}

/// The first row of `rows` is the head; the first `texts` columns are text.
fn html_table(caption: &str, rows: &[Vec<String>], texts: usize) -> Html {
    let Some((head, body)) = rows.split_first() else { return Html::new() };
    let columns = head.iter().enumerate().map(|(i, h)| if i < texts { Column::text(h) } else { Column::number(h) });
    let mut out = Table::new(caption, columns);
    for row in body {
        out.row(row.iter().map(Cell::of));
    }
    out.into()
}

fn section(e: &Evaluation) -> Section {
    let mut s = Section::new("evaluation", "Predictions against truth");
    s.headline = vec![
        Headline::new("COCO AP", maybe(e.coco.ap, 3)),
        Headline::new("COCO AP50", maybe(e.coco.ap50, 3)),
        Headline::new("Precision", maybe(e.operating_point.all.precision, 3)),
        Headline::new("Recall", maybe(e.operating_point.all.recall, 3)),
        Headline::new("F1", maybe(e.operating_point.all.f1, 3)),
    ];
    s.push(note(format!(
        "{}, {}, {}. AP as COCO defines it (equal to pycocotools). Precision, recall and F1 at confidence {} and IoU {}.",
        counted(e.images, "picture", "pictures"),
        counted(e.truth, "true object", "true objects"),
        counted(e.predictions, "prediction", "predictions"),
        e.operating_point.conf,
        e.operating_point.iou,
    )));
    s.push(list(e.notes.iter().cloned()));
    s.push(html_table("Each class against the truth", &class_rows(e), 1));
    let c = &e.coco;
    // AP and AP50 stand in the headline.
    let figures = coco_figures(c);
    let sizes = &figures[2..];
    let rows: Vec<Vec<String>> =
        [sizes.iter().map(|(k, _)| (*k).to_owned()).collect(), sizes.iter().map(|(_, v)| maybe(*v, 3)).collect()]
            .into();
    s.push(html_table("COCO by size, and recall", &rows, 0));
    let v = &e.curves;
    let rows: Vec<Vec<String>> = [
        ["mAP50", "mAP50-95", "P", "R", "confidence"].map(str::to_owned).to_vec(),
        [v.map50, v.map, v.precision, v.recall, Some(v.confidence)].map(|x| maybe(x, 3)).to_vec(),
    ]
    .into();
    s.push(html_table(v.definition, &rows, 0));
    let names: Vec<String> = e.classes.iter().cloned().chain(["background".into()]).collect();
    let counts: Vec<Vec<f64>> = e.confusion.counts.iter().map(|r| r.iter().map(|&n| n as f64).collect()).collect();
    s.push(h3("Confusion"));
    s.push(matrix("Confusion matrix", "predicted", "true", &names, &names, &counts));
    let mistakes = mistake_rows(e);
    if mistakes.len() > 1 {
        s.push(h3("Mistakes"));
        let title = counted(mistakes.len() - 1, "mistake", "mistakes");
        s.push(details(title, html_table("False positives and false negatives", &mistakes, 3)));
    }
    s
}

/// The figures of COCO's table, in its order.
fn coco_figures(c: &CocoMetrics) -> [(&'static str, Option<f64>); 12] {
    [
        ("AP", c.ap),
        ("AP50", c.ap50),
        ("AP75", c.ap75),
        ("AP small", c.ap_small),
        ("AP medium", c.ap_medium),
        ("AP large", c.ap_large),
        ("AR1", c.ar1),
        ("AR10", c.ar10),
        ("AR100", c.ar100),
        ("AR small", c.ar_small),
        ("AR medium", c.ar_medium),
        ("AR large", c.ar_large),
    ]
}
