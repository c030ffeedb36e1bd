//! Bytes of strangers: certificates, requests for them, bundles, trust and tokens, whatever is in them. Nothing panics,
//! what is damaged proves nothing, and what is read can be written and read again.
//!
//! The corpus is `fuzz/corpus/identity`: a file's name is `<target>.<outcome>.<what it is>`. Mutations of it follow from
//! fixed seeds; `MESHWORK_FUZZ=100` makes them a hundred times as many. A failure names its seed.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::SanType;
use rustls_pki_types::CertificateDer;
use serde_json::json;

use crate::forge::{Forge, authority, id, params};
use crate::svid::{Facts, Signer, trust_domain_of_root};
use crate::{Bundle, CertificateFacts, Key, Revocations, Trust, jwt, jwt_svid, pem, request_key_fingerprint};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/identity");
const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const ROUNDS: u64 = 20_000;

/// A parser of strangers' bytes, as `cargo fuzz` would call it; it tells whether it took them.
type Target = fn(&[u8]) -> bool;

const TARGETS: [(&str, Target); 6] = [
    ("certificate", certificate),
    ("request", request),
    ("document", document),
    ("trust", trust),
    ("token", token),
    ("key", key),
];

fn certificate(bytes: &[u8]) -> bool {
    let der = CertificateDer::from(bytes);
    let (facts, svid) = (CertificateFacts::read(&der), Facts::read(&der));
    let _ = (Signer::read(&der, "mesh.local"), trust_domain_of_root(&der));
    let _ = Bundle::from_pem(&pem::encode("CERTIFICATE", bytes)).map(|bundle| {
        let document = bundle.to_document(1, None).to_string();
        assert_eq!(Bundle::from_document(bundle.trust_domain(), &document).expect("its own"), bundle);
    });
    if let Ok(svid) = &svid {
        let facts = facts.expect("it is a certificate");
        assert_eq!(facts.uris, [svid.id.as_str()]);
        assert_eq!(facts.serial.trim_start_matches('0'), svid.serial.trim_start_matches('0'));
    }
    svid.is_ok()
}

fn request(bytes: &[u8]) -> bool {
    request_key_fingerprint(&pem::encode("CERTIFICATE REQUEST", bytes)).is_ok()
}

fn document(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(bundle) = Bundle::from_document("mesh.local", &text) else { return false };
    let again = bundle.to_document(0, None).to_string();
    assert_eq!(Bundle::from_document("mesh.local", &again).expect("its own"), bundle);
    assert_eq!(bundle.clone().with_jwt_keys(bundle.jwt_keys()).expect("its own"), bundle);
    true
}

fn trust(bytes: &[u8]) -> bool {
    let Ok(trust) = Trust::from_json(&String::from_utf8_lossy(bytes), "mesh.local") else { return false };
    assert_eq!(Trust::from_json(&trust.to_json(), "mesh.local").expect("its own"), trust);
    true
}

fn token(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let _ = pem::secret(bytes, &["PRIVATE KEY"]);
    jwt::Jwt::parse(&text).is_ok()
}

fn key(bytes: &[u8]) -> bool {
    Key::from_pem(&String::from_utf8_lossy(bytes)).is_ok()
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(FOLDER)
        .expect("the corpus")
        .map(|file| {
            let path = file.expect("a file").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(path).expect("read"))
        })
        .collect();
    files.sort();
    files
}

fn target_of(name: &str) -> Target {
    let wanted = name.split('.').next().unwrap_or_default();
    TARGETS.iter().find(|(known, _)| *known == wanted).unwrap_or_else(|| panic!("{name}: no such target")).1
}

#[test]
fn files_of_the_corpus_are_taken_for_what_their_names_say() {
    let files = corpus();
    for (name, bytes) in &files {
        let expected = match name.split('.').nth(1) {
            Some("ok") => true,
            Some("refused") => false,
            _ => panic!("{name}: neither ok nor refused"),
        };
        assert_eq!(target_of(name)(bytes), expected, "{name}");
    }
    for (target, _) in TARGETS.iter().filter(|(target, _)| *target != "key") {
        assert!(files.iter().any(|(name, _)| name.starts_with(&format!("{target}.ok."))), "{target}");
    }
}

#[test]
fn mutations_and_noise_harm_nobody() {
    let mut seeds = corpus();
    let key = Key::generate().expect("a key");
    assert!(target_of("key")(key.pem().as_bytes()));
    // No key stands in a file, not even one that is good for nothing.
    seeds.push(("key.ok.fresh".to_owned(), key.pem().as_bytes().to_vec()));
    for seed in 0..ROUNDS * rounds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let (name, bytes) = &seeds[random.usize(0..seeds.len())];
        let mutated = mutated(bytes, &mut random);
        let outcome = std::panic::catch_unwind(|| target_of(name)(&mutated));
        assert!(outcome.is_ok(), "seed {seed}, {name}: {mutated:?}");
    }
}

#[test]
fn claims_of_any_form_prove_nothing_by_accident() {
    let key = Key::generate().expect("a key");
    let jwks = json!({ "keys": [jwt_svid::public_jwk(&key).expect("a JWK")] }).to_string();
    let trust = Trust::new(Forge::new("mesh.local").bundle().with_jwt_keys(&jwks).expect("keys"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let good = json!({ "sub": WEB, "aud": ["bank"], "exp": 1_800_000_300, "iat": 1_800_000_000 }).to_string();
    for seed in 0..2_000 * rounds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let text = String::from_utf8_lossy(&mutated(good.as_bytes(), &mut random)).into_owned();
        let Ok(claims) = serde_json::from_str(&text) else { continue };
        let token = jwt_svid::encode(&key, &claims).expect("signed");
        if let Ok((svid, claims)) = jwt_svid::validate(&token, "bank", &trust, now) {
            assert_eq!(claims["sub"], svid.id.as_str(), "seed {seed}");
            assert!(svid.audience.iter().any(|one| one == "bank") && svid.expires_at > now, "seed {seed}");
        }
    }
}

fn rounds() -> u64 {
    std::env::var("MESHWORK_FUZZ").ok().and_then(|number| number.parse().ok()).unwrap_or(1)
}

fn mutated(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=bytes.len());
        let odd = [0, 1, 0x30, 0x7f, 0x80, 0x82, 0xff, b'"', b'{', b']', b',', b'.', b'='];
        match random.u8(0..7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            3 if at < bytes.len() => bytes[at] = odd[random.usize(0..odd.len())],
            4 if at < bytes.len() => drop(bytes.remove(at)),
            // A part of it once more.
            5 => {
                let end = random.usize(at..=bytes.len().min(at + 40));
                let part = bytes[at..end].to_vec();
                let to = random.usize(0..=bytes.len());
                bytes.splice(to..to, part);
            }
            _ => bytes.extend((0..random.usize(0..40)).map(|_| random.u8(..))),
        }
    }
    bytes
}

/// Writes what is missing of the corpus: `UPDATE=1 cargo test -p meshwork-identity fuzz`.
#[test]
fn the_corpus_is_whole() {
    let update = std::env::var_os("UPDATE").is_some_and(|value| !value.is_empty());
    for (name, bytes) in whole_corpus() {
        let path = Path::new(FOLDER).join(name);
        if update && !path.exists() {
            fs::create_dir_all(FOLDER).expect("a folder");
            fs::write(&path, &bytes).expect("written");
        }
        assert!(path.exists(), "{name} is missing: renew it by UPDATE=1");
    }
}

fn whole_corpus() -> Vec<(&'static str, Vec<u8>)> {
    let (ours, ally) = (Forge::new("mesh.local"), Forge::new("ally.local"));
    let leaf = |uris: &[&str]| ours.sign(&params(uris)).chain[0].to_vec();
    let mut many_names = params(&[WEB]);
    many_names.subject_alt_names.extend([
        SanType::DnsName("web.shop".try_into().expect("a name")),
        SanType::IpAddress([192, 0, 2, 1].into()),
        SanType::Rfc822Name("web@shop.example".try_into().expect("a name")),
    ]);
    let workload = Key::generate().expect("a key");
    let jwks = json!({ "keys": [jwt_svid::public_jwk(&workload).expect("a JWK")] }).to_string();
    let own = ours.bundle().with_jwt_keys(&jwks).expect("keys");
    let issuer = own.fingerprints().remove(0);
    let full = Trust::new(own.clone())
        .with_federated([ally.bundle()])
        .with_revoked(Revocations::new([id(WEB)], ["abc".to_owned()]))
        .with_issuer(Some(&issuer));
    let minute = Duration::from_mins(1);
    let token = jwt_svid::sign(&workload, &id(WEB), &["bank".to_owned()], SystemTime::now(), minute);
    let csr = workload.csr_pem(&id(WEB)).expect("a request");
    let (_, csr) = pem::secret(csr.as_bytes(), &["CERTIFICATE REQUEST"]).expect("a request");
    let document = own.to_document(7, Some(minute)).to_string().into_bytes();
    vec![
        ("certificate.ok.web", leaf(&[WEB])),
        ("certificate.ok.names", ours.sign(&many_names).chain[0].to_vec()),
        ("certificate.refused.root", ours.certificate.to_vec()),
        ("certificate.refused.intermediate", ours.below(&authority("mesh.local", "a")).certificate.to_vec()),
        ("certificate.refused.two-uris", leaf(&[WEB, WEB])),
        ("certificate.refused.no-path", leaf(&["spiffe://mesh.local"])),
        ("certificate.refused.nothing", Vec::new()),
        ("certificate.refused.long-length", b"\x30\x84\xff\xff\xff\xff\x30".to_vec()),
        ("request.ok.web", csr.to_vec()),
        ("request.refused.cut", csr[..csr.len() / 2].to_vec()),
        ("document.ok.full", document.clone()),
        ("document.ok.empty", br#"{"keys":[]}"#.to_vec()),
        ("document.refused.error", br#"{"error":"not now"}"#.to_vec()),
        ("document.refused.cut", document[..document.len() / 2].to_vec()),
        ("trust.ok.full", full.to_json().into_bytes()),
        ("trust.ok.own", Trust::new(ours.bundle()).to_json().into_bytes()),
        ("trust.refused.others", Trust::new(ally.bundle()).to_json().into_bytes()),
        ("token.ok.web", token.expect("signed").token.into_bytes()),
        ("token.refused.none", b"eyJhbGciOiJub25lIn0.e30.AA".to_vec()),
        ("token.refused.dots", b"....".to_vec()),
        ("key.refused.certificate", ours.bundle().pem().into_bytes()),
    ]
}
