//! The world: what is true now. Config, enrolments, the workloads that are there, and what each proxy has and said.
//!
//! It is the one writer of the mesh that `translate` reads. Ingest applies config, discovery tells of streams, the
//! clock ends leases; each change makes a new immutable [`Mesh`] and wakes the tasks of `run`, which publish it to the
//! proxies and keep the leases on disk. Every call is short: nothing here waits, reads a file or writes one.

mod concerned;
mod dirty;
mod elsewhere;
mod enrolments;
mod proxy;
mod publish;
mod status;
mod trust;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwork_model::mesh::{Config, GATEWAY_LABEL, Key, Resolution, SERVICE_LABEL, ServiceEntry, Workload};
use meshwork_model::problem::{Code, Problem};
use meshwork_model::proxy::{Kind, Locality};
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
use crate::translate::{self, Memo, Mesh};
use dirty::Dirty;
use enrolments::Enrolments;
pub(crate) use proxy::Proxy;
pub(crate) use trust::Enrolled;
use users::Users;

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
    /// The revision of the mesh's config.
    revision: u64,
    /// The newest revision that every proxy has been given as far as it concerns it.
    given: u64,
    enrolments: Enrolments,
    leases: Leases,
    /// Workloads whose streams other control planes have, and which.
    elsewhere: BTreeMap<Key, (String, Arc<Workload>)>,
    /// Workloads that came, changed or went since this was last asked for.
    moved: BTreeSet<Key>,
    proxies: BTreeMap<Key, Proxy>,
    users: Users,
    dirty: Dirty,
    memo: Memo,
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
        let mesh = Mesh::new(trust_domain, Arc::new(config), BTreeMap::new(), BTreeMap::new());
        let state = State {
            mesh: Arc::new(mesh),
            revision: 0,
            given: 0,
            enrolments: Enrolments::new(enrolments),
            leases: Leases::default(),
            elsewhere: BTreeMap::new(),
            moved: BTreeSet::new(),
            proxies: BTreeMap::new(),
            users: Users::default(),
            dirty: Dirty::default(),
            memo: Memo::default(),
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
    pub(crate) fn apply(&self, config: Config, problems: Vec<Problem>, revision: u64) {
        let mut state = self.lock();
        state.problems = problems;
        state.counters.configs_applied += 1;
        state.put_config(config);
        state.revision = revision;
        state.note_given();
        drop(state);
        self.changed();
    }

    /// Notes virtual addresses; those that were given before stay.
    pub(crate) fn address(&self, given: Addresses) {
        let mut state = self.lock();
        if given.keys().any(|name| !state.mesh.addresses.contains_key(name)) {
            Arc::make_mut(&mut Arc::make_mut(&mut state.mesh).addresses).extend(given);
            state.touch_wide();
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
        problems.extend(other_trust_domain(&state.mesh));
        for workload in state.mesh.workloads.values() {
            problems.extend(calls_into_the_void(&state.mesh, workload));
            problems.extend(not_behind(&state.mesh, workload));
            problems.extend(not_believed(&state.mesh, workload));
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
        let (labels, names) = (enrolment.labels.clone(), enrolments::service_of(&enrolment));
        let earlier = state.enrolments.put(enrolment);
        match connected {
            Some(connected) if identity.as_ref() == Some(&connected.identity) => {
                state.put(Workload { labels, ..(*connected).clone() });
            }
            // Who had the name until now has it no more: its stream ends, and nobody is sent there.
            Some(_) => state.take_out(&[key]),
            None => {}
        }
        for service in earlier.as_ref().and_then(enrolments::service_of).into_iter().chain(names) {
            state.imply(&service);
        }
        drop(state);
        self.changed();
    }

    /// Whether any workload is enrolled with an identity; one that is not gets no new certificate.
    pub(crate) fn is_enrolled(&self, identity: &SpiffeId) -> bool {
        let state = self.lock();
        state.enrolments.has_identity(&state.mesh.trust_domain, identity)
    }

    /// Ends all streams: each proxy keeps what it has and reconnects elsewhere or later.
    pub(crate) fn end_streams(&self) {
        let mut state = self.lock();
        state.proxies.clear();
        state.users = Users::default();
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
        let over = state.leases.expire(now);
        if over.is_empty() {
            return;
        }
        let gone = state.hand_back(over);
        for key in &gone {
            info!(workload = %key, "is gone");
        }
        state.take_out(&gone);
        drop(state);
        self.changed();
    }

    /// The workloads that went since this was last called, and those that came or changed.
    pub(crate) fn take_moved(&self) -> (Vec<Key>, Vec<Arc<Workload>>) {
        let mut state = self.lock();
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut state.moved) {
            match state.mesh.workloads.get(&key) {
                Some(workload) => there.push(Arc::clone(workload)),
                None => gone.push(key),
            }
        }
        (gone, there)
    }

    /// These are to be told of by [`World::take_moved`], again or in the first place.
    pub(crate) fn note_moved(&self, workloads: impl Iterator<Item = Key>) {
        self.lock().moved.extend(workloads);
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
    fn put_config(&mut self, config: Config) {
        match config.differing_slices(&self.mesh.config) {
            Some(slices) if slices.is_empty() => {}
            Some(slices) => {
                let touched = Arc::make_mut(&mut self.mesh).put_slices(Arc::new(config), &slices);
                self.touch(touched);
            }
            None => {
                let mesh = Arc::make_mut(&mut self.mesh);
                let mut earlier = (*mesh.implied).clone();
                earlier.retain(|key, _| self.enrolments.has_behind(key));
                mesh.implied = Arc::new(implied::services(&config, &mesh.workloads, &earlier));
                mesh.put_config(Arc::new(config));
                self.memo.renew();
                self.dirty.add_proxies(self.proxies.keys(), Instant::now());
            }
        }
    }

    fn put(&mut self, workload: Workload) {
        let key = workload.key.clone();
        let earlier = self.mesh.workloads.get(&key).cloned();
        if earlier.as_deref() == Some(&workload) {
            return;
        }
        let is_as_before = |earlier: &Arc<Workload>| {
            Workload { unready: workload.unready.clone(), ..(**earlier).clone() } == workload
        };
        let is_health_only = earlier.as_ref().is_some_and(is_as_before);
        let names = names_of(earlier.as_deref()).chain(names_of(Some(&workload))).collect::<BTreeSet<_>>();
        self.moved.insert(key.clone());
        let touched = Arc::make_mut(&mut self.mesh).put(workload);
        self.touch(touched);
        if is_health_only {
            // Hosts of entries that select workloads have no endpoints apart from their cluster.
            let selects = |entry: &ServiceEntry| matches!(entry.resolution, Resolution::Workloads(_));
            if self.mesh.config.service_entries.values().any(selects) {
                self.touch_wide();
            }
            return;
        }
        if self.proxies.contains_key(&key) {
            self.dirty.add_proxies([&key], Instant::now());
        }
        self.touch_wide();
        for service in names {
            self.imply(&service);
        }
    }

    fn take_out(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(proxy) = self.proxies.remove(key) {
                self.users.remove(key, &proxy.services);
            }
            self.dirty.clean(key);
            let Some(workload) = self.mesh.workloads.get(key).cloned() else { continue };
            self.moved.insert(key.clone());
            let touched = Arc::make_mut(&mut self.mesh).remove(key);
            self.touch(touched);
            self.touch_wide();
            for service in names_of(Some(&workload)) {
                self.imply(&service);
            }
        }
    }

    /// Makes the service that a label names what its workloads imply. Where that changes, so may what leads to it.
    fn imply(&mut self, key: &Key) {
        if self.mesh.config.services.contains_key(key) {
            return;
        }
        let earlier = self.mesh.implied.get(key).filter(|_| self.enrolments.has_behind(key));
        let service = implied::service(key, self.mesh.labelled(key), earlier);
        if self.mesh.implied.get(key) == service.as_ref() {
            return;
        }
        Arc::make_mut(&mut self.mesh).imply(key, service);
        self.memo.renew();
        let now = Instant::now();
        self.dirty.add_proxies(self.users.of(key).chain(self.users.wide()), now);
        // Its own workloads learn what is spoken on their ports.
        let own = self.mesh.labelled(key).map(|workload| &workload.key);
        self.dirty.add_proxies(own.filter(|key| self.proxies.contains_key(*key)), now);
    }

    /// Endpoints of these services may have changed.
    fn touch(&mut self, services: BTreeSet<Key>) {
        for service in &services {
            self.memo.touch(service);
        }
        self.dirty.add_services(services);
    }

    /// Which services and workloads there are may have changed.
    fn touch_wide(&mut self) {
        self.dirty.add_proxies(self.users.wide(), Instant::now());
    }

    /// Judges a node: its claims, and the enrolment of the workload that it says it is.
    fn admit(&self, peer: &SpiffeId, stream: &Stream) -> Result<(Claims, Workload), String> {
        if self.mesh.revoked.contains(peer) {
            return Err(format!("the identity {peer} is revoked; `meshwork ca revocations` says why"));
        }
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
            gateway: claims.gateway.clone(),
            unready: self.unready(&claims),
            locality: locality(&stream.node.locality),
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
            Health::Unready(why) => Some(proxy::words(&why, MAX_HEALTH_BYTES).into()),
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
        if state.elsewhere.contains_key(&key) {
            // The store says that it is another's, until we say so.
            state.moved.insert(key.clone());
        }
        state.put(workload);
        let proxy = Proxy::new(stream, claims);
        let snapshots = proxy.snapshots.subscribe();
        if let Some(earlier) = state.proxies.insert(key.clone(), proxy) {
            state.users.remove(&key, &earlier.services);
        }
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

/// The service that a workload's label names.
fn names_of(workload: Option<&Workload>) -> impl Iterator<Item = Key> + use<> {
    let service = workload.and_then(|workload| {
        let name = workload.labels.get(SERVICE_LABEL)?;
        Some(Key::new(Arc::clone(&workload.key.namespace), name.as_str()))
    });
    service.into_iter()
}

fn locality([region, zone, sub_zone]: &[String; 3]) -> Locality {
    let [region, zone, sub_zone] = [region, zone, sub_zone].map(|part| part.as_str().into());
    Locality { region, zone, sub_zone }
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
        Problem::error(format!("Workload {}", workload.key), "", message, fix).of(Code::Workload).warning()
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
    Some(Problem::error(format!("Workload {}", workload.key), "", message, fix).of(Code::Workload).warning())
}

/// A gateway that asks for others, by nobody's word but its own.
fn not_believed(mesh: &Mesh, workload: &Workload) -> Option<Problem> {
    let node = workload.gateway.as_ref().filter(|_| translate::is_disbelieved(mesh, workload))?;
    let message = format!(
        "it serves the Gateway {}, and was not enrolled to: policies that ask for the client's address do not believe it",
        node.name
    );
    let fix = format!("Enrol it with a token of the label {GATEWAY_LABEL}={}", node.name);
    Some(Problem::error(format!("Workload {}", workload.key), "", message, fix).of(Code::Workload).warning())
}

/// A trust domain is chosen when a mesh is made: config can only be wrong about it.
fn other_trust_domain(mesh: &Mesh) -> Option<Problem> {
    let said = mesh.config.defaults.trust_domain.as_ref().filter(|said| **said != mesh.trust_domain)?;
    let message = format!("the mesh's trust domain is `{}`, not `{said}`", mesh.trust_domain);
    let resource = format!("MeshConfig {}/default", crate::SYSTEM_NAMESPACE);
    let fix = "It is said when the control plane is started";
    Some(Problem::error(resource, "spec.trustDomain", message, fix).of(Code::Conflict).warning())
}

/// A workload that takes no requests.
fn not_ready(workload: &Workload) -> Option<Problem> {
    let message = format!("it is not ready and takes no requests: {}", workload.unready.as_ref()?);
    let fix = "It takes some when its readiness probe passes; look at what the program says";
    Some(Problem::error(format!("Workload {}", workload.key), "", message, fix).of(Code::Workload).warning())
}

#[cfg(test)]
mod tests;
