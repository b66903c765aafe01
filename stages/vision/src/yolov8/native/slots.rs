//! Which buffers may share memory: those whose lives, counted in operations, do not overlap.
//!
//! Owns lives, the assignment of memory, and the memory. Refuses to know what the numbers mean.

use crate::{
    kernels::{number::Number, storage::Numbers},
    yolov8::spec::{Graph, Op},
};
use std::ops::RangeInclusive;

/// Per buffer: the first and the last operation (in the order in which they run) that uses it; `None` for buffers that
/// need no memory.
#[derive(Debug)]
pub(super) struct Lives(Vec<Option<RangeInclusive<usize>>>);

impl Lives {
    /// Of activations: the head levels are written elsewhere.
    pub fn forward(graph: &Graph) -> Self {
        let mut lives = Self(vec![None; graph.buffers.len()]);
        // The picture is there before the first operation.
        lives.0[0] = Some(0..=0);
        lives.run(graph, graph.ops.iter());
        lives
    }

    /// Of activations, when the backward pass of all operations but the first `frozen` reads them again.
    pub fn training(graph: &Graph, frozen: usize) -> Self {
        let mut lives = Self::forward(graph);
        for op in &graph.ops[frozen..] {
            lives.extend(op.views()[0].buffer, usize::MAX);
        }
        lives
    }

    /// Of gradients, in the backward pass of all operations but the first `frozen`: the picture, what only frozen
    /// operations write, and the head levels have none here.
    pub fn backward(graph: &Graph, frozen: usize) -> Self {
        let mut lives = Self(vec![None; graph.buffers.len()]);
        lives.run(graph, graph.ops[frozen..].iter().rev());
        let learns = |buffer| graph.ops[frozen..].iter().any(|op| op.views()[1].buffer == buffer);
        lives.0.iter_mut().enumerate().filter(|(buffer, _)| !learns(*buffer)).for_each(|(_, life)| *life = None);
        lives
    }

    fn run<'a>(&mut self, graph: &Graph, ops: impl Iterator<Item = &'a Op>) {
        for (now, op) in ops.enumerate() {
            op.views().iter().for_each(|view| self.extend(view.buffer, now));
        }
        for head in graph.heads {
            self.0[head] = None;
        }
    }

    fn extend(&mut self, buffer: usize, now: usize) {
        let life = &mut self.0[buffer];
        *life = Some(life.as_ref().map_or(now, |life| *life.start())..=now);
    }
}

/// Memory for buffers.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Numbers of each piece of memory.
    pub sizes: Vec<usize>,
    /// Per buffer: which piece it uses, and how many of its numbers.
    pub of: Vec<Option<(usize, usize)>>,
}

impl Slots {
    /// Gives each buffer the free memory that fits best when its life begins, or new memory.
    pub fn new(lives: &Lives, sizes: &[usize]) -> Self {
        let mut slots = Self { sizes: Vec::new(), of: vec![None; sizes.len()] };
        // Per piece of memory: when its last user's life ends.
        let mut ends: Vec<usize> = Vec::new();
        let mut order: Vec<usize> = (0..sizes.len()).filter(|&b| lives.0[b].is_some()).collect();
        let life = |b: usize| lives.0[b].clone().expect("only living buffers are in order");
        order.sort_by_key(|&b| (*life(b).start(), std::cmp::Reverse(sizes[b]), b));
        for buffer in order {
            let (size, life) = (sizes[buffer], life(buffer));
            let free = (0..ends.len()).filter(|&slot| ends[slot] < *life.start());
            // The least growth, then the least waste.
            let best = free.min_by_key(|&s| (size.saturating_sub(slots.sizes[s]), slots.sizes[s].saturating_sub(size)));
            let slot = best.unwrap_or_else(|| {
                slots.sizes.push(0);
                ends.push(0);
                ends.len() - 1
            });
            slots.sizes[slot] = slots.sizes[slot].max(size);
            ends[slot] = *life.end();
            slots.of[buffer] = Some((slot, size));
        }
        slots
    }
}

/// The buffers in their memory.
#[derive(Debug)]
pub(super) struct Buffers<E> {
    memory: Vec<Numbers<E>>,
    of: Vec<Option<(usize, usize)>>,
}

/// The memory of a buffer, taken out so that others can be read meanwhile.
pub(super) struct Taken<E> {
    memory: Numbers<E>,
    len: usize,
}

impl<E: Number> Taken<E> {
    pub fn numbers(&mut self) -> &mut [E] {
        &mut self.memory[..self.len]
    }
}

impl<E: Number> Buffers<E> {
    /// Zeros; `None` when the system has no memory for them.
    pub fn new(slots: Slots) -> Option<Self> {
        let memory = slots.sizes.into_iter().map(Numbers::try_zeros).collect::<Option<_>>()?;
        Some(Self { memory, of: slots.of })
    }

    /// Bytes taken.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.memory.iter().map(Numbers::size).sum()
    }

    /// A buffer; empty if it needs no memory.
    pub fn get(&self, buffer: usize) -> &[E] {
        self.of[buffer].map_or(&[], |(slot, len)| &self.memory[slot][..len])
    }

    /// A buffer, to be changed.
    pub fn get_mut(&mut self, buffer: usize) -> &mut [E] {
        self.of[buffer].map_or(&mut [], |(slot, len)| &mut self.memory[slot][..len])
    }

    /// Takes a buffer's memory out, to be given back.
    pub fn take(&mut self, buffer: usize) -> Taken<E> {
        let taken = self.of[buffer].map(|(slot, len)| Taken { memory: std::mem::take(&mut self.memory[slot]), len });
        taken.unwrap_or_else(|| Taken { memory: Numbers::default(), len: 0 })
    }

    /// Gives back what was taken.
    pub fn give(&mut self, buffer: usize, taken: Taken<E>) {
        if let Some((slot, _)) = self.of[buffer] {
            self.memory[slot] = taken.memory;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yolov8::{Size, Spec};

    #[test]
    fn living_buffers_never_share() {
        let graph = Spec { size: Size::N, classes: 3 }.graph();
        let sizes: Vec<usize> =
            graph.buffers.iter().map(|map| 640 / map.stride * (640 / map.stride) * map.channels).collect();
        // The first three blocks, and the whole backbone.
        let [some, many] = [3, 10].map(|modules| graph.frozen(modules));
        for (lives, frozen, least_gain) in [
            (Lives::forward(&graph), 0, 2.0),
            (Lives::backward(&graph, 0), 0, 1.5),
            (Lives::training(&graph, 0), 0, 1.0),
            (Lives::backward(&graph, some), some, 2.0),
            (Lives::training(&graph, some), some, 1.1),
            (Lives::backward(&graph, many), many, 2.5),
            (Lives::training(&graph, many), many, 1.5),
        ] {
            let slots = Slots::new(&lives, &sizes);
            for a in 0..sizes.len() {
                let (Some(life_a), Some((slot_a, len))) = (&lives.0[a], slots.of[a]) else {
                    let writes = |op: &Op| op.views()[1].buffer == a;
                    let unlearned = !graph.ops[frozen..].iter().any(writes);
                    assert!(graph.heads.contains(&a) || unlearned, "{a} has no memory");
                    continue;
                };
                assert!(len == sizes[a] && len <= slots.sizes[slot_a]);
                for b in 0..a {
                    let (Some(life_b), Some((slot_b, _))) = (&lives.0[b], slots.of[b]) else { continue };
                    let apart = life_a.end() < life_b.start() || life_b.end() < life_a.start();
                    assert!(apart || slot_a != slot_b, "{a} and {b}");
                }
            }
            let gain = sizes.iter().sum::<usize>() as f64 / slots.sizes.iter().sum::<usize>() as f64;
            assert!(gain >= least_gain, "{gain}");
        }
    }
}
