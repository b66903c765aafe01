//! The scan of a strip, eight windows at a time, for any instruction set with types `Eight` and `Sums` and
//! their functions.

/// Declares `windows` for the functions `load`, `store`, `add`, `at_most` and `lacking` where it stands.
macro_rules! windows_of_eight {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn windows(strip: &Strip, probes: &Probes, hits: &mut Vec<Hit>) {
            for (block, &available) in strip.available.iter().enumerate() {
                if available < probes.needed() {
                    continue;
                }
                let start = block * BLOCK;
                // Word `k` of eight fours.
                let lists = strip.united.each_ref().map(|u| part(&u[start / 2..]));
                let united: [Eight; WORDS] = std::array::from_fn(|k| load(lists[k % 2], k / 2));
                for group in &probes.groups {
                    if group.first.needed > available {
                        break;
                    }
                    if having(|k| united[k], &group.first, &group.rest).1 == 0 {
                        continue;
                    }
                    for i in group.members.clone() {
                        let (first, rest) = (&probes.first[i], &probes.rest[i]);
                        if first.needed > available {
                            continue;
                        }
                        let (_, fours) = having(|k| united[k], first, rest);
                        for half in (0..2).filter(|half| fours >> (4 * half) & 15 != 0) {
                            let start = start + half * LANES;
                            let inside = LANES.min(strip.windows.saturating_sub(start));
                            for column in 0..2 {
                                let near = part(&strip.near[column][start..]);
                                let (missing, fit) = having(|k| load(near, k), first, rest);
                                if fit == 0 {
                                    continue;
                                }
                                let missing = store(missing);
                                for lane in (0..inside).filter(|l| fit >> l & 1 == 1) {
                                    let (window, missing) = ((start + lane) as u32, missing[lane]);
                                    let ink = &strip.ink[column][start + lane..];
                                    let (foreign, beside) = outside(ink, &probes.drawn[i]);
                                    let (probe, column) = (i as u32, column as u16);
                                    hits.push(Hit { window, probe, column, missing, foreign, beside });
                                }
                            }
                        }
                    }
                }
            }
        }

        /// What eight windows lack of some ink, as far as it was counted, and a bit for each that lacks no more than
        /// allowed.
        #[inline]
        #[target_feature(enable = $features)]
        fn having(window: impl Fn(usize) -> Eight + Copy, first: &First, rest: &Rest) -> (Sums, u32) {
            let mut missing = lacking(window, &first.words);
            for words in rest {
                if at_most(missing, first.allowed) == 0 {
                    return (missing, 0);
                }
                missing = add(missing, lacking(window, words));
            }
            (missing, at_most(missing, first.allowed))
        }
    };
}
pub(super) use windows_of_eight;
