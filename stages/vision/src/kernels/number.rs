//! The two kinds of numbers that maps hold: 32-bit floats, and 16-bit ones (bf16) of which two make a word.
//!
//! Arithmetic is always in 32 bits. Owns loading, rounding and the step of a product; refuses to own loops.

use super::{
    simd::{Simd, rounded},
    storage::LANES,
};
use half::bf16;

/// A kind of number.
pub(crate) trait Number: bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq {
    /// How many make a word of 32 bits.
    const PER_WORD: usize;

    /// Sixteen numbers.
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V;
    /// Sixteen numbers, rounded.
    fn store<S: Simd>(simd: S, v: S::V, to: &mut [Self; LANES]);
    /// Adds to sixteen sums the products of a word with sixteen words; with two numbers a word, those of the upper ones
    /// first.
    fn product<S: Simd>(simd: S, a: u32, b: S::W, sums: S::V) -> S::V;
    /// Words from a row, or from two (the numbers of `low` first).
    fn words<S: Simd>(simd: S, low: S::V, high: S::V) -> S::W;
    /// `a * b + c` on what such numbers become; of 16-bit ones rounded once with all instructions.
    fn mul_add<S: Simd>(simd: S, a: S::V, b: S::V, c: S::V) -> S::V;
    /// `1 / (1 + e^-x)`, likewise.
    fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V;
    /// One number, rounded.
    fn from_f32(x: f32) -> Self;
    /// One number.
    fn to_f32(self) -> f32;

    /// Up to sixteen numbers at `index`, zeros behind.
    #[inline(always)]
    fn get<S: Simd>(simd: S, from: &[Self], index: usize, len: usize) -> S::V {
        if len == LANES {
            Self::load(simd, from[index..index + LANES].try_into().expect("a slice of sixteen"))
        } else {
            Self::load_part(simd, &from[index..index + len])
        }
    }

    /// Up to sixteen numbers at `index`, rounded.
    #[inline(always)]
    fn put<S: Simd>(simd: S, v: S::V, to: &mut [Self], index: usize, len: usize) {
        if len == LANES {
            Self::store(simd, v, (&mut to[index..index + LANES]).try_into().expect("a slice of sixteen"));
        } else {
            Self::store_part(simd, v, &mut to[index..index + len]);
        }
    }

    /// Up to sixteen numbers, zeros behind.
    #[inline(always)]
    fn load_part<S: Simd>(simd: S, from: &[Self]) -> S::V {
        let mut lanes = [Self::zeroed(); LANES];
        lanes[..from.len()].copy_from_slice(from);
        Self::load(simd, &lanes)
    }

    /// Up to sixteen numbers, rounded.
    #[inline(always)]
    fn store_part<S: Simd>(simd: S, v: S::V, to: &mut [Self]) {
        let mut lanes = [Self::zeroed(); LANES];
        Self::store(simd, v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }
}

impl Number for f32 {
    const PER_WORD: usize = 1;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load(from)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, v: S::V, to: &mut [Self; LANES]) {
        simd.store(v, to);
    }
    #[inline(always)]
    fn product<S: Simd>(simd: S, a: u32, b: S::W, sums: S::V) -> S::V {
        simd.mul_add(simd.splat(Self::from_bits(a)), simd.numbers(b), sums)
    }
    #[inline(always)]
    fn words<S: Simd>(simd: S, low: S::V, _: S::V) -> S::W {
        simd.words(low)
    }
    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, a: S::V, b: S::V, c: S::V) -> S::V {
        simd.mul_add(a, b, c)
    }
    #[inline(always)]
    fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
        simd.sigmoid::<false>(x)
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load_part<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.load_part(from)
    }
    #[inline(always)]
    fn store_part<S: Simd>(simd: S, v: S::V, to: &mut [Self]) {
        simd.store_part(v, to);
    }
}

impl Number for bf16 {
    const PER_WORD: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load_half(from)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, v: S::V, to: &mut [Self; LANES]) {
        simd.store_half(v, to);
    }
    #[inline(always)]
    fn product<S: Simd>(simd: S, a: u32, b: S::W, sums: S::V) -> S::V {
        simd.dot(simd.splat_word(a), b, sums)
    }
    #[inline(always)]
    fn words<S: Simd>(simd: S, low: S::V, high: S::V) -> S::W {
        simd.pair(low, high)
    }
    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, a: S::V, b: S::V, c: S::V) -> S::V {
        simd.fused(a, b, c)
    }
    #[inline(always)]
    fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
        simd.sigmoid::<true>(x)
    }
    fn from_f32(x: f32) -> Self {
        rounded(x)
    }
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}

/// Maps of the whole batch, pictures or parts of them, seen as words.
pub(crate) fn as_words<E: Number>(numbers: &[E]) -> &[u32] {
    bytemuck::cast_slice(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::{Kernel, with_each};

    #[derive(Clone)]
    struct Rounding([f32; LANES]);
    impl Kernel for Rounding {
        type Output = ([bf16; LANES], [u32; LANES], [u32; LANES]);
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let (mut half, mut words, mut sums) = ([bf16::ZERO; LANES], [0; LANES], [0.0; LANES]);
            let v = simd.load(&self.0);
            simd.store_half(v, &mut half);
            let turned: [f32; LANES] = std::array::from_fn(|i| self.0[(i + 1) % LANES]);
            let pair = simd.pair(v, simd.load(&turned));
            simd.store_words(pair, &mut words);
            // Sums begin at zero and are never subnormal.
            let first = simd.dot(simd.splat_word(words[3]), pair, simd.splat(0.0));
            simd.store(simd.dot(simd.splat_word(words[11]), pair, first), &mut sums);
            (half, words, sums.map(f32::to_bits))
        }
    }

    /// Every instruction set rounds and multiplies to the same bits, from the tiniest numbers to infinity.
    #[test]
    fn sixteen_bits_are_the_same_everywhere() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.swap_bytes()
        };
        for round in 0..20_000 {
            let numbers: [f32; LANES] = std::array::from_fn(|_| {
                // All bit patterns, and numbers near the border of the tiniest, whose products are the smallest.
                let bits = random();
                if round % 2 == 0 { f32::from_bits(bits) } else { f32::from_bits(bits & 0x81FF_FFFF | 0x2300_0000) }
            });
            let results = with_each(&Rounding(numbers));
            for (half, words, sums) in &results {
                assert_eq!(half.map(bf16::to_bits), results[0].0.map(bf16::to_bits), "{numbers:?}");
                assert_eq!(words, &results[0].1);
                for (a, b) in sums.iter().zip(results[0].2) {
                    assert!(*a == b || f32::from_bits(*a).is_nan() && f32::from_bits(b).is_nan(), "{numbers:?}");
                }
            }
            for (&x, half) in numbers.iter().zip(results[0].0) {
                if x.is_nan() {
                    assert!(half.is_nan());
                } else if x.abs() < 2f32.powi(-56) {
                    assert_eq!(half.to_bits(), 0);
                } else {
                    assert_eq!(half, bf16::from_f32(x));
                }
            }
        }
    }
}
