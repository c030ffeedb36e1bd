//! Traffic: what a node's calls hold to by DestinationRules, put into clusters, routes and connections.
//!
//! The rule nearest to the caller counts: of its own namespace, else of the called one's, else of the mesh's. Within one
//! namespace rules that select the caller go before others, single hosts before patterns, older ones before younger
//! ones; what several say of one host is put together, as subsets are. Source: Istio `PushContext.destinationRule`.

use std::sync::Arc;

use meshwork_model::hash::HashPolicy;
use meshwork_model::mesh::{
    DestinationRule, Key, Labels, OutsideTls, PoolTerms, PortTerms, Target, Workload, selects,
};
use meshwork_model::proxy::{
    Balancing, ClientContext, Cluster, FilterChain, NetworkFilter, SanMatch, StringMatch, TcpCluster,
    TcpProxy, TransportMatch, UpstreamProtocol, UpstreamTls, ValidationContext,
};
use meshwork_xds::Dialect;

use super::{Called, Mesh, listeners};

/// What a node's calls of one service or host hold to: rules of one namespace, the first of which has the word.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules<'m>(Vec<&'m DestinationRule>);

impl<'m> Rules<'m> {
    /// For calls of a service.
    pub(super) fn of_service(mesh: &'m Mesh, called: &Called<'_>, node: &Workload) -> Self {
        let target = Target::Service(called.key.clone());
        Self::find(mesh, &target, &called.name().host(), &called.key.namespace, node)
    }

    /// For calls of a host of a ServiceEntry of that namespace.
    pub(super) fn of_host(mesh: &'m Mesh, host: &Arc<str>, namespace: &str, node: &Workload) -> Self {
        Self::find(mesh, &Target::Host(Arc::clone(host)), host, namespace, node)
    }

    fn find(mesh: &'m Mesh, target: &Target, name: &str, namespace: &str, node: &Workload) -> Self {
        if mesh.config.destination_rules.is_empty() {
            return Self::default();
        }
        let own = &*node.key.namespace;
        let levels = [own, namespace, crate::SYSTEM_NAMESPACE];
        let at = |level: &&str| {
            let here = mesh.config.destination_rules.range(Key::new(*level, "")..);
            let here = here.take_while(|(key, _)| *key.namespace == **level).map(|(_, rule)| rule);
            let acts = |rule: &&DestinationRule| {
                let selects_node =
                    rule.selector.is_empty() || *level == own && selects(&rule.selector, &node.labels);
                selects_node && rule.export.reaches(own) && rule.host.takes(target, name)
            };
            let mut acting: Vec<&DestinationRule> = here.filter(acts).collect();
            let rank = |rule: &DestinationRule| {
                (rule.selector.is_empty(), usize::MAX - rule.host.precision(), rule.age)
            };
            acting.sort_by_key(|rule| rank(rule));
            let first = acting.first().map(|rule| (rule.selector.is_empty(), rule.host.precision()));
            acting.retain(|rule| Some((rule.selector.is_empty(), rule.host.precision())) == first);
            acting
        };
        Self(levels.iter().map(at).find(|acting| !acting.is_empty()).unwrap_or_default())
    }

    /// The terms of a port, for all endpoints or for those of a subset.
    pub(super) fn terms(&self, port: u16, subset: Option<&str>) -> PortTerms {
        let Some(first) = self.0.first() else { return PortTerms::default() };
        let own = subset.and_then(|name| self.0.iter().find(|rule| rule.subset(name).is_some()));
        own.unwrap_or(first).terms(port, subset)
    }

    /// Who of the endpoints is meant: all, or a subset.
    pub(super) fn members(&self, subset: Option<&str>) -> Members<'m> {
        match subset.map(|subset| self.labels(subset)) {
            None => Members::All,
            Some(Some(labels)) => Members::With(labels),
            Some(None) => Members::Nobody,
        }
    }

    /// The labels of a subset's endpoints; `None` where there is no such subset.
    pub(super) fn labels(&self, subset: &str) -> Option<&'m Labels> {
        self.0.iter().find_map(|rule| rule.subset(subset)).map(|subset| &subset.labels)
    }
}

/// Who of some endpoints is meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Members<'m> {
    /// All of them.
    All,
    /// Those with these labels.
    With(&'m Labels),
    /// None: there is no such subset.
    Nobody,
}

impl Members<'_> {
    /// Whether an endpoint is one of them.
    pub(super) fn have(self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::With(selector) => selects(selector, labels),
            Self::Nobody => false,
        }
    }
}

/// What requests to a service are hashed by, for the routes that lead there. Empty where its endpoints are not picked by
/// hash.
pub(super) fn hash_policies(
    mesh: &Mesh,
    called: &Called<'_>,
    subset: Option<&str>,
    node: &Workload,
) -> Vec<HashPolicy> {
    let terms = Rules::of_service(mesh, called, node).terms(called.port.port, subset);
    terms.balancing.and_then(|balancing| balancing.hash).into_iter().collect()
}

/// Puts terms into a cluster.
pub(super) fn apply(terms: &PortTerms, cluster: &mut Cluster, dialect: Dialect) {
    let method = terms.balancing.as_ref().and_then(|balancing| balancing.method);
    cluster.balancing = balancing(method, dialect);
    if let Some(pool) = &terms.pool {
        apply_pool(pool, cluster, dialect);
    }
    cluster.breakers.normal.retry_budget = terms.retry_budget;
    if let Some(outliers) = &terms.outliers {
        cluster.outliers = Some(Arc::clone(&outliers.detection));
        cluster.spread.panic_threshold = outliers.least_healthy_percent;
    }
}

/// gRPC's core refuses a cluster that is balanced otherwise than in turn or on a ring; Envoy alone loads new endpoints
/// slowly.
fn balancing(method: Option<Balancing>, dialect: Dialect) -> Balancing {
    match (method.unwrap_or(Balancing::LEAST_REQUEST), dialect) {
        (ring @ Balancing::RingHash(_), _) => ring,
        (_, Dialect::Grpc) | (Balancing::RoundRobin(_), Dialect::Meshwork) => Balancing::ROUND_ROBIN,
        (Balancing::LeastRequest(_), Dialect::Meshwork) => Balancing::LEAST_REQUEST,
        (method, Dialect::Meshwork | Dialect::Envoy) => method,
    }
}

fn apply_pool(pool: &PoolTerms, cluster: &mut Cluster, dialect: Dialect) {
    let limits = &mut cluster.breakers.normal;
    let each = [
        (&mut limits.connections, pool.connections),
        (&mut limits.pending, pool.pending),
        (&mut limits.requests, pool.requests),
        (&mut limits.retries, pool.retries),
    ];
    for (limit, said) in each {
        *limit = said.unwrap_or(*limit);
    }
    let connections = &mut cluster.connections;
    connections.idle = pool.idle_timeout;
    connections.lifetime = pool.lifetime;
    connections.requests = pool.requests_per_connection;
    // Our own proxy takes as many streams as the endpoint allows.
    let is_limited = cluster.protocol == UpstreamProtocol::Http2 && dialect == Dialect::Envoy;
    connections.streams = pool.streams.filter(|_| is_limited);
    connections.keepalive = pool.keepalive;
    cluster.connect_timeout = pool.connect_timeout.unwrap_or(cluster.connect_timeout);
}

/// Puts terms into a cluster of a host outside.
pub(super) fn apply_outside(terms: &PortTerms, cluster: &mut Cluster) {
    let usual = cluster.balancing;
    apply(terms, cluster, Dialect::Meshwork);
    if terms.balancing.as_ref().is_none_or(|balancing| balancing.method.is_none()) {
        cluster.balancing = usual;
    }
}

/// Puts terms into what carries bytes to a service.
pub(super) fn apply_to_bytes(terms: &PortTerms, proxy: &mut TcpProxy) {
    if let Some(pool) = &terms.pool {
        proxy.idle_timeout = pool.bytes_idle_timeout;
        proxy.longest = pool.lifetime;
    }
    let hash = terms.balancing.as_ref().and_then(|balancing| balancing.hash.as_ref());
    proxy.hashes_source = hash.is_some_and(|hash| hash.source == meshwork_model::hash::HashSource::SourceIp);
}

/// The chain of a port of bytes that no route acts on, where a rule says anything of its connections.
pub(super) fn chains_of_bytes(mesh: &Mesh, called: &Called<'_>, node: &Workload) -> Option<Vec<FilterChain>> {
    let terms = Rules::of_service(mesh, called, node).terms(called.port.port, None);
    if terms.pool.is_none() && terms.balancing.is_none() {
        return None;
    }
    let clusters = vec![TcpCluster { name: called.cluster(), weight: 1 }];
    let mut proxy = listeners::bytes_to(called.cluster(), clusters);
    apply_to_bytes(&terms, &mut proxy);
    Some(vec![FilterChain::new("outbound", NetworkFilter::Tcp(Arc::new(proxy)))])
}

/// How a host outside is reached where a rule asks for TLS; empty for plaintext. `names` are those that its certificate
/// has one of, where the rule names none.
pub(super) fn outside_transports(
    terms: &PortTerms,
    host: &Arc<str>,
    names: &[Arc<str>],
) -> Vec<TransportMatch> {
    let Some(OutsideTls::On(context)) = &terms.tls else { return Vec::new() };
    let sni = if context.sni.is_empty() { Arc::clone(host) } else { Arc::clone(&context.sni) };
    let mut context = ClientContext { sni, ..(**context).clone() };
    if let Some(validation) =
        context.common.validation.as_mut().filter(|_| context.validates_sni && !names.is_empty())
    {
        let of_name = |name: &Arc<str>| SanMatch { kind: None, test: StringMatch::Exact(Arc::clone(name)) };
        let names = names.iter().map(of_name).collect();
        validation.fixed = Arc::new(ValidationContext { names, ..(*validation.fixed).clone() });
        context.validates_sni = false;
    }
    let tls = Some(UpstreamTls::Context(Arc::new(context)));
    vec![TransportMatch { name: "tls".into(), transport: None, labels: Vec::new(), tls }]
}
