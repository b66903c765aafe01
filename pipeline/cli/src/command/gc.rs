//! `pipeline runs gc`: removes what no run needs any more, and says what that is before it does.

use std::{fs, path::Path};

use engine::{
    ProjectLock,
    gc::{GcPlan, Live},
    record::{RunRecord, run_ids},
    result::StageResult,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use report::number::counted;
use serde_json::json;

use crate::{
    args::Global,
    command::runs::Gc,
    exit::{Exit, Usage},
    project::Project,
    terminal::{bytes, data, say, table},
};

/// Plans, says, and with `--yes` removes.
pub fn gc(global: &Global, project: &Project, args: &Gc) -> Result<Exit> {
    if args.keep == Some(0) {
        return Err(Usage::new("--keep 0 would remove every run", "keep the newest at least: --keep 1"));
    }
    let lock = if args.yes { Some(project.lock("pipeline runs gc")?) } else { free_lock(project)? };
    let Some(lock) = lock else { return Ok(Exit::Later) };
    let ids = run_ids(&project.runs);
    // The run that `latest` points at stays in any case.
    let latest = fs::canonicalize(project.runs.join("latest")).ok();
    let is_latest = |id: &str| latest.as_ref().and_then(|l| l.file_name()).is_some_and(|n| n == id);
    let first_kept = ids.len().saturating_sub(args.keep.unwrap_or(ids.len()));
    let old: Vec<String> = ids[..first_kept].iter().filter(|id| !is_latest(id)).cloned().collect();
    let kept: Vec<String> = ids.iter().filter(|id| !old.contains(id)).cloned().collect();
    let plan = GcPlan::new(&project.store, &live(project, &kept)?, &lock).map_err(Report::from_err)?;
    let amounts = plan.amounts();
    let folders: u64 = old.iter().map(|id| size_below(&project.runs.join(id))).sum();
    let total = folders + amounts.values().map(|a| a.bytes).sum::<u64>();
    let mut rows = Vec::new();
    if !old.is_empty() {
        rows.push(vec!["run folders".to_owned(), old.len().to_string(), bytes(folders)]);
    }
    for (category, amount) in &amounts {
        let name = serde_json::to_value(category).into_diagnostic()?;
        let name = name.as_str().unwrap_or_default().replace('_', " ");
        rows.push(vec![name, amount.entries.to_string(), bytes(amount.bytes)]);
    }
    if !global.json {
        let keeps = format!("{} kept", counted(kept.len(), "run is", "runs are"));
        data(match old.len() {
            0 => format!("{keeps}, none removed"),
            n => format!("{keeps}, {} removed: {}", counted(n, "is", "are"), old.join(" ")),
        });
        if !rows.is_empty() {
            rows.insert(0, vec!["what".to_owned(), "number".into(), "size".into()]);
            data(table(&rows));
        }
        data(format_args!("{} can be freed; {} stay", bytes(total), bytes(plan.kept.bytes)));
    }
    let mut freed = None;
    if args.yes {
        let mut removed = 0;
        for id in &old {
            let dir = project.runs.join(id);
            let size = size_below(&dir);
            fs::remove_dir_all(&dir).into_diagnostic().wrap_err_with(|| format!("removing `{}`", dir.display()))?;
            removed += size;
        }
        let report = plan.apply();
        for (path, why) in &report.failed {
            say(format_args!("could not remove {}: {why}", path.display()));
        }
        freed = Some(report.freed + removed);
    }
    if global.json {
        let doc = json!({
            "kept": kept, "removed": old, "run_folders_bytes": folders, "amounts": amounts, "bytes": total,
            "applied": args.yes, "freed": freed.unwrap_or(0),
        });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
    } else {
        data(match freed {
            Some(n) => format!("freed {}", bytes(n)),
            None if total == 0 => "there is nothing to remove".to_owned(),
            None => "nothing was removed; add --yes to remove it".into(),
        });
    }
    Ok(Exit::Done)
}

/// The lock, unless somebody is at work: looking does not wait.
fn free_lock(project: &Project) -> Result<Option<ProjectLock>> {
    let lock = ProjectLock::acquire(&project.store, "pipeline runs gc", |holder| {
        say(format_args!("{holder} is at work in this project; what can go is known when it is done"));
        false
    });
    lock.map_err(Report::from_err)
}

/// Bytes of all files below a folder; links are not followed.
fn size_below(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|e| size_below(&e.path())).sum()
}

/// Everything that the kept runs and the newest results need.
fn live(project: &Project, kept: &[String]) -> Result<Live> {
    let mut live = Live::default();
    let mut add = |result: &StageResult| {
        live.keys.insert(result.key);
        live.artifacts.extend(result.outputs.values().chain(result.unhashed.inputs.values()));
        let stage = project.registry.get(&result.unhashed.stage);
        let descriptor = stage.and_then(|s| s.describe(&result.unhashed.config).ok());
        live.item_logs.extend(descriptor.and_then(|d| result.unhashed.item_base(&d)));
    };
    for node in StageResult::latest_names(&project.store) {
        if let Some(result) = StageResult::latest(&project.store, &node) {
            add(&result);
        }
    }
    let mut records = Vec::new();
    for id in kept {
        // A record that cannot be read may need anything, so nothing is removed while there is one.
        let record = RunRecord::load(&project.runs.join(id)).map_err(Report::from_err)?;
        record.keys().filter_map(|k| StageResult::load(&project.store, k)).for_each(|r| add(&r));
        records.push(record);
    }
    for record in &records {
        live.keys.extend(record.keys());
        live.artifacts.extend(record.artifacts());
        live.item_logs.extend(record.stages.values().filter_map(|s| s.item_log));
    }
    Ok(live)
}
