//! Outlier detection: what workers count of each host, and who judges by it.
//!
//! A worker counts by relaxed atomics, and says a word where a run of failures is long enough. [`keep`] does the rest, by
//! `model::outlier`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use meshwork_model::outlier::{self, Cause, Counted, Detector, History, Outcome, Tally};
use meshwork_model::proxy::OutlierDetection;
use meshwork_model::retry::is_gateway_error;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use crate::upstream::{Flag, HostState, Hosts};

/// What workers count of one host.
#[derive(Debug)]
pub(crate) struct Monitor {
    config: Arc<OutlierDetection>,
    /// Failures one after the other.
    server: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// Those of an interval, of responses and of the network.
    responses: Tallies,
    network: Tallies,
    /// Which runs were long enough, by bits.
    reached: AtomicU32,
    told: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Tallies {
    total: AtomicU64,
    good: AtomicU64,
}

/// Runs that may be long enough, in the order in which they are looked at.
const RUNS: [Cause; 3] = [Cause::ConsecutiveGateway, Cause::Consecutive5xx, Cause::ConsecutiveLocal];

impl Tallies {
    fn count(&self, is_good: bool) {
        self.total.fetch_add(1, Relaxed);
        self.good.fetch_add(u64::from(is_good), Relaxed);
    }

    fn take(&self) -> Tally {
        let good = self.good.swap(0, Relaxed);
        Tally { total: self.total.swap(0, Relaxed), good }
    }
}

impl Monitor {
    fn new(config: &Arc<OutlierDetection>, told: &Arc<Notify>) -> Self {
        Self {
            config: Arc::clone(config),
            server: AtomicU32::new(0),
            gateway: AtomicU32::new(0),
            local: AtomicU32::new(0),
            responses: Tallies::default(),
            network: Tallies::default(),
            reached: AtomicU32::new(0),
            told: Arc::clone(told),
        }
    }

    /// Counts what came of a request or a connection.
    pub(crate) fn note(&self, outcome: Outcome) {
        match outlier::count(outcome, self.config.split_local) {
            Counted::Response(status) => self.note_response(status),
            Counted::LocalFailure => {
                self.network.count(false);
                self.lengthen(Cause::ConsecutiveLocal);
            }
            Counted::LocalSuccess => {
                self.network.count(true);
                self.reset(Cause::ConsecutiveLocal);
            }
            Counted::Nothing => {}
        }
    }

    fn note_response(&self, status: u16) {
        let is_good = !(500..600).contains(&status);
        self.responses.count(is_good);
        if is_gateway_error(status) {
            self.lengthen(Cause::ConsecutiveGateway);
        } else {
            self.reset(Cause::ConsecutiveGateway);
        }
        if is_good { self.reset(Cause::Consecutive5xx) } else { self.lengthen(Cause::Consecutive5xx) }
    }

    fn run(&self, cause: Cause) -> &AtomicU32 {
        match cause {
            Cause::ConsecutiveGateway => &self.gateway,
            Cause::ConsecutiveLocal => &self.local,
            _ => &self.server,
        }
    }

    fn lengthen(&self, cause: Cause) {
        let limit = match cause {
            Cause::ConsecutiveGateway => self.config.consecutive_gateway,
            Cause::ConsecutiveLocal => self.config.consecutive_local,
            _ => self.config.consecutive_5xx,
        };
        let run = self.run(cause).fetch_add(1, Relaxed).wrapping_add(1);
        if outlier::is_reached(limit, run) {
            self.reached.fetch_or(bit(cause), Relaxed);
            self.told.notify_one();
        }
    }

    fn reset(&self, cause: Cause) {
        let run = self.run(cause);
        // Most of the time there is nothing to write.
        if run.load(Relaxed) != 0 {
            run.store(0, Relaxed);
        }
    }

    fn reset_all(&self) {
        for cause in RUNS {
            self.reset(cause);
        }
    }
}

fn bit(cause: Cause) -> u32 {
    RUNS.iter().position(|run| *run == cause).map_or(0, |at| 1 << at)
}

/// A host that is watched.
struct Watched {
    state: Arc<HostState>,
    monitor: Arc<Monitor>,
}

/// Who judges the hosts of a cluster. Dropped, it lets all of them come back.
struct Judge<'h> {
    hosts: &'h Hosts,
    detector: Detector,
    config: Arc<OutlierDetection>,
    told: Arc<Notify>,
    watched: Vec<Watched>,
    histories: Vec<History>,
    begun: Instant,
}

/// Judges the hosts of a cluster, for as long as it is polled.
pub(crate) async fn keep(config: OutlierDetection, hosts: &Hosts) {
    let mut membership = hosts.membership();
    let mut judge = Judge {
        hosts,
        config: Arc::new(config.clone()),
        told: Arc::default(),
        watched: Vec::new(),
        histories: Vec::new(),
        begun: Instant::now(),
        detector: Detector::new(config),
    };
    let apart = judge.config.interval;
    let mut ticks = interval_at(Instant::now() + apart, apart);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let told = Arc::clone(&judge.told);
    judge.watch();
    loop {
        tokio::select! {
            changed = membership.changed() => match changed {
                Ok(()) => judge.watch(),
                Err(_) => break,
            },
            () = told.notified() => judge.look_at_runs(),
            _ = ticks.tick() => judge.look_at_all(),
        }
    }
}

impl Judge<'_> {
    /// Watches the hosts that there are now; what is known of those that stay is kept.
    fn watch(&mut self) {
        let old = std::mem::take(&mut self.watched).into_iter().zip(std::mem::take(&mut self.histories));
        let mut known: HashMap<*const HostState, (Watched, History)> =
            old.map(|known| (Arc::as_ptr(&known.0.state), known)).collect();
        for host in &self.hosts.load().hosts {
            let kept = known.remove(&Arc::as_ptr(&host.state));
            let (watched, history) = kept.unwrap_or_else(|| {
                let monitor = Arc::new(Monitor::new(&self.config, &self.told));
                host.state.monitor.store(Some(Arc::clone(&monitor)));
                (Watched { state: Arc::clone(&host.state), monitor }, History::default())
            });
            self.watched.push(watched);
            self.histories.push(history);
        }
    }

    fn now(&self) -> std::time::Duration {
        self.begun.elapsed()
    }

    /// Takes notice of hosts that a health check has brought back.
    fn look_at_flags(&mut self) {
        let now = self.now();
        for (watched, history) in self.watched.iter().zip(&mut self.histories) {
            if history.is_ejected() && !watched.state.has(Flag::Ejected) {
                history.bring_back(now);
                watched.monitor.reset_all();
            }
        }
    }

    /// Judges those whose run of failures is long enough.
    fn look_at_runs(&mut self) {
        self.look_at_flags();
        let mut has_changed = false;
        for index in 0..self.watched.len() {
            let reached = self.watched[index].monitor.reached.swap(0, Relaxed);
            for cause in RUNS.into_iter().filter(|cause| reached & bit(*cause) != 0) {
                if self.histories[index].is_ejected() {
                    continue;
                }
                has_changed |= self.eject(index, cause);
                self.watched[index].monitor.reset(cause);
            }
        }
        if has_changed {
            self.hosts.rebalance();
        }
    }

    /// At the end of an interval: who comes back, who is an outlier.
    fn look_at_all(&mut self) {
        self.look_at_flags();
        let now = self.now();
        let mut has_changed = false;
        for (watched, history) in self.watched.iter().zip(&mut self.histories) {
            if self.detector.is_over(history, now) {
                watched.state.set(Flag::Ejected, false);
                history.bring_back(now);
                watched.monitor.reset_all();
                has_changed = true;
            }
        }
        for local in [false, true] {
            let tally = |watched: &Watched| {
                if local { watched.monitor.network.take() } else { watched.monitor.responses.take() }
            };
            let tallies: Vec<Tally> = self.watched.iter().map(tally).collect();
            for (index, cause) in self.detector.outliers(&self.histories, &tallies, local) {
                has_changed |= self.eject(index, cause);
            }
        }
        self.histories.iter_mut().for_each(|history| self.detector.forgive(history, now));
        if has_changed {
            self.hosts.rebalance();
        }
    }

    fn eject(&mut self, index: usize, cause: Cause) -> bool {
        let now = self.now();
        let is_out = self.detector.eject(&mut self.histories, index, cause, now, fastrand::u64(..));
        if is_out {
            self.watched[index].state.set(Flag::Ejected, true);
            info!(?cause, times = self.histories[index].ejections, "an endpoint is left out");
        }
        is_out
    }
}

impl Drop for Judge<'_> {
    fn drop(&mut self) {
        for watched in &self.watched {
            watched.state.monitor.store(None);
            watched.state.set(Flag::Ejected, false);
        }
        self.hosts.rebalance();
    }
}
