//! `meshwork grpc-bootstrap`.

use std::path::PathBuf;
use std::sync::Arc;

use meshwork_agent::bootstrap;

use super::{runtime, workload};
use crate::secrecy;

/// Let a gRPC program join the mesh without a proxy
///
/// Enrols the workload, writes gRPC's xDS bootstrap with certificate, key and trust bundle into a folder, prints the
/// bootstrap's path, and keeps the files fresh until it is stopped. gRPC reads them again by itself.
#[derive(clap::Args)]
#[command(after_help = "Then: GRPC_XDS_BOOTSTRAP=DIR/bootstrap.json, and call xds:///payments.shop:50051")]
pub(crate) struct GrpcBootstrap {
    #[command(flatten)]
    workload: workload::Workload,

    /// The folder to write to; it will hold a private key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Write the files and end, without keeping them fresh
    #[arg(long)]
    once: bool,
}

impl GrpcBootstrap {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        runtime::on_this_thread(async {
            let enrolled = self.workload.enrol().await?;
            let bootstrap = bootstrap::GrpcBootstrap {
                node: self.workload.node(&enrolled)?,
                control_plane: enrolled.control_plane,
            };
            let path = bootstrap.write(&self.out, &enrolled.identity)?;
            let identity = Arc::clone(&enrolled.identity);
            let fresh = bootstrap.keep_fresh(&self.out, &identity);
            workload::keep(enrolled, &bootstrap.node.name, &path, self.once, fresh).await
        })
    }
}
