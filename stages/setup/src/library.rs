//! Libraries that models may run on: found, loaded and asked for their version. Stages of this version run on their
//! own engines and need none of them.

use std::ffi::{CStr, c_char, c_void};

use libloading::Library as Loaded;
use serde::{Deserialize, Serialize};

/// A library.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Library {
    /// Name, such as `ONNX Runtime`.
    pub name: String,
    /// Its version; `not found` when it is not there, `?` when it does not say.
    pub version: String,
    /// What was done to find out.
    pub note: String,
}

/// Looks for all of them.
pub fn probe() -> Vec<Library> {
    vec![onnx_runtime(), libtorch()]
}

#[expect(unsafe_code, reason = "loading a shared library runs its initialisers")]
fn load(names: &[&str]) -> Result<(Loaded, String), String> {
    let mut last = String::new();
    for name in names {
        // SAFETY: these libraries are made to be loaded this way; their initialisers are the price of asking them.
        match unsafe { Loaded::new(*name) } {
            Ok(library) => return Ok((library, (*name).to_owned())),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

fn missing(name: &str, why: &str) -> Library {
    Library { name: name.into(), version: "not found".into(), note: format!("not needed by this version ({why})") }
}

/// The head of ONNX Runtime's table of functions.
#[repr(C)]
struct OrtApiBase {
    get_api: unsafe extern "C" fn(u32) -> *const c_void,
    get_version_string: unsafe extern "C" fn() -> *const c_char,
}

#[expect(unsafe_code, reason = "the library is asked through its C interface")]
fn onnx_runtime() -> Library {
    const NAME: &str = "ONNX Runtime";
    let (library, file) =
        match load(&["libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib", "onnxruntime.dll"]) {
            Ok(found) => found,
            Err(why) => return missing(NAME, &why),
        };
    // SAFETY: OrtGetApiBase is the documented entry point, stable since version 1.0; it returns a static table.
    let version = unsafe {
        library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0").ok().and_then(|base| {
            let base = base().as_ref()?;
            let text = (base.get_version_string)();
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        })
    };
    Library { name: NAME.into(), version: version.unwrap_or_else(|| "?".into()), note: format!("{file} loads") }
}

fn libtorch() -> Library {
    const NAME: &str = "LibTorch";
    match load(&["libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"]) {
        Ok((_, file)) => Library { name: NAME.into(), version: "?".into(), note: format!("{file} loads") },
        Err(why) => missing(NAME, &why),
    }
}
