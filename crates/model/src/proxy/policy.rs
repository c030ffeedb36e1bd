use std::sync::Arc;

use super::HeaderMatch;
use crate::regex::Regex;

/// A test of a text. Source: Envoy `StringMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts so.
    Prefix(Arc<str>),
    /// Ends so.
    Suffix(Arc<str>),
    /// Contains it.
    Contains(Arc<str>),
    /// The whole text is such.
    Regex(Regex),
    /// As the test within, which is none of [`StringMatch::Regex`] and whose text is in lowercase, whatever the case of
    /// ASCII letters.
    AnyCase(Box<StringMatch>),
}

/// Rules that allow or deny. Source: Envoy `config.rbac.v3.RBAC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rbac {
    /// What a matching rule means. With `Allow` and no matching rule, the request is denied.
    pub action: Action,
    /// Rules in order of their names.
    pub rules: Vec<Rule>,
}

/// What a matching rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only what matches passes.
    Allow,
    /// What matches is refused.
    Deny,
}

/// A rule matches when one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name, as in `ns[shop]-policy[cart]-rule[0]`.
    pub name: Arc<str>,
    /// What is asked for.
    pub permissions: Vec<Permission>,
    /// Who asks.
    pub principals: Vec<Principal>,
}

/// A test of what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Always.
    Any,
    /// All of them.
    All(Vec<Permission>),
    /// One of them.
    OneOf(Vec<Permission>),
    /// Not that.
    Not(Box<Permission>),
    /// The normalised path without query. Never matches a TCP connection.
    Path(StringMatch),
    /// A header field, `:method` or `:authority`. Never matches a TCP connection.
    Header(HeaderMatch),
    /// The port that the connection was made to.
    DestinationPort(u16),
}

/// A test of who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Anybody, also without identity.
    Any,
    /// All of them.
    All(Vec<Principal>),
    /// One of them.
    OneOf(Vec<Principal>),
    /// Not that.
    Not(Box<Principal>),
    /// A peer that proved an identity, whose SPIFFE ID passes the test; `None` takes any identity.
    Authenticated(Option<StringMatch>),
}
