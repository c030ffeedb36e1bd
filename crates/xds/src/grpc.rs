//! ADS over tonic: thin shells around [`crate::server`] and [`crate::client`].
//!
//! Protobuf messages are converted in [`wire`] and nowhere else.

mod admission;
mod follow;
mod run_client;
mod serve;
mod wire;

use std::sync::Arc;

use meshwork_model::proxy::Kind;
use meshwork_model::spiffe::SpiffeId;
use tokio::sync::watch;

use crate::client::Health;
use crate::node::Node;
use crate::resource::Snapshot;
use crate::server::Event;

pub use follow::follow;
pub use run_client::{Ended, Link, run_client};
pub use serve::{AdsServer, server};
pub(crate) use wire::Asking;

/// The proven identity of a connection's other end: a request extension, inserted by who accepted the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(pub SpiffeId);

/// One ADS stream of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Counts the streams of this process: tells an old stream of a node from its new one.
    pub number: u64,
    /// The identity that the client proved.
    pub peer: SpiffeId,
    /// Who it says that it is.
    pub node: Node,
}

/// Why a client gets no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// What rustls says of a peer that closed the connection without a word, with the address of a page about it.
const ABRUPT: &str = "peer closed connection without sending TLS close_notify: ";
/// What rustls says of a peer that refuses a certificate. Source: RFC 8446 §6.2.
const REFUSALS: [&str; 5] = [
    "fatal alert: BadCertificate",
    "fatal alert: CertificateExpired",
    "fatal alert: CertificateRevoked",
    "fatal alert: CertificateUnknown",
    "fatal alert: UnknownCA",
];

/// What a failed call says, and what lies under it, for a log. A peer's words move no cursor. Where the control plane refuses
/// the certificate, what to do.
pub(crate) fn told(status: &tonic::Status) -> String {
    in_words(&causes(status, |_| true))
}

/// What a failed call says, and what of that which lies under it is to be told, each once: "transport error" alone helps
/// nobody.
pub fn causes(status: &tonic::Status, is_told: impl Fn(&str) -> bool) -> String {
    let mut text = printable(status.message());
    let mut source = std::error::Error::source(status);
    // Errors nest a handful deep; the bound is against one that names itself.
    for _ in 0..8 {
        let Some(error) = source else { break };
        let words = error.to_string();
        if is_told(&words) && !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = error.source();
    }
    text
}

/// A peer's words go to a terminal or a log: they move no cursor there.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn in_words(text: &str) -> String {
    let mut words = printable(text);
    if let Some(at) = words.find(ABRUPT) {
        let from = at + ABRUPT.len();
        let to = words[from..].find(char::is_whitespace).map_or(words.len(), |length| from + length);
        words.replace_range(at..to, "the peer closed the connection");
    }
    if REFUSALS.iter().any(|refusal| words.contains(refusal)) {
        words.push_str(
            ": the control plane refuses this workload's certificate; see `meshwork ca revocations`, or enrol anew with another \
             join token",
        );
    }
    words
}

/// What the control plane does for streams. Calls are short and never block.
pub trait Handler: Send + Sync + 'static {
    /// A client introduced itself: judges it, and gives it its snapshots, now and later.
    ///
    /// # Errors
    /// The client may not connect; it sees the text with `PERMISSION_DENIED`.
    fn connect(&self, stream: &Stream) -> Result<watch::Receiver<Arc<Snapshot>>, Denied>;
    /// A client subscribed to these names, in addition to what it had. A snapshot that is published before the call
    /// returns is the one that answers; later ones follow as changes.
    fn wanted(&self, stream: &Stream, kind: Kind, names: &[String]);
    /// A client accepted or refused something.
    fn report(&self, stream: &Stream, event: Event);
    /// A client said how the workload is that it serves.
    fn health(&self, stream: &Stream, health: Health);
    /// The stream ended.
    fn disconnect(&self, stream: &Stream);
}

#[cfg(test)]
mod tests;
