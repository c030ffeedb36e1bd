//! The fixed addresses inside a workload's network namespace.
//!
//! Nobody outside sees them: a namespace has no interface but its own loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use meshwork_model::proxy::{WORKLOAD_SOURCE_V4, WORKLOAD_SOURCE_V6};

/// Where TCP connections that leave the program are redirected to, by IP version.
pub const OUTBOUND: [SocketAddr; 2] = on_loopback(15001);
/// Where DNS queries are redirected to, by IP version.
pub const NAMES: [SocketAddr; 2] = on_loopback(15053);
/// The workload's own addresses, until the control plane has given it others. Source: RFC 2544 (198.18.0.0/15).
pub const WORKLOAD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd6d, 0x6573, 0x6877, 0xffff, 0, 0, 0, 1)),
];
/// From where the sidecar connects to the program. Not from loopback: programs trust that.
pub const SIDECAR: [IpAddr; 2] = [IpAddr::V4(WORKLOAD_SOURCE_V4), IpAddr::V6(WORKLOAD_SOURCE_V6)];

const fn on_loopback(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
    ]
}
