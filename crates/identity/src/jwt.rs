//! Tokens (JWT) and the sets of keys (JWKS) that they are verified by.
//!
//! A key says for which algorithms it is good: one for RSA never takes an HMAC, one of the curve P-256 only ES256, and
//! `none` is none. What the claims say is judged elsewhere, by `model::jwt`.
//!
//! Source: RFC 7515, 7517, 7518, 7519; RFC 8037 for Ed25519.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use meshwork_model::jwt::Failure;
use meshwork_model::metadata::Value;

/// Without padding when written; with or without when read, as issuers differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Keys of a set that are looked at; issuers have two or three.
const KEYS: usize = 100;
/// The shortest modulus of RSA that is taken, in bytes; a shorter one can be factored.
const RSA_BYTES_LEAST: usize = 256;

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
    /// Takes a token apart.
    ///
    /// # Errors
    /// What of its form is wrong: the fault of who sent it.
    pub fn parse(token: &str) -> Result<Self, Failure> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadFormat);
        };
        if [header, payload, signature].iter().any(|part| part.is_empty()) {
            return Err(Failure::BadFormat);
        }
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
        let signature_bytes = BASE64.decode(signature).map_err(|_| Failure::BadSignature)?;
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
}

impl KeySet {
    /// Reads a set of keys; those of a kind that is not known, or not for signatures, are left out.
    ///
    /// # Errors
    /// It is no set, or none of its keys is good.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("this is no JSON: {error}"))?;
        let listed = value.get("keys").and_then(|keys| keys.as_array()).ok_or("it has no list `keys`")?;
        let keys: Vec<_> = listed.iter().take(KEYS).filter_map(VerifyingKey::read).collect();
        if keys.is_empty() { Err("none of its keys is known".into()) } else { Ok(Self { keys }) }
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
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let modulus: Vec<u8> = bytes("n")?.into_iter().skip_while(|byte| *byte == 0).collect();
                let exponent: Vec<u8> = bytes("e")?.into_iter().skip_while(|byte| *byte == 0).collect();
                (modulus.len() >= RSA_BYTES_LEAST).then_some(Material::Rsa { modulus, exponent })?
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
            ("oct", _) => Material::Secret(bytes("k").filter(|k| !k.is_empty())?),
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

/// A JSON object in base64url.
fn object(text: &str) -> Option<BTreeMap<Arc<str>, Value>> {
    let bytes = BASE64.decode(text).ok()?;
    match value(serde_json::from_slice(&bytes).ok()?) {
        Value::Map(fields) => Some(fields),
        _ => None,
    }
}

fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(bool) => Value::Bool(bool),
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Value::Text(text.into()),
        serde_json::Value::Array(values) => Value::List(values.into_iter().map(value).collect()),
        serde_json::Value::Object(fields) => {
            Value::Map(fields.into_iter().map(|(name, field)| (name.into(), value(field))).collect())
        }
    }
}

/// Completes base64 with padding.
pub fn padded(text: &str) -> String {
    let missing = (4 - text.len() % 4) % 4;
    format!("{text}{}", &"==="[..missing])
}

#[cfg(test)]
mod tests {
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
    fn base64_is_padded() {
        assert_eq!(["", "a", "ab", "abc", "abcd"].map(padded), ["", "a===", "ab==", "abc=", "abcd"]);
    }
}
