//! Encoded resources, and sets of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use meshwork_model::proxy::{Kind, Resource};

/// A resource as protobuf bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// Hash of its content, 16 hexadecimal digits: equal contents have equal versions.
    pub version: Arc<str>,
    /// The message, as in the value of a `google.protobuf.Any` whose type is [`Encoded::type_url`].
    pub bytes: Bytes,
}

/// All that one client may read. Immutable; made anew on every change, sharing what did not change.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    resources: BTreeMap<Kind, BTreeMap<Arc<str>, Arc<Encoded>>>,
}

/// What a response changes, for the data plane to apply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// New resources, and new versions of known ones.
    pub upserts: Vec<Resource>,
    /// Resources that are gone.
    pub removed: Vec<(Kind, String)>,
    /// The versions of the upserts, by kind and name.
    pub versions: BTreeMap<(Kind, String), String>,
    /// Their messages as they came.
    pub bytes: BTreeMap<(Kind, String), Raw>,
    /// What came and could not be read, for whoever shows what runs.
    pub unreadable: Vec<Rejection>,
}

/// A message as it came. It may hold keys, so its `Debug` shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A resource that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What it is.
    pub kind: Kind,
    /// Its name; empty where it could not be read.
    pub name: String,
    /// Why, with the field: `filter_chains[0].filters[0]: …`.
    pub why: String,
}

/// The type URL of a kind's message.
pub fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
        Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    }
}

/// The kind whose messages have this type URL.
pub fn kind_of_type_url(url: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| type_url(*kind) == url)
}

impl Encoded {
    /// The type URL of the message.
    pub fn type_url(&self) -> &'static str {
        type_url(self.kind)
    }
}

impl Update {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removed.is_empty() && self.unreadable.is_empty()
    }
}

impl Snapshot {
    /// Makes a snapshot; of two resources with the same kind and name the later one stays.
    pub fn new(resources: impl IntoIterator<Item = Arc<Encoded>>) -> Self {
        let mut snapshot = Self::default();
        for resource in resources {
            snapshot.resources.entry(resource.kind).or_default().insert(Arc::clone(&resource.name), resource);
        }
        snapshot
    }

    /// The resource of this kind and name.
    pub fn resource(&self, kind: Kind, name: &str) -> Option<&Arc<Encoded>> {
        self.resources.get(&kind)?.get(name)
    }

    /// All resources of a kind, by name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Encoded>> {
        self.resources.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a kind is called in messages.
pub(crate) fn name_of_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "Cluster",
        Kind::Endpoints => "ClusterLoadAssignment",
        Kind::Listener => "Listener",
        Kind::Routes => "RouteConfiguration",
        Kind::Secret => "Secret",
    }
}
