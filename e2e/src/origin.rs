//! An origin that records what reaches it, byte by byte, and answers as it is told.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An answer that says no more than that somebody is there.
pub const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// An HTTP/1.1 origin. Requests are recorded whole, head and body as they came.
pub struct Origin {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    seen: Vec<Vec<u8>>,
    bytes: usize,
    connections: usize,
}

impl Origin {
    /// Starts an origin that answers every request with these bytes.
    pub fn start(answer: &'static [u8]) -> Self {
        Self::answering(move |_, stream| stream.write_all(answer))
    }

    /// Starts an origin that calls `answer` with each request, as it came, and its connection; after an error it
    /// closes.
    pub fn answering(
        answer: impl Fn(&[u8], &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let record = Arc::new(Mutex::new(Record::default()));
        let (shared, answer) = (Arc::clone(&record), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (record, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                lock(&record).connections += 1;
                std::thread::spawn(move || serve(stream, &*answer, &record));
            }
        });
        Self { address, record }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that came since the last call, and what had come of others when their connection closed.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.record).seen)
    }

    /// How many bytes have come so far.
    pub fn bytes(&self) -> usize {
        lock(&self.record).bytes
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        lock(&self.record).connections
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    mut stream: TcpStream,
    answer: &dyn Fn(&[u8], &mut TcpStream) -> io::Result<()>,
    record: &Mutex<Record>,
) {
    // Answers are written in pieces, none of which is to wait for the other side's acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer) else {
            // What came of a request that was never completed counts too: it reached the origin.
            if !bytes.is_empty() {
                lock(record).seen.push(bytes);
            }
            return;
        };
        lock(record).bytes += n;
        bytes.extend_from_slice(&buffer[..n]);
        if is_waiting(&bytes) && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
            return;
        }
        while let Some(end) = complete(&bytes) {
            let rest = bytes.split_off(end);
            let request = std::mem::replace(&mut bytes, rest);
            lock(record).seen.push(request.clone());
            if answer(&request, &mut stream).is_err() {
                return;
            }
        }
    }
}

/// Whether nothing but a head is there that asks for a 100.
fn is_waiting(bytes: &[u8]) -> bool {
    let is_head = bytes.ends_with(b"\r\n\r\n") && find(bytes, b"\r\n\r\n") == Some(bytes.len() - 4);
    is_head && String::from_utf8_lossy(bytes).to_ascii_lowercase().contains("\r\nexpect: 100-continue\r\n")
}

/// Where the first request ends, once it is whole. Lenient: the proxies in front are the strict ones.
pub fn complete(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("\r\ntransfer-encoding: chunked") {
        return chunks_end(&bytes[head..]).map(|len| head + len);
    }
    let length = text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}

/// Where a chunked body ends, its trailers included.
fn chunks_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
        bytes.get(..at)?;
    }
    // An empty line at once, or behind the trailers.
    if bytes[at..].starts_with(b"\r\n") {
        Some(at + 2)
    } else {
        find(&bytes[at..], b"\r\n\r\n").map(|end| at + end + 4)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
