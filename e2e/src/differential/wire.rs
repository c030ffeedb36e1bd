//! HTTP/1.1 messages as the client and the origins read them: leniently, since the proxies between them are judged.

use std::io;

use bytes::BytesMut;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

/// A connection of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection and what was read from it ahead.
pub(super) struct Wire {
    pub(super) stream: Box<dyn Stream>,
    pub(super) ahead: BytesMut,
}

/// A start line and fields, as they came.
pub(super) struct Head {
    pub(super) line: String,
    pub(super) fields: Vec<(String, String)>,
}

/// A body, its framing taken off.
#[derive(Default)]
pub(super) struct Body {
    pub(super) data: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
    /// Whether it came to its end.
    pub(super) complete: bool,
}

impl Head {
    /// The first value of a field; `name` is lowercase.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
    }
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, ahead: BytesMut::new() }
    }

    /// Reads more; `false` at the end.
    pub(super) async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }

    /// Reads until there are so many bytes; fewer at the end.
    pub(super) async fn at_least(&mut self, bytes: usize) -> io::Result<()> {
        while self.ahead.len() < bytes && self.more().await? {}
        Ok(())
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line = self.ahead.split_to(end + 1);
                // One character for each byte, so that odd bytes are seen as they are.
                let text: String = line.iter().map(|byte| char::from(*byte)).collect();
                return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads a head; `None` where the connection ends first.
    pub(super) async fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(line) = self.line().await? else { return Ok(None) };
        Ok(self.fields().await?.map(|fields| Head { line, fields }))
    }

    async fn fields(&mut self) -> io::Result<Option<Vec<(String, String)>>> {
        let mut fields = Vec::new();
        while let Some(line) = self.line().await? {
            if line.is_empty() {
                return Ok(Some(fields));
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(None)
    }

    /// Reads a request's body.
    pub(super) async fn request_body(&mut self, head: &Head) -> Body {
        let mut body = Body::default();
        let read = if head.is_chunked() {
            self.chunks(&mut body).await
        } else {
            let length = head.field("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            self.exactly(length, &mut body).await
        };
        body.complete &= read.is_ok();
        body
    }

    /// Reads an answer's body.
    pub(super) async fn answer_body(&mut self, head: &Head, status: u16, is_head: bool) -> Body {
        let mut body = Body::default();
        let read = if is_head || matches!(status, 100..=199 | 204 | 304) {
            body.complete = true;
            Ok(())
        } else if head.is_chunked() {
            self.chunks(&mut body).await
        } else if let Some(length) = head.field("content-length").and_then(|v| v.parse().ok()) {
            self.exactly(length, &mut body).await
        } else {
            self.read_to_end(&mut body).await
        };
        body.complete &= read.is_ok();
        body
    }

    async fn exactly(&mut self, length: usize, body: &mut Body) -> io::Result<()> {
        let read = self.at_least(length).await;
        let have = self.ahead.len().min(length);
        body.data.extend_from_slice(&self.ahead.split_to(have));
        body.complete = have == length;
        read
    }

    /// Reads all that comes until the peer closes.
    pub(super) async fn read_to_end(&mut self, body: &mut Body) -> io::Result<()> {
        let read = loop {
            match self.more().await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        body.data.extend_from_slice(&self.ahead.split());
        body.complete = read.is_ok();
        read
    }

    async fn chunks(&mut self, body: &mut Body) -> io::Result<()> {
        loop {
            let Some(line) = self.line().await? else { return Ok(()) };
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                if let Some(trailers) = self.fields().await? {
                    body.trailers = trailers;
                    body.complete = true;
                }
                return Ok(());
            }
            self.exactly(size, body).await?;
            if !std::mem::take(&mut body.complete) || self.line().await?.is_none() {
                return Ok(());
            }
        }
    }
}

/// Fields as JSON: names with the list of their values.
pub(super) fn fields_value(fields: &[(String, String)]) -> Value {
    let mut map = Map::new();
    for (name, value) in fields {
        let values = map.entry(name.clone()).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(json!(value));
        }
    }
    Value::Object(map)
}

/// A body as JSON: its text, or its length and a sum where it is long or no text.
pub(super) fn body_value(data: &[u8]) -> Value {
    const MOST_SHOWN: usize = 4096;
    match std::str::from_utf8(data) {
        Ok(text) if data.len() <= MOST_SHOWN => json!(text),
        _ => {
            let sum =
                data.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(1_099_511_628_211) ^ u64::from(*byte));
            json!({ "bytes": data.len(), "sum": sum })
        }
    }
}

/// Bytes of a text with one character for each.
pub(super) fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}
