//! What one client wants and has of one kind.
//!
//! Which names differ between the client and the snapshot is kept, not worked out anew: a snapshot says what it changed
//! ([`Set::changed_since`]), a client's message says what it touches, and only those names are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::proxy::Kind;
use meshwork_model::xxhash::xxhash64;

use super::{Event, Protocol, Refusal, Response};
use crate::resource::{Encoded, Rejection, Set};

/// What a client wants and has of one kind.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    everything: bool,
    names: BTreeSet<Arc<str>>,
    /// What was sent, whether it was accepted or not.
    sent: SentList,
    /// Names of which the client knows that they do not exist.
    absent: BTreeSet<Arc<str>>,
    /// The last response's nonce.
    nonce: String,
    unanswered: Option<Unanswered>,
    /// Whether the client waits for an answer though nothing may have changed.
    expects: bool,
    /// The set that was looked at last.
    seen: u64,
    /// Names that are still to be looked at.
    unseen: Unseen,
    /// Names whose resources differ from those that the client has.
    differing: BTreeSet<Arc<str>>,
}

/// Names that are still to be looked at.
#[derive(Debug, Default)]
struct Unseen {
    all: bool,
    names: Vec<Arc<str>>,
}

/// Resources as the client has them, with a hash of all their versions that follows each change.
#[derive(Debug, Default)]
struct SentList {
    by_name: BTreeMap<Arc<str>, Sent>,
    sum: u64,
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

/// A response that waits for its ACK or NACK.
#[derive(Debug)]
struct Unanswered {
    versions: Vec<(Arc<str>, Arc<str>)>,
    removed: Vec<String>,
}

/// In what the client's resource of a name differs from the snapshot's.
enum Difference {
    /// It is another one, or new.
    Upsert(Arc<Encoded>),
    /// It is gone.
    Gone,
    /// There is none, and the client does not know.
    Absent,
}

// === impl Subscription ===

impl Subscription {
    /// The last response's nonce.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// How many names are kept for the client.
    pub(super) fn size(&self) -> usize {
        self.names.len().max(self.sent.by_name.len())
    }

    /// What the client has from an earlier stream, which it accepted then.
    pub(super) fn bring(&mut self, kind: Kind, have: BTreeMap<String, String>) -> Event {
        let versions = have.into_iter().map(|(name, version)| (name.into(), version.into()));
        let versions: Vec<(Arc<str>, Arc<str>)> = versions.collect();
        for (name, version) in &versions {
            self.sent.insert(name, Sent::of_old(Arc::clone(version)));
        }
        Event::Accepted { kind, versions, removed: Vec::new() }
    }

    /// Changes a delta subscription; the names that are new.
    pub(super) fn change(
        &mut self,
        first: bool,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
    ) -> Vec<String> {
        if first {
            self.expects = true;
            self.everything = subscribe.is_empty();
            self.unseen.all = true;
        }
        let mut wanted = Vec::new();
        for text in subscribe {
            if text == "*" {
                self.everything = true;
                self.expects = true;
                self.unseen.all = true;
                continue;
            }
            let name: Arc<str> = text.as_str().into();
            // Who subscribes again wants to be told again, save right after a reconnect, when it says what it has.
            if !first {
                self.sent.remove(&name);
            }
            self.absent.remove(&name);
            self.unseen.names.push(Arc::clone(&name));
            if self.names.insert(name) {
                wanted.push(text);
            }
        }
        self.unsubscribe(unsubscribe);
        if first {
            self.forget_unwanted();
        }
        wanted
    }

    fn unsubscribe(&mut self, names: Vec<String>) {
        for name in names {
            if name == "*" {
                self.everything = false;
                self.unseen.all = true;
                self.forget_unwanted();
            } else {
                self.drop_name(&name.into());
            }
        }
    }

    /// What is no longer wanted is dropped by the client without being told.
    fn drop_name(&mut self, name: &Arc<str>) {
        self.names.remove(name);
        self.absent.remove(name);
        if !self.everything {
            self.sent.remove(name);
        }
        self.unseen.names.push(Arc::clone(name));
    }

    fn forget_unwanted(&mut self) {
        if !self.everything {
            self.sent.retain(|name| self.names.contains(name));
        }
    }

    /// Replaces a subscription to the state of the world; the names that are new.
    pub(super) fn replace(&mut self, first: bool, names: Vec<String>) -> Vec<String> {
        // As a rule an answer says what the one before said.
        let is_known = |name: &String| self.names.contains(name.as_str());
        let says_nothing = names.len() == self.names.len() && names.iter().all(is_known);
        if !first && !self.everything && !names.is_empty() && says_nothing {
            return Vec::new();
        }
        let stays = names.is_empty() && (first || (self.everything && self.names.is_empty()));
        let everything = stays || names.iter().any(|name| name == "*");
        self.expects |= first;
        if self.everything != everything || first {
            self.everything = everything;
            self.unseen.all = true;
        }
        let names: BTreeSet<Arc<str>> = names.into_iter().filter(|name| name != "*").map(Arc::from).collect();
        let wanted: Vec<Arc<str>> = names.difference(&self.names).cloned().collect();
        let unwanted: Vec<Arc<str>> = self.names.difference(&names).cloned().collect();
        self.expects |= !wanted.is_empty();
        for name in &unwanted {
            self.drop_name(name);
        }
        if self.unseen.all {
            self.names = names;
            self.forget_unwanted();
        } else {
            self.unseen.names.extend(wanted.iter().cloned());
            self.names = names;
        }
        wanted.iter().map(ToString::to_string).collect()
    }

    /// Takes an ACK or NACK of the last response in.
    pub(super) fn answered(&mut self, kind: Kind, refusal: Option<Refusal>) -> Vec<Event> {
        let Some(Unanswered { versions, removed }) = self.unanswered.take() else { return Vec::new() };
        let Some(refusal) = refusal else {
            self.accept(&versions);
            return vec![Event::Accepted { kind, versions, removed }];
        };
        let rejections = attributed(kind, &refusal, &versions);
        let is_blamed = |name: &Arc<str>| rejections.iter().any(|rejection| *rejection.name == **name);
        let (blamed, others): (Vec<_>, Vec<_>) = versions.into_iter().partition(|(name, _)| is_blamed(name));
        for (name, _) in &blamed {
            self.sent.change(name, Sent::refuse);
        }
        let is_certain = !refusal.rejections.is_empty();
        let mut events = vec![Event::Refused { kind, message: refusal.message, rejections }];
        if is_certain {
            self.accept(&others);
            events.push(Event::Accepted { kind, versions: others, removed });
        } else {
            for (name, _) in others {
                self.sent.change(&name, Sent::send_again);
                self.unseen.names.push(name);
            }
            // A response that blames nobody and brought nothing would only be refused again.
            let removed = if blamed.is_empty() { Vec::new() } else { removed };
            for name in removed {
                let name: Arc<str> = name.into();
                self.sent.insert(&name, Sent::of_old(Arc::default()));
                self.unseen.names.push(name);
            }
        }
        events
    }

    fn accept(&mut self, versions: &[(Arc<str>, Arc<str>)]) {
        for (name, _) in versions {
            self.sent.change(name, Sent::accept);
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }

    /// Finds out what differs from a set: of names that the set, or the client since, has touched.
    pub(super) fn look(&mut self, set: &Set) {
        if set.generation() != self.seen {
            match set.changed_since(self.seen) {
                Some(changed) => self.unseen.names.extend(changed.iter().cloned()),
                None => self.unseen.all = true,
            }
            self.seen = set.generation();
        }
        let Unseen { all, names } = std::mem::take(&mut self.unseen);
        if all {
            let of_set = set.resources().keys().filter(|_| self.everything);
            let candidates = of_set.chain(&self.names).chain(self.sent.by_name.keys());
            self.differing = candidates.filter(|name| self.differs(name, set)).cloned().collect();
            return;
        }
        for name in names {
            if self.differs(&name, set) {
                self.differing.insert(name);
            } else {
                self.differing.remove(&name);
            }
        }
    }

    fn differs(&self, name: &Arc<str>, set: &Set) -> bool {
        self.difference(name, set).is_some()
    }

    fn difference(&self, name: &Arc<str>, set: &Set) -> Option<Difference> {
        let had = self.sent.by_name.get(name);
        match set.resources().get(name) {
            Some(new) => {
                let differs = self.wants(name) && had.is_none_or(|old| old.version != new.version);
                differs.then(|| Difference::Upsert(Arc::clone(new)))
            }
            None if had.is_some() => Some(Difference::Gone),
            None => {
                let is_unknown = self.names.contains(name) && !self.absent.contains(name);
                is_unknown.then_some(Difference::Absent)
            }
        }
    }

    /// Whether something new to the client is about to be sent, or was and is not answered.
    pub(super) fn has_news(&self, set: &Set) -> bool {
        let is_new = |name: &Arc<str>| !self.sent.by_name.get(name).is_some_and(|sent| sent.known);
        let mut unanswered = self.unanswered.iter().flat_map(|unanswered| &unanswered.versions);
        unanswered.any(|(name, _)| is_new(name))
            || self.differing.iter().any(|name| set.resources().contains_key(name) && is_new(name))
    }

    /// Whether the client is about to be told something, or was and has not answered.
    pub(super) fn is_changing(&self) -> bool {
        self.unanswered.is_some() || !self.differing.is_empty()
    }

    /// Whether there is a response to be sent now; `keeps` is whether nothing may go yet.
    pub(super) fn has_something_to_say(&self, keeps: bool, set: &Set) -> bool {
        let goes = |name: &Arc<str>| match self.difference(name, set) {
            Some(Difference::Gone) => !keeps,
            difference => difference.is_some(),
        };
        self.unanswered.is_none() && (self.expects || self.differing.iter().any(goes))
    }

    /// Writes a response, and remembers that the client has it.
    pub(super) fn respond(
        &mut self,
        kind: Kind,
        protocol: Protocol,
        nonce: String,
        keeps: bool,
        set: &Set,
    ) -> Response {
        let (mut upserts, mut removed) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.differing) {
            match self.difference(&name, set) {
                Some(Difference::Upsert(new)) => {
                    self.absent.remove(&name);
                    self.sent.send(&new);
                    upserts.push(new);
                }
                Some(Difference::Gone) if keeps => {
                    self.differing.insert(name);
                }
                Some(Difference::Gone | Difference::Absent) => {
                    self.sent.remove(&name);
                    removed.push(name.to_string());
                    if self.names.contains(&name) {
                        self.absent.insert(name);
                    }
                }
                None => {}
            }
        }
        let versions = upserts.iter().map(|new| (Arc::clone(&new.name), Arc::clone(&new.version))).collect();
        self.unanswered = Some(Unanswered { versions, removed: removed.clone() });
        self.nonce.clone_from(&nonce);
        self.expects = false;
        let (resources, removed) = match protocol {
            Protocol::Delta => (upserts, removed),
            Protocol::StateOfTheWorld => (self.whole(), Vec::new()),
        };
        Response { kind, nonce, version: self.sent.version(), resources, removed }
    }

    /// All that the client wants and that exists. What only goes later is among it, and in place of what it refused
    /// stands what it last accepted.
    fn whole(&self) -> Vec<Arc<Encoded>> {
        let wanted = self.sent.by_name.iter().filter(|(name, _)| self.wants(name));
        wanted.filter_map(|(_, sent)| sent.runs().cloned()).collect()
    }
}

// === impl SentList ===

impl SentList {
    fn insert(&mut self, name: &Arc<str>, sent: Sent) {
        self.sum = self.sum.wrapping_add(hash(name, &sent));
        if let Some(old) = self.by_name.insert(Arc::clone(name), sent) {
            self.sum = self.sum.wrapping_sub(hash(name, &old));
        }
    }

    fn remove(&mut self, name: &Arc<str>) -> Option<Sent> {
        let old = self.by_name.remove(name)?;
        self.sum = self.sum.wrapping_sub(hash(name, &old));
        Some(old)
    }

    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Sent)) {
        if let Some(mut sent) = self.remove(name) {
            change(&mut sent);
            self.insert(name, sent);
        }
    }

    fn retain(&mut self, stays: impl Fn(&Arc<str>) -> bool) {
        let sum = &mut self.sum;
        self.by_name.retain(|name, sent| {
            let stays = stays(name);
            if !stays {
                *sum = sum.wrapping_sub(hash(name, sent));
            }
            stays
        });
    }

    /// Takes in that a resource is sent.
    fn send(&mut self, new: &Arc<Encoded>) {
        let old = self.remove(&new.name);
        let sent = Sent {
            version: Arc::clone(&new.version),
            resource: Some(Arc::clone(new)),
            known: old.as_ref().is_some_and(|old| old.known),
            good: old.and_then(|old| old.good),
            refused: false,
        };
        self.insert(&new.name, sent);
    }

    /// A hash of all versions, whatever their order.
    fn version(&self) -> String {
        format!("{:016x}", self.sum)
    }
}

fn hash(name: &str, sent: &Sent) -> u64 {
    xxhash64(name.as_bytes(), xxhash64(sent.version.as_bytes(), 0))
}

// === impl Sent ===

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
