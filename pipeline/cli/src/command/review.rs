//! `pipeline review report` and `pipeline review apply`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use artifacts::{Annotations, Candidates, Decisions, decisions::parse_all};
use clap::Subcommand;
use datasets::AnnotationSet;
use engine::{
    artifact::{ArtifactReader, Kind},
    result::StageResult,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use review::{Preview, gate::Approval};
use serde_json::json;

use crate::{
    args::Global,
    command::runs::load,
    exit::{Exit, Usage},
    project::{DECISIONS, Project},
    terminal::{data, say},
};

mod so_far;

/// `pipeline review`.
#[derive(Subcommand, Debug)]
pub enum Review {
    /// Where the report of a run is.
    #[command(
        after_help = "Examples:\n  pipeline review report\n  xdg-open $(pipeline review report)\n  pipeline review report --so-far    what has arrived while the run goes on"
    )]
    Report {
        /// The run; `latest` for the newest.
        #[arg(default_value = "latest")]
        run: String,
        /// While the newest run is not finished: make a report on the images that have results already.
        #[arg(long, conflicts_with = "run")]
        so_far: bool,
    },
    /// Check a file of decisions and let the next run use it.
    #[command(
        after_help = "Examples:\n  pipeline review apply runs/latest/report/DECISIONS.json   # approve the labels as they are\n  pipeline review apply DECISIONS.json && pipeline run"
    )]
    Apply {
        /// The file: as the report's folder has it, or edited.
        file: PathBuf,
    },
}

/// Runs `pipeline review …`.
pub fn review(global: &Global, args: &Review) -> Result<Exit> {
    let project = Project::open(global)?;
    match args {
        Review::Report { so_far: true, .. } => {
            let found = so_far::so_far(global, &project, &load(&project, "latest")?)?;
            if global.json {
                let so_far::SoFar { page, stage, ready, all } = found;
                data(json!({ "report": page, "stage": stage, "images": ready, "of": all }));
            } else {
                say(format_args!("{} of {} images of stage `{}`", found.ready, found.all, found.stage));
                data(found.page.display());
            }
            Ok(Exit::Done)
        }
        Review::Report { run, .. } => {
            let record = load(&project, run)?;
            let page = project.runs.join(&record.id).join("report/index.html");
            if !page.is_file() {
                let help = "the run ended before a stage had something to show; `pipeline run` goes on";
                return Err(Usage::new(format!("run {} has no report", record.id), help));
            }
            if global.json {
                data(json!({ "run": record.id, "report": page }));
            } else {
                data(page.display());
            }
            Ok(Exit::Done)
        }
        Review::Apply { file } => apply(global, &project, file),
    }
}

/// The newest labels before decisions, those that the review stage reads, with their digest and candidates.
fn labels(project: &Project) -> Result<(engine::Digest, AnnotationSet, AnnotationSet)> {
    let none = || Usage::new("there are no labels to decide about", "`pipeline run --until review` makes them");
    let outputs = StageResult::latest(&project.store, "label").ok_or_else(none)?.outputs;
    let digest = *outputs.get("annotations").ok_or_else(none)?;
    let open = |digest| ArtifactReader::open(&project.store, digest).map_err(Report::from_err);
    let set = Annotations::read(&open(digest)?).map_err(Report::from_err)?;
    let candidates = match outputs.get("candidates") {
        Some(digest) => Candidates::read(&open(*digest)?).map_err(Report::from_err)?,
        None => AnnotationSet::default(),
    };
    Ok((digest, set, candidates))
}

/// The decisions that hold already: the `.json` files of a folder, in order of names.
fn earlier(folder: &Path) -> Result<Vec<Decisions>> {
    let mut files = artifacts::Files::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if path.is_file() {
            let bytes = fs::read(&path).into_diagnostic().wrap_err_with(|| format!("reading `{}`", path.display()))?;
            files.insert(name, bytes);
        }
    }
    parse_all(&files).map_err(|e| Usage::new(e.to_string(), "mend or remove that file"))
}

fn apply(global: &Global, project: &Project, file: &Path) -> Result<Exit> {
    let bytes = fs::read(file).map_err(|e| Usage::new(format!("`{}`: {e}", file.display()), "check the path"))?;
    let (digest, set, candidates) = labels(project)?;
    let (name, default) = DECISIONS;
    let folder = project.input(name).map_or_else(|| project.dir().join(default), Path::to_owned);
    if folder.is_file() {
        return Err(Usage::new(
            format!("`inputs.{name}` is the file `{}`, and decisions of several days need a folder", folder.display()),
            format!("move the file into a folder and write `{name}: {default}`, or leave the line out"),
        ));
    }
    let earlier = earlier(&folder)?;
    let name = file.display().to_string();
    let preview = review::preview(&name, &bytes, &set, &candidates, &digest.to_string(), &earlier).map_err(|e| {
        // The position is in the message already.
        let words = |c: String| c.rsplit_once(" at line ").map_or(c.clone(), |(words, _)| words.to_owned());
        let cause = std::error::Error::source(&e).map_or_else(String::new, |c| format!(": {}", words(c.to_string())));
        Usage::new(
            format!("{e}{cause}"),
            "nothing was applied; mend the file, or take it from the report's folder again",
        )
    })?;
    let Preview { decisions, applied } = preview;
    refuse_useless(file, &applied)?;
    // What the boxes look like goes into the kept file, which then holds when the labels change.
    let mut bytes = serde_json::to_vec_pretty(&decisions).into_diagnostic()?;
    bytes.push(b'\n');
    let target = keep(project, &folder, file, &bytes)?;
    let approval = match &applied.approval {
        Approval::Given { by } => format!("the labels are approved by {by}"),
        _ => "the labels as a whole are not approved".into(),
    };
    for problem in &applied.problems {
        say(format_args!("warning: {problem}"));
    }
    // Of labels that came from files or a detector nothing is searched again.
    let searched = set.images.iter().flat_map(|i| &i.annotations).any(|a| a.provenance.evidence.contains_key("scale"));
    let learns = searched && !decisions.approve && applied.decided() > 0;
    let next = if learns {
        "pipeline run --until review   (the labeller learns from these boxes and searches all drawings again)"
    } else {
        "pipeline run"
    };
    let (rejected, candidates) = (applied.all_rejected(), applied.candidates);
    if global.json {
        let doc = json!({ "file": target, "applied": applied });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
    } else {
        data(format_args!(
            "{} accepted{}, {rejected} rejected, {} corrected, {} added, {} not usable; {approval}\nkept as {} (delete that file to take it back)\nnext: {next}",
            applied.accepted,
            if candidates > 0 { format!(" ({candidates} of them had been left out)") } else { String::new() },
            applied.corrected,
            applied.added,
            applied.problems.len(),
            target.display()
        ));
    }
    Ok(Exit::Done)
}

/// A file of which nothing can be used is a mistake, and so is an approval of labels that are gone.
fn refuse_useless(file: &Path, applied: &review::decisions::Applied) -> Result<()> {
    let file = file.display();
    if matches!(applied.approval, Approval::Stale { .. }) {
        return Err(Usage::new(
            format!("`{file}` approves other labels than the newest"),
            "nothing was applied; look at the newest report and take the DECISIONS.json beside it, or write `\"approve\": false` to use the decisions about single boxes alone",
        ));
    }
    if applied.decided() > 0 || matches!(applied.approval, Approval::Given { .. }) {
        return Ok(());
    }
    let why = match applied.problems.as_slice() {
        [] => "it approves nothing and decides about no box".to_owned(),
        all => all.join("; "),
    };
    let help = "nothing was applied; take the DECISIONS.json beside the newest report and edit that";
    Err(Usage::new(format!("nothing in `{file}` can be used: {why}"), help))
}

/// Copies the file into the folder of decisions, behind all others; one that is there already stays as it is.
fn keep(project: &Project, folder: &Path, file: &Path, bytes: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(folder).into_diagnostic().wrap_err_with(|| format!("creating `{}`", folder.display()))?;
    let mut names: Vec<PathBuf> = fs::read_dir(folder).into_diagnostic()?.flatten().map(|f| f.path()).collect();
    names.sort();
    if let Some(last) = names.last().filter(|p| fs::read(p).is_ok_and(|old| old == bytes)) {
        return Ok(last.clone());
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    // Later files win, and files are read in the order of their names.
    let number = |p: &PathBuf| p.file_name()?.to_str()?.split('-').next()?.parse::<u32>().ok();
    let next = names.iter().filter_map(number).max().unwrap_or(0) + 1;
    let target = folder.join(format!("{next:04}-{stem}.json"));
    project.store.write_file(&target, bytes).map_err(Report::from_err)?;
    Ok(target)
}
