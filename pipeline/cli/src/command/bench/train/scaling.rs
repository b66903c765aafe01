//! What a training step of each network costs at least, from its description: operations at the measured peak, bytes of
//! maps at the measured speed of memory.
//!
//! Owns the count and its table. Refuses to train.

use miette::Result;
use serde_json::{Value, json};
use vision::yolov8::{
    Mode, Size, Spec,
    native::{Native, Precision},
    spec::{Graph, Tail},
};

use super::{TrainBench, step};

/// Sides of the pictures in pixels.
const SIDES: [usize; 3] = [320, 640, 1280];
const SIZES: [(&str, Size); 5] =
    [("yolov8n", Size::N), ("yolov8s", Size::S), ("yolov8m", Size::M), ("yolov8l", Size::L), ("yolov8x", Size::X)];
/// Times that a step moves a convolution's input: read forward and backward, its gradient written.
const INPUT_PASSES: usize = 3;
/// Times that a step moves a normalised output: before the normalisation written, read to normalise, read twice backward;
/// behind it written, its gradient read; the gradient between written and read.
const OUTPUT_PASSES: usize = 8;
/// Times that a step moves an output without normalisation: written, and its gradient read.
const HEAD_PASSES: usize = 2;

/// Numbers of maps and their gradients that a step with one picture reads or writes, if caches keep none from one pass
/// to the next.
fn moved(graph: &Graph, side: usize) -> usize {
    let of = |conv: &vision::yolov8::spec::Conv| {
        let passes = if matches!(conv.tail, Tail::Bias(_)) { HEAD_PASSES } else { OUTPUT_PASSES };
        INPUT_PASSES * graph.numbers(conv.input, side, side) + passes * graph.numbers(conv.output, side, side)
    };
    graph.convs().map(of).sum()
}

/// What a machine does in a second on some threads.
struct Speed {
    threads: usize,
    precision: Precision,
    gflop: f64,
    gbyte: f64,
}

/// The table and its figures.
pub fn table(args: &TrainBench, threads: &[usize]) -> Result<(Value, Vec<Vec<String>>)> {
    let mut speeds = Vec::new();
    for &threads in threads {
        let gbyte = step::bandwidth(threads)?;
        for precision in [Precision::F32, Precision::Bf16] {
            speeds.push(Speed { threads, precision, gflop: step::best_peak(threads, precision)?, gbyte });
        }
    }
    let mut head =
        ["network", "imgsz", "M parameters", "GFLOP/image", "MB/image f32", "FLOP/byte"].map(str::to_owned).to_vec();
    head.extend([Precision::F32, Precision::Bf16].map(|p| format!("planned MB {}", p.name())));
    head.extend(speeds.iter().map(|s| format!("floor ms/image {}, {} thr.", s.precision.name(), s.threads)));
    let mut rows = vec![head];
    let mut lines = Vec::new();
    for (name, size) in SIZES {
        let spec = Spec { size, classes: args.classes };
        let graph = spec.graph();
        let parameters = graph.parameter_count() as f64 / 1e6;
        for side in SIDES {
            let gflop = graph.training_flops(0, side, side) / 1e9;
            let numbers = moved(&graph, side) as f64;
            let megabytes = |p: Precision| numbers * if p == Precision::F32 { 4e-6 } else { 2e-6 };
            let planned = [Precision::F32, Precision::Bf16]
                .map(|p| Native::memory(spec, [args.batch, side, side], Mode::Train, p, 0) as f64 / 1e6);
            let floors: Vec<[f64; 2]> =
                speeds.iter().map(|s| [gflop / s.gflop * 1e3, megabytes(s.precision) / s.gbyte]).collect();
            let mut row = vec![name.to_owned(), side.to_string(), format!("{parameters:.1}"), format!("{gflop:.1}")];
            row.push(format!("{:.0}", megabytes(Precision::F32)));
            row.push(format!("{:.0}", gflop * 1e3 / megabytes(Precision::F32)));
            row.extend(planned.map(|mb| format!("{mb:.0}")));
            // Both at once at best; the longer one is the floor.
            row.extend(floors.iter().map(|[a, b]| format!("{:.1} ({a:.1} + {b:.1})", a.max(*b))));
            rows.push(row);
            lines.push(json!({
                "model": name, "imgsz": side, "parameters": graph.parameter_count(), "gflop_per_image": gflop,
                "mb_per_image_f32": megabytes(Precision::F32), "planned_mb": planned,
                "floor_ms_per_image": floors.iter().map(|[a, b]| json!({ "operations": a, "bytes": b })).collect::<Vec<_>>(),
            }));
        }
    }
    let machine: Vec<Value> = speeds
        .iter()
        .map(|s| {
            json!({ "threads": s.threads, "precision": s.precision.name(), "peak_gflop_per_s": s.gflop, "copy_gb_per_s": s.gbyte })
        })
        .collect();
    let doc = json!({
        "classes": args.classes, "batch_of_planned_mb": args.batch, "machine": machine, "lines": lines,
        "definitions": {
            "gflop_per_image": "three times the multiply-adds of a forward pass as direct convolutions, two operations each",
            "mb_per_image_f32": "maps and their gradients, each read and written once a pass; half of it in bf16",
            "floor_ms_per_image": "the longer of operations at the measured peak and bytes at the measured speed of copying",
        },
    });
    Ok((doc, rows))
}
