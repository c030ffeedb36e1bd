//! `meshwork control-plane`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meshwork_control_plane as control_plane;

use super::{folders, runtime};
use crate::{memory, secrecy, signals};

/// Run the control plane: config, discovery, certificates, policy
#[derive(clap::Args)]
pub(crate) struct ControlPlane {
    /// A folder of config: YAML files, watched for changes, beside what `meshwork apply` writes
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,

    /// The folder of state: CA, tokens, enrolments; keep it safe, it holds the CA's private key;
    /// `$XDG_STATE_HOME/meshwork/control-plane`, where other commands look for it, where it is left out
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Members of an etcd that several control planes share, as http:// URLs with commas between; the program must be built
    /// with it
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd: Vec<String>,

    /// The folder of the CA, where it is not in the folder of state: control planes of one mesh need the same
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,

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
        memory::share_one_arena();
        let options = control_plane::Options {
            config: self.config,
            state: match self.state {
                Some(state) => state,
                None => folders::control_plane()?,
            },
            etcd: self.etcd,
            ca: self.ca,
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
