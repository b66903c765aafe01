//! Requests to a JSON interface, one at a time, for callers that wait.
//!
//! Owns deadlines, the token and telling silence from an answer. Refuses to own what an answer means. `reqwest` and its
//! runtime are here already for the object stores, with the same certificates and proxies.

use std::time::Duration;

use engine::run::with_causes;
use reqwest::{
    Client, Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::runtime::{Builder, Runtime};

use crate::cluster::ClusterError;

/// Time to get a connection.
const CONNECT: Duration = Duration::from_secs(15);

/// A server, as one client sees it.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    runtime: Runtime,
    /// Without a slash at the end.
    base: String,
    /// The system on whose behalf, for messages.
    system: String,
}

/// Status and body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http {
    /// A client of `base`. The token is sent as the bearer's and shown nowhere.
    pub fn new(system: &str, base: &str, token: Option<&str>) -> Result<Self, ClusterError> {
        let refuse = |message: String, help: &str| ClusterError::Refused {
            system: system.to_owned(),
            message,
            help: help.to_owned(),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
                refuse("the token contains characters that no header takes".into(), "check its variable")
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // An error means that another part of the program chose already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::builder().default_headers(headers).connect_timeout(CONNECT).build().map_err(|e| {
                refuse(format!("preparing requests: {e}"), "check this machine's certificates and proxy")
            })?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| refuse(format!("starting a thread: {e}"), "allow this process more threads"))?;
        Ok(Self { client, runtime, base: base.trim_end_matches('/').to_owned(), system: system.to_owned() })
    }

    /// One request; every status is an answer. Must not be called from asynchronous code.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Reply, ClusterError> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base)).timeout(deadline);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let exchange = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok(Reply { status, body: response.bytes().await?.to_vec() })
        };
        self.runtime.block_on(exchange).map_err(|error: reqwest::Error| {
            let system = self.system.clone();
            let message = format!("{method} {path}: {}", with_causes(&error));
            if error.is_builder() {
                return ClusterError::Refused {
                    system,
                    message,
                    help: "set `address` to one like `http://head:8265`".into(),
                };
            }
            ClusterError::Unreachable { system, message }
        })
    }
}
