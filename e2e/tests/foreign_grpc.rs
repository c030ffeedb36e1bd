//! gRPC without a proxy, by its own xDS client: splits, headers, faults, retries, and policy at the other end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use e2e::captured::{Mesh, NAMESPACE};
use e2e::echo::{Echo, is_share};
use e2e::eventually;
use e2e::program::Program;
use serde_json::{Value, json};

const CALLS: u64 = 200;

/// A client in a process of its own, with what keeps its certificate.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _agent: Program,
}

/// Enrols a workload for gRPC's library, and waits for the bootstrap.
fn bootstrap(mesh: &Mesh, name: &str, app: &str, more: &[&str]) -> (Program, PathBuf) {
    let out = mesh.scratch().join(format!("home/{name}/out"));
    let mut command = mesh.meshwork();
    command.arg("grpc-bootstrap").args(mesh.enrolment(name, &[&format!("app={app}")]));
    command.arg("--out").arg(&out).args(more);
    let mut agent = Program::start(&format!("{name}-bootstrap"), mesh.scratch(), &mut command);
    let file = out.join("bootstrap.json");
    eventually("the bootstrap is written", || {
        assert!(agent.alive(), "it ended early: {}", agent.output());
        file.exists()
    });
    (agent, file)
}

/// gRPC in Python, with one of our scripts.
fn python(script: &str, bootstrap: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(e2e::peer("venv/bin/python"));
    command.arg(e2e::root().join("e2e/grpc").join(script)).args(words);
    command.env("GRPC_XDS_BOOTSTRAP", bootstrap);
    command
}

impl Client {
    fn start(mesh: &Mesh, name: &str) -> Self {
        let (agent, file) = bootstrap(mesh, name, name, &[]);
        let mut command = python("echo_client.py", &file, &["xds:///payments.shop:7070"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, input, output, _agent: agent }
    }

    fn call(&mut self, calls: u64, metadata: &Value) -> Value {
        self.perform(&json!({ "calls": calls, "metadata": metadata }))
    }

    fn perform(&mut self, task: &Value) -> Value {
        let mut line = String::new();
        writeln!(self.input, "{task}").expect("it runs");
        self.output.read_line(&mut line).expect("an answer");
        e2e::json(&line)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // One that has ended already is as dead as asked.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(name: &str) -> String {
    std::fs::read_to_string(e2e::root().join("e2e/testdata/grpc").join(name)).expect("the file")
}

#[test]
fn grpc_without_a_proxy_has_splits_faults_retries_and_policy() {
    let mesh = Mesh::start(&text("services.yaml"));
    let echo = |version: &str| {
        let (name, label) = (format!("payments-{version}"), format!("version={version}"));
        let run = mesh.workload(&name).options(&["--label", "app=payments", "--label", &label]);
        Echo::start(&mesh, NAMESPACE, &name, &run.port_of(7070, "grpc"), &[7070])
    };
    let _payments = ["v1", "v2"].map(echo);
    let (mut checkout, mut stranger) = (Client::start(&mesh, "checkout"), Client::start(&mesh, "stranger"));
    assert_eq!(checkout.call(1, &json!({}))["codes"], json!({ "OK": 1 }));
    mesh.configure("traffic.yaml", &text("traffic.yaml"));

    let failing = json!({ "x-test": "failing" });
    eventually("the faults are there", || {
        let errors = mesh.errors();
        assert!(errors.is_empty(), "the config is refused: {errors:#?}");
        checkout.call(1, &failing)["codes"] == json!({ "RESOURCE_EXHAUSTED": 1 })
    });
    assert_eq!(checkout.call(20, &failing)["codes"], json!({ "RESOURCE_EXHAUSTED": 20 }));
    let start = Instant::now();
    assert_eq!(checkout.call(1, &json!({ "x-test": "slow" }))["codes"], json!({ "OK": 1 }));
    assert!(start.elapsed() >= e2e::SECOND, "{:?}", start.elapsed());

    let by_header = checkout.call(20, &json!({ "x-version": "v2" }));
    assert_eq!(by_header["pods"], json!({ "payments-v2": 20 }), "{by_header:#}");
    let split = checkout.call(CALLS, &json!({}));
    assert_eq!(split["codes"], json!({ "OK": CALLS }), "{split:#}");
    assert!(is_share(split["pods"]["payments-v2"].as_u64().unwrap_or(0), CALLS, 0.3), "{split:#}");

    let flaky = |test: &str| json!({ "x-test": test, "x-echo-status": "14", "x-echo-every": "2" });
    let again = checkout.call(20, &flaky("again"));
    assert_eq!(again["codes"], json!({ "OK": 20 }), "{again:#}");
    let once = checkout.call(20, &flaky("once"));
    assert_eq!(once["codes"], json!({ "OK": 10, "UNAVAILABLE": 10 }), "{once:#}");

    mesh.configure("access.yaml", &text("access.yaml"));
    eventually("a stranger is refused", || {
        stranger.call(5, &json!({}))["codes"] == json!({ "PERMISSION_DENIED": 5 })
    });
    let allowed = checkout.call(20, &json!({}));
    assert_eq!(allowed["codes"], json!({ "OK": 20 }), "{allowed:#}");
    for name in ["checkout", "stranger"] {
        let proxy = mesh.proxy(name).expect("known");
        assert_eq!((&proxy["dialect"], &proxy["refused"]), (&json!("grpc"), &json!([])), "{proxy:#}");
    }
}

#[test]
fn grpc_without_a_proxy_serves_and_judges_its_callers() {
    let mesh = Mesh::start(&text("server.yaml"));
    let at = e2e::free_address();
    let inbound = format!("7070/grpc={at}>{at}");
    let (_agent, file) = bootstrap(&mesh, "payments", "payments", &["--inbound", &inbound]);
    let mut command = python("echo_server.py", &file, &[&at.to_string(), "payments"]);
    let mut server = Program::start("payments-server", mesh.scratch(), &mut command);
    server.listens(at);
    let (mut checkout, mut stranger) = (Client::start(&mesh, "checkout"), Client::start(&mesh, "stranger"));
    eventually("who may call is answered", || {
        assert!(server.alive(), "{}", server.output());
        checkout.call(1, &json!({}))["codes"] == json!({ "OK": 1 })
    });
    assert_eq!(checkout.call(20, &json!({}))["codes"], json!({ "OK": 20 }));
    let refund = checkout.perform(&json!({ "calls": 5, "method": "Refund" }));
    assert_eq!(refund["codes"], json!({ "PERMISSION_DENIED": 5 }), "{refund:#}");
    assert_eq!(stranger.call(5, &json!({}))["codes"], json!({ "PERMISSION_DENIED": 5 }));

    // Our own proxies call it as they call each other.
    let mut captured = Echo::start(&mesh, NAMESPACE, "captured", &mesh.workload("captured"), &[]);
    let task = json!({ "host": "payments:7070", "protocol": "grpc" });
    let answer = captured.eventually(&task, 200);
    assert_eq!((&answer["grpc"], &answer["echo"]["pod"]), (&json!(0), &json!("payments")), "{answer:#}");
    let mut other = Echo::start(&mesh, NAMESPACE, "other", &mesh.workload("other"), &[]);
    eventually("another workload is refused", || other.ask(&task)["statuses"] == json!({ "grpc 7": 1 }));
    let proxy = mesh.proxy("payments").expect("known");
    assert_eq!(proxy["refused"], json!([]), "{proxy:#}");
}
