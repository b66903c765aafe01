//! The matcher's inner loops, compiled for several instruction sets, and the choice between them at run time.
//!
//! Owns the loops that touch every pixel, every window or every template point, and all `unsafe` of the matcher. Every
//! loop has a portable twin that gives the same bits: sums are integers or kept in a fixed number of lanes, and nothing
//! is computed by fused multiply-add. Refuses to know templates, levels and poses: it sees words, bytes and points.
//!
//! # What a run costs
//!
//! *Pixels*: 4 bytes a pixel are held (grey, ink, squared distance, darkness) and every one is written once; the passes
//! in between stay in the second-level cache. A level of the pyramid takes 2 bits a cell.
//!
//! *Scan*: eight windows below one another are eight 64-bit lanes; for each of 16 words a lane needs and-not, population
//! count and add: 48 vector instructions and 128 bytes of template for eight windows. Three things save most of it. Four
//! windows next to one another are tested as one first, by what they have together: what all four lack each of them
//! lacks. Templates that have much ink in common are tested as one first, by what they have in common: 1050 variants of
//! 300 symbols make 170 groups. And the four words with most ink come first and lie in one cache line with all else that
//! the first test reads: 12 vector instructions decide for most of 32 windows and a group. Without `VPOPCNTDQ` a
//! population count takes 8 instructions for half as many lanes. NEON counts by bytes, and adds the counts of four words
//! up before they become sums of lanes: 52 instructions for these four words of eight windows.
//!
//! *Refinement*: for 16 points 8 multiplications and additions, 4 bounds, 2 conversions and 16 byte loads.
//!
//! *Grey levels*: the same, with 32 loads of two bytes and some 15 vector instructions more between the pixels. A step of
//! the alignment reads slopes too and adds up 30 products for each point: it takes about three times as long as the levels
//! alone, and three or four steps do what took forty looks one motion at a time.
#![expect(unsafe_code, reason = "vector instructions need target features that only the run-time check establishes")]
#![expect(clippy::inline_always, reason = "code gets its instruction set from the function that it is inlined into")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod samples;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod windows;

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use super::bank::{CELLS, Window};

/// Instruction sets, the narrowest first. Results do not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Simd {
    /// Plain Rust.
    Portable,
    /// NEON, of 64-bit ARM.
    Neon,
    /// AVX2.
    Avx2,
    /// AVX-512 with its population counts.
    Avx512,
}

/// The widest set that may be used.
static WIDEST: AtomicU8 = AtomicU8::new(Simd::Avx512 as u8);

impl Simd {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// Lets the matcher use no wider instructions than these from now on, in the whole program: for measurements.
    pub fn limit(widest: Self) {
        WIDEST.store(widest as u8, Ordering::Relaxed);
    }

    /// The widest set that this processor has and [`Self::limit`] allows.
    pub fn chosen() -> Self {
        let widest = WIDEST.load(Ordering::Relaxed);
        let mut fitting = Self::ALL.into_iter().rev().filter(|s| *s as u8 <= widest);
        fitting.find(|s| s.is_available()).unwrap_or(Self::Portable)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "NEON",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    /// Whether this processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => false,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vpopcntdq")
            }
        }
    }

    /// Whether this processor has the instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        // Every 64-bit ARM has NEON.
        self == Self::Portable || cfg!(target_arch = "aarch64") && self == Self::Neon
    }
}

/// Words of a window.
const WORDS: usize = CELLS / 2;
/// Windows that are tested together.
pub(super) const LANES: usize = 8;
/// Words between tests.
const STEP: usize = 4;

/// Four words of a template's ink and where they lie in the window.
#[derive(Clone, Copy, Default)]
struct Words {
    ink: [u64; STEP],
    at: [u8; STEP],
}

/// What the first test of some ink reads: one cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct First {
    words: Words,
    /// Cells that may be missing.
    allowed: u16,
    /// Cells that must be there: all but these.
    needed: u16,
}

/// What the following tests read.
type Rest = [Words; WORDS / STEP - 1];

/// Templates that have ink in common, and that ink: a window that lacks more of it than any of them may lacks too much
/// of all.
struct Group {
    /// Cells needed are those of the lightest.
    first: First,
    rest: Rest,
    /// The templates' indices.
    members: Range<usize>,
}

/// A template's window as it was drawn.
struct Drawn {
    ink: Window,
    clutter: Window,
}

/// Templates as the scan reads them.
#[derive(Default)]
pub(super) struct Probes {
    groups: Vec<Group>,
    first: Vec<First>,
    rest: Vec<Rest>,
    drawn: Vec<Drawn>,
}

/// A template for the scan.
pub(super) struct Probe<'a> {
    pub ink: &'a Window,
    /// Cells where ink of the drawing is foreign.
    pub clutter: &'a Window,
    /// Ink cells that may be missing.
    pub allowed: u16,
}

/// A window that lacks no more of a template's ink than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    /// Index of the window in its column.
    pub window: u32,
    /// Index of the template.
    pub probe: u32,
    /// Which of the two columns of windows.
    pub column: u16,
    /// Template cells without ink of the drawing.
    pub missing: u16,
    /// Ink of the drawing where the template wants none.
    pub foreign: u16,
    /// Template cells that have ink of the drawing beside them at best.
    pub beside: u16,
}

/// The four words with most ink, and the others.
fn split(ink: &Window) -> (Words, Rest) {
    let mut order: [u8; WORDS] = std::array::from_fn(|k| k as u8);
    order.sort_by_key(|&k| std::cmp::Reverse(ink[usize::from(k)].count_ones()));
    let words = |step: usize| {
        let at: [u8; STEP] = std::array::from_fn(|k| order[step * STEP + k]);
        Words { ink: at.map(|k| ink[usize::from(k)]), at }
    };
    (words(0), std::array::from_fn(|s| words(s + 1)))
}

impl Probes {
    /// Adds templates that have ink in common, those with the least ink first; the lightest of each group must have no
    /// less than that of the group before.
    pub fn push<'a>(&mut self, group: impl Iterator<Item = Probe<'a>>) {
        let from = self.first.len();
        let mut common = [u64::MAX; WORDS];
        for Probe { ink, clutter, allowed } in group {
            common.iter_mut().zip(ink).for_each(|(all, word)| *all &= word);
            let (words, rest) = split(ink);
            let count: u32 = ink.iter().map(|w| w.count_ones()).sum();
            self.first.push(First { words, allowed, needed: count as u16 - allowed });
            self.rest.push(rest);
            self.drawn.push(Drawn { ink: *ink, clutter: *clutter });
        }
        let members = &self.first[from..];
        let allowed = members.iter().map(|f| f.allowed).max().unwrap_or(0);
        let needed = members.iter().map(|f| f.needed).min().unwrap_or(u16::MAX);
        let (words, rest) = split(&common);
        let first = First { words, allowed, needed };
        self.groups.push(Group { first, rest, members: from..self.first.len() });
    }

    /// Fewest ink cells that a window needs for any of them.
    pub fn needed(&self) -> u16 {
        self.groups.first().map_or(u16::MAX, |g| g.first.needed)
    }
}

/// Two columns of windows, two cells apart. Window `i` of a column has words `i..i + 16`; a word holds two rows.
#[derive(Default)]
pub(super) struct Strip {
    /// Number of windows in a column.
    windows: usize,
    /// Ink and its neighbours, for each column.
    pub near: [Vec<u64>; 2],
    /// Ink, for each column.
    pub ink: [Vec<u64>; 2],
    /// What four windows next to one another have near together: those of both columns that start at words `2i` and
    /// `2i + 1`. Word `k` of these is entry `i + k / 2` of the list `k % 2`.
    united: [Vec<u64>; 2],
    /// Most cells that are set in the windows of a block.
    available: Vec<u16>,
    sums: Vec<u16>,
}

/// Windows of a column that are tested together first, by their fours.
pub(super) const BLOCK: usize = 2 * LANES;

impl Strip {
    /// Makes room for columns of this many windows.
    pub fn resize(&mut self, windows: usize) {
        let blocks = windows.div_ceil(BLOCK);
        let words = (blocks + 1) * BLOCK + WORDS;
        for v in self.near.iter_mut().chain(&mut self.ink) {
            v.resize(words, 0);
        }
        self.united.iter_mut().for_each(|v| v.resize(words / 2, 0));
        self.available.resize(blocks, 0);
        self.sums.resize(words, 0);
        self.windows = windows;
    }

    /// Counts and unites what `near` holds; says whether any window has enough for the lightest template.
    pub fn prepare(&mut self, simd: Simd, probes: &Probes) -> bool {
        self.available.fill(0);
        for near in &self.near {
            available(simd, near, &mut self.sums);
            most_of_blocks(simd, &self.sums[..self.windows], &mut self.available);
        }
        let enough = self.available.iter().any(|&a| a >= probes.needed());
        if enough {
            let [even, odd] = &mut self.united;
            unite_windows(simd, &self.near[0], &self.near[1], even, odd);
        }
        enough
    }
}

/// Template points, and how many of them there are: the rest is padding.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    x: Vec<f32>,
    y: Vec<f32>,
    len: usize,
}

/// Points that are placed together.
const POINTS: usize = 16;

impl Cloud {
    /// Points in this order.
    pub fn of(points: impl Iterator<Item = [f32; 2]>) -> Self {
        let (mut x, mut y): (Vec<f32>, Vec<f32>) = points.map(|[x, y]| (x, y)).unzip();
        let len = x.len();
        x.resize(len.next_multiple_of(POINTS), 0.0);
        y.resize(len.next_multiple_of(POINTS), 0.0);
        Self { x, y, len }
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of points with the padding.
    pub fn padded(&self) -> usize {
        self.x.len()
    }
}

/// A map of bytes with a border of one byte all around.
pub(super) struct Bordered<'a> {
    pub bytes: &'a [u8],
    /// Size without the border.
    pub width: usize,
    pub height: usize,
}

impl Bordered<'_> {
    fn pitch(&self) -> usize {
        self.width + 2
    }

    fn check(&self) {
        assert!(self.bytes.len() == self.pitch() * (self.height + 2) && self.bytes.len() < i32::MAX as usize);
    }
}

/// A map of bytes without a border.
pub(super) struct Plane<'a> {
    pub bytes: &'a [u8],
    pub width: usize,
    pub height: usize,
}

impl Plane<'_> {
    fn check(&self) {
        assert!(self.bytes.len() == self.width * self.height && self.bytes.len() < i32::MAX as usize);
        // Up to here every whole number is a float.
        assert!(self.width.max(self.height) <= 1 << f32::MANTISSA_DIGITS);
    }
}

/// Where points go: offset, and images of the x and the y axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affine {
    pub at: [f32; 2],
    pub x: [f32; 2],
    pub y: [f32; 2],
}

/// Ways in which a pose moves: to the right, downwards, larger (logarithm), wider than high (logarithm), clockwise (radians).
pub(super) const MOTIONS: usize = 5;
/// Sums of a step. For each motion, with the level's change by it as G: weight times G times the changes by the motions up
/// to this one, weight times G, weight times G times level, and weighted template times G.
pub(super) const NORMAL: usize = MOTIONS * (MOTIONS + 1) / 2 + 3 * MOTIONS;

/// Declares functions whose portable code is compiled for every instruction set; for NEON it always is.
macro_rules! compiled_for_each {
    ($module:ident: $($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?);)*) => {
        $($(#[$meta])*
        #[inline]
        pub(super) fn $name(simd: Simd, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx2,popcnt")]
                fn avx512($($arg: $ty),*) {
                    $module::$name($($arg),*);
                }
                #[target_feature(enable = "avx2,popcnt")]
                fn avx2($($arg: $ty),*) {
                    $module::$name($($arg),*);
                }
                match simd {
                    // SAFETY: a set is chosen only where the processor has it.
                    Simd::Avx512 => return unsafe { avx512($($arg),*) },
                    Simd::Avx2 => return unsafe { avx2($($arg),*) },
                    Simd::Portable | Simd::Neon => {}
                }
            }
            let _ = simd;
            $module::$name($($arg),*);
        })*
    };
}

compiled_for_each! { bytes:
    /// 1 where the middle one of five rows is at most `darkest`, or at most `faint` along a line of one or two pixels'
    /// width that is darker by `relief` than both its sides, else 0.
    fn ink_row(rows: [&[u8]; 5], darkest: u8, faint: u8, relief: u8, out: &mut [u8]);
    /// The darkest (`light` false: the lightest) channel of each pixel.
    fn extreme_channel(rgb: &[u8], light: bool, out: &mut [u8]);
    /// A row of ink without pixels that have fewer than two neighbours; the first and the last pixel stay.
    fn despeckle(above: &[u8], row: &[u8], below: &[u8], out: &mut [u8]);
    /// Bits of a row of zeros and ones, the first in the lowest bit.
    fn pack(row: &[u8], out: &mut [u64]);
    /// 5-point binomial smoothing of a row; the border repeats.
    fn smooth_row(row: &[u8], out: &mut [u8]);
    /// The same down the columns of five rows.
    fn smooth_columns(rows: [&[u8]; 5], out: &mut [u8]);
    /// 1 to 0 and 0 to `cap`.
    fn to_distance(mask: &[u8], cap: u8, out: &mut [u8]);
    /// Chamfer distances along and from the neighbouring row, all at most `cap`.
    fn chamfer(row: &mut [u8], neighbour: Option<&[u8]>, cap: u8, scratch: &mut [u8]);
    /// Squares.
    fn square(row: &[u8], out: &mut [u8]);
    /// Unites rows of bits.
    fn unite(row: &[u64], into: &mut [u64]);
    /// The cells of a column of words, and their eight neighbours; words of 32 columns, `left` and `right` beside.
    fn grow(left: &[u32], words: &[u32], right: &[u32], out: &mut [u32]);
    /// The 32 columns from column `shift` (0..32) of `words` on.
    fn shift(words: &[u32], right: &[u32], shift: u32, out: &mut [u32]);
    /// Set bits of the 16 words from each word on.
    fn available(words: &[u64], out: &mut [u16]);
    /// The largest number of each block, where it is larger than what `out` has.
    fn most_of_blocks(sums: &[u16], out: &mut [u16]);
    /// What the windows of two columns have together by fours: see [`Strip::united`].
    fn unite_windows(left: &[u64], right: &[u64], even: &mut [u64], odd: &mut [u64]);
}

compiled_for_each! { samples:
    /// Levels at the placed points, between the four pixels around each; 0 where one of them is outside. `out` is as
    /// long as the padded cloud.
    fn between(plane: &Plane, cloud: &Cloud, pose: &Affine, out: &mut [f32]);
    /// The same, with how much the levels grow to the right and downwards there, a pixel: the three parts of `out`.
    fn between_with_slopes(plane: &Plane, cloud: &Cloud, pose: &Affine, out: &mut [Vec<f32>; 3]);
    /// What [`between_with_slopes`] found, as the sums of a step that moves the pose: see [`NORMAL`].
    fn normal(
        cloud: &Cloud,
        pose: &Affine,
        weights: &[f32],
        weighted: &[f32],
        sampled: &[Vec<f32>; 3],
        out: &mut [f32; NORMAL],
    );
    /// Levels of the pixels that the placed points lie in, and what counts outside.
    fn nearest(plane: &Plane, outside: u8, cloud: &Cloud, pose: &Affine, out: &mut [f32]);
    /// Sums of weight times level, of weight times squared level, and of weighted template times level, over points in
    /// sixteens.
    fn moments(weights: &[f32], weighted: &[f32], levels: &[f32], out: &mut [f32; 3]);
}

/// Finds what fits the windows of a strip that was prepared, block by block.
pub(super) fn windows(simd: Simd, strip: &Strip, probes: &Probes, hits: &mut Vec<Hit>) {
    #[cfg(target_arch = "x86_64")]
    match simd {
        // SAFETY: a set is chosen only where the processor has it.
        Simd::Avx512 => return unsafe { avx512::windows(strip, probes, hits) },
        Simd::Avx2 => return unsafe { avx2::windows(strip, probes, hits) },
        Simd::Portable | Simd::Neon => {}
    }
    #[cfg(target_arch = "aarch64")]
    if simd == Simd::Neon {
        // SAFETY: as above.
        return unsafe { neon::windows(strip, probes, hits) };
    }
    let _ = simd;
    portable::windows(strip, probes, hits);
}

/// Sum of a map's bytes under the placed points; the border counts for all that is outside. A sum that reaches `limit`
/// is cut short there, by a multiple of 16 points.
#[inline]
pub(super) fn sum_under(simd: Simd, cloud: &Cloud, map: &Bordered, pose: &Affine, limit: u32) -> u32 {
    map.check();
    #[cfg(target_arch = "x86_64")]
    match simd {
        // SAFETY: a set is chosen only where the processor has it; the map was checked.
        Simd::Avx512 => return unsafe { avx512::sum_under(cloud, map, pose, limit) },
        Simd::Avx2 => return unsafe { avx2::sum_under(cloud, map, pose, limit) },
        Simd::Portable | Simd::Neon => {}
    }
    #[cfg(target_arch = "aarch64")]
    if simd == Simd::Neon {
        // SAFETY: as above.
        return unsafe { neon::sum_under(cloud, map, pose, limit) };
    }
    let _ = simd;
    portable::sum_under(cloud, map, pose, limit)
}

/// The next lower whole number of a small one; `f32::floor` calls a library where the processor is not known.
#[inline]
pub(super) fn whole(v: f32) -> i32 {
    let towards_zero = v as i32;
    towards_zero - i32::from(towards_zero as f32 > v)
}
