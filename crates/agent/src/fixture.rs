//! A control plane for tests, in this process: a real authority behind real TLS and gRPC, with certificates, tokens, trust
//! and registrations.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use meshwork_identity::istio_ca::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService, IstioCertificateServiceServer,
};
use meshwork_identity::workload_api::{
    Answers, JwtBundlesRequest, JwtBundlesResponse, JwtSvidMessage, JwtSvidRequest, JwtSvidResponse,
    SpiffeWorkloadApi, SpiffeWorkloadApiServer, ValidateJwtSvidRequest, ValidateJwtSvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509SvidRequest, X509SvidResponse,
};
use meshwork_identity::{
    CertificateAuthority, ClientCertificate, IdentitySource, SpiffeId, Trust, peer_id,
    request_key_fingerprint,
};
use meshwork_xds::Node;
use meshwork_xds::grpc::Denied;
use meshwork_xds::sds::{self, SecretSource, SecretValue};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Extensions, Request, Response, Status};
use tower::{ServiceExt as _, service_fn};

use crate::{Enrolment, control_plane_id};

pub(crate) const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// Nothing in these tests takes longer on any machine that works.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

/// Waits for what comes soon.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waited).await.is_ok(), "in vain: {what}");
}

/// Signs for whoever shows a token or an SVID, as the control plane does.
pub(crate) struct Signer {
    pub(crate) authority: CertificateAuthority,
    /// Identity per token, and the key that it was spent on.
    pub(crate) tokens: Mutex<HashMap<String, (SpiffeId, Option<String>)>>,
    behaviour: Mutex<Behaviour>,
    /// How long certificates live for which nothing is asked.
    pub(crate) lifetime: Mutex<Duration>,
    published: Mutex<(Trust, String)>,
    changes: watch::Sender<u64>,
    /// What clients said of secrets: name, accepted or why not, root of the client's certificate.
    pub(crate) said: watch::Sender<Vec<(String, String, String)>>,
    /// How often it was asked to sign.
    pub(crate) attempts: Mutex<usize>,
    /// For whom certificates and tokens were asked.
    pub(crate) asked: Mutex<Vec<String>>,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Behaviour {
    Good,
    /// Spends the token, then loses the answer, once.
    LosesAnswer,
    /// Signs nothing, until it is told otherwise.
    Down,
}

#[derive(Clone)]
struct Peer(SpiffeId, Vec<CertificateDer<'static>>);

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
            (None, Some(peer)) => self.instead_of(peer, request.get_ref().impersonated())?,
            (None, None) => return Err(Status::unauthenticated("neither a token nor a certificate")),
        };
        self.behave()?;
        self.asked.lock().expect("whole").push(id.to_string());
        let seconds = u64::try_from(request.get_ref().validity_duration).expect("not negative");
        let lifetime =
            if seconds == 0 { *self.lifetime.lock().expect("whole") } else { Duration::from_secs(seconds) };
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
    pub(crate) fn spend(&self, token: &str, csr: &str) -> Result<SpiffeId, Status> {
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

    /// Only what a registration names.
    fn instead_of(&self, peer: SpiffeId, wanted: Option<&str>) -> Result<SpiffeId, Status> {
        let Some(wanted) = wanted else { return Ok(peer) };
        let is_registered = self.published.lock().expect("whole").1.contains(&format!("\"{wanted}\""));
        if !is_registered {
            return Err(Status::permission_denied(format!("no registration lets {peer} ask for {wanted}")));
        }
        Ok(id(wanted))
    }

    fn behave(&self) -> Result<(), Status> {
        *self.attempts.lock().expect("whole") += 1;
        let mut behaviour = self.behaviour.lock().expect("whole");
        match *behaviour {
            Behaviour::Good => Ok(()),
            Behaviour::Down => Err(Status::unavailable("down")),
            Behaviour::LosesAnswer => {
                *behaviour = Behaviour::Good;
                Err(Status::unavailable("killed"))
            }
        }
    }

    fn publish(&self, change: impl FnOnce(&mut (Trust, String))) {
        change(&mut self.published.lock().expect("whole"));
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn trust(&self, trust: Trust) {
        self.publish(|published| published.0 = trust);
    }

    pub(crate) fn registrations(&self, json: &serde_json::Value) {
        self.publish(|published| published.1 = json.to_string());
    }
}

impl SecretSource for Signer {
    type Caller = String;

    fn admit(&self, extensions: &Extensions, _: &Node) -> Result<String, Denied> {
        let peer = extensions.get::<Peer>().ok_or_else(|| Denied("who are you?".to_owned()))?;
        let trust = self.published.lock().expect("whole").0.clone();
        Ok(trust.root_of(&peer.1).unwrap_or_default())
    }

    fn secrets(&self, _: &String, names: &[String]) -> Vec<(String, SecretValue)> {
        let published = self.published.lock().expect("whole");
        let all = [("trust", published.0.to_json()), ("registrations", published.1.clone())];
        let all = all.into_iter().filter(|(name, _)| names.iter().any(|wanted| wanted == name));
        all.map(|(name, text)| (name.to_owned(), SecretValue::Generic(Bytes::from(text)))).collect()
    }

    fn changes(&self, _: &String) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn acknowledged(&self, root: &String, names: &[String], _: &str, refusal: Option<&str>) {
        let word = refusal.unwrap_or("yes").to_owned();
        self.said.send_modify(|said| said.push((names.join(" "), word, root.clone())));
    }

    fn ended(&self, _: &String) {}
}

/// Tokens alone.
struct Tokens(Arc<Signer>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Tokens {
    async fn fetch_x509_svid(
        &self,
        _: Request<X509SvidRequest>,
    ) -> Result<Response<Answers<X509SvidResponse>>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Answers<X509BundlesResponse>>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::unauthenticated("who?"))?.clone();
        let asked = request.into_inner();
        let id = self.0.instead_of(peer.0, Some(&asked.spiffe_id))?;
        self.0.behave()?;
        self.0.asked.lock().expect("whole").push(format!("token of {id}"));
        let token = self.0.authority.sign_jwt(&id, &asked.audience, Duration::from_mins(5));
        let token = token.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(JwtSvidResponse { svids: vec![JwtSvidMessage::new(&token, "")] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Answers<JwtBundlesResponse>>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn validate_jwt_svid(
        &self,
        _: Request<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A control plane on a real port.
pub(crate) struct ControlPlane {
    pub(crate) signer: Arc<Signer>,
    pub(crate) source: Arc<IdentitySource>,
    pub(crate) address: SocketAddr,
    pub(crate) task: JoinHandle<()>,
    pub(crate) dir: tempfile::TempDir,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority =
            CertificateAuthority::open_or_create(&dir.path().join("ca"), "mesh.local").expect("made");
        fs::write(dir.path().join("root.pem"), authority.bundle().pem()).expect("written");
        let svid = authority.issue(&server(), DAY, &[]).expect("issued");
        let source = IdentitySource::new(svid, authority.bundle()).expect("good");
        let tokens = Mutex::new(HashMap::from([("join".to_owned(), (id(WEB), None))]));
        let published = Mutex::new((Trust::new(authority.bundle()), "[]".to_owned()));
        let signer = Arc::new(Signer {
            authority,
            tokens,
            behaviour: Mutex::new(Behaviour::Good),
            lifetime: Mutex::new(DAY),
            published,
            changes: watch::Sender::new(0),
            said: watch::Sender::default(),
            attempts: Mutex::default(),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(serve(listener, Arc::clone(&source), signer.clone()));
        Self { signer, source, address, task, dir }
    }

    pub(crate) fn enrolment(&self, token: Option<&str>) -> Enrolment {
        Enrolment {
            control_plane: self.address,
            trust_bundle: self.dir.path().join("root.pem"),
            token: token.map(str::to_owned),
            state: self.dir.path().join("web"),
            lifetime: None,
        }
    }

    pub(crate) fn behaves(&self, behaviour: Behaviour) {
        *self.signer.behaviour.lock().expect("whole") = behaviour;
    }

    pub(crate) fn identity_file(&self) -> PathBuf {
        self.dir.path().join("web/identity.pem")
    }

    /// Trusts all roots that the authority has, and issues under the active one.
    pub(crate) fn publish(&self) {
        let trust = Trust::new(self.signer.authority.bundle());
        let issuer = self.signer.authority.issuer().root;
        let trust = trust.with_issuer(Some(&issuer));
        self.source.replace_trust(trust.clone()).expect("ours");
        self.signer.trust(trust);
    }

    /// Shows a certificate under the root that issues by now.
    pub(crate) fn renew(&self) {
        let svid = self.signer.authority.issue(&server(), DAY, &[]).expect("issued");
        self.source.replace_svid(svid).expect("good");
    }

    /// Waits until a client has said this of a secret, with a certificate under this root.
    pub(crate) async fn heard(&self, secret: &str, word: &str, root: &str) {
        let mut said = self.signer.said.subscribe();
        let heard = said.wait_for(|said| {
            said.iter().any(|(name, found, under)| name == secret && found.starts_with(word) && under == root)
        });
        let is_heard = tokio::time::timeout(LONG, heard).await.is_ok();
        assert!(is_heard, "{secret}: {word} under {root}; only {:?}", self.signer.said.borrow());
    }
}

fn server() -> SpiffeId {
    control_plane_id("mesh.local").expect("an ID")
}

async fn serve(listener: TcpListener, source: Arc<IdentitySource>, signer: Arc<Signer>) {
    let config = source.server_config(&[b"h2"], ClientCertificate::Optional);
    let secrets = sds::server(Arc::clone(&signer));
    let tokens = SpiffeWorkloadApiServer::new(Tokens(Arc::clone(&signer)));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (config, signer, secrets, tokens) =
            (config.clone(), signer.clone(), secrets.clone(), tokens.clone());
        connections.spawn(async move {
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
            let peer = peer_id(&chain).ok().map(|id| Peer(id, chain));
            let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                if let Some(peer) = peer.clone() {
                    request.extensions_mut().insert(peer);
                }
                let (signer, secrets, tokens) = (signer.clone(), secrets.clone(), tokens.clone());
                async move {
                    match request.uri().path() {
                        path if path.contains("SecretDiscoveryService") => secrets.oneshot(request).await,
                        path if path.contains("SpiffeWorkloadAPI") => tokens.oneshot(request).await,
                        _ => IstioCertificateServiceServer::from_arc(signer).oneshot(request).await,
                    }
                }
            });
            let connection = Builder::new(TokioExecutor::new());
            let served =
                connection.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
            drop(served);
        });
    }
}
