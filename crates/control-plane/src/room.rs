//! Room for connections, shared out fairly: whoever holds most of it gives way first.
//!
//! A port's limit alone would let one peer lock all others out, by filling it. So each place is held by somebody: an
//! address, or an identity. Where all are taken, the newcomer gets the oldest place of whoever holds most, at once where
//! that is more than its own, and else once that has had its time: honest peers need a moment where hostile ones stay.
//! A newcomer is refused only where its own kin has filled the room within that time.
//!
//! [`Rooms`] has all of a control plane, and what metrics tell of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshwork_identity::SpiffeId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use crate::limits::{
    ANONYMOUS, API_CONNECTIONS, API_KNOWN_CONNECTIONS, API_PATIENCE, BUNDLE_CONNECTIONS, HANDSHAKES, PROVEN,
    PROVEN_PATIENCE, TELL_EVERY, UNPROVEN_PATIENCE,
};

/// Who holds places without having proven anything: an address of IPv4, or a network of IPv6 (/64), of which one host
/// has all addresses. Loopback is one.
pub(crate) type Source = IpAddr;

/// All rooms of a control plane.
pub(crate) struct Rooms {
    /// TLS handshakes on the mTLS port.
    pub(crate) handshakes: Arc<Room<Source>>,
    /// Connections on it without a client certificate.
    pub(crate) anonymous: Arc<Room<Source>>,
    /// Those with one.
    pub(crate) proven: Arc<Room<SpiffeId>>,
    /// Connections of the API by TCP, until a request has shown a token.
    pub(crate) api: Arc<Room<Source>>,
    /// Those after.
    pub(crate) api_known: Arc<Room<Arc<str>>>,
    /// Connections of the API by the Unix socket.
    pub(crate) api_socket: Arc<Room<u32>>,
    /// Connections of the bundle endpoint.
    pub(crate) bundle: Arc<Room<Source>>,
    /// Connections that were ended because they took too long, or sent too much.
    overdue: AtomicU64,
}

/// Room for some connections.
pub(crate) struct Room<K> {
    /// What is in it, for the log.
    what: &'static str,
    most: usize,
    /// How long a place is left alone where nobody holds more than the newcomer.
    patience: Duration,
    held: Mutex<Held<K>>,
}

/// A connection's place, until this is dropped.
pub(crate) struct Place<K: Eq + Hash> {
    room: Arc<Room<K>>,
    by: K,
    number: u64,
    leave: Arc<Notify>,
}

/// What metrics tell of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Places that are taken.
    pub(crate) held: u64,
    /// Connections that were ended for others.
    pub(crate) displaced: u64,
    /// Connections that were closed as they came.
    pub(crate) refused: u64,
}

struct Held<K> {
    /// By who holds it, the oldest first; nobody has none.
    places: HashMap<K, BTreeMap<u64, Taken>>,
    count: usize,
    /// Numbers grow with time.
    next: u64,
    displaced: u64,
    refused: u64,
    told: Option<Instant>,
    untold: u64,
}

struct Taken {
    since: Instant,
    leave: Arc<Notify>,
}

/// The source that an address belongs to.
pub(crate) fn source(address: SocketAddr) -> Source {
    match address.ip().to_canonical() {
        ip if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        IpAddr::V4(ip) => ip.into(),
    }
}

// === impl Rooms ===

impl Rooms {
    /// Empty ones.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            handshakes: Room::new("TLS handshakes", HANDSHAKES, UNPROVEN_PATIENCE),
            anonymous: Room::new("connections without a certificate", ANONYMOUS, UNPROVEN_PATIENCE),
            proven: Room::new("connections of proven identities", PROVEN, PROVEN_PATIENCE),
            api: Room::new("connections of the API", API_CONNECTIONS, API_PATIENCE),
            api_known: Room::new("connections of the API with a token", API_KNOWN_CONNECTIONS, API_PATIENCE),
            api_socket: Room::new("connections of the API's socket", API_CONNECTIONS, API_PATIENCE),
            bundle: Room::new("connections of the bundle endpoint", BUNDLE_CONNECTIONS, UNPROVEN_PATIENCE),
            overdue: AtomicU64::new(0),
        })
    }

    /// Counts a connection that took too long, or sent too much.
    pub(crate) fn note_overdue(&self) {
        self.overdue.fetch_add(1, Relaxed);
    }

    /// Has somebody who has proven nothing give a descriptor back; `false` where nobody can.
    pub(crate) fn shed(&self) -> bool {
        self.anonymous.shed() || self.handshakes.shed() || self.bundle.shed() || self.api.shed()
    }

    /// Name, kind, value and meaning of each metric.
    pub(crate) fn metrics(&self) -> [(&'static str, &'static str, u64, &'static str); 7] {
        let (handshakes, anonymous, proven) =
            (self.handshakes.counts(), self.anonymous.counts(), self.proven.counts());
        let api = [self.api.counts(), self.api_known.counts(), self.api_socket.counts()];
        let bundle = self.bundle.counts();
        let all = || api.iter().chain([&handshakes, &anonymous, &proven, &bundle]);
        let displaced = all().map(|counts| counts.displaced).sum();
        let refused = all().map(|counts| counts.refused).sum();
        let asking = api.iter().map(|counts| counts.held).sum();
        [
            ("connections_handshaking", "gauge", handshakes.held, "TLS handshakes on the mTLS port."),
            (
                "connections_anonymous",
                "gauge",
                anonymous.held,
                "Connections on the mTLS port without a client certificate.",
            ),
            ("connections_proven", "gauge", proven.held, "Those with one."),
            ("connections_api", "gauge", asking, "Connections of the API, by TCP and by its socket."),
            (
                "connections_refused_total",
                "counter",
                refused,
                "Connections that were closed as they came: their own address or identity had filled the room.",
            ),
            (
                "connections_displaced_total",
                "counter",
                displaced,
                "Connections that were ended for others: whoever holds most gives way.",
            ),
            (
                "connections_overdue_total",
                "counter",
                self.overdue.load(Relaxed),
                "Connections that were ended because they took too long, or sent too much.",
            ),
        ]
    }
}

// === impl Room ===

impl<K> Room<K> {
    fn held(&self) -> MutexGuard<'_, Held<K>> {
        // Nothing that is done while holding it panics halfway.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What metrics tell of it.
    pub(crate) fn counts(&self) -> Counts {
        let held = self.held();
        Counts { held: held.count as u64, displaced: held.displaced, refused: held.refused }
    }
}

impl<K: Clone + Display + Eq + Hash> Room<K> {
    pub(crate) fn new(what: &'static str, most: usize, patience: Duration) -> Arc<Self> {
        let held = Held {
            places: HashMap::new(),
            count: 0,
            next: 0,
            displaced: 0,
            refused: 0,
            told: None,
            untold: 0,
        };
        Arc::new(Self { what, most, patience, held: Mutex::new(held) })
    }

    /// Takes a place; `None` where there is none, and nobody who has to give one up.
    pub(crate) fn enter(self: &Arc<Self>, by: K) -> Option<Place<K>> {
        let now = Instant::now();
        let leave = Arc::new(Notify::new());
        let mut held = self.held();
        let is_full = held.count >= self.most;
        let entered = !is_full || held.displace(Some(&by), self.patience, now);
        let number = held.next;
        if entered {
            held.next += 1;
            held.count += 1;
            let taken = Taken { since: now, leave: Arc::clone(&leave) };
            held.places.entry(by.clone()).or_default().insert(number, taken);
        } else {
            held.refused += 1;
        }
        let news = if is_full { held.tell(now) } else { None };
        drop(held);
        if let Some((most_by, of, untold)) = news {
            let (what, most) = (self.what, self.most);
            warn!(most, untold, "no room for more {what}: connections are ended; {of} are of {most_by}");
        }
        entered.then(|| Place { room: Arc::clone(self), by, number, leave })
    }

    /// Has one leave, the oldest of whoever holds most; `false` where there is none.
    fn shed(&self) -> bool {
        self.held().displace(None, Duration::ZERO, Instant::now())
    }
}

// === impl Held ===

impl<K: Clone + Display + Eq + Hash> Held<K> {
    /// Ends a connection in favour of another one; `false` where there is none that has to go.
    fn displace(&mut self, by: Option<&K>, patience: Duration, now: Instant) -> bool {
        let own = by.and_then(|by| self.places.get(by)).map_or(0, BTreeMap::len);
        let Some((most_by, most)) = self.most() else { return false };
        let (victim, patience) = if most > own + 1 {
            (most_by, Duration::ZERO)
        } else {
            (by.filter(|_| own > 0).cloned().unwrap_or(most_by), patience)
        };
        let Some((number, oldest)) = self.places.get(&victim).and_then(BTreeMap::first_key_value) else {
            return false;
        };
        if now.saturating_duration_since(oldest.since) < patience {
            return false;
        }
        oldest.leave.notify_one();
        let number = *number;
        self.leave(&victim, number);
        self.displaced += 1;
        true
    }

    /// Who holds most, of several the one with the oldest place, and how much.
    fn most(&self) -> Option<(K, usize)> {
        let most = self.places.iter().max_by_key(|(_, places)| (places.len(), Reverse(places.keys().next())));
        most.map(|(by, places)| (by.clone(), places.len()))
    }

    /// Whether the log tells of what happened: who holds most, how much, and how often it was not told before.
    fn tell(&mut self, now: Instant) -> Option<(K, usize, u64)> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        let (by, of) = self.most()?;
        Some((by, of, std::mem::take(&mut self.untold)))
    }
}

impl<K: Eq + Hash> Held<K> {
    /// Gives a place back, if it was not taken away already.
    fn leave(&mut self, by: &K, number: u64) {
        let Some(places) = self.places.get_mut(by) else { return };
        if places.remove(&number).is_some() {
            self.count -= 1;
        }
        if places.is_empty() {
            self.places.remove(by);
        }
    }
}

// === impl Place ===

impl<K: Eq + Hash> Place<K> {
    /// Completes when the connection has to go.
    ///
    /// # Cancel safety
    /// It can be waited for again.
    pub(crate) async fn displaced(&self) {
        self.leave.notified().await;
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.room.held().leave(&self.by, self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn room(most: usize) -> Arc<Room<char>> {
        Room::new("tests", most, PATIENCE)
    }

    /// Whether a place has been taken away.
    async fn is_over(place: &Place<char>) -> bool {
        tokio::time::timeout(Duration::ZERO, place.displaced()).await.is_ok()
    }

    fn fill(room: &Arc<Room<char>>, by: char, places: usize) -> Vec<Place<char>> {
        (0..places).map_while(|_| room.enter(by)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_most_gives_way_at_once() {
        let room = room(4);
        let hostile = fill(&room, 'h', 100);
        assert_eq!(hostile.len(), 4, "one of its own kin waits for its time");
        let first = room.enter('a').expect("a place");
        assert!(is_over(&hostile[0]).await && !is_over(&hostile[1]).await, "the oldest goes");
        let second = room.enter('a').expect("a place");
        assert!(is_over(&hostile[1]).await);
        // Now both hold the same.
        assert!(room.enter('h').is_none() && room.enter('a').is_none());
        let third = room.enter('b').expect("a place");
        assert!(is_over(&first).await || is_over(&hostile[2]).await);
        assert!(!is_over(&second).await && !is_over(&third).await);
        assert_eq!(room.counts(), Counts { held: 4, displaced: 3, refused: 3 });
        drop((hostile, first, second, third));
        assert_eq!(room.counts().held, 0);
        assert!(room.held().places.is_empty(), "who holds none takes no memory");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_gives_way_to_who_comes() {
        let room = room(4);
        let idle = fill(&room, 'h', 4);
        assert!(room.enter('h').is_none());
        advance(PATIENCE).await;
        let honest = fill(&room, 'h', 4);
        assert_eq!(honest.len(), 4, "from the same address, but they do not stay");
        for place in &idle {
            assert!(is_over(place).await);
        }
        drop(honest);
        assert_eq!(room.counts(), Counts { held: 0, displaced: 4, refused: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_with_one_place_each_the_oldest_gives_way_in_time() {
        let room = room(3);
        let mut places = Vec::new();
        for by in ['a', 'b', 'c'] {
            places.push(room.enter(by).expect("a place"));
            advance(PATIENCE / 4).await;
        }
        assert!(room.enter('d').is_none());
        advance(PATIENCE / 4).await;
        places.push(room.enter('d').expect("a place"));
        assert!(is_over(&places[0]).await && !is_over(&places[1]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_back_is_free_at_once() {
        let room = room(1);
        for _ in 0..3 {
            drop(room.enter('a').expect("a place"));
        }
        let place = room.enter('a').expect("a place");
        assert!(room.shed() && is_over(&place).await && !room.shed());
        drop(place);
        assert_eq!(room.counts(), Counts { held: 0, displaced: 1, refused: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_told_of_once() {
        let room = room(1);
        let _place = room.enter('a').expect("a place");
        let mut held = room.held();
        assert_eq!(held.tell(Instant::now()), Some(('a', 1, 0)));
        for _ in 0..7 {
            assert_eq!(held.tell(Instant::now()), None);
        }
        assert_eq!(held.tell(Instant::now() + TELL_EVERY), Some(('a', 1, 7)));
    }

    #[test]
    fn a_source_is_what_one_host_has() {
        let check = |address: &str, expected: &str| {
            let address = address.parse().expect("an address");
            assert_eq!(source(SocketAddr::new(address, 1)), expected.parse::<IpAddr>().expect("an address"));
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("127.0.0.1", "127.0.0.1");
        check("127.9.8.7", "127.0.0.1");
        check("::1", "127.0.0.1");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("2001:db8:1:2::", "2001:db8:1:2::");
    }
}
