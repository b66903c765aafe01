//! What follows the raw head in an exported graph: boxes and scores as people know them, or found objects.
//!
//! The decoded form is that of the usual YOLOv8 exports: `output0 [batch, 4 + classes, anchors]`, centre, width and
//! height in input pixels, scores 0 to 1, finest level first. With suppression inside it is `output0 [batch, boxes, 6]`:
//! left, top, right, bottom, score, class, best first, rows of zeros behind the last.

use super::{
    Options,
    graph::{Builder, LEVELS},
};
use crate::yolov8::{
    BINS, BOX_CHANNELS, STRIDES,
    onnx::{Attribute, kind},
};

/// Name of the only output of the decoded forms.
pub const OUTPUT: &str = "output0";

fn axis(n: i64) -> Vec<Attribute> {
    vec![Attribute::int("axis", n)]
}

/// Centres of all cells `[1, 2, anchors]` and their strides `[1, 1, anchors]`: constants for a fixed picture size.
fn fixed_anchors(b: &mut Builder, options: &Options) -> [String; 2] {
    let (mut xs, mut ys, mut strides) = (Vec::new(), Vec::new(), Vec::new());
    for stride in STRIDES {
        for y in 0..options.height / stride {
            for x in 0..options.width / stride {
                xs.push(x as f32 + 0.5);
                ys.push(y as f32 + 0.5);
                strides.push(stride as f32);
            }
        }
    }
    let count = xs.len();
    xs.extend(ys);
    [b.floats("anchors", &[1, 2, count], &xs), b.floats("strides", &[1, 1, count], &strides)]
}

/// The same, computed from the sizes of the levels.
fn free_anchors(b: &mut Builder) -> [String; 2] {
    let (mut points, mut strides) = (Vec::new(), Vec::new());
    let zero = b.ints("zero", &[], &[0]);
    let one = b.ints("one", &[], &[1]);
    let half = b.floats("half", &[], &[0.5]);
    let nothing = b.floats("nothing", &[], &[0.0]);
    let row = b.ints("row", &[2], &[1, -1]);
    let column = b.ints("column", &[2], &[-1, 1]);
    let flat = b.ints("flat", &[3], &[1, 1, -1]);
    for (level, stride) in LEVELS.into_iter().zip(STRIDES) {
        let name = |part: &str| format!("{level}/{part}");
        let shape = b.node("Shape", &name("shape"), &[level], vec![]);
        let mut line = |what: &str, dim: i64, form: &str| {
            let index = b.ints(&format!("dim{dim}"), &[], &[dim]);
            let size = b.node("Gather", &name(&format!("{what}/size")), &[&shape, &index], axis(0));
            let range = b.node("Range", &name(&format!("{what}/range")), &[&zero, &size, &one], vec![]);
            let to = vec![Attribute::int("to", kind::FLOAT.into())];
            let numbers = b.node("Cast", &name(&format!("{what}/cast")), &[&range], to);
            let centres = b.node("Add", &name(&format!("{what}/centres")), &[&numbers, &half], vec![]);
            let line = b.node("Reshape", &name(&format!("{what}/line")), &[&centres, form], vec![]);
            let zeros = b.node("Mul", &name(&format!("{what}/zeros")), &[&line, &nothing], vec![]);
            [line, zeros]
        };
        let [x, x0] = line("x", 3, &row);
        let [y, y0] = line("y", 2, &column);
        let mut grid = |what: &str, a: &str, zeros: &str| {
            let sum = b.node("Add", &name(&format!("{what}/grid")), &[a, zeros], vec![]);
            b.node("Reshape", &name(&format!("{what}/flat")), &[&sum, &flat], vec![])
        };
        let xs = grid("x", &x, &y0);
        let ys = grid("y", &y, &x0);
        points.push(b.node("Concat", &name("points"), &[&xs, &ys], axis(1)));
        let zeros = b.node("Mul", &name("zeros"), &[&xs, &nothing], vec![]);
        let number = b.floats(&format!("stride{stride}"), &[], &[stride as f32]);
        strides.push(b.node("Add", &name("strides"), &[&zeros, &number], vec![]));
    }
    let mut all = |name: &str, parts: &[String]| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        b.node("Concat", name, &parts, axis(2))
    };
    [all("anchors", &points), all("strides", &strides)]
}

/// Corners `[batch, 2, anchors]` each, in input pixels, and scores `[batch, classes, anchors]`.
fn corners(b: &mut Builder, options: &Options, classes: usize) -> [String; 3] {
    let form = b.ints("form/level", &[3], &[0, (BOX_CHANNELS + classes) as i64, -1]);
    let flat: Vec<String> =
        LEVELS.iter().map(|l| b.node("Reshape", &format!("{l}/cells"), &[l, &form], vec![])).collect();
    let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
    let all = b.node("Concat", "cells", &flat, axis(2));
    let sizes = b.ints("head/sizes", &[2], &[BOX_CHANNELS as i64, classes as i64]);
    b.node_of("Split", "head/split", &[&all, &sizes], &["head/boxes", "head/classes"], axis(1));
    let form = b.ints("form/bins", &[4], &[0, 4, BINS as i64, -1]);
    let bins = b.node("Reshape", "box/bins", &["head/boxes", &form], vec![]);
    let shares = b.node("Softmax", "box/shares", &[&bins], axis(2));
    let numbers: Vec<f32> = (0..BINS).map(|i| i as f32).collect();
    let numbers = b.floats("box/numbers", &[1, 1, BINS, 1], &numbers);
    let products = b.node("Mul", "box/products", &[&shares, &numbers], vec![]);
    let over = b.ints("box/over", &[1], &[2]);
    let distances = b.node("ReduceSum", "box/distances", &[&products, &over], vec![Attribute::int("keepdims", 0)]);
    let sizes = b.ints("box/sizes", &[2], &[2, 2]);
    b.node_of("Split", "box/split", &[&distances, &sizes], &["box/before", "box/after"], axis(1));
    let [points, strides] = if options.dynamic { free_anchors(b) } else { fixed_anchors(b, options) };
    let first = b.node("Sub", "box/first", &[&points, "box/before"], vec![]);
    let last = b.node("Add", "box/last", &[&points, "box/after"], vec![]);
    let first = b.node("Mul", "box/first/pixels", &[&first, &strides], vec![]);
    let last = b.node("Mul", "box/last/pixels", &[&last, &strides], vec![]);
    let scores = b.node("Sigmoid", "scores", &["head/classes"], vec![]);
    [first, last, scores]
}

/// `output0 [batch, 4 + classes, anchors]`.
pub fn decoded(b: &mut Builder, options: &Options, classes: usize) {
    let [first, last, scores] = corners(b, options, classes);
    let half = b.floats("half", &[], &[0.5]);
    let sum = b.node("Add", "box/sum", &[&first, &last], vec![]);
    let centre = b.node("Mul", "box/centre", &[&sum, &half], vec![]);
    let size = b.node("Sub", "box/size", &[&last, &first], vec![]);
    b.node("Concat", OUTPUT, &[&centre, &size, &scores], axis(1));
}

/// `output0 [batch, boxes, 6]`.
pub fn suppressed(b: &mut Builder, options: &Options, classes: usize) {
    let [first, last, scores] = corners(b, options, classes);
    let both = b.node("Concat", "box/corners", &[&first, &last], axis(1));
    let boxes = b.node("Transpose", "boxes", &[&both], vec![Attribute::ints("perm", &[0, 2, 1])]);
    let most = b.ints("most", &[1], &[options.found.max_det as i64]);
    let iou = b.floats("iou", &[1], &[options.found.iou as f32]);
    let conf = b.floats("conf", &[1], &[options.found.conf as f32]);
    let chosen = b.node("NonMaxSuppression", "chosen", &[&boxes, &scores, &most, &iou, &conf], vec![]);
    // A list of any length becomes a table of fixed form: scores of what was not chosen are zero, the best come first.
    let picked = b.node("GatherND", "chosen/scores", &[&scores, &chosen], vec![]);
    let nothing = b.floats("nothing", &[], &[0.0]);
    let zeros = b.node("Mul", "chosen/zeros", &[&scores, &nothing], vec![]);
    let dense = b.node("ScatterND", "chosen/dense", &[&zeros, &chosen, &picked], vec![]);
    let row = b.ints("form/row", &[2], &[0, -1]);
    let flat = b.node("Reshape", "chosen/flat", &[&dense, &row], vec![]);
    let shape = b.node("Shape", "chosen/shape", &[&flat], vec![]);
    let at = b.ints("at1", &[1], &[1]);
    let all = b.node("Gather", "chosen/all", &[&shape, &at], axis(0));
    let k = b.node("Min", "best/count", &[&most, &all], vec![]);
    b.node_of("TopK", "best", &[&flat, &k], &["best/scores", "best/places"], axis(1));
    let shape = b.node("Shape", "scores/shape", &[&scores], vec![]);
    let two = b.ints("two", &[], &[2]);
    let anchors = b.node("Gather", "scores/anchors", &[&shape, &two], axis(0));
    let class = b.node("Div", "best/class", &["best/places", &anchors], vec![]);
    // What is left of the division: `Mod` would do as well, but fewer runtimes have it.
    let before = b.node("Mul", "best/before", &[&class, &anchors], vec![]);
    let anchor = b.node("Sub", "best/anchor", &["best/places", &before], vec![]);
    let last_axis = b.ints("last", &[1], &[2]);
    let anchor = b.node("Unsqueeze", "best/anchor/one", &[&anchor, &last_axis], vec![]);
    let four = b.ints("four", &[1, 1, 4], &[1; 4]);
    let anchor = b.node("Mul", "best/anchor/four", &[&anchor, &four], vec![]);
    let corners = b.node("GatherElements", "best/corners", &[&boxes, &anchor], axis(1));
    let score = b.node("Unsqueeze", "best/score", &["best/scores", &last_axis], vec![]);
    let to = |kind: i32| vec![Attribute::int("to", kind.into())];
    let class = b.node("Cast", "best/class/number", &[&class], to(kind::FLOAT));
    let class = b.node("Unsqueeze", "best/class/one", &[&class, &last_axis], vec![]);
    let rows = b.node("Concat", "best/rows", &[&corners, &score, &class], axis(2));
    let is_one = b.node("Greater", "best/is", &[&score, &nothing], vec![]);
    let is_one = b.node("Cast", "best/is/number", &[&is_one], to(kind::FLOAT));
    b.node("Mul", OUTPUT, &[&rows, &is_one], vec![]);
}
