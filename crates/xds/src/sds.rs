//! Secrets by Envoy's SDS: who asks for names gets what it may have of them now, and every later version.
//!
//! - [`server`] serves a [`SecretSource`]: state of the world, delta, and one answer to one question.
//! - [`follow()`] is a client of generic secrets: trust, registrations.
//!
//! A version is a hash of what it stands for: the same content has the same version from every server
//! ([`SecretValue::version`]). Delta responses carry one secret each, so that an ACK or NACK is about that one.
//!
//! Source: Envoy `service.secret.v3`, `extensions.transport_sockets.tls.v3.Secret`.

mod follow;
mod secret;
mod serve;
mod session;

use tokio::sync::watch;
use tonic::Extensions;

use crate::grpc::Denied;
use crate::node::Node;

pub use follow::follow;
pub use secret::SecretValue;
pub use serve::{Sds, SdsServer, server};

/// What has secrets for callers. Calls are short and never block.
pub trait SecretSource: Send + Sync + 'static {
    /// Who asks, as the source knows it.
    type Caller: Clone + Send + Sync + 'static;

    /// Judges a caller at its stream's first message, by what is known of its connection and what it says of itself.
    ///
    /// # Errors
    /// It gets nothing, and sees the text with `PERMISSION_DENIED`.
    fn admit(&self, extensions: &Extensions, node: &Node) -> Result<Self::Caller, Denied>;

    /// What exists of these names, and the caller may have; no names stand for all that it may have.
    fn secrets(&self, caller: &Self::Caller, names: &[String]) -> Vec<(String, SecretValue)>;

    /// Tells when [`SecretSource::secrets`] may answer otherwise. A caller whose sender is gone is let go: its stream
    /// ends, and it is judged anew when it comes back.
    fn changes(&self, caller: &Self::Caller) -> watch::Receiver<u64>;

    /// The caller has the secrets of these names at this version ([`SecretValue::version`]), or refuses them for the
    /// reason given. Called for each secret.
    fn acknowledged(&self, caller: &Self::Caller, names: &[String], version: &str, refusal: Option<&str>);

    /// The caller's stream has ended.
    fn ended(&self, caller: &Self::Caller);
}

#[cfg(test)]
mod tests;
