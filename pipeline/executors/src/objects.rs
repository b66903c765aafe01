//! Objects under paths, in a folder or at S3, GCS or Azure, asked without async.
//!
//! Owns the five requests that the protocol of remote work is built from, and their retries. Refuses to own what the
//! objects mean. Paths are relative, with `/` between parts.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use engine::run::with_causes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{
    ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, PutMode, PutOptions, PutPayload, RetryConfig,
    local::LocalFileSystem, path, prefix::PrefixStore,
};
use url::Url;

use crate::credentials::{self, CredentialsError};

/// Objects of more bytes travel in ranges of this length, so that a connection that breaks costs one range.
const RANGE: u64 = 16 << 20;
/// Tries of a range or a list, beside those of the library for a request.
const TRIES: u32 = 4;

/// Why the store could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// It did not answer, or cut a transfer off; the same request may succeed later.
    #[error("the store {store} did not answer while {action} `{path}`: {message}")]
    Unreachable {
        /// Which store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// Its words.
        message: String,
    },
    /// It will not do it however often it is asked.
    #[error("the store {store} refused {action} `{path}`: {message}")]
    Refused {
        /// Which store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// Its words.
        message: String,
    },
    /// Nobody there would let us in.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address says no store that can be used.
    #[error("`{url}` is no store: {message}; write a folder, or s3://BUCKET/PREFIX, gs://…, az://…")]
    Address {
        /// As it was written.
        url: String,
        /// What is wrong.
        message: String,
    },
}

/// A store of objects. Every request may be repeated. An object is there whole or not at all.
pub trait Objects: Send + Sync + fmt::Debug {
    /// Writes an object, over an old one if there is one.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), ObjectsError>;
    /// Writes an object unless there is one; false when there was. Of several who try at once, one is told true.
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, ObjectsError>;
    /// The bytes of an object; `None` when there is none.
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectsError>;
    /// True when there is an object.
    fn has(&self, path: &str) -> Result<bool, ObjectsError>;
    /// Paths of all objects below a folder, sorted.
    fn list(&self, folder: &str) -> Result<Vec<String>, ObjectsError>;
    /// Removes an object, if it is there.
    fn delete(&self, path: &str) -> Result<(), ObjectsError>;
}

/// A folder, or a bucket at S3, GCS or Azure.
pub struct Remote {
    store: Arc<dyn ObjectStore>,
    /// Address without anything secret.
    shown: String,
    runtime: tokio::runtime::Runtime,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.shown)
    }
}

impl Remote {
    /// Opens the store at a folder's path or a URL. `options` are the variables of the environment. S3 takes those that
    /// begin with `AWS_` and the files of AWS, Google's store `GOOGLE_…`, Azure's `AZURE_…`; others are passed over.
    pub fn open(address: &str, options: &[(String, String)]) -> Result<Self, ObjectsError> {
        static CRYPTOGRAPHY: OnceLock<()> = OnceLock::new();
        CRYPTOGRAPHY.get_or_init(|| {
            // An error says that another one was chosen already, which serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let wrong = |message: String| ObjectsError::Address { url: address.to_owned(), message };
        let folder = match Url::parse(address) {
            Ok(url) if url.scheme() == "file" => {
                Some(url.to_file_path().map_err(|()| wrong("it names no path of this machine".into()))?)
            }
            Ok(url) if url.scheme().len() > 1 => None,
            // Neither a plain path nor `C:\…` is a URL.
            _ => Some(address.into()),
        };
        let (store, shown): (Arc<dyn ObjectStore>, String) = if let Some(folder) = folder {
            (Arc::new(local(&folder).map_err(wrong)?), folder.display().to_string())
        } else {
            let url = Url::parse(address).map_err(|e| wrong(e.to_string()))?;
            if url.password().is_some() || !url.username().is_empty() || url.query().is_some() {
                // Addresses are told to workers and written down, so nothing secret may be in one.
                let message = "it has a user, a password or a query in it; keys belong into the environment";
                return Err(ObjectsError::Address { url: format!("{}://…", url.scheme()), message: message.into() });
            }
            let (store, prefix) = cloud(&url, options)?.map_err(|e| wrong(with_causes(&e)))?;
            let shown = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
            (Arc::new(PrefixStore::new(store, prefix)), shown)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(|e| wrong(format!("no threads could be started: {e}")))?;
        Ok(Self { store, shown, runtime })
    }

    fn error(&self, action: &'static str, path: &str, e: &object_store::Error) -> ObjectsError {
        use object_store::Error as E;
        let (store, path, message) = (self.shown.clone(), path.to_owned(), with_causes(e));
        match e {
            E::Generic { .. } | E::JoinError { .. } | E::NotFound { .. } => {
                ObjectsError::Unreachable { store, action, path, message }
            }
            _ => ObjectsError::Refused { store, action, path, message },
        }
    }

    fn range(&self, path: &path::Path, from: u64, to: u64) -> Result<bytes::Bytes, object_store::Error> {
        let mut tried = 0;
        loop {
            match self.runtime.block_on(self.store.get_range(path, from..to)) {
                Err(object_store::Error::Generic { .. }) if tried + 1 < TRIES => {
                    tried += 1;
                    std::thread::sleep(Duration::from_millis(200 << tried));
                }
                other => return other,
            }
        }
    }
}

/// A folder as a store; made when it is not there.
fn local(folder: &Path) -> Result<LocalFileSystem, String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("the folder cannot be made: {e}"))?;
    LocalFileSystem::new_with_prefix(folder).map_err(|e| with_causes(&e))
}

type Opened = Result<(Box<dyn ObjectStore>, path::Path), object_store::Error>;

fn cloud(url: &Url, variables: &credentials::Variables) -> Result<Opened, CredentialsError> {
    let at_amazon = matches!(ObjectStoreScheme::parse(url), Ok((ObjectStoreScheme::AmazonS3, _)));
    let options = if at_amazon { credentials::aws(variables)? } else { variables.to_vec() };
    Ok(open(url, &options))
}

fn open(url: &Url, options: &credentials::Variables) -> Opened {
    use ObjectStoreScheme as S;
    use object_store::{aws, azure, gcp};
    let retry = RetryConfig { max_retries: 6, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
    let scheme = ObjectStoreScheme::parse(url).map_err(object_store::Error::from)?;
    macro_rules! build {
        ($builder:ty, $key:ty, $prefix:literal) => {{
            let new = <$builder>::default().with_url(url.to_string()).with_retry(retry);
            let own = options.iter().filter(|(k, _)| k.starts_with($prefix));
            let known = own.filter_map(|(k, v)| Some((k.to_ascii_lowercase().parse::<$key>().ok()?, v)));
            Box::new(known.fold(new, |b, (k, v)| b.with_config(k, v)).build()?) as Box<dyn ObjectStore>
        }};
    }
    let store = match scheme.0 {
        S::AmazonS3 => build!(aws::AmazonS3Builder, aws::AmazonS3ConfigKey, "AWS_"),
        S::GoogleCloudStorage => build!(gcp::GoogleCloudStorageBuilder, gcp::GoogleConfigKey, "GOOGLE_"),
        S::MicrosoftAzure => build!(azure::MicrosoftAzureBuilder, azure::AzureConfigKey, "AZURE_"),
        other => {
            return Err(object_store::Error::Generic {
                store: "store",
                source: format!("{other:?} is no kind of store that can hold results").into(),
            });
        }
    };
    Ok((store, scheme.1))
}

impl Objects for Remote {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), ObjectsError> {
        let at = path::Path::from(path);
        let failed = |e| self.error("writing", path, &e);
        if bytes.len() as u64 <= RANGE {
            let payload = PutPayload::from(bytes.to_vec());
            return self.runtime.block_on(self.store.put(&at, payload)).map(drop).map_err(failed);
        }
        let sent = async {
            let mut upload = self.store.put_multipart(&at).await?;
            for part in bytes.chunks(RANGE as usize) {
                if let Err(e) = upload.put_part(PutPayload::from(part.to_vec())).await {
                    // What was sent is thrown away there; when even this fails, the bucket's own rules clean up.
                    let _ = upload.abort().await;
                    return Err(e);
                }
            }
            upload.complete().await.map(drop)
        };
        self.runtime.block_on(sent).map_err(failed)
    }

    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, ObjectsError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let at = path::Path::from(path);
        let put = self.store.put_opts(&at, PutPayload::from(bytes.to_vec()), options);
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            // When an answer is lost, the second try of the same request meets the object of the first.
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(self.get(path)?.is_some_and(|there| there == bytes))
            }
            Err(e) => Err(self.error("creating", path, &e)),
        }
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectsError> {
        let at = path::Path::from(path);
        let begun = self.runtime.block_on(async {
            let answer = self.store.get(&at).await?;
            // What is small comes with the first answer; of the rest only the size is wanted here.
            let size = answer.meta.size;
            Ok((size, if size <= RANGE { answer.bytes().await.ok() } else { None }))
        });
        let size = match begun {
            Ok((size, Some(bytes))) if bytes.len() as u64 == size => return Ok(Some(bytes.to_vec())),
            Ok((size, _)) => size,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(self.error("reading", path, &e)),
        };
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let from = bytes.len() as u64;
            match self.range(&at, from, (from + RANGE).min(size)) {
                Ok(part) if !part.is_empty() => bytes.extend_from_slice(&part),
                Ok(_) => {
                    let message = format!("it ends after {from} of {size} bytes");
                    let (store, path) = (self.shown.clone(), path.to_owned());
                    return Err(ObjectsError::Unreachable { store, action: "reading", path, message });
                }
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(self.error("reading", path, &e)),
            }
        }
        Ok(Some(bytes))
    }

    fn has(&self, path: &str) -> Result<bool, ObjectsError> {
        match self.runtime.block_on(self.store.head(&path::Path::from(path))) {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.error("looking at", path, &e)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, ObjectsError> {
        let at = path::Path::from(folder);
        let mut tried = 0;
        let mut found = loop {
            let found = self.store.list(Some(&at)).map(|m| m.map(|m| m.location.to_string())).try_collect::<Vec<_>>();
            match self.runtime.block_on(found) {
                // The library tries requests again, and not an answer that breaks off.
                Err(object_store::Error::Generic { .. }) if tried + 1 < TRIES => {
                    tried += 1;
                    std::thread::sleep(Duration::from_millis(200 << tried));
                }
                other => break other.map_err(|e| self.error("listing", folder, &e))?,
            }
        };
        found.sort();
        Ok(found)
    }

    fn delete(&self, path: &str) -> Result<(), ObjectsError> {
        match self.runtime.block_on(self.store.delete(&path::Path::from(path))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("removing", path, &e)),
        }
    }
}
