//! Tokens (JWT) and the sets of keys (JWKS) that they are verified by.
//!
//! A key says for which algorithms it is good: one for RSA never takes an HMAC, one of the curve P-256 only ES256, and
//! `none` is none. What the claims say is judged elsewhere, by `model::jwt`.
//!
//! What a token is, is read strictly: one spelling of each part, each member once, a bound on length and depth. Keys that
//! it names or brings itself (`jku`, `x5u`, `jwk`, `x5c`) are never looked at.
//!
//! Source: RFC 7515, 7517, 7518, 7519; RFC 8037 for Ed25519; RFC 8725 for what tricks there are.

mod json;

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use meshwork_model::jwt::{Failure, Parts};
use meshwork_model::metadata::Value;

/// Without padding when written; with or without when read, as issuers differ.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Of tokens: the one way in which a part may be written, without padding (RFC 7515 §2). Else one token would have several
/// spellings, of which a list of revoked ones has one.
const TOKEN_BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The longest token, in bytes; one of 200 groups has 8 KiB.
const TOKEN_BYTES: usize = 32 << 10;
/// Keys of a set that are looked at; issuers have two or three.
const KEYS: usize = 100;
/// The shortest modulus of RSA that is taken, in bytes; a shorter one can be factored.
const RSA_BYTES_LEAST: usize = 256;
/// The shortest secret of an HMAC, in bytes; a shorter one is guessed. Source: RFC 7518 §3.2, RFC 8725 §3.5.
const SECRET_BYTES_LEAST: usize = 32;

/// A token, taken apart. Nothing of it is verified.
pub struct Jwt {
    /// Its header.
    pub header: BTreeMap<Arc<str>, Value>,
    /// Its claims.
    pub claims: BTreeMap<Arc<str>, Value>,
    /// The claims as they stand in it, in base64url.
    pub payload: String,
    algorithm: Algorithm,
    key_id: Option<Arc<str>>,
    signed: String,
    signature: Vec<u8>,
}

/// A set of keys.
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

struct VerifyingKey {
    id: Option<Box<str>>,
    algorithm: Option<Box<str>>,
    material: Material,
}

enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point, and the one algorithm of its curve.
    Curve {
        point: Vec<u8>,
        algorithm: Algorithm,
    },
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

impl Jwt {
    /// Reads a token: what it says, and what of it is verified.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn read(token: &str) -> Result<(Parts, Self), Failure> {
        let mut jwt = Self::parse(token)?;
        let parts = Parts {
            header: mem::take(&mut jwt.header),
            claims: mem::take(&mut jwt.claims),
            payload: mem::take(&mut jwt.payload),
        };
        Ok((parts, jwt))
    }

    /// Takes a token apart.
    ///
    /// # Errors
    /// What of its form is wrong: the fault of who sent it.
    pub fn parse(token: &str) -> Result<Self, Failure> {
        if token.len() > TOKEN_BYTES {
            return Err(Failure::BadFormat);
        }
        // An encrypted one (JWE) has five.
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadFormat);
        };
        if [header, payload, signature].iter().any(|part| part.is_empty()) {
            return Err(Failure::BadFormat);
        }
        let object = |text: &str| json::object(&TOKEN_BASE64.decode(text).ok()?);
        let fields = object(header).ok_or(Failure::BadHeader)?;
        let algorithm = match fields.get("alg") {
            Some(Value::Text(name)) => Algorithm::named(name).ok_or(Failure::UnknownAlgorithm)?,
            _ => return Err(Failure::BadAlgorithm),
        };
        let key_id = match fields.get("kid") {
            None => None,
            Some(Value::Text(id)) => Some(Arc::clone(id)),
            Some(_) => return Err(Failure::BadHeader),
        };
        // What we do not understand, but must (RFC 7515 §4.1.11).
        if fields.contains_key("crit") {
            return Err(Failure::BadHeader);
        }
        let claims = object(payload).ok_or(Failure::BadPayload)?;
        let signature_bytes = TOKEN_BASE64.decode(signature).map_err(|_| Failure::BadSignature)?;
        Ok(Self {
            header: fields,
            claims,
            payload: payload.to_owned(),
            algorithm,
            key_id,
            signed: token[..header.len() + 1 + payload.len()].to_owned(),
            signature: signature_bytes,
        })
    }

    /// The key that its header names, where it names one. It is compared with those of the issuer's set, and nothing else.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The algorithm that its header names, such as `ES256`.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }
}

impl KeySet {
    /// Reads a set of keys; those of a kind that is not known, or not for signatures, are left out.
    ///
    /// # Errors
    /// It is no set, or none of its keys is good.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, |_| true)
    }

    /// Reads a set of keys that somebody else serves; symmetric ones are left out: what is served to everybody is no
    /// secret.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_public(text: &str) -> Result<Self, String> {
        Self::read(text, |key| !matches!(key.material, Material::Secret(_)))
    }

    fn read(text: &str, is_taken: impl Fn(&VerifyingKey) -> bool) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("this is no JSON: {error}"))?;
        let listed = value.get("keys").and_then(|keys| keys.as_array()).ok_or("it has no list `keys`")?;
        let keys: Vec<_> = listed.iter().take(KEYS).filter_map(VerifyingKey::read).filter(is_taken).collect();
        if keys.is_empty() { Err("none of its keys is known".into()) } else { Ok(Self { keys }) }
    }

    /// Whether a JWK is of a kind that is known.
    pub(crate) fn knows(key: &serde_json::Value) -> bool {
        VerifyingKey::read(key).is_some()
    }

    /// Verifies a token's signature by the key that it names, or by any that fits.
    ///
    /// # Errors
    /// No key fits, or none that does made the signature.
    pub fn verify(&self, token: &Jwt) -> Result<(), Failure> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(token)).peekable();
        if fitting.peek().is_none() {
            return Err(Failure::NoKey);
        }
        if fitting.any(|key| key.has_signed(token)) { Ok(()) } else { Err(Failure::NotVerified) }
    }
}

impl VerifyingKey {
    fn read(value: &serde_json::Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(|text| text.as_str());
        let bytes = |name: &str| BASE64.decode(text(name)?).ok();
        let has_no_verify = |operations: &serde_json::Value| {
            operations.as_array().is_none_or(|list| !list.iter().any(|one| one == "verify"))
        };
        if text("use").is_some_and(|usage| usage != "sig") || value.get("key_ops").is_some_and(has_no_verify)
        {
            return None;
        }
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let modulus: Vec<u8> = bytes("n")?.into_iter().skip_while(|byte| *byte == 0).collect();
                let exponent: Vec<u8> = bytes("e")?.into_iter().skip_while(|byte| *byte == 0).collect();
                // With an exponent of 1, a signature is what it signs.
                let is_exponent = exponent.last().is_some_and(|last| last % 2 == 1) && exponent != [1];
                let is_good = is_exponent && modulus.len() >= RSA_BYTES_LEAST;
                is_good.then_some(Material::Rsa { modulus, exponent })?
            }
            ("EC", Some(curve)) => {
                let (algorithm, length) = match curve {
                    "P-256" => (Algorithm::Es256, 32),
                    "P-384" => (Algorithm::Es384, 48),
                    "P-521" => (Algorithm::Es512, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                Material::Curve { point: [&[4], &x[..], &y[..]].concat(), algorithm }
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            ("oct", _) => Material::Secret(bytes("k").filter(|k| k.len() >= SECRET_BYTES_LEAST)?),
            _ => return None,
        };
        Some(Self { id: text("kid").map(Into::into), algorithm: text("alg").map(Into::into), material })
    }

    /// Whether it may have signed a token: no name says otherwise, and it is of the algorithm's kind.
    fn fits(&self, token: &Jwt) -> bool {
        let is_named = match (&self.id, &token.key_id) {
            (Some(own), Some(asked)) => **own == **asked,
            _ => true,
        };
        let is_kind = match &self.material {
            Material::Rsa { .. } => token.algorithm.rsa().is_some(),
            Material::Curve { algorithm, .. } => *algorithm == token.algorithm,
            Material::Ed25519(_) => token.algorithm == Algorithm::EdDsa,
            Material::Secret(_) => token.algorithm.hmac().is_some(),
        };
        is_named && is_kind && self.algorithm.as_ref().is_none_or(|name| **name == *token.algorithm.name())
    }

    fn has_signed(&self, token: &Jwt) -> bool {
        let (message, signature) = (token.signed.as_bytes(), &token.signature[..]);

        match &self.material {
            Material::Rsa { modulus, exponent } => token.algorithm.rsa().is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, signature).is_ok()
            }),
            Material::Curve { point, algorithm } => {
                let parameters = match algorithm {
                    Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
                    _ => &signature::ECDSA_P256_SHA256_FIXED,
                };
                UnparsedPublicKey::new(parameters, point).verify(message, signature).is_ok()
            }
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            Material::Secret(secret) => token.algorithm.hmac().is_some_and(|algorithm| {
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
            }),
        }
    }
}

impl Algorithm {
    const ALL: [(&str, Self); 13] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("EdDSA", Self::EdDsa),
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            _ => None,
        }
    }

    fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }
}

/// A token of these claims, a JSON object, that nobody has signed: no key verifies it.
pub fn unsigned(claims: &str) -> String {
    let [header, claims] = [r#"{"alg":"ES256"}"#, claims].map(|part| TOKEN_BASE64.encode(part));
    format!("{header}.{claims}.{}", TOKEN_BASE64.encode("unsigned"))
}

#[cfg(test)]
mod tests;
