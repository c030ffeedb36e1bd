//! TLS as a file says it: secrets that come later, change under traffic, and are watched in files.

use std::net::SocketAddr;
use std::path::Path;

use meshwork_identity::Svid;
use meshwork_model::proxy::{
    CertificateSource, ClientContext, DataSource, Direction, DownstreamTls, Resource, SanKind, SanMatch,
    Sealed, Secret, SecretContent, ServerContext, StringMatch, TlsCertificate, TlsContext, TlsVersion,
    TransportMatch, UpstreamTls, Validation, ValidationContext,
};

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: catalog\r\n\r\n";

fn context(certificates: Vec<CertificateSource>, validation: Option<Validation>) -> TlsContext {
    TlsContext {
        certificates,
        validation,
        alpn: vec![],
        versions: (TlsVersion::Tls12, TlsVersion::Tls13),
        cipher_suites: vec![],
        groups: vec![],
    }
}

fn inline(text: &str) -> DataSource {
    DataSource::Inline(Sealed::new(text.as_bytes().to_vec()))
}

fn certificate(svid: &Svid) -> TlsCertificate {
    TlsCertificate { chain: inline(&svid.chain_pem()), key: inline(&svid.key_pem()), is_watched: false }
}

fn secret(svid: &Svid) -> Resource {
    let content = SecretContent::Certificate(certificate(svid).into());
    Resource::Secret(Secret { name: "cert".into(), content })
}

/// The called side, with this certificate.
fn server(application: SocketAddr, source: CertificateSource) -> Sut {
    let tls = DownstreamTls::Context(
        ServerContext {
            common: context(vec![source], None),
            require_client_certificate: false,
            scan_all_certificates: false,
            tell_authorities: true,
            resumes: (true, true),
        }
        .into(),
    );
    let filter = http(vec![route("/", &[("app", 1)])], vec![]);
    let listener = listener("inbound", Direction::Inbound, chain(filter, tls));
    Sut::start_as(None, vec![Resource::Cluster(cluster("app", &[application])), listener])
}

/// The calling side, which expects `account`.
fn caller(mesh: &Mesh, endpoint: SocketAddr, account: &str) -> Sut {
    let names =
        vec![SanMatch { kind: Some(SanKind::Uri), test: StringMatch::Exact(id(account).as_str().into()) }];
    let trusted_ca = Some(inline(&mesh.authority.bundle().pem()));
    let fixed = ValidationContext { trusted_ca, names, ..ValidationContext::default() };
    let validation = Validation { fixed: fixed.into(), secret: None };
    let tls = UpstreamTls::Context(
        ClientContext {
            common: context(vec![], Some(validation)),
            sni: "".into(),
            auto_host_sni: false,
            validates_sni: false,
        }
        .into(),
    );
    let mut cluster = cluster("catalog", &[endpoint]);
    cluster.transports = vec![TransportMatch { name: "tls".into(), transport: None, tls: Some(tls) }];
    let filter = http(vec![route("/", &[("catalog", 1)])], vec![]);
    let listener = listener("web", Direction::Outbound, chain(filter, None));
    Sut::start_as(None, vec![Resource::Cluster(cluster), listener])
}

#[tokio::test]
async fn a_secret_that_changes_acts_on_the_next_handshake_and_open_connections_stay() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let server = server(origin.address, CertificateSource::Secret("cert".into()));
    assert!(!server.proxy.ready(), "nothing is served before the secret is there");
    server.apply(vec![secret(&mesh.svid("catalog"))]);
    assert!(server.proxy.ready());
    let address = server.address("inbound");
    let before = caller(&mesh, address, "catalog");
    let mut open = before.client().await;
    assert_eq!(open.call(GET).await.status(), 200);
    server.apply(vec![secret(&mesh.svid("cart"))]);
    assert_eq!(open.call(GET).await.status(), 200, "the connection between both is still there");
    assert_eq!(caller(&mesh, address, "cart").client().await.call(GET).await.status(), 200);
    assert_eq!(caller(&mesh, address, "catalog").client().await.call(GET).await.status(), 503);
    // What is bad changes nothing.
    let bad = Secret {
        name: "cert".into(),
        content: SecretContent::Certificate(
            TlsCertificate { chain: inline("none"), key: inline("none"), is_watched: false }.into(),
        ),
    };
    let update =
        meshwork_xds::Update { upserts: vec![Resource::Secret(bad)], ..meshwork_xds::Update::default() };
    assert_eq!(server.proxy.apply(update).len(), 1);
    assert_eq!(caller(&mesh, address, "cart").client().await.call(GET).await.status(), 200);
}

#[tokio::test]
async fn a_watched_file_that_changes_acts_on_the_next_handshake() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let dir = tempfile::tempdir().expect("a folder");
    let write = |svid: &Svid| {
        let aside = |name: &str, text: &str| {
            std::fs::write(dir.path().join("aside"), text).expect("written");
            std::fs::rename(dir.path().join("aside"), dir.path().join(name)).expect("renamed");
        };
        aside("chain.pem", &svid.chain_pem());
        aside("key.pem", &svid.key_pem());
    };
    write(&mesh.svid("catalog"));
    let file = |name: &str| DataSource::File(Path::new(dir.path()).join(name).display().to_string().into());
    let certificate = TlsCertificate { chain: file("chain.pem"), key: file("key.pem"), is_watched: true };
    let server = server(origin.address, CertificateSource::Inline(certificate.into()));
    let address = server.address("inbound");
    server.proxy.look_at_files();
    assert_eq!(caller(&mesh, address, "catalog").client().await.call(GET).await.status(), 200);
    write(&mesh.svid("cart"));
    server.proxy.look_at_files();
    assert_eq!(caller(&mesh, address, "cart").client().await.call(GET).await.status(), 200);
    // Half of a change is not taken.
    std::fs::write(dir.path().join("key.pem"), "none").expect("written");
    server.proxy.look_at_files();
    assert_eq!(caller(&mesh, address, "cart").client().await.call(GET).await.status(), 200);
}
