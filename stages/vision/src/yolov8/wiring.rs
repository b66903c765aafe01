//! Which operation makes which channels: the description's buffers and views as results of operations, joined and cut.
//!
//! Owns that translation, for formats whose graphs name results. Refuses to know those formats.

use super::spec::{Graph, Op, View};

/// Where channels come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// The picture.
    Input,
    /// The result of an operation, by its number.
    Op(usize),
}

/// Channels `from..to` of what an operation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub atom: Atom,
    pub from: usize,
    pub to: usize,
}

/// Channels `from..to` of joined segments.
pub(super) fn part(segments: &[Segment], from: usize, to: usize) -> Vec<Segment> {
    let mut start = 0;
    let mut found = Vec::new();
    for s in segments {
        let len = s.to - s.from;
        let (a, b) = (from.clamp(start, start + len) - start, to.clamp(start, start + len) - start);
        if a < b {
            found.push(Segment { atom: s.atom, from: s.from + a, to: s.from + b });
        }
        start += len;
    }
    found
}

/// Neighbouring parts of one result as one.
pub(super) fn joined(segments: Vec<Segment>) -> Vec<Segment> {
    let mut joined: Vec<Segment> = Vec::with_capacity(segments.len());
    for s in segments {
        match joined.last_mut() {
            Some(last) if last.atom == s.atom && last.to == s.from => last.to = s.to,
            _ => joined.push(s),
        }
    }
    joined
}

pub(super) fn width(segments: &[Segment]) -> usize {
    segments.iter().map(|s| s.to - s.from).sum()
}

/// Where the channels of a view come from, in the description.
pub(super) fn origin(graph: &Graph, view: View) -> Vec<Segment> {
    if view.buffer == 0 {
        return vec![Segment { atom: Atom::Input, from: view.offset, to: view.offset + view.channels }];
    }
    let mut found: Vec<(usize, Segment)> = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let to = match op {
            Op::Conv(conv) => conv.output,
            Op::Upsample(_, to) | Op::MaxPool(_, to) => *to,
        };
        let start = view.offset.max(to.offset);
        let end = (view.offset + view.channels).min(to.offset + to.channels);
        if to.buffer == view.buffer && start < end {
            found.push((start, Segment { atom: Atom::Op(i), from: start - to.offset, to: end - to.offset }));
        }
    }
    found.sort_by_key(|(start, _)| *start);
    joined(found.into_iter().map(|(_, s)| s).collect())
}
