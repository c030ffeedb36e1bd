//! Envoy's SDS for attested callers, by the names that SPIRE's agent has: `default` (the first identity), a SPIFFE ID,
//! `ROOTCA` (who proves an identity of our trust domain), `spiffe://<trust domain>`, `ALL` (every trusted trust domain).
//!
//! Source: SPIRE, "Using Envoy with SPIRE".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use meshwork_identity::{Bundle, SpiffeId, Svid, Trust};
use meshwork_xds::Node;
use meshwork_xds::grpc::Denied;
use meshwork_xds::sds::{SecretSource, SecretValue};
use tokio::sync::watch;
use tonic::Extensions;

use super::caller::{Caller, Counted};
use super::registrations::Registration;
use super::workloads::{Hold, State};
use super::{Host, Standing};

/// The first identity of a caller.
const DEFAULT: &str = "default";
/// The roots of our trust domain.
const ROOT: &str = "ROOTCA";
/// The roots of all trust domains that are trusted.
const ALL: &str = "ALL";
const SCHEME: &str = "spiffe://";

/// The secrets of a host's workloads.
pub(super) struct Secrets(pub(super) Arc<Host>);

/// Streams that are open.
#[derive(Default)]
pub(super) struct Envoys(Mutex<Vec<Weak<Envoy>>>);

/// One stream.
pub(super) struct Envoy {
    caller: Arc<Caller>,
    /// None when it is to come anew.
    changes: Mutex<Option<watch::Sender<u64>>>,
    holds: Mutex<BTreeMap<SpiffeId, Hold>>,
    _counted: Counted,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked while holding it left it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells streams of changes, and lets those go whose callers are nobody any more, for ever.
pub(super) async fn watch(host: &Arc<Host>) {
    let mut changes = host.changes.subscribe();
    // The host outlives this.
    while changes.changed().await.is_ok() {
        let open: Vec<Arc<Envoy>> = {
            let mut envoys = lock(&host.envoys.0);
            envoys.retain(|envoy| envoy.strong_count() > 0);
            envoys.iter().filter_map(Weak::upgrade).collect()
        };
        for envoy in open {
            let mut sender = lock(&envoy.changes);
            if matches!(host.standing(&envoy.caller), Standing::Nobody(_)) {
                *sender = None;
            } else if let Some(sender) = sender.as_ref() {
                sender.send_modify(|count| *count += 1);
            }
        }
    }
}

impl SecretSource for Secrets {
    type Caller = Arc<Envoy>;

    fn admit(&self, extensions: &Extensions, _node: &Node) -> Result<Arc<Envoy>, Denied> {
        let denied = |status: tonic::Status| Denied(status.message().to_owned());
        let caller = Caller::of(extensions).map_err(denied)?;
        if let Standing::Nobody(status) = self.0.standing(&caller) {
            return Err(denied(status));
        }
        let counted = self.0.counts.stream(caller.selectors.uid).map_err(denied)?;
        let envoy = Arc::new(Envoy {
            caller,
            changes: Mutex::new(Some(watch::Sender::new(0))),
            holds: Mutex::default(),
            _counted: counted,
        });
        lock(&self.0.envoys.0).push(Arc::downgrade(&envoy));
        Ok(envoy)
    }

    fn secrets(&self, envoy: &Arc<Envoy>, names: &[String]) -> Vec<(String, SecretValue)> {
        let Standing::Somebody(found) = self.0.standing(&envoy.caller) else { return Vec::new() };
        let trust = self.0.enrolled.identity.trust();
        let all;
        let names = if names.is_empty() {
            all = every_name(&found, &trust);
            &all
        } else {
            names
        };
        let mut holds = lock(&envoy.holds);
        holds.retain(|id, _| found.iter().any(|registration| registration.id == *id));
        let mut secrets = Vec::new();
        for name in names {
            let value = match identity(name, &found) {
                Some(id) => self.certificate(&mut holds, id).map(|svid| shown(&svid)),
                None => roots(name, &trust),
            };
            secrets.extend(value.map(|value| (name.clone(), value)));
        }
        secrets
    }

    fn changes(&self, envoy: &Arc<Envoy>) -> watch::Receiver<u64> {
        match lock(&envoy.changes).as_ref() {
            Some(sender) => sender.subscribe(),
            None => watch::channel(0).1,
        }
    }

    fn acknowledged(&self, envoy: &Arc<Envoy>, names: &[String], version: &str, refusal: Option<&str>) {
        let pid = envoy.caller.peer.pid;
        tracing::debug!(pid, ?names, version, refusal, "has answered to a secret");
    }

    fn ended(&self, _envoy: &Arc<Envoy>) {}
}

impl Secrets {
    fn certificate(&self, holds: &mut BTreeMap<SpiffeId, Hold>, id: &SpiffeId) -> Option<Arc<Svid>> {
        if !holds.contains_key(id) {
            match self.0.workloads.hold(id) {
                Ok(hold) => drop(holds.insert(id.clone(), hold)),
                Err(why) => {
                    tracing::warn!(%id, "gets no certificate: {why}");
                    return None;
                }
            }
        }
        match holds.get(id)?.state() {
            State::Ready(svid) => Some(svid),
            State::Pending | State::Failed(_) => None,
        }
    }
}

/// The identity that a secret is the certificate of, where the caller has it.
fn identity<'a>(name: &str, found: &'a [Registration]) -> Option<&'a SpiffeId> {
    if name == DEFAULT {
        return found.first().map(|registration| &registration.id);
    }
    found.iter().map(|registration| &registration.id).find(|id| id.as_str() == name)
}

/// Whom a secret lets trust: each peer is judged by the roots of its own trust domain, among those named.
fn roots(name: &str, trust: &Trust) -> Option<SecretValue> {
    let domain = |bundle: &Bundle| (bundle.trust_domain().to_owned(), bundle.pem());
    let domains = match name {
        ROOT => vec![domain(trust.own())],
        ALL => [trust.own()].into_iter().chain(trust.federated()).map(domain).collect(),
        name => vec![domain(trust.bundle_of(name.strip_prefix(SCHEME)?)?)],
    };
    let own = trust.own().trust_domain().to_owned();
    Some(SecretValue::Roots { own, domains, spiffe: true })
}

fn shown(svid: &Svid) -> SecretValue {
    SecretValue::Certificate { chain_pem: svid.chain_pem(), key_pem: svid.key_pem() }
}

/// What one gets who names nothing: identities and trust domains by their own names.
fn every_name(found: &[Registration], trust: &Trust) -> Vec<String> {
    let ids = found.iter().map(|registration| registration.id.to_string());
    let bundles = [trust.own()].into_iter().chain(trust.federated());
    ids.chain(bundles.map(|bundle| format!("{SCHEME}{}", bundle.trust_domain()))).collect()
}
