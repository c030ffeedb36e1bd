//! Keeping an identity and what it believes current: renewal of the certificate, and the trust that the control plane
//! publishes.
//!
//! The two touch: each renewal opens the stream of trust anew, so that the control plane sees by the connection under
//! which root the certificate is; and trust that names another issuing root than ours brings the renewal forward.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwork_identity::{IdentityError, IdentitySource, Key, Svid, Trust};
use meshwork_xds as xds;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::ask::{Asker, Wish};
use super::clock::Clock;
use super::schedule::{self, Plan};
use super::{EnrolError, Enrolled, copy, state, usable};
use crate::channel::channel;

/// The secret with whom to believe.
const TRUST: &str = "trust";
/// How often what goes wrong is worth a line of its own, where it stays the same.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// How soon something else is: causes that take turns say little.
const SAY_OTHER: Duration = Duration::from_secs(10);

/// Which identity shows itself to the control plane, and by which roots that is judged.
///
/// Until it has told its trust, its certificate may be under a root that only the bootstrap's bundle has, or only the
/// trust that was kept: either is good for it, and for no other peer.
pub(super) struct Link {
    source: Mutex<Arc<IdentitySource>>,
}

impl Link {
    pub(super) fn new(source: Arc<IdentitySource>) -> Self {
        Self { source: Mutex::new(source) }
    }

    pub(super) fn source(&self) -> Arc<IdentitySource> {
        // Whoever panicked while holding it left it whole.
        Arc::clone(&self.source.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, source: &Arc<IdentitySource>) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(source);
    }
}

impl Enrolled {
    /// Renews the certificate at half of its life, give or take a tenth of it, for ever; after failures again and again
    /// with growing pauses; sooner where certificates are issued under another root by now. What it gets is on disk
    /// before it is used. Beside that it follows whom to believe. `workload` is the name in the join token.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was not finished then is asked for again.
    pub async fn keep_fresh(&self, workload: &str) {
        self.keep_fresh_with(workload, &[], |_, _| Ok(())).await;
    }

    /// As [`Enrolled::keep_fresh`], and follows more secrets of the control plane, which `apply` gets.
    pub(crate) async fn keep_fresh_with(
        &self,
        workload: &str,
        more: &[&str],
        mut apply: impl FnMut(&str, &[u8]) -> Result<(), String> + Send,
    ) {
        let names: Vec<&str> = [TRUST].into_iter().chain(more.iter().copied()).collect();
        let renewed = watch::Sender::new(0);
        let mut kept = None;
        let take = |name: &str, bytes: &[u8]| match name {
            TRUST => self.take_trust(bytes, &mut kept),
            other => apply(other, bytes),
        };
        let connect = || self.channel();
        tokio::select! {
            () = xds::sds::follow(connect, self.node(workload), &names, take, renewed.subscribe()) => {}
            () = self.renew_for_ever(&renewed) => {}
        }
    }

    /// A connection to the control plane that is made when it is first used. To be called within a tokio runtime.
    pub fn channel(&self) -> Channel {
        channel(&self.link.source(), self.control_plane, &self.server)
    }

    /// A connection to the control plane that all share until the certificate is another one. To be called within a
    /// tokio runtime.
    pub(crate) fn shared_channel(&self) -> Channel {
        let serial = self.identity.svid().serial();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.as_ref() {
            Some((of, channel)) if *of == serial => channel.clone(),
            _ => shared.insert((serial, self.channel())).1.clone(),
        }
    }

    /// By which certificates are renewed.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How long certificates should live, where that was said.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// How we introduce ourselves beside our certificate.
    fn node(&self, workload: &str) -> xds::Node {
        let (namespace, account) = self.identity.id().namespace_and_account().unwrap_or_default();
        xds::Node {
            id: format!("sidecar~{workload}.{namespace}"),
            cluster: format!("{workload}.{namespace}"),
            user_agent: xds::USER_AGENT.to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata: json!({"NAME": workload, "NAMESPACE": namespace, "SERVICE_ACCOUNT": account}),
            ..xds::Node::default()
        }
    }

    /// Puts trust in place: on disk first, then where handshakes read it. Where it cannot be kept it counts all the
    /// same, and the control plane is told: a process that is started anew might be locked out.
    pub(super) fn take_trust(&self, bytes: &[u8], last: &mut Option<Vec<u8>>) -> Result<(), String> {
        if last.as_deref() == Some(bytes) {
            return Ok(());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let trust =
            Trust::from_json(text, self.identity.id().trust_domain()).map_err(|error| error.to_string())?;
        // First what is not to come back: until the new trust is on disk, the old one counts at the next start anyway.
        let before = self.link.source().bundle().fingerprints();
        let removed = self.state.note_removed(&before, &trust.own().fingerprints());
        let kept = removed.and(self.state.keep_trust(text));
        if *self.identity.trust() != trust {
            let (roots, federated) = (trust.own().fingerprints().len(), trust.federated().count());
            let revoked = trust.revoked().identities().count() + trust.revoked().serials().count();
            self.identity.replace_trust(trust).map_err(|error| error.to_string())?;
            info!(roots, federated, revoked, "believes what the control plane says");
        }
        self.link.replace(&self.identity);
        kept.map_err(|error| format!("it counts, but cannot be kept: {error}"))?;
        *last = Some(bytes.to_vec());
        Ok(())
    }

    async fn renew_for_ever(&self, renewed: &watch::Sender<u64>) {
        let mut said = Said::default();
        let mut in_vain = 0;
        loop {
            let svid = self.identity.svid();
            let plan = self.plan(&svid);
            self.identity.note_renewal(|renewal| renewal.due = Some(plan.due()));
            due(&self.identity, &svid, &plan, &self.clock, in_vain).await;
            let mut failures = 0;
            while let Err(error) = self.renew().await {
                failures += 1;
                self.complain(&error, &mut said);
                let now = self.clock.now().wall;
                let pause = plan.backoff(failures, now, fastrand::f64()).max(error.pause());
                self.identity.note_renewal(|renewal| {
                    renewal.failure = Some((now, error.to_string()));
                    renewal.due = Some(now + pause);
                });
                tokio::time::sleep(pause).await;
            }
            said = Said::default();
            let is_in_vain = is_out_of_place(&self.identity.trust(), &self.identity.svid());
            in_vain = if is_in_vain { in_vain.saturating_add(1) } else { 0 };
            renewed.send_modify(|count| *count += 1);
        }
    }

    fn plan(&self, svid: &Svid) -> Plan {
        let obtained = *self.obtained.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = obtained.unwrap_or_else(|| svid.not_before());
        Plan::new(begin, svid.not_after(), self.clock.now(), fastrand::f64())
    }

    /// Asks for a new certificate with a new key, showing the current one.
    pub(super) async fn renew(&self) -> Result<(), EnrolError> {
        let key = Key::generate()?;
        let asker = Asker { channel: self.channel(), address: self.control_plane, lifetime: self.lifetime };
        let chain = asker.ask(&key.csr_pem(self.identity.id())?, Wish::Own).await?;
        self.take(&chain, key)
    }

    /// Checks a renewed certificate, keeps it on disk, and puts it in place.
    pub(super) fn take(&self, chain: &str, key: Key) -> Result<(), EnrolError> {
        // It has all roots that our own certificate may be under.
        let svid = usable(chain, &self.link.source().bundle(), key)?;
        if svid.id() != self.identity.id() {
            let (found, expected) = (svid.id().to_string(), self.identity.id().to_string());
            return Err(EnrolError::Answer(IdentityError::Unexpected { found, expected }));
        }
        self.state.store(&svid)?;
        self.put(svid)?;
        let obtained = Some(self.clock.now().wall);
        *self.obtained.lock().unwrap_or_else(PoisonError::into_inner) = obtained;
        self.identity.note_renewal(|renewal| renewal.last = obtained);
        info!(id = %self.identity.id(), serial = self.identity.svid().serial(), "renewed its certificate");
        Ok(())
    }

    /// Puts a certificate in place; where only the bootstrap's bundle has its root, that bundle, too.
    fn put(&self, svid: Svid) -> Result<(), EnrolError> {
        let link = self.link.source();
        if Arc::ptr_eq(&link, &self.identity) {
            return Ok(self.identity.replace_svid(svid)?);
        }
        link.replace_svid(copy(&svid)?)?;
        if svid.check_under(&self.identity.bundle()).is_ok() {
            return Ok(self.identity.replace_svid(svid)?);
        }
        Ok(self.identity.replace_both(svid, link.bundle().as_ref().clone())?)
    }

    fn complain(&self, problem: &EnrolError, said: &mut Said) {
        let text = problem.to_string();
        let is_expired = self.identity.expires_at() <= self.clock.now().wall;
        if !said.is_news(if is_expired { "expired" } else { &text }) {
            return;
        }
        if is_expired {
            let why = state::expired(&self.identity.svid());
            error!(
                error = text,
                "{why}: peers refuse us until it is renewed, which is tried again and again; where the control plane \
                 does not take the old certificate any more, start again with a new join token"
            );
        } else if problem.is_distrust() {
            warn!(
                error = text,
                "cannot renew the certificate; where the control plane does not take it any more, start again with a new \
                 join token"
            );
        } else {
            warn!(error = text, "cannot renew the certificate yet");
        }
    }
}

/// Waits until a certificate is to be renewed: at its time, or because it is out of place. `in_vain` renewals in a row
/// have not changed that.
///
/// # Cancel safety
/// Safe: who waits anew begins with a new jitter.
pub(crate) async fn due(identity: &IdentitySource, svid: &Svid, plan: &Plan, clock: &Clock, in_vain: u32) {
    let mut changes = identity.changes();
    let since = Instant::now();
    loop {
        let now = clock.now();
        if plan.is_due(now) {
            if plan.is_jump(now) {
                tokio::time::sleep(plan.spread(fastrand::f64())).await;
            }
            return;
        }
        let mut pause = plan.next_look(now);
        if is_out_of_place(&identity.trust(), svid) {
            let left = schedule::again(in_vain).saturating_sub(since.elapsed());
            if left.is_zero() {
                info!(id = %svid.id(), "certificates are issued under another root by now, or this one is revoked: renews soon");
                tokio::time::sleep(plan.spread(fastrand::f64())).await;
                return;
            }
            pause = pause.min(left);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Whether a certificate is under another root than the one that new ones are issued under, or revoked, be it by the
/// number of what signed it.
pub(crate) fn is_out_of_place(trust: &Trust, svid: &Svid) -> bool {
    let is_elsewhere = |issuer| trust.root_of(svid.chain()).as_deref() != Some(issuer);
    trust.issuer().is_some_and(is_elsewhere) || trust.revokes(svid.chain())
}

/// What was said last, so that the same is not said again and again.
#[derive(Default)]
pub(crate) struct Said {
    last: Option<(String, Instant)>,
}

impl Said {
    /// Whether this is worth saying: it was not said in the last minute, nor anything else a moment ago.
    pub(crate) fn is_news(&mut self, text: &str) -> bool {
        let quiet = |said: &str| if said == text { SAY_AGAIN } else { SAY_OTHER };
        let is_old = self.last.as_ref().is_some_and(|(said, at)| at.elapsed() < quiet(said));
        if !is_old {
            self.last = Some((text.to_owned(), Instant::now()));
        }
        !is_old
    }
}
