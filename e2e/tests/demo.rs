//! The demo: a whole mesh under load, its report, its end, and what happens when parts of it die.

use std::path::Path;
use std::process::Command;

use e2e::eventually;
use e2e::mesh::Mesh;
use e2e::program::output;
use serde_json::Value;

/// What must hold of every run: nothing failed, nothing got through, all was encrypted.
fn check_clean(report: &Value) {
    assert_eq!(report["failures"], 0, "{report:#}");
    assert_eq!(report["mtls_share"], 1.0, "{report:#}");
    assert!(report["requests"].as_u64() > Some(100), "{report:#}");
    assert!(report["denied"].as_u64() > Some(0), "{report:#}");
}

fn check_mermaid(path: &Path) {
    output(Command::new("node").arg("check.mjs").arg(path).current_dir(e2e::root().join("e2e/mermaid")));
}

#[test]
fn a_run_reports_clean_traffic_on_every_edge_and_the_split() {
    let (status, report) = Mesh::start(&["--for", "10s"]).finish();
    assert!(status.success(), "{status} {report:#}");
    check_clean(&report);
    let edge = |from: &str, to: &str, protocol: &str| {
        let edges = report["edges"].as_array().expect("edges");
        let found = edges.iter().find(|e| e["from"] == from && e["to"] == to && e["protocol"] == protocol);
        let edge = found.unwrap_or_else(|| panic!("no edge {from} → {to} by {protocol}: {report:#}"));
        assert_eq!(edge["mtls"], true, "{edge}");
    };
    edge("load", "web", "http");
    edge("web", "catalog-v1", "http");
    edge("web", "catalog-v2", "http");
    edge("web", "cart", "http");
    edge("web", "checkout", "http");
    edge("checkout", "payments", "grpc");
    edge("checkout", "ledger", "tcp");
    let splits = report["splits"].as_array().expect("splits");
    let v2 = splits.iter().find(|s| s["version"] == "v2").expect("a share of v2");
    // Ten seconds give some hundred samples: chance moves the share by a few points, and never by ten.
    assert!((v2["share"].as_f64().expect("a share") - 0.10).abs() < 0.1, "{report:#}");
}

#[test]
fn the_diagram_of_a_running_mesh_is_mermaid() {
    let mesh = Mesh::start(&[]);
    let api = format!("http://{}", mesh.address("control-plane", "--api").expect("an API"));
    eventually("the diagram shows rates", || {
        let text = output(Command::new(e2e::binary()).args(["diagram", "--api", &api]));
        text.contains("/s") && text.contains("checkout")
    });
    let text = output(Command::new(e2e::binary()).args(["diagram", "--api", &api]));
    let file = mesh.scratch().join("live.mmd");
    std::fs::write(&file, text).expect("a file");
    check_mermaid(&file);
    let table = output(Command::new(e2e::binary()).args(["edges", "--api", &api]));
    assert!(table.contains("payments"), "{table}");
}

#[test]
fn config_that_is_not_running_is_drawn() {
    let dir = tempfile::tempdir().expect("a folder");
    let shop = e2e::root().join("examples/shop");
    let text = output(Command::new(e2e::binary()).args(["diagram", "--from"]).arg(&shop));
    assert!(text.contains("catalog"), "{text}");
    let file = dir.path().join("shop.mmd");
    std::fs::write(&file, text).expect("a file");
    check_mermaid(&file);
}

#[test]
fn no_process_survives_the_demo_also_when_it_is_killed() {
    let mut mesh = Mesh::start(&[]);
    let ids = mesh.pids();
    assert!(ids.len() > 16, "{ids:?}");
    mesh.kill_demo();
    let runs = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // A zombie that nobody reaps here has ended all the same.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    eventually("every process has ended", || !ids.iter().any(runs));
}

#[test]
fn an_interrupted_demo_ends_clean_and_two_run_side_by_side() {
    let (one, two) = (Mesh::start(&[]), Mesh::start(&[]));
    for mesh in [one, two] {
        let (status, report) = mesh.stop();
        assert!(status.success(), "{status} {report:#}");
        assert_eq!(report["failures"], 0, "{report:#}");
    }
}

#[test]
fn nothing_fails_while_the_control_plane_is_killed_and_comes_back() {
    let mesh = Mesh::start(&["--for", "20s"]);
    let before = mesh.pid("control-plane");
    mesh.kill("control-plane");
    eventually("the control plane is back", || {
        let now = mesh.pid("control-plane");
        now.is_some() && now != before && mesh.api("/api/v1/proxies").is_some()
    });
    eventually("all proxies have reconnected", || {
        let proxies = mesh.api("/api/v1/proxies").unwrap_or_default();
        let proxies = proxies.as_array().cloned().unwrap_or_default();
        proxies.len() == 8 && proxies.iter().all(|p| p["connected"] == true)
    });
    let (status, report) = mesh.finish();
    assert!(status.success(), "{status} {report:#}");
    check_clean(&report);
}

#[test]
fn a_killed_sidecar_comes_back_and_serves() {
    let mesh = Mesh::start(&[]);
    let before = mesh.pid("cart-sidecar");
    mesh.kill("cart-sidecar");
    eventually("the sidecar is back", || mesh.pid("cart-sidecar").is_some_and(|id| Some(id) != before));
    let counts = || {
        let edge = mesh.edge("web", "cart").unwrap_or_default();
        (edge["requests"].as_u64().unwrap_or(0), edge["failures"].as_u64().unwrap_or(0))
    };
    // What was under way when it died has failed; from some moment on nothing does.
    let mut since = counts();
    eventually("a hundred requests reach the cart without a failure", || {
        let now = counts();
        if now.1 != since.1 {
            since = now;
        }
        now.0 > since.0 + 100
    });
}

#[test]
fn a_changed_split_is_live_and_a_wrong_file_changes_nothing() {
    let mesh = Mesh::start(&[]);
    let file = mesh.config("catalog.yaml");
    let text = std::fs::read_to_string(&file).expect("the catalog's config");
    let shifted = text.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100");
    assert_ne!(text, shifted);
    let rate = |version: &str| {
        let edges = mesh.api("/api/v1/edges").unwrap_or_default();
        let of = |e: &&Value| e["from"] == "web" && e["to_workload"] == format!("catalog-{version}");
        edges
            .as_array()
            .into_iter()
            .flatten()
            .find(of)
            .map_or(0.0, |e| e["per_second"].as_f64().unwrap_or(0.0))
    };
    std::fs::write(&file, &shifted).expect("written");
    eventually("all goes to v2", || rate("v2") > 1.0 && rate("v1") == 0.0);

    std::fs::write(&file, shifted.replace("backendRefs", "backendRfes")).expect("written");
    eventually("the wrong file is told of", || {
        let problems = mesh.api("/api/v1/problems").unwrap_or_default().to_string();
        problems.contains("catalog.yaml") && problems.contains("backendRfes")
    });
    let (v2, then) = (
        || mesh.edge("web", "catalog-v2").map_or(0, |e| e["requests"].as_u64().unwrap_or(0)),
        mesh.pid("web"),
    );
    let before = v2();
    eventually("the last good config stays", || v2() > before + 50);
    assert_eq!(mesh.pid("web"), then);
}
