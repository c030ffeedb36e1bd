//! The sockets of a workload's network that its sidecar takes over: made inside, handed out, left open.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

use crate::addresses::{NAMES, OUTBOUND};
use crate::descriptors::MAX_SENT;
use crate::inherited::Numbers;
use crate::netlink;

/// Connections that wait to be accepted, per socket. The kernel's `somaxconn` may say less.
const BACKLOG: i32 = 4096;
/// Most workers that get sockets of their own: all sockets go out in one message.
pub(crate) const MAX_WORKERS: usize = (MAX_SENT - 16) / 2;
/// How long a connection over loopback may take that is to show whether steering works.
const STEERING: Duration = Duration::from_secs(5);
/// Addresses that lead nowhere but to the proxy. Source: RFC 5737, RFC 3849.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The sockets that are listened on.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    outbound: Vec<(SocketAddr, Vec<Socket>)>,
    names_udp: Vec<(SocketAddr, UdpSocket)>,
    names_tcp: Vec<(SocketAddr, Socket)>,
}

impl Sockets {
    /// Listens, for as many workers, in this process's network namespace, over the IP versions that there are.
    ///
    /// # Errors
    /// A port is taken, or no descriptors are left.
    pub(crate) fn listen(workers: usize) -> io::Result<Self> {
        let mut made = Self::default();
        for (outbound, names) in OUTBOUND.into_iter().zip(NAMES) {
            if !netlink::has(outbound.ip()) {
                continue;
            }
            let sockets = (0..workers.clamp(1, MAX_WORKERS)).map(|_| listener(outbound));
            made.outbound.push((outbound, sockets.collect::<io::Result<_>>()?));
            made.names_udp.push((names, UdpSocket::bind(names)?));
            made.names_tcp.push((names, listener(names)?));
        }
        Ok(made)
    }

    /// Looks whether connections and queries to somewhere else arrive here.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn try_steering(&self) -> io::Result<()> {
        for (address, sockets) in &self.outbound {
            let elsewhere = SocketAddr::new(ELSEWHERE[usize::from(address.is_ipv6())], 80);
            let stream = TcpStream::connect_timeout(&elsewhere, STEERING)?;
            // It went to one of them, and must not be there any more when the sidecar comes.
            let socket = readable(sockets)?.ok_or_else(|| lost("a connection", elsewhere))?;
            let (accepted, _) = socket.accept()?;
            drop(stream);
            let original =
                if address.is_ipv6() { accepted.original_dst_v6() } else { accepted.original_dst_v4() };
            if original?.as_socket() != Some(elsewhere) {
                return Err(lost("the destination of a connection", elsewhere));
            }
        }
        for (address, socket) in &self.names_udp {
            let elsewhere = SocketAddr::new(ELSEWHERE[usize::from(address.is_ipv6())], 53);
            let client = UdpSocket::bind(SocketAddr::new(address.ip(), 0).with_any())?;
            client.send_to(&[0], elsewhere)?;
            readable(std::slice::from_ref(socket))?.ok_or_else(|| lost("a query", elsewhere))?;
            socket.recv_from(&mut [0; 1])?;
        }
        Ok(())
    }

    /// Takes everything apart for a message: the descriptors, and what each is, by its place among them.
    pub(crate) fn hand_out(self, refused: Option<OwnedFd>, stock: [OwnedFd; 2]) -> (Numbers, Vec<OwnedFd>) {
        let mut all: Vec<OwnedFd> = Vec::new();
        let mut place = |descriptor: OwnedFd| {
            all.push(descriptor);
            RawFd::try_from(all.len() - 1).unwrap_or(RawFd::MAX)
        };
        let numbers = Numbers {
            outbound: self
                .outbound
                .into_iter()
                .map(|(address, sockets)| (address, sockets.into_iter().map(|s| place(s.into())).collect()))
                .collect(),
            names_udp: self.names_udp.into_iter().map(|(address, s)| (address, place(s.into()))).collect(),
            names_tcp: self.names_tcp.into_iter().map(|(address, s)| (address, place(s.into()))).collect(),
            refused: refused.map(&mut place),
            stock: stock.map(&mut place),
            supervisor: -1,
        };
        (numbers, all)
    }
}

trait WithAny {
    fn with_any(self) -> SocketAddr;
}

impl WithAny for SocketAddr {
    /// The same, on every address of its IP version.
    fn with_any(mut self) -> SocketAddr {
        self.set_ip(match self {
            SocketAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        });
        self
    }
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The first that has something; `None` where none has in time.
fn readable<S: AsFd>(sockets: &[S]) -> io::Result<Option<&S>> {
    let mut polled: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: STEERING.as_secs().cast_signed(), tv_nsec: 0 };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&timeout)))?;
    let found = polled.iter().position(|polled| !polled.revents().is_empty());
    Ok(found.map(|at| &sockets[at]))
}

fn lost(what: &str, to: SocketAddr) -> io::Error {
    io::Error::other(format!("{what} to {to} did not reach the proxy"))
}

/// What the supervisor holds: the descriptors, which it leaves open for each of its sidecars.
#[derive(Debug)]
pub(crate) struct Held {
    numbers: Numbers,
    descriptors: Vec<OwnedFd>,
}

impl Held {
    /// Takes what [`Sockets::hand_out`] made and a message carried.
    ///
    /// # Errors
    /// The message does not carry what it names.
    pub(crate) fn new(numbers: Numbers, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        for descriptor in &descriptors {
            crate::descriptors::bequeath(descriptor)?;
        }
        let held = Self { numbers, descriptors };
        held.bequest(-1).map(|_| held)
    }

    /// The value of the variable for a sidecar, whose way to the supervisor has this number.
    ///
    /// # Errors
    /// A place that there is not.
    pub(crate) fn bequest(&self, supervisor: RawFd) -> io::Result<Numbers> {
        let number = |place: &RawFd| {
            let descriptor = usize::try_from(*place).ok().and_then(|place| self.descriptors.get(place));
            descriptor.map(AsRawFd::as_raw_fd).ok_or_else(|| io::Error::other("a descriptor is missing"))
        };
        let one = |(address, place): &(SocketAddr, RawFd)| Ok::<_, io::Error>((*address, number(place)?));
        let several = |(address, places): &(SocketAddr, Vec<RawFd>)| {
            Ok::<_, io::Error>((*address, places.iter().map(number).collect::<io::Result<_>>()?))
        };
        let [v4, v6] = &self.numbers.stock;
        Ok(Numbers {
            outbound: self.numbers.outbound.iter().map(several).collect::<io::Result<_>>()?,
            names_udp: self.numbers.names_udp.iter().map(one).collect::<io::Result<_>>()?,
            names_tcp: self.numbers.names_tcp.iter().map(one).collect::<io::Result<_>>()?,
            refused: self.numbers.refused.as_ref().map(number).transpose()?,
            stock: [number(v4)?, number(v6)?],
            supervisor,
        })
    }

    /// Fills the stock again after a sidecar died.
    ///
    /// # Errors
    /// The workload is gone.
    pub(crate) fn renew_stock(&self) -> io::Result<()> {
        for (v6, place) in [false, true].into_iter().zip(self.numbers.stock) {
            let descriptor = usize::try_from(place).ok().and_then(|place| self.descriptors.get(place));
            if let Some(descriptor) = descriptor {
                crate::stock::renew(descriptor, v6)?;
            }
        }
        Ok(())
    }
}

/// Whether somebody listens there. Takes a moment at most.
pub(crate) fn is_reachable(address: SocketAddr, within: Duration) -> bool {
    TcpStream::connect_timeout(&address, within)
        .is_ok_and(|stream| SockRef::from(&stream).peer_addr().is_ok())
}
