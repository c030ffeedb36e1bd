//! The messages of the Workload API. Source: SPIFFE's `workload.proto`.
//!
//! Those that hold a key or a token show neither in `Debug`, and are wiped when dropped.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroize as _;

use crate::{Bundle, JwtSvid, Svid, Trust, pem};

/// Asks for the caller's X.509-SVIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509SvidRequest {}

/// The X.509-SVIDs of the caller, the default one first.
#[derive(prost::Message)]
pub struct X509SvidResponse {
    /// One for each identity.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509SvidMessage>,
    /// Revocation lists, DER; we have none.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// The roots of federated trust domains, DER one after the other, by trust domain (`spiffe://…`).
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// An X.509-SVID with its key.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub struct X509SvidMessage {
    /// Whose it is.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The chain, DER one after the other, the workload's certificate first.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// The private key, PKCS #8, DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The roots of its trust domain, DER one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// Tells a workload with several identities what this one is for.
    #[prost(string, tag = "5")]
    pub hint: String,
}

/// Asks for the roots of all trust domains that the caller may know.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509BundlesRequest {}

/// Roots of trust domains.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509BundlesResponse {
    /// Revocation lists, DER; we have none.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    /// The roots, DER one after the other, by trust domain (`spiffe://…`).
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub bundles: BTreeMap<String, Vec<u8>>,
}

/// Asks for tokens.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtSvidRequest {
    /// For whom the tokens are; at least one.
    #[prost(string, repeated, tag = "1")]
    pub audience: Vec<String>,
    /// Of which identity; empty for all that the caller has.
    #[prost(string, tag = "2")]
    pub spiffe_id: String,
}

/// Tokens of the caller, the default one first.
#[derive(prost::Message)]
pub struct JwtSvidResponse {
    /// One for each identity.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<JwtSvidMessage>,
}

/// A token.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub struct JwtSvidMessage {
    /// Whose it is.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The token.
    #[prost(string, tag = "2")]
    pub svid: String,
    /// Tells a workload with several identities what this one is for.
    #[prost(string, tag = "3")]
    pub hint: String,
}

/// Asks for the JWT keys of all trust domains that the caller may know.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtBundlesRequest {}

/// Keys by which tokens are verified.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtBundlesResponse {
    /// A JWKS for each trust domain (`spiffe://…`).
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub bundles: BTreeMap<String, Vec<u8>>,
}

/// Asks whether a token is good.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct ValidateJwtSvidRequest {
    /// To whom it was shown.
    #[prost(string, tag = "1")]
    pub audience: String,
    /// The token.
    #[prost(string, tag = "2")]
    pub svid: String,
}

/// What a good token says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidateJwtSvidResponse {
    /// Whose it is.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// All of its claims.
    #[prost(message, optional, tag = "2")]
    pub claims: Option<prost_types::Struct>,
}

impl X509SvidMessage {
    /// Writes an SVID with the roots of its trust domain.
    pub fn new(svid: &Svid, bundle: &Bundle, hint: &str) -> Self {
        Self {
            spiffe_id: svid.id().to_string(),
            x509_svid: pem::concatenated(svid.chain()),
            x509_svid_key: svid.key_der().to_vec(),
            bundle: pem::concatenated(bundle.certificates()),
            hint: hint.to_owned(),
        }
    }
}

impl X509SvidResponse {
    /// Answers with SVIDs and the roots of federated trust domains.
    pub fn new(svids: Vec<X509SvidMessage>, trust: &Trust) -> Self {
        let federated_bundles = trust.federated().map(roots).collect();
        Self { svids, crl: Vec::new(), federated_bundles }
    }
}

impl X509BundlesResponse {
    /// Answers with the roots of one's own trust domain and of federated ones.
    pub fn new(trust: &Trust) -> Self {
        Self { crl: Vec::new(), bundles: trust.federated().chain([trust.own()]).map(roots).collect() }
    }
}

impl JwtBundlesResponse {
    /// Answers with the JWT keys of one's own trust domain and of federated ones.
    pub fn new(trust: &Trust) -> Self {
        let keys = |bundle: &Bundle| (name(bundle), bundle.jwt_keys().as_bytes().to_vec());
        Self { bundles: trust.federated().chain([trust.own()]).map(keys).collect() }
    }
}

impl JwtSvidMessage {
    /// Writes a token.
    pub fn new(svid: &JwtSvid, hint: &str) -> Self {
        Self { spiffe_id: svid.id.to_string(), svid: svid.token.clone(), hint: hint.to_owned() }
    }
}

impl ValidateJwtSvidResponse {
    /// Answers with what [`crate::jwt_svid::validate`] found.
    pub fn new(svid: &JwtSvid, claims: &serde_json::Value) -> Self {
        let fields = claims.as_object().into_iter().flatten();
        let fields = fields.map(|(name, claim)| (name.clone(), value(claim))).collect();
        Self { spiffe_id: svid.id.to_string(), claims: Some(prost_types::Struct { fields }) }
    }
}

fn name(bundle: &Bundle) -> String {
    format!("spiffe://{}", bundle.trust_domain())
}

fn roots(bundle: &Bundle) -> (String, Vec<u8>) {
    (name(bundle), pem::concatenated(bundle.certificates()))
}

fn value(json: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(bool) => Kind::BoolValue(*bool),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(value).collect() })
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| (name.clone(), value(field))).collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

impl Drop for X509SvidMessage {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl Drop for JwtSvidMessage {
    fn drop(&mut self) {
        self.svid.zeroize();
    }
}

impl fmt::Debug for X509SvidMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SvidMessage").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for JwtSvidMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvidMessage").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ValidateJwtSvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtSvidRequest").field("audience", &self.audience).finish_non_exhaustive()
    }
}
