use super::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod tenants;

/// An API over a store of its own, with what keeps it.
fn api(dir: &std::path::Path, address: SocketAddr) -> Api {
    let kv: Arc<dyn crate::store::kv::Kv> =
        Arc::new(crate::store::sqlite::Sqlite::open(dir).expect("a store"));
    let world = Arc::new(World::new("mesh.local", meshwork_model::mesh::Config::default(), Vec::new()));
    let parts = crate::config::Parts {
        kv: Arc::clone(&kv),
        world: Arc::clone(&world),
        store: Arc::new(crate::store::Store::on(Arc::clone(&kv), dir).expect("a store")),
        last_good: crate::last_good::LastGood::new(dir),
    };
    let authority = crate::authority::in_test(dir, Arc::clone(&kv), Arc::clone(&world));
    Api {
        world,
        authority,
        hub: Hub::new(Duration::from_mins(1), Instant::now),
        register: Arc::new(Register::open(parts, None).expect("opened")),
        access: Access::open(dir, kv).expect("opened"),
        audit: Arc::new(Audit::new(dir)),
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        rooms: Rooms::new(),
        discovery: address,
        own: address,
    }
}

async fn start() -> (tempfile::TempDir, SocketAddr) {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let sources = [("a.yaml".to_owned(), Some("kind: [".into()))];
    let api = api(dir.path(), address);
    api.world.refuse(crate::ingest::Library::default().with(sources).loaded().problems);
    let socket = listen_on_socket(&dir.path().join("api.sock")).await.expect("a socket");
    tokio::spawn(serve(listener, socket, api));
    (dir, address)
}

async fn get(address: SocketAddr, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn every_path_answers() {
    let (_dir, address) = start().await;
    let check = async |path: &str, status: &str, expected: &str| {
        let answer = get(address, "localhost", path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains(expected), "{path}: {answer}");
    };
    for line in ROUTES.lines() {
        let path = line.split_whitespace().next().expect("a path");
        check(path, "200", "").await;
    }
    check("/", "200", "/api/v1/problems").await;
    check("/ready", "200", "ready").await;
    check("/metrics", "200", "\nmeshwork_control_plane_configs_refused_total 1\n").await;
    check("/metrics", "200", "\nmeshwork_control_plane_connections_refused_total 0\n").await;
    check(
        "/api/v1/problems",
        "200",
        "\"severity\":\"error\",\"code\":\"MW1001\",\"file\":\"a.yaml\",\"line\":1",
    )
    .await;
    check("/api/v1/proxies", "200", "[]").await;
    check("/api/v1/edges", "200", "[]").await;
    check("/api/v1/topology", "200", "\"trust_domain\":\"mesh.local\"").await;
    check("/api/v1/diagram", "200", "flowchart").await;
    check("/api/v1/config", "200", "\"services\":[]").await;
    check("/api/v1/explain", "400", "who asks what?").await;
    check("/api/v1/explain?from=web&to=cart", "400", "there is no workload web").await;
    check("/api/v1/explain?from=web&to=cart&x=1", "400", "there is no parameter x").await;
    check("/api/v2", "404", "nothing here").await;
}

#[tokio::test]
async fn a_page_of_another_host_is_not_answered() {
    let (_dir, address) = start().await;
    for (host, status) in [
        ("127.0.0.1:15040", "200"),
        ("[::1]:15040", "200"),
        ("[::1]", "200"),
        ("localhost", "200"),
        ("evil.example:15040", "403"),
        ("localhost.evil.example", "403"),
        ("", "403"),
    ] {
        let answer = get(address, host, "/ready").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
}

/// The API as one asker meets it, without a network.
struct Asker {
    router: Router,
    token: Option<String>,
}

impl Asker {
    fn open(dir: &std::path::Path) -> (Api, Self) {
        let api = api(dir, ([127, 0, 0, 1], 0).into());
        let token = std::fs::read_to_string(dir.join("api.token")).expect("a token");
        (api.clone(), Self { router: router(api), token: Some(token) })
    }

    fn with(&self, token: Option<String>) -> Self {
        Self { router: self.router.clone(), token }
    }

    async fn ask(&self, method: &str, path: &str, body: impl Into<axum::body::Body>) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(body.into()).expect("a request");
        tower::ServiceExt::oneshot(self.router.clone(), request).await.expect("answered")
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let response = self.ask(method, path, body.to_string()).await;
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        (status, serde_json::from_slice(&bytes).expect("JSON"))
    }

    async fn apply(&self, text: &str) -> (u16, Value) {
        self.json("POST", APPLY, &json!({"sources": [{"name": "shop.yaml", "text": text}], "note": "n"}))
            .await
    }
}

const APPLY: &str = "/apis/meshwork.dev/v1alpha1/apply";
const CART: &str = "/api/v1/namespaces/shop/services/cart";

fn service(name: &str, namespace: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
    })
    .to_string()
}

#[tokio::test]
async fn config_is_applied_got_listed_and_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    let (status, answer) = admin.apply(&service("cart", "shop")).await;
    assert_eq!(
        (status, &answer["revision"], &answer["changes"][0]["action"]),
        (200, &1.into(), &"created".into())
    );
    let (status, object) = admin.json("GET", CART, &Value::Null).await;
    assert_eq!((status, &object["metadata"]["resourceVersion"]), (200, &"1".into()), "{object}");
    for path in ["/api/v1/namespaces/shop/services", "/api/v1/services"] {
        let (_, list) = admin.json("GET", path, &Value::Null).await;
        assert_eq!((&list["kind"], &list["items"][0]), (&"ServiceList".into(), &object), "{path}");
        assert_eq!(list["metadata"]["resourceVersion"], "1");
    }
    let (_, revisions) =
        admin.json("GET", "/apis/meshwork.dev/v1alpha1/revisions?limit=5", &Value::Null).await;
    let [first] = &revisions["items"].as_array().expect("items")[..] else { panic!("one") };
    assert_eq!((&first["note"], &first["by"]), (&"n".into(), &"the token in api.token".into()));
    let (_, revision) = admin.json("GET", "/apis/meshwork.dev/v1alpha1/revisions/1", &Value::Null).await;
    assert_eq!(revision["changes"][0]["after"]["spec"]["ports"][0]["port"], 80);
    let (status, put) = admin.json("PUT", CART, &object).await;
    assert_eq!((status, &put), (200, &object));
    let (status, _) = admin.json("DELETE", &format!("{CART}?dryRun=All"), &Value::Null).await;
    assert_eq!((status, admin.json("GET", CART, &Value::Null).await.0), (200, 200));
    let (status, _) = admin.json("DELETE", CART, &Value::Null).await;
    assert_eq!((status, admin.json("GET", CART, &Value::Null).await.0), (200, 404));
    let body = json!({"revision": 1, "note": "back"});
    let (status, answer) = admin.json("POST", "/apis/meshwork.dev/v1alpha1/rollback", &body).await;
    assert_eq!(
        (status, &answer["revision"], &answer["changes"][0]["action"]),
        (200, &3.into(), &"created".into())
    );
    let (_, status) = admin.json("GET", "/apis/meshwork.dev/v1alpha1/status", &Value::Null).await;
    assert_eq!((&status["revision"], &status["proxies"]), (&3.into(), &json!([])));
    let body = json!({"resources": [{"kind": "Service", "namespace": "shop", "name": "cart"}]});
    let (status, answer) = admin.json("POST", "/apis/meshwork.dev/v1alpha1/delete", &body).await;
    assert_eq!((status, &answer["changes"][0]["action"]), (200, &"deleted".into()));
    let audit = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("written");
    let actions: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let actions: Vec<&str> = actions.iter().filter_map(|line| line["action"].as_str()).collect();
    assert_eq!(actions, ["apply", "put", "delete", "rollback", "delete"]);
}

#[tokio::test]
async fn kinds_are_found_by_those_who_do_not_know_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    let check = async |path: &str, expected: &str| {
        let (status, answer) = admin.json("GET", path, &Value::Null).await;
        assert_eq!((status, answer.to_string().contains(expected)), (200, true), "{path}: {answer}");
    };
    check("/api", "\"v1\"").await;
    check("/api/v1", "\"services\"").await;
    check("/apis", "\"gateway.networking.k8s.io/v1\"").await;
    check("/apis/security.istio.io", "\"security.istio.io/v1\"").await;
    check("/apis/gateway.networking.k8s.io/v1", "\"httproutes\"").await;
    // The group of config as a whole has kinds, too.
    check("/apis/meshwork.dev/v1alpha1", "\"trafficpolicies\"").await;
    check("/apis/meshwork.dev/v1alpha1/trafficpolicies", "TrafficPolicyList").await;
    check("/apis/meshwork.dev/v1alpha1/namespaces/shop/trafficpolicies", "TrafficPolicyList").await;
    check("/api/v1/namespaces", "NamespaceList").await;
    assert_eq!(admin.json("GET", "/apis/none.example", &Value::Null).await.0, 404);
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_one_shape() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    let check = async |method: &str, path: &str, body: &Value, status: u16, expected: &str| {
        let (found, answer) = admin.json(method, path, body).await;
        let error = answer["error"].as_str().expect("an error");
        assert_eq!((found, error.contains(expected)), (status, true), "{method} {path}: {answer}");
        assert_eq!((&answer["kind"], &answer["code"]), (&"Status".into(), &status.into()));
        answer
    };
    let text = |text: &str| json!({"sources": [{"name": "a.yaml", "text": text}]});
    let answer = check("POST", APPLY, &text("a: ["), 422, "nothing is changed").await;
    assert_eq!(
        (&answer["problems"][0]["file"], &answer["problems"][0]["line"]),
        (&"a.yaml".into(), &1.into())
    );
    check("POST", APPLY, &text(&"[".repeat(100_000)), 422, "nothing is changed").await;
    check("POST", APPLY, &text(&" ".repeat(5 << 20)), 413, "at most").await;
    check("POST", APPLY, &text(&" ".repeat(17 << 20)), 413, "").await;
    check("POST", APPLY, &json!({"sources": "x"}), 400, "not understood").await;
    check("POST", APPLY, &json!({"sources": [], "force": true}), 400, "force").await;
    check("POST", &format!("{APPLY}?dryRun=Some"), &text(""), 400, "dryRun").await;
    check("GET", "/api/v1/namespaces/shop/pods/x", &Value::Null, 404, "no kind pods").await;
    check("GET", "/apis/networking.k8s.io/v1/ingresses", &Value::Null, 404, "no kind").await;
    check("GET", CART, &Value::Null, 404, "no Service/shop/cart").await;
    check("DELETE", CART, &Value::Null, 404, "no Service/shop/cart").await;
    let other: Value = serde_json::from_str(&service("web", "shop")).expect("JSON");
    check("PUT", CART, &other, 400, "Service/shop/web").await;
    check("GET", "/apis/meshwork.dev/v1alpha1/revisions/7", &Value::Null, 404, "revision 7").await;
    check("GET", "/apis/meshwork.dev/v1alpha1/revisions/x", &Value::Null, 400, "number").await;
    check("POST", "/apis/meshwork.dev/v1alpha1/rollback", &json!({"revision": 9}), 404, "revision 9").await;
    check("GET", "/nothing", &Value::Null, 404, "nothing here").await;
    let unknown = admin.with(Some("mwa_0".to_owned())).json("GET", "/api/v1/problems", &Value::Null).await;
    assert_eq!((unknown.0, &unknown.1["reason"]), (401, &"Unauthorized".into()));
}

fn registration(namespace: &str) -> String {
    json!({
        "apiVersion": "meshwork.dev/v1alpha1", "kind": "WorkloadRegistration",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"serviceAccount": "web", "agents": ["shop/host-agent"], "selectors": {"uid": 1000}},
    })
    .to_string()
}

#[tokio::test]
async fn everybody_writes_only_what_is_theirs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    let body = json!({"name": "ci", "grants": [{"role": "editor", "namespaces": ["shop"]}]});
    let tokens = "/apis/meshwork.dev/v1alpha1/tokens";
    let (status, made) = admin.json("POST", tokens, &body).await;
    assert_eq!(status, 200, "{made}");
    let editor = admin.with(made["token"].as_str().map(str::to_owned));
    assert_eq!(editor.json("POST", tokens, &body).await.0, 403);
    let nobody = admin.with(None);
    assert_eq!(nobody.apply(&service("cart", "shop")).await.0, 401);
    assert_eq!(nobody.json("DELETE", CART, &Value::Null).await.0, 401);
    assert_eq!(editor.apply(&service("cart", "shop")).await.0, 200);
    assert_eq!(editor.apply(&service("cart", "bank")).await.0, 403);
    let both = format!("{}\n---\n{}", service("web", "shop"), service("cart", "bank"));
    assert_eq!(editor.apply(&both).await.0, 403);
    // Who a process is, the owner of its namespace says, and nobody else.
    assert_eq!(editor.apply(&registration("bank")).await.0, 403);
    assert_eq!(editor.apply(&registration("shop")).await.0, 200);
    assert_eq!(
        admin.json("GET", "/api/v1/services", &Value::Null).await.1["items"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(admin.apply(&service("cart", "bank")).await.0, 200);
    // What they may not read is not told of, and a rollback that would change it is refused.
    assert_eq!(
        editor.json("GET", "/api/v1/services", &Value::Null).await.1["items"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(editor.json("GET", "/api/v1/namespaces/bank/services/cart", &Value::Null).await.0, 403);
    for path in ["/api/v1/config", "/api/v1/topology"] {
        let (of_all, of_shop) =
            (admin.json("GET", path, &Value::Null).await.1, editor.json("GET", path, &Value::Null).await.1);
        let counts = [&of_all, &of_shop].map(|answer| answer["services"].as_array().map(Vec::len));
        assert_eq!(counts, [Some(2), Some(1)], "{path}: {of_shop}");
    }
    let rollback = json!({"revision": 0});
    assert_eq!(editor.json("POST", "/apis/meshwork.dev/v1alpha1/rollback", &rollback).await.0, 403);
    assert_eq!(nobody.json("DELETE", CART, &Value::Null).await.0, 401);
    assert_eq!(nobody.json("GET", CART, &Value::Null).await.0, 200);
    assert_eq!(admin.json("DELETE", &format!("{tokens}/ci"), &Value::Null).await.0, 200);
    assert_eq!(editor.json("GET", CART, &Value::Null).await.0, 401);
}

#[tokio::test]
async fn nobody_says_what_becomes_of_calls_that_are_none_of_theirs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    let grants =
        json!([{"role": "editor", "namespaces": ["shop"]}, {"role": "editor", "namespaces": ["web"]}]);
    let body = json!({"name": "ci", "grants": grants});
    let (_, made) = admin.json("POST", "/apis/meshwork.dev/v1alpha1/tokens", &body).await;
    let editor = admin.with(made["token"].as_str().map(str::to_owned));
    let entry = |namespace: &str, host: &str, export: &[&str]| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "out", "namespace": namespace},
            "spec": {
                "hosts": [host], "resolution": "DNS", "exportTo": export,
                "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}],
            },
        })
        .to_string()
    };
    for text in [service("cart", "bank"), service("cart", "shop"), entry("bank", "api.bank.example", &["*"])]
    {
        assert_eq!(admin.apply(&text).await.0, 200);
    }
    // Where a host outside is, nobody tells programs of others.
    for export in [&["*"][..], &["bank"], &[".", "bank"]] {
        let (status, answer) = editor.apply(&entry("shop", "api.shop.example", export)).await;
        assert_eq!(status, 403, "{export:?}: {answer}");
    }
    assert_eq!(editor.apply(&entry("shop", "api.shop.example", &["."])).await.0, 200);
    assert_eq!(editor.apply(&entry("shop", "api.shop.example", &["shop", "web"])).await.0, 200);
    let rule = |host: &str, export: &[&str], list: &str| {
        let rules = json!([{"route": [{"destination": {"host": "cart.shop.svc.cluster.local", "port": {"number": 80}}}]}]);
        let mut text = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"hosts": [host], list: rules},
        });
        if !export.is_empty() {
            text["spec"]["exportTo"] = json!(export);
        }
        text.to_string()
    };
    let (own, foreign) = ("cart.shop.svc.cluster.local", "cart.bank.svc.cluster.local");
    let cases: [(&str, &[&str], u16); 12] = [
        (foreign, &[], 403),
        (foreign, &["*"], 403),
        (foreign, &["bank"], 403),
        (foreign, &[".", "bank"], 403),
        ("nobodys.bank.svc.cluster.local", &[], 403),
        ("api.bank.example", &[], 403),
        ("nobodys.example", &[], 403),
        (foreign, &["."], 200),
        (foreign, &["shop", "web"], 200),
        ("api.bank.example", &["."], 200),
        ("api.shop.example", &[], 200),
        (own, &[], 200),
    ];
    for (host, export, status) in cases {
        for list in ["http", "tcp"] {
            let (found, answer) = editor.apply(&rule(host, export, list)).await;
            assert_eq!(found, status, "{host} {export:?} {list}: {answer}");
            let message = answer["message"].as_str().unwrap_or_default();
            assert_eq!(message.contains("write `exportTo: [\".\"]`"), status == 403, "{answer}");
        }
    }
    assert_eq!(
        admin.apply(&rule(foreign, &[], "http")).await.0,
        200,
        "who may everything says what Istio lets them"
    );
}

#[tokio::test]
async fn the_authority_is_for_admins_and_what_they_do_is_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    let body = json!({"name": "ci", "grants": [{"role": "admin", "namespaces": ["shop"]}]});
    let (_, made) = admin.json("POST", "/apis/meshwork.dev/v1alpha1/tokens", &body).await;
    let of_shop = admin.with(made["token"].as_str().map(str::to_owned));
    let (rotation, revocations) = ("/api/v1/ca/rotation", "/api/v1/ca/revocations");
    let start = json!({"action": "start"});
    let revoke = json!({"identity": "bank/vault", "reason": "lost"});
    for (asker, status) in [(&admin.with(None), 401), (&of_shop, 403)] {
        assert_eq!(asker.json("POST", rotation, &start).await.0, status);
        assert_eq!(asker.json("POST", revocations, &revoke).await.0, status);
        let path = format!("{revocations}?identity=bank/vault");
        assert_eq!(asker.json("DELETE", &path, &Value::Null).await.0, status);
    }
    let (status, told) = admin.json("POST", rotation, &start).await;
    assert_eq!((status, told["rotation"]["running"].as_bool()), (200, Some(true)), "{told}");
    let (status, told) = admin.json("POST", revocations, &revoke).await;
    let vault = "spiffe://mesh.local/ns/bank/sa/vault";
    assert_eq!((status, told["identity"].as_str()), (200, Some(vault)), "{told}");
    // Nobody has it: it is revoked all the same, and that is said.
    assert_eq!((&told["known"], &told["holders"], &told["near"]), (&json!(false), &json!([]), &json!([])));
    assert!(told["note"].as_str().is_some_and(|note| note.contains("nobody is enrolled as")), "{told}");
    for (body, words) in [
        (json!({"identity": "x"}), "is no SPIFFE ID"),
        (json!({"identity": vault, "serial": "1"}), "either an identity or a serial number"),
        (json!({"serial": "xyz"}), "is no serial number"),
        (json!({"identity": vault, "why": "x"}), "why"),
        (json!({"identity": "meshwork-system/control-plane"}), "the control plane's own"),
    ] {
        let (status, told) = admin.json("POST", revocations, &body).await;
        assert!(status == 400 && told["message"].as_str().is_some_and(|m| m.contains(words)), "{told}");
    }
    let (status, told) = admin.json("POST", rotation, &json!({"action": "stop"})).await;
    assert_eq!(status, 400, "{told}");
    // What is in other namespaces is not told of.
    let items = async |asker: &Asker| {
        let (_, told) = asker.json("GET", revocations, &Value::Null).await;
        told["items"].as_array().map(Vec::len)
    };
    assert_eq!((items(&admin).await, items(&of_shop).await), (Some(1), Some(0)));
    let log = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("written");
    let of = |action: &str| log.lines().filter(|line| line.contains(action)).count();
    assert_eq!((of("\"rotate the root\""), of("\"revoke\"")), (1, 2), "{log}");
}

#[tokio::test]
async fn a_watch_tells_of_each_change_from_its_revision_on() {
    use tokio_stream::StreamExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let (_api, admin) = Asker::open(dir.path());
    admin.apply(&service("cart", "shop")).await;
    admin.apply(&service("cart", "bank")).await;
    let path = "/api/v1/namespaces/shop/services?watch=true&resourceVersion=1";
    let mut from_one = admin.ask("GET", path, "").await.into_body().into_data_stream();
    let path = "/api/v1/services?watch=true";
    let mut from_now = admin.ask("GET", path, "").await.into_body().into_data_stream();
    for (kind, namespace) in [("ADDED", "bank"), ("ADDED", "shop")] {
        let line = from_now.next().await.expect("a line").expect("read");
        let event: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["namespace"]),
            (&kind.into(), &namespace.into())
        );
    }
    admin.apply(&service("cart", "shop").replace(":80", ":81")).await;
    admin.json("DELETE", CART, &Value::Null).await;
    for watch in [&mut from_one, &mut from_now] {
        for (kind, revision) in [("MODIFIED", "3"), ("DELETED", "4")] {
            let line = watch.next().await.expect("a line").expect("read");
            let event: Value = serde_json::from_slice(&line).expect("JSON");
            let version = &event["object"]["metadata"]["resourceVersion"];
            assert_eq!((&event["type"], version), (&kind.into(), &revision.into()));
        }
    }
}

#[tokio::test]
async fn the_socket_needs_no_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let path = dir.path().join("api.sock");
    let socket = listen_on_socket(&path).await.expect("a socket");
    assert!(listen_on_socket(&path).await.is_err(), "it is in use");
    let api = api(dir.path(), listener.local_addr().expect("bound"));
    tokio::spawn(serve(listener, socket, api));
    let mut stream = tokio::net::UnixStream::connect(&path).await.expect("connected");
    let body = json!({"sources": [{"name": "a", "text": service("cart", "shop")}]}).to_string();
    let head = format!(
        "POST {APPLY} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"revision\":1"), "{answer}");
}
