//! `meshwork sidecar`.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use meshwork_agent::bootstrap::Node;
use meshwork_agent::{Enrolled, channel};
use meshwork_data_plane::{self as data_plane, NodeLabels};
use meshwork_identity::IdentitySource;
use meshwork_model::proxy::Workload;
use meshwork_telemetry::{Registry, ResourceAttributes, push_otlp};
use meshwork_xds::grpc::{Denied, Ended};
use meshwork_xds::{self as xds, client::Health};
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;
use tracing::{Instrument, info_span};

use super::serving::Serving;
use super::{runtime, workload};
use crate::{memory, secrecy, signals};

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

    /// How often metrics are pushed to the control plane
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10s")]
    push_metrics: Duration,
}

/// How long the control plane may take to know that we leave; past it, the lease ends by itself.
const LEAVE: Duration = Duration::from_secs(1);

impl Sidecar {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        runtime::on_this_thread(async {
            let enrolled = self.workload.enrol().await?;
            let node = self.workload.node(&enrolled)?;
            self.serve(enrolled, node).await
        })
    }

    async fn serve(self, enrolled: Enrolled, mut node: Node) -> anyhow::Result<()> {
        let registry = Registry::new(SystemTime::now());
        let options = self.serving.options(labels(&node, &enrolled), None, &registry)?;
        let identity = Arc::clone(&enrolled.identity);
        let proxy = data_plane::Proxy::start(options, Some(identity), Arc::clone(&registry))?;
        bind(&proxy, &mut node)?;
        let channel = channel(&enrolled.identity, enrolled.control_plane, &enrolled.server);
        let (ending, ended) = oneshot::channel();
        let metrics = tokio::spawn(push(&registry, &node, channel.clone(), self.push_metrics, ended));
        let session = xds::client::Session::new(xds_node(&node));
        let mut signals = signals::Stop::listen()?;
        let (address, identity) = (enrolled.control_plane, Arc::clone(&enrolled.identity));
        let control_plane = info_span!("control-plane", %address);
        let apply = |update| proxy.apply(update);
        // Without a word of its own a workload counts as ready, or as probed.
        let (health, reports) = watch::channel(None);
        let discovery = xds::grpc::run_client(channel, session, reports, apply, memory::give_back);
        let mut discovery = pin!(discovery.instrument(control_plane));
        tokio::select! {
            () = enrolled.keep_fresh() => {}
            ended = &mut discovery => if let Ended::Denied(denied) = ended {
                return Err(refusal(address, &identity, &denied));
            },
            () = signals.asked() => {
                // Before the drain, so that nobody is sent here while it lasts.
                health.send_replace(Some(Health::Leaving));
                drop(tokio::time::timeout(LEAVE, discovery).await);
            }
        }
        signals.drain(&proxy, self.serving.drain_time()).await?;
        // The last push tells what the drain still carried.
        drop(ending);
        Ok(metrics.await?)
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
    NodeLabels { workload, identity: Some(enrolled.identity.id().clone()) }
}

/// Pushes metrics until `ended` does, and once more then.
fn push(
    registry: &Arc<Registry>,
    node: &Node,
    channel: Channel,
    every: Duration,
    ended: oneshot::Receiver<()>,
) -> impl Future<Output = ()> + use<> {
    let resource = ResourceAttributes {
        service: label(node, "app"),
        namespace: node.namespace.clone(),
        instance: node.name.clone(),
    };
    push_otlp(Arc::clone(registry), resource, channel, every, async { drop(ended.await) })
}

fn xds_node(node: &Node) -> xds::Node {
    xds::Node {
        id: node.id(),
        cluster: node.cluster(),
        user_agent: "meshwork".to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        metadata: node.metadata(),
    }
}

fn label(node: &Node, key: &str) -> String {
    node.labels.get(key).cloned().unwrap_or_default()
}
