//! Who the client is, behind proxies that are trusted to say so, and `x-forwarded-for`.
//!
//! Source: Envoy `use_remote_address`, `xff_num_trusted_hops`, `internal_address_config`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::OnceLock;

use meshwork_model::head::RequestHead;
use meshwork_model::proxy::Clients;

use crate::connection::Peer;

const FORWARDED_FOR: &[u8] = b"x-forwarded-for";

/// What is told of a client.
pub(super) struct Told {
    /// Its address, where one was told.
    pub(super) address: Option<SocketAddr>,
    /// Whether nobody stands between it and us.
    is_alone: bool,
}

impl Told {
    /// Whether the request is our own.
    pub(super) fn is_internal(&self, clients: &Clients) -> bool {
        let ip = self.address.map(|address| address.ip());
        self.is_alone && ip.is_some_and(|ip| clients.internal.iter().any(|range| range.contains(ip)))
    }
}

/// The client's address: of the other end, or what those before it say.
pub(super) fn address(head: &RequestHead, clients: &Clients, peer: &Peer) -> Told {
    let is_said = head.fields.find(FORWARDED_FOR).is_some();
    if clients.is_edge {
        let hops = clients.trusted_hops.checked_sub(1);
        let told = hops.filter(|_| is_said).and_then(|hops| from_end(head, hops));
        return Told { address: Some(told.unwrap_or(peer.address)), is_alone: !is_said };
    }
    if !is_said {
        return Told { address: None, is_alone: false };
    }
    let is_alone =
        head.fields.all(FORWARDED_FOR).flat_map(|value| value.split(|b| *b == b',')).nth(1).is_none();
    Told { address: from_end(head, clients.trusted_hops), is_alone }
}

/// The address that many places before the last.
fn from_end(head: &RequestHead, skipped: u32) -> Option<SocketAddr> {
    let all: Vec<&[u8]> =
        head.fields.all(FORWARDED_FOR).flat_map(|value| value.split(|b| *b == b',')).collect();
    let at = all.len().checked_sub(1)?.checked_sub(usize::try_from(skipped).ok()?)?;
    let ip: IpAddr = std::str::from_utf8(all[at].trim_ascii()).ok()?.parse().ok()?;
    Some(SocketAddr::new(ip, 0))
}

/// Appends the other end's address; this machine's, where that is the loopback address itself.
pub(super) fn append(head: &mut RequestHead, peer: &Peer) {
    let ip = peer.address.ip();
    let is_loopback = ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
    append_ip(head, if is_loopback { own_address() } else { ip });
}

/// Appends this machine's address, for a request that nobody else sends.
pub(super) fn append_own(head: &mut RequestHead) {
    append_ip(head, own_address());
}

fn append_ip(head: &mut RequestHead, ip: IpAddr) {
    head.fields.append(FORWARDED_FOR, b",", ip.to_string().as_bytes());
}

/// The address by which this machine reaches others.
fn own_address() -> IpAddr {
    static OWN: OnceLock<IpAddr> = OnceLock::new();
    // No packet is sent: it is the address that one would have.
    let find = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    *OWN.get_or_init(|| find().unwrap_or(Ipv4Addr::LOCALHOST.into()))
}

#[cfg(test)]
mod tests {
    use meshwork_model::cidr::Cidr;
    use meshwork_model::proxy::Direction;

    use super::*;

    #[test]
    fn the_client_is_told_by_those_who_are_trusted() {
        let check = |is_edge, trusted_hops, lines: &[&str], expected: Option<&str>, internal: bool| {
            let mut head = RequestHead::default();
            for line in lines {
                head.fields.push(FORWARDED_FOR, line.as_bytes());
            }
            let internal_range = Cidr::new([10, 0, 0, 0].into(), 8);
            let clients =
                Clients { is_edge, trusted_hops, internal: vec![internal_range], ..Clients::default() };
            let told = address(&head, &clients, &Peer::sample(Direction::Outbound));
            assert_eq!(
                told.address.map(|a| a.ip().to_string()).as_deref(),
                expected,
                "{is_edge} {trusted_hops} {lines:?}"
            );
            assert_eq!(told.is_internal(&clients), internal, "{is_edge} {trusted_hops} {lines:?}");
        };
        check(true, 0, &[], Some("127.0.0.1"), false);
        check(true, 0, &["10.0.0.1"], Some("127.0.0.1"), false);
        check(true, 1, &["10.0.0.1"], Some("10.0.0.1"), false);
        check(true, 1, &["1.2.3.4, 5.6.7.8", "10.0.0.1"], Some("10.0.0.1"), false);
        check(true, 2, &["1.2.3.4"], Some("127.0.0.1"), false);
        check(false, 0, &[], None, false);
        check(false, 0, &["10.0.0.1"], Some("10.0.0.1"), true);
        check(false, 0, &["1.2.3.4, 10.0.0.1"], Some("10.0.0.1"), false);
        check(false, 1, &["1.2.3.4, 10.0.0.1"], Some("1.2.3.4"), false);
        check(false, 0, &["10.0.0.1:80"], None, false);
        check(false, 0, &["bogus"], None, false);
        check(false, 0, &["2001:db8::1"], Some("2001:db8::1"), false);
    }
}
