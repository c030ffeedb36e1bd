//! A sidecar whose workload has a network of its own: the sockets that it inherits from there, the names that it answers
//! for, and what it tells its supervisor.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use meshwork_agent::bootstrap::Node;
use meshwork_capture::{Inherited, Stock, Supervisor, dns, refused};
use meshwork_data_plane::{Proxy, WorkloadNetwork, WorkloadSockets};
use meshwork_model::mesh::Capture;
use meshwork_model::proxy::{NameTable, ZONE};
use tracing::info;

use super::probes::{Commands, Probed};

/// How often is looked whether the proxy has its config; it has it within a second, once.
const LOOK: Duration = Duration::from_millis(10);

/// What was inherited, until it is at its place.
pub(super) struct Captured {
    inherited: Inherited,
    sockets: Arc<dyn WorkloadSockets>,
}

/// What goes on beside the proxy.
pub(super) struct Beside {
    names: dns::Sockets,
    refused: Option<OwnedFd>,
    supervisor: Arc<Supervisor>,
    network: WorkloadNetwork,
}

impl Captured {
    /// What a supervisor left for this process; `None` where none did.
    ///
    /// # Errors
    /// What it left is not there.
    pub(super) fn take() -> anyhow::Result<Option<Self>> {
        let inherited =
            Inherited::take().context("cannot take over the sockets of the workload's network")?;
        Ok(inherited.map(|inherited| Self { sockets: Arc::new(Shelf(inherited.stock.clone())), inherited }))
    }

    /// Where the proxy gets the sockets for its connections to the program.
    pub(super) fn workload_sockets(&self) -> Arc<dyn WorkloadSockets> {
        Arc::clone(&self.sockets)
    }

    /// Hands the proxy the sockets on which the program's connections arrive, and notes where these are.
    ///
    /// # Errors
    /// The proxy cannot use them.
    pub(super) fn hand_over(self, proxy: &Proxy, node: &mut Node) -> anyhow::Result<Beside> {
        let Inherited { outbound, names_udp, names_tcp, refused, supervisor, .. } = self.inherited;
        let names = names_udp.first().map(|(address, _)| *address).context("no socket takes DNS queries")?;
        let mut capture = Capture { outbound: Vec::new(), names };
        for (address, sockets) in outbound {
            proxy.adopt(address, sockets).with_context(|| format!("cannot listen on {address}"))?;
            capture.outbound.push(address);
        }
        node.capture = Some(capture);
        let names = dns::Sockets {
            udp: names_udp.into_iter().map(|(_, socket)| socket).collect(),
            tcp: names_tcp.into_iter().map(|(_, socket)| socket).collect(),
        };
        let network = WorkloadNetwork::new(self.sockets);
        Ok(Beside { names, refused, supervisor: Arc::new(supervisor), network })
    }
}

impl Beside {
    /// Where the program is, for those who ask whether it is well.
    ///
    /// # Errors
    /// The supervisor cannot be heard.
    pub(super) fn program(&self) -> anyhow::Result<Probed> {
        let commands = Commands::of_supervisor(Arc::clone(&self.supervisor));
        Ok(Probed::Captured(self.network.clone(), commands.context("cannot hear the supervisor")?))
    }

    /// Has the program ended, as one that is not alive.
    pub(super) fn supervisor(&self) -> Arc<Supervisor> {
        Arc::clone(&self.supervisor)
    }

    /// Answers for names, tells of what leads nowhere, and lets the program start once the proxy is ready for it.
    ///
    /// # Errors
    /// A socket of the workload's network is of no use.
    pub(super) async fn run(self, proxy: &Proxy, node: &Node) -> anyhow::Result<Infallible> {
        let table = proxy.names();
        let names = dns::serve(self.names, move || table.load_full(), dns::Options::default());
        tokio::select! {
            failed = names => failed.context("cannot answer DNS queries"),
            failed = tell_refused(self.refused) => failed.context("cannot tell of what leads nowhere"),
            failed = tell_ready(&self.supervisor, proxy, node) => failed.context("the supervisor is gone"),
        }
    }
}

async fn tell_refused(socket: Option<OwnedFd>) -> io::Result<Infallible> {
    match socket {
        Some(socket) => refused::report(socket).await,
        // The kernel gave none; it was told at the start.
        None => std::future::pending().await,
    }
}

/// Tells the supervisor when the proxy is ready, and then nothing more.
async fn tell_ready(supervisor: &Supervisor, proxy: &Proxy, node: &Node) -> io::Result<Infallible> {
    let names = proxy.names();
    let addresses = loop {
        match names.load_full() {
            Some(table) if proxy.ready() => break own_addresses(&table, node),
            _ => tokio::time::sleep(LOOK).await,
        }
    };
    info!(?addresses, "ready: the program may start");
    supervisor.ready(&addresses)?;
    std::future::pending().await
}

/// The addresses that the control plane has given to this very workload, under the name of its own.
fn own_addresses(table: &NameTable, node: &Node) -> Vec<IpAddr> {
    let name = format!("{}.{}.pod.{ZONE}", node.name, node.namespace);
    table.names.get(name.as_str()).cloned().unwrap_or_default()
}

/// The stock as the proxy knows it.
#[derive(Debug)]
struct Shelf(Stock);

impl WorkloadSockets for Shelf {
    fn take(&self, v6: bool) -> io::Result<Option<socket2::Socket>> {
        self.0.take(v6)
    }

    fn readable(&self, v6: bool) -> BorrowedFd<'_> {
        self.0.readable(v6)
    }
}
