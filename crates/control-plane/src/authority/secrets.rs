//! What the control plane serves by SDS: trust, to everybody who has an identity; to agents, what is registered with
//! them. No private key is among it.
//!
//! - `trust`: [`meshwork_identity::Trust::to_json`].
//! - `registrations`: a JSON list, as `registrations` writes it.
//! - `ROOTCA`: the roots alone, for who knows SDS and nothing of ours.

use std::sync::Arc;

use meshwork_identity::SpiffeId;
use meshwork_model::mesh::Key;
use meshwork_xds::Node;
use meshwork_xds::grpc::{Denied, PeerIdentity};
use meshwork_xds::sds::{SecretSource, SecretValue};
use tokio::sync::watch;
use tonic::Extensions;
use tracing::{info, warn};

use super::peers::{Follower, Stream};
use super::{Authority, now, registrations, secret};
use crate::claims::Claims;
use crate::serve::PeerChain;

/// Whom to believe, and who is revoked.
const TRUST: &str = "trust";
/// What an agent may attest.
const REGISTRATIONS: &str = "registrations";
/// The roots alone.
const ROOTS: &str = "ROOTCA";

/// Secrets of an authority.
pub(crate) struct Secrets(pub(crate) Arc<Authority>);

/// Who asks for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    stream: Stream,
    identity: SpiffeId,
}

impl SecretSource for Secrets {
    type Caller = Asker;

    fn admit(&self, extensions: &Extensions, node: &Node) -> Result<Asker, Denied> {
        let denied = |why: String| {
            warn!(node = %node.id, %why, "no secrets");
            Denied(why)
        };
        let PeerIdentity(id) = extensions
            .get::<PeerIdentity>()
            .cloned()
            .ok_or_else(|| denied("a client must prove its identity by mTLS".to_owned()))?;
        let chain = extensions.get::<PeerChain>();
        let workload = Claims::workload(&id, node)
            .ok_or_else(|| denied("the node's metadata has no NAME, the workload's name".to_owned()))?;
        self.0.admit(id, chain, &workload).map_err(denied)
    }

    fn secrets(&self, caller: &Asker, names: &[String]) -> Vec<(String, SecretValue)> {
        let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
        let published = self.0.published.borrow().clone();
        let mut secrets = Vec::new();
        if is_wanted(TRUST) {
            secrets.push((TRUST.to_owned(), secret(&published.json)));
        }
        if is_wanted(ROOTS) {
            let trust = &published.trust;
            let bundles = std::iter::once(trust.own()).chain(trust.federated());
            let domains: Vec<(String, String)> =
                bundles.map(|bundle| (bundle.trust_domain().to_owned(), bundle.pem())).collect();
            let (own, spiffe) = (trust.own().trust_domain().to_owned(), domains.len() > 1);
            secrets.push((ROOTS.to_owned(), SecretValue::Roots { own, domains, spiffe }));
        }
        if is_wanted(REGISTRATIONS) {
            self.0.lock().peers.note_agent(caller.stream);
            let mesh = self.0.world.mesh();
            let told = registrations::of(&mesh.config, &mesh.trust_domain, &caller.identity);
            secrets.push((REGISTRATIONS.to_owned(), SecretValue::Generic(told.into_bytes().into())));
        }
        secrets
    }

    fn changes(&self, caller: &Asker) -> watch::Receiver<u64> {
        self.0.lock().peers.changes(caller.stream)
    }

    fn acknowledged(&self, caller: &Asker, names: &[String], version: &str, refusal: Option<&str>) {
        if names.iter().any(|name| name == TRUST) {
            self.0.lock().peers.acknowledge(caller.stream, version, refusal);
            self.0.news.notify_one();
        }
    }

    fn ended(&self, caller: &Asker) {
        self.0.lock().peers.end(caller.stream, now());
        self.0.news.notify_one();
    }
}

impl Authority {
    /// Lets somebody follow trust.
    ///
    /// # Errors
    /// Why not, for the node's operator.
    fn admit(&self, id: SpiffeId, chain: Option<&PeerChain>, workload: &Key) -> Result<Asker, String> {
        if !self.world.is_enrolled_as(workload, &id) {
            return Err(format!("no workload {workload} is enrolled with the identity {id}"));
        }
        let certificate = chain.and_then(|PeerChain(chain)| self.certificate(chain));
        let certificate = certificate.ok_or("the connection's certificate cannot be read")?;
        if let Some(why) = self.refuses(&id, Some(&certificate.serial)) {
            return Err(why);
        }
        let (serial, root) = (certificate.serial.clone(), certificate.root.clone());
        let mut state = self.lock();
        state.held.shown(workload, certificate, now());
        let stream = state.peers.admit(Follower::new(workload.clone(), id.clone(), serial, root));
        drop(state);
        info!(%workload, "follows trust");
        self.news.notify_one();
        Ok(Asker { stream, identity: id })
    }
}
