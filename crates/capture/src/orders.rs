//! What the supervisor and the first process of the namespace tell each other, one message a packet.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::descriptors;
use crate::inherited::Numbers;
use crate::outcome::Outcome;
use crate::steps::Tried;
use crate::wire::{LINE_LIMIT, Probe};

/// Longest packet: a probe's command, with what JSON adds to it.
const PACKET_LIMIT: usize = 2 * LINE_LIMIT;

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Start the program; the workload has these addresses.
    Go { addresses: Vec<IpAddr> },
    /// Send the program a signal.
    Signal(i32),
    /// Run a command beside the program.
    Probe(Probe),
}

/// To the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// What was tried; with it come the sockets, where nothing is missing.
    SetUp { tried: Vec<Tried>, sockets: Option<Numbers> },
    /// The program cannot be started, and why.
    NotStarted { words: String, missing: bool },
    /// The program has ended.
    Ended(Outcome),
    /// A command has ended.
    Probed { id: u64, failure: Option<String> },
}

/// One end of the way between the two.
#[derive(Debug)]
pub(crate) struct Way(OwnedFd);

impl Way {
    /// Both ends, which close on exec.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(crate) fn open() -> io::Result<(Self, Self)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) fn send(&self, message: &impl Serialize, descriptors: &[OwnedFd]) -> io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        descriptors::send(&self.0, &serde_json::to_vec(message)?, &borrowed)
    }

    /// Waits for a message; `None` when the other end is gone.
    ///
    /// # Errors
    /// What came is no message.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut packet = vec![0; PACKET_LIMIT];
        match descriptors::receive(&self.0, &mut packet) {
            Ok((0, _)) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Ok((length, descriptors)) => Ok(Some((serde_json::from_slice(&packet[..length])?, descriptors))),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Way {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
