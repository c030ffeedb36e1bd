//! Encoded resources, and sets of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// A kind of which nothing changed is shared with the snapshot before.
    sets: BTreeMap<Kind, Arc<Set>>,
}

/// The resources of one kind in a snapshot, and what of them differs from the set that it was made of.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Tells sets apart; 0 is the empty one.
    generation: u64,
    /// The generation of the set that it was made of; 0 for none.
    before: u64,
    /// The names in which the two differ.
    changed: Vec<Arc<str>>,
    resources: BTreeMap<Arc<str>, Arc<Encoded>>,
}

/// The generation of the next set.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);
/// The set of a kind that has no resource.
static NOTHING: Set = Set { generation: 0, before: 0, changed: Vec::new(), resources: BTreeMap::new() };

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

impl Set {
    /// Tells sets apart: two with the same number are the same.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The names in which it may differ from the set of that generation; `None` where that is not known.
    pub(crate) fn changed_since(&self, generation: u64) -> Option<&[Arc<str>]> {
        (self.before == generation && generation != 0).then_some(&self.changed)
    }

    /// The resources by name.
    pub(crate) fn resources(&self) -> &BTreeMap<Arc<str>, Arc<Encoded>> {
        &self.resources
    }

    fn of(resources: BTreeMap<Arc<str>, Arc<Encoded>>) -> Self {
        Self { resources, generation: next_generation(), ..Self::default() }
    }

    /// With changes, `None` of a name standing for that it goes; nothing where none of them changes anything.
    fn with(&self, changes: BTreeMap<Arc<str>, Option<Arc<Encoded>>>) -> Option<Self> {
        let is_change = |name: &Arc<str>, new: &Option<Arc<Encoded>>| {
            let version = |resource: &Arc<Encoded>| Arc::clone(&resource.version);
            self.resources.get(name).map(version) != new.as_ref().map(version)
        };
        let changes: Vec<_> = changes.into_iter().filter(|(name, new)| is_change(name, new)).collect();
        if changes.is_empty() {
            return None;
        }
        let mut resources = self.resources.clone();
        let mut changed = Vec::with_capacity(changes.len());
        for (name, new) in changes {
            changed.push(Arc::clone(&name));
            match new {
                Some(new) => resources.insert(name, new),
                None => resources.remove(&name),
            };
        }
        Some(Self { generation: next_generation(), before: self.generation, changed, resources })
    }
}

fn next_generation() -> u64 {
    GENERATIONS.fetch_add(1, Ordering::Relaxed)
}

impl Snapshot {
    /// Makes a snapshot; of two resources with the same kind and name the later one stays.
    pub fn new(resources: impl IntoIterator<Item = Arc<Encoded>>) -> Self {
        let mut kinds: BTreeMap<Kind, BTreeMap<Arc<str>, Arc<Encoded>>> = BTreeMap::new();
        for resource in resources {
            kinds.entry(resource.kind).or_default().insert(Arc::clone(&resource.name), resource);
        }
        Self {
            sets: kinds.into_iter().map(|(kind, resources)| (kind, Arc::new(Set::of(resources)))).collect(),
        }
    }

    /// The snapshot with some resources put in or replaced, and some gone. A kind in which no version changes is shared
    /// with this one; of the others, what a session has to look at is what is given here.
    #[must_use]
    pub fn with(
        &self,
        upserts: impl IntoIterator<Item = Arc<Encoded>>,
        removed: impl IntoIterator<Item = (Kind, Arc<str>)>,
    ) -> Self {
        let mut changes: BTreeMap<Kind, BTreeMap<Arc<str>, Option<Arc<Encoded>>>> = BTreeMap::new();
        for (kind, name) in removed {
            changes.entry(kind).or_default().insert(name, None);
        }
        for resource in upserts {
            let of_kind = changes.entry(resource.kind).or_default();
            of_kind.insert(Arc::clone(&resource.name), Some(resource));
        }
        let mut snapshot = self.clone();
        for (kind, changes) in changes {
            if let Some(set) = self.set(kind).with(changes) {
                snapshot.sets.insert(kind, Arc::new(set));
            }
        }
        snapshot
    }

    /// Whether two snapshots are known to be the same without a look at their resources: one was made of the other, or
    /// both of a third, and nothing changed.
    pub fn shares_all(&self, other: &Self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.set(kind).generation == other.set(kind).generation)
    }

    /// The resources of a kind.
    pub(crate) fn set(&self, kind: Kind) -> &Set {
        self.sets.get(&kind).map_or(&NOTHING, |set| set)
    }

    /// The resource of this kind and name.
    pub fn resource(&self, kind: Kind, name: &str) -> Option<&Arc<Encoded>> {
        self.set(kind).resources.get(name)
    }

    /// All resources of a kind, by name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Encoded>> {
        self.set(kind).resources.values()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.sets.values().map(|set| set.resources.len()).sum()
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
