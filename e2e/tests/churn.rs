//! Every kind of policy in one config, and endpoints that come and go: no data plane refuses anything, no request fails.
//!
//! The same for Envoy and for our own proxy, each as a caller and as a server. `MESHWORK_CHURN_SECONDS` makes it longer.

#![expect(clippy::print_stderr, reason = "a long run says how much there was to survive")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::captured::{Mesh, NAMESPACE};
use e2e::echo::Echo;
use e2e::http::{Answer, Connection};
use e2e::program::Program;
use e2e::{eventually, free_address};
use serde_json::{Value, json};

/// How long it goes on where nothing else is said.
const SECONDS: u64 = 10;

/// For how long an endpoint that comes and goes is there, and gone: with two of them five changes a second.
const FLAP_MS: u64 = 400;

/// Who serves: name, label `app`, label `version`, whether it comes and goes.
const WORKLOADS: &[(&str, &str, &str, bool)] = &[
    ("catalog-a", "catalog", "v1", true),
    ("catalog-b", "catalog", "v1", true),
    ("catalog-c", "catalog", "v1", false),
    ("catalog-d", "catalog", "v2", false),
    ("copies", "copies", "v1", false),
];

fn text(name: &str) -> String {
    std::fs::read_to_string(e2e::root().join("e2e/testdata/every-kind").join(name)).expect("the file")
}

/// What a data plane that is not captured runs as.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Envoy,
    Ours,
}

struct World {
    mesh: Mesh,
    echoes: Vec<Echo>,
    /// The application behind the data plane that serves, and all that runs beside.
    orders: Echo,
    programs: Vec<Program>,
    catalog_at: SocketAddr,
    orders_at: SocketAddr,
}

impl World {
    fn start(kind: Kind) -> Self {
        let mesh = Mesh::start(&text("services.yaml"));
        let mut echoes = Vec::new();
        for (name, app, version, flaps) in WORKLOADS {
            let (app, version) = (format!("app={app}"), format!("version={version}"));
            let probe = format!("http:8080/flap/{FLAP_MS},every=100ms,failures=1");
            let run = mesh.workload(name).options(&["--label", &app, "--label", &version]).port(8080);
            let run = if *flaps { run.options(&["--readiness", &probe]) } else { run };
            echoes.push(Echo::start(&mesh, NAMESPACE, name, &run, &[8080]));
        }
        let (catalog_at, orders_at) = (free_address(), free_address());
        let (application, inbound) = (free_address(), free_address());
        let orders = Echo::beside(&mesh, "orders-app", application.port());
        let mut world = Self { mesh, echoes, orders, programs: Vec::new(), catalog_at, orders_at };
        let outbound = [format!("catalog.shop:80={catalog_at}"), format!("orders.shop:80={orders_at}")];
        world.data_plane(
            kind,
            "orders",
            "app=orders",
            &["--inbound", &format!("8080={inbound}>{application}")],
        );
        world.data_plane(kind, "web", "app=web", &["--outbound", &outbound[0], "--outbound", &outbound[1]]);
        for at in [catalog_at, orders_at] {
            let what = format!("{at} answers before there is any policy");
            eventually(&what, || get(at, "/", "").is_ok_and(|answer| answer.status == 200));
        }
        world
    }

    fn data_plane(&mut self, kind: Kind, name: &str, label: &str, ports: &[&str]) {
        let dir = self.mesh.scratch().to_path_buf();
        let mut command = self.mesh.meshwork();
        command.arg(if kind == Kind::Envoy { "envoy-bootstrap" } else { "sidecar" });
        command.args(self.mesh.enrolment(name, &[label])).args(ports);
        let out = dir.join(format!("home/{name}/out"));
        if kind == Kind::Envoy {
            command.args(["--admin", &free_address().to_string(), "--out"]).arg(&out);
        } else {
            command.args(["--label", label]);
        }
        let mut program = Program::start(&format!("{name}-mesh"), &dir, &mut command);
        if kind == Kind::Envoy {
            let file = out.join("bootstrap.yaml");
            eventually("the bootstrap is written", || {
                assert!(program.alive(), "it ended early: {}", program.output());
                file.exists()
            });
            self.programs.push(Program::envoy(&format!("{name}-envoy"), &dir, &file));
        }
        self.programs.push(program);
    }

    /// Whether a node has accepted all that it was given, and refused nothing on the way.
    fn accepts_all(&self, name: &str) -> bool {
        let Some(proxy) = self.mesh.proxy(name) else { return false };
        assert_eq!(proxy["refused"].as_array().map(Vec::len), Some(0), "{proxy:#}");
        proxy["current"] == true && proxy["accepted"].as_object().is_some_and(|a| !a.is_empty())
    }

    /// What each kind of policy does, seen once.
    fn policy_holds(&mut self) {
        let (catalog, orders) = (self.catalog_at, self.orders_at);
        eventually("the split is there", || {
            let errors = self.mesh.errors();
            assert!(errors.is_empty(), "the config is refused: {errors:#?}");
            answer(catalog, "/", "").field("x-split") == Some("yes")
        });
        eventually("the faults are there", || answer(orders, "/", "x-test: failing\r\n").status == 555);
        eventually("the denials are there", || answer(orders, "/admin/x", "").status == 403);
        for name in ["web", "orders"] {
            eventually("all is accepted", || self.accepts_all(name));
        }
        assert_eq!(echo(&answer(catalog, "/", "x-preview: yes\r\n"))["pod"], "catalog-d");
        let moved = answer(catalog, "/moved/x", "");
        assert_eq!((moved.status, moved.field("location").map(|l| l.ends_with("/new/x"))), (301, Some(true)));
        let old = echo(&answer(catalog, "/old/x", "x-secret: a\r\n"));
        assert_eq!((&old["path"], &old["headers"]["x-old"][0]), (&json!("/new/x"), &json!("yes")), "{old:#}");
        assert!(old["headers"]["x-secret"].is_null(), "{old:#}");

        assert_eq!(answer(orders, "/", "").field("x-orders"), Some("yes"));
        assert_eq!(answer(orders, "/", "x-forbidden: yes\r\n").status, 403);
        let start = Instant::now();
        assert_eq!(answer(orders, "/", "x-test: slow\r\n").status, 200);
        assert!(start.elapsed() >= e2e::SECOND, "{:?}", start.elapsed());
        for _ in 0..20 {
            let flaky = answer(orders, "/", "x-echo-status: 503\r\nx-echo-every: 2\r\n");
            assert_eq!(flaky.status, 200, "{flaky:?}");
        }
        assert_eq!(answer(orders, "/tokens", "").status, 403);
        assert_eq!(answer(orders, "/tokens", "authorization: Bearer a.b.c\r\n").status, 401);
        let token = format!("authorization: Bearer {}\r\n", text("token.txt").trim());
        assert_eq!(answer(orders, "/tokens", &token).status, 200);

        assert_eq!(answer(catalog, "/", "x-echo-tag: copied\r\n").status, 200);
        let copies = self.echoes.last_mut().expect("one");
        eventually("a copy comes", || copies.seen("copied") > 0);
        assert_eq!(self.orders.seen("copied"), 0);
    }

    /// Sends requests while endpoints come and go; gives how often they did, as far as it was seen.
    fn churn(&self, length: Duration) -> u64 {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_over = &over;
            let end = End(is_over);
            let loads = [self.catalog_at, self.orders_at].map(|at| scope.spawn(move || load(at, is_over)));
            let start = Instant::now();
            let (mut changes, mut last) = (0, Value::Null);
            // Not a measurement, but there must have been something to survive.
            let least = length.as_secs() * 2;
            while start.elapsed() < length || changes < least {
                assert!(start.elapsed() < length + e2e::DEADLINE, "only {changes} changes of endpoints");
                let proxy = self.mesh.proxy("web").expect("known");
                assert_eq!(proxy["refused"].as_array().map(Vec::len), Some(0), "{proxy:#}");
                if proxy["accepted"]["endpoints"] != last {
                    changes += 1;
                    last = proxy["accepted"]["endpoints"].clone();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(end);
            for (done, at) in
                loads.map(|load| load.join().expect("no failure")).into_iter().zip(["catalog", "orders"])
            {
                eprintln!("{done} requests to the {at}");
            }
            changes
        })
    }
}

/// Says that it is over when it goes, also where the test fails: the loads would go on for ever.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// GETs a path until it is over, on one connection while it lasts; gives how often.
fn load(at: SocketAddr, over: &AtomicBool) -> u64 {
    let mut done = 0;
    let mut connection = Connection::open(at).expect("a connection");
    while !over.load(Ordering::Relaxed) {
        connection.send(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").expect("sent");
        let answer = connection.answer(false).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        done += 1;
        if answer.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            connection = Connection::open(at).expect("a connection");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    done
}

fn get(at: SocketAddr, path: &str, fields: &str) -> std::io::Result<Answer> {
    e2e::http::exchange(at, format!("GET {path} HTTP/1.1\r\nhost: shop\r\n{fields}\r\n").as_bytes())
}

fn answer(at: SocketAddr, path: &str, fields: &str) -> Answer {
    get(at, path, fields).expect("an answer")
}

fn echo(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    e2e::json(&answer.text())
}

fn drill(kind: Kind) {
    let mut world = World::start(kind);
    world.mesh.configure("policy.yaml", &text("policy.yaml"));
    world.policy_holds();
    let asked = std::env::var("MESHWORK_CHURN_SECONDS").ok().and_then(|s| s.parse().ok());
    let seconds = asked.unwrap_or(SECONDS);
    let changes = world.churn(Duration::from_secs(seconds));
    eprintln!("{changes} changes of endpoints in {seconds} s");
    for name in ["web", "orders"] {
        eventually("all is accepted", || world.accepts_all(name));
    }
    for program in &mut world.programs {
        assert!(program.alive(), "{}", program.output());
    }
}

#[test]
fn envoy_takes_every_kind_of_policy_and_loses_nothing_while_endpoints_come_and_go() {
    drill(Kind::Envoy);
}

#[test]
fn our_proxy_takes_every_kind_of_policy_and_loses_nothing_while_endpoints_come_and_go() {
    drill(Kind::Ours);
}
