//! CPU time and memory of scanning an input folder in which nothing changed.
//!
//! `cargo run -p engine --example scan_bench [FILES]…`; 10,000 and 100,000 files when not said. Linux only, for the
//! counters come from `/proc`.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its table")]

use std::{fs, path::Path, time::Instant};

use engine::{CancelToken, InputSpec, Scan, Store, event::NoSink, sources::scan};

const ROUNDS: usize = 10;

/// CPU seconds of this process so far; the kernel counts in hundredths.
fn cpu_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn measure(root: &Path, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let input = root.join(format!("{count}"));
    for i in 0..count {
        let folder = input.join(format!("drawings {:03}", i / 1000));
        if i % 1000 == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("sheet_{i:06}.png")), format!("picture {i}"))?;
    }
    // Files younger than this are read again at every scan.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let store_dir = root.join(format!("store {count}"));
    let spec = InputSpec {
        name: "images".into(),
        kind: "images".into(),
        path: input,
        extensions: Some(vec!["png".into(), "jpg".into()]),
        recursive: true,
    };
    let run = || -> Result<Scan, Box<dyn std::error::Error>> {
        Ok(scan(&Store::open(&store_dir)?, &spec, &CancelToken::new(), &NoSink)?)
    };
    let (begun, cpu) = (Instant::now(), cpu_s().unwrap_or(f64::NAN));
    run()?;
    println!(
        "{count:>7} files  first scan {:.3} CPU s, {:.3} s",
        cpu_s().unwrap_or(f64::NAN) - cpu,
        begun.elapsed().as_secs_f64()
    );
    let (begun, cpu) = (Instant::now(), cpu_s().unwrap_or(f64::NAN));
    for _ in 0..ROUNDS {
        assert_eq!(run()?.hashed, 0);
    }
    println!(
        "{count:>7} files  no-op scan {:.3} CPU s, {:.3} s, peak of the process {:.1} MiB",
        (cpu_s().unwrap_or(f64::NAN) - cpu) / ROUNDS as f64,
        begun.elapsed().as_secs_f64() / ROUNDS as f64,
        peak_mib().unwrap_or(f64::NAN)
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let counts: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let dir = std::env::temp_dir().join(format!("scan_bench_{}", std::process::id()));
    let result = if counts.is_empty() { vec![10_000, 100_000] } else { counts }
        .into_iter()
        .try_for_each(|count| measure(&dir, count));
    fs::remove_dir_all(&dir)?;
    result
}
