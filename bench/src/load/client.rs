//! Our own client: many connections on one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Done, Latencies, Load, Request, tls};
use crate::certificates::DNS_NAME;
use crate::origin::LARGE;

/// Bytes that a read asks for.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of a small TCP message.
const ECHO_BYTES: usize = 64;
/// More operations than any load does in its time; each costs four bytes.
const MAX_OPERATIONS: usize = 20_000_000;
/// How long the last operation may take when the time is over.
const GRACE: Duration = Duration::from_secs(20);

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Whom connections go to.
struct Target {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

/// A load under way, and what it has counted.
struct Run {
    target: Target,
    end: Instant,
    latencies: RefCell<Vec<u32>>,
    bytes: Cell<u64>,
}

/// Runs a load for its time, which begins when connections that stay are open.
pub(super) async fn run(
    load: Load,
    address: SocketAddr,
    time: Duration,
    dir: &Path,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Done> {
    let (connections, tls, stay) = match load {
        Load::Requests { connections, request, tls } => (
            connections,
            tls.then(|| tls::connector(dir, false)),
            !matches!(request, Request::SmallOnNewConnection),
        ),
        Load::Handshakes { connections, hybrid } => (connections, Some(tls::connector(dir, hybrid)), false),
        Load::Echo { connections } | Load::Bulk { connections } => (connections, None, true),
        other => bail!("{other:?} is not for this client"),
    };
    let target = Target { address, tls: tls.transpose()? };
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(if stay { Some(target.connect().await?) } else { None });
    }
    ready()?;
    let start = Instant::now();
    let run = Rc::new(Run { target, end: start + time, latencies: RefCell::default(), bytes: Cell::new(0) });
    let all = async {
        let mut tasks = JoinSet::new();
        for stream in streams {
            tasks.spawn_local(connection(load, run.clone(), stream));
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    timeout(time + GRACE, LocalSet::new().run_until(all)).await.context("the load does not end")??;
    let latencies = run.latencies.take();
    let operations = latencies.len() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds")]
    let per_second = operations as f64 / start.elapsed().as_secs_f64();
    Ok(Done { operations, bytes: run.bytes.get(), per_second, latencies: Latencies::of(latencies) })
}

/// Opens connections one after the other, with one request on each; `at` is called whenever a step is reached.
pub(crate) async fn idle(
    address: SocketAddr,
    steps: &[usize],
    mut at: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut open = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    for step in steps {
        while open.len() < *step {
            let mut stream = TcpStream::connect(address).await?;
            exchange(&mut stream, &mut buffer, &Request::Small.bytes())
                .await
                .with_context(|| format!("connection {}", open.len() + 1))?;
            open.push(stream);
        }
        at(*step)?;
    }
    Ok(())
}

/// One connection's life, or one connection after the other.
async fn connection(load: Load, run: Rc<Run>, stream: Option<Box<dyn Stream>>) -> anyhow::Result<()> {
    match (load, stream) {
        (Load::Requests { request, .. }, Some(mut stream)) => {
            let request = request.bytes();
            run.repeat(async |buffer| exchange(&mut *stream, buffer, &request).await).await
        }
        (Load::Requests { request, .. }, None) => {
            let request = request.bytes();
            run.repeat(async |buffer| request_on_new_connection(&run.target, buffer, &request).await).await
        }
        (Load::Echo { .. }, Some(mut stream)) => {
            run.repeat(async |buffer| echo(&mut *stream, &mut buffer[..ECHO_BYTES]).await).await
        }
        (_, Some(stream)) => bulk(&run, stream).await,
        (_, None) => run.repeat(async |buffer| handshake(&run.target, buffer).await).await,
    }
}

impl Target {
    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        Ok(Box::new(tls.connect(ServerName::try_from(DNS_NAME)?, stream).await.context("TLS handshake")?))
    }
}

impl Run {
    fn over(&self) -> bool {
        Instant::now() >= self.end || self.latencies.borrow().len() >= MAX_OPERATIONS
    }

    /// Does one operation after the other until the time is over.
    async fn repeat(
        &self,
        mut operation: impl AsyncFnMut(&mut [u8]) -> anyhow::Result<u64>,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        while !self.over() {
            let start = Instant::now();
            let bytes = operation(&mut buffer).await?;
            self.bytes.set(self.bytes.get() + bytes);
            let micros = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
            self.latencies.borrow_mut().push(micros);
        }
        Ok(())
    }
}

impl Request {
    /// As it goes over the wire.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let head = |line: &str, field: &str| {
            format!("{line} HTTP/1.1\r\nHost: mesh.local\r\n{field}\r\n").into_bytes()
        };
        match self {
            Self::Small => head("GET /1k", ""),
            Self::SmallOnNewConnection => head("GET /1k", "Connection: close\r\n"),
            Self::Download => head("GET /1m", ""),
            Self::Upload => {
                let mut bytes = head("PUT /put/1m", &format!("Content-Length: {LARGE}\r\n"));
                bytes.resize(bytes.len() + LARGE, b'x');
                bytes
            }
        }
    }
}

/// Sends a request and reads its answer; gives the bytes of both.
pub(crate) async fn exchange<S: Stream + ?Sized>(
    stream: &mut S,
    buffer: &mut [u8],
    request: &[u8],
) -> anyhow::Result<u64> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut filled = 0;
    let (head, body) = loop {
        let got = stream.read(&mut buffer[filled..]).await?;
        ensure!(
            got > 0,
            "closed before the answer was whole: {}",
            String::from_utf8_lossy(&buffer[..filled])
        );
        filled += got;
        if let Some(answer) = parse(&buffer[..filled])? {
            break answer;
        }
    };
    let mut missing = (head + body).checked_sub(filled).context("more than the answer")?;
    while missing > 0 {
        let got = stream.read(buffer).await?;
        ensure!(got > 0 && got <= missing, "closed within a body, or more than the body");
        missing -= got;
    }
    Ok((request.len() + head + body) as u64)
}

/// Bytes of head and body of a good answer; `None` as long as the head is not whole.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    ensure!(line.starts_with("HTTP/1.1 2"), "answered {line}");
    let length = fields.lines().filter_map(|field| field.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let length = match length {
        Some(length) => length?,
        None if line.starts_with("HTTP/1.1 204") => 0,
        None => bail!("an answer without length: {head}"),
    };
    Ok(Some((end + 4, length)))
}

async fn request_on_new_connection(
    target: &Target,
    buffer: &mut [u8],
    request: &[u8],
) -> anyhow::Result<u64> {
    let mut stream = target.connect().await?;
    let bytes = exchange(&mut *stream, buffer, request).await?;
    // Who closes first keeps the port busy for a minute: let it be the proxy's.
    ensure!(stream.read(buffer).await? == 0, "more than the answer");
    Ok(bytes)
}

/// A handshake is over for the server when it has verified our certificate and answers our end with its own.
async fn handshake(target: &Target, buffer: &mut [u8]) -> anyhow::Result<u64> {
    let mut stream = target.connect().await?;
    stream.shutdown().await?;
    match stream.read(buffer).await {
        Ok(0) => Ok(0),
        Ok(_) => bail!("bytes that nobody asked for"),
        // Some close the socket without saying goodbye in TLS.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error.into()),
    }
}

async fn echo<S: Stream + ?Sized>(stream: &mut S, message: &mut [u8]) -> anyhow::Result<u64> {
    stream.write_all(message).await?;
    stream.read_exact(message).await?;
    Ok(2 * message.len() as u64)
}

/// Writes and reads at the same time until the time is over, then waits for all that was sent.
async fn bulk(run: &Run, stream: Box<dyn Stream>) -> anyhow::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        let chunk = vec![b'x'; READ_BYTES];
        let mut sent = 0;
        while !run.over() {
            writer.write_all(&chunk).await?;
            sent += chunk.len() as u64;
            run.latencies.borrow_mut().push(0);
        }
        writer.shutdown().await?;
        anyhow::Ok(sent)
    };
    let receive = async {
        let mut buffer = vec![0; READ_BYTES];
        let mut received = 0;
        loop {
            match reader.read(&mut buffer).await? {
                0 => return anyhow::Ok(received),
                got => received += got as u64,
            }
        }
    };
    let (sent, received) = tokio::try_join!(send, receive)?;
    ensure!(sent == received, "{sent} bytes were sent, {received} came back");
    run.bytes.set(run.bytes.get() + sent + received);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Result<Option<(usize, usize)>, ()>) {
        assert_eq!(parse(answer.as_bytes()).map_err(drop), expected, "{answer:?}");
    }

    #[test]
    fn answers_end_where_their_length_says() {
        check("HTTP/1.1 200 OK\r\nContent-Le", Ok(None));
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", Ok(Some((38, 3))));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some((27, 0))));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(()));
        check("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", Err(()));
    }

    #[test]
    fn requests_are_whole() {
        assert_eq!(Request::Small.bytes(), b"GET /1k HTTP/1.1\r\nHost: mesh.local\r\n\r\n");
        assert!(Request::Upload.bytes().len() > LARGE);
    }
}
