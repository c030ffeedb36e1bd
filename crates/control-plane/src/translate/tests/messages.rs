//! What each dialect is told of a feature: `testdata/messages/<feature>.<dialect>.yaml` are the messages of the node of
//! `testdata/<feature>.in.yaml`, as a client of that dialect gets them. `UPDATE=1` renews them.

use std::fmt::Write as _;

use meshwork_xds::{SdsSource, decode, encode, to_yaml};

use super::*;

/// The dialects by the names of their goldens, each with where its clients have their secrets.
fn dialects() -> [(&'static str, Dialect, SdsSource); 3] {
    [
        ("meshwork", Dialect::Meshwork, SdsSource::Named),
        ("envoy", Dialect::Envoy, SdsSource::Directory("/run/meshwork".to_owned())),
        ("grpc", Dialect::Grpc, SdsSource::Grpc),
    ]
}

/// The snapshot of a feature's node, were it of that dialect; a gRPC program asks for what the node calls and serves.
fn of_node(feature: &str, dialect: Dialect) -> Vec<Resource> {
    let loaded = crate::ingest::read_dir(&testdata(&format!("{feature}.in.yaml")));
    assert!(loaded.is_accepted(), "{feature}: {:#?}", loaded.problems);
    let cast = Cast::read(loaded.sources.values().next().expect("one file"));
    let implied = crate::implied::services(&loaded.config, &cast.workloads, &BTreeMap::new());
    let mut mesh = Mesh::new("mesh.local", Arc::new(loaded.config), cast.workloads.clone(), implied);
    mesh.addresses = Arc::new(addresses(&mesh));
    let node = &cast.workloads[&cast.node.expect("a node")];
    let calls = node.outbound.iter();
    let calls = calls.map(|call| format!("{}.{}:{}", call.service.name, call.service.namespace, call.port));
    let server = |port: &Inbound| format!("grpc/server?xds.resource.listening_address={}", port.bind);
    let wanted = calls.chain(node.inbound.iter().map(server)).collect();
    snapshot(&mesh, node, dialect, &wanted)
}

fn check(feature: &str) {
    for (name, dialect, sds) in dialects() {
        let mut text = String::new();
        for resource in of_node(feature, dialect) {
            let encoded = encode(&resource, dialect, &sds);
            if dialect == Dialect::Meshwork {
                assert_eq!(decode(encoded.type_url(), &encoded.bytes).as_ref(), Ok(&resource), "{feature}");
            }
            let _ = write!(text, "--- # {:?} {}\n{}", encoded.kind, encoded.name, to_yaml(&encoded));
        }
        check_golden(&format!("messages/{feature}.{name}.yaml"), &text);
    }
}

macro_rules! messages {
    ($($feature:ident),* $(,)?) => {
        $(#[test] fn $feature() { check(&stringify!($feature).replace('_', "-")); })*
    };
}

messages! {
    split_by_weight_and_header,
    header_modifiers,
    fault_on_routes,
    retries,
    timeouts,
    mirrors,
    rewrites,
    redirects,
    cors,
    matches,
    backends_that_are_not_there,
    grpc_precedence,
    tls_route,
    tcp_route,
    tokens,
    permissive,
    permissive_tcp,
    policy_conditions,
    audit_and_tried,
    custom,
    gateway_http,
    gateway_tls,
    backend_tls,
    deny_and_allow,
    destination_rule,
    consistent_hash,
    traffic_policy,
    outside_tls,
}
