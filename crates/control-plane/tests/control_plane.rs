//! A whole control plane in this process: a client enrols, is given config, and sees it change.

#[path = "control_plane/rotation.rs"]
mod rotation;
#[cfg(feature = "etcd")]
#[path = "control_plane/two.rs"]
mod two;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use meshwork_agent::{EnrolError, Enrolment, channel, enrol};
use meshwork_control_plane::store::{Store, TokenRequest};
use meshwork_control_plane::{Options, Ready, run};
use meshwork_identity::istio_ca::{IstioCertificateRequest, IstioCertificateServiceClient};
use meshwork_identity::{Bundle, IdentitySource, Key, Svid, bootstrap_client_config};
use meshwork_model::proxy::{Kind, Resource, RouteAction};
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::grpc::run_client;
use meshwork_xds::{Node, Update, client};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

/// Generous: the machine may be busy. How long things take is told by the failing test's own words.
const DEADLINE: Duration = Duration::from_secs(30);
const CATALOG: &str = "outbound|80||catalog.shop.svc.cluster.local";
const CART: &str = "outbound|80||cart.shop.svc.cluster.local";

struct Mesh {
    dir: tempfile::TempDir,
    /// The etcd that it keeps its store in, if any.
    etcd: Vec<String>,
    ready: Ready,
    task: JoinHandle<()>,
}

impl Mesh {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("config");
        std::fs::create_dir(&config).expect("made");
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        for entry in std::fs::read_dir(shop).expect("there") {
            let path = entry.expect("readable").path();
            std::fs::copy(&path, config.join(path.file_name().expect("a name"))).expect("copied");
        }
        let (ready, task) = start(dir.path()).await;
        Self { dir, etcd: Vec::new(), ready, task }
    }

    /// Ends it as `kill -9` would: without a word. Then starts it again.
    async fn restart(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        (self.ready, self.task) = start(self.dir.path()).await;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("config").join(name)
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.file(name)).expect("read");
        assert!(text.contains(from), "{name} has no {from}");
        std::fs::write(self.file(name), text.replace(from, to)).expect("written");
    }

    fn token(&self, account: &str, workload: &str, labels: &[(&str, &str)]) -> String {
        let store = Store::open_shared(&self.dir.path().join("state"), &self.etcd).expect("the store");
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request = TokenRequest {
            namespace: "shop".to_owned(),
            service_account: account.to_owned(),
            workload: workload.to_owned(),
            labels,
            ttl: Duration::from_mins(1),
        };
        store.create_token(&request).expect("a token")
    }

    fn enrolment(&self, workload: &str, token: Option<String>) -> Enrolment {
        Enrolment {
            control_plane: self.ready.listen,
            trust_bundle: self.ready.trust_bundle.clone(),
            token,
            state: self.dir.path().join(workload),
            lifetime: None,
        }
    }

    async fn enrol(&self, account: &str, workload: &str) -> Arc<IdentitySource> {
        let token = self.token(account, workload, &[("app", account), ("version", "v1")]);
        enrol(&self.enrolment(workload, Some(token))).await.expect("enrolled").identity
    }

    /// The text of an answer of the API.
    async fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.ready.api).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }
}

async fn start(dir: &Path) -> (Ready, JoinHandle<()>) {
    start_with(options(dir)).await
}

fn options(dir: &Path) -> Options {
    Options {
        config: Some(dir.join("config")),
        svid_lifetime: Duration::from_hours(1),
        ..Options::on_loopback(dir.join("state"))
    }
}

async fn start_with(options: Options) -> (Ready, JoinHandle<()>) {
    let (tell, told) = oneshot::channel();
    let task = tokio::spawn(async move {
        let ready = move |ready| drop(tell.send(ready));
        run(options, ready, std::future::pending()).await.expect("runs");
    });
    (told.await.expect("ready"), task)
}

fn control_plane() -> SpiffeId {
    SpiffeId::workload("mesh.local", "meshwork-system", "control-plane").expect("valid")
}

/// A channel of somebody who has no certificate.
fn anonymous(mesh: &Mesh) -> Channel {
    let roots = std::fs::read_to_string(&mesh.ready.trust_bundle).expect("the bundle");
    let bundle = Bundle::from_pem(&roots).expect("valid");
    let tls = TlsConnector::from(bootstrap_client_config(&bundle, &control_plane()));
    let address = mesh.ready.listen;
    let connect = move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = tls.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    Endpoint::from_shared(format!("http://{address}"))
        .expect("valid")
        .connect_with_connector_lazy(tower::service_fn(connect))
}

/// A sidecar's half of discovery: what it was given, by kind and name.
struct Client {
    has: Arc<Mutex<BTreeMap<(Kind, String), Resource>>>,
    health: watch::Sender<Option<client::Health>>,
    task: JoinHandle<()>,
}

impl Client {
    fn connect(mesh: &Mesh, identity: &Arc<IdentitySource>, name: &str, port: u16) -> Self {
        Self::connect_as(mesh, identity, name, port, &json!({}))
    }

    /// Connects with more to say of itself.
    fn connect_as(mesh: &Mesh, identity: &Arc<IdentitySource>, name: &str, port: u16, more: &Value) -> Self {
        let mut metadata = json!({
            "NAME": name,
            "NAMESPACE": "shop",
            "INBOUND": [{"port": 8080, "bind": format!("127.0.0.1:{port}"), "application": "127.0.0.1:9000"}],
            "OUTBOUND": [
                {"port": 80, "bind": "127.0.0.1:42000", "service": "catalog.shop"},
                {"port": 80, "bind": "127.0.0.1:42001", "service": "cart.shop"},
            ],
        });
        for (key, value) in more.as_object().expect("an object") {
            metadata[key] = value.clone();
        }
        let node = Node {
            id: format!("sidecar~{name}.shop"),
            user_agent: "meshwork".to_owned(),
            metadata,
            ..Node::default()
        };
        let channel = channel(identity, mesh.ready.listen, &control_plane());
        let has = Arc::new(Mutex::new(BTreeMap::new()));
        let keep = Arc::clone(&has);
        let apply = move |update: Update| {
            let mut has = keep.lock().expect("sound");
            for resource in update.upserts {
                has.insert((resource.kind(), resource.name().to_owned()), resource);
            }
            for gone in update.removed {
                has.remove(&gone);
            }
            Vec::new()
        };
        let (health, reports) = watch::channel(None);
        let task = tokio::spawn(async move {
            let _ = run_client(channel, client::Session::new(node), reports, apply, || ()).await;
        });
        Self { has, health, task }
    }

    /// Waits until it has a resource that passes a test; says how long that took.
    async fn until(&self, what: &str, kind: Kind, name: &str, test: impl Fn(&Resource) -> bool) -> Duration {
        let start = Instant::now();
        let key = (kind, name.to_owned());
        while !self.has.lock().expect("sound").get(&key).is_some_and(&test) {
            assert!(start.elapsed() < DEADLINE, "{what}: {:#?}", self.has.lock().expect("sound").get(&key));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }

    async fn until_weights(&self, expected: &[u32]) -> Duration {
        let weights = |resource: &Resource| {
            let Resource::Routes(table) = resource else { return Vec::new() };
            let RouteAction::Forward(forward) = &table.hosts()[0].routes.last().expect("one").action else {
                return Vec::new();
            };
            forward.clusters.iter().map(|c| c.weight).collect::<Vec<u32>>()
        };
        self.until("weights", Kind::Routes, CATALOG, |r| weights(r) == expected).await
    }

    /// Waits until it finds a name; gives its addresses.
    async fn until_name(&self, name: &str) -> Vec<IpAddr> {
        let found = |resource: &Resource| match resource {
            Resource::Names(table) => table.names.get(name).cloned(),
            _ => None,
        };
        self.until(name, Kind::Listener, "names", |resource| found(resource).is_some()).await;
        let has = self.has.lock().expect("sound");
        has.get(&(Kind::Listener, "names".to_owned())).and_then(found).expect("found")
    }

    async fn until_carts(&self, count: usize) -> Duration {
        let carts = |resource: &Resource| match resource {
            Resource::Endpoints(endpoints) => endpoints.endpoints.len() == count,
            _ => false,
        };
        self.until("endpoints of the cart", Kind::Endpoints, CART, carts).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_that_changes_is_live_and_broken_config_is_refused() {
    let mesh = Mesh::start().await;
    let web = mesh.enrol("web", "web").await;
    let client = Client::connect(&mesh, &web, "web", 41000);
    client.until_weights(&[90, 10]).await;
    let inbound = |r: &Resource| matches!(r, Resource::Listener(l) if l.chains[0].tls.is_some());
    client.until("the inbound listener", Kind::Listener, "inbound|8080", inbound).await;

    mesh.edit("catalog.yaml", "weight: 90", "weight: 50");
    let took = client.until_weights(&[50, 10]).await;
    assert!(took < Duration::from_secs(5), "a change took {took:?}");

    mesh.edit("catalog.yaml", "weight: 50", "wieght: 50");
    let start = Instant::now();
    let mut problems = String::new();
    while !problems.contains("Did you mean `weight`?") {
        assert!(start.elapsed() < DEADLINE, "{problems}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        problems = mesh.ask("/api/v1/problems").await;
    }
    client.until_weights(&[50, 10]).await;

    mesh.edit("catalog.yaml", "wieght: 50", "weight: 20");
    client.until_weights(&[20, 10]).await;
    assert_eq!(mesh.ask("/api/v1/problems").await, "[]");
    let start = Instant::now();
    while !mesh.ask("/api/v1/proxies").await.contains("\"current\":true") {
        assert!(start.elapsed() < DEADLINE, "{}", mesh.ask("/api/v1/proxies").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(mesh.ask("/api/v1/diagram").await.contains("web"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_come_and_go_with_workloads_and_survive_a_restart() {
    let mut mesh = Mesh::start().await;
    let web = mesh.enrol("web", "web").await;
    let cart = mesh.enrol("cart", "cart").await;
    let web_client = Client::connect(&mesh, &web, "web", 41000);
    web_client.until_carts(0).await;
    let cart_client = Client::connect(&mesh, &cart, "cart", 41001);
    web_client.until_carts(1).await;

    // The lease is on disk before the crash, or the crash would be of no interest here.
    let start = Instant::now();
    let store = || Store::open(&mesh.dir.path().join("state")).expect("the store");
    while store().lease_count().expect("read") < 2 {
        assert!(start.elapsed() < DEADLINE, "leases are not kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop((web_client, cart_client));
    mesh.restart().await;
    // The cart has not come back yet, and nobody misses it.
    let web_client = Client::connect(&mesh, &web, "web", 41000);
    web_client.until_carts(1).await;
    let cart_client = Client::connect(&mesh, &cart, "cart", 41001);
    let start = Instant::now();
    while mesh.ask("/api/v1/proxies").await.matches("\"connected\":true").count() < 2 {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(cart_client);
    web_client.until_carts(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captured_workload_finds_names_whose_addresses_outlive_restarts_and_config() {
    let capture = json!({
        "CAPTURE": {"outbound": ["127.0.0.1:15001", "[::1]:15001"], "names": "127.0.0.1:15053"}
    });
    let mut mesh = Mesh::start().await;
    let token = mesh.token("till", "till-1", &[("meshwork.dev/service", "till")]);
    let till = enrol(&mesh.enrolment("till", Some(token))).await.expect("enrolled").identity;
    let web = mesh.enrol("web", "web").await;
    let client = Client::connect_as(&mesh, &web, "web", 41000, &capture);
    let _till = Client::connect(&mesh, &till, "till-1", 41001);
    let names = ["till", "cart.shop", "till-1.till.shop.svc.cluster.local", "web.shop.pod.cluster.local"];
    let mut first = Vec::new();
    for name in names {
        first.push(client.until_name(name).await);
    }
    let listener =
        |r: &Resource| matches!(r, Resource::Listener(l) if l.address.map(|a| a.ip()) == Some(first[0][0]));
    client.until("a listener", Kind::Listener, "captured|8080|till.shop.svc.cluster.local", listener).await;

    let cart = std::fs::read(mesh.file("cart.yaml")).expect("read");
    std::fs::remove_file(mesh.file("cart.yaml")).expect("removed");
    let gone = |r: &Resource| matches!(r, Resource::Names(table) if !table.names.contains_key("cart.shop"));
    client.until("no cart", Kind::Listener, "names", gone).await;
    drop(client);
    mesh.restart().await;
    std::fs::write(mesh.file("cart.yaml"), cart).expect("written");
    let client = Client::connect_as(&mesh, &web, "web", 41000, &capture);
    for (name, addresses) in names.into_iter().zip(first) {
        assert_eq!(client.until_name(name).await, addresses, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_is_called_while_it_is_ready_and_no_more_once_it_leaves() {
    let mesh = Mesh::start().await;
    let (web, cart) = (mesh.enrol("web", "web").await, mesh.enrol("cart", "cart").await);
    let web = Client::connect(&mesh, &web, "web", 41000);
    let cart = Client::connect_as(&mesh, &cart, "cart", 41001, &json!({"HEALTH": "probed"}));
    let start = Instant::now();
    while !mesh.ask("/api/v1/problems").await.contains("its readiness probe has not passed yet") {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    web.until_carts(0).await;
    cart.health.send_replace(Some(client::Health::Ready));
    web.until_carts(1).await;
    cart.health.send_replace(Some(client::Health::Unready("503".into())));
    web.until_carts(0).await;
    assert!(mesh.ask("/api/v1/proxies").await.contains("\"ready\":false,\"unready\":\"503\""));
    cart.health.send_replace(Some(client::Health::Ready));
    web.until_carts(1).await;
    cart.health.send_replace(Some(client::Health::Leaving));
    web.until_carts(0).await;
    let start = Instant::now();
    while !cart.task.is_finished() {
        assert!(start.elapsed() < DEADLINE, "it is not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!mesh.ask("/api/v1/topology").await.contains("sa/cart"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_config_at_the_start_gives_way_to_the_last_good() {
    let mut mesh = Mesh::start().await;
    let web = mesh.enrol("web", "web").await;
    std::fs::write(mesh.file("catalog.yaml"), "kind: [").expect("written");
    mesh.restart().await;
    let client = Client::connect(&mesh, &web, "web", 41000);
    client.until_weights(&[90, 10]).await;
    assert!(mesh.ask("/api/v1/problems").await.contains("not valid YAML"));

    let fresh = tempfile::tempdir().expect("a directory");
    let options = Options { state: fresh.path().join("state"), ..options(mesh.dir.path()) };
    let error = run(options.clone(), |_| (), std::future::pending()).await.expect_err("refused").to_string();
    assert!(error.contains("catalog.yaml:1:"), "{error}");
    let public = Options { api: "0.0.0.0:0".parse().expect("valid"), ..options.clone() };
    let error = run(public, |_| (), std::future::pending()).await.expect_err("refused").to_string();
    assert!(error.contains("loopback"), "{error}");
    let shared = Options { state: mesh.dir.path().join("state"), ..options };
    let error = run(shared, |_| (), std::future::pending()).await.expect_err("refused").to_string();
    assert!(error.contains("another control plane"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_workload_in_once() {
    let mesh = Mesh::start().await;
    let token = mesh.token("cart", "cart", &[("app", "cart")]);
    let enrolled = enrol(&mesh.enrolment("cart", Some(token.clone()))).await.expect("enrolled");
    assert_eq!(enrolled.identity.id().as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
    for bad in [token, "mwt_0".to_owned()] {
        let refused = enrol(&mesh.enrolment("thief", Some(bad))).await;
        assert!(matches!(refused, Err(EnrolError::Refused(_))), "let in");
    }
    // With the identity of the cart, nobody is the web.
    let client = Client::connect(&mesh, &enrolled.identity, "web", 41000);
    let start = Instant::now();
    while !mesh.ask("/metrics").await.contains("streams_denied_total 1\n") {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(client.has.lock().expect("sound").is_empty());
    assert_eq!(mesh.ask("/api/v1/proxies").await, "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_buys_the_next_and_nothing_buys_none() {
    let mesh = Mesh::start().await;
    let cart = mesh.enrol("cart", "cart").await;
    let ask = async |channel: Channel, key: &Key, name: Option<&str>| {
        let csr = match name {
            None => key.unnamed_csr_pem(),
            Some(name) => key.csr_pem(&SpiffeId::workload("mesh.local", "shop", name).expect("valid")),
        };
        let request =
            IstioCertificateRequest { csr: csr.expect("a request"), validity_duration: 60, metadata: None };
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        answer.map(|answer| answer.into_inner().cert_chain.concat()).map_err(|status| status.code())
    };
    let renewing = || channel(&cart, mesh.ready.listen, &control_plane());
    let key = Key::generate().expect("a key");
    let chain = ask(renewing(), &key, None).await.expect("renewed");
    let svid = Svid::from_pem(&chain, key).expect("an SVID");
    assert_eq!(svid.id(), cart.id());
    let life = svid.not_after().duration_since(svid.not_before()).expect("positive");
    assert!(life <= Duration::from_mins(3), "{life:?}");

    let key = Key::generate().expect("a key");
    assert_eq!(ask(renewing(), &key, Some("web")).await, Err(Code::InvalidArgument));
    assert_eq!(ask(anonymous(&mesh), &key, Some("cart")).await, Err(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_and_telemetry_are_for_those_who_prove_an_identity() {
    let mesh = Mesh::start().await;
    for path in [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    ] {
        let mut grpc = tonic::client::Grpc::new(anonymous(&mesh));
        grpc.ready().await.expect("connected");
        // Any message will do: nobody may look at it.
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let status = grpc.unary(tonic::Request::new(()), path.parse().expect("a path"), codec).await;
        assert_eq!(status.expect_err("refused").code(), Code::Unauthenticated, "{path}");
    }
}
