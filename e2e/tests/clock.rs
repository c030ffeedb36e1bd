//! A clock that is moved by two days, with libfaketime: new handshakes fail closed and say why, all heals by itself, and
//! nobody renews more often than he must.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::captured::{Mesh, service};
use e2e::forge::Shown;
use e2e::issuance::{self, P256, Wanted};
use e2e::load::Load;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, http, tls};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";

/// Where Debian's package `libfaketime` has it, by architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Workloads of the mesh here.
const WORKLOADS: [&str; 4] = ["cart", "other", "third", "web"];

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(Result::ok);
    let found = folders.map(|folder| folder.path().join(LIBRARY)).find(|path| path.exists());
    found.expect("libfaketime is not installed: cargo xtask peers")
}

fn config() -> String {
    WORKLOADS.map(service).concat()
}

/// The clock of all programs of a mesh.
struct Clock(PathBuf);

impl Clock {
    fn new(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("readable");
        let clock = Self(dir.join("clock"));
        clock.set("+0");
        clock
    }

    /// Sets it apart from the machine's: `+2d`, `-2d`, `+0`.
    fn set(&self, offset: &str) {
        // In one step: it is read at each look at the time.
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{offset}\n")).expect("written");
        std::fs::rename(&new, &self.0).expect("renamed");
    }
}

struct World {
    clock: Clock,
    _dir: tempfile::TempDir,
    _origin: Origin,
    programs: Vec<Program>,
    cart: SocketAddr,
    /// Where the caller's application calls each service.
    outbound: Vec<SocketAddr>,
    own: Shown,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start(lifetime: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Clock::new(dir.path());
        let (library, file) = (library(), clock.0.clone());
        let environment = [
            ("LD_PRELOAD", library.to_str().expect("a path")),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("a path")),
            ("FAKETIME_NO_CACHE", "1"),
            // As in life: who moves the clock does not move what timers go by.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let arguments = ["--svid-lifetime", lifetime, "--log", "info,meshwork_control_plane=debug"];
        let mesh = Mesh::start_in(&config(), &arguments, &environment);
        let origin = Origin::start(HELLO);
        let inbound: Vec<_> = (0..3).map(|_| free_address()).collect();
        let outbound: Vec<_> = (0..3).map(|_| free_address()).collect();
        let mut programs = Vec::new();
        for (name, at) in WORKLOADS.iter().zip(&inbound) {
            programs.push(mesh.explicit(name, &["--inbound", &format!("8080={at}>{}", origin.address())]));
        }
        let calls = WORKLOADS.iter().zip(&outbound).map(|(name, at)| format!("{name}.shop:80={at}"));
        let calls: Vec<_> = calls.collect();
        let options: Vec<_> = calls.iter().flat_map(|call| ["--outbound", call.as_str()]).collect();
        programs.push(mesh.explicit("web", &options));
        eventually("the mesh serves", || status(outbound[0]) == Some(200));
        // All endpoints are known; nobody has called the others yet.
        for program in &mut programs {
            assert!(program.alive());
        }
        eventually("all are there", || WORKLOADS.iter().all(|name| mesh.proxy(name).is_some()));
        let own = Shown::of(&mesh.state_of("web"));
        Self { mesh, clock, _dir: dir, _origin: origin, programs, cart: inbound[0], outbound, own }
    }

    /// What the control plane says to who asks it for a new certificate.
    fn renewal(&self) -> Result<String, e2e::grpc::Refusal> {
        let (csr, _) = issuance::request(self.mesh.scratch(), P256, &[]);
        issuance::ask(self.mesh.listen_address(), Some(&self.own), &Wanted { csr: &csr, ..Wanted::default() })
    }

    /// How many certificates were given for older ones.
    fn renewals(&mut self) -> usize {
        self.mesh.control_plane().output().matches("has a new certificate").count()
    }

    fn knocks(&mut self) -> usize {
        self.mesh.control_plane().output().matches("no handshake").count()
    }

    fn all_live(&mut self) {
        for program in self.programs.iter_mut().chain([self.mesh.control_plane()]) {
            assert!(program.alive() && !program.output().contains("panicked"), "{}", program.output());
        }
    }
}

fn status(at: SocketAddr) -> Option<u16> {
    http::exchange(at, GET).ok().map(|answer| answer.status)
}

#[test]
fn a_clock_two_days_ahead_or_behind_closes_and_heals() {
    let mut world = World::start("24h");
    for (offset, words, fresh) in [("+2d", "expired", 1), ("-2d", "not valid yet", 2)] {
        let (renewals, knocks) = (world.renewals(), world.knocks());
        world.clock.set(offset);
        // Who comes with a certificate of another time is told so by the proxy, in words.
        eventually(&format!("{offset}: the cart closes"), || {
            tls::ask(world.cart, Some(&world.own), GET).is_err()
        });
        eventually(&format!("{offset}: it is told why"), || {
            drop(tls::ask(world.cart, Some(&world.own), GET));
            world.programs[0].output().to_lowercase().contains(words)
        });
        // Between two proxies that have no connection yet, and with the control plane.
        assert_eq!(status(world.outbound[fresh]), Some(503), "{offset}");
        let refusal = world.renewal().expect_err("nothing is signed for an old certificate");
        assert_eq!(refusal.code, None, "{refusal:?}");
        // They knock, not storm.
        std::thread::sleep(Duration::from_secs(5));
        let knocked = world.knocks() - knocks;
        assert!(knocked < WORKLOADS.len() * 12, "{offset}: {knocked} handshakes were tried in five seconds");
        world.all_live();

        world.clock.set("+0");
        eventually(&format!("after {offset} the cart opens"), || {
            tls::ask(world.cart, Some(&world.own), GET).is_ok_and(|answer| answer.status == 200)
        });
        eventually(&format!("after {offset} all are called"), || {
            // The next one in line is left alone: there must be no connection yet when the clock moves again.
            world.outbound[..=fresh].iter().all(|at| status(*at) == Some(200))
        });
        let mut signed = false;
        eventually(&format!("after {offset} the control plane signs"), || {
            signed = signed || world.renewal().is_ok();
            signed
        });
        std::thread::sleep(Duration::from_secs(2));
        // Each workload twice at most, besides the one that this test asked for.
        let renewed = world.renewals() - renewals;
        assert!(renewed <= 2 * WORKLOADS.len() + 1, "{offset}: {renewed} certificates were given");
    }
    world.all_live();
}

#[test]
fn a_clock_two_days_ahead_within_the_life_of_certificates_renews_them_once_and_nothing_fails() {
    // Half of a life is behind everybody then, whatever chance had added to it.
    let mut world = World::start("72h");
    let load = Load::start(world.outbound[0], 50);
    let before = world.renewals();
    world.clock.set("+2d");
    let all = |world: &World| {
        WORKLOADS
            .iter()
            .zip(&world.programs)
            .all(|(_, program)| program.output().contains("renewed its certificate"))
    };
    eventually("all have renewed", || all(&world));
    std::thread::sleep(Duration::from_secs(10));
    let renewed = world.renewals() - before;
    assert!(renewed <= 2 * WORKLOADS.len(), "{renewed} certificates for {} workloads", WORKLOADS.len());
    for at in &world.outbound {
        assert_eq!(status(*at), Some(200));
    }
    load.finish().is_whole(50);
    world.all_live();
}
