//! Endpoints as all workers see them: what config says, and what was found out about each.
//!
//! A cluster's [`Hosts`] are written by whoever learns something: config and names (who they are), health checks and
//! outlier detection (how they are). Each change makes a new [`EndpointSet`], with everything that picking needs
//! built in it, behind one atomic pointer; workers look at that pointer and build nothing but their own state. What is
//! known of a host is kept by its address and survives updates of its config.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::health::outlier::Monitor;
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use meshwork_model::balance::{Member, Plan};
use meshwork_model::proxy::{self, Balancing, Endpoints, Health, LoadPolicy, Spread};
use tokio::sync::{Notify, watch};

/// An endpoint as all workers see it.
#[derive(Debug)]
pub(crate) struct Host {
    /// What config says of it.
    pub(crate) config: proxy::Endpoint,
    /// What was found out about it.
    pub(crate) state: Arc<HostState>,
}

/// What was found out about a host. Kept by address.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    flags: AtomicU32,
    /// What is counted of it, where outlier detection looks at it.
    pub(crate) monitor: ArcSwapOption<Monitor>,
    /// Who asks it, where active health checks do, and is told when it fails by its own word.
    pub(crate) checked: ArcSwapOption<Notify>,
    /// What each worker has counted; a worker writes its own only.
    counters: Mutex<Vec<Arc<HostCounters>>>,
}

/// Something that was found out about a host. Each is set and cleared by one party alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Flag {
    /// Active health checks say that it does not serve.
    FailedCheck = 1,
    /// Outlier detection has ejected it.
    Ejected = 2,
    /// Active health checks say that it serves badly.
    DegradedCheck = 4,
    /// Active health checks have not asked it yet.
    Unchecked = 8,
    /// It said itself that it fails (`x-envoy-immediate-health-check-fail`), and is not even counted.
    Excluded = 16,
}

/// What one worker has counted of a host.
#[derive(Debug, Default)]
pub(crate) struct HostCounters {
    pub(crate) cx_active: AtomicU64,
    pub(crate) cx_total: AtomicU64,
    pub(crate) cx_connect_fail: AtomicU64,
    pub(crate) rq_active: AtomicU64,
    pub(crate) rq_total: AtomicU64,
    pub(crate) rq_success: AtomicU64,
    pub(crate) rq_error: AtomicU64,
    pub(crate) rq_timeout: AtomicU64,
}

/// What all workers have counted of a host. Source: Envoy `HostStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostCounts {
    pub(crate) cx_active: u64,
    pub(crate) cx_total: u64,
    pub(crate) cx_connect_fail: u64,
    pub(crate) rq_active: u64,
    pub(crate) rq_total: u64,
    pub(crate) rq_success: u64,
    pub(crate) rq_error: u64,
    pub(crate) rq_timeout: u64,
}

/// The endpoints of a cluster at one time.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    /// The hosts, in the order of config.
    pub(crate) hosts: Vec<Arc<Host>>,
    /// How load follows health.
    pub(crate) policy: LoadPolicy,
    /// Who is picked.
    pub(crate) plan: Plan,
}

/// The endpoints of a cluster, now and after each change.
#[derive(Debug)]
pub(crate) struct Hosts {
    current: ArcSwap<EndpointSet>,
    /// How they are picked; held while a new set is made.
    writing: Mutex<(Balancing, Spread)>,
    /// Counts changes of who is a host.
    membership: watch::Sender<u64>,
    /// Whether a new host counts as failed until it has been asked.
    begins_unchecked: AtomicBool,
}

// === impl Host ===

impl Host {
    /// Whether active health checks, outlier detection and config let it serve, or serve where nobody better does.
    pub(crate) fn health(&self) -> Health {
        let failed = [Flag::FailedCheck, Flag::Ejected].into_iter().any(|flag| self.state.has(flag));
        match self.config.health.counted() {
            _ if failed => Health::Unhealthy,
            Health::Healthy if self.state.has(Flag::DegradedCheck) => Health::Degraded,
            said => said,
        }
    }
}

impl Host {
    /// Whether it does not even count: nobody knows yet how it is, or it has said that it fails.
    fn is_excluded(&self, spread: &Spread) -> bool {
        spread.awaits_first_check && self.state.has(Flag::Unchecked) || self.state.has(Flag::Excluded)
    }
}

// === impl HostState ===

impl HostState {
    /// Whether a flag is set.
    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.load(Relaxed) & flag as u32 != 0
    }

    /// Sets or clears a flag; `true` where that changed it. Picking does not see it before [`Hosts::rebalance`].
    pub(crate) fn set(&self, flag: Flag, is_set: bool) -> bool {
        let before = if is_set {
            self.flags.fetch_or(flag as u32, Relaxed)
        } else {
            self.flags.fetch_and(!(flag as u32), Relaxed)
        };
        (before & flag as u32 != 0) != is_set
    }

    /// Counters for one more worker.
    pub(crate) fn counters(&self) -> Arc<HostCounters> {
        let mut all = lock(&self.counters);
        // Those of workers that have dropped the host without requests under way are summed up in the first.
        let counters = Arc::new(HostCounters::default());
        all.push(Arc::clone(&counters));
        counters
    }

    /// What all workers have counted.
    pub(crate) fn counts(&self) -> HostCounts {
        let mut sum = HostCounts::default();
        for one in lock(&self.counters).iter() {
            sum.cx_active = sum.cx_active.wrapping_add(one.cx_active.load(Relaxed));
            sum.cx_total = sum.cx_total.wrapping_add(one.cx_total.load(Relaxed));
            sum.cx_connect_fail = sum.cx_connect_fail.wrapping_add(one.cx_connect_fail.load(Relaxed));
            sum.rq_active = sum.rq_active.wrapping_add(one.rq_active.load(Relaxed));
            sum.rq_total = sum.rq_total.wrapping_add(one.rq_total.load(Relaxed));
            sum.rq_success = sum.rq_success.wrapping_add(one.rq_success.load(Relaxed));
            sum.rq_error = sum.rq_error.wrapping_add(one.rq_error.load(Relaxed));
            sum.rq_timeout = sum.rq_timeout.wrapping_add(one.rq_timeout.load(Relaxed));
        }
        sum
    }
}

/// One writer's step: a load and a store, no bus lock.
pub(crate) fn step(counter: &AtomicU64, by: i64) {
    counter.store(counter.load(Relaxed).wrapping_add_signed(by), Relaxed);
}

// === impl Hosts ===

impl Default for Hosts {
    fn default() -> Self {
        let writing = Mutex::new((Balancing::ROUND_ROBIN, Spread::default()));
        Self {
            current: ArcSwap::default(),
            writing,
            membership: watch::channel(0).0,
            begins_unchecked: AtomicBool::new(false),
        }
    }
}

impl Hosts {
    /// The hosts as they are now.
    pub(crate) fn load(&self) -> Guard<Arc<EndpointSet>> {
        self.current.load()
    }

    /// Takes new endpoints over; what is known of those that stay is kept.
    pub(crate) fn replace(&self, endpoints: &Endpoints) {
        let writing = lock(&self.writing);
        let current = self.current.load();
        let known: HashMap<SocketAddr, &Arc<Host>> =
            current.hosts.iter().map(|host| (host.config.address, host)).collect();
        let host = |endpoint: &proxy::Endpoint| match known.get(&endpoint.address) {
            Some(host) if host.config == *endpoint => Arc::clone(host),
            Some(host) => Arc::new(Host { config: endpoint.clone(), state: Arc::clone(&host.state) }),
            None => Arc::new(Host { config: endpoint.clone(), state: self.begin(endpoint) }),
        };
        let hosts = endpoints.endpoints.iter().map(host).collect();
        self.store(&writing, hosts, endpoints.policy.clone());
        self.membership.send_modify(|count| *count += 1);
    }

    /// From now on, whether a new host counts as failed until it has been asked.
    pub(crate) fn await_checks(&self, awaits: bool) {
        self.begins_unchecked.store(awaits, Relaxed);
    }

    /// What is known of a host that was not there before.
    fn begin(&self, endpoint: &proxy::Endpoint) -> Arc<HostState> {
        let state = HostState::default();
        if self.begins_unchecked.load(Relaxed) && !endpoint.check.is_disabled {
            state.set(Flag::FailedCheck, true);
            state.set(Flag::Unchecked, true);
        }
        Arc::new(state)
    }

    /// Whether anything was ever sent to any of the hosts.
    pub(crate) fn had_traffic(&self) -> bool {
        self.load().hosts.iter().any(|host| {
            let counts = host.state.counts();
            counts.rq_total + counts.cx_total > 0
        })
    }

    /// Takes notice of flags that have changed.
    pub(crate) fn rebalance(&self) {
        let writing = lock(&self.writing);
        let current = self.current.load();
        self.store(&writing, current.hosts.clone(), current.policy.clone());
    }

    /// Picks in another way from now on.
    pub(crate) fn configure(&self, balancing: Balancing, spread: &Spread) {
        let mut writing = lock(&self.writing);
        if writing.0 != balancing || writing.1 != *spread {
            *writing = (balancing, spread.clone());
            let current = self.current.load();
            self.store(&writing, current.hosts.clone(), current.policy.clone());
        }
    }

    fn store(&self, writing: &(Balancing, Spread), hosts: Vec<Arc<Host>>, policy: LoadPolicy) {
        let (balancing, spread) = writing;
        let member = |host: &Arc<Host>| (host.health(), host.is_excluded(spread));
        let known: Vec<_> = hosts.iter().map(member).collect();
        let member = |(host, (health, is_excluded))| {
            let host: &Arc<Host> = host;
            Member { endpoint: &host.config, health, is_excluded }
        };
        let members: Vec<_> = hosts.iter().zip(known).map(member).collect();
        let plan = Plan::new(*balancing, spread, &policy, &members);
        self.current.store(Arc::new(EndpointSet { hosts, policy, plan }));
    }

    /// Counts changes of who is a host.
    pub(crate) fn membership(&self) -> watch::Receiver<u64> {
        self.membership.subscribe()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(endpoints: Vec<proxy::Endpoint>) -> Endpoints {
        Endpoints::new("a", endpoints)
    }

    fn at(address: &str) -> proxy::Endpoint {
        proxy::Endpoint::new(address.parse().expect("an address"))
    }

    #[test]
    fn what_is_known_of_a_host_survives_its_updates_and_not_its_absence() {
        let hosts = Hosts::default();
        hosts.replace(&set(vec![at("127.0.0.1:1"), at("127.0.0.1:2")]));
        let first = Arc::clone(&hosts.load().hosts[0]);
        assert!(first.state.set(Flag::Ejected, true) && !first.state.set(Flag::Ejected, true));
        hosts.replace(&set(vec![at("127.0.0.1:2"), proxy::Endpoint { weight: 3, ..at("127.0.0.1:1") }]));
        let again = Arc::clone(&hosts.load().hosts[1]);
        assert_eq!((again.config.weight, again.state.has(Flag::Ejected)), (3, true));
        assert_eq!(again.health(), Health::Unhealthy);
        hosts.replace(&set(vec![]));
        hosts.replace(&set(vec![at("127.0.0.1:1")]));
        assert_eq!(hosts.load().hosts[0].health(), Health::Healthy);
        assert_eq!(*hosts.membership().borrow(), 4);
    }

    #[test]
    fn health_is_the_worst_that_anybody_says() {
        let check = |said: Health, flags: &[Flag], expected: Health| {
            let host =
                Host { config: proxy::Endpoint { health: said, ..at("127.0.0.1:1") }, state: Arc::default() };
            for flag in flags {
                let _ = host.state.set(*flag, true);
            }
            assert_eq!(host.health(), expected, "{said:?} {flags:?}");
        };
        check(Health::Unknown, &[], Health::Healthy);
        check(Health::Healthy, &[Flag::Unchecked], Health::Healthy);
        check(Health::Degraded, &[], Health::Degraded);
        check(Health::Unknown, &[Flag::DegradedCheck], Health::Degraded);
        check(Health::Degraded, &[Flag::Ejected], Health::Unhealthy);
        check(Health::Healthy, &[Flag::FailedCheck, Flag::DegradedCheck], Health::Unhealthy);
        for said in [Health::Unhealthy, Health::Draining, Health::Timeout] {
            check(said, &[], Health::Unhealthy);
        }
    }

    #[test]
    fn counts_of_all_workers_are_summed() {
        let state = HostState::default();
        let (one, other) = (state.counters(), state.counters());
        step(&one.rq_total, 2);
        step(&other.rq_total, 3);
        step(&other.rq_active, 1);
        assert_eq!(state.counts(), HostCounts { rq_total: 5, rq_active: 1, ..HostCounts::default() });
    }
}
