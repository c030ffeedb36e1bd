//! What the workload's network refuses, in the log: whoever wonders why a program gets no answer finds it there.
//!
//! The last nft rule of the namespace hands refused packets to netfilter's log group [`GROUP`] before it rejects them.
//! [`open`] makes the socket that receives them, in the namespace and with `CAP_NET_ADMIN` there; [`report`] reads it in
//! the sidecar. A line is written once a second at most for the same protocol, destination and port, and for so many of
//! these. The packets are the program's bytes: parsing is pure, and what does not parse is left out.
//!
//! Sources: `linux/netfilter/nfnetlink_log.h`, RFC 791, RFC 8200.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

mod message;
mod packet;
#[cfg(test)]
mod tests;

use packet::Refused;

/// The netfilter log group that refused packets go to (`log group 1` in nft).
pub const GROUP: u16 = 1;
/// Bytes of a packet that are copied: the headers, extensions of IPv6 included.
const COPIED_BYTES: u32 = 256;
/// Bytes of one read: the kernel puts several messages together, in a page.
const READ_BYTES: usize = 8 * 1024;
/// How many messages may come before the kernel's answer to a request of ours.
const MESSAGES_BEFORE_ACK: usize = 64;
/// For how long the same line is not written again.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Different lines in that time; more is a scan, and its number says it all.
const LINES: usize = 32;

/// Opens a socket that receives what the calling thread's network namespace refuses. It does not block.
///
/// # Errors
///
/// The caller lacks `CAP_NET_ADMIN` over the namespace, or the kernel has no `nfnetlink_log`: the program runs all the
/// same, but nobody hears of what it was refused.
pub fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::NETFILTER);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let request = message::bind_to_group(GROUP, COPIED_BYTES);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The kernel has answered when sending returns; refused packets may have come before.
    for _ in 0..MESSAGES_BEFORE_ACK {
        let mut buffer = vec![0; READ_BYTES];
        let Some(length) = receive(&socket, &mut buffer)? else { continue };
        match message::acknowledged(&buffer[..length]) {
            None => {}
            Some(0) => return Ok(socket),
            Some(number) => {
                let error = io::Error::from_raw_os_error(number);
                let what = "cannot listen to refused packets (nfnetlink_log, CAP_NET_ADMIN)";
                return Err(io::Error::new(error.kind(), format!("{what}: {error}")));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel does not acknowledge"))
}

/// Logs what arrives at a socket that [`open`] made, for ever.
///
/// # Errors
///
/// The socket cannot be read; nothing is logged then.
///
/// # Cancel safety
///
/// Dropping it closes the socket.
pub async fn report(socket: OwnedFd) -> io::Result<Infallible> {
    let socket = watched(socket)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut told = Told::default();
    loop {
        let mut ready = socket.readable().await?;
        let Ok(received) = ready.try_io(|socket| receive(socket.get_ref(), &mut buffer)) else { continue };
        let length = match received {
            Ok(length) => length.unwrap_or(0),
            // More came than the kernel keeps for us; what is lost are lines of a log.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => 0,
            Err(error) => return Err(error),
        };
        for packet in message::packets(&buffer[..length]) {
            let Some(refused) = packet::read(packet) else { continue };
            if let Some(left_out) = told.admit(refused, Instant::now()) {
                warn!("{}", line(&refused, left_out));
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise that the type of the argument already keeps")]
fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor for as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Reads once; `None` where somebody else than the kernel has written.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let (length, _, from) = rustix::net::recvfrom(socket, buffer, RecvFlags::empty())?;
    let from_kernel =
        from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).is_some_and(|from| from.pid() == 0);
    Ok(from_kernel.then_some(length))
}

/// What people read.
fn line(refused: &Refused, left_out: u64) -> String {
    let others =
        if left_out > 0 { format!(" (and {left_out} others in the meantime)") } else { String::new() };
    format!("refused: {refused} leads nowhere: only TCP and DNS leave the workload{others}")
}

/// Which lines were written lately.
#[derive(Debug, Default)]
struct Told {
    lines: Vec<(Refused, Instant)>,
    /// Of those not written because there were too many different ones.
    left_out: u64,
}

impl Told {
    /// Whether a line is to be written now; if so, how many were left out since the last one.
    fn admit(&mut self, refused: Refused, now: Instant) -> Option<u64> {
        self.lines.retain(|(_, at)| now.saturating_duration_since(*at) < TELL_EVERY);
        if self.lines.iter().any(|(known, _)| *known == refused) {
            return None;
        }
        if self.lines.len() == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines.push((refused, now));
        Some(std::mem::take(&mut self.left_out))
    }
}
