//! TLS material: a certificate authority, and one workload's certificate that all of a scenario's processes show.
//!
//! TLS 1.3, ECDSA P-256, a chain of two. The certificate also has a DNS name, for programs that know no SPIFFE IDs.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use meshwork_identity::{AlternativeName, CertificateAuthority, SpiffeId, files};

/// Who everybody is.
pub(crate) const ID: &str = "spiffe://mesh.local/ns/bench/sa/peer";
/// The same, for programs that verify host names.
pub(crate) const DNS_NAME: &str = "mesh.local";
/// Longer than any run.
const LIFETIME: Duration = Duration::from_hours(24);

/// Writes `chain.pem`, `key.pem`, `combined.pem` (both, for HAProxy) and `bundle.pem`.
pub(crate) fn write(dir: &Path) -> anyhow::Result<()> {
    let authority = CertificateAuthority::open_or_create(&dir.join("ca"), "mesh.local")?;
    let id = SpiffeId::parse(ID).context("the identity")?;
    let svid = authority.issue(&id, LIFETIME, &[AlternativeName::Dns(DNS_NAME.to_owned())])?;
    let (chain, key) = (svid.chain_pem(), svid.key_pem());
    files::write_public(&dir.join("chain.pem"), chain.as_bytes())?;
    files::write_private(&dir.join("key.pem"), key.as_bytes())?;
    files::write_private(&dir.join("combined.pem"), format!("{chain}{}", *key).as_bytes())?;
    files::write_public(&dir.join("bundle.pem"), authority.bundle().pem().as_bytes())?;
    Ok(())
}
