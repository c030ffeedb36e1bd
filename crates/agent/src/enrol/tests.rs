//! Enrolment against a real authority behind real TLS and gRPC, in this process.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use meshwork_identity::istio_ca::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService, IstioCertificateServiceServer,
};
use meshwork_identity::{CertificateAuthority, ClientCertificate, peer_id, request_key_fingerprint};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};
use tower::{ServiceExt as _, service_fn};

use super::*;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const DAY: Duration = Duration::from_hours(24);
/// Nothing here takes longer on any machine that works.
const LONG: Duration = Duration::from_secs(30);

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

/// Signs for whoever shows a token or an SVID, as the control plane does.
struct Signer {
    authority: CertificateAuthority,
    /// Identity per token, and the key that it was spent on.
    tokens: Mutex<HashMap<String, (SpiffeId, Option<String>)>>,
    behaviour: Mutex<Behaviour>,
}

#[derive(Clone, PartialEq)]
enum Behaviour {
    Good,
    /// Spends the token, then loses the answer, once.
    LosesAnswer,
}

#[derive(Clone)]
struct Peer(SpiffeId);

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let csr = request.get_ref().csr.clone();
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.clone());
        let id = match (token.and_then(|text| text.strip_prefix("Bearer ")), peer) {
            (Some(token), _) => self.spend(token, &csr)?,
            (None, Some(peer)) => peer,
            (None, None) => return Err(Status::unauthenticated("neither a token nor a certificate")),
        };
        let behaviour = std::mem::replace(&mut *self.behaviour.lock().expect("whole"), Behaviour::Good);
        if behaviour == Behaviour::LosesAnswer {
            return Err(Status::unavailable("killed"));
        }
        let seconds = u64::try_from(request.get_ref().validity_duration).expect("not negative");
        let lifetime = if seconds == 0 { DAY } else { Duration::from_secs(seconds) };
        let chain = self
            .authority
            .sign(&csr, &id, lifetime, &[])
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let answer = IstioCertificateResponse::new(&chain, &self.authority.bundle()).expect("a chain");
        Ok(Response::new(answer))
    }
}

impl Signer {
    /// A token is spent once, but for its key as often as asked.
    fn spend(&self, token: &str, csr: &str) -> Result<SpiffeId, Status> {
        let mut tokens = self.tokens.lock().expect("whole");
        let (id, spent) = tokens.get_mut(token).ok_or_else(|| Status::unauthenticated("unknown token"))?;
        let key = request_key_fingerprint(csr).expect("a request");
        match spent {
            Some(earlier) if *earlier != key => Err(Status::unauthenticated("the token is spent")),
            _ => {
                *spent = Some(key);
                Ok(id.clone())
            }
        }
    }
}

/// A control plane's certificate service on a real port.
struct ControlPlane {
    signer: Arc<Signer>,
    address: SocketAddr,
    task: JoinHandle<()>,
    dir: tempfile::TempDir,
}

impl ControlPlane {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority =
            CertificateAuthority::open_or_create(&dir.path().join("ca"), "mesh.local").expect("made");
        let server = control_plane_id("mesh.local").expect("an ID");
        let svid = authority.issue(&server, DAY, &[]).expect("issued");
        let source = IdentitySource::new(svid, authority.bundle()).expect("good");
        let tokens = Mutex::new(HashMap::from([("join".to_owned(), (id(WEB), None))]));
        let signer = Arc::new(Signer { authority, tokens, behaviour: Mutex::new(Behaviour::Good) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(serve(listener, source, signer.clone()));
        Self { signer, address, task, dir }
    }

    fn enrolment(&self, token: Option<&str>) -> Enrolment {
        Enrolment {
            control_plane: self.address,
            trust_bundle: self.signer.authority.bundle_path().to_owned(),
            token: token.map(str::to_owned),
            state: self.dir.path().join("web"),
            lifetime: None,
        }
    }

    fn behaves(&self, behaviour: Behaviour) {
        *self.signer.behaviour.lock().expect("whole") = behaviour;
    }

    fn identity_file(&self) -> PathBuf {
        self.dir.path().join("web/identity.pem")
    }

    /// Puts an SVID on disk as an earlier process would have.
    fn left_behind(&self, lifetime: Duration) {
        let state = State::open(&self.dir.path().join("web")).expect("opened");
        let svid = self.signer.authority.issue(&id(WEB), lifetime, &[]).expect("issued");
        state.store(&svid).expect("stored");
    }
}

async fn serve(listener: TcpListener, source: Arc<IdentitySource>, signer: Arc<Signer>) {
    let config = source.server_config(&[b"h2"], ClientCertificate::Optional);
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (config, signer) = (config.clone(), signer.clone());
        tokio::spawn(async move {
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            let peer = peer_id(stream.get_ref().1.peer_certificates().unwrap_or_default()).ok();
            let service = service_fn(move |mut request: http::Request<_>| {
                if let Some(peer) = peer.clone() {
                    request.extensions_mut().insert(Peer(peer));
                }
                IstioCertificateServiceServer::from_arc(signer.clone()).oneshot(request)
            });
            let connection = Builder::new(TokioExecutor::new());
            let served =
                connection.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
            drop(served);
        });
    }
}

async fn refused(enrolment: &Enrolment) -> String {
    enrol(enrolment).await.err().expect("refused").to_string()
}

#[tokio::test]
async fn a_token_gives_an_identity_that_survives_restarts_without_it() {
    let control_plane = ControlPlane::start().await;
    let first = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    assert_eq!(first.identity.id(), &id(WEB));
    let serial = first.identity.svid().serial();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&control_plane.identity_file()), 0o600);
    assert_eq!(mode(&control_plane.dir.path().join("web")), 0o700);
    drop(first);
    let again = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    assert_eq!(again.identity.svid().serial(), serial);
    drop(again);
    control_plane.task.abort();
    enrol(&control_plane.enrolment(None)).await.expect("also without a control plane");
}

#[tokio::test]
async fn renewal_needs_no_token_and_is_on_disk_before_it_is_used() {
    let control_plane = ControlPlane::start().await;
    let mut enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let before = (enrolled.identity.svid().serial(), enrolled.identity.svid().key_pem());
    enrolled.renew().await.expect("renewed");
    let after = enrolled.identity.svid();
    assert_ne!(before.0, after.serial());
    assert_ne!(*before.1, *after.key_pem(), "a new key each time");
    drop(enrolled);
    let again = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    assert_eq!(again.identity.svid().serial(), after.serial());
}

#[tokio::test]
async fn a_certificate_past_half_of_its_life_is_renewed_in_the_background() {
    let control_plane = ControlPlane::start().await;
    // It began 60 s ago, as all do, so with 40 s left its half has passed.
    control_plane.left_behind(Duration::from_secs(40));
    let enrolled = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let identity = enrolled.identity.clone();
    let mut changes = identity.changes();
    let keeper = tokio::spawn(enrolled.keep_fresh());
    tokio::time::timeout(LONG, changes.changed()).await.expect("in time").expect("alive");
    let left = identity.expires_at().duration_since(SystemTime::now()).expect("valid");
    assert!(left > Duration::from_hours(23), "{left:?}");
    keeper.abort();
}

#[tokio::test]
async fn renewal_outlasts_an_absent_control_plane() {
    let control_plane = ControlPlane::start().await;
    control_plane.left_behind(Duration::from_secs(40));
    let mut enrolled = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let serial = enrolled.identity.svid().serial();
    control_plane.behaves(Behaviour::LosesAnswer);
    let error = enrolled.renew().await.expect_err("failed");
    assert!(matches!(error, EnrolError::Unreachable { .. }), "{error}");
    assert_eq!(enrolled.identity.svid().serial(), serial);
    enrolled.renew().await.expect("later it is back");
    assert_ne!(enrolled.identity.svid().serial(), serial);
}

#[tokio::test]
async fn an_answer_for_somebody_else_changes_nothing() {
    let control_plane = ControlPlane::start().await;
    let mut enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let before = fs::read(control_plane.identity_file()).expect("there");
    let cart = id("spiffe://mesh.local/ns/shop/sa/cart");
    let key = Key::generate().expect("a key");
    let csr = key.unnamed_csr_pem().expect("a request");
    let chain = control_plane.signer.authority.sign(&csr, &cart, DAY, &[]).expect("signed");
    let error = enrolled.take(&chain, key).expect_err("refused").to_string();
    assert!(error.contains("the certificate is that of spiffe://mesh.local/ns/shop/sa/cart"), "{error}");
    assert_eq!(enrolled.identity.id(), &id(WEB));
    assert_eq!(fs::read(control_plane.identity_file()).expect("there"), before);
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_still_gives_its_certificate() {
    let control_plane = ControlPlane::start().await;
    control_plane.behaves(Behaviour::LosesAnswer);
    let enrolled =
        enrol(&control_plane.enrolment(Some("join"))).await.expect("asked again with the same key");
    assert_eq!(enrolled.identity.id(), &id(WEB));
    assert!(!control_plane.dir.path().join("web/pending-key.pem").exists());
}

#[tokio::test]
async fn a_process_killed_while_asking_asks_again_with_the_same_key() {
    let control_plane = ControlPlane::start().await;
    let state = State::open(&control_plane.dir.path().join("web")).expect("opened");
    let key = state.pending_key().expect("a key").pem();
    let csr = state.pending_key().expect("the same").unnamed_csr_pem().expect("a request");
    control_plane.signer.spend("join", &csr).expect("spent");
    drop(state);
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    assert_eq!(*enrolled.identity.svid().key_pem(), *key);
}

#[tokio::test]
async fn without_a_usable_certificate_the_error_says_what_to_do() {
    let control_plane = ControlPlane::start().await;
    let check = async |words: &str| {
        let error = refused(&control_plane.enrolment(None)).await;
        assert!(error.contains(words) && error.contains("meshwork token create"), "{error}");
    };
    check("there is no identity in").await;
    // Ends within the second in which it is issued.
    control_plane.left_behind(Duration::from_nanos(1));
    check("the certificate of spiffe://mesh.local/ns/shop/sa/web expired at 20").await;
    fs::write(control_plane.identity_file(), "-----BEGIN nothing").expect("written");
    check("identity.pem is damaged").await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("a token heals all of it");
    assert_eq!(enrolled.identity.id(), &id(WEB));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_used() {
    let (here, elsewhere) = (ControlPlane::start().await, ControlPlane::start().await);
    elsewhere.left_behind(DAY);
    let mut enrolment = elsewhere.enrolment(None);
    enrolment.trust_bundle = here.signer.authority.bundle_path().to_owned();
    let error = refused(&enrolment).await;
    assert!(error.contains("not valid under the trust bundle"), "{error}");
}

#[tokio::test]
async fn refusals_are_final_and_told() {
    let control_plane = ControlPlane::start().await;
    assert_eq!(
        refused(&control_plane.enrolment(Some("wrong"))).await,
        "the control plane refuses the certificate: unknown token"
    );
    let error = refused(&control_plane.enrolment(Some("bad\u{1}token"))).await;
    assert!(error.contains("the token has characters"), "{error}");
}

#[tokio::test]
async fn one_state_directory_serves_one_process() {
    let control_plane = ControlPlane::start().await;
    let first = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let error = refused(&control_plane.enrolment(None)).await;
    assert!(error.contains("another process uses the identity in"), "{error}");
    drop(first);
    enrol(&control_plane.enrolment(None)).await.expect("free again");
}

#[tokio::test]
async fn an_unusable_trust_bundle_is_named() {
    let control_plane = ControlPlane::start().await;
    let mut enrolment = control_plane.enrolment(Some("join"));
    enrolment.trust_bundle = control_plane.dir.path().join("none.pem");
    let error = refused(&enrolment).await;
    assert!(error.contains("none.pem"), "{error}");
}

#[tokio::test]
async fn a_control_plane_that_is_not_the_trusted_one_gets_no_token() {
    let (trusted, other) = (ControlPlane::start().await, ControlPlane::start().await);
    let bundle = trusted.signer.authority.bundle();
    let server = control_plane_id("mesh.local").expect("an ID");
    let channel = channel_over(bootstrap_client_config(&bundle, &server), other.address);
    let asker = Asker { channel, address: other.address, lifetime: None };
    let csr = Key::generate().expect("a key").unnamed_csr_pem().expect("a request");
    let error = asker.ask(&csr, Some("join")).await.expect_err("refused").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert_eq!(other.signer.tokens.lock().expect("whole")["join"].1, None);
}
