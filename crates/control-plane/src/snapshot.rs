//! Snapshots: a node's resources, encoded.
//!
//! What did not change keeps its bytes, and nodes of one dialect share the bytes of what they share: a cluster of a
//! thousand endpoints that a thousand nodes call is encoded once. Versions are hashes of content (`meshwork_xds`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use meshwork_model::proxy::{Kind, Resource};
use meshwork_xds::{Dialect, Encoded, SdsSource, Snapshot, encode};

type Pair = (Resource, Arc<Encoded>);

/// Encodes for all nodes.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    shared: HashMap<(Dialect, Kind, String), Pair>,
}

/// What a node has been given.
#[derive(Debug, Default)]
pub(crate) struct Published {
    resources: BTreeMap<(Kind, String), Pair>,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Encoder {
    /// Encodes a node's resources; says whether anything differs from what it was given before.
    pub(crate) fn publish(
        &mut self,
        published: &mut Published,
        resources: Vec<Resource>,
        dialect: Dialect,
        sds: &SdsSource,
    ) -> bool {
        let mut next = BTreeMap::new();
        for resource in resources {
            let key = (resource.kind(), resource.name().to_owned());
            let pair = match published.resources.remove(&key) {
                Some(same) if same.0 == resource => same,
                _ => self.encode(resource, dialect, sds),
            };
            next.insert(key, pair);
        }
        let snapshot = Snapshot::new(next.values().map(|(_, encoded)| Arc::clone(encoded)));
        let differs = !same(&published.snapshot, &snapshot);
        published.resources = next;
        if differs {
            published.snapshot = Arc::new(snapshot);
        }
        differs
    }

    fn encode(&mut self, resource: Resource, dialect: Dialect, sds: &SdsSource) -> Pair {
        // A listener with sockets has the node's own ports in it, as names have, and Envoy's resources the node's own
        // directory.
        let has_ports = match &resource {
            Resource::Listener(listener) => listener.bind_to_port,
            Resource::Names(_) => true,
            _ => false,
        };
        let is_own = has_ports || matches!(sds, SdsSource::Directory(_));
        let encode = |resource: Resource| {
            let encoded = Arc::new(encode(&resource, dialect, sds));
            (resource, encoded)
        };
        if is_own {
            return encode(resource);
        }
        let key = (dialect, resource.kind(), resource.name().to_owned());
        match self.shared.get(&key) {
            Some(pair) if pair.0 == resource => pair.clone(),
            _ => {
                let pair = encode(resource);
                self.shared.insert(key, pair.clone());
                pair
            }
        }
    }

    /// Forgets what no node has any more.
    pub(crate) fn forget_unused(&mut self) {
        self.shared.retain(|_, (_, encoded)| Arc::strong_count(encoded) > 1);
    }
}

fn same(a: &Snapshot, b: &Snapshot) -> bool {
    let versions = |snapshot: &Snapshot| -> Vec<(Kind, Arc<str>, Arc<str>)> {
        let of =
            |kind| snapshot.of_kind(kind).map(move |e| (kind, Arc::clone(&e.name), Arc::clone(&e.version)));
        Kind::ALL.into_iter().flat_map(of).collect()
    };
    a.len() == b.len() && versions(a) == versions(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_model::proxy::{Endpoint, Endpoints};

    fn endpoints(port: u16) -> Resource {
        let address = ([127, 0, 0, 1], port).into();
        let endpoints = vec![Endpoint::new(address)];
        Resource::Endpoints(Endpoints::new("c", endpoints))
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
        drop((a, b));
        encoder.forget_unused();
        assert!(encoder.shared.is_empty());
    }
}
