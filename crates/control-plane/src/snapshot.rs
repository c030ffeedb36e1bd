//! Snapshots: a node's resources, encoded.
//!
//! What did not change keeps its bytes, and nodes of one dialect share the bytes of what they share: a cluster of a
//! thousand endpoints that a thousand nodes call is encoded once. Versions are hashes of content (`meshwork_xds`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use meshwork_model::proxy::{Kind, Resource};
use meshwork_xds::{Dialect, Encoded, SdsSource, Snapshot, encode};

type Pair = (Arc<Resource>, Arc<Encoded>);

/// Encodes for all nodes.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// Of most names there is one content, of what depends on the caller as many as there are callers of a kind.
    shared: HashMap<Shelf, Vec<Pair>>,
}

/// Where what is encoded is found again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shelf {
    dialect: Dialect,
    /// The directory that is written into it: Envoy's own one, where it reads secrets.
    directory: Option<String>,
    kind: Kind,
    name: Arc<str>,
}

/// What a node has been given.
#[derive(Debug, Default)]
pub(crate) struct Published {
    parts: Arc<BTreeMap<(Kind, Arc<str>), Pair>>,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Published {
    /// Whether these are the resources that it has been given.
    pub(crate) fn is(parts: &Parts, resources: &[Arc<Resource>]) -> bool {
        let has = |new: &Arc<Resource>| {
            let old = parts.0.get(&(new.kind(), new.name().into()));
            old.is_some_and(|(old, _)| Arc::ptr_eq(old, new) || old == new)
        };
        parts.0.len() == resources.len() && resources.iter().all(has)
    }

    /// What it has been given, to be compared with later.
    pub(crate) fn parts(&self) -> Parts {
        Parts(Arc::clone(&self.parts))
    }
}

/// What a node has been given at one moment.
#[derive(Debug)]
pub(crate) struct Parts(Arc<BTreeMap<(Kind, Arc<str>), Pair>>);

impl Encoder {
    /// Encodes a node's resources; says whether anything differs from what it was given before.
    pub(crate) fn publish(
        &mut self,
        published: &mut Published,
        resources: Vec<Arc<Resource>>,
        dialect: Dialect,
        sds: &SdsSource,
    ) -> bool {
        let (mut next, mut changed) = (BTreeMap::new(), Vec::new());
        for resource in resources {
            let key: (Kind, Arc<str>) = (resource.kind(), resource.name().into());
            let earlier = published.parts.get(&key);
            let same = earlier.filter(|(old, _)| Arc::ptr_eq(old, &resource) || *old == resource);
            let pair = match same {
                Some(same) => same.clone(),
                None => self.encode(resource, dialect, sds),
            };
            if earlier.is_none_or(|(_, old)| old.version != pair.1.version) {
                changed.push(Arc::clone(&pair.1));
            }
            next.insert(key, pair);
        }
        let gone = published.parts.keys().filter(|key| !next.contains_key(*key));
        let gone: Vec<(Kind, Arc<str>)> = gone.cloned().collect();
        let differs = !changed.is_empty() || !gone.is_empty();
        published.parts = Arc::new(next);
        if differs {
            published.snapshot = Arc::new(published.snapshot.with(changed, gone));
        }
        differs
    }

    /// Puts resources in the place of those that a node has been given; what it has not, it does not get by this. Says
    /// whether anything differs.
    pub(crate) fn patch(
        &mut self,
        published: &mut Published,
        resources: Vec<Arc<Resource>>,
        dialect: Dialect,
        sds: &SdsSource,
    ) -> bool {
        let mut changed = Vec::new();
        for resource in resources {
            let key: (Kind, Arc<str>) = (resource.kind(), resource.name().into());
            let Some((old, encoded)) = published.parts.get(&key) else { continue };
            if Arc::ptr_eq(old, &resource) || *old == resource {
                continue;
            }
            let version = Arc::clone(&encoded.version);
            let pair = self.encode(resource, dialect, sds);
            if pair.1.version != version {
                changed.push(Arc::clone(&pair.1));
            }
            Arc::make_mut(&mut published.parts).insert(key, pair);
        }
        let differs = !changed.is_empty();
        if differs {
            published.snapshot = Arc::new(published.snapshot.with(changed, []));
        }
        differs
    }

    fn encode(&mut self, resource: Arc<Resource>, dialect: Dialect, sds: &SdsSource) -> Pair {
        // A listener with sockets has the node's own ports in it, as names have.
        let is_own = match &*resource {
            Resource::Listener(listener) => listener.bind_to_port,
            Resource::Names(_) => true,
            _ => false,
        };
        if is_own {
            let encoded = Arc::new(encode(&resource, dialect, sds));
            return (resource, encoded);
        }
        let directory = match (sds, resource.kind()) {
            (_, Kind::Endpoints | Kind::Routes) => None,
            (SdsSource::Directory(directory), _) => Some(directory.clone()),
            _ => None,
        };
        let (kind, name) = (resource.kind(), resource.name().into());
        let pairs = self.shared.entry(Shelf { dialect, directory, kind, name }).or_default();
        let same = |(old, _): &&Pair| Arc::ptr_eq(old, &resource) || *old == resource;
        if let Some(pair) = pairs.iter().find(same) {
            return pair.clone();
        }
        pairs.retain(is_used);
        let encoded = Arc::new(encode(&resource, dialect, sds));
        pairs.push((resource, encoded));
        pairs[pairs.len() - 1].clone()
    }

    /// Forgets what no node has any more.
    pub(crate) fn forget_unused(&mut self) {
        for pairs in self.shared.values_mut() {
            pairs.retain(is_used);
        }
        self.shared.retain(|_, pairs| !pairs.is_empty());
    }
}

fn is_used((_, encoded): &Pair) -> bool {
    Arc::strong_count(encoded) > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_model::proxy::{Endpoint, Endpoints};

    fn endpoints(port: u16) -> Arc<Resource> {
        let address = ([127, 0, 0, 1], port).into();
        let endpoints = vec![Endpoint::new(address)];
        Arc::new(Resource::Endpoints(Endpoints::new("c", endpoints)))
    }

    #[test]
    fn what_did_not_change_keeps_its_bytes_and_nodes_share_them() {
        let mut encoder = Encoder::default();
        let (mut a, mut b) = (Published::default(), Published::default());
        let mut publish = |to: &mut Published, port| {
            encoder.publish(to, vec![endpoints(port)], Dialect::Meshwork, &SdsSource::Named)
        };
        let bytes = |of: &Published| Arc::clone(of.snapshot.resource(Kind::Endpoints, "c").expect("there"));
        assert!(publish(&mut a, 1));
        let first = bytes(&a);
        assert!(publish(&mut b, 1));
        assert!(Arc::ptr_eq(&first, &bytes(&b)));
        assert!(!publish(&mut a, 1));
        assert!(publish(&mut a, 2));
        assert!(!Arc::ptr_eq(&first, &bytes(&a)));
        assert!(Arc::ptr_eq(&first, &bytes(&b)));
        drop((a, b, first));
        encoder.forget_unused();
        assert!(encoder.shared.is_empty());
    }

    #[test]
    fn a_patch_changes_what_is_there_and_adds_nothing() {
        let (mut encoder, mut node) = (Encoder::default(), Published::default());
        let named = SdsSource::Named;
        assert!(!encoder.patch(&mut node, vec![endpoints(1)], Dialect::Meshwork, &named));
        assert!(encoder.publish(&mut node, vec![endpoints(1)], Dialect::Meshwork, &named));
        assert!(!encoder.patch(&mut node, vec![endpoints(1)], Dialect::Meshwork, &named));
        assert!(encoder.patch(&mut node, vec![endpoints(2)], Dialect::Meshwork, &named));
        assert!(Published::is(&node.parts(), &[endpoints(2)]));
        assert!(!encoder.publish(&mut node, vec![endpoints(2)], Dialect::Meshwork, &named));
        assert!(encoder.publish(&mut node, Vec::new(), Dialect::Meshwork, &named));
        assert!(node.snapshot.is_empty());
    }
}
