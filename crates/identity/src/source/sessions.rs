//! TLS sessions to resume, forgotten as soon as the certificates that proved them change.
//!
//! A resumed session repeats the peer's proof without checking it again. So a session lives only within one
//! *epoch*: one generation of SVID and bundle, and one hour of the clock at most. A root that is taken out of the
//! bundle is out for resumed sessions, too; a handshake that is under way at that moment may still leave one, for the
//! rest of the hour. [`crate::peer_id`] refuses what has expired meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use rustls_pki_types::ServerName;

use super::IdentitySource;

/// Sessions that a server keeps, about 2 KiB each: enough for a busy service's callers between two of their
/// connections; a session that fell out costs a full handshake, nothing else.
const SERVER_SESSIONS: usize = 1024;
/// Servers whose tickets a client keeps, for one set of expected identities.
const CLIENT_SERVERS: usize = 256;
/// How long a session may be resumed at most: what a peer that lost its right can gain.
const EPOCH_SECONDS: u64 = 3600;

/// What a session's proof depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Epoch {
    generation: u64,
    hour: u64,
}

/// A store that begins anew with each epoch.
struct PerEpoch<S> {
    source: Arc<IdentitySource>,
    current: ArcSwap<(Epoch, Arc<S>)>,
    make: fn() -> Arc<S>,
}

impl<S> PerEpoch<S> {
    fn new(source: Arc<IdentitySource>, make: fn() -> Arc<S>) -> Self {
        let current = ArcSwap::from_pointee((epoch(&source), make()));
        Self { source, current, make }
    }

    fn store(&self) -> Arc<S> {
        let now = epoch(&self.source);
        let current = self.current.load();
        if current.0 == now {
            return current.1.clone();
        }
        // Two threads may do this at once: one of two empty stores is lost.
        let fresh = (self.make)();
        self.current.store(Arc::new((now, fresh.clone())));
        fresh
    }
}

fn epoch(source: &IdentitySource) -> Epoch {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Epoch { generation: source.generation(), hour: since.as_secs() / EPOCH_SECONDS }
}

/// A server's sessions.
pub(super) struct ServerSessions(PerEpoch<ServerSessionMemoryCache>);

impl ServerSessions {
    pub(super) fn new(source: Arc<IdentitySource>) -> Self {
        Self(PerEpoch::new(source, || ServerSessionMemoryCache::new(SERVER_SESSIONS)))
    }
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.store().put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.store().get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.store().take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// A client's sessions.
pub(super) struct ClientSessions(PerEpoch<ClientSessionMemoryCache>);

impl ClientSessions {
    pub(super) fn new(source: Arc<IdentitySource>) -> Self {
        Self(PerEpoch::new(source, || Arc::new(ClientSessionMemoryCache::new(CLIENT_SERVERS))))
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.store().set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.store().kx_hint(server_name)
    }

    // TLS 1.2 is not spoken: nothing to keep.

    fn set_tls12_session(&self, _server_name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.store().insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.store().take_tls13_ticket(server_name)
    }
}

impl fmt::Debug for ServerSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSessions")
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSessions")
    }
}
