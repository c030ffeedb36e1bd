//! Route tables: the rules of the routes that act on a service's callers, in the order in which they are tried.
//!
//! Source: Gateway API v1.5, `HTTPRouteRule`, `GRPCRouteRule`; GAMMA; Istio VirtualService, whose rules are tried as they
//! are written. Who acts on whom is said in `attachment`.

mod paths;
mod rank;
mod rule;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{self, Key, Protocol, RouteKind, RouteRule, Target, Workload, selects};
use meshwork_model::proxy::{
    Domain, Forward, PathMatch, Resilience, RetryPolicy, Route, RouteAction, RouteMatch, RouteTable,
    VirtualHost, WeightedCluster,
};
use meshwork_xds::Dialect;

use super::{Called, Mesh, attached, traffic};
use crate::attachment::{self, Acting};
use rank::Rank;
pub(crate) use rule::NOWHERE;

/// For requests of routes that name no time-out, and of services without a route.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a request that never reached an application is tried elsewhere.
const CONNECT_RETRIES: u32 = 2;

/// What a table leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lead {
    /// A port of a service or of a host outside, or a subset of its endpoints.
    To {
        /// Which.
        target: Target,
        /// Its port.
        port: u16,
        /// The subset's name.
        subset: Option<Arc<str>>,
    },
    /// Nowhere, for the share of what cannot be led to.
    Nowhere,
}

/// A table, and all that it leads to.
pub(super) type Led = (RouteTable, BTreeSet<Lead>);

/// Who calls.
#[derive(Clone, Copy)]
pub(super) struct Calls<'m> {
    pub(super) mesh: &'m Mesh,
    pub(super) node: &'m Workload,
    pub(super) dialect: Dialect,
}

/// What is called.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) number: u16,
    protocol: Protocol,
    /// Whether clients call it by TLS.
    is_tls: bool,
}

impl Port {
    pub(super) fn of(called: &Called<'_>) -> Self {
        Self { number: called.port.port, protocol: called.port.protocol, is_tls: false }
    }

    /// A port of bytes.
    pub(super) fn of_bytes(number: u16) -> Self {
        Self { number, protocol: Protocol::Tcp, is_tls: false }
    }
}

impl Calls<'_> {
    /// The routes of a called service's port.
    pub(super) fn routes(self, called: &Called<'_>) -> Led {
        let attached = self.mesh.routes_to(&Target::Service(called.key.clone()));
        let acting = attachment::of_requests(attached, called.key, called.port, &self.node.key.namespace);
        let port = Port::of(called);
        let mut leads = BTreeSet::new();
        let mut routes = if acting.is_empty() {
            let target = Target::Service(called.key.clone());
            leads.insert(Lead::To { target, port: port.number, subset: None });
            vec![self.default(called)]
        } else {
            self.of_rules(&acting, port, &mut leads)
        };
        attached::apply_faults(self.mesh, called, &mut routes);
        (table(called.cluster(), routes), leads)
    }

    /// The routes of a port of a host outside, for requests that are for that host; `None` where no rule acts on them.
    pub(super) fn routes_to_host(self, host: &Arc<str>, port: u16, protocol: Protocol) -> Option<Led> {
        let attached = self.mesh.routes_to(&Target::Host(Arc::clone(host)));
        let acting = attachment::of_host(attached, &self.node.key.namespace);
        let mut leads = BTreeSet::new();
        let routes = self.of_rules(&acting, Port { number: port, protocol, is_tls: false }, &mut leads);
        (!acting.is_empty())
            .then(|| (of_host(host, port, format!("outbound|{port}||{host}").into(), routes), leads))
    }

    /// The routes that are attached to a gateway's port, which is called by TLS or in plaintext.
    pub(super) fn of_gateway(
        self,
        acting: &Acting<'_>,
        (number, is_tls): (u16, bool),
        leads: &mut BTreeSet<Lead>,
    ) -> Vec<Route> {
        self.of_rules(acting, Port { number, protocol: Protocol::Http, is_tls }, leads)
    }

    fn of_rules(self, acting: &Acting<'_>, port: Port, leads: &mut BTreeSet<Lead>) -> Vec<Route> {
        let mut ranked = self.ranked(acting, port);
        // Rules of VirtualServices are tried as they are written, and so they stand here.
        ranked.sort_by_key(|one| one.rank);
        ranked.iter().flat_map(|one| self.to_routes(one, port, leads)).collect()
    }

    fn ranked<'m>(self, acting: &Acting<'m>, port: Port) -> Vec<Ranked<'m>> {
        let mut all = Vec::new();
        for (order, ((kind, key), route)) in acting.iter().enumerate() {
            for (i, rule) in route.rules.iter().enumerate() {
                for (j, matches) in
                    rule.matches.iter().enumerate().filter(|(_, one)| self.concerns(one, port))
                {
                    let rank = Rank::of(*kind, matches, [order, i, j]);
                    all.push(Ranked { rank, kind: *kind, name: name(key, rule, i), rule, matches });
                }
            }
        }
        all
    }

    /// Whether a match can hold for this caller at all.
    fn concerns(self, matches: &mesh::RouteMatch, port: Port) -> bool {
        selects(&matches.source_labels, &self.node.labels)
            && matches.source_namespace.as_ref().is_none_or(|name| *name == self.node.key.namespace)
            && matches.port.is_none_or(|number| number == port.number)
    }

    fn default(self, called: &Called<'_>) -> Route {
        let clusters = vec![WeightedCluster { name: called.cluster(), weight: 1 }];
        let resilience = Resilience { retry: self.usual_retry(), ..Resilience::default() };
        let timeout = self.usual_timeout(called.port.protocol);
        let action = RouteAction::Forward(Forward { clusters, timeout, resilience });
        let mut route = Route::new("default", everything(), action);
        let hash = traffic::hash_policies(self.mesh, called, None, self.node);
        if !hash.is_empty() {
            route.terms.get_or_insert_default().hash = hash;
        }
        route
    }

    /// For requests of routes that name no time-out: the mesh's config says it, else there is one.
    fn usual_timeout(self, protocol: Protocol) -> Option<Duration> {
        match self.mesh.config.defaults.timeout {
            Some(timeout) if protocol != Protocol::Grpc => Some(timeout).filter(|timeout| !timeout.is_zero()),
            _ => default_timeout(protocol),
        }
    }

    /// What is tried again where no route says it.
    fn usual_retry(self) -> Option<Arc<RetryPolicy>> {
        match &self.mesh.config.defaults.retry {
            Some(policy) => (policy.retries > 0).then(|| Arc::clone(policy)),
            None => Some(Arc::new(RetryPolicy::unreached(CONNECT_RETRIES))),
        }
    }
}

/// The one route behind a node's own port: all to the application, which has its own time-outs.
pub(super) fn inbound(cluster: Arc<str>) -> RouteTable {
    let action = forward(Arc::clone(&cluster), None);
    table(cluster, vec![Route::new("default", everything(), action)])
}

/// The one route to a workload that is called by its own address: there is no other to try.
pub(super) fn direct(cluster: Arc<str>, protocol: Protocol) -> RouteTable {
    table(Arc::clone(&cluster), vec![all_to(cluster, protocol)])
}

/// The one route to a host outside, for requests that are for that host.
pub(super) fn outside(host: &Arc<str>, port: u16, cluster: Arc<str>, protocol: Protocol) -> RouteTable {
    let routes = vec![all_to(Arc::clone(&cluster), protocol)];
    of_host(host, port, cluster, routes)
}

fn of_host(host: &Arc<str>, port: u16, name: Arc<str>, routes: Vec<Route>) -> RouteTable {
    let domains = vec![Domain::Exact(Arc::clone(host)), Domain::Exact(format!("{host}:{port}").into())];
    RouteTable::new(name, vec![VirtualHost::new(Arc::clone(host), domains, routes)])
}

fn all_to(cluster: Arc<str>, protocol: Protocol) -> Route {
    let action = forward(cluster, default_timeout(protocol));
    Route::new("default", everything(), action)
}

fn table(name: Arc<str>, routes: Vec<Route>) -> RouteTable {
    let host = VirtualHost::new(Arc::clone(&name), vec![Domain::Any], routes);
    RouteTable::new(name, vec![host])
}

/// To one cluster, once: there is no other endpoint to try.
fn forward(cluster: Arc<str>, timeout: Option<Duration>) -> RouteAction {
    let clusters = vec![WeightedCluster { name: cluster, weight: 1 }];
    RouteAction::Forward(Forward { clusters, timeout, resilience: Resilience::default() })
}

fn everything() -> RouteMatch {
    RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new())
}

/// A call of gRPC has its own deadline, and a stream has none.
fn default_timeout(protocol: Protocol) -> Option<Duration> {
    (protocol != Protocol::Grpc).then_some(DEFAULT_TIMEOUT)
}

/// One match of one rule, with its rank.
struct Ranked<'m> {
    rank: Rank,
    kind: RouteKind,
    name: Arc<str>,
    rule: &'m RouteRule,
    matches: &'m mesh::RouteMatch,
}

/// `shop.catalog.0`, or `shop.catalog.split` for a rule that has a name.
fn name(route: &Key, rule: &RouteRule, index: usize) -> Arc<str> {
    if rule.name.is_empty() {
        format!("{}.{}.{index}", route.namespace, route.name).into()
    } else {
        format!("{}.{}.{}", route.namespace, route.name, rule.name).into()
    }
}
