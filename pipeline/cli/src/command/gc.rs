//! `pipeline runs gc`: removes what no run needs any more, and says what that is before it does.

use std::fs;

use engine::{
    gc::{GcPlan, Live},
    record::{RunRecord, run_ids},
    result::StageResult,
};
use miette::{IntoDiagnostic, Report, Result, WrapErr};
use serde_json::json;

use crate::{
    args::Global,
    command::runs::Gc,
    exit::Exit,
    project::Project,
    terminal::{bytes, data, say, table},
};

/// Plans, says, and with `--yes` removes.
pub fn gc(global: &Global, project: &Project, args: &Gc) -> Result<Exit> {
    let lock = project.lock("pipeline runs gc")?;
    let ids = run_ids(&project.runs);
    let (old, kept) = ids.split_at(ids.len() - args.keep.unwrap_or(ids.len()).clamp(1.min(ids.len()), ids.len()));
    let plan = GcPlan::new(&project.store, &live(project, kept)?, &lock).map_err(Report::from_err)?;
    let amounts = plan.amounts();
    let total: u64 = amounts.values().map(|a| a.bytes).sum();
    let mut rows = vec![vec!["what".to_owned(), "files".into(), "size".into()]];
    for (category, amount) in &amounts {
        let name = serde_json::to_value(category).into_diagnostic()?;
        rows.push(vec![name.as_str().unwrap_or_default().into(), amount.entries.to_string(), bytes(amount.bytes)]);
    }
    if !global.json {
        data(format_args!("{} runs are kept, {} are removed: {}", kept.len(), old.len(), old.join(" ")));
        data(table(&rows));
        data(format_args!("{} can be freed; {} stay", bytes(total), bytes(plan.kept.bytes)));
    }
    let mut freed = None;
    if args.yes {
        for id in old {
            let dir = project.runs.join(id);
            fs::remove_dir_all(&dir).into_diagnostic().wrap_err_with(|| format!("removing `{}`", dir.display()))?;
        }
        let report = plan.apply();
        for (path, why) in &report.failed {
            say(format_args!("could not remove {}: {why}", path.display()));
        }
        freed = Some(report.freed);
    }
    if global.json {
        let doc = json!({ "kept": kept, "removed": old, "amounts": amounts, "bytes": total, "applied": args.yes });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
    } else {
        data(match freed {
            Some(n) => format!("freed {}", bytes(n)),
            None => "nothing was removed; add --yes to remove it".into(),
        });
    }
    Ok(Exit::Done)
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
