//! Authorization as a proof: what is forwarded needs a value that only a verdict makes.
//!
//! [`Authorized`] borrows the request that was judged for as long as it is being forwarded, so that rewriting
//! behind the verdict does not compile. `model::policy::authorize` decides; this module only turns its verdict into
//! a proof.

use std::sync::Arc;

use meshwork_model::head::RequestHead;
use meshwork_model::policy::{self, Facts, Verdict};
use meshwork_model::proxy::Rbac;
use meshwork_model::spiffe::SpiffeId;

use crate::error::{Kind, ProxyError};

/// A request that policy lets pass, in the very form that was judged.
#[derive(Clone, Copy)]
pub(crate) struct Authorized<'h> {
    head: &'h RequestHead,
}

/// A connection of bytes that policy lets pass.
pub(crate) struct Admitted(());

/// Judges a request.
///
/// # Errors
/// A rule refuses it, or none of the rules that allow does.
pub(crate) fn authorize<'h>(
    policies: &[Arc<Rbac>],
    peer: Option<&SpiffeId>,
    destination_port: u16,
    head: &'h RequestHead,
) -> Result<Authorized<'h>, ProxyError> {
    let facts = Facts { peer, destination_port, head: Some(head) };
    judge(policies, &facts).map(|()| Authorized { head })
}

/// Judges a connection of bytes.
///
/// # Errors
/// As [`authorize`].
pub(crate) fn admit(
    policies: &[Arc<Rbac>],
    peer: Option<&SpiffeId>,
    destination_port: u16,
) -> Result<Admitted, ProxyError> {
    let facts = Facts { peer, destination_port, head: None };
    judge(policies, &facts).map(Admitted)
}

fn judge(policies: &[Arc<Rbac>], facts: &Facts<'_>) -> Result<(), ProxyError> {
    match policy::authorize(policies.iter().map(|rbac| &**rbac), facts) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(rule) => Err(ProxyError::fatal(Kind::Denied(rule.cloned()))),
    }
}

impl<'h> Authorized<'h> {
    /// The request that was judged.
    pub(crate) fn head(self) -> &'h RequestHead {
        self.head
    }
}
