//! The arguments of everything that enrols a workload: sidecars and foreign data planes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use meshwork_agent::bootstrap::Node;
use meshwork_agent::{Enrolled, Enrolment, enrol};

use super::binds::{InboundArgument, OutboundArgument};
use super::output;
use crate::signals;

/// Where a program enrols, whom it believes there, and by what it is let in.
#[derive(clap::Args)]
pub(super) struct Joining {
    /// Where the control plane listens for proxies
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15012")]
    control_plane: SocketAddr,

    /// The mesh's trust bundle (PEM); the control plane names its file when it starts
    #[arg(long, value_name = "FILE")]
    trust_bundle: PathBuf,

    /// A file with a join token; needed the first time only
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// How long certificates should live, 10s at least; they live for no longer than the control plane lets them, which
    /// decides where it is left out
    #[arg(long, value_name = "DURATION", value_parser = super::lifetimes::wish)]
    svid_lifetime: Option<Duration>,
}

impl Joining {
    /// How to enrol with a folder of state.
    ///
    /// # Errors
    /// The token file cannot be read.
    pub(super) fn enrolment(&self, state: &Path) -> anyhow::Result<Enrolment> {
        Ok(Enrolment {
            control_plane: self.control_plane,
            trust_bundle: self.trust_bundle.clone(),
            token: token(self.token_file.as_deref())?,
            state: state.to_owned(),
            lifetime: self.svid_lifetime,
        })
    }
}

/// Who a workload is, how it proves that, and where its ports are.
#[derive(clap::Args)]
pub(crate) struct Workload {
    #[command(flatten)]
    joining: Joining,

    /// The folder that keeps this workload's key and certificate; one per workload
    #[arg(long, value_name = "DIR")]
    state: PathBuf,

    /// The workload's name, the same as in its join token
    #[arg(long = "workload", value_name = "NAME")]
    name: String,

    /// A port that the workload serves, as PORT[/PROTOCOL]=BIND>APPLICATION: services' target port, what is spoken on it
    /// where no Service says so, where the proxy listens for it, where the application listens; may be repeated
    #[arg(long = "inbound", value_name = "PORT=BIND>APP")]
    inbound: Vec<InboundArgument>,

    /// A service port that the workload calls, as SERVICE.NAMESPACE:PORT=BIND: where the proxy listens for the
    /// application; may be repeated
    #[arg(long = "outbound", value_name = "SERVICE.NS:PORT=BIND")]
    outbound: Vec<OutboundArgument>,

    /// A label of the workload for its telemetry, as KEY=VALUE (app, version); discovery goes by the join token's;
    /// may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::label)]
    labels: Vec<(String, String)>,
}

impl Workload {
    /// The folder that keeps what outlives the process; it is locked once the workload is enrolled.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Enrols: with the certificate on disk where it is valid, else with the token.
    ///
    /// # Errors
    /// The token file cannot be read, or the enrolment failed.
    pub(crate) async fn enrol(&self) -> anyhow::Result<Enrolled> {
        let enrolment = self.joining.enrolment(&self.state)?;
        let missing = self.joining.token_file.as_ref().filter(|_| enrolment.token.is_none());
        let enrolled = enrol(&enrolment).await;
        match missing {
            Some(path) => enrolled.with_context(|| format!("there is no token file {}", path.display())),
            None => Ok(enrolled?),
        }
    }

    /// The workload as it describes itself to the control plane, once it knows who it is.
    ///
    /// # Errors
    /// The identity has not the mesh's form.
    pub(crate) fn node(&self, enrolled: &Enrolled) -> anyhow::Result<Node> {
        let id = enrolled.identity.id();
        let (namespace, service_account) = id.namespace_and_account().with_context(|| {
            format!("{id} is not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<account>")
        })?;
        Ok(Node {
            name: self.name.clone(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            labels: self.labels.iter().cloned().collect(),
            inbound: self.inbound.iter().map(|a| a.0.clone()).collect(),
            outbound: self.outbound.iter().map(|a| a.0.clone()).collect(),
            capture: None,
            gateway: None,
            is_probed: false,
        })
    }
}

/// The token in a file; `None` where there is no such file: a token is spent once, and a workload that has its certificate
/// starts without it.
///
/// # Errors
/// The file cannot be read.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = file else { return Ok(None) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the token in {}", path.display())),
    }
}

/// Prints a foreign data plane's bootstrap, and keeps certificate and files fresh until the process is asked to end;
/// with `once`, not at all.
///
/// # Errors
/// Signals cannot be handled.
pub(crate) async fn keep(
    enrolled: Enrolled,
    workload: &str,
    bootstrap: &Path,
    once: bool,
    fresh_files: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    output::line(bootstrap.display());
    if once {
        return Ok(());
    }
    tokio::select! {
        () = enrolled.keep_fresh(workload) => {}
        () = fresh_files => {}
        stopped = signals::stop() => stopped?,
    }
    Ok(())
}
