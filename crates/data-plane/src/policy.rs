//! Authorization as a proof: what is forwarded needs a value that only a verdict makes.
//!
//! [`Authorized`] borrows the request that was judged for as long as it is being forwarded, so that rewriting
//! behind the verdict does not compile: [`Authorized::rewrite`] is the one way on, and brings in nothing but what the route says. Only filters that config puts behind its rules change the request before that,
//! as a [`Judge`] says; and none of its rules is left out, whatever they do. `model::policy` decides; this module only
//! turns its verdicts into a proof.

use std::slice;
use std::sync::Arc;

use meshwork_model::format;
use meshwork_model::head::RequestHead;
use meshwork_model::metadata::Value;
use meshwork_model::policy::{self, Facts, Verdict};
use meshwork_model::proxy::{Action, HttpFilter, HttpRbac, Rbac};

use crate::error::{Kind, ProxyError};
use crate::http::taken::Taken;
use crate::peer::Peer;
use crate::record::Record;

/// A request that policy lets pass, in the very form that was judged.
#[derive(Clone, Copy)]
pub(crate) struct Authorized<'h> {
    head: &'h RequestHead,
}

/// Rules that a request has still to pass, in order.
pub(crate) struct Judge<'p> {
    left: slice::Iter<'p, HttpRbac>,
}

/// A connection of bytes that policy lets pass.
pub(crate) struct Admitted(());

/// Judges a request by all rules.
///
/// # Errors
/// A rule refuses it, or none of the rules that allow does.
pub(crate) fn authorize<'h>(
    rules: &[HttpRbac],
    peer: &Peer,
    record: &mut Record,
    head: &'h RequestHead,
) -> Result<Authorized<'h>, ProxyError> {
    if rules.is_empty() {
        return Ok(Authorized { head });
    }
    let facts = record.facts(peer);
    Judge::new(rules).authorize(&facts, record, head)
}

/// Judges a connection of bytes.
///
/// # Errors
/// As [`authorize`].
pub(crate) fn admit(policies: &[Arc<Rbac>], peer: &Peer) -> Result<Admitted, ProxyError> {
    if policies.is_empty() {
        return Ok(Admitted(()));
    }
    judge(policies.iter().map(|rbac| &**rbac), &peer.facts()).map(Admitted)
}

fn judge<'r>(policies: impl IntoIterator<Item = &'r Rbac>, facts: &Facts<'_>) -> Result<(), ProxyError> {
    match policy::authorize(policies, facts) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(rule) => Err(ProxyError::fatal(Kind::Denied(rule.cloned()))),
    }
}

// === impl Judge ===

impl<'p> Judge<'p> {
    /// Begins with the first of these rules.
    pub(crate) fn new(rules: &'p [HttpRbac]) -> Self {
        Self { left: rules.iter() }
    }

    /// Judges by the next rules, where some are left.
    ///
    /// # Errors
    /// As [`authorize`].
    pub(crate) fn next(
        &mut self,
        facts: &Facts<'_>,
        record: &mut Record,
        head: &RequestHead,
    ) -> Result<(), ProxyError> {
        let Some(HttpRbac { rules, shadow, shadow_prefix }) = self.left.next() else { return Ok(()) };
        let facts = Facts { head: Some(head), ..*facts };
        if let Some(shadow) = shadow {
            let metadata = record.metadata.as_deref();
            let verdict = policy::authorize([&**shadow], &Facts { metadata, ..facts });
            note(record, shadow_prefix, &verdict);
        }
        let facts = Facts { metadata: record.metadata.as_deref(), ..facts };
        if let Some(rules) = rules.as_deref().filter(|rules| rules.action == Action::Log) {
            let is_marked = matches!(policy::authorize([rules], &facts), Verdict::Allowed(Some(_)));
            record.metadata().set("envoy.common", "access_log_hint", Value::Bool(is_marked));
            return Ok(());
        }
        judge(rules.as_deref(), &facts)
    }

    /// Judges by all rules that are left, and gives the proof.
    ///
    /// # Errors
    /// As [`authorize`].
    pub(crate) fn authorize<'h>(
        mut self,
        facts: &Facts<'_>,
        record: &mut Record,
        head: &'h RequestHead,
    ) -> Result<Authorized<'h>, ProxyError> {
        while !self.left.as_slice().is_empty() {
            self.next(facts, record, head)?;
        }
        Ok(Authorized { head })
    }
}

/// Notes a verdict that decides nothing. Source: Envoy, dynamic metadata of the filter `rbac`.
fn note(record: &mut Record, prefix: &str, verdict: &Verdict<'_>) {
    let (result, rule) = match verdict {
        Verdict::Allowed(rule) => ("allowed", rule),
        Verdict::Denied(rule) => ("denied", rule),
    };
    let mut set = |key: &str, value: Arc<str>| {
        record.metadata().set(HttpFilter::RBAC, &format!("{prefix}{key}"), Value::Text(value));
    };
    set("shadow_engine_result", result.into());
    if let Some(rule) = rule {
        set("shadow_effective_policy_id", Arc::clone(rule));
    }
}

impl<'h> Authorized<'h> {
    /// The request that was judged.
    pub(crate) fn head(self) -> &'h RequestHead {
        self.head
    }

    /// Makes of it what is forwarded, where the selected route says otherwise than it was judged: nothing but what that
    /// route says comes in. `tells` is whether applications are told what the client asked for.
    pub(crate) fn rewrite(
        self,
        taken: Taken<'_>,
        facts: &dyn format::Facts,
        tells: bool,
        outgoing: &mut RequestHead,
    ) {
        outgoing.copy_from(self.head);
        taken.change_request(outgoing, facts, tells);
    }
}
