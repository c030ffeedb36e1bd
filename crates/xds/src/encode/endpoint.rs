//! Endpoints.

use std::collections::HashMap;
use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{
    CheckTarget, Dns, DnsHost, Endpoint, Endpoints, Health, LoadPolicy, Locality, Metadata, NamedEndpoint,
    Place, Workload,
};

use super::terms::share;
use super::{Writer, address, number, socket_address};
use crate::node::Dialect;
use crate::{metadata, pb};

/// The one locality of gRPC's endpoints that have none: it drops endpoints without a locality, and without a weight, in
/// silence.
const LOCALITY: &str = "mesh";
/// Of how many dropped requests are counted.
const MILLION: u32 = 1_000_000;
/// What dropped requests are called in statistics.
const DROPPED: &str = "drop";

impl Writer<'_> {
    pub(super) fn endpoints(&self, endpoints: &Endpoints) -> pb::endpoint::ClusterLoadAssignment {
        let each = endpoints.endpoints.iter();
        let placed = each.map(|endpoint| (&endpoint.place, lb_endpoint(endpoint, address(endpoint.address))));
        self.assignment(&endpoints.cluster, placed, &endpoints.policy)
    }

    /// Endpoints by name.
    pub(super) fn named(&self, cluster: &str, dns: &Dns) -> pb::endpoint::ClusterLoadAssignment {
        // gRPC knows one name at most.
        let most = if self.is_grpc() { 1 } else { usize::MAX };
        let placed =
            dns.hosts.iter().take(most).map(|NamedEndpoint { host: DnsHost { host, port }, endpoint }| {
                // What Envoy takes for granted is not said.
                let hostname =
                    if endpoint.hostname == *host { Arc::default() } else { endpoint.hostname.clone() };
                let written = Endpoint { hostname, ..endpoint.clone() };
                (&endpoint.place, lb_endpoint(&written, socket_address(host.to_string(), *port)))
            });
        self.assignment(cluster, placed, &dns.policy)
    }

    /// Endpoints by their places, in the order in which these come first.
    fn assignment<'p>(
        &self,
        cluster: &str,
        endpoints: impl Iterator<Item = (&'p Arc<Place>, pb::endpoint::LbEndpoint)>,
        policy: &LoadPolicy,
    ) -> pb::endpoint::ClusterLoadAssignment {
        let mut places: Vec<(&Arc<Place>, Vec<pb::endpoint::LbEndpoint>)> = Vec::new();
        let mut known: HashMap<&Place, usize> = HashMap::new();
        for (place, endpoint) in endpoints {
            match places.last_mut() {
                // As a rule neighbours share a place.
                Some((last, there)) if Arc::ptr_eq(last, place) => there.push(endpoint),
                _ => {
                    let at = *known.entry(&**place).or_insert(places.len());
                    match places.get_mut(at) {
                        Some((_, there)) => there.push(endpoint),
                        None => places.push((place, vec![endpoint])),
                    }
                }
            }
        }
        let localities = places.into_iter().map(|(place, there)| locality(place, there));
        let localities = if self.is_grpc() { for_grpc(localities.collect()) } else { localities.collect() };
        pb::endpoint::ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            endpoints: localities,
            policy: (*policy != LoadPolicy::default()).then(|| self.load_policy(policy)),
            ..pb::endpoint::ClusterLoadAssignment::default()
        }
    }

    fn load_policy(&self, policy: &LoadPolicy) -> pb::endpoint::cluster_load_assignment::Policy {
        use pb::endpoint::cluster_load_assignment::policy::DropOverload;
        let drop = |parts: &u32| DropOverload {
            category: DROPPED.to_owned(),
            drop_percentage: Some(share(Fraction { numerator: *parts, denominator: MILLION })),
        };
        let drops = match &policy.drops[..] {
            // Envoy takes one.
            several @ [_, _, ..] if self.dialect == Dialect::Envoy => vec![as_one(several)],
            drops => drops.to_vec(),
        };
        let usual = LoadPolicy::default().overprovisioning;
        pb::endpoint::cluster_load_assignment::Policy {
            drop_overloads: drops.iter().map(drop).collect(),
            overprovisioning_factor: (policy.overprovisioning != usual)
                .then(|| number(policy.overprovisioning)),
            weighted_priority_health: policy.by_weight,
            ..pb::endpoint::cluster_load_assignment::Policy::default()
        }
    }
}

/// Parts of a million that are dropped category by category, as one category.
fn as_one(drops: &[u32]) -> u32 {
    let million = u64::from(MILLION);
    let pass = |left: u64, part: &u32| left * (million - u64::from(*part).min(million)) / million;
    u32::try_from(million - drops.iter().fold(million, pass)).unwrap_or(MILLION)
}

/// gRPC wants a locality with a weight, and priorities without gaps; of one priority, no locality twice.
fn for_grpc(localities: Vec<pb::endpoint::LocalityLbEndpoints>) -> Vec<pb::endpoint::LocalityLbEndpoints> {
    let mut priorities: Vec<u32> = localities.iter().map(|locality| locality.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let mut known: Vec<pb::endpoint::LocalityLbEndpoints> = Vec::new();
    for mut locality in localities {
        let place = priorities.binary_search(&locality.priority).unwrap_or(0);
        locality.priority = u32::try_from(place).unwrap_or(u32::MAX);
        locality.load_balancing_weight.get_or_insert(number(1));
        locality.locality.get_or_insert_with(|| pb::core::Locality {
            region: LOCALITY.to_owned(),
            ..pb::core::Locality::default()
        });
        let is_same = |other: &&mut pb::endpoint::LocalityLbEndpoints| {
            other.priority == locality.priority && other.locality == locality.locality
        };
        match known.iter_mut().find(is_same) {
            Some(same) => same.lb_endpoints.append(&mut locality.lb_endpoints),
            None => known.push(locality),
        }
    }
    known
}

fn locality(place: &Place, endpoints: Vec<pb::endpoint::LbEndpoint>) -> pb::endpoint::LocalityLbEndpoints {
    let Locality { region, zone, sub_zone } = &place.locality;
    pb::endpoint::LocalityLbEndpoints {
        locality: (place.locality != Locality::default()).then(|| pb::core::Locality {
            region: region.to_string(),
            zone: zone.to_string(),
            sub_zone: sub_zone.to_string(),
        }),
        metadata: written(&place.metadata, None, None),
        lb_endpoints: endpoints,
        load_balancing_weight: place.weight.map(number),
        priority: place.priority,
        ..pb::endpoint::LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint, address: pb::core::Address) -> pb::endpoint::LbEndpoint {
    use pb::endpoint::lb_endpoint::HostIdentifier;
    let host = pb::endpoint::Endpoint {
        address: Some(address),
        health_check_config: (endpoint.check != CheckTarget::default()).then(|| check(&endpoint.check)),
        hostname: endpoint.hostname.to_string(),
        ..pb::endpoint::Endpoint::default()
    };
    pb::endpoint::LbEndpoint {
        health_status: health(endpoint.health) as i32,
        metadata: written(&endpoint.metadata, endpoint.transport.as_deref(), endpoint.workload.as_ref()),
        // What Envoy takes for granted is not said.
        load_balancing_weight: (endpoint.weight != 1).then(|| number(endpoint.weight)),
        host_identifier: Some(HostIdentifier::Endpoint(host)),
    }
}

fn check(target: &CheckTarget) -> pb::endpoint::endpoint::HealthCheckConfig {
    pb::endpoint::endpoint::HealthCheckConfig {
        port_value: target.port.unwrap_or(0).into(),
        hostname: target.hostname.to_string(),
        address: target.address.map(address),
        disable_active_health_check: target.is_disabled,
    }
}

fn health(health: Health) -> pb::core::HealthStatus {
    match health {
        Health::Unknown => pb::core::HealthStatus::Unknown,
        Health::Healthy => pb::core::HealthStatus::Healthy,
        Health::Unhealthy => pb::core::HealthStatus::Unhealthy,
        Health::Draining => pb::core::HealthStatus::Draining,
        Health::Timeout => pb::core::HealthStatus::Timeout,
        Health::Degraded => pb::core::HealthStatus::Degraded,
    }
}

/// All that is known of an endpoint or a place, with our own keys; `None` where that is nothing.
fn written(
    known: &Metadata,
    transport: Option<&str>,
    workload: Option<&Workload>,
) -> Option<pb::core::Metadata> {
    let each = known.iter();
    let mut all: HashMap<_, _> =
        each.map(|(filter, values)| (filter.to_string(), metadata::to_struct(values))).collect();
    let mut add = |filter: &str, key: &str, text: &str| {
        let value = pb::Value { kind: Some(pb::value::Kind::StringValue(text.to_owned())) };
        all.entry(filter.to_owned()).or_default().fields.insert(key.to_owned(), value);
    };
    if let Some(identity) = transport {
        add(metadata::TRANSPORT, metadata::IDENTITY, identity);
    }
    if let Some(workload) = workload {
        add(metadata::ISTIO, metadata::WORKLOAD, &workload_text(workload));
    }
    (!all.is_empty()).then(|| pb::core::Metadata { filter_metadata: all, ..pb::core::Metadata::default() })
}

/// Istio's `<name>;<namespace>;<app>;<version>;<cluster>`; there is one cluster, without a name.
fn workload_text(workload: &Workload) -> String {
    format!("{};{};{};{};", workload.name, workload.namespace, workload.app, workload.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_category_by_category_is_dropped_at_once() {
        let check = |drops: &[u32], expected| assert_eq!(as_one(drops), expected, "{drops:?}");
        check(&[], 0);
        check(&[10_000], 10_000);
        check(&[500_000, 500_000], 750_000);
        check(&[1_000_000, 3], 1_000_000);
    }

    #[test]
    fn grpc_gets_each_locality_once_in_priorities_without_gaps() {
        let place = |priority, weight, zone: &str| {
            let locality = (!zone.is_empty())
                .then(|| pb::core::Locality { zone: zone.to_owned(), ..pb::core::Locality::default() });
            pb::endpoint::LocalityLbEndpoints {
                priority,
                locality,
                load_balancing_weight: weight,
                lb_endpoints: vec![pb::endpoint::LbEndpoint::default()],
                ..pb::endpoint::LocalityLbEndpoints::default()
            }
        };
        let places =
            vec![place(3, None, ""), place(3, Some(number(2)), ""), place(7, None, "a"), place(3, None, "a")];
        let shown = |place: &pb::endpoint::LocalityLbEndpoints| {
            let weight = place.load_balancing_weight.map_or(0, |weight| weight.value);
            let locality = place.locality.clone().unwrap_or_default();
            (
                place.priority,
                format!("{}{}", locality.region, locality.zone),
                weight,
                place.lb_endpoints.len(),
            )
        };
        let expected = [(0, "mesh".to_owned(), 1, 2), (1, "a".to_owned(), 1, 1), (0, "a".to_owned(), 1, 1)];
        assert_eq!(for_grpc(places).iter().map(shown).collect::<Vec<_>>(), expected);
    }
}
