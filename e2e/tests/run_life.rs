//! Who dies with whom, who comes back, and that nothing is left. `docs/run.md` says the same in words.

use std::process::Command;

use e2e::captured::Mesh;
use e2e::eventually;
use e2e::inside::Inside;
use e2e::program::Program;

const CALL: &[&str] = &["curl", "-sSf", "http://catalog:8080/items"];
const SERVER: &[&str] = &["/usr/bin/python3", "-m", "http.server", "8080"];

fn kill(id: u32, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &id.to_string()]).status();
    assert!(sent.expect("kill").success(), "{id}");
}

fn catalog(mesh: &Mesh) -> Program {
    let folder = mesh.file("catalog/items", "teapot\n").replace("/items", "");
    let run = mesh.workload("catalog").service("catalog").port(8080);
    run.start(&[SERVER, &["--directory", &folder]].concat())
}

/// A catalog that is called.
fn scene() -> (Mesh, Program, Inside) {
    let mesh = Mesh::start("");
    let catalog = catalog(&mesh);
    let mut client = Inside::start(&mesh, "client");
    client.eventually(CALL);
    (mesh, catalog, client)
}

/// Waits for the end of a program.
fn ends(program: &mut Program) -> std::process::ExitStatus {
    let mut ended = None;
    eventually("it ends", || {
        ended = program.ended();
        ended.is_some()
    });
    ended.expect("a status")
}

/// Waits until the mesh no longer has a workload.
fn is_gone(mesh: &Mesh, workload: &str) {
    eventually(&format!("{workload} has left"), || !mesh.has(workload));
}

/// The same, of one that was no longer there since it said so: not since its stream did not come back in time.
fn has_said_so(mesh: &mut Mesh, workload: &str) {
    is_gone(mesh, workload);
    let log = mesh.control_plane().output();
    let told = |words: &str| log.lines().any(|line| line.contains(words) && line.contains(workload));
    assert!(told("leaves") && !told("is gone"), "{log}");
}

#[test]
fn a_killed_sidecar_is_replaced_and_the_program_lives_on() {
    let (mut mesh, catalog, mut client) = scene();
    for workload in ["catalog", "client"] {
        let program = mesh.process(SERVER);
        let before = mesh.sidecar(workload).expect("a sidecar");
        kill(before, "KILL");
        eventually("another takes its place", || mesh.sidecar(workload).is_some_and(|id| id != before));
        client.eventually(CALL);
        assert_eq!(mesh.process(SERVER), program);
    }
    mesh.trace().look();
    assert_eq!(client.end(), Some(0));
    drop(catalog);
    mesh.nothing_is_left();
}

#[test]
fn with_the_program_all_of_its_workload_ends_and_the_mesh_knows_at_once() {
    let (mut mesh, mut catalog, client) = scene();
    mesh.trace().look();
    kill(mesh.process(SERVER).expect("a program"), "KILL");
    let ended = ends(&mut catalog);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
    has_said_so(&mut mesh, "catalog");
    assert_eq!(client.end(), Some(0));
    mesh.nothing_is_left();
}

#[test]
fn a_clean_end_is_known_at_once() {
    let (mut mesh, mut catalog, client) = scene();
    mesh.trace().look();
    let ended = catalog.terminate();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15), "{ended}");
    has_said_so(&mut mesh, "catalog");
    assert_eq!(client.end(), Some(0));
    mesh.nothing_is_left();
}

#[test]
fn with_meshwork_run_all_of_its_workload_ends_and_the_mesh_knows_soon() {
    let (mut mesh, mut catalog, client) = scene();
    mesh.trace().look();
    catalog.kill();
    eventually("the program is gone", || mesh.process(SERVER).is_none());
    eventually("the sidecar is gone", || mesh.sidecar("catalog").is_none());
    is_gone(&mesh, "catalog");
    assert_eq!(client.end(), Some(0));
    mesh.nothing_is_left();
}

#[test]
fn with_the_first_process_of_the_namespace_all_of_its_workload_ends() {
    let (mut mesh, mut catalog, client) = scene();
    mesh.trace().look();
    let program = mesh.process(SERVER).expect("a program");
    let status = std::fs::read_to_string(format!("/proc/{program}/status")).expect("a process");
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).and_then(|id| id.trim().parse().ok());
    let parent: u32 = parent.expect("a parent");
    assert_ne!(parent, catalog.id(), "the parent is the namespace's own");
    kill(parent, "KILL");
    assert!(!ends(&mut catalog).success());
    is_gone(&mesh, "catalog");
    assert_eq!(client.end(), Some(0));
    mesh.nothing_is_left();
}

#[test]
fn without_a_control_plane_all_goes_on_and_addresses_stay_when_it_is_back() {
    let (mut mesh, _catalog, mut client) = scene();
    let addresses = client.output(&["getent", "ahosts", "catalog"]);
    mesh.control_plane().kill();
    for _ in 0..20 {
        client.output(CALL);
    }
    // A sidecar that dies meanwhile has its certificate and its last config on disk, or comes back with both.
    mesh.restart_control_plane();
    eventually("proxies are back", || {
        ["catalog", "client"].iter().all(|name| mesh.proxy(name).is_some_and(|p| p["connected"] == true))
    });
    client.output(CALL);
    assert_eq!(client.output(&["getent", "ahosts", "catalog"]), addresses);
    let mut late = Inside::start(&mesh, "late");
    late.eventually(CALL);
    assert_eq!(late.output(&["getent", "ahosts", "catalog"]), addresses);
}

#[test]
fn a_probe_decides_when_a_workload_is_called() {
    let mesh = Mesh::start("");
    let folder = mesh.file("catalog/items", "teapot\n").replace("/items", "");
    let ready = mesh.scratch().join("home/catalog/ready");
    let run = mesh.workload("catalog").service("catalog").port(8080);
    let run = run.options(&["--readiness", "http:8080/ready,every=1s,failures=1"]);
    let _catalog = run.start(&[SERVER, &["--directory", &folder]].concat());
    let mut client = Inside::start(&mesh, "client");
    let status = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://catalog:8080/items"];
    eventually("the program serves", || {
        mesh.process(SERVER).is_some() && client.run(&status).stdout == "503"
    });
    for _ in 0..3 {
        mesh.file("catalog/ready", "yes\n");
        eventually("it is called", || client.run(&status).stdout == "200");
        std::fs::remove_file(&ready).expect("a file");
        eventually("it is called no more", || client.run(&status).stdout == "503");
    }
}

#[test]
fn a_program_that_is_not_alive_is_started_anew() {
    let mesh = Mesh::start("");
    let alive = mesh.file("catalog/alive", "");
    let probe = format!("exec:test -e {alive},every=1s,failures=1");
    let run = mesh.workload("catalog").service("catalog").options(&["--liveness", &probe]);
    let program = run.start(&["/bin/sh", "-c", "echo up; exec sleep 600"]);
    let starts = || program.output().matches("up\n").count();
    eventually("it runs", || starts() == 1);
    std::fs::remove_file(&alive).expect("a file");
    eventually("it runs again", || starts() > 1);
}
