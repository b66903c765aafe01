//! A `.pt` file that Ultralytics described, made again, and what PyTorch computes from it (see `golden.py`).

use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
};

use half::f16;
use serde::Deserialize;
use vision::yolov8::{Size, Spec};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::formula::{summary, values};

/// The network of the file.
pub const SPEC: Spec = Spec { size: Size::N, classes: 3 };
/// Side of the picture in pixels.
pub const HEIGHT: usize = 64;
/// Side of the picture in pixels.
pub const WIDTH: usize = 96;
/// The file's description of itself.
pub const DESCRIPTION: &[u8] = include_bytes!("data.pkl");
/// Relative to the norm of what a layer makes; the reference has 64 bits.
const TOLERANCE: f64 = 1e-4;

/// What the script wrote down.
#[derive(Deserialize)]
pub struct Golden {
    /// Name of the tensor in a storage, or the length of one that is all zeros.
    storages: BTreeMap<String, serde_json::Value>,
    /// Norm and projection of what each layer makes.
    pub layers: BTreeMap<String, [f64; 2]>,
}

/// What the script wrote down.
pub fn golden() -> Golden {
    serde_json::from_str(include_str!("golden.json")).expect("the fixture is JSON")
}

/// The file that the script threw away, made again from its description and the formula.
pub fn checkpoint(description: &[u8]) -> Vec<u8> {
    let shapes = SPEC.shapes();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut put = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("golden/{name}"), SimpleFileOptions::default()).expect("a new entry");
        zip.write_all(bytes).expect("memory takes it");
    };
    put("data.pkl", description);
    put("byteorder", b"little");
    for (key, held) in golden().storages {
        let bytes: Vec<u8> = match held.as_str() {
            None => vec![0; held.as_u64().expect("a length") as usize],
            Some(name) if name.contains("dfl") => (0..16).flat_map(|i| f16::from_f32(i as f32).to_le_bytes()).collect(),
            Some(name) => values(name, &shapes[name]).iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        };
        put(&format!("data/{key}"), &bytes);
    }
    zip.finish().expect("the end is written").into_inner()
}

impl Golden {
    /// Fails unless a layer's numbers, `[channels][cells]`, are those of PyTorch.
    pub fn compare(&self, name: &str, planes: impl IntoIterator<Item = f32>) {
        let [norm, projection] = self.layers[name];
        for (found, expected) in summary(name, planes).into_iter().zip([norm, projection]) {
            let error = (found - expected).abs() / norm;
            assert!(error < TOLERANCE, "{name}: {found} against {expected}, {error:e} of the norm");
        }
    }
}
