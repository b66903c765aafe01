//! Every instruction set gives the bits of the portable one, at every length.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// The sets that this processor has, without the portable one.
fn vectors() -> impl Iterator<Item = Simd> {
    let (have, lack): (Vec<_>, Vec<_>) =
        Simd::ALL.into_iter().filter(|s| *s != Simd::Portable).partition(|s| s.is_available());
    if !lack.is_empty() {
        println!("not tested, because the processor lacks them: {lack:?}");
    }
    have.into_iter()
}

fn bytes(rng: &mut ChaCha8Rng, len: usize, below: u8) -> Vec<u8> {
    (0..len).map(|_| rng.random_range(0..=below)).collect()
}

/// Words with about an eighth, a half or seven eighths of their bits set.
fn words(rng: &mut ChaCha8Rng, len: usize) -> Vec<u64> {
    let density = rng.random_range(0..3);
    let mut word = || match density {
        0 => rng.next_u64() & rng.next_u64() & rng.next_u64(),
        1 => rng.next_u64(),
        _ => rng.next_u64() | rng.next_u64() | rng.next_u64(),
    };
    (0..len).map(|_| word()).collect()
}

/// What `run` writes is the same for every set.
fn same<T: Clone + PartialEq + std::fmt::Debug>(out: &[T], what: &str, run: impl Fn(Simd, &mut [T])) {
    let with = |simd| {
        let mut out = out.to_vec();
        run(simd, &mut out);
        out
    };
    let wanted = with(Simd::Portable);
    for simd in vectors() {
        assert_eq!(with(simd), wanted, "{what} of {} with {simd:?}", out.len());
    }
}

#[test]
fn bytes_and_words() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for n in (1..140).chain([511, 512, 513, 1000]) {
        let r = &mut rng;
        let (levels, mask, zeros) = (bytes(r, n, 255), bytes(r, n, 1), vec![0u8; n]);
        let rows: [Vec<u8>; 5] = std::array::from_fn(|_| bytes(r, n, 255));
        let masks: [Vec<u8>; 2] = std::array::from_fn(|_| bytes(r, n, 1));
        let rgb = bytes(r, 3 * n, 255);
        let at = r.random_range(0..=255);
        for flag in [false, true] {
            same(&zeros, "extreme_channel", |s, out| extreme_channel(s, &rgb, flag, out));
        }
        let relief = r.random_range(0..90);
        let around = || std::array::from_fn(|k| &*rows[k]);
        same(&zeros, "ink_row", |s, out| ink_row(s, around(), at / 2, at, relief, out));
        same(&zeros, "despeckle", |s, out| despeckle(s, &masks[0], &mask, &masks[1], out));
        same(&vec![0; n.div_ceil(64)], "pack", |s, out| pack(s, &mask, out));
        same(&zeros, "smooth_row", |s, out| smooth_row(s, &levels, out));
        same(&zeros, "smooth_columns", |s, out| smooth_columns(s, around(), out));
        same(&zeros, "to_distance", |s, out| to_distance(s, &mask, 15, out));
        same(&zeros, "square", |s, out| square(s, &levels, out));
        for cap in [1, 15, 60] {
            let near: Vec<u8> = levels.iter().map(|&v| v.min(cap)).collect();
            let row: Vec<u8> = rows[0].iter().map(|&v| v.min(cap)).collect();
            same(&row, "chamfer", |s, out| chamfer(s, out, Some(&near), cap, &mut vec![0; n]));
            same(&row, "chamfer alone", |s, out| chamfer(s, out, None, cap, &mut vec![0; n]));
        }
        let (a, b) = (words(r, n), words(r, n));
        same(&a, "unite", |s, out| unite(s, &b, out));
        same(&vec![0u16; n], "available", |s, out| available(s, &a, out));
        let sums: Vec<u16> = a.iter().map(|&w| (w % 900) as u16).collect();
        same(&vec![400; n.div_ceil(BLOCK)], "most_of_blocks", |s, out| most_of_blocks(s, &sums, out));
        let half = vec![0; n.div_ceil(2)];
        let (a, b) = (words(r, 2 * half.len() + 2), words(r, 2 * half.len() + 2));
        same(&half, "even windows", |s, out| unite_windows(s, &a, &b, out, &mut half.clone()));
        same(&half, "odd windows", |s, out| unite_windows(s, &a, &b, &mut half.clone(), out));
        let columns: [Vec<u32>; 3] = std::array::from_fn(|_| words(r, n).into_iter().map(|w| w as u32).collect());
        let [left, middle, right] = &columns;
        same(&vec![0u32; n], "grow", |s, out| grow(s, left, middle, right, out));
        for by in [0, 1, 17, 31] {
            same(&vec![0u32; n], "shift", |s, out| shift(s, middle, right, by, out));
        }
    }
}

#[test]
fn packed_bits_are_in_order() {
    let mut row = vec![0; 70];
    (row[0], row[9], row[63], row[65]) = (1, 1, 1, 1);
    let mut out = [0; 2];
    pack(Simd::chosen(), &row, &mut out);
    assert_eq!(out, [1 | 1 << 9 | 1 << 63, 2]);
}

#[test]
fn smoothing_keeps_even_grey_and_repeats_the_border() {
    for n in 1..9 {
        let mut out = vec![0; n];
        smooth_row(Simd::chosen(), &vec![77; n], &mut out);
        assert_eq!(out, vec![77; n]);
    }
    let mut out = [0; 3];
    smooth_row(Simd::chosen(), &[160, 0, 0], &mut out);
    assert_eq!(out, [110, 50, 10]);
}

#[test]
fn windows_of_strips() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut seen = 0;
    for round in 0..60 {
        let count: usize = rng.random_range(1..70);
        let mut strip = Strip::default();
        strip.resize(count);
        // Rooms are used again: what a longer strip left behind must not matter.
        for v in strip.near.iter_mut().chain(&mut strip.ink) {
            let used = words(&mut rng, count + WORDS - 1);
            v[..used.len()].copy_from_slice(&used);
        }
        // Templates that lie in two places of the strip with some ink added, and one that is empty.
        let places = [0, 1].map(|column| (column, rng.random_range(0..count)));
        let mut templates: Vec<[[u64; WORDS]; 2]> = (0..round % 23)
            .map(|i| {
                let (column, at) = places[i % 2];
                let mut ink: [u64; WORDS] = std::array::from_fn(|k| strip.near[column][at + k] & rng.next_u64());
                ink[rng.random_range(0..WORDS)] |= rng.next_u64() & rng.next_u64();
                [ink, std::array::from_fn(|_| rng.next_u64())]
            })
            .collect();
        templates.push([[0; WORDS]; 2]);
        let cells = |w: &[u64; WORDS]| w.iter().map(|w| w.count_ones()).sum::<u32>();
        templates.sort_by_key(|[ink, _]| cells(ink));
        // Groups with much and with little in common.
        let mut probes = Probes::default();
        let mut rest = &templates[..];
        while !rest.is_empty() {
            let (group, others) = rest.split_at(rng.random_range(1..=rest.len().min(4)));
            let allowed = |ink| cells(ink) as u16 / 10;
            probes.push(group.iter().map(|[ink, clutter]| Probe { ink, clutter, allowed: allowed(ink) }));
            rest = others;
        }
        // What the words mean: every window against every template.
        let mut wanted = Vec::new();
        for (window, column) in (0..count).flat_map(|w| [(w, 0), (w, 1)]) {
            for (i, [template, clutter]) in templates.iter().enumerate() {
                let sum = |f: &dyn Fn(usize) -> u64| (0..WORDS).map(|k| f(k).count_ones()).sum::<u32>() as u16;
                let missing = sum(&|k| template[k] & !strip.near[column][window + k]);
                let foreign = sum(&|k| clutter[k] & strip.ink[column][window + k]);
                let beside = sum(&|k| template[k] & !strip.ink[column][window + k]);
                if u32::from(missing) <= cells(template) / 10 {
                    let (window, probe, column) = (window as u32, i as u32, column as u16);
                    wanted.push(Hit { window, probe, column, missing, foreign, beside });
                }
            }
        }
        wanted.sort();
        for simd in [Simd::Portable].into_iter().chain(vectors()) {
            assert!(strip.prepare(simd, &probes));
            let mut hits = Vec::new();
            windows(simd, &strip, &probes, &mut hits);
            assert!(hits.is_sorted_by_key(|h| h.window as usize / BLOCK), "{simd:?}");
            hits.sort();
            assert_eq!(hits, wanted, "{simd:?}");
        }
        seen += wanted.iter().filter(|h| cells(&templates[h.probe as usize][0]) > 0).count();
    }
    assert!(seen > 100, "only {seen} hits: the test says little");
}

#[test]
fn sums_under_points() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for round in 0..400 {
        let (width, height) = (rng.random_range(1..80), rng.random_range(1..80));
        let map = bytes(&mut rng, (width + 2) * (height + 2), 225);
        let map = Bordered { bytes: &map, width, height };
        let mut number = |reach: f32| (rng.random::<f32>() - 0.5) * 2.0 * reach;
        let points: Vec<[f32; 2]> = (0..round % 70).map(|_| [number(30.0), number(30.0)]).collect();
        let at = [number(60.0) + 20.0, number(60.0) + 20.0];
        // Now and then far outside, or on the borders of pixels.
        let pose = match round % 5 {
            0 => Affine { at: [number(1e12), number(1e9)], x: [1.0, 0.0], y: [0.0, 1.0] },
            1 => Affine { at: at.map(f32::floor), x: [0.0, 0.0], y: [0.0, 0.0] },
            _ => Affine { at, x: [number(2.0), number(2.0)], y: [number(2.0), number(2.0)] },
        };
        let cloud = Cloud::of(points.iter().copied());
        let mut wanted = 0;
        for [x, y] in points {
            let place = |i: usize| (pose.at[i] + x * pose.x[i] + y * pose.y[i]).floor();
            let (u, v) = (place(0), place(1));
            let (u, v) = (u.clamp(-1.0, width as f32) + 1.0, v.clamp(-1.0, height as f32) + 1.0);
            wanted += u32::from(map.bytes[v as usize * (width + 2) + u as usize]);
        }
        for simd in [Simd::Portable].into_iter().chain(vectors()) {
            assert_eq!(sum_under(simd, &cloud, &map, &pose, u32::MAX), wanted, "{simd:?}");
            for limit in [0, wanted / 2, wanted, wanted + 1] {
                let cut = sum_under(simd, &cloud, &map, &pose, limit);
                assert_eq!(cut, sum_under(Simd::Portable, &cloud, &map, &pose, limit), "{simd:?}");
                assert!(cut == wanted || cut >= limit);
            }
        }
    }
}

#[test]
fn whole_numbers_are_floors() {
    for v in [-1.0, -0.5, -0.0, 0.0, 0.999_999_94, 1.0, 1.5, 19_999.998] {
        assert_eq!(whole(v), v.floor() as i32, "{v}");
    }
}

#[test]
fn levels_at_points() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for round in 0..400 {
        let (width, height) = (rng.random_range(1..80), rng.random_range(1..80));
        let plane = bytes(&mut rng, width * height, 255);
        let plane = Plane { bytes: &plane, width, height };
        let mut number = |reach: f32| (rng.random::<f32>() - 0.5) * 2.0 * reach;
        let points: Vec<[f32; 2]> = (0..round).map(|_| [number(30.0), number(30.0)]).collect();
        let at = [number(60.0) + 20.0, number(60.0) + 20.0];
        // Now and then far outside, or on the borders of pixels.
        let pose = match round % 5 {
            0 => Affine { at: [number(1e12), f32::NAN], x: [1.0, 0.0], y: [0.0, 1.0] },
            1 => Affine { at: at.map(f32::floor), x: [0.5, 0.0], y: [0.0, 0.0] },
            _ => Affine { at, x: [number(2.0), number(2.0)], y: [number(2.0), number(2.0)] },
        };
        let cloud = Cloud::of(points.iter().copied());
        let out = vec![f32::NAN; cloud.padded()];
        let level = |u: f32, v: f32| {
            let inside = u >= 0.0 && v >= 0.0 && u < width as f32 && v < height as f32;
            inside.then(|| f32::from(plane.bytes[v as usize * width + u as usize]))
        };
        let (mut near, mut mixed) = (out.clone(), out.clone());
        nearest(Simd::Portable, &plane, 7, &cloud, &pose, &mut near);
        between(Simd::Portable, &plane, &cloud, &pose, &mut mixed);
        for (k, [x, y]) in points.iter().enumerate() {
            let [u, v] = [0, 1].map(|i| pose.at[i] + x * pose.x[i] + y * pose.y[i]);
            assert_eq!(near[k], level(u, v).unwrap_or(7.0), "the nearest to {u} {v}");
            let [(l, a), (t, b)] = [u, v].map(|v| ((v - 0.5).floor(), v - 0.5 - (v - 0.5).floor()));
            let four = [level(l, t), level(l + 1.0, t), level(l, t + 1.0), level(l + 1.0, t + 1.0)];
            let wanted = match four {
                [Some(p), Some(q), Some(r), Some(s)] => {
                    (1.0 - b) * ((1.0 - a) * p + a * q) + b * ((1.0 - a) * r + a * s)
                }
                _ => 0.0,
            };
            assert!((mixed[k] - wanted).abs() < 1e-3, "{} between {wanted} at {u} {v}", mixed[k]);
        }
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let weights: Vec<f32> = (0..cloud.padded()).map(|_| rng.random()).collect();
        let mut sums = [0.0; 3];
        moments(Simd::Portable, &weights, &near, &mixed, &mut sums);
        let exact = weights.iter().zip(&mixed).map(|(w, b)| f64::from(*w) * f64::from(*b)).sum::<f64>();
        assert!((f64::from(sums[0]) - exact).abs() <= 1e-5 * exact);
        let mut sampled = [out.clone(), out.clone(), out.clone()];
        between_with_slopes(Simd::Portable, &plane, &cloud, &pose, &mut sampled);
        assert_eq!(bits(&sampled[0]), bits(&mixed), "levels do not depend on whether slopes are wanted");
        let mut normals = [0.0; NORMAL];
        normal(Simd::Portable, &cloud, &pose, &weights, &near, &sampled, &mut normals);
        for simd in vectors() {
            let mut again = sampled.clone().map(|v| vec![f32::NAN; v.len()]);
            between_with_slopes(simd, &plane, &cloud, &pose, &mut again);
            assert_eq!(again.each_ref().map(|v| bits(v)), sampled.each_ref().map(|v| bits(v)), "{simd:?}");
            let mut other = [0.0; NORMAL];
            normal(simd, &cloud, &pose, &weights, &near, &sampled, &mut other);
            assert_eq!(bits(&other), bits(&normals), "{simd:?}");
            let mut out = out.clone();
            nearest(simd, &plane, 7, &cloud, &pose, &mut out);
            assert_eq!(bits(&out), bits(&near), "{simd:?}");
            between(simd, &plane, &cloud, &pose, &mut out);
            assert_eq!(bits(&out), bits(&mixed), "{simd:?}");
            let mut other = [0.0; 3];
            moments(simd, &weights, &near, &mixed, &mut other);
            assert_eq!(bits(&other), bits(&sums), "{simd:?}");
        }
    }
}

/// A pose that is moved by small amounts: right, down, larger, wider, clockwise.
fn moved(pose: &Affine, [right, down, larger, wider, clockwise]: [f32; MOTIONS]) -> Affine {
    let (sin, cos) = clockwise.sin_cos();
    let turned = |[x, y]: [f32; 2], by: f32| [by * (cos * x - sin * y), by * (sin * x + cos * y)];
    let (x, y) = (larger.exp() * (0.5 * wider).exp(), larger.exp() * (-0.5 * wider).exp());
    Affine { at: [pose.at[0] + right, pose.at[1] + down], x: turned(pose.x, x), y: turned(pose.y, y) }
}

#[test]
fn slopes_say_how_levels_change() {
    // A plane that grows evenly within each pixel and from pixel to pixel.
    let (width, height) = (60, 50);
    let plane: Vec<u8> = (0..width * height).map(|i| (2 * (i % width) + 2 * (i / width)) as u8).collect();
    let plane = Plane { bytes: &plane, width, height };
    let points = [[-5.0f32, -3.0], [4.0, 2.5], [7.0, -6.0], [-2.0, 8.0], [0.5, 0.25]];
    let cloud = Cloud::of(points.into_iter());
    let pose = Affine { at: [28.3, 24.6], x: [1.1, 0.3], y: [-0.2, 0.9] };
    let levels = |pose: &Affine| {
        let mut levels = vec![0.0; cloud.padded()];
        between(Simd::Portable, &plane, &cloud, pose, &mut levels);
        levels
    };
    // The padding must not weigh anything.
    let weights: Vec<f32> = (0..cloud.padded()).map(|i| if i < points.len() { 1.0 + i as f32 } else { 0.0 }).collect();
    let templates: Vec<f32> = weights.iter().enumerate().map(|(i, w)| w * (3 * i) as f32).collect();
    let mut sampled = [const { Vec::new() }; 3].map(|_: Vec<f32>| vec![0.0; cloud.padded()]);
    between_with_slopes(Simd::Portable, &plane, &cloud, &pose, &mut sampled);
    let mut found = [0.0; NORMAL];
    normal(Simd::Portable, &cloud, &pose, &weights, &templates, &sampled, &mut found);
    let here = levels(&pose);
    let changes: Vec<Vec<f32>> = (0..MOTIONS)
        .map(|k| {
            let by = |step: f32| levels(&moved(&pose, std::array::from_fn(|j| if j == k { step } else { 0.0 })));
            by(0.01).iter().zip(by(-0.01)).map(|(a, b)| (a - b) / 0.02).collect()
        })
        .collect();
    let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut wanted = Vec::new();
    for k in 0..MOTIONS {
        let weighed: Vec<f32> = changes[k].iter().zip(&weights).map(|(c, w)| c * w).collect();
        wanted.extend(changes[..=k].iter().map(|c| sum(&weighed, c)));
        wanted.extend([weighed.iter().sum(), sum(&weighed, &here), sum(&changes[k], &templates)]);
    }
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert!((found - wanted).abs() < 0.01 * wanted.abs().max(10.0), "sum {i}: {found}, by differences {wanted}");
    }
}
