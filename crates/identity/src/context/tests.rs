use std::sync::Arc;
use std::time::SystemTime;

use meshwork_model::proxy::{SanKind, SanMatch, StringMatch};
use rcgen::SanType;
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};

use super::judge::is_name;
use super::*;
use crate::forge::{DAY, Forge, Forged, meet, params};

fn tls() -> TlsContext {
    TlsContext {
        certificates: Vec::new(),
        validation: None,
        alpn: Vec::new(),
        versions: (TlsVersion::Tls12, TlsVersion::Tls13),
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    }
}

fn server(require: bool) -> ServerContext {
    ServerContext {
        common: tls(),
        require_client_certificate: require,
        scan_all_certificates: false,
        tell_authorities: true,
        resumes: (true, true),
    }
}

fn client() -> ClientContext {
    ClientContext { common: tls(), sni: "".into(), auto_host_sni: false, validates_sni: false }
}

fn named(forge: &Forge, dns: &[&str]) -> Forged {
    let mut params = params(&["spiffe://mesh.local/ns/shop/sa/web"]);
    params
        .subject_alt_names
        .extend(dns.iter().map(|name| SanType::DnsName((*name).try_into().expect("a name"))));
    forge.sign(&params)
}

fn ready(forged: &Forged) -> Arc<Certificate> {
    let chain = pem::encode_certificates(&forged.chain);
    Arc::new(Certificate::from_pem(chain.as_bytes(), forged.key.pem().as_bytes()).expect("a certificate"))
}

fn trust(forge: &Forge, rules: &ValidationContext) -> Trust {
    Trust::new(rules, Some(forge.bundle().pem().as_bytes())).expect("usable")
}

/// Whether a client with these rules takes a server with this certificate.
async fn takes(rules: Option<&Trust>, context: &ClientContext, shown: &Forged) -> bool {
    let server = server_config(&server(false), vec![ready(shown)], None).expect("a server");
    let client = client_config(context, None, rules).expect("a client");
    meet(client, server).await.client.is_ok()
}

#[tokio::test]
async fn a_server_is_judged_by_what_is_written() {
    let forge = Forge::new("mesh.local");
    let shown = named(&forge, &["a.example.com"]);
    let none = ValidationContext::default();
    assert!(takes(None, &client(), &shown).await, "nothing is written, nothing is judged");
    assert!(takes(Some(&trust(&forge, &none)), &client(), &shown).await);
    let stranger = Forge::new("mesh.local");
    assert!(!takes(Some(&trust(&stranger, &none)), &client(), &shown).await);
    let lenient = ValidationContext { accept_untrusted: true, ..ValidationContext::default() };
    assert!(takes(Some(&trust(&stranger, &lenient)), &client(), &shown).await);
    let hash: [u8; 32] = Sha256::digest(&shown.chain[0]).into();
    let pinned = ValidationContext { hashes: vec![hash], ..ValidationContext::default() };
    assert!(takes(Some(&Trust::new(&pinned, None).expect("usable")), &client(), &shown).await);
    let other = ValidationContext { hashes: vec![[7; 32]], ..ValidationContext::default() };
    assert!(!takes(Some(&Trust::new(&other, None).expect("usable")), &client(), &shown).await);
}

#[tokio::test]
async fn names_are_compared_by_their_kind() {
    let forge = Forge::new("mesh.local");
    let shown = named(&forge, &["*.example.com"]);
    let check = async |kind, test: StringMatch, expected: bool| {
        let text = format!("{kind:?} {test:?}");
        let names = vec![SanMatch { kind, test }];
        let rules = ValidationContext { names, ..ValidationContext::default() };
        assert_eq!(takes(Some(&trust(&forge, &rules)), &client(), &shown).await, expected, "{text}");
    };
    let exact = |text: &str| StringMatch::Exact(text.into());
    check(Some(SanKind::Dns), exact("a.example.com"), true).await;
    check(Some(SanKind::Dns), exact("a.b.example.com"), false).await;
    check(Some(SanKind::Uri), exact("a.example.com"), false).await;
    check(Some(SanKind::Uri), exact("spiffe://mesh.local/ns/shop/sa/web"), true).await;
    check(Some(SanKind::Uri), StringMatch::Prefix("spiffe://mesh.local/".into()), true).await;
    check(Some(SanKind::Email), StringMatch::Prefix("spiffe://mesh.local/".into()), false).await;
    check(None, exact("spiffe://mesh.local/ns/shop/sa/web"), true).await;
    check(None, exact("a.example.com"), true).await;
    let names = vec![SanMatch { kind: None, test: exact("a") }];
    let rules = ValidationContext { names, ..ValidationContext::default() };
    assert!(Trust::new(&rules, None).is_err(), "names without an authority");
}

#[tokio::test]
async fn the_name_that_is_sent_can_be_demanded() {
    let forge = Forge::new("mesh.local");
    let context = ClientContext { validates_sni: true, ..client() };
    let trust = trust(&forge, &ValidationContext::default());
    // The tests' handshakes ask for 127.0.0.1.
    assert!(!takes(Some(&trust), &context, &named(&forge, &["a.example.com"])).await);
}

#[test]
fn time_counts_unless_it_is_said_not_to() {
    let forge = Forge::new("mesh.local");
    let mut old = params(&["spiffe://mesh.local/ns/shop/sa/web"]);
    old.not_before = (SystemTime::now() - 2 * DAY).into();
    old.not_after = (SystemTime::now() - DAY).into();
    let old = forge.sign(&old);
    assert!(ParsedCertificate::try_from(&old.chain[0]).is_ok());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let check = |allow_expired| {
        let rules = ValidationContext { allow_expired, ..ValidationContext::default() };
        runtime.block_on(takes(Some(&trust(&forge, &rules)), &client(), &old))
    };
    assert!(!check(false));
    assert!(check(true));
}

#[tokio::test]
async fn a_client_is_judged_where_that_is_asked() {
    let forge = Forge::new("mesh.local");
    let (shown, stranger) = (named(&forge, &[]), named(&Forge::new("mesh.local"), &[]));
    let check =
        async |require, trust: Option<&Trust>, certificate: Option<&Forged>, expected: bool, what: &str| {
            let server = server_config(&server(require), vec![ready(&shown)], trust).expect("a server");
            let client = client_config(&client(), certificate.map(ready), None).expect("a client");
            let met = meet(client, server).await;
            assert_eq!(met.client.is_ok() && met.server.is_ok(), expected, "{what}");
        };
    let rules = trust(&forge, &ValidationContext::default());
    check(true, Some(&rules), Some(&shown), true, "a good one").await;
    check(true, Some(&rules), Some(&stranger), false, "a stranger's").await;
    check(true, Some(&rules), None, false, "none, and one is required").await;
    check(false, Some(&rules), None, true, "none, and none is required").await;
    check(false, Some(&rules), Some(&stranger), false, "a stranger's, though none is required").await;
    check(true, None, Some(&shown), false, "nothing says which are good").await;
}

#[tokio::test]
async fn versions_suites_and_groups_are_those_of_the_config() {
    let forge = Forge::new("mesh.local");
    let shown = named(&forge, &[]);
    let mut narrow = server(false);
    narrow.common.versions = (TlsVersion::Tls12, TlsVersion::Tls12);
    narrow.common.cipher_suites = vec![CipherSuite::EcdsaChaCha20];
    narrow.common.groups = vec![Group::P256];
    let server = server_config(&narrow, vec![ready(&shown)], None).expect("a server");
    let met = meet(client_config(&client(), None, None).expect("a client"), server).await;
    let stream = met.client.expect("they agree");
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
    assert_eq!(suite, Some(rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256));
}

#[test]
fn wildcards_stand_for_one_label() {
    let check =
        |host: &str, pattern: &str, expected: bool| assert_eq!(is_name(host, pattern), expected, "{pattern}");
    check("a.example.com", "A.Example.com", true);
    check("a.example.com", "*.example.com", true);
    check("a.b.example.com", "*.example.com", false);
    check("example.com", "*.example.com", false);
    check("baz1.example.com", "baz*.example.com", true);
    check("foobaz.example.com", "*baz.example.com", true);
    check("a.example.com", "*", false);
    check("a.example.com", "a.*.com", false);
    check("xn--a.example.com", "xn--*.example.com", false);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let forge = Forge::new("mesh.local");
    let (one, other) = (named(&forge, &[]), named(&forge, &[]));
    let chain = pem::encode_certificates(&one.chain);
    let made = Certificate::from_pem(chain.as_bytes(), other.key.pem().as_bytes());
    assert!(matches!(made, Err(IdentityError::KeyMismatch)));
    assert!(matches!(Certificate::from_pem(chain.as_bytes(), b"none"), Err(IdentityError::AnyKey)));
    assert!(Certificate::from_pem(b"none", one.key.pem().as_bytes()).is_err());
}
