use std::sync::atomic::{AtomicBool, Ordering};

use meshwork_identity::{AlternativeName, ClientCertificate, Revocations, SpiffeId, Trust};
use meshwork_model::mesh::{Config, KeyUrl, MeshDefaults};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::authority::{Parts, tests::options};
use crate::store::sqlite::Sqlite;
use crate::world::World;

const PARTNER: &str = "partner.example";

/// An authority of a trust domain, with its state in a folder, under this config.
fn authority(dir: &std::path::Path, trust_domain: &str, federated: Vec<FederatedDomain>) -> Arc<Authority> {
    let kv = Arc::new(Sqlite::open(dir).expect("a store"));
    let defaults = MeshDefaults { federated: federated.clone(), ..MeshDefaults::default() };
    let config = Config { defaults, ..Config::default() };
    let world = Arc::new(World::new(trust_domain, config, Vec::new()));
    let options = crate::Options { trust_domain: trust_domain.to_owned(), ..options(dir) };
    let parts = Parts { options: &options, kv, world, replica: "here".to_owned() };
    let authority = Authority::open(parts).expect("opened");
    authority.federate(federated);
    authority
}

/// A trust domain that serves its bundle.
struct Partner {
    authority: Arc<Authority>,
    port: u16,
    task: AbortHandle,
    _dir: tempfile::TempDir,
}

impl Partner {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = authority(dir.path(), PARTNER, Vec::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let task = tokio::spawn(serve::serve(listener, Arc::clone(&authority), crate::room::Rooms::new()))
            .abort_handle();
        Self { authority, port, task, _dir: dir }
    }

    fn id(&self) -> SpiffeId {
        self.authority.identity().id().clone()
    }

    fn pem(&self) -> Arc<str> {
        self.authority.signing().bundle().pem().into()
    }

    /// What config says of it elsewhere.
    fn config(&self) -> FederatedDomain {
        config(self.port, Some(self.pem()), &self.id())
    }
}

fn config(port: u16, bundle: Option<Arc<str>>, id: &SpiffeId) -> FederatedDomain {
    let endpoint = BundleEndpoint { url: url(port, "/"), proof: BundleProof::Spiffe(id.clone()) };
    FederatedDomain { trust_domain: PARTNER.into(), bundle, endpoint: Some(endpoint) }
}

fn url(port: u16, path: &str) -> KeyUrl {
    KeyUrl { https: true, host: "localhost".into(), port, path: path.into() }
}

async fn fetch_from(ours: &Arc<Authority>, config: &FederatedDomain) -> Result<Duration, String> {
    ours.fetch(&config.trust_domain, config.endpoint.as_ref().expect("an endpoint")).await
}

fn roots(ours: &Authority) -> usize {
    let trust = Arc::clone(&ours.published.borrow().trust);
    trust.bundle_of(PARTNER).map(|bundle| bundle.fingerprints().len()).unwrap_or_default()
}

fn only(ours: &Authority) -> FederatedStatus {
    let all = ours.federated();
    assert_eq!(all.len(), 1);
    all.into_iter().next().expect("one")
}

#[tokio::test]
async fn a_bundle_is_fetched_and_kept_and_stands_while_nobody_answers() {
    let (partner, dir) = (Partner::new().await, tempfile::tempdir().expect("a folder"));
    let config = partner.config();
    let ours = authority(dir.path(), "mesh.local", vec![config.clone()]);
    // Who stands in config is trusted before anybody was asked.
    assert_eq!((roots(&ours), only(&ours).source.as_str()), (1, "config"));
    assert_eq!(fetch_from(&ours, &config).await, Ok(Duration::from_mins(1)));
    let status = only(&ours);
    assert_eq!((status.sequence, status.error), (Some(1), None));
    assert_eq!(status.source, format!("https://localhost:{}/", partner.port));
    // A second root is there before it signs anything.
    partner.authority.signing().add_root().expect("made");
    partner.authority.publish().expect("told");
    fetch_from(&ours, &config).await.expect("fetched");
    assert_eq!((roots(&ours), only(&ours).sequence), (2, Some(2)));
    partner.task.abort();
    let _ = partner.authority.published();
    let error = async {
        loop {
            if let Err(error) = fetch_from(&ours, &config).await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(20), error).await.expect("in time");
    assert!(error.contains("localhost"), "{error}");
    assert_eq!(roots(&ours), 2);
    drop(ours);
    // Nor does a restart forget it, until config says something else.
    let again = authority(dir.path(), "mesh.local", vec![config.clone()]);
    assert_eq!((roots(&again), only(&again).sequence), (2, Some(2)));
    let changed = format!("{}\n", partner.pem());
    let changed = FederatedDomain { bundle: Some(changed.into()), ..config.clone() };
    again.federate(vec![changed]);
    assert_eq!((roots(&again), only(&again).sequence, only(&again).source.as_str()), (2, None, "config"));
    again.federate(Vec::new());
    assert_eq!((roots(&again), again.federated().len()), (0, 0));
    again.federate(vec![FederatedDomain { bundle: None, ..config }]);
    assert_eq!((roots(&again), only(&again).source.as_str()), (0, "none"));
}

#[tokio::test]
async fn bundles_that_are_too_large_for_proxies_together_are_not_taken() {
    let (partner, dir) = (Partner::new().await, tempfile::tempdir().expect("a folder"));
    let names: Vec<String> = (0..5).map(|number| format!("p{number}.example")).collect();
    let domain = |name: &String| FederatedDomain { trust_domain: name.as_str().into(), ..partner.config() };
    let ours = authority(dir.path(), "mesh.local", names.iter().map(domain).collect());
    // As large as one may be.
    let mut document = partner.authority.signing().bundle().to_document(1, None);
    let keys = document["keys"].as_array_mut().expect("keys");
    let token = keys.last().expect("a key of tokens").clone();
    for number in 0..99 {
        let mut one = token.clone();
        one["kid"] = format!("{number:09000}").into();
        keys.push(one);
    }
    let text = document.to_string();
    for name in &names[..4] {
        ours.take(name, text.clone()).expect("there is room");
    }
    let error = ours.take(&names[4], text).expect_err("there is none");
    assert!(error.contains("and proxies are told 4194304 at most"), "{error}");
    let published = ours.published.borrow().clone();
    let read = Trust::from_json(&published.json, "mesh.local").expect("proxies read it");
    assert_eq!(read, *published.trust);
}

#[tokio::test]
async fn an_endpoint_proves_who_it_is_by_the_bundle_that_is_known() {
    let (partner, stranger) = (Partner::new().await, Partner::new().await);
    let check = async |config: FederatedDomain, expected: &str| {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = authority(dir.path(), "mesh.local", vec![config.clone()]);
        let error = fetch_from(&ours, &config).await.expect_err("refused");
        assert!(error.contains(expected), "{error}");
        assert_eq!(only(&ours).sequence, None);
    };
    let other = SpiffeId::workload(PARTNER, "shop", "web").expect("an identity");
    check(config(partner.port, Some(partner.pem()), &other), "cannot be believed").await;
    // A root of another authority, though of the same name.
    check(config(partner.port, Some(stranger.pem()), &partner.id()), "cannot be believed").await;
    check(config(partner.port, None, &partner.id()), "there is no bundle of partner.example").await;
    let elsewhere = SpiffeId::workload("third.example", "a", "b").expect("an identity");
    check(config(partner.port, Some(partner.pem()), &elsewhere), "there is no bundle of third.example").await;
    // Who is revoked here says nothing any more.
    let dir = tempfile::tempdir().expect("a folder");
    let config = partner.config();
    let ours = authority(dir.path(), "mesh.local", vec![config.clone()]);
    let subject = ours.subject(Some(partner.id().as_str()), None).expect("valid");
    ours.revoke(subject, "its key was stolen", "ann").expect("revoked");
    let error = fetch_from(&ours, &config).await.expect_err("refused");
    assert!(error.contains("is revoked"), "{error}");
}

/// Answers every connection with these bytes, under the identity of a partner; tells whether anybody asked.
async fn server(partner: &Partner, answer: Vec<u8>) -> (u16, Arc<AtomicBool>) {
    let identity = Arc::clone(partner.authority.identity());
    let acceptor = TlsAcceptor::from(identity.server_config(&[b"http/1.1"], ClientCertificate::None));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            flag.store(true, Ordering::Relaxed);
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, asked)
}

#[tokio::test]
async fn what_is_no_bundle_is_not_taken() {
    let partner = Partner::new().await;
    let body =
        |text: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes();
    let (elsewhere, asked) = server(&partner, body(&partner.authority.own_document().expect("made"))).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: https://localhost:{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    let mut long = body("");
    long = String::from_utf8(long).expect("text").replace("length: 0", "length: 2000000").into_bytes();
    long.extend(vec![b' '; 2_000_000]);
    for (answer, expected) in [
        (redirect.into_bytes(), "redirects are not followed"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec(), "answers 500"),
        (b"hello".to_vec(), "answers no HTTP"),
        (Vec::new(), "answers no HTTP"),
        (body("{}"), "no list `keys`"),
        (body("<html>"), "no JSON"),
        (long, "1048576 bytes at most"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec(), "gives no bundle"),
    ] {
        let (port, _) = server(&partner, answer).await;
        let config = config(port, Some(partner.pem()), &partner.id());
        let dir = tempfile::tempdir().expect("a folder");
        let ours = authority(dir.path(), "mesh.local", vec![config.clone()]);
        let error = fetch_from(&ours, &config).await.expect_err("refused");
        assert!(error.contains(expected), "{error}");
        assert_eq!((roots(&ours), only(&ours).source.as_str()), (1, "config"));
    }
    assert!(!asked.load(Ordering::Relaxed), "a redirect was followed");
}

#[tokio::test]
async fn a_bundle_does_not_go_back() {
    let partner = Partner::new().await;
    let bundle = partner.authority.signing().bundle();
    let document = |sequence: u64| bundle.to_document(sequence, None).to_string();
    let kept = |sequence| Some(Kept::new(&partner.config(), document(sequence), Some(sequence), 0));
    let check = |known: u64, new: &str, expected: Result<Option<u64>, &str>| {
        let domain = Domain::new(partner.config(), kept(known));
        match (domain.judge(new), expected) {
            (Ok(document), Ok(sequence)) => assert_eq!(document.sequence, sequence),
            (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
            (found, _) => panic!("{:?}", found.map(|document| document.sequence)),
        }
    };
    check(7, &document(7), Ok(Some(7)));
    check(7, &document(8), Ok(Some(8)));
    check(7, &document(6), Err("went back from 7 to 6"));
    check(7, r#"{"keys": []}"#, Ok(None));
}

#[tokio::test]
async fn an_endpoint_serves_its_bundle_and_nothing_else() {
    let partner = Partner::new().await;
    let (bundle, nobody) = (partner.authority.signing().bundle(), Revocations::default());
    let tls = || fetch::by_identity(&bundle, &nobody, &partner.id());
    let text = fetch::get(&url(partner.port, "/"), tls()).await.expect("fetched");
    let document = BundleDocument::parse(PARTNER, &text).expect("a document");
    assert_eq!(document.bundle.fingerprints(), partner.authority.signing().bundle().fingerprints());
    assert_eq!((document.sequence, document.refresh_hint), (Some(1), Some(Duration::from_mins(1))));
    assert!(!text.contains("PRIVATE"));
    for path in ["/api/v1/ca", "//", "/x", "/%2e"] {
        let error = fetch::get(&url(partner.port, path), tls()).await.expect_err("nothing there");
        assert!(error.contains("404"), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_host_proves_its_name_to_what_the_system_trusts() {
    use meshwork_identity::context;
    use meshwork_model::proxy::{ServerContext, TlsContext, TlsVersion};
    let common = TlsContext {
        certificates: Vec::new(),
        validation: None,
        alpn: Vec::new(),
        versions: (TlsVersion::Tls12, TlsVersion::Tls13),
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    };
    let served = ServerContext {
        common,
        require_client_certificate: false,
        tell_authorities: false,
        scan_all_certificates: false,
        resumes: (false, false),
    };
    // An authority that the test trusts as a system does.
    let web = Partner::new().await;
    let names = [AlternativeName::Dns("localhost".into())];
    let svid = web.authority.signing().issue(&web.id(), Duration::from_hours(1), &names).expect("signed");
    let (chain, key) = (svid.chain_pem(), svid.key_pem());
    let certificate =
        context::Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect("a certificate");
    let certificate = Arc::new(certificate);
    let config = context::server_config(&served, vec![certificate], None).expect("a config");
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    let host: Arc<str> = "localhost".into();
    let tls = fetch::by_name_under(&host, web.pem().as_bytes()).expect("roots");
    assert_eq!(fetch::get(&url(port, "/"), tls).await, Ok("ok".to_owned()));
    let other = fetch::by_name_under(&"other.example".into(), web.pem().as_bytes()).expect("roots");
    let error = fetch::get(&url(port, "/"), other).await.expect_err("another name");
    assert!(error.contains("cannot be believed"), "{error}");
    let partner = Partner::new().await;
    let stranger = fetch::by_name_under(&host, partner.pem().as_bytes()).expect("roots");
    let error = fetch::get(&url(port, "/"), stranger).await.expect_err("another root");
    assert!(error.contains("cannot be believed"), "{error}");
}
