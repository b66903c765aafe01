//! How much memory a batch takes, how much there is, and the batch that fits.
//!
//! Owns the setting `batch`, the prediction from the network's description, and the search. Refuses to own what happens
//! when memory runs out (`trainer`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vision::yolov8::{Mode, Native, Spec};

use crate::{config::Config, optimizer::Choice};

/// Share of the available memory that `batch: auto` plans for. The rest is for the system's file cache, other programs
/// and what the prediction does not know; it is the share that people know from automatic batches on GPUs.
pub const AUTO_SHARE: f64 = 0.6;
/// Memory that has to stay available beside a training, in bytes; with less, the system soon ends some program.
pub const LEAST_FREE: u64 = 128 << 20;
/// Most pictures a batch in measuring: without gradients, larger ones are no faster.
pub const MEASURE_BATCH: usize = 16;
/// Available memory that is assumed where the system does not tell: this part of what is built in.
const UNKNOWN_PART: u64 = 2;

/// Pictures a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum BatchSize {
    /// The largest that fits into memory.
    Auto,
    /// This many.
    Of(usize),
}

/// [`BatchSize`] as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Written {
    /// Pictures; -1 means `auto`.
    Number(i64),
    /// `auto`.
    Word(Word),
}

/// The one word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// The largest batch that fits.
    Auto,
}

impl TryFrom<Written> for BatchSize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Word(Word::Auto) | Written::Number(-1) => Ok(Self::Auto),
            Written::Number(n) if n >= 1 => Ok(Self::Of(n as usize)),
            Written::Number(n) => Err(format!("a batch of {n} pictures: it must be at least 1, or auto")),
        }
    }
}

impl From<BatchSize> for Written {
    fn from(size: BatchSize) -> Self {
        match size {
            BatchSize::Auto => Self::Word(Word::Auto),
            BatchSize::Of(n) => Self::Number(n as i64),
        }
    }
}

impl From<usize> for BatchSize {
    fn from(n: usize) -> Self {
        Self::Of(n)
    }
}

impl BatchSize {
    /// The number, or what stands in for `auto`.
    pub fn or(self, auto: usize) -> usize {
        match self {
            Self::Auto => auto,
            Self::Of(n) => n,
        }
    }
}

/// Bytes that a whole training takes with batches of `batch` pictures: the network, its averaged twin that is measured,
/// the optimizer's state, the averages, and the batches that wait (`waiting` of them). Pictures in the cache are not
/// counted: they are there already when this is asked.
pub fn training_bytes(config: &Config, spec: Spec, batch: usize, waiting: usize) -> u64 {
    let side = config.longest_side() as usize;
    let measured = config.batch.or(MEASURE_BATCH).min(MEASURE_BATCH);
    let weights = spec.graph().parameter_count();
    let moments = if config.optimizer == Choice::Sgd { 1 } else { 2 };
    let pixels = batch * side * side * 3 * (waiting + 1);
    let network = |size, mode| Native::memory(spec, size, mode, config.precision.settled(), config.freeze);
    let measured = [measured, config.imgsz as usize, config.imgsz as usize];
    let networks = network([batch, side, side], Mode::Train) + network(measured, Mode::Eval);
    (networks + ((moments + 1) * weights + pixels) * size_of::<f32>()) as u64
}

/// The largest divisor of the nominal batch whose training takes at most `budget` bytes, so that adding up batches
/// reaches the nominal one exactly; 1 when not even that fits. `bytes` gives the need of a batch.
pub fn fitting(nominal: usize, budget: u64, bytes: impl Fn(usize) -> u64) -> usize {
    let divisors = (1..=nominal).rev().filter(|d| nominal.is_multiple_of(*d));
    divisors.into_iter().find(|&d| bytes(d) <= budget).unwrap_or(1)
}

/// Bytes that programs can still take without pushing others out: the system's own estimate, less a container's limit.
pub fn available() -> u64 {
    from_system().unwrap_or_else(|| engine::Machine::probe().memory_bytes / UNKNOWN_PART)
}

fn from_system() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let free = parsed(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(limit.map_or(free, |(most, taken)| free.min(most.saturating_sub(taken))))
}

fn parsed(info: &str) -> Option<u64> {
    let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Bytes for a reader.
pub fn shown(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PrecisionChoice;
    use vision::yolov8::Size;

    #[test]
    fn batches_are_numbers_auto_or_minus_one() {
        let read = |text: &str| serde_json::from_str::<BatchSize>(text);
        assert_eq!(read("12").unwrap(), BatchSize::Of(12));
        assert_eq!(read("\"auto\"").unwrap(), BatchSize::Auto);
        assert_eq!(read("-1").unwrap(), BatchSize::Auto);
        for wrong in ["0", "-2", "\"most\"", "1.5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(serde_json::to_string(&[BatchSize::Auto, BatchSize::Of(3)]).unwrap(), "[\"auto\",3]");
    }

    #[test]
    fn the_largest_divisor_that_fits_is_taken() {
        let bytes = |n: usize| 100 + 10 * n as u64;
        assert_eq!(fitting(64, 10_000, bytes), 64);
        assert_eq!(fitting(64, 420, bytes), 32);
        assert_eq!(fitting(64, 419, bytes), 16);
        assert_eq!(fitting(24, 190, bytes), 8);
        assert_eq!(fitting(64, 5, bytes), 1);
    }

    #[test]
    fn the_prediction_grows_with_pictures_sides_and_network_and_shrinks_with_the_numbers() {
        let bytes = |size, batch, imgsz, precision| {
            let config = Config { imgsz, precision, ..Config::default() };
            training_bytes(&config, Spec { size, classes: 5 }, batch, 2)
        };
        let n = |batch, imgsz| bytes(Size::N, batch, imgsz, PrecisionChoice::F32);
        let picture = n(2, 320) - n(1, 320);
        assert!(n(8, 320) > n(1, 320) + 6 * picture && n(2, 640) - n(1, 640) > 3 * picture);
        // Nearly a hundred maps, and what the backward pass keeps of them.
        assert!((20 << 20..80 << 20).contains(&picture), "{picture}");
        assert!(bytes(Size::S, 8, 320, PrecisionChoice::F32) > 3 * n(8, 320) / 2);
        assert!(bytes(Size::N, 8, 320, PrecisionChoice::Bf16) < 3 * n(8, 320) / 4);
    }

    #[test]
    fn available_memory_is_read_and_plausible() {
        assert_eq!(parsed("MemTotal: 9 kB\nMemAvailable:    123 kB\n"), Some(123 << 10));
        assert_eq!(parsed("MemTotal: 9 kB\n"), None);
        let now = available();
        assert!(now > 1 << 20 && now <= engine::Machine::probe().memory_bytes.max(now), "{now}");
    }
}
