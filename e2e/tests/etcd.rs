//! Two control planes on one etcd of three members: either may die, a member may be cut off; what was acknowledged is
//! there, and no request of the data plane fails. Run by `cargo xtask soak`, with a binary that has the feature.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::captured::{Mesh, NAMESPACE};
use e2e::drill::{APPLY, Api, Chance, all_is_there, apply_until, last_is_there};
use e2e::echo::Echo;
use e2e::program::Program;
use e2e::{eventually, free_address};
use serde_json::json;

/// How often something dies.
const TIMES: u32 = 12;

/// A cluster of three, whose data goes with the test.
struct Etcd {
    members: Vec<Program>,
    urls: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let addresses: Vec<_> = (0..3).map(|_| (free_address(), free_address())).collect();
        let url = |address: &SocketAddr| format!("http://{address}");
        let peers: Vec<_> =
            addresses.iter().enumerate().map(|(n, (_, peer))| format!("m{n}={}", url(peer))).collect();
        let mut members = Vec::new();
        for (n, (client, peer)) in addresses.iter().enumerate() {
            let mut command = Command::new("/usr/bin/etcd");
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &peers.join(",")]);
            command.arg("--data-dir").arg(dir.path().join(format!("m{n}")));
            command.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
            command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
            command.args(["--logger", "zap", "--log-level", "error"]);
            members.push(Program::start(&format!("etcd-{n}"), dir.path(), &mut command));
        }
        for (member, (client, _)) in members.iter_mut().zip(&addresses) {
            member.listens(*client);
            eventually("etcd has a leader", || {
                e2e::http::get(*client, "/health").is_ok_and(|answer| answer.text().contains("\"true\""))
            });
        }
        let urls: Vec<_> = addresses.iter().map(|(client, _)| url(client)).collect();
        Self { members, urls: urls.join(","), _dir: dir }
    }

    /// Cuts a member off from everybody, or lets it come back.
    fn signal(&self, member: usize, signal: &str) {
        let id = self.members[member].id().to_string();
        e2e::program::output(Command::new("kill").args(["-s", signal, &id]));
    }
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: { name: catalog, namespace: shop }
spec: { selector: { app: catalog }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";

/// A second control plane, where it runs.
struct Second {
    program: Program,
    listen: SocketAddr,
    api: Api,
}

impl Second {
    fn start(mesh: &Mesh) -> Self {
        let (listen, at) = (free_address(), free_address());
        let (program, api) = mesh.beside("control-plane-b", listen, at);
        Self { program, listen, api }
    }

    fn restart(&mut self, mesh: &Mesh) {
        self.program.kill();
        (self.program, self.api) = mesh.beside("control-plane-b", self.listen, self.api.address);
    }
}

fn catalog(mesh: &Mesh) -> (Echo, Echo) {
    let run = mesh.workload("catalog").options(&["--label", "app=catalog"]).port(8080);
    let catalog = Echo::start(mesh, NAMESPACE, "catalog", &run, &[8080]);
    let mut client = Echo::start(mesh, NAMESPACE, "client", &mesh.workload("client"), &[]);
    client.eventually(&json!({ "host": "catalog" }), 200);
    (catalog, client)
}

#[test]
#[ignore = "soak: a binary with the feature etcd"]
fn what_one_control_plane_takes_the_other_has() {
    let etcd = Etcd::start();
    let mesh = Mesh::start_with("", &["--etcd", &etcd.urls]);
    let second = Second::start(&mesh);
    let body = json!({ "sources": [{ "name": "s.yaml", "text": SERVICE }], "note": "by the second" });
    let (status, answer) = second.api.post(APPLY, &body).expect("an answer");
    assert_eq!(status, 200, "{answer:#}");
    let first = mesh.drilled();
    eventually("the first has it", || first.latest() == answer["revision"].as_u64());
    let path = "/api/v1/namespaces/shop/services/catalog";
    assert_eq!(
        first.get(path).expect("the service")["spec"],
        second.api.get(path).expect("the service")["spec"]
    );
    // What the second took is live in proxies of the first.
    let _echoes = catalog(&mesh);
}

#[test]
#[ignore = "soak: a binary with the feature etcd"]
fn nothing_acknowledged_is_lost_and_no_request_fails_whoever_dies() {
    let etcd = Etcd::start();
    let mut mesh = Mesh::start_with("", &["--etcd", &etcd.urls]);
    let mut second = Second::start(&mesh);
    let body = json!({ "sources": [{ "name": "s.yaml", "text": SERVICE }], "note": "0" });
    let first = mesh.drilled();
    assert_eq!(first.post(APPLY, &body).map(|(status, _)| status), Some(200));
    let (_catalog, mut client) = catalog(&mesh);
    let mut chance = Chance::new();
    let mut all = Vec::new();
    // Each writer has numbers of its own.
    let mut numbers = [0, 1_000_000];
    for round in 0..TIMES {
        client.tell(&json!({ "host": "catalog", "for_ms": 6_000, "gap_ms": 5 }));
        let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let apis = [first.clone(), second.api.clone()];
        numbers = std::thread::scope(|scope| {
            let (stop, acknowledged) = (&stop, &acknowledged);
            let writers = [0, 1].map(|n| {
                let (api, number) = (&apis[n], numbers[n]);
                scope.spawn(move || apply_until(api, number, stop, acknowledged))
            });
            std::thread::sleep(Duration::from_millis(200 + chance.below(800)));
            match round % 3 {
                0 => mesh.control_plane().kill(),
                1 => second.program.kill(),
                _ => {
                    let member = usize::try_from(chance.below(3)).expect("a small number");
                    etcd.signal(member, "STOP");
                    std::thread::sleep(Duration::from_secs(3));
                    etcd.signal(member, "CONT");
                }
            }
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
            writers.map(|writer| writer.join().expect("no panic"))
        });
        match round % 3 {
            0 => mesh.restart_control_plane(),
            1 => second.restart(&mesh),
            _ => {}
        }
        let said = client.hear();
        assert_eq!(
            said["statuses"].as_object().map(|s| s.keys().cloned().collect::<Vec<_>>()),
            Some(vec!["200".to_owned()]),
            "{said:#}"
        );
        all.extend(acknowledged.into_inner().expect("no panic"));
        for api in [&first, &second.api] {
            eventually("both have all", || api.latest() >= all.iter().map(|one| one.revision).max());
            all_is_there(api, &all);
        }
    }
    assert!(all.len() > 2 * TIMES as usize, "hardly anything was acknowledged: {all:?}");
    last_is_there(&first);
    last_is_there(&second.api);
}
