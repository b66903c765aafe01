//! Exported networks in ONNX Runtime against the native engine: every form, by `onnx/check.py`.
//!
//! Runs where a Python with `onnxruntime` and `numpy` is: `PIPELINE_TEST_PYTHON`, else `python3`. Elsewhere it says that
//! it was skipped; `.ci/run` makes such a Python.

mod formula;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use vision::{
    detector::{DetectSettings, YoloV8},
    letterbox::{Letterbox, Upscale},
    yolov8::{
        Backend, Heads, Images, Mode, Native, Size, Spec, State, decode,
        export::{self, About, Head, Options, Precision, to_planes},
    },
};

const SPEC: Spec = Spec { size: Size::N, classes: 3 };
const HEIGHT: usize = 96;
const WIDTH: usize = 160;

/// Past the capture of test output: a skip must be seen.
fn tell(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").expect("stderr takes it");
}

/// A Python that can run the script.
fn python() -> Result<PathBuf, String> {
    let named = std::env::var_os("PIPELINE_TEST_PYTHON").map(PathBuf::from);
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", "import numpy, onnxruntime"]).output();
    match has {
        Ok(out) if out.status.success() => Ok(python),
        // Whoever names one wants it to be used.
        _ if named.is_some() => panic!("PIPELINE_TEST_PYTHON={} has no onnxruntime and numpy", python.display()),
        _ => Err("python3 has no onnxruntime and numpy; set PIPELINE_TEST_PYTHON to one that has".into()),
    }
}

/// A lively network whose last convolutions give numbers of the usual size: formula weights alone give logits of some
/// hundreds, and sharp boxes that jump by cells for a rounding error.
fn state() -> State {
    let mut state = formula::state(SPEC);
    for (key, tensor) in state.tensors.iter_mut().filter(|(key, _)| key.ends_with(".2.weight")) {
        let factor = if key.starts_with("model.22.cv3.") { 0.02 } else { 0.1 };
        tensor.data.iter_mut().for_each(|w| *w *= factor);
    }
    state
}

struct Case {
    name: &'static str,
    options: Options,
    batch: usize,
    height: usize,
    width: usize,
    compare: &'static str,
    tolerance: f64,
}

fn write(folder: &Path, file: &str, shape: &[usize], data: &[f32]) -> Value {
    assert_eq!(shape.iter().product::<usize>(), data.len(), "{file}");
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(folder.join(file), bytes).expect("the folder takes it");
    json!({ "file": file, "shape": shape })
}

/// What the graph should give, from the native head.
fn expected(folder: &Path, name: &str, heads: &Heads, options: &Options) -> Vec<Value> {
    let batch = heads.batch;
    match options.head {
        Head::Raw => {
            let level = |l: &vision::yolov8::Level| {
                let cells = l.height * l.width;
                let at = |i: usize| {
                    l.data[(i / (l.channels * cells) * cells + i % cells) * l.channels + i / cells % l.channels]
                };
                let data: Vec<f32> = (0..l.data.len()).map(at).collect();
                write(folder, &format!("{name}.{}", l.stride), &[batch, l.channels, l.height, l.width], &data)
            };
            heads.levels.iter().map(level).collect()
        }
        Head::Decoded => {
            let mut data = Vec::new();
            let mut anchors = 0;
            for image in 0..batch {
                let d = decode(heads, image);
                anchors = d.boxes.len();
                let sides: [fn(&[f32; 4]) -> f32; 4] =
                    [|b| b[0].midpoint(b[2]), |b| b[1].midpoint(b[3]), |b| b[2] - b[0], |b| b[3] - b[1]];
                for side in sides {
                    data.extend(d.boxes.iter().map(side));
                }
                (0..d.classes).for_each(|c| data.extend(d.scores.iter().skip(c).step_by(d.classes)));
            }
            vec![write(folder, &format!("{name}.out"), &[batch, 4 + SPEC.classes, anchors], &data)]
        }
        Head::Nms => {
            // A letterbox that changes nothing, and a picture so large that no box is cut.
            let rows = options.found.max_det;
            let mut data = vec![0.0; batch * rows * 6];
            for image in 0..batch {
                for (i, d) in objects(heads, image, &options.found).into_iter().enumerate() {
                    data[(image * rows + i) * 6..][..6].copy_from_slice(&d);
                }
            }
            vec![write(folder, &format!("{name}.out"), &[batch, rows, 6], &data)]
        }
    }
}

/// Suppression by the definition, within each class.
fn objects(heads: &Heads, image: usize, found: &DetectSettings) -> Vec<[f32; 6]> {
    let d = decode(heads, image);
    let mut all: Vec<[f32; 6]> = Vec::new();
    for (b, scores) in d.boxes.iter().zip(d.scores.chunks_exact(d.classes)) {
        for (class, &s) in scores.iter().enumerate().filter(|(_, s)| f64::from(**s) > found.conf) {
            all.push([b[0], b[1], b[2], b[3], s, class as f32]);
        }
    }
    all.sort_by(|a, b| b[4].total_cmp(&a[4]));
    let area = |r: &[f32; 6]| f64::from(r[2] - r[0]) * f64::from(r[3] - r[1]);
    let iou = |a: &[f32; 6], b: &[f32; 6]| {
        let side = |k: usize| f64::from((a[k + 2].min(b[k + 2]) - a[k].max(b[k])).max(0.0));
        let both = side(0) * side(1);
        both / (area(a) + area(b) - both)
    };
    let mut kept: Vec<[f32; 6]> = Vec::new();
    for row in all {
        if !kept.iter().any(|k| k[5] == row[5] && iou(k, &row) > found.iou) {
            kept.push(row);
        }
    }
    kept.truncate(found.max_det);
    kept
}

#[test]
fn every_form_gives_in_onnx_runtime_what_the_network_gives() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return tell(&format!("SKIPPED: exports in ONNX Runtime: {why}")),
    };
    let plain = Options { height: HEIGHT, width: WIDTH, ..Options::default() };
    let found = DetectSettings { conf: 0.6, iou: 0.5, max_det: 200 };
    let case = |name, options: Options, compare, tolerance| Case {
        name,
        batch: options.batch,
        height: HEIGHT,
        width: WIDTH,
        options,
        compare,
        tolerance,
    };
    let other = |c: Case| Case { batch: 3, height: 64, width: 96, ..c };
    let o = || plain.clone();
    let mut cases = vec![
        // Of the largest number: boxes are up to 500 pixels, raw numbers up to some tens.
        case("static", o(), "largest", 1e-4),
        case("batch of 2", Options { batch: 2, ..o() }, "largest", 1e-4),
        case("dynamic", Options { dynamic: true, ..o() }, "largest", 1e-4),
        other(case("dynamic, another size", Options { dynamic: true, ..o() }, "largest", 1e-4)),
        case("raw", Options { head: Head::Raw, ..o() }, "largest", 1e-4),
        other(case("raw, dynamic", Options { head: Head::Raw, dynamic: true, ..o() }, "largest", 1e-4)),
        case("nms", Options { head: Head::Nms, found, ..o() }, "objects", 1e-2),
        case(
            "nms, nothing found",
            Options { head: Head::Nms, found: DetectSettings { conf: 0.999_999, ..found }, ..o() },
            "objects",
            2e-3,
        ),
        other(case("nms, dynamic", Options { head: Head::Nms, found, dynamic: true, ..o() }, "objects", 1e-2)),
        case("half", Options { head: Head::Raw, precision: Precision::Half, ..o() }, "rms", 5e-3),
        case("half, decoded", Options { precision: Precision::Half, ..o() }, "rms", 5e-3),
        case("int8", Options { head: Head::Raw, precision: Precision::Int8, ..o() }, "rms", 0.1),
        case("int8, decoded", Options { precision: Precision::Int8, ..o() }, "rms", 0.1),
    ];
    for opset in 18..=21 {
        let name = ["opset 18", "opset 19", "opset 20", "opset 21"][opset as usize - 18];
        cases.push(case(name, Options { opset, ..o() }, "largest", 1e-4));
    }
    let state = state();
    let mut network = Native::from_state(SPEC, &state).expect("the weights fit");
    let names = ["gate valve", "pump's", "a \"b\""].map(str::to_owned).to_vec();
    let about = About { names, version: "1".into(), licence: None };
    let pictures: Vec<_> = (0..4)
        .map(|i| to_planes(&formula::picture(&format!("calibration {i}"), HEIGHT, WIDTH), 1, HEIGHT, WIDTH))
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let mut list = Vec::new();
    for (i, c) in cases.iter().enumerate() {
        let file = export::export(SPEC, &state, &about, &c.options, &pictures).expect("it is exported");
        let model = format!("{i}.onnx");
        std::fs::write(folder.path().join(&model), file.bytes).expect("the folder takes it");
        let picture: Vec<f32> =
            (0..c.batch).flat_map(|b| formula::picture(&format!("picture {b}"), c.height, c.width)).collect();
        let images = Images { data: &picture, batch: c.batch, height: c.height, width: c.width };
        let heads = network.forward(images, Mode::Eval).expect("it runs").clone();
        let planes = to_planes(&picture, c.batch, c.height, c.width);
        let input = write(folder.path(), &format!("{i}.in"), &planes.shape, planes.f().expect("floats"));
        let outputs = expected(folder.path(), &i.to_string(), &heads, &c.options);
        if c.options.head == Head::Nms && c.options.found.conf < 0.999 {
            let count = objects(&heads, 0, &c.options.found).len();
            assert!((5..200).contains(&count), "{count} objects make no test");
        }
        let (name, compare, tolerance) = (c.name, c.compare, c.tolerance);
        list.push(json!({
            "name": name, "model": model, "input": input, "outputs": outputs, "compare": compare, "tolerance": tolerance,
        }));
    }
    std::fs::write(folder.path().join("cases.json"), Value::from(list).to_string()).expect("the folder takes it");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/check.py");
    let out = Command::new(&python).arg(script).arg(folder.path()).output().expect("python starts");
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    println!("{text}");
    assert!(out.status.success(), "{text}{errors}");
    assert_eq!(text.lines().filter(|l| l.starts_with("ok ")).count(), cases.len(), "{text}");
}

#[test]
fn suppression_in_the_graph_is_that_of_the_detector() {
    let state = state();
    let mut network = Native::from_state(SPEC, &state).expect("the weights fit");
    let picture = formula::picture("picture 0", HEIGHT, WIDTH);
    let images = Images { data: &picture, batch: 1, height: HEIGHT, width: WIDTH };
    let heads = network.forward(images, Mode::Eval).expect("it runs").clone();
    let found = DetectSettings { conf: 0.6, iou: 0.5, max_det: 200 };
    let fit = Letterbox::new((WIDTH as u32, HEIGHT as u32), (WIDTH as u32, HEIGHT as u32), Upscale::Yes);
    let detected = YoloV8::decode(&heads, &[fit], &found).remove(0);
    let scores: Vec<f32> = objects(&heads, 0, &found).iter().map(|o| o[4]).collect();
    // The detector cuts boxes at the edge of the picture first, so that more of them can overlap: the best agree.
    assert_eq!(detected[0].score, scores[0]);
}
