//! The mesh that is simulated, as config.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The namespace of all of it.
pub(super) const NAMESPACE: &str = "bench";
/// The services that each proxy calls, and so the proxies that use each service.
const CALLS: usize = 10;
/// Services, with a slice each, in one request.
const BATCH: usize = 100;

/// How large the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) proxies: usize,
    pub(crate) services: usize,
    /// Endpoints of each service.
    pub(crate) endpoints: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proxies, services, endpoints } = self;
        write!(f, "{proxies} proxies, {services} services, {} endpoints", services * endpoints)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Result<Vec<usize>, _> = text.split('/').map(str::parse).collect();
        match parts.as_deref() {
            Ok(&[proxies, services, endpoints]) if proxies >= services && services > 0 && endpoints > 0 => {
                Ok(Self { proxies, services, endpoints })
            }
            _ => Err("as 1000/1000/10, with a proxy for each service at least".to_owned()),
        }
    }
}

impl Size {
    pub(super) const ALL: [Self; 2] = [
        Self { proxies: 1_000, services: 1_000, endpoints: 10 },
        Self { proxies: 1_000, services: 1_000, endpoints: 100 },
    ];

    /// The proxies that use one service.
    pub(super) fn users(self) -> usize {
        CALLS.min(self.services) * self.proxies / self.services
    }

    /// The services that a proxy calls.
    pub(super) fn called(self, proxy: usize) -> impl Iterator<Item = usize> {
        (0..CALLS.min(self.services)).map(move |n| (proxy + n) % self.services)
    }

    /// All of it, in pieces that one request takes.
    pub(super) fn sources(self) -> Vec<(String, String)> {
        let batches = (0..self.services).step_by(BATCH).map(|first| first..self.services.min(first + BATCH));
        let both = |n| format!("{}---\n{}", service(n), self.slice(n, None));
        let text = |batch: std::ops::Range<usize>| batch.map(both).collect::<Vec<_>>().join("---\n");
        batches.map(|batch| (format!("services-{}", batch.start), text(batch))).collect()
    }

    /// A service's slice in which one address is new, and that address.
    pub(super) fn changed(self, service: usize, round: usize) -> (String, IpAddr) {
        let address = of_number(11, round);
        (self.slice(service, Some(address)), address)
    }

    /// A route for each service, with a time-out of its own.
    pub(super) fn all_routes(self) -> String {
        let route = |n: usize| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: s{n}, namespace: \
                 {NAMESPACE} }}\nspec:\n  parentRefs: [{{ group: \"\", kind: Service, name: s{n} }}]\n  rules: [{{ \
                 backendRefs: [{{ name: s{n}, port: 80 }}], timeouts: {{ request: 5s }} }}]\n"
            )
        };
        (0..self.services).map(route).collect::<Vec<_>>().join("---\n")
    }

    fn slice(self, service: usize, new: Option<IpAddr>) -> String {
        let addresses = (0..self.endpoints).map(|n| of_number(10, service * self.endpoints + n));
        let addresses = new.into_iter().chain(addresses.skip(usize::from(new.is_some())));
        let zone = |n: usize| ["a", "b", "c"][n % 3];
        let endpoint = |(n, address)| format!("  - {{ addresses: [{address}], zone: {} }}\n", zone(n));
        let endpoints: String = addresses.enumerate().map(endpoint).collect();
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{service}-1\n  namespace: \
             {NAMESPACE}\n  labels: {{ kubernetes.io/service-name: s{service} }}\n  annotations: {{ \
             meshwork.dev/service-account: s{service} }}\naddressType: IPv4\nendpoints:\n{endpoints}ports: [{{ name: \
             http, port: 8080 }}]\n"
        )
    }
}

fn service(n: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{n}, namespace: {NAMESPACE} }}\nspec: {{ ports: [{{ name: \
         http, port: 80 }}] }}\n"
    )
}

fn of_number(first: u8, n: usize) -> IpAddr {
    let [.., a, b, c] = n.to_be_bytes();
    Ipv4Addr::new(first, a, b, c).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_as_many_users_as_every_other() {
        let size = Size { proxies: 40, services: 20, endpoints: 3 };
        let mut users = vec![0; size.services];
        for service in (0..size.proxies).flat_map(|proxy| size.called(proxy)) {
            users[service] += 1;
        }
        assert_eq!(users, [size.users(); 20]);
        assert_eq!(size.sources().len(), 1);
        let (text, address) = size.changed(7, 300);
        assert_eq!(address.to_string(), "11.0.1.44");
        assert!(text.contains("11.0.1.44") && text.contains("10.0.0.22") && !text.contains("10.0.0.21"));
    }
}
