//! Trust as text, and what a chain proves; hostile chains are in [`crate::hostile`].

use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};

use super::*;
use crate::Key;
use crate::forge::{DAY, Forge, authority, id, params};
use crate::jwt_svid::public_jwk;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const PARTNER: &str = "spiffe://ally.local/ns/shop/sa/partner";

fn full(ours: &Forge, ally: &Forge) -> Trust {
    let jwk = public_jwk(&Key::generate().expect("a key")).expect("a JWK");
    let own = ours.bundle().with_jwt_keys(&json!({ "keys": [jwk] }).to_string()).expect("keys");
    let issuer = own.fingerprints().remove(0);
    Trust::new(own)
        .with_federated([ally.bundle()])
        .with_revoked(Revocations::new([id(WEB)], ["abc".to_owned()]))
        .with_issuer(Some(&issuer))
}

#[test]
fn what_was_written_is_read_again() {
    let (ours, ally) = (Forge::new("mesh.local"), Forge::new("ally.local"));
    for trust in [full(&ours, &ally), Trust::new(ours.bundle())] {
        let text = trust.to_json();
        let read = Trust::from_json(&text, "mesh.local").expect("read");
        assert_eq!(read, trust);
        assert_eq!(read.to_json(), text);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["own"], "mesh.local");
        assert_eq!(value["trust_domains"]["mesh.local"]["keys"][0]["use"], "x509-svid");
    }
}

#[test]
fn a_chain_is_revoked_by_whatever_of_it_is() {
    let (ours, ally) = (Forge::new("mesh.local"), Forge::new("ally.local"));
    let below = ours.below(&authority("mesh.local", "intermediate"));
    let mut chain = below.sign(&params(&[WEB])).chain;
    let serial = |der: &CertificateDer<'_>| svid::serial_of(der).expect("a certificate");
    let (leaf, signer, root) = (serial(&chain[0]), serial(&chain[1]), serial(&ours.certificate));
    chain.push(ours.certificate.clone());
    let check = |what: &str, revoked: Revocations, expected: bool| {
        let trust = Trust::new(ours.bundle()).with_federated([ally.bundle()]).with_revoked(revoked);
        assert_eq!(trust.revokes(&chain), expected, "{what}");
        // The same as handshakes say.
        let judged = trust.judge(&chain, SystemTime::now());
        assert_eq!(matches!(judged, Err(IdentityError::Revoked { .. })), expected, "{what}: {judged:?}");
    };
    check("nobody", Revocations::default(), false);
    check("somebody else", Revocations::new([id(PARTNER)], ["abc".to_owned()]), false);
    check("its identity", Revocations::new([id(WEB)], []), true);
    check("its certificate", Revocations::new([], [leaf]), true);
    check("its signer", Revocations::new([], [signer]), true);
    check("the root behind it, which is believed as such", Revocations::new([], [root]), false);
    let trust = Trust::new(ours.bundle()).with_revoked(Revocations::new([id(WEB)], []));
    assert!(!trust.revokes(&[]));
}

#[test]
fn damaged_trust_is_refused_and_never_read_as_less() {
    let (ours, ally) = (Forge::new("mesh.local"), Forge::new("ally.local"));
    let good: Value = serde_json::from_str(&full(&ours, &ally).to_json()).expect("JSON");
    let check = |what: &str, change: &dyn Fn(&mut Value), words: &str| {
        let mut value = good.clone();
        change(&mut value);
        let error = Trust::from_json(&value.to_string(), "mesh.local").expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    };
    check("no object", &|v| *v = json!([]), "no object `trust_domains`");
    check("no domains", &|v| v["trust_domains"] = json!({}), "no bundle of one's own");
    check("another's", &|v| v["own"] = json!("evil.local"), "not of the trust domain mesh.local");
    check("an odd issuer", &|v| v["issuer"] = json!("ABC"), "no fingerprint");
    check("an issuer that is no text", &|v| v["issuer"] = json!(7), "no fingerprint");
    check("odd revocations", &|v| v["revoked"] = json!([]), "`revoked` is no object");
    check("a list of numbers", &|v| v["revoked"]["serials"] = json!([7]), "not lists of texts");
    check("one that is none", &|v| v["revoked"]["identities"] = json!("all"), "not lists of texts");
    check("no identity", &|v| v["revoked"]["identities"] = json!(["web"]), "not a workload's SPIFFE ID");
    check("no serial", &|v| v["revoked"]["serials"] = json!(["xyz"]), "not hexadecimal");
    check("an empty serial", &|v| v["revoked"]["serials"] = json!([""]), "not hexadecimal");
    check("an odd domain", &|v| v["trust_domains"]["A B"] = json!({ "keys": [] }), "a character outside");
    check("an odd root", &|v| v["trust_domains"]["ally.local"]["keys"][0]["x5c"] = json!(["AAAA"]), "parse");
    assert!(Trust::from_json("", "mesh.local").is_err());
    assert!(Trust::from_json(&good.to_string(), "ally.local").is_err(), "it is another's");
}

#[test]
fn ones_own_trust_domain_is_never_a_federated_one() {
    let (ours, impostor) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let trust = Trust::new(ours.bundle()).with_federated([impostor.bundle(), Forge::new("a.local").bundle()]);
    assert_eq!(trust.federated().map(Bundle::trust_domain).collect::<Vec<_>>(), ["a.local"]);
    assert_eq!(trust.bundle_of("mesh.local"), Some(&ours.bundle()));
    assert_eq!(trust.bundle_of("b.local"), None);
}

#[test]
fn a_chain_tells_its_root() {
    let (old, new, ally) = (Forge::new("mesh.local"), Forge::new("mesh.local"), Forge::new("ally.local"));
    let trust = Trust::new(old.bundle_with(&[&new])).with_federated([ally.bundle()]);
    let root = |forge: &Forge| Some(forge.bundle().fingerprints().remove(0));
    assert_eq!(trust.root_of(&old.sign(&params(&[WEB])).chain), root(&old));
    let below = new.below(&authority("mesh.local", "intermediate"));
    assert_eq!(trust.root_of(&below.sign(&params(&[WEB])).chain), root(&new));
    assert_eq!(trust.root_of(&ally.sign(&params(&[PARTNER])).chain), root(&ally));
    let mut expired = params(&[WEB]);
    expired.not_after = (SystemTime::now() - DAY / 2).into();
    assert_eq!(trust.root_of(&new.sign(&expired).chain), root(&new), "also of one that has expired");
    let mut of_servers = params(&[WEB]);
    of_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(trust.root_of(&new.sign(&of_servers).chain), root(&new));
    assert_eq!(trust.root_of(&ally.sign(&params(&[WEB])).chain), None);
    assert_eq!(trust.root_of(&[]), None);
}

#[test]
fn a_chain_is_under_the_root_of_today_or_of_before() {
    let (old, new, ally) = (Forge::new("mesh.local"), Forge::new("mesh.local"), Forge::new("ally.local"));
    let check = |what: &str, trust: &Trust, chain: &[CertificateDer<'_>], expected: bool| {
        let peer = trust.appraise(chain, SystemTime::now()).expect(what);
        assert_eq!(peer.is_current, expected, "{what}");
    };
    let of_old = old.sign(&params(&[WEB])).chain;
    let of_new = new.below(&authority("mesh.local", "intermediate")).sign(&params(&[WEB])).chain;
    let of_another = new.below(&authority("mesh.local", "a replica's")).sign(&params(&[WEB])).chain;
    let of_ally = ally.sign(&params(&[PARTNER])).chain;
    let fingerprint = |forge: &Forge| forge.bundle().fingerprints().remove(0);
    let both = Trust::new(old.bundle_with(&[&new])).with_federated([ally.bundle()]);
    for (issuer, is_old, is_new) in [(&old, true, false), (&new, false, true)] {
        let trust = both.clone().with_issuer(Some(&fingerprint(issuer)));
        check("the old root", &trust, &of_old, is_old);
        check("the new root", &trust, &of_new, is_new);
        check("another intermediate", &trust, &of_another, is_new);
        check("a federated one", &trust, &of_ally, true);
    }
    check("nothing is told", &both, &of_old, true);
    let elsewhere = both.clone().with_issuer(Some(&fingerprint(&ally)));
    check("a root that is not here", &elsewhere, &of_old, false);
    let alone = Trust::new(old.bundle()).with_issuer(Some(&fingerprint(&new)));
    check("there is one root", &alone, &of_old, true);
    let mut of_servers = params(&[WEB]);
    of_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let trust = both.with_issuer(Some(&fingerprint(&new)));
    check("of servers alone", &trust, &new.sign(&of_servers).chain, true);
}

#[test]
fn a_chain_is_judged_at_a_time() {
    let forge = Forge::new("mesh.local");
    let trust = Trust::new(forge.bundle());
    let chain = forge.sign(&params(&[WEB])).chain;
    let now = SystemTime::now();
    assert_eq!(trust.judge(&chain, now).expect("good").as_str(), WEB);
    for then in [now - DAY * 2, now + DAY * 2, SystemTime::UNIX_EPOCH] {
        assert!(trust.judge(&chain, then).is_err());
    }
    assert!(matches!(trust.judge(&[], now), Err(IdentityError::NoCertificate)));
}

#[test]
fn a_proof_lasts_as_long_as_every_certificate_of_its_chain() {
    let forge = Forge::new("mesh.local");
    let now = SystemTime::now();
    let mut short = authority("mesh.local", "intermediate");
    (short.not_before, short.not_after) = ((now - DAY / 4).into(), (now + DAY / 4).into());
    let chain = forge.below(&short).sign(&params(&[WEB])).chain;
    let proof = Trust::new(forge.bundle())
        .prove(&chain[0], &chain[1..], UnixTime::now(), Role::Client)
        .expect("proven");
    assert!(proof.not_before <= now && now - DAY / 2 < proof.not_before);
    assert!(now < proof.not_after && proof.not_after <= now + DAY / 4);
}
