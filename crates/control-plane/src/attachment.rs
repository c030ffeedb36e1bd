//! Which routes act on the callers of a service's port. Pure.
//!
//! Routes of Gateway API beside the service (a producer's) act on callers of every namespace, those of another namespace
//! (a consumer's) on callers of their own, in place of the producer's. Where there is neither, VirtualServices act: those
//! of the caller's own namespace, else those of others that are exported to it.
//!
//! Source: GAMMA, "Gateway API for Mesh"; Gateway API v1, `HTTPRouteRule.matches`, `GRPCRoute` (kinds do not mix).

use std::collections::{BTreeMap, BTreeSet};
pub(crate) mod gateways;

use std::sync::Arc;

use meshwork_model::mesh::{
    Config, ConnectionRoute, ConnectionRouteKind, Export, Key, Parent, Protocol, Route, RouteKind,
    ServicePort, Target,
};

/// Routes with their kinds and keys, the oldest first.
pub(crate) type Acting<'c> = Vec<(&'c (RouteKind, Key), &'c Route)>;

/// Routes of connections with their kinds and keys, the oldest first.
pub(crate) type ActingOnConnections<'c> = Vec<(&'c (ConnectionRouteKind, Key), &'c ConnectionRoute)>;

/// Whether routes of a kind can act on requests that travel so.
pub(crate) fn carries(kind: RouteKind, protocol: Protocol) -> bool {
    match kind {
        RouteKind::Http | RouteKind::Virtual => protocol.is_http(),
        RouteKind::Grpc => protocol.is_http2(),
    }
}

/// The routes of requests by what they are attached to, so that nobody looks through all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByTarget(BTreeMap<Target, BTreeSet<(RouteKind, Key)>>);

impl ByTarget {
    pub(crate) fn of(config: &Config) -> Self {
        let mut by_target: BTreeMap<Target, BTreeSet<(RouteKind, Key)>> = BTreeMap::new();
        for (id, route) in &config.routes {
            for parent in &route.parents {
                by_target.entry(parent.target.clone()).or_default().insert(id.clone());
            }
        }
        Self(by_target)
    }

    /// The routes of the same config that are attached to a target.
    pub(crate) fn routes<'c>(
        &'c self,
        config: &'c Config,
        target: &Target,
    ) -> impl Iterator<Item = (&'c (RouteKind, Key), &'c Route)> + use<'c> {
        let ids = self.0.get(target).into_iter().flatten();
        ids.filter_map(move |id| config.routes.get_key_value(id))
    }
}

/// The routes, of all or of those that are attached to a service, that act on requests of callers of a namespace.
pub(crate) fn of_requests<'c>(
    routes: impl Iterator<Item = (&'c (RouteKind, Key), &'c Route)>,
    service: &Key,
    port: &ServicePort,
    caller: &str,
) -> Acting<'c> {
    let target = Target::Service(service.clone());
    let acts = |(id, route): &(&(RouteKind, Key), &Route)| {
        carries(id.0, port.protocol) && is_attached(&route.parents, &target, port)
    };
    let all: Acting<'c> = routes.filter(acts).collect();
    let (of_istio, all): (Acting<'c>, Acting<'c>) =
        all.into_iter().partition(|(id, _)| id.0 == RouteKind::Virtual);
    let mut acting = of_namespace(&all, |id| &id.1.namespace, caller, &service.namespace);
    acting.sort_by_key(|(id, route)| (route.age, &id.1, id.0));
    if let Some(first) = acting.first().map(|(id, _)| id.0) {
        acting.retain(|(id, _)| id.0 == first);
        return acting;
    }
    of_istio_in(of_istio, caller)
}

/// The VirtualServices, of those that are attached to a host outside, that act on requests of callers of a namespace.
pub(crate) fn of_host<'c>(
    routes: impl Iterator<Item = (&'c (RouteKind, Key), &'c Route)>,
    caller: &str,
) -> Acting<'c> {
    of_istio_in(routes.filter(|(id, _)| id.0 == RouteKind::Virtual).collect(), caller)
}

fn of_istio_in<'c>(acting: Acting<'c>, caller: &str) -> Acting<'c> {
    let mut acting = seen_by(acting, |id| &id.1.namespace, |route| &route.export, caller);
    acting.sort_by_key(|(id, route)| (route.age, &id.1));
    acting
}

/// The routes that act on connections of callers of a namespace.
pub(crate) fn of_connections<'c>(
    config: &'c Config,
    service: &Key,
    port: &ServicePort,
    caller: &str,
) -> ActingOnConnections<'c> {
    let target = Target::Service(service.clone());
    let acts = |(_, route): &(&(ConnectionRouteKind, Key), &ConnectionRoute)| {
        is_attached(&route.parents, &target, port)
    };
    let all: ActingOnConnections<'c> = config.connection_routes.iter().filter(acts).collect();
    let (of_istio, all): (ActingOnConnections<'c>, ActingOnConnections<'c>) =
        all.into_iter().partition(|(id, _)| id.0 == ConnectionRouteKind::Virtual);
    let mut acting = of_namespace(&all, |id| &id.1.namespace, caller, &service.namespace);
    if acting.is_empty() {
        acting = seen_by(of_istio, |id| &id.1.namespace, |route| &route.export, caller);
    }
    acting.sort_by_key(|(id, route)| (route.age, &id.1, id.0));
    acting
}

/// Those of VirtualServices that callers of a namespace see: nobody else says what becomes of their requests where
/// somebody of their own namespace does. Source: Istio `virtualServiceIndex`, whose private ones come first.
fn seen_by<'c, I, R>(
    mut all: Vec<(&'c I, &'c R)>,
    namespace: impl Fn(&I) -> &Arc<str>,
    export: impl Fn(&R) -> &Export,
    caller: &str,
) -> Vec<(&'c I, &'c R)> {
    all.retain(|(_, route)| export(route).reaches(caller));
    if all.iter().any(|(id, _)| **namespace(id) == *caller) {
        all.retain(|(id, _)| **namespace(id) == *caller);
    }
    all
}

fn is_attached(parents: &[Parent], target: &Target, port: &ServicePort) -> bool {
    parents.iter().any(|parent| parent.target == *target && parent.names(port))
}

/// Those of the caller's namespace, else those beside the service.
fn of_namespace<'c, I, R>(
    all: &[(&'c I, &'c R)],
    namespace: impl Fn(&I) -> &Arc<str>,
    caller: &str,
    producer: &str,
) -> Vec<(&'c I, &'c R)> {
    let of = |wanted: &str| -> Vec<(&'c I, &'c R)> {
        all.iter().filter(|(id, _)| **namespace(id) == *wanted).copied().collect()
    };
    let own = of(caller);
    if own.is_empty() { of(producer) } else { own }
}
