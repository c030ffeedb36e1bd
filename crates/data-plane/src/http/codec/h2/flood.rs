//! Floods: frames that ask for nothing, cost their sender next to nothing, and have us work.
//!
//! The `h2` crate bounds what it keeps: streams, header blocks with their CONTINUATIONs, empty and tiny DATA, streams that
//! it refuses, and those that are reset before they are taken. All else it answers or drops, however much of it comes:
//! PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, `RST_STREAM`, frames of kinds that nobody knows. So [`Guarded`] stands below
//! it and looks at the nine bytes that begin each frame. What a peer may send grows with what is asked and answered: who
//! is busy is never cut off. The clock is read only when an allowance is used up.
//!
//! Source: RFC 9113 §4.1 and §10.5; CVE-2019-9512 to 9515, CVE-2019-9518, CVE-2023-44487.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::limits::{
    H2_CONTROL_FRAMES, H2_CONTROL_FRAMES_MOST, H2_CONTROL_FRAMES_PER_MESSAGE, H2_CONTROL_WINDOW,
    H2_RESET_WINDOW, H2_RESETS, H2_UNASKED_ANSWER, LINGER, LINGER_BYTES,
};

/// Bytes that begin each frame: length (3), kind, flags, stream (4). Source: RFC 9113 §4.1.
const HEAD: usize = 9;
/// Bytes that a client sends before its first frame. Source: RFC 9113 §3.4.
const PREFACE: usize = 24;
/// What the other side is told; texts of errors are known by it.
pub(super) const WORDS: &str = "the peer floods the connection with";

// Kinds of frames. Source: RFC 9113 §6.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const PING: u8 = 0x6;
/// Of DATA: it is the last. Source: RFC 9113 §6.1.
const END_STREAM: u8 = 0x1;
/// Of PING: it answers one of ours. Source: RFC 9113 §6.7.
const ACK: u8 = 0x1;

/// What a peer sends too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// Frames that are about the connection, not about a message.
    Control,
    /// Streams that it gives up.
    Resets,
}

/// Bytes of a connection, whose frames are counted as they come in.
pub(super) struct Guarded<T> {
    transport: T,
    frames: Frames,
    allowance: Allowance,
    tally: Rc<Tally>,
    /// Whether reading fails at a flood; else it waits for ever, and whoever drives the connection ends it by the tally.
    fails: bool,
    /// How far its end has come.
    end: End,
}

/// The end of a connection. What a client has sent before it knew of that is read and dropped: a socket that is closed with
/// bytes unread is reset, and that takes away what was still on its way to the client. Source: RFC 9112 §9.6, which has
/// the same for HTTP/1.1.
enum End {
    /// It goes on.
    Open,
    /// Our direction has ended; so many more bytes are dropped, until then.
    Lingers { left: usize, until: Pin<Box<Sleep>> },
}

/// What the two sides of `h2` tell each other of a connection.
#[derive(Default)]
pub(super) struct Tally {
    /// Frames of messages that we sent since they were last looked at.
    sent: Cell<u32>,
    /// Heads of them.
    heads: Cell<u32>,
    flood: Cell<Option<Flood>>,
}

/// Where in the bytes the next frame begins.
#[derive(Default)]
struct Frames {
    /// Bytes before it; none where it has begun.
    skip: usize,
    /// Its head, of which `begun` bytes have come.
    head: [u8; HEAD],
    begun: usize,
}

/// What the peer may still send.
struct Allowance {
    control: Left,
    resets: Left,
}

/// What is left of one kind.
struct Left {
    frames: u32,
    /// When it was last given for nothing.
    since: Instant,
}

// === impl Flood ===

impl Flood {
    /// What it is of.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Control => "frames that belong to no message (PING, SETTINGS, WINDOW_UPDATE, …)",
            Self::Resets => "streams that it resets (RST_STREAM)",
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Notes a head that was sent, of a request or of a final response.
    pub(super) fn sent_head(&self) {
        self.heads.set(self.heads.get().saturating_add(1));
        self.sent_frames(1);
    }

    /// Notes frames of messages that were sent.
    pub(super) fn sent_frames(&self, frames: u32) {
        self.sent.set(self.sent.get().saturating_add(frames));
    }

    /// What the peer floods the connection with, if it does.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }
}

// === impl Frames ===

impl Frames {
    /// Looks at the frames that begin in `bytes`, which follow what was seen before, until `see` has seen enough.
    fn look(
        &mut self,
        bytes: &[u8],
        mut see: impl FnMut(&[u8; HEAD]) -> Result<(), Flood>,
    ) -> Result<(), Flood> {
        let mut next = self.skip;
        if self.begun > 0 {
            let taken = (HEAD - self.begun).min(bytes.len());
            self.head[self.begun..][..taken].copy_from_slice(&bytes[..taken]);
            self.begun += taken;
            if self.begun < HEAD {
                return Ok(());
            }
            see(&self.head)?;
            next = taken + length(&self.head);
        }
        while let Some(head) = bytes.get(next..).and_then(<[u8]>::first_chunk) {
            see(head)?;
            next += HEAD + length(head);
        }
        // What is left is shorter than a head.
        let rest = bytes.get(next..).unwrap_or_default();
        self.head[..rest.len()].copy_from_slice(rest);
        self.begun = rest.len();
        self.skip = next.saturating_sub(bytes.len());
        Ok(())
    }
}

/// Bytes of what follows a frame's head.
fn length(head: &[u8; HEAD]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

// === impl Allowance ===

impl Allowance {
    fn new() -> Self {
        let since = Instant::now();
        Self { control: Left { frames: H2_CONTROL_FRAMES, since }, resets: Left { frames: H2_RESETS, since } }
    }

    /// Counts a frame that came.
    fn take(&mut self, head: &[u8; HEAD], tally: &Tally) -> Result<(), Flood> {
        let flags = head[4];
        match head[3] {
            HEADERS => self.message(),
            DATA if length(head) > 0 || flags & END_STREAM != 0 => self.message(),
            RST_STREAM => {
                let earned = || tally.heads.take();
                if !self.resets.spend(1, H2_RESETS, H2_RESET_WINDOW, earned) {
                    return Err(Flood::Resets);
                }
            }
            kind => {
                // Hardly one is ever asked for, and the library writes of each that was not to the log.
                let cost = if kind == PING && flags & ACK != 0 { H2_UNASKED_ANSWER } else { 1 };
                let earned = || tally.sent.take().saturating_mul(H2_CONTROL_FRAMES_PER_MESSAGE);
                if !self.control.spend(cost, H2_CONTROL_FRAMES, H2_CONTROL_WINDOW, earned) {
                    return Err(Flood::Control);
                }
            }
        }
        Ok(())
    }

    fn message(&mut self) {
        let more = self.control.frames.saturating_add(H2_CONTROL_FRAMES_PER_MESSAGE);
        self.control.frames = more.min(H2_CONTROL_FRAMES_MOST);
    }
}

// === impl Left ===

impl Left {
    /// Takes from what is left, and else from what was `earned` meanwhile, and else from what is given anew in each
    /// `window`; `false` where there is nothing.
    fn spend(&mut self, cost: u32, fresh: u32, window: Duration, earned: impl FnOnce() -> u32) -> bool {
        if self.frames < cost {
            self.frames = self.frames.saturating_add(earned()).min(H2_CONTROL_FRAMES_MOST);
        }
        if self.frames < cost {
            let now = Instant::now();
            if now.saturating_duration_since(self.since) < window {
                return false;
            }
            self.since = now;
            self.frames = self.frames.saturating_add(fresh);
        }
        self.frames = self.frames.saturating_sub(cost);
        true
    }
}

// === impl Guarded ===

impl<T> Guarded<T> {
    /// Counts what a client sends. At a flood reading waits: the tally has to be looked at after each poll. Its end lingers.
    pub(super) fn of_client(transport: T, tally: &Rc<Tally>) -> Self {
        Self::new(transport, tally, PREFACE, false)
    }

    /// Counts what a server sends. At a flood reading fails.
    pub(super) fn of_server(transport: T, tally: &Rc<Tally>) -> Self {
        Self::new(transport, tally, 0, true)
    }

    fn new(transport: T, tally: &Rc<Tally>, skip: usize, fails: bool) -> Self {
        let frames = Frames { skip, ..Frames::default() };
        let (allowance, tally) = (Allowance::new(), Rc::clone(tally));
        Self { transport, frames, allowance, tally, fails, end: End::Open }
    }

    fn over(&self, flood: Flood) -> Poll<io::Result<()>> {
        if self.fails {
            Poll::Ready(Err(io::Error::other(format!("{WORDS} {}", flood.words()))))
        } else {
            Poll::Pending
        }
    }
}

impl<T: AsyncRead + Unpin> Guarded<T> {
    /// Reads and drops what still comes, for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let End::Lingers { left, until } = &mut self.end else { return Poll::Ready(()) };
        loop {
            let mut room = [0; 4096];
            let mut room = ReadBuf::new(&mut room);
            let Poll::Ready(read) = Pin::new(&mut self.transport).poll_read(cx, &mut room) else {
                return until.as_mut().poll(cx);
            };
            let dropped = room.filled().len();
            if read.is_err() || dropped == 0 || dropped > *left {
                return Poll::Ready(());
            }
            *left -= dropped;
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(flood) = this.tally.flood() {
            return this.over(flood);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.transport).poll_read(cx, buf))?;
        let (allowance, tally) = (&mut this.allowance, &this.tally);
        match this.frames.look(&buf.filled()[before..], |head| allowance.take(head, tally)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(flood) => {
                this.tally.flood.set(Some(flood));
                this.over(flood)
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.end, End::Open) {
            ready!(Pin::new(&mut this.transport).poll_shutdown(cx))?;
            if this.fails {
                return Poll::Ready(Ok(()));
            }
            this.end = End::Lingers { left: LINGER_BYTES, until: Box::pin(sleep(LINGER)) };
        }
        this.poll_linger(cx).map(Ok)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
