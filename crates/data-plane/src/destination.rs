//! Where a redirected connection was meant to go, and what nobody is taken to.
//!
//! A proxy connects from the host's own network, where more can be reached than the workload behind it may: what
//! listens on loopback trusts whoever can connect. So some destinations are refused whatever config says. Source for
//! the kinds of addresses: RFC 6890.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use meshwork_model::address::nearness;
use tokio::time::Instant;

use crate::limits::{OWN_ADDRESSES_KEPT, OWN_ADDRESSES_KNOWN};

/// Why nobody is taken to an address, on any host; `None` where that depends.
pub(crate) fn refusal(address: IpAddr) -> Option<&'static str> {
    nearness(address)
}

/// Which addresses are this host's own, as far as a worker knows.
#[derive(Default)]
pub(crate) struct Own {
    known: RefCell<HashMap<IpAddr, (bool, Instant)>>,
}

impl Own {
    /// Why nobody is taken to an address from this host.
    pub(crate) fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        refusal(address).or_else(|| self.has(address).then_some("an address of the host itself"))
    }

    fn has(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut known = self.known.borrow_mut();
        if let Some((is_own, since)) = known.get(&address)
            && now.duration_since(*since) < OWN_ADDRESSES_KEPT
        {
            return *is_own;
        }
        if known.len() >= OWN_ADDRESSES_KNOWN {
            known.clear();
        }
        let is_own = is_own(address);
        known.insert(address, (is_own, now));
        is_own
    }
}

/// Whether an address is this host's own. What cannot be found out counts as its own.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let nobodys = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    // Where any address may be bound (`ip_nonlocal_bind`), that says nothing; but who calls its own address calls from
    // it.
    binds(address) && (!binds(nobodys) || source_towards(address).is_none_or(|source| source == address))
}

/// Whether a socket can have this address; any failure but the one that says no counts as yes.
fn binds(address: IpAddr) -> bool {
    !UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The address that this host would call from.
fn source_towards(address: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((anywhere(address), 0)).ok()?;
    // Nothing is sent: the kernel only looks for a route.
    socket.connect((address, DISCARD)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The unspecified address of the same IP version.
pub(crate) fn anywhere(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A port to ask routes for. Source: RFC 863.
const DISCARD: u16 = 9;

/// Whether there is a route to an address at all.
pub(crate) fn is_routed(address: IpAddr) -> bool {
    source_towards(address).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_the_host_is_refused() {
        let check = |address: &str, expected: Option<&str>| {
            let got = refusal(address.parse().expect("an address"));
            assert_eq!(got.is_some(), expected.is_some(), "{address}: {got:?}");
            assert!(got.unwrap_or_default().contains(expected.unwrap_or_default()), "{address}: {got:?}");
        };
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            check(address, Some("loopback"));
        }
        for address in ["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.0.1"] {
            check(address, Some("link-local"));
        }
        for address in ["224.0.0.1", "239.255.255.255", "ff02::1"] {
            check(address, Some("multicast"));
        }
        for address in ["0.0.0.0", "0.1.2.3", "255.255.255.255", "::"] {
            check(address, Some("no host's"));
        }
        for address in ["192.0.2.1", "10.0.0.1", "240.0.0.1", "2001:db8::1", "fd6d:6573:6877::1"] {
            check(address, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_hosts_own_addresses_are_known_for_a_while_and_not_without_bound() {
        let own = Own::default();
        let (mine, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 7]));
        assert!(own.has(mine) && !own.has(other));
        // What is remembered is told again, until it is old.
        own.known.borrow_mut().insert(other, (true, Instant::now()));
        assert!(own.has(other));
        tokio::time::advance(OWN_ADDRESSES_KEPT).await;
        assert!(!own.has(other));
        for last in 0..=u16::MAX {
            let [high, low] = last.to_be_bytes();
            let address = IpAddr::from([198, 51, high, low]);
            own.known.borrow_mut().insert(address, (false, Instant::now()));
            if own.known.borrow().len() >= OWN_ADDRESSES_KNOWN {
                break;
            }
        }
        own.has(IpAddr::from([192, 0, 2, 8]));
        assert_eq!(own.known.borrow().len(), 1);
    }
}
