//! Bundles as documents.

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::{Value, json};

use super::*;
use crate::Key;
use crate::forge::{Forge, authority};
use crate::jwt_svid::{key_id, public_jwk};

fn with_key(forge: &Forge) -> (Bundle, Key) {
    let key = Key::generate().expect("a key");
    let jwks = json!({ "keys": [public_jwk(&key).expect("a JWK")] }).to_string();
    (forge.bundle().with_jwt_keys(&jwks).expect("keys"), key)
}

#[test]
fn a_document_is_what_the_specification_shows() {
    let forge = Forge::new("mesh.local");
    let (bundle, key) = with_key(&forge);
    let document = bundle.to_document(7, Some(Duration::from_mins(1)));
    let [root, token] = &document["keys"].as_array().expect("keys")[..] else { panic!("{document}") };
    assert_eq!(
        (&root["use"], &root["kty"], &root["crv"]),
        (&json!("x509-svid"), &json!("EC"), &json!("P-256"))
    );
    assert_eq!(root["x5c"].as_array().map(Vec::len), Some(1));
    assert_eq!(root["x"].as_str().map(str::len), Some(43));
    assert!(root.get("kid").is_none());
    assert_eq!(token["use"], "jwt-svid");
    assert_eq!(token["kid"], key_id(&key).expect("an id"));
    assert_eq!((&document["spiffe_sequence"], &document["spiffe_refresh_hint"]), (&json!(7), &json!(60)));
    let read = BundleDocument::parse("mesh.local", &document.to_string()).expect("read");
    assert_eq!(read.bundle, bundle);
    assert_eq!((read.sequence, read.refresh_hint), (Some(7), Some(Duration::from_mins(1))));
    assert!(!bundle.jwt_keys().contains("use"), "a JWKS of others' libraries");
}

#[test]
fn roots_of_other_kinds_have_their_form() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let root = authority("mesh.local", "root").self_signed(&pair).expect("signed");
    let bundle = Bundle::from_pem(&root.pem()).expect("a bundle");
    let document = bundle.to_document(1, None);
    assert_eq!(document["keys"][0]["crv"], "P-384");
    assert_eq!(document["keys"][0]["x"].as_str().map(str::len), Some(64));
    assert!(document.get("spiffe_refresh_hint").is_none());
    assert_eq!(Bundle::from_document("mesh.local", &document.to_string()).expect("read"), bundle);
}

#[test]
fn keys_of_kinds_that_are_not_known_are_left_out() {
    let forge = Forge::new("mesh.local");
    let (bundle, _) = with_key(&forge);
    let mut document = bundle.to_document(1, None);
    for kind in [json!("AKP"), json!("ec"), json!(7), Value::Null] {
        let mut other = document["keys"][0].clone();
        other["kty"] = kind;
        other["x5c"] = json!(["what only its readers understand"]);
        document["keys"].as_array_mut().expect("keys").push(other);
    }
    assert_eq!(Bundle::from_document("mesh.local", &document.to_string()).expect("read"), bundle);
}

#[test]
fn roots_are_taken_out_by_their_fingerprints() {
    let (one, other) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let jwk = public_jwk(&Key::generate().expect("a key")).expect("a JWK");
    let keys = json!({ "keys": [jwk] }).to_string();
    let both = one.bundle_with(&[&other]).with_jwt_keys(&keys).expect("keys");
    let without = |roots: Vec<String>| both.without(&roots.into_iter().collect()).expect("a bundle");
    assert_eq!(without(vec!["abc".to_owned()]), both);
    let left = without(one.bundle().fingerprints());
    assert_eq!(left, other.bundle().with_jwt_keys(&keys).expect("keys"));
    let none = without(both.fingerprints());
    assert!(none.pem().is_empty());
    assert_eq!((none.trust_domain(), none.jwt_keys()), ("mesh.local", both.jwt_keys()));
}

#[test]
fn a_document_without_keys_says_that_nobody_is_trusted() {
    for text in
        [r#"{"keys":[]}"#, r#"{"keys":[{"use":"other","kty":"EC"}]}"#, r#"{"keys":[{"use":"x509-svid"}]}"#]
    {
        let bundle = Bundle::from_document("ally.local", text).expect(text);
        assert!(bundle.fingerprints().is_empty() && bundle.pem().is_empty());
        let forge = Forge::new("ally.local");
        let chain = forge.sign(&crate::forge::params(&["spiffe://ally.local/a"])).chain;
        let trust = crate::Trust::new(Forge::new("mesh.local").bundle()).with_federated([bundle]);
        let error = trust.judge(&chain, SystemTime::now()).expect_err("refused").to_string();
        assert!(error.contains("UnknownIssuer"), "{error}");
    }
}

#[test]
fn damaged_documents_are_refused() {
    let (bundle, _) = with_key(&Forge::new("mesh.local"));
    let good = bundle.to_document(7, None);
    let leaf = Forge::new("mesh.local").svid("spiffe://mesh.local/a");
    let leaf = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &leaf.chain()[0]);
    let check = |what: &str, change: &dyn Fn(&mut Value), words: &str| {
        let mut document = good.clone();
        change(&mut document);
        let error = Bundle::from_document("mesh.local", &document.to_string()).expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    };
    check("no object", &|d| *d = json!([]), "no JSON object");
    check("no keys", &|d| *d = json!({ "error": "not now" }), "no list `keys`");
    check("no list", &|d| d["keys"] = json!({}), "no list `keys`");
    check("no base64", &|d| d["keys"][0]["x5c"] = json!(["!"]), "no base64");
    check("no DER", &|d| d["keys"][0]["x5c"] = json!(["AAAA"]), "does not parse");
    check("a workload's", &|d| d["keys"][0]["x5c"] = json!([leaf]), "not an authority's");
    check("a private key", &|d| d["keys"][1]["d"] = json!("AAAA"), "is private");
    check("an odd sequence", &|d| d["spiffe_sequence"] = json!("7"), "no whole number");
    check("a negative hint", &|d| d["spiffe_refresh_hint"] = json!(-1), "no whole number");
    assert!(Bundle::from_document("Mesh.Local", &good.to_string()).is_err(), "an odd trust domain");
    assert!(Bundle::from_document("mesh.local", "").is_err());
    let many: Vec<&Value> = std::iter::repeat_n(&good["keys"][0], MAX_ROOTS + 1).collect();
    let error =
        Bundle::from_document("mesh.local", &json!({ "keys": many }).to_string()).expect_err("refused");
    assert!(error.to_string().contains("more than 64 roots"), "{error}");
}

#[test]
fn keys_of_unknown_kinds_are_left_out() {
    let forge = Forge::new("mesh.local");
    for key in [
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-999", "kid": "a", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "new", "kid": "a" }),
        json!({ "kty": "oct", "kid": "a", "k": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-256", "kid": "", "x": "AAAA", "y": "AAAA" }),
    ] {
        let bundle = forge.bundle().with_jwt_keys(&json!({ "keys": [key] }).to_string()).expect("read");
        assert_eq!(bundle.jwt_keys(), r#"{"keys":[]}"#, "{key}");
    }
    assert_eq!(forge.bundle().with_jwt_keys("").expect("read").jwt_keys(), r#"{"keys":[]}"#);
    assert!(forge.bundle().with_jwt_keys("[]").is_err());
}
