//! What work costs this process: CPU time and memory.
//!
//! Owns the reading of the system's counters. Refuses to say what a figure means.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// CPU seconds, user and system, of all threads of this process since it began.
pub fn cpu_s() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Most memory that this process used since it began or since [`forget_peak`], in MB (a million bytes); `None` where
/// the system does not tell.
pub fn peak_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0 / 1e6)
}

/// Starts the peak of the memory anew. Where the system refuses, the peak is that of the whole process.
pub fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time() {
        let before = cpu_s();
        let mut sum = 0u64;
        while cpu_s() - before < 1e-3 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
