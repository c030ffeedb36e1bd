//! `meshwork control-plane`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meshwork_control_plane as control_plane;

use super::runtime;
use crate::{secrecy, signals};

/// Run the control plane: config, discovery, certificates, policy
#[derive(clap::Args)]
pub(crate) struct ControlPlane {
    /// The folder of config: YAML files, watched for changes
    #[arg(long, value_name = "DIR")]
    config: PathBuf,

    /// The folder of state: CA, tokens, enrolments; keep it safe, it holds the CA's private key
    #[arg(long, value_name = "DIR")]
    state: PathBuf,

    /// Where proxies connect by mTLS: certificates, xDS, telemetry
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15012")]
    listen: SocketAddr,

    /// Where people and the command line ask, by HTTP; keep it on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15040")]
    api: SocketAddr,

    /// The mesh's trust domain; fixed once the CA exists
    #[arg(long, default_value = "mesh.local")]
    trust_domain: String,

    /// How long certificates live, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "24h")]
    svid_lifetime: Duration,
}

impl ControlPlane {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        let options = control_plane::Options {
            config: self.config,
            state: self.state,
            listen: self.listen,
            api: self.api,
            trust_domain: self.trust_domain,
            svid_lifetime: self.svid_lifetime,
        };
        runtime::on_all_cores(async {
            let shutdown = async { drop(signals::stop().await) };
            control_plane::run(options, |ready| announce(&ready), shutdown).await?;
            Ok(())
        })
    }
}

fn announce(ready: &control_plane::Ready) {
    tracing::info!("proxies connect to {}", ready.listen);
    tracing::info!("the API answers on http://{}", ready.api);
    tracing::info!("the trust bundle is {}", ready.trust_bundle.display());
}
