//! HTTP/1.1 messages and gRPC frames, as much of them as an echo needs. Lenient: the proxies between are the strict ones.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most bytes of a message; more is an error of the test.
const MAX_MESSAGE: usize = 1 << 20;

/// A message's first line, its fields with names in lowercase, and its body.
pub(crate) struct Message {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Reads one message; `buffer` keeps what comes after it. `None` where the other side closes before one begins.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    has_body: impl Fn(&str) -> bool,
) -> std::io::Result<Option<Message>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if !more(stream, buffer).await? {
            return if buffer.is_empty() { Ok(None) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let mut message = Message { fields: lines.filter_map(field).collect(), start, body: Vec::new() };
    if has_body(&message.start) {
        message.body = body(&message, stream, buffer).await?;
    }
    Ok(Some(message))
}

async fn body(
    message: &Message,
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> std::io::Result<Vec<u8>> {
    if message.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return chunks(stream, buffer).await;
    }
    let Some(length) = message.field("content-length") else {
        // An answer without a length lasts until the connection ends; a request without one has none.
        if message.start.starts_with("HTTP/") {
            while more(stream, buffer).await? {}
        }
        return Ok(std::mem::take(buffer));
    };
    let length = length.parse().map_err(|_| std::io::Error::other("content-length"))?;
    take(stream, buffer, length).await
}

async fn chunks(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(stream, buffer).await?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        if size == 0 {
            while !self::line(stream, buffer).await?.is_empty() {}
            return Ok(body);
        }
        body.extend(take(stream, buffer, size).await?);
        self::line(stream, buffer).await?;
    }
}

async fn line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> std::io::Result<String> {
    loop {
        if let Some(at) = buffer.windows(2).position(|w| w == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..at]).into_owned();
            buffer.drain(..at + 2);
            return Ok(line);
        }
        if !more(stream, buffer).await? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn take(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    length: usize,
) -> std::io::Result<Vec<u8>> {
    while buffer.len() < length {
        if !more(stream, buffer).await? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    if buffer.len() > MAX_MESSAGE {
        return Err(std::io::Error::other("the message is too large"));
    }
    Ok(stream.read_buf(buffer).await? > 0)
}

/// A gRPC message in its frame, uncompressed. Source: gRPC over HTTP/2, "Length-Prefixed-Message".
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The message in a frame; empty where there is none.
pub(crate) fn unframe(frame: &[u8]) -> &[u8] {
    frame.get(5..).unwrap_or_default()
}
