//! Networks of a handful of operations: a trunk down to the three levels of a head, and one thing to look at on it.

use crate::yolov8::{
    BOX_CHANNELS, STRIDES,
    spec::{Conv, Graph, Map, Op, Tail, View},
};

/// Classes of these networks.
pub const CLASSES: usize = 2;
/// Channels of the trunk: not a multiple of a vector.
const WIDTH: usize = 6;

/// The operations of YOLOv8, each with what it needs around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// 3x3 convolutions of step 2, normalisations, SiLU, and 1x1 convolutions with a bias.
    Trunk,
    /// A 1x1 convolution.
    Pointwise,
    /// A 3x3 convolution.
    Window,
    /// A split, two convolutions with a shortcut, a concatenation.
    Shortcut,
    /// The same without shortcut.
    Bottleneck,
    /// Three maxima in a row, all concatenated.
    Pyramid,
    /// A coarser level doubled and concatenated.
    Upsample,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Trunk, Self::Pointwise, Self::Window, Self::Shortcut, Self::Bottleneck, Self::Pyramid, Self::Upsample];

    /// The network.
    pub fn graph(self) -> Graph {
        let mut g = Draft(Graph { buffers: Vec::new(), ops: Vec::new(), heads: [0; 3] });
        let image = g.map(3, 1);
        let x = g.conv(0, "", image, WIDTH, 3, 2);
        let x = g.conv(1, "", x, WIDTH, 3, 2);
        let fine = g.conv(2, "", x, WIDTH, 3, 2);
        let middle = g.conv(3, "", fine, WIDTH, 3, 2);
        let coarse = g.conv(4, "", middle, WIDTH, 3, 2);
        let level = match self {
            Self::Trunk => fine,
            Self::Pointwise => g.conv(5, "", fine, WIDTH, 1, 1),
            Self::Window => g.conv(5, "", fine, WIDTH, 3, 1),
            Self::Shortcut | Self::Bottleneck => {
                let joined = g.map(3 * WIDTH, 8);
                g.conv_into("model.5.cv1", fine, slice(joined, 0, 2 * WIDTH), 1, None);
                let half = slice(joined, WIDTH, WIDTH);
                let inner = g.conv(5, ".m.0.cv1", half, WIDTH, 3, 1);
                let added = (self == Self::Shortcut).then_some(half);
                g.conv_into("model.5.m.0.cv2", inner, slice(joined, 2 * WIDTH, WIDTH), 3, added);
                g.conv(5, ".cv2", joined, WIDTH, 1, 1)
            }
            Self::Pyramid => {
                let pyramid = g.map(4 * WIDTH, 8);
                g.conv_into("model.5.cv1", fine, slice(pyramid, 0, WIDTH), 1, None);
                for i in 0..3 {
                    let (from, to) = (slice(pyramid, i * WIDTH, WIDTH), slice(pyramid, (i + 1) * WIDTH, WIDTH));
                    g.0.ops.push(Op::MaxPool(from, to));
                }
                g.conv(5, ".cv2", pyramid, WIDTH, 1, 1)
            }
            Self::Upsample => {
                let joined = g.map(2 * WIDTH, 8);
                g.0.ops.push(Op::Upsample(middle, slice(joined, 0, WIDTH)));
                g.conv_into("model.5.cv1", fine, slice(joined, WIDTH, WIDTH), 3, None);
                g.conv(5, ".cv2", joined, WIDTH, 1, 1)
            }
        };
        for (i, (input, stride)) in [level, middle, coarse].into_iter().zip(STRIDES).enumerate() {
            let output = g.map(BOX_CHANNELS + CLASSES, stride);
            g.0.heads[i] = output.buffer;
            for (branch, view) in
                [("cv2", slice(output, 0, BOX_CHANNELS)), ("cv3", slice(output, BOX_CHANNELS, CLASSES))]
            {
                let (name, tail) = (format!("model.6.{branch}.{i}"), Tail::Bias(0.5));
                g.0.ops.push(Op::Conv(Conv { name, input, output: view, kernel: 1, stride: 1, tail }));
            }
        }
        g.0
    }
}

fn slice(view: View, offset: usize, channels: usize) -> View {
    View { buffer: view.buffer, offset: view.offset + offset, channels }
}

struct Draft(Graph);

impl Draft {
    fn map(&mut self, channels: usize, stride: usize) -> View {
        self.0.buffers.push(Map { channels, stride });
        View { buffer: self.0.buffers.len() - 1, offset: 0, channels }
    }

    fn conv(&mut self, module: usize, part: &str, input: View, channels: usize, kernel: usize, stride: usize) -> View {
        let output = self.map(channels, self.0.buffers[input.buffer].stride * stride);
        let name = format!("model.{module}{part}");
        self.0.ops.push(Op::Conv(Conv { name, input, output, kernel, stride, tail: Tail::NormSilu(None) }));
        output
    }

    fn conv_into(&mut self, name: &str, input: View, output: View, kernel: usize, added: Option<View>) {
        let (name, tail) = (name.to_owned(), Tail::NormSilu(added));
        self.0.ops.push(Op::Conv(Conv { name, input, output, kernel, stride: 1, tail }));
    }
}
