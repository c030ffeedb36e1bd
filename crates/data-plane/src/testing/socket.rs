//! A connection in memory: two ends, each of which can be slow, stall, end one direction, or break.
//!
//! An end behaves as a TCP socket: closing it with bytes unread resets the other, and a reset takes away what was
//! still on its way, in both directions.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::seeds::one;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// One end of a connection.
pub(crate) struct MemorySocket {
    incoming: Rc<RefCell<Lane>>,
    outgoing: Rc<RefCell<Lane>>,
    /// Where it was meant to go before it was redirected.
    pub(crate) meant_for: Option<SocketAddr>,
    resets_on_close: Cell<bool>,
    reading: Gate,
    writing: Gate,
}

/// One direction.
#[derive(Default)]
struct Lane {
    bytes: VecDeque<u8>,
    room: usize,
    /// The writer has ended it.
    is_ended: bool,
    /// The reader has gone.
    is_deserted: bool,
    is_reset: bool,
    /// Bytes that may still pass before the connection breaks.
    left: Option<usize>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How a network treats one end's reads and writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// At most so many bytes at once, each piece arriving on its own.
    pub(crate) piece: Option<usize>,
    /// Pieces of any size between one byte and all that is there.
    pub(crate) is_gusty: bool,
    /// One operation of so many waits up to a second.
    pub(crate) one_stalls_of: Option<u32>,
    /// What decides.
    pub(crate) seed: u64,
}

/// Decides when an operation may go on, and with how much.
struct Gate {
    weather: Weather,
    random: fastrand::Rng,
    is_open: bool,
    stall: Option<Pin<Box<Sleep>>>,
}

/// A connection whose directions hold `room` bytes each.
pub(crate) fn pair(room: usize) -> (MemorySocket, MemorySocket) {
    let lane = || Rc::new(RefCell::new(Lane { room, ..Lane::default() }));
    let (there, back) = (lane(), lane());
    (MemorySocket::new(Rc::clone(&there), Rc::clone(&back)), MemorySocket::new(back, there))
}

impl Weather {
    /// Any.
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Self {
        Self {
            piece: one(random, [None, None, Some(1), Some(7), Some(1_000)]),
            is_gusty: random.bool(),
            one_stalls_of: random.bool().then_some(100),
            seed: random.u64(..),
        }
    }
}

impl MemorySocket {
    fn new(incoming: Rc<RefCell<Lane>>, outgoing: Rc<RefCell<Lane>>) -> Self {
        let gate = || Gate::new(Weather::default());
        Self {
            incoming,
            outgoing,
            meant_for: None,
            resets_on_close: Cell::new(false),
            reading: gate(),
            writing: gate(),
        }
    }

    /// The same end in other weather.
    pub(crate) fn under(mut self, weather: Weather) -> Self {
        self.reading = Gate::new(weather);
        self.writing = Gate::new(Weather { seed: !weather.seed, ..weather });
        self
    }

    /// The connection breaks after so many more bytes, towards the other end or from it.
    pub(crate) fn break_after(&self, bytes: usize, is_outgoing: bool) {
        let lane = if is_outgoing { &self.outgoing } else { &self.incoming };
        lane.borrow_mut().left = Some(bytes);
    }

    /// Breaks the connection now.
    pub(crate) fn reset(&self) {
        self.incoming.borrow_mut().reset();
        self.outgoing.borrow_mut().reset();
    }

    /// Dropping this end breaks the connection.
    pub(crate) fn reset_on_close(&self) {
        self.resets_on_close.set(true);
    }

    /// Ready when a read would tell something.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.incoming.borrow_mut().poll_readable(cx).map(|_| Ok(()))
    }

    /// Reads without consuming.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let mut lane = self.incoming.borrow_mut();
        ready!(lane.poll_readable(cx))?;
        let copied = bytes.remaining().min(lane.bytes.len());
        lane.bytes.iter().take(copied).for_each(|byte| bytes.put_slice(&[*byte]));
        Poll::Ready(Ok(copied))
    }
}

impl AsyncRead for MemorySocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.incoming.borrow_mut().poll_readable(cx))?;
        ready!(this.reading.poll_open(cx));
        let mut lane = this.incoming.borrow_mut();
        // It may have broken while this waited.
        ready!(lane.poll_readable(cx))?;
        let most = buf.remaining().min(lane.bytes.len());
        let (first, second) = lane.bytes.as_slices();
        let taken = this.reading.piece(most);
        let from_first = taken.min(first.len());
        buf.put_slice(&first[..from_first]);
        buf.put_slice(&second[..taken - from_first]);
        lane.bytes.drain(..taken);
        wake(&mut lane.writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemorySocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wanted: usize = bufs.iter().map(|buf| buf.len()).sum();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(this.outgoing.borrow_mut().poll_writable(cx))?;
        ready!(this.writing.poll_open(cx));
        let mut lane = this.outgoing.borrow_mut();
        let room = ready!(lane.poll_writable(cx))?;
        let taken = this.writing.piece(wanted.min(room));
        lane.bytes.extend(bufs.iter().flat_map(|buf| buf.iter()).take(taken));
        wake(&mut lane.reader);
        let breaks = lane.left.as_mut().is_some_and(|left| {
            *left = left.saturating_sub(taken);
            *left == 0
        });
        drop(lane);
        if breaks {
            this.reset();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.outgoing.borrow_mut();
        if lane.is_reset {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        }
        lane.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        if self.resets_on_close.get() || !self.incoming.borrow().bytes.is_empty() {
            self.reset();
            return;
        }
        self.outgoing.borrow_mut().end();
        let mut incoming = self.incoming.borrow_mut();
        incoming.is_deserted = true;
        wake(&mut incoming.writer);
    }
}

// === impl Lane ===

impl Lane {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if !self.bytes.is_empty() || self.is_ended {
            return Poll::Ready(Ok(()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if self.is_deserted || self.is_ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = self.room.saturating_sub(self.bytes.len());
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn end(&mut self) {
        self.is_ended = true;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    fn reset(&mut self) {
        self.is_reset = true;
        self.bytes.clear();
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

// === impl Gate ===

impl Gate {
    fn new(weather: Weather) -> Self {
        Self { weather, random: fastrand::Rng::with_seed(weather.seed), is_open: true, stall: None }
    }

    /// After each piece there is a moment in which nothing is there; now and then it is longer.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(stall) = &mut self.stall {
            ready!(stall.as_mut().poll(cx));
            self.stall = None;
            self.is_open = true;
        }
        if self.is_open {
            return Poll::Ready(());
        }
        if self.weather.one_stalls_of.is_some_and(|of| self.random.u32(..of) == 0) {
            let mut stall = Box::pin(sleep(Duration::from_millis(self.random.u64(1..1000))));
            if stall.as_mut().poll(cx).is_pending() {
                self.stall = Some(stall);
                return Poll::Pending;
            }
        }
        self.is_open = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn piece(&mut self, most: usize) -> usize {
        let weather = self.weather;
        self.is_open = weather.piece.is_none() && !weather.is_gusty && weather.one_stalls_of.is_none();
        let most = weather.piece.map_or(most, |piece| most.min(piece));
        if weather.is_gusty && most > 1 && self.random.bool() { self.random.usize(1..=most) } else { most }
    }
}
