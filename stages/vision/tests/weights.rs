//! Weights of other programs: a `.pt` file that Ultralytics described (see `weights/golden.py`), layer by layer against
//! PyTorch; and malformed files of every kind.

#[path = "weights/fixture.rs"]
mod fixture;
mod formula;

use std::io::Cursor;

use fixture::{DESCRIPTION, HEIGHT, SPEC, WIDTH, checkpoint, golden};
use formula::{numbers, picture, values};
use half::f16;
use prost::Message as _;
use vision::yolov8::{
    Backend, Images, Mode,
    export::{self, About, Head, Options, Precision, to_planes},
    onnx::Model,
    weights::{self, Kind, ULTRALYTICS_LICENCE, Weights},
};
use zip::{ZipWriter, write::SimpleFileOptions};

const NAMES: [&str; 3] = ["gate valve", "pump's \"head\"", "Prüfventil"];

fn read() -> Weights {
    weights::read(&checkpoint(DESCRIPTION)).expect("the file is read")
}

#[test]
fn a_file_of_ultralytics_is_read_and_every_layer_is_that_of_pytorch() {
    let weights = read();
    assert_eq!((weights.spec, weights.kind), (SPEC, Kind::Pt));
    assert_eq!(weights.names.as_deref(), Some(&NAMES.map(str::to_owned)[..]));
    assert_eq!(weights.licence.as_deref(), Some(ULTRALYTICS_LICENCE));
    assert_eq!(weights.state.metadata["imgsz"], "96");
    for (key, shape) in SPEC.shapes() {
        let expected: Vec<f32> = values(&key, &shape).into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
        assert_eq!(weights.state.tensors[&key].data, expected, "{key}");
    }
    let golden = golden();
    let picture = picture("picture", HEIGHT, WIDTH);
    let mut seen = 0;
    let planes = to_planes(&picture, 1, HEIGHT, WIDTH);
    export::layers(weights.spec, &weights.state, &planes, &mut |layer, data| {
        golden.compare(layer, data.iter().copied());
        seen += 1;
    })
    .expect("the layers run");
    assert_eq!(seen, golden.layers.len() - 1, "every layer but the decoded head");
    // The native engine: the end of every branch, and boxes and scores.
    let mut network = weights.network().expect("the weights fit");
    let images = Images { data: &picture, batch: 1, height: HEIGHT, width: WIDTH };
    let heads = network.forward(images, Mode::Eval).expect("it runs").clone();
    for (i, level) in heads.levels.iter().enumerate() {
        for (branch, channels) in [("cv2", 0..64), ("cv3", 64..67)] {
            let name = format!("model.22.{branch}.{i}.2");
            let cells = level.data.chunks_exact(level.channels);
            let planes = channels.flat_map(|c| cells.clone().map(move |cell| cell[c]));
            golden.compare(&name, planes);
        }
    }
    let decoded = vision::yolov8::decode(&heads, 0);
    let mut rows = vec![Vec::new(); 7];
    for (b, s) in decoded.boxes.iter().zip(decoded.scores.chunks_exact(3)) {
        let [x0, y0, x1, y1] = *b;
        for (row, v) in rows.iter_mut().zip([x0.midpoint(x1), y0.midpoint(y1), x1 - x0, y1 - y0, s[0], s[1], s[2]]) {
            row.push(v);
        }
    }
    golden.compare("decoded", rows.into_iter().flatten());
}

#[test]
fn what_is_exported_comes_back_as_weights() {
    let weights = read();
    let about =
        About { names: NAMES.map(str::to_owned).to_vec(), version: "1".into(), licence: weights.licence.clone() };
    let picture = picture("picture", HEIGHT, WIDTH);
    let images = Images { data: &picture, batch: 1, height: HEIGHT, width: WIDTH };
    let run = |w: &Weights| w.network().expect("fits").forward(images, Mode::Eval).expect("runs").clone();
    let expected = run(&weights);
    for (head, precision, tolerance) in [
        (Head::Decoded, Precision::Full, 1e-4),
        (Head::Raw, Precision::Full, 1e-4),
        (Head::Nms, Precision::Full, 1e-4),
        (Head::Decoded, Precision::Half, 2e-2),
    ] {
        let options = Options { height: HEIGHT, width: WIDTH, head, precision, ..Options::default() };
        let file = export::export(weights.spec, &weights.state, &about, &options, &[]).expect("it is exported").bytes;
        let again = export::export(weights.spec, &weights.state, &about, &options, &[]).expect("it is exported").bytes;
        assert!(file == again, "the same bytes each time");
        let back = weights::read(&file).expect("it is read");
        assert_eq!(
            (back.kind, back.spec, &back.names, &back.licence),
            (Kind::Onnx, SPEC, &weights.names, &weights.licence)
        );
        assert_eq!(back.state.metadata["imgsz"], "96");
        for (a, b) in run(&back).levels.iter().zip(&expected.levels) {
            let largest = b.data.iter().fold(1.0_f32, |m, x| m.max(x.abs()));
            let error = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
            assert!(error < tolerance, "{head:?} {precision:?}: {error}");
        }
    }
}

/// A weight together with the factor of the normalisation behind it, `[out][rest]`.
fn merged(weights: &Weights, conv: &str) -> Vec<Vec<f32>> {
    let part = |key: &str| weights.state.tensors.get(&format!("{conv}.{key}")).map(|t| t.data.clone());
    let rows = |data: Vec<f32>, count: usize| data.chunks(data.len() / count).map(<[f32]>::to_vec).collect::<Vec<_>>();
    match part("conv.weight") {
        None => rows(part("weight").expect("a last convolution"), part("bias").expect("with a bias").len()),
        Some(data) => {
            let (scale, var) = (part("bn.weight").expect("a scale"), part("bn.running_var").expect("a variance"));
            let mut rows = rows(data, scale.len());
            for ((row, s), v) in rows.iter_mut().zip(scale).zip(var) {
                row.iter_mut().for_each(|w| *w *= s / (v + weights::EPSILON as f32).sqrt());
            }
            rows
        }
    }
}

#[test]
fn weights_in_8_bits_come_back_within_half_a_step() {
    let weights = read();
    let about = About { names: NAMES.map(str::to_owned).to_vec(), version: "1".into(), licence: None };
    let options = Options { height: HEIGHT, width: WIDTH, precision: Precision::Int8, ..Options::default() };
    let picture = picture("picture", HEIGHT, WIDTH);
    let calibration = [to_planes(&picture, 1, HEIGHT, WIDTH)];
    let file = export::export(SPEC, &weights.state, &about, &options, &calibration).expect("it is exported").bytes;
    let back = weights::read(&file).expect("it is read");
    assert!(back.dequantised && !weights.dequantised);
    assert_eq!((back.spec, &back.names), (SPEC, &weights.names));
    let mut changed = 0;
    for conv in SPEC.graph().convs() {
        for (row, expected) in merged(&back, &conv.name).iter().zip(&merged(&weights, &conv.name)) {
            let step = expected.iter().fold(0.0_f32, |m, w| m.max(w.abs())) / 127.0;
            for (found, expected) in row.iter().zip(expected) {
                assert!((found - expected).abs() <= 0.501 * step, "{}: {found} {expected} {step}", conv.name);
                changed += usize::from((found - expected).abs() > 0.1 * step);
            }
        }
    }
    assert!(changed > 100_000, "they are in 8 bits");
    let images = Images { data: &picture, batch: 1, height: HEIGHT, width: WIDTH };
    let run = |w: &Weights| w.network().expect("fits").forward(images, Mode::Eval).expect("runs").clone();
    for (a, b) in run(&back).levels.iter().zip(&run(&weights).levels) {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        let error = norm(&mut a.data.iter().zip(&b.data).map(|(a, b)| a - b)) / norm(&mut b.data.iter().copied());
        assert!(error < 0.1, "stride {}: {error}", a.stride);
    }
    // Without the scales nobody knows what the whole numbers stand for.
    let mut model = Model::decode(&*file).expect("it is ONNX");
    let constants = &mut model.graph.as_mut().expect("a graph").initializer;
    constants.retain(|t| !(t.name.contains("model.4.cv1") && t.name.ends_with("weight/scale")));
    let text = said(&model.encode_to_vec());
    assert!(text.contains("model.4.cv1") && text.contains("whole numbers"), "{text}");
}

#[test]
fn safetensors_in_16_bits_are_read() {
    let state = formula::state(SPEC);
    let tensors: Vec<_> = state
        .tensors
        .iter()
        .map(|(name, t)| {
            let bytes: Vec<u8> = t.data.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
            (name.clone(), t.shape.clone(), bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes);
        (name.clone(), view.expect("sizes fit"))
    });
    let read = weights::read(&safetensors::serialize(views, None).expect("it is written")).expect("it is read");
    assert_eq!(read.spec, SPEC);
    for (key, tensor) in &state.tensors {
        let expected: Vec<f32> = tensor.data.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        assert_eq!(read.state.tensors[key].data, expected, "{key}");
    }
}

/// The whole chain of causes.
fn said(bytes: &[u8]) -> String {
    let mut error: &dyn std::error::Error = &weights::read(bytes).expect_err("it is malformed");
    let mut texts = vec![error.to_string()];
    while let Some(source) = error.source() {
        texts.push(source.to_string());
        error = source;
    }
    texts.join(": ")
}

fn replaced(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = DESCRIPTION.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|w| w == from.as_bytes()) {
        bytes[at + found..][..to.len()].copy_from_slice(to.as_bytes());
        at += found + to.len();
    }
    assert!(at > 0, "{from} is in the description");
    checkpoint(&bytes)
}

#[test]
fn a_file_of_no_known_kind() {
    assert!(said(b"GIF89a").contains("neither safetensors"), "{}", said(b"GIF89a"));
    assert!(said(b"").contains("neither safetensors"));
    assert!(said(b"\x80\x02\x8a\x0al\xfc").contains("before version 1.6"));
}

#[test]
fn an_archive_cut_short_or_without_a_description() {
    let whole = checkpoint(DESCRIPTION);
    assert!(said(&whole[..whole.len() / 2]).contains("archive cannot be read"));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("other/thing", SimpleFileOptions::default()).expect("a new entry");
    assert!(said(zip.finish().expect("it ends").get_ref()).contains("data.pkl"));
}

#[test]
fn a_description_cut_short() {
    assert!(said(&checkpoint(&DESCRIPTION[..5000])).contains("ends in the middle"));
}

#[test]
fn a_tensor_of_a_kind_that_is_not_read() {
    assert!(said(&replaced("torch\nHalfStorage", "torch\nCharStorage")).contains("torch.CharStorage"));
}

#[test]
fn a_tensor_made_in_a_way_that_is_not_known() {
    let text = said(&replaced("torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_sparse_xx"));
    assert!(text.contains("_rebuild_sparse_xx") || text.contains("parameter"), "{text}");
}

#[test]
fn a_network_of_another_kind() {
    // The head of another generation lies elsewhere.
    let text = said(&replaced("cv3", "cv9"));
    assert!(text.contains("YOLOv8") && text.contains("model.0"), "{text}");
}

#[test]
fn onnx_files_of_other_networks_and_damaged_ones() {
    let weights = read();
    let about = About { names: NAMES.map(str::to_owned).to_vec(), version: "1".into(), licence: None };
    let options = Options { height: 64, width: 64, ..Options::default() };
    let file = export::export(SPEC, &weights.state, &about, &options, &[]).expect("it is exported").bytes;
    assert!(said(&file[..file.len() - 40_000]).contains("ONNX"));
    let change = |from: &str, to: &str| {
        let mut bytes = file.clone();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("it is in the file");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        said(&bytes)
    };
    let text = change("MaxPool", "AvgPool");
    assert!(text.contains("not that of YOLOv8"), "{text}");
    // A value that nothing makes.
    let text = change("model.5/Mul", "model.7/Mul");
    assert!(text.contains("not that of YOLOv8") || text.contains("nothing makes"), "{text}");
}

#[test]
fn no_truncation_of_a_file_panics() {
    let file = checkpoint(DESCRIPTION);
    for n in (0..400).map(|i| i * file.len() / 400) {
        assert!(weights::read(&file[..n]).is_err());
    }
    let noise: Vec<u8> = numbers("noise", 4096).into_iter().map(|x| (x * 127.0) as i8 as u8).collect();
    for n in 1..200 {
        let mut bytes = DESCRIPTION.to_vec();
        for k in 0..8 {
            let at = (n * 7919 + k * 104_729) % bytes.len();
            bytes[at] ^= noise[(n * 8 + k) % noise.len()] | 1;
        }
        // Whatever comes out, it comes out as a result.
        drop(vision::yolov8::weights::pickle::Pickle::read(&bytes));
    }
}
