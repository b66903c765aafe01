//! Memory for numbers: buffers aligned to cache lines, and scratch space kept by each thread between tasks.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Numbers per cache line; all vector code works on this many channels at a time.
pub(crate) const LANES: usize = 16;

/// Zero-initialised numbers that start at a cache line.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    raw: Vec<f32>,
    start: usize,
    len: usize,
}

impl Numbers {
    pub fn zeros(len: usize) -> Self {
        let raw = vec![0.0f32; len + LANES];
        let start = raw.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        Self { raw, start, len }
    }
}

impl Deref for Numbers {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.raw[self.start..self.start + self.len]
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

thread_local! {
    static FREE: RefCell<Vec<Numbers>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with `len` numbers of unspecified content, aligned to a cache line. May be nested.
pub(crate) fn scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut numbers = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if numbers.len < len {
        numbers = Numbers::zeros(len.next_power_of_two());
    }
    let result = body(&mut numbers[..len]);
    FREE.with_borrow_mut(|free| free.push(numbers));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_nested() {
        scratch(100, |a| {
            a.fill(1.0);
            scratch(1000, |b| b.fill(2.0));
            assert!(a.iter().all(|&x| x == 1.0));
            assert_eq!(a.as_ptr().align_offset(64), 0);
        });
        assert_eq!(Numbers::zeros(7).len(), 7);
    }
}
