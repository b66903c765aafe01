//! The stage that turns a person's decisions into templates, and what template labellers make of them.
//!
//! A box that was confirmed shows what its class looks like on these drawings; one that was rejected shows what it is
//! taken for. Only decisions of a person are learned from: matches that nobody looked at would confirm themselves.
//!
//! Owns the choice and the cutting of pictures. Refuses to own what decisions do to labels (that is `review`) and how
//! pictures are found again (that is `vision`). Its output depends on the lessons alone, so that a file which only
//! approves labels has nothing computed anew.

use std::collections::BTreeMap;
use std::io::Cursor;

use artifacts::{
    Exemplar, ExemplarSet, Exemplars as ExemplarsKind, FILES, Files, IMAGES, InputFiles, Lesson, Report, Standing,
    decisions::{box_id, parse_all},
    standing,
};
use datasets::picture::{Limits, decode};
use datasets::{Annotation, BBox, Decision, Pixels};
use engine::artifact::Kind;
use engine::{Blob, Context, Descriptor, Level, Outcome, Port, Stage, StageError};
use image::ImageFormat;
use rayon::prelude::*;
use report::html::{Figure, Grid, Picture, details, figures, list, note};
use report::{Headline, Section, number};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vision::matcher::{Matcher, MatcherConfig, Poses, Role, Rotations, Template};

use crate::labeller::Parts;
use crate::upright::{Cutout, Lie, cut};

/// Most pictures of a class and lesson, the latest decisions first: some ten say all there is to say, and each costs
/// time on every drawing.
const PER_LESSON: usize = 24;
/// A rejected box that shares this much (intersection over union) with a right one of its class shows the class itself.
const SHARED: f64 = 0.3;
/// Pictures shown of a class in the report.
const SHOWN: usize = 12;

/// The exemplars stage has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExemplarSettings {}

/// The exemplars stage. Inputs `images` and `decisions`; outputs `exemplars` (absent when there is nothing to learn)
/// and `report`.
pub struct Exemplars;

/// A picture to be cut.
struct Wanted<'a> {
    image: &'a str,
    lesson: Lesson,
    class: String,
    bbox: BBox<Pixels>,
    lie: Lie,
    id: String,
    order: usize,
}

impl Stage for Exemplars {
    type Config = ExemplarSettings;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "exemplars".into(),
            version: 2,
            about: "Cuts templates out of boxes that a person decided about.".into(),
            inputs: vec![Port::new("images", IMAGES), Port::new("decisions", FILES)],
            outputs: vec![Port::optional("exemplars", ExemplarsKind::NAME), Port::new("report", Report::NAME)],
            items: None,
        }
    }

    fn run(&self, _config: &ExemplarSettings, ctx: &Context) -> Result<Outcome, StageError> {
        let files = parse_all(&ctx.read::<InputFiles>("decisions")?)?;
        let images = ctx.manifest("images")?;
        let held = standing(&files);
        let (mut problems, mut wanted) = (Vec::new(), Vec::new());
        for (image, decisions) in &held {
            match images.blob(image) {
                Some(blob) => wanted.extend(lessons(image, &blob.digest.to_string(), decisions, &mut problems)),
                None if decisions.iter().any(|d| d.teaches) => {
                    problems.push(format!("image `{image}` is gone: nothing is learned from it"));
                }
                None => {}
            }
        }
        let over = limit(&mut wanted);
        if over > 0 {
            let n = number::counted(over, "older decision is", "older decisions are");
            problems
                .push(format!("{n} not learned from: {PER_LESSON} pictures of a class and kind are used, the latest"));
        }
        let set = pictures(&wanted, |image| images.blob(image), &mut problems, ctx)?;
        for problem in &problems {
            ctx.message(Level::Warn, problem);
        }
        let count = |lesson: Lesson| set.list.iter().filter(|e| e.lesson == lesson).count();
        let rejected = count(Lesson::Rejected);
        ctx.metric("exemplars", (set.list.len() - rejected) as f64);
        ctx.metric("counterexamples", rejected as f64);
        let section = section(&set, &problems);
        ctx.write::<Report>("report", &Files::from([("section.json".to_owned(), section.to_json())]))?;
        if !set.list.is_empty() {
            ctx.write::<ExemplarsKind>("exemplars", &set)?;
        }
        Ok(Outcome::Done)
    }
}

/// What the decisions about an image, whose file has `digest`, teach.
fn lessons<'a>(image: &'a str, digest: &str, held: &[Standing], problems: &mut Vec<String>) -> Vec<Wanted<'a>> {
    let mut out = Vec::new();
    for d in held.iter().filter(|d| d.teaches) {
        let id = d.id.as_deref().map_or_else(String::new, |id| format!(" #{id}"));
        if d.digest.as_deref().is_some_and(|then| then != digest) {
            problems
                .push(format!("image `{image}`{id} changed since it was decided about: nothing is learned from it"));
            continue;
        }
        if d.seen.is_none() && d.what != Decision::Added {
            problems.push(format!(
                "image `{image}`{id}: the decision does not say what the box was; `pipeline review apply` fills that in"
            ));
            continue;
        }
        let want = |lesson, class: &str, bbox: BBox<Pixels>, lie| Wanted {
            image,
            lesson,
            class: class.to_owned(),
            bbox,
            lie,
            id: box_id(digest, class, &bbox),
            order: d.order,
        };
        let seen_lie = d.seen.as_ref().and_then(|s| Lie::of(&s.provenance));
        if let Some((class, bbox)) = d.right() {
            // Another class has other templates: how they lie here is not known, but about how large they are.
            let same = d.seen.as_ref().is_some_and(|s| s.class == class);
            out.push(if let Some(lie) = seen_lie.filter(|_| same) {
                want(Lesson::Confirmed, class, bbox, lie)
            } else {
                let scale = d.scale.or(seen_lie.map(|l| l.scale)).filter(|s| (0.02..=50.0).contains(s));
                want(Lesson::Added, class, bbox, Lie::upright(scale.unwrap_or(1.0)))
            });
        }
        let is_class = |wrong: &Annotation| {
            let right = held.iter().filter_map(Standing::right);
            right.into_iter().any(|(class, bbox)| class == wrong.class && bbox.iou(&wrong.bbox) >= SHARED)
        };
        if let Some(wrong) = d.wrong().filter(|w| !is_class(w)) {
            let lie = seen_lie.unwrap_or(Lie::upright(1.0));
            out.push(want(Lesson::Rejected, &wrong.class, wrong.bbox, lie));
        }
    }
    out
}

/// Keeps the latest of each class and lesson, in order of class, lesson and time; the result is how many were dropped.
fn limit(wanted: &mut Vec<Wanted<'_>>) -> usize {
    let before = wanted.len();
    wanted.sort_by(|a, b| (&a.class, a.lesson, b.order, &a.id).cmp(&(&b.class, b.lesson, a.order, &b.id)));
    let mut counts: BTreeMap<(String, Lesson), usize> = BTreeMap::new();
    wanted.retain(|w| {
        let n = counts.entry((w.class.clone(), w.lesson)).or_default();
        *n += 1;
        *n <= PER_LESSON
    });
    wanted.sort_by(|a, b| (&a.class, a.lesson, a.order, &a.id).cmp(&(&b.class, b.lesson, b.order, &b.id)));
    before - wanted.len()
}

/// Cuts the pictures; as many drawings are open at a time as there are threads.
fn pictures<'a>(
    wanted: &[Wanted<'_>],
    blob: impl Fn(&str) -> Option<&'a Blob> + Sync,
    problems: &mut Vec<String>,
    ctx: &Context,
) -> Result<ExemplarSet, StageError> {
    let mut of_image: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, w) in wanted.iter().enumerate() {
        of_image.entry(w.image).or_default().push(i);
    }
    let of_image: Vec<(&Blob, Vec<usize>)> =
        of_image.into_iter().filter_map(|(image, all)| Some((blob(image)?, all))).collect();
    let mut cuts: BTreeMap<usize, Cutout> = BTreeMap::new();
    for result in of_image.par_iter().map(|(blob, all)| cut_from(blob, all, wanted, ctx)).collect::<Vec<_>>() {
        for (i, cut) in result? {
            match cut {
                Ok(cut) => {
                    cuts.insert(i, cut);
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
    let mut set = ExemplarSet::default();
    for (i, Cutout { picture, frame }) in cuts {
        let w = &wanted[i];
        let (folder, word) = match w.lesson {
            Lesson::Confirmed => ("confirmed", "confirmed"),
            Lesson::Added => ("added", "confirmed"),
            Lesson::Rejected => ("rejected", "rejected"),
        };
        let name = format!("{word}: {} #{}", w.image, w.id);
        let file = format!("{folder}/{}/{}.png", file_name(&w.class), w.id);
        let mut bytes = Vec::new();
        picture
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .map_err(|e| StageError::failed(format!("encoding `{file}`"), e))?;
        set.pictures.insert(file.clone(), bytes);
        set.list.push(Exemplar { file, class: w.class.clone(), name, lesson: w.lesson, frame });
    }
    Ok(set)
}

/// The pictures out of one drawing: positions of `all` in `wanted` with what was cut, or why nothing was.
type Cuts = Vec<(usize, Result<Cutout, String>)>;

fn cut_from(blob: &Blob, all: &[usize], wanted: &[Wanted<'_>], ctx: &Context) -> Result<Cuts, StageError> {
    ctx.check()?;
    let picture = match decode(&ctx.bytes(blob)?, &Limits::default()) {
        Ok(picture) => picture.rgb,
        Err(e) => {
            let text = format!("image `{}`: {e}; nothing is learned from it", blob.name);
            return Ok(all.iter().take(1).map(|&i| (i, Err(text.clone()))).collect());
        }
    };
    let of = |&i: &usize| {
        let w = &wanted[i];
        let cut = cut(&picture, &w.bbox, w.lie).filter(|c| can_be_found(&w.class, c));
        let why = || format!("image `{}` #{}: nothing is drawn there, so nothing is learned from it", w.image, w.id);
        (i, cut.ok_or_else(why))
    };
    Ok(all.iter().map(of).collect())
}

/// False for a picture that the matcher would refuse, which must not stop the labels of a whole set.
fn can_be_found(class: &str, cut: &Cutout) -> bool {
    let (class, name, image) = (class.to_owned(), String::new(), cut.picture.clone());
    let template = Template { class, name, image, role: Role::Given, frame: cut.frame };
    let poses = Poses { rotations: Rotations::None, mirror: false, ..Poses::default() };
    Matcher::new(&[template], &MatcherConfig { poses, ..MatcherConfig::default() }).is_ok()
}

/// A class as a part of a path.
fn file_name(class: &str) -> String {
    class.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

fn section(set: &ExemplarSet, problems: &[String]) -> Section {
    let mut s = Section::new("exemplars", "Learned from the review");
    let rejected = set.list.iter().filter(|e| e.lesson == Lesson::Rejected).count();
    s.headline.push(Headline::new("Confirmed boxes", number::count(set.list.len() - rejected)));
    s.headline.push(Headline::new("Rejected boxes", number::count(rejected)));
    if set.list.is_empty() {
        s.push(note("The decisions so far teach the labeller nothing: they only approve labels, or cannot be used."));
    } else {
        s.push(note(
            "The labeller looks for these pictures beside the templates. They are boxes that a person decided about, \
             turned upright. Where a rejected one fits better than the class itself, nothing is reported.",
        ));
    }
    let mut classes: BTreeMap<&str, Vec<&Exemplar>> = BTreeMap::new();
    for e in &set.list {
        classes.entry(&e.class).or_default().push(e);
    }
    for (class, all) in classes {
        let figure = |e: &&Exemplar| {
            let bytes = set.pictures.get(&e.file)?.clone();
            let size = image::load_from_memory(&bytes).ok()?;
            let picture = Picture { mime: "image/png", bytes, width: size.width(), height: size.height() };
            Some(Figure::new(picture, format!("{class}, {}", e.name), e.name.as_str()))
        };
        let rejected = all.iter().filter(|e| e.lesson == Lesson::Rejected).count();
        let title = format!("{class}: {} confirmed, {rejected} rejected", all.len() - rejected);
        s.push(details(title, figures(Grid::Small, all.iter().take(SHOWN).filter_map(figure))));
    }
    if !problems.is_empty() {
        s.push(list(problems));
    }
    s
}

/// The exemplars at a labeller's input, as templates of classes that the ontology has.
pub fn templates(parts: &Parts<'_>) -> Result<Vec<Template>, StageError> {
    if !parts.ctx.has("exemplars") {
        return Ok(Vec::new());
    }
    let set = parts.ctx.read::<ExemplarsKind>("exemplars")?;
    let known = set.list.iter().filter(|e| parts.ontology.ontology.class(&e.class).is_some());
    known
        .map(|e| {
            let bytes = set.pictures.get(&e.file).ok_or_else(|| {
                StageError::message(format!("the exemplars name picture `{}` and do not hold it", e.file))
            })?;
            let image = image::load_from_memory(bytes)
                .map_err(|error| StageError::failed(format!("reading exemplar `{}`", e.file), error))?;
            let role = match e.lesson {
                Lesson::Confirmed => Role::Confirmed,
                Lesson::Added => Role::Given,
                Lesson::Rejected => Role::Negative,
            };
            let (class, name, image) = (e.class.clone(), e.name.clone(), image.into_rgba8());
            Ok(Template { class, name, image, role, frame: e.frame })
        })
        .collect()
}
