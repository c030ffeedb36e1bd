//! `meshwork envoy-bootstrap`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use meshwork_agent::bootstrap;

use super::{runtime, workload};
use crate::secrecy;

/// Let an Envoy join the mesh as a workload's proxy
///
/// Enrols the workload, writes Envoy's bootstrap and its secrets into a folder, prints the bootstrap's path, and keeps
/// the secrets fresh until it is stopped. Envoy reloads them by itself.
#[derive(clap::Args)]
#[command(after_help = "Then: envoy -c DIR/bootstrap.yaml")]
pub(crate) struct EnvoyBootstrap {
    #[command(flatten)]
    workload: workload::Workload,

    /// The folder to write to; it will hold a private key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Where Envoy's admin interface listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,

    /// Write the files and end, without keeping them fresh
    #[arg(long)]
    once: bool,
}

impl EnvoyBootstrap {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        runtime::on_this_thread(async {
            let enrolled = self.workload.enrol().await?;
            let bootstrap = bootstrap::EnvoyBootstrap {
                node: self.workload.node(&enrolled)?,
                control_plane: enrolled.control_plane,
                server: enrolled.server.clone(),
                admin: self.admin,
            };
            let path = bootstrap.write(&self.out, &enrolled.identity)?;
            let identity = Arc::clone(&enrolled.identity);
            let fresh = bootstrap.keep_fresh(&self.out, &identity);
            workload::keep(enrolled, &bootstrap.node.name, &path, self.once, fresh).await
        })
    }
}
