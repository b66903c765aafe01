//! Templates as the matcher sees them: what was left out of each picture, which are poor, and which classes look alike.
//!
//! Owns these pictures and their words in the report. Refuses to judge: that is `vision`.

use std::collections::BTreeMap;

use engine::{Context, StageError};
use image::{Rgb, RgbImage, RgbaImage};
use report::draw;
use report::html::{Cell, Column, Figure, Picture, Table, details, h3, h4, note};
use report::number::{count, counted};
use report::{Headline, Html, Tone, el};
use vision::matcher::{
    CleanedPicture, Confusion, ConfusionKind, Part, Quality, Role, Symmetry, Template, TemplateQuality, Warning,
    quality,
};

use crate::exemplars;
use crate::labeller::Parts;
use crate::section::Told;
use crate::settings::{Choice, Method};
use crate::template;

const STYLE: &str = include_str!("pictures.css");
/// Templates shown at once; the others are folded away.
const OPEN: usize = 12;
/// Most templates shown at all.
const SHOWN: usize = 600;
/// Pairs of classes shown at once, and at all.
const PAIRS: [usize; 2] = [8, 100];
/// Longer side of a picture, pixels; larger templates are reduced.
const SIDE: u32 = 240;

/// Colours of the parts of a cleaned picture.
const INK: [u8; 3] = [20, 20, 20];
const PAPER: [u8; 3] = [255; 3];
const TEXT_INK: [u8; 3] = [190, 120, 0];
const TEXT_PAPER: [u8; 3] = [255, 240, 190];
const REMOVED: [u8; 3] = [214, 40, 40];
/// Two greys of a fine hatching.
const UNKNOWN: [[u8; 3]; 2] = [[222; 3], [180; 3]];

/// The templates of a run with their judgement; empty when the labeller does not look for templates.
pub struct Templates {
    templates: Vec<Template>,
    quality: Quality,
}

impl Templates {
    /// Judges the templates that the labeller used.
    pub fn of(told: &Told<'_>, ctx: &Context) -> Result<Self, StageError> {
        let settings = told.settings;
        if settings.labeller != Choice::Template || settings.method == Method::Ncc {
            return Ok(Self { templates: Vec::new(), quality: Quality::default() });
        }
        let parts = Parts { settings, ontology: told.ontology, ctx };
        let mut templates = template::given(&parts)?;
        templates.extend(exemplars::templates(&parts)?);
        let quality = quality(&templates, &template::matcher_config(settings, &templates));
        Ok(Self { templates, quality })
    }

    fn poor(&self) -> usize {
        self.quality.templates.iter().filter(|t| !t.warnings.is_empty()).count()
    }

    /// The number that matters.
    pub fn headline(&self) -> Option<Headline> {
        let poor = self.poor();
        let value = format!("{} of {}", count(poor), count(self.templates.len()));
        (poor > 0).then(|| Headline::toned("Templates with warnings", value, Tone::Warn))
    }

    /// Pictures, warnings, and pairs of classes.
    pub fn html(&self) -> Result<Html, StageError> {
        let mut out = Html::new();
        if self.quality.templates.is_empty() {
            return Ok(out);
        }
        out.push(Html::trusted(format!("<style>\n{STYLE}</style>")));
        out.push(h3("Templates"));
        out.push(self.summary());
        // Those that a person should look at come first; learned ones after the given ones.
        let mut order: Vec<&TemplateQuality> = self.quality.templates.iter().collect();
        order.sort_by_key(|t| (t.role, urgency(t)));
        let (now, rest): (Vec<_>, Vec<_>) =
            order.iter().take(SHOWN).enumerate().partition(|&(i, t)| i < OPEN && (urgency(t) < UNCHANGED || i < 4));
        out.push(self.grid(now.into_iter().map(|(_, t)| *t))?);
        if !rest.is_empty() {
            let title = counted(rest.len(), "more template", "more templates");
            out.push(details(title, self.grid(rest.into_iter().map(|(_, t)| *t))?));
        }
        if order.len() > SHOWN {
            out.push(note(format!("... and {} that are not shown", count(order.len() - SHOWN))));
        }
        out.push(self.pairs()?);
        Ok(out)
    }

    fn summary(&self) -> Html {
        let key = |color: [u8; 3], text: &str| {
            let [r, g, b] = color;
            let swatch = el("i").class("swatch").attr("style", format_args!("background:rgb({r},{g},{b})"));
            el("span").class("class").child(swatch).child(text)
        };
        let poor = self.poor();
        let first = if poor == 0 {
            "Nothing stands out in these templates.".to_owned()
        } else {
            let verb = if poor == 1 { "has a warning" } else { "have warnings" };
            format!("{} {verb}; those come first.", counted(poor, "template", "templates"))
        };
        let mut words = Html::new();
        words.push(first).push(" Beside each picture stands what is looked for on the drawings.");
        let keys = [
            key(INK, "the symbol"),
            key(REMOVED, "left out: not part of the symbol"),
            key(UNKNOWN[1], "not compared"),
            key(TEXT_INK, "writing that may differ from symbol to symbol"),
        ];
        let mut out = note(words);
        out.push(el("div").class("legend").children(keys));
        out
    }

    fn grid<'a>(&self, some: impl Iterator<Item = &'a TemplateQuality>) -> Result<Html, StageError> {
        let figures = some.map(|t| self.figure(t)).collect::<Result<Vec<_>, _>>()?;
        Ok(el("div").class("grid templates").children(figures).into())
    }

    fn figure(&self, t: &TemplateQuality) -> Result<Figure, StageError> {
        let mut caption = Html::new();
        caption.push(el("b").child(&t.class)).push(" ").push(&t.template);
        match t.role {
            Role::Given => {}
            Role::Confirmed => drop(caption.push(" (a box that was confirmed)")),
            Role::Negative => drop(caption.push(" (a box that was rejected: what looks like this is not the class)")),
        }
        for w in warnings(t) {
            caption.push(el("span").class("warning").child(w));
        }
        let mut remarks = Vec::new();
        if !t.notes.is_empty() {
            remarks.push(sentence(&t.notes.join(", ")));
        }
        remarks.extend(symmetry(&t.symmetric).map(|words| sentence(&words)));
        if !remarks.is_empty() {
            caption.push(el("span").class("remark").child(remarks.join(" ")));
        }
        let cleaned = png(&drawn(&t.cleaned))?;
        let alt = format!("What is looked for with {}", t.template);
        Ok(match self.original(t) {
            Some(picture) => {
                Figure::new(png(&picture)?, format!("Template {}", t.template), caption).beside(cleaned, alt)
            }
            None => Figure::new(cleaned, alt, caption),
        })
    }

    fn original(&self, t: &TemplateQuality) -> Option<RgbImage> {
        let template =
            self.templates.iter().find(|p| p.name == t.template && p.class == t.class && p.role == t.role)?;
        Some(on_checks(&template.image))
    }

    /// Classes that look alike, both pictures side by side.
    fn pairs(&self) -> Result<Html, StageError> {
        let mut out = Html::new();
        let all = &self.quality.confusions;
        if all.is_empty() {
            return Ok(out);
        }
        out.push(h4("Classes that look alike"));
        out.push(note(
            "Boxes of these classes are the first to check. The more strokes two templates share, the easier one is taken \
             for the other; better pictures, or confirming and rejecting some boxes in the review, tell them apart.",
        ));
        let listed: Vec<&Confusion> = all.iter().take(PAIRS[1]).collect();
        let (first, rest) = listed.split_at(listed.len().min(PAIRS[0]));
        out.push(self.pair_table(first)?);
        if !rest.is_empty() {
            out.push(details(counted(rest.len(), "more pair", "more pairs"), self.pair_table(rest)?));
        }
        if all.len() > PAIRS[1] {
            out.push(note(format!("... and {} more", count(all.len() - PAIRS[1]))));
        }
        Ok(out)
    }

    fn pair_table(&self, pairs: &[&Confusion]) -> Result<Html, StageError> {
        let columns = [
            Column::text("Class"),
            Column::text("Looks like"),
            Column::number("Alike"),
            Column::text("What that means"),
        ];
        let mut table = Table::new("", columns);
        for c in pairs {
            let means = match c.kind {
                ConfusionKind::NearDuplicate => "one may be taken for the other".to_owned(),
                ConfusionKind::Contains => format!("all of {} is found in {}, which has more", c.b, c.a),
            };
            table.row([
                Cell::of(self.named(&c.a, &c.template_a)?),
                Cell::of(self.named(&c.b, &c.template_b)?),
                Cell::percent(c.likeness),
                Cell::of(means),
            ]);
        }
        Ok(table.into())
    }

    /// A class with its template's cleaned picture.
    fn named(&self, class: &str, name: &str) -> Result<Html, StageError> {
        let mut cell = el("span").class("alike");
        if let Some(t) = self.quality.templates.iter().find(|t| t.class == class && t.template == name) {
            cell = cell.child(png(&drawn(&t.cleaned))?.img(name));
        }
        Ok(cell.child(el("span").child(class)).into())
    }
}

/// Urgency of templates from which nothing was taken.
const UNCHANGED: u8 = 2;

/// How soon a template should be looked at: 0 first.
fn urgency(t: &TemplateQuality) -> u8 {
    if !t.warnings.is_empty() {
        0
    } else if !t.removed.is_empty() || t.cleaned.parts.contains(&Part::TextInk) {
        1
    } else {
        UNCHANGED
    }
}

/// The warnings in words; classes that a symbol is a part of share one.
fn warnings(t: &TemplateQuality) -> Vec<String> {
    let mut words: BTreeMap<usize, String> = BTreeMap::new();
    let mut within: Vec<&str> = Vec::new();
    for (i, w) in t.warnings.iter().enumerate() {
        match w {
            Warning::PartOf { class } => within.push(class),
            other => drop(words.insert(i, sentence(&other.to_string()))),
        }
    }
    if let Some((first, others)) = within.split_first() {
        let more = match others {
            [] => String::new(),
            [one] => format!(" and {one}"),
            many => format!(" and {} other classes", many.len()),
        };
        words.insert(t.warnings.len(), format!("It is a part of {first}{more}, and may be found inside."));
    }
    words.into_values().collect()
}

/// Turns and mirrorings that change nothing, in words.
fn symmetry(found: &[Symmetry]) -> Option<String> {
    let turns: Vec<f64> = found.iter().filter(|s| !s.mirrored).map(|s| s.rotation_deg).collect();
    let mirrored = found.iter().any(|s| s.mirrored);
    let turned = match turns[..] {
        [] => None,
        [one] => Some(format!("turned by {one:.0} degrees")),
        _ if turns.len() >= 20 => Some("turned by any angle".to_owned()),
        // The smallest of several is the step of all.
        [first, ..] => Some(format!("turned by {first:.0} degrees or its multiples")),
    };
    let how = match (turned, mirrored) {
        (Some(t), true) => format!("{t}, and mirrored"),
        (Some(t), false) => t,
        (None, true) => "mirrored".to_owned(),
        (None, false) => return None,
    };
    Some(format!("it looks the same {how}"))
}

fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let Some(first) = letters.next() else { return String::new() };
    first.to_uppercase().chain(letters).chain(['.']).collect()
}

/// A picture on a checked ground that shows where it is transparent.
fn on_checks(image: &RgbaImage) -> RgbImage {
    let mut out = RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0.map(u32::from);
        let ground = if (x / 4 + y / 4) % 2 == 0 { 255 } else { 225 };
        Rgb([r, g, b].map(|v| ((v * a + ground * (255 - a) + 127) / 255) as u8))
    });
    if out.width().max(out.height()) > SIDE {
        out = draw::thumbnail(&out, SIDE).0;
    }
    out
}

/// A cleaned picture in colours.
fn drawn(cleaned: &CleanedPicture) -> RgbImage {
    let width = cleaned.width;
    let picture = RgbImage::from_fn(width as u32, cleaned.height as u32, |x, y| {
        Rgb(match cleaned.parts[y as usize * width + x as usize] {
            Part::Paper => PAPER,
            Part::Ink => INK,
            Part::TextPaper => TEXT_PAPER,
            Part::TextInk => TEXT_INK,
            Part::Unknown => UNKNOWN[usize::from((x + y) % 3 == 0)],
            Part::Removed(_) => REMOVED,
        })
    });
    draw::thumbnail(&picture, SIDE).0
}

fn png(picture: &RgbImage) -> Result<Picture, StageError> {
    draw::png(picture).map_err(|e| StageError::failed("making a template's picture for the report", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(rotation_deg: f64, mirrored: bool) -> Symmetry {
        Symmetry { rotation_deg, mirrored }
    }

    #[test]
    fn symmetry_is_told_in_words() {
        assert_eq!(symmetry(&[]), None);
        assert_eq!(symmetry(&[turn(180.0, false)]).unwrap(), "it looks the same turned by 180 degrees");
        let square = [turn(90.0, false), turn(180.0, false), turn(270.0, false), turn(0.0, true)];
        assert_eq!(symmetry(&square).unwrap(), "it looks the same turned by 90 degrees or its multiples, and mirrored");
        let round: Vec<Symmetry> = (1..24).map(|k| turn(15.0 * f64::from(k), false)).collect();
        assert_eq!(symmetry(&round).unwrap(), "it looks the same turned by any angle");
    }

    fn judged(warnings: Vec<Warning>) -> TemplateQuality {
        let cleaned = CleanedPicture { width: 2, height: 1, parts: vec![Part::Ink, Part::Unknown], frame: [0.0; 4] };
        let (class, template) = ("valve".to_owned(), "valve.png".to_owned());
        let (removed, notes, symmetric) = (Vec::new(), Vec::new(), Vec::new());
        TemplateQuality { class, template, role: Role::Given, cleaned, removed, notes, warnings, symmetric }
    }

    #[test]
    fn classes_that_a_symbol_is_a_part_of_share_a_warning() {
        let within = |class: &str| Warning::PartOf { class: class.to_owned() };
        let t = judged(vec![Warning::TooSmall { ink: 9, width: 4, height: 5 }, within("a"), within("b"), within("c")]);
        let words = warnings(&t);
        assert_eq!(words.len(), 2);
        assert!(words[0].starts_with("Too small: 4 x 5 pixels"), "{words:?}");
        assert_eq!(words[1], "It is a part of a and 2 other classes, and may be found inside.");
        assert_eq!(urgency(&t), 0);
        assert_eq!(urgency(&judged(Vec::new())), UNCHANGED);
    }

    #[test]
    fn parts_have_their_colours() {
        let p = drawn(&judged(Vec::new()).cleaned);
        assert_eq!((p.get_pixel(0, 0).0, p.get_pixel(1, 0).0), (INK, UNKNOWN[0]));
    }

    #[test]
    fn a_page_has_every_template_and_pair() {
        let square = |class: &str| {
            let image = RgbaImage::from_fn(40, 40, |x, y| {
                let rim =
                    [x, y].iter().any(|v| [4, 5, 34, 35].contains(v)) && [x, y].iter().all(|v| (4..36).contains(v));
                let level = if rim || (x == y && (4..36).contains(&x)) { 0 } else { 255 };
                image::Rgba([level, level, level, 255])
            });
            Template { class: class.to_owned(), name: format!("{class}.png"), image, role: Role::Given, frame: None }
        };
        let templates = vec![square("left"), square("right")];
        let quality = quality(&templates, &vision::matcher::MatcherConfig::default());
        let told = Templates { templates, quality };
        assert_eq!(told.headline().unwrap().value, "2 of 2");
        let page = told.html().unwrap();
        for part in ["left.png", "right.png", "Looks like class `left`", "one may be taken for the other"] {
            assert!(page.as_str().contains(part), "{part}");
        }
    }
}
