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

#[cfg(test)]
mod tests {
    use super::*;

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
