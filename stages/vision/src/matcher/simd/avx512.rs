//! The loops with AVX-512: eight windows or sixteen points a register.

use std::arch::x86_64::{
    __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEG_INF, _mm512_add_epi32, _mm512_add_epi64, _mm512_add_ps,
    _mm512_andnot_si512, _mm512_cmple_epu64_mask, _mm512_cvt_roundps_epi32, _mm512_extracti32x4_epi32, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_popcnt_epi64,
    _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set1_ps, _mm512_storeu_si512,
};

use super::avx2::pairs;
use super::portable::{outside, part, sum_at};
use super::windows::windows_of_eight;
use super::{Affine, BLOCK, Bordered, Cloud, First, Hit, LANES, POINTS, Probes, Rest, STEP, Strip, WORDS, Words};

/// Eight words.
type Eight = __m512i;
/// Eight sums.
type Sums = Eight;

windows_of_eight!("avx512f,avx512vpopcntdq,popcnt");

/// Word `k` of eight windows, each a word further down.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u64; WORDS + LANES], k: usize) -> Eight {
    assert!(k < WORDS);
    // SAFETY: eight words from `k` on are inside.
    unsafe { _mm512_loadu_si512(words.as_ptr().add(k).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Sums, b: Sums) -> Sums {
    _mm512_add_epi64(a, b)
}

/// Bit `l` is set where lane `l` is at most `limit`.
#[inline]
#[target_feature(enable = "avx512f")]
fn at_most(v: Sums, limit: u16) -> u32 {
    u32::from(_mm512_cmple_epu64_mask(v, _mm512_set1_epi64(i64::from(limit))))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(v: Sums) -> [u16; LANES] {
    let mut out = [0_u64; LANES];
    // SAFETY: eight words.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) };
    out.map(|sum| sum as u16)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn lacking(window: impl Fn(usize) -> Eight, words: &Words) -> Sums {
    let count = |k: usize| {
        let wanted = _mm512_set1_epi64(words.ink[k].cast_signed());
        _mm512_popcnt_epi64(_mm512_andnot_si512(window(usize::from(words.at[k]) % WORDS), wanted))
    };
    const { assert!(STEP == 4) };
    _mm512_add_epi64(_mm512_add_epi64(count(0), count(1)), _mm512_add_epi64(count(2), count(3)))
}

#[target_feature(enable = "avx512f")]
pub(super) fn sum_under(cloud: &Cloud, map: &Bordered, pose: &Affine, limit: u32) -> u32 {
    let all = |v: f32| _mm512_set1_ps(v);
    let (at, ax, ay) = (pose.at.map(all), pose.x.map(all), pose.y.map(all));
    let (low, high) = (all(-1.0), [all(map.width as f32), all(map.height as f32)]);
    let pitch = _mm512_set1_epi32(map.pitch() as i32);
    // Column and row -1 lie at the start of the border.
    let origin = _mm512_set1_epi32(map.pitch() as i32 + 1);
    let mut sum = 0;
    for (k, (x, y)) in cloud.x.chunks_exact(POINTS).zip(cloud.y.chunks_exact(POINTS)).enumerate() {
        // SAFETY: sixteen numbers each.
        let (x, y) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(y.as_ptr())) };
        let place = |i: usize| {
            let v = _mm512_add_ps(_mm512_add_ps(at[i], _mm512_mul_ps(x, ax[i])), _mm512_mul_ps(y, ay[i]));
            let v = _mm512_min_ps(_mm512_max_ps(v, low), high[i]);
            _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(v)
        };
        let [u, v] = [place(0), place(1)];
        let index = _mm512_add_epi32(_mm512_add_epi32(_mm512_mullo_epi32(v, pitch), u), origin);
        // Single loads: gathers take longer on AMD's processors.
        let quads = [
            pairs(_mm512_extracti32x4_epi32::<0>(index)),
            pairs(_mm512_extracti32x4_epi32::<1>(index)),
            pairs(_mm512_extracti32x4_epi32::<2>(index)),
            pairs(_mm512_extracti32x4_epi32::<3>(index)),
        ];
        // SAFETY: places are bounded to the map with its border, whose length the caller checked.
        sum += unsafe { sum_at(map.bytes, quads, cloud.len - k * POINTS) };
        if sum >= limit {
            break;
        }
    }
    sum
}
