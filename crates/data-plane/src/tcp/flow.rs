//! One direction of a relayed connection.
//!
//! It holds bytes only while the other side takes them more slowly than they come. What is held is all out before
//! more is taken in, by copying or by splicing alike, so that going from one to the other changes no order.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::pipe::{SpliceFlags, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::lent::{Buffer, Pipe};
use crate::error::ProxyError;
use crate::limits::{PIPE_BYTES, SPLICE_BYTES_LEAST};
use crate::transport::Transport;

/// One direction.
pub(super) struct Flow {
    held: Held,
    state: State,
    is_flushed: bool,
    /// Whether so much came at once that the next may well be worth a pipe.
    is_bulk: bool,
    /// Whether the kernel splices these two sockets, as far as is known.
    may_splice: bool,
}

/// What was taken in and is not out yet.
enum Held {
    Nothing,
    Bytes(Buffer, Range<usize>),
    Piped(Pipe),
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    Ending,
    Ended,
}

/// Which side of a flow failed.
pub(super) enum Broken {
    From(io::Error),
    To(io::Error),
}

impl From<Broken> for ProxyError {
    fn from(broken: Broken) -> Self {
        let (Broken::From(error) | Broken::To(error)) = broken;
        Self::upstream(&error)
    }
}

// === impl Flow ===

impl Flow {
    /// Begins with bytes that were read already; they fit a buffer.
    pub(super) fn new(ahead: &[u8]) -> Self {
        let held = if ahead.is_empty() {
            Held::Nothing
        } else {
            let mut buffer = Buffer::lend();
            buffer[..ahead.len()].copy_from_slice(ahead);
            Held::Bytes(buffer, 0..ahead.len())
        };
        Self { held, state: State::Open, is_flushed: true, is_bulk: false, may_splice: true }
    }

    /// Moves bytes as far as they go; ready when the end has been passed on. Adds what was written to `moved`.
    pub(super) fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_drain(cx, to, moved)).map_err(Broken::To)?;
            match self.state {
                State::Open => ready!(self.poll_fill(cx, from, to))?,
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what is held, and gives back what it was held in.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            let (left, written) = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(buffer, filled) => {
                    let written = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[filled.clone()]))?;
                    self.is_flushed = false;
                    filled.start += written;
                    (filled.len(), written)
                }
                Held::Piped(pipe) => {
                    let Some(socket) = to.plain_socket() else {
                        unreachable!("only plain sockets are spliced")
                    };
                    let written = ready!(poll_out_of(pipe, socket, cx))?;
                    pipe.held -= written;
                    (pipe.held, written)
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *moved += written as u64;
            if left == 0 {
                self.held = Held::Nothing;
            }
        }
    }

    /// Takes more in; nothing is held.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
    ) -> Poll<Result<(), Broken>> {
        if self.is_bulk
            && self.may_splice
            && let (Some(socket), Some(_)) = (from.plain_socket(), to.plain_socket())
            && let Some(pipe) = Pipe::lend()
        {
            return self.poll_splice(cx, socket, pipe).map_err(Broken::From);
        }
        let mut buffer = Buffer::lend();
        let mut free = ReadBuf::new(&mut buffer);
        let Poll::Ready(read) = Pin::new(from).poll_read(cx, &mut free) else {
            if !self.is_flushed {
                ready!(Pin::new(to).poll_flush(cx)).map_err(Broken::To)?;
                self.is_flushed = true;
            }
            return Poll::Pending;
        };
        read.map_err(Broken::From)?;
        let filled = free.filled().len();
        self.is_bulk = filled == buffer.len();
        if filled == 0 {
            self.state = State::Ending;
        } else {
            self.held = Held::Bytes(buffer, 0..filled);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        mut pipe: Pipe,
    ) -> Poll<io::Result<()>> {
        match ready!(poll_into(&pipe, from, cx)) {
            Ok(0) => self.state = State::Ending,
            Ok(taken) => {
                self.is_bulk = taken >= SPLICE_BYTES_LEAST;
                pipe.held = taken;
                self.held = Held::Piped(pipe);
            }
            // This kernel, or some filter in it, does not do it here. Nothing was taken.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                self.may_splice = false;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

/// From a socket into a pipe, which is empty: that it would block is the socket's word.
fn poll_into(pipe: &Pipe, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let taken = socket.try_io(Interest::READABLE, || {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            Ok(splice(socket, None, &pipe.ends().into, None, PIPE_BYTES, flags)?)
        });
        if !is_blocked(&taken) {
            return Poll::Ready(taken);
        }
    }
}

/// From a pipe, which is not empty, into a socket.
fn poll_out_of(pipe: &Pipe, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let written = socket.try_io(Interest::WRITABLE, || {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            Ok(splice(&pipe.ends().out, None, socket, None, pipe.held, flags)?)
        });
        if !is_blocked(&written) {
            return Poll::Ready(written);
        }
    }
}

fn is_blocked(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
