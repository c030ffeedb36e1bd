//! JWT-SVIDs: short-lived tokens that prove an identity to one audience, for peers that mTLS does not reach.
//!
//! A token is a bearer's: whoever holds it is believed. So it lives for minutes, is for one audience, and is shown in no
//! `Debug`. It is verified by the keys of the trust domain that its subject names, and by no other.
//!
//! Source: SPIFFE JWT-SVID; RFC 7515, RFC 7519.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use meshwork_model::jwt::Failure;
use meshwork_model::metadata::Value;
use meshwork_model::spiffe::{SpiffeId, SpiffeIdError};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::jwt::{BASE64, Jwt};
use crate::{IdentityError, Key, Trust};

/// Longer tokens do not fit into a header field of many servers.
const MAX_BYTES: usize = 16 * 1024;
/// Audiences that a token is signed for at most.
const MAX_AUDIENCES: usize = 32;
/// The longest audience, bytes.
const MAX_AUDIENCE: usize = 2048;
/// How far clocks may be apart where a token is not valid yet. Past its end there is no leeway.
const LEEWAY: Duration = Duration::from_mins(1);
/// Algorithms of JWT-SVIDs. Source: JWT-SVID §2.1.
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// A token that proves an identity.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// For whom it is, in the token's order.
    pub audience: Vec<String>,
    /// Until when it is good.
    pub expires_at: SystemTime,
    /// When it was made, where it says.
    pub issued_at: Option<SystemTime>,
    /// The token itself: a secret.
    pub token: String,
}

/// Why a token is no good JWT-SVID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSvidError {
    /// It is longer than any that is taken.
    #[error("the token is longer than 16 KiB")]
    TooLong,
    /// Its form is wrong.
    #[error("it is no JWT: {}", .0.text())]
    Form(Failure),
    /// Its header says that it is something else.
    #[error("its header's typ is neither JWT nor JOSE")]
    Type,
    /// It is signed by an algorithm that JWT-SVIDs do not have, such as a symmetric one.
    #[error("its algorithm {0} is none of RS, ES and PS with 256, 384 or 512 bits")]
    Algorithm(String),
    /// It names nobody.
    #[error("it has no subject")]
    NoSubject,
    /// Its subject is no SPIFFE ID of a workload.
    #[error("its subject {subject:?} is not a workload's SPIFFE ID: {cause}")]
    Subject {
        /// What stands there.
        subject: String,
        /// The rule that it breaks.
        cause: SpiffeIdError,
    },
    /// Nobody vouches for the subject's trust domain.
    #[error("the trust domain {0} is not trusted here")]
    NotTrusted(String),
    /// The trust domain has no key that could have signed it.
    #[error("the trust domain {0} has no key that fits")]
    NoKey(String),
    /// The key did not sign it.
    #[error("its signature is wrong")]
    Signature,
    /// It is for nobody.
    #[error("it has no audience")]
    NoAudience,
    /// It is for others.
    #[error("it is for {found:?}, not for {wanted:?}")]
    Audience {
        /// For whom it is.
        found: Vec<String>,
        /// Who asks.
        wanted: String,
    },
    /// It would be good for ever.
    #[error("it does not say when it expires")]
    NoExpiry,
    /// A time in it is none.
    #[error("its claim {0} is no time")]
    Time(&'static str),
    /// Its time has passed.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    Early,
    /// Its subject is revoked.
    #[error("{0} is revoked")]
    Revoked(String),
}

/// Verifies a token that somebody showed to `audience`, and gives it with all of its claims.
///
/// # Errors
/// What is wrong with it: always the fault of who showed it, unless the trust is behind.
pub fn validate(
    token: &str,
    audience: &str,
    trust: &Trust,
    now: SystemTime,
) -> Result<(JwtSvid, serde_json::Value), JwtSvidError> {
    if token.len() > MAX_BYTES {
        return Err(JwtSvidError::TooLong);
    }
    let jwt = Jwt::parse(token).map_err(JwtSvidError::Form)?;
    check_header(&jwt)?;
    let id = subject(&jwt)?;
    check_signature(&jwt, &id, trust)?;
    let found = audiences(&jwt.claims)?;
    if !found.iter().any(|one| one == audience) {
        return Err(JwtSvidError::Audience { found, wanted: audience.to_owned() });
    }
    let expires_at = time(&jwt.claims, "exp")?.ok_or(JwtSvidError::NoExpiry)?;
    if expires_at <= now {
        return Err(JwtSvidError::Expired);
    }
    let issued_at = time(&jwt.claims, "iat")?;
    let not_before = time(&jwt.claims, "nbf")?;
    if not_before.is_some_and(|begin| begin > now + LEEWAY) {
        return Err(JwtSvidError::Early);
    }
    if trust.revoked().identities().any(|revoked| *revoked == id) {
        return Err(JwtSvidError::Revoked(id.to_string()));
    }
    let claims = BASE64.decode(&jwt.payload).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let claims = claims.ok_or(JwtSvidError::Form(Failure::BadPayload))?;
    Ok((JwtSvid { id, audience: found, expires_at, issued_at, token: token.to_owned() }, claims))
}

/// Source: JWT-SVID §2.
fn check_header(jwt: &Jwt) -> Result<(), JwtSvidError> {
    match jwt.header.get("typ") {
        None => {}
        Some(Value::Text(kind)) if matches!(&**kind, "JWT" | "JOSE") => {}
        Some(_) => return Err(JwtSvidError::Type),
    }
    if ALGORITHMS.contains(&jwt.algorithm()) {
        return Ok(());
    }
    Err(JwtSvidError::Algorithm(jwt.algorithm().to_owned()))
}

/// Source: JWT-SVID §3.1.
fn subject(jwt: &Jwt) -> Result<SpiffeId, JwtSvidError> {
    let Some(Value::Text(subject)) = jwt.claims.get("sub") else { return Err(JwtSvidError::NoSubject) };
    SpiffeId::parse(subject)
        .map_err(|cause| JwtSvidError::Subject { subject: subject.escape_default().to_string(), cause })
}

fn check_signature(jwt: &Jwt, id: &SpiffeId, trust: &Trust) -> Result<(), JwtSvidError> {
    let domain = id.trust_domain();
    let bundle = trust.bundle_of(domain).ok_or_else(|| JwtSvidError::NotTrusted(domain.to_owned()))?;
    let keys = bundle.jwt().set().ok_or_else(|| JwtSvidError::NoKey(domain.to_owned()))?;
    keys.verify(jwt).map_err(|failure| match failure {
        Failure::NoKey => JwtSvidError::NoKey(domain.to_owned()),
        _ => JwtSvidError::Signature,
    })
}

/// One text or a list of them. Source: RFC 7519 §4.1.3; JWT-SVID §3.2.
fn audiences(claims: &BTreeMap<Arc<str>, Value>) -> Result<Vec<String>, JwtSvidError> {
    let text = |value: &Value| match value {
        Value::Text(text) => Some(text.to_string()),
        _ => None,
    };
    let found = match claims.get("aud") {
        Some(Value::List(list)) => list.iter().filter_map(text).collect(),
        Some(one) => text(one).into_iter().collect(),
        None => Vec::new(),
    };
    if found.is_empty() { Err(JwtSvidError::NoAudience) } else { Ok(found) }
}

/// Seconds since 1970, with or without a fraction. Source: RFC 7519 §2, `NumericDate`.
fn time(claims: &BTreeMap<Arc<str>, Value>, name: &'static str) -> Result<Option<SystemTime>, JwtSvidError> {
    let seconds = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(seconds)) => *seconds,
        Some(_) => return Err(JwtSvidError::Time(name)),
    };
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| JwtSvidError::Time(name))?;
    SystemTime::UNIX_EPOCH.checked_add(since).map(Some).ok_or(JwtSvidError::Time(name))
}

/// Signs a token for an identity, by a key of its trust domain (ES256). Who may have it is the caller's business.
///
/// # Errors
/// No audience, too many or too long ones; a lifetime of less than a second.
pub fn sign(
    key: &Key,
    id: &SpiffeId,
    audience: &[String],
    now: SystemTime,
    lifetime: Duration,
) -> Result<JwtSvid, IdentityError> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(IdentityError::Request("a token needs an audience".to_owned()));
    }
    if audience.len() > MAX_AUDIENCES || audience.iter().any(|one| one.len() > MAX_AUDIENCE) {
        return Err(IdentityError::Request(
            "a token has at most 32 audiences of 2,048 bytes each".to_owned(),
        ));
    }
    if lifetime.as_secs() == 0 {
        return Err(IdentityError::Lifetime("a lifetime of less than a second was asked for"));
    }
    let begin = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let end = begin.saturating_add(lifetime.as_secs());
    let token = encode(key, &json!({ "sub": id.as_str(), "aud": audience, "iat": begin, "exp": end }))?;
    if token.len() > MAX_BYTES {
        return Err(IdentityError::Request("the token would be longer than 16 KiB".to_owned()));
    }
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok(JwtSvid {
        id: id.clone(),
        audience: audience.to_vec(),
        expires_at: at(end),
        issued_at: Some(at(begin)),
        token,
    })
}

/// Signs claims by ES256.
///
/// # Errors
/// The library fails.
pub fn encode(key: &Key, claims: &serde_json::Value) -> Result<String, IdentityError> {
    let header = json!({ "alg": "ES256", "kid": key_id(key)?, "typ": "JWT" });
    let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let failed = |_| IdentityError::Crypto("it cannot sign".to_owned());
    let signature =
        with_pair(key, |pair| pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(failed))?;
    Ok(format!("{signed}.{}", BASE64.encode(signature)))
}

/// The public half of a key as a JWK, named by [`key_id`].
///
/// # Errors
/// The library fails.
pub fn public_jwk(key: &Key) -> Result<serde_json::Value, IdentityError> {
    let (x, y) = coordinates(key)?;
    Ok(json!({ "kty": "EC", "kid": thumbprint(&x, &y), "alg": "ES256", "crv": "P-256", "x": x, "y": y }))
}

/// The name of a key in tokens and sets of keys: its thumbprint. Source: RFC 7638.
///
/// # Errors
/// The library fails.
pub fn key_id(key: &Key) -> Result<String, IdentityError> {
    let (x, y) = coordinates(key)?;
    Ok(thumbprint(&x, &y))
}

fn thumbprint(x: &str, y: &str) -> String {
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64.encode(Sha256::digest(members))
}

/// The point of the public key, each coordinate in base64url.
fn coordinates(key: &Key) -> Result<(String, String), IdentityError> {
    with_pair(key, |pair| match pair.public_key().as_ref() {
        [4, point @ ..] if point.len() == 64 => {
            Ok((BASE64.encode(&point[..32]), BASE64.encode(&point[32..])))
        }
        _ => Err(IdentityError::Key),
    })
}

fn with_pair<T>(
    key: &Key,
    act: impl FnOnce(&EcdsaKeyPair) -> Result<T, IdentityError>,
) -> Result<T, IdentityError> {
    // The library wipes its own copy when it is dropped.
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8())
        .map_err(|_| IdentityError::Key)?;
    act(&pair)
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
