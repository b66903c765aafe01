//! The part of the section that asks for a person's look: how sure the labeller is, and the boxes that are worth one.
//!
//! Owns the words and the cards. Refuses to choose: the queue is in order already.

use report::html::{self, Cell, Column, Figure, Table, el};
use report::number::{count, counted, fixed};
use report::{Html, Legend};

use crate::bands::{Band, ClassBands, SECONDS_PER_LOOK};
use crate::explain::sentence as explained;
use crate::pictures::Crop;
use crate::section::{Told, sentence};

/// Classes whose boxes to look at are open when the page opens.
const OPEN: usize = 6;

/// How sure the labeller is, class by class.
pub fn bands(t: &Told<'_>, legend: &Legend) -> Html {
    let (b, mut out) = (t.bands, Html::new());
    if b.all.total() == 0 {
        return out;
    }
    out.push(html::h3("How sure"));
    let odd = b.to_look_at - b.all.queue_labels - b.all.queue_candidates;
    let mut text = format!(
        "{} accepted outright: the labeller is at least {} sure.",
        counted(b.all.accept, "box is", "boxes are"),
        whole(b.settings.accept)
    );
    let parts = [
        (b.all.queue_labels, "label that is less sure", "labels that are less sure"),
        (b.all.queue_candidates, "box that was left out", "boxes that were left out"),
        (odd, "sure one with something odd about it", "sure ones with something odd about them"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|p| p.0 > 0).map(|(n, one, many)| counted(n, one, many)).collect();
    if parts.is_empty() {
        text += " Nothing else needs a look.";
    } else {
        text = format!(
            "{text} {} worth a look, {} if one takes {} seconds: {}.",
            counted(b.to_look_at, "box is", "boxes are"),
            about(b.seconds),
            fixed(SECONDS_PER_LOOK, 0),
            parts.join(", ")
        );
    }
    out.push(html::p(text));
    let most = b.classes.iter().map(ClassBands::total).max().unwrap_or(1).max(1) as f64;
    let mut table = Table::new(
        "Boxes by class",
        [
            Column::text("Class"),
            Column::text(""),
            Column::number("Decided"),
            Column::number("Accepted"),
            Column::number("To look at"),
            Column::number("of them left out"),
        ],
    );
    for c in &b.classes {
        let part = |class: &'static str, n: usize| {
            let width = fixed(n as f64 / most * 100.0, 2);
            (n > 0).then(|| el("i").class(class).attr("style", format_args!("width:{width}%")))
        };
        let parts = [
            part("decided", c.decided),
            part("accept", c.accept),
            part("queue", c.queue_labels),
            part("out", c.queue_candidates),
        ];
        let said = format!(
            "{}: {} decided, {} accepted outright, {} labels and {} left out to look at",
            c.class, c.decided, c.accept, c.queue_labels, c.queue_candidates
        );
        let bar = el("span").class("bands").attr("role", "img").attr("aria-label", said);
        table.row([
            Cell::of(html::class_name(&c.class, legend.color(&c.class))),
            Cell::sorted(Html::from(bar.children(parts.into_iter().flatten())), c.total() as f64),
            Cell::count(c.decided),
            Cell::count(c.accept),
            Cell::count(c.queue_labels + c.queue_candidates),
            Cell::count(c.queue_candidates),
        ]);
    }
    out.push(el("div").class("by-band").child(table));
    let key = |class: &'static str, text: &str| -> Html {
        [Html::from(el("span").class("bands key").child(el("i").class(class))), format!(" {text} ").into()]
            .into_iter()
            .collect()
    };
    out.push(html::note(Html::from_iter([
        key("decided", "decided by a person"),
        key("accept", "accepted outright"),
        key("queue", "label to look at"),
        key("out", "left out, to look at"),
    ])));
    out
}

/// The queue, class by class, with pictures.
pub fn to_look_at(t: &Told<'_>, legend: &Legend) -> Html {
    let mut out = Html::new();
    if t.pictures.crops.is_empty() {
        return out;
    }
    out.push(html::h3("Boxes worth a look"));
    let shown: usize = t.pictures.crops.values().map(Vec::len).sum();
    let all = t.bands.to_look_at;
    let some = if shown < all {
        format!(" {} of {} are shown; queue.json has all of them.", count(shown), count(all))
    } else {
        String::new()
    };
    out.push(html::note(format!(
        "The most useful first: where the labeller is least sure, a look decides most. Beside each box is the template, \
         turned as it was found. Mark a box right or wrong, or say what it is; then save the decisions at the end of \
         this section. A box that was left out and is right becomes a label.{some}"
    )));
    let mut classes: Vec<(&String, &Vec<Crop>)> = t.pictures.crops.iter().collect();
    let best = |crops: &[Crop]| crops.iter().map(|c| t.queue.items[c.item].usefulness).fold(0.0, f64::max);
    classes.sort_by(|a, b| best(b.1).total_cmp(&best(a.1)).then(a.0.cmp(b.0)));
    for (rank, (class, crops)) in classes.into_iter().enumerate() {
        let mut summary = Html::new();
        summary.push(html::class_name(class, legend.color(class)));
        if let Some(b) = t.bands.classes.iter().find(|b| b.class == *class) {
            let words = format!(
                "{} to look at, {} accepted outright",
                counted(b.queue_labels + b.queue_candidates, "box", "boxes"),
                count(b.accept)
            );
            summary.push(el("span").class("aside").child(words));
        }
        let cards = crops.iter().map(|crop| card(t, crop));
        let block =
            el("details").child(el("summary").child(summary)).child(el("div").class("grid queue").children(cards));
        out.push(if rank < OPEN { block.flag("open") } else { block });
    }
    out
}

/// A box of the queue: the cut-out and its template, what is known about it, and the buttons.
fn card(t: &Told<'_>, crop: &Crop) -> Html {
    let item = &t.queue.items[crop.item];
    let sure = item.score.map_or_else(|| "confidence not known".to_owned(), |s| format!("{} sure", whole(s)));
    let fate = match (item.candidate, item.band) {
        (true, _) => ("out", "left out"),
        (false, Band::Accept) => ("accept", "label, accepted outright"),
        (false, _) => ("queue", "label"),
    };
    let mut caption = Html::new();
    caption.push(el("b").child(&sure)).push(" ").push(el("span").class(format_args!("fate {}", fate.0)).child(fate.1));
    let why = explained(&item.explanation);
    if !why.is_empty() {
        caption.push(el("span").class("why").child(why));
    }
    if !item.reasons.is_empty() {
        caption.push(el("span").class("reason").child(format!("{}.", sentence(&item.reasons.join("; ")))));
    }
    let with = crop.template.as_ref().map_or_else(String::new, |(name, _)| format!(", beside {name}"));
    caption.push(el("span").class("where").child(format!("On {}{with}", item.image)));
    let (class, image) = (&item.class, &item.image);
    let button = |what: &str, label: &str| {
        el("button")
            .attr("type", "button")
            .attr("data-decision", what)
            .attr("aria-pressed", "false")
            .attr("aria-label", format_args!("{label}: {class} on {image}"))
            .child(label)
    };
    let other = el("select")
        .attr("data-decision", "correct")
        .attr("aria-label", format_args!("It is another class: {class} on {image}"));
    let buttons = [button("accept", "right"), button("reject", "wrong"), other];
    caption.push(el("span").class("decide").children(buttons));
    let mut figure = Figure::new(crop.picture.clone(), format!("{class}, {sure}, on {image}"), caption);
    if let Some((name, picture)) = &crop.template {
        figure = figure.beside(picture.clone(), format!("Template {name}"));
    }
    let edges: [f64; 4] = item.bbox.into();
    el("div")
        .class("crop")
        .attr("data-image", image)
        .attr("data-digest", &item.digest)
        .attr("data-box", &item.id)
        .attr("data-class", class)
        .attr("data-edges", serde_json::to_string(&edges).unwrap_or_default())
        .child(figure)
        .into()
}

/// A time for people: nobody plans seconds.
fn about(seconds: f64) -> String {
    match (seconds / 60.0).ceil() as usize {
        0 | 1 => "a minute".into(),
        minutes if minutes < 90 => format!("about {minutes} minutes"),
        minutes => format!("about {} hours", fixed(minutes as f64 / 60.0, 1)),
    }
}

/// A share in whole percent; never 100 for less.
fn whole(share: f64) -> String {
    format!("{} %", fixed((share * 100.0).round().min(if share < 1.0 { 99.0 } else { 100.0 }), 0))
}
