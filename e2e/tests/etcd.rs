//! Two control planes on one etcd of three members: either may die, a member may be cut off, the root may be replaced; what
//! was acknowledged is there, and no request of the data plane fails. Run by `cargo xtask soak`, with a binary that has the
//! feature.

use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::captured::{Mesh, NAMESPACE, service};
use e2e::drill::{APPLY, Api, Chance, all_is_there, apply_until, last_is_there};
use e2e::echo::Echo;
use e2e::forge::{self, Shown};
use e2e::load::Load;
use e2e::origin::{HELLO, Origin};
use e2e::program::{Program, output};
use e2e::{eventually, free_address, http};
use serde_json::{Value, json};

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
                http::get(*client, "/health").is_ok_and(|answer| answer.text().contains("\"true\""))
            });
        }
        let urls: Vec<_> = addresses.iter().map(|(client, _)| url(client)).collect();
        Self { members, urls: urls.join(","), _dir: dir }
    }

    /// Cuts a member off from everybody, or lets it come back.
    fn signal(&self, member: usize, signal: &str) {
        let id = self.members[member].id().to_string();
        output(Command::new("kill").args(["-s", signal, &id]));
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

/// How long certificates live while a root is replaced.
const LIFETIME: &str = "60s";
/// Requests a second meanwhile.
const RATE: u32 = 100;
/// Who is enrolled.
const WORKLOADS: [&str; 5] = ["cart", "web", "one", "two", "three"];
/// How long a rotation may take: a control plane that dies counts for 20 s, certificates are renewed within an eighth of
/// their life, one that has been started again waits for a whole life for those that it does not know of, and the proofs of
/// both steps hold for a while.
const ROTATION: Duration = Duration::from_mins(4);

/// One address in front of both control planes, as a balancer has it: a connection goes to each in turn, and to the other
/// one where nobody is there.
fn front(behind: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            let order = [behind[number % 2], behind[(number + 1) % 2]];
            // Where neither is there, the close tells.
            let Some(server) = order.iter().find_map(|at| TcpStream::connect(at).ok()) else { continue };
            let (Ok(to_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { continue };
            std::thread::spawn(move || carry(client, to_server));
            std::thread::spawn(move || carry(server, to_client));
        }
    });
    address
}

/// Carries bytes one way; the end of one way is the end of both.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    // However it ends, nothing more comes.
    let _ = std::io::copy(&mut from, &mut to);
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Starts a sidecar that finds its control plane there.
fn sidecar(mesh: &Mesh, name: &str, control_plane: SocketAddr, options: &[&str]) -> Program {
    let label = format!("app={name}");
    let mut arguments = mesh.enrolment(name, &[&label]);
    let place = arguments.iter().position(|word| word == "--control-plane").expect("the option");
    arguments[place + 1] = control_plane.to_string();
    let mut command = mesh.meshwork();
    command.arg("sidecar").args(arguments).args(["--label", &label]).args(options);
    Program::start(name, mesh.scratch(), &mut command)
}

/// What a control plane tells of the authority; nothing while it does not answer.
fn authority(api: &Api) -> Value {
    api.get("/api/v1/ca").unwrap_or_default()
}

/// Starts a rotation at one control plane, and waits until it is at a step.
fn rotate_until(api: &Api, step: &str) {
    let started = api.post("/api/v1/ca/rotation", &json!({ "action": "start" }));
    assert!(started.as_ref().is_some_and(|(status, _)| *status == 200), "{started:?}");
    until(api, step, |rotation| rotation["step"] == step);
}

/// Waits until the rotation of which a control plane tells is so.
fn until(api: &Api, what: &str, holds: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let told = authority(api);
        if holds(&told["rotation"]) {
            return;
        }
        assert!(begun.elapsed() < ROTATION, "not {what} within {ROTATION:?}: {told:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The roots that a control plane has its workloads trust.
fn roots(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join("bundle.pem")).unwrap_or_default();
    forge::certificates(&text).iter().map(forge::fingerprint).collect()
}

/// Panics unless everybody's certificate leads to the one root of a control plane, as `openssl` reads it.
fn all_are_under(mesh: &Mesh, state: &Path) {
    for name in WORKLOADS {
        let file = mesh.scratch().join(format!("{name}.chain"));
        std::fs::write(&file, Shown::of(&mesh.state_of(name)).chain_pem()).expect("a file");
        let mut command = Command::new("openssl");
        command
            .args(["verify", "-CAfile"])
            .arg(state.join("bundle.pem"))
            .arg("-untrusted")
            .arg(&file)
            .arg(&file);
        output(&mut command);
    }
}

/// Waits until both control planes sign under the same root, each by an intermediate of its own.
fn both_sign_under(root: &str, apis: [&Api; 2]) {
    eventually("both control planes sign under the new root", || {
        apis.iter().all(|api| {
            let told = authority(api);
            let signers = told["intermediates"].as_array().cloned().unwrap_or_default();
            let serials: BTreeSet<_> = signers.iter().map(|one| one["serial"].to_string()).collect();
            let is_under = |one: &Value| one["root"] == root;
            serials.len() == 2 && signers.iter().all(is_under) && roots(&api.state) == [root]
        })
    });
}

fn status(at: SocketAddr) -> Option<u16> {
    http::get(at, "/").ok().map(|answer| answer.status)
}

#[test]
#[ignore = "soak: a binary with the feature etcd"]
fn the_root_is_replaced_though_a_control_plane_dies_at_each_step_and_no_request_fails() {
    let etcd = Etcd::start();
    let arguments: [&str; 4] = ["--etcd", &etcd.urls, "--svid-lifetime", LIFETIME];
    let mut mesh = Mesh::start_with(&service("cart"), &arguments);
    let mut second = Second::start(&mesh);
    let (first, other) = (mesh.drilled(), second.api.clone());
    let front = front([mesh.listen_address(), second.listen]);
    let origin = Origin::start(HELLO);
    let (inbound, outbound) = (free_address(), free_address());
    let mut programs = Vec::new();
    for name in WORKLOADS {
        let options = match name {
            "cart" => ["--inbound".to_owned(), format!("8080={inbound}>{}", origin.address())],
            "web" => ["--outbound".to_owned(), format!("cart.shop:80={outbound}")],
            _ => ["--outbound".to_owned(), format!("cart.shop:80={}", free_address())],
        };
        programs.push(sidecar(&mesh, name, front, &[&options[0], &options[1]]));
    }
    eventually("the mesh serves", || status(outbound) == Some(200));
    let before = roots(&first.state);
    both_sign_under(&before[0], [&first, &other]);
    let load = Load::start(outbound, RATE);

    // The one dies before anything is signed under the next root, and the other goes on alone.
    rotate_until(&other, "added");
    mesh.control_plane().kill();
    until(&other, "done without the first", |rotation| {
        rotation["step"] == "removed" && rotation["running"] == false
    });
    assert_eq!(load.failed(), 0, "{:#?}", load.finish());
    let between = roots(&other.state);
    assert!(between.len() == 1 && between != before, "{before:?} {between:?}");
    all_are_under(&mesh, &other.state);
    mesh.start_control_plane();
    both_sign_under(&between[0], [&first, &other]);

    // Next the other dies, when certificates of both roots are about; it comes back while that goes on.
    rotate_until(&first, "switched");
    second.restart(&mesh);
    until(&first, "done", |rotation| rotation["step"] == "removed" && rotation["running"] == false);
    assert_eq!(load.failed(), 0, "{:#?}", load.finish());
    let after = roots(&first.state);
    assert!(after.len() == 1 && after != between && after != before, "{before:?} {between:?} {after:?}");
    all_are_under(&mesh, &first.state);
    both_sign_under(&after[0], [&first, &other]);

    // Who is new is let in by each of them.
    for (name, at) in [("late-one", mesh.listen_address()), ("late-two", second.listen)] {
        let own = free_address();
        let mut late = sidecar(&mesh, name, at, &["--outbound", &format!("cart.shop:80={own}")]);
        eventually("a newcomer is served", || {
            assert!(late.alive(), "{}", late.output());
            status(own) == Some(200)
        });
    }
    load.finish().is_whole(RATE);
    for program in programs.iter_mut().chain([mesh.control_plane(), &mut second.program]) {
        assert!(program.alive() && !program.output().contains("panicked"), "{}", program.output());
    }
}
