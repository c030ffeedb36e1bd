//! The shapes of the API's answers. Fields are only ever added.

use std::collections::BTreeMap;

use meshwork_diagram as diagram;
use meshwork_model::mesh::{Key, OutsidePolicy};
use meshwork_model::problem::{Problem, Severity};
use meshwork_model::proxy::Kind;
use meshwork_xds::Dialect;
use meshwork_xds::grpc::printable;
use serde::Serialize;

use super::access::Caller;
use crate::ingest::kinds;
use crate::translate::Mesh;
use crate::world::Proxy;

/// A proxy, as it stands with the control plane.
#[derive(Serialize)]
pub(super) struct ProxyAnswer {
    name: String,
    namespace: String,
    identity: String,
    user_agent: String,
    dialect: &'static str,
    connected: bool,
    /// Whether its workload takes requests.
    ready: bool,
    /// Why it does not, as it says itself; empty where it does.
    unready: String,
    /// Whether it has accepted all that it was given.
    current: bool,
    /// One version for all that it was given.
    version: String,
    /// What it has accepted, by kind and name.
    accepted: BTreeMap<&'static str, BTreeMap<String, String>>,
    refused: Vec<RefusedAnswer>,
}

/// Something that a proxy refuses.
#[derive(Serialize)]
pub(super) struct RefusedAnswer {
    resource: String,
    why: String,
}

impl ProxyAnswer {
    pub(super) fn of(key: &Key, proxy: &Proxy, mesh: &Mesh) -> Self {
        let unready = mesh.workloads.get(key).and_then(|workload| workload.unready.as_deref());
        let mut accepted: BTreeMap<_, BTreeMap<String, String>> = BTreeMap::new();
        for ((kind, name), version) in &proxy.acknowledged {
            accepted.entry(plural(*kind)).or_default().insert(name.to_string(), version.to_string());
        }
        Self {
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            identity: proxy.identity.to_string(),
            user_agent: proxy.user_agent.clone(),
            dialect: dialect(proxy.dialect),
            connected: proxy.connected,
            ready: unready.is_none(),
            unready: unready.unwrap_or_default().to_owned(),
            current: proxy.is_current(),
            version: proxy.version(),
            accepted,
            refused: RefusedAnswer::of(proxy),
        }
    }
}

impl RefusedAnswer {
    /// All that a proxy refuses.
    pub(super) fn of(proxy: &Proxy) -> Vec<Self> {
        let refused = |((kind, name), why): (&(Kind, String), &String)| Self {
            resource: format!("{} {name}", plural(*kind)).trim_end().to_owned(),
            why: why.clone(),
        };
        proxy.refused.iter().map(refused).collect()
    }
}

/// A dialect's name.
pub(super) fn dialect(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Meshwork => "meshwork",
        Dialect::Envoy => "envoy",
        Dialect::Grpc => "grpc",
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "clusters",
        Kind::Endpoints => "endpoints",
        Kind::Listener => "listeners",
        Kind::Routes => "routes",
        Kind::Secret => "secret",
    }
}

/// A problem of the config, or of a workload.
#[derive(Debug, Serialize)]
pub(super) struct ProblemAnswer {
    severity: &'static str,
    /// Stable: what `meshwork explain` tells more about.
    code: &'static str,
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    resource: String,
    field: String,
    message: String,
    fix: String,
}

impl ProblemAnswer {
    /// Texts are quoted in it as somebody wrote them: they move no cursor on another's terminal.
    pub(super) fn of(problem: &Problem) -> Self {
        Self {
            severity: if problem.severity == Severity::Error { "error" } else { "warning" },
            code: problem.code.words().code,
            file: printable(&problem.file),
            line: problem.place.map(|p| p.line),
            column: problem.place.map(|p| p.column),
            resource: printable(&problem.resource),
            field: printable(&problem.field),
            message: printable(&problem.message),
            fix: printable(&problem.fix),
        }
    }

    /// The same as somebody may see it: of resources that they may not read, not even the names.
    pub(super) fn shown(self, caller: &Caller) -> Self {
        let own = namespace_of(&self.resource).is_none_or(|namespace| caller.may_read(namespace));
        if own {
            let (message, fix) = (without_names(&self.message, caller), without_names(&self.fix, caller));
            return Self { message, fix, ..self };
        }
        Self {
            severity: self.severity,
            code: self.code,
            file: String::new(),
            line: None,
            column: None,
            resource: String::new(),
            field: String::new(),
            message: "this does not go together with what is in a namespace that you may not read".to_owned(),
            fix: "Ask who may read all of the mesh's config: they are told more".to_owned(),
        }
    }

    /// In a line: where it is, and what.
    pub(super) fn line(&self) -> String {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line}: {}", self.file, self.message)
    }
}

/// The namespace of a problem's resource, `HTTPRoute shop/cart`; `None` of one without, or of none.
pub(super) fn namespace_of(resource: &str) -> Option<&str> {
    let (_, key) = resource.rsplit_once(' ')?;
    key.split_once('/').map(|(namespace, _)| namespace)
}

/// Words that name resources as `HTTPRoute shop/cart`, without the names of those that somebody may not read.
fn without_names(text: &str, caller: &Caller) -> String {
    let mut last = "";
    let mut shown = Vec::new();
    for word in text.split(' ') {
        let key = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let namespace = key.split_once('/').map(|(namespace, _)| namespace).filter(|_| is_kind(last));
        let is_hidden = namespace.is_some_and(|namespace| !caller.may_read(namespace));
        shown.push(if is_hidden { word.replace(key, "(hidden)") } else { word.to_owned() });
        last = word;
    }
    shown.join(" ")
}

fn is_kind(word: &str) -> bool {
    word == "Workload" || kinds().any(|(kind, _)| kind == word)
}

/// The config that is applied: what there is, by kind.
#[derive(Serialize)]
pub(super) struct ConfigAnswer {
    trust_domain: String,
    services: Vec<String>,
    /// Services that nobody wrote, and workloads imply.
    implied_services: Vec<String>,
    service_entries: Vec<String>,
    /// What captured workloads may reach that the mesh does not know, in Istio's words.
    outbound_traffic_policy: &'static str,
    http_routes: Vec<String>,
    grpc_routes: Vec<String>,
    peer_authentications: Vec<String>,
    authorization_policies: Vec<String>,
    workloads: Vec<String>,
}

impl ConfigAnswer {
    /// What there is in namespaces that may be read.
    pub(super) fn of(mesh: &Mesh, may_read: impl Fn(&str) -> bool) -> Self {
        use meshwork_model::mesh::RouteKind;
        let config = &mesh.config;
        let names = |keys: &mut dyn Iterator<Item = &Key>| {
            keys.filter(|key| may_read(&key.namespace)).map(Key::to_string).collect()
        };
        let routes = |kind: RouteKind| {
            let of_kind = config.routes.keys().filter(|(k, _)| *k == kind);
            names(&mut of_kind.map(|(_, key)| key))
        };
        Self {
            trust_domain: mesh.trust_domain.to_string(),
            services: names(&mut config.services.keys()),
            implied_services: names(&mut mesh.implied.keys()),
            service_entries: names(&mut config.service_entries.keys()),
            outbound_traffic_policy: match config.outside {
                OutsidePolicy::Allow => "ALLOW_ANY",
                OutsidePolicy::Deny => "REGISTRY_ONLY",
            },
            http_routes: routes(RouteKind::Http),
            grpc_routes: routes(RouteKind::Grpc),
            peer_authentications: names(&mut config.peer_authentications.keys()),
            authorization_policies: names(&mut config.authorization_policies.keys()),
            workloads: names(&mut mesh.workloads.keys()),
        }
    }
}

/// The mesh: who is there, which services lead to whom, who calls whom.
#[derive(Serialize)]
pub(super) struct TopologyAnswer {
    trust_domain: String,
    platform: String,
    mesh_type: String,
    scale: String,
    features: Vec<String>,
    pods: Vec<PodAnswer>,
    services: Vec<ServiceAnswer>,
    edges: Vec<EdgeAnswer>,
}

#[derive(Serialize)]
struct PodAnswer {
    name: String,
    namespace: String,
    app: String,
    version: String,
    identity: String,
    proxy: &'static str,
    sync: &'static str,
    config_version: String,
    address: String,
}

#[derive(Serialize)]
struct ServiceAnswer {
    name: String,
    namespace: String,
    pods: Vec<String>,
}

#[derive(Serialize)]
struct EdgeAnswer {
    from: EndAnswer,
    to: EndAnswer,
    protocol: &'static str,
    mtls: bool,
    denied: bool,
    per_second: Option<f64>,
    success: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Serialize)]
struct EndAnswer {
    kind: &'static str,
    namespace: String,
    name: String,
}

impl TopologyAnswer {
    pub(super) fn of(topology: &diagram::Topology) -> Self {
        let service = |s: &diagram::Service| ServiceAnswer {
            name: s.name.clone(),
            namespace: s.namespace.clone(),
            pods: s.pods.clone(),
        };
        Self {
            trust_domain: topology.trust_domain.clone(),
            platform: topology.platform.clone(),
            mesh_type: topology.mesh_type().to_string(),
            scale: topology.scale().to_string(),
            features: topology.features.clone(),
            pods: topology.pods.iter().map(PodAnswer::of).collect(),
            services: topology.services.iter().map(service).collect(),
            edges: topology.edges.iter().map(EdgeAnswer::of).collect(),
        }
    }
}

impl PodAnswer {
    fn of(pod: &diagram::Pod) -> Self {
        Self {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            app: pod.app.clone(),
            version: pod.version.clone(),
            identity: pod.identity.clone(),
            proxy: match pod.proxy {
                diagram::Proxy::Meshwork => "meshwork",
                diagram::Proxy::Envoy => "envoy",
                diagram::Proxy::Proxyless => "proxyless",
            },
            sync: match pod.sync {
                diagram::Sync::Unknown => "unknown",
                diagram::Sync::Current => "current",
                diagram::Sync::Refusing => "refusing",
                diagram::Sync::Disconnected => "disconnected",
            },
            config_version: pod.config_version.clone(),
            address: pod.address.clone(),
        }
    }
}

impl EdgeAnswer {
    fn of(edge: &diagram::Edge) -> Self {
        let traffic = edge.traffic;
        Self {
            from: EndAnswer::of(&edge.from),
            to: EndAnswer::of(&edge.to),
            protocol: match edge.protocol {
                diagram::Protocol::Http => "http",
                diagram::Protocol::Grpc => "grpc",
                diagram::Protocol::Tcp => "tcp",
            },
            mtls: edge.mtls,
            denied: edge.denied,
            per_second: traffic.map(|t| t.per_second),
            success: traffic.map(|t| t.success),
            p50_ms: traffic.and_then(|t| t.p50_ms),
            p99_ms: traffic.and_then(|t| t.p99_ms),
        }
    }
}

impl EndAnswer {
    fn of(end: &diagram::End) -> Self {
        let (kind, namespace, name) = match end {
            diagram::End::Pod { namespace, name } => ("workload", namespace.clone(), name.clone()),
            diagram::End::Service { namespace, name } => ("service", namespace.clone(), name.clone()),
            diagram::End::Outside(name) => ("outside", String::new(), name.clone()),
        };
        Self { kind, namespace, name }
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Role;
    use super::*;

    #[test]
    fn problems_name_nothing_that_may_not_be_read() {
        let shop = Caller::of("ci", Role::Viewer, "shop");
        let check = |resource: &str, message: &str, expected: (&str, &str)| {
            let problem = Problem::error(resource, "spec", message, "").at("a.yaml", None);
            let shown = ProblemAnswer::of(&problem).shown(&shop);
            assert_eq!((&*shown.resource, &*shown.message), expected);
            let everywhere = Caller::new("all".to_owned(), Role::Viewer);
            assert_eq!(ProblemAnswer::of(&problem).shown(&everywhere).message, message);
        };
        let entry = "ServiceEntry shop/out";
        check(
            entry,
            "the ServiceEntry bank/x has the host h",
            (entry, "the ServiceEntry (hidden) has the host h"),
        );
        check(
            entry,
            "HTTPRoute `bank/x`, and Service shop/y",
            (entry, "HTTPRoute `(hidden)`, and Service shop/y"),
        );
        for same in ["expected text/plain, found /a/b", "use networking.istio.io/v1", "Service bank"] {
            check("", same, ("", same));
        }
        let generic = "this does not go together with what is in a namespace that you may not read";
        check("ServiceEntry bank/x", "the ServiceEntry shop/out has the host h", ("", generic));
        let hidden = Problem::error("Service bank/x", "spec", "m", "f").at("b.yaml", None);
        let hidden = ProblemAnswer::of(&hidden).shown(&shop);
        assert!(hidden.file.is_empty() && hidden.field.is_empty() && hidden.line.is_none(), "{hidden:?}");
    }
}
