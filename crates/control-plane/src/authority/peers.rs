//! Who follows trust: each stream, what it has acknowledged, and the certificate that its connection showed.
//!
//! A peer opens its stream anew after each renewal of its certificate: under which root it is, is seen, not said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meshwork_model::mesh::Key;
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::grpc::printable;
use tokio::sync::watch;

/// How many versions of trust are told apart; a peer that acknowledges an older one has not acknowledged this one.
const MAX_VERSIONS: usize = 64;
/// How much of a peer's words about a refusal is kept: enough to act on.
const MAX_REFUSAL_BYTES: usize = 512;

/// A stream's number.
pub(super) type Stream = u64;

/// Somebody who follows trust, by one stream.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) workload: Key,
    pub(super) identity: SpiffeId,
    pub(super) serial: String,
    /// The root of the certificate that its connection showed.
    pub(super) root: Option<String>,
    /// The roots of the newest trust that it acknowledged.
    pub(super) trusts: BTreeSet<String>,
    /// Why it refused what came later.
    pub(super) refusal: Option<String>,
    /// Whether it asks for what others register with it.
    is_agent: bool,
    changes: watch::Sender<u64>,
}

/// What is left of one that has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    /// In seconds since 1970.
    pub(super) at: i64,
    pub(super) trusts: BTreeSet<String>,
}

/// Everybody who follows trust, or did.
#[derive(Debug, Default)]
pub(super) struct Peers {
    streams: BTreeMap<Stream, Follower>,
    /// A workload's streams; the newest counts.
    of_workload: BTreeMap<Key, BTreeSet<Stream>>,
    gone: BTreeMap<Key, Gone>,
    last: Stream,
    /// Versions of trust, with the roots in them.
    versions: VecDeque<(String, BTreeSet<String>)>,
}

impl Follower {
    pub(super) fn new(workload: Key, identity: SpiffeId, serial: String, root: Option<String>) -> Self {
        let changes = watch::Sender::new(0);
        let (trusts, refusal) = (BTreeSet::new(), None);
        Self { workload, identity, serial, root, trusts, refusal, is_agent: false, changes }
    }
}

impl Peers {
    /// Lets somebody in; gives the stream's number.
    pub(super) fn admit(&mut self, follower: Follower) -> Stream {
        self.last += 1;
        self.of_workload.entry(follower.workload.clone()).or_default().insert(self.last);
        self.streams.insert(self.last, follower);
        self.last
    }

    /// Where changes are told to a stream. One that was let go is told by the sender's end.
    pub(super) fn changes(&self, stream: Stream) -> watch::Receiver<u64> {
        let follower = self.streams.get(&stream);
        follower.map_or_else(|| watch::Sender::new(0).subscribe(), |follower| follower.changes.subscribe())
    }

    /// Tells every stream that there is something new.
    pub(super) fn tell(&self) {
        for follower in self.streams.values() {
            follower.changes.send_modify(|count| *count += 1);
        }
    }

    /// A stream asks for what others register with it.
    pub(super) fn note_agent(&mut self, stream: Stream) {
        if let Some(follower) = self.streams.get_mut(&stream) {
            follower.is_agent = true;
        }
    }

    /// Tells the streams of agents that there may be something new.
    pub(super) fn tell_agents(&self) {
        for follower in self.streams.values().filter(|follower| follower.is_agent) {
            follower.changes.send_modify(|count| *count += 1);
        }
    }

    /// There is a version of trust with these roots.
    pub(super) fn publish(&mut self, version: &str, roots: BTreeSet<String>) {
        self.versions.retain(|(known, _)| known != version);
        self.versions.push_back((version.to_owned(), roots));
        if self.versions.len() > MAX_VERSIONS {
            self.versions.pop_front();
        }
    }

    /// A stream says that it has a version of trust, or refuses it.
    pub(super) fn acknowledge(&mut self, stream: Stream, version: &str, refusal: Option<&str>) {
        let Some(follower) = self.streams.get_mut(&stream) else { return };
        if let Some(words) = refusal {
            follower.refusal = Some(printable(&words[..words.floor_char_boundary(MAX_REFUSAL_BYTES)]));
            return;
        }
        follower.refusal = None;
        if let Some((_, roots)) = self.versions.iter().find(|(known, _)| known == version) {
            follower.trusts.clone_from(roots);
        }
    }

    /// A stream has ended.
    pub(super) fn end(&mut self, stream: Stream, now: i64) {
        let Some(follower) = self.streams.remove(&stream) else { return };
        let Some(streams) = self.of_workload.get_mut(&follower.workload) else { return };
        streams.remove(&stream);
        if streams.is_empty() {
            self.of_workload.remove(&follower.workload);
        }
        // An older one says less than the newer ones did.
        let gone = Gone { at: now, trusts: follower.trusts };
        self.gone.insert(follower.workload, gone);
    }

    /// Ends the streams of which this is said; gives how many.
    pub(super) fn let_go(&mut self, is_meant: impl Fn(&Follower) -> bool, now: i64) -> usize {
        let meant = self.streams.iter().filter(|(_, follower)| is_meant(follower));
        let meant: Vec<Stream> = meant.map(|(stream, _)| *stream).collect();
        for stream in &meant {
            self.end(*stream, now);
        }
        meant.len()
    }

    /// A workload's newest stream.
    pub(super) fn of(&self, workload: &Key) -> Option<&Follower> {
        self.streams.get(self.of_workload.get(workload)?.last()?)
    }

    /// What is left of a workload that has gone.
    pub(super) fn gone(&self, workload: &Key) -> Option<&Gone> {
        self.gone.get(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(name: &str) -> Follower {
        let id = SpiffeId::workload("mesh.local", "shop", "web").expect("valid");
        Follower::new(Key::new("shop", name), id, "1".to_owned(), Some("a".to_owned()))
    }

    fn roots(roots: &[&str]) -> BTreeSet<String> {
        roots.iter().map(|&root| root.to_owned()).collect()
    }

    #[test]
    fn what_a_stream_acknowledged_is_what_the_version_had() {
        let mut peers = Peers::default();
        peers.publish("v1", roots(&["a"]));
        peers.publish("v2", roots(&["a", "b"]));
        let (stream, web) = (peers.admit(follower("web")), Key::new("shop", "web"));
        let trusts = |peers: &Peers| peers.of(&web).expect("there").trusts.clone();
        assert_eq!(trusts(&peers), roots(&[]));
        peers.acknowledge(stream, "v1", None);
        assert_eq!(trusts(&peers), roots(&["a"]));
        peers.acknowledge(stream, "v2", Some("no\u{1b}[2J"));
        let of = peers.of(&web).expect("there");
        assert_eq!((of.refusal.as_deref(), &of.trusts), (Some("no [2J"), &roots(&["a"])));
        peers.acknowledge(stream, "v2", None);
        assert_eq!(
            (trusts(&peers), peers.of(&web).expect("there").refusal.as_deref()),
            (roots(&["a", "b"]), None)
        );
        // What nobody published says nothing.
        peers.acknowledge(stream, "v9", None);
        assert_eq!(trusts(&peers), roots(&["a", "b"]));
        peers.acknowledge(99, "v1", None);
    }

    #[test]
    fn the_newest_stream_counts_and_its_end_is_remembered() {
        let mut peers = Peers::default();
        peers.publish("v1", roots(&["a"]));
        let web = Key::new("shop", "web");
        let first = peers.admit(follower("web"));
        peers.acknowledge(first, "v1", None);
        let second = peers.admit(follower("web"));
        assert_eq!(peers.of(&web).expect("there").trusts, roots(&[]));
        peers.end(first, 7);
        assert!(peers.of(&web).is_some() && peers.gone(&web).is_some());
        peers.acknowledge(second, "v1", None);
        peers.end(second, 8);
        assert!(peers.of(&web).is_none());
        assert_eq!(peers.gone(&web), Some(&Gone { at: 8, trusts: roots(&["a"]) }));
        peers.end(second, 9);
    }

    #[tokio::test]
    async fn a_stream_that_is_let_go_is_told_by_the_senders_end() {
        let mut peers = Peers::default();
        let (web, cart) = (peers.admit(follower("web")), peers.admit(follower("cart")));
        let (mut of_web, mut of_cart) = (peers.changes(web), peers.changes(cart));
        assert_eq!(peers.let_go(|follower| &*follower.workload.name == "web", 1), 1);
        peers.tell();
        assert!(of_web.changed().await.is_err());
        assert!(of_cart.changed().await.is_ok());
        assert!(peers.changes(web).changed().await.is_err());
    }

    #[test]
    fn old_versions_are_forgotten() {
        let mut peers = Peers::default();
        for i in 0..2 * MAX_VERSIONS {
            peers.publish(&format!("v{i}"), roots(&["a"]));
        }
        assert_eq!(peers.versions.len(), MAX_VERSIONS);
    }
}
