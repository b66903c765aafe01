//! ONNX as data: the messages of the format that networks of this kind use, and how numbers lie in its tensors.
//!
//! Written by hand from the published `onnx.proto3` (ONNX 1.x; field numbers never change), so that no compiler of
//! protocol buffers is needed. Owns the file format. Refuses to know what a graph computes.

use crate::yolov8::state::Number;
use half::f16;
use prost::Message;

/// Element types of tensors (`TensorProto.DataType`).
pub mod kind {
    /// 32-bit floats.
    pub const FLOAT: i32 = 1;
    /// Bytes without sign.
    pub const UINT8: i32 = 2;
    /// Bytes with sign.
    pub const INT8: i32 = 3;
    /// 32-bit whole numbers.
    pub const INT32: i32 = 6;
    /// 64-bit whole numbers.
    pub const INT64: i32 = 7;
    /// Truth values.
    pub const BOOL: i32 = 9;
    /// 16-bit floats.
    pub const FLOAT16: i32 = 10;
    /// 64-bit floats.
    pub const DOUBLE: i32 = 11;
    /// 16-bit floats with 8 bits of exponent.
    pub const BFLOAT16: i32 = 16;
}

/// A model file.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Model {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<Entry>,
}

/// Version of a set of operators.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct OperatorSet {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A text under a key.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// What is computed from what.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// One operation.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// A setting of an operation.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// `AttributeProto.AttributeType`: 1 float, 2 int, 3 string, 4 tensor, 6 floats, 7 ints.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// Numbers with a shape.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// 1 when the numbers lie in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// Name and type of an input or output.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct ValueInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// A type; only tensors are known here.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Type {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// Element type and shape.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dim>,
}

/// A size: a number, or a name for any number.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub struct Dim {
    #[prost(oneof = "DimValue", tags = "1, 2")]
    pub value: Option<DimValue>,
}

/// A size: a number, or a name for any number.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub enum DimValue {
    #[prost(int64, tag = "1")]
    Value(i64),
    #[prost(string, tag = "2")]
    Param(String),
}

impl Attribute {
    /// A whole number.
    pub fn int(name: &str, i: i64) -> Self {
        Self { name: name.into(), i, kind: 2, ..Self::default() }
    }

    /// A list of whole numbers.
    pub fn ints(name: &str, ints: &[i64]) -> Self {
        Self { name: name.into(), ints: ints.to_vec(), kind: 7, ..Self::default() }
    }

    /// A text.
    pub fn text(name: &str, s: &str) -> Self {
        Self { name: name.into(), s: s.into(), kind: 3, ..Self::default() }
    }
}

impl Node {
    /// The attribute of a name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|a| a.name == name)
    }

    /// A whole number among the attributes.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i)
    }

    /// A list of whole numbers among the attributes; empty when it is not there.
    pub fn ints(&self, name: &str) -> &[i64] {
        self.attribute(name).map_or(&[], |a| &a.ints)
    }
}

impl TensorProto {
    fn raw(name: &str, dims: &[usize], data_type: i32, raw_data: Vec<u8>) -> Self {
        let dims = dims.iter().map(|&d| d as i64).collect();
        Self { name: name.into(), dims, data_type, raw_data, ..Self::default() }
    }

    /// 32-bit floats.
    pub fn floats(name: &str, dims: &[usize], data: &[f32]) -> Self {
        Self::raw(name, dims, kind::FLOAT, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// 16-bit floats, rounded to the nearest and kept within their range.
    pub fn halves(name: &str, dims: &[usize], data: &[f32]) -> Self {
        let half = |x: f32| f16::from_f32(x.clamp(-65504.0, 65504.0));
        Self::raw(name, dims, kind::FLOAT16, data.iter().flat_map(|&x| half(x).to_le_bytes()).collect())
    }

    /// 64-bit whole numbers.
    pub fn ints(name: &str, dims: &[usize], data: &[i64]) -> Self {
        Self::raw(name, dims, kind::INT64, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// 32-bit whole numbers.
    pub fn ints32(name: &str, dims: &[usize], data: &[i32]) -> Self {
        Self::raw(name, dims, kind::INT32, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// Bytes with sign.
    pub fn bytes(name: &str, dims: &[usize], data: &[i8]) -> Self {
        Self::raw(name, dims, kind::INT8, data.iter().map(|&x| x as u8).collect())
    }

    /// A byte without sign.
    pub fn byte(name: &str, value: u8) -> Self {
        Self::raw(name, &[], kind::UINT8, vec![value])
    }

    /// The sizes; none when one is negative.
    pub fn shape(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(|&d| usize::try_from(d).ok()).collect()
    }

    /// The numbers as 32-bit floats, whatever floats they are; none when they are others, lie elsewhere, or do not fit
    /// the shape.
    pub fn to_floats(&self) -> Option<Vec<f32>> {
        let len: usize = self.shape()?.iter().product();
        let from_halves = |list: &[i32]| list.iter().map(|&x| f16::from_bits(x as u16).to_f32()).collect();
        let data: Vec<f32> = match self.data_type {
            kind::FLOAT if self.raw_data.is_empty() => self.float_data.clone(),
            kind::FLOAT => Number::F32.read(&self.raw_data),
            kind::FLOAT16 if self.raw_data.is_empty() => from_halves(&self.int32_data),
            kind::FLOAT16 => Number::F16.read(&self.raw_data),
            kind::BFLOAT16 => Number::Bf16.read(&self.raw_data),
            kind::DOUBLE if self.raw_data.is_empty() => self.double_data.iter().map(|&x| x as f32).collect(),
            kind::DOUBLE => Number::F64.read(&self.raw_data),
            _ => return None,
        };
        (data.len() == len && self.data_location == 0).then_some(data)
    }

    /// The numbers as whole numbers; none when they are others or do not fit the shape.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        let len: usize = self.shape()?.iter().product();
        let data: Vec<i64> = match self.data_type {
            kind::INT64 if self.raw_data.is_empty() => self.int64_data.clone(),
            kind::INT64 => self.raw_data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
            _ if self.raw_data.is_empty() => self.int32_data.iter().map(|&x| x.into()).collect(),
            kind::INT32 => self.raw_data.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
            kind::INT8 => self.raw_data.iter().map(|&b| (b as i8).into()).collect(),
            kind::UINT8 | kind::BOOL => self.raw_data.iter().map(|&b| b.into()).collect(),
            _ => return None,
        };
        (data.len() == len && self.data_location == 0).then_some(data)
    }
}
