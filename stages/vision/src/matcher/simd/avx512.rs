//! The loops with AVX-512: eight windows or sixteen points a register.

use std::arch::x86_64::{
    __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEG_INF, _mm512_add_epi32, _mm512_add_epi64, _mm512_add_ps,
    _mm512_and_si512, _mm512_andnot_si512, _mm512_cmple_epu64_mask, _mm512_cvt_roundps_epi32,
    _mm512_extracti32x4_epi32, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_mullo_epi32, _mm512_popcnt_epi64, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set1_ps,
    _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::avx2::sum_at;
use super::{Affine, Bordered, Cloud, Hit, LANES, POINTS, Probes, STEP, Strip, WORDS, Words};

#[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
pub(super) fn windows(strip: &Strip, probes: &Probes, hits: &mut Vec<Hit>) {
    for (block, available) in strip.available.chunks(LANES).enumerate() {
        let most = available.iter().copied().max().unwrap_or(0);
        if most < probes.needed() {
            continue;
        }
        let start = block * LANES;
        let window = load(&strip.near[start..]);
        let mut ink = None;
        for (i, first) in probes.first.iter().enumerate() {
            if first.needed > most {
                break;
            }
            let allowed = _mm512_set1_epi64(i64::from(first.allowed));
            let mut missing = lacking(&window, &first.words);
            let mut fit = _mm512_cmple_epu64_mask(missing, allowed);
            if fit == 0 {
                continue;
            }
            let rest = &probes.rest[i];
            for words in &rest.words {
                missing = _mm512_add_epi64(missing, lacking(&window, words));
                fit = _mm512_cmple_epu64_mask(missing, allowed);
                if fit == 0 {
                    break;
                }
            }
            if fit == 0 {
                continue;
            }
            let ink = ink.get_or_insert_with(|| load(&strip.ink[start..]));
            let mut foreign = _mm512_setzero_si512();
            for (w, &c) in ink.iter().zip(&rest.clutter) {
                let common = _mm512_and_si512(*w, _mm512_set1_epi64(c.cast_signed()));
                foreign = _mm512_add_epi64(foreign, _mm512_popcnt_epi64(common));
            }
            let (missing, foreign) = (store(missing), store(foreign));
            for lane in (0..available.len()).filter(|l| fit >> l & 1 == 1) {
                let (missing, foreign) = (missing[lane] as u32, foreign[lane] as u32);
                hits.push(Hit { probe: i as u32, window: (start + lane) as u32, missing, foreign });
            }
        }
    }
}

/// Eight windows, each a word further down.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u64]) -> [__m512i; WORDS] {
    let words: &[u64; WORDS + LANES] = words[..WORDS + LANES].try_into().expect("checked by the caller");
    // SAFETY: eight words from `k` on are inside.
    std::array::from_fn(|k| unsafe { _mm512_loadu_si512(words.as_ptr().add(k).cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(v: __m512i) -> [u64; LANES] {
    let mut out = [0; LANES];
    // SAFETY: eight words.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) };
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn lacking(window: &[__m512i; WORDS], words: &Words) -> __m512i {
    let count = |k: usize| {
        let wanted = _mm512_set1_epi64(words.ink[k].cast_signed());
        _mm512_popcnt_epi64(_mm512_andnot_si512(window[usize::from(words.at[k]) % WORDS], wanted))
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
            _mm512_extracti32x4_epi32::<0>(index),
            _mm512_extracti32x4_epi32::<1>(index),
            _mm512_extracti32x4_epi32::<2>(index),
            _mm512_extracti32x4_epi32::<3>(index),
        ];
        // SAFETY: places are bounded to the map with its border, whose length the caller checked.
        sum += unsafe { sum_at(map.bytes, quads, cloud.len - k * POINTS) };
        if sum >= limit {
            break;
        }
    }
    sum
}
