//! One golden per feature: `testdata/<feature>.in.yaml` is config, and names in its first lines who is there and
//! whose snapshot is drawn; `testdata/<feature>.out.txt` is what that node runs. `UPDATE=1` renews the latter.

mod draw;
mod messages;
mod semantics;
mod verdicts;

use std::path::{Path, PathBuf};

use super::*;
use crate::addresses::{Addressee, Addresses};
use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{Capture, GatewayNode, Inbound, Labels, Outbound};
use meshwork_model::policy::{Facts, Rules, Verdict, authorize};
use meshwork_model::proxy::{Gate, Locality, NetworkFilter};
use meshwork_model::spiffe::SpiffeId;

/// Who is there, and whose snapshot is asked for.
#[derive(Default)]
struct Cast {
    workloads: BTreeMap<Key, Arc<Workload>>,
    node: Option<Key>,
    dialect: Option<Dialect>,
    wanted: BTreeSet<String>,
    revoked: BTreeSet<SpiffeId>,
}

impl Cast {
    /// Reads the first lines: `# node web: account=web out=catalog.shop:80`, `# there cart: in=8080 version=v2`.
    fn read(text: &str) -> Self {
        let mut cast = Self::default();
        for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
            let Some((who, words)) = line.split_once(": ") else { continue };
            let Some((role @ ("node" | "there" | "revoked"), name)) = who.split_once(' ') else { continue };
            if role == "revoked" {
                let id = SpiffeId::workload("mesh.local", "shop", name).expect("valid");
                cast.revoked.insert(id);
                continue;
            }
            let workload = cast.workload(name, words);
            if role == "node" {
                cast.node = Some(workload.key.clone());
            }
            cast.workloads.insert(workload.key.clone(), Arc::new(workload));
        }
        cast
    }

    fn workload(&mut self, name: &str, words: &str) -> Workload {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        let number = u16::try_from(self.workloads.len()).expect("few");
        let mut account = name.to_owned();
        let mut labels = Labels::from([("app".to_owned(), name.to_owned())]);
        let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
        let mut ip = std::net::IpAddr::from([127, 0, 0, 1]);
        let (mut speaks, mut capture, mut unready, mut zone) = (None, None, None, String::new());
        let mut gateway = None;
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let index = u16::try_from(inbound.len() + outbound.len()).expect("few");
            let bind = (ip, 41000 + 10 * number + index).into();
            match key {
                "gateway" => gateway = Some(Arc::new(self::gateway(value))),
                "captured" => capture = Some(self::capture()),
                "unready" => unready = Some("no answer".into()),
                "host" => ip = value.parse().expect("an address"),
                "zone" => value.clone_into(&mut zone),
                "speaks" => speaks = Protocol::of_name(value),
                "account" => value.clone_into(&mut account),
                "in" => inbound.push(Inbound {
                    port: value.parse().expect("a port"),
                    bind,
                    application: ([127, 0, 0, 1], 9000 + number).into(),
                    protocol: speaks,
                }),
                "out" => {
                    let (service, port) = value.split_once(':').expect("a port");
                    let (name, namespace) = service.split_once('.').expect("a namespace");
                    let (service, port) = (Key::new(namespace, name), port.parse().expect("a port"));
                    outbound.push(Outbound { service, port, bind });
                }
                "wants" => drop(self.wanted.insert(value.to_owned())),
                "dialect" => {
                    self.dialect = Some(Dialect::of_user_agent(value));
                }
                _ => drop(labels.insert(key.to_owned(), value.to_owned())),
            }
        }
        let identity = SpiffeId::workload("mesh.local", namespace, &account).expect("valid");
        let key = Key::new(namespace, name);
        Workload {
            key,
            identity,
            labels,
            inbound,
            outbound,
            capture,
            gateway,
            unready,
            locality: self::locality(&zone),
        }
    }
}

fn locality(zone: &str) -> Locality {
    Locality { zone: zone.into(), ..Locality::default() }
}

fn gateway(name: &str) -> GatewayNode {
    GatewayNode {
        name: name.into(),
        address: [0, 0, 0, 0].into(),
        binds: [(80, ([0, 0, 0, 0], 8080).into())].into(),
        certificates: Some("/certs".into()),
    }
}

fn capture() -> Capture {
    let address = |text: &str| text.parse().expect("an address");
    let outbound = vec![address("127.0.0.1:15001"), address("[::1]:15001")];
    Capture { outbound, names: address("127.0.0.1:15053") }
}

/// Numbers what has a name: services, then hosts, then workloads.
fn addresses(mesh: &Mesh) -> Addresses {
    let implied = mesh.implied.keys().cloned().map(Addressee::Service);
    let workloads = mesh.workloads.keys().cloned().map(Addressee::Workload);
    let names = crate::addresses::of_config(&mesh.config).into_iter().chain(implied).chain(workloads);
    names.zip(1..).map(|(name, n)| (name, VirtualAddress::of_number(n).expect("few"))).collect()
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn translate(feature: &str) -> Vec<Resource> {
    let input = testdata(&format!("{feature}.in.yaml"));
    let loaded = crate::ingest::read_dir(&input);
    assert!(loaded.is_accepted(), "{feature}: {:#?}", loaded.problems);
    let cast = Cast::read(loaded.sources.values().next().expect("one file"));
    let implied = crate::implied::services(&loaded.config, &cast.workloads, &BTreeMap::new());
    let mut mesh = Mesh::new("mesh.local", Arc::new(loaded.config), cast.workloads.clone(), implied);
    mesh.addresses = Arc::new(addresses(&mesh));
    mesh.revoked = Arc::new(cast.revoked);
    let node = &cast.workloads[&cast.node.expect("a node")];
    let dialect = cast.dialect.unwrap_or(Dialect::Meshwork);
    let resources = snapshot(&mesh, node, dialect, &cast.wanted);
    assert_eq!(resources, snapshot(&mesh, node, dialect, &cast.wanted), "{feature}: not a function");
    if dialect == Dialect::Meshwork {
        for resource in &resources {
            let encoded = meshwork_xds::encode(resource, dialect, &meshwork_xds::SdsSource::Named);
            let decoded = meshwork_xds::decode(encoded.type_url(), &encoded.bytes);
            assert_eq!(decoded.as_ref(), Ok(resource), "{feature}: not by wire");
        }
    }
    resources
}

fn check(feature: &str) {
    check_golden(&format!("{feature}.out.txt"), &draw::resources(&translate(feature)));
}

/// Compares a text with a golden, which `UPDATE=1` renews.
fn check_golden(name: &str, text: &str) {
    let golden = testdata(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, text).expect("golden is writable");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(text == expected, "{} differs; UPDATE=1 renews it. It is now:\n{text}", golden.display());
}

macro_rules! goldens {
    ($($feature:ident),* $(,)?) => {
        $(#[test] fn $feature() { check(&stringify!($feature).replace('_', "-")); })*

        #[test]
        fn every_input_is_a_test() {
            let tests = [$(stringify!($feature).replace('_', "-")),*];
            for entry in std::fs::read_dir(testdata("")).expect("there") {
                let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
                if let Some(feature) = name.strip_suffix(".in.yaml") {
                    assert!(tests.iter().any(|t| t == feature), "{name}");
                }
            }
        }
    };
}

goldens! {
    scope,
    split_by_weight_and_header,
    precedence,
    route_without_backends,
    consumer_route,
    header_modifiers,
    redirects,
    rewrites,
    mirrors,
    cors,
    retries,
    matches,
    backends_that_are_not_there,
    grpc_client_without_backend,
    grpc_precedence,
    kinds_of_routes_on_one_port,
    route_on_a_named_port,
    tls_route,
    tcp_route,
    virtual_service_beside_a_route,
    timeouts,
    grpc_route,
    grpc_client,
    grpc_server,
    tcp,
    inbound_http,
    inbound_unknown_port,
    identities,
    no_endpoints,
    mtls_disabled,
    mtls_mixed,
    deny_and_allow,
    federated,
    string_matches,
    policy_on_tcp,
    policy_on_ports,
    policy_allows_nothing,
    mesh_wide_policy,
    permissive,
    permissive_tcp,
    mtls_on_ports,
    policy_conditions,
    policy_conditions_on_tcp,
    policy_for_a_service,
    tokens,
    tokens_of_a_service,
    audit_and_tried,
    tried_on_tcp,
    gateway_http,
    gateway_tls,
    gateway_tcp,
    backend_tls,
    custom,
    captured,
    captured_workloads,
    captured_in_a_closed_mesh,
    captured_beside_explicit,
    hosts_outside,
    subsets,
    virtual_service,
    destination_rule,
    destination_rule_nearest,
    consistent_hash,
    workload_entries,
    outside_tls,
    sidecar_scope,
    traffic_policy,
    fault_on_routes,
    book_shop,
    mesh_defaults,
    access_logs,
    implied_services,
    unready,
    endpoint_slices,
    revoked,
    revoked_tcp,
}

/// Judges a peer's connection or request by the policies of the node's one inbound listener.
fn judge(feature: &str, account: &str, request: Option<(&str, &str)>) -> bool {
    let resources = translate(feature);
    let listener = resources.iter().find_map(|resource| match resource {
        Resource::Listener(listener) if listener.name.starts_with("inbound") => Some(listener),
        _ => None,
    });
    let chain = &listener.expect("one").chains[0];
    let of_gate = |gate: &Gate| match gate {
        Gate::Rbac(rbac) => Some(Arc::clone(rbac)),
        Gate::Tried(..) | Gate::Limit(_) => None,
    };
    let policies: Vec<Arc<meshwork_model::proxy::Rbac>> = match &chain.filter {
        NetworkFilter::Tcp(_) => chain.gates.iter().filter_map(of_gate).collect(),
        NetworkFilter::Http(http) => {
            http.filters.iter().filter_map(|filter| filter.policy().cloned()).collect()
        }
    };
    let peer = SpiffeId::workload("mesh.local", "shop", account).expect("valid");
    let head = request.map(|(method, path)| {
        let mut head = meshwork_model::head::RequestHead::default();
        head.set_method(method.as_bytes());
        head.set_path_and_query(path.as_bytes());
        head
    });
    let facts = Facts { peer: Some(&peer), destination_port: 41000, head: head.as_ref(), ..Facts::default() };
    let rules: Vec<Rules> = policies.into_iter().map(Rules::new).collect();
    matches!(authorize(&rules, &facts), Verdict::Allowed(_))
}

#[test]
fn policies_judge_as_they_are_written() {
    let check = |feature: &str, account: &str, request: Option<(&str, &str)>, passes: bool| {
        assert_eq!(judge(feature, account, request), passes, "{feature}: {account} {request:?}");
    };
    check("deny-and-allow", "web", Some(("GET", "/items?page=2")), true);
    check("deny-and-allow", "web", Some(("POST", "/items")), false);
    check("deny-and-allow", "web", Some(("GET", "/admin")), false);
    check("deny-and-allow", "web", Some(("GET", "/admin/users")), false);
    check("deny-and-allow", "cart", Some(("GET", "/items")), false);
    check("deny-and-allow", "ops", Some(("DELETE", "/items")), true);
    // HTTP attributes on bytes: ALLOW lets nothing in for them, DENY keeps more out.
    check("policy-on-tcp", "web", None, false);
    check("policy-on-tcp", "checkout", None, true);
    check("policy-on-tcp", "intern", None, false);
    check("policy-on-ports", "web", Some(("GET", "/")), true);
    check("policy-on-ports", "cart", Some(("GET", "/")), false);
    check("policy-allows-nothing", "web", Some(("GET", "/")), false);
    check("mesh-wide-policy", "web", Some(("GET", "/")), true);
    check("mesh-wide-policy", "web", Some(("TRACE", "/")), false);
    check("revoked", "web", Some(("GET", "/")), false);
    check("revoked", "ops", Some(("GET", "/")), true);
    check("revoked-tcp", "book", None, false);
    check("revoked-tcp", "web", None, true);
}
