//! The metrics as OTLP, and the task that pushes them.
//!
//! [`requests`] makes the messages, cumulative since the process began, so a lost push loses nothing.
//! [`push_otlp`] is the thin shell: it pushes every so often, waits a bounded time for an answer, goes on when
//! nobody answers, and pushes once more as it ends. Names and attributes are those of [`crate::names`].
//!
//! Source: OpenTelemetry Protocol 1.x, metrics.

mod encode;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::Channel;

pub use encode::requests;

use crate::registry::Registry;

/// Edges per message: 8 KiB each as a rule and 40 KiB with every outcome there can be, so that a message stays
/// below gRPC's customary limit of 4 MiB.
pub const EDGES_PER_MESSAGE: usize = 64;
/// How long one push may take: a hub that is slower than this is as good as away, and the next push tells all.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last push may take; a proxy must not hang on its way out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Who tells: the resource of the export. Source: OpenTelemetry semantic conventions, "Service".
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ResourceAttributes {
    /// `service.name`: the workload's label `app`.
    pub service: String,
    /// `service.namespace`
    pub namespace: String,
    /// `service.instance.id`: the workload's name. Unique among the processes that run at one time.
    pub instance: String,
}

/// Pushes a registry to an OTLP receiver every `every`, until `shutdown` is ready; then once more.
///
/// `connect` makes the channel, and another one after each push that failed: a receiver that judges each call refuses
/// those over a connection whose certificate has ended by now, or is under a root that is gone.
///
/// Failures are counted in `meshwork_otlp_exports_failed_total`, and otherwise ignored: totals are cumulative, so
/// the next push that succeeds tells everything.
///
/// # Cancel safety
/// Dropping it stops the pushes without the last one.
pub async fn push_otlp(
    registry: Arc<Registry>,
    resource: ResourceAttributes,
    mut connect: impl FnMut() -> Channel,
    every: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let mut client = MetricsServiceClient::new(connect());
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            is_taken = push(&registry, &resource, &mut client, EXPORT_TIMEOUT) => if !is_taken {
                client = MetricsServiceClient::new(connect());
            },
        }
    }
    push(&registry, &resource, &mut client, FLUSH_TIMEOUT).await;
}

/// One push: every message of it, or as many as go through in time. Whether all did.
async fn push(
    registry: &Registry,
    resource: &ResourceAttributes,
    client: &mut MetricsServiceClient<Channel>,
    timeout: Duration,
) -> bool {
    let messages = requests(registry, resource, SystemTime::now());
    let send_all = async {
        for message in messages {
            client.export(message).await?;
        }
        Ok::<_, tonic::Status>(())
    };
    registry.own.exports.fetch_add(1, Relaxed);
    let is_taken = matches!(tokio::time::timeout(timeout, send_all).await, Ok(Ok(())));
    if !is_taken {
        registry.own.exports_failed.fetch_add(1, Relaxed);
    }
    is_taken
}

#[cfg(test)]
mod tests;
