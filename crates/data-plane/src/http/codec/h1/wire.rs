//! A connection with what has arrived and what is still to leave.
//!
//! Its buffers are the worker's: taken when there are bytes, given back when there are none.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use meshwork_http1::FieldSpan;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::http::lend;
use crate::limits::{BUFFER_BYTES, COALESCE_BYTES, READ_BYTES};
use crate::transport::Transport;

/// What a first read asks for; doubled while reads fill it.
const FIRST_READ_BYTES: usize = BUFFER_BYTES / 2;

/// A connection's bytes.
pub(super) struct Wire {
    pub(super) transport: Transport,
    /// What has arrived and is not consumed.
    pub(super) inbox: BytesMut,
    /// What is still to leave.
    pub(super) outbox: Outbox,
    read_bytes: usize,
    is_closed: bool,
}

/// Bytes to send, in three parts that leave in one write: text, then at most one large piece, then what stands
/// behind it.
#[derive(Default)]
pub(super) struct Outbox {
    text: Vec<u8>,
    sent: usize,
    large: Bytes,
    tail: &'static [u8],
    /// Bytes that have left.
    written: u64,
}

thread_local! {
    /// One vector of spans per worker: heads are parsed one at a time.
    static SPANS: Cell<Vec<FieldSpan>> = const { Cell::new(Vec::new()) };
}

/// Lends the worker's vector of spans.
pub(super) fn with_spans<T>(parse: impl FnOnce(&mut Vec<FieldSpan>) -> T) -> T {
    let mut spans = SPANS.take();
    let result = parse(&mut spans);
    SPANS.set(spans);
    result
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            transport,
            inbox: BytesMut::new(),
            outbox: Outbox::default(),
            read_bytes: FIRST_READ_BYTES,
            is_closed: false,
        }
    }

    /// A connection of which some bytes were already read.
    pub(super) fn resumed(inbox: BytesMut, transport: Transport) -> Self {
        Self { inbox, ..Self::new(transport) }
    }

    /// Reads more into the inbox; 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_closed {
            return Poll::Ready(Ok(0));
        }
        let filled = self.poll_read(cx);
        if filled.is_pending() {
            self.give_back();
        }
        filled
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // No buffer is taken before there is something to put into it.
        ready!(self.transport.poll_readable(cx))?;
        if self.inbox.capacity() == 0 {
            self.inbox = lend::inbox();
        }
        self.inbox.reserve(self.read_bytes);
        let room = self.inbox.capacity() - self.inbox.len();
        let read = ready!(pin!(self.transport.read_buf(&mut self.inbox)).poll(cx))?;
        self.is_closed = read == 0;
        if read == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES);
        }
        Poll::Ready(Ok(read))
    }

    /// Drops bytes of the inbox.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.inbox.advance(bytes);
    }

    /// Whether the peer has ended its direction.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// What was read and not consumed, and the rest.
    pub(super) fn into_parts(self) -> (BytesMut, Transport) {
        (self.inbox, self.transport)
    }

    /// Gives the inbox back if nothing is in it.
    fn give_back(&mut self) {
        if self.inbox.is_empty() && self.inbox.capacity() > 0 {
            lend::give_inbox(std::mem::take(&mut self.inbox));
        }
    }

    /// Writes what is to leave.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.outbox.is_written() {
            let written = self.outbox.poll_write(&mut self.transport, cx);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.outbox.advance(n),
            }
        }
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.outbox.reset();
        Poll::Ready(Ok(()))
    }

    /// Ready when a frame may be pushed.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.has_room() { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    /// Prepares for the wait between two messages.
    pub(super) fn rest(&mut self) {
        self.read_bytes = FIRST_READ_BYTES;
        self.give_back();
    }

    /// Bytes of memory that it holds beyond itself.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.inbox.capacity() + self.outbox.text.capacity() + self.outbox.large.len()
    }
}

// === impl Outbox ===

impl Outbox {
    /// The text to append to.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty(), "a frame is pushed only where there is room");
        if self.text.capacity() == 0 {
            self.text = lend::text();
        }
        &mut self.text
    }

    /// Appends data and what stands behind it: by copying where that is cheaper than a piece of its own.
    pub(super) fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COALESCE_BYTES {
            let text = self.text();
            text.extend_from_slice(&data);
            text.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    /// Bytes that have left since the connection began.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    fn is_written(&self) -> bool {
        self.sent == self.text.len() && self.large.is_empty() && self.tail.is_empty()
    }

    fn has_room(&self) -> bool {
        self.large.is_empty() && self.tail.is_empty() && self.text.len() < READ_BYTES
    }

    fn poll_write(&self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let text = &self.text[self.sent..];
        let transport = Pin::new(transport);
        match (text.is_empty(), self.large.is_empty() && self.tail.is_empty()) {
            (false, true) => transport.poll_write(cx, text),
            _ => transport.poll_write_vectored(
                cx,
                &[IoSlice::new(text), IoSlice::new(&self.large), IoSlice::new(self.tail)],
            ),
        }
    }

    fn advance(&mut self, written: usize) {
        self.written += written as u64;
        let text = written.min(self.text.len() - self.sent);
        self.sent += text;
        let large = (written - text).min(self.large.len());
        self.large.advance(large);
        self.tail = &self.tail[written - text - large..];
    }

    fn reset(&mut self) {
        lend::give_text(std::mem::take(&mut self.text));
        self.sent = 0;
        self.large = Bytes::new();
    }
}
