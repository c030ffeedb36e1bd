//! Addresses behind a service that somebody else found: what is not enrolled here, or is known by its pod's name.

use std::net::IpAddr;
use std::sync::Arc;

use crate::proxy::Locality;

/// Addresses behind a service, as somebody else found them. Source: Kubernetes `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The service of the same namespace; a slice without one is behind nothing.
    pub service: Option<Arc<str>>,
    /// Ports by the name that they have in the service.
    pub ports: Vec<SlicePort>,
    /// Addresses.
    pub endpoints: Vec<SliceEndpoint>,
    /// The service account, of the same namespace, that whoever answers must prove; `None` where it is in plaintext.
    pub service_account: Option<Arc<str>>,
}

/// A port of every address of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service's port; empty where that has none.
    pub name: Arc<str>,
    /// The port at the address; `None` for the one that the service targets.
    pub port: Option<u16>,
}

/// An address of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The address.
    pub address: IpAddr,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it would still answer, though it takes no more: it is about to end.
    pub serving: bool,
    /// The workload, of the slice's namespace, that it is the address of.
    pub workload: Option<Arc<str>>,
    /// Where it runs.
    pub locality: Locality,
}

impl EndpointSlice {
    /// The port at its addresses for a port of the service: by name, or the only one where the service's has none.
    pub fn port(&self, name: &str, target: u16) -> Option<u16> {
        let found = self.ports.iter().find(|port| *port.name == *name);
        let found = found.or_else(|| self.ports.first().filter(|_| self.ports.len() == 1 && name.is_empty()));
        found.map(|port| port.port.unwrap_or(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_name_or_is_the_only_one() {
        let slice = |ports: &[(&str, Option<u16>)]| EndpointSlice {
            service: None,
            ports: ports.iter().map(|(name, port)| SlicePort { name: (*name).into(), port: *port }).collect(),
            endpoints: Vec::new(),
            service_account: None,
        };
        let check = |ports: &[(&str, Option<u16>)], name: &str, expected: Option<u16>| {
            assert_eq!(slice(ports).port(name, 80), expected, "{ports:?} {name}");
        };
        check(&[("http", Some(8080)), ("admin", Some(9000))], "admin", Some(9000));
        check(&[("http", None)], "http", Some(80));
        check(&[("http", Some(8080))], "", Some(8080));
        check(&[("http", Some(8080)), ("admin", Some(9000))], "", None);
        check(&[("http", Some(8080))], "grpc", None);
        check(&[], "", None);
    }
}
