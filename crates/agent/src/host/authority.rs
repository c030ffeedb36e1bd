//! HTTP/2 on a Unix socket, as clients speak it there: gRPC in C, Python and Java sends the socket's path as
//! `:authority`, percent-encoded or not, which is no authority, and which the HTTP/2 library refuses. There is one host
//! behind a socket, so it is replaced by `localhost` before the library sees it.
//!
//! Header blocks are decoded and written anew, without compression; all other frames pass as they are. What is not HTTP/2
//! passes, too.
//!
//! Source: RFC 9113 §3.4, §4, §6.2, §6.10; gRPC, "gRPC Name Resolution" (`unix:`).

mod hpack;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use hpack::{Decoder, encode};

/// What a client of HTTP/2 begins with. Source: RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest frame that every peer takes. Source: RFC 9113 §4.2.
const MAX_FRAME: usize = 16_384;
/// The largest header block: far more than calls on this socket have.
const MAX_BLOCK: usize = 64 * 1024;
/// How much is read at a time.
const CHUNK: usize = 16 * 1024;
/// What stands in the authority's place.
const LOCALHOST: &[u8] = b"localhost";

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HTTP/2: {0}")]
pub(super) struct Malformed(&'static str);

/// Rewrites what a client sends. No I/O.
pub(super) struct Rewriter {
    state: State,
    decoder: Decoder,
    block: Block,
}

enum State {
    /// So much of the preface has been seen.
    Preface(usize),
    /// It is not HTTP/2.
    Other,
    /// So much of a frame's head has been read.
    Head([u8; HEAD], usize),
    /// So many bytes of a frame that passes are to come.
    Passing(usize),
    /// So many bytes of a frame of a header block are to come.
    Reading { left: usize, payload: Vec<u8>, kind: u8, flags: u8 },
}

/// A header block whose frames are being gathered.
#[derive(Default)]
struct Block {
    stream: [u8; 4],
    flags: u8,
    bytes: Vec<u8>,
    is_open: bool,
}

impl Rewriter {
    pub(super) fn new() -> Self {
        let (decoder, block) = (Decoder::new(), Block::default());
        Self { state: State::Preface(0), decoder, block }
    }

    /// Takes what was read, and adds to `out` what the server is to see.
    ///
    /// # Errors
    /// A header block that cannot be read.
    pub(super) fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        while !input.is_empty() {
            let taken = self.take(input, out)?;
            input = &input[taken..];
        }
        Ok(())
    }

    /// Takes at least one byte.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Malformed> {
        match &mut self.state {
            State::Other => {
                out.extend_from_slice(input);
                Ok(input.len())
            }
            State::Preface(seen) => {
                out.push(input[0]);
                self.state = if input[0] != PREFACE[*seen] {
                    State::Other
                } else if *seen + 1 == PREFACE.len() {
                    State::Head([0; HEAD], 0)
                } else {
                    State::Preface(*seen + 1)
                };
                Ok(1)
            }
            State::Head(head, seen) => {
                head[*seen] = input[0];
                *seen += 1;
                if *seen == HEAD {
                    let head = *head;
                    self.begin(head, out)?;
                }
                Ok(1)
            }
            State::Passing(left) => {
                let taken = input.len().min(*left);
                out.extend_from_slice(&input[..taken]);
                *left -= taken;
                if *left == 0 {
                    self.state = State::Head([0; HEAD], 0);
                }
                Ok(taken)
            }
            State::Reading { left, payload, kind, flags } => {
                let taken = input.len().min(*left);
                payload.extend_from_slice(&input[..taken]);
                *left -= taken;
                if *left == 0 {
                    let (payload, kind, flags) = (std::mem::take(payload), *kind, *flags);
                    self.frame(&payload, kind, flags, out)?;
                }
                Ok(taken)
            }
        }
    }

    /// A frame's head is whole.
    fn begin(&mut self, head: [u8; HEAD], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let is_block = matches!(kind, HEADERS | CONTINUATION);
        if self.block.is_open != (kind == CONTINUATION) {
            return Err(Malformed("a header block is not followed by its rest, or a rest by no block"));
        }
        if !is_block {
            out.extend_from_slice(&head);
            self.state = if length == 0 { State::Head([0; HEAD], 0) } else { State::Passing(length) };
            return Ok(());
        }
        if length > MAX_FRAME {
            return Err(Malformed("a frame is larger than was allowed"));
        }
        if kind == HEADERS {
            self.block = Block { stream, flags: flags & END_STREAM, bytes: Vec::new(), is_open: true };
        } else if self.block.stream != stream {
            return Err(Malformed("a header block goes on in another stream"));
        }
        if length == 0 {
            return self.frame(&[], kind, flags, out);
        }
        self.state = State::Reading { left: length, payload: Vec::with_capacity(length), kind, flags };
        Ok(())
    }

    /// A frame of a header block is whole.
    fn frame(&mut self, payload: &[u8], kind: u8, flags: u8, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let fragment = if kind == HEADERS { fragment(payload, flags)? } else { payload };
        if self.block.bytes.len() + fragment.len() > MAX_BLOCK {
            return Err(Malformed("a header block is larger than 64 KiB"));
        }
        self.block.bytes.extend_from_slice(fragment);
        self.state = State::Head([0; HEAD], 0);
        if flags & END_HEADERS != 0 {
            let block = std::mem::take(&mut self.block);
            self.rewrite(&block, out)?;
        }
        Ok(())
    }

    fn rewrite(&mut self, block: &Block, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut fields = self.decoder.decode(&block.bytes)?;
        for field in &mut fields {
            if field.name == b":authority" {
                field.value = LOCALHOST.to_vec();
            }
        }
        let bytes = encode(&fields);
        let last = bytes.chunks(MAX_FRAME).count().saturating_sub(1);
        let mut frames = bytes.chunks(MAX_FRAME).enumerate().peekable();
        if frames.peek().is_none() {
            write_frame(out, HEADERS, block.flags | END_HEADERS, block.stream, &[]);
        }
        for (number, part) in frames {
            let (kind, flags) = if number == 0 { (HEADERS, block.flags) } else { (CONTINUATION, 0) };
            let end = if number == last { END_HEADERS } else { 0 };
            write_frame(out, kind, flags | end, block.stream, part);
        }
        Ok(())
    }
}

/// What of a frame is header block. Source: RFC 9113 §6.2.
fn fragment(payload: &[u8], flags: u8) -> Result<&[u8], Malformed> {
    let short = Malformed("a frame with headers is too short for what it says");
    let (mut rest, mut padding) = (payload, 0);
    if flags & PADDED != 0 {
        let Some((length, after)) = rest.split_first() else { return Err(short) };
        (rest, padding) = (after, usize::from(*length));
    }
    if flags & PRIORITY != 0 {
        let Some(after) = rest.get(5..) else { return Err(short) };
        rest = after;
    }
    match rest.len().checked_sub(padding) {
        Some(end) => Ok(&rest[..end]),
        None => Err(short),
    }
}

fn write_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) {
    // It has MAX_FRAME bytes at most.
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream);
    out.extend_from_slice(payload);
}

/// A connection whose client is read through a [`Rewriter`].
pub(super) struct Localhost<S> {
    inner: S,
    rewriter: Rewriter,
    chunk: Box<[u8]>,
    ready: Vec<u8>,
    given: usize,
}

impl<S> Localhost<S> {
    pub(super) fn new(inner: S) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { inner, rewriter: Rewriter::new(), chunk, ready: Vec::new(), given: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Localhost<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.given == this.ready.len() {
            this.ready.clear();
            this.given = 0;
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter
                .push(chunk.filled(), &mut this.ready)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let rest = &this.ready[this.given..];
        let taken = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..taken]);
        this.given += taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Localhost<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
