//! HTTP/1.1 on the own engine: one connection as a [`Wire`] with a message coming in and one going out.
//!
//! [`ServerConnection`] is the side that called us, [`ClientConnection`] the side that we call. Both are polled by
//! the task of the exchange; neither spawns, and each message is one read and one write where it fits.
//!
//! Source: RFC 9112.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use client::ClientConnection;
pub(crate) use server::ServerConnection;

use std::io;
use std::num::NonZeroUsize;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use meshwork_http1 as http1;
use meshwork_http1::{BodyDecoder, FieldSpan, Framing, ParseError};
use meshwork_model::head::Fields;

use self::wire::Wire;
use crate::http::body::{Frame, Length};
use crate::limits::{self, COALESCE_BYTES};

/// What a head may be.
#[derive(Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Bytes.
    pub(crate) bytes: u32,
    /// Field lines.
    pub(crate) fields: u32,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            bytes: u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX),
            fields: u32::try_from(limits::FIELDS).unwrap_or(u32::MAX),
        }
    }
}

/// The engine's limits.
fn engine_limits() -> http1::Limits {
    http1::Limits {
        head_bytes: u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX),
        fields: u32::try_from(limits::FIELDS).unwrap_or(u32::MAX),
        ..http1::Limits::default()
    }
}

/// Why reading or writing a message stopped; each side knows whose fault it is.
#[derive(Debug)]
enum Broken {
    /// The connection failed.
    Io(io::Error),
    /// The bytes break a rule.
    Rule(ParseError),
}

/// The body that is being received.
struct Incoming {
    decoder: BodyDecoder,
    trailers: Option<Fields>,
    ended: bool,
}

/// Data of a body that leaves together; it is copied only where it is in pieces.
enum Gathered {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

/// The body that is being sent.
struct Outgoing {
    framing: Framing,
    ended: bool,
}

/// Copies the field lines of a head or trailer section that are forwarded.
fn copy_fields(bytes: &[u8], spans: &[FieldSpan], fields: &mut Fields) {
    for span in spans.iter().filter(|span| !span.hop_by_hop) {
        let name = span.name.of(bytes);
        // The codecs answer for these: the host is in the authority, the length in `Length`.
        if !name.eq_ignore_ascii_case(b"content-length") && !name.eq_ignore_ascii_case(b"host") {
            fields.push(name, span.value.of(bytes));
        }
    }
}

/// The length that a framing says.
fn length_of(framing: Framing) -> Length {
    match framing {
        Framing::None => Length::None,
        Framing::Length(bytes) => Length::Known(bytes),
        Framing::Chunked | Framing::UntilClose => Length::Unknown,
    }
}

// === impl Incoming ===

impl Incoming {
    fn none() -> Self {
        Self::new(Framing::None)
    }

    fn new(framing: Framing) -> Self {
        let decoder = BodyDecoder::new(framing, &engine_limits());
        Self { ended: decoder.is_ended(), decoder, trailers: None }
    }

    /// The next frame of the body.
    fn poll_frame(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Broken>> {
        loop {
            if let Some(frame) = self.decode(wire)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            if ready!(wire.poll_fill(cx)).map_err(Broken::Io)? == 0 {
                self.decoder.close().map_err(Broken::Rule)?;
                self.ended = true;
            }
        }
    }

    /// The next frame among the bytes that have arrived.
    ///
    /// Small chunks that are here already leave as one: a frame each would cost a chunk's head each, and over HTTP/2
    /// a hundred tiny frames at once are what peers take for an attack.
    fn decode(&mut self, wire: &mut Wire) -> Result<Option<Frame>, Broken> {
        let mut gathered = Gathered::Nothing;
        while !self.ended && !wire.inbox.is_empty() && gathered.len() < COALESCE_BYTES {
            let decoded = wire::with_spans(|spans| {
                spans.clear();
                let decoded = self.decoder.decode(&wire.inbox, spans)?;
                if decoded.ended && !spans.is_empty() {
                    let mut trailers = Fields::default();
                    copy_fields(&wire.inbox, spans, &mut trailers);
                    self.trailers = Some(trailers);
                }
                Ok(decoded)
            });
            let decoded = decoded.map_err(Broken::Rule)?;
            self.ended = decoded.ended;
            if decoded.consumed == 0 && !decoded.ended {
                break;
            }
            gathered.push(take(wire, decoded.data, decoded.consumed));
        }
        let trailers = || self.trailers.take().map(Frame::Trailers);
        Ok(gathered.finish().map(Frame::Data).or_else(trailers))
    }
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(data) => data.len(),
            Self::Many(data) => data.len(),
        }
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut many = BytesMut::with_capacity(COALESCE_BYTES + data.len());
                many.extend_from_slice(&first);
                many.extend_from_slice(&data);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&data);
                Self::Many(many)
            }
        };
    }

    fn finish(self) -> Option<Bytes> {
        match self {
            Self::Nothing => None,
            Self::One(data) => Some(data),
            Self::Many(data) => Some(data.freeze()),
        }
    }
}

/// Takes the data out of the consumed bytes.
fn take(wire: &mut Wire, data: std::ops::Range<usize>, consumed: usize) -> Bytes {
    if data.is_empty() {
        wire.inbox.advance(consumed);
        return Bytes::new();
    }
    wire.inbox.advance(data.start);
    let taken = wire.inbox.split_to(data.len()).freeze();
    wire.inbox.advance(consumed - data.end);
    taken
}

// === impl Outgoing ===

impl Outgoing {
    fn none() -> Self {
        Self { framing: Framing::None, ended: true }
    }

    fn new(framing: Framing) -> Self {
        Self { framing, ended: matches!(framing, Framing::None | Framing::Length(0)) }
    }

    /// Queues a frame; there is room for it.
    fn send(&mut self, wire: &mut Wire, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Data(data) => self.send_data(wire, data),
            Frame::Trailers(trailers) => self.end(wire, Some(&trailers)),
        }
    }

    fn send_data(&mut self, wire: &mut Wire, data: Bytes) -> Result<(), Broken> {
        match &mut self.framing {
            Framing::None => {}
            Framing::Length(left) => {
                let left_after = left.checked_sub(data.len() as u64);
                *left = left_after.ok_or_else(|| mismatch("more bytes than its length"))?;
                self.ended = *left == 0;
                wire.outbox.push(data, b"");
            }
            Framing::Chunked => {
                if let Some(len) = NonZeroUsize::new(data.len()) {
                    http1::write_chunk_header(wire.outbox.text(), len);
                    wire.outbox.push(data, http1::CHUNK_END);
                }
            }
            Framing::UntilClose => wire.outbox.push(data, b""),
        }
        Ok(())
    }

    /// Ends the body.
    fn end(&mut self, wire: &mut Wire, trailers: Option<&Fields>) -> Result<(), Broken> {
        if self.ended {
            return Ok(());
        }
        match self.framing {
            Framing::Length(_) => return Err(mismatch("fewer bytes than its length")),
            Framing::Chunked => {
                let none = Fields::default();
                http1::write_last_chunk(wire.outbox.text(), trailers.unwrap_or(&none).iter())
                    .map_err(|e| mismatch(&e.to_string()))?;
            }
            Framing::None | Framing::UntilClose => {}
        }
        self.ended = true;
        Ok(())
    }
}

fn mismatch(what: &str) -> Broken {
    Broken::Io(io::Error::new(io::ErrorKind::InvalidData, format!("the body has {what}")))
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(error) => error,
            Broken::Rule(rule) => Self::new(io::ErrorKind::InvalidData, rule),
        }
    }
}
