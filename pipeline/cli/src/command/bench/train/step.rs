//! Our side of the training benchmark: a learner that does a step for each line of its input, and the machine's peak.

use std::{
    io::BufRead,
    time::{Duration, Instant},
};

use miette::{IntoDiagnostic, Report, Result, WrapErr, miette};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use serde_json::{Value, json};
use train::{Config, assigner::Truth, learner::Learner};
use vision::yolov8::{
    Backend as _, Images, Spec,
    engine::{Device, Engine},
    native::{Instructions, Native, Precision, products},
};

use super::{model, runner::Request};
use crate::{command::bench::meter, terminal::data};

/// Products of one sample of the peak: ten milliseconds or so, long enough for every thread to take part.
const PEAK_PRODUCTS: usize = 10_000;

/// Words that are copied to measure the memory: 128 MB, more than caches hold.
const COPIED: usize = 16 << 20;
const COPIES: usize = 5;
/// Samples of the peak.
const PEAK_SAMPLES: usize = 20;

/// The best of some samples of [`peak`], on the clock.
pub fn best_peak(threads: usize, precision: Precision) -> Result<f64> {
    (0..PEAK_SAMPLES).try_fold(0.0_f64, |best, _| Ok(best.max(peak(threads, precision)?[0])))
}

fn pool(threads: usize, most: Instructions) -> Result<ThreadPool> {
    let builder = ThreadPoolBuilder::new().num_threads(threads).start_handler(move |_| most.limit_this_thread());
    builder.build().into_diagnostic().wrap_err("starting threads")
}

/// Billions of operations of products that the first-level cache holds, on so many threads at once: in a second on the
/// clock, and in a second of a thread's processor time, times the threads.
pub fn peak(threads: usize, precision: Precision) -> Result<[f64; 2]> {
    pool(threads, Instructions::Avx512Bf16)?.install(|| {
        // Threads that start take a while to reach full speed.
        let warm = Instant::now();
        while warm.elapsed() < Duration::from_millis(2) {
            (0..threads).into_par_iter().for_each(|_| {
                products(precision, 10);
            });
        }
        let (start, worked) = (Instant::now(), meter::cpu_s());
        let operations: f64 = (0..threads).into_par_iter().map(|_| products(precision, PEAK_PRODUCTS)).sum();
        let worked = (meter::cpu_s() - worked) / threads as f64;
        Ok([start.elapsed().as_secs_f64(), worked].map(|seconds| operations / seconds / 1e9))
    })
}

/// Billions of bytes a second, read and written together, that so many threads copy from memory to memory; best of some.
pub fn bandwidth(threads: usize) -> Result<f64> {
    let from = vec![1_u64; COPIED];
    let mut to = vec![0_u64; COPIED];
    pool(threads, Instructions::Avx512Bf16)?.install(|| {
        let mut best = 0.0_f64;
        for _ in 0..COPIES {
            let start = Instant::now();
            let part = COPIED.div_ceil(threads);
            to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
            best = best.max(2.0 * size_of_val(&from[..]) as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
        Ok(best)
    })
}

/// Does a step for each line of the input, and says what it cost.
pub fn serve(request: &Request) -> Result<()> {
    let most = if request.avx2 { Instructions::Avx2 } else { Instructions::Avx512Bf16 };
    pool(request.threads, most)?.install(|| work(request))
}

fn work(request: &Request) -> Result<()> {
    let &Request { imgsz, batch, classes, objects, freeze, .. } = request;
    let side = imgsz as usize;
    let precision = if request.how == Precision::Bf16.name() { Precision::Bf16 } else { Precision::F32 };
    let spec = Spec { size: model(&request.model)?.size(), classes };
    let config = Config { batch: batch.into(), imgsz, nominal_batch: batch, freeze, ..Config::default() };
    let pixels: Vec<f32> = (0..batch * side * side * 3).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
    let images = Images { data: &pixels, batch, height: side, width: side };
    let truths: Vec<Vec<Truth>> = (0..batch)
        .map(|b| {
            let object = |i: usize| {
                let size = 24.0 + 3.0 * i as f32;
                let at = |k: usize| ((b * 31 + i * 53 + k * 97) % (side - side / 4)) as f32;
                Truth { class: i % classes, bbox: [at(0), at(1), at(0) + size, at(1) + size] }
            };
            (0..objects).map(object).collect()
        })
        .collect();
    let engine = request.engine.unwrap_or(Engine::Native);
    let opened = engine.open(spec, &Native::new(spec, 0).state(), Device::Cpu, precision).map_err(Report::from_err)?;
    let mut learner = Learner::new(opened.network, &config, batch * 1000);
    let mut step = || -> Result<Value> {
        let (start, worked) = (Instant::now(), meter::cpu_s());
        let terms = learner.learn(0, images, &truths).map_err(Report::from_err)?;
        let (ms, cpu_ms) = (start.elapsed().as_secs_f64() * 1e3, (meter::cpu_s() - worked) * 1e3);
        if !terms.is_finite() {
            return Err(miette!("the loss is not finite"));
        }
        Ok(json!({ "ms": ms, "cpu_ms": cpu_ms, "loss": terms.total() * batch as f64, "peak_mb": meter::peak_mb() }))
    };
    // The first step allocates.
    step()?;
    data(
        json!({ "instructions": Instructions::chosen().name(), "precision": precision.name(), "place": opened.place }),
    );
    for line in std::io::stdin().lock().lines() {
        line.into_diagnostic().wrap_err("reading the next command")?;
        data(step()?);
    }
    Ok(())
}
