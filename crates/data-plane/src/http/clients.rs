//! This machine's address, as proxies behind it are told; who a client is by what they are told, `model::client` says.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::OnceLock;

use meshwork_model::head::RequestHead;
use meshwork_model::intake::append_client;

/// Appends this machine's address, for a request that nobody else sends.
pub(super) fn append_own(head: &mut RequestHead) {
    append_client(head, own_address());
}

/// The address by which this machine reaches others.
pub(super) fn own_address() -> IpAddr {
    static OWN: OnceLock<IpAddr> = OnceLock::new();
    // No packet is sent: it is the address that one would have.
    let find = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    *OWN.get_or_init(|| find().unwrap_or(Ipv4Addr::LOCALHOST.into()))
}
