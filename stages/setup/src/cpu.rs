//! The processor: what it says it is, and how fast it multiplies matrices.

use std::{hint::black_box, time::Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Side of the matrices of the test.
const N: usize = 384;
/// Times the product is done; the fastest counts.
const ROUNDS: usize = 5;

/// The processor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// Name that the system gives.
    pub model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Vector instructions that this program makes use of.
    pub features: Vec<String>,
    /// Single-precision speed of a simple product of matrices on all cores, 10^9 operations a second. A lower bound:
    /// the engines that train and match have faster kernels.
    pub gflops: f64,
    /// True when the product was right.
    pub correct: bool,
}

/// Name of the processor.
pub fn model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line =
        info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.trim().to_owned()));
    line.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn features() -> Vec<String> {
    let mut found: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("AVX2", is_x86_feature_detected!("avx2")),
            ("FMA", is_x86_feature_detected!("fma")),
            ("AVX-512", is_x86_feature_detected!("avx512f")),
            ("AVX-512 VPOPCNTDQ", is_x86_feature_detected!("avx512vpopcntdq")),
            ("AVX-512 BF16", is_x86_feature_detected!("avx512bf16")),
        ];
        found.extend(all.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    found.push("NEON");
    found.into_iter().map(str::to_owned).collect()
}

/// Describes and measures the processor.
pub fn probe() -> Cpu {
    let (gflops, correct) = measure();
    let memory_bytes = engine::Machine::probe().memory_bytes;
    Cpu { model: model(), cores: cores(), memory_bytes, features: features(), gflops, correct }
}

/// Multiplies two matrices whose product is known: `(i + k) mod 7` times `(k * j) mod 5`, small whole numbers, so that
/// single precision is exact.
fn measure() -> (f64, bool) {
    let a: Vec<f32> = (0..N * N).map(|x| ((x / N + x % N) % 7) as f32).collect();
    let b: Vec<f32> = (0..N * N).map(|x| ((x / N * (x % N)) % 5) as f32).collect();
    let mut c = vec![0f32; N * N];
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        c.fill(0.0);
        let start = Instant::now();
        c.par_chunks_mut(N).zip(a.par_chunks(N)).for_each(|(row, a)| {
            for (a, b) in a.iter().zip(b.chunks(N)) {
                for (c, b) in row.iter_mut().zip(b) {
                    *c += a * b;
                }
            }
        });
        black_box(&mut c);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let exact = |i: usize, j: usize| (0..N).map(|k| ((i + k) % 7 * (k * j % 5)) as u64).sum::<u64>();
    let correct = (0..N).step_by(37).all(|i| (0..N).step_by(29).all(|j| c[i * N + j] as u64 == exact(i, j)));
    (2.0 * (N * N * N) as f64 / best / 1e9, correct)
}
