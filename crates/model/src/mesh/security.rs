//! Who must prove what, and who may ask what of whom. Source: Istio `security.istio.io/v1`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Key, Labels};
use crate::cidr::Cidr;
use crate::proxy::{ExtAuthz, StringMatch, TokenPlace};

/// Whether workloads demand mTLS. Source: Istio PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The workloads of the namespace; empty selects all.
    pub selector: Labels,
    /// What is demanded; `None` leaves it to the namespace, and then to the mesh.
    pub mode: Option<MtlsMode>,
    /// What is demanded on single ports of the workload, in the place of `mode`.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// What is demanded of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MtlsMode {
    /// mTLS only. The mesh's default.
    Strict,
    /// mTLS of those who speak it; others come without an identity.
    Permissive,
    /// Plaintext only.
    Disable,
}

/// What a policy is attached to by name, in its own namespace. Source: Istio `PolicyTargetReference`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// The workloads behind a service, on the ports that it leads to.
    Service(Arc<str>),
    /// A gateway.
    Gateway(Arc<str>),
}

/// Who may ask what of a workload. Source: Istio AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// The workloads of the namespace; empty selects all.
    pub selector: Labels,
    /// What it is attached to, in the place of `selector`; empty for nothing.
    pub targets: Vec<PolicyTarget>,
    /// What a matching rule means.
    pub action: PolicyAction,
    /// Whether it is only tried: what it would say is noted, and decides nothing.
    pub dry_run: bool,
    /// Rules; an ALLOW policy without one allows nothing.
    pub rules: Vec<AuthorizationRule>,
}

/// What a matching rule means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyAction {
    /// Only what matches an ALLOW policy passes.
    Allow,
    /// What matches is refused.
    Deny,
    /// What matches is marked for logs.
    Audit,
    /// The provider of this name is asked about what matches.
    Custom(Arc<str>),
}

/// A service that CUSTOM policies have asked. Source: Istio `MeshConfig.ExtensionProvider`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationProvider {
    /// The service.
    pub service: Key,
    /// Its port.
    pub port: u16,
    /// How it is asked; clusters in it are those of the service, and are filled in when that is known.
    pub check: ExtAuthz,
}

/// A rule of an AuthorizationPolicy: one of `from`, one of `to` and all of `when` must match; empty matches all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AuthorizationRule {
    /// Who asks.
    pub from: Vec<Source>,
    /// What is asked for.
    pub to: Vec<Operation>,
    /// What else must hold.
    pub when: Vec<Condition>,
}

/// What a value may and may not be. Both lists test where they are not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<T> {
    /// One of these.
    pub one_of: Vec<T>,
    /// None of these.
    pub none_of: Vec<T>,
}

/// Who asks; all must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// SPIFFE IDs without `spiffe://`: `mesh.local/ns/shop/sa/web`.
    pub principals: Wanted<StringMatch>,
    /// Trust domains.
    pub trust_domains: Wanted<StringMatch>,
    /// Namespaces: of our own trust domain, where nothing is said of those.
    pub namespaces: Wanted<StringMatch>,
    /// Service accounts.
    pub accounts: Wanted<Account>,
    /// `ISSUER/SUBJECT` of a request's token.
    pub request_principals: Wanted<StringMatch>,
    /// Addresses of those who opened the connection.
    pub ip_blocks: Wanted<Cidr>,
    /// Addresses on whose behalf the request comes.
    pub remote_ip_blocks: Wanted<Cidr>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// What is asked for; all must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Operation {
    /// HTTP hosts, whatever the case of their letters.
    pub hosts: Wanted<StringMatch>,
    /// HTTP methods.
    pub methods: Wanted<StringMatch>,
    /// Paths.
    pub paths: Wanted<StringMatch>,
    /// Ports of the workload.
    pub ports: Wanted<u16>,
}

/// What else must hold. Source: Istio, "Authorization policy conditions".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `request.headers[NAME]`, the name in lowercase.
    Header(Arc<str>, Wanted<StringMatch>),
    /// `source.ip`
    SourceIp(Wanted<Cidr>),
    /// `remote.ip`
    RemoteIp(Wanted<Cidr>),
    /// `source.namespace`
    SourceNamespace(Wanted<StringMatch>),
    /// `source.principal`
    SourcePrincipal(Wanted<StringMatch>),
    /// `source.serviceAccount`
    SourceAccount(Wanted<Account>),
    /// `request.auth.principal`
    RequestPrincipal(Wanted<StringMatch>),
    /// `request.auth.audiences`, `request.auth.presenter`, `request.auth.claims[A][B]`: the claim on this path. A list
    /// passes by one of its texts.
    Claim(Vec<Arc<str>>, Wanted<StringMatch>),
    /// `destination.ip`
    DestinationIp(Wanted<Cidr>),
    /// `destination.port`
    DestinationPort(Wanted<u16>),
    /// `connection.sni`
    ServerName(Wanted<StringMatch>),
}

/// Whose tokens requests may bring. Source: Istio RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// The workloads of the namespace; empty selects all.
    pub selector: Labels,
    /// What it is attached to, in the place of `selector`; empty for nothing.
    pub targets: Vec<PolicyTarget>,
    /// Issuers.
    pub rules: Vec<JwtRule>,
}

/// An issuer of tokens, and what becomes of them. Source: Istio `JWTRule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRule {
    /// What its tokens have as issuer.
    pub issuer: Arc<str>,
    /// Audiences, one of which a token must be for; empty takes any.
    pub audiences: Vec<Arc<str>>,
    /// The keys that verify them.
    pub keys: KeySource,
    /// Where tokens are; empty for the usual places.
    pub places: Vec<TokenPlace>,
    /// The field in which claims are forwarded.
    pub payload_header: Option<Arc<str>>,
    /// Fields, each with the path of the claim that it gets.
    pub claim_headers: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Whether the token itself is forwarded.
    pub forward: bool,
    /// How long the keys are waited for.
    pub timeout: Duration,
    /// Whether a token must expire.
    pub must_expire: bool,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// They stand in the config: a JSON Web Key Set.
    Inline(Arc<str>),
    /// They are fetched.
    Fetched(KeyUrl),
}

/// An `http:` or `https:` URL of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyUrl {
    /// Whether by TLS.
    pub https: bool,
    /// The host, in lowercase.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: Arc<str>,
}

// === impl KeyUrl ===

impl KeyUrl {
    /// The host, with its port where that is not the usual one.
    pub fn authority(&self) -> String {
        let usual = if self.https { 443 } else { 80 };
        if self.port == usual { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl std::fmt::Display for KeyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

// === impl PeerAuthentication ===

impl PeerAuthentication {
    /// Whether another one for the same workloads says something else.
    pub fn contradicts(&self, other: &Self) -> bool {
        let modes = |a: Option<MtlsMode>, b: Option<MtlsMode>| a.zip(b).is_some_and(|(a, b)| a != b);
        let mut ports = self.ports.iter();
        modes(self.mode, other.mode)
            || ports.any(|(port, mode)| modes(Some(*mode), other.ports.get(port).copied()))
    }
}

// === impl Wanted ===

impl<T> Default for Wanted<T> {
    /// Anything.
    fn default() -> Self {
        Self { one_of: Vec::new(), none_of: Vec::new() }
    }
}

impl<T> Wanted<T> {
    /// Whether nothing is tested.
    pub fn is_empty(&self) -> bool {
        self.one_of.is_empty() && self.none_of.is_empty()
    }
}

impl<T: PartialEq> Wanted<T> {
    /// Whether a value passes.
    pub fn takes(&self, value: &T) -> bool {
        (self.one_of.is_empty() || self.one_of.contains(value)) && !self.none_of.contains(value)
    }
}
