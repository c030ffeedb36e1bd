//! The client's end of ADS (delta), as a state machine without I/O.
//!
//! It wants all listeners and clusters, and of endpoints and routes those that accepted clusters and listeners name.
//! What is refused, by the decoder or by who applies it, is named in the NACK; the good ones beside it are applied,
//! and of a bad one the last good version stays. Its state outlives streams: after a reconnect it says what it has.
//!
//! Source: xDS protocol, "Incremental xDS".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use meshwork_model::proxy::{
    Cluster, Discovery, FilterChain, Kind, Listener, NetworkFilter, Resource, RouteSource,
};

use crate::decode::decode;
use crate::node::Node;
use crate::resource::{Rejection, Update};
use crate::server::{Names, Refusal, Request};

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Which resources it is about.
    pub kind: Kind,
    /// Names it in our answer.
    pub nonce: String,
    /// New and changed resources.
    pub resources: Vec<Carried>,
    /// Resources that are gone, or that do not exist.
    pub removed: Vec<String>,
}

/// A resource as it came by wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The type of its bytes.
    pub type_url: String,
    /// The message.
    pub bytes: Bytes,
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
    /// Resources that could not be read.
    unreadable: Vec<Rejection>,
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
    /// The versions of what is applied.
    versions: BTreeMap<Kind, BTreeMap<String, String>>,
    /// The endpoints that each cluster names.
    endpoints_of: BTreeMap<String, BTreeSet<String>>,
    /// The routes that each listener names.
    routes_of: BTreeMap<String, BTreeSet<String>>,
    /// What is subscribed to by name.
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
}

impl Session {
    /// Starts with nothing: all listeners and clusters are wanted, and of endpoints and routes those that they name.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            versions: BTreeMap::new(),
            endpoints_of: BTreeMap::new(),
            routes_of: BTreeMap::new(),
            subscribed: BTreeMap::new(),
        }
    }

    /// Who we are.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The versions of what is applied, by name.
    pub fn versions(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        let versions = self.versions.get(&kind).into_iter().flatten();
        versions.map(|(name, version)| (name.as_str(), version.as_str()))
    }

    /// The first messages of a new stream.
    pub fn connect(&self) -> Vec<Request> {
        let request = |kind| {
            let names = self.subscribed.get(&kind).into_iter().flatten().cloned().collect::<Vec<_>>();
            // Of these kinds, no names in the first request would mean all there are.
            let by_name = is_by_name(kind);
            (!by_name || !names.is_empty()).then(|| Request {
                kind,
                nonce: String::new(),
                refusal: None,
                names: Names::Change {
                    subscribe: names,
                    unsubscribe: Vec::new(),
                    have: self.versions.get(&kind).cloned().unwrap_or_default(),
                },
            })
        };
        Kind::ALL.into_iter().filter_map(request).collect()
    }

    /// Reads a response. Apply its update, then call [`Session::finish`].
    pub fn receive(&self, response: Response) -> Received {
        let Response { kind, nonce, resources, removed } = response;
        let mut received = Received { kind, nonce, unreadable: Vec::new(), update: Update::default() };
        for carried in resources {
            if is_by_name(kind) && !self.is_subscribed(kind, &carried.name) {
                // It crossed our unsubscription.
                continue;
            }
            match read(kind, &carried) {
                Ok(resource) => {
                    received.update.versions.insert((kind, carried.name), carried.version);
                    received.update.upserts.push(resource);
                }
                Err(why) => received.unreadable.push(Rejection { kind, name: carried.name, why }),
            }
        }
        let has = |name: &String| self.versions.get(&kind).is_some_and(|known| known.contains_key(name));
        received.update.removed = removed.into_iter().filter(has).map(|name| (kind, name)).collect();
        received
    }

    /// Takes in which resources of an update could not be applied, and says what is to be sent.
    pub fn finish(&mut self, received: Received, refused: Vec<Rejection>) -> Finished {
        let Received { kind, nonce, unreadable, update } = received;
        let mut rejections = unreadable;
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
        for kind in [Kind::Endpoints, Kind::Routes] {
            finished.requests.extend(self.subscribe(kind, &mut finished.cleanup));
        }
        finished.requests.push(Request {
            kind,
            nonce,
            refusal: (!rejections.is_empty()).then(|| refusal(rejections)),
            names: Names::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), have: BTreeMap::new() },
        });
        finished
    }

    fn is_subscribed(&self, kind: Kind, name: &str) -> bool {
        self.subscribed.get(&kind).is_some_and(|names| names.contains(name))
    }

    fn remember(&mut self, resource: &Resource, version: &str) {
        let name = resource.name().to_owned();
        match resource {
            Resource::Cluster(cluster) => {
                self.endpoints_of.insert(name.clone(), endpoints_of(cluster));
            }
            Resource::Listener(listener) => {
                self.routes_of.insert(name.clone(), routes_of(listener));
            }
            Resource::Names(_) => drop(self.routes_of.remove(&name)),
            Resource::Endpoints(_) | Resource::Routes(_) => {}
        }
        self.versions.entry(resource.kind()).or_default().insert(name, version.to_owned());
    }

    fn forget(&mut self, kind: Kind, name: &str) {
        if let Some(versions) = self.versions.get_mut(&kind) {
            versions.remove(name);
        }
        match kind {
            Kind::Cluster => drop(self.endpoints_of.remove(name)),
            Kind::Listener => drop(self.routes_of.remove(name)),
            Kind::Endpoints | Kind::Routes => {}
        }
    }

    /// Brings a subscription by name in line with what is named; what is no longer named goes.
    fn subscribe(&mut self, kind: Kind, cleanup: &mut Update) -> Option<Request> {
        let named = if kind == Kind::Endpoints { &self.endpoints_of } else { &self.routes_of };
        let needed: BTreeSet<String> = named.values().flatten().cloned().collect();
        let before = self.subscribed.insert(kind, needed.clone()).unwrap_or_default();
        let subscribe: Vec<String> = needed.difference(&before).cloned().collect();
        let unsubscribe: Vec<String> = before.difference(&needed).cloned().collect();
        for name in &unsubscribe {
            if self.versions.get_mut(&kind).is_some_and(|versions| versions.remove(name).is_some()) {
                cleanup.removed.push((kind, name.clone()));
            }
        }
        let changed = !subscribe.is_empty() || !unsubscribe.is_empty();
        changed.then(|| Request {
            kind,
            nonce: String::new(),
            refusal: None,
            names: Names::Change { subscribe, unsubscribe, have: BTreeMap::new() },
        })
    }
}

/// Whether resources of this kind are subscribed to by their names.
fn is_by_name(kind: Kind) -> bool {
    matches!(kind, Kind::Endpoints | Kind::Routes)
}

fn read(kind: Kind, carried: &Carried) -> Result<Resource, String> {
    let resource = decode(&carried.type_url, &carried.bytes).map_err(|problems| {
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

fn endpoints_of(cluster: &Cluster) -> BTreeSet<String> {
    match &cluster.discovery {
        Discovery::Eds(name) => [name.to_string()].into(),
        Discovery::Static(_) | Discovery::Dns(_) | Discovery::OriginalDestination => BTreeSet::new(),
    }
}

fn routes_of(listener: &Listener) -> BTreeSet<String> {
    let name = |chain: &FilterChain| match &chain.filter {
        NetworkFilter::Http(http) => match &http.routes {
            RouteSource::Named(name) => Some(Arc::clone(name)),
            RouteSource::Inline(_) => None,
        },
        NetworkFilter::Tcp(_) => None,
    };
    listener.chains.iter().filter_map(name).map(|name| name.to_string()).collect()
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
