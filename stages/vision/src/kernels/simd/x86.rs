//! The vector instructions of x86: AVX-512 with and without 16-bit products, and AVX2.
#![expect(unsafe_code, reason = "vector instructions need target features that only the run-time check establishes")]

use super::{HalfLanes, LANES, Lanes, Simd, WordLanes};
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "several dozen intrinsics with one prefix"))]
use std::arch::x86_64::*;

/// AVX-512: one register, with or without the instructions for 16-bit numbers. Made only after the processor was asked.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const HALVES: bool>(());

// SAFETY of every block below: `self` exists, so the processor has the instructions; references are valid memory.
impl<const HALVES: bool> Simd for Avx512<HALVES> {
    type V = __m512;
    type W = __m512i;
    const MANY_REGISTERS: bool = true;
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut Lanes) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }
    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn load_words(self, from: &WordLanes) -> __m512i {
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_words(self, w: __m512i, to: &mut WordLanes) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), w) }
    }
    #[inline(always)]
    fn splat_word(self, word: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(word.cast_signed()) }
    }
    #[inline(always)]
    fn numbers(self, w: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(w) }
    }
    #[inline(always)]
    fn words(self, v: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    fn dot(self, a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        unsafe {
            if HALVES {
                // SAFETY: the same sixteen words under another name.
                let (a, b) = (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b));
                return _mm512_dpbf16_ps(sum, a, b);
            }
            let high = _mm512_set1_epi32(HIGH);
            let (a1, b1) = (_mm512_and_si512(a, high), _mm512_and_si512(b, high));
            let (a0, b0) = (_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<16>(b));
            let sum = _mm512_fmadd_ps(_mm512_castsi512_ps(a1), _mm512_castsi512_ps(b1), sum);
            _mm512_fmadd_ps(_mm512_castsi512_ps(a0), _mm512_castsi512_ps(b0), sum)
        }
    }
    #[inline(always)]
    fn load_half(self, from: &HalfLanes) -> __m512 {
        unsafe {
            let half = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    fn store_half(self, v: __m512, to: &mut HalfLanes) {
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), Self::rounded(v)) }
    }
    #[inline(always)]
    fn pair(self, low: __m512, high: __m512) -> __m512i {
        unsafe {
            let low = _mm512_cvtepu16_epi32(Self::rounded(low));
            _mm512_or_si512(low, _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(Self::rounded(high))))
        }
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> __m512 {
        assert!(from.len() <= LANES);
        unsafe { _mm512_maskz_loadu_ps(mask(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, v: __m512, to: &mut [f32]) {
        assert!(to.len() <= LANES);
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask(to.len()), v) }
    }
}

#[inline(always)]
fn mask(len: usize) -> u16 {
    ((1u32 << len) - 1) as u16
}

/// AVX2 with fused multiply-add: two registers. Made only after the processor was asked.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

macro_rules! halves {
    ($($name:ident($($arg:ident),*) = $value:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: [__m256; 2]),*) -> [__m256; 2] {
            unsafe { [{ $(let $arg = $arg[0];)* $value }, { $(let $arg = $arg[1];)* $value }] }
        })*
    };
}

// SAFETY as above.
impl Simd for Avx2 {
    type V = [__m256; 2];
    type W = [__m256i; 2];
    const MANY_REGISTERS: bool = false;
    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> [__m256; 2] {
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())] }
    }
    #[inline(always)]
    fn store(self, v: [__m256; 2], to: &mut Lanes) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), v[1]);
        }
    }
    #[inline(always)]
    fn load_words(self, from: &WordLanes) -> [__m256i; 2] {
        unsafe { [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from[8..].as_ptr().cast())] }
    }
    #[inline(always)]
    fn store_words(self, w: [__m256i; 2], to: &mut WordLanes) {
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), w[0]);
            _mm256_storeu_si256(to[8..].as_mut_ptr().cast(), w[1]);
        }
    }
    #[inline(always)]
    fn splat_word(self, word: u32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(word.cast_signed()); 2] }
    }
    #[inline(always)]
    fn numbers(self, w: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_castsi256_ps(w[0]), _mm256_castsi256_ps(w[1])] }
    }
    #[inline(always)]
    fn words(self, v: [__m256; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_castps_si256(v[0]), _mm256_castps_si256(v[1])] }
    }
    #[inline(always)]
    fn dot(self, a: [__m256i; 2], b: [__m256i; 2], mut sum: [__m256; 2]) -> [__m256; 2] {
        for (i, sum) in sum.iter_mut().enumerate() {
            unsafe {
                let high = _mm256_set1_epi32(HIGH);
                let (a1, b1) = (_mm256_and_si256(a[i], high), _mm256_and_si256(b[i], high));
                let (a0, b0) = (_mm256_slli_epi32::<16>(a[i]), _mm256_slli_epi32::<16>(b[i]));
                *sum = _mm256_fmadd_ps(_mm256_castsi256_ps(a1), _mm256_castsi256_ps(b1), *sum);
                *sum = _mm256_fmadd_ps(_mm256_castsi256_ps(a0), _mm256_castsi256_ps(b0), *sum);
            }
        }
        sum
    }
    #[inline(always)]
    fn load_half(self, from: &HalfLanes) -> [__m256; 2] {
        let mut v = self.splat(0.0);
        for (v, half) in v.iter_mut().zip(from.as_chunks::<8>().0) {
            unsafe {
                let half = _mm256_cvtepu16_epi32(_mm_loadu_si128(half.as_ptr().cast()));
                *v = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half));
            }
        }
        v
    }
    #[inline(always)]
    fn store_half(self, v: [__m256; 2], to: &mut HalfLanes) {
        unsafe {
            // Packing works within halves of a register: the quarters come out as 0, 2, 1, 3.
            let packed = _mm256_packus_epi32(Self::rounded(v[0]), Self::rounded(v[1]));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_permute4x64_epi64::<0b1101_1000>(packed));
        }
    }
    #[inline(always)]
    fn pair(self, low: [__m256; 2], high: [__m256; 2]) -> [__m256i; 2] {
        let (low, high) =
            ([Self::rounded(low[0]), Self::rounded(low[1])], [Self::rounded(high[0]), Self::rounded(high[1])]);
        unsafe {
            [
                _mm256_or_si256(low[0], _mm256_slli_epi32::<16>(high[0])),
                _mm256_or_si256(low[1], _mm256_slli_epi32::<16>(high[1])),
            ]
        }
    }
    halves! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        min(a, b) = _mm256_min_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
        neg_mul_add(a, b, c) = _mm256_fnmadd_ps(a, b, c);
        round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale(a, n) = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        };
    }
}

/// The upper of the two 16-bit numbers in a word.
const HIGH: i32 = 0xFFFF_0000_u32.cast_signed();
/// Bits of a number without its sign; of infinity.
const MAGNITUDE: i32 = 0x7FFF_FFFF;
const INFINITY: i32 = 0x7F80_0000;

impl<const HALVES: bool> Avx512<HALVES> {
    /// Sixteen 16-bit numbers.
    #[inline(always)]
    fn rounded(v: __m512) -> __m256i {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(MAGNITUDE));
            let keep = _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(super::TINY.cast_signed()));
            if HALVES {
                // SAFETY: the same sixteen numbers under another name.
                return std::mem::transmute::<__m256bh, __m256i>(_mm512_maskz_cvtneps_pbh(keep, v));
            }
            let top = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
            let sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
            let nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(INFINITY));
            let quiet = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
            let rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32::<16>(sum), nan, quiet);
            _mm512_cvtepi32_epi16(_mm512_maskz_mov_epi32(keep, rounded))
        }
    }
}

impl Avx2 {
    /// Eight 16-bit numbers, each in a word.
    #[inline(always)]
    fn rounded(v: __m256) -> __m256i {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(MAGNITUDE));
            let keep = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(super::TINY.cast_signed() - 1));
            let top = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
            let sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
            let nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(INFINITY));
            let quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
            _mm256_and_si256(_mm256_blendv_epi8(_mm256_srli_epi32::<16>(sum), quiet, nan), keep)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
pub(super) fn with_avx512_halves<K: super::Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) fn with_avx512<K: super::Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn with_avx2<K: super::Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}
