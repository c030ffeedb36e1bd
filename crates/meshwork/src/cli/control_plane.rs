//! `meshwork control-plane`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meshwork_control_plane as control_plane;

use super::{folders, lifetimes, runtime};
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

    #[command(flatten)]
    plugged: Plugged,

    /// Where proxies connect by mTLS: certificates, xDS, telemetry
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15012")]
    listen: SocketAddr,

    /// Where people and the command line ask, by HTTP; keep it on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15040")]
    api: SocketAddr,

    /// Who reads from the API by TCP needs a token, too; without this, everybody on this host reads what is no secret
    #[arg(long)]
    closed_api: bool,

    /// Where other trust domains fetch this one's bundle (SPIFFE bundle endpoint, `https_spiffe`); nowhere, where it is left out
    #[arg(long, value_name = "ADDR")]
    federation_listen: Option<SocketAddr>,

    /// How often they are asked to look for it again, 10s at least; a rotation waits for twice that before it signs under a
    /// new root
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "1m")]
    federation_refresh: Duration,

    /// The mesh's trust domain; fixed once the CA exists
    #[arg(long, default_value = "mesh.local")]
    trust_domain: String,

    /// How long workloads' certificates live at most, and where they ask for nothing, 5s at least; each is renewed at half of
    /// its life
    #[arg(long, value_name = "DURATION", value_parser = lifetimes::svid, default_value = "24h")]
    svid_lifetime: Duration,

    /// How long the intermediate lives by which this control plane signs, 10s at least; it makes another at half of that
    #[arg(long, value_name = "DURATION", value_parser = lifetimes::signer, default_value = "2160h")]
    intermediate_lifetime: Duration,

    /// How long a root lives that the CA makes, 10s at least: the first, and those of `meshwork ca rotate`
    #[arg(long, value_name = "DURATION", value_parser = lifetimes::signer, default_value = "87600h")]
    root_lifetime: Duration,
}

/// An intermediate of the user's.
#[derive(clap::Args)]
#[expect(clippy::struct_field_names, reason = "fields are named as the flags are")]
struct Plugged {
    /// An intermediate's certificate to sign by, in place of one under the CA's own root, PEM; read again when it changes.
    /// Istio's ca-cert.pem
    #[arg(long, value_name = "FILE", requires_all = ["ca_key", "ca_root"])]
    ca_cert: Option<PathBuf>,

    /// Its private key, unencrypted: ECDSA P-256 or P-384, or RSA. Istio's ca-key.pem
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,

    /// The certificates between it and its root, where there are any. Istio's cert-chain.pem
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_chain: Option<PathBuf>,

    /// The root that it leads to; others in the file are trusted, too, so that a root can be replaced. Istio's root-cert.pem
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_root: Option<PathBuf>,
}

impl Plugged {
    fn files(self) -> Option<control_plane::PluggedIntermediate> {
        let Self { ca_cert, ca_key, ca_chain, ca_root } = self;
        Some(control_plane::PluggedIntermediate {
            certificate: ca_cert?,
            key: ca_key?,
            chain: ca_chain,
            root: ca_root?,
        })
    }
}

impl ControlPlane {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        memory::share_one_arena();
        self.tell_of_lifetimes();
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
            closed_api: self.closed_api,
            federation_listen: self.federation_listen,
            federation_refresh: self.federation_refresh,
            trust_domain: self.trust_domain,
            svid_lifetime: self.svid_lifetime,
            plugged: self.plugged.files(),
            intermediate_lifetime: self.intermediate_lifetime,
            root_lifetime: self.root_lifetime,
        };
        runtime::on_all_cores(async {
            let shutdown = async { drop(signals::stop().await) };
            Box::pin(control_plane::run(options, |ready| announce(&ready), shutdown)).await?;
            Ok(())
        })
    }

    fn tell_of_lifetimes(&self) {
        let (svid, intermediate) = (self.svid_lifetime, self.intermediate_lifetime);
        let is_own = self.plugged.ca_cert.is_none();
        let cut = is_own.then(|| lifetimes::cut(svid, intermediate, self.root_lifetime)).flatten();
        for hint in lifetimes::long(svid).into_iter().chain(cut) {
            tracing::warn!("{hint}");
        }
    }
}

fn announce(ready: &control_plane::Ready) {
    tracing::info!("proxies connect to {}", ready.listen);
    tracing::info!("the API answers on http://{}", ready.api);
    if let Some(federation) = ready.federation {
        tracing::info!("other trust domains fetch the bundle from https://{federation}/");
    }
    tracing::info!("the trust bundle is {}", ready.trust_bundle.display());
}
