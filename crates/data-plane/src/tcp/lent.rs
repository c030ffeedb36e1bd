//! Buffers and pipes of a worker, lent to connections while bytes move.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::limits::{PIPE_BYTES, PIPE_BYTES_LEAST, PIPES_PER_WORKER, TCP_BUFFER_BYTES, TCP_BUFFERS_KEPT};

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static PIPES: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    /// Pipes that are lent or kept.
    static PIPES_OPEN: Cell<usize> = const { Cell::new(0) };
}

/// A buffer that goes back to the worker when it is dropped.
pub(super) struct Buffer(Box<[u8]>);

/// A pipe that goes back to the worker when it is dropped empty, and is closed when it is not.
pub(super) struct Pipe {
    ends: Option<Ends>,
    /// Bytes in it.
    pub(super) held: usize,
}

/// The two ends of a pipe.
pub(super) struct Ends {
    pub(super) out: OwnedFd,
    pub(super) into: OwnedFd,
}

// === impl Buffer ===

impl Buffer {
    pub(super) fn lend() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; TCP_BUFFER_BYTES].into_boxed_slice()))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends keeps nothing.
        let _ = BUFFERS.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < TCP_BUFFERS_KEPT {
                kept.push(buffer);
            }
        });
    }
}

// === impl Pipe ===

impl Pipe {
    /// `None` where the worker has enough of them, or the kernel gives none that is worth it.
    pub(super) fn lend() -> Option<Self> {
        let ends = PIPES.with_borrow_mut(Vec::pop).or_else(open)?;
        Some(Self { ends: Some(ends), held: 0 })
    }

    pub(super) fn ends(&self) -> &Ends {
        let Some(ends) = &self.ends else { unreachable!("they are taken in `drop` alone") };
        ends
    }
}

fn open() -> Option<Ends> {
    if PIPES_OPEN.get() >= PIPES_PER_WORKER {
        return None;
    }
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // Past the user's share it stays as it is; past that it may be a page.
    let bytes = fcntl_setpipe_size(&into, PIPE_BYTES).or_else(|_| fcntl_getpipe_size(&into)).ok()?;
    if bytes < PIPE_BYTES_LEAST {
        return None;
    }
    PIPES_OPEN.set(PIPES_OPEN.get() + 1);
    Some(Ends { out, into })
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        let _ = if self.held == 0 {
            PIPES.try_with(|kept| kept.borrow_mut().push(ends))
        } else {
            PIPES_OPEN.try_with(|open| open.set(open.get() - 1))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_lent_up_to_a_limit_and_come_back_empty_or_not_at_all() {
        let mut lent: Vec<Pipe> = std::iter::from_fn(Pipe::lend).collect();
        assert_eq!(lent.len(), PIPES_PER_WORKER);
        lent[0].held = 1;
        lent.clear();
        let kept = PIPES.with_borrow(Vec::len);
        assert_eq!((kept, PIPES_OPEN.get()), (PIPES_PER_WORKER - 1, PIPES_PER_WORKER - 1));
        assert_eq!(std::iter::from_fn(Pipe::lend).collect::<Vec<_>>().len(), PIPES_PER_WORKER);
    }

    #[test]
    fn few_buffers_are_kept() {
        let lent: Vec<Buffer> = (0..TCP_BUFFERS_KEPT + 2).map(|_| Buffer::lend()).collect();
        drop(lent);
        assert_eq!(BUFFERS.with_borrow(Vec::len), TCP_BUFFERS_KEPT);
    }
}
