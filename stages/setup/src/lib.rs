//! The setup stage: what this machine can really do.
//!
//! Owns the probes of the processor, memory, GPUs and the libraries that stages may use, each proven by doing
//! something with it: a product of matrices on the processor, a kernel on every GPU, a load of every library. Refuses
//! to own the choice of a device: the stages that run models make it.

pub mod cpu;
pub mod gpu;
pub mod library;

use artifacts::{MachineReport, Report};
use engine::{Context, Descriptor, DeviceUse, Level, Needs, Outcome, Port, Stage, StageError};
use report::{Cell, Column, Headline, Section, Table, Tone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Settings of the setup stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetupConfig {
    /// Leave the GPUs alone and plan for the processor only. Default false; `PIPELINE_FORCE_CPU=1` sets it.
    pub force_cpu: bool,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The processor and its measured speed.
    pub cpu: cpu::Cpu,
    /// Every GPU, with the result of the kernel that was run on it.
    pub gpus: Vec<gpu::Gpu>,
    /// Why there is no GPU, when there is none.
    pub no_gpu: Option<String>,
    /// Libraries that models may run on.
    pub libraries: Vec<library::Library>,
}

/// Probes the machine; takes about a second.
pub fn probe(config: &SetupConfig) -> Found {
    let (gpus, no_gpu) = if config.force_cpu {
        (Vec::new(), Some("the settings say `force_cpu`".to_owned()))
    } else {
        match gpu::probe() {
            Ok(gpus) => (gpus, None),
            Err(why) => (Vec::new(), Some(why)),
        }
    };
    Found { cpu: cpu::probe(), gpus, no_gpu, libraries: library::probe() }
}

impl Found {
    /// GPUs whose kernel gave the right result.
    pub fn usable_gpus(&self) -> impl Iterator<Item = &gpu::Gpu> {
        self.gpus.iter().filter(|g| g.problem.is_none())
    }

    /// One sentence on what the stages will run on, and why.
    pub fn verdict(&self) -> String {
        let cpu =
            format!("processor {} ({} cores, {:.0} GFLOP/s measured)", self.cpu.model, self.cpu.cores, self.cpu.gflops);
        match (self.usable_gpus().next(), self.gpus.first(), &self.no_gpu) {
            (Some(g), _, _) => format!("{cpu} and GPU {} (kernel ran, {:.0} GB/s measured)", g.name, g.gigabytes_per_s),
            (None, Some(g), _) => {
                format!("{cpu}; GPU {} cannot be used: {}", g.name, g.problem.as_deref().unwrap_or_default())
            }
            (None, None, why) => format!("{cpu}; no GPU: {}", why.as_deref().unwrap_or("none found")),
        }
    }
}

/// The stage.
pub struct Setup;

impl Stage for Setup {
    type Config = SetupConfig;

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "setup".into(),
            version: 1,
            about: "finds out what this machine can really do, by running something on every device".into(),
            inputs: vec![],
            outputs: vec![Port::new("machine", "machine"), Port::new("report", "report")],
            items: None,
        }
    }

    fn needs(&self, _config: &SetupConfig) -> Needs {
        Needs { cores: 0, ..Needs::default() }
    }

    /// The result belongs to this machine and its drivers.
    fn fingerprint(&self, _config: &SetupConfig) -> Value {
        json!({
            "cpu": cpu::model(),
            "cores": cpu::cores(),
            "memory_bytes": engine::Machine::probe().memory_bytes,
            "driver": gpu::driver_file(),
        })
    }

    fn run(&self, config: &SetupConfig, ctx: &Context) -> Result<Outcome, StageError> {
        let found = probe(config);
        if !found.cpu.correct {
            return Err(StageError::message(
                "a product of matrices gave a wrong result on this processor; its results cannot be trusted",
            ));
        }
        for gpu in found.gpus.iter().filter(|g| g.problem.is_some()) {
            let problem = gpu.problem.as_deref().unwrap_or_default();
            ctx.message(Level::Warn, format!("GPU {} is there and cannot be used: {problem}", gpu.name));
        }
        let used = if found.usable_gpus().next().is_some() { "cpu and cuda" } else { "cpu" };
        ctx.device(DeviceUse { asked: "auto".into(), used: used.into(), why: found.verdict() });
        ctx.metric("cores", found.cpu.cores as f64);
        ctx.metric("gflops", found.cpu.gflops.round());
        ctx.metric("gpus", found.usable_gpus().count() as f64);
        let value = serde_json::to_value(&found).expect("plain data serialises");
        ctx.write::<MachineReport>("machine", &value)?;
        ctx.write::<Report>("report", &[("section.json".to_owned(), section(&found).to_json())].into())?;
        Ok(Outcome::Done)
    }
}

fn section(found: &Found) -> Section {
    let mut section = Section::new("setup", "This machine");
    section.headline = vec![
        Headline::new("Processor", format!("{} cores", found.cpu.cores)),
        Headline::new("Measured", format!("{:.0} GFLOP/s", found.cpu.gflops)),
        Headline::new("Memory", format!("{:.0} GiB", found.cpu.memory_bytes as f64 / 2f64.powi(30))),
        match found.usable_gpus().next() {
            Some(g) => Headline::toned("GPU", g.name.clone(), Tone::Ok),
            None => Headline::new("GPU", "none"),
        },
    ];
    let mut rows: Vec<[String; 3]> = vec![[
        "Processor".into(),
        found.cpu.model.clone(),
        format!("{}; {:.0} GFLOP/s in a product of matrices", found.cpu.features.join(", "), found.cpu.gflops),
    ]];
    for g in &found.gpus {
        let how = match &g.problem {
            None => format!("kernel ran and gave the right result; {:.0} GB/s", g.gigabytes_per_s),
            Some(problem) => problem.clone(),
        };
        let what = format!(
            "{} (compute capability {}.{}, {:.0} GiB)",
            g.name,
            g.compute_capability.0,
            g.compute_capability.1,
            g.memory_bytes as f64 / 2f64.powi(30)
        );
        rows.push(["GPU".into(), what, how]);
    }
    if let Some(why) = &found.no_gpu {
        rows.push(["GPU".into(), "none".into(), why.clone()]);
    }
    rows.extend(found.libraries.iter().map(|l| [l.name.clone(), l.version.clone(), l.note.clone()]));
    let mut table =
        Table::new("What was found", [Column::text("What"), Column::text("Found"), Column::text("How it was proven")]);
    for row in rows {
        table.row(row.map(Cell::of));
    }
    section.push(table);
    section
}

#[cfg(test)]
mod tests {
    use engine::{Registry, harness::Harness};

    use super::*;

    #[test]
    fn the_stage_describes_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let harness = Harness::new(dir.path()).unwrap();
        let ran = harness.run(&Registry::new().add(Setup), json!({ "force_cpu": true })).unwrap();
        let found: Found = serde_json::from_value(harness.read::<MachineReport>(&ran, "machine").unwrap()).unwrap();
        assert!(found.cpu.correct && found.cpu.gflops > 0.1 && found.gpus.is_empty());
        assert!(found.verdict().contains("force_cpu"));
    }
}
