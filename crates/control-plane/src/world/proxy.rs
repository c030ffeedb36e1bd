//! One proxy: what it was given, and what it said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::proxy::Kind;
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::grpc::Stream;
use meshwork_xds::server::Event;
use meshwork_xds::{Dialect, SdsSource, Snapshot};
use tokio::sync::watch;

use crate::claims::Claims;
use crate::snapshot::Published;

/// The most names that a proxyless client may ask for; a program calls fewer services.
const MAX_WANTED: usize = 1024;
/// The most refusals that are kept of one proxy; more would only repeat them.
const MAX_REFUSED: usize = 100;
/// How much of a proxy's words about a refusal is kept: enough to act on.
const MAX_REASON_BYTES: usize = 2048;

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
}

impl Proxy {
    pub(crate) fn new(stream: &Stream, claims: Claims) -> Self {
        Self {
            stream: stream.number,
            connected: true,
            identity: stream.peer.clone(),
            user_agent: stream.node.user_agent.clone(),
            dialect: claims.dialect,
            sds: claims.sds,
            wanted: BTreeSet::new(),
            published: Published::default(),
            snapshots: watch::Sender::new(Arc::default()),
            acknowledged: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Notes names of listeners that it asks for; says whether there is a new one.
    pub(crate) fn want(&mut self, names: &[String]) -> bool {
        let before = self.wanted.len();
        for name in names {
            if self.wanted.len() < MAX_WANTED && name != "*" {
                self.wanted.insert(name.clone());
            }
        }
        self.wanted.len() > before
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
                    self.refuse(kind, String::new(), message);
                }
                for rejection in rejections {
                    self.refuse(rejection.kind, rejection.name, rejection.why);
                }
            }
        }
    }

    fn refuse(&mut self, kind: Kind, name: String, mut why: String) {
        why.truncate(why.floor_char_boundary(MAX_REASON_BYTES));
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert((kind, name), why);
        }
    }

    /// Whether it has acknowledged everything that it was given, and refuses nothing.
    ///
    /// A proxyless client acknowledges only what it asked for.
    pub(crate) fn is_current(&self) -> bool {
        let has = |kind, name: &Arc<str>, version: &Arc<str>| {
            self.acknowledged.get(&(kind, Arc::clone(name))) == Some(version)
        };
        let all = || {
            Kind::ALL
                .into_iter()
                .all(|kind| self.published.snapshot.of_kind(kind).all(|e| has(kind, &e.name, &e.version)))
        };
        self.connected && self.refused.is_empty() && (self.dialect == Dialect::Grpc || all())
    }

    /// One version for all that it was given, 16 hexadecimal digits.
    pub(crate) fn version(&self) -> String {
        use sha2::{Digest, Sha256};
        use std::fmt::Write as _;
        let mut hash = Sha256::new();
        for kind in Kind::ALL {
            for encoded in self.published.snapshot.of_kind(kind) {
                hash.update(encoded.name.as_bytes());
                hash.update(encoded.version.as_bytes());
            }
        }
        let mut text = String::new();
        for byte in hash.finalize().iter().take(8) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}
