//! Named tensors and their file: safetensors, written as 32-bit floats, read as 16, 32 or 64-bit ones. Owns names, shapes
//! and the file; refuses to know what a tensor means.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Why a state could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("weights file `{path}`")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not a safetensors file.
    #[error(
        "weights are not valid safetensors data (expected a file written by this program or a converted checkpoint)"
    )]
    Format(#[from] safetensors::SafeTensorError),
    /// Numbers of another kind.
    #[error("tensor `{name}` holds {found}; 16, 32 and 64-bit floats are read: convert the file")]
    NumberType {
        /// Key.
        name: String,
        /// Kind found.
        found: String,
    },
    /// The keys do not fit the network.
    #[error("weights do not fit the network: {}", list(.missing, .unused, .shapes))]
    Keys {
        /// Keys that the network needs.
        missing: Vec<String>,
        /// Keys that the network does not know.
        unused: Vec<String>,
        /// Keys whose shape differs, with both shapes.
        shapes: Vec<String>,
    },
}

fn list(missing: &[String], unused: &[String], shapes: &[String]) -> String {
    let groups = [("missing", missing), ("not used", unused), ("of another shape", shapes)];
    let texts = groups.iter().filter(|(_, keys)| !keys.is_empty());
    texts.map(|(what, keys)| format!("{} {what}: {}", keys.len(), keys.join(", "))).collect::<Vec<_>>().join("; ")
}

/// How a number lies in a file, low byte first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    F32,
    F16,
    Bf16,
    F64,
    /// Counters, which public checkpoints have beside the weights.
    I64,
}

impl Number {
    /// The numbers in these bytes as 32-bit floats; bytes left over at the end are no number.
    pub(crate) fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            Self::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Self::I64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f32).collect(),
        }
    }
}

/// Numbers with a shape, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many numbers as the product of the shape.
    pub data: Vec<f32>,
}

/// Named tensors with free text beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// By public key.
    pub tensors: BTreeMap<String, Tensor>,
    /// For example the spec, class names and picture size, each a JSON string.
    pub metadata: BTreeMap<String, String>,
}

impl State {
    /// The bytes of a safetensors file; the same state gives the same bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        self.written(Dtype::F32, |data| bytemuck::cast_slice(data).to_vec())
    }

    /// The bytes of a safetensors file with 16-bit floats: half as long, each number rounded to 11 bits.
    pub fn to_half_bytes(&self) -> Result<Vec<u8>, StateError> {
        self.written(Dtype::F16, |data| data.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect())
    }

    fn written(&self, dtype: Dtype, bytes: impl Fn(&[f32]) -> Vec<u8>) -> Result<Vec<u8>, StateError> {
        let stored: BTreeMap<&String, Vec<u8>> = self.tensors.iter().map(|(n, t)| (n, bytes(&t.data))).collect();
        let view = |(name, tensor): (&String, &Tensor)| {
            Ok((name.clone(), TensorView::new(dtype, tensor.shape.clone(), &stored[name])?))
        };
        let views: Vec<_> = self.tensors.iter().map(view).collect::<Result<_, StateError>>()?;
        // The library takes its metadata as a hash map, whose order would reach the file: one entry keeps it fixed.
        let metadata = serde_json::to_string(&self.metadata).expect("a map of strings is valid JSON");
        let metadata = HashMap::from([(METADATA.to_owned(), metadata)]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// Reads the bytes of a safetensors file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let mut metadata: BTreeMap<String, String> =
            header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        if let Some(text) = metadata.remove(METADATA) {
            match serde_json::from_str::<BTreeMap<String, String>>(&text) {
                Ok(entries) => metadata.extend(entries),
                Err(_) => drop(metadata.insert(METADATA.to_owned(), text)),
            }
        }
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            let number = match view.dtype() {
                Dtype::F32 => Number::F32,
                Dtype::F16 => Number::F16,
                Dtype::BF16 => Number::Bf16,
                Dtype::F64 => Number::F64,
                Dtype::I64 => Number::I64,
                other => {
                    return Err(StateError::NumberType { name: name.to_owned(), found: format!("{other:?}") });
                }
            };
            let data = number.read(view.data());
            tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), data });
        }
        Ok(Self { tensors, metadata })
    }

    /// Writes a safetensors file in place (callers that need atomic replacement write the bytes themselves).
    pub fn save(&self, path: &Path) -> Result<(), StateError> {
        let file = |source| StateError::File { path: path.display().to_string(), source };
        std::fs::write(path, self.to_bytes()?).map_err(file)
    }

    /// Reads a safetensors file.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let file = |source| StateError::File { path: path.display().to_string(), source };
        Self::from_bytes(&std::fs::read(path).map_err(file)?)
    }

    /// Checks that exactly these keys with these shapes are there; `optional` says which further keys may be.
    pub fn check(
        &self,
        expected: &BTreeMap<String, Vec<usize>>,
        optional: impl Fn(&str) -> bool,
    ) -> Result<(), StateError> {
        let missing: Vec<_> = expected.keys().filter(|&name| !self.tensors.contains_key(name)).cloned().collect();
        let unused = self.tensors.keys().filter(|&name| !expected.contains_key(name) && !optional(name)).cloned();
        let unused: Vec<_> = unused.collect();
        let differs = |(name, shape): (&String, &Vec<usize>)| {
            let found = &self.tensors.get(name)?.shape;
            (found != shape).then(|| format!("{name} is {found:?}, needed {shape:?}"))
        };
        let shapes: Vec<_> = expected.iter().filter_map(differs).collect();
        if missing.is_empty() && unused.is_empty() && shapes.is_empty() {
            Ok(())
        } else {
            Err(StateError::Keys { missing, unused, shapes })
        }
    }
}

/// The header entry that holds all metadata.
const METADATA: &str = "metadata";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        let tensor = |shape: &[usize], start: f32| Tensor {
            shape: shape.to_vec(),
            data: (0..shape.iter().product()).map(|i: usize| start + i as f32).collect(),
        };
        State {
            tensors: BTreeMap::from([("b".into(), tensor(&[2, 3], -1.5)), ("a".into(), tensor(&[4], 0.25))]),
            metadata: BTreeMap::from([("names".into(), "[\"gate valve\"]".into()), ("imgsz".into(), "320".into())]),
        }
    }

    #[test]
    fn round_trip() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(State::from_bytes(&bytes).unwrap(), sample());
        assert_eq!(sample().to_bytes().unwrap(), bytes);
    }

    #[test]
    fn half_as_long_and_nearly_the_same() {
        let (short, long) = (sample().to_half_bytes().unwrap(), sample().to_bytes().unwrap());
        assert_eq!(long.len() - short.len(), 2 * 10);
        assert_eq!(State::from_bytes(&short).unwrap(), sample(), "these numbers have few digits");
    }

    #[test]
    fn check_lists_every_key() {
        let expected = BTreeMap::from([("a".to_owned(), vec![5]), ("c".to_owned(), vec![1])]);
        let text = sample().check(&expected, |_| false).unwrap_err().to_string();
        for part in ["1 missing: c", "1 not used: b", "a is [4], needed [5]"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(sample().check(&BTreeMap::from([("a".to_owned(), vec![4])]), |name| name == "b").is_ok());
    }

    #[test]
    fn damaged_file_is_an_error() {
        let bytes = sample().to_bytes().unwrap();
        assert!(State::from_bytes(&bytes[..bytes.len() - 3]).is_err());
        assert!(State::from_bytes(b"PK").is_err());
    }
}
