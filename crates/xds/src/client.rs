//! The client's end of ADS, as a state machine without I/O: delta and state of the world from one core.
//!
//! It wants all listeners and clusters, and of other kinds those that accepted resources name, or the static ones of a
//! file. What is refused, by the decoder or by who applies it, is named in the NACK; the good ones beside it are
//! applied, and of a bad one the last good version stays. Its state outlives streams: after a reconnect it says what it
//! has.
//!
//! The two protocols differ in how wishes are said (what changed, or all of them), in what a response leaves out (of
//! listeners and clusters, with state of the world: what is gone), and in whose version counts.
//!
//! Source: xDS protocol, "Variants of the xDS transport protocol".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::proxy::{
    Cluster, Discovery, FilterChain, Kind, Listener, NetworkFilter, Resource, RouteSource, Secret, TlsContext,
};

use crate::decode::decode;
use crate::node::Node;
use crate::resource::{Raw, Rejection, Update};
use crate::server::{Names, Refusal, Request};

pub use crate::server::Protocol;

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Which resources it is about.
    pub kind: Kind,
    /// Names it in our answer.
    pub nonce: String,
    /// The version of all of it; counts with state of the world.
    pub version: String,
    /// New and changed resources; with state of the world, of listeners and clusters all there are.
    pub resources: Vec<Carried>,
    /// Resources that are gone, or that do not exist; always empty with state of the world.
    pub removed: Vec<String>,
}

/// A resource as it came by wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its name; empty where it could not be read.
    pub name: String,
    /// Its version; with state of the world that of the response.
    pub version: String,
    /// The type of its bytes.
    pub type_url: String,
    /// The message.
    pub bytes: Raw,
}

/// What a workload says of itself, on its own stream. Source: Istio `istio.v1.HealthInformation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes requests.
    Ready,
    /// It takes none for now, for this reason.
    Unready(Arc<str>),
    /// It takes none any more, and will not come back: its lease ends, and with it the stream.
    Leaving,
}

/// A response that was read and is to be applied; then call [`Session::finish`].
#[derive(Debug)]
pub struct Received {
    kind: Kind,
    nonce: String,
    version: String,
    /// What is to be applied.
    pub update: Update,
}

/// What follows from a response that was applied.
#[derive(Debug, Default)]
pub struct Finished {
    /// To be sent, in this order.
    pub requests: Vec<Request>,
    /// What nothing leads to any more: to be applied, too. Only removals.
    pub cleanup: Update,
}

/// The client's state, which outlives its streams: what it has, in which versions, and what it wants.
#[derive(Debug)]
pub struct Session {
    node: Node,
    protocol: Protocol,
    /// The kinds of which everything is wanted.
    everything: BTreeSet<Kind>,
    /// Resources that a file fixed: none of these names is taken in.
    fixed: BTreeSet<(Kind, String)>,
    /// The versions of what is applied.
    versions: BTreeMap<Kind, BTreeMap<String, String>>,
    /// The resources that each resource names.
    named_by: BTreeMap<(Kind, String), BTreeSet<(Kind, String)>>,
    /// What is subscribed to by name.
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
    /// State of the world: the version of the last response that was accepted whole.
    accepted: BTreeMap<Kind, String>,
    /// State of the world: the nonce of the stream's last response.
    nonces: BTreeMap<Kind, String>,
}

impl Session {
    /// Starts with nothing: all listeners and clusters are wanted, and of other kinds those that they name.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            protocol: Protocol::Delta,
            everything: [Kind::Cluster, Kind::Listener].into(),
            fixed: BTreeSet::new(),
            versions: BTreeMap::new(),
            named_by: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            accepted: BTreeMap::new(),
            nonces: BTreeMap::new(),
        }
    }

    /// Speaks this protocol; delta where nobody says.
    #[must_use]
    pub fn speaking(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Wants everything of these kinds alone, of clusters and listeners.
    #[must_use]
    pub fn wanting(self, everything: impl IntoIterator<Item = Kind>) -> Self {
        Self { everything: everything.into_iter().collect(), ..self }
    }

    /// Goes on from resources that stand in a file: what they name is wanted, and no other of their names is taken in.
    /// Source: Envoy never changes or removes static resources.
    #[must_use]
    pub fn beside(mut self, fixed: &[Resource]) -> Self {
        for resource in fixed {
            let key = (resource.kind(), resource.name().to_owned());
            self.named_by.insert(key.clone(), names_of(resource));
            self.fixed.insert(key);
        }
        for kind in Kind::ALL.into_iter().filter(|kind| is_by_name(*kind)) {
            self.subscribed.insert(kind, self.needed(kind));
        }
        self
    }

    /// Who we are.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The protocol that it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The versions of what is applied, by name.
    pub fn versions(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        let versions = self.versions.get(&kind).into_iter().flatten();
        versions.map(|(name, version)| (name.as_str(), version.as_str()))
    }

    /// State of the world: the version of the last response that was accepted whole; empty before one was.
    pub fn accepted(&self, kind: Kind) -> &str {
        self.accepted.get(&kind).map_or("", String::as_str)
    }

    /// The first messages of a new stream.
    pub fn connect(&mut self) -> Vec<Request> {
        self.nonces.clear();
        // Who lost its state may number anew what it had numbered before.
        self.accepted.clear();
        Kind::ALL.into_iter().filter_map(|kind| self.first_request(kind)).collect()
    }

    fn first_request(&self, kind: Kind) -> Option<Request> {
        let names: Vec<String> = self.subscribed.get(&kind).into_iter().flatten().cloned().collect();
        let by_name = is_by_name(kind);
        // Of kinds by name, no names in the first request would mean all there are.
        let is_wanted = if by_name { !names.is_empty() } else { self.everything.contains(&kind) };
        let names = match self.protocol {
            Protocol::StateOfTheWorld => Names::All(names),
            Protocol::Delta => Names::Change {
                subscribe: names,
                unsubscribe: Vec::new(),
                have: self.versions.get(&kind).cloned().unwrap_or_default(),
            },
        };
        is_wanted.then_some(Request { kind, nonce: String::new(), refusal: None, names })
    }

    /// Takes in what an earlier process kept, kind by kind, as if it had come by a stream.
    pub fn restore(
        &mut self,
        mut kept: BTreeMap<Kind, Vec<Carried>>,
        mut apply: impl FnMut(Update) -> Vec<Rejection>,
    ) {
        // What names others before what is named.
        let order = [Kind::Cluster, Kind::Listener, Kind::Secret, Kind::Endpoints, Kind::Routes];
        for kind in order {
            let resources = kept.remove(&kind).unwrap_or_default();
            let response = Response {
                kind,
                nonce: String::new(),
                version: String::new(),
                resources,
                removed: Vec::new(),
            };
            let received = self.receive(response);
            let update = received.update.clone();
            let rejections = if update.is_empty() { Vec::new() } else { apply(update) };
            let finished = self.finish(received, rejections);
            let answer = finished.requests.last();
            for rejection in
                answer.and_then(|answer| answer.refusal.iter().next()).iter().flat_map(|r| &r.rejections)
            {
                tracing::warn!(?kind, name = %rejection.name, "what was kept is not taken: {}", rejection.why);
            }
        }
    }

    /// Reads a response. Apply its update, then call [`Session::finish`].
    pub fn receive(&self, response: Response) -> Received {
        let Response { kind, nonce, version, resources, removed } = response;
        let mut received = Received { kind, nonce, version, update: Update::default() };
        let removed = if self.is_whole(kind) { self.left_out(kind, &resources) } else { removed };
        for carried in resources {
            if is_by_name(kind) && !self.is_subscribed(kind, &carried.name) {
                // It crossed our unsubscription, or nobody asked for it.
                continue;
            }
            if self.fixed.contains(&(kind, carried.name.clone())) {
                tracing::warn!(?kind, name = %carried.name, "left out: the bootstrap has a static one of this name");
                continue;
            }
            match read(kind, &carried) {
                Ok(resource) => {
                    received.update.bytes.insert((kind, carried.name.clone()), carried.bytes);
                    received.update.versions.insert((kind, carried.name), carried.version);
                    received.update.upserts.push(resource);
                }
                Err(why) => received.update.unreadable.push(Rejection { kind, name: carried.name, why }),
            }
        }
        let has = |name: &String| self.versions.get(&kind).is_some_and(|known| known.contains_key(name));
        received.update.removed = removed.into_iter().filter(has).map(|name| (kind, name)).collect();
        received
    }

    /// Whether a response of this kind says all there is.
    fn is_whole(&self, kind: Kind) -> bool {
        self.protocol == Protocol::StateOfTheWorld && !is_by_name(kind)
    }

    /// What we have and a whole response has not. A resource whose name cannot be read may be any of them.
    fn left_out(&self, kind: Kind, resources: &[Carried]) -> Vec<String> {
        if resources.iter().any(|carried| carried.name.is_empty()) {
            return Vec::new();
        }
        let there: BTreeSet<&str> = resources.iter().map(|carried| carried.name.as_str()).collect();
        let known = self.versions.get(&kind).into_iter().flat_map(BTreeMap::keys);
        known.filter(|name| !there.contains(name.as_str())).cloned().collect()
    }

    /// Takes in which resources of an update could not be applied, and says what is to be sent.
    pub fn finish(&mut self, received: Received, refused: Vec<Rejection>) -> Finished {
        let Received { kind, nonce, version, mut update } = received;
        let mut rejections = std::mem::take(&mut update.unreadable);
        rejections.extend(refused);
        for (kind, name) in &update.removed {
            self.forget(*kind, name);
        }
        for resource in &update.upserts {
            let key = (resource.kind(), resource.name().to_owned());
            let is_refused = rejections.iter().any(|r| (r.kind, r.name.as_str()) == (key.0, key.1.as_str()));
            if let (false, Some(version)) = (is_refused, update.versions.get(&key)) {
                self.remember(resource, version);
            }
        }
        let mut finished = Finished::default();
        // Before the answer: the server holds back what leads to a new cluster until it has answered for its endpoints.
        for kind in Kind::ALL.into_iter().filter(|kind| is_by_name(*kind)) {
            finished.requests.extend(self.subscribe(kind, &mut finished.cleanup));
        }
        if self.protocol == Protocol::StateOfTheWorld {
            self.nonces.insert(kind, nonce.clone());
            if rejections.is_empty() {
                self.accepted.insert(kind, version);
            }
            // The answer says the names anew; asked beside it, the server would answer twice.
            finished.requests.retain(|request| request.kind != kind);
        }
        let names = match self.protocol {
            Protocol::StateOfTheWorld => self.all_names(kind),
            Protocol::Delta => {
                Names::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), have: BTreeMap::new() }
            }
        };
        let refusal = (!rejections.is_empty()).then(|| refusal(rejections));
        finished.requests.push(Request { kind, nonce, refusal, names });
        finished
    }

    fn all_names(&self, kind: Kind) -> Names {
        Names::All(self.subscribed.get(&kind).into_iter().flatten().cloned().collect())
    }

    fn is_subscribed(&self, kind: Kind, name: &str) -> bool {
        self.subscribed.get(&kind).is_some_and(|names| names.contains(name))
    }

    fn remember(&mut self, resource: &Resource, version: &str) {
        let (kind, name) = (resource.kind(), resource.name().to_owned());
        self.named_by.insert((kind, name.clone()), names_of(resource));
        self.versions.entry(kind).or_default().insert(name, version.to_owned());
    }

    fn forget(&mut self, kind: Kind, name: &str) {
        if let Some(versions) = self.versions.get_mut(&kind) {
            versions.remove(name);
        }
        self.named_by.remove(&(kind, name.to_owned()));
    }

    /// The names of a kind that some resource leads to.
    fn needed(&self, kind: Kind) -> BTreeSet<String> {
        let named = self.named_by.values().flatten().filter(|(named, _)| *named == kind);
        named.filter(|key| !self.fixed.contains(key)).map(|(_, name)| name.clone()).collect()
    }

    /// Brings a subscription by name in line with what is named; what is no longer named goes.
    fn subscribe(&mut self, kind: Kind, cleanup: &mut Update) -> Option<Request> {
        let needed = self.needed(kind);
        let before = self.subscribed.insert(kind, needed.clone()).unwrap_or_default();
        let subscribe: Vec<String> = needed.difference(&before).cloned().collect();
        let unsubscribe: Vec<String> = before.difference(&needed).cloned().collect();
        for name in &unsubscribe {
            if self.versions.get_mut(&kind).is_some_and(|versions| versions.remove(name).is_some()) {
                self.named_by.remove(&(kind, name.clone()));
                cleanup.removed.push((kind, name.clone()));
            }
        }
        let changed = !subscribe.is_empty() || !unsubscribe.is_empty();
        let (nonce, names) = match self.protocol {
            Protocol::StateOfTheWorld => {
                (self.nonces.get(&kind).cloned().unwrap_or_default(), self.all_names(kind))
            }
            Protocol::Delta => {
                (String::new(), Names::Change { subscribe, unsubscribe, have: BTreeMap::new() })
            }
        };
        changed.then_some(Request { kind, nonce, refusal: None, names })
    }
}

/// Whether resources of this kind are subscribed to by their names.
fn is_by_name(kind: Kind) -> bool {
    matches!(kind, Kind::Endpoints | Kind::Routes | Kind::Secret)
}

fn read(kind: Kind, carried: &Carried) -> Result<Resource, String> {
    let resource = decode(&carried.type_url, &carried.bytes.0).map_err(|problems| {
        let lines: Vec<String> = problems
            .into_iter()
            .map(|mut problem| {
                problem.resource.clear();
                problem.to_string()
            })
            .collect();
        lines.join("; ")
    })?;
    if resource.kind() != kind || resource.name() != carried.name {
        return Err(format!("it is a {:?} named `{}`", resource.kind(), resource.name()));
    }
    Ok(resource)
}

/// Whether a resource names others, which come by themselves.
pub(crate) fn leads_further(resource: &Resource) -> bool {
    !names_of(resource).is_empty()
}

/// The resources that a resource leads to.
fn names_of(resource: &Resource) -> BTreeSet<(Kind, String)> {
    match resource {
        Resource::Cluster(cluster) => {
            let tls = cluster.transports.iter().filter_map(|transport| transport.tls.as_ref()?.context());
            endpoints_of(cluster).into_iter().chain(secrets_of(tls)).collect()
        }
        Resource::Listener(listener) => {
            let tls = listener.all_chains().filter_map(|chain| chain.tls.as_ref()?.context());
            routes_of(listener).chain(secrets_of(tls)).collect()
        }
        Resource::Names(_) | Resource::Endpoints(_) | Resource::Routes(_) | Resource::Secret(_) => {
            BTreeSet::new()
        }
    }
}

fn endpoints_of(cluster: &Cluster) -> Option<(Kind, String)> {
    match &cluster.discovery {
        Discovery::Eds(name) => Some((Kind::Endpoints, name.to_string())),
        Discovery::Static(_) | Discovery::Dns(_) | Discovery::OriginalDestination => None,
    }
}

fn secrets_of<'a>(contexts: impl Iterator<Item = &'a TlsContext>) -> impl Iterator<Item = (Kind, String)> {
    let names = contexts.flat_map(TlsContext::secrets).filter(|name| Secret::is_by_stream(name));
    names.map(|name| (Kind::Secret, name.to_string()))
}

fn routes_of(listener: &Listener) -> impl Iterator<Item = (Kind, String)> {
    let name = |chain: &FilterChain| match &chain.filter {
        NetworkFilter::Http(http) => match &http.routes {
            RouteSource::Named(name) => Some(Arc::clone(name)),
            RouteSource::Inline(_) => None,
        },
        NetworkFilter::Tcp(_) => None,
    };
    listener.all_chains().filter_map(name).map(|name| (Kind::Routes, name.to_string()))
}

/// The most resources that a NACK names, and the most bytes that it says of one: a megabyte together, a quarter of what
/// gRPC servers take in by default.
const MAX_NAMED: usize = 1000;
const MAX_WHY_BYTES: usize = 1000;

fn refusal(mut rejections: Vec<Rejection>) -> Refusal {
    rejections.truncate(MAX_NAMED);
    for rejection in &mut rejections {
        let end = rejection.why.floor_char_boundary(MAX_WHY_BYTES);
        rejection.why.truncate(end);
    }
    let lines: Vec<String> = rejections.iter().map(|r| format!("{}: {}", r.name, r.why)).collect();
    Refusal { message: lines.join("\n"), rejections }
}

#[cfg(test)]
mod tests;
