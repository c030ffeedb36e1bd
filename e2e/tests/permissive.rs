//! A port that takes plaintext, too: who calls so is counted, and `meshwork check mtls` says who would be cut off.

#![expect(clippy::panic, reason = "to panic is how a test fails")]

use std::net::SocketAddr;

use e2e::captured::{Mesh, service};
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, http};
use serde_json::{Value, json};

/// Called in plaintext as well, by mTLS alone, and by nobody.
const WORKLOADS: [&str; 3] = ["mixed", "ready", "silent"];

fn config() -> String {
    WORKLOADS.map(service).concat()
}

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{ name: default, namespace: shop }}\nspec: {{ mtls: {{ mode: {mode} }} }}\n"
    )
}

fn status(at: SocketAddr) -> Option<u16> {
    http::get(at, "/").ok().map(|answer| answer.status)
}

/// What is said of each workload's port, and how the command ends.
fn told(mesh: &Mesh) -> (Option<i32>, Value) {
    let finished = mesh.cli(&["check", "mtls", "--namespace", "shop", "-o", "json"]);
    let value = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:#?}"));
    (finished.status.code(), value)
}

fn of(told: &Value, workload: &str) -> Value {
    let ports = told["ports"].as_array().expect("a list");
    ports.iter().find(|port| port["workload"] == workload).cloned().unwrap_or_default()
}

#[test]
fn plaintext_is_counted_by_caller_and_who_would_be_cut_off_is_named() {
    let mesh = Mesh::start(&config());
    mesh.configure("mode.yaml", &mode("PERMISSIVE"));
    let origin = Origin::start(HELLO);
    let (inbound, outbound) = (WORKLOADS.map(|_| free_address()), WORKLOADS.map(|_| free_address()));
    let mut programs: Vec<Program> = Vec::new();
    for (name, at) in WORKLOADS.iter().zip(inbound) {
        let port = format!("8080={at}>{}", origin.address());
        programs.push(mesh.explicit(name, &["--inbound", &port, "--push-metrics", "1s"]));
    }
    let calls: Vec<_> =
        WORKLOADS.iter().zip(outbound).map(|(name, at)| format!("{name}.shop:80={at}")).collect();
    let options: Vec<_> = calls.iter().flat_map(|call| ["--outbound", call]).collect();
    programs.push(mesh.explicit("web", &options));
    for at in [outbound[0], outbound[1]] {
        eventually("calls by mTLS get through", || status(at) == Some(200));
    }
    eventually("plaintext gets through", || status(inbound[0]) == Some(200));
    for _ in 0..5 {
        assert_eq!(status(inbound[0]), Some(200));
    }
    let mut last = (None, Value::Null);
    eventually("all of it is told", || {
        last = told(&mesh);
        of(&last.1, "mixed")["verdict"] == "cutOff" && of(&last.1, "ready")["verdict"] == "safe"
    });
    let (code, all) = last;
    assert_eq!(code, Some(1), "{all:#}");
    let mixed = of(&all, "mixed");
    assert_eq!(
        (&mixed["mode"], &mixed["callers"][0]["source"]),
        (&json!("PERMISSIVE"), &json!("127.0.0.1")),
        "{mixed:#}"
    );
    assert!(mixed["plaintext"]["requests"].as_u64() >= Some(1), "{mixed:#}");
    assert!(mixed["mtlsShare"].as_f64().is_some_and(|share| 0.0 < share && share < 1.0), "{mixed:#}");
    assert_eq!(of(&all, "ready")["callers"], json!([]), "{all:#}");
    assert_eq!(of(&all, "silent")["verdict"], "unknown", "{all:#}");

    // For people, the same in words.
    let words = mesh.cli(&["check", "mtls"]);
    assert!(words.stdout.contains("mixed") && words.stdout.contains("127.0.0.1"), "{words:#?}");

    mesh.configure("mode.yaml", &mode("STRICT"));
    eventually("nobody is served in plaintext", || inbound.iter().all(|at| status(*at) != Some(200)));
    for at in outbound {
        eventually("and all by mTLS", || status(at) == Some(200));
    }
    eventually("that is told, too", || {
        let (code, all) = told(&mesh);
        code == Some(0) && WORKLOADS.iter().all(|name| of(&all, name)["verdict"] == "strict")
    });
    for program in &mut programs {
        assert!(program.alive() && !program.output().contains("panicked"), "{}", program.output());
    }
}
