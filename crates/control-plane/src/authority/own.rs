//! The control plane's own certificate.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use meshwork_identity::{AlternativeName, CertificateAuthority, IdentityError, SpiffeId, Svid, Trust};

use crate::{Options, SYSTEM_NAMESPACE};

/// How long it lives.
const LIFETIME: Duration = Duration::from_hours(24);

/// What it says.
#[derive(Debug)]
pub(super) struct Own {
    id: SpiffeId,
    names: Vec<AlternativeName>,
}

impl Own {
    /// gRPC clients compare host names, so it has those of this host, too.
    ///
    /// # Errors
    /// The trust domain makes no SPIFFE ID.
    pub(super) fn new(options: &Options) -> Result<Self, IdentityError> {
        let id = SpiffeId::workload(&options.trust_domain, SYSTEM_NAMESPACE, "control-plane")
            .map_err(|_| IdentityError::Bundle("its trust domain makes no SPIFFE ID"))?;
        let mut names = vec![AlternativeName::Dns("localhost".to_owned())];
        let mut addresses =
            vec![IpAddr::from(std::net::Ipv4Addr::LOCALHOST), std::net::Ipv6Addr::LOCALHOST.into()];
        let listen = options.listen.ip();
        if !listen.is_unspecified() && !listen.is_loopback() {
            addresses.push(listen);
        }
        names.extend(addresses.into_iter().map(AlternativeName::Ip));
        Ok(Self { id, names })
    }

    /// Whose it is.
    pub(super) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Makes one.
    ///
    /// # Errors
    /// The authority cannot sign.
    pub(super) fn issue(&self, signing: &CertificateAuthority) -> Result<Svid, IdentityError> {
        signing.issue(&self.id, LIFETIME, &self.names)
    }
}

/// Whether a certificate is to be replaced: half of its life is over, by the clock of now, others are signed under
/// another root by now, or it is revoked, be it by the number of what signed it.
pub(super) fn is_due(svid: &Svid, trust: &Trust, now: SystemTime) -> bool {
    let life = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
    let half = svid.not_before() + life / 2;
    let is_of_today = now >= svid.not_before() && now < half;
    let root = trust.root_of(svid.chain());
    let is_elsewhere = trust.issuer().is_some_and(|issuer| root.as_deref() != Some(issuer));
    !is_of_today || is_elsewhere || trust.revokes(svid.chain())
}
