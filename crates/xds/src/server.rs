//! The server's end of one ADS stream, as a state machine without I/O: delta and state of the world from one core.
//!
//! A stream is driven in two steps: [`Session::receive`] takes a client's message in, [`Session::push`] says what
//! is to be sent, given the snapshot of the moment. So a change of snapshots, a subscription and an answer all end in
//! the same question, and a client that is slow gets the newest snapshot next, never a queue of old ones.
//!
//! - At most one response per kind is unanswered.
//! - Make before break: a listener or route table waits while a cluster that is new to the client, or the first
//!   endpoints of one, are unanswered; a cluster goes only after what may lead to it has gone.
//! - A version that was refused is not sent again. Some clients drop a whole response for one bad resource, and say so
//!   in words only: what they did not blame is sent again, without what they did.
//!
//! Source: xDS protocol, "Variants of the xDS transport protocol".

mod subscription;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::proxy::Kind;

use crate::resource::{Encoded, Rejection, Snapshot};
use subscription::Subscription;

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    StateOfTheWorld,
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which resources it is about.
    pub kind: Kind,
    /// The nonce of the response that it answers; empty where it answers none.
    pub nonce: String,
    /// Why the response was refused; `None` for an ACK.
    pub refusal: Option<Refusal>,
    /// What it wants.
    pub names: Names,
}

/// The client's wishes in a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Incremental: what it wants in addition and no longer; `*` stands for everything.
    Change {
        /// Wanted from now on; empty in the first request stands for everything.
        subscribe: Vec<String>,
        /// No longer wanted.
        unsubscribe: Vec<String>,
        /// What it has from an earlier stream: version by name; only in the first request of a kind.
        have: BTreeMap<String, String>,
    },
    /// State of the world: all that it wants; empty in the first request stands for everything.
    All(Vec<String>),
}

/// A NACK's reason.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Refusal {
    /// The client's words.
    pub message: String,
    /// Resource by resource, where the client says so (ours does); all others of the response were accepted.
    pub rejections: Vec<Rejection>,
}

/// What is sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Which resources it is about.
    pub kind: Kind,
    /// Names this response in the client's answer; unique in the stream.
    pub nonce: String,
    /// Hash of all versions that the client has with it.
    pub version: String,
    /// New and changed resources; with state of the world, all that the client wants.
    pub resources: Vec<Arc<Encoded>>,
    /// Resources that are gone, or that do not exist; always empty with state of the world.
    pub removed: Vec<String>,
}

/// What the control plane learns from a client's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These versions were accepted.
    Accepted {
        /// Which resources.
        kind: Kind,
        /// Name and version of each.
        versions: Vec<(Arc<str>, Arc<str>)>,
        /// Resources whose removal was accepted.
        removed: Vec<String>,
    },
    /// These resources were refused; the others of the same response were accepted.
    Refused {
        /// Which resources.
        kind: Kind,
        /// The client's words.
        message: String,
        /// Resource by resource.
        rejections: Vec<Rejection>,
    },
}

/// What a message brought.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Received {
    /// What was accepted and refused.
    pub events: Vec<Event>,
    /// Names that are subscribed to from now on, without `*`.
    pub wanted: Vec<String>,
}

/// A client wants more names than are kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_NAMES} subscriptions of one kind")]
pub struct TooManyNames;

/// The most subscriptions of one kind: far past any mesh that one machine serves, and a few megabytes at most.
const MAX_NAMES: usize = 100_000;

/// One stream's state.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    kinds: BTreeMap<Kind, Subscription>,
    nonces: u64,
}

impl Session {
    /// Starts a stream; nothing is subscribed to.
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, kinds: BTreeMap::new(), nonces: 0 }
    }

    /// Takes a message in. Follow with [`Session::push`].
    ///
    /// # Errors
    /// The client wants too many names; the stream should end.
    pub fn receive(&mut self, request: Request) -> Result<Received, TooManyNames> {
        let first = !self.kinds.contains_key(&request.kind);
        let subscription = self.kinds.entry(request.kind).or_default();
        let stale = !first && !request.nonce.is_empty() && request.nonce != subscription.nonce();
        let mut received = Received::default();
        if !stale && !request.nonce.is_empty() {
            received.events = subscription.answered(request.kind, request.refusal);
        }
        received.wanted = match request.names {
            Names::Change { subscribe, unsubscribe, have } => {
                if first && !have.is_empty() {
                    received.events.push(subscription.bring(request.kind, have));
                }
                subscription.change(first, subscribe, unsubscribe)
            }
            // The client's answer to the response that crossed this message will say it again.
            Names::All(_) if stale => Vec::new(),
            Names::All(names) => subscription.replace(first, names),
        };
        if subscription.size() > MAX_NAMES {
            return Err(TooManyNames);
        }
        Ok(received)
    }

    /// What is to be sent now, in the order in which it must be sent; call it after every [`Session::receive`], and
    /// whenever the snapshot changes. The work follows what has changed, not what there is.
    pub fn push(&mut self, snapshot: &Snapshot) -> Vec<Response> {
        for (kind, subscription) in &mut self.kinds {
            subscription.look(snapshot.set(*kind));
        }
        let mut responses = Vec::new();
        for kind in Kind::ALL {
            if self.is_blocked(kind, snapshot) {
                continue;
            }
            let keeps = self.must_keep(kind);
            let Some(subscription) = self.kinds.get_mut(&kind) else { continue };
            if !subscription.has_something_to_say(keeps, snapshot.set(kind)) {
                continue;
            }
            self.nonces += 1;
            let nonce = self.nonces.to_string();
            responses.push(subscription.respond(kind, self.protocol, nonce, keeps, snapshot.set(kind)));
        }
        responses
    }

    /// Whether a kind must wait for what it may lead to: clusters that are new to the client, and their endpoints.
    fn is_blocked(&self, kind: Kind, snapshot: &Snapshot) -> bool {
        let leads = matches!(kind, Kind::Listener | Kind::Routes);
        let has_news = |on: &Kind| self.kinds.get(on).is_some_and(|known| known.has_news(snapshot.set(*on)));
        leads && [Kind::Cluster, Kind::Endpoints].iter().any(has_news)
    }

    /// Whether nothing of a kind may go yet, because listeners or routes that may lead to it are still to change.
    fn must_keep(&self, kind: Kind) -> bool {
        let led_to = matches!(kind, Kind::Cluster | Kind::Endpoints);
        let changes = |kind: &Kind| self.kinds.get(kind).is_some_and(Subscription::is_changing);
        led_to && [Kind::Listener, Kind::Routes].iter().any(changes)
    }
}

#[cfg(test)]
mod tests;
