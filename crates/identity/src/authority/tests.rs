//! The authority's directory, and what it signs and refuses.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{
    KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};

use super::*;
use crate::IdentitySource;
use crate::forge::{DAY, id};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

fn authority() -> (tempfile::TempDir, CertificateAuthority) {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = CertificateAuthority::open_or_create(&dir.path().join("ca"), "mesh.local").expect("made");
    (dir, authority)
}

fn csr(alter: impl FnOnce(&mut CertificateParams), pair: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    alter(&mut params);
    params.serialize_request(pair).expect("signed").pem().expect("PEM")
}

#[test]
fn an_authority_that_is_opened_again_has_the_same_root() {
    let (dir, first) = authority();
    let path = dir.path().join("ca");
    let svid = first.issue(&id(WEB), DEFAULT_LIFETIME, &[]).expect("issued");
    let again = CertificateAuthority::open_or_create(&path, "mesh.local").expect("opened");
    assert_eq!(first.bundle().pem(), again.bundle().pem());
    assert_eq!(fs::read_to_string(again.bundle_path()).expect("there"), again.bundle().pem());
    svid.check_under(&again.bundle()).expect("still good");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
    for key in [ROOT_KEY, INTERMEDIATE_KEY] {
        assert_eq!(fs::metadata(path.join(key)).expect("there").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left aside");
}

#[test]
fn an_empty_directory_gets_an_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    CertificateAuthority::open_or_create(dir.path(), "mesh.local").expect("made");
    CertificateAuthority::open_or_create(dir.path(), "mesh.local").expect("opened");
}

#[test]
fn a_damaged_authority_is_refused_with_the_files_name_and_not_replaced() {
    let check = |file: &str, content: Option<&str>, words: &str| {
        let (dir, before) = authority();
        let path = dir.path().join("ca");
        match content {
            Some(content) => fs::write(path.join(file), content).expect("written"),
            None => fs::remove_file(path.join(file)).expect("removed"),
        }
        let error =
            CertificateAuthority::open_or_create(&path, "mesh.local").err().expect("refused").to_string();
        assert!(error.contains(file) && error.contains(words), "{file}: {error}");
        drop(before);
        let now = fs::read_to_string(path.join(file)).ok();
        assert_eq!(now.as_deref(), content, "left as it is");
    };
    for file in [ROOT, ROOT_KEY, INTERMEDIATE, INTERMEDIATE_KEY] {
        check(file, None, "missing");
        check(file, Some(""), "damaged");
        check(file, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "damaged");
    }
    let key = Key::generate().expect("a key").pem();
    check(INTERMEDIATE_KEY, Some(&key), "not the key of intermediate.pem");
    check(ROOT_KEY, Some(&key), "not the key of root.pem");
    let (other_dir, _) = authority();
    let root = fs::read_to_string(other_dir.path().join("ca").join(ROOT)).expect("there");
    let (dir, _) = authority();
    let path = dir.path().join("ca");
    fs::write(path.join(ROOT), root).expect("written");
    let error = CertificateAuthority::open_or_create(&path, "mesh.local").err().expect("refused").to_string();
    assert!(error.contains("not the key of root.pem"), "{error}");
}

#[test]
fn an_authority_of_another_trust_domain_is_refused() {
    let (dir, _) = authority();
    let error = CertificateAuthority::open_or_create(&dir.path().join("ca"), "other.local");
    let error = error.err().expect("refused").to_string();
    assert!(error.contains("of the trust domain mesh.local, not other.local"), "{error}");
    assert!(CertificateAuthority::open_or_create(&dir.path().join("new"), "Bad Name").is_err());
}

#[test]
fn a_directory_with_other_files_is_not_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("notes.txt"), "mine").expect("written");
    assert!(CertificateAuthority::open_or_create(dir.path(), "mesh.local").is_err());
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

#[test]
fn a_signed_key_becomes_an_svid_with_its_intermediate() {
    let (_dir, authority) = authority();
    let key = Key::generate().expect("a key");
    let csr = key.csr_pem(&id(WEB)).expect("a request");
    let before = SystemTime::now();
    let chain = authority.sign(&csr, &id(WEB), DAY, &[]).expect("signed");
    let svid = Svid::from_pem(&chain, key).expect("an SVID");
    assert_eq!(svid.id(), &id(WEB));
    assert_eq!(pem::certificates(&chain).expect("a chain").len(), 2);
    let life = svid.not_after().duration_since(svid.not_before()).expect("a life");
    assert_eq!(life, DAY + BACKDATE);
    assert!(svid.not_before() <= before - BACKDATE);
    IdentitySource::new(svid, authority.bundle()).expect("good under the root");
}

#[test]
fn no_two_certificates_share_a_serial_number() {
    let (_dir, authority) = authority();
    let key = Key::generate().expect("a key");
    let csr = key.unnamed_csr_pem().expect("a request");
    let serials: std::collections::BTreeSet<String> = (0..5)
        .map(|_| {
            let chain = authority.sign(&csr, &id(WEB), DAY, &[]).expect("signed");
            let key = Key::from_pem(&key.pem()).expect("the key");
            Svid::from_pem(&chain, key).expect("an SVID").serial()
        })
        .collect();
    assert_eq!(serials.len(), 5);
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let (_dir, authority) = authority();
    for lifetime in [AUTHORITY_LIFETIME * 2, Duration::MAX] {
        let svid = authority.issue(&id(WEB), lifetime, &[]).expect("issued");
        assert_eq!(svid.not_after(), authority.issuer_not_after);
    }
    assert!(authority.issue(&id(WEB), Duration::ZERO, &[]).is_err());
}

#[test]
fn nothing_that_a_request_asks_for_is_honoured_but_its_key() {
    let (_dir, authority) = authority();
    let pair = KeyPair::generate().expect("a key");
    let greedy = csr(
        |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.subject_alt_names = vec![
                SanType::DnsName("bank.example".try_into().expect("a name")),
                SanType::URI(WEB.try_into().expect("a URI")),
            ];
        },
        &pair,
    );
    let extra = [AlternativeName::Dns("localhost".to_owned()), AlternativeName::Ip([127, 0, 0, 1].into())];
    let chain = authority.sign(&greedy, &id(WEB), DAY, &extra).expect("signed");
    let key = Key::from_pem(&pair.serialize_pem()).expect("a key");
    let svid = Svid::from_pem(&chain, key).expect("an SVID, so no authority");
    svid.check_under(&authority.bundle()).expect("good");
    let leaf = pem::certificates(&chain).expect("a chain").swap_remove(0);
    let has = |name: &[u8]| leaf.windows(name.len()).any(|window| window == name);
    assert!(has(b"localhost") && has(&[0x87, 4, 127, 0, 0, 1]) && !has(b"bank.example"));
}

#[test]
fn requests_are_refused_in_words() {
    let (_dir, authority) = authority();
    let check = |csr: &str, words: &str| {
        let error = authority.sign(csr, &id(WEB), DAY, &[]).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    let pair = KeyPair::generate().expect("a key");
    let named = |name: &'static str| {
        move |p: &mut CertificateParams| {
            p.subject_alt_names = vec![SanType::URI(name.try_into().expect("a URI"))];
        }
    };
    check(
        &csr(named("spiffe://mesh.local/ns/shop/sa/cart"), &pair),
        "it asks for spiffe://mesh.local/ns/shop/sa/cart",
    );
    check(&csr(named("https://example.com"), &pair), "it asks for https://example.com");
    check("", "no usable certificate request");
    check("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "does not parse");
    check(&"x".repeat(20_000), "larger than 16 KiB");
    let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).expect("a key");
    check(&csr(|_| {}, &p521), "refused");
    // Another key's signature: the last byte differs.
    let good = CertificateParams::default().serialize_request(&pair).expect("signed");
    let mut der = good.der().to_vec();
    if let Some(last) = der.last_mut() {
        *last ^= 1;
    }
    check(&pem::encode("CERTIFICATE REQUEST", &der), "its signature is not by its key");
    let other = SpiffeId::parse("spiffe://other.local/a").expect("an ID");
    let error = authority.sign(&csr(|_| {}, &pair), &other, DAY, &[]).expect_err("refused");
    assert!(matches!(error, IdentityError::TrustDomain { .. }), "{error}");
}

#[test]
fn keys_of_foreign_workloads_are_signed_where_they_are_strong() {
    let (_dir, authority) = authority();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    for pair in [rsa, p384, ed25519] {
        let chain = authority.sign(&csr(|_| {}, &pair), &id(WEB), DAY, &[]).expect("signed");
        let leaf = pem::certificates(&chain).expect("a chain").swap_remove(0);
        let public = pair.public_key_raw();
        assert!(leaf.windows(public.len()).any(|window| window == public), "{:?}", pair.algorithm());
        assert_eq!(crate::peer_id(&[leaf]).expect("an SVID"), id(WEB));
    }
}

#[test]
fn a_request_is_known_again_by_its_key() {
    let (first, second) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
    let of = |csr: String| request_key_fingerprint(&csr).expect("a request");
    let name = of(first.unnamed_csr_pem().expect("a request"));
    assert_eq!(name.len(), 64);
    assert_eq!(name, of(first.unnamed_csr_pem().expect("a request")));
    assert_eq!(name, of(first.csr_pem(&id(WEB)).expect("a request")));
    assert_ne!(name, of(second.unnamed_csr_pem().expect("a request")));
    assert!(request_key_fingerprint("").is_err());
}
