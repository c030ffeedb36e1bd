//! How far each proxy is behind the mesh's config.

use std::time::Duration;

use meshwork_model::mesh::Key;
use meshwork_xds::Dialect;
use tokio::time::Instant;

use super::{Proxy, World};

/// How far a proxy is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) stage: Stage,
    /// The newest revision of config whose translation for it it has accepted.
    pub(crate) revision: u64,
    /// For how long it has not had all that there is.
    pub(crate) stale: Duration,
}

/// What is known of what a proxy does with its config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It runs it: our own proxies acknowledge what they have put in place.
    Applied,
    /// It has taken it; whether it runs it already is not known of Envoy and gRPC.
    Acknowledged,
    /// It has not said anything of the newest yet.
    Pending,
    /// It refuses some of it, and runs the last good version of that.
    Refused,
    /// It has no stream; it runs what it had last.
    Disconnected,
}

impl Stage {
    /// The stage in a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Acknowledged => "acknowledged",
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
        }
    }

    fn of(proxy: &Proxy) -> Self {
        match (proxy.connected, proxy.refused.is_empty(), proxy.behind) {
            (false, ..) => Self::Disconnected,
            (true, false, _) => Self::Refused,
            (true, true, Some(_)) => Self::Pending,
            (true, true, None) if proxy.dialect == Dialect::Meshwork => Self::Applied,
            (true, true, None) => Self::Acknowledged,
        }
    }
}

impl World {
    /// Lets `read` look at how far every proxy is that is or was just connected.
    pub(crate) fn statuses<T>(&self, read: impl Fn(&Key, &Proxy, Status) -> T) -> Vec<T> {
        let now = Instant::now();
        let state = self.lock();
        let status = |proxy: &Proxy| Status {
            stage: Stage::of(proxy),
            revision: proxy.behind.map_or(state.given, |(_, revision)| revision),
            stale: proxy.behind.map_or(Duration::ZERO, |(since, _)| now - since),
        };
        state.proxies.iter().map(|(key, proxy)| read(key, proxy, status(proxy))).collect()
    }
}
