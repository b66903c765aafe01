//! The loops with NEON of 64-bit ARM: two windows or four points a register. The loops that the compiler turns into
//! vectors need no version of their own here, because every 64-bit ARM has these instructions.

use std::arch::aarch64::{
    int32x4_t, uint16x8_t, uint64x2_t, vaddq_f32, vaddq_s32, vaddq_u8, vaddq_u16, vaddvq_u16, vandq_u16, vbicq_u64,
    vcleq_u16, vcntq_u8, vcvtmq_s32_f32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vdupq_n_u16, vdupq_n_u64,
    vgetq_lane_u64, vld1q_f32, vld1q_u16, vld1q_u64, vmaxnmq_f32, vminnmq_f32, vmlaq_s32, vmulq_f32, vpaddlq_u8,
    vpaddq_u8, vreinterpretq_u8_u64, vreinterpretq_u64_s32, vst1q_u16,
};

use super::portable::{outside, part, sum_at};
use super::windows::windows_of_eight;
use super::{Affine, BLOCK, Bordered, Cloud, First, Hit, LANES, POINTS, Probes, Rest, STEP, Strip, WORDS, Words};

/// Eight words.
type Eight = [uint64x2_t; 4];
/// Eight sums.
type Sums = uint16x8_t;

windows_of_eight!("neon");

/// Word `k` of eight windows, each a word further down.
#[inline]
#[target_feature(enable = "neon")]
fn load(words: &[u64; WORDS + LANES], k: usize) -> Eight {
    assert!(k < WORDS);
    // SAFETY: eight words from `k` on are inside.
    [0, 2, 4, 6].map(|i| unsafe { vld1q_u64(words.as_ptr().add(k + i)) })
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: Sums, b: Sums) -> Sums {
    vaddq_u16(a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn store(v: Sums) -> [u16; LANES] {
    let mut out = [0; LANES];
    // SAFETY: eight numbers.
    unsafe { vst1q_u16(out.as_mut_ptr(), v) };
    out
}

/// Bit `l` is set where lane `l` is at most `limit`.
#[inline]
#[target_feature(enable = "neon")]
fn at_most(v: Sums, limit: u16) -> u32 {
    const BITS: [u16; LANES] = [1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: eight numbers.
    let bits = unsafe { vld1q_u16(BITS.as_ptr()) };
    u32::from(vaddvq_u16(vandq_u16(vcleq_u16(v, vdupq_n_u16(limit)), bits)))
}

#[inline]
#[target_feature(enable = "neon")]
fn lacking(window: impl Fn(usize) -> Eight, words: &Words) -> Sums {
    // Sums by bytes: four words give at most 32 a byte, and the four bytes that are added in pairs after that 128.
    const { assert!(STEP == 4) };
    let mut sums = [vdupq_n_u8(0); 4];
    for k in 0..STEP {
        let wanted = vdupq_n_u64(words.ink[k]);
        let near = window(usize::from(words.at[k]) % WORDS);
        for (sum, near) in sums.iter_mut().zip(near) {
            *sum = vaddq_u8(*sum, vcntq_u8(vreinterpretq_u8_u64(vbicq_u64(wanted, near))));
        }
    }
    let halves = [vpaddq_u8(sums[0], sums[1]), vpaddq_u8(sums[2], sums[3])];
    vpaddlq_u8(vpaddq_u8(halves[0], halves[1]))
}

#[target_feature(enable = "neon")]
pub(super) fn sum_under(cloud: &Cloud, map: &Bordered, pose: &Affine, limit: u32) -> u32 {
    let all = |v: f32| vdupq_n_f32(v);
    let (at, ax, ay) = (pose.at.map(all), pose.x.map(all), pose.y.map(all));
    let (low, high) = (all(-1.0), [all(map.width as f32), all(map.height as f32)]);
    let pitch = vdupq_n_s32(map.pitch() as i32);
    // Column and row -1 lie at the start of the border.
    let origin = vdupq_n_s32(map.pitch() as i32 + 1);
    let mut sum = 0;
    for (k, (x, y)) in cloud.x.chunks_exact(POINTS).zip(cloud.y.chunks_exact(POINTS)).enumerate() {
        let quads = [0, 4, 8, 12].map(|first| {
            // SAFETY: four numbers each.
            let (x, y) = unsafe { (vld1q_f32(x[first..].as_ptr()), vld1q_f32(y[first..].as_ptr())) };
            let place = |i: usize| {
                let v = vaddq_f32(vaddq_f32(at[i], vmulq_f32(x, ax[i])), vmulq_f32(y, ay[i]));
                vcvtmq_s32_f32(vminnmq_f32(vmaxnmq_f32(v, low), high[i]))
            };
            let [u, v] = [place(0), place(1)];
            pairs(vmlaq_s32(vaddq_s32(u, origin), v, pitch))
        });
        // SAFETY: places are bounded to the map with its border, whose length the caller checked.
        sum += unsafe { sum_at(map.bytes, quads, cloud.len - k * POINTS) };
        if sum >= limit {
            break;
        }
    }
    sum
}

/// Four indices as two words.
#[inline]
#[target_feature(enable = "neon")]
fn pairs(index: int32x4_t) -> [u64; 2] {
    let index = vreinterpretq_u64_s32(index);
    [vgetq_lane_u64::<0>(index), vgetq_lane_u64::<1>(index)]
}
