//! Identities for programs of a host, by `meshwork agent`'s socket: `PyPI`'s `spiffe` takes them by the Workload API, Envoy
//! by SDS, and both follow while certificates and roots are replaced.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::captured::Mesh;
use e2e::forge::Shown;
use e2e::load::Load;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, http, tls, user};
use serde_json::{Value, json};

const WORKER: &str = "spiffe://mesh.local/ns/shop/sa/worker";
const STRANGER: &str = "spiffe://mesh.local/ns/shop/sa/stranger";

/// How long certificates live, seconds.
const LIFETIME: u64 = 10;
/// Debian's `nobody`, who the tests' programs run as where root runs the tests; and somebody else.
const NOBODY: u32 = 65534;
const OTHER: u32 = 65533;

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc").uid()
}

/// Who an ordinary program here runs as.
fn ordinary_uid() -> u32 {
    if own_uid() == 0 { NOBODY } else { own_uid() }
}

fn registration(name: &str, selectors: &Value) -> String {
    format!(
        "---\napiVersion: meshwork.dev/v1alpha1\nkind: WorkloadRegistration\n\
         metadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ serviceAccount: {name}, agents: [\"shop/host-agent\"], selectors: {selectors}, hint: {name} }}\n"
    )
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ selector: {{ app: {name} }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n"
    )
}

/// A mesh with an agent, whose socket everybody on the host may use.
struct World {
    agent: Program,
    socket: PathBuf,
    /// Read by everybody, as `/run` is.
    dir: tempfile::TempDir,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        user::give(dir.path());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("readable");
        let mesh = Mesh::start_with(config, &["--svid-lifetime", &format!("{LIFETIME}s")]);
        let errors = mesh.errors();
        assert!(errors.is_empty(), "{errors:#?}");
        let socket = dir.path().join("agent.sock");
        let mut command = mesh.meshwork();
        command.arg("agent").args(mesh.enrolment("host-agent", &[])).arg("--socket").arg(&socket);
        command.args(["--socket-mode", "666"]);
        let mut agent = Program::start("host-agent", mesh.scratch(), &mut command);
        eventually("the agent serves", || {
            assert!(agent.alive(), "{}", agent.output());
            socket.exists()
        });
        Self { agent, socket, dir, mesh }
    }

    /// A program with `spiffe`, of a user.
    fn worker(&self, uid: u32) -> Worker {
        let (packages, script) = (self.dir.path().join("python"), self.dir.path().join("workload.py"));
        if !packages.exists() {
            user::copy(&e2e::peer("python"), &packages);
            user::copy(&e2e::root().join("e2e/peers/workload.py"), &script);
        }
        Worker::start(uid, &packages, &script, &self.socket)
    }
}

/// A running program with `PyPI`'s `spiffe`.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(uid: u32, packages: &Path, script: &Path, socket: &Path) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        // Without the packages of the system, whose versions are others.
        command
            .args(["-B", "-S"])
            .arg(script)
            .arg(socket)
            .env_clear()
            .env("PYTHONPATH", packages)
            .current_dir("/");
        if own_uid() == 0 {
            command.uid(uid).gid(uid);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, input, output }
    }

    fn ask(&mut self, task: &Value) -> Value {
        let mut line = String::new();
        writeln!(self.input, "{task}").expect("it runs");
        self.output.read_line(&mut line).expect("an answer");
        e2e::json(&line)
    }

    fn does(&mut self, name: &str) -> Value {
        self.ask(&json!({ "do": name }))
    }

    /// Its own certificate, once there is one.
    fn svid(&mut self) -> Value {
        let mut last = Value::Null;
        eventually("it has an identity", || {
            last = self.does("x509_svids");
            last["error"].is_null()
        });
        last["svids"][0].clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already is as dead as asked.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> PathBuf {
    std::fs::canonicalize("/usr/bin/python3").expect("python")
}

#[test]
fn a_foreign_client_takes_identities_and_tokens() {
    let selectors = json!({ "uid": ordinary_uid(), "executable": python() });
    let mut world = World::start(&registration("worker", &selectors));
    let mut worker = world.worker(ordinary_uid());
    worker.does("watch");
    let svid = worker.svid();
    assert_eq!((&svid["id"], &svid["proven"]), (&json!(WORKER), &json!(true)), "{svid:#}");
    assert_eq!(svid["domains"], json!(["mesh.local"]), "{svid:#}");

    // Tokens, judged by what the bundle says, by another library than ours; and by the agent.
    let token = worker.ask(&json!({ "do": "jwt", "audience": ["bank"] }));
    assert_eq!(token["id"], WORKER, "{token:#}");
    let validated = worker.ask(&json!({ "do": "validate", "token": token["token"], "audience": "bank" }));
    assert_eq!(validated["id"], WORKER, "{validated:#}");
    let text = token["token"].as_str().expect("a token");
    for (what, token, audience) in [
        ("another audience", text.to_owned(), "shop"),
        ("an altered one", text.replacen('.', ".e", 1), "bank"),
        ("none", "a.b.c".to_owned(), "bank"),
    ] {
        let answer = worker.ask(&json!({ "do": "validate", "token": token, "audience": audience }));
        assert!(answer["error"].is_string(), "{what}: {answer:#}");
    }
    let other = worker
        .ask(&json!({ "do": "jwt", "audience": ["bank"], "subject": "spiffe://mesh.local/ns/shop/sa/boss" }));
    assert!(other["error"].is_string(), "{other:#}");

    // Renewed within seconds, without a question.
    eventually("it is told of three certificates", || {
        let seen = worker.does("seen");
        let contexts = seen["contexts"].as_array().expect("a list");
        let mut serials: Vec<_> = contexts.iter().map(|c| c["svids"][0]["serial"].to_string()).collect();
        serials.dedup();
        assert!(contexts.iter().all(|c| c["svids"][0]["proven"] == true), "{seen:#}");
        serials.len() >= 3
    });
    let seen = worker.does("seen");
    assert_eq!(seen["errors"], json!([]), "{seen:#}");
    assert!(world.agent.alive() && world.mesh.control_plane().alive());
}

#[test]
fn who_matches_no_registration_has_no_identity_and_each_has_his_own() {
    let mut config =
        registration("worker", &json!({ "uid": ordinary_uid(), "executable": "/usr/bin/never" }));
    config += &registration("stranger", &json!({ "uid": OTHER }));
    let mut world = World::start(&config);
    let mut nobody = world.worker(ordinary_uid());
    for task in [
        json!({ "do": "x509_svids" }),
        json!({ "do": "jwt", "audience": ["bank"] }),
        json!({ "do": "bundle_set" }),
    ] {
        let answer = nobody.ask(&task);
        let text = answer["error"].as_str().unwrap_or_default().to_owned();
        assert!(
            text.contains("PERMISSION_DENIED")
                || text.to_lowercase().contains("denied")
                || text.contains("registration"),
            "{task}: {answer:#}"
        );
    }
    if own_uid() == 0 {
        let mut stranger = world.worker(OTHER);
        assert_eq!(stranger.svid()["id"], STRANGER);
        assert!(nobody.does("x509_svids")["error"].is_string());
    }
    // A registration counts from when it is there, and no longer than it is.
    world.mesh.configure("more.yaml", &registration("late", &json!({ "uid": ordinary_uid() })));
    assert_eq!(nobody.svid()["id"], "spiffe://mesh.local/ns/shop/sa/late");
    world.mesh.unconfigure("more.yaml");
    eventually("it is taken back", || nobody.does("x509_svids")["error"].is_string());
    assert!(world.agent.alive() && world.mesh.control_plane().alive());
}

#[test]
fn what_a_client_of_the_workload_api_has_is_good_in_the_mesh() {
    let mut config = registration("worker", &json!({ "uid": ordinary_uid() }));
    config += &service("cart");
    let world = World::start(&config);
    let origin = Origin::start(HELLO);
    let at = free_address();
    let _cart = world.mesh.explicit("cart", &["--inbound", &format!("8080={at}>{}", origin.address())]);
    let mut worker = world.worker(ordinary_uid());
    worker.svid();
    let saved = worker.does("save");
    let text = |name: &str| saved[name].as_str().unwrap_or_else(|| panic!("{saved:#}")).to_owned();
    let shown = Shown::read(&text("chain"), &text("key"));
    let get = b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n";
    eventually("the cart takes it", || {
        tls::ask(at, Some(&shown), get).is_ok_and(|answer| answer.status == 200)
    });
    std::thread::sleep(Duration::from_secs(LIFETIME + 1));
    assert!(tls::ask(at, Some(&shown), get).is_err(), "an expired certificate is taken");
}

/// Envoy with certificates from the agent's socket: a listener in front of an application, and one that calls the cart.
fn envoy_bootstrap(
    socket: &Path,
    [server, caller, admin]: [SocketAddr; 3],
    app: SocketAddr,
    cart: SocketAddr,
) -> Value {
    let package = "type.googleapis.com/envoy.extensions";
    let secret = |name: &str| {
        json!({ "name": name, "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }],
            },
        } })
    };
    let tls = |kind: &str, expected: &str| {
        json!({
            "@type": format!("{package}.transport_sockets.tls.v3.{kind}"),
            "common_tls_context": {
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
                "alpn_protocols": ["http/1.1"],
                "tls_certificate_sds_secret_configs": [secret("default")],
                "combined_validation_context": {
                    "default_validation_context": { "match_typed_subject_alt_names": [
                        { "san_type": "URI", "matcher": { "exact": format!("spiffe://mesh.local/ns/shop/sa/{expected}") } },
                    ] },
                    "validation_context_sds_secret_config": secret("ROOTCA"),
                },
            },
        })
    };
    // Who ends an idle connection of HTTP/1.1 may meet a request that is on its way: it is asked again.
    let again = json!({ "retry_on": "reset,connect-failure", "num_retries": 2 });
    let address =
        |at: SocketAddr| json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } });
    let listener = |name: &str, at: SocketAddr, cluster: &str, tls: Option<Value>| {
        let mut chain = json!({ "filters": [{ "name": "http", "typed_config": {
            "@type": format!("{package}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                { "match": { "prefix": "/" }, "route": { "cluster": cluster, "retry_policy": again } },
            ] }] },
            "http_filters": [{ "name": "router", "typed_config": { "@type": format!("{package}.filters.http.router.v3.Router") } }],
        } }] });
        if let Some(mut tls) = tls {
            tls["require_client_certificate"] = json!(true);
            chain["transport_socket"] = json!({ "name": "tls", "typed_config": tls });
        }
        json!({ "name": name, "address": address(at), "filter_chains": [chain] })
    };
    let cluster = |name: &str, endpoint: Value| {
        json!({ "name": name, "type": "STATIC", "connect_timeout": "2s", "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": endpoint } }] }],
        } })
    };
    let mut agent = cluster("agent", json!({ "pipe": { "path": socket } }));
    agent["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{package}.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { "http2_protocol_options": {} },
    } });
    let mut called = cluster("cart", address(cart));
    called["transport_socket"] = json!({ "name": "tls", "typed_config": tls("UpstreamTlsContext", "cart") });
    json!({
        "node": { "id": "foreign", "cluster": "foreign" },
        "admin": { "address": address(admin) },
        "static_resources": {
            "listeners": [
                listener("server", server, "app", Some(tls("DownstreamTlsContext", "web"))),
                listener("caller", caller, "cart", None),
            ],
            "clusters": [agent, called, cluster("app", address(app))],
        },
    })
}

/// By what Envoy is known to an agent of the ordinary user, who does not see what root runs.
fn envoy_selectors() -> Value {
    if own_uid() == 0 {
        return json!({ "uid": 0 });
    }
    // The script of the package becomes the program that lies in the package.
    let libraries = std::fs::read_dir(e2e::peer("venv/lib")).expect("a folder").filter_map(Result::ok);
    let found = libraries
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists());
    let program = std::fs::canonicalize(found.expect("Envoy's program")).expect("a path");
    json!({ "uid": own_uid(), "executable": program })
}

/// After a rotation: the new root is all that is trusted, and on the way nothing was broken.
fn has_followed(worker: &mut Worker, roots: &Value, keys: &Value) {
    eventually("the certificate is under the new root", || {
        let svid = worker.svid();
        assert_eq!(svid["proven"], true, "{svid:#}");
        svid["roots"].as_array().map(Vec::len) == Some(1) && svid["roots"] != *roots
    });
    eventually("the keys of tokens are others", || worker.does("bundle_set")["keys"] != *keys);
    let seen = worker.does("seen");
    assert_eq!(seen["errors"], json!([]), "{seen:#}");
    let contexts = seen["contexts"].as_array().expect("a list");
    assert!(contexts.iter().all(|context| context["svids"][0]["proven"] == true), "{contexts:#?}");
    // Both roots were trusted for a while.
    let roots = |context: &Value| context["svids"][0]["roots"].as_array().map(Vec::len);
    assert!(contexts.iter().any(|context| roots(context) == Some(2)), "{contexts:#?}");
    assert!(seen["bundles"].as_array().is_some_and(|bundles| bundles.len() >= 2), "{seen:#}");
}

/// After a rotation: what is counted is told still, who is new enrols, and a new Envoy has its certificate by SDS.
fn all_goes_on(world: &World, app: SocketAddr, cart: SocketAddr) {
    let requests = |from: &str, to: &str| {
        world.mesh.edge(from, to).and_then(|edge| edge["requests"].as_u64()).unwrap_or_default()
    };
    let before = requests("web", "foreign");
    let outbound = free_address();
    let call = format!("cart.shop:80={outbound}");
    let mut late = world.mesh.explicit("late", &["--outbound", &call, "--push-metrics", "1s"]);
    eventually("a newcomer is served", || {
        assert!(late.alive(), "{}", late.output());
        http::get(outbound, "/").is_ok_and(|answer| answer.status == 200)
    });
    eventually("its calls are told, and that they are encrypted", || {
        world.mesh.edge("late", "cart").is_some_and(|edge| edge["requests"] != 0 && edge["mtls"] == true)
    });
    eventually("those of who was there are counted on", || requests("web", "foreign") > before);

    let [server, caller, admin] = [free_address(), free_address(), free_address()];
    let file = world.dir.path().join("second-envoy.json");
    let bootstrap = envoy_bootstrap(&world.socket, [server, caller, admin], app, cart);
    std::fs::write(&file, bootstrap.to_string()).expect("written");
    let mut envoy = Program::envoy("second-envoy", world.dir.path(), &file);
    eventually("a new Envoy calls the cart", || {
        assert!(envoy.alive(), "{}", envoy.output());
        http::get(caller, "/").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn envoy_by_sds_and_a_client_of_the_workload_api_follow_while_a_root_is_replaced() {
    let (server, caller, admin) = (free_address(), free_address(), free_address());
    let mut config = registration("foreign", &envoy_selectors());
    config += &registration("worker", &json!({ "uid": ordinary_uid(), "executable": python() }));
    config += &service("cart");
    config += &service("foreign");
    let _ = write!(
        config,
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{ name: foreign, namespace: shop }}\n\
         spec:\n  address: {}\n  ports: {{ http: {} }}\n  labels: {{ app: foreign }}\n  serviceAccount: foreign\n",
        server.ip(),
        server.port()
    );
    let mut world = World::start(&config);
    let origin = Origin::start(HELLO);
    let (cart_at, outbound) = (free_address(), free_address());
    let mut cart =
        world.mesh.explicit("cart", &["--inbound", &format!("8080={cart_at}>{}", origin.address())]);
    let calls = format!("foreign.shop:80={outbound}");
    let mut web = world.mesh.explicit("web", &["--outbound", &calls, "--push-metrics", "1s"]);
    let bootstrap = envoy_bootstrap(&world.socket, [server, caller, admin], origin.address(), cart_at);
    let file = world.dir.path().join("envoy.json");
    std::fs::write(&file, bootstrap.to_string()).expect("written");
    let mut envoy = Program::envoy("envoy", world.dir.path(), &file);
    for (what, at) in [("Envoy calls the cart", caller), ("our proxy calls Envoy", outbound)] {
        eventually(what, || {
            assert!(envoy.alive(), "{}", envoy.output());
            http::get(at, "/").is_ok_and(|answer| answer.status == 200)
        });
    }
    let mut worker = world.worker(ordinary_uid());
    let (roots, keys) = (worker.svid()["roots"].clone(), worker.does("bundle_set")["keys"].clone());
    worker.does("watch");
    let loads = [caller, outbound].map(|at| Load::start(at, 50));
    // A rotation is longer than a life of a certificate; then there is a life under the new root.
    let finished = world.mesh.cli(&["ca", "rotate"]);
    assert!(finished.status.success(), "{finished:#?}");
    let rotated = Instant::now();
    has_followed(&mut worker, &roots, &keys);
    all_goes_on(&world, origin.address(), cart_at);
    std::thread::sleep(Duration::from_secs(LIFETIME).saturating_sub(rotated.elapsed()));
    for load in loads {
        load.finish().is_whole(50);
    }
    let certificates = http::get(admin, "/certs").expect("Envoy's admin port").text();
    assert!(certificates.contains("spiffe://mesh.local/ns/shop/sa/foreign"), "{certificates}");
    for program in [&mut envoy, &mut cart, &mut web, &mut world.agent] {
        assert!(program.alive(), "{}", program.output());
    }
}
