//! Who the client is, behind proxies that are trusted to say so.
//!
//! Source: Envoy `use_remote_address`, `xff_num_trusted_hops`, `internal_address_config`.

use std::net::{IpAddr, SocketAddr};

use crate::head::RequestHead;
use crate::proxy::Clients;

/// The field in which proxies say on whose behalf they ask.
pub const FORWARDED_FOR: &[u8] = b"x-forwarded-for";

/// What is told of a client.
pub struct Told {
    /// Its address, where one was told.
    pub address: Option<SocketAddr>,
    /// Whether nobody stands between it and us.
    is_alone: bool,
}

impl Told {
    /// Whether the request is our own.
    pub fn is_internal(&self, clients: &Clients) -> bool {
        let ip = self.address.map(|address| address.ip());
        self.is_alone && ip.is_some_and(|ip| clients.internal.iter().any(|range| range.contains(ip)))
    }
}

/// The client's address: of who opened the connection, or what those before say.
pub fn told(head: &RequestHead, clients: &Clients, opener: SocketAddr) -> Told {
    let is_said = head.fields.find(FORWARDED_FOR).is_some();
    if clients.is_edge {
        let hops = clients.trusted_hops.checked_sub(1);
        let told = hops.filter(|_| is_said).and_then(|hops| from_end(head, hops));
        return Told { address: Some(told.unwrap_or(opener)), is_alone: !is_said };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::Cidr;

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
            let told = told(&head, &clients, ([127, 0, 0, 1], 1).into());
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
