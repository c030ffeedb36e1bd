//! Attempts to get around the proxy. What becomes of each stands in `docs/isolation.md`, which is held against them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::captured::Mesh;
use e2e::inside::Inside;
use e2e::leftovers::listening;
use e2e::program::output;
use serde_json::{Value, json};

/// The port of the programs that are to be reached: one that nothing else on a host has.
const PORT: u16 = 18432;
/// How long a connection from outside may take to fail.
const PATIENCE: Duration = Duration::from_secs(3);
/// Attempts from outside, which this file makes; those from inside are in `e2e/peers/escape.py`.
const FROM_OUTSIDE: &[&str] = &[
    "from outside: the program's port",
    "from outside: the program's virtual address",
    "from outside: the inbound port without a certificate",
    "from outside: the outbound and DNS ports",
];

/// What the documentation says of each attempt.
fn documented() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(e2e::root().join("docs/isolation.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| {
        row.split_once(" | ").and_then(|(name, rest)| Some((name, rest.split_once(" | ")?.0)))
    });
    let verdicts = ["refused", "mediated", "known gap"];
    cells
        .filter(|(_, verdict)| verdicts.contains(verdict))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect()
}

/// A program on the host that counts who reaches it, over TCP of both families.
struct Bystander {
    port: u16,
    reached: Arc<AtomicUsize>,
}

impl Bystander {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                // Whoever is gone again has reached it all the same.
                let _ = stream.write_all(b"HTTP/1.1 200 reached\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { port, reached }
    }
}

/// Answers on a Unix socket with a word.
fn answer(listener: UnixListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"reached");
        }
    });
}

/// The host's addresses that others reach it by.
fn addresses_of_the_host() -> Vec<IpAddr> {
    let text = output(Command::new("ip").args(["-json", "address", "show", "scope", "global"]));
    let links = e2e::json(&text);
    let all = links.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array().cloned());
    let addresses: Vec<IpAddr> = all.flatten().filter_map(|a| a["local"].as_str()?.parse().ok()).collect();
    assert!(addresses.iter().any(IpAddr::is_ipv4), "a host with an address, or nothing is tried: {text}");
    addresses
}

fn files(folder: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else if entry.file_name().to_string_lossy().contains("key") {
            found.push(entry.path().to_string_lossy().into_owned());
        }
    }
}

/// Two workloads: `victim`, which serves, and `attacker`, which tries.
struct Scene {
    mesh: Mesh,
    attacker: Inside,
    _victim: e2e::program::Program,
    admin: SocketAddr,
}

impl Scene {
    fn set() -> Self {
        let mesh = Mesh::start("");
        let folder = mesh.file("victim/escape", "mine\n").replace("/escape", "");
        let port = PORT.to_string();
        let victim = mesh.workload("victim").service("victim").port(PORT);
        let victim = victim.start(&["/usr/bin/python3", "-m", "http.server", &port, "--directory", &folder]);
        let admin = e2e::free_address();
        let run = mesh.workload("attacker").service("attacker").port(9999).options(&[
            "--admin",
            &admin.to_string(),
            "--hide",
            &mesh.scratch().join("state").to_string_lossy(),
        ]);
        let mut attacker = Inside::of(&mesh, "attacker", &run);
        attacker.eventually(&["curl", "-sSf", &format!("http://victim:{PORT}/escape")]);
        Self { mesh, attacker, _victim: victim, admin }
    }

    fn sidecar(&self, workload: &str) -> u32 {
        self.mesh.sidecar(workload).expect("a sidecar")
    }

    fn targets(&mut self, program: u16, udp: u16, [abstract_name, path]: [&str; 2]) -> Value {
        let mut keys = Vec::new();
        files(&self.mesh.scratch().join("state"), &mut keys);
        assert!(!keys.is_empty(), "there are keys to be stolen");
        let own: BTreeSet<_> =
            listening(self.sidecar("attacker")).into_iter().chain([self.admin.port()]).collect();
        let mut pids =
            vec![std::process::id(), self.sidecar("victim"), self.sidecar("attacker"), self.attacker.id()];
        pids.push(self.mesh.control_plane().id());
        json!({
            "host": addresses_of_the_host(), "program": program, "udp": udp, "own": own,
            "inbound": listening(self.sidecar("victim")), "control_plane": self.mesh.control_plane_ports(),
            "service": "victim.shop.svc.cluster.local", "service_port": PORT,
            "abstract": abstract_name, "path": path, "pids": pids, "processes": 100, "keys": keys,
        })
    }
}

#[test]
fn every_attempt_from_inside_ends_as_documented() {
    let mut scene = Scene::set();
    let bystander = Bystander::start();
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
    udp.set_nonblocking(true).expect("non-blocking");
    let name = format!("meshwork-e2e-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    answer(UnixListener::bind_addr(&address).expect("an abstract socket"));
    let path = scene.mesh.scratch().join("home/unix.socket");
    answer(UnixListener::bind(&path).expect("a socket"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("for everybody");

    let port = udp.local_addr().expect("an address").port();
    let targets = scene.targets(bystander.port, port, [&name, &path.to_string_lossy()]);
    let script = scene.mesh.copy("e2e/peers/escape.py");
    let said = scene.attacker.run(&["/usr/bin/python3", &script, &targets.to_string()]);
    assert_eq!(said.code, 0, "{said:#?}");
    let outcomes: BTreeMap<String, [String; 2]> = serde_json::from_str(&said.stdout).expect("outcomes");

    let mut documented = documented();
    documented.retain(|name, _| !FROM_OUTSIDE.contains(&name.as_str()));
    let mut wrong = Vec::new();
    for (name, [outcome, how]) in &outcomes {
        let expected = documented.remove(name);
        let fits = match expected.as_deref() {
            Some("refused") => outcome == "refused",
            Some("mediated") => outcome == "reached",
            // A gap is where the kernel or the host may have closed it.
            Some("known gap") => outcome == "refused" || outcome == "reached",
            _ => false,
        };
        if !fits {
            wrong.push(format!("{name}: {outcome} ({how}), documented: {expected:?}"));
        }
    }
    wrong.extend(documented.keys().map(|name| format!("{name}: documented, but nobody tries")));
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), said.stderr);
    assert_eq!(bystander.reached.load(Ordering::Relaxed), 0, "{outcomes:#?}");
    assert!(udp.recv(&mut [0; 16]).is_err(), "a datagram has left");
    // What was tried has harmed nothing.
    scene.attacker.output(&["curl", "-sSf", &format!("http://victim:{PORT}/escape")]);
}

#[test]
fn every_attempt_from_outside_ends_as_documented() {
    let mut scene = Scene::set();
    let documented = documented();
    for name in FROM_OUTSIDE {
        assert_eq!(documented.get(*name).map(String::as_str), Some("refused"), "{name}");
    }
    let hosts: Vec<IpAddr> = addresses_of_the_host();
    let loopback = ["127.0.0.1", "::1"].map(|a| a.parse::<IpAddr>().expect("an address"));
    for host in hosts.iter().chain(&loopback) {
        for port in [PORT, 15001, 15053] {
            let connected = TcpStream::connect_timeout(&(*host, port).into(), PATIENCE);
            assert!(connected.is_err(), "{host} {port}");
        }
    }
    let service = "victim.shop.svc.cluster.local";
    for line in scene.attacker.output(&["getent", "ahosts", service]).lines() {
        let address: IpAddr =
            line.split_whitespace().next().and_then(|a| a.parse().ok()).expect("an address");
        // Whoever else may answer for such an address, where a network has one who does: it is not the program.
        let answer = e2e::http::get((address, PORT).into(), "/escape");
        assert!(answer.as_ref().map_or(true, |a| a.status != 200), "{address}: {answer:?}");
    }
    let inbound = listening(scene.sidecar("victim"));
    assert!(!inbound.is_empty());
    for port in inbound {
        let answer = e2e::http::get((loopback[0], port).into(), "/escape");
        assert!(answer.as_ref().map_or(true, |a| a.status != 200), "{port}: {answer:?}");
    }
}
