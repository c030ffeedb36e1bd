//! Route tables: the rules of a service's routes, in the one order of precedence.
//!
//! Source: Gateway API v1, `HTTPRouteRule.matches` and `GRPCRouteRule.matches` ("Precedence"); GAMMA, "Route
//! types" (routes of the caller's namespace take the place of those beside the service).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{self, Key, Protocol, RouteKind, RouteRule};
use meshwork_model::proxy::{
    DirectResponse, Domain, Forward, HeaderMatch, HeaderTest, PathMatch, Resilience, RetryPolicy, Route,
    RouteAction, RouteMatch, RouteTable, StringMatch, VirtualHost, WeightedCluster,
};
use meshwork_xds::Dialect;

use super::{Called, Mesh};

/// For requests of routes that name no time-out, and of services without a route.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a request that never reached an application is tried elsewhere.
const CONNECT_RETRIES: u32 = 2;

/// The routes of a called service's port for callers of a namespace, and the service ports that they lead to.
pub(super) fn outbound(
    mesh: &Mesh,
    called: &Called<'_>,
    caller: &Arc<str>,
    dialect: Dialect,
) -> (RouteTable, BTreeSet<(Key, u16)>) {
    let attached = attached(mesh, called, caller);
    let mut backends = BTreeSet::new();
    let routes = if attached.is_empty() {
        backends.insert((called.key.clone(), called.port.port));
        vec![default(called)]
    } else {
        let mut ranked = ranked(&attached);
        ranked.sort_by(|a, b| a.rank.cmp(&b.rank));
        for one in &ranked {
            let leading = one.rule.backends.iter().filter(|b| b.weight > 0);
            backends.extend(leading.map(|b| (b.service.clone(), b.port)));
        }
        ranked.iter().flat_map(|one| one.to_routes(mesh, called, dialect)).collect()
    };
    (table(called.cluster(), routes), backends)
}

/// The one route behind a node's own port: all to the application, which has its own time-outs.
pub(super) fn inbound(cluster: Arc<str>) -> RouteTable {
    let action = forward(vec![WeightedCluster { name: Arc::clone(&cluster), weight: 1 }], None, 0);
    table(cluster, vec![Route::new("default", everything(), action)])
}

/// The one route to a workload that is called by its own address: there is no other to try.
pub(super) fn direct(cluster: Arc<str>, protocol: Protocol) -> RouteTable {
    table(Arc::clone(&cluster), vec![all_to(cluster, protocol)])
}

/// The one route to a host outside, for requests that are for that host.
pub(super) fn outside(host: &Arc<str>, port: u16, cluster: Arc<str>, protocol: Protocol) -> RouteTable {
    let routes = vec![all_to(Arc::clone(&cluster), protocol)];
    let domains = vec![Domain::Exact(Arc::clone(host)), Domain::Exact(format!("{host}:{port}").into())];
    RouteTable::new(cluster, vec![VirtualHost::new(Arc::clone(host), domains, routes)])
}

fn all_to(cluster: Arc<str>, protocol: Protocol) -> Route {
    let action = forward(vec![WeightedCluster { name: cluster, weight: 1 }], default_timeout(protocol), 0);
    Route::new("default", everything(), action)
}

fn table(name: Arc<str>, routes: Vec<Route>) -> RouteTable {
    let host = VirtualHost::new(Arc::clone(&name), vec![Domain::Any], routes);
    RouteTable::new(name, vec![host])
}

fn default(called: &Called<'_>) -> Route {
    let clusters = vec![WeightedCluster { name: called.cluster(), weight: 1 }];
    let action = forward(clusters, default_timeout(called.port.protocol), CONNECT_RETRIES);
    Route::new("default", everything(), action)
}

fn forward(clusters: Vec<WeightedCluster>, timeout: Option<Duration>, connect_retries: u32) -> RouteAction {
    let retry = (connect_retries > 0).then(|| Arc::new(RetryPolicy::unreached(connect_retries)));
    let resilience = Resilience { retry, ..Resilience::default() };
    RouteAction::Forward(Forward { clusters, timeout, resilience })
}

fn everything() -> RouteMatch {
    RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new())
}

/// A call of gRPC has its own deadline, and a stream has none.
fn default_timeout(protocol: Protocol) -> Option<Duration> {
    (protocol != Protocol::Grpc).then_some(DEFAULT_TIMEOUT)
}

type Attached<'m> = Vec<(&'m (RouteKind, Key), &'m mesh::Route)>;

/// The routes that act on callers of a namespace: its own for the service, else those beside the service.
fn attached<'m>(mesh: &'m Mesh, called: &Called<'_>, caller: &Arc<str>) -> Attached<'m> {
    let carries = |kind: RouteKind| match kind {
        RouteKind::Http => called.port.protocol.is_http(),
        RouteKind::Grpc => called.port.protocol.is_http2(),
    };
    let acts = |(id, route): &(&(RouteKind, Key), &mesh::Route)| {
        carries(id.0)
            && route
                .parents
                .iter()
                .any(|(service, port)| service == called.key && port.is_none_or(|p| p == called.port.port))
    };
    let all: Attached<'m> = mesh.config.routes.iter().filter(acts).collect();
    let of = |namespace: &Arc<str>| -> Attached<'m> {
        all.iter().filter(|(id, _)| id.1.namespace == *namespace).copied().collect()
    };
    let own = of(caller);
    if own.is_empty() { of(&called.key.namespace) } else { own }
}

/// One match of one rule, with its rank.
struct Ranked<'m> {
    rank: Rank<'m>,
    kind: RouteKind,
    name: Arc<str>,
    rule: &'m RouteRule,
    matches: &'m mesh::RouteMatch,
}

/// Lesser is tried earlier: exact paths, longer paths, a method, more headers, the older route, its name, and the
/// written order.
type Rank<'m> = (bool, Reverse<usize>, bool, Reverse<usize>, u64, &'m Key, usize, usize);

fn ranked<'m>(attached: &Attached<'m>) -> Vec<Ranked<'m>> {
    let mut all = Vec::new();
    for ((kind, key), route) in attached {
        for (i, rule) in route.rules.iter().enumerate() {
            for (j, matches) in rule.matches.iter().enumerate() {
                let (exact, length) = match &matches.path {
                    mesh::PathMatch::Exact(path) => (true, path.len()),
                    mesh::PathMatch::Prefix(path) => (false, path.len()),
                };
                let (no_method, headers) = (matches.method.is_none(), Reverse(matches.headers.len()));
                let rank = (!exact, Reverse(length), no_method, headers, route.age, key, i, j);
                all.push(Ranked { rank, kind: *kind, name: name(key, rule, i), rule, matches });
            }
        }
    }
    all
}

/// `shop.catalog.0`, or `shop.catalog.split` for a rule that has a name.
fn name(route: &Key, rule: &RouteRule, index: usize) -> Arc<str> {
    if rule.name.is_empty() {
        format!("{}.{}.{index}", route.namespace, route.name).into()
    } else {
        format!("{}.{}.{}", route.namespace, route.name, rule.name).into()
    }
}

impl Ranked<'_> {
    fn to_routes(&self, mesh: &Mesh, called: &Called<'_>, dialect: Dialect) -> Vec<Route> {
        let headers = self.headers();
        let action = self.action(mesh, called);
        let route = |path| {
            let matches = RouteMatch::new(path, headers.clone());
            Route::new(Arc::clone(&self.name), matches, action.clone())
        };
        self.paths(dialect).into_iter().map(route).collect()
    }

    fn paths(&self, dialect: Dialect) -> Vec<PathMatch> {
        match &self.matches.path {
            mesh::PathMatch::Exact(path) => vec![PathMatch::Exact(Arc::clone(path))],
            mesh::PathMatch::Prefix(path) if &**path == "/" => vec![PathMatch::Prefix(Arc::clone(path))],
            // A call's path always has a method behind the service.
            mesh::PathMatch::Prefix(path) if self.kind == RouteKind::Grpc => {
                vec![PathMatch::Prefix(format!("{path}/").into())]
            }
            // gRPC's core knows no prefix by segment.
            mesh::PathMatch::Prefix(path) if dialect == Dialect::Grpc => {
                vec![PathMatch::Exact(Arc::clone(path)), PathMatch::Prefix(format!("{path}/").into())]
            }
            mesh::PathMatch::Prefix(path) => vec![PathMatch::SegmentPrefix(Arc::clone(path))],
        }
    }

    fn headers(&self) -> Vec<HeaderMatch> {
        let exact = |name: &Arc<str>, value: &Arc<str>| HeaderMatch {
            name: Arc::clone(name),
            test: HeaderTest::Value(StringMatch::Exact(Arc::clone(value))),
            invert: false,
        };
        let method = self.matches.method.as_ref().map(|method| exact(&":method".into(), method));
        method.into_iter().chain(self.matches.headers.iter().map(|(n, v)| exact(n, v))).collect()
    }

    /// Where nothing can be forwarded to, 500. Source: Gateway API, `HTTPRouteRule.backendRefs`.
    fn action(&self, mesh: &Mesh, called: &Called<'_>) -> RouteAction {
        let mut clusters: Vec<WeightedCluster> = Vec::new();
        for backend in self.rule.backends.iter().filter(|b| b.weight > 0) {
            let Some(found) = Called::find(mesh, &backend.service, backend.port) else { continue };
            clusters.push(WeightedCluster { name: found.cluster(), weight: backend.weight });
        }
        if clusters.is_empty() {
            let body = "the route has no backend\n".into();
            return RouteAction::Direct(DirectResponse { status: 500, body });
        }
        let timeout = match self.rule.timeout_ms {
            None => default_timeout(called.port.protocol),
            Some(0) => None,
            Some(ms) => Some(Duration::from_millis(ms)),
        };
        forward(clusters, timeout, CONNECT_RETRIES)
    }
}
