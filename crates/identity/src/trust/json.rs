//! Trust as text: a SPIFFE bundle map, and beside it whose it is, where it issues, and who is revoked.
//!
//! ```json
//! {"trust_domains": {"mesh.local": {"keys": [...]}}, "own": "mesh.local", "issuer": "<SHA-256 of a root>",
//!  "revoked": {"identities": ["spiffe://…"], "serials": ["1f…"]}}
//! ```
//! Source: gRFC A87, whose readers skip members that they do not know.

use meshwork_model::spiffe::SpiffeId;
use serde_json::{Map, Value, json};

use super::Trust;
use crate::bundle::{self, BundleDocument};
use crate::{Bundle, IdentityError, Revocations};

/// More than a mesh's trust with a thousand revocations and some federated domains is long.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Trust domains that are taken.
const MAX_DOMAINS: usize = 1024;
/// Revocations that are taken, of each kind.
const MAX_REVOKED: usize = 100_000;
/// The longest serial number in hexadecimal digits. Source: RFC 5280 §4.1.2.2: 20 bytes.
const MAX_SERIAL: usize = 40;
/// Hexadecimal digits of SHA-256.
const FINGERPRINT: usize = 64;

pub(super) fn write(trust: &Trust) -> String {
    let mut domains: Vec<&Bundle> = trust.federated().chain([trust.own()]).collect();
    domains.sort_by_key(|bundle| bundle.trust_domain());
    let domains: Map<String, Value> = domains
        .into_iter()
        .map(|bundle| (bundle.trust_domain().to_owned(), bundle::write_document(bundle)))
        .collect();
    let mut text = json!({ "trust_domains": domains, "own": trust.own().trust_domain() });
    if let Some(issuer) = trust.issuer() {
        text["issuer"] = issuer.into();
    }
    if !trust.revoked().is_empty() {
        let identities: Vec<&str> = trust.revoked().identities().map(SpiffeId::as_str).collect();
        let serials: Vec<&str> = trust.revoked().serials().collect();
        text["revoked"] = json!({ "identities": identities, "serials": serials });
    }
    text.to_string()
}

pub(super) fn read(text: &str, own_trust_domain: &str) -> Result<Trust, IdentityError> {
    if text.len() > MAX_BYTES {
        return Err(IdentityError::Bundle("the trust is longer than 16 MiB"));
    }
    let value: Value =
        serde_json::from_str(text).map_err(|_| IdentityError::Bundle("the trust is no JSON"))?;
    let domains = value.get("trust_domains").and_then(Value::as_object);
    let domains = domains.ok_or(IdentityError::Bundle("the trust has no object `trust_domains`"))?;
    if domains.len() > MAX_DOMAINS {
        return Err(IdentityError::Bundle("the trust has more than 1,024 trust domains"));
    }
    if let Some(own) = value.get("own").and_then(Value::as_str)
        && own != own_trust_domain
    {
        return Err(IdentityError::TrustDomain {
            id: format!("the trust of {}", own.escape_default()),
            trust_domain: own_trust_domain.to_owned(),
        });
    }
    let document = domains
        .get(own_trust_domain)
        .ok_or(IdentityError::Bundle("the trust has no bundle of one's own trust domain"))?;
    let own = BundleDocument::read(own_trust_domain, document)?.bundle;
    let federated = domains
        .iter()
        .filter(|(name, _)| *name != own_trust_domain)
        .map(|(name, document)| BundleDocument::read(name, document).map(|read| read.bundle))
        .collect::<Result<Vec<_>, _>>()?;
    let trust = Trust::new(own).with_federated(federated).with_revoked(revoked(&value)?);
    Ok(trust.with_issuer(issuer(&value)?))
}

fn issuer(value: &Value) -> Result<Option<&str>, IdentityError> {
    let issuer = match value.get("issuer") {
        None | Some(Value::Null) => return Ok(None),
        Some(issuer) => issuer.as_str().unwrap_or_default(),
    };
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if issuer.len() == FINGERPRINT && issuer.bytes().all(is_digit) {
        return Ok(Some(issuer));
    }
    Err(IdentityError::Bundle("the trust's issuer is no fingerprint"))
}

fn revoked(value: &Value) -> Result<Revocations, IdentityError> {
    let revoked = match value.get("revoked") {
        None | Some(Value::Null) => return Ok(Revocations::default()),
        Some(revoked) => {
            revoked.as_object().ok_or(IdentityError::Bundle("the trust's `revoked` is no object"))?
        }
    };
    let identities = texts(revoked, "identities")?.into_iter().map(|uri| {
        let uri_of = || uri.escape_default().to_string();
        SpiffeId::parse(uri).map_err(|cause| IdentityError::SpiffeId { uri: uri_of(), cause })
    });
    let identities = identities.collect::<Result<Vec<_>, _>>()?;
    let serials = texts(revoked, "serials")?;
    let is_serial = |text: &&str| {
        (1..=MAX_SERIAL).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !serials.iter().all(is_serial) {
        return Err(IdentityError::Bundle("a revoked serial number of the trust is not hexadecimal"));
    }
    Ok(Revocations::new(identities, serials.into_iter().map(ToOwned::to_owned)))
}

/// A list of texts; who cannot be read is not silently let off.
fn texts<'v>(revoked: &'v Map<String, Value>, name: &str) -> Result<Vec<&'v str>, IdentityError> {
    let bad = || IdentityError::Bundle("the trust's revocations are not lists of texts");
    let listed = match revoked.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(listed) => listed.as_array().ok_or_else(bad)?,
    };
    if listed.len() > MAX_REVOKED {
        return Err(IdentityError::Bundle("the trust has more than 100,000 revocations"));
    }
    listed.iter().map(|text| text.as_str().ok_or_else(bad)).collect()
}
