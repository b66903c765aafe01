//! A case: templates, settings, and sheets with truth; and what the matcher makes of it.
//!
//! Owns running the matcher over a case and what that costs. Refuses to draw sheets and to judge labels.

use std::time::Instant;

use datasets::{AnnotationSet, ClassInfo, ImageAnnotations};
use image::RgbImage;
use label::template::{annotation, matcher_config};
use miette::{IntoDiagnostic, Report, Result};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use serde::Serialize;
use vision::matcher::{Found, Matcher, MatcherConfig, Template};

use crate::command::bench::meter;

/// A sheet with what is on it.
pub struct Sheet {
    /// The picture.
    pub image: RgbImage,
    /// The truth.
    pub truth: ImageAnnotations,
}

/// Gives the sheet of that number, the same one every time.
pub type Sheets<'a> = Box<dyn Fn(u64) -> Result<Sheet> + Sync + 'a>;

/// Templates, settings and sheets.
pub struct Case<'a> {
    /// Name in the tables.
    pub name: String,
    /// Classes of the truth.
    pub classes: Vec<ClassInfo>,
    /// What is looked for.
    pub templates: Vec<Template>,
    /// How it is looked for.
    pub config: MatcherConfig,
    /// The sheets.
    pub sheets: Sheets<'a>,
    /// Numbers of the sheets that are labelled.
    pub range: std::ops::Range<u64>,
}

/// What labelling a case cost. The drawing of the sheets is in none of the times.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    /// Threads that labelled, with a sheet each.
    pub threads: usize,
    /// CPU seconds of preparing the templates.
    pub prepare_cpu_s: f64,
    /// CPU seconds of each sheet, in order; with more than one thread the mean of those labelled at once.
    pub cpu_s: Vec<f64>,
    /// Seconds of all sheets.
    pub wall_s: f64,
    /// Pixels of all sheets, in millions.
    pub megapixels: f64,
    /// Most memory of the whole process while a sheet was labelled, in MB, the sheet itself with it.
    pub peak_mb: Option<f64>,
}

impl Cost {
    /// Mean CPU seconds of a sheet.
    pub fn per_sheet(&self) -> f64 {
        self.cpu_s.iter().sum::<f64>() / self.cpu_s.len().max(1) as f64
    }

    /// Million pixels a CPU second.
    pub fn speed(&self) -> f64 {
        self.megapixels / self.cpu_s.iter().sum::<f64>().max(1e-9)
    }
}

/// What came of a case.
pub struct Outcome {
    /// What is on the sheets.
    pub truth: AnnotationSet,
    /// Matches and candidates; the threshold of each is in its provenance.
    pub found: AnnotationSet,
    /// What it cost.
    pub cost: Cost,
}

/// The matcher's settings for label settings that are the defaults but for `change` (a JSON object).
pub fn config(change: serde_json::Value, templates: &[Template]) -> Result<MatcherConfig> {
    let settings: label::Settings = serde_json::from_value(change).into_diagnostic()?;
    Ok(matcher_config(&settings, templates))
}

/// `n` threads of their own.
pub fn pool(n: usize) -> Result<ThreadPool> {
    ThreadPoolBuilder::new().num_threads(n).build().into_diagnostic()
}

/// Runs work on a pool; its result, CPU seconds and seconds.
pub fn timed<T: Send>(pool: &ThreadPool, work: impl FnOnce() -> T + Send) -> (T, f64, f64) {
    let (cpu, wall) = (meter::cpu_s(), Instant::now());
    let result = pool.install(work);
    (result, meter::cpu_s() - cpu, wall.elapsed().as_secs_f64())
}

/// Labels all sheets of a case, `threads` side by side. With one thread nothing else runs in this process meanwhile, so
/// that CPU time and memory are the matcher's.
pub fn run(case: &Case, threads: usize) -> Result<Outcome> {
    let pool = pool(threads)?;
    let (matcher, prepare_cpu_s, _) = timed(&pool, || Matcher::new(&case.templates, &case.config));
    let matcher = matcher.map_err(Report::from_err)?;
    let mut cost = Cost { threads, prepare_cpu_s, ..Cost::default() };
    let empty = || AnnotationSet { classes: case.classes.clone(), images: Vec::new(), skipped: Vec::new() };
    let (mut truth, mut found) = (empty(), empty());
    let numbers: Vec<u64> = case.range.clone().collect();
    for chunk in numbers.chunks(threads.max(1)) {
        let sheets = chunk.par_iter().map(|&i| (case.sheets)(i)).collect::<Result<Vec<_>>>()?;
        meter::forget_peak();
        let label = || sheets.par_iter().map(|s| matcher.find(&s.image)).collect::<Vec<Found>>();
        let (labelled, cpu_s, wall_s) = timed(&pool, label);
        cost.peak_mb = meter::peak_mb().map(|mb| mb.max(cost.peak_mb.unwrap_or(0.0))).or(cost.peak_mb);
        cost.cpu_s.extend(sheets.iter().map(|_| cpu_s / sheets.len() as f64));
        cost.wall_s += wall_s;
        for (sheet, labelled) in sheets.into_iter().zip(labelled) {
            cost.megapixels += f64::from(sheet.image.width()) * f64::from(sheet.image.height()) / 1e6;
            let boxes = labelled.matches.into_iter().chain(labelled.candidates).map(annotation).collect();
            found.images.push(ImageAnnotations { annotations: boxes, ..sheet.truth.clone() });
            truth.images.push(sheet.truth);
        }
    }
    Ok(Outcome { truth, found, cost })
}
