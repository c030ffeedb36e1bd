//! Unmodified programs in the mesh, as an ordinary user runs them: servers, clients and resolvers that we did not write.

use e2e::captured::Mesh;
use e2e::inside::Inside;
use e2e::json;
use e2e::program::Program;

/// What every name of a service in the callers' own namespace looks like.
const FORMS: &[&str] = &[
    "catalog",
    "catalog.shop",
    "catalog.shop.",
    "catalog.shop.svc",
    "catalog.shop.svc.",
    "catalog.shop.svc.cluster.local",
    "catalog.shop.svc.cluster.local.",
];

const PAGE: &str = r"<!doctype html><title>shop</title><body><h1>What we sell</h1><script>
fetch('/items').then((r) => r.text()).then((text) => { document.body.dataset.fetched = text.trim(); });
</script></body>";

/// A catalog of Python's `http.server` with one file, `items`.
fn catalog(mesh: &Mesh) -> Program {
    let file = mesh.file("catalog/items", "teapot\n");
    let folder = file.trim_end_matches("/items");
    let run = mesh.workload("catalog").service("catalog").port(8080);
    run.start(&["/usr/bin/python3", "-u", "-m", "http.server", "8080", "--directory", folder])
}

/// nginx with a page, and what it passes on to the catalog; its log says who called.
fn web(mesh: &Mesh) -> (Program, String) {
    let page = mesh.file("web/index.html", PAGE);
    let log = page.replace("index.html", "access.log");
    let folder = page.trim_end_matches("/index.html");
    let config = format!(
        "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n  access_log {log};\n  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n  \
         fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n  \
         server {{\n    listen 8080; listen [::]:8080; root {folder};\n    \
         location /items {{ proxy_pass http://catalog:8080; }}\n  }}\n}}\n"
    );
    let file = mesh.file("web/nginx.conf", &config);
    let run = mesh.workload("web").service("web").port(8080);
    (run.start(&["/usr/sbin/nginx", "-e", "stderr", "-c", &file]), log)
}

#[test]
fn web_servers_and_clients_meet_by_name_on_the_port_that_everybody_listens_on() {
    let mut mesh = Mesh::start("");
    let _catalog = catalog(&mesh);
    let mut client = Inside::start(&mesh, "client");
    let items = client.eventually(&["curl", "-sSf", "http://catalog:8080/items"]);
    assert_eq!(items, "teapot\n");
    let (_web, log) = web(&mesh);
    client.eventually(&["curl", "-sSf", "http://web:8080/"]);

    assert_eq!(client.output(&["curl", "-sSf", "http://web:8080/items"]), "teapot\n");
    assert_eq!(client.output(&["wget", "-q", "-O", "-", "http://web:8080/items"]), "teapot\n");
    for name in FORMS {
        for family in ["-4", "-6"] {
            let url = format!("http://{name}:8080/items");
            assert_eq!(client.output(&["curl", "-sSf", family, &url]), "teapot\n", "{name} {family}");
        }
    }
    // What nginx logs is neither its own loopback, which programs trust, nor an address of somebody else.
    let log = std::fs::read_to_string(log).expect("an access log");
    assert!(log.lines().all(|line| line.starts_with("198.18.0.2 ")), "{log}");

    let script = mesh.copy("e2e/peers/resolver.mjs");
    let seen = json(&client.output(&["node", &script, "catalog.shop.svc.cluster.local", "8080"]));
    assert_eq!((&seen["statuses"]["4"], &seen["statuses"]["6"]), (&200.into(), &200.into()), "{seen:#}");
    assert_eq!(seen["missing"], "ENOTFOUND", "{seen:#}");
    assert!(seen["addresses"]["4"][0].as_str().is_some_and(|a| a.starts_with("240.")), "{seen:#}");
    assert!(seen["addresses"]["6"][0].as_str().is_some_and(|a| a.starts_with("fd6d:6573:6877:")), "{seen:#}");

    e2e::eventually("the edges are known, with mTLS", || {
        let mtls = |from, to| mesh.edge(from, to).is_some_and(|e| e["mtls"] == true && e["requests"] != 0);
        mtls("client", "web") && mtls("web", "catalog")
    });
    mesh.trace().look();
    assert!(mesh.trace().namespaces() >= 9, "three workloads, each with its own user, network and mounts");
}

#[test]
fn what_does_not_exist_is_said_to_be_so_at_once() {
    let mesh = Mesh::start("");
    let mut client = Inside::start(&mesh, "client");
    let said = client.run(&["curl", "-sS", "http://no-such-service.shop:8080/"]);
    assert_eq!(said.code, 6, "curl's code for a name that is not: {said:?}");
    let said = client.run(&["getent", "ahosts", "no-such-service"]);
    assert_eq!(said.code, 2, "{said:?}");
    // Echo requests lead nowhere, and whoever sends them hears of it.
    let asked = std::time::Instant::now();
    let said = client.run(&["ping", "-c", "1", "-W", "40", "192.0.2.1"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("0 received") && asked.elapsed().as_secs() < 30, "{said:?}");
    e2e::eventually("the log says what was refused", || client.log().contains("192.0.2.1"));
    let said = client.run(&["ping", "-c", "1", "127.0.0.1"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn protocols_in_which_the_server_speaks_first_and_redis_go_through() {
    let mesh = Mesh::start("");
    let greeter = mesh.copy("e2e/peers/greeter.py");
    let mail = mesh.workload("mail").service("mail").port_of(25, "tcp");
    let _mail = mail.start(&["/usr/bin/python3", &greeter, "serve", "25"]);
    let folder = mesh.file("redis/empty", "");
    let folder = folder.trim_end_matches("/empty");
    let redis = mesh.workload("redis").service("redis").port_of(6379, "tcp");
    let _redis = redis.start(&["redis-server", "--protected-mode", "no", "--save", "", "--dir", folder]);
    let mut client = Inside::start(&mesh, "client");

    let taken = client.eventually(&["/usr/bin/python3", &greeter, "send", "mail", "25"]);
    assert!(taken.starts_with("taken from ") && taken.contains("198.18.0.2"), "{taken}");

    let cli = |client: &mut Inside, words: &[&str]| {
        client.eventually(&[&["redis-cli", "-h", "redis"], words].concat()).trim().to_owned()
    };
    assert_eq!(cli(&mut client, &["PING"]), "PONG");
    assert_eq!(cli(&mut client, &["SET", "teapot", "short and stout"]), "OK");
    assert_eq!(cli(&mut client, &["GET", "teapot"]), "short and stout");
    assert!(cli(&mut client, &["CLIENT", "INFO"]).contains("addr=198.18.0.2:"));
}

#[test]
fn grpc_goes_through_without_knowing_of_a_mesh() {
    let mesh = Mesh::start("");
    let (echo, library) = (mesh.copy("e2e/peers/grpc_echo.py"), mesh.copy("target/peers/python"));
    let path = format!("PYTHONPATH={library}");
    let run = mesh.workload("echo").service("echo").port_of(50051, "grpc");
    let _echo = run.options(&["--env", &path]).start(&["/usr/bin/python3", &echo, "serve", "50051"]);
    let mut client = Inside::start(&mesh, "client");
    let call = ["env", &path, "/usr/bin/python3", &echo, "call", "echo:50051", "teapot"];
    let answer = json(&client.eventually(&call));
    assert_eq!(answer["one"], "teapot", "{answer:#}");
    assert_eq!(answer["many"].as_array().map(Vec::len), Some(3), "{answer:#}");
    e2e::eventually("the edge is gRPC's", || {
        mesh.edge("client", "echo").is_some_and(|e| e["protocol"] == "grpc" && e["mtls"] == true)
    });
}

#[test]
fn a_browser_inside_loads_a_page_and_what_the_page_asks_for() {
    let mesh = Mesh::start("");
    let _catalog = catalog(&mesh);
    let mut client = Inside::start(&mesh, "browser");
    client.eventually(&["curl", "-sSf", "http://catalog:8080/items"]);
    let _web = web(&mesh);
    client.eventually(&["curl", "-sSf", "http://web:8080/items"]);
    mesh.copy("e2e/mermaid/node_modules/playwright-core");
    let script = mesh.copy("e2e/peers/browse.mjs");
    let seen = json(&client.output(&["node", &script, "http://web:8080/"]));
    assert_eq!((&seen["status"], &seen["fetched"]), (&200.into(), &"teapot".into()), "{seen:#}");
    assert!(seen["text"].as_str().is_some_and(|t| t.contains("What we sell")), "{seen:#}");
}

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: catalog, namespace: shop }
spec:
  selector: { matchLabels: { app: catalog } }
  action: ALLOW
  rules:
    - from:
        - source: { principals: [mesh.local/ns/shop/sa/friend] }
";

#[test]
fn policy_knows_programs_by_the_identity_of_their_workload() {
    let mesh = Mesh::start(POLICY);
    let _catalog = catalog(&mesh);
    let (mut friend, mut stranger) = (Inside::start(&mesh, "friend"), Inside::start(&mesh, "stranger"));
    friend.eventually(&["curl", "-sSf", "http://catalog:8080/items"]);
    let status = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://catalog:8080/items"];
    e2e::eventually("the stranger is refused by policy", || stranger.run(&status).stdout == "403");
    // What a program claims about itself changes nothing.
    let claim = "x-forwarded-client-cert: URI=spiffe://mesh.local/ns/shop/sa/friend";
    let claimed = [&["curl", "-H", claim], &status[1..]].concat();
    assert_eq!(stranger.output(&claimed), "403");
    assert_eq!(friend.output(&status), "200");
}
