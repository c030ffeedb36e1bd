//! The agent over a real socket: this process is the workload.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meshwork_identity::workload_api::{
    JwtBundlesRequest, JwtSvidRequest, SpiffeWorkloadApiClient, ValidateJwtSvidRequest, X509BundlesRequest,
    X509SvidRequest, X509SvidResponse,
};
use meshwork_identity::{Revocations, SpiffeId, Trust};
use meshwork_xds::sds::SecretValue;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::*;
use crate::enrol;
use crate::fixture::{Behaviour, ControlPlane, LONG, id, until};

const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";
const ADMIN: &str = "spiffe://mesh.local/ns/shop/sa/admin";

struct Agent {
    control_plane: ControlPlane,
    enrolled: Arc<Enrolled>,
    socket: Socket,
    task: JoinHandle<Result<(), SocketError>>,
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn registration(id: &str, name: &str, selectors: &Value) -> Value {
    json!({"id": id, "namespace": "shop", "name": name, "selectors": selectors, "hint": name})
}

impl Agent {
    async fn start(registrations: &Value) -> Self {
        let control_plane = ControlPlane::start().await;
        control_plane.publish();
        control_plane.signer.registrations(registrations);
        let enrolled = Arc::new(enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled"));
        let socket = Socket { path: control_plane.dir.path().join("run/agent.sock"), mode: 0o600 };
        let (serving, of) = (Arc::clone(&enrolled), socket.clone());
        let task =
            tokio::spawn(
                async move { serve_host(serving, "agent-1", &of, || (), std::future::pending()).await },
            );
        until("the socket is there", || socket.path.exists()).await;
        Self { control_plane, enrolled, socket, task }
    }

    fn channel(&self) -> Channel {
        let path = self.socket.path.clone();
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://agent").connect_with_connector_lazy(connector)
    }

    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ids(response: &X509SvidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

async fn next<T>(stream: &mut tonic::Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(LONG, stream.message()).await.expect("in time")?;
    Ok(message.expect("not the end"))
}

#[tokio::test]
async fn a_workload_gets_the_certificates_of_all_its_registrations() {
    let agent = Agent::start(&json!([
        registration(CART, "cart", &json!({"uid": uid()})),
        registration(ADMIN, "admin", &json!({"uid": uid(), "gid": rustix::process::getegid().as_raw()})),
        registration("spiffe://mesh.local/ns/shop/sa/other", "other", &json!({"uid": uid() + 1})),
    ]))
    .await;
    let mut stream = agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    let response = next(&mut stream).await.expect("certificates");
    assert_eq!(ids(&response), [ADMIN, CART], "by name");
    assert_eq!(response.svids[1].hint, "cart");
    let roots = agent.control_plane.signer.authority.bundle();
    assert_eq!(response.svids[0].bundle, roots.certificates()[0].as_ref());
    // The agent's state has its own key and no other.
    let state = agent.control_plane.dir.path().join("web");
    let files: Vec<_> =
        std::fs::read_dir(state).expect("there").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(files.len(), 4, "identity, trust, lock and which token was tried: {files:?}");
}

#[tokio::test]
async fn a_hint_is_told_once_in_an_answer() {
    let hinted = |id: &str, name: &str| {
        let mut one = registration(id, name, &json!({"uid": uid()}));
        one["hint"] = json!("internal");
        one
    };
    let agent = Agent::start(&json!([hinted(CART, "cart"), hinted(ADMIN, "admin")])).await;
    let mut client = agent.client();
    let mut stream = client.fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    let response = next(&mut stream).await.expect("certificates");
    let told: Vec<_> = response.svids.iter().map(|one| (one.spiffe_id.as_str(), one.hint.as_str())).collect();
    assert_eq!(told, [(ADMIN, "internal"), (CART, "")]);
    let asked =
        |spiffe_id: &str| JwtSvidRequest { audience: vec!["db".to_owned()], spiffe_id: spiffe_id.to_owned() };
    let all = client.fetch_jwt_svid(asked("")).await.expect("tokens").into_inner();
    assert_eq!(all.svids.iter().map(|one| one.hint.as_str()).collect::<Vec<_>>(), ["internal", ""]);
    let one = client.fetch_jwt_svid(asked(CART)).await.expect("a token").into_inner();
    assert_eq!(one.svids[0].hint, "internal", "nobody else has it here");
}

#[tokio::test]
async fn a_process_without_registration_gets_nothing_but_the_reason() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid() + 1}))])).await;
    let mut client = agent.client();
    let mut stream = client.fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    assert_eq!(next(&mut stream).await.expect_err("nobody").code(), Code::PermissionDenied);
    let mut stream = client.fetch_x509_bundles(X509BundlesRequest {}).await.expect("open").into_inner();
    assert_eq!(next(&mut stream).await.expect_err("nobody").code(), Code::PermissionDenied);
    let asked = JwtSvidRequest { audience: vec!["x".to_owned()], spiffe_id: CART.to_owned() };
    assert_eq!(client.fetch_jwt_svid(asked).await.expect_err("nobody").code(), Code::PermissionDenied);
    let asked = ValidateJwtSvidRequest { audience: "x".to_owned(), svid: "y".to_owned() };
    assert_eq!(client.validate_jwt_svid(asked).await.expect_err("nobody").code(), Code::PermissionDenied);
    assert_eq!(agent.control_plane.signer.asked.lock().expect("whole").len(), 1, "only its own");
}

#[tokio::test]
async fn a_stream_follows_registrations_and_ends_when_none_is_left() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    let mut stream = agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    assert_eq!(ids(&next(&mut stream).await.expect("one")), [CART]);
    agent.control_plane.signer.registrations(&json!([
        registration(CART, "cart", &json!({"uid": uid()})),
        registration(ADMIN, "admin", &json!({"uid": uid()})),
    ]));
    assert_eq!(ids(&next(&mut stream).await.expect("two")), [ADMIN, CART]);
    agent.control_plane.signer.registrations(&json!([registration(CART, "cart", &json!({"uid": 77_777}))]));
    let end = next(&mut stream).await.expect_err("nobody any more");
    assert_eq!(
        (end.code(), end.message()),
        (Code::PermissionDenied, "no registration is about this process")
    );
}

#[tokio::test]
async fn a_stream_follows_a_rotation_of_the_root() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    *agent.control_plane.signer.lifetime.lock().expect("whole") = Duration::from_secs(40);
    let mut stream = agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    let first = next(&mut stream).await.expect("one");
    let authority = &agent.control_plane.signer.authority;
    let next_root = authority.add_root().expect("added");
    agent.control_plane.publish();
    let second = next(&mut stream).await.expect("both roots");
    assert!(second.svids[0].bundle.len() > first.svids[0].bundle.len());
    assert_eq!(second.svids[0].x509_svid, first.svids[0].x509_svid);
    authority.switch(&next_root).expect("switched");
    agent.control_plane.publish();
    let mut third = next(&mut stream).await.expect("the issuing root first");
    while third.svids[0].x509_svid == first.svids[0].x509_svid {
        third = next(&mut stream).await.expect("a certificate under the new root");
    }
    assert_eq!(third.svids[0].bundle.len(), second.svids[0].bundle.len());
}

#[tokio::test]
async fn a_revoked_identity_is_nobody() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    let mut stream = agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    next(&mut stream).await.expect("one");
    let trust = Trust::new(agent.control_plane.signer.authority.bundle());
    agent.control_plane.signer.trust(trust.with_revoked(Revocations::new([id(CART)], [])));
    let end = next(&mut stream).await.expect_err("nobody");
    assert_eq!(end.message(), "the identity of this process is revoked");
}

#[tokio::test]
async fn what_the_control_plane_does_not_sign_is_told_to_the_workload() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    agent.control_plane.behaves(Behaviour::Down);
    let mut stream = agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    let end = next(&mut stream).await.expect_err("none");
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("answers, but does not sign now: down"), "{end}");
    agent.control_plane.behaves(Behaviour::Good);
    // It is tried again by itself; a client asks again, too.
    let found = tokio::time::timeout(LONG, async {
        loop {
            let mut stream =
                agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
            if let Ok(found) = next(&mut stream).await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(ids(&found.await.expect("in time")), [CART]);
}

#[tokio::test]
async fn tokens_are_for_one_audience_kept_and_verified() {
    let agent = Agent::start(&json!([
        registration(CART, "cart", &json!({"uid": uid()})),
        registration(ADMIN, "admin", &json!({"uid": uid()})),
    ]))
    .await;
    let mut client = agent.client();
    let asked = |audience: &[&str], spiffe_id: &str| JwtSvidRequest {
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    };
    let all = client.fetch_jwt_svid(asked(&["db"], "")).await.expect("tokens").into_inner();
    assert_eq!(all.svids.iter().map(|one| one.spiffe_id.as_str()).collect::<Vec<_>>(), [ADMIN, CART]);
    let one = client.fetch_jwt_svid(asked(&["db"], CART)).await.expect("a token").into_inner();
    assert_eq!(one.svids[0].svid, all.svids[1].svid, "kept");
    let other = client.fetch_jwt_svid(asked(&["queue"], CART)).await.expect("a token").into_inner();
    assert_ne!(other.svids[0].svid, one.svids[0].svid);
    let validate = |audience: &str, token: &str| ValidateJwtSvidRequest {
        audience: audience.to_owned(),
        svid: token.to_owned(),
    };
    let found =
        client.validate_jwt_svid(validate("db", &one.svids[0].svid)).await.expect("good").into_inner();
    assert_eq!(found.spiffe_id, CART);
    assert!(found.claims.expect("claims").fields.contains_key("exp"));
    let refusal =
        client.validate_jwt_svid(validate("queue", &one.svids[0].svid)).await.expect_err("for another");
    assert_eq!(refusal.code(), Code::InvalidArgument);
    for bad in [asked(&[], CART), asked(&[""], CART)] {
        let refusal = client.fetch_jwt_svid(bad).await.expect_err("for nobody");
        assert_eq!(refusal.code(), Code::InvalidArgument);
    }
    let refusal = client.fetch_jwt_svid(asked(&["db"], "spiffe://mesh.local/ns/shop/sa/web")).await;
    assert_eq!(refusal.expect_err("the agent's own").code(), Code::PermissionDenied);
    let mut stream = client.fetch_jwt_bundles(JwtBundlesRequest {}).await.expect("open").into_inner();
    let bundles = next(&mut stream).await.expect("keys").bundles;
    let keys: Value = serde_json::from_slice(&bundles["spiffe://mesh.local"]).expect("JSON");
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_token_whose_key_is_trusted_no_more_is_not_given_again() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    let mut client = agent.client();
    let asked = || JwtSvidRequest { audience: vec!["db".to_owned()], spiffe_id: String::new() };
    let first = client.fetch_jwt_svid(asked()).await.expect("a token").into_inner();
    let authority = &agent.control_plane.signer.authority;
    let issuer = authority.issuer().root;
    let next_root = authority.add_root().expect("added");
    agent.control_plane.publish();
    until("both are trusted", || agent.enrolled.identity.bundle().fingerprints().len() == 2).await;
    let again = client.fetch_jwt_svid(asked()).await.expect("a token").into_inner();
    assert_eq!(again.svids[0].svid, first.svids[0].svid, "it is still good");
    authority.switch(&next_root).expect("switched");
    authority.remove_previous(&issuer).expect("removed");
    agent.control_plane.renew();
    agent.control_plane.publish();
    until("one is left", || agent.enrolled.identity.bundle().fingerprints() == [&*next_root]).await;
    // Whether the control plane still takes the agent, whose own is under the earlier root, is another matter.
    match client.fetch_jwt_svid(asked()).await {
        Ok(third) => assert_ne!(third.into_inner().svids[0].svid, first.svids[0].svid),
        Err(refusal) => assert_eq!(refusal.code(), Code::Unavailable, "{refusal}"),
    }
}

#[tokio::test]
async fn one_of_another_identity_asked_for_by_the_agent_is_refused_by_the_control_plane() {
    let agent = Agent::start(&json!([])).await;
    let workloads = Workloads::new(Arc::clone(&agent.enrolled), watch::Sender::new(0));
    let hold = workloads.hold(&id(CART)).expect("held");
    let mut found = None;
    until("it is refused", || {
        found = match hold.state() {
            workloads::State::Failed(why) => Some(why),
            _ => None,
        };
        found.is_some()
    })
    .await;
    let words = found.expect("refused");
    assert!(words.contains("no registration lets spiffe://mesh.local/ns/shop/sa/web ask for"), "{words}");
}

#[tokio::test]
async fn envoy_gets_its_secrets_by_spires_names() {
    use meshwork_xds::sds::SecretSource as _;
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    // As a stream of Envoy's sees it, without its wire.
    let host = Host::new(
        Arc::clone(&agent.enrolled),
        Some(Registrations::new(vec![Registration {
            namespace: "shop".into(),
            name: "cart".into(),
            id: id(CART),
            selectors: UnixSelectors { uid: Some(uid()), ..UnixSelectors::default() },
            hint: None,
        }])),
    );
    let secrets = secrets::Secrets(Arc::clone(&host));
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let attestor: Arc<dyn Attestor> = Arc::new(UnixAttestor::default());
    let peer = crate::UnixPeer::of(&ours).expect("this process");
    let selectors = attestor.attest(&peer).expect("attested");
    let counted = host.counts.connection(uid()).expect("one");
    let now = std::time::SystemTime::now();
    let mut extensions = tonic::Extensions::new();
    extensions.insert(Arc::new(Caller::new(peer, selectors, now, attestor, counted)));
    let envoy = secrets.admit(&extensions, &meshwork_xds::Node::default()).expect("let in");
    let all = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        secrets.secrets(&envoy, &names)
    };
    until("the certificate is there", || all(&["default"]).len() == 1).await;
    let names =
        ["default", CART, "ROOTCA", "ALL", "spiffe://mesh.local", "spiffe://other.org", "nobody", ADMIN];
    let found = all(&names);
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), &names[..5]);
    for (name, value) in &found {
        let is_certificate = matches!(value, SecretValue::Certificate { .. });
        assert_eq!(is_certificate, [CART, "default"].contains(&name.as_str()), "{name}");
    }
    assert_eq!(
        all(&[]).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [CART, "spiffe://mesh.local"]
    );
    // The registration goes: the stream is let go.
    let watching = Arc::clone(&host);
    let task = tokio::spawn(async move { secrets::watch(&watching).await });
    let mut changes = secrets.changes(&envoy);
    tokio::task::yield_now().await;
    host.register(b"[]").expect("none");
    assert!(tokio::time::timeout(LONG, changes.changed()).await.expect("in time").is_err());
    assert!(all(&names).is_empty());
    assert!(secrets.admit(&extensions, &meshwork_xds::Node::default()).is_err());
    task.abort();
}

#[tokio::test]
async fn its_user_sees_what_it_holds() {
    let agent = Agent::start(&json!([registration(CART, "cart", &json!({"uid": uid()}))])).await;
    let mut stream = agent.client().fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
    next(&mut stream).await.expect("one");
    let found = status(&agent.socket.path).await.expect("told");
    assert_eq!(found["identity"]["id"], json!("spiffe://mesh.local/ns/shop/sa/web"));
    assert_eq!(found["registrations"], json!(1));
    assert_eq!(found["workloads"][0]["id"], json!(CART));
    assert_eq!(found["workloads"][0]["state"], json!("ready"));
    assert_eq!(found["workloads"][0]["users"], json!(1));
    let callers = found["callers"].as_array().expect("a list");
    // Who asks for this is left out.
    let [caller] = &callers[..] else { panic!("{found}") };
    assert_eq!(caller["identities"], json!([CART]));
    assert!(!found.to_string().contains("PRIVATE"));
}

#[tokio::test]
async fn it_is_not_replaced_while_it_runs_and_leaves_nothing_behind() {
    let agent = Agent::start(&json!([])).await;
    let second = serve_own(Arc::clone(&agent.enrolled), &agent.socket, uid()).await;
    assert!(matches!(second, Err(SocketError::Busy(_))), "{second:?}");
    agent.task.abort();
    until("the socket is gone", || !agent.socket.path.exists()).await;
    let refusal = status(Path::new(&agent.socket.path)).await.expect_err("nobody");
    assert!(refusal.to_string().contains("no agent answers on"), "{refusal}");
}

#[tokio::test]
async fn a_sidecar_serves_its_own_identity_to_its_own_user_alone() {
    let agent = Agent::start(&json!([])).await;
    let own: SpiffeId = agent.enrolled.identity.id().clone();
    for (user, expected) in [(uid(), Ok(own.as_str())), (uid() + 1, Err(Code::PermissionDenied))] {
        let path = agent.control_plane.dir.path().join(format!("own-{user}.sock"));
        let socket = Socket { path: path.clone(), mode: 0o600 };
        let enrolled = Arc::clone(&agent.enrolled);
        let task = tokio::spawn(async move { serve_own(enrolled, &socket, user).await });
        until("the socket is there", || path.exists()).await;
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent").connect_with_connector_lazy(connector);
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let mut stream = client.fetch_x509_svid(X509SvidRequest {}).await.expect("open").into_inner();
        let found = next(&mut stream).await;
        match expected {
            Ok(own) => assert_eq!(ids(&found.expect("one")), [own]),
            Err(code) => assert_eq!(found.expect_err("nobody").code(), code),
        }
        task.abort();
    }
}
