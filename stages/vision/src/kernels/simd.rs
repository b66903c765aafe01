//! Sixteen numbers at a time, in three implementations, and the choice between them at run time.
//!
//! A kernel is written once over [`Simd`]; [`dispatch`] compiles it for each instruction set and runs the best that the
//! processor has. A value of an implementation proves that the processor has its instructions.
#![expect(unsafe_code, reason = "vector instructions need target features that only the run-time check establishes")]

use super::storage::LANES;

/// One vector's memory.
pub(crate) type Lanes = [f32; LANES];

/// Arithmetic on sixteen numbers.
pub(crate) trait Simd: Copy {
    type V: Copy;
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
    /// `a * b + c`
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for whole `n` in -126..=127.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;

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

    /// `e^x`, relative error below 1e-6, saturating at +-87.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.min(self.max(x, self.splat(-87.0)), self.splat(87.0));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        // x - n ln 2 in two steps, then the series of e^r on |r| <= ln 2 / 2.
        let r = self.neg_mul_add(n, self.splat(0.693_359_4), x);
        let r = self.neg_mul_add(n, self.splat(-2.121_944_4e-4), r);
        let mut p = self.splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.mul_add(p, r, self.splat(c));
        }
        self.scale(p, n)
    }

    /// `1 / (1 + e^-x)`
    #[inline(always)]
    fn sigmoid(self, x: Self::V) -> Self::V {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp(self.sub(self.splat(0.0), x))))
    }
}

/// A computation that can be compiled for any [`Simd`]. Implementations mark `run` `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
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

impl Simd for Portable {
    type V = Lanes;
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
    lanewise! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        mul_add(a, b, c) = a * b + c;
        neg_mul_add(a, b, c) = c - a * b;
        round(a) = a.round_ties_even();
        scale(a, n) = a * f32::from_bits(((n as i32 + 127) << 23) as u32);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Lanes, Simd};
    #[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "several dozen intrinsics with one prefix"))]
    use std::arch::x86_64::*;

    /// AVX-512: one register. Made only after the processor was asked.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(pub(super) ());

    // SAFETY of every block below: `self` exists, so the processor has the instructions; references are valid memory.
    impl Simd for Avx512 {
        type V = __m512;
        const MANY_REGISTERS: bool = true;
        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, from: &Lanes) -> __m512 {
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, v: __m512, to: &mut Lanes) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn round(self, a: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<0>(a) }
        }
        #[inline(always)]
        fn scale(self, a: __m512, n: __m512) -> __m512 {
            unsafe { _mm512_scalef_ps(a, n) }
        }
        #[inline(always)]
        fn load_part(self, from: &[f32]) -> __m512 {
            assert!(from.len() <= LANES);
            unsafe { _mm512_maskz_loadu_ps(mask(from.len()), from.as_ptr()) }
        }
        #[inline(always)]
        fn store_part(self, v: __m512, to: &mut [f32]) {
            assert!(to.len() <= LANES);
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask(to.len()), v) }
        }
    }

    #[inline(always)]
    fn mask(len: usize) -> u16 {
        ((1u32 << len) - 1) as u16
    }

    /// AVX2 with fused multiply-add: two registers. Made only after the processor was asked.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(pub(super) ());

    macro_rules! halves {
        ($($name:ident($($arg:ident),*) = $value:expr;)*) => {
            $(#[inline(always)]
            fn $name(self, $($arg: [__m256; 2]),*) -> [__m256; 2] {
                unsafe { [{ $(let $arg = $arg[0];)* $value }, { $(let $arg = $arg[1];)* $value }] }
            })*
        };
    }

    // SAFETY as above.
    impl Simd for Avx2 {
        type V = [__m256; 2];
        const MANY_REGISTERS: bool = false;
        #[inline(always)]
        fn splat(self, x: f32) -> [__m256; 2] {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(self, from: &Lanes) -> [__m256; 2] {
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())] }
        }
        #[inline(always)]
        fn store(self, v: [__m256; 2], to: &mut Lanes) {
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(to[8..].as_mut_ptr(), v[1]);
            }
        }
        halves! {
            add(a, b) = _mm256_add_ps(a, b);
            sub(a, b) = _mm256_sub_ps(a, b);
            mul(a, b) = _mm256_mul_ps(a, b);
            div(a, b) = _mm256_div_ps(a, b);
            max(a, b) = _mm256_max_ps(a, b);
            min(a, b) = _mm256_min_ps(a, b);
            mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
            neg_mul_add(a, b, c) = _mm256_fnmadd_ps(a, b, c);
            round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            scale(a, n) = {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            };
        }
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn with_avx512<K: super::Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn with_avx2<K: super::Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }
}

#[cfg(test)]
thread_local! {
    /// The widest vectors (in bits) that this thread may use, for tests of the narrower ways.
    pub(crate) static WIDEST: std::cell::Cell<usize> = const { std::cell::Cell::new(512) };
}

/// Whether vectors of so many bits are allowed (always, outside tests).
#[inline]
fn allowed(bits: usize) -> bool {
    #[cfg(test)]
    let widest = WIDEST.get();
    #[cfg(not(test))]
    let widest = 512;
    bits <= widest
}

/// Runs a kernel with the widest instructions of this processor.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if allowed(512) && is_x86_feature_detected!("avx512f") {
            // SAFETY: just asked (AVX-512 implies AVX2 and FMA on every processor that has it).
            return unsafe { x86::with_avx512(kernel) };
        }
        if allowed(256) && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: just asked.
            return unsafe { x86::with_avx2(kernel) };
        }
    }
    kernel.run(Portable)
}

/// Runs a kernel with every instruction set that this processor has, the portable one first.
#[cfg(test)]
pub(crate) fn with_each<K: Kernel + Clone>(kernel: &K) -> Vec<K::Output> {
    let mut results = vec![kernel.clone().run(Portable)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: just asked.
            results.push(unsafe { x86::with_avx2(kernel.clone()) });
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: just asked.
            results.push(unsafe { x86::with_avx512(kernel.clone()) });
        }
    }
    results
}

/// Declares a function whose body is compiled for every instruction set; `$simd` is the chosen one.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$($life:lifetime),*>($simd:ident; $($arg:ident: $ty:ty),* $(,)?) -> $out:ty $body:block) => {
        $(#[$meta])*
        $vis fn $name<$($life),*>($($arg: $ty),*) -> $out {
            struct Body<$($life),*> { $($arg: $ty),* }
            impl<$($life),*> $crate::kernels::simd::Kernel for Body<$($life),*> {
                type Output = $out;
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
            simd.store(simd.exp(x), &mut out[0]);
            simd.store(simd.sigmoid(x), &mut out[1]);
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
