//! Gateway API's own conformance cases of the mesh profile, with echoes in namespaces: `e2e/testdata/gateway-api-mesh`.
//!
//! `MESHWORK_REPEAT=20` asks each case so many times more, without one exception: chance passes some.

#![expect(clippy::panic, reason = "to panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::DEADLINE;
use e2e::captured::Mesh;
use e2e::echo::{Echo, is_share};
use serde::Deserialize;
use serde_json::{Value, json};

const NAMESPACE: &str = "gateway-conformance-mesh";
const CONSUMER: &str = "gateway-conformance-mesh-consumer";

/// The file of config that a test's routes are in.
const FILE: &str = "routes.yaml";

/// Longer than the control plane gathers changes.
const QUIET: Duration = Duration::from_millis(300);

/// How many requests tell a distribution.
const TRIES: u64 = 500;

/// A file of `cases/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    routes: Option<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    name: String,
    #[serde(default = "first")]
    from: String,
    request: Request,
    expect: Expected,
}

fn first() -> String {
    "echo-v1".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "service")]
    host: String,
    #[serde(default)]
    by_address: bool,
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "http")]
    protocol: String,
}

fn service() -> String {
    "echo".to_owned()
}

fn http() -> String {
    "http".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    #[serde(default = "well")]
    status: u16,
    /// How the backend's name begins.
    #[serde(default)]
    backend: String,
    /// What the backend sees.
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    absent: Vec<String>,
    /// What the client sees.
    #[serde(default)]
    response: BTreeMap<String, String>,
    #[serde(default)]
    response_absent: Vec<String>,
    redirect: Option<Redirect>,
    /// Percents.
    #[serde(default)]
    shares: BTreeMap<String, f64>,
}

fn well() -> u16 {
    200
}

/// Of the `location`; what is left out is as it was asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redirect {
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
}

/// The echoes, by their names in the cases.
struct World {
    mesh: Mesh,
    echoes: BTreeMap<&'static str, Echo>,
    has_routes: bool,
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start(&read(&folder().join("base.yaml")));
        let mut echoes = BTreeMap::new();
        for (key, namespace, name) in [
            ("echo-v1", NAMESPACE, "echo-v1"),
            ("echo-v2", NAMESPACE, "echo-v2"),
            ("consumer", CONSUMER, "echo-v1"),
        ] {
            let version = format!("version={}", name.trim_start_matches("echo-"));
            let run = mesh
                .workload(name)
                .namespace(namespace)
                .options(&["--label", "app=echo", "--label", &version]);
            let run = run.port(8080).port_of(7070, "grpc");
            echoes.insert(key, Echo::start(&mesh, namespace, name, &run, &[8080, 7070]));
        }
        let mut world = Self { mesh, echoes, has_routes: false };
        for service in ["echo-v1", "echo-v2"] {
            let host = format!("{service}.{NAMESPACE}");
            for echo in world.echoes.values_mut() {
                echo.eventually(&json!({ "host": host }), 200);
                echo.eventually(&json!({ "host": format!("{host}:7070"), "protocol": "grpc" }), 200);
            }
        }
        world
    }

    /// Puts a test's routes in place of those of the test before, in one step, and waits until every proxy has them.
    fn apply(&mut self, routes: Option<&String>) {
        let before = self.mesh.configs();
        match routes {
            Some(routes) => self.mesh.configure(FILE, &read(&folder().join(format!("routes/{routes}.yaml")))),
            None if self.has_routes => self.mesh.unconfigure(FILE),
            None => return,
        }
        self.has_routes = routes.is_some();
        e2e::eventually("the config is read", || self.mesh.configs() > before);
        // What is read is pushed once the control plane has been quiet for a moment.
        std::thread::sleep(QUIET);
        e2e::eventually("every proxy has it", || {
            let proxies = self.mesh.api("/api/v1/proxies").unwrap_or_default();
            proxies.as_array().is_some_and(|all| all.iter().all(|proxy| proxy["current"] == true))
        });
    }

    /// Asks a case once.
    fn ask(&mut self, case: &Case) -> Result<(), String> {
        let echo = self.echoes.get_mut(case.from.as_str()).expect("an echo of this name");
        let request = &case.request;
        let count = if case.expect.shares.is_empty() { 1 } else { TRIES };
        let said = echo.ask(&json!({
            "host": request.host, "by_address": request.by_address, "path": request.path,
            "headers": request.headers, "protocol": request.protocol, "count": count,
        }));
        if count > 1 {
            return distributed(&said, &case.expect.shares);
        }
        compare(case, &said["answers"][0]).map_err(|what| format!("{what}: {}", said["answers"][0]))
    }

    /// Asks a case until it is answered as it should be: config needs its time.
    fn eventually(&mut self, case: &Case) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let failed = match self.ask(case) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let errors = self.mesh.errors();
            let of_routes = |e: &&Value| e["file"].as_str().is_some_and(|file| file.ends_with(FILE));
            if let Some(error) = errors.iter().find(of_routes) {
                return Err(format!("the config is refused: {}: {}", error["field"], error["message"]));
            }
            if start.elapsed() > DEADLINE / 2 {
                return Err(failed);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn folder() -> PathBuf {
    e2e::root().join("e2e/testdata/gateway-api-mesh")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn distributed(said: &Value, shares: &BTreeMap<String, f64>) -> Result<(), String> {
    let is_right = shares.iter().all(|(pod, percent)| {
        is_share(said["pods"][pod].as_u64().unwrap_or_default(), TRIES, percent / 100.0)
    });
    let all: u64 = said["pods"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    if is_right && all == TRIES { Ok(()) } else { Err(format!("{} {}", said["pods"], said["statuses"])) }
}

fn compare(case: &Case, answer: &Value) -> Result<(), String> {
    let expected = &case.expect;
    let differs = |what: &str, should: &dyn std::fmt::Display| Err(format!("{what} should be {should}"));
    if answer["status"] != expected.status {
        return differs("the status", &expected.status);
    }
    if case.request.protocol == "grpc" && answer["grpc"] != 0 {
        return differs("gRPC's status", &0);
    }
    for (name, value) in &expected.response {
        if values(&answer["headers"][name]) != *value {
            return differs(&format!("the answer's {name}"), value);
        }
    }
    if let Some(name) =
        expected.response_absent.iter().find(|name| !answer["headers"][name.as_str()].is_null())
    {
        return differs(&format!("the answer's {name}"), &"absent");
    }
    if let Some(redirect) = &expected.redirect {
        return location(case, redirect, &values(&answer["headers"]["location"]));
    }
    if expected.status != 200 {
        return Ok(());
    }
    let echo = &answer["echo"];
    if !echo["pod"].as_str().is_some_and(|pod| pod.starts_with(&expected.backend)) {
        return differs("the backend", &expected.backend);
    }
    let path = expected.path.as_ref().or(case.request.path.as_ref());
    if path.is_some_and(|path| echo["path"] != path.as_str()) {
        return differs("the path", &path.expect("one"));
    }
    for (name, value) in &expected.headers {
        if values(&echo["headers"][name]) != *value {
            return differs(&format!("the request's {name}"), value);
        }
    }
    match expected.absent.iter().find(|name| !echo["headers"][name.as_str()].is_null()) {
        Some(name) => differs(&format!("the request's {name}"), &"absent"),
        None => Ok(()),
    }
}

fn values(values: &Value) -> String {
    let values: Vec<_> = values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    values.join(",")
}

/// A default port may be written or not.
fn location(case: &Case, expected: &Redirect, location: &str) -> Result<(), String> {
    let differs = |what: &str| Err(format!("the location's {what} is not as it should be in {location:?}"));
    let Some((scheme, rest)) = location.split_once("://") else { return differs("form") };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    if scheme != expected.scheme.as_deref().unwrap_or("http") {
        return differs("scheme");
    }
    if host != expected.host.as_deref().unwrap_or(&case.request.host) {
        return differs("host");
    }
    let default = if scheme == "https" { "443" } else { "80" };
    let is_right = match expected.port {
        Some(expected) => port == expected.to_string(),
        None => port.is_empty() || port == default,
    };
    if !is_right {
        return differs("port");
    }
    let should = expected.path.as_ref().or(case.request.path.as_ref()).map_or("/", String::as_str);
    if path == should { Ok(()) } else { differs("path") }
}

#[test]
fn every_case_of_the_mesh_profile_passes() {
    let repeat: u32 = std::env::var("MESHWORK_REPEAT").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut files: Vec<_> = std::fs::read_dir(folder().join("cases"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 22, "{files:?}");
    let mut world = World::start();
    let mut failed = Vec::new();
    for path in files {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let file: File = serde_saphyr::from_str(&read(&path)).unwrap_or_else(|e| panic!("{name}: {e}"));
        world.apply(file.routes.as_ref());
        let before = failed.len();
        for (number, case) in file.cases.iter().enumerate() {
            let path = case.request.path.as_deref().unwrap_or("/");
            if let Err(what) = world.eventually(case) {
                failed.push(format!("{name} {number} {path} {}: {what}", case.name));
            }
        }
        // What has failed once is not asked again: its reason is known.
        for round in 0..if failed.len() == before { repeat } else { 0 } {
            for (number, case) in file.cases.iter().enumerate() {
                if let Err(what) = world.ask(case) {
                    failed.push(format!("{name} {number}, round {round}: {what}"));
                }
            }
        }
        let verdict = if failed.len() == before { "passes" } else { "FAILS" };
        eprintln!("{name}: {} cases: {verdict}", file.cases.len());
    }
    assert!(failed.is_empty(), "{} cases fail:\n{}", failed.len(), failed.join("\n"));
}
