//! `meshwork proxy`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, bail};
use meshwork_data_plane as data_plane;
use meshwork_telemetry::{AccessLog, Registry};
use meshwork_xds::Update;
use meshwork_xds::bootstrap::{self, Bootstrap};

use super::{problems, runtime};
use crate::signals;

/// Run a proxy by an Envoy bootstrap file (v3, YAML or JSON, static resources)
#[derive(clap::Args)]
pub(crate) struct Proxy {
    /// The bootstrap file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// Worker threads; the number of cores, two at most, where it is left out
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
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
        runtime::on_this_thread(serve(bootstrap, self.workers))
    }
}

async fn serve(bootstrap: Bootstrap, workers: Option<usize>) -> anyhow::Result<()> {
    let options = data_plane::Options {
        workers: workers.unwrap_or_else(data_plane::default_workers),
        node: data_plane::NodeLabels::default(),
        admin: bootstrap.admin,
        access_log: AccessLog::off(),
    };
    let registry = Registry::new(SystemTime::now());
    let proxy = data_plane::Proxy::start(options, None, registry)?;
    let update = Update { upserts: bootstrap.resources, ..Update::default() };
    let refused: Vec<_> = proxy.apply(update).into_iter().map(|r| format!("{}: {}", r.name, r.why)).collect();
    if !refused.is_empty() {
        bail!("the config cannot be run: {}", refused.join("; "));
    }
    signals::stop().await?;
    proxy.drain(data_plane::DRAIN).await;
    Ok(())
}
