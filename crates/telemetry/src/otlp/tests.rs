use super::*;
use std::future::{pending, ready};
use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Endpoint;

use crate::edge::{EdgeKey, Protocol};
use crate::names;
use crate::shard::Request;

fn busy(edges: usize) -> Arc<Registry> {
    let registry = Registry::new(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    let shard = registry.shard();
    for i in 0..edges {
        let id = shard.edge(&EdgeKey { source_principal: format!("p{i}").into(), ..EdgeKey::default() });
        let duration = Duration::from_millis(20);
        shard.record_request(id, &Request { status: 200, duration, ..Request::default() });
    }
    registry
}

fn metrics(message: &ExportMetricsServiceRequest) -> &[Metric] {
    &message.resource_metrics[0].scope_metrics[0].metrics
}

fn messages(registry: &Registry) -> Vec<ExportMetricsServiceRequest> {
    requests(registry, &ResourceAttributes::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(9))
}

#[test]
fn points_are_cumulative_since_the_start() {
    let messages = messages(&busy(1));
    let find =
        |name: names::Metric| metrics(&messages[0]).iter().find(|m| m.name == name.otlp).expect("is told");
    let Some(Data::Sum(sum)) = &find(names::REQUESTS).data else { unreachable!("a sum") };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality, 2, "cumulative");
    let point = &sum.data_points[0];
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5_000_000_000, 9_000_000_000));
    assert!(point.attributes.iter().any(|a| a.key == names::RESPONSE_CODE));
    let Some(Data::Histogram(histogram)) = &find(names::REQUEST_DURATION).data else {
        unreachable!("histogram")
    };
    let point = &histogram.data_points[0];
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!((point.count, point.sum), (1, Some(20.0)));
    let bucket = point.bucket_counts.iter().position(|n| *n == 1).expect("one is counted");
    assert!((point.explicit_bounds[bucket] - 20.0).abs() < 1e-9, "in milliseconds, closed above");
}

#[test]
fn many_edges_travel_in_several_messages() {
    for (edges, expected) in [(0, 1), (1, 1), (EDGES_PER_MESSAGE, 1), (EDGES_PER_MESSAGE + 1, 2)] {
        let messages = messages(&busy(edges));
        assert_eq!(messages.len(), expected, "{edges} edges");
        assert!(metrics(&messages[0]).iter().any(|m| m.name == names::EXPORTS.otlp));
    }
}

#[test]
fn a_message_stays_below_grpcs_limit() {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let shard = registry.shard();
    for i in 0..EDGES_PER_MESSAGE {
        let protocol = Protocol::Grpc;
        let principal = format!("spiffe://mesh.local/ns/{}/sa/{i}", "n".repeat(63));
        let id = shard.edge(&EdgeKey { source_principal: principal.into(), protocol, ..EdgeKey::default() });
        for grpc_status in 0..60 {
            let request = Request { status: 200, grpc_status: Some(grpc_status), ..Request::default() };
            shard.record_request(id, &request);
        }
    }
    let bytes = messages(&registry)[0].encoded_len();
    assert!(bytes < 4 << 20, "{bytes} bytes");
}

/// A receiver that keeps what it got.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<ExportMetricsServiceRequest>>>);

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Kept {
    fn serve(&self, listener: TcpListener) {
        let service = MetricsServiceServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn channel(listener: &TcpListener) -> Channel {
    let address = listener.local_addr().expect("bound");
    Endpoint::from_shared(format!("http://{address}")).expect("a URI").connect_lazy()
}

async fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback")
}

#[tokio::test]
async fn shutdown_pushes_once_more() {
    let (kept, listener) = (Kept::default(), loopback().await);
    let channel = channel(&listener);
    kept.serve(listener);
    let every = Duration::from_hours(1);
    push_otlp(busy(1), ResourceAttributes::default(), move || channel.clone(), every, ready(())).await;
    assert_eq!(kept.len(), 1);
}

#[tokio::test]
async fn pushes_begin_to_succeed_when_the_receiver_comes() {
    let listener = loopback().await;
    let (address, channel) = (listener.local_addr().expect("bound"), channel(&listener));
    drop(listener);
    let registry = busy(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let every = Duration::from_millis(10);
    let stopped = async { drop(stopped.await) };
    let task =
        push_otlp(registry.clone(), ResourceAttributes::default(), move || channel.clone(), every, stopped);
    let task = tokio::spawn(task);
    let failed = || registry.own.exports_failed.load(Relaxed);
    tokio::time::timeout(Duration::from_secs(20), async {
        while failed() == 0 {
            tokio::task::yield_now().await;
        }
        let kept = Kept::default();
        kept.serve(TcpListener::bind(address).await.expect("the port is free again"));
        while kept.len() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the push goes through in time");
    drop(stop);
    task.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_holds_nothing_up() {
    let listener = loopback().await;
    let channel = channel(&listener);
    let registry = busy(1);
    let every = Duration::from_secs(10);
    let push =
        push_otlp(registry.clone(), ResourceAttributes::default(), move || channel.clone(), every, pending());
    let _ = tokio::time::timeout(Duration::from_mins(1), push).await;
    assert!(registry.own.exports_failed.load(Relaxed) >= 2);
}

#[tokio::test]
async fn what_failed_is_pushed_over_another_connection() {
    let (closed, open) = (loopback().await, loopback().await);
    let (mut first, second) = (Some(channel(&closed)), channel(&open));
    drop(closed);
    let kept = Kept::default();
    kept.serve(open);
    let connect = move || first.take().unwrap_or_else(|| second.clone());
    let every = Duration::from_millis(10);
    let push = push_otlp(busy(1), ResourceAttributes::default(), connect, every, pending());
    let is_there = async {
        while kept.len() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let either = async {
        tokio::select! {
            () = push => {}
            () = is_there => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(20), either).await.expect("the push goes through in time");
}
