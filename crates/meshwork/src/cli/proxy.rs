//! `meshwork proxy`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use meshwork_data_plane::{self as data_plane, NodeLabels};
use meshwork_identity::FileIdentity;
use meshwork_model::proxy::{LogSink, NetworkFilter, Resource};
use meshwork_telemetry::Registry;
use meshwork_xds::bootstrap::{self, Bootstrap};
use meshwork_xds::{self as xds, Update};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{Instrument as _, info_span, warn};

use super::identity::{self, Identity};
use super::secret_files::SecretFiles;
use super::serving::Serving;
use super::{foreign, problems, runtime};
use crate::kept::Kept;
use crate::{memory, signals};

/// How often files are looked at: a new certificate acts within it, and a look costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Run a proxy by an Envoy bootstrap file (v3, YAML or JSON; static resources, ADS)
#[derive(clap::Args)]
pub(crate) struct Proxy {
    /// The bootstrap file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// The folder that keeps the last good config of a control plane, private keys included, for when the proxy is
    /// started while the control plane is down; one per proxy
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

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
                problems::print(&found, &BTreeMap::from([(name.clone(), text.into())]));
                bail!("{} errors in {name}", problems::errors(&found));
            }
        };
        let folders = self.state.iter().cloned().collect();
        let sandbox = self.serving.close_in(folders, None, logs(&bootstrap))?;
        let identity = self.identity.open().context("the identity's files cannot be used")?;
        let kept = self.state.as_ref().map(|dir| Kept::open(dir, &owner(&bootstrap))).transpose()?;
        runtime::on_this_thread(serve(bootstrap, identity, self.serving, kept, sandbox))
    }
}

/// The files that the bootstrap's listeners log to.
fn logs(bootstrap: &Bootstrap) -> Vec<PathBuf> {
    let listeners = bootstrap.resources.iter().filter_map(|resource| match resource {
        Resource::Listener(listener) => Some(listener),
        _ => None,
    });
    let mut logs: Vec<PathBuf> = Vec::new();
    for chain in listeners.flat_map(|listener| listener.chains.iter().chain(&listener.default_chain)) {
        let of_chain = match &chain.filter {
            NetworkFilter::Http(http) => &http.access_logs,
            NetworkFilter::Tcp(tcp) => &tcp.access_logs,
        };
        logs.extend(of_chain.iter().filter_map(|log| match &log.sink {
            LogSink::File(path) => Some(PathBuf::from(&**path)),
            LogSink::Stdout | LogSink::Stderr => None,
        }));
    }
    logs
}

/// Whose config is kept: another node, or the same under another control plane, does not take it.
fn owner(bootstrap: &Bootstrap) -> String {
    let cluster = bootstrap.ads.as_ref().map_or("", |ads| &ads.cluster);
    format!("{} {} by {cluster}", bootstrap.node.cluster, bootstrap.node.id)
}

async fn serve(
    bootstrap: Bootstrap,
    identity: Option<FileIdentity>,
    serving: Serving,
    kept: Option<Kept>,
    sandbox: Arc<str>,
) -> anyhow::Result<()> {
    let mut signals = signals::Stop::listen()?;
    let registry = Registry::new(SystemTime::now());
    let source = identity.as_ref().map(|identity| Arc::clone(identity.source()));
    let node =
        NodeLabels { identity: source.as_ref().map(|source| source.id().clone()), ..NodeLabels::default() };
    let mut options = serving.options(node, bootstrap.admin, &registry)?;
    options.about =
        data_plane::About { id: bootstrap.node.id.clone(), cluster: bootstrap.node.cluster.clone(), sandbox };
    let proxy = data_plane::Proxy::start(options, source, registry)?;
    let files = RefCell::new(SecretFiles::default());
    let bytes = bootstrap.bytes.clone();
    let update = Update { upserts: bootstrap.resources.clone(), bytes, ..Update::default() };
    let mut refused = proxy.apply(update);
    refused.extend(files.borrow_mut().look(&proxy));
    let refused: Vec<_> = refused.into_iter().map(|r| format!("{}: {}", r.name, r.why)).collect();
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
        () = discover(&proxy, bootstrap, kept.as_ref()) => {}
        () = write(kept.as_ref()) => {}
        () = look(&proxy, &files) => {}
        () = proxy.asked_to_quit() => {}
        () = signals.asked() => {}
    }
    if let Some(kept) = &kept {
        kept.flush()?;
    }
    signals.drain(&proxy, serving.drain_time()).await
}

async fn write(kept: Option<&Kept>) {
    match kept {
        Some(kept) => kept.write_on_change().await,
        None => std::future::pending().await,
    }
}

/// Follows the files of certificates and secrets, for ever.
async fn look(proxy: &data_plane::Proxy, files: &RefCell<SecretFiles>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for refused in files.borrow_mut().look(proxy) {
            warn!(secret = %refused.name, "a secret's file cannot be used; the last good one stays: {}", refused.why);
        }
        proxy.look_at_files();
    }
}

/// Takes config from the control plane that the bootstrap names, for ever; where it names none, none comes.
async fn discover(proxy: &data_plane::Proxy, bootstrap: Bootstrap, kept: Option<&Kept>) {
    let Some(ads) = bootstrap.ads else { return std::future::pending().await };
    let node = xds::Node { user_agent: xds::USER_AGENT.to_owned(), ..bootstrap.node };
    let node = xds::Node { user_agent_version: env!("CARGO_PKG_VERSION").to_owned(), ..node };
    let session = xds::client::Session::new(node).speaking(ads.protocol).wanting(ads.everything.clone());
    let mut session = session.beside(&bootstrap.resources);
    if let Some(kept) = kept {
        session.restore(kept.last_good().carried(), |update| proxy.apply(update));
    }
    let link = foreign::link(proxy.dialer(), &ads);
    let span = info_span!("control-plane", cluster = %ads.cluster);
    let (_health, silent) = watch::channel(None);
    let apply = |update: Update| {
        let rejections = proxy.apply(update.clone());
        if let Some(kept) = kept {
            kept.note(&update, &rejections);
        }
        rejections
    };
    let _ = xds::grpc::run_client(link, session, silent, apply, memory::give_back).instrument(span).await;
}
