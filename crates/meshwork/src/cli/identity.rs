//! The arguments of an identity that somebody else keeps in files, and following those files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::{FileIdentity, IdentityFiles, IdentitySource};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often the files are looked at: often enough that people see their change act, seldom enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Who the proxy is, by files; all three or none.
#[derive(clap::Args)]
pub(crate) struct Identity {
    /// The proxy's certificate chain (PEM), its own first: an X.509-SVID, the secret `default` of the config; followed
    /// when it changes
    #[arg(long, value_name = "FILE", requires_all = ["private_key", "trust_bundle"])]
    certificate: Option<PathBuf>,

    /// The certificate's private key (PEM, PKCS #8, ECDSA P-256)
    #[arg(long, value_name = "FILE", requires_all = ["certificate", "trust_bundle"])]
    private_key: Option<PathBuf>,

    /// The roots that peers are judged by (PEM), the secret `ROOTCA` of the config; followed when they change
    #[arg(long, value_name = "FILE", requires_all = ["certificate", "private_key"])]
    trust_bundle: Option<PathBuf>,
}

impl Identity {
    /// Reads the files; `None` where none are named.
    ///
    /// # Errors
    /// They cannot be read, or make no identity.
    pub(crate) fn open(&self) -> anyhow::Result<Option<FileIdentity>> {
        let named = (&self.certificate, &self.private_key, &self.trust_bundle);
        let (Some(certificate), Some(private_key), Some(trust_bundle)) = named else { return Ok(None) };
        let files = IdentityFiles {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
            trust_bundle: trust_bundle.clone(),
        };
        warn_if_exposed(&files);
        let identity = files.open()?;
        tell("identity", identity.source());
        Ok(Some(identity))
    }
}

/// Follows the files for ever.
///
/// # Cancel safety
/// Safe: a change that was not seen is seen by nobody else.
pub(crate) async fn follow(mut identity: FileIdentity) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match identity.look() {
            None => {}
            Some(Ok(())) => {
                warn_if_exposed(identity.files());
                tell("identity renewed from its files", identity.source());
            }
            Some(Err(error)) => {
                warn!(%error, "the identity's files changed and cannot be used; the last good identity stays");
            }
        }
    }
}

fn tell(what: &str, source: &Arc<IdentitySource>) {
    let svid = source.svid();
    let left = svid.not_after().duration_since(std::time::SystemTime::now()).unwrap_or_default();
    info!(id = %source.id(), serial = svid.serial(), expires_in_minutes = left.as_secs() / 60, "{what}");
}

fn warn_if_exposed(files: &IdentityFiles) {
    if files.is_key_exposed() {
        let file = files.private_key.display();
        warn!(%file, "others than its owner may use the private key's file; give it mode 0600");
    }
}
