//! Connections: the filter chains of a called port of bytes, by the routes that act on its callers.
//!
//! TLSRoute and VirtualService's `tls` tell connections apart by server name (SNI), TCPRoute and `tcp` take what is left.
//! What no rule takes is closed, as a request that no rule takes is answered with 404. Source: Gateway API v1.5,
//! `TLSRouteRule`, `TCPRouteRule`; Istio VirtualService.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::mesh::{
    ConnectionRoute, ConnectionRouteKind, ConnectionRule, Key, Parent, Target, selects,
};
use meshwork_model::proxy::{ChainMatch, FilterChain, NetworkFilter, TcpCluster, Transport};

use super::routes::{Calls, Lead, NOWHERE, Port};
use super::traffic::{Rules, apply_to_bytes};
use super::{Called, listeners};
use crate::attachment;

impl Calls<'_> {
    /// The chains of a called port, and what they lead to; `None` where no route acts on its connections.
    pub(super) fn chains(self, called: &Called<'_>) -> Option<(Vec<FilterChain>, BTreeSet<Lead>)> {
        let namespace = &self.node.key.namespace;
        let acting = attachment::of_connections(&self.mesh.config, called.key, called.port, namespace);
        let port = Port::of(called);
        let (mut chains, mut leads) = (Vec::new(), BTreeSet::new());
        // Two chains for one name would be refused: the oldest route has it.
        let mut taken: BTreeSet<Option<Arc<str>>> = BTreeSet::new();
        for ((_, key), route) in &acting {
            for (i, rule) in route.rules.iter().enumerate().filter(|(_, rule)| self.is_concerned(rule, port))
            {
                let free = |name: &Option<Arc<str>>| !taken.contains(name);
                let names: Vec<Option<Arc<str>>> = match &*rule.server_names {
                    [] => vec![None],
                    names => names.iter().cloned().map(Some).collect(),
                };
                let names: Vec<Option<Arc<str>>> = names.into_iter().filter(free).collect();
                if names.is_empty() {
                    continue;
                }
                taken.extend(names.iter().cloned());
                let name = format!("{}.{}.{i}", key.namespace, key.name);
                let filter = self.to_backends(called, rule, port, &mut leads);
                let matches = by_names(names.into_iter().flatten().collect());
                chains.push(FilterChain { matches, ..FilterChain::new(name, filter) });
            }
        }
        (!acting.is_empty()).then_some((chains, leads))
    }

    fn is_concerned(self, rule: &ConnectionRule, port: Port) -> bool {
        rule.port.is_none_or(|number| number == port.number)
            && selects(&rule.source_labels, &self.node.labels)
            && rule.source_namespace.as_ref().is_none_or(|name| *name == self.node.key.namespace)
    }

    /// Bytes by weight; the share of what cannot be led to is closed. Source: Gateway API, `TCPRouteRule.backendRefs`.
    fn to_backends(
        self,
        called: &Called<'_>,
        rule: &ConnectionRule,
        port: Port,
        leads: &mut BTreeSet<Lead>,
    ) -> NetworkFilter {
        let clusters = self.weighted(rule, port, leads);
        let mut proxy = listeners::bytes_to(called.cluster(), clusters);
        // How long a connection may be silent is one word for all of the rule's backends: the first one's.
        let first = rule.backends.first();
        let named = first.and_then(|first| match &first.target {
            Target::Service(key) => {
                let (_, service) = self.mesh.service(key)?;
                let number = first.port_of(service.ports.iter().map(|port| port.port), port.number);
                Some((Called::find(self.mesh, key, number)?, first.subset.as_deref()))
            }
            _ => None,
        });
        if let Some((found, subset)) = named {
            let rules = Rules::of_service(self.mesh, &found, self.node);
            apply_to_bytes(&rules.terms(found.port.port, subset), &mut proxy);
        }
        NetworkFilter::Tcp(Arc::new(proxy))
    }
}

impl Calls<'_> {
    /// Where connections to a port of bytes of a host outside go, by the first rule that acts on them; `None` where none
    /// does.
    pub(super) fn bytes_to_host(
        self,
        host: &Arc<str>,
        port: u16,
    ) -> Option<(Vec<TcpCluster>, BTreeSet<Lead>)> {
        let routes = &self.mesh.config.connection_routes;
        let acts = |(id, route): &(&(ConnectionRouteKind, Key), &ConnectionRoute)| {
            let is_parent = |parent: &Parent| matches!(&parent.target, Target::Host(name) if name == host);
            id.0 == ConnectionRouteKind::Virtual
                && route.export.reaches(&self.node.key.namespace)
                && route.parents.iter().any(is_parent)
        };
        let mut acting: Vec<_> = routes.iter().filter(acts).collect();
        acting.sort_by_key(|(id, route)| (route.age, &id.1));
        let port = Port::of_bytes(port);
        let is_named = |rule: &ConnectionRule| {
            let takes = |name: &Arc<str>| match name.strip_prefix('*') {
                Some(end) => host.ends_with(end),
                None => name == host,
            };
            rule.server_names.is_empty() || rule.server_names.iter().any(takes)
        };
        let mut rules = acting.iter().flat_map(|(_, route)| &route.rules);
        let rule = rules.find(|rule| self.is_concerned(rule, port) && is_named(rule))?;
        let mut leads = BTreeSet::new();
        Some((self.weighted(rule, port, &mut leads), leads))
    }

    /// The clusters of a rule's backends by weight; what cannot be led to is closed.
    fn weighted(self, rule: &ConnectionRule, port: Port, leads: &mut BTreeSet<Lead>) -> Vec<TcpCluster> {
        let mut clusters = Vec::new();
        let mut missing = 0;
        for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
            match self.find(backend, port, leads) {
                Some(found) => clusters.push(TcpCluster { name: found.cluster, weight: backend.weight }),
                None => missing += backend.weight,
            }
        }
        if missing > 0 || clusters.is_empty() {
            clusters.push(TcpCluster { name: NOWHERE.into(), weight: missing.max(1) });
        }
        clusters
    }
}

/// Which connections a chain takes: those of TLS with one of these names; without a name, all that no other takes.
fn by_names(server_names: Vec<Arc<str>>) -> ChainMatch {
    let transport = (!server_names.is_empty()).then_some(Transport::Tls);
    ChainMatch { transport, server_names, ..ChainMatch::default() }
}
