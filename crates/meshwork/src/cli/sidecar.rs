//! `meshwork sidecar`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use meshwork_agent::bootstrap::Node;
use meshwork_agent::host::Socket;
use meshwork_agent::{Enrolled, channel};
use meshwork_capture::wire::FromSidecar;
use meshwork_data_plane::{self as data_plane, NodeLabels};
use meshwork_identity::IdentitySource;
use meshwork_model::mesh::GatewayNode;
use meshwork_model::proxy::Workload;
use meshwork_telemetry::{Registry, ResourceAttributes, push_otlp};
use meshwork_xds::grpc::{Denied, Ended};
use meshwork_xds::{self as xds, client::Health};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;
use tracing::{Instrument, error, info_span};

use super::captured::{Beside, Captured};
use super::probes::{Probed, Probes};
use super::serving::Serving;
use super::{runtime, workload};
use crate::kept::Kept;
use crate::{memory, signals};

/// Run the proxy of a workload
///
/// Enrols the workload, takes its config from the control plane and carries its traffic. Without the control plane it
/// goes on with what it has.
#[derive(clap::Args)]
pub(crate) struct Sidecar {
    #[command(flatten)]
    workload: workload::Workload,

    #[command(flatten)]
    serving: Serving,

    #[command(flatten)]
    probes: Probes,

    /// How often metrics are pushed to the control plane
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10s")]
    push_metrics: Duration,

    /// Offer the workload its identity on this socket, by SPIFFE's Workload API and Envoy's SDS: to programs of the user that
    /// the proxy runs as
    #[arg(long, value_name = "PATH")]
    workload_api: Option<PathBuf>,

    /// The number of the user whose programs get the identity, where it is another one
    #[arg(long, value_name = "UID", requires = "workload_api")]
    workload_api_user: Option<u32>,
}

/// How often files of certificates are looked at: a new one acts within it, and a look costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the control plane may take to know that we leave; past it, the lease ends by itself.
const LEAVE: Duration = Duration::from_secs(1);

impl Sidecar {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.run_as(None)
    }

    /// Runs as a gateway's node, where it is one.
    ///
    /// # Errors
    /// The workload cannot enrol, the proxy cannot start, or the control plane does not take it.
    pub(super) fn run_as(self, gateway: Option<GatewayNode>) -> anyhow::Result<()> {
        let mut folders = vec![self.workload.state().to_owned()];
        if let Some(socket) = self.offered() {
            socket.make_folder()?;
            folders.push(socket.folder().to_owned());
        }
        let sandbox = self.serving.close_in(folders, self.probes.programs(), [])?;
        runtime::on_this_thread(async {
            let enrolled = Arc::new(self.workload.enrol().await?);
            let node = Node { gateway, ..self.workload.node(&enrolled)? };
            Box::pin(self.serve(enrolled, node, sandbox)).await
        })
    }

    async fn serve(self, enrolled: Arc<Enrolled>, mut node: Node, sandbox: Arc<str>) -> anyhow::Result<()> {
        let registry = Registry::new(SystemTime::now());
        let (proxy, beside) = self.start(&enrolled, &mut node, &registry, sandbox)?;
        let (ending, ended) = oneshot::channel();
        let connect = {
            let enrolled = Arc::clone(&enrolled);
            move || channel(&enrolled.identity, enrolled.control_plane, &enrolled.server)
        };
        let channel = connect();
        // As long as that serves, one connection is enough for both.
        let mut shared = Some(channel.clone());
        let connect = move || shared.take().unwrap_or_else(&connect);
        let metrics = tokio::spawn(push(&registry, &node, connect, self.push_metrics, ended));
        let kept =
            Kept::within(self.workload.state(), &format!("{} by {}", node.id(), enrolled.identity.id()));
        let mut session = xds::client::Session::new(xds_node(&node));
        session.restore(kept.last_good().carried(), |update| proxy.apply(update));
        let mut signals = signals::Stop::listen()?;
        let (address, identity) = (enrolled.control_plane, Arc::clone(&enrolled.identity));
        let control_plane = info_span!("control-plane", %address);
        let apply = |update: xds::Update| {
            let rejections = proxy.apply(update.clone());
            kept.note(&update, &rejections);
            rejections
        };
        // Without a word of its own a workload counts as ready, or as probed.
        let (health, reports) = watch::channel(None);
        let discovery = xds::grpc::run_client(channel, session, reports, apply, memory::give_back);
        let mut discovery = pin!(discovery.instrument(control_plane));
        let offered = offer(self.offered(), self.workload_api_user, Arc::clone(&enrolled));
        let mut beside = pin!(run_beside(beside, self.probes, &proxy, &node, &health));
        tokio::select! {
            () = enrolled.keep_fresh(&node.name) => {}
            () = kept.write_on_change() => {}
            () = proxy.asked_to_quit() => {}
            ended = &mut discovery => if let Ended::Denied(denied) = ended {
                return Err(refusal(address, &identity, &denied));
            },
            failed = &mut beside => return failed.map(|never| match never {}),
            failed = offered => return failed.map(|never| match never {}),
            never = follow_files(&proxy) => match never {},
            () = signals.asked() => {
                // Before the drain, so that nobody is sent here while it lasts.
                health.send_replace(Some(Health::Leaving));
                drop(tokio::time::timeout(LEAVE, discovery).await);
            }
        }
        tokio::select! {
            drained = signals.drain(&proxy, self.serving.drain_time()) => drained?,
            failed = beside => return failed.map(|never| match never {}),
        }
        kept.flush()?;
        // The last push tells what the drain still carried.
        drop(ending);
        Ok(metrics.await?)
    }

    /// Where the workload gets its identity.
    fn offered(&self) -> Option<Socket> {
        let is_own = self.workload_api_user.is_none_or(|user| user == rustix::process::geteuid().as_raw());
        // Who is somebody else cannot connect otherwise; who it is, the kernel says.
        let mode = if is_own { 0o600 } else { 0o666 };
        self.workload_api.clone().map(|path| Socket { path, mode })
    }

    /// Starts the proxy with every socket that it will have, and completes what the node says of itself.
    fn start(
        &self,
        enrolled: &Enrolled,
        node: &mut Node,
        registry: &Arc<Registry>,
        sandbox: Arc<str>,
    ) -> anyhow::Result<(data_plane::Proxy, Option<Beside>)> {
        let captured = Captured::take()?;
        let mut options = self.serving.options(labels(node, enrolled), None, registry)?;
        options.about = data_plane::About { id: node.id(), cluster: node.cluster(), sandbox };
        options.workload_sockets = captured.as_ref().map(Captured::workload_sockets);
        let identity = Arc::clone(&enrolled.identity);
        let proxy = data_plane::Proxy::start(options, Some(identity), Arc::clone(registry))?;
        bind(&proxy, node)?;
        node.is_probed = self.probes.gate();
        let beside = captured.map(|captured| captured.hand_over(&proxy, node)).transpose()?;
        Ok((proxy, beside))
    }
}

/// Offers the workload its identity on a socket, for ever, where that is wanted.
async fn offer(
    socket: Option<Socket>,
    user: Option<u32>,
    enrolled: Arc<Enrolled>,
) -> anyhow::Result<Infallible> {
    if let Some(socket) = socket {
        let user = user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        meshwork_agent::host::serve_own(enrolled, &socket, user).await?;
    }
    std::future::pending().await
}

/// Follows the files of certificates that config names, for ever.
async fn follow_files(proxy: &data_plane::Proxy) -> Infallible {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        proxy.look_at_files();
    }
}

/// What goes on beside the proxy, for ever: probes, and what a workload in a network of its own needs.
async fn run_beside(
    beside: Option<Beside>,
    probes: Probes,
    proxy: &data_plane::Proxy,
    node: &Node,
    health: &watch::Sender<Option<Health>>,
) -> anyhow::Result<Infallible> {
    let Some(beside) = beside else {
        let unwell = |reason: &str| error!("the program is not alive: {reason}");
        match probes.run(Probed::Beside, health, unwell).await {}
    };
    let (program, supervisor) = (beside.program()?, beside.supervisor());
    let unwell = |reason: &str| {
        // A supervisor that is gone has ended the program already.
        let _ = supervisor.tell(&FromSidecar::Unwell { reason: reason.to_owned() });
    };
    tokio::select! {
        failed = beside.run(proxy, node) => failed,
        never = probes.run(program, health, unwell) => match never {},
    }
}

/// Denied from the start: trying again would not help.
fn refusal(control_plane: SocketAddr, identity: &IdentitySource, denied: &Denied) -> anyhow::Error {
    anyhow!("{denied}").context(format!(
        "the control plane at {control_plane} does not take this workload as {}; --workload must be the name in its \
         join token",
        identity.id()
    ))
}

/// Binds every port of the workload before it is reported: others learn of a port only when it takes connections.
fn bind(proxy: &data_plane::Proxy, node: &mut Node) -> anyhow::Result<()> {
    let inbound = node.inbound.iter_mut().map(|port| &mut port.bind);
    for address in inbound.chain(node.outbound.iter_mut().map(|port| &mut port.bind)) {
        *address = proxy.bind(*address).with_context(|| format!("cannot listen on {address}"))?;
    }
    Ok(())
}

fn labels(node: &Node, enrolled: &Enrolled) -> NodeLabels {
    let workload = Workload {
        name: node.name.as_str().into(),
        namespace: node.namespace.as_str().into(),
        app: label(node, "app").into(),
        version: label(node, "version").into(),
    };
    NodeLabels { workload, identity: Some(enrolled.identity.id().clone()), ..NodeLabels::default() }
}

/// Pushes metrics until `ended` does, and once more then.
fn push<C: FnMut() -> Channel + Send + 'static>(
    registry: &Arc<Registry>,
    node: &Node,
    connect: C,
    every: Duration,
    ended: oneshot::Receiver<()>,
) -> impl Future<Output = ()> + Send + use<C> {
    let resource = ResourceAttributes {
        service: label(node, "app"),
        namespace: node.namespace.clone(),
        instance: node.name.clone(),
    };
    push_otlp(Arc::clone(registry), resource, connect, every, async { drop(ended.await) })
}

fn xds_node(node: &Node) -> xds::Node {
    xds::Node {
        id: node.id(),
        cluster: node.cluster(),
        user_agent: "meshwork".to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        metadata: node.metadata(),
        ..xds::Node::default()
    }
}

fn label(node: &Node, key: &str) -> String {
    node.labels.get(key).cloned().unwrap_or_default()
}
