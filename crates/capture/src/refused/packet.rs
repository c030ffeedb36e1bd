//! Where a packet was to go, from its first bytes. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv6 extension headers that are looked behind; a real packet has one or two.
const EXTENSIONS: usize = 8;

/// Of IPv4's flags and fragment offset, the latter.
const FRAGMENT_OFFSET: u16 = 0x1fff;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMP_V6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// A packet that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    protocol: u8,
    destination: IpAddr,
    /// Of a protocol with ports, where the packet is not a later fragment.
    port: Option<u16>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            ICMP => f.write_str("ICMP"),
            TCP => f.write_str("TCP"),
            UDP => f.write_str("UDP"),
            DCCP => f.write_str("DCCP"),
            ICMP_V6 => f.write_str("ICMPv6"),
            SCTP => f.write_str("SCTP"),
            UDP_LITE => f.write_str("UDP-Lite"),
            other => write!(f, "IP protocol {other}"),
        }?;
        match self.port {
            Some(port) => write!(f, " to {}", SocketAddr::new(self.destination, port)),
            None => write!(f, " to {}", self.destination),
        }
    }
}

/// Reads a packet; `None` where it is cut short, no IP, or the kernel's own talk about multicast groups.
pub(super) fn read(packet: &[u8]) -> Option<Refused> {
    match packet.first()? >> 4 {
        4 => read_v4(packet),
        6 => read_v6(packet),
        _ => None,
    }
}

fn read_v4(packet: &[u8]) -> Option<Refused> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let is_first = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET == 0;
    let payload = packet.get(length.max(header.len())..).filter(|_| is_first);
    Some(Refused { protocol: header[9], destination: destination.into(), port: port(header[9], payload) })
}

fn read_v6(packet: &[u8]) -> Option<Refused> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let destination = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
    let (protocol, payload) = behind_extensions(header[6], &packet[40..]);
    // Reports of group membership, which the kernel sends by itself. Source: RFC 3810.
    if protocol == ICMP_V6 && payload.is_some_and(|payload| matches!(payload.first(), Some(130..=132 | 143)))
    {
        return None;
    }
    Some(Refused { protocol, destination: destination.into(), port: port(protocol, payload) })
}

/// The protocol behind extension headers, and its bytes where there are any.
fn behind_extensions(mut protocol: u8, mut rest: &[u8]) -> (u8, Option<&[u8]>) {
    for _ in 0..EXTENSIONS {
        let Some(next) = rest.first().copied() else { return (protocol, None) };
        let length = match protocol {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => rest.get(1).map(|length| (usize::from(*length) + 1) * 8),
            // A fragment: behind later ones are just bytes.
            44 => match rest.get(2..4) {
                Some([high, low]) if *high == 0 && low & 0xf8 == 0 => Some(8),
                _ => return (next, None),
            },
            _ => return (protocol, Some(rest)),
        };
        protocol = next;
        rest = length.and_then(|length| rest.get(length..)).unwrap_or_default();
    }
    (protocol, None)
}

fn port(protocol: u8, payload: Option<&[u8]>) -> Option<u16> {
    match (protocol, payload?) {
        (TCP | UDP | DCCP | SCTP | UDP_LITE, [_, _, high, low, ..]) => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    }
}
