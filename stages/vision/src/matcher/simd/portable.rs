//! The loops in plain Rust: what the vector versions must equal.

use super::{Affine, BLOCK, Bordered, Cloud, Drawn, First, Hit, LANES, POINTS, Probes, Rest, Strip, WORDS, whole};

pub(super) fn windows(strip: &Strip, probes: &Probes, hits: &mut Vec<Hit>) {
    for (block, &available) in strip.available.iter().enumerate() {
        let start = block * BLOCK;
        // What a group rules out none of its members would find: groups only save time.
        for (i, (first, rest)) in probes.first.iter().zip(&probes.rest).enumerate() {
            if first.needed > available {
                continue;
            }
            for four in 0..LANES {
                let united = |k: usize| strip.united[k % 2][start / 2 + four + k / 2];
                if lacking(united, first, rest).is_none() {
                    continue;
                }
                for (column, window) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let window = start + 2 * four + window;
                    let missing = lacking(|k| strip.near[column][window + k], first, rest);
                    if let Some(missing) = missing.filter(|_| window < strip.windows) {
                        let ink = &strip.ink[column][window..];
                        let (foreign, beside) = outside(ink, &probes.drawn[i]);
                        let (window, probe, column) = (window as u32, i as u32, column as u16);
                        hits.push(Hit { window, probe, column, missing, foreign, beside });
                    }
                }
            }
        }
    }
}

/// How many cells of the template a window lacks; `None` when they are more than allowed.
#[inline]
fn lacking(window: impl Fn(usize) -> u64, first: &First, rest: &Rest) -> Option<u16> {
    let mut missing = 0;
    for words in std::iter::once(&first.words).chain(rest) {
        for (ink, &at) in words.ink.iter().zip(&words.at) {
            missing += (ink & !window(usize::from(at))).count_ones() as u16;
        }
        if missing > first.allowed {
            return None;
        }
    }
    Some(missing)
}

/// The words of eight windows.
#[inline(always)]
pub(super) fn part(words: &[u64]) -> &[u64; WORDS + LANES] {
    words.first_chunk().expect("strips have room for a block more")
}

/// How many cells have ink where the template wants none, and no ink where it has some.
#[inline(always)]
pub(super) fn outside(ink: &[u64], drawn: &Drawn) -> (u16, u16) {
    let (mut foreign, mut beside) = (0, 0);
    for (ink, (clutter, wanted)) in ink[..WORDS].iter().zip(drawn.clutter.iter().zip(&drawn.ink)) {
        foreign += (ink & clutter).count_ones();
        beside += (wanted & !ink).count_ones();
    }
    (foreign as u16, beside as u16)
}

pub(super) fn sum_under(cloud: &Cloud, map: &Bordered, pose: &Affine, limit: u32) -> u32 {
    let (right, bottom) = (map.width as f32, map.height as f32);
    let mut sum = 0;
    for (x, y) in cloud.x[..cloud.len].chunks(POINTS).zip(cloud.y.chunks(POINTS)) {
        for (&x, &y) in x.iter().zip(y) {
            let u = pose.at[0] + x * pose.x[0] + y * pose.y[0];
            let v = pose.at[1] + x * pose.x[1] + y * pose.y[1];
            // Bounded, the border is column and row -1.
            let [column, row] = [(u, right), (v, bottom)].map(|(v, end)| 1 + whole(v.max(-1.0).min(end)));
            sum += u32::from(map.bytes[row as usize * map.pitch() + column as usize]);
        }
        if sum >= limit {
            break;
        }
    }
    sum
}

/// Sum of the bytes at the first `len` of sixteen indices, two a word.
///
/// # Safety
/// All indices lie inside.
#[inline(always)]
pub(super) unsafe fn sum_at(bytes: &[u8], index: [[u64; 2]; 4], len: usize) -> u32 {
    // SAFETY: the caller's promise.
    let byte = |i: u64| u64::from(unsafe { *bytes.get_unchecked((i & 0xffff_ffff) as usize) });
    if len >= POINTS {
        // Four sums of 64 bits, so that the compiler leaves the numbers where they are.
        let mut sums = [0; 4];
        for [a, b] in index {
            sums[0] += byte(a);
            sums[1] += byte(a >> 32);
            sums[2] += byte(b);
            sums[3] += byte(b >> 32);
        }
        return sums.iter().sum::<u64>() as u32;
    }
    let all = index.iter().flatten().flat_map(|&p| [p, p >> 32]);
    all.take(len).map(byte).sum::<u64>() as u32
}
