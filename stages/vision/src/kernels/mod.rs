//! The native engine's arithmetic, channels last, on 32-bit floats or on 16-bit ones (bf16) with sums in 32 bits: matrix
//! products, convolutions (as products over windows, and by Winograd's minimal filtering), normalisation with
//! activation, pooling.
//!
//! Every function is single-threaded and its result depends on its arguments only; callers cut the work into fixed
//! pieces. Vector instructions are chosen at run time (AVX-512 with and without bf16, AVX2, NEON, portable). Refuses to
//! know networks.
#![expect(clippy::inline_always, reason = "code gets its instruction set from the function that it is inlined into")]

pub(crate) mod frame;
pub(crate) mod logits;
pub(crate) mod norm;
pub(crate) mod number;
pub(crate) mod pool;
pub(crate) mod product;
pub(crate) mod simd;
pub(crate) mod storage;
pub(crate) mod winograd;

/// The extent of one picture's activation map in memory: `channels` of every `pitch` numbers, rows of `width` cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Cells.
    pub height: usize,
    /// Cells.
    pub width: usize,
    /// Numbers used at each cell.
    pub channels: usize,
    /// Numbers from one cell to the next.
    pub pitch: usize,
}

impl Extent {
    /// Cells.
    pub fn cells(&self) -> usize {
        self.height * self.width
    }
}

/// Whether a result replaces what is there or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Replace,
    Add,
}
