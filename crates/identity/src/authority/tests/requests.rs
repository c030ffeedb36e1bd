//! What a request may ask for, and thousands of requests that somebody has bent.

use rcgen::{
    Attribute, BasicConstraints, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SanType,
};

use super::*;

fn names(names: Vec<SanType>) -> impl FnOnce(&mut CertificateParams) {
    |params| params.subject_alt_names = names
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

#[track_caller]
fn check_refused(csr: &str, words: &str) {
    let error = request::public_key(csr, &id(WEB), &[]).expect_err("refused").to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn what_a_request_asks_for_beyond_its_key_is_refused() {
    let pair = KeyPair::generate().expect("a key");
    let check =
        |alter: &dyn Fn(&mut CertificateParams), words: &str| check_refused(&csr(alter, &pair), words);
    check(
        &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "to be a certificate authority",
    );
    check(
        &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        "to be a certificate authority",
    );
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        check(
            &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, usage],
            "keyCertSign, cRLSign",
        );
    }
    for usage in
        [KeyUsagePurpose::ContentCommitment, KeyUsagePurpose::DataEncipherment, KeyUsagePurpose::DecipherOnly]
    {
        check(&|params| params.key_usages = vec![usage], "another key usage");
    }
    for usage in [
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::CodeSigning,
        ExtendedKeyUsagePurpose::OcspSigning,
    ] {
        check(&|params| params.extended_key_usages.push(usage.clone()), "another extended key usage");
    }
    let other = "spiffe://mesh.local/ns/shop/sa/cart";
    let named = |asked: &[&str]| {
        let asked: Vec<_> = asked.iter().map(|text| uri(text)).collect();
        move |params: &mut CertificateParams| params.subject_alt_names.clone_from(&asked)
    };
    check(
        &named(&[other]),
        "it asks for spiffe://mesh.local/ns/shop/sa/cart, but the asker is spiffe://mesh.local/ns/shop/sa/web",
    );
    check(&named(&[WEB, other]), "it asks for spiffe://mesh.local/ns/shop/sa/cart");
    check(&named(&["https://example.com"]), "it asks for https://example.com");
    check(
        &named(&["spiffe://mesh.local/ns/shop/sa/web\0"]),
        "it asks for spiffe://mesh.local/ns/shop/sa/web\\u{0}",
    );
    check(&named(&["SPIFFE://mesh.local/ns/shop/sa/web"]), "it asks for SPIFFE://");
    let dns = SanType::DnsName("bank.example".try_into().expect("a name"));
    check(&|params| params.subject_alt_names = vec![uri(WEB), dns.clone()], "the host name bank.example");
    check(
        &|params| params.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())],
        "the address 192.0.2.1",
    );
    check(
        &|params| {
            params.subject_alt_names = vec![SanType::Rfc822Name("a@example.com".try_into().expect("ASCII"))];
        },
        "another kind than a URI",
    );
    // Certificate policies, and one that nobody knows.
    for oid in [&[2, 5, 29, 32][..], &[1, 2, 3, 4]] {
        let unknown = CustomExtension::from_oid_content(oid, vec![0x30, 0]);
        check(&|params| params.custom_extensions.push(unknown.clone()), "not given");
    }
    let twice = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0]);
    check(
        &|params| {
            params.is_ca = IsCa::ExplicitNoCa;
            params.custom_extensions.push(twice.clone());
        },
        "an extension twice",
    );
}

#[test]
fn what_a_request_may_ask_for() {
    let pair = KeyPair::generate().expect("a key");
    let extra = [AlternativeName::Dns("localhost".to_owned()), AlternativeName::Ip([127, 0, 0, 1].into())];
    let check = |alter: &dyn Fn(&mut CertificateParams)| {
        request::public_key(&csr(alter, &pair), &id(WEB), &extra).expect("taken");
    };
    check(&|_| {});
    check(&|params| params.subject_alt_names = vec![uri(WEB)]);
    check(&|params| {
        params.subject_alt_names = vec![
            uri(WEB),
            SanType::DnsName("localhost".try_into().expect("a name")),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
    });
    check(&|params| params.is_ca = IsCa::ExplicitNoCa);
    check(&|params| {
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
    });
    check(&|params| {
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    });
    // The subject is nobody's business.
    check(&|params| {
        params.distinguished_name.push(DnType::CommonName, "spiffe://mesh.local/ns/shop/sa/cart");
    });
}

#[test]
fn texts_and_keys_that_are_no_good_request() {
    check_refused("", "no usable certificate request");
    check_refused(
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "does not parse",
    );
    check_refused(&"x".repeat(20_000), "larger than 16 KiB");
    let pair = KeyPair::generate().expect("a key");
    let good = csr(|_| {}, &pair);
    check_refused(&good.repeat(2), "several PEM sections");
    let certificate = pem::encode("CERTIFICATE", b"x");
    check_refused(&format!("{certificate}{good}"), "several PEM sections");
    check_refused(&format!("{good}and more"), "something follows it");
    request::public_key(&format!("what openssl prints before\n{good}\r\n \n"), &id(WEB), &[]).expect("taken");
    check_refused(&good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "no usable certificate request");

    let der = CertificateParams::default().serialize_request(&pair).expect("signed").der().to_vec();
    let text = |der: &[u8]| pem::encode("CERTIFICATE REQUEST", der);
    let mut bent = der.clone();
    if let Some(last) = bent.last_mut() {
        *last ^= 1;
    }
    check_refused(&text(&bent), "its signature is not by its key");
    check_refused(&text(&[&der[..], &[0]].concat()), "does not parse");
    // A value more within the whole, which the signature does not cover.
    check_refused(&text(&grown(&der, &[5, 0])), "does not parse");

    let of = |algorithm| csr(|_| {}, &KeyPair::generate_for(algorithm).expect("a key"));
    check_refused(&of(&PKCS_ECDSA_P521_SHA512), "another curve than P-256 and P-384");
    check_refused(WEAK_RSA, "its RSA key has 1024 bits");
    check_refused(SMALL_EXPONENT, "public exponent");
    check_refused(P224, "another curve than P-256 and P-384");
    check_refused(SHA1, "broken hash");
    let two_sets = Attribute {
        oid: &[1, 2, 840, 113_549, 1, 9, 14],
        values: [&[0x31, 4][..], &[0x30, 0, 0x30, 0]].concat(),
    };
    let params = CertificateParams::default();
    let request = params.serialize_request_with_attributes(&pair, vec![two_sets]).expect("signed");
    check_refused(&text(request.der()), "does not parse");
    // The second of two lists asks for more.
    let mut modest = CertificateParams::default();
    modest.subject_alt_names = vec![uri(WEB)];
    let constraints = [0x30, 15, 6, 3, 0x55, 0x1d, 0x13, 1, 1, 0xff, 4, 5, 0x30, 3, 1, 1, 0xff];
    let greedy = [&[0x31, 19, 0x30, 17][..], &constraints].concat();
    let greedy = Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 14], values: greedy };
    let request = modest.serialize_request_with_attributes(&pair, vec![greedy]).expect("signed");
    check_refused(&text(request.der()), "to be a certificate authority");
}

/// As `openssl req -new` makes them with keys that are too weak; they guard nothing.
const WEAK_RSA: &str = include_str!("rsa1024.csr.pem");
const SMALL_EXPONENT: &str = include_str!("rsa-e3.csr.pem");
const P224: &str = include_str!("p224.csr.pem");
const SHA1: &str = include_str!("sha1.csr.pem");

/// A DER sequence with a value more at its end.
fn grown(der: &[u8], value: &[u8]) -> Vec<u8> {
    // Its length has two bytes, or one after a marker.
    let begin = match der[1] {
        0x82 => 4,
        0x81 => 3,
        _ => 2,
    };
    let content = [&der[begin..], value].concat();
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[der[0], 0x82][..], &length, &content].concat()
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
fn a_certificate_has_the_names_that_the_caller_gives() {
    let (_dir, authority) = authority();
    let pair = KeyPair::generate().expect("a key");
    let extra = [AlternativeName::Dns("localhost".to_owned()), AlternativeName::Ip([127, 0, 0, 1].into())];
    let chain = authority.sign(&csr(names(vec![uri(WEB)]), &pair), &id(WEB), DAY, &extra).expect("signed");
    let leaf = pem::certificates(&chain).expect("a chain").swap_remove(0);
    let has = |name: &[u8]| leaf.windows(name.len()).any(|window| window == name);
    assert!(has(b"localhost") && has(&[0x87, 4, 127, 0, 0, 1]));
    let other = SpiffeId::parse("spiffe://other.local/a").expect("an ID");
    let error = authority.sign(&csr(|_| {}, &pair), &other, DAY, &[]).expect_err("refused");
    assert!(matches!(error, IdentityError::TrustDomain { .. }), "{error}");
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

/// Repeatable numbers, for bending bytes.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        // Source: Marsaglia, Xorshift RNGs.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end
    }
}

/// Whatever somebody makes of a request: if it is taken at all, it is for the key that signed it.
fn check_bent(text: &str, key: &[u8]) -> bool {
    let taken = request::public_key(text, &id(WEB), &[]);
    if let Ok(taken) = &taken {
        assert_eq!(taken.der_bytes(), key, "another key is taken out of {text}");
    }
    taken.is_ok()
}

#[test]
fn a_bent_request_never_gets_another_key_signed() {
    let pair = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(WEB)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let der = params.serialize_request(&pair).expect("signed").der().to_vec();
    let key = pair.public_key_raw();
    let text = |der: &[u8]| pem::encode("CERTIFICATE REQUEST", der);
    assert!(check_bent(&text(&der), key));
    let mut taken = 0;
    for place in 0..der.len() {
        for bit in 0..8 {
            let mut bent = der.clone();
            bent[place] ^= 1 << bit;
            taken += usize::from(check_bent(&text(&bent), key));
        }
        for end in [0, 0xff] {
            let mut bent = der.clone();
            bent[place] = end;
            taken += usize::from(bent != der && check_bent(&text(&bent), key));
        }
        let (head, tail) = der.split_at(place);
        taken += usize::from(check_bent(&text(head), key));
        taken += usize::from(check_bent(&text(&[head, &[0], tail].concat()), key));
        taken += usize::from(check_bent(&text(&[head, &tail[1..]].concat()), key));
    }
    assert_eq!(taken, 0, "bent requests are taken");
    let mut numbers = Numbers(0x5eed);
    for _ in 0..3000 {
        // Pieces of it in another order, and lengths that lie.
        let mut bent = der.clone();
        for _ in 0..=numbers.below(3) {
            let (from, to) = (numbers.below(der.len()), numbers.below(der.len()));
            let length = numbers.below(der.len() - from.max(to)) + 1;
            let piece = der[from..from + length.min(der.len() - from)].to_vec();
            bent.splice(
                to.min(bent.len())..(to + numbers.below(4)).min(bent.len()).max(to.min(bent.len())),
                piece,
            );
        }
        check_bent(&text(&bent), key);
    }
    let plain = text(&der);
    for _ in 0..2000 {
        let mut bent = plain.clone().into_bytes();
        for _ in 0..=numbers.below(3) {
            let place = numbers.below(bent.len());
            bent[place] = u8::try_from(numbers.below(128)).expect("small");
        }
        check_bent(&String::from_utf8(bent).expect("ASCII"), key);
    }
}
