//! A proxy that is restarted while its control plane is down serves again with the config that it had.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::http::Connection;
use e2e::mesh::write_token;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address};

/// When a file to which nothing was added counts as whole: far longer than config is gathered.
const SETTLED: Duration = Duration::from_secs(2);

fn get(address: SocketAddr, path: &str) -> Option<u16> {
    let mut connection = Connection::open(address).ok()?;
    connection.send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).ok()?;
    Some(connection.answer(false).ok()?.status)
}

/// Waits for the first 200.
fn serves_again(program: &mut Program, address: SocketAddr, path: &str) {
    eventually("it serves again", || {
        assert!(program.alive(), "it ended: {}", program.output());
        get(address, path) == Some(200)
    });
}

/// Waits until config is kept, every piece of it: it is gathered for a moment.
fn is_kept(file: &Path) {
    eventually("config is kept", || {
        let written = file.metadata().and_then(|metadata| metadata.modified());
        written.is_ok_and(|at| at.elapsed().is_ok_and(|since| since > SETTLED))
    });
}

fn sidecar(dir: &Path, account: &str, control_plane: SocketAddr, ports: [&str; 2]) -> Program {
    let mut command = Command::new(e2e::binary());
    command
        .args(["sidecar", "--workload", account, "--control-plane", &control_plane.to_string()])
        .args(ports);
    command.arg("--trust-bundle").arg(dir.join("control-plane/bundle.pem"));
    command.arg("--state").arg(dir.join(account));
    command.arg("--token-file").arg(dir.join(format!("{account}.token")));
    Program::start(account, dir, &mut command)
}

#[test]
fn a_sidecar_comes_back_without_its_control_plane() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let (at, api) = (free_address(), free_address());
    let mut command = Command::new(e2e::binary());
    command.args(["control-plane", "--listen", &at.to_string(), "--api", &api.to_string()]);
    command.arg("--config").arg(e2e::root().join("examples/shop"));
    command.arg("--state").arg(dir.join("control-plane"));
    let mut control_plane = Program::start("control-plane", dir, &mut command);
    control_plane.listens(at);
    let (application, inbound, outbound) = (free_address(), free_address(), free_address());
    let _cart = Program::meshwork("cart-app", dir, ["shop", "cart", "--listen", &application.to_string()]);
    for account in ["cart", "web"] {
        write_token(&dir.join("control-plane"), &dir.join(format!("{account}.token")), [account; 3]);
    }
    let ports = format!("8080={inbound}>{application}");
    let mut cart = sidecar(dir, "cart", at, ["--inbound", &ports]);
    let to_cart = format!("cart.shop:80={outbound}");
    let mut web = sidecar(dir, "web", at, ["--outbound", &to_cart]);
    eventually("the mesh serves", || get(outbound, "/items") == Some(200));
    for (account, program) in [("cart", &mut cart), ("web", &mut web)] {
        is_kept(&dir.join(account).join("last-good"));
        assert!(program.alive());
    }
    control_plane.kill();
    cart.kill();
    web.kill();
    let _cart = sidecar(dir, "cart", at, ["--inbound", &ports]);
    let mut web = sidecar(dir, "web", at, ["--outbound", &to_cart]);
    serves_again(&mut web, outbound, "/items");
}

/// A control plane that is not ours, with these resources.
fn foreign(dir: &Path, at: SocketAddr, resources: &serde_json::Value) -> Program {
    std::fs::write(dir.join("resources.json"), resources.to_string()).expect("written");
    let mut command = Command::new(e2e::peer("venv/bin/python"));
    command.arg(e2e::root().join("e2e/peers/ads.py")).arg(at.port().to_string());
    command.args([dir.join("resources.json"), dir.join("events.jsonl")]);
    let mut program = Program::start("ads", dir, &mut command);
    program.listens(at);
    program
}

fn resources(front: SocketAddr, origin: SocketAddr, prefix: &str) -> serde_json::Value {
    let text =
        std::fs::read_to_string(e2e::root().join("e2e/testdata/ads-resources.json")).expect("the file");
    let text = text
        .replace("$LISTEN", &front.port().to_string())
        .replace("$ORIGIN", &origin.port().to_string())
        .replace("$PREFIX", prefix);
    e2e::json(&text)
}

fn proxy(dir: &Path, at: SocketAddr, api_type: &str) -> Program {
    let text = std::fs::read_to_string(e2e::root().join("e2e/testdata/ads.yaml")).expect("the file");
    let text = text.replace("$CONTROL_PLANE", &at.port().to_string()).replace("$API_TYPE", api_type);
    std::fs::write(dir.join("ads.yaml"), text).expect("written");
    let mut command = Command::new(e2e::binary());
    command.args(["proxy", "-c"]).arg(dir.join("ads.yaml")).arg("--state").arg(dir.join("state"));
    Program::start("proxy", dir, &mut command)
}

fn comes_back(api_type: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let origin = Origin::start(HELLO);
    let (at, front) = (free_address(), free_address());
    let mut control_plane = foreign(dir, at, &resources(front, origin.address(), "/"));
    let mut running = proxy(dir, at, api_type);
    running.listens(front);
    eventually("it serves", || get(front, "/") == Some(200));

    is_kept(&dir.join("state/last-good"));
    control_plane.kill();
    running.kill();
    let mut again = proxy(dir, at, api_type);
    serves_again(&mut again, front, "/");
    // The control plane comes back with less.
    let _control_plane = foreign(dir, at, &resources(front, origin.address(), "/only"));
    eventually("the new config runs", || get(front, "/") == Some(404) && get(front, "/only") == Some(200));
    // A damaged file is told, and taken by nobody.
    again.kill();
    let file = dir.join("state/last-good");
    let mut bytes = std::fs::read(&file).expect("there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let mut damaged = proxy(dir, at, api_type);
    damaged.listens(front);
    assert!(damaged.output().contains("does not have its checksum"), "{}", damaged.output());
}

#[test]
fn a_proxy_comes_back_without_a_foreign_control_plane() {
    comes_back("GRPC");
}

#[test]
fn a_proxy_comes_back_without_a_foreign_control_plane_that_speaks_incrementally() {
    comes_back("DELTA_GRPC");
}
