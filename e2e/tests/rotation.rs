//! Roots that are replaced under traffic, a control plane that is away, identities that are revoked.
//!
//! `MESHWORK_SVID_LIFETIME` makes certificates live longer than they do here, and the outage with them.

#![expect(clippy::print_stderr, reason = "a long run says how far it is")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::captured::{Mesh, service};
use e2e::forge::{self, Shown};
use e2e::http::Connection;
use e2e::issuance::{self, P256, Wanted};
use e2e::load::Load;
use e2e::origin::{HELLO, Origin};
use e2e::program::{Program, output};
use e2e::{DEADLINE, eventually, free_address, http, tls};
use serde_json::Value;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n";
const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

/// Requests a second.
const RATE: u32 = 400;
/// And of clients that pause for two seconds between two.
const CALM: u32 = 4;
/// How long certificates live where nothing else is said, seconds.
const LIFETIME: u64 = 20;
/// In how many lives of a certificate a rotation is done: half of one for each of two proofs, and something.
const LIVES: u32 = 4;

fn lifetime() -> Duration {
    let asked = std::env::var("MESHWORK_SVID_LIFETIME").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(asked.unwrap_or(LIFETIME))
}

fn config(names: &[&str]) -> String {
    names.iter().copied().map(service).collect()
}

/// A caller and a called one, each behind its proxy.
struct World {
    _origin: Origin,
    cart: Program,
    cart_at: SocketAddr,
    web: Program,
    outbound: SocketAddr,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start(lifetime: Duration) -> Self {
        let seconds = format!("{}s", lifetime.as_secs());
        let mesh = Mesh::start_with(&config(&["cart", "late", "sleepy"]), &["--svid-lifetime", &seconds]);
        let origin = Origin::start(HELLO);
        let (cart_at, outbound) = (free_address(), free_address());
        let cart = mesh.explicit("cart", &["--inbound", &format!("8080={cart_at}>{}", origin.address())]);
        let web = mesh.explicit("web", &["--outbound", &format!("cart.shop:80={outbound}")]);
        eventually("the mesh serves", || status(outbound) == Some(200));
        Self { mesh, _origin: origin, cart, cart_at, web, outbound }
    }

    /// A further workload, which calls nobody.
    fn idle(&self, name: &str) -> Program {
        let program = self.mesh.explicit(name, &["--outbound", &format!("cart.shop:80={}", free_address())]);
        eventually(&format!("{name} is there"), || self.mesh.proxy(name).is_some());
        program
    }

    /// The roots that the mesh trusts, by what everybody reads.
    fn roots(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.mesh.control_plane_state().join("bundle.pem"));
        forge::certificates(&text.expect("a bundle")).iter().map(forge::fingerprint).collect()
    }

    /// What is told of the authority.
    fn authority(&self) -> Value {
        self.mesh.cli_json(&["ca", "status"])
    }

    fn step(&self) -> String {
        self.authority()["rotation"]["step"].as_str().unwrap_or("idle").to_owned()
    }

    /// Who is waited for, in words.
    fn lacking(&self) -> String {
        self.authority()["rotation"]["waiting"].to_string()
    }

    /// Starts or resumes a rotation by the command line, which follows it.
    fn rotate(&self, options: &[&str]) -> Program {
        let mut command = self.mesh.meshwork();
        command.args(["ca", "rotate"]).args(options).arg("--api");
        command.arg(format!("unix:{}", self.mesh.control_plane_state().join("api.sock").display()));
        Program::start("rotate", self.mesh.scratch(), &mut command)
    }

    /// Replaces the root, and waits until that is done.
    fn rotated(&self) {
        let before = self.roots();
        let mut rotation = self.rotate(&[]);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = rotation.ended() {
                break status;
            }
            assert!(begun.elapsed() < lifetime() * LIVES + DEADLINE, "{:#}", self.authority());
            std::thread::sleep(Duration::from_millis(100));
        };
        assert!(status.success(), "{}", rotation.output());
        eprintln!("rotated in {:.1?}", begun.elapsed());
        let after = self.roots();
        assert_eq!(after.len(), 1, "{after:?}");
        assert_ne!(before[0], after[0], "{before:?} {after:?}");
    }

    /// The file of a root that was there from the start, beside others.
    fn first_root(&self) -> PathBuf {
        let text =
            std::fs::read_to_string(self.mesh.control_plane_state().join("bundle.pem")).expect("a bundle");
        let file = self.mesh.scratch().join("first-root.pem");
        std::fs::write(&file, forge::pem(&forge::certificates(&text)[0])).expect("a file");
        file
    }

    /// Panics unless everybody's certificate leads to the mesh's only root.
    fn all_are_under_the_root(&self, names: &[&str]) {
        self.all_are_under(names, &self.mesh.control_plane_state().join("bundle.pem"));
    }

    /// Panics unless everybody's certificate leads to this root, as `openssl` reads it.
    fn all_are_under(&self, names: &[&str], bundle: &Path) {
        for name in names {
            let shown = Shown::of(&self.mesh.state_of(name));
            let file = self.mesh.scratch().join(format!("{name}.chain"));
            std::fs::write(&file, shown.chain_pem()).expect("a file");
            let mut command = Command::new("openssl");
            command.args(["verify", "-CAfile"]).arg(bundle).arg("-untrusted").arg(&file).arg(&file);
            output(&mut command);
        }
    }

    fn serial(&self, name: &str) -> String {
        let file = self.mesh.state_of(name).join("identity.pem");
        let text = output(Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(file));
        text.trim().trim_start_matches("serial=").trim_start_matches('0').to_ascii_lowercase()
    }

    /// Runs a command of the authority, which must succeed.
    fn ca(&self, words: &[&str]) {
        let finished = self.mesh.cli(&[&["ca"], words].concat());
        assert!(finished.status.success(), "{words:?}: {finished:#?}");
    }

    fn both_live(&mut self) {
        for program in [&mut self.cart, &mut self.web, self.mesh.control_plane()] {
            assert!(program.alive() && !program.output().contains("panicked"), "{}", program.output());
        }
    }
}

fn status(at: SocketAddr) -> Option<u16> {
    http::get(at, "/").ok().map(|answer| answer.status)
}

#[test]
fn two_rotations_and_an_outage_past_half_of_a_life_lose_no_request() {
    let life = lifetime();
    let mut world = World::start(life);
    let load = Load::start(world.outbound, RATE);
    let root_key = world.mesh.control_plane_state().join("ca");
    let old = forge::Forge::of(&root_key).sign(&forge::leaf(&[WEB]));
    assert!(tls::ask(world.cart_at, Some(&old), GET).is_ok_and(|answer| answer.status == 200));
    for _ in 0..2 {
        world.rotated();
        assert_eq!(load.failed(), 0, "{:#?}", load.finish());
    }
    // Who holds the key of a root that was removed is nobody any more.
    assert!(tls::ask(world.cart_at, Some(&old), GET).is_err());
    world.all_are_under_the_root(&["cart", "web"]);

    let before = ["cart", "web"].map(|name| world.serial(name));
    world.mesh.control_plane().kill();
    // Past half of the life of the certificates that were new then, and not past the end of those that were old.
    std::thread::sleep(life * 45 / 100);
    assert_eq!(load.failed(), 0, "{:#?}", load.finish());
    world.mesh.start_control_plane();
    eventually("all have renewed", || {
        ["cart", "web"].map(|name| world.serial(name)) != before && {
            let now = ["cart", "web"].map(|name| world.serial(name));
            now.iter().zip(&before).all(|(now, before)| now != before)
        }
    });
    world.rotated();
    load.finish().is_whole(RATE);
    world.both_live();
}

/// A real Envoy that calls `cart`: the process that keeps its files, itself, and where it is called.
fn envoy(mesh: &Mesh, name: &str) -> (Program, Program, SocketAddr) {
    let (at, folder) = (free_address(), mesh.scratch().join("home").join(name).join("envoy"));
    let mut command = mesh.meshwork();
    command.arg("envoy-bootstrap").args(mesh.enrolment(name, &[])).arg("--out").arg(&folder);
    command.args(["--admin", &free_address().to_string(), "--outbound", &format!("cart.shop:80={at}")]);
    let mut agent = Program::start("envoy-bootstrap", mesh.scratch(), &mut command);
    let bootstrap = folder.join("bootstrap.yaml");
    eventually("the bootstrap is written", || {
        assert!(agent.alive(), "{}", agent.output());
        bootstrap.exists()
    });
    let program = Program::envoy(name, mesh.scratch(), &bootstrap);
    (agent, program, at)
}

#[test]
fn an_envoy_that_calls_loses_no_request_to_rotations() {
    let mut world = World::start(lifetime());
    let (mut agent, mut envoy, at) = envoy(&world.mesh, "front");
    eventually("Envoy serves", || status(at) == Some(200));
    // Some of its connections are always busy, and others now and then.
    let (busy, calm) = (Load::start(at, RATE), Load::start(at, CALM));
    for _ in 0..2 {
        world.rotated();
        assert_eq!((busy.failed(), calm.failed()), (0, 0), "{:#?} {:#?}", busy.finish(), calm.finish());
    }
    world.all_are_under_the_root(&["cart", "web", "front"]);
    busy.finish().is_whole(RATE);
    calm.finish().is_whole(CALM);
    assert!(world.cart.output().contains("retires connections"), "{}", world.cart.output());
    assert!(agent.alive() && envoy.alive(), "{} {}", agent.output(), envoy.output());
    world.both_live();
}

#[test]
fn a_rotation_names_who_lacks_it_and_is_aborted_at_each_step() {
    let mut world = World::start(Duration::from_mins(2));
    let first = world.roots();
    let load = Load::start(world.outbound, 50);
    let mut late = world.idle("late");
    let sleepy = world.idle("sleepy");
    late.terminate();

    let mut rotation = world.rotate(&[]);
    eventually("the one who is away is waited for", || {
        assert!(rotation.alive(), "{}", rotation.output());
        world.step() == "added" && world.lacking().contains("shop/late")
    });
    eventually("and nobody else", || {
        !world.lacking().contains("shop/cart") && !world.lacking().contains("shop/sleepy")
    });
    assert_eq!(world.roots().len(), 2);
    eventually("it is named to who looks on", || rotation.output().contains("shop/late"));
    world.ca(&["abort"]);
    eventually("all is as it was", || world.roots() == first);
    eventually("who looked on is told", || !rotation.alive());
    assert_eq!(rotation.ended().map(|status| status.success()), Some(false), "{}", rotation.output());

    // Once more, until the next root signs; one of those who have to take it sleeps.
    let again = world.rotate(&[]);
    eventually("it is told of", || world.step() == "added" && world.lacking().contains("shop/late"));
    eventually("and taken", || {
        !world.lacking().contains("shop/cart") && !world.lacking().contains("shop/sleepy")
    });
    signal("-STOP", sleepy.id());
    let mut without = world.rotate(&["--without", "shop/late"]);
    eventually("the next root signs", || world.step() == "switched");
    eventually("the sleeper is waited for", || world.lacking().contains("shop/sleepy"));
    world.mesh.restart_control_plane();
    eventually("a control plane that was killed knows where it was", || {
        world.mesh.api("/api/v1/proxies").is_some() && world.step() == "switched"
    });
    // It cannot end yet, and goes on when nobody looks.
    let finished = world.mesh.cli(&["ca", "abort", "--timeout", "5s"]);
    assert_eq!(finished.status.code(), Some(1), "{finished:#?}");
    assert!(
        finished.stderr.contains("shop/sleepy") || finished.stdout.contains("shop/sleepy"),
        "{finished:#?}"
    );
    signal("-CONT", sleepy.id());
    eventually("all is as it was, again", || world.roots() == first && world.step() != "switchedBack");
    world.all_are_under_the_root(&["cart", "web", "sleepy"]);
    drop((again, without.ended()));

    // With everybody there it is done.
    let mut late =
        world.mesh.explicit_again("late", &["--outbound", &format!("cart.shop:80={}", free_address())]);
    eventually("the late one is back", || world.mesh.proxy("late").is_some());
    world.rotated();
    world.all_are_under_the_root(&["cart", "web", "sleepy", "late"]);
    assert!(late.alive());
    load.finish().is_whole(50);
    world.both_live();
}

/// A root and an intermediate of a company's own, as `openssl` makes them: files in a folder.
fn company(mesh: &Mesh) -> [String; 3] {
    let dir = mesh.scratch();
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let make = |name: &str, subject: &str, more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
        ]);
        command.args([
            "-config",
            "/dev/null",
            "-subj",
            subject,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ]);
        command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        command
            .args(["-keyout", &path(&format!("{name}.key")), "-out", &path(&format!("{name}.pem"))])
            .args(more);
        output(&mut command);
    };
    make("root", "/CN=A company's root", &[]);
    make("signer", "/CN=A company's signer", &["-CA", &path("root.pem"), "-CAkey", &path("root.key")]);
    ["signer.pem", "signer.key", "root.pem"].map(|name| {
        let text = std::fs::read_to_string(dir.join(name)).expect("made");
        mesh.file(name, &text)
    })
}

#[test]
fn an_intermediate_that_is_plugged_in_takes_over_in_a_running_mesh() {
    let mut world = World::start(Duration::from_mins(2));
    let load = Load::start(world.outbound, 50);
    let [certificate, key, root] = company(&world.mesh);
    world.mesh.restart_control_plane_with(&["--ca-cert", &certificate, "--ca-key", &key, "--ca-root", &root]);
    eventually("its root is told of", || world.roots().len() == 2);
    // Nothing is signed by it before all trust it.
    world.all_are_under(&["cart", "web"], &world.first_root());
    world.rotated();
    let company = std::fs::read_to_string(&root).expect("the root");
    let fingerprints: Vec<_> = forge::certificates(&company).iter().map(forge::fingerprint).collect();
    assert_eq!(world.roots(), fingerprints);
    world.all_are_under_the_root(&["cart", "web"]);
    load.finish().is_whole(50);
    world.both_live();
}

fn signal(name: &str, id: u32) {
    output(Command::new("kill").args([name, &id.to_string()]));
}

/// A certificate of a workload, copied: what somebody who stole it would show.
fn stolen(world: &World, name: &str) -> Shown {
    Shown::of(&world.mesh.state_of(name))
}

#[test]
fn a_revoked_identity_is_cut_off_at_once_and_let_in_again() {
    let mut world = World::start(Duration::from_mins(10));
    let web = stolen(&world, "web");
    let mut open = Connection::over(tls::connect(world.cart_at, Some(&web), tls::MESH).expect("a handshake"));
    let mut ask = || -> std::io::Result<u16> {
        open.send(GET)?;
        Ok(open.answer(false)?.status)
    };
    assert_eq!(ask().expect("an answer"), 200);

    world.ca(&["revoke", "--identity", WEB, "--reason", "a test"]);
    let begun = Instant::now();
    while ask().is_ok() {
        // Long before its certificate ends.
        assert!(begun.elapsed() < DEADLINE, "an open connection of a revoked identity goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    eventually("its handshakes are refused", || tls::ask(world.cart_at, Some(&web), GET).is_err());
    eventually("its own calls fail", || status(world.outbound) != Some(200));
    let (csr, _) = issuance::request(world.mesh.scratch(), P256, &[]);
    let wanted = Wanted { csr: &csr, ..Wanted::default() };
    let refusal = issuance::ask(world.mesh.listen_address(), Some(&web), &wanted).expect_err("revoked");
    assert!(refusal.code.is_none() || refusal.words.contains("revoked"), "{refusal:?}");
    let token = world.mesh.token("web", &[]);
    let by_token = Wanted { token: Some(&token), ..wanted.clone() };
    let refusal = issuance::ask(world.mesh.listen_address(), None, &by_token).expect_err("revoked");
    assert!(refusal.words.contains("revoked"), "{refusal:?}");
    let told = world.mesh.cli_json(&["ca", "revocations"]).to_string();
    assert!(told.contains(WEB) && told.contains("a test"), "{told}");

    world.ca(&["unrevoke", "--identity", WEB]);
    eventually("it is let in again", || status(world.outbound) == Some(200));
    assert!(tls::ask(world.cart_at, Some(&web), GET).is_ok_and(|answer| answer.status == 200));
    world.both_live();
}

#[test]
fn a_revoked_server_is_called_no_more() {
    let mut world = World::start(Duration::from_mins(10));
    let cart = "spiffe://mesh.local/ns/shop/sa/cart";
    world.ca(&["revoke", "--identity", cart, "--reason", "a test"]);
    eventually("nobody calls it", || status(world.outbound) == Some(503));
    world.ca(&["unrevoke", "--identity", cart]);
    eventually("it is called again", || status(world.outbound) == Some(200));
    world.both_live();
}

#[test]
fn a_revoked_certificate_is_of_no_use_and_a_new_token_replaces_it() {
    let mut world = World::start(Duration::from_mins(10));
    let (thief, serial) = (stolen(&world, "web"), world.serial("web"));
    assert!(tls::ask(world.cart_at, Some(&thief), GET).is_ok_and(|answer| answer.status == 200));
    world.ca(&["revoke", "--serial", &serial, "--reason", "stolen"]);
    eventually("the thief is out", || tls::ask(world.cart_at, Some(&thief), GET).is_err());
    // Nobody can tell the owner from the thief, so it buys no other certificate either.
    let (csr, _) = issuance::request(world.mesh.scratch(), P256, &[]);
    let wanted = Wanted { csr: &csr, ..Wanted::default() };
    issuance::ask(world.mesh.listen_address(), Some(&thief), &wanted).expect_err("revoked");
    eventually("the owner is out", || status(world.outbound) != Some(200));
    eventually("and is told why", || world.web.output().contains("revoked"));

    world.web.kill();
    world.web = world.mesh.explicit("web", &["--outbound", &format!("cart.shop:80={}", world.outbound)]);
    eventually("a new token lets it in again", || {
        assert!(world.web.alive(), "{}", world.web.output());
        status(world.outbound) == Some(200)
    });
    assert_ne!(world.serial("web"), serial);
    assert!(tls::ask(world.cart_at, Some(&thief), GET).is_err());
    world.both_live();
}

/// The long form: certificates of a minute.
#[test]
#[ignore = "soak: two minutes"]
fn with_certificates_of_a_minute_too() {
    let own: PathBuf = std::env::current_exe().expect("this program");
    let name = "two_rotations_and_an_outage_past_half_of_a_life_lose_no_request";
    let mut command = Command::new("timeout");
    command.arg("1200").arg(own).args(["--exact", name, "--nocapture"]).env("MESHWORK_SVID_LIFETIME", "60");
    assert!(command.status().expect("this program").success());
}
