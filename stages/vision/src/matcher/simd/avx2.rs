//! The loops with AVX2: four windows or eight points a register.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi128_si64, _mm_extract_epi64, _mm256_add_epi8, _mm256_add_epi32, _mm256_add_epi64,
    _mm256_add_ps, _mm256_and_si256, _mm256_andnot_si256, _mm256_castsi256_pd, _mm256_castsi256_si128,
    _mm256_cmpgt_epi64, _mm256_cvttps_epi32, _mm256_extracti128_si256, _mm256_floor_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_movemask_pd, _mm256_mul_ps, _mm256_mullo_epi32,
    _mm256_sad_epu8, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256,
};

use super::portable::{outside, part, sum_at};
use super::windows::windows_of_eight;
use super::{Affine, BLOCK, Bordered, Cloud, First, Hit, LANES, POINTS, Probes, Rest, STEP, Strip, WORDS, Words};

/// Eight words.
type Eight = [__m256i; 2];
/// Eight sums.
type Sums = Eight;

windows_of_eight!("avx2,popcnt");

/// Word `k` of eight windows, each a word further down.
#[inline]
#[target_feature(enable = "avx2")]
fn load(words: &[u64; WORDS + LANES], k: usize) -> Eight {
    assert!(k < WORDS);
    // SAFETY: eight words from `k` on are inside.
    unsafe {
        let at = words.as_ptr().add(k);
        [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(4).cast())]
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Sums, b: Sums) -> Sums {
    [_mm256_add_epi64(a[0], b[0]), _mm256_add_epi64(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(v: Sums) -> [u16; LANES] {
    let mut out = [0_u64; LANES];
    // SAFETY: eight words.
    unsafe {
        _mm256_storeu_si256(out.as_mut_ptr().cast(), v[0]);
        _mm256_storeu_si256(out.as_mut_ptr().add(4).cast(), v[1]);
    }
    out.map(|sum| sum as u16)
}

/// Bit `l` is set where lane `l` is at most `limit`.
#[inline]
#[target_feature(enable = "avx2")]
fn at_most(v: Sums, limit: u16) -> u32 {
    let limit = _mm256_set1_epi64x(i64::from(limit));
    let above = v.map(|v| _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(v, limit))) as u32);
    !(above[0] | above[1] << 4) & 0xff
}

#[inline]
#[target_feature(enable = "avx2")]
fn lacking(window: impl Fn(usize) -> Eight, words: &Words) -> Sums {
    // Population counts of half bytes from a table (Mula, Kurz and Lemire, 2016), summed by bytes: four words give at
    // most 32 a byte.
    let table = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let half = _mm256_set1_epi8(15);
    let mut sums = [_mm256_setzero_si256(); 2];
    for k in 0..STEP {
        let wanted = _mm256_set1_epi64x(words.ink[k].cast_signed());
        let near = window(usize::from(words.at[k]) % WORDS);
        for (sum, near) in sums.iter_mut().zip(near) {
            let lacking = _mm256_andnot_si256(near, wanted);
            let low = _mm256_shuffle_epi8(table, _mm256_and_si256(lacking, half));
            let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(lacking), half));
            *sum = _mm256_add_epi8(*sum, _mm256_add_epi8(low, high));
        }
    }
    sums.map(|s| _mm256_sad_epu8(s, _mm256_setzero_si256()))
}

#[target_feature(enable = "avx2")]
pub(super) fn sum_under(cloud: &Cloud, map: &Bordered, pose: &Affine, limit: u32) -> u32 {
    const HALF: usize = POINTS / 2;
    let all = |v: f32| _mm256_set1_ps(v);
    let (at, ax, ay) = (pose.at.map(all), pose.x.map(all), pose.y.map(all));
    let (low, high) = (all(-1.0), [all(map.width as f32), all(map.height as f32)]);
    let pitch = _mm256_set1_epi32(map.pitch() as i32);
    // Column and row -1 lie at the start of the border.
    let origin = _mm256_set1_epi32(map.pitch() as i32 + 1);
    let mut sum = 0;
    for (k, (x, y)) in cloud.x.chunks_exact(POINTS).zip(cloud.y.chunks_exact(POINTS)).enumerate() {
        let half = |first: usize| {
            // SAFETY: eight numbers each.
            let (x, y) = unsafe { (_mm256_loadu_ps(x[first..].as_ptr()), _mm256_loadu_ps(y[first..].as_ptr())) };
            let place = |i: usize| {
                let v = _mm256_add_ps(_mm256_add_ps(at[i], _mm256_mul_ps(x, ax[i])), _mm256_mul_ps(y, ay[i]));
                let v = _mm256_min_ps(_mm256_max_ps(v, low), high[i]);
                _mm256_cvttps_epi32(_mm256_floor_ps(v))
            };
            let [u, v] = [place(0), place(1)];
            let index = _mm256_add_epi32(_mm256_add_epi32(_mm256_mullo_epi32(v, pitch), u), origin);
            [pairs(_mm256_castsi256_si128(index)), pairs(_mm256_extracti128_si256::<1>(index))]
        };
        let ([a, b], [c, d]) = (half(0), half(HALF));
        // SAFETY: places are bounded to the map with its border, whose length the caller checked.
        sum += unsafe { sum_at(map.bytes, [a, b, c, d], cloud.len - k * POINTS) };
        if sum >= limit {
            break;
        }
    }
    sum
}

/// Four indices as two words.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pairs(index: __m128i) -> [u64; 2] {
    [_mm_cvtsi128_si64(index).cast_unsigned(), _mm_extract_epi64::<1>(index).cast_unsigned()]
}
