//! Config by the API and the command line: what is applied is live, what is refused changes nothing, what was
//! acknowledged is there whatever dies.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::captured::{Mesh, NAMESPACE};
use e2e::drill::{APPLY, Chance, all_is_there, apply_until, last_is_there};
use e2e::echo::Echo;
use e2e::eventually;
use serde_json::{Value, json};

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: { name: catalog, namespace: shop }
spec: { selector: { app: catalog }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: catalog-v1, namespace: shop }
spec: { selector: { app: catalog, version: v1 }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: catalog-v2, namespace: shop }
spec: { selector: { app: catalog, version: v2 }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";

fn route(version: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: catalog, namespace: shop }}
spec:
  parentRefs: [{{ group: \"\", kind: Service, name: catalog, port: 80 }}]
  rules: [{{ backendRefs: [{{ name: catalog-{version}, port: 80 }}] }}]
"
    )
}

/// A mesh whose config comes by its API alone, with two versions of a catalog and a client.
struct World {
    mesh: Mesh,
    client: Echo,
    _catalogs: [Echo; 2],
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start("");
        let services = mesh.file("services.yaml", SERVICES);
        let applied = mesh.cli(&["apply", "-f", &services]);
        assert!(applied.status.success(), "{applied:#?}");
        let catalog = |version: &str| {
            let (name, label) = (format!("catalog-{version}"), format!("version={version}"));
            let run = mesh.workload(&name).options(&["--label", "app=catalog", "--label", &label]).port(8080);
            Echo::start(&mesh, NAMESPACE, &name, &run, &[8080])
        };
        let catalogs = ["v1", "v2"].map(catalog);
        let mut client = Echo::start(&mesh, NAMESPACE, "client", &mesh.workload("client"), &[]);
        for service in ["catalog-v1", "catalog-v2"] {
            client.eventually(&json!({ "host": service }), 200);
        }
        Self { mesh, client, _catalogs: catalogs }
    }

    fn apply(&self, version: &str, more: &[&str]) -> e2e::captured::Finished {
        let file = self.mesh.file(&format!("{version}.yaml"), &route(version));
        self.mesh.cli(&[&["apply", "-f", &file], more].concat())
    }

    fn revision(&self) -> u64 {
        self.mesh.drilled().latest().expect("a revision")
    }

    /// The pods that answer some requests.
    fn pods(&mut self) -> Value {
        self.client.ask(&json!({ "host": "catalog", "count": 20 }))["pods"].take()
    }
}

#[test]
fn what_is_applied_is_live_when_apply_has_waited_and_rollback_takes_it_back() {
    let mut world = World::start();
    let applied = world.apply("v1", &["--wait"]);
    assert!(applied.status.success(), "{applied:#?}");
    // Not eventually: it was waited for.
    assert_eq!(world.pods(), json!({ "catalog-v1": 20 }));
    let first = world.revision();

    let file = world.mesh.file("v2.yaml", &route("v2"));
    let diff = world.mesh.cli(&["diff", "-f", &file]);
    assert_eq!(diff.status.code(), Some(1), "{diff:#?}");
    for part in ["HTTPRoute shop/catalog", "catalog-v1", "catalog-v2", "shop/client"] {
        assert!(diff.stdout.contains(part), "{part}: {diff:#?}");
    }
    assert_eq!(world.revision(), first, "a difference that is shown changes nothing");
    let dry = world.apply("v2", &["--dry-run"]);
    assert!(dry.status.success() && world.revision() == first, "{dry:#?}");

    assert!(world.apply("v2", &["--wait"]).status.success());
    assert_eq!(world.pods(), json!({ "catalog-v2": 20 }));
    let got = world.mesh.cli(&["get", "httproute", "catalog", "-n", "shop", "-o", "yaml"]);
    assert!(got.stdout.contains("catalog-v2"), "{got:#?}");
    let history = world.mesh.cli(&["history"]);
    assert!(history.stdout.contains(&world.revision().to_string()), "{history:#?}");

    let back = world.mesh.cli(&["rollback", &first.to_string(), "--wait"]);
    assert!(back.status.success(), "{back:#?}");
    assert_eq!(world.pods(), json!({ "catalog-v1": 20 }));
    assert!(world.revision() > first);
    let deleted = world.mesh.cli(&["delete", "httproute", "catalog", "-n", "shop", "--wait"]);
    assert!(deleted.status.success(), "{deleted:#?}");
    let pods = world.pods();
    assert_eq!(pods.as_object().map(serde_json::Map::len), Some(2), "{pods}");
}

#[test]
fn a_broken_apply_changes_nothing_and_shows_where_it_is_broken() {
    let mesh = Mesh::start("");
    let services = mesh.file("services.yaml", SERVICES);
    assert!(mesh.cli(&["apply", "-f", &services]).status.success());
    let before = (mesh.drilled().latest(), mesh.api("/api/v1/config"));
    // A good document beside a bad one: all or nothing.
    let broken = route("v1").replace("backendRefs", "backendRfes");
    let file = mesh.file("broken.yaml", &format!("{}---\n{broken}", SERVICES.replace("8080", "9090")));
    let refused = mesh.cli(&["apply", "-f", &file]);
    assert!(!refused.status.success(), "{refused:#?}");
    let line =
        std::fs::read_to_string(&file).expect("the file").lines().position(|l| l.contains("backendRfes"));
    for part in ["backendRfes", "backendRefs", &format!("broken.yaml:{}", line.expect("the line") + 1)] {
        assert!(refused.stderr.contains(part), "{part}: {refused:#?}");
    }
    let nowhere = mesh.file("nowhere.yaml", &route("v7"));
    let told = mesh.cli(&["apply", "-f", &nowhere, "--dry-run"]);
    assert!(told.stderr.contains("warning") && told.stderr.contains("nowhere.yaml:6"), "{told:#?}");
    let missing = mesh.cli(&["delete", "service", "no-such-service", "-n", "shop"]);
    assert!(!missing.status.success(), "{missing:#?}");
    assert_eq!((mesh.drilled().latest(), mesh.api("/api/v1/config")), before);
}

#[test]
fn a_proxy_that_does_not_have_it_is_named() {
    let mut world = World::start();
    assert!(world.apply("v1", &["--wait"]).status.success());
    let sidecar = world.mesh.sidecar("client").expect("a sidecar").to_string();
    let signal = |signal: &str| {
        let sent = Command::new("kill").args(["-s", signal, &sidecar]).status().expect("kill");
        assert!(sent.success());
    };
    signal("STOP");
    let late = world.apply("v2", &["--wait", "--timeout", "3s"]);
    signal("CONT");
    assert_eq!(late.status.code(), Some(3), "{late:#?}");
    assert!(late.stderr.contains("client") || late.stdout.contains("client"), "{late:#?}");
    // It is applied all the same, and comes to be had.
    eventually("it has it", || world.pods() == json!({ "catalog-v2": 20 }));
    let status = world.mesh.cli(&["status"]);
    assert!(status.status.success() && status.stdout.contains("client"), "{status:#?}");
}

#[test]
fn changes_by_http_need_a_token_and_every_change_is_noted() {
    let mesh = Mesh::start("");
    let body = json!({ "sources": [{ "name": "s.yaml", "text": SERVICES }], "note": "by http" });
    let request = format!(
        "POST {APPLY} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        mesh.api_address(),
        body.to_string().len()
    );
    let refused = e2e::http::exchange(mesh.api_address(), request.as_bytes()).expect("an answer");
    assert_eq!(refused.status, 401, "{}", refused.text());
    let file = mesh.file("services.yaml", SERVICES);
    let mut command = mesh.meshwork();
    command.args(["apply", "-f", &file, "--api", &format!("http://{}", mesh.api_address())]);
    let told = command.output().expect("meshwork");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success() && said.contains("--token-file"), "{said}");
    assert_eq!(mesh.api("/api/v1/config").expect("config")["services"], json!([]));
    let (status, answer) = mesh.drilled().post(APPLY, &body).expect("an answer");
    assert_eq!((status, answer["changes"].as_array().map(Vec::len)), (200, Some(3)), "{answer:#}");
    let audit =
        std::fs::read_to_string(mesh.scratch().join("state/control-plane/audit.jsonl")).expect("a log");
    let lines: Vec<_> = audit.lines().map(e2e::json).collect();
    assert!(lines.iter().any(|line| line.to_string().contains("catalog-v1")), "{audit}");
}

#[test]
fn what_a_file_has_is_changed_in_the_file() {
    let mesh = Mesh::start(SERVICES);
    let file = mesh.file("services.yaml", &SERVICES.replace("8080", "9090"));
    let refused = mesh.cli(&["apply", "-f", &file]);
    assert!(!refused.status.success() && refused.stderr.contains("mesh.yaml"), "{refused:#?}");
    // What refers to it comes by the API all the same.
    let route = mesh.file("route.yaml", &route("v1"));
    let applied = mesh.cli(&["apply", "-f", &route]);
    assert!(applied.status.success(), "{applied:#?}");
}

fn killed(times: u32) {
    let mut mesh = Mesh::start("");
    let mut chance = Chance::new();
    let api = mesh.drilled();
    let (mut number, mut all) = (0, Vec::new());
    for _ in 0..times {
        let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        number = std::thread::scope(|scope| {
            let applying = scope.spawn(|| apply_until(&api, number, &stop, &acknowledged));
            std::thread::sleep(Duration::from_millis(50 + chance.below(400)));
            mesh.control_plane().kill();
            // Some more find nobody there.
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
            applying.join().expect("no panic")
        });
        mesh.restart_control_plane();
        all.extend(acknowledged.into_inner().expect("no panic"));
        all_is_there(&api, &all);
    }
    assert!(all.len() > times as usize, "hardly anything was acknowledged: {all:?}");
    last_is_there(&api);
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    killed(10);
}

#[test]
#[ignore = "soak: a hundred restarts"]
fn what_was_acknowledged_is_there_after_kill_9_a_hundred_times() {
    killed(100);
}

/// The control plane's store: the one file of `SQLite`'s.
fn store(mesh: &Mesh) -> PathBuf {
    let folder = mesh.scratch().join("state/control-plane");
    let files = std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path());
    let is_sqlite = |path: &PathBuf| {
        path.is_file() && std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
    };
    files.into_iter().find(is_sqlite).expect("a store")
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let mut mesh = Mesh::start("");
    let services = mesh.file("services.yaml", SERVICES);
    assert!(mesh.cli(&["apply", "-f", &services]).status.success());
    assert!(mesh.control_plane().terminate().success());
    let path = store(&mesh);
    let whole = std::fs::read(&path).expect("the store");
    // Everything behind the first page's header is another than it was.
    let mut damaged = whole.clone();
    damaged.iter_mut().skip(1024).step_by(97).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&path, &damaged).expect("written");
    let [listen, api] = mesh.control_plane_ports();
    let start = |mesh: &Mesh| {
        let mut command = Command::new("timeout");
        command.arg("30").arg(mesh.scratch().join("meshwork")).arg("control-plane");
        command.arg("--config").arg(mesh.scratch().join("config"));
        command.arg("--state").arg(mesh.scratch().join("state/control-plane"));
        command.args(["--listen", &format!("127.0.0.1:{listen}"), "--api", &format!("127.0.0.1:{api}")]);
        let home = mesh.scratch().join("home");
        e2e::user::ordinary(&mut command, &home).output().expect("meshwork")
    };
    let refused = start(&mesh);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && refused.status.code() != Some(124), "{refused:?}");
    assert!(said.contains(&*path.file_name().expect("a name").to_string_lossy()), "{said}");
    assert!(std::fs::read(&path).expect("the store") == damaged, "it was written to");
    std::fs::write(&path, &whole).expect("written");
    e2e::user::give(&path);
    mesh.restart_control_plane();
    eventually("the whole one serves", || mesh.drilled().latest().is_some());
}

#[test]
fn what_was_backed_up_comes_back_after_all_is_destroyed() {
    let mut world = World::start();
    assert!(world.apply("v1", &["--wait"]).status.success());
    let state = world.mesh.scratch().join("state/control-plane");
    let file = world.mesh.scratch().join("home/mesh.backup");
    let run = |mesh: &Mesh, words: &[&str]| {
        let mut command = mesh.meshwork();
        command.args(words).arg(&file).arg("--state").arg(&state);
        command.output().expect("meshwork")
    };
    let saved = run(&world.mesh, &["backup"]);
    assert!(saved.status.success(), "{saved:?}");
    let (revision, config) = (world.revision(), world.mesh.api("/api/v1/config"));
    assert!(world.apply("v2", &["--wait"]).status.success());
    let early = run(&world.mesh, &["restore"]);
    assert!(!early.status.success() && world.revision() > revision, "a control plane runs: {early:?}");

    assert!(world.mesh.control_plane().terminate().success());
    std::fs::remove_dir_all(&state).expect("destroyed");
    let restored = run(&world.mesh, &["restore"]);
    assert!(restored.status.success(), "{restored:?}");
    world.mesh.restart_control_plane();
    assert_eq!(world.revision(), revision);
    // The same CA: workloads come back with the certificates that they have, and take the old config.
    eventually("the workloads are back", || {
        let connected = |name| world.mesh.proxy(name).is_some_and(|proxy| proxy["connected"] == true);
        ["client", "catalog-v1", "catalog-v2"].into_iter().all(connected)
    });
    eventually("the old config is live", || world.pods() == json!({ "catalog-v1": 20 }));
    assert_eq!(world.mesh.api("/api/v1/config"), config);
    // And it is one that changes can be made to.
    assert!(world.apply("v2", &["--wait"]).status.success());
    assert_eq!(world.pods(), json!({ "catalog-v2": 20 }));
}
