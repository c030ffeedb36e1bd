//! The root is replaced under a mesh that goes on: by proof, abortable, whatever is killed. And who is revoked is out.

use meshwork_agent::Enrolled;
use meshwork_identity::ClientCertificate;
use meshwork_xds::{USER_AGENT, sds};
use tokio::net::UnixStream;

use super::*;

/// Short, so that renewals are spread over seconds.
const LIFETIME: Duration = Duration::from_mins(1);

/// A workload with all that a sidecar has of its identity.
struct Workload {
    enrolled: Arc<Enrolled>,
    fresh: JoinHandle<()>,
}

impl Workload {
    async fn start(mesh: &Mesh, account: &str, name: &str) -> Self {
        let token = mesh.token(account, name, &[("app", account), ("version", "v1")]);
        Self::with(mesh, name, Some(token)).await
    }

    /// Starts it with what is in its state directory, or by token.
    async fn with(mesh: &Mesh, name: &str, token: Option<String>) -> Self {
        let enrolment = Enrolment { lifetime: Some(LIFETIME), ..mesh.enrolment(name, token) };
        let enrolled = Arc::new(enrol(&enrolment).await.expect("enrolled"));
        let (of_task, workload) = (Arc::clone(&enrolled), name.to_owned());
        let fresh = tokio::spawn(async move { of_task.keep_fresh(&workload).await });
        Self { enrolled, fresh }
    }

    fn identity(&self) -> &Arc<IdentitySource> {
        &self.enrolled.identity
    }

    fn root(&self) -> Option<String> {
        self.identity().trust().root_of(self.identity().svid().chain())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.fresh.abort();
    }
}

/// A workload that follows trust, and renews its certificate only when it is told to.
struct Slow {
    identity: Arc<IdentitySource>,
    control_plane: SocketAddr,
    renewed: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Slow {
    async fn start(mesh: &Mesh, account: &str, name: &str) -> Self {
        let token = mesh.token(account, name, &[]);
        let enrolment =
            Enrolment { lifetime: Some(Duration::from_mins(10)), ..mesh.enrolment(name, Some(token)) };
        Self::resume(mesh, enrol(&enrolment).await.expect("enrolled").identity, name)
    }

    /// Comes back with what it has.
    fn resume(mesh: &Mesh, identity: Arc<IdentitySource>, name: &str) -> Self {
        let node = Node {
            id: format!("sidecar~{name}.shop"),
            user_agent: USER_AGENT.to_owned(),
            metadata: json!({"NAME": name}),
            ..Node::default()
        };
        let (renewed, of_task) = (watch::Sender::new(0), Arc::clone(&identity));
        let reconnect = renewed.subscribe();
        let address = mesh.ready.listen;
        let task = tokio::spawn(async move {
            let connect = || channel(&of_task, address, &control_plane());
            let apply = |_: &str, bytes: &[u8]| {
                let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
                let trust = meshwork_identity::Trust::from_json(text, "mesh.local");
                let done = trust.and_then(|trust| of_task.replace_trust(trust));
                done.map_err(|error| error.to_string())
            };
            sds::follow(connect, node, &["trust"], apply, reconnect).await;
        });
        Self { identity, control_plane: address, renewed, task }
    }

    /// Renews its certificate, as an agent would have by itself.
    async fn renew(&self) {
        let key = Key::generate().expect("a key");
        let csr = key.csr_pem(self.identity.id()).expect("a request");
        let request = IstioCertificateRequest { csr, validity_duration: 600, metadata: None };
        let channel = channel(&self.identity, self.control_plane, &control_plane());
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        let chain = answer.expect("renewed").into_inner().cert_chain.concat();
        let svid = Svid::from_pem_without_roots(&chain, &self.identity.bundle(), key).expect("an SVID");
        self.identity.replace_svid(svid).expect("replaced");
        self.renewed.send_modify(|count| *count += 1);
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks the API by its socket; gives status and body.
async fn call(mesh: &Mesh, method: &str, path: &str, body: &Value) -> (String, Value) {
    let socket = mesh.dir.path().join("state/api.sock");
    let mut stream = UnixStream::connect(socket).await.expect("connected");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    (status, serde_json::from_str(body).unwrap_or_default())
}

async fn rotate(mesh: &Mesh, body: &Value) -> Value {
    let (status, told) = call(mesh, "POST", "/api/v1/ca/rotation", body).await;
    assert_eq!(status, "200", "{told:#}");
    told
}

async fn authority(mesh: &Mesh) -> Value {
    serde_json::from_str(&mesh.ask("/api/v1/ca").await).expect("JSON")
}

/// Waits until the authority is as it should be; gives it.
async fn until(mesh: &Mesh, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let told = authority(mesh).await;
        if test(&told) {
            return told;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "{what}: {told:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for a step, at which these are waited for.
async fn until_step(mesh: &Mesh, step: &str, waiting: &[&str]) -> Value {
    let is_so = |told: &Value| {
        let rotation = &told["rotation"];
        let names = rotation["waiting"].as_array().map_or(&[][..], Vec::as_slice);
        let names: Vec<&str> = names.iter().filter_map(|one| one["name"].as_str()).collect();
        rotation["step"] == step && names == waiting
    };
    until(mesh, &format!("{step}, waiting for {waiting:?}"), is_so).await
}

/// Fingerprints by role.
fn roots(told: &Value) -> BTreeMap<String, String> {
    let all = told["roots"].as_array().expect("roots");
    let text = |root: &Value, name: &str| root[name].as_str().expect("a text").to_owned();
    all.iter().map(|root| (text(root, "role"), text(root, "fingerprint"))).collect()
}

/// One handshake between two workloads, from both ends.
async fn shake(client: &Arc<IdentitySource>, server: &Arc<IdentitySource>) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let connector = TlsConnector::from(client.client_config(&[server.id().clone()], &[b"h2"]));
    let acceptor =
        tokio_rustls::TlsAcceptor::from(server.server_config(&[b"h2"], ClientCertificate::Required));
    let name = ServerName::try_from("x.test").expect("a name");
    let both = async { tokio::join!(connector.connect(name, near), acceptor.accept(far)) };
    let (out, within) = both.await;
    out.map_err(|error| format!("the client: {error}"))?;
    within.map_err(|error| format!("the server: {error}"))?;
    Ok(())
}

/// Does handshakes in both directions until it is told to stop; gives how many, or the first that failed.
fn traffic(a: &Workload, b: &Workload) -> (oneshot::Sender<()>, JoinHandle<Result<usize, String>>) {
    let (stop, mut stopped) = oneshot::channel();
    let (a, b) = (Arc::clone(a.identity()), Arc::clone(b.identity()));
    let task = tokio::spawn(async move {
        let mut count = 0;
        while matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            shake(&a, &b).await?;
            shake(&b, &a).await?;
            count += 2;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(count)
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_root_is_replaced_under_traffic_and_nobody_notices() {
    let mesh = Mesh::start().await;
    let web = Workload::start(&mesh, "web", "web").await;
    let cart = Workload::start(&mesh, "cart", "cart").await;
    let clients = [
        Client::connect(&mesh, web.identity(), "web", 41000),
        Client::connect(&mesh, cart.identity(), "cart", 41001),
    ];
    clients[0].until_carts(1).await;
    let before = roots(&authority(&mesh).await);
    let (stop, traffic) = traffic(&web, &cart);

    rotate(&mesh, &json!({"action": "start"})).await;
    let done = until(&mesh, "the end", |told| told["rotation"]["running"] == false).await;
    assert_eq!(done["rotation"]["step"], "removed", "{done:#}");
    let after = roots(&done);
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before["active"], after["active"]);
    for workload in [&web, &cart] {
        assert_eq!(workload.root().as_ref(), Some(&after["active"]));
    }
    // What enrols from now on trusts it, too.
    let bundle = std::fs::read_to_string(&mesh.ready.trust_bundle).expect("the bundle");
    assert_eq!(Bundle::from_pem(&bundle).expect("valid").fingerprints(), [after["active"].clone()]);
    Workload::start(&mesh, "cart", "cart-2").await;
    drop(stop);
    let handshakes = traffic.await.expect("no panic").expect("no handshake failed");
    assert!(handshakes > 100, "{handshakes}");
    // Streams of discovery are those of before.
    assert!(mesh.ask("/metrics").await.contains("streams_total 2\n"), "{}", mesh.ask("/metrics").await);
    assert!(clients.iter().all(|client| !client.task.is_finished()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_not_ready_is_named_and_every_step_can_be_turned_back() {
    let mesh = Mesh::start().await;
    let web = Workload::start(&mesh, "web", "web").await;
    let cart = Slow::start(&mesh, "cart", "cart").await;
    // Enrolled, and gone; and one whose agent knows nothing of trust.
    let ghost = mesh.token("ghost", "ghost", &[]);
    let ghost = Enrolment { lifetime: Some(Duration::from_mins(10)), ..mesh.enrolment("ghost", Some(ghost)) };
    enrol(&ghost).await.expect("enrolled");
    let old = mesh.enrol("old", "old").await;
    let _old = Client::connect(&mesh, &old, "old", 41000);
    let before = roots(&authority(&mesh).await);

    let told = rotate(&mesh, &json!({"action": "start"})).await;
    assert_eq!(told["rotation"]["by"].as_str().map(|by| by.starts_with("uid ")), Some(true));
    let told = until_step(&mesh, "added", &["shop/ghost", "shop/old"]).await;
    let reasons: Vec<&Value> =
        told["rotation"]["waiting"].as_array().expect("some").iter().map(|one| &one["reason"]).collect();
    assert_eq!(reasons, ["offline", "unfollowing"]);
    assert_eq!(roots(&told)["active"], before["active"]);
    assert_eq!(roots(&told).len(), 2);

    // Before the switch the next root is withdrawn at once.
    rotate(&mesh, &json!({"action": "abort"})).await;
    let told = until(&mesh, "aborted", |told| told["rotation"]["running"] == false).await;
    assert_eq!((told["rotation"]["step"].as_str(), roots(&told)), (Some("aborted"), before.clone()));
    let (status, told) = call(&mesh, "POST", "/api/v1/ca/rotation", &json!({"action": "abort"})).await;
    assert_eq!(status, "409", "{told}");

    // After it, all are waited for again.
    let without = json!({"action": "start", "without": ["shop/old"], "withoutOffline": true});
    rotate(&mesh, &without).await;
    let told = until_step(&mesh, "switched", &["shop/cart"]).await;
    let next = roots(&told)["active"].clone();
    assert_eq!(roots(&told)["previous"], before["active"]);
    assert_eq!(told["rotation"]["waiting"][0]["reason"], "otherRoot");
    cart.renew().await;
    drop(cart);
    until_under(&web, &next).await;
    // It may be done by then, and then there is nothing to turn back.
    let (status, _) = call(&mesh, "POST", "/api/v1/ca/rotation", &json!({"action": "abort"})).await;
    let told = until(&mesh, "an end", |told| told["rotation"]["running"] == false).await;
    match told["rotation"]["step"].as_str() {
        Some("aborted") => assert_eq!((&*status, roots(&told)), ("200", before)),
        other => assert_eq!((other, &roots(&told)["active"]), (Some("removed"), &next)),
    }
    shake(web.identity(), web.identity()).await.expect("all is well");

    let unknown = json!({"action": "start", "without": ["shop/nobody"]});
    let (status, told) = call(&mesh, "POST", "/api/v1/ca/rotation", &unknown).await;
    assert_eq!(status, "400");
    assert!(told["message"].as_str().expect("words").contains("nobody is called \"shop/nobody\""), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_the_switch_turning_back_waits_for_everybody_again() {
    let mesh = Mesh::start().await;
    let web = Workload::start(&mesh, "web", "web").await;
    let cart = Slow::start(&mesh, "cart", "cart").await;
    let before = roots(&authority(&mesh).await);
    rotate(&mesh, &json!({"action": "start"})).await;
    let told = until_step(&mesh, "switched", &["shop/cart"]).await;
    let next = roots(&told)["active"].clone();
    until_under(&web, &next).await;

    rotate(&mesh, &json!({"action": "abort"})).await;
    let told = until(&mesh, "an end", |told| told["rotation"]["running"] == false).await;
    assert_eq!((told["rotation"]["step"].as_str(), roots(&told)), (Some("aborted"), before.clone()));
    assert_eq!(web.root().as_ref(), Some(&before["active"]));
    shake(web.identity(), &cart.identity).await.expect("all is well");
}

/// Waits until a workload has a certificate under a root.
async fn until_under(workload: &Workload, root: &str) {
    let start = Instant::now();
    while workload.root().as_deref() != Some(root) {
        assert!(start.elapsed() < DEADLINE, "it does not renew");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_control_plane_that_is_killed_goes_on_with_the_rotation() {
    let mut mesh = Mesh::start().await;
    let cart = Slow::start(&mesh, "cart", "cart").await;
    let before = roots(&authority(&mesh).await);
    rotate(&mesh, &json!({"action": "start"})).await;
    until_step(&mesh, "switched", &["shop/cart"]).await;
    let identity = Arc::clone(&cart.identity);
    drop(cart);
    mesh.restart().await;
    // Nobody is connected, and who was may come back: the control plane that was would know until when.
    let told = until_step(&mesh, "switched", &["shop/cart"]).await;
    assert_eq!(told["rotation"]["waiting"][0]["reason"], "offline");
    let cart = Slow::resume(&mesh, identity, "cart");
    let told =
        until(&mesh, "otherRoot", |told| told["rotation"]["waiting"][0]["reason"] == "otherRoot").await;
    assert_eq!(roots(&told)["previous"], before["active"]);
    cart.renew().await;
    let told = until(&mesh, "the end", |told| told["rotation"]["running"] == false).await;
    assert_eq!(told["rotation"]["step"], "removed");
    assert_eq!(roots(&told).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_revoked_is_out_within_seconds() {
    let mesh = Mesh::start().await;
    let web = Workload::start(&mesh, "web", "web").await;
    let cart = Workload::start(&mesh, "cart", "cart").await;
    let web_client = Client::connect(&mesh, web.identity(), "web", 41000);
    let cart_client = Client::connect(&mesh, cart.identity(), "cart", 41001);
    web_client.until_carts(1).await;
    shake(web.identity(), cart.identity()).await.expect("both are good");

    let start = Instant::now();
    let body = json!({"identity": "shop/cart", "reason": "its key was stolen"});
    let (status, told) = call(&mesh, "POST", "/api/v1/ca/revocations", &body).await;
    assert_eq!((&*status, told["identity"].as_str()), ("200", Some(cart.identity().id().as_str())));
    web_client.until_carts(0).await;
    while !web.identity().trust().revoked().revokes(cart.identity().id(), "") {
        assert!(start.elapsed() < DEADLINE, "peers are not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while mesh.ask("/api/v1/proxies").await.contains("\"name\":\"cart\"") {
        assert!(start.elapsed() < DEADLINE, "its stream goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let error = shake(web.identity(), cart.identity()).await.expect_err("refused");
    assert!(error.contains("revoked"), "{error}");
    let denies = |r: &Resource| format!("{r:?}").contains("name: \"revoked\"");
    web_client.until("a rule", Kind::Listener, "inbound|8080", denies).await;

    // It gets nothing any more, be it by what it has or by a new token.
    let again = Client::connect(&mesh, cart.identity(), "cart", 41001);
    let token = mesh.token("cart", "cart-2", &[]);
    let refused = enrol(&mesh.enrolment("cart-2", Some(token))).await.map(|_| ());
    assert!(
        matches!(&refused, Err(EnrolError::Refused(why)) if why.contains("its key was stolen")),
        "{refused:?}"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(again.has.lock().expect("sound").is_empty());
    let listed: Value = serde_json::from_str(&mesh.ask("/api/v1/ca/revocations").await).expect("JSON");
    assert_eq!(listed["items"][0]["reason"], "its key was stolen");
    drop((cart_client, again));

    // Taken back, it is as before.
    let path = "/api/v1/ca/revocations?identity=spiffe://mesh.local/ns/shop/sa/cart";
    assert_eq!(call(&mesh, "DELETE", path, &Value::Null).await.0, "200");
    assert_eq!(call(&mesh, "DELETE", path, &Value::Null).await.0, "404");
    let _back = Client::connect(&mesh, cart.identity(), "cart", 41001);
    web_client.until_carts(1).await;
    let own = json!({"identity": "meshwork-system/control-plane"});
    let (status, told) = call(&mesh, "POST", "/api/v1/ca/revocations", &own).await;
    assert_eq!(status, "400", "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certificate_is_revoked_by_its_number_and_not_its_siblings() {
    let mesh = Mesh::start().await;
    let (one, two) = (Slow::start(&mesh, "cart", "cart-1").await, Slow::start(&mesh, "cart", "cart-2").await);
    let serial = one.identity.svid().serial();
    let client = Client::connect(&mesh, &one.identity, "cart-1", 41001);
    let start = Instant::now();
    while !mesh.ask("/api/v1/proxies").await.contains("\"connected\":true") {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = json!({"serial": serial, "reason": "lost"});
    let (status, told) = call(&mesh, "POST", "/api/v1/ca/revocations", &body).await;
    assert_eq!(status, "200", "{told}");
    assert!(told["ends"].is_string(), "{told}");
    while mesh.ask("/api/v1/proxies").await.contains("\"connected\":true") {
        assert!(start.elapsed() < DEADLINE, "its connection goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    while !two.identity.trust().revoked().revokes(two.identity.id(), &serial) {
        assert!(start.elapsed() < DEADLINE, "peers are not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = shake(&one.identity, &two.identity).await.expect_err("refused");
    assert!(error.contains("revoked"), "{error}");
    two.renew().await;
    drop(client);
}
