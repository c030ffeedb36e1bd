//! A bundle as a SPIFFE bundle document: a JWKS whose keys say what they are used for.
//!
//! Source: SPIFFE Trust Domain and Bundle §4.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::public_key::PublicKey;

use super::{Bundle, JwtKeys, MAX_ROOTS};
use crate::{IdentityError, svid};

/// More than the document of a trust domain with every root and key that is taken.
const MAX_BYTES: usize = 1024 * 1024;
const USE_X509: &str = "x509-svid";
const USE_JWT: &str = "jwt-svid";
/// Kinds of keys that certificates have. Source: RFC 7518 §6.1; RFC 8037 §2.
const KINDS: [&str; 3] = ["EC", "RSA", "OKP"];

/// A bundle document, read.
#[derive(Clone, Debug)]
pub struct BundleDocument {
    /// The authorities; without roots and keys where the document has none.
    pub bundle: Bundle,
    /// A number that grows with each change, where the document has one.
    pub sequence: Option<u64>,
    /// How long a reader may wait before it looks again, where the document says.
    pub refresh_hint: Option<Duration>,
}

impl BundleDocument {
    /// Reads a document of a trust domain that the caller names: the document does not.
    ///
    /// # Errors
    /// It is no JSON object with a list `keys`, or a key of a known use breaks a rule. Keys of other uses are left out.
    pub fn parse(trust_domain: &str, text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_BYTES {
            return Err(IdentityError::Bundle("the document is longer than 1 MiB"));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|_| IdentityError::Bundle("the document is no JSON"))?;
        Self::read(trust_domain, &value)
    }

    pub(crate) fn read(trust_domain: &str, document: &Value) -> Result<Self, IdentityError> {
        let document = document.as_object().ok_or(IdentityError::Bundle("the document is no JSON object"))?;
        // An empty list says that earlier keys are revoked; what has none, such as another server's error, says nothing.
        let listed = document.get("keys").and_then(Value::as_array);
        let listed = listed.ok_or(IdentityError::Bundle("the document has no list `keys`"))?;
        let used_for = |usage: &'static str| {
            listed.iter().filter(move |key| key.get("use").and_then(Value::as_str) == Some(usage))
        };
        if used_for(USE_X509).nth(MAX_ROOTS).is_some() {
            return Err(IdentityError::Bundle("it has more than 64 roots"));
        }
        let roots = used_for(USE_X509).filter_map(root).collect::<Result<Vec<_>, _>>()?;
        let bundle = Bundle::new(trust_domain, roots, JwtKeys::read(used_for(USE_JWT))?)?;
        let sequence = number(document, "spiffe_sequence")?;
        let refresh_hint = number(document, "spiffe_refresh_hint")?.map(Duration::from_secs);
        Ok(Self { bundle, sequence, refresh_hint })
    }
}

/// The first certificate of `x5c`; an entry without one, or of an unknown kind, is left out. Source: X.509-SVID §6.2;
/// Trust Domain and Bundle §4.2.1. One that says no kind is told by its certificate alone.
fn root(key: &Value) -> Option<Result<CertificateDer<'static>, IdentityError>> {
    let is_unknown = |kind: &Value| kind.as_str().is_none_or(|kind| !KINDS.contains(&kind));
    if key.get("kty").is_some_and(is_unknown) {
        return None;
    }
    let certificate = key.get("x5c")?.as_array()?.first()?;
    let bytes = certificate.as_str().and_then(|text| STANDARD.decode(text).ok());
    Some(bytes.map(CertificateDer::from).ok_or(IdentityError::Bundle("a root of the document is no base64")))
}

fn number(document: &Map<String, Value>, name: &str) -> Result<Option<u64>, IdentityError> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        // Some write numbers with a fraction of nought.
        Some(value) => match value.as_u64().or_else(|| whole(value.as_f64()?)) {
            Some(number) => Ok(Some(number)),
            None => Err(IdentityError::Bundle("the document's sequence or refresh hint is no whole number")),
        },
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
}

/// Writes the document of a bundle.
pub(crate) fn write(bundle: &Bundle, sequence: Option<u64>, refresh_hint: Option<Duration>) -> Value {
    let roots = bundle.certificates().iter().map(root_key);
    let tokens = bundle.jwt().keys().iter().map(|key| {
        let mut key = key.clone();
        key["use"] = USE_JWT.into();
        key
    });
    let mut document = json!({ "keys": roots.chain(tokens).collect::<Vec<_>>() });
    if let Some(sequence) = sequence {
        document["spiffe_sequence"] = sequence.into();
    }
    if let Some(hint) = refresh_hint {
        document["spiffe_refresh_hint"] = hint.as_secs().into();
    }
    document
}

/// A root as a JWK. A key of a kind that has no form there is told by its certificate alone.
fn root_key(root: &CertificateDer<'_>) -> Value {
    let mut key = public_key(root).unwrap_or_else(|| json!({}));
    key["use"] = USE_X509.into();
    key["x5c"] = json!([STANDARD.encode(root)]);
    key
}

fn public_key(root: &CertificateDer<'_>) -> Option<Value> {
    let certificate = svid::parse(root).ok()?;
    let key = certificate.public_key();
    match key.parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curves = [(OID_EC_P256, "P-256"), (OID_NIST_EC_P384, "P-384"), (OID_NIST_EC_P521, "P-521")];
            let (_, name) = curves.into_iter().find(|(known, _)| *known == curve)?;
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            Some(json!({
                "kty": "EC", "crv": name, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            }))
        }
        PublicKey::RSA(key) => {
            let without_zeros = |bytes: &[u8]| {
                let bytes: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
                URL_SAFE_NO_PAD.encode(bytes)
            };
            Some(json!({ "kty": "RSA", "n": without_zeros(key.modulus), "e": without_zeros(key.exponent) }))
        }
        PublicKey::Unknown(point) if key.algorithm.algorithm == OID_SIG_ED25519 => {
            Some(json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(point) }))
        }
        _ => None,
    }
}
