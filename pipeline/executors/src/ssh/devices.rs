//! Which GPU of a machine a task gets.

use std::collections::BTreeMap;

/// Asks for every GPU's number and free memory.
pub(super) const QUESTION: &str = "exec nvidia-smi --query-gpu=index,memory.free --format=csv,noheader,nounits";

/// A GPU as the machine sees it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Free {
    pub device: u32,
    pub memory_mib: u64,
}

/// Reads the answer to [`QUESTION`]; none when it is something else.
pub(super) fn parse(text: &str) -> Option<Vec<Free>> {
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            let mut fields = line.split(',').map(str::trim);
            Some(Free { device: fields.next()?.parse().ok()?, memory_mib: fields.next()?.parse().ok()? })
        })
        .collect()
}

/// What our own tasks hold: shares of a GPU, 1 a whole one.
#[derive(Debug, Default)]
pub(super) struct Devices(BTreeMap<u32, Vec<f64>>);

impl Devices {
    /// Takes GPUs for one task, those with the most free memory first, and never more than the whole of one; none when
    /// there are not enough. A GPU on which our own tasks run already is not asked for free memory again, since they
    /// fill it.
    pub fn take(&mut self, free: &[Free], gpus: f64, memory_mib: u64) -> Option<Vec<u32>> {
        let share = gpus.min(1.0);
        let held = |device: u32| self.0.get(&device).map_or(0.0, |shares| shares.iter().sum::<f64>());
        // A hair of tolerance, so that three thirds are a whole.
        let mut fit: Vec<&Free> = free
            .iter()
            .filter(|f| held(f.device) + share <= 1.0 + 1e-6 && (held(f.device) > 0.0 || f.memory_mib >= memory_mib))
            .collect();
        fit.sort_by_key(|f| (std::cmp::Reverse(f.memory_mib), f.device));
        let count = gpus.ceil().max(1.0) as usize;
        let taken: Vec<u32> = fit.get(..count)?.iter().map(|f| f.device).collect();
        for &device in &taken {
            self.0.entry(device).or_default().push(share);
        }
        Some(taken)
    }

    /// Gives back what a task held; its shares on one GPU are as large as any other's of its size.
    pub fn give(&mut self, devices: &[u32], gpus: f64) {
        for device in devices {
            if let Some(shares) = self.0.get_mut(device)
                && let Some(at) = shares.iter().position(|&s| s == gpus.min(1.0))
            {
                shares.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: [Free; 3] = [
        Free { device: 0, memory_mib: 8000 },
        Free { device: 1, memory_mib: 24000 },
        Free { device: 2, memory_mib: 500 },
    ];

    #[test]
    fn the_emptiest_first_and_one_task_each() {
        let mut devices = Devices::default();
        assert_eq!(devices.take(&FREE, 1.0, 1000), Some(vec![1]));
        assert_eq!(devices.take(&FREE, 1.0, 1000), Some(vec![0]));
        assert_eq!(devices.take(&FREE, 1.0, 1000), None);
        devices.give(&[1], 1.0);
        assert_eq!(devices.take(&FREE, 1.0, 1000), Some(vec![1]));
    }

    #[test]
    fn shares_and_several() {
        let mut devices = Devices::default();
        let third = 1.0 / 3.0;
        for _ in 0..3 {
            assert_eq!(devices.take(&FREE, third, 10_000), Some(vec![1]));
        }
        assert_eq!(devices.take(&FREE, third, 10_000), None);
        assert_eq!(devices.take(&FREE, 2.0, 100), Some(vec![0, 2]));
        devices.give(&[1], third);
        assert_eq!(devices.take(&FREE, third, 10_000), Some(vec![1]));
    }

    #[test]
    fn what_nvidia_smi_prints() {
        assert_eq!(parse("0, 8000\n1, 24000\n2, 500\n"), Some(FREE.to_vec()));
        assert_eq!(parse("NVIDIA-SMI has failed because it couldn't communicate with the driver"), None);
    }
}
