//! The loops in plain Rust: what the vector versions must equal.

use super::{Affine, Bordered, Cloud, Hit, LANES, POINTS, Probes, STEP, Strip, WORDS, Words, whole};

pub(super) fn windows(strip: &Strip, probes: &Probes, hits: &mut Vec<Hit>) {
    for (block, available) in strip.available.chunks(LANES).enumerate() {
        let most = available.iter().copied().max().unwrap_or(0);
        if most < probes.needed() {
            continue;
        }
        let start = block * LANES;
        for (i, first) in probes.first.iter().enumerate() {
            if first.needed > most {
                break;
            }
            let rest = &probes.rest[i];
            for lane in 0..available.len() {
                let window: &[u64; WORDS] = strip.near[start + lane..][..WORDS].try_into().expect("sixteen words");
                let mut missing = lacking(window, &first.words);
                for words in &rest.words {
                    if missing > u32::from(first.allowed) {
                        break;
                    }
                    missing += lacking(window, words);
                }
                if missing <= u32::from(first.allowed) {
                    let ink = &strip.ink[start + lane..][..WORDS];
                    let foreign = ink.iter().zip(&rest.clutter).map(|(p, q)| (p & q).count_ones()).sum();
                    hits.push(Hit { probe: i as u32, window: (start + lane) as u32, missing, foreign });
                }
            }
        }
    }
}

#[inline]
fn lacking(window: &[u64; WORDS], words: &Words) -> u32 {
    (0..STEP).map(|k| (words.ink[k] & !window[usize::from(words.at[k])]).count_ones()).sum()
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
