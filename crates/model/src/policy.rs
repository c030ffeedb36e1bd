//! `authorize`: whether a request or a connection may pass, and which rule said so.
//!
//! [`Rules`] are an [`Rbac`] that was looked at once, when config came: by what each of its rules cannot do without (a
//! name of the peer's, a path, a host, …) `index` finds the few that could apply to a request, so that a thousand rules
//! cost it what one does. Which rules apply, [`judge`] alone says, and the first that does counts: verdict and rule are
//! those of a search through all of them.
//!
//! [`authorize_traced`] is that search, and tells each test and what came of it.

mod affix;
mod index;
mod judge;
mod need;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::index::Index;
pub use self::judge::{Test, Trace};
use crate::head::RequestHead;
use crate::metadata::Metadata;
use crate::proxy::{Action, Rbac};
use crate::spiffe::SpiffeId;

/// What policy looks at. What is not known is `None`, and no test but its negation takes that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The identity that the peer proved by mTLS.
    pub peer: Option<&'a SpiffeId>,
    /// Names in the certificate that the peer showed, where it showed one.
    pub names: Option<Names<'a>>,
    /// The address that the connection was made to.
    pub destination: Option<IpAddr>,
    /// The port that the connection was made to.
    pub destination_port: u16,
    /// Who opened the connection.
    pub direct: Option<IpAddr>,
    /// On whose behalf it was opened.
    pub source: Option<IpAddr>,
    /// On whose behalf the request comes.
    pub remote: Option<IpAddr>,
    /// The server name that the connection asked for.
    pub server_name: Option<&'a str>,
    /// What filters have found out.
    pub metadata: Option<&'a Metadata>,
    /// The request, its path already normalised; `None` for a TCP connection.
    pub head: Option<&'a RequestHead>,
}

/// Names in a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Alternative names that are URIs.
    pub uris: &'a [String],
    /// Those that are DNS names.
    pub dns_names: &'a [String],
    /// The subject, as RFC 2253 writes it.
    pub subject: &'a str,
}

/// The outcome, with its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may pass; the last ALLOW rule that matched, if there was any policy.
    Allowed(Option<&'a Arc<str>>),
    /// It may not; the DENY rule that matched, or `None` where no ALLOW rule did.
    Denied(Option<&'a Arc<str>>),
}

/// Rules that are ready to judge.
#[derive(Clone, Debug)]
pub struct Rules {
    rbac: Arc<Rbac>,
    index: Arc<Index>,
}

/// Judges by each policy in order; the first refusal ends it.
///
/// With `Deny`, a rule that matches refuses. With `Allow`, the absence of one does. With `Log`, nothing does.
/// Source: Envoy `config.rbac.v3.RBAC`.
pub fn authorize<'a>(policies: impl IntoIterator<Item = &'a Rules>, facts: &Facts<'_>) -> Verdict<'a> {
    decide(policies.into_iter().map(|rules| (rules.rbac.action, rules.first(facts))))
}

/// As [`authorize`], by looking at one rule after the other; each test is told with what came of it.
pub fn authorize_traced<'a>(
    policies: impl IntoIterator<Item = &'a Rbac>,
    facts: &Facts<'_>,
    trace: &mut impl Trace,
) -> Verdict<'a> {
    decide(policies.into_iter().map(|rbac| {
        let found = rbac.rules.iter().find(|rule| judge::applies(rule, facts, trace));
        (rbac.action, found.map(|rule| &rule.name))
    }))
}

/// The names of all rules that match, in their order.
pub fn matching<'a>(rbac: &'a Rbac, facts: &Facts<'_>) -> impl Iterator<Item = &'a Arc<str>> {
    let matching = rbac.rules.iter().filter(|rule| judge::applies(rule, facts, &mut ()));
    matching.map(|rule| &rule.name)
}

/// What the first rules that match, policy by policy, come to.
fn decide<'a>(matched: impl Iterator<Item = (Action, Option<&'a Arc<str>>)>) -> Verdict<'a> {
    let mut allowed_by = None;
    for (action, rule) in matched {
        match (action, rule) {
            (Action::Deny, Some(rule)) => return Verdict::Denied(Some(rule)),
            (Action::Allow, None) => return Verdict::Denied(None),
            (Action::Allow | Action::Log, Some(rule)) => allowed_by = Some(rule),
            (Action::Deny | Action::Log, None) => {}
        }
    }
    Verdict::Allowed(allowed_by)
}

// === impl Rules ===

impl Rules {
    /// Looks at rules, so that requests need not look at all of them.
    pub fn new(rbac: Arc<Rbac>) -> Self {
        let index = Arc::new(Index::of(&rbac));
        Self::indexed(rbac, index)
    }

    /// Rules with the index that was made of them.
    pub fn indexed(rbac: Arc<Rbac>, index: Arc<Index>) -> Self {
        Self { rbac, index }
    }

    /// The rules.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    /// What a rule that matches means.
    pub fn action(&self) -> Action {
        self.rbac.action
    }

    /// How many rules every request is judged by, since nothing says ahead which requests they could match.
    pub fn unindexed(&self) -> usize {
        self.index.unindexed(&self.rbac.rules)
    }

    /// The name of the first rule that matches.
    pub fn first(&self, facts: &Facts<'_>) -> Option<&Arc<str>> {
        self.index.first(&self.rbac.rules, facts).map(|rule| &rule.name)
    }
}

#[cfg(test)]
mod tests;
