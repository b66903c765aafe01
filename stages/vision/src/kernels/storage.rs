//! Memory for numbers: buffers aligned to cache lines, and scratch space kept by each thread between tasks.

use super::number::Number;
use std::{
    cell::RefCell,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

/// Numbers of a vector; all vector code works on this many channels at a time.
pub(crate) const LANES: usize = 16;
/// Words of a cache line.
const LINE: usize = 16;

/// Zero-initialised numbers that start at a cache line.
#[derive(Debug)]
pub(crate) struct Numbers<E> {
    /// Words, because zeroed words come from the system without being written.
    raw: Vec<u32>,
    start: usize,
    len: usize,
    kind: PhantomData<E>,
}

impl<E> Default for Numbers<E> {
    fn default() -> Self {
        Self { raw: Vec::new(), start: 0, len: 0, kind: PhantomData }
    }
}

impl<E: Number> Numbers<E> {
    pub fn zeros(len: usize) -> Self {
        Self::over(vec![0; Self::bytes(len) / size_of::<u32>()], len)
    }

    /// The same, or `None` when the system has no memory for them.
    pub fn try_zeros(len: usize) -> Option<Self> {
        let words = Self::bytes(len) / size_of::<u32>();
        let raw = bytemuck::allocation::try_zeroed_slice_box(words).ok()?;
        Some(Self::over(raw.into_vec(), len))
    }

    fn over(raw: Vec<u32>, len: usize) -> Self {
        let start = raw.as_ptr().align_offset(LINE * size_of::<u32>()).min(LINE);
        Self { raw, start, len, kind: PhantomData }
    }

    /// Bytes that so many numbers take.
    pub fn bytes(len: usize) -> usize {
        if len == 0 { 0 } else { (len.div_ceil(E::PER_WORD) + LINE) * size_of::<u32>() }
    }

    /// Bytes taken.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.raw.len() * size_of::<u32>()
    }
}

impl<E: Number> Deref for Numbers<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        let all: &[E] = bytemuck::cast_slice(&self.raw[self.start.min(self.raw.len())..]);
        &all[..self.len]
    }
}

impl<E: Number> DerefMut for Numbers<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        let start = self.start.min(self.raw.len());
        let all: &mut [E] = bytemuck::cast_slice_mut(&mut self.raw[start..]);
        &mut all[..self.len]
    }
}

thread_local! {
    static FREE: RefCell<Vec<Numbers<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with `len` numbers of unspecified content, aligned to a cache line. May be nested.
pub(crate) fn scratch<E: bytemuck::Pod, R>(len: usize, body: impl FnOnce(&mut [E]) -> R) -> R {
    let mut numbers = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = (len * size_of::<E>()).div_ceil(size_of::<f32>());
    if numbers.len < needed {
        numbers = Numbers::zeros(needed.next_power_of_two());
    }
    let result = body(&mut bytemuck::cast_slice_mut(&mut numbers[..needed])[..len]);
    FREE.with_borrow_mut(|free| free.push(numbers));
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn aligned_and_nested() {
        scratch(100, |a: &mut [f32]| {
            a.fill(1.0);
            scratch(1001, |b: &mut [bf16]| {
                assert_eq!(b.len(), 1001);
                b.fill(bf16::ONE);
            });
            assert!(a.iter().all(|&x| x == 1.0));
            assert_eq!(a.as_ptr().align_offset(64), 0);
        });
        for seven in [Numbers::<bf16>::zeros(7), Numbers::try_zeros(7).unwrap()] {
            assert_eq!((seven.len(), seven.size()), (7, Numbers::<bf16>::bytes(7)));
            assert!(seven.as_ptr().align_offset(64) == 0 && seven.iter().all(|&x| x == bf16::ZERO));
        }
        assert!(Numbers::<f32>::try_zeros(1 << 60).is_none());
        assert!(Numbers::<f32>::default().is_empty());
    }
}
