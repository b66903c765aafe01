//! The vector instructions of 64-bit ARM: NEON, four registers of four numbers each.
//!
//! There are 32 registers: tiles of 6 x 1 vectors take 24 for sums, in 16 bits tiles of 4 x 1 take 16. Of the 39 instructions
//! of the inner loop 24 are fused multiply-adds, in 16 bits 32 of 61, and no register is spilled. The products of 16-bit
//! numbers are done in 32 bits: ARM's own instructions for them round in other ways than the trait promises. Nothing was
//! timed: tests ran on an emulated processor.
#![expect(unsafe_code, reason = "vector instructions need target features that only the run-time check establishes")]

use super::{HalfLanes, Lanes, Simd, WordLanes};
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "several dozen intrinsics with one prefix"))]
use std::{arch::aarch64::*, mem::transmute};

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
    // Arrays of numbers are arrays of registers under another name.
    #[inline(always)]
    fn load(self, from: &Lanes) -> Numbers {
        unsafe { transmute(*from) }
    }
    #[inline(always)]
    fn store(self, v: Numbers, to: &mut Lanes) {
        *to = unsafe { transmute::<Numbers, Lanes>(v) };
    }
    #[inline(always)]
    fn load_words(self, from: &WordLanes) -> Words {
        unsafe { transmute(*from) }
    }
    #[inline(always)]
    fn store_words(self, w: Words, to: &mut WordLanes) {
        *to = unsafe { transmute::<Words, WordLanes>(w) };
    }
    #[inline(always)]
    fn splat_word(self, word: u32) -> Words {
        unsafe { [vdupq_n_u32(word); 4] }
    }
    #[inline(always)]
    fn load_half(self, from: &HalfLanes) -> Numbers {
        let halves = unsafe { transmute::<HalfLanes, [uint16x4_t; 4]>(*from) };
        halves.map(|half| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(half)) })
    }
    #[inline(always)]
    fn store_half(self, v: Numbers, to: &mut HalfLanes) {
        let halves = v.map(|v| unsafe { vmovn_u32(rounded(v)) });
        *to = unsafe { transmute::<[uint16x4_t; 4], HalfLanes>(halves) };
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
