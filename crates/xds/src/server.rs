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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::proxy::Kind;

use crate::encode::version;
use crate::resource::{Encoded, Rejection, Snapshot};

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

/// What a client wants and has of one kind.
#[derive(Debug, Default)]
struct Subscription {
    everything: bool,
    names: BTreeSet<String>,
    /// What was sent, whether it was accepted or not.
    sent: BTreeMap<Arc<str>, Sent>,
    /// Names of which the client knows that they do not exist.
    absent: BTreeSet<String>,
    /// The last response's nonce.
    nonce: String,
    unanswered: Option<Unanswered>,
    /// Whether the client waits for an answer though nothing may have changed.
    expects: bool,
}

/// A resource as the client has it.
#[derive(Clone, Debug)]
struct Sent {
    version: Arc<str>,
    /// Its content; `None` where the client brought it from an earlier stream.
    resource: Option<Arc<Encoded>>,
    /// The last content that was accepted.
    good: Option<Arc<Encoded>>,
    /// Whether this version was refused.
    refused: bool,
    /// Whether the client has accepted or refused one version of it.
    known: bool,
}

impl Sent {
    /// What a client may have in a version whose content is not at hand.
    fn of_old(version: Arc<str>) -> Self {
        Self { version, resource: None, good: None, refused: false, known: true }
    }

    /// What the client runs, or is to run: the newest version that it did not refuse.
    fn runs(&self) -> Option<&Arc<Encoded>> {
        if self.refused { self.good.as_ref() } else { self.resource.as_ref() }
    }

    fn accept(&mut self) {
        self.known = true;
        self.good.clone_from(&self.resource);
    }

    fn refuse(&mut self) {
        self.known = true;
        self.refused = true;
    }

    /// Differs from every version, so that it is sent again.
    fn send_again(&mut self) {
        self.version = Arc::default();
    }
}

/// A response that waits for its ACK or NACK.
#[derive(Debug)]
struct Unanswered {
    versions: Vec<(Arc<str>, Arc<str>)>,
    removed: Vec<String>,
}

/// What has changed for a client.
#[derive(Debug, Default)]
struct Change {
    upserts: Vec<Arc<Encoded>>,
    removed: Vec<String>,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removed.is_empty()
    }
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
        let stale = !first && !request.nonce.is_empty() && request.nonce != subscription.nonce;
        let mut received = Received::default();
        if !stale && !request.nonce.is_empty() {
            received.events = subscription.answered(request.kind, request.refusal);
        }
        received.wanted = match request.names {
            Names::Change { subscribe, unsubscribe, have } => {
                if first {
                    subscription.bring(have);
                }
                subscription.change(first, subscribe, unsubscribe)
            }
            // The client's answer to the response that crossed this message will say it again.
            Names::All(_) if stale => Vec::new(),
            Names::All(names) => subscription.replace(first, names),
        };
        if subscription.names.len() > MAX_NAMES || subscription.sent.len() > MAX_NAMES {
            return Err(TooManyNames);
        }
        Ok(received)
    }

    /// What is to be sent now, in the order in which it must be sent; call it after every [`Session::receive`], and
    /// whenever the snapshot changes.
    pub fn push(&mut self, snapshot: &Snapshot) -> Vec<Response> {
        let mut responses = Vec::new();
        for kind in Kind::ALL {
            if self.is_blocked(kind, snapshot) {
                continue;
            }
            let keeps = self.must_keep(kind, snapshot);
            let Some(subscription) = self.kinds.get_mut(&kind) else { continue };
            if subscription.unanswered.is_some() {
                continue;
            }
            let mut change = subscription.change_to(kind, snapshot);
            if keeps {
                change.removed.retain(|name| !subscription.sent.contains_key(name.as_str()));
            }
            if change.is_empty() && !subscription.expects {
                continue;
            }
            self.nonces += 1;
            let nonce = self.nonces.to_string();
            responses.push(subscription.respond(kind, self.protocol, nonce, change));
        }
        responses
    }

    /// Whether a kind must wait for what it may lead to: clusters that are new to the client, and their endpoints.
    fn is_blocked(&self, kind: Kind, snapshot: &Snapshot) -> bool {
        let leads = matches!(kind, Kind::Listener | Kind::Routes);
        leads && [Kind::Cluster, Kind::Endpoints].iter().any(|on| self.has_news(*on, snapshot))
    }

    fn has_news(&self, kind: Kind, snapshot: &Snapshot) -> bool {
        let Some(subscription) = self.kinds.get(&kind) else { return false };
        let is_new = |name: &str| !subscription.sent.get(name).is_some_and(|sent| sent.known);
        let unanswered = subscription.unanswered.iter().flat_map(|unanswered| &unanswered.versions);
        unanswered.into_iter().any(|(name, _)| is_new(name))
            || subscription.change_to(kind, snapshot).upserts.iter().any(|new| is_new(&new.name))
    }

    /// Whether nothing of a kind may go yet, because listeners or routes that may lead to it are still to change.
    fn must_keep(&self, kind: Kind, snapshot: &Snapshot) -> bool {
        let led_to = matches!(kind, Kind::Cluster | Kind::Endpoints);
        let changes = |kind: &Kind| {
            let subscription = self.kinds.get(kind);
            subscription.is_some_and(|s| s.unanswered.is_some() || !s.change_to(*kind, snapshot).is_empty())
        };
        led_to && [Kind::Listener, Kind::Routes].iter().any(changes)
    }
}

impl Subscription {
    /// What the client has from an earlier stream.
    fn bring(&mut self, have: BTreeMap<String, String>) {
        self.sent =
            have.into_iter().map(|(name, version)| (name.into(), Sent::of_old(version.into()))).collect();
    }

    /// Changes a delta subscription; the names that are new.
    fn change(&mut self, first: bool, subscribe: Vec<String>, unsubscribe: Vec<String>) -> Vec<String> {
        if first {
            self.expects = true;
            self.everything = subscribe.is_empty();
        }
        let mut wanted = Vec::new();
        for name in subscribe {
            if name == "*" {
                self.everything = true;
                self.expects = true;
                continue;
            }
            // Who subscribes again wants to be told again, save right after a reconnect, when it says what it has.
            if !first {
                self.sent.remove(name.as_str());
            }
            self.absent.remove(&name);
            if self.names.insert(name.clone()) {
                wanted.push(name);
            }
        }
        for name in unsubscribe {
            if name == "*" {
                self.everything = false;
            } else {
                self.names.remove(&name);
                self.absent.remove(&name);
            }
        }
        self.forget_unwanted();
        wanted
    }

    /// What is no longer wanted is dropped by the client without being told.
    fn forget_unwanted(&mut self) {
        if !self.everything {
            self.sent.retain(|name, _| self.names.contains(&**name));
        }
    }

    /// Replaces a subscription to the state of the world; the names that are new.
    fn replace(&mut self, first: bool, names: Vec<String>) -> Vec<String> {
        let stays = names.is_empty() && (first || (self.everything && self.names.is_empty()));
        self.everything = stays || names.iter().any(|name| name == "*");
        self.expects |= first;
        let names: BTreeSet<String> = names.into_iter().filter(|name| name != "*").collect();
        let wanted: Vec<String> = names.difference(&self.names).cloned().collect();
        self.expects |= !wanted.is_empty();
        self.names = names;
        self.absent.retain(|name| self.names.contains(name));
        self.forget_unwanted();
        wanted
    }

    /// Takes an ACK or NACK of the last response in.
    fn answered(&mut self, kind: Kind, refusal: Option<Refusal>) -> Vec<Event> {
        let Some(Unanswered { versions, removed }) = self.unanswered.take() else { return Vec::new() };
        let Some(refusal) = refusal else {
            self.accept(&versions);
            return vec![Event::Accepted { kind, versions, removed }];
        };
        let rejections = attributed(kind, &refusal, &versions);
        let is_blamed = |name: &Arc<str>| rejections.iter().any(|rejection| *rejection.name == **name);
        let (blamed, others): (Vec<_>, Vec<_>) = versions.into_iter().partition(|(name, _)| is_blamed(name));
        for (name, _) in &blamed {
            self.with_sent(name, Sent::refuse);
        }
        let is_certain = !refusal.rejections.is_empty();
        let mut events = vec![Event::Refused { kind, message: refusal.message, rejections }];
        if is_certain {
            self.accept(&others);
            events.push(Event::Accepted { kind, versions: others, removed });
        } else {
            for (name, _) in &others {
                self.with_sent(name, Sent::send_again);
            }
            // A response that blames nobody and brought nothing would only be refused again.
            let removed = if blamed.is_empty() { Vec::new() } else { removed };
            self.sent.extend(removed.into_iter().map(|name| (name.into(), Sent::of_old(Arc::default()))));
        }
        events
    }

    fn accept(&mut self, versions: &[(Arc<str>, Arc<str>)]) {
        for (name, _) in versions {
            self.with_sent(name, Sent::accept);
        }
    }

    fn with_sent(&mut self, name: &str, change: impl FnOnce(&mut Sent)) {
        if let Some(sent) = self.sent.get_mut(name) {
            change(sent);
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }

    /// What the client must be told to have what the snapshot has.
    fn change_to(&self, kind: Kind, snapshot: &Snapshot) -> Change {
        let differs =
            |new: &&Arc<Encoded>| self.sent.get(&new.name).is_none_or(|old| old.version != new.version);
        let upserts: Vec<Arc<Encoded>> = if self.everything {
            snapshot.of_kind(kind).filter(differs).cloned().collect()
        } else {
            let wanted = self.names.iter().filter_map(|name| snapshot.resource(kind, name));
            wanted.filter(differs).cloned().collect()
        };
        let gone = |name: &&str| snapshot.resource(kind, name).is_none();
        let mut removed: Vec<String> =
            self.sent.keys().map(|name| &**name).filter(gone).map(ToOwned::to_owned).collect();
        let unknown = |name: &&String| {
            gone(&name.as_str()) && !self.absent.contains(*name) && !self.sent.contains_key(name.as_str())
        };
        removed.extend(self.names.iter().filter(unknown).cloned());
        Change { upserts, removed }
    }

    /// Writes a response, and remembers that the client has it.
    fn respond(&mut self, kind: Kind, protocol: Protocol, nonce: String, change: Change) -> Response {
        let Change { upserts, removed } = change;
        for name in &removed {
            self.sent.remove(name.as_str());
            if self.names.contains(name) {
                self.absent.insert(name.clone());
            }
        }
        for new in &upserts {
            self.absent.remove(&*new.name);
            let old = self.sent.remove(&new.name);
            let sent = Sent {
                version: Arc::clone(&new.version),
                resource: Some(Arc::clone(new)),
                known: old.as_ref().is_some_and(|old| old.known),
                good: old.and_then(|old| old.good),
                refused: false,
            };
            self.sent.insert(Arc::clone(&new.name), sent);
        }
        let versions = upserts.iter().map(|new| (Arc::clone(&new.name), Arc::clone(&new.version))).collect();
        self.unanswered = Some(Unanswered { versions, removed: removed.clone() });
        self.nonce.clone_from(&nonce);
        self.expects = false;
        let (resources, removed) = match protocol {
            Protocol::Delta => (upserts, removed),
            Protocol::StateOfTheWorld => (self.whole(), Vec::new()),
        };
        Response { kind, nonce, version: self.version(), resources, removed }
    }

    /// All that the client wants and that exists. What only goes later is among it, and in place of what it refused
    /// stands what it last accepted.
    fn whole(&self) -> Vec<Arc<Encoded>> {
        let wanted = self.sent.iter().filter(|(name, _)| self.wants(name));
        wanted.filter_map(|(_, sent)| sent.runs().cloned()).collect()
    }

    fn version(&self) -> String {
        let mut text = String::new();
        for (name, sent) in &self.sent {
            text.extend([name, "\n", &sent.version, "\n"]);
        }
        version(text.as_bytes())
    }
}

/// Whose fault it was: by the client's own list, else by the names in its words, else everybody's.
fn attributed(kind: Kind, refusal: &Refusal, versions: &[(Arc<str>, Arc<str>)]) -> Vec<Rejection> {
    if !refusal.rejections.is_empty() {
        return refusal.rejections.clone();
    }
    let rejection =
        |name: &Arc<str>| Rejection { kind, name: name.to_string(), why: refusal.message.clone() };
    let named = versions.iter().filter(|(name, _)| refusal.message.contains(&**name));
    let rejections: Vec<Rejection> = named.map(|(name, _)| rejection(name)).collect();
    if rejections.is_empty() {
        versions.iter().map(|(name, _)| rejection(name)).collect()
    } else {
        rejections
    }
}

#[cfg(test)]
mod tests;
