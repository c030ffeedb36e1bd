//! One proxy: what it was given, and what it said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::Key;
use meshwork_model::proxy::Kind;
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::grpc::{Stream, printable};
use meshwork_xds::server::Event;
use meshwork_xds::{Dialect, SdsSource, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::claims::Claims;
use crate::snapshot::Published;
use crate::translate::ClusterId;

/// The most names that a proxyless client may ask for; a program calls fewer services.
const MAX_WANTED: usize = 1024;
/// The most refusals that are kept of one proxy; more would only repeat them.
const MAX_REFUSED: usize = 100;
/// How much of a proxy's words about a refusal is kept: enough to act on.
const MAX_REASON_BYTES: usize = 2048;
/// The longest name that it may ask for or refuse, and of itself: a resource's has a host's name, of 253 bytes, and more.
const MAX_NAME_BYTES: usize = 1024;

/// A connected proxy, or one that was until a moment ago.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) stream: u64,
    pub(crate) connected: bool,
    pub(crate) identity: SpiffeId,
    pub(crate) user_agent: String,
    pub(crate) dialect: Dialect,
    pub(crate) sds: SdsSource,
    pub(crate) wanted: BTreeSet<String>,
    pub(crate) published: Published,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) acknowledged: BTreeMap<(Kind, Arc<str>), Arc<str>>,
    /// Why, by kind and name; without a name where it refused a whole response.
    pub(crate) refused: BTreeMap<(Kind, String), String>,
    /// The clusters of services that it has.
    pub(super) clusters: BTreeSet<ClusterId>,
    /// The services that it uses, or looks for in vain.
    pub(super) services: BTreeSet<Key>,
    /// While it has not accepted all that it was given: since when, and the newest revision of config before.
    pub(super) behind: Option<(Instant, u64)>,
}

impl Proxy {
    pub(crate) fn new(stream: &Stream, claims: Claims) -> Self {
        Self {
            stream: stream.number,
            connected: true,
            identity: stream.peer.clone(),
            user_agent: words(&stream.node.user_agent, MAX_NAME_BYTES),
            dialect: claims.dialect,
            sds: claims.sds,
            wanted: BTreeSet::new(),
            published: Published::default(),
            snapshots: watch::Sender::new(Arc::default()),
            acknowledged: BTreeMap::new(),
            refused: BTreeMap::new(),
            clusters: BTreeSet::new(),
            services: BTreeSet::new(),
            behind: Some((Instant::now(), 0)),
        }
    }

    /// Notes names of listeners that it asks for; says whether there is a new one.
    pub(crate) fn want(&mut self, names: &[String]) -> bool {
        let before = self.wanted.len();
        for name in names {
            if self.wanted.len() < MAX_WANTED && name.len() <= MAX_NAME_BYTES && name != "*" {
                self.wanted.insert(name.clone());
            }
        }
        self.wanted.len() > before
    }

    /// Hands over what was published; `revision` is the newest whose config all proxies had been given before.
    pub(super) fn hand_over(&mut self, revision: u64) {
        let snapshot = Arc::clone(&self.published.snapshot);
        // Of what it asks for by name nobody says that it is dropped.
        self.acknowledged
            .retain(|(kind, name), _| is_told(*kind) || snapshot.resource(*kind, name).is_some());
        self.snapshots.send_replace(snapshot);
        self.behind.get_or_insert((Instant::now(), revision));
        self.settle();
    }

    /// Notes what it says of what it was given.
    pub(crate) fn report(&mut self, event: Event) {
        match event {
            Event::Accepted { kind, versions, removed } => {
                for (name, version) in versions {
                    self.refused.remove(&(kind, name.to_string()));
                    self.acknowledged.insert((kind, name), version);
                }
                for name in removed {
                    self.refused.remove(&(kind, name.clone()));
                    self.acknowledged.remove(&(kind, name.as_str().into()));
                }
                // A refusal without a name was of the whole response, which is now accepted.
                self.refused.remove(&(kind, String::new()));
            }
            Event::Refused { kind, message, rejections } => {
                if rejections.is_empty() {
                    self.refuse(kind, "", &message);
                }
                for rejection in rejections {
                    self.refuse(rejection.kind, &rejection.name, &rejection.why);
                }
            }
        }
        self.settle();
    }

    fn refuse(&mut self, kind: Kind, name: &str, why: &str) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert((kind, words(name, MAX_NAME_BYTES)), words(why, MAX_REASON_BYTES));
        }
    }

    /// Notes where it has accepted all that it was given.
    pub(super) fn settle(&mut self) {
        if self.behind.is_some() && self.has_accepted_all() {
            self.behind = None;
        }
    }

    /// Whether it has acknowledged everything that it was given, and refuses nothing.
    pub(crate) fn is_current(&self) -> bool {
        self.connected && self.has_accepted_all()
    }

    /// A proxyless client acknowledges only what it asked for.
    fn has_accepted_all(&self) -> bool {
        let snapshot = &self.published.snapshot;
        let is_grpc = self.dialect == Dialect::Grpc;
        let has = |kind, name: &Arc<str>, version: &Arc<str>| {
            let acknowledged = self.acknowledged.get(&(kind, Arc::clone(name)));
            acknowledged.map_or(is_grpc, |acknowledged| acknowledged == version)
        };
        let all = |kind: &Kind| {
            snapshot.of_kind(*kind).all(|resource| has(*kind, &resource.name, &resource.version))
        };
        let gone =
            |(kind, name): &(Kind, Arc<str>)| is_told(*kind) && snapshot.resource(*kind, name).is_none();
        self.refused.is_empty()
            && Kind::ALL.iter().all(all)
            && (is_grpc || !self.acknowledged.keys().any(gone))
    }

    /// One version for all that it was given, 16 hexadecimal digits.
    pub(crate) fn version(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for kind in Kind::ALL {
            for encoded in self.published.snapshot.of_kind(kind) {
                hash.update(encoded.name.as_bytes());
                hash.update(encoded.version.as_bytes());
            }
        }
        crate::store::hex(&hash.finalize()[..8])
    }
}

/// As much of a proxy's words as is kept, for others to read: they move no cursor on a terminal.
pub(super) fn words(text: &str, most: usize) -> String {
    printable(&text[..text.floor_char_boundary(most)])
}

/// Whether a client says that it has dropped what it is told is gone: it does where it asks for all of a kind.
fn is_told(kind: Kind) -> bool {
    matches!(kind, Kind::Cluster | Kind::Listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_xds::{Node, Rejection};
    use serde_json::json;

    #[test]
    fn what_a_proxy_says_is_bounded_and_moves_no_cursor() {
        let peer = SpiffeId::workload("mesh.local", "shop", "web").expect("valid");
        let user_agent = format!("\u{1b}[2J{}", "a".repeat(2 * MAX_NAME_BYTES));
        let node = Node { user_agent, metadata: json!({"NAME": "web", "SDS_DIR": "/x"}), ..Node::default() };
        let stream = Stream { number: 1, peer: peer.clone(), node };
        let claims = Claims::read(&peer, &stream.node).expect("valid");
        let mut proxy = Proxy::new(&stream, claims);
        assert!(proxy.user_agent.starts_with(" [2J") && proxy.user_agent.len() == MAX_NAME_BYTES);
        let long = "\u{7}".repeat(MAX_REASON_BYTES + 1);
        assert!(!proxy.want(std::slice::from_ref(&long)) && proxy.want(&["cart:80".to_owned()]));
        let rejection = Rejection { kind: Kind::Cluster, name: long.clone(), why: long };
        proxy.report(Event::Refused {
            kind: Kind::Cluster,
            message: String::new(),
            rejections: vec![rejection],
        });
        let lengths: Vec<_> = proxy.refused.iter().map(|((_, name), why)| (name.len(), why.len())).collect();
        assert_eq!(lengths, [(MAX_NAME_BYTES, MAX_REASON_BYTES)]);
        assert!(proxy.refused.values().all(|why| why.trim().is_empty()));
    }
}
