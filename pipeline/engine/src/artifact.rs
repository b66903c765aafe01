//! Artifacts: typed manifests that name blobs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    digest::{Digest, canonical_json},
    store::{Store, StoreError},
};

/// Bytes with a name, known by their digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Path inside the artifact, with `/` between parts; unique.
    #[serde(rename = "n")]
    pub name: String,
    /// BLAKE3 of the bytes.
    #[serde(rename = "d")]
    pub digest: Digest,
    /// Length in bytes.
    #[serde(rename = "s")]
    pub size: u64,
}

/// An artifact: what it is, what is said about it, and the blobs it is made of. The artifact's digest is the digest
/// of its manifest in canonical JSON, so it covers every byte below it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Kind, such as `images` or `annotations`; ports accept one kind.
    pub kind: String,
    /// Version of the layout of this kind.
    pub format: u32,
    /// Small facts about the content.
    #[serde(default)]
    pub meta: Value,
    /// The blobs, sorted by name.
    pub blobs: Vec<Blob>,
}

impl Manifest {
    /// A manifest with its blobs put in order.
    pub fn new(kind: impl Into<String>, format: u32, meta: Value, mut blobs: Vec<Blob>) -> Self {
        if !blobs.is_sorted_by(|a, b| a.name <= b.name) {
            blobs.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Self { kind: kind.into(), format, meta, blobs }
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Written field by field: a manifest of 100,000 images is serialised on every run, and going through a JSON
        // tree would cost ten times the memory. The order of the keys is the canonical one.
        let mut out = br#"{"blobs":["#.to_vec();
        for (i, b) in self.blobs.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"d":""#);
            out.extend_from_slice(blake3::Hash::from_bytes(*b.digest.as_bytes()).to_hex().as_bytes());
            out.extend_from_slice(br#"","n":"#);
            serde_json::to_writer(&mut out, &b.name).expect("writing JSON to memory cannot fail");
            out.extend_from_slice(br#","s":"#);
            out.extend_from_slice(b.size.to_string().as_bytes());
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"format\":");
        out.extend_from_slice(self.format.to_string().as_bytes());
        out.extend_from_slice(b",\"kind\":");
        out.extend_from_slice(&canonical_json(&self.kind));
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(&canonical_json(&self.meta));
        out.push(b'}');
        out
    }

    /// The artifact's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// The blob of a name.
    pub fn blob(&self, name: &str) -> Option<&Blob> {
        self.blobs.binary_search_by(|b| b.name.as_str().cmp(name)).ok().map(|i| &self.blobs[i])
    }

    /// Sum of the blobs' sizes in bytes.
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|b| b.size).sum()
    }
}

/// A kind of artifact: how a value of the program becomes blobs, and back. Implemented by marker types.
pub trait Kind {
    /// Name on the ports, such as `annotations`.
    const NAME: &'static str;
    /// Version of the layout; raised when the bytes change.
    const FORMAT: u32;
    /// What a stage works with.
    type Value;
    /// Adds the blobs of `value` to `writer`; the result is the manifest's `meta`.
    fn write(value: &Self::Value, writer: &mut ArtifactWriter<'_>) -> Result<Value, StoreError>;
    /// Reads the value back.
    fn read(reader: &ArtifactReader<'_>) -> Result<Self::Value, StoreError>;
}

/// Collects the blobs of an artifact that is being made.
pub struct ArtifactWriter<'a> {
    store: &'a Store,
    blobs: BTreeMap<String, Blob>,
}

impl<'a> ArtifactWriter<'a> {
    /// An artifact without blobs yet.
    pub fn new(store: &'a Store) -> Self {
        Self { store, blobs: BTreeMap::new() }
    }

    /// Stores `bytes` as blob `name`. A second blob of a name replaces the first.
    pub fn put(&mut self, name: impl Into<String>, bytes: &[u8]) -> Result<(), StoreError> {
        let name = name.into();
        let digest = self.store.put(bytes)?;
        self.blobs.insert(name.clone(), Blob { name, digest, size: bytes.len() as u64 });
        Ok(())
    }

    /// Names a blob that the store has already.
    pub fn link(&mut self, blob: Blob) {
        self.blobs.insert(blob.name.clone(), blob);
    }

    /// Stores the manifest; the result is the artifact's digest.
    pub fn finish(self, kind: &str, format: u32, meta: Value) -> Result<Digest, StoreError> {
        let manifest = Manifest::new(kind, format, meta, self.blobs.into_values().collect());
        self.store.put(&manifest.to_bytes())
    }
}

/// An artifact that is being read.
pub struct ArtifactReader<'a> {
    store: &'a Store,
    /// The artifact's digest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
}

impl<'a> ArtifactReader<'a> {
    /// Opens an artifact.
    pub fn open(store: &'a Store, digest: Digest) -> Result<Self, StoreError> {
        Ok(Self { store, digest, manifest: store.manifest(digest)? })
    }

    /// The bytes of blob `name`, verified.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let blob = self
            .manifest
            .blob(name)
            .ok_or_else(|| StoreError::NoSuchBlob { artifact: self.digest, name: name.to_owned() })?;
        self.store.read_blob(blob)
    }

    /// The value of JSON blob `name`.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        serde_json::from_slice(&self.get(name)?).map_err(|source| StoreError::Json {
            what: format!("blob `{name}` of {} artifact {}", self.manifest.kind, self.digest.short()),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_written_manifest_is_canonical_json() {
        let blob = |n: &str| Blob { name: n.into(), digest: Digest::of(n.as_bytes()), size: 3 };
        let m = Manifest::new("images", 1, serde_json::json!({"b": 1, "a": "x\"y"}), vec![blob("z é"), blob("a\"b")]);
        assert_eq!(m.to_bytes(), canonical_json(&m));
        assert_eq!(serde_json::from_slice::<Manifest>(&m.to_bytes()).unwrap(), m);
        assert!(m.blob("z é").is_some() && m.blob("q").is_none());
    }
}
