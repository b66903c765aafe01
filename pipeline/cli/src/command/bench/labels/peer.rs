//! The peer: OpenCV's matchTemplate over the same sheets in the same run, by the program `benches/labels/opencv.py`.
//!
//! Owns what the peer is asked for and reading its answer. Refuses to be kind or unkind to it: it gets the templates
//! trimmed to their ink, which is where the truth's boxes end, runs on one thread, is measured on its own CPU clock,
//! and is judged at the threshold that is best for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use datasets::{Annotation, AnnotationSet, BBox, ImageAnnotations, Score};
use image::{GrayImage, Luma, RgbaImage, imageops};
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::case::{Case, Sheet};

/// The peer's program.
const PROGRAM: &str = include_str!("../../../../../../benches/labels/opencv.py");
/// Exit code with which it says that a library is missing.
const NO_LIBRARY: i32 = 3;
/// Turns and scales: 20 poses a template.
const QUARTER_TURNS: u32 = 4;
const SCALES: [f64; 5] = [0.8, 0.894, 1.0, 1.118, 1.25];
/// Likeness below which no box is made; its best threshold lies far above.
const FLOOR: f64 = 0.5;
/// Paper that is left around the ink of a template, in pixels.
const MARGIN: u32 = 2;
/// Grey below which a pixel of a template is ink.
const INK: u8 = 160;

/// What the peer says.
#[derive(Clone, Debug, Deserialize)]
struct Answer {
    opencv: String,
    numpy: String,
    python: String,
    sheets: Vec<SheetAnswer>,
}

#[derive(Clone, Debug, Deserialize)]
struct SheetAnswer {
    calls: usize,
    match_cpu_s: f64,
    cpu_s: f64,
    boxes: Vec<(String, f64, f64, f64, f64, f64)>,
}

/// What the peer found, and what that cost.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// Versions of OpenCV, numpy and Python.
    pub versions: [String; 3],
    /// Calls of `matchTemplate` a sheet.
    pub calls: usize,
    /// CPU seconds of these calls, for each sheet.
    pub match_cpu_s: Vec<f64>,
    /// CPU seconds of everything, for each sheet.
    pub cpu_s: Vec<f64>,
    /// The boxes.
    #[serde(skip)]
    pub found: AnnotationSet,
    /// The truth of the same sheets.
    #[serde(skip)]
    pub truth: AnnotationSet,
}

impl Peer {
    /// Mean CPU seconds of the calls for a sheet.
    pub fn match_per_sheet(&self) -> f64 {
        self.match_cpu_s.iter().sum::<f64>() / self.match_cpu_s.len().max(1) as f64
    }

    /// Mean CPU seconds of a sheet.
    pub fn per_sheet(&self) -> f64 {
        self.cpu_s.iter().sum::<f64>() / self.cpu_s.len().max(1) as f64
    }
}

/// Why the peer did not run.
#[derive(Debug)]
pub enum Absent {
    /// Python or a library is missing: what is, and what to do.
    Missing(String),
    /// It ran and failed.
    Failed(miette::Report),
}

impl From<miette::Report> for Absent {
    fn from(e: miette::Report) -> Self {
        Self::Failed(e)
    }
}

/// Runs the peer on the first `sheets` sheets of a case.
pub fn run(python: &Path, case: &Case, sheets: u64) -> Result<Peer, Absent> {
    let dir = tempfile::tempdir().into_diagnostic().wrap_err("making a folder for the peer")?;
    let end = case.range.end.min(case.range.start + sheets);
    let (request, truth) = request(dir.path(), case, case.range.start..end)?;
    let answer = ask(python, dir.path(), &request)?;
    if answer.sheets.len() != truth.images.len() {
        return Err(miette!("the peer answered for {} sheets of {}", answer.sheets.len(), truth.images.len()).into());
    }
    let images = truth.images.iter().zip(&answer.sheets).map(|(image, sheet)| ImageAnnotations {
        annotations: sheet.boxes.iter().map(boxed).collect(),
        ..image.clone()
    });
    let found = AnnotationSet { images: images.collect(), ..truth.clone() };
    Ok(Peer {
        versions: [answer.opencv, answer.numpy, answer.python],
        calls: answer.sheets.first().map_or(0, |s| s.calls),
        match_cpu_s: answer.sheets.iter().map(|s| s.match_cpu_s).collect(),
        cpu_s: answer.sheets.iter().map(|s| s.cpu_s).collect(),
        found,
        truth,
    })
}

fn boxed((class, x0, y0, x1, y1, score): &(String, f64, f64, f64, f64, f64)) -> Annotation {
    let mut a = Annotation::new(class.clone(), BBox::new(*x0, *y0, *x1, *y1));
    // A likeness of float32 may lie above 1 by its last digit.
    a.score = Score::new(score.clamp(0.0, 1.0)).ok();
    a
}

/// Writes templates, sheets and the request into `dir`.
fn request(dir: &Path, case: &Case, range: std::ops::Range<u64>) -> Result<(PathBuf, AnnotationSet)> {
    let save = |picture: &GrayImage, name: String| -> Result<PathBuf> {
        let path = dir.join(name);
        picture.save(&path).into_diagnostic().wrap_err_with(|| format!("writing `{}`", path.display()))?;
        Ok(path)
    };
    let mut templates = Vec::new();
    for (i, t) in case.templates.iter().enumerate() {
        let file = save(&trimmed(&on_paper(&t.image)), format!("template_{i:03}.png"))?;
        templates.push(json!({ "class": t.class, "file": file, "margin": MARGIN }));
    }
    let mut truth = AnnotationSet { classes: case.classes.clone(), images: Vec::new(), skipped: Vec::new() };
    let mut files = Vec::new();
    for i in range {
        let Sheet { image, truth: known } = (case.sheets)(i)?;
        files.push(save(&imageops::grayscale(&image), format!("sheet_{i:04}.png"))?);
        truth.images.push(known);
    }
    let request = json!({
        "templates": templates, "sheets": files, "quarter_turns": QUARTER_TURNS, "scales": SCALES, "floor": FLOOR,
        "nms_iou": case.config.nms_iou,
    });
    let path = dir.join("request.json");
    fs::write(&path, request.to_string()).into_diagnostic().wrap_err("writing the peer's request")?;
    Ok((path, truth))
}

fn ask(python: &Path, dir: &Path, request: &Path) -> Result<Answer, Absent> {
    let program = dir.join("opencv.py");
    fs::write(&program, PROGRAM).into_diagnostic().wrap_err("writing the peer's program")?;
    let output = Command::new(python).arg(&program).arg(request).output().map_err(|e| {
        Absent::Missing(format!("`{}` cannot be started ({e}): name a Python 3 with --python", python.display()))
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_LIBRARY) {
        let python = python.display();
        return Err(Absent::Missing(format!(
            "`{python}` has no OpenCV ({}): `{python} -m pip install opencv-python-headless`, or name another Python with --python",
            said.trim()
        )));
    }
    if !output.status.success() {
        return Err(miette!("the peer failed: {said}").into());
    }
    Ok(serde_json::from_slice(&output.stdout).into_diagnostic().wrap_err("reading the peer's answer")?)
}

/// Grey on white paper.
fn on_paper(picture: &RgbaImage) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, a] = picture.get_pixel(x, y).0.map(f32::from);
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        Luma([(255.0 - (255.0 - grey) * a / 255.0).round() as u8])
    })
}

/// The ink with [`MARGIN`] pixels of paper around it.
fn trimmed(picture: &GrayImage) -> GrayImage {
    let ink: Vec<(u32, u32)> = picture.enumerate_pixels().filter(|p| p.2[0] < INK).map(|(x, y, _)| (x, y)).collect();
    let range = |of: fn(&(u32, u32)) -> u32| Some((ink.iter().map(of).min()?, ink.iter().map(of).max()?));
    let (Some((x0, x1)), Some((y0, y1))) = (range(|p| p.0), range(|p| p.1)) else { return picture.clone() };
    let (w, h) = (x1 - x0 + 1, y1 - y0 + 1);
    let mut out = GrayImage::from_pixel(w + 2 * MARGIN, h + 2 * MARGIN, Luma([255]));
    imageops::replace(&mut out, &imageops::crop_imm(picture, x0, y0, w, h).to_image(), MARGIN.into(), MARGIN.into());
    out
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    #[test]
    fn templates_are_trimmed_to_their_ink_on_white_paper() {
        let mut picture = RgbaImage::from_pixel(20, 10, Rgba([0, 0, 0, 0]));
        for x in 5..9 {
            picture.put_pixel(x, 4, Rgba([0, 0, 0, 255]));
        }
        let out = trimmed(&on_paper(&picture));
        assert_eq!(out.dimensions(), (4 + 2 * MARGIN, 1 + 2 * MARGIN));
        assert_eq!((out.get_pixel(0, 0)[0], out.get_pixel(MARGIN, MARGIN)[0]), (255, 0));
        let blank = on_paper(&RgbaImage::from_pixel(3, 3, Rgba([0, 0, 0, 0])));
        assert_eq!(trimmed(&blank), blank);
    }

    #[test]
    fn a_python_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let Err(Absent::Missing(text)) = ask(Path::new("/no/such/python"), dir.path(), Path::new("x")) else {
            panic!("it is missing");
        };
        assert!(text.contains("/no/such/python") && text.contains("--python"), "{text}");
    }
}
