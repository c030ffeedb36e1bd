//! Federation: other trust domains whose identities are believed, each by its own bundle.
//!
//! Config names them, with a first bundle or a place to fetch it from. A bundle that was fetched is kept in the store, so
//! that a restart does not forget it, and stands for as long as no newer one can be had: that is told, and shown by
//! `ca status`. A bundle that stands in config counts again as soon as it is changed there. What all of that comes to goes
//! to [`Authority::set_federated`]; the other direction, our own bundle for others, is in [`serve`].
//!
//! Source: SPIFFE Federation; SPIFFE Trust Domain and Bundle.

mod fetch;
mod kept;
mod own;
pub(crate) mod serve;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshwork_identity::{Bundle, BundleDocument};
use meshwork_model::mesh::{BundleEndpoint, BundleProof, FederatedDomain};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use super::status::text;
use super::{Authority, now};
use crate::ingest::federation::parse_bundle;
use kept::Kept;
use own::OwnDocument;

/// How often a bundle is fetched whose document does not say. Source: SPIFFE Trust Domain and Bundle §4.1.4 recommends it.
const REFRESH: Duration = Duration::from_mins(5);
/// The least and the most of what a document may ask for.
const REFRESH_LEAST: Duration = Duration::from_secs(10);
const REFRESH_MOST: Duration = Duration::from_hours(1);
/// How long after a failure it is tried again; twice as long after each, up to the usual time.
const RETRY: Duration = Duration::from_secs(5);
/// The most that all bundles have together, as documents: every proxy is told all of them in one message, with those who
/// are revoked, and none of its other trust domains may keep a mesh from hearing of that.
const MAX_ALL_BYTES: usize = 4 << 20;
/// How often the store is told that a bundle is still the same, in seconds: only for its age after a restart.
const WRITTEN_AGAIN: i64 = 600;

/// What is known of other trust domains.
#[derive(Debug, Default)]
pub(super) struct Federation {
    domains: Mutex<BTreeMap<Arc<str>, Domain>>,
    /// Our own document, as it was made last.
    own: Mutex<Option<OwnDocument>>,
    /// Whether our own document is served to others.
    is_served: AtomicBool,
    /// How often others are to look for it again.
    refresh: Duration,
}

#[derive(Clone, Debug)]
struct Domain {
    config: FederatedDomain,
    bundle: Option<Bundle>,
    /// What was fetched last; nothing where the bundle of config counts.
    kept: Option<Kept>,
    /// When that was written to the store, in seconds since 1970.
    written: i64,
    /// When it is fetched next, in seconds since 1970.
    next: Option<i64>,
    error: Option<String>,
}

/// Another trust domain, as people see it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FederatedStatus {
    trust_domain: String,
    /// `config`, the address that it was fetched from, or `none`.
    source: String,
    sequence: Option<u64>,
    refreshed_at: Option<String>,
    /// How long ago that was, in seconds.
    age: Option<i64>,
    next_refresh: Option<String>,
    /// Fingerprints of its roots.
    roots: Vec<String>,
    /// How many keys for JWT-SVIDs it has.
    jwt_keys: usize,
    /// Why it could not be fetched last; the bundle from before stands.
    error: Option<String>,
}

impl Domain {
    /// A trust domain that config names, with what was fetched of it before. A bundle in config that was changed since
    /// counts more than that.
    fn new(config: FederatedDomain, kept: Option<Kept>) -> Self {
        let name = &config.trust_domain;
        let kept = kept.filter(|kept| config.endpoint.is_some() && kept.is_for(&config));
        let fetched = kept.as_ref().and_then(|kept| match Bundle::from_document(name, &kept.document) {
            Ok(bundle) => Some(bundle),
            Err(error) => {
                warn!(trust_domain = %name, %error, "the bundle that was kept cannot be read");
                None
            }
        });
        // Ingest has read it already.
        let written = || parse_bundle(name, config.bundle.as_deref()?).ok();
        let kept = kept.filter(|_| fetched.is_some());
        let bundle = fetched.or_else(written);
        let written = kept.as_ref().map_or(0, |kept| kept.refreshed_at);
        Self { bundle, config, kept, written, next: None, error: None }
    }

    /// Judges a document that was fetched.
    ///
    /// # Errors
    /// It is none, or older than what is known.
    fn judge(&self, text: &str) -> Result<BundleDocument, String> {
        let name = &self.config.trust_domain;
        let document = BundleDocument::parse(name, text).map_err(|error| error.to_string())?;
        let known = self.kept.as_ref().and_then(|kept| kept.sequence);
        if let (Some(known), Some(new)) = (known, document.sequence)
            && new < known
        {
            return Err(format!(
                "its sequence number went back from {known} to {new}: it is an old one, or the trust domain began anew; if \
                 it did, write its bundle of now into `bundle`"
            ));
        }
        Ok(document)
    }

    fn status(&self) -> FederatedStatus {
        let source = match (&self.kept, &self.config.endpoint, &self.bundle) {
            (Some(_), Some(endpoint), _) => endpoint.url.to_string(),
            (_, _, Some(_)) => "config".to_owned(),
            (_, _, None) => "none".to_owned(),
        };
        let keys = |bundle: &Bundle| {
            let set: Option<serde_json::Value> = serde_json::from_str(bundle.jwt_keys()).ok();
            set.and_then(|set| Some(set["keys"].as_array()?.len())).unwrap_or_default()
        };
        let refreshed = self.kept.as_ref().map(|kept| kept.refreshed_at);
        FederatedStatus {
            trust_domain: self.config.trust_domain.to_string(),
            source,
            sequence: self.kept.as_ref().and_then(|kept| kept.sequence),
            refreshed_at: refreshed.map(text),
            age: refreshed.map(|at| (now() - at).max(0)),
            next_refresh: self.next.map(text),
            roots: self.bundle.as_ref().map(Bundle::fingerprints).unwrap_or_default(),
            jwt_keys: self.bundle.as_ref().map(keys).unwrap_or_default(),
            error: self.error.clone(),
        }
    }
}

impl Federation {
    pub(super) fn new(refresh: Duration) -> Self {
        Self { refresh: refresh.max(REFRESH_LEAST), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Domain>> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that the bundle of a trust domain fits beside those of all others.
    ///
    /// # Errors
    /// It does not.
    fn check_room(&self, name: &str, bundle: &Bundle) -> Result<(), String> {
        let size = |bundle: &Bundle| bundle.to_document(0, None).to_string().len();
        let domains = self.lock();
        let others = domains.iter().filter(|(known, _)| ***known != *name);
        let others: usize = others.filter_map(|(_, domain)| domain.bundle.as_ref()).map(size).sum();
        let all = others + size(bundle);
        if all <= MAX_ALL_BYTES {
            return Ok(());
        }
        Err(format!(
            "with it, the bundles of all federated trust domains would have {all} bytes, and proxies are told {MAX_ALL_BYTES} \
             at most"
        ))
    }

    fn bundles(&self) -> Vec<Bundle> {
        self.lock().values().filter_map(|domain| domain.bundle.clone()).collect()
    }
}

impl Authority {
    /// Other trust domains, as people see them.
    pub(crate) fn federated(&self) -> Vec<FederatedStatus> {
        self.federation.lock().values().map(Domain::status).collect()
    }

    /// Keeps the bundles of other trust domains as config names them, for as long as it is polled.
    pub(super) async fn follow_federation(self: Arc<Self>) {
        let mut changes = self.world.changes();
        let mut last = None;
        // Dropped with the config that they are of.
        let mut fetching = JoinSet::new();
        loop {
            let wanted = self.world.mesh().config.defaults.federated.clone();
            if last.as_ref() != Some(&wanted) {
                fetching.shutdown().await;
                let (this, domains) = (Arc::clone(&self), wanted.clone());
                if let Err(error) = tokio::task::spawn_blocking(move || this.federate(domains)).await {
                    warn!(%error, "other trust domains are not taken over");
                }
                for domain in &wanted {
                    if let Some(endpoint) = &domain.endpoint {
                        let (this, name) = (Arc::clone(&self), Arc::clone(&domain.trust_domain));
                        fetching.spawn(this.keep_fresh(name, endpoint.clone()));
                    }
                }
                last = Some(wanted);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes over which trust domains config names, with what was kept of each. Blocks.
    pub(crate) fn federate(&self, wanted: Vec<FederatedDomain>) {
        let mut kept = kept::read(&*self.kv).unwrap_or_else(|error| {
            warn!(%error, "the bundles of other trust domains cannot be read from the store; those of config count");
            BTreeMap::new()
        });
        let domain = |config: FederatedDomain| {
            let kept = kept.remove(&*config.trust_domain);
            (Arc::clone(&config.trust_domain), Domain::new(config, kept))
        };
        let domains: BTreeMap<Arc<str>, Domain> = wanted.into_iter().map(domain).collect();
        // What no config names any more.
        if let Err(error) = kept::forget(&*self.kv, kept.keys()) {
            warn!(%error, "bundles of trust domains that are not federated any more stay in the store");
        }
        *self.federation.lock() = domains;
        self.tell_federated();
    }

    /// Publishes the bundles of now. Blocks for some small files.
    fn tell_federated(&self) {
        if let Err(error) = self.set_federated(self.federation.bundles()) {
            warn!(%error, "a file of the authority cannot be written");
        }
    }

    /// Fetches the bundle of a trust domain again and again.
    async fn keep_fresh(self: Arc<Self>, name: Arc<str>, endpoint: BundleEndpoint) {
        let (mut failures, mut usual) = (0_u32, REFRESH);
        loop {
            let pause = match self.fetch(&name, &endpoint).await {
                Ok(hint) => {
                    (failures, usual) = (0, hint);
                    usual
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(trust_domain = %name, %error, "the bundle cannot be fetched; the one from before stands");
                    }
                    self.note(&name, |domain| domain.error = Some(error));
                    RETRY.saturating_mul(2_u32.saturating_pow(failures - 1)).min(usual)
                }
            };
            self.note(&name, |domain| domain.next = Some(now().saturating_add_unsigned(pause.as_secs())));
            sleep(pause).await;
        }
    }

    fn note(&self, name: &str, what: impl FnOnce(&mut Domain)) {
        if let Some(domain) = self.federation.lock().get_mut(name) {
            what(domain);
        }
    }

    /// Fetches a bundle once, and keeps it; says when to look again.
    async fn fetch(self: &Arc<Self>, name: &Arc<str>, endpoint: &BundleEndpoint) -> Result<Duration, String> {
        let tls = match &endpoint.proof {
            BundleProof::Web => fetch::by_name(&endpoint.url.host)?,
            BundleProof::Spiffe(id) => {
                let trust = Arc::clone(&self.published.borrow().trust);
                let bundle = trust.bundle_of(id.trust_domain());
                let bundle = bundle.ok_or_else(|| {
                    format!("there is no bundle of {} by which {id} could prove itself", id.trust_domain())
                })?;
                fetch::by_identity(bundle, trust.revoked(), id)
            }
        };
        let text = fetch::get(&endpoint.url, tls).await?;
        let (this, name) = (Arc::clone(self), Arc::clone(name));
        let taken = tokio::task::spawn_blocking(move || this.take(&name, text));
        taken.await.map_err(|error| error.to_string())?
    }

    /// Takes a document in. Blocks.
    fn take(&self, name: &str, text: String) -> Result<Duration, String> {
        let gone = || "config does not name it any more".to_owned();
        let mut domain = self.federation.lock().get(name).cloned().ok_or_else(gone)?;
        let document = domain.judge(&text)?;
        self.federation.check_room(name, &document.bundle)?;
        let kept = Kept::new(&domain.config, text, document.sequence, now());
        let is_new = domain.kept.as_ref().is_none_or(|known| known.document != kept.document);
        if is_new || kept.refreshed_at - domain.written >= WRITTEN_AGAIN {
            // Before it counts: a restart must not go back behind it.
            kept::write(&*self.kv, name, &kept).map_err(|error| format!("it cannot be kept: {error}"))?;
            domain.written = kept.refreshed_at;
        }
        domain.kept = Some(kept);
        domain.bundle = Some(document.bundle);
        if domain.error.take().is_some() || is_new {
            info!(trust_domain = name, sequence = document.sequence, is_new, "the bundle was fetched");
        }
        {
            let mut domains = self.federation.lock();
            let same = domains.get_mut(name).filter(|known| known.config == domain.config);
            *same.ok_or_else(gone)? = domain;
        }
        if is_new {
            self.tell_federated();
        }
        Ok(document.refresh_hint.unwrap_or(REFRESH).clamp(REFRESH_LEAST, REFRESH_MOST))
    }
}

#[cfg(test)]
mod tests;
