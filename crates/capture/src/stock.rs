//! Fresh sockets of the workload's network, for connections to the program.
//!
//! A socket belongs to the network namespace that it was made in, for ever. So the namespace's first process makes them
//! ahead and sends them, one per message, over a pair of Unix sockets for each IP version; the sidecar, which lives in
//! the host's network, takes one whenever it connects, and says after a few that they are to be replaced.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::descriptors;

/// How many sockets lie ready, by IP version: enough for a burst of connections, and far below what one user's
/// processes may have under way in messages (`RLIMIT_NOFILE`).
pub(crate) const SIZES: [u8; 2] = [16, 4];
/// After how many taken ones a message asks for as many: each message wakes a process.
const ASK_AFTER: [u8; 2] = [4, 1];

/// The sidecar's end. Clones share it.
#[derive(Clone, Debug)]
pub struct Stock {
    shelves: Arc<[Shelf; 2]>,
}

#[derive(Debug)]
struct Shelf {
    channel: OwnedFd,
    taken: AtomicU8,
}

impl Stock {
    /// `channels` by IP version, which must not block.
    pub(crate) fn new([v4, v6]: [OwnedFd; 2]) -> Self {
        let shelf = |channel| Shelf { channel, taken: AtomicU8::new(0) };
        Self { shelves: Arc::new([shelf(v4), shelf(v6)]) }
    }

    /// Takes a fresh TCP socket of the workload's network, which does not block; `None` where none lies ready just now:
    /// one will once [`Self::readable`] is.
    ///
    /// # Errors
    /// The workload is gone.
    pub fn take(&self, v6: bool) -> io::Result<Option<socket2::Socket>> {
        let version = usize::from(v6);
        let shelf = &self.shelves[version];
        let mut byte = [0];
        let mut received = match descriptors::receive(&shelf.channel, &mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            received => received?.1,
        };
        let socket = received.pop().ok_or(io::ErrorKind::BrokenPipe)?;
        shelf.count(ASK_AFTER[version]);
        Ok(Some(socket2::Socket::from(socket)))
    }

    /// What becomes readable when a socket lies ready. For waiting only.
    pub fn readable(&self, v6: bool) -> BorrowedFd<'_> {
        self.shelves[usize::from(v6)].channel.as_fd()
    }
}

impl Shelf {
    fn count(&self, ask_after: u8) {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        if taken < ask_after
            || self.taken.compare_exchange(taken, 0, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        // A request that is lost only leaves the shelf shorter; the other end being gone shows on the next take.
        let _ = descriptors::send(&self.channel, &[taken], &[]);
    }
}

/// The end of the namespace's first process, of one IP version.
#[derive(Debug)]
pub(crate) struct Supply {
    channel: OwnedFd,
    v6: bool,
    /// How many could not be made just now.
    missing: Cell<u8>,
}

impl Supply {
    /// Makes both ends, neither of which blocks, and fills the stock.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(crate) fn open(v6: bool) -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let supply = Self { channel: ours, v6, missing: Cell::new(0) };
        supply.fill(SIZES[usize::from(v6)])?;
        Ok((supply, theirs))
    }

    /// Replaces what was taken since.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) fn replace(&self) -> io::Result<()> {
        let mut byte = [0];
        self.fill(self.missing.take())?;
        loop {
            match descriptors::receive(&self.channel, &mut byte) {
                Ok((0, _)) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(_) => self.fill(byte[0].min(SIZES[usize::from(self.v6)]))?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether it is to be tried again soon: the system had no descriptors or no memory.
    pub(crate) fn is_short(&self) -> bool {
        self.missing.get() > 0
    }

    /// Makes so many, or notes how many it could not make.
    fn fill(&self, count: u8) -> io::Result<()> {
        for made in 0..count {
            match self.add() {
                Ok(()) => {}
                // Full is full: whoever takes some asks again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(error),
                Err(_) => {
                    self.missing.set(count - made);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn add(&self) -> io::Result<()> {
        let family = if self.v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        descriptors::send(&self.channel, &[0], &[socket.as_fd()])
    }
}

impl AsFd for Supply {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Empties a stock whose taker is gone, and has it filled again: how many it had taken since it asked is not known.
///
/// # Errors
/// The workload is gone.
pub(crate) fn renew(channel: impl AsFd, v6: bool) -> io::Result<()> {
    let mut byte = [0];
    loop {
        match descriptors::receive(&channel, &mut byte) {
            Ok((0, _)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    descriptors::send(channel, &[SIZES[usize::from(v6)]], &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> ([Supply; 2], [OwnedFd; 2]) {
        let (v4, stock4) = Supply::open(false).expect("pair");
        let (v6, stock6) = Supply::open(true).expect("pair");
        ([v4, v6], [stock4, stock6])
    }

    fn take_all(stock: &Stock, v6: bool) -> usize {
        std::iter::from_fn(|| stock.take(v6).expect("supply lives")).count()
    }

    #[test]
    fn what_is_taken_is_replaced_and_no_more() {
        let (supplies, channels) = pair();
        let stock = Stock::new(channels);
        for (v6, supply) in [false, true].into_iter().zip(&supplies) {
            let size = usize::from(SIZES[usize::from(v6)]);
            assert_eq!(take_all(&stock, v6), size);
            supply.replace().expect("replaced");
            assert_eq!(take_all(&stock, v6), size);
        }
    }

    #[test]
    fn sockets_are_of_the_version_that_was_asked_for() {
        let (_supplies, channels) = pair();
        let stock = Stock::new(channels);
        for v6 in [false, true] {
            let socket = stock.take(v6).expect("supply lives").expect("stock is full");
            assert_eq!(socket.domain().expect("domain") == socket2::Domain::IPV6, v6);
        }
    }

    #[test]
    fn a_renewed_stock_is_full_again() {
        let ([supply, _v6], [channel, channel6]) = pair();
        let duplicate = channel.try_clone().expect("descriptor");
        let stock = Stock::new([duplicate, channel6]);
        for _ in 0..3 {
            stock.take(false).expect("supply lives").expect("stock is full");
        }
        renew(&channel, false).expect("supply lives");
        supply.replace().expect("replaced");
        assert_eq!(take_all(&stock, false), usize::from(SIZES[0]));
    }

    #[test]
    fn a_stock_whose_supply_is_gone_says_so() {
        let (supplies, channels) = pair();
        drop(supplies);
        let stock = Stock::new(channels);
        while let Ok(Some(_)) = stock.take(false) {}
        assert!(stock.take(false).is_err());
    }
}
