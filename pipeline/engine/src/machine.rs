//! What the scheduler has to know of this machine: cores, memory and usable GPUs.

use serde::{Deserialize, Serialize};

/// A GPU that a kernel was run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Name as the driver gives it.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Compute capability: major and minor number.
    #[serde(default)]
    pub compute: (u32, u32),
}

/// Resources of the machine that a run may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Usable GPUs; empty when none was proven.
    pub gpus: Vec<Gpu>,
}

impl Machine {
    /// Cores and memory of this machine; GPUs are proven by the setup stage, not here.
    pub fn probe() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes().unwrap_or(4 << 30),
            gpus: Vec::new(),
        }
    }
}

/// Main memory, less a container's limit where one is set.
fn memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("MemTotal:"))?;
    let total = line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|s| s.trim().parse().ok());
    Some(limit.map_or(total, |l: u64| l.min(total)))
}
