//! Sixteen numbers at a time, in five implementations, and the choice between them at run time.
//!
//! A kernel is written once over [`Simd`]; [`dispatch`] compiles it for each instruction set and runs the best that the
//! processor has. A value of an implementation proves that the processor has its instructions.
#![expect(unsafe_code, reason = "vector instructions need target features that only the run-time check establishes")]

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::storage::LANES;
use half::bf16;

/// One vector's memory.
pub(crate) type Lanes = [f32; LANES];
/// Sixteen numbers of 16 bits.
pub(crate) type HalfLanes = [bf16; LANES];
/// Sixteen words of 32 bits: each a number, or a pair of 16-bit numbers with the first in the lower half.
pub(crate) type WordLanes = [u32; LANES];

/// Bits of 2^-56: smaller numbers become zero when they are rounded to 16 bits. Then all products of 16-bit numbers are
/// whole multiples of 2^-126, so no sum of them is ever subnormal, and it makes no difference that the instructions for
/// 16-bit products take subnormal numbers for zero.
const TINY: u32 = (127 - 56) << 23;

/// Arithmetic on sixteen numbers.
pub(crate) trait Simd: Copy {
    type V: Copy;
    type W: Copy;
    /// Whether there are registers for a tile of 12 x 2 vectors.
    const MANY_REGISTERS: bool;
    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &Lanes) -> Self::V;
    fn store(self, v: Self::V, to: &mut Lanes);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instructions do that, else twice.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, likewise.
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b + c`, rounded once everywhere, which costs much without the instruction for it. Passes over maps of 16-bit
    /// numbers use it, so that training with them gives the same bytes with all instructions.
    #[inline(always)]
    fn fused(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.mul_add(a, b, c)
    }
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for whole `n` in -126..=127.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;

    fn load_words(self, from: &WordLanes) -> Self::W;
    fn store_words(self, w: Self::W, to: &mut WordLanes);
    fn splat_word(self, word: u32) -> Self::W;
    /// The words as numbers of 32 bits.
    fn numbers(self, w: Self::W) -> Self::V;
    /// 32-bit numbers as words.
    fn words(self, v: Self::V) -> Self::W;
    /// `sum + high(a) * high(b)`, rounded, then `+ low(a) * low(b)`, rounded; words of two 16-bit numbers.
    fn dot(self, a: Self::W, b: Self::W, sum: Self::V) -> Self::V;
    fn load_half(self, from: &HalfLanes) -> Self::V;
    /// Rounds to the nearest, ties to even; what is smaller than [`TINY`] becomes zero.
    fn store_half(self, v: Self::V, to: &mut HalfLanes);
    /// Words of two numbers, rounded like those of [`Simd::store_half`].
    fn pair(self, low: Self::V, high: Self::V) -> Self::W;

    /// The first `from.len()` (up to 16) numbers, zeros behind.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// The first `to.len()` (up to 16) numbers.
    #[inline(always)]
    fn store_part(self, v: Self::V, to: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    /// The one or the other.
    #[inline(always)]
    fn multiply_add<const FUSED: bool>(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        if FUSED { self.fused(a, b, c) } else { self.mul_add(a, b, c) }
    }

    /// `e^x`, relative error below 1e-6, saturating at +-87.
    #[inline(always)]
    fn exp<const FUSED: bool>(self, x: Self::V) -> Self::V {
        let x = self.min(self.max(x, self.splat(-87.0)), self.splat(87.0));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        // x - n ln 2 in two steps, then the series of e^r on |r| <= ln 2 / 2.
        let r = self.multiply_add::<FUSED>(n, self.splat(-0.693_359_4), x);
        let r = self.multiply_add::<FUSED>(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.multiply_add::<FUSED>(p, r, self.splat(c));
        }
        self.scale(p, n)
    }

    /// `1 / (1 + e^-x)`
    #[inline(always)]
    fn sigmoid<const FUSED: bool>(self, x: Self::V) -> Self::V {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp::<FUSED>(self.sub(self.splat(0.0), x))))
    }
}

/// A computation that can be compiled for any [`Simd`]. Implementations mark `run` `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    /// Whether it works on 16-bit numbers; if not, it is not compiled once more for their instructions.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 has them in a set of their own"))]
    const HALVES: bool = true;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) = $value:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: Lanes),*) -> Lanes {
            std::array::from_fn(|i| { $(let $arg = $arg[i];)* $value })
        })*
    };
}

/// A 16-bit number, rounded like those of [`Simd::store_half`].
#[inline(always)]
pub(crate) fn rounded(x: f32) -> bf16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7FFF_FFFF;
    let top = bits >> 16;
    bf16::from_bits(if magnitude < TINY {
        0
    } else if x.is_nan() {
        top | 0x40
    } else {
        (bits + 0x7FFF + (top & 1)) >> 16
    } as u16)
}

/// `a * b + c`, rounded once, without the instruction for it.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return a.mul_add(b, c);
    }
    // The product is exact in 64 bits. The sum's lost part is what Knuth's sum of two ("The Art of Computer Programming",
    // 4.2.2) gives; where there is one, the sum becomes the neighbour with an odd last bit, which the second rounding can
    // never mistake for a tie ("Emulation of FMA and correctly rounded sums", Boldo and Melquiond 2008).
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let part = sum - product;
    let lost = (product - (sum - part)) + (c - part);
    let bits = sum.to_bits();
    // What is no number, or infinite, has lost nothing that could be compared.
    let even = u64::from(lost.abs() > 0.0) & !bits;
    let down = (lost.to_bits() ^ bits) >> 63 & even;
    f64::from_bits(bits.wrapping_add(even).wrapping_sub(down << 1)) as f32
}

impl Simd for Portable {
    type V = Lanes;
    type W = WordLanes;
    const MANY_REGISTERS: bool = false;
    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> Lanes {
        *from
    }
    #[inline(always)]
    fn store(self, v: Lanes, to: &mut Lanes) {
        *to = v;
    }
    #[inline(always)]
    fn load_words(self, from: &WordLanes) -> WordLanes {
        *from
    }
    #[inline(always)]
    fn store_words(self, w: WordLanes, to: &mut WordLanes) {
        *to = w;
    }
    #[inline(always)]
    fn splat_word(self, word: u32) -> WordLanes {
        [word; LANES]
    }
    #[inline(always)]
    fn numbers(self, w: WordLanes) -> Lanes {
        w.map(f32::from_bits)
    }
    #[inline(always)]
    fn words(self, v: Lanes) -> WordLanes {
        v.map(f32::to_bits)
    }
    #[inline(always)]
    fn dot(self, a: WordLanes, b: WordLanes, sum: Lanes) -> Lanes {
        // Products of 16-bit numbers are exact, so that nothing is lost without fused multiply-add.
        let (high, low) = (|w: u32| f32::from_bits(w & 0xFFFF_0000), |w: u32| f32::from_bits(w << 16));
        std::array::from_fn(|i| (sum[i] + high(a[i]) * high(b[i])) + low(a[i]) * low(b[i]))
    }
    #[inline(always)]
    fn load_half(self, from: &HalfLanes) -> Lanes {
        from.map(bf16::to_f32)
    }
    #[inline(always)]
    fn store_half(self, v: Lanes, to: &mut HalfLanes) {
        *to = v.map(rounded);
    }
    #[inline(always)]
    fn pair(self, low: Lanes, high: Lanes) -> WordLanes {
        let bits = |x: f32| u32::from(rounded(x).to_bits());
        std::array::from_fn(|i| bits(low[i]) | bits(high[i]) << 16)
    }
    lanewise! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        mul_add(a, b, c) = a * b + c;
        neg_mul_add(a, b, c) = c - a * b;
        fused(a, b, c) = fused(a, b, c);
        round(a) = a.round_ties_even();
        scale(a, n) = a * f32::from_bits(((n as i32 + 127) << 23) as u32);
    }
}

/// Families of vector instructions, the narrowest first. A processor that has one has those of its architecture before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What the compiler makes of plain Rust.
    Portable,
    /// NEON, of 64-bit ARM.
    Neon,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 foundation.
    Avx512,
    /// AVX-512 with products of 16-bit numbers (bf16).
    Avx512Bf16,
}

impl Instructions {
    /// Narrowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// Whether the processor has them.
    #[inline]
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Portable => true,
            Self::Neon => false,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            // Every processor with AVX-512 has AVX2 and fused multiply-add.
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            Self::Avx512Bf16 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
        };
        // Every 64-bit ARM has NEON.
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Portable || cfg!(target_arch = "aarch64") && self == Self::Neon;
    }

    /// The widest that this thread uses.
    #[inline]
    pub fn chosen() -> Self {
        let most = WIDEST.get();
        let mut fitting = Self::ALL.into_iter().rev().filter(|i| *i <= most);
        fitting.find(|i| i.available()).unwrap_or(Self::Portable)
    }

    /// Keeps this thread from using wider ones: for comparisons. Threads of a pool are limited when they start.
    pub fn limit_this_thread(self) {
        WIDEST.set(self);
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "NEON",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Bf16 => "AVX-512 with bf16",
        }
    }
}

thread_local! {
    static WIDEST: std::cell::Cell<Instructions> = const { std::cell::Cell::new(Instructions::Avx512Bf16) };
}

/// Runs a kernel with the widest instructions of this processor that this thread may use.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    run(Instructions::chosen(), kernel)
}

#[inline]
fn run<K: Kernel>(with: Instructions, kernel: K) -> K::Output {
    assert!(with.available(), "a processor with {}", with.name());
    // SAFETY: just asked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match with {
            Instructions::Avx512Bf16 if K::HALVES => return x86::with_avx512_halves(kernel),
            Instructions::Avx512Bf16 | Instructions::Avx512 => return x86::with_avx512(kernel),
            Instructions::Avx2 => return x86::with_avx2(kernel),
            Instructions::Portable | Instructions::Neon => {}
        }
    }
    // SAFETY: just asked.
    #[cfg(target_arch = "aarch64")]
    if with == Instructions::Neon {
        return unsafe { neon::with_neon(kernel) };
    }
    kernel.run(Portable)
}

/// Runs a kernel with every instruction set that this processor has, the portable one first.
#[cfg(test)]
pub(crate) fn with_each<K: Kernel + Clone>(kernel: &K) -> Vec<K::Output> {
    Instructions::ALL.into_iter().filter(|i| i.available()).map(|i| run(i, kernel.clone())).collect()
}

/// Declares a function whose body is compiled for every instruction set; `$simd` is the chosen one. Types after the
/// lifetimes are kinds of numbers.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$($life:lifetime),* $(; $($number:ident),+)?>($simd:ident; $($arg:ident: $ty:ty),* $(,)?) -> $out:ty $body:block) => {
        $(#[$meta])*
        $vis fn $name<$($life,)* $($($number: $crate::kernels::number::Number),+)?>($($arg: $ty),*) -> $out {
            struct Body<$($life,)* $($($number),+)?> { $($arg: $ty),* }
            impl<$($life,)* $($($number: $crate::kernels::number::Number),+)?> $crate::kernels::simd::Kernel for Body<$($life,)* $($($number),+)?> {
                type Output = $out;
                const HALVES: bool = false $($(|| <$number as $crate::kernels::number::Number>::PER_WORD == 2)+)?;
                #[inline(always)]
                fn run<S: $crate::kernels::simd::Simd>(self, $simd: S) -> $out {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            $crate::kernels::simd::dispatch(Body { $($arg),* })
        }
    };
}
pub(crate) use kernel;

/// The sixteen numbers at `index` of a slice.
#[inline(always)]
pub(crate) fn lanes(slice: &[f32], index: usize) -> &Lanes {
    slice[index..index + LANES].try_into().expect("a slice of sixteen")
}

/// The sixteen numbers at `index` of a slice, to be written.
#[inline(always)]
pub(crate) fn lanes_mut(slice: &mut [f32], index: usize) -> &mut Lanes {
    (&mut slice[index..index + LANES]).try_into().expect("a slice of sixteen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Functions(Lanes);
    impl Kernel for Functions {
        type Output = [Lanes; 2];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [Lanes; 2] {
            let x = simd.load(&self.0);
            let mut out = [[0.0; LANES]; 2];
            simd.store(simd.exp::<true>(x), &mut out[0]);
            simd.store(simd.sigmoid::<true>(x), &mut out[1]);
            out
        }
    }

    #[test]
    fn exp_and_sigmoid() {
        for step in 0..2000 {
            let x: Lanes = std::array::from_fn(|i| (step as f32 - 1000.0) * 0.085 + i as f32 * 0.005);
            for [exp, sigmoid] in with_each(&Functions(x)) {
                for i in 0..LANES {
                    let e = f64::from(x[i]).exp();
                    assert!((f64::from(exp[i]) / e - 1.0).abs() < 1e-6, "exp({})", x[i]);
                    assert!((f64::from(sigmoid[i]) / (e / (1.0 + e)) - 1.0).abs() < 1e-6, "sigmoid({})", x[i]);
                }
            }
        }
        for [exp, sigmoid] in with_each(&Functions([-1e30; LANES])) {
            assert!(exp[0] >= 0.0 && exp[0] < 1e-36 && sigmoid[0] >= 0.0 && sigmoid[0] < 1e-36);
        }
    }

    #[derive(Clone)]
    struct Fused([Lanes; 3]);
    impl Kernel for Fused {
        type Output = Lanes;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Lanes {
            let mut out = [0.0; LANES];
            let [a, b, c] = self.0.each_ref().map(|lanes| simd.load(lanes));
            simd.store(simd.fused(a, b, c), &mut out);
            out
        }
    }

    /// Any bits at all; sums that cancel; sums near the middle of two numbers, where rounding twice goes wrong.
    #[test]
    fn fused_rounds_once_everywhere() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let mut twice = 0;
        for round in 0..60_000 {
            let mut numbers = [[0.0; LANES]; 3];
            for i in 0..LANES {
                let [a, b, c] = [(); 3].map(|()| f32::from_bits(random()));
                let near = |x: f32| f32::from_bits(x.to_bits() & 0x007F_FFFF | 0x3F80_0000);
                // Half a unit of c's last place, less a little that 64 bits cannot hold.
                let little = (round % 7 + 1) as f32 * f32::EPSILON;
                let [a, b, c] = match round % 4 {
                    0 => [a, b, c],
                    1 => [near(a), near(b), -near(a) * near(b)],
                    2 => [1.0 + little, 2f32.powi(-24) * (1.0 - little), near(c)],
                    _ => [near(a), near(b), near(c) * 2f32.powi((random() % 60) as i32 - 50)],
                };
                [numbers[0][i], numbers[1][i], numbers[2][i]] = [a, b, c];
            }
            for found in with_each(&Fused(numbers)) {
                for i in 0..LANES {
                    let [a, b, c] = [0, 1, 2].map(|k| numbers[k][i]);
                    let expected = a.mul_add(b, c);
                    let same = found[i].to_bits() == expected.to_bits() || found[i].is_nan() && expected.is_nan();
                    assert!(same, "{a:e} * {b:e} + {c:e} = {expected:e}, not {:e}", found[i]);
                    let double = (f64::from(a) * f64::from(b) + f64::from(c)) as f32;
                    twice += usize::from(double.to_bits() != expected.to_bits() && !expected.is_nan());
                }
            }
        }
        assert!(twice > 0, "some of the numbers need the care");
    }

    #[derive(Clone)]
    struct Part(usize);
    impl Kernel for Part {
        type Output = [f32; 20];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; 20] {
            let source: [f32; 20] = std::array::from_fn(|i| i as f32 + 1.0);
            let mut out = [-1.0; 20];
            simd.store_part(simd.load_part(&source[..self.0]), &mut out[2..2 + self.0]);
            out
        }
    }

    #[test]
    fn parts_stay_inside() {
        for len in 1..=LANES {
            for out in with_each(&Part(len)) {
                for (i, &x) in out.iter().enumerate() {
                    let inside = (2..2 + len).contains(&i);
                    assert_eq!(x, if inside { (i - 1) as f32 } else { -1.0 });
                }
            }
        }
    }
}
