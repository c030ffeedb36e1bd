//! Hosts outside the mesh, and workloads that have not enrolled: Istio's ServiceEntry and WorkloadEntry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Export, Labels, Protocol};
use crate::proxy::Locality;

/// Hosts that captured workloads may reach by name. Source: Istio `networking.istio.io/v1` ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Full names, lowercase, without the dot at the end; at least one.
    pub hosts: Vec<Arc<str>>,
    /// Ports; at least one.
    pub ports: Vec<EntryPort>,
    /// Where the hosts really are.
    pub resolution: Resolution,
    /// The namespaces that see them.
    pub export: Export,
    /// Names of which the hosts' certificates have one, where the proxy speaks TLS with them; empty for their own.
    pub names: Vec<Arc<str>>,
}

/// A port of a host outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// Name; endpoints refer to it.
    pub name: Arc<str>,
    /// The port that clients call.
    pub number: u16,
    /// The port of the host, where no endpoint names another.
    pub target_port: u16,
    /// What is spoken.
    pub protocol: EntryProtocol,
}

/// What is spoken on a port of a host outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryProtocol {
    /// In plaintext.
    Plain(Protocol),
    /// TLS that the application itself speaks with the host.
    Tls,
}

/// Where hosts outside really are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Where DNS says, asked for these hosts; for the called one itself where there are none.
    Dns(Vec<EntryEndpoint<Arc<str>>>),
    /// At these addresses; at least one.
    Static(Vec<EntryEndpoint<IpAddr>>),
    /// Where the workloads and WorkloadEntries of the entry's namespace are that have these labels; at least one.
    Workloads(Labels),
}

/// An endpoint of a host outside, or a workload that has not enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint<A> {
    /// Its address, or name.
    pub address: A,
    /// Its ports by the names of the entry's or the service's ports, where they are not the same.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Labels, by which services, entries and subsets select it.
    pub labels: Labels,
    /// The service account that it proves to be by mTLS; `None` where it is called in plaintext.
    pub account: Option<Arc<str>>,
    /// Its share of load among its like, at least 1.
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality,
}

impl EntryPort {
    /// Whether requests, not bytes, are routed, and what is spoken; bytes where the application speaks TLS.
    pub fn spoken(&self) -> Protocol {
        match self.protocol {
            EntryProtocol::Plain(protocol) => protocol,
            EntryProtocol::Tls => Protocol::Tcp,
        }
    }
}

impl<A> EntryEndpoint<A> {
    /// Its port for a port of this name.
    pub fn port(&self, name: &str, otherwise: u16) -> u16 {
        self.ports.get(name).copied().unwrap_or(otherwise)
    }
}
