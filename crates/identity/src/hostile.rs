//! Hostile certificates: each is shown by a client and by a server, in handshakes in memory, and judged without one.
//! Each must be refused on both ends with the words that say why; the good ones among them are taken.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use crate::forge::{DAY, Forge, Forged, authority, der, forged_client, forged_server, id, meet, params};
use crate::{ClientCertificate, IdentitySource, Key, Revocations, SpiffeId, Trust};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";
const GONE: &str = "spiffe://mesh.local/ns/shop/sa/gone";
const PARTNER: &str = "spiffe://ally.local/ns/shop/sa/partner";
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
const UNKNOWN: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];

/// What is made of a certificate: taken, or refused in these words.
type Outcome = Result<&'static str, &'static str>;

/// A certificate, and what is made of it where a client shows it and where a server does.
struct Case {
    what: &'static str,
    shown: Forged,
    as_client: Outcome,
    as_server: Outcome,
}

/// Two trust domains that believe each other, and one end that is true to its SVID.
struct World {
    ours: Forge,
    ally: Forge,
    trust: Trust,
    victim: std::sync::Arc<IdentitySource>,
}

impl World {
    fn new() -> Self {
        let (ours, ally) = (Forge::new("mesh.local"), Forge::new("ally.local"));
        let revoked = Revocations::new([id(GONE)], ["bad5e41".to_owned(), "bad5e42".to_owned()]);
        let trust = Trust::new(ours.bundle()).with_federated([ally.bundle()]).with_revoked(revoked);
        let victim = ours.source(CART);
        victim.replace_trust(trust.clone()).expect("its own trust domain");
        Self { ours, ally, trust, victim }
    }

    /// What the victim makes of a client with this certificate.
    async fn as_server_of(&self, shown: &Forged) -> Result<(), String> {
        let client = forged_client(&self.trust, &[id(CART)], shown);
        let met = meet(client, self.victim.server_config(&[], ClientCertificate::Required)).await;
        assert_eq!(met.server.is_err(), met.client.is_err(), "both ends agree whether they met");
        met.server.map(drop).map_err(|error| error.to_string())
    }

    /// What the victim makes of a server with this certificate.
    async fn as_client_of(&self, shown: &Forged) -> Result<(), String> {
        let expected = [id(WEB), id(CART), id(GONE), id(PARTNER)];
        let met = meet(self.victim.client_config(&expected, &[]), forged_server(shown)).await;
        met.client.map(drop).map_err(|error| error.to_string())
    }

    async fn check(&self, case: &Case) {
        agree(case.what, "as a client", &self.as_server_of(&case.shown).await, case.as_client);
        agree(case.what, "as a server", &self.as_client_of(&case.shown).await, case.as_server);
        let judged = self.victim.judge(&case.shown.chain).map(drop).map_err(|error| error.to_string());
        agree(case.what, "judged", &judged, case.as_client.or(case.as_server));
    }
}

fn agree(what: &str, how: &str, got: &Result<(), String>, wanted: Outcome) {
    match (got, wanted) {
        (Ok(()), Ok(_)) => {}
        (Err(got), Err(words)) if got.contains(words) => {}
        _ => panic!("{what}, {how}: {got:?}, wanted {wanted:?}"),
    }
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = params(&[WEB]);
    change(&mut params);
    params
}

/// A certificate with these URIs, byte by byte.
fn named(uris: &[&[u8]]) -> CertificateParams {
    let names: Vec<u8> = uris.iter().flat_map(|uri| der(0x86, uri)).collect();
    changed(|p| {
        p.subject_alt_names.clear();
        p.custom_extensions.push(CustomExtension::from_oid_content(SUBJECT_ALT_NAME, der(0x30, &names)));
    })
}

fn extended(oid: &[u64], critical: bool) -> CertificateParams {
    let mut extension = CustomExtension::from_oid_content(oid, der(0x05, &[]));
    extension.set_criticality(critical);
    changed(|p| p.custom_extensions.push(extension))
}

fn usages(usages: &[KeyUsagePurpose]) -> CertificateParams {
    changed(|p| p.key_usages = usages.to_vec())
}

fn purpose(purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    changed(|p| p.extended_key_usages = vec![purpose])
}

/// An intermediate's certificate.
fn signer(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = authority("mesh.local", "intermediate");
    change(&mut params);
    params
}

fn both(what: &'static str, shown: Forged, outcome: Outcome) -> Case {
    Case { what, shown, as_client: outcome, as_server: outcome }
}

fn good(world: &World) -> Vec<Case> {
    let web = params(&[WEB]);
    let below = world.ours.below(&signer(|_| {}));
    let mut with_root = below.sign(&web);
    with_root.chain.push(world.ours.certificate.clone());
    let dns = changed(|p| p.subject_alt_names.push(SanType::DnsName("web".try_into().expect("a name"))));
    let no_purpose = changed(|p| p.extended_key_usages.clear());
    let cases = [
        ("one of ours", world.ours.sign(&web)),
        ("one under an intermediate", below.sign(&web)),
        ("one two intermediates deep", below.below(&signer(|_| {})).sign(&web)),
        ("an intermediate that names nobody", {
            world.ours.below(&signer(|p| p.subject_alt_names.clear())).sign(&web)
        }),
        ("an intermediate named with a slash", {
            let uri = SanType::URI("spiffe://mesh.local/".try_into().expect("ASCII"));
            world.ours.below(&signer(|p| p.subject_alt_names = vec![uri])).sign(&web)
        }),
        ("its root behind it", with_root),
        ("one of a federated trust domain", world.ally.sign(&params(&[PARTNER]))),
        ("a DNS name beside", world.ours.sign(&dns)),
        ("no purposes", world.ours.sign(&no_purpose)),
        ("an unknown extension that is not critical", world.ours.sign(&extended(UNKNOWN, false))),
    ];
    cases.into_iter().map(|(what, shown)| both(what, shown, Ok("taken"))).collect()
}

fn names(world: &World) -> Vec<Case> {
    const SPIFFE_ID: Outcome = Err("is not a workload's SPIFFE ID");
    const TWO: Outcome = Err("exactly one URI name, this certificate has 2");
    let long = format!("spiffe://mesh.local/{}", "a".repeat(2048));
    let dns = changed(|p| p.subject_alt_names = vec![SanType::DnsName("web".try_into().expect("a name"))]);
    let cases: Vec<(&str, CertificateParams, Outcome)> = vec![
        ("two URIs", params(&[WEB, CART]), TWO),
        ("the same URI twice", params(&[WEB, WEB]), TWO),
        ("a second URI that is no text", named(&[WEB.as_bytes(), b"\xff\xfe"]), TWO),
        ("a second URI that is empty", named(&[WEB.as_bytes(), b""]), TWO),
        ("a URI that is no text", named(&[b"spiffe://mesh.local/\xff"]), Err("no text")),
        ("no names", params(&[]), Err("exactly one URI name, this certificate has 0")),
        ("a DNS name alone", dns, Err("exactly one URI name, this certificate has 0")),
        ("no path", params(&["spiffe://mesh.local"]), SPIFFE_ID),
        ("an empty path", params(&["spiffe://mesh.local/"]), SPIFFE_ID),
        ("an empty URI", named(&[b""]), SPIFFE_ID),
        ("another scheme", params(&["https://mesh.local/ns/shop/sa/web"]), SPIFFE_ID),
        ("an upper-case scheme", params(&["SPIFFE://mesh.local/ns/shop/sa/web"]), SPIFFE_ID),
        ("an upper-case trust domain", params(&["spiffe://Mesh.Local/ns/shop/sa/web"]), SPIFFE_ID),
        ("a percent-encoding", params(&["spiffe://mesh.local/ns/shop/sa/%77eb"]), SPIFFE_ID),
        ("an encoded slash", params(&["spiffe://mesh.local/ns/shop%2Fsa/web"]), SPIFFE_ID),
        ("a user", params(&["spiffe://root@mesh.local/ns/shop/sa/web"]), SPIFFE_ID),
        ("a port", params(&["spiffe://mesh.local:443/ns/shop/sa/web"]), SPIFFE_ID),
        ("a query", params(&["spiffe://mesh.local/ns/shop/sa/web?a=b"]), SPIFFE_ID),
        ("a fragment", params(&["spiffe://mesh.local/ns/shop/sa/web#a"]), SPIFFE_ID),
        ("a way up", params(&["spiffe://mesh.local/ns/shop/sa/cart/../web"]), SPIFFE_ID),
        ("a dot", params(&["spiffe://mesh.local/ns/./shop/sa/web"]), SPIFFE_ID),
        ("two slashes", params(&["spiffe://mesh.local/ns//shop/sa/web"]), SPIFFE_ID),
        ("a slash at the end", params(&["spiffe://mesh.local/ns/shop/sa/web/"]), SPIFFE_ID),
        ("a NUL at the end", named(&[b"spiffe://mesh.local/ns/shop/sa/web\0"]), SPIFFE_ID),
        ("a NUL and more", named(&[b"spiffe://mesh.local/ns/shop/sa/web\0.evil"]), SPIFFE_ID),
        ("a NUL in the trust domain", named(&[b"spiffe://mesh.local\0.evil.local/ns/a/sa/b"]), SPIFFE_ID),
        ("a line break", named(&[b"spiffe://mesh.local/ns/shop/sa/web\n"]), SPIFFE_ID),
        ("a letter that looks alike", named(&["spiffe://mesh.local/ns/shop/sa/wеb".as_bytes()]), SPIFFE_ID),
        ("a very long path", named(&[long.as_bytes()]), SPIFFE_ID),
    ];
    let sign =
        |(what, params, outcome): (_, CertificateParams, _)| both(what, world.ours.sign(&params), outcome);
    cases.into_iter().map(sign).collect()
}

fn uses(world: &World) -> Vec<Case> {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign};
    const USAGE: Outcome = Err("must be digitalSignature");
    // Whoever reads the first of two sees another certificate than who reads the last.
    let also = |oid: &[u64], content: Vec<u8>| {
        changed(|p| p.custom_extensions.push(CustomExtension::from_oid_content(oid, content)))
    };
    let names_again = also(SUBJECT_ALT_NAME, der(0x30, &der(0x86, CART.as_bytes())));
    let constraints_again = also(BASIC_CONSTRAINTS, der(0x30, &der(0x01, &[0xff])));
    let (past, to_come) = (SystemTime::now() - DAY / 2, SystemTime::now() + DAY / 2);
    let ca = changed(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let cases: Vec<(&str, CertificateParams, Outcome)> = vec![
        ("an authority's", ca, Err("must not be a certificate authority's")),
        ("two lists of names", names_again, Err("does not parse")),
        ("two words on whether it is an authority's", constraints_again, Err("does not parse")),
        ("expired", changed(|p| p.not_after = past.into()), Err("expired")),
        ("not yet valid", changed(|p| p.not_before = to_come.into()), Err("not valid yet")),
        ("no key usage", usages(&[]), USAGE),
        ("no digitalSignature", usages(&[KeyAgreement]), USAGE),
        ("keyCertSign", usages(&[DigitalSignature, KeyCertSign]), USAGE),
        ("cRLSign", usages(&[DigitalSignature, CrlSign]), USAGE),
        ("for code", purpose(ExtendedKeyUsagePurpose::CodeSigning), Err("extended key usage")),
        (
            "a critical extension that is unknown",
            extended(UNKNOWN, true),
            Err("UnsupportedCriticalExtension"),
        ),
    ];
    let sign =
        |(what, params, outcome): (_, CertificateParams, _)| both(what, world.ours.sign(&params), outcome);
    let mut cases: Vec<Case> = cases.into_iter().map(sign).collect();
    let unknown = signer(|p| p.custom_extensions = extended(UNKNOWN, true).custom_extensions);
    cases.push(both(
        "an intermediate with a critical extension that is unknown",
        world.ours.below(&unknown).sign(&params(&[WEB])),
        Err("UnsupportedCriticalExtension"),
    ));
    cases.push(Case {
        what: "for clients alone",
        shown: world.ours.sign(&purpose(ExtendedKeyUsagePurpose::ClientAuth)),
        as_client: Ok("taken"),
        as_server: Err("extended key usage"),
    });
    cases.push(Case {
        what: "for servers alone",
        shown: world.ours.sign(&purpose(ExtendedKeyUsagePurpose::ServerAuth)),
        as_client: Err("extended key usage"),
        as_server: Ok("taken"),
    });
    cases
}

fn roots(world: &World) -> Vec<Case> {
    const NOT_SIGNED: Outcome = Err("UnknownIssuer");
    // Its signer bears the name of our root, and has another key.
    const FORGED: Outcome = Err("BadSignature");
    let web = params(&[WEB]);
    let key = Key::generate().expect("a key");
    let self_signed = key.with_pair(|pair| Ok(web.self_signed(pair)?)).expect("signed");
    let self_signed = Forged { chain: vec![self_signed.der().clone()], key };
    let foreign = Forge::new("mesh.local");
    let mut foreign_root_shown = foreign.sign(&web);
    foreign_root_shown.chain.push(foreign.certificate.clone());
    let mut ours_shown = foreign.sign(&web);
    ours_shown.chain.push(world.ours.certificate.clone());
    let mut alone = world.ours.below(&signer(|_| {})).sign(&web);
    alone.chain.truncate(1);
    vec![
        both("self-signed", self_signed, NOT_SIGNED),
        both("a foreign root", Forge::new("evil.local").sign(&web), NOT_SIGNED),
        both("a foreign root that claims our name", foreign.sign(&web), FORGED),
        both("a foreign root that is shown", foreign_root_shown, FORGED),
        both("our root behind a foreign one's", ours_shown, FORGED),
        both("a federated root that vouches for ours", world.ally.sign(&web), NOT_SIGNED),
        both("our root that vouches for a federated one", world.ours.sign(&params(&[PARTNER])), NOT_SIGNED),
        both("an intermediate that is not shown", alone, NOT_SIGNED),
        both(
            "a trust domain that is not trusted",
            world.ours.sign(&params(&["spiffe://evil.local/ns/shop/sa/web"])),
            Err("the trust domain evil.local is not trusted here"),
        ),
        both(
            "a trust domain with ours as its beginning",
            world.ours.sign(&params(&["spiffe://mesh.local.evil/ns/shop/sa/web"])),
            Err("the trust domain mesh.local.evil is not trusted here"),
        ),
    ]
}

fn signers(world: &World) -> Vec<Case> {
    let web = params(&[WEB]);
    let past = SystemTime::now() - DAY / 2;
    let under = |change: &dyn Fn(&mut CertificateParams)| world.ours.below(&signer(change)).sign(&web);
    let named = |uri: &str| SanType::URI(uri.try_into().expect("ASCII"));
    let shallow = world.ours.below(&signer(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
    let (mut deep, mut long) =
        (shallow.below(&authority("mesh.local", "deeper")).sign(&web), world.ours.sign(&web));
    long.chain.extend(std::iter::repeat_n(world.ours.certificate.clone(), 9));
    let mut reversed = under(&|_| {});
    reversed.chain.reverse();
    // A workload signs one for another.
    let workload = world.ours.below(&web).sign(&params(&[CART]));
    let dns_of_others = under(&|p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("other.local".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let with_name =
        changed(|p| p.subject_alt_names.push(SanType::DnsName("web".try_into().expect("a name"))));
    let constrained = world.ours.below(&signer(|p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("other.local".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    }));
    // permittedSubtrees [0] { GeneralSubtree { URI [6] } }: not understood, so nothing under it is believed.
    let subtree = der(0x30, &der(0xa0, &der(0x30, &der(0x86, b"mesh.local"))));
    let uri_constrained = world.ours.below(&signer(|p| {
        let mut extension = CustomExtension::from_oid_content(NAME_CONSTRAINTS, subtree.clone());
        extension.set_criticality(true);
        p.custom_extensions.push(extension);
    }));
    deep.chain.push(world.ours.certificate.clone());
    vec![
        both("constraints on names that it has not", dns_of_others, Ok("taken")),
        both("a name beyond its signer's", constrained.sign(&with_name), Err("NameConstraintViolation")),
        both("a constraint on URIs", uri_constrained.sign(&web), Err("NameConstraintViolation")),
        both(
            "an intermediate that is no authority",
            under(&|p| p.is_ca = IsCa::ExplicitNoCa),
            Err("EndEntityUsedAsCa"),
        ),
        both(
            "an intermediate that says nothing of it",
            under(&|p| p.is_ca = IsCa::NoCa),
            Err("EndEntityUsedAsCa"),
        ),
        both("a workload that signs others", workload, Err("EndEntityUsedAsCa")),
        both(
            "an intermediate that may not sign",
            under(&|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            Err("should sign others is not an authority's"),
        ),
        both("a chain deeper than allowed", deep, Err("PathLenConstraintViolated")),
        both("a long chain", long, Err("the chain has 10 certificates")),
        both("the intermediate first", reversed, Err("must not be a certificate authority's")),
        both("an expired intermediate", under(&|p| p.not_after = past.into()), Err("expired")),
        both(
            "an intermediate of another trust domain",
            under(&|p| p.subject_alt_names = vec![named("spiffe://ally.local")]),
            Err("names another trust domain, or a workload"),
        ),
        both(
            "an intermediate with a path",
            under(&|p| p.subject_alt_names = vec![named("spiffe://mesh.local/ns/a/sa/b")]),
            Err("names another trust domain, or a workload"),
        ),
    ]
}

fn revoked(world: &World) -> Vec<Case> {
    const REVOKED: Outcome = Err("is revoked");
    let number = |bytes: &[u8]| Some(SerialNumber::from_slice(bytes));
    let web = params(&[WEB]);
    let leaf = changed(|p| p.serial_number = number(&[0x0b, 0xad, 0x5e, 0x41]));
    let below = world.ours.below(&signer(|p| p.serial_number = number(&[0x0b, 0xad, 0x5e, 0x42])));
    vec![
        both("a revoked identity", world.ours.sign(&params(&[GONE])), REVOKED),
        both("a revoked serial number", world.ours.sign(&leaf), Err("the certificate bad5e41 of")),
        both("a revoked intermediate", below.sign(&web), Err("the certificate bad5e42 of")),
    ]
}

fn keys(world: &World) -> Vec<Case> {
    const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC0Og5o6PGplmVTFwtBuim3XTTD
egUtbBEukLsI4OsatH5DdsJScdTJSNjFgE5mkKUg19QZJfuH0PerTBbcchQWDYy1
qG/+bLQiiAs/a67ZZ+fCjcUr5oRJTAx3XAzVebw0WOnYfJSooiho4Ojlr4JOmPhR
uHTI+T/Fsxgu+GXTgwIDAQAB
-----END PUBLIC KEY-----
";
    const P224: &str = "-----BEGIN PUBLIC KEY-----
ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEhmx0rqXRZ/vrjpTatQtqjJiC5zc8+ZqP
tjGd0NnRU2y7XjpxE3EWS/pg6WLhxr21bHlEJZACC2Y=
-----END PUBLIC KEY-----
";
    const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEARsw6jqJHjTUhwW34quS0NV2TAQWBPEK
A0imxS0tGdUEZv6g4Hj/JS6rCebUmSOvRHTOppsaBTb9JOJVqpWp3Q==
-----END PUBLIC KEY-----
";
    let with = |pem: &str| {
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).expect("a key");
        world.ours.sign_key(&params(&[WEB]), &key)
    };
    vec![
        both("a short RSA key", with(RSA_1024), Err("RSA of 1024 bits")),
        both("a short curve", with(P224), Err("on another curve")),
        both("a curve that TLS does not know", with(SECP256K1), Err("on another curve")),
    ]
}

#[tokio::test]
async fn good_certificates_are_taken_on_both_ends() {
    let world = World::new();
    for case in good(&world) {
        world.check(&case).await;
    }
}

#[tokio::test]
async fn hostile_certificates_are_refused_on_both_ends() {
    let world = World::new();
    let cases = [names, uses, roots, signers, revoked, keys].map(|cases| cases(&world));
    for case in cases.iter().flatten() {
        world.check(case).await;
    }
}

#[tokio::test]
async fn a_stolen_chain_is_worth_nothing_without_its_key() {
    let world = World::new();
    let own = world.ours.sign(&params(&[WEB]));
    // Its chain was proven a moment ago.
    world.as_server_of(&own).await.expect("its owner is let in");
    world.as_client_of(&own).await.expect("its owner is believed");
    let stolen = Forged { chain: own.chain, key: Key::generate().expect("a key") };
    agree("a stolen chain", "as a client", &world.as_server_of(&stolen).await, Err("BadSignature"));
    agree("a stolen chain", "as a server", &world.as_client_of(&stolen).await, Err("BadSignature"));
}

#[tokio::test]
async fn damaged_certificates_are_refused_wherever_they_are_damaged() {
    let world = World::new();
    let good = world.ours.below(&signer(|_| {})).sign(&params(&[WEB]));
    let judge = |chain: &[CertificateDer<'_>]| world.victim.judge(chain);
    assert_eq!(judge(&good.chain).as_ref().map(SpiffeId::as_str).ok(), Some(WEB));
    for (place, whole) in good.chain.iter().enumerate() {
        let damaged = |bytes: Vec<u8>| {
            let mut chain = good.chain.clone();
            chain[place] = CertificateDer::from(bytes);
            chain
        };
        for length in 0..whole.len() {
            assert!(judge(&damaged(whole[..length].to_vec())).is_err(), "{place} cut at {length}");
            let mut flipped = whole.to_vec();
            flipped[length] ^= 1 << (length % 8);
            assert!(judge(&damaged(flipped)).is_err(), "{place} flipped at {length}");
        }
        let longer = [whole, &[0][..]].concat();
        assert!(judge(&damaged(longer)).is_err(), "{place} with a byte behind it");
    }
    for bytes in [vec![], vec![0x30], b"\x30\x82\xff\xff".to_vec(), vec![0xff; 4096]] {
        let shown = Forged { chain: vec![bytes.clone().into()], key: Key::generate().expect("a key") };
        assert!(world.as_server_of(&shown).await.is_err(), "{bytes:?}");
        assert!(world.as_client_of(&shown).await.is_err(), "{bytes:?}");
    }
    assert!(judge(&[]).is_err());
}

#[tokio::test]
async fn a_root_that_has_ended_vouches_for_nobody() {
    let past = SystemTime::now() - DAY / 2;
    let mut ended = authority("mesh.local", "old");
    ended.not_after = past.into();
    let (old, new) = (Forge::root(ended), Forge::new("mesh.local"));
    let trust = Trust::new(new.bundle_with(&[&old]));
    let judge = |forge: &Forge| trust.judge(&forge.sign(&params(&[WEB])).chain, SystemTime::now());
    let error = judge(&old).expect_err("refused").to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert_eq!(judge(&new).as_ref().map(SpiffeId::as_str).ok(), Some(WEB));
}

#[tokio::test]
async fn what_was_proven_is_proven_no_longer_once_the_trust_changes() {
    let world = World::new();
    let web = world.ours.sign(&params(&[WEB]));
    let partner = world.ally.sign(&params(&[PARTNER]));
    for shown in [&web, &partner] {
        world.as_server_of(shown).await.expect("let in");
        world.as_client_of(shown).await.expect("believed");
    }
    let generation = world.victim.trust_generation();
    world.victim.replace_trust(world.trust.clone()).expect("equal");
    assert_eq!(world.victim.trust_generation(), generation, "an equal trust changes nothing");
    let narrower = Trust::new(world.ours.bundle()).with_revoked(Revocations::new([id(WEB)], []));
    world.victim.replace_trust(narrower).expect("its own trust domain");
    assert_eq!(world.victim.trust_generation(), generation + 1);
    for (what, shown, words) in
        [("revoked", &web, "is revoked"), ("federated", &partner, "is not trusted here")]
    {
        agree(what, "as a client", &world.as_server_of(shown).await, Err(words));
        agree(what, "as a server", &world.as_client_of(shown).await, Err(words));
        let judged = world.victim.judge(&shown.chain).map(drop).map_err(|error| error.to_string());
        agree(what, "judged", &judged, Err(words));
    }
}
