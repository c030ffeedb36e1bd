//! The certificates of this host's workloads: asked for when a workload first wants one, kept fresh while it does and for
//! a while after. In memory only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use meshwork_identity::{Key, SpiffeId, Svid};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::enrol::ask::{Asker, Wish};
use crate::enrol::schedule::Plan;
use crate::enrol::{EnrolError, Enrolled, Said, due, is_out_of_place, usable};

/// Identities that are held at once.
pub(crate) const MAX_HELD: usize = 4096;
/// Certificates that are asked for at once.
const MAX_ASKED: usize = 8;
/// How long an identity is kept fresh that nobody wants any more: a workload that is started anew finds it at once.
const IDLE: Duration = Duration::from_mins(10);
/// How often is looked whether an identity is still wanted.
const LOOK: Duration = Duration::from_secs(30);

/// What there is of an identity.
#[derive(Clone)]
pub(crate) enum State {
    /// It has been asked for.
    Pending,
    /// A certificate that is valid now.
    Ready(Arc<Svid>),
    /// There is none, and why.
    Failed(Arc<str>),
}

/// The certificates of this host's workloads.
pub(crate) struct Workloads {
    enrolled: Arc<Enrolled>,
    held: Mutex<BTreeMap<SpiffeId, Entry>>,
    changes: watch::Sender<u64>,
    asking: Semaphore,
}

struct Entry {
    state: State,
    users: usize,
    idle_since: Instant,
}

/// That somebody wants an identity.
pub(crate) struct Hold {
    workloads: Arc<Workloads>,
    id: SpiffeId,
}

impl Workloads {
    /// Holds none. `changes` is told of every change.
    pub(crate) fn new(enrolled: Arc<Enrolled>, changes: watch::Sender<u64>) -> Arc<Self> {
        Arc::new(Self { enrolled, held: Mutex::default(), changes, asking: Semaphore::new(MAX_ASKED) })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, Entry>> {
        // Whoever panicked while holding it left a whole map.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants an identity, from now on. To be called within a tokio runtime.
    ///
    /// # Errors
    /// As many are held as may be.
    pub(crate) fn hold(self: &Arc<Self>, id: &SpiffeId) -> Result<Hold, String> {
        if !self.is_own(id) {
            let mut held = self.held();
            if !held.contains_key(id) && held.len() >= MAX_HELD {
                return Err(format!("the agent holds {MAX_HELD} identities already"));
            }
            let is_new = !held.contains_key(id);
            let new = || Entry { state: State::Pending, users: 0, idle_since: Instant::now() };
            held.entry(id.clone()).or_insert_with(new).users += 1;
            drop(held);
            if is_new {
                let (this, id) = (Arc::clone(self), id.clone());
                tokio::spawn(async move { this.keep(&id).await });
            }
        }
        Ok(Hold { workloads: Arc::clone(self), id: id.clone() })
    }

    /// What there is of an identity that is held.
    pub(crate) fn state(&self, id: &SpiffeId) -> State {
        let state = if self.is_own(id) {
            State::Ready(self.enrolled.identity.svid())
        } else {
            self.held().get(id).map_or(State::Pending, |entry| entry.state.clone())
        };
        match state {
            State::Ready(svid) if svid.not_after() <= SystemTime::now() => {
                State::Failed("its certificate has expired, and the control plane gives no other".into())
            }
            State::Ready(svid) if self.enrolled.identity.trust().revokes(svid.chain()) => State::Pending,
            state => state,
        }
    }

    /// All that are held: identity, state, and how many want it.
    pub(crate) fn all(&self) -> Vec<(SpiffeId, State, usize)> {
        let held: Vec<(SpiffeId, usize)> =
            self.held().iter().map(|(id, entry)| (id.clone(), entry.users)).collect();
        held.into_iter().map(|(id, users)| (id.clone(), self.state(&id), users)).collect()
    }

    fn is_own(&self, id: &SpiffeId) -> bool {
        self.enrolled.identity.id() == id
    }

    fn set(&self, id: &SpiffeId, state: State) {
        if let Some(entry) = self.held().get_mut(id) {
            entry.state = state;
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Keeps an identity fresh for as long as somebody wants it, and some time more.
    async fn keep(&self, id: &SpiffeId) {
        tokio::select! {
            () = self.renew_for_ever(id) => {}
            () = self.unwanted(id) => info!(%id, "nobody wants this identity any more"),
        }
    }

    /// Ends when nobody has wanted an identity for a while, and forgets it then.
    async fn unwanted(&self, id: &SpiffeId) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut held = self.held();
            let Some(entry) = held.get(id) else { return };
            if entry.users == 0 && entry.idle_since.elapsed() >= IDLE {
                held.remove(id);
                return;
            }
        }
    }

    async fn renew_for_ever(&self, id: &SpiffeId) {
        let mut plan: Option<Plan> = None;
        let (mut failures, mut in_vain, mut said) = (0, 0, Said::default());
        loop {
            match self.obtain(id).await {
                Ok(svid) => {
                    info!(%id, serial = svid.serial(), "holds a certificate of a workload");
                    let (identity, clock) = (&self.enrolled.identity, self.enrolled.clock());
                    let now = clock.now();
                    let next = Plan::new(now.wall, svid.not_after(), now, fastrand::f64());
                    (failures, said) = (0, Said::default());
                    let is_in_vain = is_out_of_place(&identity.trust(), &svid);
                    in_vain = if is_in_vain { in_vain + 1 } else { 0 };
                    plan = Some(next);
                    let svid = Arc::new(svid);
                    self.set(id, State::Ready(Arc::clone(&svid)));
                    due(identity, &svid, &next, clock, in_vain).await;
                }
                Err(error) => {
                    failures += 1;
                    self.complain(id, &error, &mut said);
                    let (now, random) = (self.enrolled.clock().now().wall, fastrand::f64());
                    let pause = match &plan {
                        Some(plan) => plan.backoff(failures, now, random),
                        None => crate::enrol::schedule::backoff(failures, random),
                    };
                    tokio::time::sleep(pause.max(error.pause())).await;
                }
            }
        }
    }

    fn complain(&self, id: &SpiffeId, error: &EnrolError, said: &mut Said) {
        let text = error.to_string();
        if said.is_news(&text) {
            warn!(%id, error = text, "cannot get a certificate of a workload");
        }
        if !matches!(self.state(id), State::Ready(_)) {
            self.set(id, State::Failed(text.into()));
        }
    }

    async fn obtain(&self, id: &SpiffeId) -> Result<Svid, EnrolError> {
        // It is never closed.
        let _permit = self.asking.acquire().await;
        let key = Key::generate()?;
        let asker = Asker {
            channel: self.enrolled.shared_channel(),
            address: self.enrolled.control_plane,
            lifetime: self.enrolled.lifetime(),
        };
        let chain = asker.ask(&key.csr_pem(id)?, Wish::For(id)).await?;
        let svid = usable(&chain, &self.enrolled.identity.bundle(), key)?;
        if svid.id() != id {
            let (found, expected) = (svid.id().to_string(), id.to_string());
            return Err(EnrolError::Answer(meshwork_identity::IdentityError::Unexpected { found, expected }));
        }
        Ok(svid)
    }
}

impl Hold {
    /// What there is of the identity.
    pub(crate) fn state(&self) -> State {
        self.workloads.state(&self.id)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(entry) = self.workloads.held().get_mut(&self.id) {
            entry.users = entry.users.saturating_sub(1);
            entry.idle_since = Instant::now();
        }
    }
}
