//! Whether those at the other ends of open mTLS connections are still good.
//!
//! A handshake is judged by the trust of its moment. When that changes (somebody is revoked, a root or a federated trust
//! domain is taken away), every open connection is judged anew, once, by the certificates that its peer showed: before
//! the next request on it, and by [`follow`], a few at a time, so that those who are silent do not wait for a word, and
//! those who speak do not wait for the judging. Who is revoked is cut off at once, in whatever is under way; who is not
//! trusted any more may end that, for a moment.
//!
//! That a certificate expires ends no connection: it is judged as of its handshake. Source: Envoy, which checks
//! certificates in handshakes alone.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use meshwork_identity::{IdentityError, IdentitySource, SpiffeId};
use meshwork_telemetry::{Refusal, Registry};
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;
use tokio_rustls::rustls::CommonState;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::info;

use crate::error::{Kind, ProxyError};
use crate::limits::{JUDGED_AT_ONCE, UNTRUSTED_END};
use crate::occasion::Occasion;
use crate::worker::Worker;

/// Certificates that a peer showed, its own first.
pub(crate) type Certificates = Arc<[CertificateDer<'static>]>;

/// Judges the peers of one worker's connections.
pub(crate) struct Jury {
    identity: Option<Arc<IdentitySource>>,
    registry: Arc<Registry>,
    /// The trust that is judged by; it grows with each change.
    trust: Cell<u64>,
    /// All who are to be judged anew.
    seated: RefCell<Vec<Weak<Standing>>>,
    told: Occasion,
}

/// How a connection's peer stands.
pub(crate) struct Standing {
    jury: Rc<Jury>,
    certificates: Certificates,
    /// When it proved who it is.
    since: SystemTime,
    /// By which trust it was judged last.
    judged: Cell<u64>,
    verdict: Cell<Verdict>,
    /// Who waits for its bytes.
    waker: Cell<Option<Waker>>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on.
    Good,
    /// It ends with what is under way, or is cut off a moment later.
    Ends,
    /// It is cut off.
    Cut,
}

impl Jury {
    /// One of a worker whose process has this identity; without one nobody is judged.
    pub(crate) fn new(identity: Option<Arc<IdentitySource>>, registry: Arc<Registry>) -> Rc<Self> {
        let trust = Cell::new(identity.as_ref().map_or(0, |identity| identity.trust_generation()));
        Rc::new(Self { identity, registry, trust, seated: RefCell::default(), told: Occasion::default() })
    }

    /// Who the peer of a finished handshake is, and how they stand; `None` where they showed nothing.
    ///
    /// They are judged here once more: a session that was resumed repeats an older proof, and trust may have changed in
    /// the middle of the handshake. It costs next to nothing for a chain that was proven a moment ago.
    ///
    /// # Errors
    /// They are not good: revoked, expired, or not trusted (any more).
    pub(crate) fn admit(
        self: &Rc<Self>,
        session: &CommonState,
    ) -> Result<Option<(SpiffeId, Rc<Standing>)>, IdentityError> {
        let Some(identity) = &self.identity else { return Ok(None) };
        let Some(shown) = session.peer_certificates().filter(|shown| !shown.is_empty()) else {
            return Ok(None);
        };
        // Before they are judged: a change in between judges them again.
        let trust = identity.trust_generation();
        let id = identity.judge(shown)?;
        let standing = Rc::new(Standing {
            jury: Rc::clone(self),
            certificates: shown.into(),
            since: SystemTime::now(),
            judged: Cell::new(trust),
            verdict: Cell::new(Verdict::Good),
            waker: Cell::new(None),
        });
        let mut seated = self.seated.borrow_mut();
        if seated.len() == seated.capacity() {
            seated.retain(|seated| seated.strong_count() > 0);
        }
        seated.push(Rc::downgrade(&standing));
        drop(seated);
        Ok(Some((id, standing)))
    }

    /// From now on the trust of now is judged by; `true` where it was another.
    fn move_on(&self) -> bool {
        let trust = self.identity.as_ref().map_or(0, |identity| identity.trust_generation());
        self.trust.replace(trust) != trust
    }

    /// What becomes of a connection whose peer showed this then.
    fn judge(&self, standing: &Standing) -> Verdict {
        let Some(identity) = &self.identity else { return Verdict::Good };
        let certificates = &standing.certificates;
        if identity.judge(certificates).is_ok() {
            return Verdict::Good;
        }
        // That their time has passed meanwhile is no reason.
        let Err(error) = identity.trust().judge(certificates, standing.since) else { return Verdict::Good };
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
                if standing.look() == Verdict::Ends {
                    ending.push(Rc::downgrade(&standing));
                }
            }
            yield_now().await;
        }
        ending
    }
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

/// Gives those who may end what is under way a moment for that.
async fn cut_later(ending: Vec<Weak<Standing>>) {
    sleep(UNTRUSTED_END).await;
    for standing in ending.iter().filter_map(Weak::upgrade) {
        standing.set(Verdict::Cut);
    }
}

// === impl Standing ===

impl Standing {
    /// Judges anew, where trust has changed.
    fn look(&self) -> Verdict {
        let trust = self.jury.trust.get();
        if self.judged.replace(trust) != trust && self.verdict.get() == Verdict::Good {
            self.set(self.jury.judge(self));
        }
        self.verdict.get()
    }

    fn set(&self, verdict: Verdict) {
        self.verdict.set(verdict);
        if verdict != Verdict::Good
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Whether the connection may be used for something new.
    ///
    /// # Errors
    /// It may not: its peer is revoked, or not trusted any more.
    pub(crate) fn admit(&self) -> Result<(), ProxyError> {
        match self.look() {
            Verdict::Good => Ok(()),
            Verdict::Ends | Verdict::Cut => Err(ProxyError::fatal(Kind::Untrusted)),
        }
    }

    /// The certificates that the peer showed.
    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Whether the connection may be used for something new.
    pub(crate) fn is_good(&self) -> bool {
        self.look() == Verdict::Good
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
