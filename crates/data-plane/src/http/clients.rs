//! `x-forwarded-for`, as it is written; who the client is by it, `model::client` says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::OnceLock;

use meshwork_model::client::FORWARDED_FOR;
use meshwork_model::head::RequestHead;

use crate::connection::Peer;

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
