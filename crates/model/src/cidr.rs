//! Ranges of IP addresses, as `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network and the addresses in it. One of IPv4 has no address of IPv6, not even a mapped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// The network of an address; a length past the address's bits means all of them.
    ///
    /// Source: Envoy `config.core.v3.CidrRange`, which cuts both in this way.
    pub fn new(address: IpAddr, length: u32) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(length.min(bits)).unwrap_or(u8::MAX);
        Self { network: masked(address, length), length }
    }

    /// The first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits all of its addresses have in common.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.length) == self.network
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// An address, of which only the first bits are left.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// Values by the range of an address, of which the longest that has it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges<T> {
    /// The longest first.
    ranges: Vec<(Cidr, T)>,
    /// That of every address.
    any: Option<T>,
}

// === impl Ranges ===

impl<T: Default> Ranges<T> {
    /// The value of a range, which is made where there is none; `None` stands for every address.
    pub fn entry(&mut self, range: Option<Cidr>) -> &mut T {
        let Some(range) = range else { return self.any.get_or_insert_with(T::default) };
        let key = |entry: &(Cidr, T)| (u8::MAX - entry.0.length, entry.0.network);
        let at = match self.ranges.binary_search_by_key(&(u8::MAX - range.length, range.network), key) {
            Ok(at) => at,
            Err(at) => {
                self.ranges.insert(at, (range, T::default()));
                at
            }
        };
        &mut self.ranges[at].1
    }
}

impl<T> Ranges<T> {
    /// The value of the longest range that has an address.
    pub fn longest(&self, address: IpAddr) -> Option<&T> {
        let mut rest = &self.ranges[..];
        // One search for each length that occurs.
        while let Some((Cidr { length, .. }, _)) = rest.first() {
            let (same, shorter) = rest.split_at(rest.partition_point(|(range, _)| range.length == *length));
            let bits = if address.is_ipv4() { 32 } else { 128 };
            if *length <= bits {
                let network = masked(address, *length);
                if let Ok(at) = same.binary_search_by_key(&network, |(range, _)| range.network) {
                    return Some(&same[at].1);
                }
            }
            rest = shorter;
        }
        self.any.as_ref()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.any.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        let (address, length) = text.split_once('/').expect("a range");
        Cidr::new(address.parse().expect("an address"), length.parse().expect("a length"))
    }

    #[test]
    fn a_range_has_the_addresses_of_its_network() {
        let check = |range: &str, address: &str, expected: bool| {
            assert_eq!(cidr(range).contains(address.parse().expect("valid")), expected, "{range} {address}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.9.9.9/8", "10.0.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "::1", true);
        check("::/0", "203.0.113.9", false);
        check("192.0.2.1/32", "192.0.2.1", true);
        check("192.0.2.1/99", "192.0.2.1", true);
        check("192.0.2.1/99", "192.0.2.2", false);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::ffff:10.0.0.0/104", "10.0.0.1", false);
    }

    #[test]
    fn the_longest_range_counts() {
        let mut ranges = Ranges::default();
        for (range, value) in [
            ("10.0.0.0/8", 8),
            ("10.1.0.0/16", 16),
            ("10.1.2.3/32", 32),
            ("2001:db8::/32", 6),
            ("0.0.0.0/0", 0),
        ] {
            *ranges.entry(Some(cidr(range))) = value;
        }
        let check = |ranges: &Ranges<i32>, address: &str, expected: Option<i32>| {
            assert_eq!(ranges.longest(address.parse().expect("valid")).copied(), expected, "{address}");
        };
        check(&ranges, "10.1.2.3", Some(32));
        check(&ranges, "10.1.2.4", Some(16));
        check(&ranges, "10.2.0.0", Some(8));
        check(&ranges, "11.0.0.0", Some(0));
        check(&ranges, "2001:db8::1", Some(6));
        check(&ranges, "2001:db9::1", None);
        *ranges.entry(None) = -1;
        check(&ranges, "2001:db9::1", Some(-1));
        check(&ranges, "11.0.0.0", Some(0));
    }
}
