//! Whether those at the other ends of open mTLS connections are still good.
//!
//! A handshake is judged by the trust of its moment. When that changes (somebody is revoked, a root or a federated trust
//! domain is taken away), every open connection is judged anew, once, by the certificates that its peer showed: before
//! the next request on it, and by [`follow`], a few at a time, so that those who are silent do not wait for a word, and
//! those who speak do not wait for the judging. Who is revoked is cut off at once, in whatever is under way; who is not
//! trusted any more may end that, for a moment.
//!
//! Before a root is taken away, nothing new is signed under it for a while. In that time connections that were proven
//! under it, by their peer or by us, are retired ([`retire`]): no request is begun on them where that costs nobody
//! anything, so that next to none is left to be ended when the root goes.
//!
//! That a certificate expires ends no connection: it is judged as of its handshake. Source: Envoy, which checks
//! certificates in handshakes alone.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use meshwork_identity::{Appraisal, IdentityError, IdentitySource, SpiffeId};
use meshwork_telemetry::{Refusal, Registry};
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::rustls::CommonState;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::info;

use crate::error::{Kind, ProxyError};
use crate::limits::{JUDGED_AT_ONCE, RETIRED_SHARE, RETIRED_WITHIN, UNTRUSTED_END};
use crate::occasion::Occasion;
use crate::worker::Worker;

/// Certificates that a peer showed, its own first.
pub(crate) type Certificates = Arc<[CertificateDer<'static>]>;

/// Judges the peers of one worker's connections.
pub(crate) struct Jury {
    identity: Option<Arc<IdentitySource>>,
    registry: Arc<Registry>,
    /// What is judged by.
    basis: Cell<Basis>,
    /// The root that our own certificate is under.
    root: RefCell<Option<String>>,
    /// Whether it is the one that new certificates are under: those under another are about to be replaced.
    leads: Cell<bool>,
    /// Since when all of this is so, as far as is known.
    turned: Cell<Instant>,
    turning: Notify,
    /// All who are to be judged anew.
    seated: RefCell<Vec<Weak<Standing>>>,
    /// Told when there is a connection to be retired.
    aged: Notify,
    told: Occasion,
}

/// What judgements depend on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Basis {
    /// The trust; it grows with each change.
    trust: u64,
    /// Counts the roots that our own certificate has been under.
    turn: u64,
}

/// How a connection's peer stands.
pub(crate) struct Standing {
    jury: Rc<Jury>,
    certificates: Certificates,
    /// When it proved who it is.
    since: SystemTime,
    /// How many roots our own certificate had been under before the handshake, where we called: it showed one under the
    /// last of them.
    turn: Option<u64>,
    /// By what it was judged last.
    judged: Cell<Basis>,
    verdict: Cell<Verdict>,
    /// Who waits for its bytes.
    waker: Cell<Option<Waker>>,
}

/// What becomes of a connection, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It goes on.
    Good,
    /// It goes on, and is about to be retired: it was proven under a root that is about to go.
    Aged,
    /// Requests go elsewhere from now on, without haste: what comes on it is served all the same.
    Retired,
    /// It ends with what is under way, or is cut off a moment later.
    Ends,
    /// It is cut off.
    Cut,
}

impl Jury {
    /// One of a worker whose process has this identity; without one nobody is judged.
    pub(crate) fn new(identity: Option<Arc<IdentitySource>>, registry: Arc<Registry>) -> Rc<Self> {
        let trust = identity.as_ref().map_or(0, |identity| identity.trust_generation());
        let root = identity.as_ref().and_then(|identity| identity.own_root());
        let leads = identity.as_ref().is_some_and(|identity| leads(identity, root.as_deref()));
        Rc::new(Self {
            identity,
            registry,
            basis: Cell::new(Basis { trust, turn: 0 }),
            root: RefCell::new(root),
            leads: Cell::new(leads),
            turned: Cell::new(Instant::now()),
            turning: Notify::new(),
            seated: RefCell::default(),
            aged: Notify::new(),
            told: Occasion::default(),
        })
    }

    /// How many roots our own certificate has been under: what is asked before a call is what [`Self::admit`] is told then.
    pub(crate) fn turn(&self) -> u64 {
        self.basis.get().turn
    }

    /// Who the peer of a finished handshake is, and how they stand; `None` where they showed nothing. `turn` is from before
    /// the handshake, where we called.
    ///
    /// They are judged here once more: a session that was resumed repeats an older proof, and trust may have changed in
    /// the middle of the handshake. It costs next to nothing for a chain that was proven a moment ago.
    ///
    /// # Errors
    /// They are not good: revoked, expired, or not trusted (any more).
    pub(crate) fn admit(
        self: &Rc<Self>,
        session: &CommonState,
        turn: Option<u64>,
    ) -> Result<Option<(SpiffeId, Rc<Standing>)>, IdentityError> {
        let Some(identity) = &self.identity else { return Ok(None) };
        let Some(shown) = session.peer_certificates().filter(|shown| !shown.is_empty()) else {
            return Ok(None);
        };
        // Before they are judged: a change in between judges them again.
        let basis = Basis { trust: identity.trust_generation(), ..self.basis.get() };
        let peer = identity.appraise(shown)?;
        let verdict = self.age(&peer, turn);
        let standing = Rc::new(Standing {
            jury: Rc::clone(self),
            certificates: shown.into(),
            since: SystemTime::now(),
            turn,
            judged: Cell::new(basis),
            verdict: Cell::new(verdict),
            waker: Cell::new(None),
        });
        let mut seated = self.seated.borrow_mut();
        if seated.len() == seated.capacity() {
            seated.retain(|seated| seated.strong_count() > 0);
        }
        seated.push(Rc::downgrade(&standing));
        drop(seated);
        if verdict == Verdict::Aged {
            self.aged.notify_one();
        }
        Ok(Some((peer.id, standing)))
    }

    /// Metrics of the process.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// From now on it is judged by the trust of now, and by the root that our own certificate is under now; `true` where
    /// one of them was another.
    fn move_on(&self) -> bool {
        let Some(identity) = &self.identity else { return false };
        let before = self.basis.get();
        let trust = identity.trust_generation();
        let root = identity.own_root();
        let leads = leads(identity, root.as_deref());
        let has_turned = *self.root.borrow() != root;
        if self.leads.replace(leads) != leads || has_turned {
            self.root.replace(root);
            self.turned.set(Instant::now());
            self.turning.notify_one();
        }
        let basis = Basis { trust, turn: before.turn + u64::from(has_turned) };
        self.basis.replace(basis) != basis
    }

    /// Whether a connection whose peer is good is to be retired: because of what the peer showed, or of what we did.
    ///
    /// The peer's root counts only where we have left it ourselves: until then whoever comes anew comes with the same.
    fn age(&self, peer: &Appraisal, turn: Option<u64>) -> Verdict {
        let is_ours_old = turn.is_some_and(|turn| turn != self.turn());
        let is_theirs_old = !peer.is_current && self.leads.get();
        if is_ours_old || is_theirs_old { Verdict::Aged } else { Verdict::Good }
    }

    /// What becomes of a connection whose peer showed this then.
    fn judge(&self, standing: &Standing) -> Verdict {
        let Some(identity) = &self.identity else { return Verdict::Good };
        let certificates = &standing.certificates;
        let judged = identity.appraise(certificates);
        // That their time has passed meanwhile is no reason.
        let judged = judged.or_else(|_| identity.trust().appraise(certificates, standing.since));
        let error = match judged {
            Ok(peer) => return self.age(&peer, standing.turn),
            Err(error) => error,
        };
        self.registry.count_refusal(Refusal::Untrusted);
        if let Some(untold) = self.told.arises() {
            info!(untold, "ends an open connection: {error} (MW0411)");
        }
        if matches!(error, IdentityError::Revoked { .. }) { Verdict::Cut } else { Verdict::Ends }
    }

    /// Judges all, a few at a time; those who may end what is under way.
    async fn judge_all(&self) -> Vec<Weak<Standing>> {
        let all: Vec<Weak<Standing>> = {
            let mut seated = self.seated.borrow_mut();
            seated.retain(|seated| seated.strong_count() > 0);
            seated.clone()
        };
        let mut ending = Vec::new();
        for few in all.chunks(JUDGED_AT_ONCE) {
            for standing in few.iter().filter_map(Weak::upgrade) {
                match standing.look() {
                    Verdict::Aged => self.aged.notify_one(),
                    Verdict::Ends => ending.push(Rc::downgrade(&standing)),
                    Verdict::Good | Verdict::Retired | Verdict::Cut => {}
                }
            }
            yield_now().await;
        }
        ending
    }

    /// Those that are to be retired.
    fn aged(&self) -> Vec<Weak<Standing>> {
        let is_aged = |seated: &&Weak<Standing>| {
            seated.upgrade().is_some_and(|standing| standing.verdict.get() == Verdict::Aged)
        };
        self.seated.borrow().iter().filter(is_aged).cloned().collect()
    }

    /// Retires those, one after the other, so that not all whom it concerns come anew at once.
    async fn retire_aged(&self) {
        let within = RETIRED_WITHIN.max(self.turned.get().elapsed() / RETIRED_SHARE);
        let aged = self.aged();
        let count = u32::try_from(aged.len()).unwrap_or(u32::MAX);
        let Some(pause) = within.checked_div(count) else { return };
        info!(connections = count, "retires connections that were proven under another root than today's");
        let mut next = Instant::now();
        for standing in aged {
            next += pause;
            sleep_until(next).await;
            if let Some(standing) = standing.upgrade() {
                standing.retire();
            }
        }
    }
}

/// Whether new certificates are under the root of our own.
fn leads(identity: &IdentitySource, root: Option<&str>) -> bool {
    root.is_some() && identity.trust().issuer() == root
}

/// Has all connections of a worker judged anew whenever trust changes; runs for ever, one per worker.
pub(crate) async fn follow(worker: Rc<Worker>) {
    let jury = Rc::clone(&worker.jury);
    let Some(mut changes) = jury.identity.as_deref().map(IdentitySource::changes) else { return };
    loop {
        if jury.move_on() {
            worker.note_trust();
            let ending = jury.judge_all().await;
            worker.sweep_pools();
            if !ending.is_empty() {
                spawn_local(cut_later(ending));
            }
            // Trust may have changed meanwhile.
            continue;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Retires connections of a worker that are to be; runs for ever, one per worker.
pub(crate) async fn retire(jury: Rc<Jury>) {
    loop {
        jury.aged.notified().await;
        tokio::select! {
            () = jury.retire_aged() => {}
            // Those of the turn before may have had more time than these do.
            () = jury.turning.notified() => jury.aged.notify_one(),
        }
    }
}

/// Gives those who may end what is under way a moment for that.
async fn cut_later(ending: Vec<Weak<Standing>>) {
    sleep(UNTRUSTED_END).await;
    for standing in ending.iter().filter_map(Weak::upgrade) {
        standing.set(Verdict::Cut);
    }
}

// === impl Standing ===

impl Standing {
    /// Judges anew, where that by which it is judged has changed.
    fn look(&self) -> Verdict {
        let (basis, verdict) = (self.jury.basis.get(), self.verdict.get());
        if self.judged.replace(basis) != basis && verdict < Verdict::Ends {
            // Whoever was told to go elsewhere will.
            let best = if verdict == Verdict::Retired { Verdict::Retired } else { Verdict::Good };
            self.set(self.jury.judge(self).max(best));
        }
        self.verdict.get()
    }

    /// From now on requests go elsewhere, unless that has become needless, or more is due.
    fn retire(&self) {
        if self.look() == Verdict::Aged {
            self.set(Verdict::Retired);
        }
    }

    fn set(&self, verdict: Verdict) {
        self.verdict.set(verdict);
        if verdict > Verdict::Aged
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Whether what the peer asks for on the connection may be done.
    ///
    /// # Errors
    /// It may not: the peer is revoked, or not trusted any more.
    pub(crate) fn admit(&self) -> Result<(), ProxyError> {
        match self.look() {
            Verdict::Good | Verdict::Aged | Verdict::Retired => Ok(()),
            Verdict::Ends | Verdict::Cut => Err(ProxyError::fatal(Kind::Untrusted)),
        }
    }

    /// The certificates that the peer showed.
    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Whether we may use the connection for something new: its peer is trusted, and it is not retired.
    pub(crate) fn is_good(&self) -> bool {
        self.look() < Verdict::Retired
    }

    /// Whether the peer is to be told that requests go elsewhere, and those that come here nevertheless are served.
    pub(crate) fn is_retired(&self) -> bool {
        self.verdict.get() == Verdict::Retired
    }

    /// Whether no byte passes any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.verdict.get() == Verdict::Cut
    }

    /// Whoever waits for the connection's bytes is woken when it ends.
    pub(crate) fn wait(&self, waker: &Waker) {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// Nobody waits for the connection's bytes now.
    pub(crate) fn rest(&self) {
        self.waker.set(None);
    }
}
