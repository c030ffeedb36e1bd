//! `meshwork proxy`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use meshwork_data_plane::{self as data_plane, NodeLabels};
use meshwork_identity::FileIdentity;
use meshwork_telemetry::Registry;
use meshwork_xds::bootstrap::{self, Bootstrap};
use meshwork_xds::{self as xds, Update};
use tokio::sync::watch;
use tracing::{Instrument as _, info_span};

use super::identity::{self, Identity};
use super::serving::Serving;
use super::{foreign, problems, runtime};
use crate::{memory, signals};

/// Run a proxy by an Envoy bootstrap file (v3, YAML or JSON; static resources, ADS)
#[derive(clap::Args)]
pub(crate) struct Proxy {
    /// The bootstrap file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    #[command(flatten)]
    identity: Identity,

    #[command(flatten)]
    serving: Serving,
}

impl Proxy {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = self.config.display().to_string();
        let text = std::fs::read_to_string(&self.config).with_context(|| format!("cannot read {name}"))?;
        let bootstrap = match bootstrap::parse(&name, &text) {
            Ok(bootstrap) => bootstrap,
            Err(found) => {
                problems::print(&found, &BTreeMap::from([(name.clone(), text)]));
                bail!("{} errors in {name}", problems::errors(&found));
            }
        };
        let identity = self.identity.open().context("the identity's files cannot be used")?;
        runtime::on_this_thread(serve(bootstrap, identity, self.serving))
    }
}

async fn serve(bootstrap: Bootstrap, identity: Option<FileIdentity>, serving: Serving) -> anyhow::Result<()> {
    let mut signals = signals::Stop::listen()?;
    let registry = Registry::new(SystemTime::now());
    let source = identity.as_ref().map(|identity| Arc::clone(identity.source()));
    let node =
        NodeLabels { identity: source.as_ref().map(|source| source.id().clone()), ..NodeLabels::default() };
    let options = serving.options(node, bootstrap.admin, &registry)?;
    let proxy = data_plane::Proxy::start(options, source, registry)?;
    let update = Update { upserts: bootstrap.resources.clone(), ..Update::default() };
    let refused: Vec<_> = proxy.apply(update).into_iter().map(|r| format!("{}: {}", r.name, r.why)).collect();
    if !refused.is_empty() {
        bail!("the config cannot be run: {}", refused.join("; "));
    }
    memory::give_back();
    let following = async {
        match identity {
            Some(identity) => identity::follow(identity).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = following => {}
        () = discover(&proxy, bootstrap) => {}
        () = signals.asked() => {}
    }
    signals.drain(&proxy, serving.drain_time()).await
}

/// Takes config from the control plane that the bootstrap names, for ever; where it names none, none comes.
async fn discover(proxy: &data_plane::Proxy, bootstrap: Bootstrap) {
    let Some(ads) = bootstrap.ads else { return std::future::pending().await };
    let node = xds::Node { user_agent: xds::USER_AGENT.to_owned(), ..bootstrap.node };
    let node = xds::Node { user_agent_version: env!("CARGO_PKG_VERSION").to_owned(), ..node };
    let session = xds::client::Session::new(node).speaking(ads.protocol).wanting(ads.everything.clone());
    let session = session.beside(&bootstrap.resources);
    let link = foreign::link(proxy.dialer(), &ads);
    let span = info_span!("control-plane", cluster = %ads.cluster);
    let (_health, silent) = watch::channel(None);
    let apply = |update| proxy.apply(update);
    let _ = xds::grpc::run_client(link, session, silent, apply, memory::give_back).instrument(span).await;
}
