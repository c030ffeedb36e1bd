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
use meshwork_model::policy::{self, Facts, Index, Rules, Verdict};
use meshwork_model::proxy::{Action, HttpFilter, HttpRbac, Rbac};

use crate::dry_run;
use crate::error::{Kind, ProxyError};
use crate::http::filters::Kept;
use crate::http::taken::Taken;
use crate::peer::Peer;
use crate::record::Record;

/// A request that policy lets pass, in the very form that was judged.
#[derive(Clone, Copy)]
pub(crate) struct Authorized<'h> {
    head: &'h RequestHead,
}

/// What one filter judges by: rules that were looked at when config came.
pub(crate) struct Judged {
    /// What decides.
    rules: Option<Rules>,
    /// What decides nothing, and is noted.
    shadow: Option<Rules>,
    /// What the keys begin with under which it is.
    shadow_prefix: Arc<str>,
}

/// Rules that a request has still to pass, in order.
pub(crate) struct Judge<'p> {
    left: slice::Iter<'p, Judged>,
}

/// A connection of bytes that policy lets pass.
pub(crate) struct Admitted(());

/// Judges a request by all rules.
///
/// # Errors
/// A rule refuses it, or none of the rules that allow does.
pub(crate) fn authorize<'h>(
    rules: &[Judged],
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
pub(crate) fn admit(policies: &[Rules], peer: &Peer) -> Result<Admitted, ProxyError> {
    if policies.is_empty() {
        return Ok(Admitted(()));
    }
    judge(policies, &peer.facts()).map(Admitted)
}

/// Notes what rules say of a connection of bytes that decide nothing.
pub(crate) fn try_out(tried: &[Judged], peer: &Peer, record: &mut Record) {
    let facts = peer.facts();
    for Judged { rules, shadow, shadow_prefix } in tried {
        if let Some(audit) = rules.as_ref().filter(|rules| rules.action() == Action::Log) {
            record.note_audit(&policy::authorize([audit], &facts));
        }
        if let Some(shadow) = shadow {
            let verdict = policy::authorize([shadow], &facts);
            let trials = dry_run::trials(rules.as_ref(), shadow, shadow_prefix, &verdict, &facts);
            note(record, NETWORK_RBAC, shadow_prefix, &verdict);
            record.note_trials(trials);
        }
    }
}

/// Rules with their index, which is made once, however often a config has them.
pub(crate) fn indexed(rbac: &Arc<Rbac>, kept: &mut Kept) -> Rules {
    Rules::indexed(Arc::clone(rbac), kept.state(rbac, Index::of))
}

fn judge<'r>(policies: impl IntoIterator<Item = &'r Rules>, facts: &Facts<'_>) -> Result<(), ProxyError> {
    match policy::authorize(policies, facts) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(rule) => Err(ProxyError::fatal(Kind::Denied(rule.cloned()))),
    }
}

// === impl Judged ===

/// The name under which network filters note such verdicts.
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

impl Judged {
    /// Rules that decide nothing of a connection: those that mark it for logs, and those that are only tried, beside the
    /// ones that decide.
    pub(crate) fn tried(
        rules: Option<&Arc<Rbac>>,
        shadow: Option<(&Arc<Rbac>, &Arc<str>)>,
        kept: &mut Kept,
    ) -> Self {
        let prefix = shadow.map(|(_, prefix)| Arc::clone(prefix));
        let filter = HttpRbac {
            rules: rules.cloned(),
            shadow: shadow.map(|(rules, _)| Arc::clone(rules)),
            shadow_prefix: prefix.unwrap_or_default(),
        };
        Self::new(&filter, kept)
    }

    /// Looks at what a filter judges by.
    pub(crate) fn new(filter: &HttpRbac, kept: &mut Kept) -> Self {
        let mut of = |rbac: &Option<Arc<Rbac>>| rbac.as_ref().map(|rbac| indexed(rbac, kept));
        Self {
            rules: of(&filter.rules),
            shadow: of(&filter.shadow),
            shadow_prefix: Arc::clone(&filter.shadow_prefix),
        }
    }
}

// === impl Judge ===

impl<'p> Judge<'p> {
    /// Begins with the first of these rules.
    pub(crate) fn new(rules: &'p [Judged]) -> Self {
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
        let Some(Judged { rules, shadow, shadow_prefix }) = self.left.next() else { return Ok(()) };
        let facts = Facts { head: Some(head), ..*facts };
        if let Some(shadow) = shadow {
            let facts = Facts { metadata: record.metadata.as_deref(), ..facts };
            let verdict = policy::authorize([shadow], &facts);
            let trials = dry_run::trials(rules.as_ref(), shadow, shadow_prefix, &verdict, &facts);
            note(record, HttpFilter::RBAC, shadow_prefix, &verdict);
            record.note_trials(trials);
        }
        let facts = Facts { metadata: record.metadata.as_deref(), ..facts };
        if let Some(rules) = rules.as_ref().filter(|rules| rules.action() == Action::Log) {
            let verdict = policy::authorize([rules], &facts);
            record.note_audit(&verdict);
            return Ok(());
        }
        judge(rules.as_ref(), &facts)
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

/// Notes a verdict that decides nothing. Source: Envoy, dynamic metadata of the filters `rbac`.
fn note(record: &mut Record, filter: &str, prefix: &str, verdict: &Verdict<'_>) {
    let (result, rule) = match verdict {
        Verdict::Allowed(rule) => ("allowed", rule),
        Verdict::Denied(rule) => ("denied", rule),
    };
    let mut set = |key: &str, value: Arc<str>| {
        record.metadata().set(filter, &format!("{prefix}{key}"), Value::Text(value));
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
