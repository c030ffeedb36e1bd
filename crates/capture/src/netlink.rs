//! Netlink, as little as a namespace takes: loopback up, addresses, default routes.
//!
//! Source: rtnetlink(7), `linux/rtnetlink.h`. Each request waits for its answer.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::addresses::OUTBOUND;

/// Loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;
/// Longest answer that is looked at: an error, with the request that it is about.
const ANSWER_SIZE: usize = 4096;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
/// An address that is used at once: nobody else could have it.
const IFA_F_NODAD: u8 = 0x02;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;

/// A request: header, body, attributes.
#[derive(Debug)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]); // Sequence and port: one request is under way at a time, and the kernel fills the port in.
        bytes.extend(body);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    /// Takes loopback up; it has 127.0.0.1 and `::1` from then on.
    pub(crate) fn loopback_up() -> Self {
        let mut body = vec![0; 4];
        body.extend(LOOPBACK.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        Self::new(RTM_NEWLINK, 0, &body)
    }

    /// Gives loopback a further address.
    pub(crate) fn address(address: IpAddr) -> Self {
        let (family, octets) = parts(address);
        let length = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
        let mut body = vec![family, length, IFA_F_NODAD, 0];
        body.extend(LOOPBACK.to_ne_bytes());
        let request = Self::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body);
        request.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets)
    }

    /// Sends everything over loopback, from this address where the program names none.
    pub(crate) fn default_route(source: IpAddr) -> Self {
        let (family, octets) = parts(source);
        let mut body = vec![family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST];
        body.extend(0_u32.to_ne_bytes());
        let request = Self::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body);
        request.attribute(RTA_OIF, &LOOPBACK.to_ne_bytes()).attribute(RTA_PREFSRC, &octets)
    }
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// Routing's socket, of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Routing(OwnedFd);

impl Routing {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel has no netlink, or no descriptors are left.
    pub(crate) fn open() -> io::Result<Self> {
        // Routing is the protocol that is number 0, which is none.
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Has a request carried out.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn ask(&self, request: Request) -> io::Result<()> {
        ask(&self.0, request)
    }
}

fn ask(socket: &OwnedFd, request: Request) -> io::Result<()> {
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, &request.bytes(), SendFlags::empty(), &kernel)?;
    let mut answer = [0; ANSWER_SIZE];
    loop {
        let (length, _) = rustix::net::recv(socket, answer.as_mut_slice(), RecvFlags::empty())?;
        if let Some(outcome) = outcome(&answer[..length.min(ANSWER_SIZE)]) {
            return outcome;
        }
    }
}

/// What an answer says of the request; `None` where it is about something else.
fn outcome(answer: &[u8]) -> Option<io::Result<()>> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != NLMSG_ERROR {
        return None;
    }
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    Some(if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error.saturating_neg())) })
}

/// Whether the kernel has this IP version at all.
pub(crate) fn has(address: IpAddr) -> bool {
    let [v4, v6] = OUTBOUND.map(|address| address.ip());
    UdpSocket::bind((if address.is_ipv4() { v4 } else { v6 }, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_form() {
        let check = |request: Request, expected: &[u8]| assert_eq!(request.bytes(), expected);
        check(
            Request::loopback_up(),
            &[
                32, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
                0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
            ],
        );
        check(
            Request::address(IpAddr::from([198, 18, 0, 1])),
            &[
                40, 0, 0, 0, 20, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, // header
                2, 32, 2, 0, 1, 0, 0, 0, // family, prefix, flags, scope, interface
                8, 0, 2, 0, 198, 18, 0, 1, 8, 0, 1, 0, 198, 18, 0, 1,
            ],
        );
        check(
            Request::default_route(IpAddr::from([240, 0, 0, 5])),
            &[
                44, 0, 0, 0, 24, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, // header
                2, 0, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0, // family … type, flags
                8, 0, 4, 0, 1, 0, 0, 0, 8, 0, 7, 0, 240, 0, 0, 5,
            ],
        );
    }

    #[test]
    fn answers_are_read_whatever_their_bytes() {
        let check = |answer: &[u8], expected: Option<Option<i32>>| {
            let outcome = outcome(answer).map(|outcome| outcome.err().and_then(|e| e.raw_os_error()));
            assert_eq!(outcome, expected, "{answer:?}");
        };
        let error = |code: i32| {
            let mut answer = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            answer.extend(code.to_ne_bytes());
            answer
        };
        check(&error(0), Some(None));
        check(&error(-1), Some(Some(1)));
        check(&error(i32::MIN), Some(Some(i32::MAX)));
        check(&error(0)[..18], None);
        check(&[], None);
        check(&[16, 0, 0, 0, 3, 0, 0, 0], None);
    }
}
