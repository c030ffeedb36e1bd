//! Receives OTLP metrics from the mesh's proxies, keeps a bounded window of them in memory, and answers which
//! workload calls which service, how much and how well.
//!
//! - [`Hub::service`] is the gRPC service that the proxies push to; any OTLP exporter may, and metrics that the
//!   hub does not know are taken and ignored.
//! - [`Hub::edges`] is the answer: one [`Edge`] per caller, service and called workload.
//! - [`Hub::ports`] tells what each workload's ports took by mTLS and without, and who called without.
//! - `window` is the core: pure, without a clock; every call is told what time it is.
//!
//! Names of metrics and attributes are those of the table in [`meshwork_telemetry::names`].
//!
//! **What the figures mean.** An edge is told by the caller's proxy (`reporter="source"`). What only the called
//! workload's proxy tells (its caller is outside the mesh, or reports no metrics) is told from there; and
//! refusals by policy are added from there, because a caller sees a 403 and cannot know whose it is.
//! Totals are the proxies' own, since each began, and go on across a proxy's restart.
//! Rates are over about [`RATE_WINDOW`], shares and quantiles over the hub's whole window, and over everything
//! known where the window holds no request.
//!
//! **What it does not do.** State is in memory only: when the control plane restarts, the totals come back with
//! the proxies' next push (what earlier runs of a restarted proxy had counted does not), the window starts empty.
//! Of a [`Sender`] it believes what concerns the sender's own namespace: its processes, what its workloads called and what
//! they were called for. Where there is none, whoever serves it decides who may report.

mod callers;
mod decode;
mod edge;
mod flow;
mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use tonic::{Request, Response, Status};

pub use callers::{
    CallerSource, FORGET_CALLERS_AFTER, MAX_CALLERS, MAX_PORTS, PlaintextCaller, PortCounts, PortKey,
    PortTraffic,
};
pub use edge::Edge;
use window::Window;
pub use window::{FORGET_AFTER, MAX_FLOWS, MAX_INSTANCES, MAX_OUTCOMES, RATE_WINDOW};

/// Where the mesh's telemetry arrives.
pub struct Hub {
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    window: Mutex<Window>,
}

/// The gRPC service of a hub, to be added to a server's routes.
pub type HubService = MetricsServiceServer<Receiver>;

/// The hub as an OTLP receiver.
pub struct Receiver(Arc<Hub>);

/// The namespace of whoever sends, where that is proven: an extension of requests. It may tell of that one alone; without
/// an extension the sender is believed to speak for everybody.
#[derive(Clone, Debug)]
pub struct Sender(pub Arc<str>);

impl Hub {
    /// Makes an empty hub that looks back over `window` (a minute is customary). `clock` tells when a push
    /// arrives: `Instant::now`.
    pub fn new(window: Duration, clock: impl Fn() -> Instant + Send + Sync + 'static) -> Arc<Self> {
        let now = clock();
        Arc::new(Self { clock: Box::new(clock), window: Mutex::new(Window::new(window, now)) })
    }

    /// The gRPC service that takes OTLP metrics.
    pub fn service(self: &Arc<Self>) -> HubService {
        MetricsServiceServer::new(Receiver(self.clone()))
    }

    /// Takes in one push, and says how many of its points had no room.
    pub fn ingest(&self, export: &ExportMetricsServiceRequest) -> u64 {
        self.ingest_from(export, None)
    }

    fn ingest_from(&self, export: &ExportMetricsServiceRequest, sender: Option<&Sender>) -> u64 {
        let (now, speaks_for) = ((self.clock)(), sender.map(|sender| &*sender.0));
        self.window().ingest(export, speaks_for, now)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every edge on which there was a request, ordered by caller, service and called workload.
    pub fn edges(&self, now: Instant) -> Vec<Edge> {
        self.window().edges(now)
    }

    /// What every port of every workload took within a time, by mTLS and without, and who called without.
    pub fn ports(&self, now: Instant, within: Duration) -> Vec<PortTraffic> {
        self.window().callers.ports(now, within)
    }

    /// Since when the hub listens: it remembers nothing from before.
    pub fn began(&self) -> Instant {
        self.window().callers.began()
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let rejected = self.0.ingest_from(request.get_ref(), request.extensions().get());
        let partial_success = (rejected > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: i64::try_from(rejected).unwrap_or(i64::MAX),
            error_message:
                "the hub is at its limit of reporters, edges or outcomes, or they are of a namespace that \
                            is not the sender's"
                    .into(),
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

#[cfg(test)]
mod tests;
