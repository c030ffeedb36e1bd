//! The world: what is true now. Config, enrolments, the workloads that are there, and what each proxy has and said.
//!
//! It is the one writer of the mesh that `translate` reads. Ingest applies config, discovery tells of streams, the
//! clock ends leases; each change makes a new immutable [`Mesh`] and wakes the tasks of `run`, which publish it to the
//! proxies and keep the leases on disk. Every call is short: nothing here waits, reads a file or writes one.

mod proxy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwork_model::mesh::{Config, Key, SERVICE_LABEL, Workload};
use meshwork_model::problem::Problem;
use meshwork_model::proxy::Kind;
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::client::Health;
use meshwork_xds::grpc::{Denied, Handler, Stream};
use meshwork_xds::server::Event;
use meshwork_xds::{Dialect, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::addresses::Addresses;
use crate::claims::Claims;
use crate::implied;
use crate::lease::Leases;
use crate::snapshot::Encoder;
use crate::store::Enrolment;
use crate::translate::{self, Mesh};
pub(crate) use proxy::Proxy;

/// How much of a workload's words about its health is kept: enough to act on.
const MAX_HEALTH_BYTES: usize = 1024;

/// What is true now.
#[derive(Debug)]
pub(crate) struct World {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    mesh: Arc<Mesh>,
    enrolments: BTreeMap<Key, Enrolment>,
    leases: Leases,
    proxies: BTreeMap<Key, Proxy>,
    problems: Vec<Problem>,
    encoder: Encoder,
    counters: Counters,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) streams: u64,
    pub(crate) denied_streams: u64,
    pub(crate) pushes: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) configs_applied: u64,
    pub(crate) configs_refused: u64,
}

impl World {
    /// A world without workloads.
    pub(crate) fn new(trust_domain: &str, config: Config, enrolments: Vec<Enrolment>) -> Self {
        let mesh = Mesh { trust_domain: trust_domain.into(), config: Arc::new(config), ..Mesh::default() };
        let state = State {
            mesh: Arc::new(mesh),
            enrolments: enrolments.into_iter().map(|e| (e.workload.clone(), e)).collect(),
            leases: Leases::default(),
            proxies: BTreeMap::new(),
            problems: Vec::new(),
            encoder: Encoder::default(),
            counters: Counters::default(),
        };
        Self { state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    /// Wakes on every change of the mesh.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The mesh as it is now.
    pub(crate) fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.lock().mesh)
    }

    /// Puts new config in place; the problems are its warnings.
    pub(crate) fn apply(&self, config: Config, problems: Vec<Problem>) {
        let mut state = self.lock();
        state.problems = problems;
        state.counters.configs_applied += 1;
        if *state.mesh.config != config {
            state.change(|mesh| mesh.config = Arc::new(config));
            drop(state);
            self.changed();
        }
    }

    /// Notes virtual addresses; those that were given before stay.
    pub(crate) fn address(&self, given: Addresses) {
        let mut state = self.lock();
        if given.keys().any(|name| !state.mesh.addresses.contains_key(name)) {
            state.change(|mesh| Arc::make_mut(&mut mesh.addresses).extend(given));
            drop(state);
            self.changed();
        }
    }

    /// Tells of config that is refused; what was applied last stays.
    pub(crate) fn refuse(&self, problems: Vec<Problem>) {
        let mut state = self.lock();
        state.problems = problems;
        state.counters.configs_refused += 1;
    }

    /// The problems of the config directory, and of workloads: that call what there is not, are behind no service, or
    /// are not ready.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let state = self.lock();
        let mut problems = state.problems.clone();
        for workload in state.mesh.workloads.values() {
            problems.extend(calls_into_the_void(&state.mesh, workload));
            problems.extend(not_behind(&state.mesh, workload));
            problems.extend(not_ready(workload));
        }
        problems
    }

    /// What has happened since the start.
    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Lets `read` look at every proxy that is or was just connected.
    pub(crate) fn proxies<T>(&self, read: impl Fn(&Key, &Proxy) -> T) -> Vec<T> {
        self.lock().proxies.iter().map(|(key, proxy)| read(key, proxy)).collect()
    }

    /// A workload has enrolled; one that is connected already has its new labels from now on.
    pub(crate) fn enrolled(&self, enrolment: Enrolment) {
        let mut state = self.lock();
        let (key, identity) = (enrolment.workload.clone(), enrolment.identity(&state.mesh.trust_domain));
        let connected = state.mesh.workloads.get(&key).cloned();
        let labels = enrolment.labels.clone();
        state.enrolments.insert(key.clone(), enrolment);
        let Some(connected) = connected else { return };
        if identity.as_ref() == Some(&connected.identity) {
            state.put(Workload { labels, ..(*connected).clone() });
        } else {
            // Who had the name until now has it no more: its stream ends, and nobody is sent there.
            state.take_out(&[key]);
        }
        drop(state);
        self.changed();
    }

    /// Whether any workload is enrolled with an identity; one that is not gets no new certificate.
    pub(crate) fn is_enrolled(&self, identity: &SpiffeId) -> bool {
        let state = self.lock();
        let trust_domain = &state.mesh.trust_domain;
        state.enrolments.values().any(|e| e.identity(trust_domain).as_ref() == Some(identity))
    }

    /// Ends all streams: each proxy keeps what it has and reconnects elsewhere or later.
    pub(crate) fn end_streams(&self) {
        self.lock().proxies.clear();
    }

    /// Workloads that were there before the control plane started.
    pub(crate) fn restore(&self, workloads: Vec<Workload>, now: Instant) {
        let mut state = self.lock();
        for workload in workloads {
            let enrolled = state.enrolments.get(&workload.key);
            let enrolled = enrolled.and_then(|e| e.identity(&state.mesh.trust_domain));
            if enrolled.as_ref() == Some(&workload.identity) {
                state.leases.restore(workload.key.clone(), now);
                state.put(workload);
            }
        }
        drop(state);
        self.changed();
    }

    /// When [`World::expire`] is to be called next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.lock().leases.next_expiry()
    }

    /// Takes out workloads whose time is over.
    pub(crate) fn expire(&self, now: Instant) {
        let mut state = self.lock();
        let gone = state.leases.expire(now);
        if gone.is_empty() {
            return;
        }
        for key in &gone {
            info!(workload = %key, "is gone");
        }
        state.take_out(&gone);
        drop(state);
        self.changed();
    }

    /// Gives every proxy what it runs by the mesh of now, where that differs from what it has.
    pub(crate) fn publish(&self) {
        let keys: Vec<Key> = self.lock().proxies.keys().cloned().collect();
        // One lock a proxy: streams come and go in between, and each is given the newest mesh.
        for key in keys {
            self.lock().publish_to(&key);
        }
        self.lock().encoder.forget_unused();
    }

    fn changed(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between two writes of one change can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes a new mesh, and of it the services that its workloads imply.
    fn change(&mut self, change: impl FnOnce(&mut Mesh)) {
        let mut mesh = (*self.mesh).clone();
        change(&mut mesh);
        let enrolled = |key: &Key| {
            let behind = |e: &&Enrolment| e.labels.get(SERVICE_LABEL).is_some_and(|s| **s == *key.name);
            self.enrolments.values().filter(behind).any(|e| e.workload.namespace == key.namespace)
        };
        let mut earlier = (*mesh.implied).clone();
        earlier.retain(|key, _| enrolled(key));
        let implied = implied::services(&mesh.config, &mesh.workloads, &earlier);
        if *mesh.implied != implied {
            mesh.implied = Arc::new(implied);
        }
        self.mesh = Arc::new(mesh);
    }

    fn put(&mut self, workload: Workload) {
        self.change(|mesh| drop(mesh.workloads.insert(workload.key.clone(), Arc::new(workload))));
    }

    fn take_out(&mut self, keys: &[Key]) {
        for key in keys {
            self.proxies.remove(key);
        }
        self.change(|mesh| mesh.workloads.retain(|key, _| !keys.contains(key)));
    }

    fn publish_to(&mut self, key: &Key) {
        let Some(workload) = self.mesh.workloads.get(key) else { return };
        let Some(proxy) = self.proxies.get_mut(key) else { return };
        let resources = translate::snapshot(&self.mesh, workload, proxy.dialect, &proxy.wanted);
        if self.encoder.publish(&mut proxy.published, resources, proxy.dialect, &proxy.sds) {
            self.counters.pushes += 1;
            proxy.snapshots.send_replace(Arc::clone(&proxy.published.snapshot));
        }
    }

    /// Judges a node: its claims, and the enrolment of the workload that it says it is.
    fn admit(&self, peer: &SpiffeId, stream: &Stream) -> Result<(Claims, Workload), String> {
        let claims = Claims::read(peer, &stream.node)?;
        let enrolment = self.enrolments.get(&claims.workload);
        let enrolment = enrolment.ok_or_else(|| {
            format!(
                "no workload {} is enrolled: start it under the name that its join token was made for, or make a token \
                 for this one",
                claims.workload
            )
        })?;
        if enrolment.identity(&self.mesh.trust_domain).as_ref() != Some(peer) {
            return Err(format!(
                "the workload {} is enrolled with another identity than {peer}",
                claims.workload
            ));
        }
        let workload = Workload {
            key: claims.workload.clone(),
            identity: peer.clone(),
            labels: enrolment.labels.clone(),
            inbound: claims.inbound.clone(),
            outbound: claims.outbound.clone(),
            capture: claims.capture.clone(),
            unready: self.unready(&claims),
        };
        Ok((claims, workload))
    }

    /// Whether a workload that connects is not ready yet: where it is probed, until it says otherwise. One that was there
    /// a moment ago, behind the same ports, is as ready as it was.
    fn unready(&self, claims: &Claims) -> Option<Arc<str>> {
        if !claims.is_probed {
            return None;
        }
        match self.mesh.workloads.get(&claims.workload).filter(|earlier| earlier.inbound == claims.inbound) {
            Some(earlier) => earlier.unready.clone(),
            None => Some("its readiness probe has not passed yet".into()),
        }
    }

    /// Takes in what a workload says of its health; says whether anything follows.
    fn judge_health(&mut self, key: &Key, health: Health) -> bool {
        let Some(workload) = self.mesh.workloads.get(key) else { return false };
        let unready: Option<Arc<str>> = match health {
            Health::Ready => None,
            Health::Unready(why) => Some(why[..why.floor_char_boundary(MAX_HEALTH_BYTES)].into()),
            Health::Leaving => {
                info!(workload = %key, "leaves");
                self.leases.end(key);
                // Its stream ends with that, which tells it that nobody is sent to it any more.
                self.take_out(std::slice::from_ref(key));
                return true;
            }
        };
        if workload.unready == unready {
            return false;
        }
        match &unready {
            None => info!(workload = %key, "is ready"),
            Some(why) => info!(workload = %key, %why, "is not ready"),
        }
        let workload = Workload { unready, ..(**workload).clone() };
        self.put(workload);
        true
    }

    /// The proxy of a stream. One that another stream of the same workload replaced has no say any more.
    fn of_stream(&mut self, stream: &Stream) -> Option<(Key, &mut Proxy)> {
        let key = Claims::workload(&stream.peer, &stream.node)?;
        let proxy = self.proxies.get_mut(&key).filter(|proxy| proxy.stream == stream.number)?;
        Some((key, proxy))
    }
}

impl Handler for World {
    fn connect(&self, stream: &Stream) -> Result<watch::Receiver<Arc<Snapshot>>, Denied> {
        let mut state = self.lock();
        let (claims, workload) = match state.admit(&stream.peer, stream) {
            Ok(admitted) => admitted,
            Err(why) => {
                state.counters.denied_streams += 1;
                warn!(peer = %stream.peer, node = %stream.node.id, %why, "no discovery");
                return Err(Denied(why));
            }
        };
        let key = workload.key.clone();
        info!(workload = %key, node = %stream.node.id, agent = %stream.node.user_agent, "is connected");
        state.counters.streams += 1;
        state.leases.take(key.clone(), stream.number);
        state.put(workload);
        let proxy = Proxy::new(stream, claims);
        let snapshots = proxy.snapshots.subscribe();
        state.proxies.insert(key.clone(), proxy);
        state.publish_to(&key);
        drop(state);
        self.changed();
        Ok(snapshots)
    }

    fn wanted(&self, stream: &Stream, kind: Kind, names: &[String]) {
        let mut state = self.lock();
        let Some((key, proxy)) = state.of_stream(stream) else { return };
        if kind == Kind::Listener && proxy.want(names) {
            state.publish_to(&key);
        }
    }

    fn report(&self, stream: &Stream, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Accepted { .. } => state.counters.acknowledged += 1,
            Event::Refused { .. } => state.counters.refused += 1,
        }
        if let Some((key, proxy)) = state.of_stream(stream) {
            if let Event::Refused { kind, message, .. } = &event {
                warn!(workload = %key, ?kind, why = %message, "refuses config");
            }
            proxy.report(event);
        }
    }

    fn health(&self, stream: &Stream, health: Health) {
        let mut state = self.lock();
        // Others have no say here: Envoy and gRPC speak for themselves at most, not for a program beside them.
        let own = state.of_stream(stream).filter(|(_, proxy)| proxy.dialect == Dialect::Meshwork);
        let Some(key) = own.map(|(key, _)| key) else { return };
        if state.judge_health(&key, health) {
            drop(state);
            self.changed();
        }
    }

    fn disconnect(&self, stream: &Stream) {
        let mut state = self.lock();
        let Some((key, proxy)) = state.of_stream(stream) else { return };
        proxy.connected = false;
        info!(workload = %key, "is disconnected");
        state.leases.release(&key, stream.number, Instant::now());
        drop(state);
        // The lease's end is to be waited for.
        self.changed();
    }
}

/// Ports that a workload calls and no service has.
fn calls_into_the_void<'m>(mesh: &'m Mesh, workload: &'m Workload) -> impl Iterator<Item = Problem> + 'm {
    let unknown = |called: &&meshwork_model::mesh::Outbound| {
        let service = mesh.service(&called.service);
        !service.is_some_and(|(_, s)| s.ports.iter().any(|p| p.port == called.port))
    };
    workload.outbound.iter().filter(unknown).map(|called| {
        let message = format!("it calls {}:{}, and no Service has that port", called.service, called.port);
        let fix = "Add the Service, or correct the sidecar's --outbound";
        Problem::error(format!("Workload {}", workload.key), "", message, fix).warning()
    })
}

/// A workload whose label names a Service that is written, and selects others.
fn not_behind(mesh: &Mesh, workload: &Workload) -> Option<Problem> {
    let name = workload.labels.get(SERVICE_LABEL)?;
    let key = Key::new(Arc::clone(&workload.key.namespace), name.as_str());
    let service = mesh.config.services.get(&key)?;
    if translate::serves(service, workload) {
        return None;
    }
    let message =
        format!("its label {SERVICE_LABEL} names the Service {key}, which is written and does not select it");
    let fix = format!(
        "Add `{SERVICE_LABEL}: {name}` to the Service's selector, or give the workload's token the labels in it"
    );
    Some(Problem::error(format!("Workload {}", workload.key), "", message, fix).warning())
}

/// A workload that takes no requests.
fn not_ready(workload: &Workload) -> Option<Problem> {
    let message = format!("it is not ready and takes no requests: {}", workload.unready.as_ref()?);
    let fix = "It takes some when its readiness probe passes; look at what the program says";
    Some(Problem::error(format!("Workload {}", workload.key), "", message, fix).warning())
}

#[cfg(test)]
mod tests;
