//! A description of a network evaluated by its definition: 64 bits, public weight layout, one loop a dimension.
//!
//! Owns the numbers that every back end is compared with. Refuses to be fast.

use crate::yolov8::{
    Images, Mode, State,
    spec::{Graph, Op, Tail, View},
};

/// What a forward pass gives.
pub struct Outcome {
    /// The head levels.
    pub heads: Vec<Vec<f64>>,
    /// The running statistics after it, by key.
    pub statistics: Vec<(String, Vec<f64>)>,
}

/// Batch, height, width, channels and numbers.
struct Map {
    height: usize,
    width: usize,
    channels: usize,
    data: Vec<f64>,
}

impl Map {
    /// A number of a view; none outside the picture.
    fn get(&self, view: View, n: usize, y: isize, x: isize, c: usize) -> Option<f64> {
        let inside = (0..self.height as isize).contains(&y) && (0..self.width as isize).contains(&x);
        let cell = || (n * self.height + y as usize) * self.width + x as usize;
        inside.then(|| self.data[cell() * self.channels + view.offset + c])
    }
}

/// The number of the module that a key belongs to.
pub fn module(name: &str) -> usize {
    name.split('.').nth(1).unwrap().parse().unwrap()
}

/// Evaluates the network; in training mode the first `frozen` modules use their running statistics.
pub fn evaluate(graph: &Graph, state: &State, images: Images<'_>, mode: Mode, frozen: usize) -> Outcome {
    let tensor = |name: String| -> Vec<f64> { state.tensors[&name].data.iter().map(|&x| f64::from(x)).collect() };
    let mut maps: Vec<Map> = (graph.buffers.iter())
        .map(|map| {
            let (height, width, channels) = (images.height / map.stride, images.width / map.stride, map.channels);
            Map { height, width, channels, data: vec![0.0; images.batch * height * width * channels] }
        })
        .collect();
    maps[0].data = images.data.iter().map(|&x| f64::from(x)).collect();
    let mut statistics = Vec::new();
    for op in &graph.ops {
        let (from, to) = match op {
            Op::Conv(conv) => (conv.input, conv.output),
            Op::Upsample(from, to) | Op::MaxPool(from, to) => (*from, *to),
        };
        let (x, height, width) = (&maps[from.buffer], maps[to.buffer].height, maps[to.buffer].width);
        let mut out = vec![0.0; images.batch * height * width * to.channels];
        for (cell, out) in out.chunks_exact_mut(to.channels).enumerate() {
            let (n, oy, ox) = (cell / (height * width), (cell / width % height) as isize, (cell % width) as isize);
            match op {
                Op::Conv(conv) => {
                    let suffix = if matches!(conv.tail, Tail::Bias(_)) { "weight" } else { "conv.weight" };
                    let weights = &state.tensors[&format!("{}.{suffix}", conv.name)].data;
                    let (k, s) = (conv.kernel as isize, conv.stride as isize);
                    for tap in 0..k * k {
                        for c in 0..from.channels {
                            let (y, x_) = (oy * s + tap / k - k / 2, ox * s + tap % k - k / 2);
                            let Some(v) = x.get(from, n, y, x_, c) else { break };
                            for (o, sum) in out.iter_mut().enumerate() {
                                *sum +=
                                    v * f64::from(weights[(o * from.channels + c) * (k * k) as usize + tap as usize]);
                            }
                        }
                    }
                }
                Op::Upsample(..) => {
                    for (c, v) in out.iter_mut().enumerate() {
                        *v = x.get(from, n, oy / 2, ox / 2, c).unwrap();
                    }
                }
                Op::MaxPool(..) => {
                    for (c, v) in out.iter_mut().enumerate() {
                        let window = (0..25).filter_map(|i| x.get(from, n, oy + i / 5 - 2, ox + i % 5 - 2, c));
                        *v = window.fold(f64::NEG_INFINITY, f64::max);
                    }
                }
            }
        }
        if let Op::Conv(conv) = op {
            let name = &conv.name;
            match conv.tail {
                Tail::Bias(_) => {
                    let bias = tensor(format!("{name}.bias"));
                    out.iter_mut().enumerate().for_each(|(i, v)| *v += bias[i % to.channels]);
                }
                Tail::NormSilu(added) => {
                    let keys = ["running_mean", "running_var"].map(|part| format!("{name}.bn.{part}"));
                    let [scale, shift] = ["weight", "bias"].map(|part| tensor(format!("{name}.bn.{part}")));
                    let [mut running_mean, mut running_var] = keys.clone().map(&tensor);
                    for c in 0..to.channels {
                        let values = || out.iter().skip(c).step_by(to.channels);
                        let count = values().count() as f64;
                        let (mut mean, mut var) = (running_mean[c], running_var[c]);
                        if mode == Mode::Train && module(name) >= frozen {
                            mean = values().sum::<f64>() / count;
                            var = values().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                            running_mean[c] += 0.03 * (mean - running_mean[c]);
                            running_var[c] += 0.03 * (var * count / (count - 1.0).max(1.0) - running_var[c]);
                        }
                        for v in out.iter_mut().skip(c).step_by(to.channels) {
                            let z = (*v - mean) / (var + 1e-3).sqrt() * scale[c] + shift[c];
                            *v = z / (1.0 + (-z).exp());
                        }
                    }
                    statistics.extend(keys.into_iter().zip([running_mean, running_var]));
                    if let Some(view) = added {
                        for (i, v) in out.iter_mut().enumerate() {
                            let map = &maps[view.buffer];
                            *v += map.data[i / to.channels * map.channels + view.offset + i % to.channels];
                        }
                    }
                }
            }
        }
        let map = &mut maps[to.buffer];
        for (i, v) in out.into_iter().enumerate() {
            map.data[i / to.channels * map.channels + to.offset + i % to.channels] = v;
        }
    }
    Outcome { heads: graph.heads.map(|head| std::mem::take(&mut maps[head].data)).into(), statistics }
}
