//! Handshakes in memory, with good certificates; those with bad ones are in [`crate::hostile`].

use rustls::HandshakeKind;

use super::*;
use crate::Revocations;
use crate::forge::{Forge, Met, id, meet};
use crate::peer_id;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";

fn server_id(met: &Met) -> String {
    let stream = met.client.as_ref().expect("the client agreed");
    peer_id(stream.get_ref().1.peer_certificates().unwrap_or_default()).expect("a peer").to_string()
}

fn client_id(met: &Met) -> Result<String, String> {
    let stream = met.server.as_ref().expect("the server agreed");
    let peer = peer_id(stream.get_ref().1.peer_certificates().unwrap_or_default());
    peer.map(|id| id.to_string()).map_err(|error| error.to_string())
}

fn kind(met: &Met) -> HandshakeKind {
    let stream = met.client.as_ref().expect("the client agreed");
    stream.get_ref().1.handshake_kind().expect("a finished handshake")
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let forge = Forge::new("mesh.local");
    let (web, cart) = (forge.source(WEB), forge.source(CART));
    let client = web.client_config(&[id(CART)], &[b"h2"]);
    let met = meet(client, cart.server_config(&[b"h2", b"http/1.1"], ClientCertificate::Required)).await;
    assert_eq!(server_id(&met), CART);
    assert_eq!(client_id(&met).as_deref(), Ok(WEB));
    let stream = met.client.expect("agreed");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_server_that_is_not_expected_is_refused() {
    let forge = Forge::new("mesh.local");
    let (web, cart) = (forge.source(WEB), forge.source(CART));
    let check = async |expected: &[SpiffeId], words: &str| {
        let client = web.client_config(expected, &[]);
        let met = meet(client, cart.server_config(&[], ClientCertificate::Required)).await;
        let error = met.client.expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(
        &[id(WEB)],
        "the certificate is that of spiffe://mesh.local/ns/shop/sa/cart, expected spiffe://mesh.local/ns/shop/sa/web",
    )
    .await;
    check(&[], "expected nobody").await;
    let client = bootstrap_client_config(&forge.bundle(), &id(WEB));
    let met = meet(client, cart.server_config(&[b"h2"], ClientCertificate::Optional)).await;
    assert!(met.client.is_err());
}

#[tokio::test]
async fn a_client_without_certificate_is_let_in_where_it_is_optional() {
    let forge = Forge::new("mesh.local");
    let cart = forge.source(CART);
    let check = async |mode: ClientCertificate, expected: Result<&str, &str>| {
        let client = bootstrap_client_config(&forge.bundle(), &id(CART));
        let met = meet(client, cart.server_config(&[b"h2"], mode)).await;
        match expected {
            Ok(peer) => assert_eq!(client_id(&met), Err(peer.to_owned()), "{mode:?}"),
            Err(words) => {
                let error = met.server.expect_err("refused").to_string();
                assert!(error.contains(words), "{mode:?}: {error}");
            }
        }
    };
    check(ClientCertificate::Optional, Ok("the peer showed no certificate")).await;
    check(ClientCertificate::None, Ok("the peer showed no certificate")).await;
    check(ClientCertificate::Required, Err("no certificates")).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_by_the_next_handshake() {
    let forge = Forge::new("mesh.local");
    let (web, cart) = (forge.source(WEB), forge.source(CART));
    let client = web.client_config(&[id(CART)], &[]);
    let server = cart.server_config(&[], ClientCertificate::Required);
    let shown = async || {
        let met = meet(client.clone(), server.clone()).await;
        let of_server = met.client.expect("agreed").get_ref().1.peer_certificates().expect("some")[0].clone();
        let of_client = met.server.expect("agreed").get_ref().1.peer_certificates().expect("some")[0].clone();
        (of_client, of_server)
    };
    let first = shown().await;
    cart.replace_svid(forge.svid(CART)).expect("replaced");
    let second = shown().await;
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1);
    web.replace_svid(forge.svid(WEB)).expect("replaced");
    let third = shown().await;
    assert_ne!(second.0, third.0);
    assert_eq!(second.1, third.1);
}

#[tokio::test]
async fn a_resumed_session_still_knows_both_peers() {
    let forge = Forge::new("mesh.local");
    let (web, cart) = (forge.source(WEB), forge.source(CART));
    let client = web.client_config(&[id(CART)], &[]);
    let server = cart.server_config(&[], ClientCertificate::Required);
    for expected in [false, true, true] {
        let met = meet(client.clone(), server.clone()).await;
        assert_eq!(kind(&met) == HandshakeKind::Resumed, expected);
        assert_eq!((server_id(&met).as_str(), client_id(&met).as_deref()), (CART, Ok(WEB)));
    }
}

#[tokio::test]
async fn sessions_end_when_certificates_or_roots_change() {
    let forge = Forge::new("mesh.local");
    let check = async |what: &str, change: &dyn Fn(&IdentitySource, &IdentitySource)| {
        let (web, cart) = (forge.source(WEB), forge.source(CART));
        let client = web.client_config(&[id(CART)], &[]);
        let server = cart.server_config(&[], ClientCertificate::Required);
        meet(client.clone(), server.clone()).await;
        change(&web, &cart);
        let met = meet(client, server).await;
        assert_ne!(kind(&met), HandshakeKind::Resumed, "{what}");
    };
    check("the client's certificate", &|web, _| web.replace_svid(forge.svid(WEB)).expect("replaced")).await;
    check("the server's certificate", &|_, cart| cart.replace_svid(forge.svid(CART)).expect("replaced"))
        .await;
    let roots = forge.bundle_with(&[&Forge::new("mesh.local")]);
    check("the client's roots", &|web, _| web.replace_bundle(roots.clone()).expect("replaced")).await;
    check("the server's roots", &|_, cart| cart.replace_bundle(roots.clone()).expect("replaced")).await;
    let revoked =
        Trust::new(forge.bundle()).with_revoked(Revocations::new([id("spiffe://mesh.local/x")], []));
    check("who is revoked", &|_, cart| cart.replace_trust(revoked.clone()).expect("replaced")).await;
}

#[tokio::test]
async fn a_root_that_is_taken_out_is_out_at_the_next_handshake() {
    let (old, new) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let (web, cart) = (old.source(WEB), old.source(CART));
    let client = web.client_config(&[id(CART)], &[]);
    let server = cart.server_config(&[], ClientCertificate::Required);
    assert!(meet(client.clone(), server.clone()).await.server.is_ok());
    cart.replace_bundle(new.bundle()).expect("replaced");
    let error = meet(client, server).await.server.expect_err("refused").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[test]
fn only_ones_own_identity_and_trust_domain_can_be_put_in_place() {
    let forge = Forge::new("mesh.local");
    let web = forge.source(WEB);
    let serial = web.svid().serial();
    let error = web.replace_svid(forge.svid(CART)).expect_err("refused");
    assert!(matches!(error, IdentityError::Unexpected { .. }), "{error}");
    let error = web.replace_svid(Forge::new("mesh.local").svid(WEB)).expect_err("refused");
    assert!(matches!(error, IdentityError::Chain { .. }), "{error}");
    let error = web.replace_bundle(Forge::new("other.local").bundle()).expect_err("refused");
    assert!(matches!(error, IdentityError::TrustDomain { .. }), "{error}");
    assert_eq!(web.svid().serial(), serial);
}

#[test]
fn equal_configurations_are_one_and_end_with_their_last_user() {
    let web = Forge::new("mesh.local").source(WEB);
    let first = web.client_config(&[id(CART), id(WEB)], &[b"h2"]);
    assert!(Arc::ptr_eq(&first, &web.client_config(&[id(WEB), id(CART), id(CART)], &[b"h2"])));
    assert!(!Arc::ptr_eq(&first, &web.client_config(&[id(CART)], &[b"h2"])));
    let server = web.server_config(&[], ClientCertificate::Required);
    assert!(Arc::ptr_eq(&server, &web.server_config(&[], ClientCertificate::Required)));
    assert!(!Arc::ptr_eq(&server, &web.server_config(&[], ClientCertificate::Optional)));
    drop((first, server));
    drop(web.client_config(&[], &[]));
    assert_eq!(web.clients.lock().expect("unpoisoned").len(), 1);
    assert_eq!(Arc::strong_count(&web), 1, "configurations that are gone hold nothing");
}

#[test]
fn changes_are_told() {
    let forge = Forge::new("mesh.local");
    let web = forge.source(WEB);
    let changes = web.changes();
    assert!(!changes.has_changed().expect("alive"));
    web.replace_svid(forge.svid(WEB)).expect("replaced");
    assert!(changes.has_changed().expect("alive"));
}

#[test]
fn it_is_known_which_root_is_ones_own_and_whether_a_peer_is_under_that_of_today() {
    let (old, new) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let (web, peer) = (old.source(WEB), old.svid(CART));
    let fingerprint = |forge: &Forge| forge.bundle().fingerprints().remove(0);
    assert_eq!(web.own_root(), Some(fingerprint(&old)));
    for (issuer, expected) in [(&old, true), (&new, false)] {
        let trust = Trust::new(old.bundle_with(&[&new])).with_issuer(Some(&fingerprint(issuer)));
        web.replace_trust(trust).expect("replaced");
        // The second time it is remembered.
        for _ in 0..2 {
            let judged = web.appraise(peer.chain()).expect("good");
            assert_eq!((judged.id.as_str(), judged.is_current), (CART, expected));
        }
    }
    web.replace_svid(new.svid(WEB)).expect("replaced");
    assert_eq!(web.own_root(), Some(fingerprint(&new)));
    web.replace_bundle(Forge::new("mesh.local").bundle()).expect("replaced");
    assert_eq!(web.own_root(), None);
}

#[test]
fn no_configuration_writes_secrets_down_or_takes_what_can_be_played_again() {
    const SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
    let forge = Forge::new("mesh.local");
    let source = forge.source(WEB);
    for asked in [ClientCertificate::Required, ClientCertificate::Optional, ClientCertificate::None] {
        let server = source.server_config(&[b"h2"], asked);
        assert_eq!((server.max_early_data_size, server.send_half_rtt_data), (0, false));
        // Whatever SSLKEYLOGFILE says.
        assert!(!server.key_log.will_log(SECRET));
    }
    let clients = [
        source.client_config(&[id(CART)], &[b"h2"]),
        bootstrap_client_config(&forge.bundle(), &id(CART)),
        anonymous_client_config(Trust::new(forge.bundle()), &id(CART)),
    ];
    for client in clients {
        assert!(!client.enable_early_data && !client.key_log.will_log(SECRET));
    }
}

#[tokio::test]
async fn who_is_revoked_is_not_taken_by_who_has_no_certificate_either() {
    let forge = Forge::new("mesh.local");
    let server = forge.source(WEB).server_config(&[], ClientCertificate::Optional);
    for (revoked, is_taken) in [(id(CART), true), (id(WEB), false)] {
        let trust = Trust::new(forge.bundle()).with_revoked(Revocations::new([revoked], []));
        let mut config = ClientConfig::clone(&anonymous_client_config(trust, &id(WEB)));
        config.alpn_protocols.clear();
        let met = meet(Arc::new(config), Arc::clone(&server)).await;
        assert_eq!(met.client.is_ok(), is_taken);
    }
}
