use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

use super::*;

fn token(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let signature = BASE64.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn verify(keys: &str, token: &str) -> Result<(), Failure> {
    KeySet::parse(keys).expect("a set").verify(&Jwt::parse(token)?)
}

fn mac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

#[test]
fn a_signature_is_verified_by_the_key_that_made_it() {
    let random = SystemRandom::new();
    let document =
        EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("made");
    let pair = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
        .expect("read");
    let point = pair.public_key().as_ref();
    let key = |id: &str| {
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        format!(r#"{{"kty":"EC","crv":"P-256","kid":"{id}","x":"{x}","y":"{y}"}}"#)
    };
    let sign = |message: &[u8]| pair.sign(&random, message).expect("signed").as_ref().to_vec();
    let keys = format!(r#"{{"keys":[{}]}}"#, key("a"));
    let good = token(r#"{"alg":"ES256","kid":"a"}"#, r#"{"iss":"me"}"#, sign);
    assert_eq!(verify(&keys, &good), Ok(()));
    assert_eq!(verify(&keys, &token(r#"{"alg":"ES256"}"#, "{}", sign)), Ok(()));
    assert_eq!(verify(&keys, &token(r#"{"alg":"ES256","kid":"b"}"#, "{}", sign)), Err(Failure::NoKey));
    assert_eq!(verify(&keys, &token(r#"{"alg":"ES384"}"#, "{}", sign)), Err(Failure::NoKey));
    let altered = good.replacen(&BASE64.encode(r#"{"iss":"me"}"#), &BASE64.encode(r#"{"iss":"he"}"#), 1);
    assert_eq!(verify(&keys, &altered), Err(Failure::NotVerified));
    // The public key is no secret.
    let forged = token(r#"{"alg":"HS256"}"#, "{}", |message| mac(point, message));
    assert_eq!(verify(&keys, &forged), Err(Failure::NoKey));
    let none = token(r#"{"alg":"none"}"#, "{}", |_| vec![0]);
    assert_eq!(verify(&keys, &none), Err(Failure::UnknownAlgorithm));
    let unsigned = token(r#"{"alg":"none"}"#, "{}", |_| vec![]);
    assert_eq!(verify(&keys, &unsigned), Err(Failure::BadFormat));
}

#[test]
fn each_kind_of_key_has_its_algorithms() {
    let pair = Ed25519KeyPair::generate().expect("made");
    let x = BASE64.encode(pair.public_key().as_ref());
    let secret = BASE64.encode(b"secret of thirty-two bytes or more");
    let keys = format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}},{{"kty":"oct","k":"{secret}"}},{{"kty":"new"}}]}}"#
    );
    let signed = token(r#"{"alg":"EdDSA"}"#, "{}", |message| pair.sign(message).as_ref().to_vec());
    assert_eq!(verify(&keys, &signed), Ok(()));
    let hashed = |message: &[u8]| mac(b"secret of thirty-two bytes or more", message);
    assert_eq!(verify(&keys, &token(r#"{"alg":"HS256"}"#, "{}", hashed)), Ok(()));
    assert_eq!(verify(&keys, &token(r#"{"alg":"RS256"}"#, "{}", hashed)), Err(Failure::NoKey));
    assert_eq!(verify(&keys, &token(r#"{"alg":"HS512"}"#, "{}", hashed)), Err(Failure::NotVerified));
}

#[test]
fn what_is_no_token_is_refused() {
    let check = |text: &str, expected: Failure| {
        assert_eq!(Jwt::parse(text).err(), Some(expected), "{text}");
    };
    let head = BASE64.encode(r#"{"alg":"ES256"}"#);
    check("", Failure::BadFormat);
    check("a.b", Failure::BadFormat);
    check("a.b.c.d", Failure::BadFormat);
    check("!.b.c", Failure::BadHeader);
    check(&format!("{head}.e30."), Failure::BadFormat);
    check(&format!("{}.e30.c", BASE64.encode("[]")), Failure::BadHeader);
    check(&format!("{}.e30.c", BASE64.encode("{}")), Failure::BadAlgorithm);
    check(&format!("{head}.!.c"), Failure::BadPayload);
    check(&format!("{head}.e30.!"), Failure::BadSignature);
    check(&format!("{}.e30.c", BASE64.encode(r#"{"alg":"ES256","crit":["x"]}"#)), Failure::BadHeader);
}

#[test]
fn a_set_without_good_keys_is_none() {
    for text in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#] {
        assert!(KeySet::parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_nobody_has_signed_can_be_read_all_the_same() {
    let text = unsigned(r#"{"iss": "me", "exp": 7}"#);
    let token = Jwt::parse(&text).expect("a token");
    assert_eq!(token.claims["iss"], Value::Text("me".into()));
    let secret = r#"{"keys": [{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
    let keys = KeySet::parse(secret).expect("a key");
    assert_eq!(keys.verify(&token), Err(Failure::NoKey));
    assert_eq!(Jwt::parse(&unsigned("[]")).err(), Some(Failure::BadPayload));
}

/// An issuer with a key on the curve P-256, named `a`, and a secret, named `mac`.
struct Issuer {
    pair: EcdsaKeyPair,
    keys: String,
}

const SECRET: &[u8] = b"a secret of thirty-two bytes....";

impl Issuer {
    fn new() -> Self {
        let scheme = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(scheme, &SystemRandom::new()).expect("made");
        let pair = EcdsaKeyPair::from_pkcs8(scheme, document.as_ref()).expect("read");
        let point = pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        let curve = format!(r#"{{"kty":"EC","crv":"P-256","kid":"a","x":"{x}","y":"{y}"}}"#);
        let secret = format!(r#"{{"kty":"oct","alg":"HS256","kid":"mac","k":"{}"}}"#, BASE64.encode(SECRET));
        let keys = format!(r#"{{"keys":[{curve},{secret}]}}"#);
        Self { pair, keys }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec()
    }

    /// A token that is well signed.
    fn token(&self, header: &str, payload: &str) -> String {
        token(header, payload, |message| self.sign(message))
    }
}

#[test]
fn a_header_that_says_how_it_wants_to_be_believed_is_not() {
    let issuer = Issuer::new();
    let check = |header: &str, expected: Result<(), Failure>| {
        assert_eq!(verify(&issuer.keys, &issuer.token(header, "{}")), expected, "{header}");
    };
    check(r#"{"alg":"ES256","kid":"a","typ":"JWT"}"#, Ok(()));
    for alg in ["none", "None", "nOnE", "NONE", "", "es256", "ES256 ", "HS256\\u0000", "ES256K", "RSA1_5"] {
        check(&format!(r#"{{"alg":"{alg}","kid":"a"}}"#), Err(Failure::UnknownAlgorithm));
    }
    for alg in ["null", "1", r#"["ES256"]"#, r#"{"a":"ES256"}"#] {
        check(&format!(r#"{{"alg":{alg},"kid":"a"}}"#), Err(Failure::BadAlgorithm));
    }
    // Key confusion: a key takes the algorithm of its own kind alone.
    for alg in ["HS256", "HS512", "RS256", "PS256", "EdDSA", "ES384", "ES512"] {
        check(&format!(r#"{{"alg":"{alg}","kid":"a"}}"#), Err(Failure::NoKey));
    }
    for kid in [
        "../../../dev/null",
        "/etc/hostname",
        "a' OR '1'='1",
        "a\\u0000",
        "A",
        "",
        "http://127.0.0.1/a",
        "a,b",
    ] {
        check(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), Err(Failure::NoKey));
    }
    for kid in ["null", "1", r#"["a"]"#] {
        check(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#), Err(Failure::BadHeader));
    }
    check(r#"{"alg":"ES256","kid":"a","crit":["exp"]}"#, Err(Failure::BadHeader));
    check(r#"{"alg":"ES256","kid":"a","crit":[]}"#, Err(Failure::BadHeader));
    check(r#"{"alg":"ES256","kid":"a","b64":false,"crit":["b64"]}"#, Err(Failure::BadHeader));
    check(r#"{"alg":"none","kid":"a","alg":"ES256"}"#, Err(Failure::BadHeader));
    check(r#"{"alg":"ES256","kid":"mac","kid":"a"}"#, Err(Failure::BadHeader));
}

#[test]
fn keys_that_a_token_brings_are_not_looked_at() {
    let (issuer, thief) = (Issuer::new(), Issuer::new());
    let own = serde_json::from_str::<serde_json::Value>(&thief.keys).expect("JSON")["keys"][0].to_string();
    for header in [
        format!(r#"{{"alg":"ES256","jwk":{own}}}"#),
        format!(r#"{{"alg":"ES256","kid":"a","jwk":{own}}}"#),
        r#"{"alg":"ES256","kid":"a","jku":"https://thief.example/keys","x5u":"https://thief.example/"}"#
            .to_owned(),
    ] {
        let forged = thief.token(&header, r#"{"iss":"me"}"#);
        assert_eq!(verify(&issuer.keys, &forged), Err(Failure::NotVerified), "{header}");
    }
}

#[test]
fn a_signature_is_what_the_key_made_and_nothing_like_it() {
    let issuer = Issuer::new();
    let check = |header: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>, expected: Failure| {
        assert_eq!(verify(&issuer.keys, &token(header, "{}", sign)), Err(expected), "{header}");
    };
    let (curve, secret) = (r#"{"alg":"ES256","kid":"a"}"#, r#"{"alg":"HS256","kid":"mac"}"#);
    check(curve, &|_| vec![0; 64], Failure::NotVerified);
    check(curve, &|_| vec![0xff; 64], Failure::NotVerified);
    check(curve, &|message| issuer.sign(message)[..63].to_vec(), Failure::NotVerified);
    check(curve, &|message| [issuer.sign(message), vec![0]].concat(), Failure::NotVerified);
    check(curve, &|_| issuer.sign(b"another"), Failure::NotVerified);
    check(curve, &|message| mac(SECRET, message), Failure::NotVerified);
    check(secret, &|message| mac(issuer.pair.public_key().as_ref(), message), Failure::NotVerified);
    check(secret, &|message| mac(issuer.keys.as_bytes(), message), Failure::NotVerified);
    check(secret, &|message| mac(b"", message), Failure::NotVerified);
    check(secret, &|message| mac(SECRET, message)[..16].to_vec(), Failure::NotVerified);
}

#[test]
fn a_token_has_one_spelling() {
    let issuer = Issuer::new();
    let good = issuer.token(r#"{"alg":"ES256"}"#, r#"{"iss":"me"}"#);
    assert_eq!(verify(&issuer.keys, &good), Ok(()));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three") };
    let check = |text: String, expected: Failure| {
        assert_eq!(Jwt::parse(&text).err(), Some(expected), "{text}");
    };
    // 15 and 12 bytes end evenly, so that what follows is too much; of 64 two signs are missing.
    check(format!("{header}=.{payload}.{signature}"), Failure::BadHeader);
    check(format!("{header}.{payload}====.{signature}"), Failure::BadPayload);
    check(format!("{header}.{payload}.{signature}=="), Failure::BadSignature);
    for space in [" ", "\n", "\r\n", "\t", "\u{a0}", "\0"] {
        check(format!("{space}{header}.{payload}.{signature}"), Failure::BadHeader);
        check(format!("{header}{space}.{payload}.{signature}"), Failure::BadHeader);
        check(format!("{header}.{payload}{space}.{signature}"), Failure::BadPayload);
        check(format!("{header}.{payload}.{signature}{space}"), Failure::BadSignature);
    }
    // The last sign of 64 bytes has four bits that say nothing.
    let other = if signature.ends_with('A') { 'B' } else { char::from(signature.as_bytes()[85] + 1) };
    check(format!("{header}.{payload}.{}{other}", &signature[..85]), Failure::BadSignature);
    check(format!("{header}.{payload}.{}+/", &signature[..84]), Failure::BadSignature);
    check(format!("{header}.{payload}.{signature}.{signature}.{signature}"), Failure::BadFormat);
    check(format!("{header}..{signature}"), Failure::BadFormat);
    check(format!("{header}.{payload}"), Failure::BadFormat);
    check(format!("{header}.{payload}.{}", "A".repeat(TOKEN_BYTES)), Failure::BadFormat);
}

#[test]
fn claims_are_read_one_way() {
    let issuer = Issuer::new();
    let check = |payload: &str| {
        let token = issuer.token(r#"{"alg":"ES256"}"#, payload);
        assert_eq!(Jwt::parse(&token).err(), Some(Failure::BadPayload), "{payload}");
    };
    check(r#"{"iss":"he","iss":"me"}"#);
    check(r#"{"iss":"me","\u0069ss":"he"}"#);
    check(r#"{"realm":{"role":"a","role":"b"}}"#);
    check(r#"{"exp":1e999}"#);
    check("[]");
    check("\"me\"");
    check(&format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000)));
    check(&issuer.token(r#"{"alg":"ES256"}"#, "{}"));
}

#[test]
fn keys_that_are_served_to_everybody_are_no_secrets() {
    let issuer = Issuer::new();
    let jwt = Jwt::parse(&token(r#"{"alg":"HS256","kid":"mac"}"#, "{}", |message| mac(SECRET, message)))
        .expect("a token");
    let all = KeySet::parse(&issuer.keys).expect("a set");
    let public = KeySet::parse_public(&issuer.keys).expect("a set");
    assert_eq!((all.verify(&jwt), public.verify(&jwt)), (Ok(()), Err(Failure::NoKey)));
    let only = format!(r#"{{"keys":[{{"kty":"oct","k":"{}"}}]}}"#, BASE64.encode(SECRET));
    assert!(KeySet::parse(&only).is_ok() && KeySet::parse_public(&only).is_err());
}

#[test]
fn keys_that_cannot_be_safe_are_none() {
    let check = |key: &str, expected: bool| {
        assert_eq!(KeySet::parse(&format!("{{\"keys\":[{key}]}}")).is_ok(), expected, "{key}");
    };
    let modulus = BASE64.encode([0xc1; 256]);
    let rsa = |modulus: &str, exponent: &str, rest: &str| {
        format!(r#"{{"kty":"RSA","n":"{modulus}","e":"{exponent}"{rest}}}"#)
    };
    check(&rsa(&modulus, "AQAB", ""), true);
    check(&rsa(&modulus, "AQAB", r#","use":"sig","key_ops":["verify"]"#), true);
    check(&rsa(&modulus, "AQAB", r#","use":"enc""#), false);
    check(&rsa(&modulus, "AQAB", r#","key_ops":["encrypt"]"#), false);
    check(&rsa(&modulus, "AQ", ""), false);
    check(&rsa(&modulus, "AA", ""), false);
    check(&rsa(&modulus, "Ag", ""), false);
    check(&rsa(&modulus, "", ""), false);
    check(&rsa(&BASE64.encode([0xc1; 128]), "AQAB", ""), false);
    check(&format!(r#"{{"kty":"oct","k":"{}"}}"#, BASE64.encode([7; 31])), false);
    check(&format!(r#"{{"kty":"oct","k":"{}"}}"#, BASE64.encode([7; 32])), true);
    check(r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#, false);
}
