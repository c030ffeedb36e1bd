//! How the traffic of an unmodified program reaches its proxy: a network namespace, nftables, DNS.

pub mod dns;
