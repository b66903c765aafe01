//! The vector instructions of 64-bit ARM: NEON, four registers of four numbers each.
//!
//! There are 32 registers, so that tiles of 6 x 1 vectors (24 registers) are the largest that fit. The products of 16-bit
//! numbers are done in 32 bits: ARM's own (`bfdot`) round in other ways than the trait promises.
#![expect(unsafe_code, reason = "vector instructions need target features that only the run-time check establishes")]

use super::{HalfLanes, Lanes, Simd, WordLanes};
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "several dozen intrinsics with one prefix"))]
use std::arch::aarch64::*;

/// NEON. Made only after the processor was asked.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

type Numbers = [float32x4_t; 4];
type Words = [uint32x4_t; 4];

macro_rules! quarters {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $value:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            std::array::from_fn(|i| { $(let $arg = $arg[i];)* unsafe { $value } })
        })*
    };
}

// SAFETY of every block below: `self` exists, so the processor has the instructions; references are valid memory.
impl Simd for Neon {
    type V = Numbers;
    type W = Words;
    const MANY_REGISTERS: bool = false;
    #[inline(always)]
    fn splat(self, x: f32) -> Numbers {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> Numbers {
        std::array::from_fn(|i| unsafe { vld1q_f32(from[4 * i..][..4].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, v: Numbers, to: &mut Lanes) {
        for (i, v) in v.into_iter().enumerate() {
            unsafe { vst1q_f32(to[4 * i..][..4].as_mut_ptr(), v) }
        }
    }
    #[inline(always)]
    fn load_words(self, from: &WordLanes) -> Words {
        std::array::from_fn(|i| unsafe { vld1q_u32(from[4 * i..][..4].as_ptr()) })
    }
    #[inline(always)]
    fn store_words(self, w: Words, to: &mut WordLanes) {
        for (i, w) in w.into_iter().enumerate() {
            unsafe { vst1q_u32(to[4 * i..][..4].as_mut_ptr(), w) }
        }
    }
    #[inline(always)]
    fn splat_word(self, word: u32) -> Words {
        unsafe { [vdupq_n_u32(word); 4] }
    }
    #[inline(always)]
    fn load_half(self, from: &HalfLanes) -> Numbers {
        std::array::from_fn(|i| unsafe {
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from[4 * i..][..4].as_ptr().cast())))
        })
    }
    #[inline(always)]
    fn store_half(self, v: Numbers, to: &mut HalfLanes) {
        for (i, v) in v.into_iter().enumerate() {
            unsafe { vst1_u16(to[4 * i..][..4].as_mut_ptr().cast(), vmovn_u32(rounded(v))) }
        }
    }
    quarters! {
        add(a: Numbers, b: Numbers) -> Numbers = vaddq_f32(a, b);
        sub(a: Numbers, b: Numbers) -> Numbers = vsubq_f32(a, b);
        mul(a: Numbers, b: Numbers) -> Numbers = vmulq_f32(a, b);
        div(a: Numbers, b: Numbers) -> Numbers = vdivq_f32(a, b);
        // `fmax` and `fmin` treat zeros and what is no number in another way than all other instructions here.
        max(a: Numbers, b: Numbers) -> Numbers = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a: Numbers, b: Numbers) -> Numbers = vbslq_f32(vcltq_f32(a, b), a, b);
        mul_add(a: Numbers, b: Numbers, c: Numbers) -> Numbers = vfmaq_f32(c, a, b);
        neg_mul_add(a: Numbers, b: Numbers, c: Numbers) -> Numbers = vfmsq_f32(c, a, b);
        round(a: Numbers) -> Numbers = vrndnq_f32(a);
        scale(a: Numbers, n: Numbers) -> Numbers = {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        };
        numbers(w: Words) -> Numbers = vreinterpretq_f32_u32(w);
        words(v: Numbers) -> Words = vreinterpretq_u32_f32(v);
        dot(a: Words, b: Words, sum: Numbers) -> Numbers = {
            let sum = vfmaq_f32(sum, high(a), high(b));
            vfmaq_f32(sum, low(a), low(b))
        };
        pair(low: Numbers, high: Numbers) -> Words = vsliq_n_u32::<16>(rounded(low), rounded(high));
    }
}

/// The upper of the two 16-bit numbers in each word.
#[inline(always)]
fn high(w: uint32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xFFFF_0000))) }
}

/// The lower one.
#[inline(always)]
fn low(w: uint32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(w)) }
}

/// Four 16-bit numbers, each in a word.
#[inline(always)]
fn rounded(v: float32x4_t) -> uint32x4_t {
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let magnitude = vandq_u32(bits, vdupq_n_u32(0x7FFF_FFFF));
        let keep = vcgeq_u32(magnitude, vdupq_n_u32(super::TINY));
        let top = vshrq_n_u32::<16>(bits);
        let sum = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), vandq_u32(top, vdupq_n_u32(1)));
        let nan = vcgtq_u32(magnitude, vdupq_n_u32(f32::INFINITY.to_bits()));
        let quiet = vorrq_u32(top, vdupq_n_u32(0x40));
        vandq_u32(vbslq_u32(nan, quiet, vshrq_n_u32::<16>(sum)), keep)
    }
}

#[target_feature(enable = "neon")]
pub(super) fn with_neon<K: super::Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}
