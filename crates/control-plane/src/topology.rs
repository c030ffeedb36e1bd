//! The mesh as a picture shows it: of a running mesh from what is connected and measured, of a directory from what
//! its policies and routes say.

use std::collections::{BTreeMap, BTreeSet};

use meshwork_diagram::{
    ControlPlane, Edge, End, Observability, Pod, Protocol, Proxy, Service, Sync, Topology, Traffic,
};
use meshwork_hub as hub;
use meshwork_model::mesh::{self, Config, Key, Labels, PolicyAction, RouteKind, selects};
use meshwork_model::proxy::StringMatch;
use meshwork_xds::Dialect;

use crate::translate::Mesh;
use crate::world::{self, World};

/// The trust domain that a picture of a directory is drawn with: a directory names none.
const TRUST_DOMAIN: &str = "mesh.local";

/// Draws a running mesh.
pub(crate) fn live(world: &World, edges: &[hub::Edge], listen: &str, api: &str) -> Topology {
    let mesh = world.mesh();
    let proxies: BTreeMap<Key, (Proxy, Sync, String)> =
        world.proxies(|key, proxy| (key.clone(), describe(proxy))).into_iter().collect();
    let pods = mesh.workloads.values().map(|w| live_pod(w, proxies.get(&w.key))).collect();
    Topology {
        trust_domain: mesh.trust_domain.to_string(),
        platform: "this host".to_owned(),
        features: features(&mesh.config),
        live: true,
        control: control(&format!("HTTP, {api}"), &format!("xDS, {listen}")),
        observability: observability(),
        pods,
        services: services(&mesh),
        edges: edges.iter().map(|edge| live_edge(edge, &mesh)).collect(),
    }
}

fn describe(proxy: &world::Proxy) -> (Proxy, Sync, String) {
    let kind = match proxy.dialect {
        Dialect::Meshwork => Proxy::Meshwork,
        Dialect::Envoy => Proxy::Envoy,
        Dialect::Grpc => Proxy::Proxyless,
    };
    let sync = match (proxy.connected, proxy.refused.is_empty()) {
        (false, _) => Sync::Disconnected,
        (true, false) => Sync::Refusing,
        (true, true) if proxy.is_current() => Sync::Current,
        // It was given something a moment ago.
        (true, true) => Sync::Unknown,
    };
    (kind, sync, proxy.version())
}

fn live_pod(workload: &mesh::Workload, proxy: Option<&(Proxy, Sync, String)>) -> Pod {
    let (proxy, sync, config_version) =
        proxy.cloned().unwrap_or((Proxy::Meshwork, Sync::Disconnected, String::new()));
    let label = |name: &str| workload.labels.get(name).cloned().unwrap_or_default();
    Pod {
        name: workload.key.name.to_string(),
        namespace: workload.key.namespace.to_string(),
        app: label("app"),
        version: label("version"),
        identity: workload.identity.to_string(),
        proxy,
        sync,
        config_version,
        address: workload.inbound.first().map(|i| i.application.to_string()).unwrap_or_default(),
    }
}

fn live_edge(edge: &hub::Edge, mesh: &Mesh) -> Edge {
    const UNKNOWN: &str = "unknown";
    let from = match edge.from.as_str() {
        UNKNOWN | "" => End::Outside(UNKNOWN.to_owned()),
        name => End::pod(edge.from_namespace.as_str(), name),
    };
    let to = if mesh.workloads.contains_key(&Key::new(edge.to_namespace.as_str(), edge.to_workload.as_str()))
    {
        End::pod(edge.to_namespace.as_str(), edge.to_workload.as_str())
    } else if edge.to == UNKNOWN {
        // It is outside the mesh, or nowhere.
        End::Outside(UNKNOWN.to_owned())
    } else {
        End::service(edge.to_namespace.as_str(), edge.to.as_str())
    };
    let measured = |ms: f64| (ms > 0.0).then_some(ms);
    Edge {
        from,
        to,
        protocol: match edge.protocol.as_str() {
            "grpc" => Protocol::Grpc,
            "tcp" => Protocol::Tcp,
            _ => Protocol::Http,
        },
        traffic: Some(Traffic {
            per_second: edge.per_second,
            success: edge.success,
            p50_ms: measured(edge.p50_ms),
            p99_ms: measured(edge.p99_ms),
        }),
        weight: None,
        mtls: edge.mtls,
        denied: edge.denied > 0 && edge.denied >= edge.requests,
    }
}

fn services(mesh: &Mesh) -> Vec<Service> {
    let pods = |key: &Key, service: &mesh::Service| {
        let here = mesh.workloads.values().filter(|w| w.key.namespace == key.namespace);
        let behind = here.filter(|w| !service.selector.is_empty() && selects(&service.selector, &w.labels));
        behind.map(|w| w.key.name.to_string()).collect()
    };
    let service = |(key, service): (&Key, &mesh::Service)| Service {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        pods: pods(key, service),
    };
    let all: BTreeMap<&Key, &mesh::Service> = mesh.services().collect();
    all.into_iter().map(service).collect()
}

/// Draws the mesh that config would make, where it runs nowhere yet.
///
/// Workloads are guessed from services: one for each that no narrower one stands for, under a service account named
/// like its label `app`. Calls are those that ALLOW policies name the callers of.
pub fn topology_of(config: &Config) -> Topology {
    let guess = Guess::of(config);
    Topology {
        trust_domain: TRUST_DOMAIN.to_owned(),
        platform: "this host".to_owned(),
        features: features(config),
        live: false,
        control: control("HTTP", "xDS"),
        observability: observability(),
        services: guess.services(),
        edges: guess.edges(),
        pods: guess.pods,
    }
}

struct Guess<'c> {
    config: &'c Config,
    pods: Vec<Pod>,
}

impl<'c> Guess<'c> {
    fn of(config: &'c Config) -> Self {
        let mut guess = Self { config, pods: Vec::new() };
        for (key, service) in &config.services {
            let narrower = config.services.iter().any(|(other, s)| {
                other.namespace == key.namespace
                    && s.selector.len() > service.selector.len()
                    && selects(&service.selector, &s.selector)
            });
            if !narrower && !service.selector.is_empty() {
                guess.add(&key.namespace, &key.name, &service.selector);
            }
        }
        for (namespace, account) in callers(config).into_values().flatten() {
            let known = guess.pods.iter().any(|p| p.namespace == namespace && p.app == account);
            if !known {
                guess.add(&namespace, &account, &Labels::new());
            }
        }
        guess
    }

    fn add(&mut self, namespace: &str, name: &str, labels: &Labels) {
        let app = labels.get("app").map_or(name, String::as_str);
        self.pods.push(Pod {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            app: app.to_owned(),
            version: labels.get("version").cloned().unwrap_or_default(),
            identity: format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{app}"),
            ..Pod::default()
        });
    }

    /// The pods that a service leads to: its own, or those of narrower services.
    fn behind(&self, key: &Key) -> Vec<&Pod> {
        let Some(service) = self.config.services.get(key) else { return Vec::new() };
        let of_pod = |pod: &&Pod| {
            let other = self.config.services.get(&Key::new(pod.namespace.as_str(), pod.name.as_str()));
            *pod.namespace == *key.namespace && other.is_some_and(|s| selects(&service.selector, &s.selector))
        };
        self.pods.iter().filter(of_pod).collect()
    }

    fn services(&self) -> Vec<Service> {
        let pods = |key: &Key| self.behind(key).into_iter().map(|pod| pod.name.clone()).collect();
        let service = |key: &Key| Service {
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            pods: pods(key),
        };
        self.config.services.keys().map(service).collect()
    }

    fn edges(&self) -> Vec<Edge> {
        let mut edges: BTreeMap<(End, End), Edge> = BTreeMap::new();
        for (policy, callers) in callers(self.config) {
            let Some(called) = self.called(policy) else { continue };
            for (namespace, account) in callers {
                let from = self.pods.iter().filter(|p| p.namespace == namespace && p.app == account);
                for edge in from.flat_map(|pod| self.calls(pod, called)) {
                    edges.insert((edge.from.clone(), edge.to.clone()), edge);
                }
            }
        }
        edges.into_values().collect()
    }

    /// The service whose workloads a policy protects: the one with the policy's own selector.
    fn called(&self, policy: &Key) -> Option<&'c Key> {
        let selector = &self.config.authorization_policies.get(policy)?.selector;
        let mut of_namespace = self.config.services.iter().filter(|(k, _)| k.namespace == policy.namespace);
        of_namespace.find(|(_, service)| service.selector == *selector).map(|(key, _)| key)
    }

    /// A pod's calls of a service: one edge to each pod behind it, with its share of the service's split.
    fn calls(&self, from: &Pod, called: &Key) -> Vec<Edge> {
        let protocol = self.config.services.get(called).and_then(|s| s.ports.first()).map(|p| p.protocol);
        let weights = weights(self.config, called);
        let edge = |pod: &Pod| Edge {
            from: End::pod(from.namespace.as_str(), from.name.as_str()),
            to: End::pod(pod.namespace.as_str(), pod.name.as_str()),
            protocol: match protocol {
                Some(mesh::Protocol::Grpc) => Protocol::Grpc,
                Some(mesh::Protocol::Tcp) | None => Protocol::Tcp,
                Some(_) => Protocol::Http,
            },
            weight: weights.get(pod.name.as_str()).copied(),
            ..Edge::default()
        };
        self.behind(called).into_iter().map(edge).collect()
    }
}

/// The percentages by which the last rule with several backends splits a service's requests, by backend.
fn weights(config: &Config, called: &Key) -> BTreeMap<String, u32> {
    let of_service = |(kind, _): &(RouteKind, Key), route: &mesh::Route| {
        *kind == RouteKind::Http && route.parents.iter().any(|p| p.target.as_service() == Some(called))
    };
    let routes = config.routes.iter().filter(|(id, route)| of_service(id, route));
    let mut splits = routes.flat_map(|(_, route)| &route.rules).filter(|rule| rule.backends().len() > 1);
    let Some(rule) = splits.next_back() else { return BTreeMap::new() };
    let total: u64 = rule.backends().iter().map(|b| u64::from(b.weight)).sum();
    let percent = |weight: u32| u32::try_from(u64::from(weight) * 100 / total.max(1)).unwrap_or(100);
    let share = |b: &mesh::Backend| Some((b.target.as_service()?.name.to_string(), percent(b.weight)));
    rule.backends().iter().filter_map(share).collect()
}

/// The callers that each ALLOW policy names in full: namespace and service account.
fn callers(config: &Config) -> BTreeMap<&Key, BTreeSet<(String, String)>> {
    let mut callers: BTreeMap<&Key, BTreeSet<(String, String)>> = BTreeMap::new();
    let allowing =
        config.authorization_policies.iter().filter(|(_, policy)| policy.action == PolicyAction::Allow);
    for (key, policy) in allowing {
        let sources = policy.rules.iter().flat_map(|rule| &rule.from);
        for principal in sources.flat_map(|source| &source.principals.one_of) {
            let StringMatch::Exact(text) = principal else { continue };
            if let [_, "ns", namespace, "sa", account] = text.split('/').collect::<Vec<_>>()[..] {
                callers.entry(key).or_default().insert((namespace.to_owned(), account.to_owned()));
            }
        }
    }
    callers
}

fn features(config: &Config) -> Vec<String> {
    let mut features = vec!["mTLS".to_owned()];
    if !config.authorization_policies.is_empty() {
        features.push("authorization".to_owned());
    }
    let split = |route: &mesh::Route| route.rules.iter().any(|rule| rule.backends().len() > 1);
    if config.routes.values().any(split) {
        features.push("traffic split".to_owned());
    } else if !config.routes.is_empty() {
        features.push("routing".to_owned());
    }
    features.push("metrics".to_owned());
    features
}

fn control(api: &str, discovery: &str) -> ControlPlane {
    ControlPlane {
        config_api: Some(api.to_owned()),
        config_store: Some("YAML files, SQLite".to_owned()),
        discovery: Some(discovery.to_owned()),
        certificate_authority: Some("SPIFFE SVIDs".to_owned()),
    }
}

fn observability() -> Observability {
    Observability {
        metrics: Some("hub, OTLP".to_owned()),
        access_logs: Some("JSON lines".to_owned()),
        traces: None,
        dashboard: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_directory_is_drawn_from_its_policies_and_routes() {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        let loaded = crate::ingest::read_dir(&shop);
        assert_eq!(loaded.problems, []);
        let topology = topology_of(&loaded.config);
        let pods: Vec<&str> = topology.pods.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(
            pods,
            ["cart", "catalog-v1", "catalog-v2", "checkout", "ledger", "payments", "web", "load"]
        );
        let show = |end: &End| match end {
            End::Pod { name, .. } | End::Service { name, .. } | End::Outside(name) => name.clone(),
        };
        let weight = |edge: &Edge| edge.weight.map(|w| format!(" {w}%")).unwrap_or_default();
        let edges: Vec<String> = topology
            .edges
            .iter()
            .map(|e| format!("{} > {}{}", show(&e.from), show(&e.to), weight(e)))
            .collect();
        assert_eq!(
            edges,
            [
                "checkout > ledger",
                "checkout > payments",
                "load > web",
                "web > cart",
                "web > catalog-v1 90%",
                "web > catalog-v2 10%",
                "web > checkout",
            ]
        );
        assert!(meshwork_diagram::mermaid(&topology).contains("catalog-v2"));
    }
}
