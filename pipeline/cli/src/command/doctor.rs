//! `pipeline doctor`: what this machine can do, in plain words, with the fix for what it cannot.

use clap::Args;
use miette::{IntoDiagnostic, Result};
use serde_json::json;
use setup::{Found, SetupConfig};

use crate::{
    args::Global,
    exit::Exit,
    project,
    terminal::{bytes, data, table},
};

/// `pipeline doctor`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pipeline doctor\n  pipeline doctor --require-gpu && pipeline run\n  pipeline doctor --json"
)]
pub struct Doctor {
    /// Fail (exit code 1) unless a kernel ran on a GPU and gave the right result.
    #[arg(long)]
    require_gpu: bool,
}

/// Probes, explains, and says what to do.
pub fn doctor(global: &Global, args: &Doctor) -> Result<Exit> {
    let found = setup::probe(&SetupConfig { force_cpu: project::force_cpu()? });
    let gpu = found.usable_gpus().next().is_some();
    let ok = found.cpu.correct && (gpu || !args.require_gpu);
    let advice = advice(&found, args.require_gpu);
    if global.json {
        let doc = json!({ "ok": ok, "verdict": found.verdict(), "advice": advice, "found": found });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
    } else {
        data(table(&rows(&found)));
        data(format_args!("\nstages will use: {}", found.verdict()));
        for a in &advice {
            data(format_args!("- {a}"));
        }
    }
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

fn rows(found: &Found) -> Vec<Vec<String>> {
    let cpu = &found.cpu;
    let right = if cpu.correct { "a product of matrices gave the right result" } else { "WRONG result" };
    let speed = format!("{right}, {:.0} GFLOP/s", cpu.gflops);
    let mut rows = vec![
        vec!["what".into(), "found".into(), "how it was proven".into()],
        vec!["processor".into(), format!("{}, {} cores", cpu.model, cpu.cores), speed],
        vec!["instructions".into(), cpu.features.join(" "), String::new()],
        vec!["memory".into(), bytes(cpu.memory_bytes), String::new()],
    ];
    for g in &found.gpus {
        let proof = g
            .problem
            .clone()
            .unwrap_or_else(|| format!("a kernel gave the right result, {:.0} GB/s", g.gigabytes_per_s));
        rows.push(vec!["GPU".into(), format!("{}, {}", g.name, bytes(g.memory_bytes)), proof]);
    }
    if let Some(why) = &found.no_gpu {
        rows.push(vec!["GPU".into(), "none".into(), why.clone()]);
    }
    rows.extend(found.libraries.iter().map(|l| vec![l.name.clone(), l.version.clone(), l.note.clone()]));
    rows
}

fn advice(found: &Found, gpu_wanted: bool) -> Vec<String> {
    let mut out = Vec::new();
    if !found.cpu.correct {
        out.push(
            "this processor calculates wrongly: test the memory, undo overclocking, or use another machine".into(),
        );
    }
    for g in &found.gpus {
        if let Some(problem) = &g.problem {
            out.push(format!("{} cannot be used: {problem}", g.name));
        }
    }
    if found.usable_gpus().next().is_none() {
        out.push("without a GPU everything runs on the processor; nothing has to be installed for that".into());
        if gpu_wanted || !found.gpus.is_empty() {
            out.push(
                "for a GPU: install the NVIDIA driver until `nvidia-smi` lists the card (in a container: start it with --gpus all), and unset PIPELINE_FORCE_CPU"
                    .into(),
            );
        }
    }
    out
}
