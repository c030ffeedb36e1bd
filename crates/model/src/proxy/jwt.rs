use std::sync::Arc;
use std::time::Duration;

use super::{RouteMatch, StringMatch};

/// Which requests need which tokens. Source: Envoy `extensions.filters.http.jwt_authn.v3`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct JwtAuthentication {
    /// Who issues tokens, in order of their names.
    pub providers: Vec<Arc<JwtProvider>>,
    /// The first that takes a request says what it needs.
    pub rules: Vec<JwtRule>,
    /// Requirements that routes refer to by name.
    pub named: Vec<(Arc<str>, JwtRequirement)>,
    /// Whether a CORS preflight, which can have no token, passes.
    pub bypass_cors_preflight: bool,
    /// Whether a refusal says nothing.
    pub strip_failure_response: bool,
}

/// Who issues tokens, and what is done with theirs.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct JwtProvider {
    /// Name.
    pub name: Arc<str>,
    /// What their tokens have as issuer; `None` takes any.
    pub issuer: Option<Arc<str>>,
    /// Audiences, one of which a token must be for; empty takes any.
    pub audiences: Vec<Arc<str>>,
    /// A test of a token's subject.
    pub subjects: Option<StringMatch>,
    /// Whether a token must expire.
    pub require_expiration: bool,
    /// The longest that it may still be valid.
    pub max_lifetime: Option<Duration>,
    /// By how much clocks may differ.
    pub clock_skew_seconds: u32,
    /// The keys.
    pub keys: JwtKeys,
    /// Where tokens are; empty for the usual places.
    pub places: Vec<TokenPlace>,
    /// Whether a token is forwarded.
    pub forward: bool,
    /// The field in which claims are forwarded, in base64url.
    pub payload_header: Option<Arc<str>>,
    /// Whether that is padded.
    pub pad_payload_header: bool,
    /// Fields, each with the path of a claim that it gets.
    pub claim_headers: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Under which key metadata gets the claims.
    pub payload_in_metadata: Option<Arc<str>>,
    /// Under which key metadata gets the token's header.
    pub header_in_metadata: Option<Arc<str>>,
}

/// The keys that verify tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtKeys {
    /// A set of keys.
    Inline(Arc<str>),
    /// A file with one.
    File(Arc<str>),
    /// They are fetched.
    Remote(RemoteKeys),
}

/// Keys that are fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteKeys {
    /// The cluster that is asked.
    pub cluster: Arc<str>,
    /// The host that is asked for.
    pub authority: Arc<str>,
    /// Path and query.
    pub path: Arc<str>,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// How long the keys are believed.
    pub cache: Duration,
    /// How often a fetch that failed is tried again.
    pub retries: u32,
    /// How long after.
    pub retry_pause: Duration,
}

/// Where a token is in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// A header field, behind a prefix.
    Header {
        /// Lowercase name.
        name: Arc<str>,
        /// What stands before the token; empty for nothing.
        prefix: Arc<str>,
    },
    /// A parameter of the query.
    Param(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

/// What requests need.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// Which requests.
    pub matches: RouteMatch,
    /// What they need; `None` for nothing.
    pub requires: Option<JwtRequirement>,
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtRequirement {
    /// Good tokens of one provider.
    Provider {
        /// Its place among the providers.
        provider: usize,
        /// Audiences in the place of the provider's.
        audiences: Option<Vec<Arc<str>>>,
    },
    /// One of them.
    Any(Vec<JwtRequirement>),
    /// All of them.
    All(Vec<JwtRequirement>),
    /// Good tokens, or none.
    AllowMissing,
    /// Whatever there is.
    AllowMissingOrFailed,
}

/// What a route says of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteJwt {
    /// The requirement of this name.
    Named(Arc<str>),
    /// None is needed.
    Off,
}

impl Default for JwtKeys {
    /// None.
    fn default() -> Self {
        Self::Inline("".into())
    }
}
