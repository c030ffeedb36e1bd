//! Tokens (JWT): [`authenticate`] says whether a request has those that it needs, [`judge`] whether the claims of one are
//! good; and what is said where they are not.
//!
//! What takes a token apart and verifies its signature is a [`Keyring`]: this has no keys.
//!
//! Source: RFC 7519; Envoy `extensions.filters.http.jwt_authn.v3`.

mod check;
mod places;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::check::{Authentication, Keyring, Parts, Passed, Refusal, authenticate};
pub use self::places::put;
use crate::metadata::Value;
use crate::proxy::JwtProvider;
use crate::route::matches_text;

/// The members of a token's header, or its claims, by name.
pub type Claims = BTreeMap<Arc<str>, Value>;

/// Why a request's token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is none.
    Missing,
    /// There are several, and they are not the same.
    Several,
    /// It has not three parts.
    BadFormat,
    /// Its header cannot be read.
    BadHeader,
    /// Its header names no algorithm.
    BadAlgorithm,
    /// Its header names an algorithm that is not known.
    UnknownAlgorithm,
    /// Its claims cannot be read.
    BadPayload,
    /// Its signature cannot be read.
    BadSignature,
    /// Nobody knows its issuer.
    UnknownIssuer,
    /// Its subject is not let in.
    Subject,
    /// It is for somebody else.
    Audience,
    /// It is not valid yet.
    Early,
    /// It is not valid any more.
    Expired,
    /// The keys could not be fetched.
    NoKeySet,
    /// The issuer has no good keys.
    NoValidKeys,
    /// The issuer has no such key.
    NoKey,
    /// The key did not make the signature, or the token does not end as early as it has to.
    NotVerified,
}

impl Failure {
    /// What is said of it. Source: Envoy's answers, which clients know.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Several => "Jwt is there more than once, and not the same",
            Self::BadFormat => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::BadHeader => "Jwt header is an invalid JSON",
            Self::BadAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::UnknownAlgorithm => "Jwt header [alg] is not supported",
            Self::BadPayload => "Jwt payload is an invalid JSON",
            Self::BadSignature => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::Subject => "Jwt subject is not allowed",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::Early => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::NoKeySet => "Jwks remote fetch is failed",
            Self::NoValidKeys => "Jwks doesn't have any valid public key",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::NotVerified => "Jwt verification fails",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::Audience => 403,
            _ => 401,
        }
    }
}

/// Judges claims, the signature aside, by a provider at a time in seconds since 1970; `audiences` stand in the place of
/// the provider's.
///
/// # Errors
/// What is not good.
pub fn judge(
    claims: &Claims,
    provider: &JwtProvider,
    audiences: Option<&[Arc<str>]>,
    now: f64,
) -> Result<(), Failure> {
    if provider.issuer.as_deref().is_some_and(|known| known != issuer(claims)) {
        return Err(Failure::UnknownIssuer);
    }
    let (not_before, expires) = (time(claims, "nbf")?, time(claims, "exp")?);
    // What will only be issued is forged, or of a clock that says nothing of `exp` either.
    let begins = [not_before, time(claims, "iat")?];
    let skew = f64::from(provider.clock_skew_seconds);
    if begins.into_iter().flatten().any(|time| time > now + skew) {
        return Err(Failure::Early);
    }
    if expires.is_some_and(|time| now > time + skew) {
        return Err(Failure::Expired);
    }
    let is_bounded = provider.require_expiration || provider.max_lifetime.is_some();
    if is_bounded && expires.is_none() {
        return Err(Failure::NotVerified);
    }
    if let (Some(most), Some(time)) = (provider.max_lifetime, expires)
        && time - now > most.as_secs_f64()
    {
        return Err(Failure::NotVerified);
    }
    if let Some(test) = &provider.subjects {
        let subject = text(claims, "sub").unwrap_or_default();
        if !matches_text(test, subject.as_bytes()) {
            return Err(Failure::Subject);
        }
    }
    let wanted = audiences.unwrap_or(&provider.audiences);
    if wanted.is_empty() || is_for(claims, wanted) { Ok(()) } else { Err(Failure::Audience) }
}

/// Who issued a token; empty where it does not say.
pub fn issuer(claims: &Claims) -> &str {
    text(claims, "iss").unwrap_or_default()
}

/// From here on not every whole number has one of its own among those that numbers are read as. Source: RFC 8259 §6.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// A claim as a header field has it; `None` where it is no single value, or a number that is too large to be exact: it could
/// be somebody else's.
pub fn claim(claims: &Claims, path: &[Arc<str>]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let mut value = claims.get(first)?;
    for key in rest {
        let Value::Map(fields) = value else { return None };
        value = fields.get(key)?;
    }
    let text = match value {
        Value::Text(text) => text.to_string(),
        Value::Bool(bool) => bool.to_string(),
        Value::Number(number) if number.abs() >= INEXACT => return None,
        Value::Number(number) if number.fract() != 0.0 || *number < 0.0 => format!("{number:.6}"),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::List(_) | Value::Map(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn is_for(claims: &Claims, wanted: &[Arc<str>]) -> bool {
    let is_wanted = |audience: &str| wanted.iter().any(|one| bare(one) == bare(audience));
    match claims.get("aud") {
        Some(Value::Text(audience)) => is_wanted(audience),
        Some(Value::List(audiences)) => {
            audiences.iter().any(|audience| matches!(audience, Value::Text(text) if is_wanted(text)))
        }
        _ => false,
    }
}

/// An audience without scheme and last slash, as which they are compared.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

fn time(claims: &Claims, name: &str) -> Result<Option<f64>, Failure> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(seconds)) if *seconds >= 0.0 => Ok(Some(*seconds)),
        Some(_) => Err(Failure::BadPayload),
    }
}

fn text<'c>(claims: &'c Claims, name: &str) -> Option<&'c str> {
    match claims.get(name)? {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::StringMatch;

    fn number(number: f64) -> Value {
        Value::Number(number)
    }

    #[test]
    fn claims_are_judged() {
        let check = |name: &str, claims: &[(&str, Value)], change: fn(&mut JwtProvider), expected| {
            let mut provider = JwtProvider { clock_skew_seconds: 60, ..JwtProvider::default() };
            change(&mut provider);
            let claims = claims.iter().map(|(name, value)| (Arc::from(*name), value.clone())).collect();
            assert_eq!(judge(&claims, &provider, None, 1000.0), expected, "{name}");
        };
        let text = |text: &str| Value::Text(text.into());
        check("nothing", &[], |_| (), Ok(()));
        check("valid", &[("exp", number(2000.0)), ("nbf", number(900.0))], |_| (), Ok(()));
        check("skewed", &[("exp", number(940.0)), ("nbf", number(1060.0))], |_| (), Ok(()));
        check("expired", &[("exp", number(939.0))], |_| (), Err(Failure::Expired));
        check("early", &[("nbf", number(1061.0))], |_| (), Err(Failure::Early));
        check("issued", &[("iat", number(1060.0))], |_| (), Ok(()));
        check("issued tomorrow", &[("iat", number(1061.0))], |_| (), Err(Failure::Early));
        check("issued when", &[("iat", text("now"))], |_| (), Err(Failure::BadPayload));
        check("before time", &[("exp", number(-1.0))], |_| (), Err(Failure::BadPayload));
        check("no number", &[("exp", number(f64::NAN))], |_| (), Err(Failure::BadPayload));
        check("no time", &[("exp", text("soon"))], |_| (), Err(Failure::BadPayload));
        check("no end", &[], |p| p.require_expiration = true, Err(Failure::NotVerified));
        let short = |p: &mut JwtProvider| p.max_lifetime = Some(Duration::from_secs(100));
        check("short", &[("exp", number(1100.0))], short, Ok(()));
        check("too long", &[("exp", number(1101.0))], short, Err(Failure::NotVerified));
        check("for ever", &[], short, Err(Failure::NotVerified));
        let audiences = |p: &mut JwtProvider| p.audiences = vec!["https://a.example.com/".into()];
        check("for us", &[("aud", text("a.example.com"))], audiences, Ok(()));
        check(
            "for us, too",
            &[("aud", Value::List(vec![text("b"), text("http://a.example.com")]))],
            audiences,
            Ok(()),
        );
        check("for others", &[("aud", text("b"))], audiences, Err(Failure::Audience));
        check("for nobody", &[], audiences, Err(Failure::Audience));
        let subjects = |p: &mut JwtProvider| p.subjects = Some(StringMatch::Prefix("spiffe://".into()));
        let issuer = |p: &mut JwtProvider| p.issuer = Some("a".into());
        check("theirs", &[("iss", text("a"))], issuer, Ok(()));
        check("another's", &[("iss", text("b")), ("exp", number(1.0))], issuer, Err(Failure::UnknownIssuer));
        check("nobody's", &[], issuer, Err(Failure::UnknownIssuer));
        check("a subject", &[("sub", text("spiffe://a"))], subjects, Ok(()));
        check("another", &[("sub", text("a"))], subjects, Err(Failure::Subject));
    }

    #[test]
    fn a_claim_is_written_as_a_field() {
        let inner = Value::Map([("b".into(), Value::Text("c".into()))].into());
        let (exact, rounded) = (number(INEXACT - 1.0), number(INEXACT));
        let claims = [("a".into(), inner), ("n".into(), number(7.0)), ("f".into(), number(0.5))];
        let claims = claims.into_iter().chain([("e".into(), exact), ("r".into(), rounded)]).collect();
        let check = |path: &[&str], expected: Option<&str>| {
            let path: Vec<Arc<str>> = path.iter().map(|key| Arc::from(*key)).collect();
            assert_eq!(claim(&claims, &path).as_deref(), expected, "{path:?}");
        };
        check(&["a", "b"], Some("c"));
        check(&["a"], None);
        check(&["n"], Some("7"));
        check(&["f"], Some("0.500000"));
        check(&["e"], Some("9007199254740991"));
        check(&["r"], None);
        check(&["x"], None);
    }
}
