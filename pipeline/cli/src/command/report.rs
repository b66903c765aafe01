//! Composes a run's `report/index.html` from the sections that its stages wrote.

use std::path::{Path, PathBuf};

use artifacts::Report as ReportKind;
use engine::{
    artifact::{ArtifactReader, Kind},
    executor::LOCAL,
    record::{RunRecord, StageRecord, Status},
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use report::{Headline, RunHeader, Section, StageRow, Tone};

use crate::{project::Project, terminal::duration};

mod elsewhere;

/// Name of the blob that holds a section.
const SECTION: &str = "section.json";

/// Writes the page of a run; `None` when no stage has anything to show.
pub fn write(project: &Project, record: &RunRecord, dir: &Path) -> Result<Option<PathBuf>> {
    let mut sections = Vec::new();
    // The sections of the late stages come first: the detector's result before the machine's description.
    for name in record.order.iter().rev() {
        for artifact in record.stages[name].outputs.values() {
            let manifest = project.store.manifest(*artifact).map_err(Report::from_err)?;
            if manifest.kind != ReportKind::NAME {
                continue;
            }
            let reader = ArtifactReader::open(&project.store, *artifact).map_err(Report::from_err)?;
            let bytes = reader.get(SECTION).map_err(Report::from_err)?;
            sections.push(Section::from_json(&bytes).into_diagnostic().wrap_err("reading a report section")?);
        }
    }
    sections.extend(elsewhere::section(record));
    if sections.is_empty() {
        return Ok(None);
    }
    let html = report::page(&format!("Run {}", record.id), Some(&header(project, record, &sections)), &sections);
    let path = dir.join("report").join("index.html");
    project.store.write_file(&path, html.as_bytes()).map_err(Report::from_err)?;
    Ok(Some(path))
}

fn tone(status: Status) -> Tone {
    match status {
        Status::Done | Status::Cached | Status::Reused => Tone::Ok,
        Status::Waiting | Status::Cancelled | Status::Blocked => Tone::Warn,
        Status::Failed => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn header(project: &Project, record: &RunRecord, sections: &[Section]) -> RunHeader {
    let title = if project.sample {
        "Built-in sample".to_owned()
    } else {
        let file = std::path::absolute(&project.file).unwrap_or_else(|_| project.file.clone());
        let folder = file.parent().and_then(Path::file_name);
        folder.map_or_else(|| "Project".into(), |f| f.to_string_lossy().into_owned())
    };
    let summary = match record.status {
        _ if project.so_far.is_some() => project.so_far.clone().unwrap_or_default(),
        Status::Done => "All stages of this run are finished.".to_owned(),
        other => {
            let stage = record.order.iter().find(|n| record.stages[*n].status == other);
            let detail = stage.map(|n| format!("{n}: {}", record.stages[n].detail)).unwrap_or_default();
            format!("The run is {}. {detail}", other.word())
        }
    };
    let stages = record
        .order
        .iter()
        .map(|name| (name, &record.stages[name]))
        .filter(|(_, s)| s.status != Status::Excluded)
        .map(|(name, s)| StageRow {
            name: name.clone(),
            state: s.status.word().into(),
            tone: tone(s.status),
            seconds: (s.status == Status::Done).then_some(s.seconds),
            device: device(s),
            note: match (s.detail.is_empty(), s.reasons.is_empty()) {
                (false, _) => s.detail.clone(),
                (true, false) => format!("because {}", s.reasons.join("; ")),
                (true, true) => String::new(),
            },
        })
        .collect();
    let seconds = record.stages.values().filter(|s| s.status == Status::Done).fold(0.0, |sum, s| sum + s.seconds);
    let facts = vec![
        ("Started".to_owned(), record.started_at.clone()),
        (
            "Work in this run".to_owned(),
            if seconds > 0.0 { duration(seconds) } else { "none, everything was up to date".into() },
        ),
        (
            "Machine".to_owned(),
            format!(
                "{} cores, {:.0} GiB memory",
                record.machine.cores,
                record.machine.memory_bytes as f64 / 2f64.powi(30)
            ),
        ),
        ("Program".to_owned(), format!("pipeline {}", record.program)),
        ("Project file".to_owned(), project.file.display().to_string()),
    ];
    RunHeader {
        title,
        run: record.id.clone(),
        status: record.status.word().into(),
        tone: tone(record.status),
        summary,
        headline: sections.iter().filter(|s| s.id != elsewhere::ID).filter_map(first_number).collect(),
        stages,
        facts,
    }
}

/// What ran it, after the name of the place when that is not this machine.
fn device(s: &StageRecord) -> String {
    let devices = s.notes.devices.iter().map(|d| d.used.clone()).collect::<Vec<_>>().join(", ");
    match s.executor.as_str() {
        LOCAL | "" => devices,
        place if devices.is_empty() => place.to_owned(),
        place => format!("{place}: {devices}"),
    }
}

/// The number that a section puts first, with the section's title.
fn first_number(section: &Section) -> Option<Headline> {
    let first = section.headline.first()?;
    Some(Headline { label: format!("{}: {}", section.title, first.label), ..first.clone() })
}
