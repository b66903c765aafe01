//! PyTorch's `.pt` files: the tensors of a saved network or state, read without running what the file says to run.
//!
//! Owns the archive, the names under which tensors are built, and the tree of modules. Refuses to know the network.
//! The layout is that of `torch.save` since version 1.6: a zip archive with one pickle and one file a storage.

use super::pickle::{Id, Pickle, PickleError, Value};
use crate::yolov8::{Tensor, state::Number};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{Cursor, Read},
};
use zip::{ZipArchive, result::ZipError};

/// Why a `.pt` file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PtError {
    /// Not an archive, or a damaged one.
    #[error("the archive cannot be read: copy the file again, or save it anew with PyTorch 1.6 or newer")]
    Archive(#[from] ZipError),
    /// A file of the archive cannot be read.
    #[error("`{name}` in the archive cannot be read: copy the file again")]
    Entry {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The description of the objects is damaged.
    #[error("`data.pkl` in the archive")]
    Pickle(#[from] PickleError),
    /// The description does not say what was expected.
    #[error("{0}")]
    Content(String),
}

/// What a `.pt` file holds.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// By key, such as `model.0.conv.weight`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Class names, by index, if the network has them.
    pub names: Option<Vec<String>>,
    /// Picture size of its training, in pixels.
    pub imgsz: Option<u32>,
    /// What the file says of its licence.
    pub licence: Option<String>,
    /// The release of the program that wrote it.
    pub version: Option<String>,
    /// Whether its classes are Ultralytics'.
    pub ultralytics: bool,
}

/// Most modules inside each other; the network has six.
const DEPTH: usize = 32;
/// Modules, at most; the largest network has some hundreds.
const MODULES: usize = 10_000;
/// Numbers of all tensors together, at most; the largest network has 68 million.
const MOST: usize = 1 << 28;

struct File<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Folder in the archive, with its slash.
    prefix: String,
    pickle: Pickle,
    /// Storages that were read, as numbers.
    storages: BTreeMap<String, Vec<f32>>,
    /// Numbers that may still be read.
    left: usize,
    /// Modules that may still be looked at.
    modules: usize,
}

fn content<T>(text: impl Into<String>) -> Result<T, PtError> {
    Err(PtError::Content(text.into()))
}

fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Vec<u8>, PtError> {
    let mut file = archive.by_name(name)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| PtError::Entry { name: name.into(), source })?;
    Ok(bytes)
}

/// Reads a file.
pub fn read(bytes: &[u8]) -> Result<Checkpoint, PtError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    let Some(name) =
        archive.file_names().flatten().find(|n| n == "data.pkl" || n.ends_with("/data.pkl")).map(Cow::into_owned)
    else {
        return content("the archive has no `data.pkl`: it is no file of PyTorch, or TorchScript; save the network");
    };
    let prefix = name.trim_end_matches("data.pkl").to_owned();
    if let Ok(order) = entry(&mut archive, &format!("{prefix}byteorder"))
        && order != b"little"
    {
        return content("the numbers lie high byte first: save the file again on a usual machine");
    }
    let pickle = Pickle::read(&entry(&mut archive, &name)?)?;
    File { archive, prefix, pickle, storages: BTreeMap::new(), left: MOST, modules: MODULES }.checkpoint()
}

impl File<'_> {
    fn checkpoint(mut self) -> Result<Checkpoint, PtError> {
        let root = self.pickle.root;
        let text = |key| self.pickle.get(root, key).and_then(|id| self.pickle.str(id)).map(str::to_owned);
        let mut found = Checkpoint { licence: text("license"), version: text("version"), ..Checkpoint::default() };
        let is_module = |id: &Id| self.pickle.attribute(*id, "_modules").is_some();
        let is_state = |id: &Id| {
            self.pickle
                .entries(*id)
                .iter()
                .any(|(key, value)| self.pickle.str(*key).is_some() && self.is_tensor(*value))
        };
        // The averaged network is the one that is measured and used; it is absent in files made ready for use.
        let inner = ["ema", "model", "state_dict"].iter().filter_map(|key| self.pickle.get(root, key));
        let all: Vec<Id> = std::iter::once(root).chain(inner).collect();
        if let Some(&module) = all.iter().find(|id| is_module(id)) {
            found.names = self.names(module);
            found.ultralytics = self.is_theirs();
            let args = self.pickle.get(root, "train_args").or_else(|| self.pickle.attribute(module, "args"));
            let imgsz = args.and_then(|a| self.pickle.get(a, "imgsz")).and_then(|id| self.pickle.int(id));
            found.imgsz = imgsz.and_then(|n| u32::try_from(n).ok());
            let mut tensors = Vec::new();
            self.module(module, "", &mut tensors, 0)?;
            for (key, id) in tensors {
                if let Some(tensor) = self.tensor(id, &key)? {
                    found.tensors.insert(key, tensor);
                }
            }
        } else if let Some(&state) = all.iter().find(|id| is_state(id)) {
            let entries: Vec<(String, Id)> = self
                .pickle
                .entries(state)
                .iter()
                .filter_map(|(k, v)| Some((self.pickle.str(*k)?.to_owned(), *v)))
                .collect();
            for (key, id) in entries {
                if let Some(tensor) = self.tensor(id, &key)? {
                    found.tensors.insert(key, tensor);
                }
            }
        } else {
            return content("the file holds neither a network nor named tensors");
        }
        Ok(found)
    }

    /// Whether anything in the file is of a class of Ultralytics.
    fn is_theirs(&self) -> bool {
        self.pickle.values.iter().any(|v| matches!(v, Value::Name(name) if name.starts_with("ultralytics.")))
    }

    /// Names by index: a dictionary from 0 on, or a list.
    fn names(&self, module: Id) -> Option<Vec<String>> {
        let id = self.pickle.attribute(module, "names")?;
        if let Some(list) = self.pickle.list(id) {
            return list.iter().map(|&n| self.pickle.str(n).map(str::to_owned)).collect();
        }
        let by_index: BTreeMap<i64, &str> = self
            .pickle
            .entries(id)
            .iter()
            .filter_map(|(k, v)| Some((self.pickle.int(*k)?, self.pickle.str(*v)?)))
            .collect();
        let in_order = by_index.keys().enumerate().all(|(i, &k)| k == i as i64);
        (!by_index.is_empty() && in_order).then(|| by_index.into_values().map(str::to_owned).collect())
    }

    /// The tensors of a module and of those inside it.
    fn module(&mut self, id: Id, prefix: &str, out: &mut Vec<(String, Id)>, depth: usize) -> Result<(), PtError> {
        if depth > DEPTH || self.modules == 0 {
            return content(format!("it has more than {MODULES} modules, or {DEPTH} inside each other"));
        }
        self.modules -= 1;
        for group in ["_parameters", "_buffers"] {
            for (key, value) in self.pickle.attribute(id, group).map_or(&[][..], |g| self.pickle.entries(g)) {
                if let Some(key) = self.pickle.str(*key) {
                    out.push((format!("{prefix}{key}"), *value));
                }
            }
        }
        let inner = self.pickle.attribute(id, "_modules").map_or(&[][..], |g| self.pickle.entries(g));
        let inner: Vec<(String, Id)> =
            inner.iter().filter_map(|(key, value)| Some((self.pickle.str(*key)?.to_owned(), *value))).collect();
        for (key, value) in inner {
            self.module(value, &format!("{prefix}{key}."), out, depth + 1)?;
        }
        Ok(())
    }

    fn is_tensor(&self, id: Id) -> bool {
        self.pickle.called(id).is_some_and(|(name, _)| name.starts_with("torch._utils._rebuild"))
    }

    /// The numbers of a tensor or parameter; none for what is no tensor (an absent bias).
    fn tensor(&mut self, id: Id, key: &str) -> Result<Option<Tensor>, PtError> {
        let bad = |what: &str| PtError::Content(format!("tensor `{key}`: {what}"));
        let Some((name, args)) = self.pickle.called(id) else { return Ok(None) };
        let (name, args) = (name.to_owned(), args.to_vec());
        if name.starts_with("torch._utils._rebuild_parameter") {
            let inner = args.first().copied().filter(|&a| self.is_tensor(a) && a != id);
            let inner = inner.ok_or_else(|| bad("the parameter holds no tensor"))?;
            return match self.pickle.called(inner) {
                Some(("torch._utils._rebuild_tensor_v2", _)) => self.tensor(inner, key),
                _ => Err(bad("the parameter is of an unknown kind")),
            };
        }
        if name != "torch._utils._rebuild_tensor_v2" {
            let what = format!("it is made by `{name}`, and only plain tensors are read");
            return if name.starts_with("torch.") { Err(bad(&what)) } else { Ok(None) };
        }
        let sizes = |id: &Id| -> Option<Vec<usize>> {
            let list = self.pickle.list(*id)?;
            list.iter().map(|&n| usize::try_from(self.pickle.int(n)?).ok()).collect()
        };
        let [storage, offset, shape, strides, ..] = &args[..] else { return Err(bad("its description is short")) };
        let offset = self.pickle.int(*offset).and_then(|n| usize::try_from(n).ok());
        let (Some(offset), Some(shape), Some(strides)) = (offset, sizes(shape), sizes(strides)) else {
            return Err(bad("its sizes are no whole numbers"));
        };
        let len = shape.iter().try_fold(1_usize, |n, &s| n.checked_mul(s)).filter(|&n| n <= self.left);
        let len = len
            .filter(|_| shape.len() == strides.len())
            .ok_or_else(|| bad("its sizes make no sense, or it is larger than the largest network"))?;
        let storage = *storage;
        self.left -= len;
        let numbers = self.storage(storage, key)?;
        let mut data = Vec::with_capacity(len);
        let mut index = vec![0_usize; shape.len()];
        for _ in 0..len {
            let step = |(&i, &s): (&usize, &usize)| i.checked_mul(s);
            let at = index.iter().zip(&strides).map(step).try_fold(offset, |sum, n| sum.checked_add(n?));
            let number = at.and_then(|at| numbers.get(at)).ok_or_else(|| bad("it reaches beyond its storage"))?;
            data.push(*number);
            for (i, &s) in index.iter_mut().zip(&shape).rev() {
                *i += 1;
                if *i < s {
                    break;
                }
                *i = 0;
            }
        }
        Ok(Some(Tensor { shape, data }))
    }

    /// The numbers of a storage: `('storage', torch.FloatStorage, file, device, count)`.
    fn storage(&mut self, id: Id, key: &str) -> Result<&[f32], PtError> {
        let bad = |what: String| PtError::Content(format!("tensor `{key}`: {what}"));
        let Value::Persistent(id) = *self.pickle.value(id) else {
            return Err(bad("it has no storage in the archive".into()));
        };
        let parts = self.pickle.list(id).unwrap_or_default().to_vec();
        let text = |i: usize| parts.get(i).and_then(|&p| self.pickle.str(p)).map(str::to_owned);
        let (Some(kind), Some(file)) = (text(1), text(2)) else {
            return Err(bad("its storage is not described".into()));
        };
        let number = match kind.as_str() {
            "torch.FloatStorage" => Number::F32,
            "torch.HalfStorage" => Number::F16,
            "torch.BFloat16Storage" => Number::Bf16,
            "torch.DoubleStorage" => Number::F64,
            "torch.LongStorage" => Number::I64,
            other => return Err(bad(format!("it holds {other}; 16, 32 and 64-bit floats are read"))),
        };
        let name = format!("{}data/{file}", self.prefix);
        // One storage may be read as numbers of two kinds.
        let known = format!("{kind} {name}");
        if !self.storages.contains_key(&known) {
            let bytes = entry(&mut self.archive, &name)?;
            self.storages.insert(known.clone(), number.read(&bytes));
        }
        Ok(&self.storages[&known])
    }
}
