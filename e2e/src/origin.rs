//! An origin that records what reaches it, byte by byte, and answers as it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// An HTTP/1.1 origin. Requests are recorded whole, head and body as they came.
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Origin {
    /// Starts an origin that answers every request with these bytes.
    pub fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                std::thread::spawn(move || serve(stream, answer, &record));
            }
        });
        Self { address, seen }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that came since the last call.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(mut stream: TcpStream, answer: &[u8], record: &Mutex<Vec<Vec<u8>>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer) else {
            // What came of a request that was never completed counts too: it reached the origin.
            if !bytes.is_empty() {
                record.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
            }
            return;
        };
        bytes.extend_from_slice(&buffer[..n]);
        while let Some(end) = complete(&bytes) {
            let rest = bytes.split_off(end);
            record.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::replace(&mut bytes, rest));
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

/// Where the first request ends, once it is whole. Lenient: the proxies in front are the strict ones.
fn complete(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("\r\ntransfer-encoding: chunked") {
        return bytes[head..].windows(5).position(|w| w == b"0\r\n\r\n").map(|at| head + at + 5);
    }
    let length = text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}
