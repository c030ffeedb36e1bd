//! The addresses of hosts that clusters name, looked up again and again off the request path.
//!
//! Lookups are the system's (`getaddrinfo`), which blocks and says nothing of how long an answer may be kept. So they
//! have a small runtime of their own, that exists from the first such cluster on, and a fixed pace. What is known stays
//! until something better is.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwork_model::address::{is_virtual, unfetchable};
use meshwork_model::proxy::{Dns, DnsFamily, DnsHost, Endpoint, Endpoints, NamedEndpoint};
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::destination;
use crate::limits::{DNS_ADDRESSES, DNS_APART_LEAST, DNS_LOOKUP, DNS_LOOKUPS};
use crate::upstream::Hosts;

/// Looks names up for the clusters of a proxy.
pub(crate) struct Resolver {
    runtime: Option<Runtime>,
    lookups: Arc<Semaphore>,
    /// Whether answers are held to what a workload may be taken to.
    is_guarded: bool,
}

/// Names whose addresses are kept fresh until this is dropped.
pub(crate) struct Followed {
    /// The names.
    pub(crate) dns: Dns,
    tasks: Vec<AbortHandle>,
}

impl Resolver {
    /// One that follows nobody yet. A guarded one believes no answer that leads to the host itself.
    pub(crate) fn new(is_guarded: bool) -> Self {
        Self { runtime: None, lookups: Arc::new(Semaphore::new(DNS_LOOKUPS)), is_guarded }
    }

    /// Looks names up now, and from now on; their addresses become `hosts`, which has none until the first answer.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(crate) fn follow(&mut self, dns: &Dns, hosts: &Arc<Hosts>) -> io::Result<Followed> {
        let runtime = match &mut self.runtime {
            Some(runtime) => runtime,
            none => none.insert(start()?),
        };
        let found = Arc::new(Found::new(dns, hosts));
        let follow = |index| {
            let lookups = Arc::clone(&self.lookups);
            let follower =
                Follower { found: Arc::clone(&found), index, lookups, is_guarded: self.is_guarded };
            let look_up =
                async |host: DnsHost| Ok(tokio::net::lookup_host((&*host.host, host.port)).await?.collect());
            runtime.spawn(follower.run(move |host| Box::pin(look_up(host)))).abort_handle()
        };
        Ok(Followed { dns: dns.clone(), tasks: (0..dns.hosts.len()).map(follow).collect() })
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
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

// === following ===

type Lookup = std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The names of a cluster, and what was found so far.
struct Found {
    dns: Dns,
    hosts: Arc<Hosts>,
    /// The addresses of each name.
    addresses: Mutex<Vec<Vec<SocketAddr>>>,
}

/// Follows one of the names.
struct Follower {
    found: Arc<Found>,
    index: usize,
    lookups: Arc<Semaphore>,
    is_guarded: bool,
}

impl Found {
    fn new(dns: &Dns, hosts: &Arc<Hosts>) -> Self {
        let addresses = Mutex::new(vec![Vec::new(); dns.hosts.len()]);
        Self { dns: dns.clone(), hosts: Arc::clone(hosts), addresses }
    }

    /// What stays the same keeps its connections.
    fn keep(&self, index: usize, addresses: Vec<SocketAddr>) {
        let mut all = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if all[index] == addresses {
            return;
        }
        debug!(host = %self.dns.hosts[index].host.host, addresses = addresses.len(), "looked up");
        all[index] = addresses;
        self.hosts.replace(&self.endpoints(&all));
    }

    /// Every address once, as it was found first.
    fn endpoints(&self, addresses: &[Vec<SocketAddr>]) -> Endpoints {
        let mut seen = HashSet::new();
        let mut endpoints = Vec::new();
        for (NamedEndpoint { endpoint, .. }, addresses) in self.dns.hosts.iter().zip(addresses) {
            let fresh = addresses.iter().filter(|address| seen.insert(**address));
            endpoints.extend(fresh.map(|&address| Endpoint { address, ..endpoint.clone() }));
        }
        Endpoints { policy: self.dns.policy.clone(), ..Endpoints::new("", endpoints) }
    }

    /// How long to wait after this many failures in a row, at least: twice as long after each.
    fn pause(&self, failures: u32) -> Duration {
        let pause = match self.dns.failure_refresh {
            Some((least, most)) if failures > 0 => {
                least.saturating_mul(2u32.saturating_pow(failures - 1)).min(most)
            }
            _ => self.dns.refresh,
        };
        pause.max(DNS_APART_LEAST)
    }
}

impl Follower {
    async fn run(self, look_up: impl Fn(DnsHost) -> Lookup) {
        let host = &self.found.dns.hosts[self.index].host;
        let mut failures = 0;
        loop {
            match self.ask(host, &look_up).await {
                Ok(addresses) => {
                    self.found.keep(self.index, addresses);
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    // The first of a series is told.
                    if failures == 1 {
                        warn!(host = %host.host, %error, "cannot look up; the addresses that are known stay");
                    } else {
                        debug!(host = %host.host, %error, "still cannot look up");
                    }
                }
            }
            sleep(self.found.pause(failures)).await;
        }
    }

    async fn ask(&self, host: &DnsHost, look_up: impl Fn(DnsHost) -> Lookup) -> io::Result<Vec<SocketAddr>> {
        // The semaphore is never closed.
        let _turn = self.lookups.acquire().await;
        let found = timeout(DNS_LOOKUP, look_up(host.clone())).await?;
        let dns = &self.found.dns;
        let guard = Guard { is_of_workload: self.is_guarded, only_far: dns.only_far };
        let addresses = usable(of_family(found?, dns.family), guard, dns.is_strict);
        if addresses.is_empty() {
            return Err(io::Error::other("there is no address that may be called"));
        }
        Ok(addresses)
    }
}

/// The addresses that count.
fn of_family(addresses: Vec<SocketAddr>, family: DnsFamily) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    match family {
        DnsFamily::All => addresses,
        DnsFamily::V4 => v4,
        DnsFamily::V6 => v6,
        DnsFamily::Auto => {
            if v6.is_empty() {
                v4
            } else {
                v6
            }
        }
        DnsFamily::V4Preferred => {
            if v4.is_empty() {
                v6
            } else {
                v4
            }
        }
    }
}

/// Which addresses are not believed, whatever name they were found by. What is connected to is what was looked at here:
/// no name is looked up again.
#[derive(Clone, Copy, Default)]
struct Guard {
    /// Those that no workload is taken to.
    is_of_workload: bool,
    /// Those near the host.
    only_far: bool,
}

impl Guard {
    fn refuses(self, ip: IpAddr) -> bool {
        let is_forbidden = || destination::refusal(ip).is_some() || destination::is_own(ip) || is_virtual(ip);
        self.is_of_workload && is_forbidden() || self.only_far && unfetchable(ip).is_some()
    }
}

/// The addresses that may be called: all of them in a fixed order, or the first. Those without a route (of the IP version
/// that this host does not have, as a rule) are left out where others have one.
fn usable(mut addresses: Vec<SocketAddr>, guard: Guard, is_strict: bool) -> Vec<SocketAddr> {
    if is_strict {
        addresses.sort_unstable();
        addresses.dedup();
    }
    addresses.truncate(DNS_ADDRESSES);
    addresses.retain(|address| !guard.refuses(address.ip()));
    if addresses.iter().any(|address| destination::is_routed(address.ip())) {
        addresses.retain(|address| destination::is_routed(address.ip()));
    }
    if !is_strict {
        addresses.truncate(1);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use tokio::time::{Instant, advance};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);
    const DNS_REFRESH: Duration = Dns::REFRESH;
    const DNS_FAILURES_APART: Duration = Duration::from_secs(1);

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn answers_are_ordered_and_those_that_lead_to_the_host_are_not_believed() {
        let check = |found: &[&str], guard: Guard, expected: &[&str]| {
            let found = found.iter().map(|address| at(address)).collect();
            let expected: Vec<_> = expected.iter().map(|address| at(address)).collect();
            assert_eq!(usable(found, guard, true), expected);
        };
        let (open, of_workload) = (Guard::default(), Guard { is_of_workload: true, only_far: false });
        let only_far = Guard { is_of_workload: false, only_far: true };
        check(&["127.0.0.2:80", "127.0.0.1:80", "127.0.0.2:80"], open, &["127.0.0.1:80", "127.0.0.2:80"]);
        for near in ["127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "240.0.0.1:80", "0.0.0.0:80"] {
            check(&[near], of_workload, &[]);
            check(&[near], only_far, &[]);
        }
        // One answer that leads near does not take the others with it, and they do not let it through.
        check(&["127.0.0.1:80", "192.0.2.1:80"], only_far, &["192.0.2.1:80"]);
        check(&["100.100.100.200:80", "[::ffff:127.0.0.1]:80"], only_far, &[]);
        let many: Vec<_> = (0..=255).map(|last| format!("127.0.1.{last}:80")).collect();
        let many: Vec<_> = many.iter().map(|address| at(address)).collect();
        assert_eq!(usable(many.clone(), open, true).len(), DNS_ADDRESSES);
        assert_eq!(usable(many, open, false), [at("127.0.1.0:80")]);
    }

    #[test]
    fn families_of_addresses() {
        let check = |family: DnsFamily, found: &[&str], expected: &[&str]| {
            let found = found.iter().map(|address| at(address)).collect();
            let expected: Vec<_> = expected.iter().map(|address| at(address)).collect();
            assert_eq!(of_family(found, family), expected, "{family:?}");
        };
        let (four, six) = ("192.0.2.1:80", "[2001:db8::1]:80");
        let both = [four, six];
        check(DnsFamily::Auto, &both, &[six]);
        check(DnsFamily::Auto, &[four], &[four]);
        check(DnsFamily::V4Preferred, &both, &[four]);
        check(DnsFamily::V4Preferred, &[six], &[six]);
        check(DnsFamily::V4, &both, &[four]);
        check(DnsFamily::V6, &[four], &[]);
        check(DnsFamily::All, &both, &both);
    }

    #[test]
    fn every_address_is_one_endpoint_like_the_name_it_was_found_by() {
        let named = |host: &str, weight| {
            let host = DnsHost { host: host.into(), port: 80 };
            NamedEndpoint { host, endpoint: Endpoint { weight, ..Endpoint::new(at("0.0.0.0:80")) } }
        };
        let hosts = Arc::new(Hosts::default());
        let dns = Dns {
            hosts: vec![named("a", 1), named("b", 2)],
            ..Dns::all_of(DnsHost { host: "a".into(), port: 80 })
        };
        let found = Found::new(&dns, &hosts);
        found.keep(1, vec![at("127.0.0.2:80"), at("127.0.0.3:80")]);
        found.keep(0, vec![at("127.0.0.1:80"), at("127.0.0.2:80")]);
        let all: Vec<_> =
            hosts.load().hosts.iter().map(|host| (host.config.address, host.config.weight)).collect();
        assert_eq!(all, [(at("127.0.0.1:80"), 1), (at("127.0.0.2:80"), 1), (at("127.0.0.3:80"), 2)]);
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
        let hosts = Arc::new(Hosts::default());
        let dns = Dns {
            failure_refresh: Some((DNS_FAILURES_APART, DNS_FAILURES_APART * 30)),
            ..Dns::all_of(DnsHost { host: "api.example.com".into(), port: 80 })
        };
        let follower = Follower {
            found: Arc::new(Found::new(&dns, &hosts)),
            index: 0,
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
        let first = || hosts.load().hosts.first().map(|host| host.config.address);
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
