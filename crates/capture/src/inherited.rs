//! The sockets of a workload's network as its sidecar inherits them, and its word with the supervisor.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::DumpableBehavior;
use serde::{Deserialize, Serialize};

use crate::descriptors::inherit;
use crate::stock::Stock;
use crate::wire::FromSidecar;

/// The variable that tells a sidecar which descriptors it inherited.
pub const VARIABLE: &str = "MESHWORK_CAPTURE";
/// How long a message to the supervisor may take: it does nothing else than wait for such.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a sidecar inherits. Made in the workload's network, where all of it stays.
#[derive(Debug)]
pub struct Inherited {
    /// Where redirected TCP connections arrive: by address, several sockets each, one per worker.
    pub outbound: Vec<(SocketAddr, Vec<TcpListener>)>,
    /// Where redirected DNS queries arrive over UDP, by address.
    pub names_udp: Vec<(SocketAddr, UdpSocket)>,
    /// Where redirected DNS queries arrive over TCP, by address.
    pub names_tcp: Vec<(SocketAddr, TcpListener)>,
    /// The netlink socket that tells of refused packets, where the kernel has such.
    pub refused: Option<OwnedFd>,
    /// Fresh sockets for connections to the program.
    pub stock: Stock,
    /// The supervisor.
    pub supervisor: Supervisor,
}

/// Descriptors by what they are: the value of [`VARIABLE`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Numbers {
    pub(crate) outbound: Vec<(SocketAddr, Vec<RawFd>)>,
    pub(crate) names_udp: Vec<(SocketAddr, RawFd)>,
    pub(crate) names_tcp: Vec<(SocketAddr, RawFd)>,
    pub(crate) refused: Option<RawFd>,
    pub(crate) stock: [RawFd; 2],
    pub(crate) supervisor: RawFd,
}

impl Inherited {
    /// Takes over what the supervisor left open for this process; `None` where no supervisor started it. Nothing blocks.
    ///
    /// # Errors
    /// The variable does not name such descriptors, or they were taken before.
    pub fn take() -> io::Result<Option<Self>> {
        let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let value = value.into_encoded_bytes();
        let numbers: Numbers = serde_json::from_slice(&value)?;
        // Its keys are in its memory, and the program runs under the same user.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Self::from_numbers(numbers).map(Some)
    }

    fn from_numbers(numbers: Numbers) -> io::Result<Self> {
        numbers.check()?;
        let mut outbound = Vec::with_capacity(numbers.outbound.len());
        for (address, sockets) in numbers.outbound {
            outbound.push((address, sockets.into_iter().map(listener).collect::<io::Result<_>>()?));
        }
        let udp = |(address, number)| {
            let socket = UdpSocket::from(inherit(number)?);
            socket.set_nonblocking(true)?;
            Ok((address, socket))
        };
        let tcp = |(address, number)| Ok((address, listener(number)?));
        let [v4, v6] = numbers.stock;
        Ok(Self {
            outbound,
            names_udp: numbers.names_udp.into_iter().map(udp).collect::<io::Result<_>>()?,
            names_tcp: numbers.names_tcp.into_iter().map(tcp).collect::<io::Result<_>>()?,
            refused: numbers.refused.map(|number| not_blocking(inherit(number)?)).transpose()?,
            stock: Stock::new([not_blocking(inherit(v4)?)?, not_blocking(inherit(v6)?)?]),
            supervisor: Supervisor { stream: UnixStream::from(inherit(numbers.supervisor)?) },
        })
    }
}

impl Numbers {
    fn check(&self) -> io::Result<()> {
        let outbound = self.outbound.iter().flat_map(|(_, numbers)| numbers);
        let names = self.names_udp.iter().chain(&self.names_tcp).map(|(_, number)| number);
        let others = [&self.supervisor].into_iter().chain(&self.refused).chain(&self.stock);
        let mut seen = BTreeSet::new();
        if outbound.chain(names).chain(others).all(|number| seen.insert(*number)) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{VARIABLE} names a descriptor twice")))
    }
}

fn listener(number: RawFd) -> io::Result<TcpListener> {
    Ok(TcpListener::from(not_blocking(inherit(number)?)?))
}

fn not_blocking(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    Ok(descriptor)
}

/// The way to the supervisor.
#[derive(Debug)]
pub struct Supervisor {
    stream: UnixStream,
}

impl Supervisor {
    /// Says that the program may start, and which virtual addresses the workload has. Saying it again changes nothing.
    ///
    /// # Errors
    /// The supervisor is gone.
    pub fn ready(&self, addresses: &[IpAddr]) -> io::Result<()> {
        self.tell(&FromSidecar::Ready { addresses: addresses.to_vec() })
    }

    /// Sends a message. Blocks for a moment at most.
    ///
    /// # Errors
    /// The supervisor is gone.
    pub fn tell(&self, message: &FromSidecar) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.set_write_timeout(Some(TELL_TIMEOUT))?;
        (&self.stream).write_all(&line)
    }

    /// Another end of the same way, to hear the supervisor by: lines of [`crate::wire::ToSidecar`].
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn stream(&self) -> io::Result<UnixStream> {
        Ok(UnixStream::from(self.stream.as_fd().try_clone_to_owned()?))
    }
}
