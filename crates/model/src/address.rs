//! Virtual addresses: what names of the mesh stand for where a program's traffic is captured.
//!
//! Nobody has such an address on a real network. The control plane numbers what has a name; a number is an address of
//! either IP version: `240.0.0.1` and `fd6d:6573:6877::1` are the first. Source: RFC 1112 §4 (240.0.0.0/4 is
//! reserved), RFC 4193 (the prefix spells "meshw").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The virtual address with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualAddress(u32);

/// `240.0.0.0`
const BASE_V4: u32 = 0xf000_0000;
/// `fd6d:6573:6877::`
const BASE_V6: u128 = 0xfd6d_6573_6877 << 80;
/// Addresses in a block of 256: what ends in .0 or .255 looks like a network or a broadcast to some programs.
const PER_BLOCK: u32 = 254;
/// Blocks, without the last one: the broadcast address of all networks is in it.
const BLOCKS: u32 = (1 << 20) - 1;

impl VirtualAddress {
    /// The last number.
    pub const LAST: u32 = BLOCKS * PER_BLOCK;

    /// The address with a number, from 1 up; `None` past [`VirtualAddress::LAST`].
    pub fn of_number(number: u32) -> Option<Self> {
        (1..=Self::LAST).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Its place within 240.0.0.0/4.
    fn offset(self) -> u32 {
        let index = self.0 - 1;
        index / PER_BLOCK * 256 + index % PER_BLOCK + 1
    }

    /// The address of IPv4.
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(BASE_V4 + self.offset())
    }

    /// The address of IPv6; its last 32 bits are the last 28 of [`VirtualAddress::v4`].
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(BASE_V6 + u128::from(self.offset()))
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }

    /// The virtual address that an IP address is, if it is one.
    pub fn of_ip(ip: IpAddr) -> Option<Self> {
        let offset = match ip {
            IpAddr::V4(ip) => ip.to_bits().checked_sub(BASE_V4)?,
            IpAddr::V6(ip) => u32::try_from(ip.to_bits().checked_sub(BASE_V6)?).ok()?,
        };
        let within = offset % 256;
        let number = (offset / 256).checked_mul(PER_BLOCK)?.checked_add(within)?;
        if (1..=PER_BLOCK).contains(&within) { Self::of_number(number) } else { None }
    }
}

/// Whether an address is of those that only the mesh gives meaning to, given out or not: all of 240.0.0.0/4 and
/// `fd6d:6573:6877::/48`. A host of the mesh never connects to one.
pub fn is_virtual(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_bits() >= BASE_V4,
        IpAddr::V6(ip) => ip.to_bits() >> 80 == BASE_V6 >> 80,
    }
}

/// What an address near the host is; `None` where it is another host's. What listens there trusts whoever can connect.
/// Source: RFC 6890.
pub fn nearness(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    let (is_link_local, is_nowhere) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[0] == 0 || v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_unspecified()),
    };
    if ip.is_loopback() {
        Some("loopback of the host")
    } else if is_link_local {
        Some("a link-local address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if is_nowhere {
        Some("no host's address")
    } else {
        None
    }
}

/// Where clouds tell a machine who it is, besides 169.254.169.254: of AWS, Google, Alibaba and Oracle.
const METADATA: &[IpAddr] = &[
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Why nothing is fetched from an address that others may name; `None` where something may be. Private networks may be
/// fetched from: keys are usually there.
pub fn unfetchable(ip: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&ip.to_canonical()) {
        return Some("where the cloud tells secrets of this machine");
    }
    if is_virtual(ip) { Some("an address that only the mesh gives meaning to") } else { nearness(ip) }
}

/// The same of a host by its name, as far as the name says it: an address, or one of `localhost`.
pub fn unfetchable_host(host: &str) -> Option<&'static str> {
    let is_localhost = |name: &str| name == "localhost" || name.ends_with(".localhost");
    match host.parse() {
        Ok(ip) => unfetchable(ip),
        Err(_) => is_localhost(host.trim_end_matches('.')).then_some("loopback of the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_from_near_the_host() {
        let near = [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "febf::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "240.0.0.1",
            "fd6d:6573:6877::1",
            "localhost",
            "localhost.",
            "a.localhost",
        ];
        for host in near {
            assert!(unfetchable_host(host).is_some(), "{host}");
        }
        for host in [
            "10.0.0.1",
            "192.168.0.1",
            "172.16.0.1",
            "fd00::1",
            "2001:db8::1",
            "a.example",
            "localhost.example",
        ] {
            assert_eq!(unfetchable_host(host), None, "{host}");
        }
    }

    #[test]
    fn virtual_addresses_are_those_that_no_network_has() {
        let check = |address: &str, expected| {
            assert_eq!(is_virtual(address.parse().expect("an address")), expected, "{address}");
        };
        check("240.0.0.1", true);
        check("255.255.255.254", true);
        check("::ffff:240.0.0.1", true);
        check("239.255.255.255", false);
        check("fd6d:6573:6877::1", true);
        check("fd6d:6573:6877:ffff::2", true);
        check("fd6d:6573:6878::1", false);
    }

    #[test]
    fn numbers_are_addresses_of_both_versions() {
        let check = |number: u32, v4: &str, v6: &str| {
            let address = VirtualAddress::of_number(number).expect("within");
            assert_eq!((address.v4().to_string(), address.v6().to_string()), (v4.into(), v6.into()));
            for ip in address.both() {
                assert_eq!(VirtualAddress::of_ip(ip), Some(address), "{ip}");
            }
        };
        check(1, "240.0.0.1", "fd6d:6573:6877::1");
        check(254, "240.0.0.254", "fd6d:6573:6877::fe");
        check(255, "240.0.1.1", "fd6d:6573:6877::101");
        check(254 * 256 + 1, "240.1.0.1", "fd6d:6573:6877::1:1");
        check(VirtualAddress::LAST, "255.255.254.254", "fd6d:6573:6877::fff:fefe");
        assert_eq!(VirtualAddress::of_number(0), None);
        assert_eq!(VirtualAddress::of_number(VirtualAddress::LAST + 1), None);
    }

    #[test]
    fn other_addresses_are_nobodys() {
        let others = [
            "127.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "240.0.0.255",
            "255.255.255.1",
            "255.255.255.255",
            "::1",
            "fd6d:6573:6877::",
            "fd6d:6573:6877::1:0",
            "fd6d:6573:6877:ffff::1",
            "fd6d:6573:6878::1",
            "ffff::1",
        ];
        for ip in others {
            assert_eq!(VirtualAddress::of_ip(ip.parse().expect("an address")), None, "{ip}");
        }
    }
}
