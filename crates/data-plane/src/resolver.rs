//! The addresses of hosts that clusters name, looked up again and again off the request path.
//!
//! Lookups are the system's (`getaddrinfo`), which blocks and says nothing of how long an answer may be kept. So they
//! have a small runtime of their own, that exists from the first such cluster on, and a fixed pace. What is known stays
//! until something better is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use meshwork_model::address::is_virtual;
use meshwork_model::proxy::{DnsHost, Endpoint};
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::config::EndpointSet;
use crate::destination;
use crate::limits::{
    DNS_ADDRESSES, DNS_FAILURES_APART, DNS_FAILURES_APART_MOST, DNS_LOOKUP, DNS_LOOKUPS, DNS_REFRESH,
};

/// Looks names up for the clusters of a proxy.
pub(crate) struct Resolver {
    runtime: Option<Runtime>,
    lookups: Arc<Semaphore>,
    /// Whether answers are held to what a workload may be taken to.
    is_guarded: bool,
}

/// A host whose addresses are kept fresh until this is dropped.
pub(crate) struct Followed {
    /// The host.
    pub(crate) host: DnsHost,
    /// Its addresses; none until the first answer.
    pub(crate) endpoints: Arc<ArcSwap<EndpointSet>>,
    task: AbortHandle,
}

impl Resolver {
    /// One that follows nobody yet. A guarded one believes no answer that leads to the host itself.
    pub(crate) fn new(is_guarded: bool) -> Self {
        Self { runtime: None, lookups: Arc::new(Semaphore::new(DNS_LOOKUPS)), is_guarded }
    }

    /// Looks a host up now, and from now on.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(crate) fn follow(&mut self, host: &DnsHost) -> io::Result<Followed> {
        let runtime = match &mut self.runtime {
            Some(runtime) => runtime,
            none => none.insert(start()?),
        };
        let endpoints = Arc::new(ArcSwap::default());
        let follower = Follower {
            host: host.clone(),
            endpoints: Arc::clone(&endpoints),
            lookups: Arc::clone(&self.lookups),
            is_guarded: self.is_guarded,
        };
        let look_up =
            async |host: DnsHost| Ok(tokio::net::lookup_host((&*host.host, host.port)).await?.collect());
        let task = runtime.spawn(follower.run(move |host| Box::pin(look_up(host)))).abort_handle();
        Ok(Followed { host: host.clone(), endpoints, task })
    }
}

fn start() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(DNS_LOOKUPS)
        .thread_name("names")
        .enable_time()
        .build()
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A lookup that hangs is nobody's business any more.
            runtime.shutdown_background();
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === following ===

type Lookup = std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

struct Follower {
    host: DnsHost,
    endpoints: Arc<ArcSwap<EndpointSet>>,
    lookups: Arc<Semaphore>,
    is_guarded: bool,
}

impl Follower {
    async fn run(self, look_up: impl Fn(DnsHost) -> Lookup) {
        let mut apart = DNS_FAILURES_APART;
        loop {
            match self.ask(&look_up).await {
                Ok(addresses) => {
                    self.keep(addresses);
                    apart = DNS_FAILURES_APART;
                    sleep(DNS_REFRESH).await;
                }
                Err(error) => {
                    // The first of a series is told.
                    if apart == DNS_FAILURES_APART {
                        warn!(host = %self.host.host, %error, "cannot look up; the addresses that are known stay");
                    } else {
                        debug!(host = %self.host.host, %error, "still cannot look up");
                    }
                    sleep(apart).await;
                    apart = (apart * 2).min(DNS_FAILURES_APART_MOST);
                }
            }
        }
    }

    async fn ask(&self, look_up: impl Fn(DnsHost) -> Lookup) -> io::Result<Vec<SocketAddr>> {
        // The semaphore is never closed.
        let _turn = self.lookups.acquire().await;
        let found = timeout(DNS_LOOKUP, look_up(self.host.clone())).await?;
        let addresses = usable(found?, self.is_guarded);
        if addresses.is_empty() {
            return Err(io::Error::other("there is no address that may be called"));
        }
        Ok(addresses)
    }

    /// What stays the same keeps its connections.
    fn keep(&self, addresses: Vec<SocketAddr>) {
        let endpoint = |address| Endpoint { address, transport: None, workload: None };
        let endpoints: Vec<_> = addresses.into_iter().map(endpoint).collect();
        if self.endpoints.load().endpoints != endpoints {
            debug!(host = %self.host.host, addresses = endpoints.len(), "looked up");
            self.endpoints.store(Arc::new(EndpointSet { endpoints }));
        }
    }
}

/// The addresses that may be called, in a fixed order. Those without a route (of the IP version that this host does not
/// have, as a rule) are left out where others have one.
fn usable(mut addresses: Vec<SocketAddr>, is_guarded: bool) -> Vec<SocketAddr> {
    let is_refused = |address: &SocketAddr| {
        let ip = address.ip();
        destination::refusal(ip).is_some() || destination::is_own(ip) || is_virtual(ip)
    };
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(DNS_ADDRESSES);
    addresses.retain(|address| !(is_guarded && is_refused(address)));
    if addresses.iter().any(|address| destination::is_routed(address.ip())) {
        addresses.retain(|address| destination::is_routed(address.ip()));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn answers_are_ordered_and_those_that_lead_to_the_host_are_not_believed() {
        let check = |found: &[&str], is_guarded: bool, expected: &[&str]| {
            let found = found.iter().map(|address| at(address)).collect();
            let expected: Vec<_> = expected.iter().map(|address| at(address)).collect();
            assert_eq!(usable(found, is_guarded), expected);
        };
        check(&["127.0.0.2:80", "127.0.0.1:80", "127.0.0.2:80"], false, &["127.0.0.1:80", "127.0.0.2:80"]);
        for near in ["127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "240.0.0.1:80", "0.0.0.0:80"] {
            check(&[near], true, &[]);
        }
        let many: Vec<_> = (0..=255).map(|last| format!("127.0.1.{last}:80")).collect();
        let many: Vec<_> = many.iter().map(|address| at(address)).collect();
        assert_eq!(usable(many, false).len(), DNS_ADDRESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_stays_until_something_better_is() {
        let answers = Arc::new(Mutex::new(VecDeque::from([
            Ok(vec![at("127.0.0.1:80")]),
            Err(io::Error::other("no")),
            Err(io::Error::other("no")),
            Ok(vec![]),
            Ok(vec![at("127.0.0.2:80")]),
        ])));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let endpoints = Arc::new(ArcSwap::<EndpointSet>::default());
        let follower = Follower {
            host: DnsHost { host: "api.example.com".into(), port: 80 },
            endpoints: Arc::clone(&endpoints),
            lookups: Arc::new(Semaphore::new(1)),
            is_guarded: false,
        };
        let begun = Instant::now();
        let (script, log) = (Arc::clone(&answers), Arc::clone(&asked));
        let task = tokio::spawn(follower.run(move |_| {
            log.lock().expect("whole").push(begun.elapsed());
            let answer = script.lock().expect("whole").pop_front();
            Box::pin(async move {
                match answer {
                    Some(answer) => answer,
                    // It hangs.
                    None => std::future::pending().await,
                }
            })
        }));
        let first = || endpoints.load().endpoints.first().map(|endpoint| endpoint.address);
        sleep(MOMENT).await;
        assert_eq!(first(), Some(at("127.0.0.1:80")));
        // A failure, another a while later, an empty answer after twice that.
        let failing = DNS_REFRESH + DNS_FAILURES_APART * 3;
        advance(DNS_REFRESH).await;
        sleep(DNS_FAILURES_APART * 3).await;
        assert_eq!(first(), Some(at("127.0.0.1:80")));
        sleep(DNS_FAILURES_APART * 4 + MOMENT).await;
        assert_eq!(first(), Some(at("127.0.0.2:80")));
        let times = asked.lock().expect("whole").clone();
        assert_eq!(times.len(), 5);
        assert!(times[3] >= failing && times[4] >= times[3] + DNS_FAILURES_APART * 4, "{times:?}");
        // A lookup that hangs is given up; the address stays.
        sleep(DNS_REFRESH + DNS_LOOKUP + DNS_FAILURES_APART + MOMENT).await;
        assert!(asked.lock().expect("whole").len() >= 7);
        assert_eq!(first(), Some(at("127.0.0.2:80")));
        task.abort();
    }
}
