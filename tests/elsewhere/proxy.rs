//! A stand between a program and an HTTP server, where requests are counted and answers go wrong.
//!
//! Every connection carries one request. Refuses to know what the requests mean, but for content, which can be told by its
//! path.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// What happens to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing reaches the server.
    Answer500,
    /// The server did what was asked; nobody hears of it.
    NoAnswer,
    /// The connection breaks in the middle of the answer.
    CutOff,
    /// A byte of content is another one.
    Damaged,
}

/// The stand; it lasts as long as the test program.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub address: String,
    /// Answers that went wrong so far.
    pub faults: Arc<AtomicU64>,
    /// Requests and bytes (both ways) so far, by method and first part of the path.
    pub traffic: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
}

impl Proxy {
    /// In front of `server` (`127.0.0.1:PORT`); every `every`-th request meets one of the faults in turn, none if it is 0.
    pub fn start(server: &str, faults: &'static [Fault], every: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let proxy = Self { address, faults: Arc::default(), traffic: Arc::default() };
        let (server, shared, seen) = (server.to_owned(), proxy.clone(), Arc::new(AtomicU64::new(0)));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, shared, seen) = (server.clone(), shared.clone(), seen.clone());
                // A client that went away is what such tests are about.
                thread::spawn(move || {
                    let _ = serve(client, &server, &shared.traffic, |content| {
                        if every == 0 {
                            return None;
                        }
                        let n = seen.fetch_add(1, Ordering::SeqCst) + 1;
                        let fault = n.is_multiple_of(every).then(|| faults[(n / every) as usize % faults.len()])?;
                        let fits = fault != Fault::Damaged || content;
                        fits.then(|| shared.faults.fetch_add(1, Ordering::SeqCst))?;
                        Some(fault)
                    });
                });
            }
        });
        proxy
    }
}

/// The head of a message and what has arrived of its body.
fn head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

fn serve(
    mut client: TcpStream,
    server: &str,
    traffic: &Mutex<BTreeMap<String, (u64, u64)>>,
    fault: impl FnOnce(bool) -> Option<Fault>,
) -> std::io::Result<()> {
    let (head, mut body) = head(&mut client)?;
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let missing = length.unwrap_or(0).saturating_sub(body.len());
    let have = body.len();
    body.resize(have + missing, 0);
    client.read_exact(&mut body[have..])?;
    let is_content = lower.starts_with("get ") && lower.contains("/cas/");
    let fault = fault(is_content);
    if fault == Some(Fault::Answer500) {
        return client
            .write_all(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let mut upstream = TcpStream::connect(server)?;
    // One request a connection, so that the end of the answer is the end of the stream.
    let kept: Vec<&str> =
        head.trim_end().split("\r\n").filter(|l| !l.to_ascii_lowercase().starts_with("connection:")).collect();
    upstream.write_all(format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).as_bytes())?;
    upstream.write_all(&body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    {
        let kind = kind(&head);
        let mut traffic = traffic.lock().unwrap();
        let (requests, bytes) = traffic.entry(kind).or_default();
        (*requests, *bytes) = (*requests + 1, *bytes + (head.len() + body.len() + answer.len()) as u64);
    }
    match fault {
        Some(Fault::NoAnswer) => return client.shutdown(Shutdown::Both),
        Some(Fault::CutOff) => {
            client.write_all(&answer[..answer.len() / 2])?;
            return client.shutdown(Shutdown::Both);
        }
        Some(Fault::Damaged) => *answer.last_mut().unwrap() ^= 0x55,
        _ => {}
    }
    client.write_all(&answer)
}

/// `GET cas` of `GET /bucket/prefix/cas/…`; `LIST done` where `done/` is asked for.
fn kind(head: &str) -> String {
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match path.split_once("prefix=") {
        Some((_, prefix)) => {
            let prefix = prefix.split('&').next().unwrap_or_default().replace("%2F", "/");
            format!("LIST {}", prefix.split('/').nth(1).unwrap_or_default())
        }
        None => format!("{method} {}", path.split('/').nth(3).unwrap_or_default()),
    }
}
