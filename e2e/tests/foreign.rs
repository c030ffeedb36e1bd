//! Data planes that we did not write, in a mesh of ours: real Envoy and real gRPC join by their bootstraps.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use e2e::echo::is_share;
use e2e::eventually;
use e2e::http::exchange;
use e2e::mesh::Mesh;
use e2e::program::{Program, output};
use serde_json::Value;

/// How many requests tell a distribution.
const TRIES: u64 = 300;

/// Enrols a workload for a foreign data plane and waits for its bootstrap.
fn bootstrap(mesh: &Mesh, kind: &str, enrolment: Vec<String>, file: &Path, more: &[String]) -> Program {
    let mut command = Command::new(e2e::binary());
    command
        .arg(kind)
        .args(enrolment)
        .args(["--out".as_ref(), file.parent().expect("a folder").as_os_str()])
        .args(more);
    let mut program = Program::start(kind, mesh.scratch(), &mut command);
    eventually("the bootstrap is written", || {
        assert!(program.alive(), "{kind} ended early: {}", program.output());
        file.exists()
    });
    program
}

fn envoy(mesh: &Mesh, account: &str, workload: &str, app: &str, ports: &[String]) -> (Program, Program) {
    let file = mesh.scratch().join(workload).join("bootstrap.yaml");
    let mut more = vec!["--admin".to_owned(), e2e::free_address().to_string()];
    more.extend_from_slice(ports);
    let agent = bootstrap(mesh, "envoy-bootstrap", mesh.enrolment(account, workload, app), &file, &more);
    let program = Program::envoy(workload, mesh.scratch(), &file);
    (agent, program)
}

fn proxy(mesh: &Mesh, name: &str) -> Option<Value> {
    let proxies = mesh.api("/api/v1/proxies")?;
    proxies.as_array()?.iter().find(|p| p["name"] == name).cloned()
}

/// Whether a node has accepted all that it was given, and refused nothing on the way.
fn accepts_all(mesh: &Mesh, name: &str) -> bool {
    let Some(proxy) = proxy(mesh, name) else { return false };
    assert_eq!(proxy["refused"].as_array().map(Vec::len), Some(0), "{proxy:#}");
    proxy["current"] == true && proxy["accepted"].as_object().is_some_and(|a| !a.is_empty())
}

#[test]
fn envoy_joins_as_a_caller_and_serves_the_split_over_mtls() {
    let mesh = Mesh::start(&["--rate", "20"]);
    let bind = e2e::free_address();
    let ports = ["--outbound".to_owned(), format!("catalog.shop:80={bind}")];
    let (_agent, mut envoy) = envoy(&mesh, "web", "envoy-web", "envoy-web", &ports);
    envoy.listens(bind);
    eventually("Envoy accepts every resource", || accepts_all(&mesh, "envoy-web"));
    assert_eq!(proxy(&mesh, "envoy-web").expect("known")["dialect"], "envoy");

    let mut versions = [0, 0];
    for _ in 0..TRIES {
        match get(bind, "/items", "").as_str() {
            "v1" => versions[0] += 1,
            "v2" => versions[1] += 1,
            other => panic!("a catalog of version {other:?}"),
        }
    }
    assert!(is_share(versions[1], TRIES, 0.1), "{versions:?}");
    assert!((0..50).all(|_| get(bind, "/items", "x-preview: yes\r\n") == "v2"));
}

/// The version of the catalog that answers.
fn get(address: SocketAddr, path: &str, field: &str) -> String {
    let answer = exchange(address, format!("GET {path} HTTP/1.1\r\nhost: catalog\r\n{field}\r\n").as_bytes());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.field("x-catalog-version").unwrap_or_default().to_owned()
}

#[test]
fn envoy_joins_as_a_server_and_our_sidecars_call_it_over_mtls() {
    let mesh = Mesh::start(&[]);
    let (bind, application) = (e2e::free_address(), e2e::free_address());
    let listen = application.to_string();
    let mut cart = Program::meshwork("envoy-cart-app", mesh.scratch(), ["shop", "cart", "--listen", &listen]);
    cart.listens(application);
    let ports = ["--inbound".to_owned(), format!("8080={bind}>{application}")];
    let (_agent, mut envoy) = envoy(&mesh, "cart", "envoy-cart", "cart", &ports);
    envoy.listens(bind);
    eventually("Envoy accepts every resource", || accepts_all(&mesh, "envoy-cart"));
    eventually("our sidecars call the workload behind Envoy", || {
        let edges = mesh.api("/api/v1/edges").unwrap_or_default();
        let edge = edges
            .as_array()
            .into_iter()
            .flatten()
            .find(|e| e["from"] == "web" && e["to_workload"] == "envoy-cart")
            .cloned();
        let edge = edge.unwrap_or_default();
        edge["requests"].as_u64() > Some(20) && edge["mtls"] == true && edge["success"] == 1.0
    });
    // Policy holds at Envoy as it does at ours: a plaintext caller has no identity and gets no answer.
    assert!(e2e::http::get(bind, "/items").is_err());
    let (status, report) = mesh.stop();
    assert!(status.success(), "{report:#}");
}

#[test]
fn grpc_joins_without_a_proxy_and_calls_over_mtls() {
    let mesh = Mesh::start(&["--rate", "20"]);
    let charge = |workload: &str, account: &str| {
        let file = mesh.scratch().join(workload).join("bootstrap.json");
        let _agent =
            bootstrap(&mesh, "grpc-bootstrap", mesh.enrolment(account, workload, workload), &file, &[]);
        let printed = output(
            Command::new(e2e::peer("venv/bin/python"))
                .arg(e2e::root().join("e2e/grpc/client.py"))
                .args(["xds:///payments.shop:50051", "20"])
                .env("GRPC_XDS_BOOTSTRAP", &file),
        );
        let answer: Value = serde_json::from_str(&printed).expect("JSON");
        answer
    };
    let answer = charge("grpc-checkout", "checkout");
    assert_eq!(answer["codes"]["OK"], 20, "{answer:#}");
    // Policy sees the identity of a proxyless caller too.
    let answer = charge("grpc-web", "web");
    assert_eq!(answer["codes"]["PERMISSION_DENIED"], 20, "{answer:#}");
}
