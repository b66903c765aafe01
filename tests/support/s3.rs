//! A server that speaks as much S3 as a store of remote jobs asks for, in this process: to see who asks, and what they leave.
//!
//! Owns no signatures: it looks at the name of the key and the region in a request, and not whether they were signed well.
#![allow(dead_code, missing_docs, reason = "each test program uses a part of this")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What the server knows and saw.
#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    refused: u64,
    served: u64,
}

/// The server; it ends with the test program.
pub struct S3 {
    state: Arc<Mutex<State>>,
    pub url: String,
}

impl S3 {
    /// Starts it. Only requests that are signed for this key and region are served.
    pub fn start(key: &str, region: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let (shared, key, region) = (state.clone(), format!("Credential={key}/"), format!("/{region}/s3/"));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, key, region) = (shared.clone(), key.clone(), region.clone());
                // A connection that ends is no error.
                thread::spawn(move || while serve(&stream, &state, [&key, &region]).is_some() {});
            }
        });
        Self { state, url }
    }

    /// All objects by `/bucket/key`.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.lock().unwrap().objects.clone()
    }

    /// Requests that were served, and that were refused.
    pub fn asked(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.served, state.refused)
    }
}

/// One request and its answer; `None` at the end of the connection.
fn serve(stream: &TcpStream, state: &Mutex<State>, signed: [&str; 2]) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<&TcpStream>| {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        Some(line.trim_end().to_owned())
    };
    let request = next(&mut reader)?;
    let (method, target) = request.split_once(' ')?;
    let target = target.split(' ').next()?;
    let mut headers = BTreeMap::new();
    loop {
        let header = next(&mut reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;

    let mut state = state.lock().unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = percent_decoded(path);
    let (mut code, mut extra, mut answer) = (200, String::new(), Vec::new());
    if !signed.iter().all(|s| header("authorization").contains(s)) {
        state.refused += 1;
        code = 403;
    } else {
        state.served += 1;
        match method {
            "PUT" if header("if-none-match") == "*" && state.objects.contains_key(&name) => code = 412,
            "PUT" => drop(state.objects.insert(name, body)),
            "DELETE" => {
                state.objects.remove(&name);
                code = 204;
            }
            "GET" if query.contains("list-type=2") => {
                let value = |key: &str| query.split('&').find_map(|p| p.strip_prefix(key)).unwrap_or_default();
                let bucket = format!("{}/", name.trim_end_matches('/'));
                let prefix = format!("{bucket}{}", percent_decoded(value("prefix=")));
                let entry = |(name, bytes): (&String, &Vec<u8>)| {
                    format!(
                        "<Contents><Key>{}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>\
                         <Size>{}</Size></Contents>",
                        name.strip_prefix(&bucket).unwrap(),
                        bytes.len()
                    )
                };
                let all: String = state.objects.iter().filter(|(n, _)| n.starts_with(&prefix)).map(entry).collect();
                answer =
                    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{all}</ListBucketResult>").into_bytes();
            }
            "GET" | "HEAD" => match state.objects.get(&name) {
                None => code = 404,
                Some(bytes) => {
                    answer.clone_from(bytes);
                    if let Some((from, to)) = header("range").strip_prefix("bytes=").and_then(|r| r.split_once('-')) {
                        let (from, last) =
                            (from.parse::<usize>().ok()?, to.parse::<usize>().ok()?.min(bytes.len() - 1));
                        answer = bytes[from..=last].to_vec();
                        extra = format!("Content-Range: bytes {from}-{last}/{}\r\n", bytes.len());
                        code = 206;
                    }
                }
            },
            _ => code = 501,
        }
    }
    drop(state);
    let head = format!(
        "HTTP/1.1 {code} x\r\nContent-Length: {}\r\nETag: \"e\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n{extra}\r\n",
        answer.len()
    );
    let mut out = stream;
    out.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        out.write_all(&answer).ok()?;
    }
    out.flush().ok()
}

fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}
