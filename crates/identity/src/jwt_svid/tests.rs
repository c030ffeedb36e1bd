//! Tokens, good and forged.

use aws_lc_rs::hmac;

use super::*;
use crate::Revocations;
use crate::forge::{Forge, id};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const AUDIENCE: &str = "https://bank.example";

struct World {
    key: Key,
    ally_key: Key,
    trust: Trust,
    now: SystemTime,
}

impl World {
    fn new() -> Self {
        let (key, ally_key) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
        let with = |forge: Forge, key: &Key| {
            let jwks = json!({ "keys": [public_jwk(key).expect("a JWK")] }).to_string();
            forge.bundle().with_jwt_keys(&jwks).expect("keys")
        };
        let trust = Trust::new(with(Forge::new("mesh.local"), &key))
            .with_federated([with(Forge::new("ally.local"), &ally_key), Forge::new("mute.local").bundle()]);
        let trust = trust.with_revoked(Revocations::new([id("spiffe://mesh.local/gone")], []));
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        Self { key, ally_key, trust, now }
    }

    fn validate(&self, token: &str) -> Result<(JwtSvid, serde_json::Value), JwtSvidError> {
        validate(token, AUDIENCE, &self.trust, self.now)
    }

    /// What is made of claims that are signed as they should be.
    fn of_claims(&self, change: impl FnOnce(&mut serde_json::Value)) -> Result<JwtSvid, JwtSvidError> {
        let mut claims = json!({ "sub": WEB, "aud": [AUDIENCE], "exp": 1_800_000_300, "iat": 1_800_000_000 });
        change(&mut claims);
        let token = encode(&self.key, &claims).expect("signed");
        self.validate(&token).map(|(svid, _)| svid)
    }
}

fn forged(
    header: &serde_json::Value,
    claims: &serde_json::Value,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let signature = BASE64.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[test]
fn a_token_proves_its_subject_to_its_audience() {
    let world = World::new();
    let audience = [AUDIENCE.to_owned(), "other".to_owned()];
    let signed = sign(&world.key, &id(WEB), &audience, world.now, Duration::from_mins(5)).expect("signed");
    let (found, claims) = world.validate(&signed.token).expect("good");
    assert_eq!(found, signed);
    assert_eq!((found.id.as_str(), &found.audience[..]), (WEB, &audience[..]));
    assert_eq!(claims["sub"], WEB);
    let header: serde_json::Value = serde_json::from_slice(
        &BASE64.decode(signed.token.split('.').next().expect("a header")).expect("base64"),
    )
    .expect("JSON");
    assert_eq!(header, json!({ "alg": "ES256", "typ": "JWT", "kid": key_id(&world.key).expect("an id") }));
    assert!(!format!("{signed:?}").contains(&signed.token), "a token is a secret");
    assert!(world.of_claims(|c| c["aud"] = json!(AUDIENCE)).is_ok(), "one audience as a text");
    assert!(world.of_claims(|c| c["nbf"] = json!(1_800_000_030)).is_ok(), "clocks differ a little");
}

#[test]
fn claims_that_break_a_rule_are_refused() {
    use JwtSvidError::{Audience, Early, Expired, NoAudience, NoExpiry, NoSubject, Subject, Time};
    let world = World::new();
    let check = |what: &str, change: &dyn Fn(&mut serde_json::Value), is: &dyn Fn(&JwtSvidError) -> bool| {
        let error = world.of_claims(change).expect_err(what);
        assert!(is(&error), "{what}: {error:?}");
    };
    check("no subject", &|c| c["sub"] = json!(null), &|e| *e == NoSubject);
    check("a subject that is a list", &|c| c["sub"] = json!([WEB]), &|e| *e == NoSubject);
    check("a subject that is no ID", &|c| c["sub"] = json!("web"), &|e| matches!(e, Subject { .. }));
    check("a trust domain alone", &|c| c["sub"] = json!("spiffe://mesh.local"), &|e| {
        matches!(e, Subject { .. })
    });
    check("no audience", &|c| c["aud"] = json!([]), &|e| *e == NoAudience);
    check("an audience that is a number", &|c| c["aud"] = json!(7), &|e| *e == NoAudience);
    check("another audience", &|c| c["aud"] = json!(["other"]), &|e| matches!(e, Audience { .. }));
    let longer = format!("{AUDIENCE}.evil");
    check("an audience that begins so", &|c| c["aud"] = json!([longer]), &|e| matches!(e, Audience { .. }));
    check("no end", &|c| drop(c.as_object_mut().and_then(|c| c.remove("exp"))), &|e| *e == NoExpiry);
    check("an end that is a text", &|c| c["exp"] = json!("1800000300"), &|e| *e == Time("exp"));
    check("an end beyond time", &|c| c["exp"] = json!(1e300), &|e| *e == Time("exp"));
    check("an end before time", &|c| c["exp"] = json!(-1), &|e| *e == Time("exp"));
    check("its end", &|c| c["exp"] = json!(1_800_000_000), &|e| *e == Expired);
    check("to come", &|c| c["nbf"] = json!(1_800_000_100), &|e| *e == Early);
    let gone = "spiffe://mesh.local/gone";
    check("revoked", &|c| c["sub"] = json!(gone), &|e| *e == JwtSvidError::Revoked(gone.to_owned()));
}

#[test]
fn tokens_are_believed_by_the_keys_of_their_own_trust_domain_alone() {
    let world = World::new();
    let sign_for = |key: &Key, subject: &str| {
        let token = sign(key, &id(subject), &[AUDIENCE.to_owned()], world.now, Duration::from_mins(5));
        world.validate(&token.expect("signed").token).map(|(svid, _)| svid.id.to_string())
    };
    let partner = "spiffe://ally.local/partner";
    assert_eq!(sign_for(&world.ally_key, partner).as_deref(), Ok(partner));
    let no_key = |domain: &str| Err(JwtSvidError::NoKey(domain.to_owned()));
    assert_eq!(sign_for(&world.ally_key, WEB), no_key("mesh.local"), "a federated key for ours");
    assert_eq!(sign_for(&world.key, partner), no_key("ally.local"), "our key for theirs");
    assert_eq!(sign_for(&Key::generate().expect("a key"), WEB), no_key("mesh.local"), "a stranger's");
    assert_eq!(sign_for(&world.key, "spiffe://mute.local/a"), no_key("mute.local"), "one without keys");
    let evil = Err(JwtSvidError::NotTrusted("evil.local".to_owned()));
    assert_eq!(sign_for(&world.key, "spiffe://evil.local/a"), evil);
}

#[test]
fn forged_tokens_are_refused() {
    let world = World::new();
    let claims = json!({ "sub": WEB, "aud": [AUDIENCE], "exp": 1_800_000_300 });
    let kid = key_id(&world.key).expect("an id");
    let jwk = public_jwk(&world.key).expect("a JWK").to_string();
    let mac = |secret: &[u8], message: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
    };
    let ours = |message: &[u8]| {
        with_pair(&world.key, |pair| {
            Ok(pair.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec())
        })
        .expect("a key")
    };
    let check = |what: &str, token: &str, words: &str| {
        let error = world.validate(token).expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    };
    let token = |header: serde_json::Value| forged(&header, &claims, ours);
    assert!(world.validate(&token(json!({ "alg": "ES256", "kid": kid }))).is_ok());
    assert!(world.validate(&token(json!({ "alg": "ES256", "kid": kid, "typ": "JOSE" }))).is_ok());
    check("no algorithm", &token(json!({ "alg": "none" })), "alg] is not supported");
    check("no algorithm in capitals", &token(json!({ "alg": "NONE" })), "alg] is not supported");
    check(
        "no signature",
        &format!("{}.", token(json!({ "alg": "ES256" })).rsplit_once('.').expect("parts").0),
        "3 sections",
    );
    let hmac = |secret: &[u8]| forged(&json!({ "alg": "HS256", "kid": kid }), &claims, |m| mac(secret, m));
    check("the public key as a secret", &hmac(jwk.as_bytes()), "its algorithm HS256 is none of");
    check("another kind of key", &token(json!({ "alg": "RS256", "kid": kid })), "no key that fits");
    check("another curve", &token(json!({ "alg": "ES384", "kid": kid })), "no key that fits");
    check(
        "a key that is none",
        &token(json!({ "alg": "ES256", "kid": "../../etc/passwd" })),
        "no key that fits",
    );
    check(
        "a kid that is a list",
        &token(json!({ "alg": "ES256", "kid": [kid] })),
        "header is an invalid JSON",
    );
    check(
        "another type",
        &token(json!({ "alg": "ES256", "kid": kid, "typ": "at+jwt" })),
        "neither JWT nor JOSE",
    );
    check(
        "a demand",
        &token(json!({ "alg": "ES256", "kid": kid, "crit": ["x"] })),
        "header is an invalid JSON",
    );
    let own = json!({ "alg": "ES256", "kid": kid, "jwk": public_jwk(&Key::generate().expect("a key")).expect("a JWK") });
    let strangers = Key::generate().expect("a key");
    let by_stranger = |m: &[u8]| {
        with_pair(&strangers, |pair| {
            Ok(pair.sign(&SystemRandom::new(), m).expect("signed").as_ref().to_vec())
        })
        .expect("a key")
    };
    check("its own key in its header", &forged(&own, &claims, by_stranger), "its signature is wrong");
    check("too long", &"a".repeat(MAX_BYTES + 1), "longer than 16 KiB");
}

#[test]
fn a_token_needs_an_audience_and_a_time() {
    let key = Key::generate().expect("a key");
    let now = SystemTime::now();
    let refused = |audience: &[String], lifetime| {
        sign(&key, &id(WEB), audience, now, Duration::from_millis(lifetime)).expect_err("refused").to_string()
    };
    let one = || vec![AUDIENCE.to_owned()];
    assert!(refused(&[], 60_000).contains("needs an audience"));
    assert!(refused(&[String::new()], 60_000).contains("needs an audience"));
    assert!(refused(&vec!["a".to_owned(); MAX_AUDIENCES + 1], 60_000).contains("at most 32"));
    assert!(refused(&["a".repeat(MAX_AUDIENCE + 1)], 60_000).contains("at most 32"));
    assert!(refused(&one(), 999).contains("less than a second"));
}
