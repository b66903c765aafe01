//! The section of the report that says where stages ran, for runs in which that had to be decided.

use engine::{
    context::Elsewhere,
    executor::LOCAL,
    record::{RunRecord, StageRecord},
};
use report::{
    Headline, Section, Tone,
    html::{Cell, Column, Table, note, notice},
    number,
};

/// Its name in the page.
pub const ID: &str = "where";

/// The section; none when every stage simply ran here.
pub fn section(record: &RunRecord) -> Option<Section> {
    let stages: Vec<(&String, &StageRecord)> = record
        .order
        .iter()
        .map(|name| (name, &record.stages[name]))
        .filter(|(_, s)| s.status.has_outputs() || s.notes.elsewhere.is_some())
        .filter(|(_, s)| !s.placement.is_empty() || s.notes.elsewhere.is_some())
        .collect();
    if stages.is_empty() {
        return None;
    }
    let far: Vec<(&str, &StageRecord, &Elsewhere)> =
        stages.iter().filter_map(|(n, s)| Some((n.as_str(), *s, s.notes.elsewhere.as_ref()?))).collect();
    let mut section = Section::new(ID, "Where it ran");
    let sum = |of: &dyn Fn(&Elsewhere) -> f64| far.iter().map(|(_, _, e)| of(e)).sum::<f64>();
    if !far.is_empty() {
        let again = sum(&|e| (e.failed + e.in_vain()) as f64);
        let tone = if again > 0.0 { Tone::Warn } else { Tone::Plain };
        section.headline = vec![
            Headline::new("Stages elsewhere", number::count(far.len())),
            Headline::new("Shards", number::count(sum(&|e| e.shards as f64) as usize)),
            Headline::toned("Lost attempts", number::count(again as usize), tone),
            Headline::new("Machine time", number::duration(sum(&Elsewhere::seconds))),
            Headline::new("GPU time", number::duration(sum(&Elsewhere::gpu_seconds))),
        ];
        if far.iter().any(|(_, _, e)| e.price.is_some()) {
            let cost = sum(&|e| e.cost().unwrap_or_default());
            section.headline.push(Headline::new("Cost of the GPUs", number::fixed(cost, 2)));
        }
    }
    let mut places = Table::new("Places", [Column::text("Stage"), Column::text("Ran on"), Column::text("Because")]);
    for (name, s) in &stages {
        let at = match &s.notes.elsewhere {
            Some(e) => format!("{} ({})", s.executor, e.system),
            None if s.executor == LOCAL => "this machine".into(),
            None => s.executor.clone(),
        };
        places.row([Cell::of(*name), Cell::of(at), Cell::of(&s.placement)]);
    }
    section.push(places);
    if far.is_empty() {
        return Some(section);
    }
    section.push(work(&far));
    section.push(note(
        "An attempt is one worker's try at a shard; retried shards were submitted again. Failed attempts said why. In vain were those that were killed, or that came \
         second with the same result. Times are those of all attempts at these shards, transfers included; of one that was killed, \
         as far as its last sign of life. Shards that an earlier run took in are not counted again.",
    ));
    for (name, _, e) in far.iter().filter(|(_, _, e)| e.differing > 0) {
        let text = format!(
            "{} of `{name}` gave another result than the one that counts: this stage does not give the same on all of these machines.",
            report::number::counted(e.differing as usize, "attempt", "attempts")
        );
        section.push(notice(Tone::Bad, "Results that differ", text));
    }
    section.push(machines(&far));
    Some(section)
}

/// What every stage took.
fn work(far: &[(&str, &StageRecord, &Elsewhere)]) -> Table {
    let numbers = ["Shards", "Attempts", "Failed", "In vain", "Retried", "Left out", "Time", "GPU seconds"];
    let priced = far.iter().any(|(_, _, e)| e.price.is_some());
    let cost = priced.then(|| Column::number("Cost"));
    let columns = [Column::text("Stage")].into_iter().chain(numbers.map(Column::number)).chain(cost);
    let mut table = Table::new("Work", columns);
    for (name, s, e) in far {
        let counts = [e.shards, e.attempts, e.failed, e.in_vain(), e.resubmitted, s.notes.quarantined];
        let cost = priced.then(|| Cell::maybe(e.cost(), 2));
        let cells = [Cell::of(*name)]
            .into_iter()
            .chain(counts.map(|n| Cell::count(n as usize)))
            .chain([Cell::sorted(number::duration(e.seconds()), e.seconds()), Cell::fixed(e.gpu_seconds(), 1)])
            .chain(cost);
        table.row(cells);
    }
    table
}

/// What every machine did.
fn machines(far: &[(&str, &StageRecord, &Elsewhere)]) -> Table {
    let mut table = Table::new(
        "Machines",
        [
            Column::text("Machine"),
            Column::text("Stage"),
            Column::text("Device"),
            Column::number("Shards"),
            Column::number("Items"),
            Column::number("Time"),
            Column::number("GPU seconds"),
        ],
    );
    for (name, _, e) in far {
        for (host, h) in &e.helpers {
            table.row([
                Cell::of(host),
                Cell::of(*name),
                Cell::of(h.devices.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
                Cell::count(h.shards as usize),
                Cell::count(h.items as usize),
                Cell::sorted(number::duration(h.seconds), h.seconds),
                Cell::fixed(h.gpu_seconds, 1),
            ]);
        }
        if e.lost_seconds > 0.0 {
            table.row([
                Cell::of("lost attempts"),
                Cell::of(*name),
                Cell::of(""),
                Cell::of(""),
                Cell::of(""),
                Cell::sorted(number::duration(e.lost_seconds), e.lost_seconds),
                Cell::fixed(e.lost_gpu_seconds, 1),
            ]);
        }
    }
    table
}
