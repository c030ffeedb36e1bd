//! HTTP/2 on the `h2` crate: streams as sides of an exchange, and the connections that they live in.
//!
//! A connection has a driver that owns its bytes: downstream the task of the connection itself, upstream a task of
//! its own. Flow control is passed through: a frame is taken from one side only when the other has room, and a
//! peer's window is opened again only for what was sent on.
//!
//! Source: RFC 9113.

mod client;
mod flood;
mod heads;
mod server;

pub(crate) use client::{ClientConnection, ClientStream, Connected};
pub(crate) use server::{ServerConnection, ServerStream};

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::h2::{RecvStream, SendStream};
use bytes::Bytes;

use crate::http::body::Frame;
use flood::Tally;

/// The body that is being received.
struct Incoming {
    body: RecvStream,
    /// Bytes of the last frame: their window is opened again when the next one is asked for.
    held: usize,
    ended: bool,
}

/// The body that is being sent.
struct Outgoing {
    stream: SendStream<Bytes>,
    /// The frame that waits for window.
    pending: Bytes,
    trailers: Option<::http::HeaderMap>,
    /// All frames are there; the end is still to be sent.
    ending: bool,
    ended: bool,
    tally: Rc<Tally>,
}

/// What every peer takes in one frame. Source: RFC 9113 §6.5.2, `SETTINGS_MAX_FRAME_SIZE`.
const FRAME_BYTES: usize = 16_384;

// === impl Incoming ===

impl Incoming {
    fn new(body: RecvStream) -> Self {
        Self { ended: body.is_end_stream(), body, held: 0 }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ::h2::Error>> {
        if self.held > 0 {
            let held = std::mem::take(&mut self.held);
            // It fails only where the stream is closed, which the next poll tells.
            let _ = self.body.flow_control().release_capacity(held);
        }
        while !self.ended {
            match ready!(self.body.poll_data(cx)).transpose()? {
                Some(data) if data.is_empty() => {}
                Some(data) => {
                    self.held = data.len();
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                None => {
                    let trailers = ready!(self.body.poll_trailers(cx))?;
                    self.ended = true;
                    let frame = trailers.map(|map| Frame::Trailers(heads::fields_of(&map)));
                    return Poll::Ready(Ok(frame));
                }
            }
        }
        Poll::Ready(Ok(None))
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// A body behind a head that was sent.
    fn new(stream: SendStream<Bytes>, ended: bool, tally: Rc<Tally>) -> Self {
        tally.sent_head();
        Self { stream, pending: Bytes::new(), trailers: None, ending: false, ended, tally }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ::h2::Error>> {
        while !self.pending.is_empty() {
            self.stream.reserve_capacity(self.pending.len());
            while self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(capacity) => capacity?,
                    None => return Poll::Ready(Err(::h2::Reason::STREAM_CLOSED.into())),
                };
            }
            let part = self.pending.split_to(self.stream.capacity().min(self.pending.len()));
            self.tally.sent_frames(u32::try_from(part.len().div_ceil(FRAME_BYTES)).unwrap_or(u32::MAX));
            self.stream.send_data(part, false)?;
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, frame: Frame) {
        match frame {
            Frame::Data(data) => self.pending = data,
            Frame::Trailers(fields) => self.trailers = Some(heads::map_of_trailers(&fields)),
        }
    }

    fn finish(&mut self) {
        self.ending = !self.ended;
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ::h2::Error>> {
        ready!(self.poll_ready(cx))?;
        if std::mem::take(&mut self.ending) {
            self.ended = true;
            self.tally.sent_frames(1);
            match self.trailers.take() {
                Some(trailers) => self.stream.send_trailers(trailers)?,
                None => self.stream.send_data(Bytes::new(), true)?,
            }
        }
        Poll::Ready(Ok(()))
    }
}
