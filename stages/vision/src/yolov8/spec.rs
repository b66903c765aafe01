//! The network as data: sizes, a flat list of operations over channel slices of shared buffers, and initial values.
//!
//! Concatenations and splits are not operations: a concatenation is a buffer whose channel slices are written by its
//! parts, and a split is two views of one buffer. Refuses to compute anything.

use super::{BOX_CHANNELS, STRIDES};

/// The five published sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Nano, 3.2 M parameters.
    N,
    /// Small, 11.2 M.
    S,
    /// Medium, 25.9 M.
    M,
    /// Large, 43.7 M.
    L,
    /// Extra large, 68.2 M.
    X,
}

impl Size {
    /// Depth multiple, width multiple, and the cap on channels before the width multiple.
    fn scale(self) -> (f64, f64, usize) {
        match self {
            Self::N => (0.33, 0.25, 1024),
            Self::S => (0.33, 0.5, 1024),
            Self::M => (0.67, 0.75, 768),
            Self::L => (1.0, 1.0, 512),
            Self::X => (1.0, 1.25, 512),
        }
    }
}

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Depth and width.
    pub size: Size,
    /// Number of classes, at least 1.
    pub classes: usize,
}

/// Channels `offset..offset + channels` of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Index into [`Graph::buffers`].
    pub buffer: usize,
    /// First channel.
    pub offset: usize,
    /// Number of channels.
    pub channels: usize,
}

impl View {
    /// Whether some channel is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let end = |view: Self| view.offset + view.channels;
        self.buffer == other.buffer && self.offset < end(other) && other.offset < end(self)
    }

    /// Channels `offset..offset + channels` of this view.
    fn slice(self, offset: usize, channels: usize) -> Self {
        assert!(offset + channels <= self.channels, "a slice lies within its view");
        Self { buffer: self.buffer, offset: self.offset + offset, channels }
    }
}

/// An activation map, `[batch, height / stride, width / stride, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Channels over all slices.
    pub channels: usize,
    /// Input pixels per cell.
    pub stride: usize,
}

/// What follows a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tail {
    /// Batch normalisation and SiLU, then the view added, if any. Keys: `NAME.conv.weight`, `NAME.bn.*`.
    NormSilu(Option<View>),
    /// A bias only, with the value it starts from. Keys: `NAME.weight`, `NAME.bias`.
    Bias(f32),
}

/// A convolution with what follows it; padding is `kernel / 2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Prefix of the public checkpoint's keys.
    pub name: String,
    /// Read.
    pub input: View,
    /// Written.
    pub output: View,
    /// Side in cells.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Norm and activation, or bias.
    pub tail: Tail,
}

impl Conv {
    /// The number of the module that it belongs to: of `model.4.m.0.cv1`, 4.
    pub fn module(&self) -> usize {
        let number = self.name.split('.').nth(1).and_then(|n| n.parse().ok());
        number.expect("names of convolutions begin with `model.` and a number")
    }
}

/// One step of the network.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Convolution.
    Conv(Conv),
    /// Each cell doubled in both directions.
    Upsample(View, View),
    /// Largest value in a window of 5 x 5, step 1.
    MaxPool(View, View),
}

impl Op {
    /// What is read and what is written. The view that a convolution adds lies in the buffer that it writes.
    pub fn views(&self) -> [View; 2] {
        match self {
            Self::Conv(conv) => [conv.input, conv.output],
            Self::Upsample(from, to) | Self::MaxPool(from, to) => [*from, *to],
        }
    }
}

/// The network as a list of operations in order; buffer 0 is the input picture, the last three are the head levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Activation maps.
    pub buffers: Vec<Map>,
    /// Operations; each view is written once, before it is read.
    pub ops: Vec<Op>,
    /// Head levels, finest first.
    pub heads: [usize; 3],
}

impl Graph {
    /// The convolutions in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.ops.iter().filter_map(|op| if let Op::Conv(conv) = op { Some(conv) } else { None })
    }

    /// How many operations come before the first convolution that learns when the first `modules` modules do not.
    pub fn frozen(&self, modules: usize) -> usize {
        let learns = |op: &Op| matches!(op, Op::Conv(conv) if conv.module() >= modules);
        self.ops.iter().position(learns).unwrap_or(self.ops.len())
    }

    /// How many of the first `ops` operations are convolutions.
    pub fn convs_before(&self, ops: usize) -> usize {
        self.ops[..ops].iter().filter(|op| matches!(op, Op::Conv(_))).count()
    }

    /// Trainable numbers (without the fixed 16 of the box expectation).
    pub fn parameter_count(&self) -> usize {
        let count = |conv: &Conv| {
            let tail = if matches!(conv.tail, Tail::Bias(_)) { 1 } else { 2 };
            conv.output.channels * (conv.kernel * conv.kernel * conv.input.channels + tail)
        };
        self.convs().map(count).sum()
    }

    /// Multiply-adds of one forward pass over a picture of this size, in floating-point operations (two each).
    pub fn flops(&self, height: usize, width: usize) -> f64 {
        self.convs().map(|conv| self.flops_of(conv, height, width)).sum()
    }

    fn flops_of(&self, conv: &Conv, height: usize, width: usize) -> f64 {
        let taps = conv.kernel * conv.kernel * conv.input.channels;
        2.0 * (self.numbers(conv.output, height, width) * taps) as f64
    }

    /// The same for a training step in which the first `modules` modules do not learn: the gradients by the input and by
    /// the weights of those that do cost as much as their output each.
    pub fn training_flops(&self, modules: usize, height: usize, width: usize) -> f64 {
        let passes = |conv: &Conv| if conv.module() < modules { 1.0 } else { 3.0 };
        self.convs().map(|conv| passes(conv) * self.flops_of(conv, height, width)).sum()
    }

    /// Numbers of a view, for a picture of this size.
    pub fn numbers(&self, view: View, height: usize, width: usize) -> usize {
        let stride = self.buffers[view.buffer].stride;
        (height / stride) * (width / stride) * view.channels
    }

    fn map(&mut self, channels: usize, stride: usize) -> View {
        self.buffers.push(Map { channels, stride });
        View { buffer: self.buffers.len() - 1, offset: 0, channels }
    }

    fn conv(&mut self, name: impl Into<String>, input: View, output: View, kernel: usize, stride: usize) {
        let tail = Tail::NormSilu(None);
        self.ops.push(Op::Conv(Conv { name: name.into(), input, output, kernel, stride, tail }));
    }

    /// The "C2f" block: a 1x1 convolution split in two, `repeats` bottlenecks on the second half, all of it joined by a
    /// 1x1 convolution.
    fn c2f(&mut self, name: &str, input: View, output: View, repeats: usize, shortcut: bool) {
        let hidden = output.channels / 2;
        let stride = self.buffers[input.buffer].stride;
        let joined = self.map((2 + repeats) * hidden, stride);
        self.conv(format!("{name}.cv1"), input, joined.slice(0, 2 * hidden), 1, 1);
        for i in 0..repeats {
            let from = joined.slice((1 + i) * hidden, hidden);
            let to = joined.slice((2 + i) * hidden, hidden);
            let middle = self.map(hidden, stride);
            self.conv(format!("{name}.m.{i}.cv1"), from, middle, 3, 1);
            let tail = Tail::NormSilu(shortcut.then_some(from));
            let name = format!("{name}.m.{i}.cv2");
            self.ops.push(Op::Conv(Conv { name, input: middle, output: to, kernel: 3, stride: 1, tail }));
        }
        self.conv(format!("{name}.cv2"), joined, output, 1, 1);
    }

    /// One branch of the head at one level: two 3x3 convolutions and a 1x1 convolution with a bias.
    fn branch(&mut self, name: &str, input: View, output: View, hidden: usize, bias: f32) {
        let stride = self.buffers[input.buffer].stride;
        let first = self.map(hidden, stride);
        self.conv(format!("{name}.0"), input, first, 3, 1);
        let second = self.map(hidden, stride);
        self.conv(format!("{name}.1"), first, second, 3, 1);
        let (name, tail) = (format!("{name}.2"), Tail::Bias(bias));
        self.ops.push(Op::Conv(Conv { name, input: second, output, kernel: 1, stride: 1, tail }));
    }
}

/// The recipe's class bias: about 5 objects in a picture of 640 pixels.
fn class_bias(classes: usize, stride: usize) -> f32 {
    let cells = (640.0 / stride as f64).powi(2);
    (5.0 / classes as f64 / cells).ln() as f32
}

impl Spec {
    /// The operations of the network.
    pub fn graph(&self) -> Graph {
        let (_, width, cap) = self.size.scale();
        // Widths are rounded up to a multiple of 8, as published; they are exact for all five sizes.
        let channels = |base: usize| ((base.min(cap) as f64 * width / 8.0).ceil() * 8.0) as usize;
        let (c1, c2, c3, c4, c5) = (channels(64), channels(128), channels(256), channels(512), channels(1024));
        self.build([c1, c2, c3, c4, c5])
    }

    /// The same network with other widths (stem, then strides 4, 8, 16, 32).
    pub(crate) fn build(&self, [c1, c2, c3, c4, c5]: [usize; 5]) -> Graph {
        let (depth, _, _) = self.size.scale();
        let repeats = |base: usize| ((base as f64 * depth).round() as usize).max(1);
        let (three, six) = (repeats(3), repeats(6));
        let mut g = Graph { buffers: Vec::new(), ops: Vec::new(), heads: [0; 3] };

        let image = g.map(3, 1);
        // The concatenations of the neck, each named after its layer; backbone layers write straight into them.
        let cat11 = g.map(c5 + c4, 16); // up(9), 6
        let cat14 = g.map(c4 + c3, 8); // up(12), 4
        let cat17 = g.map(c3 + c4, 16); // 16, 12
        let cat20 = g.map(c4 + c5, 32); // 19, 9
        let (layer4, layer6) = (cat14.slice(c4, c3), cat11.slice(c5, c4));
        let (layer9, layer12) = (cat20.slice(c4, c5), cat17.slice(c3, c4));

        // Backbone.
        let x = g.map(c1, 2);
        g.conv("model.0", image, x, 3, 2);
        let x1 = g.map(c2, 4);
        g.conv("model.1", x, x1, 3, 2);
        let x2 = g.map(c2, 4);
        g.c2f("model.2", x1, x2, three, true);
        let x3 = g.map(c3, 8);
        g.conv("model.3", x2, x3, 3, 2);
        g.c2f("model.4", x3, layer4, six, true);
        let x5 = g.map(c4, 16);
        g.conv("model.5", layer4, x5, 3, 2);
        g.c2f("model.6", x5, layer6, six, true);
        let x7 = g.map(c5, 32);
        g.conv("model.7", layer6, x7, 3, 2);
        let x8 = g.map(c5, 32);
        g.c2f("model.8", x7, x8, three, true);
        // Spatial pyramid pooling: three 5x5 maxima in a row see 5, 9 and 13 cells.
        let half = c5 / 2;
        let pyramid = g.map(4 * half, 32);
        g.conv("model.9.cv1", x8, pyramid.slice(0, half), 1, 1);
        for i in 0..3 {
            g.ops.push(Op::MaxPool(pyramid.slice(i * half, half), pyramid.slice((i + 1) * half, half)));
        }
        g.conv("model.9.cv2", pyramid, layer9, 1, 1);

        // Neck, top down, then bottom up.
        g.ops.push(Op::Upsample(layer9, cat11.slice(0, c5)));
        g.c2f("model.12", cat11, layer12, three, false);
        g.ops.push(Op::Upsample(layer12, cat14.slice(0, c4)));
        let p3 = g.map(c3, 8);
        g.c2f("model.15", cat14, p3, three, false);
        g.conv("model.16", p3, cat17.slice(0, c3), 3, 2);
        let p4 = g.map(c4, 16);
        g.c2f("model.18", cat17, p4, three, false);
        g.conv("model.19", p4, cat20.slice(0, c4), 3, 2);
        let p5 = g.map(c5, 32);
        g.c2f("model.21", cat20, p5, three, false);

        // Head.
        let box_width = (c3 / 4).max(BOX_CHANNELS);
        let class_width = c3.max(self.classes.min(100));
        let outputs = STRIDES.map(|stride| g.map(BOX_CHANNELS + self.classes, stride));
        g.heads = outputs.map(|view| view.buffer);
        for (i, input) in [p3, p4, p5].into_iter().enumerate() {
            let (boxes, scores) = (outputs[i].slice(0, BOX_CHANNELS), outputs[i].slice(BOX_CHANNELS, self.classes));
            g.branch(&format!("model.22.cv2.{i}"), input, boxes, box_width, 1.0);
            let bias = class_bias(self.classes, STRIDES[i]);
            g.branch(&format!("model.22.cv3.{i}"), input, scores, class_width, bias);
        }
        g
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts at 80 classes as published (3.157 M, 11.17, 25.90, 43.69, 68.23), the fixed 16 included.
    #[test]
    fn parameter_counts() {
        let count = |size| Spec { size, classes: 80 }.graph().parameter_count() + 16;
        assert_eq!(count(Size::N), 3_157_200);
        for (size, millions) in [(Size::S, 11.17), (Size::M, 25.90), (Size::L, 43.69), (Size::X, 68.23)] {
            assert!((count(size) as f64 / 1e6 - millions).abs() < 0.01, "{size:?}: {}", count(size));
        }
    }

    #[test]
    fn every_channel_is_written_once() {
        for (size, classes) in [(Size::N, 1), (Size::M, 25), (Size::X, 90)] {
            let graph = Spec { size, classes }.graph();
            let mut written: Vec<Vec<bool>> =
                graph.buffers.iter().map(|map| vec![map.stride == 1; map.channels]).collect();
            for op in &graph.ops {
                let (from, to) = match op {
                    Op::Conv(conv) => (conv.input, conv.output),
                    Op::Upsample(from, to) | Op::MaxPool(from, to) => (*from, *to),
                };
                assert!(written[from.buffer][from.offset..from.offset + from.channels].iter().all(|&w| w));
                for w in &mut written[to.buffer][to.offset..to.offset + to.channels] {
                    assert!(!std::mem::replace(w, true));
                }
            }
            assert!(written.into_iter().flatten().all(|w| w));
        }
    }
}
