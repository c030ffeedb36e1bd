//! The keys of a trust domain for JWT-SVIDs, as a JWKS of public keys.
//!
//! Source: SPIFFE Trust Domain and Bundle §4.2; SPIFFE JWT-SVID §2.1, §6; RFC 7517, RFC 7518 §6.

use serde_json::{Map, Value, json};

use crate::IdentityError;
use crate::jwt::KeySet;

/// More keys than any issuer has.
const MAX_KEYS: usize = 100;
/// More than a set of so many keys is long.
const MAX_BYTES: usize = 256 * 1024;
/// Members that only a private key has. Source: RFC 7518 §6.2.2, §6.3.2.
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];
/// What is kept of a key, in this order.
const PUBLIC: [&str; 8] = ["kty", "kid", "alg", "crv", "x", "y", "n", "e"];

/// Keys for JWT-SVIDs.
pub(crate) struct JwtKeys {
    keys: Vec<Value>,
    text: String,
    set: Option<KeySet>,
}

impl JwtKeys {
    /// Reads a JWKS; an empty text has no keys.
    pub(crate) fn parse(jwks: &str) -> Result<Self, IdentityError> {
        if jwks.trim().is_empty() {
            return Ok(Self::default());
        }
        if jwks.len() > MAX_BYTES {
            return Err(IdentityError::Bundle("its JWT keys are longer than 256 KiB"));
        }
        let value: Value =
            serde_json::from_str(jwks).map_err(|_| IdentityError::Bundle("its JWT keys are no JSON"))?;
        let listed = value.get("keys").and_then(Value::as_array);
        let listed = listed.ok_or(IdentityError::Bundle("its JWT keys are no list `keys`"))?;
        Self::read(listed.iter())
    }

    /// Takes the keys of a list; those of a kind that JWT-SVIDs do not know, and those without a name, are left out.
    pub(crate) fn read<'k>(listed: impl Iterator<Item = &'k Value>) -> Result<Self, IdentityError> {
        let mut keys = Vec::new();
        for key in listed {
            let key = key.as_object().ok_or(IdentityError::Bundle("one of its JWT keys is no object"))?;
            let kind = key.get("kty").and_then(Value::as_str).unwrap_or_default();
            if kind != "RSA" && kind != "EC" {
                continue;
            }
            if PRIVATE.iter().any(|member| key.contains_key(*member)) {
                return Err(IdentityError::Bundle("one of its JWT keys is private: take it out of use"));
            }
            if key.get("kid").and_then(Value::as_str).is_none_or(str::is_empty) {
                continue;
            }
            let public = public_part(key);
            if KeySet::knows(&public) {
                keys.push(public);
            }
            if keys.len() > MAX_KEYS {
                return Err(IdentityError::Bundle("it has more than 100 JWT keys"));
            }
        }
        let text = json!({ "keys": keys }).to_string();
        let set = KeySet::parse(&text).ok();
        Ok(Self { keys, text, set })
    }

    /// The JWKS, as text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Each key as a JWK.
    pub(crate) fn keys(&self) -> &[Value] {
        &self.keys
    }

    /// The keys, ready to verify; none where there is none.
    pub(crate) fn set(&self) -> Option<&KeySet> {
        self.set.as_ref()
    }
}

impl Default for JwtKeys {
    fn default() -> Self {
        Self { keys: Vec::new(), text: r#"{"keys":[]}"#.to_owned(), set: None }
    }
}

fn public_part(key: &Map<String, Value>) -> Value {
    let member = |name: &&str| key.get(*name).map(|value| ((*name).to_owned(), value.clone()));
    Value::Object(PUBLIC.iter().filter_map(member).collect())
}
