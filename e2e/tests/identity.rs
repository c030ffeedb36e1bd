//! Certificates in a running mesh: short ones are renewed under traffic; a killed sidecar needs no second token.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::http::Connection;
use e2e::mesh::write_token;
use e2e::program::Program;
use e2e::{eventually, free_address};

/// A control plane with the shop's config and certificates of a few seconds.
fn control_plane(dir: &Path) -> (Program, SocketAddr) {
    let (listen, api) = (free_address(), free_address());
    let (state, config) = (dir.join("control-plane"), e2e::root().join("examples/shop"));
    let mut command = Command::new(e2e::binary());
    command.args([
        "control-plane",
        "--svid-lifetime",
        "8s",
        "--listen",
        &listen.to_string(),
        "--api",
        &api.to_string(),
    ]);
    command.arg("--config").arg(config).arg("--state").arg(state);
    let mut program = Program::start("control-plane", dir, &mut command);
    program.listens(listen);
    (program, listen)
}

fn token(dir: &Path, account: &str) {
    write_token(&dir.join("control-plane"), &dir.join(format!("{account}.token")), [account; 3]);
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
#[ignore = "soak: three lives of a certificate"]
fn short_certificates_are_renewed_under_traffic_and_a_killed_sidecar_needs_no_second_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let (_control_plane, at) = control_plane(dir);
    let (application, inbound, outbound) = (free_address(), free_address(), free_address());
    let _cart = Program::meshwork("cart-app", dir, ["shop", "cart", "--listen", &application.to_string()]);
    token(dir, "cart");
    token(dir, "web");
    let ports = format!("8080={inbound}>{application}");
    let mut cart = sidecar(dir, "cart", at, ["--inbound", &ports]);
    let _web = sidecar(dir, "web", at, ["--outbound", &format!("cart.shop:80={outbound}")]);
    let status = || get(outbound).unwrap_or(0);
    eventually("requests get through", || status() == 200);

    // Three lives of a certificate, new connections each time.
    let start = Instant::now();
    let mut answers = 0;
    while start.elapsed() < Duration::from_secs(24) {
        assert_eq!(status(), 200, "after {answers} answers and {:?}", start.elapsed());
        answers += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(cart.output().contains("renewed its certificate"), "{}", cart.output());

    std::fs::remove_file(dir.join("cart.token")).expect("a spent token");
    cart.kill();
    let _cart = sidecar(dir, "cart", at, ["--inbound", &ports]);
    eventually("the killed sidecar serves again", || status() == 200);
}

fn get(address: SocketAddr) -> std::io::Result<u16> {
    let mut connection = Connection::open(address)?;
    connection.send(b"GET /items HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")?;
    Ok(connection.answer(false)?.status)
}
