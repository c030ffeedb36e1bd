//! Config as a whole: put together from parts, and compared.

use super::{Config, Key, MeshDefaults, OutsidePolicy, Table};

/// Ages below are an order in files, and not a time: seconds since 1970 have been more for half a century.
const MAX_ORDER: u64 = 1_000_000_000;

impl Config {
    /// Takes in what a part of it says; of what both have, the part's stays. `before` resources stand before the part,
    /// from which ages that are an order in files are counted on.
    pub fn absorb(&mut self, part: &Self, before: u64) {
        let Self {
            namespaces,
            services,
            endpoint_slices,
            routes,
            connection_routes,
            reference_grants,
            gateways,
            backend_tls,
            authorities,
            peer_authentications,
            authorization_policies,
            request_authentications,
            service_entries,
            workload_entries,
            sidecars,
            telemetries,
            destination_rules,
            traffic_policies,
            registrations,
            defaults,
            outside,
        } = part;
        add(&mut self.namespaces, namespaces, |_| {});
        add(&mut self.services, services, |_| {});
        add(&mut self.endpoint_slices, endpoint_slices, |_| {});
        add(&mut self.routes, routes, |route| age(&mut route.age, before));
        add(&mut self.connection_routes, connection_routes, |route| age(&mut route.age, before));
        add(&mut self.reference_grants, reference_grants, |_| {});
        add(&mut self.gateways, gateways, |_| {});
        add(&mut self.backend_tls, backend_tls, |_| {});
        add(&mut self.authorities, authorities, |_| {});
        add(&mut self.peer_authentications, peer_authentications, |_| {});
        add(&mut self.authorization_policies, authorization_policies, |_| {});
        add(&mut self.request_authentications, request_authentications, |_| {});
        add(&mut self.service_entries, service_entries, |_| {});
        add(&mut self.workload_entries, workload_entries, |_| {});
        add(&mut self.sidecars, sidecars, |_| {});
        add(&mut self.telemetries, telemetries, |_| {});
        add(&mut self.destination_rules, destination_rules, |rule| age(&mut rule.age, before));
        add(&mut self.traffic_policies, traffic_policies, |policy| age(&mut policy.age, before));
        add(&mut self.registrations, registrations, |_| {});
        if *defaults != MeshDefaults::default() {
            self.defaults = defaults.clone();
        }
        if *outside != OutsidePolicy::default() {
            self.outside = *outside;
        }
    }

    /// The endpoint slices that differ from those of another config; `None` where anything else differs.
    pub fn differing_slices(&self, other: &Self) -> Option<Vec<Key>> {
        let rest = Self { endpoint_slices: other.endpoint_slices.clone(), ..self.clone() };
        if rest != *other {
            return None;
        }
        let (ours, others) = (&self.endpoint_slices, &other.endpoint_slices);
        if ours.is_same(others) {
            return Some(Vec::new());
        }
        let differing = ours.iter().filter(|(key, slice)| others.get(*key) != Some(*slice));
        let gone = others.keys().filter(|key| !ours.contains_key(*key));
        Some(differing.map(|(key, _)| key).chain(gone).cloned().collect())
    }
}

fn add<K: Clone + Ord, V: Clone>(to: &mut Table<K, V>, part: &Table<K, V>, change: impl Fn(&mut V)) {
    if !part.is_empty() {
        to.extend(part.iter().map(|(key, value)| {
            let mut value = value.clone();
            change(&mut value);
            (key.clone(), value)
        }));
    }
}

fn age(age: &mut u64, before: u64) {
    if *age < MAX_ORDER {
        *age += before;
    }
}
