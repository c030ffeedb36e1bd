//! The PROXY protocol's header: on whose behalf a connection was opened.
//!
//! Strict: one space between the parts of version 1, whole records in version 2; their values are skipped. Source:
//! HAProxy, "The PROXY protocol", versions 1 and 2; Envoy's `proxy_protocol` filter for what either leaves open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use meshwork_model::proxy::ProxyProtocol;

use crate::limits::PROXY_HEADER_BYTES;

/// How version 1 begins.
const V1: &[u8] = b"PROXY ";
/// Bytes of a header of version 1, at most: 107, as its specification says, and Envoy's one more.
const V1_BYTES: usize = 108;
/// How version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const V2_BYTES: usize = 16;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// So many bytes, at most, are needed to tell.
    Needs(usize),
    /// A header of so many bytes, and whom it names: who opened the connection, and the address that they came to.
    /// `None` where the proxy itself opened it, or does not know.
    Complete(usize, Option<(SocketAddr, SocketAddr)>),
    /// None, which is as well.
    Absent,
    /// None, or a broken one.
    Invalid(&'static str),
}

/// Looks for a header.
pub(super) fn header(bytes: &[u8], config: ProxyProtocol) -> Header {
    let (v1, v2) = (may_begin(bytes, V1), may_begin(bytes, V2));
    let (takes_v1, takes_v2) = (v1 && !config.refuses_v1, v2 && !config.refuses_v2);
    if config.optional && !(takes_v1 || takes_v2) {
        return Header::Absent;
    }
    if v2 && bytes.len() < V2_BYTES {
        return Header::Needs(V2_BYTES);
    }
    match (v1, v2) {
        (_, true) if config.refuses_v2 => Header::Invalid("PROXY protocol of version 2 is not taken"),
        (_, true) => version_2(bytes),
        (true, _) => version_1(bytes, config),
        _ => Header::Invalid("no PROXY protocol"),
    }
}

/// Whether bytes are the beginning of a signature, or begin with it.
fn may_begin(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

// === version 1 ===

fn version_1(bytes: &[u8], config: ProxyProtocol) -> Header {
    let end = bytes.windows(2).take(V1_BYTES).position(|pair| pair == b"\r\n");
    let Some(end) = end.filter(|end| end + 2 <= V1_BYTES) else {
        let is_long = bytes.len() >= V1_BYTES;
        return if is_long { Header::Invalid("its line is too long") } else { Header::Needs(V1_BYTES) };
    };
    if config.refuses_v1 {
        return Header::Invalid("PROXY protocol of version 1 is not taken");
    }
    let parts: Vec<&[u8]> = bytes[..end].split(|byte| *byte == b' ').collect();
    match parts[..] {
        [_, b"UNKNOWN", ..] => Header::Complete(end + 2, None),
        [_, family, source, destination, from, to] => {
            let parsed = address(family, source, from).zip(address(family, destination, to));
            checked(end + 2, parsed)
        }
        _ => Header::Invalid("its line has not six parts"),
    }
}

fn address(family: &[u8], ip: &[u8], port: &[u8]) -> Option<SocketAddr> {
    let ip = std::str::from_utf8(ip).ok()?;
    let ip: IpAddr = match family {
        b"TCP4" => ip.parse::<Ipv4Addr>().ok()?.into(),
        b"TCP6" => ip.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let digits = port.iter().all(u8::is_ascii_digit) && !port.is_empty();
    let port = std::str::from_utf8(port).ok().filter(|_| digits)?.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

fn checked(length: usize, parsed: Option<(SocketAddr, SocketAddr)>) -> Header {
    match parsed {
        Some((source, destination)) if is_one_host(source.ip()) && is_one_host(destination.ip()) => {
            Header::Complete(length, parsed)
        }
        _ => Header::Invalid("its addresses are none of hosts"),
    }
}

fn is_one_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || is_broadcast)
}

// === version 2 ===

fn version_2(bytes: &[u8]) -> Header {
    let [version_and_command, family_and_transport, high, low] = bytes[V2.len()..V2_BYTES] else {
        return Header::Needs(V2_BYTES);
    };
    let length = V2_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 {
        return Header::Invalid("its version is neither 1 nor 2");
    }
    let is_local = match version_and_command & 0xf {
        0 => true,
        1 => false,
        _ => return Header::Invalid("its command is neither LOCAL nor PROXY"),
    };
    let (family, transport) = (family_and_transport >> 4, family_and_transport & 0xf);
    let addresses = match family {
        _ if is_local => 0,
        1 => 12,
        2 => 36,
        _ => return Header::Invalid("its addresses are not of IP"),
    };
    if !is_local && !matches!(transport, 1 | 2) {
        return Header::Invalid("its transport is neither TCP nor UDP");
    }
    if length < V2_BYTES + addresses {
        return Header::Invalid("it is too short for its addresses");
    }
    if length > PROXY_HEADER_BYTES {
        return Header::Invalid("its records are too long");
    }
    if bytes.len() < length {
        return Header::Needs(length);
    }
    if is_local {
        return Header::Complete(length, None);
    }
    let (addresses, records) = bytes[V2_BYTES..length].split_at(addresses);
    if !are_whole(records) {
        return Header::Invalid("its records are broken");
    }
    checked(length, packed(addresses))
}

/// Two addresses and two ports, as they stand in a header.
fn packed(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let ip = |bytes: &[u8]| {
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((SocketAddr::new(ip(source)?, port(0)), SocketAddr::new(ip(destination)?, port(2))))
}

/// Whether records (a type, two bytes of length, a value) fill their place.
fn are_whole(mut records: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = records {
        let Some(next) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        records = next;
    }
    records.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seeds::for_each_seed;

    const STRICT: ProxyProtocol = ProxyProtocol { optional: false, refuses_v1: false, refuses_v2: false };
    const OPTIONAL: ProxyProtocol = ProxyProtocol { optional: true, ..STRICT };

    fn named(source: &str, destination: &str) -> (SocketAddr, SocketAddr) {
        (source.parse().expect("valid"), destination.parse().expect("valid"))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [V2, &[0x20 | command, family], &length, rest].concat()
    }

    const ADDRESSES: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0x1f, 0x90, 0, 80];

    #[test]
    fn version_1_is_one_line_of_six_parts() {
        let check = |line: &str, expected: Option<Option<(SocketAddr, SocketAddr)>>| {
            let got = header(&[line.as_bytes(), b"GET /"].concat(), STRICT);
            match expected {
                Some(named) => assert_eq!(got, Header::Complete(line.len(), named), "{line:?}"),
                None => assert!(matches!(got, Header::Invalid(_)), "{line:?} {got:?}"),
            }
        };
        let both = Some(named("203.0.113.9:8080", "192.0.2.1:80"));
        check("PROXY TCP4 203.0.113.9 192.0.2.1 8080 80\r\n", Some(both));
        check("PROXY TCP6 2001:db8::9 ::1 1 65535\r\n", Some(Some(named("[2001:db8::9]:1", "[::1]:65535"))));
        check("PROXY UNKNOWN\r\n", Some(None));
        check("PROXY UNKNOWN whatever stands here\r\n", Some(None));
        for line in [
            "PROXY  TCP4 203.0.113.9 192.0.2.1 8080 80\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 8080\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 8080 80 1\r\n",
            "PROXY TCP4 ::1 192.0.2.1 8080 80\r\n",
            "PROXY TCP6 203.0.113.9 192.0.2.1 8080 80\r\n",
            "PROXY TCP5 203.0.113.9 192.0.2.1 8080 80\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 65536 80\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 +80 80\r\n",
            "PROXY TCP4 0.0.0.0 192.0.2.1 8080 80\r\n",
            "PROXY TCP4 224.0.0.1 192.0.2.1 8080 80\r\n",
            "PROXY TCP4 255.255.255.255 192.0.2.1 8080 80\r\n",
            "PROXY \r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            check(line, None);
        }
        let long = [b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat();
        assert_eq!(header(&long[..107], STRICT), Header::Needs(V1_BYTES));
        assert!(matches!(header(&long, STRICT), Header::Invalid(_)));
    }

    #[test]
    fn version_2_is_binary_and_its_records_are_skipped() {
        let check = |bytes: Vec<u8>, expected: Option<Option<(SocketAddr, SocketAddr)>>| {
            let got = header(&[&bytes[..], b"GET /"].concat(), STRICT);
            match expected {
                Some(named) => assert_eq!(got, Header::Complete(bytes.len(), named), "{bytes:?}"),
                None => assert!(matches!(got, Header::Invalid(_)), "{bytes:?} {got:?}"),
            }
        };
        let both = Some(named("203.0.113.9:8080", "192.0.2.1:80"));
        check(v2(1, 0x11, &ADDRESSES), Some(both));
        check(v2(1, 0x12, &ADDRESSES), Some(both));
        check(v2(1, 0x11, &[&ADDRESSES[..], &[4, 0, 2, 1, 2, 5, 0, 0]].concat()), Some(both));
        check(v2(0, 0, &[]), Some(None));
        check(v2(0, 0x11, &[1, 2, 3]), Some(None));
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (9, 1, 1, 2);
        check(v2(1, 0x21, &six), Some(Some(named("[::9]:1", "[::1]:2"))));
        check(v2(1, 0x11, &ADDRESSES[..11]), None);
        check(v2(1, 0x11, &[&ADDRESSES[..], &[4, 0, 2, 1]].concat()), None);
        check(v2(1, 0x11, &[&ADDRESSES[..], &[4, 0]].concat()), None);
        check(v2(1, 0x10, &ADDRESSES), None);
        check(v2(1, 0x31, &ADDRESSES), None);
        check(v2(1, 0x00, &[]), None);
        check(v2(2, 0x11, &ADDRESSES), None);
        check(v2(1, 0x11, &[&ADDRESSES[..], &[1, 0xff, 0xee], &vec![0_u8; 0xffee]].concat()), None);
        let mut old = v2(1, 0x11, &ADDRESSES);
        old[12] = 0x11;
        check(old, None);
    }

    #[test]
    fn a_header_is_waited_for_only_while_it_may_be_one() {
        let whole = v2(1, 0x11, &ADDRESSES);
        for cut in 0..whole.len() {
            let needs = if cut < V2_BYTES { V2_BYTES } else { whole.len() };
            assert_eq!(header(&whole[..cut], STRICT), Header::Needs(if cut == 0 { V2_BYTES } else { needs }));
        }
        assert_eq!(header(b"PRO", STRICT), Header::Needs(V1_BYTES));
        assert_eq!(header(b"PRI", OPTIONAL), Header::Absent);
        assert_eq!(header(b"PROX", OPTIONAL), Header::Needs(V1_BYTES));
        assert!(matches!(header(b"PROXY TCP4 \r\n", OPTIONAL), Header::Invalid(_)));
    }

    #[test]
    fn versions_may_be_refused() {
        let (v1, v2) = (b"PROXY UNKNOWN\r\n".to_vec(), v2(0, 0, &[]));
        let no_1 = ProxyProtocol { refuses_v1: true, ..STRICT };
        let no_2 = ProxyProtocol { refuses_v2: true, ..STRICT };
        assert!(matches!(header(&v1, no_1), Header::Invalid(_)));
        assert!(matches!(header(&v2, no_2), Header::Invalid(_)));
        assert!(matches!(header(&v1, no_2), Header::Complete(..)));
        assert_eq!(header(&v2, ProxyProtocol { optional: true, ..no_2 }), Header::Absent);
        assert_eq!(header(&v1, ProxyProtocol { optional: true, ..no_1 }), Header::Absent);
    }

    #[test]
    fn whatever_comes_is_a_header_of_what_came_or_none() {
        for_each_seed("whatever_comes_is_a_header_of_what_came_or_none", 2000, |_, random| {
            let mut bytes = match random.u8(..3) {
                0 => v2(random.u8(..3), random.u8(..0x33), &[&ADDRESSES[..], &[1, 0, 1, 7]].concat()),
                1 => b"PROXY TCP4 203.0.113.9 192.0.2.1 8080 80\r\n".to_vec(),
                _ => b"PROXY TCP6 2001:db8::9 ::1 1 2\r\nrest".to_vec(),
            };
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            let config = ProxyProtocol { optional: random.bool(), ..STRICT };
            match header(&bytes, config) {
                Header::Needs(needs) => {
                    assert!(needs > bytes.len() && needs <= PROXY_HEADER_BYTES, "{bytes:?}");
                }
                Header::Complete(length, _) => assert!(length <= bytes.len(), "{bytes:?}"),
                Header::Absent => assert!(config.optional),
                Header::Invalid(_) => {}
            }
        });
    }
}
