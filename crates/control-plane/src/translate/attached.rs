//! TrafficPolicies of a service: what is put into its callers' clusters and routes, and before its workloads.
//!
//! Of several for the same target the oldest counts; one for a port goes before one for the whole service, of what both
//! say. Source: Gateway API GEP-713, direct attachment.

use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::mesh::{Inbound, Key, TrafficPolicy, TrafficTarget, Workload};
use meshwork_model::proxy::{
    Cluster, Fault, GrpcCheck, HealthCheck, HealthCheckKind, HttpCheck, HttpFilter, HttpFilterKind,
    LocalRateLimit, Route, RouteAction, RouteFilter, RouteFilterKind, UpstreamProtocol,
};

use super::{Called, Mesh, served};

/// The name of the filter that limits requests.
const RATE_LIMIT: &str = "envoy.filters.http.local_ratelimit";

/// The policies of a service's port: the port's own, and the whole service's.
struct Attached<'m>([Option<&'m TrafficPolicy>; 2]);

impl<'m> Attached<'m> {
    fn of(mesh: &'m Mesh, called: &Called<'_>) -> Self {
        let policies = &mesh.config.traffic_policies;
        let oldest = |target: TrafficTarget| {
            let here = policies.range(Key::new(Arc::clone(&called.key.namespace), "")..);
            let here = here.take_while(|(key, _)| key.namespace == called.key.namespace);
            let attached = here.filter(|(_, policy)| policy.targets.contains(&target));
            attached.min_by_key(|(key, policy)| (policy.age, *key)).map(|(_, policy)| policy)
        };
        if policies.is_empty() {
            return Self([None, None]);
        }
        let whole = TrafficTarget::service(called.key.clone());
        let port = TrafficTarget { section: Some(Arc::clone(&called.port.name)), ..whole.clone() };
        Self([oldest(port), oldest(whole)])
    }

    fn say<T>(&self, what: impl Fn(&'m TrafficPolicy) -> Option<T>) -> Option<T> {
        self.0.iter().flatten().find_map(|policy| what(policy))
    }
}

/// Puts into a cluster how its endpoints are asked whether they are well, and how many retries there may be.
pub(super) fn apply(mesh: &Mesh, called: &Called<'_>, cluster: &mut Cluster) {
    let attached = Attached::of(mesh, called);
    if let Some(check) = attached.say(|policy| policy.check.as_ref()) {
        cluster.checks = vec![asking(check, called, cluster.protocol)];
    }
    if let Some(budget) = attached.say(|policy| policy.retry_budget) {
        cluster.breakers.normal.retry_budget = Some(budget);
    }
}

/// A request is asked in what the service speaks, and under its own name where the policy says none: the name of the
/// cluster, which proxies would take, is no host.
fn asking(check: &Arc<HealthCheck>, called: &Called<'_>, protocol: UpstreamProtocol) -> Arc<HealthCheck> {
    let named =
        |said: &Arc<str>| if said.is_empty() { called.name().host().into() } else { Arc::clone(said) };
    let kind = match &check.kind {
        HealthCheckKind::Http(http) => {
            let http2 = protocol == UpstreamProtocol::Http2;
            HealthCheckKind::Http(HttpCheck { host: named(&http.host), http2, ..http.clone() })
        }
        HealthCheckKind::Grpc(grpc) => {
            HealthCheckKind::Grpc(GrpcCheck { authority: named(&grpc.authority), ..grpc.clone() })
        }
        HealthCheckKind::Tcp(_) => return Arc::clone(check),
    };
    Arc::new(HealthCheck { kind, ..(**check).clone() })
}

/// Makes go wrong what a service's policy says, on routes that say nothing of it themselves.
pub(super) fn apply_faults(mesh: &Mesh, called: &Called<'_>, routes: &mut [Route]) {
    let Some(fault) = Attached::of(mesh, called).say(|policy| policy.fault.as_ref()) else { return };
    for route in routes.iter_mut().filter(|route| matches!(route.action, RouteAction::Forward(_))) {
        let filters = &mut route.terms.get_or_insert_default().filters;
        if !filters.iter().any(|filter| &*filter.name == HttpFilter::FAULT) {
            filters.insert(0, on(fault));
        }
    }
}

fn on(fault: &Arc<Fault>) -> RouteFilter {
    let kind = Some(RouteFilterKind::Fault(Arc::clone(fault)));
    RouteFilter { name: HttpFilter::FAULT.into(), disabled: false, kind }
}

/// The limit of requests to a node's own port, among its other filters. Each workload counts for itself.
pub(super) fn limit(mesh: &Mesh, node: &Workload, inbound: &Inbound, filters: &mut Vec<HttpFilter>) {
    let Some(called) = served(mesh, node, inbound.port) else { return };
    let Some(bucket) = Attached::of(mesh, &called).say(|policy| policy.rate_limit) else { return };
    let limit = LocalRateLimit {
        status: 429,
        bucket: Some(bucket),
        descriptors: Vec::new(),
        enabled: Fraction::ALL,
        enforced: Fraction::ALL,
        per_connection: false,
        always_consume_default: true,
        tells: false,
        resource_exhausted: true,
    };
    filters.push(HttpFilter::new(RATE_LIMIT, HttpFilterKind::LocalRateLimit(Arc::new(limit))));
    filters.sort_by_key(|filter| filter.kind.place());
}
