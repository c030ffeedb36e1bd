//! Config by the command line, against a control plane that runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use e2e::program::Program;
use serde_json::Value;
use tempfile::TempDir;

/// A control plane without proxies, and a folder for files.
struct Mesh {
    dir: TempDir,
    control_plane: Program,
    api: std::net::SocketAddr,
}

impl Mesh {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (listen, api) = (e2e::free_address(), e2e::free_address());
        let state = dir.path().join("state");
        let arguments =
            ["control-plane", "--state", &state.to_string_lossy(), "--listen", &listen.to_string()]
                .map(str::to_owned);
        let api_text = api.to_string();
        let arguments = arguments.iter().map(String::as_str).chain(["--api", &api_text]);
        let mut control_plane = Program::meshwork("control-plane", dir.path(), arguments);
        control_plane.listens(api);
        Self { dir, control_plane, api }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn socket(&self) -> String {
        format!("unix:{}", self.state().join("api.sock").display())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    }

    /// A command that asks by the socket.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("240").arg(e2e::binary()).args(arguments).env("MESHWORK_API", self.socket());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary")
    }

    /// Runs a command that has to succeed; gives what it prints.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {} {}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        e2e::json(&self.good(&all))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80 }] }
";

fn route(path: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: cart, namespace: shop }}\nspec:\n  \
         parentRefs: [{{ group: \"\", kind: Service, name: cart, port: 80 }}]\n  rules:\n    - matches: [{{ path: {{ value: \
         {path} }} }}]\n      backendRefs: [{{ name: cart, port: 80 }}]\n"
    )
}

#[test]
fn config_is_applied_shown_changed_and_taken_back() {
    let mesh = Mesh::start();
    let first = mesh.file("first.yaml", &format!("{SERVICE}{}", route("/a")));
    let second = mesh.file("second.yaml", &route("/b"));

    let told = mesh.good(&["apply", "-f", &first, "--note", "the first", "--wait"]);
    assert!(told.contains("Service shop/cart created"), "{told}");
    assert!(told.contains("0 proxies concerned"), "{told}");
    let applied = mesh.json(&["apply", "-f", &first]);
    let revision = applied["revision"].as_u64().expect("a revision");
    assert!(
        applied["changes"].as_array().is_some_and(|c| c.iter().all(|c| c["action"] == "unchanged")),
        "{applied}"
    );

    // What would change is shown, and does not.
    let differ = mesh.run(&["diff", "-f", &second]);
    let shown = text(&differ.stdout);
    assert_eq!(code(&differ), Some(1), "{shown} {}", text(&differ.stderr));
    assert!(shown.contains("@@ spec.rules[0].matches[0].path.value @@"), "{shown}");
    assert!(shown.contains("value: /a") && shown.contains("value: /b"), "{shown}");
    assert_eq!(code(&mesh.run(&["diff", "-f", &first])), Some(0));
    mesh.good(&["apply", "-f", &second, "--dry-run"]);
    assert!(mesh.good(&["get", "httproute/cart", "-n", "shop", "-o", "yaml"]).contains("value: /a"));

    let changed = mesh.json(&["apply", "-f", &second])["revision"].as_u64().expect("a revision");
    assert!(changed > revision);
    assert!(mesh.good(&["get", "httproutes", "-A"]).contains("Service cart:80"));
    let history = mesh.good(&["history"]);
    assert!(history.contains("the first") && history.contains("HTTPRoute shop/cart changed"), "{history}");
    assert!(mesh.good(&["history", &changed.to_string()]).contains("+        "), "{history}");

    mesh.good(&["rollback", &revision.to_string()]);
    assert!(mesh.good(&["get", "httproute", "cart", "-n", "shop", "-o", "json"]).contains("\"/a\""));
    mesh.good(&["delete", "-f", &second]);
    assert_eq!(code(&mesh.run(&["get", "httproute/cart", "-n", "shop"])), Some(1));
    mesh.good(&["delete", "svc", "cart", "-n", "shop"]);
    assert_eq!(mesh.json(&["status"])["proxies"], e2e::json("[]"));
}

#[test]
fn what_is_wrong_is_shown_in_the_text_that_was_sent_and_nothing_is_changed() {
    let mesh = Mesh::start();
    let file =
        mesh.file("bad.yaml", &format!("{SERVICE}{}", route("/a").replace("backendRefs", "backendRfes")));
    let output = mesh.run(&["apply", "-f", &file]);
    let errors = text(&output.stderr);
    assert_eq!(code(&output), Some(1), "{errors}");
    for part in
        ["error[MW1005]", "bad.yaml:13:7", "backendRfes: [{ name: cart", "Did you mean `backendRefs`?"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(text(&mesh.run(&["get", "svc", "-A"]).stderr).contains("no Service"));
    // A service that a route leads to stays.
    let good = mesh.file("good.yaml", &format!("{SERVICE}{}", route("/a")));
    mesh.good(&["apply", "-f", &good]);
    let output = mesh.run(&["delete", "svc/cart", "-n", "shop"]);
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stderr).contains("MW1101"), "{}", text(&output.stderr));
}

#[test]
fn changes_by_http_need_a_token() {
    let mesh = Mesh::start();
    let file = mesh.file("service.yaml", SERVICE);
    let api = format!("http://{}", mesh.api);
    let output = mesh.run(&["apply", "-f", &file, "--api", &api]);
    let errors = text(&output.stderr);
    assert!(!output.status.success() && errors.contains("--token-file"), "{errors}");
    let token = mesh.state().join("api.token");
    mesh.good(&["apply", "-f", &file, "--api", &api, "--token-file", &token.to_string_lossy()]);
    // One for another namespace is good for that one only.
    let made = mesh.good(&["api-token", "create", "web-team", "--role", "editor", "-n", "web"]);
    let output = mesh.run(&["delete", "svc/cart", "-n", "shop", "--api", &api, "--token", made.trim()]);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    let web = mesh.file("web.yaml", &SERVICE.replace("shop", "web"));
    mesh.good(&["apply", "-f", &web, "--api", &api, "--token", made.trim()]);
    mesh.good(&["api-token", "end", "web-team"]);
    let output = mesh.run(&["apply", "-f", &web, "--api", &api, "--token", made.trim()]);
    assert!(text(&output.stderr).contains("does not know this token"), "{}", text(&output.stderr));
}

#[test]
fn changes_are_watched() {
    let mesh = Mesh::start();
    let mut watch = Command::new(e2e::binary());
    watch.args(["watch", "svc", "-n", "shop"]).env("MESHWORK_API", mesh.socket());
    let file = mesh.file("service.yaml", SERVICE);
    let mut watching = Program::start("watch", mesh.dir.path(), &mut watch);
    // Until the watch has begun, nothing tells; what is changed again and again is seen sooner or later.
    let mut port = 80;
    e2e::eventually("a change is seen", || {
        port += 1;
        mesh.file("service.yaml", &SERVICE.replace("port: 80", &format!("port: {port}")));
        mesh.good(&["apply", "-f", &file]);
        watching.output().contains("Service shop/cart (revision")
    });
    watching.kill();
    drop(mesh.control_plane);
}

/// Texts that would cost much to read.
fn bombs() -> Vec<(&'static str, String)> {
    let tenfold: Vec<String> = (1..30)
        .map(|i| format!("a{i}: &a{i} [{}]\n", [format!("*a{}", i - 1).as_str(); 10].join(", ")))
        .collect();
    let unknown: Vec<String> = (0..10_000).map(|i| format!("f{i}: 1\n")).collect();
    vec![
        ("aliases", format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}", tenfold.concat())),
        ("depth", "[".repeat(200_000)),
        ("depth-of-blocks", "- ".repeat(200_000)),
        ("keys", "? ".repeat(200_000)),
        ("documents", "---\n0\n".repeat(100_000)),
        ("size", "# more\n".repeat(700_000)),
        ("fields", format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: a }}\n{}", unknown.concat())),
        (
            "regex",
            route("/a").replace(
                "{ value: /a }",
                &format!("{{ type: RegularExpression, value: \"/{}\" }}", "(a{1,100}){1,100}".repeat(8)),
            ),
        ),
    ]
}

/// How long reading may take in a build without optimisation on a busy machine, and how much memory.
const BOUND: Duration = Duration::from_mins(1);
const MEMORY_KIB: &str = "600000";

#[test]
fn bombs_are_refused_in_bounded_time_and_memory() {
    let mesh = Mesh::start();
    for (name, bomb) in bombs() {
        let file = mesh.file(&format!("{name}.yaml"), &bomb);
        for command in ["validate", "apply"] {
            let began = Instant::now();
            let script = format!("ulimit -v {MEMORY_KIB}; exec \"$@\"");
            let binary = e2e::binary();
            let binary = binary.to_string_lossy();
            let output = Command::new("sh")
                .args(["-c", &script, "sh", &binary, command, "-f", &file])
                .env("MESHWORK_API", mesh.socket())
                .output()
                .expect("sh");
            let took = began.elapsed();
            assert_eq!(code(&output), Some(1), "{command} {name}: {:.2000}", text(&output.stderr));
            assert!(took < BOUND, "{command} {name} took {took:?}");
        }
    }
    // The control plane is as before.
    let peak = peak_kib(mesh.control_plane.id());
    assert!(peak < 600_000, "{peak} KiB");
    let file = mesh.file("service.yaml", SERVICE);
    mesh.good(&["apply", "-f", &file]);
}

#[test]
fn many_texts_grow_no_more_than_one_does() {
    let mesh = Mesh::start();
    let aliases = format!("a: &a [{}], b: [{}]", ["x"; 49].join(", "), ["*a"; 90].join(", "));
    std::fs::create_dir(mesh.dir.path().join("many")).expect("a folder");
    for i in 0..460 {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c{i} }}\nbinaryData: {{ {aliases} }}\n"
        );
        mesh.file(&format!("many/{i}.yaml"), &text);
    }
    let before = peak_kib(mesh.control_plane.id());
    let folder = mesh.dir.path().join("many");
    let output = mesh.run(&["apply", "-f", &folder.to_string_lossy()]);
    let errors = text(&output.stderr);
    assert!(code(&output) == Some(1) && errors.contains("aliases written out"), "{errors:.2000}");
    let grown = peak_kib(mesh.control_plane.id()) - before;
    assert!(grown < 400_000, "{grown} KiB");
    let file = mesh.file("service.yaml", SERVICE);
    mesh.good(&["apply", "-f", &file]);
}

/// The most memory that a process has had.
fn peak_kib(id: u32) -> u64 {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
