//! The check that every export gets: its graph is well formed, and gives on pictures what the network gives.
//!
//! Owns tolerances and what is compared. Refuses to mend anything: a graph that fails is a mistake of this program.

use super::{
    ExportError, Head, Options, Precision,
    evaluate::{self, Array},
    graph::LEVELS,
};
use crate::yolov8::{Backend, Decoded, Heads, Images, Mode, Native, Spec, State, decode, onnx::Graph};
use std::collections::BTreeSet;

/// How close the exported graph is to the network, on the picture of the check or the calibration pictures.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Closeness {
    /// Largest difference of a score, 0 to 1.
    pub score: f32,
    /// Largest difference of a box side in pixels, where the score is above .05; of all boxes when none is.
    pub box_px: f32,
    /// Root of the mean squared difference of the raw head, as a share of that of the head itself.
    pub raw: f32,
}

/// Largest difference of the raw head (see [`Closeness::raw`]) in 32 bits; more is a mistake.
const FULL_TOLERANCE: f32 = 1e-4;
/// The same in 16 bits.
const HALF_TOLERANCE: f32 = 2e-2;
/// The same in 8 bits: beyond it nothing of the network is left.
const INT8_TOLERANCE: f32 = 0.5;
/// Side of the check's picture for graphs of any size, in pixels.
const CHECK_SIDE: usize = 128;

/// Checks a graph; for [`Precision::Int8`] on the first of `pictures`, else on a drawn one.
pub(super) fn check(
    graph: &Graph,
    spec: Spec,
    state: &State,
    options: &Options,
    pictures: &[Array],
) -> Result<Closeness, ExportError> {
    structure(graph)?;
    let found = closeness(graph, spec, state, options, pictures)?;
    let tolerance = match options.precision {
        Precision::Full => FULL_TOLERANCE,
        Precision::Half => HALF_TOLERANCE,
        Precision::Int8 => INT8_TOLERANCE,
    };
    if found.raw.is_nan() || found.raw > tolerance {
        return Err(ExportError::Check(format!("the raw head differs by {} of its size", found.raw)));
    }
    Ok(found)
}

/// Every value is made once, before it is read; every constant and every result is used.
fn structure(graph: &Graph) -> Result<(), ExportError> {
    let bad = |text: String| Err(ExportError::Check(text));
    let mut known: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    for constant in &graph.initializer {
        if !known.insert(&constant.name) {
            return bad(format!("two constants are named `{}`", constant.name));
        }
    }
    let mut read: BTreeSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let mut names = BTreeSet::new();
    for node in &graph.node {
        if !names.insert(&node.name) {
            return bad(format!("two operations are named `{}`", node.name));
        }
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if !known.contains(input.as_str()) {
                return bad(format!("`{}` reads `{input}` before it is made", node.name));
            }
            read.insert(input);
        }
        for output in &node.output {
            if !known.insert(output) {
                return bad(format!("`{output}` is made twice"));
            }
        }
    }
    match known.iter().find(|name| !read.contains(*name)) {
        Some(name) => bad(format!("nothing reads `{name}`")),
        None => Ok(()),
    }
}

/// A picture with edges and flat parts at all places, the same at every call.
fn drawn(batch: usize, height: usize, width: usize) -> Array {
    let value = |i: usize| {
        let (c, y, x) = (i / (height * width) % 3, i / width % height, i % width);
        let ring = ((x as f32 - 40.0).hypot(y as f32 - 40.0) / 7.0 + c as f32).sin().abs();
        let block = f32::from(u8::from((x / 16 + y / 24 + i / (3 * height * width)).is_multiple_of(3)));
        (0.6 * ring + 0.4 * block).clamp(0.0, 1.0)
    };
    Array::floats(vec![batch, 3, height, width], (0..batch * 3 * height * width).map(value).collect())
}

/// Runs graph and network on the same pictures.
fn closeness(
    graph: &Graph,
    spec: Spec,
    state: &State,
    options: &Options,
    pictures: &[Array],
) -> Result<Closeness, ExportError> {
    let own;
    let pictures = if options.precision == Precision::Int8 {
        &pictures[..pictures.len().min(4)]
    } else {
        let (h, w) = (options.height, options.width);
        let (h, w) = if options.dynamic { (h.min(CHECK_SIDE), w.min(CHECK_SIDE + 32)) } else { (h, w) };
        own = [drawn(if options.dynamic { 2 } else { options.batch }, h, w)];
        &own
    };
    let mut network = Native::from_state(spec, state)?;
    let mut found = Closeness { score: 0.0, box_px: 0.0, raw: 0.0 };
    let (mut square, mut whole, mut all_px, mut any) = (0.0_f64, 0.0_f64, 0.0_f32, false);
    for picture in pictures {
        let mut levels: [Option<Array>; 3] = [None, None, None];
        let outputs = evaluate::run(graph, picture, &mut |name, value| {
            if let Some(level) = LEVELS.iter().position(|l| *l == name) {
                levels[level] = Some(value.clone());
            }
        })?;
        let [batch, _, height, width] = picture.shape[..] else {
            return Err(ExportError::Check("a picture has four axes".into()));
        };
        let pixels = to_rows(picture)?;
        let ours = network.forward(Images { data: &pixels, batch, height, width }, Mode::Eval)?.clone();
        let mut theirs = ours.clone();
        for (level, found) in theirs.levels.iter_mut().zip(&levels) {
            let found = found.as_ref().ok_or_else(|| ExportError::Check("a level of the head is missing".into()))?;
            if found.shape != [batch, level.channels, level.height, level.width] {
                return Err(ExportError::Check(format!("a level of the head is {:?}", found.shape)));
            }
            level.data = to_rows(found)?;
        }
        let numbers = |h: &Heads| h.levels.iter().flat_map(|l| l.data.clone()).map(f64::from).collect::<Vec<_>>();
        for (a, b) in numbers(&ours).into_iter().zip(numbers(&theirs)) {
            square += (a - b).powi(2);
            whole += a.powi(2);
        }
        for image in 0..batch {
            let (a, b) = (decode(&ours, image), decode(&theirs, image));
            for (i, (p, q)) in a.boxes.iter().zip(&b.boxes).enumerate() {
                let scores = |d: &Decoded| d.scores[i * spec.classes..(i + 1) * spec.classes].to_vec();
                let (s, t) = (scores(&a), scores(&b));
                let off = s.iter().zip(&t).map(|(s, t)| (s - t).abs()).fold(0.0, f32::max);
                found.score = found.score.max(off);
                let px = p.iter().zip(q).map(|(p, q)| (p - q).abs()).fold(0.0, f32::max);
                all_px = all_px.max(px);
                if s.iter().chain(&t).any(|&s| s > 0.05) {
                    any = true;
                    found.box_px = found.box_px.max(px);
                }
            }
            answers(options, &b, image, &outputs)?;
        }
    }
    found.raw = (square / whole.max(f64::MIN_POSITIVE)).sqrt() as f32;
    if !any {
        found.box_px = all_px;
    }
    Ok(found)
}

/// Whether the outputs for one image are what the levels of the same graph stand for.
fn answers(options: &Options, levels: &Decoded, image: usize, outputs: &[Array]) -> Result<(), ExportError> {
    let bad = |text: String| Err(ExportError::Check(text));
    let out = &outputs[0];
    let data = out.f().map_err(ExportError::Check)?;
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-3 * (1.0 + b.abs());
    let (n, classes) = (levels.boxes.len(), levels.classes);
    match options.head {
        Head::Raw => Ok(()),
        Head::Decoded => {
            if out.shape[1..] != [4 + classes, n] {
                return bad(format!("the output is {:?}", out.shape));
            }
            let at = |row: usize, i: usize| data[(image * (4 + classes) + row) * n + i];
            let right = |i: usize| {
                let [x0, y0, x1, y1] = levels.boxes[i];
                let ours = [x0.midpoint(x1), y0.midpoint(y1), x1 - x0, y1 - y0];
                (0..4).all(|k| close(at(k, i), ours[k]))
                    && (0..classes).all(|c| close(at(4 + c, i), levels.scores[i * classes + c]))
            };
            (0..n).find(|&i| !right(i)).map_or(Ok(()), |i| bad(format!("anchor {i} is decoded differently")))
        }
        Head::Nms => {
            let rows = &data[image * out.shape[1] * 6..(image + 1) * out.shape[1] * 6];
            for (i, row) in rows.as_chunks::<6>().0.iter().enumerate().filter(|(_, r)| r[4] > 0.0) {
                let class = row[5] as usize;
                let is = |k: usize| {
                    close(row[4], levels.scores[k * classes + class])
                        && (0..4).all(|s| close(row[s], levels.boxes[k][s]))
                };
                if class >= classes || f64::from(row[4]) < options.found.conf * 0.999 || !(0..n).any(is) {
                    return bad(format!("row {i} of the found objects is no cell of the head"));
                }
            }
            Ok(())
        }
    }
}

/// `[batch, channels, height, width]` as `[batch, height, width, channels]`.
fn to_rows(a: &Array) -> Result<Vec<f32>, ExportError> {
    let [b, c, h, w] = a.shape[..] else { return Err(ExportError::Check("a map has four axes".into())) };
    let data = a.f().map_err(ExportError::Check)?;
    let at = |i: usize| data[(i / (h * w * c) * c + i % c) * h * w + i / c % (h * w)];
    Ok((0..b * c * h * w).map(at).collect())
}
